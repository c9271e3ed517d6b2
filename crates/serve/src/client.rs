//! A client in Rust, on any host: for tests, measurements and fuzzing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use ulna_kvm_abi::ioctl::{self, Ioctl, request};
use ulna_kvm_abi::structs::{OneReg, Wire};
use ulna_kvm_abi::wire::{Part, Reply, Request, VERSION, op, part};

use crate::frame::{Receiver, send_request};

/// Where arguments are, in a memory that is made up.
const ARG: u64 = 0x1000;
const NESTED: u64 = 0x10_0000;

/// A pair of connected sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

/// A connection or a channel.
pub struct Client(Receiver);

/// The channel of a new descriptor, and the server's number of it; or minus an errno.
pub type Made = Result<(Client, u32), i32>;

/// What a request got.
#[derive(Debug)]
pub struct Answer {
    /// Header.
    pub head: Reply,
    /// Bytes that came out.
    pub data: Vec<u8>,
    /// Descriptors that came along.
    pub fds: Vec<OwnedFd>,
}

impl Client {
    /// Says hello on a connection.
    pub fn connect(socket: OwnedFd) -> io::Result<Client> {
        let mut c = Client(Receiver::new(socket));
        let hello =
            Request { op: op::HELLO, arg: std::process::id().into(), extra: VERSION, ..Request::default() };
        if c.ask(hello, &[], &[], &[])?.head.result != 0 {
            return Err(io::Error::other("the server speaks another version"));
        }
        Ok(c)
    }

    /// The channel of a descriptor.
    pub fn channel(socket: OwnedFd) -> Client {
        Client(Receiver::new(socket))
    }

    /// The socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.0.socket()
    }

    /// Any request.
    pub fn ask(
        &mut self,
        head: Request,
        parts: &[Part],
        data: &[&[u8]],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<Answer> {
        self.send(head, parts, data, fds)?;
        self.answer()
    }

    /// Sends a request and waits for nothing.
    pub fn send(
        &self,
        head: Request,
        parts: &[Part],
        data: &[&[u8]],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        send_request(self.0.socket(), head, parts, data, fds)
    }

    /// Waits for the answer to what was sent.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let (head, data, fds) = self.0.reply()?.ok_or_else(gone)?;
        Ok(Answer { head, data, fds })
    }

    /// An ioctl whose argument is a number.
    pub fn number(&mut self, i: &Ioctl, arg: u64) -> io::Result<i32> {
        let head = Request { op: op::IOCTL, request: i.request(), arg, ..Request::default() };
        Ok(self.ask(head, &[], &[], &[])?.head.result)
    }

    /// An ioctl that makes a descriptor: its channel.
    pub fn make(&mut self, i: &Ioctl, arg: u64) -> io::Result<Made> {
        let (mine, theirs) = pair()?;
        let head = Request { op: op::IOCTL, request: i.request(), arg, extra: 7, ..Request::default() };
        let a = self.ask(head, &[], &[], &[theirs.as_fd()])?;
        Ok(if a.head.result < 0 {
            Err(a.head.result)
        } else {
            Ok((Client::channel(mine), a.head.extra as u32))
        })
    }

    /// An ioctl with a structure: the result, and what comes out.
    pub fn structure(&mut self, i: &Ioctl, argument: &[u8]) -> io::Result<(i32, Vec<u8>)> {
        let kind = ioctl_kind(i);
        let parts = [Part { addr: ARG, len: argument.len() as u64, kind, ..Part::default() }];
        let head = Request { op: op::IOCTL, request: i.request(), arg: ARG, ..Request::default() };
        let data: &[&[u8]] = if kind & part::IN != 0 { &[argument] } else { &[] };
        let a = self.ask(head, &parts, data, &[])?;
        Ok((a.head.result, a.data))
    }

    /// KVM_SET_USER_MEMORY_REGION with `file` (its number: `id`) as the client's memory at `addr`.
    pub fn set_memory(
        &mut self,
        region: &ulna_kvm_abi::structs::UserspaceMemoryRegion,
        whole: Part,
        file: Option<BorrowedFd<'_>>,
    ) -> io::Result<i32> {
        let mut b = [0; 32];
        region.to_bytes(&mut b);
        let parts = [
            Part { addr: ARG, len: 32, kind: part::IN, ..Part::default() },
            Part { kind: part::MEMORY, fd: file.is_some().into(), ..whole },
        ];
        let i = &ioctl::SET_USER_MEMORY_REGION;
        let head = Request { op: op::IOCTL, request: i.request(), arg: ARG, ..Request::default() };
        let fds: Vec<_> = file.into_iter().collect();
        Ok(self.ask(head, &parts, &[&b], &fds)?.head.result)
    }

    /// KVM_SET_ONE_REG of 64 bits.
    pub fn set_reg(&mut self, id: u64, value: u64) -> io::Result<i32> {
        let mut b = [0; 16];
        OneReg { id, addr: NESTED }.to_bytes(&mut b);
        let parts = [
            Part { addr: ARG, len: 16, kind: part::IN, ..Part::default() },
            Part { addr: NESTED, len: 8, kind: part::IN, ..Part::default() },
        ];
        let head = Request { op: op::IOCTL, request: request::SET_ONE_REG, arg: ARG, ..Request::default() };
        Ok(self.ask(head, &parts, &[&b, &value.to_le_bytes()], &[])?.head.result)
    }

    /// KVM_GET_ONE_REG of up to 64 bits.
    pub fn get_reg(&mut self, id: u64) -> io::Result<Result<u64, i32>> {
        let mut b = [0; 16];
        OneReg { id, addr: NESTED }.to_bytes(&mut b);
        let parts = [
            Part { addr: ARG, len: 16, kind: part::IN, ..Part::default() },
            Part { addr: NESTED, len: ulna_kvm_abi::wire::OPEN, kind: part::OUT, ..Part::default() },
        ];
        let head = Request { op: op::IOCTL, request: request::GET_ONE_REG, arg: ARG, ..Request::default() };
        let a = self.ask(head, &parts, &[&b], &[])?;
        Ok(if a.head.result < 0 { Err(a.head.result) } else { Ok(u64::from_bytes(&a.data)) })
    }
}

/// Which way the structure goes.
fn ioctl_kind(i: &Ioctl) -> u16 {
    let (_, goes_in, comes_out) = ulna_kvm_abi::wire::argument(i).unwrap_or((0, true, false));
    (if goes_in { part::IN } else { 0 }) | (if comes_out { part::OUT } else { 0 })
}
