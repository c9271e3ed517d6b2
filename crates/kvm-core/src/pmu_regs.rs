//! Registers of the performance monitors as KVM_GET_ONE_REG and KVM_SET_ONE_REG see them (Linux 6.12): a register that
//! sets or clears does so for a VMM, too.

use std::sync::atomic::Ordering;

use ulna_arm_cpu::{Feat, SysReg};
use ulna_machine::Machine;

use crate::vcpu::Vcpu;

/// PMCR_EL0.N.
const N_SHIFT: u32 = 11;
const N: u64 = 31 << N_SHIFT;
/// The bits of PMCR_EL0 that can be written: E, P, C, D, X, DP, LC, LP.
const CONTROL: u64 = 0xff;
const LC: u64 = 1 << 6;

/// The register that holds the bits which `r` sets or clears, and whether it sets them.
fn set_of(r: SysReg) -> Option<(SysReg, bool)> {
    use SysReg::*;
    Some(match r {
        PMCNTENSET_EL0 => (PMCNTENSET_EL0, true),
        PMCNTENCLR_EL0 => (PMCNTENSET_EL0, false),
        PMINTENSET_EL1 => (PMINTENSET_EL1, true),
        PMINTENCLR_EL1 => (PMINTENSET_EL1, false),
        PMOVSSET_EL0 => (PMOVSSET_EL0, true),
        PMOVSCLR_EL0 => (PMOVSSET_EL0, false),
        _ => return None,
    })
}

impl Vcpu {
    /// A vCPU's own register as it reads.
    pub(crate) fn own_register(&self, r: SysReg) -> u64 {
        let s = &self.cpu.state;
        match (set_of(r), r) {
            (Some((set, _)), _) => s.sys(set) & self.valid_counters(),
            (_, SysReg::PMCR_EL0) => self.with_counters(s.sys(r)),
            (_, SysReg::PMSWINC_EL0) => 0,
            _ => s.sys(r),
        }
    }

    /// Writes one that belongs to the PMU; false if it is none of those with a rule.
    pub(crate) fn set_pmu_register(&mut self, m: &Machine, r: SysReg, v: u64) -> bool {
        let event_counter = (r as usize).wrapping_sub(SysReg::PMEVCNTR0_EL0 as usize) < 31;
        if let Some((set, on)) = set_of(r) {
            let old = self.cpu.state.sys(set);
            let v = v & self.valid_counters();
            self.cpu.state.set_sys(set, if on { old | v } else { old & !v });
        } else if r == SysReg::PMCR_EL0 {
            let n = (v & N) >> N_SHIFT;
            if !self.vm.started.load(Ordering::SeqCst) && n <= u64::from(m.pmu_counters()) {
                self.vm.pmu_counters.store(n as u8, Ordering::SeqCst);
            }
            // Without AArch32 nobody wants a 32-bit cycle counter.
            let lc = m.reset_value(r, 0).unwrap_or(0) & LC;
            let v = self.with_counters(v & CONTROL | lc);
            self.cpu.state.set_sys(r, v);
        } else if event_counter {
            let wide = m.features().has(Feat::PMUv3p5);
            self.cpu.state.set_sys(r, if wide { v } else { v & 0xffff_ffff });
        } else {
            return r == SysReg::PMSWINC_EL0;
        }
        true
    }

    /// PMCR_EL0 with the VM's number of event counters.
    fn with_counters(&self, pmcr: u64) -> u64 {
        pmcr & !N | u64::from(self.vm.pmu_counters.load(Ordering::SeqCst)) << N_SHIFT
    }

    /// The CPU's PMCR_EL0 takes the VM's number of event counters: after a reset, and before the first run.
    pub(crate) fn settle_counters(&mut self) {
        let v = self.with_counters(self.cpu.state.sys(SysReg::PMCR_EL0));
        self.cpu.state.set_sys(SysReg::PMCR_EL0, v);
        // Their values after reset knew nothing of a lower number of counters (kvm_vcpu_reload_pmu).
        for r in [SysReg::PMCNTENSET_EL0, SysReg::PMINTENSET_EL1, SysReg::PMOVSSET_EL0] {
            let v = self.cpu.state.sys(r) & self.valid_counters();
            self.cpu.state.set_sys(r, v);
        }
    }

    fn valid_counters(&self) -> u64 {
        1 << 31 | ((1 << self.vm.pmu_counters.load(Ordering::SeqCst)) - 1)
    }
}
