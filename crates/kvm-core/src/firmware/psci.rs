//! PSCI (DEN0022): 0.1, and 0.2 to 1.3 by the version register, with the answers of KVM.

use std::sync::atomic::Ordering;

use ulna_arm_cpu::SysReg;
use ulna_kvm_abi::{exit, mp_state, vcpu_feature};

use super::{INVALID_PARAMETERS, NOT_SUPPORTED, answer, refuse};
use crate::Result;
use crate::run::Leave;
use crate::shared::{ResetTo, Shared};
use crate::vcpu::Vcpu;

/// PSCI 0.2, the first with a version that can be asked for.
pub const VERSION_0_2: u64 = 0x2;
/// PSCI 1.0.
pub const VERSION_1_0: u64 = 0x1_0000;
/// PSCI 1.1, the newest that KVM 6.12 offers.
pub const VERSION_1_1: u64 = 0x1_0001;
/// PSCI 1.2.
pub const VERSION_1_2: u64 = 0x1_0002;
/// PSCI 1.3, offered from Linux 6.13 on.
pub const VERSION_1_3: u64 = 0x1_0003;

/// First and last function id of KVM's PSCI 0.1.
pub(super) const V0_1_FIRST: u32 = 0x95c1_ba5e;
pub(super) const V0_1_LAST: u32 = 0x95c1_ba61;

const ALREADY_ON: u64 = -4i64 as u64;
const INTERNAL_FAILURE: u64 = -6i64 as u64;

/// Function numbers without the calling convention's bits.
mod function {
    pub const VERSION: u32 = 0x00;
    pub const CPU_SUSPEND: u32 = 0x01;
    pub const CPU_OFF: u32 = 0x02;
    pub const CPU_ON: u32 = 0x03;
    pub const AFFINITY_INFO: u32 = 0x04;
    pub const MIGRATE_INFO_TYPE: u32 = 0x06;
    pub const SYSTEM_OFF: u32 = 0x08;
    pub const SYSTEM_RESET: u32 = 0x09;
    pub const FEATURES: u32 = 0x0a;
    pub const SYSTEM_SUSPEND: u32 = 0x0e;
    pub const SYSTEM_RESET2: u32 = 0x12;
    pub const SYSTEM_OFF2: u32 = 0x15;
}

/// SYSTEM_OFF2's only type, HIBERNATE_OFF: as an argument (0 means the same), and in the answer of PSCI_FEATURES.
const HIBERNATE_OFF: u64 = 1;

const SMC64: u32 = 1 << 30;

/// A PSCI call.
pub(super) fn call(vcpu: &mut Vcpu, id: u32) -> Result<Option<Leave>> {
    let modern = vcpu.has_feature(vcpu_feature::PSCI_0_2);
    if (V0_1_FIRST..=V0_1_LAST).contains(&id) {
        return if modern { refuse(vcpu) } else { v0_1(vcpu, id - V0_1_FIRST) };
    }
    if !modern {
        return refuse(vcpu);
    }
    let version = vcpu.vm.firmware.psci_version.load(Ordering::SeqCst);
    let wide = id & SMC64 != 0;
    let number = id & 0x1f;
    if !exists(vcpu, number, wide, version) {
        return refuse(vcpu);
    }
    // Arguments of 32-bit calls are 32 bits wide.
    let arg = |n: usize| {
        let v = vcpu.cpu.state.x[n];
        if wide { v } else { v & 0xffff_ffff }
    };
    let (a1, a2, a3) = (arg(1), arg(2), arg(3));
    let x0 = match number {
        function::VERSION => version,
        function::CPU_SUSPEND => {
            // Retention: as WFI.
            vcpu.sleep(None);
            0
        }
        function::CPU_OFF => {
            vcpu.shared.set_mp_state(mp_state::STOPPED);
            vcpu.vm.reconsider_sdei();
            0
        }
        function::CPU_ON => cpu_on(vcpu, a1, a2, a3, true),
        function::AFFINITY_INFO => affinity_info(vcpu, a1, a2),
        // Trusted OS is not present.
        function::MIGRATE_INFO_TYPE => 2,
        function::FEATURES => features(vcpu, a1 as u32, version),
        function::SYSTEM_SUSPEND => {
            // The VMM decides; it finds the arguments where the guest put them.
            if !wide {
                for x in &mut vcpu.cpu.state.x[1..4] {
                    *x &= 0xffff_ffff;
                }
            }
            vcpu.event.set(exit::SYSTEM_EVENT_SUSPEND, None);
            return Ok(Some(Leave::SystemEvent));
        }
        function::SYSTEM_OFF => return Ok(Some(system_event(vcpu, exit::SYSTEM_EVENT_SHUTDOWN, 0))),
        function::SYSTEM_RESET => return Ok(Some(system_event(vcpu, exit::SYSTEM_EVENT_RESET, 0))),
        function::SYSTEM_RESET2 => {
            // SYSTEM_WARM_RESET, or a vendor's type.
            if a1 as u32 != 0 && a1 >> 31 & 1 == 0 {
                INVALID_PARAMETERS
            } else {
                let (x1, x2, x3) = (vcpu.cpu.state.x[1], vcpu.cpu.state.x[2], vcpu.cpu.state.x[3]);
                let flag = exit::SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2;
                let leave = system_event(vcpu, exit::SYSTEM_EVENT_RESET, flag);
                // Type and cookie stay where the VMM can read them.
                answer(vcpu, [INTERNAL_FAILURE, x1, x2, x3]);
                return Ok(Some(leave));
            }
        }
        function::SYSTEM_OFF2 => {
            if a1 > HIBERNATE_OFF || a2 != 0 {
                INVALID_PARAMETERS
            } else {
                let flag = exit::SYSTEM_EVENT_SHUTDOWN_FLAG_PSCI_OFF2;
                return Ok(Some(system_event(vcpu, exit::SYSTEM_EVENT_SHUTDOWN, flag)));
            }
        }
        _ => NOT_SUPPORTED,
    };
    answer(vcpu, [x0, 0, 0, 0]);
    Ok(None)
}

/// Is the function there in this width and version?
fn exists(vcpu: &Vcpu, number: u32, wide: bool, version: u64) -> bool {
    use function::*;
    match number {
        CPU_SUSPEND | CPU_ON | AFFINITY_INFO => true,
        VERSION | CPU_OFF | MIGRATE_INFO_TYPE | SYSTEM_OFF | SYSTEM_RESET => !wide,
        FEATURES => !wide && version >= VERSION_1_0,
        SYSTEM_SUSPEND => version >= VERSION_1_0 && vcpu.vm.system_suspend.load(Ordering::Relaxed),
        SYSTEM_RESET2 => version >= VERSION_1_1,
        SYSTEM_OFF2 => version >= VERSION_1_3,
        _ => false,
    }
}

fn features(vcpu: &Vcpu, id: u32, version: u64) -> u64 {
    const SMCCC_VERSION: u32 = 0x8000_0000;
    let psci = id & !(SMC64 | 0x1f) == 0x8400_0000;
    let there = id == SMCCC_VERSION || (psci && exists(vcpu, id & 0x1f, id & SMC64 != 0, version));
    match id & 0x1f {
        _ if !there => NOT_SUPPORTED,
        function::SYSTEM_OFF2 => HIBERNATE_OFF,
        _ => 0,
    }
}

fn v0_1(vcpu: &mut Vcpu, n: u32) -> Result<Option<Leave>> {
    let (a1, a2, a3) = (vcpu.cpu.state.x[1], vcpu.cpu.state.x[2], vcpu.cpu.state.x[3]);
    let x0 = match n {
        1 => {
            vcpu.shared.set_mp_state(mp_state::STOPPED);
            0
        }
        2 => cpu_on(vcpu, a1, a2, a3, false),
        _ => NOT_SUPPORTED,
    };
    answer(vcpu, [x0, 0, 0, 0]);
    Ok(None)
}

/// Affinity fields of an MPIDR.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// A vCPU's affinity as in its MPIDR_EL1.
pub(super) fn affinity(v: &Shared) -> u64 {
    let a = u64::from(v.affinity.load(Ordering::SeqCst));
    a & 0xff_ffff | (a >> 24) << 32
}

fn cpu_on(vcpu: &mut Vcpu, target: u64, pc: u64, x0: u64, modern: bool) -> u64 {
    if target & !AFFINITY != 0 {
        return INVALID_PARAMETERS;
    }
    let vcpus = vcpu.vm.vcpus();
    let Some(v) = vcpus.values().find(|v| affinity(v) == target) else {
        return INVALID_PARAMETERS;
    };
    let big_endian = vcpu.cpu.state.sys(SysReg::SCTLR_EL1) >> 25 & 1 != 0;
    match (v.power_on(ResetTo { pc, x0, big_endian }), modern) {
        (true, _) => 0,
        (false, true) => ALREADY_ON,
        (false, false) => INVALID_PARAMETERS,
    }
}

fn affinity_info(vcpu: &Vcpu, target: u64, lowest: u64) -> u64 {
    if lowest > 3 || target & !AFFINITY != 0 {
        return INVALID_PARAMETERS;
    }
    let mask = AFFINITY & !((1u64 << if lowest == 3 { 32 } else { lowest * 8 }) - 1);
    let vcpus = vcpu.vm.vcpus();
    let mut found = false;
    for v in vcpus.values() {
        if affinity(v) & mask == target & mask {
            found = true;
            if v.mp_state() != mp_state::STOPPED {
                return 0;
            }
        }
    }
    if found { 1 } else { INVALID_PARAMETERS }
}

/// SYSTEM_OFF and SYSTEM_RESET: all vCPUs stop; should the VMM let the guest go on, the call has failed.
fn system_event(vcpu: &mut Vcpu, kind: u32, flags: u64) -> Leave {
    answer(vcpu, [INTERNAL_FAILURE, 0, 0, 0]);
    for v in vcpu.vm.vcpus().values() {
        v.set_mp_state(mp_state::STOPPED);
    }
    if kind == exit::SYSTEM_EVENT_RESET {
        vcpu.vm.reset_sdei();
    }
    vcpu.event.set(kind, Some(flags));
    Leave::SystemEvent
}
