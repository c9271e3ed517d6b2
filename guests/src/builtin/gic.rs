//! Both interrupt controllers, chosen by `shared::GIC`: GICv3 through its system registers, GICv2 through GICC.

use super::{board, shared, slot};
use crate::asm::{Asm, reg};
use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};
use ulna_arm_regs::SysReg::*;

pub fn emit(asm: &mut Asm) {
    let (gicd, gicc, gicr, gicr_high) = (board::GICD, board::GICC, board::GICR, board::GICR_HIGH);
    let enable = 1u64 << board::SGI | 1 << board::VIRTUAL_TIMER;
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        // gic_dist_init: once, by the first CPU.
        ; ->gic_dist_init:
        ; ldr x1, >gicd
        ; adr x2, ->shared
        ; ldr x2, [x2, shared::GIC]
        ; cmp x2, 3
        ; b.ne >v2
        // GICv3: affinity routing first, then group 1 (IHI 0069 12.9.4).
        ; mov w3, 0x10
        ; str w3, [x1]
        ; mov w3, 0x12
        ; str w3, [x1]
        ; ret
        ; v2:
        ; mov w3, 1
        ; str w3, [x1]
        ; ret

        // gic_cpu_init: on every CPU. x0 = 0 if its redistributor was not found, else 1. Clobbers x1..x7.
        ; ->gic_cpu_init:
        ; mrs x7, reg(TPIDR_EL1)
        ; adr x2, ->shared
        ; ldr x2, [x2, shared::GIC]
        ; cmp x2, 3
        ; b.ne >cpu_v2
        // Find the frame whose GICR_TYPER[63:32] is this CPU's affinity; the last of a region has bit 4 set.
        ; ldr x6, [x7, slot::AFFINITY]
        ; and x5, x6, 0xffffff
        ; lsr x6, x6, 32
        ; bfi x5, x6, 24, 8
        ; ldr x1, >gicr
        ; frame:
        ; ldr x3, [x1, 8]
        ; lsr x4, x3, 32
        ; cmp x4, x5
        ; b.eq >found
        ; tbnz x3, 4, >region_end
        ; add x1, x1, 0x20, lsl 12
        ; b <frame
        ; region_end:
        ; ldr x4, >gicr_high
        ; cmp x1, x4
        ; b.hs >missing
        // Only a board with many CPUs has the second region; an exception tells that this one has not.
        ; mov x3, 1
        ; str x3, [x7, slot::PROBE]
        ; mov x1, x4
        ; ldr w3, [x1]
        ; ldr x3, [x7, slot::PROBE]
        ; str xzr, [x7, slot::PROBE]
        ; cmp x3, 1
        ; b.eq <frame
        ; missing:
        ; mov x0, 0
        ; ret
        ; found:
        // Wake it: clear ProcessorSleep, wait for ChildrenAsleep.
        ; ldr w3, [x1, 0x14]
        ; and w3, w3, 0xfffffffd
        ; str w3, [x1, 0x14]
        ; asleep:
        ; ldr w3, [x1, 0x14]
        ; tbnz w3, 2, <asleep
        ; add x1, x1, 0x10, lsl 12
        // All SGIs and PPIs in group 1.
        ; movn w3, 0
        ; str w3, [x1, 0x80]
        ; mov w3, 0x80
        ; strb w3, [x1, 0x400 + board::SGI]
        ; strb w3, [x1, 0x400 + board::VIRTUAL_TIMER]
        ; ldr x3, >enable
        ; str w3, [x1, 0x100]
        ; mrs x3, reg(ICC_SRE_EL1)
        ; orr x3, x3, 7
        ; msr reg(ICC_SRE_EL1), x3
        ; isb
        ; mov x3, 0xff
        ; msr reg(ICC_PMR_EL1), x3
        ; msr reg(ICC_BPR1_EL1), xzr
        ; mov x3, 1
        ; msr reg(ICC_IGRPEN1_EL1), x3
        ; isb
        ; mov x0, 1
        ; ret

        ; cpu_v2:
        ; ldr x1, >gicd
        ; mov w3, 0x80
        ; strb w3, [x1, 0x400 + board::SGI]
        ; strb w3, [x1, 0x400 + board::VIRTUAL_TIMER]
        ; ldr x3, >enable
        ; str w3, [x1, 0x100]
        // GICD_ITARGETSR0 reads as the reading CPU's own bit.
        ; ldrb w3, [x1, 0x800]
        ; str x3, [x7, slot::TARGET]
        ; ldr x1, >gicc
        ; mov w3, 0xff
        ; str w3, [x1, 4]
        ; mov w3, 1
        ; str w3, [x1]
        ; mov x0, 1
        ; ret

        // gic_sgi: sends the SGI to the CPU whose slot is x0. Clobbers x0..x3.
        ; ->gic_sgi:
        ; dsb sy
        ; adr x2, ->shared
        ; ldr x2, [x2, shared::GIC]
        ; cmp x2, 3
        ; b.ne >sgi_v2
        ; ldr x1, [x0, slot::AFFINITY]
        // ICC_SGI1R_EL1: target list 15:0 of Aff0 & 15, Aff1 23:16, INTID 27:24, Aff2 39:32, RS 47:44, Aff3 55:48.
        ; and x2, x1, 15
        ; mov x3, 1
        ; lsl x3, x3, x2
        ; ubfx x2, x1, 4, 4
        ; bfi x3, x2, 44, 4
        ; ubfx x2, x1, 8, 8
        ; bfi x3, x2, 16, 8
        ; ubfx x2, x1, 16, 8
        ; bfi x3, x2, 32, 8
        ; ubfx x2, x1, 32, 8
        ; bfi x3, x2, 48, 8
        ; mov x2, board::SGI as u64
        ; bfi x3, x2, 24, 4
        ; msr reg(ICC_SGI1R_EL1), x3
        ; isb
        ; ret
        ; sgi_v2:
        ; ldr x1, [x0, slot::TARGET]
        ; lsl x1, x1, 16
        ; add x1, x1, board::SGI
        ; ldr x2, >gicd
        ; str w1, [x2, 0xf00]
        ; ret

        // gic_acknowledge: x0 = what IAR reads. Clobbers x1, x2.
        ; ->gic_acknowledge:
        ; adr x2, ->shared
        ; ldr x2, [x2, shared::GIC]
        ; cmp x2, 3
        ; b.ne >ack_v2
        ; mrs x0, reg(ICC_IAR1_EL1)
        ; dsb sy
        ; ret
        ; ack_v2:
        ; ldr x1, >gicc
        ; ldr w0, [x1, 0xc]
        ; ret

        // gic_end: ends the interrupt whose IAR value is x0. Clobbers x1, x2.
        ; ->gic_end:
        ; adr x2, ->shared
        ; ldr x2, [x2, shared::GIC]
        ; cmp x2, 3
        ; b.ne >end_v2
        ; msr reg(ICC_EOIR1_EL1), x0
        ; isb
        ; ret
        ; end_v2:
        ; ldr x1, >gicc
        ; str w0, [x1, 0x10]
        ; ret

        ; .align 8
        ; gicd:
        ; .u64 gicd
        ; gicc:
        ; .u64 gicc
        ; gicr:
        ; .u64 gicr
        ; gicr_high:
        ; .u64 gicr_high
        ; enable:
        ; .u64 enable
    );
}
