//! Rearrangements of lanes.

use super::lanes::{Lane, Vector, build, map1, split};

/// Runs a generic function for the lane type of a size.
macro_rules! sized {
    ($size:expr, $f:ident($($a:expr),*)) => {
        match $size & 3 {
            0 => $f::<u8>($($a),*),
            1 => $f::<u16>($($a),*),
            2 => $f::<u32>($($a),*),
            _ => $f::<u64>($($a),*),
        }
    };
}

// The width is decided outside the loops over lanes, so that each is a fixed shuffle.

#[inline(always)]
fn zip_lanes<T: Lane>(n: Vector, m: Vector, base: usize) -> Vector {
    let (n, m) = (split::<T>(n), split::<T>(m));
    build(|i| {
        let at = (base + i / 2) & (T::N - 1);
        if i % 2 == 0 { n.as_ref()[at] } else { m.as_ref()[at] }
    })
}

/// ZIP1 (`part` 0), ZIP2 (1). With `half` what stands in the upper half of the result means nothing.
#[inline(always)]
pub fn zip(size: u32, n: Vector, m: Vector, half: bool, part: usize) -> Vector {
    #[inline(always)]
    fn whole<T: Lane>(n: Vector, m: Vector, part: usize) -> Vector {
        zip_lanes::<T>(n, m, part * T::N / 2)
    }
    #[inline(always)]
    fn low<T: Lane>(n: Vector, m: Vector, part: usize) -> Vector {
        zip_lanes::<T>(n, m, part * T::N / 4)
    }
    if half { sized!(size, low(n, m, part)) } else { sized!(size, whole(n, m, part)) }
}

#[inline(always)]
fn uzp_lanes<T: Lane>(n: Vector, m: Vector, lanes: usize, part: usize) -> Vector {
    let (n, m) = (split::<T>(n), split::<T>(m));
    build(|i| {
        let at = 2 * i + part;
        if at < lanes { n.as_ref()[at & (T::N - 1)] } else { m.as_ref()[(at - lanes) & (T::N - 1)] }
    })
}

/// UZP1 (`part` 0), UZP2 (1).
#[inline(always)]
pub fn uzp(size: u32, n: Vector, m: Vector, half: bool, part: usize) -> Vector {
    #[inline(always)]
    fn whole<T: Lane>(n: Vector, m: Vector, part: usize) -> Vector {
        uzp_lanes::<T>(n, m, T::N, part)
    }
    #[inline(always)]
    fn low<T: Lane>(n: Vector, m: Vector, part: usize) -> Vector {
        uzp_lanes::<T>(n, m, T::N / 2, part)
    }
    if half { sized!(size, low(n, m, part)) } else { sized!(size, whole(n, m, part)) }
}

#[inline(always)]
fn trn_lanes<T: Lane>(n: Vector, m: Vector, part: usize) -> Vector {
    let (n, m) = (split::<T>(n), split::<T>(m));
    build(|i| if i % 2 == 0 { n.as_ref()[i + part] } else { m.as_ref()[i - 1 + part] })
}

/// TRN1 (`part` 0), TRN2 (1).
#[inline(always)]
pub fn trn(size: u32, n: Vector, m: Vector, part: usize) -> Vector {
    sized!(size, trn_lanes(n, m, part))
}

/// EXT of 16 bytes.
#[inline(always)]
pub fn ext(n: u128, m: u128, by: u32) -> u128 {
    match by & 15 {
        0 => n,
        k => n >> (8 * k) | m << (128 - 8 * k),
    }
}

/// EXT of 8 bytes.
#[inline(always)]
pub fn ext_half(n: u64, m: u64, by: u32) -> u64 {
    ((u128::from(m) << 64 | u128::from(n)) >> (8 * (by & 7))) as u64
}

/// TBL and TBX: bytes of `table` (up to 64) by the indices in `m`; beyond it the bytes of `other`.
#[inline(always)]
pub fn table(table: &[u8; 64], len: usize, m: Vector, other: Vector) -> Vector {
    let (m, other) = (split::<u8>(m), split::<u8>(other));
    build::<u8>(|i| {
        let at = usize::from(m[i]);
        if at < len { table[at & 63] } else { other[i] }
    })
}

/// REV64: lanes of `size` in reverse order in each 64 bits.
#[inline(always)]
pub fn rev64(size: u32, n: Vector) -> Vector {
    match size & 3 {
        0 => map1::<u64>(n, u64::swap_bytes),
        1 => map1::<u64>(n, |x| rev_halves(x).rotate_left(32)),
        _ => map1::<u64>(n, |x| x.rotate_left(32)),
    }
}

/// REV32.
#[inline(always)]
pub fn rev32(size: u32, n: Vector) -> Vector {
    match size & 3 {
        0 => map1::<u32>(n, u32::swap_bytes),
        _ => map1::<u64>(n, rev_halves),
    }
}

/// REV16 (vector).
#[inline(always)]
pub fn rev16(n: Vector) -> Vector {
    map1::<u16>(n, u16::swap_bytes)
}

/// Half words exchanged in each word.
#[inline(always)]
fn rev_halves(x: u64) -> u64 {
    (x & 0xffff_0000_ffff_0000) >> 16 | (x & 0x0000_ffff_0000_ffff) << 16
}

#[cfg(test)]
mod tests {
    use super::super::lanes::vector;
    use super::*;

    #[test]
    fn arrangements_of_bytes() {
        let n: [u8; 16] = std::array::from_fn(|i| i as u8);
        let m: [u8; 16] = std::array::from_fn(|i| 16 + i as u8);
        let (n, m): (Vector, Vector) = (bytemuck::cast(n), bytemuck::cast(m));
        let (wn, wm) = (u128::from_le_bytes(bytemuck::cast(n)), u128::from_le_bytes(bytemuck::cast(m)));
        let b = |v: Vector| bytemuck::cast::<Vector, [u8; 16]>(v);
        assert_eq!(b(zip(0, n, m, false, 1))[..4], [8, 24, 9, 25]);
        assert_eq!(b(zip(1, n, m, true, 1))[..8], [4, 5, 20, 21, 6, 7, 22, 23]);
        assert_eq!(b(uzp(0, n, m, false, 1))[6..10], [13, 15, 17, 19]);
        assert_eq!(b(uzp(1, n, m, true, 0))[..8], [0, 1, 4, 5, 16, 17, 20, 21]);
        assert_eq!(b(trn(2, n, m, 1))[..8], [4, 5, 6, 7, 20, 21, 22, 23]);
        assert_eq!(ext(wn, wm, 15).to_le_bytes()[..3], [15, 16, 17]);
        assert_eq!(ext_half(wn as u64, wm as u64, 7).to_le_bytes()[..2], [7, 16]);
        assert_eq!(b(rev64(1, n))[..4], [6, 7, 4, 5]);
        assert_eq!(b(rev64(2, n))[..4], [4, 5, 6, 7]);
        assert_eq!(b(rev32(1, n))[..4], [2, 3, 0, 1]);
        let mut t = [0; 64];
        t[..32].copy_from_slice(&[b(n), b(m)].concat());
        assert_eq!(b(table(&t, 32, vector(0x20_1f00), vector(!0)))[..4], [0, 31, 255, 0]);
    }
}
