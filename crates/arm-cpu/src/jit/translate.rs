//! A block: its frame (entry, fuel, exits, slow paths) and what the groups of instructions build on.

use super::asm::{Alu, Asm, Cc, Label, Mem, Reg, Rm, r};
use super::flags::{Flags, Recipe};
use super::layout::{self, FUEL, pin, x};
use super::run::{Code, Link, Site};
use crate::code::Words;
use crate::cpu::Cpu;
use crate::decode::LINES;
use crate::insn::{Insn, SINK, SP, ZR};
use crate::{Feat, FeatSet};

/// Bytes between the way out of a stale block and its entry: `mov rax, imm64; jmp rel32`.
const WAY_OUT: u32 = 15;
/// What stands at the entry of a stale block: a short jump to its way out.
pub(super) const STALE: [u8; 2] = [0xeb, (-(WAY_OUT as i8) - 2) as u8];
/// Bytes between the entry and the second one, for those who looked at the fuel already: `test r15, r15; jle rel8`.
pub(super) const CHECKED: u32 = 5;
/// What stands there in a stale block.
pub(super) const STALE_CHECKED: [u8; 2] = [0xeb, (-((WAY_OUT + CHECKED) as i8) - 2) as u8];
/// Bytes before the way out that look whether an indirect branch may land here (FEAT_BTI), where the CPU has that.
const LANDING: u32 = 12;
/// Bytes between them and the entry.
pub(super) const TARGET: u32 = LANDING + WAY_OUT;
/// Bytes that the longest block may need.
const ROOM: usize = 96 * 1024;

/// Mode bits, see [`Cpu::mode`].
pub(super) mod mode {
    pub const EL1: u8 = 1;
    pub const FP_ON: u8 = 2;
    pub const FP_USUAL: u8 = 4;
    /// The page is guarded (FEAT_BTI).
    pub const GUARDED: u8 = 8;
}

/// Code that stands behind the block.
enum Cold {
    /// Calls the handler and comes back.
    Site { from: Label, site: u64, back: Label, flags: Option<Recipe> },
    /// Vector registers go to their places.
    Vectors { from: Label, back: Label },
    /// Leaves with a PC.
    Leave { from: Label, pc: u64, flags: Option<Recipe> },
    /// Goes to a PC by way of the shared look-up.
    Elsewhere { from: Label, pc: u64 },
    /// Leaves through a link.
    Link { from: Label, link: u32, flags: Option<Recipe> },
}

/// The translation of one block.
pub(super) struct Block<'a> {
    pub a: Asm,
    code: &'a mut Code,
    pub features: &'a FeatSet,
    insns: &'a [Insn],
    /// PC of the block.
    pub start: u64,
    pub mode: u8,
    /// The host has instructions for SHA-256.
    pub host_sha: bool,
    /// Index of the current instruction.
    pub at: usize,
    entry: u32,
    cold: Vec<Cold>,
    /// Where the guest's flags stand.
    pub flags: Flags,
    /// The page of the block.
    pub words: Words<'a>,
    /// Vector registers stand in their places.
    pub vectors: bool,
    /// From which bit on each vector register is known to be zero.
    pub zero_above: [u8; 32],
    /// The index of a comparison of floating-point numbers whose flags EFLAGS may hold, and whether its operands are swapped.
    pub compared: Option<(usize, bool)>,
    /// The index of an AESMC or AESIMC that the instruction before did already.
    pub mixed: Option<usize>,
    /// Registers whose values are known.
    known: [Option<u64>; 34],
    /// SP was found to be a multiple of 16, and changed by such only.
    pub sp_aligned: bool,
    /// DCZID_EL0.
    pub dczid: u64,
    /// Where executions are counted.
    count: Option<u64>,
}

/// The table's module of an instruction.
pub(super) fn module(i: &Insn) -> &'static str {
    LINES.get(i.op as usize).map_or("", |l| l.module)
}

/// May the handler look at NZCV or change it?
pub(super) fn touches_flags(i: &Insn) -> bool {
    match module(i) {
        "ldst" | "ldst_ex" | "atomic" | "crypto" => false,
        m if m.starts_with("simd_") => false,
        "fp_data" => {
            let n = LINES[i.op as usize].name;
            n.starts_with("FCMP") || n.starts_with("FCCMP") || n.starts_with("FCSEL")
        }
        _ => true,
    }
}

/// Does the handler use vector registers only?
fn vectors_only(i: &Insn) -> bool {
    match module(i) {
        "fp_data" | "crypto" => true,
        "simd_ldst" | "simd_misc" => false,
        m => m.starts_with("simd_"),
    }
}

impl Cpu {
    /// Translates a block; `None` when there is no room.
    pub(super) fn translate_block(&mut self, insns: &[Insn], page: usize, pc: u64, mode: u8) -> Option<u32> {
        let code = self.jit.code.as_mut()?;
        if code.memory.left() < ROOM {
            return None;
        }
        let el = mode & mode::EL1;
        let count = self.profile.as_mut().map(|p| p.cell(pc, el, insns.len() as u32) as u64);
        let mut a = std::mem::take(&mut code.asm);
        a.reset(code.memory.used() as u32);
        let mut b = Block {
            host_sha: code.sha,
            a,
            code,
            features: &self.features,
            insns,
            start: pc,
            mode,
            at: 0,
            entry: 0,
            cold: Vec::new(),
            flags: Flags::MEMORY,
            words: self.code.words(page),
            vectors: false,
            zero_above: [super::vregs::ALL; 32],
            compared: None,
            mixed: None,
            known: [None; 34],
            sp_aligned: false,
            dczid: self.state.sys(crate::SysReg::DCZID_EL0),
            count,
        };
        b.emit();
        let (a, entry) = (b.a, b.entry);
        let pushed = code.memory.push(&a.code);
        self.counters.translated += 1;
        self.counters.translated_instructions += insns.len() as u64;
        self.counters.code_bytes += a.code.len() as u64;
        if let Some(f) = &self.options.perf_map
            && let Some(at) = pushed
        {
            f(&format!("{:x} {:x} el{el}:{pc:#x}", code.memory.address(at), a.code.len()));
        }
        code.asm = a;
        pushed.map(|_| entry)
    }
}

impl Block<'_> {
    fn emit(&mut self) {
        if self.features.has(Feat::BTI) {
            self.landing();
        }
        self.a.mov_i64(r::RAX, self.start);
        self.a.jmp_to(self.code.thunks.leave_pc);
        self.entry = self.a.here();
        self.a.test(true, FUEL, FUEL);
        // jle to the way out
        self.a.bytes(&[0x7e, (-(WAY_OUT as i8) - 5) as u8]);
        self.a.alu_i(Alu::Sub, true, FUEL, self.insns.len() as i32);
        if let Some(n) = self.count {
            self.a.mov_i64(r::RCX, n);
            self.a.alu_i(Alu::Add, true, Mem::at(r::RCX, 0), 1);
        }
        self.vectors = self.wants_vectors(self.insns);
        if self.vectors {
            self.place_vectors();
        }
        self.flags = Flags::MEMORY;
        let mut ended = false;
        for k in 0..self.insns.len() {
            self.at = k;
            let i = self.insns[k];
            ended = self.instruction(&i);
        }
        if !ended {
            let next = self.pc().wrapping_add(4);
            self.go(next);
        }
        self.emit_cold();
        self.a.finish();
    }

    /// Where indirect branches come that set BTYPE: into the block, or out where BTYPE has to be looked at (Arm ARM D8.4.5).
    fn landing(&mut self) {
        let begin = self.a.here();
        // What PACIASP and PACIBSP accept of BTYPE 3 depends on SCTLR_EL1.
        let refused = match self.insns.first().map(|i| i.raw) {
            _ if self.mode & mode::GUARDED == 0 => None,
            Some(0xd503_24df) => None,
            Some(0xd503_233f | 0xd503_237f | 0xd503_245f) => Some(3),
            Some(0xd503_249f) => Some(2),
            _ => Some(0),
        };
        match refused {
            Some(0) => {
                let on = (LANDING - 2) as u8;
                self.a.bytes(&[0xeb, on]);
            }
            Some(n) => {
                self.a.alu8_i(Alu::Cmp, layout::BTYPE, n);
                let on = (LANDING - (self.a.here() - begin) - 2) as u8;
                self.a.bytes(&[0x74, on]);
            }
            None => {}
        }
        if refused != Some(0) {
            let on = (TARGET - (self.a.here() - begin) - 2) as u8;
            self.a.bytes(&[0xeb, on]);
        }
        while self.a.here() - begin < LANDING {
            self.a.byte(0x90);
        }
    }

    /// One instruction; true if it ended the block with all its exits.
    fn instruction(&mut self, i: &Insn) -> bool {
        if let Some(ended) = self.branch(i) {
            return ended;
        }
        let known = self.integer(i)
            || self.bits(i)
            || self.access(i)
            || self.system(i)
            || self.vector(i)
            || self.floating(i)
            || self.floating_moves(i)
            || self.vector_more(i)
            || self.hashes(i);
        if !known {
            self.handler(i);
        }
        false
    }

    /// PC of the current instruction.
    pub fn pc(&self) -> u64 {
        self.start.wrapping_add(4 * self.at as u64)
    }

    /// The instruction `n` behind the current one.
    pub fn ahead(&self, n: usize) -> Option<&Insn> {
        self.insns.get(self.at + n)
    }

    /// Offset of the block's entry, when `pc` is where it starts.
    fn own_entry(&self, pc: u64) -> Option<u32> {
        (pc == self.start).then_some(self.entry)
    }

    fn site(&mut self, i: &Insn) -> u64 {
        let count = self.at as i64 - self.insns.len() as i64;
        self.code.site(Site { insn: *i, pc: self.pc(), count, flags: touches_flags(i) })
    }

    /// Calls the handler for the whole instruction.
    pub fn handler(&mut self, i: &Insn) {
        self.flags_out();
        let site = self.site(i);
        self.a.mov_i64(r::RAX, site);
        let vector = vectors_only(i);
        let t = &self.code.thunks;
        self.a.call_to(if vector { t.call_vector } else { t.call });
        self.flags = Flags::MEMORY;
        self.zero_above = [super::vregs::ALL; 32];
        if !vector {
            self.sp_aligned = false;
            self.known = [None; 34];
        }
    }

    /// A label behind which the handler does the whole instruction and goes on at `back`.
    pub fn slow_path(&mut self, i: &Insn) -> (Label, Label) {
        let (from, back) = (self.a.label(), self.a.label());
        let site = self.site(i);
        let flags = self.flags.pending();
        self.cold.push(Cold::Site { from, site, back, flags });
        (from, back)
    }

    /// Labels between which vector registers are loaded.
    pub fn load_vectors(&mut self) -> (Label, Label) {
        let (from, back) = (self.a.label(), self.a.label());
        self.cold.push(Cold::Vectors { from, back });
        (from, back)
    }

    /// A label that leaves with a PC.
    pub fn leave_at(&mut self, pc: u64) -> Label {
        let from = self.a.label();
        let flags = self.flags.pending();
        self.cold.push(Cold::Leave { from, pc, flags });
        from
    }

    /// A label to jump to by a displacement that shall lead to the block at `target` once there is one.
    fn link_to(&mut self, target: u64, checked: bool) -> Label {
        let from = self.a.label();
        let link = self.code.links.len() as u32;
        self.code.links.push(Link { at: self.a.here(), target, checked });
        let flags = self.flags.pending();
        self.cold.push(Cold::Link { from, link, flags });
        from
    }

    fn emit_cold(&mut self) {
        for c in std::mem::take(&mut self.cold) {
            match c {
                Cold::Site { from, site, back, flags } => {
                    self.a.bind(from);
                    self.flags_out_cold(flags);
                    self.a.mov_i64(r::RAX, site);
                    self.a.call_to(self.code.thunks.call);
                    self.a.jmp(back);
                }
                Cold::Vectors { from, back } => {
                    self.a.bind(from);
                    self.a.call_to(self.code.thunks.load_vectors);
                    self.a.jmp(back);
                }
                Cold::Link { from, link, flags } => {
                    self.a.bind(from);
                    self.flags_out_cold(flags);
                    self.a.mov_i(r::RAX, link.into());
                    self.a.jmp_to(self.code.thunks.leave_link);
                }
                Cold::Elsewhere { from, pc } => {
                    self.a.bind(from);
                    self.a.mov_i(r::RAX, pc);
                    self.a.jmp_to(self.code.thunks.jump);
                }
                Cold::Leave { from, pc, flags } => {
                    self.a.bind(from);
                    self.flags_out_cold(flags);
                    self.a.mov_i(r::RAX, pc);
                    self.a.jmp_to(self.code.thunks.leave_pc);
                }
            }
        }
    }

    /// Leaves when a line that matters is set: on backward and indirect branches. Uses RCX.
    pub fn look_at_lines(&mut self, out: Label) {
        self.a.mov(true, r::RCX, layout::LINES);
        self.a.mov(false, r::RCX, Mem::at(r::RCX, 0));
        self.a.test(false, layout::ATTENTION, r::RCX);
        self.a.jcc(Cc::Ne, out);
    }

    /// Goes to a PC that is known.
    pub fn go(&mut self, target: u64) {
        let same_page = (target ^ self.start) & !0xfff == 0;
        // Flags that nobody looks at need not be in memory when the block goes on to the next one.
        let pending = self.flags_elided(target);
        if !pending {
            self.flags_out();
        }
        if pending || target <= self.pc() {
            let out = self.leave_at(target);
            if target <= self.pc() {
                self.look_at_lines(out);
            }
            if pending {
                self.a.test(true, FUEL, FUEL);
                self.a.jcc(Cc::Le, out);
            }
        }
        if let Some(entry) = self.own_entry(target) {
            self.a.jmp_to(if pending { entry + CHECKED } else { entry });
        } else if same_page {
            // Until it is patched, the displacement leads out.
            self.a.byte(0xe9);
            let l = self.link_to(target, pending);
            self.a.displacement(l);
        } else {
            let miss = self.a.label();
            self.cold.push(Cold::Elsewhere { from: miss, pc: target });
            if target >> 63 == 0 {
                self.a.mov_i(r::RDX, target);
                self.a.mov(false, r::RCX, r::RDX);
                self.a.alu(Alu::Add, false, r::RCX, layout::HASH);
                self.a.alu(Alu::Xor, true, r::RDX, layout::FETCH);
                self.a.alu_i(Alu::And, false, r::RCX, (super::JUMP_ENTRIES as i32 - 1) << 2);
                self.a.shift(super::asm::Shift::Shl, false, r::RCX, 2);
                self.a.alu(Alu::Add, true, r::RCX, layout::JUMPS);
                self.a.alu(Alu::Cmp, true, r::RDX, Mem::at(r::RCX, 0));
                self.a.jcc(Cc::Ne, miss);
                return self.a.jmp_rm(Mem::at(r::RCX, 8));
            }
            let index = (target >> 2) as i32 & (super::JUMP_ENTRIES as i32 - 1);
            let half = (target >> 63) as i32;
            self.a.mov_i(r::RDX, target);
            self.a.alu(Alu::Xor, true, r::RDX, layout::FETCH.plus(8 * half));
            self.a.mov(true, r::RCX, layout::JUMPS);
            self.a.alu(Alu::Cmp, true, r::RDX, Mem::at(r::RCX, index * 16));
            self.a.jcc(Cc::Ne, miss);
            self.a.jmp_rm(Mem::at(r::RCX, index * 16 + 8));
        }
    }

    /// Goes to a PC that is known when the condition of the host holds, else goes on.
    pub fn go_if(&mut self, cc: Cc, target: u64) {
        let (flags, dirty) = (self.flags, self.a.flags_dirty);
        let same_page = (target ^ self.start) & !0xfff == 0;
        if same_page && target > self.pc() && flags.settled() {
            self.a.bytes(&[0x0f, 0x80 | cc as u8]);
            let l = self.link_to(target, false);
            return self.a.displacement(l);
        }
        let no: Label = self.a.label();
        self.a.jcc(cc.inverse(), no);
        self.go(target);
        self.a.bind(no);
        (self.flags, self.a.flags_dirty) = (flags, dirty);
    }

    /// Goes to the PC in RAX, which may be anything; flags are in memory.
    pub fn go_indirect(&mut self) {
        let out = self.a.label();
        self.look_at_lines(out);
        // Most stay in their half of the address space.
        let miss = self.a.label();
        super::thunk::lookup_in(&mut self.a, (self.start >> 63) as usize, miss);
        self.a.bind(miss);
        self.a.jmp_to(self.code.thunks.jump);
        self.a.bind(out);
        self.a.jmp_to(self.code.thunks.leave_pc);
    }

    /// The same for a branch that sets BTYPE: the target looks at it, and whoever else wants it finds it by the fuel.
    pub fn go_to_target(&mut self, btype: u8) {
        let out = self.a.label();
        self.a.store8_i(layout::BTYPE, btype);
        self.a.store(3, layout::BTYPE_FUEL, FUEL);
        self.look_at_lines(out);
        super::thunk::lookup_target(&mut self.a, (self.start >> 63) as usize, out);
        self.a.bind(out);
        self.a.jmp_to(self.code.thunks.leave_pc);
    }

    // Registers.

    /// Where a guest register stands; ZR is memory that holds zero.
    pub fn rm(&self, n: u8) -> Rm {
        match pin(n) {
            Some(p) => p.into(),
            None => x(n).into(),
        }
    }
    /// A host register with the value of `n`: its own, or `scratch`.
    pub fn get(&mut self, w: bool, n: u8, scratch: Reg) -> Reg {
        match pin(n) {
            Some(p) => p,
            None => {
                self.get_into(w, scratch, n);
                scratch
            }
        }
    }
    /// Copies a register.
    pub fn get_into(&mut self, w: bool, to: Reg, n: u8) {
        if n == ZR {
            self.a.mov_i(to, 0);
        } else if let Some(v) = self.known(n) {
            self.a.mov_i(to, if w { v } else { v & 0xffff_ffff });
        } else if pin(n) != Some(to) || !w {
            self.a.mov(w, to, self.rm(n));
        }
    }
    /// The same for an operation of that width that writes all of `to`.
    pub fn get_for(&mut self, w: bool, to: Reg, n: u8) {
        if pin(n) != Some(to) {
            self.get_into(w, to, n);
        }
    }
    /// The host register to compute a result for `n` in, RAX where it has none of its own or one of `sources` stands there.
    pub fn target(&self, n: u8, sources: &[u8]) -> Reg {
        match pin(n) {
            Some(p) if !sources.contains(&n) => p,
            _ => r::RAX,
        }
    }
    /// `n` = what stands in `reg` (all 64 bits).
    pub fn put(&mut self, n: u8, reg: Reg) {
        self.forget(n);
        if n == SINK || n == ZR {
            return;
        }
        match pin(n) {
            Some(p) if p == reg => {}
            Some(p) => self.a.mov(true, p, reg),
            None => self.a.store(3, x(n), reg),
        }
    }
    /// `n` = a constant.
    pub fn put_i(&mut self, n: u8, v: u64) {
        self.forget(n);
        if n == SINK || n == ZR {
            return;
        }
        match (pin(n), x(n)) {
            (Some(p), _) => self.a.mov_i(p, v),
            (None, m) if v as i64 == i64::from(v as i32) => self.a.store_i(true, m, v as i32),
            (None, m) => {
                self.a.mov_i(r::RAX, v);
                self.a.store(3, m, r::RAX);
            }
        }
        self.known[usize::from(n)] = Some(v);
    }
    /// The value of `n`, when it is known.
    pub fn known(&self, n: u8) -> Option<u64> {
        self.known.get(usize::from(n)).copied().flatten()
    }
    /// `n` is written: what was known of it is not true any more.
    pub fn forget(&mut self, n: u8) {
        self.flags.written(n);
        if n == SP {
            self.sp_aligned = false;
        }
        if let Some(k) = self.known.get_mut(usize::from(n)) {
            *k = None;
        }
    }
}
