//! Counts twenty times a second and says so, with the time that its counter shows since it began: for ever.

use crate::asm::{Asm, reg};
use crate::builtin::print::{self, say};
use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};
use ulna_arm_regs::SysReg;

/// The program. It says `count N, T ms of guest time`; N is T / 50 as long as no time is lost.
pub fn counter() -> Vec<u8> {
    let mut asm = Asm::new();
    main(&mut asm);
    print::emit(&mut asm);
    asm.emit_pool();
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; .align 4096
        ; ->shared:
        ; .u64 0
    );
    asm.ops.finalize().unwrap_or_default()
}

fn main(asm: &mut Asm) {
    let (frequency, count) = (reg(SysReg::CNTFRQ_EL0), reg(SysReg::CNTVCT_EL0));
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; adr x26, ->shared
        ; add x0, x26, 4095
        ; add x0, x0, 1
        ; mov sp, x0
        ; bl ->uart_init
        ; mrs x22, frequency
        ; mov x1, 20
        ; udiv x20, x22, x1
        ; mrs x21, count
        ; mov x19, 0
        ; ->again:
        ; add x19, x19, 1
        ; mul x23, x19, x20
        ; wait:
        ; isb
        ; mrs x0, count
        ; sub x0, x0, x21
        ; cmp x0, x23
        ; b.lo <wait
        ; mov x24, x0
    );
    say(asm, "count ");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; mov x0, x19
        ; bl ->put_dec
    );
    say(asm, ", ");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; mov x1, 1000
        ; mul x0, x24, x1
        ; udiv x0, x0, x22
        ; bl ->put_dec
    );
    say(asm, " ms of guest time\n");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; b ->again
    );
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_assembles() {
        let program = super::counter();
        assert!(program.len() > 4096 && program.len() < 0x3000, "{}", program.len());
    }
}
