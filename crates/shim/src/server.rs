//! The connection to this process's server.

use std::ffi::{CString, c_int};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use ulna_kvm_abi::structs::Wire;
use ulna_kvm_abi::wire::{ALONE_ENV, MAGIC, Request, SOCKET_ENV, VERSION, op};

use crate::call::{Exchange, send_all};
use crate::lock::Lock;
use crate::real::{Fd, sys};

/// Counts the processes from the first that was loaded.
static EPOCH: AtomicU32 = AtomicU32::new(1);
/// The connection; -1: none yet.
static CONNECTION: AtomicI32 = AtomicI32::new(-1);
/// Requests wait for one another.
static EXCHANGE: Lock<()> = Lock::new(());
/// What is sent is not mixed.
static SEND: Lock<()> = Lock::new(());
/// Where the server is; from before the program could change its environment.
static PATH: OnceLock<Option<CString>> = OnceLock::new();

/// Which process this is.
pub fn epoch() -> u32 {
    EPOCH.load(Ordering::Relaxed)
}

/// Is this a child of the process that was loaded?
pub fn forked() -> bool {
    epoch() != 1
}

fn path() -> Option<&'static CString> {
    let find = || CString::new(std::env::var_os(SOCKET_ENV)?.into_encoded_bytes()).ok();
    PATH.get_or_init(find).as_ref()
}

unsafe extern "C" fn before_fork() {
    EXCHANGE.take();
    SEND.take();
    crate::table::before_fork();
    crate::memory::before_fork();
}

unsafe extern "C" fn after_fork_parent() {
    crate::memory::after_fork();
    crate::table::after_fork();
    SEND.give();
    EXCHANGE.give();
}

unsafe extern "C" fn after_fork_child() {
    EPOCH.fetch_add(1, Ordering::Relaxed);
    // The parent's connection: it is to end when the parent ends.
    let old = CONNECTION.swap(-1, Ordering::Relaxed);
    if old >= 0 {
        crate::table::unhide(old);
        drop(Fd(old));
    }
    crate::memory::after_fork();
    crate::table::after_fork();
    SEND.give();
    EXCHANGE.give();
}

/// When the library is loaded.
pub extern "C" fn load() {
    let _ = path();
    if std::env::var_os(ALONE_ENV).is_some() {
        for name in [ALONE_ENV, "LD_PRELOAD"] {
            // SAFETY: the program has no other threads yet.
            unsafe { std::env::remove_var(name) };
        }
    }
    // SAFETY: functions of this library, which is never unloaded (it is in LD_PRELOAD).
    unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork_parent), Some(after_fork_child)) };
}

#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".init_array")]
static LOAD: extern "C" fn() = load;

fn connect() -> Result<Fd, c_int> {
    let path = path().ok_or(libc::ENODEV)?;
    let fd = sys!(SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)?;
    let fd = Fd(fd as c_int).hide();
    // SAFETY: all zero is an address.
    let mut addr: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    addr.sun_family = libc::AF_UNIX as _;
    let bytes = path.as_bytes_with_nul();
    if bytes.len() > addr.sun_path.len() {
        return Err(libc::ENODEV);
    }
    for (to, from) in addr.sun_path.iter_mut().zip(bytes) {
        *to = *from as _;
    }
    let len = std::mem::size_of::<libc::sockaddr_un>();
    // The socket is gone when `ulna exec` is.
    sys!(SYS_connect, fd.0, &raw const addr, len).map_err(|_| libc::ENODEV)?;
    let pid = sys!(SYS_getpid).unwrap_or(0) as u64;
    let hello = Request { op: op::HELLO, arg: pid, extra: VERSION, ..Request::default() };
    let reply = Exchange::new(hello).with(fd.0, None)?;
    if reply.result == 0 { Ok(fd) } else { Err(libc::EPROTO) }
}

/// The connection, made at need.
pub fn connection() -> Result<c_int, c_int> {
    let _one = EXCHANGE.lock();
    opened()
}

fn opened() -> Result<c_int, c_int> {
    let fd = CONNECTION.load(Ordering::Relaxed);
    if fd >= 0 {
        return Ok(fd);
    }
    let fd = connect()?.into_raw();
    CONNECTION.store(fd, Ordering::Relaxed);
    Ok(fd)
}

/// A request on the connection itself.
pub fn exchange(e: &mut Exchange) -> Result<ulna_kvm_abi::wire::Reply, c_int> {
    let _one = EXCHANGE.lock();
    e.with(opened()?, Some(&SEND))
}

/// Ends KVM_RUN number `run` of vCPU `serial`.
pub fn kick(serial: u32, run: u64) -> Result<(), c_int> {
    let fd = CONNECTION.load(Ordering::Relaxed);
    let head = Request { magic: MAGIC, op: op::KICK, arg: serial.into(), extra: run, ..Request::default() };
    let mut b = [0; Request::SIZE];
    head.to_bytes(&mut b);
    let _one = SEND.lock();
    let mut iov = [libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() }];
    send_all(fd, &mut iov, &[])
}
