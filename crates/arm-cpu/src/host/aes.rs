//! AES rounds by the host's instructions; `None` where it has none.

/// What one instruction does to a state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Shift rows, substitute (AESE after the key).
    Encrypt,
    /// Shift rows back, substitute back (AESD after the key).
    Decrypt,
    /// Mix columns.
    Mix,
    /// Mix columns back.
    Unmix,
}

/// Carries the step out.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn step(s: Step, state: u128) -> Option<u128> {
    // SAFETY: the feature was detected.
    std::arch::is_x86_feature_detected!("aes").then(|| unsafe { aes_ni(s, state) })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "aes")]
#[inline]
fn aes_ni(s: Step, state: u128) -> u128 {
    use std::arch::x86_64::*;
    let (x, zero) = (bytemuck::cast(state), _mm_setzero_si128());
    bytemuck::cast(match s {
        Step::Encrypt => _mm_aesenclast_si128(x, zero),
        Step::Decrypt => _mm_aesdeclast_si128(x, zero),
        // A whole round after the inverse of all of it but the mixing.
        Step::Mix => _mm_aesenc_si128(_mm_aesdeclast_si128(x, zero), zero),
        Step::Unmix => _mm_aesimc_si128(x),
    })
}

/// Carries the step out.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn step(_: Step, _: u128) -> Option<u128> {
    None
}
