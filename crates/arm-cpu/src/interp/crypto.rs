//! Cryptographic instructions (Arm ARM C4.1.95): operands to the functions of [`crate::crypto`].

use crate::cpu::Cpu;
use crate::crypto::{aes, sha1, sha2, sha3, sm3, sm4};
use crate::insn::{Exec, Flow, Insn};

macro_rules! crypto {
    ($($name:ident |$i:ident, $d:pat_param, $n:pat_param, $m:pat_param, $a:pat_param| $e:expr;)*) => { $(
        pub(crate) fn $name(cpu: &mut Cpu, $i: &Insn) -> Exec {
            cpu.fp_access()?;
            let s = &cpu.state;
            let ($d, $n, $m, $a) = (s.q($i.rd), s.q($i.rn), s.q($i.rm), s.q($i.ra));
            let r: u128 = $e;
            cpu.state.set_q($i.rd, r);
            Ok(Flow::Next)
        }
    )* };
}

/// The word of `m` that imm2 indexes.
#[inline(always)]
fn indexed(i: &Insn, m: u128) -> u32 {
    (m >> (32 * i.bits(12, 2))) as u32
}

crypto! {
    aese |i, d, n, _, _| aes::aese(d, n);
    aesd |i, d, n, _, _| aes::aesd(d, n);
    aesmc |i, _, n, _, _| aes::aesmc(n);
    aesimc |i, _, n, _, _| aes::aesimc(n);
    sha1c |i, d, n, m, _| sha1::sha1c(d, n as u32, m);
    sha1p |i, d, n, m, _| sha1::sha1p(d, n as u32, m);
    sha1m |i, d, n, m, _| sha1::sha1m(d, n as u32, m);
    sha1su0 |i, d, n, m, _| sha1::sha1su0(d, n, m);
    sha1h |i, _, n, _, _| sha1::sha1h(n as u32).into();
    sha1su1 |i, d, n, _, _| sha1::sha1su1(d, n);
    sha256h |i, d, n, m, _| sha2::sha256h(d, n, m);
    sha256h2 |i, d, n, m, _| sha2::sha256h2(d, n, m);
    sha256su0 |i, d, n, _, _| sha2::sha256su0(d, n);
    sha256su1 |i, d, n, m, _| sha2::sha256su1(d, n, m);
    sha512h |i, d, n, m, _| sha2::sha512h(d, n, m);
    sha512h2 |i, d, n, m, _| sha2::sha512h2(d, n, m);
    sha512su0 |i, d, n, _, _| sha2::sha512su0(d, n);
    sha512su1 |i, d, n, m, _| sha2::sha512su1(d, n, m);
    eor3 |i, _, n, m, a| sha3::eor3(n, m, a);
    bcax |i, _, n, m, a| sha3::bcax(n, m, a);
    rax1 |i, _, n, m, _| sha3::rax1(n, m);
    xar |i, _, n, m, _| sha3::xar(n, m, i.bits(10, 6));
    sm3partw1 |i, d, n, m, _| sm3::sm3partw1(d, n, m);
    sm3partw2 |i, d, n, m, _| sm3::sm3partw2(d, n, m);
    sm3ss1 |i, _, n, m, a| sm3::sm3ss1(n, m, a);
    sm3tt1a |i, d, n, m, _| sm3::sm3tt1a(d, n, indexed(i, m));
    sm3tt1b |i, d, n, m, _| sm3::sm3tt1b(d, n, indexed(i, m));
    sm3tt2a |i, d, n, m, _| sm3::sm3tt2a(d, n, indexed(i, m));
    sm3tt2b |i, d, n, m, _| sm3::sm3tt2b(d, n, indexed(i, m));
    sm4e |i, d, n, _, _| sm4::sm4e(d, n);
    sm4ekey |i, _, n, m, _| sm4::sm4ekey(n, m);
}
