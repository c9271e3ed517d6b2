//! Arm architecture calls: SMCCC_VERSION, ARCH_FEATURES, the Spectre workarounds (SMCCC 1.1, DEN0028).

use ulna_profile::Mitigation;

use super::NOT_SUPPORTED;
use crate::vcpu::Vcpu;

const VERSION: u32 = 0x8000_0000;
const ARCH_FEATURES: u32 = 0x8000_0001;
const ARCH_WORKAROUND_1: u32 = 0x8000_8000;
const ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
const ARCH_WORKAROUND_3: u32 = 0x8000_3fff;
/// SMCCC 1.1.
const VERSION_1_1: u64 = 0x1_0001;
/// The workaround is there but this CPU does not need it.
const UNAFFECTED: u64 = 1;
/// ARCH_WORKAROUND_2 is not required (always off).
const NOT_REQUIRED: u64 = -2i64 as u64;

/// x0 of the answer.
pub(super) fn arch_call(vcpu: &Vcpu, function: u32) -> u64 {
    let m = &vcpu.vm.config.profile.mitigations;
    match function {
        VERSION => VERSION_1_1,
        ARCH_FEATURES => match vcpu.cpu.state.x[1] as u32 {
            ARCH_WORKAROUND_1 => spectre(m.spectre_v2),
            ARCH_WORKAROUND_3 => spectre(m.spectre_bhb),
            ARCH_WORKAROUND_2 => match m.ssb {
                Mitigation::Vulnerable => NOT_SUPPORTED,
                Mitigation::Mitigated if vcpu.cpu.has(ulna_arm_cpu::Feat::SSBS) => NOT_SUPPORTED,
                Mitigation::Mitigated => 0,
                Mitigation::Unaffected => NOT_REQUIRED,
            },
            _ => NOT_SUPPORTED,
        },
        // The workarounds themselves have nothing to do on a CPU that does not speculate.
        ARCH_WORKAROUND_1 | ARCH_WORKAROUND_2 | ARCH_WORKAROUND_3 => 0,
        _ => NOT_SUPPORTED,
    }
}

fn spectre(m: Mitigation) -> u64 {
    match m {
        Mitigation::Vulnerable => NOT_SUPPORTED,
        Mitigation::Mitigated => 0,
        Mitigation::Unaffected => UNAFFECTED,
    }
}
