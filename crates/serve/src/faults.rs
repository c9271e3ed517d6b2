//! Faults that a program handles itself: userfaultfd on guest memory.
//!
//! Guests touch their memory in this process, so it is here that they fault: the descriptor is of this process's memory and
//! goes to the client, which reads from it and polls it itself. What it asks of it comes back here, with addresses of this
//! process that the shim translates. Only faults of this process's own instructions are reported, never the kernel's.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use ulna_kvm_abi::Errno;
use ulna_kvm_abi::structs::Wire;
use ulna_kvm_abi::wire::{NEED_FILE, Reply, faults};

use crate::frame::{Frame, send_reply};
use crate::memory::FrameMem;
use crate::session::{Session, refuse};

/// UFFD_USER_MODE_ONLY.
const USER_MODE_ONLY: i32 = 1;
/// Features that tell of what this process does, and not of faults: fork, remap, remove, unmap, thread ids.
const NOT_THE_CLIENTS: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 8;

fn last_error() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(Errno::EIO.0)
}

/// Makes a descriptor, which comes along with the answer.
pub(crate) fn open(to: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
    // SAFETY: makes a descriptor, or fails.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    match i32::try_from(fd) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: made a moment ago, and nobody else's.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            send_reply(to, Reply::default(), &[], &[std::os::fd::AsFd::as_fd(&fd)])
        }
        _ => refuse(to, -last_error(), 0),
    }
}

fn is_userfaultfd(fd: &OwnedFd) -> bool {
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let link = rustix::fs::readlinkat(rustix::fs::CWD, name, Vec::new());
    link.is_ok_and(|l| l.as_bytes() == b"anon_inode:[userfaultfd]")
}

/// A request on such a descriptor, which came along. `extra` of the answer is where a range that was registered is here.
pub(crate) fn ioctl(session: &Arc<Session>, frame: &Frame, to: BorrowedFd<'_>) -> io::Result<()> {
    let Some(fd) = frame.fds.first().filter(|f| is_userfaultfd(f)) else {
        return refuse(to, -Errno::EBADF.0, 0);
    };
    let number = frame.head.request;
    let Some(size) = faults::size(number) else { return refuse(to, -Errno::EINVAL.0, 0) };
    let mem = FrameMem::new(&session.windows, frame);
    let mut b = [0; faults::LONGEST];
    let Some(given) = frame.parts.first().map(|_| mem.given(0)).filter(|g| g.len() == size) else {
        return refuse(to, -Errno::EFAULT.0, 0);
    };
    b[..size].copy_from_slice(given);
    let mut here = 0;
    let word = |b: &[u8], n: usize| u64::from_bytes(&b[8 * n..]);
    match number {
        faults::API if word(&b, 1) & NOT_THE_CLIENTS != 0 => return refuse(to, -Errno::EINVAL.0, 0),
        faults::REGISTER => {
            here = match mem.keep(word(&b, 0), word(&b, 1)) {
                Some(at) => at,
                None if mem.needs_file() => return refuse(to, NEED_FILE, 0),
                None => return refuse(to, -Errno::EINVAL.0, 0),
            };
            here.to_bytes(&mut b);
        }
        faults::COPY => {
            let data = if frame.parts.len() > 1 { mem.given(1) } else { &[] };
            if data.is_empty() || data.len() as u64 != word(&b, 2) {
                return refuse(to, -Errno::EFAULT.0, 0);
            }
            (data.as_ptr() as u64).to_bytes(&mut b[8..]);
        }
        _ => {}
    }
    // SAFETY: a structure of the size that this request has. What it changes are pages of windows, to which no references
    // exist; what COPY reads is `data`, as long as the structure says.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), number as _, b.as_mut_ptr()) };
    let result = if r < 0 { -last_error() } else { r };
    if number == faults::API {
        let features = word(&b, 1) & !NOT_THE_CLIENTS;
        features.to_bytes(&mut b[8..]);
    }
    send_reply(to, Reply { result, extra: here, ..Reply::default() }, &[&b[..size]], &[])
}
