//! Which bits of the feature ID registers a VMM may change: Linux 6.12's masks, what later kernels added, and what a
//! software CPU can honour beyond any kernel (seed-systems.md §4.3).

use ulna_arm_regs::SysReg;
use ulna_arm_regs::id::{IdField, IdReg, Raz};
use ulna_profile::KernelLevel;

use crate::{Machine, Policy};

/// Bits that Linux made writable after 6.12 (kvm-arm64-abi-newer.md).
const LATER: &[(SysReg, u64, KernelLevel)] = &[
    // TGRAN4_2, TGRAN64_2, TGRAN16_2.
    (SysReg::ID_AA64MMFR0_EL1, 0xfff << 32, KernelLevel { major: 6, minor: 15 }),
    // L1Ip.
    (SysReg::CTR_EL0, 3 << 14, KernelLevel { major: 6, minor: 15 }),
];

/// Bits that [`Policy::Soft`] adds, whatever the kernel: nothing needs trapping here.
const SOFT: &[(SysReg, u64)] = &[
    // CTX_CMPs, BRPs: a breakpoint that is not announced is not there.
    (SysReg::ID_AA64DFR0_EL1, 0xf << 28 | 0xf << 12),
    // API, APA and APA3: pointer authentication without its algorithm is gone.
    (SysReg::ID_AA64ISAR1_EL1, 0xff << 4),
    (SysReg::ID_AA64ISAR2_EL1, 0xf << 12),
    // ASIDBITS, and the granules of a stage 2 that no guest has.
    (SysReg::ID_AA64MMFR0_EL1, 0xfff << 32 | 0xf << 4),
    // VMIDBits, HCX, TWED, XNX: no guest has VMIDs, an EL2 or a stage 2.
    (SysReg::ID_AA64MMFR1_EL1, 0xf << 4 | 0xfff << 32 & !(0xf << 36) | 0xf << 28),
    // EVT, FWB, IDS: traps and a stage 2 of an EL2 that no guest has.
    (SysReg::ID_AA64MMFR2_EL1, 0xf << 56 | 0xff << 36),
    // RAS, AdvSIMD, FP, EL3: what is not announced is not there, and no guest sees EL3.
    (SysReg::ID_AA64PFR0_EL1, 0xf << 28 | 0xff << 16 | 0xf << 12),
    (SysReg::ID_AA64PFR1_EL1, 0xf << 12),
    (SysReg::CTR_EL0, 3 << 14),
];

/// TGRANx_2: this granule is not supported at stage 2.
const NO_STAGE_2_GRANULE: u64 = 1;
/// CTR_EL0.L1Ip: virtually indexed, physically tagged; and physically indexed, which promises more.
const VIPT: u64 = 2;
const PIPT: u64 = 3;

impl Machine {
    /// The mask KVM_ARM_GET_REG_WRITABLE_MASKS reports for a register; it does not depend on vCPU features.
    pub fn writable_mask(&self, r: SysReg) -> u64 {
        match IdReg::of(r) {
            Some(row) if row.raz == Raz::UnlessAArch32 && !self.aarch32_el0 => 0,
            Some(row) => self.mask_of(row),
            None => 0,
        }
    }

    /// The bits of a register that a VMM may change as far as its fields go.
    pub(crate) fn mask_of(&self, row: &IdReg) -> u64 {
        let later = LATER.iter().filter(|l| l.0 == row.reg && self.kernel_since(l.2.major, l.2.minor));
        let soft = SOFT.iter().filter(|s| s.0 == row.reg && self.policy == Policy::Soft);
        later.map(|l| l.1).chain(soft.map(|s| s.1)).fold(row.mask, |m, bits| m | bits)
    }
}

/// May `new` stand in place of `limit` in this field? A few fields have an order of their own.
pub(crate) fn safe(r: SysReg, f: &IdField, new: u64, limit: u64) -> bool {
    let (n, l) = (f.raw(new), f.raw(limit));
    match (r, f.lsb) {
        (SysReg::ID_AA64MMFR0_EL1, 32 | 36 | 40) => n == l || n == NO_STAGE_2_GRANULE,
        (SysReg::CTR_EL0, 14) => n == l || n == VIPT && l == PIPT,
        // 16 bits or 8.
        (SysReg::ID_AA64MMFR0_EL1 | SysReg::ID_AA64MMFR1_EL1, 4) => n == l || n == 0,
        _ => f.safe(new, limit),
    }
}
