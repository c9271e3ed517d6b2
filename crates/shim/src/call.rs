//! An ioctl becomes a request: what it reads goes along, what it writes is received where it belongs.

use std::ffi::c_int;
use std::sync::atomic::Ordering;

use ulna_kvm_abi::ioctl::{Ioctl, on, request};
use ulna_kvm_abi::structs::{IoEventFd, IrqFd, UserspaceMemoryRegion, Wire};
use ulna_kvm_abi::wire::{self, MAGIC, NEED_FILE, Part, Reply, Request, op, part};

use crate::lock::Lock;
use crate::real::{Blocked, Fd, readable, sys, thread};
use crate::table::{self, Object, STATS};
use crate::{memory, run, server};

/// Longest structure of an argument.
const LONGEST: usize = 1024;
/// Answers longer than this are received in two steps: header, then what it announces.
const SHORT: u64 = 256;

/// A request that is put together, and where its answer goes.
#[derive(Default)]
pub struct Exchange {
    pub head: Request,
    pub parts: Vec<Part>,
    /// What goes in, in the order of the parts.
    data: Vec<libc::iovec>,
    /// Where what comes out goes: address and length ([`wire::OPEN`]: as long as it is).
    out: Vec<(u64, u64)>,
    /// Descriptors to send along.
    pub fds: Vec<c_int>,
    /// Descriptors that came along.
    pub got: Vec<Fd>,
}

impl Exchange {
    pub fn new(head: Request) -> Exchange {
        Exchange { head, ..Exchange::default() }
    }

    /// A range of the program's memory that is readable.
    pub fn goes_in(&mut self, addr: u64, at: *const u8, len: usize, more: u16) {
        self.parts.push(Part { addr, len: len as u64, kind: part::IN | more, ..Part::default() });
        self.data.push(libc::iovec { iov_base: at.cast_mut().cast(), iov_len: len });
    }

    /// What comes out goes to `addr`.
    pub fn comes_out(&mut self, addr: u64, len: u64) {
        self.out.push((addr, len));
    }

    /// A descriptor of the program, by its number, if it has it.
    fn descriptor(&mut self, fd: c_int) {
        if sys!(SYS_fcntl, fd, libc::F_GETFD).is_ok() {
            self.fds.push(fd);
            let n = self.fds.len() as u16;
            self.parts.push(Part { addr: fd as u64, kind: part::FD, fd: n, ..Part::default() });
        }
    }

    /// Sends it on `socket` and receives the answer. A peer that is gone is EIO.
    pub fn with(&mut self, socket: c_int, lock: Option<&Lock<()>>) -> Result<Reply, c_int> {
        {
            let _one = lock.map(Lock::lock);
            self.send(socket)?;
        }
        self.receive(socket)
    }

    /// Sends it.
    pub fn send(&mut self, socket: c_int) -> Result<(), c_int> {
        let mut head = self.head;
        let bytes: usize = self.data.iter().map(|d| d.iov_len).sum();
        head.magic = MAGIC;
        head.parts = self.parts.len() as u16;
        head.len = (self.parts.len() * Part::SIZE + bytes) as u32;
        head.fds = self.fds.len() as u32;
        head.thread = thread();
        let mut table = [0; Request::SIZE + 4 * Part::SIZE];
        let mut more = Vec::new();
        let size = Request::SIZE + self.parts.len() * Part::SIZE;
        let table = match table.get_mut(..size) {
            Some(t) => t,
            None => {
                more.resize(size, 0);
                &mut more[..]
            }
        };
        head.to_bytes(table);
        for (p, b) in self.parts.iter().zip(table[Request::SIZE..].chunks_mut(Part::SIZE)) {
            p.to_bytes(b);
        }
        let mut iov = Vec::with_capacity(1 + self.data.len());
        iov.push(libc::iovec { iov_base: table.as_mut_ptr().cast(), iov_len: size });
        iov.extend_from_slice(&self.data);
        send_all(socket, &mut iov, &self.fds).map_err(|_| libc::EIO)
    }

    /// Receives the answer.
    pub fn receive(&mut self, socket: c_int) -> Result<Reply, c_int> {
        let mut b = [0u8; Reply::SIZE];
        let mut have = 0;
        let short = self.out.iter().all(|o| o.1 <= SHORT);
        let mut written = 0;
        while have < Reply::SIZE {
            let mut iov =
                vec![libc::iovec { iov_base: b[have..].as_mut_ptr().cast(), iov_len: b.len() - have }];
            if short {
                let to =
                    |o: &(u64, u64)| libc::iovec { iov_base: o.0 as usize as *mut _, iov_len: o.1 as usize };
                iov.extend(self.out.iter().map(to));
            }
            match self.receive_some(socket, &mut iov) {
                Ok(0) => return Err(libc::EIO),
                Ok(n) => {
                    let header = n.min(b.len() - have);
                    have += header;
                    written += n - header;
                }
                Err(libc::EINTR) => {}
                // The program's memory: the header alone, then it will be seen whether there is more.
                Err(libc::EFAULT) if iov.len() > 1 => match self.receive_some(socket, &mut iov[..1]) {
                    Ok(0) => return Err(libc::EIO),
                    Ok(n) => have += n,
                    Err(libc::EINTR) => {}
                    Err(_) => return Err(libc::EIO),
                },
                Err(_) => return Err(libc::EIO),
            }
        }
        let reply = Reply::from_bytes(&b);
        if reply.magic != MAGIC {
            return Err(libc::EIO);
        }
        self.rest(socket, reply.len as usize, written)?;
        Ok(reply)
    }

    /// Receives what is still missing of an answer's `len` bytes.
    fn rest(&mut self, socket: c_int, len: usize, mut written: usize) -> Result<(), c_int> {
        let mut fault = false;
        let mut scratch = Vec::new();
        while written < len {
            // Where it belongs.
            let (mut skip, mut to) = (written as u64, None);
            for (n, (addr, room)) in self.out.iter().enumerate() {
                let room = if n + 1 == self.out.len() { u64::MAX } else { *room };
                if skip < room {
                    to = Some((addr + skip, (room - skip).min((len - written) as u64)));
                    break;
                }
                skip -= room;
            }
            let one = match to {
                Some((addr, n)) if !fault => {
                    libc::iovec { iov_base: addr as usize as *mut _, iov_len: n as usize }
                }
                _ => {
                    scratch.resize((len - written).min(1 << 16), 0u8);
                    libc::iovec { iov_base: scratch.as_mut_ptr().cast(), iov_len: scratch.len() }
                }
            };
            match self.receive_some(socket, &mut [one]) {
                Ok(0) => return Err(libc::EIO),
                Ok(n) => written += n,
                Err(libc::EINTR) => {}
                Err(libc::EFAULT) if !fault => fault = true,
                Err(_) => return Err(libc::EIO),
            }
        }
        if fault { Err(libc::EFAULT) } else { Ok(()) }
    }

    fn receive_some(&mut self, socket: c_int, iov: &mut [libc::iovec]) -> Result<usize, c_int> {
        let mut control = [0u64; 16];
        // SAFETY: all zero is a header.
        let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
        m.msg_iov = iov.as_mut_ptr();
        m.msg_iovlen = iov.len() as _;
        m.msg_control = control.as_mut_ptr().cast();
        m.msg_controllen = size_of_val(&control) as _;
        let n = sys!(SYS_recvmsg, socket, &raw mut m, libc::MSG_CMSG_CLOEXEC)?;
        // SAFETY: a header that recvmsg filled in.
        let mut c = unsafe { libc::CMSG_FIRSTHDR(&m) };
        // SAFETY: null, or inside the control bytes.
        while let Some(h) = unsafe { c.as_ref() } {
            if (h.cmsg_level, h.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                // SAFETY: the data of this message.
                let data = unsafe { libc::CMSG_DATA(c) }.cast::<c_int>();
                // SAFETY: only computes.
                let head = unsafe { libc::CMSG_LEN(0) } as usize;
                for i in 0..(h.cmsg_len - head) / size_of::<c_int>() {
                    // SAFETY: as many as its length says.
                    self.got.push(Fd(unsafe { data.add(i).read_unaligned() }));
                }
            }
            // SAFETY: the same header.
            c = unsafe { libc::CMSG_NXTHDR(&m, c) };
        }
        Ok(n)
    }
}

/// Sends all of it, with descriptors.
pub fn send_all(socket: c_int, iov: &mut [libc::iovec], fds: &[c_int]) -> Result<(), c_int> {
    let mut control = [0u64; 16];
    let mut first = 0;
    let mut fds = Some(fds).filter(|f| !f.is_empty());
    while first < iov.len() {
        // SAFETY: all zero is a header.
        let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
        m.msg_iov = iov[first..].as_mut_ptr();
        m.msg_iovlen = (iov.len() - first) as _;
        if let Some(fds) = fds {
            let bytes = size_of_val(fds) as u32;
            m.msg_control = control.as_mut_ptr().cast();
            // SAFETY: only computes.
            m.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as _;
            if m.msg_controllen as usize > size_of_val(&control) {
                return Err(libc::EINVAL);
            }
            // SAFETY: the control bytes have room for this header and its data.
            unsafe {
                let c = libc::CMSG_FIRSTHDR(&m);
                (*c).cmsg_level = libc::SOL_SOCKET;
                (*c).cmsg_type = libc::SCM_RIGHTS;
                (*c).cmsg_len = libc::CMSG_LEN(bytes) as _;
                std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(c), bytes as usize);
            }
        }
        match sys!(SYS_sendmsg, socket, &raw const m, libc::MSG_NOSIGNAL) {
            Ok(mut n) => {
                fds = None;
                while first < iov.len() && n >= iov[first].iov_len {
                    n -= iov[first].iov_len;
                    first += 1;
                }
                if let Some(v) = iov.get_mut(first) {
                    v.iov_base = v.iov_base.wrapping_byte_add(n);
                    v.iov_len -= n;
                }
            }
            Err(libc::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Sends a request where the object's requests go.
pub fn exchange(o: &Object, fd: c_int, e: &mut Exchange) -> Result<Reply, c_int> {
    if o.kind() == on::SYSTEM {
        return server::exchange(e);
    }
    if o.dead.load(Ordering::Relaxed) {
        return Err(libc::EIO);
    }
    let _one = o.exchange.lock();
    let r = e.with(fd, None);
    if r == Err(libc::EIO) {
        // What comes later would be out of step.
        o.dead.store(true, Ordering::Relaxed);
    }
    r
}

/// A pair of connected sockets: what becomes the program's descriptor, and its other end.
fn pair() -> Result<(Fd, Fd), c_int> {
    let mut fds: [c_int; 2] = [-1; 2];
    sys!(SYS_socketpair, libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())?;
    Ok((Fd(fds[0]), Fd(fds[1])))
}

/// What kind of descriptor a request makes.
fn makes(kind: u8, number: u32) -> Option<u8> {
    Some(match (kind, number) {
        (on::SYSTEM, request::CREATE_VM) => on::VM,
        (on::VM, request::CREATE_VCPU) => on::VCPU,
        (on::VM, request::CREATE_DEVICE) => on::DEVICE,
        (on::VM | on::VCPU, request::GET_STATS_FD) => STATS,
        _ => return None,
    })
}

/// An ioctl on a descriptor that came from `/dev/kvm`.
pub fn ioctl(o: &Object, fd: c_int, number: u32, arg: u64) -> Result<c_int, c_int> {
    let kind = o.kind();
    if !o.ours() {
        return Err(libc::EIO);
    }
    if kind == STATS {
        return Err(libc::ENOTTY);
    }
    let blocked = Blocked::new();
    if kind == on::VCPU && number == request::RUN {
        return run::run(o, fd, arg, &blocked);
    }
    let mut e =
        Exchange::new(Request { op: op::IOCTL, request: number, arg, extra: u64::MAX, ..Request::default() });
    let mut structure = [0u8; LONGEST];
    let mut known = 0;
    if let Some(i) = Ioctl::find(number, kind) {
        known = marshal(&mut e, i, kind, arg, &mut structure);
    }
    let structure = &structure[..known];
    let made = makes(kind, number);
    let mut mine = None;
    if made.is_some() {
        // EMFILE before anything is made.
        let (ours, theirs) = pair()?;
        e.head.extra = ours.0 as u64;
        e.fds.insert(0, theirs.0);
        mine = Some((ours, theirs));
    }
    let mut files = None;
    match number {
        request::SET_USER_MEMORY_REGION | request::SET_USER_MEMORY_REGION2 if known >= 32 => {
            let r = UserspaceMemoryRegion::from_bytes(structure);
            if r.memory_size != 0 && (r.memory_size | r.userspace_addr) & 4095 == 0 {
                let (parts, descriptors) = memory::describe(r.userspace_addr, r.memory_size)?;
                e.parts.extend(parts);
                files = Some(descriptors);
            }
        }
        request::IRQFD if known >= IrqFd::SIZE => {
            let i = IrqFd::from_bytes(structure);
            e.descriptor(i.fd as c_int);
            if i.flags & 2 != 0 {
                e.descriptor(i.resamplefd as c_int);
            }
        }
        request::IOEVENTFD if known >= IoEventFd::SIZE => e.descriptor(IoEventFd::from_bytes(structure).fd),
        _ => {}
    }
    let mut reply = exchange(o, fd, &mut e)?;
    if reply.result == NEED_FILE
        && let Some(files) = files
    {
        // The server has not seen this file, or has forgotten it.
        for (p, file) in e.parts.iter_mut().filter(|p| p.kind & part::MEMORY != 0).zip(files) {
            e.fds.push(file);
            p.fd = e.fds.len() as u16;
        }
        reply = exchange(o, fd, &mut e)?;
    }
    if reply.result < 0 {
        return Err(if reply.result == NEED_FILE { libc::ENOMEM } else { -reply.result });
    }
    if number == request::SET_SIGNAL_MASK {
        o.has_mask.store(arg != 0, Ordering::Relaxed);
        if arg != 0 {
            // Behind the length.
            let mask = e.data.last().map_or(0, |d| {
                // SAFETY: readable, as it was sent.
                unsafe { d.iov_base.cast::<u64>().read_unaligned() }
            });
            o.mask.store(mask, Ordering::Relaxed);
        }
    }
    if let (Some(kind), Some((ours, _))) = (made, mine)
        && reply.extra != 0
    {
        table::insert(ours.into_raw(), kind, reply.extra as u32);
    }
    Ok(reply.result)
}

/// Puts the argument's memory into the request; how many bytes of its structure are known.
fn marshal(e: &mut Exchange, i: &Ioctl, kind: u8, arg: u64, structure: &mut [u8; LONGEST]) -> usize {
    let Some((size, goes_in, comes_out)) = wire::argument(i) else { return 0 };
    // A null mask is no mask.
    if i.request() == request::SET_SIGNAL_MASK && arg == 0 || size > LONGEST {
        return 0;
    }
    let mut known = 0;
    if goes_in && readable(arg, size) {
        // SAFETY: readable.
        unsafe { std::ptr::copy_nonoverlapping(arg as usize as *const u8, structure.as_mut_ptr(), size) };
        known = size;
        let out = if comes_out { part::OUT } else { 0 };
        e.goes_in(arg, structure.as_ptr(), size, out);
        if comes_out {
            e.comes_out(arg, size as u64);
        }
    } else if comes_out && !goes_in {
        e.parts.push(Part { addr: arg, len: size as u64, kind: part::OUT, ..Part::default() });
        e.comes_out(arg, size as u64);
    }
    let Some(n) = wire::nested(i, kind, arg, &structure[..known]) else { return known };
    if known == 0 {
        return 0;
    }
    let sent = n.goes_in && n.len > 0 && readable(n.addr, n.len as usize);
    let out = if n.comes_out { part::OUT } else { 0 };
    if sent {
        e.goes_in(n.addr, n.addr as usize as *const u8, n.len as usize, out);
    } else if n.comes_out && n.addr != 0 {
        e.parts.push(Part { addr: n.addr, len: wire::OPEN, kind: part::OUT, ..Part::default() });
    }
    if n.comes_out {
        // How long a bitmap is, the server knows.
        e.comes_out(n.addr, if n.len == 0 { wire::OPEN } else { n.len });
    }
    known
}
