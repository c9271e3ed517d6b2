//! What a case is built from: random control registers, and translation tables that lead where the case wants.

use std::collections::BTreeMap;

use ulna_arm_regs::SysReg;
use ulna_conformance::el1::{CODE, Case, DATA, END, NOISY, REGS, Step, TABLES, TABLES_END, VECTORS, noise};

use crate::diff_cpu::Rng;

/// One half of the address space.
#[derive(Clone, Copy, Debug, Default)]
pub struct Half {
    /// The upper one.
    pub high: bool,
    /// Log2 of the granule.
    pub granule: u32,
    /// TCR_EL1.TnSZ.
    pub txsz: u32,
    /// Address of the first table.
    pub root: u64,
}

/// A case in the making.
pub struct World {
    seed: u64,
    /// Randomness.
    pub r: Rng,
    /// Values of REGS.
    pub regs: Vec<u64>,
    words: BTreeMap<u64, u64>,
    next_table: u64,
    /// The half where vectors and code are mapped without surprises.
    pub safe: Half,
    /// The half that is tested.
    pub tested: Half,
    /// TCR_EL1.DS.
    pub ds: bool,
    /// SCTLR_EL1.M.
    pub mmu: bool,
    big_endian_tables: bool,
    tables: BTreeMap<(u64, i32, u64), u64>,
    next_code: u64,
    /// Virtual address of CODE.
    pub code_va: u64,
    /// Virtual address of DATA in the safe half.
    pub data_va: u64,
    /// x0-x30.
    pub x: [u64; 31],
    /// Steps so far.
    pub steps: Vec<Step>,
}

const AF: u64 = 1 << 10;
/// AP: EL0 too.
pub const AP_EL0: u64 = 1 << 6;
/// AP: read-only.
pub const AP_RO: u64 = 1 << 7;
const UXN: u64 = 1 << 54;
const PXN: u64 = 1 << 53;
/// Not global.
pub const NG: u64 = 1 << 11;

/// SCTLR_EL1 bits that are one.
const SCTLR_ONES: u64 = 1 << 29 | 1 << 28 | 1 << 22 | 1 << 11;

/// How a leaf and the tables above it are made.
pub struct Mapping {
    /// Level of the leaf; levels that cannot hold one are corrected.
    pub level: i32,
    /// Bits of the leaf without address and type.
    pub leaf: u64,
    /// Bits of the tables.
    pub table: u64,
    /// One descriptor is damaged: at this level, with this (new descriptor from old).
    pub damage: Option<(i32, u64, u64)>,
}

impl World {
    /// Chance of one in n.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.r.below(n) == 0
    }
    /// `bit` with a chance of one in n.
    pub fn maybe(&mut self, bit: u32, n: u64) -> u64 {
        if self.one_in(n) { 1 << bit } else { 0 }
    }
    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.r.below(from.len() as u64) as usize]
    }
    /// Sets a register of the case.
    pub fn set(&mut self, r: SysReg, v: u64) {
        if let Some(i) = REGS.iter().position(|x| *x == r) {
            self.regs[i] = v;
        }
    }
    /// Reads it.
    pub fn get(&self, r: SysReg) -> u64 {
        REGS.iter().position(|x| *x == r).map_or(0, |i| self.regs[i])
    }

    /// Random registers, vectors, code and data mapped. `wild`: translation controls and SCTLR_EL1 vary fully.
    pub fn new(seed: u64, wild: bool) -> World {
        let mut w = World {
            seed,
            r: Rng::new(seed),
            regs: vec![0; REGS.len()],
            words: BTreeMap::new(),
            next_table: TABLES,
            safe: Half::default(),
            tested: Half::default(),
            ds: false,
            mmu: true,
            big_endian_tables: false,
            tables: BTreeMap::new(),
            next_code: CODE,
            code_va: 0,
            data_va: 0,
            x: [0; 31],
            steps: Vec::new(),
        };
        for i in 0..31 {
            w.x[i] = noise(seed << 8, i as u64);
        }
        w.control(wild);
        w
    }

    fn control(&mut self, wild: bool) {
        self.mmu = !(wild && self.one_in(24));
        let mut sctlr = SCTLR_ONES | u64::from(self.mmu);
        // C, SA, SA0, I, DZE, UCT, nTWI, nTWE, SPAN, UCI
        for b in [2, 3, 4, 12, 14, 15, 16, 18, 23, 26] {
            sctlr |= self.maybe(b, 2);
        }
        sctlr |= 1 << 16 | 1 << 18;
        // EnDB, TSCXT, EnDA, EnIB, EnIA, BT0, BT1, DSSBS, EPAN, UMA, nAA
        for b in [13, 20, 27, 30, 31, 35, 36, 44, 57, 9, 6] {
            sctlr |= self.maybe(b, 2);
        }
        sctlr |= self.maybe(1, 6);
        if wild {
            sctlr |= self.maybe(19, 4) | self.maybe(24, 6) | self.maybe(25, 6);
        }
        self.big_endian_tables = sctlr >> 25 & 1 != 0;
        self.set(SysReg::SCTLR_EL1, sctlr);
        let safe_high = self.one_in(2);
        self.ds = wild && self.one_in(8);
        self.safe = self.half(safe_high);
        self.tested = self.half(!safe_high);
        // IRGN, ORGN, SH; A1, AS, HA, HD, HWU, TBI, TBID, HPD; IPS
        let mut tcr = self.r.bits() & (0x3f << 8 | 0x3f << 24 | 1 << 22 | 1 << 36 | 0xff << 43);
        for b in [37, 38, 51, 52, 41, 42] {
            tcr |= self.maybe(b, 3);
        }
        tcr |= self.maybe(39, 3) | self.maybe(40, 2);
        tcr |= if wild { self.pick(&[0, 1, 2, 3, 4, 5, 5, 5, 6, 6]) } else { 5 } << 32;
        tcr |= u64::from(self.ds) << 59;
        for h in [self.safe, self.tested] {
            if h.high {
                tcr |= u64::from(h.txsz) << 16 | [2, 1, 3][(h.granule as usize - 12) / 2] << 30;
            } else {
                tcr |= u64::from(h.txsz) | [0, 2, 1][(h.granule as usize - 12) / 2] << 14;
            }
        }
        if wild {
            // EPD and E0PD of the tested half
            let (epd, e0pd) = if self.tested.high { (23, 56) } else { (7, 55) };
            tcr |= self.maybe(epd, 24) | self.maybe(e0pd, 8);
        }
        self.set(SysReg::TCR_EL1, tcr);
        let mut mair = 0xff;
        for i in 1..8 {
            mair |= self.pick(&[0xff, 0xff, 0x44, 0x00, 0x04, 0x0c, 0xbb, 0xaa, 0x4f, 0xf4]) << (8 * i);
        }
        self.set(SysReg::MAIR_EL1, mair);
        self.safe.root = self.new_table(self.safe.granule);
        self.tested.root = self.new_table(self.tested.granule);
        for h in [self.safe, self.tested] {
            let asid = self.r.bits() << 48;
            let cnp = self.r.below(2);
            let r = if h.high { SysReg::TTBR1_EL1 } else { SysReg::TTBR0_EL1 };
            self.set(r, h.root | asid | cnp);
        }
        if self.mmu {
            let safe = self.safe;
            let at = self.address(safe, 39);
            let base = at & !0xff_ffff | 0x80_0000;
            let m = |leaf: u64| Mapping { level: 3, leaf, table: 0, damage: None };
            self.map(safe, base, VECTORS, &m(AF | AP_RO));
            self.map(safe, base + 0x1_0000, CODE, &m(AF | AP_RO | AP_EL0));
            for p in 0..4 {
                self.map(safe, base + 0x2_0000 + (p << 12), DATA + (p << 12), &m(AF | AP_EL0 | UXN | PXN));
            }
            self.code_va = base + 0x1_0000;
            self.data_va = base + 0x2_0000;
            self.set(SysReg::VBAR_EL1, base);
        } else {
            self.code_va = CODE;
            self.data_va = DATA;
            self.set(SysReg::VBAR_EL1, VECTORS);
        }
        let v = self.pick(&[0u64, 1, 3, 3, 3]) << 20;
        self.set(SysReg::CPACR_EL1, v);
        for (i, r) in NOISY.iter().enumerate() {
            let v = noise(self.seed << 8, 32 + i as u64);
            self.set(*r, v);
        }
        for r in [SysReg::SP_EL0, SysReg::SP_EL1] {
            let v = self.data_va + 0x800 + self.r.below(64) * 16;
            self.set(r, v);
        }
        let v = self.r.below(4);
        self.set(SysReg::CONTEXTIDR_EL1, v);
    }

    fn half(&mut self, high: bool) -> Half {
        let granule = self.pick(&[12, 14, 16]);
        let (min, max) = match (granule, self.ds) {
            (16, _) => (12, 39),
            (_, true) => (12, 39),
            _ => (16, 39),
        };
        let txsz = match self.r.below(3) {
            0 => min,
            1 => self.pick(&[16, 25, 28, 33]),
            _ => min + self.r.below(u64::from(max - min) + 1) as u32,
        };
        Half { high, granule, txsz, root: 0 }
    }

    /// The tested half with another, empty root.
    pub fn second_root(&mut self) -> Half {
        let root = self.new_table(self.tested.granule);
        Half { root, ..self.tested }
    }

    fn new_table(&mut self, granule: u32) -> u64 {
        let a = (self.next_table + (1 << granule) - 1) & !((1 << granule) - 1);
        self.next_table = a + (1 << granule);
        assert!(self.next_table <= TABLES_END, "tables fill their place");
        a
    }

    /// A random address of the half, of at most so many bits.
    pub fn address(&mut self, h: Half, bits: u32) -> u64 {
        let width = (64 - h.txsz).min(bits.max(20));
        let a = self.r.bits() & ((1 << width) - 1);
        // At least 25 bits are there: txsz <= 39.
        if h.high { a | u64::MAX << (64 - h.txsz) } else { a }
    }

    fn store_descriptor(&mut self, pa: u64, d: u64) {
        let d = if self.big_endian_tables { d.swap_bytes() } else { d };
        self.words.insert(pa, d);
    }

    /// The word of memory in which EL2 would put this descriptor.
    pub fn as_stored(&self, d: u64) -> u64 {
        if self.big_endian_tables { d.swap_bytes() } else { d }
    }

    fn split_address(&self, a: u64, granule: u32) -> u64 {
        if granule == 16 {
            a & 0x0000_ffff_ffff_0000 | (a >> 48 & 0xf) << 12
        } else if self.ds {
            a & 0x0003_ffff_ffff_f000 | (a >> 50 & 3) << 8
        } else {
            a & 0x0000_ffff_ffff_f000
        }
    }

    /// Level of the first table.
    pub fn first_level(h: Half) -> i32 {
        let stride = h.granule - 3;
        4 - ((64 - h.txsz - h.granule).div_ceil(stride)) as i32
    }

    /// Maps the page (or block) of `va` so that `va` leads to `pa`, as far as the size of the leaf allows: the low bits of
    /// `va` must be those of `pa`. Returns address and value of the leaf.
    pub fn map(&mut self, h: Half, va: u64, pa: u64, m: &Mapping) -> (u64, u64) {
        let stride = h.granule - 3;
        let mut level = World::first_level(h);
        let mut table = h.root;
        let mut bits = 64 - h.txsz - ((3 - level) as u32 * stride + h.granule);
        loop {
            let shift = (3 - level) as u32 * stride + h.granule;
            let index = va >> shift & ((1 << bits) - 1);
            let at = table + index * 8;
            if level >= m.level {
                let mut leaf = m.leaf;
                if self.ds && h.granule != 16 {
                    leaf &= !(3 << 8);
                }
                let kind = if level == 3 { 3 } else { 1 };
                let mut d = self.split_address(pa & !((1 << shift) - 1), h.granule) | leaf | kind;
                if let Some((l, clear, set)) = m.damage
                    && l >= level
                {
                    d = d & !clear | set;
                }
                self.store_descriptor(at, d);
                return (at, d);
            }
            let key = (h.root, level, va >> shift);
            let next = match self.tables.get(&key) {
                Some(t) => *t,
                None => {
                    let t = self.new_table(h.granule);
                    self.tables.insert(key, t);
                    t
                }
            };
            let mut d = self.split_address(next, h.granule) | m.table | 3;
            if let Some((l, clear, set)) = m.damage
                && l == level
            {
                d = d & !clear | set;
            }
            self.store_descriptor(at, d);
            table = next;
            level += 1;
            bits = stride;
        }
    }

    /// Log2 of what a leaf at this level maps.
    pub fn leaf_size(h: Half, level: i32) -> u32 {
        (3 - level) as u32 * (h.granule - 3) + h.granule
    }

    /// Writes instructions into the code page; returns their virtual address.
    pub fn code(&mut self, words: &[u32]) -> u64 {
        let at = self.next_code;
        self.code_at(at, words);
        // The next piece does not share a doubleword.
        self.next_code = (at + 4 * words.len() as u64 + 15) & !15;
        self.code_va + (at - CODE)
    }

    /// Writes instructions at this physical address.
    pub fn code_at(&mut self, pa: u64, words: &[u32]) {
        for (n, w) in words.iter().enumerate() {
            self.word(pa + 4 * n as u64, *w);
        }
    }

    fn word(&mut self, pa: u64, w: u32) {
        let e = self.words.entry(pa & !7).or_default();
        let shift = (pa & 4) * 8;
        *e = *e & !(0xffff_ffff << shift) | u64::from(w) << shift;
    }

    /// Random PSTATE of EL0 or EL1 (with SP_EL0 or SP_EL1), debug exceptions masked.
    pub fn pstate(&mut self, el: u64) -> u64 {
        let m = if el == 0 { 0 } else { 4 | self.r.below(2) };
        let mut p = self.r.bits() & (0xf << 28 | 7 << 6) | 1 << 9 | m;
        // DIT, UAO, PAN, SSBS
        for b in [24, 23, 22, 12] {
            p |= self.maybe(b, 3);
        }
        p
    }

    /// A step that executes these words and ends.
    pub fn step(&mut self, pstate: u64, words: &[u32]) {
        let mut all = words.to_vec();
        all.push(END);
        let pc = self.code(&all);
        self.steps.push(Step { pc, pstate, write: (0, 0) });
    }

    /// The case.
    pub fn finish(self, class: u64) -> Case {
        Case {
            class: class | self.seed << 8,
            regs: self.regs,
            x: self.x,
            writes: self.words.into_iter().collect(),
            steps: self.steps,
        }
    }
}
