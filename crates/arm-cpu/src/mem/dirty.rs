//! Which pages of a slot were written (KVM's dirty log and dirty ring).
//!
//! A page that is not marked has no write entry in any TLB: the first write after it was marked clean takes the slow path,
//! which marks it before anything is written. Whoever marks pages clean then revokes write entries
//! (`Request::RevokeWriteRange`) and waits; what is written before that wait ends is there for whoever looks afterwards.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Takes the pages that one PE marks, where somebody wants to hear of each (KVM's dirty ring).
pub trait DirtySink: Send + Sync {
    /// Page number `page` of slot `slot` is about to be written; tells whether the PE is to leave `run` soon.
    fn push(&self, slot: u32, page: u64) -> bool;
}

/// One bit a page.
#[derive(Debug)]
struct Bits(Box<[AtomicU64]>);

impl Bits {
    fn new(pages: u64, set: bool) -> Bits {
        let word = |n: u64| {
            let here = (pages - n * 64).min(64);
            AtomicU64::new(if set { u64::MAX >> (64 - here) } else { 0 })
        };
        Bits((0..pages.div_ceil(64)).map(word).collect())
    }
    /// Sets a bit; tells whether it was clear.
    fn set(&self, page: u64) -> bool {
        let Some(w) = usize::try_from(page / 64).ok().and_then(|n| self.0.get(n)) else { return false };
        let bit = 1 << (page % 64);
        // Most marks find the page marked: look before locking the cache line.
        w.load(Ordering::SeqCst) & bit == 0 && w.fetch_or(bit, Ordering::SeqCst) & bit == 0
    }
    fn clear(&self, word: usize, mask: u64) -> u64 {
        match self.0.get(word) {
            Some(w) if w.load(Ordering::SeqCst) & mask != 0 => w.fetch_and(!mask, Ordering::SeqCst) & mask,
            _ => 0,
        }
    }
}

/// The log of a slot.
#[derive(Debug)]
pub struct DirtyLog {
    marked: Bits,
    /// With a ring: pages that were written, but not by a PE.
    others: Option<Bits>,
    ring: bool,
}

impl DirtyLog {
    /// A bitmap of `pages` pages, all clean or (`set`) all dirty.
    pub fn bitmap(pages: u64, set: bool) -> DirtyLog {
        DirtyLog { marked: Bits::new(pages, set), others: None, ring: false }
    }
    /// PEs report to their rings; with `others`, a bitmap takes what is written by nobody's PE, and with `set` it starts
    /// full.
    pub fn ring(pages: u64, others: bool, set: bool) -> DirtyLog {
        DirtyLog {
            marked: Bits::new(pages, false),
            others: others.then(|| Bits::new(pages, set)),
            ring: true,
        }
    }
    /// A PE writes to `page`: tells whether its ring is to take it.
    pub(crate) fn mark(&self, page: u64) -> bool {
        self.marked.set(page) && self.ring
    }
    /// Somebody else than a PE wrote to `page`.
    pub(crate) fn mark_other(&self, page: u64) {
        // The write before the look at the bit: whoever clears a bit that was seen set finds what was written.
        fence(Ordering::SeqCst);
        let bits = if self.ring { self.others.as_ref() } else { Some(&self.marked) };
        if let Some(b) = bits {
            b.set(page);
        }
    }
    /// Do marks go to rings?
    pub fn to_ring(&self) -> bool {
        self.ring
    }
    fn shown(&self) -> Option<&Bits> {
        if self.ring { self.others.as_ref() } else { Some(&self.marked) }
    }
    /// The bitmap that a VMM sees, in words; none where there is only a ring.
    pub fn words(&self) -> Option<Vec<u64>> {
        Some(self.shown()?.0.iter().map(|w| w.load(Ordering::SeqCst)).collect())
    }
    /// Marks pages of the bitmap that a VMM sees clean: `mask` of word `word`; gives those that were dirty. Where
    /// [`DirtyLog::to_ring`] is false, the caller then revokes write entries.
    pub fn clean(&self, word: usize, mask: u64) -> u64 {
        self.shown().map_or(0, |b| b.clear(word, mask))
    }
    /// The VMM has taken a page out of a ring; tells whether it was marked. The caller then revokes write entries.
    pub fn rearm(&self, page: u64) -> bool {
        usize::try_from(page / 64).is_ok_and(|n| self.marked.clear(n, 1 << (page % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_is_marked_once_and_cleaned_by_words() {
        let d = DirtyLog::bitmap(70, false);
        assert!(!d.mark(69), "no ring wants it");
        d.mark_other(3);
        assert_eq!(d.words(), Some(vec![8, 1 << 5]));
        assert_eq!((d.clean(1, u64::MAX), d.clean(1, u64::MAX), d.clean(2, u64::MAX)), (1 << 5, 0, 0));
        assert_eq!(d.words(), Some(vec![8, 0]));
        d.mark(1000);
        assert_eq!(DirtyLog::bitmap(70, true).words(), Some(vec![u64::MAX, 0x3f]), "no bits past the end");
        assert_eq!(DirtyLog::bitmap(64, true).words(), Some(vec![u64::MAX]));
    }

    #[test]
    fn a_ring_hears_of_a_page_once_until_it_is_rearmed() {
        let d = DirtyLog::ring(70, true, false);
        assert!(d.mark(5) && !d.mark(5));
        assert!(d.rearm(5) && !d.rearm(5) && d.mark(5));
        d.mark_other(6);
        assert_eq!(
            (d.words(), d.clean(0, u64::MAX)),
            (Some(vec![64, 0]), 64),
            "the bitmap holds the others' only"
        );
        let alone = DirtyLog::ring(70, false, false);
        alone.mark_other(6);
        assert_eq!((alone.words(), alone.clean(0, 64)), (None, 0));
    }
}
