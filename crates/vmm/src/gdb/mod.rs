//! A GDB stub: the remote protocol by `gdbstub`, the machine by guest debug and ONE_REG alone, so that it serves any KVM.
//!
//! The stub's thread ([`serve`]) owns the connection. A vCPU's registers are reached on the vCPU's own thread, which comes
//! into the [`hall`] when it is to stand still. All vCPUs stand or go together, as GDB's all-stop mode has it.

mod arch;
mod debuggee;
mod hall;
mod inject;
mod points;
mod regs;
mod serve;
mod step;
mod target;
mod walk;

pub use hall::{Came, Door, Exit, Hall};

use crate::error::Error;
use crate::memory::Memory;
use crate::waker::Waker;
use debuggee::Machine;
use serve::{Desk, Listener};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;
use ulna_kvm_backend::Kicker;

/// Where the stub listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// `HOST:PORT`.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    /// What has a slash is a path; `:PORT` is a port of this host only.
    fn from_str(text: &str) -> Result<Address, String> {
        if text.contains('/') {
            return Ok(Address::Unix(text.into()));
        }
        let (host, port) = text.rsplit_once(':').ok_or("one of HOST:PORT, :PORT, or a path with a slash")?;
        let _: u16 = port.parse().map_err(|_| "the port is a number from 0 to 65535")?;
        let host = if host.is_empty() { "localhost" } else { host };
        Ok(Address::Tcp(format!("{host}:{port}")))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(a) => f.write_str(a),
            Address::Unix(p) => write!(f, "{}", p.display()),
        }
    }
}

/// The stub while a machine, or one after the other, lives.
pub struct Debugger {
    desk: Arc<Desk>,
    waker: Waker,
    /// Where it listens; a port that the host chose is known here.
    pub address: Address,
    thread: Option<JoinHandle<()>>,
}

impl Debugger {
    /// Listens and waits for a machine and for GDB, whichever comes first.
    pub fn start(address: &Address) -> Result<Debugger, Error> {
        let (listener, address) =
            Listener::bind(address).map_err(|e| Error::host(format!("listen for GDB on {address}"), e))?;
        let (desk, waker) = (Arc::new(Desk::default()), Waker::new()?);
        let (d, w) = (desk.clone(), waker.clone());
        let thread = std::thread::Builder::new().name("gdb".into());
        let thread = thread.spawn(move || serve::serve(&listener, &d, &w));
        let thread = Some(thread.map_err(|e| Error::host("start a thread for GDB", e))?);
        Ok(Debugger { desk, waker, address, thread })
    }

    /// Hands a machine over. Its vCPU threads must go through the doors before they run.
    pub fn attach(
        &self,
        kickers: Vec<Kicker>,
        memory: Vec<Arc<Memory>>,
        hardware: (usize, usize),
        quit: Box<dyn Fn() + Send>,
    ) -> (Vec<Door>, Exit) {
        let (hall, doors) = Hall::new(kickers, self.waker.clone());
        let exit = hall.exit();
        self.desk.bring(Machine { hall, memory, hardware, quit });
        self.waker.wake();
        (doors, exit)
    }

    /// Tells GDB that the guest is off, with this code, and ends.
    pub fn finish(&mut self, code: u8) {
        self.desk.close(code);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        self.finish(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |s: &str| s.parse::<Address>();
        assert_eq!(parse(":1234"), Ok(Address::Tcp("localhost:1234".into())));
        assert_eq!(parse("[::1]:5"), Ok(Address::Tcp("[::1]:5".into())));
        assert_eq!(parse("./gdb"), Ok(Address::Unix("./gdb".into())));
        for bad in ["", "1234", "host", "host:", "host:x", "host:70000", ":-1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let unix = Address::Unix(dir.path().join("gdb"));
        for a in [Address::Tcp("localhost:0".into()), unix] {
            let first = Debugger::start(&a).unwrap();
            let again = Debugger::start(&first.address).err().unwrap().to_string();
            assert!(again.starts_with("Cannot listen for GDB on ") && again.contains("in use"), "{again}");
            drop(first);
            assert!(Debugger::start(&a).is_ok(), "free again");
        }
        // A socket that somebody left behind is no obstacle.
        let stale = dir.path().join("stale");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        assert!(stale.exists());
        drop(Debugger::start(&Address::Unix(stale.clone())).unwrap());
        assert!(!stale.exists());
        // A file that is no socket stays.
        std::fs::write(&stale, "text").unwrap();
        assert!(Debugger::start(&Address::Unix(stale.clone())).is_err());
        assert!(stale.exists());
    }
}
