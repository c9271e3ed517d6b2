//! The translator to host code (tier 1): blocks of decoded instructions become x86-64 code, one by one.
//!
//! # How it works
//! The interpreter finds and decodes blocks and executes each a few times; a block that stays in use is translated from its
//! decoded instructions. What the translator does not know it turns into a call of the interpreter's handler for that one
//! instruction, and the slow path of what it does know is the same call: every instruction therefore works, and exceptions
//! and exits are those of the interpreter. The code of a PE is its own, made and executed by its thread only.
//!
//! * `asm`, `vex`: the encoder. `memory`: where code stands. `thunk`: entry, exit, calls. `layout`: registers, flags.
//! * `translate`: a block; `flags`, `integer*`, `access`, `branch`, `vector*`, `hashes`: groups of instructions. `vregs`:
//!   where vector registers stand.
//! * `run`: the loop around generated code, and what it calls. `check`: the loop that compares. `options`: counters.
//!
//! # Leaving and invalidation
//! Blocks on one page jump to one another directly; everything else goes through the jump cache, by PC and fetch context,
//! and what that does not know through the tables of pages; both are emptied with the instruction TLB. A page whose code was written has the entries of its blocks overwritten with
//! jumps out. Counting is exact: each block takes its instructions off the fuel that `run` has left, before it starts.

use crate::mem::zeroed::{Zeroable, Zeroed};

#[cfg(target_arch = "x86_64")]
mod access;
#[cfg(target_arch = "x86_64")]
pub mod asm;
#[cfg(all(test, target_arch = "x86_64"))]
mod asm_tests;
#[cfg(target_arch = "x86_64")]
mod atomic;
#[cfg(target_arch = "x86_64")]
mod branch;
#[cfg(target_arch = "x86_64")]
mod check;
#[cfg(target_arch = "x86_64")]
mod flags;
#[cfg(target_arch = "x86_64")]
mod hashes;
#[cfg(target_arch = "x86_64")]
mod integer;
#[cfg(target_arch = "x86_64")]
mod integer_bits;
#[cfg(target_arch = "x86_64")]
pub(crate) mod layout;
#[cfg(target_arch = "x86_64")]
mod memory;
#[cfg(target_arch = "x86_64")]
mod run;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
#[cfg(target_arch = "x86_64")]
mod thunk;
#[cfg(target_arch = "x86_64")]
mod translate;
#[cfg(target_arch = "x86_64")]
mod vector;
#[cfg(target_arch = "x86_64")]
mod vector_fp;
#[cfg(target_arch = "x86_64")]
mod vector_fp_convert;
#[cfg(target_arch = "x86_64")]
mod vector_media;
#[cfg(target_arch = "x86_64")]
mod vector_more;
#[cfg(target_arch = "x86_64")]
pub mod vex;
#[cfg(target_arch = "x86_64")]
mod vregs;
#[cfg(target_arch = "x86_64")]
pub(crate) use run::Jit;

#[cfg(not(target_arch = "x86_64"))]
mod absent;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) use absent::Jit;

pub mod options;
pub use options::{Counters, EngineOptions, EngineReport, HotBlock};

/// What executes instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// The interpreter.
    #[default]
    Interp,
    /// The translator, after the interpreter saw a block a few times.
    Jit,
    /// Both, block by block from the same state; stops at the first difference.
    Check,
}

/// Entries of the jump cache.
pub(crate) const JUMP_ENTRIES: usize = 16384;

/// What generated code reads and writes beside the architectural state.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Hot {
    /// Constants of vector instructions.
    pub consts: [u128; 36],
    /// Fuel when not in its register.
    pub fuel: i64,
    /// Fetch contexts by half of the address space, shifted above the address.
    pub fetch: [u64; 2],
    /// What is added to an address to find its place in the jump cache, by half of the address space.
    pub hash: [u64; 2],
    /// Address of the jump cache's entries.
    pub jumps: u64,
    /// Address of the entries of pages.
    pub pages: u64,
    /// Which lines matter, by PSTATE.DAIF.
    pub attention: [u32; 16],
    /// Address of the lines word.
    pub lines: u64,
    /// Address of the first-level TLB.
    pub tlb: u64,
    /// Instruction count when the fuel is used up.
    pub end: u64,
    /// The link that code was left through.
    pub link: u32,
    /// NZCV in the form of generated code.
    pub flags: u16,
    /// The host's control and status of SIMD arithmetic, while Rust code runs.
    pub mxcsr: u32,
    /// Not zero: vector registers stand in host registers.
    pub live: u32,
    /// PSTATE.BTYPE before the instruction that is executed next, as long as the fuel is `btype_fuel`; 0 afterwards.
    pub btype: u32,
    /// See there.
    pub btype_fuel: i64,
    /// How the counter follows the host's time stamps: from which one on, how many, ticks each, ticks at the start.
    pub clock_start: u64,
    /// See there.
    pub clock_len: u64,
    /// See there.
    pub clock_mult: u64,
    /// See there.
    pub clock_base: [u64; 2],
    /// Forms of flags after comparisons of floating-point numbers.
    pub compared: [[u16; 0x48]; 2],
}

/// All exceptions masked, round to nearest, nothing cumulated.
pub(crate) const MXCSR: u32 = 0x1f80;

/// The polynomial of CRC32, reflected, with its highest coefficient in bit 0.
const CRC_POLY: u64 = 0x1_db71_0641;

/// The upper coefficients of x^96 divided by that polynomial, reflected: the highest one is bit 0.
const CRC_QUOTIENT: u64 = {
    // Long division: `rest` holds 33 coefficients from the highest on, in bits from 0 on.
    let (mut rest, mut q, mut n) = (1u64, 0u64, 0);
    while n < 64 {
        if rest & 1 != 0 {
            q |= 1 << n;
            rest ^= CRC_POLY;
        }
        rest >>= 1;
        n += 1;
    }
    q
};

impl Default for Hot {
    fn default() -> Self {
        let all = |v: u64| u128::from(v) << 64 | u128::from(v);
        let words = |v: u32| all(u64::from(v) << 32 | u64::from(v));
        let single = |v: f32| words(v.to_bits());
        let double = |v: f64| all(v.to_bits());
        // The order of bytes that swaps groups of `from` bytes within `to`.
        let reverse = |from: u8, to: u8| {
            u128::from_le_bytes(std::array::from_fn(|n| {
                let n = n as u8;
                n / to * to + (to / from - 1 - n % to / from) * from + n % from
            }))
        };
        // By AH: greater, less, equal, unordered in the form of subtractions (see `layout::Flags16`).
        let compared = |greater: u16, less: u16| {
            let mut t = [0; 0x48];
            (t[0x02], t[0x03], t[0x42], t[0x47]) = (greater, less, 0x4000, 0x0001);
            t
        };
        Hot {
            consts: [
                u128::MAX,
                all(0x7fff_ffff_7fff_ffff),
                all(0x7fff_ffff_ffff_ffff),
                0x8000_0000,
                0x8000_0000_0000_0000,
                all(0x0080_0000_0080_0000),
                all(0x0010_0000_0000_0000),
                all(0x0f0f_0f0f_0f0f_0f0f),
                0x0403_0302_0302_0201_0302_0201_0201_0100,
                all(0x7070_7070_7070_7070),
                all(0x00ff_00ff_00ff_00ff),
                all(0x0000_ffff_0000_ffff),
                reverse(1, 2),
                reverse(1, 4),
                reverse(1, 8),
                reverse(2, 4),
                reverse(2, 8),
                all(0xff),
                u128::from(CRC_POLY) << 64 | u128::from(CRC_QUOTIENT),
                all(0x0101_0101_0101_0101),
                all(0x0000_00ff_0000_00ff),
                all(0x8000_0000_8000_0000),
                all(0x8000_0000_0000_0000),
                single(1073741824.0),
                double(1073741824.0),
                single(4611686018427387904.0),
                double(4611686018427387904.0),
                single(0.5),
                double(0.5),
                single(1.0),
                double(1.0),
                words(0x5a82_7999),
                words(0x6ed9_eba1),
                words(0x8f1b_bcdc),
                u128::from_le_bytes([0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]),
                u128::from_le_bytes([0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]),
            ],
            fuel: 0,
            fetch: [0; 2],
            hash: [0; 2],
            jumps: 0,
            pages: 0,
            attention: std::array::from_fn(|n| crate::cpu::attention((n as u32) << 6)),
            lines: 0,
            tlb: 0,
            end: 0,
            link: 0,
            flags: 0,
            mxcsr: MXCSR,
            live: 0,
            btype: 0,
            btype_fuel: 0,
            clock_start: 0,
            clock_len: 0,
            clock_mult: 0,
            clock_base: [0; 2],
            compared: [compared(0, 0x8100), compared(0x8100, 0)],
        }
    }
}

/// An entry of the jump cache.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct JumpEntry {
    /// PC, exclusive-ored with its fetch context.
    pub tag: u64,
    /// Address of the code.
    pub host: u64,
}

// SAFETY: integers.
unsafe impl Zeroable for JumpEntry {}

/// Processes that run the same program have it at different places in the jump cache; the upper half is the kernel's, which
/// is the same for all of them.
#[cfg(target_arch = "x86_64")]
pub(crate) fn jump_hash(half: usize, context: u64) -> u64 {
    if half == 0 { context << 7 } else { 0 }
}

/// Where translations of a page's code stand, by word; 0 where there is none.
pub(crate) type PageTable = [u32; 1024];

/// An entry of the second level: a page, by PC and fetch context.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct PageEntry {
    /// Address of the page, exclusive-ored with its fetch context; 0 for none.
    pub tag: u64,
    /// Address of its [`PageTable`], which is its code page's as long as the entry stands here.
    pub table: u64,
}

// SAFETY: integers.
unsafe impl Zeroable for PageEntry {}

/// Entries of the second level.
pub(crate) const PAGE_ENTRIES: usize = 4096;

/// Words of the set of pages with code.
const SEEN: usize = 1024;

/// Where translated code for a PC stands.
#[derive(Default)]
pub(crate) struct JumpCache {
    pub entries: Zeroed<[JumpEntry; JUMP_ENTRIES]>,
    /// What knows whole pages.
    pub pages: Zeroed<[PageEntry; PAGE_ENTRIES]>,
    /// Pages that code was found on, hashed.
    seen: Zeroed<[u64; SEEN]>,
    /// There are some.
    any: bool,
}

impl JumpCache {
    fn index(pc: u64, hash: u64) -> usize {
        (pc.wrapping_add(hash) >> 2) as usize & (JUMP_ENTRIES - 1)
    }
    fn bit(va: u64) -> (usize, u64) {
        let page = va >> 12;
        ((page >> 6) as usize & (SEEN - 1), 1 << (page & 63))
    }
    /// Code is on the page of `pc`.
    pub fn see(&mut self, pc: u64) {
        let (word, bit) = Self::bit(pc);
        self.seen[word] |= bit;
        self.any = true;
    }
    /// May code have been found on one of these pages?
    pub fn saw(&self, va: u64, pages: u64) -> bool {
        let seen = |p: u64| {
            let (word, bit) = Self::bit(va.wrapping_add(p << 12));
            self.seen[word] & bit != 0
        };
        self.any && (pages > 512 || (0..pages).any(seen))
    }
    /// Enters the page of a PC.
    pub fn insert_page(&mut self, pc: u64, fetch: u64, hash: u64, table: &PageTable) {
        let index = ((pc >> 12) + (hash >> 2)) as usize & (PAGE_ENTRIES - 1);
        self.pages[index] = PageEntry { tag: (pc ^ fetch) & !0xfff, table: table.as_ptr() as u64 };
    }
    /// Forgets all pages.
    pub fn forget_pages(&mut self) {
        self.pages.fill(PageEntry { tag: 0, table: 0 });
    }
    /// Enters code for a PC.
    pub fn insert(&mut self, pc: u64, fetch: u64, hash: u64, host: u64) {
        self.see(pc);
        self.entries[Self::index(pc, hash)] = JumpEntry { tag: pc ^ fetch, host };
    }
    /// Forgets one piece of code.
    pub fn remove(&mut self, pc: u64, hash: u64, host: u64) {
        let e = &mut self.entries[Self::index(pc, hash)];
        if e.host == host {
            e.tag = 0;
        }
    }
    /// Forgets everything.
    pub fn clear(&mut self) {
        if self.any {
            self.forget_pages();
            self.entries.fill(JumpEntry { tag: 0, host: 0 });
            self.seen.fill(0);
            self.any = false;
        }
    }
    /// Forgets what stands on these pages.
    pub fn clear_pages(&mut self, va: u64, pages: u64) {
        // The context stands above 48 bits of address.
        const LOW: u64 = (1 << 48) - 1;
        for e in self.pages.iter_mut() {
            if (e.tag & LOW).wrapping_sub(va & LOW & !0xfff) & LOW < pages << 12 {
                e.tag = 0;
            }
        }
        for e in self.entries.iter_mut() {
            if (e.tag & LOW).wrapping_sub(va & LOW & !0xfff) & LOW < pages << 12 {
                e.tag = 0;
            }
        }
    }
}
