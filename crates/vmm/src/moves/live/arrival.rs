//! The destination of a live move.

use super::link::{Conn, Tls, is_end, words};
use super::pages::{put, put_zero};
use crate::board::Board;
use crate::config::Config;
use crate::error::Error;
use crate::gate::Counts;
use crate::layout;
use crate::memory::{self, Memory};
use crate::moves::state::Collected;
use crate::moves::{Blocked, MoveError, Parts, State, fail};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use ulna_kvm_backend::Hypervisor;
use ulna_stream::handover::{Destination, Message};
use ulna_stream::{Phase, Section};

/// How long the source may be silent.
const SILENCE: Duration = Duration::from_secs(20);
/// How long a destination that gave up, or whose source did not say that it knows, stays to be asked.
const LINGER: Duration = Duration::from_secs(15);
/// The number of the last round.
pub const LAST: u32 = u32::MAX;

/// What the listening thread and the move share.
struct Desk {
    token: Mutex<Option<[u8; 16]>>,
    destination: Mutex<Destination>,
    lanes: Mutex<Sender<Conn>>,
}

/// Waits for a source.
pub struct Listening {
    listener: TcpListener,
    tls: Option<Tls>,
}

/// Listens; who comes must have a certificate if there is `tls`.
pub fn listen(address: &str, tls: Option<Tls>) -> Result<Listening, Error> {
    let listener = TcpListener::bind(address).map_err(|e| Error::host(format!("listen at {address}"), e))?;
    Ok(Listening { listener, tls })
}

/// A machine on its way here.
pub struct Incoming {
    conn: Conn,
    lanes: u16,
    more: Receiver<Conn>,
    desk: Arc<Desk>,
    /// What the source offers: all state but memory, of a moment in which the machine was stopped briefly.
    pub offer: State,
    /// RAM.
    pub ram: Arc<Memory>,
    /// Both banks of flash.
    pub flash: [Arc<Memory>; 2],
    /// Structures of stolen time.
    pub stolen_time: Option<Arc<Memory>>,
}

impl Listening {
    /// The address, with the port that the host chose.
    pub fn address(&self) -> String {
        self.listener.local_addr().map_or_else(|e| e.to_string(), |a| a.to_string())
    }

    /// Waits until a source offers a machine.
    pub fn wait(self) -> Result<Incoming, MoveError> {
        let fail = fail(Phase::Connect);
        loop {
            let (stream, who) = self.listener.accept().map_err(|e| fail(e.to_string()))?;
            let mut conn = match Conn::welcome(stream, self.tls.as_ref(), SILENCE) {
                Ok(c) => c,
                Err(e) => {
                    tracing::warn!("connect: {who}: {e}");
                    continue;
                }
            };
            match conn.hear() {
                Ok(Message::Hello(lanes)) => return self.begin(conn, lanes),
                // Of a move that another process had, which never ran its guest here.
                Ok(Message::Ask(_)) => {
                    let _ = conn.say(Message::Abandoned);
                }
                Ok(_) => {}
                Err(e) => tracing::warn!("connect: {who}: {}", words(&e)),
            }
        }
    }

    fn begin(self, mut conn: Conn, lanes: u16) -> Result<Incoming, MoveError> {
        let fail = fail(Phase::Negotiate);
        let refuse = |conn: &mut Conn, why: String| {
            let _ = conn.say(Message::Refuse(Phase::Negotiate.name().into(), vec![why.clone()]));
            fail(why)
        };
        let offer = conn.reader().map_err(|e| words(&e)).and_then(State::read);
        let offer = offer.map_err(|e| refuse(&mut conn, e))?;
        let made = allocate(&offer);
        let (ram, flash, stolen_time) = made.map_err(|e| refuse(&mut conn, e))?;
        let (sender, more) = channel();
        let desk = Arc::new(Desk {
            token: Mutex::new(Some(offer.header.token)),
            destination: Mutex::new(Destination::Empty),
            lanes: Mutex::new(sender),
        });
        let d = desk.clone();
        let thread = std::thread::Builder::new().name("receive".into());
        thread.spawn(move || attend(&self, &d)).map_err(|e| fail(e.to_string()))?;
        Ok(Incoming { conn, lanes, more, desk, offer, ram, flash, stolen_time })
    }
}

type Regions = (Arc<Memory>, [Arc<Memory>; 2], Option<Arc<Memory>>);

/// Memory for what is offered.
fn allocate(offer: &State) -> Result<Regions, String> {
    for r in &offer.regions {
        crate::moves::snapshot::place(r, offer.config.memory).ok_or_else(|| {
            format!("memory {:?} at {:#x} of {} bytes is not of this board", r.name, r.gpa, r.len)
        })?;
    }
    let has = |name: &str| offer.regions.iter().any(|r| r.name == name);
    if !["ram", "flash0", "flash1"].into_iter().all(has) {
        return Err("pieces of memory are missing".into());
    }
    let make = |name: &str, range| memory::allocate(name, range).map_err(|e| e.to_string());
    let ram = make("ram", layout::RAM..layout::RAM + offer.config.memory)?;
    let flash = [make("flash", layout::FLASH)?, make("flash", layout::FLASH_VARS)?];
    let stolen = has("stolen-time").then(|| make("stolen time", layout::PVTIME)).transpose()?;
    Ok((ram, flash, stolen))
}

/// Answers who comes while a move is under way: its other lanes, and a source that asks.
fn attend(l: &Listening, desk: &Desk) {
    loop {
        let Ok((stream, _)) = l.listener.accept() else { return };
        let Ok(mut conn) = Conn::welcome(stream, l.tls.as_ref(), SILENCE) else { continue };
        let ours = |t: [u8; 16]| *desk.token.lock().unwrap_or_else(PoisonError::into_inner) == Some(t);
        match conn.hear() {
            Ok(Message::Lane(token, ..)) if ours(token) => {
                let _ = desk.lanes.lock().unwrap_or_else(PoisonError::into_inner).send(conn);
            }
            Ok(Message::Ask(token)) => {
                let answer = if ours(token) {
                    desk.destination.lock().unwrap_or_else(PoisonError::into_inner).ask()
                } else {
                    Message::Abandoned
                };
                let _ = conn.say(answer);
            }
            Ok(_) => {
                let why = vec!["another machine is on its way here".to_owned()];
                let _ = conn.say(Message::Refuse(Phase::Connect.name().into(), why));
            }
            Err(_) => {}
        }
    }
}

/// What the host cannot honour of what is offered.
pub fn check(
    offer: &State,
    config: &Config,
    kvm: &dyn Hypervisor,
    ram: &Arc<Memory>,
) -> Result<Vec<Blocked>, Error> {
    config.check(u32::from(kvm.max_ipa_bits()))?;
    let origin = offer.origin(ram.clone(), None);
    let boot = crate::board::Boot::Carried(&origin);
    let mut core = crate::board::Core::make(config, kvm, ram, &boot)?;
    let mut blocked = std::mem::take(&mut core.blocked);
    let version = core.gic_version();
    offer.apply(&core.gic, version, &mut core.vcpus, false, &mut blocked);
    Ok(blocked)
}

impl Incoming {
    /// Tells the source that it cannot be, and why.
    pub fn refuse(&mut self, why: &Error) {
        let reasons = match why {
            Error::Blocked(all) => all.iter().map(ToString::to_string).collect(),
            e => vec![e.to_string()],
        };
        let _ = self.conn.say(Message::Refuse(Phase::Negotiate.name().into(), reasons));
        // What the source still sends would make the kernel drop our answer.
        let _ = self.conn.be_patient(Duration::from_secs(2));
        let _ = self.conn.hear();
    }

    fn destination<T>(&self, f: impl FnOnce(&mut Destination) -> T) -> T {
        f(&mut self.desk.destination.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the machine over. When this returns well the guest is ours, and the source knows or can ask.
    pub fn take(
        &mut self,
        board: &mut Board,
        config: &Config,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Counts, Error> {
        let result = self.receive(board, config, interrupted);
        if let Err(e) = &result {
            let asked = self.destination(|d| {
                let ready = *d == Destination::Ready;
                d.give_up();
                ready
            });
            let (phase, why) = match e {
                Error::Move(m) => (m.phase, m.why.clone()),
                e => (Phase::State, e.to_string()),
            };
            let _ = self.conn.say(Message::Refuse(phase.name().into(), vec![why]));
            if asked {
                // The source may be in doubt.
                std::thread::sleep(LINGER);
            }
        }
        result
    }

    fn receive(
        &mut self,
        board: &mut Board,
        config: &Config,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Counts, Error> {
        let parts = board.parts.clone();
        let broke = |phase: Phase| move |e: ulna_stream::Error| MoveError { phase, why: words(&e) };
        self.conn.say(Message::Accept).map_err(broke(Phase::Negotiate))?;
        let mut threads = Vec::new();
        for _ in 1..self.lanes {
            let lane = self.more.recv_timeout(SILENCE);
            let mut lane = lane.map_err(|_| fail(Phase::Connect)("a lane is missing".into()))?;
            let parts = parts.clone();
            let thread = std::thread::Builder::new().name("lane".into());
            let body = move || memory_of(&mut lane, &parts, &mut || false);
            threads.push(thread.spawn(body).map_err(|e| Error::host("start a thread for a lane", e))?);
        }
        let mut cancelled = memory_of(&mut self.conn, &parts, interrupted)?;
        for t in threads {
            cancelled |= t.join().unwrap_or_else(|_| Err(fail(Phase::Precopy)("a lane panicked".into())))?;
        }
        if cancelled {
            return Err(fail(Phase::Precopy)("the source cancelled the move".into()).into());
        }
        let state = self.state()?;
        if state.config != self.offer.config || state.regions != self.offer.regions {
            return Err(fail(Phase::State)("the board is another than was offered".into()).into());
        }
        state.take_over(board)?;
        parts.lend(false).map_err(|e| fail(Phase::State)(e.to_string()))?;
        parts.banks.claim(config)?;
        parts.resume_devices();
        self.handover()?;
        Ok(state.header.counters)
    }

    /// The last part of the state.
    fn state(&mut self) -> Result<State, MoveError> {
        let fail = fail(Phase::State);
        let reader = self.conn.reader().map_err(|e| fail(words(&e)))?;
        let mut all = Collected::default();
        loop {
            match reader.next_section().map_err(|e| fail(words(&e)))? {
                Some(Section::End(_)) => return all.finish().map_err(&fail),
                Some(Section::Message(Message::Cancel(why))) => {
                    return Err(fail(format!("the source cancelled: {why}")));
                }
                Some(s) => all.add(s).map_err(&fail)?,
                None => return Err(fail("the other side hung up".into())),
            }
        }
    }

    fn handover(&mut self) -> Result<(), MoveError> {
        let fail = fail(Phase::Handover);
        self.destination(Destination::loaded);
        self.conn.say(Message::Loaded).map_err(|e| fail(words(&e)))?;
        match self.conn.hear() {
            Ok(Message::Go) => {}
            Ok(Message::Cancel(why)) => return Err(fail(format!("the source cancelled: {why}"))),
            Ok(_) => return Err(fail("the source said something else than Go".into())),
            Err(e) => return Err(fail(words(&e))),
        }
        let answer = self.destination(Destination::go);
        if answer != Message::Running {
            return Err(fail("the source asked meanwhile, and has the guest".into()));
        }
        // From here on the guest is ours, whether or not the source hears of it: it can ask.
        if let Err(e) = self.conn.say(answer) {
            tracing::warn!("handover: {}; the source will ask", words(&e));
        }
        Ok(())
    }

    /// After the guest runs: waits, not long, for the source to say that it knows. It is asked no more then.
    pub fn finish(mut self) {
        let wait = move || {
            let begin = Instant::now();
            let _ = self.conn.be_patient(LINGER);
            match self.conn.hear() {
                Ok(Message::Released) => tracing::info!("run: the source has let go"),
                Ok(_) => {}
                Err(e) => {
                    tracing::warn!("run: {}", words(&e));
                    if is_end(&e) {
                        std::thread::sleep(LINGER.saturating_sub(begin.elapsed()));
                    }
                }
            }
        };
        // Without the thread the source could only ask.
        let _ = std::thread::Builder::new().name("released".into()).spawn(wait);
    }
}

/// Reads contents of memory up to the end of the last round; whether the source cancelled.
fn memory_of(
    conn: &mut Conn,
    parts: &Parts,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<bool, MoveError> {
    let fail = fail(Phase::Precopy);
    let reader = conn.reader().map_err(|e| fail(words(&e)))?;
    loop {
        if interrupted() {
            return Err(fail("interrupted by a signal".into()));
        }
        let raw = reader.next_raw().map_err(|e| fail(words(&e)))?;
        let raw = raw.ok_or_else(|| fail("the other side hung up".into()))?;
        if let Some(p) = raw.pages().map_err(|e| fail(e.to_string()))? {
            put(&parts.pieces, &p).map_err(&fail)?;
            continue;
        }
        match raw.section().map_err(|e| fail(e.to_string()))? {
            Some(Section::Zero(z)) => put_zero(&parts.pieces, &z).map_err(&fail)?,
            Some(Section::Round(LAST)) => return Ok(false),
            Some(Section::Round(_)) | None => {}
            Some(Section::Message(Message::Cancel(_))) => return Ok(true),
            Some(s) => return Err(fail(format!("{} among the contents of memory", s.kind()))),
        }
    }
}

/// Only to keep a connection's other end from waiting.
pub fn hang_up(stream: &TcpStream) {
    let _ = stream.shutdown(std::net::Shutdown::Both);
}
