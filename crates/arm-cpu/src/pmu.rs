//! Performance monitors: the cycle counter and event counters for software increments, instructions, cycles and chains
//! (Arm ARM D13). One instruction is one cycle here.
//!
//! Counters are brought up to date lazily: when a register is accessed, when the exception level changes, and when one
//! would overflow.

use std::ops::Range;
use std::sync::Arc;

use crate::cpu::Cpu;
use crate::exception::Exception;
use crate::insn::Stop;
use crate::{Feat, SysReg};

/// PMCR_EL0.E, P, C, LC, LP.
const PMCR_E: u64 = 1;
const PMCR_P: u64 = 2;
const PMCR_C: u64 = 4;
const PMCR_LC: u64 = 1 << 6;
const PMCR_LP: u64 = 1 << 7;
/// Bit of the cycle counter in the enable, interrupt and overflow sets.
const CYCLES: u64 = 1 << 31;

/// Events that are counted.
mod event {
    pub const SW_INCR: u64 = 0x00;
    pub const INST_RETIRED: u64 = 0x08;
    pub const CPU_CYCLES: u64 = 0x11;
    pub const INST_SPEC: u64 = 0x1b;
    pub const CHAIN: u64 = 0x1e;
}

/// PMCEID0_EL0 of the events above.
pub const PMCEID0: u64 = 1 << event::SW_INCR
    | 1 << event::INST_RETIRED
    | 1 << event::CPU_CYCLES
    | 1 << event::INST_SPEC
    | 1 << event::CHAIN;

/// Which events a hypervisor lets a guest count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFilter {
    allowed: Vec<u64>,
}

impl EventFilter {
    /// All of `events` event numbers allowed, or none.
    pub fn new(events: u32, allowed: bool) -> EventFilter {
        EventFilter { allowed: vec![if allowed { u64::MAX } else { 0 }; events.div_ceil(64) as usize] }
    }

    /// Allows or denies events.
    pub fn set(&mut self, events: Range<u32>, allow: bool) {
        for e in events {
            if let Some(word) = self.allowed.get_mut(e as usize / 64) {
                let bit = 1 << (e % 64);
                *word = if allow { *word | bit } else { *word & !bit };
            }
        }
    }

    /// May this event be counted?
    pub fn allows(&self, event: u64) -> bool {
        let word = usize::try_from(event / 64).ok().and_then(|n| self.allowed.get(n));
        word.is_some_and(|w| w >> (event % 64) & 1 != 0)
    }

    /// PMCEID0_EL0 (`first` 0) or PMCEID1_EL0 (32): the low half is of events from `first`, the high half from 0x4000 on,
    /// which a PMU of 10 bits leaves out.
    fn mask(&self, first: u64) -> u64 {
        (0..64)
            .filter(|b| self.allows(first + b % 32 + if *b < 32 { 0 } else { 0x4000 }))
            .map(|b| 1 << b)
            .sum()
    }
}

/// What is not architectural state.
#[derive(Clone, Debug)]
pub(crate) struct Pmu {
    /// Instructions counted so far.
    seen: u64,
    /// Instruction count at which the first counter overflows.
    pub(crate) deadline: u64,
    filter: Option<Arc<EventFilter>>,
}

impl Default for Pmu {
    fn default() -> Self {
        Pmu { seen: 0, deadline: u64::MAX, filter: None }
    }
}

fn counter(n: usize) -> SysReg {
    SysReg::ALL[SysReg::PMEVCNTR0_EL0 as usize + n.min(30)]
}

fn event_type(n: usize) -> SysReg {
    SysReg::ALL[SysReg::PMEVTYPER0_EL0 as usize + n.min(30)]
}

impl Cpu {
    /// Events that are counted from now on; all of them without a filter. Software increments and chains always are.
    pub fn set_pmu_filter(&mut self, filter: Option<Arc<EventFilter>>) {
        self.pmu_sync();
        self.pmu.filter = filter;
        self.pmu_plan();
    }

    fn pmu_allows(&self, event: u64) -> bool {
        self.pmu.filter.as_ref().is_none_or(|f| f.allows(event))
    }

    /// Does a counter of this type count with every instruction (one instruction is one cycle)?
    fn counts_instructions(&self, event_type: u64) -> bool {
        let event = event_type & 0xffff;
        matches!(event, event::INST_RETIRED | event::CPU_CYCLES | event::INST_SPEC) && self.pmu_allows(event)
    }

    /// Number of event counters (PMCR_EL0.N).
    fn counters(&self) -> usize {
        (self.state.sys(SysReg::PMCR_EL0) >> 11 & 31) as usize
    }

    /// Does this filter (bits 31:28 of a type register) count at `el`? P and NSK exclude EL1 when they differ, U and NSU
    /// EL0.
    fn counts_at(filter: u64, el: u8) -> bool {
        let (p, u, nsk, nsu) = (filter >> 31 & 1, filter >> 30 & 1, filter >> 29 & 1, filter >> 28 & 1);
        if el == 0 { u == nsu } else { p == nsk }
    }

    /// Enabled counters, the cycle counter as bit 31.
    fn enabled_counters(&self) -> u64 {
        let s = &self.state;
        if s.sys(SysReg::PMCR_EL0) & PMCR_E == 0 { 0 } else { s.sys(SysReg::PMCNTENSET_EL0) }
    }

    /// Brings the counters up to date. Call before EL changes and before a register is looked at.
    #[inline]
    pub(crate) fn pmu_sync(&mut self) {
        if self.pmu.deadline != u64::MAX || self.pmu.seen != 0 {
            self.pmu_count();
        }
    }

    #[cold]
    fn pmu_count(&mut self) {
        let now = self.icount_now();
        // The hypervisor may have set the count back.
        let delta = now.saturating_sub(std::mem::replace(&mut self.pmu.seen, now));
        let el = self.state.el;
        let enabled = self.enabled_counters();
        let cycles = self.pmu_allows(event::CPU_CYCLES);
        if enabled & CYCLES != 0 && cycles && Self::counts_at(self.state.sys(SysReg::PMCCFILTR_EL0), el) {
            self.add_cycles(delta);
        }
        for n in 0..self.counters() {
            let t = self.state.sys(event_type(n));
            if enabled >> n & 1 != 0 && self.counts_instructions(t) && Self::counts_at(t, el) {
                self.add_event(n, delta);
            }
        }
        self.pmu_plan();
    }

    fn add_cycles(&mut self, by: u64) {
        let old = self.state.sys(SysReg::PMCCNTR_EL0);
        let (new, wrapped) = old.overflowing_add(by);
        let wide = self.state.sys(SysReg::PMCR_EL0) & PMCR_LC != 0;
        let overflow = if wide { wrapped } else { ((old & 0xffff_ffff) + by) >> 32 != 0 };
        self.state.set_sys(SysReg::PMCCNTR_EL0, new);
        if overflow {
            self.overflowed(CYCLES);
        }
    }

    /// Event counters are 32 bits wide for overflow unless PMCR_EL0.LP (FEAT_PMUv3p5).
    fn add_event(&mut self, n: usize, by: u64) {
        let r = counter(n);
        let old = self.state.sys(r);
        let wide = self.state.sys(SysReg::PMCR_EL0) & PMCR_LP != 0 && self.has(Feat::PMUv3p5);
        let (sum, wrapped) = old.overflowing_add(by);
        let overflow = if wide { wrapped } else { ((old & 0xffff_ffff) + by) >> 32 != 0 };
        let keep64 = self.has(Feat::PMUv3p5);
        self.state.set_sys(r, if keep64 { sum } else { sum & 0xffff_ffff });
        if !overflow {
            return;
        }
        self.overflowed(1 << n);
        // An odd counter may count overflows of the even one below it.
        let odd = n + 1;
        let chained = n.is_multiple_of(2)
            && odd < self.counters()
            && self.state.sys(event_type(odd)) & 0xffff == event::CHAIN
            && self.enabled_counters() >> odd & 1 != 0
            && Self::counts_at(self.state.sys(event_type(odd)), self.state.el);
        if chained {
            self.add_event(odd, 1);
        }
    }

    fn overflowed(&mut self, bit: u64) {
        let v = self.state.sys(SysReg::PMOVSSET_EL0) | bit;
        self.state.set_sys(SysReg::PMOVSSET_EL0, v);
    }

    /// Level of the overflow interrupt.
    pub fn pmu_interrupt(&mut self) -> bool {
        self.pmu_sync();
        let s = &self.state;
        s.sys(SysReg::PMCR_EL0) & PMCR_E != 0
            && s.sys(SysReg::PMOVSSET_EL0) & s.sys(SysReg::PMINTENSET_EL1) != 0
    }

    /// Computes when the next counter with an interrupt overflows.
    pub(crate) fn pmu_plan(&mut self) {
        let enabled = self.enabled_counters();
        if enabled == 0 {
            (self.pmu.seen, self.pmu.deadline) = (0, u64::MAX);
            self.update_limit();
            return;
        }
        let now = self.icount_now();
        self.pmu.seen = now;
        let armed = enabled & self.state.sys(SysReg::PMINTENSET_EL1);
        let left32 = |v: u64| (1 << 32) - (v & 0xffff_ffff);
        let mut left = 1u64 << 62;
        if armed & CYCLES != 0 && self.pmu_allows(event::CPU_CYCLES) {
            let v = self.state.sys(SysReg::PMCCNTR_EL0);
            let wide = self.state.sys(SysReg::PMCR_EL0) & PMCR_LC != 0;
            left =
                left.min(if wide { v.wrapping_neg().wrapping_sub(1).saturating_add(1) } else { left32(v) });
        }
        // All that count, with an interrupt or not: an overflow may be chained into another counter.
        for n in (0..self.counters()).filter(|n| enabled >> n & 1 != 0) {
            if self.counts_instructions(self.state.sys(event_type(n))) {
                left = left.min(left32(self.state.sys(counter(n))));
            }
        }
        self.pmu.deadline = now.saturating_add(left);
        self.update_limit();
    }

    fn pmu_user_allowed(&self, r: SysReg, read: bool) -> bool {
        use SysReg::*;
        let en = self.state.sys(PMUSERENR_EL0);
        let event_counter = (PMEVCNTR0_EL0 as u16..=PMEVCNTR30_EL0 as u16).contains(&(r as u16));
        match r {
            PMUSERENR_EL0 => read,
            _ if en & 1 != 0 => true,
            PMSWINC_EL0 => en & 2 != 0,
            PMCCNTR_EL0 => read && en & 4 != 0,
            PMSELR_EL0 => en & 8 != 0,
            PMXEVCNTR_EL0 => read && en & 8 != 0,
            _ => event_counter && read && en & 8 != 0,
        }
    }

    /// Checks an access: UNDEFINED without a PMU, trapped to EL1 where PMUSERENR_EL0 says so.
    fn pmu_check(&mut self, r: SysReg, enc: u16, rt: u8, read: bool) -> Result<(), Stop> {
        use SysReg::*;
        let exists = self.has(Feat::PMUv3) && (r != PMMIR_EL1 || self.has(Feat::PMUv3p4));
        let el1_only = enc >> 11 & 7 == 0;
        let write_only = r == PMSWINC_EL0;
        let read_only = matches!(r, PMCEID0_EL0 | PMCEID1_EL0 | PMMIR_EL1);
        if !exists
            || (el1_only && self.state.el == 0)
            || (write_only && read)
            || (read_only && !read)
            || (r == PMUSERENR_EL0 && self.state.el == 0 && !read)
        {
            return self.raise(Exception::undefined());
        }
        if self.state.el == 0 && !self.pmu_user_allowed(r, read) {
            if self.pmu_emulated {
                return self.raise(Exception::undefined());
            }
            let e = u32::from(enc);
            return self.raise(Exception::sysreg_trap(
                e >> 14 & 3,
                e >> 11 & 7,
                e >> 7 & 15,
                e >> 3 & 15,
                e & 7,
                rt.into(),
                read,
            ));
        }
        Ok(())
    }

    /// Counter or type register number `n`, 31 being the cycle counter; `None` beyond PMCR_EL0.N.
    fn indexed(&self, n: usize, types: bool) -> Option<SysReg> {
        match (n, types) {
            (31, true) => Some(SysReg::PMCCFILTR_EL0),
            (31, false) => None,
            _ if n < self.counters() => Some(if types { event_type(n) } else { counter(n) }),
            _ => None,
        }
    }

    /// The register that an access to `r` reaches: PMX* go through PMSELR_EL0. `Err` is UNDEFINED.
    fn pmu_target(&mut self, r: SysReg) -> Result<Option<SysReg>, Stop> {
        use SysReg::*;
        let n = r as u16;
        let select = (self.state.sys(PMSELR_EL0) & 31) as usize;
        let direct = |base: SysReg| (n - base as u16) as usize;
        let t = match r {
            PMXEVCNTR_EL0 => self.indexed(select, false),
            PMXEVTYPER_EL0 => self.indexed(select, true),
            _ if (PMEVCNTR0_EL0 as u16..=PMEVCNTR30_EL0 as u16).contains(&n) => {
                self.indexed(direct(PMEVCNTR0_EL0), false)
            }
            _ if (PMEVTYPER0_EL0 as u16..=PMEVTYPER30_EL0 as u16).contains(&n) => {
                self.indexed(direct(PMEVTYPER0_EL0), true)
            }
            _ => return Ok(Some(r)),
        };
        // Beyond the implemented counters: constrained unpredictable, UNDEFINED here as in KVM.
        match t {
            Some(t) => Ok(Some(t)),
            None => self.raise(Exception::undefined()),
        }
    }

    /// MRS of a PMU register.
    pub(crate) fn pmu_read(&mut self, r: SysReg, enc: u16, rt: u8) -> Result<u64, Stop> {
        use SysReg::*;
        self.pmu_check(r, enc, rt, true)?;
        self.pmu_sync();
        let target = self.pmu_target(r)?;
        let s = &self.state;
        Ok(match r {
            PMCNTENCLR_EL0 => s.sys(PMCNTENSET_EL0),
            PMOVSCLR_EL0 => s.sys(PMOVSSET_EL0),
            PMINTENCLR_EL1 => s.sys(PMINTENSET_EL1),
            PMCEID0_EL0 => s.sys(r) & self.pmu.filter.as_ref().map_or(u64::MAX, |f| f.mask(0)),
            PMCEID1_EL0 => s.sys(r) & self.pmu.filter.as_ref().map_or(u64::MAX, |f| f.mask(32)),
            _ => target.map_or(0, |t| s.sys(t)),
        })
    }

    /// MSR of a PMU register.
    pub(crate) fn pmu_write(&mut self, r: SysReg, enc: u16, rt: u8, v: u64) -> Result<(), Stop> {
        use SysReg::*;
        self.pmu_check(r, enc, rt, false)?;
        self.pmu_sync();
        let target = self.pmu_target(r)?;
        let valid = ((1 << self.counters()) - 1) | CYCLES;
        let set = |cpu: &mut Cpu, reg: SysReg, on: u64, off: u64| {
            let new = (cpu.state.sys(reg) | on & valid) & !(off & valid);
            cpu.state.set_sys(reg, new);
        };
        match r {
            PMCNTENSET_EL0 => set(self, PMCNTENSET_EL0, v, 0),
            PMCNTENCLR_EL0 => set(self, PMCNTENSET_EL0, 0, v),
            PMINTENSET_EL1 => set(self, PMINTENSET_EL1, v, 0),
            PMINTENCLR_EL1 => set(self, PMINTENSET_EL1, 0, v),
            PMOVSSET_EL0 => set(self, PMOVSSET_EL0, v, 0),
            PMOVSCLR_EL0 => set(self, PMOVSSET_EL0, 0, v),
            PMSELR_EL0 => self.state.set_sys(r, v & 31),
            PMUSERENR_EL0 => self.state.set_sys(r, v & 15),
            PMSWINC_EL0 => self.software_increment(v),
            PMCR_EL0 => self.write_pmcr(v),
            _ => match target {
                Some(PMCCNTR_EL0) => self.state.set_sys(PMCCNTR_EL0, v),
                Some(t) if (PMEVCNTR0_EL0 as u16..=PMEVCNTR30_EL0 as u16).contains(&(t as u16)) => {
                    let keep64 = self.has(Feat::PMUv3p5);
                    self.state.set_sys(t, if keep64 { v } else { v & 0xffff_ffff });
                }
                Some(PMCCFILTR_EL0) => self.state.set_sys(PMCCFILTR_EL0, v & 0xf000_0000),
                Some(t) => {
                    // evtCount is 16 bits from FEAT_PMUv3p1 on, 10 before.
                    let event = if self.has(Feat::PMUv3p1) { 0xffff } else { 0x3ff };
                    self.state.set_sys(t, v & (0xf000_0000 | event));
                }
                None => {}
            },
        }
        self.pmu_plan();
        Ok(())
    }

    fn software_increment(&mut self, v: u64) {
        let enabled = self.enabled_counters();
        for n in 0..self.counters() {
            let is_sw = self.state.sys(event_type(n)) & 0xffff == event::SW_INCR;
            if v >> n & 1 != 0 && enabled >> n & 1 != 0 && is_sw {
                self.add_event(n, 1);
            }
        }
    }

    fn write_pmcr(&mut self, v: u64) {
        let old = self.state.sys(SysReg::PMCR_EL0);
        // E, D, X, DP, LC are kept; LP with FEAT_PMUv3p5; P and C act.
        let mut writable = PMCR_E | 1 << 3 | 1 << 4 | 1 << 5 | PMCR_LC;
        if self.has(Feat::PMUv3p5) {
            writable |= PMCR_LP;
        }
        self.state.set_sys(SysReg::PMCR_EL0, old & !writable | v & writable);
        if v & PMCR_P != 0 {
            for n in 0..self.counters() {
                self.state.set_sys(counter(n), 0);
            }
        }
        if v & PMCR_C != 0 {
            self.state.set_sys(SysReg::PMCCNTR_EL0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_covers_its_event_space() {
        let mut f = EventFilter::new(1 << 10, true);
        f.set(8..10, false);
        assert!(f.allows(7) && !f.allows(8) && !f.allows(9) && f.allows(0x3ff));
        assert!(!f.allows(0x400), "beyond 10 bits there is nothing to count");
        assert_eq!(f.mask(0), 0xffff_fcff, "nor to announce");
        f.set(0x3ff..0x500, false);
        assert!(!f.allows(0x3ff));
        let mut f = EventFilter::new(1 << 16, false);
        f.set(0x4021..0x4022, true);
        f.set(0x20..0x21, true);
        assert_eq!((f.mask(0), f.mask(32)), (0, 1 << 33 | 1));
    }
}
