//! Which instructions use NZCV, for those that the translator knows; whatever may fault or leave counts as a reader.

use crate::decode::Op;
use crate::insn::Insn;

/// What an instruction does with the flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// Neither reads nor sets them, and cannot leave the block.
    Nothing,
    /// Sets all of them, reads none.
    Sets,
    /// Reads them, through EFLAGS when it comes next.
    Reads,
    /// Both.
    ReadsAndSets,
    /// They must stand in memory.
    Memory,
}

pub(super) fn use_of(i: &Insn) -> Use {
    use Op::*;
    match i.op {
        ADDS_imm | SUBS_imm | ANDS_imm | ADDS_shift | SUBS_shift | ANDS_shift | BICS_shift | ADDS_ext
        | SUBS_ext => Use::Sets,
        ADCS | SBCS | CCMN_imm | CCMN_reg | CCMP_imm | CCMP_reg => Use::ReadsAndSets,
        ADC | SBC | CSEL | CSINC | CSINV | CSNEG => Use::Reads,
        ADR | ADRP | ADD_imm | SUB_imm | AND_imm | ORR_imm | EOR_imm | MOVN | MOVZ | MOVK | SBFM | BFM
        | UBFM | EXTR | AND_shift | BIC_shift | ORR_shift | ORN_shift | EOR_shift | EON_shift | ADD_shift
        | SUB_shift | ADD_ext | SUB_ext | RBIT | REV16 | REV_w | REV32 | REV_x | CLZ | CLS | UDIV | SDIV
        | LSLV | LSRV | ASRV | RORV | MADD | MSUB | SMADDL | SMSUBL | SMULH | UMADDL | UMSUBL | UMULH
        | NOP | HINT | BTI | CSDB => Use::Nothing,
        _ => Use::Memory,
    }
}
