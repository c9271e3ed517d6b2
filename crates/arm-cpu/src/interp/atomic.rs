//! Atomic memory operations and compare-and-swap (FEAT_LSE), done with host atomics that are sequentially consistent:
//! stronger than any of the acquire and release forms.

use crate::cpu::Cpu;
use crate::decode::Op;
use crate::insn::{Exec, Flow, Insn};
use crate::interp::ldst_ex::{From64, cas_pair};
use crate::interp::operand::{dest, or_sp, put_x};
use crate::mem::attr::Acc;
use crate::mem::int::AtomicInt;

/// What becomes of the old value `a` and the operand `b`.
trait Rmw {
    fn f<T: Int>(a: T, b: T) -> T;
}

/// Arithmetic that the operations need, at every size.
trait Int: AtomicInt + From64 + Into<u64> {
    fn add(self, b: Self) -> Self;
    fn clr(self, b: Self) -> Self;
    fn eor(self, b: Self) -> Self;
    fn set(self, b: Self) -> Self;
    fn smax(self, b: Self) -> Self;
    fn smin(self, b: Self) -> Self;
    fn umax(self, b: Self) -> Self;
    fn umin(self, b: Self) -> Self;
}

macro_rules! int {
    ($($u:ty, $s:ty;)*) => { $(
        impl Int for $u {
            #[inline(always)]
            fn add(self, b: Self) -> Self {
                self.wrapping_add(b)
            }
            #[inline(always)]
            fn clr(self, b: Self) -> Self {
                self & !b
            }
            #[inline(always)]
            fn eor(self, b: Self) -> Self {
                self ^ b
            }
            #[inline(always)]
            fn set(self, b: Self) -> Self {
                self | b
            }
            #[inline(always)]
            fn smax(self, b: Self) -> Self {
                (self as $s).max(b as $s) as $u
            }
            #[inline(always)]
            fn smin(self, b: Self) -> Self {
                (self as $s).min(b as $s) as $u
            }
            #[inline(always)]
            fn umax(self, b: Self) -> Self {
                self.max(b)
            }
            #[inline(always)]
            fn umin(self, b: Self) -> Self {
                self.min(b)
            }
        }
    )* };
}
int! { u8, i8; u16, i16; u32, i32; u64, i64; }

macro_rules! rmw {
    ($($name:ident |$a:ident, $b:ident| $result:expr;)*) => { $(
        struct $name;
        impl Rmw for $name {
            #[inline(always)]
            fn f<T: Int>($a: T, $b: T) -> T {
                $result
            }
        }
    )* };
}
rmw! {
    Add |a, b| a.add(b);
    Clr |a, b| a.clr(b);
    Eor |a, b| a.eor(b);
    Set |a, b| a.set(b);
    Smax |a, b| a.smax(b);
    Smin |a, b| a.smin(b);
    Umax |a, b| a.umax(b);
    Umin |a, b| a.umin(b);
    Swap |_a, b| b;
}

pub(crate) fn atomic(i: &mut Insn) {
    i.rn = or_sp(i.rn);
    let loads_rt = !matches!(i.op, Op::CASB | Op::CASH | Op::CAS | Op::CASP);
    if loads_rt {
        i.rd = dest(i.rd);
    }
    let is64 = i.bit(30);
    i.exec = match i.op {
        Op::CASP if is64 => cas_pair::<true>,
        Op::CASP => cas_pair::<false>,
        _ if is64 => i.exec,
        Op::LDADD => rmw::<u32, Add>,
        Op::LDCLR => rmw::<u32, Clr>,
        Op::LDEOR => rmw::<u32, Eor>,
        Op::LDSET => rmw::<u32, Set>,
        Op::LDSMAX => rmw::<u32, Smax>,
        Op::LDSMIN => rmw::<u32, Smin>,
        Op::LDUMAX => rmw::<u32, Umax>,
        Op::LDUMIN => rmw::<u32, Umin>,
        Op::SWP => rmw::<u32, Swap>,
        Op::CAS => compare_swap::<u32>,
        _ => i.exec,
    };
}

#[inline(always)]
fn rmw<T: Int, F: Rmw>(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.check_sp_align(i.rn)?;
    let b = T::truncate(cpu.state.xr(i.rm));
    let old: T = cpu.rmw(cpu.state.xr(i.rn), Acc::ATOMIC, |a| F::f(a, b))?;
    put_x(cpu, i.rd, old.into());
    Ok(Flow::Next)
}

#[inline(always)]
fn compare_swap<T: Int>(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.check_sp_align(i.rn)?;
    let (expected, new) = (T::truncate(cpu.state.xr(i.rm)), T::truncate(cpu.state.xr(i.rd)));
    let old: T = cpu.cas(cpu.state.xr(i.rn), expected, new, Acc::ATOMIC)?;
    put_x(cpu, dest(i.rm), old.into());
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
    ldaddb = rmw::<u8, Add>;
    ldaddh = rmw::<u16, Add>;
    ldadd = rmw::<u64, Add>;
    ldclrb = rmw::<u8, Clr>;
    ldclrh = rmw::<u16, Clr>;
    ldclr = rmw::<u64, Clr>;
    ldeorb = rmw::<u8, Eor>;
    ldeorh = rmw::<u16, Eor>;
    ldeor = rmw::<u64, Eor>;
    ldsetb = rmw::<u8, Set>;
    ldseth = rmw::<u16, Set>;
    ldset = rmw::<u64, Set>;
    ldsmaxb = rmw::<u8, Smax>;
    ldsmaxh = rmw::<u16, Smax>;
    ldsmax = rmw::<u64, Smax>;
    ldsminb = rmw::<u8, Smin>;
    ldsminh = rmw::<u16, Smin>;
    ldsmin = rmw::<u64, Smin>;
    ldumaxb = rmw::<u8, Umax>;
    ldumaxh = rmw::<u16, Umax>;
    ldumax = rmw::<u64, Umax>;
    lduminb = rmw::<u8, Umin>;
    lduminh = rmw::<u16, Umin>;
    ldumin = rmw::<u64, Umin>;
    swpb = rmw::<u8, Swap>;
    swph = rmw::<u16, Swap>;
    swp = rmw::<u64, Swap>;
    casb = compare_swap::<u8>;
    cash = compare_swap::<u16>;
    cas = compare_swap::<u64>;
    casp = cas_pair::<true>;
}
