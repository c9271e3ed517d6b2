//! Random programs on both engines: many instructions of every kind, loops, memory, flags, faults. The interpreter is the
//! judge of the translator; the count of instructions must agree as well, so that even endless programs can be compared.

use ulna_arm_cpu::decode::{LINES, Line, decode, find};
use ulna_arm_cpu::{Engine, FeatSet, Op};

use crate::el0::{BRK, Case, MAX_INSNS, Outcome};
use crate::generate::{Rng, regs_for};
use crate::machine::Machine;

/// Words of a program's place.
const PLACE: usize = 64;
/// Slots of a program's place.
const SLOTS: u64 = PLACE as u64 / 8;
/// Programs loaded at once.
const BATCH: usize = 2048;
/// Registers that hold addresses for most loads and stores, and that most other instructions leave alone.
const BASES: [u32; 3] = [25, 26, 27];
/// A register that holds a small number, for register offsets.
const SMALL: u32 = 24;

/// Lines that make up most of real programs.
fn common(l: &Line) -> bool {
    !l.name.starts_with("LDTR")
        && !l.name.starts_with("STTR")
        && matches!(l.module, "dp_imm" | "dp_reg" | "ldst" | "branch")
        && !l.name.contains("RA")
        && !l.name.starts_with("PRFM")
}

fn is_memory(w: u32) -> bool {
    w >> 25 & 0b101 == 0b100
}

/// A word of the line whose registers make it likely to do something.
fn word(r: &mut Rng, l: &Line, at: usize, len: usize) -> u32 {
    let mut w = l.value | r.bits() as u32 & !l.mask;
    let free = |lo: u32| !l.mask >> lo & 31 == 31;
    let literal = w & 0x3b00_0000 == 0x1800_0000;
    if is_memory(w) && !literal && free(5) && !r.one_in(16) {
        let base = if r.one_in(4) { 31 } else { BASES[r.below(3) as usize] };
        w = w & !(31 << 5) | base << 5;
        // Small offsets stay on the data pages.
        if w >> 24 & 0x3b == 0b111001 && !r.one_in(8) {
            w &= !(0xfc0 << 10);
        }
        // Offsets in registers.
        if w >> 24 & 0x3b == 0b111000 && w >> 21 & 1 != 0 && w >> 10 & 3 == 2 && !r.one_in(16) {
            w = w & !(31 << 16) | SMALL << 16;
        }
        if l.name.ends_with("_post") && l.module == "simd_ldst" && !r.one_in(16) {
            w |= 31 << 16;
        }
    }
    // What is written stays off the bases: Rt, Rt2 of pairs and exclusives, and Rs.
    for lo in [0, 10, 16] {
        if (lo == 0 || is_memory(w)) && (SMALL..28).contains(&(w >> lo & 31)) && free(lo) {
            if lo == 16 && w >> 16 & 31 == SMALL {
                continue;
            }
            if !r.one_in(64) {
                w = w & !(31 << lo) | (r.below(24) as u32) << lo;
            }
        }
    }
    if literal {
        w &= !(0x7_ff00 << 5);
    }
    // Branches stay in the program, mostly ahead.
    let target = if r.one_in(5) {
        r.below(at as u64 + 1) as i64
    } else {
        (at as u64 + 1 + r.below(6)).min(len as u64) as i64
    };
    let offset = (target - at as i64) as u32;
    if w & 0x7c00_0000 == 0x1400_0000 {
        w = w & !0x03ff_ffff | offset & 0x03ff_ffff;
    } else if w & 0xfe00_0000 == 0x5400_0000 || w & 0x7e00_0000 == 0x3400_0000 {
        w = w & !(0x7_ffff << 5) | (offset & 0x7_ffff) << 5;
    } else if w & 0x7e00_0000 == 0x3600_0000 {
        w = w & !(0x3fff << 5) | (offset & 0x3fff) << 5;
    }
    w
}

/// A program and the state that it starts in.
fn program(seed: u64) -> (Vec<u32>, Case) {
    let mut r = Rng::new(seed);
    let len = 4 + r.below(PLACE as u64 - 6) as usize;
    let vectors = r.one_in(3);
    let lines: Vec<&Line> = LINES
        .iter()
        .filter(|l| l.exec.is_some())
        .filter(|l| {
            !matches!(l.name, "WFI" | "WFE" | "WFIT" | "WFET" | "SVC" | "BRK" | "UDF" | "HVC" | "SMC" | "HLT")
        })
        .filter(|l| !(l.name.starts_with("DCPS") || l.module == "branch" && l.value >> 25 == 0b1101011))
        .collect();
    let usual: Vec<&Line> = lines.iter().copied().filter(|l| common(l)).collect();
    let simd: Vec<&Line> = lines
        .iter()
        .copied()
        .filter(|l| l.module.starts_with("simd") || l.module.starts_with("fp"))
        .collect();
    let mut words = Vec::with_capacity(PLACE);
    while words.len() < len {
        let from = match r.below(64) {
            0 => &lines,
            1..=30 if vectors => &simd,
            _ => &usual,
        };
        let l = from[r.below(from.len() as u64) as usize];
        let w = word(&mut r, l, words.len(), len);
        if find(w).is_some_and(|f| f.op == l.op) && (decode(w, &FeatSet::ALL).op != Op::UNALLOCATED) {
            words.push(w);
        }
    }
    let (mut regs, mem_seed) = regs_for(r.bits(), &words);
    for b in BASES {
        let at = crate::el0::DATA + 0x400 + r.below(0xc00);
        regs.x[b as usize] = if r.one_in(4) { at } else { at & !15 };
    }
    if !r.one_in(4) {
        regs.fpcr = 0;
    }
    regs.x[SMALL as usize] = 8 * r.below(8);
    words.resize(PLACE, BRK);
    (words, Case { regs, mem_seed, insns: [BRK; MAX_INSNS] })
}

/// What a run of the fuzzer did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Programs.
    pub programs: u64,
    /// Instructions executed by the translator's machine.
    pub instructions: u64,
    /// Blocks that were translated.
    pub blocks: u64,
    /// Blocks that the interpreter executed to judge them.
    pub executed: u64,
}

/// Runs `count` programs from `seed` on; the first difference is the error.
pub fn run(seed: u64, count: u64) -> Result<Report, String> {
    let mut judge = Machine::new(FeatSet::ALL);
    let mut tried = Machine::new(FeatSet::ALL).with_engine(Engine::Jit);
    let seeds: Vec<u64> = (0..count).map(|n| seed.wrapping_mul(0x1_0000_0001).wrapping_add(n)).collect();
    for batch in seeds.chunks(BATCH) {
        let programs: Vec<(Vec<u32>, Case)> = batch.iter().map(|s| program(*s)).collect();
        let code: Vec<u32> = programs.iter().flat_map(|p| p.0.iter().copied()).collect();
        judge.load_code(&code);
        tried.load_code(&code);
        for (n, (words, case)) in programs.iter().enumerate() {
            // Twice: the second time jumps are patched.
            for round in 0..2 {
                let slot = n as u64 * SLOTS;
                let want = (judge.run(slot, case), judge.instructions());
                let got = (tried.run(slot, case), tried.instructions());
                if want != got {
                    return Err(describe(batch[n], round, words, &got, &want));
                }
            }
        }
    }
    Ok(Report {
        programs: count,
        instructions: tried.instructions(),
        blocks: tried.translated_blocks(),
        executed: judge.executed_blocks(),
    })
}

fn describe(seed: u64, round: u32, words: &[u32], got: &(Outcome, u64), want: &(Outcome, u64)) -> String {
    let mut s = format!("program {seed:#x}, round {round}: ");
    if got.1 != want.1 {
        s += &format!("count of instructions {} (interpreter {}), ", got.1, want.1);
    }
    s += &got.0.difference(&want.0).unwrap_or_default();
    for (n, w) in words.iter().take_while(|w| **w != BRK).enumerate() {
        let name = find(*w).map_or("?", |l| l.name);
        s += &format!("\n  {:3x}: {w:08x} {name}", 4 * n);
    }
    s
}
