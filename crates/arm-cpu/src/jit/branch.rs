//! Branches, and the system instructions that need no handler.

use super::asm::{Alu, Cc, Mem, Rm, Shift, Unary, r};
use super::layout;
use super::translate::{Block, mode};
use crate::decode::Op;
use crate::insn::{Insn, ZR};
use crate::{Feat, SysReg};

const LR: u8 = 30;

impl Block<'_> {
    /// Translates a branch: `Some(true)` with all its exits; `None` if it is none.
    pub fn branch(&mut self, i: &Insn) -> Option<bool> {
        use Op::*;
        let pc = self.pc();
        let target = pc.wrapping_add(i.imm);
        match i.op {
            B => self.go(target),
            BL => {
                self.put_i(LR, pc.wrapping_add(4));
                self.go(target);
            }
            B_cond | BC_cond => {
                self.flags_before_branch(target);
                match self.flags_for(i.rd & 15) {
                    Some(cc) => self.two_ways(cc, target),
                    None => self.go(target),
                }
            }
            CBZ | CBNZ => {
                self.flags_before_branch(target);
                let w = i.bit(31);
                match self.rm(i.rd) {
                    Rm::R(n) => self.a.test(w, n, n),
                    m => self.a.alu_i(Alu::Cmp, w, m, 0),
                }
                self.two_ways(if i.op == CBZ { Cc::E } else { Cc::Ne }, target);
            }
            TBZ | TBNZ => {
                self.flags_before_branch(target);
                let bit = i.aux & 63;
                let rm = self.rm(i.rd);
                let zero = i.op == TBZ;
                if bit < 8 && matches!(rm, Rm::M(_)) {
                    self.a.test8_i(rm, 1 << bit);
                    self.two_ways(if zero { Cc::E } else { Cc::Ne }, target);
                } else {
                    self.a.bt_i(bit >= 32, rm, bit);
                    self.two_ways(if zero { Cc::Ae } else { Cc::B }, target);
                }
            }
            RET => {
                self.flags_out();
                self.get_into(true, r::RAX, i.rn);
                self.go_indirect();
            }
            BR => {
                self.flags_out();
                self.get_into(true, r::RAX, i.rn);
                if self.features.has(Feat::BTI) {
                    // As the interpreter's `set_btype_jump`.
                    let safe = i.rn == 16 || i.rn == 17 || self.mode & mode::GUARDED == 0;
                    self.go_to_target(if safe { 1 } else { 3 });
                } else {
                    self.go_indirect();
                }
            }
            BLR => {
                self.flags_out();
                self.get_into(true, r::RAX, i.rn);
                let next = pc.wrapping_add(4);
                match layout::pin(LR) {
                    Some(p) => self.a.mov_i(p, next),
                    None => {
                        self.a.mov_i(r::RCX, next);
                        self.a.store(3, layout::x(LR), r::RCX);
                    }
                }
                if self.features.has(Feat::BTI) {
                    self.go_to_target(2);
                } else {
                    self.go_indirect();
                }
            }
            _ => return None,
        }
        Some(true)
    }

    /// To the target when the condition of the host holds, else to the next instruction.
    fn two_ways(&mut self, cc: Cc, target: u64) {
        self.go_if(cc, target);
        let next = self.pc().wrapping_add(4);
        self.go(next);
    }

    /// Hints, barriers, registers that are plain memory.
    pub fn system(&mut self, i: &Insn) -> bool {
        use Op::*;
        match i.op {
            NOP | HINT | YIELD_ | DGH | PSB | TSB | CSDB | CLRBHB | BTI | SB | PRFM_imm | PRFM_reg
            | PRFM_lit | PRFUM => {}
            DMB => {
                // Loads and stores stay in order by themselves; only a store may be passed by a later load.
                if i.bits(8, 2) & 3 != 1 && i.bits(8, 2) & 3 != 2 {
                    self.a.fence();
                }
            }
            // Hints, without the feature.
            PACIASP | PACIBSP | AUTIASP | AUTIBSP | PACIAZ | PACIBZ | AUTIAZ | AUTIBZ | PACIA1716
            | PACIB1716 | AUTIA1716 | AUTIB1716 | XPACLRI
                if !self.features.has(Feat::PAuth) => {}
            DSB => {
                let (slow, back) = self.slow_path(i);
                self.a.alu8_i(Alu::Cmp, layout::WAITS, 0);
                self.a.jcc(Cc::Ne, slow);
                self.a.fence();
                self.a.bind(back);
            }
            // Blocks end there; what changed their code or translation has invalidated them already.
            ISB => {}
            MSR_imm if self.mode & mode::EL1 != 0 && i.bits(16, 3) == 3 && i.bits(5, 3) & 6 == 6 => {
                // DAIFSet, DAIFClr.
                let bits = (i.bits(8, 4) << 6) as i32;
                let set = i.bits(5, 3) == 6;
                let op = if set { Alu::Or } else { Alu::And };
                self.a.alu_i(op, false, layout::DAIF, if set { bits } else { !bits });
                self.a.mov(false, r::RCX, layout::DAIF);
                self.masks_changed(!set);
            }
            CLREX => self.a.store8_i(layout::monitor::ARMED, 0),
            MRS => return self.read_register(i),
            MSR_reg => match SysReg::ALL.get(i.imm as usize) {
                Some(SysReg::TPIDR_EL0) => {
                    self.get_into(true, r::RAX, i.rd);
                    self.a.store(3, layout::sys(SysReg::TPIDR_EL0), r::RAX);
                }
                Some(SysReg::DAIF) if self.mode & mode::EL1 != 0 => {
                    self.get_into(false, r::RCX, i.rd);
                    self.a.alu_i(Alu::And, false, r::RCX, 0x3c0);
                    self.a.store(2, layout::DAIF, r::RCX);
                    self.masks_changed(true);
                }
                Some(r @ (SysReg::ELR_EL1 | SysReg::TPIDR_EL1)) if self.mode & mode::EL1 != 0 => {
                    self.get_into(true, r::RAX, i.rd);
                    self.a.store(3, layout::sys(*r), r::RAX);
                }
                Some(SysReg::SPSR_EL1) if self.mode & mode::EL1 != 0 => {
                    self.get_into(false, r::RAX, i.rd);
                    self.a.store(3, layout::sys(SysReg::SPSR_EL1), r::RAX);
                }
                Some(SysReg::SP_EL0) if self.mode & mode::EL1 != 0 => {
                    let (slow, back) = self.slow_path(i);
                    self.a.alu8_i(Alu::Cmp, layout::SPSEL, 0);
                    self.a.jcc(Cc::E, slow);
                    self.get_into(true, r::RAX, i.rd);
                    self.a.store(3, layout::SP_EL0, r::RAX);
                    self.a.bind(back);
                }
                _ => return false,
            },
            _ => return false,
        }
        true
    }

    /// ECX is what PSTATE.DAIF became. Interrupts that are not masked any more are taken before the next instruction.
    fn masks_changed(&mut self, may_unmask: bool) {
        self.a.shift(Shift::Shr, false, r::RCX, 6);
        self.a.mov(false, r::RCX, Mem { index: Some((r::RCX, 2)), ..layout::ATTENTION_OF });
        self.a.store(2, layout::ATTENTION, r::RCX);
        if may_unmask {
            let out = self.leave_at(self.pc().wrapping_add(4));
            self.look_at_lines(out);
        }
    }

    fn read_register(&mut self, i: &Insn) -> bool {
        let el1 = self.mode & mode::EL1 != 0;
        let plain = match SysReg::ALL.get(i.imm as usize) {
            Some(r @ (SysReg::TPIDR_EL0 | SysReg::TPIDRRO_EL0)) => *r,
            Some(
                r @ (SysReg::TPIDR_EL1
                | SysReg::ELR_EL1
                | SysReg::SPSR_EL1
                | SysReg::ESR_EL1
                | SysReg::FAR_EL1
                | SysReg::SCTLR_EL1
                | SysReg::TTBR0_EL1
                | SysReg::TTBR1_EL1
                | SysReg::TCR_EL1),
            ) if el1 => *r,
            Some(r @ (SysReg::CNTVCT_EL0 | SysReg::CNTVCTSS_EL0))
                if *r == SysReg::CNTVCT_EL0 || self.features.has(Feat::ECV) =>
            {
                self.read_counter(i, el1);
                return true;
            }
            Some(SysReg::DCZID_EL0) => {
                let (slow, back) = self.slow_path(i);
                if !el1 {
                    // SCTLR_EL1.DZE; without it the handler sets DZP.
                    self.a.test8_i(layout::sys(SysReg::SCTLR_EL1).plus(1), 1 << (14 - 8));
                    self.a.jcc(Cc::E, slow);
                }
                self.put_i(i.rd, self.dczid);
                self.forget(i.rd);
                self.a.bind(back);
                return true;
            }
            Some(SysReg::DAIF) if el1 => {
                let t = self.target(i.rd, &[]);
                self.a.mov(false, t, layout::DAIF);
                self.put(i.rd, t);
                return true;
            }
            Some(SysReg::SP_EL0) if el1 => {
                let (slow, back) = self.slow_path(i);
                self.a.alu8_i(Alu::Cmp, layout::SPSEL, 0);
                self.a.jcc(Cc::E, slow);
                self.load_x(i.rd, layout::SP_EL0);
                self.a.bind(back);
                return true;
            }
            _ => return false,
        };
        self.load_x(i.rd, layout::sys(plain));
        true
    }

    /// CNTVCT_EL0 by the host's time stamp counter (see [`crate::host::tsc::TscSegment`]); the handler knows what comes after.
    fn read_counter(&mut self, i: &Insn, el1: bool) {
        let (slow, back) = self.slow_path(i);
        if !el1 {
            // CNTKCTL_EL1.EL0VCTEN
            self.a.test8_i(layout::sys(SysReg::CNTKCTL_EL1), 2);
            self.a.jcc(Cc::E, slow);
        }
        self.a.rdtsc();
        self.a.shift(Shift::Shl, true, r::RDX, 32);
        self.a.alu(Alu::Or, true, r::RAX, r::RDX);
        self.a.alu(Alu::Sub, true, r::RAX, layout::CLOCK_START);
        self.a.alu(Alu::Cmp, true, r::RAX, layout::CLOCK_LEN);
        self.a.jcc(Cc::Ae, slow);
        self.a.unary(Unary::Mul, true, layout::CLOCK_MULT);
        self.a.alu(Alu::Add, true, r::RAX, layout::CLOCK_BASE);
        self.a.alu(Alu::Adc, true, r::RDX, layout::CLOCK_BASE.plus(8));
        const { assert!(crate::host::tsc::TSC_SHIFT == 32) };
        self.a.shrd(true, r::RAX, r::RDX, 32);
        self.a.alu(Alu::Sub, true, r::RAX, layout::CNTVOFF);
        self.put(i.rd, r::RAX);
        self.a.bind(back);
    }

    fn load_x(&mut self, rd: u8, m: super::asm::Mem) {
        if rd == ZR {
            return;
        }
        let t = self.target(rd, &[]);
        self.a.mov(true, t, m);
        self.put(rd, t);
    }
}
