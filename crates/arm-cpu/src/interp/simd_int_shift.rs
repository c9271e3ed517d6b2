//! Advanced SIMD: shifts by an immediate. The position of the highest bit of immh gives the size of the (narrow) lanes.

use super::simd_operand::{handlers, q, scalar, vector};
use crate::insn::Insn;
use crate::interp::dp_imm::reserve;
use crate::simd::{narrow, shift, widen};

/// Size of the lanes by immh; 4 where it is reserved.
fn immh_size(i: &Insn) -> u32 {
    match i.bits(19, 4) {
        0 => 4,
        h => h.ilog2(),
    }
}

/// Right shift: 2 * width - immh:immb, 1 to the width.
fn right(i: &mut Insn, size: u32) {
    i.imm = u64::from((16u32 << size).wrapping_sub(i.bits(16, 7)));
}

/// Left shift: immh:immb - width, 0 to the width less 1.
fn left(i: &mut Insn, size: u32) {
    i.imm = u64::from(i.bits(16, 7).wrapping_sub(8 << size));
}

/// A vector with sizes up to `max`; refuses the rest.
fn lanes(i: &mut Insn, max: u32) -> u32 {
    let s = immh_size(i);
    if s > max || (s == 3 && !q(i)) {
        reserve(i);
    }
    vector(i, s.min(3));
    s.min(3)
}

fn one(i: &mut Insn, max: u32) -> u32 {
    let s = immh_size(i);
    if s > max {
        reserve(i);
    }
    scalar(i, s.min(3));
    s.min(3)
}

pub(crate) fn right_v(i: &mut Insn) {
    let s = lanes(i, 3);
    right(i, s);
}

pub(crate) fn left_v(i: &mut Insn) {
    let s = lanes(i, 3);
    left(i, s);
}

pub(crate) fn right_s(i: &mut Insn) {
    let s = one(i, 3);
    right(i, s);
}

pub(crate) fn left_s(i: &mut Insn) {
    let s = one(i, 3);
    left(i, s);
}

pub(crate) fn narrow_v(i: &mut Insn) {
    let s = lanes(i, 2);
    right(i, s);
}

pub(crate) fn narrow_s(i: &mut Insn) {
    let s = one(i, 2);
    right(i, s);
}

pub(crate) fn long_v(i: &mut Insn) {
    let s = lanes(i, 2);
    left(i, s);
}

handlers! {
    shift {
        sshr_v = shift::sshr;
        sshr_s = shift::sshr;
        ushr_v = shift::ushr;
        ushr_s = shift::ushr;
        ssra_v = shift::ssra;
        ssra_s = shift::ssra;
        usra_v = shift::usra;
        usra_s = shift::usra;
        srshr_v = shift::srshr;
        srshr_s = shift::srshr;
        urshr_v = shift::urshr;
        urshr_s = shift::urshr;
        srsra_v = shift::srsra;
        srsra_s = shift::srsra;
        ursra_v = shift::ursra;
        ursra_s = shift::ursra;
        sri_v = shift::sri;
        sri_s = shift::sri;
        shl_v = shift::shl;
        shl_s = shift::shl;
        sli_v = shift::sli;
        sli_s = shift::sli;
        sqshlu_v = shift::sqshlu;
        sqshlu_s = shift::sqshlu;
        sqshl_imm_v = shift::sqshl;
        sqshl_imm_s = shift::sqshl;
        uqshl_imm_v = shift::uqshl;
        uqshl_imm_s = shift::uqshl;
    }
    narrow_plain {
        shrn_v = narrow::shrn;
        rshrn_v = narrow::rshrn;
    }
    narrow {
        sqshrun_v = narrow::sqshrun;
        sqrshrun_v = narrow::sqrshrun;
        sqshrn_v = narrow::sqshrn;
        uqshrn_v = narrow::uqshrn;
        sqrshrn_v = narrow::sqrshrn;
        uqrshrn_v = narrow::uqrshrn;
    }
    narrow_scalar {
        sqshrun_s = narrow::sqshrun;
        sqrshrun_s = narrow::sqrshrun;
        sqshrn_s = narrow::sqshrn;
        uqshrn_s = narrow::uqshrn;
        sqrshrn_s = narrow::sqrshrn;
        uqrshrn_s = narrow::uqrshrn;
    }
    shift_long {
        sshll_v = widen::sshll;
        ushll_v = widen::ushll;
    }
}
