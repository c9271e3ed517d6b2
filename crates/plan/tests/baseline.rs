//! What is started from a baseline moves; what is masked as a plan says is no longer in the way.

mod common;

use common::*;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::RegId;
use ulna_kvm_core::Policy;
use ulna_machine::VcpuFeatures;
use ulna_plan::baseline::baseline;
use ulna_plan::cpu::{Cpu, Format};
use ulna_plan::{Avoid, Guest, Host, plan};
use ulna_profile::Profile;

fn host(name: &str, policy: Policy) -> Host {
    Host::soft(Profile::builtin(name).expect(name), policy)
}

#[test]
fn under_soft_every_pair_moves_from_its_baseline() {
    let all = hosts(Policy::Soft);
    let mut restored = 0;
    for (n, a) in all.iter().enumerate() {
        for (m, b) in all.iter().enumerate() {
            let base = baseline(&[a.clone(), b.clone()]);
            assert!(base.none.is_empty(), "{} and {}: {:?}", a.label(), b.label(), base.none);
            let guest = base.cpu.guest(a).unwrap_or_else(|e| panic!("{}: {e:?}", a.label()));
            let p = plan(&guest, Some(a), b);
            assert!(p.blockers.is_empty(), "{} to {}: {:?}", p.from, p.to, p.blockers);
            // For real: each host to the next, each way.
            if (n + 1) % all.len() == m || (m + 1) % all.len() == n {
                let (guest, unseen) = start_as(a, &base.cpu);
                assert_eq!(restore(&guest, &unseen, b), Default::default(), "{} to {}", p.from, p.to);
                restored += 1;
            }
        }
    }
    assert_eq!(restored, 44);
}

#[test]
fn the_baseline_of_three_servers_goes_around_the_ring() {
    let ring: Vec<Host> =
        ["altra", "kunpeng920", "graviton2"].map(|n| host(n, Policy::Soft)).into_iter().collect();
    let base = baseline(&ring);
    assert_eq!(base.none, []);
    // Kunpeng 920 lacks LRCPC and SSBS, the others lack JSCVT, FCMA and FHM (host-data.md 4).
    let isar1 = base.cpu.applied(RegId::sysreg(SysReg::ID_AA64ISAR1_EL1.code()), u64::MAX);
    assert_eq!((isar1 >> 20 & 0xf, isar1 >> 12 & 0xff), (0, 0));
    for (n, from) in ring.iter().enumerate() {
        let (guest, unseen) = start_as(from, &base.cpu);
        let to = &ring[(n + 1) % ring.len()];
        assert_eq!(plan(&guest, Some(from), to).blockers, []);
        assert!(restore(&guest, &unseen, to).is_empty());
    }
}

/// Every remedy of a plan, taken together, leaves only what has none.
#[test]
fn masking_what_the_plan_says_turns_it() {
    let (mut turned, mut stuck) = (0, 0);
    for policy in [Policy::Hw, Policy::Soft] {
        let all = hosts(policy);
        for from in &all {
            let features = from.usual_features();
            let guest = Guest::of(from, features, false);
            for to in &all {
                let p = plan(&guest, Some(from), to);
                let mut cpu = Cpu { features: Some(features), ..Cpu::default() };
                let mut remedied = Vec::new();
                for b in &p.blockers {
                    match &b.avoid {
                        Some(Avoid::Mask { id, mask, bits, .. }) => cpu.set(*id, *mask, *bits),
                        Some(Avoid::Service { id, value, .. }) => cpu.set(*id, u64::MAX, *value),
                        Some(Avoid::WithoutFeature { bits, .. }) => {
                            let less = cpu.features.unwrap_or_default();
                            cpu.features = Some(less.without(VcpuFeatures::from_bits(*bits)));
                        }
                        Some(Avoid::Gic2) => cpu.gic = Some(2),
                        _ => continue,
                    }
                    remedied.push(b.name());
                }
                let masked = cpu.guest(from).unwrap_or_else(|e| panic!("{} to {}: {e:?}", p.from, p.to));
                let after = plan(&masked, Some(from), to);
                for b in &after.blockers {
                    assert!(!remedied.contains(&b.name()), "{} to {}: {b} again", p.from, p.to);
                    // Whether a guest needs workaround 2 follows what it is told of SSBS.
                    let follows = b.what == "SMCCC_ARCH_WORKAROUND_2";
                    assert!(
                        follows || p.blockers.iter().any(|o| o.name() == b.name()),
                        "{} to {}: {b} is new",
                        p.from,
                        p.to
                    );
                }
                if !p.blockers.is_empty() {
                    if after.blockers.is_empty() { turned += 1 } else { stuck += 1 }
                }
            }
        }
    }
    println!("{turned} turned, {stuck} need more than a mask");
    assert!(turned > 30, "{turned}");
}

#[test]
fn a_baseline_reads_back_in_every_spelling() {
    let pair = [host("graviton2", Policy::Soft), host("graviton3", Policy::Soft)];
    let base = baseline(&pair).cpu;
    let (own, lost) = base.write(Format::Ulna);
    assert!(lost.is_empty());
    let back = Cpu::parse(&own).expect("own spelling");
    assert_eq!(
        (&back.registers, back.features, back.gic),
        (&base.registers, base.features, base.gic),
        "{own}"
    );
    let (json, lost) = base.write(Format::Firecracker);
    assert_eq!(lost, ["ICC_CTLR_EL1", "CNTFRQ_EL0", "gic"], "graviton2 and 3 count the same events");
    let back = Cpu::parse(&json).expect("Firecracker's");
    assert!(back.registers.iter().all(|(id, b)| base.registers[id] == *b));
    assert_eq!(back.registers.len() + 2, base.registers.len());
    let (text, lost) = base.write(Format::Qemu);
    assert!(lost.contains(&"CNTFRQ_EL0".to_owned()) && text.starts_with("host,"), "{text}");
    let back = Cpu::parse(&text).expect("QEMU's");
    for (id, b) in &back.registers {
        assert_eq!(b.value, base.registers[id].value & b.mask, "{:#x}", id.0);
    }
    assert!(back.registers.len() > 20);
}
