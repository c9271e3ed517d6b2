//! Moves and conversions between SIMD&FP and general-purpose registers (Arm ARM C4.1.97).

use super::dp_imm::reserve;
use super::fp_op::{env, low};
use crate::cpu::Cpu;
use crate::fp::{self, Double, Format, Half, Rounding, Single};
use crate::insn::{Exec, Flow, Insn};
use crate::state::nzcv;

pub(crate) fn fmov_ws(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    cpu.state.set_x(i.rd, low::<Single>(cpu, i.rn));
    Ok(Flow::Next)
}

pub(crate) fn fmov_sw(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    cpu.state.set_d(i.rd, u64::from(cpu.state.wr(i.rn)));
    Ok(Flow::Next)
}

pub(crate) fn fmov_xd(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    cpu.state.set_x(i.rd, cpu.state.d(i.rn));
    Ok(Flow::Next)
}

pub(crate) fn fmov_dx(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    cpu.state.set_d(i.rd, cpu.state.xr(i.rn));
    Ok(Flow::Next)
}

pub(crate) fn fmov_xq(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    cpu.state.set_x(i.rd, (cpu.state.q(i.rn) >> 64) as u64);
    Ok(Flow::Next)
}

pub(crate) fn fmov_qx(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let r = u128::from(cpu.state.d(i.rd)) | u128::from(cpu.state.xr(i.rn)) << 64;
    cpu.state.set_q(i.rd, r);
    Ok(Flow::Next)
}

pub(crate) fn fmov_rh(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    cpu.state.set_x(i.rd, low::<Half>(cpu, i.rn));
    Ok(Flow::Next)
}

pub(crate) fn fmov_hr(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    cpu.state.set_d(i.rd, cpu.state.xr(i.rn) & Half::MASK);
    Ok(Flow::Next)
}

/// Width of the general-purpose register.
#[inline(always)]
fn width(i: &Insn) -> u32 {
    if i.bit(31) { 64 } else { 32 }
}

/// `prep`: the number of fraction bits, at most the register's width.
pub(crate) fn fixed(i: &mut Insn) {
    let fbits = 64 - i.bits(10, 6);
    i.imm = u64::from(fbits);
    if fbits > width(i) {
        reserve(i);
    }
}

#[inline(always)]
fn to_int<F: Format>(cpu: &mut Cpu, i: &Insn, unsigned: bool, mode: Rounding) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let r = fp::to_fixed::<F>(&mut e, low::<F>(cpu, i.rn), i.imm as u32, unsigned, mode, width(i));
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_x(i.rd, r);
    Ok(Flow::Next)
}

#[inline(always)]
fn from_int<F: Format>(cpu: &mut Cpu, i: &Insn, unsigned: bool) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let r = fp::fixed_to_fp::<F>(&mut e, cpu.state.xr(i.rn), i.imm as u32, unsigned, width(i));
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_d(i.rd, r);
    Ok(Flow::Next)
}

macro_rules! to {
    ($($unsigned:literal $mode:ident: $($name:ident $format:ident),*;)*) => { $($(
        pub(crate) fn $name(cpu: &mut Cpu, i: &Insn) -> Exec {
            to_int::<$format>(cpu, i, $unsigned, Rounding::$mode)
        }
    )*)* };
}
macro_rules! from {
    ($($unsigned:literal: $($name:ident $format:ident),*;)*) => { $($(
        pub(crate) fn $name(cpu: &mut Cpu, i: &Insn) -> Exec {
            from_int::<$format>(cpu, i, $unsigned)
        }
    )*)* };
}
to! {
    false TieEven: fcvtns_rs Single, fcvtns_rd Double, fcvtns_rh Half;
    true TieEven: fcvtnu_rs Single, fcvtnu_rd Double, fcvtnu_rh Half;
    false TieAway: fcvtas_rs Single, fcvtas_rd Double, fcvtas_rh Half;
    true TieAway: fcvtau_rs Single, fcvtau_rd Double, fcvtau_rh Half;
    false PosInf: fcvtps_rs Single, fcvtps_rd Double, fcvtps_rh Half;
    true PosInf: fcvtpu_rs Single, fcvtpu_rd Double, fcvtpu_rh Half;
    false NegInf: fcvtms_rs Single, fcvtms_rd Double, fcvtms_rh Half;
    true NegInf: fcvtmu_rs Single, fcvtmu_rd Double, fcvtmu_rh Half;
    false Zero: fcvtzs_rs Single, fcvtzs_rd Double, fcvtzs_rh Half;
    true Zero: fcvtzu_rs Single, fcvtzu_rd Double, fcvtzu_rh Half;
    false Zero: fcvtzs_fs Single, fcvtzs_fd Double, fcvtzs_fh Half;
    true Zero: fcvtzu_fs Single, fcvtzu_fd Double, fcvtzu_fh Half;
}
from! {
    false: scvtf_rs Single, scvtf_rd Double, scvtf_rh Half;
    true: ucvtf_rs Single, ucvtf_rd Double, ucvtf_rh Half;
    false: scvtf_fs Single, scvtf_fd Double, scvtf_fh Half;
    true: ucvtf_fs Single, ucvtf_fd Double, ucvtf_fh Half;
}

pub(crate) fn fjcvtzs(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let (r, exact) = fp::to_fixed_js(&mut e, low::<Double>(cpu, i.rn));
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_w(i.rd, r);
    cpu.state.nzcv = if exact { nzcv::Z } else { 0 };
    Ok(Flow::Next)
}
