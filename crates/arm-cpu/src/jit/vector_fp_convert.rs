//! Floating point: comparisons, roundings, conversions. See [`super::vector_fp`].

use super::asm::{Alu, Cc, Label, Mem, r};
use super::flags::Flags;
use super::layout::{self, consts};
use super::translate::Block;
use super::vector_fp::Width::{Double, Single};
use super::vector_fp::{ADD, Check, Lanes, SUB, Width, ps};
use super::vex::{Map, Op as V, Pp, X0, X1, X2, X3, Xmm};
use crate::decode::Op;
use crate::insn::Insn;

const VMOVQ: V = V(Pp::F3, Map::M0F, false, 0x7e);

/// How a number becomes integral: ties away from zero, or as the host's instruction encodes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    Away,
    By(u8),
}

/// The condition that an instruction looks at.
fn condition_of(i: &Insn) -> Option<u8> {
    use Op::*;
    match i.op {
        B_cond | BC_cond => Some(i.rd & 15),
        CSEL | CSINC | CSINV | CSNEG | FCSEL_s | FCSEL_d => Some(i.bits(12, 4) as u8),
        _ => None,
    }
}

/// A condition of the guest by EFLAGS after a comparison of the host, perhaps of swapped operands.
fn direct(cond: u8, swapped: bool) -> Option<Cc> {
    Some(match (cond, swapped) {
        (12, false) => Cc::A,
        (13, false) => Cc::Be,
        (10, false) => Cc::Ae,
        (11, false) => Cc::B,
        (6, _) => Cc::P,
        (7, _) => Cc::Np,
        (3 | 4, true) => Cc::A,
        (2 | 5, true) => Cc::Be,
        (8, true) => Cc::B,
        (9, true) => Cc::Ae,
        _ => return None,
    })
}

impl Block<'_> {
    /// FCMP, FCMPE: NZCV is 0110 equal, 1000 less, 0010 greater, 0011 unordered. Where the next instruction looks at a
    /// condition that the host has for the comparison, or for the one with operands swapped, it uses EFLAGS.
    pub(super) fn compare(&mut self, i: &Insn, w: Width, opcode: u8, zero: bool) {
        let pp = if w == Double { Pp::P66 } else { Pp::None };
        let next = self.ahead(1).and_then(condition_of);
        let direct = next.and_then(|c| direct(c, false).map(|_| false).or(direct(c, true).map(|_| true)));
        let swapped = direct == Some(true);
        let (n, m) = (i.rn, i.rm);
        if zero {
            self.a.v3(ps(0x57), X1, X1, X1);
        }
        if swapped {
            let m = if zero { X1 } else { self.vx(m, X1) };
            let n = self.v(n);
            self.a.v2(V(pp, Map::M0F, false, opcode), m, n);
        } else {
            let n = self.vx(n, X0);
            let m = if zero { X1.into() } else { self.v(m) };
            self.a.v2(V(pp, Map::M0F, false, opcode), n, m);
        }
        self.a.flags_dirty = false;
        self.flags = Flags::MEMORY;
        self.compared = direct.map(|swapped| (self.at, swapped));
        if self.comparison_live(direct.is_some()) {
            self.keep_comparison(swapped);
        }
    }

    /// The flags of a comparison go to memory; EFLAGS stay. Uses RAX and RDX.
    pub(super) fn keep_comparison(&mut self, swapped: bool) {
        self.a.lahf();
        self.a.mov_ah(r::RDX);
        let table = layout::COMPARED[usize::from(swapped)];
        self.a.load_zx(1, r::RAX, Mem { index: Some((r::RDX, 1)), ..table });
        self.a.store(1, layout::FLAGS, r::RAX);
    }

    /// FCCMP, FCCMPE.
    pub(super) fn compare_if(&mut self, i: &Insn, w: Width, opcode: u8) {
        let pp = if w == Double { Pp::P66 } else { Pp::None };
        let done = self.a.label();
        if let Some(cc) = self.flags_for(i.bits(12, 4) as u8) {
            let otherwise = layout::flags16(i.bits(0, 4) << 28);
            self.a.mov_i(r::RAX, u64::from(otherwise));
            let hold = self.a.label();
            self.a.jcc(cc, hold);
            self.a.store(1, layout::FLAGS, r::RAX);
            self.a.jmp(done);
            self.a.bind(hold);
        }
        let n = self.vx(i.rn, X0);
        let m = self.v(i.rm);
        self.a.v2(V(pp, Map::M0F, false, opcode), n, m);
        self.a.flags_dirty = true;
        self.flags = Flags::MEMORY;
        self.keep_comparison(false);
        self.a.bind(done);
    }

    /// X2 = `n` rounded, ties away from zero. `n` is finite, with zeros above. Uses X1, X3.
    pub(super) fn away(&mut self, n: Xmm, w: Width, quiet: bool) {
        let l = Lanes::One(w);
        let (opcode, k) = if w == Double { (0x0b, 1) } else { (0x0a, 0) };
        let (abs, sign) =
            if k == 1 { (consts::ABS_D, consts::SIGN_D1) } else { (consts::ABS_S, consts::SIGN_S1) };
        self.a.v3i(V(Pp::P66, Map::M0F3A, false, opcode), X2, n, n, if quiet { 11 } else { 3 });
        // The rest is exact.
        self.a.v3(V(l.pp(), Map::M0F, false, SUB), X1, n, X2);
        self.a.v3(ps(0x54), X1, X1, abs);
        // At least a half.
        self.a.v3i(V(l.pp(), Map::M0F, false, 0xc2), X1, X1, consts::HALF[k], 13);
        self.a.v3(ps(0x54), X1, X1, consts::ONE[k]);
        // The sign keeps negative zeros.
        self.a.v3(ps(0x54), X3, n, sign);
        self.a.v3(ps(0x56), X1, X1, X3);
        self.a.v3(V(l.pp(), Map::M0F, false, ADD), X2, X2, X1);
    }

    /// To the slow path unless `n` is below the bound in magnitude. Uses X3.
    pub(super) fn bounded(&mut self, n: Xmm, w: Width, bound: [Mem; 2], slow: Label) {
        let (pp, abs) = if w == Double { (Pp::P66, consts::ABS_D) } else { (Pp::None, consts::ABS_S) };
        self.a.v3(ps(0x54), X3, n, abs);
        self.a.v2(V(pp, Map::M0F, false, 0x2e), X3, bound[usize::from(w == Double)]);
        self.a.flags_dirty = true;
        self.a.jcc(Cc::Ae, slow);
        self.a.jcc(Cc::P, slow);
    }

    /// FRINTA.
    pub(super) fn round_away(&mut self, i: &Insn, w: Width) {
        let (slow, back) = self.slow_path(i);
        let n = self.lanes(X0, i.rn, Lanes::One(w));
        self.bounded(n, w, consts::TWO62, slow);
        self.away(n, w, true);
        self.result_out(i.rd, X2, Lanes::One(w));
        self.a.bind(back);
    }

    /// FCVT to a general-purpose register, of numbers that surely fit: what does not fit is not inexact as well.
    pub(super) fn rounded_to_int(&mut self, i: &Insn, from: Width, how: Rounding, signed: bool) {
        let w = i.bit(31);
        let l = Lanes::One(from);
        let (slow, back) = self.slow_path(i);
        let mut n = self.lanes(X0, i.rn, l);
        self.bounded(n, from, if w { consts::TWO62 } else { consts::TWO30 }, slow);
        if !signed {
            // By its bits: negative zero goes to the slow path, too.
            self.a.gpr_v(
                V(if from == Double { Pp::P66 } else { Pp::None }, Map::M0F, false, 0x50),
                r::RAX,
                n,
            );
            self.a.test8_i(r::RAX, 1);
            self.a.jcc(Cc::Ne, slow);
        }
        match how {
            Rounding::Away => {
                self.away(n, from, false);
                n = X2;
            }
            Rounding::By(3) => {}
            Rounding::By(imm) => {
                let opcode = if from == Double { 0x0b } else { 0x0a };
                self.a.v3i(V(Pp::P66, Map::M0F3A, false, opcode), X2, n, n, imm);
                n = X2;
            }
        }
        self.a.gpr_v(V(l.pp(), Map::M0F, w, 0x2c), r::RAX, n);
        if i.rd != crate::insn::ZR {
            self.put(i.rd, r::RAX);
        }
        self.a.bind(back);
    }

    /// Will somebody look at the flags in memory?
    pub(super) fn comparison_live(&self, direct: bool) -> bool {
        use super::flags::{Use, use_of};
        for n in 1.. {
            let Some(i) = self.ahead(n) else { return true };
            match use_of(i) {
                Use::Sets => return false,
                Use::Nothing => {}
                Use::Reads if n == 1 && direct => {}
                _ => return true,
            }
        }
        true
    }

    /// The condition of the host, when the instruction before was a comparison that left it in EFLAGS.
    pub fn compared_for(&self, cond: u8) -> Option<Cc> {
        let (at, swapped) = self.compared?;
        if at + 1 != self.at || self.a.flags_dirty { None } else { direct(cond, swapped) }
    }

    pub(super) fn round(&mut self, i: &Insn, w: Width, imm: u8) {
        let l = Lanes::One(w);
        let (slow, back) = self.slow_path(i);
        let n = self.lanes(X0, i.rn, l);
        let opcode = if w == Double { 0x0b } else { 0x0a };
        self.a.v3i(V(Pp::P66, Map::M0F3A, false, opcode), X0, n, n, imm);
        self.check(X0, l, Check::Nan, slow);
        self.result_out(i.rd, X0, l);
        self.a.bind(back);
    }

    pub(super) fn round_all(&mut self, i: &Insn, l: Lanes, imm: u8) {
        let (slow, back) = self.slow_path(i);
        let n = self.lanes(X0, i.rn, l);
        let opcode = if l.width() == Double { 0x09 } else { 0x08 };
        self.a.v2i(V(Pp::P66, Map::M0F3A, false, opcode), X0, n, imm);
        self.check(X0, l, Check::Nan, slow);
        self.result_out(i.rd, X0, l);
        self.a.bind(back);
    }

    /// FCMEQ and the like: masks by `vcmpps` with this predicate, perhaps of swapped operands. Unordered is false; FCMEQ
    /// is quiet.
    pub(super) fn mask(&mut self, i: &Insn, l: Lanes, predicate: u8, swap: bool, zero: bool) {
        let op = V(l.pp(), Map::M0F, false, 0xc2);
        let n = self.lanes(X0, i.rn, l);
        let m = if zero {
            self.a.v3(ps(0x57), X1, X1, X1);
            X1
        } else {
            self.lanes(X1, i.rm, l)
        };
        let (a, b) = if swap { (m, n) } else { (n, m) };
        self.a.v3i(op, X0, a, b, predicate);
        self.v_put_low(i.rd, X0, l.bits());
    }

    /// FABD.
    pub(super) fn difference(&mut self, i: &Insn, l: Lanes) {
        let (slow, back) = self.slow_path(i);
        let n = self.lanes(X0, i.rn, l);
        let m = self.operand(X1, i.rm, l);
        self.a.v3(V(l.pp(), Map::M0F, false, SUB), X0, n, m);
        self.check(X0, l, Check::Nan, slow);
        self.a.v3(ps(0x54), X0, X0, if l.width() == Double { consts::ABS_D } else { consts::ABS_S });
        self.result_out(i.rd, X0, l);
        self.a.bind(back);
    }

    /// Larger or smaller in each lane: NaNs, and zeros of both signs, go to the slow path. The host gives the second
    /// operand for these, and the results of both orders differ just then.
    pub(super) fn extremes(&mut self, i: &Insn, l: Lanes, opcode: u8) {
        let (slow, back) = self.slow_path(i);
        let op = V(l.pp(), Map::M0F, false, opcode);
        let n = self.lanes(X0, i.rn, l);
        let m = self.lanes(X1, i.rm, l);
        // Unordered, quiet: the host's instruction would find quiet NaNs invalid.
        self.a.v3i(V(l.pp(), Map::M0F, false, 0xc2), X3, n, m, 3);
        self.a.v2(V(Pp::P66, Map::M0F38, false, 0x17), X3, X3);
        self.a.flags_dirty = true;
        self.a.jcc(Cc::Ne, slow);
        self.a.v3(op, X2, n, m);
        self.a.v3(op, X3, m, n);
        self.a.v3(ps(0x57), X3, X3, X2);
        self.a.v2(V(Pp::P66, Map::M0F38, false, 0x17), X3, X3);
        self.a.flags_dirty = true;
        self.a.jcc(Cc::Ne, slow);
        self.result_out(i.rd, X2, l);
        self.a.bind(back);
    }

    /// FCVTZS of vectors of singles: what does not fit becomes the most negative number, which goes to the slow path.
    pub(super) fn floats_to_ints(&mut self, i: &Insn, l: Lanes) {
        let (slow, back) = self.slow_path(i);
        let n = self.lanes(X0, i.rn, l);
        self.a.v2(V(Pp::F3, Map::M0F, false, 0x5b), X0, n);
        self.a.v3(V(Pp::P66, Map::M0F, false, 0x76), X3, X0, consts::SIGN_S);
        self.a.v2(V(Pp::P66, Map::M0F38, false, 0x17), X3, X3);
        self.a.flags_dirty = true;
        self.a.jcc(Cc::Ne, slow);
        self.result_out(i.rd, X0, l);
        self.a.bind(back);
    }

    /// FCVTZS of a scalar in a vector register.
    pub(super) fn lane_to_int(&mut self, i: &Insn, from: Width) {
        let w = from == Double;
        let (slow, back) = self.slow_path(i);
        let n = self.v(i.rn);
        self.a.gpr_v(V(Lanes::One(from).pp(), Map::M0F, w, 0x2c), r::RAX, n);
        self.a.alu_i(Alu::Cmp, w, r::RAX, 1);
        self.a.jcc(Cc::O, slow);
        let t = self.v_target(i.rd, X0);
        self.a.v_gpr(V(Pp::P66, Map::M0F, w, 0x6e), t, r::RAX);
        self.result_out(i.rd, t, Lanes::One(from));
        self.a.bind(back);
    }

    /// FCVTL, FCVTL2 from single to double.
    pub(super) fn widen(&mut self, i: &Insn) {
        let (slow, back) = self.slow_path(i);
        let n = if i.bit(30) { self.v_upper(i.rn, X0) } else { self.v(i.rn) };
        self.a.v2(ps(0x5a), X0, n);
        self.check(X0, Lanes::All(Double), Check::Nan, slow);
        self.result_out(i.rd, X0, Lanes::All(Double));
        self.a.bind(back);
    }

    /// Between single and double.
    pub(super) fn convert(&mut self, i: &Insn, from: Width) {
        let (slow, back) = self.slow_path(i);
        let l = Lanes::One(from);
        self.lanes_in(X0, i.rn, l);
        self.a.v3(V(l.pp(), Map::M0F, false, 0x5a), X0, X0, X0);
        if from == Double {
            // What stands above came from the double's upper half.
            self.a.v3(ps(0x57), X1, X1, X1);
            self.a.v3i(V(Pp::P66, Map::M0F3A, false, 0x0c), X0, X1, X0, 1);
            self.check(X0, Lanes::One(Single), Check::Tiny, slow);
            self.result_out(i.rd, X0, Lanes::One(Single));
        } else {
            self.a.v2(VMOVQ, X0, X0);
            self.check(X0, Lanes::One(Double), Check::Nan, slow);
            self.result_out(i.rd, X0, Lanes::One(Double));
        }
        self.a.bind(back);
    }

    pub(super) fn int_to_float(&mut self, i: &Insn, to: Width, signed: bool) {
        let w = i.bit(31);
        let (slow, back) = self.slow_path(i);
        let wide = w || !signed;
        let n = if signed {
            self.rm(i.rn)
        } else {
            self.get_into(w, r::RAX, i.rn);
            if w {
                self.a.test(true, r::RAX, r::RAX);
                self.a.jcc(Cc::S, slow);
            }
            r::RAX.into()
        };
        self.a.v3(ps(0x57), X0, X0, X0);
        let pp = if to == Double { Pp::F2 } else { Pp::F3 };
        self.a.v3_gpr(V(pp, Map::M0F, wide, 0x2a), X0, X0, n);
        self.result_out(i.rd, X0, Lanes::One(to));
        self.a.bind(back);
    }

    /// FCVTZS to a general-purpose register; what does not fit goes to the slow path.
    pub(super) fn float_to_int(&mut self, i: &Insn, from: Width) {
        let w = i.bit(31);
        let (slow, back) = self.slow_path(i);
        let pp = if from == Double { Pp::F2 } else { Pp::F3 };
        let n = self.v(i.rn);
        self.a.gpr_v(V(pp, Map::M0F, w, 0x2c), r::RAX, n);
        self.a.alu_i(Alu::Cmp, w, r::RAX, 1);
        self.a.jcc(Cc::O, slow);
        if i.rd != crate::insn::ZR {
            self.put(i.rd, r::RAX);
        }
        self.a.bind(back);
    }

    pub(super) fn lane_to_float(&mut self, i: &Insn, w: Width) {
        self.v_element(r::RAX, i.rn, if w == Double { 3 } else { 2 }, 0);
        self.a.v3(ps(0x57), X0, X0, X0);
        let pp = if w == Double { Pp::F2 } else { Pp::F3 };
        self.a.v3_gpr(V(pp, Map::M0F, w == Double, 0x2a), X0, X0, r::RAX);
        self.result_out(i.rd, X0, Lanes::One(w));
    }

    pub(super) fn ints_to_floats(&mut self, i: &Insn, l: Lanes) {
        let n = self.lanes(X0, i.rn, l);
        self.a.v2(ps(0x5b), X0, n);
        self.result_out(i.rd, X0, l);
    }
}
