//! Numbers taken apart (FPUnpack), exact sums of them, and rounding (FPRound).

use super::{Env, Format, Rounding, fpcr, fpsr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Zero,
    Finite,
    Infinity,
    QNaN,
    SNaN,
}

/// A number taken apart. The magnitude of a finite one is `sig * 2^(exp - 63)`, with bit 63 of `sig` set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Num {
    pub class: Class,
    pub neg: bool,
    pub exp: i32,
    pub sig: u64,
}

impl Num {
    #[inline(always)]
    pub fn nan(&self) -> bool {
        matches!(self.class, Class::QNaN | Class::SNaN)
    }
    #[inline(always)]
    pub fn infinite(&self) -> bool {
        self.class == Class::Infinity
    }
    #[inline(always)]
    pub fn zero(&self) -> bool {
        self.class == Class::Zero
    }
    /// A positive number `sig * 2^(exp - 63)`.
    pub const fn positive(exp: i32, sig: u64) -> Num {
        Num { class: Class::Finite, neg: false, exp, sig }
    }
    #[inline(always)]
    pub fn real(&self) -> Real {
        Real { neg: self.neg, exp: self.exp, sig: u128::from(self.sig) << 63 }
    }
}

/// FPUnpack: flushes denormals as FPCR says; half precision is IEEE's.
#[inline(always)]
pub(super) fn unpack<F: Format>(env: &mut Env, a: u64) -> Num {
    unpack_with::<F>(env, a, env.has(F::FLUSH), false)
}

/// FPUnpackCV: half precision is never flushed, and IEEE's or alternative as FPCR says.
#[inline(always)]
pub(super) fn unpack_cv<F: Format>(env: &mut Env, a: u64) -> Num {
    unpack_with::<F>(env, a, !F::HALF && env.has(fpcr::FZ), F::HALF && env.has(fpcr::AHP))
}

#[inline(always)]
fn unpack_with<F: Format>(env: &mut Env, a: u64, flush: bool, ahp: bool) -> Num {
    let neg = a & F::SIGN != 0;
    let e = a >> F::FRAC & F::EXP_MAX;
    let frac = a & F::FRAC_MASK;
    let mut n = Num { class: Class::Finite, neg, exp: e as i32 - F::BIAS, sig: 0 };
    if e == 0 {
        if frac == 0 || flush {
            if frac != 0 {
                env.raise(F::INPUT_DENORMAL);
            }
            n.class = Class::Zero;
        } else {
            let lz = frac.leading_zeros();
            n.sig = frac << lz;
            n.exp = F::EMIN + 63 - F::FRAC as i32 - lz as i32;
        }
    } else if e == F::EXP_MAX && !ahp {
        n.class = if frac == 0 {
            Class::Infinity
        } else if frac & F::QUIET != 0 {
            Class::QNaN
        } else {
            Class::SNaN
        };
    } else {
        n.sig = (frac | F::ONE) << (63 - F::FRAC);
    }
    n
}

/// `value` shifted right by `n`; bits that fall out leave their mark in bit 0.
#[inline(always)]
pub(super) fn shift_right_jam(value: u128, n: u32) -> u128 {
    if n == 0 {
        value
    } else if n < 128 {
        value >> n | u128::from(value << (128 - n) != 0)
    } else {
        u128::from(value != 0)
    }
}

/// A magnitude `sig * 2^(exp - 126)` not zero, with bit 126 the highest of an operand of [`Real::plus`]. Bit 0 may stand
/// for any non-zero rest; rounding happens far above it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Real {
    pub neg: bool,
    pub exp: i32,
    pub sig: u128,
}

impl Real {
    /// The exact product of two finite numbers of at most 53 bits.
    #[inline(always)]
    pub fn product(a: &Num, b: &Num) -> Real {
        let p = u128::from(a.sig) * u128::from(b.sig);
        let carry = (p >> 127) as u32;
        Real { neg: a.neg != b.neg, exp: a.exp + b.exp + carry as i32, sig: p >> carry }
    }

    /// The exact sum; `None` is zero.
    #[inline(always)]
    pub fn plus(self, b: Real) -> Option<Real> {
        let (big, small) =
            if self.exp > b.exp || self.exp == b.exp && self.sig >= b.sig { (self, b) } else { (b, self) };
        let rest = shift_right_jam(small.sig, (big.exp - small.exp) as u32);
        let sig = if big.neg == small.neg { big.sig + rest } else { big.sig - rest };
        (sig != 0).then_some(Real { sig, ..big })
    }
}

#[inline(always)]
pub(super) fn zero<F: Format>(neg: bool) -> u64 {
    if neg { F::SIGN } else { 0 }
}

#[inline(always)]
pub(super) fn infinity<F: Format>(neg: bool) -> u64 {
    F::INF | zero::<F>(neg)
}

/// Largest finite number.
#[inline(always)]
pub(super) fn max_normal<F: Format>(neg: bool) -> u64 {
    (F::INF - 1) | zero::<F>(neg)
}

#[inline(always)]
pub(super) fn overflow_to_infinity(mode: Rounding, neg: bool) -> bool {
    match mode {
        Rounding::TieEven | Rounding::TieAway => true,
        Rounding::PosInf => !neg,
        Rounding::NegInf => neg,
        Rounding::Zero | Rounding::Odd => false,
    }
}

/// FPRound with the mode of FPCR.
#[inline(always)]
pub(super) fn round<F: Format>(env: &mut Env, r: Real) -> u64 {
    round_with::<F>(env, r, env.rounding(), env.has(F::FLUSH), false)
}

/// FPRoundCV: half precision is never flushed, and IEEE's or alternative as FPCR says.
#[inline(always)]
pub(super) fn round_cv<F: Format>(env: &mut Env, r: Real, mode: Rounding) -> u64 {
    round_with::<F>(env, r, mode, !F::HALF && env.has(fpcr::FZ), F::HALF && env.has(fpcr::AHP))
}

/// FPRoundBase.
pub(super) fn round_with<F: Format>(env: &mut Env, r: Real, mode: Rounding, flush: bool, ahp: bool) -> u64 {
    let sign = zero::<F>(r.neg);
    let lz = r.sig.leading_zeros();
    let exp = r.exp + 1 - lz as i32;
    let sig = r.sig << (lz & 127);
    let m = (sig >> 64) as u64 | u64::from(sig as u64 != 0);
    if flush && exp < F::EMIN {
        env.raise(fpsr::UFC);
        return sign;
    }
    // The field of the exponent, less one where the significand's leading bit will carry into it.
    let mut drop = 63 - F::FRAC;
    let (m, base) = if exp < F::EMIN {
        drop += (F::EMIN - exp) as u32;
        if drop > 63 {
            let m = shift_right_jam(u128::from(m), drop - 63) as u64;
            drop = 63;
            (m, 0)
        } else {
            (m, 0)
        }
    } else {
        (m, ((exp - F::EMIN) as u64) << F::FRAC)
    };
    let rest = m & ((1 << drop) - 1);
    let mut out = base + (m >> drop);
    let mut inexact = rest != 0;
    if inexact {
        if exp < F::EMIN {
            env.raise(fpsr::UFC);
        }
        let half = 1u64 << (drop - 1);
        let up = match mode {
            Rounding::TieEven => rest > half || rest == half && out & 1 != 0,
            Rounding::TieAway => rest >= half,
            Rounding::PosInf => !r.neg,
            Rounding::NegInf => r.neg,
            Rounding::Zero => false,
            Rounding::Odd => {
                out |= 1;
                false
            }
        };
        out += u64::from(up);
    }
    if ahp {
        if out >> F::FRAC > F::EXP_MAX {
            env.raise(fpsr::IOC);
            return sign | (F::SIGN - 1);
        }
    } else if out >> F::FRAC >= F::EXP_MAX {
        env.raise(fpsr::OFC);
        inexact = true;
        out = if overflow_to_infinity(mode, r.neg) { F::INF } else { F::INF - 1 };
    }
    if inexact {
        env.raise(fpsr::IXC);
    }
    sign | out
}

/// FPProcessNaN.
#[inline]
pub(super) fn process_nan<F: Format>(env: &mut Env, n: &Num, a: u64) -> u64 {
    if n.class == Class::SNaN {
        env.raise(fpsr::IOC);
    }
    if env.has(fpcr::DN) { F::DEFAULT_NAN } else { a | F::QUIET }
}

/// FPProcessNaNs: a signalling NaN before a quiet one, the first operand before the second.
#[inline(always)]
pub(super) fn process_nans<F: Format>(env: &mut Env, x: &Num, y: &Num, a: u64, b: u64) -> Option<u64> {
    if !x.nan() && !y.nan() {
        return None;
    }
    Some(nans::<F>(env, &[(x, a), (y, b)]))
}

#[cold]
pub(super) fn nans<F: Format>(env: &mut Env, ops: &[(&Num, u64)]) -> u64 {
    for class in [Class::SNaN, Class::QNaN] {
        if let Some((n, a)) = ops.iter().find(|(n, _)| n.class == class) {
            return process_nan::<F>(env, n, *a);
        }
    }
    F::DEFAULT_NAN
}

/// Invalid operation: the default NaN.
#[cold]
pub(super) fn invalid<F: Format>(env: &mut Env) -> u64 {
    env.raise(fpsr::IOC);
    F::DEFAULT_NAN
}
