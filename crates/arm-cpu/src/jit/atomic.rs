//! Atomic and exclusive accesses, and DC ZVA. What is not aligned, or not in the TLB, is for the handler.

use super::access::VMOVDQU_STORE;
use super::asm::{Alu, Cc, Mem, Unary, r};
use super::layout::{self, monitor};
use super::translate::{Block, mode};
use super::vex::{Map, Op as V, Pp, Xmm};
use crate::SysReg;
use crate::decode::Op;
use crate::insn::Insn;

/// What becomes of memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rmw {
    Add,
    Swap,
    Compare,
    Loop(Alu),
    Clear,
}

impl Block<'_> {
    /// LSE atomics but minimum, maximum and pairs.
    pub(super) fn atomic(&mut self, i: &Insn) -> bool {
        use Op::*;
        let what = match i.op {
            LDADD | LDADDB | LDADDH => Rmw::Add,
            SWP | SWPB | SWPH => Rmw::Swap,
            CAS | CASB | CASH => Rmw::Compare,
            LDSET | LDSETB | LDSETH => Rmw::Loop(Alu::Or),
            LDEOR | LDEORB | LDEORH => Rmw::Loop(Alu::Xor),
            LDCLR | LDCLRB | LDCLRH => Rmw::Clear,
            _ => return false,
        };
        let size = i.bits(30, 2);
        let (slow, back) = self.slow_path(i);
        self.aligned_address(i, size, slow);
        let host = self.tlb_hit(1 << size, true, slow);
        match what {
            Rmw::Add | Rmw::Swap => {
                self.get_into(size == 3, r::RDX, i.rm);
                if what == Rmw::Add {
                    self.a.lock_xadd(size, host, r::RDX);
                } else {
                    self.a.xchg(size, host, r::RDX);
                }
                if size < 2 {
                    self.a.load_zx(size, r::RDX, r::RDX);
                }
                self.put(i.rd, r::RDX);
            }
            Rmw::Compare => {
                self.a.lea(true, r::RCX, host);
                self.get_into(size == 3, r::RDX, i.rd);
                self.get_into(size == 3, r::RAX, i.rm);
                self.a.lock_cmpxchg(size, Mem::at(r::RCX, 0), r::RDX);
                if size < 3 {
                    self.a.load_zx(size, r::RAX, r::RAX);
                }
                self.put(i.rm, r::RAX);
            }
            Rmw::Loop(_) | Rmw::Clear => {
                self.a.lea(true, r::RCX, host);
                self.a.load_zx(size, r::RAX, Mem::at(r::RCX, 0));
                let again = self.a.label();
                self.a.bind(again);
                self.get_into(true, r::RDX, i.rm);
                if let Rmw::Loop(op) = what {
                    self.a.alu(op, true, r::RDX, r::RAX);
                } else {
                    self.a.unary(Unary::Not, true, r::RDX);
                    self.a.alu(Alu::And, true, r::RDX, r::RAX);
                }
                self.a.lock_cmpxchg(size, Mem::at(r::RCX, 0), r::RDX);
                self.a.jcc(Cc::Ne, again);
                self.put(i.rd, r::RAX);
            }
        }
        self.a.bind(back);
        true
    }

    /// The address to RAX; to the slow path when it is no multiple of the size.
    fn aligned_address(&mut self, i: &Insn, size: u32, slow: super::asm::Label) {
        self.address(i, 0, slow);
        if size > 0 {
            self.a.test8_i(r::RAX, (1 << size) - 1);
            self.a.jcc(Cc::Ne, slow);
        }
    }

    /// Load-exclusive, store-exclusive of one register.
    pub(super) fn exclusive(&mut self, i: &Insn) -> bool {
        use Op::*;
        let load = match i.op {
            LDXR | LDAXR | LDXRB | LDAXRB | LDXRH | LDAXRH => true,
            STXR | STLXR | STXRB | STLXRB | STXRH | STLXRH => false,
            _ => return false,
        };
        let size = i.bits(30, 2);
        let (slow, back) = self.slow_path(i);
        self.aligned_address(i, size, slow);
        if load {
            let host = self.tlb_hit(1 << size, false, slow);
            self.a.load_zx(size, r::RDX, host);
            self.a.store(3, monitor::VA, r::RAX);
            self.a.store(3, monitor::VALUE, r::RDX);
            self.a.store_i(true, monitor::VALUE.plus(8), 0);
            self.a.store8_i(monitor::SIZE, 1 << size);
            self.a.store8_i(monitor::ARMED, 1);
            self.put(i.rd, r::RDX);
        } else {
            // A store that fails is for the handler as well.
            self.a.alu8_i(Alu::Cmp, monitor::ARMED, 0);
            self.a.jcc(Cc::E, slow);
            self.a.alu8_i(Alu::Cmp, monitor::SIZE, 1 << size);
            self.a.jcc(Cc::Ne, slow);
            self.a.alu(Alu::Cmp, true, r::RAX, monitor::VA);
            self.a.jcc(Cc::Ne, slow);
            let host = self.tlb_hit(1 << size, true, slow);
            self.a.lea(true, r::RCX, host);
            self.get_into(size == 3, r::RDX, i.rd);
            self.a.mov(true, r::RAX, monitor::VALUE);
            self.a.store8_i(monitor::ARMED, 0);
            self.a.lock_cmpxchg(size, Mem::at(r::RCX, 0), r::RDX);
            self.a.set(Cc::Ne, r::RAX);
            self.a.load_zx(0, r::RAX, r::RAX);
            self.put(i.rm, r::RAX);
        }
        self.a.bind(back);
        true
    }

    /// DC ZVA.
    pub(super) fn zero(&mut self, i: &Insn) -> bool {
        let zva = i.op == Op::SYS && i.raw & 0x0007_ffe0 == 0x0003_7420;
        let bytes = 4i32 << (self.dczid & 15).min(9);
        if !zva || !(16..=256).contains(&bytes) {
            return false;
        }
        let (slow, back) = self.slow_path(i);
        if self.mode & mode::EL1 == 0 {
            // SCTLR_EL1.DZE
            self.a.test8_i(layout::sys(SysReg::SCTLR_EL1).plus(1), 1 << (14 - 8));
            self.a.jcc(Cc::E, slow);
        }
        self.get_into(true, r::RAX, i.rd);
        self.a.alu_i(Alu::And, true, r::RAX, -bytes);
        let host = self.tlb_hit(bytes, true, slow);
        let zero = Xmm(0);
        self.a.v3(V(Pp::P66, Map::M0F, false, 0xef), zero, zero, zero);
        for k in 0..bytes / 16 {
            self.a.v2(VMOVDQU_STORE, zero, host.plus(16 * k));
        }
        self.a.bind(back);
        true
    }
}
