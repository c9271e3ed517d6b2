//! Linux's KVM selftests: which there are, how they ended on a real KVM, and how they end here.
//!
//! A directory of them is run one program at a time ([`start`]), each by a launcher (`ulna exec`); what it did is
//! judged against the record ([`judge`]) and printed beside it ([`Report`]). The record is data, `recorded.toml`; nothing
//! here or in the engine knows a test by its name.
#![forbid(unsafe_code)]

mod judge;
mod recorded;
mod report;
mod start;

pub use judge::{Host, Verdict, judge};
pub use recorded::{Knows, Outcome, Real, Run, recorded};
pub use report::{Line, Report};
pub use start::{Ended, Launcher, Selection, run_all};
