//! Loads and stores of structures (Arm ARM C4.1.96, LD1 to ST4 of multiple and single structures, LD1R to LD4R).
//!
//! Registers and the base are written after every access succeeded. Stores that leave a page check all of it first, so
//! nothing is written where an element faults.
//!
//! After `prep`: `aux` holds the number of elements of a structure less one (bits 1:0), the number of registers less one
//! (3:2), the size of an element (5:4), write-back (7); `imm` the bytes transferred; `ra` the index of a single element.

use super::simd_operand::{q, reg, set_reg};
use crate::cpu::Cpu;
use crate::insn::{Exec, Flow, Handler, Insn, Stop};
use crate::interp::dp_imm::reserve;
use crate::interp::operand::{or_sp, put_x};
use crate::mem::attr::Acc;
use crate::simd::lanes::{self, Lane, Vector, build, dup_low, split};

/// The handler that all forms share, base, write-back.
fn common(i: &mut Insn, exec: Handler) {
    i.exec = exec;
    i.rn = or_sp(i.rn);
    if i.bit(23) {
        i.aux |= 0x80;
    }
}

pub(crate) fn multiple(i: &mut Insn) {
    let (registers, elements) = match i.bits(12, 4) {
        0b0000 => (4, 4),
        0b0010 => (4, 1),
        0b0100 => (3, 3),
        0b0110 => (3, 1),
        0b1000 => (2, 2),
        0b1010 => (2, 1),
        _ => (1, 1),
    };
    let size = i.bits(10, 2);
    i.aux = (elements - 1) | (registers - 1) << 2 | (size << 4) as u8;
    i.imm = u64::from(registers) * if q(i) { 16 } else { 8 };
    let h: Handler = match (i.bit(22), elements, registers) {
        (true, 1, 1) => load_one,
        (true, 1, _) => load_run,
        (true, _, _) => load_multiple,
        (false, 1, _) => store_run,
        (false, _, _) => store_multiple,
    };
    common(i, h);
    if size == 3 && !q(i) && elements > 1 {
        reserve(i);
    }
}

pub(crate) fn single(i: &mut Insn) {
    let elements = ((i.bits(13, 1) << 1 | i.bits(21, 1)) + 1) as u8;
    let (scale, s, low) = (i.bits(14, 2), i.bits(12, 1), i.bits(10, 2));
    let q = i.bits(30, 1);
    // Without replication bits 11:10 hold the rest of the index, and tell 64-bit elements from 32-bit ones.
    let (size, index) = match scale {
        0 => (0, q << 3 | s << 2 | low),
        1 => (1, q << 2 | s << 1 | low >> 1),
        2 if low == 0 => (2, q << 1 | s),
        2 => (3, q),
        _ => (low, 0),
    };
    i.aux = (elements - 1) | (elements - 1) << 2 | (size << 4) as u8;
    i.ra = index as u8;
    i.imm = u64::from(elements) << size;
    let h: Handler = match (i.bit(22), scale) {
        (false, _) => store_single,
        (_, 3) => load_replicate,
        _ => load_single,
    };
    common(i, h);
}

#[inline(always)]
fn elements(i: &Insn) -> usize {
    usize::from(i.aux & 3) + 1
}

#[inline(always)]
fn registers(i: &Insn) -> usize {
    usize::from(i.aux >> 2 & 3) + 1
}

#[inline(always)]
fn size(i: &Insn) -> u32 {
    u32::from(i.aux >> 4) & 3
}

/// Register `k` after the first, modulo 32.
#[inline(always)]
fn register(i: &Insn, k: usize) -> u8 {
    i.rd.wrapping_add(k as u8) & 31
}

#[inline(always)]
fn begin(cpu: &mut Cpu, i: &Insn) -> Result<u64, Stop> {
    cpu.fp_access()?;
    cpu.check_sp_align(i.rn)?;
    Ok(cpu.state.xr(i.rn))
}

/// Post-index: by Rm, or with 31 by the bytes transferred.
#[inline(always)]
fn write_back(cpu: &mut Cpu, i: &Insn, base: u64) {
    if i.aux & 0x80 != 0 {
        let by = if i.rm == 31 { i.imm } else { cpu.state.xr(i.rm) };
        put_x(cpu, i.rn, base.wrapping_add(by));
    }
}

/// Structures in memory order to registers: element `e` of structure `s` is lane `s` of register `e`. Of half registers
/// the upper halves come from zeros behind the structures.
#[inline(always)]
fn gather<T: Lane, const N: usize>(mem: &[u8; 64]) -> [Vector; 4] {
    std::array::from_fn(|e| if e < N { build::<T>(|s| lane(mem, s * N + e)) } else { lanes::vector(0) })
}

#[inline(always)]
fn lane<T: Lane>(mem: &[u8; 64], k: usize) -> T {
    let bytes = size_of::<T>();
    bytemuck::pod_read_unaligned(&mem[k * bytes..(k + 1) * bytes])
}

/// The reverse.
#[inline(always)]
fn scatter<T: Lane, const N: usize>(regs: &[Vector; 4]) -> [u8; 64] {
    let regs = regs.map(split::<T>);
    let mut mem = [0u8; 64];
    let bytes = size_of::<T>();
    for s in 0..T::N {
        for (e, r) in regs.iter().enumerate().take(N) {
            let k = s * N + e;
            mem[k * bytes..(k + 1) * bytes].copy_from_slice(bytemuck::bytes_of(&r.as_ref()[s]));
        }
    }
    mem
}

/// Calls `f::<T, N>` for the sizes of elements and structures of the instruction. A structure of half registers stores
/// only the first half of what `scatter` gives: the lanes in use come first.
macro_rules! by_shape {
    ($i:expr, $f:ident($a:expr)) => {
        match (elements($i), size($i)) {
            (2, 0) => $f::<u8, 2>($a),
            (2, 1) => $f::<u16, 2>($a),
            (2, 2) => $f::<u32, 2>($a),
            (2, _) => $f::<u64, 2>($a),
            (3, 0) => $f::<u8, 3>($a),
            (3, 1) => $f::<u16, 3>($a),
            (3, 2) => $f::<u32, 3>($a),
            (3, _) => $f::<u64, 3>($a),
            (_, 0) => $f::<u8, 4>($a),
            (_, 1) => $f::<u16, 4>($a),
            (_, 2) => $f::<u32, 4>($a),
            _ => $f::<u64, 4>($a),
        }
    };
}

/// LD1 of one register.
fn load_one(cpu: &mut Cpu, i: &Insn) -> Exec {
    let base = begin(cpu, i)?;
    let v = cpu.load_vector(base, q(i), 1 << size(i))?;
    cpu.state.set_q(i.rd, v);
    write_back(cpu, i, base);
    Ok(Flow::Next)
}

/// LD1 of several registers.
fn load_run(cpu: &mut Cpu, i: &Insn) -> Exec {
    let base = begin(cpu, i)?;
    let mem = cpu.load_block(base, i.imm as usize & 127, 1 << size(i))?;
    for k in 0..registers(i) {
        let v =
            if q(i) { u128::from(mem[2 * k]) | u128::from(mem[2 * k + 1]) << 64 } else { u128::from(mem[k]) };
        cpu.state.set_q(register(i, k), v);
    }
    write_back(cpu, i, base);
    Ok(Flow::Next)
}

fn load_multiple(cpu: &mut Cpu, i: &Insn) -> Exec {
    let base = begin(cpu, i)?;
    let mem: [u8; 64] = bytemuck::cast(cpu.load_block(base, i.imm as usize & 127, 1 << size(i))?);
    let regs = by_shape!(i, gather(&mem));
    for (k, v) in regs.iter().take(registers(i)).enumerate() {
        set_reg(cpu, register(i, k), *v);
    }
    write_back(cpu, i, base);
    Ok(Flow::Next)
}

/// ST1.
fn store_run(cpu: &mut Cpu, i: &Insn) -> Exec {
    let base = begin(cpu, i)?;
    let mut mem = [0u64; 8];
    for k in 0..registers(i) {
        let v = cpu.state.q(register(i, k));
        if q(i) {
            mem[2 * k] = v as u64;
            mem[2 * k + 1] = (v >> 64) as u64;
        } else {
            mem[k] = v as u64;
        }
    }
    cpu.store_block(base, &bytemuck::cast_slice(&mem)[..i.imm as usize & 127], 1 << size(i))?;
    write_back(cpu, i, base);
    Ok(Flow::Next)
}

fn store_multiple(cpu: &mut Cpu, i: &Insn) -> Exec {
    let base = begin(cpu, i)?;
    let regs = std::array::from_fn(|k| reg(cpu, register(i, k)));
    let mem = by_shape!(i, scatter(&regs));
    cpu.store_block(base, &mem[..i.imm as usize & 127], 1 << size(i))?;
    write_back(cpu, i, base);
    Ok(Flow::Next)
}

/// One structure.
#[inline(always)]
fn load_structure(cpu: &mut Cpu, i: &Insn, base: u64) -> Result<[u64; 4], Stop> {
    let mut v = [0; 4];
    let mut at = base;
    for x in v.iter_mut().take(elements(i)) {
        *x = match size(i) {
            0 => cpu.load::<u8>(at, Acc::NORMAL)?.into(),
            1 => cpu.load::<u16>(at, Acc::NORMAL)?.into(),
            2 => cpu.load::<u32>(at, Acc::NORMAL)?.into(),
            _ => cpu.load::<u64>(at, Acc::NORMAL)?,
        };
        at = at.wrapping_add(1 << size(i));
    }
    Ok(v)
}

fn load_single(cpu: &mut Cpu, i: &Insn) -> Exec {
    let base = begin(cpu, i)?;
    let v = load_structure(cpu, i, base)?;
    let mask = u128::from(u64::MAX >> (64 - (8 << size(i))));
    let at = (u32::from(i.ra) << (3 + size(i))) & 127;
    for (k, x) in v.iter().take(elements(i)).enumerate() {
        let r = register(i, k);
        let old = cpu.state.q(r);
        cpu.state.set_q(r, old & !(mask << at) | u128::from(*x) << at);
    }
    write_back(cpu, i, base);
    Ok(Flow::Next)
}

fn load_replicate(cpu: &mut Cpu, i: &Insn) -> Exec {
    let base = begin(cpu, i)?;
    let v = load_structure(cpu, i, base)?;
    for (k, x) in v.iter().take(elements(i)).enumerate() {
        let all = dup_low(size(i), *x);
        cpu.state.set_q(register(i, k), if q(i) { all } else { all & u128::from(u64::MAX) });
    }
    write_back(cpu, i, base);
    Ok(Flow::Next)
}

fn store_single(cpu: &mut Cpu, i: &Insn) -> Exec {
    let base = begin(cpu, i)?;
    let at = (u32::from(i.ra) << (3 + size(i))) & 127;
    let bytes = 1usize << size(i);
    let mut mem = [0u8; 64];
    for (k, c) in mem.chunks_exact_mut(bytes).take(elements(i)).enumerate() {
        c.copy_from_slice(&(cpu.state.q(register(i, k)) >> at).to_le_bytes()[..bytes]);
    }
    cpu.store_block(base, &mem[..i.imm as usize & 127], bytes)?;
    write_back(cpu, i, base);
    Ok(Flow::Next)
}

/// The table's names; `prep` enters the shared handler.
macro_rules! named {
    ($($name:ident $f:ident;)*) => { $(
        pub(crate) fn $name(cpu: &mut Cpu, i: &Insn) -> Exec {
            $f(cpu, i)
        }
    )* };
}
named! {
    st4_m store_multiple;
    st4_m_post store_multiple;
    st1_m4 store_run;
    st1_m4_post store_run;
    st3_m store_multiple;
    st3_m_post store_multiple;
    st1_m3 store_run;
    st1_m3_post store_run;
    st1_m1 store_run;
    st1_m1_post store_run;
    st2_m store_multiple;
    st2_m_post store_multiple;
    st1_m2 store_run;
    st1_m2_post store_run;
    ld4_m load_multiple;
    ld4_m_post load_multiple;
    ld1_m4 load_run;
    ld1_m4_post load_run;
    ld3_m load_multiple;
    ld3_m_post load_multiple;
    ld1_m3 load_run;
    ld1_m3_post load_run;
    ld1_m1 load_one;
    ld1_m1_post load_one;
    ld2_m load_multiple;
    ld2_m_post load_multiple;
    ld1_m2 load_run;
    ld1_m2_post load_run;
    st1_b store_single;
    st1_b_post store_single;
    st1_h store_single;
    st1_h_post store_single;
    st1_s store_single;
    st1_s_post store_single;
    st1_d store_single;
    st1_d_post store_single;
    st2_b store_single;
    st2_b_post store_single;
    st2_h store_single;
    st2_h_post store_single;
    st2_s store_single;
    st2_s_post store_single;
    st2_d store_single;
    st2_d_post store_single;
    st3_b store_single;
    st3_b_post store_single;
    st3_h store_single;
    st3_h_post store_single;
    st3_s store_single;
    st3_s_post store_single;
    st3_d store_single;
    st3_d_post store_single;
    st4_b store_single;
    st4_b_post store_single;
    st4_h store_single;
    st4_h_post store_single;
    st4_s store_single;
    st4_s_post store_single;
    st4_d store_single;
    st4_d_post store_single;
    ld1_b load_single;
    ld1_b_post load_single;
    ld1_h load_single;
    ld1_h_post load_single;
    ld1_s load_single;
    ld1_s_post load_single;
    ld1_d load_single;
    ld1_d_post load_single;
    ld2_b load_single;
    ld2_b_post load_single;
    ld2_h load_single;
    ld2_h_post load_single;
    ld2_s load_single;
    ld2_s_post load_single;
    ld2_d load_single;
    ld2_d_post load_single;
    ld3_b load_single;
    ld3_b_post load_single;
    ld3_h load_single;
    ld3_h_post load_single;
    ld3_s load_single;
    ld3_s_post load_single;
    ld3_d load_single;
    ld3_d_post load_single;
    ld4_b load_single;
    ld4_b_post load_single;
    ld4_h load_single;
    ld4_h_post load_single;
    ld4_s load_single;
    ld4_s_post load_single;
    ld4_d load_single;
    ld4_d_post load_single;
    ld1r load_replicate;
    ld1r_post load_replicate;
    ld2r load_replicate;
    ld2r_post load_replicate;
    ld3r load_replicate;
    ld3r_post load_replicate;
    ld4r load_replicate;
    ld4r_post load_replicate;
}
