//! Floating point on the host's unit, in the mode that FPCR usually has: round to nearest, no flushing, no default NaN.
//!
//! The host's NaNs differ from Arm's, so a result that is a NaN goes to the interpreter's handler, which does the operation
//! anew; the exceptions that the host's attempt raised are among those that the handler raises. So does a result of the
//! smallest normal magnitude where rounding may have made it: the host finds tininess after rounding, Arm before.
//! FPSR's cumulative bits gather in MXCSR and are moved when Rust code runs.

use super::asm::{Alu, Cc, Label, Mem, Rm, r};
use super::layout::{self, consts};
use super::translate::{Block, mode};
use super::vex::{Map, Op as V, Pp, Xmm};
use super::vregs::{ALL, LOW32, LOW64};
use crate::decode::Op;
use crate::insn::Insn;

const X0: Xmm = Xmm(0);
const X1: Xmm = Xmm(1);
const X2: Xmm = Xmm(2);
const X3: Xmm = Xmm(3);

/// Width of the elements.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Single,
    Double,
}
use Width::{Double, Single};

/// What a result is looked at for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// A NaN.
    Nan,
    /// A NaN, or the smallest normal magnitude.
    Tiny,
}

/// A vector register is loaded as this many bits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lanes {
    One(Width),
    Low64(Width),
    All(Width),
}

impl Lanes {
    fn width(self) -> Width {
        match self {
            Lanes::One(w) | Lanes::Low64(w) | Lanes::All(w) => w,
        }
    }
    /// From which bit on there are zeros.
    fn bits(self) -> u8 {
        match self {
            Lanes::One(Single) => LOW32,
            Lanes::One(Double) | Lanes::Low64(_) => LOW64,
            Lanes::All(_) => ALL,
        }
    }
    /// The prefix of an arithmetic instruction.
    fn pp(self) -> Pp {
        match self {
            Lanes::One(Single) => Pp::F3,
            Lanes::One(Double) => Pp::F2,
            Lanes::Low64(Single) | Lanes::All(Single) => Pp::None,
            Lanes::Low64(Double) | Lanes::All(Double) => Pp::P66,
        }
    }
    /// A fused multiply-add by its packed opcode.
    fn fma(self, packed: u8) -> V {
        let (scalar, w) = (matches!(self, Lanes::One(_)), self.width() == Double);
        V(Pp::P66, Map::M0F38, w, packed + u8::from(scalar))
    }
}

const VMOVQ: V = V(Pp::F3, Map::M0F, false, 0x7e);
const ADD: u8 = 0x58;
const MUL: u8 = 0x59;
const SUB: u8 = 0x5c;
const MIN: u8 = 0x5d;
const DIV: u8 = 0x5e;
const MAX: u8 = 0x5f;
const SQRT: u8 = 0x51;

fn ps(opcode: u8) -> V {
    V(Pp::None, Map::M0F, false, opcode)
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
    /// Translates the instruction if it belongs here.
    pub fn floating(&mut self, i: &Insn) -> bool {
        const NEEDED: u8 = mode::FP_ON | mode::FP_USUAL;
        if self.mode & NEEDED != NEEDED {
            return false;
        }
        use Op::*;
        let (s, d) = (Lanes::One(Single), Lanes::One(Double));
        let q = i.bit(30);
        let vs = if q { Lanes::All(Single) } else { Lanes::Low64(Single) };
        let vd = Lanes::All(Double);
        match i.op {
            FADD_s => self.two(i, s, ADD, Check::Nan),
            FADD_d => self.two(i, d, ADD, Check::Nan),
            FADD_vs => self.two(i, vs, ADD, Check::Nan),
            FADD_vd => self.two(i, vd, ADD, Check::Nan),
            FSUB_s => self.two(i, s, SUB, Check::Nan),
            FSUB_d => self.two(i, d, SUB, Check::Nan),
            FSUB_vs => self.two(i, vs, SUB, Check::Nan),
            FSUB_vd => self.two(i, vd, SUB, Check::Nan),
            FMUL_s => self.two(i, s, MUL, Check::Tiny),
            FMUL_d => self.two(i, d, MUL, Check::Tiny),
            FMUL_vs => self.two(i, vs, MUL, Check::Tiny),
            FMUL_vd => self.two(i, vd, MUL, Check::Tiny),
            FDIV_s => self.two(i, s, DIV, Check::Tiny),
            FDIV_d => self.two(i, d, DIV, Check::Tiny),
            FDIV_vs if q => self.two(i, vs, DIV, Check::Tiny),
            FDIV_vd => self.two(i, vd, DIV, Check::Tiny),
            FNMUL_s => self.negated_product(i, s),
            FNMUL_d => self.negated_product(i, d),
            FSQRT_s => self.root(i, s),
            FSQRT_d => self.root(i, d),
            FSQRT_vs => self.root(i, vs),
            FSQRT_vd => self.root(i, vd),
            // By 231 forms: a = +-(n * m) +- a.
            FMADD_s => self.fused(i, s, 0xb8, i.ra),
            FMADD_d => self.fused(i, d, 0xb8, i.ra),
            FMSUB_s => self.fused(i, s, 0xbc, i.ra),
            FMSUB_d => self.fused(i, d, 0xbc, i.ra),
            FNMADD_s => self.fused(i, s, 0xbe, i.ra),
            FNMADD_d => self.fused(i, d, 0xbe, i.ra),
            FNMSUB_s => self.fused(i, s, 0xba, i.ra),
            FNMSUB_d => self.fused(i, d, 0xba, i.ra),
            FMLA_vs => self.fused(i, vs, 0xb8, i.rd),
            FMLA_vd => self.fused(i, vd, 0xb8, i.rd),
            FMLS_vs => self.fused(i, vs, 0xbc, i.rd),
            FMLS_vd => self.fused(i, vd, 0xbc, i.rd),
            FMUL_es => self.by_element(i, vs, None),
            FMUL_ed => self.by_element(i, vd, None),
            FMLA_es => self.by_element(i, vs, Some(0xb8)),
            FMLA_ed => self.by_element(i, vd, Some(0xb8)),
            FMLS_es => self.by_element(i, vs, Some(0xbc)),
            FMLS_ed => self.by_element(i, vd, Some(0xbc)),
            FMUL_ses => self.by_element(i, s, None),
            FMUL_sed => self.by_element(i, d, None),
            FMLA_ses => self.by_element(i, s, Some(0xb8)),
            FMLA_sed => self.by_element(i, d, Some(0xb8)),
            FMLS_ses => self.by_element(i, s, Some(0xbc)),
            FMLS_sed => self.by_element(i, d, Some(0xbc)),
            FADDP_vd => self.add_pairs(i, vd),
            FADDP_vs if q => self.add_pairs(i, vs),
            FADDP_sd => self.add_scalar_pair(i, d),
            FADDP_ss => self.add_scalar_pair(i, s),
            FMAX_s => self.extreme(i, s, MAX),
            FMAX_d => self.extreme(i, d, MAX),
            FMIN_s => self.extreme(i, s, MIN),
            FMIN_d => self.extreme(i, d, MIN),
            FMAXNM_s => self.extreme(i, s, MAX),
            FMAXNM_d => self.extreme(i, d, MAX),
            FMINNM_s => self.extreme(i, s, MIN),
            FMINNM_d => self.extreme(i, d, MIN),
            FCMP_s => self.compare(i, Single, 0x2e, false),
            FCMP_d => self.compare(i, Double, 0x2e, false),
            FCMPE_s => self.compare(i, Single, 0x2f, false),
            FCMPE_d => self.compare(i, Double, 0x2f, false),
            FCMP0_s => self.compare(i, Single, 0x2e, true),
            FCMP0_d => self.compare(i, Double, 0x2e, true),
            FCMPE0_s => self.compare(i, Single, 0x2f, true),
            FCMPE0_d => self.compare(i, Double, 0x2f, true),
            FRINTN_s => self.round(i, Single, 8),
            FRINTN_d => self.round(i, Double, 8),
            FRINTM_s => self.round(i, Single, 9),
            FRINTM_d => self.round(i, Double, 9),
            FRINTP_s => self.round(i, Single, 10),
            FRINTP_d => self.round(i, Double, 10),
            FRINTZ_s => self.round(i, Single, 11),
            FRINTZ_d => self.round(i, Double, 11),
            FRINTI_s => self.round(i, Single, 12),
            FRINTI_d => self.round(i, Double, 12),
            FRINTX_s => self.round(i, Single, 4),
            FRINTX_d => self.round(i, Double, 4),
            FCVT_sd => self.convert(i, Single),
            FCVT_ds => self.convert(i, Double),
            SCVTF_rs => self.int_to_float(i, Single, true),
            SCVTF_rd => self.int_to_float(i, Double, true),
            UCVTF_rs => self.int_to_float(i, Single, false),
            UCVTF_rd => self.int_to_float(i, Double, false),
            FCVTZS_rs => self.float_to_int(i, Single),
            FCVTZS_rd => self.float_to_int(i, Double),
            SCVTF_ss => self.lane_to_float(i, Single),
            SCVTF_sd => self.lane_to_float(i, Double),
            SCVTF_vs => self.ints_to_floats(i, vs),
            FCMEQ_vs => self.mask(i, vs, 0, false, false),
            FCMEQ_vd => self.mask(i, vd, 0, false, false),
            FCMGE_vs => self.mask(i, vs, 2, true, false),
            FCMGE_vd => self.mask(i, vd, 2, true, false),
            FCMGT_vs => self.mask(i, vs, 1, true, false),
            FCMGT_vd => self.mask(i, vd, 1, true, false),
            FCMEQ0_vs => self.mask(i, vs, 0, false, true),
            FCMEQ0_vd => self.mask(i, vd, 0, false, true),
            FCMGE0_vs => self.mask(i, vs, 2, true, true),
            FCMGE0_vd => self.mask(i, vd, 2, true, true),
            FCMGT0_vs => self.mask(i, vs, 1, true, true),
            FCMGT0_vd => self.mask(i, vd, 1, true, true),
            FCMLE0_vs => self.mask(i, vs, 2, false, true),
            FCMLE0_vd => self.mask(i, vd, 2, false, true),
            FCMLT0_vs => self.mask(i, vs, 1, false, true),
            FCMLT0_vd => self.mask(i, vd, 1, false, true),
            FABD_vs => self.difference(i, vs),
            FABD_vd => self.difference(i, vd),
            FABD_ss => self.difference(i, s),
            FABD_sd => self.difference(i, d),
            FRINTN_vs => self.round_all(i, vs, 8),
            FRINTN_vd => self.round_all(i, vd, 8),
            FRINTM_vs => self.round_all(i, vs, 9),
            FRINTM_vd => self.round_all(i, vd, 9),
            FRINTP_vs => self.round_all(i, vs, 10),
            FRINTP_vd => self.round_all(i, vd, 10),
            FRINTZ_vs => self.round_all(i, vs, 11),
            FRINTZ_vd => self.round_all(i, vd, 11),
            FCVTZS_vs => self.floats_to_ints(i, vs),
            FCVTL_s => self.widen(i),
            FMAX_vs | FMAXNM_vs => self.extremes(i, vs, MAX),
            FMAX_vd | FMAXNM_vd => self.extremes(i, vd, MAX),
            FMIN_vs | FMINNM_vs => self.extremes(i, vs, MIN),
            FMIN_vd | FMINNM_vd => self.extremes(i, vd, MIN),
            FCVTZS_ss => self.lane_to_int(i, Single),
            FCVTZS_sd => self.lane_to_int(i, Double),
            _ => return false,
        }
        true
    }

    /// A register's lanes with zeros above them, for reading.
    fn lanes(&mut self, x: Xmm, n: u8, l: Lanes) -> Xmm {
        self.v_low(n, l.bits(), x)
    }

    /// The same as a copy in `x`.
    fn lanes_in(&mut self, x: Xmm, n: u8, l: Lanes) {
        self.v_copy(x, n, l.bits());
    }

    /// A register as a second operand, loaded where what stands above its lanes would take part.
    fn operand(&mut self, x: Xmm, n: u8, l: Lanes) -> Rm {
        if matches!(l, Lanes::Low64(_)) { self.lanes(x, n, l).into() } else { self.v(n) }
    }

    /// Writes a result that has zeros above its lanes.
    fn result_out(&mut self, n: u8, x: Xmm, l: Lanes) {
        self.v_put(n, x, l.bits());
    }

    /// Goes to the slow path unless the result in `x` may stand. Uses X3 and RAX.
    fn check(&mut self, x: Xmm, l: Lanes, check: Check, slow: Label) {
        let (abs, least) = match l.width() {
            Single => (consts::ABS_S, consts::LEAST_S),
            Double => (consts::ABS_D, consts::LEAST_D),
        };
        let packed = if l.width() == Double { Pp::P66 } else { Pp::None };
        match (l, check) {
            (Lanes::One(_), Check::Nan) => {
                self.a.v2(V(packed, Map::M0F, false, 0x2e), x, x);
                self.a.flags_dirty = true;
                self.a.jcc(Cc::P, slow);
            }
            (Lanes::One(_), Check::Tiny) => {
                self.a.v3(ps(0x54), X3, x, abs);
                self.a.v2(V(packed, Map::M0F, false, 0x2e), X3, least);
                self.a.flags_dirty = true;
                // Equal, or unordered.
                self.a.jcc(Cc::E, slow);
            }
            (_, c) => {
                if c == Check::Nan {
                    // Unordered, quiet.
                    self.a.v3i(V(packed, Map::M0F, false, 0xc2), X3, x, x, 3);
                } else {
                    self.a.v3(ps(0x54), X3, x, abs);
                    // Equal or unordered, quiet.
                    self.a.v3i(V(packed, Map::M0F, false, 0xc2), X3, X3, least, 8);
                }
                self.a.gpr_v(V(Pp::None, Map::M0F, false, 0x50), r::RAX, X3);
                self.a.test(false, r::RAX, r::RAX);
                self.a.jcc(Cc::Ne, slow);
            }
        }
    }

    fn two(&mut self, i: &Insn, l: Lanes, opcode: u8, check: Check) {
        let (slow, back) = self.slow_path(i);
        // The first operand gives what stands above the lane.
        let swap =
            matches!(opcode, ADD | MUL) && !self.v_is_low(i.rn, l.bits()) && self.v_is_low(i.rm, l.bits());
        let (n, m) = if swap { (i.rm, i.rn) } else { (i.rn, i.rm) };
        let n = self.lanes(X0, n, l);
        let m = self.operand(X1, m, l);
        self.a.v3(V(l.pp(), Map::M0F, false, opcode), X0, n, m);
        self.check(X0, l, check, slow);
        self.result_out(i.rd, X0, l);
        self.a.bind(back);
    }

    fn negated_product(&mut self, i: &Insn, l: Lanes) {
        let (slow, back) = self.slow_path(i);
        let n = self.lanes(X0, i.rn, l);
        let m = self.v(i.rm);
        self.a.v3(V(l.pp(), Map::M0F, false, MUL), X0, n, m);
        self.check(X0, l, Check::Tiny, slow);
        let sign = if l.width() == Double { consts::SIGN_D1 } else { consts::SIGN_S1 };
        self.a.v3(ps(0x57), X0, X0, sign);
        self.result_out(i.rd, X0, l);
        self.a.bind(back);
    }

    fn root(&mut self, i: &Insn, l: Lanes) {
        let (slow, back) = self.slow_path(i);
        let n = self.lanes(X0, i.rn, l);
        if matches!(l, Lanes::One(_)) {
            self.a.v3(V(l.pp(), Map::M0F, false, SQRT), X0, n, n);
        } else {
            self.a.v2(V(l.pp(), Map::M0F, false, SQRT), X0, n);
        }
        self.check(X0, l, Check::Nan, slow);
        self.result_out(i.rd, X0, l);
        self.a.bind(back);
    }

    fn fused(&mut self, i: &Insn, l: Lanes, opcode: u8, a: u8) {
        let (slow, back) = self.slow_path(i);
        self.lanes_in(X0, a, l);
        // What stands above a lane of the factors takes no part.
        let n = if matches!(l, Lanes::One(_)) { self.vx(i.rn, X1) } else { self.lanes(X1, i.rn, l) };
        let m = self.operand(X2, i.rm, l);
        self.a.v3(l.fma(opcode), X0, n, m);
        self.check(X0, l, Check::Tiny, slow);
        self.result_out(i.rd, X0, l);
        self.a.bind(back);
    }

    /// Multiplication by an element, with a fused sum if there is an opcode.
    fn by_element(&mut self, i: &Insn, l: Lanes, fma: Option<u8>) {
        let (slow, back) = self.slow_path(i);
        let size = if l.width() == Double { 3 } else { 2 };
        self.v_broadcast(X2, i.rm, size, i.imm as u8);
        let n = self.lanes(X1, i.rn, l);
        match fma {
            Some(opcode) => {
                self.lanes_in(X0, i.rd, l);
                if matches!(l, Lanes::Low64(_)) {
                    self.a.v2(VMOVQ, X2, X2);
                }
                self.a.v3(l.fma(opcode), X0, n, X2);
            }
            None => {
                if matches!(l, Lanes::Low64(_)) {
                    self.a.v2(VMOVQ, X2, X2);
                }
                self.a.v3(V(l.pp(), Map::M0F, false, MUL), X0, n, X2);
            }
        }
        self.check(X0, l, Check::Tiny, slow);
        self.result_out(i.rd, X0, l);
        self.a.bind(back);
    }

    /// FADDP of two whole vectors.
    fn add_pairs(&mut self, i: &Insn, l: Lanes) {
        let (slow, back) = self.slow_path(i);
        let n = self.vx(i.rn, X0);
        let m = self.v(i.rm);
        let pp = if l.width() == Double { Pp::P66 } else { Pp::F2 };
        self.a.v3(V(pp, Map::M0F, false, 0x7c), X0, n, m);
        self.check(X0, l, Check::Nan, slow);
        self.result_out(i.rd, X0, l);
        self.a.bind(back);
    }

    fn add_scalar_pair(&mut self, i: &Insn, l: Lanes) {
        let (slow, back) = self.slow_path(i);
        self.v_broadcast(X1, i.rn, if l.width() == Double { 3 } else { 2 }, 1);
        let n = self.lanes(X0, i.rn, l);
        self.a.v3(V(l.pp(), Map::M0F, false, ADD), X0, n, X1);
        self.check(X0, l, Check::Nan, slow);
        self.result_out(i.rd, X0, l);
        self.a.bind(back);
    }

    /// Larger or smaller: zeros are ordered, NaNs go to the slow path.
    fn extreme(&mut self, i: &Insn, l: Lanes, opcode: u8) {
        let (slow, back) = self.slow_path(i);
        let (differ, done) = (self.a.label(), self.a.label());
        let packed = if l.width() == Double { Pp::P66 } else { Pp::None };
        self.lanes_in(X0, i.rn, l);
        self.lanes_in(X1, i.rm, l);
        self.a.v2(V(packed, Map::M0F, false, 0x2e), X0, X1);
        self.a.flags_dirty = true;
        self.a.jcc(Cc::P, slow);
        self.a.jcc(Cc::Ne, differ);
        // Equal: only the sign of zeros may differ.
        self.a.v3(ps(if opcode == MAX { 0x54 } else { 0x56 }), X0, X0, X1);
        self.a.jmp(done);
        self.a.bind(differ);
        self.a.v3(V(l.pp(), Map::M0F, false, opcode), X0, X0, X1);
        self.a.bind(done);
        self.result_out(i.rd, X0, l);
        self.a.bind(back);
    }

    /// FCMP, FCMPE: NZCV is 0110 equal, 1000 less, 0010 greater, 0011 unordered. Where the next instruction looks at a
    /// condition that the host has for the comparison, or for the one with operands swapped, it uses EFLAGS.
    fn compare(&mut self, i: &Insn, w: Width, opcode: u8, zero: bool) {
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
        self.flags_held = false;
        self.compared = direct.map(|swapped| (self.at, swapped));
        if self.comparison_live(direct.is_some()) {
            self.a.lahf();
            self.a.mov_ah(r::RDX);
            let table = layout::COMPARED[usize::from(swapped)];
            self.a.load_zx(1, r::RAX, Mem { index: Some((r::RDX, 1)), ..table });
            self.a.store(1, layout::FLAGS, r::RAX);
        }
    }

    /// Will somebody look at the flags in memory?
    fn comparison_live(&self, direct: bool) -> bool {
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

    fn round(&mut self, i: &Insn, w: Width, imm: u8) {
        let l = Lanes::One(w);
        let (slow, back) = self.slow_path(i);
        let n = self.lanes(X0, i.rn, l);
        let opcode = if w == Double { 0x0b } else { 0x0a };
        self.a.v3i(V(Pp::P66, Map::M0F3A, false, opcode), X0, n, n, imm);
        self.check(X0, l, Check::Nan, slow);
        self.result_out(i.rd, X0, l);
        self.a.bind(back);
    }

    fn round_all(&mut self, i: &Insn, l: Lanes, imm: u8) {
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
    fn mask(&mut self, i: &Insn, l: Lanes, predicate: u8, swap: bool, zero: bool) {
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
    fn difference(&mut self, i: &Insn, l: Lanes) {
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
    fn extremes(&mut self, i: &Insn, l: Lanes, opcode: u8) {
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
    fn floats_to_ints(&mut self, i: &Insn, l: Lanes) {
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
    fn lane_to_int(&mut self, i: &Insn, from: Width) {
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
    fn widen(&mut self, i: &Insn) {
        let (slow, back) = self.slow_path(i);
        let n = if i.bit(30) { self.v_upper(i.rn, X0) } else { self.v(i.rn) };
        self.a.v2(ps(0x5a), X0, n);
        self.check(X0, Lanes::All(Double), Check::Nan, slow);
        self.result_out(i.rd, X0, Lanes::All(Double));
        self.a.bind(back);
    }

    /// Between single and double.
    fn convert(&mut self, i: &Insn, from: Width) {
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

    fn int_to_float(&mut self, i: &Insn, to: Width, signed: bool) {
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
    fn float_to_int(&mut self, i: &Insn, from: Width) {
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

    fn lane_to_float(&mut self, i: &Insn, w: Width) {
        self.v_element(r::RAX, i.rn, if w == Double { 3 } else { 2 }, 0);
        self.a.v3(ps(0x57), X0, X0, X0);
        let pp = if w == Double { Pp::F2 } else { Pp::F3 };
        self.a.v3_gpr(V(pp, Map::M0F, w == Double, 0x2a), X0, X0, r::RAX);
        self.result_out(i.rd, X0, Lanes::One(w));
    }

    fn ints_to_floats(&mut self, i: &Insn, l: Lanes) {
        let n = self.lanes(X0, i.rn, l);
        self.a.v2(ps(0x5b), X0, n);
        self.result_out(i.rd, X0, l);
    }

    /// FCSEL, and moves that need no arithmetic.
    pub fn floating_moves(&mut self, i: &Insn) -> bool {
        if self.mode & mode::FP_ON == 0 {
            return false;
        }
        use Op::*;
        let (s, d) = (Lanes::One(Single), Lanes::One(Double));
        let vs = if i.bit(30) { Lanes::All(Single) } else { Lanes::Low64(Single) };
        match i.op {
            FMOV_s => self.bits_op(i, s, None),
            FMOV_d => self.bits_op(i, d, None),
            FABS_s => self.bits_op(i, s, Some((0x54, consts::ABS_S))),
            FABS_d => self.bits_op(i, d, Some((0x54, consts::ABS_D))),
            FNEG_s => self.bits_op(i, s, Some((0x57, consts::SIGN_S1))),
            FNEG_d => self.bits_op(i, d, Some((0x57, consts::SIGN_D1))),
            FABS_vd => self.bits_op(i, Lanes::All(Double), Some((0x54, consts::ABS_D))),
            FABS_vs => self.bits_op(i, vs, Some((0x54, consts::ABS_S))),
            FNEG_vd => self.bits_op(i, Lanes::All(Double), Some((0x57, consts::SIGN_D))),
            FNEG_vs if i.bit(30) => self.bits_op(i, vs, Some((0x57, consts::SIGN_S))),
            FMOV_vi_s | FMOV_vi_d => self.constant(i.rd, i.imm, i.bit(30)),
            FMOV_qx => {
                let n = self.get(true, i.rn, r::RAX);
                self.insert_element(i.rd, 3, 1, n.into());
            }
            FMOV_is | FMOV_id => self.constant(i.rd, i.imm, false),
            FMOV_ws => self.move_to_general(i, 2, 0),
            FMOV_xd => self.move_to_general(i, 3, 0),
            FMOV_xq => self.move_to_general(i, 3, 1),
            FMOV_sw | FMOV_dx => {
                let n = self.rm(i.rn);
                let t = self.v_target(i.rd, X0);
                self.a.v_gpr(V(Pp::P66, Map::M0F, i.op == FMOV_dx, 0x6e), t, n);
                self.result_out(i.rd, t, if i.op == FMOV_dx { d } else { s });
            }
            FCSEL_s | FCSEL_d => {
                let w = i.op == FCSEL_d;
                let size = if w { 3 } else { 2 };
                let cc = self.flags_for(i.bits(12, 4) as u8);
                match cc {
                    Some(cc) => {
                        self.v_element(r::RCX, i.rm, size, 0);
                        self.v_element(r::RDX, i.rn, size, 0);
                        self.a.cmov(cc, w, r::RCX, r::RDX);
                    }
                    None => self.v_element(r::RCX, i.rn, size, 0),
                }
                let t = self.v_target(i.rd, X0);
                self.a.v_gpr(V(Pp::P66, Map::M0F, true, 0x6e), t, r::RCX);
                self.result_out(i.rd, t, if w { d } else { s });
            }
            _ => return false,
        }
        true
    }

    fn bits_op(&mut self, i: &Insn, l: Lanes, op: Option<(u8, Mem)>) {
        let mut n = self.lanes(X0, i.rn, l);
        if let Some((opcode, c)) = op {
            let t = self.v_target(i.rd, X0);
            self.a.v3(ps(opcode), t, n, c);
            n = t;
        }
        self.result_out(i.rd, n, l);
    }

    fn move_to_general(&mut self, i: &Insn, size: u32, at: u8) {
        if i.rd == crate::insn::ZR {
            return;
        }
        let t = self.target(i.rd, &[]);
        self.v_element(t, i.rn, size, at);
        self.put(i.rd, t);
    }

    /// A vector register = a constant, in both halves or the lower one.
    pub fn constant(&mut self, n: u8, v: u64, both: bool) {
        let t = self.v_target(n, X0);
        if v == 0 {
            self.a.v3(ps(0x57), t, t, t);
        } else {
            self.a.mov_i(r::RAX, v);
            self.a.v_gpr(V(Pp::P66, Map::M0F, true, 0x6e), t, r::RAX);
            if both {
                self.a.v3(V(Pp::P66, Map::M0F, false, 0x6c), t, t, t);
            }
        }
        let low = u32::try_from(v).is_ok();
        self.v_put(
            n,
            t,
            if v == 0 || !both && low {
                LOW32
            } else if both {
                ALL
            } else {
                LOW64
            },
        );
    }
}
