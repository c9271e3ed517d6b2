//! What every CPU does: set itself up, take a timer interrupt awake and one asleep, take an SGI.

use super::{print::say, shared, slot};
use crate::asm::{Asm, reg};
use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};
use ulna_arm_regs::SysReg::*;

pub fn emit(asm: &mut Asm) {
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        // PSCI CPU_ON enters here with the slot in x0.
        ; ->secondary:
        ; mov x19, x0
        ; bl ->cpu_setup
        ; bl ->cpu_test
        ; mov x20, x0
        ; dmb sy
        ; str x20, [x19, slot::DONE]
        ; dsb sy
        ; sev
        ; adr x0, ->shared
        ; ldr x0, [x0, shared::CPU_OFF]
        ; hvc 0
        // CPU_OFF does not come back.
        ; b ->unexpected

        // cpu_setup: slot in x0. Stack, vectors, TPIDR_EL1.
        ; ->cpu_setup:
        ; mov sp, x0
        ; msr reg(TPIDR_EL1), x0
        ; adr x1, ->vectors
        ; msr reg(VBAR_EL1), x1
        ; isb
        ; ret

        // cpu_test: prints one line about this CPU; slot in x19. x0 = 1 if all is well, 2 if not.
        ; ->cpu_test:
        ; stp x30, x20, [sp, -32]!
        ; str x21, [sp, 16]
    );
    say(asm, "cpu ");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; ldr x0, [x19, slot::AFFINITY]
        ; mov x1, 1
        ; bl ->put_hex
        // Its MIDR, where it is another core than the first CPU.
        ; mrs x20, reg(MIDR_EL1)
        ; adr x1, ->shared
        ; ldr x1, [x1, shared::MIDR]
        ; cmp x20, x1
        ; b.eq >as_first
    );
    say(asm, " MIDR ");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; mov x0, x20
        ; mov x1, 8
        ; bl ->put_hex
        ; as_first:
        ; mov x21, 1
        ; bl ->gic_cpu_init
        ; cbnz x0, >has_redist
    );
    say(asm, " FAILED: no redistributor");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; mov x21, 2
        ; b >timer_done
        ; has_redist:
        ; msr daifclr, 2
        // Awake: 1/256 s ahead, spin for at most 4 s until it was taken.
        ; mov x0, 8
        ; bl ->arm_timer
        ; mov x0, slot::TIMER as u64
        ; mov x1, 0
        ; bl ->wait_count
        ; cbnz x0, >awake_ok
    );
    say(asm, " FAILED: no timer interrupt");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; mov x21, 2
        ; b >timer_done
        ; awake_ok:
        // Asleep: WFI until the next one.
        ; str xzr, [x19, slot::TIMER]
        ; mov x0, 8
        ; bl ->arm_timer
        ; mov x0, slot::TIMER as u64
        ; mov x1, 1
        ; bl ->wait_count
        ; cbnz x0, >asleep_ok
    );
    say(asm, " FAILED: WFI did not wake for the timer");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; mov x21, 2
        ; b >timer_done
        ; asleep_ok:
    );
    say(asm, ": timer interrupt ok");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; timer_done:
        // The first CPU sends itself the SGI, the others are sent it by the first.
        ; mov x0, 1
        ; dmb sy
        ; str x0, [x19, slot::READY]
        ; dsb sy
        ; sev
        ; adr x0, ->shared
        ; add x0, x0, shared::BLOCKS >> 12, lsl 12
        ; add x0, x0, slot::BLOCK - slot::SIZE
        ; cmp x0, x19
        ; b.ne >wait_sgi
        ; bl ->gic_sgi
        ; wait_sgi:
        ; mov x0, slot::SGI as u64
        ; mov x1, 1
        ; bl ->wait_count
        ; cbnz x0, >sgi_ok
        ; mov x21, 2
    );
    say(asm, ", FAILED: no SGI");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; b >line_end
        ; sgi_ok:
    );
    say(asm, ", SGI ok");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; line_end:
    );
    say(asm, "\r\n");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; msr daifset, 2
        ; mov x0, x21
        ; ldr x21, [sp, 16]
        ; ldp x30, x20, [sp], 32
        ; ret

        // arm_timer: the virtual timer fires 1/2^x0 s from now.
        ; ->arm_timer:
        ; mrs x1, reg(CNTFRQ_EL0)
        ; lsr x1, x1, x0
        ; msr reg(CNTV_TVAL_EL0), x1
        ; mov x1, 1
        ; msr reg(CNTV_CTL_EL0), x1
        ; isb
        ; ret

        // deadline: x0 = the counter's value in 4 s.
        ; ->deadline:
        ; isb
        ; mrs x0, reg(CNTVCT_EL0)
        ; mrs x1, reg(CNTFRQ_EL0)
        ; add x0, x0, x1, lsl 2
        ; ret

        // wait_count: until the counter at slot + x0 is not 0; x1 = 1: sleep meanwhile, woken by the timer at least
        // 64 times a second. x0 = 0 if 4 s pass.
        ; ->wait_count:
        ; stp x30, x20, [sp, -32]!
        ; stp x22, x23, [sp, 16]
        ; add x20, x19, x0
        ; mov x23, x1
        ; bl ->deadline
        ; mov x22, x0
        ; poll:
        ; ldr x0, [x20]
        ; cbnz x0, >seen
        ; isb
        ; mrs x0, reg(CNTVCT_EL0)
        ; cmp x0, x22
        ; b.hs >late
        ; cbz x23, <poll
        // With interrupts masked none can slip in between the test and WFI.
        ; msr daifset, 2
        ; ldr x0, [x20]
        ; cbnz x0, >no_sleep
        ; mrs x0, reg(CNTV_CTL_EL0)
        ; tbnz x0, 0, >armed
        ; mov x0, 6
        ; bl ->arm_timer
        ; armed:
        ; wfi
        ; no_sleep:
        ; msr daifclr, 2
        ; isb
        ; b <poll
        ; late:
        ; mov x0, 0
        ; b >done
        ; seen:
        ; mov x0, 1
        ; done:
        ; ldp x22, x23, [sp, 16]
        ; ldp x30, x20, [sp], 32
        ; ret

        // wait_flag: until the word at x0 is not 0, sleeping in WFE. x0 = its value, 0 if 4 s pass.
        ; ->wait_flag:
        ; stp x30, x20, [sp, -32]!
        ; str x22, [sp, 16]
        ; mov x20, x0
        ; bl ->deadline
        ; mov x22, x0
        ; msr daifclr, 2
        ; look:
        ; ldr x0, [x20]
        ; cbnz x0, >set
        ; isb
        ; mrs x0, reg(CNTVCT_EL0)
        ; cmp x0, x22
        ; b.hs >never
        // The timer's interrupt ends WFE if no event does.
        ; mrs x0, reg(CNTV_CTL_EL0)
        ; tbnz x0, 0, >ticking
        ; mov x0, 6
        ; bl ->arm_timer
        ; ticking:
        ; wfe
        ; b <look
        ; never:
        ; mov x0, 0
        ; set:
        ; msr daifset, 2
        ; dmb sy
        ; ldr x22, [sp, 16]
        ; ldp x30, x20, [sp], 32
        ; ret
    );
}
