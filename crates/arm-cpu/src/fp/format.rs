//! The formats, and for single and double precision the host's arithmetic.

use super::{Env, fpcr, fpsr};

/// A floating-point format.
///
/// The `host_*` functions are only called in round-to-nearest mode without flushing; they give `None` unless operands
/// and result are ordinary, and otherwise set Inexact as it should be.
pub trait Format: Copy + 'static {
    /// Width.
    const BITS: u32;
    /// Width of the fraction.
    const FRAC: u32;
    /// IEEE half precision, with its own flush control and the alternative format.
    const HALF: bool = false;
    /// All bits.
    const MASK: u64 = u64::MAX >> (64 - Self::BITS);
    /// Sign bit.
    const SIGN: u64 = 1 << (Self::BITS - 1);
    /// Exponent field of infinity and NaN.
    const EXP_MAX: u64 = (1 << (Self::BITS - 1 - Self::FRAC)) - 1;
    /// Bias of the exponent field.
    const BIAS: i32 = (Self::EXP_MAX >> 1) as i32;
    /// Exponent of the smallest normal number.
    const EMIN: i32 = 1 - Self::BIAS;
    /// The implied bit of a normal number.
    const ONE: u64 = 1 << Self::FRAC;
    /// Fraction bits.
    const FRAC_MASK: u64 = Self::ONE - 1;
    /// The bit that makes a NaN quiet.
    const QUIET: u64 = Self::ONE >> 1;
    /// Plus infinity.
    const INF: u64 = Self::EXP_MAX << Self::FRAC;
    /// FPDefaultNaN.
    const DEFAULT_NAN: u64 = Self::INF | Self::QUIET;
    /// FPCR bit that flushes denormals.
    const FLUSH: u32 = if Self::HALF { fpcr::FZ16 } else { fpcr::FZ };
    /// FPSR flag of a flushed operand; none in half precision.
    const INPUT_DENORMAL: u32 = if Self::HALF { 0 } else { fpsr::IDC };

    /// Sum.
    #[inline(always)]
    fn host_add(_: &mut Env, _: u64, _: u64) -> Option<u64> {
        None
    }
    /// Product.
    #[inline(always)]
    fn host_mul(_: &mut Env, _: u64, _: u64) -> Option<u64> {
        None
    }
    /// Quotient.
    #[inline(always)]
    fn host_div(_: &mut Env, _: u64, _: u64) -> Option<u64> {
        None
    }
    /// Square root.
    #[inline(always)]
    fn host_sqrt(_: &mut Env, _: u64) -> Option<u64> {
        None
    }
    /// `c + a * b`, rounded once.
    #[inline(always)]
    fn host_mul_add(_: &mut Env, _c: u64, _a: u64, _b: u64) -> Option<u64> {
        None
    }
}

/// Half precision, IEEE or (in conversions) alternative.
#[derive(Clone, Copy, Debug)]
pub struct Half;
/// BFloat16.
#[derive(Clone, Copy, Debug)]
pub struct BFloat;
/// Single precision.
#[derive(Clone, Copy, Debug)]
pub struct Single;
/// Double precision.
#[derive(Clone, Copy, Debug)]
pub struct Double;

impl Format for Half {
    const BITS: u32 = 16;
    const FRAC: u32 = 10;
    const HALF: bool = true;
}

impl Format for BFloat {
    const BITS: u32 = 16;
    const FRAC: u32 = 7;
}

/// Normal and not the smallest normal binade, so that the unrounded result was not tiny either.
#[inline(always)]
pub(super) fn ordinary<F: Format>(r: u64) -> bool {
    (r >> F::FRAC & F::EXP_MAX).wrapping_sub(2) < F::EXP_MAX - 2
}

#[inline(always)]
fn inexact_known(env: &Env) -> bool {
    env.fpsr & fpsr::IXC != 0
}

#[inline(always)]
fn inexact(env: &mut Env, yes: bool) {
    env.fpsr |= if yes { fpsr::IXC } else { 0 };
}

#[inline(always)]
fn s(a: u64) -> f32 {
    f32::from_bits(a as u32)
}

#[inline(always)]
fn d(a: u64) -> f64 {
    f64::from_bits(a)
}

impl Format for Single {
    const BITS: u32 = 32;
    const FRAC: u32 = 23;

    #[inline(always)]
    fn host_add(env: &mut Env, a: u64, b: u64) -> Option<u64> {
        let (x, y) = (s(a), s(b));
        let sum = x + y;
        let r = u64::from(sum.to_bits());
        // A zero sum of finite numbers is exact.
        if !ordinary::<Self>(r) && sum != 0.0 {
            return None;
        }
        if !inexact_known(env) {
            // Knuth's TwoSum: the rounding error of a sum is a number of the format.
            let y1 = sum - x;
            let err = (x - (sum - y1)) + (y - y1);
            if !err.is_finite() {
                return None;
            }
            inexact(env, err != 0.0);
        }
        Some(r)
    }

    #[inline(always)]
    fn host_mul(env: &mut Env, a: u64, b: u64) -> Option<u64> {
        // 48 bits: exact in double precision.
        let p = f64::from(s(a)) * f64::from(s(b));
        let r = p as f32;
        let bits = u64::from(r.to_bits());
        if !ordinary::<Self>(bits) && p != 0.0 {
            return None;
        }
        inexact(env, f64::from(r) != p);
        Some(bits)
    }

    #[inline(always)]
    fn host_div(env: &mut Env, a: u64, b: u64) -> Option<u64> {
        let (x, y) = (s(a), s(b));
        let q = x / y;
        let r = u64::from(q.to_bits());
        if !ordinary::<Self>(r) {
            return None;
        }
        inexact(env, f64::from(q) * f64::from(y) != f64::from(x));
        Some(r)
    }

    #[inline(always)]
    fn host_sqrt(env: &mut Env, a: u64) -> Option<u64> {
        let x = s(a);
        let q = x.sqrt();
        let r = u64::from(q.to_bits());
        if !ordinary::<Self>(r) {
            return None;
        }
        inexact(env, f64::from(q) * f64::from(q) != f64::from(x));
        Some(r)
    }

    #[inline(always)]
    fn host_mul_add(env: &mut Env, c: u64, a: u64, b: u64) -> Option<u64> {
        // The sum of exact product and addend rounded to odd in 53 bits, then to nearest in 24: the same as rounding
        // once (Boldo and Melquiond, 2008).
        let p = f64::from(s(a)) * f64::from(s(b));
        let c = f64::from(s(c));
        let sum = p + c;
        let c1 = sum - p;
        let err = (p - (sum - c1)) + (c - c1);
        let mut odd = sum.to_bits();
        if err != 0.0 && odd & 1 == 0 {
            // The true value lies on the side of `err`.
            if (err > 0.0) == (sum > 0.0) {
                odd += 1;
            } else {
                odd -= 1;
            }
        }
        let odd = f64::from_bits(odd);
        let r = odd as f32;
        let bits = u64::from(r.to_bits());
        if !ordinary::<Self>(bits) {
            return None;
        }
        inexact(env, err != 0.0 || f64::from(r) != odd);
        Some(bits)
    }
}

/// Number of bits from the leading to the last one bit of the significand, at most.
#[inline(always)]
fn significant(a: u64) -> u32 {
    53 - (a & Double::FRAC_MASK | Double::ONE).trailing_zeros()
}

impl Format for Double {
    const BITS: u32 = 64;
    const FRAC: u32 = 52;

    #[inline(always)]
    fn host_add(env: &mut Env, a: u64, b: u64) -> Option<u64> {
        let (x, y) = (d(a), d(b));
        let sum = x + y;
        let r = sum.to_bits();
        if !ordinary::<Self>(r) && sum != 0.0 {
            return None;
        }
        if !inexact_known(env) {
            let y1 = sum - x;
            let err = (x - (sum - y1)) + (y - y1);
            if !err.is_finite() {
                return None;
            }
            inexact(env, err != 0.0);
        }
        Some(r)
    }

    #[inline(always)]
    fn host_mul(env: &mut Env, a: u64, b: u64) -> Option<u64> {
        let (x, y) = (d(a), d(b));
        let p = x * y;
        let r = p.to_bits();
        let zero = p == 0.0 && (x == 0.0 || y == 0.0);
        if !zero && (!ordinary::<Self>(r) || !inexact_known(env) && significant(a) + significant(b) > 53) {
            return None;
        }
        Some(r)
    }

    #[inline(always)]
    fn host_div(env: &mut Env, a: u64, b: u64) -> Option<u64> {
        let r = (d(a) / d(b)).to_bits();
        (ordinary::<Self>(r) && inexact_known(env)).then_some(r)
    }

    #[inline(always)]
    fn host_sqrt(env: &mut Env, a: u64) -> Option<u64> {
        let r = d(a).sqrt().to_bits();
        (ordinary::<Self>(r) && inexact_known(env)).then_some(r)
    }

    #[inline(always)]
    fn host_mul_add(env: &mut Env, c: u64, a: u64, b: u64) -> Option<u64> {
        if !inexact_known(env) {
            return None;
        }
        // A call of the C library's fma, which uses the host's instruction where there is one.
        let r = d(a).mul_add(d(b), d(c)).to_bits();
        ordinary::<Self>(r).then_some(r)
    }
}
