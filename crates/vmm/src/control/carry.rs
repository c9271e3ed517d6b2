//! Snapshots of a machine that runs.

use super::{Life, Machine, PATIENCE};
use crate::moves::live::source::{self, Outcome};
use crate::moves::live::{Plan, Status};
use crate::moves::snapshot::{Draft, Report, Stopwatch};
use crate::moves::{MoveError, Origins, Parts, Standing, State};
use serde::{Deserialize, Serialize};
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use ulna_kvm_backend::Kicker;
use ulna_stream::{Phase, Policy};

/// What to take a snapshot of, and where to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The directory: an absolute path.
    pub dir: PathBuf,
    /// The machine ends afterwards, without having gone on.
    #[serde(default)]
    pub stop: bool,
    /// Return without making the files durable.
    #[serde(default)]
    pub no_sync: bool,
}

fn failed(phase: Phase, why: impl Into<String>) -> MoveError {
    MoveError { phase, why: why.into() }
}

impl Machine {
    /// What tells of this host.
    pub(super) fn origins(&self) -> Origins {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        // The standard library's hasher begins with what the host's random generator gave.
        let word = |n: u8| RandomState::new().hash_one((n, now.as_nanos())).to_le_bytes();
        let mut token = [0; 16];
        token[..8].copy_from_slice(&word(0));
        token[8..].copy_from_slice(&word(1));
        Origins {
            profile: self.options.profile.clone(),
            policy: if self.options.policy == "soft" { Policy::Soft } else { Policy::Hw },
            kernel: self.options.kernel,
            token,
            now: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// The life and its parts, if it can be moved at all.
    pub(super) fn movable(&self) -> Result<(Arc<Life>, Arc<Parts>), MoveError> {
        let life = self.life().ok_or_else(|| failed(Phase::Connect, "the machine is starting, or ends"))?;
        let parts =
            life.parts.clone().ok_or_else(|| failed(Phase::Connect, "the machine cannot be moved"))?;
        if parts.config.gdb.is_some() {
            return Err(failed(Phase::Connect, "a debugger has the machine"));
        }
        Ok((life, parts))
    }

    /// Takes a snapshot. Whatever fails, the machine is afterwards as it was before.
    pub(super) fn snapshot(&self, order: &Order) -> Result<Report, MoveError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut watch = Stopwatch::start();
        let (life, parts) = self.movable()?;
        if !order.dir.is_absolute() {
            return Err(failed(Phase::Connect, format!("{} is no absolute path", order.dir.display())));
        }
        let mut draft = Draft::begin(&order.dir)?;
        watch.lap(Phase::Connect);
        let stopped = Instant::now();
        let was_paused = self.state().paused;
        let kick = || life.kickers.iter().for_each(Kicker::kick);
        life.gate.close(kick, PATIENCE).map_err(|n| {
            failed(
                Phase::Stop,
                format!("{n} vCPU(s) did not come to rest: a device or the debugger holds them"),
            )
        })?;
        parts.pause_devices();
        watch.lap(Phase::Stop);
        let standing = Standing { gate: &life.gate, power: life.power.as_ref(), parts: &parts };
        let taken =
            State::take(&standing, &self.origins(), true).and_then(|state| draft.write(&parts, state));
        watch.lap(Phase::State);
        let go_on = || {
            parts.resume_devices();
            if !was_paused {
                life.gate.open();
            }
        };
        if taken.is_err() || !order.stop {
            go_on();
        }
        let stopped_ms = stopped.elapsed().as_secs_f64() * 1e3;
        taken?;
        let memory = draft.memory;
        let kept = if order.no_sync { Ok(()) } else { draft.sync() };
        watch.lap(Phase::Sync);
        let kept = kept.and_then(|()| draft.publish());
        watch.lap(Phase::Publish);
        if let Err(e) = kept {
            if order.stop {
                go_on();
            }
            return Err(e);
        }
        Ok(Report { dir: order.dir.clone(), memory, phases: watch.phases, stopped_ms })
    }
}

/// How long a process whose machine is gone waits for somebody to ask how that went.
const SEEN: Duration = Duration::from_secs(2);

impl Machine {
    /// Is a move under way?
    pub(super) fn moving(&self) -> bool {
        self.state().migration.as_ref().is_some_and(|h| h.status().outcome.is_none())
    }

    /// Begins a move; it goes on by itself.
    pub(super) fn migrate(&self, plan: Plan) -> Result<(), String> {
        let (life, parts) = self.movable().map_err(|e| e.to_string())?;
        let handle = {
            let mut s = self.state();
            if s.paused {
                return Err("the machine is paused: resume it first, or take a snapshot".into());
            }
            if s.migration.as_ref().is_some_and(|h| h.status().outcome.is_none()) {
                return Err("the machine is on its way already".into());
            }
            s.migration.insert(Arc::default()).clone()
        };
        let machine = source::Machine {
            gate: life.gate.clone(),
            kickers: life.kickers.clone(),
            power: life.power.clone(),
            parts,
            origins: self.origins(),
        };
        let shared = self.shared.clone();
        let body = move || {
            let outcome = source::travel(&machine, &plan, &handle);
            tracing::info!("move: {outcome:?}");
            match outcome {
                Outcome::Moved => {
                    let begin = Instant::now();
                    while !handle.was_seen() && begin.elapsed() < SEEN {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    (life.quit)();
                }
                Outcome::Doubt => shared.lock().unwrap_or_else(PoisonError::into_inner).paused = true,
                _ => {}
            }
        };
        let spawned = std::thread::Builder::new().name("move".into()).spawn(body);
        spawned.map(drop).map_err(|e| {
            self.state().migration = None;
            format!("cannot start a thread: {e}")
        })
    }

    /// How far the move is, or how the last one ended.
    pub(super) fn migration(&self) -> Option<Status> {
        let handle = self.state().migration.clone();
        handle.map(|h| h.tell())
    }

    /// Stops a move; whether there is one.
    pub(super) fn cancel_migration(&self) -> bool {
        let moving = self.moving();
        if let Some(h) = self.state().migration.clone().filter(|_| moving) {
            h.cancel();
        }
        moving
    }

    /// A machine that stood still in doubt is let go on: whoever does that knows that it runs nowhere else.
    pub(super) fn end_doubt(&self, life: &Life) {
        let handle = self.state().migration.clone();
        let doubt = handle.is_some_and(|h| h.status().outcome == Some(Outcome::Doubt));
        if let (true, Some(parts)) = (doubt, &life.parts) {
            self.state().migration = None;
            if let Err(e) = parts.lend(false) {
                tracing::warn!("taking back what the machine has: {e}");
            }
            parts.resume_devices();
        }
    }
}
