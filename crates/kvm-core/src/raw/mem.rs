//! The caller's memory: bytes at addresses that may be wrong.

use std::any::Any;
use std::sync::Arc;

use ulna_kvm_abi::Errno;

use crate::Result;

/// Memory that stays mapped while its owner lives, for a memory slot.
pub struct Backing {
    pub(crate) host: *mut u8,
    pub(crate) owner: Arc<dyn Any + Send + Sync>,
}

impl Backing {
    /// Memory at `host`.
    ///
    /// # Safety
    /// The range that was asked for must be mapped at `host` while `owner` lives (writable, unless the slot is
    /// read-only), and nobody may hold Rust references into it.
    pub unsafe fn new(host: *mut u8, owner: Arc<dyn Any + Send + Sync>) -> Backing {
        Backing { host, owner }
    }
}

/// A caller's memory.
pub trait UserMem: Send + Sync {
    /// Copies bytes from `addr` on; all of them or EFAULT.
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<()>;
    /// Copies bytes to `addr`; all of them or EFAULT.
    fn write(&self, addr: u64, data: &[u8]) -> Result<()>;
    /// The memory itself, to be shown to a guest: `None` where nothing is mapped.
    fn backing(&self, addr: u64, len: u64) -> Option<Backing>;
    /// Which address space it is: a VM belongs to the one that made it.
    fn space(&self) -> u64 {
        0
    }
}

/// Bytes in place of a process's memory, for tests and fuzzing.
pub struct ByteMem {
    base: u64,
    bytes: Arc<Pages>,
}

/// Page-aligned zeroed memory.
struct Pages {
    at: *mut u8,
    layout: std::alloc::Layout,
}

// SAFETY: the memory is only reached by volatile accesses through raw pointers, as guest memory is.
unsafe impl Send for Pages {}
// SAFETY: the same.
unsafe impl Sync for Pages {}

impl Pages {
    fn new(len: usize) -> Option<Pages> {
        let layout = std::alloc::Layout::from_size_align(len.max(1), 0x1000).ok()?;
        // SAFETY: the size is not zero.
        let at = unsafe { std::alloc::alloc_zeroed(layout) };
        (!at.is_null()).then_some(Pages { at, layout })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { std::alloc::dealloc(self.at, self.layout) };
    }
}

impl ByteMem {
    /// `len` zero bytes (whole pages) at `base`.
    ///
    /// # Panics
    /// Without memory.
    pub fn new(base: u64, len: usize) -> ByteMem {
        let pages = Pages::new(len.next_multiple_of(0x1000)).expect("memory for a ByteMem");
        ByteMem { base, bytes: Arc::new(pages) }
    }

    fn at(&self, addr: u64, len: u64) -> Result<*mut u8> {
        let offset = addr.checked_sub(self.base).ok_or(Errno::EFAULT)?;
        let end = offset.checked_add(len).ok_or(Errno::EFAULT)?;
        if end > self.bytes.layout.size() as u64 {
            return Err(Errno::EFAULT);
        }
        Ok(self.bytes.at.wrapping_add(offset as usize))
    }

    /// Writes a structure, a number or an array of them.
    pub fn put<T: ulna_kvm_abi::structs::Wire>(&self, addr: u64, v: T) -> Result<()> {
        let mut b = vec![0; T::SIZE];
        v.to_bytes(&mut b);
        self.write(addr, &b)
    }

    /// Reads one.
    pub fn get<T: ulna_kvm_abi::structs::Wire>(&self, addr: u64) -> Result<T> {
        let mut b = vec![0; T::SIZE];
        self.read(addr, &mut b)?;
        Ok(T::from_bytes(&b))
    }
}

impl UserMem for ByteMem {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<()> {
        let at = self.at(addr, buf.len() as u64)?;
        for (i, b) in buf.iter_mut().enumerate() {
            // SAFETY: inside the memory.
            *b = unsafe { at.add(i).read_volatile() };
        }
        Ok(())
    }
    fn write(&self, addr: u64, data: &[u8]) -> Result<()> {
        let at = self.at(addr, data.len() as u64)?;
        for (i, b) in data.iter().enumerate() {
            // SAFETY: inside the memory.
            unsafe { at.add(i).write_volatile(*b) };
        }
        Ok(())
    }
    fn backing(&self, addr: u64, len: u64) -> Option<Backing> {
        let at = self.at(addr, len).ok()?;
        // SAFETY: inside memory that lives as long as its owner and is only accessed volatile.
        Some(unsafe { Backing::new(at, self.bytes.clone()) })
    }
}

/// The memory of this process. Addresses are checked by the host's kernel as it copies, so that a wrong one is EFAULT.
///
/// A memory slot takes the memory as it is: making one through this is a promise that it stays mapped as long as the slot
/// is, exactly as with `/dev/kvm`, except that a broken promise is a fault of this process and not an errno.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMem(());

impl ProcessMem {
    /// The memory of this process.
    ///
    /// # Safety
    /// Requests that use it write where their arguments say, and memory slots made with it must stay mapped.
    pub unsafe fn new() -> ProcessMem {
        ProcessMem(())
    }
}

impl UserMem for ProcessMem {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<()> {
        let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        let remote = libc::iovec { iov_base: addr as usize as *mut _, iov_len: buf.len() };
        // SAFETY: `local` is `buf`; `remote` is only looked at by the kernel, which checks it.
        let n = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
        if usize::try_from(n) == Ok(buf.len()) { Ok(()) } else { Err(Errno::EFAULT) }
    }
    fn write(&self, addr: u64, data: &[u8]) -> Result<()> {
        let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        let remote = libc::iovec { iov_base: addr as usize as *mut _, iov_len: data.len() };
        // SAFETY: `local` is only read; `remote` is checked by the kernel, and who made this promised that requests may
        // write there.
        let n = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
        if usize::try_from(n) == Ok(data.len()) { Ok(()) } else { Err(Errno::EFAULT) }
    }
    fn backing(&self, addr: u64, _len: u64) -> Option<Backing> {
        // SAFETY: promised when this was made.
        Some(unsafe { Backing::new(addr as usize as *mut u8, Arc::new(())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_end_where_they_end() {
        let m = ByteMem::new(0x1000, 0x1000);
        assert_eq!(m.put(0x1ff8, u64::MAX), Ok(()));
        assert_eq!(m.get::<u64>(0x1ff8), Ok(u64::MAX));
        for (at, n) in [(0, 1), (0xfff, 1), (0xfff, 2), (0x1fff, 2), (0x2000, 1), (u64::MAX, 2)] {
            assert_eq!(m.write(at, &vec![0; n]), Err(Errno::EFAULT), "{at:#x}");
            assert_eq!(m.read(at, &mut vec![0; n]), Err(Errno::EFAULT), "{at:#x}");
        }
        assert!(m.backing(0x1000, 0x1000).is_some() && m.backing(0x1000, 0x1001).is_none());
    }

    #[test]
    fn a_wrong_address_of_this_process_is_efault() {
        // SAFETY: only `there` is written.
        let m = unsafe { ProcessMem::new() };
        let there = std::cell::UnsafeCell::new([1u8, 2, 3, 4]);
        let at = there.get() as u64;
        let mut b = [0; 4];
        m.read(at, &mut b).unwrap();
        assert_eq!(b, [1, 2, 3, 4]);
        m.write(at, &[9; 4]).unwrap();
        assert_eq!(there.into_inner(), [9; 4]);
        assert_eq!(m.read(0, &mut b), Err(Errno::EFAULT));
        assert_eq!(m.write(8, &b), Err(Errno::EFAULT));
        assert_eq!(m.read(u64::MAX - 1, &mut b), Err(Errno::EFAULT));
        static FIXED: [u8; 4] = [5; 4];
        assert_eq!(m.write(FIXED.as_ptr() as u64, &b), Err(Errno::EFAULT), "read-only memory");
    }
}
