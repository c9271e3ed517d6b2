//! AES single rounds (FIPS 197; Arm ARM shared pseudocode AESSubBytes, AESShiftRows, AESMixColumns).

use super::{field_inverse, field_mul};
use crate::host::aes::{self as host, Step};

const POLY: u32 = 0x11b;

const fn sbox() -> [u8; 256] {
    let mut t = [0; 256];
    let mut n = 0;
    while n < 256 {
        let x = field_inverse(n as u8, POLY);
        t[n] = x ^ x.rotate_left(1) ^ x.rotate_left(2) ^ x.rotate_left(3) ^ x.rotate_left(4) ^ 0x63;
        n += 1;
    }
    t
}

const fn inverted(s: [u8; 256]) -> [u8; 256] {
    let mut t = [0; 256];
    let mut n = 0;
    while n < 256 {
        t[s[n] as usize] = n as u8;
        n += 1;
    }
    t
}

static SBOX: [u8; 256] = sbox();
static INV_SBOX: [u8; 256] = inverted(sbox());

/// A column of the state as a word: what byte `x` of row 0 contributes under MixColumns with these coefficients.
const fn column(coefficients: [u8; 4]) -> [u32; 256] {
    let mut t = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut k = 0;
        while k < 4 {
            t[n] |= (field_mul(n as u8, coefficients[k], POLY) as u32) << (8 * k);
            k += 1;
        }
        n += 1;
    }
    t
}

static MIX: [u32; 256] = column([2, 1, 1, 3]);
static INV_MIX: [u32; 256] = column([14, 9, 13, 11]);

#[inline]
fn mix(state: u128, table: &[u32; 256]) -> u128 {
    super::from_words(super::words(state).map(|w| {
        let [a, b, c, d] = w.to_le_bytes().map(|x| table[x as usize]);
        a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d.rotate_left(24)
    }))
}

/// A step in plain integer operations.
fn plain(step: Step, state: u128) -> u128 {
    let s = state.to_le_bytes();
    match step {
        Step::Encrypt => u128::from_le_bytes(std::array::from_fn(|i| SBOX[s[(5 * i) & 15] as usize])),
        Step::Decrypt => u128::from_le_bytes(std::array::from_fn(|i| INV_SBOX[s[(13 * i) & 15] as usize])),
        Step::Mix => mix(state, &MIX),
        Step::Unmix => mix(state, &INV_MIX),
    }
}

#[inline(always)]
fn run(step: Step, state: u128) -> u128 {
    host::step(step, state).unwrap_or_else(|| plain(step, state))
}

/// AESE: add the round key, shift rows, substitute.
#[inline]
pub fn aese(state: u128, key: u128) -> u128 {
    run(Step::Encrypt, state ^ key)
}

/// AESD: add the round key, shift rows back, substitute back.
#[inline]
pub fn aesd(state: u128, key: u128) -> u128 {
    run(Step::Decrypt, state ^ key)
}

/// AESMC: mix columns.
#[inline]
pub fn aesmc(state: u128) -> u128 {
    run(Step::Mix, state)
}

/// AESIMC: mix columns back.
#[inline]
pub fn aesimc(state: u128) -> u128 {
    run(Step::Unmix, state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitution_has_the_published_values() {
        assert_eq!([SBOX[0], SBOX[1], SBOX[0x53], SBOX[0xff]], [0x63, 0x7c, 0xed, 0x16]);
        assert_eq!([INV_SBOX[0], INV_SBOX[0x63], INV_SBOX[0xff]], [0x52, 0, 0x7d]);
    }

    /// FIPS 197 key expansion for 128 bits.
    fn round_keys(key: [u8; 16]) -> [u128; 11] {
        let mut w = [[0u8; 4]; 44];
        for i in 0..4 {
            w[i].copy_from_slice(&key[4 * i..4 * i + 4]);
        }
        let mut rcon = 1;
        for i in 4..44 {
            let mut t = w[i - 1];
            if i % 4 == 0 {
                t.rotate_left(1);
                t = t.map(|b| SBOX[b as usize]);
                t[0] ^= rcon;
                rcon = field_mul(rcon, 2, POLY);
            }
            w[i] = std::array::from_fn(|k| w[i - 4][k] ^ t[k]);
        }
        std::array::from_fn(|r| {
            let mut b = [0; 16];
            for c in 0..4 {
                b[4 * c..4 * c + 4].copy_from_slice(&w[4 * r + c]);
            }
            u128::from_le_bytes(b)
        })
    }

    #[test]
    fn fips_197_appendix_c1_both_ways() {
        let plain: [u8; 16] = std::array::from_fn(|i| (i * 0x11) as u8);
        let k = round_keys(std::array::from_fn(|i| i as u8));
        let mut s = u128::from_le_bytes(plain);
        for key in &k[..9] {
            s = aesmc(aese(s, *key));
        }
        s = aese(s, k[9]) ^ k[10];
        let cipher = 0x69c4_e0d8_6a7b_0430_d8cd_b780_70b4_c55a_u128.swap_bytes();
        assert_eq!(s, cipher);
        // The equivalent inverse cipher (FIPS 197 5.3.5).
        let mut s = aesd(cipher, k[10]);
        for key in k[1..10].iter().rev() {
            s = aesd(aesimc(s), aesimc(*key));
        }
        assert_eq!(s ^ k[0], u128::from_le_bytes(plain));
    }

    proptest::proptest! {
        #[test]
        fn host_and_plain_agree(state: u128) {
            for s in [Step::Encrypt, Step::Decrypt, Step::Mix, Step::Unmix] {
                proptest::prop_assert_eq!(run(s, state), plain(s, state));
            }
        }
    }
}
