//! KVM_SET_GUEST_DEBUG, KVM_GET_VCPU_EVENTS and KVM_SET_VCPU_EVENTS (kvm-arm64-abi.md §14).
//!
//! While a vCPU is debugged all its debug exceptions leave KVM_RUN. The software step state machine (Arm ARM D2.12) runs on
//! PSTATE.SS as on hardware; the guest's own SS stands aside meanwhile.

use ulna_arm_cpu::debug::DebugRegisters;
use ulna_arm_cpu::exception::{ec, fsc, spsr};
use ulna_arm_cpu::exit::Exit;
use ulna_arm_cpu::shared::Request;
use ulna_arm_cpu::{CpuLines, Engine, SysReg};
use ulna_kvm_abi::{Errno, GuestDebug, VcpuEvents, guest_debug as control};
use ulna_machine::Machine;

use crate::Result;
use crate::run::Leave;
use crate::vcpu::Vcpu;

/// ISS of an SError or of anything else: 25 bits.
const ISS_MASK: u64 = 0x1ff_ffff;
/// ISS of an SError without a syndrome of its own: IMPLEMENTATION DEFINED (IDS).
const SERROR_IDS: u32 = 1 << 24;
/// ESR_ELx.IL.
const IL: u64 = 1 << 25;

/// What KVM_SET_GUEST_DEBUG asked for, and where the step stands between two KVM_RUNs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DebugState {
    control: u32,
    /// The instruction to step is done, the step exception not yet reported (active-pending).
    step_pending: bool,
    /// The guest's PSTATE.SS while the step has the real one.
    guest_ss: bool,
}

/// Exceptions that the VMM may inject, and what KVM remembers of the last one for that.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// FAR_EL2 of the last abort or watchpoint.
    far: u64,
    /// ESR_EL2.IL of the last exception.
    il: bool,
    /// An external abort whose registers are written waits for the next entry.
    abort_pending: bool,
}

impl Faults {
    /// Takes note of an exit.
    pub fn note(&mut self, exit: &Exit) {
        match *exit {
            Exit::Kick | Exit::Budget | Exit::Pmu => return,
            Exit::DataAbort(a) => self.far = a.far,
            Exit::InstAbort { far, .. } => self.far = far,
            Exit::Debug { esr, far } if esr >> 26 == u32::from(ec::WATCHPT_LOW) => self.far = far,
            _ => {}
        }
        self.il = true;
    }

    /// A reset of the vCPU.
    pub fn reset(&mut self) {
        self.abort_pending = false;
    }
}

impl Vcpu {
    /// KVM_SET_GUEST_DEBUG. Without KVM_GUESTDBG_ENABLE everything is off.
    pub fn set_guest_debug(&mut self, d: &GuestDebug) -> Result<()> {
        self.vm.check_alive()?;
        if d.control & !control::VALID != 0 {
            let e = Errno::EINVAL.because("control {x}: of these bits there are {x}");
            return Err(e.values([d.control.into(), control::VALID.into()]));
        }
        let old = self.debug.control;
        let on = d.control & control::ENABLE != 0;
        let new = if on { d.control } else { 0 };
        self.debug.control = new;
        if !on {
            self.debug.step_pending = false;
        }
        self.cpu.debug.to_hypervisor = on;
        self.cpu.debug.step = new & control::SINGLESTEP != 0;
        self.cpu.debug.registers = (new & control::USE_HW != 0).then(|| {
            Box::new(DebugRegisters { bcr: d.dbg_bcr, bvr: d.dbg_bvr, wcr: d.dbg_wcr, wvr: d.dbg_wvr })
        });
        if (old | new) & control::USE_SW_BP != 0 {
            // Where a VMM on hardware cleans caches after it wrote or removed a BRK, this is the sign for us.
            for slot in self.vm.memory.slots().iter() {
                slot.code_changed();
            }
            if self.vm.config.engine != Engine::Interp {
                // Translated code does not look at generations. A vCPU does this before its next instruction.
                self.vm.shared.post(None, Request::FlushAll);
            }
        }
        Ok(())
    }

    fn stepped_by_vmm(&self) -> bool {
        self.debug.control & control::SINGLESTEP != 0
    }

    /// At the start of KVM_RUN: PSTATE.SS becomes the step's.
    pub(crate) fn enter_debug(&mut self) {
        if self.stepped_by_vmm() {
            self.debug.guest_ss = self.cpu.state.ss;
            self.cpu.state.ss = !self.debug.step_pending;
        }
    }

    /// The vCPU was reset inside KVM_RUN: one instruction is to be stepped from there.
    pub(crate) fn rearm_step(&mut self) {
        if self.stepped_by_vmm() {
            self.debug.guest_ss = false;
            self.cpu.state.ss = true;
        }
    }

    /// PSTATE in the format of SPSR, with the guest's own SS.
    pub(crate) fn guest_pstate(&self) -> u32 {
        let p = self.cpu.pstate();
        if !self.stepped_by_vmm() {
            return p;
        }
        p & !spsr::SS | if self.debug.guest_ss { spsr::SS } else { 0 }
    }

    /// The guest's PSTATE was set as a whole: its SS stands aside while `stepping` is the step's.
    pub(crate) fn keep_step(&mut self, stepping: bool) {
        if self.stepped_by_vmm() {
            self.debug.guest_ss = std::mem::replace(&mut self.cpu.state.ss, stepping);
        }
    }

    /// At the end of KVM_RUN: PSTATE.SS is the guest's again.
    pub(crate) fn leave_debug(&mut self, left: &Result<Leave>) {
        if self.stepped_by_vmm() {
            let done = matches!(left, Ok(Leave::Debug(esr, _)) if esr >> 26 == u32::from(ec::SSTEP_LOW));
            self.debug.step_pending = !done && !self.cpu.state.ss;
            self.cpu.state.ss = self.debug.guest_ss;
        }
    }

    /// KVM_GET_VCPU_EVENTS.
    pub fn vcpu_events(&mut self) -> Result<VcpuEvents> {
        let ras = host_has_ras(&*self.check_initialised()?);
        let pending = self.cpu.lines.get() & CpuLines::VSERROR != 0;
        Ok(VcpuEvents {
            serror_pending: pending.into(),
            serror_has_esr: ras.into(),
            serror_esr: if pending && ras { self.cpu.vserror_iss.into() } else { 0 },
            ..VcpuEvents::default()
        })
    }

    /// KVM_SET_VCPU_EVENTS.
    pub fn set_vcpu_events(&mut self, e: &VcpuEvents) -> Result<()> {
        let m = self.check_initialised()?;
        if e.pad.iter().any(|b| *b != 0) || e.reserved.iter().any(|w| *w != 0) {
            return Err(Errno::EINVAL.because("padding of kvm_vcpu_events is not zero"));
        }
        if e.serror_pending != 0 {
            let iss = if e.serror_has_esr != 0 {
                if !host_has_ras(&m) || e.serror_esr & !ISS_MASK != 0 {
                    let why = Errno::EINVAL
                        .because("an SError with ESR {x}: only on a host with FEAT_RAS, and only ISS bits");
                    return Err(why.value(e.serror_esr));
                }
                e.serror_esr as u32
            } else {
                SERROR_IDS
            };
            self.cpu.vserror_iss = iss;
            self.cpu.lines.set(CpuLines::VSERROR);
        }
        if e.ext_dabt_pending != 0 {
            self.prepare_abort();
        }
        Ok(())
    }

    /// An external data abort at the address of the last fault. Its registers show at once; the entry is taken by the
    /// next KVM_RUN.
    fn prepare_abort(&mut self) {
        let class = if self.cpu.state.el == 0 { ec::DABT_LOW } else { ec::DABT_LOW + 1 };
        let il = if self.faults.il { IL } else { 0 };
        let s = &mut self.cpu.state;
        s.set_sys(SysReg::FAR_EL1, self.faults.far);
        s.set_sys(SysReg::ESR_EL1, u64::from(class) << 26 | il | u64::from(fsc::EXTERNAL));
        self.faults.abort_pending = true;
    }

    /// Completes what the last KVM_RUN left to the VMM: an access, unless the VMM aborted it.
    pub(crate) fn complete_exit(&mut self) {
        if std::mem::take(&mut self.faults.abort_pending) {
            self.mmio.cancel();
            self.cpu.take_prepared();
        } else {
            self.complete_mmio();
        }
    }
}

/// Has the host FEAT_RAS?
fn host_has_ras(m: &Machine) -> bool {
    m.limit(SysReg::ID_AA64PFR0_EL1) >> 28 & 15 != 0
}
