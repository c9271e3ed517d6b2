//! The page of a vCPU that its VMM maps: `struct kvm_run` (kvm-arm64-abi.md §3.1).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use ulna_kvm_abi::Errno;
use ulna_kvm_abi::structs::Wire;

use crate::Result;

/// Offsets into `struct kvm_run`.
pub mod run_offset {
    /// u8: return as soon as a pending access is complete.
    pub const IMMEDIATE_EXIT: usize = 0x01;
    /// u32.
    pub const EXIT_REASON: usize = 0x08;
    /// u16.
    pub const FLAGS: usize = 0x0e;
    /// What belongs to the reason, 256 bytes.
    pub const UNION: usize = 0x20;
    /// u64: outputs of in-kernel devices, without an in-kernel interrupt controller.
    pub const DEVICE_IRQ_LEVEL: usize = 0x130;
    /// Bytes of `struct kvm_run`.
    pub const SIZE: usize = 2352;
}

const PAGE: usize = 4096;

/// A page of its own mapping, of memory that can be shared with another process or not.
pub struct RunPage {
    at: NonNull<u8>,
    file: Option<OwnedFd>,
}

// SAFETY: the page is only reached by volatile and atomic accesses; another process may write it at any time.
unsafe impl Send for RunPage {}
// SAFETY: the same.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// A zero page; with `shared`, one that a file descriptor stands for.
    pub fn new(shared: bool) -> Result<RunPage> {
        let host = |e: rustix::io::Errno| Errno::new(e.raw_os_error());
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let file = if shared {
            let f = memfd_create("kvm-vcpu", MemfdFlags::CLOEXEC).map_err(host)?;
            ftruncate(&f, PAGE as u64).map_err(host)?;
            Some(f)
        } else {
            None
        };
        let none = std::ptr::null_mut();
        let at = match &file {
            // SAFETY: a new mapping at an address that the kernel chooses.
            Some(f) => unsafe { mmap(none, PAGE, prot, MapFlags::SHARED, f, 0) },
            // SAFETY: the same.
            None => unsafe { mmap_anonymous(none, PAGE, prot, MapFlags::PRIVATE) },
        };
        let at = NonNull::new(at.map_err(host)?.cast()).ok_or(Errno::ENOMEM)?;
        Ok(RunPage { at, file })
    }

    /// The file that is the page, if it can be shared.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Where it is mapped in this process.
    pub fn as_ptr(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    /// Reads a number or structure; zero past the end of the page.
    pub fn get<T: Wire>(&self, offset: usize) -> T {
        let mut b = [0; 64];
        let b = &mut b[..T::SIZE.min(64)];
        self.read(offset, b);
        T::from_bytes(b)
    }

    /// Writes one.
    pub fn put<T: Wire>(&self, offset: usize, v: T) {
        let mut b = [0; 64];
        let b = &mut b[..T::SIZE.min(64)];
        v.to_bytes(b);
        self.write(offset, b);
    }

    /// Copies bytes out, as far as the page goes.
    pub fn read(&self, offset: usize, buf: &mut [u8]) {
        if let Ok(word) = <&mut [u8; 8]>::try_from(&mut *buf)
            && word_fits(offset)
        {
            // SAFETY: an aligned word inside the page.
            *word = unsafe { self.at.as_ptr().add(offset).cast::<u64>().read_volatile() }.to_le_bytes();
            return;
        }
        for (b, at) in buf.iter_mut().zip(offset..PAGE) {
            // SAFETY: inside the page.
            *b = unsafe { self.at.as_ptr().add(at).read_volatile() };
        }
    }

    /// Copies bytes in, as far as the page goes.
    pub fn write(&self, offset: usize, data: &[u8]) {
        if let Ok(word) = <[u8; 8]>::try_from(data)
            && word_fits(offset)
        {
            let v = u64::from_le_bytes(word);
            // SAFETY: an aligned word inside the page.
            unsafe { self.at.as_ptr().add(offset).cast::<u64>().write_volatile(v) };
            return;
        }
        for (b, at) in data.iter().zip(offset..PAGE) {
            // SAFETY: inside the page.
            unsafe { self.at.as_ptr().add(at).write_volatile(*b) };
        }
    }

    fn immediate_exit_byte(&self) -> &AtomicU8 {
        // SAFETY: inside the page, which lives as long as `self`; a byte needs no alignment.
        unsafe { AtomicU8::from_ptr(self.at.as_ptr().add(run_offset::IMMEDIATE_EXIT)) }
    }

    /// `immediate_exit`.
    pub fn immediate_exit(&self) -> u8 {
        self.immediate_exit_byte().load(Ordering::SeqCst)
    }

    /// Sets `immediate_exit`; safe in a signal handler.
    pub fn set_immediate_exit(&self, v: u8) {
        self.immediate_exit_byte().store(v, Ordering::SeqCst);
    }
}

/// Is this the offset of an aligned word of the page?
fn word_fits(offset: usize) -> bool {
    offset.is_multiple_of(8) && offset < PAGE
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nothing refers to any more.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_page_is_its_file() {
        let p = RunPage::new(true).unwrap();
        p.put(run_offset::EXIT_REASON, 6u32);
        p.set_immediate_exit(1);
        let mut b = [0; 12];
        assert_eq!(rustix::io::pread(p.file().unwrap(), &mut b, 0), Ok(12));
        assert_eq!(b, [0, 1, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0]);
        assert_eq!(rustix::io::pwrite(p.file().unwrap(), &[7], 0x28), Ok(1));
        assert_eq!(p.get::<u64>(0x28), 7);
        assert_eq!((p.get::<u32>(PAGE - 2), RunPage::new(false).unwrap().file().is_some()), (0, false));
        p.put(PAGE - 1, u64::MAX);
    }
}
