//! The true random number generator of firmware (Arm DEN0098).

use super::{INVALID_PARAMETERS, NOT_SUPPORTED};
use crate::vcpu::Vcpu;

const VERSION: u32 = 0x8400_0050;
const FEATURES: u32 = 0x8400_0051;
const GET_UUID: u32 = 0x8400_0052;
const RND32: u32 = 0x8400_0053;
const RND64: u32 = 0xc400_0053;

/// 0d21e000-4384-11eb-8070-5244554e5a4c, KVM's.
const UUID: [u64; 4] = [0x00e0_210d, 0xeb11_8443, 0x4452_7080, 0x4c5a_4e55];

pub(super) fn call(vcpu: &Vcpu, function: u32) -> [u64; 4] {
    let a1 = vcpu.cpu.state.x[1] as u32;
    match function {
        VERSION => [0x1_0000, 0, 0, 0],
        FEATURES => {
            let there = matches!(a1, VERSION | FEATURES | GET_UUID | RND32 | RND64);
            [if there { 0 } else { NOT_SUPPORTED }, 0, 0, 0]
        }
        GET_UUID => UUID,
        RND32 => random(vcpu, a1, 32),
        RND64 => random(vcpu, a1, 64),
        _ => [NOT_SUPPORTED, 0, 0, 0],
    }
}

/// `bits` of entropy in three registers of `width` bits, the least significant in x3; what was not asked for is zero.
fn random(vcpu: &Vcpu, bits: u32, width: u32) -> [u64; 4] {
    if bits > 3 * width {
        return [INVALID_PARAMETERS, 0, 0, 0];
    }
    let word = |n: u32| {
        let here = bits.saturating_sub(n * width).min(width);
        if here == 0 { 0 } else { (vcpu.vm.config.random)() >> (64 - here) }
    };
    let (low, middle, high) = (word(0), word(1), word(2));
    [0, high, middle, low]
}
