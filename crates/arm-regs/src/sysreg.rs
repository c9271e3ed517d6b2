//! Every AArch64 system register the engine has: name and encoding, one line each, sorted by encoding.
//!
//! Encodings are those of the `MRS`/`MSR` instructions (Arm ARM D24, "op0, op1, CRn, CRm, op2"). Unallocated
//! slots of the feature-ID space, which read as zero and which KVM lists, are named as the manual spells them,
//! `S3_0_C0_C3_3`. EL2 registers stand here only where KVM shows them for a guest without EL2, or where the
//! core of the CPU needs a slot (`SP_EL1`).

use core::fmt;

/// Defines [`SysReg`] and its encodings from one table.
macro_rules! sysregs {
    ($($name:ident ($op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal);)+) => {
        /// A system register; the discriminant is its ordinal, the index into the CPU's `[u64; SysReg::COUNT]`.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum SysReg {
            $(#[doc = concat!("`", stringify!($name), "`: op0 ", $op0, ", op1 ", $op1, ", CRn ", $crn, ", CRm ",
                $crm, ", op2 ", $op2)]
            $name,)+
        }

        impl SysReg {
            /// All registers in the order of their encoding, which is the order of their ordinals.
            pub const ALL: &'static [SysReg] = &[$(SysReg::$name,)+];
            const NAMES: &'static [&'static str] = &[$(stringify!($name),)+];
            const CODES: &'static [u16] = &[$(code($op0, $op1, $crn, $crm, $op2),)+];
        }
    };
}

/// The 16-bit form of an encoding: op0<<14 | op1<<11 | CRn<<7 | CRm<<3 | op2, the low half of KVM's register id.
const fn code(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> u16 {
    (op0 as u16) << 14 | (op1 as u16) << 11 | (crn as u16) << 7 | (crm as u16) << 3 | op2 as u16
}

/// KVM's id of a 64-bit system register without its encoding: KVM_REG_ARM64 | KVM_REG_SIZE_U64 | ARM64_SYSREG.
const KVM_SYSREG: u64 = 0x6030_0000_0013_0000;

/// op0, op1, CRn, CRm, op2 of a system register.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Encoding {
    /// 2 or 3.
    pub op0: u8,
    /// 0..=7.
    pub op1: u8,
    /// 0..=15.
    pub crn: u8,
    /// 0..=15.
    pub crm: u8,
    /// 0..=7.
    pub op2: u8,
}

impl Encoding {
    /// The five fields packed as in KVM's register id.
    pub const fn code(self) -> u16 {
        code(self.op0, self.op1, self.crn, self.crm, self.op2)
    }

    /// The fields of a packed encoding.
    pub const fn from_code(c: u16) -> Encoding {
        Encoding {
            op0: (c >> 14) as u8,
            op1: (c >> 11 & 7) as u8,
            crn: (c >> 7 & 15) as u8,
            crm: (c >> 3 & 15) as u8,
            op2: (c & 7) as u8,
        }
    }
}

impl SysReg {
    /// How many registers there are: the length of the CPU's storage.
    pub const COUNT: usize = Self::ALL.len();

    /// The register with this encoding, if the engine has it.
    pub fn from_encoding(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Option<SysReg> {
        if op0 > 3 || op1 > 7 || crn > 15 || crm > 15 || op2 > 7 {
            return None;
        }
        Self::from_code(code(op0, op1, crn, crm, op2))
    }

    /// The register with this packed encoding (the low 16 bits of KVM's id).
    pub fn from_code(code: u16) -> Option<SysReg> {
        Self::CODES.binary_search(&code).ok().map(|i| Self::ALL[i])
    }

    /// The register with this KVM ONE_REG id.
    pub fn from_kvm_id(id: u64) -> Option<SysReg> {
        if id & !0xffff != KVM_SYSREG { None } else { Self::from_code(id as u16) }
    }

    /// The register with this name as the manual writes it, in any case.
    pub fn from_name(name: &str) -> Option<SysReg> {
        Self::ALL.iter().copied().find(|r| r.name().eq_ignore_ascii_case(name))
    }

    /// The register with this ordinal.
    pub const fn from_ordinal(i: usize) -> Option<SysReg> {
        if i < Self::COUNT { Some(Self::ALL[i]) } else { None }
    }

    /// Index into the storage arrays.
    pub const fn ordinal(self) -> usize {
        self as usize
    }

    /// op0, op1, CRn, CRm, op2.
    pub const fn encoding(self) -> Encoding {
        Encoding::from_code(self.code())
    }

    /// The packed encoding.
    pub const fn code(self) -> u16 {
        Self::CODES[self as usize]
    }

    /// KVM's ONE_REG id (for registers that KVM names as system registers; timers and others have ids of their own).
    pub const fn kvm_id(self) -> u64 {
        KVM_SYSREG | self.code() as u64
    }

    /// The name as the manual writes it.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The register `n` places further on, for families of registers laid out in a row (`DBGBVR0_EL1` steps by 4).
    pub const fn offset(self, n: usize) -> Option<SysReg> {
        Self::from_ordinal(self as usize + n)
    }
}

impl fmt::Display for SysReg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

sysregs! {
    OSDTRRX_EL1 (2, 0, 0, 0, 2);
    DBGBVR0_EL1 (2, 0, 0, 0, 4);
    DBGBCR0_EL1 (2, 0, 0, 0, 5);
    DBGWVR0_EL1 (2, 0, 0, 0, 6);
    DBGWCR0_EL1 (2, 0, 0, 0, 7);
    DBGBVR1_EL1 (2, 0, 0, 1, 4);
    DBGBCR1_EL1 (2, 0, 0, 1, 5);
    DBGWVR1_EL1 (2, 0, 0, 1, 6);
    DBGWCR1_EL1 (2, 0, 0, 1, 7);
    MDCCINT_EL1 (2, 0, 0, 2, 0);
    MDSCR_EL1 (2, 0, 0, 2, 2);
    DBGBVR2_EL1 (2, 0, 0, 2, 4);
    DBGBCR2_EL1 (2, 0, 0, 2, 5);
    DBGWVR2_EL1 (2, 0, 0, 2, 6);
    DBGWCR2_EL1 (2, 0, 0, 2, 7);
    OSDTRTX_EL1 (2, 0, 0, 3, 2);
    DBGBVR3_EL1 (2, 0, 0, 3, 4);
    DBGBCR3_EL1 (2, 0, 0, 3, 5);
    DBGWVR3_EL1 (2, 0, 0, 3, 6);
    DBGWCR3_EL1 (2, 0, 0, 3, 7);
    DBGBVR4_EL1 (2, 0, 0, 4, 4);
    DBGBCR4_EL1 (2, 0, 0, 4, 5);
    DBGWVR4_EL1 (2, 0, 0, 4, 6);
    DBGWCR4_EL1 (2, 0, 0, 4, 7);
    DBGBVR5_EL1 (2, 0, 0, 5, 4);
    DBGBCR5_EL1 (2, 0, 0, 5, 5);
    DBGWVR5_EL1 (2, 0, 0, 5, 6);
    DBGWCR5_EL1 (2, 0, 0, 5, 7);
    OSECCR_EL1 (2, 0, 0, 6, 2);
    DBGBVR6_EL1 (2, 0, 0, 6, 4);
    DBGBCR6_EL1 (2, 0, 0, 6, 5);
    DBGWVR6_EL1 (2, 0, 0, 6, 6);
    DBGWCR6_EL1 (2, 0, 0, 6, 7);
    DBGBVR7_EL1 (2, 0, 0, 7, 4);
    DBGBCR7_EL1 (2, 0, 0, 7, 5);
    DBGWVR7_EL1 (2, 0, 0, 7, 6);
    DBGWCR7_EL1 (2, 0, 0, 7, 7);
    DBGBVR8_EL1 (2, 0, 0, 8, 4);
    DBGBCR8_EL1 (2, 0, 0, 8, 5);
    DBGWVR8_EL1 (2, 0, 0, 8, 6);
    DBGWCR8_EL1 (2, 0, 0, 8, 7);
    DBGBVR9_EL1 (2, 0, 0, 9, 4);
    DBGBCR9_EL1 (2, 0, 0, 9, 5);
    DBGWVR9_EL1 (2, 0, 0, 9, 6);
    DBGWCR9_EL1 (2, 0, 0, 9, 7);
    DBGBVR10_EL1 (2, 0, 0, 10, 4);
    DBGBCR10_EL1 (2, 0, 0, 10, 5);
    DBGWVR10_EL1 (2, 0, 0, 10, 6);
    DBGWCR10_EL1 (2, 0, 0, 10, 7);
    DBGBVR11_EL1 (2, 0, 0, 11, 4);
    DBGBCR11_EL1 (2, 0, 0, 11, 5);
    DBGWVR11_EL1 (2, 0, 0, 11, 6);
    DBGWCR11_EL1 (2, 0, 0, 11, 7);
    DBGBVR12_EL1 (2, 0, 0, 12, 4);
    DBGBCR12_EL1 (2, 0, 0, 12, 5);
    DBGWVR12_EL1 (2, 0, 0, 12, 6);
    DBGWCR12_EL1 (2, 0, 0, 12, 7);
    DBGBVR13_EL1 (2, 0, 0, 13, 4);
    DBGBCR13_EL1 (2, 0, 0, 13, 5);
    DBGWVR13_EL1 (2, 0, 0, 13, 6);
    DBGWCR13_EL1 (2, 0, 0, 13, 7);
    DBGBVR14_EL1 (2, 0, 0, 14, 4);
    DBGBCR14_EL1 (2, 0, 0, 14, 5);
    DBGWVR14_EL1 (2, 0, 0, 14, 6);
    DBGWCR14_EL1 (2, 0, 0, 14, 7);
    DBGBVR15_EL1 (2, 0, 0, 15, 4);
    DBGBCR15_EL1 (2, 0, 0, 15, 5);
    DBGWVR15_EL1 (2, 0, 0, 15, 6);
    DBGWCR15_EL1 (2, 0, 0, 15, 7);
    MDRAR_EL1 (2, 0, 1, 0, 0);
    OSLAR_EL1 (2, 0, 1, 0, 4);
    OSLSR_EL1 (2, 0, 1, 1, 4);
    OSDLR_EL1 (2, 0, 1, 3, 4);
    DBGPRCR_EL1 (2, 0, 1, 4, 4);
    DBGCLAIMSET_EL1 (2, 0, 7, 8, 6);
    DBGCLAIMCLR_EL1 (2, 0, 7, 9, 6);
    DBGAUTHSTATUS_EL1 (2, 0, 7, 14, 6);
    MDCCSR_EL0 (2, 3, 0, 1, 0);
    DBGDTR_EL0 (2, 3, 0, 4, 0);
    DBGDTRRX_EL0 (2, 3, 0, 5, 0);
    DBGVCR32_EL2 (2, 4, 0, 7, 0);
    MIDR_EL1 (3, 0, 0, 0, 0);
    MPIDR_EL1 (3, 0, 0, 0, 5);
    REVIDR_EL1 (3, 0, 0, 0, 6);
    ID_PFR0_EL1 (3, 0, 0, 1, 0);
    ID_PFR1_EL1 (3, 0, 0, 1, 1);
    ID_DFR0_EL1 (3, 0, 0, 1, 2);
    ID_AFR0_EL1 (3, 0, 0, 1, 3);
    ID_MMFR0_EL1 (3, 0, 0, 1, 4);
    ID_MMFR1_EL1 (3, 0, 0, 1, 5);
    ID_MMFR2_EL1 (3, 0, 0, 1, 6);
    ID_MMFR3_EL1 (3, 0, 0, 1, 7);
    ID_ISAR0_EL1 (3, 0, 0, 2, 0);
    ID_ISAR1_EL1 (3, 0, 0, 2, 1);
    ID_ISAR2_EL1 (3, 0, 0, 2, 2);
    ID_ISAR3_EL1 (3, 0, 0, 2, 3);
    ID_ISAR4_EL1 (3, 0, 0, 2, 4);
    ID_ISAR5_EL1 (3, 0, 0, 2, 5);
    ID_MMFR4_EL1 (3, 0, 0, 2, 6);
    ID_ISAR6_EL1 (3, 0, 0, 2, 7);
    MVFR0_EL1 (3, 0, 0, 3, 0);
    MVFR1_EL1 (3, 0, 0, 3, 1);
    MVFR2_EL1 (3, 0, 0, 3, 2);
    S3_0_C0_C3_3 (3, 0, 0, 3, 3);
    ID_PFR2_EL1 (3, 0, 0, 3, 4);
    ID_DFR1_EL1 (3, 0, 0, 3, 5);
    ID_MMFR5_EL1 (3, 0, 0, 3, 6);
    S3_0_C0_C3_7 (3, 0, 0, 3, 7);
    ID_AA64PFR0_EL1 (3, 0, 0, 4, 0);
    ID_AA64PFR1_EL1 (3, 0, 0, 4, 1);
    ID_AA64PFR2_EL1 (3, 0, 0, 4, 2);
    S3_0_C0_C4_3 (3, 0, 0, 4, 3);
    ID_AA64ZFR0_EL1 (3, 0, 0, 4, 4);
    ID_AA64SMFR0_EL1 (3, 0, 0, 4, 5);
    S3_0_C0_C4_6 (3, 0, 0, 4, 6);
    ID_AA64FPFR0_EL1 (3, 0, 0, 4, 7);
    ID_AA64DFR0_EL1 (3, 0, 0, 5, 0);
    ID_AA64DFR1_EL1 (3, 0, 0, 5, 1);
    ID_AA64DFR2_EL1 (3, 0, 0, 5, 2);
    S3_0_C0_C5_3 (3, 0, 0, 5, 3);
    ID_AA64AFR0_EL1 (3, 0, 0, 5, 4);
    ID_AA64AFR1_EL1 (3, 0, 0, 5, 5);
    S3_0_C0_C5_6 (3, 0, 0, 5, 6);
    S3_0_C0_C5_7 (3, 0, 0, 5, 7);
    ID_AA64ISAR0_EL1 (3, 0, 0, 6, 0);
    ID_AA64ISAR1_EL1 (3, 0, 0, 6, 1);
    ID_AA64ISAR2_EL1 (3, 0, 0, 6, 2);
    ID_AA64ISAR3_EL1 (3, 0, 0, 6, 3);
    S3_0_C0_C6_4 (3, 0, 0, 6, 4);
    S3_0_C0_C6_5 (3, 0, 0, 6, 5);
    S3_0_C0_C6_6 (3, 0, 0, 6, 6);
    S3_0_C0_C6_7 (3, 0, 0, 6, 7);
    ID_AA64MMFR0_EL1 (3, 0, 0, 7, 0);
    ID_AA64MMFR1_EL1 (3, 0, 0, 7, 1);
    ID_AA64MMFR2_EL1 (3, 0, 0, 7, 2);
    ID_AA64MMFR3_EL1 (3, 0, 0, 7, 3);
    ID_AA64MMFR4_EL1 (3, 0, 0, 7, 4);
    S3_0_C0_C7_5 (3, 0, 0, 7, 5);
    S3_0_C0_C7_6 (3, 0, 0, 7, 6);
    S3_0_C0_C7_7 (3, 0, 0, 7, 7);
    SCTLR_EL1 (3, 0, 1, 0, 0);
    ACTLR_EL1 (3, 0, 1, 0, 1);
    CPACR_EL1 (3, 0, 1, 0, 2);
    RGSR_EL1 (3, 0, 1, 0, 5);
    GCR_EL1 (3, 0, 1, 0, 6);
    ZCR_EL1 (3, 0, 1, 2, 0);
    TTBR0_EL1 (3, 0, 2, 0, 0);
    TTBR1_EL1 (3, 0, 2, 0, 1);
    TCR_EL1 (3, 0, 2, 0, 2);
    TCR2_EL1 (3, 0, 2, 0, 3);
    APIAKeyLo_EL1 (3, 0, 2, 1, 0);
    APIAKeyHi_EL1 (3, 0, 2, 1, 1);
    APIBKeyLo_EL1 (3, 0, 2, 1, 2);
    APIBKeyHi_EL1 (3, 0, 2, 1, 3);
    APDAKeyLo_EL1 (3, 0, 2, 2, 0);
    APDAKeyHi_EL1 (3, 0, 2, 2, 1);
    APDBKeyLo_EL1 (3, 0, 2, 2, 2);
    APDBKeyHi_EL1 (3, 0, 2, 2, 3);
    APGAKeyLo_EL1 (3, 0, 2, 3, 0);
    APGAKeyHi_EL1 (3, 0, 2, 3, 1);
    SPSR_EL1 (3, 0, 4, 0, 0);
    ELR_EL1 (3, 0, 4, 0, 1);
    SP_EL0 (3, 0, 4, 1, 0);
    SPSel (3, 0, 4, 2, 0);
    CurrentEL (3, 0, 4, 2, 2);
    PAN (3, 0, 4, 2, 3);
    UAO (3, 0, 4, 2, 4);
    ICC_PMR_EL1 (3, 0, 4, 6, 0);
    AFSR0_EL1 (3, 0, 5, 1, 0);
    AFSR1_EL1 (3, 0, 5, 1, 1);
    ESR_EL1 (3, 0, 5, 2, 0);
    ERRIDR_EL1 (3, 0, 5, 3, 0);
    ERRSELR_EL1 (3, 0, 5, 3, 1);
    ERXFR_EL1 (3, 0, 5, 4, 0);
    ERXCTLR_EL1 (3, 0, 5, 4, 1);
    ERXSTATUS_EL1 (3, 0, 5, 4, 2);
    ERXADDR_EL1 (3, 0, 5, 4, 3);
    ERXPFGF_EL1 (3, 0, 5, 4, 4);
    ERXPFGCTL_EL1 (3, 0, 5, 4, 5);
    ERXPFGCDN_EL1 (3, 0, 5, 4, 6);
    ERXMISC0_EL1 (3, 0, 5, 5, 0);
    ERXMISC1_EL1 (3, 0, 5, 5, 1);
    ERXMISC2_EL1 (3, 0, 5, 5, 2);
    ERXMISC3_EL1 (3, 0, 5, 5, 3);
    TFSR_EL1 (3, 0, 5, 6, 0);
    TFSRE0_EL1 (3, 0, 5, 6, 1);
    FAR_EL1 (3, 0, 6, 0, 0);
    PAR_EL1 (3, 0, 7, 4, 0);
    PMINTENSET_EL1 (3, 0, 9, 14, 1);
    PMINTENCLR_EL1 (3, 0, 9, 14, 2);
    PMMIR_EL1 (3, 0, 9, 14, 6);
    MAIR_EL1 (3, 0, 10, 2, 0);
    PIRE0_EL1 (3, 0, 10, 2, 2);
    PIR_EL1 (3, 0, 10, 2, 3);
    POR_EL1 (3, 0, 10, 2, 4);
    AMAIR_EL1 (3, 0, 10, 3, 0);
    LORSA_EL1 (3, 0, 10, 4, 0);
    LOREA_EL1 (3, 0, 10, 4, 1);
    LORN_EL1 (3, 0, 10, 4, 2);
    LORC_EL1 (3, 0, 10, 4, 3);
    LORID_EL1 (3, 0, 10, 4, 7);
    VBAR_EL1 (3, 0, 12, 0, 0);
    ISR_EL1 (3, 0, 12, 1, 0);
    DISR_EL1 (3, 0, 12, 1, 1);
    ICC_IAR0_EL1 (3, 0, 12, 8, 0);
    ICC_EOIR0_EL1 (3, 0, 12, 8, 1);
    ICC_HPPIR0_EL1 (3, 0, 12, 8, 2);
    ICC_BPR0_EL1 (3, 0, 12, 8, 3);
    ICC_AP0R0_EL1 (3, 0, 12, 8, 4);
    ICC_AP0R1_EL1 (3, 0, 12, 8, 5);
    ICC_AP0R2_EL1 (3, 0, 12, 8, 6);
    ICC_AP0R3_EL1 (3, 0, 12, 8, 7);
    ICC_AP1R0_EL1 (3, 0, 12, 9, 0);
    ICC_AP1R1_EL1 (3, 0, 12, 9, 1);
    ICC_AP1R2_EL1 (3, 0, 12, 9, 2);
    ICC_AP1R3_EL1 (3, 0, 12, 9, 3);
    ICC_DIR_EL1 (3, 0, 12, 11, 1);
    ICC_RPR_EL1 (3, 0, 12, 11, 3);
    ICC_SGI1R_EL1 (3, 0, 12, 11, 5);
    ICC_ASGI1R_EL1 (3, 0, 12, 11, 6);
    ICC_SGI0R_EL1 (3, 0, 12, 11, 7);
    ICC_IAR1_EL1 (3, 0, 12, 12, 0);
    ICC_EOIR1_EL1 (3, 0, 12, 12, 1);
    ICC_HPPIR1_EL1 (3, 0, 12, 12, 2);
    ICC_BPR1_EL1 (3, 0, 12, 12, 3);
    ICC_CTLR_EL1 (3, 0, 12, 12, 4);
    ICC_SRE_EL1 (3, 0, 12, 12, 5);
    ICC_IGRPEN0_EL1 (3, 0, 12, 12, 6);
    ICC_IGRPEN1_EL1 (3, 0, 12, 12, 7);
    CONTEXTIDR_EL1 (3, 0, 13, 0, 1);
    TPIDR_EL1 (3, 0, 13, 0, 4);
    SCXTNUM_EL1 (3, 0, 13, 0, 7);
    CNTKCTL_EL1 (3, 0, 14, 1, 0);
    CCSIDR_EL1 (3, 1, 0, 0, 0);
    CLIDR_EL1 (3, 1, 0, 0, 1);
    CCSIDR2_EL1 (3, 1, 0, 0, 2);
    GMID_EL1 (3, 1, 0, 0, 4);
    AIDR_EL1 (3, 1, 0, 0, 7);
    CSSELR_EL1 (3, 2, 0, 0, 0);
    CTR_EL0 (3, 3, 0, 0, 1);
    DCZID_EL0 (3, 3, 0, 0, 7);
    RNDR (3, 3, 2, 4, 0);
    RNDRRS (3, 3, 2, 4, 1);
    NZCV (3, 3, 4, 2, 0);
    DAIF (3, 3, 4, 2, 1);
    SVCR (3, 3, 4, 2, 2);
    DIT (3, 3, 4, 2, 5);
    SSBS (3, 3, 4, 2, 6);
    TCO (3, 3, 4, 2, 7);
    FPCR (3, 3, 4, 4, 0);
    FPSR (3, 3, 4, 4, 1);
    FPMR (3, 3, 4, 4, 2);
    PMCR_EL0 (3, 3, 9, 12, 0);
    PMCNTENSET_EL0 (3, 3, 9, 12, 1);
    PMCNTENCLR_EL0 (3, 3, 9, 12, 2);
    PMOVSCLR_EL0 (3, 3, 9, 12, 3);
    PMSWINC_EL0 (3, 3, 9, 12, 4);
    PMSELR_EL0 (3, 3, 9, 12, 5);
    PMCEID0_EL0 (3, 3, 9, 12, 6);
    PMCEID1_EL0 (3, 3, 9, 12, 7);
    PMCCNTR_EL0 (3, 3, 9, 13, 0);
    PMXEVTYPER_EL0 (3, 3, 9, 13, 1);
    PMXEVCNTR_EL0 (3, 3, 9, 13, 2);
    PMUSERENR_EL0 (3, 3, 9, 14, 0);
    PMOVSSET_EL0 (3, 3, 9, 14, 3);
    POR_EL0 (3, 3, 10, 2, 4);
    TPIDR_EL0 (3, 3, 13, 0, 2);
    TPIDRRO_EL0 (3, 3, 13, 0, 3);
    SCXTNUM_EL0 (3, 3, 13, 0, 7);
    CNTFRQ_EL0 (3, 3, 14, 0, 0);
    CNTPCT_EL0 (3, 3, 14, 0, 1);
    CNTVCT_EL0 (3, 3, 14, 0, 2);
    CNTPCTSS_EL0 (3, 3, 14, 0, 5);
    CNTVCTSS_EL0 (3, 3, 14, 0, 6);
    CNTP_TVAL_EL0 (3, 3, 14, 2, 0);
    CNTP_CTL_EL0 (3, 3, 14, 2, 1);
    CNTP_CVAL_EL0 (3, 3, 14, 2, 2);
    CNTV_TVAL_EL0 (3, 3, 14, 3, 0);
    CNTV_CTL_EL0 (3, 3, 14, 3, 1);
    CNTV_CVAL_EL0 (3, 3, 14, 3, 2);
    PMEVCNTR0_EL0 (3, 3, 14, 8, 0);
    PMEVCNTR1_EL0 (3, 3, 14, 8, 1);
    PMEVCNTR2_EL0 (3, 3, 14, 8, 2);
    PMEVCNTR3_EL0 (3, 3, 14, 8, 3);
    PMEVCNTR4_EL0 (3, 3, 14, 8, 4);
    PMEVCNTR5_EL0 (3, 3, 14, 8, 5);
    PMEVCNTR6_EL0 (3, 3, 14, 8, 6);
    PMEVCNTR7_EL0 (3, 3, 14, 8, 7);
    PMEVCNTR8_EL0 (3, 3, 14, 9, 0);
    PMEVCNTR9_EL0 (3, 3, 14, 9, 1);
    PMEVCNTR10_EL0 (3, 3, 14, 9, 2);
    PMEVCNTR11_EL0 (3, 3, 14, 9, 3);
    PMEVCNTR12_EL0 (3, 3, 14, 9, 4);
    PMEVCNTR13_EL0 (3, 3, 14, 9, 5);
    PMEVCNTR14_EL0 (3, 3, 14, 9, 6);
    PMEVCNTR15_EL0 (3, 3, 14, 9, 7);
    PMEVCNTR16_EL0 (3, 3, 14, 10, 0);
    PMEVCNTR17_EL0 (3, 3, 14, 10, 1);
    PMEVCNTR18_EL0 (3, 3, 14, 10, 2);
    PMEVCNTR19_EL0 (3, 3, 14, 10, 3);
    PMEVCNTR20_EL0 (3, 3, 14, 10, 4);
    PMEVCNTR21_EL0 (3, 3, 14, 10, 5);
    PMEVCNTR22_EL0 (3, 3, 14, 10, 6);
    PMEVCNTR23_EL0 (3, 3, 14, 10, 7);
    PMEVCNTR24_EL0 (3, 3, 14, 11, 0);
    PMEVCNTR25_EL0 (3, 3, 14, 11, 1);
    PMEVCNTR26_EL0 (3, 3, 14, 11, 2);
    PMEVCNTR27_EL0 (3, 3, 14, 11, 3);
    PMEVCNTR28_EL0 (3, 3, 14, 11, 4);
    PMEVCNTR29_EL0 (3, 3, 14, 11, 5);
    PMEVCNTR30_EL0 (3, 3, 14, 11, 6);
    PMEVTYPER0_EL0 (3, 3, 14, 12, 0);
    PMEVTYPER1_EL0 (3, 3, 14, 12, 1);
    PMEVTYPER2_EL0 (3, 3, 14, 12, 2);
    PMEVTYPER3_EL0 (3, 3, 14, 12, 3);
    PMEVTYPER4_EL0 (3, 3, 14, 12, 4);
    PMEVTYPER5_EL0 (3, 3, 14, 12, 5);
    PMEVTYPER6_EL0 (3, 3, 14, 12, 6);
    PMEVTYPER7_EL0 (3, 3, 14, 12, 7);
    PMEVTYPER8_EL0 (3, 3, 14, 13, 0);
    PMEVTYPER9_EL0 (3, 3, 14, 13, 1);
    PMEVTYPER10_EL0 (3, 3, 14, 13, 2);
    PMEVTYPER11_EL0 (3, 3, 14, 13, 3);
    PMEVTYPER12_EL0 (3, 3, 14, 13, 4);
    PMEVTYPER13_EL0 (3, 3, 14, 13, 5);
    PMEVTYPER14_EL0 (3, 3, 14, 13, 6);
    PMEVTYPER15_EL0 (3, 3, 14, 13, 7);
    PMEVTYPER16_EL0 (3, 3, 14, 14, 0);
    PMEVTYPER17_EL0 (3, 3, 14, 14, 1);
    PMEVTYPER18_EL0 (3, 3, 14, 14, 2);
    PMEVTYPER19_EL0 (3, 3, 14, 14, 3);
    PMEVTYPER20_EL0 (3, 3, 14, 14, 4);
    PMEVTYPER21_EL0 (3, 3, 14, 14, 5);
    PMEVTYPER22_EL0 (3, 3, 14, 14, 6);
    PMEVTYPER23_EL0 (3, 3, 14, 14, 7);
    PMEVTYPER24_EL0 (3, 3, 14, 15, 0);
    PMEVTYPER25_EL0 (3, 3, 14, 15, 1);
    PMEVTYPER26_EL0 (3, 3, 14, 15, 2);
    PMEVTYPER27_EL0 (3, 3, 14, 15, 3);
    PMEVTYPER28_EL0 (3, 3, 14, 15, 4);
    PMEVTYPER29_EL0 (3, 3, 14, 15, 5);
    PMEVTYPER30_EL0 (3, 3, 14, 15, 6);
    PMCCFILTR_EL0 (3, 3, 14, 15, 7);
    DACR32_EL2 (3, 4, 3, 0, 0);
    SP_EL1 (3, 4, 4, 1, 0);
    SPSR_irq (3, 4, 4, 3, 0);
    SPSR_abt (3, 4, 4, 3, 1);
    SPSR_und (3, 4, 4, 3, 2);
    SPSR_fiq (3, 4, 4, 3, 3);
    IFSR32_EL2 (3, 4, 5, 0, 1);
    FPEXC32_EL2 (3, 4, 5, 3, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_unique() {
        assert!(SysReg::CODES.windows(2).all(|w| w[0] < w[1]));
        let names: std::collections::BTreeSet<_> = SysReg::NAMES.iter().collect();
        assert_eq!(names.len(), SysReg::COUNT);
    }

    #[test]
    fn every_register_is_found_by_encoding_id_name_and_ordinal() {
        for (i, &r) in SysReg::ALL.iter().enumerate() {
            let e = r.encoding();
            assert_eq!(r as usize, i);
            assert_eq!(SysReg::from_encoding(e.op0, e.op1, e.crn, e.crm, e.op2), Some(r));
            assert_eq!(SysReg::from_kvm_id(r.kvm_id()), Some(r));
            assert_eq!(SysReg::from_name(r.name()), Some(r));
            assert_eq!(SysReg::from_ordinal(i), Some(r));
        }
    }

    #[test]
    fn well_known_ids() {
        assert_eq!(SysReg::MIDR_EL1.kvm_id(), 0x6030_0000_0013_c000);
        assert_eq!(SysReg::SCTLR_EL1.kvm_id(), 0x6030_0000_0013_c080);
        assert_eq!(SysReg::FPEXC32_EL2.kvm_id(), 0x6030_0000_0013_e298);
        assert_eq!(SysReg::DBGBVR0_EL1.kvm_id(), 0x6030_0000_0013_8004);
        assert_eq!(SysReg::PMCCFILTR_EL0.kvm_id(), 0x6030_0000_0013_df7f);
        assert_eq!(SysReg::from_encoding(3, 7, 15, 15, 7), None);
        assert_eq!(SysReg::from_encoding(4, 0, 0, 0, 0), None);
    }
}
