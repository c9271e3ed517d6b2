//! Where kernels before or after Linux 6.12 show a register otherwise than its row says, one line a change.
//!
//! Checked against lists of real kernels (5.10, 6.1, 6.18; host-data.md §2a) in `machine`'s tests.

use crate::SysReg;
use crate::row::Kvm;

/// A kernel version: major, minor.
pub type Kernel = (u16, u16);

/// A stretch of kernels in which a run of registers is shown by another rule than in 6.12.
struct Change {
    first: SysReg,
    last: SysReg,
    from: Kernel,
    until: Kernel,
    kvm: Kvm,
}

const EVER: Kernel = (u16::MAX, 0);
const START: Kernel = (0, 0);

macro_rules! changes {
    ($($first:ident .. $last:ident $from:expr, $until:expr => $kvm:ident;)+) => {
        static CHANGES: &[Change] = &[$(Change {
            first: SysReg::$first,
            last: SysReg::$last,
            from: $from,
            until: $until,
            kvm: Kvm::$kvm,
        },)+];
    };
}

changes! {
    // The OS lock became the guest's own.
    OSLSR_EL1 .. OSLSR_EL1 START, (5, 18) => None;
    // Registers of stage 1 extensions: unknown at first, then always listed, then only with their feature.
    TCR2_EL1 .. TCR2_EL1 START, (6, 7) => None;
    PIRE0_EL1 .. PIR_EL1 START, (6, 7) => None;
    TCR2_EL1 .. TCR2_EL1 (6, 13), EVER => Tcr2;
    PIRE0_EL1 .. PIR_EL1 (6, 13), EVER => S1pie;
    // PMU registers used to be listed without a PMU.
    PMINTENSET_EL1 .. PMINTENCLR_EL1 START, (5, 12) => Always;
    PMCR_EL0 .. PMSELR_EL0 START, (5, 12) => Always;
    PMCCNTR_EL0 .. PMCCNTR_EL0 START, (5, 12) => Always;
    PMUSERENR_EL0 .. PMOVSSET_EL0 START, (5, 12) => Always;
    PMEVCNTR0_EL0 .. PMCCFILTR_EL0 START, (5, 12) => Always;
}

impl SysReg {
    /// The first kernel whose KVM shows the register, if older ones that matter do not.
    pub fn first_shown(self) -> Option<Kernel> {
        let hidden =
            |c: &&Change| (c.first..=c.last).contains(&self) && c.from == START && c.kvm == Kvm::None;
        CHANGES.iter().find(hidden).map(|c| c.until)
    }

    /// How KVM of this kernel shows the register.
    pub fn kvm_at(self, kernel: Kernel) -> Kvm {
        CHANGES
            .iter()
            .find(|c| (c.first..=c.last).contains(&self) && c.from <= kernel && kernel < c.until)
            .map_or(self.row().kvm, |c| c.kvm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_6_12_is_what_the_rows_say() {
        for &r in SysReg::ALL {
            assert_eq!(r.kvm_at((6, 12)), r.row().kvm, "{r}");
        }
    }

    #[test]
    fn changes_are_in_order() {
        for c in CHANGES {
            assert!(c.first <= c.last && c.from < c.until);
        }
    }
}
