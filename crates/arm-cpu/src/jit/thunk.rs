//! The pieces of code that all blocks share: entry, exit, and calls of handlers.

use super::asm::{Alu, Asm, Cc, Mem, r};
use super::layout::{self, CALLEE_SAVED, FUEL, PINS, STATE, TLB};
use super::vregs::move_all;

/// What generated code returns.
pub mod left {
    /// PC is set: look it up.
    pub const LOOKUP: u64 = 0;
    /// A handler wrote PC; the count of instructions is up to date.
    pub const JUMP: u64 = 1;
    /// A handler stopped; the count of instructions is up to date.
    pub const STOP: u64 = 2;
    /// Left through a link that may be patched.
    pub const LINK: u64 = 3;
    /// Not returned: a handler wrote PC, and the jump cache may know it.
    pub const AGAIN: u64 = 4;
}

/// Offsets of the shared pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Thunks {
    /// `fn(state, code) -> left`.
    pub enter: u32,
    /// RAX is the guest's PC.
    pub leave_pc: u32,
    /// EAX is the number of a link.
    pub leave_link: u32,
    /// Calls the handler of the site in RAX.
    pub call: u32,
    /// The same for handlers that use no general-purpose registers.
    pub call_vector: u32,
    /// Goes to the guest's PC in RAX through the jump cache.
    pub jump: u32,
    /// Loads vector registers.
    pub load_vectors: u32,
}

fn spill(a: &mut Asm, from: usize) {
    for (n, reg) in &PINS[from..] {
        a.store(3, layout::x(*n), *reg);
    }
}

fn reload(a: &mut Asm, from: usize) {
    for (n, reg) in &PINS[from..] {
        a.mov(true, *reg, layout::x(*n));
    }
}

/// Stores vector registers if they stand in host registers.
fn spill_vectors(a: &mut Asm) {
    let none = a.label();
    a.cmp8_zero(layout::LIVE);
    a.jcc(Cc::E, none);
    move_all(a, false);
    a.bind(none);
}

/// Looks RAX up in the jump cache and goes there; to `miss` with RAX kept when it is not known. Uses RCX and RDX.
pub fn lookup(a: &mut Asm, miss: super::asm::Label) {
    use super::asm::Shift;
    a.mov(true, r::RDX, r::RAX);
    a.shift(Shift::Shr, true, r::RDX, 63);
    a.mov(false, r::RCX, r::RAX);
    a.alu(Alu::Add, false, r::RCX, Mem { index: Some((r::RDX, 3)), ..layout::HASH });
    a.mov(true, r::RDX, Mem { index: Some((r::RDX, 3)), ..layout::FETCH });
    a.alu(Alu::Xor, true, r::RDX, r::RAX);
    a.alu_i(Alu::And, false, r::RCX, (super::JUMP_ENTRIES as i32 - 1) << 2);
    a.shift(Shift::Shl, false, r::RCX, 2);
    a.alu(Alu::Add, true, r::RCX, layout::JUMPS);
    a.alu(Alu::Cmp, true, r::RDX, Mem::at(r::RCX, 0));
    a.jcc(Cc::Ne, miss);
    a.jmp_rm(Mem::at(r::RCX, 8));
}

/// The same for a PC that is likely to lie in one half of the address space: elsewhere it goes to `miss`, for no entry has
/// such a tag. (Bit 63 of a tag is that of the PC.)
pub fn lookup_in(a: &mut Asm, half: usize, miss: super::asm::Label) {
    find_in(a, half, miss);
    a.jmp_rm(Mem::at(r::RCX, 8));
}

/// RCX is the place in the jump cache.
fn find_in(a: &mut Asm, half: usize, miss: super::asm::Label) {
    use super::asm::Shift;
    a.mov(false, r::RCX, r::RAX);
    if half == 0 {
        a.alu(Alu::Add, false, r::RCX, layout::HASH);
    }
    a.mov(true, r::RDX, layout::FETCH.plus(8 * half as i32));
    a.alu_i(Alu::And, false, r::RCX, (super::JUMP_ENTRIES as i32 - 1) << 2);
    a.alu(Alu::Xor, true, r::RDX, r::RAX);
    a.shift(Shift::Shl, false, r::RCX, 2);
    a.alu(Alu::Add, true, r::RCX, layout::JUMPS);
    a.alu(Alu::Cmp, true, r::RDX, Mem::at(r::RCX, 0));
    a.jcc(Cc::Ne, miss);
}

/// [`lookup_in`] for branches that set BTYPE: to where a block looks at it.
pub fn lookup_target(a: &mut Asm, half: usize, miss: super::asm::Label) {
    find_in(a, half, miss);
    a.mov(true, r::RCX, Mem::at(r::RCX, 8));
    a.alu_i(Alu::Sub, true, r::RCX, super::translate::TARGET as i32);
    a.jmp_rm(r::RCX);
}

/// Looks RAX up among pages, enters it in the jump cache, and goes there; to `miss` with RAX kept when it is not known.
/// `base` is the address of generated code. Uses RCX and RDX.
fn lookup_page(a: &mut Asm, base: u64, miss: super::asm::Label) {
    use super::asm::Shift;
    let by_half = |m: Mem| Mem { index: Some((r::RDX, 3)), ..m };
    a.test8_i(r::RAX, 3);
    a.jcc(Cc::Ne, miss);
    a.mov(true, r::RDX, r::RAX);
    a.shift(Shift::Shr, true, r::RDX, 63);
    a.mov(false, r::RCX, by_half(layout::HASH));
    a.shift(Shift::Shr, false, r::RCX, 2);
    a.mov(true, r::RDX, by_half(layout::FETCH));
    a.alu(Alu::Xor, true, r::RDX, r::RAX);
    a.alu_i(Alu::And, true, r::RDX, -4096);
    a.push(r::RAX);
    a.shift(Shift::Shr, true, r::RAX, 12);
    a.alu(Alu::Add, false, r::RCX, r::RAX);
    a.pop(r::RAX);
    a.alu_i(Alu::And, false, r::RCX, super::PAGE_ENTRIES as i32 - 1);
    a.shift(Shift::Shl, false, r::RCX, 4);
    a.alu(Alu::Add, true, r::RCX, layout::PAGES);
    a.alu(Alu::Cmp, true, r::RDX, Mem::at(r::RCX, 0));
    a.jcc(Cc::Ne, miss);
    a.mov(true, r::RDX, Mem::at(r::RCX, 8));
    a.test(true, r::RDX, r::RDX);
    a.jcc(Cc::E, miss);
    a.mov(false, r::RCX, r::RAX);
    a.alu_i(Alu::And, false, r::RCX, 0xffc);
    a.mov(false, r::RCX, Mem::indexed(r::RDX, r::RCX, 0, 0));
    a.test(false, r::RCX, r::RCX);
    a.jcc(Cc::E, miss);
    a.mov_i64(r::RDX, base);
    a.alu(Alu::Add, true, r::RDX, r::RCX);
    a.push(r::RDX);
    a.mov(true, r::RDX, r::RAX);
    a.shift(Shift::Shr, true, r::RDX, 63);
    a.mov(false, r::RCX, r::RAX);
    a.alu(Alu::Add, false, r::RCX, by_half(layout::HASH));
    a.alu_i(Alu::And, false, r::RCX, (super::JUMP_ENTRIES as i32 - 1) << 2);
    a.shift(Shift::Shl, false, r::RCX, 2);
    a.alu(Alu::Add, true, r::RCX, layout::JUMPS);
    a.mov(true, r::RDX, by_half(layout::FETCH));
    a.alu(Alu::Xor, true, r::RDX, r::RAX);
    a.store(3, Mem::at(r::RCX, 0), r::RDX);
    a.pop(r::RDX);
    a.store(3, Mem::at(r::RCX, 8), r::RDX);
    a.jmp_rm(r::RDX);
}

/// Assembles all of them; `handler` is the address of [`super::run::exec_site`], `base` that of generated code.
pub fn assemble(a: &mut Asm, handler: u64, base: u64) -> Thunks {
    let saved = [r::RBX, r::RBP, r::R12, r::R13, r::R14, r::R15];
    let mut t = Thunks { enter: a.here(), ..Thunks::default() };
    saved.iter().for_each(|r| a.push(*r));
    a.alu_i(Alu::Sub, true, r::RSP, 8);
    a.mov(true, STATE, r::RDI);
    a.mov(true, r::RAX, r::RSI);
    a.mov(true, FUEL, layout::FUEL_SAVED);
    a.mov(true, TLB, layout::TLB_SAVED);
    a.ldmxcsr(layout::MXCSR);
    a.store8_i(layout::LIVE, 0);
    reload(a, 0);
    a.jmp_rm(r::RAX);

    // EAX is what is returned; pins are in memory.
    let leave_spilled = a.here();
    a.store(3, layout::FUEL_SAVED, FUEL);
    a.alu_i(Alu::Add, true, r::RSP, 8);
    saved.iter().rev().for_each(|r| a.pop(*r));
    a.ret();

    t.leave_pc = a.here();
    a.store(3, layout::PC, r::RAX);
    a.mov_i(r::RAX, left::LOOKUP);
    a.stmxcsr(layout::MXCSR);
    spill(a, 0);
    spill_vectors(a);
    a.jmp_to(leave_spilled);

    t.leave_link = a.here();
    a.store(2, layout::LINK, r::RAX);
    a.mov_i(r::RAX, left::LINK);
    a.stmxcsr(layout::MXCSR);
    spill(a, 0);
    spill_vectors(a);
    a.jmp_to(leave_spilled);

    t.jump = a.here();
    let miss = a.label();
    let unknown = a.label();
    lookup(a, miss);
    a.bind(miss);
    lookup_page(a, base, unknown);
    a.bind(unknown);
    a.jmp_to(t.leave_pc);

    t.load_vectors = a.here();
    move_all(a, true);
    a.store8_i(layout::LIVE, 1);
    a.ret();

    for vector in [false, true] {
        let here = a.here();
        if vector {
            t.call_vector = here;
        } else {
            t.call = here;
        }
        let first = if vector { CALLEE_SAVED } else { 0 };
        // All of them, for an exception may be taken; what the call keeps need not be loaded again.
        spill(a, 0);
        a.stmxcsr(layout::MXCSR);
        a.mov(true, r::RSI, r::RAX);
        spill_vectors(a);
        a.lea(true, r::RDI, Mem::at(STATE, -(layout::BIAS as i32)));
        a.mov(true, r::RDX, FUEL);
        a.alu_i(Alu::Sub, true, r::RSP, 8);
        a.mov_i(r::RAX, handler);
        a.call_rm(r::RAX);
        a.alu_i(Alu::Add, true, r::RSP, 8);
        a.test(false, r::RAX, r::RAX);
        let out = a.label();
        a.jcc(Cc::Ne, out);
        a.ldmxcsr(layout::MXCSR);
        reload(a, first);
        let none = a.label();
        a.cmp8_zero(layout::LIVE);
        a.jcc(Cc::E, none);
        move_all(a, true);
        a.bind(none);
        a.ret();
        a.bind(out);
        a.store8_i(layout::LIVE, 0);
        // The return address is not needed any more.
        a.alu_i(Alu::Add, true, r::RSP, 8);
        a.alu_i(Alu::Cmp, false, r::RAX, left::AGAIN as i32);
        a.jcc_to(Cc::Ne, leave_spilled);
        a.mov(true, FUEL, layout::FUEL_SAVED);
        a.mov(true, r::RAX, layout::PC);
        a.ldmxcsr(layout::MXCSR);
        reload(a, 0);
        a.jmp_to(t.jump);
    }
    t
}
