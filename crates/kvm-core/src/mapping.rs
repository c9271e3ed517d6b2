//! Pages that KVM and its VMM both write: rings of a vCPU or VM, which the VMM maps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use ulna_kvm_abi::Errno;

use crate::Result;

/// Zero pages with a file descriptor, so that another process can map them too.
pub struct Mapping {
    at: NonNull<u8>,
    len: usize,
    file: OwnedFd,
}

// SAFETY: the pages are only reached by atomic accesses; another process may write them at any time.
unsafe impl Send for Mapping {}
// SAFETY: the same.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `len` bytes, whole pages.
    pub(crate) fn new(name: &str, len: usize) -> Result<Mapping> {
        let host = |e: rustix::io::Errno| Errno::new(e.raw_os_error());
        let file = memfd_create(name, MemfdFlags::CLOEXEC).map_err(host)?;
        ftruncate(&file, len as u64).map_err(host)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at =
            unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, &file, 0) }.map_err(host)?;
        let at = NonNull::new(at.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Mapping { at, len, file })
    }

    /// Where it is mapped in this process.
    pub fn as_ptr(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.len
    }

    /// The file that holds the pages.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The word at `offset`, a multiple of 4.
    pub(crate) fn word(&self, offset: usize) -> Option<&AtomicU32> {
        let inside = offset.is_multiple_of(4) && offset.checked_add(4)? <= self.len;
        // SAFETY: inside the mapping, which lives as long as `self`, and aligned; only accessed atomically.
        inside.then(|| unsafe { AtomicU32::from_ptr(self.at.as_ptr().add(offset).cast()) })
    }

    /// The doubleword at `offset`, a multiple of 8.
    pub(crate) fn doubleword(&self, offset: usize) -> Option<&AtomicU64> {
        let inside = offset.is_multiple_of(8) && offset.checked_add(8)? <= self.len;
        // SAFETY: as in `word`.
        inside.then(|| unsafe { AtomicU64::from_ptr(self.at.as_ptr().add(offset).cast()) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nothing refers to any more.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn words_end_where_the_pages_end() {
        let m = Mapping::new("test", 0x1000).unwrap();
        m.word(0xffc).unwrap().store(7, Ordering::SeqCst);
        assert!(m.word(0x1000).is_none() && m.word(2).is_none() && m.word(usize::MAX - 3).is_none());
        assert!(m.doubleword(0xff8).is_some() && m.doubleword(0xffc).is_none());
        let mut b = [0; 4];
        assert_eq!(rustix::io::pread(m.file(), &mut b, 0xffc), Ok(4));
        assert_eq!((b, m.bytes()), ([7, 0, 0, 0], 0x1000));
    }
}
