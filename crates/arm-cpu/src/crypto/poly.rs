//! Polynomial multiplication over {0, 1}.

/// Carry-less product of 64-bit polynomials (PMULL with `.1Q`).
#[inline]
pub fn mul64(a: u64, b: u64) -> u128 {
    crate::host::clmul::mul64(a, b).unwrap_or_else(|| mul64_plain(a, b))
}

fn mul64_plain(a: u64, b: u64) -> u128 {
    let mut r = 0;
    for k in 0..64 {
        r ^= (u128::from(a) << k) & 0u128.wrapping_sub(u128::from(b >> k & 1));
    }
    r
}

/// Carry-less product of 8-bit polynomials.
#[inline(always)]
pub fn mul8(a: u8, b: u8) -> u16 {
    let mut r = 0;
    for k in 0..8 {
        r ^= (u16::from(a) << k) & 0u16.wrapping_sub(u16::from(b >> k & 1));
    }
    r
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_products() {
        assert_eq!(mul8(3, 3), 5);
        assert_eq!(mul8(0xff, 0xff), 0x5555);
        assert_eq!(mul64(u64::MAX, u64::MAX), 0x5555_5555_5555_5555_5555_5555_5555_5555);
        assert_eq!(mul64(1 << 63, 1 << 63), 1 << 126);
    }

    proptest::proptest! {
        #[test]
        fn host_and_plain_agree(a: u64, b: u64) {
            proptest::prop_assert_eq!(mul64(a, b), mul64_plain(a, b));
            proptest::prop_assert_eq!(mul64(a & 0xff, b & 0xff), u128::from(mul8(a as u8, b as u8)));
        }
    }
}
