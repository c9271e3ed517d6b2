//! What a vCPU counts (KVM_GET_STATS_FD). Its own thread writes, anyone reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stat {
    /// Waits that ended.
    HaltWakeup,
    /// Time in them.
    HaltWaitNs,
    /// 1 while waiting.
    Blocking,
    /// HVC instructions.
    Hvc,
    /// WFE instructions.
    Wfe,
    /// WFI instructions.
    Wfi,
    /// Accesses that the VMM carried out.
    MmioUser,
    /// Accesses that a device of ours took.
    MmioKernel,
    /// Runs that a kick ended.
    Signal,
    /// Times that the CPU came back to us.
    Exits,
}

const COUNT: usize = Stat::Exits as usize + 1;
const BUCKETS: usize = 32;

/// The counters of a vCPU.
#[derive(Default)]
pub(crate) struct Stats {
    counters: [AtomicU64; COUNT],
    halt_wait: [AtomicU64; BUCKETS],
}

impl Stats {
    /// One more. Only the vCPU's own thread does this, so that it needs no atomic addition.
    pub fn count(&self, s: Stat) {
        self.add(s, 1);
    }

    fn add(&self, s: Stat, n: u64) {
        let c = &self.counters[s as usize];
        c.store(c.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub fn get(&self, s: Stat) -> u64 {
        self.counters[s as usize].load(Ordering::Relaxed)
    }

    pub fn set_blocking(&self, on: bool) {
        self.counters[Stat::Blocking as usize].store(on.into(), Ordering::Relaxed);
    }

    /// A wait is over: bucket n of the histogram counts 2^(n-1) to 2^n - 1 nanoseconds.
    pub fn waited(&self, t: Duration) {
        let ns = u64::try_from(t.as_nanos()).unwrap_or(u64::MAX);
        self.count(Stat::HaltWakeup);
        self.add(Stat::HaltWaitNs, ns);
        let bucket = (64 - ns.leading_zeros() as usize).min(BUCKETS - 1);
        let b = &self.halt_wait[bucket];
        b.store(b.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    pub fn halt_wait_hist(&self, bucket: usize) -> u64 {
        self.halt_wait.get(bucket).map_or(0, |b| b.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_fall_into_buckets_of_powers_of_two() {
        let s = Stats::default();
        for ns in [0, 1, 2, 3, 1023, 1024, u64::MAX] {
            s.waited(Duration::from_nanos(ns));
        }
        let buckets: Vec<u64> = (0..BUCKETS).map(|n| s.halt_wait_hist(n)).collect();
        assert_eq!(
            (buckets[0], buckets[1], buckets[2], buckets[10], buckets[11], buckets[31]),
            (1, 1, 2, 1, 1, 1)
        );
        assert_eq!(s.get(Stat::HaltWakeup), 7);
        assert_eq!(s.halt_wait_hist(32), 0);
    }
}
