//! Exclusive and ordered loads and stores (Arm ARM C4.1.96).

use std::sync::atomic::{Ordering, fence};

use crate::cpu::Cpu;
use crate::decode::Op;
use crate::insn::{Exec, Flow, Handler, Insn};
use crate::interp::ldst::{Kind, S8W, S8X, S16W, S16X, S32X, U8, U16, U32, U64};
use crate::interp::operand::{dest, or_sp, put_x};
use crate::mem::attr::Acc;
use crate::mem::int::{AtomicInt, MemInt};

// Exclusive. Bit 15 asks for acquire or release.

pub(crate) fn exclusive(i: &mut Insn) {
    i.rn = or_sp(i.rn);
    if i.bit(22) {
        i.rd = dest(i.rd);
        i.ra = dest(i.ra);
    } else {
        i.rm = dest(i.rm);
    }
    let half = i.bits(30, 2) == 2;
    i.exec = match i.op {
        Op::LDXR | Op::LDAXR if half => load_ex::<u32>,
        Op::STXR | Op::STLXR if half => store_ex::<u32>,
        Op::LDXP | Op::LDAXP if half => load_ex_pair_w,
        Op::STXP | Op::STLXP if half => store_ex_pair_w,
        _ => i.exec,
    };
}

#[inline(always)]
fn acc(i: &Insn) -> Acc {
    if i.bit(15) { Acc::EXCLUSIVE_ORDERED } else { Acc::EXCLUSIVE }
}

#[inline(always)]
fn load_ex<T: MemInt + Into<u64>>(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.check_sp_align(i.rn)?;
    let v: T = cpu.load_exclusive(cpu.state.xr(i.rn), acc(i))?;
    fence(Ordering::Acquire);
    put_x(cpu, i.rd, v.into());
    Ok(Flow::Next)
}

#[inline(always)]
fn store_ex<T: AtomicInt + From64>(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.check_sp_align(i.rn)?;
    let v = T::truncate(cpu.state.xr(i.rd));
    let done = cpu.store_exclusive(cpu.state.xr(i.rn), v, acc(i))?;
    put_x(cpu, i.rm, u64::from(!done));
    Ok(Flow::Next)
}

/// Truncation of a register to what is stored.
pub(super) trait From64 {
    /// The low bits.
    fn truncate(v: u64) -> Self;
}
macro_rules! from64 {
    ($($t:ty)*) => { $(
        impl From64 for $t {
            #[inline(always)]
            fn truncate(v: u64) -> $t {
                v as $t
            }
        }
    )* };
}
from64! { u8 u16 u32 u64 }

/// The two elements of a pair as one integer: the first is at the lower address, whatever the endianness.
#[inline(always)]
fn join(cpu: &Cpu, first: u64, second: u64) -> u128 {
    let (lo, hi) = if cpu.big_endian_data { (second, first) } else { (first, second) };
    u128::from(hi) << 64 | u128::from(lo)
}

#[inline(always)]
fn split(cpu: &Cpu, v: u128) -> (u64, u64) {
    let (lo, hi) = (v as u64, (v >> 64) as u64);
    if cpu.big_endian_data { (hi, lo) } else { (lo, hi) }
}

#[inline(always)]
fn join_w(cpu: &Cpu, first: u64, second: u64) -> u64 {
    let (lo, hi) = if cpu.big_endian_data { (second, first) } else { (first, second) };
    hi << 32 | lo & 0xffff_ffff
}

#[inline(always)]
fn split_w(cpu: &Cpu, v: u64) -> (u64, u64) {
    let (lo, hi) = (v & 0xffff_ffff, v >> 32);
    if cpu.big_endian_data { (hi, lo) } else { (lo, hi) }
}

fn load_ex_pair(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.check_sp_align(i.rn)?;
    let v: u128 = cpu.load_exclusive(cpu.state.xr(i.rn), acc(i))?;
    fence(Ordering::Acquire);
    let (a, b) = split(cpu, v);
    put_x(cpu, i.rd, a);
    put_x(cpu, i.ra, b);
    Ok(Flow::Next)
}

fn load_ex_pair_w(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.check_sp_align(i.rn)?;
    let v: u64 = cpu.load_exclusive(cpu.state.xr(i.rn), acc(i))?;
    fence(Ordering::Acquire);
    let (a, b) = split_w(cpu, v);
    put_x(cpu, i.rd, a);
    put_x(cpu, i.ra, b);
    Ok(Flow::Next)
}

fn store_ex_pair(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.check_sp_align(i.rn)?;
    let v = join(cpu, cpu.state.xr(i.rd), cpu.state.xr(i.ra));
    let done = cpu.store_exclusive(cpu.state.xr(i.rn), v, acc(i))?;
    put_x(cpu, i.rm, u64::from(!done));
    Ok(Flow::Next)
}

fn store_ex_pair_w(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.check_sp_align(i.rn)?;
    let v = join_w(cpu, cpu.state.xr(i.rd), cpu.state.xr(i.ra));
    let done = cpu.store_exclusive(cpu.state.xr(i.rn), v, acc(i))?;
    put_x(cpu, i.rm, u64::from(!done));
    Ok(Flow::Next)
}

/// CASP: compares and swaps the pair (Rs, Rs+1) with (Rt, Rt+1).
pub(super) fn cas_pair<const IS64: bool>(cpu: &mut Cpu, i: &Insn) -> Exec {
    if (i.rm | i.rd) & 1 != 0 {
        return cpu.undefined();
    }
    cpu.check_sp_align(i.rn)?;
    let (va, s) = (cpu.state.xr(i.rn), &cpu.state);
    let (s0, s1, t0, t1) = (s.xr(i.rm), s.xr(i.rm + 1), s.xr(i.rd), s.xr(i.rd + 1));
    let (a, b) = if IS64 {
        let (expected, new) = (join(cpu, s0, s1), join(cpu, t0, t1));
        let old = cpu.cas(va, expected, new, Acc::ATOMIC)?;
        split(cpu, old)
    } else {
        let (expected, new) = (join_w(cpu, s0, s1), join_w(cpu, t0, t1));
        let old = cpu.cas(va, expected, new, Acc::ATOMIC)?;
        split_w(cpu, old)
    };
    put_x(cpu, i.rm, a);
    put_x(cpu, dest(i.rm + 1), b);
    Ok(Flow::Next)
}

macro_rules! named {
    ($($name:ident = $body:expr;)*) => { $(
        pub(crate) fn $name(cpu: &mut Cpu, i: &Insn) -> Exec {
            $body(cpu, i)
        }
    )* };
}
named! {
    ldxrb = load_ex::<u8>;
    ldaxrb = load_ex::<u8>;
    stxrb = store_ex::<u8>;
    stlxrb = store_ex::<u8>;
    ldxrh = load_ex::<u16>;
    ldaxrh = load_ex::<u16>;
    stxrh = store_ex::<u16>;
    stlxrh = store_ex::<u16>;
    ldxr = load_ex::<u64>;
    ldaxr = load_ex::<u64>;
    stxr = store_ex::<u64>;
    stlxr = store_ex::<u64>;
    ldxp = load_ex_pair;
    ldaxp = load_ex_pair;
    stxp = store_ex_pair;
    stlxp = store_ex_pair;
}

// Ordered. The forms without an offset have `imm` zero.

pub(crate) fn ordered(i: &mut Insn) {
    i.rn = or_sp(i.rn);
    // Loads have bit 22, LDAPURS bit 23 of the unscaled forms; LDAPR has bit 23 only.
    let unscaled = i.bits(24, 6) == 0b011001;
    let ldapr = i.bits(24, 6) == 0b111000;
    if i.bit(22) || ldapr || (unscaled && i.bit(23)) {
        i.rd = dest(i.rd);
    }
    if unscaled {
        i.imm = i.sbits(12, 9) as u64;
    }
    let half = i.bits(30, 2) == 2;
    i.exec = match i.op {
        Op::STLR | Op::STLLR if half => release::<U32> as Handler,
        Op::LDAR | Op::LDLAR if half => acquire::<U32>,
        Op::LDAPR if half => acquire::<U32>,
        _ => i.exec,
    };
}

#[inline(always)]
fn acquire<K: Kind>(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.check_sp_align(i.rn)?;
    let v = cpu.load::<K::M>(cpu.state.xr(i.rn).wrapping_add(i.imm), Acc::ORDERED)?;
    fence(Ordering::Acquire);
    K::put(cpu, i.rd, v);
    Ok(Flow::Next)
}

/// A store-release is not passed by a later load-acquire (RCsc), hence the full fence after it.
#[inline(always)]
fn release<K: Kind>(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.check_sp_align(i.rn)?;
    fence(Ordering::Release);
    cpu.store::<K::M>(cpu.state.xr(i.rn).wrapping_add(i.imm), K::get(cpu, i.rd), Acc::ORDERED)?;
    fence(Ordering::SeqCst);
    Ok(Flow::Next)
}

named! {
    ldarb = acquire::<U8>;
    ldarh = acquire::<U16>;
    ldar = acquire::<U64>;
    ldlarb = acquire::<U8>;
    ldlarh = acquire::<U16>;
    ldlar = acquire::<U64>;
    ldaprb = acquire::<U8>;
    ldaprh = acquire::<U16>;
    ldapr = acquire::<U64>;
    stlrb = release::<U8>;
    stlrh = release::<U16>;
    stlr = release::<U64>;
    stllrb = release::<U8>;
    stllrh = release::<U16>;
    stllr = release::<U64>;
    stlurb = release::<U8>;
    ldapurb = acquire::<U8>;
    ldapursb_x = acquire::<S8X>;
    ldapursb_w = acquire::<S8W>;
    stlurh = release::<U16>;
    ldapurh = acquire::<U16>;
    ldapursh_x = acquire::<S16X>;
    ldapursh_w = acquire::<S16W>;
    stlur_w = release::<U32>;
    ldapur_w = acquire::<U32>;
    ldapursw = acquire::<S32X>;
    stlur_x = release::<U64>;
    ldapur_x = acquire::<U64>;
}
