//! What the API tells of a machine.

use super::Machine;
use crate::power::State as Power;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// Whether guests' time passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// It is being built, or torn down for a reset or the end.
    Starting,
    /// It does.
    Running,
    /// It does not.
    Paused,
    /// The guest sleeps (PSCI SYSTEM_SUSPEND) until an interrupt or a resume wakes it.
    Suspended,
}

/// How far a vCPU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VcpuPower {
    /// The guest has it on.
    On,
    /// The guest has it off.
    Off,
    /// Between off and on.
    Starting,
    /// This KVM keeps it to itself.
    Unknown,
}

/// Why a vCPU left KVM_RUN, how often.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Exits {
    /// Reads of devices.
    pub mmio_read: u64,
    /// Writes to devices.
    pub mmio_write: u64,
    /// Hypercalls that come to the VMM.
    pub hypercall: u64,
    /// Kicks.
    pub interrupted: u64,
}

/// A vCPU.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VcpuInfo {
    /// Number.
    pub id: u32,
    /// Affinity fields of MPIDR_EL1.
    pub mpidr: u64,
    /// Whether the guest may switch it on.
    pub enabled: bool,
    /// How far it is.
    pub power: VcpuPower,
    /// Its thread on the host; none before the guest switched it on.
    pub thread: Option<u32>,
    /// Why it left KVM_RUN.
    pub exits: Exits,
}

/// A machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Info {
    /// Name.
    pub name: String,
    /// State.
    pub state: RunState,
    /// Version of ulna.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Nanoseconds since the process started it, pauses included.
    pub uptime_ns: u64,
    /// Resets by the guest.
    pub resets: u64,
    /// Name of the host's profile.
    pub profile: String,
    /// `hw` or `soft`.
    pub policy: String,
    /// `jit`, `interp` or `check`.
    pub engine: String,
    /// `host` or `insn`.
    pub clock: String,
    /// Version of the interrupt controller; 0 while starting.
    pub gic: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// vCPUs that were enabled at the start.
    pub cpus: u32,
    /// Firmware services: a version, or `on` or `off`.
    pub services: BTreeMap<String, String>,
    /// All vCPUs.
    pub vcpus: Vec<VcpuInfo>,
}

impl Machine {
    /// What there is to tell.
    pub(super) fn info(&self) -> Info {
        let (life, paused, lives) = {
            let s = self.state();
            (s.life.clone(), s.paused, s.lives)
        };
        let state = match (&life, paused) {
            (None, _) => RunState::Starting,
            (Some(_), true) => RunState::Paused,
            (Some(life), false) if life.suspend.is_suspended() => RunState::Suspended,
            (Some(_), false) => RunState::Running,
        };
        Info {
            name: self.name.clone(),
            state,
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_ns: u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX),
            resets: lives.saturating_sub(1),
            profile: self.options.profile.clone(),
            policy: self.options.policy.clone(),
            engine: self.options.engine.clone(),
            clock: self.clock.into(),
            gic: life.as_ref().map_or(0, |l| l.gic),
            memory: self.memory,
            cpus: self.cpus,
            services: life.as_ref().map(|l| l.services.clone()).unwrap_or_default(),
            vcpus: life.as_ref().map(|l| l.vcpus()).unwrap_or_default(),
        }
    }
}

impl super::Life {
    /// All vCPUs.
    pub(super) fn vcpus(&self) -> Vec<VcpuInfo> {
        let table = self.power.as_ref().map(|p| p.view());
        let vcpu = |(id, (mpidr, tally)): (u32, (&u64, &crate::vcpu::Tally))| {
            let slot = table.as_ref().and_then(|t| t.get(id as usize));
            let get = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
            VcpuInfo {
                id,
                mpidr: mpidr & 0xff_00ff_ffff,
                enabled: slot.is_none_or(|s| s.1),
                power: match slot.map(|s| s.2) {
                    Some(Power::On) => VcpuPower::On,
                    Some(Power::Off) => VcpuPower::Off,
                    Some(Power::Starting(_)) => VcpuPower::Starting,
                    None => VcpuPower::Unknown,
                },
                thread: Some(tally.thread.load(Ordering::Relaxed)).filter(|t| *t != 0),
                exits: Exits {
                    mmio_read: get(&tally.reads),
                    mmio_write: get(&tally.writes),
                    hypercall: get(&tally.calls),
                    interrupted: get(&tally.interruptions),
                },
            }
        };
        (0u32..).zip(self.mpidrs.iter().zip(self.tallies.iter())).map(vcpu).collect()
    }
}
