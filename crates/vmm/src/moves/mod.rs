//! Machines that come and go: their whole state, as a snapshot or on its way to another host.
//!
//! [`state`] takes the state of a machine that stands still and puts it into a fresh one, [`gic`] knows the interrupt
//! controller's registers and their order, [`snapshot`] the files. The order of restoring is: VM, vCPUs, VM registers,
//! interrupt controller, memory, ITS tables, vCPU registers, devices, power.

mod blocked;
mod gic;
pub mod live;
pub mod snapshot;
mod state;

pub use blocked::{Blocked, hex, name as register_name};
pub use state::{Origins, Standing, State, set_vm_regs};

use crate::bus::Shared;
use crate::config::Config;
use crate::flash::Banks;
use crate::memory::{self, Memory};
use rustix::fs::{SeekFrom, seek};
use std::ops::Range;
use std::sync::Arc;
use thiserror::Error;
use ulna_devices::Carried;
use ulna_kvm_backend::{Device, Vm};
use ulna_stream::Phase;
use vm_memory::GuestMemoryRegion;

/// Why a snapshot or a move failed, and in which phase.
#[derive(Debug, Error)]
#[error("{phase}: {why}")]
pub struct MoveError {
    /// Where it was.
    pub phase: Phase,
    /// What happened.
    pub why: String,
}

/// An error of this phase.
pub(crate) fn fail(phase: Phase) -> impl Fn(String) -> MoveError {
    move |why| MoveError { phase, why }
}

/// A piece of a machine's memory.
pub struct Piece {
    /// `ram`, `flash0`, ...
    pub name: &'static str,
    /// Its slot, where the guest writes to it without asking.
    pub slot: Option<u32>,
    /// The memory.
    pub memory: Arc<Memory>,
    /// Its file holds what it had at first, not what it has.
    pub private: bool,
}

impl Piece {
    /// Bytes.
    #[allow(clippy::len_without_is_empty)] // none is empty
    pub fn len(&self) -> u64 {
        self.memory.len()
    }

    /// Guest address.
    pub fn start(&self) -> u64 {
        memory::range(&self.memory).start
    }

    /// Ranges, by offset, outside which it was never written and is zero.
    pub fn data(&self) -> Vec<Range<u64>> {
        let all = || Vec::from([Range { start: 0, end: self.len() }]);
        let Some(file) = self.memory.file_offset().filter(|_| !self.private) else { return all() };
        let mut ranges = Vec::new();
        let mut at = 0;
        while at < self.len() {
            let start = match seek(file.file(), SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(rustix::io::Errno::NXIO) => break,
                Err(_) => return all(),
            };
            let Ok(end) = seek(file.file(), SeekFrom::Hole(start)) else { return all() };
            ranges.push(start..end.min(self.len()));
            at = end;
        }
        ranges
    }
}

/// What a snapshot or a move needs of a machine beside its vCPUs.
pub struct Parts {
    /// What it was made from.
    pub config: Config,
    /// Features of its vCPUs.
    pub features: u32,
    /// The VM.
    pub vm: Arc<dyn Vm>,
    /// The GIC, then its ITS.
    pub gic: Vec<Arc<dyn Device>>,
    /// 2 or 3.
    pub gic_version: u8,
    /// MPIDR_EL1 of every vCPU.
    pub mpidrs: Vec<u64>,
    /// Its memory.
    pub pieces: Vec<Piece>,
    /// Its devices by address.
    pub devices: Vec<(u64, Shared<dyn Carried>)>,
    /// Its flash.
    pub banks: Banks,
}

impl Parts {
    /// Others may have what only one machine may have (`true`), or this machine takes it.
    pub fn lend(&self, away: bool) -> std::io::Result<()> {
        for (_, device) in &self.devices {
            crate::bus::lock(device).lend(away)?;
        }
        self.banks.lend(away)
    }

    /// Devices end what they do.
    pub fn pause_devices(&self) {
        self.devices.iter().for_each(|(_, d)| crate::bus::lock(d).pause());
    }

    /// Devices go on.
    pub fn resume_devices(&self) {
        self.devices.iter().for_each(|(_, d)| crate::bus::lock(d).resume());
    }
}
