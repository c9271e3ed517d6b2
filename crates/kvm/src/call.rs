//! Requests of this process on the raw entry: its memory and its eventfds.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use ulna_kvm_abi::Errno;
use ulna_kvm_core::raw::{Backing, Caller, Descriptor, Files, ProcessMem, UserMem, ioctl};

use crate::{Error, Result};

pub(crate) fn error(e: Errno) -> Error {
    Error::new(e.0)
}

/// What the descriptors of a `Kvm` share.
pub(crate) struct Shared {
    pub strict: bool,
    /// Duplicates of the caller's eventfds by their id, under which the kernel knows them whatever their number is.
    events: Mutex<HashMap<u64, Arc<OwnedFd>>>,
}

impl Shared {
    pub fn new(strict: bool) -> Shared {
        Shared { strict, events: Mutex::default() }
    }

    fn eventfd(&self, fd: RawFd) -> std::result::Result<Arc<OwnedFd>, Errno> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).map_err(|_| Errno::EBADF)?;
        let id = info.lines().find_map(|l| l.strip_prefix("eventfd-id:")).map(str::trim);
        let count = info.lines().any(|l| l.starts_with("eventfd-count:"));
        // Kernels before 5.16 do not say the id: the number must do.
        let id = match id.and_then(|t| t.parse::<u64>().ok()) {
            Some(id) => id,
            None if count => u64::from(fd as u32) | 1 << 63,
            None => return Err(Errno::EINVAL),
        };
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = events.get(&id) {
            return Ok(known.clone());
        }
        // SAFETY: open a moment ago; at worst it is another file of the caller by now, as with any use of its number.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let copy = Arc::new(borrowed.try_clone_to_owned().map_err(|_| Errno::EMFILE)?);
        // What nobody uses any more is closed.
        events.retain(|_, f| Arc::strong_count(f) > 1);
        events.insert(id, copy.clone());
        Ok(copy)
    }
}

/// One call: what it opens is kept for the caller.
struct Call<'a> {
    shared: &'a Shared,
    made: Mutex<Option<Descriptor>>,
}

impl Files for Call<'_> {
    fn reserve(&self) -> std::result::Result<i32, Errno> {
        Ok(0)
    }
    fn install(&self, _fd: i32, d: Descriptor) {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(d);
    }
    fn release(&self, _fd: i32) {}
    fn eventfd(&self, fd: i32) -> std::result::Result<Arc<OwnedFd>, Errno> {
        self.shared.eventfd(fd)
    }
    fn strict(&self) -> bool {
        self.shared.strict
    }
}

/// The argument structure by reference, and the rest of the process by address.
struct Here {
    at: *mut u8,
    len: usize,
    process: ProcessMem,
}

// SAFETY: used within one call, on one thread.
unsafe impl Send for Here {}
// SAFETY: the same.
unsafe impl Sync for Here {}

impl Here {
    fn inside(&self, addr: u64, len: usize) -> Option<*mut u8> {
        let offset = addr.checked_sub(self.at as u64)?;
        let offset = usize::try_from(offset).ok()?;
        (offset.checked_add(len)? <= self.len).then(|| self.at.wrapping_add(offset))
    }
}

impl UserMem for Here {
    fn read(&self, addr: u64, buf: &mut [u8]) -> std::result::Result<(), Errno> {
        let Some(at) = self.inside(addr, buf.len()) else { return self.process.read(addr, buf) };
        // SAFETY: inside the structure, which the caller of the request holds; `buf` is ours.
        unsafe { std::ptr::copy_nonoverlapping(at, buf.as_mut_ptr(), buf.len()) };
        Ok(())
    }
    fn write(&self, addr: u64, data: &[u8]) -> std::result::Result<(), Errno> {
        let Some(at) = self.inside(addr, data.len()) else { return self.process.write(addr, data) };
        // SAFETY: inside the structure, which is only written for requests that got it by unique reference.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), at, data.len()) };
        Ok(())
    }
    fn backing(&self, addr: u64, len: u64) -> Option<Backing> {
        self.process.backing(addr, len)
    }
}

fn call(
    shared: &Shared,
    d: &Descriptor,
    request: u32,
    arg: u64,
    here: &Here,
) -> Result<(i32, Option<Descriptor>)> {
    let files = Call { shared, made: Mutex::new(None) };
    let r = ioctl(d, request, arg, &Caller { mem: here, files: &files });
    if r < 0 {
        return Err(Error::new(-r));
    }
    Ok((r, files.made.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

/// A request whose argument is a number.
pub(crate) fn with_number(
    shared: &Shared,
    d: &Descriptor,
    request: u32,
    arg: u64,
) -> Result<(i32, Option<Descriptor>)> {
    // SAFETY: such a request reaches no memory.
    let process = unsafe { ProcessMem::new() };
    call(shared, d, request, arg, &Here { at: std::ptr::null_mut(), len: 0, process })
}

/// A request that reads the structure.
///
/// # Safety
/// What the structure points to is as the request needs it.
pub(crate) unsafe fn with_ref<T>(shared: &Shared, d: &Descriptor, request: u32, arg: &T) -> Result<i32> {
    let at = std::ptr::from_ref(arg).cast_mut().cast::<u8>();
    // SAFETY: the caller's.
    let process = unsafe { ProcessMem::new() };
    call(shared, d, request, at as u64, &Here { at, len: size_of::<T>(), process }).map(|r| r.0)
}

/// A request that writes the structure.
///
/// # Safety
/// As [`with_ref`].
pub(crate) unsafe fn with_mut<T>(
    shared: &Shared,
    d: &Descriptor,
    request: u32,
    arg: &mut T,
) -> Result<(i32, Option<Descriptor>)> {
    let at = std::ptr::from_mut(arg).cast::<u8>();
    // SAFETY: the caller's.
    let process = unsafe { ProcessMem::new() };
    call(shared, d, request, at as u64, &Here { at, len: size_of::<T>(), process })
}
