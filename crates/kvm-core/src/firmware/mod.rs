//! What the guest reaches by HVC (or trapped SMC): SMCCC dispatch to the services.

pub mod psci;
mod smccc;

use crate::Result;
use crate::vcpu::{Leave, Vcpu};

/// SMCCC NOT_SUPPORTED.
pub(crate) const NOT_SUPPORTED: u64 = -1i64 as u64;

/// A call with its arguments in x0-x3; results go there, too.
pub(crate) fn call(vcpu: &mut Vcpu) -> Result<Option<Leave>> {
    let function = vcpu.cpu.state.x[0] as u32;
    match function {
        0x8000_0000..=0x8000_ffff => {
            let x0 = smccc::arch_call(vcpu, function);
            answer(vcpu, [x0, 0, 0, 0]);
            Ok(None)
        }
        0x8400_0000..=0x8400_001f | 0xc400_0000..=0xc400_001f => psci::call(vcpu, function),
        psci::V0_1_FIRST..=psci::V0_1_LAST => psci::call(vcpu, function),
        _ => {
            answer(vcpu, [NOT_SUPPORTED, 0, 0, 0]);
            Ok(None)
        }
    }
}

/// Results in x0-x3.
pub(crate) fn answer(vcpu: &mut Vcpu, x: [u64; 4]) {
    vcpu.cpu.state.x[..4].copy_from_slice(&x);
}
