//! Shifts by an immediate. `m` is not used; the amount comes as `by`, already decoded: 1 to the width to the right, 0 to
//! the width less one to the left.

use super::lanes::{Lane, Vector, map3};

macro_rules! shifts {
    ($($(#[$doc:meta])* $name:ident $kind:ident |$d:pat_param, $n:ident, $by:ident, $q:pat_param| $e:expr;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(size: u32, d: Vector, n: Vector, $by: u32, $q: &mut bool) -> Vector {
            shifts!(@ $kind size, d, n, |$d, $n, _| $e)
        }
    )* };
    (@ u $($r:tt)*) => { shifts!(@@ u8 u16 u32 u64 $($r)*) };
    (@ s $($r:tt)*) => { shifts!(@@ i8 i16 i32 i64 $($r)*) };
    (@@ $a:ident $b:ident $c:ident $e:ident $size:ident, $d:ident, $n:ident, $f:expr) => {
        match $size & 3 {
            0 => map3::<$a>($d, $n, $d, $f),
            1 => map3::<$b>($d, $n, $d, $f),
            2 => map3::<$c>($d, $n, $d, $f),
            _ => map3::<$e>($d, $n, $d, $f),
        }
    };
}

shifts! {
    /// SSHR.
    sshr s |_, n, by, _| n.shr(by);
    /// USHR.
    ushr u |_, n, by, _| n.shr(by);
    /// SSRA.
    ssra s |d, n, by, _| d.wrapping_add(n.shr(by));
    /// USRA.
    usra u |d, n, by, _| d.wrapping_add(n.shr(by));
    /// SRSHR.
    srshr s |_, n, by, _| n.rshr(by);
    /// URSHR.
    urshr u |_, n, by, _| n.rshr(by);
    /// SRSRA.
    srsra s |d, n, by, _| d.wrapping_add(n.rshr(by));
    /// URSRA.
    ursra u |d, n, by, _| d.wrapping_add(n.rshr(by));
    /// SRI: the destination keeps the bits that are shifted in.
    sri u |d, n, by, _| d & !(n | !n).shr(by) | n.shr(by);
    /// SLI.
    sli u |d, n, by, _| d & !(n | !n).shl(by) | n.shl(by);
    /// SHL.
    shl u |_, n, by, _| n.shl(by);
    /// SQSHL (immediate).
    sqshl s |_, n, by, q| {
        let (r, over) = n.shl_sat(by);
        *q |= over;
        r
    };
    /// UQSHL (immediate).
    uqshl u |_, n, by, q| {
        let (r, over) = n.shl_sat(by);
        *q |= over;
        r
    };
    /// SQSHLU: signed operand, unsigned result.
    sqshlu s |_, n, by, q| {
        if n < 0 {
            *q = true;
            0
        } else {
            let (r, over) = n.cast_unsigned().shl_sat(by);
            *q |= over;
            r.cast_signed()
        }
    };
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{number, vector};
    use super::*;

    #[test]
    fn full_width_and_inserts() {
        let mut q = false;
        type Op = fn(u32, Vector, Vector, u32, &mut bool) -> Vector;
        let mut run = |op: Op, size, d, n, by| number(op(size, vector(d), vector(n), by, &mut q));
        let d = u128::from_le_bytes([0xa5; 16]);
        assert_eq!(run(sri, 0, d, !0, 8), d);
        assert_eq!(run(sri, 0, d, !0, 4) as u8, 0xaf);
        assert_eq!(run(sli, 0, d, 0, 4) as u8, 0x05);
        assert_eq!(run(sshr, 1, 0, 0x8000, 16), 0xffff);
        assert_eq!(run(ushr, 3, 0, !0, 64), 0);
        assert_eq!(run(urshr, 3, 0, !0, 64), 1 << 64 | 1);
        assert!(!q);
        assert_eq!(number(sqshlu(0, vector(0), vector(0xff), 0, &mut q)), 0);
        assert!(q);
    }
}
