//! AArch64 ELF executables, loaded by the physical addresses of their segments.

use object::elf::{EM_AARCH64, ET_DYN, ET_EXEC, FileHeader64, PT_LOAD};
use object::endian::Endianness;
use object::read::elf::{FileHeader, ProgramHeader};
use std::ops::Range;

/// One piece of the program.
pub struct Segment<'a> {
    /// Guest-physical address.
    pub at: u64,
    /// What the file has for it; the rest up to `size` is zero.
    pub bytes: &'a [u8],
    /// Bytes in memory.
    pub size: u64,
}

/// A program to be loaded.
pub struct Elf<'a> {
    /// Physical address of the first instruction.
    pub entry: u64,
    /// Its pieces, of which there is at least one.
    pub segments: Vec<Segment<'a>>,
}

impl<'a> Elf<'a> {
    /// Reads the headers; the error completes "The kernel F ...".
    pub fn parse(bytes: &'a [u8]) -> Result<Elf<'a>, String> {
        let damaged = |e: object::Error| format!("is a damaged or cut-short ELF file: {e}");
        if bytes.get(4) != Some(&2) {
            return Err("is a 32-bit ELF file; AArch64 programs are 64-bit".into());
        }
        let header = FileHeader64::<Endianness>::parse(bytes).map_err(damaged)?;
        let endian = header.endian().map_err(damaged)?;
        if endian == Endianness::Big {
            return Err("is a big-endian ELF file; only little-endian programs run here".into());
        }
        let machine = header.e_machine(endian);
        if machine != EM_AARCH64 {
            return Err(format!(
                "is an ELF file for another machine (e_machine {machine:?}; AArch64 is 183)"
            ));
        }
        let kind = header.e_type(endian);
        if kind != ET_EXEC && kind != ET_DYN {
            return Err(format!("is an ELF file that cannot be run (e_type {kind:?})"));
        }
        let virtual_entry = header.e_entry(endian);
        let mut entry = virtual_entry;
        let mut segments = Vec::new();
        for ph in header.program_headers(endian, bytes).map_err(damaged)? {
            if ph.p_type(endian) != PT_LOAD || ph.p_memsz(endian) == 0 {
                continue;
            }
            let (at, virt, size) = (ph.p_paddr(endian), ph.p_vaddr(endian), ph.p_memsz(endian));
            let data = ph
                .data(endian, bytes)
                .map_err(|()| format!("is cut short: the segment for 0x{at:x} lies beyond its end"))?;
            if data.len() as u64 > size || at.checked_add(size).is_none() {
                return Err(format!("has an ELF segment of impossible size for 0x{at:x}"));
            }
            if let Some(offset) = virtual_entry.checked_sub(virt).filter(|o| *o < size) {
                entry = at + offset;
            }
            segments.push(Segment { at, bytes: data, size });
        }
        if segments.is_empty() {
            return Err("is an ELF file with nothing to load".into());
        }
        Ok(Elf { entry, segments })
    }

    /// From the lowest to the highest address.
    pub fn span(&self) -> Range<u64> {
        let start = self.segments.iter().map(|s| s.at).min().unwrap_or(0);
        let end = self.segments.iter().map(|s| s.at.saturating_add(s.size)).max().unwrap_or(0);
        start..end
    }
}
