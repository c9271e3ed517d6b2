//! A client that lies, on the server's protocol: bytes decide what it sends.
//!
//! Frames are made of true and false pieces: garbage, lengths that do not fit, memory that is not there, descriptors of the
//! wrong kind, kicks of anything. Checked is that the server answers or closes, never hangs, and ends when its client does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use ulna_kvm_abi::ioctl::{self, ALL, on, request as req};
use ulna_kvm_abi::structs::{UserspaceMemoryRegion, VcpuInit, Wire};
use ulna_kvm_abi::wire::{OPEN, Part, Request, op, part};
use ulna_kvm_core::{ClockKind, Kvm, KvmConfig, Policy};
use ulna_profile::Profile;
use ulna_serve::client::{Client, pair};
use ulna_serve::{Options, frame, serve};

const ARG: u64 = 0x1000;
const USER: u64 = 0x10_0000;
const LEN: u64 = 0x4000;
const RAM: u64 = 0x8000_0000;
/// Longer than any answer takes.
const LONG: Duration = Duration::from_secs(20);

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Frames sent.
    pub frames: u64,
    /// Answers that came.
    pub answers: u64,
    /// Channels that the server closed.
    pub closed: u64,
}

/// The bytes that decide.
struct Choice<'a>(&'a [u8]);

impl Choice<'_> {
    fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }
    fn below(&mut self, n: usize) -> Option<usize> {
        Some((usize::from(self.u8()?) | usize::from(self.u8()?) << 8) % n.max(1))
    }
    fn word(&mut self) -> Option<u64> {
        Some(match self.u8()? % 8 {
            0 => u64::from(self.u8()? % 16),
            1 => ARG + u64::from(self.u8()?),
            2 => USER,
            3 => [OPEN, 0, LEN, 1 << 47, 1 << 63, 0xfff, 0x1_0000_0000, u64::MAX - 7][self.below(8)?],
            4 => RAM,
            5 => u64::from(self.u8()?) << 12,
            _ => {
                let n = self.0.len().min(8);
                let v = u64::from_bytes(&self.0[..n]);
                self.0 = &self.0[n..];
                v
            }
        })
    }
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let n = n.min(self.0.len());
        let b = self.0[..n].to_vec();
        self.0 = &self.0[n..];
        b
    }
}

struct Channel {
    client: Client,
    kind: u8,
    serial: u32,
    runs: u64,
}

struct World<'a> {
    choice: Choice<'a>,
    connection: Client,
    channels: Vec<Channel>,
    file: OwnedFd,
    event: OwnedFd,
    done: Done,
}

fn kvm() -> Arc<Kvm> {
    Arc::new(Kvm::new(KvmConfig {
        profile: Profile::builtin("n1").expect("a built-in profile"),
        policy: Policy::Hw,
        clock: ClockKind::Insn,
        engine: Default::default(),
        engine_options: Default::default(),
        random: Arc::new(|| 4),
        wall_clock: Arc::new(|| 0),
        strict: false,
    }))
}

/// A client does what `bytes` say.
///
/// # Panics
/// When the server hangs or panics.
pub fn run(bytes: &[u8]) -> Done {
    let (mine, theirs) = pair().expect("sockets");
    patient(mine.as_fd());
    let server = std::thread::spawn(move || {
        let _ = serve(theirs, Options { kvm: kvm(), strict: false, tracer: None });
    });
    let done = match (Client::connect(mine), memfd_create("fuzz", MemfdFlags::CLOEXEC)) {
        (Ok(connection), Ok(file)) => {
            let _ = ftruncate(&file, LEN);
            // b .
            let _ = rustix::io::pwrite(&file, &[0, 0, 0, 0x14], 0);
            let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("an eventfd");
            let choice = Choice(bytes);
            let mut w =
                World { choice, connection, channels: Vec::new(), file, event, done: Done::default() };
            let _ = w.start();
            let _ = w.steps();
            w.done
        }
        _ => Done::default(),
    };
    let begin = Instant::now();
    while !server.is_finished() {
        assert!(begin.elapsed() < LONG, "the server outlives its client");
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(server.join().is_ok(), "the server panicked");
    done
}

/// An answer that does not come is a failure.
fn patient(socket: BorrowedFd<'_>) {
    let _ = set_socket_timeout(socket, Timeout::Recv, Some(LONG));
    let _ = set_socket_timeout(socket, Timeout::Send, Some(LONG));
}

/// Which kind of error: closed, or late.
fn closed(e: &std::io::Error) -> bool {
    assert!(
        !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        "the server does not answer"
    );
    true
}

impl World<'_> {
    fn add(&mut self, made: (Client, u32), kind: u8) {
        patient(made.0.socket());
        self.channels.push(Channel { client: made.0, kind, serial: made.1, runs: 0 });
    }

    /// A VM with memory and a vCPU.
    fn start(&mut self) -> Option<()> {
        let mut vm = self.connection.make(&ioctl::CREATE_VM, 0).ok()?.ok()?;
        let mut vcpu = vm.0.make(&ioctl::CREATE_VCPU, 0).ok()?.ok()?;
        let region = UserspaceMemoryRegion {
            guest_phys_addr: RAM,
            memory_size: LEN,
            userspace_addr: USER,
            ..Default::default()
        };
        let whole = Part { addr: USER, len: LEN, id: 1, ..Part::default() };
        vm.0.set_memory(&region, whole, Some(self.file.as_fd())).ok()?;
        let mut b = [0; 32];
        VcpuInit { target: 5, ..Default::default() }.to_bytes(&mut b);
        vcpu.0.structure(&ioctl::ARM_VCPU_INIT, &b).ok()?;
        vcpu.0.set_reg(ulna_kvm_abi::RegId::PC.0, RAM).ok()?;
        self.add(vm, on::VM);
        self.add(vcpu, on::VCPU);
        Some(())
    }

    fn steps(&mut self) -> Option<()> {
        loop {
            match self.choice.u8()? % 16 {
                0 => {
                    // Garbage, perhaps behind a true first word; that channel is lost.
                    let mut b = self.choice.bytes(64);
                    if self.choice.u8()? < 200 && b.len() >= 8 {
                        b[..4].copy_from_slice(b"ulna");
                    }
                    let n = self.choice.below(self.channels.len())?;
                    if n >= 2 || self.channels.len() > 4 {
                        let c = self.channels.swap_remove(n);
                        self.done.frames += 1;
                        let _ = frame::send(c.client.socket(), &[&b], &[]);
                    }
                }
                1 => {
                    let n = self.choice.below(self.channels.len())?;
                    if n >= 2 {
                        self.channels.swap_remove(n);
                    }
                }
                2 => {
                    let (arg, extra) = (self.choice.word()?, self.choice.word()?);
                    let kick = Request { op: op::KICK, arg: arg % 8, extra: extra % 8, ..Request::default() };
                    self.connection.send(kick, &[], &[], &[]).ok()?;
                    self.done.frames += 1;
                }
                3 => {
                    let number = [req::CREATE_VCPU, req::GET_STATS_FD][self.choice.below(2)?];
                    let arg = self.choice.word()?;
                    let i = ALL.iter().find(|i| i.request() == number)?;
                    let kind = if number == req::CREATE_VCPU { on::VCPU } else { 0 };
                    if let Some(c) = self.channels.first_mut()
                        && let Ok(Ok(made)) = c.client.make(i, arg)
                    {
                        self.done.answers += 1;
                        self.add(made, kind);
                    }
                }
                _ => self.frame()?,
            }
        }
    }

    /// A frame with parts.
    fn frame(&mut self) -> Option<()> {
        let n = self.choice.below(self.channels.len() + 1)?;
        let kind = self.channels.get(n).map_or(on::SYSTEM, |c| c.kind);
        let i = &ALL[self.choice.below(ALL.len())?];
        let fits = i.on & kind != 0;
        let number = if fits || self.choice.u8()? < 40 { i.request() } else { self.choice.word()? as u32 };
        let what = match self.choice.u8()? {
            0..=5 => op::MAP,
            6..=12 => op::READ,
            13..=15 => u16::from(self.choice.u8()?).max(op::MAP + 1),
            _ => op::IOCTL,
        };
        let arg = if self.choice.u8()? < 200 && i.size != 0 { ARG } else { self.choice.word()? };
        let (mut parts, mut data, mut fds) = (Vec::new(), Vec::new(), Vec::new());
        if i.size != 0 {
            let mut b = vec![0; i.size.into()];
            for at in (0..b.len()).step_by(8) {
                self.choice.word()?.to_bytes(&mut b[at..]);
            }
            parts.push(Part {
                addr: ARG,
                len: b.len() as u64,
                kind: part::IN | part::OUT,
                ..Part::default()
            });
            data.push(b);
        }
        for _ in 0..self.choice.u8()? % 4 {
            let kind = u16::from(self.choice.u8()?) % 16;
            let mut p = Part {
                addr: self.choice.word()?,
                len: self.choice.word()?,
                offset: self.choice.word()?,
                kind,
                fd: 0,
                id: u32::from(self.choice.u8()? % 4),
            };
            if kind & part::IN != 0 {
                let b = self.choice.bytes((p.len % 512) as usize);
                if self.choice.u8()? < 250 {
                    p.len = b.len() as u64;
                }
                data.push(b);
            }
            if self.choice.u8()? < 128 {
                fds.push(if self.choice.u8()? < 128 { self.file.as_fd() } else { self.event.as_fd() });
                p.fd = fds.len() as u16;
            } else if self.choice.u8()? < 4 {
                p.fd = 9;
            }
            parts.push(p);
        }
        let runs = kind == on::VCPU && number == req::RUN && what == op::IOCTL;
        let mut extra = self.choice.word()?;
        if let Some(c) = self.channels.get_mut(n).filter(|_| runs) {
            c.runs += 1;
            extra = c.runs;
        }
        let head = Request { op: what, request: number, arg, extra, ..Request::default() };
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        self.done.frames += 1;
        let answered = match self.channels.get_mut(n) {
            Some(c) => {
                let mut sent = c.client.send(head, &parts, &data, &fds);
                if runs && sent.is_ok() {
                    // What does not end by itself is ended.
                    let kick = Request { op: op::KICK, arg: c.serial.into(), extra, ..Request::default() };
                    sent = self.connection.send(kick, &[], &[], &[]);
                }
                sent.and_then(|()| c.client.answer())
            }
            None => self.connection.ask(head, &parts, &data, &fds),
        };
        match answered {
            Ok(_) => self.done.answers += 1,
            Err(e) if closed(&e) => {
                self.done.closed += 1;
                if n >= self.channels.len() {
                    return None;
                }
                self.channels.remove(n);
            }
            Err(_) => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::bytes;

    #[test]
    fn a_client_that_lies_hurts_itself() {
        let mut all = Done::default();
        for seed in 0..60 {
            let d = run(&bytes(seed, 3000));
            all.frames += d.frames;
            all.answers += d.answers;
            all.closed += d.closed;
        }
        assert!(all.frames > 300 && all.answers > 100 && all.closed > 10, "{all:?}");
    }
}
