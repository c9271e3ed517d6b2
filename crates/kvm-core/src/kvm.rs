//! `/dev/kvm`: the system descriptor.

use std::sync::Arc;

use ulna_arm_cpu::{Engine, EngineOptions};
use ulna_kvm_abi::Errno;
use ulna_machine::{GicLimits, Machine, Policy, VcpuFeatures};
use ulna_profile::Profile;

use crate::Result;
use crate::clock::ClockKind;
use crate::vm::Vm;

/// What the software KVM plays.
#[derive(Clone)]
pub struct KvmConfig {
    /// The host.
    pub profile: Profile,
    /// How far beyond the silicon it may go.
    pub policy: Policy,
    /// The system counter.
    pub clock: ClockKind,
    /// Source of randomness (RNDR).
    pub random: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Nanoseconds since 1970, for the guest's PTP clock.
    pub wall_clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// What executes instructions.
    pub engine: Engine,
    /// How it is set up.
    pub engine_options: EngineOptions,
    /// Hides everything that upstream's KVM has not: private capabilities, registers, ranges and attributes.
    pub strict: bool,
}

impl KvmConfig {
    /// The interrupt controllers that VMs can have.
    pub(crate) fn gic(&self) -> GicLimits {
        GicLimits::of(&self.profile, self.policy)
    }
}

/// The system descriptor.
pub struct Kvm {
    config: KvmConfig,
}

impl Kvm {
    /// A KVM on this host.
    pub fn new(config: KvmConfig) -> Kvm {
        Kvm { config }
    }

    pub(crate) fn config(&self) -> &KvmConfig {
        &self.config
    }

    /// KVM_CAP_ARM_VM_IPA_SIZE.
    pub fn max_ipa_bits(&self) -> u8 {
        self.config.profile.memory.ipa_bits
    }

    /// vCPU features that KVM_ARM_VCPU_INIT accepts.
    pub fn supported_features(&self) -> VcpuFeatures {
        Machine::new(&self.config.profile, self.config.policy, VcpuFeatures::NONE).supported_vcpu_features()
    }

    /// KVM_CREATE_VM: `kind` is the number of IPA bits, 0 for 40.
    pub fn create_vm(&self, kind: u64) -> Result<Vm> {
        let max = self.max_ipa_bits();
        if kind & !0xff != 0 {
            return Err(Errno::EINVAL
                .because("type {x} has bits beyond the number of address bits")
                .value(kind));
        }
        let bits = if kind == 0 { 40 } else { kind as u8 };
        if bits < 32 || bits > max {
            let e = Errno::EINVAL.because("{} bits of guest physical addresses: the host has 32 to {}");
            return Err(e.values([bits.into(), max.into()]));
        }
        Ok(Vm::new(self.config.clone(), bits))
    }
}
