//! Carry-less multiplication by the host's instruction.

/// Product of 64-bit polynomials over {0, 1}; `None` where the host has no instruction for it.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn mul64(a: u64, b: u64) -> Option<u128> {
    // SAFETY: the feature was detected.
    std::arch::is_x86_feature_detected!("pclmulqdq").then(|| unsafe { pclmulqdq(a, b) })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "pclmulqdq")]
fn pclmulqdq(a: u64, b: u64) -> u128 {
    use std::arch::x86_64::{_mm_clmulepi64_si128, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_unpackhi_epi64};
    let r = _mm_clmulepi64_si128::<0>(_mm_cvtsi64_si128(a as i64), _mm_cvtsi64_si128(b as i64));
    let high = _mm_unpackhi_epi64(r, r);
    u128::from(_mm_cvtsi128_si64(high) as u64) << 64 | u128::from(_mm_cvtsi128_si64(r) as u64)
}

/// Product of 64-bit polynomials over {0, 1}; `None` where the host has no instruction for it.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub fn mul64(_a: u64, _b: u64) -> Option<u128> {
    None
}
