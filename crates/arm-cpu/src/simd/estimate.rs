//! Estimates of reciprocals, in integers (Arm ARM shared pseudocode RecipEstimate, RecipSqrtEstimate): used by the
//! fixed-point instructions here and by the floating-point ones.

use super::lanes::{Vector, map1};

/// RecipEstimate: `a` is 256 to 511 (0.5 to 1), the result 256 to 511 (1 to 2).
#[inline]
pub fn recip_estimate(a: u32) -> u32 {
    ((1 << 19) / (2 * a + 1)).div_ceil(2)
}

/// RecipSqrtEstimate: `a` is 128 to 511 (0.25 to 1), the result 256 to 511 (1 to 2).
#[inline]
pub fn recip_sqrt_estimate(a: u32) -> u32 {
    let a = if a < 256 { 2 * a + 1 } else { ((a >> 1 << 1) + 1) * 2 };
    // The largest b, from 512 on, with a * b^2 < 2^28.
    let b = ((1u32 << 28).div_ceil(a) - 1).isqrt().max(512);
    b.div_ceil(2)
}

/// URECPE.
#[inline(always)]
pub fn urecpe(n: Vector) -> Vector {
    map1::<u32>(n, |x| if x >> 31 == 0 { !0 } else { recip_estimate(x >> 23) << 23 })
}

/// URSQRTE.
#[inline(always)]
pub fn ursqrte(n: Vector) -> Vector {
    map1::<u32>(n, |x| if x >> 30 == 0 { !0 } else { recip_sqrt_estimate(x >> 23) << 23 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn square_roots_agree_with_the_manuals_loop() {
        for input in 128..512u64 {
            let a = if input < 256 { input * 2 + 1 } else { ((input >> 1 << 1) + 1) * 2 };
            let mut b = 512;
            while a * (b + 1) * (b + 1) < 1 << 28 {
                b += 1;
            }
            assert_eq!(u64::from(recip_sqrt_estimate(input as u32)), b.div_ceil(2), "{input}");
        }
    }

    #[test]
    fn reciprocals_stay_within_nine_bits() {
        assert_eq!((recip_estimate(256), recip_estimate(511)), (511, 256));
        assert!((256..512).all(|a| (256..512).contains(&recip_estimate(a))));
    }
}
