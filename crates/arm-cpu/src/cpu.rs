//! One PE: configuration, the run loop, and what handlers ask of it.

use std::sync::Arc;

use crate::code::CodeCache;
use crate::debug::Debug;
use crate::exception::{Exception, Vector, ec};
use crate::exit::Exit;
use crate::host::tsc::TscSegment;
use crate::insn::{Exec, Flow, Insn, Stop};
use crate::irregular::Irregular;
use crate::mem::PhysMap;
use crate::mem::access::Monitor;
use crate::mem::dirty::DirtySink;
use crate::mem::physmap::Slot;
use crate::mem::tlb::{CtxKey, Tlb, TlbOp};
use crate::pmu::Pmu;
use crate::shared::{Pe, Request, Ticket, VmShared};
use crate::state::{CpuState, daif};
use crate::{CpuLines, Feat, FeatSet, SysReg};

/// The system counter, without any offset.
pub trait Clock: Send + Sync {
    /// The physical counter now, in ticks of CNTFRQ. `icount` is the number of instructions this PE has executed.
    fn counter(&self, icount: u64) -> u64;
    /// How it follows the host's time stamp counter for now, if it does.
    fn segment(&self) -> Option<TscSegment> {
        None
    }
    /// Does the same `icount` always give the same value?
    fn repeatable(&self) -> bool {
        true
    }
}

/// How a PE is made.
#[derive(Clone)]
pub struct CpuConfig {
    /// What the instruction set and the system architecture offer, from the ID registers.
    pub features: FeatSet,
    /// Guest memory.
    pub memory: Arc<PhysMap>,
    /// The other PEs of the VM.
    pub shared: Arc<VmShared>,
    /// The system counter.
    pub clock: Arc<dyn Clock>,
    /// Source of randomness for RNDR.
    pub random: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// What stopped an instruction.
#[derive(Clone, Copy, Debug)]
pub enum StopCause {
    /// Nothing.
    None,
    /// Take an exception to EL1.
    Exception(Exception),
    /// Leave `run`.
    Exit(Exit),
}

/// Which lines matter with a value of PSTATE.DAIF.
#[inline]
pub(crate) fn attention(d: u32) -> u32 {
    let mut a = CpuLines::KICK | CpuLines::REQUEST | CpuLines::RECHECK;
    if d & daif::A == 0 {
        a |= CpuLines::VSERROR;
    }
    if d & daif::F == 0 {
        a |= CpuLines::FIQ;
    }
    if d & daif::I == 0 {
        a |= CpuLines::IRQ;
    }
    a
}

/// One PE.
pub struct Cpu {
    /// Architectural state.
    pub state: CpuState,
    /// Features, by which decode and system registers go. Change only with [`Cpu::set_features`].
    pub(crate) features: FeatSet,
    /// Why the last handler returned `Err(Stop)`.
    pub(crate) stop: StopCause,
    /// Data TLB and context numbers.
    pub(crate) tlb: Tlb,
    /// Decoded code.
    pub(crate) code: CodeCache,
    /// This PE as others see it.
    pub pe: Arc<Pe>,
    /// Index among the VM's PEs.
    pub index: usize,
    /// Lines, as in `pe`.
    pub lines: Arc<CpuLines>,
    /// Configuration.
    pub config: CpuConfig,
    /// `run` returns [`Exit::Budget`] at the first block boundary where `state.icount` is not below this.
    pub budget: u64,
    /// CNTVCT_EL0 = counter - this (CNTVOFF_EL2).
    pub cntvoff: u64,
    /// CNTPCT_EL0 = counter - this (CNTPOFF_EL2).
    pub cntpoff: u64,
    /// ISS of the virtual SError that is pending when `CpuLines::VSERROR` is set (VSESR_EL2).
    pub vserror_iss: u32,
    pub(crate) monitor: Monitor,
    pub(crate) slots: Arc<Vec<Arc<Slot>>>,
    pub(crate) slots_version: u64,
    /// Address and value of the leaf descriptor of the last walk.
    pub(crate) walk_leaf: (u64, u64),
    pub(crate) high_has_ng: bool,
    pub(crate) big_endian_data: bool,
    pub(crate) watchpoints_on: bool,
    pub(crate) code_writes: u64,
    pub(crate) same_code_page: u32,
    pub(crate) last_code_page: usize,
    /// A page with decoded code was written by the slow path: its generation moves again after the write.
    pub(crate) wrote_code: Option<(Arc<Slot>, u64)>,
    pub(crate) tickets: Vec<Ticket>,
    /// There are tickets.
    pub(crate) waits: bool,
    /// Hears of pages that this PE marks dirty.
    pub dirty_sink: Option<Arc<dyn DirtySink>>,
    /// CCSIDR_EL1 by the value of CSSELR_EL1.
    pub ccsidr: [u64; 16],
    /// System registers that are not as the features say.
    pub irregular: Arc<Irregular>,
    /// MDCR_EL2.TPM: a hypervisor emulates the PMU. It keeps PMUSERENR_EL0 open and itself answers UNDEFINED to what the
    /// guest's value of it forbids.
    pub pmu_emulated: bool,
    /// WFE event register.
    pub(crate) event: bool,
    /// Debug state machine and what the hypervisor asked for.
    pub debug: Debug,
    pub(crate) pmu: Pmu,
    /// PC at which the running block started; instructions of it are not yet in `state.icount`.
    pub(crate) block_pc: u64,
    /// In `run`: `block_pc` means something.
    running: bool,
    pub(crate) pac_memo: crate::pauth::Memo,
    pub(crate) fp_on: bool,
    pub(crate) attention: u32,
    pub(crate) slow: bool,
    /// The smaller of `budget` and the PMU's deadline.
    pub(crate) limit: u64,
    pub(crate) jit: crate::jit::Jit,
    pub(crate) options: crate::jit::EngineOptions,
    pub(crate) counters: crate::jit::Counters,
    pub(crate) profile: Option<Box<crate::jit::options::Profile>>,
    regimes: Vec<[u64; 3]>,
    ctx_memo: [Option<[u64; 4]>; 4],
}

impl Cpu {
    /// A PE in the all-zero state, registered with the VM's others.
    pub fn new(config: CpuConfig) -> Cpu {
        let pe = Arc::new(Pe::default());
        let index = config.shared.add(pe.clone());
        Cpu {
            state: CpuState::default(),
            features: config.features,
            stop: StopCause::None,
            tlb: Tlb::new(),
            code: CodeCache::default(),
            lines: pe.lines.clone(),
            pe,
            index,
            budget: u64::MAX,
            cntvoff: 0,
            cntpoff: 0,
            vserror_iss: 0,
            monitor: Monitor::default(),
            slots: Arc::default(),
            slots_version: u64::MAX,
            walk_leaf: (0, 0),
            high_has_ng: false,
            big_endian_data: false,
            watchpoints_on: false,
            code_writes: 0,
            same_code_page: 0,
            last_code_page: 0,
            wrote_code: None,
            tickets: Vec::new(),
            waits: false,
            dirty_sink: None,
            ccsidr: [0; 16],
            irregular: Arc::default(),
            pmu_emulated: false,
            event: false,
            debug: Debug::default(),
            pmu: Pmu::default(),
            block_pc: 0,
            running: false,
            pac_memo: Default::default(),
            fp_on: false,
            attention: 0,
            slow: false,
            limit: u64::MAX,
            jit: Default::default(),
            options: Default::default(),
            counters: Default::default(),
            profile: None,
            regimes: Vec::new(),
            ctx_memo: [None; 4],
            config,
        }
    }

    /// Replaces the features (when ID registers were written before the first run).
    pub fn set_features(&mut self, f: FeatSet) {
        self.features = f;
        self.code.flush();
        self.regime_changed();
    }

    /// Is the feature there?
    #[inline]
    pub fn has(&self, f: Feat) -> bool {
        self.features.has(f)
    }

    /// Runs until something is for the hypervisor. State may be changed freely between calls: everything derived from it
    /// is looked at anew on entry.
    pub fn run(&mut self) -> Exit {
        self.pe.enter();
        self.block_pc = self.state.pc;
        self.regime_changed();
        self.recheck_debug();
        self.pmu_plan();
        self.running = true;
        let exit = if self.jit.on() { self.run_translated() } else { self.run_blocks() };
        self.running = false;
        self.counters.exits += 1;
        self.pe.leave();
        exit
    }

    /// Something has to be looked at before the next block.
    #[inline(always)]
    pub(crate) fn wants_attention(&self) -> bool {
        (self.lines.get() & self.attention) != 0 || self.slow || self.state.icount >= self.limit
    }

    pub(crate) fn run_blocks(&mut self) -> Exit {
        loop {
            if self.wants_attention() {
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
            let found = match self.find_block() {
                Ok(f) => f,
                Err(Stop) => match self.stopped(0) {
                    Some(exit) => return exit,
                    None => continue,
                },
            };
            // SAFETY: blocks are freed only in `attend` (CodeCache::bury), never while one runs.
            let insns: &[Insn] = unsafe { &*found.insns };
            if self.state.btype != 0 {
                if let Some(exit) = self.step_one(insns, found.guarded) {
                    return exit;
                }
                continue;
            }
            if let Some(exit) = self.run_block(insns) {
                return exit;
            }
        }
    }

    /// Executes a block; afterwards PC is where execution goes on.
    #[inline(always)]
    pub(crate) fn run_block(&mut self, insns: &[Insn]) -> Option<Exit> {
        let mut pc = self.state.pc;
        self.block_pc = pc;
        self.counters.interpreted += 1;
        if let Some(p) = &mut self.profile {
            p.count(pc, self.state.el, insns.len() as u32);
        }
        for (n, i) in insns.iter().enumerate() {
            self.state.pc = pc;
            match (i.exec)(self, i) {
                Ok(Flow::Next) => pc = pc.wrapping_add(4),
                Ok(Flow::Jump) => {
                    self.state.icount += n as u64 + 1;
                    self.block_pc = self.state.pc;
                    return None;
                }
                Err(Stop) => {
                    self.state.icount += n as u64;
                    self.block_pc = self.state.pc;
                    return self.stopped(i.raw);
                }
            }
        }
        self.state.pc = pc;
        self.state.icount += insns.len() as u64;
        self.block_pc = pc;
        None
    }

    /// Executes one instruction where PSTATE.BTYPE or debug matter. BTYPE of the next one is 0 unless this one set it.
    pub(crate) fn step_one(&mut self, insns: &[Insn], guarded: bool) -> Option<Exit> {
        let i = insns.first()?;
        if guarded && !self.target_allowed(i) {
            self.take_exception(Exception::new(ec::BTI, self.state.btype.into()));
            return None;
        }
        self.block_pc = self.state.pc;
        let r = self.with_btype(self.state.btype, |cpu| (i.exec)(cpu, i));
        match r {
            Ok(flow) => {
                if flow == Flow::Next {
                    self.state.pc = self.state.pc.wrapping_add(4);
                }
                self.state.icount += 1;
                self.block_pc = self.state.pc;
                None
            }
            Err(Stop) => {
                self.block_pc = self.state.pc;
                self.stopped(i.raw)
            }
        }
    }

    /// Executes an instruction before which BTYPE is this; afterwards it is 0, unless the instruction set it or stopped.
    pub(crate) fn with_btype(
        &mut self,
        btype: u8,
        exec: impl FnOnce(&mut Cpu) -> Result<Flow, Stop>,
    ) -> Result<Flow, Stop> {
        const UNTOUCHED: u8 = 0x80;
        self.state.btype = btype | UNTOUCHED;
        let r = exec(self);
        if r.is_err() {
            self.state.btype = btype;
        } else if self.state.btype & UNTOUCHED != 0 {
            self.state.btype = 0;
        }
        r
    }

    /// May an indirect branch of the current BTYPE land on this block?
    pub(crate) fn may_land(&self, insns: &[Insn], guarded: bool) -> bool {
        !guarded || insns.first().is_some_and(|i| self.target_allowed(i))
    }

    /// May an indirect branch of the current BTYPE land on this instruction in a guarded page? (Arm ARM D8.4.5.)
    fn target_allowed(&self, i: &Insn) -> bool {
        let btype = self.state.btype & 3;
        if btype == 0 {
            return true;
        }
        // SCTLR_EL1.BT0/BT1: whether PACIxSP accepts BTYPE 3 at this EL.
        let bt = self.state.sys(SysReg::SCTLR_EL1) >> if self.state.el == 0 { 35 } else { 36 } & 1 != 0;
        match i.raw {
            0xd503_233f | 0xd503_237f => btype != 3 || !bt, // PACIASP, PACIBSP
            0xd503_241f => false,                           // BTI
            0xd503_245f => btype != 3,                      // BTI c
            0xd503_249f => btype != 2,                      // BTI j
            0xd503_24df => true,                            // BTI jc
            _ => i.raw & 0xffe0_001f == 0xd420_0000 || i.raw & 0xffe0_001f == 0xd440_0000, // BRK, HLT
        }
    }

    /// What to do after `Err(Stop)`.
    #[cold]
    pub(crate) fn stopped(&mut self, raw: u32) -> Option<Exit> {
        match std::mem::replace(&mut self.stop, StopCause::None) {
            StopCause::Exception(e) => {
                if let Some(exit) = self.debug_exit(&e) {
                    return Some(exit);
                }
                self.take_exception(e);
                None
            }
            StopCause::Exit(mut exit) => {
                if let Exit::DataAbort(a) = &mut exit {
                    self.complete_syndrome(raw, a);
                }
                Some(exit)
            }
            StopCause::None => None,
        }
    }

    /// Block boundary with something to look at: requests, kicks, interrupts, the budget.
    #[cold]
    pub(crate) fn attend(&mut self) -> Option<Exit> {
        let lines = self.lines.get();
        if lines & CpuLines::REQUEST != 0 {
            self.serve_requests();
        }
        self.code.bury();
        if lines & CpuLines::KICK != 0 {
            self.lines.clear(CpuLines::KICK);
            return Some(Exit::Kick);
        }
        if self.state.icount >= self.pmu.deadline {
            self.pmu_sync();
            self.update_limit();
            return Some(Exit::Pmu);
        }
        if self.state.icount >= self.budget {
            return Some(Exit::Budget);
        }
        if lines & CpuLines::RECHECK != 0 {
            self.lines.clear(CpuLines::RECHECK);
        }
        if self.step_pending() {
            return None;
        }
        let masked = self.state.daif;
        if lines & CpuLines::VSERROR != 0 && masked & daif::A == 0 {
            self.lines.clear(CpuLines::VSERROR);
            self.take_interrupt(Vector::SError, self.vserror_iss);
        } else if lines & CpuLines::FIQ != 0 && masked & daif::F == 0 {
            self.take_interrupt(Vector::Fiq, 0);
        } else if lines & CpuLines::IRQ != 0 && masked & daif::I == 0 {
            self.take_interrupt(Vector::Irq, 0);
        }
        None
    }

    /// Which lines matter now; call when PSTATE.DAIF changed.
    #[inline]
    pub(crate) fn daif_changed(&mut self) {
        self.attention = attention(self.state.daif);
    }

    /// Is an interrupt or SError pending that WFI wakes for (masked or not)?
    pub fn wakes(&self) -> bool {
        self.lines.get() & (CpuLines::IRQ | CpuLines::FIQ | CpuLines::VSERROR | CpuLines::KICK) != 0
    }

    /// Are data accesses big-endian at the current exception level (SCTLR_EL1.EE, E0E)?
    pub fn data_is_big_endian(&self) -> bool {
        let bit = if self.state.el == 0 { 24 } else { 25 };
        self.state.sys(SysReg::SCTLR_EL1) >> bit & 1 != 0
    }

    /// Takes over what PSTATE, CPACR and the translation context say. Call when EL, PAN or DAIF changed.
    pub(crate) fn context_changed(&mut self) {
        self.daif_changed();
        let el0 = self.state.el == 0;
        let cpacr = self.state.sys(SysReg::CPACR_EL1);
        self.fp_on = match cpacr >> 20 & 3 {
            3 => true,
            1 => !el0,
            _ => false,
        };
        self.big_endian_data = self.data_is_big_endian();
        let memo = usize::from(self.state.el) * 2 + usize::from(self.state.pan);
        self.tlb.ctx = match self.ctx_memo[memo & 3] {
            Some(c) => c,
            None => {
                let c = self.contexts();
                self.ctx_memo[memo & 3] = Some(c);
                c
            }
        };
        self.slow = self.state.il || self.debug.active;
    }

    /// The same, and a translation control register changed.
    pub(crate) fn regime_changed(&mut self) {
        self.ctx_memo = [None; 4];
        self.context_changed();
    }

    fn contexts(&mut self) -> [u64; 4] {
        let sys = |r| self.state.sys(r);
        let (tcr, sctlr, mair) = (sys(SysReg::TCR_EL1), sys(SysReg::SCTLR_EL1), sys(SysReg::MAIR_EL1));
        // M, EE, E0E, WXN, EPAN, I (memory type of fetches with the MMU off)
        let sctlr = sctlr & (1 | 1 << 25 | 1 << 24 | 1 << 19 | 1 << 57 | 1 << 12);
        let regime = [tcr, sctlr, mair];
        let id = match self.regimes.iter().position(|r| *r == regime) {
            Some(i) => i,
            None => {
                if self.regimes.len() >= 64 {
                    self.regimes.clear();
                    self.tlb.forget_contexts();
                    self.code.flush_itlb();
                    self.ctx_memo = [None; 4];
                }
                self.regimes.push(regime);
                self.regimes.len() - 1
            }
        };
        let mmu = sctlr & 1 != 0;
        let asid = self.current_asid();
        let (el, pan, high_has_ng) = (self.state.el, self.state.pan, self.high_has_ng);
        let ttbr = |high| {
            if !mmu {
                return 0;
            }
            // CnP is no part of the address; the ASID stands apart.
            let r = if high { SysReg::TTBR1_EL1 } else { SysReg::TTBR0_EL1 };
            self.state.sys(r) & 0x0000_ffff_ffff_fffe
        };
        let ttbrs = [ttbr(false), ttbr(true)];
        let mut out = [0; 4];
        for (n, o) in out.iter_mut().enumerate() {
            let high = n & 1 != 0;
            let el1 = n < 2 && el == 1;
            let key = CtxKey {
                high,
                ttbr: ttbrs[usize::from(high)],
                asid: (mmu && (!high || high_has_ng)).then_some(asid),
                regime: id as u64,
                el1,
                pan: pan && el1 && mmu,
                big_endian: self.big_endian_data,
            };
            let (c, flushed) = self.tlb.context(key);
            if flushed {
                self.code.flush_itlb();
                self.ctx_memo = [None; 4];
                return self.contexts();
            }
            *o = c;
        }
        out
    }

    /// The ASID that translations use now (TCR_EL1.A1, AS).
    pub(crate) fn current_asid(&self) -> u16 {
        let tcr = self.state.sys(SysReg::TCR_EL1);
        let r = if tcr >> 22 & 1 != 0 { SysReg::TTBR1_EL1 } else { SysReg::TTBR0_EL1 };
        let asid = (self.state.sys(r) >> 48) as u16;
        if tcr >> 36 & 1 != 0 && self.has(Feat::ASID16) { asid } else { asid & 0xff }
    }

    /// Carries out what others asked for.
    pub(crate) fn serve_requests(&mut self) {
        let (requests, ticket) = self.pe.take();
        for r in requests {
            match r {
                Request::Tlb(op) => self.invalidate_tlb(op),
                Request::FlushAll => {
                    self.tlb.flush();
                    self.code.flush();
                    self.slots_version = u64::MAX;
                }
                Request::RevokeWrite { host_page } => self.tlb.revoke_writes(host_page, 0x1000),
                Request::RevokeWriteRange { start, len } => self.tlb.revoke_writes(start, len),
                Request::CodeWritten { ipa } => self.code_written(ipa),
                Request::Event => self.event = true,
                Request::Fence => {}
            }
        }
        self.pe.finish(ticket);
    }

    /// Invalidates this PE's TLBs.
    pub(crate) fn invalidate_tlb(&mut self, op: TlbOp) {
        let large = matches!(op, TlbOp::Va { va, .. } if self.tlb.may_be_large(va));
        self.tlb.invalidate(op);
        match op {
            TlbOp::Va { va, pages, .. } if !large && pages < 1 << 32 => self.code.flush_itlb_pages(va, pages),
            // Its contexts have no numbers any more.
            TlbOp::Asid(_) => {}
            _ => self.code.flush_itlb(),
        }
        if matches!(op, TlbOp::Asid(_)) {
            self.regime_changed();
            self.update_fetch();
        }
    }

    /// Tells the other PEs of the VM; [`Cpu::dsb`] waits until all of them did it.
    pub(crate) fn broadcast(&mut self, r: Request) {
        let t = self.config.shared.post(Some(self.index), r);
        if !t.passed() {
            self.tickets.push(t);
            self.waits = true;
        }
    }

    /// Tells the others and waits.
    pub(crate) fn shoot_down_and_wait(&mut self, r: Request) {
        self.broadcast(r);
        self.dsb();
    }

    /// Completes broadcast maintenance: waits until every PE that runs has passed a safepoint. Meanwhile this PE serves
    /// requests itself, so two that wait for each other go on.
    pub fn dsb(&mut self) {
        self.waits = false;
        while !self.tickets.is_empty() {
            self.tickets.retain(|t| !t.passed());
            if self.tickets.is_empty() {
                break;
            }
            if self.lines.get() & CpuLines::REQUEST != 0 {
                self.serve_requests();
            }
            std::thread::yield_now();
        }
    }

    /// SIMD&FP accesses trap unless CPACR_EL1.FPEN allows them at this EL.
    #[inline(always)]
    pub fn fp_access(&mut self) -> Result<(), Stop> {
        if self.fp_on { Ok(()) } else { self.fp_trap() }
    }

    #[cold]
    fn fp_trap(&mut self) -> Result<(), Stop> {
        // CV 1, COND 0b1110
        self.raise(Exception::new(ec::FP, 1 << 24 | 0xe << 20))
    }

    /// Instructions executed, including those of the block that runs.
    pub(crate) fn icount_now(&self) -> u64 {
        let in_block = if self.running { (self.state.pc.wrapping_sub(self.block_pc) / 4).min(64) } else { 0 };
        self.state.icount + in_block
    }

    pub(crate) fn update_limit(&mut self) {
        self.limit = self.budget.min(self.pmu.deadline);
    }

    /// CNTVCT_EL0.
    pub fn cntvct(&self) -> u64 {
        self.config.clock.counter(self.icount_now()).wrapping_sub(self.cntvoff)
    }

    /// CNTPCT_EL0.
    pub fn cntpct(&self) -> u64 {
        self.config.clock.counter(self.icount_now()).wrapping_sub(self.cntpoff)
    }

    /// The instruction at PC was carried out by the hypervisor.
    pub fn skip_instruction(&mut self) {
        self.state.pc = self.state.pc.wrapping_add(4);
        self.state.btype = 0;
        if self.mdscr() & 1 != 0 {
            self.state.ss = false;
        }
        self.state.icount += 1;
    }

    /// The instruction at PC is UNDEFINED after all.
    pub fn inject_undef(&mut self) {
        self.take_exception(Exception::undefined());
    }

    /// Injects a synchronous external abort at `far`.
    pub fn inject_external_abort(&mut self, far: u64, fetch: bool) {
        use crate::exception::fsc;
        let e = if fetch {
            Exception::instruction_abort(far, fsc::EXTERNAL)
        } else {
            Exception::data_abort(far, fsc::EXTERNAL)
        };
        self.take_exception(e);
    }

    /// The instruction at PC is UNDEFINED.
    #[cold]
    pub fn undefined(&mut self) -> Exec {
        self.raise(Exception::undefined())
    }

    /// Records an exception to be taken instead of completing the instruction.
    #[cold]
    pub fn raise<T>(&mut self, e: Exception) -> Result<T, Stop> {
        self.stop = StopCause::Exception(e);
        Err(Stop)
    }

    /// Records an exit.
    #[cold]
    pub fn leave<T>(&mut self, e: Exit) -> Result<T, Stop> {
        self.stop = StopCause::Exit(e);
        Err(Stop)
    }
}
