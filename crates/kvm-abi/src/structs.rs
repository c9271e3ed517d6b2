//! Structures of the interface, with the kernel's layout (kvm-arm64-abi.md §1.6), and their bytes.
//!
//! Flat: what is a union or a nested structure in the header is here the fields that arm64 uses. The shapes of
//! `kvm-bindings` are in the crate `ulna-kvm`.

/// A type with a fixed little-endian encoding.
pub trait Wire: Sized {
    /// Bytes it takes.
    const SIZE: usize;
    /// From the first [`Wire::SIZE`] bytes; what is missing counts as zero.
    fn from_bytes(b: &[u8]) -> Self;
    /// Into the first [`Wire::SIZE`] bytes; what does not fit is left out.
    fn to_bytes(&self, b: &mut [u8]);
}

macro_rules! wire_int {
    ($($t:ty)*) => {
        $(impl Wire for $t {
            const SIZE: usize = size_of::<$t>();
            fn from_bytes(b: &[u8]) -> $t {
                let mut v = [0; size_of::<$t>()];
                let n = b.len().min(v.len());
                v[..n].copy_from_slice(&b[..n]);
                <$t>::from_le_bytes(v)
            }
            fn to_bytes(&self, b: &mut [u8]) {
                let v = self.to_le_bytes();
                let n = b.len().min(v.len());
                b[..n].copy_from_slice(&v[..n]);
            }
        })*
    };
}

wire_int! { u8 u16 i16 u32 i32 u64 }

impl<T: Wire + Copy + Default, const N: usize> Wire for [T; N] {
    const SIZE: usize = T::SIZE * N;
    fn from_bytes(b: &[u8]) -> [T; N] {
        core::array::from_fn(|i| b.get(i * T::SIZE..).map_or_else(T::default, T::from_bytes))
    }
    fn to_bytes(&self, b: &mut [u8]) {
        for (v, b) in self.iter().zip(b.chunks_mut(T::SIZE)) {
            v.to_bytes(b);
        }
    }
}

macro_rules! structs {
    ($($(#[$m:meta])* $kernel:literal $name:ident $size:literal { $($(#[$fm:meta])* $field:ident: $t:ty = $at:literal,)* })*) => {
        $(
            $(#[$m])*
            #[doc = concat!("struct ", $kernel, ".")]
            #[repr(C)]
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct $name {
                $($(#[$fm])* #[doc = concat!("`", stringify!($field), "`.")] pub $field: $t,)*
            }

            impl Wire for $name {
                const SIZE: usize = $size;
                fn from_bytes(b: &[u8]) -> $name {
                    $name { $($field: Wire::from_bytes(b.get($at..).unwrap_or(&[])),)* }
                }
                fn to_bytes(&self, b: &mut [u8]) {
                    $(if let Some(b) = b.get_mut($at..) { self.$field.to_bytes(b); })*
                }
            }

            impl Default for $name {
                fn default() -> $name {
                    $name::from_bytes(&[])
                }
            }
        )*

        /// Every structure: its name in the header, size, and fields with offset and size.
        pub const LAYOUTS: &[(&str, usize, &[(&str, usize, usize)])] = &[
            $(($kernel, $size, &[$((stringify!($field), $at, size_of::<$t>()),)*]),)*
        ];

        #[cfg(test)]
        mod layout {
            use super::*;
            use core::mem::{offset_of, size_of};

            #[test]
            fn sizes_and_offsets_are_those_of_the_kernel() {
                $(
                    assert_eq!(size_of::<$name>(), $size, $kernel);
                    $(assert_eq!(offset_of!($name, $field), $at, concat!($kernel, ".", stringify!($field)));)*
                )*
            }

            #[test]
            fn bytes_and_structures_are_the_same() {
                $({
                    let mut bytes = [0u8; $size];
                    $(for i in $at..$at + size_of::<$t>() { bytes[i] = i as u8 ^ 0xa5; })*
                    let mut back = [0u8; $size];
                    $name::from_bytes(&bytes).to_bytes(&mut back);
                    assert_eq!(bytes, back, $kernel);
                    assert_eq!($name::from_bytes(&[]), $name::default());
                })*
            }
        }
    };
}

structs! {
    "kvm_userspace_memory_region" UserspaceMemoryRegion 32 {
        slot: u32 = 0,
        flags: u32 = 4,
        guest_phys_addr: u64 = 8,
        memory_size: u64 = 16,
        userspace_addr: u64 = 24,
    }
    "kvm_userspace_memory_region2" UserspaceMemoryRegion2 160 {
        slot: u32 = 0,
        flags: u32 = 4,
        guest_phys_addr: u64 = 8,
        memory_size: u64 = 16,
        userspace_addr: u64 = 24,
        guest_memfd_offset: u64 = 32,
        guest_memfd: u32 = 40,
        pad1: u32 = 44,
        pad2: [u64; 14] = 48,
    }
    "kvm_irq_level" IrqLevel 8 {
        irq: u32 = 0,
        level: u32 = 4,
    }
    "kvm_dirty_log" DirtyLog 16 {
        slot: u32 = 0,
        padding: u32 = 4,
        dirty_bitmap: u64 = 8,
    }
    "kvm_clear_dirty_log" ClearDirtyLog 24 {
        slot: u32 = 0,
        num_pages: u32 = 4,
        first_page: u64 = 8,
        dirty_bitmap: u64 = 16,
    }
    "kvm_dirty_gfn" DirtyGfn 16 {
        /// 1 dirty, 2 reset.
        flags: u32 = 0,
        slot: u32 = 4,
        offset: u64 = 8,
    }
    "kvm_coalesced_mmio_zone" CoalescedMmioZone 16 {
        addr: u64 = 0,
        size: u32 = 8,
        pio: u32 = 12,
    }
    "kvm_irqfd" IrqFd 32 {
        fd: u32 = 0,
        gsi: u32 = 4,
        /// 1 deassign, 2 resample.
        flags: u32 = 8,
        resamplefd: u32 = 12,
        pad: [u8; 16] = 16,
    }
    "kvm_ioeventfd" IoEventFd 64 {
        datamatch: u64 = 0,
        addr: u64 = 8,
        len: u32 = 16,
        fd: i32 = 20,
        /// 1 datamatch, 2 PIO, 4 deassign, 8 s390 notify.
        flags: u32 = 24,
        pad: [u8; 36] = 28,
    }
    "kvm_irq_routing" IrqRouting 8 {
        nr: u32 = 0,
        flags: u32 = 4,
    }
    "kvm_enable_cap" EnableCap 104 {
        cap: u32 = 0,
        flags: u32 = 4,
        args: [u64; 4] = 8,
        pad: [u8; 64] = 40,
    }
    "kvm_reg_list" RegListHead 8 {
        n: u64 = 0,
    }
    "kvm_signal_mask" SignalMask 4 {
        len: u32 = 0,
    }
    "kvm_stats_desc" StatsDesc 16 {
        flags: u32 = 0,
        exponent: i16 = 4,
        size: u16 = 6,
        offset: u32 = 8,
        bucket_size: u32 = 12,
    }
    "kvm_coalesced_mmio" CoalescedMmio 24 {
        phys_addr: u64 = 0,
        len: u32 = 8,
        pio: u32 = 12,
        data: [u8; 8] = 16,
    }
    "kvm_msi" Msi 32 {
        address_lo: u32 = 0,
        address_hi: u32 = 4,
        data: u32 = 8,
        /// 1: `devid` is valid.
        flags: u32 = 12,
        devid: u32 = 16,
        pad: [u8; 12] = 20,
    }
    "kvm_irq_routing_entry" IrqRoutingEntry 48 {
        gsi: u32 = 0,
        /// 1 irqchip, 2 MSI.
        kind: u32 = 4,
        flags: u32 = 8,
        pad: u32 = 12,
        /// irqchip, pin; or address low, high, data, devid.
        u: [u32; 8] = 16,
    }
    "kvm_create_device" CreateDevice 12 {
        type_: u32 = 0,
        fd: u32 = 4,
        flags: u32 = 8,
    }
    "kvm_device_attr" DeviceAttr 24 {
        flags: u32 = 0,
        group: u32 = 4,
        attr: u64 = 8,
        addr: u64 = 16,
    }
    "kvm_arm_device_addr" ArmDeviceAddr 16 {
        id: u64 = 0,
        addr: u64 = 8,
    }
    "kvm_vcpu_init" VcpuInit 32 {
        /// KVM_ARM_TARGET_*.
        target: u32 = 0,
        /// Feature bits.
        features: [u32; 7] = 4,
    }
    "kvm_one_reg" OneReg 16 {
        id: u64 = 0,
        addr: u64 = 8,
    }
    "kvm_mp_state" MpState 4 {
        mp_state: u32 = 0,
    }
    "kvm_guest_debug" GuestDebug 520 {
        control: u32 = 0,
        pad: u32 = 4,
        dbg_bcr: [u64; 16] = 8,
        dbg_bvr: [u64; 16] = 136,
        dbg_wcr: [u64; 16] = 264,
        dbg_wvr: [u64; 16] = 392,
    }
    "kvm_vcpu_events" VcpuEvents 64 {
        serror_pending: u8 = 0,
        serror_has_esr: u8 = 1,
        ext_dabt_pending: u8 = 2,
        pad: [u8; 5] = 3,
        serror_esr: u64 = 8,
        reserved: [u32; 12] = 16,
    }
    "kvm_arm_copy_mte_tags" ArmCopyMteTags 48 {
        guest_ipa: u64 = 0,
        length: u64 = 8,
        addr: u64 = 16,
        flags: u64 = 24,
        reserved: [u64; 2] = 32,
    }
    "kvm_arm_counter_offset" ArmCounterOffset 16 {
        counter_offset: u64 = 0,
        reserved: u64 = 8,
    }
    "reg_mask_range" RegMaskRange 64 {
        addr: u64 = 0,
        range: u32 = 8,
        reserved: [u32; 13] = 12,
    }
    "kvm_smccc_filter" SmcccFilter 24 {
        base: u32 = 0,
        nr_functions: u32 = 4,
        /// 0 handle, 1 deny, 2 forward.
        action: u8 = 8,
        pad: [u8; 15] = 9,
    }
    "kvm_pmu_event_filter" PmuEventFilter 8 {
        base_event: u16 = 0,
        nevents: u16 = 2,
        /// 0 allow, 1 deny.
        action: u8 = 4,
        pad: [u8; 3] = 5,
    }
    "kvm_stats_header" StatsHeader 24 {
        flags: u32 = 0,
        name_size: u32 = 4,
        num_desc: u32 = 8,
        id_offset: u32 = 12,
        desc_offset: u32 = 16,
        data_offset: u32 = 20,
    }
}
