//! Every form of the encoder, read back by iced-x86's decoder.

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use super::asm::{Alu, Asm, Cc, Mem, Reg, Rm, Shift, Unary, r};
use super::vex::{Map, Op, Pp, Xmm};

/// The text of the one instruction in `code`.
fn text(code: &[u8]) -> String {
    let mut d = Decoder::with_ip(64, code, 0x1000, DecoderOptions::NONE);
    let i = d.decode();
    assert!(!i.is_invalid(), "{code:02x?} is no instruction");
    assert_eq!(i.len(), code.len(), "{code:02x?} has more bytes than its instruction");
    let mut out = String::new();
    let mut f = IntelFormatter::new();
    f.options_mut().set_space_after_operand_separator(false);
    f.options_mut().set_hex_prefix("0x");
    f.options_mut().set_hex_suffix("");
    f.options_mut().set_uppercase_hex(false);
    f.options_mut().set_small_hex_numbers_in_decimal(false);
    f.format(&i, &mut out);
    out
}

fn one(f: impl FnOnce(&mut Asm)) -> String {
    let mut a = Asm::new(0x1000);
    f(&mut a);
    a.finish();
    text(&a.code)
}

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const NAMES32: [&str; 16] = [
    "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d", "r13d",
    "r14d", "r15d",
];
const NAMES8: [&str; 16] = [
    "al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", "r8b", "r9b", "r10b", "r11b", "r12b", "r13b", "r14b",
    "r15b",
];

/// Memory operands with every base, with and without index and displacements of each size, and their text.
fn memory() -> Vec<(Mem, String)> {
    let mut v = Vec::new();
    for base in 0..16u8 {
        for disp in [0, 8, -128, 127, 128, -129, 0x12345] {
            let d = match disp {
                0 => String::new(),
                d if d < 0 => format!("-{:#x}", -d),
                d => format!("+{d:#x}"),
            };
            let b = NAMES[base as usize];
            v.push((Mem::at(Reg(base), disp), format!("[{b}{d}]")));
            for index in [0u8, 5, 12, 13] {
                for scale in [0u8, 3] {
                    let s = if scale == 0 { String::new() } else { "*8".to_string() };
                    let x = NAMES[index as usize];
                    v.push((Mem::indexed(Reg(base), Reg(index), scale, disp), format!("[{b}+{x}{s}{d}]")));
                }
            }
        }
    }
    v
}

#[test]
fn memory_operands_of_every_shape() {
    for (m, t) in memory() {
        assert_eq!(one(|a| a.mov(true, r::R9, m)), format!("mov r9,{t}"));
        assert_eq!(one(|a| a.lea(false, r::RCX, m)), format!("lea ecx,{t}"));
        assert_eq!(one(|a| a.load_zx(0, r::RSI, m)), format!("movzx esi,byte ptr {t}"));
        let op = Op(Pp::F3, Map::M0F, false, 0x6f);
        assert_eq!(one(|a| a.v2(op, Xmm(9), m)), format!("vmovdqu xmm9,{t}"));
    }
}

#[test]
fn registers_of_every_width() {
    for n in 0..16u8 {
        let (q, d, b) = (NAMES[n as usize], NAMES32[n as usize], NAMES8[n as usize]);
        let x = Reg(n);
        assert_eq!(one(|a| a.alu(Alu::Add, true, x, r::R12)), format!("add {q},r12"));
        assert_eq!(one(|a| a.alu_to(Alu::Sbb, false, x, r::RDX)), format!("sbb {d},edx"));
        assert_eq!(one(|a| a.alu_i(Alu::And, true, x, -4096)), format!("and {q},0xfffffffffffff000"));
        assert_eq!(one(|a| a.alu_i(Alu::Cmp, false, x, 5)), format!("cmp {d},0x5"));
        assert_eq!(one(|a| a.alu8_i(Alu::Add, x, 0x7f)), format!("add {b},0x7f"));
        assert_eq!(one(|a| a.test8_i(x, 15)), format!("test {b},0xf"));
        assert_eq!(one(|a| a.set(Cc::O, x)), format!("seto {b}"));
        assert_eq!(one(|a| a.store(0, Mem::at(r::RBP, 4), x)), format!("mov [rbp+0x4],{b}"));
        assert_eq!(one(|a| a.load_zx(0, r::RAX, x)), format!("movzx eax,{b}"));
        assert_eq!(one(|a| a.load_sx(0, true, r::R8, x)), format!("movsx r8,{b}"));
        assert_eq!(one(|a| a.load_sx(2, true, r::R8, x)), format!("movsxd r8,{d}"));
        assert_eq!(one(|a| a.bswap(true, x)), format!("bswap {q}"));
        assert_eq!(one(|a| a.bswap(false, x)), format!("bswap {d}"));
        assert_eq!(one(|a| a.push(x)), format!("push {q}"));
        assert_eq!(one(|a| a.pop(x)), format!("pop {q}"));
        assert_eq!(one(|a| a.jmp_rm(x)), format!("jmp {q}"));
        assert_eq!(one(|a| a.call_rm(x)), format!("call {q}"));
        assert_eq!(one(|a| a.mov_i(x, 7)), format!("mov {d},0x7"));
        assert_eq!(one(|a| a.mov_i(x, u64::MAX)), format!("mov {q},0xffffffffffffffff"));
        assert_eq!(one(|a| a.mov_i64(x, 7)), format!("mov {q},0x7"));
        assert_eq!(one(|a| a.mov_i(x, 0x1234_5678_9abc)), format!("mov {q},0x123456789abc"));
        assert_eq!(one(|a| a.shift(Shift::Sar, true, x, 9)), format!("sar {q},0x9"));
        assert_eq!(one(|a| a.shift_cl(Shift::Ror, false, x)), format!("ror {d},cl"));
        assert_eq!(one(|a| a.unary(Unary::Idiv, true, x)), format!("idiv {q}"));
        assert_eq!(one(|a| a.unary(Unary::Not, false, x)), format!("not {d}"));
        assert_eq!(one(|a| a.crc32c(0, r::RAX, x)), format!("crc32 eax,{b}"));
        assert_eq!(one(|a| a.crc32c(3, r::RAX, x)), format!("crc32 rax,{q}"));
        assert_eq!(one(|a| a.shiftx(Pp::P66, true, x, r::R9, r::R12)), format!("shlx {q},r9,r12"));
        assert_eq!(one(|a| a.shiftx(Pp::F2, false, r::R9, x, r::RCX)), format!("shrx r9d,{d},ecx"));
        assert_eq!(one(|a| a.rorx(true, r::RAX, x, 32)), format!("rorx rax,{q},0x20"));
        assert_eq!(one(|a| a.andn(true, r::RCX, r::RCX, x)), format!("andn rcx,rcx,{q}"));
        assert_eq!(one(|a| a.mulx(true, x, r::RCX, r::R11)), format!("mulx {q},rcx,r11"));
    }
}

#[test]
fn the_rest_of_the_forms() {
    let m = Mem::at(r::RBP, 16);
    let cases: Vec<(String, &str)> = vec![
        (one(|a| a.test(true, r::RAX, r::R15)), "test rax,r15"),
        (one(|a| a.test_i(true, r::R9, 64)), "test r9,0x40"),
        (one(|a| a.alu8(Alu::Cmp, r::RCX, m)), "cmp cl,[rbp+0x10]"),
        (one(|a| a.store(1, m, r::RAX)), "mov [rbp+0x10],ax"),
        (one(|a| a.store(3, m, r::R8)), "mov [rbp+0x10],r8"),
        (one(|a| a.store_i(true, m, -1)), "mov qword ptr [rbp+0x10],0xffffffffffffffff"),
        (one(|a| a.store8_i(m, 1)), "mov byte ptr [rbp+0x10],0x1"),
        (one(|a| a.load_zx(1, r::R8, m)), "movzx r8d,word ptr [rbp+0x10]"),
        (one(|a| a.load_sx(1, false, r::RAX, m)), "movsx eax,word ptr [rbp+0x10]"),
        (one(|a| a.shrd(true, r::RAX, r::R8, 7)), "shrd rax,r8,0x7"),
        (one(|a| a.imul(false, r::R8, m)), "imul r8d,[rbp+0x10]"),
        (one(|a| a.lzcnt(true, r::R8, Rm::M(m))), "lzcnt r8,[rbp+0x10]"),
        (one(|a| a.crc32c(1, r::R8, r::RDX)), "crc32 r8d,dx"),
        (one(|a| a.bt_i(true, r::R8, 40)), "bt r8,0x28"),
        (one(|a| a.cmov(Cc::G, false, r::R8, r::RAX)), "cmovg r8d,eax"),
        (one(|a| a.lock_cmpxchg(1, m, r::RDX)), "lock cmpxchg [rbp+0x10],dx"),
        (one(|a| a.lock_cmpxchg(3, m, r::RDX)), "lock cmpxchg [rbp+0x10],rdx"),
        (one(|a| a.lock_xadd(0, m, r::RSI)), "lock xadd [rbp+0x10],sil"),
        (one(|a| a.xchg(2, m, r::R9)), "xchg [rbp+0x10],r9d"),
        (one(|a| a.cmp8_zero(m)), "cmp byte ptr [rbp+0x10],0x0"),
        (one(|a| a.mov_ah(r::RDX)), "movzx edx,ah"),
        (one(|a| a.fence()), "lock or dword ptr [rsp],0x0"),
        (one(|a| a.ldmxcsr(m)), "ldmxcsr [rbp+0x10]"),
        (one(|a| a.stmxcsr(m)), "stmxcsr [rbp+0x10]"),
        (one(|a| a.lahf()), "lahf"),
        (one(|a| a.store_ah(m)), "mov [rbp+0x10],ah"),
        (one(|a| a.load_ah(m)), "mov ah,[rbp+0x10]"),
        (one(|a| a.sahf()), "sahf"),
        (one(|a| a.cmc()), "cmc"),
        (one(|a| a.stc()), "stc"),
        (one(|a| a.cqo(true)), "cqo"),
        (one(|a| a.cqo(false)), "cdq"),
        (one(|a| a.ret()), "ret"),
        (
            one(|a| {
                a.jmp_to(0x2000);
            }),
            "jmp 0x0000000000002000",
        ),
        (one(|a| a.jcc_to(Cc::Ae, 0x800)), "jae 0x0000000000000800"),
        (one(|a| a.call_to(0x2000)), "call 0x0000000000002000"),
        (one(|a| a.v3(Op(Pp::F2, Map::M0F, false, 0x58), Xmm(1), Xmm(9), Xmm(12))), "vaddsd xmm1,xmm9,xmm12"),
        (
            one(|a| a.v3i(Op(Pp::P66, Map::M0F3A, true, 0x22), Xmm(1), Xmm(1), r::R8, 1)),
            "vpinsrq xmm1,xmm1,r8,0x1",
        ),
        (one(|a| a.v2i(Op(Pp::P66, Map::M0F3A, true, 0x16), Xmm(2), r::R8, 1)), "vpextrq r8,xmm2,0x1"),
        (one(|a| a.v_gpr(Op(Pp::P66, Map::M0F, true, 0x7e), Xmm(3), r::RDX)), "vmovq rdx,xmm3"),
        (one(|a| a.v_shift(0x73, 2, Xmm(9), Xmm(1), 5)), "vpsrlq xmm9,xmm1,0x5"),
    ];
    for (got, want) in cases {
        assert_eq!(got, want);
    }
}

#[test]
fn jumps_to_labels_find_them_in_both_directions() {
    let mut a = Asm::new(0x1000);
    let (before, after) = (a.label(), a.label());
    a.bind(before);
    a.jcc(Cc::E, after);
    a.jmp(before);
    a.bind(after);
    a.ret();
    a.finish();
    assert_eq!(text(&a.code[..6]), "je 0x000000000000100b");
    assert_eq!(a.code[6..11], [0xe9, 0xf5, 0xff, 0xff, 0xff]);
}
