//! Where vector registers stand: some in registers of the host from the first block that uses vectors on, all others in
//! memory. `Hot::live` tells at run time; blocks that use vectors see to it at their entry, the calling thunks store them
//! before Rust code runs and load them again behind it.

use super::asm::{Asm, Cc, Mem, Reg, Rm, r};
use super::layout::{self, VPINS, v_home, vpin};
use super::translate::{Block, mode, module};
use super::vex::{Map, Op as V, Pp, Xmm, p};
use crate::insn::Insn;

const VMOVQ: V = V(Pp::F3, Map::M0F, false, 0x7e);
const VMOVSS: V = V(Pp::F3, Map::M0F, false, 0x10);
const VMOVDQA: V = p(0x6f);
const VMOVDQA_STORE: V = p(0x7f);
const VMOVDQU: V = V(Pp::F3, Map::M0F, false, 0x6f);
const VMOVDQU_STORE: V = V(Pp::F3, Map::M0F, false, 0x7f);
const VPSHUFD: V = p(0x70);
const UNPACK_HIGH64: V = p(0x6d);

/// Registers of the host below this one are scratch.
const SCRATCH: u8 = 4;

/// Bits that are zero in a register from there on: nothing is known.
pub const ALL: u8 = 128;
/// Zero above 64 bits.
pub const LOW64: u8 = 64;
/// Zero above 32 bits.
pub const LOW32: u8 = 32;

/// vpbroadcastb, w, d, q.
pub const BROADCAST: [V; 4] = [
    V(Pp::P66, Map::M0F38, false, 0x78),
    V(Pp::P66, Map::M0F38, false, 0x79),
    V(Pp::P66, Map::M0F38, false, 0x58),
    V(Pp::P66, Map::M0F38, false, 0x59),
];

/// Moves all of them between registers and memory.
pub fn move_all(a: &mut Asm, load: bool) {
    for (n, x) in VPINS {
        a.v2(if load { VMOVDQA } else { VMOVDQA_STORE }, x, v_home(n));
    }
}

/// Can code of the instruction use vector registers?
fn uses_vectors(i: &Insn) -> bool {
    match module(i) {
        "ldst" => i.bit(26),
        "fp_data" | "fp_int" | "crypto" => true,
        m => m.starts_with("simd_"),
    }
}

impl Block<'_> {
    /// Do instructions of the block need vector registers in their places?
    pub fn wants_vectors(&self, insns: &[Insn]) -> bool {
        self.mode & mode::FP_ON != 0 && insns.iter().any(uses_vectors)
    }

    /// A register as an operand of which all or a lower part is used.
    pub fn v(&self, n: u8) -> Rm {
        debug_assert!(self.vectors);
        match vpin(n) {
            Some(x) => x.into(),
            None => v_home(n).into(),
        }
    }

    /// A register in a register of the host, loaded to `scratch` if need be.
    pub fn vx(&mut self, n: u8, scratch: Xmm) -> Xmm {
        debug_assert!(self.vectors);
        match vpin(n) {
            Some(x) => x,
            None => {
                self.a.v2(VMOVDQA, scratch, v_home(n));
                scratch
            }
        }
    }

    /// A register, or what stands below `bits` with zeros above, for reading: in its own place, or in `scratch`.
    pub fn v_low(&mut self, n: u8, bits: u8, scratch: Xmm) -> Xmm {
        debug_assert!(self.vectors);
        match vpin(n) {
            Some(x) if self.zero_above[usize::from(n)] <= bits => x,
            Some(x) => {
                self.low_of(scratch, x, bits);
                scratch
            }
            None => {
                let op = if bits == ALL {
                    VMOVDQA
                } else if bits == LOW64 {
                    VMOVQ
                } else {
                    VMOVSS
                };
                self.a.v2(op, scratch, v_home(n));
                scratch
            }
        }
    }

    /// Is `v_low` free?
    pub fn v_is_low(&self, n: u8, bits: u8) -> bool {
        vpin(n).is_some() && self.zero_above[usize::from(n)] <= bits
    }

    fn low_of(&mut self, to: Xmm, from: Xmm, bits: u8) {
        match bits {
            LOW64 => self.a.v2(VMOVQ, to, from),
            // vinsertps: lanes 1 to 3 become zero.
            LOW32 => self.a.v3i(V(Pp::P66, Map::M0F3A, false, 0x21), to, from, from, 0x0e),
            _ if to != from => self.a.v2(VMOVDQA, to, from),
            _ => {}
        }
    }

    /// The same as a copy that may be changed.
    pub fn v_copy(&mut self, to: Xmm, n: u8, bits: u8) {
        let x = self.v_low(n, bits, to);
        if x != to {
            self.a.v2(VMOVDQA, to, x);
        }
    }

    /// Where a result for all of `n` may be computed at once: only when nothing can go to a slow path any more.
    pub fn v_target(&self, n: u8, scratch: Xmm) -> Xmm {
        vpin(n).unwrap_or(scratch)
    }

    /// Writes a register; above `zero` bits `x` has zeros.
    pub fn v_put(&mut self, n: u8, x: Xmm, zero: u8) {
        debug_assert!(self.vectors);
        self.zero_above[usize::from(n)] = zero;
        match vpin(n) {
            Some(d) if d == x => {}
            Some(d) => self.a.v2(VMOVDQA, d, x),
            None => self.a.v2(VMOVDQA_STORE, x, v_home(n)),
        }
    }

    /// Writes what stands below `bits`, zeros above.
    pub fn v_put_low(&mut self, n: u8, x: Xmm, bits: u8) {
        if bits == ALL {
            return self.v_put(n, x, ALL);
        }
        // What is passed may be another register's place.
        let to = self.v_target(n, if x.0 < SCRATCH { x } else { Xmm(0) });
        self.low_of(to, x, bits);
        self.v_put(n, to, bits);
    }

    /// An element to a general-purpose register, zeros above.
    pub fn v_element(&mut self, to: Reg, n: u8, size: u32, index: u8) {
        match vpin(n) {
            None => self.a.load_zx(size, to, v_home(n).plus(i32::from(index) << size)),
            Some(x) if index == 0 && size >= 2 => {
                self.a.v_gpr(V(Pp::P66, Map::M0F, size == 3, 0x7e), x, to);
            }
            Some(x) => self.a.v2i(extract(size), x, to, index),
        }
    }

    /// An element in all lanes of `to`.
    pub fn v_broadcast(&mut self, to: Xmm, n: u8, size: u32, index: u8) {
        match (vpin(n), size) {
            (None, _) => {
                self.a.v2(BROADCAST[size as usize], to, v_home(n).plus(i32::from(index) << size));
            }
            (Some(x), 2) => self.a.v2i(VPSHUFD, to, x, index * 0x55),
            (Some(x), 3) if index != 0 => self.a.v3(UNPACK_HIGH64, to, x, x),
            (Some(x), _) => {
                let from = if index != 0 {
                    self.a.v_shift(0x73, 3, to, x, index << size);
                    to
                } else {
                    x
                };
                self.a.v2(BROADCAST[size as usize], to, from);
            }
        }
    }

    /// The upper half, at least in the low 64 bits of an operand.
    pub fn v_upper(&mut self, n: u8, scratch: Xmm) -> Rm {
        match vpin(n) {
            None => v_home(n).plus(8).into(),
            Some(x) => {
                self.a.v3(UNPACK_HIGH64, scratch, x, x);
                scratch.into()
            }
        }
    }

    /// Loads a register from memory; what is above becomes zero. Uses RDX for 8 and 16 bits.
    pub fn v_from_memory(&mut self, size: u32, n: u8, host: Mem) {
        let t = self.v_target(n, Xmm(0));
        match size {
            4 => self.a.v2(VMOVDQU, t, host),
            3 => self.a.v2(VMOVQ, t, host),
            2 => self.a.v2(VMOVSS, t, host),
            _ => {
                self.a.load_zx(size, r::RDX, host);
                self.a.v_gpr(V(Pp::P66, Map::M0F, false, 0x6e), t, r::RDX);
            }
        }
        self.v_put(n, t, [LOW32, LOW32, LOW32, LOW64, ALL][size as usize]);
    }

    /// Stores the low bits of a register. Uses RDX.
    pub fn v_to_memory(&mut self, size: u32, n: u8, host: Mem) {
        match (vpin(n), size) {
            (_, 4) => {
                let x = self.vx(n, Xmm(0));
                self.a.v2(VMOVDQU_STORE, x, host);
            }
            (Some(x), 3) => self.a.v2(p(0xd6), x, host),
            (Some(x), 2) => self.a.v2(p(0x7e), x, host),
            (Some(x), _) => self.a.v2i(extract(size), x, host, 0),
            (None, _) => {
                self.a.load_zx(size.max(2), r::RDX, v_home(n));
                self.a.store(size, host, r::RDX);
            }
        }
    }

    /// At the entry: registers go to their places. Clobbers EFLAGS.
    pub fn place_vectors(&mut self) {
        let (from, back) = self.load_vectors();
        self.a.cmp8_zero(layout::LIVE);
        self.a.jcc(Cc::E, from);
        self.a.bind(back);
    }
}

/// vpextrb, vpextrw, vpextrd, vpextrq.
pub fn extract(size: u32) -> V {
    match size {
        0 => V(Pp::P66, Map::M0F3A, false, 0x14),
        1 => V(Pp::P66, Map::M0F3A, false, 0x15),
        _ => V(Pp::P66, Map::M0F3A, size == 3, 0x16),
    }
}
