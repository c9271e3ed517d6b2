//! Conversions to and from integers and fixed-point numbers, and rounding to integral values.

use super::format::{Double, Format, Single};
use super::real::{Class, Num, Real, process_nan, round, round_with, unpack, zero};
use super::{Env, Rounding, fpsr};

/// Integer part and fraction (in units of 2^-64, bit 0 sticky) of `|n| * 2^fbits`. From 2^66 on the integer part is
/// cut: it is too large for any result.
#[inline(always)]
fn split(n: &Num, fbits: u32) -> (u128, u64) {
    match n.class {
        Class::Finite => {}
        Class::Infinity => return (1 << 66, 0),
        _ => return (0, 0),
    }
    let e = n.exp + fbits as i32;
    if e >= 66 {
        (1 << 66, 0)
    } else if e >= 63 {
        (u128::from(n.sig) << (e - 63), 0)
    } else if e >= -1 {
        let w = u128::from(n.sig) << 64 >> (63 - e);
        (w >> 64, w as u64)
    } else {
        // Below a half.
        (0, 1)
    }
}

/// Is the magnitude rounded up?
#[inline(always)]
fn up(mode: Rounding, neg: bool, int: u128, frac: u64) -> bool {
    const HALF: u64 = 1 << 63;
    match mode {
        Rounding::TieEven => frac > HALF || frac == HALF && int & 1 != 0,
        Rounding::TieAway => frac >= HALF,
        Rounding::PosInf => frac != 0 && !neg,
        Rounding::NegInf => frac != 0 && neg,
        Rounding::Zero | Rounding::Odd => false,
    }
}

/// FPToFixed: to an integer of `width` bits after multiplication by 2^fbits, saturating.
#[inline]
pub fn to_fixed<F: Format>(
    env: &mut Env,
    a: u64,
    fbits: u32,
    unsigned: bool,
    mode: Rounding,
    width: u32,
) -> u64 {
    if F::BITS >= 32 && mode == Rounding::Zero && fbits == 0 && !env.has(F::FLUSH) {
        // C's conversion, with the host's instruction, where neither saturation nor a NaN comes in.
        let x = if F::BITS == 32 { f32::from_bits(a as u32).into() } else { f64::from_bits(a) };
        let bound = (1u64 << (width - 1)) as f64;
        if x < bound && x > if unsigned { -1.0 } else { -bound } {
            let r = x as i64;
            if r as f64 != x {
                env.raise(fpsr::IXC);
            }
            return r as u64 & (u64::MAX >> (64 - width));
        }
    }
    let n = unpack::<F>(env, a);
    let (int, frac) = split(&n, fbits);
    let int = int + u128::from(up(mode, n.neg, int, frac));
    let mask = u64::MAX >> (64 - width);
    let limit: u128 = match (unsigned, n.neg) {
        (true, true) => 0,
        (true, false) => u128::from(mask),
        (false, true) => u128::from(mask >> 1) + 1,
        (false, false) => u128::from(mask >> 1),
    };
    let m = if int > limit || n.nan() {
        env.raise(fpsr::IOC);
        if n.nan() { 0 } else { limit as u64 }
    } else {
        if frac != 0 {
            env.raise(fpsr::IXC);
        }
        int as u64
    };
    (if n.neg { m.wrapping_neg() } else { m }) & mask
}

/// FixedToFP: an integer of `width` bits divided by 2^fbits.
#[inline]
pub fn fixed_to_fp<F: Format>(env: &mut Env, v: u64, fbits: u32, unsigned: bool, width: u32) -> u64 {
    let drop = 64 - width;
    let (neg, m) = if unsigned {
        (false, v << drop >> drop)
    } else {
        let s = (v << drop) as i64 >> drop;
        (s < 0, s.unsigned_abs())
    };
    if m == 0 {
        return 0;
    }
    if fbits == 0 && F::BITS == 64 && m < 1 << 53 {
        return (m as f64).to_bits() | zero::<Double>(neg);
    }
    if fbits == 0 && F::BITS == 32 && m < 1 << 24 {
        return u64::from((m as f32).to_bits()) | zero::<Single>(neg);
    }
    round::<F>(env, Real { neg, exp: 63 - fbits as i32, sig: u128::from(m) << 63 })
}

/// FPRoundInt: to an integral value in the same format; `exact` reports Inexact.
#[inline]
pub fn round_int<F: Format>(env: &mut Env, a: u64, mode: Rounding, exact: bool) -> u64 {
    let n = unpack::<F>(env, a);
    match n.class {
        Class::QNaN | Class::SNaN => return process_nan::<F>(env, &n, a),
        Class::Infinity => return a,
        Class::Zero => return zero::<F>(n.neg),
        Class::Finite => {}
    }
    if n.exp >= F::FRAC as i32 {
        return a;
    }
    let (int, frac) = split(&n, 0);
    if frac != 0 && exact {
        env.raise(fpsr::IXC);
    }
    integral::<F>(env, n.neg, int + u128::from(up(mode, n.neg, int, frac)))
}

/// An integer below 2^66 that the format holds exactly.
#[inline(always)]
fn integral<F: Format>(env: &mut Env, neg: bool, int: u128) -> u64 {
    if int == 0 {
        return zero::<F>(neg);
    }
    round_with::<F>(env, Real { neg, exp: 126, sig: int }, Rounding::Zero, false, false)
}

/// FPRoundIntN: to an integral value that fits a signed integer of `size` bits.
#[inline]
pub fn round_int_n<F: Format>(env: &mut Env, a: u64, mode: Rounding, size: u32) -> u64 {
    let n = unpack::<F>(env, a);
    if n.zero() {
        return zero::<F>(n.neg);
    }
    let (int, frac) = split(&n, 0);
    let int = int + u128::from(up(mode, n.neg, int, frac));
    let limit = (1u128 << (size - 1)) - u128::from(!n.neg);
    if n.nan() || int > limit {
        env.raise(fpsr::IOC);
        return F::SIGN | ((F::BIAS as u64 + u64::from(size) - 1) << F::FRAC);
    }
    if frac != 0 {
        env.raise(fpsr::IXC);
    }
    integral::<F>(env, n.neg, int)
}

/// FPToFixedJS: double precision to a 32-bit integer modulo 2^32, and PSTATE.Z: the conversion was exact.
pub fn to_fixed_js(env: &mut Env, a: u64) -> (u32, bool) {
    let n = unpack::<Double>(env, a);
    if n.nan() || n.infinite() {
        env.raise(fpsr::IOC);
        return (0, false);
    }
    if n.zero() {
        // Neither minus zero nor a flushed denormal is exact.
        return (0, a == 0);
    }
    let (int, frac) = split(&n, 0);
    let fits = int <= (1 << 31) - u128::from(!n.neg);
    let low = if n.exp < 63 {
        int as u32
    } else if n.exp < 95 {
        (n.sig as u32).wrapping_shl((n.exp - 63) as u32)
    } else {
        0
    };
    if !fits {
        env.raise(fpsr::IOC);
    } else if frac != 0 {
        env.raise(fpsr::IXC);
    }
    (if n.neg { low.wrapping_neg() } else { low }, fits && frac == 0)
}
