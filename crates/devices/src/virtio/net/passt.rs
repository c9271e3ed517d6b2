//! User-mode networking by the program `passt` (<https://passt.top>): no privileges needed.
//!
//! passt takes the other end of a socket pair. On this stream every frame follows its length in four bytes, big-endian.
//! The guest finds DHCP, a router and name service; the router's address leads to the host's loopback. passt leaves when
//! its socket is closed.

use super::{MAX_FRAME, NetBackend};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::set_socket_send_buffer_size;

const LENGTH: usize = 4;
/// Bytes read at once: a few full frames.
const READ_CHUNK: usize = 1 << 17;
/// Bytes wished for in each direction of the socket.
const SOCKET_BUFFER: usize = 4 << 20;
/// Bytes kept for a guest that is slower than passt. passt drops what its socket (some 200 KiB) cannot hold, and waits
/// two seconds before it sends that again: so this is more than the receive windows of a guest's connections.
const BACKLOG: usize = 8 << 20;

/// How the guest's network looks.
#[derive(Debug, Clone)]
pub struct PasstOptions {
    /// The program, if not the one in PATH.
    pub program: Option<PathBuf>,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Leading bits of the address that name the network.
    pub prefix: u8,
    /// The router, which is also the way to the host's loopback.
    pub gateway: Ipv4Addr,
    /// Payload of a frame, told by DHCP; give the same to [`super::Net`].
    pub mtu: u16,
    /// TCP ports of the host that lead into the guest: (host, guest).
    pub tcp_forward: Vec<(u16, u16)>,
}

impl Default for PasstOptions {
    /// The addresses that user-mode networks of virtual machines have had for twenty years.
    fn default() -> Self {
        PasstOptions {
            program: None,
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            mtu: 9000,
            tcp_forward: Vec::new(),
        }
    }
}

/// passt cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PasstError {
    /// Not installed.
    #[error(
        "user-mode networking needs the program `passt`, which is not in PATH; install the package passt, or use --net tap=IF or --net none"
    )]
    Missing,
    /// It ended at once.
    #[error("passt failed: {0}")]
    Failed(String),
    /// Anything else.
    #[error("passt: {0}")]
    Io(#[from] io::Error),
}

/// A running passt and our end of its socket.
pub struct Passt {
    socket: UnixStream,
    child: Child,
    /// What passt writes to its standard error.
    messages: File,
    /// Bytes received; the first `taken` of them are done with.
    input: Vec<u8>,
    taken: usize,
    /// Bytes to send; the first `sent` of them are gone.
    output: Vec<u8>,
    sent: usize,
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|p| is_program(p))
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}

impl Passt {
    /// Starts passt for a guest whose card has the address `mac`, and waits until it answers.
    pub fn start(options: &PasstOptions, mac: [u8; 6]) -> Result<Passt, PasstError> {
        let program = match &options.program {
            Some(p) => p.clone(),
            None => find("passt").ok_or(PasstError::Missing)?,
        };
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);
        // As much room as the host allows without asking (net.core.wmem_max).
        let _ = set_socket_send_buffer_size(&theirs, SOCKET_BUFFER);
        let _ = set_socket_send_buffer_size(&ours, SOCKET_BUFFER);
        fcntl_setfd(&theirs, FdFlags::empty()).map_err(io::Error::from)?; // passt inherits this one
        let messages = File::from(memfd_create("passt", MemfdFlags::CLOEXEC).map_err(io::Error::from)?);
        let mut command = Command::new(program);
        command
            .args(["--foreground", "--quiet", "--stderr"])
            .arg("--fd")
            .arg(theirs.as_raw_fd().to_string())
            .arg("--mtu")
            .arg(options.mtu.to_string())
            .arg("--address")
            .arg(options.address.to_string())
            .arg("--netmask")
            .arg(options.prefix.to_string())
            .arg("--gateway")
            .arg(options.gateway.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(messages.try_clone()?)
            .process_group(0); // Ctrl-C on our terminal is not meant for it
        for (host, guest) in &options.tcp_forward {
            command.arg("--tcp-ports").arg(format!("{host}:{guest}"));
        }
        let child = command.spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => PasstError::Missing,
            _ => PasstError::Io(e),
        })?;
        drop(theirs);
        let mut passt =
            Passt { socket: ours, child, messages, input: Vec::new(), taken: 0, output: Vec::new(), sent: 0 };
        passt.socket.set_nonblocking(true)?;
        match passt.greet(options, mac) {
            Ok(()) => Ok(passt),
            Err(e) => Err(PasstError::Failed(passt.last_words().unwrap_or_else(|| e.to_string()))),
        }
    }

    /// Asks for the router's hardware address: passt answers within milliseconds, or ends and says why.
    fn greet(&mut self, options: &PasstOptions, mac: [u8; 6]) -> io::Result<()> {
        self.send(&arp_request(mac, options.address, options.gateway))?;
        let wait = Duration::from_secs(2);
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut fds, Some(&wait))?;
        // Whatever came is for nobody; silence may be a network without IPv4, so only the end is an error.
        while self.peek()?.is_some() {
            self.consume();
        }
        Ok(())
    }

    /// The last line that passt wrote, complaints about a missing system log aside.
    fn last_words(&mut self) -> Option<String> {
        // The end of its socket comes before its end.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut text = vec![0; 4096];
        let n = rustix::io::pread(&self.messages, &mut text[..], 0).ok()?;
        let text = String::from_utf8_lossy(&text[..n]);
        let telling =
            |l: &&str| !l.trim().is_empty() && !l.contains("syslog") && !l.starts_with("Don't run as root");
        text.lines().rfind(telling).map(str::to_owned)
    }

    fn frame_len(&self) -> io::Result<Option<usize>> {
        let Some(head) = self.input[self.taken..].first_chunk::<LENGTH>() else { return Ok(None) };
        let len = u32::from_be_bytes(*head) as usize;
        if len == 0 || len > MAX_FRAME {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "passt sent a frame of impossible length",
            ));
        }
        Ok((self.input.len() - self.taken >= LENGTH + len).then_some(len))
    }

    /// Reads some of what there is. Returns false if there was nothing.
    fn fill(&mut self) -> io::Result<bool> {
        // Move the rest to the front only when that is less than what is done with.
        if self.taken * 2 >= self.input.len() {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        let have = self.input.len();
        self.input.resize(have + READ_CHUNK, 0);
        let result = self.socket.read(&mut self.input[have..]);
        self.input.truncate(have + result.as_ref().copied().unwrap_or(0));
        match result {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "passt has ended")),
            Ok(_) => Ok(true),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl NetBackend for Passt {
    fn source(&self) -> io::Result<OwnedFd> {
        Ok(self.socket.try_clone()?.into())
    }

    fn peek(&mut self) -> io::Result<Option<&[u8]>> {
        let len = loop {
            if let Some(len) = self.frame_len()? {
                break len;
            }
            if !self.fill()? {
                return Ok(None);
            }
        };
        let start = self.taken + LENGTH;
        Ok(Some(&self.input[start..start + len]))
    }

    fn pump(&mut self) -> io::Result<()> {
        while self.hungry() && self.fill()? {}
        Ok(())
    }

    fn hungry(&self) -> bool {
        self.input.len() - self.taken < BACKLOG
    }

    fn consume(&mut self) {
        if let Ok(Some(len)) = self.frame_len() {
            self.taken += LENGTH + len;
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        if !self.blocked() && frame.len() <= MAX_FRAME {
            self.output.clear();
            self.sent = 0;
            self.output.extend((frame.len() as u32).to_be_bytes());
            self.output.extend(frame);
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.blocked() {
            match self.socket.write(&self.output[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn blocked(&self) -> bool {
        self.sent < self.output.len()
    }
}

/// An ARP request in an Ethernet frame (RFC 826).
fn arp_request(mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend(mac);
    f.extend([0x08, 0x06]); // ARP
    f.extend([0, 1, 0x08, 0, 6, 4, 0, 1]); // Ethernet, IPv4, request
    f.extend(mac);
    f.extend(from.octets());
    f.extend([0; 6]);
    f.extend(to.octets());
    f
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    /// A passt that is a shell script. The socket is its argument after --fd.
    fn script(body: &str) -> (tempfile::TempDir, PasstOptions) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passt");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (dir, PasstOptions { program: Some(path), ..PasstOptions::default() })
    }

    #[test]
    fn a_missing_program_is_named_with_the_way_out() {
        let options = PasstOptions { program: Some("/nonexistent/passt".into()), ..PasstOptions::default() };
        let e = Passt::start(&options, MAC).err().unwrap();
        assert!(matches!(e, PasstError::Missing));
        assert!(e.to_string().contains("install the package passt"));
    }

    #[test]
    fn its_reason_for_ending_reaches_the_user() {
        let (_dir, options) =
            script("echo 'Failed to send 5 bytes to syslog' >&2; echo 'No routable interface' >&2; exit 1");
        let e = Passt::start(&options, MAC).err().unwrap();
        assert_eq!(e.to_string(), "passt failed: No routable interface");
    }

    fn wait_for_frame(p: &mut Passt) -> io::Result<Vec<u8>> {
        let start = Instant::now();
        loop {
            if let Some(f) = p.peek()? {
                let f = f.to_vec();
                p.consume();
                return Ok(f);
            }
            assert!(start.elapsed() < Duration::from_secs(5), "no frame");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        // The first frame releases the greeting; then two frames in odd pieces, then rubbish.
        let (_dir, options) = script(
            r#"eval "exec 9>&$5"
               printf '\000\000\000\001x' >&9; sleep 0.1
               printf '\000\000' >&9; sleep 0.05; printf '\000\003ab' >&9; sleep 0.05
               printf 'c\000\000\000\002de' >&9; sleep 0.1
               printf '\377\377\377\377' >&9; sleep 5"#,
        );
        let mut p = Passt::start(&options, MAC).unwrap();
        assert_eq!(wait_for_frame(&mut p).unwrap(), b"abc");
        assert_eq!(wait_for_frame(&mut p).unwrap(), b"de");
        assert_eq!(wait_for_frame(&mut p).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_full_socket_blocks_nobody_and_loses_no_byte() {
        let (dir, options) = script(
            r#"eval "exec 9<&$5"; printf '\000\000\000\001x' >&9
               while [ ! -e "$(dirname "$0")/go" ]; do sleep 0.02; done
               cat <&9 >"$(dirname "$0")/out""#,
        );
        let mut p = Passt::start(&options, MAC).unwrap();
        let mut sent = 0;
        while !p.blocked() {
            p.send(&[sent as u8; 1500]).unwrap();
            sent += 1;
            assert!(sent < 100_000, "the socket never fills");
        }
        std::fs::write(dir.path().join("go"), "").unwrap();
        let start = Instant::now();
        while p.blocked() {
            p.flush().unwrap();
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        let want = (LENGTH + 42) + sent * (LENGTH + 1500);
        let out = dir.path().join("out");
        while std::fs::metadata(&out).map_or(0, |m| m.len()) < want as u64 {
            assert!(start.elapsed() < Duration::from_secs(10), "bytes are lost");
            std::thread::sleep(Duration::from_millis(5));
        }
        let bytes = std::fs::read(out).unwrap();
        assert_eq!(bytes.len(), want);
        assert_eq!(bytes[46..50], 1500u32.to_be_bytes());
    }

    /// Against the real program, where it is installed and can run.
    #[test]
    fn the_real_passt_answers_arp() {
        if find("passt").is_none() {
            eprintln!("skipped: no passt");
            return;
        }
        let options = PasstOptions::default();
        let mut p = match Passt::start(&options, MAC) {
            Ok(p) => p,
            Err(e) => {
                eprintln!("skipped: {e}");
                return;
            }
        };
        p.send(&arp_request(MAC, options.address, options.gateway)).unwrap();
        let reply = wait_for_frame(&mut p).unwrap();
        assert_eq!(reply[..6], MAC);
        assert_eq!(reply[12..14], [0x08, 0x06]);
        assert_eq!(reply[21], 2, "a reply");
        assert_eq!(reply[28..32], options.gateway.octets());
    }
}
