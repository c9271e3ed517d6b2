//! Signals that ask the process to end, as readable descriptors.

use rustix::event::{PollFd, PollFlags};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{pipe, unregister};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A flag that SIGINT and SIGTERM set from now on, instead of ending the process. Where it cannot be, they end it.
pub fn on_interrupt() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    for number in [SIGINT, SIGTERM] {
        if let Err(e) = signal_hook::flag::register(number, flag.clone()) {
            tracing::warn!("signal {number}: {e}");
        }
    }
    flag
}

/// Takes SIGHUP, SIGINT and SIGTERM for as long as it lives.
pub struct Signals {
    pipes: Vec<(u8, UnixStream, SigId)>,
}

impl Signals {
    /// From now on these signals are only noted.
    pub fn catch() -> io::Result<Signals> {
        let mut signals = Signals { pipes: Vec::new() };
        for number in [SIGHUP, SIGINT, SIGTERM] {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            let id = pipe::register(number, write)?;
            signals.pipes.push((number as u8, read, id));
        }
        Ok(signals)
    }

    /// What to wait for.
    pub fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.pipes.iter().map(|(_, fd, _)| PollFd::new(fd, PollFlags::IN))
    }

    /// A signal that came since the last call.
    pub fn take(&mut self) -> Option<u8> {
        let came = |fd: &mut UnixStream| matches!(fd.read(&mut [0u8; 16]), Ok(n) if n > 0);
        self.pipes.iter_mut().find_map(|(number, fd, _)| came(fd).then_some(*number))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for (_, _, id) in &self.pipes {
            unregister(*id);
        }
    }
}
