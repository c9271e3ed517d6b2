//! Data processing with registers (Arm ARM C4.1.95).
//!
//! An operation is a type with [`Alu::run`]; handlers are its instances for either width and, for shifted operands, each
//! kind of shift. `prep` chooses; the handler named in the table is the 64-bit one without a shift.

use crate::cpu::Cpu;
use crate::decode::Op;
use crate::insn::{Exec, Flow, Handler, Insn};
use crate::interp::crc32;
use crate::interp::dp_imm::reserve;
use crate::interp::operand::{Reg, dest, nzcv, or_sp, put_x};

pub(crate) use crate::interp::operand::rd_zr;

trait Alu {
    fn run<T: Reg>(cpu: &mut Cpu, rd: u8, a: T, b: T);
}

macro_rules! alu {
    ($($name:ident |$a:ident, $b:ident| $result:expr $(, flags $flags:expr)?;)*) => { $(
        struct $name;
        impl Alu for $name {
            #[inline(always)]
            fn run<T: Reg>(cpu: &mut Cpu, rd: u8, $a: T, $b: T) {
                $(cpu.state.nzcv = $flags;)?
                T::put(cpu, rd, $result);
            }
        }
    )* };
}
alu! {
    Add |a, b| a.plus(b);
    Adds |a, b| a.plus(b), flags a.add_flags(b);
    Sub |a, b| a.minus(b);
    Subs |a, b| a.minus(b), flags a.sub_flags(b);
    And |a, b| a.and(b);
    Bic |a, b| a.and(b.not());
    Orr |a, b| a.or(b);
    Orn |a, b| a.or(b.not());
    Eor |a, b| a.eor(b);
    Eon |a, b| a.eor(b.not());
    Ands |a, b| a.and(b), flags a.and(b).logic_flags();
    Bics |a, b| a.and(b.not()), flags a.and(b.not()).logic_flags();
    Udiv |a, b| a.udiv(b);
    Sdiv |a, b| a.sdiv(b);
    Lslv |a, b| a.lsl(b.to_u64() as u32);
    Lsrv |a, b| a.lsr(b.to_u64() as u32);
    Asrv |a, b| a.asr(b.to_u64() as u32);
    Rorv |a, b| a.ror(b.to_u64() as u32);
    // One source, in Rn.
    Rbit |a, _b| a.rbit();
    Clz |a, _b| a.clz();
    Cls |a, _b| a.cls();
}

// Shifted register.

const LSL: u8 = 0;
const LSR: u8 = 1;
const ASR: u8 = 2;
const ROR: u8 = 3;
const PLAIN: u8 = 4;

#[inline(always)]
fn shifted<A: Alu, T: Reg, const SHIFT: u8>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let (a, b, n) = (T::get(cpu, i.rn), T::get(cpu, i.rm), u32::from(i.aux));
    let b = match SHIFT {
        LSL => b.lsl(n),
        LSR => b.lsr(n),
        ASR => b.asr(n),
        ROR => b.ror(n),
        _ => b,
    };
    A::run(cpu, i.rd, a, b);
    Ok(Flow::Next)
}

fn by_shift<A: Alu>(i: &Insn) -> Handler {
    fn width<A: Alu, T: Reg>(shift: u8) -> Handler {
        match shift {
            LSL => shifted::<A, T, LSL>,
            LSR => shifted::<A, T, LSR>,
            ASR => shifted::<A, T, ASR>,
            ROR => shifted::<A, T, ROR>,
            _ => shifted::<A, T, PLAIN>,
        }
    }
    let shift = if i.aux == 0 { PLAIN } else { i.bits(22, 2) as u8 };
    if i.bit(31) { width::<A, u64>(shift) } else { width::<A, u32>(shift) }
}

pub(crate) fn shifted_reg(i: &mut Insn) {
    i.aux = i.bits(10, 6) as u8;
    i.rd = dest(i.rd);
    let add_sub = i.bits(24, 5) == 0b01011;
    if (!i.bit(31) && i.aux >= 32) || (add_sub && i.bits(22, 2) == u32::from(ROR)) {
        reserve(i);
        return;
    }
    i.exec = match i.op {
        Op::ADD_shift => by_shift::<Add>(i),
        Op::ADDS_shift => by_shift::<Adds>(i),
        Op::SUB_shift => by_shift::<Sub>(i),
        Op::SUBS_shift => by_shift::<Subs>(i),
        Op::AND_shift => by_shift::<And>(i),
        Op::BIC_shift => by_shift::<Bic>(i),
        // MOV (register) is ORR with XZR.
        Op::ORR_shift if i.rn == 31 && i.aux == 0 && i.bit(31) => mov_x,
        Op::ORR_shift => by_shift::<Orr>(i),
        Op::ORN_shift => by_shift::<Orn>(i),
        Op::EOR_shift => by_shift::<Eor>(i),
        Op::EON_shift => by_shift::<Eon>(i),
        Op::ANDS_shift => by_shift::<Ands>(i),
        _ => by_shift::<Bics>(i),
    };
}

fn mov_x(cpu: &mut Cpu, i: &Insn) -> Exec {
    let v = cpu.state.xr(i.rm);
    put_x(cpu, i.rd, v);
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
    and_shift = shifted::<And, u64, PLAIN>;
    bic_shift = shifted::<Bic, u64, PLAIN>;
    orr_shift = shifted::<Orr, u64, PLAIN>;
    orn_shift = shifted::<Orn, u64, PLAIN>;
    eor_shift = shifted::<Eor, u64, PLAIN>;
    eon_shift = shifted::<Eon, u64, PLAIN>;
    ands_shift = shifted::<Ands, u64, PLAIN>;
    bics_shift = shifted::<Bics, u64, PLAIN>;
    add_shift = shifted::<Add, u64, PLAIN>;
    adds_shift = shifted::<Adds, u64, PLAIN>;
    sub_shift = shifted::<Sub, u64, PLAIN>;
    subs_shift = shifted::<Subs, u64, PLAIN>;
}

// Extended register: the second operand is (x << imm >> rm') with rm' chosen so that the shifts extend it; `aux` is the
// final shift, `imm` the extension in bits.

pub(crate) fn extended_reg(i: &mut Insn) {
    let (option, shift) = (i.bits(13, 3), i.bits(10, 3));
    if shift > 4 {
        reserve(i);
        return;
    }
    i.rn = or_sp(i.rn);
    i.rd = if i.bit(29) { dest(i.rd) } else { or_sp(i.rd) };
    // Bits dropped on the left by the extension.
    i.imm = u64::from(64 - (8u32 << (option & 3)));
    i.aux = shift as u8;
    fn pick<A: Alu>(is64: bool, signed: bool) -> Handler {
        match (is64, signed) {
            (true, true) => extended::<A, u64, true>,
            (true, false) => extended::<A, u64, false>,
            (false, true) => extended::<A, u32, true>,
            (false, false) => extended::<A, u32, false>,
        }
    }
    let (is64, signed) = (i.bit(31), option & 4 != 0);
    i.exec = match i.op {
        Op::ADD_ext => pick::<Add>(is64, signed),
        Op::ADDS_ext => pick::<Adds>(is64, signed),
        Op::SUB_ext => pick::<Sub>(is64, signed),
        _ => pick::<Subs>(is64, signed),
    };
}

#[inline(always)]
fn extended<A: Alu, T: Reg, const SIGNED: bool>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let drop = i.imm as u32 & 63;
    let up = cpu.state.xr(i.rm) << drop;
    let v = if SIGNED { ((up as i64) >> drop) as u64 } else { up >> drop };
    let (a, b) = (T::get(cpu, i.rn), T::from_u64(v << (i.aux & 7)));
    A::run(cpu, i.rd, a, b);
    Ok(Flow::Next)
}

named! {
    add_ext = extended::<Add, u64, false>;
    adds_ext = extended::<Adds, u64, false>;
    sub_ext = extended::<Sub, u64, false>;
    subs_ext = extended::<Subs, u64, false>;
}

// The rest: one handler for each width.

pub(crate) fn by_width(i: &mut Insn) {
    i.aux = i.bits(12, 4) as u8;
    if matches!(i.op, Op::CCMN_reg | Op::CCMN_imm | Op::CCMP_reg | Op::CCMP_imm) {
        // The flags when the condition fails.
        i.imm = u64::from(i.bits(0, 4)) << 28;
    } else {
        i.rd = dest(i.rd);
    }
    if i.bit(31) {
        return;
    }
    i.exec = match i.op {
        Op::ADC => carry::<u32, false, false>,
        Op::ADCS => carry::<u32, false, true>,
        Op::SBC => carry::<u32, true, false>,
        Op::SBCS => carry::<u32, true, true>,
        Op::CCMN_reg => cond_compare::<u32, false, false>,
        Op::CCMN_imm => cond_compare::<u32, false, true>,
        Op::CCMP_reg => cond_compare::<u32, true, false>,
        Op::CCMP_imm => cond_compare::<u32, true, true>,
        Op::CSEL => select::<u32, false, false>,
        Op::CSINC => select::<u32, false, true>,
        Op::CSINV => select::<u32, true, false>,
        Op::CSNEG => select::<u32, true, true>,
        Op::RBIT => shifted::<Rbit, u32, PLAIN>,
        Op::REV16 => rev16_w,
        Op::CLZ => shifted::<Clz, u32, PLAIN>,
        Op::CLS => shifted::<Cls, u32, PLAIN>,
        Op::UDIV => shifted::<Udiv, u32, PLAIN>,
        Op::SDIV => shifted::<Sdiv, u32, PLAIN>,
        Op::LSLV => shifted::<Lslv, u32, PLAIN>,
        Op::LSRV => shifted::<Lsrv, u32, PLAIN>,
        Op::ASRV => shifted::<Asrv, u32, PLAIN>,
        Op::RORV => shifted::<Rorv, u32, PLAIN>,
        Op::MADD => multiply::<u32, false>,
        Op::MSUB => multiply::<u32, true>,
        // REV of a W register has a line of its own.
        _ => i.exec,
    };
}

#[inline(always)]
fn carry<T: Reg, const SUB: bool, const FLAGS: bool>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let (a, b) = (T::get(cpu, i.rn), T::get(cpu, i.rm));
    let b = if SUB { b.not() } else { b };
    let (r, f) = a.add_carry(b, cpu.state.nzcv >> 29 & 1 != 0);
    if FLAGS {
        cpu.state.nzcv = f;
    }
    T::put(cpu, i.rd, r);
    Ok(Flow::Next)
}

#[inline(always)]
fn cond_compare<T: Reg, const SUB: bool, const IMM: bool>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let a = T::get(cpu, i.rn);
    let b = if IMM { T::from_u32(u32::from(i.rm)) } else { T::get(cpu, i.rm) };
    let f = if SUB { a.sub_flags(b) } else { a.add_flags(b) };
    cpu.state.nzcv = if cpu.state.cond(i.aux) { f } else { i.imm as u32 };
    Ok(Flow::Next)
}

#[inline(always)]
fn select<T: Reg, const INV: bool, const INC: bool>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let (a, b) = (T::get(cpu, i.rn), T::get(cpu, i.rm));
    let b = if INV { b.not() } else { b };
    let b = if INC { b.plus(T::from_u32(1)) } else { b };
    let r = if cpu.state.cond(i.aux) { a } else { b };
    T::put(cpu, i.rd, r);
    Ok(Flow::Next)
}

#[inline(always)]
fn multiply<T: Reg, const SUB: bool>(cpu: &mut Cpu, i: &Insn) -> Exec {
    let (p, c) = (T::get(cpu, i.rn).times(T::get(cpu, i.rm)), T::get(cpu, i.ra));
    T::put(cpu, i.rd, if SUB { c.minus(p) } else { c.plus(p) });
    Ok(Flow::Next)
}

named! {
    adc = carry::<u64, false, false>;
    adcs = carry::<u64, false, true>;
    sbc = carry::<u64, true, false>;
    sbcs = carry::<u64, true, true>;
    ccmn_reg = cond_compare::<u64, false, false>;
    ccmn_imm = cond_compare::<u64, false, true>;
    ccmp_reg = cond_compare::<u64, true, false>;
    ccmp_imm = cond_compare::<u64, true, true>;
    csel = select::<u64, false, false>;
    csinc = select::<u64, false, true>;
    csinv = select::<u64, true, false>;
    csneg = select::<u64, true, true>;
    rbit = shifted::<Rbit, u64, PLAIN>;
    clz = shifted::<Clz, u64, PLAIN>;
    cls = shifted::<Cls, u64, PLAIN>;
    udiv = shifted::<Udiv, u64, PLAIN>;
    sdiv = shifted::<Sdiv, u64, PLAIN>;
    lslv = shifted::<Lslv, u64, PLAIN>;
    lsrv = shifted::<Lsrv, u64, PLAIN>;
    asrv = shifted::<Asrv, u64, PLAIN>;
    rorv = shifted::<Rorv, u64, PLAIN>;
    madd = multiply::<u64, false>;
    msub = multiply::<u64, true>;
}

/// Writes a result computed from Rn.
#[inline(always)]
fn unary(cpu: &mut Cpu, i: &Insn, f: impl Fn(u64) -> u64) -> Exec {
    let v = f(cpu.state.xr(i.rn));
    put_x(cpu, i.rd, v);
    Ok(Flow::Next)
}

fn swap_bytes_of_halfwords(v: u64) -> u64 {
    (v & 0x00ff_00ff_00ff_00ff) << 8 | v >> 8 & 0x00ff_00ff_00ff_00ff
}

pub(crate) fn rev16(cpu: &mut Cpu, i: &Insn) -> Exec {
    unary(cpu, i, swap_bytes_of_halfwords)
}
fn rev16_w(cpu: &mut Cpu, i: &Insn) -> Exec {
    unary(cpu, i, |v| swap_bytes_of_halfwords(v & 0xffff_ffff))
}
pub(crate) fn rev_w(cpu: &mut Cpu, i: &Insn) -> Exec {
    unary(cpu, i, |v| u64::from((v as u32).swap_bytes()))
}
pub(crate) fn rev32(cpu: &mut Cpu, i: &Insn) -> Exec {
    unary(cpu, i, |v| v.swap_bytes().rotate_left(32))
}
pub(crate) fn rev_x(cpu: &mut Cpu, i: &Insn) -> Exec {
    unary(cpu, i, u64::swap_bytes)
}

/// Multiply with a 64-bit sum.
#[inline(always)]
fn long(cpu: &mut Cpu, i: &Insn, f: impl Fn(u64, u64, u64) -> u64) -> Exec {
    let v = f(cpu.state.xr(i.rn), cpu.state.xr(i.rm), cpu.state.xr(i.ra));
    put_x(cpu, i.rd, v);
    Ok(Flow::Next)
}

#[inline(always)]
fn signed_product(n: u64, m: u64) -> u64 {
    (i64::from(n as i32) * i64::from(m as i32)) as u64
}

#[inline(always)]
fn unsigned_product(n: u64, m: u64) -> u64 {
    u64::from(n as u32) * u64::from(m as u32)
}

pub(crate) fn smaddl(cpu: &mut Cpu, i: &Insn) -> Exec {
    long(cpu, i, |n, m, a| a.wrapping_add(signed_product(n, m)))
}
pub(crate) fn smsubl(cpu: &mut Cpu, i: &Insn) -> Exec {
    long(cpu, i, |n, m, a| a.wrapping_sub(signed_product(n, m)))
}
pub(crate) fn umaddl(cpu: &mut Cpu, i: &Insn) -> Exec {
    long(cpu, i, |n, m, a| a.wrapping_add(unsigned_product(n, m)))
}
pub(crate) fn umsubl(cpu: &mut Cpu, i: &Insn) -> Exec {
    long(cpu, i, |n, m, a| a.wrapping_sub(unsigned_product(n, m)))
}
pub(crate) fn smulh(cpu: &mut Cpu, i: &Insn) -> Exec {
    long(cpu, i, |n, m, _| ((i128::from(n as i64) * i128::from(m as i64)) >> 64) as u64)
}
pub(crate) fn umulh(cpu: &mut Cpu, i: &Insn) -> Exec {
    long(cpu, i, |n, m, _| ((u128::from(n) * u128::from(m)) >> 64) as u64)
}

// CRC32: the accumulator is in Wn, the data in Rm.

#[inline(always)]
fn checksum(cpu: &mut Cpu, i: &Insn, table: &crc32::Table, bytes: u32) -> Exec {
    let v = crc32::update(table, cpu.state.wr(i.rn), cpu.state.xr(i.rm), bytes);
    put_x(cpu, i.rd, v.into());
    Ok(Flow::Next)
}

pub(crate) fn crc32b(cpu: &mut Cpu, i: &Insn) -> Exec {
    checksum(cpu, i, &crc32::IEEE, 1)
}
pub(crate) fn crc32h(cpu: &mut Cpu, i: &Insn) -> Exec {
    checksum(cpu, i, &crc32::IEEE, 2)
}
pub(crate) fn crc32w(cpu: &mut Cpu, i: &Insn) -> Exec {
    checksum(cpu, i, &crc32::IEEE, 4)
}
pub(crate) fn crc32x(cpu: &mut Cpu, i: &Insn) -> Exec {
    checksum(cpu, i, &crc32::IEEE, 8)
}
pub(crate) fn crc32cb(cpu: &mut Cpu, i: &Insn) -> Exec {
    checksum(cpu, i, &crc32::CASTAGNOLI, 1)
}
pub(crate) fn crc32ch(cpu: &mut Cpu, i: &Insn) -> Exec {
    checksum(cpu, i, &crc32::CASTAGNOLI, 2)
}
pub(crate) fn crc32cw(cpu: &mut Cpu, i: &Insn) -> Exec {
    checksum(cpu, i, &crc32::CASTAGNOLI, 4)
}
pub(crate) fn crc32cx(cpu: &mut Cpu, i: &Insn) -> Exec {
    checksum(cpu, i, &crc32::CASTAGNOLI, 8)
}

// Flag manipulation.

/// RMIF: rotates and inserts into the flags that the mask selects.
pub(crate) fn rmif(cpu: &mut Cpu, i: &Insn) -> Exec {
    let v = (cpu.state.xr(i.rn).rotate_right(i.bits(15, 6)) as u32) << 28;
    let mask = i.bits(0, 4) << 28;
    cpu.state.nzcv = cpu.state.nzcv & !mask | v & mask;
    Ok(Flow::Next)
}

/// SETF8, SETF16: C stays.
#[inline(always)]
fn set_flags(cpu: &mut Cpu, i: &Insn, bits: u32) -> Exec {
    let v = cpu.state.wr(i.rn);
    let low = v & ((1 << bits) - 1);
    let n = v >> (bits - 1) & 1 != 0;
    let c = cpu.state.nzcv >> 29 & 1 != 0;
    cpu.state.nzcv = nzcv(n, low == 0, c, (v >> bits & 1 != 0) != n);
    Ok(Flow::Next)
}

pub(crate) fn setf8(cpu: &mut Cpu, i: &Insn) -> Exec {
    set_flags(cpu, i, 8)
}

pub(crate) fn setf16(cpu: &mut Cpu, i: &Insn) -> Exec {
    set_flags(cpu, i, 16)
}

pub(crate) fn cfinv(cpu: &mut Cpu, _: &Insn) -> Exec {
    cpu.state.nzcv ^= crate::state::nzcv::C;
    Ok(Flow::Next)
}

fn zcv(cpu: &Cpu) -> (bool, bool, bool) {
    let f = cpu.state.nzcv;
    (f >> 30 & 1 != 0, f >> 29 & 1 != 0, f >> 28 & 1 != 0)
}

/// Flags of an FP comparison, from the alternative format to Arm's.
pub(crate) fn xaflag(cpu: &mut Cpu, _: &Insn) -> Exec {
    let (z, c, _) = zcv(cpu);
    cpu.state.nzcv = nzcv(!c && !z, z && c, c || z, !c && z);
    Ok(Flow::Next)
}

/// And back.
pub(crate) fn axflag(cpu: &mut Cpu, _: &Insn) -> Exec {
    let (z, c, v) = zcv(cpu);
    cpu.state.nzcv = nzcv(false, z || v, c && !v, false);
    Ok(Flow::Next)
}
