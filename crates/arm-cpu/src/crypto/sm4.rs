//! SM4 (GB/T 32907-2016) four rounds at a time.

use super::{field_inverse, from_words, words};

/// x^8 + x^7 + x^6 + x^5 + x^4 + x^2 + 1.
const POLY: u32 = 0x1f5;

/// The affine map of the substitution: bit i is the parity of the bits of `x` under the row 0xA7 rotated by i.
const fn affine(x: u8) -> u8 {
    let (mut r, mut i) = (0xd3, 0);
    while i < 8 {
        r ^= (((x & 0xa7u8.rotate_left(i)).count_ones() & 1) as u8) << i;
        i += 1;
    }
    r
}

static SBOX: [u8; 256] = {
    let mut t = [0; 256];
    let mut n = 0;
    while n < 256 {
        t[n] = affine(field_inverse(affine(n as u8), POLY));
        n += 1;
    }
    t
};

#[inline(always)]
fn substitute(x: u32) -> u32 {
    u32::from_le_bytes(x.to_le_bytes().map(|b| SBOX[b as usize]))
}

#[inline(always)]
fn rounds(state: u128, keys: u128, linear: impl Fn(u32) -> u32) -> u128 {
    let mut s = words(state);
    for k in words(keys) {
        let t = s[0] ^ linear(substitute(s[1] ^ s[2] ^ s[3] ^ k));
        s = [s[1], s[2], s[3], t];
    }
    from_words(s)
}

/// SM4E: four rounds of encryption.
#[inline]
pub fn sm4e(state: u128, keys: u128) -> u128 {
    rounds(state, keys, |x| x ^ x.rotate_left(2) ^ x.rotate_left(10) ^ x.rotate_left(18) ^ x.rotate_left(24))
}

/// SM4EKEY: four rounds of key expansion.
#[inline]
pub fn sm4ekey(keys: u128, constants: u128) -> u128 {
    rounds(keys, constants, |x| x ^ x.rotate_left(13) ^ x.rotate_left(23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gb_t_32907_example_1() {
        assert_eq!([SBOX[0], SBOX[1], SBOX[0xef], SBOX[0xff]], [0xd6, 0x90, 0x84, 0x48]);
        let text = [0x0123_4567, 0x89ab_cdef, 0xfedc_ba98, 0x7654_3210u32];
        const FK: [u32; 4] = [0xa3b1_bac6, 0x56aa_3350, 0x677d_9197, 0xb270_22dc];
        let ck = |i: u32| u32::from_be_bytes(std::array::from_fn(|j| ((4 * i + j as u32) * 7) as u8));
        let mut key = from_words(std::array::from_fn(|i| text[i] ^ FK[i]));
        let mut s = from_words(text);
        for r in 0..8u32 {
            key = sm4ekey(key, from_words(std::array::from_fn(|j| ck(4 * r + j as u32))));
            s = sm4e(s, key);
        }
        let mut out = words(s);
        out.reverse();
        assert_eq!(out, [0x681e_df34, 0xd206_965e, 0x86b3_e94f, 0x536e_4246]);
    }
}
