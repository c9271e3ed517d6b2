//! States of random cases: from a seed and the instructions alone, so that a recording needs no registers.

use crate::el0::{Case, DATA, DATA_LEN, MAX_INSNS, Regs};

/// xorshift64*: repeatable from the seed.
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Rng {
        let mut r = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            r.bits();
        }
        r
    }
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// 0..n
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }
    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Integers at the corners.
fn integer(r: &mut Rng) -> u64 {
    const EDGES: [u64; 14] = [
        0,
        1,
        2,
        u64::MAX,
        1 << 63,
        (1 << 63) - 1,
        0x8000_0000,
        0x7fff_ffff,
        0xffff_ffff,
        0xffff_ffff_8000_0000,
        0x1_0000_0000,
        0xff,
        0x8000,
        63,
    ];
    match r.below(8) {
        0..=2 => r.pick(&EDGES),
        3 => r.below(128),
        4 => r.bits() >> r.below(64),
        _ => r.bits(),
    }
}

fn f64_bits(r: &mut Rng) -> u64 {
    const E: [u64; 17] = [
        0,
        1 << 63,
        0x3ff0_0000_0000_0000,
        0xbff0_0000_0000_0000,
        0x7ff0_0000_0000_0000,
        0xfff0_0000_0000_0000,
        0x7ff8_0000_0000_0000,
        0xfff8_0000_0000_0001,
        0x7ff0_0000_0000_0001,
        0xfff4_0000_0000_0000,
        1,
        0x000f_ffff_ffff_ffff,
        0x0010_0000_0000_0000,
        0x7fef_ffff_ffff_ffff,
        0x43e0_0000_0000_0000,
        0xc3e0_0000_0000_0000,
        0x3fe0_0000_0000_0000,
    ];
    match r.below(8) {
        0..=2 => r.pick(&E),
        3 => (r.bits() & 0x800f_ffff_ffff_ffff) | (0x3f0 + r.below(0x30)) << 52,
        4 => r.bits() & 0x800f_ffff_ffff_ffff,
        5 => (r.below(2000) as i64 - 1000) as f64 as u64 | (r.below(1000) as f64 / 2.0).to_bits(),
        _ => r.bits(),
    }
}

fn f32_bits(r: &mut Rng) -> u32 {
    const E: [u32; 15] = [
        0,
        1 << 31,
        0x3f80_0000,
        0xbf80_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0xffc0_0001,
        0x7f80_0001,
        0xffa0_0000,
        1,
        0x007f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0x4f00_0000,
    ];
    match r.below(8) {
        0..=2 => r.pick(&E),
        3 => (r.bits() as u32 & 0x807f_ffff) | (0x70 + r.below(0x20) as u32) << 23,
        4 => r.bits() as u32 & 0x807f_ffff,
        _ => r.bits() as u32,
    }
}

fn f16_bits(r: &mut Rng) -> u16 {
    const E: [u16; 14] =
        [0, 0x8000, 0x3c00, 0xbc00, 0x7c00, 0xfc00, 0x7e00, 0xfe01, 0x7c01, 0xfd00, 1, 0x3ff, 0x400, 0x7bff];
    if r.one_in(2) { r.pick(&E) } else { r.bits() as u16 }
}

fn vector(r: &mut Rng) -> u128 {
    let mut v = 0u128;
    match r.below(6) {
        0 | 1 => {
            for i in 0..2 {
                v |= u128::from(f64_bits(r)) << (64 * i);
            }
        }
        2 => {
            for i in 0..4 {
                v |= u128::from(f32_bits(r)) << (32 * i);
            }
        }
        3 => {
            for i in 0..8 {
                v |= u128::from(f16_bits(r)) << (16 * i);
            }
        }
        4 => {
            for i in 0..2 {
                v |= u128::from(integer(r)) << (64 * i);
            }
        }
        _ => {
            const B: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x40, 0xfe, 0x55];
            for i in 0..16 {
                let b = if r.one_in(2) { r.pick(&B) } else { r.bits() as u8 };
                v |= u128::from(b) << (8 * i);
            }
        }
    }
    v
}

/// An address in or near the data pages.
fn address(r: &mut Rng) -> u64 {
    let a = match r.below(10) {
        0 => DATA + r.below(64) - 32,
        1 => DATA + DATA_LEN as u64 + r.below(64) - 40,
        2 => DATA + 0x1000 + r.below(64) - 40,
        _ => DATA + 0x200 + r.below(DATA_LEN as u64 - 0x400),
    };
    match r.below(4) {
        0 => a,
        1 => a & !7,
        _ => a & !15,
    }
}

/// FPCR values: mostly the usual one.
fn fpcr(r: &mut Rng) -> u32 {
    if r.one_in(2) {
        return 0;
    }
    // AHP 26, DN 25, FZ 24, RMode 23:22, FZ16 19
    r.bits() as u32 & 0x07c8_0000
}

/// A state for instruction words `insns`.
fn state(r: &mut Rng, insns: &[u32]) -> Regs {
    let mut g = Regs::default();
    let pool: Vec<u64> = (0..4).map(|_| integer(r)).collect();
    for x in &mut g.x {
        *x = match r.below(8) {
            0 => r.pick(&pool),
            1 | 2 => address(r),
            _ => integer(r),
        };
    }
    for v in &mut g.v {
        *v = vector(r);
    }
    g.sp = if r.one_in(8) { address(r) } else { address(r) & !15 };
    g.pstate = r.bits() & 0xf000_0000;
    g.fpsr = if r.one_in(2) { 0 } else { r.bits() as u32 & 0x0800_009f };
    g.fpcr = fpcr(r);
    for &i in insns {
        let (rn, rm) = ((i >> 5 & 31) as usize, (i >> 16 & 31) as usize);
        // Loads and stores: bit 27 set, bit 25 clear. Give them an address, and a small offset register.
        if i >> 25 & 0b101 == 0b100 && !r.one_in(12) {
            if rn < 31 {
                g.x[rn] = address(r);
            }
            if i >> 21 & 1 != 0 && rm < 31 && rm != rn && i >> 24 & 0x3f == 0b111000 {
                g.x[rm] = match r.below(3) {
                    0 => r.below(64),
                    1 => (r.below(64) as i64 - 32) as u64,
                    _ => r.below(64) | r.bits() << 32,
                };
            }
        } else if i >> 25 & 0b101 == 0b100 && rn < 31 {
            // Anywhere, but not in the memory of the reference's own process.
            g.x[rn] |= 0x00f0_0000_0000_0000;
        }
        // BR, BLR, RET: QEMU fetches before it looks at PC alignment, the manual ranks it higher (D1.3.5).
        if i & 0xfe00_0000 == 0xd600_0000 && rn != 31 {
            g.x[rn] = (g.x[rn] & !3) | if g.x[rn] >> 32 == 0 { 1 << 54 } else { 0 };
        }
        // QEMU 7.2 does not check the alignment of LDAPR.
        if i & 0x3fff_fc00 == 0x38bf_c000 {
            g.sp &= !15;
            if rn < 31 {
                g.x[rn] &= !15;
            }
        }
        // QEMU lets an exclusive store fail before it looks at alignment, the manual does not
        // (AArch64.ExclusiveMonitorsPass); and takes address -1 for its closed monitor.
        if i >> 24 & 0x3f == 0b001000 && i >> 22 & 3 == 0 {
            g.sp &= !15;
            if rn < 31 {
                g.x[rn] &= !15;
            }
        }
    }
    g
}

/// Registers for a program of these instructions, and the seed of the data pages.
pub fn regs_for(seed: u64, insns: &[u32]) -> (Regs, u64) {
    let mut r = Rng::new(seed);
    (state(&mut r, insns), r.bits())
}

impl Case {
    /// The case of this seed for these instructions.
    pub fn from_seed(seed: u64, insns: [u32; MAX_INSNS]) -> Case {
        let mut r = Rng::new(seed);
        let regs = state(&mut r, &insns);
        Case { regs, mem_seed: r.bits(), insns }
    }
}

/// Accesses of more than 8 bytes, which may be carried out in part before a fault: what was loaded or stored of them is
/// then not specified (Arm ARM B2.2.1).
pub fn partial_on_fault(w: u32) -> bool {
    let pair = w >> 27 & 0b101 == 0b101 && w >> 25 & 1 == 0;
    let vector = w >> 26 & 1 != 0 && w >> 27 & 1 != 0 && w >> 25 & 1 == 0;
    let pair_of_words = w >> 24 & 0x3f == 0b001000 && w >> 21 & 1 != 0;
    pair || vector || pair_of_words
}
