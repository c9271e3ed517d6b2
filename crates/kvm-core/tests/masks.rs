//! Writable masks: scenarios W1 to W4, W7, W8 and W10 of seed-systems.md §4.6. W5 is in `gic-model`.

mod common;

use std::time::{Duration, Instant};

use common::*;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::device::*;
use ulna_kvm_abi::{Errno, RegId, private};
use ulna_kvm_core::{Access, ClockKind, Engine, Kvm, Policy};

const PMU: u32 = 1 << 3;
/// ICC_CTLR_EL1 of a vCPU whose affinity is 0, as an attribute.
const CTLR: u64 = SysReg::ICC_CTLR_EL1.code() as u64;

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

/// What a guest reads of a register of its CPU interface, and at GICD_TYPER.
fn reads(words: &[u32]) -> Vec<u32> {
    [words, &done(0)].concat()
}

fn load_w(at: u64) -> Vec<u32> {
    // ldr w0, [x1]
    [&li(1, at)[..], &[0xb940_0020]].concat()
}

/// The GIC's identity is one record: written through any vCPU, read by the guest on all, frozen by the first run.
#[test]
fn w2_the_identity_of_the_gic_is_the_vms() {
    for (profile, first) in [("n1", 0x8000), ("max", 0x8000)] {
        let g = Guest::of(&soft(profile));
        g.memory.program(0, &[reads(&[mrs(0, SysReg::ICC_CTLR_EL1)]), reads(&load_w(GICD + 4))].concat());
        let mut vcpus = [g.vcpu(0, PSCI), g.vcpu(1, PSCI)];
        let [gic, _its] = g.gic();
        let ctlr = |n: u64| gic.get_attr(GRP_CPU_SYSREGS, n << 32 | CTLR, 0).expect("ICC_CTLR_EL1");
        let set = |n: u64, v: u64| gic.set_attr(GRP_CPU_SYSREGS, n << 32 | CTLR, v);
        let full = ctlr(0);
        assert_eq!(full & 0xc000, first, "{profile}");
        let entry = g.vm.mask_list().into_iter().find(|e| e.access == Access::GicCpuSysregs).expect("entry");
        assert_eq!((entry.id, entry.group), (CTLR, 1));
        assert_eq!(entry.mask & 0xc000, 0xc000);
        assert_eq!(entry.limit & 0x700, full & 0x700);
        // SEIS on, A3V off; more priority bits than there are, reserved INTID sizes, RSS and ExtRange never.
        for wrong in [full + 0x100, full & !0x700 | 0x300, full | 2 << 11, full | 1 << 18, full | 1 << 19] {
            assert_eq!(set(0, wrong), Err(Errno::EINVAL), "{wrong:#x}");
        }
        let wanted = full & !0x8000 | 0x4000;
        set(1, wanted).expect("before the first run");
        assert_eq!([ctlr(0), ctlr(1)], [wanted; 2]);
        // LPIs of 14 bits, and no SPI for one of several.
        let typer = gic.get_attr(GRP_DIST_REGS, 4, 0).expect("GICD_TYPER");
        let lowered = typer & !(0x1f << 19) | 13 << 19 | 1 << 25;
        for wrong in [typer | 0x1f, typer & !(0x1f << 19), typer | 1 << 26, typer & !(0x1f << 19) | 16 << 19]
        {
            assert_eq!(gic.set_attr(GRP_DIST_REGS, 4, wrong), Err(Errno::EINVAL), "{wrong:#x}");
        }
        gic.set_attr(GRP_DIST_REGS, 4, lowered).expect("before the first run");
        for v in &mut vcpus {
            assert_eq!([result(v), result(v)], [wanted, lowered]);
        }
        assert_eq!(set(0, full), Err(Errno::EBUSY));
        assert_eq!(gic.set_attr(GRP_DIST_REGS, 4, typer), Err(Errno::EBUSY));
        // What lives in ICC_CTLR_EL1 is open, and the same value is no change.
        set(0, wanted | 3).expect("EOImode and CBPR");
        assert_eq!(ctlr(0), wanted | 3);
        gic.set_attr(GRP_DIST_REGS, 4, lowered).expect("the same");
    }
}

/// Fewer priority bits: the guest reads the number, PMR and BPR behave by it, and the registers of active priorities
/// that there are no longer are UNDEFINED.
#[test]
fn w2_a_guest_with_fewer_priority_bits_has_no_more() {
    let mut c = config("n1", ClockKind::Host, Engine::default());
    c.policy = Policy::Soft;
    c.profile.gic.priority_bits = 7;
    let kvm = Kvm::new(c);
    for (bits, pmr, bpr, there) in [(7, 0xfe, [0, 1], 1), (6, 0xfc, [1, 2], 1), (5, 0xf8, [2, 3], 0xdead)] {
        let g = Guest::of(&kvm);
        let mut program =
            [wr(SysReg::VBAR_EL1, RAM + 0x1000), reads(&[mrs(0, SysReg::ICC_CTLR_EL1)])].concat();
        for (r, v) in [(SysReg::ICC_PMR_EL1, 0xff), (SysReg::ICC_BPR0_EL1, 0), (SysReg::ICC_BPR1_EL1, 0)] {
            program.extend([wr(r, v), reads(&[mrs(0, r)])].concat());
        }
        let ap1r1 = SysReg::ICC_AP1R1_EL1;
        program.extend([wr(ap1r1, 1), reads(&[mrs(0, ap1r1)]), wr(ap1r1, 0)].concat());
        g.memory.program(0, &program);
        g.memory.program(0x1200, &[li(0, 0xdead).to_vec(), done(0)].concat());
        let mut v = g.vcpu(0, PSCI);
        let [gic, _its] = g.gic();
        let full = gic.get_attr(GRP_CPU_SYSREGS, CTLR, 0).expect("ICC_CTLR_EL1");
        let wanted = full & !0x700 | (bits - 1) << 8;
        gic.set_attr(GRP_CPU_SYSREGS, CTLR, wanted).expect("fewer bits");
        assert_eq!(result(&mut v), wanted);
        assert_eq!([result(&mut v), result(&mut v), result(&mut v)], [pmr, bpr[0], bpr[1]], "{bits}");
        assert_eq!(result(&mut v), there, "{bits}");
    }
}

/// Fewer bits of LPIs: the ITS maps none beyond, and the redistributor's table covers no more.
#[test]
fn w2_a_guest_without_lpis_has_none() {
    let g = Guest::of(&soft("n1"));
    let enable = [reads(&load_w(GICR + 8)), poke(GICR, 1), reads(&load_w(GICR))];
    g.memory.program(0, &enable.concat());
    let mut v = g.vcpu(0, PSCI);
    let [gic, _its] = g.gic();
    let typer = gic.get_attr(GRP_DIST_REGS, 4, 0).expect("GICD_TYPER");
    assert_eq!(typer >> 17 & 1, 1);
    gic.set_attr(GRP_DIST_REGS, 4, typer & !(1 << 17 | 0x1f << 19) | 9 << 19).expect("no LPIs");
    assert_eq!(result(&mut v) & 1, 0, "GICR_TYPER.PLPIS");
    assert_eq!(result(&mut v) & 1, 0, "GICR_CTLR.EnableLPIs");
}

/// The events that PMCEID0_EL0 announces are those that are counted.
#[test]
fn w2_an_event_that_is_not_announced_is_not_counted() {
    const INST_RETIRED: u64 = 8;
    let pmceid0 = RegId::sysreg(SysReg::PMCEID0_EL0.code()).0;
    for lowered in [false, true] {
        let g = Guest::of(&soft("n1"));
        let count = [
            reads(&[mrs(0, SysReg::PMCEID0_EL0)]),
            wr(SysReg::PMEVTYPER0_EL0, INST_RETIRED),
            wr(SysReg::PMCNTENSET_EL0, 1),
            wr(SysReg::PMCR_EL0, 3),
            vec![ISB, NOP, NOP, NOP],
            reads(&[mrs(0, SysReg::PMEVCNTR0_EL0)]),
        ];
        g.memory.program(0, &count.concat());
        let mut v = g.vcpu(0, PSCI | PMU);
        v.set_attr(0, 1, 0).expect("PMU");
        let full = g.vm.get_vm_reg(pmceid0).expect("PMCEID0_EL0");
        assert_eq!(full >> INST_RETIRED & 1, 1);
        assert_eq!(g.vm.set_vm_reg(pmceid0, full | !full), Err(Errno::EINVAL));
        assert_eq!(g.vm.set_vm_reg(pmceid0, full & !1), Err(Errno::EINVAL), "SW_INCR always is");
        let wanted = if lowered { full & !(1 << INST_RETIRED) } else { full };
        g.vm.set_vm_reg(pmceid0, wanted).expect("a subset");
        assert_eq!(result(&mut v), wanted);
        assert_eq!(result(&mut v) == 0, lowered);
        assert_eq!(g.vm.set_vm_reg(pmceid0, full), if lowered { Err(Errno::EBUSY) } else { Ok(()) });
    }
}

/// DC ZVA zeroes as much as DCZID_EL0 says; CCSIDR_EL1 says what was written for each cache.
#[test]
fn w2_caches_are_as_they_are_said_to_be() {
    let dczid = RegId::sysreg(SysReg::DCZID_EL0.code()).0;
    for bs in [4u64, 2, 0] {
        let g = Guest::of(&soft("n1"));
        // dc zva, x1
        let zero = [&li(1, RAM + 0x3000)[..], &[0xd50b_7421]].concat();
        let shape = [wr(SysReg::CSSELR_EL1, 2), vec![ISB], reads(&[mrs(0, SysReg::CCSIDR_EL1)])].concat();
        // DC ZVA wants Normal memory: the first gigabyte Device, the second Normal, and the MMU on.
        let map = [
            wr(SysReg::MAIR_EL1, 0xff),
            wr(SysReg::TCR_EL1, 25 | 1 << 23),
            wr(SysReg::TTBR0_EL1, RAM + 0x2000),
            // orr x10, x10, #1
            vec![ISB, mrs(10, SysReg::SCTLR_EL1), 0xb240_014a, msr(SysReg::SCTLR_EL1, 10), ISB],
        ]
        .concat();
        g.memory.write64(0x2000, 0x405);
        g.memory.write64(0x2008, RAM | 0x701);
        g.memory.program(0, &[map, reads(&[mrs(0, SysReg::DCZID_EL0)]), zero, reads(&[]), shape].concat());
        (0..64).for_each(|n| g.memory.write32(0x3000 + 4 * n, 7));
        let mut v = g.vcpu(0, PSCI);
        assert_eq!(g.vm.set_vm_reg(dczid, 5), Err(Errno::EINVAL), "N1's blocks are of 64 bytes");
        g.vm.set_vm_reg(dczid, bs).expect("smaller");
        v.set_one_reg(RegId::ccsidr(2), &0x00ff_e07au32.to_le_bytes()).expect("shape");
        assert_eq!(result(&mut v) & 0x1f, bs);
        result(&mut v);
        let zeroed = (0..64).filter(|n| g.memory.read32(0x3000 + 4 * n) == 0).count();
        assert_eq!(zeroed, 1 << bs);
        assert_eq!(result(&mut v), 0x00ff_e07a);
    }
}

/// Breakpoints that are not announced are not there.
#[test]
fn w2_a_guest_with_fewer_breakpoints_has_no_more() {
    let dfr0 = RegId::sysreg(SysReg::ID_AA64DFR0_EL1.code());
    for (brps, says) in [(5u64, 0), (3, 0xdead)] {
        let g = Guest::of(&soft("n1"));
        let body = [
            wr(SysReg::VBAR_EL1, RAM + 0x1000),
            reads(&[mrs(0, SysReg::ID_AA64DFR0_EL1)]),
            vec![NOP],
            // DBGBCR5_EL1
            reads(&[mrs(0, SysReg::from_encoding(2, 0, 0, 5, 5).expect("DBGBCR5_EL1"))]),
        ];
        g.memory.program(0, &body.concat());
        g.memory.program(0x1200, &[li(0, 0xdead).to_vec(), done(0)].concat());
        let mut v = g.vcpu(0, PSCI);
        let first = get(&mut v, dfr0);
        assert_eq!(first >> 12 & 0xf, 5);
        let wanted = first & !(0xf << 12) | brps << 12;
        set(&mut v, dfr0, wanted);
        assert_eq!([result(&mut v), result(&mut v)], [wanted, says]);
        // Hardware cannot hide them.
        let hw = Guest::new("n1", ClockKind::Host);
        let mut v = hw.vcpu(0, PSCI);
        assert_eq!(try_set(&mut v, dfr0, first & !(0xf << 12) | 3 << 12), Err(Errno::EINVAL));
    }
}

/// Linux 6.15 opened the granules of stage 2 and the policy of instruction caches; the guest sees what was written.
#[test]
fn w2_kernel_6_15_opens_more_fields() {
    let (mmfr0, ctr) = [SysReg::ID_AA64MMFR0_EL1, SysReg::CTR_EL0].map(|r| RegId::sysreg(r.code())).into();
    for (kernel, open) in [((6, 12), false), ((6, 14), false), ((6, 15), true)] {
        let g = Guest::of(&kvm_of(kernel, true));
        let ids = [reads(&[mrs(0, SysReg::ID_AA64MMFR0_EL1)]), reads(&[mrs(0, SysReg::CTR_EL0)])];
        g.memory.program(0, &ids.concat());
        let mut v = g.vcpu(0, PSCI);
        let (m, c) = (get(&mut v, mmfr0), get(&mut v, ctr));
        let answer = if open { Ok(()) } else { Err(Errno::EINVAL) };
        let (less, vipt) = (m & !(0xfff << 32) | 0x111 << 32, c & !(3 << 14) | 2 << 14);
        assert_eq!(try_set(&mut v, mmfr0, less), answer, "{kernel:?}");
        assert_eq!(try_set(&mut v, ctr, vipt), answer, "{kernel:?}");
        let masks = g.vm.writable_masks();
        assert_eq!(masks[56] >> 32 & 0xfff, if open { 0xfff } else { 0 });
        assert_eq!(masks[129] >> 14 & 3, if open { 3 } else { 0 });
        let seen = if open { [less, vipt] } else { [m, c] };
        assert_eq!([result(&mut v), result(&mut v)], seen);
    }
}

/// As far as one machine goes: the register that stops the move under `hw` is taken under `soft`, and the guest reads on
/// what it read before.
#[test]
fn w4_thunderx2_takes_altras_gic_under_soft_only() {
    let altra = Guest::new("altra", ClockKind::Host);
    let _v = altra.vcpu(0, PSCI);
    let [gic, _its] = altra.gic();
    let wanted = gic.get_attr(GRP_CPU_SYSREGS, CTLR, 0).expect("ICC_CTLR_EL1");
    let mut differ = false;
    for policy in [Policy::Hw, Policy::Soft] {
        let mut c = config("thunderx2", ClockKind::Host, Engine::default());
        c.policy = policy;
        let g = Guest::of(&Kvm::new(c));
        g.memory.program(0, &reads(&[mrs(0, SysReg::ICC_CTLR_EL1)]));
        let mut v = g.vcpu(0, PSCI);
        let [gic, _its] = g.gic();
        let own = gic.get_attr(GRP_CPU_SYSREGS, CTLR, 0).expect("ICC_CTLR_EL1");
        differ |= (own ^ wanted) & 0xc000 != 0;
        let answer = gic.set_attr(GRP_CPU_SYSREGS, CTLR, wanted);
        if policy == Policy::Soft {
            assert_eq!(answer, Ok(()));
            assert_eq!(result(&mut v), wanted);
        } else {
            assert_eq!(answer, if differ { Err(Errno::EINVAL) } else { Ok(()) });
        }
    }
    assert!(differ, "the two differ in SEIS or A3V");
}

#[test]
fn w7_affinity_3_without_a3v_does_not_start() {
    let g = Guest::of(&soft("n1"));
    g.memory.program(0, &reads(&[mrs(0, SysReg::ICC_CTLR_EL1)]));
    let mut vcpus = [g.vcpu(0, PSCI), g.vcpu(1, PSCI)];
    let mpidr = RegId::sysreg(SysReg::MPIDR_EL1.code());
    set(&mut vcpus[1], mpidr, 1 << 31 | 1 << 32);
    let [gic, _its] = g.gic();
    let full = gic.get_attr(GRP_CPU_SYSREGS, CTLR, 0).expect("ICC_CTLR_EL1");
    assert_eq!(full >> 15 & 1, 1);
    gic.set_attr(GRP_CPU_SYSREGS, CTLR, full & !0x8000).expect("A3V off");
    for v in &mut vcpus {
        let e = v.run().expect_err("refused");
        assert_eq!(e.to_string(), "EINVAL (ICC_CTLR_EL1.A3V is 0 but vCPU 1 has MPIDR_EL1.Aff3 1)");
    }
    // It is not the end of the VM.
    gic.set_attr(GRP_CPU_SYSREGS, CTLR, full).expect("A3V on");
    assert_eq!(result(&mut vcpus[0]), full);
}

/// Registers that contradict each other do not start either, and say which.
#[test]
fn w7_fields_that_contradict_each_other_do_not_start() {
    let g = Guest::of(&soft("n1"));
    g.memory.program(0, &reads(&[]));
    let mut v = g.vcpu(0, PSCI);
    let dfr0 = RegId::sysreg(SysReg::ID_AA64DFR0_EL1.code());
    let first = get(&mut v, dfr0);
    set(&mut v, dfr0, first & !(0xf << 12));
    let said = v.run().expect_err("refused").to_string();
    assert_eq!(said, "EINVAL (ID_AA64DFR0_EL1.CTX_CMPs is 0x1 but ID_AA64DFR0_EL1.BRPs is 0x0)");
    set(&mut v, dfr0, first);
    result(&mut v);
}

/// To one part in a million, of the only clock that does not depend on a busy machine: executed instructions, one a
/// nanosecond, and the time that a sleeping guest skips.
#[test]
fn w10_a_guest_of_another_frequency_does_not_drift() {
    for hz in [1_000_000u64, 19_200_000, 24_000_000, 25_000_000, 62_500_000, 1_000_000_000] {
        let mut c = config("n1", ClockKind::Insn, Engine::Interp);
        c.policy = Policy::Soft;
        let g = Guest::of(&Kvm::new(c));
        // Reads the counter, spins some millions of instructions, reads it again.
        let n = 2_000_000u64;
        let spin = [
            reads(&[mrs(0, SysReg::CNTFRQ_EL0)]),
            reads(&[ISB, mrs(0, SysReg::CNTVCT_EL0)]),
            li(2, n).to_vec(),
            // subs x2, x2, #1; b.ne -1
            vec![0xf100_0442, 0x54ff_ffe1],
            reads(&[ISB, mrs(0, SysReg::CNTVCT_EL0)]),
        ];
        g.memory.program(0, &spin.concat());
        let mut v = g.vcpu(0, PSCI);
        g.vm.set_vm_reg(RegId::sysreg(SysReg::CNTFRQ_EL0.code()).0, hz).expect("frequency");
        assert_eq!(result(&mut v), hz);
        let first = result(&mut v);
        let last = result(&mut v);
        // Instructions between the two readings: the stores of the first, the loop, the second's ISB.
        let ns = 5 + 4 + 2 * n + 2;
        let exact = ns as f64 * hz as f64 / 1e9;
        let off = ((last - first) as f64 - exact).abs();
        // A reading is of a whole tick.
        assert!(off <= 1.0 + exact / 1e6, "{hz}: {} for {exact}", last - first);
    }
}
