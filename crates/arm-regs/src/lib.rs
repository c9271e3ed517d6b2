//! The tables: system registers, their encodings and fields, and the features that ID registers announce.
//!
//! Every fact about a register is one row here; ioctls, guest accesses, reset, masks, the planner and the docs
//! read it. The crate knows no I/O, no threads and no offsets.
#![forbid(unsafe_code)]

pub mod feature;
pub mod field;
pub mod history;
pub mod id;
pub mod row;
pub mod sysreg;

pub use feature::{Feat, FeatSet};
pub use field::Field;
pub use id::{IdField, IdReg};
pub use row::{Row, rows};
pub use sysreg::{Encoding, SysReg};
