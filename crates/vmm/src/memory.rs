//! Guest memory: RAM and flash as memfds, so that a migration or another process can map them too.

use crate::error::Error;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use ulna_kvm_backend::GuestRegion;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion};
use vm_memory::{MemoryRegionAddress, MmapRegion};

/// What a process can map at most.
const ADDRESS_SPACE: u64 = 1 << 47;

/// One contiguous piece of guest memory.
pub type Memory = GuestRegion;
/// A machine's RAM as devices see it.
pub type Space = GuestMemoryMmap<AtomicBitmap>;

/// A memfd-backed range of guest memory.
pub fn allocate(name: &str, range: Range<u64>) -> Result<Arc<Memory>, Error> {
    let size = range.end - range.start;
    let fail = |why: String| Error::host(format!("get {} MiB for the guest's {name}", size >> 20), why);
    if size > ADDRESS_SPACE {
        return Err(fail("no process has so much address space".into()));
    }
    let fd = memfd_create(format!("ulna-{name}"), MemfdFlags::CLOEXEC).map_err(|e| fail(e.to_string()))?;
    ftruncate(&fd, size).map_err(|e| fail(e.to_string()))?;
    let len = usize::try_from(size).map_err(|e| fail(e.to_string()))?;
    let file = FileOffset::new(File::from(fd), 0);
    let mapping = MmapRegion::from_file(file, len).map_err(|e| fail(e.to_string()))?;
    let region = Memory::new(mapping, GuestAddress(range.start));
    region.map(Arc::new).ok_or_else(|| fail("it passes the end of the address space".into()))
}

/// A range of guest memory with the contents of a file, which stays as it is: what the guest writes is its own.
pub fn private(name: &str, file: File, range: Range<u64>) -> Result<Arc<Memory>, Error> {
    let size = range.end - range.start;
    let fail = |why: String| Error::host(format!("map {} MiB for the guest's {name}", size >> 20), why);
    let len = usize::try_from(size).map_err(|e| fail(e.to_string()))?;
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
    let (prot, flags) = (prot.bits().cast_signed(), flags.bits().cast_signed());
    let mapping = MmapRegion::build(Some(FileOffset::new(file, 0)), len, prot, flags);
    let region = Memory::new(mapping.map_err(|e| fail(e.to_string()))?, GuestAddress(range.start));
    region.map(Arc::new).ok_or_else(|| fail("it passes the end of the address space".into()))
}

/// The guest addresses that a piece covers.
pub fn range(memory: &Memory) -> Range<u64> {
    let start = memory.start_addr().0;
    start..start + memory.len()
}

/// The whole of a machine's memory as devices want it.
pub fn space(ram: &Arc<Memory>) -> Result<Space, Error> {
    GuestMemoryMmap::from_arc_regions(vec![ram.clone()])
        .map_err(|e| Error::Internal(format!("guest memory: {e}")))
}

/// Copies bytes to a guest address; they must fit.
pub fn write(memory: &Memory, bytes: &[u8], at: u64) -> Result<(), Error> {
    at.checked_sub(memory.start_addr().0)
        .and_then(|offset| memory.write_slice(bytes, MemoryRegionAddress(offset)).ok())
        .ok_or_else(|| Error::Internal(format!("{} bytes do not fit at guest address {at:#x}", bytes.len())))
}

/// Copies bytes to fresh guest memory, leaving out pages of zeros: they cost no memory then.
pub fn write_sparse(memory: &Memory, bytes: &[u8], at: u64) -> Result<(), Error> {
    const PAGE: usize = 4096;
    for (page, chunk) in (0u64..).zip(bytes.chunks(PAGE)) {
        if chunk.iter().any(|&b| b != 0) {
            write(memory, chunk, at + page * PAGE as u64)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_and_keeps_what_is_written() {
        let m = allocate("ram", 0x4000_0000..0x4010_0000).unwrap();
        assert_eq!(range(&m), 0x4000_0000..0x4010_0000);
        write(&m, b"hello", 0x4000_1000).unwrap();
        let mut back = [0u8; 6];
        space(&m).unwrap().read_slice(&mut back, GuestAddress(0x4000_1000)).unwrap();
        assert_eq!(&back, b"hello\0");
        assert!(write(&m, b"xy", 0x400f_ffff).is_err());
        assert!(write(&m, b"xy", 0).is_err());
    }

    #[test]
    fn memory_that_no_host_has_is_an_error() {
        let e = allocate("ram", 0..1 << 62).unwrap_err();
        assert!(e.to_string().starts_with("Cannot get 4398046511104 MiB for the guest's ram: "), "{e}");
    }
}
