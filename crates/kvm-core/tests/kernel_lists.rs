//! KVM_GET_REG_LIST as real kernels answered it on real hosts.

use std::collections::BTreeSet;
use std::sync::Arc;

use ulna_kvm_abi::RegId;
use ulna_kvm_core::{ClockKind, Engine, Kvm, KvmConfig, Policy};
use ulna_profile::{KernelLevel, Profile};

/// PSCI_0_2.
const FEATURES: u32 = 1 << 2;

fn list(kernel: KernelLevel) -> BTreeSet<u64> {
    let mut profile = Profile::builtin("graviton2").unwrap();
    profile.kernel = kernel;
    let kvm = Kvm::new(KvmConfig {
        profile,
        policy: Policy::Hw,
        clock: ClockKind::Insn,
        engine: Engine::default(),
        engine_options: Default::default(),
        strict: true,
        random: Arc::new(|| 0),
        wall_clock: Arc::new(|| 0),
    });
    let vm = kvm.create_vm(0).unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let mut init = vm.preferred_target();
    init.features[0] = FEATURES;
    vcpu.init(&init).unwrap();
    let ids = vcpu.reg_list().unwrap();
    for &id in &ids {
        let mut b = [0; 16];
        vcpu.get_one_reg(id, &mut b[..id.size()]).unwrap();
        vcpu.set_one_reg(id, &b[..id.size()]).unwrap();
    }
    ids.into_iter().map(|id| id.0).collect()
}

/// `a..b/n` or `a`, in hexadecimal.
fn expand(text: &str) -> impl Iterator<Item = u64> {
    let hex = |t: &str| u64::from_str_radix(t, 16).unwrap();
    let (range, step) = text.split_once('/').unwrap_or((text, "1"));
    let (first, last) = range.split_once("..").unwrap_or((range, range));
    (hex(first)..=hex(last)).step_by(step.parse().unwrap())
}

#[test]
fn graviton2_lists_what_three_kernels_listed_there() {
    let text = include_str!("data/kernel-lists.txt");
    let mut kernels: Vec<(KernelLevel, usize, BTreeSet<u64>)> = Vec::new();
    for l in text.lines().filter(|l| !l.starts_with('#')) {
        let words: Vec<&str> = l.split(' ').collect();
        if let ["kernel", level, count] = words[..] {
            let (major, minor) = level.split_once('.').unwrap();
            let level = KernelLevel { major: major.parse().unwrap(), minor: minor.parse().unwrap() };
            kernels.push((level, count.parse().unwrap(), BTreeSet::new()));
        } else {
            let upper = u64::from_str_radix(words[0], 16).unwrap() << 16;
            kernels
                .last_mut()
                .unwrap()
                .2
                .extend(words[1..].iter().flat_map(|w| expand(w)).map(|n| upper | n));
        }
    }
    assert_eq!(kernels.len(), 3);
    for (kernel, count, want) in kernels {
        assert_eq!(want.len(), count, "{kernel:?}: the data file");
        let mut got = list(kernel);
        assert!(got.remove(&RegId::PC.0));
        for left_out in [0xdf1a, 0xdf01] {
            got.remove(&RegId::sysreg(left_out).0);
        }
        let more: Vec<String> = got.difference(&want).map(|n| format!("{n:x}")).collect();
        let less: Vec<String> = want.difference(&got).map(|n| format!("{n:x}")).collect();
        assert!(more.is_empty(), "{kernel:?}: too many {more:?}");
        assert!(less.is_empty(), "{kernel:?}: missing {less:?}");
    }
}
