//! A flag that threads can wait for together with files.

use crate::error::Error;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Set from any thread; whoever polls its descriptor wakes.
#[derive(Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A new one.
    pub fn new() -> Result<Waker, Error> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        fd.map(|fd| Waker(Arc::new(fd))).map_err(|e| Error::host("make an event descriptor", e))
    }

    /// Wakes it.
    pub fn wake(&self) {
        // The only failure is a counter that is full, and then the loop is woken already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Forgets all wakes so far.
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }

    /// Waits for a wake and forgets it; `false` when none came in time.
    pub fn wait(&self, at_most: Duration) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)];
        let timeout = Timespec::try_from(at_most).ok();
        let woken = matches!(poll(&mut fds, timeout.as_ref()), Ok(1..));
        self.clear();
        woken
    }

    /// What the loop waits for.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
