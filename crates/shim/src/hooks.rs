//! The functions that stand before libc's.
//!
//! Those that are variadic in C are not here: on arm64 and x86-64 Linux the arguments in question come in the same registers.

use std::ffi::{c_char, c_int, c_void};

use ulna_kvm_abi::ioctl::{TYPE, on};
use ulna_kvm_abi::wire::{Request, op};

use crate::call::{self, Exchange};
use crate::names::{Name, look};
use crate::real::{self, Blocked, Fd, set_errno, sys};
use crate::table::{self, STATS};
use crate::{faults, memory, server, stop, vcpu_map};

fn answer(r: Result<c_int, c_int>) -> c_int {
    r.unwrap_or_else(|e| {
        set_errno(e);
        -1
    })
}

fn pointer(r: Result<usize, c_int>) -> *mut c_void {
    match r {
        Ok(p) => p as *mut c_void,
        Err(e) => {
            set_errno(e);
            libc::MAP_FAILED
        }
    }
}

fn cloexec(flags: c_int) -> u32 {
    if flags & libc::O_CLOEXEC != 0 { libc::MFD_CLOEXEC } else { 0 }
}

/// Opens what is not a file of the host.
fn open_special(name: Name, flags: c_int) -> Result<c_int, c_int> {
    match name {
        Name::Kvm => {
            let fd = real::memory_file(c"ulna-kvm", cloexec(flags))?;
            let _blocked = Blocked::new();
            server::connection()?;
            table::insert(fd.0, on::SYSTEM, 0);
            Ok(fd.into_raw())
        }
        Name::Parameter(text) if flags & libc::O_ACCMODE == libc::O_RDONLY => {
            let fd = real::memory_file(c"ulna-parameter", cloexec(flags))?;
            sys!(SYS_pwrite64, fd.0, text.as_ptr(), text.len(), 0i64)?;
            Ok(fd.into_raw())
        }
        Name::Parameter(_) => Err(libc::EACCES),
        Name::Missing | Name::Other => Err(libc::ENOENT),
    }
}

/// Defines functions that C programs find before libc's. In tests they have no C name.
macro_rules! hooks {
    ($($(#[$m:meta])* fn $name:ident($($arg:ident: $t:ty),* $(,)?) -> $r:ty $body:block)*) => {
        $(
            $(#[$m])*
            /// # Safety
            /// As libc's.
            #[cfg_attr(not(test), unsafe(no_mangle))]
            pub unsafe extern "C" fn $name($($arg: $t),*) -> $r $body
        )*
    };
}

hooks! {
    /// `open`.
    fn open(path: *const c_char, flags: c_int, mode: usize) -> c_int {
        // SAFETY: the caller's string.
        match unsafe { look(path) } {
            // SAFETY: the caller's arguments.
            Name::Other => unsafe { real::open(path, flags, mode) },
            name => answer(open_special(name, flags)),
        }
    }

    /// `open64`.
    fn open64(path: *const c_char, flags: c_int, mode: usize) -> c_int {
        // SAFETY: the caller's arguments.
        unsafe { open(path, flags | libc::O_LARGEFILE, mode) }
    }

    /// `open`, as fortified programs call it.
    fn __open_2(path: *const c_char, flags: c_int) -> c_int {
        // SAFETY: the caller's arguments.
        unsafe { open(path, flags, 0) }
    }

    /// `open64`, as fortified programs call it.
    fn __open64_2(path: *const c_char, flags: c_int) -> c_int {
        // SAFETY: the caller's arguments.
        unsafe { open64(path, flags, 0) }
    }

    /// `openat`.
    fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: usize) -> c_int {
        // SAFETY: the caller's string.
        match unsafe { look(path) } {
            // SAFETY: the caller's arguments.
            Name::Other => unsafe { real::openat(dir, path, flags, mode) },
            name => answer(open_special(name, flags)),
        }
    }

    /// `openat64`.
    fn openat64(dir: c_int, path: *const c_char, flags: c_int, mode: usize) -> c_int {
        // SAFETY: the caller's arguments.
        unsafe { openat(dir, path, flags | libc::O_LARGEFILE, mode) }
    }

    /// `openat`, as fortified programs call it.
    fn __openat_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
        // SAFETY: the caller's arguments.
        unsafe { openat(dir, path, flags, 0) }
    }

    /// `access`.
    fn access(path: *const c_char, mode: c_int) -> c_int {
        // SAFETY: the caller's string.
        match unsafe { look(path) } {
            // SAFETY: the caller's arguments.
            Name::Other => unsafe { real::access(path, mode) },
            Name::Kvm if mode & libc::X_OK == 0 => 0,
            Name::Parameter(_) if mode & (libc::X_OK | libc::W_OK) == 0 => 0,
            Name::Missing => answer(Err(libc::ENOENT)),
            _ => answer(Err(libc::EACCES)),
        }
    }

    /// `faccessat`.
    fn faccessat(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int {
        // SAFETY: the caller's string.
        match unsafe { look(path) } {
            // SAFETY: the caller's arguments.
            Name::Other => unsafe { real::faccessat(dir, path, mode, flags) },
            // SAFETY: the caller's arguments.
            _ => unsafe { access(path, mode) },
        }
    }

    /// `stat`.
    fn stat(path: *const c_char, buf: *mut libc::stat) -> c_int {
        // SAFETY: the caller's arguments.
        unsafe { special_stat(path, buf, || real::stat(path, buf)) }
    }

    /// `lstat`.
    fn lstat(path: *const c_char, buf: *mut libc::stat) -> c_int {
        // SAFETY: the caller's arguments.
        unsafe { special_stat(path, buf, || real::lstat(path, buf)) }
    }

    /// `fstatat`.
    fn fstatat(dir: c_int, path: *const c_char, buf: *mut libc::stat, flags: c_int) -> c_int {
        // SAFETY: the caller's arguments.
        unsafe { special_stat(path, buf, || real::fstatat(dir, path, buf, flags)) }
    }

    /// `fstat`: `/dev/kvm` is a character device.
    fn fstat(fd: c_int, buf: *mut libc::stat) -> c_int {
        // SAFETY: the caller's arguments.
        let r = unsafe { real::fstat(fd, buf) };
        if r == 0 && table::known(fd) && table::get(fd).is_some_and(|o| o.kind() == on::SYSTEM) {
            // SAFETY: just filled in.
            be_device(unsafe { &mut *buf });
        }
        r
    }

    /// `close`.
    fn close(fd: c_int) -> c_int {
        faults::remove(fd);
        if table::known(fd) {
            table::remove(fd);
        } else if table::hidden(fd) {
            return answer(Err(libc::EBADF));
        }
        // SAFETY: the caller's arguments.
        unsafe { real::close(fd) }
    }

    /// `close_range`: what is the library's own stays.
    fn close_range(first: u32, last: u32, flags: c_int) -> c_int {
        const SET_CLOEXEC: c_int = 4;
        if flags & SET_CLOEXEC != 0 || first > last {
            // SAFETY: the caller's arguments.
            return unsafe { real::close_range(first, last, flags) };
        }
        let most = last.min(table::MOST as u32 - 1);
        let mut start = first;
        for fd in first..=most {
            if table::hidden(fd as c_int) {
                if start < fd {
                    // SAFETY: the caller's arguments.
                    unsafe { real::close_range(start, fd - 1, flags) };
                }
                start = fd + 1;
            } else if table::known(fd as c_int) {
                table::remove(fd as c_int);
            }
        }
        // SAFETY: the caller's arguments.
        if start <= last { unsafe { real::close_range(start, last, flags) } } else { 0 }
    }

    /// `dup`.
    fn dup(fd: c_int) -> c_int {
        // SAFETY: the caller's arguments.
        let new = unsafe { real::dup(fd) };
        if new >= 0 && table::known(fd) {
            table::duplicate(fd, new);
        }
        new
    }

    /// `dup2`.
    fn dup2(fd: c_int, to: c_int) -> c_int {
        // SAFETY: the caller's arguments.
        let new = unsafe { real::dup2(fd, to) };
        if new >= 0 && new != fd && (table::known(fd) || table::known(new)) {
            table::duplicate(fd, new);
        }
        new
    }

    /// `dup3`.
    fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
        // SAFETY: the caller's arguments.
        let new = unsafe { real::dup3(fd, to, flags) };
        if new >= 0 && (table::known(fd) || table::known(new)) {
            table::duplicate(fd, new);
        }
        new
    }

    /// `fcntl`.
    fn fcntl(fd: c_int, command: c_int, arg: usize) -> c_int {
        // SAFETY: the caller's arguments.
        let r = unsafe { real::fcntl(fd, command, arg) };
        if r >= 0 && matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) && table::known(fd) {
            table::duplicate(fd, r);
        }
        r
    }

    /// `fcntl64`.
    fn fcntl64(fd: c_int, command: c_int, arg: usize) -> c_int {
        // SAFETY: the caller's arguments.
        unsafe { fcntl(fd, command, arg) }
    }

    /// `ioctl`.
    fn ioctl(fd: c_int, request: usize, arg: usize) -> c_int {
        if table::known(fd)
            && let Some(o) = table::get(fd)
        {
            // The kernel takes 32 bits; what every file knows is not KVM's.
            let number = request as u32;
            if number >> 8 & 0xff == TYPE || o.kind() == on::VCPU {
                return answer(call::ioctl(&o, fd, number, arg as u64));
            }
            return match request as libc::Ioctl {
                // SAFETY: the caller's arguments.
                libc::FIOCLEX | libc::FIONCLEX => unsafe { real::ioctl(fd, request, arg) },
                _ => answer(Err(libc::ENOTTY)),
            };
        }
        if request as u32 >> 8 & 0xff == TYPE {
            return answer(strange(fd, request, arg));
        }
        if request as u32 >> 8 & 0xff == 0xaa && faults::known(fd) {
            return answer(faults::ioctl(fd, request as u32, arg as u64));
        }
        // SAFETY: the caller's arguments.
        unsafe { real::ioctl(fd, request, arg) }
    }

    /// `syscall`: of the calls that programs make so, `userfaultfd` is the server's.
    fn syscall(n: usize, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        if n == libc::SYS_userfaultfd as usize {
            return answer(faults::open(a as c_int)) as isize;
        }
        // SAFETY: the caller's arguments.
        unsafe { real::syscall(n, a, b, c, d, e, f) }
    }

    /// `mmap`.
    fn mmap(addr: *mut c_void, len: usize, prot: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void {
        if flags & libc::MAP_ANONYMOUS == 0
            && table::known(fd)
            && let Some(o) = table::get(fd)
        {
            return pointer(vcpu_map::map(&o, fd, (addr as usize, len, prot, flags, offset)));
        }
        pointer(memory::map(addr as usize, len, prot, flags, fd, offset))
    }

    /// `mmap64`.
    fn mmap64(addr: *mut c_void, len: usize, prot: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void {
        // SAFETY: the caller's arguments.
        unsafe { mmap(addr, len, prot, flags, fd, offset) }
    }

    /// `munmap`.
    fn munmap(addr: *mut c_void, len: usize) -> c_int {
        answer(memory::unmap(addr as usize, len).map(|r| r as c_int))
    }

    /// `mremap`.
    fn mremap(addr: *mut c_void, old: usize, new: usize, flags: c_int, to: *mut c_void) -> *mut c_void {
        pointer(memory::remap(addr as usize, old, new, flags, to as usize))
    }

    /// `mprotect`.
    fn mprotect(addr: *mut c_void, len: usize, prot: c_int) -> c_int {
        answer(memory::protect(addr as usize, len, prot).map(|r| r as c_int))
    }

    /// `madvise`.
    fn madvise(addr: *mut c_void, len: usize, advice: c_int) -> c_int {
        answer(memory::advise(addr as usize, len, advice).map(|r| r as c_int))
    }

    /// `read`.
    fn read(fd: c_int, buf: *mut c_void, n: usize) -> isize {
        if table::known(fd)
            && let Some(r) = read_ours(fd, buf, n, u64::MAX)
        {
            return r;
        }
        // SAFETY: the caller's arguments.
        let r = unsafe { real::read(fd, buf, n) };
        if r > 0 && faults::known(fd) {
            // SAFETY: so much was read.
            faults::translate(fd, unsafe { std::slice::from_raw_parts_mut(buf.cast(), r as usize) });
        }
        r
    }

    /// `pread`.
    fn pread(fd: c_int, buf: *mut c_void, n: usize, offset: i64) -> isize {
        if table::known(fd)
            && let Some(r) = read_ours(fd, buf, n, offset as u64 & i64::MAX as u64)
        {
            return r;
        }
        // SAFETY: the caller's arguments.
        unsafe { real::pread(fd, buf, n, offset) }
    }

    /// `pread64`.
    fn pread64(fd: c_int, buf: *mut c_void, n: usize, offset: i64) -> isize {
        // SAFETY: the caller's arguments.
        unsafe { pread(fd, buf, n, offset) }
    }

    /// `pthread_sigmask`: this library's own signal is never blocked.
    fn pthread_sigmask(how: c_int, set: *const libc::sigset_t, old: *mut libc::sigset_t) -> c_int {
        // SAFETY: the caller's arguments.
        unsafe { with_open(set, how, |set| real::pthread_sigmask(how, set, old)) }
    }

    /// `sigprocmask`.
    fn sigprocmask(how: c_int, set: *const libc::sigset_t, old: *mut libc::sigset_t) -> c_int {
        // SAFETY: the caller's arguments.
        unsafe { with_open(set, how, |set| real::sigprocmask(how, set, old)) }
    }
}

/// A request of KVM on a descriptor that the table does not know: it may have been inherited, or have come from another
/// process.
fn strange(fd: c_int, request: usize, arg: usize) -> Result<c_int, c_int> {
    sys!(SYS_fcntl, fd, libc::F_GETFD)?;
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    if link.as_os_str() == "/memfd:ulna-kvm (deleted)" {
        table::insert(fd, on::SYSTEM, 0);
        let o = table::get(fd).ok_or(libc::EBADF)?;
        return call::ioctl(&o, fd, request as u32, arg as u64);
    }
    // SAFETY: the caller's arguments.
    match unsafe { real::ioctl(fd, request, arg) } {
        // An emulator knows no request of KVM.
        -1 if real::errno() == libc::ENOSYS => Err(libc::ENOTTY),
        -1 => Err(real::errno()),
        r => Ok(r),
    }
}

/// A set of signals to block, without this library's own.
///
/// # Safety
/// `set` is null or a set.
unsafe fn with_open(
    set: *const libc::sigset_t,
    how: c_int,
    f: impl FnOnce(*const libc::sigset_t) -> c_int,
) -> c_int {
    if set.is_null() || how == libc::SIG_UNBLOCK {
        return f(set);
    }
    // SAFETY: the caller's.
    let mut copy = unsafe { *set };
    // SAFETY: a set.
    unsafe { libc::sigdelset(&mut copy, stop::SIGNAL) };
    f(&copy)
}

/// A file of statistics is read; other descriptors of ours cannot be.
fn read_ours(fd: c_int, buf: *mut c_void, n: usize, offset: u64) -> Option<isize> {
    let o = table::get(fd)?;
    let r = if o.kind() != STATS {
        Err(libc::EINVAL)
    } else if !o.ours() {
        Err(libc::EIO)
    } else {
        let n = n.min(1 << 20) as u64;
        let mut e = Exchange::new(Request { op: op::READ, arg: n, extra: offset, ..Request::default() });
        e.comes_out(buf as u64, n);
        let _blocked = Blocked::new();
        call::exchange(&o, fd, &mut e).map(|r| r.result as isize)
    };
    Some(match r {
        Ok(n) if n >= 0 => n,
        Ok(e) => {
            set_errno(-e as c_int);
            -1
        }
        Err(e) => {
            set_errno(e);
            -1
        }
    })
}

/// Makes a file's description that of `/dev/kvm`.
fn be_device(s: &mut libc::stat) {
    s.st_mode = libc::S_IFCHR | 0o666;
    s.st_rdev = libc::makedev(10, 232);
    s.st_size = 0;
    s.st_nlink = 1;
}

/// # Safety
/// As `stat`.
unsafe fn special_stat(path: *const c_char, buf: *mut libc::stat, f: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: the caller's string.
    let name = unsafe { look(path) };
    match name {
        Name::Other => f(),
        Name::Missing => answer(Err(libc::ENOENT)),
        name => {
            let file = match name {
                Name::Parameter(_) => open_special(name, libc::O_RDONLY | libc::O_CLOEXEC),
                _ => real::memory_file(c"ulna-kvm", libc::MFD_CLOEXEC).map(Fd::into_raw),
            };
            let fd = match file {
                Ok(fd) => Fd(fd),
                Err(e) => return answer(Err(e)),
            };
            // SAFETY: the caller's buffer.
            let r = unsafe { real::fstat(fd.0, buf) };
            if r == 0 && name == Name::Kvm {
                // SAFETY: just filled in.
                be_device(unsafe { &mut *buf });
            }
            r
        }
    }
}
