//! Data processing with an immediate (Arm ARM C4.1.93). `prep` computes the immediates and chooses the width.

use crate::cpu::Cpu;
use crate::decode::Op;
use crate::insn::{Exec, Flow, Insn};
use crate::interp::operand::{Reg, dest, or_sp, put_x};

/// For `prep`: a combination of operands that is not allocated.
pub(crate) fn reserve(i: &mut Insn) {
    fn undefined(cpu: &mut Cpu, _: &Insn) -> Exec {
        cpu.undefined()
    }
    i.exec = undefined;
    i.op = Op::UNALLOCATED;
}

fn sf(i: &Insn) -> bool {
    i.bit(31)
}

pub(crate) fn adr_prep(i: &mut Insn) {
    i.imm = (i.sbits(5, 19) << 2 | i64::from(i.bits(29, 2))) as u64;
    i.rd = dest(i.rd);
}

pub(crate) fn adrp_prep(i: &mut Insn) {
    i.imm = ((i.sbits(5, 19) << 2 | i64::from(i.bits(29, 2))) << 12) as u64;
    i.rd = dest(i.rd);
}

pub(crate) fn adr(cpu: &mut Cpu, i: &Insn) -> Exec {
    put_x(cpu, i.rd, cpu.state.pc.wrapping_add(i.imm));
    Ok(Flow::Next)
}

pub(crate) fn adrp(cpu: &mut Cpu, i: &Insn) -> Exec {
    put_x(cpu, i.rd, (cpu.state.pc & !0xfff).wrapping_add(i.imm));
    Ok(Flow::Next)
}

// Add/subtract: without flags Rd may be SP; Rn always may.

pub(crate) fn add_sub(i: &mut Insn) {
    i.imm = u64::from(i.bits(10, 12)) << if i.bit(22) { 12 } else { 0 };
    i.rn = or_sp(i.rn);
    i.rd = if i.bit(29) { dest(i.rd) } else { or_sp(i.rd) };
    if !sf(i) {
        i.exec = match i.op {
            Op::ADD_imm => add::<u32>,
            Op::ADDS_imm => adds::<u32>,
            Op::SUB_imm => sub::<u32>,
            _ => subs::<u32>,
        };
    }
    if i.op == Op::SUBS_imm && i.bits(0, 5) == 31 {
        i.exec = if sf(i) { cmp::<u64> } else { cmp::<u32> };
    }
}

#[inline(always)]
fn add<T: Reg>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let r = T::get(cpu, i.rn).plus(T::from_u64(i.imm));
    T::put(cpu, i.rd, r);
    Ok(Flow::Next)
}

#[inline(always)]
fn sub<T: Reg>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let r = T::get(cpu, i.rn).minus(T::from_u64(i.imm));
    T::put(cpu, i.rd, r);
    Ok(Flow::Next)
}

#[inline(always)]
fn adds<T: Reg>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let (a, b) = (T::get(cpu, i.rn), T::from_u64(i.imm));
    cpu.state.nzcv = a.add_flags(b);
    T::put(cpu, i.rd, a.plus(b));
    Ok(Flow::Next)
}

#[inline(always)]
fn subs<T: Reg>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let (a, b) = (T::get(cpu, i.rn), T::from_u64(i.imm));
    cpu.state.nzcv = a.sub_flags(b);
    T::put(cpu, i.rd, a.minus(b));
    Ok(Flow::Next)
}

#[inline(always)]
fn cmp<T: Reg>(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.state.nzcv = T::get(cpu, i.rn).sub_flags(T::from_u64(i.imm));
    Ok(Flow::Next)
}

pub(crate) fn add_imm(cpu: &mut Cpu, i: &Insn) -> Exec {
    add::<u64>(cpu, i)
}
pub(crate) fn adds_imm(cpu: &mut Cpu, i: &Insn) -> Exec {
    adds::<u64>(cpu, i)
}
pub(crate) fn sub_imm(cpu: &mut Cpu, i: &Insn) -> Exec {
    sub::<u64>(cpu, i)
}
pub(crate) fn subs_imm(cpu: &mut Cpu, i: &Insn) -> Exec {
    subs::<u64>(cpu, i)
}

// Logical: a 32-bit immediate has zeros above, so AND, ORR and EOR of truncated operands serve both widths.

/// DecodeBitMasks: the immediate of the logical instructions; `None` is reserved.
pub(crate) fn bit_mask(n: u32, imms: u32, immr: u32, is64: bool) -> Option<u64> {
    let combined = n << 6 | (!imms & 0x3f);
    if combined < 2 || (n == 1 && !is64) {
        return None;
    }
    let esize = 1u32 << combined.ilog2();
    let levels = esize - 1;
    let (s, r) = (imms & levels, immr & levels);
    if s == levels {
        return None;
    }
    let mut elem = (1u64 << (s + 1)) - 1;
    if r != 0 {
        elem = (elem >> r | elem << (esize - r)) & (u64::MAX >> (64 - esize));
    }
    let mut size = esize;
    while size < 64 {
        elem |= elem << size;
        size *= 2;
    }
    Some(if is64 { elem } else { elem & 0xffff_ffff })
}

pub(crate) fn logical(i: &mut Insn) {
    let Some(m) = bit_mask(i.bits(22, 1), i.bits(10, 6), i.bits(16, 6), sf(i)) else {
        reserve(i);
        return;
    };
    i.imm = m;
    i.rd = if i.op == Op::ANDS_imm { dest(i.rd) } else { or_sp(i.rd) };
    if !sf(i) {
        i.exec = match i.op {
            Op::AND_imm => and::<u32>,
            Op::ORR_imm => orr::<u32>,
            Op::EOR_imm => eor::<u32>,
            _ => ands::<u32>,
        };
    }
}

#[inline(always)]
fn and<T: Reg>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let r = T::get(cpu, i.rn).and(T::from_u64(i.imm));
    T::put(cpu, i.rd, r);
    Ok(Flow::Next)
}

#[inline(always)]
fn orr<T: Reg>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let r = T::get(cpu, i.rn).or(T::from_u64(i.imm));
    T::put(cpu, i.rd, r);
    Ok(Flow::Next)
}

#[inline(always)]
fn eor<T: Reg>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let r = T::get(cpu, i.rn).eor(T::from_u64(i.imm));
    T::put(cpu, i.rd, r);
    Ok(Flow::Next)
}

#[inline(always)]
fn ands<T: Reg>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let r = T::get(cpu, i.rn).and(T::from_u64(i.imm));
    cpu.state.nzcv = r.logic_flags();
    T::put(cpu, i.rd, r);
    Ok(Flow::Next)
}

pub(crate) fn and_imm(cpu: &mut Cpu, i: &Insn) -> Exec {
    and::<u64>(cpu, i)
}
pub(crate) fn orr_imm(cpu: &mut Cpu, i: &Insn) -> Exec {
    orr::<u64>(cpu, i)
}
pub(crate) fn eor_imm(cpu: &mut Cpu, i: &Insn) -> Exec {
    eor::<u64>(cpu, i)
}
pub(crate) fn ands_imm(cpu: &mut Cpu, i: &Insn) -> Exec {
    ands::<u64>(cpu, i)
}

// Move wide: MOVZ and MOVN are constants; MOVK keeps the other bits, `imm` is shifted and `aux` the shift.

pub(crate) fn move_wide(i: &mut Insn) {
    let shift = 16 * i.bits(21, 2);
    if !sf(i) && shift >= 32 {
        reserve(i);
        return;
    }
    let v = u64::from(i.bits(5, 16)) << shift;
    i.imm = if i.op == Op::MOVN { !v } else { v };
    if !sf(i) {
        i.imm &= 0xffff_ffff;
        if i.op == Op::MOVK {
            i.exec = movk_w;
        }
    }
    i.aux = shift as u8;
    i.rd = dest(i.rd);
}

pub(crate) fn movz(cpu: &mut Cpu, i: &Insn) -> Exec {
    put_x(cpu, i.rd, i.imm);
    Ok(Flow::Next)
}

pub(crate) fn movn(cpu: &mut Cpu, i: &Insn) -> Exec {
    put_x(cpu, i.rd, i.imm);
    Ok(Flow::Next)
}

pub(crate) fn movk(cpu: &mut Cpu, i: &Insn) -> Exec {
    let keep = cpu.state.xr(i.rd) & !(0xffffu64 << (i.aux & 63));
    put_x(cpu, i.rd, keep | i.imm);
    Ok(Flow::Next)
}

fn movk_w(cpu: &mut Cpu, i: &Insn) -> Exec {
    let keep = cpu.state.xr(i.rd) & !(0xffffu64 << (i.aux & 63)) & 0xffff_ffff;
    put_x(cpu, i.rd, keep | i.imm);
    Ok(Flow::Next)
}

// Bitfield moves. With R = immr and S = imms a field of S-R+1 bits moves down from R (S >= R), or one of S+1 bits moves
// up to width-R. The instruction keeps shifts in `rm` and `ra`, whose register numbers it does not use.

pub(crate) fn bitfield(i: &mut Insn) {
    let (n, r, s) = (i.bits(22, 1), i.bits(16, 6), i.bits(10, 6));
    let width = if sf(i) { 64 } else { 32 };
    if n != u32::from(sf(i)) || r >= width || s >= width {
        reserve(i);
        return;
    }
    let ones = |n: u32| u64::MAX >> (64 - n);
    i.rd = dest(i.rd);
    let down = s >= r;
    match i.op {
        Op::UBFM if down => {
            i.imm = ones(s - r + 1);
            i.rm = r as u8;
        }
        Op::UBFM => {
            i.imm = ones(s + 1);
            i.rm = (width - r) as u8;
            i.exec = ubfm_up;
        }
        Op::SBFM => {
            i.rm = (63 - s) as u8;
            i.ra = (if down { 63 - s + r } else { 63 - s - (width - r) }) as u8;
            if !sf(i) {
                i.exec = sbfm_w;
            }
        }
        _ => {
            i.imm = if down { ones(s - r + 1) } else { ones(s + 1) << (width - r) };
            i.rm = (if down { 64 - r } else { width - r } & 63) as u8;
            if !sf(i) {
                i.exec = bfm_w;
            }
        }
    }
}

pub(crate) fn ubfm(cpu: &mut Cpu, i: &Insn) -> Exec {
    let v = cpu.state.xr(i.rn) >> (i.rm & 63) & i.imm;
    put_x(cpu, i.rd, v);
    Ok(Flow::Next)
}

fn ubfm_up(cpu: &mut Cpu, i: &Insn) -> Exec {
    let v = (cpu.state.xr(i.rn) & i.imm) << (i.rm & 63);
    put_x(cpu, i.rd, v);
    Ok(Flow::Next)
}

pub(crate) fn sbfm(cpu: &mut Cpu, i: &Insn) -> Exec {
    let v = (((cpu.state.xr(i.rn) << (i.rm & 63)) as i64) >> (i.ra & 63)) as u64;
    put_x(cpu, i.rd, v);
    Ok(Flow::Next)
}

fn sbfm_w(cpu: &mut Cpu, i: &Insn) -> Exec {
    let v = (((cpu.state.xr(i.rn) << (i.rm & 63)) as i64) >> (i.ra & 63)) as u32;
    put_x(cpu, i.rd, v.into());
    Ok(Flow::Next)
}

pub(crate) fn bfm(cpu: &mut Cpu, i: &Insn) -> Exec {
    let src = cpu.state.xr(i.rn).rotate_left(u32::from(i.rm));
    let v = cpu.state.xr(i.rd) & !i.imm | src & i.imm;
    put_x(cpu, i.rd, v);
    Ok(Flow::Next)
}

fn bfm_w(cpu: &mut Cpu, i: &Insn) -> Exec {
    let src = cpu.state.xr(i.rn).rotate_left(u32::from(i.rm));
    let v = cpu.state.xr(i.rd) & !i.imm | src & i.imm;
    put_x(cpu, i.rd, v & 0xffff_ffff);
    Ok(Flow::Next)
}

// EXTR.

pub(crate) fn extract(i: &mut Insn) {
    let lsb = i.bits(10, 6);
    if i.bits(22, 1) != u32::from(sf(i)) || (!sf(i) && lsb >= 32) {
        reserve(i);
        return;
    }
    i.rd = dest(i.rd);
    i.aux = lsb as u8;
    if !sf(i) {
        i.exec = extr_w;
    }
}

pub(crate) fn extr(cpu: &mut Cpu, i: &Insn) -> Exec {
    let wide = u128::from(cpu.state.xr(i.rn)) << 64 | u128::from(cpu.state.xr(i.rm));
    put_x(cpu, i.rd, (wide >> (i.aux & 63)) as u64);
    Ok(Flow::Next)
}

fn extr_w(cpu: &mut Cpu, i: &Insn) -> Exec {
    let wide = u64::from(cpu.state.wr(i.rn)) << 32 | u64::from(cpu.state.wr(i.rm));
    put_x(cpu, i.rd, wide >> (i.aux & 31) & 0xffff_ffff);
    Ok(Flow::Next)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The logical immediate bit by bit, after the manual's prose: an element of 2 to 64 bits with S+1 ones, rotated
    /// right by R, replicated.
    fn slow_mask(n: u32, imms: u32, immr: u32, is64: bool) -> Option<u64> {
        let mut len = None;
        for b in (0..=6).rev() {
            let bit = if b == 6 { n } else { !imms >> b & 1 };
            if bit == 1 {
                len = Some(b);
                break;
            }
        }
        let len = len.filter(|&l| l >= 1)?;
        if n == 1 && !is64 {
            return None;
        }
        let esize = 1 << len;
        let (s, r) = (imms % esize, immr % esize);
        if s == esize - 1 {
            return None;
        }
        let mut out = 0u64;
        for bit in 0..if is64 { 64 } else { 32 } {
            // Bit `bit` of the rotated element comes from bit (bit + R) of the plain one.
            if (bit % esize + r) % esize <= s {
                out |= 1 << bit;
            }
        }
        Some(out)
    }

    #[test]
    fn every_logical_immediate_agrees_with_the_prose() {
        let mut valid = 0;
        for n in 0..2 {
            for imms in 0..64 {
                for immr in 0..64 {
                    for is64 in [false, true] {
                        let m = bit_mask(n, imms, immr, is64);
                        assert_eq!(m, slow_mask(n, imms, immr, is64), "N {n} imms {imms} immr {immr} {is64}");
                        valid += u32::from(m.is_some() && is64);
                    }
                }
            }
        }
        // 64*63 + 64*(31+15+7+3+1) encodings are allocated (immr's unused bits are ignored).
        assert_eq!(valid, 64 * 63 + 64 * (31 + 15 + 7 + 3 + 1));
    }
}
