//! VEX-encoded instructions: BMI2 on general-purpose registers, AVX on vectors.

use super::asm::{Asm, Reg, Rm};

/// A vector register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Xmm(pub u8);

impl From<Xmm> for Rm {
    fn from(x: Xmm) -> Rm {
        Rm::R(Reg(x.0))
    }
}

/// Mandatory prefix as VEX.pp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Pp {
    None = 0,
    P66 = 1,
    F3 = 2,
    F2 = 3,
}

/// Opcode map as VEX.mmmmm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Map {
    M0F = 1,
    M0F38 = 2,
    M0F3A = 3,
}

/// Opcode of a VEX instruction: prefix, map, W, byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op(pub Pp, pub Map, pub bool, pub u8);

/// 66.0F.
pub const fn p(opcode: u8) -> Op {
    Op(Pp::P66, Map::M0F, false, opcode)
}
/// 66.0F38.
pub const fn p38(opcode: u8) -> Op {
    Op(Pp::P66, Map::M0F38, false, opcode)
}
/// 66.0F38.W1.
pub const fn p38w(opcode: u8) -> Op {
    Op(Pp::P66, Map::M0F38, true, opcode)
}
/// 66.0F3A.
pub const fn p3a(opcode: u8) -> Op {
    Op(Pp::P66, Map::M0F3A, false, opcode)
}

/// vpand.
pub const PAND: Op = p(0xdb);
/// vpandn.
pub const PANDN: Op = p(0xdf);
/// vpor.
pub const POR: Op = p(0xeb);
/// vpxor.
pub const PXOR: Op = p(0xef);

/// Vector registers that no guest register stands in.
pub const X0: Xmm = Xmm(0);
/// See there.
pub const X1: Xmm = Xmm(1);
/// See there.
pub const X2: Xmm = Xmm(2);
/// See there.
pub const X3: Xmm = Xmm(3);

impl Asm {
    fn vex(&mut self, o: Op, long: bool, reg: u8, v: u8, rm: Rm) {
        let Op(pp, map, w, opcode) = o;
        let (x, b) = Self::xb(rm);
        if map == Map::M0F && !w && x == 0 && b == 0 {
            self.bytes(&[0xc5, (reg >> 3 ^ 1) << 7 | (v ^ 15) << 3 | u8::from(long) << 2 | pp as u8, opcode]);
            return self.modrm(reg, rm);
        }
        self.bytes(&[
            0xc4,
            (reg >> 3 ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | map as u8,
            u8::from(w) << 7 | (v ^ 15) << 3 | u8::from(long) << 2 | pp as u8,
            opcode,
        ]);
        self.modrm(reg, rm);
    }
    /// `op dst, a, rm` on 128 bits (or a scalar).
    pub fn v3(&mut self, o: Op, dst: Xmm, a: Xmm, rm: impl Into<Rm>) {
        self.vex(o, false, dst.0, a.0, rm.into());
    }
    /// `op dst, rm`.
    pub fn v2(&mut self, o: Op, dst: Xmm, rm: impl Into<Rm>) {
        self.vex(o, false, dst.0, 0, rm.into());
    }
    /// `op dst, a, rm, imm`.
    pub fn v3i(&mut self, o: Op, dst: Xmm, a: Xmm, rm: impl Into<Rm>, imm: u8) {
        self.vex(o, false, dst.0, a.0, rm.into());
        self.byte(imm);
    }
    /// `op dst, rm, imm`.
    pub fn v2i(&mut self, o: Op, dst: Xmm, rm: impl Into<Rm>, imm: u8) {
        self.v3i(o, dst, Xmm(0), rm, imm);
    }
    /// Shift of `a` by a constant, which has its operation in the register field.
    pub fn v_shift(&mut self, opcode: u8, digit: u8, dst: Xmm, a: Xmm, n: u8) {
        self.vex(Op(Pp::P66, Map::M0F, false, opcode), false, digit, dst.0, a.into());
        self.byte(n);
    }
    /// An instruction between a vector register (in the reg field) and a general-purpose one or memory.
    pub fn v_gpr(&mut self, o: Op, x: Xmm, rm: impl Into<Rm>) {
        self.vex(o, false, x.0, 0, rm.into());
    }
    /// The same with a source vector register in VEX.vvvv (insertions, conversions).
    pub fn v3_gpr(&mut self, o: Op, dst: Xmm, a: Xmm, rm: impl Into<Rm>) {
        self.vex(o, false, dst.0, a.0, rm.into());
    }
    /// An instruction whose destination is a general-purpose register in the reg field.
    pub fn gpr_v(&mut self, o: Op, reg: Reg, rm: impl Into<Rm>) {
        self.vex(o, false, reg.0, 0, rm.into());
    }
    /// `shlx/shrx/sarx dst, rm, count`.
    pub fn shiftx(&mut self, pp: Pp, w: bool, dst: Reg, rm: impl Into<Rm>, count: Reg) {
        self.vex(Op(pp, Map::M0F38, w, 0xf7), false, dst.0, count.0, rm.into());
    }
    /// `rorx dst, rm, n`.
    pub fn rorx(&mut self, w: bool, dst: Reg, rm: impl Into<Rm>, n: u8) {
        self.vex(Op(Pp::F2, Map::M0F3A, w, 0xf0), false, dst.0, 0, rm.into());
        self.byte(n);
    }
    /// `andn dst, a, rm`: `!a & rm`.
    pub fn andn(&mut self, w: bool, dst: Reg, a: Reg, rm: impl Into<Rm>) {
        self.vex(Op(Pp::None, Map::M0F38, w, 0xf2), false, dst.0, a.0, rm.into());
        self.flags_dirty = true;
    }
    /// `mulx hi, lo, rm`: the product of RDX and `rm`.
    pub fn mulx(&mut self, w: bool, hi: Reg, lo: Reg, rm: impl Into<Rm>) {
        self.vex(Op(Pp::F2, Map::M0F38, w, 0xf6), false, hi.0, lo.0, rm.into());
    }
}
