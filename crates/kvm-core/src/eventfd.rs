//! ioeventfd and irqfd: eventfds instead of exits and requests (kvm-arm64-abi.md §10.9, §10.10).

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::{Errno as HostErrno, ReadWriteFlags};
use ulna_kvm_abi::Errno;

use crate::Result;
use crate::gic::GicState;
use crate::vm::{Vm, VmInner};

/// Which eventfd a descriptor is: descriptors that were duplicated or came from another process are the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EventId {
    /// The kernel's number of it.
    Kernel(u64),
    /// Where the kernel does not tell.
    Descriptor(i32),
}

impl EventId {
    fn of(fd: &OwnedFd) -> EventId {
        let n = fd.as_raw_fd();
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{n}")).unwrap_or_default();
        let id = text.lines().find_map(|l| l.strip_prefix("eventfd-id:")?.trim().parse().ok());
        id.map_or(EventId::Descriptor(n), EventId::Kernel)
    }
}

/// A write that becomes a signal.
struct IoEvent {
    fd: Arc<OwnedFd>,
    id: EventId,
    addr: u64,
    /// Bytes; 0 is any number.
    len: u32,
    datamatch: Option<u64>,
}

impl IoEvent {
    fn same(&self, id: EventId, addr: u64, len: u32, datamatch: Option<u64>) -> bool {
        (self.id, self.addr, self.len, self.datamatch) == (id, addr, len, datamatch)
    }

    /// Could one write match both?
    fn collides(&self, addr: u64, len: u32, datamatch: Option<u64>) -> bool {
        let values = || match (self.datamatch, datamatch) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        self.addr == addr && (self.len == 0 || len == 0 || self.len == len && values())
    }
}

/// The ioeventfds of a VM.
#[derive(Default)]
pub(crate) struct IoEvents {
    events: RwLock<Vec<IoEvent>>,
    count: AtomicUsize,
}

impl IoEvents {
    fn add(&self, new: IoEvent) -> Result<()> {
        let last = new.addr.checked_add(new.len.into());
        if !matches!(new.len, 0 | 1 | 2 | 4 | 8) || last.is_none() || new.len == 0 && new.datamatch.is_some()
        {
            let e = Errno::EINVAL.because("{} bytes at {x}: 1, 2, 4 or 8, or 0 without a value");
            return Err(e.values([new.len.into(), new.addr]));
        }
        let mut events = self.events.write().unwrap_or_else(PoisonError::into_inner);
        if events.iter().any(|e| e.collides(new.addr, new.len, new.datamatch)) {
            return Err(Errno::EEXIST.because("another ioeventfd takes these writes at {x}").value(new.addr));
        }
        events.push(new);
        self.count.store(events.len(), Ordering::SeqCst);
        Ok(())
    }

    fn remove(&self, fd: &OwnedFd, addr: u64, len: u32, datamatch: Option<u64>) -> Result<()> {
        let id = EventId::of(fd);
        let mut events = self.events.write().unwrap_or_else(PoisonError::into_inner);
        let none = Errno::ENOENT
            .because("this eventfd was not registered for {} bytes at {x}")
            .values([len.into(), addr]);
        let at = events.iter().position(|e| e.same(id, addr, len, datamatch)).ok_or(none)?;
        events.remove(at);
        self.count.store(events.len(), Ordering::SeqCst);
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// A guest's write: whether an eventfd took it.
    pub fn write(&self, addr: u64, len: usize, value: u64) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let value = if len < 8 { value & ((1 << (8 * len)) - 1) } else { value };
        let events = self.events.read().unwrap_or_else(PoisonError::into_inner);
        let hit = events.iter().find(|e| {
            e.addr == addr && (e.len == 0 || e.len as usize == len) && e.datamatch.is_none_or(|d| d == value)
        });
        if let Some(e) = hit {
            // A full counter is signalled already.
            let _ = rustix::io::write(&e.fd, &1u64.to_ne_bytes());
        }
        hit.is_some()
    }
}

/// Which event of the set wakes the thread to end.
const STOP: u64 = u64::MAX;

/// An eventfd bound to a GSI.
struct Bound {
    /// What the set calls it.
    key: u64,
    fd: Arc<OwnedFd>,
    id: EventId,
    gsi: u32,
    /// The line stays up until the guest's end of interrupt, which is signalled here.
    resample: bool,
}

/// The descriptors that the thread waits for.
struct Waiting {
    epoll: OwnedFd,
    stop: OwnedFd,
    /// Held while one is served: when it is taken back, nothing of it comes any more.
    fds: Mutex<Vec<Bound>>,
    next: AtomicU64,
    stopped: AtomicBool,
}

/// Whom an end of interrupt is told.
struct Resampled {
    key: u64,
    gsi: u32,
    fd: Arc<OwnedFd>,
}

/// The irqfds of a VM: one thread waits for all of them, from the first on.
#[derive(Default)]
pub(crate) struct IrqFds {
    waiting: Mutex<Option<Arc<Waiting>>>,
    resampled: Mutex<Vec<Resampled>>,
    resampled_count: AtomicUsize,
}

impl IrqFds {
    fn waiting(&self, vm: &Arc<VmInner>) -> Result<Arc<Waiting>> {
        let mut slot = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(w) = &*slot {
            return Ok(w.clone());
        }
        let host = |e: HostErrno| Errno::new(e.raw_os_error());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(host)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(host)?;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN).map_err(host)?;
        let (fds, next, stopped) = (Mutex::default(), AtomicU64::new(0), AtomicBool::new(false));
        let w = Arc::new(Waiting { epoll, stop, fds, next, stopped });
        let (thread, vm) = (w.clone(), Arc::downgrade(vm));
        let spawned = std::thread::Builder::new().name("ulna-irqfd".into()).spawn(move || thread.run(&vm));
        spawned.map_err(|_| Errno::ENOMEM.because("the host starts no further thread"))?;
        *slot = Some(w.clone());
        Ok(w)
    }

    fn resampled(&self) -> MutexGuard<'_, Vec<Resampled>> {
        self.resampled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is there an irqfd with resample?
    pub fn any_resampled(&self) -> bool {
        self.resampled_count.load(Ordering::Relaxed) != 0
    }

    /// Ends the thread.
    pub fn stop(&self) {
        if let Some(w) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            w.stopped.store(true, Ordering::SeqCst);
            signal(&w.stop);
        }
    }
}

/// Adds 1 to an eventfd; a full one is signalled already.
fn signal(fd: &OwnedFd) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

/// Takes what an eventfd holds: was it signalled? Never waits, even where the descriptor is a blocking one.
fn take(fd: &OwnedFd) -> bool {
    let mut b = [0; 8];
    // An eventfd has no position: that of the descriptor (-1) stands for it.
    match rustix::io::preadv2(fd, &mut [IoSliceMut::new(&mut b)], u64::MAX, ReadWriteFlags::NOWAIT) {
        Err(HostErrno::OPNOTSUPP | HostErrno::NOSYS) => rustix::io::read(fd, &mut b) == Ok(8),
        r => r == Ok(8),
    }
}

impl Waiting {
    fn fds(&self) -> MutexGuard<'_, Vec<Bound>> {
        self.fds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, vm: &Weak<VmInner>) {
        let mut events = Vec::with_capacity(16);
        while !self.stopped.load(Ordering::SeqCst) {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(HostErrno::INTR) => {}
                Err(_) => return,
            }
            for e in &events {
                let key = e.data.u64();
                let Some(vm) = vm.upgrade() else { return };
                let fds = self.fds();
                let Some(b) = fds.iter().find(|b| b.key == key) else { continue };
                if take(&b.fd) {
                    vm.set_gsi(b.gsi, true);
                    // A line that is the only one behind its GSI is raised and left so, which an edge does not mind
                    // (arch/arm64/kvm/vgic/vgic-irqfd.c, kvm_arch_set_irq_inatomic).
                    if !b.resample && vm.routing.read().count(b.gsi) != 1 {
                        vm.set_gsi(b.gsi, false);
                    }
                }
            }
        }
    }
}

impl VmInner {
    /// The guest ended interrupts that irqfds with resample hold up: lowers them and tells whoever raised them.
    pub fn resample(&self, g: &mut GicState) {
        for intid in g.gic.take_eois() {
            let routing = self.routing.read();
            let Some(gsi) = intid.checked_sub(32).and_then(|pin| routing.gsi_of_pin(pin)) else { continue };
            for spi in routing.spis(gsi) {
                g.set_line(None, spi, false);
            }
            self.irq_fds.resampled().iter().filter(|r| r.gsi == gsi).for_each(|r| signal(&r.fd));
        }
    }

    /// Has the interrupt controller report the end of those interrupts that irqfds with resample raise.
    pub fn watch_resampled(&self) {
        let gsis: Vec<u32> = self.irq_fds.resampled().iter().map(|r| r.gsi).collect();
        let spis = {
            let routing = self.routing.read();
            gsis.iter().flat_map(|gsi| routing.spis(*gsi)).collect()
        };
        self.with_gic(|g| g.watch(spis));
    }
}

impl Vm {
    /// KVM_IOEVENTFD: a guest's write of `len` bytes (0: any number) to `addr` signals `fd` and does not leave KVM_RUN.
    pub fn register_ioeventfd(
        &self,
        fd: Arc<OwnedFd>,
        addr: u64,
        len: u32,
        datamatch: Option<u64>,
    ) -> Result<()> {
        self.0.check_alive()?;
        let id = EventId::of(&fd);
        self.0.io_events.add(IoEvent { fd, id, addr, len, datamatch })
    }

    /// KVM_IOEVENTFD with DEASSIGN: must name the same.
    pub fn unregister_ioeventfd(
        &self,
        fd: &OwnedFd,
        addr: u64,
        len: u32,
        datamatch: Option<u64>,
    ) -> Result<()> {
        self.0.check_alive()?;
        self.0.io_events.remove(fd, addr, len, datamatch)
    }

    /// KVM_IRQFD: a signal of `fd` is an edge on `gsi`.
    pub fn register_irqfd(&self, fd: Arc<OwnedFd>, gsi: u32) -> Result<()> {
        self.assign_irqfd(fd, gsi, None)
    }

    /// KVM_IRQFD: a signal of `fd` is an edge on `gsi`. With `resample` (KVM_IRQFD_FLAG_RESAMPLE) it raises `gsi` until
    /// the guest ends the interrupt, which is signalled to that descriptor.
    pub fn assign_irqfd(&self, fd: Arc<OwnedFd>, gsi: u32, resample: Option<Arc<OwnedFd>>) -> Result<()> {
        let vm = &self.0;
        vm.check_alive()?;
        if !vm.gic_ready() {
            return Err(Errno::EAGAIN.because("the interrupt controller is not initialised"));
        }
        let id = EventId::of(&fd);
        let w = vm.irq_fds.waiting(vm)?;
        let mut fds = w.fds();
        if fds.iter().any(|b| b.id == id) {
            return Err(Errno::EBUSY.because("this eventfd is bound to a GSI already"));
        }
        let key = w.next.fetch_add(1, Ordering::Relaxed);
        let waits = resample.is_some();
        if let Some(fd) = resample {
            let mut all = vm.irq_fds.resampled();
            all.push(Resampled { key, gsi, fd });
            vm.irq_fds.resampled_count.store(all.len(), Ordering::SeqCst);
            drop(all);
            vm.watch_resampled();
        }
        fds.push(Bound { key, fd: fd.clone(), id, gsi, resample: waits });
        if epoll::add(&w.epoll, &*fd, epoll::EventData::new_u64(key), epoll::EventFlags::IN).is_err() {
            fds.pop();
            self.forget_resampled(key);
            return Err(Errno::EINVAL.because("this descriptor cannot be waited for"));
        }
        Ok(())
    }

    /// KVM_IRQFD with DEASSIGN.
    pub fn unregister_irqfd(&self, fd: &OwnedFd, gsi: u32) -> Result<()> {
        self.0.check_alive()?;
        let id = EventId::of(fd);
        let w = self.0.irq_fds.waiting(&self.0)?;
        let mut fds = w.fds();
        if let Some(at) = fds.iter().position(|b| b.id == id && b.gsi == gsi) {
            let b = fds.remove(at);
            let _ = epoll::delete(&w.epoll, &*b.fd);
            if b.resample {
                self.forget_resampled(b.key);
            }
        }
        Ok(())
    }

    /// The last one that holds a GSI up lets it go.
    fn forget_resampled(&self, key: u64) {
        let vm = &self.0;
        let mut all = vm.irq_fds.resampled();
        let Some(at) = all.iter().position(|r| r.key == key) else { return };
        let gsi = all.remove(at).gsi;
        let last = !all.iter().any(|r| r.gsi == gsi);
        vm.irq_fds.resampled_count.store(all.len(), Ordering::SeqCst);
        drop(all);
        vm.watch_resampled();
        if last {
            vm.set_gsi(gsi, false);
        }
    }
}
