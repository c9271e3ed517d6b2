//! Architectural features and the ID register fields that announce them, one line each.
//!
//! Names are the manual's without `FEAT_` (Arm ARM A2). A feature is there when any of its clauses holds. Where
//! the manual counts several steps of one field as one feature (HAFDBS), the lower step has a name of ours.

use crate::SysReg;
use core::fmt;

/// How a field's number is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sign {
    /// Larger is more.
    Unsigned,
    /// Two's complement: 0xF means that the thing is absent.
    Signed,
    /// Larger is more, but 0xF is IMPLEMENTATION DEFINED and counts as absent (PMUVer).
    NotF,
}

/// One condition on a 4-bit ID register field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clause {
    /// The ID register.
    pub reg: SysReg,
    /// Lowest bit of the field.
    pub lsb: u8,
    /// How to read it.
    pub sign: Sign,
    /// The feature is there from this value on.
    pub min: i8,
}

impl Clause {
    /// Whether a value of the register announces the feature.
    pub const fn holds(&self, value: u64) -> bool {
        let raw = (value >> self.lsb & 0xf) as i8;
        match self.sign {
            Sign::Unsigned => raw >= self.min,
            Sign::Signed => (raw << 4 >> 4) >= self.min,
            Sign::NotF => raw != 0xf && raw >= self.min,
        }
    }
}

macro_rules! sign {
    (u) => {
        Sign::Unsigned
    };
    (s) => {
        Sign::Signed
    };
    (nf) => {
        Sign::NotF
    };
}

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident: $($reg:ident[$lsb:literal] $sign:ident >= $min:literal)|+;)+) => {
        /// An architectural feature that an ID register announces.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Feat {
            $(#[doc = concat!("`FEAT_", stringify!($name), "`.")] $(#[$doc])* $name,)+
        }

        impl Feat {
            /// All features in the order of the table.
            pub const ALL: &'static [Feat] = &[$(Feat::$name,)+];
            const NAMES: &'static [&'static str] = &[$(stringify!($name),)+];
            const RULES: &'static [&'static [Clause]] = &[$(&[
                $(Clause { reg: SysReg::$reg, lsb: $lsb, sign: sign!($sign), min: $min },)+
            ],)+];
        }
    };
}

impl Feat {
    /// How many features there are.
    pub const COUNT: usize = Self::ALL.len();
    /// Short name of [`Feat::PACQARMA5`].
    pub const QARMA5: Feat = Feat::PACQARMA5;

    /// The manual's name without `FEAT_`.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The feature with this name, with or without `FEAT_`, in any case.
    pub fn from_name(name: &str) -> Option<Feat> {
        let n = match name.get(..5) {
            Some(p) if p.eq_ignore_ascii_case("FEAT_") => &name[5..],
            _ => name,
        };
        Self::ALL.iter().copied().find(|f| f.name().eq_ignore_ascii_case(n))
    }

    /// The fields that announce it; any of them suffices.
    pub const fn rule(self) -> &'static [Clause] {
        Self::RULES[self as usize]
    }

    /// Whether these ID register values announce it.
    pub fn announced(self, id: impl Fn(SysReg) -> u64) -> bool {
        self.rule().iter().any(|c| c.holds(id(c.reg)))
    }
}

impl fmt::Display for Feat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FEAT_{}", self.name())
    }
}

const WORDS: usize = Feat::COUNT.div_ceil(64);

/// A set of features.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FeatSet([u64; WORDS]);

impl FeatSet {
    /// The empty set.
    pub const EMPTY: FeatSet = FeatSet([0; WORDS]);
    /// Every feature of the table.
    pub const ALL: FeatSet = {
        let mut s = Self::EMPTY;
        let mut i = 0;
        while i < Feat::COUNT {
            s = s.with(Feat::ALL[i]);
            i += 1;
        }
        s
    };

    /// Whether the feature is in the set.
    #[inline]
    pub const fn has(&self, f: Feat) -> bool {
        self.0[f as usize / 64] >> (f as usize % 64) & 1 != 0
    }

    /// The set and this feature.
    #[must_use]
    pub const fn with(mut self, f: Feat) -> FeatSet {
        self.0[f as usize / 64] |= 1 << (f as usize % 64);
        self
    }

    /// The set without this feature.
    #[must_use]
    pub const fn without(mut self, f: Feat) -> FeatSet {
        self.0[f as usize / 64] &= !(1 << (f as usize % 64));
        self
    }

    /// Adds a feature.
    pub fn insert(&mut self, f: Feat) {
        *self = self.with(f);
    }

    /// Takes a feature out.
    pub fn remove(&mut self, f: Feat) {
        *self = self.without(f);
    }

    /// What ID registers announce.
    pub fn from_id_regs(id: impl Fn(SysReg) -> u64) -> FeatSet {
        Feat::ALL.iter().copied().filter(|f| f.announced(&id)).collect()
    }

    /// Its members in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Feat> {
        Feat::ALL.iter().copied().filter(move |&f| self.has(f))
    }

    /// Whether every member of `other` is in this set.
    pub fn contains(&self, other: FeatSet) -> bool {
        self.0.iter().zip(other.0).all(|(a, b)| b & !a == 0)
    }
}

impl FromIterator<Feat> for FeatSet {
    fn from_iter<I: IntoIterator<Item = Feat>>(it: I) -> FeatSet {
        it.into_iter().fold(FeatSet::EMPTY, FeatSet::with)
    }
}

impl fmt::Debug for FeatSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

features! {
    // Exception levels and states
    EL0: ID_AA64PFR0_EL1[0] u >= 1;
    AA32EL0: ID_AA64PFR0_EL1[0] u >= 2;
    EL1: ID_AA64PFR0_EL1[4] u >= 1;
    AA32EL1: ID_AA64PFR0_EL1[4] u >= 2;
    EL2: ID_AA64PFR0_EL1[8] u >= 1;
    EL3: ID_AA64PFR0_EL1[12] u >= 1;
    SEL2: ID_AA64PFR0_EL1[36] u >= 1;
    RME: ID_AA64PFR0_EL1[52] u >= 1;

    // Armv8.0 and what may be added to it
    FP: ID_AA64PFR0_EL1[16] s >= 0;
    AdvSIMD: ID_AA64PFR0_EL1[20] s >= 0;
    AES: ID_AA64ISAR0_EL1[4] u >= 1;
    PMULL: ID_AA64ISAR0_EL1[4] u >= 2;
    SHA1: ID_AA64ISAR0_EL1[8] u >= 1;
    SHA256: ID_AA64ISAR0_EL1[12] u >= 1;
    CRC32: ID_AA64ISAR0_EL1[16] u >= 1;
    SB: ID_AA64ISAR1_EL1[36] u >= 1;
    SSBS: ID_AA64PFR1_EL1[4] u >= 1;
    SSBS2: ID_AA64PFR1_EL1[4] u >= 2;
    SPECRES: ID_AA64ISAR1_EL1[40] u >= 1;
    SPECRES2: ID_AA64ISAR1_EL1[40] u >= 2;
    CSV2: ID_AA64PFR0_EL1[56] u >= 1;
    CSV2_2: ID_AA64PFR0_EL1[56] u >= 2;
    CSV2_3: ID_AA64PFR0_EL1[56] u >= 3;
    CSV2_1p1: ID_AA64PFR1_EL1[32] u >= 1;
    CSV2_1p2: ID_AA64PFR1_EL1[32] u >= 2;
    CSV3: ID_AA64PFR0_EL1[60] u >= 1;
    ECBHB: ID_AA64MMFR1_EL1[60] u >= 1;
    CLRBHB: ID_AA64ISAR2_EL1[28] u >= 1;
    DoubleLock: ID_AA64DFR0_EL1[36] s >= 0;
    nTLBPA: ID_AA64MMFR1_EL1[48] u >= 1;
    GICv3: ID_AA64PFR0_EL1[24] u >= 1;
    GICv4p1: ID_AA64PFR0_EL1[24] u >= 3;
    ASID16: ID_AA64MMFR0_EL1[4] u >= 2;
    MixedEnd: ID_AA64MMFR0_EL1[8] u >= 1;
    MixedEndEL0: ID_AA64MMFR0_EL1[8] u >= 1 | ID_AA64MMFR0_EL1[16] u >= 1;
    TGran16K: ID_AA64MMFR0_EL1[20] u >= 1;
    TGran64K: ID_AA64MMFR0_EL1[24] s >= 0;
    TGran4K: ID_AA64MMFR0_EL1[28] s >= 0;
    PMUv3: ID_AA64DFR0_EL1[8] nf >= 1;

    // Armv8.1
    LSE: ID_AA64ISAR0_EL1[20] u >= 2;
    RDM: ID_AA64ISAR0_EL1[28] u >= 1;
    /// (Ours: hardware sets the access flag, the lower step of FEAT_HAFDBS.)
    HAF: ID_AA64MMFR1_EL1[0] u >= 1;
    /// Hardware sets the access flag and the dirty state.
    HAFDBS: ID_AA64MMFR1_EL1[0] u >= 2;
    VMID16: ID_AA64MMFR1_EL1[4] u >= 2;
    VHE: ID_AA64MMFR1_EL1[8] u >= 1;
    HPDS: ID_AA64MMFR1_EL1[12] u >= 1;
    HPDS2: ID_AA64MMFR1_EL1[12] u >= 2;
    LOR: ID_AA64MMFR1_EL1[16] u >= 1;
    PAN: ID_AA64MMFR1_EL1[20] u >= 1;
    PAN2: ID_AA64MMFR1_EL1[20] u >= 2;
    PAN3: ID_AA64MMFR1_EL1[20] u >= 3;
    Debugv8p1: ID_AA64DFR0_EL1[0] u >= 7;
    PMUv3p1: ID_AA64DFR0_EL1[8] nf >= 4;

    // Armv8.2
    FP16: ID_AA64PFR0_EL1[16] s >= 1;
    DotProd: ID_AA64ISAR0_EL1[44] u >= 1;
    FHM: ID_AA64ISAR0_EL1[48] u >= 1;
    SHA512: ID_AA64ISAR0_EL1[12] u >= 2;
    SHA3: ID_AA64ISAR0_EL1[32] u >= 1;
    SM3: ID_AA64ISAR0_EL1[36] u >= 1;
    SM4: ID_AA64ISAR0_EL1[40] u >= 1;
    UAO: ID_AA64MMFR2_EL1[4] u >= 1;
    LSMAOC: ID_AA64MMFR2_EL1[8] u >= 1;
    IESB: ID_AA64MMFR2_EL1[12] u >= 1;
    LVA: ID_AA64MMFR2_EL1[16] u >= 1;
    LVA3: ID_AA64MMFR2_EL1[16] u >= 2;
    LPA: ID_AA64MMFR0_EL1[0] u >= 6;
    DPB: ID_AA64ISAR1_EL1[0] u >= 1;
    DPB2: ID_AA64ISAR1_EL1[0] u >= 2;
    RAS: ID_AA64PFR0_EL1[28] u >= 1;
    RASv1p1: ID_AA64PFR0_EL1[28] u >= 2;
    RASv2: ID_AA64PFR0_EL1[28] u >= 3;
    TTCNP: ID_AA64MMFR2_EL1[0] u >= 1;
    XNX: ID_AA64MMFR1_EL1[28] u >= 1;
    EVT: ID_AA64MMFR2_EL1[56] u >= 2;
    BF16: ID_AA64ISAR1_EL1[44] u >= 1;
    EBF16: ID_AA64ISAR1_EL1[44] u >= 2;
    I8MM: ID_AA64ISAR1_EL1[52] u >= 1;
    SVE: ID_AA64PFR0_EL1[32] u >= 1;
    SPE: ID_AA64DFR0_EL1[32] u >= 1;
    Debugv8p2: ID_AA64DFR0_EL1[0] u >= 8;

    // Armv8.3
    PAuth: ID_AA64ISAR1_EL1[4] u >= 1 | ID_AA64ISAR1_EL1[8] u >= 1 | ID_AA64ISAR2_EL1[12] u >= 1;
    PACQARMA5: ID_AA64ISAR1_EL1[4] u >= 1 | ID_AA64ISAR1_EL1[24] u >= 1;
    PACIMP: ID_AA64ISAR1_EL1[8] u >= 1 | ID_AA64ISAR1_EL1[28] u >= 1;
    PACQARMA3: ID_AA64ISAR2_EL1[12] u >= 1 | ID_AA64ISAR2_EL1[8] u >= 1;
    /// (Ours: PACGA, the generic code.)
    PACGA: ID_AA64ISAR1_EL1[24] u >= 1 | ID_AA64ISAR1_EL1[28] u >= 1 | ID_AA64ISAR2_EL1[8] u >= 1;
    /// (The three fields say 2 for EPAC; from 3 on PAuth2 takes its place: ask for PAuth2 first.)
    EPAC: ID_AA64ISAR1_EL1[4] u >= 2 | ID_AA64ISAR1_EL1[8] u >= 2 | ID_AA64ISAR2_EL1[12] u >= 2;
    PAuth2: ID_AA64ISAR1_EL1[4] u >= 3 | ID_AA64ISAR1_EL1[8] u >= 3 | ID_AA64ISAR2_EL1[12] u >= 3;
    FPAC: ID_AA64ISAR1_EL1[4] u >= 4 | ID_AA64ISAR1_EL1[8] u >= 4 | ID_AA64ISAR2_EL1[12] u >= 4;
    FPACCOMBINE: ID_AA64ISAR1_EL1[4] u >= 5 | ID_AA64ISAR1_EL1[8] u >= 5 | ID_AA64ISAR2_EL1[12] u >= 5;
    PAuth_LR: ID_AA64ISAR1_EL1[4] u >= 6 | ID_AA64ISAR1_EL1[8] u >= 6 | ID_AA64ISAR2_EL1[12] u >= 6;
    CONSTPACFIELD: ID_AA64ISAR2_EL1[24] u >= 1;
    JSCVT: ID_AA64ISAR1_EL1[12] u >= 1;
    FCMA: ID_AA64ISAR1_EL1[16] u >= 1;
    LRCPC: ID_AA64ISAR1_EL1[20] u >= 1;
    CCIDX: ID_AA64MMFR2_EL1[20] u >= 1;
    NV: ID_AA64MMFR2_EL1[24] u >= 1;

    // Armv8.4
    LRCPC2: ID_AA64ISAR1_EL1[20] u >= 2;
    FlagM: ID_AA64ISAR0_EL1[52] u >= 1;
    TLBIOS: ID_AA64ISAR0_EL1[56] u >= 1;
    TLBIRANGE: ID_AA64ISAR0_EL1[56] u >= 2;
    DIT: ID_AA64PFR0_EL1[48] u >= 1;
    LSE2: ID_AA64MMFR2_EL1[32] u >= 1;
    IDST: ID_AA64MMFR2_EL1[36] u >= 1;
    S2FWB: ID_AA64MMFR2_EL1[40] u >= 1;
    TTL: ID_AA64MMFR2_EL1[48] u >= 1;
    TTST: ID_AA64MMFR2_EL1[28] u >= 1;
    BBM: ID_AA64MMFR2_EL1[52] u >= 1;
    /// (Ours: level 2 of FEAT_BBM, the one that never raises a conflict abort.)
    BBM2: ID_AA64MMFR2_EL1[52] u >= 2;
    AMUv1: ID_AA64PFR0_EL1[44] u >= 1;
    MPAM: ID_AA64PFR0_EL1[40] u >= 1 | ID_AA64PFR1_EL1[16] u >= 1;
    TRF: ID_AA64DFR0_EL1[40] u >= 1;
    Debugv8p4: ID_AA64DFR0_EL1[0] u >= 9;
    PMUv3p4: ID_AA64DFR0_EL1[8] nf >= 5;

    // Armv8.5
    FlagM2: ID_AA64ISAR0_EL1[52] u >= 2;
    FRINTTS: ID_AA64ISAR1_EL1[32] u >= 1;
    BTI: ID_AA64PFR1_EL1[0] u >= 1;
    RNG: ID_AA64ISAR0_EL1[60] u >= 1;
    RNG_TRAP: ID_AA64PFR1_EL1[28] u >= 1;
    E0PD: ID_AA64MMFR2_EL1[60] u >= 1;
    ExS: ID_AA64MMFR0_EL1[44] u >= 1;
    MTE: ID_AA64PFR1_EL1[8] u >= 1;
    MTE2: ID_AA64PFR1_EL1[8] u >= 2;
    MTE3: ID_AA64PFR1_EL1[8] u >= 3;
    PMUv3p5: ID_AA64DFR0_EL1[8] nf >= 6;

    // Armv8.6
    ECV: ID_AA64MMFR0_EL1[60] u >= 1;
    ECV_POFF: ID_AA64MMFR0_EL1[60] u >= 2;
    FGT: ID_AA64MMFR0_EL1[56] u >= 1;
    TWED: ID_AA64MMFR1_EL1[32] u >= 1;
    DGH: ID_AA64ISAR1_EL1[48] u >= 1;

    // Armv8.7
    AFP: ID_AA64MMFR1_EL1[44] u >= 1;
    RPRES: ID_AA64ISAR2_EL1[4] u >= 1;
    WFxT: ID_AA64ISAR2_EL1[0] u >= 2;
    XS: ID_AA64ISAR1_EL1[56] u >= 1;
    HCX: ID_AA64MMFR1_EL1[40] u >= 1;
    /// (Level 1, withdrawn from the manual but read from silicon.)
    ETS: ID_AA64MMFR1_EL1[36] u >= 1;
    ETS2: ID_AA64MMFR1_EL1[36] u >= 2;
    LS64: ID_AA64ISAR1_EL1[60] u >= 1;
    LS64_V: ID_AA64ISAR1_EL1[60] u >= 2;
    LS64_ACCDATA: ID_AA64ISAR1_EL1[60] u >= 3;
    /// For the 4 KB and the 16 KB granule; ask [`Feat::TGran4K_52`] and [`Feat::TGran16K_52`] for one.
    LPA2: ID_AA64MMFR0_EL1[28] s >= 1 | ID_AA64MMFR0_EL1[20] u >= 2;
    /// (Ours: FEAT_LPA2 for the 4 KB granule.)
    TGran4K_52: ID_AA64MMFR0_EL1[28] s >= 1;
    /// (Ours: FEAT_LPA2 for the 16 KB granule.)
    TGran16K_52: ID_AA64MMFR0_EL1[20] u >= 2;
    PMUv3p7: ID_AA64DFR0_EL1[8] nf >= 7;

    // Armv8.8
    MOPS: ID_AA64ISAR2_EL1[16] u >= 1;
    HBC: ID_AA64ISAR2_EL1[20] u >= 1;
    TIDCP1: ID_AA64MMFR1_EL1[52] u >= 1;
    CMOW: ID_AA64MMFR1_EL1[56] u >= 1;
    NMI: ID_AA64PFR1_EL1[36] u >= 1;
    Debugv8p8: ID_AA64DFR0_EL1[0] u >= 10;
    PMUv3p8: ID_AA64DFR0_EL1[8] nf >= 8;
    HPMN0: ID_AA64DFR0_EL1[60] u >= 1;

    // Armv8.9 and Armv9
    CSSC: ID_AA64ISAR2_EL1[52] u >= 1;
    RPRFM: ID_AA64ISAR2_EL1[48] u >= 1;
    PRFMSLC: ID_AA64ISAR2_EL1[40] u >= 1;
    LRCPC3: ID_AA64ISAR1_EL1[20] u >= 3;
    LSE128: ID_AA64ISAR0_EL1[20] u >= 3;
    ATS1A: ID_AA64ISAR2_EL1[60] u >= 1;
    LUT: ID_AA64ISAR2_EL1[56] u >= 1;
    SYSREG128: ID_AA64ISAR2_EL1[32] u >= 1;
    SYSINSTR128: ID_AA64ISAR2_EL1[36] u >= 1;
    TCR2: ID_AA64MMFR3_EL1[0] u >= 1;
    SCTLR2: ID_AA64MMFR3_EL1[4] u >= 1;
    S1PIE: ID_AA64MMFR3_EL1[8] u >= 1;
    S1POE: ID_AA64MMFR3_EL1[16] u >= 1;
    AIE: ID_AA64MMFR3_EL1[24] u >= 1;
    D128: ID_AA64MMFR3_EL1[32] u >= 1;
    HAFT: ID_AA64MMFR1_EL1[0] u >= 3;
    THE: ID_AA64PFR1_EL1[48] u >= 1;
    GCS: ID_AA64PFR1_EL1[44] u >= 1;
    PFAR: ID_AA64PFR1_EL1[60] u >= 1;
    DoubleFault2: ID_AA64PFR1_EL1[56] u >= 1;
    FPMR: ID_AA64PFR2_EL1[32] u >= 1;
    CPA: ID_AA64ISAR3_EL1[0] u >= 1;
    FAMINMAX: ID_AA64ISAR3_EL1[4] u >= 1;
    PMUv3p9: ID_AA64DFR0_EL1[8] nf >= 9;
    Debugv8p9: ID_AA64DFR0_EL1[0] u >= 11;
    SME: ID_AA64PFR1_EL1[24] u >= 1;
    TME: ID_AA64ISAR0_EL1[24] u >= 1;
    TRBE: ID_AA64DFR0_EL1[44] u >= 1;
    BRBE: ID_AA64DFR0_EL1[52] u >= 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ID registers of a Neoverse N1 (Graviton2 under KVM 6.18, host-data.md §1).
    fn n1(r: SysReg) -> u64 {
        match r {
            SysReg::ID_AA64PFR0_EL1 => 0x1100_0000_1111_1112,
            SysReg::ID_AA64PFR1_EL1 => 0x20,
            SysReg::ID_AA64DFR0_EL1 => 0x1030_5008,
            SysReg::ID_AA64ISAR0_EL1 => 0x1000_1021_1120,
            SysReg::ID_AA64ISAR1_EL1 => 0x10_0001,
            SysReg::ID_AA64MMFR0_EL1 => 0x10_1125,
            SysReg::ID_AA64MMFR1_EL1 => 0x1021_2122,
            SysReg::ID_AA64MMFR2_EL1 => 0x0100_0000_0000_0011,
            _ => 0,
        }
    }

    #[test]
    fn neoverse_n1_has_what_its_manual_says() {
        let s = FeatSet::from_id_regs(n1);
        for f in [
            Feat::LSE,
            Feat::RDM,
            Feat::FP16,
            Feat::DotProd,
            Feat::PMULL,
            Feat::SHA256,
            Feat::CRC32,
            Feat::LRCPC,
            Feat::DPB,
            Feat::SSBS2,
            Feat::UAO,
            Feat::PAN2,
            Feat::HAFDBS,
            Feat::HPDS2,
            Feat::TTCNP,
            Feat::CSV3,
            Feat::AA32EL0,
            Feat::TGran4K,
            Feat::TGran16K,
            Feat::TGran64K,
            Feat::ASID16,
            Feat::XNX,
        ] {
            assert!(s.has(f), "{f}");
        }
        for f in [
            Feat::PAuth,
            Feat::SHA512,
            Feat::SHA3,
            Feat::FHM,
            Feat::PAN3,
            Feat::LRCPC2,
            Feat::DPB2,
            Feat::BTI,
            Feat::SVE,
            Feat::LPA2,
            Feat::PMUv3,
            Feat::AA32EL1,
            Feat::E0PD,
            Feat::LSE2,
            Feat::FlagM,
        ] {
            assert!(!s.has(f), "{f}");
        }
    }

    #[test]
    fn all_ones_in_signed_fields_means_absent() {
        let s = FeatSet::from_id_regs(|_| u64::MAX);
        for f in [Feat::FP, Feat::AdvSIMD, Feat::FP16, Feat::TGran4K, Feat::TGran64K, Feat::PMUv3] {
            assert!(!s.has(f), "{f}");
        }
        let zero = FeatSet::from_id_regs(|_| 0);
        assert!(
            zero.has(Feat::FP)
                && zero.has(Feat::TGran4K)
                && !zero.has(Feat::TGran16K)
                && !zero.has(Feat::PMUv3)
        );
    }

    #[test]
    fn names_and_sets() {
        assert_eq!(Feat::from_name("FEAT_LSE"), Some(Feat::LSE));
        assert_eq!(Feat::from_name("qarma5"), None);
        assert_eq!(Feat::QARMA5.name(), "PACQARMA5");
        let s = FeatSet::EMPTY.with(Feat::LSE).with(Feat::BRBE);
        assert_eq!(s.iter().collect::<Vec<_>>(), [Feat::LSE, Feat::BRBE]);
        assert!(FeatSet::ALL.contains(s) && !s.contains(FeatSet::ALL));
        assert_eq!(FeatSet::ALL.iter().count(), Feat::COUNT);
    }
}
