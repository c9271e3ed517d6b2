//! The source of a live move.

use super::arrival::LAST;
use super::link::{Conn, NoConnection, Tls, is_end, words};
use super::pages::{self, Sender, Todo, Way};
use crate::gate::Gate;
use crate::moves::snapshot::Took;
use crate::moves::{MoveError, Origins, Parts, Standing, State, fail};
use crate::power::Power;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use ulna_kvm_backend::Kicker;
use ulna_stream::handover::{Finding, Message, Source};
use ulna_stream::{Phase, Section};

/// How long the destination may be silent.
const SILENCE: Duration = Duration::from_secs(20);
/// How long vCPU threads may take to come to rest.
const REST: Duration = Duration::from_secs(3);
/// How long a source in doubt asks.
const DOUBT: Duration = Duration::from_secs(30);
/// A guest that writes more than this share of what goes over is slowed down.
const KEEPS_UP: f64 = 0.5;
/// A guest keeps at least the rest of its time.
const BRAKE_MOST: f64 = 0.95;
/// One period of slowing down.
const BRAKE_PERIOD: Duration = Duration::from_millis(20);

/// What is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// HOST:PORT of the destination.
    pub to: String,
    /// Directory of certificates.
    #[serde(default)]
    pub tls: Option<PathBuf>,
    /// Milliseconds for which the guest may stand still.
    #[serde(default = "max_downtime")]
    pub max_downtime_ms: u64,
    /// Bytes a second at most.
    #[serde(default)]
    pub bandwidth: Option<u64>,
    /// Seconds after which a move that has not come to an end is given up.
    #[serde(default)]
    pub timeout_s: Option<u64>,
    /// Connections for memory.
    #[serde(default = "one")]
    pub streams: u16,
    /// Compress memory with zstd.
    #[serde(default)]
    pub zstd: bool,
    /// Ask the destination, and move nothing.
    #[serde(default)]
    pub dry_run: bool,
}

fn max_downtime() -> u64 {
    300
}

fn one() -> u16 {
    1
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The guest runs at the destination.
    Moved,
    /// The destination can have it; nothing was moved.
    Possible,
    /// The destination cannot have it; the guest runs here.
    Refused,
    /// It failed; the guest runs here.
    Failed,
    /// It was cancelled; the guest runs here.
    Cancelled,
    /// Nobody can say whether the destination runs the guest: it stands still here.
    Doubt,
}

/// A round of memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Bytes that were to be sent.
    pub bytes: u64,
    /// Milliseconds.
    pub ms: f64,
    /// Share of its time that the guest was kept from running.
    pub brake: f64,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Status {
    /// Where to.
    pub to: String,
    /// The present phase.
    pub phase: String,
    /// Rounds of memory so far.
    pub rounds: Vec<Round>,
    /// Bytes of memory sent.
    pub sent: u64,
    /// Bytes still to be sent, as known.
    pub remaining: u64,
    /// Bytes a second.
    pub rate: u64,
    /// Milliseconds for which the guest would stand still if it were stopped now.
    pub estimate_ms: Option<f64>,
    /// Share of its time that the guest is kept from running.
    pub brake: f64,
    /// Phases that ended.
    pub phases: Vec<Took>,
    /// Milliseconds for which the guest stood still, once it is known.
    pub downtime_ms: Option<f64>,
    /// Milliseconds since the beginning, at the end.
    pub total_ms: Option<f64>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why, one entry a reason.
    pub why: Vec<String>,
}

/// A move as others see and stop it.
#[derive(Default)]
pub struct Handle {
    status: Mutex<Status>,
    cancel: AtomicBool,
    seen: AtomicBool,
}

impl Handle {
    /// How far it is.
    pub fn status(&self) -> Status {
        self.lock().clone()
    }

    /// The same, and the end of it counts as known.
    pub fn tell(&self) -> Status {
        let s = self.status();
        if s.outcome.is_some() {
            self.seen.store(true, Ordering::SeqCst);
        }
        s
    }

    /// Has anybody heard how it ended?
    pub fn was_seen(&self) -> bool {
        self.seen.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it up, if it is not too late.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::SeqCst);
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }
}

/// The machine.
pub struct Machine {
    /// Where its vCPU threads wait.
    pub gate: Arc<Gate>,
    /// They come by when kicked.
    pub kickers: Vec<Kicker>,
    /// Its vCPUs without a thread.
    pub power: Option<Arc<Power>>,
    /// The rest.
    pub parts: Arc<Parts>,
    /// What tells of this host.
    pub origins: Origins,
}

impl Machine {
    fn stop(&self) -> Result<(), MoveError> {
        let kick = || self.kickers.iter().for_each(Kicker::kick);
        let late = |n| fail(Phase::Stop)(format!("{n} vCPU(s) did not come to rest"));
        self.gate.close(kick, REST).map_err(late)
    }

    fn state(&self, tables: bool) -> Result<State, MoveError> {
        let standing = Standing { gate: &self.gate, power: self.power.as_ref(), parts: &self.parts };
        State::take(&standing, &self.origins, tables)
    }
}

/// Why it did not come to its end.
enum Stopped {
    Failed(MoveError),
    Refused(Phase, Vec<String>),
    Cancelled(Phase),
}

impl From<MoveError> for Stopped {
    fn from(e: MoveError) -> Stopped {
        Stopped::Failed(e)
    }
}

struct Journey<'a> {
    m: &'a Machine,
    plan: &'a Plan,
    handle: &'a Handle,
    tls: Option<Tls>,
    phase: Phase,
    since: Instant,
    begin: Instant,
    stopped: Option<Instant>,
    logging: bool,
    lent: bool,
    source: Source,
}

/// Moves the machine. When this returns the guest runs here, or is the destination's ([`Outcome::Moved`]: the caller ends
/// the machine), or stands still in doubt.
pub fn travel(m: &Machine, plan: &Plan, handle: &Handle) -> Outcome {
    let now = Instant::now();
    handle.lock().to.clone_from(&plan.to);
    let mut j = Journey {
        m,
        plan,
        handle,
        tls: None,
        phase: Phase::Connect,
        since: now,
        begin: now,
        stopped: None,
        logging: false,
        lent: false,
        source: Source::Owner,
    };
    j.enter(Phase::Connect);
    let (outcome, why) = match j.go() {
        Ok(outcome) => (outcome, Vec::new()),
        Err(Stopped::Refused(phase, why)) => {
            (Outcome::Refused, why.into_iter().map(|w| format!("{phase}: {w}")).collect())
        }
        Err(Stopped::Cancelled(phase)) => (Outcome::Cancelled, vec![format!("{phase}: cancelled")]),
        Err(Stopped::Failed(e)) if j.source == Source::Doubt => (Outcome::Doubt, vec![e.to_string()]),
        Err(Stopped::Failed(e)) => (Outcome::Failed, vec![e.to_string()]),
    };
    let outcome = j.settle(outcome);
    let mut s = handle.lock();
    s.total_ms = Some(now.elapsed().as_secs_f64() * 1e3);
    s.why = why;
    s.brake = 0.0;
    s.outcome = Some(outcome);
    outcome
}

impl Journey<'_> {
    fn enter(&mut self, phase: Phase) {
        let now = Instant::now();
        let ms = now.duration_since(self.since).as_secs_f64() * 1e3;
        let mut s = self.handle.lock();
        if !s.phase.is_empty() {
            tracing::info!("move: {}: {ms:.1} ms", self.phase);
            s.phases.push(Took { phase: self.phase.name().into(), ms });
        }
        s.phase = phase.name().into();
        (self.phase, self.since) = (phase, now);
    }

    fn fail(&self, why: impl Into<String>) -> Stopped {
        Stopped::Failed(MoveError { phase: self.phase, why: why.into() })
    }

    /// The connection broke; the destination may have said why.
    fn broke(&self, conn: &mut Conn, e: &ulna_stream::Error) -> Stopped {
        if is_end(e) {
            let _ = conn.be_patient(Duration::from_secs(1));
            if let Ok(Message::Refuse(phase, why)) = conn.hear() {
                let phase = Phase::of(&phase).unwrap_or(self.phase);
                return Stopped::Refused(phase, why);
            }
        }
        self.fail(words(e))
    }

    fn check(&self, conn: &mut Conn) -> Result<(), Stopped> {
        if self.handle.cancelled() {
            let _ = conn.say(Message::Cancel("by its user".into()));
            return Err(Stopped::Cancelled(self.phase));
        }
        let most = self.plan.timeout_s.map(Duration::from_secs);
        if most.is_some_and(|t| self.begin.elapsed() > t) {
            let _ = conn.say(Message::Cancel("its time is over".into()));
            return Err(self.fail(format!("not at an end after {} s", self.plan.timeout_s.unwrap_or(0))));
        }
        Ok(())
    }

    /// Whatever happened: the guest goes on here unless it is, or may be, the destination's.
    fn settle(&mut self, outcome: Outcome) -> Outcome {
        if self.logging {
            pages::end(&self.m.parts);
        }
        if self.source == Source::Doubt {
            return Outcome::Doubt;
        }
        if outcome == Outcome::Moved {
            return outcome;
        }
        if self.stopped.is_some() {
            if self.lent
                && let Err(e) = self.m.parts.lend(false)
            {
                tracing::warn!("taking back what the machine has: {e}");
            }
            self.m.parts.resume_devices();
            self.m.gate.open();
        }
        outcome
    }

    fn go(&mut self) -> Result<Outcome, Stopped> {
        if let Some(dir) = &self.plan.tls {
            self.tls = Some(Tls::load(dir).map_err(|e| self.fail(e))?);
        }
        let mut conn =
            Conn::dial(&self.plan.to, self.tls.as_ref(), SILENCE).map_err(|e| self.fail(e.to_string()))?;
        self.enter(Phase::Negotiate);
        self.negotiate(&mut conn)?;
        if self.plan.dry_run {
            let _ = conn.say(Message::Cancel("it was only asked".into()));
            return Ok(Outcome::Possible);
        }
        let lanes = self.lanes()?;
        self.enter(Phase::Precopy);
        let (mut lanes, rest, sent) = self.precopy(&mut conn, lanes)?;
        self.finish(&mut conn, &mut lanes, rest, sent)
    }

    fn negotiate(&mut self, conn: &mut Conn) -> Result<(), Stopped> {
        // Briefly at a stand: registers can be read only then.
        self.m.stop()?;
        let offer = self.m.state(false);
        self.m.gate.open();
        let offer = offer?;
        let lanes = self.plan.streams.clamp(1, 16);
        let sent = conn.say(Message::Hello(lanes)).and_then(|()| offer.write(conn.writer()));
        sent.map_err(|e| self.broke(conn, &e))?;
        match conn.hear() {
            Ok(Message::Accept) => Ok(()),
            Ok(Message::Refuse(phase, why)) => {
                Err(Stopped::Refused(Phase::of(&phase).unwrap_or(Phase::Negotiate), why))
            }
            Ok(_) => Err(self.fail("the destination said something that does not belong here")),
            Err(e) => Err(self.fail(words(&e))),
        }
    }

    fn lanes(&mut self) -> Result<Vec<Conn>, Stopped> {
        let all = self.plan.streams.clamp(1, 16);
        let mut lanes = Vec::new();
        for n in 1..all {
            let mut c = Conn::dial(&self.plan.to, self.tls.as_ref(), SILENCE)
                .map_err(|e| self.fail(e.to_string()))?;
            let hello = c.say(Message::Lane(self.m.origins.token, n, all));
            hello.map_err(|e| self.fail(words(&e)))?;
            lanes.push(c);
        }
        Ok(lanes)
    }

    /// Sends a round by all lanes.
    fn round(
        &mut self,
        conn: &mut Conn,
        lanes: &mut [Conn],
        todo: &Todo,
        first: bool,
        number: u32,
        sent_before: u64,
    ) -> Result<u64, Stopped> {
        let way = Way {
            zstd: self.plan.zstd,
            bandwidth: self.plan.bandwidth.map(|b| b / (lanes.len() as u64 + 1)),
        };
        let (parts, handle, of) = (&self.m.parts, self.handle, lanes.len() as u64 + 1);
        let limit = self.plan.timeout_s.map(Duration::from_secs);
        let (begin, must_end) = (self.begin, number == LAST);
        let total = todo.bytes();
        let send = |conn: &mut Conn, lane: u64| -> Result<u64, ulna_stream::Error> {
            let mut s = Sender::new(way);
            if must_end {
                s = Sender::new(Way { bandwidth: None, ..way });
            }
            for ((region, piece), set) in (0u32..).zip(&parts.pieces).zip(&todo.0) {
                let go_on = |sent: u64| {
                    if lane == 0 {
                        let mut st = handle.lock();
                        st.sent = sent_before + sent * of;
                        st.remaining = total.saturating_sub(sent * of);
                    }
                    must_end || !(handle.cancelled() || limit.is_some_and(|t| begin.elapsed() > t))
                };
                if !s.send(conn.writer(), region, piece, set, (lane, of), first, go_on)? {
                    return Ok(s.sent);
                }
            }
            conn.writer().section(&Section::Round(number))?;
            conn.writer().flush()?;
            Ok(s.sent)
        };
        let (mine, others) = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (1u64..).zip(lanes.iter_mut()).map(|(n, l)| scope.spawn(move || (send(l, n), n))).collect();
            let mine = send(conn, 0);
            let others: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
            (mine, others)
        });
        let mut sent = mine.map_err(|e| self.broke(conn, &e))?;
        for o in others {
            let (o, n) = o.map_err(|_| self.fail("a lane panicked"))?;
            sent += o.map_err(|e| self.fail(format!("lane {n}: {}", words(&e))))?;
        }
        self.check(conn)?;
        self.handle.lock().sent = sent_before + sent;
        Ok(sent)
    }

    /// Memory goes over while the guest runs, until the rest takes no longer than allowed.
    fn precopy(&mut self, conn: &mut Conn, mut lanes: Vec<Conn>) -> Result<(Vec<Conn>, Todo, u64), Stopped> {
        let parts = self.m.parts.clone();
        let log = |e: ulna_kvm_backend::Errno| fail(Phase::Precopy)(format!("dirty log: {e}"));
        let mut todo = pages::begin(&parts).map_err(log)?;
        self.logging = true;
        let brake = Brake::new(self.m);
        let mut sent = 0;
        let mut behind = 0u32;
        for number in 0u32.. {
            let bytes = todo.bytes();
            let t = Instant::now();
            let wire = self.round(conn, &mut lanes, &todo, number == 0, number, sent)?;
            sent += wire;
            let took = t.elapsed().as_secs_f64();
            let round = Round { bytes, ms: took * 1e3, brake: brake.share() };
            // What is dirty now was written while this round went over.
            todo = pages::harvest(&parts).map_err(log)?;
            let left = todo.bytes();
            let rate = bytes.max(1 << 20) as f64 / took.max(1e-4);
            let estimate = left as f64 / rate * 1e3 + FIXED_MS;
            {
                let mut s = self.handle.lock();
                s.rounds.push(round);
                (s.remaining, s.rate, s.estimate_ms, s.brake) =
                    (left, rate as u64, Some(estimate), brake.share());
            }
            tracing::info!(
                "move: round {number}: {} KiB in {:.1} ms, {} KiB left",
                bytes >> 10,
                took * 1e3,
                left >> 10
            );
            // The first rounds are cheap to repeat: a short one makes the stop shorter than it would have to be.
            let small = left <= SMALL || number >= 3 && left * 2 > bytes;
            if estimate <= self.plan.max_downtime_ms as f64 && small
                || number >= 2 && estimate <= FIXED_MS * 2.0
            {
                break;
            }
            if number > 0 && left as f64 > bytes as f64 * KEEPS_UP {
                behind += 1;
                if behind >= 2 && estimate > self.plan.max_downtime_ms as f64 {
                    brake.harder();
                    behind = 0;
                }
            }
        }
        drop(brake);
        Ok((lanes, todo, sent))
    }

    fn finish(
        &mut self,
        conn: &mut Conn,
        lanes: &mut [Conn],
        mut rest: Todo,
        sent: u64,
    ) -> Result<Outcome, Stopped> {
        let parts = self.m.parts.clone();
        self.enter(Phase::Stop);
        self.m.stop()?;
        self.stopped = Some(Instant::now());
        parts.pause_devices();
        self.enter(Phase::State);
        self.check(conn)?;
        let state = self.m.state(true)?;
        let log = |e: ulna_kvm_backend::Errno| fail(Phase::State)(format!("dirty log: {e}"));
        let last = pages::harvest(&parts).map_err(log)?;
        rest.merge(&last, &parts);
        self.round(conn, lanes, &rest, false, LAST, sent)?;
        self.lent = true;
        parts.lend(true).map_err(|e| self.fail(e.to_string()))?;
        state.write(conn.writer()).map_err(|e| self.broke(conn, &e))?;
        match conn.hear() {
            Ok(Message::Loaded) => {}
            Ok(Message::Refuse(phase, why)) => {
                return Err(Stopped::Refused(Phase::of(&phase).unwrap_or(Phase::State), why));
            }
            Ok(_) => return Err(self.fail("the destination said something that does not belong here")),
            Err(e) => return Err(self.fail(words(&e))),
        }
        self.check(conn)?;
        self.enter(Phase::Handover);
        self.source.go();
        let found = match conn.say(Message::Go) {
            Ok(()) => self.answer(conn)?,
            // Not one byte of it may have gone, or all.
            Err(e) => self.ask(is_end(&e))?,
        };
        self.source.found(found);
        match self.source {
            Source::Released => {
                let downtime = self.stopped.map(|t| t.elapsed().as_secs_f64() * 1e3);
                let _ = conn.say(Message::Released);
                self.handle.lock().downtime_ms = downtime;
                self.enter(Phase::Run);
                Ok(Outcome::Moved)
            }
            Source::Owner => Err(self.fail("the destination gave up; the guest goes on here")),
            Source::Doubt => Err(self.fail(format!(
                "nobody answers at {}: whether the destination runs the guest is not known, and it stands still here; \
                 `ulna ctl VM resume` once you know that it does not, else `ulna stop VM`",
                self.plan.to
            ))),
        }
    }

    fn answer(&self, conn: &mut Conn) -> Result<Finding, Stopped> {
        match conn.hear() {
            Ok(Message::Running) => Ok(Finding::Running),
            Ok(Message::Abandoned | Message::Refuse(..)) => Ok(Finding::Abandoned),
            Ok(_) => self.ask(false),
            // A part of an answer is one: who gave it may have run the guest.
            Err(e) => self.ask(is_end(&e) && !matches!(e, ulna_stream::Error::Truncated { .. })),
        }
    }

    /// Who has the guest? `ended`: the old connection was read to its end.
    fn ask(&self, ended: bool) -> Result<Finding, Stopped> {
        let begin = Instant::now();
        while begin.elapsed() < DOUBT {
            match Conn::dial(&self.plan.to, self.tls.as_ref(), Duration::from_secs(5)) {
                Ok(mut c) => {
                    let asked = c.say(Message::Ask(self.m.origins.token)).and_then(|()| c.hear());
                    match asked {
                        Ok(Message::Running) => return Ok(Finding::Running),
                        Ok(Message::Abandoned) => return Ok(Finding::Abandoned),
                        _ => {}
                    }
                }
                Err(NoConnection::Refused(_)) if ended => return Ok(Finding::Gone),
                Err(e) => tracing::warn!("handover: {e}"),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(Finding::Silence)
    }
}

/// What the stop costs beside memory, as a guess for the first estimate.
const FIXED_MS: f64 = 4.0;
/// A rest this small is sent with the guest at a stand.
const SMALL: u64 = 1 << 20;

impl Todo {
    /// And these, and all of what is small and written by KVM itself.
    fn merge(&mut self, more: &Todo, parts: &Parts) {
        for ((set, more), piece) in self.0.iter_mut().zip(&more.0).zip(&parts.pieces) {
            set.join(more);
            if piece.name == "stolen-time" {
                set.all(piece.len());
            }
        }
    }
}

/// Keeps the guest from running for a share of its time, on a thread of its own.
struct Brake {
    /// Thousandths.
    share: Arc<Mutex<f64>>,
    end: Arc<AtomicBool>,
    gate: Arc<Gate>,
    kickers: Vec<Kicker>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Brake {
    fn new(m: &Machine) -> Brake {
        Brake {
            share: Arc::default(),
            end: Arc::default(),
            gate: m.gate.clone(),
            kickers: m.kickers.clone(),
            thread: Mutex::new(None),
        }
    }

    fn share(&self) -> f64 {
        *self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn harder(&self) {
        let mut share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        // Half of what it still had: the guest soon writes less than goes over.
        *share = (*share + (1.0 - *share) * 0.5).min(BRAKE_MOST);
        tracing::info!(
            "move: the guest writes faster than memory goes over; it is held for {:.0} % of its time",
            *share * 100.0
        );
        drop(share);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_some() {
            return;
        }
        let (share, end, gate, kickers) =
            (self.share.clone(), self.end.clone(), self.gate.clone(), self.kickers.clone());
        let body = move || {
            while !end.load(Ordering::SeqCst) {
                let held = *share.lock().unwrap_or_else(PoisonError::into_inner);
                gate.brake(true);
                kickers.iter().for_each(Kicker::kick);
                std::thread::sleep(BRAKE_PERIOD.mul_f64(held));
                gate.brake(false);
                std::thread::sleep(BRAKE_PERIOD.mul_f64(1.0 - held));
            }
        };
        *thread = std::thread::Builder::new().name("brake".into()).spawn(body).ok();
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        if let Some(t) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = t.join();
        }
        self.gate.brake(false);
    }
}
