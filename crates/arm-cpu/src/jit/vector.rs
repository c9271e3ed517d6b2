//! Advanced SIMD integer operations, permutations, moves, and the cryptographic extensions that the host has.

use super::asm::{Mem, Rm, r};
use super::layout::{self, consts};
use super::translate::{Block, mode};
use super::vex::{Map, Op as V, Pp, Xmm};
use crate::decode::Op;
use crate::insn::Insn;

const X0: Xmm = Xmm(0);
const X1: Xmm = Xmm(1);
const X2: Xmm = Xmm(2);

const fn p(opcode: u8) -> V {
    V(Pp::P66, Map::M0F, false, opcode)
}
const fn p38(opcode: u8) -> V {
    V(Pp::P66, Map::M0F38, false, opcode)
}
const fn p3a(opcode: u8) -> V {
    V(Pp::P66, Map::M0F3A, false, opcode)
}
const VMOVQ: V = V(Pp::F3, Map::M0F, false, 0x7e);
const VMOVDQA: V = p(0x6f);
const PAND: V = p(0xdb);
const PANDN: V = p(0xdf);
const POR: V = p(0xeb);
const PXOR: V = p(0xef);
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
const BROADCAST: [V; 4] = [p38(0x78), p38(0x79), p38(0x58), p38(0x59)];

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
                self.vector_in_part(X0, i.rn, q);
                self.vector_put(i.rd, X0);
            }
            ORR_v => self.three(i, q, POR),
            EOR_v => self.three(i, q, PXOR),
            BIC_v => self.swapped(i, q, PANDN),
            ORN_v => {
                self.pair_in(i, q);
                self.a.v3(PXOR, X1, X1, consts::ONES);
                self.a.v3(POR, X0, X0, X1);
                self.out(i.rd, X0, q);
            }
            NOT_v => {
                self.vector_in_part(X0, i.rn, q);
                self.a.v3(PXOR, X0, X0, consts::ONES);
                self.out(i.rd, X0, q);
            }
            BSL_v | BIT_v | BIF_v => self.bit_select(i, q),
            MUL_v if size == 1 => self.three(i, q, p(0xd5)),
            MUL_v if size == 2 => self.three(i, q, p38(0x40)),
            MLA_v | MLS_v if size == 1 || size == 2 => {
                self.pair_in(i, q);
                self.a.v3(if size == 1 { p(0xd5) } else { p38(0x40) }, X1, X0, X1);
                self.vector_in_part(X0, i.rd, q);
                self.a.v3(if i.op == MLA_v { PADD[size] } else { PSUB[size] }, X0, X0, X1);
                self.out(i.rd, X0, q);
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
                self.pair_in(i, q);
                self.a.v3(PCMPGT[size], X0, X1, X0);
                self.a.v3(PXOR, X0, X0, consts::ONES);
                self.out(i.rd, X0, q);
            }
            CMHS_v if size < 3 => {
                self.pair_in(i, q);
                self.a.v3(UMAX[size], X1, X0, X1);
                self.a.v3(PCMPEQ[size], X0, X0, X1);
                self.out(i.rd, X0, q);
            }
            CMHI_v if size < 3 => {
                self.pair_in(i, q);
                self.a.v3(UMIN[size], X1, X0, X1);
                self.a.v3(PCMPEQ[size], X0, X0, X1);
                self.a.v3(PXOR, X0, X0, consts::ONES);
                self.out(i.rd, X0, q);
            }
            CMTST_v => {
                self.pair_in(i, q);
                self.a.v3(PAND, X0, X0, X1);
                self.a.v3(PXOR, X1, X1, X1);
                self.a.v3(PCMPEQ[size], X0, X0, X1);
                self.a.v3(PXOR, X0, X0, consts::ONES);
                self.out(i.rd, X0, q);
            }
            CMEQ0_v | CMGT0_v | CMGE0_v | CMLE0_v | CMLT0_v => self.with_zero(i, q, size),
            NEG_v => {
                self.vector_in_part(X1, i.rn, q);
                self.a.v3(PXOR, X0, X0, X0);
                self.a.v3(PSUB[size], X0, X0, X1);
                self.vector_put(i.rd, X0);
            }
            ABS_v if size < 3 => {
                self.vector_in_part(X0, i.rn, q);
                self.a.v2(PABS[size], X0, X0);
                self.vector_put(i.rd, X0);
            }
            SHL_v if size > 0 => self.shift_imm(i, q, size, 6, None),
            USHR_v if size > 0 => self.shift_imm(i, q, size, 2, None),
            SSHR_v if size == 1 || size == 2 => self.shift_imm(i, q, size, 4, None),
            USRA_v if size > 0 => self.shift_imm(i, q, size, 2, Some(PADD[size])),
            SSRA_v if size == 1 || size == 2 => self.shift_imm(i, q, size, 4, Some(PADD[size])),
            USHLL_v | SSHLL_v if size < 3 => {
                let base = if i.op == USHLL_v { 0x30 } else { 0x20 };
                let from = layout::v(i.rn).plus(if q { 8 } else { 0 });
                self.a.v2(p38(base + [0, 3, 5][size]), X0, from);
                if i.imm != 0 {
                    self.a.v_shift(0x71 + size as u8, 6, X0, X0, i.imm as u8);
                }
                self.vector_put(i.rd, X0);
            }
            ZIP1 => {
                self.vector_in_part(X0, i.rn, true);
                self.a.v3(UNPACK_LOW[size], X0, X0, layout::v(i.rm));
                self.out(i.rd, X0, q);
            }
            ZIP2 if q => self.three(i, q, UNPACK_HIGH[size]),
            UZP1 | TRN1 if q && size == 3 => self.three(i, q, UNPACK_LOW[3]),
            UZP2 | TRN2 if q && size == 3 => self.three(i, q, UNPACK_HIGH[3]),
            UZP1 | UZP2 if q && size == 2 => {
                self.vector_in_part(X0, i.rn, true);
                let pick = if i.op == UZP1 { 0x88 } else { 0xdd };
                self.a.v3i(V(Pp::None, Map::M0F, false, 0xc6), X0, X0, layout::v(i.rm), pick);
                self.vector_put(i.rd, X0);
            }
            EXT if q => {
                self.vector_in_part(X0, i.rm, true);
                self.a.v3i(p3a(0x0f), X0, X0, layout::v(i.rn), i.imm as u8);
                self.vector_put(i.rd, X0);
            }
            DUP_elem => {
                self.a.v2(BROADCAST[size], X0, layout::v(i.rn).plus((i.imm as i32) << size));
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
                let from = layout::v(i.rn).plus(((i.bits(11, 4) >> size) << size) as i32);
                self.a.load_zx(size as u32, r::RAX, from);
                self.insert(i, size, r::RAX.into());
            }
            MOVI_32 | MOVI_16 | MOVI_8 | MOVI_64 | MOVI_msl | MVNI_32 | MVNI_16 | MVNI_msl => {
                self.constant(i.rd, i.imm, q);
            }
            ORR_imm32 | ORR_imm16 | BIC_imm32 | BIC_imm16 => {
                self.a.mov_i(r::RAX, i.imm);
                self.a.v_gpr(V(Pp::P66, Map::M0F, true, 0x6e), X1, r::RAX);
                self.a.v3(UNPACK_LOW[3], X1, X1, X1);
                self.vector_in_part(X0, i.rd, q);
                let or = matches!(i.op, ORR_imm32 | ORR_imm16);
                self.a.v3(if or { POR } else { PAND }, X0, X0, X1);
                self.out(i.rd, X0, q);
            }
            AESE | AESD => {
                self.vector_in_part(X0, i.rd, true);
                self.a.v3(PXOR, X0, X0, layout::v(i.rn));
                self.a.v3(PXOR, X1, X1, X1);
                self.a.v3(p38(if i.op == AESE { 0xdd } else { 0xdf }), X0, X0, X1);
                self.vector_put(i.rd, X0);
            }
            AESMC => {
                // The last round of decryption undoes all of a round of encryption but MixColumns.
                self.vector_in_part(X0, i.rn, true);
                self.a.v3(PXOR, X1, X1, X1);
                self.a.v3(p38(0xdf), X0, X0, X1);
                self.a.v3(p38(0xdc), X0, X0, X1);
                self.vector_put(i.rd, X0);
            }
            AESIMC => {
                self.a.v2(p38(0xdb), X0, layout::v(i.rn));
                self.vector_put(i.rd, X0);
            }
            PMULL_d => {
                self.vector_in_part(X0, i.rn, true);
                self.a.v3i(p3a(0x44), X0, X0, layout::v(i.rm), if q { 0x11 } else { 0 });
                self.vector_put(i.rd, X0);
            }
            EOR3 => {
                self.vector_in_part(X0, i.rn, true);
                self.a.v3(PXOR, X0, X0, layout::v(i.rm));
                self.a.v3(PXOR, X0, X0, layout::v(i.ra & 31));
                self.vector_put(i.rd, X0);
            }
            _ => return false,
        }
        true
    }

    /// Loads a register, or its lower half with zeros above.
    pub fn vector_in_part(&mut self, x: Xmm, n: u8, all: bool) {
        self.a.v2(if all { VMOVDQA } else { VMOVQ }, x, layout::v(n));
    }

    /// Writes a register.
    pub fn vector_put(&mut self, n: u8, x: Xmm) {
        self.a.v2(p(0x7f), x, layout::v(n));
    }

    /// Writes a register, or zeros above its lower half.
    fn out(&mut self, n: u8, x: Xmm, all: bool) {
        if !all {
            self.a.v2(VMOVQ, x, x);
        }
        self.vector_put(n, x);
    }

    /// Rn to X0, Rm to X1.
    fn pair_in(&mut self, i: &Insn, q: bool) {
        self.vector_in_part(X0, i.rn, q);
        self.vector_in_part(X1, i.rm, q);
    }

    fn three(&mut self, i: &Insn, q: bool, op: V) {
        self.vector_in_part(X0, i.rn, true);
        self.a.v3(op, X0, X0, layout::v(i.rm));
        self.out(i.rd, X0, q);
    }

    fn swapped(&mut self, i: &Insn, q: bool, op: V) {
        self.vector_in_part(X0, i.rm, true);
        self.a.v3(op, X0, X0, layout::v(i.rn));
        self.out(i.rd, X0, q);
    }

    /// All three are `a ^ ((a ^ b) & mask)`.
    fn bit_select(&mut self, i: &Insn, q: bool) {
        let (a, b, mask) = match i.op {
            Op::BSL_v => (i.rm, i.rn, i.rd),
            _ => (i.rd, i.rn, i.rm),
        };
        self.vector_in_part(X0, a, true);
        self.a.v3(PXOR, X1, X0, layout::v(b));
        self.vector_in_part(X2, mask, true);
        self.a.v3(if i.op == Op::BIF_v { PANDN } else { PAND }, X1, X2, X1);
        self.a.v3(PXOR, X0, X0, X1);
        self.out(i.rd, X0, q);
    }

    fn with_zero(&mut self, i: &Insn, q: bool, size: usize) {
        use Op::*;
        self.vector_in_part(X0, i.rn, true);
        self.a.v3(PXOR, X1, X1, X1);
        match i.op {
            CMEQ0_v => self.a.v3(PCMPEQ[size], X0, X0, X1),
            CMGT0_v | CMLE0_v => self.a.v3(PCMPGT[size], X0, X0, X1),
            _ => self.a.v3(PCMPGT[size], X0, X1, X0),
        }
        if matches!(i.op, CMGE0_v | CMLE0_v) {
            self.a.v3(PXOR, X0, X0, consts::ONES);
        }
        self.out(i.rd, X0, q);
    }

    fn shift_imm(&mut self, i: &Insn, q: bool, size: usize, digit: u8, add: Option<V>) {
        self.vector_in_part(X0, i.rn, true);
        self.a.v_shift(0x70 + size as u8, digit, X0, X0, i.imm as u8);
        if let Some(add) = add {
            self.a.v3(add, X0, X0, layout::v(i.rd));
        }
        self.out(i.rd, X0, q);
    }

    fn move_out(&mut self, i: &Insn, size: usize) {
        if i.rd == crate::insn::ZR {
            return;
        }
        let from = layout::v(i.rn).plus((i.imm as i32) << size);
        let t = self.target(i.rd, &[]);
        if i.op == Op::UMOV {
            self.a.load_zx(size as u32, t, from);
        } else {
            self.a.load_sx(size as u32, i.bit(30), t, from);
        }
        self.put(i.rd, t);
    }

    /// Element `imm` of Rd = the low bits of `v`.
    fn insert(&mut self, i: &Insn, size: usize, v: Rm) {
        self.vector_in_part(X0, i.rd, true);
        let op = match size {
            0 => p3a(0x20),
            1 => p(0xc4),
            2 => p3a(0x22),
            _ => V(Pp::P66, Map::M0F3A, true, 0x22),
        };
        self.a.v3i(op, X0, X0, v, i.imm as u8 & 15);
        self.vector_put(i.rd, X0);
    }

    /// LD1 and ST1 of whole registers, LD1R.
    pub fn vector_access(&mut self, i: &Insn) -> bool {
        use Op::*;
        if self.mode & mode::FP_ON == 0 {
            return false;
        }
        let load = i.bit(22);
        let q = i.bit(30);
        let size = u32::from(i.aux >> 4 & 3);
        let count = match i.op {
            LD1_m1 | LD1_m1_post | ST1_m1 | ST1_m1_post => 1,
            LD1_m2 | LD1_m2_post | ST1_m2 | ST1_m2_post => 2,
            LD1_m3 | LD1_m3_post | ST1_m3 | ST1_m3_post => 3,
            LD1_m4 | LD1_m4_post | ST1_m4 | ST1_m4_post => 4,
            LD1R | LD1R_post => 0,
            _ => return false,
        };
        let (slow, back) = self.slow_path(i);
        self.address(i, 0, slow);
        let step = if q { 16 } else { 8 };
        let bytes = if count == 0 { 1 << size } else { count * step };
        let host: Mem = self.tlb_hit(bytes, !load, slow);
        if count == 0 {
            self.a.v2(BROADCAST[size as usize], X0, host);
            self.out(i.rd, X0, q);
        }
        for k in 0..count {
            let n = i.rd.wrapping_add(k as u8) & 31;
            let at = host.plus(k * step);
            match (load, q) {
                (true, true) => {
                    self.a.v2(V(Pp::F3, Map::M0F, false, 0x6f), X0, at);
                    self.vector_put(n, X0);
                }
                (true, false) => {
                    self.a.v2(VMOVQ, X0, at);
                    self.vector_put(n, X0);
                }
                (false, true) => {
                    self.vector_in_part(X0, n, true);
                    self.a.v2(V(Pp::F3, Map::M0F, false, 0x7f), X0, at);
                }
                (false, false) => {
                    self.a.mov(true, r::RDX, layout::v(n));
                    self.a.store(3, at, r::RDX);
                }
            }
        }
        if i.aux & 0x80 != 0 {
            if i.rm == 31 {
                self.write_back(i, i.imm as i32);
            } else {
                let m = self.rm(i.rm);
                self.a.alu(super::asm::Alu::Add, true, r::RAX, m);
                self.write_back(i, 0);
            }
        }
        self.a.bind(back);
        true
    }
}

impl Block<'_> {
    /// SHA-256 by the host's instructions, which keep the state as {a, b, e, f} and {c, d, g, h}, the first on top.
    pub fn sha256(&mut self, i: &Insn) -> bool {
        use Op::*;
        if self.mode & mode::FP_ON == 0 || !self.host_sha {
            return false;
        }
        const SHUFFLE: V = V(Pp::None, Map::M0F, false, 0xc6);
        let sha = |b: &mut Self, opcode: u8, d: Xmm, m: Xmm| {
            b.a.op(None, false, &[0x0f, 0x38, opcode], d.0, m.into(), false);
        };
        match i.op {
            SHA256H | SHA256H2 => {
                let (abcd, efgh) = if i.op == SHA256H { (i.rd, i.rn) } else { (i.rn, i.rd) };
                self.vector_in_part(X0, i.rm, true);
                self.vector_in_part(Xmm(3), efgh, true);
                self.a.v3i(SHUFFLE, X1, Xmm(3), layout::v(abcd), 0x11);
                self.a.v3i(SHUFFLE, X2, Xmm(3), layout::v(abcd), 0xbb);
                sha(self, 0xcb, X2, X1);
                self.a.v_shift(0x73, 3, X0, X0, 8);
                sha(self, 0xcb, X1, X2);
                self.a.v3i(SHUFFLE, X0, X1, X2, if i.op == SHA256H { 0xbb } else { 0x11 });
            }
            SHA256SU0 => {
                self.vector_in_part(X0, i.rd, true);
                self.vector_in_part(X1, i.rn, true);
                sha(self, 0xcc, X0, X1);
            }
            SHA256SU1 => {
                self.vector_in_part(X1, i.rm, true);
                self.a.v3i(p3a(0x0f), X0, X1, layout::v(i.rn), 4);
                self.a.v3(PADD[2], X0, X0, layout::v(i.rd));
                sha(self, 0xcd, X0, X1);
            }
            _ => return false,
        }
        self.vector_put(i.rd, X0);
        true
    }
}
