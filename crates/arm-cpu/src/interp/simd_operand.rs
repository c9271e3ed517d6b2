//! Operands of Advanced SIMD integer instructions, and how a pure operation becomes a handler.
//!
//! `prep` puts the size of the lanes in bits 5:4 of `aux` and the part of the registers that takes part in bits 2:0:
//! everything, or the low 64, 32, 16, 8 bits. Operands are cut to that part before the operation and the result after it,
//! so half-width and scalar forms need nothing else.

use crate::cpu::Cpu;
use crate::host::vector::and;
use crate::insn::{Exec, Flow, Insn};
use crate::interp::dp_imm::reserve;
use crate::simd::lanes::{self, Vector, dup};
use crate::state::fpsr;

/// By bits 2:0 of `aux`.
static PART: [u128; 8] =
    [u128::MAX, u64::MAX as u128, u32::MAX as u128, u16::MAX as u128, u8::MAX as u128, 0, 0, 0];
/// The low 64 bits.
const HALF: u8 = 1;

#[inline(always)]
fn part(i: &Insn) -> u128 {
    PART[(i.aux & 7) as usize]
}

/// A register, loaded as a vector.
#[inline(always)]
pub(super) fn reg(cpu: &Cpu, r: u8) -> Vector {
    *bytemuck::cast_ref(&cpu.state.v[(r & 31) as usize])
}

/// Stores a vector.
#[inline(always)]
pub(super) fn set_reg(cpu: &mut Cpu, r: u8, v: Vector) {
    *bytemuck::cast_mut(&mut cpu.state.v[(r & 31) as usize]) = v;
}

/// The mask of what takes part.
#[inline(always)]
fn part_mask(i: &Insn) -> Vector {
    *bytemuck::cast_ref(&PART[(i.aux & 7) as usize])
}

/// Size of the lanes, 0-3.
#[inline(always)]
pub(super) fn size(i: &Insn) -> u32 {
    u32::from(i.aux >> 4) & 3
}

/// A vector of 64 bits?
#[inline(always)]
pub(super) fn half(i: &Insn) -> bool {
    i.aux & 7 == HALF
}

/// Bit Q.
#[inline(always)]
pub(super) fn q(i: &Insn) -> bool {
    i.bit(30)
}

/// Sets `aux` for a vector.
pub(super) fn vector(i: &mut Insn, size: u32) {
    i.aux = (size << 4) as u8 | if q(i) { 0 } else { HALF };
}

/// Sets `aux` for a scalar of that size.
pub(super) fn scalar(i: &mut Insn, size: u32) {
    i.aux = (size << 4) as u8 | (4 - size) as u8;
}

// Which sizes (bits 23:22) are allocated.

/// Vectors of any lanes; a single 64-bit lane is reserved.
pub(crate) fn v4(i: &mut Insn) {
    let s = i.bits(22, 2);
    vector(i, s);
    if s == 3 && !q(i) {
        reserve(i);
    }
}

/// Lanes of 8, 16, 32 bits.
pub(crate) fn v3(i: &mut Insn) {
    v4(i);
    if i.bits(22, 2) == 3 {
        reserve(i);
    }
}

/// Lanes of 16, 32 bits.
pub(crate) fn v2(i: &mut Insn) {
    v3(i);
    if i.bits(22, 2) == 0 {
        reserve(i);
    }
}

/// Lanes of 8, 16 bits.
pub(crate) fn v_bh(i: &mut Insn) {
    v3(i);
    if i.bits(22, 2) == 2 {
        reserve(i);
    }
}

/// The size is fixed by the pattern, or means something else.
pub(crate) fn v_any(i: &mut Insn) {
    let s = i.bits(22, 2);
    vector(i, s);
}

/// Across all lanes: at least four of 8, 16 bits or exactly four of 32.
pub(crate) fn across(i: &mut Insn) {
    v3(i);
    if i.bits(22, 2) == 2 && !q(i) {
        reserve(i);
    }
}

/// Scalars of any size.
pub(crate) fn s4(i: &mut Insn) {
    let s = i.bits(22, 2);
    scalar(i, s);
}

/// Scalars of 8, 16, 32 bits.
pub(crate) fn s3(i: &mut Insn) {
    s4(i);
    if i.bits(22, 2) == 3 {
        reserve(i);
    }
}

/// Scalars of 16, 32 bits.
pub(crate) fn s2(i: &mut Insn) {
    s3(i);
    if i.bits(22, 2) == 0 {
        reserve(i);
    }
}

/// Index of the element (in `imm`) and its register, from H, L, M and Rm.
fn element(i: &mut Insn) {
    let (h, l, m) = (i.bits(11, 1), i.bits(21, 1), i.bits(20, 1));
    if i.bits(22, 2) == 1 {
        i.imm = u64::from(h << 2 | l << 1 | m);
        i.rm &= 15;
    } else {
        i.imm = u64::from(h << 1 | l);
    }
}

/// By element, vectors of 16 or 32 bits.
pub(crate) fn ve(i: &mut Insn) {
    v2(i);
    element(i);
}

/// By element, scalars of 16 or 32 bits.
pub(crate) fn se(i: &mut Insn) {
    s2(i);
    element(i);
}

/// By element of 32 bits, whatever the size field says (dot products).
pub(crate) fn ve_dot(i: &mut Insn) {
    vector(i, 2);
    i.imm = u64::from(i.bits(11, 1) << 1 | i.bits(21, 1));
}

// From operations to handlers.

#[inline(always)]
fn saturated(cpu: &mut Cpu, q: bool) {
    if q {
        cpu.state.fpsr |= fpsr::QC;
    }
}

/// The register that an element is taken from, broadcast, or the register itself.
#[inline(always)]
fn second<const ELEMENT: bool>(cpu: &Cpu, i: &Insn) -> u128 {
    let m = cpu.state.q(i.rm);
    if ELEMENT { dup(size(i), m, i.imm as u32) } else { m }
}

/// Result as wide as the operands: `f(d, n, m, q)`.
#[inline(always)]
pub(super) fn same<const ELEMENT: bool>(
    cpu: &mut Cpu,
    i: &Insn,
    f: impl FnOnce(Vector, Vector, Vector, &mut bool) -> Vector,
) -> Exec {
    cpu.fp_access()?;
    let p = part_mask(i);
    let m = if ELEMENT { lanes::vector(second::<true>(cpu, i)) } else { reg(cpu, i.rm) };
    let (d, n, m) = (and(reg(cpu, i.rd), p), and(reg(cpu, i.rn), p), and(m, p));
    let mut q = false;
    let r = f(d, n, m, &mut q);
    set_reg(cpu, i.rd, and(r, p));
    saturated(cpu, q);
    Ok(Flow::Next)
}

/// As [`same`] for what is simpler on numbers.
#[inline(always)]
pub(super) fn bitwise(cpu: &mut Cpu, i: &Insn, f: impl FnOnce(u128, u128, u128) -> u128) -> Exec {
    cpu.fp_access()?;
    let r = f(cpu.state.q(i.rd), cpu.state.q(i.rn), cpu.state.q(i.rm)) & part(i);
    cpu.state.set_q(i.rd, r);
    Ok(Flow::Next)
}

/// Adjacent pairs of both operands: `f(pairs)` gives 64 bits.
#[inline(always)]
pub(super) fn pairwise(cpu: &mut Cpu, i: &Insn, f: impl Fn(Vector) -> u64) -> Exec {
    cpu.fp_access()?;
    let r = if half(i) {
        f(lanes::vector(u128::from(cpu.state.d(i.rn)) | u128::from(cpu.state.d(i.rm)) << 64)).into()
    } else {
        u128::from(f(reg(cpu, i.rn))) | u128::from(f(reg(cpu, i.rm))) << 64
    };
    cpu.state.set_q(i.rd, r);
    Ok(Flow::Next)
}

/// The 64 bits that a long operation takes from a register: the upper half with Q.
#[inline(always)]
pub(super) fn source_half(i: &Insn, v: u128) -> u64 {
    if q(i) { (v >> 64) as u64 } else { v as u64 }
}

/// Result lanes twice as wide: `f(d, n, m, q)` from 64 bits of operands.
#[inline(always)]
pub(super) fn long<const ELEMENT: bool>(
    cpu: &mut Cpu,
    i: &Insn,
    f: impl FnOnce(Vector, u64, u64, &mut bool) -> Vector,
) -> Exec {
    cpu.fp_access()?;
    let (d, n) = (reg(cpu, i.rd), source_half(i, cpu.state.q(i.rn)));
    let m = source_half(i, second::<ELEMENT>(cpu, i));
    let mut q = false;
    let r = f(d, n, m, &mut q);
    set_reg(cpu, i.rd, r);
    saturated(cpu, q);
    Ok(Flow::Next)
}

/// As [`long`] for scalars: one lane, the result twice as wide.
#[inline(always)]
pub(super) fn long_scalar<const ELEMENT: bool>(
    cpu: &mut Cpu,
    i: &Insn,
    f: impl FnOnce(Vector, u64, u64, &mut bool) -> Vector,
) -> Exec {
    cpu.fp_access()?;
    let narrow = part(i) as u64;
    let wide = PART[(i.aux & 7).saturating_sub(1) as usize];
    let d = cpu.state.q(i.rd) & wide;
    let n = cpu.state.q(i.rn) as u64 & narrow;
    let m = second::<ELEMENT>(cpu, i) as u64 & narrow;
    let mut q = false;
    let r = lanes::number(f(lanes::vector(d), n, m, &mut q)) & wide;
    cpu.state.set_q(i.rd, r);
    saturated(cpu, q);
    Ok(Flow::Next)
}

/// First operand wide already.
#[inline(always)]
pub(super) fn wide(cpu: &mut Cpu, i: &Insn, f: impl FnOnce(Vector, u64) -> Vector) -> Exec {
    cpu.fp_access()?;
    let r = f(reg(cpu, i.rn), source_half(i, cpu.state.q(i.rm)));
    set_reg(cpu, i.rd, r);
    Ok(Flow::Next)
}

/// Result lanes half as wide: `f(n, m, q)` gives 64 bits; with Q they become the upper half of the destination.
#[inline(always)]
pub(super) fn narrow(cpu: &mut Cpu, i: &Insn, f: impl FnOnce(Vector, Vector, &mut bool) -> u64) -> Exec {
    cpu.fp_access()?;
    let mut sat = false;
    let r = u128::from(f(reg(cpu, i.rn), reg(cpu, i.rm), &mut sat));
    let r = if q(i) { r << 64 | u128::from(cpu.state.d(i.rd)) } else { r };
    cpu.state.set_q(i.rd, r);
    saturated(cpu, sat);
    Ok(Flow::Next)
}

/// As [`narrow`] for scalars: one wide lane.
#[inline(always)]
pub(super) fn narrow_scalar(cpu: &mut Cpu, i: &Insn, f: impl FnOnce(Vector, &mut bool) -> u64) -> Exec {
    cpu.fp_access()?;
    let wide = PART[(i.aux & 7).saturating_sub(1) as usize];
    let mut sat = false;
    let r = f(lanes::vector(cpu.state.q(i.rn) & wide), &mut sat);
    cpu.state.set_q(i.rd, u128::from(r) & part(i));
    saturated(cpu, sat);
    Ok(Flow::Next)
}

/// Handlers by name: `name = runner op` where the runner says how operands are fetched.
macro_rules! handlers {
    ($($kind:ident { $($name:ident = $op:path;)* })*) => { $($(
        pub(crate) fn $name(cpu: &mut crate::cpu::Cpu, i: &crate::insn::Insn) -> crate::insn::Exec {
            handlers!(@ $kind $op, cpu, i)
        }
    )*)* };
    (@ same $op:path, $c:ident, $i:ident) => {
        super::simd_operand::same::<false>($c, $i, |d, n, m, q| $op(super::simd_operand::size($i), d, n, m, q))
    };
    (@ same_element $op:path, $c:ident, $i:ident) => {
        super::simd_operand::same::<true>($c, $i, |d, n, m, q| $op(super::simd_operand::size($i), d, n, m, q))
    };
    (@ product $op:path, $c:ident, $i:ident) => {
        super::simd_operand::same::<false>($c, $i, |d, n, m, _| $op(d, n, m))
    };
    (@ product_element $op:path, $c:ident, $i:ident) => {
        super::simd_operand::same::<true>($c, $i, |d, n, m, _| $op(d, n, m))
    };
    (@ one $op:path, $c:ident, $i:ident) => {
        super::simd_operand::same::<false>($c, $i, |_, n, _, _| $op(n))
    };
    (@ one_sized $op:path, $c:ident, $i:ident) => {
        super::simd_operand::same::<false>($c, $i, |_, n, _, _| $op(super::simd_operand::size($i), n))
    };
    (@ pairwise $op:path, $c:ident, $i:ident) => {
        super::simd_operand::pairwise($c, $i, |n| $op(super::simd_operand::size($i), n))
    };
    (@ across $op:path, $c:ident, $i:ident) => {
        super::simd_operand::same::<false>($c, $i, |_, n, _, _| {
            crate::simd::lanes::vector($op(super::simd_operand::size($i), n, super::simd_operand::half($i)).into())
        })
    };
    (@ long $op:path, $c:ident, $i:ident) => {
        super::simd_operand::long::<false>($c, $i, |d, n, m, q| $op(super::simd_operand::size($i), d, n, m, q))
    };
    (@ long_element $op:path, $c:ident, $i:ident) => {
        super::simd_operand::long::<true>($c, $i, |d, n, m, q| $op(super::simd_operand::size($i), d, n, m, q))
    };
    (@ long_scalar $op:path, $c:ident, $i:ident) => {
        super::simd_operand::long_scalar::<false>($c, $i, |d, n, m, q| $op(super::simd_operand::size($i), d, n, m, q))
    };
    (@ long_scalar_element $op:path, $c:ident, $i:ident) => {
        super::simd_operand::long_scalar::<true>($c, $i, |d, n, m, q| $op(super::simd_operand::size($i), d, n, m, q))
    };
    (@ wide $op:path, $c:ident, $i:ident) => {
        super::simd_operand::wide($c, $i, |n, m| $op(super::simd_operand::size($i), n, m))
    };
    (@ narrow_high $op:path, $c:ident, $i:ident) => {
        super::simd_operand::narrow($c, $i, |n, m, _| $op(super::simd_operand::size($i), n, m))
    };
    (@ narrow $op:path, $c:ident, $i:ident) => {
        super::simd_operand::narrow($c, $i, |n, _, q| $op(super::simd_operand::size($i), n, $i.imm as u32, q))
    };
    (@ narrow_plain $op:path, $c:ident, $i:ident) => {
        super::simd_operand::narrow($c, $i, |n, _, _| $op(super::simd_operand::size($i), n, $i.imm as u32))
    };
    (@ narrow_scalar $op:path, $c:ident, $i:ident) => {
        super::simd_operand::narrow_scalar($c, $i, |n, q| $op(super::simd_operand::size($i), n, $i.imm as u32, q))
    };
    (@ shift $op:path, $c:ident, $i:ident) => {
        super::simd_operand::same::<false>($c, $i, |d, n, _, q| {
            $op(super::simd_operand::size($i), d, n, $i.imm as u32, q)
        })
    };
    (@ shift_long $op:path, $c:ident, $i:ident) => {
        super::simd_operand::long::<false>($c, $i, |_, n, _, _| $op(super::simd_operand::size($i), n, $i.imm as u32))
    };
}
pub(super) use handlers;
