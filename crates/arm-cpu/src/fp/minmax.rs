//! Maximum and minimum, with NaNs propagated (FPMax, FPMin) or taken for missing (FPMaxNum, FPMinNum).

use super::Env;
use super::compare::{key, signalling};
use super::format::Format;
use super::real::{nans, unpack, zero};

#[inline(always)]
fn pick<F: Format>(env: &mut Env, a: u64, b: u64, max: bool) -> u64 {
    let (Some(x), Some(y)) = (key::<F>(env, a), key::<F>(env, b)) else {
        // The keys have raised what flushing raises.
        let (p, q) = (unpack::<F>(env, a), unpack::<F>(env, b));
        return nans::<F>(env, &[(&p, a), (&q, b)]);
    };
    if x == 0 && y == 0 {
        let (p, q) = (a & F::SIGN != 0, b & F::SIGN != 0);
        return zero::<F>(if max { p && q } else { p || q });
    }
    let (r, k) = if (x > y) == max && x != y { (a, x) } else { (b, y) };
    // A flushed denormal is a zero.
    if k == 0 { r & F::SIGN } else { r }
}

/// FPMax.
#[inline(always)]
pub fn max<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    pick::<F>(env, a, b, true)
}

/// FPMin.
#[inline(always)]
pub fn min<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    pick::<F>(env, a, b, false)
}

/// Exactly one quiet NaN becomes `instead`.
#[inline(always)]
fn missing<F: Format>(a: u64, b: u64, instead: u64) -> (u64, u64) {
    let quiet = |v: u64| v & (F::SIGN - 1) > F::INF && !signalling::<F>(v);
    match (quiet(a), quiet(b)) {
        (true, false) => (instead, b),
        (false, true) => (a, instead),
        _ => (a, b),
    }
}

/// FPMaxNum.
#[inline(always)]
pub fn max_num<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    let (a, b) = missing::<F>(a, b, F::INF | F::SIGN);
    max::<F>(env, a, b)
}

/// FPMinNum.
#[inline(always)]
pub fn min_num<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    let (a, b) = missing::<F>(a, b, F::INF);
    min::<F>(env, a, b)
}
