//! Shifts by an immediate. `m` is not used; the amount comes as `by`, already decoded: 1 to the width to the right, 0 to
//! the width less one to the left.

use super::lanes::{Lane, map3};

macro_rules! shifts {
    ($($(#[$doc:meta])* $name:ident $kind:ident |$d:pat_param, $n:ident, $by:ident, $q:pat_param| $e:expr;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(size: u32, d: u128, n: u128, $by: u32, $q: &mut bool) -> u128 {
            shifts!(@ $kind size, d, n, |$d, $n, _| $e)
        }
    )* };
    (@ u $($r:tt)*) => { shifts!(@@ u8 u16 u32 u64 $($r)*) };
    (@ s $($r:tt)*) => { shifts!(@@ i8 i16 i32 i64 $($r)*) };
    (@@ $a:ident $b:ident $c:ident $e:ident $size:ident, $d:ident, $n:ident, $f:expr) => {
        match $size & 3 {
            0 => map3::<$a>($d, $n, 0, $f),
            1 => map3::<$b>($d, $n, 0, $f),
            2 => map3::<$c>($d, $n, 0, $f),
            _ => map3::<$e>($d, $n, 0, $f),
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
    use super::*;

    #[test]
    fn full_width_and_inserts() {
        let mut q = false;
        let d = u128::from_le_bytes([0xa5; 16]);
        assert_eq!(sri(0, d, !0, 8, &mut q), d);
        assert_eq!(sri(0, d, !0, 4, &mut q) as u8, 0xaf);
        assert_eq!(sli(0, d, 0, 4, &mut q) as u8, 0x05);
        assert_eq!(sshr(1, 0, 0x8000, 16, &mut q), 0xffff);
        assert_eq!(ushr(3, 0, !0, 64, &mut q), 0);
        assert_eq!(urshr(3, 0, !0, 64, &mut q), 1 << 64 | 1);
        assert!(!q);
        assert_eq!(sqshlu(0, 0, 0xff, 0, &mut q), 0);
        assert!(q);
    }
}
