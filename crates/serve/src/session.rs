//! A client's connection and its channels.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use std::time::Instant;

use rustix::net::Shutdown;
use ulna_kvm_abi::structs::Wire;
use ulna_kvm_abi::wire::{Reply, VERSION, op};
use ulna_kvm_core::Kvm;
use ulna_kvm_core::raw::{Descriptor, VcpuHandle};
use ulna_trace::{Fd, Tracer};

use crate::dispatch;
use crate::frame::{Receiver, send_reply};
use crate::memory::Windows;

/// What a server plays.
pub struct Options {
    /// The KVM.
    pub kvm: Arc<Kvm>,
    /// Refuse requests that carry something where the interface asks for zero, though KVM accepts them?
    pub strict: bool,
    /// Who is told of every call.
    pub tracer: Option<Arc<dyn Tracer>>,
}

/// Stack of a channel's thread.
const STACK: usize = 1 << 20;
const EIO: i32 = 5;

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a channel stands for.
pub(crate) struct Object {
    pub d: Descriptor,
    /// The server's number of its VM; 0: none.
    pub vm: u32,
    /// What a trace calls it.
    pub fd: Fd,
    /// For a vCPU: its runs.
    pub gate: Option<Arc<Gate>>,
    /// For a file of statistics: where a `read` goes on.
    pub position: Mutex<u64>,
}

/// Runs of a vCPU by number, so that a kick which comes too late ends none that it was not meant for.
pub(crate) struct Gate {
    handle: Arc<VcpuHandle>,
    /// Number of the run under way (0: none), of the last that began, and of one to be ended.
    state: Mutex<(u64, u64, u64)>,
}

impl Gate {
    fn kick(&self, run: u64) {
        let mut s = lock(&self.state);
        if s.0 == run {
            self.handle.kick();
        } else if run > s.1 {
            s.2 = run;
        }
    }

    /// Around a KVM_RUN.
    pub fn run<T>(&self, run: u64, client: (u32, u32), f: impl FnOnce() -> T) -> T {
        self.handle.set_client_thread(client.0, client.1);
        {
            let mut s = lock(&self.state);
            s.0 = run;
            s.1 = run;
            if s.2 == run {
                self.handle.kick();
            }
        }
        let r = f();
        lock(&self.state).0 = 0;
        // What came after the run had its answer is not for the next.
        self.handle.forget_kick();
        r
    }
}

/// A client.
pub(crate) struct Session {
    pub options: Options,
    pub windows: Windows,
    /// Its process; 0: not known.
    pub pid: u32,
    /// When it came.
    pub since: Instant,
    serial: AtomicU32,
    gates: Mutex<HashMap<u32, Arc<Gate>>>,
    /// Sockets to shut down at the end.
    channels: Mutex<HashMap<u32, Arc<OwnedFd>>>,
    stopping: AtomicBool,
    threads: Mutex<usize>,
    last: Condvar,
}

impl Session {
    /// Serves `d` on a channel.
    pub fn adopt(
        self: &Arc<Self>,
        d: Descriptor,
        of: &Object,
        index: u32,
        socket: OwnedFd,
    ) -> io::Result<(u32, Fd)> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let vm = if matches!(d, Descriptor::Vm(_)) { serial } else { of.vm };
        let fd = match &d {
            Descriptor::System(_) => Fd::Kvm,
            Descriptor::Vm(_) => Fd::Vm(serial),
            Descriptor::Vcpu(_) => Fd::Vcpu(vm, index),
            Descriptor::Device(..) => Fd::Device(vm, index),
            Descriptor::Stats(_) => Fd::Stats,
        };
        let gate = match &d {
            Descriptor::Vcpu(v) => Some(Arc::new(Gate { handle: v.clone(), state: Mutex::default() })),
            _ => None,
        };
        let socket = Arc::new(socket);
        let object = Object { d, vm, fd, gate: gate.clone(), position: Mutex::new(0) };
        if let Some(g) = gate {
            lock(&self.gates).insert(serial, g);
        }
        lock(&self.channels).insert(serial, socket.clone());
        *lock(&self.threads) += 1;
        let session = self.clone();
        let thread = std::thread::Builder::new().name(format!("kvm-{serial}")).stack_size(STACK);
        let spawned = thread.spawn(move || {
            let _ = session.channel(&object, socket);
            session.gone(serial);
            drop(object);
            let mut n = lock(&session.threads);
            *n -= 1;
            session.last.notify_all();
        });
        if let Err(e) = spawned {
            self.gone(serial);
            *lock(&self.threads) -= 1;
            return Err(e);
        }
        if self.stopping.load(Ordering::SeqCst) {
            self.stop();
        }
        Ok((serial, fd))
    }

    fn gone(&self, serial: u32) {
        lock(&self.gates).remove(&serial);
        lock(&self.channels).remove(&serial);
    }

    /// Requests on a channel, until it is closed.
    fn channel(self: &Arc<Self>, object: &Object, socket: Arc<OwnedFd>) -> io::Result<()> {
        let mut from = Receiver::new(socket);
        while let Some(frame) = from.request()? {
            dispatch::answer(self, object, &frame, from.socket())?;
        }
        Ok(())
    }

    /// Ends everything: runs, and the waiting for requests.
    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for c in lock(&self.channels).values() {
            let _ = rustix::net::shutdown(c, Shutdown::Both);
        }
        for g in lock(&self.gates).values() {
            g.handle.kick();
        }
    }

    fn wait(&self) {
        let mut n = lock(&self.threads);
        while *n > 0 {
            // A run that began just now is kicked again.
            let r = self.last.wait_timeout(n, std::time::Duration::from_millis(50));
            n = r.unwrap_or_else(PoisonError::into_inner).0;
            if *n > 0 {
                drop(n);
                self.stop();
                n = lock(&self.threads);
            }
        }
    }

    /// Requests on the connection.
    fn connection(self: &Arc<Self>, socket: OwnedFd) -> io::Result<()> {
        let system = Object {
            d: Descriptor::System(self.options.kvm.clone()),
            vm: 0,
            fd: Fd::Kvm,
            gate: None,
            position: Mutex::new(0),
        };
        let mut from = Receiver::new(socket);
        while let Some(frame) = from.request()? {
            match frame.head.op {
                op::HELLO => {
                    let result = if frame.head.extra == VERSION { 0 } else { -EIO };
                    refuse(from.socket(), result, VERSION)?;
                }
                op::KICK => {
                    let gate =
                        u32::try_from(frame.head.arg).ok().and_then(|n| lock(&self.gates).get(&n).cloned());
                    gate.iter().for_each(|g| g.kick(frame.head.extra));
                }
                _ => dispatch::answer(self, &system, &frame, from.socket())?,
            }
        }
        Ok(())
    }
}

/// An answer without bytes.
pub(crate) fn refuse(socket: BorrowedFd<'_>, result: i32, extra: u64) -> io::Result<()> {
    send_reply(socket, Reply { result, extra, ..Reply::default() }, &[], &[])
}

/// Serves a client on its connection until it is gone; then all its VMs are.
pub fn serve(connection: OwnedFd, options: Options) -> io::Result<()> {
    // What the host's kernel says, and not the client.
    let pid =
        rustix::net::sockopt::socket_peercred(&connection).map_or(0, |c| c.pid.as_raw_nonzero().get() as u32);
    let session = Arc::new(Session {
        options,
        windows: Windows::default(),
        pid,
        since: Instant::now(),
        serial: AtomicU32::new(1),
        gates: Mutex::default(),
        channels: Mutex::default(),
        stopping: AtomicBool::new(false),
        threads: Mutex::new(0),
        last: Condvar::new(),
    });
    let r = session.connection(connection);
    session.stop();
    session.wait();
    r
}

const _: () = assert!(Reply::SIZE == 24);
