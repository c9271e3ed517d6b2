//! Pairs of registers: one TLB look-up where both elements stand on one page, else two accesses.

use crate::cpu::Cpu;
use crate::insn::Stop;
use crate::mem::access::MemInt;
use crate::mem::attr::Acc;
use crate::mem::tlb::{Entry, Tlb};

impl Cpu {
    /// Loads two adjacent elements.
    #[inline(always)]
    pub(crate) fn load_pair<T: MemInt>(&mut self, va: u64) -> Result<(T, T), Stop> {
        let last = va.wrapping_add(2 * T::SIZE - 1);
        let e: &Entry = &self.tlb.data[Tlb::index(va)];
        if (last & !0xfff | self.ctx_of(va, Acc::NORMAL)) == e.tag_r {
            let p = va.wrapping_add(e.addend) as *const u8;
            // SAFETY: as in `Cpu::load`: the entry maps the page, and the first to the last byte stand on it.
            return Ok(unsafe { (T::get(p), T::get(p.wrapping_add(T::SIZE as usize))) });
        }
        let a = self.load::<T>(va, Acc::NORMAL)?;
        let b = self.load::<T>(va.wrapping_add(T::SIZE), Acc::NORMAL)?;
        Ok((a, b))
    }

    /// Stores two adjacent elements. Where the second faults the first may have been written, which the manual allows;
    /// here both are checked first when they stand on different pages.
    #[inline(always)]
    pub(crate) fn store_pair<T: MemInt>(&mut self, va: u64, a: T, b: T) -> Result<(), Stop> {
        let last = va.wrapping_add(2 * T::SIZE - 1);
        let e: &Entry = &self.tlb.data[Tlb::index(va)];
        if (last & !0xfff | self.ctx_of(va, Acc::NORMAL)) == e.tag_w {
            let p = va.wrapping_add(e.addend) as *mut u8;
            // SAFETY: as in `Cpu::store`: a write tag, and the first to the last byte stand on the page.
            unsafe {
                T::put(p, a);
                T::put(p.wrapping_add(T::SIZE as usize), b);
            }
            return Ok(());
        }
        let second = va.wrapping_add(T::SIZE);
        if va & !0xfff != last & !0xfff {
            self.probe_write(va, T::SIZE, Acc::NORMAL)?;
            self.probe_write(second, T::SIZE, Acc::NORMAL)?;
        }
        self.store(va, a, Acc::NORMAL)?;
        self.store(second, b, Acc::NORMAL)
    }
}
