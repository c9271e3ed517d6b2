//! Runs of elements: one TLB look-up where they stand on one page, else element by element.

use crate::cpu::Cpu;
use crate::insn::Stop;
use crate::mem::attr::Acc;
use crate::mem::int::MemInt;

impl Cpu {
    /// Where `len` bytes at `va` stand, when the TLB has their page for reading (or writing) and they do not leave it.
    #[inline(always)]
    fn block_hit(&self, va: u64, len: usize, write: bool) -> Option<u64> {
        let last = va.wrapping_add(len as u64 - 1);
        let e = &self.tlb.data[self.tlb.index(va)];
        let tag = if write { e.tag_w } else { e.tag_r };
        ((last & !0xfff | self.ctx_of(va, Acc::NORMAL)) == tag).then(|| va.wrapping_add(e.addend))
    }

    /// Loads elements of `size` bytes (1, 2, 4, 8) into the first `len` bytes of the result, each little-endian.
    #[inline(always)]
    pub(crate) fn load_block(&mut self, va: u64, len: usize, size: usize) -> Result<[u64; 8], Stop> {
        let mut out = [0u64; 8];
        if let Some(host) = self.block_hit(va, len, false)
            && len.is_multiple_of(8)
        {
            for (k, w) in out.iter_mut().take(len / 8).enumerate() {
                // SAFETY: as in `Cpu::load`: the entry maps the page, and the first to the last byte stand on it.
                *w = unsafe { u64::get((host as *const u8).wrapping_add(8 * k)) };
            }
            return Ok(out);
        }
        self.load_elements(va, &mut bytemuck::cast_slice_mut(&mut out)[..len & 127], size)?;
        Ok(out)
    }

    /// One register of elements of `size` bytes: all 16 bytes, or 8.
    #[inline(always)]
    pub(crate) fn load_vector(&mut self, va: u64, full: bool, size: usize) -> Result<u128, Stop> {
        let len = if full { 16 } else { 8 };
        if let Some(host) = self.block_hit(va, len, false) {
            let p = host as *const u8;
            // SAFETY: as above.
            return Ok(unsafe { if full { u128::get(p) } else { u64::get(p).into() } });
        }
        let mut out = [0; 16];
        self.load_elements(va, &mut out[..len], size)?;
        Ok(u128::from_le_bytes(out))
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
