//! GICv2, GICv3, ITS and timer comparators as pure state machines.
//!
//! What a guest sees is KVM's in-kernel vGIC (Linux 6.12), whose answers are recorded in
//! `tests/data`. Nothing here locks, waits or knows of file descriptors.
//!
//! Rooms, from the bottom: [`irq`] is one interrupt; [`cpuif`] the priority machine of one CPU
//! interface; [`redist`] a vCPU's private interrupts, the SPIs resident at it, its LPIs and its CPU
//! interface; [`dist`] the SPIs; [`its`] message translation. [`Gic`] owns all of them and routes.
//!
//! An SPI's state is in exactly one place: at the distributor while nothing happens, at the
//! redistributor of its target while it can be taken or is active. So acknowledge and
//! end-of-interrupt touch one redistributor only. The distributor reaches redistributors through
//! the trait [`redist::Redists`], never the other way round: a redistributor answers by
//! [`redist::Message`]s. A caller that wants one lock per part implements that trait with locks and
//! has the order distributor before redistributor for free.

#![forbid(unsafe_code)]

pub mod bank;
pub mod cpuif;
pub mod dist;
mod dist_regs;
mod gic;
mod gicc;
mod icc;
mod identity;
pub mod irq;
pub mod its;
pub mod lpi;
pub mod redist;
pub mod redist_regs;
pub mod state;
mod sysreg;
pub mod timer;
mod types;

pub use gic::{Gic, has_user_register};
pub use identity::{CpuIdentity, DistIdentity};
pub use sysreg::IccReg;
pub use types::{
    Affinity, GicConfig, GicError, GuestMemory, Lines, MAX_VCPUS, MAX_VCPUS_V2, MemoryError, MsiError,
    NoMemory, Region, VcpuSet, Version,
};
