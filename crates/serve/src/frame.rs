//! Frames on a socket, with descriptors.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use ulna_kvm_abi::structs::Wire;
use ulna_kvm_abi::wire::{MAGIC, MAX_FDS, MAX_LEN, MAX_PARTS, Part, Reply, Request, part};

/// What is read at once: more than most frames have.
const CHUNK: usize = 2048;

/// A request as it came.
#[derive(Debug)]
pub struct Frame {
    /// Its header.
    pub head: Request,
    /// Its parts.
    pub parts: Vec<Part>,
    /// The bytes of the parts that go in.
    pub data: Vec<u8>,
    /// The descriptors that came along.
    pub fds: Vec<OwnedFd>,
}

/// An answer as it came, with its bytes and descriptors.
pub type Answered = (Reply, Vec<u8>, Vec<OwnedFd>);

/// What a peer may not send.
fn lie(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Frame {
    /// Do the parts fit the bytes?
    fn check(&self) -> io::Result<()> {
        let mut rest = self.data.len() as u64;
        for p in &self.parts {
            if p.kind & part::IN != 0 {
                rest = rest.checked_sub(p.len).ok_or_else(|| lie("a part is longer than its frame"))?;
            }
            if usize::from(p.fd) > self.fds.len() {
                return Err(lie("a descriptor did not come along"));
            }
        }
        if rest == 0 { Ok(()) } else { Err(lie("bytes that belong to no part")) }
    }
}

/// The receiving side of a socket.
pub struct Receiver {
    socket: Arc<OwnedFd>,
    buf: Vec<u8>,
    /// Bytes of `buf` that were taken.
    taken: usize,
    fds: VecDeque<OwnedFd>,
}

impl Receiver {
    /// Frames from this socket.
    pub fn new(socket: impl Into<Arc<OwnedFd>>) -> Receiver {
        Receiver { socket: socket.into(), buf: Vec::new(), taken: 0, fds: VecDeque::new() }
    }

    /// The socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().as_fd()
    }

    /// Reads until `need` bytes are there; `false`: the peer is gone.
    fn fill(&mut self, need: usize) -> io::Result<bool> {
        while self.buf.len() - self.taken < need {
            if self.taken > 0 && self.taken == self.buf.len() {
                self.buf.clear();
                self.taken = 0;
            }
            let had = self.buf.len();
            // Not more at once than a peer shows that it really sends.
            let want = (need - (had - self.taken)).clamp(CHUNK, 1 << 20);
            self.buf.resize(had + want, 0);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS as usize))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let got = loop {
                let mut iov = [IoSliceMut::new(&mut self.buf[had..])];
                match recvmsg(self.socket.as_ref(), &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
                    Err(rustix::io::Errno::INTR) => {}
                    r => break r,
                }
            };
            let n = match got {
                Ok(m) => m.bytes,
                Err(e) => {
                    self.buf.truncate(had);
                    return Err(e.into());
                }
            };
            for m in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = m {
                    self.fds.extend(fds);
                }
            }
            self.buf.truncate(had + n);
            if n == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn take(&mut self, n: usize) -> &[u8] {
        let at = self.taken;
        self.taken += n;
        &self.buf[at..at + n]
    }

    /// The next request; `None`: the peer is gone.
    pub fn request(&mut self) -> io::Result<Option<Frame>> {
        if !self.fill(Request::SIZE)? {
            return Ok(None);
        }
        let head = Request::from_bytes(self.take(Request::SIZE));
        if head.magic != MAGIC {
            return Err(lie("not a frame"));
        }
        let tables = usize::from(head.parts) * Part::SIZE;
        if head.len > MAX_LEN || head.parts > MAX_PARTS || head.fds > MAX_FDS || tables > head.len as usize {
            return Err(lie("a frame of impossible size"));
        }
        let len = head.len as usize;
        if !self.fill(len)? {
            return Ok(None);
        }
        let parts = self.take(tables).chunks_exact(Part::SIZE).map(Part::from_bytes).collect();
        let data = self.take(len - tables).to_vec();
        if (head.fds as usize) > self.fds.len() {
            return Err(lie("descriptors are missing"));
        }
        let fds = self.fds.drain(..head.fds as usize).collect();
        let frame = Frame { head, parts, data, fds };
        frame.check()?;
        Ok(Some(frame))
    }

    /// The next answer with its bytes and descriptors; `None`: the server is gone.
    pub fn reply(&mut self) -> io::Result<Option<Answered>> {
        if !self.fill(Reply::SIZE)? {
            return Ok(None);
        }
        let head = Reply::from_bytes(self.take(Reply::SIZE));
        if head.magic != MAGIC || head.len > MAX_LEN || head.fds as usize > self.fds.len() {
            return Err(lie("not an answer"));
        }
        if !self.fill(head.len as usize)? {
            return Ok(None);
        }
        let data = self.take(head.len as usize).to_vec();
        let fds = self.fds.drain(..head.fds as usize).collect();
        Ok(Some((head, data, fds)))
    }
}

/// Sends all of `parts`, with descriptors.
pub fn send(socket: BorrowedFd<'_>, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let total: usize = parts.iter().map(|p| p.len()).sum();
    let mut done = 0;
    while done < total {
        let mut skip = done;
        let mut iov = Vec::with_capacity(parts.len());
        for p in parts {
            let n = skip.min(p.len());
            skip -= n;
            if n < p.len() {
                iov.push(IoSlice::new(&p[n..]));
            }
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS as usize))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if done == 0 && !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(lie("too many descriptors"));
        }
        match sendmsg(socket, &iov, &mut control, SendFlags::NOSIGNAL) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Sends a request. `head.parts`, `len` and `fds` are filled in.
pub fn send_request(
    socket: BorrowedFd<'_>,
    mut head: Request,
    parts: &[Part],
    data: &[&[u8]],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes: usize = data.iter().map(|d| d.len()).sum();
    let mut table = vec![0; Request::SIZE + parts.len() * Part::SIZE];
    for (n, p) in parts.iter().enumerate() {
        p.to_bytes(&mut table[Request::SIZE + n * Part::SIZE..]);
    }
    head.magic = MAGIC;
    head.parts = parts.len() as u16;
    head.len = (parts.len() * Part::SIZE + bytes) as u32;
    head.fds = fds.len() as u32;
    head.to_bytes(&mut table);
    let mut all = vec![&table[..]];
    all.extend_from_slice(data);
    send(socket, &all, fds)
}

/// Sends an answer. `head.len` and `fds` are filled in.
pub fn send_reply(
    socket: BorrowedFd<'_>,
    mut head: Reply,
    data: &[&[u8]],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    head.magic = MAGIC;
    head.len = data.iter().map(|d| d.len()).sum::<usize>() as u32;
    head.fds = fds.len() as u32;
    let mut b = [0; Reply::SIZE];
    head.to_bytes(&mut b);
    let mut all = Vec::with_capacity(1 + data.len());
    all.push(&b[..]);
    all.extend_from_slice(data);
    send(socket, &all, fds)
}
