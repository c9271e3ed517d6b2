//! Advanced SIMD floating point with one register as operand (Arm ARM C4.1.97): two-register miscellaneous, across lanes,
//! fixed point, immediates.

use super::fp_op::{element, env, expand_imm, handlers, q, scalar};
use crate::cpu::Cpu;
use crate::decode::Op;
use crate::fp::{self, Double, Env, Format, Half, Rounding, Single};
use crate::insn::{Exec, Flow, Insn};

handlers! {
    vector frintn: frintn_vs Single, frintn_vd Double, frintn_vh Half;
    vector frintm: frintm_vs Single, frintm_vd Double, frintm_vh Half;
    vector frintp: frintp_vs Single, frintp_vd Double, frintp_vh Half;
    vector frintz: frintz_vs Single, frintz_vd Double, frintz_vh Half;
    vector frinta: frinta_vs Single, frinta_vd Double, frinta_vh Half;
    vector frintx: frintx_vs Single, frintx_vd Double, frintx_vh Half;
    vector frinti: frinti_vs Single, frinti_vd Double, frinti_vh Half;
    vector fabs: fabs_vs Single, fabs_vd Double, fabs_vh Half;
    vector fneg: fneg_vs Single, fneg_vd Double, fneg_vh Half;
    vector fsqrt: fsqrt_vs Single, fsqrt_vd Double, fsqrt_vh Half;
    vector fcmgt0: fcmgt0_vs Single, fcmgt0_vd Double, fcmgt0_vh Half;
    vector fcmeq0: fcmeq0_vs Single, fcmeq0_vd Double, fcmeq0_vh Half;
    vector fcmlt0: fcmlt0_vs Single, fcmlt0_vd Double, fcmlt0_vh Half;
    vector fcmge0: fcmge0_vs Single, fcmge0_vd Double, fcmge0_vh Half;
    vector fcmle0: fcmle0_vs Single, fcmle0_vd Double, fcmle0_vh Half;
    vector frecpe: frecpe_vs Single, frecpe_vd Double, frecpe_vh Half;
    vector frsqrte: frsqrte_vs Single, frsqrte_vd Double, frsqrte_vh Half;
    vector fcvtns: fcvtns_vs Single, fcvtns_vd Double, fcvtns_vh Half;
    vector fcvtms: fcvtms_vs Single, fcvtms_vd Double, fcvtms_vh Half;
    vector fcvtas: fcvtas_vs Single, fcvtas_vd Double, fcvtas_vh Half;
    vector scvtf: scvtf_vs Single, scvtf_vd Double, scvtf_vh Half;
    vector fcvtps: fcvtps_vs Single, fcvtps_vd Double, fcvtps_vh Half;
    vector fcvtzs: fcvtzs_vs Single, fcvtzs_vd Double, fcvtzs_vh Half;
    vector fcvtnu: fcvtnu_vs Single, fcvtnu_vd Double, fcvtnu_vh Half;
    vector fcvtmu: fcvtmu_vs Single, fcvtmu_vd Double, fcvtmu_vh Half;
    vector fcvtau: fcvtau_vs Single, fcvtau_vd Double, fcvtau_vh Half;
    vector ucvtf: ucvtf_vs Single, ucvtf_vd Double, ucvtf_vh Half;
    vector fcvtpu: fcvtpu_vs Single, fcvtpu_vd Double, fcvtpu_vh Half;
    vector fcvtzu: fcvtzu_vs Single, fcvtzu_vd Double, fcvtzu_vh Half;
    vector frint32z: frint32z_vs Single, frint32z_vd Double;
    vector frint64z: frint64z_vs Single, frint64z_vd Double;
    vector frint32x: frint32x_vs Single, frint32x_vd Double;
    vector frint64x: frint64x_vs Single, frint64x_vd Double;
    scalar fcmgt0: fcmgt0_ss Single, fcmgt0_sd Double, fcmgt0_sh Half;
    scalar fcmeq0: fcmeq0_ss Single, fcmeq0_sd Double, fcmeq0_sh Half;
    scalar fcmlt0: fcmlt0_ss Single, fcmlt0_sd Double, fcmlt0_sh Half;
    scalar fcmge0: fcmge0_ss Single, fcmge0_sd Double, fcmge0_sh Half;
    scalar fcmle0: fcmle0_ss Single, fcmle0_sd Double, fcmle0_sh Half;
    scalar frecpe: frecpe_ss Single, frecpe_sd Double, frecpe_sh Half;
    scalar frsqrte: frsqrte_ss Single, frsqrte_sd Double, frsqrte_sh Half;
    scalar frecpx: frecpx_ss Single, frecpx_sd Double, frecpx_sh Half;
    scalar fcvtns: fcvtns_ss Single, fcvtns_sd Double, fcvtns_sh Half;
    scalar fcvtms: fcvtms_ss Single, fcvtms_sd Double, fcvtms_sh Half;
    scalar fcvtas: fcvtas_ss Single, fcvtas_sd Double, fcvtas_sh Half;
    scalar scvtf: scvtf_ss Single, scvtf_sd Double, scvtf_sh Half;
    scalar fcvtps: fcvtps_ss Single, fcvtps_sd Double, fcvtps_sh Half;
    scalar fcvtzs: fcvtzs_ss Single, fcvtzs_sd Double, fcvtzs_sh Half;
    scalar fcvtnu: fcvtnu_ss Single, fcvtnu_sd Double, fcvtnu_sh Half;
    scalar fcvtmu: fcvtmu_ss Single, fcvtmu_sd Double, fcvtmu_sh Half;
    scalar fcvtau: fcvtau_ss Single, fcvtau_sd Double, fcvtau_sh Half;
    scalar ucvtf: ucvtf_ss Single, ucvtf_sd Double, ucvtf_sh Half;
    scalar fcvtpu: fcvtpu_ss Single, fcvtpu_sd Double, fcvtpu_sh Half;
    scalar fcvtzu: fcvtzu_ss Single, fcvtzu_sd Double, fcvtzu_sh Half;
    across fmaxnm: fmaxnmv_s Single, fmaxnmv_h Half;
    across fmax: fmaxv_s Single, fmaxv_h Half;
    across fminnm: fminnmv_s Single, fminnmv_h Half;
    across fmin: fminv_s Single, fminv_h Half;
    vector scvtf: scvtf_vfs Single, scvtf_vfd Double, scvtf_vfh Half;
    vector ucvtf: ucvtf_vfs Single, ucvtf_vfd Double, ucvtf_vfh Half;
    vector fcvtzs: fcvtzs_vfs Single, fcvtzs_vfd Double, fcvtzs_vfh Half;
    vector fcvtzu: fcvtzu_vfs Single, fcvtzu_vfd Double, fcvtzu_vfh Half;
    scalar scvtf: scvtf_sfs Single, scvtf_sfd Double, scvtf_sfh Half;
    scalar ucvtf: ucvtf_sfs Single, ucvtf_sfd Double, ucvtf_sfh Half;
    scalar fcvtzs: fcvtzs_sfs Single, fcvtzs_sfd Double, fcvtzs_sfh Half;
    scalar fcvtzu: fcvtzu_sfs Single, fcvtzu_sfd Double, fcvtzu_sfh Half;
}

/// `prep`: the number of fraction bits, from immh:immb.
pub(crate) fn fixed(i: &mut Insn) {
    let v = i.bits(16, 7);
    let double_size = if v >= 64 {
        128
    } else if v >= 32 {
        64
    } else {
        32
    };
    i.imm = u64::from(double_size - v);
}

/// Lanes half as wide; with Q they become the upper half of the destination.
#[inline(always)]
fn narrow<From: Format>(cpu: &mut Cpu, i: &Insn, f: impl Fn(&mut Env, u64) -> u64) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let n = cpu.state.q(i.rn);
    let mut r = 0u64;
    for k in 0..128 / From::BITS {
        r |= f(&mut e, element::<From>(n, k.into())) << (k * From::BITS / 2);
    }
    let r = u128::from(r);
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_q(i.rd, if q(i) { r << 64 | u128::from(cpu.state.d(i.rd)) } else { r });
    Ok(Flow::Next)
}

/// Lanes twice as wide, from the upper half with Q.
#[inline(always)]
fn long<From: Format, To: Format>(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let mut e = env(cpu);
    let n = cpu.state.q(i.rn);
    let n = if q(i) { n >> 64 } else { n };
    let mut r = 0u128;
    for k in 0..128 / To::BITS {
        let mode = e.rounding();
        let v = fp::convert::<From, To>(&mut e, element::<From>(n, k.into()), mode);
        r |= u128::from(v) << (k * To::BITS);
    }
    cpu.state.fpsr = e.fpsr;
    cpu.state.set_q(i.rd, r);
    Ok(Flow::Next)
}

pub(crate) fn fcvtn_h(cpu: &mut Cpu, i: &Insn) -> Exec {
    narrow::<Single>(cpu, i, |e, n| fp::convert::<Single, Half>(e, n, e.rounding()))
}

pub(crate) fn fcvtn_s(cpu: &mut Cpu, i: &Insn) -> Exec {
    narrow::<Double>(cpu, i, |e, n| fp::convert::<Double, Single>(e, n, e.rounding()))
}

pub(crate) fn fcvtl_h(cpu: &mut Cpu, i: &Insn) -> Exec {
    long::<Half, Single>(cpu, i)
}

pub(crate) fn fcvtl_s(cpu: &mut Cpu, i: &Insn) -> Exec {
    long::<Single, Double>(cpu, i)
}

pub(crate) fn fcvtxn_v(cpu: &mut Cpu, i: &Insn) -> Exec {
    narrow::<Double>(cpu, i, |e, n| fp::convert::<Double, Single>(e, n, Rounding::Odd))
}

pub(crate) fn fcvtxn_sd(cpu: &mut Cpu, i: &Insn) -> Exec {
    scalar::<Double>(cpu, i, |e, _, n, _, _| fp::convert::<Double, Single>(e, n, Rounding::Odd))
}

pub(crate) fn bfcvtn(cpu: &mut Cpu, i: &Insn) -> Exec {
    narrow::<Single>(cpu, i, fp::convert_to_bf)
}

/// `prep`: the expanded immediate in every lane of 64 bits.
pub(crate) fn fmov_imm(i: &mut Insn) {
    let imm8 = u64::from(i.bits(16, 3) << 5 | i.bits(5, 5));
    i.imm = match i.op {
        Op::FMOV_vi_d => expand_imm::<Double>(imm8),
        Op::FMOV_vi_s => expand_imm::<Single>(imm8) * 0x1_0000_0001,
        _ => expand_imm::<Half>(imm8) * 0x1_0001_0001_0001,
    };
}

pub(crate) fn immediate(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let upper = if q(i) { i.imm } else { 0 };
    cpu.state.set_q(i.rd, u128::from(i.imm) | u128::from(upper) << 64);
    Ok(Flow::Next)
}

pub(crate) use immediate as fmov_vi_s;
pub(crate) use immediate as fmov_vi_d;
pub(crate) use immediate as fmov_vi_h;
