//! KVM_RUN: blocks until the server answers or a signal comes.
//!
//! As in a kernel, a signal ends the run first and its handler runs after that: signals are blocked while the thread waits,
//! and a descriptor tells that one is there. Which ones count is what KVM_SET_SIGNAL_MASK left, or the thread's mask.

use std::cell::RefCell;
use std::ffi::c_int;
use std::sync::atomic::Ordering;

use ulna_kvm_abi::ioctl::request;
use ulna_kvm_abi::wire::{Request, op};

use crate::call::Exchange;
use crate::real::{Blocked, Fd, sys};
use crate::server;
use crate::table::{self, Object};

/// A thread's descriptor that tells of signals.
struct Signals {
    fd: Fd,
    mask: u64,
    epoch: u32,
}

impl Drop for Signals {
    fn drop(&mut self) {
        table::unhide(self.fd.0);
    }
}

thread_local! {
    static SIGNALS: RefCell<Option<Signals>> = const { RefCell::new(None) };
}

/// A descriptor that is readable when one of `wanted` is pending.
fn signals(wanted: u64) -> Result<c_int, c_int> {
    SIGNALS.with(|s| {
        let mut s = s.try_borrow_mut().map_err(|_| libc::EINTR)?;
        if let Some(s) = s.as_mut().filter(|s| s.epoch == server::epoch()) {
            if s.mask != wanted {
                sys!(SYS_signalfd4, s.fd.0, &raw const wanted, 8usize, libc::SFD_CLOEXEC)?;
                s.mask = wanted;
            }
            return Ok(s.fd.0);
        }
        let fd = sys!(SYS_signalfd4, -1, &raw const wanted, 8usize, libc::SFD_CLOEXEC)?;
        let fd = Fd(fd as c_int).hide();
        let n = fd.0;
        *s = Some(Signals { fd, mask: wanted, epoch: server::epoch() });
        Ok(n)
    })
}

/// Signals that do nothing unless they are handled: SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
const QUIET: u64 =
    1 << (libc::SIGCHLD - 1) | 1 << (libc::SIGCONT - 1) | 1 << (libc::SIGURG - 1) | 1 << (libc::SIGWINCH - 1);

/// Of the signals that are pending, those that a kernel would have thrown away, as nobody wants them.
fn ignored(wanted: u64) -> u64 {
    let mut pending = 0u64;
    let _ = sys!(SYS_rt_sigpending, &raw mut pending, 8usize);
    let mut ignored = 0;
    for n in (1..=64).filter(|n| pending & wanted & 1 << (n - 1) != 0) {
        // SAFETY: all zero is an action, and this only asks.
        let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: only asks.
        let known = unsafe { libc::sigaction(n, std::ptr::null(), &mut now) } == 0;
        let default = now.sa_sigaction == libc::SIG_DFL && QUIET & 1 << (n - 1) != 0;
        if known && (now.sa_sigaction == libc::SIG_IGN || default) {
            ignored |= 1 << (n - 1);
        }
    }
    if ignored == pending & wanted { ignored } else { 0 }
}

/// KVM_RUN on the channel `fd`, with all signals blocked.
pub fn run(o: &Object, fd: c_int, arg: u64, blocked: &Blocked) -> Result<c_int, c_int> {
    if o.dead.load(Ordering::Relaxed) {
        return Err(libc::EIO);
    }
    let _one = o.exchange.lock();
    let mask = if o.has_mask.load(Ordering::Relaxed) { o.mask.load(Ordering::Relaxed) } else { blocked.0 };
    let mut wanted = !mask & !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));
    let number = o.runs.fetch_add(1, Ordering::Relaxed) + 1;
    let head = Request { op: op::IOCTL, request: request::RUN, arg, extra: number, ..Request::default() };
    let mut e = Exchange::new(head);
    let told = signals(wanted)?;
    let reply = e.send(fd).and_then(|()| {
        let mut told = told;
        loop {
            let mut wait = [
                libc::pollfd { fd, events: libc::POLLIN, revents: 0 },
                libc::pollfd { fd: told, events: libc::POLLIN, revents: 0 },
            ];
            // SAFETY: an array of two.
            if unsafe { libc::poll(wait.as_mut_ptr(), 2, -1) } < 0 {
                continue;
            }
            if wait[0].revents != 0 {
                return e.receive(fd);
            }
            if wait[1].revents != 0 {
                let no = ignored(wanted);
                if no == 0 {
                    let _ = server::kick(o.serial.load(Ordering::Relaxed), number);
                    return e.receive(fd);
                }
                wanted &= !no;
                told = signals(wanted)?;
            }
        }
    });
    match reply {
        Ok(r) if r.result < 0 => Err(-r.result),
        Ok(r) => Ok(r.result),
        Err(err) => {
            o.dead.store(true, Ordering::Relaxed);
            Err(err)
        }
    }
}
