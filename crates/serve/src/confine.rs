//! A server may compute, use its memory and what it was given, and nothing else: no new files, programs or connections.
//!
//! What it is not allowed fails with EPERM; it is not killed, so that a library that only tries something does no harm.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// Calls that are allowed whatever their arguments.
const ALLOWED: &[libc::c_long] = &[
    // What it was given.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_readlinkat,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    // Memory, and what is made of it.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_eventfd2,
    libc::SYS_membarrier,
    // Threads and signals of its own.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_clone3,
    // The time, and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
];

fn wrong(e: impl Display) -> io::Error {
    io::Error::other(format!("seccomp: {e}"))
}

/// An argument that has these bits of `mask`.
fn argument(n: u8, mask: u64, value: u64) -> io::Result<Vec<SeccompRule>> {
    let c = SeccompCondition::new(n, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value);
    Ok(vec![SeccompRule::new(vec![c.map_err(wrong)?]).map_err(wrong)?])
}

fn install(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    other: SeccompAction,
    these: SeccompAction,
) -> io::Result<()> {
    let machine = std::env::consts::ARCH.try_into().map_err(wrong)?;
    let filter = SeccompFilter::new(rules, other, these, machine).map_err(wrong)?;
    let program: BpfProgram = filter.try_into().map_err(wrong)?;
    // This sets no_new_privs first.
    apply_filter(&program).map_err(wrong)
}

/// A vCPU takes several descriptors here where it takes one of its client's.
fn raise_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut l = getrlimit(Resource::Nofile);
    l.current = l.maximum;
    // Where it may not be raised it stays.
    let _ = setrlimit(Resource::Nofile, l);
}

/// Confines this process, before it starts threads.
pub fn confine() -> io::Result<()> {
    raise_limit();
    // A clone whose flags are in memory cannot be judged: libc takes the other one then.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let no = |e: i32| SeccompAction::Errno(e as u32);
    install(clone3, SeccompAction::Allow, no(libc::ENOSYS))?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|n| (*n, Vec::new())).collect();
    // Threads, no processes.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, argument(0, thread, thread)?);
    // Files are only read (schedstat, fdinfo).
    let writes = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;
    rules.insert(libc::SYS_openat, argument(2, writes, 0)?);
    // Faults of its own instructions, and requests on what hears of them.
    rules.insert(libc::SYS_userfaultfd, argument(0, 1, 1)?);
    rules.insert(libc::SYS_ioctl, argument(1, 0xff00, 0xaa00)?);
    // Names of threads.
    rules.insert(libc::SYS_prctl, argument(0, u64::MAX, libc::PR_SET_NAME as u64)?);
    // Its own death, as of a panic while panicking.
    rules.insert(libc::SYS_tgkill, argument(2, u64::MAX, libc::SIGABRT as u64)?);
    install(rules, no(libc::EPERM), SeccompAction::Allow)
}
