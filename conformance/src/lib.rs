//! Foreign judges of ulna: differential CPU cases whose answers come from another implementation.
//!
//! `el0` holds cases of a few instructions at EL0, answered by `qemu-aarch64`; `cargo xtask diff-cpu` makes new ones, and
//! a recorded subset is replayed by `cargo test`. `el1` holds cases with translation tables, exceptions and system registers,
//! answered by `qemu-system-aarch64`; `cargo xtask diff-system` makes them.

pub mod el0;
pub mod el1;
pub mod el1_freedom;
pub mod el1_machine;
pub mod fuzz;
pub mod generate;
pub mod kicks;
pub mod kvm;
pub mod machine;
pub mod raw;
pub mod stress;
pub mod wire;
