//! Register ids of KVM_GET_ONE_REG.

/// KVM_REG_ARM64.
pub const ARM64: u64 = 0x6000_0000_0000_0000;
/// KVM_REG_SIZE_U32.
pub const SIZE_U32: u64 = 2 << 52;
/// KVM_REG_SIZE_U64.
pub const SIZE_U64: u64 = 3 << 52;
/// KVM_REG_SIZE_U128.
pub const SIZE_U128: u64 = 4 << 52;
/// KVM_REG_SIZE_U512.
pub const SIZE_U512: u64 = 6 << 52;
/// KVM_REG_SIZE_U2048.
pub const SIZE_U2048: u64 = 8 << 52;
/// Core registers; the index is the offset into `struct kvm_regs` in 32-bit words.
pub const GROUP_CORE: u64 = 0x10 << 16;
/// Demultiplexed registers (CCSIDR_EL1).
pub const GROUP_DEMUX: u64 = 0x11 << 16;
/// System registers.
pub const GROUP_SYSREG: u64 = 0x13 << 16;
/// Firmware pseudo-registers.
pub const GROUP_FW: u64 = 0x14 << 16;

/// Bitmaps of firmware services.
pub const GROUP_FW_FEAT: u64 = 0x16 << 16;
/// SVE registers.
pub const GROUP_SVE: u64 = 0x15 << 16;

/// SDEI: ulna's own, on no other kernel.
pub const GROUP_SDEI: u64 = 0x5de << 16;

/// A register id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegId(pub u64);

impl RegId {
    /// x0-x30.
    pub const fn x(n: u64) -> RegId {
        RegId(ARM64 | SIZE_U64 | GROUP_CORE | (n * 2))
    }
    /// SP_EL0.
    pub const SP: RegId = RegId(ARM64 | SIZE_U64 | GROUP_CORE | 62);
    /// PC.
    pub const PC: RegId = RegId(ARM64 | SIZE_U64 | GROUP_CORE | 64);
    /// PSTATE.
    pub const PSTATE: RegId = RegId(ARM64 | SIZE_U64 | GROUP_CORE | 66);
    /// SP_EL1.
    pub const SP_EL1: RegId = RegId(ARM64 | SIZE_U64 | GROUP_CORE | 68);
    /// ELR_EL1.
    pub const ELR_EL1: RegId = RegId(ARM64 | SIZE_U64 | GROUP_CORE | 70);
    /// SPSR_EL1.
    pub const SPSR_EL1: RegId = RegId(ARM64 | SIZE_U64 | GROUP_CORE | 72);
    /// SPSR_EL1, SPSR_abt, SPSR_und, SPSR_irq, SPSR_fiq.
    pub const fn spsr(n: u64) -> RegId {
        RegId(ARM64 | SIZE_U64 | GROUP_CORE | (72 + n * 2))
    }
    /// Firmware pseudo-register: 0 PSCI version, 1-3 SMCCC_ARCH_WORKAROUND_1 to 3.
    pub const fn fw(n: u64) -> RegId {
        RegId(ARM64 | SIZE_U64 | GROUP_FW | n)
    }
    /// Bitmap of firmware services: 0 standard, 1 standard hypervisor, 2 and 3 vendor hypervisor.
    pub const fn fw_feat(n: u64) -> RegId {
        RegId(ARM64 | SIZE_U64 | GROUP_FW_FEAT | n)
    }
    /// CCSIDR_EL1 by the value of CSSELR_EL1.
    pub const fn ccsidr(csselr: u16) -> RegId {
        RegId(ARM64 | SIZE_U32 | GROUP_DEMUX | csselr as u64)
    }
    /// v0-v31.
    pub const fn v(n: u64) -> RegId {
        RegId(ARM64 | SIZE_U128 | GROUP_CORE | (84 + n * 4))
    }
    /// FPSR.
    pub const FPSR: RegId = RegId(ARM64 | SIZE_U32 | GROUP_CORE | 212);
    /// FPCR.
    pub const FPCR: RegId = RegId(ARM64 | SIZE_U32 | GROUP_CORE | 213);
    /// A system register by its packed encoding.
    pub const fn sysreg(enc: u16) -> RegId {
        RegId(ARM64 | SIZE_U64 | GROUP_SYSREG | enc as u64)
    }
    /// KVM_REG_ARM_PSCI_VERSION.
    pub const PSCI_VERSION: RegId = RegId(ARM64 | SIZE_U64 | GROUP_FW);
    /// SDEI_VERSION.
    pub const SDEI_VERSION: RegId = RegId(ARM64 | SIZE_U64 | GROUP_SDEI);
    /// Size in bytes.
    pub const fn size(self) -> usize {
        1 << (self.0 >> 52 & 0xf)
    }
    /// Group with its place in the id.
    pub const fn group(self) -> u64 {
        self.0 & 0x0fff_0000
    }
    /// Index in the group.
    pub const fn index(self) -> u16 {
        self.0 as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_kernel() {
        assert_eq!(RegId::x(0).0, 0x6030_0000_0010_0000);
        assert_eq!(RegId::PC.0, 0x6030_0000_0010_0040);
        assert_eq!(RegId::PSTATE.0, 0x6030_0000_0010_0042);
        assert_eq!(RegId::v(0).0, 0x6040_0000_0010_0054);
        assert_eq!(RegId::FPSR.0, 0x6020_0000_0010_00d4);
        assert_eq!(RegId::sysreg(0xc000).0, 0x6030_0000_0013_c000);
        assert_eq!(RegId::PSCI_VERSION.0, 0x6030_0000_0014_0000);
        assert_eq!(RegId::v(3).size(), 16);
    }
}
