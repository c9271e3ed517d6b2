//! What the guest reaches by HVC (or trapped SMC): SMCCC dispatch to the services.
//!
//! A call goes through the VMM's filter, then the bitmap of its service decides whether there is such a call, then the
//! service answers (kvm-arm64-abi.md §6 and §9). What nobody answers is NOT_SUPPORTED.

mod filter;
pub mod psci;
pub mod sdei;
pub(crate) mod smccc;
mod trng;
mod vendor;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

pub use filter::{Action, Filter};

use ulna_machine::catalog::Firmware as Reg;
use ulna_machine::{Machine, VcpuFeatures};

use crate::Result;
use crate::kvm::KvmConfig;
use crate::run::Leave;
use crate::vcpu::Vcpu;

/// SMCCC NOT_SUPPORTED.
pub(crate) const NOT_SUPPORTED: u64 = -1i64 as u64;
/// INVALID_PARAMETERS of PSCI and TRNG.
pub(crate) const INVALID_PARAMETERS: u64 = -2i64 as u64;

/// A workaround's level is the host's.
pub(crate) const HOST_LEVEL: u64 = u64::MAX;

/// Firmware state of a VM.
pub(crate) struct Firmware {
    /// KVM_REG_ARM_PSCI_VERSION.
    pub psci_version: AtomicU64,
    /// KVM_REG_ARM_STD_BMAP.
    pub std: AtomicU64,
    /// KVM_REG_ARM_STD_HYP_BMAP.
    pub std_hyp: AtomicU64,
    /// KVM_REG_ARM_VENDOR_HYP_BMAP.
    pub vendor_hyp: AtomicU64,
    /// KVM_REG_ARM_VENDOR_HYP_BMAP_2.
    pub vendor_hyp_2: AtomicU64,
    /// KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1 to _3, where the VM has levels of its own.
    levels: [AtomicU64; 3],
    /// KVM_ARM_VM_SMCCC_FILTER.
    pub filter: Mutex<Filter>,
    /// SDEI, where it is enabled.
    pub sdei: OnceLock<sdei::Service>,
}

impl Firmware {
    /// What a new VM has: the newest PSCI, and all services that were there before the bitmaps. Later ones start absent.
    pub fn new(config: &KvmConfig) -> Firmware {
        let machine = Machine::new(&config.profile, config.policy, VcpuFeatures::PSCI_0_2);
        let first = |f| AtomicU64::new(machine.firmware_value(f));
        Firmware {
            psci_version: first(Reg::PsciVersion),
            std: first(Reg::StdBmap),
            std_hyp: first(Reg::StdHypBmap),
            vendor_hyp: first(Reg::VendorHypBmap),
            vendor_hyp_2: first(Reg::VendorHypBmap2),
            levels: [const { AtomicU64::new(HOST_LEVEL) }; 3],
            filter: Mutex::default(),
            sdei: OnceLock::new(),
        }
    }

    /// The level of workaround 1, 2 or 3.
    pub fn level(&self, n: u8) -> &AtomicU64 {
        match n {
            1 => &self.levels[0],
            2 => &self.levels[1],
            _ => &self.levels[2],
        }
    }
}

/// How the guest called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduit {
    Hvc,
    Smc,
}

/// A call with its arguments in x0-x3; results go there, too. PC is after the instruction.
pub(crate) fn call(vcpu: &mut Vcpu, conduit: Conduit) -> Result<Option<Leave>> {
    let function = vcpu.cpu.state.x[0] as u32;
    if conduit == Conduit::Hvc && smccc::is_workaround(function) {
        // Served by the exception vector: nothing else changes, and no filter sees it.
        vcpu.cpu.state.x[0] = 0;
        return Ok(None);
    }
    let action = {
        let filter = vcpu.vm.firmware.filter.lock().unwrap_or_else(|e| e.into_inner());
        filter.action(function)
    };
    match action {
        Action::Handle => {}
        Action::Deny => return refuse(vcpu),
        Action::Forward => {
            let flags = if conduit == Conduit::Smc { ulna_kvm_abi::exit::HYPERCALL_EXIT_SMC } else { 0 };
            return Ok(Some(Leave::Hypercall { function: function.into(), flags }));
        }
    }
    if !allowed(vcpu, function) {
        return refuse(vcpu);
    }
    let x = match function {
        0x8000_0000..=0x8000_ffff => [smccc::arch_call(vcpu, function), 0, 0, 0],
        0x8400_0000..=0x8400_001f | 0xc400_0000..=0xc400_001f => return psci::call(vcpu, function),
        psci::V0_1_FIRST..=psci::V0_1_LAST => return psci::call(vcpu, function),
        sdei::FIRST..=sdei::LAST => return sdei::call(vcpu, function),
        0x8400_0050..=0x8400_0053 | 0xc400_0053 => trng::call(vcpu, function),
        smccc::PV_TIME_FEATURES | smccc::PV_TIME_ST => [smccc::pv_time(vcpu, function), 0, 0, 0],
        0x8600_0000..=0x8600_ffff => vendor::call(vcpu, function),
        _ => return refuse(vcpu),
    };
    answer(vcpu, x);
    Ok(None)
}

/// Calls that are gated by a bitmap, or always there; everything else is denied.
fn allowed(vcpu: &Vcpu, function: u32) -> bool {
    let f = &vcpu.vm.firmware;
    let bit = |map: &AtomicU64, n: u32| map.load(Ordering::Relaxed) >> n & 1 != 0;
    match function {
        smccc::VERSION | smccc::ARCH_FEATURES => true,
        0x8400_0000..=0x8400_001f | 0xc400_0000..=0xc400_001f => true,
        psci::V0_1_FIRST..=psci::V0_1_LAST => true,
        sdei::FIRST..=sdei::LAST => f.sdei.get().is_some(),
        0x8400_0050..=0x8400_0053 | 0xc400_0053 => bit(&f.std, 0),
        smccc::PV_TIME_FEATURES | smccc::PV_TIME_ST => bit(&f.std_hyp, 0),
        vendor::UID | vendor::FEATURES => bit(&f.vendor_hyp, 0),
        vendor::PTP => bit(&f.vendor_hyp, 1),
        _ => false,
    }
}

pub(crate) fn refuse(vcpu: &mut Vcpu) -> Result<Option<Leave>> {
    answer(vcpu, [NOT_SUPPORTED, 0, 0, 0]);
    Ok(None)
}

/// Results in x0-x3.
pub(crate) fn answer(vcpu: &mut Vcpu, x: [u64; 4]) {
    vcpu.cpu.state.x[..4].copy_from_slice(&x);
}
