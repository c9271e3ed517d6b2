//! Advanced SIMD: vector and scalar by indexed element.

use super::simd_operand::{self as operand, handlers};
pub(crate) use super::simd_operand::{se, ve, ve_dot};
use crate::cpu::Cpu;
use crate::insn::{Exec, Insn};
use crate::simd::{product, same, widen};

handlers! {
    same_element {
        mla_ve = same::mla;
        mls_ve = same::mls;
        mul_ve = same::mul;
        sqdmulh_ve = same::sqdmulh;
        sqdmulh_se = same::sqdmulh;
        sqrdmulh_ve = same::sqrdmulh;
        sqrdmulh_se = same::sqrdmulh;
        sqrdmlah_ve = same::sqrdmlah;
        sqrdmlah_se = same::sqrdmlah;
        sqrdmlsh_ve = same::sqrdmlsh;
        sqrdmlsh_se = same::sqrdmlsh;
    }
    long_element {
        smlal_ve = widen::smlal;
        umlal_ve = widen::umlal;
        smlsl_ve = widen::smlsl;
        umlsl_ve = widen::umlsl;
        smull_ve = widen::smull;
        umull_ve = widen::umull;
        sqdmlal_ve = widen::sqdmlal;
        sqdmlsl_ve = widen::sqdmlsl;
        sqdmull_ve = widen::sqdmull;
    }
    long_scalar_element {
        sqdmlal_se = widen::sqdmlal;
        sqdmlsl_se = widen::sqdmlsl;
        sqdmull_se = widen::sqdmull;
    }
    product_element {
        sdot_ve = product::sdot;
        udot_ve = product::udot;
        usdot_ve = product::usdot;
    }
}

/// The signed operand is the first, the unsigned one the element.
pub(crate) fn sudot_ve(cpu: &mut Cpu, i: &Insn) -> Exec {
    operand::same::<true>(cpu, i, |d, n, m, _| product::usdot(d, m, n))
}
