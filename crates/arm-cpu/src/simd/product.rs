//! Dot products and matrix products of bytes (FEAT_DotProd, FEAT_I8MM).

use super::lanes::{Vector, build, split};

/// Adds to each word the products of its four bytes.
#[inline(always)]
fn dot(d: Vector, f: impl Fn(usize) -> i32) -> Vector {
    let d = split::<i32>(d);
    build(|i| (0..4).fold(d[i], |s, k| s.wrapping_add(f(4 * i + k))))
}

/// SDOT.
#[inline(always)]
pub fn sdot(d: Vector, n: Vector, m: Vector) -> Vector {
    let (n, m) = (split::<i8>(n), split::<i8>(m));
    dot(d, |i| i32::from(n[i]) * i32::from(m[i]))
}

/// UDOT.
#[inline(always)]
pub fn udot(d: Vector, n: Vector, m: Vector) -> Vector {
    let (n, m) = (split::<u8>(n), split::<u8>(m));
    dot(d, |i| i32::from(n[i]) * i32::from(m[i]))
}

/// USDOT; SUDOT has the operands exchanged.
#[inline(always)]
pub fn usdot(d: Vector, n: Vector, m: Vector) -> Vector {
    let (n, m) = (split::<u8>(n), split::<i8>(m));
    dot(d, |i| i32::from(n[i]) * i32::from(m[i]))
}

/// Adds to element (row, column) of the 2x2 matrix the product of row `row` of n with row `column` of m.
#[inline(always)]
fn matrix(d: Vector, f: impl Fn(usize, usize) -> i32) -> Vector {
    let d = split::<i32>(d);
    build(|i| (0..8).fold(d[i], |s, k| s.wrapping_add(f(8 * (i / 2) + k, 8 * (i % 2) + k))))
}

/// SMMLA.
#[inline(always)]
pub fn smmla(d: Vector, n: Vector, m: Vector) -> Vector {
    let (n, m) = (split::<i8>(n), split::<i8>(m));
    matrix(d, |i, j| i32::from(n[i]) * i32::from(m[j]))
}

/// UMMLA.
#[inline(always)]
pub fn ummla(d: Vector, n: Vector, m: Vector) -> Vector {
    let (n, m) = (split::<u8>(n), split::<u8>(m));
    matrix(d, |i, j| i32::from(n[i]) * i32::from(m[j]))
}

/// USMMLA.
#[inline(always)]
pub fn usmmla(d: Vector, n: Vector, m: Vector) -> Vector {
    let (n, m) = (split::<u8>(n), split::<i8>(m));
    matrix(d, |i, j| i32::from(n[i]) * i32::from(m[j]))
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{number, vector};
    use super::*;

    #[test]
    fn products() {
        type Op = fn(Vector, Vector, Vector) -> Vector;
        let run = |op: Op, d, n, m| number(op(vector(d), vector(n), vector(m)));
        assert_eq!(run(sdot, 10, 0xff02, 0x0203), 14);
        assert_eq!(run(udot, 10, 0xff02, 0x0203), 10 + 510 + 6);
        assert_eq!(run(usdot, 0, 0xff, 0xff) as u32 as i32, -255);
        // Row 1 of n with row 0 of m lands in element 2.
        assert_eq!(run(smmla, 0, 3 << 64, 5), 15 << 64);
        assert_eq!(run(ummla, 0, 0xff, 0xff << 64), 0xfe01 << 32);
        assert_eq!(run(usmmla, 0, 0xff, 0xff) as u32 as i32, -255);
    }
}
