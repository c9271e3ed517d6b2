//! What a server tells of the calls it carried out.

use std::time::Duration;

/// A part of the client's memory that went in or came out.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    /// Its address in the client.
    pub addr: u64,
    /// The bytes.
    pub data: &'a [u8],
}

/// A call that was carried out.
#[derive(Clone, Debug)]
pub struct CallRecord<'a> {
    /// Kind of descriptor (`ulna_kvm_abi::ioctl::on`; 0 for files of statistics).
    pub kind: u8,
    /// The server's number of the descriptor; 0 is `/dev/kvm`.
    pub object: u32,
    /// That of the VM it belongs to; 0 for `/dev/kvm`.
    pub vm: u32,
    /// What it is: the vCPU's id, the device's type, else 0.
    pub index: u32,
    /// The client's process.
    pub pid: u32,
    /// Number of the ioctl.
    pub request: u32,
    /// The argument word.
    pub arg: u64,
    /// What the client gave: the argument's structure first, then what it leads to.
    pub before: &'a [Bytes<'a>],
    /// What it got.
    pub after: &'a [Bytes<'a>],
    /// Start of `struct kvm_run` after a KVM_RUN, else empty.
    pub run: &'a [u8],
    /// Not negative, or minus an errno.
    pub result: i32,
    /// The sentence behind the errno, where there is one.
    pub reason: Option<&'a str>,
    /// How long it took.
    pub took: Duration,
    /// The server's number of what it made.
    pub made: Option<u32>,
}

/// Gets to know every call.
pub trait Tracer: Send + Sync {
    /// A call is over.
    fn call(&self, r: &CallRecord<'_>);
}
