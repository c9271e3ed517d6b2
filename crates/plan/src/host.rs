//! A place where a guest can be: a profile, how far its KVM goes, and what executes there.

use ulna_arm_regs::SysReg;
use ulna_arm_regs::feature::FeatSet;
use ulna_machine::catalog::{Firmware, Named};
use ulna_machine::{GicLimits, Machine, Policy, VcpuFeatures, VmTraits, engine_features};
use ulna_profile::{Profile, Source};

/// A host.
#[derive(Clone, Debug)]
pub struct Host {
    /// What it is.
    pub profile: Profile,
    /// How far its KVM goes.
    pub policy: Policy,
    /// What its CPU executes; [`FeatSet::ALL`] where it is the silicon of the profile.
    pub engine: FeatSet,
    /// Its KVM has nothing that Linux has not.
    pub strict: bool,
}

impl Host {
    /// This program, playing the profile.
    pub fn soft(profile: Profile, policy: Policy) -> Host {
        Host { profile, policy, engine: engine_features(), strict: false }
    }

    /// The real machine with Linux's KVM.
    pub fn real(profile: Profile) -> Host {
        Host { profile, policy: Policy::Hw, engine: FeatSet::ALL, strict: true }
    }

    /// The same with another policy.
    #[must_use]
    pub fn with_policy(&self, policy: Policy) -> Host {
        Host { policy, ..self.clone() }
    }

    /// The rules of its registers for vCPUs of these features.
    pub fn machine(&self, features: VcpuFeatures) -> Machine {
        Machine::with_engine(&self.profile, self.policy, features, self.engine)
    }

    /// vCPU features that it has.
    pub fn features(&self) -> VcpuFeatures {
        self.machine(VcpuFeatures::NONE).supported_vcpu_features()
    }

    /// Those that a VM gets unless it asks for others: all but AArch32 and a start that is powered off.
    pub fn usual_features(&self) -> VcpuFeatures {
        self.features().without(VcpuFeatures::EL1_32BIT | VcpuFeatures::POWER_OFF)
    }

    /// The interrupt controllers it can give.
    pub fn gic(&self) -> GicLimits {
        GicLimits::of(&self.profile, self.policy)
    }

    /// A VM that uses everything that the host has to offer to an incoming guest.
    pub fn open_traits(&self) -> VmTraits {
        let k = self.profile.kernel;
        let identity = ulna_machine::rules::offers_identity((k.major, k.minor), self.policy, self.strict);
        VmTraits { identity, sdei: !self.strict, strict: self.strict }
    }

    /// Name, kernel and policy, for people.
    pub fn label(&self) -> String {
        let policy = match self.policy {
            Policy::Hw => "hw",
            Policy::Soft => "soft",
        };
        let k = self.profile.kernel;
        format!("{} (Linux {}.{}, {policy})", self.profile.name, k.major, k.minor)
    }

    /// Whether a guest finds the very same machine there.
    pub fn same_as(&self, other: &Host) -> bool {
        self.profile == other.profile && self.engine == other.engine
    }

    /// Where the host's value of a register is from; none for what follows from the rest.
    pub fn source_of(&self, n: Named) -> Option<&Source> {
        let p = &self.profile;
        match n {
            Named::Sys(SysReg::CNTFRQ_EL0) => Some(&p.counter.source),
            Named::Sys(SysReg::PMCR_EL0 | SysReg::PMCEID0_EL0 | SysReg::PMCEID1_EL0) => {
                p.pmu.as_ref().map(|p| &p.source)
            }
            Named::Sys(SysReg::ICC_CTLR_EL1) => Some(&p.gic.source),
            // Made up from the line sizes of CTR_EL0 since Linux 6.3.
            Named::Ccsidr(_) if ulna_machine::makes_up_caches(p.kernel) => self.reg_source(SysReg::CTR_EL0),
            Named::Ccsidr(_) => Some(&p.cache.source),
            Named::Sys(SysReg::CLIDR_EL1) => self.reg_source(SysReg::CTR_EL0),
            Named::Sys(r) => self.reg_source(r),
            Named::Firmware(Firmware::Workaround(_)) => Some(&p.mitigations.source),
            Named::Vls => p.sve.as_ref().map(|s| &s.source),
            _ => None,
        }
    }

    fn reg_source(&self, r: SysReg) -> Option<&Source> {
        self.profile.regs.get(&r).map(|v| &v.source)
    }
}
