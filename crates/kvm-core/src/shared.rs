//! A vCPU as other threads see it: power, interrupt lines, requests, and what wakes it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::thread::futex;
use ulna_arm_cpu::CpuLines;
use ulna_arm_cpu::shared::Pe;
use ulna_kvm_abi::mp_state;

use crate::dirty_ring::DirtyRing;
use crate::stats::Stats;

/// A reset that PSCI CPU_ON asked for, carried out by the vCPU's own thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResetTo {
    pub pc: u64,
    pub x0: u64,
    pub big_endian: bool,
}

#[derive(Default)]
pub(crate) struct Power {
    pub mp_state: u32,
    pub reset: Option<ResetTo>,
}

/// A vCPU as other threads see it.
#[derive(Default)]
pub(crate) struct Shared {
    pub id: u32,
    /// Its number in the order of creation, which is the GIC's.
    pub index: usize,
    pe: OnceLock<Arc<Pe>>,
    power: Mutex<Power>,
    /// Counts what a sleeping vCPU must look at. Not a condition variable: a signal that is handled on the sleeping thread
    /// has to end the sleep, as it ends KVM_RUN, and its handler can take no lock.
    wakes: AtomicU32,
    kicked: AtomicBool,
    /// `kvm_run.immediate_exit`.
    pub immediate_exit: AtomicBool,
    /// There may be a reset in `power`.
    pub has_reset: AtomicBool,
    /// There may be an SDEI event to take.
    pub sdei_look: AtomicBool,
    /// Its thread is in KVM_RUN.
    pub running: AtomicBool,
    /// The interrupt controller has something that ends a suspension of the system.
    wakes_up: AtomicBool,
    /// Levels of the input pins without an in-kernel interrupt controller.
    pins: AtomicU32,
    /// Affinity in MPIDR_EL1, packed as in [`ulna_vgic::Affinity`]; 0 before KVM_ARM_VCPU_INIT.
    pub affinity: AtomicU32,
    /// INTID of the PMU's overflow interrupt; 0 is none.
    pub pmu_irq: AtomicU32,
    /// Process (upper half) and thread of the client that is in KVM_RUN; 0: this process.
    pub client_thread: AtomicU64,
    pub stats: Stats,
    ring: OnceLock<Arc<DirtyRing>>,
}

impl Shared {
    pub fn new(id: u32, index: usize, pe: Arc<Pe>) -> Shared {
        let s = Shared { id, index, ..Shared::default() };
        let _ = s.pe.set(pe);
        s
    }

    /// Gives it a dirty ring.
    pub fn set_ring(&self, r: Arc<DirtyRing>) {
        let _ = self.ring.set(r);
    }

    /// Its dirty ring.
    pub fn ring(&self) -> Option<&Arc<DirtyRing>> {
        self.ring.get()
    }

    /// The power state under its lock.
    pub fn power(&self) -> MutexGuard<'_, Power> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the vCPU's thread, wherever it is, to look at its flags again: a running one leaves the CPU with a kick, a
    /// sleeping one wakes. The line is set before the lock is taken, and a sleeper looks at it under the lock, so no
    /// wake-up is lost.
    pub fn rouse(&self, bits: u32) {
        if let Some(p) = self.pe.get() {
            p.lines.set(bits);
        }
        drop(self.power());
        self.wake();
    }

    fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        let _ = futex::wake(&self.wakes, futex::Flags::PRIVATE, i32::MAX as u32);
    }

    /// What to give to [`Shared::wait`]: taken before the caller looks at the lines.
    pub fn wakes(&self) -> u32 {
        self.wakes.load(Ordering::SeqCst)
    }

    /// Waits for [`Shared::rouse`] or [`Shared::nudge`] since `seen`, or a signal, at most for `wait`.
    pub fn wait<'a>(
        &'a self,
        guard: MutexGuard<'a, Power>,
        seen: u32,
        wait: Option<Duration>,
    ) -> MutexGuard<'a, Power> {
        drop(guard);
        let wait = wait.and_then(|t| t.try_into().ok());
        // Whatever ends it, the caller looks again.
        let _ = futex::wait(&self.wakes, futex::Flags::PRIVATE, seen, wait.as_ref());
        self.power()
    }

    /// Has the vCPU look at its flags, running or asleep. No lock: safe in a signal handler.
    pub fn nudge(&self) {
        if let Some(p) = self.pe.get() {
            p.lines.set(CpuLines::KICK);
        }
        self.wake();
    }

    /// Makes `run` return EINTR.
    pub fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.rouse(CpuLines::KICK);
    }

    /// Takes note of a kick.
    pub fn take_kick(&self) -> bool {
        self.kicked.swap(false, Ordering::SeqCst)
    }

    /// Is there a kick that nobody took yet?
    pub fn is_kicked(&self) -> bool {
        self.kicked.load(Ordering::SeqCst)
    }

    /// Levels of the virtual interrupt lines.
    pub fn set_lines(&self, irq: bool, fiq: bool) {
        let Some(p) = self.pe.get() else { return };
        p.lines.set_lines(irq, fiq);
        if irq || fiq {
            self.rouse(0);
        }
    }

    /// Whether the interrupt controller has something that ends a suspension of the system, and whether a line is up as well,
    /// which wakes whoever sleeps.
    pub fn set_wakes(&self, on: bool, line: bool) {
        if self.wakes_up.swap(on, Ordering::SeqCst) != on && on && !line {
            self.wake();
        }
    }

    /// The last of it.
    pub fn wakes_up(&self) -> bool {
        self.wakes_up.load(Ordering::SeqCst)
    }

    /// An input pin, without an in-kernel interrupt controller.
    pub fn set_pin(&self, fiq: bool, level: bool) {
        let bit = if fiq { 2 } else { 1 };
        let pins = if level {
            self.pins.fetch_or(bit, Ordering::SeqCst) | bit
        } else {
            self.pins.fetch_and(!bit, Ordering::SeqCst) & !bit
        };
        self.set_lines(pins & 1 != 0, pins & 2 != 0);
    }

    /// KVM_GET_MP_STATE.
    pub fn mp_state(&self) -> u32 {
        self.power().mp_state
    }

    pub fn set_mp_state(&self, s: u32) {
        self.power().mp_state = s;
        self.rouse(CpuLines::KICK);
    }

    /// PSCI CPU_ON: `false` when it is on already. Of two that race one gets `true`.
    pub fn power_on(&self, to: ResetTo) -> bool {
        let mut p = self.power();
        if p.mp_state != mp_state::STOPPED {
            return false;
        }
        p.reset = Some(to);
        self.has_reset.store(true, Ordering::SeqCst);
        p.mp_state = mp_state::RUNNABLE;
        drop(p);
        self.rouse(CpuLines::KICK);
        true
    }
}
