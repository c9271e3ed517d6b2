//! A request on a channel is carried out and answered.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ulna_kvm_abi::Errno;
use ulna_kvm_abi::ioctl::request;
use ulna_kvm_abi::structs::Wire;
use ulna_kvm_abi::wire::{NEED_FILE, Reply, op, part};
use ulna_kvm_core::raw::{self, Caller, Descriptor, Files, UserMem, run_offset};
use ulna_trace::{CallRecord, Piece};

use crate::frame::{Frame, send_reply};
use crate::memory::FrameMem;
use crate::session::{Object, Session, lock, refuse};

/// The client's descriptors, as far as a request shows them.
struct CallFiles<'a> {
    /// The number of the descriptor that may be made.
    number: Option<i32>,
    made: Mutex<Option<Descriptor>>,
    events: HashMap<i32, &'a OwnedFd>,
    strict: bool,
}

impl<'a> CallFiles<'a> {
    fn new(frame: &'a Frame, strict: bool) -> CallFiles<'a> {
        let fd = |n: u16| n.checked_sub(1).and_then(|n| frame.fds.get(usize::from(n)));
        let events = frame.parts.iter().filter(|p| p.kind & part::FD != 0);
        let events = events.filter_map(|p| Some((p.addr as i32, fd(p.fd)?))).collect();
        let number = i32::try_from(frame.head.extra).ok();
        CallFiles { number, made: Mutex::new(None), events, strict }
    }
}

impl Files for CallFiles<'_> {
    fn reserve(&self) -> ulna_kvm_core::Result<i32> {
        self.number.ok_or(Errno::EMFILE)
    }
    fn install(&self, _: i32, d: Descriptor) {
        *lock(&self.made) = Some(d);
    }
    fn release(&self, _: i32) {}
    fn eventfd(&self, fd: i32) -> ulna_kvm_core::Result<Arc<OwnedFd>> {
        let event = self.events.get(&fd).ok_or(Errno::EBADF)?;
        if !is_eventfd(event) {
            return Err(Errno::EINVAL);
        }
        let again = rustix::io::fcntl_dupfd_cloexec(event, 0);
        again.map(Arc::new).map_err(|e| Errno::new(e.raw_os_error()))
    }
    fn shares_pages(&self) -> bool {
        true
    }
    fn strict(&self) -> bool {
        self.strict
    }
}

/// Nothing but an eventfd may be written to by a guest.
fn is_eventfd(fd: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let link = rustix::fs::readlinkat(rustix::fs::CWD, name, Vec::new());
    link.is_ok_and(|l| l.as_bytes() == b"anon_inode:[eventfd]")
}

/// Carries out a request and answers it.
pub(crate) fn answer(
    session: &Arc<Session>,
    o: &Object,
    frame: &Frame,
    to: BorrowedFd<'_>,
) -> io::Result<()> {
    match frame.head.op {
        op::IOCTL => ioctl(session, o, frame, to),
        op::READ => read(o, frame, to),
        op::MAP => map(o, to),
        op::FAULTS => crate::faults::open(to),
        op::FAULT_IOCTL => crate::faults::ioctl(session, frame, to),
        _ => refuse(to, -Errno::ENOSYS.0, 0),
    }
}

fn ioctl(session: &Arc<Session>, o: &Object, frame: &Frame, to: BorrowedFd<'_>) -> io::Result<()> {
    let mem = FrameMem::new(&session.windows, frame);
    let files = CallFiles::new(frame, session.options.strict);
    let (number, arg) = (frame.head.request, frame.head.arg);
    let carry_out = || raw::serve(&o.d, number, arg, &Caller { mem: &mem, files: &files });
    let tracer = session.options.tracer.as_ref();
    let page = match &o.d {
        Descriptor::Vcpu(v) if number == request::RUN && tracer.is_some() => Some(v.page()),
        _ => None,
    };
    let look = || {
        let mut b = [0; run_offset::SIZE];
        page.map(|p| {
            p.read(0, &mut b);
            b
        })
    };
    let run_before = look();
    let when = tracer.map_or(Duration::ZERO, |_| session.since.elapsed());
    let result = match &o.gate {
        Some(gate) if number == request::RUN => {
            gate.run(frame.head.extra, (session.pid, frame.head.thread), carry_out)
        }
        _ => carry_out(),
    };
    if mem.needs_file() {
        return refuse(to, NEED_FILE, 0);
    }
    let run_after = look();
    let made = lock(&files.made).take();
    let made = match (made, frame.fds.first()) {
        (Some(d), Some(socket)) => {
            let index = match &d {
                Descriptor::Vcpu(_) => arg as u32,
                Descriptor::Device(..) => {
                    let mut b = [0; 4];
                    let _ = mem.read(arg, &mut b);
                    u32::from_bytes(&b)
                }
                _ => 0,
            };
            Some(session.adopt(d, o, index, rustix::io::fcntl_dupfd_cloexec(socket, 0)?)?)
        }
        _ => None,
    };
    let read: Vec<Piece> = match tracer {
        Some(_) => (0..frame.parts.len()).filter_map(|n| piece(frame, n, mem.given(n))).collect(),
        None => Vec::new(),
    };
    let out = mem.into_answer();
    if let Some(tracer) = tracer {
        let written: Vec<_> = out.iter().filter_map(|(n, data)| piece(frame, *n, data)).collect();
        tracer.call(&CallRecord {
            when,
            thread: frame.head.thread,
            fd: o.fd,
            request: number,
            arg,
            read: &read,
            written: &written,
            run: run_before.as_ref().zip(run_after.as_ref()).map(|(a, b)| (&a[..], &b[..])),
            opened: made.map(|m| m.1),
            result,
        });
    }
    let result = result.unwrap_or_else(|e| -e.0);
    let data: Vec<&[u8]> = out.iter().map(|(_, d)| d.as_slice()).collect();
    let extra = made.map_or(0, |m| m.0.into());
    send_reply(to, Reply { result, extra, ..Reply::default() }, &data, &[])
}

/// What a trace is told of a part.
fn piece(frame: &Frame, n: usize, bytes: &[u8]) -> Option<Piece> {
    let addr = frame.parts.get(n)?.addr;
    (!bytes.is_empty()).then(|| Piece { addr, bytes: bytes.to_vec() })
}

/// A file of statistics is read.
fn read(o: &Object, frame: &Frame, to: BorrowedFd<'_>) -> io::Result<()> {
    let Descriptor::Stats(file) = &o.d else { return refuse(to, -Errno::EINVAL.0, 0) };
    let most = usize::try_from(frame.head.arg).unwrap_or(usize::MAX).min(1 << 20);
    let mut b = vec![0; most];
    let n = if frame.head.extra == u64::MAX {
        let mut at = lock(&o.position);
        let n = file.read_at(&mut b, *at);
        *at += n as u64;
        n
    } else {
        file.read_at(&mut b, frame.head.extra)
    };
    send_reply(to, Reply { result: n as i32, ..Reply::default() }, &[&b[..n]], &[])
}

/// The pages of a vCPU.
fn map(o: &Object, to: BorrowedFd<'_>) -> io::Result<()> {
    let Descriptor::Vcpu(v) = &o.d else { return refuse(to, -Errno::ENODEV.0, 0) };
    let (Some(page), Ok(coalesced)) = (v.page().file(), v.vm().vm().coalesced_mmio_ring()) else {
        return refuse(to, -Errno::ENOMEM.0, 0);
    };
    let mut fds = vec![page.as_fd(), coalesced.file()];
    let mut bytes = 0;
    if let Some(r) = v.dirty_ring() {
        fds.push(r.pages().file());
        bytes = r.pages().bytes() as u64;
    }
    send_reply(to, Reply { result: 0, extra: bytes, ..Reply::default() }, &[], &fds)
}
