//! Advanced SIMD floating point with registers as operands (Arm ARM C4.1.97): three same, pairwise, complex numbers, half
//! precision into single, BFloat16.

use super::fp_op::{element, env, handlers, q};
use crate::cpu::Cpu;
use crate::fp::{self, Double, Env, Format, Half, Single};
use crate::insn::{Exec, Flow, Insn};

handlers! {
    vector fmaxnm: fmaxnm_vs Single, fmaxnm_vd Double, fmaxnm_vh Half;
    vector fmla: fmla_vs Single, fmla_vd Double, fmla_vh Half;
    vector fadd: fadd_vs Single, fadd_vd Double, fadd_vh Half;
    vector fmulx: fmulx_vs Single, fmulx_vd Double, fmulx_vh Half;
    vector fcmeq: fcmeq_vs Single, fcmeq_vd Double, fcmeq_vh Half;
    vector fmax: fmax_vs Single, fmax_vd Double, fmax_vh Half;
    vector frecps: frecps_vs Single, frecps_vd Double, frecps_vh Half;
    vector fminnm: fminnm_vs Single, fminnm_vd Double, fminnm_vh Half;
    vector fmls: fmls_vs Single, fmls_vd Double, fmls_vh Half;
    vector fsub: fsub_vs Single, fsub_vd Double, fsub_vh Half;
    vector fmin: fmin_vs Single, fmin_vd Double, fmin_vh Half;
    vector frsqrts: frsqrts_vs Single, frsqrts_vd Double, frsqrts_vh Half;
    vector fmul: fmul_vs Single, fmul_vd Double, fmul_vh Half;
    vector fcmge: fcmge_vs Single, fcmge_vd Double, fcmge_vh Half;
    vector facge: facge_vs Single, facge_vd Double, facge_vh Half;
    vector fdiv: fdiv_vs Single, fdiv_vd Double, fdiv_vh Half;
    vector fabd: fabd_vs Single, fabd_vd Double, fabd_vh Half;
    vector fcmgt: fcmgt_vs Single, fcmgt_vd Double, fcmgt_vh Half;
    vector facgt: facgt_vs Single, facgt_vd Double, facgt_vh Half;
    pairs fmaxnm: fmaxnmp_vs Single, fmaxnmp_vd Double, fmaxnmp_vh Half;
    pairs fadd: faddp_vs Single, faddp_vd Double, faddp_vh Half;
    pairs fmax: fmaxp_vs Single, fmaxp_vd Double, fmaxp_vh Half;
    pairs fminnm: fminnmp_vs Single, fminnmp_vd Double, fminnmp_vh Half;
    pairs fmin: fminp_vs Single, fminp_vd Double, fminp_vh Half;
    scalar fmulx: fmulx_ss Single, fmulx_sd Double, fmulx_sh Half;
    scalar fcmeq: fcmeq_ss Single, fcmeq_sd Double, fcmeq_sh Half;
    scalar frecps: frecps_ss Single, frecps_sd Double, frecps_sh Half;
    scalar frsqrts: frsqrts_ss Single, frsqrts_sd Double, frsqrts_sh Half;
    scalar fcmge: fcmge_ss Single, fcmge_sd Double, fcmge_sh Half;
    scalar facge: facge_ss Single, facge_sd Double, facge_sh Half;
    scalar fabd: fabd_ss Single, fabd_sd Double, fabd_sh Half;
    scalar fcmgt: fcmgt_ss Single, fcmgt_sd Double, fcmgt_sh Half;
    scalar facgt: facgt_ss Single, facgt_sd Double, facgt_sh Half;
    scalar_pair fmaxnm: fmaxnmp_ss Single, fmaxnmp_sd Double, fmaxnmp_sh Half;
    scalar_pair fadd: faddp_ss Single, faddp_sd Double, faddp_sh Half;
    scalar_pair fmax: fmaxp_ss Single, fmaxp_sd Double, fmaxp_sh Half;
    scalar_pair fminnm: fminnmp_ss Single, fminnmp_sd Double, fminnmp_sh Half;
    scalar_pair fmin: fminp_ss Single, fminp_sd Double, fminp_sh Half;
}

/// Pairs of lanes (real, imaginary): `f(env, d, n, m)`.
#[inline(always)]
pub(super) fn complex<F: Format>(
    cpu: &mut Cpu,
    i: &Insn,
    m: impl Fn(u64) -> [u64; 2],
    f: impl Fn(&mut Env, [u64; 2], [u64; 2], [u64; 2]) -> [u64; 2],
) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let (d, n) = (cpu.state.q(i.rd), cpu.state.q(i.rn));
    let mut r = 0u128;
    let bits = if q(i) { 128 } else { 64 };
    for k in 0..u64::from(bits / F::BITS / 2) {
        let pair = |v| [element::<F>(v, 2 * k), element::<F>(v, 2 * k + 1)];
        let [re, im] = f(&mut e, pair(d), pair(n), m(k));
        let s = 2 * k as u32 * F::BITS;
        r |= u128::from(re) << s | u128::from(im) << (s + F::BITS);
    }
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_q(i.rd, r);
    Ok(Flow::Next)
}

/// FCMLA: adds the part of the product that rotation `rot` (in quarter turns) selects.
#[inline(always)]
pub(super) fn fcmla<F: Format>(rot: u32, e: &mut Env, d: [u64; 2], n: [u64; 2], m: [u64; 2]) -> [u64; 2] {
    let neg = fp::neg::<F>;
    let n = n[(rot & 1) as usize];
    let (re, im) = match rot {
        0 => (m[0], m[1]),
        1 => (neg(m[1]), m[0]),
        2 => (neg(m[0]), neg(m[1])),
        _ => (m[1], neg(m[0])),
    };
    [fp::mul_add::<F>(e, d[0], n, re), fp::mul_add::<F>(e, d[1], n, im)]
}

#[inline(always)]
fn fcadd<F: Format>(rot270: bool, e: &mut Env, n: [u64; 2], m: [u64; 2]) -> [u64; 2] {
    let neg = fp::neg::<F>;
    let (re, im) = if rot270 { (m[1], neg(m[0])) } else { (neg(m[1]), m[0]) };
    [fp::add::<F>(e, n[0], re), fp::add::<F>(e, n[1], im)]
}

macro_rules! complex_handlers {
    ($($f:ident $mla:ident $add:ident;)*) => { $(
        pub(crate) fn $mla(cpu: &mut Cpu, i: &Insn) -> Exec {
            let (rot, m) = (i.bits(11, 2), cpu.state.q(i.rm));
            let pair = |k| [element::<$f>(m, 2 * k), element::<$f>(m, 2 * k + 1)];
            complex::<$f>(cpu, i, pair, |e, d, n, m| fcmla::<$f>(rot, e, d, n, m))
        }
        pub(crate) fn $add(cpu: &mut Cpu, i: &Insn) -> Exec {
            let (rot270, m) = (i.bit(12), cpu.state.q(i.rm));
            let pair = |k| [element::<$f>(m, 2 * k), element::<$f>(m, 2 * k + 1)];
            complex::<$f>(cpu, i, pair, |e, _, n, m| fcadd::<$f>(rot270, e, n, m))
        }
    )* };
}
complex_handlers! {
    Half fcmla_vh fcadd_vh;
    Single fcmla_vs fcadd_vs;
    Double fcmla_vd fcadd_vd;
}

/// Lanes of single precision: `f(env, addend, lane)`.
#[inline(always)]
pub(super) fn singles(cpu: &mut Cpu, i: &Insn, f: impl Fn(&mut Env, u64, u64) -> u64) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let d = cpu.state.q(i.rd);
    let mut r = 0u128;
    for k in 0..if q(i) { 4 } else { 2 } {
        r |= u128::from(f(&mut e, element::<Single>(d, k), k)) << (32 * k);
    }
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_q(i.rd, r);
    Ok(Flow::Next)
}

/// FMLAL and its kin: `m(k)` is the second factor of lane `k` of the half that takes part.
#[inline(always)]
pub(super) fn widening<const UPPER: bool, const MINUS: bool>(
    cpu: &mut Cpu,
    i: &Insn,
    m: impl Fn(u64) -> u64,
) -> Exec {
    let n = cpu.state.q(i.rn);
    let from = first_half::<UPPER>(i);
    let sign = if MINUS { Half::SIGN } else { 0 };
    singles(cpu, i, |e, d, k| fp::mul_add_half(e, d, element::<Half>(n, from + k) ^ sign, m(k)))
}

/// The first half-precision element that takes part.
#[inline(always)]
fn first_half<const UPPER: bool>(i: &Insn) -> u64 {
    match (UPPER, q(i)) {
        (false, _) => 0,
        (true, false) => 2,
        (true, true) => 4,
    }
}

macro_rules! widening_handlers {
    ($($name:ident $upper:literal $minus:literal;)*) => { $(
        pub(crate) fn $name(cpu: &mut Cpu, i: &Insn) -> Exec {
            let (m, from) = (cpu.state.q(i.rm), first_half::<$upper>(i));
            widening::<$upper, $minus>(cpu, i, |k| element::<Half>(m, from + k))
        }
    )* };
}
widening_handlers! {
    fmlal_v false false;
    fmlsl_v false true;
    fmlal2_v true false;
    fmlsl2_v true true;
}

/// BFDOT: `m(k)` is the second operand's pair for lane `k`.
#[inline(always)]
pub(super) fn bf_dot(cpu: &mut Cpu, i: &Insn, m: impl Fn(u64) -> (u64, u64)) -> Exec {
    let n = cpu.state.q(i.rn);
    singles(cpu, i, |e, d, k| fp::bf_dot(e.fpcr, d, halves(n, 2 * k), m(k)))
}

/// Two adjacent 16-bit elements.
#[inline(always)]
pub(super) fn halves(v: u128, k: u64) -> (u64, u64) {
    (element::<Half>(v, k), element::<Half>(v, k + 1))
}

pub(crate) fn bfdot_v(cpu: &mut Cpu, i: &Insn) -> Exec {
    let m = cpu.state.q(i.rm);
    bf_dot(cpu, i, |k| halves(m, 2 * k))
}

/// BFMLALB, BFMLALT: even or odd elements (by Q) of 128 bits; `m(k)` is the second factor of element `k`.
#[inline(always)]
pub(super) fn bf_mlal(cpu: &mut Cpu, i: &Insn, m: impl Fn(u64) -> u64) -> Exec {
    let (n, odd) = (cpu.state.q(i.rn), u64::from(q(i)));
    let whole = Insn { raw: i.raw | 1 << 30, ..*i };
    singles(cpu, &whole, |e, d, k| {
        let k = 2 * k + odd;
        fp::bf_mul_add(e, d, element::<Half>(n, k), m(k))
    })
}

pub(crate) fn bfmlal_v(cpu: &mut Cpu, i: &Insn) -> Exec {
    let m = cpu.state.q(i.rm);
    bf_mlal(cpu, i, |k| element::<Half>(m, k))
}

pub(crate) fn bfmmla(cpu: &mut Cpu, i: &Insn) -> Exec {
    let (n, m) = (cpu.state.q(i.rn), cpu.state.q(i.rm));
    singles(cpu, i, |e, d, k| {
        let (row, column) = (4 * (k / 2), 4 * (k % 2));
        let sum = fp::bf_dot(e.fpcr, d, halves(n, row), halves(m, column));
        fp::bf_dot(e.fpcr, sum, halves(n, row + 2), halves(m, column + 2))
    })
}
