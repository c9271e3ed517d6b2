//! Floating-point operations by the manual's names, each one lane of a vector or a scalar, and how they become handlers.
//!
//! An operation is `fn(env, d, n, m, imm) -> result` on raw bits; `d` is the destination's old value, `imm` what `prep`
//! found (the number of fraction bits of fixed-point conversions), and operands that an instruction lacks are ignored.

use crate::cpu::Cpu;
use crate::fp::{self, Env, Format, Rounding};
use crate::insn::{Exec, Flow, Insn};

macro_rules! ops {
    ($($name:ident |$e:ident, $d:ident, $n:ident, $m:ident, $imm:ident| $body:expr;)*) => { $(
        #[inline(always)]
        #[allow(unused_variables)]
        #[allow(clippy::extra_unused_type_parameters, reason = "operations share one signature")]
        pub(super) fn $name<F: Format>($e: &mut Env, $d: u64, $n: u64, $m: u64, $imm: u32) -> u64 {
            $body
        }
    )* };
}

#[inline(always)]
fn all<F: Format>(yes: bool) -> u64 {
    if yes { F::MASK } else { 0 }
}

ops! {
    fmov |e, d, n, m, imm| n;
    fabs |e, d, n, m, imm| fp::abs::<F>(n);
    fneg |e, d, n, m, imm| fp::neg::<F>(n);
    fsqrt |e, d, n, m, imm| fp::sqrt::<F>(e, n);
    fadd |e, d, n, m, imm| fp::add::<F>(e, n, m);
    fsub |e, d, n, m, imm| fp::sub::<F>(e, n, m);
    fmul |e, d, n, m, imm| fp::mul::<F>(e, n, m);
    fnmul |e, d, n, m, imm| fp::neg::<F>(fp::mul::<F>(e, n, m));
    fmulx |e, d, n, m, imm| fp::mulx::<F>(e, n, m);
    fdiv |e, d, n, m, imm| fp::div::<F>(e, n, m);
    fabd |e, d, n, m, imm| fp::abd::<F>(e, n, m);
    fmax |e, d, n, m, imm| fp::max::<F>(e, n, m);
    fmin |e, d, n, m, imm| fp::min::<F>(e, n, m);
    fmaxnm |e, d, n, m, imm| fp::max_num::<F>(e, n, m);
    fminnm |e, d, n, m, imm| fp::min_num::<F>(e, n, m);
    fmla |e, d, n, m, imm| fp::mul_add::<F>(e, d, n, m);
    fmls |e, d, n, m, imm| fp::mul_add::<F>(e, d, fp::neg::<F>(n), m);
    // Three sources: d is Ra.
    fmadd |e, d, n, m, imm| fp::mul_add::<F>(e, d, n, m);
    fmsub |e, d, n, m, imm| fp::mul_add::<F>(e, d, fp::neg::<F>(n), m);
    fnmadd |e, d, n, m, imm| fp::mul_add::<F>(e, fp::neg::<F>(d), fp::neg::<F>(n), m);
    fnmsub |e, d, n, m, imm| fp::mul_add::<F>(e, fp::neg::<F>(d), n, m);
    fcmeq |e, d, n, m, imm| all::<F>(fp::compare_eq::<F>(e, n, m));
    fcmge |e, d, n, m, imm| all::<F>(fp::compare_ge::<F>(e, n, m));
    fcmgt |e, d, n, m, imm| all::<F>(fp::compare_gt::<F>(e, n, m));
    facge |e, d, n, m, imm| all::<F>(fp::compare_ge::<F>(e, fp::abs::<F>(n), fp::abs::<F>(m)));
    facgt |e, d, n, m, imm| all::<F>(fp::compare_gt::<F>(e, fp::abs::<F>(n), fp::abs::<F>(m)));
    fcmeq0 |e, d, n, m, imm| all::<F>(fp::compare_eq::<F>(e, n, 0));
    fcmge0 |e, d, n, m, imm| all::<F>(fp::compare_ge::<F>(e, n, 0));
    fcmgt0 |e, d, n, m, imm| all::<F>(fp::compare_gt::<F>(e, n, 0));
    fcmle0 |e, d, n, m, imm| all::<F>(fp::compare_ge::<F>(e, 0, n));
    fcmlt0 |e, d, n, m, imm| all::<F>(fp::compare_gt::<F>(e, 0, n));
    frecpe |e, d, n, m, imm| fp::recip_estimate::<F>(e, n);
    frsqrte |e, d, n, m, imm| fp::rsqrt_estimate::<F>(e, n);
    frecpx |e, d, n, m, imm| fp::recip_x::<F>(e, n);
    frecps |e, d, n, m, imm| fp::recip_step::<F>(e, n, m);
    frsqrts |e, d, n, m, imm| fp::rsqrt_step::<F>(e, n, m);
    frintn |e, d, n, m, imm| fp::round_int::<F>(e, n, Rounding::TieEven, false);
    frintp |e, d, n, m, imm| fp::round_int::<F>(e, n, Rounding::PosInf, false);
    frintm |e, d, n, m, imm| fp::round_int::<F>(e, n, Rounding::NegInf, false);
    frintz |e, d, n, m, imm| fp::round_int::<F>(e, n, Rounding::Zero, false);
    frinta |e, d, n, m, imm| fp::round_int::<F>(e, n, Rounding::TieAway, false);
    frintx |e, d, n, m, imm| fp::round_int::<F>(e, n, e.rounding(), true);
    frinti |e, d, n, m, imm| fp::round_int::<F>(e, n, e.rounding(), false);
    frint32z |e, d, n, m, imm| fp::round_int_n::<F>(e, n, Rounding::Zero, 32);
    frint32x |e, d, n, m, imm| fp::round_int_n::<F>(e, n, e.rounding(), 32);
    frint64z |e, d, n, m, imm| fp::round_int_n::<F>(e, n, Rounding::Zero, 64);
    frint64x |e, d, n, m, imm| fp::round_int_n::<F>(e, n, e.rounding(), 64);
    // Conversions between a lane and an integer of the same size.
    fcvtns |e, d, n, m, imm| fp::to_fixed::<F>(e, n, imm, false, Rounding::TieEven, F::BITS);
    fcvtnu |e, d, n, m, imm| fp::to_fixed::<F>(e, n, imm, true, Rounding::TieEven, F::BITS);
    fcvtps |e, d, n, m, imm| fp::to_fixed::<F>(e, n, imm, false, Rounding::PosInf, F::BITS);
    fcvtpu |e, d, n, m, imm| fp::to_fixed::<F>(e, n, imm, true, Rounding::PosInf, F::BITS);
    fcvtms |e, d, n, m, imm| fp::to_fixed::<F>(e, n, imm, false, Rounding::NegInf, F::BITS);
    fcvtmu |e, d, n, m, imm| fp::to_fixed::<F>(e, n, imm, true, Rounding::NegInf, F::BITS);
    fcvtzs |e, d, n, m, imm| fp::to_fixed::<F>(e, n, imm, false, Rounding::Zero, F::BITS);
    fcvtzu |e, d, n, m, imm| fp::to_fixed::<F>(e, n, imm, true, Rounding::Zero, F::BITS);
    fcvtas |e, d, n, m, imm| fp::to_fixed::<F>(e, n, imm, false, Rounding::TieAway, F::BITS);
    fcvtau |e, d, n, m, imm| fp::to_fixed::<F>(e, n, imm, true, Rounding::TieAway, F::BITS);
    scvtf |e, d, n, m, imm| fp::fixed_to_fp::<F>(e, n, imm, false, F::BITS);
    ucvtf |e, d, n, m, imm| fp::fixed_to_fp::<F>(e, n, imm, true, F::BITS);
}

/// FPCR and FPSR of a PE.
#[inline(always)]
pub(super) fn env(cpu: &Cpu) -> Env {
    Env { fpcr: cpu.state.fpcr, fpsr: cpu.state.fpsr }
}

/// The lowest element of a register.
#[inline(always)]
pub(super) fn low<F: Format>(cpu: &Cpu, r: u8) -> u64 {
    cpu.state.d(r) & F::MASK
}

/// Element `k` of a register.
#[inline(always)]
pub(super) fn element<F: Format>(v: u128, k: u64) -> u64 {
    (v >> ((k as u32 * F::BITS) & 127)) as u64 & F::MASK
}

/// Bit Q: 128 bits of the registers take part.
#[inline(always)]
pub(super) fn q(i: &Insn) -> bool {
    i.bit(30)
}

/// One lane; the rest of the destination becomes zero.
#[inline(always)]
pub(super) fn scalar<F: Format>(
    cpu: &mut Cpu,
    i: &Insn,
    f: impl FnOnce(&mut Env, u64, u64, u64, u32) -> u64,
) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let r = f(&mut e, low::<F>(cpu, i.rd), low::<F>(cpu, i.rn), low::<F>(cpu, i.rm), i.imm as u32);
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_d(i.rd, r);
    Ok(Flow::Next)
}

/// As [`scalar`] with Ra in place of the destination's old value.
#[inline(always)]
pub(super) fn three<F: Format>(
    cpu: &mut Cpu,
    i: &Insn,
    f: impl FnOnce(&mut Env, u64, u64, u64, u32) -> u64,
) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let r = f(&mut e, low::<F>(cpu, i.ra), low::<F>(cpu, i.rn), low::<F>(cpu, i.rm), 0);
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_d(i.rd, r);
    Ok(Flow::Next)
}

/// Every lane of 64 or 128 bits.
#[inline(always)]
pub(super) fn lanes<F: Format>(
    e: &mut Env,
    q: bool,
    d: u128,
    n: u128,
    m: u128,
    imm: u32,
    f: impl Fn(&mut Env, u64, u64, u64, u32) -> u64,
) -> u128 {
    let half = |e: &mut Env, d: u64, n: u64, m: u64| {
        let mut r = 0;
        for k in 0..64 / F::BITS {
            let s = k * F::BITS;
            r |= f(e, d >> s & F::MASK, n >> s & F::MASK, m >> s & F::MASK, imm) << s;
        }
        r
    };
    let mut r = u128::from(half(e, d as u64, n as u64, m as u64));
    if q {
        r |= u128::from(half(e, (d >> 64) as u64, (n >> 64) as u64, (m >> 64) as u64)) << 64;
    }
    r
}

/// Lane by lane.
#[inline(always)]
pub(super) fn vector<F: Format>(
    cpu: &mut Cpu,
    i: &Insn,
    f: impl Fn(&mut Env, u64, u64, u64, u32) -> u64,
) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let (d, n, m) = (cpu.state.q(i.rd), cpu.state.q(i.rn), cpu.state.q(i.rm));
    let r = lanes::<F>(&mut e, q(i), d, n, m, i.imm as u32, f);
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_q(i.rd, r);
    Ok(Flow::Next)
}

/// Lane by lane, the second operand being element `imm` of its register.
#[inline(always)]
pub(super) fn vector_element<F: Format>(
    cpu: &mut Cpu,
    i: &Insn,
    f: impl Fn(&mut Env, u64, u64, u64, u32) -> u64,
) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let m = element::<F>(cpu.state.q(i.rm), i.imm);
    let r = lanes::<F>(&mut e, q(i), cpu.state.q(i.rd), cpu.state.q(i.rn), 0, 0, |e, d, n, _, imm| {
        f(e, d, n, m, imm)
    });
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_q(i.rd, r);
    Ok(Flow::Next)
}

/// One lane, the second operand being element `imm` of its register.
#[inline(always)]
pub(super) fn scalar_element<F: Format>(
    cpu: &mut Cpu,
    i: &Insn,
    f: impl Fn(&mut Env, u64, u64, u64, u32) -> u64,
) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let m = element::<F>(cpu.state.q(i.rm), i.imm);
    let r = f(&mut e, low::<F>(cpu, i.rd), low::<F>(cpu, i.rn), m, 0);
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_d(i.rd, r);
    Ok(Flow::Next)
}

/// Adjacent elements of the second operand behind the first one's.
#[inline(always)]
pub(super) fn pairs<F: Format>(
    cpu: &mut Cpu,
    i: &Insn,
    f: impl Fn(&mut Env, u64, u64, u64, u32) -> u64,
) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let (n, m) = (cpu.state.q(i.rn), cpu.state.q(i.rm));
    let mut half = |v: u128, bits: u32| {
        let mut r = 0u64;
        for k in 0..u64::from(bits / F::BITS / 2) {
            let x = f(&mut e, 0, element::<F>(v, 2 * k), element::<F>(v, 2 * k + 1), 0);
            r |= x << (k as u32 * F::BITS);
        }
        u128::from(r)
    };
    let r = if q(i) { half(n, 128) | half(m, 128) << 64 } else { half(u128::from(n as u64) | m << 64, 128) };
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_q(i.rd, r);
    Ok(Flow::Next)
}

/// The two lowest elements.
#[inline(always)]
pub(super) fn scalar_pair<F: Format>(
    cpu: &mut Cpu,
    i: &Insn,
    f: impl Fn(&mut Env, u64, u64, u64, u32) -> u64,
) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let n = cpu.state.q(i.rn);
    let r = f(&mut e, 0, element::<F>(n, 0), element::<F>(n, 1), 0);
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_d(i.rd, r);
    Ok(Flow::Next)
}

/// Reduce: halves first, as a tree.
#[inline(always)]
pub(super) fn across<F: Format>(
    cpu: &mut Cpu,
    i: &Insn,
    f: impl Fn(&mut Env, u64, u64, u64, u32) -> u64,
) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let n = cpu.state.q(i.rn);
    let mut v = [0u64; 8];
    let mut count = (if q(i) { 128 } else { 64 }) / F::BITS as usize;
    for (k, x) in v.iter_mut().enumerate().take(count) {
        *x = element::<F>(n, k as u64);
    }
    while count > 1 {
        count /= 2;
        for k in 0..count {
            v[k] = f(&mut e, 0, v[2 * k], v[2 * k + 1], 0);
        }
    }
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_d(i.rd, v[0]);
    Ok(Flow::Next)
}

/// Handlers by name: runner, operation, and the handler of each format.
macro_rules! handlers {
    ($($runner:ident $op:ident: $($name:ident $format:ident),*;)*) => { $($(
        pub(crate) fn $name(cpu: &mut crate::cpu::Cpu, i: &crate::insn::Insn) -> crate::insn::Exec {
            use super::fp_op;
            fp_op::$runner::<crate::fp::$format>(cpu, i, fp_op::$op::<crate::fp::$format>)
        }
    )*)* };
}
pub(super) use handlers;

/// VFPExpandImm.
pub(super) fn expand_imm<F: Format>(imm8: u64) -> u64 {
    let exp_bits = F::BITS - 1 - F::FRAC;
    let sign = imm8 >> 7;
    let b = imm8 >> 6 & 1;
    let ones = if b != 0 { (1 << (exp_bits - 3)) - 1 } else { 0 };
    let exp = (b ^ 1) << (exp_bits - 1) | ones << 2 | imm8 >> 4 & 3;
    sign << (F::BITS - 1) | exp << F::FRAC | (imm8 & 15) << (F::FRAC - 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fp::{Double, Half, Single};

    #[test]
    fn immediates_are_the_same_number_in_every_format() {
        for imm in 0..256 {
            let d = f64::from_bits(expand_imm::<Double>(imm));
            let s = f32::from_bits(expand_imm::<Single>(imm) as u32);
            assert_eq!(f64::from(s), d, "{imm:#x}");
            let m = f64::from((16 + (imm & 15)) as u32) / 16.0;
            let e = ((imm >> 4 & 7) ^ 4) as i32 - 3;
            let sign = if imm & 0x80 != 0 { -1.0 } else { 1.0 };
            assert_eq!(d, sign * m * 2f64.powi(e), "{imm:#x}");
            let mut env = Env::default();
            let h = expand_imm::<Half>(imm);
            assert_eq!(fp::convert::<Half, Double>(&mut env, h, Rounding::TieEven), d.to_bits());
        }
    }
}
