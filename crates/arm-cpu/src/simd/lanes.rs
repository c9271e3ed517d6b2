//! Registers as arrays of lanes.

use bytemuck::Pod;

pub use crate::host::vector::Vector;

/// An integer that a register holds several of.
pub trait Lane: Pod + Ord {
    /// A register of them, lowest first.
    type All: Pod + AsRef<[Self]> + AsMut<[Self]>;
    /// How many.
    const N: usize;
    /// Bits of one.
    const BITS: u32;
    /// All ones or zero.
    fn mask(b: bool) -> Self;
    /// Shift left; 0 from the width on.
    fn shl(self, n: u32) -> Self;
    /// Shift right by the type's sign; from the width on only copies of the sign are left.
    fn shr(self, n: u32) -> Self;
    /// Shift right with rounding, exact: n >= 1.
    fn rshr(self, n: u32) -> Self;
    /// Shift left; tells whether it did not fit, and saturates then.
    fn shl_sat(self, n: u32) -> (Self, bool);
    /// The low byte as a signed shift amount.
    fn amount(self) -> i32;
    /// Wrapping sum.
    fn plus(self, b: Self) -> Self;
    /// Saturates at the type's bounds; tells whether it had to.
    fn saturate(v: i128) -> (Self, bool);
    /// As a wide number.
    fn wide(self) -> i128;
    /// Truncates.
    fn truncate(v: u64) -> Self;
}

macro_rules! lanes {
    ($($t:ty),*) => { $(
        impl Lane for $t {
            type All = [$t; 16 / size_of::<$t>()];
            const N: usize = 16 / size_of::<$t>();
            const BITS: u32 = <$t>::BITS;
            #[inline(always)]
            fn mask(b: bool) -> $t {
                if b { !0 } else { 0 }
            }
            #[inline(always)]
            fn shl(self, n: u32) -> $t {
                if n < <$t>::BITS { self << n } else { 0 }
            }
            #[inline(always)]
            #[allow(unused_comparisons)]
            fn shr(self, n: u32) -> $t {
                if n < <$t>::BITS { self >> n } else { Self::mask(self < 0) }
            }
            #[inline(always)]
            fn rshr(self, n: u32) -> $t {
                self.shr(n).wrapping_add(self.shr(n - 1) & 1)
            }
            #[inline(always)]
            #[allow(unused_comparisons)]
            fn shl_sat(self, n: u32) -> ($t, bool) {
                let r = self.shl(n);
                // Back again; a shift by the width or more loses everything but zero.
                let fits = if n < <$t>::BITS { r >> n == self } else { self == 0 };
                if fits { (r, false) } else { (if self < 0 { <$t>::MIN } else { <$t>::MAX }, true) }
            }
            #[inline(always)]
            fn amount(self) -> i32 {
                i32::from(self as i8)
            }
            #[inline(always)]
            fn plus(self, b: $t) -> $t {
                self.wrapping_add(b)
            }
            #[inline(always)]
            fn saturate(v: i128) -> ($t, bool) {
                let r = v.clamp(<$t>::MIN as i128, <$t>::MAX as i128);
                (r as $t, r != v)
            }
            #[inline(always)]
            fn wide(self) -> i128 {
                self as i128
            }
            #[inline(always)]
            fn truncate(v: u64) -> $t {
                v as $t
            }
        }
    )* };
}
lanes!(u8, i8, u16, i16, u32, i32, u64, i64);

/// A register as a number.
#[inline(always)]
pub fn number(v: Vector) -> u128 {
    bytemuck::cast(v)
}

/// A number as a register.
#[inline(always)]
pub fn vector(v: u128) -> Vector {
    bytemuck::cast(v)
}

/// Lanes of a register, lowest first.
#[inline(always)]
pub fn split<T: Lane>(v: Vector) -> T::All {
    bytemuck::cast(v)
}

/// A register from its lanes.
#[inline(always)]
pub fn join<T: Lane>(a: T::All) -> Vector {
    bytemuck::cast(a)
}

/// A register from a function of the lane's index.
#[inline(always)]
pub fn build<T: Lane>(mut f: impl FnMut(usize) -> T) -> Vector {
    let mut r: T::All = bytemuck::Zeroable::zeroed();
    for (i, x) in r.as_mut().iter_mut().enumerate() {
        *x = f(i);
    }
    join::<T>(r)
}

/// Lane by lane, one operand.
#[inline(always)]
pub fn map1<T: Lane>(n: Vector, mut f: impl FnMut(T) -> T) -> Vector {
    let n = split::<T>(n);
    build(|i| f(n.as_ref()[i]))
}

/// Lane by lane: old destination and two operands.
#[inline(always)]
pub fn map3<T: Lane>(d: Vector, n: Vector, m: Vector, mut f: impl FnMut(T, T, T) -> T) -> Vector {
    let (d, n, m) = (split::<T>(d), split::<T>(n), split::<T>(m));
    build(|i| f(d.as_ref()[i], n.as_ref()[i], m.as_ref()[i]))
}

/// Every lane the same.
#[inline(always)]
pub fn broadcast<T: Lane>(v: T) -> Vector {
    build(|_| v)
}

/// Lane `index` (taken modulo the number of lanes) of size `size`, in every lane.
#[inline(always)]
pub fn dup(size: u32, v: u128, index: u32) -> u128 {
    let low = (v >> ((index << (3 + (size & 3))) & 127)) as u64;
    dup_low(size, low)
}

/// The low bits of `v` in every lane of that size.
#[inline(always)]
pub fn dup_low(size: u32, v: u64) -> u128 {
    let d = match size & 3 {
        0 => (v & 0xff) * 0x0101_0101_0101_0101,
        1 => (v & 0xffff) * 0x0001_0001_0001_0001,
        2 => (v & 0xffff_ffff) * 0x0000_0001_0000_0001,
        _ => v,
    };
    u128::from(d) << 64 | u128::from(d)
}

/// Defines operations: `name kind |d, n, m, q| expression of one lane`. The kind gives the types: `u` or `s` for
/// unsigned or signed lanes, then which sizes there are (`4`: all, `3`: not 64, `2`: 16 and 32). Sizes that do not exist
/// give what the largest gives; the decoder refuses them.
macro_rules! lane_ops {
    ($($(#[$doc:meta])* $name:ident $kind:ident |$d:pat_param, $n:pat_param, $m:pat_param, $q:pat_param| $e:expr;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(size: u32, d: Vector, n: Vector, m: Vector, $q: &mut bool) -> Vector {
            lane_ops!(@ $kind size, d, n, m, |$d, $n, $m| $e)
        }
    )* };
    (@ u4 $($r:tt)*) => { lane_ops!(@@ u8 u16 u32 u64 $($r)*) };
    (@ s4 $($r:tt)*) => { lane_ops!(@@ i8 i16 i32 i64 $($r)*) };
    (@ u3 $($r:tt)*) => { lane_ops!(@@ u8 u16 u32 u32 $($r)*) };
    (@ s3 $($r:tt)*) => { lane_ops!(@@ i8 i16 i32 i32 $($r)*) };
    (@ s2 $($r:tt)*) => { lane_ops!(@@ i16 i16 i32 i32 $($r)*) };
    (@@ $a:ident $b:ident $c:ident $e:ident $size:ident, $d:ident, $n:ident, $m:ident, $f:expr) => {
        match $size & 3 {
            0 => crate::simd::lanes::map3::<$a>($d, $n, $m, $f),
            1 => crate::simd::lanes::map3::<$b>($d, $n, $m, $f),
            2 => crate::simd::lanes::map3::<$c>($d, $n, $m, $f),
            _ => crate::simd::lanes::map3::<$e>($d, $n, $m, $f),
        }
    };
}
pub(crate) use lane_ops;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_beyond_the_width() {
        assert_eq!((-3i8).shr(200), -1);
        assert_eq!(5u16.shr(16), 0);
        assert_eq!((-128i8).rshr(8), 0);
        assert_eq!(0x80u8.rshr(8), 1);
        assert_eq!(0xffu8.rshr(9), 0);
        assert_eq!(1u8.shl(8), 0);
        assert_eq!((-1i8).shl_sat(7), (-128, false));
        assert_eq!((-1i8).shl_sat(8), (-128, true));
        assert_eq!(1i64.shl_sat(63), (i64::MAX, true));
        assert_eq!(0u32.shl_sat(100), (0, false));
    }

    #[test]
    fn broadcasts() {
        assert_eq!(dup(1, 0x1234_5678 << 64, 5), number(broadcast(0x1234u16)));
        assert_eq!(dup(0, 0xab << 120, 15), number(broadcast(0xabu8)));
        assert_eq!(dup(3, 7 << 64, 1), number(broadcast(7u64)));
    }
}
