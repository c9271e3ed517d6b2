//! Reciprocal and reciprocal square root estimates (Arm ARM J1.3, RecipEstimate and RecipSqrtEstimate), and FRECPX.

use super::format::Format;
use super::real::{infinity, invalid, max_normal, overflow_to_infinity, process_nan, unpack, zero};
use super::{Env, fpsr};
use crate::simd::estimate::{recip_estimate as recip_estimate_9, recip_sqrt_estimate as rsqrt_estimate_9};

/// FPRecipEstimate.
pub fn recip_estimate<F: Format>(env: &mut Env, a: u64) -> u64 {
    let n = unpack::<F>(env, a);
    if n.nan() {
        return process_nan::<F>(env, &n, a);
    }
    if n.infinite() {
        return zero::<F>(n.neg);
    }
    if n.zero() {
        env.raise(fpsr::DZC);
        return infinity::<F>(n.neg);
    }
    if n.exp < F::EMIN - 2 {
        // Below a quarter of the smallest normal number.
        env.raise(fpsr::OFC | fpsr::IXC);
        let to_infinity = overflow_to_infinity(env.rounding(), n.neg);
        return if to_infinity { infinity::<F>(n.neg) } else { max_normal::<F>(n.neg) };
    }
    if env.has(F::FLUSH) && n.exp >= F::BIAS - 1 {
        env.raise(fpsr::UFC);
        return zero::<F>(n.neg);
    }
    let estimate = u64::from(recip_estimate_9((n.sig >> 55) as u32)) & 0xff;
    // Exponent field of the result, -1 to the largest; at 0 and -1 it is denormal.
    let exp = F::BIAS - 1 - n.exp;
    let frac = if F::FRAC >= 8 { estimate << (F::FRAC - 8) } else { estimate >> (8 - F::FRAC) };
    zero::<F>(n.neg)
        | match exp {
            0 => (F::ONE | frac) >> 1,
            -1 => (F::ONE | frac) >> 2,
            _ => (exp as u64) << F::FRAC | frac,
        }
}

/// FPRSqrtEstimate.
pub fn rsqrt_estimate<F: Format>(env: &mut Env, a: u64) -> u64 {
    let n = unpack::<F>(env, a);
    if n.nan() {
        return process_nan::<F>(env, &n, a);
    }
    if n.zero() {
        env.raise(fpsr::DZC);
        return infinity::<F>(n.neg);
    }
    if n.neg {
        return invalid::<F>(env);
    }
    if n.infinite() {
        return 0;
    }
    // By the lowest bit of the exponent field, the operand is scaled to 0.5..1 or to 0.25..0.5.
    let field = n.exp + F::BIAS;
    let scaled = if field & 1 == 0 { n.sig >> 55 } else { n.sig >> 56 } as u32;
    let exp = (3 * F::BIAS - 1 - field) >> 1;
    let estimate = u64::from(rsqrt_estimate_9(scaled)) & 0xff;
    (exp as u64) << F::FRAC | estimate << (F::FRAC - 8)
}

/// FPRecpX: the exponent reversed, the fraction zero.
pub fn recip_x<F: Format>(env: &mut Env, a: u64) -> u64 {
    let n = unpack::<F>(env, a);
    if n.nan() {
        return process_nan::<F>(env, &n, a);
    }
    let e = a >> F::FRAC & F::EXP_MAX;
    let e = if e == 0 { F::EXP_MAX - 1 } else { !e & F::EXP_MAX };
    a & F::SIGN | e << F::FRAC
}
