//! Cryptographic primitives as pure functions, one for each instruction, on whole 128-bit registers.
//!
//! Substitution tables are computed at compile time from the fields that define them. (CRC-32 stands with the base
//! instructions.)

pub mod aes;
pub mod poly;
pub mod sha1;
pub mod sha2;
pub mod sha3;
pub mod sm3;
pub mod sm4;

/// The four words of a register, lowest first.
#[inline(always)]
pub(crate) fn words(v: u128) -> [u32; 4] {
    bytemuck::cast(v)
}

/// A register from words, lowest first.
#[inline(always)]
pub(crate) fn from_words(w: [u32; 4]) -> u128 {
    bytemuck::cast(w)
}

/// The two double words of a register, lowest first.
#[inline(always)]
pub(crate) fn dwords(v: u128) -> [u64; 2] {
    bytemuck::cast(v)
}

/// A register from double words, lowest first.
#[inline(always)]
pub(crate) fn from_dwords(d: [u64; 2]) -> u128 {
    bytemuck::cast(d)
}

/// Product in GF(2^8) modulo `poly` (bit 8 included).
pub(crate) const fn field_mul(a: u8, b: u8, poly: u32) -> u8 {
    let (mut a, mut b, mut r) = (a as u32, b, 0u32);
    while b != 0 {
        if b & 1 != 0 {
            r ^= a;
        }
        a <<= 1;
        if a & 0x100 != 0 {
            a ^= poly;
        }
        b >>= 1;
    }
    r as u8
}

/// Inverse in GF(2^8), which is the 254th power; 0 gives 0.
pub(crate) const fn field_inverse(a: u8, poly: u32) -> u8 {
    let (mut r, mut square, mut k) = (1u8, a, 0);
    // 254 = 0b1111_1110
    while k < 7 {
        square = field_mul(square, square, poly);
        r = field_mul(r, square, poly);
        k += 1;
    }
    r
}

// Lanes are cast between integers and arrays of them, lowest first.
const _: () = assert!(cfg!(target_endian = "little"));
