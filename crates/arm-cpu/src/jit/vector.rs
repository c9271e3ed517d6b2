//! Advanced SIMD integer operations lane by lane, permutations, moves.

use super::asm::{Rm, r};
use super::layout::consts;
use super::translate::{Block, mode};
use super::vex::{Map, Op as V, PAND, PANDN, POR, PXOR, Pp, X0, X1, X2, Xmm, p, p3a, p38};
use super::vregs::{ALL, BROADCAST, LOW64};
use crate::decode::Op;
use crate::insn::Insn;

const PADD: [V; 4] = [p(0xfc), p(0xfd), p(0xfe), p(0xd4)];
const PSUB: [V; 4] = [p(0xf8), p(0xf9), p(0xfa), p(0xfb)];
const PCMPEQ: [V; 4] = [p(0x74), p(0x75), p(0x76), p38(0x29)];
const PCMPGT: [V; 4] = [p(0x64), p(0x65), p(0x66), p38(0x37)];
const UNPACK_LOW: [V; 4] = [p(0x60), p(0x61), p(0x62), p(0x6c)];
const UNPACK_HIGH: [V; 4] = [p(0x68), p(0x69), p(0x6a), p(0x6d)];
const SMAX: [V; 3] = [p38(0x3c), p(0xee), p38(0x3d)];
const SMIN: [V; 3] = [p38(0x38), p(0xea), p38(0x39)];
const UMAX: [V; 3] = [p(0xde), p38(0x3e), p38(0x3f)];
const UMIN: [V; 3] = [p(0xda), p38(0x3a), p38(0x3b)];
const PABS: [V; 3] = [p38(0x1c), p38(0x1d), p38(0x1e)];

fn bits(all: bool) -> u8 {
    if all { ALL } else { LOW64 }
}

impl Block<'_> {
    /// Translates the instruction if it belongs here.
    pub fn vector(&mut self, i: &Insn) -> bool {
        if self.mode & mode::FP_ON == 0 {
            return false;
        }
        use Op::*;
        let size = usize::from(i.aux >> 4 & 3);
        let q = i.bit(30);
        match i.op {
            ADD_v => self.three(i, q, PADD[size]),
            SUB_v => self.three(i, q, PSUB[size]),
            ADD_s if size == 3 => self.three(i, false, PADD[3]),
            SUB_s if size == 3 => self.three(i, false, PSUB[3]),
            AND_v => self.three(i, q, PAND),
            ORR_v if i.rn == i.rm => {
                let zero = self.zero_above[usize::from(i.rn)];
                let x = self.vx(i.rn, X0);
                if q {
                    self.v_put(i.rd, x, zero);
                } else {
                    self.out(i.rd, x, q);
                }
            }
            ORR_v => self.three(i, q, POR),
            EOR_v => self.three(i, q, PXOR),
            BIC_v => self.swapped(i, q, PANDN),
            ORN_v => {
                let (n, m) = self.pair_in(i);
                self.a.v3(PXOR, X1, m, consts::ONES);
                self.a.v3(POR, X0, n, X1);
                self.out(i.rd, X0, q);
            }
            NOT_v => {
                self.vector_in_part(X0, i.rn, true);
                self.invert(i.rd, q);
            }
            BSL_v | BIT_v | BIF_v => self.bit_select(i, q),
            MUL_v if size == 1 => self.three(i, q, p(0xd5)),
            MUL_v if size == 2 => self.three(i, q, p38(0x40)),
            MLA_v | MLS_v if size == 1 || size == 2 => {
                let (n, m) = self.pair_in(i);
                self.a.v3(if size == 1 { p(0xd5) } else { p38(0x40) }, X1, n, m);
                let old = self.vx(i.rd, X0);
                let d = self.target_of(i.rd, q);
                self.a.v3(if i.op == MLA_v { PADD[size] } else { PSUB[size] }, d, old, X1);
                self.out(i.rd, d, q);
            }
            SMAX_v if size < 3 => self.three(i, q, SMAX[size]),
            SMIN_v if size < 3 => self.three(i, q, SMIN[size]),
            UMAX_v if size < 3 => self.three(i, q, UMAX[size]),
            UMIN_v if size < 3 => self.three(i, q, UMIN[size]),
            URHADD_v if size == 0 => self.three(i, q, p(0xe0)),
            URHADD_v if size == 1 => self.three(i, q, p(0xe3)),
            ADDP_v if q && size == 1 => self.three(i, q, p38(0x01)),
            ADDP_v if q && size == 2 => self.three(i, q, p38(0x02)),
            CMEQ_v => self.three(i, q, PCMPEQ[size]),
            CMGT_v => self.three(i, q, PCMPGT[size]),
            CMGE_v => {
                let (n, m) = self.pair_in(i);
                self.a.v3(PCMPGT[size], X0, m, n);
                self.invert(i.rd, q);
            }
            CMHS_v if size < 3 => {
                let (n, m) = self.pair_in(i);
                self.a.v3(UMAX[size], X1, n, m);
                let d = self.target_of(i.rd, q);
                self.a.v3(PCMPEQ[size], d, n, X1);
                self.out(i.rd, d, q);
            }
            CMHI_v if size < 3 => {
                let (n, m) = self.pair_in(i);
                self.a.v3(UMIN[size], X1, n, m);
                self.a.v3(PCMPEQ[size], X0, n, X1);
                self.invert(i.rd, q);
            }
            CMTST_v => {
                let (n, m) = self.pair_in(i);
                self.a.v3(PAND, X0, n, m);
                self.a.v3(PXOR, X1, X1, X1);
                self.a.v3(PCMPEQ[size], X0, X0, X1);
                self.invert(i.rd, q);
            }
            CMEQ0_v | CMGT0_v | CMGE0_v | CMLE0_v | CMLT0_v => self.with_zero(i, q, size),
            NEG_v => {
                let n = self.v(i.rn);
                self.a.v3(PXOR, X1, X1, X1);
                self.a.v3(PSUB[size], X0, X1, n);
                self.out(i.rd, X0, q);
            }
            ABS_v if size < 3 => {
                let n = self.v(i.rn);
                self.a.v2(PABS[size], X0, n);
                self.out(i.rd, X0, q);
            }
            SHL_v if size > 0 => self.shift_imm(i, q, size, 6, None),
            USHR_v if size > 0 => self.shift_imm(i, q, size, 2, None),
            SSHR_v if size == 1 || size == 2 => self.shift_imm(i, q, size, 4, None),
            USRA_v if size > 0 => self.shift_imm(i, q, size, 2, Some(PADD[size])),
            SSRA_v if size == 1 || size == 2 => self.shift_imm(i, q, size, 4, Some(PADD[size])),
            USHLL_v | SSHLL_v if size < 3 => {
                let base = if i.op == USHLL_v { 0x30 } else { 0x20 };
                let from = if q { self.v_upper(i.rn, X0) } else { self.v(i.rn) };
                self.a.v2(p38(base + [0, 3, 5][size]), X0, from);
                if i.imm != 0 {
                    self.a.v_shift(0x71 + size as u8, 6, X0, X0, i.imm as u8);
                }
                self.vector_put(i.rd, X0);
            }
            // By the width of an element.
            SHLL_v if size < 3 => {
                let from = if q { self.v_upper(i.rn, X0) } else { self.v(i.rn) };
                self.a.v2(p38([0x30, 0x33, 0x35][size]), X0, from);
                self.a.v_shift(0x71 + size as u8, 6, X0, X0, 8 << size);
                self.vector_put(i.rd, X0);
            }
            ZIP1 => {
                self.three(i, q, UNPACK_LOW[size]);
            }
            ZIP2 if q => self.three(i, q, UNPACK_HIGH[size]),
            UZP1 | TRN1 if q && size == 3 => self.three(i, q, UNPACK_LOW[3]),
            UZP2 | TRN2 if q && size == 3 => self.three(i, q, UNPACK_HIGH[3]),
            UZP1 | UZP2 if q && size == 2 => {
                let n = self.vx(i.rn, X0);
                let pick = if i.op == UZP1 { 0x88 } else { 0xdd };
                let (m, d) = (self.v(i.rm), self.v_target(i.rd, X0));
                self.a.v3i(V(Pp::None, Map::M0F, false, 0xc6), d, n, m, pick);
                self.vector_put(i.rd, d);
            }
            EXT if q => {
                let m = self.vx(i.rm, X0);
                let (n, d) = (self.v(i.rn), self.v_target(i.rd, X0));
                self.a.v3i(p3a(0x0f), d, m, n, i.imm as u8);
                self.vector_put(i.rd, d);
            }
            DUP_elem => {
                self.v_broadcast(X0, i.rn, size as u32, i.imm as u8);
                self.out(i.rd, X0, q);
            }
            DUP_gen => {
                let n = self.rm(i.rn);
                self.a.v_gpr(V(Pp::P66, Map::M0F, true, 0x6e), X0, n);
                self.a.v2(BROADCAST[size], X0, X0);
                self.out(i.rd, X0, q);
            }
            UMOV | SMOV => self.move_out(i, size),
            INS_gen => {
                let n = self.get(true, i.rn, r::RAX);
                self.insert(i, size, n.into());
            }
            INS_elem => {
                self.v_element(r::RAX, i.rn, size as u32, (i.bits(11, 4) >> size) as u8);
                self.insert(i, size, r::RAX.into());
            }
            MOVI_32 | MOVI_16 | MOVI_8 | MOVI_64 | MOVI_msl | MVNI_32 | MVNI_16 | MVNI_msl => {
                self.constant(i.rd, i.imm, q);
            }
            ORR_imm32 | ORR_imm16 | BIC_imm32 | BIC_imm16 => {
                self.a.mov_i(r::RAX, i.imm);
                self.a.v_gpr(V(Pp::P66, Map::M0F, true, 0x6e), X1, r::RAX);
                self.a.v3(UNPACK_LOW[3], X1, X1, X1);
                let or = matches!(i.op, ORR_imm32 | ORR_imm16);
                let old = self.v(i.rd);
                self.a.v3(if or { POR } else { PAND }, X0, X1, old);
                self.out(i.rd, X0, q);
            }
            _ => return false,
        }
        true
    }

    /// Loads a register, or its lower half with zeros above, as a copy.
    pub fn vector_in_part(&mut self, x: Xmm, n: u8, all: bool) {
        self.v_copy(x, n, bits(all));
    }

    /// Writes a register.
    pub fn vector_put(&mut self, n: u8, x: Xmm) {
        self.v_put(n, x, ALL);
    }

    /// Writes a register, or zeros above its lower half.
    pub fn out(&mut self, n: u8, x: Xmm, all: bool) {
        self.v_put_low(n, x, bits(all));
    }

    /// Rn and Rm for reading, the scratch registers X0 and X1 where they have none of their own.
    pub fn pair_in(&mut self, i: &Insn) -> (Xmm, Xmm) {
        (self.vx(i.rn, X0), self.vx(i.rm, X1))
    }

    /// Where the result of one instruction may be computed.
    fn target_of(&self, n: u8, q: bool) -> Xmm {
        if q { self.v_target(n, X0) } else { X0 }
    }

    /// Does the operation on what stands below 64 bits with zeros above leave zeros above?
    fn stays_low(&self, q: bool, op: V, sources: [u8; 2]) -> bool {
        let mixes = [PCMPEQ, UNPACK_LOW, UNPACK_HIGH].concat().contains(&op);
        !q && !mixes && sources.iter().all(|n| self.zero_above[usize::from(*n)] <= LOW64)
    }

    fn three(&mut self, i: &Insn, q: bool, op: V) {
        if self.stays_low(q, op, [i.rn, i.rm]) {
            let n = self.vx(i.rn, X0);
            let (m, d) = (self.v(i.rm), self.v_target(i.rd, X0));
            self.a.v3(op, d, n, m);
            return self.v_put(i.rd, d, LOW64);
        }
        let n = self.vx(i.rn, X0);
        let (m, d) = (self.v(i.rm), self.target_of(i.rd, q));
        self.a.v3(op, d, n, m);
        self.out(i.rd, d, q);
    }

    /// Writes X0 inverted.
    fn invert(&mut self, rd: u8, q: bool) {
        let d = self.target_of(rd, q);
        self.a.v3(PXOR, d, X0, consts::ONES);
        self.out(rd, d, q);
    }

    fn swapped(&mut self, i: &Insn, q: bool, op: V) {
        let m = self.vx(i.rm, X0);
        let (n, d) = (self.v(i.rn), self.target_of(i.rd, q));
        self.a.v3(op, d, m, n);
        self.out(i.rd, d, q);
    }

    /// All three are `a ^ ((a ^ b) & mask)`.
    fn bit_select(&mut self, i: &Insn, q: bool) {
        let (a, b, mask) = match i.op {
            Op::BSL_v => (i.rm, i.rn, i.rd),
            _ => (i.rd, i.rn, i.rm),
        };
        let a = self.vx(a, X0);
        let b = self.v(b);
        self.a.v3(PXOR, X1, a, b);
        let mask = self.vx(mask, X2);
        self.a.v3(if i.op == Op::BIF_v { PANDN } else { PAND }, X1, mask, X1);
        let d = self.target_of(i.rd, q);
        self.a.v3(PXOR, d, a, X1);
        self.out(i.rd, d, q);
    }

    fn with_zero(&mut self, i: &Insn, q: bool, size: usize) {
        use Op::*;
        let n = self.v(i.rn);
        let x = self.vx(i.rn, X0);
        self.a.v3(PXOR, X1, X1, X1);
        match i.op {
            CMEQ0_v => self.a.v3(PCMPEQ[size], X0, X1, n),
            CMGT0_v | CMLE0_v => self.a.v3(PCMPGT[size], X0, x, X1),
            _ => self.a.v3(PCMPGT[size], X0, X1, n),
        }
        if matches!(i.op, CMGE0_v | CMLE0_v) {
            self.invert(i.rd, q);
        } else {
            self.out(i.rd, X0, q);
        }
    }

    fn shift_imm(&mut self, i: &Insn, q: bool, size: usize, digit: u8, add: Option<V>) {
        let n = self.vx(i.rn, X0);
        if add.is_none() && self.stays_low(q, PAND, [i.rn, i.rn]) {
            let d = self.v_target(i.rd, X0);
            self.a.v_shift(0x70 + size as u8, digit, d, n, i.imm as u8);
            return self.v_put(i.rd, d, LOW64);
        }
        let d = if add.is_some() { X0 } else { self.target_of(i.rd, q) };
        self.a.v_shift(0x70 + size as u8, digit, d, n, i.imm as u8);
        if let Some(add) = add {
            let (old, to) = (self.v(i.rd), self.target_of(i.rd, q));
            self.a.v3(add, to, X0, old);
            return self.out(i.rd, to, q);
        }
        self.out(i.rd, d, q);
    }

    fn move_out(&mut self, i: &Insn, size: usize) {
        if i.rd == crate::insn::ZR {
            return;
        }
        let t = self.target(i.rd, &[]);
        self.v_element(t, i.rn, size as u32, i.imm as u8);
        if i.op == Op::SMOV {
            self.a.load_sx(size as u32, i.bit(30), t, t);
        }
        self.put(i.rd, t);
    }

    /// Element `imm` of Rd = the low bits of `v`.
    fn insert(&mut self, i: &Insn, size: usize, v: Rm) {
        self.insert_element(i.rd, size, i.imm as u8 & 15, v);
    }

    /// Element `index` of `rd` = the low bits of `v`.
    pub fn insert_element(&mut self, rd: u8, size: usize, index: u8, v: Rm) {
        let op = match size {
            0 => p3a(0x20),
            1 => p(0xc4),
            2 => p3a(0x22),
            _ => V(Pp::P66, Map::M0F3A, true, 0x22),
        };
        let old = self.vx(rd, X0);
        let d = self.v_target(rd, X0);
        self.a.v3i(op, d, old, v, index);
        self.vector_put(rd, d);
    }
}
