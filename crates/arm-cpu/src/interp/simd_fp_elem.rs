//! Advanced SIMD floating point by element (Arm ARM C4.1.97).
//!
//! `prep` puts the number of the element in `imm` and maps Rm.

use super::dp_imm::reserve;
use super::fp_op::{element, handlers, q};
use super::simd_fp_same::{bf_dot, bf_mlal, complex, fcmla, halves, widening};
use crate::cpu::Cpu;
use crate::fp::{Format, Half, Single};
use crate::insn::{Exec, Insn};

/// `prep`: a 64-bit element.
pub(crate) fn ed(i: &mut Insn) {
    i.imm = u64::from(i.bits(11, 1));
}

/// `prep`: a 32-bit element.
pub(crate) fn es(i: &mut Insn) {
    i.imm = u64::from(i.bits(11, 1) << 1 | i.bits(21, 1));
}

/// `prep`: a 16-bit element of V0-V15.
pub(crate) fn eh(i: &mut Insn) {
    i.imm = u64::from(i.bits(11, 1) << 2 | i.bits(21, 1) << 1 | i.bits(20, 1));
    i.rm &= 15;
}

/// `prep`: a complex number of half precision.
pub(crate) fn fcmla_h(i: &mut Insn) {
    es(i);
    if i.bit(11) && !q(i) {
        reserve(i);
    }
}

/// `prep`: a complex number of single precision.
pub(crate) fn fcmla_s(i: &mut Insn) {
    ed(i);
}

handlers! {
    vector_element fmla: fmla_es Single, fmla_ed Double, fmla_eh Half;
    vector_element fmls: fmls_es Single, fmls_ed Double, fmls_eh Half;
    vector_element fmul: fmul_es Single, fmul_ed Double, fmul_eh Half;
    vector_element fmulx: fmulx_es Single, fmulx_ed Double, fmulx_eh Half;
    scalar_element fmla: fmla_ses Single, fmla_sed Double, fmla_seh Half;
    scalar_element fmls: fmls_ses Single, fmls_sed Double, fmls_seh Half;
    scalar_element fmul: fmul_ses Single, fmul_sed Double, fmul_seh Half;
    scalar_element fmulx: fmulx_ses Single, fmulx_sed Double, fmulx_seh Half;
}

#[inline(always)]
fn fcmla_element<F: Format>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let (rot, v) = (i.bits(13, 2), cpu.state.q(i.rm));
    let m = [element::<F>(v, 2 * i.imm), element::<F>(v, 2 * i.imm + 1)];
    complex::<F>(cpu, i, |_| m, |e, d, n, m| fcmla::<F>(rot, e, d, n, m))
}

pub(crate) fn fcmla_eh(cpu: &mut Cpu, i: &Insn) -> Exec {
    fcmla_element::<Half>(cpu, i)
}

pub(crate) fn fcmla_es(cpu: &mut Cpu, i: &Insn) -> Exec {
    fcmla_element::<Single>(cpu, i)
}

macro_rules! widening_handlers {
    ($($name:ident $upper:literal $minus:literal;)*) => { $(
        pub(crate) fn $name(cpu: &mut Cpu, i: &Insn) -> Exec {
            let m = element::<Half>(cpu.state.q(i.rm), i.imm);
            widening::<$upper, $minus>(cpu, i, |_| m)
        }
    )* };
}
widening_handlers! {
    fmlal_e false false;
    fmlsl_e false true;
    fmlal2_e true false;
    fmlsl2_e true true;
}

pub(crate) fn bfdot_e(cpu: &mut Cpu, i: &Insn) -> Exec {
    let m = halves(cpu.state.q(i.rm), 2 * i.imm);
    bf_dot(cpu, i, |_| m)
}

pub(crate) fn bfmlal_e(cpu: &mut Cpu, i: &Insn) -> Exec {
    let m = element::<Half>(cpu.state.q(i.rm), i.imm);
    bf_mlal(cpu, i, |_| m)
}
