//! Semantics of the instructions, a module for each file of the decode table.

pub mod atomic;
pub mod branch;
mod crc32;
pub mod dp_imm;
pub mod dp_reg;
pub mod hint;
pub mod ldst;
pub mod ldst_ex;
mod operand;
pub mod pauth;
pub mod system;
