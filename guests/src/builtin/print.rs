//! Output on the PL011: characters, strings, numbers, registers with their fields.

use super::board;
use crate::asm::Asm;
use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};

/// Prints a string constant. Clobbers x0..x3, x30.
pub fn say(asm: &mut Asm, s: &str) {
    let label = asm.text(s);
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; adr x0, =>label
        ; bl ->puts
    );
}

pub fn emit(asm: &mut Asm) {
    let uart = board::UART;
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        // Enables the transmitter: UARTCR = UARTEN | TXE | RXE, FIFOs on, 8 bits.
        ; ->uart_init:
        ; ldr x2, >base
        ; mov w3, 0x70
        ; str w3, [x2, 0x2c]
        ; mov w3, 0x301
        ; str w3, [x2, 0x30]
        ; ret

        // putc: the character in w0. Waits while UARTFR.TXFF is set. Clobbers x2, x3.
        ; ->putc:
        ; ldr x2, >base
        ; wait:
        ; ldr w3, [x2, 0x18]
        ; tbnz w3, 5, <wait
        ; str w0, [x2]
        ; ret
        ; .align 8
        ; base:
        ; .u64 uart

        // puts: the string at x0. Clobbers x0..x3.
        ; ->puts:
        ; stp x19, x30, [sp, -16]!
        ; mov x19, x0
        ; next:
        ; ldrb w0, [x19], 1
        ; cbz w0, >end
        ; bl ->putc
        ; b <next
        ; end:
        ; ldp x19, x30, [sp], 16
        ; ret

        // put_hex: "0x" and the number in x0 without leading zeros, but at least x1 digits. Clobbers x0..x3.
        ; ->put_hex:
        ; stp x19, x30, [sp, -32]!
        ; stp x20, x21, [sp, 16]
        ; mov x19, x0
        ; mov x20, 60
        ; sub x21, x1, 1
        ; lsl x21, x21, 2
        ; mov w0, b'0' as u32
        ; bl ->putc
        ; mov w0, b'x' as u32
        ; bl ->putc
        ; digit:
        ; lsr x0, x19, x20
        ; cbnz x0, >show
        ; cmp x20, x21
        ; b.gt >skip
        ; show:
        ; and x0, x0, 15
        ; cmp x0, 10
        ; add x3, x0, 39
        ; csel x0, x0, x3, lo
        ; add x0, x0, 48
        ; bl ->putc
        ; skip:
        ; subs x20, x20, 4
        ; b.ge <digit
        ; ldp x20, x21, [sp, 16]
        ; ldp x19, x30, [sp], 32
        ; ret

        // put_dec: the number in x0. Clobbers x0..x3.
        ; ->put_dec:
        ; stp x19, x30, [sp, -48]!
        ; stp x20, x21, [sp, 16]
        ; add x19, sp, 48
        ; mov x20, 10
        ; again:
        ; udiv x1, x0, x20
        ; msub x2, x1, x20, x0
        ; add x2, x2, 48
        ; strb w2, [x19, -1]!
        ; mov x0, x1
        // At most 16 digits have room; nothing printed here is larger.
        ; add x21, sp, 32
        ; cmp x19, x21
        ; ccmp x0, 0, 4, hi
        ; b.ne <again
        ; out:
        ; ldrb w0, [x19], 1
        ; bl ->putc
        ; add x21, sp, 48
        ; cmp x19, x21
        ; b.lo <out
        ; ldp x20, x21, [sp, 16]
        ; ldp x19, x30, [sp], 48
        ; ret

        // show_reg: name at x0, value x1, fields at x2 (records: lsb, width, name, 0; width 0 ends). One line with the
        // value, then the fields that are not 0, eight on a line.
        ; ->show_reg:
        ; stp x19, x30, [sp, -48]!
        ; stp x20, x21, [sp, 16]
        ; str x22, [sp, 32]
        ; mov x19, x1
        ; mov x20, x2
        ; mov x21, 0
        ; bl ->puts
        ; mov w0, b' ' as u32
        ; bl ->putc
        ; mov x0, x19
        ; mov x1, 16
        ; bl ->put_hex
        ; field:
        ; ldrb w0, [x20], 1
        ; ldrb w1, [x20], 1
        ; cbz w1, >last
        ; lsr x22, x19, x0
        ; mov x2, 1
        ; lsl x2, x2, x1
        ; sub x2, x2, 1
        ; and x22, x22, x2
        ; cbz x22, >pass
        ; tst x21, 7
        ; b.ne >same_line
        ; adr x0, >indent
        ; bl ->puts
        ; same_line:
        ; add x21, x21, 1
        ; mov w0, b' ' as u32
        ; bl ->putc
        ; mov x0, x20
        ; bl ->puts
        ; mov w0, b'=' as u32
        ; bl ->putc
        ; mov x0, x22
        ; mov x1, 1
        ; bl ->put_hex
        ; pass:
        ; ldrb w0, [x20], 1
        ; cbnz w0, <pass
        ; b <field
        ; last:
        ; adr x0, >newline
        ; bl ->puts
        ; ldr x22, [sp, 32]
        ; ldp x20, x21, [sp, 16]
        ; ldp x19, x30, [sp], 48
        ; ret
        ; indent:
        ; .bytes b"\r\n   \0"
        ; newline:
        ; .bytes b"\r\n\0"
        ; .align 4
    );
}
