//! userfaultfd: the server's, since that is where guests touch the program's memory. The program reads and polls the
//! descriptor itself; addresses in what it reads and asks are the server's there and the program's here.

use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};

use ulna_kvm_abi::structs::Wire;
use ulna_kvm_abi::wire::{NEED_FILE, Reply, Request, faults, op, part};

use crate::call::Exchange;
use crate::lock::Lock;
use crate::real::{Blocked, readable, sys};
use crate::{memory, server};

/// A range that was registered: here, its length, and there.
#[derive(Clone, Copy)]
struct Range {
    at: u64,
    len: u64,
    there: u64,
}

struct File {
    fd: c_int,
    ranges: Vec<Range>,
}

static FILES: Lock<Vec<File>> = Lock::new(Vec::new());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Is it such a descriptor? Cheap where there are none.
pub fn known(fd: c_int) -> bool {
    COUNT.load(Ordering::Relaxed) != 0 && FILES.lock().iter().any(|f| f.fd == fd)
}

/// It is closed, or about to be something else.
pub fn remove(fd: c_int) {
    if COUNT.load(Ordering::Relaxed) != 0 {
        let mut files = FILES.lock();
        files.retain(|f| f.fd != fd);
        COUNT.store(files.len(), Ordering::Relaxed);
    }
}

/// `userfaultfd`.
pub fn open(flags: c_int) -> Result<c_int, c_int> {
    if flags & !(libc::O_CLOEXEC | libc::O_NONBLOCK | 1) != 0 {
        return Err(libc::EINVAL);
    }
    let _blocked = Blocked::new();
    let mut e = Exchange::new(Request { op: op::FAULTS, ..Request::default() });
    let reply = server::exchange(&mut e)?;
    if reply.result < 0 {
        return Err(-reply.result);
    }
    let fd = e.got.pop().ok_or(libc::EIO)?;
    // It came with both.
    if flags & libc::O_CLOEXEC == 0 {
        sys!(SYS_fcntl, fd.0, libc::F_SETFD, 0)?;
    }
    if flags & libc::O_NONBLOCK == 0 {
        sys!(SYS_fcntl, fd.0, libc::F_SETFL, 0)?;
    }
    let fd = fd.into_raw();
    let mut files = FILES.lock();
    files.retain(|f| f.fd != fd);
    files.push(File { fd, ranges: Vec::new() });
    COUNT.store(files.len(), Ordering::Relaxed);
    Ok(fd)
}

/// Where `addr` is there.
fn there(fd: c_int, addr: u64) -> Option<u64> {
    let files = FILES.lock();
    let f = files.iter().find(|f| f.fd == fd)?;
    f.ranges.iter().find(|r| addr.wrapping_sub(r.at) < r.len).map(|r| r.there + (addr - r.at))
}

/// Where what is there is here.
fn here(fd: c_int, addr: u64) -> Option<u64> {
    let files = FILES.lock();
    let f = files.iter().find(|f| f.fd == fd)?;
    f.ranges.iter().find(|r| addr.wrapping_sub(r.there) < r.len).map(|r| r.at + (addr - r.there))
}

fn send(e: &mut Exchange) -> Result<Reply, c_int> {
    server::exchange(e)
}

/// A request on such a descriptor.
pub fn ioctl(fd: c_int, number: u32, arg: u64) -> Result<c_int, c_int> {
    let _blocked = Blocked::new();
    let size = faults::size(number).ok_or(libc::EINVAL)?;
    if !readable(arg, size) {
        return Err(libc::EFAULT);
    }
    let mut b = [0u8; faults::LONGEST];
    // SAFETY: readable.
    unsafe { std::ptr::copy_nonoverlapping(arg as usize as *const u8, b.as_mut_ptr(), size) };
    let word = |b: &[u8], n: usize| u64::from_bytes(&b[8 * n..]);
    let (first, second, third) = (word(&b, 0), word(&b, 1), word(&b, 2));
    let mut e = Exchange::new(Request { op: op::FAULT_IOCTL, request: number, ..Request::default() });
    e.fds.push(fd);
    let mut files = Vec::new();
    let mut parts = Vec::new();
    match number {
        faults::API => {}
        faults::REGISTER => (parts, files) = memory::describe(first, second)?,
        _ => there(fd, first).ok_or(libc::ENOENT)?.to_bytes(&mut b),
    }
    // What was asked, so that a part of it can be told as it is in the program.
    let answer = [0u8; faults::LONGEST];
    e.goes_in(arg, b.as_ptr(), size, 0);
    if number == faults::COPY {
        let len = usize::try_from(third).map_err(|_| libc::EINVAL)?;
        if !readable(second, len) {
            return Err(libc::EFAULT);
        }
        e.goes_in(second, second as usize as *const u8, len, 0);
    }
    e.parts.extend(parts);
    e.comes_out(answer.as_ptr() as u64, size as u64);
    let mut reply = send(&mut e)?;
    if reply.result == NEED_FILE {
        for (p, file) in e.parts.iter_mut().filter(|p| p.kind & part::MEMORY != 0).zip(files) {
            e.fds.push(file);
            p.fd = e.fds.len() as u16;
        }
        reply = send(&mut e)?;
    }
    if reply.result == NEED_FILE {
        return Err(libc::ENOMEM);
    }
    if reply.len as usize == size {
        let mut out = b;
        // SAFETY: the server's answer was received here.
        unsafe { std::ptr::copy_nonoverlapping(answer.as_ptr(), out.as_mut_ptr(), size) };
        if number != faults::API {
            first.to_bytes(&mut out);
        }
        if number == faults::COPY {
            second.to_bytes(&mut out[8..]);
        }
        // SAFETY: the program's structure, which it must be able to write as the kernel would.
        unsafe { std::ptr::copy_nonoverlapping(out.as_ptr(), arg as usize as *mut u8, size) };
    }
    if reply.result < 0 {
        return Err(-reply.result);
    }
    let mut all = FILES.lock();
    if let Some(f) = all.iter_mut().find(|f| f.fd == fd) {
        match number {
            faults::REGISTER => {
                f.ranges.retain(|r| r.at != first);
                f.ranges.push(Range { at: first, len: second, there: reply.extra });
            }
            faults::UNREGISTER => f.ranges.retain(|r| r.at != first || r.len != second),
            _ => {}
        }
    }
    Ok(reply.result)
}

/// What was read: the addresses become the program's.
pub fn translate(fd: c_int, messages: &mut [u8]) {
    for m in messages.chunks_exact_mut(faults::MESSAGE) {
        if m[0] == faults::PAGEFAULT
            && let Some(at) = here(fd, u64::from_bytes(&m[16..]))
        {
            at.to_bytes(&mut m[16..]);
        }
    }
}
