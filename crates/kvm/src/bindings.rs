//! Structures and constants under the names of `kvm-bindings` for arm64.
//!
//! Those that are flat are the ones of `ulna_kvm_abi`; the others have the unions and nested structures that bindgen
//! makes of the header, and a test compares their layout with the flat ones.
#![allow(non_camel_case_types, missing_docs)]

use std::ffi::{c_char, c_void};
use std::marker::PhantomData;

use vmm_sys_util::fam::{FamStruct, FamStructWrapper};
use vmm_sys_util::generate_fam_struct_impl;

pub use ulna_kvm_abi::structs::{
    ArmCounterOffset as kvm_arm_counter_offset, ArmDeviceAddr as kvm_arm_device_addr,
    CreateDevice as kvm_create_device, DeviceAttr as kvm_device_attr, DirtyGfn as kvm_dirty_gfn,
    EnableCap as kvm_enable_cap, IoEventFd as kvm_ioeventfd, IrqFd as kvm_irqfd, MpState as kvm_mp_state,
    Msi as kvm_msi, OneReg as kvm_one_reg, PmuEventFilter as kvm_pmu_event_filter,
    RegMaskRange as reg_mask_range, SmcccFilter as kvm_smccc_filter, StatsHeader as kvm_stats_header,
    UserspaceMemoryRegion as kvm_userspace_memory_region,
    UserspaceMemoryRegion2 as kvm_userspace_memory_region2, VcpuInit as kvm_vcpu_init,
};
pub use ulna_kvm_abi::uapi::*;

pub type kvm_device_type = u32;

/// The array at the end of a structure, whose length stands elsewhere.
#[repr(C)]
#[derive(Default)]
pub struct __IncompleteArrayField<T>(PhantomData<T>, [T; 0]);

impl<T> __IncompleteArrayField<T> {
    pub const fn new() -> Self {
        __IncompleteArrayField(PhantomData, [])
    }
    pub fn as_ptr(&self) -> *const T {
        std::ptr::from_ref(self).cast()
    }
    pub fn as_mut_ptr(&mut self) -> *mut T {
        std::ptr::from_mut(self).cast()
    }
    /// # Safety
    /// `len` elements must follow.
    pub unsafe fn as_slice(&self, len: usize) -> &[T] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), len) }
    }
    /// # Safety
    /// `len` elements must follow.
    pub unsafe fn as_mut_slice(&mut self, len: usize) -> &mut [T] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), len) }
    }
}

impl<T> std::fmt::Debug for __IncompleteArrayField<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("__IncompleteArrayField")
    }
}

/// Plain data in C: all zero is a value, and copying the bytes copies it.
macro_rules! plain {
    ($($(#[$m:meta])* $what:ident $name:ident { $($field:ident: $t:ty,)* })*) => {
        $(
            $(#[$m])*
            #[repr(C)]
            #[derive(Clone, Copy)]
            pub $what $name { $(pub $field: $t,)* }
            impl Default for $name {
                fn default() -> $name {
                    // SAFETY: made of integers, raw pointers and arrays of them only, for which all zero is a value.
                    unsafe { std::mem::zeroed() }
                }
            }
            impl std::fmt::Debug for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    // SAFETY: as many bytes as the value has; padding was zero when it was made, and is not relied on.
                    write!(f, "{} {{ .. {} bytes }}", stringify!($name), size_of::<Self>())
                }
            }
        )*
    };
}

plain! {
    struct user_pt_regs { regs: [u64; 31], sp: u64, pc: u64, pstate: u64, }
    #[repr(align(16))]
    struct user_fpsimd_state { vregs: [u128; 32], fpsr: u32, fpcr: u32, __reserved: [u32; 2], }
    struct kvm_regs {
        regs: user_pt_regs,
        sp_el1: u64,
        elr_el1: u64,
        spsr: [u64; 5],
        __bindgen_padding_0: u64,
        fp_regs: user_fpsimd_state,
    }
    struct kvm_sregs { }
    struct kvm_fpu { }
    struct kvm_guest_debug_arch { dbg_bcr: [u64; 16], dbg_bvr: [u64; 16], dbg_wcr: [u64; 16], dbg_wvr: [u64; 16], }
    struct kvm_guest_debug { control: u32, pad: u32, arch: kvm_guest_debug_arch, }
    struct kvm_debug_exit_arch { hsr: u32, hsr_high: u32, far: u64, }
    struct kvm_sync_regs { device_irq_level: u64, }
    struct kvm_vcpu_events__bindgen_ty_1 {
        serror_pending: u8,
        serror_has_esr: u8,
        ext_dabt_pending: u8,
        pad: [u8; 5],
        serror_esr: u64,
    }
    struct kvm_vcpu_events { exception: kvm_vcpu_events__bindgen_ty_1, reserved: [u32; 12], }
    struct kvm_arm_copy_mte_tags { guest_ipa: u64, length: u64, addr: *mut c_void, flags: u64, reserved: [u64; 2], }
    union kvm_irq_level__bindgen_ty_1 { irq: u32, status: i32, }
    struct kvm_irq_level { __bindgen_anon_1: kvm_irq_level__bindgen_ty_1, level: u32, }
    union kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: *mut c_void, padding2: u64, }
    struct kvm_dirty_log { slot: u32, padding1: u32, __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1, }
    union kvm_clear_dirty_log__bindgen_ty_1 { dirty_bitmap: *mut c_void, padding2: u64, }
    struct kvm_clear_dirty_log {
        slot: u32,
        num_pages: u32,
        first_page: u64,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1,
    }
    union kvm_coalesced_mmio_zone__bindgen_ty_1 { pad: u32, pio: u32, }
    struct kvm_coalesced_mmio_zone { addr: u64, size: u32, __bindgen_anon_1: kvm_coalesced_mmio_zone__bindgen_ty_1, }
    union kvm_coalesced_mmio__bindgen_ty_1 { pad: u32, pio: u32, }
    struct kvm_coalesced_mmio {
        phys_addr: u64,
        len: u32,
        __bindgen_anon_1: kvm_coalesced_mmio__bindgen_ty_1,
        data: [u8; 8],
    }
    struct kvm_irq_routing_irqchip { irqchip: u32, pin: u32, }
    union kvm_irq_routing_msi__bindgen_ty_1 { pad: u32, devid: u32, }
    struct kvm_irq_routing_msi {
        address_lo: u32,
        address_hi: u32,
        data: u32,
        __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1,
    }
    union kvm_irq_routing_entry__bindgen_ty_1 {
        irqchip: kvm_irq_routing_irqchip,
        msi: kvm_irq_routing_msi,
        pad: [u32; 8],
    }
    struct kvm_irq_routing_entry {
        gsi: u32,
        type_: u32,
        flags: u32,
        pad: u32,
        u: kvm_irq_routing_entry__bindgen_ty_1,
    }
    struct kvm_translation {
        linear_address: u64,
        physical_address: u64,
        valid: u8,
        writeable: u8,
        usermode: u8,
        pad: [u8; 5],
    }
    struct kvm_memory_attributes { address: u64, size: u64, attributes: u64, flags: u64, }
    struct kvm_create_guest_memfd { size: u64, flags: u64, reserved: [u64; 6], }

    struct kvm_run__bindgen_ty_1__bindgen_ty_1 { hardware_exit_reason: u64, }
    struct kvm_run__bindgen_ty_1__bindgen_ty_2 { hardware_entry_failure_reason: u64, cpu: u32, }
    struct kvm_run__bindgen_ty_1__bindgen_ty_5 { arch: kvm_debug_exit_arch, }
    struct kvm_run__bindgen_ty_1__bindgen_ty_6 { phys_addr: u64, data: [u8; 8], len: u32, is_write: u8, }
    union kvm_run__bindgen_ty_1__bindgen_ty_8__bindgen_ty_1 { longmode: u32, flags: u64, }
    struct kvm_run__bindgen_ty_1__bindgen_ty_8 {
        nr: u64,
        args: [u64; 6],
        ret: u64,
        __bindgen_anon_1: kvm_run__bindgen_ty_1__bindgen_ty_8__bindgen_ty_1,
    }
    struct kvm_run__bindgen_ty_1__bindgen_ty_13 { suberror: u32, ndata: u32, data: [u64; 16], }
    union kvm_run__bindgen_ty_1__bindgen_ty_19__bindgen_ty_1 { flags: u64, data: [u64; 16], }
    struct kvm_run__bindgen_ty_1__bindgen_ty_19 {
        type_: u32,
        ndata: u32,
        __bindgen_anon_1: kvm_run__bindgen_ty_1__bindgen_ty_19__bindgen_ty_1,
    }
    struct kvm_run__bindgen_ty_1__bindgen_ty_22 { esr_iss: u64, fault_ipa: u64, }
    struct kvm_run__bindgen_ty_1__bindgen_ty_27 { flags: u64, gpa: u64, size: u64, }
    union kvm_run__bindgen_ty_1 {
        hw: kvm_run__bindgen_ty_1__bindgen_ty_1,
        fail_entry: kvm_run__bindgen_ty_1__bindgen_ty_2,
        debug: kvm_run__bindgen_ty_1__bindgen_ty_5,
        mmio: kvm_run__bindgen_ty_1__bindgen_ty_6,
        hypercall: kvm_run__bindgen_ty_1__bindgen_ty_8,
        internal: kvm_run__bindgen_ty_1__bindgen_ty_13,
        system_event: kvm_run__bindgen_ty_1__bindgen_ty_19,
        arm_nisv: kvm_run__bindgen_ty_1__bindgen_ty_22,
        memory_fault: kvm_run__bindgen_ty_1__bindgen_ty_27,
        padding: [c_char; 256],
    }
    union kvm_run__bindgen_ty_2 { regs: kvm_sync_regs, padding: [c_char; 2048], }
    struct kvm_run {
        request_interrupt_window: u8,
        immediate_exit: u8,
        padding1: [u8; 6],
        exit_reason: u32,
        ready_for_interrupt_injection: u8,
        if_flag: u8,
        flags: u16,
        cr8: u64,
        apic_base: u64,
        __bindgen_anon_1: kvm_run__bindgen_ty_1,
        kvm_valid_regs: u64,
        kvm_dirty_regs: u64,
        s: kvm_run__bindgen_ty_2,
    }
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct kvm_reg_list {
    pub n: u64,
    pub reg: __IncompleteArrayField<u64>,
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct kvm_irq_routing {
    pub nr: u32,
    pub flags: u32,
    pub entries: __IncompleteArrayField<kvm_irq_routing_entry>,
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct kvm_coalesced_mmio_ring {
    pub first: u32,
    pub last: u32,
    pub coalesced_mmio: __IncompleteArrayField<kvm_coalesced_mmio>,
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct kvm_signal_mask {
    pub len: u32,
    pub sigset: __IncompleteArrayField<u8>,
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct kvm_stats_desc {
    pub flags: u32,
    pub exponent: i16,
    pub size: u16,
    pub offset: u32,
    pub bucket_size: u32,
    pub name: __IncompleteArrayField<c_char>,
}

impl PartialEq for kvm_reg_list {
    fn eq(&self, other: &kvm_reg_list) -> bool {
        // The wrapper compares the entries.
        self.n == other.n
    }
}

impl PartialEq for kvm_irq_routing {
    fn eq(&self, other: &kvm_irq_routing) -> bool {
        // The wrapper compares the entries.
        (self.nr, self.flags) == (other.nr, other.flags)
    }
}

impl PartialEq for kvm_irq_routing_entry {
    fn eq(&self, other: &kvm_irq_routing_entry) -> bool {
        // SAFETY: every member is integers, and all of the union is written when it is made by `Default` or as `pad`.
        let (a, b) = unsafe { (self.u.pad, other.u.pad) };
        (self.gsi, self.type_, self.flags, self.pad, a) == (other.gsi, other.type_, other.flags, other.pad, b)
    }
}

/// Registers that a list has room for.
const ARM64_REGS_MAX: usize = 500;
/// Most entries of KVM_SET_GSI_ROUTING.
pub const KVM_MAX_IRQ_ROUTES: usize = 4096;

// SAFETY: `n` says how many entries follow the structure; the wrapper allocates so many.
generate_fam_struct_impl!(kvm_reg_list, u64, reg, u64, n, ARM64_REGS_MAX);
// SAFETY: the same for `nr`.
generate_fam_struct_impl!(kvm_irq_routing, kvm_irq_routing_entry, entries, u32, nr, KVM_MAX_IRQ_ROUTES);

/// A list of register ids with its memory.
pub type RegList = FamStructWrapper<kvm_reg_list>;
/// A routing table with its memory.
pub type KvmIrqRouting = FamStructWrapper<kvm_irq_routing>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;
    use ulna_kvm_abi::structs::LAYOUTS;

    #[test]
    fn shapes_with_unions_have_the_layout_of_the_flat_ones() {
        let flat = |name: &str| {
            LAYOUTS.iter().find(|l| l.0 == name).map(|l| (l.1, l.2)).unwrap_or_else(|| panic!("{name}"))
        };
        let at = |name: &str, field: &str| {
            flat(name)
                .1
                .iter()
                .find(|f| f.0 == field)
                .map(|f| f.1)
                .unwrap_or_else(|| panic!("{name}.{field}"))
        };
        let sizes = [
            ("kvm_guest_debug", size_of::<kvm_guest_debug>()),
            ("kvm_vcpu_events", size_of::<kvm_vcpu_events>()),
            ("kvm_arm_copy_mte_tags", size_of::<kvm_arm_copy_mte_tags>()),
            ("kvm_irq_level", size_of::<kvm_irq_level>()),
            ("kvm_dirty_log", size_of::<kvm_dirty_log>()),
            ("kvm_clear_dirty_log", size_of::<kvm_clear_dirty_log>()),
            ("kvm_coalesced_mmio_zone", size_of::<kvm_coalesced_mmio_zone>()),
            ("kvm_coalesced_mmio", size_of::<kvm_coalesced_mmio>()),
            ("kvm_irq_routing_entry", size_of::<kvm_irq_routing_entry>()),
            ("kvm_irq_routing", size_of::<kvm_irq_routing>()),
            ("kvm_reg_list", size_of::<kvm_reg_list>()),
            ("kvm_signal_mask", size_of::<kvm_signal_mask>()),
            ("kvm_stats_desc", size_of::<kvm_stats_desc>()),
        ];
        for (name, size) in sizes {
            assert_eq!(size, flat(name).0, "{name}");
        }
        assert_eq!(at("kvm_guest_debug", "dbg_wvr"), 8 + offset_of!(kvm_guest_debug_arch, dbg_wvr));
        assert_eq!(
            at("kvm_vcpu_events", "serror_esr"),
            offset_of!(kvm_vcpu_events__bindgen_ty_1, serror_esr)
        );
        assert_eq!(at("kvm_vcpu_events", "reserved"), offset_of!(kvm_vcpu_events, reserved));
        assert_eq!(at("kvm_dirty_log", "dirty_bitmap"), offset_of!(kvm_dirty_log, __bindgen_anon_1));
        assert_eq!(
            at("kvm_clear_dirty_log", "dirty_bitmap"),
            offset_of!(kvm_clear_dirty_log, __bindgen_anon_1)
        );
        assert_eq!(at("kvm_irq_routing_entry", "u"), offset_of!(kvm_irq_routing_entry, u));
        assert_eq!(at("kvm_coalesced_mmio", "data"), offset_of!(kvm_coalesced_mmio, data));
        assert_eq!(at("kvm_arm_copy_mte_tags", "flags"), offset_of!(kvm_arm_copy_mte_tags, flags));
    }

    /// kvm-arm64-abi.md §1.6 and §3.
    #[test]
    fn registers_and_the_run_page_are_laid_out_as_the_kernel_has_them() {
        assert_eq!(size_of::<kvm_regs>(), 864);
        assert_eq!((offset_of!(kvm_regs, sp_el1), offset_of!(kvm_regs, fp_regs)), (272, 336));
        assert_eq!(offset_of!(user_fpsimd_state, fpcr) + 336, 852);
        assert_eq!((offset_of!(user_pt_regs, pc), offset_of!(user_pt_regs, pstate)), (256, 264));
        assert_eq!(size_of::<kvm_run>(), 2352);
        assert_eq!((offset_of!(kvm_run, immediate_exit), offset_of!(kvm_run, exit_reason)), (1, 8));
        assert_eq!((offset_of!(kvm_run, flags), offset_of!(kvm_run, __bindgen_anon_1)), (0xe, 0x20));
        assert_eq!((offset_of!(kvm_run, kvm_valid_regs), offset_of!(kvm_run, s)), (0x120, 0x130));
        assert_eq!(offset_of!(kvm_run__bindgen_ty_1__bindgen_ty_6, is_write) + 0x20, 0x34);
        assert_eq!(offset_of!(kvm_run__bindgen_ty_1__bindgen_ty_8, __bindgen_anon_1) + 0x20, 0x60);
        assert_eq!(offset_of!(kvm_run__bindgen_ty_1__bindgen_ty_19, __bindgen_anon_1) + 0x20, 0x28);
    }

    #[test]
    fn lists_carry_their_length() {
        let mut l = RegList::new(3).unwrap();
        l.as_mut_slice()[2] = 7;
        assert_eq!((l.as_fam_struct_ref().n, l.as_slice()), (3, &[0, 0, 7][..]));
        let e = kvm_irq_routing_entry { gsi: 5, ..Default::default() };
        let r = KvmIrqRouting::from_entries(&[e]).unwrap();
        assert_eq!((r.as_fam_struct_ref().nr, r.as_slice()[0] == e), (1, true));
    }
}
