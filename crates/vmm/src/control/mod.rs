//! The control API: HTTP/1.1 on the machine's Unix socket, described by `api/openapi.json`.
//!
//! One thread listens; each connection has a thread of its own, carries one request and has seconds for it ([`server`]).
//! [`http`] reads and writes, [`api`] has the routes, [`socket`] the places, [`client`] the other side.

mod api;
mod carry;
pub mod client;
mod http;
mod info;
mod server;
mod socket;

pub use carry::Order;
pub use info::{Exits, Info, RunState, VcpuInfo, VcpuPower};
pub use socket::{list, named, runtime_dir};

use crate::bus::{Shared, lock};
use crate::config::{Clock, Config};
use crate::error::Error;
use crate::gate::Gate;
use crate::moves::Parts;
use crate::moves::live::source::Handle;
use crate::power::Power;
use crate::suspend::Suspend;
use crate::vcpu::Tally;
use crate::waker::Waker;
use server::Server;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use ulna_devices::pl061::Gpio;
use ulna_kvm_backend::{Errno, Kicker};

/// The API's description.
pub const OPENAPI: &str = include_str!("../../../../api/openapi.json");

/// How long vCPU threads may take to come to rest: one may be held up by a device that waits for the host.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the socket is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// By the machine's name in the directory of sockets. A name that nobody asked for (`wanted` is false) is no reason
    /// to fail.
    Named {
        /// Somebody asked for it.
        wanted: bool,
    },
    /// There.
    Path(PathBuf),
}

/// What the control socket needs to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Where.
    pub place: Place,
    /// Name of the host's profile.
    pub profile: String,
    /// Policy.
    pub policy: String,
    /// What executes instructions.
    pub engine: String,
    /// Kernel whose KVM is played: major, minor.
    pub kernel: (u16, u16),
}

/// A machine as the API reaches it, from one reset to the next.
pub(crate) struct Life {
    pub gate: Arc<Gate>,
    pub kickers: Vec<Kicker>,
    pub power: Option<Arc<Power>>,
    pub suspend: Arc<Suspend>,
    pub tallies: Arc<Vec<Tally>>,
    pub gpio: Shared<Gpio>,
    /// Version of the interrupt controller.
    pub gic: u32,
    pub mpidrs: Vec<u64>,
    pub services: BTreeMap<String, String>,
    /// What a snapshot or a move needs.
    pub parts: Option<Arc<Parts>>,
    /// KVM_NMI on a vCPU.
    pub nmi: Box<dyn Fn(u32) -> Result<(), Errno> + Send + Sync>,
    /// Ends the machine.
    pub quit: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    life: Option<Arc<Life>>,
    paused: bool,
    /// Lives there were.
    lives: u64,
    /// Which vCPUs the last life left enabled.
    enabled: Vec<bool>,
    /// The move that is under way, or the last one.
    migration: Option<Arc<Handle>>,
}

/// What all connections share.
pub(crate) struct Machine {
    name: String,
    cpus: u32,
    memory: u64,
    clock: &'static str,
    options: Options,
    begin: Instant,
    shared: Arc<Mutex<State>>,
    /// Pause and resume one after the other.
    turn: Mutex<()>,
}

impl Machine {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn life(&self) -> Option<Arc<Life>> {
        self.state().life.clone()
    }

    /// Stops all vCPUs and the guest's clock; the number of threads that did not come in time.
    fn pause(&self) -> Result<(), usize> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let life = {
            let mut s = self.state();
            // A life that begins meanwhile begins at a stand.
            s.paused = true;
            s.life.clone()
        };
        let Some(life) = life else { return Ok(()) };
        let kick = || life.kickers.iter().for_each(Kicker::kick);
        life.gate.close(kick, PATIENCE).inspect_err(|_| self.state().paused = false)
    }

    /// Ends a pause; without one, wakes a guest that sleeps.
    fn resume(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (life, paused) = {
            let mut s = self.state();
            (s.life.clone(), std::mem::take(&mut s.paused))
        };
        match life {
            Some(life) if paused => {
                self.end_doubt(&life);
                life.gate.open();
            }
            Some(life) => drop(life.suspend.wake()),
            None => {}
        }
    }

    /// Presses the power key for as long as a person would.
    fn press_power_key(&self) {
        let Some(life) = self.life() else { return };
        lock(&life.gpio).set_input(crate::fdt::POWER_KEY_LINE, true);
        std::thread::sleep(Duration::from_millis(100));
        lock(&life.gpio).set_input(crate::fdt::POWER_KEY_LINE, false);
    }
}

/// The API while a machine, or one after the other, lives.
pub struct Control {
    machine: Arc<Machine>,
    server: Server,
}

impl Control {
    /// Listens. `None` when a socket that nobody asked for cannot be had.
    pub fn start(config: &Config, options: &Options) -> Result<Option<Control>, Error> {
        let machine = Arc::new(Machine {
            name: config.name.clone(),
            cpus: config.cpus,
            memory: config.memory,
            clock: match config.clock {
                Clock::Host => "host",
                Clock::Instructions => "insn",
            },
            options: options.clone(),
            begin: Instant::now(),
            shared: Arc::default(),
            turn: Mutex::default(),
        });
        let bound = match &options.place {
            Place::Path(path) => socket::bind(path),
            Place::Named { .. } => socket::bind_named(&config.name),
        };
        let server = bound.and_then(|socket| Server::start(socket, machine.clone(), Waker::new()?));
        match (server, &options.place) {
            (Ok(server), _) => Ok(Some(Control { machine, server })),
            (Err(e), Place::Named { wanted: false }) => {
                tracing::info!("no control socket: {e}");
                Ok(None)
            }
            (Err(e), _) => Err(e),
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.server.path()
    }

    /// Is a machine that starts now to stand still?
    pub fn paused(&self) -> bool {
        self.machine.state().paused
    }

    /// The machine that starts now is to stand still.
    pub(crate) fn begin_paused(&self) {
        self.machine.state().paused = true;
    }

    /// A life begins.
    pub(crate) fn attach(&self, life: Life) {
        let mut s = self.machine.state();
        if let Some(power) = &life.power {
            power.set_enabled(&s.enabled);
        }
        if s.paused {
            // Asked for after the gate was made, perhaps.
            let _ = life.gate.close(|| (), Duration::ZERO);
        }
        s.lives += 1;
        s.life = Some(Arc::new(life));
    }

    /// It is over.
    pub fn detach(&self) {
        let mut s = self.machine.state();
        let life = s.life.take();
        if let Some(power) = life.as_ref().and_then(|l| l.power.as_ref()) {
            s.enabled = power.enabled();
        }
    }

    /// Nobody is listened to any more, and the socket is gone.
    pub fn finish(&mut self) {
        self.server.finish();
    }
}

#[cfg(test)]
mod tests;
