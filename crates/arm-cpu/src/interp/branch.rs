//! Branches (Arm ARM C4.1.94). Every line ends a block.

use crate::cpu::Cpu;
use crate::insn::{Exec, Flow, Handler, Insn, Stop};
use crate::interp::operand::{Reg, holds, put_x};
use crate::mem::tlb::sign_extend;
use crate::pauth::Key;
use crate::{Feat, Op, SysReg};

/// Link register.
const LR: u8 = 30;

#[inline(always)]
fn jump(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.state.pc = cpu.state.pc.wrapping_add(i.imm);
    Ok(Flow::Jump)
}

#[inline(always)]
fn jump_if(cpu: &mut Cpu, i: &Insn, taken: bool) -> Exec {
    if taken { jump(cpu, i) } else { Ok(Flow::Next) }
}

pub(crate) fn imm26(i: &mut Insn) {
    i.imm = (i.sbits(0, 26) << 2) as u64;
}

pub(crate) fn imm19(i: &mut Insn) {
    i.imm = (i.sbits(5, 19) << 2) as u64;
    i.exec = match i.op {
        Op::CBZ if !i.bit(31) => cb::<u32, true>,
        Op::CBNZ if !i.bit(31) => cb::<u32, false>,
        Op::CBZ => cb::<u64, true>,
        Op::CBNZ => cb::<u64, false>,
        _ => BY_CONDITION[i.bits(0, 4) as usize],
    };
}

pub(crate) fn imm14(i: &mut Insn) {
    i.imm = (i.sbits(5, 14) << 2) as u64;
    i.aux = (i.bits(31, 1) << 5 | i.bits(19, 5)) as u8;
}

pub(crate) fn b(cpu: &mut Cpu, i: &Insn) -> Exec {
    jump(cpu, i)
}

pub(crate) fn bl(cpu: &mut Cpu, i: &Insn) -> Exec {
    put_x(cpu, LR, cpu.state.pc.wrapping_add(4));
    jump(cpu, i)
}

fn b_if<const C: u8>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let taken = holds::<C>(cpu.state.nzcv);
    jump_if(cpu, i, taken)
}

static BY_CONDITION: [Handler; 16] = [
    b_if::<0>, b_if::<1>, b_if::<2>, b_if::<3>, b_if::<4>, b_if::<5>, b_if::<6>, b_if::<7>, b_if::<8>,
    b_if::<9>, b_if::<10>, b_if::<11>, b_if::<12>, b_if::<13>, b_if::<14>, b_if::<15>,
];

pub(crate) fn b_cond(cpu: &mut Cpu, i: &Insn) -> Exec {
    let taken = cpu.state.cond(i.rd);
    jump_if(cpu, i, taken)
}

/// A branch that is consistent in its direction: a hint only.
pub(crate) fn bc_cond(cpu: &mut Cpu, i: &Insn) -> Exec {
    b_cond(cpu, i)
}

#[inline(always)]
fn cb<T: Reg, const ZERO: bool>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let taken = (T::get(cpu, i.rd) == T::ZERO) == ZERO;
    jump_if(cpu, i, taken)
}

pub(crate) fn cbz(cpu: &mut Cpu, i: &Insn) -> Exec {
    cb::<u64, true>(cpu, i)
}

pub(crate) fn cbnz(cpu: &mut Cpu, i: &Insn) -> Exec {
    cb::<u64, false>(cpu, i)
}

pub(crate) fn tbz(cpu: &mut Cpu, i: &Insn) -> Exec {
    let taken = cpu.state.xr(i.rd) >> (i.aux & 63) & 1 == 0;
    jump_if(cpu, i, taken)
}

pub(crate) fn tbnz(cpu: &mut Cpu, i: &Insn) -> Exec {
    let taken = cpu.state.xr(i.rd) >> (i.aux & 63) & 1 != 0;
    jump_if(cpu, i, taken)
}

// To a register. With FEAT_BTI they set BTYPE, by which the next instruction is checked in a guarded page.

#[inline(always)]
fn to(cpu: &mut Cpu, target: u64) -> Exec {
    cpu.state.pc = if sign_extend(target) == target { target } else { cpu.canonical_target(target) };
    Ok(Flow::Jump)
}

/// BTYPE of BR (Arm ARM D8.4.5.1): 1 from X16, X17 or an unguarded page, else 3.
#[inline(always)]
fn set_btype_jump(cpu: &mut Cpu, rn: u8) {
    if cpu.has(Feat::BTI) {
        cpu.state.btype = if rn == 16 || rn == 17 || !cpu.guarded_page() { 1 } else { 3 };
    }
}

#[inline(always)]
fn set_btype_call(cpu: &mut Cpu) {
    if cpu.has(Feat::BTI) {
        cpu.state.btype = 2;
    }
}

pub(crate) fn br(cpu: &mut Cpu, i: &Insn) -> Exec {
    let target = cpu.state.xr(i.rn);
    set_btype_jump(cpu, i.rn);
    to(cpu, target)
}

pub(crate) fn blr(cpu: &mut Cpu, i: &Insn) -> Exec {
    let target = cpu.state.xr(i.rn);
    call(cpu, target)
}

#[inline(always)]
fn call(cpu: &mut Cpu, target: u64) -> Exec {
    put_x(cpu, LR, cpu.state.pc.wrapping_add(4));
    set_btype_call(cpu);
    to(cpu, target)
}

pub(crate) fn ret(cpu: &mut Cpu, i: &Insn) -> Exec {
    let target = cpu.state.xr(i.rn);
    to(cpu, target)
}

// With pointer authentication. The modifier of BRAA and BLRAA is in Rm (bits 4:0; 31 is SP), of the Z forms zero, of
// RETAA the stack pointer.

fn authenticated(cpu: &mut Cpu, i: &Insn, key: Key, zero: bool) -> Result<u64, Stop> {
    let modifier = match i.rd {
        _ if zero => 0,
        31 => cpu.state.sp(),
        m => cpu.state.xr(m),
    };
    let p = cpu.state.xr(i.rn);
    cpu.pac_auth(key, p, modifier, true)
}

fn jump_auth(cpu: &mut Cpu, i: &Insn, key: Key, zero: bool) -> Exec {
    let target = authenticated(cpu, i, key, zero)?;
    set_btype_jump(cpu, i.rn);
    to(cpu, target)
}

fn call_auth(cpu: &mut Cpu, i: &Insn, key: Key, zero: bool) -> Exec {
    let target = authenticated(cpu, i, key, zero)?;
    call(cpu, target)
}

fn ret_auth(cpu: &mut Cpu, key: Key) -> Exec {
    let (p, sp) = (cpu.state.xr(LR), cpu.state.sp());
    let target = cpu.pac_auth(key, p, sp, true)?;
    to(cpu, target)
}

pub(crate) fn braa(cpu: &mut Cpu, i: &Insn) -> Exec {
    jump_auth(cpu, i, Key::IA, false)
}
pub(crate) fn braaz(cpu: &mut Cpu, i: &Insn) -> Exec {
    jump_auth(cpu, i, Key::IA, true)
}
pub(crate) fn brab(cpu: &mut Cpu, i: &Insn) -> Exec {
    jump_auth(cpu, i, Key::IB, false)
}
pub(crate) fn brabz(cpu: &mut Cpu, i: &Insn) -> Exec {
    jump_auth(cpu, i, Key::IB, true)
}
pub(crate) fn blraa(cpu: &mut Cpu, i: &Insn) -> Exec {
    call_auth(cpu, i, Key::IA, false)
}
pub(crate) fn blraaz(cpu: &mut Cpu, i: &Insn) -> Exec {
    call_auth(cpu, i, Key::IA, true)
}
pub(crate) fn blrab(cpu: &mut Cpu, i: &Insn) -> Exec {
    call_auth(cpu, i, Key::IB, false)
}
pub(crate) fn blrabz(cpu: &mut Cpu, i: &Insn) -> Exec {
    call_auth(cpu, i, Key::IB, true)
}
pub(crate) fn retaa(cpu: &mut Cpu, _: &Insn) -> Exec {
    ret_auth(cpu, Key::IA)
}
pub(crate) fn retab(cpu: &mut Cpu, _: &Insn) -> Exec {
    ret_auth(cpu, Key::IB)
}

fn eret_auth(cpu: &mut Cpu, key: Key) -> Exec {
    if cpu.state.el == 0 {
        return cpu.undefined();
    }
    let (p, sp) = (cpu.state.sys(SysReg::ELR_EL1), cpu.state.sp());
    let target = cpu.pac_auth(key, p, sp, true)?;
    cpu.exception_return(target);
    Ok(Flow::Jump)
}

pub(crate) fn eretaa(cpu: &mut Cpu, _: &Insn) -> Exec {
    eret_auth(cpu, Key::IA)
}
pub(crate) fn eretab(cpu: &mut Cpu, _: &Insn) -> Exec {
    eret_auth(cpu, Key::IB)
}
