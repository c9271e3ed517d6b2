//! The little of the device tree that is needed: the `reg` of every `cpu@` node (Devicetree Specification 0.4, §5.4).

use super::shared;
use crate::asm::Asm;
use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};

pub fn emit(asm: &mut Asm) {
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        // be32: w0 = the big-endian word at x1, x1 += 4.
        ; ->be32:
        ; ldr w0, [x1], 4
        ; rev w0, w0
        ; ret

        // fdt_cpus: fills LIST from the tree at x0; x0 = how many, 0 without a tree. x28 = inside a cpu node.
        ; ->fdt_cpus:
        ; stp x19, x30, [sp, -48]!
        ; stp x20, x21, [sp, 16]
        ; stp x22, x28, [sp, 32]
        ; mov x21, 0
        ; cbz x0, >end
        ; tst x0, 3
        ; b.ne >end
        ; mov x19, x0
        ; mov x1, x0
        ; bl ->be32
        ; ldr w2, >magic
        ; cmp w0, w2
        ; b.ne >end
        // Header words 2 and 3: offsets of the structure block and of the strings block.
        ; add x1, x19, 8
        ; bl ->be32
        ; mov w22, w0
        ; bl ->be32
        ; add x20, x19, x0
        ; add x1, x19, x22
        ; adr x19, ->shared
        ; add x19, x19, shared::LIST
        ; mov x28, 0

        ; token:
        ; bl ->be32
        ; cmp w0, 1
        ; b.eq >begin
        ; cmp w0, 2
        ; b.eq >leave
        ; cmp w0, 3
        ; b.eq >prop
        ; cmp w0, 4
        ; b.eq <token
        ; end:
        ; mov x0, x21
        ; ldp x22, x28, [sp, 32]
        ; ldp x20, x21, [sp, 16]
        ; ldp x19, x30, [sp], 48
        ; ret

        ; leave:
        ; mov x28, 0
        ; b <token

        ; begin:
        // "cpu@" as a little-endian word; names lie on 4-byte boundaries.
        ; ldr w2, [x1]
        ; ldr w3, >cpu_at
        ; cmp w2, w3
        ; cset x28, eq
        ; name:
        ; ldrb w2, [x1], 1
        ; cbnz w2, <name
        ; add x1, x1, 3
        ; and x1, x1, 0xfffffffffffffffc
        ; b <token

        ; prop:
        ; bl ->be32
        ; mov w22, w0
        ; bl ->be32
        ; cbz x28, >skip
        ; add x2, x20, x0
        // "reg\0" byte by byte: strings are not aligned.
        ; ldrb w3, [x2]
        ; cmp w3, b'r' as u32
        ; b.ne >skip
        ; ldrb w3, [x2, 1]
        ; cmp w3, b'e' as u32
        ; b.ne >skip
        ; ldrb w3, [x2, 2]
        ; cmp w3, b'g' as u32
        ; b.ne >skip
        ; ldrb w3, [x2, 3]
        ; cbnz w3, >skip
        ; cmp x21, shared::MAX_CPUS
        ; b.hs >skip
        ; ldr w3, [x1]
        ; rev w3, w3
        ; cmp w22, 8
        ; b.ne >one_cell
        ; ldr w2, [x1, 4]
        ; rev w2, w2
        ; orr x3, x2, x3, lsl 32
        ; one_cell:
        ; str x3, [x19, x21, lsl 3]
        ; add x21, x21, 1
        ; skip:
        ; add x1, x1, x22
        ; add x1, x1, 3
        ; and x1, x1, 0xfffffffffffffffc
        ; b <token

        ; .align 4
        ; magic:
        ; .u32 0xd00d_feed
        ; cpu_at:
        ; .u32 u32::from_le_bytes(*b"cpu@")
    );
}
