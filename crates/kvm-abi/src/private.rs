//! What KVM of Linux has not: numbers far from those that upstream gives out one by one (seed-systems.md §0.2).
//!
//! A kernel answers 0 to the capabilities, so a VMM may ask. In strict mode none of this is there.

/// VM-scoped registers: the map, accessors on the VM descriptor, tagging. KVM_CHECK_EXTENSION answers `REG_SCOPE_*`;
/// KVM_ENABLE_CAP with `args[0] = 1`, before the first vCPU, turns tagging on.
pub const CAP_REG_SCOPE: u32 = 0x554c_0001;
/// SDEI.
pub const CAP_SDEI: u32 = 0x554c_0002;
/// MIDR_EL1, REVIDR_EL1 and AIDR_EL1 are each vCPU's own: enabled before the first vCPU, and after
/// KVM_CAP_ARM_WRITABLE_IMP_ID_REGS. Feature registers stay the VM's.
pub const CAP_HET_IDENTITY: u32 = 0x554c_0003;
/// How many bitmaps of firmware services are listed, as KVM_CAP_ARM_HVC_FW_REG_BMAP was once to answer.
pub const CAP_HVC_FW_REG_BMAP: u32 = 0x554c_0004;

/// KVM_GET_REG_LIST on a VM answers the map of VM-scoped registers.
pub const REG_SCOPE_MAP: i32 = 1;
/// VM-scoped registers are attributes of the VM.
pub const REG_SCOPE_VM_ATTRS: i32 = 2;
/// KVM_GET_REG_LIST on a vCPU can tag them.
pub const REG_SCOPE_TAGS: i32 = 4;

/// Attribute group of a VM: an attribute is the id of a VM-scoped register.
pub const GRP_REG_SCOPE: u32 = CAP_REG_SCOPE;

/// The scope of a register in its id, where tagging is on.
pub const SCOPE_MASK: u64 = 0xf << 28;
/// A register of the VM.
pub const SCOPE_VM: u64 = 1 << 28;

/// The range of KVM_ARM_GET_REG_WRITABLE_MASKS beyond the feature ID registers, in list form.
pub const MASK_RANGE_LIST: u32 = 16;
