//! ioeventfd and irqfd: eventfds instead of exits and requests (kvm-arm64-abi.md §10.9, §10.10).

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno as HostErrno;
use ulna_kvm_abi::Errno;

use crate::Result;
use crate::vm::{Vm, VmInner};

/// A write that becomes a signal.
struct IoEvent {
    fd: Arc<OwnedFd>,
    addr: u64,
    /// Bytes; 0 is any number.
    len: u32,
    datamatch: Option<u64>,
}

impl IoEvent {
    fn same(&self, fd: &OwnedFd, addr: u64, len: u32, datamatch: Option<u64>) -> bool {
        self.fd.as_raw_fd() == fd.as_raw_fd()
            && (self.addr, self.len, self.datamatch) == (addr, len, datamatch)
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
            return Err(Errno::EINVAL);
        }
        let mut events = self.events.write().unwrap_or_else(PoisonError::into_inner);
        if events.iter().any(|e| e.collides(new.addr, new.len, new.datamatch)) {
            return Err(Errno::EEXIST);
        }
        events.push(new);
        self.count.store(events.len(), Ordering::SeqCst);
        Ok(())
    }

    fn remove(&self, fd: &OwnedFd, addr: u64, len: u32, datamatch: Option<u64>) -> Result<()> {
        let mut events = self.events.write().unwrap_or_else(PoisonError::into_inner);
        let at = events.iter().position(|e| e.same(fd, addr, len, datamatch)).ok_or(Errno::ENOENT)?;
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

/// The descriptors that the thread waits for.
struct Waiting {
    epoll: OwnedFd,
    stop: OwnedFd,
    fds: Mutex<Vec<(Arc<OwnedFd>, u32)>>,
    stopped: AtomicBool,
}

/// The irqfds of a VM: one thread waits for all of them, from the first on.
#[derive(Default)]
pub(crate) struct IrqFds(Mutex<Option<Arc<Waiting>>>);

impl IrqFds {
    fn waiting(&self, vm: &Arc<VmInner>) -> Result<Arc<Waiting>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(w) = &*slot {
            return Ok(w.clone());
        }
        let host = |e: HostErrno| Errno(e.raw_os_error());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(host)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(host)?;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN).map_err(host)?;
        let w = Arc::new(Waiting { epoll, stop, fds: Mutex::default(), stopped: AtomicBool::new(false) });
        let (thread, vm) = (w.clone(), Arc::downgrade(vm));
        let spawned = std::thread::Builder::new().name("ulna-irqfd".into()).spawn(move || thread.run(&vm));
        spawned.map_err(|_| Errno::ENOMEM)?;
        *slot = Some(w.clone());
        Ok(w)
    }

    /// Ends the thread.
    pub fn stop(&self) {
        if let Some(w) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            w.stopped.store(true, Ordering::SeqCst);
            let _ = rustix::io::write(&w.stop, &1u64.to_ne_bytes());
        }
    }
}

impl Waiting {
    fn fds(&self) -> MutexGuard<'_, Vec<(Arc<OwnedFd>, u32)>> {
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
                // The number may have been taken back, and even be another file's, meanwhile.
                let found = self.fds().iter().find(|(fd, _)| fd.as_raw_fd() as u64 == key).cloned();
                let Some((fd, gsi)) = found else { continue };
                let mut count = [0; 8];
                if rustix::io::read(&*fd, &mut count) == Ok(8)
                    && let Some(vm) = vm.upgrade()
                {
                    vm.with_gic(|g| {
                        // An edge, on a line that exists or on none.
                        let _ = g.gic.set_spi(gsi.saturating_add(32), true);
                        let _ = g.gic.set_spi(gsi.saturating_add(32), false);
                    });
                }
            }
        }
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
        self.0.io_events.add(IoEvent { fd, addr, len, datamatch })
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

    /// KVM_IRQFD: a signal of `fd` (non-blocking) is an edge on SPI 32 + `gsi`.
    pub fn register_irqfd(&self, fd: Arc<OwnedFd>, gsi: u32) -> Result<()> {
        self.0.check_alive()?;
        if !self.0.gic_ready() {
            return Err(Errno::EAGAIN);
        }
        let w = self.0.irq_fds.waiting(&self.0)?;
        let mut fds = w.fds();
        if fds.iter().any(|(f, _)| f.as_raw_fd() == fd.as_raw_fd()) {
            return Err(Errno::EBUSY);
        }
        let key = epoll::EventData::new_u64(fd.as_raw_fd() as u64);
        fds.push((fd.clone(), gsi));
        if epoll::add(&w.epoll, &*fd, key, epoll::EventFlags::IN).is_err() {
            fds.pop();
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// KVM_IRQFD with DEASSIGN.
    pub fn unregister_irqfd(&self, fd: &OwnedFd, gsi: u32) -> Result<()> {
        self.0.check_alive()?;
        let w = self.0.irq_fds.waiting(&self.0)?;
        let mut fds = w.fds();
        if let Some(at) = fds.iter().position(|(f, g)| f.as_raw_fd() == fd.as_raw_fd() && *g == gsi) {
            let (fd, _) = fds.remove(at);
            let _ = epoll::delete(&w.epoll, &*fd);
        }
        Ok(())
    }
}
