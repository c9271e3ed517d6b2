//! Random cases by class.

use ulna_arm_cpu::decode::find;
use ulna_arm_regs::SysReg;
use ulna_conformance::el1::{CODE, Case, DATA, END, Step};

use super::world::{AP_EL0, AP_RO, Mapping, NG, World};

/// A way to make a case from a seed.
pub type Maker = fn(u64, u64) -> Case;

/// Classes in the order of their numbers.
pub const CLASSES: [(&str, Maker); 9] = [
    ("translation", translation),
    ("at", at),
    ("tlbi", tlbi),
    ("asid", asid),
    ("exception", exception),
    ("eret", eret),
    ("sysreg", sysreg),
    ("debug", debug),
    ("pauth", pauth),
];

const ISB: u32 = 0xd503_3fdf;
const DSB_ISH: u32 = 0xd503_3b9f;
const NOP: u32 = 0xd503_201f;
const ERET: u32 = 0xd69f_03e0;

/// MSR of an encoding.
fn msr(enc: u16, rt: u32) -> u32 {
    0xd500_0000 | u32::from(enc) << 5 | rt
}
/// MRS.
fn mrs(enc: u16, rt: u32) -> u32 {
    0xd520_0000 | u32::from(enc) << 5 | rt
}

/// A random load or store (or maintenance) with its address in x1; whether it may be unaligned.
fn access(w: &mut World) -> u32 {
    let size = w.r.below(4) as u32;
    let s = size << 30;
    let (rt, rs) = (2 + w.r.below(6) as u32, 10 + w.r.below(4) as u32);
    let n = 1 << 5 | rt;
    match w.r.below(28) {
        0..=4 => 0x3940_0000 | s | n,              // LDR
        5..=9 => 0x3900_0000 | s | n,              // STR
        10 => 0x3980_0000 | size.min(2) << 30 | n, // LDRS
        11..=12 => 0x3840_0800 | s | n,            // LDTR
        13..=14 => 0x3800_0800 | s | n,            // STTR
        15 => 0x085f_7c00 | s | n,                 // LDXR
        16 => 0x08df_fc00 | s | n,                 // LDAR
        17 => 0x089f_fc00 | s | n,                 // STLR
        18 => 0x3820_0000 | s | rs << 16 | n,      // LDADD
        19 => 0x38e0_8000 | s | rs << 16 | n,      // SWPAL
        20 => 0x08a0_7c00 | s | rs << 16 | n,      // CAS
        21 => 0xa940_0000 | 9 << 10 | n,           // LDP
        22 => 0xa900_0000 | 9 << 10 | n,           // STP
        23 => 0x38bf_c000 | s | n,                 // LDAPR
        24 => 0xd50b_7421,                         // DC ZVA
        25 => w.pick(&[0xd50b_7a21, 0xd50b_7b21, 0xd50b_7e21, 0xd50b_7c21, 0xd50b_7d21, 0xd508_7621]),
        26 => 0xd50b_7521, // IC IVAU
        _ => 0xf980_0020,  // PRFM
    }
}

/// Bits of a leaf: attributes, permissions, software bits.
fn leaf_bits(w: &mut World) -> u64 {
    let mut l =
        w.r.bits() & (7 << 2 | 1 << 5 | 3 << 6 | 3 << 8 | NG | 1 << 51 | 1 << 52 | 0xf << 55 | 1 << 63);
    l |= if w.one_in(8) { 0 } else { 1 << 10 };
    l |= w.maybe(53, 3) | w.maybe(54, 3) | w.maybe(50, 8);
    if w.one_in(2) {
        l &= !(7 << 2);
    }
    l
}

/// APTable, UXNTable, PXNTable now and then.
fn table_bits(w: &mut World) -> u64 {
    let mut t = w.r.bits() & (0xf << 55 | 0x3ff << 2);
    if w.ds {
        t &= !(3 << 8);
    }
    for b in 59..63 {
        t |= w.maybe(b, 8);
    }
    t
}

fn damage(w: &mut World, first: i32, lowest: i32) -> Option<(i32, u64, u64)> {
    if !w.one_in(5) {
        return None;
    }
    let level = first + w.r.below((4 - first) as u64) as i32;
    // With DS and fewer than 52 bits the reference does not look at bits 51:50 in 9:8.
    let kinds = if w.ds && w.get(SysReg::TCR_EL1) >> 32 & 7 < 6 { 5 } else { 6 };
    Some(match w.r.below(kinds) {
        0 => (level, u64::MAX, 0),
        1 => (level, 1, 0),
        2 => (level.max(lowest), 2, 0),
        3 => (level, 0, 1 << (36 + w.r.below(12))),
        4 => (level, 0, 1 << (48 + w.r.below(2))),
        _ => (level, 0, if w.ds { w.r.below(4) << 8 } else { w.r.below(16) << 12 }),
    })
}

/// Maps something in the tested half: returns the address that leads to `pa`.
fn map_tested(w: &mut World, pa: u64) -> (u64, (u64, u64)) {
    let h = w.tested;
    let first = World::first_level(h);
    let lowest = match (h.granule, w.ds) {
        (12, true) => 0,
        (12, _) => 1,
        (14, true) => 1,
        (16, _) => 1,
        _ => 2,
    };
    // The reference takes a block at a level that holds none (D8.3): not generated.
    let lowest = lowest.max(first);
    let level = if w.one_in(2) { 3 } else { lowest + w.r.below((4 - lowest) as u64) as i32 };
    let size = World::leaf_size(h, level).min(63);
    let random = w.address(h, 64);
    let low = if size >= 64 - h.txsz { 64 - h.txsz } else { size };
    let va = random & !((1 << low) - 1) | pa & ((1 << low) - 1);
    let mut leaf = leaf_bits(w);
    let executable = pa < DATA;
    if executable || w.get(SysReg::SCTLR_EL1) >> 19 & 1 != 0 {
        // Writable-clean is writable for WXN and for EL1's right to execute (AArch64.S1ApplyOutputPerms: the effective
        // AP[2] is 0); the reference looks at AP[2] as it stands.
        leaf &= !(1 << 51);
    }
    let m = Mapping { level, leaf, table: table_bits(w), damage: damage(w, first, lowest) };
    let at = w.map(h, va, pa, &m);
    (va, at)
}

/// Now and then a tag, or a bit that does not belong there.
fn decorate(w: &mut World, va: u64) -> u64 {
    match w.r.below(12) {
        0 | 1 => va & !(0xff << 56) | w.r.bits() << 56,
        2 => va ^ 1 << (55 - w.r.below(20)),
        _ => va,
    }
}

fn data_address(w: &mut World) -> u64 {
    let a = DATA + 0x1000 + w.r.below(0x100) * 16;
    match w.r.below(6) {
        0 => a + w.r.below(16),
        // the end of a page
        1 => DATA + 0x2000 - 8 + w.r.below(8),
        _ => a,
    }
}

fn translation(seed: u64, class: u64) -> Case {
    let mut w = World::new(seed, true);
    let fetch = w.one_in(4);
    let pa = if fetch { CODE + 0x800 + w.r.below(16) * 4 } else { data_address(&mut w) };
    let va = if w.mmu { map_tested(&mut w, pa).0 } else { pa & !15 };
    let va = if w.mmu { decorate(&mut w, va) } else { va };
    w.x[1] = va;
    let n = 1 + w.r.below(3);
    if fetch {
        // The target: leave.
        let mut words = vec![END; 32];
        words[0] = w.pick(&[END, NOP, 0xd503_245f, 0xd503_249f, 0xd503_233f]);
        // PACIASP as a landing pad only.
        let v = w.get(SysReg::SCTLR_EL1) & !(1 << 31);
        w.set(SysReg::SCTLR_EL1, v);
        put_code(&mut w, 0x800, &words);
    }
    for _ in 0..n {
        let el = w.r.below(2);
        let p = w.pstate(el);
        if fetch {
            match w.r.below(5) {
                0 => w.step(p, &[0xd61f_0020]),
                1 => w.step(p, &[0xd63f_0020]),
                2 => w.step(p, &[0xd65f_0020]),
                _ => {
                    let p = if w.one_in(6) { p | w.r.below(4) << 10 } else { p };
                    w.steps.push(Step { pc: w.x[1], pstate: p, write: (0, 0) });
                }
            }
        } else {
            let a = access(&mut w);
            w.step(p, &[a]);
        }
    }
    w.finish(class)
}

/// Words at a fixed place of the code page, beyond what [`World::code`] hands out.
fn put_code(w: &mut World, offset: u64, words: &[u32]) {
    w.code_at(CODE + offset, words);
}

const AT: [u32; 6] = [0xd508_7801, 0xd508_7821, 0xd508_7841, 0xd508_7861, 0xd508_7901, 0xd508_7921];

fn at(seed: u64, class: u64) -> Case {
    let mut w = World::new(seed, true);
    let pa = data_address(&mut w);
    let va = if w.mmu { map_tested(&mut w, pa).0 } else { pa };
    w.x[1] = decorate(&mut w, va);
    for _ in 0..1 + w.r.below(4) {
        let p = w.pstate(1);
        let i = w.pick(&AT);
        w.step(p, &[i]);
    }
    w.finish(class)
}

/// An access, a change of the descriptor by EL2 without invalidation, TLBI, the access again.
fn tlbi(seed: u64, class: u64) -> Case {
    let mut w = World::new(seed, true);
    w.mmu = true;
    let sctlr = w.get(SysReg::SCTLR_EL1);
    if sctlr & 1 == 0 {
        return at(seed, class);
    }
    let pa = DATA + 0x1000 + w.r.below(0x100) * 8;
    let h = w.tested;
    let level = if w.one_in(2) { 3 } else { 2.max(World::first_level(h)) };
    let size = World::leaf_size(h, level).min(64 - h.txsz);
    let va = w.address(h, 64) & !((1 << size) - 1) | pa & ((1 << size) - 1);
    let leaf = 1 << 10 | w.r.bits() & (NG | AP_RO | 3 << 8) | AP_EL0;
    let (at, d) = w.map(h, va, pa, &Mapping { level, leaf, table: 0, damage: None });
    w.x[1] = va;
    let el = w.r.below(2);
    let p = w.pstate(el) & !(1 << 22);
    let load = 0xf940_0022;
    w.step(p, &[load]);
    // The operand of TLBI: the page, with the ASID in use.
    let tcr = w.get(SysReg::TCR_EL1);
    let ttbr = if tcr >> 22 & 1 != 0 { SysReg::TTBR1_EL1 } else { SysReg::TTBR0_EL1 };
    let asid = w.get(ttbr) >> 48 & if tcr >> 36 & 1 != 0 { 0xffff } else { 0xff };
    w.x[20] = asid << 48 | va >> 12 & 0xfff_ffff_ffff;
    // A range of one scale: 2 or more pages from here.
    let tg = [1, 2, 3][(h.granule as usize - 12) / 2];
    // With TCR_EL1.DS in units of 64 KiB.
    let unit = if w.ds && h.granule != 16 { 16 } else { h.granule };
    let base = (va >> unit) & ((1 << 37) - 1);
    let scale = if w.ds { 1 } else { w.r.below(2) };
    w.x[21] = asid << 48 | tg << 46 | scale << 44 | w.r.below(4) << 39 | base;
    let shareable = w.pick(&[0x8700u32, 0x8300, 0x8100]);
    let range = w.pick(&[0x8600u32, 0x8200, 0x8500]);
    let op = match w.r.below(8) {
        0 => 0xd508_001f | shareable,
        1 => 0xd508_0020 | shareable | 20,
        2 => 0xd508_0040 | shareable | 20,
        3 => 0xd508_0060 | shareable | 20,
        4 => 0xd508_00a0 | shareable | 20,
        5 => 0xd508_00e0 | shareable | 20,
        6 => 0xd508_0020 | range | 21,
        _ => 0xd508_0060 | range | 21,
    };
    // ASIDE1 does not reach global entries.
    let op = if op & 0xe0 == 0x40 && d & NG == 0 { 0xd508_001f | shareable } else { op };
    let new = match w.r.below(4) {
        0 => 0,
        1 => d ^ AP_RO,
        2 => d ^ AP_EL0,
        _ => d & !(1 << 10),
    };
    let p1 = w.pstate(1) & !(1 << 22);
    let pc = w.code(&[op, DSB_ISH, ISB, END]);
    let stored = w.as_stored(new);
    w.steps.push(Step { pc, pstate: p1, write: (at, stored) });
    let again = w.pick(&[load, 0xf900_0022]);
    w.step(p, &[again]);
    w.finish(class)
}

/// Two sets of tables for the same address under different ASIDs, and changes between them without invalidation.
fn asid(seed: u64, class: u64) -> Case {
    let mut w = World::new(seed, true);
    if !w.mmu {
        return at(seed, class);
    }
    let h = w.tested;
    // The ASID stands in the register that changes.
    let tcr = w.get(SysReg::TCR_EL1) & !(1 << 22) | u64::from(h.high) << 22;
    w.set(SysReg::TCR_EL1, tcr);
    let other = w.second_root();
    let pas = [DATA + 0x1000 + w.r.below(0x100) * 8, DATA + 0x2000];
    let pas = [pas[0], pas[1] + (pas[0] & 0xfff)];
    let first = World::first_level(h);
    let low = World::leaf_size(h, 3);
    // Both pages at the same offset of the granule.
    let va = w.address(h, 64) & !((1 << low) - 1) | pas[0] & ((1 << low) - 1);
    for (half, pa) in [(h, pas[0]), (other, if low == 12 { pas[1] } else { pas[0] })] {
        let leaf = 1 << 10 | NG | w.r.bits() & (3 << 6 | 3 << 8) | w.maybe(53, 4) | w.maybe(54, 4);
        let m = Mapping { level: 3, leaf, table: table_bits(&mut w), damage: damage(&mut w, first, 3) };
        w.map(half, va, pa, &m);
    }
    w.x[1] = va;
    let ttbr = if h.high { SysReg::TTBR1_EL1 } else { SysReg::TTBR0_EL1 };
    let now = w.get(ttbr);
    w.x[20] = now;
    // Different in the low 8 bits, which count with TCR_EL1.AS 0 too.
    w.x[21] = now & 0xff00_0000_0000_0000 ^ (now >> 48 & 0xff ^ (1 + w.r.below(255))) << 48 | other.root;
    for _ in 0..3 + w.r.below(3) {
        let el = w.r.below(2);
        let p = w.pstate(el);
        let a = access(&mut w);
        if w.one_in(2) {
            let p = w.pstate(1);
            let rt = 20 + w.r.below(2) as u32;
            w.step(p, &[msr(ttbr.code(), rt), ISB, a]);
        } else {
            w.step(p, &[a]);
        }
    }
    w.finish(class)
}

fn exception(seed: u64, class: u64) -> Case {
    let wild = seed.is_multiple_of(4);
    let mut w = World::new(seed, wild);
    w.x[1] = w.data_va + 0x100;
    for _ in 0..1 + w.r.below(4) {
        let el = w.r.below(2);
        let mut p = w.pstate(el);
        if w.one_in(12) {
            p |= 1 << 20;
        }
        let imm = w.r.below(0x1_0000) as u32;
        let rt = 2 + w.r.below(8) as u32;
        let word = match w.r.below(20) {
            0 | 1 => 0xd400_0001 | imm << 5,          // SVC
            2 | 3 => 0xd420_0000 | imm << 5,          // BRK
            4 => imm,                                 // UDF
            5 => 0xd4a0_0001 | imm << 5,              // DCPS1
            6 => w.pick(&[0xd503_207f, 0xd503_205f]), // WFI, WFE
            7 => {
                0xd503_4000 | (w.r.below(16) as u32 * 0x100) | 0xbf | w.pick(&[0, 0x2_0000, 0x3_0000 | 0x40])
            }
            8 => w.pick(&[0xf94003e2, 0xf90003e2, 0xa9bf0fe2, 0xf84107e2]), // through SP
            9 => {
                // SP off by something
                let r = w.pick(&[SysReg::SP_EL0, SysReg::SP_EL1]);
                let v = w.get(r) + w.r.below(16);
                w.set(r, v);
                0xf940_03e2
            }
            10 | 11 => {
                w.x[3] = w.code_va + 1 + w.r.below(3);
                w.pick(&[0xd61f_0060, 0xd63f_0060, 0xd65f_0060])
            }
            12 => {
                w.x[4] = w.data_va + 0x100 + w.r.below(16);
                access(&mut w) & !(0x1f << 5) | 4 << 5
            }
            13 => 0x1e20_2800 | rt, // FADD: CPACR_EL1.FPEN
            14 => 0x4e20_1c00 | rt, // AND (vector)
            15 => 0x3dc0_0020 | rt, // LDR Q
            16 => ERET,
            17 => w.pick(&[0xd503_3f9f, 0xd503_30ff, 0xd503_3fdf, 0xd503_305f, 0xd503_223f, 0xd503_221f]),
            18 => {
                let z = w.r.bits() as u32;
                0xd400_0000 | z & 0x00e0_001f | imm << 5
            }
            _ => 0xd500_0000 | w.r.bits() as u32 & 0x3f_ffff,
        };
        // WFI waits for ever unless it traps; HLT is the reference's semihosting, SMC its firmware.
        let word = if (word == 0xd503_207f && el == 1)
            || word & 0xffe0_001f == 0xd440_0000
            || word & 0xffe0_001f == 0xd400_0003
            || word >> 22 == 0xd500_0000 >> 22 && special(word)
        {
            NOP
        } else if matches!(word >> 24, 0x1e | 0x4e) && find(word).is_none_or(|l| l.exec.is_none()) {
            // Not built yet.
            NOP
        } else {
            word
        };
        if word == 0xd503_207f {
            let v = w.get(SysReg::SCTLR_EL1) & !(1 << 16);
            w.set(SysReg::SCTLR_EL1, v);
        }
        w.step(p, &[word]);
    }
    w.finish(class)
}

/// System-space words that other classes make with care: MSR, MRS, SYS.
fn special(word: u32) -> bool {
    word >> 20 & 1 != 0
        || word >> 19 & 1 != 0
        || matches!(word & 0xffff_ffe0, 0xd503_1000 | 0xd503_1020)
        || word == 0xd503_207f
}

fn eret(seed: u64, class: u64) -> Case {
    let wild = seed.is_multiple_of(4);
    let mut w = World::new(seed, wild);
    let target = w.code(&[NOP, END]);
    let elr = match w.r.below(10) {
        0 => target + 1 + w.r.below(3),
        1 => decorate(&mut w, target),
        2 => w.r.bits(),
        _ => target,
    };
    w.set(SysReg::ELR_EL1, elr);
    let mode = match w.r.below(8) {
        0..=2 => 0,
        3..=4 => 4 | w.r.below(2),
        // AArch32 at EL0 is legal for the reference.
        _ => match w.r.below(32) {
            0x10 => 0x13,
            m => m,
        },
    };
    let mut spsr = w.r.bits() & (0xf << 28 | 3 << 22 | 1 << 24 | 1 << 12 | 0xf << 6) | mode;
    spsr |= w.maybe(20, 10);
    if w.one_in(4) {
        spsr |= w.r.below(4) << 10;
    }
    w.set(SysReg::SPSR_EL1, spsr);
    if !matches!(mode, 0 | 4 | 5) {
        // The reference keeps the tag in PC (AArch64.ExceptionReturn: BranchAddr, UNKNOWN for AArch32).
        let v = w.get(SysReg::ELR_EL1);
        w.set(SysReg::ELR_EL1, (v << 8) as i64 as u64 >> 8 | if v >> 55 & 1 != 0 { 0xff << 56 } else { 0 });
    }
    // After an illegal return the reference clears PSTATE.SS (SetPSTATEFromPSR: DebugExceptionReturnSS).
    if matches!(mode, 0 | 4 | 5) && w.one_in(4) {
        let v = w.r.below(2) | w.r.below(2) << 13;
        w.set(SysReg::MDSCR_EL1, v);
        let v = w.get(SysReg::SPSR_EL1) | w.r.below(2) << 21;
        w.set(SysReg::SPSR_EL1, v);
    }
    let el = u64::from(!w.one_in(8));
    let p = w.pstate(el);
    let word = w.pick(&[ERET, ERET, ERET, 0xd69f_0bff, 0xd69f_0fff]);
    w.step(p, &[word]);
    // And what is left afterwards.
    let p = w.pstate(1);
    w.step(p, &[NOP]);
    w.finish(class)
}

/// (Event counters beyond PMCR_EL0.N are CONSTRAINED UNPREDICTABLE, so none of them.)
/// Counters, the PMU and the floating-point controls: what EL0 may read.
fn quiet(enc: u16) -> bool {
    use SysReg::*;
    let Some(r) = SysReg::from_code(enc) else { return false };
    matches!(
        r,
        CNTFRQ_EL0 | CNTVCT_EL0 | CNTPCT_EL0 | CNTV_CTL_EL0 | CNTV_CVAL_EL0 | CNTP_CTL_EL0 | FPCR | FPSR
    ) || r.name().starts_with("PM")
        && !r.name().starts_with("PMEV")
        && !r.name().starts_with("PMXEV")
        && !r.name().starts_with("PMEV")
        && !r.name().starts_with("PMXEV")
}

/// Encodings that no step may read or write: time, interrupts and what the hypervisor owns.
fn untestable(enc: u16) -> bool {
    let (op0, op1, crn, crm) = (enc >> 14, enc >> 11 & 7, enc >> 7 & 15, enc >> 3 & 15);
    match (op0, op1, crn) {
        // Timers, PMU, GIC, RAS records, implementation defined, statistics
        (3, _, 14) => enc != 0xdf00,
        (3, _, 9 | 11 | 15) => true,
        (3, 0, 12) => crm >= 8 || crm == 1 && enc & 7 == 1 || crm == 1 && enc & 7 == 0,
        (3, _, 12) => true,
        (3, 0, 4) => crm == 6,
        (3, 0, 5) => crm >= 3,
        (3, 0, 10) => crm == 4,
        (2, 1, _) => true,
        // ID registers of AArch32, which only the reference has
        (3, 0, 0) => matches!(crm, 1..=3),
        _ => false,
    }
}

/// Registers that the reference lacks, that change by themselves, or that keep their value from case to case.
fn absent(r: SysReg) -> bool {
    use SysReg::*;
    matches!(
        r,
        OSDTRRX_EL1
            | OSDTRTX_EL1
            | OSECCR_EL1
            | DBGAUTHSTATUS_EL1
            | DBGCLAIMSET_EL1
            | DBGCLAIMCLR_EL1
            | DBGPRCR_EL1
            | DBGDTR_EL0
            | DBGDTRRX_EL0
            | MDCCINT_EL1
            | RNDR
            | RNDRRS
            | CCSIDR_EL1
            | CCSIDR2_EL1
            | FPCR
            | FPSR
    )
}

/// Registers whose change would take the case's ground away, or whose value is the reference's own business.
fn keep(r: SysReg) -> bool {
    use SysReg::*;
    // The reference makes BAS[3] and BAS[1] copies of their neighbours.
    let e = r.encoding();
    if e.op0 == 2 && e.crn == 0 && (e.op2 == 5 || e.op2 == 7) {
        return true;
    }
    matches!(
        r,
        SCTLR_EL1
            | TCR_EL1
            | TTBR0_EL1
            | TTBR1_EL1
            | MAIR_EL1
            | VBAR_EL1
            | MDSCR_EL1
            | OSLAR_EL1
            | OSDLR_EL1
            | DBGPRCR_EL1
            | ACTLR_EL1
            | CPACR_EL1
    )
}

fn sysreg(seed: u64, class: u64) -> Case {
    let mut w = World::new(seed, false);
    let v = w.r.bits() & 0x3ff & !(1 << 2);
    w.set(SysReg::CNTKCTL_EL1, v);
    for _ in 0..2 + w.r.below(4) {
        let el = w.r.below(2);
        let p = w.pstate(el);
        let known = !w.one_in(3);
        let enc = if known {
            w.pick(SysReg::ALL).code()
        } else {
            let e = w.r.bits() as u16 | 0x8000;
            if w.one_in(2) { e & !(3 << 11) } else { e }
        };
        if quiet(enc) && w.one_in(2) {
            // Values differ, rights do not.
            w.step(p, &[mrs(enc, 31)]);
            continue;
        }
        if untestable(enc) {
            continue;
        }
        let reg = SysReg::from_code(enc);
        if reg.is_some_and(absent) {
            continue;
        }
        let read = w.one_in(2) || reg.is_some_and(keep);
        if read {
            w.step(p, &[mrs(enc, 2)]);
        } else {
            w.x[5] = if w.one_in(2) { w.r.bits() } else { w.r.bits() & 0xff00_ffff };
            if matches!(reg, Some(SysReg::SPSR_EL1 | SysReg::CONTEXTIDR_EL1)) {
                // RES0 there, kept by the reference
                w.x[6] &= 0xffff_ffff;
                w.step(p, &[msr(enc, 6), mrs(enc, 2)]);
            } else {
                w.step(p, &[msr(enc, 5), mrs(enc, 2)]);
            }
        }
    }
    // MSR (immediate) and maintenance
    if w.one_in(4) {
        let el = w.r.below(2);
        let p = w.pstate(el);
        let imm = w.r.below(16) as u32;
        let (op1, op2) =
            w.pick(&[(0, 3), (0, 4), (0, 5), (3, 1), (3, 2), (3, 6), (3, 7), (3, 0), (0, 0), (0, 1)]);
        w.step(p, &[0xd500_401f | op1 << 16 | imm << 8 | op2 << 5]);
    }
    if w.steps.is_empty() {
        let p = w.pstate(1);
        w.step(p, &[NOP]);
    }
    w.finish(class)
}

fn debug(seed: u64, class: u64) -> Case {
    let mut w = World::new(seed, false);
    let mut mdscr = w.maybe(13, 2) | w.maybe(15, 1);
    if w.one_in(2) {
        mdscr |= 1;
    }
    w.set(SysReg::MDSCR_EL1, mdscr);
    // The reference does not honour the OS Lock.
    w.x[1] = w.data_va + 0x100 + w.r.below(4) * 8;
    w.x[4] = w.data_va + 0x200;
    let base = w.code_va;
    for n in 0..3u64 {
        if !w.one_in(2) {
            continue;
        }
        // Breakpoints on the words of the steps, which start every 16 bytes or more.
        let bvr = base + w.r.below(16) * 4;
        let bcr = control(&mut w) | w.pick(&[0xf << 5, 0xf << 5, 0xf << 5, 0]);
        // The reference has no unlinked context breakpoints.
        let bt = u64::from(w.one_in(5));
        let bcr = bcr | bt << 20 | if bt == 1 { 4 << 16 } else { 0 };
        set_debug(&mut w, n, 4, bvr, bcr);
        if bt == 1 {
            let (v, on) = (w.r.below(4), w.r.below(2));
            set_debug(&mut w, 4, 4, v, 3 << 20 | 0xf << 5 | 3 << 1 | on);
        }
    }
    for n in 0..2u64 {
        if !w.one_in(2) {
            continue;
        }
        let v = w.x[1] & !7 | w.pick(&[0, 0, 4]);
        let bas = match w.r.below(4) {
            0 => 0xff,
            1 => 1 << w.r.below(8),
            2 => 3 << w.r.below(7),
            _ => 0xf << (w.r.below(2) * 4),
        };
        let bas = if v & 4 != 0 { bas & 0xf } else { bas };
        let mut c = control(&mut w) | bas << 5 | (1 + w.r.below(3)) << 3;
        let mut v = v;
        if w.one_in(4) {
            let mask = 3 + w.r.below(10);
            v &= !((1 << mask) - 1);
            c = c & !(0xff << 5) | 0xff << 5 | mask << 24;
        }
        set_debug(&mut w, n, 6, v, c);
    }
    for _ in 0..1 + w.r.below(3) {
        let el = w.r.below(2);
        let mut p = w.pstate(el) & !(1 << 9);
        p |= w.maybe(9, 4) | w.maybe(21, 2) | w.maybe(20, 20);
        let mut words = Vec::new();
        for _ in 0..1 + w.r.below(4) {
            let i = match w.r.below(14) {
                0 => 0xd400_0021,
                1 => 0xd420_0020,
                2..=6 => access(&mut w),
                7 => 0x9100_0442,
                8 => {
                    // A load of the neighbourhood: 64 bytes around
                    let off = w.r.below(8) as u32;
                    0xf940_0022 | off << 10
                }
                9 => 0xa940_0c22,
                10 => 0x085f_7c22,
                11 => 0xd500_0000 | 0x3_40df | (w.r.below(2) as u32) << 5, // DAIFSet, DAIFClr #0
                _ => NOP,
            };
            words.push(i);
        }
        w.step(p, &words);
    }
    w.finish(class)
}

/// Enable, EL selection; security state now and then.
fn control(w: &mut World) -> u64 {
    let mut c = w.pick(&[1, 1, 1, 0]) | w.pick(&[1, 2, 3, 3]) << 1;
    if w.one_in(8) {
        c |= 1 << 14;
    }
    c
}

fn set_debug(w: &mut World, n: u64, op2: u8, value: u64, control: u64) {
    for (op2, v) in [(op2, value), (op2 + 1, control)] {
        if let Some(r) = SysReg::from_encoding(2, 0, 0, n as u8, op2) {
            w.set(r, v);
        }
    }
}

fn pauth(seed: u64, class: u64) -> Case {
    let wild = seed.is_multiple_of(2);
    let mut w = World::new(seed, wild);
    // With no key enabled at all the reference's XPACD and XPACI do nothing.
    let v = w.get(SysReg::SCTLR_EL1) | w.pick(&[1 << 13, 1 << 27, 1 << 30, 1 << 31]);
    w.set(SysReg::SCTLR_EL1, v);
    let target = w.code(&[END, END]);
    // A code is added to a register once: the reference chooses the half of a pointer that is no address by bit 55 always,
    // the manual (AddPAC) by bit 63 without TBI, so pointers here have both alike.
    let mut fresh = vec![3u32, 4, 5, 12, 13, 14, 15, 18, 19, 22, 23, 24, 25, 26, 27];
    let (mut fresh17, mut fresh30) = (true, true);
    for r in fresh.clone().into_iter().chain([2, 6, 7, 17, 30]) {
        let v = match w.r.below(4) {
            0 => target,
            1 => {
                let h = if w.one_in(2) { w.safe } else { w.tested };
                w.address(h, 64)
            }
            2 => w.data_va + 0x100,
            _ => w.r.bits(),
        };
        w.x[r as usize] = v & !(1 << 63) | (v >> 55 & 1) << 63;
    }
    for _ in 0..1 + w.r.below(3) {
        let el = w.r.below(2);
        let p = w.pstate(el);
        let mut words = Vec::new();
        for _ in 0..1 + w.r.below(4) {
            let rn = if w.one_in(8) { 31 } else { 8 + w.r.below(4) as u32 };
            let Some(rd) = fresh.pop() else { break };
            let k = (w.r.below(4) as u32) << 10;
            match w.r.below(12) {
                0..=2 => words.push(0xdac1_0000 | k | rn << 5 | rd),
                3 => words.push(0xdac1_1000 | k | rn << 5 | rd),
                4 => words.push(0xdac1_2000 | (w.r.below(8) as u32) << 10 | 31 << 5 | rd),
                5 => words.push(0xdac1_43e0 | (w.r.below(2) as u32) << 10 | rd),
                6 | 7 => words.push(0x9ac0_3000 | rn << 16 | (8 + w.r.below(4) as u32) << 5 | rd),
                8 if fresh17 => {
                    fresh17 = false;
                    words.push(w.pick(&[0xd503_211f, 0xd503_215f, 0xd503_219f, 0xd503_21df]));
                }
                9 if fresh30 => {
                    fresh30 = false;
                    words.push(w.pick(&[
                        0xd503_231f,
                        0xd503_233f,
                        0xd503_235f,
                        0xd503_237f,
                        0xd503_239f,
                        0xd503_23bf,
                        0xd503_23df,
                        0xd503_23ff,
                        0xd503_20ff,
                    ]));
                }
                // AUT of what PAC made
                _ => words.extend([0xdac1_0000 | k | rn << 5 | rd, 0xdac1_1000 | k | rn << 5 | rd]),
            }
        }
        let form = if w.steps.is_empty() { w.r.below(8) } else { 8 };
        match form {
            0 => {
                // PACIZA x6; BRAAZ x6, from a good address
                w.x[6] = target;
                words.insert(0, w.pick(&[0xdac1_23e6, 0xdac1_27e6, NOP]));
                words.push(w.pick(&[0xd61f_08df, 0xd61f_0cdf, 0xd63f_08df, 0xd63f_0cdf]));
            }
            1 => {
                let m = 9u32;
                w.x[7] = target;
                words.insert(0, 0xdac1_0000 | m << 5 | 7);
                words.push(w.pick(&[0xd71f_08e0, 0xd71f_0ce0, 0xd73f_08e0, 0xd73f_0ce0]) | m);
            }
            2 => {
                fresh30 = false;
                w.x[30] = target;
                words.clear();
                words.push(w.pick(&[0xd503_233f, 0xd503_237f]));
                words.push(w.pick(&[0xd65f_0bff, 0xd65f_0fff]));
            }
            3 => {
                w.x[6] = w.data_va + 0x200;
                words.insert(0, w.pick(&[0xdac1_2be6, 0xdac1_2fe6]));
                words.push(w.pick(&[0xf820_04c2, 0xf8a0_04c2, 0xf820_0cc2]));
            }
            _ => {}
        }
        w.step(p, &words);
    }
    w.finish(class)
}
