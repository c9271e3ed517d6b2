//! Raw mode of a terminal, undone on drop: every way out of a run passes there, panics included.

use rustix::termios::{LocalModes, OptionalActions, OutputModes, Termios, tcgetattr, tcsetattr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A terminal in raw mode.
pub struct RawMode {
    fd: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Keys reach the guest as they are, Ctrl-C among them. Output processing stays on: messages of ulna itself end in
    /// a plain newline.
    pub fn enter(fd: OwnedFd) -> io::Result<RawMode> {
        let before = tcgetattr(&fd)?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes = before.output_modes | OutputModes::OPOST;
        debug_assert!(!raw.local_modes.contains(LocalModes::ISIG));
        tcsetattr(&fd, OptionalActions::Now, &raw)?;
        Ok(RawMode { fd, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(&self.fd, OptionalActions::Now, &self.before);
    }
}

/// Raw mode for good, for our end of a pseudo-terminal.
pub fn make_raw(fd: impl AsFd) -> io::Result<()> {
    let mut raw = tcgetattr(&fd)?;
    raw.make_raw();
    tcsetattr(&fd, OptionalActions::Now, &raw)?;
    Ok(())
}
