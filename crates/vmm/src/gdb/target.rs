//! The debuggee behind gdbstub's traits.

use crate::gdb::arch::{Aarch64, Frame, Reg};
use crate::gdb::debuggee::{Action, Debuggee, Stop};
use crate::gdb::points::WatchKind;
use crate::gdb::regs;
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use std::convert::Infallible;
use std::io::Write;
use ulna_kvm_backend::abi::mp_state;
use ulna_kvm_backend::{Errno, RegId};

/// EFAULT.
const FAULT: u8 = 14;

fn cpu(tid: Tid) -> usize {
    tid.get() - 1
}

fn tid(cpu: usize) -> Tid {
    Tid::MIN.saturating_add(cpu)
}

/// A stop as gdbstub has it.
pub fn reason(stop: Stop) -> MultiThreadStopReason<u64> {
    match stop {
        Stop::Trap(c) => signal(c, Signal::SIGTRAP),
        Stop::Soft(c) => MultiThreadStopReason::SwBreak(tid(c)),
        Stop::Hard(c) => MultiThreadStopReason::HwBreak(tid(c)),
        Stop::Watch(c, kind, addr) => MultiThreadStopReason::Watch { tid: tid(c), kind, addr },
    }
}

/// A stop for another reason.
pub fn signal(cpu: usize, signal: Signal) -> MultiThreadStopReason<u64> {
    MultiThreadStopReason::SignalWithThread { tid: tid(cpu), signal }
}

fn answered<T>(answer: Option<T>) -> TargetResult<T, Debuggee> {
    answer.ok_or(TargetError::NonFatal)
}

impl Target for Debuggee {
    type Arch = Aarch64;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, Aarch64, Infallible> {
        BaseOps::MultiThread(self)
    }
    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Debuggee {
    fn read_registers(&mut self, frame: &mut Frame, t: Tid) -> TargetResult<(), Self> {
        let all = self.ask(cpu(t), |v| Reg::frame().map(|r| regs::read(v, r)).collect::<Result<Vec<_>, _>>());
        frame.0 = answered(all)?.concat();
        Ok(())
    }

    fn write_registers(&mut self, frame: &Frame, t: Tid) -> TargetResult<(), Self> {
        let bytes = frame.0.clone();
        let done = self.ask(cpu(t), move |v| {
            let mut rest = &bytes[..];
            let mut values = Vec::new();
            for r in Reg::frame() {
                let (value, more) = rest.split_at_checked(r.size()).ok_or(Errno::EINVAL)?;
                values.push((r, value));
                rest = more;
            }
            // Which stack pointer is meant depends on PSTATE.
            values.sort_by_key(|(r, _)| *r != Reg::Cpsr);
            values.into_iter().try_for_each(|(r, value)| regs::write(v, r, value))
        });
        self.forget(cpu(t));
        answered(done)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], t: Tid) -> TargetResult<usize, Self> {
        match self.read(cpu(t), start, data) {
            0 if !data.is_empty() => Err(TargetError::Errno(FAULT)),
            n => Ok(n),
        }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], t: Tid) -> TargetResult<(), Self> {
        if self.write(cpu(t), start, data) == data.len() { Ok(()) } else { Err(TargetError::Errno(FAULT)) }
    }

    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
        (0..self.count()).for_each(|c| thread_is_active(tid(c)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Debuggee {
    fn read_register(&mut self, t: Tid, reg: Reg, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let bytes = answered(self.ask(cpu(t), move |v| regs::read(v, reg)))?;
        let to = buf.get_mut(..bytes.len()).ok_or(TargetError::NonFatal)?;
        to.copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_register(&mut self, t: Tid, reg: Reg, value: &[u8]) -> TargetResult<(), Self> {
        let value = value.to_vec();
        let done = self.ask(cpu(t), move |v| regs::write(v, reg, &value));
        self.forget(cpu(t));
        answered(done)
    }
}

impl ThreadExtraInfo for Debuggee {
    fn thread_extra_info(&self, t: Tid, buf: &mut [u8]) -> Result<usize, Infallible> {
        let state = self.ask(cpu(t), |v| Ok((v.mp_state(), v.get_reg_u64(RegId::PSTATE)?)));
        let room = buf.len();
        let mut rest = buf;
        let c = cpu(t);
        // What does not fit is not shown.
        let _ = match state {
            Some((mp_state::STOPPED, _)) => write!(rest, "vCPU {c}, powered off"),
            Some((_, pstate)) => write!(rest, "vCPU {c}, EL{}", pstate >> 2 & 3),
            None => write!(rest, "vCPU {c}, busy"),
        };
        Ok(room - rest.len())
    }
}

impl MultiThreadResume for Debuggee {
    fn resume(&mut self) -> Result<(), Infallible> {
        Debuggee::resume(self);
        Ok(())
    }
    fn clear_resume_actions(&mut self) -> Result<(), Infallible> {
        self.actions.fill(Action::Continue);
        self.chosen.clear();
        Ok(())
    }
    fn set_resume_action_continue(&mut self, t: Tid, _: Option<Signal>) -> Result<(), Infallible> {
        self.choose(cpu(t), Action::Continue);
        Ok(())
    }
    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Debuggee {
    fn set_resume_action_step(&mut self, t: Tid, _: Option<Signal>) -> Result<(), Infallible> {
        self.choose(cpu(t), Action::Step);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Debuggee {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Infallible> {
        for c in 0..self.count() {
            if !self.chosen.contains(&c) {
                self.actions[c] = Action::Stay;
            }
        }
        Ok(())
    }
}

impl Breakpoints for Debuggee {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }
    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }
    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Debuggee {
    fn add_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.add_soft(addr))
    }
    fn remove_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        self.remove_soft(addr);
        Ok(true)
    }
}

impl HwBreakpoint for Debuggee {
    fn add_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.points.add_hard(addr))
    }
    fn remove_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        self.points.remove_hard(addr);
        Ok(true)
    }
}

impl HwWatchpoint for Debuggee {
    fn add_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(self.points.add_watch(addr, len, kind))
    }
    fn remove_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        self.points.remove_watch(addr, len, kind);
        Ok(true)
    }
}
