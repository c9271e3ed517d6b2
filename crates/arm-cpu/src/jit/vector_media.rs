//! Advanced SIMD of signal processing: rounding and narrowing shifts, products by element, dot products, more conversions.
//! Narrowing that saturates goes to the handler when something does saturate, for QC must be set then.

use super::asm::r;
use super::layout::consts;
use super::translate::{Block, mode};
use super::vector_fp::Width::{Double, Single};
use super::vector_fp::{ADD, Check, Lanes, ps};
use super::vector_more::widen;
use super::vex::{Map, Op as V, PAND, Pp, X0, X1, X2, X3, Xmm, p, p38};
use super::vregs::{ALL, LOW64};
use crate::decode::Op;
use crate::insn::Insn;

const PADD: [V; 4] = [p(0xfc), p(0xfd), p(0xfe), p(0xd4)];
const PSUB: [V; 4] = [p(0xf8), p(0xf9), p(0xfa), p(0xfb)];
const UNPACK_LOW64: V = p(0x6c);
const PMULL: [V; 3] = [p(0xd5), p(0xd5), p38(0x40)];

fn part(q: bool) -> u8 {
    if q { ALL } else { LOW64 }
}

impl Block<'_> {
    /// Translates the instruction if it belongs here.
    pub fn vector_media(&mut self, i: &Insn) -> bool {
        if self.mode & mode::FP_ON == 0 {
            return false;
        }
        use Op::*;
        let size = usize::from(i.aux >> 4 & 3);
        let q = i.bit(30);
        match i.op {
            URSHR_v | SRSHR_v | URSRA_v | SRSRA_v if size == 1 || size == 2 => {
                let n = self.vx(i.rn, X0);
                self.rounded_shift(n, size, i.imm as u8, matches!(i.op, SRSHR_v | SRSRA_v));
                if matches!(i.op, URSRA_v | SRSRA_v) {
                    let old = self.v(i.rd);
                    self.a.v3(PADD[size], X2, X2, old);
                }
                self.v_put_low(i.rd, X2, part(q));
            }
            RSHRN_v if size < 2 => {
                let n = self.vx(i.rn, X0);
                self.rounded_shift(n, size + 1, i.imm as u8, false);
                self.narrow(i, q, size, X2);
            }
            SQSHRN_v | SQSHRUN_v | SQRSHRN_v | SQRSHRUN_v | UQSHRN_v | UQRSHRN_v if size < 2 => {
                let (slow, back) = self.slow_path(i);
                let n = self.vx(i.rn, X0);
                let signed = !matches!(i.op, UQSHRN_v | UQRSHRN_v);
                if matches!(i.op, SQRSHRN_v | SQRSHRUN_v | UQRSHRN_v) {
                    self.rounded_shift(n, size + 1, i.imm as u8, signed);
                } else {
                    self.a.v_shift(0x71 + size as u8, if signed { 4 } else { 2 }, X2, n, i.imm as u8);
                }
                self.narrow_exactly(i, q, size, X2, !matches!(i.op, SQSHRN_v | SQRSHRN_v), slow);
                self.a.bind(back);
            }
            MUL_ve | MLA_ve | MLS_ve if size == 1 || size == 2 => {
                self.v_broadcast(X1, i.rm, size as u32, i.imm as u8);
                let n = self.vx(i.rn, X0);
                self.a.v3(PMULL[size], X1, n, X1);
                self.sum(i, size, q, !matches!(i.op, MUL_ve), i.op == MLS_ve);
            }
            UMULL_ve | SMULL_ve | UMLAL_ve | SMLAL_ve | UMLSL_ve | SMLSL_ve if size == 1 || size == 2 => {
                let unsigned = matches!(i.op, UMULL_ve | UMLAL_ve | UMLSL_ve);
                self.v_broadcast(X1, i.rm, size as u32, i.imm as u8);
                self.a.v2(widen(size, unsigned), X1, X1);
                let n = if q { self.v_upper(i.rn, X0) } else { self.v(i.rn) };
                self.a.v2(widen(size, unsigned), X0, n);
                let op = match size {
                    1 => p38(0x40),
                    _ if unsigned => p(0xf4),
                    _ => p38(0x28),
                };
                self.a.v3(op, X1, X0, X1);
                let add = !matches!(i.op, UMULL_ve | SMULL_ve);
                self.sum(i, size + 1, true, add, matches!(i.op, UMLSL_ve | SMLSL_ve));
            }
            UDOT_v | SDOT_v if i.bits(22, 2) == 2 => {
                // Products of bytes in sums of two, then of four.
                let op = widen(0, i.op == UDOT_v);
                let n = self.v(i.rn);
                self.a.v2(op, X0, n);
                let m = self.v(i.rm);
                self.a.v2(op, X1, m);
                self.a.v3(p(0xf5), X2, X0, X1);
                let n = self.v_upper(i.rn, X0);
                self.a.v2(op, X0, n);
                let m = self.v_upper(i.rm, X1);
                self.a.v2(op, X1, m);
                self.a.v3(p(0xf5), X1, X0, X1);
                self.a.v3(p38(0x02), X1, X2, X1);
                let old = self.v(i.rd);
                self.a.v3(PADD[2], X1, X1, old);
                self.v_put_low(i.rd, X1, part(q));
            }
            TBL if i.imm == 2 => {
                // Indices from 16 on have bit 4 set: less 16 they pick from the second register, else from the first.
                let m = self.vx(i.rm, X1);
                self.a.v3(p(0xdc), X2, m, consts::SEVENTY);
                let n = self.vx(i.rn, X0);
                self.a.v3(p38(0x00), X2, n, X2);
                self.a.v_shift(0x72, 6, X3, m, 0);
                self.a.mov_i(r::RAX, 0x1010_1010_1010_1010);
                self.a.v_gpr(V(Pp::P66, Map::M0F, true, 0x6e), X0, r::RAX);
                self.a.v3(UNPACK_LOW64, X0, X0, X0);
                self.a.v3(PSUB[0], X3, X3, X0);
                // Below 16 it wrapped to 0xf0 and more, which stays above 0x80 when 0x70 is added with saturation.
                self.a.v3(p(0xdc), X3, X3, consts::SEVENTY);
                let second = self.vx(i.rn.wrapping_add(1) & 31, X0);
                self.a.v3(p38(0x00), X3, second, X3);
                self.a.v3(p(0xeb), X0, X2, X3);
                self.v_put_low(i.rd, X0, part(q));
            }
            _ => return self.more_conversions(i, q),
        }
        true
    }

    /// X2 = `n` shifted right by 1 or more with the last bit that goes added. Uses X1.
    fn rounded_shift(&mut self, n: Xmm, size: usize, by: u8, signed: bool) {
        let opcode = 0x70 + size as u8;
        let top = (8 << size) - 1;
        self.a.v_shift(opcode, 2, X1, n, by - 1);
        self.a.v_shift(opcode, 6, X1, X1, top);
        self.a.v_shift(opcode, 2, X1, X1, top);
        self.a.v_shift(opcode, if signed { 4 } else { 2 }, X2, n, by);
        self.a.v3(PADD[size], X2, X2, X1);
    }

    /// Rd = X1, or Rd plus or minus it.
    fn sum(&mut self, i: &Insn, size: usize, q: bool, add: bool, minus: bool) {
        if add {
            let old = self.vx(i.rd, X0);
            self.a.v3(if minus { PSUB[size] } else { PADD[size] }, X1, old, X1);
        }
        self.v_put_low(i.rd, X1, part(q));
    }

    fn more_conversions(&mut self, i: &Insn, q: bool) -> bool {
        const NEEDED: u8 = mode::FP_ON | mode::FP_USUAL;
        if self.mode & NEEDED != NEEDED {
            return false;
        }
        use Op::*;
        match i.op {
            UCVTF_vs => {
                // Both halves are exact, and so is the upper one times 65536; only the sum rounds.
                let l = if q { Lanes::All(Single) } else { Lanes::Low64(Single) };
                let n = self.v_low(i.rn, part(q), X0);
                self.a.v_shift(0x72, 2, X1, n, 16);
                self.a.v2(ps(0x5b), X1, X1);
                self.a.mov_i(r::RAX, u64::from(65536f32.to_bits()));
                self.a.v_gpr(V(Pp::P66, Map::M0F, false, 0x6e), X2, r::RAX);
                self.a.v2(p38(0x58), X2, X2);
                self.a.v3(ps(0x59), X1, X1, X2);
                self.a.v3(PAND, X0, n, consts::LOW_H);
                self.a.v2(ps(0x5b), X0, X0);
                self.a.v3(ps(ADD), X0, X1, X0);
                self.result_out(i.rd, X0, l);
            }
            SCVTF_vd => {
                let op = V(Pp::F2, Map::M0F, true, 0x2a);
                self.v_element(r::RAX, i.rn, 3, 0);
                self.v_element(r::RDX, i.rn, 3, 1);
                self.a.v3(ps(0x57), X0, X0, X0);
                self.a.v3_gpr(op, X1, X0, r::RDX);
                self.a.v3_gpr(op, X0, X0, r::RAX);
                self.a.v3(UNPACK_LOW64, X0, X0, X1);
                self.result_out(i.rd, X0, Lanes::All(Double));
            }
            FCVTN_s => {
                let (slow, back) = self.slow_path(i);
                let n = self.v(i.rn);
                self.a.v2(p(0x5a), X0, n);
                self.check(X0, Lanes::Low64(Single), Check::Tiny, slow);
                if q {
                    let old = self.vx(i.rd, X1);
                    self.a.v3(UNPACK_LOW64, X0, old, X0);
                    self.v_put(i.rd, X0, ALL);
                } else {
                    self.v_put(i.rd, X0, LOW64);
                }
                self.a.bind(back);
            }
            _ => return false,
        }
        true
    }
}
