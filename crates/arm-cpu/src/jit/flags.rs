//! Flags of the guest between the instruction that sets them and those that look at them.
//!
//! They stand in EFLAGS right behind the operation that set them. Later they are made again from its operands or result,
//! where these are still there (a [`Recipe`]); what needs NZCV in memory (a fault, an interrupt, a handler) does so on its
//! way. Only where the recipe would be lost before the flags are dead they are put in memory at once.

use super::asm::{Alu, Cc, Rm, r};
use super::layout::{self, condition};
use super::translate::{Block, module, touches_flags};
use crate::decode::{Op, decode};
use crate::insn::{Insn, SINK, ZR};

/// What an instruction does with the flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// Neither reads nor sets them, and cannot leave the block.
    Nothing,
    /// Sets all of them, reads none.
    Sets,
    /// Reads them, through EFLAGS.
    Reads,
    /// Both.
    ReadsAndSets,
    /// They must be available in memory, if only on a slow path.
    Memory,
}

pub(super) fn use_of(i: &Insn) -> Use {
    use Op::*;
    match i.op {
        ADDS_imm | SUBS_imm | ANDS_imm | ADDS_shift | SUBS_shift | ANDS_shift | BICS_shift | ADDS_ext
        | SUBS_ext => Use::Sets,
        ADCS | SBCS | CCMN_imm | CCMN_reg | CCMP_imm | CCMP_reg => Use::ReadsAndSets,
        ADC | SBC | CSEL | CSINC | CSINV | CSNEG => Use::Reads,
        ADR | ADRP | ADD_imm | SUB_imm | AND_imm | ORR_imm | EOR_imm | MOVN | MOVZ | MOVK | SBFM | BFM
        | UBFM | EXTR | AND_shift | BIC_shift | ORR_shift | ORN_shift | EOR_shift | EON_shift | ADD_shift
        | SUB_shift | ADD_ext | SUB_ext | RBIT | REV16 | REV_w | REV32 | REV_x | CLZ | CLS | UDIV | SDIV
        | LSLV | LSRV | ASRV | RORV | MADD | MSUB | SMADDL | SMSUBL | SMULH | UMADDL | UMSUBL | UMULH
        | NOP | HINT | BTI | CSDB => Use::Nothing,
        _ => Use::Memory,
    }
}

/// Does the translation leave EFLAGS alone?
fn keeps_eflags(i: &Insn) -> bool {
    use Op::*;
    matches!(i.op, CSEL | CSINC | CSINV | CSNEG | ADD_imm | SUB_imm | MOVN | MOVZ | ADR | ADRP | NOP)
}

/// General-purpose registers that the instruction may write, as a set by index.
fn writes(i: &Insn) -> u64 {
    if let Some(w) = super::access::writes(i) {
        return w;
    }
    match use_of(i) {
        Use::Memory if touches_flags(i) || matches!(module(i), "atomic" | "ldst_ex") => u64::MAX,
        Use::Memory => 1 << i.rd | 1 << i.rn | 1 << i.rm | 1 << i.ra,
        _ => 1 << i.rd,
    }
}

/// How flags came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Sub,
    Add,
    Logic,
}

/// The second operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Second {
    Reg(u8),
    Imm(i32),
    /// Neither: it cannot be had again.
    Gone,
}

/// What must be done to EFLAGS until they are as after a subtraction (CF is not C).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Fix {
    #[default]
    Nothing,
    /// CF is C.
    Invert,
    /// C is zero, CF as well.
    Set,
}

impl Kind {
    pub fn fix(self) -> Fix {
        match self {
            Kind::Sub => Fix::Nothing,
            Kind::Add => Fix::Invert,
            Kind::Logic => Fix::Set,
        }
    }
}

/// An operation whose flags are wanted, and which of its registers still have the values that it had or left there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Recipe {
    kind: Kind,
    w: bool,
    rd: Option<u8>,
    a: Option<u8>,
    b: Second,
}

impl Recipe {
    /// `rd = a op b` was just done.
    pub fn new(kind: Kind, w: bool, rd: u8, a: u8, b: Second) -> Recipe {
        let mut r = Recipe { kind, w, rd: None, a: Some(a), b };
        if rd != SINK && rd != ZR {
            r.written(1 << rd);
            r.rd = Some(rd);
        }
        r
    }
    /// These registers got other values.
    fn written(&mut self, set: u64) {
        let lost = |n: u8| n != ZR && set >> n & 1 != 0;
        self.rd = self.rd.filter(|n| !lost(*n));
        self.a = self.a.filter(|n| !lost(*n));
        if matches!(self.b, Second::Reg(n) if lost(n)) {
            self.b = Second::Gone;
        }
    }
    /// Can all flags be had?
    fn possible(&self) -> bool {
        let two = usize::from(self.rd.is_some())
            + usize::from(self.a.is_some())
            + usize::from(self.b != Second::Gone)
            >= 2;
        match self.kind {
            Kind::Logic => self.rd.is_some() || self.a.is_some() && self.b != Second::Gone,
            _ => two,
        }
    }
}

/// What is known of the flags at a place in a block.
#[derive(Clone, Copy, Default)]
pub(super) struct Flags {
    /// EFLAGS hold them, after a fix, unless an instruction since then changed them.
    held: bool,
    fix: Fix,
    /// They stand in memory as well (or do not matter).
    in_memory: bool,
    recipe: Option<Recipe>,
}

impl Flags {
    /// In memory only.
    pub const MEMORY: Flags = Flags { held: false, fix: Fix::Nothing, in_memory: true, recipe: None };
    /// These registers got other values.
    pub fn written(&mut self, n: u8) {
        if let Some(r) = &mut self.recipe {
            r.written(1 << n);
        }
    }
    /// They stand in memory.
    pub fn settled(&self) -> bool {
        self.in_memory
    }
    /// How a slow path gets them to memory.
    pub fn pending(&self) -> Option<Recipe> {
        self.recipe.filter(|r| !self.in_memory && r.possible())
    }
}

/// How many instructions of a successor are looked at.
const AHEAD: u64 = 24;

impl Block<'_> {
    /// EFLAGS hold the flags of an operation just done. Takes RAX: results are put away before.
    pub fn flags_set(&mut self, fix: Fix, recipe: Option<Recipe>) {
        self.a.flags_dirty = false;
        self.flags = Flags { held: true, fix, in_memory: false, recipe };
        if self.wants_memory() {
            self.flags_out();
        }
    }

    /// Do the flags just set have to go to memory at once?
    fn wants_memory(&self) -> bool {
        let mut recipe = self.flags.recipe;
        let mut direct = true;
        for n in 1.. {
            let again = recipe.is_some_and(|r| r.possible());
            let Some(i) = self.ahead(n) else { return !direct && !again };
            if matches!(i.op, Op::BL | Op::BLR)
                && let Some(r) = &mut recipe
            {
                // The link register is written before the block is left.
                r.written(1 << 30);
                return !direct && !r.possible();
            }
            match use_of(i) {
                Use::Sets => return false,
                Use::Nothing => {}
                Use::ReadsAndSets => return !direct && !again,
                Use::Reads if direct || again => {}
                // At the end of the block each way out does it.
                _ if matches!(
                    i.op,
                    Op::B | Op::BL | Op::B_cond | Op::BC_cond | Op::RET | Op::BR | Op::BLR
                ) =>
                {
                    return !direct && !again;
                }
                Use::Memory if again => {}
                _ => return true,
            }
            if let Some(r) = &mut recipe {
                r.written(writes(i));
            }
            direct &= keeps_eflags(i);
        }
        true
    }

    fn eflags_valid(&self) -> bool {
        self.flags.held && !self.a.flags_dirty
    }

    /// Puts the flags in memory unless they stand there. Uses RAX.
    pub fn flags_out(&mut self) {
        if self.flags.in_memory {
            return;
        }
        self.flags.in_memory = true;
        if !self.eflags_valid() {
            let Some(recipe) = self.flags.recipe.filter(Recipe::possible) else { return };
            self.make_again(&recipe);
        }
        self.fix_flags();
        self.keep_flags();
    }

    fn keep_flags(&mut self) {
        // Byte by byte: reading AX would wait until its halves are put together.
        self.a.lahf();
        self.a.store_ah(layout::FLAGS.plus(1));
        self.a.set(Cc::O, layout::FLAGS);
    }

    /// On a slow path: flags that are not in memory go there. Uses RAX.
    pub fn flags_out_cold(&mut self, recipe: Option<Recipe>) {
        if let Some(recipe) = recipe {
            let before = self.flags;
            self.make_again(&recipe);
            self.fix_flags();
            self.keep_flags();
            self.flags = before;
        }
    }

    fn fix_flags(&mut self) {
        match self.flags.fix {
            Fix::Nothing => {}
            Fix::Invert => self.a.cmc(),
            Fix::Set => self.a.stc(),
        }
        self.flags.fix = Fix::Nothing;
    }

    /// A register as an operand of `cmp` and the like with another one: in a register of the host.
    fn second(&mut self, b: Second, op: Alu, w: bool, n: Rm) {
        match (b, n) {
            (Second::Imm(v), n) => self.a.alu_i(op, w, n, v),
            (Second::Reg(b), Rm::R(n)) => {
                let b = self.rm(b);
                self.a.alu(op, w, n, b);
            }
            (Second::Reg(b), Rm::M(_)) => {
                // Only for operations that change nothing, or with the result in RAX.
                match self.rm(b) {
                    Rm::R(b) => self.a.alu_to(op, w, n, b),
                    b => {
                        self.a.mov(w, r::RAX, n);
                        self.a.alu(op, w, r::RAX, b);
                    }
                }
            }
            (Second::Gone, _) => {}
        }
    }

    /// EFLAGS get what the operation set. Uses RAX.
    fn make_again(&mut self, recipe: &Recipe) {
        let w = recipe.w;
        let t = r::RAX;
        match (recipe.kind, recipe.rd, recipe.a, recipe.b) {
            (Kind::Sub, _, Some(a), b) if b != Second::Gone => {
                let a = self.rm(a);
                self.second(b, Alu::Cmp, w, a);
            }
            (Kind::Sub, Some(rd), _, b) if b != Second::Gone => {
                let d = self.rm(rd);
                self.a.mov(w, t, d);
                self.second(b, Alu::Add, w, t.into());
                self.second(b, Alu::Cmp, w, t.into());
            }
            (Kind::Sub, Some(rd), Some(a), _) => {
                let (a, d) = (self.rm(a), self.rm(rd));
                // -b
                self.a.mov(w, t, d);
                self.a.alu(Alu::Sub, w, t, a);
                self.a.unary(super::asm::Unary::Neg, w, t);
                match a {
                    Rm::R(a) => self.a.alu(Alu::Cmp, w, a, t),
                    a => self.a.alu_to(Alu::Cmp, w, a, t),
                }
            }
            (Kind::Add, _, Some(a), b) if b != Second::Gone => {
                let a = self.rm(a);
                self.a.mov(w, t, a);
                self.second(b, Alu::Add, w, t.into());
            }
            (Kind::Add, Some(rd), Some(a), _) => {
                let (a, d) = (self.rm(a), self.rm(rd));
                self.a.mov(w, t, d);
                self.a.alu(Alu::Sub, w, t, a);
                self.a.alu(Alu::Add, w, t, a);
            }
            (Kind::Add, Some(rd), _, b) => {
                let d = self.rm(rd);
                self.a.mov(w, t, d);
                self.second(b, Alu::Sub, w, t.into());
                self.second(b, Alu::Add, w, t.into());
            }
            (Kind::Logic, Some(rd), _, _) => self.test_result(w, rd),
            (Kind::Logic, _, Some(a), b) => {
                let a = self.rm(a);
                match b {
                    Second::Imm(v) => self.a.test_i(w, a, v),
                    Second::Reg(b) => {
                        self.a.mov(w, t, a);
                        let b = self.rm(b);
                        self.a.test(w, b, t);
                    }
                    Second::Gone => {}
                }
            }
            _ => {}
        }
        self.a.flags_dirty = false;
        self.flags.held = true;
        self.flags.fix = recipe.kind.fix();
    }

    fn test_result(&mut self, w: bool, rd: u8) {
        match self.rm(rd) {
            Rm::R(d) => self.a.test(w, d, d),
            m => self.a.alu_i(Alu::Cmp, w, m, 0),
        }
    }

    /// Brings the flags to EFLAGS, with a fix to be done. Uses RAX where they do not stand there.
    fn bring(&mut self) {
        if self.eflags_valid() {
            return;
        }
        if let Some(recipe) = self.flags.recipe.filter(Recipe::possible) {
            return self.make_again(&recipe);
        }
        self.a.load_zx(0, r::RAX, layout::FLAGS);
        self.a.alu8_i(Alu::Add, r::RAX, 0x7f);
        self.a.load_ah(layout::FLAGS.plus(1));
        self.a.sahf();
        self.a.flags_dirty = false;
        self.flags.held = true;
        self.flags.fix = Fix::Nothing;
    }

    /// Brings C to CF, inverted or as it is. EFLAGS are of no use otherwise.
    pub fn carry_get(&mut self, inverted: bool) {
        self.bring();
        match (self.flags.fix, inverted) {
            (Fix::Invert, false) | (Fix::Nothing, true) | (Fix::Set, false) => {}
            (Fix::Set, true) => self.a.stc(),
            _ => self.a.cmc(),
        }
        self.a.flags_dirty = true;
    }

    /// Brings the flags to EFLAGS and tells the condition; `None` holds always.
    pub fn flags_for(&mut self, cond: u8) -> Option<Cc> {
        let cc = condition(cond)?;
        if let Some(cc) = self.compared_for(cond) {
            return Some(cc);
        }
        if !self.eflags_valid()
            && let Some(recipe) = self.flags.recipe
            && let Some(cc) = self.in_short(&recipe, cond, cc)
        {
            return Some(cc);
        }
        self.bring();
        let carry = matches!(cond >> 1, 1 | 4);
        Some(match self.flags.fix {
            Fix::Invert if cond >> 1 == 1 => cc.inverse(),
            _ if carry => {
                self.fix_flags();
                cc
            }
            _ => cc,
        })
    }

    /// A condition for which not all flags are needed, when that is less work.
    fn in_short(&mut self, recipe: &Recipe, cond: u8, cc: Cc) -> Option<Cc> {
        let whole = recipe.a.is_some() && recipe.b != Second::Gone;
        let rd = recipe.rd?;
        match (cond >> 1, recipe.kind) {
            // Zero, negative: by the result.
            (0 | 2, _) if recipe.kind != Kind::Sub || !whole => {
                self.test_result(recipe.w, rd);
                Some(cc)
            }
            // Carry of an addition: the result is less than an operand.
            (1, Kind::Add) => {
                let d = self.rm(rd);
                match (recipe.a, recipe.b) {
                    (Some(a), _) => self.second(Second::Reg(a), Alu::Cmp, recipe.w, d),
                    (_, Second::Gone) => return None,
                    (_, b) => self.second(b, Alu::Cmp, recipe.w, d),
                }
                Some(cc.inverse())
            }
            _ => None,
        }
    }

    /// May the block go on to `target` without flags in memory?
    pub fn flags_elided(&self, target: u64) -> bool {
        self.flags.pending().is_some() && self.flags_dead_at(target)
    }

    /// Before a branch with two ways: flags that go to memory on both of them go there now.
    pub fn flags_before_branch(&mut self, target: u64) {
        let next = self.pc().wrapping_add(4);
        if !self.flags_elided(target) && !self.flags_elided(next) {
            self.flags_out();
        }
    }

    /// Do instructions at `pc`, on the page of the block, set all flags before anything looks at them or may fault?
    /// It does not look beyond the block there, which may be left at its end.
    pub fn flags_dead_at(&self, pc: u64) -> bool {
        for n in 0..AHEAD {
            let at = pc.wrapping_add(4 * n);
            if (at ^ self.start) & !0xfff != 0 {
                return false;
            }
            let Some(raw) = self.words.get((at & 0xfff) as usize) else { return false };
            match use_of(&decode(raw, self.features)) {
                Use::Sets => return true,
                Use::Nothing => {}
                _ => return false,
            }
        }
        false
    }
}
