//! Integer shifts, bit fields, bit and byte reversal, counting, CRC32C.

use super::asm::{Alu, Rm, Shift, r};
use super::translate::Block;
use super::vex::Pp;
use crate::decode::Op;
use crate::insn::Insn;

impl Block<'_> {
    /// Translates the instruction if it belongs here.
    pub fn bits(&mut self, i: &Insn) -> bool {
        use Op::*;
        let w = i.bit(31);
        match i.op {
            UBFM => self.extract_field(i, w, false),
            SBFM => self.extract_field(i, w, true),
            BFM => self.insert_field(i, w),
            EXTR => self.extract_pair(i, w),
            LSLV => self.shift_by(i, w, Pp::P66),
            LSRV => self.shift_by(i, w, Pp::F2),
            ASRV => self.shift_by(i, w, Pp::F3),
            RORV => {
                self.get_into(true, r::RCX, i.rm);
                self.get_into(w, r::RAX, i.rn);
                self.a.shift_cl(Shift::Ror, w, r::RAX);
                // A count of zero leaves a 32-bit register as it was, which the load extended.
                self.put(i.rd, r::RAX);
            }
            CLZ => {
                let n = self.rm(i.rn);
                let t = self.target(i.rd, &[]);
                self.a.lzcnt(w, t, n);
                self.put(i.rd, t);
            }
            CLS => {
                self.get_into(w, r::RAX, i.rn);
                self.a.mov(w, r::RCX, r::RAX);
                self.a.shift(Shift::Sar, w, r::RCX, 1);
                self.a.alu(Alu::Xor, w, r::RAX, r::RCX);
                self.a.lzcnt(w, r::RAX, r::RAX);
                self.a.alu_i(Alu::Sub, w, r::RAX, 1);
                self.put(i.rd, r::RAX);
            }
            REV_w | REV_x => {
                let t = self.target(i.rd, &[]);
                self.get_for(w, t, i.rn);
                self.a.bswap(w, t);
                self.put(i.rd, t);
            }
            REV32 => {
                self.get_into(true, r::RAX, i.rn);
                self.a.bswap(true, r::RAX);
                self.a.rorx(true, r::RAX, r::RAX, 32);
                self.put(i.rd, r::RAX);
            }
            REV16 => {
                self.get_into(w, r::RAX, i.rn);
                self.swap_groups(w, 8, 0x00ff_00ff_00ff_00ff);
                self.put(i.rd, r::RAX);
            }
            RBIT => {
                self.get_into(w, r::RAX, i.rn);
                self.a.bswap(w, r::RAX);
                self.swap_groups(w, 4, 0x0f0f_0f0f_0f0f_0f0f);
                self.swap_groups(w, 2, 0x3333_3333_3333_3333);
                self.swap_groups(w, 1, 0x5555_5555_5555_5555);
                self.put(i.rd, r::RAX);
            }
            CRC32CB | CRC32CH | CRC32CW | CRC32CX => {
                let size = i.bits(10, 2);
                self.get_into(false, r::RAX, i.rn);
                let m = self.rm(i.rm);
                self.a.crc32c(size, r::RAX, m);
                self.put(i.rd, r::RAX);
            }
            _ => return false,
        }
        true
    }

    /// Exchanges neighbouring groups of `n` bits in RAX; `mask` selects the lower ones.
    fn swap_groups(&mut self, w: bool, n: u8, mask: u64) {
        self.a.mov_i(r::RDX, if w { mask } else { mask & 0xffff_ffff });
        self.a.mov(w, r::RCX, r::RAX);
        self.a.shift(Shift::Shr, w, r::RCX, n);
        self.a.alu(Alu::And, w, r::RCX, r::RDX);
        self.a.alu(Alu::And, w, r::RAX, r::RDX);
        self.a.shift(Shift::Shl, w, r::RAX, n);
        self.a.alu(Alu::Or, w, r::RAX, r::RCX);
    }

    fn shift_by(&mut self, i: &Insn, w: bool, kind: Pp) {
        let m = self.get(true, i.rm, r::RCX);
        let n = self.rm(i.rn);
        let t = self.target(i.rd, &[]);
        self.a.shiftx(kind, w, t, n, m);
        self.put(i.rd, t);
    }

    /// UBFM, SBFM: the field of bits S to R, or the lowest S+1 bits moved up by width-R.
    fn extract_field(&mut self, i: &Insn, w: bool, signed: bool) {
        let width = if w { 64 } else { 32 };
        let (rr, s) = (i.bits(16, 6) as u8, i.bits(10, 6) as u8);
        let top = width - 1 - s;
        let t = self.target(i.rd, &[]);
        let n: Rm = self.rm(i.rn);
        let right = if signed { Shift::Sar } else { Shift::Shr };
        if s >= rr {
            let bytes = [7, 15, 31].iter().position(|b| *b == s);
            match bytes {
                Some(k) if rr == 0 && (k < 2 || w) => {
                    if signed {
                        self.a.load_sx(k as u32, w, t, n);
                    } else {
                        self.a.load_zx(k as u32, t, n);
                    }
                }
                _ => {
                    if top + rr == 0 {
                        self.get_into(w, t, i.rn);
                    } else {
                        self.get_for(w, t, i.rn);
                    }
                    let field = s - rr + 1;
                    if !signed && top != 0 && field < 32 {
                        if rr != 0 {
                            self.a.shift(Shift::Shr, w, t, rr);
                        }
                        self.a.alu_i(Alu::And, false, t, ((1u32 << field) - 1) as i32);
                    } else {
                        if top != 0 {
                            self.a.shift(Shift::Shl, w, t, top);
                        }
                        if top + rr != 0 {
                            self.a.shift(right, w, t, top + rr);
                        }
                    }
                }
            }
        } else {
            // Up: cut off above S, then to the place.
            self.get_for(w, t, i.rn);
            let up = width - rr;
            if top != 0 {
                self.a.shift(Shift::Shl, w, t, top);
            }
            if top > up {
                self.a.shift(right, w, t, top - up);
            }
        }
        self.put(i.rd, t);
    }

    fn insert_field(&mut self, i: &Insn, w: bool) {
        let mask = i.imm;
        self.a.rorx(true, r::RAX, self.rm(i.rn), (64 - i.rm) & 63);
        self.a.mov_i(r::RCX, mask);
        self.a.alu(Alu::And, true, r::RAX, r::RCX);
        let d = self.rm(i.rd);
        self.a.andn(true, r::RCX, r::RCX, d);
        self.a.alu(Alu::Or, w, r::RAX, r::RCX);
        self.put(i.rd, r::RAX);
    }

    fn extract_pair(&mut self, i: &Insn, w: bool) {
        let t = r::RAX;
        if i.rn == i.rm {
            self.a.rorx(w, t, self.rm(i.rm), i.aux);
        } else {
            self.get_into(w, t, i.rm);
            if i.aux != 0 {
                let n = self.get(w, i.rn, r::RCX);
                self.a.shrd(w, t, n, i.aux);
            }
        }
        self.put(i.rd, t);
    }
}
