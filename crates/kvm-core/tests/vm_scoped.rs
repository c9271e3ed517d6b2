//! Registers of which a VM has one value: the scenarios V1 to V7 of seed-systems.md §2.6, and writable identity (I5 to
//! I7 of §5.4).

mod common;

use common::*;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::{Errno, RegId, private};
use ulna_kvm_core::{ClockKind, Vcpu, Vm};

const SCOPE: u64 = private::SCOPE_VM;
const STD: RegId = RegId::fw_feat(0);
const MIDR: RegId = RegId::sysreg(0xc000);

fn vcpus(g: &Guest, n: u32) -> Vec<Vcpu> {
    (0..n).map(|n| g.vcpu(n, PSCI)).collect()
}

fn has(vm: &Vm, id: u64) -> Result<(), Errno> {
    vm.has_attr(private::GRP_REG_SCOPE, id)
}

/// The counters move while one looks.
fn moves(id: RegId) -> bool {
    matches!(id.0 & 0xfff_ffff, 0x13_df1a | 0x13_df01)
}

#[test]
fn v1_the_map_is_what_vcpus_cannot_disagree_about() {
    let g = Guest::new("n1", ClockKind::Host);
    let mut v = vcpus(&g, 3);
    let map = g.vm.reg_map().expect("map");
    assert!(map.windows(2).all(|w| w[0] < w[1]), "ascending");
    let list = v[0].reg_list().expect("list");
    assert!(map.iter().all(|id| list.contains(id)));
    let mut rng = Rng(7);
    let mut differed = 0;
    for &id in &list {
        if moves(id) {
            continue;
        }
        let read = |v: &mut Vec<Vcpu>, n: usize| {
            let mut b = vec![0; id.size()];
            v[n].get_one_reg(id, &mut b).expect("register");
            b
        };
        let mut agreed = true;
        for _ in 0..40 {
            let n = rng.below(3) as usize;
            let mut b = read(&mut v, n);
            for byte in b.iter_mut() {
                match rng.below(4) {
                    0 => *byte = rng.next() as u8,
                    1 => *byte = 0,
                    2 => *byte &= rng.next() as u8,
                    _ => {}
                }
            }
            let _ = v[n].set_one_reg(id, &b);
            agreed &= (0..3).all(|m| read(&mut v, m) == read(&mut v, 0));
        }
        let scoped = map.contains(&id);
        assert!(agreed || !scoped, "{id:x?} differs between vCPUs");
        differed += usize::from(!agreed);
        if agreed && !scoped {
            // It never changes, or what changes it affects all: nothing that one could give to a VM.
            let before = read(&mut v, 0);
            let other: Vec<u8> = before.iter().map(|b| !b).collect();
            let taken = v[0].set_one_reg(id, &other).is_ok() && read(&mut v, 0) != before;
            assert!(!taken || read(&mut v, 1) != read(&mut v, 0), "{id:x?} belongs to the map");
        }
    }
    assert!(differed > 150, "{differed}");
    assert!(map.len() > 60, "{}", map.len());
}

#[test]
fn v2_without_asking_nothing_is_tagged() {
    let g = Guest::new("n1", ClockKind::Host);
    let mut v = g.vcpu(0, PSCI);
    assert!(v.reg_list().expect("list").iter().all(|id| id.0 & private::SCOPE_MASK == 0));
    for id in [RegId::PSCI_VERSION, RegId::x(0), STD] {
        assert_eq!(v.get_one_reg(RegId(id.0 | SCOPE), &mut [0; 8]), Err(Errno::ENOENT));
        assert_eq!(v.set_one_reg(RegId(id.0 | SCOPE), &[0; 8]), Err(Errno::ENOENT));
    }
    let plain = Guest::of(&kvm_of((6, 12), true));
    assert_eq!(plain.vcpu(0, PSCI).reg_list(), v.reg_list(), "as in strict mode");
}

#[test]
fn v3_with_tags_both_spellings_work() {
    let g = Guest::new("n1", ClockKind::Host);
    let flags = private::REG_SCOPE_MAP | private::REG_SCOPE_VM_ATTRS | private::REG_SCOPE_TAGS;
    assert_eq!(g.vm.check_extension(private::CAP_REG_SCOPE), Ok(flags));
    assert_eq!(g.vm.enable_cap(private::CAP_REG_SCOPE, 0, [2, 0, 0, 0]), Err(Errno::EINVAL));
    g.vm.enable_cap(private::CAP_REG_SCOPE, 0, [1, 0, 0, 0]).expect("tags");
    let mut v = g.vcpu(0, PSCI);
    assert_eq!(g.vm.enable_cap(private::CAP_REG_SCOPE, 0, [1, 0, 0, 0]), Err(Errno::EBUSY));
    let list = v.reg_list().expect("list");
    let tagged: Vec<RegId> =
        list.iter().filter(|id| id.0 & SCOPE != 0).map(|id| RegId(id.0 & !SCOPE)).collect();
    let mut sorted = tagged.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, g.vm.reg_map().expect("map"));
    assert!(list.contains(&RegId(0x6030_0000_1014_0000)));
    for id in [0x6030_0000_1014_0000, 0x6030_0000_0014_0000] {
        set(&mut v, RegId(id), 2);
        assert_eq!(get(&mut v, RegId(id)), 2);
        set(&mut v, RegId(id), 0x1_0001);
    }
    let mut b = [0; 8];
    assert_eq!(v.get_one_reg(RegId(0x6030_0000_1010_0000), &mut b), Err(Errno::ENOENT));
    for nibble in 2..16 {
        let id = RegId(RegId::PSCI_VERSION.0 | nibble << 28);
        assert_eq!(v.get_one_reg(id, &mut b), Err(Errno::ENOENT));
        assert_eq!(v.set_one_reg(id, &b), Err(Errno::ENOENT));
    }
    // Every id of the list is one that can be read.
    for id in list {
        assert_eq!(v.get_one_reg(id, &mut vec![0; id.size()]), Ok(()), "{id:x?}");
    }
}

#[test]
fn v4_restoring_the_vm_takes_as_many_writes_as_there_are_registers() {
    const VCPUS: u32 = 512;
    // A VM that is not as a new one is, and the stream of its state.
    let from = Guest::new("n1", ClockKind::Host);
    let mut first = from.vcpu(0, PSCI);
    let isar0 = RegId::sysreg(SysReg::ID_AA64ISAR0_EL1.code());
    let lowered = get(&mut first, isar0) & !(0xf << 20);
    for (id, value) in [(STD, 0), (RegId::fw_feat(2), 1), (isar0, lowered), (RegId::PSCI_VERSION, 2)] {
        from.vm.set_vm_reg(id.0, value).expect("source");
    }
    let map = from.vm.reg_map().expect("map");
    let stream: Vec<_> = map.iter().map(|id| (id.0, from.vm.get_vm_reg(id.0).expect("read"))).collect();
    // The VM it goes to: each register is written once.
    let to = Guest::new("n1", ClockKind::Host);
    let mut v = vcpus(&to, VCPUS);
    assert_eq!(to.vm.reg_map().expect("map"), map);
    let writes = stream.iter().filter(|(id, value)| to.vm.set_vm_reg(*id, *value).is_ok()).count();
    assert_eq!(writes, map.len());
    assert!((60..100).contains(&writes), "{writes} writes instead of {}", writes * v.len());
    // Every vCPU has all of it.
    for v in &mut v {
        for (id, value) in stream.iter().filter(|(id, _)| !moves(RegId(*id))) {
            assert_eq!(get(v, RegId(*id)), *value, "{id:#x}");
        }
    }
}

#[test]
fn v5_what_the_vm_is_told_its_vcpus_and_its_guest_see() {
    let g = Guest::new("n1", ClockKind::Host);
    g.asks();
    let mut v = vcpus(&g, 3);
    g.vm.set_vm_reg(STD.0 | SCOPE, 0).expect("no TRNG");
    for v in &mut v {
        assert_eq!(get(v, STD), 0);
        assert_eq!(call1(v, 0x8400_0050, 0), u64::MAX);
    }
}

#[test]
fn v6_attributes_of_the_vm_are_registers_of_the_vm() {
    let g = Guest::new("rpi4", ClockKind::Host);
    assert_eq!(has(&g.vm, STD.0), Err(Errno::ENOEXEC));
    assert_eq!(g.vm.get_vm_reg(STD.0), Err(Errno::ENOEXEC));
    assert_eq!(g.vm.set_vm_reg(STD.0, 0), Err(Errno::ENOEXEC));
    assert_eq!(g.vm.reg_map(), Err(Errno::ENOEXEC));
    let _v = g.vcpu(0, PSCI);
    assert_eq!(has(&g.vm, STD.0), Ok(()));
    for wrong in [RegId::x(0).0, STD.0 | 2 << 28, RegId::fw_feat(3).0, MIDR.0, STD.0 ^ 1 << 52, 0] {
        assert_eq!(has(&g.vm, wrong), Err(Errno::ENXIO), "{wrong:#x}");
        assert_eq!(g.vm.get_vm_reg(wrong), Err(Errno::ENXIO));
        assert_eq!(g.vm.set_vm_reg(wrong, 0), Err(Errno::ENXIO));
    }
    // Strict mode knows nothing of it.
    let s = Guest::of(&kvm_of((6, 12), true));
    let _v = s.vcpu(0, PSCI);
    assert_eq!(has(&s.vm, STD.0), Err(Errno::ENXIO));
    assert_eq!(s.vm.reg_map(), Err(Errno::EINVAL));
    for n in 0x554c_0000..0x554c_0010 {
        assert_eq!(s.vm.check_extension(n), Ok(0));
        assert_eq!(s.vm.enable_cap(n, 0, [1, 0, 0, 0]), Err(Errno::EINVAL));
    }
}

#[test]
fn v7_after_the_start_the_vm_takes_what_it_has() {
    let g = Guest::new("n1", ClockKind::Host);
    g.asks();
    let mut v = g.vcpu(0, PSCI);
    call1(&mut v, 0x8400_0000, 0);
    assert_eq!(g.vm.set_vm_reg(STD.0, 1), Ok(()));
    assert_eq!(g.vm.set_vm_reg(STD.0, 0), Err(Errno::EBUSY));
    assert_eq!(g.vm.set_vm_reg(STD.0, 2), Err(Errno::EINVAL));
    let isar0 = RegId::sysreg(SysReg::ID_AA64ISAR0_EL1.code()).0;
    let now = g.vm.get_vm_reg(isar0).expect("read");
    assert_eq!(g.vm.set_vm_reg(isar0, now), Ok(()));
    assert_eq!(g.vm.set_vm_reg(isar0, now & !(0xf << 20)), Err(Errno::EBUSY));
    assert_eq!(g.vm.set_vm_reg(RegId::PSCI_VERSION.0, 2), Ok(()), "open");
}

#[test]
fn i5_identity_is_one_for_all_and_must_be_asked_for_early() {
    let kvm = kvm_of((6, 15), false);
    let late = Guest::of(&kvm);
    let _v = late.vcpu(0, PSCI);
    assert_eq!(late.vm.enable_cap(239, 0, [0; 4]), Err(Errno::EINVAL));
    let g = Guest::of(&kvm);
    g.vm.enable_cap(239, 0, [0; 4]).expect("writable identity");
    let ids = [SysReg::MIDR_EL1, SysReg::REVIDR_EL1, SysReg::AIDR_EL1];
    let program: Vec<u32> =
        ids.iter().flat_map(|r| [vec![mrs(0, *r)], done(0)].concat()).chain([B_SELF]).collect();
    g.memory.program(0, &program);
    let mut v = vcpus(&g, 2);
    let values = [0x431f_0af1, 0x1234_5678_9abc_def0, 0x77];
    for (r, x) in ids.into_iter().zip(values) {
        let id = RegId::sysreg(r.code());
        assert!(g.vm.reg_map().expect("map").contains(&id));
        set(&mut v[1], id, x);
        assert_eq!(get(&mut v[0], id), x);
    }
    assert_eq!(try_set(&mut v[0], MIDR, 1 << 32), Err(Errno::EINVAL), "reserved");
    for v in &mut v {
        assert_eq!([(); 3].map(|()| result(v)), values);
    }
    let masks = g.vm.writable_masks();
    assert_eq!([masks[0], masks[6], masks[71]], [0xffff_ffff, u64::MAX, u64::MAX]);
}

#[test]
fn i6_without_the_capability_identity_is_fixed() {
    for kernel in [(6, 12), (6, 15)] {
        let g = Guest::of(&kvm_of(kernel, false));
        assert_eq!(g.vm.check_extension(239), Ok(i32::from(kernel == (6, 15))));
        let mut v = g.vcpu(0, PSCI);
        let now = get(&mut v, MIDR);
        assert_eq!(try_set(&mut v, MIDR, now), Ok(()));
        assert_eq!(try_set(&mut v, MIDR, now ^ 1), Err(Errno::EINVAL));
        assert!(!g.vm.reg_map().expect("map").contains(&MIDR));
    }
    let old = Guest::of(&kvm_of((6, 12), false));
    assert_eq!(old.vm.enable_cap(239, 0, [0; 4]), Err(Errno::EINVAL));
}

#[test]
fn i7_identity_is_restored_before_the_first_run() {
    let g = Guest::of(&kvm_of((6, 15), false));
    g.vm.enable_cap(239, 0, [0; 4]).expect("writable identity");
    g.asks();
    let mut v = g.vcpu(0, PSCI);
    set(&mut v, MIDR, 0x411f_d401);
    call1(&mut v, 0x8400_0000, 0);
    assert_eq!(try_set(&mut v, MIDR, 0x411f_d401), Ok(()));
    assert_eq!(try_set(&mut v, MIDR, 0x411f_d400), Err(Errno::EBUSY));
    assert_eq!(get(&mut v, MIDR), 0x411f_d401);
}

#[test]
fn i1_without_a_list_nothing_tells_of_one() {
    for enabled in [false, true] {
        let g = Guest::of(&kvm_of((6, 15), false));
        if enabled {
            g.vm.enable_cap(239, 0, [0; 4]).expect("writable identity");
        }
        g.asks();
        let mut v = g.vcpu(0, PSCI);
        assert_eq!(call(&mut v, [0x8600_0000, 0, 0, 0]), [3, 0, 0, 0]);
        for f in [0xc600_0040, 0xc600_0041] {
            assert_eq!(call(&mut v, [f, 0, 0, 0]), [u64::MAX, 0, 0, 0]);
        }
    }
    // Told of, but nobody answers.
    let g = Guest::of(&kvm_of((6, 15), false));
    g.vm.enable_cap(239, 0, [0; 4]).expect("writable identity");
    g.asks();
    let mut v = g.vcpu(0, PSCI);
    set(&mut v, RegId::fw_feat(3), 3);
    assert_eq!(call(&mut v, [0x8600_0000, 0, 0, 0]), [3, 0, 3, 0]);
    assert_eq!(call(&mut v, [0xc600_0040, 0, 0, 0]), [u64::MAX, 0, 0, 0]);
    assert_eq!(try_set(&mut v, RegId::fw_feat(3), 7), Err(Errno::EINVAL));
    assert_eq!(try_set(&mut v, RegId::fw_feat(3), 1), Err(Errno::EBUSY));
}

/// H9: a big and a little core by name; what they can do is the VM's.
#[test]
fn h9_two_identities_and_one_set_of_features() {
    const HET: u32 = private::CAP_HET_IDENTITY;
    let kvm = kvm_of((6, 15), false);
    let g = Guest::of(&kvm);
    assert_eq!(g.vm.check_extension(HET), Ok(1));
    assert_eq!(g.vm.enable_cap(HET, 0, [0; 4]), Err(Errno::EINVAL), "writable identity comes first");
    g.vm.enable_cap(239, 0, [0; 4]).expect("writable identity");
    g.vm.enable_cap(HET, 0, [0; 4]).expect("of each vCPU's own");
    let ids = [SysReg::MIDR_EL1, SysReg::REVIDR_EL1, SysReg::AIDR_EL1];
    let isar0 = SysReg::ID_AA64ISAR0_EL1;
    let seen = [ids[0], ids[1], ids[2], isar0];
    let program: Vec<u32> =
        seen.iter().flat_map(|r| [vec![mrs(0, *r)], done(0)].concat()).chain([B_SELF]).collect();
    g.memory.program(0, &program);
    let mut v = vcpus(&g, 3);
    assert_eq!(g.vm.enable_cap(HET, 0, [0; 4]), Err(Errno::EBUSY));
    // Who is not told otherwise is as the host.
    let host = ids.map(|r| get(&mut v[2], RegId::sysreg(r.code())));
    let map = g.vm.reg_map().expect("map");
    let cores = [[0x410f_d083, 1, 2], [0x410f_d034, 0x1234_5678_9abc_def0, 3]];
    for (n, core) in cores.iter().enumerate() {
        for (r, x) in ids.into_iter().zip(core) {
            let id = RegId::sysreg(r.code());
            assert!(!map.contains(&id) && has(&g.vm, id.0) == Err(Errno::ENXIO), "{r:?} is no more the VM's");
            set(&mut v[n], id, *x);
        }
    }
    assert_eq!(try_set(&mut v[0], MIDR, 1 << 32), Err(Errno::EINVAL), "reserved");
    // Features stay those of the VM.
    let id = RegId::sysreg(isar0.code());
    let lowered = get(&mut v[0], id) & !(0xf << 20);
    set(&mut v[1], id, lowered);
    for (v, core) in v.iter_mut().zip(cores.iter().chain([&host])) {
        assert_eq!(get(v, id), lowered);
        assert_eq!(ids.map(|r| get(v, RegId::sysreg(r.code()))), *core);
        assert_eq!([(); 4].map(|()| result(v)), [core[0], core[1], core[2], lowered], "what the guest reads");
        // Once the VM has started they are as they are, for all.
        assert_eq!(try_set(v, MIDR, core[0]), Ok(()));
        assert_eq!(try_set(v, MIDR, core[0] ^ 1), Err(Errno::EBUSY));
    }
    // A reset does not change who one is.
    v[1].init(&features(PSCI)).expect("reset");
    assert_eq!(get(&mut v[1], MIDR), cores[1][0]);
    // An older kernel, and strict mode, know nothing of it.
    for kvm in [kvm_of((6, 12), false), kvm_of((6, 15), true)] {
        let g = Guest::of(&kvm);
        let _ = g.vm.enable_cap(239, 0, [0; 4]);
        assert_eq!(g.vm.check_extension(HET), Ok(0));
        assert_eq!(g.vm.enable_cap(HET, 0, [0; 4]), Err(Errno::EINVAL));
    }
}
