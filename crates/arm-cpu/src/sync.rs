//! What PEs share is built of these: the standard library's, or, in the models of concurrent runs
//! (`RUSTFLAGS="--cfg loom"`, `cargo xtask models`), loom's.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
};
