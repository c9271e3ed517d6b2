//! Devices of KVM_CREATE_DEVICE and their attribute groups.

/// KVM_DEV_TYPE_ARM_VGIC_V2.
pub const TYPE_ARM_VGIC_V2: u32 = 5;
/// KVM_DEV_TYPE_ARM_VGIC_V3.
pub const TYPE_ARM_VGIC_V3: u32 = 7;
/// KVM_DEV_TYPE_ARM_VGIC_ITS.
pub const TYPE_ARM_VGIC_ITS: u32 = 8;

/// KVM_DEV_ARM_VGIC_GRP_ADDR.
pub const GRP_ADDR: u32 = 0;
/// KVM_DEV_ARM_VGIC_GRP_DIST_REGS.
pub const GRP_DIST_REGS: u32 = 1;
/// KVM_DEV_ARM_VGIC_GRP_CPU_REGS (GICv2).
pub const GRP_CPU_REGS: u32 = 2;
/// KVM_DEV_ARM_VGIC_GRP_NR_IRQS.
pub const GRP_NR_IRQS: u32 = 3;
/// KVM_DEV_ARM_VGIC_GRP_CTRL.
pub const GRP_CTRL: u32 = 4;
/// KVM_DEV_ARM_VGIC_GRP_REDIST_REGS.
pub const GRP_REDIST_REGS: u32 = 5;
/// KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS.
pub const GRP_CPU_SYSREGS: u32 = 6;

/// KVM_VGIC_V2_ADDR_TYPE_DIST.
pub const V2_ADDR_TYPE_DIST: u64 = 0;
/// KVM_VGIC_V2_ADDR_TYPE_CPU.
pub const V2_ADDR_TYPE_CPU: u64 = 1;
/// KVM_VGIC_V3_ADDR_TYPE_DIST.
pub const V3_ADDR_TYPE_DIST: u64 = 2;
/// KVM_VGIC_V3_ADDR_TYPE_REDIST.
pub const V3_ADDR_TYPE_REDIST: u64 = 3;
/// KVM_VGIC_ITS_ADDR_TYPE.
pub const ITS_ADDR_TYPE: u64 = 4;
/// KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION: count 63:52, base 51:16, index 11:0.
pub const V3_ADDR_TYPE_REDIST_REGION: u64 = 5;

/// KVM_DEV_ARM_VGIC_CTRL_INIT.
pub const CTRL_INIT: u64 = 0;

/// KVM_IRQ_LINE: type of the interrupt, bits 27:24.
pub mod irq_type {
    /// KVM_ARM_IRQ_TYPE_CPU.
    pub const CPU: u32 = 0;
    /// KVM_ARM_IRQ_TYPE_SPI.
    pub const SPI: u32 = 1;
    /// KVM_ARM_IRQ_TYPE_PPI.
    pub const PPI: u32 = 2;
}
