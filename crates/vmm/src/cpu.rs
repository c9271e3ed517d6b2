//! Gives a guest another CPU than the host's ([`CpuSettings`]).

use crate::config::CpuSettings;
use crate::error::Error;
use std::sync::Arc;
use ulna_kvm_backend::abi::cap;
use ulna_kvm_backend::abi::device::GRP_CPU_SYSREGS;
use ulna_kvm_backend::abi::reg::{GROUP_FW, GROUP_FW_FEAT};
use ulna_kvm_backend::{Device, Errno, Vcpu, Vm};

/// ICC_CTLR_EL1.
const ICC_CTLR_EL1: u64 = 0xc664;

fn refused(what: &str, e: Errno) -> Error {
    Error::Usage(format!("--cpu: this KVM refuses {what} ({e})"))
}

/// MPIDR_EL1 as attributes of the GICv3 name a vCPU: Aff3 to Aff0 in the upper half.
fn affinity(mpidr: u64) -> u64 {
    (mpidr & 0xff_ffff) << 32 | (mpidr >> 32 & 0xff) << 56
}

impl CpuSettings {
    /// What is done before there is a vCPU.
    pub(crate) fn prepare(&self, vm: &dyn Vm) -> Result<(), Error> {
        if self.identity {
            let done = vm.enable_cap(cap::ARM_WRITABLE_IMP_ID_REGS, [0; 4]);
            done.map_err(|e| refused("an identity of the guest's own", e))?;
        }
        Ok(())
    }

    /// What is done once all vCPUs are initialised. What the VM has once is written again with the same value.
    pub(crate) fn apply(&self, vm: &dyn Vm, vcpus: &mut [Box<dyn Vcpu>]) -> Result<(), Error> {
        for &(id, v) in &self.vm_registers {
            let done = vm.set_vm_reg(id, v);
            done.map_err(|e| refused(&format!("register {:#x} = {v:#x} of the VM", id.0), e))?;
        }
        for vcpu in vcpus {
            for &(id, v) in &self.registers {
                let bytes = v.to_le_bytes();
                let done = vcpu.set_one_reg(id, &bytes[..id.size().min(8)]);
                done.map_err(|e| refused(&format!("register {:#x} = {v:#x}", id.0), e))?;
            }
        }
        Ok(())
    }

    /// Hypercall services were chosen after that: they must not say otherwise.
    pub(crate) fn check(&self, vcpu: &mut dyn Vcpu) -> Result<(), Error> {
        for &(id, v) in self.registers.iter().filter(|r| matches!(r.0.group(), GROUP_FW | GROUP_FW_FEAT)) {
            let now = vcpu.get_reg_u64(id).map_err(|e| refused(&format!("register {:#x}", id.0), e))?;
            if now != v {
                return Err(Error::Usage(format!(
                    "--cpu and --services contradict each other: firmware register {:#x} is {v:#x} in the file, and \
                     {now:#x} by the option",
                    id.0
                )));
            }
        }
        Ok(())
    }

    /// What is done to the interrupt controller, which is the first of `gic`.
    pub(crate) fn apply_gic(&self, gic: &[Arc<dyn Device>], mpidrs: &[u64]) -> Result<(), Error> {
        let (Some(ctlr), Some(gic)) = (self.icc_ctlr, gic.first()) else { return Ok(()) };
        for mpidr in mpidrs {
            let done = gic.set_attr(GRP_CPU_SYSREGS, affinity(*mpidr) | ICC_CTLR_EL1, ctlr);
            done.map_err(|e| refused(&format!("ICC_CTLR_EL1 = {ctlr:#x}"), e))?;
        }
        Ok(())
    }
}
