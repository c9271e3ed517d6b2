//! Where generated code finds things: offsets from RBP, which registers of the guest stand in registers of the host, and
//! the format of flags in memory.

use std::mem::offset_of;

use super::asm::{Cc, Mem, Reg, r};
use super::vex::Xmm;
use crate::SysReg;
use crate::cpu::Cpu;
use crate::jit::Hot;
use crate::state::{CpuState, nzcv};

/// RBP points this far into [`Cpu`], so that X0 to X30 have one-byte displacements.
pub const BIAS: usize = offset_of!(Cpu, state) + offset_of!(CpuState, x) + 128;
/// The base of guest state.
pub const STATE: Reg = r::RBP;
/// Address of the first-level TLB.
pub const TLB: Reg = r::R14;
/// Instructions until `run` must look at its limits.
pub const FUEL: Reg = r::R15;

const fn at(offset_in_cpu: usize) -> Mem {
    Mem::at(STATE, offset_in_cpu as i32 - BIAS as i32)
}

const fn hot(offset: usize) -> Mem {
    at(offset_of!(Cpu, jit.hot) + offset)
}

/// A general-purpose register in memory, by index in `CpuState::x`.
pub const fn x(n: u8) -> Mem {
    at(offset_of!(Cpu, state) + offset_of!(CpuState, x) + 8 * n as usize)
}
/// A vector register in memory.
pub const fn v_home(n: u8) -> Mem {
    at(offset_of!(Cpu, state) + offset_of!(CpuState, v) + 16 * n as usize)
}
/// System register storage.
pub fn sys(r: SysReg) -> Mem {
    at(offset_of!(Cpu, state) + offset_of!(CpuState, sys) + 8 * r as usize)
}
/// PC.
pub const PC: Mem = at(offset_of!(Cpu, state) + offset_of!(CpuState, pc));
/// PSTATE.SPSel.
pub const SPSEL: Mem = at(offset_of!(Cpu, state) + offset_of!(CpuState, spsel));
/// SP_EL0 while SP_EL1 is current.
pub const SP_EL0: Mem = at(offset_of!(Cpu, state) + offset_of!(CpuState, sp_bank));
/// Lines that matter.
pub const ATTENTION: Mem = at(offset_of!(Cpu, attention));
/// Context numbers of data accesses, low and high half.
pub const CTX: Mem = at(offset_of!(Cpu, tlb.ctx));
/// Address of the lines word.
pub const LINES: Mem = hot(offset_of!(Hot, lines));
/// Places in the jump cache, by half of the address space.
pub const HASH: Mem = hot(offset_of!(Hot, hash));
/// Bytes of the TLB in use.
pub const TLB_SPAN: Mem = at(offset_of!(Cpu, tlb.span));
/// Broadcast maintenance has not been waited for.
pub const WAITS: Mem = at(offset_of!(Cpu, waits));
/// Address of the jump cache.
pub const JUMPS: Mem = hot(offset_of!(Hot, jumps));
/// Address of the entries of pages.
pub const PAGES: Mem = hot(offset_of!(Hot, pages));
/// Which lines matter, by PSTATE.DAIF.
pub const ATTENTION_OF: Mem = hot(offset_of!(Hot, attention));
/// PSTATE.DAIF, as in the register.
pub const DAIF: Mem = at(offset_of!(Cpu, state) + offset_of!(CpuState, daif));
/// Fetch contexts, in the bits above the address.
pub const FETCH: Mem = hot(offset_of!(Hot, fetch));
/// Fuel when not in its register.
pub const FUEL_SAVED: Mem = hot(offset_of!(Hot, fuel));
/// Address of the TLB.
pub const TLB_SAVED: Mem = hot(offset_of!(Hot, tlb));
/// Flags, see [`Flags16`].
pub const FLAGS: Mem = hot(offset_of!(Hot, flags));
/// Number of the link that was left through.
pub const LINK: Mem = hot(offset_of!(Hot, link));

/// The host's control and status of SIMD arithmetic.
pub const MXCSR: Mem = hot(offset_of!(Hot, mxcsr));

/// The counter by the host's time stamps: the first one, their number, ticks each, ticks at the start.
pub const CLOCK_START: Mem = hot(offset_of!(Hot, clock_start));
/// See there.
pub const CLOCK_LEN: Mem = hot(offset_of!(Hot, clock_len));
/// See there.
pub const CLOCK_MULT: Mem = hot(offset_of!(Hot, clock_mult));
/// See there.
pub const CLOCK_BASE: Mem = hot(offset_of!(Hot, clock_base));
/// CNTVOFF_EL2.
pub const CNTVOFF: Mem = at(offset_of!(Cpu, cntvoff));

/// PSTATE.BTYPE that an indirect branch leaves.
pub const BTYPE: Mem = hot(offset_of!(Hot, btype));
/// Fuel when it was set.
pub const BTYPE_FUEL: Mem = hot(offset_of!(Hot, btype_fuel));
/// Vector registers stand in host registers.
pub const LIVE: Mem = hot(offset_of!(Hot, live));
/// Forms of flags after comparisons of floating-point numbers, by AH after `lahf`; the second with operands swapped.
pub const COMPARED: [Mem; 2] =
    [hot(offset_of!(Hot, compared)), hot(offset_of!(Hot, compared) + 2 * COMPARED_LEN)];
/// Entries of each.
pub const COMPARED_LEN: usize = 0x48;

/// Constants of vector instructions, in every lane unless one is named.
pub mod consts {
    use super::*;
    const fn c(n: usize) -> Mem {
        hot(offset_of!(Hot, consts) + 16 * n)
    }
    /// All ones.
    pub const ONES: Mem = c(0);
    /// All but the sign, single.
    pub const ABS_S: Mem = c(1);
    /// All but the sign, double.
    pub const ABS_D: Mem = c(2);
    /// The sign of the lowest lane, single.
    pub const SIGN_S1: Mem = c(3);
    /// The sign of the lowest lane, double.
    pub const SIGN_D1: Mem = c(4);
    /// The smallest normal single.
    pub const LEAST_S: Mem = c(5);
    /// The smallest normal double.
    pub const LEAST_D: Mem = c(6);
    /// Halves of bytes.
    pub const NIBBLES: Mem = c(7);
    /// Bits set in each half of a byte.
    pub const COUNTS: Mem = c(8);
    /// Bytes 0x70.
    pub const SEVENTY: Mem = c(9);
    /// The lower byte of halfwords.
    pub const LOW_B: Mem = c(10);
    /// The lower halfword of words.
    pub const LOW_H: Mem = c(11);
    /// Byte order of REV16, REV32 and REV64 by bytes, REV32 and REV64 by halfwords.
    pub const REV: [Mem; 5] = [c(12), c(13), c(14), c(15), c(16)];
    /// The lowest byte of doublewords.
    pub const LOW_BYTE_D: Mem = c(17);
    /// CRC-32: the quotient of x^96 by its polynomial, and the polynomial, both reflected.
    pub const CRC: Mem = c(18);
    /// Ones in bytes.
    pub const ONE_B: Mem = c(19);
    /// The lowest byte of words.
    pub const LOW_BYTE_S: Mem = c(20);
    /// The sign, single.
    pub const SIGN_S: Mem = c(21);
    /// The sign, double.
    pub const SIGN_D: Mem = c(22);
    /// 2^30, single and double.
    pub const TWO30: [Mem; 2] = [c(23), c(24)];
    /// 2^62, single and double.
    pub const TWO62: [Mem; 2] = [c(25), c(26)];
    /// A half, single and double.
    pub const HALF: [Mem; 2] = [c(27), c(28)];
    /// One, single and double.
    pub const ONE: [Mem; 2] = [c(29), c(30)];
    /// Which bytes, which halfwords bring the four parts of structures together.
    pub const FOURS: [Mem; 2] = [c(34), c(35)];
    /// What SHA-1 adds in each quarter of its rounds.
    pub const SHA1: [Mem; 3] = [c(31), c(32), c(33)];
}

/// Fields of the local monitor.
pub mod monitor {
    use super::*;
    use crate::mem::access::Monitor;
    const fn m(offset: usize) -> Mem {
        at(offset_of!(Cpu, monitor) + offset)
    }
    /// Address.
    pub const VA: Mem = m(offset_of!(Monitor, va));
    /// Bytes.
    pub const SIZE: Mem = m(offset_of!(Monitor, size));
    /// What was loaded.
    pub const VALUE: Mem = m(offset_of!(Monitor, value));
    /// Open.
    pub const ARMED: Mem = m(offset_of!(Monitor, armed));
}

/// Guest registers that stand in host registers, the callee-saved ones first.
pub const PINS: [(u8, Reg); 9] = [
    (33, r::RBX),
    (0, r::R12),
    (1, r::R13),
    (2, r::RSI),
    (3, r::RDI),
    (19, r::R8),
    (20, r::R9),
    (4, r::R10),
    (8, r::R11),
];
/// Vector registers that stand in host registers while [`LIVE`] is set; the others of the host are scratch. Compilers use
/// V0 to V7 first, then V16 on, and V8 on for what calls keep.
pub const VPINS: [(u8, Xmm); 12] = [
    (0, Xmm(8)),
    (1, Xmm(9)),
    (2, Xmm(10)),
    (3, Xmm(11)),
    (4, Xmm(12)),
    (5, Xmm(13)),
    (6, Xmm(14)),
    (7, Xmm(15)),
    (16, Xmm(4)),
    (17, Xmm(5)),
    (18, Xmm(6)),
    (8, Xmm(7)),
];

/// The host register of a vector register.
pub const fn vpin(n: u8) -> Option<Xmm> {
    match n {
        0..=7 => Some(Xmm(8 + n)),
        16..=18 => Some(Xmm(n - 12)),
        8 => Some(Xmm(7)),
        _ => None,
    }
}

/// How many of them a call keeps.
pub const CALLEE_SAVED: usize = 3;

/// The host register of a guest register.
pub const fn pin(n: u8) -> Option<Reg> {
    let mut k = 0;
    while k < PINS.len() {
        if PINS[k].0 == n {
            return Some(PINS[k].1);
        }
        k += 1;
    }
    None
}

/// Flags between blocks: what `lahf` and `seto al` leave in AX after a subtraction. CF is the inverse of C.
pub type Flags16 = u16;

const SF: u16 = 1 << 15;
const ZF: u16 = 1 << 14;
const CF: u16 = 1 << 8;
const OF: u16 = 1;

/// To that form.
pub fn flags16(f: u32) -> Flags16 {
    let bit = |on: u32, b: u16| if f & on != 0 { b } else { 0 };
    bit(nzcv::N, SF) | bit(nzcv::Z, ZF) | (bit(nzcv::C, CF) ^ CF) | bit(nzcv::V, OF)
}

/// And back.
pub fn nzcv_of(f: Flags16) -> u32 {
    let bit = |on: u16, b: u32| if f & on != 0 { b } else { 0 };
    bit(SF, nzcv::N) | bit(ZF, nzcv::Z) | (bit(CF, nzcv::C) ^ nzcv::C) | bit(OF, nzcv::V)
}

/// A guest condition as one of the host; `None` holds always.
pub fn condition(c: u8) -> Option<Cc> {
    const BASE: [Cc; 7] = [Cc::E, Cc::Ae, Cc::S, Cc::O, Cc::A, Cc::Ge, Cc::G];
    let base = BASE.get(usize::from(c >> 1 & 7))?;
    Some(if c & 1 != 0 { base.inverse() } else { *base })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_registers_have_places_of_their_own() {
        for n in 0..32 {
            assert_eq!(vpin(n), VPINS.iter().find(|p| p.0 == n).map(|p| p.1));
        }
    }

    #[test]
    fn flags_go_there_and_back() {
        for f in 0..16u32 {
            assert_eq!(nzcv_of(flags16(f << 28)), f << 28);
        }
    }
}
