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

const VMOVSS: V = V(Pp::F3, Map::M0F, false, 0x10);
const VMOVSD: V = V(Pp::F2, Map::M0F, false, 0x10);
const VMOVQ: V = V(Pp::F3, Map::M0F, false, 0x7e);
const VMOVAPS: V = V(Pp::None, Map::M0F, false, 0x28);
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
            FADDP_vd => self.add_pairs(i),
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
            _ => return false,
        }
        true
    }

    /// Loads a register's lanes, zeros above them.
    fn lanes_in(&mut self, x: Xmm, n: u8, l: Lanes) {
        let op = match l {
            Lanes::One(Single) => VMOVSS,
            Lanes::One(Double) => VMOVSD,
            Lanes::Low64(_) => VMOVQ,
            Lanes::All(_) => VMOVAPS,
        };
        self.a.v2(op, x, layout::v(n));
    }

    /// A register as a memory operand, or loaded where what stands above its lanes would take part.
    fn operand(&mut self, x: Xmm, n: u8, l: Lanes) -> Rm {
        if matches!(l, Lanes::Low64(_)) {
            self.lanes_in(x, n, l);
            x.into()
        } else {
            layout::v(n).into()
        }
    }

    /// Writes a result that has zeros above its lanes.
    fn result_out(&mut self, n: u8, x: Xmm) {
        self.a.v2(V(Pp::None, Map::M0F, false, 0x29), x, layout::v(n));
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
        self.lanes_in(X0, i.rn, l);
        let m = self.operand(X1, i.rm, l);
        self.a.v3(V(l.pp(), Map::M0F, false, opcode), X0, X0, m);
        self.check(X0, l, check, slow);
        self.result_out(i.rd, X0);
        self.a.bind(back);
    }

    fn negated_product(&mut self, i: &Insn, l: Lanes) {
        let (slow, back) = self.slow_path(i);
        self.lanes_in(X0, i.rn, l);
        self.a.v3(V(l.pp(), Map::M0F, false, MUL), X0, X0, layout::v(i.rm));
        self.check(X0, l, Check::Tiny, slow);
        let sign = if l.width() == Double { consts::SIGN_D1 } else { consts::SIGN_S1 };
        self.a.v3(ps(0x57), X0, X0, sign);
        self.result_out(i.rd, X0);
        self.a.bind(back);
    }

    fn root(&mut self, i: &Insn, l: Lanes) {
        let (slow, back) = self.slow_path(i);
        self.lanes_in(X0, i.rn, l);
        if matches!(l, Lanes::One(_)) {
            self.a.v3(V(l.pp(), Map::M0F, false, SQRT), X0, X0, X0);
        } else {
            self.a.v2(V(l.pp(), Map::M0F, false, SQRT), X0, X0);
        }
        self.check(X0, l, Check::Nan, slow);
        self.result_out(i.rd, X0);
        self.a.bind(back);
    }

    fn fused(&mut self, i: &Insn, l: Lanes, opcode: u8, a: u8) {
        let (slow, back) = self.slow_path(i);
        self.lanes_in(X0, a, l);
        self.lanes_in(X1, i.rn, l);
        let m = self.operand(X2, i.rm, l);
        self.a.v3(l.fma(opcode), X0, X1, m);
        self.check(X0, l, Check::Tiny, slow);
        self.result_out(i.rd, X0);
        self.a.bind(back);
    }

    /// Multiplication by an element, with a fused sum if there is an opcode.
    fn by_element(&mut self, i: &Insn, l: Lanes, fma: Option<u8>) {
        let (slow, back) = self.slow_path(i);
        let size = if l.width() == Double { 8 } else { 4 };
        let element = layout::v(i.rm).plus(size * i.imm as i32);
        match (l, l.width()) {
            (Lanes::One(_), Single) => self.a.v2(VMOVSS, X2, element),
            (Lanes::One(_), Double) => self.a.v2(VMOVSD, X2, element),
            (_, Single) => self.a.v2(V(Pp::P66, Map::M0F38, false, 0x18), X2, element),
            (_, Double) => self.a.v2(V(Pp::F2, Map::M0F, false, 0x12), X2, element),
        }
        self.lanes_in(X1, i.rn, l);
        match fma {
            Some(opcode) => {
                self.lanes_in(X0, i.rd, l);
                if matches!(l, Lanes::Low64(_)) {
                    self.a.v2(VMOVQ, X2, X2);
                }
                self.a.v3(l.fma(opcode), X0, X1, X2);
            }
            None => {
                if matches!(l, Lanes::Low64(_)) {
                    self.a.v2(VMOVQ, X2, X2);
                }
                self.a.v3(V(l.pp(), Map::M0F, false, MUL), X0, X1, X2);
            }
        }
        self.check(X0, l, Check::Tiny, slow);
        self.result_out(i.rd, X0);
        self.a.bind(back);
    }

    /// FADDP of two vectors of two doubles.
    fn add_pairs(&mut self, i: &Insn) {
        let l = Lanes::All(Double);
        let (slow, back) = self.slow_path(i);
        self.lanes_in(X0, i.rn, l);
        self.a.v3(V(Pp::P66, Map::M0F, false, 0x7c), X0, X0, layout::v(i.rm));
        self.check(X0, l, Check::Nan, slow);
        self.result_out(i.rd, X0);
        self.a.bind(back);
    }

    fn add_scalar_pair(&mut self, i: &Insn, l: Lanes) {
        let (slow, back) = self.slow_path(i);
        self.lanes_in(X0, i.rn, l);
        let size = if l.width() == Double { 8 } else { 4 };
        self.a.v3(V(l.pp(), Map::M0F, false, ADD), X0, X0, layout::v(i.rn).plus(size));
        self.check(X0, l, Check::Nan, slow);
        self.result_out(i.rd, X0);
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
        self.result_out(i.rd, X0);
        self.a.bind(back);
    }

    /// FCMP, FCMPE: NZCV is 0110 equal, 1000 less, 0010 greater, 0011 unordered.
    fn compare(&mut self, i: &Insn, w: Width, opcode: u8, zero: bool) {
        let l = Lanes::One(w);
        let pp = if w == Double { Pp::P66 } else { Pp::None };
        self.lanes_in(X0, i.rn, l);
        if zero {
            self.a.v3(ps(0x57), X1, X1, X1);
        } else {
            self.lanes_in(X1, i.rm, l);
        }
        let form = |f: u32| u64::from(layout::flags16(f << 28));
        self.a.mov_i(r::RDX, form(0b1000));
        self.a.mov_i(r::RCX, form(0b0110));
        self.a.mov_i(r::RAX, form(0b0010));
        self.a.v2(V(pp, Map::M0F, false, opcode), X0, X1);
        self.a.cmov(Cc::B, false, r::RAX, r::RDX);
        self.a.mov_i(r::RDX, form(0b0011));
        self.a.cmov(Cc::E, false, r::RAX, r::RCX);
        self.a.cmov(Cc::P, false, r::RAX, r::RDX);
        self.a.store(1, layout::FLAGS, r::RAX);
        self.a.alu8_i(Alu::Add, r::RAX, 0x7f);
        self.a.sahf();
        self.a.flags_dirty = false;
        self.flags_held = true;
    }

    fn round(&mut self, i: &Insn, w: Width, imm: u8) {
        let l = Lanes::One(w);
        let (slow, back) = self.slow_path(i);
        self.lanes_in(X0, i.rn, l);
        let opcode = if w == Double { 0x0b } else { 0x0a };
        self.a.v3i(V(Pp::P66, Map::M0F3A, false, opcode), X0, X0, X0, imm);
        self.check(X0, l, Check::Nan, slow);
        self.result_out(i.rd, X0);
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
        } else {
            self.a.v2(VMOVQ, X0, X0);
            self.check(X0, Lanes::One(Double), Check::Nan, slow);
        }
        self.result_out(i.rd, X0);
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
        self.result_out(i.rd, X0);
        self.a.bind(back);
    }

    /// FCVTZS to a general-purpose register; what does not fit goes to the slow path.
    fn float_to_int(&mut self, i: &Insn, from: Width) {
        let w = i.bit(31);
        let (slow, back) = self.slow_path(i);
        let pp = if from == Double { Pp::F2 } else { Pp::F3 };
        self.a.gpr_v(V(pp, Map::M0F, w, 0x2c), r::RAX, layout::v(i.rn));
        self.a.alu_i(Alu::Cmp, w, r::RAX, 1);
        self.a.jcc(Cc::O, slow);
        if i.rd != crate::insn::ZR {
            self.put(i.rd, r::RAX);
        }
        self.a.bind(back);
    }

    fn lane_to_float(&mut self, i: &Insn, w: Width) {
        let m: Mem = layout::v(i.rn);
        self.a.v3(ps(0x57), X0, X0, X0);
        let pp = if w == Double { Pp::F2 } else { Pp::F3 };
        self.a.v3_gpr(V(pp, Map::M0F, w == Double, 0x2a), X0, X0, m);
        self.result_out(i.rd, X0);
    }

    fn ints_to_floats(&mut self, i: &Insn, l: Lanes) {
        self.lanes_in(X0, i.rn, l);
        self.a.v2(ps(0x5b), X0, X0);
        self.result_out(i.rd, X0);
    }

    /// FCSEL, and moves that need no arithmetic.
    pub fn floating_moves(&mut self, i: &Insn) -> bool {
        if self.mode & mode::FP_ON == 0 {
            return false;
        }
        use Op::*;
        let (s, d) = (Lanes::One(Single), Lanes::One(Double));
        match i.op {
            FMOV_s => self.bits_op(i, s, None),
            FMOV_d => self.bits_op(i, d, None),
            FABS_s => self.bits_op(i, s, Some((0x54, consts::ABS_S))),
            FABS_d => self.bits_op(i, d, Some((0x54, consts::ABS_D))),
            FNEG_s => self.bits_op(i, s, Some((0x57, consts::SIGN_S1))),
            FNEG_d => self.bits_op(i, d, Some((0x57, consts::SIGN_D1))),
            FABS_vd => self.bits_op(i, Lanes::All(Double), Some((0x54, consts::ABS_D))),
            FABS_vs if i.bit(30) => self.bits_op(i, Lanes::All(Single), Some((0x54, consts::ABS_S))),
            FMOV_is | FMOV_id => self.constant(i.rd, i.imm, false),
            FMOV_ws => self.move_to_general(i, 2, 0),
            FMOV_xd => self.move_to_general(i, 3, 0),
            FMOV_xq => self.move_to_general(i, 3, 8),
            FMOV_sw | FMOV_dx => {
                let n = self.rm(i.rn);
                self.a.v_gpr(V(Pp::P66, Map::M0F, i.op == FMOV_dx, 0x6e), X0, n);
                self.result_out(i.rd, X0);
            }
            FCSEL_s | FCSEL_d => {
                let w = i.op == FCSEL_d;
                let cc = self.flags_for(i.bits(12, 4) as u8);
                match cc {
                    Some(cc) => {
                        self.a.mov(w, r::RCX, layout::v(i.rm));
                        self.a.cmov(cc, w, r::RCX, layout::v(i.rn));
                    }
                    None => self.a.mov(w, r::RCX, layout::v(i.rn)),
                }
                self.a.v_gpr(V(Pp::P66, Map::M0F, true, 0x6e), X0, r::RCX);
                self.result_out(i.rd, X0);
            }
            _ => return false,
        }
        true
    }

    fn bits_op(&mut self, i: &Insn, l: Lanes, op: Option<(u8, Mem)>) {
        self.lanes_in(X0, i.rn, l);
        if let Some((opcode, c)) = op {
            self.a.v3(ps(opcode), X0, X0, c);
        }
        self.result_out(i.rd, X0);
    }

    fn move_to_general(&mut self, i: &Insn, size: u32, at: i32) {
        if i.rd == crate::insn::ZR {
            return;
        }
        let t = self.target(i.rd, &[]);
        self.a.load_zx(size, t, layout::v(i.rn).plus(at));
        self.put(i.rd, t);
    }

    /// A vector register = a constant, in both halves or the lower one.
    pub fn constant(&mut self, n: u8, v: u64, both: bool) {
        if v == 0 {
            self.a.v3(ps(0x57), X0, X0, X0);
        } else {
            self.a.mov_i(r::RAX, v);
            self.a.v_gpr(V(Pp::P66, Map::M0F, true, 0x6e), X0, r::RAX);
            if both {
                self.a.v3(V(Pp::P66, Map::M0F, false, 0x6c), X0, X0, X0);
            }
        }
        self.result_out(n, X0);
    }
}
