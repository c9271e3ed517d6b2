//! The exception vectors: interrupts are counted in the CPU's slot; a synchronous exception is skipped if the program
//! expects it and is the end otherwise.

use super::{board, print::say, shared, slot};
use crate::asm::{Asm, reg};
use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};
use ulna_arm_regs::SysReg::*;

pub fn emit(asm: &mut Asm) {
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        // Arm ARM D1.4.1.2: four groups of four, 0x80 bytes each; only "current EL with SP_ELx" is used.
        ; .align 2048
        ; ->vectors:
    );
    for entry in 0..16 {
        match entry {
            4 => dynasm!(ops ; .arch aarch64 ; b ->sync),
            5 => dynasm!(ops ; .arch aarch64 ; b ->irq),
            _ => dynasm!(ops ; .arch aarch64 ; b ->unexpected),
        }
        dynasm!(ops ; .arch aarch64 ; .align 128);
    }
    dynasm!(ops
        ; .arch aarch64
        ; ->sync:
        ; stp x0, x1, [sp, -16]!
        ; mrs x0, reg(TPIDR_EL1)
        ; ldr x1, [x0, slot::PROBE]
        ; cmp x1, 1
        ; b.ne ->unexpected
        ; mov x1, 2
        ; str x1, [x0, slot::PROBE]
        // An undefined HVC or MRS leaves ELR at itself; go on behind it.
        ; mrs x1, reg(ELR_EL1)
        ; add x1, x1, 4
        ; msr reg(ELR_EL1), x1
        ; ldp x0, x1, [sp], 16
        ; eret

        ; ->irq:
        ; stp x0, x1, [sp, -48]!
        ; stp x2, x3, [sp, 16]
        ; stp x4, x30, [sp, 32]
        ; bl ->gic_acknowledge
        ; mov x4, x0
        ; mrs x1, reg(TPIDR_EL1)
        ; and x2, x4, 0x3ff
        ; mov x3, slot::OTHER as u64
        ; cmp x2, board::VIRTUAL_TIMER
        ; b.ne >not_timer
        // Level-triggered: quiet the timer before the end of interrupt.
        ; msr reg(CNTV_CTL_EL0), xzr
        ; isb
        ; mov x3, slot::TIMER as u64
        ; not_timer:
        ; cmp x2, board::SGI
        ; b.ne >not_sgi
        ; mov x3, slot::SGI as u64
        ; not_sgi:
        ; ldr x0, [x1, x3]
        ; add x0, x0, 1
        ; str x0, [x1, x3]
        // 1020..1023: nothing was pending any more, there is nothing to end.
        ; cmp x2, 1020
        ; b.hs >spurious
        ; mov x0, x4
        ; bl ->gic_end
        ; spurious:
        ; ldp x4, x30, [sp, 32]
        ; ldp x2, x3, [sp, 16]
        ; ldp x0, x1, [sp], 48
        ; eret

        ; ->unexpected:
    );
    say(asm, "\r\nFAILED: exception, ESR_EL1 ");
    show(asm, reg(ESR_EL1));
    say(asm, " ELR_EL1 ");
    show(asm, reg(ELR_EL1));
    say(asm, " FAR_EL1 ");
    show(asm, reg(FAR_EL1));
    say(asm, "\r\n");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; adr x0, ->shared
        ; mov x1, 1
        ; str x1, [x0, shared::FAILED]
        ; b ->power_off
    );
}

fn show(asm: &mut Asm, register: u32) {
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; mrs x0, register
        ; mov x1, 1
        ; bl ->put_hex
    );
}
