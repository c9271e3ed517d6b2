//! Floating point on the host's unit, in the mode that FPCR usually has: round to nearest, no flushing, no default NaN.
//!
//! The host's NaNs differ from Arm's, so a result that is a NaN goes to the interpreter's handler, which does the operation
//! anew; the exceptions that the host's attempt raised are among those that the handler raises. So does a result of the
//! smallest normal magnitude where rounding may have made it: the host finds tininess after rounding, Arm before.
//! FPSR's cumulative bits gather in MXCSR and are moved when Rust code runs.

use super::asm::{Cc, Label, Mem, Rm, r};
use super::layout::consts;
use super::translate::{Block, mode};
use super::vector_fp_convert::Rounding;
use super::vex::{Map, Op as V, Pp, X0, X1, X2, X3, Xmm};
use super::vregs::{ALL, LOW32, LOW64};
use crate::decode::Op;
use crate::insn::Insn;

/// Width of the elements.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Single,
    Double,
}
use Width::{Double, Single};

/// What a result is looked at for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// A NaN.
    Nan,
    /// A NaN, or the smallest normal magnitude.
    Tiny,
}

/// A vector register is loaded as this many bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lanes {
    One(Width),
    Low64(Width),
    All(Width),
}

impl Lanes {
    pub(super) fn width(self) -> Width {
        match self {
            Lanes::One(w) | Lanes::Low64(w) | Lanes::All(w) => w,
        }
    }
    /// From which bit on there are zeros.
    pub(super) fn bits(self) -> u8 {
        match self {
            Lanes::One(Single) => LOW32,
            Lanes::One(Double) | Lanes::Low64(_) => LOW64,
            Lanes::All(_) => ALL,
        }
    }
    /// The prefix of an arithmetic instruction.
    pub(super) fn pp(self) -> Pp {
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
pub(super) const ADD: u8 = 0x58;
const MUL: u8 = 0x59;
pub(super) const SUB: u8 = 0x5c;
const MIN: u8 = 0x5d;
const DIV: u8 = 0x5e;
const MAX: u8 = 0x5f;
const SQRT: u8 = 0x51;

pub(super) fn ps(opcode: u8) -> V {
    V(Pp::None, Map::M0F, false, opcode)
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
            FCCMP_s => self.compare_if(i, Single, 0x2e),
            FCCMP_d => self.compare_if(i, Double, 0x2e),
            FCCMPE_s => self.compare_if(i, Single, 0x2f),
            FCCMPE_d => self.compare_if(i, Double, 0x2f),
            FRINTA_s => self.round_away(i, Single),
            FRINTA_d => self.round_away(i, Double),
            FCVTAS_rs => self.rounded_to_int(i, Single, Rounding::Away, true),
            FCVTAS_rd => self.rounded_to_int(i, Double, Rounding::Away, true),
            FCVTAU_rs => self.rounded_to_int(i, Single, Rounding::Away, false),
            FCVTAU_rd => self.rounded_to_int(i, Double, Rounding::Away, false),
            FCVTNS_rs => self.rounded_to_int(i, Single, Rounding::By(0), true),
            FCVTNS_rd => self.rounded_to_int(i, Double, Rounding::By(0), true),
            FCVTNU_rs => self.rounded_to_int(i, Single, Rounding::By(0), false),
            FCVTNU_rd => self.rounded_to_int(i, Double, Rounding::By(0), false),
            FCVTMS_rs => self.rounded_to_int(i, Single, Rounding::By(1), true),
            FCVTMS_rd => self.rounded_to_int(i, Double, Rounding::By(1), true),
            FCVTMU_rs => self.rounded_to_int(i, Single, Rounding::By(1), false),
            FCVTMU_rd => self.rounded_to_int(i, Double, Rounding::By(1), false),
            FCVTPS_rs => self.rounded_to_int(i, Single, Rounding::By(2), true),
            FCVTPS_rd => self.rounded_to_int(i, Double, Rounding::By(2), true),
            FCVTPU_rs => self.rounded_to_int(i, Single, Rounding::By(2), false),
            FCVTPU_rd => self.rounded_to_int(i, Double, Rounding::By(2), false),
            FCVTZU_rs => self.rounded_to_int(i, Single, Rounding::By(3), false),
            FCVTZU_rd => self.rounded_to_int(i, Double, Rounding::By(3), false),
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
    pub(super) fn lanes(&mut self, x: Xmm, n: u8, l: Lanes) -> Xmm {
        self.v_low(n, l.bits(), x)
    }

    /// The same as a copy in `x`.
    pub(super) fn lanes_in(&mut self, x: Xmm, n: u8, l: Lanes) {
        self.v_copy(x, n, l.bits());
    }

    /// A register as a second operand, loaded where what stands above its lanes would take part.
    pub(super) fn operand(&mut self, x: Xmm, n: u8, l: Lanes) -> Rm {
        if matches!(l, Lanes::Low64(_)) { self.lanes(x, n, l).into() } else { self.v(n) }
    }

    /// Writes a result that has zeros above its lanes.
    pub(super) fn result_out(&mut self, n: u8, x: Xmm, l: Lanes) {
        self.v_put(n, x, l.bits());
    }

    /// Goes to the slow path unless the result in `x` may stand. Uses X3 and RAX.
    pub(super) fn check(&mut self, x: Xmm, l: Lanes, check: Check, slow: Label) {
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
