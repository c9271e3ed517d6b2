//! The program's other threads stand still while memory is replaced under them.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::real::{sys, thread};

/// A signal that no program uses, and that this library keeps from being blocked.
pub const SIGNAL: c_int = 60;

static STOPPED: AtomicU32 = AtomicU32::new(0);
static ARRIVED: AtomicU32 = AtomicU32::new(0);
static READY: AtomicBool = AtomicBool::new(false);

extern "C" fn wait_here(_: c_int) {
    let e = crate::real::errno();
    ARRIVED.fetch_add(1, Ordering::SeqCst);
    while STOPPED.load(Ordering::SeqCst) != 0 {
        let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        let _ = sys!(SYS_futex, STOPPED.as_ptr(), op, 1, 0usize);
    }
    crate::real::set_errno(e);
}

fn prepare() {
    if READY.swap(true, Ordering::SeqCst) {
        return;
    }
    // SAFETY: all zero is an action; the handler only touches atomics.
    unsafe {
        let mut a: libc::sigaction = std::mem::zeroed();
        a.sa_sigaction = wait_here as extern "C" fn(c_int) as usize;
        a.sa_flags = libc::SA_RESTART;
        libc::sigaction(SIGNAL, &a, std::ptr::null_mut());
    }
}

/// Threads that run the program: those that let the signal through (an emulator's own do not).
fn others() -> Vec<u32> {
    let me = thread();
    let Ok(dir) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let ids = dir.filter_map(|d| d.ok()?.file_name().to_str()?.parse().ok()).filter(|t| *t != me);
    ids.filter(|t| {
        let status = std::fs::read_to_string(format!("/proc/self/task/{t}/status")).unwrap_or_default();
        let blocked = status.lines().find_map(|l| l.strip_prefix("SigBlk:"));
        let blocked = blocked.and_then(|b| u64::from_str_radix(b.trim(), 16).ok()).unwrap_or(u64::MAX);
        blocked & 1 << (SIGNAL - 1) == 0
    })
    .collect()
}

/// While it lives, the other threads stand.
pub struct Still(());

impl Drop for Still {
    fn drop(&mut self) {
        STOPPED.store(0, Ordering::SeqCst);
        let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        let _ = sys!(SYS_futex, STOPPED.as_ptr(), op, i32::MAX);
    }
}

/// Stops the other threads. One that does not come within a second is in the kernel for good, and touches no memory.
pub fn world() -> Still {
    let mut told = Vec::new();
    let pid = sys!(SYS_getpid).unwrap_or(0);
    ARRIVED.store(0, Ordering::SeqCst);
    loop {
        let new: Vec<u32> = others().into_iter().filter(|t| !told.contains(t)).collect();
        if new.is_empty() {
            return Still(());
        }
        prepare();
        STOPPED.store(1, Ordering::SeqCst);
        for t in new {
            if sys!(SYS_tgkill, pid, t as usize, SIGNAL as usize).is_ok() {
                told.push(t);
            }
        }
        for _ in 0..1000 {
            if ARRIVED.load(Ordering::SeqCst) as usize >= told.len() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
