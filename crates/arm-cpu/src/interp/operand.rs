//! Operands of the base instruction set: registers of either width, flags, shifts.
//!
//! Destinations are mapped at decode: register 31 becomes [`SINK`] or [`SP`], so that writing one is a plain store.

use crate::cpu::Cpu;
use crate::insn::{Insn, SINK, SP};

/// Register 31 as a destination discards the result.
#[inline(always)]
pub(crate) fn dest(r: u8) -> u8 {
    if r == 31 { SINK } else { r }
}

/// Register 31 is the stack pointer.
#[inline(always)]
pub(crate) fn or_sp(r: u8) -> u8 {
    if r == 31 { SP } else { r }
}

/// `prep` of instructions that only need Rd mapped.
pub(crate) fn rd_zr(i: &mut Insn) {
    i.rd = dest(i.rd);
}

/// Writes a mapped destination (never 31).
#[inline(always)]
pub(crate) fn put_x(cpu: &mut Cpu, r: u8, v: u64) {
    debug_assert!(r != 31);
    cpu.state.x[(r & 63) as usize] = v;
}

/// A general-purpose register's width: `u32` for W, `u64` for X.
pub(crate) trait Reg: Copy + Eq + 'static {
    /// Zero.
    const ZERO: Self;
    /// Reads a register; index 31 reads zero.
    fn get(cpu: &Cpu, r: u8) -> Self;
    /// Writes a mapped destination; a W register clears the upper half.
    fn put(cpu: &mut Cpu, r: u8, v: Self);
    /// Truncates.
    fn from_u64(v: u64) -> Self;
    /// Zero-extends.
    fn to_u64(self) -> u64;
    /// Zero-extends from 32 bits.
    fn from_u32(v: u32) -> Self;
    /// Sum modulo the width.
    fn plus(self, b: Self) -> Self;
    /// Difference modulo the width.
    fn minus(self, b: Self) -> Self;
    /// Product modulo the width.
    fn times(self, b: Self) -> Self;
    /// Bitwise NOT.
    fn not(self) -> Self;
    /// Bitwise AND.
    fn and(self, b: Self) -> Self;
    /// Bitwise OR.
    fn or(self, b: Self) -> Self;
    /// Bitwise exclusive OR.
    fn eor(self, b: Self) -> Self;
    /// Logical shift left by `n` modulo the width.
    fn lsl(self, n: u32) -> Self;
    /// Logical shift right.
    fn lsr(self, n: u32) -> Self;
    /// Arithmetic shift right.
    fn asr(self, n: u32) -> Self;
    /// Rotate right.
    fn ror(self, n: u32) -> Self;
    /// Flags of `self + b`.
    fn add_flags(self, b: Self) -> u32;
    /// Flags of `self - b`.
    fn sub_flags(self, b: Self) -> u32;
    /// `self + b + carry` and its flags (AddWithCarry).
    fn add_carry(self, b: Self, carry: bool) -> (Self, u32);
    /// N and Z of a logical result; C and V clear.
    fn logic_flags(self) -> u32;
    /// Division by zero gives zero.
    fn udiv(self, b: Self) -> Self;
    /// As above; the most negative number by -1 gives itself.
    fn sdiv(self, b: Self) -> Self;
    /// Bits in reverse order.
    fn rbit(self) -> Self;
    /// Number of leading zeros.
    fn clz(self) -> Self;
    /// Number of leading bits equal to the sign bit, without it.
    fn cls(self) -> Self;
}

/// NZCV in bits 31:28.
#[inline(always)]
pub(crate) fn nzcv(n: bool, z: bool, c: bool, v: bool) -> u32 {
    u32::from(n) << 31 | u32::from(z) << 30 | u32::from(c) << 29 | u32::from(v) << 28
}

macro_rules! reg {
    ($u:ty, $s:ty) => {
        impl Reg for $u {
            const ZERO: Self = 0;
            #[inline(always)]
            fn get(cpu: &Cpu, r: u8) -> Self {
                cpu.state.x[(r & 63) as usize] as $u
            }
            #[inline(always)]
            #[allow(clippy::useless_conversion)]
            fn put(cpu: &mut Cpu, r: u8, v: Self) {
                put_x(cpu, r, u64::from(v));
            }
            #[inline(always)]
            fn from_u64(v: u64) -> Self {
                v as $u
            }
            #[inline(always)]
            #[allow(clippy::useless_conversion)]
            fn to_u64(self) -> u64 {
                u64::from(self)
            }
            #[inline(always)]
            #[allow(clippy::useless_conversion)]
            fn from_u32(v: u32) -> Self {
                <$u>::from(v)
            }
            #[inline(always)]
            fn plus(self, b: Self) -> Self {
                self.wrapping_add(b)
            }
            #[inline(always)]
            fn minus(self, b: Self) -> Self {
                self.wrapping_sub(b)
            }
            #[inline(always)]
            fn times(self, b: Self) -> Self {
                self.wrapping_mul(b)
            }
            #[inline(always)]
            fn not(self) -> Self {
                !self
            }
            #[inline(always)]
            fn and(self, b: Self) -> Self {
                self & b
            }
            #[inline(always)]
            fn or(self, b: Self) -> Self {
                self | b
            }
            #[inline(always)]
            fn eor(self, b: Self) -> Self {
                self ^ b
            }
            #[inline(always)]
            fn lsl(self, n: u32) -> Self {
                self.wrapping_shl(n)
            }
            #[inline(always)]
            fn lsr(self, n: u32) -> Self {
                self.wrapping_shr(n)
            }
            #[inline(always)]
            fn asr(self, n: u32) -> Self {
                (self as $s).wrapping_shr(n) as $u
            }
            #[inline(always)]
            fn ror(self, n: u32) -> Self {
                self.rotate_right(n & (<$u>::BITS - 1))
            }
            #[inline(always)]
            fn add_flags(self, b: Self) -> u32 {
                let (r, c) = self.overflowing_add(b);
                let v = (self as $s).overflowing_add(b as $s).1;
                nzcv((r as $s) < 0, r == 0, c, v)
            }
            #[inline(always)]
            fn sub_flags(self, b: Self) -> u32 {
                let r = self.wrapping_sub(b);
                let v = (self as $s).overflowing_sub(b as $s).1;
                nzcv((r as $s) < 0, r == 0, self >= b, v)
            }
            #[inline(always)]
            fn add_carry(self, b: Self, carry: bool) -> (Self, u32) {
                let (s, c1) = self.overflowing_add(b);
                let (r, c2) = s.overflowing_add(<$u>::from(carry));
                let v = (((self ^ r) & (b ^ r)) as $s) < 0;
                (r, nzcv((r as $s) < 0, r == 0, c1 | c2, v))
            }
            #[inline(always)]
            fn logic_flags(self) -> u32 {
                nzcv((self as $s) < 0, self == 0, false, false)
            }
            #[inline(always)]
            fn udiv(self, b: Self) -> Self {
                self.checked_div(b).unwrap_or(0)
            }
            #[inline(always)]
            fn sdiv(self, b: Self) -> Self {
                if b == 0 { 0 } else { (self as $s).wrapping_div(b as $s) as $u }
            }
            #[inline(always)]
            fn rbit(self) -> Self {
                self.reverse_bits()
            }
            #[inline(always)]
            #[allow(clippy::useless_conversion)]
            fn clz(self) -> Self {
                <$u>::from(self.leading_zeros())
            }
            #[inline(always)]
            #[allow(clippy::useless_conversion)]
            fn cls(self) -> Self {
                let same = self ^ ((self as $s) >> 1) as $u;
                <$u>::from(same.leading_zeros()) - 1
            }
        }
    };
}
reg!(u32, i32);
reg!(u64, i64);

/// Does condition `C` hold for these flags? For branches, where the condition is known at decode.
#[inline(always)]
pub(crate) fn holds<const C: u8>(f: u32) -> bool {
    let (n, z, c, v) = (f >> 31 & 1, f >> 30 & 1, f >> 29 & 1, f >> 28 & 1);
    let base = match C >> 1 {
        0 => z != 0,
        1 => c != 0,
        2 => n != 0,
        3 => v != 0,
        4 => f & 3 << 29 == 1 << 29,
        5 => n == v,
        6 => n == v && z == 0,
        _ => return true,
    };
    base != (C & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::nzcv as bit;

    #[test]
    fn flags_at_the_corners() {
        assert_eq!(0u32.sub_flags(0), bit::Z | bit::C);
        assert_eq!(0u32.sub_flags(1), bit::N);
        assert_eq!(0x8000_0000u32.sub_flags(1), bit::C | bit::V);
        assert_eq!(0x7fff_ffffu32.add_flags(1), bit::N | bit::V);
        assert_eq!(u64::MAX.add_flags(1), bit::Z | bit::C);
        assert_eq!((1u64 << 63).add_flags(1 << 63), bit::Z | bit::C | bit::V);
        assert_eq!(u64::MAX.add_carry(0, true), (0, bit::Z | bit::C));
        assert_eq!((i64::MAX as u64).add_carry(0, true), (1 << 63, bit::N | bit::V));
        assert_eq!(u32::MAX.add_carry(u32::MAX, true), (u32::MAX, bit::N | bit::C));
    }

    /// AddWithCarry as the manual writes it, in wider integers.
    fn reference(a: u32, b: u32, c: bool) -> (u32, u32) {
        let u = u64::from(a) + u64::from(b) + u64::from(c);
        let s = i64::from(a as i32) + i64::from(b as i32) + i64::from(c);
        let r = u as u32;
        (r, nzcv((r as i32) < 0, r == 0, u64::from(r) != u, i64::from(r as i32) != s))
    }

    proptest::proptest! {
        #[test]
        fn sums_agree_with_wide_arithmetic(a: u32, b: u32, c: bool) {
            proptest::prop_assert_eq!(a.add_carry(b, c), reference(a, b, c));
            proptest::prop_assert_eq!(a.add_flags(b), reference(a, b, false).1);
            proptest::prop_assert_eq!(a.sub_flags(b), reference(a, !b, true).1);
            let (x, y) = (u64::from(a) << 32, u64::from(b) << 32);
            proptest::prop_assert_eq!(x.sub_flags(y), a.sub_flags(b));
        }
    }

    #[test]
    fn conditions_agree_with_the_table() {
        fn check<const C: u8>() {
            let mut s = crate::CpuState::default();
            for f in 0..16u32 {
                s.nzcv = f << 28;
                assert_eq!(holds::<C>(s.nzcv), s.cond(C), "condition {C}, flags {f:x}");
            }
        }
        check::<0>();
        check::<1>();
        check::<2>();
        check::<3>();
        check::<4>();
        check::<5>();
        check::<6>();
        check::<7>();
        check::<8>();
        check::<9>();
        check::<10>();
        check::<11>();
        check::<12>();
        check::<13>();
        check::<14>();
        check::<15>();
    }

    #[test]
    fn division_and_counting_corners() {
        assert_eq!(7u32.udiv(0), 0);
        assert_eq!((i64::MIN as u64).sdiv(u64::MAX), i64::MIN as u64);
        assert_eq!(0u32.clz(), 32);
        assert_eq!(u64::MAX.cls(), 63);
        assert_eq!(0u32.cls(), 31);
        assert_eq!(0x4000_0000u32.cls(), 0);
    }
}
