//! A tap interface of the host.

use super::{MAX_FRAME, NetBackend};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// A tap interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Not a name of an interface.
    #[error("tap {0:?}: an interface name has 1 to 15 letters, digits, '-', '_' or '.'")]
    Name(String),
    /// Permissions.
    #[error(
        "tap {0}: permission denied; make it first: ip tuntap add dev {0} mode tap user $USER && ip link set {0} up"
    )]
    Denied(String),
    /// Somebody else has it.
    #[error("tap {0}: busy, another process uses it")]
    Busy(String),
    /// Anything else.
    #[error("tap {name}: {source}")]
    Io {
        /// The interface.
        name: String,
        /// What the host says.
        source: io::Error,
    },
}

/// An open tap interface, one frame per read and write.
pub struct Tap {
    fd: OwnedFd,
    buffer: Vec<u8>,
    /// Bytes of the frame in `buffer`; 0 if there is none.
    len: usize,
}

impl Tap {
    /// Attaches to interface `name`, which is made if it does not exist and we may.
    pub fn open(name: &str) -> Result<Tap, TapError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 15 || !name.chars().all(allowed) || matches!(name, "." | "..") {
            return Err(TapError::Name(name.into()));
        }
        let fail = |source: io::Error| match Errno::from_io_error(&source) {
            Some(Errno::PERM | Errno::ACCESS) => TapError::Denied(name.into()),
            Some(Errno::BUSY) => TapError::Busy(name.into()),
            _ => TapError::Io { name: name.into(), source },
        };
        let iface = tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tap).map_err(fail)?;
        let fd = own(&iface).map_err(fail)?;
        Ok(Tap { fd, buffer: vec![0; MAX_FRAME], len: 0 })
    }
}

/// The crate lends its descriptor as a number only; asking the kernel for a duplicate by number is the way to an owned
/// one without `unsafe`.
fn own(iface: &tun_tap::Iface) -> io::Result<OwnedFd> {
    let myself = pidfd_open(getpid(), PidfdFlags::empty())?;
    let fd = pidfd_getfd(&myself, iface.as_raw_fd(), PidfdGetfdFlags::empty())?;
    fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
    Ok(fd)
}

impl NetBackend for Tap {
    fn source(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    fn peek(&mut self) -> io::Result<Option<&[u8]>> {
        if self.len == 0 {
            match rustix::io::read(&self.fd, &mut self.buffer[..]) {
                Ok(n) => self.len = n,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok((self.len > 0).then(|| &self.buffer[..self.len]))
    }

    /// The kernel keeps the queue (txqueuelen).
    fn pump(&mut self) -> io::Result<()> {
        self.peek().map(drop)
    }

    fn hungry(&self) -> bool {
        self.len == 0
    }

    fn consume(&mut self) {
        self.len = 0;
    }

    /// An interface that is down or full drops the frame.
    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let _ = rustix::io::write(&self.fd, frame);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn blocked(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_names_are_refused_before_the_kernel_sees_them() {
        for name in ["", "a/b", "tap%d", "sixteen-letters!", "sixteen-letters-", ".."] {
            assert!(matches!(Tap::open(name), Err(TapError::Name(_))), "{name:?}");
        }
    }

    /// Where the host lets us make an interface.
    #[test]
    fn a_fresh_tap_has_no_frames_and_takes_them_even_when_down() {
        let name = format!("ulna{}", std::process::id() % 100_000);
        let mut tap = match Tap::open(&name) {
            Ok(tap) => tap,
            Err(e) => {
                eprintln!("skipped: {e}");
                return;
            }
        };
        assert!(matches!(Tap::open(&name), Err(TapError::Busy(_))));
        assert!(tap.peek().unwrap().is_none(), "does not wait");
        tap.send(&[0xff; 60]).unwrap();
        assert!(tap.source().is_ok());
        drop(tap);
        assert!(
            !std::path::Path::new("/sys/class/net").join(&name).exists(),
            "it goes with its last descriptor"
        );
    }
}
