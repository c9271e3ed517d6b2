//! Floating-point data processing, scalar (Arm ARM C4.1.97): one, two and three sources, comparisons, select, immediates,
//! conversions among formats.

use super::fp_op::{env, expand_imm, handlers, low};
use crate::cpu::Cpu;
use crate::fp::{self, Double, Format, Half, Single};
use crate::insn::{Exec, Flow, Insn};

handlers! {
    scalar fmov: fmov_s Single, fmov_d Double, fmov_h Half;
    scalar fabs: fabs_s Single, fabs_d Double, fabs_h Half;
    scalar fneg: fneg_s Single, fneg_d Double, fneg_h Half;
    scalar fsqrt: fsqrt_s Single, fsqrt_d Double, fsqrt_h Half;
    scalar frintn: frintn_s Single, frintn_d Double, frintn_h Half;
    scalar frintp: frintp_s Single, frintp_d Double, frintp_h Half;
    scalar frintm: frintm_s Single, frintm_d Double, frintm_h Half;
    scalar frintz: frintz_s Single, frintz_d Double, frintz_h Half;
    scalar frinta: frinta_s Single, frinta_d Double, frinta_h Half;
    scalar frintx: frintx_s Single, frintx_d Double, frintx_h Half;
    scalar frinti: frinti_s Single, frinti_d Double, frinti_h Half;
    scalar frint32z: frint32z_s Single, frint32z_d Double;
    scalar frint32x: frint32x_s Single, frint32x_d Double;
    scalar frint64z: frint64z_s Single, frint64z_d Double;
    scalar frint64x: frint64x_s Single, frint64x_d Double;
    scalar fmul: fmul_s Single, fmul_d Double, fmul_h Half;
    scalar fdiv: fdiv_s Single, fdiv_d Double, fdiv_h Half;
    scalar fadd: fadd_s Single, fadd_d Double, fadd_h Half;
    scalar fsub: fsub_s Single, fsub_d Double, fsub_h Half;
    scalar fmax: fmax_s Single, fmax_d Double, fmax_h Half;
    scalar fmin: fmin_s Single, fmin_d Double, fmin_h Half;
    scalar fmaxnm: fmaxnm_s Single, fmaxnm_d Double, fmaxnm_h Half;
    scalar fminnm: fminnm_s Single, fminnm_d Double, fminnm_h Half;
    scalar fnmul: fnmul_s Single, fnmul_d Double, fnmul_h Half;
    three fmadd: fmadd_s Single, fmadd_d Double, fmadd_h Half;
    three fmsub: fmsub_s Single, fmsub_d Double, fmsub_h Half;
    three fnmadd: fnmadd_s Single, fnmadd_d Double, fnmadd_h Half;
    three fnmsub: fnmsub_s Single, fnmsub_d Double, fnmsub_h Half;
}

/// FCVT.
#[inline(always)]
fn convert<From: Format, To: Format>(cpu: &mut Cpu, i: &Insn) -> Exec {
    super::fp_op::scalar::<From>(cpu, i, |e, _, n, _, _| fp::convert::<From, To>(e, n, e.rounding()))
}

macro_rules! conversions {
    ($($name:ident $from:ident $to:ident;)*) => { $(
        pub(crate) fn $name(cpu: &mut Cpu, i: &Insn) -> Exec {
            convert::<$from, $to>(cpu, i)
        }
    )* };
}
conversions! {
    fcvt_sd Single Double;
    fcvt_sh Single Half;
    fcvt_ds Double Single;
    fcvt_dh Double Half;
    fcvt_hs Half Single;
    fcvt_hd Half Double;
}

pub(crate) fn bfcvt(cpu: &mut Cpu, i: &Insn) -> Exec {
    super::fp_op::scalar::<Single>(cpu, i, |e, _, n, _, _| fp::convert_to_bf(e, n))
}

#[inline(always)]
fn compare<F: Format, const ZERO: bool, const SIGNAL: bool>(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let m = if ZERO { 0 } else { low::<F>(cpu, i.rm) };
    cpu.state.nzcv = fp::compare::<F>(&mut e, low::<F>(cpu, i.rn), m, SIGNAL);
    cpu.state.fpsr = e.fpsr;
    Ok(Flow::Next)
}

#[inline(always)]
fn compare_if<F: Format, const SIGNAL: bool>(cpu: &mut Cpu, i: &Insn) -> Exec {
    if cpu.state.cond(i.bits(12, 4) as u8) {
        return compare::<F, false, SIGNAL>(cpu, i);
    }
    cpu.fp_access()?;
    cpu.state.nzcv = i.bits(0, 4) << 28;
    Ok(Flow::Next)
}

macro_rules! comparisons {
    ($($f:ident $cmp:ident $cmpe:ident $cmp0:ident $cmpe0:ident $ccmp:ident $ccmpe:ident $sel:ident;)*) => { $(
        pub(crate) fn $cmp(cpu: &mut Cpu, i: &Insn) -> Exec {
            compare::<$f, false, false>(cpu, i)
        }
        pub(crate) fn $cmpe(cpu: &mut Cpu, i: &Insn) -> Exec {
            compare::<$f, false, true>(cpu, i)
        }
        pub(crate) fn $cmp0(cpu: &mut Cpu, i: &Insn) -> Exec {
            compare::<$f, true, false>(cpu, i)
        }
        pub(crate) fn $cmpe0(cpu: &mut Cpu, i: &Insn) -> Exec {
            compare::<$f, true, true>(cpu, i)
        }
        pub(crate) fn $ccmp(cpu: &mut Cpu, i: &Insn) -> Exec {
            compare_if::<$f, false>(cpu, i)
        }
        pub(crate) fn $ccmpe(cpu: &mut Cpu, i: &Insn) -> Exec {
            compare_if::<$f, true>(cpu, i)
        }
        pub(crate) fn $sel(cpu: &mut Cpu, i: &Insn) -> Exec {
            cpu.fp_access()?;
            let r = if cpu.state.cond(i.bits(12, 4) as u8) { i.rn } else { i.rm };
            cpu.state.set_d(i.rd, low::<$f>(cpu, r));
            Ok(Flow::Next)
        }
    )* };
}
comparisons! {
    Single fcmp_s fcmpe_s fcmp0_s fcmpe0_s fccmp_s fccmpe_s fcsel_s;
    Double fcmp_d fcmpe_d fcmp0_d fcmpe0_d fccmp_d fccmpe_d fcsel_d;
    Half fcmp_h fcmpe_h fcmp0_h fcmpe0_h fccmp_h fccmpe_h fcsel_h;
}

/// `prep`: the expanded immediate.
pub(crate) fn fmov_imm(i: &mut Insn) {
    let imm8 = u64::from(i.bits(13, 8));
    i.imm = match i.bits(22, 2) {
        0 => expand_imm::<Single>(imm8),
        1 => expand_imm::<Double>(imm8),
        _ => expand_imm::<Half>(imm8),
    };
}

pub(crate) fn immediate(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    cpu.state.set_d(i.rd, i.imm);
    Ok(Flow::Next)
}

pub(crate) use immediate as fmov_is;
pub(crate) use immediate as fmov_id;
pub(crate) use immediate as fmov_ih;
