//! Semantics of the instructions, a module for each file of the decode table.

pub mod atomic;
pub mod branch;
mod crc32;
pub mod crypto;
pub mod dp_imm;
pub mod dp_reg;
pub mod fp_data;
pub mod fp_int;
mod fp_op;
pub mod hint;
pub mod ldst;
pub mod ldst_ex;
mod operand;
pub mod pauth;
pub mod simd_fp_elem;
pub mod simd_fp_misc;
pub mod simd_fp_same;
pub mod simd_int;
pub mod simd_int_elem;
pub mod simd_int_long;
pub mod simd_int_shift;
pub mod simd_ldst;
pub mod simd_misc;
mod simd_operand;
pub mod system;
