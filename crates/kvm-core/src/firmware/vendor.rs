//! KVM's own calls: its UID, the list of its calls, PTP.

use std::sync::atomic::Ordering;

use ulna_arm_cpu::cpu::Clock;

use super::NOT_SUPPORTED;
use crate::clock::ClockKind;
use crate::vcpu::Vcpu;

pub(super) const UID: u32 = 0x8600_ff01;
pub(super) const FEATURES: u32 = 0x8600_0000;
pub(super) const PTP: u32 = 0x8600_0001;

/// 28b46fb6-2ec5-11e9-a9ca-4b564d003a74.
const KVM_UID: [u64; 4] = [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d];

pub(super) fn call(vcpu: &Vcpu, function: u32) -> [u64; 4] {
    match function {
        UID => KVM_UID,
        FEATURES => {
            // 128 bits, one a function number, in 32-bit words (from 6.15 on; before, only the first).
            let f = &vcpu.vm.firmware;
            [f.vendor_hyp.load(Ordering::Relaxed), 0, f.vendor_hyp_2.load(Ordering::Relaxed), 0]
        }
        PTP => ptp(vcpu),
        _ => [NOT_SUPPORTED, 0, 0, 0],
    }
}

/// How often PTP reads both clocks.
const SAMPLES: usize = 4;

/// Wall clock and a guest counter, sampled together.
fn ptp(vcpu: &Vcpu) -> [u64; 4] {
    let vm = &vcpu.vm;
    if vm.clock.kind() == ClockKind::Insn {
        // The counter is not the host's: there is nothing to sample against.
        return [NOT_SUPPORTED, 0, 0, 0];
    }
    let offset = match vcpu.cpu.state.x[1] as u32 {
        0 => vm.cntvoff.load(Ordering::Relaxed),
        1 => vm.cntpoff.load(Ordering::Relaxed),
        _ => return [NOT_SUPPORTED, 0, 0, 0],
    };
    // One cannot be read at the moment of the other, and the host may run something else in between: of a few tries,
    // the one in which the least time passed, and half of that.
    let count = || vm.clock.counter(vcpu.cpu.state.icount);
    let sample = || {
        let before = count();
        let wall = (vm.config.wall_clock)();
        let passed = count().wrapping_sub(before);
        (passed, wall, before.wrapping_add(passed / 2))
    };
    let mut best = sample();
    for _ in 1..SAMPLES {
        let next = sample();
        if next.0 < best.0 {
            best = next;
        }
    }
    let (_, wall, counter) = best;
    let counter = counter.wrapping_sub(offset);
    [wall >> 32, wall & 0xffff_ffff, counter >> 32, counter & 0xffff_ffff]
}
