//! Small A64 guest programs, assembled by the dynasm macros when the caller asks, so that no cross tool is needed.
//!
//! Each is a flat program for `--kernel-format raw`: it is loaded at RAM + 0x80000 (any 4 KiB boundary will do), entered
//! at its first byte with the MMU off and x0 pointing at the device tree, and ends with PSCI SYSTEM_OFF. [`calls`] is for a
//! bare vCPU and wants a table instead.
#![forbid(unsafe_code)]

mod asm;
mod builtin;
mod calls;
mod counter;
mod fields;
mod race;

pub use builtin::builtin;
pub use calls::{Answer, Calls, calls};
pub use counter::counter;
pub use race::{ROUNDS as RACES, race};
