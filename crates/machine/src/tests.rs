//! What real KVM answered (oracle/recordings) against what the tables say, and properties of the rules.

use super::*;
use ulna_arm_regs::id::{ID_REGS, Raz};

const RECORDED: &str = include_str!("../tests/data/id-registers.txt");

fn hex(s: &str) -> u64 {
    u64::from_str_radix(s.trim_start_matches("0x"), 16).unwrap()
}

/// A machine as the recordings' hosts are: hardware that has everything its ID registers say.
fn host(name: &str, features: u32) -> Machine {
    let p = Profile::builtin(&format!("qemu-{name}")).unwrap();
    Machine::with_engine(&p, Policy::Hw, VcpuFeatures::from_bits(features), FeatSet::ALL)
}

#[test]
fn id_registers_and_their_writes_answer_as_recorded() {
    let mut lines = 0;
    let mut wrong = Vec::new();
    for l in RECORDED.lines().filter(|l| !l.starts_with('#')) {
        let w: Vec<&str> = l.split(' ').collect();
        let m = host(w[0], hex(w[2]) as u32);
        let r = SysReg::from_code(hex(w[3]) as u16).unwrap();
        let (value, acc, kept) = (hex(w[4]), hex(w[5]), hex(w[6]));
        let got = m.value(r).unwrap();
        if got != value {
            wrong.push(format!("{} {} {r}: {got:#x}, recorded {value:#x}", w[0], w[1]));
            continue;
        }
        let (mut a, mut k) = (0u64, 0u64);
        for b in 0..64 {
            if let Ok(stored) = m.check_write(r, value ^ 1 << b) {
                a |= 1 << b;
                k |= u64::from(stored == value ^ 1 << b) << b;
            }
        }
        if (a, k) != (acc, kept) {
            wrong.push(format!("{} {} {r}: writes {a:#x}/{k:#x}, recorded {acc:#x}/{kept:#x}", w[0], w[1]));
        }
        lines += 1;
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), lines + wrong.len(), wrong.join("\n"));
    assert!(lines > 300, "{lines}");
}

#[test]
fn the_engine_shows_only_what_it_executes() {
    for name in ulna_profile::names() {
        let p = Profile::builtin(name).unwrap();
        let m = Machine::new(&p, Policy::Hw, VcpuFeatures::from_bits(0x7f));
        let told = FeatSet::from_id_regs(|r| m.limit(r));
        assert!(engine_features().contains(told), "{name}: {:?}", told);
        assert!(engine_features().contains(m.features()), "{name}");
        assert_eq!(m.limit(SysReg::ID_AA64PFR0_EL1) & 0xffff, 0x11, "{name}: EL0 and EL1 in AArch64 only");
        for r in ID_REGS.iter().filter(|r| r.raz == Raz::UnlessAArch32 && r.reg != SysReg::ID_DFR0_EL1) {
            assert_eq!((m.limit(r.reg), m.writable_mask(r.reg)), (0, 0), "{name} {}", r.reg);
        }
    }
}

#[test]
fn max_has_what_linux_needs_to_do_without_kpti() {
    let p = Profile::builtin("max").unwrap();
    let m =
        Machine::new(&p, Policy::Hw, VcpuFeatures::PSCI_0_2 | VcpuFeatures::PMU_V3 | VcpuFeatures::PTRAUTH);
    let f = m.features();
    for x in [
        Feat::E0PD,
        Feat::CSV2,
        Feat::CSV3,
        Feat::HAFDBS,
        Feat::BTI,
        Feat::PAuth,
        Feat::PACIMP,
        Feat::FPAC,
        Feat::RNG,
        Feat::WFxT,
        Feat::I8MM,
        Feat::BF16,
        Feat::FRINTTS,
        Feat::FlagM2,
        Feat::LSE2,
        Feat::LRCPC2,
        Feat::DIT,
        Feat::SSBS2,
        Feat::SB,
        Feat::SPECRES,
        Feat::TLBIRANGE,
        Feat::TTL,
        Feat::TTCNP,
        Feat::LPA2,
        Feat::LVA,
        Feat::PMUv3,
        Feat::PMULL,
        Feat::SHA512,
        Feat::SHA3,
        Feat::SM3,
        Feat::SM4,
        Feat::FHM,
        Feat::DotProd,
        Feat::FP16,
        Feat::FCMA,
        Feat::JSCVT,
        Feat::DGH,
        Feat::DPB2,
        Feat::PAN3,
        Feat::UAO,
        Feat::HPDS2,
        Feat::LSE,
        Feat::RDM,
        Feat::CRC32,
        Feat::IESB,
        Feat::RAS,
        Feat::TGran16K_52,
        Feat::TGran4K_52,
        Feat::TGran64K,
    ] {
        assert!(f.has(x), "{x}");
    }
    assert_eq!(m.limit(SysReg::ID_AA64ISAR1_EL1), 0x0011_1111_1021_1502);
    let q = Machine::new(&Profile::builtin("max-qarma5").unwrap(), Policy::Hw, VcpuFeatures::PTRAUTH);
    assert!(q.features().has(Feat::PACQARMA5) && !q.features().has(Feat::PACIMP));
}

#[test]
fn ptrauth_needs_its_feature_bits() {
    let p = Profile::builtin("max").unwrap();
    let m = Machine::new(&p, Policy::Hw, VcpuFeatures::PSCI_0_2);
    assert!(!m.features().has(Feat::PAuth) && !m.features().has(Feat::PACGA));
    assert!(!m.features().has(Feat::PMUv3));
    assert!(m.supported_vcpu_features().contains(VcpuFeatures::PTRAUTH | VcpuFeatures::PMU_V3));
    assert!(!m.supported_vcpu_features().contains(VcpuFeatures::SVE));
    assert_eq!(host("max", 4).supported_vcpu_features().bits(), 0x7f);
    assert_eq!(host("cortex-a57", 4).supported_vcpu_features().bits(), 0xf);
    assert_eq!(host("neoverse-n1", 4).supported_vcpu_features().bits(), 0xd);
}

#[test]
fn a_lowered_feature_executes_under_hw_and_not_under_soft() {
    let p = Profile::builtin("altra").unwrap();
    let lowered = |m: &Machine, r: SysReg| match r {
        SysReg::ID_AA64ISAR0_EL1 => m.limit(r) & !(0xf << 20),
        _ => m.limit(r),
    };
    let hw = Machine::new(&p, Policy::Hw, VcpuFeatures::PSCI_0_2);
    let soft = Machine::new(&p, Policy::Soft, VcpuFeatures::PSCI_0_2);
    assert!(hw.features_for(|r| lowered(&hw, r)).has(Feat::LSE));
    assert!(!soft.features_for(|r| lowered(&soft, r)).has(Feat::LSE));
}

#[test]
fn the_gic_field_follows_the_gic() {
    let m = Machine::new(&Profile::builtin("altra").unwrap(), Policy::Hw, VcpuFeatures::PSCI_0_2);
    let v = m.limit(SysReg::ID_AA64PFR0_EL1);
    assert_eq!(v >> 24 & 0xf, 1);
    assert_eq!(m.at_first_run(SysReg::ID_AA64PFR0_EL1, v, true), v);
    assert_eq!(m.at_first_run(SysReg::ID_AA64PFR0_EL1, v, false), v & !(0xf << 24));
    let rpi = Machine::new(&Profile::builtin("rpi4").unwrap(), Policy::Hw, VcpuFeatures::PSCI_0_2);
    assert_eq!(rpi.limit(SysReg::ID_AA64PFR0_EL1) >> 24 & 0xf, 0);
}

#[test]
fn register_lists_are_as_recorded() {
    let text = include_str!("../tests/data/register-lists.txt");
    let mut lines = text.lines().filter(|l| !l.starts_with('#'));
    let mut seen = 0;
    while let (Some(list), Some(hosts)) = (lines.next(), lines.next()) {
        let want = codes(list);
        for h in hosts.split_whitespace() {
            let p: Vec<&str> = h.split('/').collect();
            let got: Vec<u16> = host(p[0], hex(p[2]) as u32).reg_list().iter().map(|r| r.code()).collect();
            assert_eq!(got, want, "{h}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn reset_values_are_as_recorded() {
    let mut lines = 0;
    let mut wrong = Vec::new();
    for l in include_str!("../tests/data/reset-values.txt").lines().filter(|l| !l.starts_with('#')) {
        let w: Vec<&str> = l.split(' ').collect();
        let m = host(w[0], hex(w[2]) as u32);
        let r = SysReg::from_code(hex(w[3]) as u16).unwrap();
        let got = m.reset_value(r, 0);
        if got != Some(hex(w[4])) {
            wrong.push(format!("{} {} {r}: {got:x?}, recorded {}", w[0], w[1], w[4]));
        }
        lines += 1;
    }
    assert!(wrong.is_empty(), "{} of {lines}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(lines > 500, "{lines}");
}

#[test]
fn mpidr_of_a_vcpu() {
    assert_eq!([0, 1, 15, 16, 511].map(mpidr), [1 << 31, 0x8000_0001, 0x8000_000f, 0x8000_0100, 0x8000_1f0f]);
}

fn codes(list: &str) -> Vec<u16> {
    list.split(' ')
        .flat_map(|w| match w.split_once("..") {
            Some((a, b)) => hex(a) as u16..=hex(b) as u16,
            None => hex(w) as u16..=hex(w) as u16,
        })
        .collect()
}

#[test]
fn lists_of_other_kernels_are_as_they_were_read() {
    let text = include_str!("../tests/data/kernel-lists.txt");
    for l in text.lines().filter(|l| !l.starts_with('#')) {
        let (kernel, list) = l.split_once(' ').unwrap();
        let (major, minor) = kernel.split_once('.').unwrap();
        let mut p = Profile::builtin("graviton2").unwrap();
        p.kernel = ulna_profile::KernelLevel { major: major.parse().unwrap(), minor: minor.parse().unwrap() };
        let m = Machine::with_engine(&p, Policy::Hw, VcpuFeatures::PSCI_0_2, FeatSet::ALL);
        let mut got: Vec<u16> = m.reg_list().iter().map(|r| r.code()).collect();
        got.sort_unstable();
        assert_eq!(got, codes(list), "{kernel}");
    }
}

#[test]
fn a_reset_fills_the_slots_it_owns() {
    let m = Machine::new(&Profile::builtin("max").unwrap(), Policy::Hw, VcpuFeatures::PSCI_0_2);
    let mut sys = vec![7; SysReg::COUNT];
    m.reset_slots(&mut sys, 3, false);
    assert_eq!(sys[SysReg::SCTLR_EL1 as usize], 0xc5_0078);
    assert_eq!(sys[SysReg::MPIDR_EL1 as usize], 0x8000_0003);
    for kept in
        [SysReg::SP_EL1, SysReg::ID_AA64PFR0_EL1, SysReg::CLIDR_EL1, SysReg::CNTV_CTL_EL0, SysReg::NZCV]
    {
        assert_eq!(sys[kept as usize], 7, "{kept}");
    }
    m.reset_slots(&mut sys, 3, true);
    assert_eq!(sys[SysReg::ID_AA64PFR0_EL1 as usize], m.limit(SysReg::ID_AA64PFR0_EL1));
    assert_eq!(sys[SysReg::CNTFRQ_EL0 as usize], 1_000_000_000);
}

#[test]
fn gravitons_show_their_guests_what_was_read_there() {
    let mut wrong = Vec::new();
    for l in include_str!("../tests/data/graviton.txt").lines().filter(|l| !l.starts_with('#')) {
        let w: Vec<&str> = l.split(' ').collect();
        let r = SysReg::from_name(w[0]).unwrap();
        for (name, want) in ["graviton2", "graviton3", "graviton4"].iter().zip(&w[1..]) {
            let p = Profile::builtin(name).unwrap();
            let m = Machine::with_engine(&p, Policy::Hw, VcpuFeatures::PSCI_0_2, FeatSet::ALL);
            let mut got = m.value(r).unwrap();
            if r == SysReg::ID_AA64MMFR2_EL1 {
                got &= !(0xf << 24); // NV, which kernels up to 6.12 show and 6.18 does not
            }
            if got != hex(want) {
                wrong.push(format!("{name} {r}: {got:#x}, read {want}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn guests_read_what_they_read_on_real_kvm() {
    use SysReg as S;
    use ulna_arm_regs::row::Access;
    let mut wrong = Vec::new();
    for l in include_str!("../tests/data/guest-reads.txt").lines().filter(|l| !l.starts_with('#')) {
        let mut w = l.splitn(3, ' ');
        let (name, features, list) = (w.next().unwrap(), w.next().unwrap(), codes(w.next().unwrap()));
        let m = host(name, hex(features) as u32);
        let f = m.features();
        for &r in SysReg::ALL {
            match r {
                // Trapped by CPACR_EL1, which is zero, and out of range, as PMSELR_EL0 is 0x1e.
                S::FPCR | S::FPSR | S::ZCR_EL1 | S::PMXEVTYPER_EL0 | S::PMXEVCNTR_EL0 => continue,
                // A host with MTE shows these to VMs without.
                S::GMID_EL1 | S::TCO => continue,
                // ID_AA64PFR1_EL1.SSBS = 1 has no MRS (Arm ARM, FEAT_SSBS2); the emulated host allows it.
                S::SSBS if m.limit(S::ID_AA64PFR1_EL1) >> 4 & 0xf == 1 => continue,
                _ => {}
            }
            let can = m.present(r, &f) && r.row().access != Access::WriteOnly;
            if can != list.contains(&r.code()) {
                wrong.push(format!("{name}: {r} reads: {can}"));
            }
        }
        for c in list {
            // SMPRI, SMIDR and TPIDR2: hosts with SME and without FGT let a guest read them.
            if SysReg::from_code(c).is_none() && ![0xc094, 0xc806, 0xde85].contains(&c) {
                wrong.push(format!("{name}: {c:x} reads but has no row"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    static MACHINES: std::sync::LazyLock<Vec<Machine>> = std::sync::LazyLock::new(|| {
        let of = |n: &str, f| {
            Machine::new(&Profile::builtin(n).unwrap(), Policy::Soft, VcpuFeatures::from_bits(f))
        };
        ulna_profile::names().flat_map(|n| [of(n, 0x4), of(n, 0x6c)]).collect()
    });

    #[test]
    fn the_limit_itself_is_always_accepted() {
        for m in MACHINES.iter() {
            for r in ID_REGS {
                assert_eq!(m.check_write(r.reg, m.limit(r.reg)), Ok(m.limit(r.reg)), "{}", r.reg);
            }
        }
    }

    proptest! {
        /// What was accepted is accepted again as it was stored, adds no feature, and changes no bit outside the mask.
        #[test]
        fn writes_only_lower(which in 0usize..1000, reg in 0usize..1000, flips in any::<u64>(), keep in any::<u64>()) {
            let m = &MACHINES[which % MACHINES.len()];
            let row = &ID_REGS[reg % ID_REGS.len()];
            let limit = m.limit(row.reg);
            let new = limit & (keep | !m.writable_mask(row.reg)) ^ flips & 0x11 & m.writable_mask(row.reg);
            if let Ok(stored) = m.check_write(row.reg, new) {
                prop_assert_eq!(m.check_write(row.reg, stored), Ok(stored));
                if row.reg != SysReg::CLIDR_EL1 {
                    prop_assert_eq!((stored ^ limit) & !m.writable_mask(row.reg), 0);
                }
                let told = m.features_for(|r| if r == row.reg { stored } else { m.limit(r) });
                prop_assert!(m.features().contains(told), "{}: {:x} of {:x}", row.reg, stored, limit);
            }
        }

        /// Lowering to an engine never announces what it lacks, and a field the engine has in full stays.
        #[test]
        fn lowering_removes_exactly_what_is_missing(v in any::<u64>(), reg in 0usize..1000, lack in 0usize..Feat::COUNT) {
            let row = &ID_REGS[reg % ID_REGS.len()];
            prop_assert_eq!(crate::engine::lower_to(row.reg, v, FeatSet::ALL), v);
            let engine = FeatSet::ALL.without(Feat::ALL[lack]);
            let low = crate::engine::lower_to(row.reg, v, engine);
            for f in row.fields {
                let announced = |c: &ulna_arm_regs::feature::Clause| c.reg == row.reg && c.lsb == f.lsb;
                if !Feat::ALL[lack].rule().iter().any(announced) {
                    prop_assert_eq!(f.raw(low), f.raw(v));
                }
            }
            let told = FeatSet::from_id_regs(|r| if r == row.reg { low } else { 0 });
            // Feature rules with an absent value of zero (signed fields) are announced by zero itself.
            let zero = FeatSet::from_id_regs(|_| 0);
            prop_assert!(!told.has(Feat::ALL[lack]) || zero.has(Feat::ALL[lack]));
        }
    }
}

#[test]
fn later_kernels_and_the_soft_policy_open_more_fields() {
    let of = |kernel: (u16, u16), policy| {
        let mut p = Profile::builtin("n1").unwrap();
        p.kernel = KernelLevel { major: kernel.0, minor: kernel.1 };
        Machine::new(&p, policy, VcpuFeatures::PSCI_0_2)
    };
    let (old, new, soft) = (of((6, 12), Policy::Hw), of((6, 15), Policy::Hw), of((6, 12), Policy::Soft));
    let (mmfr0, ctr, dfr0) = (SysReg::ID_AA64MMFR0_EL1, SysReg::CTR_EL0, SysReg::ID_AA64DFR0_EL1);
    assert_eq!(old.writable_mask(mmfr0), 0xff00_f000_ffff_ff0f);
    assert_eq!(new.writable_mask(mmfr0), 0xff00_ffff_ffff_ff0f);
    assert_eq!(soft.writable_mask(mmfr0), 0xff00_ffff_ffff_ffff);
    assert_eq!(old.writable_mask(ctr), 0x300f_000f);
    assert_eq!(new.writable_mask(ctr), 0x300f_c00f);
    assert_eq!(new.writable_mask(dfr0), old.writable_mask(dfr0), "hardware cannot hide breakpoints");
    assert_eq!(soft.writable_mask(dfr0), old.writable_mask(dfr0) | 0xf000_f000);

    // A granule of stage 2 is the host's, or not supported.
    let first = new.limit(mmfr0);
    for (lsb, granule) in [(32, 0), (36, 0), (40, 0)].map(|(lsb, _)| (lsb, first >> lsb & 0xf)) {
        for v in 0..16 {
            let value = first & !(0xf << lsb) | v << lsb;
            assert_eq!(new.check_write(mmfr0, value).is_ok(), v == granule || v == 1, "{lsb} {v}");
            assert_eq!(old.check_write(mmfr0, value).is_ok(), v == granule, "{lsb} {v}");
        }
    }
    // N1's instruction cache is PIPT and may be shown as VIPT.
    let first = new.limit(ctr);
    assert_eq!(first >> 14 & 3, 3);
    for (v, ok) in [(0, false), (1, false), (2, true), (3, true)] {
        assert_eq!(new.check_write(ctr, first & !(3 << 14) | v << 14).is_ok(), ok, "{v}");
        assert_eq!(old.check_write(ctr, first & !(3 << 14) | v << 14).is_ok(), v == 3, "{v}");
    }
    // 8 bits of ASID in place of 16, or as it is.
    let asid = |v: u64| soft.check_write(mmfr0, soft.limit(mmfr0) & !0xf0 | v << 4).is_ok();
    assert_eq!([0, 1, 2, 3].map(asid), [true, false, true, false]);
}
