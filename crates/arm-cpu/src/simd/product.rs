//! Dot products and matrix products of bytes (FEAT_DotProd, FEAT_I8MM).

use super::lanes::{build, split};

/// Adds to each word the products of its four bytes.
#[inline(always)]
fn dot(d: u128, f: impl Fn(usize) -> i32) -> u128 {
    let d = split::<i32>(d);
    build(|i| (0..4).fold(d[i], |s, k| s.wrapping_add(f(4 * i + k))))
}

/// SDOT.
#[inline(always)]
pub fn sdot(d: u128, n: u128, m: u128) -> u128 {
    let (n, m) = (split::<i8>(n), split::<i8>(m));
    dot(d, |i| i32::from(n[i]) * i32::from(m[i]))
}

/// UDOT.
#[inline(always)]
pub fn udot(d: u128, n: u128, m: u128) -> u128 {
    let (n, m) = (split::<u8>(n), split::<u8>(m));
    dot(d, |i| i32::from(n[i]) * i32::from(m[i]))
}

/// USDOT; SUDOT has the operands exchanged.
#[inline(always)]
pub fn usdot(d: u128, n: u128, m: u128) -> u128 {
    let (n, m) = (split::<u8>(n), split::<i8>(m));
    dot(d, |i| i32::from(n[i]) * i32::from(m[i]))
}

/// Adds to element (row, column) of the 2x2 matrix the product of row `row` of n with row `column` of m.
#[inline(always)]
fn matrix(d: u128, f: impl Fn(usize, usize) -> i32) -> u128 {
    let d = split::<i32>(d);
    build(|i| (0..8).fold(d[i], |s, k| s.wrapping_add(f(8 * (i / 2) + k, 8 * (i % 2) + k))))
}

/// SMMLA.
#[inline(always)]
pub fn smmla(d: u128, n: u128, m: u128) -> u128 {
    let (n, m) = (split::<i8>(n), split::<i8>(m));
    matrix(d, |i, j| i32::from(n[i]) * i32::from(m[j]))
}

/// UMMLA.
#[inline(always)]
pub fn ummla(d: u128, n: u128, m: u128) -> u128 {
    let (n, m) = (split::<u8>(n), split::<u8>(m));
    matrix(d, |i, j| i32::from(n[i]) * i32::from(m[j]))
}

/// USMMLA.
#[inline(always)]
pub fn usmmla(d: u128, n: u128, m: u128) -> u128 {
    let (n, m) = (split::<u8>(n), split::<i8>(m));
    matrix(d, |i, j| i32::from(n[i]) * i32::from(m[j]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products() {
        assert_eq!(sdot(10, 0xff02, 0x0203), 14);
        assert_eq!(udot(10, 0xff02, 0x0203), 10 + 510 + 6);
        assert_eq!(usdot(0, 0xff, 0xff) as u32 as i32, -255);
        // Row 1 of n with row 0 of m lands in element 2.
        assert_eq!(smmla(0, 3 << 64, 5), 15 << 64);
        assert_eq!(ummla(0, 0xff, 0xff << 64), 0xfe01 << 32);
        assert_eq!(usmmla(0, 0xff, 0xff) as u32 as i32, -255);
    }
}
