//! What a guest may see at most: a pure function of profile, policy, vCPU features and engine.
//!
//! [`Machine`] answers for every system register: its value in a new VM, the limit a VMM may write up to, the
//! mask KVM reports, and what a write of another value meets. `kvm-core` obeys it and `plan` predicts with it.
#![forbid(unsafe_code)]

pub mod aarch32;
mod cache;
pub mod catalog;
mod consistent;
mod engine;
pub mod firmware;
mod limit;
mod mask;
pub mod meaning;
mod reset;
pub mod rules;
mod vcpu;
mod write;

pub use consistent::{Contradiction, Surroundings};
pub use engine::{engine_features, lowered_for};
pub use reset::mpidr;
pub use rules::{GicLimits, Refusal, VmTraits};
pub use vcpu::VcpuFeatures;
pub use write::Refused;

use std::collections::BTreeSet;
use std::sync::OnceLock;
use ulna_arm_regs::feature::FeatSet;
use ulna_arm_regs::id::{IdReg, in_id_space};
use ulna_arm_regs::{Feat, SysReg};
use ulna_profile::{KernelLevel, Mitigations, Profile};

/// Values of CSSELR_EL1 that may name a cache: seven levels of two.
pub const CSSELR_MAX: u16 = 14;

/// Since this kernel a vCPU's caches are its own.
const OWN_CACHES: KernelLevel = KernelLevel { major: 6, minor: 3 };

/// Whether KVM of this kernel makes up the caches that guests see.
pub fn makes_up_caches(kernel: KernelLevel) -> bool {
    kernel >= OWN_CACHES
}

/// How far the software CPU may go beyond the profile's silicon and kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Policy {
    /// What a KVM host with that silicon and kernel can do; a lowered feature keeps executing unless KVM traps it.
    #[default]
    Hw,
    /// What a software CPU can honour beyond it; a lowered feature is UNDEFINED, exactly.
    Soft,
}

/// The registers of one VM's vCPUs before anybody wrote to them.
#[derive(Clone, Debug)]
pub struct Machine {
    policy: Policy,
    vcpu: VcpuFeatures,
    kernel: (u16, u16),
    /// The profile's ID registers less what the engine lacks; indexed by ordinal.
    host: Box<[u64]>,
    /// CCSIDR_EL1 of the caches that there are, where KVM shows the hardware's.
    host_caches: Option<Vec<u64>>,
    /// What a VM's ID registers read at first; indexed by ordinal.
    limit: Box<[u64]>,
    aarch32_el0: bool,
    aarch32_el1: bool,
    cntfrq_hz: u64,
    pmu: Option<(u8, u64, u64)>,
    gic: GicLimits,
    priority_bits: u8,
    mitigations: Mitigations,
    /// Vector lengths in bits.
    sve: Vec<u16>,
    absent: BTreeSet<SysReg>,
    /// [`Machine::listed`] by ordinal, once somebody asked.
    listed: OnceLock<Box<[bool]>>,
}

impl Machine {
    /// The machine of this build's software CPU.
    pub fn new(profile: &Profile, policy: Policy, vcpu: VcpuFeatures) -> Machine {
        Machine::with_engine(profile, policy, vcpu, engine_features())
    }

    /// The machine of a CPU that executes `engine` (tests and plans of real hosts give [`FeatSet::ALL`]).
    pub fn with_engine(profile: &Profile, policy: Policy, vcpu: VcpuFeatures, engine: FeatSet) -> Machine {
        let host: Box<[u64]> =
            SysReg::ALL.iter().map(|&r| engine::lower_to(r, profile.reg(r), engine)).collect();
        let get = |r: SysReg| host[r as usize];
        let aarch32_el0 = Feat::AA32EL0.announced(get);
        let aarch32_el1 = Feat::AA32EL1.announced(get);
        let pmu = if Feat::PMUv3.announced(get) { profile.pmu.as_ref() } else { None };
        let gic = GicLimits::of(profile, policy);
        let of = |&r: &SysReg| limit::of(r, &get, profile, gic.v3, vcpu, aarch32_el0);
        let limit = SysReg::ALL.iter().map(of).collect();
        Machine {
            policy,
            vcpu,
            kernel: (profile.kernel.major, profile.kernel.minor),
            limit,
            aarch32_el0,
            aarch32_el1,
            cntfrq_hz: profile.counter.hz,
            pmu: pmu.map(|p| (p.counters, p.pmceid0, p.pmceid1)),
            gic,
            mitigations: profile.mitigations.clone(),
            sve: profile.sve.as_ref().map(|s| s.lengths.clone()).unwrap_or_default(),
            priority_bits: profile.gic.priority_bits,
            absent: profile.absent.as_ref().map(|a| a.regs.clone()).unwrap_or_default(),
            host_caches: (!makes_up_caches(profile.kernel)).then(|| profile.cache.ccsidr.clone()),
            host,
            listed: OnceLock::new(),
        }
    }

    /// The policy it was made with.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The vCPU features it was made with.
    pub fn vcpu_features(&self) -> VcpuFeatures {
        self.vcpu
    }

    /// The vCPU features KVM_ARM_VCPU_INIT accepts on this host.
    pub fn supported_vcpu_features(&self) -> VcpuFeatures {
        let host = FeatSet::from_id_regs(|r| self.host[r as usize]);
        let mut f = VcpuFeatures::POWER_OFF | VcpuFeatures::PSCI_0_2;
        if self.aarch32_el1 {
            f = f | VcpuFeatures::EL1_32BIT;
        }
        if self.pmu.is_some() {
            f = f | VcpuFeatures::PMU_V3;
        }
        if host.has(Feat::SVE) {
            f = f | VcpuFeatures::SVE;
        }
        if limit::one_pauth_algorithm(&host) {
            f = f | VcpuFeatures::PTRAUTH;
        }
        f
    }

    /// Whether the host can give a guest a GICv3.
    pub fn vgic3(&self) -> bool {
        self.gic.v3
    }

    /// The interrupt controllers that there are.
    pub fn gic(&self) -> GicLimits {
        self.gic
    }

    /// CNTFRQ_EL0: firmware's value, which a guest cannot change.
    pub fn cntfrq_hz(&self) -> u64 {
        self.cntfrq_hz
    }

    /// PMCR_EL0.N of a VM: the event counters besides the cycle counter; 0 without a PMU.
    pub fn pmu_counters(&self) -> u8 {
        self.pmu.map_or(0, |p| p.0)
    }

    /// A register as it reads at first: the limit for ID registers, the host's value for constants. None for
    /// registers that live in the vCPU or a device and for those the machine does not have.
    pub fn value(&self, r: SysReg) -> Option<u64> {
        use SysReg as S;
        if IdReg::of(r).is_some() || in_id_space(r) {
            return Some(self.limit[r as usize]);
        }
        match r {
            S::MIDR_EL1 | S::REVIDR_EL1 | S::AIDR_EL1 | S::DCZID_EL0 => Some(self.host[r as usize]),
            S::CNTFRQ_EL0 => Some(self.cntfrq_hz),
            S::PMCEID0_EL0 => self.with_pmu(|p| p.1),
            S::PMCEID1_EL0 => self.with_pmu(|p| p.2),
            _ => None,
        }
    }

    fn with_pmu(&self, f: impl Fn((u8, u64, u64)) -> u64) -> Option<u64> {
        self.pmu.filter(|_| self.vcpu.contains(VcpuFeatures::PMU_V3)).map(f)
    }

    /// CCSIDR_EL1 for a CSSELR_EL1: made up from CTR_EL0's line sizes with one set and one way, as KVM does since Linux
    /// 6.3; before that, the hardware's.
    pub fn ccsidr(&self, csselr: u64) -> u64 {
        match &self.host_caches {
            Some(caches) => usize::try_from(csselr).ok().and_then(|n| caches.get(n).copied()).unwrap_or(0),
            None => cache::ccsidr(self.limit[SysReg::CTR_EL0 as usize], csselr & 1 != 0),
        }
    }

    /// How many values of CSSELR_EL1 KVM_GET_REG_LIST knows.
    pub fn ccsidr_entries(&self) -> u16 {
        self.host_caches.as_ref().map_or(CSSELR_MAX, |c| c.len() as u16)
    }

    /// Whether a VMM may change the shape of caches.
    pub fn ccsidr_writable(&self) -> bool {
        self.host_caches.is_none()
    }

    /// Whether the machine's kernel is this one or newer.
    pub fn kernel_since(&self, major: u16, minor: u16) -> bool {
        self.kernel >= (major, minor)
    }

    /// The limit of an ID register: what a VM starts with, and the most a VMM may write.
    pub fn limit(&self, r: SysReg) -> u64 {
        self.limit[r as usize]
    }

    /// An ID register's value once a vCPU ran: without a GICv3 the guest sees no system-register interface.
    pub fn at_first_run(&self, r: SysReg, value: u64, vgic3: bool) -> u64 {
        let field = match r {
            SysReg::ID_AA64PFR0_EL1 => 24,
            SysReg::ID_PFR1_EL1 => 28,
            _ => return value,
        };
        if vgic3 { value } else { value & !(0xf << field) }
    }

    /// What the CPU executes for a VM at the limit.
    pub fn features(&self) -> FeatSet {
        self.features_for(|r| self.limit[r as usize])
    }

    /// What the CPU executes for a VM whose ID registers read `id`.
    ///
    /// Under [`Policy::Soft`] exactly what they announce. Under [`Policy::Hw`] all the silicon has, less what KVM
    /// traps when it is not announced (kvm-arm64-abi.md §7.1).
    pub fn features_for(&self, id: impl Fn(SysReg) -> u64) -> FeatSet {
        let told = FeatSet::from_id_regs(id);
        if self.policy == Policy::Soft {
            return told;
        }
        let mut f = FeatSet::from_id_regs(|r| self.host[r as usize]);
        let silicon = f;
        for &t in engine::TRAPPED {
            let can_trap =
                !engine::NEEDS_FGT.contains(&t) || silicon.has(Feat::FGT) || silicon.has(Feat::EVT);
            if can_trap && !told.has(t) {
                f.remove(t);
            }
        }
        if !self.vcpu.contains(VcpuFeatures::PTRAUTH) {
            for &t in engine::PAUTH {
                f.remove(t);
            }
        }
        f
    }
}

#[cfg(test)]
mod tests;
