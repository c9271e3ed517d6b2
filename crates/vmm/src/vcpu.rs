//! The thread of a vCPU: runs it and answers its exits.

use crate::bus::Bus;
use crate::error::Error;
use crate::gdb::{Came, Door};
use crate::services::{Target, answer};
use crate::waker::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use ulna_kvm_backend::abi::exit::{SYSTEM_EVENT_RESET, SYSTEM_EVENT_SHUTDOWN};
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

/// Starts the thread of vCPU `id`; with a door to a debugger it waits there first.
pub fn spawn(
    id: u32,
    mut vcpu: Box<dyn Vcpu>,
    common: Common,
    door: Option<Door>,
) -> Result<JoinHandle<()>, Error> {
    let body = move || {
        let witness = Witness(&common, id);
        if let Some(news) = run(&mut *vcpu, &common, id, door.as_ref()) {
            common.tell(news);
        }
        common.tell(News::Finished(vcpu.instructions()));
        drop(witness);
    };
    let thread = std::thread::Builder::new().name(format!("vcpu{id}"));
    thread.spawn(body).map_err(|e| Error::host(format!("start a thread for vCPU {id}"), e))
}

/// Runs until the machine stops, or this vCPU stops it.
fn run(vcpu: &mut dyn Vcpu, common: &Common, id: u32, door: Option<&Door>) -> Option<News> {
    if door.is_some_and(|d| !d.wait(vcpu, Came::Asked)) {
        return None;
    }
    loop {
        if common.stop.load(Ordering::Acquire) {
            return None;
        }
        let errno = match vcpu.run() {
            Ok(VcpuExit::MmioRead(address, data)) => {
                common.bus.read(address, data);
                continue;
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                common.bus.write(address, data);
                continue;
            }
            Ok(VcpuExit::Hypercall(function, _)) => match serve(vcpu, &common.targets, function) {
                Ok(()) => continue,
                Err(errno) => errno,
            },
            Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_SHUTDOWN, _)) => return Some(News::Off),
            Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_RESET, _)) => return Some(News::Reset),
            Ok(VcpuExit::SystemEvent(kind, data)) => {
                return Some(News::Crash(format!("The guest crashed: system event {kind}, data {data:x?}")));
            }
            Ok(VcpuExit::Intr) | Err(Errno::EINTR) => {
                if door.is_some_and(|d| d.halting() && !d.wait(vcpu, Came::Asked)) {
                    return None;
                }
                continue;
            }
            Ok(VcpuExit::Debug(esr, far)) if door.is_some() => {
                if door.is_some_and(|d| !d.wait(vcpu, Came::Debug(esr, far))) {
                    return None;
                }
                continue;
            }
            Ok(other) => {
                return Some(News::Crash(format!(
                    "vCPU {id} stopped for a reason that nobody asked for: {other:?}"
                )));
            }
            Err(errno) => errno,
        };
        let pc = vcpu.get_reg_u64(RegId::PC).unwrap_or(0);
        return Some(News::Crash(format!("vCPU {id} cannot go on at PC {pc:#x}: {}", why(errno))));
    }
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
        Errno::ENOSYS => {
            "a load or store outside memory by an instruction that KVM cannot emulate (ENOSYS)".into()
        }
        Errno::EFAULT => "an access to memory that has no backing (EFAULT)".into(),
        other => other.to_string(),
    }
}
