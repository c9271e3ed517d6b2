//! Advanced SIMD across lanes: pairs, sums, narrowing, widening, products, orders of bytes, tables; loads and stores of
//! structures.

use super::asm::{Alu, Cc, Label, r};
use super::layout::consts;
use super::translate::{Block, mode};
use super::vex::{Map, Op as V, PAND, POR, PXOR, Pp, X0, X1, X2, X3, Xmm, p, p38, p38w};
use super::vregs::{ALL, BROADCAST, LOW32, LOW64, extract};
use crate::decode::Op;
use crate::insn::Insn;

const PADD: [V; 4] = [p(0xfc), p(0xfd), p(0xfe), p(0xd4)];
const PSUB: [V; 4] = [p(0xf8), p(0xf9), p(0xfa), p(0xfb)];
const PCMPEQ_D: V = p38(0x29);
const PCMPGT_D: V = p38(0x37);
const UNPACK_LOW64: V = p(0x6c);
const UNPACK_HIGH64: V = p(0x6d);
const SHUFPS: V = V(Pp::None, Map::M0F, false, 0xc6);
const SMAX: [V; 3] = [p38(0x3c), p(0xee), p38(0x3d)];
const SMIN: [V; 3] = [p38(0x38), p(0xea), p38(0x39)];
const UMAX: [V; 3] = [p(0xde), p38(0x3e), p38(0x3f)];
const UMIN: [V; 3] = [p(0xda), p38(0x3a), p38(0x3b)];
const PACKUSWB: V = p(0x67);
const PACKUSDW: V = p38(0x2b);
const PSHUFB: V = p38(0x00);
const PSHUFD: V = p(0x70);
const PSADBW: V = p(0xf6);

impl Block<'_> {
    /// Translates the instruction if it belongs here.
    pub fn vector_more(&mut self, i: &Insn) -> bool {
        if self.mode & mode::FP_ON == 0 {
            return false;
        }
        use Op::*;
        let size = usize::from(i.aux >> 4 & 3);
        let q = i.bit(30);
        match i.op {
            UMAXP_v if size < 3 => self.pairs(i, q, size, UMAX[size]),
            UMINP_v if size < 3 => self.pairs(i, q, size, UMIN[size]),
            SMAXP_v if size < 3 => self.pairs(i, q, size, SMAX[size]),
            SMINP_v if size < 3 => self.pairs(i, q, size, SMIN[size]),
            ADDP_v => self.pairs(i, q, size, PADD[size]),
            ADDP_s => {
                let n = self.vx(i.rn, X0);
                self.a.v3(UNPACK_HIGH64, X1, n, n);
                self.a.v3(PADD[3], X0, n, X1);
                self.v_put_low(i.rd, X0, LOW64);
            }
            XTN_v if size < 3 => {
                let n = self.vx(i.rn, X0);
                self.narrow(i, q, size, n);
            }
            SHRN_v if size < 3 => {
                let n = self.vx(i.rn, X0);
                self.a.v_shift(0x71 + size as u8, 2, X0, n, i.imm as u8);
                self.narrow(i, q, size, X0);
            }
            UMAXV_v if size < 3 => self.across(i, q, size, UMAX[size]),
            UMINV_v if size < 3 => self.across(i, q, size, UMIN[size]),
            SMAXV_v if size < 3 => self.across(i, q, size, SMAX[size]),
            SMINV_v if size < 3 => self.across(i, q, size, SMIN[size]),
            ADDV_v if size == 0 => {
                self.sum_of_bytes(i, q);
                self.a.v3(PAND, X0, X0, consts::LOW_BYTE_D);
                self.v_put_low(i.rd, X0, LOW32);
            }
            ADDV_v if size < 3 => self.across(i, q, size, PADD[size]),
            UADDLV_v if size == 0 => {
                self.sum_of_bytes(i, q);
                self.v_put_low(i.rd, X0, LOW32);
            }
            CNT_v => {
                self.count_bits(i);
                self.v_put_low(i.rd, X0, if q { ALL } else { LOW64 });
            }
            REV16_v => self.reorder(i, q, 0),
            REV32_v if size < 2 => self.reorder(i, q, [1, 3][size]),
            REV64_v if size < 2 => self.reorder(i, q, [2, 4][size]),
            REV64_v if size == 2 => {
                let n = self.v(i.rn);
                self.a.v2i(PSHUFD, X0, n, 0xb1);
                self.v_put_low(i.rd, X0, if q { ALL } else { LOW64 });
            }
            TBL if i.bits(13, 2) == 0 => {
                let m = self.vx(i.rm, X1);
                let n = self.vx(i.rn, X0);
                // Indices beyond the table get their top bit set, by which the host gives zero.
                self.a.v3(p(0xdc), X1, m, consts::SEVENTY);
                self.a.v3(PSHUFB, X0, n, X1);
                self.v_put_low(i.rd, X0, if q { ALL } else { LOW64 });
            }
            UABD_v if size < 3 => self.distance(i, q, UMAX[size], UMIN[size], PSUB[size]),
            SABD_v if size < 3 => self.distance(i, q, SMAX[size], SMIN[size], PSUB[size]),
            UADDL_v | SADDL_v | USUBL_v | SSUBL_v if size < 3 => {
                let (x, y) = self.widened(i, q, size, matches!(i.op, UADDL_v | USUBL_v));
                let add = matches!(i.op, UADDL_v | SADDL_v);
                self.a.v3(if add { PADD[size + 1] } else { PSUB[size + 1] }, X0, x, y);
                self.v_put(i.rd, X0, ALL);
            }
            UADDW_v | SADDW_v | USUBW_v | SSUBW_v if size < 3 => {
                let m = if q { self.v_upper(i.rm, X1) } else { self.v(i.rm) };
                self.a.v2(widen(size, matches!(i.op, UADDW_v | USUBW_v)), X1, m);
                let n = self.vx(i.rn, X0);
                let d = self.v_target(i.rd, X0);
                let add = matches!(i.op, UADDW_v | SADDW_v);
                self.a.v3(if add { PADD[size + 1] } else { PSUB[size + 1] }, d, n, X1);
                self.v_put(i.rd, d, ALL);
            }
            UMULL_v | SMULL_v | UMLAL_v | SMLAL_v | UMLSL_v | SMLSL_v if size < 3 => {
                let unsigned = matches!(i.op, UMULL_v | UMLAL_v | UMLSL_v);
                let (x, y) = self.widened(i, q, size, unsigned);
                // pmullw, pmulld, pmuludq, pmuldq
                let op = match size {
                    0 => p(0xd5),
                    1 => p38(0x40),
                    _ if unsigned => p(0xf4),
                    _ => p38(0x28),
                };
                self.a.v3(op, X1, x, y);
                let d = self.v_target(i.rd, X0);
                match i.op {
                    UMULL_v | SMULL_v => return self.put_true(i.rd, X1),
                    UMLAL_v | SMLAL_v => {
                        let old = self.v(i.rd);
                        self.a.v3(PADD[size + 1], d, X1, old);
                    }
                    _ => {
                        let old = self.vx(i.rd, X0);
                        self.a.v3(PSUB[size + 1], d, old, X1);
                    }
                }
                self.v_put(i.rd, d, ALL);
            }
            UADDLP_v | UADALP_v if size == 0 => {
                // Bytes times one, in pairs: the first operand's are unsigned.
                let n = self.vx(i.rn, X0);
                self.a.v3(p38(0x04), X0, n, consts::ONE_B);
                if i.op == UADALP_v {
                    let old = self.v(i.rd);
                    self.a.v3(PADD[1], X0, X0, old);
                }
                self.v_put_low(i.rd, X0, if q { ALL } else { LOW64 });
            }
            USHL_v if size >= 2 => {
                let m = self.vx(i.rm, X1);
                let low = if size == 2 { consts::LOW_BYTE_S } else { consts::LOW_BYTE_D };
                let (left, right) = if size == 2 { (p38(0x47), p38(0x45)) } else { (p38w(0x47), p38w(0x45)) };
                self.a.v3(PXOR, X2, X2, X2);
                self.a.v3(PSUB[size], X2, X2, m);
                self.a.v3(PAND, X1, m, low);
                self.a.v3(PAND, X2, X2, low);
                let n = self.vx(i.rn, X0);
                self.a.v3(left, X1, n, X1);
                self.a.v3(right, X2, n, X2);
                self.a.v3(POR, X0, X1, X2);
                self.v_put_low(i.rd, X0, if q { ALL } else { LOW64 });
            }
            SLI_v if size > 0 => self.shift_insert(i, q, size, 6),
            SRI_v if size > 0 => self.shift_insert(i, q, size, 2),
            SHL_s | USHR_s => {
                let n = self.vx(i.rn, X0);
                self.a.v_shift(0x73, if i.op == SHL_s { 6 } else { 2 }, X0, n, i.imm as u8);
                self.v_put_low(i.rd, X0, LOW64);
            }
            SHL_v if size == 0 => {
                self.mask_bytes(0xff << i.imm & 0xff);
                let n = self.vx(i.rn, X0);
                self.a.v_shift(0x71, 6, X0, n, i.imm as u8);
                self.a.v3(PAND, X0, X0, X1);
                self.v_put_low(i.rd, X0, if q { ALL } else { LOW64 });
            }
            USHR_v if size == 0 => {
                self.mask_bytes(0xff >> i.imm);
                let n = self.vx(i.rn, X0);
                self.a.v_shift(0x71, 2, X0, n, i.imm as u8);
                self.a.v3(PAND, X0, X0, X1);
                self.v_put_low(i.rd, X0, if q { ALL } else { LOW64 });
            }
            CMEQ_s | CMGT_s | CMGE_s => {
                let (n, m) = self.pair_in(i);
                match i.op {
                    CMEQ_s => self.a.v3(PCMPEQ_D, X0, n, m),
                    CMGT_s => self.a.v3(PCMPGT_D, X0, n, m),
                    _ => {
                        self.a.v3(PCMPGT_D, X0, m, n);
                        self.a.v3(PXOR, X0, X0, consts::ONES);
                    }
                }
                self.v_put_low(i.rd, X0, LOW64);
            }
            TRN1 | TRN2 if q && size == 2 => {
                // Even or odd words of both, then in turns.
                let n = self.vx(i.rn, X0);
                let m = self.v(i.rm);
                self.a.v3i(SHUFPS, X0, n, m, if i.op == TRN1 { 0x88 } else { 0xdd });
                self.a.v2i(PSHUFD, X0, X0, 0xd8);
                self.v_put(i.rd, X0, ALL);
            }
            UZP1 | UZP2 if q && size < 2 => {
                let (n, m) = self.pair_in(i);
                self.halves(size, n, m, i.op == UZP2);
                self.v_put(i.rd, X0, ALL);
            }
            DUP_elem_s => {
                self.v_broadcast(X0, i.rn, size as u32, i.imm as u8);
                match size {
                    3 => self.v_put_low(i.rd, X0, LOW64),
                    2 => self.v_put_low(i.rd, X0, LOW32),
                    _ => {
                        self.a.v2i(extract(size as u32), X0, r::RAX, 0);
                        self.a.v_gpr(V(Pp::P66, Map::M0F, false, 0x6e), X0, r::RAX);
                        self.v_put(i.rd, X0, LOW32);
                    }
                }
            }
            SQADD_v | UQADD_v | SQSUB_v | UQSUB_v if size < 2 => {
                // Only what saturates differs from the usual sum, and must set QC.
                let at = match i.op {
                    SQADD_v => [0xec, 0xed, 0xfc, 0xfd],
                    UQADD_v => [0xdc, 0xdd, 0xfc, 0xfd],
                    SQSUB_v => [0xe8, 0xe9, 0xf8, 0xf9],
                    _ => [0xd8, 0xd9, 0xf8, 0xf9],
                };
                let bits = if q { ALL } else { LOW64 };
                let (slow, back) = self.slow_path(i);
                let n = self.v_low(i.rn, bits, X0);
                let m = self.v_low(i.rm, bits, X1);
                self.a.v3(p(at[size]), X2, n, m);
                self.a.v3(p(at[size + 2]), X3, n, m);
                self.same_or(X2, X3, slow);
                self.v_put(i.rd, X2, bits);
                self.a.bind(back);
            }
            SQXTN_v | SQXTUN_v | UQXTN_v if size < 2 => {
                let (slow, back) = self.slow_path(i);
                let n = self.vx(i.rn, X0);
                self.narrow_exactly(i, q, size, n, i.op != SQXTN_v, slow);
                self.a.bind(back);
            }
            SQRDMULH_v if size == 1 => {
                let (slow, back) = self.slow_path(i);
                let bits = if q { ALL } else { LOW64 };
                let n = self.v_low(i.rn, bits, X0);
                let m = self.v_low(i.rm, bits, X1);
                self.a.v3(p38(0x0b), X2, n, m);
                // The one product that does not fit comes out as the most negative number, and nothing else does.
                self.a.v2(p(0x6f), X3, consts::ONES);
                self.a.v_shift(0x71, 6, X3, X3, 15);
                self.a.v3(p(0x75), X3, X3, X2);
                self.a.v2(p38(0x17), X3, X3);
                self.a.flags_dirty = true;
                self.a.jcc(Cc::Ne, slow);
                self.v_put(i.rd, X2, bits);
                self.a.bind(back);
            }
            SSHR_v if size == 3 => {
                // ((n ^ sign) >> s) - (sign >> s)
                let n = self.vx(i.rn, X0);
                self.a.v3(PXOR, X0, n, consts::SIGN_D);
                self.a.v2(p(0x6f), X1, consts::SIGN_D);
                let by = (i.imm as u8).min(63);
                self.a.v_shift(0x73, 2, X0, X0, by);
                self.a.v_shift(0x73, 2, X1, X1, by);
                self.a.v3(PSUB[3], X0, X0, X1);
                self.v_put_low(i.rd, X0, if q { ALL } else { LOW64 });
            }
            MUL_v | MLA_v | MLS_v if size == 0 => {
                // Bytes as halfwords: the odd ones from above.
                let (n, m) = self.pair_in(i);
                self.a.v_shift(0x71, 2, X2, n, 8);
                self.a.v_shift(0x71, 2, X3, m, 8);
                self.a.v3(p(0xd5), X2, X2, X3);
                self.a.v_shift(0x71, 6, X2, X2, 8);
                self.a.v3(p(0xd5), X0, n, m);
                self.a.v3(PAND, X0, X0, consts::LOW_B);
                self.a.v3(POR, X1, X0, X2);
                if i.op != MUL_v {
                    let old = self.vx(i.rd, X0);
                    self.a.v3(if i.op == MLA_v { PADD[0] } else { PSUB[0] }, X1, old, X1);
                }
                self.v_put_low(i.rd, X1, if q { ALL } else { LOW64 });
            }
            _ => return self.structures(i) || self.vector_media(i),
        }
        true
    }

    /// Narrows `n` by the host's saturation, to the slow path where something saturates. The host's instructions take
    /// signed numbers, so large unsigned ones go there, too. Uses X1, X2, X3.
    pub fn narrow_exactly(&mut self, i: &Insn, q: bool, size: usize, n: Xmm, unsigned: bool, slow: Label) {
        let pack = match (size, unsigned) {
            (0, false) => p(0x63),
            (0, true) => PACKUSWB,
            (_, false) => p(0x6b),
            (_, true) => PACKUSDW,
        };
        self.a.v3(pack, X1, n, n);
        self.a.v2(widen(size, unsigned), X3, X1);
        self.same_or(X3, n, slow);
        if q {
            let old = self.vx(i.rd, X2);
            self.a.v3(UNPACK_LOW64, X1, old, X1);
            self.v_put(i.rd, X1, ALL);
        } else {
            self.v_put_low(i.rd, X1, LOW64);
        }
    }

    /// To the slow path unless both are the same. Uses X3.
    fn same_or(&mut self, a: Xmm, b: Xmm, slow: Label) {
        self.a.v3(PXOR, X3, a, b);
        self.a.v2(p38(0x17), X3, X3);
        self.a.flags_dirty = true;
        self.a.jcc(Cc::Ne, slow);
    }

    fn put_true(&mut self, rd: u8, x: Xmm) -> bool {
        self.v_put(rd, x, ALL);
        true
    }

    /// X1 = a byte in all lanes. Uses RAX.
    fn mask_bytes(&mut self, byte: u32) {
        self.a.mov_i(r::RAX, u64::from(byte));
        self.a.v_gpr(V(Pp::P66, Map::M0F, false, 0x6e), X1, r::RAX);
        self.a.v2(BROADCAST[0], X1, X1);
    }

    /// X0 = the even lanes (or odd ones) of `n`, then of `m`, each of `size` below 2. Uses X1.
    fn halves(&mut self, size: usize, n: Xmm, m: Xmm, odd: bool) {
        let (mask, pack, shift) =
            if size == 0 { (consts::LOW_B, PACKUSWB, 0x71) } else { (consts::LOW_H, PACKUSDW, 0x72) };
        if odd {
            self.a.v_shift(shift, 2, X1, m, 8 << size);
            self.a.v_shift(shift, 2, X0, n, 8 << size);
        } else {
            self.a.v3(PAND, X1, m, mask);
            self.a.v3(PAND, X0, n, mask);
        }
        self.a.v3(pack, X0, X0, X1);
    }

    /// Operations on neighbours.
    fn pairs(&mut self, i: &Insn, q: bool, size: usize, op: V) {
        let (mut n, mut m) = self.pair_in(i);
        if !q {
            self.a.v3(UNPACK_LOW64, X0, n, m);
            (n, m) = (X0, X0);
        }
        match size {
            3 => {
                self.a.v3(UNPACK_HIGH64, X2, n, m);
                self.a.v3(UNPACK_LOW64, X0, n, m);
                self.a.v3(op, X0, X0, X2);
            }
            2 => {
                self.a.v3i(SHUFPS, X2, n, m, 0xdd);
                self.a.v3i(SHUFPS, X0, n, m, 0x88);
                self.a.v3(op, X0, X0, X2);
            }
            _ => {
                // The lower one of each pair gets the result.
                let shift = 0x71 + size as u8;
                self.a.v_shift(shift, 2, X2, n, 8 << size);
                self.a.v_shift(shift, 2, X3, m, 8 << size);
                self.a.v3(op, X2, n, X2);
                self.a.v3(op, X3, m, X3);
                self.halves(size, X2, X3, false);
            }
        }
        self.v_put_low(i.rd, X0, if q { ALL } else { LOW64 });
    }

    /// The lower halves of the lanes of `x` to the lower or upper half of Rd; `size` is that of the result.
    pub fn narrow(&mut self, i: &Insn, upper: bool, size: usize, x: Xmm) {
        match size {
            2 => self.a.v2i(PSHUFD, X0, x, 0x88),
            _ => {
                let (mask, pack) =
                    if size == 0 { (consts::LOW_B, PACKUSWB) } else { (consts::LOW_H, PACKUSDW) };
                self.a.v3(PAND, X0, x, mask);
                self.a.v3(pack, X0, X0, X0);
            }
        }
        if upper {
            let old = self.vx(i.rd, X1);
            let d = self.v_target(i.rd, X0);
            self.a.v3(UNPACK_LOW64, d, old, X0);
            self.v_put(i.rd, d, ALL);
        } else {
            self.v_put_low(i.rd, X0, LOW64);
        }
    }

    /// An associative operation over all lanes.
    fn across(&mut self, i: &Insn, q: bool, size: usize, op: V) {
        let mut n = self.vx(i.rn, X0);
        let mut bytes = if q { 16 } else { 8 };
        while bytes > 1 << size {
            bytes /= 2;
            self.a.v_shift(0x73, 3, X1, n, bytes);
            self.a.v3(op, X0, n, X1);
            n = X0;
        }
        // Only the lowest lane stays.
        self.a.v2i(extract(size as u32), X0, r::RAX, 0);
        let d = self.v_target(i.rd, X0);
        self.a.v_gpr(V(Pp::P66, Map::M0F, false, 0x6e), d, r::RAX);
        self.v_put(i.rd, d, LOW32);
    }

    /// X0 = the sum of Rn's bytes.
    fn sum_of_bytes(&mut self, i: &Insn, q: bool) {
        let n = self.v_low(i.rn, if q { ALL } else { LOW64 }, X0);
        self.a.v3(PXOR, X1, X1, X1);
        self.a.v3(PSADBW, X0, n, X1);
        if q {
            self.a.v3(UNPACK_HIGH64, X1, X0, X0);
            self.a.v3(PADD[3], X0, X0, X1);
        }
    }

    /// X0 = bits set in each byte of Rn.
    fn count_bits(&mut self, i: &Insn) {
        let n = self.vx(i.rn, X0);
        self.a.v2(p(0x6f), X2, consts::COUNTS);
        self.a.v_shift(0x71, 2, X1, n, 4);
        self.a.v3(PAND, X0, n, consts::NIBBLES);
        self.a.v3(PAND, X1, X1, consts::NIBBLES);
        self.a.v3(PSHUFB, X0, X2, X0);
        self.a.v3(PSHUFB, X1, X2, X1);
        self.a.v3(PADD[0], X0, X0, X1);
    }

    fn reorder(&mut self, i: &Insn, q: bool, order: usize) {
        let n = self.vx(i.rn, X0);
        self.a.v3(PSHUFB, X0, n, consts::REV[order]);
        self.v_put_low(i.rd, X0, if q { ALL } else { LOW64 });
    }

    /// UABD, SABD.
    fn distance(&mut self, i: &Insn, q: bool, max: V, min: V, sub: V) {
        let (n, m) = self.pair_in(i);
        self.a.v3(max, X2, n, m);
        self.a.v3(min, X1, n, m);
        self.a.v3(sub, X0, X2, X1);
        self.v_put_low(i.rd, X0, if q { ALL } else { LOW64 });
    }

    /// Both operands' lower or upper halves with lanes of twice the size.
    fn widened(&mut self, i: &Insn, upper: bool, size: usize, unsigned: bool) -> (Xmm, Xmm) {
        let op = widen(size, unsigned);
        let m = if upper { self.v_upper(i.rm, X1) } else { self.v(i.rm) };
        self.a.v2(op, X1, m);
        let n = if upper { self.v_upper(i.rn, X0) } else { self.v(i.rn) };
        self.a.v2(op, X0, n);
        (X0, X1)
    }

    /// SLI, SRI: bits that the shift does not reach stay.
    fn shift_insert(&mut self, i: &Insn, q: bool, size: usize, digit: u8) {
        let opcode = 0x70 + size as u8;
        let n = self.vx(i.rn, X0);
        self.a.v_shift(opcode, digit, X0, n, i.imm as u8);
        self.a.v2(p(0x6f), X1, consts::ONES);
        self.a.v_shift(opcode, digit, X1, X1, i.imm as u8);
        let old = self.v(i.rd);
        self.a.v3(p(0xdf), X1, X1, old);
        self.a.v3(POR, X0, X0, X1);
        self.v_put_low(i.rd, X0, if q { ALL } else { LOW64 });
    }

    /// LD1 and ST1 of whole registers and of elements, LD1R; LD2, ST2 of whole registers of 32- and 64-bit elements.
    fn structures(&mut self, i: &Insn) -> bool {
        use Op::*;
        enum Kind {
            Run(i32),
            Replicate,
            Element,
            Two,
            Four,
        }
        let load = i.bit(22);
        let q = i.bit(30);
        let size = u32::from(i.aux >> 4 & 3);
        let kind = match i.op {
            LD1_m1 | LD1_m1_post | ST1_m1 | ST1_m1_post => Kind::Run(1),
            LD1_m2 | LD1_m2_post | ST1_m2 | ST1_m2_post => Kind::Run(2),
            LD1_m3 | LD1_m3_post | ST1_m3 | ST1_m3_post => Kind::Run(3),
            LD1_m4 | LD1_m4_post | ST1_m4 | ST1_m4_post => Kind::Run(4),
            LD1R | LD1R_post => Kind::Replicate,
            LD1_b | LD1_b_post | LD1_h | LD1_h_post | LD1_s | LD1_s_post | LD1_d | LD1_d_post | ST1_b
            | ST1_b_post | ST1_h | ST1_h_post | ST1_s | ST1_s_post | ST1_d | ST1_d_post => Kind::Element,
            LD2_m | LD2_m_post | ST2_m | ST2_m_post if q => Kind::Two,
            LD4_m | LD4_m_post if q && size < 3 => Kind::Four,
            _ => return false,
        };
        let (slow, back) = self.slow_path(i);
        self.address(i, 0, slow);
        let step = if q { 4 } else { 3 };
        let bytes = match kind {
            Kind::Run(n) => n << step,
            Kind::Two => 32,
            Kind::Four => 64,
            _ => 1 << size,
        };
        let host = self.tlb_hit(bytes, !load, slow);
        match kind {
            Kind::Run(count) => {
                for k in 0..count {
                    let n = i.rd.wrapping_add(k as u8) & 31;
                    let at = host.plus(k << step);
                    if load {
                        self.v_from_memory(step, n, at);
                    } else {
                        self.v_to_memory(step, n, at);
                    }
                }
            }
            Kind::Replicate => {
                self.a.v2(BROADCAST[size as usize], X0, host);
                self.v_put_low(i.rd, X0, if q { ALL } else { LOW64 });
            }
            Kind::Element if load => self.insert_element(i.rd, size as usize, i.ra, host.into()),
            Kind::Element => {
                let x = self.vx(i.rd, X0);
                self.a.v2i(extract(size), x, host, i.ra);
            }
            Kind::Two => self.two_registers(i, load, size as usize, host),
            Kind::Four => self.four_registers(i, size as usize, host),
        }
        if i.aux & 0x80 != 0 {
            if i.rm == 31 {
                self.write_back(i, i.imm as i32);
            } else {
                let m = self.rm(i.rm);
                self.a.alu(Alu::Add, true, r::RAX, m);
                self.write_back(i, 0);
            }
        }
        self.a.bind(back);
        true
    }

    /// LD4 of 64 bytes: within each quarter, what belongs to one register comes together; then rows become columns.
    fn four_registers(&mut self, i: &Insn, size: usize, host: super::asm::Mem) {
        const LOAD: V = V(Pp::F3, Map::M0F, false, 0x6f);
        const LOW: [V; 2] = [p(0x62), p(0x6c)];
        const HIGH: [V; 2] = [p(0x6a), p(0x6d)];
        let rd = |k: u8| i.rd.wrapping_add(k) & 31;
        for (k, x) in [X0, X1, X0, X1].into_iter().enumerate() {
            self.a.v2(LOAD, x, host.plus(16 * k as i32));
            if size < 2 {
                self.a.v3(p38(0x00), x, x, consts::FOURS[size]);
            }
            if k == 1 {
                self.a.v3(LOW[0], X2, X0, X1);
                self.a.v3(HIGH[0], X3, X0, X1);
                // For a while.
                self.v_put(rd(2), X3, ALL);
            }
        }
        self.a.v3(LOW[0], X3, X0, X1);
        self.a.v3(HIGH[0], X0, X0, X1);
        self.a.v3(LOW[1], X1, X2, X3);
        self.v_put(rd(0), X1, ALL);
        self.a.v3(HIGH[1], X1, X2, X3);
        self.v_put(rd(1), X1, ALL);
        let upper = self.vx(rd(2), X2);
        self.a.v3(HIGH[1], X1, upper, X0);
        self.v_put(rd(3), X1, ALL);
        self.a.v3(LOW[1], X1, upper, X0);
        self.v_put(rd(2), X1, ALL);
    }

    /// LD2, ST2 of 32 bytes.
    fn two_registers(&mut self, i: &Insn, load: bool, size: usize, host: super::asm::Mem) {
        const LOAD: V = V(Pp::F3, Map::M0F, false, 0x6f);
        const STORE: V = V(Pp::F3, Map::M0F, false, 0x7f);
        const LOW: [V; 4] = [p(0x60), p(0x61), p(0x62), p(0x6c)];
        const HIGH: [V; 4] = [p(0x68), p(0x69), p(0x6a), p(0x6d)];
        let other = i.rd.wrapping_add(1) & 31;
        if !load {
            let a = self.vx(i.rd, X0);
            let b = self.vx(other, X1);
            self.a.v3(LOW[size], X2, a, b);
            self.a.v3(HIGH[size], X3, a, b);
            self.a.v2(STORE, X2, host);
            self.a.v2(STORE, X3, host.plus(16));
            return;
        }
        self.a.v2(LOAD, X2, host);
        self.a.v2(LOAD, X3, host.plus(16));
        for (n, odd) in [(i.rd, false), (other, true)] {
            match size {
                3 => self.a.v3(if odd { HIGH[3] } else { LOW[3] }, X0, X2, X3),
                2 => self.a.v3i(SHUFPS, X0, X2, X3, if odd { 0xdd } else { 0x88 }),
                _ => self.halves(size, X2, X3, odd),
            }
            self.v_put(n, X0, ALL);
        }
    }
}

/// pmovzx or pmovsx from lanes of `size`.
pub(super) fn widen(size: usize, unsigned: bool) -> V {
    p38(if unsigned { 0x30 } else { 0x20 } + [0, 3, 5][size])
}
