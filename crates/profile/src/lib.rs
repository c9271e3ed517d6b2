//! Host profiles: the hardware that ulna plays, as data files with a source for every value.
//!
//! A profile says what the silicon, its firmware and its kernel answer; it holds no rules. `machine` computes
//! from it what a guest may see. All profiles of `profiles/` are embedded, so that the program needs no files;
//! [`Profile::parse`] reads others.
#![forbid(unsafe_code)]

mod builtin;
mod error;
mod file;
mod model;

pub use builtin::names;
pub use error::ProfileError;
pub use model::{
    Absent, Cache, Counter, Extra, Gic, KernelLevel, Kind, Memory, Mitigation, Mitigations, Pmu, Profile,
    RegValue, Source, Sve,
};
