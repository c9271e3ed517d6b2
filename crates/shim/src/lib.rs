//! The library that is preloaded into a program and hands its `/dev/kvm` to a server (decision 17).
//!
//! Loaded with `LD_PRELOAD`, it stands before libc's `open`, `ioctl`, `mmap` and their like. It claims `/dev/kvm`, and acts
//! on descriptors that came from there and on memory that becomes a guest's; everything else goes on to libc as it is. It
//! never falls back to a `/dev/kvm` of the host.
//!
//! Descriptors are real: `/dev/kvm` is a memory file, every other is an end of a socket whose other end the server holds.
// In tests the functions have no C names, and nothing calls them.
#![cfg_attr(test, allow(dead_code))]

mod call;
mod faults;
mod hooks;
mod lock;
mod memory;
mod names;
mod ranges;
mod real;
mod run;
mod server;
mod stop;
mod table;
mod vcpu_map;
