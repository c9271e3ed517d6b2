//! Foreign judges of ulna: differential CPU cases whose answers come from another implementation.
//!
//! `el0` holds cases of a few instructions at EL0, answered by `qemu-aarch64`; `cargo xtask diff-cpu` makes new ones, and
//! a recorded subset is replayed by `cargo test`.

pub mod el0;
pub mod machine;
