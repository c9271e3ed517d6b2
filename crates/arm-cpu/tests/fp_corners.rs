//! Floating-point corners by the manual's pseudocode (Arm ARM J1.3): NaNs, flushing, alternative half precision, BFloat16,
//! FJCVTZS. Rounding and flags of ordinary numbers are judged in `fp.rs`.

use ulna_arm_cpu::fp::*;

fn env(fpcr: u32) -> Env {
    Env { fpcr, fpsr: 0 }
}

const QNAN1: u64 = 0x7fc0_0001;
const QNAN2: u64 = 0xffc0_0002;
const SNAN: u64 = 0xff80_0003;
const ONE: u64 = 0x3f80_0000;
const INF: u64 = 0x7f80_0000;
const DENORMAL: u64 = 0x8000_0001;

#[test]
fn nans_propagate_signalling_first_then_in_order() {
    let mut e = env(0);
    assert_eq!(add::<Single>(&mut e, QNAN1, QNAN2), QNAN1);
    assert_eq!(add::<Single>(&mut e, ONE, QNAN2), QNAN2);
    assert_eq!(e.fpsr, 0);
    assert_eq!(add::<Single>(&mut e, QNAN1, SNAN), SNAN | 0x40_0000);
    assert_eq!(e.fpsr, fpsr::IOC);
    assert_eq!(add::<Single>(&mut env(fpcr::DN), QNAN2, ONE), 0x7fc0_0000);
    // The addend counts first.
    assert_eq!(mul_add::<Single>(&mut env(0), QNAN1, QNAN2, ONE), QNAN1);
    assert_eq!(mul_add::<Single>(&mut env(0), ONE, QNAN2, QNAN1), QNAN2);
    // Infinity by zero with a quiet addend is invalid and gives the default NaN.
    let mut e = env(0);
    assert_eq!(mul_add::<Single>(&mut e, QNAN2, INF, 0), 0x7fc0_0000);
    assert_eq!(e.fpsr, fpsr::IOC);
}

#[test]
fn invalid_operations_give_the_default_nan() {
    for r in [
        sub::<Single>(&mut env(0), INF, INF),
        mul::<Single>(&mut env(0), INF, 0),
        div::<Single>(&mut env(0), 0, 0),
        sqrt::<Single>(&mut env(0), ONE | 1 << 31),
    ] {
        assert_eq!(r, 0x7fc0_0000);
    }
    assert_eq!(mulx::<Single>(&mut env(0), INF, 1 << 31), 0xc000_0000);
    let mut e = env(0);
    assert_eq!(div::<Single>(&mut e, ONE, 1 << 31), 0xff80_0000);
    assert_eq!(e.fpsr, fpsr::DZC);
    assert_eq!(sqrt::<Single>(&mut env(0), 1 << 31), 1 << 31);
}

#[test]
fn flushing_tells_operands_from_results() {
    let mut e = env(fpcr::FZ);
    assert_eq!(add::<Single>(&mut e, DENORMAL, 1 << 31), 1 << 31);
    assert_eq!(e.fpsr, fpsr::IDC);
    let mut e = env(fpcr::FZ);
    assert_eq!(mul::<Single>(&mut e, 0x0080_0000, 0x3f00_0000), 0);
    assert_eq!(e.fpsr, fpsr::UFC);
    // Half precision has its own control, and tells nothing of operands.
    let mut e = env(fpcr::FZ);
    assert_eq!(add::<Half>(&mut e, 1, 1), 2);
    let mut e2 = env(fpcr::FZ16);
    assert_eq!(add::<Half>(&mut e2, 1, 1), 0);
    assert_eq!((e.fpsr, e2.fpsr), (0, 0));
    // Comparisons see the flushed value.
    let mut e = env(fpcr::FZ);
    assert!(compare_eq::<Single>(&mut e, DENORMAL, 0));
    assert_eq!(e.fpsr, fpsr::IDC);
    assert_eq!(max::<Single>(&mut env(fpcr::FZ), DENORMAL, 0xbf80_0000), 1 << 31);
}

#[test]
fn comparisons_signal_as_they_should() {
    let f = |f: fn(&mut Env, u64, u64) -> bool, b| {
        let mut e = env(0);
        assert!(!f(&mut e, ONE, b));
        e.fpsr
    };
    assert_eq!(f(compare_eq::<Single>, QNAN1), 0);
    assert_eq!(f(compare_eq::<Single>, SNAN), fpsr::IOC);
    assert_eq!(f(compare_ge::<Single>, QNAN1), fpsr::IOC);
    assert_eq!(compare::<Single>(&mut env(0), 0, 1 << 31, true), 0x6000_0000);
    assert_eq!(compare::<Single>(&mut env(0), 1 << 31, ONE, true), 0x8000_0000);
    assert_eq!(compare::<Single>(&mut env(0), ONE, 0xff80_0000, true), 0x2000_0000);
    assert_eq!(compare::<Single>(&mut env(0), ONE, QNAN1, false), 0x3000_0000);
}

#[test]
fn maxnum_takes_the_number() {
    assert_eq!(max_num::<Single>(&mut env(0), QNAN1, ONE), ONE);
    assert_eq!(min_num::<Single>(&mut env(0), ONE, QNAN2), ONE);
    assert_eq!(max_num::<Single>(&mut env(0), QNAN1, QNAN2), QNAN1);
    assert_eq!(max_num::<Single>(&mut env(0), QNAN1, SNAN), SNAN | 0x40_0000);
    assert_eq!(max::<Single>(&mut env(0), 1 << 31, 0), 0);
    assert_eq!(min::<Single>(&mut env(0), 0, 1 << 31), 1 << 31);
}

#[test]
fn alternative_half_precision_has_no_infinity() {
    let mut e = env(fpcr::AHP);
    assert_eq!(convert::<Single, Half>(&mut e, INF, Rounding::TieEven), 0x7fff);
    assert_eq!(convert::<Single, Half>(&mut e, QNAN2, Rounding::TieEven), 0x8000);
    assert_eq!(e.fpsr, fpsr::IOC);
    let mut e = env(fpcr::AHP);
    assert_eq!(convert::<Single, Half>(&mut e, 0x4780_0000, Rounding::TieEven), 0x7c00);
    assert_eq!(convert::<Half, Single>(&mut e, 0x7c00, Rounding::TieEven), 0x4780_0000);
    assert_eq!(e.fpsr, 0);
    assert_eq!(convert::<Single, Half>(&mut e, 0x4880_0000, Rounding::TieEven), 0x7fff);
    assert_eq!(e.fpsr, fpsr::IOC);
    // In arithmetic it is IEEE's.
    assert_eq!(add::<Half>(&mut e, 0x7bff, 0x7bff), 0x7c00);
}

#[test]
fn conversions_keep_the_top_of_the_payload() {
    let mut e = env(0);
    assert_eq!(convert::<Double, Single>(&mut e, 0xfff4_0000_2000_0000, Rounding::TieEven), 0xffe0_0001);
    assert_eq!(e.fpsr, fpsr::IOC);
    assert_eq!(convert::<Half, Double>(&mut env(0), 0x7e01, Rounding::TieEven), 0x7ff8_0400_0000_0000);
    // To odd: the last bit says that something was lost.
    let third = (1.0f64 / 3.0).to_bits();
    assert_eq!(convert::<Double, Single>(&mut env(0), third, Rounding::Odd), 0x3eaa_aaab);
    assert_eq!(convert::<Double, Single>(&mut env(0), f64::MAX.to_bits(), Rounding::Odd), 0x7f7f_ffff);
    assert_eq!(convert_to_bf(&mut env(0), 0x3f80_8000), 0x3f80);
    assert_eq!(convert_to_bf(&mut env(0), 0x3f81_8000), 0x3f82);
    assert_eq!(convert_to_bf(&mut env(0), 0x7f80_0001), 0x7fc0);
}

#[test]
fn fjcvtzs_zero_is_exact_only_when_it_was_plus_zero() {
    assert_eq!(to_fixed_js(&mut env(0), 0), (0, true));
    assert_eq!(to_fixed_js(&mut env(0), 1 << 63), (0, false));
    // A flushed denormal was not zero (FPToFixedJS); QEMU 7.2 calls it exact.
    let mut e = env(fpcr::FZ);
    assert_eq!(to_fixed_js(&mut e, 1), (0, false));
    assert_eq!(e.fpsr, fpsr::IDC);
    let mut e = env(0);
    assert_eq!(to_fixed_js(&mut e, 4_294_967_297f64.to_bits()), (1, false));
    assert_eq!(e.fpsr, fpsr::IOC);
}

#[test]
fn fixed_point_saturates_at_the_width_of_the_result() {
    // QEMU 7.2 extends the sign of the scalar half-precision form to 32 bits.
    assert_eq!(to_fixed::<Half>(&mut env(0), 0xbc00, 3, false, Rounding::Zero, 16), 0xfff8);
    let mut e = env(0);
    assert_eq!(to_fixed::<Half>(&mut e, 0xfbff, 3, false, Rounding::Zero, 16), 0x8000);
    assert_eq!(to_fixed::<Half>(&mut e, 0xbc00, 3, true, Rounding::Zero, 16), 0);
    assert_eq!(e.fpsr, fpsr::IOC);
    assert_eq!(round_int_n::<Single>(&mut e, 0x4f00_0000, Rounding::Zero, 32), 0xcf00_0000);
    assert_eq!(round_int_n::<Single>(&mut e, 0xcf00_0000, Rounding::Zero, 32), 0xcf00_0000);
}

#[test]
fn bfloat_dot_rounds_to_odd_and_flushes() {
    // 1 * 1 + 2^-70 * 1 added to 0: the tail shows in the last bit.
    assert_eq!(bf_dot(0, 0, (0x3f80, 0x1c80), (0x3f80, 0x3f80)), 0x3f80_0001);
    assert_eq!(bf_dot(0, 0, (0x0001, 0x8000), (0x3f80, 0x3f80)), 0);
    assert_eq!(bf_dot(0, 0, (0x7f80, 0), (0, 0)), 0x7fc0_0000);
    // Extended: rounded once to nearest, denormals kept.
    assert_eq!(bf_dot(fpcr::EBF, 0, (0x3f80, 0x1c80), (0x3f80, 0x3f80)), 0x3f80_0000);
    assert_eq!(bf_dot(fpcr::EBF, 0, (0x0001, 0x8000), (0x3f80, 0x3f80)), 0x0001_0000);
    assert_eq!(bf_mul_add(&mut env(0), ONE, 0x4000, 0x4040), 0x40e0_0000);
}
