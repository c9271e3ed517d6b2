//! `/dev/kvm` for other processes.
//!
//! A client (the library of `crates/shim`, preloaded into a program, or [`client::Client`]) has one connection to a server
//! process of its own, and a channel for each descriptor it holds: a channel is a socket whose other end is the client's
//! descriptor, so that `dup`, `close`, `fork` and a client's death need no bookkeeping. Requests on a channel are carried
//! out one after the other by the channel's thread, on `ulna_kvm_core::raw`; KVM_RUN blocks it and is ended over the
//! connection. The frames are `ulna_kvm_abi::wire`; decision 17 says why it is built so.

pub mod client;
pub mod confine;
mod dispatch;
mod faults;
pub mod frame;
pub mod launch;
mod memory;
mod session;

pub use session::{Options, serve};
