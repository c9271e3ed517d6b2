//! The program's other threads stand still while memory is replaced under them.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::real::{Fd, sys, thread};

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

/// Threads that were seen to be an emulator's own, and in which process.
static OWN: [AtomicU32; 8] = [const { AtomicU32::new(0) }; 8];
static OWN_EPOCH: AtomicU32 = AtomicU32::new(0);
/// More threads than a program has.
const MOST: usize = 4096;

/// A path that ends, without memory of the heap: a thread that stands may hold malloc's lock.
struct Path([u8; 64]);

impl Path {
    fn status(thread: u32) -> Path {
        let mut p = Path([0; 64]);
        let (before, after) = (b"/proc/self/task/", b"/status");
        p.0[..before.len()].copy_from_slice(before);
        let mut digits = [0; 10];
        let (mut n, mut left) = (0, thread);
        while left > 0 || n == 0 {
            digits[n] = b'0' + (left % 10) as u8;
            left /= 10;
            n += 1;
        }
        digits[..n].reverse();
        p.0[before.len()..before.len() + n].copy_from_slice(&digits[..n]);
        p.0[before.len() + n..before.len() + n + after.len()].copy_from_slice(after);
        p
    }
}

/// The value behind a name in a file of lines.
fn field<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let line = text.split(|b| *b == b'\n').find_map(|l| l.strip_prefix(name))?;
    Some(line.trim_ascii())
}

/// Does a thread let the signal through, and does it sleep?
fn state(thread: u32) -> Option<(bool, bool)> {
    let path = Path::status(thread);
    let fd =
        Fd(sys!(SYS_openat, libc::AT_FDCWD, path.0.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC).ok()?
            as c_int);
    let mut text = [0u8; 4096];
    let n = sys!(SYS_read, fd.0, text.as_mut_ptr(), text.len()).ok()?;
    let text = text.get(..n)?;
    let mask = std::str::from_utf8(field(text, b"SigBlk:")?).ok()?;
    let blocked = u64::from_str_radix(mask, 16).ok()?;
    Some((blocked & 1 << (SIGNAL - 1) == 0, field(text, b"State:")?.starts_with(b"S")))
}

/// Does this thread run the program? One that blocks all signals is either about to begin, or about to go on (libc and an
/// emulator block them for moments), or an emulator's own, which sleeps.
fn runs_program(t: u32) -> bool {
    const LOOKS: u32 = 5;
    let mut asleep = 0;
    for _ in 0..1000 {
        match state(t) {
            None => return false,
            Some((true, _)) => return true,
            Some((false, true)) => asleep += 1,
            Some((false, false)) => asleep = 0,
        }
        if asleep == LOOKS {
            if let Some(free) = OWN.iter().find(|o| o.load(Ordering::Relaxed) == 0) {
                free.store(t, Ordering::Relaxed);
            }
            return false;
        }
        pause();
    }
    false
}

/// A millisecond.
fn pause() {
    let t = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let _ = sys!(SYS_nanosleep, &raw const t, 0usize);
}

/// Calls `f` with each of the other threads.
fn others(mut f: impl FnMut(u32)) {
    let me = thread();
    let epoch = crate::server::epoch();
    if OWN_EPOCH.swap(epoch, Ordering::Relaxed) != epoch {
        OWN.iter().for_each(|o| o.store(0, Ordering::Relaxed));
    }
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let Ok(fd) = sys!(SYS_openat, libc::AT_FDCWD, c"/proc/self/task".as_ptr(), flags) else { return };
    let fd = Fd(fd as c_int);
    let mut b = [0u8; 4096];
    while let Ok(n @ 1..) = sys!(SYS_getdents64, fd.0, b.as_mut_ptr(), b.len()) {
        let mut entries = b.get(..n).unwrap_or(&[]);
        // struct linux_dirent64: ino, off, reclen (u16 at 16), type, name.
        while let Some(len) = entries.get(16..18).map(|l| usize::from(u16::from_le_bytes([l[0], l[1]]))) {
            let Some((entry, rest)) = entries.split_at_checked(len.max(19)) else { break };
            let name = entry[19..].split(|b| *b == 0).next().unwrap_or(&[]);
            let id: Option<u32> = std::str::from_utf8(name).ok().and_then(|n| n.parse().ok());
            let own = |t: u32| OWN.iter().any(|o| o.load(Ordering::Relaxed) == t);
            if let Some(t) = id.filter(|t| *t != me && !own(*t)) {
                f(t);
            }
            entries = rest;
        }
    }
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
///
/// Until they go on, nothing here may take memory from the heap.
pub fn world() -> Still {
    let mut told = [0u32; MOST];
    let mut count = 0;
    let pid = sys!(SYS_getpid).unwrap_or(0);
    ARRIVED.store(0, Ordering::SeqCst);
    loop {
        let before = count;
        others(|t| {
            if count < MOST && !told[..count].contains(&t) && runs_program(t) {
                prepare();
                STOPPED.store(1, Ordering::SeqCst);
                if sys!(SYS_tgkill, pid, t as usize, SIGNAL as usize).is_ok() {
                    told[count] = t;
                    count += 1;
                }
            }
        });
        if count == before {
            return Still(());
        }
        for _ in 0..1000 {
            if ARRIVED.load(Ordering::SeqCst) as usize >= count {
                break;
            }
            pause();
        }
    }
}
