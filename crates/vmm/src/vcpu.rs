//! The thread of a vCPU: runs it and answers its exits.

use crate::bus::Bus;
use crate::error::Error;
use crate::gate::Gate;
use crate::gdb::{Came, Door};
use crate::power::{self, Power};
use crate::services::{Target, answer};
use crate::suspend::Suspend;
use crate::waker::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use ulna_kvm_backend::abi::exit::{
    SYSTEM_EVENT_RESET, SYSTEM_EVENT_SHUTDOWN, SYSTEM_EVENT_SHUTDOWN_FLAG_PSCI_OFF2, SYSTEM_EVENT_SUSPEND,
    SYSTEM_EVENT_WAKEUP,
};
use ulna_kvm_backend::{Errno, RegId, Vcpu, VcpuExit};

/// What a vCPU's thread has to say.
#[derive(Debug)]
pub enum News {
    /// The guest asked for its machine to be switched off.
    Off,
    /// The guest asked for a reset.
    Reset,
    /// The debugger ended the machine.
    Quit,
    /// The vCPU cannot go on.
    Crash(String),
    /// The thread panicked.
    Panic(u32),
    /// The thread is about to end; instructions executed, if counted.
    Finished(Option<u64>),
}

/// What all vCPU threads of a machine share.
#[derive(Clone)]
pub struct Common {
    /// The devices.
    pub bus: Arc<Bus>,
    /// Set before the kick that is to end the threads.
    pub stop: Arc<AtomicBool>,
    /// To the event loop.
    pub news: Sender<News>,
    /// Wakes it.
    pub waker: Waker,
    /// CPUs that the guest may ask for.
    pub targets: Arc<[Target]>,
    /// Where they wait in a pause.
    pub gate: Arc<Gate>,
    /// Which vCPUs may be on, where KVM leaves that to the VMM.
    pub power: Option<Arc<Power>>,
    /// Whether the guest sleeps.
    pub suspend: Arc<Suspend>,
    /// Threads there ever were.
    pub started: Arc<AtomicUsize>,
    /// What each vCPU has done.
    pub tallies: Arc<Vec<Tally>>,
}

/// What a vCPU has done, for whoever asks.
#[derive(Default)]
pub struct Tally {
    /// The host's thread; 0 is none.
    pub thread: AtomicU32,
    /// Reads of devices.
    pub reads: AtomicU64,
    /// Writes to devices.
    pub writes: AtomicU64,
    /// Calls that KVM forwarded.
    pub calls: AtomicU64,
    /// Returns from KVM_RUN for no reason of the guest's.
    pub interruptions: AtomicU64,
}

impl Tally {
    fn count(&self, exit: &VcpuExit<'_>) {
        let counter = match exit {
            VcpuExit::MmioRead(..) => &self.reads,
            VcpuExit::MmioWrite(..) => &self.writes,
            VcpuExit::Hypercall(..) => &self.calls,
            VcpuExit::Intr => &self.interruptions,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Common {
    /// Tells the event loop.
    pub fn tell(&self, news: News) {
        // Without a receiver the machine is gone already.
        let _ = self.news.send(news);
        self.waker.wake();
    }
}

/// Says that its thread panicked, if it did.
struct Witness<'a>(&'a Common, u32);

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.tell(News::Panic(self.1));
        }
    }
}

/// A thread that waits for its vCPU.
pub struct Waiting(Sender<(Box<dyn Vcpu>, Option<Door>)>);

impl Waiting {
    /// Gives it its vCPU; with a door to a debugger it waits there first.
    pub fn run(self, vcpu: Box<dyn Vcpu>, door: Option<Door>) {
        // The thread does nothing before it has it.
        let _ = self.0.send((vcpu, door));
    }
}

/// Starts the thread of vCPU `id`. Nobody joins it: its end is told, and nobody waits for one that hangs.
pub fn spawn(id: u32, common: &Common) -> Result<Waiting, Error> {
    let (sender, receiver) = channel::<(Box<dyn Vcpu>, Option<Door>)>();
    let mine = common.clone();
    let body = move || {
        let common = mine;
        let witness = Witness(&common, id);
        let mut count = None;
        if let Ok((mut vcpu, door)) = receiver.recv() {
            if let Some(tally) = common.tallies.get(id as usize) {
                tally.thread.store(thread_id(), Ordering::Relaxed);
            }
            if let Some(news) = run(&mut *vcpu, &common, id, door.as_ref()) {
                common.tell(news);
            }
            count = vcpu.instructions();
        }
        common.gate.leave();
        common.tell(News::Finished(count));
        drop(witness);
    };
    // Counted before it is there: who stops the machine must not miss it.
    common.started.fetch_add(1, Ordering::SeqCst);
    common.gate.enter();
    let thread = std::thread::Builder::new().name(format!("vcpu{id}"));
    match thread.spawn(body) {
        Ok(_) => Ok(Waiting(sender)),
        Err(e) => {
            common.started.fetch_sub(1, Ordering::SeqCst);
            common.gate.leave();
            Err(Error::host(format!("start a thread for vCPU {id}"), e))
        }
    }
}

/// The host's number of this thread.
fn thread_id() -> u32 {
    u32::try_from(rustix::thread::gettid().as_raw_pid()).unwrap_or(0)
}

/// Where a vCPU thread stops by before it runs and after each interruption; `false` when the machine ends.
fn stop_by(vcpu: &mut dyn Vcpu, common: &Common, id: u32, door: Option<&Door>) -> Result<bool, Errno> {
    if door.is_some_and(|d| d.halting() && !d.wait(vcpu, Came::Asked)) || !common.gate.pass(id, vcpu, door) {
        return Ok(false);
    }
    if let Some(power) = &common.power {
        power.settle(id, vcpu)?;
    }
    common.suspend.settle(id, vcpu)?;
    Ok(true)
}

/// Runs until the machine stops, or this vCPU stops it.
fn run(vcpu: &mut dyn Vcpu, common: &Common, id: u32, door: Option<&Door>) -> Option<News> {
    if door.is_some_and(|d| !d.wait(vcpu, Came::Asked)) {
        return None;
    }
    let nobody = Tally::default();
    let tally = common.tallies.get(id as usize).unwrap_or(&nobody);
    let mut interrupted = true;
    let errno = loop {
        if interrupted {
            match stop_by(vcpu, common, id, door) {
                Ok(true) => interrupted = false,
                Ok(false) => return None,
                Err(e) => break e,
            }
        }
        if common.stop.load(Ordering::Acquire) {
            return None;
        }
        let exit = vcpu.run();
        if let Ok(exit) = &exit {
            tally.count(exit);
        }
        match exit {
            Ok(VcpuExit::MmioRead(address, data)) => common.bus.read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => common.bus.write(address, data),
            Ok(VcpuExit::Hypercall(function, _)) => {
                let answered = match &common.power {
                    Some(power) if power::handles(function) => power.call(common, id, vcpu, function as u32),
                    _ => serve(vcpu, &common.targets, function),
                };
                if let Err(e) = answered {
                    break e;
                }
            }
            Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_SHUTDOWN, data)) => {
                if data.first().is_some_and(|flags| flags & SYSTEM_EVENT_SHUTDOWN_FLAG_PSCI_OFF2 != 0) {
                    tracing::info!("the guest hibernates");
                }
                return Some(News::Off);
            }
            Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_SUSPEND, _)) => {
                if let Err(e) = common.suspend.begin(common.power.as_deref(), id, vcpu) {
                    break e;
                }
            }
            Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_WAKEUP, _)) => {
                if let Err(e) = common.suspend.end(vcpu) {
                    break e;
                }
            }
            Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_RESET, _)) => return Some(News::Reset),
            Ok(VcpuExit::SystemEvent(kind, data)) => {
                return Some(News::Crash(format!("The guest crashed: system event {kind}, data {data:x?}")));
            }
            Ok(VcpuExit::Intr) => interrupted = true,
            Err(e) if e == Errno::EINTR => interrupted = true,
            Ok(VcpuExit::Debug(esr, far)) if door.is_some() => {
                if door.is_some_and(|d| !d.wait(vcpu, Came::Debug(esr, far))) {
                    return None;
                }
                if !common.gate.pass(id, vcpu, door) {
                    return None;
                }
            }
            Ok(other) => {
                return Some(News::Crash(format!(
                    "vCPU {id} stopped for a reason that nobody asked for: {other:?}"
                )));
            }
            Err(errno) => break errno,
        }
    };
    let pc = vcpu.get_reg_u64(RegId::PC).unwrap_or(0);
    Some(News::Crash(format!("vCPU {id} cannot go on at PC {pc:#x}: {}", why(errno))))
}

/// Answers a call that the SMCCC filter forwarded.
fn serve(vcpu: &mut dyn Vcpu, targets: &[Target], function: u64) -> Result<(), Errno> {
    let mut x = [0; 3];
    for (n, x) in (1..).zip(&mut x) {
        *x = vcpu.get_reg_u64(RegId::x(n))?;
    }
    for (n, x) in (0..).zip(answer(targets, function, x)) {
        vcpu.set_reg_u64(RegId::x(n), x)?;
    }
    Ok(())
}

/// What KVM_RUN means by an errno (kvm-arm64-abi.md §3.3).
fn why(errno: Errno) -> String {
    match errno {
        e if e == Errno::ENOSYS => {
            "a load or store outside memory by an instruction that KVM cannot emulate (ENOSYS)".into()
        }
        e if e == Errno::EFAULT => "an access to memory that has no backing (EFAULT)".into(),
        other => other.to_string(),
    }
}
