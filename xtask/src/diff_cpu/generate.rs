//! Random cases: every line of the decode table, states that reach the corners.

use ulna_arm_cpu::decode::{LINES, Line, find};
use ulna_conformance::el0::{BRK, CODE, Case, MAX_INSNS, SLOT};
pub use ulna_conformance::generate::Rng;

/// Lines that cannot be compared this way: they enter the kernel, or depend on its or the emulator's choices.
pub fn comparable(l: &Line) -> bool {
    const NOT: [&str; 12] =
        ["SVC", "BRK", "HLT", "MRS", "MSR_reg", "MSR_imm", "SYS", "SYSL", "ERET", "DRPS", "HVC", "SMC"];
    !NOT.contains(&l.name) && l.exec.is_some()
}

/// CONSTRAINED UNPREDICTABLE operand combinations: each side may choose.
fn unpredictable(w: u32) -> bool {
    let (rt, rt2, load) = (w & 31, w >> 10 & 31, w >> 22 & 1 != 0);
    let pair = w >> 27 & 0b101 == 0b101 && w >> 25 & 1 == 0;
    let exclusive_pair = w >> 24 & 0x3f == 0b001000 && w >> 21 & 1 != 0 && w >> 23 & 1 == 0;
    // LDAR and its kin, SMULH and UMULH have fields that should be ones; QEMU 10 takes other values as UNDEFINED, which it may.
    let ordered = w >> 24 & 0x3f == 0b001000 && w >> 23 & 1 != 0 && w >> 21 & 1 == 0;
    let mulh = w & 0xff60_8000 == 0x9b40_0000;
    let should_be_one = ordered && (w >> 16 & 31 != 31 || rt2 != 31) || mulh && rt2 != 31;
    should_be_one || (pair || exclusive_pair) && load && rt == rt2
}

/// A direct branch to the instructions of some case; it should land on BRK, or outside.
fn into_a_case(w: u32) -> bool {
    let signed = |lo: u32, n: u32| ((w << (32 - lo - n)) as i32 >> (32 - n)) * 4;
    let offset = if w & 0x7c00_0000 == 0x1400_0000 {
        signed(0, 26)
    } else if w & 0xff00_0000 == 0x5400_0000 || w & 0x7e00_0000 == 0x3400_0000 {
        signed(5, 19)
    } else if w & 0x7e00_0000 == 0x3600_0000 {
        signed(5, 14)
    } else {
        return false;
    };
    offset.rem_euclid(SLOT as i32) < 4 * MAX_INSNS as i32
}

/// A random word of the line.
pub fn word(r: &mut Rng, l: &Line) -> Option<u32> {
    for _ in 0..64 {
        let w = l.value | r.bits() as u32 & !l.mask;
        if find(w).is_some_and(|f| f.op == l.op) && !unpredictable(w) && !into_a_case(w) {
            return Some(w);
        }
    }
    None
}

/// A case for line `l`, with the seed of its state.
pub fn case(r: &mut Rng, l: &Line) -> Option<(u64, Case)> {
    let mut insns = [BRK; MAX_INSNS];
    insns[0] = word(r, l)?;
    // Exclusive stores only succeed after a matching load: put one before half of them.
    let w = insns[0];
    if w >> 24 & 0x3f == 0b001000 && w >> 22 & 1 == 0 && w >> 23 & 1 == 0 && !r.one_in(4) {
        let pair = w >> 21 & 1;
        if pair == 0 || w >> 31 & 1 != 0 {
            let rt = if w >> 5 & 31 == 3 { 4 } else { 3 };
            let load = w & 0xffe0_0000 | 1 << 22 | 31 << 16 | (w & 1 << 15) | 31 << 10 | w & (31 << 5) | rt;
            let rt2 = if w >> 5 & 31 == 5 { 6 } else { 5 };
            insns[0] = if pair != 0 { load & !(31 << 10) | rt2 << 10 } else { load };
            insns[1] = w;
        }
    }
    loop {
        let seed = r.bits();
        let c = Case::from_seed(seed, insns);
        // A denormal that FPCR.FZ flushes is not converted exactly (FPToFixedJS); QEMU 7.2 sets Z all the same.
        if l.name != "FJCVTZS" || c.regs.fpcr >> 24 & 1 == 0 {
            return Some((seed, c));
        }
    }
}

/// Lines to test: those whose name or module contains `class`.
pub fn lines(class: Option<&str>) -> Vec<&'static Line> {
    LINES
        .iter()
        .filter(|l| comparable(l))
        .filter(|l| {
            class.is_none_or(|c| l.module.contains(c) || l.name.to_lowercase().contains(&c.to_lowercase()))
        })
        .collect()
}

/// Address of slot `n`, for messages.
pub fn slot_address(n: usize) -> u64 {
    CODE + n as u64 * SLOT
}
