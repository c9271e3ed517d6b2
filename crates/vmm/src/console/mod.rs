//! Where the serial port ends: the terminal, a file, a pseudo-terminal, or nowhere.

mod escape;
mod terminal;

pub use escape::{Command, Escape};

use crate::config::Serial;
use crate::error::Error;
use crate::waker::Waker;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use terminal::RawMode;
use ulna_devices::pl011::ByteSink;

/// The outer end of the serial port, which outlives a reboot of the guest.
pub struct Console {
    input: Option<File>,
    output: Option<Arc<Output>>,
    escape: Option<Escape>,
    raw: Option<RawMode>,
    hurry: Waker,
    name: String,
    /// The other end of the pseudo-terminal: kept open so that it does not hang up between two users.
    _peer: Option<OwnedFd>,
}

/// Where bytes go.
struct Output {
    file: File,
    /// Wait for a slow reader (a pipe), or drop what it does not take (a pseudo-terminal that nobody reads).
    patient: bool,
    /// The machine stops: nobody waits for a slow reader any more.
    hurry: Waker,
}

/// Bytes that a pipe or terminal takes without blocking once it says that it can be written (PIPE_BUF).
const PIECE: usize = 4096;

impl Output {
    /// Writes all bytes. A vCPU waits here for a slow reader, but never in `write` itself, where nothing could end it.
    fn put(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.patient && !self.ready()? {
                return Ok(());
            }
            match (&self.file).write(&bytes[..bytes.len().min(PIECE)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.patient => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Waits until something can be written; false if the machine stops before.
    fn ready(&self) -> io::Result<bool> {
        let hurry = self.hurry.fd();
        let mut fds =
            [PollFd::new(&self.file, PollFlags::OUT), PollFd::from_borrowed_fd(hurry, PollFlags::IN)];
        loop {
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
                // An error condition counts as writable: the write tells which.
                Ok(_) => return Ok(!fds[0].revents().is_empty()),
            }
        }
    }
}

struct Sink(Arc<Output>);

impl ByteSink for Sink {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.put(bytes)
    }
}

struct Nowhere;

impl ByteSink for Nowhere {
    fn put(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

impl Console {
    /// Opens the outer end. The terminal stays as it is until [`Console::begin`].
    pub fn open(serial: &Serial, name: &str) -> Result<Console, Error> {
        let hurry = Waker::new()?;
        let mut console = Console {
            input: None,
            output: None,
            escape: None,
            raw: None,
            hurry: hurry.clone(),
            name: name.into(),
            _peer: None,
        };
        match serial {
            Serial::None => {}
            Serial::File(path) => {
                let file = File::create(path).map_err(|source| Error::File {
                    action: "write the serial port's output to",
                    path: path.clone(),
                    source,
                })?;
                console.output = Some(Arc::new(Output { file, patient: true, hurry }));
            }
            Serial::Stdio => {
                let fail = |e| Error::host("use standard input and output for the serial port", e);
                let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(fail)?;
                let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(fail)?;
                if rustix::termios::isatty(&stdin) {
                    console.escape = Some(Escape::default());
                }
                console.input = Some(File::from(stdin));
                console.output = Some(Arc::new(Output { file: File::from(stdout), patient: true, hurry }));
            }
            Serial::Pty => {
                let fail = |e: io::Error| Error::host("make a pseudo-terminal for the serial port", e);
                let (main, peer, path) = pseudo_terminal().map_err(fail)?;
                announce(name, &format!("the serial port is {path}"));
                let output = main.try_clone().map_err(fail)?;
                console.input = Some(main);
                console.output = Some(Arc::new(Output { file: output, patient: false, hurry }));
                console._peer = Some(peer);
            }
        }
        Ok(console)
    }

    /// The guest is about to start: tells the escape key and takes over the terminal. The terminal is given back when
    /// this console is dropped.
    pub fn begin(&mut self) -> Result<(), Error> {
        if self.raw.is_none()
            && self.escape.is_some()
            && let Some(input) = &self.input
        {
            announce(&self.name, escape::HELP);
            let fd = input.as_fd().try_clone_to_owned();
            let raw =
                fd.and_then(RawMode::enter).map_err(|e| Error::host("set the terminal to raw mode", e))?;
            self.raw = Some(raw);
        }
        Ok(())
    }

    /// What a serial port of the guest sends to.
    pub fn sink(&self) -> Box<dyn ByteSink> {
        match &self.output {
            Some(output) => Box::new(Sink(output.clone())),
            None => Box::new(Nowhere),
        }
    }

    /// The machine stops (or starts again): whether output waits for a slow reader.
    pub fn hurry(&self, hurry: bool) {
        if hurry {
            self.hurry.wake();
        } else {
            self.hurry.clear();
        }
    }

    /// The descriptor to wait for, while there is input to come.
    pub fn input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().map(|f| f.as_fd())
    }

    /// What was typed, into `out`, up to a command. Call it when [`Console::input`] is readable. After the end of the
    /// input there is none any more.
    pub fn read(&mut self, out: &mut Vec<u8>) -> Option<Command> {
        let mut buffer = [0u8; 256];
        let input = self.input.as_mut()?;
        match input.read(&mut buffer) {
            Ok(0) => self.close_input("ends"),
            Ok(n) => match &mut self.escape {
                None => out.extend(&buffer[..n]),
                Some(escape) => {
                    let mut typed = &buffer[..n];
                    while !typed.is_empty() {
                        let (used, command) = escape.feed(typed, out);
                        typed = &typed[used..];
                        match command {
                            Some(Command::Break) if !typed.is_empty() => {}
                            Some(command) => return Some(command),
                            None => {}
                        }
                    }
                }
            },
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(e) => self.close_input(&format!("fails ({e})")),
        }
        None
    }

    fn close_input(&mut self, why: &str) {
        self.input = None;
        tracing::info!("The console's input {why}; the guest goes on without");
    }
}

/// A line for the user. A closed standard error is no reason to fail.
fn announce(name: &str, what: &str) {
    let _ = writeln!(io::stderr(), "ulna: {name}: {what}");
}

fn pseudo_terminal() -> io::Result<(File, OwnedFd, String)> {
    let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&main)?;
    unlockpt(&main)?;
    let path = ptsname(&main, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let peer = rustix::fs::open(path.as_c_str(), flags, rustix::fs::Mode::empty())?;
    terminal::make_raw(&peer)?;
    fcntl_setfl(&main, fcntl_getfl(&main)? | OFlags::NONBLOCK)?;
    Ok((File::from(main), peer, path.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pty_carries_bytes_both_ways_and_never_blocks_the_guest() {
        let (main, peer, path) = pseudo_terminal().unwrap();
        assert!(path.starts_with("/dev/pts/"), "{path}");
        let hurry = Waker::new().unwrap();
        let out = Output { file: main.try_clone().unwrap(), patient: false, hurry: hurry.clone() };
        out.put(b"hello").unwrap();
        let mut b = [0u8; 5];
        let mut peer = File::from(peer);
        peer.read_exact(&mut b).unwrap();
        assert_eq!(&b, b"hello");
        peer.write_all(b"typed\r").unwrap();
        let mut console = Console {
            input: Some(main),
            output: None,
            escape: None,
            raw: None,
            hurry,
            name: String::new(),
            _peer: None,
        };
        let mut got = Vec::new();
        assert_eq!(console.read(&mut got), None);
        assert_eq!(got, b"typed\r", "raw: the carriage return stays");
        for _ in 0..1000 {
            out.put(&[b'x'; 1000]).unwrap();
        }
    }

    #[test]
    fn the_end_of_input_is_not_the_end_of_the_console() {
        let mut console = Console::open(&Serial::None, "t").unwrap();
        console.input = Some(File::open("/dev/null").unwrap());
        assert_eq!(console.read(&mut Vec::new()), None);
        assert!(console.input().is_none());
    }

    #[test]
    fn raw_mode_is_undone_on_drop() {
        let (_main, peer, _) = pseudo_terminal().unwrap();
        let before = rustix::termios::tcgetattr(&peer).unwrap();
        let mut cooked = before.clone();
        cooked.local_modes |= rustix::termios::LocalModes::ICANON | rustix::termios::LocalModes::ISIG;
        rustix::termios::tcsetattr(&peer, rustix::termios::OptionalActions::Now, &cooked).unwrap();
        let modes = || rustix::termios::tcgetattr(&peer).unwrap().local_modes;
        let want = modes();
        let raw = RawMode::enter(peer.try_clone().unwrap()).unwrap();
        assert!(!modes().contains(rustix::termios::LocalModes::ISIG), "Ctrl-C is the guest's");
        drop(raw);
        assert_eq!(modes(), want);
    }
}
