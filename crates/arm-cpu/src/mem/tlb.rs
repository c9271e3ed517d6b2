//! The software TLB of one PE: guest-virtual page (with its translation context) to host page.
//!
//! Tags carry a 12-bit *context number* in the bits below the page, so that a change of ASID, EL or PAN is a change of the
//! current number and never a flush (jit-notes §5). Data entries stand in a direct-mapped array whose hit path is inlined
//! into every access; behind it stands a larger one that keeps whole translations.

use std::collections::HashMap;

use crate::mem::zeroed::{Zeroable, Zeroed};

/// Fewest entries of the first-level data TLB: what it has until misses show that more are needed.
const LEAST: usize = 1024;
/// Most entries of it.
pub const TLB_ENTRIES: usize = 32768;
/// It grows when a miss that displaces a page of the same context comes more often than once in so many instructions.
const TOO_OFTEN: u64 = 256;
/// Entries of the second-level TLB.
pub const TLB2_ENTRIES: usize = 4096;
/// Bits of the set of places with large blocks.
const LARGE: usize = 4096;
/// A tag that no access matches: context number 0 is never given out. All zero, so that an empty TLB is memory that the
/// host has not touched yet.
pub const NO_TAG: u64 = 0;
/// Context numbers are 12 bits; 0 is never given out and 0xfff never matches.
const MAX_CTX: u16 = 0xffe;

/// A first-level entry: `addend` added to the virtual address gives the host address.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entry {
    /// Page address | context for reads.
    pub tag_r: u64,
    /// Page address | context for writes.
    pub tag_w: u64,
    /// Host address minus virtual address.
    pub addend: u64,
    /// Log2 of the size of the translation.
    pub meta: u64,
}

/// What TLBI names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlbOp {
    /// Everything.
    All,
    /// Non-global entries of an ASID.
    Asid(u16),
    /// `pages` 4 KiB pages from `va` on, of an ASID (and global ones), or of all ASIDs.
    Va {
        /// First address.
        va: u64,
        /// Number of 4 KiB pages.
        pages: u64,
        /// ASID, or all.
        asid: Option<u16>,
    },
}

/// What a context number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CtxKey {
    /// Upper half of the address space (TTBR1) or lower.
    pub high: bool,
    /// The translation table base register's address part; 0 with the MMU off.
    pub ttbr: u64,
    /// ASID, or none where all pages seen are global.
    pub asid: Option<u16>,
    /// Everything of TCR_EL1, SCTLR_EL1, MAIR_EL1 that the translation depends on, hashed by value.
    pub regime: u64,
    /// Privileged access.
    pub el1: bool,
    /// PSTATE.PAN as far as it matters.
    pub pan: bool,
    /// Data accesses are big-endian: those of LDTR at EL1 go by SCTLR_EL1.EE, those of EL0 by E0E.
    pub big_endian: bool,
}

/// A second-level entry: a page of a whole translation.
#[derive(Clone, Copy, Debug)]
pub struct Entry2 {
    /// Page | context.
    pub tag: u64,
    /// IPA of the page.
    pub ipa: u64,
    /// Permissions and attributes as `stage1` made them.
    pub t: crate::mem::stage1::PageInfo,
}

// SAFETY: integers.
unsafe impl Zeroable for Entry {}
// SAFETY: integers and booleans; 0 is `false`.
unsafe impl Zeroable for Entry2 {}

/// The TLB of a PE.
pub struct Tlb {
    /// Current context numbers: [low, high] privileged as PSTATE says, then [low, high] of unprivileged accesses.
    pub ctx: [u64; 4],
    /// First-level data entries, as many as `mask` tells.
    pub data: Zeroed<[Entry; TLB_ENTRIES]>,
    /// Entries in use, less one.
    mask: usize,
    /// Bytes of those entries less those of one, for generated code.
    pub span: u32,
    /// Entries displaced by others of the same context since `since`.
    displaced: usize,
    /// Instruction count at which `displaced` was zero.
    since: u64,
    /// Entries filled since the last flush.
    filled: usize,
    /// Second level, for data and fetches.
    pub second: Zeroed<[Entry2; TLB2_ENTRIES]>,
    keys: HashMap<CtxKey, u16>,
    by_number: Vec<CtxKey>,
    /// Entries from blocks larger than 4 KiB may be there, by 2 MiB of the address, hashed.
    large: [u64; LARGE / 64],
    /// Whole flushes, for statistics.
    pub flushes: u64,
}

impl Default for Tlb {
    fn default() -> Self {
        Tlb::new()
    }
}

const EMPTY: Entry = Entry { tag_r: NO_TAG, tag_w: NO_TAG, addend: 0, meta: 0 };

impl Tlb {
    /// An empty TLB.
    pub fn new() -> Tlb {
        Tlb {
            ctx: [0xfff; 4],
            data: Zeroed::default(),
            mask: LEAST - 1,
            span: span(LEAST),
            displaced: 0,
            since: 0,
            filled: 0,
            second: Zeroed::default(),
            keys: HashMap::new(),
            by_number: Vec::new(),
            large: [0; LARGE / 64],
            flushes: 0,
        }
    }

    /// First-level slot of `va`.
    #[inline(always)]
    pub fn index(&self, va: u64) -> usize {
        // The second term is for the compiler.
        (va >> 12) as usize & self.mask & (TLB_ENTRIES - 1)
    }

    /// The first-level entries in use.
    fn used(&mut self) -> &mut [Entry] {
        &mut self.data[..(self.mask + 1).min(TLB_ENTRIES)]
    }

    /// An entry is about to be filled for `tag`, at this instruction count: makes the first level larger when it is too
    /// small for what the guest touches.
    pub fn about_to_fill(&mut self, va: u64, tag: u64, icount: u64) {
        self.filled += 1;
        let e = self.data[self.index(va)];
        let old = if e.tag_r != NO_TAG { e.tag_r } else { e.tag_w };
        if old == NO_TAG || old == tag || (old ^ tag) & 0xfff != 0 {
            return;
        }
        self.displaced += 1;
        if self.displaced > self.mask {
            if icount.wrapping_sub(self.since) / (self.displaced as u64) < TOO_OFTEN
                && self.mask + 1 < TLB_ENTRIES
            {
                self.resize((self.mask + 1) * 4);
            }
            self.displaced = 0;
            self.since = icount;
        }
    }

    /// Changes the size, which empties the first level.
    fn resize(&mut self, entries: usize) {
        let entries = entries.clamp(LEAST, TLB_ENTRIES);
        if entries > self.mask + 1 {
            self.mask = entries - 1;
            self.used().fill(EMPTY);
        } else {
            self.used().fill(EMPTY);
            self.mask = entries - 1;
        }
        self.span = span(entries);
        self.displaced = 0;
    }

    /// Bits of `large` for a translation of this size.
    fn large_bits(va: u64, size_log2: u8) -> std::ops::Range<u64> {
        let size = u32::from(size_log2);
        if size <= 21 {
            let n = va >> 21;
            return n..n + 1;
        }
        let n = va >> size.min(63) << (size.min(63) - 21);
        n..n + (1u64 << (size.min(63) - 21)).min(LARGE as u64)
    }

    /// May a translation of more than 4 KiB have been seen here?
    pub fn may_be_large(&self, va: u64) -> bool {
        let n = (va >> 21) as usize & (LARGE - 1);
        self.large[n / 64] >> (n % 64) & 1 != 0
    }

    /// First of the four second-level slots that may hold `va`.
    #[inline(always)]
    pub fn index2(va: u64) -> usize {
        (((va >> 12) ^ (va >> 24) ^ (va >> 36)) as usize & (TLB2_ENTRIES / 4 - 1)) * 4
    }

    /// The second-level entry with this tag.
    #[inline]
    pub fn find2(&self, va: u64, tag: u64) -> Option<&Entry2> {
        let i = Self::index2(va);
        self.second[i..i + 4].iter().find(|e| e.tag == tag)
    }

    /// Enters a second-level entry; the oldest of its four goes.
    pub fn insert2(&mut self, va: u64, e: Entry2) {
        if e.t.size_log2 > 12 {
            for n in Self::large_bits(va, e.t.size_log2) {
                let n = n as usize & (LARGE - 1);
                self.large[n / 64] |= 1 << (n % 64);
            }
        }
        let i = Self::index2(va);
        let set = &mut self.second[i..i + 4];
        set.rotate_right(1);
        set[0] = e;
    }

    /// The number of context `key`; the second value tells that all entries were flushed to make room.
    pub fn context(&mut self, key: CtxKey) -> (u64, bool) {
        if let Some(&n) = self.keys.get(&key) {
            return (u64::from(n), false);
        }
        let mut flushed = false;
        if self.by_number.len() >= usize::from(MAX_CTX) {
            self.forget_contexts();
            flushed = true;
        }
        self.by_number.push(key);
        let n = self.by_number.len() as u16;
        self.keys.insert(key, n);
        (u64::from(n), flushed)
    }

    /// Flushes and gives all context numbers back.
    pub fn forget_contexts(&mut self) {
        self.flush();
        self.keys.clear();
        self.by_number.clear();
    }

    /// Drops the first level: every access is looked at again.
    pub fn flush_first_level(&mut self) {
        self.used().fill(EMPTY);
    }

    /// Drops all entries.
    pub fn flush(&mut self) {
        self.flushes += 1;
        self.large = [0; LARGE / 64];
        // A flush costs as much as there are entries: few are enough for who fills few between two.
        let fewer = if self.filled < self.mask / 8 { (self.mask + 1) / 4 } else { self.mask + 1 };
        self.resize(fewer);
        self.filled = 0;
        for e in self.second.iter_mut() {
            e.tag = NO_TAG;
        }
    }

    /// Carries out a TLBI; the caller asks for the current context numbers again. Over-invalidation is allowed, under-invalidation is not.
    pub fn invalidate(&mut self, op: TlbOp) {
        match op {
            TlbOp::All => self.flush(),
            TlbOp::Asid(asid) => {
                // The numbers of its contexts are not used any more, so no entry needs to be looked for. Entries of
                // contexts without an ASID are global, or of the MMU-off regime: not concerned.
                self.keys.retain(|k, _| k.asid != Some(asid));
            }
            TlbOp::Va { va, pages, .. } => {
                // All ASIDs: over-invalidation is harmless and the common case is one page.
                if pages > 512 {
                    return self.flush();
                }
                for p in 0..pages {
                    self.invalidate_page(va.wrapping_add(p << 12));
                }
            }
        }
    }

    fn invalidate_page(&mut self, va: u64) {
        if self.may_be_large(va) {
            return self.invalidate_large(va);
        }
        let same = |tag: u64| tag != NO_TAG && (tag ^ va) & !0xfff == 0;
        let n = self.index(va);
        let e = &mut self.data[n];
        if same(e.tag_r) || same(e.tag_w) {
            *e = EMPTY;
        }
        let i = Self::index2(va);
        for e in &mut self.second[i..i + 4] {
            if same(e.tag) {
                e.tag = NO_TAG;
            }
        }
    }

    /// The address may lie in a block: every 4 KiB piece of the same translation goes.
    fn invalidate_large(&mut self, va: u64) {
        let same = |tag: u64, size: u64| tag != NO_TAG && (tag ^ va) >> size.clamp(12, 63) == 0;
        for e in self.used().iter_mut() {
            if same(e.tag_r, e.meta) || same(e.tag_w, e.meta) {
                *e = EMPTY;
            }
        }
        for e in self.second.iter_mut() {
            if same(e.tag, e.t.size_log2.into()) {
                e.tag = NO_TAG;
            }
        }
    }

    /// Revokes write permission where the host page lies in `start..start+len`.
    pub fn revoke_writes(&mut self, start: usize, len: usize) {
        for e in self.used().iter_mut() {
            if e.tag_w != NO_TAG {
                let host = ((e.tag_w & !0xfff).wrapping_add(e.addend)) as usize;
                if host.wrapping_sub(start) < len {
                    e.tag_w = NO_TAG;
                }
            }
        }
    }
}

/// See [`Tlb::span`].
const fn span(entries: usize) -> u32 {
    ((entries - 1) * size_of::<Entry>()) as u32
}

/// Copies bit 55 into bits 63:56.
pub fn sign_extend(va: u64) -> u64 {
    ((va << 8) as i64 >> 8) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(asid: u16) -> CtxKey {
        CtxKey {
            high: false,
            ttbr: 0x1000,
            asid: Some(asid),
            regime: 0,
            el1: true,
            pan: false,
            big_endian: false,
        }
    }

    /// Enters pages one after the other, `per` instructions apart.
    fn fill(t: &mut Tlb, pages: u64, ctx: u64, icount: &mut u64, per: u64) {
        for p in 0..pages {
            let va = p << 12;
            t.about_to_fill(va, va | ctx, *icount);
            let n = t.index(va);
            t.data[n] = Entry { tag_r: va | ctx, tag_w: NO_TAG, addend: 0, meta: 12 };
            *icount += per;
        }
    }

    #[test]
    fn the_first_level_grows_with_what_is_touched_and_shrinks_when_little_is() {
        let (mut t, mut icount) = (Tlb::new(), 0);
        let (ctx, _) = t.context(key(1));
        for _ in 0..8 {
            fill(&mut t, 16384, ctx, &mut icount, 10);
        }
        assert!(t.mask + 1 >= 16384, "{}", t.mask);
        assert_eq!(t.span as usize, t.mask * size_of::<Entry>());
        t.flush();
        for _ in 0..3 {
            t.flush();
        }
        assert_eq!(t.mask + 1, LEAST);
        // As many misses, but far apart: they cost little.
        for _ in 0..8 {
            fill(&mut t, 16384, ctx, &mut icount, 10_000);
        }
        assert_eq!(t.mask + 1, LEAST);
    }

    #[test]
    fn an_asid_that_is_invalidated_gets_new_numbers_and_others_keep_theirs() {
        let mut t = Tlb::new();
        let (one, two) = (t.context(key(1)).0, t.context(key(2)).0);
        t.invalidate(TlbOp::Asid(1));
        assert_eq!(t.context(key(2)).0, two);
        let again = t.context(key(1)).0;
        assert!(again != one && again != two);
    }

    #[test]
    fn places_of_large_blocks_are_known() {
        let mut t = Tlb::new();
        assert!(!t.may_be_large(0x4020_0000));
        let bits: Vec<u64> = Tlb::large_bits(0x4020_0000, 21).collect();
        assert_eq!(bits, [0x201]);
        assert_eq!(Tlb::large_bits(0x7fff_0000, 30).count(), 512);
        t.large[0x201 / 64] |= 1 << (0x201 % 64);
        assert!(t.may_be_large(0x403f_f000) && !t.may_be_large(0x4040_0000));
    }
}
