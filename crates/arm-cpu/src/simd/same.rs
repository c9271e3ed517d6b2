//! Operations whose result lanes are as wide as the operands': three registers, two registers, saturating.

use super::lanes::{Lane, Vector, lane_ops};

/// A lane shifted by a signed amount: left when positive (SSHL, USHL, SRSHL, URSHL).
#[inline(always)]
fn shift_by<T: Lane>(x: T, by: i32, round: bool) -> T {
    match by {
        0.. => x.shl(by as u32),
        _ if round => x.rshr(by.unsigned_abs()),
        _ => x.shr(by.unsigned_abs()),
    }
}

/// As [`shift_by`], saturating to the left.
#[inline(always)]
fn shift_sat<T: Lane>(x: T, by: i32, round: bool, q: &mut bool) -> T {
    if by < 0 {
        return shift_by(x, by, round);
    }
    let (r, over) = x.shl_sat(by as u32);
    *q |= over;
    r
}

/// Doubling multiply returning the high half, as an `i64` product shifted by the width less one.
#[inline(always)]
fn mulh<T: Lane>(n: i64, m: i64, round: bool, q: &mut bool) -> T {
    let r = if round { 1 << (T::BITS - 2) } else { 0 };
    // In i128 because -2^31 * -2^31 + round leaves no room for the doubling; only the extreme product saturates.
    let (v, over) = T::saturate(i128::from((n * m + r) >> (T::BITS - 1)));
    *q |= over;
    v
}

/// SQRDMLAH and SQRDMLSH: accumulate the product before rounding.
#[inline(always)]
fn rdml<T: Lane>(d: i64, p: i64, q: &mut bool) -> T {
    let s = (d << (T::BITS - 1)) + p + (1 << (T::BITS - 2));
    let (v, over) = T::saturate(i128::from(s >> (T::BITS - 1)));
    *q |= over;
    v
}

lane_ops! {
    /// ADD.
    add u4 |_, n, m, _| n.wrapping_add(m);
    /// SUB.
    sub u4 |_, n, m, _| n.wrapping_sub(m);
    /// MUL.
    mul u3 |_, n, m, _| n.wrapping_mul(m);
    /// MLA.
    mla u3 |d, n, m, _| d.wrapping_add(n.wrapping_mul(m));
    /// MLS.
    mls u3 |d, n, m, _| d.wrapping_sub(n.wrapping_mul(m));
    /// SHADD, from the common bits and half the differing ones.
    shadd s3 |_, n, m, _| (n & m) + ((n ^ m) >> 1);
    /// UHADD.
    uhadd u3 |_, n, m, _| (n & m) + ((n ^ m) >> 1);
    /// SRHADD.
    srhadd s3 |_, n, m, _| (n | m) - ((n ^ m) >> 1);
    /// URHADD.
    urhadd u3 |_, n, m, _| (n | m) - ((n ^ m) >> 1);
    /// SHSUB.
    shsub s3 |_, n, m, _| (n >> 1).wrapping_sub(m >> 1).wrapping_sub(!n & m & 1);
    /// UHSUB.
    uhsub u3 |_, n, m, _| (n >> 1).wrapping_sub(m >> 1).wrapping_sub(!n & m & 1);
    /// SQADD.
    sqadd s4 |_, n, m, q| {
        let r = n.saturating_add(m);
        *q |= r != n.wrapping_add(m);
        r
    };
    /// UQADD.
    uqadd u4 |_, n, m, q| {
        let r = n.saturating_add(m);
        *q |= r != n.wrapping_add(m);
        r
    };
    /// SQSUB.
    sqsub s4 |_, n, m, q| {
        let r = n.saturating_sub(m);
        *q |= r != n.wrapping_sub(m);
        r
    };
    /// UQSUB.
    uqsub u4 |_, n, m, q| {
        let r = n.saturating_sub(m);
        *q |= r != n.wrapping_sub(m);
        r
    };
    /// CMGT (register).
    cmgt s4 |_, n, m, _| Lane::mask(n > m);
    /// CMHI.
    cmhi u4 |_, n, m, _| Lane::mask(n > m);
    /// CMGE (register).
    cmge s4 |_, n, m, _| Lane::mask(n >= m);
    /// CMHS.
    cmhs u4 |_, n, m, _| Lane::mask(n >= m);
    /// CMEQ (register).
    cmeq u4 |_, n, m, _| Lane::mask(n == m);
    /// CMTST.
    cmtst u4 |_, n, m, _| Lane::mask(n & m != 0);
    /// CMGT (zero).
    cmgt0 s4 |_, n, _, _| Lane::mask(n > 0);
    /// CMGE (zero).
    cmge0 s4 |_, n, _, _| Lane::mask(n >= 0);
    /// CMEQ (zero).
    cmeq0 u4 |_, n, _, _| Lane::mask(n == 0);
    /// CMLE (zero).
    cmle0 s4 |_, n, _, _| Lane::mask(n <= 0);
    /// CMLT (zero).
    cmlt0 s4 |_, n, _, _| Lane::mask(n < 0);
    /// SMAX.
    smax s3 |_, n, m, _| n.max(m);
    /// UMAX.
    umax u3 |_, n, m, _| n.max(m);
    /// SMIN.
    smin s3 |_, n, m, _| n.min(m);
    /// UMIN.
    umin u3 |_, n, m, _| n.min(m);
    /// SABD.
    sabd s3 |_, n, m, _| n.max(m).wrapping_sub(n.min(m));
    /// UABD.
    uabd u3 |_, n, m, _| n.max(m) - n.min(m);
    /// SABA.
    saba s3 |d, n, m, _| d.wrapping_add(n.max(m).wrapping_sub(n.min(m)));
    /// UABA.
    uaba u3 |d, n, m, _| d.wrapping_add(n.max(m) - n.min(m));
    /// SSHL.
    sshl s4 |_, n, m, _| shift_by(n, m.amount(), false);
    /// USHL.
    ushl u4 |_, n, m, _| shift_by(n, m.amount(), false);
    /// SRSHL.
    srshl s4 |_, n, m, _| shift_by(n, m.amount(), true);
    /// URSHL.
    urshl u4 |_, n, m, _| shift_by(n, m.amount(), true);
    /// SQSHL (register).
    sqshl s4 |_, n, m, q| shift_sat(n, m.amount(), false, q);
    /// UQSHL (register).
    uqshl u4 |_, n, m, q| shift_sat(n, m.amount(), false, q);
    /// SQRSHL.
    sqrshl s4 |_, n, m, q| shift_sat(n, m.amount(), true, q);
    /// UQRSHL.
    uqrshl u4 |_, n, m, q| shift_sat(n, m.amount(), true, q);
    /// SQDMULH.
    sqdmulh s2 |_, n, m, q| mulh(i64::from(n), i64::from(m), false, q);
    /// SQRDMULH.
    sqrdmulh s2 |_, n, m, q| mulh(i64::from(n), i64::from(m), true, q);
    /// SQRDMLAH.
    sqrdmlah s2 |d, n, m, q| rdml(i64::from(d), i64::from(n) * i64::from(m), q);
    /// SQRDMLSH.
    sqrdmlsh s2 |d, n, m, q| rdml(i64::from(d), -(i64::from(n) * i64::from(m)), q);
    /// ABS.
    abs s4 |_, n, _, _| n.wrapping_abs();
    /// NEG (vector).
    neg s4 |_, n, _, _| n.wrapping_neg();
    /// SQABS.
    sqabs s4 |_, n, _, q| {
        let r = n.saturating_abs();
        *q |= r != n.wrapping_abs();
        r
    };
    /// SQNEG.
    sqneg s4 |_, n, _, q| {
        let r = n.saturating_neg();
        *q |= r != n.wrapping_neg();
        r
    };
    /// SUQADD: signed destination, unsigned operand.
    suqadd s4 |d, n, _, q| {
        let r = d.saturating_add_unsigned(n.cast_unsigned());
        *q |= r != d.wrapping_add(n);
        r
    };
    /// USQADD: unsigned destination, signed operand.
    usqadd u4 |d, n, _, q| {
        let r = d.saturating_add_signed(n.cast_signed());
        *q |= r != d.wrapping_add(n);
        r
    };
    /// CLS (vector).
    cls s3 |_, n, _, _| ((n ^ (n >> 1)).leading_zeros() - 1) as _;
    /// CLZ (vector).
    clz u3 |_, n, _, _| n.leading_zeros() as _;
}

/// Bits: operations without lanes, and on bytes.
pub mod bits {
    use super::super::lanes::{Vector, map1};

    /// BSL: the destination selects.
    #[inline(always)]
    pub fn bsl(d: u128, n: u128, m: u128) -> u128 {
        ((n ^ m) & d) ^ m
    }
    /// BIT: insert where m is one.
    #[inline(always)]
    pub fn bit(d: u128, n: u128, m: u128) -> u128 {
        ((n ^ d) & m) ^ d
    }
    /// BIF: insert where m is zero.
    #[inline(always)]
    pub fn bif(d: u128, n: u128, m: u128) -> u128 {
        ((n ^ d) & !m) ^ d
    }
    /// CNT.
    #[inline(always)]
    pub fn cnt(n: Vector) -> Vector {
        map1::<u64>(n, |x| {
            let x = x - ((x >> 1) & 0x5555_5555_5555_5555);
            let x = (x & 0x3333_3333_3333_3333) + ((x >> 2) & 0x3333_3333_3333_3333);
            (x + (x >> 4)) & 0x0f0f_0f0f_0f0f_0f0f
        })
    }
    /// RBIT (vector).
    #[inline(always)]
    pub fn rbit(n: Vector) -> Vector {
        map1::<u64>(n, |x| x.reverse_bits().swap_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{broadcast, dup_low, number, split, vector};
    use super::*;

    type Op = fn(u32, Vector, Vector, Vector, &mut bool) -> Vector;

    fn one(op: Op, size: u32, d: u64, n: u64, m: u64) -> (u64, bool) {
        let mut q = false;
        let all = |v| vector(dup_low(size, v));
        let r = op(size, all(d), all(n), all(m), &mut q);
        let mask = if size == 3 { u64::MAX } else { (1 << (8 << size)) - 1 };
        (number(r) as u64 & mask, q)
    }

    #[test]
    fn saturation_corners() {
        assert_eq!(one(sqdmulh, 1, 0, 0x8000, 0x8000), (0x7fff, true));
        assert_eq!(one(sqrdmulh, 2, 0, 0x8000_0000, 0x8000_0000), (0x7fff_ffff, true));
        assert_eq!(one(sqrdmulh, 1, 0, 0x4000, 1), (1, false));
        assert_eq!(one(sqrdmlah, 1, 0x7fff, 0x7fff, 0x7fff), (0x7fff, true));
        assert_eq!(one(sqrdmlsh, 2, 0x8000_0000, 0x7fff_ffff, 0x7fff_ffff), (0x8000_0000, true));
        assert_eq!(one(sqabs, 0, 0, 0x80, 0), (0x7f, true));
        assert_eq!(one(suqadd, 0, 0x7f, 1, 0), (0x7f, true));
        assert_eq!(one(usqadd, 0, 1, 0xfe, 0), (0, true));
        assert_eq!(one(usqadd, 0, 0xff, 1, 0), (0xff, true));
        assert_eq!(one(uqshl, 3, 0, 1, 64), (u64::MAX, true));
        assert_eq!(one(sqshl, 1, 0, 0xffff, 0xff80), (0xffff, false));
        assert_eq!(one(srshl, 0, 0, 0x80, 0xf8), (0, false));
        assert_eq!(one(cls, 0, 0, 0xff, 0), (7, false));
    }

    proptest::proptest! {
        #[test]
        fn bytes_agree_with_wide_arithmetic(n: u128, m: u128) {
            let mut q = false;
            let r = |op: Op, q: &mut bool| split::<u8>(op(0, vector(0), vector(n), vector(m), q));
            let (a, b) = (split::<u8>(vector(n)), split::<u8>(vector(m)));
            let (sh, uh, rh) = (r(shadd, &mut q), r(uhsub, &mut q), r(urhadd, &mut q));
            let (ss, ab) = (r(shsub, &mut q), r(sabd, &mut q));
            proptest::prop_assert!(!q);
            let sat = r(sqsub, &mut q);
            let mut any = false;
            for i in 0..16 {
                let (sa, sb) = (i32::from(a[i] as i8), i32::from(b[i] as i8));
                let (ua, ub) = (i32::from(a[i]), i32::from(b[i]));
                proptest::prop_assert_eq!(sh[i], ((sa + sb) >> 1) as u8);
                proptest::prop_assert_eq!(uh[i], ((ua - ub) >> 1) as u8);
                proptest::prop_assert_eq!(rh[i], ((ua + ub + 1) >> 1) as u8);
                proptest::prop_assert_eq!(ss[i], ((sa - sb) >> 1) as u8);
                proptest::prop_assert_eq!(ab[i], (sa - sb).unsigned_abs() as u8);
                proptest::prop_assert_eq!(sat[i], (sa - sb).clamp(-128, 127) as u8);
                any |= (sa - sb).clamp(-128, 127) != sa - sb;
            }
            proptest::prop_assert_eq!(any, q);
            let count = split::<u8>(bits::cnt(vector(n)));
            proptest::prop_assert!((0..16).all(|i| u32::from(count[i]) == a[i].count_ones()));
            proptest::prop_assert_eq!(bits::bsl(n, m, !m), !(n ^ m));
            proptest::prop_assert_eq!(bits::bit(n, 0, m), bits::bif(n, 0, !m));
            proptest::prop_assert_eq!(number(add(2, vector(0), vector(n), broadcast(0u8), &mut q)), n);
        }
    }
}
