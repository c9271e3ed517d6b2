//! Advanced SIMD: results wider or narrower than the operands (three registers of different types, two registers).

use super::simd_operand::{self as operand, handlers, source_half};
pub(crate) use super::simd_operand::{s2, s3, v_any, v2, v3};
use crate::cpu::Cpu;
use crate::crypto::poly;
use crate::insn::{Exec, Flow, Insn};
use crate::simd::{narrow, widen};

/// SHLL shifts by the width.
pub(crate) fn shll(i: &mut Insn) {
    v3(i);
    i.imm = 8 << i.bits(22, 2);
}

handlers! {
    long {
        saddl_v = widen::saddl;
        uaddl_v = widen::uaddl;
        ssubl_v = widen::ssubl;
        usubl_v = widen::usubl;
        sabal_v = widen::sabal;
        uabal_v = widen::uabal;
        sabdl_v = widen::sabdl;
        uabdl_v = widen::uabdl;
        smlal_v = widen::smlal;
        umlal_v = widen::umlal;
        smlsl_v = widen::smlsl;
        umlsl_v = widen::umlsl;
        smull_v = widen::smull;
        umull_v = widen::umull;
        sqdmlal_v = widen::sqdmlal;
        sqdmlsl_v = widen::sqdmlsl;
        sqdmull_v = widen::sqdmull;
    }
    long_scalar {
        sqdmlal_s = widen::sqdmlal;
        sqdmlsl_s = widen::sqdmlsl;
        sqdmull_s = widen::sqdmull;
    }
    wide {
        saddw_v = widen::saddw;
        uaddw_v = widen::uaddw;
        ssubw_v = widen::ssubw;
        usubw_v = widen::usubw;
    }
    narrow_high {
        addhn_v = narrow::addhn;
        raddhn_v = narrow::raddhn;
        subhn_v = narrow::subhn;
        rsubhn_v = narrow::rsubhn;
    }
    narrow_plain {
        xtn_v = narrow::shrn;
    }
    narrow {
        sqxtun_v = narrow::sqshrun;
        sqxtn_v = narrow::sqshrn;
        uqxtn_v = narrow::uqshrn;
    }
    narrow_scalar {
        sqxtun_s = narrow::sqshrun;
        sqxtn_s = narrow::sqshrn;
        uqxtn_s = narrow::uqshrn;
    }
    shift_long {
        shll_v = widen::ushll;
    }
}

pub(crate) fn pmull_b(cpu: &mut Cpu, i: &Insn) -> Exec {
    operand::long::<false>(cpu, i, |_, n, m, _| widen::pmull8(n, m))
}

pub(crate) fn pmull_d(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let r = poly::mul64(source_half(i, cpu.state.q(i.rn)), source_half(i, cpu.state.q(i.rm)));
    cpu.state.set_q(i.rd, r);
    Ok(Flow::Next)
}
