//! The cryptographic extensions and CRC32 on the host's instructions.

use super::asm::{Alu, Shift, r};
use super::layout::consts;
use super::translate::{Block, mode};
use super::vex::{Map, Op as V, PANDN, POR, PXOR, Pp, X0, X1, X2, X3, Xmm, p, p38};
use super::vregs::{ALL, LOW32, extract};
use crate::decode::Op;
use crate::insn::Insn;

const PADDD: V = p(0xfe);
const PSUBD: V = p(0xfa);
const PSHUFD: V = p(0x70);
const AESENC: V = p38(0xdc);
const AESENCLAST: V = p38(0xdd);
const AESDEC: V = p38(0xde);
const AESDECLAST: V = p38(0xdf);
const AESIMC_HOST: V = p38(0xdb);
const PCLMUL: V = V(Pp::P66, Map::M0F3A, false, 0x44);
const PALIGNR: V = V(Pp::P66, Map::M0F3A, false, 0x0f);
const SHUFPS: V = V(Pp::None, Map::M0F, false, 0xc6);

impl Block<'_> {
    /// Translates the instruction if it belongs here.
    pub fn hashes(&mut self, i: &Insn) -> bool {
        use Op::*;
        if let CRC32B | CRC32H | CRC32W | CRC32X = i.op {
            self.crc(i);
            return true;
        }
        if self.mode & mode::FP_ON == 0 {
            return false;
        }
        match i.op {
            AESE | AESD => {
                let n = self.v(i.rn);
                let d = self.vx(i.rd, X0);
                self.a.v3(PXOR, X0, d, n);
                self.a.v3(PXOR, X1, X1, X1);
                // With the step that compilers put behind it, in one instruction of the host.
                let e = i.op == AESE;
                let mix = if e { AESMC } else { AESIMC };
                let both = self.ahead(1).is_some_and(|j| j.op == mix && j.rn == i.rd && j.rd == i.rd);
                let op = match (e, both) {
                    (true, false) => AESENCLAST,
                    (true, true) => AESENC,
                    (false, false) => AESDECLAST,
                    (false, true) => AESDEC,
                };
                self.mixed = if both { Some(self.at + 1) } else { None };
                let t = self.v_target(i.rd, X0);
                self.a.v3(op, t, X0, X1);
                self.v_put(i.rd, t, ALL);
            }
            AESMC | AESIMC if self.mixed == Some(self.at) => {}
            AESMC => {
                // The last round of decryption undoes all of a round of encryption but MixColumns.
                let n = self.vx(i.rn, X0);
                self.a.v3(PXOR, X1, X1, X1);
                self.a.v3(AESDECLAST, X0, n, X1);
                self.a.v3(AESENC, X0, X0, X1);
                self.v_put(i.rd, X0, ALL);
            }
            AESIMC => {
                let (n, t) = (self.v(i.rn), self.v_target(i.rd, X0));
                self.a.v2(AESIMC_HOST, t, n);
                self.v_put(i.rd, t, ALL);
            }
            PMULL_d => {
                let n = self.vx(i.rn, X0);
                let (m, t) = (self.v(i.rm), self.v_target(i.rd, X0));
                self.a.v3i(PCLMUL, t, n, m, if i.bit(30) { 0x11 } else { 0 });
                self.v_put(i.rd, t, ALL);
            }
            EOR3 | BCAX => {
                let m = self.vx(i.rm, X0);
                let a = self.v(i.ra & 31);
                if i.op == EOR3 {
                    self.a.v3(PXOR, X0, m, a);
                } else {
                    let a = self.vx(i.ra & 31, X1);
                    self.a.v3(PANDN, X0, a, m);
                }
                let (n, t) = (self.v(i.rn), self.v_target(i.rd, X0));
                self.a.v3(PXOR, t, X0, n);
                self.v_put(i.rd, t, ALL);
            }
            SHA1H => {
                let n = self.v_low(i.rn, LOW32, X0);
                self.rotate(X0, n, X1, 30);
                self.v_put(i.rd, X0, LOW32);
            }
            SHA1SU0 => {
                let n = self.vx(i.rn, X0);
                let d = self.v(i.rd);
                self.a.v3i(PALIGNR, X0, n, d, 8);
                let m = self.v(i.rm);
                self.a.v3(PXOR, X0, X0, d);
                self.a.v3(PXOR, X0, X0, m);
                self.v_put(i.rd, X0, ALL);
            }
            SHA1SU1 => {
                let n = self.vx(i.rn, X0);
                self.a.v_shift(0x73, 3, X0, n, 4);
                let d = self.v(i.rd);
                self.a.v3(PXOR, X0, X0, d);
                self.rotate(X0, X0, X1, 1);
                // The last word also depends on the first one of the result.
                self.a.v_shift(0x73, 7, X2, X0, 12);
                self.rotate(X2, X2, X1, 1);
                self.a.v3(PXOR, X0, X0, X2);
                self.v_put(i.rd, X0, ALL);
            }
            _ => return self.sha256(i) || self.sha1(i),
        }
        true
    }

    /// `to` = words of `from` rotated left.
    fn rotate(&mut self, to: Xmm, from: Xmm, scratch: Xmm, n: u8) {
        self.a.v_shift(0x72, 2, scratch, from, 32 - n);
        self.a.v_shift(0x72, 6, to, from, n);
        self.a.v3(POR, to, to, scratch);
    }

    /// Four rounds of SHA-1 by the host's instruction, which has the first word on top, adds the constants itself and
    /// takes E with the first word of the schedule.
    fn sha1(&mut self, i: &Insn) -> bool {
        use Op::*;
        let kind = match i.op {
            SHA1C => 0,
            SHA1P => 1,
            SHA1M => 2,
            _ => return false,
        };
        if !self.host_sha {
            return false;
        }
        let m = self.v(i.rm);
        self.a.v2i(PSHUFD, X1, m, 0x1b);
        self.a.v3(PSUBD, X1, X1, consts::SHA1[usize::from(kind)]);
        let n = self.vx(i.rn, X2);
        self.a.v_shift(0x73, 7, X2, n, 12);
        self.a.v3(PADDD, X1, X1, X2);
        let d = self.v(i.rd);
        self.a.v2i(PSHUFD, X0, d, 0x1b);
        self.a.op(None, false, &[0x0f, 0x3a, 0xcc], X0.0, X1.into(), false);
        self.a.byte(kind);
        self.a.v2i(PSHUFD, X0, X0, 0x1b);
        self.v_put(i.rd, X0, ALL);
        true
    }

    /// SHA-256 by the host's instructions, which keep the state as {a, b, e, f} and {c, d, g, h}, the first on top.
    fn sha256(&mut self, i: &Insn) -> bool {
        use Op::*;
        if !self.host_sha {
            return false;
        }
        let sha = |b: &mut Self, opcode: u8, d: Xmm, m: Xmm| {
            b.a.op(None, false, &[0x0f, 0x38, opcode], d.0, m.into(), false);
        };
        match i.op {
            SHA256H | SHA256H2 => {
                let (abcd, efgh) = if i.op == SHA256H { (i.rd, i.rn) } else { (i.rn, i.rd) };
                let efgh = self.vx(efgh, X3);
                let state = self.v(abcd);
                self.a.v3i(SHUFPS, X1, efgh, state, 0x11);
                self.a.v3i(SHUFPS, X2, efgh, state, 0xbb);
                self.v_copy(X0, i.rm, ALL);
                sha(self, 0xcb, X2, X1);
                self.a.v_shift(0x73, 3, X0, X0, 8);
                sha(self, 0xcb, X1, X2);
                let t = self.v_target(i.rd, X0);
                self.a.v3i(SHUFPS, t, X1, X2, if i.op == SHA256H { 0xbb } else { 0x11 });
                self.v_put(i.rd, t, ALL);
            }
            SHA256SU0 => {
                self.v_copy(X0, i.rd, ALL);
                let n = self.vx(i.rn, X1);
                sha(self, 0xcc, X0, n);
                self.v_put(i.rd, X0, ALL);
            }
            SHA256SU1 => {
                let m = self.vx(i.rm, X1);
                let n = self.v(i.rn);
                self.a.v3i(PALIGNR, X0, m, n, 4);
                let d = self.v(i.rd);
                self.a.v3(PADDD, X0, X0, d);
                sha(self, 0xcd, X0, m);
                self.v_put(i.rd, X0, ALL);
            }
            _ => return false,
        }
        true
    }

    /// CRC32 by two multiplications: the data, moved up to the end of 64 bits, times the quotient of x^96 by the
    /// polynomial gives the quotient of the data times x^32; that times the polynomial gives the remainder.
    fn crc(&mut self, i: &Insn) {
        let size = i.bits(10, 2);
        let bits = 8u8 << size;
        self.get_into(false, r::RAX, i.rn);
        if size < 2 {
            self.a.mov(false, r::RCX, r::RAX);
            self.a.shift(Shift::Shr, false, r::RCX, bits);
        }
        match size {
            3 => {
                let m = self.get(true, i.rm, r::RDX);
                self.a.alu(Alu::Xor, true, r::RAX, m);
            }
            _ => {
                let m = self.get(false, i.rm, r::RDX);
                self.a.alu(Alu::Xor, false, r::RAX, m);
                self.a.shift(Shift::Shl, true, r::RAX, 64 - bits);
            }
        }
        self.a.v_gpr(V(Pp::P66, Map::M0F, true, 0x6e), X0, r::RAX);
        self.a.v3i(PCLMUL, X0, X0, consts::CRC, 0x00);
        self.a.v3i(PCLMUL, X0, X0, consts::CRC, 0x10);
        self.a.v2i(extract(2), X0, r::RAX, 2);
        if size < 2 {
            self.a.alu(Alu::Xor, false, r::RAX, r::RCX);
        }
        self.put(i.rd, r::RAX);
    }
}
