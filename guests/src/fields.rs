//! The registers that the built-in guest shows. Fields of feature-ID registers come from `arm-regs`; the others, which
//! are no feature registers, are named here (Arm ARM D24).

use ulna_arm_regs::SysReg::{self, *};
use ulna_arm_regs::id::IdReg;

/// Lowest bit, width, name.
pub type Field = (u8, u8, &'static str);

/// The registers in the order in which they are shown.
pub const REGISTERS: &[SysReg] = &[
    MIDR_EL1,
    REVIDR_EL1,
    MPIDR_EL1,
    CTR_EL0,
    DCZID_EL0,
    ID_AA64PFR0_EL1,
    ID_AA64PFR1_EL1,
    ID_AA64PFR2_EL1,
    ID_AA64ZFR0_EL1,
    ID_AA64DFR0_EL1,
    ID_AA64DFR1_EL1,
    ID_AA64ISAR0_EL1,
    ID_AA64ISAR1_EL1,
    ID_AA64ISAR2_EL1,
    ID_AA64MMFR0_EL1,
    ID_AA64MMFR1_EL1,
    ID_AA64MMFR2_EL1,
    ID_AA64MMFR3_EL1,
    ID_AA64MMFR4_EL1,
];

/// The named fields of a register, from the lowest bit up.
pub fn fields(reg: SysReg) -> Vec<Field> {
    let own: &[Field] = match reg {
        MIDR_EL1 => &[
            (0, 4, "Revision"),
            (4, 12, "PartNum"),
            (16, 4, "Architecture"),
            (20, 4, "Variant"),
            (24, 8, "Implementer"),
        ],
        MPIDR_EL1 => {
            &[(0, 8, "Aff0"), (8, 8, "Aff1"), (16, 8, "Aff2"), (24, 1, "MT"), (30, 1, "U"), (32, 8, "Aff3")]
        }
        CTR_EL0 => &[
            (0, 4, "IminLine"),
            (14, 2, "L1Ip"),
            (16, 4, "DminLine"),
            (20, 4, "ERG"),
            (24, 4, "CWG"),
            (28, 1, "IDC"),
            (29, 1, "DIC"),
        ],
        DCZID_EL0 => &[(0, 4, "BS"), (4, 1, "DZP")],
        _ => {
            let Some(row) = IdReg::of(reg) else { return Vec::new() };
            let mut all: Vec<Field> = row.fields.iter().map(|f| (f.lsb, f.width, f.name)).collect();
            all.sort_unstable();
            return all;
        }
    };
    own.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_in_order_and_do_not_overlap() {
        for &reg in REGISTERS {
            let mut next = 0;
            for (lsb, width, name) in fields(reg) {
                assert!(lsb >= next && width > 0 && lsb + width <= 64, "{reg:?}.{name}");
                next = lsb + width;
            }
        }
        assert!(fields(ID_AA64PFR0_EL1).iter().any(|&(lsb, _, name)| lsb == 24 && name == "GIC"));
    }
}
