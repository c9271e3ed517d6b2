//! The assembler's bookkeeping: system register operands and a pool of strings and tables behind the code.

use dynasmrt::aarch64::Aarch64Relocation;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, VecAssembler};
use ulna_arm_regs::SysReg;

/// The 15-bit operand of MRS and MSR: the packed encoding without the top bit of op0, which is always 1.
pub const fn reg(r: SysReg) -> u32 {
    (r.code() & 0x7fff) as u32
}

/// A program being assembled.
pub struct Asm {
    /// Where the code goes.
    pub ops: VecAssembler<Aarch64Relocation>,
    pool: Vec<(DynamicLabel, Vec<u8>)>,
}

impl Asm {
    /// An empty program.
    pub fn new() -> Asm {
        Asm { ops: VecAssembler::new(0), pool: Vec::new() }
    }

    /// Bytes that will lie behind the code, 4-byte aligned.
    pub fn data(&mut self, bytes: Vec<u8>) -> DynamicLabel {
        if let Some((label, _)) = self.pool.iter().find(|(_, b)| *b == bytes) {
            return *label;
        }
        let label = self.ops.new_dynamic_label();
        self.pool.push((label, bytes));
        label
    }

    /// A string that ends with a zero byte.
    pub fn text(&mut self, s: &str) -> DynamicLabel {
        let mut b = s.as_bytes().to_vec();
        b.push(0);
        self.data(b)
    }

    /// Emits the pool. Nothing may be added to it afterwards.
    pub fn emit_pool(&mut self) {
        for (label, bytes) in std::mem::take(&mut self.pool) {
            self.ops.align(4, 0);
            self.ops.dynamic_label(label);
            self.ops.extend(bytes.iter());
        }
    }
}
