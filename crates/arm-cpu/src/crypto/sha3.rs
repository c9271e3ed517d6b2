//! Steps of Keccak (FIPS 202) that FEAT_SHA3 offers.

use super::{dwords, from_dwords};

/// EOR3.
#[inline(always)]
pub fn eor3(n: u128, m: u128, a: u128) -> u128 {
    n ^ m ^ a
}

/// BCAX: bit clear and exclusive OR.
#[inline(always)]
pub fn bcax(n: u128, m: u128, a: u128) -> u128 {
    n ^ (m & !a)
}

/// RAX1: rotate left by 1 and exclusive OR.
#[inline(always)]
pub fn rax1(n: u128, m: u128) -> u128 {
    n ^ from_dwords(dwords(m).map(|x| x.rotate_left(1)))
}

/// XAR: exclusive OR and rotate right.
#[inline(always)]
pub fn xar(n: u128, m: u128, by: u32) -> u128 {
    from_dwords(dwords(n ^ m).map(|x| x.rotate_right(by)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keccak-f[1600] made of the four functions, each lane in the low half.
    fn keccak(a: &mut [u64; 25]) {
        let mut lfsr = 1u8;
        let v = u128::from;
        for _ in 0..24 {
            let c: [u64; 5] = std::array::from_fn(|x| {
                eor3(eor3(v(a[x]), v(a[x + 5]), v(a[x + 10])), v(a[x + 15]), v(a[x + 20])) as u64
            });
            let d: [u64; 5] = std::array::from_fn(|x| rax1(v(c[(x + 4) % 5]), v(c[(x + 1) % 5])) as u64);
            let mut b = [0; 25];
            let mut offset = [0u32; 25];
            let (mut x, mut y) = (1, 0);
            for t in 0..24u32 {
                offset[x + 5 * y] = (t + 1) * (t + 2) / 2 % 64;
                (x, y) = (y, (2 * x + 3 * y) % 5);
            }
            for y in 0..5 {
                for x in 0..5 {
                    let right = (64 - offset[x + 5 * y]) % 64;
                    b[y + 5 * ((2 * x + 3 * y) % 5)] = xar(v(a[x + 5 * y]), v(d[x]), right) as u64;
                }
            }
            for y in 0..5 {
                for x in 0..5 {
                    a[x + 5 * y] =
                        bcax(v(b[x + 5 * y]), v(b[(x + 2) % 5 + 5 * y]), v(b[(x + 1) % 5 + 5 * y])) as u64;
                }
            }
            for j in 0..7 {
                if lfsr & 1 != 0 {
                    a[0] ^= 1 << ((1u32 << j) - 1);
                }
                lfsr = lfsr << 1 ^ if lfsr & 0x80 != 0 { 0x71 } else { 0 };
            }
        }
    }

    #[test]
    fn sha3_256_of_nothing() {
        let mut a = [0u64; 25];
        a[0] = 6;
        a[16] = 1 << 63;
        keccak(&mut a);
        assert_eq!(a[0].swap_bytes(), 0xa7ff_c6f8_bf1e_d766);
        assert_eq!(a[3].swap_bytes(), 0x82d8_0a4b_80f8_434a);
    }
}
