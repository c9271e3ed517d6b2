//! `Engine::Check`: each block is executed twice from the same state, by the interpreter and by generated code, and what
//! became of registers and memory is compared.
//!
//! The interpreter goes first, with no write permission in the TLB, so that the slow path sees each store and notes what
//! stood there. Then its stores are undone, the state is put back, the pages it wrote get their write permission, and
//! generated code does the same again. PEs of a VM take turns, since one of them undoes what it wrote.

use std::fmt::Write as _;

use crate::code::Found;
use crate::cpu::Cpu;
use crate::decode::LINES;
use crate::exit::Exit;
use crate::insn::{Flow, Insn, Stop};
use crate::mem::access::Monitor;
use crate::state::CpuState;
use crate::{CpuLines, Op, SysReg};

/// Bytes before and behind a store that are compared as well.
const MARGIN: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    #[default]
    Off,
    Reference,
    Translated,
}

/// A store of the interpreter.
struct Store {
    host: usize,
    len: usize,
    /// Where the bytes kept begin.
    from: usize,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// What `check` keeps.
#[derive(Default)]
pub(crate) struct Check {
    phase: Phase,
    stores: Vec<Store>,
    /// Host pages written by the interpreter.
    pages: Vec<usize>,
    /// First-level entries that shall get, or got, a write tag.
    grants: Vec<(usize, u64)>,
    /// Generated code wrote to a page that the interpreter did not write.
    strange: Option<usize>,
    /// The first difference.
    pub report: Option<String>,
}

/// A byte of guest memory.
fn peek(host: usize) -> u8 {
    // SAFETY: callers have the address from a store that was just translated; slots stay mapped while a block runs.
    unsafe { (host as *const u8).read_volatile() }
}

fn bytes(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(peek).collect()
}

impl Check {
    /// `len` bytes at `host` are about to be written.
    fn note(&mut self, host: usize, len: usize) {
        let page = host & !0xfff;
        match self.phase {
            Phase::Off => {}
            Phase::Reference => {
                let from = host.saturating_sub(MARGIN).max(page);
                let end = (host + len + MARGIN).min(page + 0x1000);
                self.stores.push(Store {
                    host,
                    len,
                    from,
                    before: bytes(from, end - from),
                    after: Vec::new(),
                });
                if !self.pages.contains(&page) {
                    self.pages.push(page);
                }
            }
            Phase::Translated => {
                if !self.pages.contains(&page) && self.strange.is_none() {
                    self.strange = Some(host);
                }
            }
        }
    }
    fn undo(&mut self) {
        for s in &mut self.stores {
            s.after = bytes(s.from, s.before.len());
        }
        for s in self.stores.iter().rev() {
            for k in 0..s.len {
                let at = s.host + k;
                if let Some(b) = s.before.get(at - s.from) {
                    // SAFETY: the interpreter wrote there a moment ago.
                    unsafe { (at as *mut u8).write_volatile(*b) };
                }
            }
        }
    }
}

/// May it be executed twice with the same result? Clocks and random numbers change; the PMU counts.
fn repeatable(i: &Insn, clock: bool) -> bool {
    if !matches!(i.op, Op::MRS | Op::MSR_reg) {
        return true;
    }
    match SysReg::ALL.get(i.imm as usize) {
        Some(r) => {
            let n = r.name();
            !(n.starts_with("PM") || n.starts_with("RND") || (n.starts_with("CNT") && clock))
        }
        None => true,
    }
}

impl Cpu {
    /// Looks for differences between interpreter and translator: what was found first.
    pub fn difference(&self) -> Option<&str> {
        self.jit.check.as_ref()?.report.as_deref()
    }

    /// A store is about to be done by the slow path.
    pub(crate) fn note_store(&mut self, host: usize, len: usize) {
        if let Some(c) = &mut self.jit.check {
            c.note(host, len);
        }
    }

    /// May the first-level entry get its write tag now?
    pub(crate) fn may_grant(&mut self, entry: usize, tag: u64) -> bool {
        match &mut self.jit.check {
            None => true,
            Some(c) => {
                c.grants.push((entry, tag));
                c.phase == Phase::Translated
            }
        }
    }

    fn phase(&mut self, p: Phase) {
        if let Some(c) = &mut self.jit.check {
            c.phase = p;
        }
    }

    /// Executes a block by both; afterwards PC is where execution goes on.
    pub(super) fn check_block(&mut self, found: &Found, host: u64) -> Option<Exit> {
        // SAFETY: blocks are freed only in `attend` (CodeCache::bury), never while one runs.
        let insns: &[Insn] = unsafe { &*found.insns };
        let shared = self.config.shared.clone();
        let _turn = loop {
            match shared.turn.try_lock() {
                Ok(t) => break t,
                Err(std::sync::TryLockError::Poisoned(p)) => break p.into_inner(),
                Err(std::sync::TryLockError::WouldBlock) => {
                    // Who has the turn may wait for us.
                    if self.lines.get() & CpuLines::REQUEST != 0 {
                        return None;
                    }
                    std::thread::yield_now();
                }
            }
        };
        let clock = !self.config.clock.repeatable();
        if !insns.iter().all(|i| repeatable(i, clock)) {
            self.counters.not_compared += 1;
            return self.run_block(insns);
        }
        if let Some(c) = &mut self.jit.check {
            c.stores.clear();
            c.pages.clear();
            c.grants.clear();
            c.strange = None;
        }
        let at_mode = self.block_mode(found.guarded);
        let before = self.state.clone();
        let (monitor, event, writes) = (self.monitor, self.event, self.code_writes);
        self.phase(Phase::Reference);
        let exit = self.reference(insns);
        self.phase(Phase::Off);
        let pc = before.pc;
        let kept = self.code.block_mut(found.page, found.block);
        let kept = kept.is_some_and(|b| b.entries.iter().any(|e| e.pc == pc && e.mode == at_mode));
        if self.code_writes != writes || self.code.dropped || !kept {
            // Code changed or was invalidated, maybe this block's: what was translated may not be used any more.
            self.counters.not_compared += 1;
            return exit;
        }
        let after = std::mem::replace(&mut self.state, before.clone());
        let after_monitor = std::mem::replace(&mut self.monitor, monitor);
        let after_event = std::mem::replace(&mut self.event, event);
        if let Some(c) = &mut self.jit.check {
            c.undo();
            for (n, tag) in std::mem::take(&mut c.grants) {
                // Only where the entry is still the one that the store found.
                if let Some(e) = self.tlb.data.get_mut(n)
                    && e.tag_r == tag
                {
                    e.tag_w = tag;
                    c.grants.push((n, tag));
                }
            }
        }
        self.look_again(&before, &after);
        self.phase(Phase::Translated);
        let got = self.again(&before, &after, insns.len(), host);
        self.phase(Phase::Off);
        if let Some(c) = &mut self.jit.check {
            for (n, _) in c.grants.drain(..) {
                if let Some(e) = self.tlb.data.get_mut(n) {
                    e.tag_w = crate::mem::tlb::NO_TAG;
                }
            }
        }
        self.counters.compared += 1;
        let m = (after_monitor, self.monitor);
        let same_monitor = m.0.armed == m.1.armed
            && (!m.0.armed || (m.0.va, m.0.size, m.0.value) == (m.1.va, m.1.size, m.1.value));
        let same_memory = self.jit.check.as_ref().is_none_or(|c| {
            c.strange.is_none()
                && c.stores.iter().all(|s| s.after.iter().enumerate().all(|(n, b)| peek(s.from + n) == *b))
        });
        if same_monitor
            && same_memory
            && exit == got
            && after_event == self.event
            && after.x[..32] == self.state.x[..32]
            && after.x[33] == self.state.x[33]
            && after.v == self.state.v
            && after.sys == self.state.sys
            && fields(&after) == fields(&self.state)
        {
            return got;
        }
        let mut text = differences(&before, &after, &self.state);
        let mut line = |what: &str, a: String, b: String| {
            if a != b {
                let _ = writeln!(text, "  {what}: interpreter {a}, generated code {b}");
            }
        };
        line("left with", format!("{exit:x?}"), format!("{got:x?}"));
        let armed = |m: &Monitor| format!("{:x?}", m.armed.then_some((m.va, m.size, m.value)));
        line("exclusive monitor", armed(&after_monitor), armed(&self.monitor));
        line("event", after_event.to_string(), self.event.to_string());
        if let Some(c) = &self.jit.check {
            for s in &c.stores {
                let now = bytes(s.from, s.after.len());
                if now != s.after {
                    line(
                        &format!("memory at host {:#x}", s.from),
                        format!("{:02x?}", s.after),
                        format!("{now:02x?}"),
                    );
                }
            }
            if let Some(at) = c.strange {
                line("stores", "none there".into(), format!("one at host {at:#x}"));
            }
        }
        if text.is_empty() {
            return got;
        }
        let report = report(&before, insns, &text);
        if let Some(f) = &self.options.difference {
            f(&report);
        }
        if let Some(c) = &mut self.jit.check {
            c.report = Some(report);
        }
        Some(Exit::Difference)
    }

    /// The interpreter, as far as generated code goes without leaving.
    fn reference(&mut self, insns: &[Insn]) -> Option<Exit> {
        let mut pc = self.state.pc;
        let half = (pc >> 63) as usize;
        for (n, i) in insns.iter().enumerate() {
            let context = (self.tlb.ctx[half], self.mode());
            self.state.pc = pc;
            self.block_pc = pc;
            match (i.exec)(self, i) {
                Ok(flow) => {
                    self.state.icount += 1;
                    pc = pc.wrapping_add(4);
                    let on = n + 1 < insns.len()
                        && self.state.pc == pc
                        && context == (self.tlb.ctx[half], self.mode())
                        && !self.slow
                        && !self.code.dropped;
                    if flow == Flow::Jump && !on {
                        self.block_pc = self.state.pc;
                        return None;
                    }
                }
                Err(Stop) => {
                    self.block_pc = self.state.pc;
                    return self.stopped(i.raw);
                }
            }
        }
        self.state.pc = pc;
        self.block_pc = pc;
        None
    }

    /// What is derived from state that was put back.
    fn look_again(&mut self, before: &CpuState, after: &CpuState) {
        if before.sys != after.sys {
            self.regime_changed();
            self.recheck_debug();
            self.pmu_plan();
        } else {
            self.context_changed();
        }
    }

    /// Generated code. Where it leaves in the middle (an interrupt came) it is entered again.
    fn again(&mut self, before: &CpuState, after: &CpuState, len: usize, host: u64) -> Option<Exit> {
        let end = before.icount + len as u64;
        let mut host = Some(host);
        while let Some(h) = host.take() {
            self.limit = end;
            self.update_fetch();
            let at = self.state.icount;
            if let Err(exit) = self.execute(h) {
                self.update_limit();
                return Some(exit);
            }
            let done = self.state.icount.wrapping_sub(before.icount);
            let expected = before.pc.wrapping_add(4 * done);
            if self.state.icount > at
                && self.state.icount < after.icount
                && self.state.pc == expected
                && !self.slow
            {
                host = self.code_at(expected);
            }
        }
        self.update_limit();
        None
    }

    fn code_at(&mut self, pc: u64) -> Option<u64> {
        let found = self.find_block().ok()?;
        let mode = self.block_mode(found.guarded);
        let at = self.translated(found.page, found.block, pc, mode)?;
        self.jit.code.as_ref().map(|c| c.memory.address(at))
    }
}

fn differences(before: &CpuState, a: &CpuState, b: &CpuState) -> String {
    let mut out = String::new();
    let mut line = |what: &str, was: u128, a: u128, b: u128| {
        if a != b {
            let _ = writeln!(out, "  {what}: was {was:#x}, interpreter {a:#x}, generated code {b:#x}");
        }
    };
    for n in 0..31 {
        line(&format!("X{n}"), before.x[n].into(), a.x[n].into(), b.x[n].into());
    }
    line("XZR", 0, a.x[31].into(), b.x[31].into());
    line("SP", before.x[33].into(), a.x[33].into(), b.x[33].into());
    for n in 0..32 {
        line(&format!("V{n}"), before.v[n], a.v[n], b.v[n]);
    }
    for ((f, x), y) in fields(before).into_iter().zip(fields(a)).zip(fields(b)) {
        line(f.0, f.1.into(), x.1.into(), y.1.into());
    }
    for r in SysReg::ALL {
        line(r.name(), before.sys(*r).into(), a.sys(*r).into(), b.sys(*r).into());
    }
    out
}

/// What is neither in an array of registers nor stale.
fn fields(s: &CpuState) -> [(&'static str, u64); 17] {
    [
        ("PC", s.pc),
        ("NZCV", s.nzcv.into()),
        ("DAIF", s.daif.into()),
        ("EL", s.el.into()),
        ("SPSel", s.spsel.into()),
        ("PAN", s.pan.into()),
        ("UAO", s.uao.into()),
        ("DIT", s.dit.into()),
        ("SSBS", s.ssbs.into()),
        ("SS", s.ss.into()),
        ("IL", s.il.into()),
        ("BTYPE", s.btype.into()),
        ("FPCR", s.fpcr.into()),
        ("FPSR", s.fpsr.into()),
        ("SP_EL0", s.banked_sp(0)),
        ("SP_EL1", s.banked_sp(1)),
        ("instructions", s.icount),
    ]
}

fn report(before: &CpuState, insns: &[Insn], text: &str) -> String {
    let mut out = format!(
        "interpreter and generated code differ in the block at {:#x} (EL{}, {} instructions, {} executed before)\n",
        before.pc,
        before.el,
        insns.len(),
        before.icount
    );
    for (n, i) in insns.iter().enumerate() {
        let name = LINES.get(i.op as usize).map_or("?", |l| l.name);
        let _ = writeln!(out, "  {:#x}: {:08x} {name}", before.pc.wrapping_add(4 * n as u64), i.raw);
    }
    out + text
}
