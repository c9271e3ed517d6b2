//! Where vCPU threads wait while the machine is paused, and the guest's counters with them.
//!
//! A paused guest sees no time pass: the last thread that comes in notes what the counters show, the first that goes out
//! puts it back (KVM_REG_ARM_TIMER_CNT and its physical twin, which are the VM's). In between none runs.

use crate::gdb::{Came, Door};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use ulna_kvm_backend::{RegId, Vcpu};

/// KVM_REG_ARM_TIMER_CNT and KVM_REG_ARM_PTIMER_CNT: the virtual and the physical counter as the guest sees them. The
/// first has the encoding of CNTV_CVAL_EL0, as the UAPI froze it.
pub const COUNTERS: [RegId; 2] = [RegId::sysreg(0xdf1a), RegId::sysreg(0xdf01)];

/// What the counters showed; a KVM may lack the second.
pub type Counts = [Option<u64>; 2];

/// What each waiting thread is to do with its vCPU.
type Task = Arc<dyn Fn(u32, &mut dyn Vcpu) + Send + Sync>;

#[derive(Default)]
struct State {
    /// Whoever comes by is to wait.
    closed: bool,
    /// Whoever comes by is to wait for a moment, while the guest's time goes on.
    braked: bool,
    /// The machine ends: nobody waits any more.
    ended: bool,
    /// Threads that may be in KVM_RUN.
    running: usize,
    /// The counters of a machine that stands still.
    counts: Option<Counts>,
    /// Threads that wait.
    waiting: usize,
    /// What they are to do, each once for a number.
    task: Option<Task>,
    turn: u64,
    /// How many have done it.
    done: usize,
}

/// The gate of a machine.
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether the guest's time follows the host's, so that it has to be held.
    timed: bool,
}

impl Gate {
    /// A gate that is closed or open; `timed` when guest time would go on without the guest.
    pub fn new(closed: bool, timed: bool) -> Gate {
        let state = Mutex::new(State { closed, ..State::default() });
        Gate { state, changed: Condvar::new(), timed }
    }

    /// A gate in front of a machine that was stopped elsewhere, when its counters showed this.
    pub fn stopped(counts: Counts, timed: bool) -> Gate {
        let gate = Gate::new(true, timed);
        gate.state().counts = Some(counts);
        gate
    }

    /// What the counters of a machine that stands still showed.
    pub fn counts(&self) -> Option<Counts> {
        self.state().counts
    }

    /// Has each waiting thread do something with its vCPU; the gate is closed. The error is how many did not in time.
    pub fn each(
        &self,
        task: impl Fn(u32, &mut dyn Vcpu) + Send + Sync + 'static,
        patience: Duration,
    ) -> Result<(), usize> {
        let mut s = self.state();
        s.task = Some(Arc::new(task));
        s.turn += 1;
        s.done = 0;
        let all = s.waiting;
        self.changed.notify_all();
        let late = |s: &mut State| s.done < all && !s.ended;
        let waited = self.changed.wait_timeout_while(s, patience, late);
        let (mut s, _) = waited.unwrap_or_else(PoisonError::into_inner);
        s.task = None;
        match all.saturating_sub(s.done) {
            0 => Ok(()),
            n => Err(n),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread is about to start. It has to pass before it runs.
    pub fn enter(&self) {
        self.state().running += 1;
    }

    /// A thread has ended.
    pub fn leave(&self) {
        let mut s = self.state();
        s.running = s.running.saturating_sub(1);
        self.changed.notify_all();
    }

    /// Waits while the gate is closed, but sees to a debugger that asks; `false` when the machine ends.
    pub fn pass(&self, id: u32, vcpu: &mut dyn Vcpu, door: Option<&Door>) -> bool {
        let mut s = self.state();
        if !s.closed && !s.braked && !s.ended && s.counts.is_none() {
            return true;
        }
        s.running = s.running.saturating_sub(1);
        if s.closed && s.running == 0 && s.counts.is_none() && self.timed {
            s.counts = Some(COUNTERS.map(|r| vcpu.get_reg_u64(r).ok()));
        }
        s.waiting += 1;
        self.changed.notify_all();
        let mut seen = if s.task.is_some() { s.turn - 1 } else { s.turn };
        loop {
            if s.ended {
                s.running += 1;
                s.waiting -= 1;
                return false;
            }
            if let Some(task) = s.task.clone().filter(|_| seen < s.turn) {
                seen = s.turn;
                drop(s);
                task(id, vcpu);
                s = self.state();
                if s.turn == seen {
                    s.done += 1;
                    self.changed.notify_all();
                }
                continue;
            }
            if !s.closed && !s.braked {
                for (r, count) in COUNTERS.iter().zip(s.counts.take().into_iter().flatten()) {
                    if let Some(count) = count
                        && let Err(e) = vcpu.set_reg_u64(*r, count)
                    {
                        tracing::warn!("the guest's clock jumps over the pause: {e}");
                    }
                }
                s.running += 1;
                s.waiting -= 1;
                return true;
            }
            match door {
                Some(d) if d.halting() => {
                    drop(s);
                    let on = d.wait(vcpu, Came::Asked);
                    s = self.state();
                    s.ended |= !on;
                }
                _ => s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Has waiting threads look whether a debugger asks for them.
    pub fn poke(&self) {
        drop(self.state());
        self.changed.notify_all();
    }

    /// Closes it and waits until nobody runs; `kick` makes threads come by. If some do not come in time it is open again,
    /// and the error is their number.
    pub fn close(&self, kick: impl FnOnce(), patience: Duration) -> Result<(), usize> {
        self.state().closed = true;
        kick();
        let runs = |s: &mut State| s.running > 0 && !s.ended;
        let waited = self.changed.wait_timeout_while(self.state(), patience, runs);
        let (mut s, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() && s.running > 0 {
            let late = s.running;
            s.closed = false;
            self.changed.notify_all();
            return Err(late);
        }
        Ok(())
    }

    /// Has who comes by wait, or go on; the guest's time goes on meanwhile.
    pub fn brake(&self, on: bool) {
        self.state().braked = on;
        self.changed.notify_all();
    }

    /// Lets everybody go.
    pub fn open(&self) {
        self.state().closed = false;
        self.changed.notify_all();
    }

    /// The machine ends.
    pub fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }
}
