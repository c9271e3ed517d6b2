//! Scenario H7: two CPUs switch a third on at the same moment, again and again. Needs three CPUs with affinities 0, 1 and 2,
//! PSCI 0.2 or newer, and the board's serial port; ends with SYSTEM_OFF.

use crate::asm::Asm;
use crate::builtin::print::{self, say};
use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};

/// Races that are run.
pub const ROUNDS: u32 = 60;

/// Offsets in the shared area: a word each. CPUs hand over by plain stores and `DMB`; the MMU is off.
mod at {
    /// The round that may begin, from 1 on.
    pub const GO: u32 = 0;
    /// The second CPU's last round, and its answer.
    pub const DONE: u32 = 8;
    pub const ANSWER: u32 = 16;
    /// What the third CPU found in x0 last, and how often it ran.
    pub const CONTEXT: u32 = 24;
    pub const RAN: u32 = 32;
    /// The second CPU is there.
    pub const READY: u32 = 40;
    /// The round that is over: the third CPU may go off, and not before, or the loser would win, too.
    pub const OVER: u32 = 48;
    pub const SIZE: u32 = 56;
}

/// The program. It says `races N: M lost as on, P as pending, W wrong`, then what went wrong is 0 or not.
pub fn race() -> Vec<u8> {
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
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; adr x26, ->shared
        ; add x1, x26, at::SIZE
        ; mov x0, x26
        ; clear:
        ; str xzr, [x0], 8
        ; cmp x0, x1
        ; b.lo <clear
        ; add x0, x26, 4095
        ; add x0, x0, 1
        ; mov sp, x0
        ; bl ->uart_init
        ; mov x19, 0 // round
        ; mov x20, 0 // lost as ALREADY_ON
        ; mov x21, 0 // lost as ON_PENDING
        ; mov x22, 0 // wrong
        ; mov x1, 1
        ; adr x2, ->second
        ; mov x3, 0
        ; bl ->cpu_on
        ; cbnz x0, ->wrong_end
        ; there:
        ; dmb sy
        ; ldr x0, [x26, at::READY]
        ; cbz x0, <there

        ; ->round:
        // Until the third is off.
        ; off:
        ; movz x0, 0xc400, lsl 16
        ; movk x0, 4
        ; mov x1, 2
        ; mov x2, 0
        ; hvc 0
        ; cmp x0, 1
        ; b.ne <off
        ; add x19, x19, 1
        ; dmb sy
        ; str x19, [x26, at::GO]
        ; mov x1, 2
        ; adr x2, ->third
        ; mov x3, x19
        ; bl ->cpu_on
        ; mov x23, x0
        ; other:
        ; dmb sy
        ; ldr x0, [x26, at::DONE]
        ; cmp x0, x19
        ; b.ne <other
        ; dmb sy
        ; ldr x24, [x26, at::ANSWER]
        // One is 0: swap so that it is x23.
        ; cbz x23, >mine
        ; mov x0, x23
        ; mov x23, x24
        ; mov x24, x0
        ; mine:
        ; cbnz x23, >wrong
        ; cmn x24, 4
        ; b.ne >not_on
        ; add x20, x20, 1
        ; b >ran
        ; not_on:
        ; cmn x24, 5
        ; b.ne >wrong
        ; add x21, x21, 1
        ; ran:
        // It ran once more, with this round's context.
        ; dmb sy
        ; ldr x0, [x26, at::RAN]
        ; cmp x0, x19
        ; b.lo <ran
        ; b.ne >wrong
        ; dmb sy
        ; ldr x0, [x26, at::CONTEXT]
        ; cmp x0, x19
        ; b.eq >next
        ; wrong:
        ; add x22, x22, 1
        ; next:
        ; dmb sy
        ; str x19, [x26, at::OVER]
        ; cmp x19, ROUNDS
        ; b.lo ->round
        ; b ->report
        ; ->wrong_end:
        ; mov x22, 1
        ; ->report:
    );
    for (text, register) in [("races ", 19), (": ", 20), (" lost as on, ", 21), (" as pending, ", 22)] {
        say(asm, text);
        let ops = &mut asm.ops;
        // The macro converts what X() is given.
        #[allow(clippy::useless_conversion)]
        {
            dynasm!(ops
                ; .arch aarch64
                ; mov x0, X(register)
                ; bl ->put_dec
            );
        }
    }
    say(asm, " wrong\r\n");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; movz x0, 0x8400, lsl 16
        ; movk x0, 8
        ; hvc 0
        ; stay:
        ; b <stay

        // CPU_ON of x1 at x2 with x3.
        ; ->cpu_on:
        ; movz x0, 0xc400, lsl 16
        ; movk x0, 3
        ; hvc 0
        ; ret

        // The second CPU: as soon as a round begins it tries, too.
        ; ->second:
        ; adr x26, ->shared
        ; mov x19, 0
        ; mov x0, 1
        ; str x0, [x26, at::READY]
        ; begin:
        ; add x19, x19, 1
        ; wait:
        ; dmb sy
        ; ldr x0, [x26, at::GO]
        ; cmp x0, x19
        ; b.ne <wait
        ; mov x1, 2
        ; adr x2, ->third
        ; mov x3, x19
        ; bl ->cpu_on
        ; str x0, [x26, at::ANSWER]
        ; dmb sy
        ; str x19, [x26, at::DONE]
        ; b <begin

        // The third CPU tells that it ran, and goes off.
        ; ->third:
        ; adr x26, ->shared
        ; str x0, [x26, at::CONTEXT]
        ; ldr x1, [x26, at::RAN]
        ; add x1, x1, 1
        ; dmb sy
        ; str x1, [x26, at::RAN]
        ; mov x2, x0
        ; not_over:
        ; dmb sy
        ; ldr x1, [x26, at::OVER]
        ; cmp x1, x2
        ; b.lo <not_over
        ; movz x0, 0x8400, lsl 16
        ; movk x0, 2
        ; hvc 0
        ; b ->third
    );
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_assembles() {
        let program = super::race();
        assert!(program.len() > 4096 && program.len() < 0x3000, "{}", program.len());
    }
}
