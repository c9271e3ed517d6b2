//! Random requests on the raw entry: bytes become requests that know the table, and what they may do is checked.
//!
//! The bytes choose descriptors, requests, arguments and memory, so that any byte string is a run: a fuzzer mutates them,
//! a generator makes them up. Checked is that nothing panics or hangs, and that what is refused changes nothing.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use ulna_kvm_abi::RegId;
use ulna_kvm_abi::ioctl::{ALL, Arg, Ioctl, on, request as req};
use ulna_kvm_abi::structs::Wire;
use ulna_kvm_core::raw::{ByteMem, Descriptor, FdTable, VcpuHandle};
use ulna_kvm_core::{ClockKind, Kvm, KvmConfig, Policy};
use ulna_profile::Profile;

/// Where the caller's memory is.
const BASE: u64 = 0x10_0000;
const LEN: usize = 0x2_0000;
const ARG: u64 = BASE;
const DATA: u64 = BASE + 0x2000;
/// Memory for the guest, inside the caller's.
const GUEST: u64 = BASE + 0x1_0000;
const RAM: u64 = 0x8000_0000;
/// A run that takes longer is kicked.
const PATIENCE: Duration = Duration::from_millis(2);

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Requests.
    pub requests: u64,
    /// Those that were refused, and left everything as it was.
    pub refused: u64,
    /// KVM_RUNs.
    pub runs: u64,
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
        let v = usize::from(self.u8()?) | if n > 256 { usize::from(self.u8()?) << 8 } else { 0 };
        Some(v % n.max(1))
    }
    fn u64(&mut self) -> Option<u64> {
        let n = self.0.len().min(8);
        if n == 0 {
            return None;
        }
        let v = u64::from_bytes(&self.0[..n]);
        self.0 = &self.0[n..];
        Some(v)
    }
    fn one<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let n = self.below(of.len())?;
        of.get(n).copied()
    }
    /// A word that means something to some request.
    fn word(&mut self) -> Option<u64> {
        let kind = self.u8()?;
        Some(match kind % 16 {
            0..=5 => u64::from(self.u8()? % 16),
            6 => self.one(&[
                RAM,
                RAM + 0x1000,
                RAM + 0x8000,
                1 << 40,
                1 << 47,
                0x0800_0000,
                0x080a_0000,
                0x0808_0000,
            ])?,
            7 => self.one(&[DATA, GUEST, GUEST + 0x1000, ARG, 0, u64::MAX, BASE + LEN as u64 - 4])?,
            8 => self.one(&[0x1000, 0x8000, 0x1_0000, 0xffff_f000])?,
            9 => 1 << (self.u8()? % 64),
            10 => self.one(&[
                0x4018_0000,
                0x0100_0020,
                0x0200_001b,
                0x0100_0400,
                0x8400_0000,
                0xc600_0000,
                0xffff,
            ])?,
            11 => !0,
            12 => u64::from(self.u8()?) << 32 | u64::from(self.u8()?) << 2,
            _ => self.u64()?,
        })
    }
}

struct World<'a> {
    choice: Choice<'a>,
    mem: ByteMem,
    files: FdTable,
    fds: Vec<i32>,
    ids: Vec<u64>,
    done: Done,
    /// Compare after so many requests.
    every: u32,
    watch: Sender<Option<Arc<VcpuHandle>>>,
}

/// The KVM that is asked.
fn kvm(host: &str) -> Kvm {
    let profile = Profile::builtin(host).or_else(|_| Profile::builtin("n1")).expect("a built-in profile");
    Kvm::new(KvmConfig {
        profile,
        policy: Policy::Hw,
        clock: ClockKind::Insn,
        engine: Default::default(),
        engine_options: Default::default(),
        random: Arc::new(|| 4),
        wall_clock: Arc::new(|| 0),
        strict: true,
    })
}

/// Carries out what `bytes` say. `every`: compare the state after so many requests (1: all; 0: never).
///
/// # Panics
/// When a refused request changed something.
pub fn run(bytes: &[u8], every: u32) -> Done {
    let mut choice = Choice(bytes);
    let Some(host) = choice.one(&["n1", "max", "a57", "thunderx2"]) else { return Done::default() };
    let (watch, watched) = channel::<Option<Arc<VcpuHandle>>>();
    let over = Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    // Kicks the vCPU that it was told of until it is told that the run is over.
    let watcher = std::thread::spawn(move || {
        let mut now: Option<Arc<VcpuHandle>> = None;
        while !stop.load(Ordering::SeqCst) {
            let news = match &now {
                Some(_) => watched.recv_timeout(PATIENCE).ok(),
                None => match watched.recv() {
                    Ok(v) => Some(v),
                    Err(_) => return,
                },
            };
            match news {
                Some(v) => now = v,
                None => now.iter().for_each(|v| v.kick()),
            }
        }
    });
    let files = FdTable::new(kvm(host)).with_limit(64);
    let system = files.open_system();
    let mut w = World {
        choice,
        mem: ByteMem::new(BASE, LEN),
        files,
        fds: vec![system],
        ids: Vec::new(),
        done: Done::default(),
        every,
        watch,
    };
    w.start();
    let _ = w.steps();
    let done = w.done;
    over.store(true, Ordering::SeqCst);
    drop(w);
    let _ = watcher.join();
    done
}

impl World<'_> {
    fn ask(&mut self, fd: i32, request: u32, arg: u64) -> i32 {
        let running = match self.files.get(fd) {
            Some(Descriptor::Vcpu(v)) if request == req::RUN => Some(v),
            _ => None,
        };
        self.done.requests += 1;
        let runs = running.is_some();
        if runs {
            self.done.runs += 1;
            let _ = self.watch.send(running);
        }
        let r = self.files.request(fd, request, arg, &self.mem).unwrap_or_else(|e| {
            let name = ALL.iter().find(|i| i.request() == request).map_or("?", |i| i.name);
            assert!(
                e.why().is_some(),
                "{name} ({request:#x}, {arg:#x}) on {fd} was refused without a reason: {e}"
            );
            -e.0
        });
        if runs {
            let _ = self.watch.send(None);
        }
        let opened = [req::CREATE_VM, req::CREATE_VCPU, req::GET_STATS_FD].contains(&request);
        if r >= 0 && opened {
            self.fds.push(r);
        }
        if r == 0 && request == req::CREATE_DEVICE {
            let fd = self.mem.get::<u32>(arg + 4).unwrap_or_default() as i32;
            if self.files.get(fd).is_some() && !self.fds.contains(&fd) {
                self.fds.push(fd);
            }
        }
        r
    }

    /// A VM with memory and a vCPU, so that most requests have something to work on.
    fn start(&mut self) {
        let vm = self.ask(self.fds[0], req::CREATE_VM, 0);
        let vcpu = self.ask(vm, req::CREATE_VCPU, 0);
        for (at, v) in [(0, 0u64), (8, RAM), (16, 0x8000), (24, GUEST)] {
            let _ = self.mem.put(ARG + at, v);
        }
        self.ask(vm, req::SET_USER_MEMORY_REGION, ARG);
        let _ = self.mem.put(ARG, [5u32, 4, 0, 0, 0, 0, 0, 0]);
        self.ask(vcpu, req::ARM_VCPU_INIT, ARG);
        if let Some(Descriptor::Vcpu(v)) = self.files.get(vcpu) {
            self.ids = v.lock().reg_list().unwrap_or_default().iter().map(|r| r.0).collect();
        }
        let _ = self.files.add_eventfd(eventfd());
    }

    fn steps(&mut self) -> Option<()> {
        loop {
            match self.choice.u8()? % 16 {
                0 => {
                    // A descriptor is closed now and then.
                    let n = self.choice.below(self.fds.len())?;
                    if self.fds.len() > 6 && n > 2 {
                        let fd = self.fds.swap_remove(n);
                        let _ = self.files.close(fd);
                    }
                }
                1 => {
                    let (at, v) = (self.choice.u64()? % (LEN as u64 - 8), self.choice.word()?);
                    let _ = self.mem.put(BASE + at, v);
                }
                2 => {
                    // Instructions for the guest.
                    let at = (self.choice.u64()? % 0x7000) & !3;
                    let words =
                        [0xd400_0002u32, 0xf940_0001, 0xf900_0001, 0xd503_207f, 0x1400_0000, 0xd400_0003];
                    let v = self.choice.one(&words)?;
                    let _ = self.mem.put(GUEST + at, v);
                }
                3 => {
                    let (at, v) = (self.choice.u8()?, self.choice.word()?);
                    if let Some(v2) = self.vcpu() {
                        v2.page().put(usize::from(at), v);
                    }
                }
                4 => {
                    let fd = *self.fds.get(self.choice.below(self.fds.len())?)?;
                    let (request, arg) = (self.choice.u64()? as u32, self.choice.word()?);
                    self.checked(fd, request, arg);
                }
                _ => self.known()?,
            }
        }
    }

    fn vcpu(&mut self) -> Option<Arc<VcpuHandle>> {
        self.fds.iter().rev().find_map(|fd| match self.files.get(*fd) {
            Some(Descriptor::Vcpu(v)) => Some(v),
            _ => None,
        })
    }

    /// A request of the table, mostly on a descriptor that knows it.
    fn known(&mut self) -> Option<()> {
        let i = &ALL[self.choice.below(ALL.len())?];
        let wrong = self.choice.u8()? < 8;
        let fits = |fd: &&i32| self.files.get(**fd).is_some_and(|d| d.kind() & i.on != 0);
        let candidates: Vec<i32> =
            if wrong { self.fds.clone() } else { self.fds.iter().filter(fits).copied().collect() };
        if candidates.is_empty() {
            return Some(());
        }
        let fd = candidates[self.choice.below(candidates.len())?];
        let arg = match i.arg {
            Arg::Zero => u64::from(self.choice.u8()? == 0),
            Arg::Number | Arg::Ignored => self.choice.word()?,
            Arg::In | Arg::Out | Arg::InOut => self.structure(i)?,
        };
        self.checked(fd, i.request(), arg);
        Some(())
    }

    /// Fills in an argument structure; its address.
    fn structure(&mut self, i: &Ioctl) -> Option<u64> {
        if self.choice.u8()? < 6 {
            return self.choice.one(&[0, BASE - 8, BASE + LEN as u64 - 4, u64::MAX - 3]);
        }
        // Words of the size that the structures mostly have.
        for at in (0..u64::from(i.size).min(96)).step_by(4) {
            let v = self.choice.word()? as u32;
            let _ = self.mem.put(ARG + at, v);
        }
        let wide = |w: &Self, at: u64, v: u64| {
            let _ = w.mem.put(ARG + at, v);
        };
        match i.request() {
            req::GET_ONE_REG | req::SET_ONE_REG => {
                let id = match self.choice.u8()? {
                    0..=200 if !self.ids.is_empty() => self.ids[self.choice.below(self.ids.len())?],
                    _ => RegId::PC.0 ^ 1 << (self.choice.u8()? % 64),
                };
                wide(self, 0, id);
                let addr = if self.choice.u8()? < 8 { 0 } else { DATA };
                wide(self, 8, addr);
            }
            req::ARM_VCPU_INIT => {
                let bits = self.choice.one(&[4u32, 0, 5, 0xc, 0x64, 0xff])?;
                let _ = self.mem.put(ARG, [5, bits, 0, 0, 0, 0, 0, 0]);
            }
            req::SET_DEVICE_ATTR | req::GET_DEVICE_ATTR | req::HAS_DEVICE_ATTR => {
                let addr = if self.choice.u8()? < 8 { 0 } else { DATA };
                wide(self, 16, addr);
                if self.choice.u8()? < 128 {
                    let attr = u64::from(self.choice.u8()?) << 2;
                    wide(self, 8, attr);
                }
            }
            req::CREATE_DEVICE => {
                let kind = self.choice.one(&[5u32, 7, 8, 7])?;
                let _ = self.mem.put(ARG, kind);
            }
            req::GET_REG_LIST => {
                let n = self.choice.one(&[0, 100, 300, u64::MAX])?;
                wide(self, 0, n);
            }
            req::SET_USER_MEMORY_REGION | req::SET_USER_MEMORY_REGION2 => {
                let slot = u64::from(self.choice.u8()? % 4) | u64::from(self.choice.u8()? % 4) << 32;
                wide(self, 0, slot);
                let (gpa, len) = (u64::from(self.choice.u8()? % 16), u64::from(self.choice.u8()? % 5));
                wide(self, 8, RAM + gpa * 0x4000);
                wide(self, 16, len * 0x2000);
                wide(self, 24, GUEST);
            }
            _ => {}
        }
        Some(ARG)
    }

    fn state(&self) -> String {
        let mut s = String::new();
        for fd in &self.fds {
            match self.files.get(*fd) {
                Some(Descriptor::Vm(v)) => s += &v.dump(),
                Some(Descriptor::Vcpu(v)) => s += &v.dump(),
                _ => {}
            }
        }
        s
    }

    fn checked(&mut self, fd: i32, request: u32, arg: u64) {
        let compare = self.every != 0 && self.done.requests.is_multiple_of(self.every.into());
        let before = compare.then(|| (self.state(), self.fds.len()));
        let r = self.ask(fd, request, arg);
        if r >= 0 {
            return;
        }
        self.done.refused += 1;
        let on_vcpu = self.files.get(fd).is_some_and(|d| d.kind() == on::VCPU);
        if on_vcpu && request == req::RUN {
            // A run that fails has run.
            return;
        }
        if let Some((before, fds)) = before {
            let name = ALL.iter().find(|i| i.request() == request).map_or("?", |i| i.name);
            let after = self.state();
            assert!(
                before == after,
                "{name} ({request:#x}, {arg:#x}) on {fd} was refused with {r} and changed\n{}",
                difference(&before, &after)
            );
            assert_eq!(fds, self.fds.len());
        }
    }
}

/// The first line that differs.
fn difference(a: &str, b: &str) -> String {
    let line = a.lines().zip(b.lines()).find(|(a, b)| a != b);
    line.map_or_else(|| "the number of lines".into(), |(a, b)| format!("{a}\nto\n{b}"))
}

fn eventfd() -> Arc<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd"))
}

/// Bytes for a run, of a generator with this seed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut r = crate::generate::Rng::new(seed);
    (0..len.div_ceil(8)).flat_map(|_| r.bits().to_le_bytes()).take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_changes_nothing() {
        let mut all = Done::default();
        for seed in 0..40 {
            let d = run(&bytes(seed, 4096), 1);
            all.requests += d.requests;
            all.refused += d.refused;
            all.runs += d.runs;
        }
        assert!(
            all.requests > 4_000 && all.refused > all.requests / 4 && all.refused < all.requests,
            "{all:?}"
        );
        assert!(all.runs > 20, "{all:?}");
    }

    #[test]
    fn no_bytes_are_no_requests() {
        assert_eq!(run(&[], 1), Done::default());
    }
}
