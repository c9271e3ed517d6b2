//! Advanced SIMD: copies between elements and registers, permutations, tables, modified immediates.

pub(crate) use super::simd_operand::v4;
use super::simd_operand::{self as operand, half, q, scalar, size, vector};
use crate::cpu::Cpu;
use crate::insn::{Exec, Flow, Insn};
use crate::interp::dp_imm::reserve;
use crate::simd::lanes::{self, Vector, dup, dup_low};
use crate::simd::permute;

/// Size and index of an element by imm5: the lowest bit set tells the size, the bits above it are the index. 4 is
/// reserved.
fn imm5(i: &mut Insn) -> u32 {
    let v = i.bits(16, 5);
    let s = (v | 16).trailing_zeros();
    i.imm = u64::from(v >> (s + 1));
    if s > 3 {
        reserve(i);
    }
    s
}

pub(crate) fn dup_prep(i: &mut Insn) {
    let s = imm5(i);
    vector(i, s.min(3));
    if s == 3 && !q(i) {
        reserve(i);
    }
}

pub(crate) fn dup_scalar_prep(i: &mut Insn) {
    let s = imm5(i);
    scalar(i, s.min(3));
}

pub(crate) fn smov_prep(i: &mut Insn) {
    let s = imm5(i);
    vector(i, s.min(3));
    if s > if q(i) { 2 } else { 1 } {
        reserve(i);
    }
}

pub(crate) fn umov_prep(i: &mut Insn) {
    let s = imm5(i);
    vector(i, s.min(3));
    if q(i) != (s == 3) {
        reserve(i);
    }
}

pub(crate) fn ins_prep(i: &mut Insn) {
    let s = imm5(i);
    vector(i, s.min(3));
}

/// Shift of the element that `imm` indexes.
#[inline(always)]
fn offset(i: &Insn) -> u32 {
    ((i.imm as u32) << (3 + size(i))) & 127
}

/// All ones as wide as the element.
#[inline(always)]
fn element_mask(i: &Insn) -> u64 {
    u64::MAX >> (64 - (8 << size(i)))
}

#[inline(always)]
fn put(cpu: &mut Cpu, i: &Insn, r: u128) -> Exec {
    cpu.state.set_q(i.rd, if half(i) { r & u128::from(u64::MAX) } else { r });
    Ok(Flow::Next)
}

pub(crate) fn dup_elem(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let r = dup(size(i), cpu.state.q(i.rn), i.imm as u32);
    put(cpu, i, r)
}

pub(crate) fn dup_elem_s(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let r = (cpu.state.q(i.rn) >> offset(i)) as u64 & element_mask(i);
    cpu.state.set_d(i.rd, r);
    Ok(Flow::Next)
}

pub(crate) fn dup_gen(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let r = dup_low(size(i), cpu.state.xr(i.rn));
    put(cpu, i, r)
}

pub(crate) fn umov(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let r = (cpu.state.q(i.rn) >> offset(i)) as u64 & element_mask(i);
    cpu.state.set_x(i.rd, r);
    Ok(Flow::Next)
}

pub(crate) fn smov(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let unused = 64 - (8 << size(i));
    let r = (((cpu.state.q(i.rn) >> offset(i)) as i64) << unused >> unused) as u64;
    cpu.state.set_x(i.rd, if q(i) { r } else { r & 0xffff_ffff });
    Ok(Flow::Next)
}

#[inline(always)]
fn insert(cpu: &mut Cpu, i: &Insn, v: u64) -> Exec {
    let (mask, at) = (u128::from(element_mask(i)), offset(i));
    let r = cpu.state.q(i.rd) & !(mask << at) | (u128::from(v) & mask) << at;
    cpu.state.set_q(i.rd, r);
    Ok(Flow::Next)
}

pub(crate) fn ins_gen(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    insert(cpu, i, cpu.state.xr(i.rn))
}

/// imm4 is the source's index, its bits below the size ignored.
pub(crate) fn ins_elem(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let from = (i.bits(11, 4) >> size(i)) << (3 + size(i));
    insert(cpu, i, (cpu.state.q(i.rn) >> from) as u64)
}

// Permutations.

macro_rules! permutations {
    ($($name:ident |$i:ident, $n:ident, $m:ident| $e:expr;)*) => { $(
        pub(crate) fn $name(cpu: &mut Cpu, $i: &Insn) -> Exec {
            operand::same::<false>(cpu, $i, |_, $n, $m, _| $e)
        }
    )* };
}
permutations! {
    zip1 |i, n, m| permute::zip(size(i), n, m, half(i), 0);
    zip2 |i, n, m| permute::zip(size(i), n, m, half(i), 1);
    uzp1 |i, n, m| permute::uzp(size(i), n, m, half(i), 0);
    uzp2 |i, n, m| permute::uzp(size(i), n, m, half(i), 1);
    trn1 |i, n, m| permute::trn(size(i), n, m, 0);
    trn2 |i, n, m| permute::trn(size(i), n, m, 1);
}

pub(crate) fn ext_prep(i: &mut Insn) {
    i.imm = i.bits(11, 4).into();
    if !q(i) {
        i.exec = ext_half;
        if i.imm > 7 {
            reserve(i);
        }
    }
}

pub(crate) fn ext(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let r = permute::ext(cpu.state.q(i.rn), cpu.state.q(i.rm), i.imm as u32);
    cpu.state.set_q(i.rd, r);
    Ok(Flow::Next)
}

fn ext_half(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let r = permute::ext_half(cpu.state.d(i.rn), cpu.state.d(i.rm), i.imm as u32);
    cpu.state.set_d(i.rd, r);
    Ok(Flow::Next)
}

/// `imm` is the number of table registers.
pub(crate) fn tbl_prep(i: &mut Insn) {
    i.imm = u64::from(i.bits(13, 2)) + 1;
    vector(i, 0);
}

#[inline(always)]
fn table(cpu: &mut Cpu, i: &Insn, other: Vector) -> Exec {
    let regs: [[u8; 16]; 4] =
        std::array::from_fn(|k| bytemuck::cast(operand::reg(cpu, i.rn.wrapping_add(k as u8))));
    let r = permute::table(&bytemuck::cast(regs), 16 * i.imm as usize, operand::reg(cpu, i.rm), other);
    put(cpu, i, lanes::number(r))
}

pub(crate) fn tbl(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    table(cpu, i, lanes::vector(0))
}

pub(crate) fn tbx(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    table(cpu, i, operand::reg(cpu, i.rd))
}

// Modified immediates (AdvSIMDExpandImm).

/// Fills `imm` with 64 bits, inverted already for MVNI and BIC.
pub(crate) fn imm(i: &mut Insn) {
    let imm8 = u64::from(i.bits(16, 3) << 5 | i.bits(5, 5));
    let (cmode, op) = (i.bits(12, 4), i.bit(29));
    let words = |w: u64| w << 32 | w;
    let v = match cmode >> 1 {
        k @ 0..=3 => words(imm8 << (8 * k)),
        k @ 4..=5 => words((imm8 << (8 * (k - 4))) * 0x1_0001),
        6 if cmode & 1 == 0 => words(imm8 << 8 | 0xff),
        6 => words(imm8 << 16 | 0xffff),
        _ if op => (0..8).filter(|k| imm8 >> k & 1 != 0).map(|k| 0xff << (8 * k)).sum(),
        _ => words(imm8 * 0x0101_0101),
    };
    i.imm = if op && cmode < 14 { !v } else { v };
    vector(i, 3);
}

#[inline(always)]
fn immediate(i: &Insn) -> u128 {
    u128::from(i.imm) << 64 | u128::from(i.imm)
}

fn mov(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    put(cpu, i, immediate(i))
}

fn orr(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let r = cpu.state.q(i.rd) | immediate(i);
    put(cpu, i, r)
}

fn bic(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let r = cpu.state.q(i.rd) & immediate(i);
    put(cpu, i, r)
}

macro_rules! named {
    ($($name:ident = $f:ident;)*) => { $(
        pub(crate) fn $name(cpu: &mut Cpu, i: &Insn) -> Exec {
            $f(cpu, i)
        }
    )* };
}
named! {
    movi_32 = mov;
    movi_16 = mov;
    movi_msl = mov;
    movi_8 = mov;
    movi_64 = mov;
    mvni_32 = mov;
    mvni_16 = mov;
    mvni_msl = mov;
    orr_imm32 = orr;
    orr_imm16 = orr;
    bic_imm32 = bic;
    bic_imm16 = bic;
}
