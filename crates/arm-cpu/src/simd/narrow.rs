//! Operations whose result lanes are half as wide: 64 bits of result, sizes are those of the result.

use super::lanes::{Lane, Vector, join, number, split};

/// Narrow lanes in 64 bits from pairs of wide ones.
#[inline(always)]
fn narrow<W: Lane, T: Lane>(n: Vector, m: Vector, mut f: impl FnMut(W, W) -> T) -> u64 {
    let (n, m) = (split::<W>(n), split::<W>(m));
    let mut r: T::All = bytemuck::Zeroable::zeroed();
    for i in 0..W::N {
        r.as_mut()[i] = f(n.as_ref()[i], m.as_ref()[i]);
    }
    number(join::<T>(r)) as u64
}

macro_rules! high_halves {
    ($($(#[$doc:meta])* $name:ident |$n:ident, $m:ident, $half:ident| $e:expr;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(size: u32, n: Vector, m: Vector) -> u64 {
            match size & 3 {
                0 => narrow::<u16, u8>(n, m, |$n, $m| { let $half = 1u16 << 7; ($e >> 8) as u8 }),
                1 => narrow::<u32, u16>(n, m, |$n, $m| { let $half = 1u32 << 15; ($e >> 16) as u16 }),
                _ => narrow::<u64, u32>(n, m, |$n, $m| { let $half = 1u64 << 31; ($e >> 32) as u32 }),
            }
        }
    )* };
}
high_halves! {
    /// ADDHN.
    addhn |n, m, _h| n.wrapping_add(m);
    /// RADDHN.
    raddhn |n, m, half| n.wrapping_add(m).wrapping_add(half);
    /// SUBHN.
    subhn |n, m, _h| n.wrapping_sub(m);
    /// RSUBHN.
    rsubhn |n, m, half| n.wrapping_sub(m).wrapping_add(half);
}

macro_rules! shifts_right {
    ($($(#[$doc:meta])* $name:ident $a:ident $b:ident $c:ident to $x:ident $y:ident $z:ident |$n:ident, $by:ident| $e:expr;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(size: u32, n: Vector, $by: u32, q: &mut bool) -> u64 {
            match size & 3 {
                0 => narrow(n, n, |$n: $a, _| fit::<$a, $x>($e, q)),
                1 => narrow(n, n, |$n: $b, _| fit::<$b, $y>($e, q)),
                _ => narrow(n, n, |$n: $c, _| fit::<$c, $z>($e, q)),
            }
        }
    )* };
}

/// Saturates a wide lane to a narrow type.
#[inline(always)]
fn fit<W: Lane, T: Lane>(v: W, q: &mut bool) -> T {
    let (r, over) = T::saturate(v.wide());
    *q |= over;
    r
}

// A shift by 0 is the plain narrowing (SQXTN, UQXTN, SQXTUN).
shifts_right! {
    /// SQSHRN, SQXTN.
    sqshrn i16 i32 i64 to i8 i16 i32 |n, by| n.shr(by);
    /// UQSHRN, UQXTN.
    uqshrn u16 u32 u64 to u8 u16 u32 |n, by| n.shr(by);
    /// SQSHRUN, SQXTUN.
    sqshrun i16 i32 i64 to u8 u16 u32 |n, by| n.shr(by);
    /// SQRSHRN.
    sqrshrn i16 i32 i64 to i8 i16 i32 |n, by| n.rshr(by);
    /// UQRSHRN.
    uqrshrn u16 u32 u64 to u8 u16 u32 |n, by| n.rshr(by);
    /// SQRSHRUN.
    sqrshrun i16 i32 i64 to u8 u16 u32 |n, by| n.rshr(by);
}

/// SHRN, and XTN with `by` 0: truncates.
#[inline(always)]
pub fn shrn(size: u32, n: Vector, by: u32) -> u64 {
    match size & 3 {
        0 => narrow::<u16, u8>(n, n, |n, _| n.shr(by) as u8),
        1 => narrow::<u32, u16>(n, n, |n, _| n.shr(by) as u16),
        _ => narrow::<u64, u32>(n, n, |n, _| n.shr(by) as u32),
    }
}

/// RSHRN.
#[inline(always)]
pub fn rshrn(size: u32, n: Vector, by: u32) -> u64 {
    match size & 3 {
        0 => narrow::<u16, u8>(n, n, |n, _| n.rshr(by) as u8),
        1 => narrow::<u32, u16>(n, n, |n, _| n.rshr(by) as u16),
        _ => narrow::<u64, u32>(n, n, |n, _| n.rshr(by) as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::vector;
    use super::*;

    #[test]
    fn corners() {
        let mut q = false;
        assert_eq!(raddhn(0, vector(0x7f80), vector(0)), 0x80);
        assert_eq!(subhn(2, vector(0), vector(1)), 0xffff_ffff);
        assert_eq!(shrn(0, vector(0xabcd), 8), 0xab);
        assert_eq!(rshrn(1, vector(0xffff_ffff), 16), 0);
        assert_eq!(sqshrn(0, vector(0xff80), 0, &mut q), 0x80);
        assert!(!q);
        assert_eq!(sqshrun(0, vector(0xffff), 0, &mut q), 0);
        assert!(q);
        q = false;
        assert_eq!(uqrshrn(2, vector(u64::MAX.into()), 32, &mut q), 0xffff_ffff);
        assert!(q);
    }
}
