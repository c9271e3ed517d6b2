//! Operations whose result lanes are twice as wide: operands come in 64 bits (or one narrow, one wide).

use super::lanes::{Lane, Vector, build, split, vector};
use crate::crypto::poly;

/// Wide lanes from the narrow lanes of 64 bits, with the old destination: all widened before `f`.
#[inline(always)]
fn long<T: Lane + Into<W>, W: Lane>(d: Vector, n: u64, m: u64, mut f: impl FnMut(W, W, W) -> W) -> Vector {
    let (d, n, m) = (split::<W>(d), split::<T>(vector(n.into())), split::<T>(vector(m.into())));
    build(|i| f(d.as_ref()[i], n.as_ref()[i].into(), m.as_ref()[i].into()))
}

/// First operand wide already.
#[inline(always)]
fn wide<T: Lane + Into<W>, W: Lane>(n: Vector, m: u64, mut f: impl FnMut(W, W) -> W) -> Vector {
    let (n, m) = (split::<W>(n), split::<T>(vector(m.into())));
    build(|i| f(n.as_ref()[i], m.as_ref()[i].into()))
}

macro_rules! long_ops {
    ($($(#[$doc:meta])* $name:ident $kind:ident |$d:pat_param, $n:pat_param, $m:pat_param, $q:pat_param| $e:expr;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(size: u32, d: Vector, n: u64, m: u64, $q: &mut bool) -> Vector {
            long_ops!(@ $kind size, d, n, m, |$d, $n, $m| $e)
        }
    )* };
    (@ u $size:ident, $d:ident, $n:ident, $m:ident, $f:expr) => {
        match $size & 3 {
            0 => long::<u8, u16>($d, $n, $m, $f),
            1 => long::<u16, u32>($d, $n, $m, $f),
            _ => long::<u32, u64>($d, $n, $m, $f),
        }
    };
    (@ s $size:ident, $d:ident, $n:ident, $m:ident, $f:expr) => {
        match $size & 3 {
            0 => long::<i8, i16>($d, $n, $m, $f),
            1 => long::<i16, i32>($d, $n, $m, $f),
            _ => long::<i32, i64>($d, $n, $m, $f),
        }
    };
    (@ sat $size:ident, $d:ident, $n:ident, $m:ident, $f:expr) => {
        match $size & 3 {
            0 | 1 => long::<i16, i32>($d, $n, $m, $f),
            _ => long::<i32, i64>($d, $n, $m, $f),
        }
    };
}

/// Doubles a product, saturating: only the product of the two least numbers does not fit.
macro_rules! double {
    ($n:expr, $m:expr, $q:expr) => {{
        let p = $n * $m;
        let r = p.saturating_add(p);
        *$q |= r != p.wrapping_add(p);
        r
    }};
}

long_ops! {
    /// SADDL.
    saddl s |_, n, m, _| n + m;
    /// UADDL.
    uaddl u |_, n, m, _| n + m;
    /// SSUBL.
    ssubl s |_, n, m, _| n - m;
    /// USUBL.
    usubl u |_, n, m, _| n.wrapping_sub(m);
    /// SABDL.
    sabdl s |_, n, m, _| (n - m).abs();
    /// UABDL.
    uabdl u |_, n, m, _| n.abs_diff(m);
    /// SABAL.
    sabal s |d, n, m, _| d.wrapping_add((n - m).abs());
    /// UABAL.
    uabal u |d, n, m, _| d.wrapping_add(n.abs_diff(m));
    /// SMULL.
    smull s |_, n, m, _| n * m;
    /// UMULL.
    umull u |_, n, m, _| n * m;
    /// SMLAL.
    smlal s |d, n, m, _| d.wrapping_add(n * m);
    /// UMLAL.
    umlal u |d, n, m, _| d.wrapping_add(n * m);
    /// SMLSL.
    smlsl s |d, n, m, _| d.wrapping_sub(n * m);
    /// UMLSL.
    umlsl u |d, n, m, _| d.wrapping_sub(n * m);
    /// SQDMULL.
    sqdmull sat |_, n, m, q| double!(n, m, q);
    /// SQDMLAL: product and sum saturate each.
    sqdmlal sat |d, n, m, q| {
        let p = double!(n, m, q);
        let r = d.saturating_add(p);
        *q |= r != d.wrapping_add(p);
        r
    };
    /// SQDMLSL.
    sqdmlsl sat |d, n, m, q| {
        let p = double!(n, m, q);
        let r = d.saturating_sub(p);
        *q |= r != d.wrapping_sub(p);
        r
    };
}

macro_rules! wide_ops {
    ($($(#[$doc:meta])* $name:ident $a:ident $aw:ident $b:ident $bw:ident $c:ident $cw:ident |$n:ident, $m:ident| $e:expr;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(size: u32, n: Vector, m: u64) -> Vector {
            match size & 3 {
                0 => wide::<$a, $aw>(n, m, |$n, $m| $e),
                1 => wide::<$b, $bw>(n, m, |$n, $m| $e),
                _ => wide::<$c, $cw>(n, m, |$n, $m| $e),
            }
        }
    )* };
}
wide_ops! {
    /// SADDW.
    saddw i8 i16 i16 i32 i32 i64 |n, m| n.wrapping_add(m);
    /// UADDW.
    uaddw u8 u16 u16 u32 u32 u64 |n, m| n.wrapping_add(m);
    /// SSUBW.
    ssubw i8 i16 i16 i32 i32 i64 |n, m| n.wrapping_sub(m);
    /// USUBW.
    usubw u8 u16 u16 u32 u32 u64 |n, m| n.wrapping_sub(m);
}

/// SSHLL, and SHLL with `by` the width.
#[inline(always)]
pub fn sshll(size: u32, n: u64, by: u32) -> Vector {
    match size & 3 {
        0 => long::<i8, i16>(vector(0), n, 0, |_, n, _| n.shl(by)),
        1 => long::<i16, i32>(vector(0), n, 0, |_, n, _| n.shl(by)),
        _ => long::<i32, i64>(vector(0), n, 0, |_, n, _| n.shl(by)),
    }
}

/// USHLL.
#[inline(always)]
pub fn ushll(size: u32, n: u64, by: u32) -> Vector {
    match size & 3 {
        0 => long::<u8, u16>(vector(0), n, 0, |_, n, _| n.shl(by)),
        1 => long::<u16, u32>(vector(0), n, 0, |_, n, _| n.shl(by)),
        _ => long::<u32, u64>(vector(0), n, 0, |_, n, _| n.shl(by)),
    }
}

/// PMULL of bytes.
#[inline(always)]
pub fn pmull8(n: u64, m: u64) -> Vector {
    let (n, m) = (n.to_le_bytes(), m.to_le_bytes());
    build::<u16>(|i| poly::mul8(n[i], m[i]))
}

#[cfg(test)]
mod tests {
    use super::super::lanes::number;
    use super::*;

    #[test]
    fn corners() {
        let mut q = false;
        assert_eq!(number(smull(0, vector(0), 0x80, 0x80, &mut q)), 0x4000);
        assert_eq!(number(umull(2, vector(0), 0xffff_ffff, 0xffff_ffff, &mut q)), 0xffff_fffe_0000_0001);
        assert_eq!(number(sabdl(1, vector(0), 0x8000, 0x7fff, &mut q)), 0xffff);
        assert_eq!(number(usubl(0, vector(0), 0, 1, &mut q)), 0xffff);
        assert!(!q);
        assert_eq!(number(sqdmull(1, vector(0), 0x8000, 0x8000, &mut q)), 0x7fff_ffff);
        assert!(q);
        assert_eq!(number(sshll(0, 0x80, 8)), 0x8000);
        assert_eq!(number(ushll(1, 0x8000, 16)), 0x8000_0000);
        assert_eq!(number(uaddw(2, vector(1 << 64), 5 << 32)), 6 << 64);
        assert_eq!(number(pmull8(0xff00, 0x0300)), 0x0101 << 16);
    }
}
