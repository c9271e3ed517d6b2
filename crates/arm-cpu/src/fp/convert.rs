//! Conversions among formats.

use super::format::{BFloat, Format, ordinary};
use super::real::{Class, infinity, round_cv, unpack_cv, zero};
use super::{Env, Rounding, Single, fpcr, fpsr};

/// FPConvert, rounding as `mode` says.
#[inline(always)]
pub fn convert<From: Format, To: Format>(env: &mut Env, a: u64, mode: Rounding) -> u64 {
    if From::BITS == 64 && To::BITS == 32 && mode == Rounding::TieEven && !env.has(fpcr::FZ) {
        let x = f64::from_bits(a);
        let r = x as f32;
        let bits = u64::from(r.to_bits());
        if ordinary::<Single>(bits) {
            env.fpsr |= if f64::from(r) != x { fpsr::IXC } else { 0 };
            return bits;
        }
    }
    if From::BITS == 32 && To::BITS == 64 && ordinary::<Single>(a) {
        return f64::from(f32::from_bits(a as u32)).to_bits();
    }
    convert_any::<From, To>(env, a, mode)
}

#[inline(never)]
fn convert_any<From: Format, To: Format>(env: &mut Env, a: u64, mode: Rounding) -> u64 {
    let n = unpack_cv::<From>(env, a);
    let ahp = To::HALF && env.has(fpcr::AHP);
    match n.class {
        Class::QNaN | Class::SNaN => {
            if n.class == Class::SNaN || ahp {
                env.raise(fpsr::IOC);
            }
            if ahp {
                zero::<To>(n.neg)
            } else if env.has(fpcr::DN) {
                To::DEFAULT_NAN
            } else {
                // FPConvertNaN: the most significant bits of the payload are kept.
                let payload = (a & From::FRAC_MASK) << (64 - From::FRAC) >> (64 - To::FRAC);
                infinity::<To>(n.neg) | To::QUIET | payload
            }
        }
        Class::Infinity if ahp => {
            env.raise(fpsr::IOC);
            zero::<To>(n.neg) | (To::SIGN - 1)
        }
        Class::Infinity => infinity::<To>(n.neg),
        Class::Zero => zero::<To>(n.neg),
        Class::Finite => round_cv::<To>(env, n.real(), mode),
    }
}

/// FPConvertBF: single precision to BFloat16.
#[inline]
pub fn convert_to_bf(env: &mut Env, a: u64) -> u64 {
    let mode = env.rounding();
    convert_any::<Single, BFloat>(env, a, mode)
}
