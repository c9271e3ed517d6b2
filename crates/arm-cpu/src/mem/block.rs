//! Runs of elements: one TLB look-up where they stand on one page, else element by element.

use crate::cpu::Cpu;
use crate::insn::Stop;
use crate::mem::access::MemInt;
use crate::mem::attr::Acc;
use crate::mem::tlb::Tlb;

impl Cpu {
    /// Where `len` bytes at `va` stand, when the TLB has their page for reading (or writing) and they do not leave it.
    #[inline(always)]
    fn block_hit(&self, va: u64, len: usize, write: bool) -> Option<u64> {
        let last = va.wrapping_add(len as u64 - 1);
        let e = &self.tlb.data[Tlb::index(va)];
        let tag = if write { e.tag_w } else { e.tag_r };
        ((last & !0xfff | self.ctx_of(va, Acc::NORMAL)) == tag).then(|| va.wrapping_add(e.addend))
    }

    /// Loads elements of `size` bytes (1, 2, 4, 8) into `out`, each little-endian.
    #[inline(always)]
    pub(crate) fn load_block(&mut self, va: u64, out: &mut [u8], size: usize) -> Result<(), Stop> {
        if let Some(host) = self.block_hit(va, out.len(), false)
            && out.len().is_multiple_of(8)
        {
            for (k, c) in out.chunks_exact_mut(8).enumerate() {
                // SAFETY: as in `Cpu::load`: the entry maps the page, and the first to the last byte stand on it.
                c.copy_from_slice(
                    &unsafe { u64::get((host as *const u8).wrapping_add(8 * k)) }.to_le_bytes(),
                );
            }
            return Ok(());
        }
        self.load_elements(va, out, size)
    }

    #[inline(never)]
    fn load_elements(&mut self, mut va: u64, out: &mut [u8], size: usize) -> Result<(), Stop> {
        for c in out.chunks_exact_mut(size) {
            match size {
                1 => c.copy_from_slice(&[self.load::<u8>(va, Acc::NORMAL)?]),
                2 => c.copy_from_slice(&self.load::<u16>(va, Acc::NORMAL)?.to_le_bytes()),
                4 => c.copy_from_slice(&self.load::<u32>(va, Acc::NORMAL)?.to_le_bytes()),
                _ => c.copy_from_slice(&self.load::<u64>(va, Acc::NORMAL)?.to_le_bytes()),
            }
            va = va.wrapping_add(size as u64);
        }
        Ok(())
    }

    /// Stores elements of `size` bytes (1, 2, 4, 8), given little-endian. Where an element on a second page faults,
    /// nothing was written.
    #[inline(always)]
    pub(crate) fn store_block(&mut self, va: u64, data: &[u8], size: usize) -> Result<(), Stop> {
        if let Some(host) = self.block_hit(va, data.len(), true)
            && let (words, []) = data.as_chunks::<8>()
        {
            for (k, w) in words.iter().enumerate() {
                // SAFETY: as in `Cpu::store`: a write tag, and the first to the last byte stand on the page.
                unsafe { u64::put((host as *mut u8).wrapping_add(8 * k), u64::from_le_bytes(*w)) };
            }
            return Ok(());
        }
        self.store_elements(va, data, size)
    }

    #[inline(never)]
    fn store_elements(&mut self, va: u64, data: &[u8], size: usize) -> Result<(), Stop> {
        let at = |k: usize| va.wrapping_add((k * size) as u64);
        let last = va.wrapping_add(data.len() as u64 - 1);
        if va & !0xfff != last & !0xfff {
            for k in 0..data.len() / size {
                self.probe_write(at(k), size as u64, Acc::NORMAL)?;
            }
        }
        for (k, c) in data.chunks_exact(size).enumerate() {
            match *c {
                [a] => self.store(at(k), a, Acc::NORMAL)?,
                [a, b] => self.store(at(k), u16::from_le_bytes([a, b]), Acc::NORMAL)?,
                [a, b, c, d] => self.store(at(k), u32::from_le_bytes([a, b, c, d]), Acc::NORMAL)?,
                [a, b, c, d, e, f, g, h] => {
                    self.store(at(k), u64::from_le_bytes([a, b, c, d, e, f, g, h]), Acc::NORMAL)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
