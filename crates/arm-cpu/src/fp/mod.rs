//! Exact Arm floating-point arithmetic as pure functions.
//!
//! Values are raw bits in the low end of a `u64`; the format is a type parameter ([`Half`], [`Single`], [`Double`],
//! [`BFloat`]). Every function takes an [`Env`]: FPCR as it is, and FPSR, in which it sets cumulative flags. The rules are
//! those of the shared pseudocode (Arm ARM J1.3, `FPUnpack`, `FPRound`, `FPProcessNaNs`): operands are taken apart, the
//! exact result is found in integers, and rounded once. For single and double precision in the common mode (round to
//! nearest, no flushing) ordinary operands with an ordinary result go through the host's arithmetic instead.
//!
//! Left out: trapped exceptions (FPCR.IOE and its kin are RAZ), FPCR.{AH, FIZ, NEP} (FEAT_AFP).

mod arith;
mod bfloat;
mod compare;
mod convert;
mod estimate;
mod format;
mod integer;
mod minmax;
mod real;

pub use arith::{add, div, mul, mul_add, mul_add_half, mulx, recip_step, rsqrt_step, sqrt, sub};
pub use bfloat::{bf_dot, bf_mul_add};
pub use compare::{compare, compare_eq, compare_ge, compare_gt};
pub use convert::{convert, convert_to_bf};
pub use estimate::{recip_estimate, recip_x, rsqrt_estimate};
pub use format::{BFloat, Double, Format, Half, Single};
pub use integer::{fixed_to_fp, round_int, round_int_n, to_fixed, to_fixed_js};
pub use minmax::{max, max_num, min, min_num};

/// FPCR bits.
pub mod fpcr {
    /// Alternative half precision.
    pub const AHP: u32 = 1 << 26;
    /// Default NaN.
    pub const DN: u32 = 1 << 25;
    /// Flush to zero, single and double precision.
    pub const FZ: u32 = 1 << 24;
    /// Rounding mode.
    pub const RMODE: u32 = 3 << 22;
    /// Flush to zero, half precision.
    pub const FZ16: u32 = 1 << 19;
    /// Extended BFloat16 behaviours.
    pub const EBF: u32 = 1 << 13;
}

/// FPSR cumulative flags.
pub mod fpsr {
    /// Invalid operation.
    pub const IOC: u32 = 1 << 0;
    /// Division by zero.
    pub const DZC: u32 = 1 << 1;
    /// Overflow.
    pub const OFC: u32 = 1 << 2;
    /// Underflow.
    pub const UFC: u32 = 1 << 3;
    /// Inexact.
    pub const IXC: u32 = 1 << 4;
    /// Input denormal.
    pub const IDC: u32 = 1 << 7;
}

/// FPCR, and FPSR in which flags accumulate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Env {
    /// Control.
    pub fpcr: u32,
    /// Status.
    pub fpsr: u32,
}

/// How a result is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    TieEven,
    /// Towards plus infinity.
    PosInf,
    /// Towards minus infinity.
    NegInf,
    /// Towards zero.
    Zero,
    /// To nearest, ties away from zero.
    TieAway,
    /// Von Neumann rounding: inexact results become odd.
    Odd,
}

impl Rounding {
    /// As encoded in FPCR.RMode.
    #[inline(always)]
    pub fn from_rmode(r: u32) -> Rounding {
        match r & 3 {
            0 => Rounding::TieEven,
            1 => Rounding::PosInf,
            2 => Rounding::NegInf,
            _ => Rounding::Zero,
        }
    }
}

impl Env {
    /// FPCR.RMode.
    #[inline(always)]
    pub fn rounding(&self) -> Rounding {
        Rounding::from_rmode(self.fpcr >> 22)
    }
    #[inline(always)]
    fn has(&self, bit: u32) -> bool {
        self.fpcr & bit != 0
    }
    #[inline(always)]
    fn raise(&mut self, flags: u32) {
        self.fpsr |= flags;
    }
    /// Round to nearest without flushing: the host's arithmetic may be used.
    #[inline(always)]
    fn host_mode(&self) -> bool {
        self.fpcr & (fpcr::RMODE | fpcr::FZ) == 0
    }
    /// The sign of an exact zero sum of values of unlike sign.
    #[inline(always)]
    fn zero_sum_sign(&self) -> bool {
        self.fpcr & fpcr::RMODE == 2 << 22
    }
}

/// FPNeg: also of NaNs.
#[inline(always)]
pub fn neg<F: Format>(a: u64) -> u64 {
    a ^ F::SIGN
}

/// FPAbs: also of NaNs.
#[inline(always)]
pub fn abs<F: Format>(a: u64) -> u64 {
    a & !F::SIGN
}

/// FABD: absolute difference.
#[inline(always)]
pub fn abd<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    abs::<F>(sub::<F>(env, a, b))
}
