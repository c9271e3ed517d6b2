//! Structures of the interface, with the kernel's layout (kvm-arm64-abi.md §1.6).

macro_rules! structs {
    ($($(#[$m:meta])* $kernel:literal $name:ident $size:literal { $($(#[$fm:meta])* $field:ident: $t:ty = $at:literal,)* })*) => {
        $(
            $(#[$m])*
            #[doc = concat!("struct ", $kernel, ".")]
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            pub struct $name {
                $($(#[$fm])* #[doc = concat!("`", stringify!($field), "`.")] pub $field: $t,)*
            }
        )*

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
        len: u32 = 8,
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
    "kvm_msi" Msi 32 {
        address_lo: u32 = 0,
        address_hi: u32 = 4,
        data: u32 = 8,
        /// 1: `devid` is valid.
        flags: u32 = 12,
        devid: u32 = 16,
        pad: [u8; 12] = 20,
    }
    "kvm_irq_routing_entry (irqchip)" IrqRoutingEntry 48 {
        gsi: u32 = 0,
        /// 1 irqchip, 2 MSI.
        kind: u32 = 4,
        flags: u32 = 8,
        pad: u32 = 12,
        /// irqchip, pin; or address low, high, data, devid.
        u: [u32; 8] = 16,
    }
    "kvm_create_device" CreateDevice 12 {
        kind: u32 = 0,
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
