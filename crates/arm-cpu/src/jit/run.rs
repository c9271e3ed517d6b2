//! The loop around generated code, and what generated code calls.

use super::asm::Asm;
use super::check::Check;
use super::memory::CodeMemory;
use super::thunk::{Thunks, assemble, left};
use super::{Engine, EngineOptions, Hot, MXCSR, layout};
use crate::cpu::Cpu;
use crate::exit::Exit;
use crate::insn::{Flow, Insn, Stop};
use crate::mem::tlb::sign_extend;

/// Executions of a block before it is translated, unless [`Cpu::translate_after`] says otherwise.
const HEAT: u8 = 3;
/// Sites in one allocation.
const SITES: usize = 1024;

/// A call of a handler from generated code.
pub(super) struct Site {
    pub insn: Insn,
    pub pc: u64,
    /// Instructions of the block before this one, less all of the block (which are off the fuel already).
    pub count: i64,
    /// The handler looks at NZCV or changes it.
    pub flags: bool,
}

/// A jump that goes to the block of its target once there is one.
pub(super) struct Link {
    /// Where the displacement stands.
    pub at: u32,
    pub target: u64,
    /// The fuel was looked at.
    pub checked: bool,
}

/// Generated code and what belongs to it.
pub(super) struct Code {
    pub memory: CodeMemory,
    pub asm: Asm,
    pub thunks: Thunks,
    pub sites: Vec<Vec<Site>>,
    pub links: Vec<Link>,
    /// The host has instructions for SHA-256.
    pub sha: bool,
    /// Bytes of the thunks.
    start: usize,
}

impl Code {
    fn new(len: usize) -> std::io::Result<Code> {
        let mut memory = CodeMemory::new(len)?;
        let mut asm = Asm::new(0);
        let thunks = assemble(&mut asm, exec_site as *const () as u64, memory.address(0));
        asm.finish();
        if memory.push(&asm.code).is_none() {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        let start = memory.used();
        let sha = std::arch::is_x86_feature_detected!("sha");
        Ok(Code { memory, asm, thunks, sites: Vec::new(), links: Vec::new(), sha, start })
    }
    /// Keeps a site; returns its address, which stays until everything is dropped.
    pub fn site(&mut self, s: Site) -> u64 {
        if self.sites.last().is_none_or(|v| v.len() == SITES) {
            self.sites.push(Vec::with_capacity(SITES));
        }
        match self.sites.last_mut() {
            Some(v) => {
                v.push(s);
                v.last().map_or(0, |s| &raw const *s as u64)
            }
            None => 0,
        }
    }
    fn clear(&mut self) {
        self.memory.truncate(self.start);
        self.sites.clear();
        self.links.clear();
    }
}

/// The translator of one PE.
#[derive(Default)]
pub(crate) struct Jit {
    pub hot: Hot,
    pub(super) code: Option<Box<Code>>,
    /// Executions of a block before it is translated.
    heat: u8,
    /// What a handler left with.
    exit: Option<Exit>,
    /// Each block is compared with the interpreter.
    pub(super) check: Option<Box<Check>>,
    /// Limit that the fuel was computed from.
    limit: u64,
}

impl Jit {
    /// Is generated code used?
    pub fn on(&self) -> bool {
        self.code.is_some()
    }
}

/// What the translator takes for granted of the host.
fn host_suffices() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("lzcnt")
        && has!("fma")
        && has!("sse4.2")
        && has!("aes")
        && has!("pclmulqdq")
        && lahf()
}

/// LAHF and SAHF in 64-bit mode (CPUID 8000_0001, ECX bit 0).
fn lahf() -> bool {
    std::arch::x86_64::__cpuid(0x8000_0001).ecx & 1 != 0
}

impl Cpu {
    /// Chooses what executes instructions, and how many bytes of generated code are kept. Returns the engine that will be
    /// used: the interpreter where the host lacks what the translator needs.
    pub fn set_engine(&mut self, engine: Engine, options: &EngineOptions) -> Engine {
        self.set_options(options);
        self.code.flush();
        self.jit.code = None;
        self.jit.check = None;
        if engine != Engine::Interp && host_suffices() {
            self.jit.code = Code::new(options.cache()).ok().map(Box::new);
        }
        self.code.dropped = true;
        self.jit.heat = if options.at_once { 0 } else { HEAT };
        match engine {
            _ if !self.jit.on() => Engine::Interp,
            Engine::Check => {
                self.jit.heat = 0;
                self.jit.check = Some(Box::default());
                Engine::Check
            }
            _ => Engine::Jit,
        }
    }

    /// Executions of a block before it is translated: 0 for tests.
    pub fn translate_after(&mut self, executions: u8) {
        self.jit.heat = executions;
    }

    /// Blocks translated so far.
    pub fn translated_blocks(&self) -> u64 {
        self.counters.translated
    }

    /// Mode bits that translations depend on: EL1, SIMD&FP accessible, FPCR at its usual setting.
    pub(super) fn mode(&self) -> u8 {
        self.state.el | u8::from(self.fp_on) << 1 | u8::from(self.state.fpcr & FPCR_UNUSUAL == 0) << 2
    }

    /// Those and what translations depend on beside the fetch context.
    pub(super) fn block_mode(&self, guarded: bool) -> u8 {
        self.mode() | if guarded { super::translate::mode::GUARDED } else { 0 }
    }

    pub(crate) fn update_fetch(&mut self) {
        let mode = u64::from(self.mode()) << 12;
        for k in 0..2 {
            self.jit.hot.fetch[k] = (self.tlb.ctx[k] | mode) << 48;
            self.jit.hot.hash[k] = super::jump_hash(k, self.tlb.ctx[k]);
        }
    }

    /// The counter was read: until its rate is looked at again, generated code may do so.
    pub(crate) fn note_clock(&mut self) {
        if self.jit.on()
            && let Some(s) = self.config.clock.segment()
        {
            let hot = &mut self.jit.hot;
            (hot.clock_start, hot.clock_len, hot.clock_mult) = (s.start, s.len, s.mult);
            hot.clock_base = [s.base as u64, (s.base >> 64) as u64];
        }
    }

    fn refuel(&mut self) {
        let fuel = self.limit.saturating_sub(self.state.icount).min(i64::MAX as u64);
        self.jit.limit = self.limit;
        self.jit.hot.fuel = fuel as i64;
        self.jit.hot.end = self.state.icount.wrapping_add(fuel);
    }

    /// The code of one block is stale: whoever enters it leaves at once.
    pub(crate) fn forget_translated(&mut self, pc: u64, at: u32) {
        let Some(code) = &mut self.jit.code else { return };
        code.memory.patch(at, &super::translate::STALE);
        code.memory.patch(at + super::translate::CHECKED, &super::translate::STALE_CHECKED);
        self.code.jumps.remove(pc, self.jit.hot.hash[(pc >> 63) as usize], code.memory.address(at));
    }

    /// Drops generated code; not while it runs.
    fn flush_translated(&mut self) {
        self.code.dropped = false;
        self.counters.evictions += 1;
        if let Some(code) = &mut self.jit.code {
            code.clear();
        }
        self.code.jumps.clear();
        self.code.forget_entries();
    }

    pub(crate) fn run_translated(&mut self) -> Exit {
        let mut link = None;
        loop {
            if self.wants_attention() {
                link = None;
                if let Some(exit) = self.attend() {
                    return exit;
                }
                if self.slow {
                    if let Some(exit) = self.run_slowly() {
                        return exit;
                    }
                    continue;
                }
            }
            if self.code.dropped {
                self.flush_translated();
                link = None;
            }
            let found = match self.find_block() {
                Ok(f) => f,
                Err(Stop) => match self.stopped(0) {
                    Some(exit) => return exit,
                    None => continue,
                },
            };
            // SAFETY: blocks are freed only in `attend` (CodeCache::bury), never while one runs.
            let insns: &[Insn] = unsafe { &*found.insns };
            let landed = self.state.btype != 0;
            if landed && (self.jit.check.is_some() || !self.may_land(insns, found.guarded)) {
                if let Some(exit) = self.step_one(insns, found.guarded) {
                    return exit;
                }
                continue;
            }
            let pc = self.state.pc;
            let mode = self.block_mode(found.guarded);
            let Some(at) = self.translated(found.page, found.block, pc, mode) else {
                link = None;
                let left = if landed { self.step_one(insns, found.guarded) } else { self.run_block(insns) };
                if let Some(exit) = left {
                    return exit;
                }
                continue;
            };
            self.update_fetch();
            let Some(code) = &mut self.jit.code else { continue };
            let host = code.memory.address(at);
            if self.jit.check.is_some() {
                if let Some(exit) = self.check_block(&found, host) {
                    return exit;
                }
                continue;
            }
            if let Some(l) = link.take().and_then(|l: u32| code.links.get(l as usize))
                && l.target == pc
            {
                let entry = if l.checked { at + super::translate::CHECKED } else { at };
                let rel = entry.wrapping_sub(l.at + 4);
                let site = l.at;
                code.memory.patch(site, &rel.to_le_bytes());
                self.counters.chained += 1;
            }
            let half = (pc >> 63) as usize;
            let (fetch, hash) = (self.jit.hot.fetch[half], self.jit.hot.hash[half]);
            self.code.jumps.insert(pc, fetch, hash, host);
            self.code.note_translation(found.page, pc, mode, at, fetch, hash);
            link = match self.execute(host) {
                Ok(l) => l,
                Err(exit) => return exit,
            };
        }
    }

    /// Runs generated code and takes over PC. Gives the link that it was left through.
    pub(super) fn execute(&mut self, host: u64) -> Result<Option<u32>, Exit> {
        let mut link = None;
        match self.enter(host) {
            left::LOOKUP => {
                self.counters.lookups += 1;
                let pc = self.state.pc;
                if sign_extend(pc) != pc {
                    self.state.pc = self.canonical_target(pc);
                }
                // The last instruction was an indirect branch, if the fuel is what it was.
                let hot = &mut self.jit.hot;
                let btype = std::mem::take(&mut hot.btype) as u8;
                if hot.fuel == hot.btype_fuel {
                    self.state.btype = btype;
                }
            }
            left::LINK => {
                let n = self.jit.hot.link;
                link = Some(n);
                if let Some(l) = self.jit.code.as_ref().and_then(|c| c.links.get(n as usize)) {
                    self.state.pc = l.target;
                }
            }
            _ => {}
        }
        self.block_pc = self.state.pc;
        match self.jit.exit.take() {
            Some(exit) => Err(exit),
            None => Ok(link),
        }
    }

    /// Code of the block, translating it when it was seen often enough.
    pub(super) fn translated(&mut self, page: usize, block: usize, pc: u64, mode: u8) -> Option<u32> {
        let b = self.code.block_mut(page, block)?;
        if let Some(e) = b.entries.iter().find(|e| e.pc == pc && e.mode == mode) {
            return Some(e.at);
        }
        if b.heat < self.jit.heat {
            b.heat += 1;
            return None;
        }
        let insns: *const [Insn] = &raw const *b.insns;
        // SAFETY: as above; nothing below drops decoded blocks.
        let at = self.translate_block(unsafe { &*insns }, page, pc, mode);
        match at {
            Some(at) => {
                self.code.block_mut(page, block)?.add_entry(pc, mode, at);
                Some(at)
            }
            None => {
                // Full: everything goes at the next block boundary.
                self.code.dropped = true;
                None
            }
        }
    }

    /// Runs generated code.
    fn enter(&mut self, host: u64) -> u64 {
        let Some(code) = &self.jit.code else { return left::JUMP };
        let thunk = code.memory.address(code.thunks.enter);
        self.counters.entered += 1;
        self.refuel();
        let hot = &mut self.jit.hot;
        hot.btype = std::mem::take(&mut self.state.btype).into();
        hot.btype_fuel = hot.fuel;
        hot.flags = layout::flags16(self.state.nzcv);
        hot.mxcsr = MXCSR;
        hot.jumps = self.code.jumps.entries.as_ptr() as u64;
        hot.pages = self.code.jumps.pages.as_ptr() as u64;
        hot.tlb = self.tlb.data.as_ptr() as u64;
        hot.lines = self.lines.address();
        let cpu = &raw mut *self;
        // SAFETY: the thunk was assembled for this signature; the code at `host` was made for this CPU and uses its state
        // by offsets from this pointer, the TLB and the jump cache (which live as long as the CPU) and guest memory
        // through TLB entries. Nothing else refers to the CPU while it runs.
        let what = unsafe {
            let f: extern "sysv64" fn(*mut u8, u64) -> u64 = std::mem::transmute(thunk as *const ());
            f(cpu.cast::<u8>().wrapping_add(layout::BIAS), host)
        };
        self.state.nzcv = layout::nzcv_of(self.jit.hot.flags);
        self.gather_exceptions();
        if matches!(what, left::LOOKUP | left::LINK) {
            self.state.icount = self.jit.hot.end.wrapping_sub(self.jit.hot.fuel as u64);
        }
        what
    }

    /// Moves what the host's unit found to FPSR.
    #[inline]
    fn gather_exceptions(&mut self) {
        let m = self.jit.hot.mxcsr;
        if m & 0x3d != 0 {
            // IOC; DZC, OFC, UFC, IXC. The denormal operand exception has no counterpart.
            self.state.fpsr |= m & 1 | m >> 1 & 0x1e;
            self.jit.hot.mxcsr = MXCSR;
        }
    }

    /// A handler wrote PC: may generated code go on by itself?
    fn go_on(&mut self) -> u64 {
        self.block_pc = self.state.pc;
        if self.wants_attention() || self.state.btype != 0 || self.code.dropped || self.jit.check.is_some() {
            return left::JUMP;
        }
        self.update_fetch();
        self.refuel();
        left::AGAIN
    }

    /// What a handler did, for generated code.
    fn after_site(&mut self, s: &Site, r: Result<Flow, Stop>) -> u64 {
        match r {
            Ok(Flow::Next) if !self.code.dropped => 0,
            Ok(Flow::Next) => {
                self.state.pc = s.pc.wrapping_add(4);
                self.state.icount = self.state.icount.wrapping_add(1);
                self.go_on()
            }
            Ok(Flow::Jump) => {
                let half = (s.pc >> 63) as usize;
                let fetch = self.jit.hot.fetch[half];
                self.update_fetch();
                let same = fetch == self.jit.hot.fetch[half] && self.limit == self.jit.limit;
                if same
                    && self.state.pc == s.pc.wrapping_add(4)
                    && !self.code.dropped
                    && self.lines.get() & self.attention == 0
                    && !self.slow
                {
                    return 0;
                }
                self.state.icount = self.state.icount.wrapping_add(1);
                self.go_on()
            }
            Err(Stop) => {
                self.state.nzcv = layout::nzcv_of(self.jit.hot.flags);
                self.block_pc = self.state.pc;
                self.jit.exit = self.stopped(s.insn.raw);
                self.jit.hot.flags = layout::flags16(self.state.nzcv);
                if self.jit.exit.is_some() { left::STOP } else { self.go_on() }
            }
        }
    }
}

/// FPCR bits beyond the usual mode: AHP, DN, FZ, RMode, FZ16.
const FPCR_UNUSUAL: u32 = 0x07c8_0000;

/// One instruction of generated code after an indirect branch, which it may be the first one behind.
#[cold]
fn exec_target(cpu: &mut Cpu, s: &Site, fuel: i64) -> Result<Flow, Stop> {
    let btype = std::mem::take(&mut cpu.jit.hot.btype) as u8;
    // Blocks take their instructions off the fuel when they start.
    if fuel.wrapping_sub(s.count) != cpu.jit.hot.btype_fuel {
        return (s.insn.exec)(cpu, &s.insn);
    }
    cpu.with_btype(btype, |cpu| (s.insn.exec)(cpu, &s.insn))
}

/// Carries out one instruction for generated code. 0: go on behind it; else what to leave with.
pub(super) extern "sysv64" fn exec_site(cpu: *mut Cpu, site: *const Site, fuel: i64) -> u64 {
    // SAFETY: generated code passes the CPU that `enter` was called with, which nothing else uses meanwhile.
    let cpu = unsafe { &mut *cpu };
    // SAFETY: sites live until all code is dropped, which does not happen while code runs.
    let s = unsafe { &*site };
    cpu.state.pc = s.pc;
    cpu.block_pc = s.pc;
    cpu.state.icount = cpu.jit.hot.end.wrapping_sub(fuel as u64).wrapping_add(s.count as u64);
    if s.flags {
        cpu.state.nzcv = layout::nzcv_of(cpu.jit.hot.flags);
    }
    cpu.gather_exceptions();
    cpu.counters.handlers += 1;
    if let Some(p) = &mut cpu.profile {
        p.handler(s.insn.op as usize);
    }
    let r = if cpu.jit.hot.btype == 0 { (s.insn.exec)(cpu, &s.insn) } else { exec_target(cpu, s, fuel) };
    if s.flags {
        cpu.jit.hot.flags = layout::flags16(cpu.state.nzcv);
    }
    if r == Ok(Flow::Next) && !cpu.code.dropped { 0 } else { cpu.after_site(s, r) }
}
