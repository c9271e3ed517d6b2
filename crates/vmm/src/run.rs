//! The life of a machine: build, run, and again after a reset.

use crate::board::{Board, Boot, Origin, Outside};
use crate::bus::{Shared, lock};
use crate::config::{Clock, Config};
use crate::console::{Command, Console};
use crate::control::{Control, Life};
use crate::error::Error;
use crate::exit::ExitStatus;
use crate::flash::Banks;
use crate::gate::{Counts, Gate};
use crate::gdb::{Debugger, Door, Exit};
use crate::memory::Memory;
use crate::moves::State;
use crate::moves::live::{Incoming, arrival};
use crate::power::Power;
use crate::signals::Signals;
use crate::suspend::Suspend;
use crate::vcpu::{Common, News, Tally, spawn};
use crate::waker::Waker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, MutexGuard, TryLockError};
use std::time::{Duration, Instant};
use ulna_devices::pl011::Uart;
use ulna_devices::pl031::Rtc;
use ulna_kvm_backend::{Hypervisor, Kicker, Vcpu};

/// How long the vCPU threads may take to end after they were asked.
const PATIENCE: Duration = Duration::from_secs(3);

/// How soon the loop looks again at a serial port that was in use.
const CONTENDED: Duration = Duration::from_millis(5);

/// Why a machine stopped.
enum End {
    Off,
    Reset,
    Quit,
    Signal(u8),
}

/// Runs the machine of `config` until it is off. A reset by the guest builds it anew from the same files.
pub fn run(config: &Config, kvm: &dyn Hypervisor, outside: &Outside) -> Result<ExitStatus, Error> {
    start(config, kvm, outside, None)
}

/// A machine that comes from elsewhere: its memory is there, its state is known.
pub struct Arrived {
    /// Its state; `config` is what of the board this host decides.
    pub state: State,
    /// RAM.
    pub ram: Arc<Memory>,
    /// Both banks of flash.
    pub flash: [Arc<Memory>; 2],
    /// Structures of stolen time.
    pub stolen_time: Option<Arc<Memory>>,
    /// Memory is mapped privately from files.
    pub private: bool,
    /// It stays at a stand until somebody lets it go on.
    pub paused: bool,
}

/// Lets a machine that comes from elsewhere go on until it is off.
pub fn run_arrived(arrived: Arrived, kvm: &dyn Hypervisor, outside: &Outside) -> Result<ExitStatus, Error> {
    let config = arrived.state.config.clone();
    start(&config, kvm, outside, Some(Arrival::Stored(Box::new(arrived))))
}

/// Takes over a machine that is offered by another process, and lets it go on until it is off. `config` is the offered
/// board with what this host decides.
pub fn run_incoming(
    incoming: Incoming,
    config: &Config,
    kvm: &dyn Hypervisor,
    outside: &Outside,
) -> Result<ExitStatus, Error> {
    start(config, kvm, outside, Some(Arrival::Live(Box::new(incoming))))
}

/// Where a machine comes from.
enum Arrival {
    Stored(Box<Arrived>),
    Live(Box<Incoming>),
}

impl Arrival {
    fn flash(&self) -> &[Arc<Memory>; 2] {
        match self {
            Arrival::Stored(a) => &a.flash,
            Arrival::Live(i) => &i.flash,
        }
    }

    /// The machine, with all of its state, and its counters.
    fn settle(
        self,
        host: &Host<'_>,
        waker: &Waker,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<(Board, Counts), Error> {
        match self {
            Arrival::Stored(a) => {
                let origin = Origin { private: a.private, ..a.state.origin(a.ram, a.stolen_time) };
                let mut board = host.build(waker, &Boot::Carried(&origin))?;
                a.state.take_over(&mut board)?;
                board.parts.lend(false).map_err(|e| Error::host("take what the machine has", e))?;
                host.banks.claim(host.config)?;
                board.parts.resume_devices();
                Ok((board, a.state.header.counters))
            }
            Arrival::Live(mut i) => {
                let made = arrival::check(&i.offer, host.config, host.kvm, &i.ram).and_then(|blocked| {
                    if !blocked.is_empty() {
                        return Err(Error::Blocked(blocked));
                    }
                    host.build(waker, &Boot::Carried(&i.offer.origin(i.ram.clone(), i.stolen_time.clone())))
                });
                let mut board = made.inspect_err(|e| i.refuse(e))?;
                let counts = i.take(&mut board, host.config, interrupted)?;
                i.finish();
                Ok((board, counts))
            }
        }
    }
}

/// What a machine is built from, whenever it is.
struct Host<'a> {
    config: &'a Config,
    kvm: &'a dyn Hypervisor,
    outside: &'a Outside,
    banks: &'a Banks,
    console: &'a Console,
}

impl Host<'_> {
    fn build(&self, waker: &Waker, boot: &Boot<'_>) -> Result<Board, Error> {
        Board::build(self.config, self.kvm, self.outside, self.banks, self.console, waker, boot)
    }
}

fn start(
    config: &Config,
    kvm: &dyn Hypervisor,
    outside: &Outside,
    arrived: Option<Arrival>,
) -> Result<ExitStatus, Error> {
    config.check(u32::from(kvm.max_ipa_bits()))?;
    let mut signals = Signals::catch().map_err(|e| Error::host("catch signals", e))?;
    let banks = match &arrived {
        None => Banks::open(config)?,
        Some(a) => Banks::carried(config, a.flash()[0].clone(), a.flash()[1].clone()),
    };
    // Before anything is built: a name that is taken ends it here.
    let mut control = config.control.as_ref().map(|o| Control::start(config, o)).transpose()?.flatten();
    let mut debugger = config.gdb.as_ref().map(Debugger::start).transpose()?;
    let mut console = Console::open(&config.serial, &config.name)?;
    let helpers = Helpers { debugger: debugger.as_ref(), control: control.as_ref() };
    if arrived.as_ref().is_some_and(|a| matches!(a, Arrival::Stored(a) if a.paused))
        && let Some(c) = &control
    {
        c.begin_paused();
    }
    let end = lives(config, kvm, outside, &banks, &mut signals, &mut console, &helpers, arrived);
    if let Some(c) = &mut control {
        c.finish();
    }
    if let Some(d) = &mut debugger {
        d.finish(end.as_ref().map_or_else(|e| e.status().code(), |status| status.code()));
    }
    end
}

/// Who else has a hand in the machine.
struct Helpers<'a> {
    debugger: Option<&'a Debugger>,
    control: Option<&'a Control>,
}

/// All lives of the machine.
#[allow(clippy::too_many_arguments)] // all that outlives a life, and where the first comes from
fn lives(
    config: &Config,
    kvm: &dyn Hypervisor,
    outside: &Outside,
    banks: &Banks,
    signals: &mut Signals,
    console: &mut Console,
    helpers: &Helpers<'_>,
    mut arrived: Option<Arrival>,
) -> Result<ExitStatus, Error> {
    let mut told = false;
    loop {
        let waker = Waker::new()?;
        let host = Host { config, kvm, outside, banks, console };
        let (board, counts) = match arrived.take() {
            None => (host.build(&waker, &Boot::Fresh)?, None),
            Some(a) => {
                let (board, counts) = a.settle(&host, &waker, &mut || signals.take().is_some())?;
                (board, Some(counts))
            }
        };
        if let (Some(d), false) = (helpers.debugger, std::mem::replace(&mut told, true)) {
            // Before the terminal is the guest's. A closed standard error is no reason to fail.
            let _ = writeln!(std::io::stderr(), "ulna: waiting for GDB at {}", d.address);
        }
        console.begin()?;
        match live(config, board, counts, console, signals, waker, helpers)? {
            End::Off => return Ok(ExitStatus::Done),
            End::Quit => return Ok(ExitStatus::Done),
            End::Signal(number) => return Ok(ExitStatus::Signal(number)),
            End::Reset => tracing::info!("{}: reset by the guest", config.name),
        }
    }
}

/// One life, from reset to the next.
fn live(
    config: &Config,
    board: Board,
    counts: Option<Counts>,
    console: &mut Console,
    signals: &mut Signals,
    waker: Waker,
    helpers: &Helpers<'_>,
) -> Result<End, Error> {
    let Board { vcpus, bus, uart, rtc, gpio, targets, debug_registers, power, init, parts, services } = board;
    let (sender, news) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    let started = Arc::new(AtomicUsize::new(0));
    let paused = helpers.control.is_some_and(Control::paused);
    let timed = config.clock == Clock::Host;
    let gate = Arc::new(match counts {
        None => Gate::new(paused, timed),
        Some(counts) => Gate::stopped(counts, timed),
    });
    let power = power.map(Arc::new);
    let tallies: Arc<Vec<Tally>> = Arc::new(vcpus.iter().map(|_| Tally::default()).collect());
    let kickers: Vec<Kicker> = vcpus.iter().map(|v| v.kicker()).collect();
    let entries = parts.pieces.iter().map(|p| crate::memory::range(&p.memory)).collect();
    let suspend = Arc::new(Suspend::new(init, entries, kickers.clone()));
    let asleep = |v: &dyn Vcpu| v.mp_state() == ulna_kvm_backend::abi::mp_state::SUSPENDED;
    if let Some((id, _)) = (0u32..).zip(&vcpus).find(|(_, v)| asleep(&***v)) {
        suspend.take_over(id);
    }
    let common = Common {
        bus: Arc::new(bus),
        stop: stop.clone(),
        news: sender,
        waker: waker.clone(),
        targets,
        gate: gate.clone(),
        power: power.clone(),
        suspend: suspend.clone(),
        started: started.clone(),
        tallies: tallies.clone(),
    };
    let mut doors: Vec<Option<Door>> = vcpus.iter().map(|_| None).collect();
    let mut exit = None;
    if let Some(d) = helpers.debugger {
        let quitter = common.clone();
        let quit = Box::new(move || quitter.tell(News::Quit));
        // Who waits at the gate looks whether the debugger asks.
        let call_in = |k: &Kicker| {
            let (k, gate) = (k.clone(), gate.clone());
            Kicker::new(move || {
                k.kick();
                gate.poke();
            })
        };
        let memory = parts.pieces.iter().map(|p| p.memory.clone()).collect();
        let (all, way_out) = d.attach(kickers.iter().map(call_in).collect(), memory, debug_registers, quit);
        doors = all.into_iter().map(Some).collect();
        exit = Some(way_out);
    }
    if let Some(c) = helpers.control {
        let (quitter, vm) = (common.clone(), parts.vm.clone());
        c.attach(Life {
            gate: gate.clone(),
            kickers: kickers.clone(),
            power: power.clone(),
            suspend,
            tallies,
            gpio,
            gic: parts.gic_version.into(),
            mpidrs: parts.mpidrs.clone(),
            services,
            parts: Some(parts.clone()),
            nmi: Box::new(move |cpu| vm.nmi(cpu)),
            quit: Box::new(move || quitter.tell(News::Quit)),
        });
    }
    let mut threads = Threads { stop, gate: gate.clone(), power, kickers, exit, news, started, finished: 0 };
    for ((id, vcpu), door) in (0u32..).zip(vcpus).zip(doors) {
        match &common.power {
            // The debugger wants to see every vCPU, and needs a thread to ask.
            Some(power) if door.is_none() && power.is_off(id) => power.park(id, vcpu),
            _ => spawn(id, &common)?.run(vcpu, door),
        }
    }
    if !paused {
        gate.open();
    }
    drop(common);
    console.hurry(false);
    let mut events = Events { console, signals, waker, uart, rtc, typed: Vec::new(), contended: false };
    let end = events.until_the_end(&mut threads);
    events.console.hurry(true);
    if let Some(c) = helpers.control {
        c.detach();
    }
    let joined = threads.stop();
    // What the guest wrote last may have met a closed pipe after the loop had looked.
    let end = end?;
    events.check_output()?;
    joined?;
    Ok(end)
}

/// The vCPU threads of a machine. They are asked to stop when this goes away, whatever the reason.
struct Threads {
    stop: Arc<AtomicBool>,
    gate: Arc<Gate>,
    power: Option<Arc<Power>>,
    kickers: Vec<Kicker>,
    /// Out of the debugger's hall.
    exit: Option<Exit>,
    news: Receiver<News>,
    started: Arc<AtomicUsize>,
    finished: usize,
}

impl Threads {
    /// What the threads said, as far as it ends the machine.
    fn news(&mut self) -> Result<Option<End>, Error> {
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Off => return Ok(Some(End::Off)),
                News::Reset => return Ok(Some(End::Reset)),
                News::Quit => return Ok(Some(End::Quit)),
                News::Crash(why) => return Err(Error::Crash(why)),
                News::Panic(id) => return Err(Error::Internal(format!("the thread of vCPU {id} panicked"))),
                News::Finished(_) => self.finished += 1,
            }
        }
        Ok(None)
    }

    fn ask_all(&self) {
        self.stop.store(true, Ordering::Release);
        self.gate.end();
        if let Some(exit) = &self.exit {
            exit.open();
        }
        for kicker in &self.kickers {
            kicker.kick();
        }
    }

    /// Ends all threads.
    fn stop(&mut self) -> Result<(), Error> {
        self.ask_all();
        let deadline = Instant::now() + PATIENCE;
        let mut instructions = None;
        while self.finished < self.started.load(Ordering::SeqCst) {
            match self.news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(News::Finished(count)) => {
                    self.finished += 1;
                    instructions =
                        instructions.into_iter().chain(count).reduce(|a: u64, b| a.saturating_add(b));
                }
                Ok(News::Panic(id)) => {
                    self.finished += 1;
                    return Err(Error::Internal(format!("the thread of vCPU {id} panicked")));
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let left = self.started.load(Ordering::SeqCst) - self.finished;
                    tracing::warn!("{left} vCPU thread(s) did not end; leaving them");
                    break;
                }
            }
        }
        if let Some(power) = &self.power {
            power.clear();
        }
        if let Some(count) = instructions {
            tracing::info!("{count} guest instructions");
        }
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.ask_all();
    }
}

/// The event loop's side of a machine.
struct Events<'a> {
    console: &'a mut Console,
    signals: &'a mut Signals,
    waker: Waker,
    uart: Shared<Uart>,
    rtc: Shared<Rtc>,
    /// Typed, but not yet taken by the serial port.
    typed: Vec<u8>,
    /// The serial port was in use when it was wanted.
    contended: bool,
}

impl Events<'_> {
    fn until_the_end(&mut self, threads: &mut Threads) -> Result<End, Error> {
        loop {
            if let Some(end) = threads.news()? {
                return Ok(end);
            }
            self.check_output()?;
            if let Some(number) = self.signals.take() {
                return Ok(End::Signal(number));
            }
            self.deliver();
            let timeout = {
                let mut rtc = lock(&self.rtc);
                rtc.process();
                rtc.deadline()
            };
            let readable = self.wait(timeout)?;
            if readable {
                match self.console.read(&mut self.typed) {
                    Some(Command::Quit) => return Ok(End::Quit),
                    Some(Command::Break) => {
                        self.deliver();
                        if let Some(mut uart) = self.uart() {
                            uart.receive_break();
                        }
                    }
                    None => {}
                }
            }
        }
    }

    /// The serial port, unless a vCPU has it, which may take long: it waits for a slow reader of the output. Then the
    /// loop looks again soon.
    fn uart(&mut self) -> Option<MutexGuard<'_, Uart>> {
        match self.uart.try_lock() {
            Ok(uart) => Some(uart),
            Err(TryLockError::Poisoned(uart)) => Some(uart.into_inner()),
            Err(TryLockError::WouldBlock) => {
                self.contended = true;
                None
            }
        }
    }

    /// Offers what was typed to the serial port.
    fn deliver(&mut self) {
        if !self.typed.is_empty() {
            let mut typed = std::mem::take(&mut self.typed);
            let taken = self.uart().map_or(0, |mut uart| uart.receive(&typed));
            typed.drain(..taken);
            self.typed = typed;
        }
    }

    fn check_output(&mut self) -> Result<(), Error> {
        match self.uart().and_then(|mut uart| uart.take_error()) {
            Some(e) => Err(Error::Console(e)),
            None => Ok(()),
        }
    }

    /// Waits for anything; whether the console has input to read. What is typed stays with the host until the guest
    /// has taken what came before.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<bool, Error> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.waker.fd(), PollFlags::IN)];
        fds.extend(self.signals.poll_fds());
        let input = if self.typed.is_empty() { self.console.input() } else { None };
        let at = fds.len();
        fds.extend(input.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let again = std::mem::take(&mut self.contended).then_some(CONTENDED);
        let timeout = timeout.into_iter().chain(again).min().and_then(|t| Timespec::try_from(t).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Error::host("wait for events", e)),
        }
        let readable = fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        self.waker.clear();
        Ok(readable)
    }
}
