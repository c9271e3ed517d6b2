//! Loads and stores with the TLB hit inline; the slow path is the interpreter's handler.

use super::asm::{Alu, Cc, Label, Mem, Reg, Shift, r};
use super::layout::{self, TLB, pin};
use super::translate::{Block, mode, module};
use super::vex::{Map, Op as V, Pp, Xmm};
use crate::Feat;
use crate::decode::Op;
use crate::insn::{Insn, SP};
use crate::mem::tlb::Entry;

/// Vector moves.
pub(super) const VMOVDQU_LOAD: V = V(Pp::F3, Map::M0F, false, 0x6f);
pub(super) const VMOVDQU_STORE: V = V(Pp::F3, Map::M0F, false, 0x7f);
pub(super) const VMOVQ_LOAD: V = V(Pp::P66, Map::M0F, true, 0x6e);

/// How the address is formed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Address {
    Offset,
    Pre,
    Post,
    Register,
    Literal,
}

/// A load or store.
#[derive(Clone, Copy, Debug)]
struct Access {
    load: bool,
    /// Log2 of the bytes of one register.
    size: u32,
    pair: bool,
    vector: bool,
    /// Sign extension, and whether to 64 bits.
    signed: Option<bool>,
    address: Address,
}

/// What the instruction does, if it is one of these.
fn access_of(i: &Insn) -> Option<Access> {
    if module(i) != "ldst"
        || matches!(i.op, Op::PRFM_imm | Op::PRFM_reg | Op::PRFM_lit | Op::PRFUM | Op::LDRAA | Op::LDRAB)
    {
        return None;
    }
    let vector = i.bit(26);
    let two = i.bits(30, 2);
    let a = Access { load: true, size: two, pair: false, vector, signed: None, address: Address::Offset };
    Some(match i.bits(27, 3) {
        0b101 => {
            let address = match i.bits(23, 2) {
                1 => Address::Post,
                3 => Address::Pre,
                _ => Address::Offset,
            };
            let size = if vector { 2 + two } else { 2 + (two >> 1) };
            let signed = if !vector && two == 1 { Some(true) } else { None };
            Access { load: i.bit(22), size, pair: true, signed, address, ..a }
        }
        0b011 => Access {
            size: if vector { 2 + two } else { [2, 3, 2, 0][two as usize] },
            signed: if !vector && two == 2 { Some(true) } else { None },
            address: Address::Literal,
            ..a
        },
        _ => {
            let address = match (i.bit(24), i.bit(21), i.bits(10, 2)) {
                (true, _, _) | (_, false, 0) => Address::Offset,
                (_, false, 1) => Address::Post,
                (_, false, 3) => Address::Pre,
                (_, true, 2) => Address::Register,
                // Unprivileged.
                _ => return None,
            };
            let opc = i.bits(22, 2);
            if vector {
                let size = if opc & 2 != 0 { 4 } else { two };
                Access { load: opc & 1 != 0, size, address, ..a }
            } else {
                let signed = [None, None, Some(true), Some(false)][opc as usize];
                Access { load: opc != 0, signed, address, ..a }
            }
        }
    })
}

/// General-purpose registers that the instruction writes, as a set by index, if it is one of these.
pub(super) fn writes(i: &Insn) -> Option<u64> {
    let a = access_of(i)?;
    let mut set = 0;
    if a.load && !a.vector {
        set |= 1 << i.rd;
        if a.pair {
            set |= 1 << i.ra;
        }
    }
    if matches!(a.address, Address::Pre | Address::Post) {
        set |= 1 << i.rn;
    }
    Some(set)
}

impl Block<'_> {
    /// Translates the instruction if it belongs here.
    pub fn access(&mut self, i: &Insn) -> bool {
        let Some(a) = access_of(i) else {
            return self.ordered(i) || self.atomic(i) || self.exclusive(i) || self.zero(i);
        };
        if a.vector && self.mode & mode::FP_ON == 0 {
            return false;
        }
        let (slow, back) = self.slow_path(i);
        let bytes = (1 << a.size) << u32::from(a.pair);
        // The address to RAX.
        match a.address {
            Address::Literal => self.a.mov_i(r::RAX, self.pc().wrapping_add(i.imm)),
            Address::Post => self.address(i, 0, slow),
            Address::Register => self.register_address(i, slow),
            _ => self.address(i, i.imm as i64, slow),
        }
        let host = self.tlb_hit(bytes, !a.load, slow);
        if a.load {
            self.transfer_in(i, a, host);
        } else {
            self.transfer_out(i, a, host);
        }
        match a.address {
            Address::Pre => self.write_back(i, 0),
            Address::Post => self.write_back(i, i.imm as i32),
            _ => {}
        }
        if i.rn == SP && matches!(a.address, Address::Pre | Address::Post) {
            self.sp_aligned = i.imm & 15 == 0;
        }
        self.a.bind(back);
        true
    }

    /// RAX = base + offset; looks at the alignment of SP.
    pub(super) fn address(&mut self, i: &Insn, offset: i64, slow: Label) {
        self.check_sp(i.rn, slow);
        if let Some(v) = self.known(i.rn) {
            return self.a.mov_i(r::RAX, v.wrapping_add(offset as u64));
        }
        match pin(i.rn) {
            Some(p) if offset != 0 => self.a.lea(true, r::RAX, Mem::at(p, offset as i32)),
            _ => {
                self.get_into(true, r::RAX, i.rn);
                if offset != 0 {
                    self.a.alu_i(Alu::Add, true, r::RAX, offset as i32);
                }
            }
        }
    }

    /// Leaves to the slow path where SP is not a multiple of 16: there it is found out whether that matters.
    fn check_sp(&mut self, rn: u8, slow: Label) {
        if rn != SP || self.sp_aligned {
            return;
        }
        self.sp_aligned = true;
        match pin(SP) {
            Some(p) => self.a.test8_i(p, 15),
            None => self.a.test8_i(layout::x(SP), 15),
        }
        self.a.jcc(Cc::Ne, slow);
    }

    fn register_address(&mut self, i: &Insn, slow: Label) {
        self.check_sp(i.rn, slow);
        let shift = i.aux & 7;
        let m = self.rm(i.rm);
        let index = if i.aux & 0x80 != 0 {
            self.a.load_sx(2, true, r::RCX, m);
            r::RCX
        } else if i.imm == u64::MAX {
            self.get(true, i.rm, r::RCX)
        } else {
            self.a.load_zx(2, r::RCX, m);
            r::RCX
        };
        let n = self.get(true, i.rn, r::RAX);
        if shift <= 3 {
            self.a.lea(true, r::RAX, Mem::indexed(n, index, shift, 0));
        } else {
            self.a.mov(true, r::RDX, index);
            self.a.shift(Shift::Shl, true, r::RDX, shift);
            self.a.lea(true, r::RAX, Mem::indexed(n, r::RDX, 0, 0));
        }
    }

    /// The address in RAX, `bytes` long, as memory of the host: RAX stays, RCX is the difference. RDX is used.
    pub fn tlb_hit(&mut self, bytes: i32, write: bool, slow: Label) -> Mem {
        const _: () = assert!(size_of::<Entry>() == 32);
        let tag = if write { std::mem::offset_of!(Entry, tag_w) } else { std::mem::offset_of!(Entry, tag_r) };
        self.a.mov(false, r::RCX, r::RAX);
        self.a.shift(Shift::Shr, false, r::RCX, 12 - 5);
        self.a.alu(Alu::And, false, r::RCX, layout::TLB_SPAN);
        if bytes > 1 {
            self.a.lea(true, r::RDX, Mem::at(r::RAX, bytes - 1));
        } else {
            self.a.mov(true, r::RDX, r::RAX);
        }
        self.a.alu_i(Alu::And, true, r::RDX, -4096);
        self.a.alu(Alu::Or, true, r::RDX, self.data_context());
        self.a.alu(Alu::Cmp, true, r::RDX, Mem::indexed(TLB, r::RCX, 0, tag as i32));
        self.a.jcc(Cc::Ne, slow);
        self.a.mov(true, r::RCX, Mem::indexed(TLB, r::RCX, 0, std::mem::offset_of!(Entry, addend) as i32));
        Mem::indexed(r::RAX, r::RCX, 0, 0)
    }

    /// The context number that data most likely have: that of the half of the address space that the code is in.
    fn data_context(&self) -> Mem {
        layout::CTX.plus(8 * (self.pc() >> 63) as i32)
    }

    fn transfer_in(&mut self, i: &Insn, a: Access, host: Mem) {
        let step = 1 << a.size;
        if a.vector {
            self.v_from_memory(a.size, i.rd, host);
            if a.pair {
                self.v_from_memory(a.size, i.ra, host.plus(step));
            }
            return;
        }
        if !a.pair {
            // The base must stay when it is written back.
            let writes_back = matches!(a.address, Address::Pre | Address::Post);
            let t = if i.rd == i.rn && writes_back { r::RDX } else { self.result(i.rd) };
            self.load_general(a, t, host);
            return self.put(i.rd, t);
        }
        if a.size == 3 && self.features.has(Feat::LSE2) {
            // Single-copy atomic where aligned.
            self.a.v2(VMOVDQU_LOAD, Xmm(0), host);
            self.a.v_gpr(V(Pp::P66, Map::M0F, true, 0x7e), Xmm(0), r::RDX);
            self.a.v2i(V(Pp::P66, Map::M0F3A, true, 0x16), Xmm(0), r::RCX, 1);
        } else {
            self.load_general(a, r::RDX, host);
            self.load_general(a, r::RCX, host.plus(step));
        }
        self.put(i.ra, r::RCX);
        self.put(i.rd, r::RDX);
    }

    /// Where a loaded value goes: the register's own place, or RDX.
    fn result(&self, n: u8) -> Reg {
        pin(n).unwrap_or(r::RDX)
    }

    fn load_general(&mut self, a: Access, t: Reg, host: Mem) {
        match a.signed {
            Some(to64) => self.a.load_sx(a.size, to64, t, host),
            None => self.a.load_zx(a.size, t, host),
        }
    }

    fn transfer_out(&mut self, i: &Insn, a: Access, host: Mem) {
        let step = 1 << a.size;
        if a.vector {
            self.v_to_memory(a.size, i.rd, host);
            if a.pair {
                self.v_to_memory(a.size, i.ra, host.plus(step));
            }
            return;
        }
        if a.pair && a.size == 3 && self.features.has(Feat::LSE2) {
            let (lo, hi) = (self.rm(i.rd), self.rm(i.ra));
            self.a.v_gpr(VMOVQ_LOAD, Xmm(0), lo);
            self.a.v3i(V(Pp::P66, Map::M0F3A, true, 0x22), Xmm(0), Xmm(0), hi, 1);
            self.a.v2(VMOVDQU_STORE, Xmm(0), host);
            return;
        }
        let v = self.get(a.size == 3, i.rd, r::RDX);
        self.a.store(a.size, host, v);
        if a.pair {
            let v = self.get(a.size == 3, i.ra, r::RDX);
            self.a.store(a.size, host.plus(step), v);
        }
    }

    /// The base becomes RAX + `by`.
    pub(super) fn write_back(&mut self, i: &Insn, by: i32) {
        if by != 0 {
            match pin(i.rn) {
                Some(p) => {
                    self.a.lea(true, p, Mem::at(r::RAX, by));
                    self.put(i.rn, p);
                }
                None => {
                    self.a.alu_i(Alu::Add, true, r::RAX, by);
                    self.put(i.rn, r::RAX);
                }
            }
        } else {
            self.put(i.rn, r::RAX);
        }
    }

    /// Load-acquire and store-release.
    fn ordered(&mut self, i: &Insn) -> bool {
        use Op::*;
        let (load, size) = match i.op {
            LDARB | LDAPRB | LDLARB => (true, 0),
            LDARH | LDAPRH | LDLARH => (true, 1),
            LDAR | LDAPR | LDLAR => (true, i.bits(30, 2)),
            STLRB | STLLRB => (false, 0),
            STLRH | STLLRH => (false, 1),
            STLR | STLLR => (false, i.bits(30, 2)),
            _ => return false,
        };
        let (slow, back) = self.slow_path(i);
        self.address(i, i.imm as i64, slow);
        if size > 0 {
            self.a.test8_i(r::RAX, (1 << size) - 1);
            self.a.jcc(Cc::Ne, slow);
        }
        let host = self.tlb_hit(1 << size, !load, slow);
        if load {
            let t = self.result(i.rd);
            self.a.load_zx(size, t, host);
            self.put(i.rd, t);
        } else {
            let v = self.get(size == 3, i.rd, r::RDX);
            self.a.store(size, host, v);
            self.a.fence();
        }
        self.a.bind(back);
        true
    }
}
