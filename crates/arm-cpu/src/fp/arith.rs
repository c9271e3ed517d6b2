//! Sum, difference, product, quotient, square root, fused multiply-add and the Newton steps built on it.

use super::format::Format;
use super::real::{
    Class, Num, Real, infinity, invalid, nans, process_nan, process_nans, round, unpack, zero,
};
use super::{Env, Half, Single, fpsr, neg};

/// FPAdd.
#[inline(always)]
pub fn add<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    if env.host_mode()
        && let Some(r) = F::host_add(env, a, b)
    {
        return r;
    }
    sum::<F>(env, a, b, false)
}

/// FPSub.
#[inline(always)]
pub fn sub<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    if env.host_mode()
        && let Some(r) = F::host_add(env, a, neg::<F>(b))
    {
        return r;
    }
    sum::<F>(env, a, b, true)
}

#[inline(never)]
fn sum<F: Format>(env: &mut Env, a: u64, b: u64, minus: bool) -> u64 {
    let (x, mut y) = (unpack::<F>(env, a), unpack::<F>(env, b));
    if let Some(r) = process_nans::<F>(env, &x, &y, a, b) {
        return r;
    }
    y.neg ^= minus;
    match (x.class, y.class) {
        (Class::Infinity, Class::Infinity) if x.neg != y.neg => invalid::<F>(env),
        (Class::Infinity, _) => infinity::<F>(x.neg),
        (_, Class::Infinity) => infinity::<F>(y.neg),
        (Class::Zero, Class::Zero) if x.neg == y.neg => zero::<F>(x.neg),
        _ => round_sum::<F>(env, finite(&x), finite(&y)),
    }
}

/// A zero or finite number for an exact sum.
#[inline(always)]
fn finite(n: &Num) -> Option<Real> {
    (!n.zero()).then(|| n.real())
}

#[inline(always)]
fn round_sum<F: Format>(env: &mut Env, x: Option<Real>, y: Option<Real>) -> u64 {
    let s = match (x, y) {
        (Some(x), Some(y)) => x.plus(y),
        (x, y) => x.or(y),
    };
    match s {
        Some(s) => round::<F>(env, s),
        None => zero::<F>(env.zero_sum_sign()),
    }
}

/// FPMul.
#[inline(always)]
pub fn mul<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    if env.host_mode()
        && let Some(r) = F::host_mul(env, a, b)
    {
        return r;
    }
    product::<F>(env, a, b, false)
}

/// FPMulX: infinity by zero gives two.
#[inline(always)]
pub fn mulx<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    if env.host_mode()
        && let Some(r) = F::host_mul(env, a, b)
    {
        return r;
    }
    product::<F>(env, a, b, true)
}

#[inline(never)]
fn product<F: Format>(env: &mut Env, a: u64, b: u64, two: bool) -> u64 {
    let (x, y) = (unpack::<F>(env, a), unpack::<F>(env, b));
    if let Some(r) = process_nans::<F>(env, &x, &y, a, b) {
        return r;
    }
    let neg = x.neg != y.neg;
    if x.infinite() && y.zero() || x.zero() && y.infinite() {
        return if two { zero::<F>(neg) | ((F::BIAS as u64 + 1) << F::FRAC) } else { invalid::<F>(env) };
    }
    if x.infinite() || y.infinite() {
        infinity::<F>(neg)
    } else if x.zero() || y.zero() {
        zero::<F>(neg)
    } else {
        round::<F>(env, Real::product(&x, &y))
    }
}

/// FPDiv.
#[inline(always)]
pub fn div<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    if env.host_mode()
        && let Some(r) = F::host_div(env, a, b)
    {
        return r;
    }
    quotient::<F>(env, a, b)
}

#[inline(never)]
fn quotient<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    let (x, y) = (unpack::<F>(env, a), unpack::<F>(env, b));
    if let Some(r) = process_nans::<F>(env, &x, &y, a, b) {
        return r;
    }
    let neg = x.neg != y.neg;
    if x.infinite() && y.infinite() || x.zero() && y.zero() {
        return invalid::<F>(env);
    }
    if x.infinite() || y.zero() {
        if !x.infinite() {
            env.raise(fpsr::DZC);
        }
        return infinity::<F>(neg);
    }
    if x.zero() || y.infinite() {
        return zero::<F>(neg);
    }
    // 63 or 64 bits of quotient, and a mark of the remainder.
    let (n, d) = (u128::from(x.sig) << 63, u128::from(y.sig));
    let q = (n / d) << 1 | u128::from(n % d != 0);
    round::<F>(env, Real { neg, exp: x.exp - y.exp, sig: q << 62 })
}

/// FPSqrt.
#[inline(always)]
pub fn sqrt<F: Format>(env: &mut Env, a: u64) -> u64 {
    if env.host_mode()
        && let Some(r) = F::host_sqrt(env, a)
    {
        return r;
    }
    root::<F>(env, a)
}

#[inline(never)]
fn root<F: Format>(env: &mut Env, a: u64) -> u64 {
    let x = unpack::<F>(env, a);
    if x.nan() {
        return process_nan::<F>(env, &x, a);
    }
    if x.zero() {
        return zero::<F>(x.neg);
    }
    if x.neg {
        return invalid::<F>(env);
    }
    if x.infinite() {
        return infinity::<F>(false);
    }
    // sig * 2^(exp - 63) = n * 2^(2h - 126) with an even exponent and n of 127 or 128 bits.
    let h = x.exp >> 1;
    let n = u128::from(x.sig) << (63 + (x.exp & 1));
    let r = n.isqrt();
    let sig = r << 1 | u128::from(r * r != n);
    // r has 64 bits and is sqrt * 2^63.
    round::<F>(env, Real { neg: false, exp: h, sig: sig << 62 })
}

/// FPMulAdd: `c + a * b`, rounded once.
#[inline(always)]
pub fn mul_add<F: Format>(env: &mut Env, c: u64, a: u64, b: u64) -> u64 {
    if env.host_mode()
        && let Some(r) = F::host_mul_add(env, c, a, b)
    {
        return r;
    }
    fused::<F>(env, c, a, b)
}

#[inline(never)]
fn fused<F: Format>(env: &mut Env, c: u64, a: u64, b: u64) -> u64 {
    let z = unpack::<F>(env, c);
    let (x, y) = (unpack::<F>(env, a), unpack::<F>(env, b));
    let bad = x.infinite() && y.zero() || x.zero() && y.infinite();
    if z.nan() || x.nan() || y.nan() {
        let r = nans::<F>(env, &[(&z, c), (&x, a), (&y, b)]);
        return if bad && z.class == Class::QNaN { invalid::<F>(env) } else { r };
    }
    fused_numbers::<F>(env, &z, &x, &y, bad)
}

#[inline(always)]
fn fused_numbers<F: Format>(env: &mut Env, z: &Num, x: &Num, y: &Num, bad: bool) -> u64 {
    let neg = x.neg != y.neg;
    let infinite = x.infinite() || y.infinite();
    if bad || z.infinite() && infinite && z.neg != neg {
        return invalid::<F>(env);
    }
    if z.infinite() {
        return infinity::<F>(z.neg);
    }
    if infinite {
        return infinity::<F>(neg);
    }
    let empty = x.zero() || y.zero();
    if z.zero() && empty && z.neg == neg {
        return zero::<F>(z.neg);
    }
    round_sum::<F>(env, finite(z), (!empty).then(|| Real::product(x, y)))
}

/// FPMulAddH: a single-precision addend, half-precision factors.
pub fn mul_add_half(env: &mut Env, c: u64, a: u64, b: u64) -> u64 {
    let z = unpack::<Single>(env, c);
    let (x, y) = (unpack::<Half>(env, a), unpack::<Half>(env, b));
    let bad = x.infinite() && y.zero() || x.zero() && y.infinite();
    if z.nan() || x.nan() || y.nan() {
        // FPProcessNaNs3H: a half-precision NaN is widened (FPConvertNaN); quieting it commutes with that.
        let wide = |h: u64| (h & 0x8000) << 16 | Single::INF | (h & 0x3ff) << 13;
        let r = nans::<Single>(env, &[(&z, c), (&x, wide(a)), (&y, wide(b))]);
        return if bad && z.class == Class::QNaN { invalid::<Single>(env) } else { r };
    }
    fused_numbers::<Single>(env, &z, &x, &y, bad)
}

/// `k - a * b` times 2^-shift, infinity by zero giving `other`: the Newton steps.
#[inline(always)]
fn step<F: Format>(env: &mut Env, a: u64, b: u64, k: Num, halve: i32, other: u64) -> u64 {
    let a = neg::<F>(a);
    let (x, y) = (unpack::<F>(env, a), unpack::<F>(env, b));
    if let Some(r) = process_nans::<F>(env, &x, &y, a, b) {
        return r;
    }
    if x.infinite() && y.zero() || x.zero() && y.infinite() {
        return other;
    }
    if x.infinite() || y.infinite() {
        return infinity::<F>(x.neg != y.neg);
    }
    let p = (!x.zero() && !y.zero()).then(|| Real::product(&x, &y));
    let s = match p {
        Some(p) => k.real().plus(p),
        None => Some(k.real()),
    };
    match s {
        Some(s) => round::<F>(env, Real { exp: s.exp - halve, ..s }),
        None => zero::<F>(env.zero_sum_sign()),
    }
}

/// FPRecipStepFused: `2 - a * b`.
pub fn recip_step<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    step::<F>(env, a, b, Num::positive(1, 1 << 63), 0, (F::BIAS as u64 + 1) << F::FRAC)
}

/// FPRSqrtStepFused: `(3 - a * b) / 2`.
pub fn rsqrt_step<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    step::<F>(env, a, b, Num::positive(1, 3 << 62), 1, (F::BIAS as u64) << F::FRAC | F::QUIET)
}
