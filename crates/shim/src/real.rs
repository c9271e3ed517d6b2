//! libc's own functions behind the ones of this library, and system calls.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// Looks a function up in the libraries that come after this one, once.
pub fn next(cache: &AtomicPtr<c_void>, name: &CStr) -> *mut c_void {
    let known = cache.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    // SAFETY: a name that ends.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    cache.store(found, Ordering::Relaxed);
    found
}

/// Defines a caller of libc's function; what libc lacks answers ENOSYS.
macro_rules! real {
    ($($name:ident($($arg:ident: $t:ty),*) -> $r:ty;)*) => {
        $(pub unsafe fn $name($($arg: $t),*) -> $r {
            static CACHE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(n) => n,
                Err(_) => c"",
            };
            let f = next(&CACHE, NAME);
            if f.is_null() {
                set_errno(libc::ENOSYS);
                return -1 as $r;
            }
            // SAFETY: libc's function of this name takes these (those that are variadic take them in the same registers).
            let f: unsafe extern "C" fn($($t),*) -> $r = unsafe { std::mem::transmute(f) };
            // SAFETY: the caller's.
            unsafe { f($($arg),*) }
        })*
    };
}

real! {
    open(path: *const c_char, flags: c_int, mode: usize) -> c_int;
    openat(dir: c_int, path: *const c_char, flags: c_int, mode: usize) -> c_int;
    close(fd: c_int) -> c_int;
    close_range(first: u32, last: u32, flags: c_int) -> c_int;
    read(fd: c_int, buf: *mut c_void, n: usize) -> isize;
    pread(fd: c_int, buf: *mut c_void, n: usize, offset: i64) -> isize;
    ioctl(fd: c_int, request: usize, arg: usize) -> c_int;
    syscall(n: usize, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize;
    fcntl(fd: c_int, command: c_int, arg: usize) -> c_int;
    dup(fd: c_int) -> c_int;
    dup2(fd: c_int, to: c_int) -> c_int;
    dup3(fd: c_int, to: c_int, flags: c_int) -> c_int;
    access(path: *const c_char, mode: c_int) -> c_int;
    faccessat(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int;
    stat(path: *const c_char, buf: *mut libc::stat) -> c_int;
    lstat(path: *const c_char, buf: *mut libc::stat) -> c_int;
    fstat(fd: c_int, buf: *mut libc::stat) -> c_int;
    fstatat(dir: c_int, path: *const c_char, buf: *mut libc::stat, flags: c_int) -> c_int;
    pthread_sigmask(how: c_int, set: *const libc::sigset_t, old: *mut libc::sigset_t) -> c_int;
    sigprocmask(how: c_int, set: *const libc::sigset_t, old: *mut libc::sigset_t) -> c_int;
}

pub fn set_errno(e: c_int) {
    // SAFETY: the thread's own.
    unsafe { *libc::__errno_location() = e };
}

pub fn errno() -> c_int {
    // SAFETY: the thread's own.
    unsafe { *libc::__errno_location() }
}

/// A system call: its result, or the errno.
macro_rules! sys {
    ($n:ident $(, $a:expr)*) => {{
        // SAFETY: whoever uses this answers for the arguments.
        let r = unsafe { libc::syscall(libc::$n $(, $a)*) };
        if r == -1 { Err($crate::real::errno()) } else { Ok(r as usize) }
    }};
}
pub(crate) use sys;

/// A descriptor of the library's own.
pub struct Fd(pub c_int);

impl Drop for Fd {
    fn drop(&mut self) {
        if self.0 >= 0 {
            let _ = sys!(SYS_close, self.0);
        }
    }
}

impl Fd {
    /// Gives it away.
    pub fn into_raw(self) -> c_int {
        let fd = self.0;
        std::mem::forget(self);
        fd
    }

    /// Moves it to a high number, so that the program's numbers are what they would be.
    pub fn hide(self) -> Fd {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: fills in the structure.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
        let top = limit.rlim_cur.min(crate::table::MOST as u64) as c_int;
        match sys!(SYS_fcntl, self.0, libc::F_DUPFD_CLOEXEC, (top / 2).max(64)) {
            Ok(high) => {
                crate::table::hide(high as c_int);
                Fd(high as c_int)
            }
            Err(_) => self,
        }
    }
}

/// A new file in memory.
pub fn memory_file(name: &CStr, flags: u32) -> Result<Fd, c_int> {
    sys!(SYS_memfd_create, name.as_ptr(), flags).map(|fd| Fd(fd as c_int))
}

/// The thread's number.
pub fn thread() -> u32 {
    thread_local! {
        static TID: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }
    let known = TID.with(std::cell::Cell::get);
    if known != 0 && !crate::server::forked() {
        return known;
    }
    let tid = sys!(SYS_gettid).unwrap_or(0) as u32;
    TID.with(|t| t.set(tid));
    tid
}

/// Signals 32 and 33 belong to libc, and [`crate::stop::SIGNAL`] to this library.
const ALWAYS_OPEN: u64 = 1 << 31 | 1 << 32 | 1 << (crate::stop::SIGNAL - 1);

/// Blocks signals while it lives.
pub struct Blocked(pub u64);

impl Blocked {
    pub fn new() -> Blocked {
        let (all, mut old) = (!ALWAYS_OPEN, 0u64);
        let _ = sys!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut old, 8usize);
        Blocked(old)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let e = errno();
        let _ = sys!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const self.0, 0usize, 8usize);
        set_errno(e);
    }
}

/// Can these bytes of the program be read? Asked of the kernel, by a call that changes nothing: its first argument is
/// wrong, but the set is fetched before that is looked at.
pub fn readable(addr: u64, len: usize) -> bool {
    if len == 0 {
        return true;
    }
    let Some(last) = addr.checked_add(len as u64 - 1) else { return false };
    let mut at = addr & !7;
    loop {
        // Null is no set at all.
        let r = sys!(SYS_rt_sigprocmask, 99, at.max(8) as usize, 0usize, 8usize);
        if r == Err(libc::EFAULT) {
            return false;
        }
        at = (at & !4095) + 4096;
        if at > last || at == 0 {
            return true;
        }
    }
}
