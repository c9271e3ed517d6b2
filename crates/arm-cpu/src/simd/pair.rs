//! Operations on adjacent lanes and across all lanes.

use super::lanes::{Lane, Vector, build, join, number, split};

/// Half as many lanes from adjacent pairs, in 64 bits.
#[inline(always)]
fn pairs<T: Lane>(n: Vector, f: impl Fn(T, T) -> T) -> u64 {
    let n = split::<T>(n);
    let mut r: T::All = bytemuck::Zeroable::zeroed();
    for i in 0..T::N / 2 {
        r.as_mut()[i] = f(n.as_ref()[2 * i], n.as_ref()[2 * i + 1]);
    }
    number(join::<T>(r)) as u64
}

macro_rules! pair_ops {
    ($($(#[$doc:meta])* $name:ident $a:ident $b:ident $c:ident $d:ident |$n:ident, $m:ident| $e:expr;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(size: u32, n: Vector) -> u64 {
            match size & 3 {
                0 => pairs::<$a>(n, |$n, $m| $e),
                1 => pairs::<$b>(n, |$n, $m| $e),
                2 => pairs::<$c>(n, |$n, $m| $e),
                _ => pairs::<$d>(n, |$n, $m| $e),
            }
        }
    )* };
}
pair_ops! {
    /// ADDP.
    addp u8 u16 u32 u64 |n, m| n.wrapping_add(m);
    /// SMAXP.
    smaxp i8 i16 i32 i32 |n, m| n.max(m);
    /// UMAXP.
    umaxp u8 u16 u32 u32 |n, m| n.max(m);
    /// SMINP.
    sminp i8 i16 i32 i32 |n, m| n.min(m);
    /// UMINP.
    uminp u8 u16 u32 u32 |n, m| n.min(m);
}

/// Adjacent lanes added into one of twice the width.
#[inline(always)]
fn long<T: Lane + Into<W>, W: Lane>(n: Vector) -> Vector {
    let n = split::<T>(n);
    build::<W>(|i| n.as_ref()[2 * i].into().plus(n.as_ref()[2 * i + 1].into()))
}

/// SADDLP.
#[inline(always)]
pub fn saddlp(size: u32, n: Vector) -> Vector {
    match size & 3 {
        0 => long::<i8, i16>(n),
        1 => long::<i16, i32>(n),
        _ => long::<i32, i64>(n),
    }
}

/// UADDLP.
#[inline(always)]
pub fn uaddlp(size: u32, n: Vector) -> Vector {
    match size & 3 {
        0 => long::<u8, u16>(n),
        1 => long::<u16, u32>(n),
        _ => long::<u32, u64>(n),
    }
}

/// The first `count` lanes folded, as the low bits.
#[inline(always)]
fn fold<T: Lane>(n: Vector, count: usize, f: impl Fn(T, T) -> T) -> T {
    let n = split::<T>(n);
    n.as_ref()[..count].iter().copied().reduce(f).unwrap_or(bytemuck::Zeroable::zeroed())
}

macro_rules! across {
    ($($(#[$doc:meta])* $name:ident $a:ident $b:ident $c:ident as $x:ident $y:ident $z:ident |$n:ident, $m:ident| $e:expr;)*) => { $(
        $(#[$doc])*
        /// `half`: only the lanes of the low 64 bits.
        #[inline(always)]
        pub fn $name(size: u32, n: Vector, half: bool) -> u64 {
            let all = 16 >> u32::from(half);
            match size & 3 {
                0 => u64::from(fold::<$a>(n, all, |$n, $m| $e) as $x),
                1 => u64::from(fold::<$b>(n, all / 2, |$n, $m| $e) as $y),
                _ => u64::from(fold::<$c>(n, all / 4, |$n, $m| $e) as $z),
            }
        }
    )* };
}
across! {
    /// ADDV.
    addv u8 u16 u32 as u8 u16 u32 |n, m| n.wrapping_add(m);
    /// SMAXV.
    smaxv i8 i16 i32 as u8 u16 u32 |n, m| n.max(m);
    /// UMAXV.
    umaxv u8 u16 u32 as u8 u16 u32 |n, m| n.max(m);
    /// SMINV.
    sminv i8 i16 i32 as u8 u16 u32 |n, m| n.min(m);
    /// UMINV.
    uminv u8 u16 u32 as u8 u16 u32 |n, m| n.min(m);
}

/// SADDLV.
#[inline(always)]
pub fn saddlv(size: u32, n: Vector, half: bool) -> u64 {
    let all = 16 >> u32::from(half);
    match size & 3 {
        0 => split::<i8>(n)[..all].iter().map(|x| i16::from(*x)).sum::<i16>() as u16 as u64,
        1 => split::<i16>(n)[..all / 2].iter().map(|x| i32::from(*x)).sum::<i32>() as u32 as u64,
        _ => split::<i32>(n)[..all / 4].iter().map(|x| i64::from(*x)).sum::<i64>() as u64,
    }
}

/// UADDLV.
#[inline(always)]
pub fn uaddlv(size: u32, n: Vector, half: bool) -> u64 {
    let all = 16 >> u32::from(half);
    match size & 3 {
        0 => split::<u8>(n)[..all].iter().map(|x| u64::from(*x)).sum(),
        1 => split::<u16>(n)[..all / 2].iter().map(|x| u64::from(*x)).sum(),
        _ => split::<u32>(n)[..all / 4].iter().map(|x| u64::from(*x)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::vector;
    use super::*;

    #[test]
    fn sums() {
        let n = vector(u128::from_le_bytes(std::array::from_fn(|i| 0xf0 + i as u8)));
        assert_eq!(addp(0, n) & 0xffff, 0xe5e1);
        assert_eq!(number(uaddlp(0, n)) as u16, 0x1e1);
        assert_eq!(number(saddlp(0, n)) as u16 as i16, -31);
        assert_eq!(uaddlv(0, n, true), (0xf0..0xf8).sum::<u64>());
        assert_eq!(saddlv(0, n, false) as u16 as i16, -136);
        assert_eq!(sminv(0, n, false), 0xf0);
        assert_eq!(umaxv(0, n, true), 0xf7);
        assert_eq!(addv(2, vector(1 << 96 | 2), false), 3);
    }
}
