//! The fields of the ID registers that the built-in guest names (Arm ARM D24, "ID_AA64..._EL1").

use ulna_arm_regs::SysReg::{self, *};

/// Lowest bit, width, name.
pub type Field = (u8, u8, &'static str);

/// The registers in the order in which they are shown. Fields stand from the lowest bit up.
pub const REGISTERS: &[(SysReg, &[Field])] = &[
    (
        MIDR_EL1,
        &[
            (0, 4, "Revision"),
            (4, 12, "PartNum"),
            (16, 4, "Architecture"),
            (20, 4, "Variant"),
            (24, 8, "Implementer"),
        ],
    ),
    (REVIDR_EL1, &[]),
    (
        MPIDR_EL1,
        &[(0, 8, "Aff0"), (8, 8, "Aff1"), (16, 8, "Aff2"), (24, 1, "MT"), (30, 1, "U"), (32, 8, "Aff3")],
    ),
    (
        CTR_EL0,
        &[
            (0, 4, "IminLine"),
            (14, 2, "L1Ip"),
            (16, 4, "DminLine"),
            (20, 4, "ERG"),
            (24, 4, "CWG"),
            (28, 1, "IDC"),
            (29, 1, "DIC"),
        ],
    ),
    (DCZID_EL0, &[(0, 4, "BS"), (4, 1, "DZP")]),
    (
        ID_AA64PFR0_EL1,
        &[
            (0, 4, "EL0"),
            (4, 4, "EL1"),
            (8, 4, "EL2"),
            (12, 4, "EL3"),
            (16, 4, "FP"),
            (20, 4, "AdvSIMD"),
            (24, 4, "GIC"),
            (28, 4, "RAS"),
            (32, 4, "SVE"),
            (36, 4, "SEL2"),
            (40, 4, "MPAM"),
            (44, 4, "AMU"),
            (48, 4, "DIT"),
            (52, 4, "RME"),
            (56, 4, "CSV2"),
            (60, 4, "CSV3"),
        ],
    ),
    (
        ID_AA64PFR1_EL1,
        &[
            (0, 4, "BT"),
            (4, 4, "SSBS"),
            (8, 4, "MTE"),
            (12, 4, "RAS_frac"),
            (16, 4, "MPAM_frac"),
            (24, 4, "SME"),
            (28, 4, "RNDR_trap"),
            (32, 4, "CSV2_frac"),
            (36, 4, "NMI"),
            (40, 4, "MTE_frac"),
            (44, 4, "GCS"),
            (48, 4, "THE"),
            (52, 4, "MTEX"),
            (56, 4, "DF2"),
            (60, 4, "PFAR"),
        ],
    ),
    (
        ID_AA64DFR0_EL1,
        &[
            (0, 4, "DebugVer"),
            (4, 4, "TraceVer"),
            (8, 4, "PMUVer"),
            (12, 4, "BRPs"),
            (16, 4, "PMSS"),
            (20, 4, "WRPs"),
            (24, 4, "SEBEP"),
            (28, 4, "CTX_CMPs"),
            (32, 4, "PMSVer"),
            (36, 4, "DoubleLock"),
            (40, 4, "TraceFilt"),
            (44, 4, "TraceBuffer"),
            (48, 4, "MTPMU"),
            (52, 4, "BRBE"),
            (56, 4, "ExtTrcBuff"),
            (60, 4, "HPMN0"),
        ],
    ),
    (ID_AA64DFR1_EL1, &[]),
    (
        ID_AA64ISAR0_EL1,
        &[
            (4, 4, "AES"),
            (8, 4, "SHA1"),
            (12, 4, "SHA2"),
            (16, 4, "CRC32"),
            (20, 4, "Atomic"),
            (24, 4, "TME"),
            (28, 4, "RDM"),
            (32, 4, "SHA3"),
            (36, 4, "SM3"),
            (40, 4, "SM4"),
            (44, 4, "DP"),
            (48, 4, "FHM"),
            (52, 4, "TS"),
            (56, 4, "TLB"),
            (60, 4, "RNDR"),
        ],
    ),
    (
        ID_AA64ISAR1_EL1,
        &[
            (0, 4, "DPB"),
            (4, 4, "APA"),
            (8, 4, "API"),
            (12, 4, "JSCVT"),
            (16, 4, "FCMA"),
            (20, 4, "LRCPC"),
            (24, 4, "GPA"),
            (28, 4, "GPI"),
            (32, 4, "FRINTTS"),
            (36, 4, "SB"),
            (40, 4, "SPECRES"),
            (44, 4, "BF16"),
            (48, 4, "DGH"),
            (52, 4, "I8MM"),
            (56, 4, "XS"),
            (60, 4, "LS64"),
        ],
    ),
    (
        ID_AA64ISAR2_EL1,
        &[
            (0, 4, "WFxT"),
            (4, 4, "RPRES"),
            (8, 4, "GPA3"),
            (12, 4, "APA3"),
            (16, 4, "MOPS"),
            (20, 4, "BC"),
            (24, 4, "PAC_frac"),
            (28, 4, "CLRBHB"),
            (32, 4, "SYSREG_128"),
            (36, 4, "SYSINSTR_128"),
            (40, 4, "PRFMSLC"),
            (48, 4, "RPRFM"),
            (52, 4, "CSSC"),
            (56, 4, "LUT"),
            (60, 4, "ATS1A"),
        ],
    ),
    (
        ID_AA64MMFR0_EL1,
        &[
            (0, 4, "PARange"),
            (4, 4, "ASIDBits"),
            (8, 4, "BigEnd"),
            (12, 4, "SNSMem"),
            (16, 4, "BigEndEL0"),
            (20, 4, "TGran16"),
            (24, 4, "TGran64"),
            (28, 4, "TGran4"),
            (32, 4, "TGran16_2"),
            (36, 4, "TGran64_2"),
            (40, 4, "TGran4_2"),
            (44, 4, "ExS"),
            (56, 4, "FGT"),
            (60, 4, "ECV"),
        ],
    ),
    (
        ID_AA64MMFR1_EL1,
        &[
            (0, 4, "HAFDBS"),
            (4, 4, "VMIDBits"),
            (8, 4, "VH"),
            (12, 4, "HPDS"),
            (16, 4, "LO"),
            (20, 4, "PAN"),
            (24, 4, "SpecSEI"),
            (28, 4, "XNX"),
            (32, 4, "TWED"),
            (36, 4, "ETS"),
            (40, 4, "HCX"),
            (44, 4, "AFP"),
            (48, 4, "nTLBPA"),
            (52, 4, "TIDCP1"),
            (56, 4, "CMOW"),
            (60, 4, "ECBHB"),
        ],
    ),
    (
        ID_AA64MMFR2_EL1,
        &[
            (0, 4, "CnP"),
            (4, 4, "UAO"),
            (8, 4, "LSM"),
            (12, 4, "IESB"),
            (16, 4, "VARange"),
            (20, 4, "CCIDX"),
            (24, 4, "NV"),
            (28, 4, "ST"),
            (32, 4, "AT"),
            (36, 4, "IDS"),
            (40, 4, "FWB"),
            (48, 4, "TTL"),
            (52, 4, "BBM"),
            (56, 4, "EVT"),
            (60, 4, "E0PD"),
        ],
    ),
    (
        ID_AA64MMFR3_EL1,
        &[
            (0, 4, "TCRX"),
            (4, 4, "SCTLRX"),
            (8, 4, "S1PIE"),
            (12, 4, "S2PIE"),
            (16, 4, "S1POE"),
            (20, 4, "S2POE"),
            (24, 4, "AIE"),
            (28, 4, "MEC"),
            (32, 4, "D128"),
            (36, 4, "D128_2"),
            (40, 4, "SNERR"),
            (44, 4, "ANERR"),
            (52, 4, "SDERR"),
            (56, 4, "ADERR"),
            (60, 4, "Spec_FPACC"),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_in_order_and_do_not_overlap() {
        for (reg, fields) in REGISTERS {
            let mut next = 0;
            for &(lsb, width, name) in *fields {
                assert!(lsb >= next && width > 0 && lsb + width <= 64, "{reg:?}.{name}");
                next = lsb + width;
            }
        }
    }
}
