//! The host's monotonic clock by its time stamp counter, in ticks of the guest's counter.
//!
//! The counter is a sequence of straight lines over the time stamp, each for at most a second. All who read it read the same
//! line: Rust code here, translated code of the guest from its copy of the current one until that ends. At the end of a line
//! the host's clock is asked again: the next line starts where the clock is, but never below the end of the last one, and
//! with a slope by which it meets the clock at its own end. So the counter never goes back and stays within microseconds of
//! the host's clock, whose rate may change (NTP).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ulna_arm_cpu::host::tsc::{self, TSC_SHIFT, TscSegment};

/// Time stamps between two readings of the host's clock before their quotient is trusted: some hundred microseconds.
const FIRST: u64 = 1 << 20;
/// Time stamps by which CPUs may differ.
const SKEW: u64 = 1 << 16;
/// Time stamps of the longest line: less than a second.
const LONGEST: u64 = 1 << 31;

#[derive(Default)]
struct State {
    /// Time stamp and value of an earlier reading of the host's clock.
    earlier: Option<(u64, u128)>,
    line: TscSegment,
    /// No smaller value may be given out.
    floor: u128,
}

/// See the module.
pub(crate) struct TscClock(Mutex<State>);

impl TscClock {
    /// `None` where the host's time stamps cannot be used.
    pub fn new() -> Option<TscClock> {
        tsc::usable().then(|| TscClock(Mutex::default()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything: the rate in ticks is another one.
    pub fn restart(&self) {
        *self.lock() = State::default();
    }

    /// The current line.
    pub fn segment(&self) -> Option<TscSegment> {
        let line = self.lock().line;
        (line.len > 0).then_some(line)
    }

    /// The counter now, `hz` ticks a second of what `elapsed` tells.
    pub fn counter(&self, hz: u64, elapsed: impl Fn() -> Duration) -> u64 {
        let mut s = self.lock();
        let stamp = tsc::read();
        let before = s.line.start.wrapping_sub(stamp);
        if s.line.len > 0 && before < SKEW {
            // Another CPU began the line.
            return (s.line.base >> TSC_SHIFT) as u64;
        }
        let v = s.line.exact_at(stamp).unwrap_or_else(|| {
            let (stamp, ns) = together(elapsed);
            s.renew(stamp, ticks(ns, hz))
        });
        (v >> TSC_SHIFT) as u64
    }
}

/// Nanoseconds in ticks, with a fraction.
fn ticks(ns: u64, hz: u64) -> u128 {
    let v = u128::from(ns) * u128::from(hz);
    ((v / 1_000_000_000) << TSC_SHIFT) | (((v % 1_000_000_000) << TSC_SHIFT) / 1_000_000_000)
}

/// The time stamp and the clock, at the same time as near as can be had.
fn together(elapsed: impl Fn() -> Duration) -> (u64, u64) {
    let once = || {
        let a = tsc::read();
        let ns = elapsed().as_nanos() as u64;
        let b = tsc::read();
        (b.wrapping_sub(a), a.wrapping_add(b.wrapping_sub(a) / 2), ns)
    };
    let (_, stamp, ns) = (0..3).map(|_| once()).min_by_key(|r| r.0).unwrap_or_else(once);
    (stamp, ns)
}

impl State {
    /// A new line from a reading of the clock on; gives the value there.
    fn renew(&mut self, stamp: u64, clock: u128) -> u128 {
        let base = clock.max(self.line.end()).max(self.floor);
        self.floor = base;
        let Some((at, was)) = self.earlier else {
            self.earlier = Some((stamp, clock));
            return base;
        };
        let passed = stamp.wrapping_sub(at);
        if passed > 1 << 62 || clock < was {
            // Time stamps went back: a machine that was moved.
            self.earlier = Some((stamp, clock));
            self.line = TscSegment::default();
            return base;
        }
        if passed < FIRST {
            return base;
        }
        let rate = (clock - was) / u128::from(passed);
        let len = passed.min(LONGEST);
        // To where the clock will be then; where that is not ahead, slowly.
        let target = clock + rate * u128::from(len);
        let mult = (target.saturating_sub(base) / u128::from(len)).max(rate / 2);
        self.line = TscSegment { start: stamp, len, base, mult: u64::try_from(mult).unwrap_or(0) };
        if passed >= LONGEST {
            self.earlier = Some((stamp, clock));
        }
        base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 25_000_000;

    /// A clock that runs at `ppm` of 2.5 time stamps a nanosecond; lines are checked from stamp to stamp.
    fn follow(steps: &[(u64, i64)]) {
        let (mut s, mut stamp, mut ns) = (State::default(), 1_000u64, 0f64);
        let mut last = 0;
        for &(step, ppm) in steps {
            stamp += step;
            ns += step as f64 / 2.5 * (1.0 + ppm as f64 / 1e6);
            let clock = ticks(ns as u64, HZ);
            let v = s.line.exact_at(stamp).unwrap_or_else(|| s.renew(stamp, clock));
            assert!(v >= last, "goes back: {v} {last}");
            last = v;
            let error = (v as f64 - clock as f64) / (1u64 << TSC_SHIFT) as f64 / HZ as f64;
            assert!(error.abs() < 500e-6, "{error} s off at {ns} ns");
        }
    }

    #[test]
    fn it_follows_a_clock_whose_rate_changes_and_never_goes_back() {
        let mut steps = vec![(100_000, 0); 200];
        steps.extend(vec![(10_000_000, 100); 3000]);
        steps.extend(vec![(10_000_000, -100); 3000]);
        steps.extend(vec![(40_000_000_000, 50); 3]);
        steps.extend(vec![(1_000_000, -20); 3000]);
        follow(&steps);
    }

    #[test]
    fn time_stamps_that_go_back_start_anew() {
        let mut s = State::default();
        for k in 1..10u64 {
            s.renew(k << 22, ticks(k << 20, HZ));
        }
        let before = s.renew(10 << 22, ticks(10 << 20, HZ));
        let after = s.renew(5, ticks(11 << 20, HZ));
        assert!(after >= before, "{after} {before}");
        assert_eq!(s.line, TscSegment::default());
    }
}
