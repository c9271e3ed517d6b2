//! The host's time stamp counter, as far as a clock may be built on it.

/// Bits of the fraction in [`TscSegment::base`] and [`TscSegment::mult`].
pub const TSC_SHIFT: u32 = 32;

/// How a counter follows the host's time stamp counter for a while: whoever reads it within the segment gets the same
/// value for the same time, whether a program does or generated code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TscSegment {
    /// Time stamp at which it starts.
    pub start: u64,
    /// For how many time stamps it holds.
    pub len: u64,
    /// Ticks at its start, with a fraction.
    pub base: u128,
    /// Ticks per time stamp, with a fraction.
    pub mult: u64,
}

impl TscSegment {
    /// The counter, with a fraction, at a time stamp inside.
    pub fn exact_at(&self, tsc: u64) -> Option<u128> {
        let d = tsc.wrapping_sub(self.start);
        (d < self.len).then(|| self.base + u128::from(d) * u128::from(self.mult))
    }
    /// The counter at a time stamp inside.
    pub fn at(&self, tsc: u64) -> Option<u64> {
        self.exact_at(tsc).map(|v| (v >> TSC_SHIFT) as u64)
    }
    /// What the counter never reaches inside.
    pub fn end(&self) -> u128 {
        self.base + u128::from(self.len) * u128::from(self.mult)
    }
}

/// Reads it, after everything before has been done.
#[cfg(target_arch = "x86_64")]
pub fn read() -> u64 {
    // SAFETY: both instructions exist on every x86-64.
    unsafe {
        std::arch::x86_64::_mm_lfence();
        std::arch::x86_64::_rdtsc()
    }
}
/// Reads it: there is none.
#[cfg(not(target_arch = "x86_64"))]
pub fn read() -> u64 {
    0
}

/// Does it run at one rate, always, and the same on all CPUs? The latter is known by what the host's kernel uses.
#[cfg(target_arch = "x86_64")]
pub fn usable() -> bool {
    use std::arch::x86_64::__cpuid;
    const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    // CPUID 8000_0007, EDX bit 8: invariant.
    __cpuid(0x8000_0000).eax >= 0x8000_0007
        && __cpuid(0x8000_0007).edx >> 8 & 1 != 0
        && std::fs::read_to_string(SOURCE).is_ok_and(|s| matches!(s.trim(), "tsc" | "kvm-clock"))
}
/// There is none.
#[cfg(not(target_arch = "x86_64"))]
pub fn usable() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_counts_inside_only() {
        let s = TscSegment { start: 100, len: 50, base: 7 << TSC_SHIFT, mult: 1 << (TSC_SHIFT - 1) };
        assert_eq!(
            (s.at(99), s.at(100), s.at(103), s.at(149), s.at(150)),
            (None, Some(7), Some(8), Some(31), None)
        );
        assert_eq!(s.end() >> TSC_SHIFT, 32);
    }
}
