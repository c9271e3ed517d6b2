//! Values after a reset of a vCPU (KVM_ARM_VCPU_INIT, PSCI CPU_ON), as KVM gives them.

use crate::{Machine, VcpuFeatures};
use ulna_arm_regs::feature::FeatSet;
use ulna_arm_regs::row::{Kvm, Reset, Storage};
use ulna_arm_regs::{Feat, SysReg};

/// MPIDR_EL1 of a vCPU: 16 in Aff0, as a GICv3 SGI can reach, then 256 in Aff1 and Aff2 (kvm-arm64-abi.md §11.4).
pub fn mpidr(vcpu_id: u32) -> u64 {
    let id = u64::from(vcpu_id);
    1 << 31 | id & 0xf | (id >> 4 & 0xff) << 8 | (id >> 12 & 0xff) << 16
}

impl Machine {
    /// A register's value after a reset of vCPU `vcpu_id`; None where a reset leaves it alone or a device holds it.
    ///
    /// Feature-ID registers answer their limit, which a VM takes at its first INIT only.
    pub fn reset_value(&self, r: SysReg, vcpu_id: u32) -> Option<u64> {
        use SysReg as S;
        let value = match r.row().reset {
            Reset::Value(v) => v,
            Reset::Unknown => self.unknown(r),
            Reset::Kept | Reset::Device => return None,
            Reset::Machine => match r {
                S::MPIDR_EL1 => mpidr(vcpu_id),
                S::CCSIDR_EL1 => self.ccsidr(0),
                // LC reads as one where no AArch32 could want a 32-bit overflow.
                S::PMCR_EL0 => u64::from(self.pmu_counters()) << 11 | u64::from(!self.aarch32_el0) << 6,
                // Hosts of the recordings have zero in both; no profile says otherwise.
                S::ACTLR_EL1 | S::AMAIR_EL1 => self.host[r as usize],
                _ => self.value(r)?,
            },
        };
        Some(value)
    }

    /// Puts the reset values of vCPU `vcpu_id` into its storage, which is indexed by ordinal.
    ///
    /// `first` also gives the registers that a VM takes once: feature-ID registers and the host's constants (for
    /// a VM whose ID registers were written, copy those afterwards). Views of other state, the GIC, the timers and
    /// what a reset keeps are left alone.
    pub fn reset_slots(&self, sys: &mut [u64], vcpu_id: u32, first: bool) {
        for row in ulna_arm_regs::rows() {
            let once = matches!(row.storage, Storage::Vm | Storage::Host) || row.reg == SysReg::CLIDR_EL1;
            let own = matches!(row.storage, Storage::Cpu | Storage::Pmu | Storage::Raz);
            if if once { first } else { own }
                && let (Some(v), Some(slot)) =
                    (self.reset_value(row.reg, vcpu_id), sys.get_mut(row.reg as usize))
            {
                *slot = v;
            }
        }
    }

    /// KVM's pattern, cut to the bits the register has.
    fn unknown(&self, r: SysReg) -> u64 {
        use SysReg as S;
        let keep = match r {
            S::PMSELR_EL0 => 0x1f,
            S::PMCNTENSET_EL0
            | S::PMCNTENCLR_EL0
            | S::PMOVSSET_EL0
            | S::PMOVSCLR_EL0
            | S::PMINTENSET_EL1
            | S::PMINTENCLR_EL1 => self.pmu_counter_mask(),
            _ if (S::PMEVCNTR0_EL0..=S::PMEVCNTR30_EL0).contains(&r) => 0xffff_ffff,
            _ if (S::PMEVTYPER0_EL0..=S::PMEVTYPER30_EL0).contains(&r) => self.pmu_event_mask(),
            _ => u64::MAX,
        };
        Reset::UNKNOWN & keep
    }

    /// A bit for each counter of the VM's PMU, the cycle counter at 31.
    pub fn pmu_counter_mask(&self) -> u64 {
        1 << 31 | ((1 << self.pmu_counters()) - 1)
    }

    /// The bits of PMEVTYPERn_EL0 a guest may write: event number and the filters of the levels there are.
    pub fn pmu_event_mask(&self) -> u64 {
        let host = |r: SysReg| self.host[r as usize];
        let mut m = 1 << 31 | 1 << 30 | if Feat::PMUv3p1.announced(host) { 0xffff } else { 0x3ff };
        if Feat::EL2.announced(host) {
            m |= 1 << 27;
        }
        if Feat::EL3.announced(host) {
            m |= 1 << 29 | 1 << 28 | 1 << 26;
        }
        m
    }

    /// Whether a guest whose CPU executes `features` has the register at EL1 at all; otherwise it is UNDEFINED.
    pub fn present(&self, r: SysReg, features: &FeatSet) -> bool {
        use SysReg as S;
        let row = r.row();
        let from = |first: SysReg| (r as usize).wrapping_sub(first as usize);
        let e = r.encoding();
        let dfr0 = self.limit(S::ID_AA64DFR0_EL1);
        let there = match r {
            _ if e.op0 == 2 && e.crn == 0 && matches!(e.op2, 4 | 5) && e.op1 == 0 => {
                u64::from(e.crm) <= dfr0 >> 12 & 0xf
            }
            _ if e.op0 == 2 && e.crn == 0 && matches!(e.op2, 6 | 7) && e.op1 == 0 => {
                u64::from(e.crm) <= dfr0 >> 20 & 0xf
            }
            _ if from(S::PMEVCNTR0_EL0) < 31 => from(S::PMEVCNTR0_EL0) < self.pmu_counters().into(),
            _ if from(S::PMEVTYPER0_EL0) < 31 => from(S::PMEVTYPER0_EL0) < self.pmu_counters().into(),
            S::ICC_AP0R1_EL1 | S::ICC_AP1R1_EL1 => self.priority_bits >= 6,
            S::ICC_AP0R2_EL1 | S::ICC_AP0R3_EL1 | S::ICC_AP1R2_EL1 | S::ICC_AP1R3_EL1 => {
                self.priority_bits >= 7
            }
            S::SP_EL1 => false,
            _ => true,
        };
        let needs = row.needs.is_none_or(|f| features.has(f));
        row.el <= 1 && there && needs && row.storage != Storage::Undef && !self.absent.contains(&r)
    }

    /// Whether KVM lists the register as a system register for a vCPU of this machine.
    pub fn listed(&self, r: SysReg) -> bool {
        self.listed.get_or_init(|| SysReg::ALL.iter().map(|r| self.lists(*r)).collect())[r as usize]
    }

    fn lists(&self, r: SysReg) -> bool {
        let field = |r: SysReg, lsb: u32| self.limit(r) >> lsb & 0xf != 0;
        match r.kvm_at(self.kernel) {
            Kvm::Always => true,
            Kvm::Sve => self.vcpu.contains(VcpuFeatures::SVE),
            Kvm::Pmu => self.vcpu.contains(VcpuFeatures::PMU_V3),
            Kvm::Pauth => self.vcpu.contains(VcpuFeatures::PTRAUTH),
            Kvm::Tcr2 => field(SysReg::ID_AA64MMFR3_EL1, 0),
            Kvm::S1pie => field(SysReg::ID_AA64MMFR3_EL1, 8),
            Kvm::Poe => field(SysReg::ID_AA64MMFR3_EL1, 16),
            Kvm::Fpmr => field(SysReg::ID_AA64PFR2_EL1, 32),
            Kvm::Mte | Kvm::Core | Kvm::Timer | Kvm::Demux | Kvm::Vgic | Kvm::None => false,
        }
    }

    /// The system registers of KVM_GET_REG_LIST in KVM's order: the invariant ones, then by encoding.
    pub fn reg_list(&self) -> Vec<SysReg> {
        const FIRST: [SysReg; 3] = [SysReg::MIDR_EL1, SysReg::REVIDR_EL1, SysReg::AIDR_EL1];
        let rest = SysReg::ALL.iter().copied().filter(|r| !FIRST.contains(r) && self.listed(*r));
        FIRST.into_iter().chain(rest).collect()
    }
}
