//! Will it move? What blocks a guest on another host, all of it at once; what to mask so that it goes; the common
//! denominator of several hosts.
//!
//! 1. Nothing here knows a rule: every verdict asks `machine`, which the setter of `kvm-core` asks too, and the model of
//!    the interrupt controller itself. A test restores every pair of profiles for real and compares.
//! 2. All of it is told at once, with what would avoid it, and whether anybody has measured the values.
//! 3. Pure: hosts and guests in, verdicts out.
#![forbid(unsafe_code)]

mod avoid;
pub mod baseline;
mod blocker;
mod check;
pub mod cpu;
mod guest;
mod host;
pub mod matrix;

pub use blocker::{Answer, Avoid, Blocker, Class, Note, Plan, Verdict};
pub use check::plan;
pub use guest::{Gic, Guest};
pub use host::Host;
