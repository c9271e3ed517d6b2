//! BFloat16 dot product and multiply-add (FEAT_BF16, FEAT_EBF16).

use super::format::{BFloat, Format, Single};
use super::real::{Class, Num, Real, infinity, invalid, round_with, unpack, zero};
use super::{Env, add, fpcr, mul_add};

/// A BFloat16 number as single precision.
#[inline(always)]
fn widen(a: u64) -> u64 {
    a << 16
}

/// BFMulAddH: BFloat16 factors, fused, with all of FPCR.
#[inline]
pub fn bf_mul_add(env: &mut Env, c: u64, a: u64, b: u64) -> u64 {
    mul_add::<Single>(env, c, widen(a), widen(b))
}

/// BFDotAdd: `c + a.0 * b.0 + a.1 * b.1`. No flags.
pub fn bf_dot(fpcr: u32, c: u64, a: (u64, u64), b: (u64, u64)) -> u64 {
    if fpcr & fpcr::EBF != 0 {
        let mut env = Env { fpcr: fpcr | fpcr::DN, fpsr: 0 };
        let p = dot(&mut env, a, b);
        return add::<Single>(&mut env, c, p);
    }
    let p = sum(product(widen(a.0), widen(b.0)), product(widen(a.1), widen(b.1)));
    sum(c, p)
}

/// Denormals are always flushed, and nothing is reported.
fn flushed(a: u64) -> Num {
    unpack::<Single>(&mut Env { fpcr: fpcr::FZ, fpsr: 0 }, a)
}

/// BFRound: to odd, overflowing to infinity, denormals flushed.
fn bf_round(r: Real) -> u64 {
    let mut env = Env::default();
    let neg = r.neg;
    let v = round_with::<Single>(&mut env, r, super::Rounding::Odd, true, false);
    if env.fpsr & super::fpsr::OFC != 0 { infinity::<Single>(neg) } else { v }
}

/// BFMul.
fn product(a: u64, b: u64) -> u64 {
    let (x, y) = (flushed(a), flushed(b));
    if x.nan() || y.nan() || x.infinite() && y.zero() || x.zero() && y.infinite() {
        return Single::DEFAULT_NAN;
    }
    let neg = x.neg != y.neg;
    if x.infinite() || y.infinite() {
        infinity::<Single>(neg)
    } else if x.zero() || y.zero() {
        zero::<Single>(neg)
    } else {
        bf_round(Real::product(&x, &y))
    }
}

/// BFAdd.
fn sum(a: u64, b: u64) -> u64 {
    let (x, y) = (flushed(a), flushed(b));
    match (x.class, y.class) {
        (Class::QNaN | Class::SNaN, _) | (_, Class::QNaN | Class::SNaN) => Single::DEFAULT_NAN,
        (Class::Infinity, Class::Infinity) if x.neg != y.neg => Single::DEFAULT_NAN,
        (Class::Infinity, _) => infinity::<Single>(x.neg),
        (_, Class::Infinity) => infinity::<Single>(y.neg),
        (Class::Zero, Class::Zero) => zero::<Single>(x.neg && y.neg),
        (Class::Zero, _) => bf_round(y.real()),
        (_, Class::Zero) => bf_round(x.real()),
        _ => x.real().plus(y.real()).map_or(0, bf_round),
    }
}

/// FPDot: the sum of two products, rounded once.
fn dot(env: &mut Env, a: (u64, u64), b: (u64, u64)) -> u64 {
    let n = [a.0, b.0, a.1, b.1].map(|v| unpack::<BFloat>(env, v));
    let [x0, y0, x1, y1] = &n;
    let bad = |x: &Num, y: &Num| x.infinite() && y.zero() || x.zero() && y.infinite();
    let (neg0, neg1) = (x0.neg != y0.neg, x1.neg != y1.neg);
    let (inf0, inf1) = (x0.infinite() || y0.infinite(), x1.infinite() || y1.infinite());
    if n.iter().any(Num::nan) || bad(x0, y0) || bad(x1, y1) || inf0 && inf1 && neg0 != neg1 {
        return invalid::<Single>(env);
    }
    if inf0 || inf1 {
        return infinity::<Single>(if inf0 { neg0 } else { neg1 });
    }
    let p0 = (!x0.zero() && !y0.zero()).then(|| Real::product(x0, y0));
    let p1 = (!x1.zero() && !y1.zero()).then(|| Real::product(x1, y1));
    let s = match (p0, p1) {
        (Some(p), Some(q)) => p.plus(q),
        (None, None) if neg0 == neg1 => return zero::<Single>(neg0),
        (p, q) => p.or(q),
    };
    match s {
        Some(s) => {
            let (mode, flush) = (env.rounding(), env.fpcr & fpcr::FZ != 0);
            round_with::<Single>(env, s, mode, flush, false)
        }
        None => zero::<Single>(env.zero_sum_sign()),
    }
}
