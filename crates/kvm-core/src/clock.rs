//! The system counter: host time scaled to any frequency, or executed instructions for runs that repeat.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::host::tsc::TscSegment;

use crate::clock_tsc::TscClock;

/// Where the counter comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClockKind {
    /// The host's monotonic clock.
    #[default]
    Host,
    /// Instructions executed, one a nanosecond: a run with one vCPU repeats exactly.
    Insn,
}

/// A counter of `hz` ticks a second.
pub(crate) struct SystemClock {
    kind: ClockKind,
    hz: AtomicU64,
    start: Instant,
    /// The host's clock by its time stamp counter, where that may be used.
    tsc: Option<TscClock>,
    /// Nanoseconds that passed while the vCPU of an instruction clock waited.
    skipped_ns: AtomicU64,
}

impl SystemClock {
    pub fn new(kind: ClockKind, hz: u64) -> SystemClock {
        SystemClock {
            kind,
            hz: AtomicU64::new(hz.max(1)),
            start: Instant::now(),
            tsc: if kind == ClockKind::Host { TscClock::new() } else { None },
            skipped_ns: AtomicU64::new(0),
        }
    }

    fn hz(&self) -> u64 {
        self.hz.load(Ordering::Relaxed)
    }

    /// Counts at another rate, before anybody has looked.
    pub fn set_hz(&self, hz: u64) {
        self.hz.store(hz.max(1), Ordering::Relaxed);
        if let Some(t) = &self.tsc {
            t.restart();
        }
    }

    pub fn kind(&self) -> ClockKind {
        self.kind
    }

    fn now_ns(&self, icount: u64) -> u64 {
        match self.kind {
            ClockKind::Host => self.start.elapsed().as_nanos() as u64,
            ClockKind::Insn => icount.wrapping_add(self.skipped_ns.load(Ordering::Relaxed)),
        }
    }

    /// Nanoseconds until the counter reaches `deadline`.
    pub fn until(&self, deadline: u64, icount: u64) -> Duration {
        let ticks = deadline.saturating_sub(self.counter(icount));
        Duration::from_nanos(self.ns_of(ticks))
    }

    /// Nanoseconds that `ticks` last, rounded up.
    fn ns_of(&self, ticks: u64) -> u64 {
        let ns = (u128::from(ticks) * 1_000_000_000).div_ceil(u128::from(self.hz()));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Instruction count at which the counter reaches `deadline`; only for an instruction clock.
    pub fn icount_at(&self, deadline: u64) -> u64 {
        self.ns_of(deadline).saturating_sub(self.skipped_ns.load(Ordering::Relaxed))
    }

    /// An instruction clock jumps over the time that its vCPU waits.
    pub fn skip_to(&self, deadline: u64, icount: u64) {
        let target = self.ns_of(deadline);
        let now = self.now_ns(icount);
        if target > now {
            self.skipped_ns.fetch_add(target - now, Ordering::Relaxed);
        }
    }
}

impl Clock for SystemClock {
    fn repeatable(&self) -> bool {
        self.kind() == ClockKind::Insn
    }
    fn segment(&self) -> Option<TscSegment> {
        self.tsc.as_ref()?.segment()
    }
    fn counter(&self, icount: u64) -> u64 {
        if let Some(t) = &self.tsc {
            return t.counter(self.hz(), || self.start.elapsed());
        }
        (u128::from(self.now_ns(icount)) * u128::from(self.hz()) / 1_000_000_000) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_clock_counts_instructions_and_jumps() {
        let c = SystemClock::new(ClockKind::Insn, 25_000_000);
        assert_eq!(c.counter(0), 0);
        assert_eq!(c.counter(40), 1);
        assert_eq!(c.icount_at(1), 40);
        c.skip_to(100, 40);
        assert_eq!(c.counter(40), 100);
        assert_eq!(c.icount_at(101), 80);
    }

    #[test]
    fn host_time_moves_and_is_scaled() {
        let c = SystemClock::new(ClockKind::Host, 1_000_000_000);
        let a = c.counter(0);
        std::thread::sleep(Duration::from_millis(2));
        let b = c.counter(0);
        assert!(b - a >= 2_000_000, "{a} {b}");
        assert!(c.until(b + 1_000_000, 0) <= Duration::from_millis(1));
    }
}
