//! Floating-point arithmetic against independent judges: for half precision, exact comparisons of fractions of integers in
//! every rounding mode, flags included; for single and double precision, the host in round-to-nearest mode.

use std::cmp::Ordering;

use proptest::prelude::*;
use ulna_arm_cpu::fp::{self, Double, Env, Format, Half, Rounding, Single, fpcr, fpsr};

const SIGN: u64 = 0x8000;
const INF: u64 = 0x7c00;
const ONE_HALF_MAX: u64 = 0x7bff;

/// FPCR of a rounding mode.
fn rmode(r: u32) -> u32 {
    r << 22
}

/// A finite half-precision magnitude in units of 2^-24; infinity as what would follow the largest number.
fn units(bits: u64) -> u128 {
    let (e, f) = ((bits & 0x7fff) >> 10, u128::from(bits & 0x3ff));
    if e == 0 { f } else { (0x400 + f) << (e - 1) }
}

fn finite(bits: u64) -> bool {
    bits & INF != INF
}

/// The half-precision result for a magnitude that is known by comparisons only: `cmp(k)` compares k units of 2^-25 with it.
fn judge(neg: bool, env: u32, cmp: impl Fn(u128) -> Ordering) -> (u64, u32) {
    let sign = if neg { SIGN } else { 0 };
    let tiny = cmp(2 * units(0x400)) == Ordering::Greater;
    if tiny && env & fpcr::FZ16 != 0 {
        return (sign, fpsr::UFC);
    }
    // The largest number not above it.
    let (mut low, mut high) = (0, INF);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if cmp(2 * units(middle)) == Ordering::Greater { high = middle } else { low = middle }
    }
    let overflows = cmp(2 * units(INF)) != Ordering::Greater;
    if cmp(2 * units(low)) == Ordering::Equal {
        return (sign | low, 0);
    }
    let up = match env >> 22 & 3 {
        0 => match cmp(units(low) + units(low + 1)) {
            Ordering::Less => true,
            Ordering::Equal => low & 1 != 0,
            Ordering::Greater => false,
        },
        1 => !neg,
        2 => neg,
        _ => false,
    };
    let r = low + u64::from(up);
    let mut flags = fpsr::IXC;
    if tiny {
        flags |= fpsr::UFC;
    }
    if r == INF || overflows {
        flags |= fpsr::OFC;
    }
    (sign | r, flags)
}

/// `num / den` units of 2^-24.
fn ratio(neg: bool, fpcr: u32, num: u128, den: u128) -> (u64, u32) {
    judge(neg, fpcr, |k| (k * den).cmp(&(2 * num)))
}

/// A sum of signed units of 2^-48; zero has the sign of the mode unless `zero` tells it.
fn sum48(fpcr: u32, v: i128, zero: Option<bool>) -> (u64, u32) {
    if v == 0 {
        let neg = zero.unwrap_or(fpcr >> 22 & 3 == 2);
        return (if neg { SIGN } else { 0 }, 0);
    }
    ratio(v < 0, fpcr, v.unsigned_abs(), 1 << 24)
}

fn signed(bits: u64) -> i128 {
    let m = units(bits) as i128;
    if bits & SIGN != 0 { -m } else { m }
}

/// What FZ16 makes of an operand.
fn flushed(env: u32, bits: u64) -> u64 {
    if env & fpcr::FZ16 != 0 && bits & INF == 0 { bits & SIGN } else { bits }
}

fn half_env() -> impl Strategy<Value = u32> {
    (0u32..4, any::<bool>()).prop_map(|(r, fz)| rmode(r) | if fz { fpcr::FZ16 } else { 0 })
}

/// Finite half-precision numbers, denormal ones often.
fn half() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0u64..0x7c00, any::<bool>()),
        1 => (0u64..0x800, any::<bool>()),
        1 => (0x7800u64..0x7c00, any::<bool>()),
    ]
    .prop_map(|(m, s)| m | if s { SIGN } else { 0 })
}

fn run(fpcr: u32, f: impl FnOnce(&mut Env) -> u64) -> (u64, u32) {
    let mut e = Env { fpcr, fpsr: 0 };
    let r = f(&mut e);
    (r, e.fpsr)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn half_sums(env in half_env(), a in half(), b in half()) {
        let (x, y) = (flushed(env, a), flushed(env, b));
        let same = |s: u64, t: u64| (s & SIGN == t & SIGN).then_some(s & SIGN != 0);
        let want = sum48(env, (signed(x) + signed(y)) << 24, same(x, y));
        prop_assert_eq!(run(env, |e| fp::add::<Half>(e, a, b)), want);
        let want = sum48(env, (signed(x) - signed(y)) << 24, same(x, y ^ SIGN));
        prop_assert_eq!(run(env, |e| fp::sub::<Half>(e, a, b)), want);
    }

    #[test]
    fn half_products(env in half_env(), a in half(), b in half(), c in half()) {
        let (x, y, z) = (flushed(env, a), flushed(env, b), flushed(env, c));
        let neg = (x ^ y) & SIGN != 0;
        let want = sum48(env, signed(x) * signed(y), Some(neg));
        prop_assert_eq!(run(env, |e| fp::mul::<Half>(e, a, b)), want);
        prop_assert_eq!(run(env, |e| fp::mulx::<Half>(e, a, b)), want);
        let zero = (neg == (z & SIGN != 0)).then_some(neg);
        let want = sum48(env, (signed(z) << 24) + signed(x) * signed(y), zero);
        prop_assert_eq!(run(env, |e| fp::mul_add::<Half>(e, c, a, b)), want);
    }

    #[test]
    fn half_steps(env in half_env(), a in half(), b in half()) {
        let (x, y) = (flushed(env, a), flushed(env, b));
        let p = signed(x) * signed(y);
        let want = sum48(env, (2 << 48) - p, None);
        prop_assert_eq!(run(env, |e| fp::recip_step::<Half>(e, a, b)), want);
        let v: i128 = (3 << 48) - p;
        let want = if v == 0 { sum48(env, 0, None) } else { ratio(v < 0, env, v.unsigned_abs(), 1 << 25) };
        prop_assert_eq!(run(env, |e| fp::rsqrt_step::<Half>(e, a, b)), want);
    }

    #[test]
    fn half_quotients(env in half_env(), a in half(), b in half()) {
        let (x, y) = (flushed(env, a), flushed(env, b));
        let neg = (x ^ y) & SIGN != 0;
        let sign = (x ^ y) & SIGN;
        let want = match (units(x), units(y)) {
            (0, 0) => (0x7e00, fpsr::IOC),
            (0, _) => (sign, 0),
            (_, 0) => (sign | INF, fpsr::DZC),
            (m, n) => ratio(neg, env, m << 24, n),
        };
        prop_assert_eq!(run(env, |e| fp::div::<Half>(e, a, b)), want);
    }

    #[test]
    fn half_from_wider(env in half_env(), v in any::<i64>(), scale in 0i32..90) {
        // FZ16 does not take part in conversions.
        let x = v as f64 * 2f64.powi(-scale);
        let mode = Rounding::from_rmode(env >> 22);
        let want = if x == 0.0 { (0, 0) } else {
            judge(x < 0.0, env & !fpcr::FZ16, |k| (k as f64 * 2f64.powi(-25)).total_cmp(&x.abs()))
        };
        prop_assert_eq!(run(env, |e| fp::convert::<Double, Half>(e, x.to_bits(), mode)), want);
        let s = x as f32;
        let x = f64::from(s);
        let want = if x == 0.0 { (0, 0) } else {
            judge(x < 0.0, env & !fpcr::FZ16, |k| (k as f64 * 2f64.powi(-25)).total_cmp(&x.abs()))
        };
        prop_assert_eq!(run(env, |e| fp::convert::<Single, Half>(e, s.to_bits().into(), mode)), want);
    }

    #[test]
    fn half_from_integers(r in 0u32..4, v in any::<i64>(), shift in 0u32..64, fbits in 0u32..=64) {
        let v = v >> shift;
        let want = if v == 0 { (0, 0) } else {
            let m = u128::from(v.unsigned_abs());
            // v * 2^-fbits in units of 2^-24.
            if fbits >= 24 { ratio(v < 0, rmode(r), m, 1 << (fbits - 24)) } else { ratio(v < 0, rmode(r), m << (24 - fbits), 1) }
        };
        prop_assert_eq!(run(rmode(r), |e| fp::fixed_to_fp::<Half>(e, v as u64, fbits, false, 64)), want);
    }
}

#[test]
fn half_roots_of_every_number() {
    for r in 0..4 {
        for a in 1..INF {
            let want = judge(false, rmode(r), |k| (k * k).cmp(&(units(a) << 26)));
            assert_eq!(run(rmode(r), |e| fp::sqrt::<Half>(e, a)), want, "{a:#x} mode {r}");
        }
    }
}

#[test]
fn half_to_wider_and_back_is_exact() {
    for a in (0..0x1_0000).filter(|a| finite(*a)) {
        let mut e = Env::default();
        let d = fp::convert::<Half, Double>(&mut e, a, Rounding::TieEven);
        assert_eq!(f64::from_bits(d).abs(), units(a) as f64 * 2f64.powi(-24), "{a:#x}");
        assert_eq!(d >> 63, a >> 15);
        assert_eq!(fp::convert::<Double, Half>(&mut e, d, Rounding::TieEven), a);
        let s = fp::convert::<Half, Single>(&mut e, a, Rounding::TieEven);
        assert_eq!(f64::from(f32::from_bits(s as u32)).to_bits(), d);
        assert_eq!(fp::convert::<Single, Half>(&mut e, s, Rounding::TieEven), a);
        assert_eq!(e.fpsr, 0, "{a:#x}");
    }
}

const MODES: [Rounding; 5] =
    [Rounding::TieEven, Rounding::PosInf, Rounding::NegInf, Rounding::Zero, Rounding::TieAway];

/// An integral value by the host.
fn integral(x: f64, mode: Rounding) -> f64 {
    match mode {
        Rounding::TieEven => x.round_ties_even(),
        Rounding::PosInf => x.ceil(),
        Rounding::NegInf => x.floor(),
        Rounding::TieAway => x.round(),
        _ => x.trunc(),
    }
}

/// The integer that a number becomes, with saturation.
fn integer(x: f64, mode: Rounding, unsigned: bool, width: u32) -> (u64, u32) {
    let mask = u64::MAX >> (64 - width);
    if x.is_nan() {
        return (0, fpsr::IOC);
    }
    let i = integral(x, mode);
    let (low, high) =
        if unsigned { (0, i128::from(mask)) } else { (-1i128 << (width - 1), (1 << (width - 1)) - 1) };
    // A cast saturates far outside of both bounds.
    let v = i as i128;
    let c = v.clamp(low, high);
    let flags = if c != v {
        fpsr::IOC
    } else if i != x {
        fpsr::IXC
    } else {
        0
    };
    (c as u64 & mask, flags)
}

/// Bits of a number of any size, with exponents that give results of interest often.
fn bits<F: Format>() -> impl Strategy<Value = u64> {
    let near = (any::<bool>(), -70i64..70, any::<u64>(), 0u32..64).prop_map(|(neg, e, f, cut)| {
        let exp = (i64::from(F::BIAS) + e).clamp(1, F::EXP_MAX as i64 - 1) as u64;
        let frac = f & F::FRAC_MASK & u64::MAX << cut.min(F::FRAC);
        if neg { F::SIGN | exp << F::FRAC | frac } else { exp << F::FRAC | frac }
    });
    let corner = (any::<bool>(), 0usize..10).prop_map(|(neg, k)| {
        let v = [
            0,
            1,
            F::FRAC_MASK,
            F::ONE,
            F::ONE + 1,
            F::INF - 1,
            F::INF,
            F::DEFAULT_NAN,
            F::INF + 1,
            F::INF - F::ONE,
        ][k];
        if neg { v | F::SIGN } else { v }
    });
    prop_oneof![6 => near, 2 => any::<u64>().prop_map(|v| v & F::MASK), 1 => corner]
}

fn s(a: u64) -> f32 {
    f32::from_bits(a as u32)
}
fn d(a: u64) -> f64 {
    f64::from_bits(a)
}

fn nan<F: Format>(a: u64) -> bool {
    a & (F::SIGN - 1) > F::INF
}

/// The result is the host's, unless it is a NaN (the choice among NaNs is Arm's own).
fn agrees<F: Format>(got: u64, host: u64) -> bool {
    got == host || nan::<F>(got) && nan::<F>(host)
}

fn normal<F: Format>(a: u64) -> bool {
    let e = a >> F::FRAC & F::EXP_MAX;
    // The smallest binade left out: an underflow may have been rounded into it.
    e > 1 && e < F::EXP_MAX
}

/// The host's arithmetic (fpcr 0) and the integers' (flushing) give the same result and flags wherever no denormal is
/// involved; and knowing that Inexact is set already changes nothing.
fn same_by_both_paths<F: Format>(operands: &[u64], f: impl Fn(&mut Env) -> u64) -> Result<(), TestCaseError> {
    let fast = run(0, &f);
    let mut known = Env { fpcr: 0, fpsr: fpsr::IXC };
    let again = f(&mut known);
    prop_assert_eq!((again, known.fpsr), (fast.0, fast.1 | fpsr::IXC));
    if normal::<F>(fast.0) && operands.iter().all(|a| normal::<F>(*a)) {
        prop_assert_eq!(run(fpcr::FZ, &f), fast);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn single_as_the_host(a in bits::<Single>(), b in bits::<Single>(), c in bits::<Single>()) {
        let mut e = Env::default();
        let h = |x: f32| u64::from(x.to_bits());
        prop_assert!(agrees::<Single>(fp::add::<Single>(&mut e, a, b), h(s(a) + s(b))));
        prop_assert!(agrees::<Single>(fp::sub::<Single>(&mut e, a, b), h(s(a) - s(b))));
        prop_assert!(agrees::<Single>(fp::mul::<Single>(&mut e, a, b), h(s(a) * s(b))));
        prop_assert!(agrees::<Single>(fp::div::<Single>(&mut e, a, b), h(s(a) / s(b))));
        prop_assert!(agrees::<Single>(fp::sqrt::<Single>(&mut e, a), h(s(a).sqrt())));
        prop_assert!(agrees::<Single>(fp::mul_add::<Single>(&mut e, c, a, b), h(s(a).mul_add(s(b), s(c)))));
        prop_assert!(agrees::<Double>(fp::convert::<Single, Double>(&mut e, a, Rounding::TieEven), f64::from(s(a)).to_bits()));
        same_by_both_paths::<Single>(&[a, b], |e| fp::add::<Single>(e, a, b))?;
        same_by_both_paths::<Single>(&[a, b], |e| fp::sub::<Single>(e, a, b))?;
        same_by_both_paths::<Single>(&[a, b], |e| fp::mul::<Single>(e, a, b))?;
        same_by_both_paths::<Single>(&[a, b], |e| fp::div::<Single>(e, a, b))?;
        same_by_both_paths::<Single>(&[a], |e| fp::sqrt::<Single>(e, a))?;
        same_by_both_paths::<Single>(&[a, b, c], |e| fp::mul_add::<Single>(e, c, a, b))?;
    }

    #[test]
    fn double_as_the_host(a in bits::<Double>(), b in bits::<Double>(), c in bits::<Double>()) {
        let mut e = Env::default();
        prop_assert!(agrees::<Double>(fp::add::<Double>(&mut e, a, b), (d(a) + d(b)).to_bits()));
        prop_assert!(agrees::<Double>(fp::sub::<Double>(&mut e, a, b), (d(a) - d(b)).to_bits()));
        prop_assert!(agrees::<Double>(fp::mul::<Double>(&mut e, a, b), (d(a) * d(b)).to_bits()));
        prop_assert!(agrees::<Double>(fp::div::<Double>(&mut e, a, b), (d(a) / d(b)).to_bits()));
        prop_assert!(agrees::<Double>(fp::sqrt::<Double>(&mut e, a), d(a).sqrt().to_bits()));
        prop_assert!(agrees::<Double>(fp::mul_add::<Double>(&mut e, c, a, b), d(a).mul_add(d(b), d(c)).to_bits()));
        prop_assert!(agrees::<Single>(fp::convert::<Double, Single>(&mut e, a, Rounding::TieEven), (d(a) as f32).to_bits().into()));
        same_by_both_paths::<Double>(&[a, b], |e| fp::add::<Double>(e, a, b))?;
        same_by_both_paths::<Double>(&[a, b], |e| fp::sub::<Double>(e, a, b))?;
        same_by_both_paths::<Double>(&[a, b], |e| fp::mul::<Double>(e, a, b))?;
        same_by_both_paths::<Double>(&[a, b], |e| fp::div::<Double>(e, a, b))?;
        same_by_both_paths::<Double>(&[a], |e| fp::sqrt::<Double>(e, a))?;
        same_by_both_paths::<Double>(&[a, b, c], |e| fp::mul_add::<Double>(e, c, a, b))?;
    }

    #[test]
    fn directed_results_enclose_the_nearest(a in bits::<Double>(), b in bits::<Double>(), op in 0usize..4) {
        let f = [fp::add::<Double>, fp::sub::<Double>, fp::mul::<Double>, fp::div::<Double>][op];
        let (near, flags) = run(0, |e| f(e, a, b));
        let (up, up_flags) = run(rmode(1), |e| f(e, a, b));
        let (down, down_flags) = run(rmode(2), |e| f(e, a, b));
        let (zero, _) = run(rmode(3), |e| f(e, a, b));
        if nan::<Double>(near) {
            prop_assert_eq!([up, down, zero], [near; 3]);
        } else {
            prop_assert!(d(down) <= d(near) && d(near) <= d(up));
            prop_assert_eq!(d(zero), if d(down) >= 0.0 { d(down) } else { d(up) });
            let exact = flags & fpsr::IXC == 0;
            prop_assert_eq!(exact, up_flags & fpsr::IXC == 0);
            prop_assert_eq!(exact, down_flags & fpsr::IXC == 0);
            prop_assert_eq!(exact, d(down) == d(up));
            prop_assert!(exact || d(down).next_up() == d(up));
        }
    }

    #[test]
    fn to_integers(a in bits::<Single>(), fbits in 0u32..=32, unsigned: bool, wide: bool, m in 0usize..5) {
        let width = if wide { 64 } else { 32 };
        let x = f64::from(s(a)) * 2f64.powi(fbits as i32);
        let want = integer(x, MODES[m], unsigned, width);
        prop_assert_eq!(run(0, |e| fp::to_fixed::<Single>(e, a, fbits, unsigned, MODES[m], width)), want);
        let wide = fp::convert::<Single, Double>(&mut Env::default(), a, Rounding::TieEven);
        prop_assert_eq!(run(0, |e| fp::to_fixed::<Double>(e, wide, fbits, unsigned, MODES[m], width)), want);
    }

    #[test]
    fn from_integers(v in any::<u64>(), shift in 0u32..64, fbits in 0u32..=64) {
        let v = ((v as i64) >> shift) as u64;
        let scale = 2f64.powi(-(fbits as i32));
        let mut e = Env::default();
        prop_assert_eq!(d(fp::fixed_to_fp::<Double>(&mut e, v, fbits, false, 64)), v as i64 as f64 * scale);
        prop_assert_eq!(d(fp::fixed_to_fp::<Double>(&mut e, v, fbits, true, 64)), v as f64 * scale);
        prop_assert_eq!(s(fp::fixed_to_fp::<Single>(&mut e, v, fbits, false, 64)), v as i64 as f32 * scale as f32);
        prop_assert_eq!(s(fp::fixed_to_fp::<Single>(&mut e, v, fbits, true, 64)), v as f32 * scale as f32);
        prop_assert_eq!(d(fp::fixed_to_fp::<Double>(&mut e, v, fbits, false, 32)), f64::from(v as i32) * scale);
        prop_assert_eq!(d(fp::fixed_to_fp::<Double>(&mut e, v, fbits, true, 32)), f64::from(v as u32) * scale);
    }

    #[test]
    fn to_integral_values(a in bits::<Double>(), m in 0usize..5) {
        let x = d(a);
        let (r, flags) = run(0, |e| fp::round_int::<Double>(e, a, MODES[m], true));
        prop_assert!(agrees::<Double>(r, integral(x, MODES[m]).to_bits()));
        if !x.is_nan() {
            prop_assert_eq!(flags, if d(r) != x { fpsr::IXC } else { 0 });
            prop_assert_eq!(run(0, |e| fp::round_int::<Double>(e, a, MODES[m], false)), (r, 0));
        }
        for size in [32, 64] {
            let bound = 2f64.powi(size - 1);
            let (r, flags) = run(0, |e| fp::round_int_n::<Double>(e, a, MODES[m], size as u32));
            let i = integral(x, MODES[m]);
            if (-bound..bound).contains(&i) {
                prop_assert_eq!(r, i.to_bits());
                prop_assert_eq!(flags, if i != x { fpsr::IXC } else { 0 });
            } else {
                prop_assert_eq!((d(r), flags), (-bound, fpsr::IOC));
            }
        }
    }

    #[test]
    fn javascript_integers(a in bits::<Double>()) {
        let x = d(a);
        let mut e = Env::default();
        let (r, exact) = fp::to_fixed_js(&mut e, a);
        if x.is_finite() {
            // fmod is exact.
            let t = x.trunc().rem_euclid(4294967296.0);
            prop_assert_eq!(f64::from(r), if t == 4294967296.0 { 0.0 } else { t });
        } else {
            prop_assert_eq!(r, 0);
        }
        prop_assert_eq!(exact, f64::from(r as i32).to_bits() == a);
    }

    #[test]
    fn comparisons(a in bits::<Single>(), b in bits::<Single>()) {
        let (x, y) = (s(a), s(b));
        let signalling = |v: u64| nan::<Single>(v) && v & Single::QUIET == 0;
        let loud = signalling(a) || signalling(b);
        let ioc = |yes: bool| if yes { fpsr::IOC } else { 0 };
        let unordered = x.is_nan() || y.is_nan();
        prop_assert_eq!(run(0, |e| fp::compare_eq::<Single>(e, a, b).into()), ((x == y).into(), ioc(loud)));
        prop_assert_eq!(run(0, |e| fp::compare_ge::<Single>(e, a, b).into()), ((x >= y).into(), ioc(unordered)));
        prop_assert_eq!(run(0, |e| fp::compare_gt::<Single>(e, a, b).into()), ((x > y).into(), ioc(unordered)));
        let flags = match x.partial_cmp(&y) {
            None => 0b0011,
            Some(Ordering::Equal) => 0b0110,
            Some(Ordering::Less) => 0b1000,
            Some(Ordering::Greater) => 0b0010,
        };
        prop_assert_eq!(run(0, |e| fp::compare::<Single>(e, a, b, false).into()), (flags << 28, ioc(loud)));
        prop_assert_eq!(run(0, |e| fp::compare::<Single>(e, a, b, true).into()), (flags << 28, ioc(unordered)));
        if !unordered {
            let key = |v: u64| if v & Single::SIGN != 0 { -((v & !Single::SIGN) as i64) - 1 } else { v as i64 };
            let (low, high) = if key(a) < key(b) { (a, b) } else { (b, a) };
            for (f, want) in [
                (fp::max::<Single> as fn(&mut Env, u64, u64) -> u64, high),
                (fp::max_num::<Single>, high),
                (fp::min::<Single>, low),
                (fp::min_num::<Single>, low),
            ] {
                prop_assert_eq!(run(0, |e| f(e, a, b)), (want, 0));
            }
        }
    }

    #[test]
    fn nans_by_rank(a in bits::<Double>(), b in bits::<Double>(), c in bits::<Double>(), dn: bool) {
        let signalling = |v: u64| nan::<Double>(v) && v & Double::QUIET == 0;
        let pick = |ops: &[u64]| {
            let chosen = ops.iter().find(|v| signalling(**v)).or(ops.iter().find(|v| nan::<Double>(**v)))?;
            let flags = if signalling(*chosen) { fpsr::IOC } else { 0 };
            Some((if dn { Double::DEFAULT_NAN } else { chosen | Double::QUIET }, flags))
        };
        let fpcr = if dn { fpcr::DN } else { 0 };
        if let Some(want) = pick(&[a, b]) {
            for f in [fp::add::<Double>, fp::sub::<Double>, fp::mul::<Double>, fp::div::<Double>, fp::max::<Double>, fp::min::<Double>, fp::mulx::<Double>] {
                prop_assert_eq!(run(fpcr, |e| f(e, a, b)), want);
            }
        }
        let infinity_by_zero = (d(a).is_infinite() && d(b) == 0.0) || (d(a) == 0.0 && d(b).is_infinite());
        if let Some(want) = pick(&[c, a, b]).filter(|_| !infinity_by_zero) {
            prop_assert_eq!(run(fpcr, |e| fp::mul_add::<Double>(e, c, a, b)), want);
        }
    }

    #[test]
    fn estimates_are_good_to_eight_bits(a in bits::<Single>()) {
        let x = s(a);
        if x.is_normal() && (1e-30..1e30).contains(&x.abs()) {
            let (r, flags) = run(0, |e| fp::recip_estimate::<Single>(e, a));
            prop_assert!((f64::from(s(r)) * f64::from(x) - 1.0).abs() < 1.0 / 256.0);
            prop_assert_eq!(flags, 0);
            let (r, flags) = run(0, |e| fp::rsqrt_estimate::<Single>(e, a & !Single::SIGN));
            prop_assert!((f64::from(s(r)).powi(2) * f64::from(x.abs()) - 1.0).abs() < 1.0 / 128.0);
            prop_assert_eq!(flags, 0);
        }
    }
}

#[test]
fn largest_finite_half_is_as_the_judge_has_it() {
    assert_eq!(units(ONE_HALF_MAX) as f64 * 2f64.powi(-24), 65504.0);
    assert_eq!(units(INF), 1 << 40);
}
