//! Register ids of KVM on 32-bit Arm, which Linux dropped in 5.7: what old streams hold (seed-systems.md §6.1).
//!
//! No arm64 vCPU takes them (EINVAL). They are named here, with the register of an arm64 vCPU that has AArch32 at EL1 and
//! holds the same state (Arm ARM D1.20.1).

use std::fmt;

use crate::catalog::id_of;
use ulna_kvm_abi::RegId;

/// KVM_REG_ARM.
const ARM: u64 = 0x40;

/// What an old id names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Old {
    /// A core register, by its place in `struct kvm_regs`.
    Core(&'static str),
    /// A 32-bit register of CP15: CRn, opc1, CRm, opc2.
    Cp15(u8, u8, u8, u8),
    /// A 64-bit register of CP15: opc1, CRm.
    Cp15Wide(u8, u8),
    /// CCSIDR for a value of CSSELR.
    Ccsidr(u8),
    /// A control register of VFP.
    Vfp(&'static str),
    /// D0 to D31.
    Double(u8),
    /// A firmware pseudo-register.
    Firmware(u16),
}

/// Why an id names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadOld {
    /// Bits 63:56 are not 0x40.
    NotArm,
    /// The size nibble is not that of the group's registers. The founding mail prints the prefix of core registers as
    /// 0x4002, where the nibble is in the wrong place; 0x4020 is right.
    Size,
    /// The group has no such register, or there is no such group.
    NoRegister,
}

impl fmt::Display for BadOld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadOld::NotArm => "bits 63:56 are not 0x40, KVM's 32-bit Arm",
            BadOld::Size => {
                "the size (bits 55:52) is not that of this register (0x4002 is a slip for 0x4020)"
            }
            BadOld::NoRegister => "32-bit Arm has no such register",
        })
    }
}

impl std::error::Error for BadOld {}

/// `struct kvm_regs` of 32-bit Arm, a word each, with the register that holds it on arm64.
const CORE: [(&str, &str); 38] = [
    ("r0", "X0"),
    ("r1", "X1"),
    ("r2", "X2"),
    ("r3", "X3"),
    ("r4", "X4"),
    ("r5", "X5"),
    ("r6", "X6"),
    ("r7", "X7"),
    ("r8", "X8"),
    ("r9", "X9"),
    ("r10", "X10"),
    ("r11", "X11"),
    ("r12", "X12"),
    ("sp_usr", "X13"),
    ("lr_usr", "X14"),
    ("pc", "PC"),
    ("cpsr", "PSTATE"),
    ("orig_r0", ""),
    ("sp_svc", "X19"),
    ("lr_svc", "X18"),
    ("spsr_svc", "SPSR_EL1"),
    ("sp_abt", "X21"),
    ("lr_abt", "X20"),
    ("spsr_abt", "SPSR_abt"),
    ("sp_und", "X23"),
    ("lr_und", "X22"),
    ("spsr_und", "SPSR_und"),
    ("sp_irq", "X17"),
    ("lr_irq", "X16"),
    ("spsr_irq", "SPSR_irq"),
    ("r8_fiq", "X24"),
    ("r9_fiq", "X25"),
    ("r10_fiq", "X26"),
    ("r11_fiq", "X27"),
    ("r12_fiq", "X28"),
    ("sp_fiq", "X29"),
    ("lr_fiq", "X30"),
    ("spsr_fiq", "SPSR_fiq"),
];

/// CRn, opc1, CRm, opc2, the name, and the register of arm64 that holds it (all of it, or its lower half).
type Row = (u8, u8, u8, u8, &'static str, &'static str);

/// Registers of CP15 that KVM listed and those of the ID space (Arm ARM G7.3).
const CP15: &[Row] = &[
    (0, 0, 0, 0, "MIDR", "MIDR_EL1"),
    (0, 0, 0, 1, "CTR", "CTR_EL0"),
    (0, 0, 0, 5, "MPIDR", "MPIDR_EL1"),
    (0, 0, 0, 6, "REVIDR", "REVIDR_EL1"),
    (0, 0, 1, 0, "ID_PFR0", "ID_PFR0_EL1"),
    (0, 0, 1, 1, "ID_PFR1", "ID_PFR1_EL1"),
    (0, 0, 1, 2, "ID_DFR0", "ID_DFR0_EL1"),
    (0, 0, 1, 3, "ID_AFR0", "ID_AFR0_EL1"),
    (0, 0, 1, 4, "ID_MMFR0", "ID_MMFR0_EL1"),
    (0, 0, 1, 5, "ID_MMFR1", "ID_MMFR1_EL1"),
    (0, 0, 1, 6, "ID_MMFR2", "ID_MMFR2_EL1"),
    (0, 0, 1, 7, "ID_MMFR3", "ID_MMFR3_EL1"),
    (0, 0, 2, 0, "ID_ISAR0", "ID_ISAR0_EL1"),
    (0, 0, 2, 1, "ID_ISAR1", "ID_ISAR1_EL1"),
    (0, 0, 2, 2, "ID_ISAR2", "ID_ISAR2_EL1"),
    (0, 0, 2, 3, "ID_ISAR3", "ID_ISAR3_EL1"),
    (0, 0, 2, 4, "ID_ISAR4", "ID_ISAR4_EL1"),
    (0, 0, 2, 5, "ID_ISAR5", "ID_ISAR5_EL1"),
    (0, 1, 0, 1, "CLIDR", "CLIDR_EL1"),
    (0, 1, 0, 7, "AIDR", "AIDR_EL1"),
    (0, 2, 0, 0, "CSSELR", "CSSELR_EL1"),
    (1, 0, 0, 0, "SCTLR", "SCTLR_EL1"),
    (1, 0, 0, 1, "ACTLR", "ACTLR_EL1"),
    (1, 0, 0, 2, "CPACR", "CPACR_EL1"),
    (2, 0, 0, 0, "TTBR0", "TTBR0_EL1"),
    (2, 0, 0, 1, "TTBR1", "TTBR1_EL1"),
    (2, 0, 0, 2, "TTBCR", "TCR_EL1"),
    (3, 0, 0, 0, "DACR", "DACR32_EL2"),
    (5, 0, 0, 0, "DFSR", "ESR_EL1"),
    (5, 0, 0, 1, "IFSR", "IFSR32_EL2"),
    (5, 0, 1, 0, "ADFSR", "AFSR0_EL1"),
    (5, 0, 1, 1, "AIFSR", "AFSR1_EL1"),
    (6, 0, 0, 0, "DFAR", "FAR_EL1"),
    (6, 0, 0, 2, "IFAR", "FAR_EL1"),
    (7, 0, 4, 0, "PAR", "PAR_EL1"),
    (10, 0, 2, 0, "PRRR", "MAIR_EL1"),
    (10, 0, 2, 1, "NMRR", "MAIR_EL1"),
    (10, 0, 3, 0, "AMAIR0", "AMAIR_EL1"),
    (10, 0, 3, 1, "AMAIR1", "AMAIR_EL1"),
    (12, 0, 0, 0, "VBAR", "VBAR_EL1"),
    (13, 0, 0, 1, "CONTEXTIDR", "CONTEXTIDR_EL1"),
    (13, 0, 0, 2, "TPIDRURW", "TPIDR_EL0"),
    (13, 0, 0, 3, "TPIDRURO", "TPIDRRO_EL0"),
    (13, 0, 0, 4, "TPIDRPRW", "TPIDR_EL1"),
    (14, 0, 1, 0, "CNTKCTL", "CNTKCTL_EL1"),
    (14, 0, 2, 1, "CNTP_CTL", "CNTP_CTL_EL0"),
    (14, 0, 3, 1, "CNTV_CTL", "CNTV_CTL_EL0"),
];

/// opc1, CRm of 64-bit registers.
const WIDE: [(u8, u8, &str, &str); 7] = [
    (0, 2, "TTBR0", "TTBR0_EL1"),
    (1, 2, "TTBR1", "TTBR1_EL1"),
    (0, 7, "PAR", "PAR_EL1"),
    (0, 14, "CNTPCT", "CNTPCT_EL0"),
    (1, 14, "CNTVCT", "CNTVCT_EL0"),
    (2, 14, "CNTP_CVAL", "CNTP_CVAL_EL0"),
    (3, 14, "CNTV_CVAL", "CNTV_CVAL_EL0"),
];

/// Number, name and register of arm64.
const VFP: [(u16, &str, &str); 7] = [
    (0, "FPSID", ""),
    (1, "FPSCR", "FPCR"),
    (6, "MVFR1", "MVFR1_EL1"),
    (7, "MVFR0", "MVFR0_EL1"),
    (8, "FPEXC", "FPEXC32_EL2"),
    (9, "FPINST", ""),
    (10, "FPINST2", ""),
];

/// What `id` names.
pub fn name(id: u64) -> Result<Old, BadOld> {
    if id >> 56 != ARM {
        return Err(BadOld::NotArm);
    }
    let sized = |nibble: u64, n: Old| if id >> 52 & 0xf == nibble { Ok(n) } else { Err(BadOld::Size) };
    if id >> 32 & 0xf_ffff != 0 {
        // 0x4002: the nibble where the size is not.
        return Err(if id >> 52 & 0xf == 0 { BadOld::Size } else { BadOld::NoRegister });
    }
    let i = id as u16;
    let field = |low: u32, width: u32| (i >> low & ((1 << width) - 1)) as u8;
    match id >> 16 & 0xffff {
        0x10 => {
            let n = CORE.get(usize::from(i)).ok_or(BadOld::NoRegister)?;
            sized(2, Old::Core(n.0))
        }
        0x0f if i >> 15 == 0 => match id >> 52 & 0xf {
            2 => Ok(Old::Cp15(field(11, 4), field(3, 4), field(7, 4), field(0, 3))),
            3 if field(11, 4) == 0 && field(0, 3) == 0 => Ok(Old::Cp15Wide(field(3, 4), field(7, 4))),
            3 => Err(BadOld::NoRegister),
            _ => Err(BadOld::Size),
        },
        0x11 if i < 0x100 => sized(2, Old::Ccsidr(i as u8)),
        0x12 if i & 0x1000 != 0 => {
            let n = VFP.iter().find(|v| v.0 == i & 0xfff).ok_or(BadOld::NoRegister)?;
            sized(2, Old::Vfp(n.1))
        }
        0x12 if i < 32 => sized(3, Old::Double(i as u8)),
        0x14 => sized(3, Old::Firmware(i)),
        _ => Err(BadOld::NoRegister),
    }
}

impl fmt::Display for Old {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Old::Core(n) | Old::Vfp(n) => f.write_str(n),
            Old::Cp15(crn, opc1, crm, opc2) => match cp15(crn, opc1, crm, opc2) {
                Some(r) => f.write_str(r.4),
                None => write!(f, "p15, {opc1}, c{crn}, c{crm}, {opc2}"),
            },
            Old::Cp15Wide(opc1, crm) => match wide(opc1, crm) {
                Some(r) => write!(f, "{} (64 bits)", r.2),
                None => write!(f, "p15, {opc1}, c{crm} (64 bits)"),
            },
            Old::Ccsidr(n) => write!(f, "CCSIDR[{n}]"),
            Old::Double(n) => write!(f, "D{n}"),
            Old::Firmware(0) => f.write_str("PSCI_VERSION"),
            Old::Firmware(n) => write!(f, "firmware register {n}"),
        }
    }
}

fn cp15(crn: u8, opc1: u8, crm: u8, opc2: u8) -> Option<&'static Row> {
    CP15.iter().find(|r| (r.0, r.1, r.2, r.3) == (crn, opc1, crm, opc2))
}

fn wide(opc1: u8, crm: u8) -> Option<&'static (u8, u8, &'static str, &'static str)> {
    WIDE.iter().find(|r| (r.0, r.1) == (opc1, crm))
}

impl Old {
    /// The name of the arm64 register that holds the same state of a vCPU with AArch32 at EL1, if one does.
    pub fn arm64(&self) -> Option<String> {
        let some = |n: &str| (!n.is_empty()).then(|| n.to_owned());
        match *self {
            Old::Core(n) => some(CORE.iter().find(|c| c.0 == n)?.1),
            Old::Vfp(n) => some(VFP.iter().find(|v| v.1 == n)?.2),
            Old::Cp15(crn, opc1, crm, opc2) => some(cp15(crn, opc1, crm, opc2)?.5),
            Old::Cp15Wide(opc1, crm) => some(wide(opc1, crm)?.3),
            Old::Ccsidr(n) => (n < 14).then(|| format!("CCSIDR_EL1[{n}]")),
            // Two doubles a vector register.
            Old::Double(n) => Some(format!("V{}", n / 2)),
            Old::Firmware(n) => (n < 4).then(|| {
                if n == 0 { "PSCI_VERSION".to_owned() } else { format!("SMCCC_ARCH_WORKAROUND_{n}") }
            }),
        }
    }

    /// Its id.
    pub fn arm64_id(&self) -> Option<RegId> {
        id_of(&self.arm64()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// H1 of seed-systems.md §6.6: on converter input the second is r0, the first is a slip.
    #[test]
    fn h1_the_slip_is_refused_and_the_right_prefix_is_r0() {
        assert_eq!(name(0x4002_0000_0010_0000), Err(BadOld::Size));
        let r0 = name(0x4020_0000_0010_0000).unwrap();
        assert_eq!((r0.to_string().as_str(), r0.arm64_id()), ("r0", Some(RegId::x(0))));
    }

    #[test]
    fn ids_of_linux_headers_are_named() {
        for (id, want, arm64) in [
            (0x4020_0000_0010_000fu64, "pc", Some("PC")),
            (0x4020_0000_0010_0012, "sp_svc", Some("X19")),
            (0x4020_0000_0010_0025, "spsr_fiq", Some("SPSR_fiq")),
            (0x4020_0000_0010_0011, "orig_r0", None),
            (0x4020_0000_000f_0800, "SCTLR", Some("SCTLR_EL1")),
            (0x4020_0000_000f_0028, "p15, 5, c0, c0, 0", None),
            (0x4030_0000_000f_0100, "TTBR0 (64 bits)", Some("TTBR0_EL1")),
            (0x4030_0000_000f_0718, "CNTV_CVAL (64 bits)", Some("CNTV_CVAL_EL0")),
            (0x4020_0000_0011_0002, "CCSIDR[2]", Some("CCSIDR_EL1[2]")),
            (0x4020_0000_0012_1001, "FPSCR", Some("FPCR")),
            (0x4030_0000_0012_0003, "D3", Some("V1")),
            (0x4030_0000_0014_0000, "PSCI_VERSION", Some("PSCI_VERSION")),
        ] {
            let n = name(id).unwrap();
            assert_eq!((n.to_string().as_str(), n.arm64().as_deref()), (want, arm64), "{id:#x}");
        }
        assert_eq!(name(0x6020_0000_0010_0000), Err(BadOld::NotArm));
        assert_eq!(name(0x4020_0000_0010_0026), Err(BadOld::NoRegister));
        assert_eq!(name(0x4030_0000_0010_0000), Err(BadOld::Size));
    }

    #[test]
    fn every_register_of_the_tables_leads_to_one_of_arm64() {
        let names = CORE.iter().map(|c| c.1).chain(CP15.iter().map(|r| r.5)).chain(WIDE.iter().map(|r| r.3));
        for n in names.chain(VFP.iter().map(|v| v.2)).filter(|n| !n.is_empty()) {
            assert!(id_of(n).is_some(), "{n}");
        }
    }

    proptest! {
        #[test]
        fn no_id_panics(low in any::<u32>(), size in 0u64..16, all in any::<u64>()) {
            for id in [0x40 << 56 | size << 52 | u64::from(low), all] {
                if let Ok(n) = name(id) {
                    prop_assert!(!n.to_string().is_empty());
                    let _ = n.arm64_id();
                }
            }
        }
    }
}
