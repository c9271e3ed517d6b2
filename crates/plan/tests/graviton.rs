//! Judged by others: what guests read on three Gravitons (Firecracker's dumps), a published template, and a published
//! list of masks (host-data.md §1a, §1b, §7). The hosts are real ones here: all features of the silicon, Linux's KVM.

use std::collections::BTreeSet;

use ulna_arm_regs::SysReg;
use ulna_arm_regs::id::IdReg;
use ulna_kvm_abi::RegId;
use ulna_machine::VcpuFeatures;
use ulna_plan::baseline::baseline;
use ulna_plan::cpu::Cpu;
use ulna_plan::{Guest, Host, plan};
use ulna_profile::{KernelLevel, Profile};

fn graviton(n: u8, kernel: (u16, u16)) -> Host {
    let mut profile = Profile::builtin(&format!("graviton{n}")).expect("profile");
    profile.kernel = KernelLevel { major: kernel.0, minor: kernel.1 };
    Host::real(profile)
}

/// As Firecracker's dumps were taken: PSCI 0.2 and nothing else.
fn guest(host: &Host) -> Guest {
    Guest::of(host, VcpuFeatures::PSCI_0_2, false)
}

/// Fields of AArch64's ID registers in which two guests differ, with both values.
fn differences(a: &Guest, b: &Guest) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for &r in SysReg::ALL.iter().filter(|r| r.name().starts_with("ID_AA64")) {
        let (Some(x), Some(y), Some(row)) = (a.sysreg(r), b.sysreg(r), IdReg::of(r)) else { continue };
        for f in row.fields.iter().filter(|f| f.raw(x) != f.raw(y)) {
            let short = r.name().trim_start_matches("ID_AA64").trim_end_matches("_EL1");
            all.insert(format!("{short}.{} {}->{}", f.name, f.raw(x), f.raw(y)));
        }
    }
    all
}

fn set(text: &str) -> BTreeSet<String> {
    text.lines()
        .flat_map(|l| {
            let (reg, fields) = l.split_once(": ").expect("REG: FIELD a->b, ...");
            fields.split(", ").map(move |f| format!("{reg}.{f}"))
        })
        .collect()
}

/// host-data.md §1a, transcribed.
const TWO_TO_THREE: &str = "\
PFR0: DIT 0->1, RAS 1->2
DFR0: DoubleLock 0->15, DebugVer 8->9
ISAR0: RNDR 0->1, TS 0->1, FHM 0->1, SM4 0->1, SM3 0->1, SHA3 0->1, SHA2 1->2
ISAR1: I8MM 0->1, DGH 0->1, BF16 0->1, LRCPC 1->2, FCMA 0->1, JSCVT 0->1, DPB 1->2
MMFR2: EVT 1->2, BBM 0->2, FWB 0->1, IDS 0->1, AT 0->1, IESB 0->1";

const THREE_TO_FOUR: &str = "\
PFR0: SEL2 0->1, EL0 2->1
PFR1: BT 0->1
ISAR0: TLB 0->2, TS 1->2, SM4 1->0, SM3 1->0
ISAR1: SPECRES 0->1, SB 0->1, FRINTTS 0->1
MMFR0: TGRAN4_2 0->2, TGRAN64_2 0->2, TGRAN16_2 0->2
MMFR1: ECBHB 0->1, PAN 2->3
MMFR2: E0PD 0->1, TTL 0->1, ST 0->1";

#[test]
fn guests_differ_as_the_dumps_do() {
    let [two, three, four] = [2, 3, 4].map(|n| guest(&graviton(n, (6, 18))));
    assert_eq!(differences(&two, &three), set(TWO_TO_THREE));
    assert_eq!(differences(&three, &four), set(THREE_TO_FOUR));
}

/// Names of AArch64's ID fields that block, without the level and the prefix.
fn blocked(g: &Guest, from: &Host, to: &Host) -> BTreeSet<String> {
    let p = plan(g, Some(from), to);
    p.blockers.iter().map(|b| b.name().replace("ID_AA64", "").replace("_EL1", "")).collect()
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// What the newer has more of blocks the way back, and nothing else does.
#[test]
fn the_newer_part_is_refused_on_the_older_host() {
    let (two, three) = (graviton(2, (6, 18)), graviton(3, (6, 18)));
    // DoubleLock 15 is the lower of the two (signed).
    let newer = "PFR0.DIT PFR0.RAS DFR0.DebugVer ISAR0.RNDR ISAR0.TS ISAR0.FHM ISAR0.SM4 ISAR0.SM3 ISAR0.SHA3 ISAR0.SHA2 \
        ISAR1.I8MM ISAR1.DGH ISAR1.BF16 ISAR1.LRCPC ISAR1.FCMA ISAR1.JSCVT ISAR1.DPB MMFR2.EVT MMFR2.BBM MMFR2.FWB \
        MMFR2.IDS MMFR2.AT MMFR2.IESB";
    let of_aarch64 = |all: BTreeSet<String>| -> BTreeSet<String> {
        all.into_iter()
            .filter(|n| ["PFR", "DFR", "ISAR", "MMFR"].iter().any(|p| n.starts_with(p)) && n.contains('.'))
            .collect()
    };
    let back = blocked(&guest(&three), &three, &two);
    assert!(back.contains("CNTFRQ_EL0"), "{back:?}");
    // Since 6.15 a VMM may give a guest any identity.
    assert!(!back.contains("MIDR"), "{back:?}");
    let old = plan(&guest(&graviton(3, (6, 12))), None, &graviton(2, (6, 12)));
    assert!(old.blockers.iter().any(|b| b.what == "MIDR_EL1"));
    assert_eq!(of_aarch64(back), words(newer));
    // The way there: what a KVM of 6.12 does not let be lower than the host's.
    let there = of_aarch64(blocked(&guest(&two), &two, &three));
    assert_eq!(there, words("PFR0.RAS DFR0.DoubleLock MMFR2.EVT MMFR2.FWB MMFR2.IDS"));
}

/// Firecracker's V1N1 aims at what programs see: its list, from the file in its tree.
const V1N1: &str = r#"{ "reg_modifiers": [
 { "addr": "0x603000000013c020", "bitmap": "0bxxxxxxxxxxxx0000xxxxxxxxxxxx0000xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" },
 { "addr": "0x603000000013c030", "bitmap": "0b0000xxxx00000000xxxx000000000000xxxxxxxxxxxxxxxx0001xxxxxxxxxxxx" },
 { "addr": "0x603000000013c031", "bitmap": "0bxxxxxxxx000000000000xxxxxxxxxxxxxxxxxxxx000100000000xxxxxxxx0001" },
 { "addr": "0x603000000013c03a", "bitmap": "0bxxxxxxxxxxxxxxxxxxxxxxxxxxxx0000xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" } ] }"#;

#[test]
fn the_published_template_is_not_a_whole_answer() {
    let (two, three) = (graviton(2, (6, 18)), graviton(3, (6, 18)));
    let mut cpu = Cpu::parse(V1N1).expect("template");
    cpu.features = Some(VcpuFeatures::PSCI_0_2);
    let g = cpu.guest(&three).expect("a guest of Graviton3");
    // host-data.md §1b, found by hand from the two dumps.
    let want = set(
        "PFR0: RAS 1->2\nDFR0: DoubleLock 0->15, DebugVer 8->9\nMMFR2: EVT 1->2, BBM 0->2, FWB 0->1, IDS 0->1, IESB 0->1",
    );
    assert_eq!(differences(&guest(&two), &g), want);
    let left: BTreeSet<String> =
        blocked(&g, &three, &two).iter().map(|n| n.split('.').next().unwrap_or("").to_owned()).collect();
    for r in ["PFR0", "DFR0", "MMFR2", "ID_PFR0", "ID_PFR1", "ID_DFR0", "ID_ISAR6"] {
        assert!(left.contains(r), "{r}: {left:?}");
    }
    assert!(!left.contains("ISAR0") && !left.contains("ISAR1"), "{left:?}");
}

/// The masks of the QEMU series for Graviton 3 and 4 (host-data.md §1a, §7), and what they leave.
#[test]
fn the_baseline_of_two_gravitons_has_the_published_masks() {
    let pair = [3, 4].map(|n| graviton(n, (6, 18)));
    let b = baseline(&pair);
    let field = |r: SysReg, name: &str| {
        let f = IdReg::of(r).and_then(|row| row.field(name)).expect("field");
        f.raw(b.cpu.applied(RegId::sysreg(r.code()), u64::MAX))
    };
    use SysReg as S;
    let masks = [
        (S::ID_AA64PFR0_EL1, "SEL2", 0),
        (S::ID_AA64PFR0_EL1, "EL0", 1),
        (S::ID_AA64ISAR0_EL1, "TLB", 0),
        (S::ID_AA64ISAR0_EL1, "SM4", 0),
        (S::ID_AA64ISAR0_EL1, "SM3", 0),
        (S::ID_AA64ISAR1_EL1, "SPECRES", 0),
        (S::ID_AA64ISAR1_EL1, "SB", 0),
        (S::ID_AA64ISAR1_EL1, "FRINTTS", 0),
    ];
    // What that list leaves, and a restore does not.
    let more = [
        (S::ID_AA64PFR1_EL1, "BT", 0),
        (S::ID_AA64MMFR1_EL1, "ECBHB", 0),
        (S::ID_AA64MMFR1_EL1, "PAN", 2),
        (S::ID_AA64MMFR2_EL1, "E0PD", 0),
        (S::ID_AA64MMFR2_EL1, "TTL", 0),
        (S::ID_AA64MMFR2_EL1, "ST", 0),
    ];
    for (r, name, want) in masks.into_iter().chain(more) {
        assert_eq!(field(r, name), want, "{r}.{name}");
    }
    // pauth=off, and the shorter vectors: their algorithms and lengths differ.
    assert!(!b.cpu.features.expect("features").contains(VcpuFeatures::PTRAUTH));
    // SVE lengths 256 and 128: W9 of seed-systems.md §4.6.
    let vls = RegId(0x6060_0000_0015_ffff);
    assert_eq!(b.cpu.applied(vls, u64::MAX) & 0xffff, 1, "128 bits and no more");
    assert!(b.none.iter().any(|n| n.what == "CNTFRQ_EL0"), "{:?}", b.none);
}

/// 6.18 shows a guest more of the debug architecture than 6.1 did on the same hardware (host-data.md §2).
#[test]
fn lists_of_kernels_differ_on_the_same_host() {
    let (new, old) = (graviton(2, (6, 18)), graviton(2, (6, 1)));
    let p = plan(&guest(&new), Some(&new), &old);
    let names: BTreeSet<String> = p.blockers.iter().map(|b| b.name()).collect();
    // 14 made-up cache shapes against 3 real ones.
    for n in 3..14 {
        assert!(names.contains(&format!("CCSIDR_EL1[{n}]")), "{names:?}");
    }
    assert!(names.contains("PSCI_VERSION"), "{names:?}");
    assert!(names.contains("ID_AA64DFR0_EL1.DebugVer"), "8 there, 6 here: {names:?}");
}
