//! Pointer authentication: QEMU's answers for known keys, and the rules of the manual that QEMU 7.2 does not have.

use std::sync::Arc;

use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::mem::PhysMap;
use ulna_arm_cpu::pauth::Key;
use ulna_arm_cpu::shared::VmShared;
use ulna_arm_cpu::{Cpu, CpuConfig, Feat, FeatSet, SysReg};

struct Stopped;
impl Clock for Stopped {
    fn counter(&self, _: u64) -> u64 {
        0
    }
}

const ENABLE_ALL: u64 = 1 << 31 | 1 << 30 | 1 << 27 | 1 << 13;

struct Xorshift(u64);
impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn cpu(extra: &[Feat]) -> Cpu {
    let base = [Feat::PAuth, Feat::PACGA, Feat::TTST, Feat::LVA, Feat::LPA2];
    let mut cpu = Cpu::new(CpuConfig {
        features: base.into_iter().chain(extra.iter().copied()).collect::<FeatSet>(),
        memory: Arc::new(PhysMap::default()),
        shared: Arc::new(VmShared::default()),
        clock: Arc::new(Stopped),
        random: Arc::new(|| 4),
    });
    let mut r = Xorshift(88_172_645_463_325_252);
    for reg in [
        SysReg::APIAKeyLo_EL1,
        SysReg::APIAKeyHi_EL1,
        SysReg::APIBKeyLo_EL1,
        SysReg::APIBKeyHi_EL1,
        SysReg::APDAKeyLo_EL1,
        SysReg::APDAKeyHi_EL1,
        SysReg::APDBKeyLo_EL1,
        SysReg::APDBKeyHi_EL1,
        SysReg::APGAKeyLo_EL1,
        SysReg::APGAKeyHi_EL1,
    ] {
        cpu.state.set_sys(reg, r.next());
    }
    cpu.state.set_sys(SysReg::SCTLR_EL1, ENABLE_ALL);
    cpu.state.set_el_sp(1, 1);
    cpu
}

/// T0SZ 25, T1SZ 16, no tags.
const TCR: u64 = 25 | 16 << 16 | 2 << 30;
const LOW: u64 = 0x0000_0012_3456_7890;
const HIGH: u64 = 0xffff_8000_1234_5678;

#[test]
fn codes_are_those_of_qemu() {
    let mut cpu = cpu(&[Feat::PACQARMA5]);
    let mut lines = 0;
    for line in include_str!("data/pauth-qarma5.txt").lines().filter(|l| l.starts_with("0x")) {
        let v: Vec<u64> =
            line.split_whitespace().map(|w| u64::from_str_radix(&w[2..], 16).expect("hexadecimal")).collect();
        let (p, m) = (v[1], v[2]);
        // With tags in one half only QEMU takes bit 63 of a pointer in the other half; AddPAC takes bit 55 of all.
        let bit = |n: u32| v[0] >> n & 1 != 0;
        let tags_differ = bit(37) != bit(38) || (bit(37) && !bit(51)) != (bit(38) && !bit(52));
        if tags_differ && p >> 63 != p >> 55 & 1 {
            continue;
        }
        cpu.state.set_sys(SysReg::TCR_EL1, v[0]);
        let (a, b) = (cpu.pac_add(Key::IA, p, m), cpu.pac_add(Key::DB, p, m));
        let got = [
            a,
            b,
            cpu.pac_add(Key::IB, p, m),
            cpu.pac_add(Key::DA, p, m),
            cpu.pac_auth(Key::IA, a, m, false).expect("no FPAC"),
            cpu.pac_auth(Key::IA, p, m, false).expect("no FPAC"),
            cpu.pac_auth(Key::DB, b, m, false).expect("no FPAC"),
            cpu.pac_auth(Key::DB, a, m, false).expect("no FPAC"),
            cpu.pac_auth(Key::IB, p ^ 1, m, false).expect("no FPAC"),
            cpu.pac_strip(a, false),
            cpu.pac_strip(b, true),
            cpu.pacga(p, m),
        ];
        assert_eq!(
            got.map(|x| format!("{x:#018x}")),
            v[3..15].iter().map(|x| format!("{x:#018x}")).collect::<Vec<_>>()[..],
            "{line}"
        );
        lines += 1;
    }
    assert!(lines > 50, "{lines}");
}

#[test]
fn every_algorithm_authenticates_what_it_signed_and_nothing_else() {
    for f in [Feat::PACQARMA5, Feat::PACQARMA3, Feat::PACIMP] {
        let mut cpu = cpu(&[f]);
        cpu.state.set_sys(SysReg::TCR_EL1, TCR);
        let mut seen = std::collections::HashSet::new();
        for key in [Key::IA, Key::IB, Key::DA, Key::DB] {
            for p in [LOW, HIGH] {
                let signed = cpu.pac_add(key, p, 7);
                assert!(seen.insert(signed) && signed != p, "{f} {key:?}");
                assert_eq!(cpu.pac_auth(key, signed, 7, false), Ok(p));
                assert_eq!(cpu.pac_strip(signed, false), p);
                // Bits 62:61 tell which kind of key failed.
                let code = if matches!(key, Key::IA | Key::DA) { 1 } else { 2 };
                let wrong = p & !(3 << 61) | code << 61;
                assert_eq!(cpu.pac_auth(key, signed, 8, false), Ok(wrong));
                assert_eq!(cpu.pac_auth(key, signed ^ 1 << 56, 7, true), Ok(wrong));
            }
        }
    }
}

#[test]
fn a_disabled_key_leaves_pointers_alone() {
    let mut cpu = cpu(&[Feat::PACQARMA5]);
    cpu.state.set_sys(SysReg::TCR_EL1, TCR);
    for (key, bit) in [(Key::IA, 31), (Key::IB, 30), (Key::DA, 27), (Key::DB, 13)] {
        cpu.state.set_sys(SysReg::SCTLR_EL1, ENABLE_ALL & !(1 << bit));
        assert_eq!(cpu.pac_add(key, LOW, 1), LOW);
        assert_eq!(cpu.pac_auth(key, 0x5555_0012_3456_7890, 1, false), Ok(0x5555_0012_3456_7890));
    }
}

/// Enhanced PAC: a pointer that was not canonical gets the code zero; without it one bit of the code is inverted.
#[test]
fn signing_a_bad_pointer() {
    let bad = LOW | 1 << 50;
    let mut plain = cpu(&[Feat::PACQARMA5]);
    plain.state.set_sys(SysReg::TCR_EL1, TCR);
    assert_eq!(plain.pac_add(Key::IA, bad, 0), plain.pac_add(Key::IA, LOW, 0) ^ 1 << 62);
    let mut epac = cpu(&[Feat::PACQARMA5, Feat::EPAC]);
    epac.state.set_sys(SysReg::TCR_EL1, TCR);
    assert_eq!(epac.pac_add(Key::IA, bad, 0), LOW);
}

/// PAuth2 XORs the code into the extension bits, so signing twice and authenticating twice gives the pointer back.
#[test]
fn pauth2_is_an_exclusive_or() {
    let mut cpu = cpu(&[Feat::PACQARMA5, Feat::EPAC, Feat::PAuth2]);
    cpu.state.set_sys(SysReg::TCR_EL1, TCR);
    for p in [LOW, HIGH] {
        let once = cpu.pac_add(Key::DA, p, 3);
        assert_eq!(cpu.pac_auth(Key::DA, once, 3, false), Ok(p));
        assert_eq!(cpu.pac_add(Key::DA, once, 3) & 0xffff_ffff, p & 0xffff_ffff);
        let wrong = cpu.pac_auth(Key::DA, once, 4, false).expect("no FPAC");
        assert_ne!(wrong, p);
        // It must not be canonical by chance of these constants.
        assert_ne!(wrong >> 39, p >> 39);
    }
}

#[test]
fn fpac_faults_and_combined_instructions_only_with_fpaccombine() {
    let mut fpac = cpu(&[Feat::PACQARMA5, Feat::EPAC, Feat::PAuth2, Feat::FPAC]);
    fpac.state.set_sys(SysReg::TCR_EL1, TCR);
    let signed = fpac.pac_add(Key::IB, HIGH, 3);
    assert_eq!(fpac.pac_auth(Key::IB, signed, 3, false), Ok(HIGH));
    assert!(fpac.pac_auth(Key::IB, signed, 4, false).is_err());
    assert!(fpac.pac_auth(Key::IB, signed, 4, true).is_ok());
    let mut both = cpu(&[Feat::PACQARMA5, Feat::EPAC, Feat::PAuth2, Feat::FPAC, Feat::FPACCOMBINE]);
    both.state.set_sys(SysReg::TCR_EL1, TCR);
    assert_eq!(both.pac_auth(Key::IB, signed, 3, true), Ok(HIGH));
    assert!(both.pac_auth(Key::IB, signed, 4, true).is_err());
}

#[test]
fn pacga_fills_the_upper_half_only() {
    for f in [Feat::PACQARMA5, Feat::PACQARMA3, Feat::PACIMP] {
        let mut cpu = cpu(&[f]);
        let v = cpu.pacga(1, 2);
        assert!(v != 0 && v as u32 == 0 && v != cpu.pacga(1, 3), "{f}");
    }
}
