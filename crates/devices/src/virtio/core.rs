//! The service behind a register window: owns the device and its rings, runs on a worker thread or inline.

use super::{Event, Fault, Interest, Queues, VirtioDevice};
use crate::mmio::{IrqLine, Level};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use virtio_queue::Queue;
use vm_memory::GuestAddressSpace;

/// Bit of the interrupt status: buffers were used.
pub(super) const INT_VRING: u32 = 1;
/// Bit of the interrupt status: the configuration, or the device's health, changed.
pub(super) const INT_CONFIG: u32 = 2;

/// Where buffers are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// On a thread of the device: a slow disk never holds up a vCPU.
    Worker,
    /// Inside the guest's notifying store: the same run every time. Devices that wait for the outside (net) never hear
    /// of it in this mode.
    Inline,
}

/// The interrupt status register and its line.
struct Interrupt {
    status: u32,
    line: Level,
}

/// The configuration space and its generation.
struct Config {
    bytes: Vec<u8>,
    generation: u32,
}

/// The device and its rings.
pub(super) struct Back<D> {
    pub device: D,
    pub queues: Vec<Option<Queue>>,
    running: bool,
    paused: bool,
    fault: Option<Fault>,
}

/// Wakes the worker: which queues were notified, and a descriptor to sleep on.
struct Doorbell {
    fd: OwnedFd,
    pending: AtomicU32,
}

impl Doorbell {
    fn ring(&self, queues: u32) {
        // Whoever turns the mask from zero writes; the worker clears the descriptor before it takes the mask.
        if self.pending.fetch_or(queues, Ordering::AcqRel) == 0 {
            self.wake();
        }
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the worker is awake anyway.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    fn answer(&self) -> u32 {
        let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
        self.pending.swap(0, Ordering::AcqRel)
    }
}

/// What the register window, the worker and handles share.
pub(super) struct Core<D, M> {
    mem: M,
    interrupt: Mutex<Interrupt>,
    config: Mutex<Config>,
    back: Mutex<Back<D>>,
    /// How many wait for the service to leave its current batch.
    stop: AtomicU32,
    /// Ends the worker.
    quit: AtomicBool,
    broken: AtomicBool,
    doorbell: Doorbell,
    service: Service,
}

/// A lock is only poisoned by a bug elsewhere; the data behind ours is valid at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D, M> Core<D, M>
where
    D: VirtioDevice,
    M: GuestAddressSpace + Send + Sync + 'static,
    M::T: 'static,
{
    pub fn new(device: D, mem: M, irq: Arc<dyn IrqLine>, service: Service) -> io::Result<Arc<Self>> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let queues = device.queue_sizes().iter().map(|_| None).collect();
        Ok(Arc::new(Core {
            mem,
            interrupt: Mutex::new(Interrupt { status: 0, line: Level::new(irq) }),
            config: Mutex::new(Config { bytes: device.config(), generation: 0 }),
            back: Mutex::new(Back { device, queues, running: false, paused: false, fault: None }),
            stop: AtomicU32::new(0),
            quit: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            doorbell: Doorbell { fd, pending: AtomicU32::new(0) },
            service,
        }))
    }

    pub fn memory(&self) -> M::T {
        self.mem.memory()
    }

    pub fn back(&self) -> MutexGuard<'_, Back<D>> {
        lock(&self.back)
    }

    /// Holds the device with no batch under way.
    fn quiet(&self) -> MutexGuard<'_, Back<D>> {
        self.stop.fetch_add(1, Ordering::Relaxed);
        let back = lock(&self.back);
        self.stop.fetch_sub(1, Ordering::Relaxed);
        back
    }

    pub fn interrupt_status(&self) -> u32 {
        lock(&self.interrupt).status
    }

    pub fn acknowledge(&self, bits: u32) {
        let mut int = lock(&self.interrupt);
        int.status &= !bits;
        let level = int.status != 0;
        int.line.drive(level);
    }

    fn raise(&self, bits: u32) {
        let mut int = lock(&self.interrupt);
        int.status |= bits;
        int.line.drive(true);
    }

    /// Sets the interrupt status after a restore.
    pub fn set_interrupt(&self, status: u32) {
        let mut int = lock(&self.interrupt);
        int.status = status & (INT_VRING | INT_CONFIG);
        let level = int.status != 0;
        int.line.force(level);
    }

    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::Release);
    }

    pub fn config_generation(&self) -> u32 {
        lock(&self.config).generation
    }

    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = lock(&self.config);
        for (i, byte) in data.iter_mut().enumerate() {
            let at = usize::try_from(offset).ok().and_then(|o| o.checked_add(i));
            *byte = at.and_then(|at| config.bytes.get(at)).copied().unwrap_or(0);
        }
    }

    fn change_config(&self, bytes: Vec<u8>) {
        let mut config = lock(&self.config);
        if config.bytes != bytes {
            config.bytes = bytes;
            config.generation = config.generation.wrapping_add(1);
            drop(config);
            self.raise(INT_CONFIG);
        }
    }

    /// The driver is ready.
    pub fn start(&self, features: u64) {
        let mut back = self.quiet();
        back.device.activate(features);
        back.running = true;
        drop(back);
        self.notify(u32::MAX);
    }

    /// The driver gave up, or wants to begin anew.
    pub fn reset(&self) {
        let mut back = self.quiet();
        back.running = false;
        back.fault = None;
        back.queues.iter_mut().for_each(|q| *q = None);
        back.device.reset();
        let config = back.device.config();
        drop(back);
        self.set_broken(false);
        lock(&self.config).bytes = config;
        self.acknowledge(u32::MAX);
        self.doorbell.wake();
    }

    /// The driver set FAILED: nothing more is served until it resets the device.
    pub fn halt(&self) {
        self.quiet().running = false;
    }

    /// Installs or removes a ring.
    pub fn set_queue(&self, i: usize, queue: Option<Queue>) {
        let mut back = self.quiet();
        if let Some(slot) = back.queues.get_mut(i) {
            *slot = queue;
        }
        let running = back.running;
        drop(back);
        if running {
            self.notify(u32::MAX); // a batch may have been cut short on the other queues
        }
    }

    /// Whether queue `i` is installed.
    pub fn queue_ready(&self, i: usize) -> bool {
        self.back().queues.get(i).is_some_and(Option::is_some)
    }

    /// DEVICE_NEEDS_RESET (section 2.1.2): the driver hears of it by a configuration interrupt.
    pub fn break_down(&self, back: &mut Back<D>, fault: Fault) {
        let running = std::mem::take(&mut back.running);
        back.fault = Some(fault);
        self.set_broken(true);
        if running {
            self.raise(INT_CONFIG);
        }
    }

    pub fn pause(&self) {
        self.quiet().paused = true;
    }

    pub fn resume(&self) {
        self.back().paused = false;
        self.notify(u32::MAX);
    }

    /// The device's configuration after a restore, without telling the driver.
    pub fn refresh_config(&self, generation: u32) {
        let bytes = self.back().device.config();
        *lock(&self.config) = Config { bytes, generation };
    }

    pub fn set_running(&self, running: bool) {
        self.back().running = running;
    }

    /// The driver notified `queues`.
    pub fn notify(&self, queues: u32) {
        match self.service {
            Service::Worker => self.doorbell.ring(queues),
            Service::Inline => {
                self.serve(Event { queues, ..Event::default() });
            }
        }
    }

    /// One batch of work. Returns what to wait for.
    fn serve(&self, event: Event) -> Interest {
        let mut back = self.back();
        let back = &mut *back;
        if !back.running || back.paused {
            return Interest::default();
        }
        let mem = self.mem.memory();
        let mut queues = Queues::new(&*mem, &mut back.queues, &self.stop);
        let done = back.device.process(event, &mut queues).and_then(|()| queues.finish());
        match done {
            Ok((interrupt, config)) => {
                if interrupt {
                    self.raise(INT_VRING);
                }
                if let Some(config) = config {
                    self.change_config(config);
                }
                back.device.interest()
            }
            Err(fault) => {
                // What was completed before the fault stays completed; a superfluous interrupt does no harm.
                self.raise(INT_VRING);
                self.break_down(back, fault);
                Interest::default()
            }
        }
    }

    fn work(&self, source: Option<OwnedFd>) {
        let mut interest = Interest::default();
        while !self.quit.load(Ordering::Acquire) {
            let mut event = Event::default();
            {
                let mut wanted = PollFlags::empty();
                wanted.set(PollFlags::IN, interest.read);
                wanted.set(PollFlags::OUT, interest.write);
                let mut fds = vec![PollFd::new(&self.doorbell.fd, PollFlags::IN)];
                if let (Some(source), false) = (&source, wanted.is_empty()) {
                    fds.push(PollFd::from_borrowed_fd(source.as_fd(), wanted));
                }
                if poll(&mut fds, None).is_err() {
                    continue; // interrupted; the descriptors are ours and valid
                }
                if let Some(fd) = fds.get(1) {
                    let gone = fd.revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
                    event.readable = gone || fd.revents().contains(PollFlags::IN);
                    event.writable = gone || fd.revents().contains(PollFlags::OUT);
                }
            }
            event.queues = self.doorbell.answer();
            interest = self.serve(event);
        }
    }

    /// Starts the worker, if this service has one.
    pub fn spawn(self: &Arc<Self>) -> io::Result<Option<JoinHandle<()>>> {
        if self.service == Service::Inline {
            return Ok(None);
        }
        let (source, name) = {
            let back = self.back();
            (back.device.source()?, back.device.name())
        };
        let core = self.clone();
        std::thread::Builder::new().name(format!("ulna-{name}")).spawn(move || core.work(source)).map(Some)
    }

    /// Tells the worker to end.
    pub fn quit(&self) {
        self.quit.store(true, Ordering::Release);
        self.stop.fetch_add(1, Ordering::Relaxed); // for good
        self.doorbell.wake();
    }
}

/// Access to a device from outside its register window, for instance to bring it input.
pub struct Handle<D, M>(pub(super) Arc<Core<D, M>>);

impl<D, M> Clone for Handle<D, M> {
    fn clone(&self) -> Self {
        Handle(self.0.clone())
    }
}

impl<D, M> Handle<D, M>
where
    D: VirtioDevice,
    M: GuestAddressSpace + Send + Sync + 'static,
    M::T: 'static,
{
    /// Works on the device between two batches.
    pub fn with_device<R>(&self, f: impl FnOnce(&mut D) -> R) -> R {
        f(&mut self.0.back().device)
    }

    /// Has the device look at queue `i` as if the driver had notified it.
    pub fn kick(&self, i: usize) {
        self.0.notify(1u32.checked_shl(i as u32).unwrap_or(0));
    }

    /// Why the device needs a reset, if it does.
    pub fn fault(&self) -> Option<String> {
        self.0.back().fault.as_ref().map(Fault::to_string)
    }

    /// Stops serving between two requests, for a snapshot.
    pub fn pause(&self) {
        self.0.pause();
    }

    /// Serves again.
    pub fn resume(&self) {
        self.0.resume();
    }
}
