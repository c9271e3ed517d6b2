//! A program that makes calls from a table and leaves the answers there.
//!
//! Entered with x0 = the table. When it is through it stores the number of calls to the address that the table names, again
//! and again. It touches no other memory and no device, so it runs wherever there is RAM.

use crate::asm::{Asm, reg};
use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};
use ulna_arm_regs::SysReg::CNTVCT_EL0;

/// A table: one call after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// By `SMC` instead of `HVC`.
    pub smc: bool,
    /// x0 to x5 of each.
    pub calls: Vec<[u64; 6]>,
}

/// What a call left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// x0 to x3.
    pub x: [u64; 4],
    /// CNTVCT_EL0 before the call and after it.
    pub counter: [u64; 2],
}

/// Bytes of the head: number, address of the end, conduit.
const HEAD: usize = 24;
/// Bytes of a call: six arguments, then four results and two counters.
const CALL: usize = 96;
const ANSWER: usize = 48;

impl Calls {
    /// The table as it stands in memory; the end is told at `done`.
    pub fn bytes(&self, done: u64) -> Vec<u8> {
        let head = [self.calls.len() as u64, done, self.smc.into()];
        let mut b: Vec<u8> = head.iter().flat_map(|w| w.to_le_bytes()).collect();
        for c in &self.calls {
            b.extend(c.iter().flat_map(|w| w.to_le_bytes()));
            // Answers that nobody gives.
            b.extend([0xee; CALL - ANSWER]);
        }
        b
    }

    /// The answers, from the table's bytes.
    pub fn answers(table: &[u8]) -> Vec<Answer> {
        let answer = |c: &[u8]| {
            let mut words = c.chunks_exact(8).skip(6).map(|w| w.try_into().map_or(0, u64::from_le_bytes));
            let mut next = || words.next().unwrap_or(0);
            Answer { x: [next(), next(), next(), next()], counter: [next(), next()] }
        };
        table.get(HEAD..).unwrap_or_default().chunks_exact(CALL).map(answer).collect()
    }
}

/// The program.
pub fn calls() -> Vec<u8> {
    let mut asm = Asm::new();
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; mov x20, x0
        ; ldp x21, x22, [x20], 16
        ; ldr x23, [x20], 8
        ; mov x24, x21
        ; next:
        ; cbz x24, >through
        ; ldp x0, x1, [x20], 16
        ; ldp x2, x3, [x20], 16
        ; ldp x4, x5, [x20], 16
        ; isb
        ; mrs x25, reg(CNTVCT_EL0)
        ; cbnz x23, >by_smc
        ; hvc 0
        ; b >called
        ; by_smc:
        ; smc 0
        ; called:
        ; isb
        ; mrs x26, reg(CNTVCT_EL0)
        ; stp x0, x1, [x20], 16
        ; stp x2, x3, [x20], 16
        ; stp x25, x26, [x20], 16
        ; sub x24, x24, 1
        ; b <next
        ; through:
        ; str x21, [x22]
        ; b <through
    );
    asm.ops.finalize().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let table = Calls { smc: true, calls: vec![[1, 2, 3, 4, 5, 6], [7; 6]] };
        let mut b = table.bytes(0x1000);
        assert_eq!((b.len(), b[0], b[9], b[16]), (HEAD + 2 * CALL, 2, 0x10, 1));
        b[HEAD + CALL + ANSWER] = 0x55;
        let answers = Calls::answers(&b);
        assert_eq!(answers.len(), 2);
        assert_eq!(answers[0].x, [0xeeee_eeee_eeee_eeee; 4]);
        assert_eq!(answers[1].x[0] & 0xff, 0x55);
        assert_eq!(calls().len() % 4, 0);
        assert!(calls().len() > 80);
    }
}
