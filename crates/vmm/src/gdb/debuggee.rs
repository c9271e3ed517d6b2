//! The machine as a debugger handles it: who stands, who goes, with which breakpoints.

use crate::gdb::hall::{Came, Hall};
use crate::gdb::points::{Points, WatchKind};
use crate::gdb::regs;
use crate::gdb::step::{Quiet, can_be_quiet};
use crate::gdb::walk::Regime;
use crate::gdb::{inject, step};
use crate::memory::{self, Memory};
use std::sync::Arc;
use ulna_kvm_backend::abi::{GuestDebug, guest_debug as control};
use ulna_kvm_backend::{RegId, Vcpu};
use vm_memory::{Bytes, GuestMemoryRegion, MemoryRegionAddress};

/// ESR.EC of debug exceptions, as they leave KVM.
const EC_BREAKPOINT: u32 = 0x30;
const EC_STEP: u32 = 0x32;
const EC_WATCHPOINT: u32 = 0x34;
const EC_BRK: u32 = 0x3c;

/// One life of the machine, handed to the debugger.
pub struct Machine {
    /// Its vCPUs.
    pub hall: Hall,
    /// RAM and flash.
    pub memory: Vec<Arc<Memory>>,
    /// Hardware breakpoints and watchpoints that KVM offers.
    pub hardware: (usize, usize),
    /// Ends the machine.
    pub quit: Box<dyn Fn() + Send>,
}

/// What a vCPU is to do when the others are let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Go on.
    Continue,
    /// One instruction.
    Step,
    /// Nothing.
    Stay,
}

/// Why everything stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A step is done, or something like it.
    Trap(usize),
    /// At a software breakpoint.
    Soft(usize),
    /// At a hardware breakpoint.
    Hard(usize),
    /// Before an access that is watched.
    Watch(usize, WatchKind, u64),
}

/// The machine in the debugger's hands.
pub struct Debuggee {
    machine: Machine,
    /// Breakpoints and watchpoints.
    pub points: Points,
    /// What each is to do next.
    pub actions: Vec<Action>,
    /// Those of which something was said.
    pub chosen: Vec<usize>,
    /// It goes.
    pub running: bool,
    /// The vCPU of the last stop.
    pub current: usize,
    applied: Vec<Option<GuestDebug>>,
    /// Memory was written behind the vCPUs' backs.
    patched: bool,
    quiet: Vec<Option<Quiet>>,
    regimes: Vec<Option<Regime>>,
}

impl Debuggee {
    /// A machine whose vCPUs are on their way into the hall.
    pub fn new(machine: Machine) -> Debuggee {
        let n = machine.hall.count();
        Debuggee {
            points: Points::new(machine.hardware),
            machine,
            actions: vec![Action::Continue; n],
            chosen: Vec::new(),
            running: false,
            current: 0,
            applied: vec![None; n],
            patched: false,
            quiet: vec![None; n],
            regimes: vec![None; n],
        }
    }

    /// Number of vCPUs.
    pub fn count(&self) -> usize {
        self.actions.len()
    }

    /// Says what a vCPU is to do.
    pub fn choose(&mut self, cpu: usize, action: Action) {
        if let Some(a) = self.actions.get_mut(cpu) {
            *a = action;
            self.chosen.push(cpu);
        }
    }

    /// Ends the machine.
    pub fn quit(&self) {
        (self.machine.quit)();
    }

    /// Asks something of a vCPU that stands.
    pub fn ask<R: Send + 'static>(
        &self,
        cpu: usize,
        question: impl FnOnce(&mut dyn Vcpu) -> ulna_kvm_backend::Result<R> + Send + 'static,
    ) -> Option<R> {
        match self.machine.hall.ask(cpu, question) {
            Some(Ok(r)) => Some(r),
            Some(Err(e)) => {
                tracing::debug!("gdb: vCPU {cpu} refuses: {e}");
                None
            }
            None => None,
        }
    }

    /// Brings everything to a stand.
    pub fn halt(&mut self) {
        if !self.machine.hall.gather() {
            tracing::warn!("gdb: a vCPU is held up by a device and goes on");
        }
        for cpu in 0..self.count() {
            self.end_quiet(cpu);
        }
        self.running = false;
    }

    /// Registers of a vCPU were written.
    pub fn forget(&mut self, cpu: usize) {
        if let Some(r) = self.regimes.get_mut(cpu) {
            *r = None;
        }
    }

    /// Lets all go that are not to stay.
    pub fn resume(&mut self) {
        self.machine.hall.open();
        self.running = true;
        for cpu in 0..self.count() {
            if self.actions[cpu] != Action::Stay {
                self.go(cpu);
            }
        }
    }

    /// All breakpoints away, and everything goes.
    pub fn let_go(&mut self) {
        self.halt();
        for soft in self.points.take_soft() {
            self.unpatch(soft.pa, soft.original);
        }
        self.points = Points::new(self.machine.hardware);
        self.actions.fill(Action::Continue);
        self.resume();
    }

    fn go(&mut self, cpu: usize) {
        self.forget(cpu);
        let stepping = self.actions[cpu] == Action::Step;
        if stepping {
            self.begin_quiet(cpu);
        }
        let mut wanted = self.points.guest_debug();
        if stepping {
            wanted.control |= control::ENABLE | control::SINGLESTEP;
        }
        if wanted.control != 0 {
            wanted.control |= control::USE_SW_BP;
        }
        let refresh = std::mem::take(&mut self.patched);
        if refresh || self.applied[cpu] != Some(wanted) {
            let done = self.ask(cpu, move |v| {
                if refresh && wanted.control == 0 {
                    // Only a vCPU with software breakpoints is said to look at its code again.
                    let on = control::ENABLE | control::USE_SW_BP;
                    v.set_guest_debug(&GuestDebug { control: on, ..GuestDebug::default() })?;
                }
                v.set_guest_debug(&wanted)
            });
            self.applied[cpu] = done.map(|()| wanted);
        }
        self.machine.hall.release(cpu);
    }

    /// A step is not to lead into an interrupt handler: interrupts wait meanwhile, unless the instruction would notice.
    fn begin_quiet(&mut self, cpu: usize) {
        let pc = self.ask(cpu, |v| v.get_reg_u64(RegId::PC));
        let word = pc.and_then(|pc| self.read_word(cpu, pc));
        if word.is_some_and(can_be_quiet) {
            self.quiet[cpu] = self.ask(cpu, step::begin).flatten();
        }
    }

    fn end_quiet(&mut self, cpu: usize) {
        if let Some(q) = self.quiet[cpu].take() {
            self.ask(cpu, move |v| step::end(v, q));
        }
    }

    /// What happened meanwhile, if it is for the debugger. Then everything stands.
    pub fn stopped(&mut self) -> Option<Stop> {
        while let Some((cpu, came)) = self.machine.hall.arrival() {
            if !self.running {
                continue;
            }
            let stop = match came {
                Came::Asked => None,
                Came::Debug(esr, far) => {
                    self.end_quiet(cpu);
                    self.classify(cpu, esr, far)
                }
            };
            match stop {
                Some(stop) => {
                    self.halt();
                    self.current = cpu;
                    return Some(stop);
                }
                None => self.go(cpu),
            }
        }
        None
    }

    /// A debug exception: the debugger's, or one of the guest's own, which it gets.
    fn classify(&mut self, cpu: usize, esr: u32, far: u64) -> Option<Stop> {
        let pc = self.ask(cpu, |v| v.get_reg_u64(RegId::PC))?;
        let hardware = self.points.uses_hardware();
        let stepped = self.actions[cpu] == Action::Step;
        match esr >> 26 {
            EC_STEP => return stepped.then_some(Stop::Trap(cpu)),
            EC_BRK => {
                let pa = self.translate(cpu, pc);
                if self.points.has_soft(pc, pa) {
                    return Some(Stop::Soft(cpu));
                }
            }
            EC_BREAKPOINT if hardware => return Some(Stop::Hard(cpu)),
            EC_WATCHPOINT if hardware => {
                let kind = self.points.watched(far).unwrap_or(WatchKind::ReadWrite);
                return Some(Stop::Watch(cpu, kind, far));
            }
            _ => {}
        }
        self.ask(cpu, move |v| inject::take(v, esr, far));
        stepped.then_some(Stop::Trap(cpu))
    }

    /// Physical address of `va` as `cpu` sees it.
    pub fn translate(&mut self, cpu: usize, va: u64) -> Option<u64> {
        let known = *self.regimes.get(cpu)?;
        let regime = match known {
            Some(r) => r,
            None => {
                let r = self.ask(cpu, regs::regime)?;
                self.regimes[cpu] = Some(r);
                r
            }
        };
        regime.translate(va, &|pa| {
            let mut b = [0; 8];
            self.physical(pa, &mut b).then(|| u64::from_le_bytes(b))
        })
    }

    /// As `cpu` sees it; the kernel's half by any other's tables if need be: with page-table isolation a vCPU at EL0 sees
    /// little of it.
    fn translate_somehow(&mut self, cpu: usize, va: u64) -> Option<u64> {
        self.translate(cpu, va).or_else(|| {
            let kernel = va >> 55 & 1 != 0;
            (0..self.count()).filter(|c| kernel && *c != cpu).find_map(|c| self.translate(c, va))
        })
    }

    fn region(&self, pa: u64, len: usize) -> Option<(&Memory, MemoryRegionAddress)> {
        let region = self.machine.memory.iter().find(|m| memory::range(m).contains(&pa))?;
        let offset = pa - region.start_addr().0;
        (region.len() - offset >= len as u64).then_some((&**region, MemoryRegionAddress(offset)))
    }

    fn physical(&self, pa: u64, buf: &mut [u8]) -> bool {
        self.region(pa, buf.len()).is_some_and(|(m, at)| m.read_slice(buf, at).is_ok())
    }

    fn store(&mut self, pa: u64, bytes: &[u8]) -> bool {
        self.patched = true;
        self.region(pa, bytes.len()).is_some_and(|(m, at)| m.write_slice(bytes, at).is_ok())
    }

    /// Goes through `va..va+len` by pages, as long as memory is there: physical address and the range of the buffer.
    fn pages(
        &mut self,
        cpu: usize,
        va: u64,
        len: usize,
        mut f: impl FnMut(&mut Debuggee, u64, std::ops::Range<usize>) -> bool,
    ) -> usize {
        let mut done = 0;
        while done < len {
            let at = va.wrapping_add(done as u64);
            let room = 0x1000 - (at & 0xfff) as usize;
            let end = done + room.min(len - done);
            let ok = self.translate_somehow(cpu, at).is_some_and(|pa| f(self, pa, done..end));
            if !ok {
                break;
            }
            done = end;
        }
        done
    }

    /// Reads memory; how many bytes there are.
    pub fn read(&mut self, cpu: usize, va: u64, buf: &mut [u8]) -> usize {
        let len = buf.len();
        self.pages(cpu, va, len, |d, pa, range| d.physical(pa, &mut buf[range]))
    }

    /// Writes memory; how many bytes were written.
    pub fn write(&mut self, cpu: usize, va: u64, bytes: &[u8]) -> usize {
        self.pages(cpu, va, bytes.len(), |d, pa, range| d.store(pa, &bytes[range]))
    }

    fn read_word(&mut self, cpu: usize, va: u64) -> Option<u32> {
        let mut b = [0; 4];
        (self.read(cpu, va, &mut b) == 4).then(|| u32::from_le_bytes(b))
    }

    /// Puts a BRK there.
    pub fn add_soft(&mut self, va: u64) -> bool {
        let cpus = std::iter::once(self.current).chain(0..self.count());
        let pa = cpus.collect::<Vec<_>>().into_iter().find_map(|cpu| self.translate(cpu, va));
        let Some(pa) = pa.filter(|pa| pa & 3 == 0) else { return false };
        let mut b = [0; 4];
        if !self.physical(pa, &mut b) {
            return false;
        }
        self.points.add_soft(va, pa, u32::from_le_bytes(b));
        self.store(pa, &Points::BRK.to_le_bytes())
    }

    /// Takes it away.
    pub fn remove_soft(&mut self, va: u64) {
        if let Some(soft) = self.points.remove_soft(va) {
            self.unpatch(soft.pa, soft.original);
        }
    }

    /// What was under a BRK comes back, unless the guest put something else there.
    fn unpatch(&mut self, pa: u64, original: u32) {
        let mut b = [0; 4];
        if self.physical(pa, &mut b) && u32::from_le_bytes(b) == Points::BRK {
            self.store(pa, &original.to_le_bytes());
        }
    }
}
