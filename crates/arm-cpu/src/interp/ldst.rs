//! Loads and stores of registers, pairs and literals (Arm ARM C4.1.96).
//!
//! A handler is an instance of [`load`], [`store`], [`load_pair`] or [`store_pair`] by what is transferred ([`Kind`]) and
//! how it is addressed ([`Address`]). Base and target registers are written only after every access succeeded; base
//! last, so with Rn = Rt the loaded value is lost (CONSTRAINED UNPREDICTABLE; QEMU does the same).

use crate::cpu::Cpu;
use crate::insn::{Exec, Flow, Insn, Stop};
use crate::interp::dp_imm::reserve;
use crate::interp::operand::{dest, or_sp, put_x};
use crate::mem::attr::Acc;
use crate::mem::int::MemInt;
use crate::pauth::Key;

/// What is transferred: size in memory, register file, extension.
pub(super) trait Kind {
    /// In memory.
    type M: MemInt;
    /// SIMD&FP register.
    const FP: bool;
    /// The register's value as stored.
    fn get(cpu: &Cpu, r: u8) -> Self::M;
    /// Extends what was loaded into the (mapped) register.
    fn put(cpu: &mut Cpu, r: u8, v: Self::M);
}

macro_rules! general {
    ($($name:ident $mem:ty, |$v:ident| $extended:expr;)*) => { $(
        pub(super) struct $name;
        impl Kind for $name {
            type M = $mem;
            const FP: bool = false;
            #[inline(always)]
            fn get(cpu: &Cpu, r: u8) -> $mem {
                cpu.state.xr(r) as $mem
            }
            #[inline(always)]
            fn put(cpu: &mut Cpu, r: u8, $v: $mem) {
                put_x(cpu, r, $extended);
            }
        }
    )* };
}
general! {
    U8 u8, |v| v.into();
    U16 u16, |v| v.into();
    U32 u32, |v| v.into();
    U64 u64, |v| v;
    S8X u8, |v| v as i8 as u64;
    S8W u8, |v| v as i8 as u32 as u64;
    S16X u16, |v| v as i16 as u64;
    S16W u16, |v| v as i16 as u32 as u64;
    S32X u32, |v| v as i32 as u64;
}

macro_rules! vector {
    ($($name:ident $mem:ty;)*) => { $(
        struct $name;
        impl Kind for $name {
            type M = $mem;
            const FP: bool = true;
            #[inline(always)]
            fn get(cpu: &Cpu, r: u8) -> $mem {
                cpu.state.q(r) as $mem
            }
            #[inline(always)]
            fn put(cpu: &mut Cpu, r: u8, v: $mem) {
                #[allow(clippy::useless_conversion)]
                cpu.state.set_q(r, v.into());
            }
        }
    )* };
}
vector! { B u8; H u16; S u32; D u64; Q u128; }

/// How the address is formed.
trait Address {
    /// Address of the access.
    fn of(cpu: &Cpu, i: &Insn) -> u64;
    /// Writes the base back.
    #[inline(always)]
    fn write_back(_: &mut Cpu, _: &Insn, _addr: u64) {}
    /// Privilege of the access.
    #[inline(always)]
    fn acc(_: &Cpu) -> Acc {
        Acc::NORMAL
    }
}

struct Offset;
struct Pre;
struct Post;
struct Register;
struct Unprivileged;

impl Address for Offset {
    #[inline(always)]
    fn of(cpu: &Cpu, i: &Insn) -> u64 {
        cpu.state.xr(i.rn).wrapping_add(i.imm)
    }
}

impl Address for Pre {
    #[inline(always)]
    fn of(cpu: &Cpu, i: &Insn) -> u64 {
        cpu.state.xr(i.rn).wrapping_add(i.imm)
    }
    #[inline(always)]
    fn write_back(cpu: &mut Cpu, i: &Insn, addr: u64) {
        put_x(cpu, i.rn, addr);
    }
}

impl Address for Post {
    #[inline(always)]
    fn of(cpu: &Cpu, i: &Insn) -> u64 {
        cpu.state.xr(i.rn)
    }
    #[inline(always)]
    fn write_back(cpu: &mut Cpu, i: &Insn, addr: u64) {
        put_x(cpu, i.rn, addr.wrapping_add(i.imm));
    }
}

impl Address for Register {
    /// `imm` keeps the low half or all of Rm, bit 7 of `aux` asks for its sign extension, the rest is the shift.
    #[inline(always)]
    fn of(cpu: &Cpu, i: &Insn) -> u64 {
        let sign = u64::from(i.aux >> 7) << 31;
        let m = ((cpu.state.xr(i.rm) & i.imm) ^ sign).wrapping_sub(sign);
        cpu.state.xr(i.rn).wrapping_add(m << (i.aux & 7))
    }
}

impl Address for Unprivileged {
    #[inline(always)]
    fn of(cpu: &Cpu, i: &Insn) -> u64 {
        cpu.state.xr(i.rn).wrapping_add(i.imm)
    }
    #[inline(always)]
    fn acc(cpu: &Cpu) -> Acc {
        // PSTATE.UAO makes LDTR and STTR ordinary accesses.
        if cpu.state.el == 0 || cpu.state.uao { Acc::NORMAL } else { Acc::UNPRIV }
    }
}

// Operands.

/// Maps Rn, and Rt of a load to a general-purpose register.
fn map(i: &mut Insn, load: bool) {
    i.rn = or_sp(i.rn);
    if load && !i.bit(26) {
        i.rd = dest(i.rd);
    }
}

pub(crate) fn ls_off(i: &mut Insn) {
    let scale = if i.bit(26) && i.bit(23) { 4 } else { i.bits(30, 2) };
    i.imm = u64::from(i.bits(10, 12)) << scale;
    map(i, i.bits(22, 2) != 0);
}

pub(crate) fn ls_imm9(i: &mut Insn) {
    i.imm = i.sbits(12, 9) as u64;
    map(i, i.bits(22, 2) != 0);
}

pub(crate) fn ls_reg(i: &mut Insn) {
    let option = i.bits(13, 3);
    if option & 2 == 0 {
        reserve(i);
        return;
    }
    let scale = if i.bit(26) && i.bit(23) { 4 } else { i.bits(30, 2) };
    i.imm = if option & 1 != 0 { u64::MAX } else { 0xffff_ffff };
    i.aux = if i.bit(12) { scale as u8 } else { 0 } | if option == 6 { 0x80 } else { 0 };
    map(i, i.bits(22, 2) != 0);
}

pub(crate) fn literal(i: &mut Insn) {
    i.imm = (i.sbits(5, 19) << 2) as u64;
    map(i, true);
}

pub(crate) fn pair(i: &mut Insn) {
    let opc = i.bits(30, 2);
    let scale = if i.bit(26) { 2 + opc } else { 2 + (opc >> 1) };
    i.imm = (i.sbits(15, 7) << scale) as u64;
    map(i, i.bit(22));
    if i.bit(22) && !i.bit(26) {
        i.ra = dest(i.ra);
    }
}

pub(crate) fn load_auth(i: &mut Insn) {
    let simm10 = (i.sbits(22, 1) << 9) | i64::from(i.bits(12, 9));
    i.imm = (simm10 << 3) as u64;
    map(i, true);
}

// Execution.

#[inline(always)]
fn begin<K: Kind>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if K::FP {
        cpu.fp_access()?;
    }
    cpu.check_sp_align(i.rn)
}

#[inline(always)]
fn load<K: Kind, A: Address>(cpu: &mut Cpu, i: &Insn) -> Exec {
    begin::<K>(cpu, i)?;
    let (addr, acc) = (A::of(cpu, i), A::acc(cpu));
    let v = cpu.load::<K::M>(addr, acc)?;
    K::put(cpu, i.rd, v);
    A::write_back(cpu, i, addr);
    Ok(Flow::Next)
}

#[inline(always)]
fn store<K: Kind, A: Address>(cpu: &mut Cpu, i: &Insn) -> Exec {
    begin::<K>(cpu, i)?;
    let (addr, acc) = (A::of(cpu, i), A::acc(cpu));
    cpu.store::<K::M>(addr, K::get(cpu, i.rd), acc)?;
    A::write_back(cpu, i, addr);
    Ok(Flow::Next)
}

#[inline(always)]
fn load_pair<K: Kind, A: Address>(cpu: &mut Cpu, i: &Insn) -> Exec {
    begin::<K>(cpu, i)?;
    let addr = A::of(cpu, i);
    let (a, b) = cpu.load_pair::<K::M>(addr)?;
    // Rt = Rt2 is CONSTRAINED UNPREDICTABLE; which value stays is as in QEMU.
    if K::FP {
        K::put(cpu, i.rd, a);
        K::put(cpu, i.ra, b);
    } else {
        K::put(cpu, i.ra, b);
        K::put(cpu, i.rd, a);
    }
    A::write_back(cpu, i, addr);
    Ok(Flow::Next)
}

#[inline(always)]
fn store_pair<K: Kind, A: Address>(cpu: &mut Cpu, i: &Insn) -> Exec {
    begin::<K>(cpu, i)?;
    let addr = A::of(cpu, i);
    cpu.store_pair::<K::M>(addr, K::get(cpu, i.rd), K::get(cpu, i.ra))?;
    A::write_back(cpu, i, addr);
    Ok(Flow::Next)
}

#[inline(always)]
fn load_literal<K: Kind>(cpu: &mut Cpu, i: &Insn) -> Exec {
    if K::FP {
        cpu.fp_access()?;
    }
    let v = cpu.load::<K::M>(cpu.state.pc.wrapping_add(i.imm), Acc::NORMAL)?;
    K::put(cpu, i.rd, v);
    Ok(Flow::Next)
}

fn load_authenticated(cpu: &mut Cpu, i: &Insn, key: Key) -> Exec {
    cpu.check_sp_align(i.rn)?;
    let p = cpu.state.xr(i.rn);
    let addr = cpu.pac_auth(key, p, 0, true)?.wrapping_add(i.imm);
    let v = cpu.load::<u64>(addr, Acc::NORMAL)?;
    put_x(cpu, i.rd, v);
    if i.bit(11) {
        put_x(cpu, i.rn, addr);
    }
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
    strb_off = store::<U8, Offset>;
    strb_pre = store::<U8, Pre>;
    strb_post = store::<U8, Post>;
    strb_reg = store::<U8, Register>;
    sturb = store::<U8, Offset>;
    sttrb = store::<U8, Unprivileged>;
    ldrb_off = load::<U8, Offset>;
    ldrb_pre = load::<U8, Pre>;
    ldrb_post = load::<U8, Post>;
    ldrb_reg = load::<U8, Register>;
    ldurb = load::<U8, Offset>;
    ldtrb = load::<U8, Unprivileged>;
    ldrsb_x_off = load::<S8X, Offset>;
    ldrsb_x_pre = load::<S8X, Pre>;
    ldrsb_x_post = load::<S8X, Post>;
    ldrsb_x_reg = load::<S8X, Register>;
    ldursb_x = load::<S8X, Offset>;
    ldtrsb_x = load::<S8X, Unprivileged>;
    ldrsb_w_off = load::<S8W, Offset>;
    ldrsb_w_pre = load::<S8W, Pre>;
    ldrsb_w_post = load::<S8W, Post>;
    ldrsb_w_reg = load::<S8W, Register>;
    ldursb_w = load::<S8W, Offset>;
    ldtrsb_w = load::<S8W, Unprivileged>;
    strh_off = store::<U16, Offset>;
    strh_pre = store::<U16, Pre>;
    strh_post = store::<U16, Post>;
    strh_reg = store::<U16, Register>;
    sturh = store::<U16, Offset>;
    sttrh = store::<U16, Unprivileged>;
    ldrh_off = load::<U16, Offset>;
    ldrh_pre = load::<U16, Pre>;
    ldrh_post = load::<U16, Post>;
    ldrh_reg = load::<U16, Register>;
    ldurh = load::<U16, Offset>;
    ldtrh = load::<U16, Unprivileged>;
    ldrsh_x_off = load::<S16X, Offset>;
    ldrsh_x_pre = load::<S16X, Pre>;
    ldrsh_x_post = load::<S16X, Post>;
    ldrsh_x_reg = load::<S16X, Register>;
    ldursh_x = load::<S16X, Offset>;
    ldtrsh_x = load::<S16X, Unprivileged>;
    ldrsh_w_off = load::<S16W, Offset>;
    ldrsh_w_pre = load::<S16W, Pre>;
    ldrsh_w_post = load::<S16W, Post>;
    ldrsh_w_reg = load::<S16W, Register>;
    ldursh_w = load::<S16W, Offset>;
    ldtrsh_w = load::<S16W, Unprivileged>;
    str_w_off = store::<U32, Offset>;
    str_w_pre = store::<U32, Pre>;
    str_w_post = store::<U32, Post>;
    str_w_reg = store::<U32, Register>;
    stur_w = store::<U32, Offset>;
    sttr_w = store::<U32, Unprivileged>;
    ldr_w_off = load::<U32, Offset>;
    ldr_w_pre = load::<U32, Pre>;
    ldr_w_post = load::<U32, Post>;
    ldr_w_reg = load::<U32, Register>;
    ldur_w = load::<U32, Offset>;
    ldtr_w = load::<U32, Unprivileged>;
    ldrsw_off = load::<S32X, Offset>;
    ldrsw_pre = load::<S32X, Pre>;
    ldrsw_post = load::<S32X, Post>;
    ldrsw_reg = load::<S32X, Register>;
    ldursw = load::<S32X, Offset>;
    ldtrsw = load::<S32X, Unprivileged>;
    str_x_off = store::<U64, Offset>;
    str_x_pre = store::<U64, Pre>;
    str_x_post = store::<U64, Post>;
    str_x_reg = store::<U64, Register>;
    stur_x = store::<U64, Offset>;
    sttr_x = store::<U64, Unprivileged>;
    ldr_x_off = load::<U64, Offset>;
    ldr_x_pre = load::<U64, Pre>;
    ldr_x_post = load::<U64, Post>;
    ldr_x_reg = load::<U64, Register>;
    ldur_x = load::<U64, Offset>;
    ldtr_x = load::<U64, Unprivileged>;
    str_b_off = store::<B, Offset>;
    str_b_pre = store::<B, Pre>;
    str_b_post = store::<B, Post>;
    str_b_reg = store::<B, Register>;
    stur_b = store::<B, Offset>;
    ldr_b_off = load::<B, Offset>;
    ldr_b_pre = load::<B, Pre>;
    ldr_b_post = load::<B, Post>;
    ldr_b_reg = load::<B, Register>;
    ldur_b = load::<B, Offset>;
    str_h_off = store::<H, Offset>;
    str_h_pre = store::<H, Pre>;
    str_h_post = store::<H, Post>;
    str_h_reg = store::<H, Register>;
    stur_h = store::<H, Offset>;
    ldr_h_off = load::<H, Offset>;
    ldr_h_pre = load::<H, Pre>;
    ldr_h_post = load::<H, Post>;
    ldr_h_reg = load::<H, Register>;
    ldur_h = load::<H, Offset>;
    str_s_off = store::<S, Offset>;
    str_s_pre = store::<S, Pre>;
    str_s_post = store::<S, Post>;
    str_s_reg = store::<S, Register>;
    stur_s = store::<S, Offset>;
    ldr_s_off = load::<S, Offset>;
    ldr_s_pre = load::<S, Pre>;
    ldr_s_post = load::<S, Post>;
    ldr_s_reg = load::<S, Register>;
    ldur_s = load::<S, Offset>;
    str_d_off = store::<D, Offset>;
    str_d_pre = store::<D, Pre>;
    str_d_post = store::<D, Post>;
    str_d_reg = store::<D, Register>;
    stur_d = store::<D, Offset>;
    ldr_d_off = load::<D, Offset>;
    ldr_d_pre = load::<D, Pre>;
    ldr_d_post = load::<D, Post>;
    ldr_d_reg = load::<D, Register>;
    ldur_d = load::<D, Offset>;
    str_q_off = store::<Q, Offset>;
    str_q_pre = store::<Q, Pre>;
    str_q_post = store::<Q, Post>;
    str_q_reg = store::<Q, Register>;
    stur_q = store::<Q, Offset>;
    ldr_q_off = load::<Q, Offset>;
    ldr_q_pre = load::<Q, Pre>;
    ldr_q_post = load::<Q, Post>;
    ldr_q_reg = load::<Q, Register>;
    ldur_q = load::<Q, Offset>;
    ldr_w_lit = load_literal::<U32>;
    ldr_x_lit = load_literal::<U64>;
    ldrsw_lit = load_literal::<S32X>;
    ldr_s_lit = load_literal::<S>;
    ldr_d_lit = load_literal::<D>;
    ldr_q_lit = load_literal::<Q>;
    stp_w_off = store_pair::<U32, Offset>;
    ldp_w_off = load_pair::<U32, Offset>;
    stp_x_off = store_pair::<U64, Offset>;
    ldp_x_off = load_pair::<U64, Offset>;
    stp_s_off = store_pair::<S, Offset>;
    ldp_s_off = load_pair::<S, Offset>;
    stp_d_off = store_pair::<D, Offset>;
    ldp_d_off = load_pair::<D, Offset>;
    stp_q_off = store_pair::<Q, Offset>;
    ldp_q_off = load_pair::<Q, Offset>;
    ldpsw_off = load_pair::<S32X, Offset>;
    stp_w_pre = store_pair::<U32, Pre>;
    ldp_w_pre = load_pair::<U32, Pre>;
    stp_x_pre = store_pair::<U64, Pre>;
    ldp_x_pre = load_pair::<U64, Pre>;
    stp_s_pre = store_pair::<S, Pre>;
    ldp_s_pre = load_pair::<S, Pre>;
    stp_d_pre = store_pair::<D, Pre>;
    ldp_d_pre = load_pair::<D, Pre>;
    stp_q_pre = store_pair::<Q, Pre>;
    ldp_q_pre = load_pair::<Q, Pre>;
    ldpsw_pre = load_pair::<S32X, Pre>;
    stp_w_post = store_pair::<U32, Post>;
    ldp_w_post = load_pair::<U32, Post>;
    stp_x_post = store_pair::<U64, Post>;
    ldp_x_post = load_pair::<U64, Post>;
    stp_s_post = store_pair::<S, Post>;
    ldp_s_post = load_pair::<S, Post>;
    stp_d_post = store_pair::<D, Post>;
    ldp_d_post = load_pair::<D, Post>;
    stp_q_post = store_pair::<Q, Post>;
    ldp_q_post = load_pair::<Q, Post>;
    ldpsw_post = load_pair::<S32X, Post>;
    stnp_w = store_pair::<U32, Offset>;
    ldnp_w = load_pair::<U32, Offset>;
    stnp_x = store_pair::<U64, Offset>;
    ldnp_x = load_pair::<U64, Offset>;
    stnp_s = store_pair::<S, Offset>;
    ldnp_s = load_pair::<S, Offset>;
    stnp_d = store_pair::<D, Offset>;
    ldnp_d = load_pair::<D, Offset>;
    stnp_q = store_pair::<Q, Offset>;
    ldnp_q = load_pair::<Q, Offset>;
}

pub(crate) fn ldraa(cpu: &mut Cpu, i: &Insn) -> Exec {
    load_authenticated(cpu, i, Key::DA)
}
pub(crate) fn ldrab(cpu: &mut Cpu, i: &Insn) -> Exec {
    load_authenticated(cpu, i, Key::DB)
}

// Prefetches are hints.

pub(crate) fn prfm_imm(_: &mut Cpu, _: &Insn) -> Exec {
    Ok(Flow::Next)
}
pub(crate) fn prfm_reg(_: &mut Cpu, _: &Insn) -> Exec {
    Ok(Flow::Next)
}
pub(crate) fn prfm_lit(_: &mut Cpu, _: &Insn) -> Exec {
    Ok(Flow::Next)
}
pub(crate) fn prfum(_: &mut Cpu, _: &Insn) -> Exec {
    Ok(Flow::Next)
}
