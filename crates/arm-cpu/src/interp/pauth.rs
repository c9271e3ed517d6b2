//! Pointer authentication: register forms and hints. The codes themselves are in [`crate::pauth`].

use crate::Feat;
use crate::cpu::Cpu;
use crate::insn::{Exec, Flow, Insn, SP};
use crate::interp::operand::{or_sp, put_x};
use crate::pauth::Key;

pub(crate) use crate::interp::operand::rd_zr;

/// Adds a code to, or authenticates, register `r` with the modifier in `m` (31 zero, or [`SP`]).
#[inline(always)]
fn apply<const AUTH: bool>(cpu: &mut Cpu, key: Key, r: u8, m: u8) -> Exec {
    let (p, modifier) = (cpu.state.xr(r), cpu.state.xr(m));
    let v = if AUTH { cpu.pac_auth(key, p, modifier, false)? } else { cpu.pac_add(key, p, modifier) };
    put_x(cpu, r, v);
    Ok(Flow::Next)
}

/// The same for a hint: a NOP without the feature.
#[inline(always)]
fn hint<const AUTH: bool>(cpu: &mut Cpu, key: Key, r: u8, m: u8) -> Exec {
    if !cpu.has(Feat::PAuth) {
        return Ok(Flow::Next);
    }
    apply::<AUTH>(cpu, key, r, m)
}

macro_rules! register_forms {
    ($($name:ident $zero:ident $key:ident $auth:literal;)*) => { $(
        pub(crate) fn $name(cpu: &mut Cpu, i: &Insn) -> Exec {
            // A discarded result still authenticates.
            let r = i.rd;
            apply_mapped::<$auth>(cpu, Key::$key, r, or_sp(i.rn))
        }
        pub(crate) fn $zero(cpu: &mut Cpu, i: &Insn) -> Exec {
            apply_mapped::<$auth>(cpu, Key::$key, i.rd, 31)
        }
    )* };
}

/// With Rd mapped for writing: the sink is read as XZR.
#[inline(always)]
fn apply_mapped<const AUTH: bool>(cpu: &mut Cpu, key: Key, rd: u8, m: u8) -> Exec {
    if rd > 31 {
        cpu.state.x[rd as usize & 63] = 0;
    }
    apply::<AUTH>(cpu, key, rd, m)
}

register_forms! {
    pacia paciza IA false;
    pacib pacizb IB false;
    pacda pacdza DA false;
    pacdb pacdzb DB false;
    autia autiza IA true;
    autib autizb IB true;
    autda autdza DA true;
    autdb autdzb DB true;
}

macro_rules! hints {
    ($($name:ident $key:ident $auth:literal $r:expr, $m:expr;)*) => { $(
        pub(crate) fn $name(cpu: &mut Cpu, _: &Insn) -> Exec {
            hint::<$auth>(cpu, Key::$key, $r, $m)
        }
    )* };
}
hints! {
    pacia1716 IA false 17, 16;
    pacib1716 IB false 17, 16;
    autia1716 IA true 17, 16;
    autib1716 IB true 17, 16;
    paciaz IA false 30, 31;
    pacibz IB false 30, 31;
    autiaz IA true 30, 31;
    autibz IB true 30, 31;
    paciasp IA false 30, SP;
    pacibsp IB false 30, SP;
    autiasp IA true 30, SP;
    autibsp IB true 30, SP;
}

fn strip(cpu: &mut Cpu, r: u8, data: bool) -> Exec {
    let v = cpu.pac_strip(cpu.state.xr(r), data);
    put_x(cpu, r, v);
    Ok(Flow::Next)
}

pub(crate) fn xpaci(cpu: &mut Cpu, i: &Insn) -> Exec {
    strip(cpu, i.rd, false)
}

pub(crate) fn xpacd(cpu: &mut Cpu, i: &Insn) -> Exec {
    strip(cpu, i.rd, true)
}

pub(crate) fn xpaclri(cpu: &mut Cpu, _: &Insn) -> Exec {
    if !cpu.has(Feat::PAuth) {
        return Ok(Flow::Next);
    }
    strip(cpu, 30, false)
}

pub(crate) fn pacga(cpu: &mut Cpu, i: &Insn) -> Exec {
    let m = cpu.state.xr(or_sp(i.rm));
    let v = cpu.pacga(cpu.state.xr(i.rn), m);
    put_x(cpu, i.rd, v);
    Ok(Flow::Next)
}
