//! Memory map, device tree, loader, event loop: the virtual machine monitor.
//!
//! 1. The CPU is reached through `ulna-kvm-backend`'s traits only: nothing here knows whether it is software.
//! 2. The board is QEMU's `virt` ([`layout`]); what differs from run to run is in its device tree ([`fdt`]).
//! 3. Everything that can be wrong with what a user gives ends in one sentence and an [`ExitStatus`].
#![forbid(unsafe_code)]

mod board;
mod bus;
mod config;
mod console;
pub mod control;
mod cpu;
mod error;
mod exit;
pub mod fdt;
mod flash;
mod gate;
mod gdb;
pub mod identity;
pub mod layout;
pub mod loader;
pub mod memory;
pub mod moves;
mod power;
mod run;
pub mod services;
mod signals;
mod suspend;
mod vcpu;
mod waker;

pub use board::Outside;
pub use config::{Clock, Config, CpuSettings, Disk, GicVersion, Kernel, Net, Serial};
pub use error::Error;
pub use exit::{ExitStatus, TABLE as EXIT_CODES};
pub use gdb::Address as GdbAddress;
pub use run::{Arrived, run, run_arrived, run_incoming};
pub use services::{Services, Target};
pub use signals::on_interrupt;
