//! SHA-1 (FIPS 180-4) four rounds at a time (Arm ARM C7.2, SHA1C and following).

use super::{from_words, words};

#[inline(always)]
fn rounds(abcd: u128, mut e: u32, w: u128, f: impl Fn(u32, u32, u32) -> u32) -> u128 {
    let [mut a, mut b, mut c, mut d] = words(abcd);
    for w in words(w) {
        let t = e.wrapping_add(a.rotate_left(5)).wrapping_add(f(b, c, d)).wrapping_add(w);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, t);
    }
    from_words([a, b, c, d])
}

/// SHA1C: four rounds with the choose function.
#[inline]
pub fn sha1c(abcd: u128, e: u32, w: u128) -> u128 {
    rounds(abcd, e, w, |x, y, z| ((y ^ z) & x) ^ z)
}

/// SHA1M: four rounds with the majority function.
#[inline]
pub fn sha1m(abcd: u128, e: u32, w: u128) -> u128 {
    rounds(abcd, e, w, |x, y, z| (x & y) | ((x | y) & z))
}

/// SHA1P: four rounds with parity.
#[inline]
pub fn sha1p(abcd: u128, e: u32, w: u128) -> u128 {
    rounds(abcd, e, w, |x, y, z| x ^ y ^ z)
}

/// SHA1H: the fixed rotation.
#[inline]
pub fn sha1h(e: u32) -> u32 {
    e.rotate_left(30)
}

/// SHA1SU0: first half of the schedule update.
#[inline]
pub fn sha1su0(d: u128, n: u128, m: u128) -> u128 {
    (n << 64 | d >> 64) ^ d ^ m
}

/// SHA1SU1: second half of the schedule update.
#[inline]
pub fn sha1su1(d: u128, n: u128) -> u128 {
    let [a, b, c, e] = words(d ^ (n >> 32)).map(|w| w.rotate_left(1));
    from_words([a, b, c, e ^ a.rotate_left(1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fips_180_abc() {
        let mut block = [0u8; 64];
        block[..4].copy_from_slice(b"abc\x80");
        block[63] = 24;
        let words_of = |i: usize| {
            from_words(std::array::from_fn(|k| {
                let p = 16 * i + 4 * k;
                u32::from_be_bytes([block[p], block[p + 1], block[p + 2], block[p + 3]])
            }))
        };
        let mut w: Vec<u128> = (0..4).map(words_of).collect();
        for i in 4..20 {
            w.push(sha1su1(sha1su0(w[i - 4], w[i - 3], w[i - 2]), w[i - 1]));
        }
        let h = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0u32];
        let (mut abcd, mut e) = (from_words([h[0], h[1], h[2], h[3]]), h[4]);
        const K: [u32; 4] = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6];
        for (i, w) in w.iter().enumerate() {
            let wk = from_words(words(*w).map(|x| x.wrapping_add(K[i / 5])));
            let next = sha1h(abcd as u32);
            abcd = match i / 5 {
                0 => sha1c(abcd, e, wk),
                2 => sha1m(abcd, e, wk),
                _ => sha1p(abcd, e, wk),
            };
            e = next;
        }
        let [a, b, c, d] = words(abcd);
        let sum: Vec<u32> = [a, b, c, d, e].iter().zip(h).map(|(x, y)| x.wrapping_add(y)).collect();
        assert_eq!(sum, [0xa999_3e36, 0x4706_816a, 0xba3e_2571, 0x7850_c26c, 0x9cd0_d89d]);
    }
}
