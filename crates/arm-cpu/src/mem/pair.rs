//! Pairs of registers: one TLB look-up where both elements stand on one page, else two accesses.

use crate::cpu::Cpu;
use crate::insn::Stop;
use crate::mem::attr::Acc;
use crate::mem::int::MemInt;
use crate::mem::tlb::Entry;

impl Cpu {
    /// Loads two adjacent elements.
    #[inline(always)]
    pub(crate) fn load_pair<T: MemInt>(&mut self, va: u64) -> Result<(T, T), Stop> {
        match self.load_pair_hit(va) {
            Some(pair) => Ok(pair),
            None => self.load_pair_slow(va),
        }
    }

    #[inline(always)]
    fn load_pair_hit<T: MemInt>(&self, va: u64) -> Option<(T, T)> {
        let last = va.wrapping_add(2 * T::SIZE - 1);
        let e: &Entry = &self.tlb.data[self.tlb.index(va)];
        let hit = (last & !0xfff | self.ctx_of(va, Acc::NORMAL)) == e.tag_r;
        // SAFETY: as in `Cpu::load`: the entry maps the page, and the first to the last byte stand on it.
        hit.then(|| unsafe { T::get_pair(va.wrapping_add(e.addend) as *const u8) })
    }

    #[cold]
    #[inline(never)]
    fn load_pair_slow<T: MemInt>(&mut self, va: u64) -> Result<(T, T), Stop> {
        let a = self.load::<T>(va, Acc::NORMAL)?;
        let b = self.load::<T>(va.wrapping_add(T::SIZE), Acc::NORMAL)?;
        // What the TLB holds now is read again as a whole (FEAT_LSE2).
        Ok(self.load_pair_hit(va).unwrap_or((a, b)))
    }

    /// Stores two adjacent elements. Where the second faults the first may have been written, which the manual allows;
    /// here both are checked first when they stand on different pages.
    #[inline(always)]
    pub(crate) fn store_pair<T: MemInt>(&mut self, va: u64, a: T, b: T) -> Result<(), Stop> {
        if self.store_pair_hit(va, a, b) { Ok(()) } else { self.store_pair_slow(va, a, b) }
    }

    #[inline(always)]
    fn store_pair_hit<T: MemInt>(&mut self, va: u64, a: T, b: T) -> bool {
        let last = va.wrapping_add(2 * T::SIZE - 1);
        let e: &Entry = &self.tlb.data[self.tlb.index(va)];
        let hit = (last & !0xfff | self.ctx_of(va, Acc::NORMAL)) == e.tag_w;
        if hit {
            // SAFETY: as in `Cpu::store`: a write tag, and the first to the last byte stand on the page.
            unsafe { T::put_pair(va.wrapping_add(e.addend) as *mut u8, a, b) };
        }
        hit
    }

    #[cold]
    #[inline(never)]
    fn store_pair_slow<T: MemInt>(&mut self, va: u64, a: T, b: T) -> Result<(), Stop> {
        let second = va.wrapping_add(T::SIZE);
        if va >> 12 != second.wrapping_add(T::SIZE - 1) >> 12 {
            self.probe_write(va, T::SIZE, Acc::NORMAL)?;
            self.probe_write(second, T::SIZE, Acc::NORMAL)?;
        } else if va & (2 * T::SIZE - 1) == 0 {
            // The check fills the TLB, so that both are written as a whole (FEAT_LSE2).
            self.probe_write(va, T::SIZE, Acc::NORMAL)?;
            if self.store_pair_hit(va, a, b) {
                return Ok(());
            }
        }
        self.store(va, a, Acc::NORMAL)?;
        self.store(second, b, Acc::NORMAL)
    }
}
