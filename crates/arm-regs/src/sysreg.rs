//! Every AArch64 system register the engine has, one line each, sorted by encoding.
//!
//! A line says: name, encoding, access by the guest, lowest exception level that may have access, who holds the
//! value, value at reset, how KVM shows it to a VMM, feature without which it does not exist, and what else a write
//! moves. The words are explained at the types of [`crate::row`].
//!
//! Encodings are those of the `MRS`/`MSR` instructions (Arm ARM D24, "op0, op1, CRn, CRm, op2"). Unallocated
//! slots of the feature-ID space, which read as zero and which KVM lists, are named as the manual spells them,
//! `S3_0_C0_C3_3`. EL2 registers stand here only where KVM shows them for a guest without EL2, or where the
//! core of the CPU needs a slot (`SP_EL1`).

use crate::row::{Row, word};
use core::fmt;

/// Defines [`SysReg`], its encodings and its rows from one table.
macro_rules! sysregs {
    ($($name:ident ($op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal)
        $access:ident $el:ident $storage:ident reset($reset:tt) kvm($kvm:ident) needs($needs:ident)
        effect($effect:ident);)+) => {
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

        pub(crate) static ROWS: &[Row] = &[$(Row {
            reg: SysReg::$name,
            access: word!(access $access),
            el: word!(el $el),
            storage: word!(storage $storage),
            reset: word!(reset $reset),
            kvm: word!(kvm $kvm),
            needs: word!(needs $needs),
            effect: word!(effect $effect),
        },)+];
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
    OSDTRRX_EL1 (2, 0, 0, 0, 2) rw el1 raz reset(0) kvm(none) needs(none) effect(none);
    DBGBVR0_EL1 (2, 0, 0, 0, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR0_EL1 (2, 0, 0, 0, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR0_EL1 (2, 0, 0, 0, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR0_EL1 (2, 0, 0, 0, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBVR1_EL1 (2, 0, 0, 1, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR1_EL1 (2, 0, 0, 1, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR1_EL1 (2, 0, 0, 1, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR1_EL1 (2, 0, 0, 1, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    MDCCINT_EL1 (2, 0, 0, 2, 0) rw el1 cpu reset(0) kvm(always) needs(none) effect(none);
    MDSCR_EL1 (2, 0, 0, 2, 2) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBVR2_EL1 (2, 0, 0, 2, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR2_EL1 (2, 0, 0, 2, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR2_EL1 (2, 0, 0, 2, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR2_EL1 (2, 0, 0, 2, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    OSDTRTX_EL1 (2, 0, 0, 3, 2) rw el1 raz reset(0) kvm(none) needs(none) effect(none);
    DBGBVR3_EL1 (2, 0, 0, 3, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR3_EL1 (2, 0, 0, 3, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR3_EL1 (2, 0, 0, 3, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR3_EL1 (2, 0, 0, 3, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBVR4_EL1 (2, 0, 0, 4, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR4_EL1 (2, 0, 0, 4, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR4_EL1 (2, 0, 0, 4, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR4_EL1 (2, 0, 0, 4, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBVR5_EL1 (2, 0, 0, 5, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR5_EL1 (2, 0, 0, 5, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR5_EL1 (2, 0, 0, 5, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR5_EL1 (2, 0, 0, 5, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    OSECCR_EL1 (2, 0, 0, 6, 2) rw el1 raz reset(0) kvm(none) needs(none) effect(none);
    DBGBVR6_EL1 (2, 0, 0, 6, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR6_EL1 (2, 0, 0, 6, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR6_EL1 (2, 0, 0, 6, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR6_EL1 (2, 0, 0, 6, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBVR7_EL1 (2, 0, 0, 7, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR7_EL1 (2, 0, 0, 7, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR7_EL1 (2, 0, 0, 7, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR7_EL1 (2, 0, 0, 7, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBVR8_EL1 (2, 0, 0, 8, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR8_EL1 (2, 0, 0, 8, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR8_EL1 (2, 0, 0, 8, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR8_EL1 (2, 0, 0, 8, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBVR9_EL1 (2, 0, 0, 9, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR9_EL1 (2, 0, 0, 9, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR9_EL1 (2, 0, 0, 9, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR9_EL1 (2, 0, 0, 9, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBVR10_EL1 (2, 0, 0, 10, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR10_EL1 (2, 0, 0, 10, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR10_EL1 (2, 0, 0, 10, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR10_EL1 (2, 0, 0, 10, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBVR11_EL1 (2, 0, 0, 11, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR11_EL1 (2, 0, 0, 11, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR11_EL1 (2, 0, 0, 11, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR11_EL1 (2, 0, 0, 11, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBVR12_EL1 (2, 0, 0, 12, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR12_EL1 (2, 0, 0, 12, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR12_EL1 (2, 0, 0, 12, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR12_EL1 (2, 0, 0, 12, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBVR13_EL1 (2, 0, 0, 13, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR13_EL1 (2, 0, 0, 13, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR13_EL1 (2, 0, 0, 13, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR13_EL1 (2, 0, 0, 13, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBVR14_EL1 (2, 0, 0, 14, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR14_EL1 (2, 0, 0, 14, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR14_EL1 (2, 0, 0, 14, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR14_EL1 (2, 0, 0, 14, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBVR15_EL1 (2, 0, 0, 15, 4) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGBCR15_EL1 (2, 0, 0, 15, 5) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWVR15_EL1 (2, 0, 0, 15, 6) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    DBGWCR15_EL1 (2, 0, 0, 15, 7) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    MDRAR_EL1 (2, 0, 1, 0, 0) ro el1 raz reset(0) kvm(none) needs(none) effect(none);
    OSLAR_EL1 (2, 0, 1, 0, 4) wo el1 derived reset(0) kvm(none) needs(none) effect(debug);
    OSLSR_EL1 (2, 0, 1, 1, 4) ro el1 cpu reset(0x8) kvm(always) needs(none) effect(none);
    OSDLR_EL1 (2, 0, 1, 3, 4) rw el1 raz reset(0) kvm(none) needs(none) effect(none);
    DBGPRCR_EL1 (2, 0, 1, 4, 4) rw el1 raz reset(0) kvm(none) needs(none) effect(none);
    DBGCLAIMSET_EL1 (2, 0, 7, 8, 6) rw el1 raz reset(0) kvm(none) needs(none) effect(none);
    DBGCLAIMCLR_EL1 (2, 0, 7, 9, 6) rw el1 raz reset(0) kvm(none) needs(none) effect(none);
    DBGAUTHSTATUS_EL1 (2, 0, 7, 14, 6) ro el1 raz reset(0) kvm(none) needs(none) effect(none);
    MDCCSR_EL0 (2, 3, 0, 1, 0) ro el0 raz reset(0) kvm(none) needs(none) effect(none);
    DBGDTR_EL0 (2, 3, 0, 4, 0) rw el0 raz reset(0) kvm(none) needs(none) effect(none);
    DBGDTRRX_EL0 (2, 3, 0, 5, 0) rw el0 raz reset(0) kvm(none) needs(none) effect(none);
    DBGVCR32_EL2 (2, 4, 0, 7, 0) rw el2 cpu reset(0) kvm(always) needs(none) effect(none);
    MIDR_EL1 (3, 0, 0, 0, 0) ro el1 host reset(machine) kvm(always) needs(none) effect(none);
    MPIDR_EL1 (3, 0, 0, 0, 5) ro el1 cpu reset(machine) kvm(always) needs(none) effect(none);
    REVIDR_EL1 (3, 0, 0, 0, 6) ro el1 host reset(machine) kvm(always) needs(none) effect(none);
    ID_PFR0_EL1 (3, 0, 0, 1, 0) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_PFR1_EL1 (3, 0, 0, 1, 1) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_DFR0_EL1 (3, 0, 0, 1, 2) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AFR0_EL1 (3, 0, 0, 1, 3) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_MMFR0_EL1 (3, 0, 0, 1, 4) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_MMFR1_EL1 (3, 0, 0, 1, 5) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_MMFR2_EL1 (3, 0, 0, 1, 6) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_MMFR3_EL1 (3, 0, 0, 1, 7) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_ISAR0_EL1 (3, 0, 0, 2, 0) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_ISAR1_EL1 (3, 0, 0, 2, 1) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_ISAR2_EL1 (3, 0, 0, 2, 2) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_ISAR3_EL1 (3, 0, 0, 2, 3) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_ISAR4_EL1 (3, 0, 0, 2, 4) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_ISAR5_EL1 (3, 0, 0, 2, 5) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_MMFR4_EL1 (3, 0, 0, 2, 6) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_ISAR6_EL1 (3, 0, 0, 2, 7) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    MVFR0_EL1 (3, 0, 0, 3, 0) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    MVFR1_EL1 (3, 0, 0, 3, 1) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    MVFR2_EL1 (3, 0, 0, 3, 2) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C3_3 (3, 0, 0, 3, 3) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_PFR2_EL1 (3, 0, 0, 3, 4) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_DFR1_EL1 (3, 0, 0, 3, 5) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_MMFR5_EL1 (3, 0, 0, 3, 6) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C3_7 (3, 0, 0, 3, 7) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64PFR0_EL1 (3, 0, 0, 4, 0) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64PFR1_EL1 (3, 0, 0, 4, 1) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64PFR2_EL1 (3, 0, 0, 4, 2) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C4_3 (3, 0, 0, 4, 3) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64ZFR0_EL1 (3, 0, 0, 4, 4) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64SMFR0_EL1 (3, 0, 0, 4, 5) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C4_6 (3, 0, 0, 4, 6) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64FPFR0_EL1 (3, 0, 0, 4, 7) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64DFR0_EL1 (3, 0, 0, 5, 0) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64DFR1_EL1 (3, 0, 0, 5, 1) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64DFR2_EL1 (3, 0, 0, 5, 2) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C5_3 (3, 0, 0, 5, 3) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64AFR0_EL1 (3, 0, 0, 5, 4) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64AFR1_EL1 (3, 0, 0, 5, 5) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C5_6 (3, 0, 0, 5, 6) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C5_7 (3, 0, 0, 5, 7) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64ISAR0_EL1 (3, 0, 0, 6, 0) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64ISAR1_EL1 (3, 0, 0, 6, 1) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64ISAR2_EL1 (3, 0, 0, 6, 2) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64ISAR3_EL1 (3, 0, 0, 6, 3) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C6_4 (3, 0, 0, 6, 4) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C6_5 (3, 0, 0, 6, 5) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C6_6 (3, 0, 0, 6, 6) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C6_7 (3, 0, 0, 6, 7) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64MMFR0_EL1 (3, 0, 0, 7, 0) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64MMFR1_EL1 (3, 0, 0, 7, 1) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64MMFR2_EL1 (3, 0, 0, 7, 2) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64MMFR3_EL1 (3, 0, 0, 7, 3) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    ID_AA64MMFR4_EL1 (3, 0, 0, 7, 4) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C7_5 (3, 0, 0, 7, 5) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C7_6 (3, 0, 0, 7, 6) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    S3_0_C0_C7_7 (3, 0, 0, 7, 7) ro el1 vm reset(machine) kvm(always) needs(none) effect(none);
    SCTLR_EL1 (3, 0, 1, 0, 0) rw el1 cpu reset(0xc5_0078) kvm(always) needs(none) effect(translation);
    ACTLR_EL1 (3, 0, 1, 0, 1) rw el1 cpu reset(machine) kvm(always) needs(none) effect(none);
    CPACR_EL1 (3, 0, 1, 0, 2) rw el1 cpu reset(0) kvm(always) needs(none) effect(fp);
    RGSR_EL1 (3, 0, 1, 0, 5) rw el1 cpu reset(unknown) kvm(mte) needs(MTE2) effect(none);
    GCR_EL1 (3, 0, 1, 0, 6) rw el1 cpu reset(unknown) kvm(mte) needs(MTE2) effect(none);
    ZCR_EL1 (3, 0, 1, 2, 0) rw el1 cpu reset(0) kvm(sve) needs(SVE) effect(fp);
    TTBR0_EL1 (3, 0, 2, 0, 0) rw el1 cpu reset(unknown) kvm(always) needs(none) effect(translation);
    TTBR1_EL1 (3, 0, 2, 0, 1) rw el1 cpu reset(unknown) kvm(always) needs(none) effect(translation);
    TCR_EL1 (3, 0, 2, 0, 2) rw el1 cpu reset(0) kvm(always) needs(none) effect(translation);
    TCR2_EL1 (3, 0, 2, 0, 3) rw el1 cpu reset(0) kvm(always) needs(TCR2) effect(translation);
    APIAKeyLo_EL1 (3, 0, 2, 1, 0) rw el1 cpu reset(unknown) kvm(pauth) needs(PAuth) effect(none);
    APIAKeyHi_EL1 (3, 0, 2, 1, 1) rw el1 cpu reset(unknown) kvm(pauth) needs(PAuth) effect(none);
    APIBKeyLo_EL1 (3, 0, 2, 1, 2) rw el1 cpu reset(unknown) kvm(pauth) needs(PAuth) effect(none);
    APIBKeyHi_EL1 (3, 0, 2, 1, 3) rw el1 cpu reset(unknown) kvm(pauth) needs(PAuth) effect(none);
    APDAKeyLo_EL1 (3, 0, 2, 2, 0) rw el1 cpu reset(unknown) kvm(pauth) needs(PAuth) effect(none);
    APDAKeyHi_EL1 (3, 0, 2, 2, 1) rw el1 cpu reset(unknown) kvm(pauth) needs(PAuth) effect(none);
    APDBKeyLo_EL1 (3, 0, 2, 2, 2) rw el1 cpu reset(unknown) kvm(pauth) needs(PAuth) effect(none);
    APDBKeyHi_EL1 (3, 0, 2, 2, 3) rw el1 cpu reset(unknown) kvm(pauth) needs(PAuth) effect(none);
    APGAKeyLo_EL1 (3, 0, 2, 3, 0) rw el1 cpu reset(unknown) kvm(pauth) needs(PACGA) effect(none);
    APGAKeyHi_EL1 (3, 0, 2, 3, 1) rw el1 cpu reset(unknown) kvm(pauth) needs(PACGA) effect(none);
    SPSR_EL1 (3, 0, 4, 0, 0) rw el1 cpu reset(kept) kvm(core) needs(none) effect(none);
    ELR_EL1 (3, 0, 4, 0, 1) rw el1 cpu reset(kept) kvm(core) needs(none) effect(none);
    SP_EL0 (3, 0, 4, 1, 0) rw el1 cpu reset(0) kvm(core) needs(none) effect(none);
    SPSel (3, 0, 4, 2, 0) rw el1 derived reset(0) kvm(core) needs(none) effect(none);
    CurrentEL (3, 0, 4, 2, 2) ro el1 derived reset(0) kvm(core) needs(none) effect(none);
    PAN (3, 0, 4, 2, 3) rw el1 derived reset(0) kvm(core) needs(PAN) effect(translation);
    UAO (3, 0, 4, 2, 4) rw el1 derived reset(0) kvm(core) needs(UAO) effect(translation);
    ICC_PMR_EL1 (3, 0, 4, 6, 0) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    AFSR0_EL1 (3, 0, 5, 1, 0) rw el1 cpu reset(unknown) kvm(always) needs(none) effect(none);
    AFSR1_EL1 (3, 0, 5, 1, 1) rw el1 cpu reset(unknown) kvm(always) needs(none) effect(none);
    ESR_EL1 (3, 0, 5, 2, 0) rw el1 cpu reset(unknown) kvm(always) needs(none) effect(none);
    ERRIDR_EL1 (3, 0, 5, 3, 0) ro el1 raz reset(0) kvm(none) needs(RAS) effect(none);
    ERRSELR_EL1 (3, 0, 5, 3, 1) rw el1 raz reset(0) kvm(none) needs(RAS) effect(none);
    ERXFR_EL1 (3, 0, 5, 4, 0) ro el1 raz reset(0) kvm(none) needs(RAS) effect(none);
    ERXCTLR_EL1 (3, 0, 5, 4, 1) rw el1 raz reset(0) kvm(none) needs(RAS) effect(none);
    ERXSTATUS_EL1 (3, 0, 5, 4, 2) rw el1 raz reset(0) kvm(none) needs(RAS) effect(none);
    ERXADDR_EL1 (3, 0, 5, 4, 3) rw el1 raz reset(0) kvm(none) needs(RAS) effect(none);
    ERXPFGF_EL1 (3, 0, 5, 4, 4) ro el1 undef reset(0) kvm(none) needs(RASv1p1) effect(none);
    ERXPFGCTL_EL1 (3, 0, 5, 4, 5) rw el1 undef reset(0) kvm(none) needs(RASv1p1) effect(none);
    ERXPFGCDN_EL1 (3, 0, 5, 4, 6) rw el1 undef reset(0) kvm(none) needs(RASv1p1) effect(none);
    ERXMISC0_EL1 (3, 0, 5, 5, 0) rw el1 raz reset(0) kvm(none) needs(RAS) effect(none);
    ERXMISC1_EL1 (3, 0, 5, 5, 1) rw el1 raz reset(0) kvm(none) needs(RAS) effect(none);
    ERXMISC2_EL1 (3, 0, 5, 5, 2) rw el1 undef reset(0) kvm(none) needs(RASv1p1) effect(none);
    ERXMISC3_EL1 (3, 0, 5, 5, 3) rw el1 undef reset(0) kvm(none) needs(RASv1p1) effect(none);
    TFSR_EL1 (3, 0, 5, 6, 0) rw el1 cpu reset(unknown) kvm(mte) needs(MTE2) effect(none);
    TFSRE0_EL1 (3, 0, 5, 6, 1) rw el1 cpu reset(unknown) kvm(mte) needs(MTE2) effect(none);
    FAR_EL1 (3, 0, 6, 0, 0) rw el1 cpu reset(unknown) kvm(always) needs(none) effect(none);
    PAR_EL1 (3, 0, 7, 4, 0) rw el1 cpu reset(unknown) kvm(always) needs(none) effect(none);
    PMINTENSET_EL1 (3, 0, 9, 14, 1) rw el1 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMINTENCLR_EL1 (3, 0, 9, 14, 2) rw el1 derived reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMMIR_EL1 (3, 0, 9, 14, 6) ro el1 raz reset(0) kvm(none) needs(PMUv3p4) effect(none);
    MAIR_EL1 (3, 0, 10, 2, 0) rw el1 cpu reset(unknown) kvm(always) needs(none) effect(translation);
    PIRE0_EL1 (3, 0, 10, 2, 2) rw el1 cpu reset(unknown) kvm(always) needs(S1PIE) effect(translation);
    PIR_EL1 (3, 0, 10, 2, 3) rw el1 cpu reset(unknown) kvm(always) needs(S1PIE) effect(translation);
    POR_EL1 (3, 0, 10, 2, 4) rw el1 cpu reset(unknown) kvm(poe) needs(S1POE) effect(translation);
    AMAIR_EL1 (3, 0, 10, 3, 0) rw el1 cpu reset(machine) kvm(always) needs(none) effect(none);
    LORSA_EL1 (3, 0, 10, 4, 0) rw el1 raz reset(0) kvm(none) needs(LOR) effect(none);
    LOREA_EL1 (3, 0, 10, 4, 1) rw el1 raz reset(0) kvm(none) needs(LOR) effect(none);
    LORN_EL1 (3, 0, 10, 4, 2) rw el1 raz reset(0) kvm(none) needs(LOR) effect(none);
    LORC_EL1 (3, 0, 10, 4, 3) rw el1 raz reset(0) kvm(none) needs(LOR) effect(none);
    LORID_EL1 (3, 0, 10, 4, 7) ro el1 raz reset(0) kvm(none) needs(LOR) effect(none);
    VBAR_EL1 (3, 0, 12, 0, 0) rw el1 cpu reset(0) kvm(always) needs(none) effect(none);
    ISR_EL1 (3, 0, 12, 1, 0) ro el1 derived reset(0) kvm(none) needs(none) effect(none);
    DISR_EL1 (3, 0, 12, 1, 1) rw el1 cpu reset(0) kvm(always) needs(RAS) effect(none);
    ICC_IAR0_EL1 (3, 0, 12, 8, 0) ro el1 gic reset(device) kvm(none) needs(GICv3) effect(irq);
    ICC_EOIR0_EL1 (3, 0, 12, 8, 1) wo el1 gic reset(device) kvm(none) needs(GICv3) effect(irq);
    ICC_HPPIR0_EL1 (3, 0, 12, 8, 2) ro el1 gic reset(device) kvm(none) needs(GICv3) effect(irq);
    ICC_BPR0_EL1 (3, 0, 12, 8, 3) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    ICC_AP0R0_EL1 (3, 0, 12, 8, 4) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    ICC_AP0R1_EL1 (3, 0, 12, 8, 5) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    ICC_AP0R2_EL1 (3, 0, 12, 8, 6) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    ICC_AP0R3_EL1 (3, 0, 12, 8, 7) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    ICC_AP1R0_EL1 (3, 0, 12, 9, 0) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    ICC_AP1R1_EL1 (3, 0, 12, 9, 1) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    ICC_AP1R2_EL1 (3, 0, 12, 9, 2) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    ICC_AP1R3_EL1 (3, 0, 12, 9, 3) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    ICC_DIR_EL1 (3, 0, 12, 11, 1) wo el1 gic reset(device) kvm(none) needs(GICv3) effect(irq);
    ICC_RPR_EL1 (3, 0, 12, 11, 3) ro el1 gic reset(device) kvm(none) needs(GICv3) effect(irq);
    ICC_SGI1R_EL1 (3, 0, 12, 11, 5) wo el1 gic reset(device) kvm(none) needs(GICv3) effect(irq);
    ICC_ASGI1R_EL1 (3, 0, 12, 11, 6) wo el1 gic reset(device) kvm(none) needs(GICv3) effect(irq);
    ICC_SGI0R_EL1 (3, 0, 12, 11, 7) wo el1 gic reset(device) kvm(none) needs(GICv3) effect(irq);
    ICC_IAR1_EL1 (3, 0, 12, 12, 0) ro el1 gic reset(device) kvm(none) needs(GICv3) effect(irq);
    ICC_EOIR1_EL1 (3, 0, 12, 12, 1) wo el1 gic reset(device) kvm(none) needs(GICv3) effect(irq);
    ICC_HPPIR1_EL1 (3, 0, 12, 12, 2) ro el1 gic reset(device) kvm(none) needs(GICv3) effect(irq);
    ICC_BPR1_EL1 (3, 0, 12, 12, 3) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    ICC_CTLR_EL1 (3, 0, 12, 12, 4) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    ICC_SRE_EL1 (3, 0, 12, 12, 5) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    ICC_IGRPEN0_EL1 (3, 0, 12, 12, 6) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    ICC_IGRPEN1_EL1 (3, 0, 12, 12, 7) rw el1 gic reset(device) kvm(vgic) needs(GICv3) effect(irq);
    CONTEXTIDR_EL1 (3, 0, 13, 0, 1) rw el1 cpu reset(0) kvm(always) needs(none) effect(debug);
    TPIDR_EL1 (3, 0, 13, 0, 4) rw el1 cpu reset(unknown) kvm(always) needs(none) effect(none);
    SCXTNUM_EL1 (3, 0, 13, 0, 7) rw el1 undef reset(0) kvm(none) needs(CSV2_2) effect(none);
    CNTKCTL_EL1 (3, 0, 14, 1, 0) rw el1 cpu reset(0) kvm(always) needs(none) effect(none);
    CCSIDR_EL1 (3, 1, 0, 0, 0) ro el1 derived reset(machine) kvm(demux) needs(none) effect(none);
    CLIDR_EL1 (3, 1, 0, 0, 1) ro el1 cpu reset(machine) kvm(always) needs(none) effect(none);
    CCSIDR2_EL1 (3, 1, 0, 0, 2) ro el1 undef reset(0) kvm(none) needs(CCIDX) effect(none);
    GMID_EL1 (3, 1, 0, 0, 4) ro el1 raz reset(0) kvm(none) needs(MTE2) effect(none);
    AIDR_EL1 (3, 1, 0, 0, 7) ro el1 host reset(machine) kvm(always) needs(none) effect(none);
    CSSELR_EL1 (3, 2, 0, 0, 0) rw el1 cpu reset(unknown) kvm(always) needs(none) effect(none);
    CTR_EL0 (3, 3, 0, 0, 1) ro el0 vm reset(machine) kvm(always) needs(none) effect(none);
    DCZID_EL0 (3, 3, 0, 0, 7) ro el0 host reset(machine) kvm(none) needs(none) effect(none);
    RNDR (3, 3, 2, 4, 0) ro el0 derived reset(0) kvm(none) needs(RNG) effect(none);
    RNDRRS (3, 3, 2, 4, 1) ro el0 derived reset(0) kvm(none) needs(RNG) effect(none);
    NZCV (3, 3, 4, 2, 0) rw el0 derived reset(0) kvm(core) needs(none) effect(none);
    DAIF (3, 3, 4, 2, 1) rw el0 derived reset(0) kvm(core) needs(none) effect(irq);
    SVCR (3, 3, 4, 2, 2) rw el0 cpu reset(0) kvm(none) needs(SME) effect(fp);
    DIT (3, 3, 4, 2, 5) rw el0 derived reset(0) kvm(core) needs(DIT) effect(none);
    SSBS (3, 3, 4, 2, 6) rw el0 derived reset(0) kvm(core) needs(SSBS2) effect(none);
    TCO (3, 3, 4, 2, 7) rw el0 derived reset(0) kvm(none) needs(MTE) effect(none);
    FPCR (3, 3, 4, 4, 0) rw el0 cpu reset(0) kvm(core) needs(none) effect(fp);
    FPSR (3, 3, 4, 4, 1) rw el0 cpu reset(0) kvm(core) needs(none) effect(none);
    FPMR (3, 3, 4, 4, 2) rw el0 cpu reset(0) kvm(fpmr) needs(FPMR) effect(none);
    PMCR_EL0 (3, 3, 9, 12, 0) rw el0 pmu reset(machine) kvm(pmu) needs(PMUv3) effect(pmu);
    PMCNTENSET_EL0 (3, 3, 9, 12, 1) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMCNTENCLR_EL0 (3, 3, 9, 12, 2) rw el0 derived reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMOVSCLR_EL0 (3, 3, 9, 12, 3) rw el0 derived reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMSWINC_EL0 (3, 3, 9, 12, 4) wo el0 derived reset(0) kvm(pmu) needs(PMUv3) effect(pmu);
    PMSELR_EL0 (3, 3, 9, 12, 5) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMCEID0_EL0 (3, 3, 9, 12, 6) ro el0 host reset(machine) kvm(none) needs(PMUv3) effect(none);
    PMCEID1_EL0 (3, 3, 9, 12, 7) ro el0 host reset(machine) kvm(none) needs(PMUv3) effect(none);
    PMCCNTR_EL0 (3, 3, 9, 13, 0) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMXEVTYPER_EL0 (3, 3, 9, 13, 1) rw el0 derived reset(0) kvm(none) needs(PMUv3) effect(pmu);
    PMXEVCNTR_EL0 (3, 3, 9, 13, 2) rw el0 derived reset(0) kvm(none) needs(PMUv3) effect(pmu);
    PMUSERENR_EL0 (3, 3, 9, 14, 0) rw el0 pmu reset(0) kvm(pmu) needs(PMUv3) effect(pmu);
    PMOVSSET_EL0 (3, 3, 9, 14, 3) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    POR_EL0 (3, 3, 10, 2, 4) rw el0 cpu reset(unknown) kvm(poe) needs(S1POE) effect(translation);
    TPIDR_EL0 (3, 3, 13, 0, 2) rw el0 cpu reset(unknown) kvm(always) needs(none) effect(none);
    TPIDRRO_EL0 (3, 3, 13, 0, 3) rw el0 cpu reset(unknown) kvm(always) needs(none) effect(none);
    SCXTNUM_EL0 (3, 3, 13, 0, 7) rw el0 undef reset(0) kvm(none) needs(CSV2_2) effect(none);
    CNTFRQ_EL0 (3, 3, 14, 0, 0) ro el0 host reset(machine) kvm(none) needs(none) effect(none);
    CNTPCT_EL0 (3, 3, 14, 0, 1) ro el0 timer reset(device) kvm(timer) needs(none) effect(none);
    CNTVCT_EL0 (3, 3, 14, 0, 2) ro el0 timer reset(device) kvm(timer) needs(none) effect(none);
    CNTPCTSS_EL0 (3, 3, 14, 0, 5) ro el0 timer reset(device) kvm(none) needs(ECV) effect(none);
    CNTVCTSS_EL0 (3, 3, 14, 0, 6) ro el0 timer reset(device) kvm(none) needs(ECV) effect(none);
    CNTP_TVAL_EL0 (3, 3, 14, 2, 0) rw el0 timer reset(device) kvm(none) needs(none) effect(irq);
    CNTP_CTL_EL0 (3, 3, 14, 2, 1) rw el0 timer reset(device) kvm(timer) needs(none) effect(irq);
    CNTP_CVAL_EL0 (3, 3, 14, 2, 2) rw el0 timer reset(device) kvm(timer) needs(none) effect(irq);
    CNTV_TVAL_EL0 (3, 3, 14, 3, 0) rw el0 timer reset(device) kvm(none) needs(none) effect(irq);
    CNTV_CTL_EL0 (3, 3, 14, 3, 1) rw el0 timer reset(device) kvm(timer) needs(none) effect(irq);
    CNTV_CVAL_EL0 (3, 3, 14, 3, 2) rw el0 timer reset(device) kvm(timer) needs(none) effect(irq);
    PMEVCNTR0_EL0 (3, 3, 14, 8, 0) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR1_EL0 (3, 3, 14, 8, 1) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR2_EL0 (3, 3, 14, 8, 2) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR3_EL0 (3, 3, 14, 8, 3) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR4_EL0 (3, 3, 14, 8, 4) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR5_EL0 (3, 3, 14, 8, 5) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR6_EL0 (3, 3, 14, 8, 6) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR7_EL0 (3, 3, 14, 8, 7) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR8_EL0 (3, 3, 14, 9, 0) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR9_EL0 (3, 3, 14, 9, 1) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR10_EL0 (3, 3, 14, 9, 2) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR11_EL0 (3, 3, 14, 9, 3) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR12_EL0 (3, 3, 14, 9, 4) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR13_EL0 (3, 3, 14, 9, 5) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR14_EL0 (3, 3, 14, 9, 6) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR15_EL0 (3, 3, 14, 9, 7) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR16_EL0 (3, 3, 14, 10, 0) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR17_EL0 (3, 3, 14, 10, 1) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR18_EL0 (3, 3, 14, 10, 2) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR19_EL0 (3, 3, 14, 10, 3) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR20_EL0 (3, 3, 14, 10, 4) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR21_EL0 (3, 3, 14, 10, 5) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR22_EL0 (3, 3, 14, 10, 6) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR23_EL0 (3, 3, 14, 10, 7) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR24_EL0 (3, 3, 14, 11, 0) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR25_EL0 (3, 3, 14, 11, 1) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR26_EL0 (3, 3, 14, 11, 2) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR27_EL0 (3, 3, 14, 11, 3) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR28_EL0 (3, 3, 14, 11, 4) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR29_EL0 (3, 3, 14, 11, 5) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVCNTR30_EL0 (3, 3, 14, 11, 6) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER0_EL0 (3, 3, 14, 12, 0) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER1_EL0 (3, 3, 14, 12, 1) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER2_EL0 (3, 3, 14, 12, 2) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER3_EL0 (3, 3, 14, 12, 3) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER4_EL0 (3, 3, 14, 12, 4) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER5_EL0 (3, 3, 14, 12, 5) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER6_EL0 (3, 3, 14, 12, 6) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER7_EL0 (3, 3, 14, 12, 7) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER8_EL0 (3, 3, 14, 13, 0) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER9_EL0 (3, 3, 14, 13, 1) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER10_EL0 (3, 3, 14, 13, 2) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER11_EL0 (3, 3, 14, 13, 3) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER12_EL0 (3, 3, 14, 13, 4) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER13_EL0 (3, 3, 14, 13, 5) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER14_EL0 (3, 3, 14, 13, 6) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER15_EL0 (3, 3, 14, 13, 7) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER16_EL0 (3, 3, 14, 14, 0) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER17_EL0 (3, 3, 14, 14, 1) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER18_EL0 (3, 3, 14, 14, 2) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER19_EL0 (3, 3, 14, 14, 3) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER20_EL0 (3, 3, 14, 14, 4) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER21_EL0 (3, 3, 14, 14, 5) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER22_EL0 (3, 3, 14, 14, 6) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER23_EL0 (3, 3, 14, 14, 7) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER24_EL0 (3, 3, 14, 15, 0) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER25_EL0 (3, 3, 14, 15, 1) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER26_EL0 (3, 3, 14, 15, 2) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER27_EL0 (3, 3, 14, 15, 3) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER28_EL0 (3, 3, 14, 15, 4) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER29_EL0 (3, 3, 14, 15, 5) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMEVTYPER30_EL0 (3, 3, 14, 15, 6) rw el0 pmu reset(unknown) kvm(pmu) needs(PMUv3) effect(pmu);
    PMCCFILTR_EL0 (3, 3, 14, 15, 7) rw el0 pmu reset(0) kvm(pmu) needs(PMUv3) effect(pmu);
    DACR32_EL2 (3, 4, 3, 0, 0) rw el2 cpu reset(unknown) kvm(always) needs(none) effect(none);
    SP_EL1 (3, 4, 4, 1, 0) rw el2 cpu reset(kept) kvm(core) needs(none) effect(none);
    SPSR_irq (3, 4, 4, 3, 0) rw el2 cpu reset(0) kvm(core) needs(none) effect(none);
    SPSR_abt (3, 4, 4, 3, 1) rw el2 cpu reset(0) kvm(core) needs(none) effect(none);
    SPSR_und (3, 4, 4, 3, 2) rw el2 cpu reset(0) kvm(core) needs(none) effect(none);
    SPSR_fiq (3, 4, 4, 3, 3) rw el2 cpu reset(0) kvm(core) needs(none) effect(none);
    IFSR32_EL2 (3, 4, 5, 0, 1) rw el2 cpu reset(unknown) kvm(always) needs(none) effect(none);
    FPEXC32_EL2 (3, 4, 5, 3, 0) rw el2 cpu reset(0x700) kvm(always) needs(none) effect(none);
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
