//! A decoded instruction and what its handler returns.

use crate::cpu::Cpu;
use crate::decode::Op;

/// What the run loop does after a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on with the next instruction.
    Next,
    /// PC was written, or the translation context changed: look the next block up.
    Jump,
}

/// The instruction did not complete: an exception or an exit is recorded in [`Cpu::stop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop;

/// Result of a handler: one byte.
pub type Exec = Result<Flow, Stop>;

/// A handler.
pub type Handler = fn(&mut Cpu, &Insn) -> Exec;

/// Index in `CpuState::x` that always reads zero (XZR).
pub const ZR: u8 = 31;
/// Index in `CpuState::x` for discarded results.
pub const SINK: u8 = 32;
/// Index in `CpuState::x` of the current stack pointer.
pub const SP: u8 = 33;

/// A decoded instruction.
///
/// `rd`, `rn`, `rm`, `ra` hold bits 4:0, 9:5, 20:16 and 14:10 unless the line's `prep` mapped them; as indices of
/// `CpuState::x` they may then also be [`SINK`] or [`SP`]. `imm` is zero unless `prep` filled it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Insn {
    /// Executes it.
    pub exec: Handler,
    /// An operand computed at decode.
    pub imm: u64,
    /// The instruction word.
    pub raw: u32,
    /// Which line of the table.
    pub op: Op,
    /// Bits 4:0.
    pub rd: u8,
    /// Bits 9:5.
    pub rn: u8,
    /// Bits 20:16.
    pub rm: u8,
    /// Bits 14:10.
    pub ra: u8,
    /// Ends a block.
    pub end: bool,
    /// Free for `prep`.
    pub aux: u8,
}

impl Insn {
    /// Bits `lo + n - 1 : lo` of the word.
    #[inline(always)]
    pub fn bits(&self, lo: u32, n: u32) -> u32 {
        (self.raw >> lo) & ((1u32 << n) - 1)
    }
    /// One bit of the word.
    #[inline(always)]
    pub fn bit(&self, n: u32) -> bool {
        self.raw >> n & 1 != 0
    }
    /// Bits as a signed number.
    #[inline(always)]
    pub fn sbits(&self, lo: u32, n: u32) -> i64 {
        (i64::from(self.raw) << (64 - lo - n)) >> (64 - n)
    }
}

impl std::fmt::Debug for Insn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}({:08x})", self.op, self.raw)
    }
}
