//! The stub's thread: waits for GDB, and for what happens to the machine.

use crate::gdb::Address;
use crate::gdb::debuggee::{Debuggee, Machine, Stop};
use crate::gdb::target;
use crate::waker::Waker;
use gdbstub::common::Signal;
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine as State;
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError, MultiThreadStopReason};
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long GDB may take to read what it asked for.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

/// What the machine's side leaves for the stub.
#[derive(Default)]
pub struct Desk {
    next: Mutex<Option<Machine>>,
    over: Mutex<Option<u8>>,
}

fn open<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// A new machine.
    pub fn bring(&self, m: Machine) {
        *open(&self.next) = Some(m);
    }
    /// There will be no other; the code with which the last one ended.
    pub fn close(&self, code: u8) {
        open(&self.over).get_or_insert(code);
    }
    fn take(&self) -> Option<Machine> {
        open(&self.next).take()
    }
    fn over(&self) -> Option<u8> {
        *open(&self.over)
    }
}

/// Where GDB comes in.
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A Unix socket, removed afterwards.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens; also where, if the host chose the port.
    pub fn bind(address: &Address) -> io::Result<(Listener, Address)> {
        match address {
            Address::Tcp(a) => {
                let listener = TcpListener::bind(a.as_str())?;
                let chosen = listener.local_addr()?.to_string();
                Ok((Listener::Tcp(listener), Address::Tcp(chosen)))
            }
            Address::Unix(path) => {
                // What a process left behind that is gone: nobody answers there.
                let socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
                if socket && UnixStream::connect(path).is_err() {
                    std::fs::remove_file(path)?;
                }
                let listener = UnixListener::bind(path)?;
                Ok((Listener::Unix(listener, path.clone()), address.clone()))
            }
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(l) => l.as_fd(),
            Listener::Unix(l, _) => l.as_fd(),
        }
    }

    fn accept(&self) -> io::Result<Link> {
        let fd: OwnedFd = match self {
            Listener::Tcp(l) => {
                let s = l.accept()?.0;
                s.set_nodelay(true)?;
                s.set_write_timeout(Some(SEND_PATIENCE))?;
                s.into()
            }
            Listener::Unix(l, _) => {
                let s = l.accept()?.0;
                s.set_write_timeout(Some(SEND_PATIENCE))?;
                s.into()
            }
        };
        Ok(Link { stream: fd.into(), out: Vec::new() })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The connection; what is written leaves in one piece.
struct Link {
    stream: File,
    out: Vec<u8>,
}

impl Connection for Link {
    type Error = io::Error;
    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.out.push(byte);
        Ok(())
    }
    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        self.out.extend_from_slice(buf);
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        let done = self.stream.write_all(&self.out);
        self.out.clear();
        done
    }
}

/// Sleeps until one of the two has something; whether the first has.
fn wait(fd: BorrowedFd<'_>, waker: &Waker) -> bool {
    let mut fds =
        [PollFd::from_borrowed_fd(fd, PollFlags::IN), PollFd::from_borrowed_fd(waker.fd(), PollFlags::IN)];
    // A signal, or nothing to wait with: the caller looks at everything again.
    let _ = poll(&mut fds, None);
    let ready = !fds[0].revents().is_empty();
    waker.clear();
    ready
}

/// The thread.
pub fn serve(listener: &Listener, desk: &Desk, waker: &Waker) {
    let mut debuggee: Option<Debuggee> = None;
    let mut seen = false;
    while desk.over().is_none() {
        if let Some(machine) = desk.take() {
            let mut d = Debuggee::new(machine);
            // The first machine waits for GDB; later ones do not, when GDB has left.
            if seen {
                d.let_go();
            }
            debuggee = Some(d);
        }
        // Who comes before there is a machine waits.
        let Some(d) = debuggee.as_mut() else {
            wait(waker.fd(), waker);
            continue;
        };
        if d.running {
            d.stopped();
        }
        if !wait(listener.fd(), waker) {
            continue;
        }
        let link = match listener.accept() {
            Ok(link) => link,
            Err(e) => {
                tracing::warn!("gdb: {e}");
                continue;
            }
        };
        seen = true;
        d.halt();
        match session(link, d, desk, waker) {
            Ok(DisconnectReason::Kill) => d.quit(),
            Ok(DisconnectReason::Disconnect) => d.let_go(),
            Ok(_) => return,
            Err(e) => {
                tracing::warn!("gdb: {e}");
                d.let_go();
            }
        }
    }
}

type Failure = GdbStubError<Infallible, io::Error>;

/// One connection, from its first byte to the last.
fn session(link: Link, d: &mut Debuggee, desk: &Desk, waker: &Waker) -> Result<DisconnectReason, String> {
    let text = |e: Failure| e.to_string();
    let mut gdb = GdbStub::new(link).run_state_machine(d).map_err(text)?;
    let mut input = VecDeque::new();
    loop {
        // A machine that was reset stands at its first instruction.
        let reset = desk.take().map(|machine| {
            let running = d.running;
            *d = Debuggee::new(machine);
            d.halt();
            running
        });
        gdb = match gdb {
            State::Idle(mut s) => match input.pop_front() {
                Some(byte) => s.incoming_data(d, byte).map_err(text)?,
                None if desk.over().is_some() => return Ok(DisconnectReason::TargetExited(0)),
                None => {
                    // A vCPU that a device had held up may come in late.
                    d.stopped();
                    receive(s.borrow_conn(), waker, &mut input)?;
                    s.into()
                }
            },
            State::Running(mut s) => {
                let stop = match (reset, desk.over()) {
                    (_, Some(code)) => Some(MultiThreadStopReason::Exited(code)),
                    (Some(true), None) => Some(target::reason(Stop::Trap(0))),
                    _ => d.stopped().map(target::reason),
                };
                match (stop, input.pop_front()) {
                    (Some(stop), byte) => {
                        // Typed before the stop was known: then it is for a machine that stands.
                        if let Some(byte) = byte {
                            input.push_front(byte);
                        }
                        s.report_stop(d, stop).map_err(text)?
                    }
                    (None, Some(byte)) => s.incoming_data(d, byte).map_err(text)?,
                    (None, None) => {
                        receive(s.borrow_conn(), waker, &mut input)?;
                        s.into()
                    }
                }
            }
            State::CtrlCInterrupt(s) => {
                let stop = d.running.then(|| {
                    d.halt();
                    target::signal(d.current, Signal::SIGINT)
                });
                s.interrupt_handled(d, stop).map_err(text)?
            }
            State::Disconnected(s) => return Ok(s.get_reason()),
        };
    }
}

/// Waits for bytes, or for anything else that the caller should look at.
fn receive(link: &mut Link, waker: &Waker, input: &mut VecDeque<u8>) -> Result<(), String> {
    if !wait(link.stream.as_fd(), waker) {
        return Ok(());
    }
    let mut buf = [0; 4096];
    match link.stream.read(&mut buf) {
        Ok(0) => Err("the connection ended without a word".into()),
        Ok(n) => {
            input.extend(&buf[..n]);
            Ok(())
        }
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}
