//! The dirty ring of a vCPU (kvm-arm64-abi.md §13.4): pages that it wrote, in order, in pages that the VMM maps.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ulna_arm_cpu::mem::dirty::DirtySink;

use crate::Result;
use crate::mapping::Mapping;

/// struct kvm_dirty_gfn.
const ENTRY: usize = 16;
const FLAGS: usize = 0;
const SLOT: usize = 4;
const OFFSET: usize = 8;
/// KVM_DIRTY_GFN_F_DIRTY.
const DIRTY: u32 = 1;
/// KVM_DIRTY_GFN_F_RESET.
const RESET: u32 = 2;
/// A ring counts as full when so many entries are left.
const RESERVED: u32 = 64;
/// Smallest ring: a page.
pub(crate) const MIN_RING_BYTES: u64 = 4096;
/// KVM_CAP_DIRTY_LOG_RING_ACQ_REL: 65,536 entries.
pub(crate) const MAX_RING_BYTES: u64 = 0x10_0000;

#[derive(Default)]
struct State {
    /// Entries written so far; free-running.
    written: u32,
    /// Entries taken back so far.
    reset: u32,
    /// Pages for which there was no entry: a block of instructions marks some more after the ring was full.
    waiting: VecDeque<(u32, u64)>,
}

/// The dirty ring of a vCPU.
pub struct DirtyRing {
    pages: Mapping,
    entries: u32,
    state: Mutex<State>,
}

impl DirtyRing {
    pub(crate) fn new(bytes: u32) -> Result<DirtyRing> {
        let pages = Mapping::new("kvm-dirty-ring", bytes as usize)?;
        Ok(DirtyRing { pages, entries: bytes / ENTRY as u32, state: Mutex::default() })
    }

    /// The pages of the ring: `kvm_dirty_gfn` entries.
    pub fn pages(&self) -> &Mapping {
        &self.pages
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, index: u32) -> usize {
        (index & (self.entries - 1)) as usize * ENTRY
    }

    /// Must the VMM harvest before the vCPU runs on?
    pub(crate) fn full(&self) -> bool {
        self.is_full(&self.state())
    }

    fn is_full(&self, s: &State) -> bool {
        !s.waiting.is_empty() || s.written.wrapping_sub(s.reset) >= self.entries - RESERVED
    }

    fn put(&self, s: &mut State, slot: u32, page: u64) {
        let at = self.at(s.written);
        if let (Some(o), Some(n), Some(f)) =
            (self.pages.doubleword(at + OFFSET), self.pages.word(at + SLOT), self.pages.word(at + FLAGS))
        {
            o.store(page, Ordering::Relaxed);
            n.store(slot, Ordering::Relaxed);
            f.store(DIRTY, Ordering::Release);
        }
        s.written = s.written.wrapping_add(1);
    }

    /// Takes back the harvested entries from the first on, and calls `page` with what each says.
    pub(crate) fn reset(&self, mut page: impl FnMut(u32, u64)) -> u32 {
        let mut s = self.state();
        let mut count = 0;
        while s.reset != s.written {
            let at = self.at(s.reset);
            let (Some(o), Some(n), Some(f)) =
                (self.pages.doubleword(at + OFFSET), self.pages.word(at + SLOT), self.pages.word(at + FLAGS))
            else {
                break;
            };
            if f.load(Ordering::Acquire) & RESET == 0 {
                break;
            }
            page(n.load(Ordering::Relaxed), o.load(Ordering::Relaxed));
            f.store(0, Ordering::Release);
            s.reset = s.reset.wrapping_add(1);
            count += 1;
        }
        while s.written.wrapping_sub(s.reset) < self.entries
            && let Some((slot, page)) = s.waiting.pop_front()
        {
            self.put(&mut s, slot, page);
        }
        count
    }
}

impl DirtySink for DirtyRing {
    fn push(&self, slot: u32, page: u64) -> bool {
        let mut s = self.state();
        if s.waiting.is_empty() && s.written.wrapping_sub(s.reset) < self.entries {
            self.put(&mut s, slot, page);
        } else {
            s.waiting.push_back((slot, page));
        }
        self.is_full(&s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn harvest(r: &DirtyRing, from: u32, n: u32) -> Vec<(u32, u64)> {
        (from..from + n)
            .map(|i| {
                let at = r.at(i);
                let f = r.pages.word(at).unwrap();
                assert_eq!(f.load(Ordering::Acquire), DIRTY, "entry {i}");
                let e = (r.pages.word(at + SLOT).unwrap(), r.pages.doubleword(at + OFFSET).unwrap());
                f.store(RESET, Ordering::Release);
                (e.0.load(Ordering::Relaxed), e.1.load(Ordering::Relaxed))
            })
            .collect()
    }

    #[test]
    fn nothing_is_lost_when_a_ring_runs_over() {
        let r = DirtyRing::new(4096).unwrap();
        let full: Vec<u64> = (0..300u64).filter(|n| r.push(7, *n)).collect();
        assert_eq!(full.first(), Some(&191), "192 entries of 256 are in it");
        let mut seen = harvest(&r, 0, 256);
        let mut again = Vec::new();
        assert_eq!(r.reset(|s, p| again.push((s, p))), 256);
        assert_eq!(seen, again);
        assert!(!r.full());
        seen.extend(harvest(&r, 256, 44));
        assert_eq!(seen, (0..300).map(|n| (7, n)).collect::<Vec<_>>());
        assert_eq!((r.reset(|_, _| ()), r.reset(|_, _| ())), (44, 0));
    }

    #[test]
    fn only_entries_in_a_row_are_taken_back() {
        let r = DirtyRing::new(4096).unwrap();
        for n in 0..3 {
            assert!(!r.push(0, n));
        }
        let flags = |n: u32| r.pages.word(r.at(n)).unwrap();
        flags(1).store(RESET, Ordering::Release);
        assert_eq!(r.reset(|_, _| ()), 0);
        flags(0).store(RESET, Ordering::Release);
        assert_eq!(r.reset(|_, _| ()), 2);
        assert_eq!((flags(0).load(Ordering::Relaxed), flags(2).load(Ordering::Relaxed)), (0, DIRTY));
    }
}
