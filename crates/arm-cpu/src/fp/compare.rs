//! Comparisons. Bits of finite numbers and infinities order as sign-and-magnitude integers in every format.

use super::format::Format;
use super::{Env, fpsr};
use crate::state::nzcv;

/// A key that orders like the value, or `None` for a NaN; flushes denormals.
#[inline(always)]
pub(super) fn key<F: Format>(env: &mut Env, a: u64) -> Option<i64> {
    let mut m = a & (F::SIGN - 1);
    if m > F::INF {
        return None;
    }
    if env.has(F::FLUSH) && m < F::ONE && m != 0 {
        env.raise(F::INPUT_DENORMAL);
        m = 0;
    }
    Some(if a & F::SIGN != 0 { -(m as i64) } else { m as i64 })
}

#[inline(always)]
pub(super) fn signalling<F: Format>(a: u64) -> bool {
    a & (F::SIGN - 1) > F::INF && a & F::QUIET == 0
}

/// Both keys; `None` when one is a NaN, which is invalid when `signal` or when it is a signalling one.
#[inline(always)]
fn keys<F: Format>(env: &mut Env, a: u64, b: u64, signal: bool) -> Option<(i64, i64)> {
    let (x, y) = (key::<F>(env, a), key::<F>(env, b));
    if let (Some(x), Some(y)) = (x, y) {
        return Some((x, y));
    }
    if signal || signalling::<F>(a) || signalling::<F>(b) {
        env.raise(fpsr::IOC);
    }
    None
}

/// FPCompare: the flags, in bits 31:28.
#[inline(always)]
pub fn compare<F: Format>(env: &mut Env, a: u64, b: u64, signal: bool) -> u32 {
    match keys::<F>(env, a, b, signal) {
        None => nzcv::C | nzcv::V,
        Some((x, y)) if x == y => nzcv::Z | nzcv::C,
        Some((x, y)) if x < y => nzcv::N,
        Some(_) => nzcv::C,
    }
}

/// FPCompareEQ.
#[inline(always)]
pub fn compare_eq<F: Format>(env: &mut Env, a: u64, b: u64) -> bool {
    keys::<F>(env, a, b, false).is_some_and(|(x, y)| x == y)
}

/// FPCompareGE.
#[inline(always)]
pub fn compare_ge<F: Format>(env: &mut Env, a: u64, b: u64) -> bool {
    keys::<F>(env, a, b, true).is_some_and(|(x, y)| x >= y)
}

/// FPCompareGT.
#[inline(always)]
pub fn compare_gt<F: Format>(env: &mut Env, a: u64, b: u64) -> bool {
    keys::<F>(env, a, b, true).is_some_and(|(x, y)| x > y)
}
