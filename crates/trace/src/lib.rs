//! A KVM call as one line of text, like strace but with names.
//!
//! ```text
//! vcpu3.0: KVM_SET_ONE_REG(SCTLR_EL1 = 0x30d0198) = 0
//! vcpu3.0: KVM_RUN() = 0, MMIO write of 4 bytes at 0x9000000: 0x48
//! vm3: KVM_CREATE_VCPU(513) = EINVAL (a VM has at most 512 vCPUs)
//! ```
//!
//! Whoever carries out calls makes a [`CallRecord`] of each and gives it to a [`Tracer`]; [`Log`] is one that writes
//! lines. What is read and what is written is told as pieces of the caller's memory, by address, so that a record says
//! the same whether the call came from this process or another.
#![forbid(unsafe_code)]

mod attr;
mod call;
mod exit;
mod log;
mod mem;
mod names;

use std::time::Duration;

use ulna_kvm_abi::Errno;
use ulna_kvm_abi::ioctl::on;

pub use call::line;
pub use log::Log;
pub use names::{capability, exit_reason, vcpu_feature};

/// A descriptor, by what it stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fd {
    /// `/dev/kvm`.
    Kvm,
    /// A VM, by a number of the tracer's.
    Vm(u32),
    /// A vCPU: VM and id.
    Vcpu(u32, u32),
    /// A device: VM and KVM_DEV_TYPE_*.
    Device(u32, u32),
    /// Statistics.
    Stats,
}

impl Fd {
    /// As a bit of [`ulna_kvm_abi::ioctl::on`].
    pub fn kind(self) -> u8 {
        match self {
            Fd::Kvm => on::SYSTEM,
            Fd::Vm(_) => on::VM,
            Fd::Vcpu(..) => on::VCPU,
            Fd::Device(..) => on::DEVICE,
            Fd::Stats => 0,
        }
    }
}

impl std::fmt::Display for Fd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Fd::Kvm => f.write_str("kvm"),
            Fd::Vm(n) => write!(f, "vm{n}"),
            Fd::Vcpu(vm, id) => write!(f, "vcpu{vm}.{id}"),
            Fd::Device(vm, kind) => write!(f, "{}@vm{vm}", names::device(kind)),
            Fd::Stats => f.write_str("stats"),
        }
    }
}

/// Bytes of the caller's memory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Piece {
    /// Where they begin.
    pub addr: u64,
    /// What they are.
    pub bytes: Vec<u8>,
}

/// One call.
#[derive(Clone, Debug)]
pub struct CallRecord<'a> {
    /// When it began, from the start of the program.
    pub when: Duration,
    /// The caller's thread.
    pub thread: u32,
    /// On what.
    pub fd: Fd,
    /// The 32-bit number.
    pub request: u32,
    /// The argument word.
    pub arg: u64,
    /// The caller's memory that was read, as it was: the argument's structure, what it points to.
    pub read: &'a [Piece],
    /// The caller's memory that was written, as it is now.
    pub written: &'a [Piece],
    /// The `kvm_run` page before and after KVM_RUN.
    pub run: Option<(&'a [u8], &'a [u8])>,
    /// What the call made.
    pub opened: Option<Fd>,
    /// Its result; a refusal may carry its reason.
    pub result: Result<i32, Errno>,
}

/// Who is told of calls.
pub trait Tracer: Send + Sync {
    /// A call was carried out.
    fn call(&self, record: &CallRecord<'_>);
}
