//! What the software CPU can execute, and how an ID register is lowered to it.
//!
//! A field is lowered to the largest value all of whose features the engine has. Fields that announce no feature
//! of the table (numbers of breakpoints, address sizes below 52 bits) stay as they are.

use ulna_arm_regs::feature::{Clause, Feat, FeatSet, Sign};
use ulna_arm_regs::{IdReg, SysReg};

/// Features no part of the engine executes; each waits for a later capability.
const ABSENT: &[Feat] = &[
    Feat::AA32EL0,
    Feat::AA32EL1,
    Feat::EL2,
    Feat::EL3,
    Feat::SEL2,
    Feat::RME,
    Feat::VHE,
    Feat::NV,
    Feat::FGT,
    Feat::HCX,
    Feat::TWED,
    Feat::ECV,
    Feat::ECV_POFF,
    Feat::SVE,
    Feat::SME,
    Feat::FPMR,
    Feat::MTE,
    Feat::MTE2,
    Feat::MTE3,
    Feat::TME,
    Feat::MPAM,
    Feat::AMUv1,
    Feat::SPE,
    Feat::TRBE,
    Feat::TRF,
    Feat::BRBE,
    Feat::RNG_TRAP,
    Feat::NMI,
    Feat::GCS,
    Feat::THE,
    Feat::PFAR,
    Feat::DoubleFault2,
    Feat::CSV2_2,
    Feat::CSV2_3,
    Feat::CSV2_1p1,
    Feat::CSV2_1p2,
    Feat::SPECRES2,
    Feat::EBF16,
    Feat::LRCPC3,
    Feat::LSE128,
    Feat::LS64,
    Feat::LS64_V,
    Feat::LS64_ACCDATA,
    Feat::XS,
    Feat::MOPS,
    Feat::HBC,
    Feat::CSSC,
    Feat::LUT,
    Feat::FAMINMAX,
    Feat::CPA,
    Feat::ATS1A,
    Feat::SYSREG128,
    Feat::SYSINSTR128,
    Feat::PRFMSLC,
    Feat::RPRES,
    Feat::AFP,
    Feat::PACQARMA3,
    Feat::PAuth_LR,
    Feat::CONSTPACFIELD,
    Feat::TCR2,
    Feat::SCTLR2,
    Feat::S1PIE,
    Feat::S1POE,
    Feat::AIE,
    Feat::D128,
    Feat::HAFT,
    Feat::LVA3,
    Feat::ExS,
    Feat::TIDCP1,
    Feat::CMOW,
    Feat::RASv2,
    Feat::HPMN0,
    Feat::PMUv3p7,
    Feat::PMUv3p8,
    Feat::PMUv3p9,
    Feat::Debugv8p8,
    Feat::Debugv8p9,
    Feat::CCIDX,
];

/// What the software CPU of this build executes.
pub fn engine_features() -> FeatSet {
    ABSENT.iter().fold(FeatSet::ALL, |s, &f| s.without(f))
}

/// Features that KVM takes from a guest by a trap when its ID registers do not announce them.
pub(crate) const TRAPPED: &[Feat] = &[
    Feat::TLBIOS,
    Feat::TLBIRANGE,
    Feat::SVE,
    Feat::PMUv3,
    Feat::PMUv3p1,
    Feat::PMUv3p4,
    Feat::PMUv3p5,
    Feat::S1PIE,
    Feat::S1POE,
    Feat::TCR2,
    Feat::MTE,
    Feat::MTE2,
    Feat::MTE3,
    Feat::MOPS,
    Feat::ATS1A,
    Feat::SME,
    Feat::LOR,
    Feat::AMUv1,
    Feat::SPE,
    Feat::TRBE,
    Feat::TRF,
    Feat::BRBE,
    Feat::LS64,
    Feat::LS64_V,
    Feat::LS64_ACCDATA,
    Feat::FPMR,
    Feat::GCS,
    Feat::AA32EL1,
];

/// Of those, the ones that only FEAT_FGT (or FEAT_EVT's TTLBOS) can trap.
pub(crate) const NEEDS_FGT: &[Feat] = &[Feat::TLBIOS, Feat::TLBIRANGE];

/// Everything about pointer authentication: trapped as one, by the vCPU's feature bits.
pub(crate) const PAUTH: &[Feat] = &[
    Feat::PAuth,
    Feat::PACQARMA5,
    Feat::PACIMP,
    Feat::PACQARMA3,
    Feat::PACGA,
    Feat::EPAC,
    Feat::PAuth2,
    Feat::FPAC,
    Feat::FPACCOMBINE,
    Feat::PAuth_LR,
    Feat::CONSTPACFIELD,
];

fn clauses(r: SysReg, lsb: u8) -> impl Iterator<Item = (Feat, &'static Clause)> {
    Feat::ALL
        .iter()
        .flat_map(|&f| f.rule().iter().map(move |c| (f, c)))
        .filter(move |(_, c)| c.reg == r && c.lsb == lsb)
}

/// The feature for whose lack this field of `r` is lowered from `value`, if it is.
pub fn lowered_for(r: SysReg, lsb: u8, value: u64) -> Option<Feat> {
    let field = IdReg::of(r)?.fields.iter().find(|f| f.lsb == lsb && f.width == 4)?;
    let engine = engine_features();
    let raw = field.raw(value);
    clauses(r, lsb).find(|(feat, c)| !engine.has(*feat) && c.holds(raw << c.lsb)).map(|(feat, _)| feat)
}

/// A register's value with every field lowered to what the engine executes.
pub(crate) fn lower_to(r: SysReg, value: u64, engine: FeatSet) -> u64 {
    let Some(row) = IdReg::of(r) else { return value };
    row.fields.iter().fold(value, |v, f| {
        if f.width != 4 {
            return v;
        }
        let mut field = f.raw(v);
        // The lowest step the engine lacks decides; below it all steps are there.
        for (feat, c) in clauses(r, f.lsb) {
            if engine.has(feat) || !c.holds(field << c.lsb) {
                continue;
            }
            let least = if c.sign == Sign::Signed { -1 } else { 0 };
            field = u64::from((c.min - 1).max(least) as u8 & 0xf);
        }
        f.set(v, field)
    })
}
