//! Guest memory: RAM and flash as memfds, so that a migration or another process can map them too.

use crate::error::Error;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::ops::Range;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion};

/// The memory type of this monitor.
pub type Memory = GuestMemoryMmap<()>;

/// One memfd-backed range of guest memory.
pub fn allocate(name: &str, range: Range<u64>) -> Result<Memory, Error> {
    let size = range.end - range.start;
    let fail = |why: &dyn std::fmt::Display| {
        Error::host(format!("get {} MiB for the guest's {name}", size >> 20), why)
    };
    let fd = memfd_create(format!("ulna-{name}"), MemfdFlags::CLOEXEC).map_err(|e| fail(&e))?;
    ftruncate(&fd, size).map_err(|e| fail(&e))?;
    let len = usize::try_from(size).map_err(|e| fail(&e))?;
    let file = FileOffset::new(File::from(fd), 0);
    Memory::from_ranges_with_files([(GuestAddress(range.start), len, Some(file))]).map_err(|e| fail(&e))
}

/// The range that a single-region memory covers.
pub fn range(memory: &Memory) -> Range<u64> {
    use vm_memory::GuestMemoryBackend;
    let mut all = memory.iter().map(|r| (r.start_addr().0, r.len()));
    all.next().map_or(0..0, |(start, len)| start..start + len)
}

/// Copies bytes to a guest address; they must fit.
pub fn write(memory: &Memory, bytes: &[u8], at: u64) -> Result<(), Error> {
    memory
        .write_slice(bytes, GuestAddress(at))
        .map_err(|e| Error::Internal(format!("writing {} bytes to guest address {at:#x}: {e}", bytes.len())))
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
        m.read_slice(&mut back, GuestAddress(0x4000_1000)).unwrap();
        assert_eq!(&back, b"hello\0");
        assert!(write(&m, b"xy", 0x400f_ffff).is_err());
    }

    #[test]
    fn memory_that_no_host_has_is_an_error() {
        let e = allocate("ram", 0..1 << 62).unwrap_err();
        assert!(e.to_string().starts_with("Cannot get 4398046511104 MiB for the guest's ram: "), "{e}");
    }
}
