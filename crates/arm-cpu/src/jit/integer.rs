//! Integer arithmetic: add, subtract, logic, conditional operations, multiply, divide.

use super::asm::{Alu, Cc, Mem, Reg, Rm, Shift, Unary, r};
use super::flags::{Fix, Kind, Recipe, Second};
use super::translate::Block;
use crate::decode::Op;
use crate::insn::{Insn, SINK, ZR};

/// How flags of an operation become those of a subtraction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sets {
    Nothing,
    Sub,
    Add,
    Logic,
}

impl Sets {
    fn kind(self) -> Option<Kind> {
        match self {
            Sets::Nothing => None,
            Sets::Sub => Some(Kind::Sub),
            Sets::Add => Some(Kind::Add),
            Sets::Logic => Some(Kind::Logic),
        }
    }
}

impl Block<'_> {
    /// Translates the instruction if it belongs here.
    pub fn integer(&mut self, i: &Insn) -> bool {
        use Op::*;
        let w = i.bit(31);
        match i.op {
            ADR => self.put_i(i.rd, self.pc().wrapping_add(i.imm)),
            ADRP => self.put_i(i.rd, (self.pc() & !0xfff).wrapping_add(i.imm)),
            MOVZ | MOVN => self.put_i(i.rd, i.imm),
            MOVK => self.movk(i, w),
            ADD_imm => self.add_imm(i, w, i.imm as i64),
            SUB_imm => self.add_imm(i, w, -(i.imm as i64)),
            ADDS_imm => self.op_imm(i, w, Alu::Add, Sets::Add),
            SUBS_imm => self.op_imm(i, w, Alu::Sub, Sets::Sub),
            AND_imm => self.op_imm(i, w, Alu::And, Sets::Nothing),
            ORR_imm => self.op_imm(i, w, Alu::Or, Sets::Nothing),
            EOR_imm => self.op_imm(i, w, Alu::Xor, Sets::Nothing),
            ANDS_imm => self.op_imm(i, w, Alu::And, Sets::Logic),
            ADD_shift => self.op_shifted(i, w, Alu::Add, Sets::Nothing, false),
            SUB_shift => self.op_shifted(i, w, Alu::Sub, Sets::Nothing, false),
            ADDS_shift => self.op_shifted(i, w, Alu::Add, Sets::Add, false),
            SUBS_shift => self.op_shifted(i, w, Alu::Sub, Sets::Sub, false),
            AND_shift => self.op_shifted(i, w, Alu::And, Sets::Nothing, false),
            BIC_shift => self.op_shifted(i, w, Alu::And, Sets::Nothing, true),
            ORR_shift => self.op_shifted(i, w, Alu::Or, Sets::Nothing, false),
            ORN_shift => self.op_shifted(i, w, Alu::Or, Sets::Nothing, true),
            EOR_shift => self.op_shifted(i, w, Alu::Xor, Sets::Nothing, false),
            EON_shift => self.op_shifted(i, w, Alu::Xor, Sets::Nothing, true),
            ANDS_shift => self.op_shifted(i, w, Alu::And, Sets::Logic, false),
            BICS_shift => self.op_shifted(i, w, Alu::And, Sets::Logic, true),
            ADD_ext => self.op_extended(i, w, Alu::Add, Sets::Nothing),
            SUB_ext => self.op_extended(i, w, Alu::Sub, Sets::Nothing),
            ADDS_ext => self.op_extended(i, w, Alu::Add, Sets::Add),
            SUBS_ext => self.op_extended(i, w, Alu::Sub, Sets::Sub),
            ADC | ADCS => self.carry(i, w, Alu::Adc, i.op == ADCS),
            SBC | SBCS => self.carry(i, w, Alu::Sbb, i.op == SBCS),
            CCMN_imm | CCMP_imm | CCMN_reg | CCMP_reg => self.cond_compare(i, w),
            CSEL | CSINC | CSINV | CSNEG => self.select(i, w),
            MADD | MSUB => self.multiply(i, w),
            SMADDL | SMSUBL | UMADDL | UMSUBL => self.multiply_long(i),
            SMULH | UMULH => self.multiply_high(i),
            UDIV | SDIV => self.divide(i, w),
            _ => return false,
        }
        true
    }

    fn movk(&mut self, i: &Insn, w: bool) {
        let keep = !(0xffffu64 << (i.aux & 63)) & if w { u64::MAX } else { 0xffff_ffff };
        if i.rd == crate::insn::SINK {
            return;
        }
        if let Some(v) = self.known(i.rd) {
            return self.put_i(i.rd, v & keep | i.imm);
        }
        self.a.mov_i(r::RCX, keep);
        self.get_into(true, r::RAX, i.rd);
        self.a.alu(Alu::And, true, r::RAX, r::RCX);
        if i.imm != 0 {
            self.a.mov_i(r::RCX, i.imm);
            self.a.alu(Alu::Or, true, r::RAX, r::RCX);
        }
        self.put(i.rd, r::RAX);
    }

    fn add_imm(&mut self, i: &Insn, w: bool, imm: i64) {
        if let Some(v) = self.known(i.rn) {
            let v = v.wrapping_add(imm as u64);
            return self.put_i(i.rd, if w { v } else { v & 0xffff_ffff });
        }
        let imm = imm as i32;
        let n = self.get(w, i.rn, r::RAX);
        let t = self.target(i.rd, &[]);
        // EFLAGS stay.
        if imm == 0 {
            if n != t || !w {
                self.a.mov(w, t, n);
            }
        } else {
            self.a.lea(w, t, Mem::at(n, imm));
        }
        let aligned = self.sp_aligned && w && i.rn == crate::insn::SP && imm & 15 == 0;
        self.put(i.rd, t);
        if i.rd == crate::insn::SP {
            self.sp_aligned = aligned;
        }
    }

    /// `rd = rn op b`, with flags; `second` tells how to get `b` again.
    fn op(&mut self, i: &Insn, w: bool, op: Alu, b: Rm, second: Second, sets: Sets) {
        let (rd, rn) = (i.rd, i.rn);
        let discard = rd == crate::insn::SINK;
        if discard && sets == Sets::Sub {
            let n = self.get(w, rn, r::RAX);
            self.a.alu(Alu::Cmp, w, n, b);
        } else {
            let m = match second {
                Second::Reg(m) => m,
                _ => SINK,
            };
            let t = self.target(rd, if rd == rn { &[] } else { std::slice::from_ref(&m) });
            self.get_for(w, t, rn);
            self.a.alu(op, w, t, b);
            self.put(rd, t);
        }
        self.flags_of(i, w, sets, second);
    }

    fn flags_of(&mut self, i: &Insn, w: bool, sets: Sets, b: Second) {
        if let Some(k) = sets.kind() {
            self.flags_set(k.fix(), Some(Recipe::new(k, w, i.rd, i.rn, b)));
        }
    }

    fn op_imm(&mut self, i: &Insn, w: bool, op: Alu, sets: Sets) {
        // A 32-bit operation takes any 32-bit immediate.
        let small = if w { i32::try_from(i.imm as i64).ok() } else { Some(i.imm as u32 as i32) };
        let Some(imm) = small else {
            self.a.mov_i(r::RCX, i.imm);
            return self.op(i, w, op, r::RCX.into(), Second::Gone, sets);
        };
        if i.rd == crate::insn::SINK && matches!(sets, Sets::Sub | Sets::Logic) {
            let rm = if i.rn == ZR { self.get(w, i.rn, r::RAX).into() } else { self.rm(i.rn) };
            if sets == Sets::Sub {
                match rm {
                    Rm::R(n) if imm == 0 => self.a.test(w, n, n),
                    _ => self.a.alu_i(Alu::Cmp, w, rm, imm),
                }
            } else {
                self.a.test_i(w, rm, imm);
            }
            return self.flags_of(i, w, sets, Second::Imm(imm));
        }
        if op == Alu::Or && i.rn == ZR {
            return self.put_i(i.rd, i.imm);
        }
        let t = self.target(i.rd, &[]);
        if op == Alu::And && !w && matches!(i.imm, 0xff | 0xffff) && sets == Sets::Nothing {
            // EFLAGS stay.
            let n = self.rm(i.rn);
            self.a.load_zx(u32::from(i.imm == 0xffff), t, n);
            return self.put(i.rd, t);
        }
        self.get_for(w, t, i.rn);
        self.a.alu_i(op, w, t, imm);
        self.put(i.rd, t);
        self.flags_of(i, w, sets, Second::Imm(imm));
    }

    fn op_shifted(&mut self, i: &Insn, w: bool, op: Alu, sets: Sets, invert: bool) {
        let kind = i.bits(22, 2);
        if i.aux == 0 && !invert {
            return self.op_plain(i, w, op, sets);
        }
        // x + (y << 1..3)
        if op == Alu::Add && sets == Sets::Nothing && kind == 0 && !invert && i.aux <= 3 && i.rn != ZR {
            let n = self.get(w, i.rn, r::RAX);
            let m = self.get(w, i.rm, r::RCX);
            let t = self.target(i.rd, &[]);
            self.a.lea(w, t, Mem::indexed(n, m, i.aux, 0));
            return self.put(i.rd, t);
        }
        let c = r::RCX;
        match kind {
            3 if i.aux != 0 => self.a.rorx(w, c, self.rm(i.rm), i.aux),
            _ => {
                self.get_into(w, c, i.rm);
                if i.aux != 0 {
                    let s = [Shift::Shl, Shift::Shr, Shift::Sar, Shift::Ror][kind as usize & 3];
                    self.a.shift(s, w, c, i.aux);
                }
            }
        }
        if invert {
            self.a.unary(Unary::Not, w, c);
        }
        if i.rn == ZR && matches!(op, Alu::Or | Alu::Xor | Alu::Add) && sets == Sets::Nothing {
            if !w && i.aux == 0 && !invert {
                self.a.mov(false, c, c);
            }
            return self.put(i.rd, c);
        }
        self.op(i, w, op, c.into(), Second::Gone, sets);
    }

    /// Both operands as they are.
    fn op_plain(&mut self, i: &Insn, w: bool, op: Alu, sets: Sets) {
        if i.rn == ZR && sets == Sets::Nothing {
            match op {
                // MOV
                Alu::Or | Alu::Xor | Alu::Add => {
                    if let Some(v) = self.known(i.rm) {
                        return self.put_i(i.rd, if w { v } else { v & 0xffff_ffff });
                    }
                    if i.rm == ZR {
                        return self.put_i(i.rd, 0);
                    }
                    let t = self.target(i.rd, &[]);
                    self.get_into(w, t, i.rm);
                    return self.put(i.rd, t);
                }
                Alu::Sub => {
                    let t = self.target(i.rd, &[]);
                    self.get_for(w, t, i.rm);
                    self.a.unary(Unary::Neg, w, t);
                    return self.put(i.rd, t);
                }
                _ => {}
            }
        }
        if sets == Sets::Logic && i.rd == crate::insn::SINK {
            let n = self.get(w, i.rn, r::RAX);
            if i.rn == i.rm {
                self.a.test(w, n, n);
            } else {
                self.a.test(w, self.rm(i.rm), n);
            }
            return self.flags_of(i, w, sets, Second::Reg(i.rm));
        }
        if op == Alu::Add && sets == Sets::Nothing && i.rd != i.rn {
            let n = self.get(w, i.rn, r::RAX);
            let m = self.get(w, i.rm, r::RCX);
            let t = self.target(i.rd, &[]);
            self.a.lea(w, t, Mem::indexed(n, m, 0, 0));
            return self.put(i.rd, t);
        }
        let b = self.rm(i.rm);
        self.op(i, w, op, b, Second::Reg(i.rm), sets);
    }

    fn op_extended(&mut self, i: &Insn, w: bool, op: Alu, sets: Sets) {
        let c = r::RCX;
        let m = self.rm(i.rm);
        match i.bits(13, 3) {
            0 => self.a.load_zx(0, c, m),
            1 => self.a.load_zx(1, c, m),
            2 => self.a.load_zx(2, c, m),
            4 => self.a.load_sx(0, true, c, m),
            5 => self.a.load_sx(1, true, c, m),
            6 => self.a.load_sx(2, true, c, m),
            _ => self.a.mov(true, c, m),
        }
        if i.aux != 0 {
            self.a.shift(Shift::Shl, true, c, i.aux & 7);
        }
        self.op(i, w, op, c.into(), Second::Gone, sets);
    }

    fn carry(&mut self, i: &Insn, w: bool, op: Alu, sets: bool) {
        self.carry_get(op == Alu::Sbb);
        let t = self.target(i.rd, if i.rd == i.rn { &[] } else { std::slice::from_ref(&i.rm) });
        // Moves leave the carry alone.
        self.get_into(w, t, i.rn);
        let m = self.rm(i.rm);
        self.a.alu(op, w, t, m);
        self.put(i.rd, t);
        if sets {
            self.flags_set(if op == Alu::Adc { Fix::Invert } else { Fix::Nothing }, None);
        }
    }

    fn cond_compare(&mut self, i: &Insn, w: bool) {
        let sub = matches!(i.op, Op::CCMP_imm | Op::CCMP_reg);
        let is_imm = matches!(i.op, Op::CCMN_imm | Op::CCMP_imm);
        let cc = self.flags_for(i.aux);
        let (no, end) = (self.a.label(), self.a.label());
        if let Some(cc) = cc {
            self.a.jcc(cc.inverse(), no);
        }
        let (op, n) = if sub {
            (Alu::Cmp, self.get(w, i.rn, r::RAX))
        } else {
            self.get_into(w, r::RAX, i.rn);
            (Alu::Add, r::RAX)
        };
        if is_imm {
            self.a.alu_i(op, w, n, i32::from(i.rm));
        } else {
            let m = self.rm(i.rm);
            self.a.alu(op, w, n, m);
        }
        if !sub {
            self.a.cmc();
        }
        if cc.is_some() {
            self.a.jmp(end);
            self.a.bind(no);
            self.constant_flags(i.imm as u32);
            self.a.bind(end);
        }
        self.flags_set(Fix::Nothing, None);
    }

    /// EFLAGS as after a subtraction with these flags. Uses RAX.
    fn constant_flags(&mut self, f: u32) {
        use crate::state::nzcv::{C, N, V, Z};
        if f & V != 0 || f & (N | Z) == N | Z {
            self.a.mov_i(r::RAX, super::layout::flags16(f).into());
            self.a.alu8_i(Alu::Add, r::RAX, 0x7f);
            return self.a.sahf();
        }
        let value = if f & N != 0 { u64::MAX } else { u64::from(f & Z == 0) };
        self.a.mov_i(r::RAX, value);
        self.a.test(true, r::RAX, r::RAX);
        if f & C == 0 {
            self.a.stc();
        }
    }

    fn select(&mut self, i: &Insn, w: bool) {
        let Some(cc) = self.flags_for(i.aux) else {
            let t = self.target(i.rd, &[]);
            self.get_into(w, t, i.rn);
            return self.put(i.rd, t);
        };
        if i.op == Op::CSINC && i.rn == ZR && i.rm == ZR {
            // CSET
            self.a.set(cc.inverse(), r::RAX);
            self.a.load_zx(0, r::RAX, r::RAX);
            return self.put(i.rd, r::RAX);
        }
        let t = self.target(i.rd, &[i.rn]);
        match i.op {
            Op::CSEL => self.get_for(w, t, i.rm),
            Op::CSINC => {
                if i.rm == ZR {
                    self.a.mov_i(t, 1);
                } else {
                    let m = self.get(w, i.rm, r::RCX);
                    self.a.lea(w, t, Mem::at(m, 1));
                }
            }
            Op::CSINV => {
                self.get_for(w, t, i.rm);
                self.a.unary(Unary::Not, w, t);
            }
            _ => {
                self.get_for(w, t, i.rm);
                self.a.unary(Unary::Not, w, t);
                self.a.lea(w, t, Mem::at(t, 1));
            }
        }
        let n = self.rm(i.rn);
        self.a.cmov(cc, w, t, n);
        self.put(i.rd, t);
    }

    fn multiply(&mut self, i: &Insn, w: bool) {
        let sub = i.op == Op::MSUB;
        if i.ra == ZR && !sub {
            let t = self.target(i.rd, if i.rd == i.rn { &[] } else { std::slice::from_ref(&i.rm) });
            self.get_for(w, t, i.rn);
            let m = self.rm(i.rm);
            self.a.imul(w, t, m);
            return self.put(i.rd, t);
        }
        self.get_into(w, r::RAX, i.rn);
        let m = self.rm(i.rm);
        self.a.imul(w, r::RAX, m);
        self.accumulate(i, w, sub);
    }

    /// `rd = ra +- rax`.
    fn accumulate(&mut self, i: &Insn, w: bool, sub: bool) {
        if i.ra == ZR && !sub {
            return self.put(i.rd, r::RAX);
        }
        if sub {
            self.get_into(w, r::RCX, i.ra);
            self.a.alu(Alu::Sub, w, r::RCX, r::RAX);
            self.put(i.rd, r::RCX);
        } else {
            let a = self.rm(i.ra);
            self.a.alu(Alu::Add, w, r::RAX, a);
            self.put(i.rd, r::RAX);
        }
    }

    fn multiply_long(&mut self, i: &Insn) {
        let signed = matches!(i.op, Op::SMADDL | Op::SMSUBL);
        let (n, m) = (self.rm(i.rn), self.rm(i.rm));
        if signed {
            self.a.load_sx(2, true, r::RAX, n);
            self.a.load_sx(2, true, r::RCX, m);
        } else {
            self.a.load_zx(2, r::RAX, n);
            self.a.load_zx(2, r::RCX, m);
        }
        self.a.imul(true, r::RAX, r::RCX);
        self.accumulate(i, true, matches!(i.op, Op::SMSUBL | Op::UMSUBL));
    }

    fn multiply_high(&mut self, i: &Insn) {
        let m = self.rm(i.rm);
        if i.op == Op::UMULH {
            self.get_into(true, r::RDX, i.rn);
            let t = self.target(i.rd, &[]);
            self.a.mulx(true, t, r::RCX, m);
            self.put(i.rd, t);
        } else {
            self.get_into(true, r::RAX, i.rn);
            self.a.unary(Unary::Imul, true, m);
            self.put(i.rd, r::RDX);
        }
    }

    fn divide(&mut self, i: &Insn, w: bool) {
        let (zero, minus, done) = (self.a.label(), self.a.label(), self.a.label());
        let c: Reg = r::RCX;
        self.get_into(w, c, i.rm);
        self.get_into(w, r::RAX, i.rn);
        self.a.test(w, c, c);
        self.a.jcc(Cc::E, zero);
        if i.op == Op::SDIV {
            self.a.alu_i(Alu::Cmp, w, c, -1);
            self.a.jcc(Cc::E, minus);
            self.a.cqo(w);
            self.a.unary(Unary::Idiv, w, c);
            self.a.jmp(done);
            self.a.bind(minus);
            self.a.unary(Unary::Neg, w, r::RAX);
        } else {
            self.a.mov_i(r::RDX, 0);
            self.a.unary(Unary::Div, w, c);
        }
        self.a.jmp(done);
        self.a.bind(zero);
        self.a.mov_i(r::RAX, 0);
        self.a.bind(done);
        self.put(i.rd, r::RAX);
    }
}
