//! Writable masks: scenarios W1 to W3, W8 and W10 of seed-systems.md §4.6.

mod common;

use std::time::{Duration, Instant};

use common::*;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::{Errno, RegId, private};
use ulna_kvm_core::{Access, ClockKind, Engine, Kvm, Policy};

fn soft(profile: &str) -> Kvm {
    let mut c = config(profile, ClockKind::Host, Engine::default());
    c.policy = Policy::Soft;
    Kvm::new(c)
}

/// Registers of range 0 that a vCPU lists, with their masks.
fn masked(g: &Guest) -> Vec<(RegId, u64)> {
    let masks = g.vm.writable_masks();
    let id = |n: usize| {
        let op1 = [0, 1, 3][n / 64];
        RegId::sysreg((3 << 14 | op1 << 11 | n & 0x3f) as u16)
    };
    (0..192).map(|n| (id(n), masks[n])).collect()
}

#[test]
fn w1_a_register_with_a_mask_is_listed_and_others_are_fixed() {
    for profile in ["n1", "max", "graviton3", "a53", "thunderx2"] {
        for kvm in [kvm(profile, ClockKind::Host), soft(profile)] {
            let g = Guest::of(&kvm);
            let mut v = g.vcpu(0, PSCI);
            let list = v.reg_list().expect("list");
            let with: Vec<RegId> = masked(&g).into_iter().filter(|m| m.1 != 0).map(|m| m.0).collect();
            assert!(with.iter().all(|id| list.contains(id)), "{profile}");
            assert!(with.len() > 8, "{profile}: {}", with.len());
        }
    }
}

#[test]
fn w2_what_the_mask_leaves_out_cannot_change() {
    let g = Guest::new("n1", ClockKind::Host);
    let mut v = g.vcpu(0, PSCI);
    let list = v.reg_list().expect("list");
    let (mut clear, mut lowered) = (0, 0);
    for (id, mask) in masked(&g).into_iter().filter(|m| list.contains(&m.0)) {
        // The affinity and the shape of caches are the vCPU's own, AArch32's registers ignore what is written.
        let r = SysReg::from_code(id.index()).expect("register");
        if matches!(r, SysReg::MPIDR_EL1 | SysReg::CLIDR_EL1 | SysReg::CSSELR_EL1) {
            continue;
        }
        let first = get(&mut v, id);
        for bit in 0..64 {
            let changed = first ^ 1 << bit;
            let answer = try_set(&mut v, id, changed);
            if mask >> bit & 1 == 0 {
                let now = get(&mut v, id);
                assert_eq!(now, first, "{r} bit {bit}");
                clear += 1;
            } else if answer.is_ok() && first >> bit & 1 != 0 {
                lowered += 1;
                assert_eq!(get(&mut v, id), changed, "{r} bit {bit}");
            }
            set(&mut v, id, first);
        }
    }
    assert!(clear > 1000 && lowered > 24, "{clear} {lowered}");
}

/// The guest sees the field, and the behaviour: an atomic that is not announced is UNDEFINED.
#[test]
fn w2_what_is_lowered_is_gone() {
    // ldadd x1, x2, [x3]: with the feature it stores, without it the vector at VBAR+0x200 does.
    const LDADD: u32 = 0xf821_0062;
    for (lowered, says) in [(false, 0x2), (true, 0xdead)] {
        let g = Guest::of(&soft("n1"));
        let body = [
            wr(SysReg::VBAR_EL1, RAM + 0x1000),
            vec![mrs(0, SysReg::ID_AA64ISAR0_EL1)],
            done(0),
            li(3, RAM + 0x3000).to_vec(),
            vec![LDADD],
            li(0, 2).to_vec(),
            done(0),
        ]
        .concat();
        g.memory.program(0, &body);
        g.memory.program(0x1200, &[li(0, 0xdead).to_vec(), done(0)].concat());
        let mut v = g.vcpu(0, PSCI);
        let isar0 = RegId::sysreg(SysReg::ID_AA64ISAR0_EL1.code());
        let full = get(&mut v, isar0);
        let want = if lowered { full & !(0xf << 20) } else { full };
        set(&mut v, isar0, want);
        assert_eq!(result(&mut v), want);
        assert_eq!(result(&mut v), says);
    }
}

#[test]
fn w3_ranges_are_0_and_16_and_the_second_only_outside_strict_mode() {
    let strict = kvm_of((6, 12), true).create_vm(0).expect("VM");
    assert_eq!(strict.check_extension(230), Ok(1));
    let g = Guest::new("n1", ClockKind::Host);
    assert_eq!(g.vm.check_extension(230), Ok(1 | 1 << private::MASK_RANGE_LIST));
    let list = g.vm.mask_list();
    let bytes = g.vm.mask_list_bytes();
    assert_eq!(bytes.len(), 8 + 40 * list.len());
    assert_eq!(bytes[..8], [1, 0, 0, 0, list.len() as u8, 0, 0, 0]);
    assert!(!list.iter().any(|e| e.access == Access::VmRegister), "hardware counts at its own rate");
    assert!(soft("n1").create_vm(0).expect("VM").mask_list().iter().any(|e| e.group == 3));
}

/// What the list names can be changed as it says, and the guest sees it.
#[test]
fn w2_the_list_of_range_16_keeps_its_promises() {
    const PMU: u32 = 1 << 3;
    let g = Guest::of(&soft("n1"));
    g.memory.program(
        0,
        &[vec![mrs(0, SysReg::PMCR_EL0)], done(0), vec![mrs(0, SysReg::CNTFRQ_EL0)], done(0)].concat(),
    );
    let mut v = g.vcpu(0, PSCI | PMU);
    v.set_attr(0, 1, 0).expect("PMU");
    let list = g.vm.mask_list();
    for e in list.iter().filter(|e| e.access == Access::OneReg) {
        let id = RegId(e.id);
        let mut b = [0; 8];
        v.get_one_reg(id, &mut b[..id.size()]).expect("read");
        let now = u64::from_le_bytes(b);
        assert_eq!(now & e.mask, e.limit & e.mask, "{e:x?} starts at its limit");
    }
    let pmcr = RegId::sysreg(SysReg::PMCR_EL0.code());
    set(&mut v, pmcr, 2 << 11);
    g.vm.set_vm_reg(RegId::sysreg(SysReg::CNTFRQ_EL0.code()).0, 25_000_000).expect("frequency");
    assert_eq!(result(&mut v) >> 11 & 0x1f, 2);
    assert_eq!(result(&mut v), 25_000_000);
}

#[test]
fn w8_what_caches_promise_may_be_taken_back_only() {
    let ctr = RegId::sysreg(SysReg::CTR_EL0.code());
    let mut seen = [false; 2];
    for profile in ["n1", "a53", "altra", "a72"] {
        let g = Guest::new(profile, ClockKind::Host);
        let mut v = g.vcpu(0, PSCI);
        let first = get(&mut v, ctr);
        let dic = first >> 29 & 1 != 0;
        seen[usize::from(dic)] = true;
        let expected = if dic { Ok(()) } else { Err(Errno::EINVAL) };
        assert_eq!(try_set(&mut v, ctr, first ^ 1 << 29), expected, "{profile}");
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn w10_a_guest_counts_at_the_rate_it_was_given() {
    let g = Guest::of(&soft("n1"));
    g.asks();
    let mut v = g.vcpu(0, PSCI);
    let frequency = RegId::sysreg(SysReg::CNTFRQ_EL0.code()).0;
    for wrong in [0, 999_999, 0x4000_0000, u64::MAX] {
        assert_eq!(g.vm.set_vm_reg(frequency, wrong), Err(Errno::EINVAL));
    }
    g.vm.set_vm_reg(frequency, 25_000_000).expect("25 MHz");
    let count = RegId::sysreg(0xdf1a);
    assert!(get(&mut v, count) < 25_000_000, "it starts near zero");
    // The time of each reading lies between two of the host's: however long a busy host takes, the rate fits between.
    let mut read = || (Instant::now(), get(&mut v, count), Instant::now());
    let (before, first, after) = read();
    std::thread::sleep(Duration::from_millis(300));
    let (before2, last, after2) = read();
    let told = Duration::from_nanos((last - first) * 40);
    let tick = Duration::from_nanos(80);
    assert!(before2 - after <= told + tick && told <= after2 - before + tick, "{told:?}");
    call1(&mut v, 0x8400_0000, 0);
    assert_eq!(g.vm.set_vm_reg(frequency, 24_000_000), Err(Errno::EBUSY));
    assert_eq!(g.vm.set_vm_reg(frequency, 25_000_000), Ok(()));
    // Where hardware is played, its rate is.
    let hw = Guest::new("n1", ClockKind::Host);
    let _v = hw.vcpu(0, PSCI);
    assert_eq!(hw.vm.set_vm_reg(frequency, 25_000_000), Err(Errno::ENXIO));
}
