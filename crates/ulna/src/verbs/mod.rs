//! The verbs, one file each: the options, and what they mean to the rooms below.

pub mod baseline;
pub mod caps;
pub mod ctl;
pub mod demo;
pub mod exec;
pub mod hosts;
pub mod migrate;
pub mod plan;
pub mod profile;
pub mod regs;
pub mod run;
pub mod selftests;
pub mod shell;
pub mod snapshot;
