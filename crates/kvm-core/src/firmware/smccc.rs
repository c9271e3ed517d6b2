//! Arm architecture calls: SMCCC_VERSION, ARCH_FEATURES, the Spectre workarounds (SMCCC 1.1, DEN0028).

use std::sync::atomic::Ordering;

use ulna_arm_cpu::SysReg;
use ulna_machine::firmware::{ssbs, workaround_level as host_level};

use super::{HOST_LEVEL, NOT_SUPPORTED};
use crate::vcpu::Vcpu;
use crate::vm::VmInner;

pub(super) const VERSION: u32 = 0x8000_0000;
pub(super) const ARCH_FEATURES: u32 = 0x8000_0001;
const ARCH_WORKAROUND_1: u32 = 0x8000_8000;
const ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
const ARCH_WORKAROUND_3: u32 = 0x8000_3fff;
/// Stolen time: the list of its calls.
pub(super) const PV_TIME_FEATURES: u32 = 0xc500_0020;
/// Stolen time: the structure's address.
pub(super) const PV_TIME_ST: u32 = 0xc500_0021;
/// SMCCC 1.1.
const VERSION_1_1: u64 = 0x1_0001;
/// The workaround is there but this CPU does not need it.
const UNAFFECTED: u64 = 1;
/// ARCH_WORKAROUND_2 is not required (always off).
const NOT_REQUIRED: u64 = -2i64 as u64;

/// The workarounds themselves have nothing to do on a CPU that does not speculate.
pub(super) fn is_workaround(function: u32) -> bool {
    matches!(function, ARCH_WORKAROUND_1 | ARCH_WORKAROUND_2 | ARCH_WORKAROUND_3)
}

/// x0 of the answer.
pub(super) fn arch_call(vcpu: &Vcpu, function: u32) -> u64 {
    match function {
        VERSION => VERSION_1_1,
        ARCH_FEATURES => features(vcpu, vcpu.cpu.state.x[1] as u32),
        _ => NOT_SUPPORTED,
    }
}

/// Stolen time, once the VMM has said where its structure is.
pub(super) fn pv_time(vcpu: &mut Vcpu, function: u32) -> u64 {
    if function == PV_TIME_ST {
        return vcpu.start_stolen_time().unwrap_or(NOT_SUPPORTED);
    }
    let asked = vcpu.cpu.state.x[1] as u32;
    let there = matches!(asked, PV_TIME_FEATURES | PV_TIME_ST) && vcpu.stolen_time.is_some();
    if there { 0 } else { NOT_SUPPORTED }
}

fn features(vcpu: &Vcpu, function: u32) -> u64 {
    match function {
        ARCH_WORKAROUND_1 => spectre(workaround_level(&vcpu.vm, 1)),
        ARCH_WORKAROUND_3 => spectre(workaround_level(&vcpu.vm, 3)),
        ARCH_WORKAROUND_2 if workaround_level(&vcpu.vm, 2) == 3 => NOT_REQUIRED,
        PV_TIME_FEATURES if vcpu.vm.firmware.std_hyp.load(Ordering::Relaxed) & 1 != 0 => 0,
        _ => NOT_SUPPORTED,
    }
}

/// By a level of KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1 and _3.
fn spectre(level: u64) -> u64 {
    match level {
        0 => NOT_SUPPORTED,
        1 => 0,
        _ => UNAFFECTED,
    }
}

/// Does the VM announce ID_AA64PFR1_EL1.SSBS?
pub(crate) fn shows_ssbs(vm: &VmInner) -> bool {
    ssbs(vm.id_values()[SysReg::ID_AA64PFR1_EL1 as usize])
}

/// KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1 to _3: what a read answers. The host's, unless software was told another.
pub(crate) fn workaround_level(vm: &VmInner, n: u8) -> u64 {
    match vm.firmware.level(n).load(Ordering::SeqCst) {
        HOST_LEVEL => host_level(&vm.config.profile.mitigations, n, shows_ssbs(vm)),
        own => own,
    }
}
