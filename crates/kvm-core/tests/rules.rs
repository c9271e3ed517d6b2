//! Rules of the interface that a guest or a VMM can meet: memory slots, resets, frozen registers, the filter, the PMU, the
//! life of the GIC, eventfds.

mod common;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use rustix::event::{EventfdFlags, eventfd};
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::device::*;
use ulna_kvm_abi::{Errno, MEM_READONLY, RegId, SmcccFilter, VcpuInit, cap, mp_state, vcpu_feature};
use ulna_kvm_core::{ClockKind, Run, Vcpu};

/// Nothing is there but what a test puts.
const DEVICE: u64 = 0x7000_0000;

/// Asks by HVC again and again, and stores x0.
fn asker() -> Vec<u32> {
    let once = [vec![HVC], done(0)].concat();
    let back = -(once.len() as i32);
    [once, vec![b(back)]].concat()
}

fn ask(v: &mut Vcpu, x: &[u64]) -> i64 {
    for (n, x) in (0..).zip(x) {
        set(v, RegId::x(n), *x);
    }
    result(v) as i64
}

#[test]
fn immediate_exit_completes_the_access_and_returns() {
    let (_g, mut v) = Guest::with(&[vec![ldr_x(2, 1)], done(2)].concat());
    set(&mut v, RegId::x(1), DEVICE);
    match v.run().expect("run") {
        Run::MmioRead(DEVICE, d) => d.copy_from_slice(&7u64.to_le_bytes()),
        e => panic!("{e:?}"),
    }
    v.set_immediate_exit(true);
    assert!(matches!(v.run(), Ok(Run::Intr)));
    assert_eq!((get(&mut v, RegId::x(2)), get(&mut v, RegId::PC)), (7, RAM + 4));
    assert!(matches!(v.run(), Ok(Run::Intr)), "as long as it is set");
    v.set_immediate_exit(false);
    assert_eq!(result(&mut v), 7);
}

#[test]
fn a_store_is_the_instruction_until_the_next_run() {
    let (_g, mut v) = Guest::with(&[vec![str_x(1, 1)], done(1)].concat());
    set(&mut v, RegId::x(1), DEVICE);
    assert!(matches!(v.run(), Ok(Run::MmioWrite(DEVICE, _))));
    assert_eq!(get(&mut v, RegId::PC), RAM);
    assert_eq!(result(&mut v), DEVICE);
}

#[test]
fn an_access_without_syndrome_is_told_to_those_who_ask() {
    let (g, mut v) = Guest::with(&[0xa940_0820]); // ldp x0, x2, [x1]
    set(&mut v, RegId::x(1), DEVICE);
    assert_eq!(v.run().err(), Some(Errno::ENOSYS));
    g.vm.enable_cap(cap::ARM_NISV_TO_USER, 0, [0; 4]).expect("cap");
    match v.run().expect("run") {
        Run::ArmNisv(iss, DEVICE) => assert_eq!(iss & 0x40, 0, "a read"),
        e => panic!("{e:?}"),
    }
    assert_eq!(g.vm.enable_cap(cap::ARM_NISV_TO_USER, 1, [0; 4]), Err(Errno::EINVAL));
    assert_eq!(g.vm.enable_cap(0xffff, 0, [0; 4]), Err(Errno::EINVAL));
}

#[test]
fn cache_maintenance_of_nothing_is_nothing() {
    // dc cvac, x1; dc civac, x1
    let (_g, mut v) = Guest::with(&[vec![0xd50b_7a21, 0xd50b_7e21], done(31)].concat());
    set(&mut v, RegId::x(1), DEVICE);
    assert_eq!(result(&mut v), 0);
}

#[test]
fn bad_addresses_become_aborts_of_the_guest() {
    // The vector of the current EL with SP_ELx reports ESR and FAR.
    let report = [vec![mrs(0, SysReg::ESR_EL1), mrs(1, SysReg::FAR_EL1)], done(0)].concat();
    let try_it = |profile: &str, target: u64, jump: bool| {
        let g = Guest::new(profile, ClockKind::Host);
        g.memory.program(
            0,
            &[wr(SysReg::VBAR_EL1, RAM), vec![if jump { 0xd61f_0060 } else { ldr_x(4, 3) }]].concat(),
        );
        g.memory.program(0x200, &report);
        let mut v = g.vcpu(0, PSCI);
        set(&mut v, RegId::x(3), target);
        (result(&mut v), get(&mut v, RegId::x(1)))
    };
    assert_eq!(try_it("n1", DEVICE, true), (0x8600_0010, DEVICE), "fetch: external abort");
    assert_eq!(
        try_it("n1", 1 << 41 | 8, false),
        (0x9600_0010, 1 << 41 | 8),
        "outside the VM's address space"
    );
    assert_eq!(try_it("n1", 1 << 53, false).0, 0x9600_0000, "address size fault, level 0");
}

#[test]
fn system_events_stop_all_vcpus() {
    let g = Guest::new("n1", ClockKind::Host);
    g.memory.program(0, &asker());
    let mut v = g.vcpu(0, PSCI);
    let other = g.vcpu(1, PSCI);
    for (x, kind, flag) in [
        ([0x8400_0008, 0, 0], 1, 0),
        ([0x8400_0009, 0, 0], 2, 0),
        ([0xc400_0012, 0, 0x77], 2, 1),
        ([0x8400_0012, 0x8000_0000, 0], 2, 1),
    ] {
        for (n, x) in (0..).zip(x) {
            set(&mut v, RegId::x(n), x);
        }
        match v.run().expect("run") {
            Run::SystemEvent(k, data) => assert_eq!((k, data), (kind, &[flag][..])),
            e => panic!("{e:?}"),
        }
        assert_eq!((v.mp_state(), other.mp_state()), (mp_state::STOPPED, mp_state::STOPPED));
        v.kicker()();
        assert!(matches!(v.run(), Ok(Run::Intr)), "nothing runs until the VMM says so");
        v.set_mp_state(mp_state::RUNNABLE).expect("state");
        other_runs(&other);
        assert_eq!(result(&mut v) as i64, -6);
    }
    assert_eq!(ask(&mut v, &[0x8400_0012, 1]), -2);
}

fn other_runs(v: &Vcpu) {
    assert_eq!(v.mp_state(), mp_state::STOPPED, "one vCPU's state is its own");
}

#[test]
fn system_suspend_is_the_vmms_business_and_an_interrupt_ends_it() {
    let g = Guest::new("n1", ClockKind::Host);
    g.memory.program(0, &asker());
    let mut v = g.vcpu(0, PSCI);
    assert_eq!(ask(&mut v, &[0xc400_000e]), -1);
    g.vm.enable_cap(cap::ARM_SYSTEM_SUSPEND, 0, [0; 4]).expect("cap");
    assert_eq!(ask(&mut v, &[0x8400_000a, 0xc400_000e]), 0, "PSCI_FEATURES");
    set(&mut v, RegId::x(0), 0xc400_000e);
    assert!(matches!(v.run(), Ok(Run::SystemEvent(5, []))));
    assert_eq!(get(&mut v, RegId::x(0)), 0xc400_000e);
    v.set_mp_state(mp_state::SUSPENDED).expect("state");
    let (kick, vm) = (v.kicker(), g.vm.clone());
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        kick();
        std::thread::sleep(Duration::from_millis(20));
        // Without an in-kernel interrupt controller: the IRQ pin of vCPU 0.
        vm.irq_line(0, true)
    });
    assert!(matches!(v.run(), Ok(Run::Intr)));
    assert!(matches!(v.run(), Ok(Run::SystemEvent(4, []))));
    assert_eq!(v.mp_state(), mp_state::SUSPENDED, "the VMM ends it");
    other.join().expect("thread").expect("line");
}

/// As Linux does it: no group of interrupts is enabled while the system is suspended, and what is pending counts all the same.
#[test]
fn system_suspend_ends_by_an_interrupt_whose_group_is_off() {
    const PPI: u32 = 20;
    let g = Guest::new("n1", ClockKind::Host);
    let program = [
        start_gic(0, 1 << PPI),
        wr(SysReg::ICC_IGRPEN1_EL1, 0),
        li(0, 0xc400_000e).to_vec(),
        vec![HVC],
        done(0),
    ];
    g.memory.program(0, &program.concat());
    let mut v = g.vcpu(0, PSCI);
    let _gic = g.gic();
    g.vm.enable_cap(cap::ARM_SYSTEM_SUSPEND, 0, [0; 4]).expect("cap");
    assert!(matches!(v.run(), Ok(Run::SystemEvent(5, []))));
    let line = |intid: u32, level| g.vm.irq_line(2 << 24 | intid, level).expect("line");
    for intid in [PPI + 1, PPI] {
        v.set_mp_state(mp_state::SUSPENDED).expect("state");
        let kick = Watchdog::new(Duration::from_millis(20), v.kicker());
        assert!(matches!(v.run(), Ok(Run::Intr)), "nothing is pending");
        line(intid, true);
        // One that is not enabled wakes nobody.
        let woken = (0..5).any(|_| matches!(v.run(), Ok(Run::SystemEvent(4, []))));
        assert_eq!(woken, intid == PPI);
        drop(kick);
        line(intid, false);
        v.set_mp_state(mp_state::RUNNABLE).expect("state");
    }
    set(&mut v, RegId::x(0), 0x77);
    assert_eq!(result(&mut v), 0x77, "it goes on behind the call");
}

#[test]
fn a_filter_denies_and_forwards_calls() {
    let (g, mut v) = Guest::with(&asker());
    let filter = |base, nr_functions, action| SmcccFilter { base, nr_functions, action, pad: [0; 15] };
    let odd = SmcccFilter { pad: [1; 15], ..filter(0x8400_0000, 1, 1) };
    assert_eq!(g.vm.set_smccc_filter(&odd), Err(Errno::EINVAL));
    g.vm.set_smccc_filter(&filter(0x8400_0000, 1, 1)).expect("filter");
    g.vm.set_smccc_filter(&filter(0xc600_0040, 2, 2)).expect("filter");
    assert_eq!(ask(&mut v, &[0x8400_0000]), -1);
    assert_eq!(ask(&mut v, &[0x8400_0006]), 2);
    set(&mut v, RegId::x(0), 0xc600_0041);
    assert!(matches!(v.run(), Ok(Run::Hypercall(0xc600_0041, 0))));
    assert_eq!(get(&mut v, RegId::PC), RAM + 4, "past the instruction");
    set(&mut v, RegId::x(0), 42);
    assert_eq!(result(&mut v), 42);
    assert_eq!(g.vm.set_smccc_filter(&filter(0x8400_0010, 1, 1)), Err(Errno::EBUSY));
    assert_eq!(g.vm.set_smccc_filter(&filter(0x8400_0010, 0, 1)), Err(Errno::EINVAL));
}

#[test]
fn bitmaps_say_which_services_there_are() {
    let (_g, mut v) = Guest::with(&asker());
    let [std, hyp, vendor] = [0, 1, 2].map(RegId::fw_feat);
    assert_eq!([std, hyp, vendor].map(|id| get(&mut v, id)), [1, 1, 3]);
    assert_eq!(v.set_one_reg(std, &2u64.to_le_bytes()), Err(Errno::EINVAL));
    set(&mut v, std, 0);
    set(&mut v, vendor, 1);
    assert_eq!(ask(&mut v, &[0x8400_0050]), -1, "no TRNG");
    assert_eq!(ask(&mut v, &[0x8600_0000]), 1);
    assert_eq!(ask(&mut v, &[0x8600_0001]), -1, "no PTP");
    assert_eq!(v.set_one_reg(std, &1u64.to_le_bytes()), Err(Errno::EBUSY));
    assert_eq!(v.set_one_reg(std, &2u64.to_le_bytes()), Err(Errno::EINVAL), "nonsense is told first");
    set(&mut v, std, 0);
}

#[test]
fn random_bits_are_as_many_as_asked_for() {
    let (_g, mut v) = Guest::with(&asker());
    for (function, width) in [(0x8400_0053u64, 32u32), (0xc400_0053, 64)] {
        for bits in [0u32, 1, 7, 31, 32, 33, 63, 64, 65, 96] {
            assert_eq!(ask(&mut v, &[function, bits.into()]), 0);
            let x = [3, 2, 1].map(|n| get(&mut v, RegId::x(n)));
            for (n, x) in (0u32..).zip(x) {
                let here = bits.saturating_sub(n * width).min(width);
                assert!(here == 64 || x >> here == 0, "{bits} of {width}: {x:#x} in word {n}");
            }
        }
        assert_eq!(ask(&mut v, &[function, u64::from(3 * width + 1)]), -2);
    }
}

#[test]
fn slots_follow_the_rules() {
    let g = Guest::new("n1", ClockKind::Host);
    let m = Memory::new(0x2000);
    let set = |slot, gpa, len, flags| {
        // SAFETY: the memory is leaked and only accessed through its pointer.
        unsafe { g.vm.set_user_memory_region(slot, gpa, len, m.host(), flags, m.clone()) }
    };
    assert_eq!(set(1, RAM + 0x1000, 0x1000, 0), Err(Errno::EEXIST));
    assert_eq!(set(1, 0x800, 0x1000, 0), Err(Errno::EINVAL));
    assert_eq!(set(1, 0x1000, 0x800, 0), Err(Errno::EINVAL));
    assert_eq!(set(1, 0x1000, 0x1000, 8), Err(Errno::EINVAL));
    assert_eq!(set(32767, 0x1000, 0x1000, 0), Err(Errno::EINVAL));
    assert_eq!(set(1, !0xfff, 0x1000, 0), Err(Errno::EINVAL));
    assert_eq!(set(1, 1 << 40, 0x1000, 0), Err(Errno::EFAULT));
    set(1, 0x1000, 0x2000, 0).expect("slot");
    assert_eq!(set(1, 0x1000, 0x1000, 0), Err(Errno::EINVAL), "the size never changes");
    g.vm.change_memory_region(1, DEVICE, 0).expect("move");
    assert_eq!(g.vm.change_memory_region(1, RAM, 0), Err(Errno::EEXIST));
    assert_eq!(g.vm.change_memory_region(1, DEVICE, MEM_READONLY), Err(Errno::EINVAL));
    assert_eq!(g.vm.change_memory_region(2, DEVICE, 0), Err(Errno::EINVAL));
    set(2, 0x1000, 0x1000, 0).expect("where the moved one was");
    g.vm.delete_memory_region(1).expect("delete");
    assert_eq!(g.vm.delete_memory_region(1), Err(Errno::EINVAL));
}

#[test]
fn a_moved_slot_is_seen_at_its_new_place_only() {
    let load = |from| [vec![ldr_x(2, from)], done(2)].concat();
    let (g, mut v) = Guest::with(&[load(1), load(1), load(3)].concat());
    let m = Memory::new(0x1000);
    m.write64(0, 0x1234);
    add_slot(&g.vm, 1, DEVICE, &m);
    set(&mut v, RegId::x(1), DEVICE);
    assert_eq!(result(&mut v), 0x1234);
    g.vm.change_memory_region(1, DEVICE + 0x1_0000, 0).expect("move");
    match v.run().expect("run") {
        Run::MmioRead(DEVICE, d) => d.fill(0),
        e => panic!("{e:?}"),
    }
    set(&mut v, RegId::x(3), DEVICE + 0x1_0000);
    assert_eq!(result(&mut v), 0);
    assert_eq!(result(&mut v), 0x1234);
}

#[test]
fn a_read_only_slot_is_read_and_its_writes_go_to_the_vmm() {
    let (g, mut v) = Guest::with(&[vec![ldr_x(2, 1), str_x(2, 1)], done(2)].concat());
    let rom = Memory::new(0x1000);
    rom.write64(0, 0x1122_3344_5566_7788);
    // SAFETY: the memory is leaked and only accessed through its pointer.
    let r = unsafe { g.vm.set_user_memory_region(1, DEVICE, 0x1000, rom.host(), MEM_READONLY, rom.clone()) };
    r.expect("slot");
    set(&mut v, RegId::x(1), DEVICE);
    match v.run().expect("run") {
        Run::MmioWrite(DEVICE, d) => assert_eq!(d, 0x1122_3344_5566_7788u64.to_le_bytes()),
        e => panic!("{e:?}"),
    }
    assert_eq!(result(&mut v), 0x1122_3344_5566_7788);
}

#[test]
fn vms_and_vcpus_have_limits() {
    let kvm = kvm("n1", ClockKind::Host);
    assert_eq!(kvm.create_vm(0x100).err(), Some(Errno::EINVAL));
    assert_eq!(kvm.create_vm(31).err(), Some(Errno::EINVAL));
    assert_eq!(kvm.create_vm(53).err(), Some(Errno::EINVAL));
    assert_eq!(kvm.check_extension(cap::MSI_DEVID), Err(Errno::EINVAL));
    let vm = kvm.create_vm(36).expect("VM");
    assert_eq!(vm.check_extension(cap::MAX_VCPUS), Ok(512));
    assert_eq!(vm.check_extension(cap::MSI_DEVID), Ok(0));
    assert_eq!(vm.check_extension(0xffff), Ok(0));
    let mut v = vm.create_vcpu(3).expect("vCPU");
    assert_eq!(v.init(&VcpuInit { target: 99, ..features(0) }), Err(Errno::EINVAL));
    assert_eq!(v.init(&features(1 << 7)), Err(Errno::ENOENT));
    assert_eq!(v.init(&features(1 << vcpu_feature::PTRAUTH_ADDRESS)), Err(Errno::EINVAL));
    v.init(&features(PSCI | OFF)).expect("init");
    assert_eq!(v.mp_state(), mp_state::STOPPED);
    assert_eq!(v.set_mp_state(1), Err(Errno::EINVAL));
    let its = vm.create_device(TYPE_ARM_VGIC_ITS).expect("ITS");
    assert_eq!(vm.check_extension(cap::MSI_DEVID), Ok(1));
    assert_eq!(its.set_attr(GRP_ADDR, 0, 0), Err(Errno::ENODEV));
    assert_eq!(vm.create_device(99).err(), Some(Errno::ENODEV));
}

#[test]
fn a_reset_keeps_what_kvm_keeps() {
    let (_g, mut v) = Guest::with(&[]);
    let gone = [RegId::x(5), RegId::SP, RegId::PC];
    let kept = [RegId::SP_EL1, RegId::ELR_EL1, RegId::SPSR_EL1, RegId::sysreg(0xdf02)];
    for id in gone.into_iter().chain(kept) {
        set(&mut v, id, 0x1004);
    }
    set(&mut v, RegId::PSTATE, 0x6000_0004);
    assert_eq!(v.set_one_reg(RegId::PSTATE, &8u64.to_le_bytes()), Err(Errno::EINVAL), "no EL2");
    v.init(&features(PSCI)).expect("init");
    assert_eq!(gone.map(|id| get(&mut v, id)), [0; 3]);
    assert_eq!(get(&mut v, RegId::PSTATE), 0x3c5);
    assert_eq!(kept.map(|id| get(&mut v, id)), [0x1004; 4]);
}

#[test]
fn a_vcpu_that_was_switched_on_shows_its_reset_before_it_runs() {
    let g = Guest::new("n1", ClockKind::Host);
    g.memory.program(0, &asker());
    let (mut a, mut b) = (g.vcpu(0, PSCI), g.vcpu(1, PSCI | OFF));
    set(&mut b, RegId::x(7), 7);
    assert_eq!(ask(&mut a, &[0xc400_0003, 1, RAM + 0x1000, 0x55]), 0);
    let shown = [RegId::PC, RegId::x(0), RegId::x(7)].map(|id| get(&mut b, id));
    assert_eq!(shown, [RAM + 0x1000, 0x55, 0]);
    assert_eq!(b.mp_state(), mp_state::RUNNABLE);
}

#[test]
fn feature_registers_belong_to_the_vm() {
    let g = Guest::new("n1", ClockKind::Host);
    g.memory.program(0, &[vec![mrs(0, SysReg::ID_AA64ISAR0_EL1)], done(0)].concat());
    let (mut a, mut b) = (g.vcpu(0, PSCI), g.vcpu(1, PSCI | OFF));
    let isar0 = RegId::sysreg(SysReg::ID_AA64ISAR0_EL1.code());
    let all = get(&mut a, isar0);
    let less = all & !0xf0;
    assert_ne!(all, less, "AES");
    set(&mut b, isar0, less);
    assert_eq!(get(&mut a, isar0), less, "one value for all vCPUs");
    assert_eq!(result(&mut a), less, "the guest sees it");
    assert_eq!(b.set_one_reg(isar0, &all.to_le_bytes()), Err(Errno::EBUSY));
}

#[test]
fn the_register_list_can_be_read_and_written_back() {
    let (_g, mut v) = Guest::with(&[]);
    let list = v.reg_list().expect("list");
    // kvm-arm64-abi.md §4: core 75, firmware 7, timers 6, invariants 3, demux 14, sysregs 154.
    assert_eq!(list.len(), 75 + 7 + 6 + 3 + 14 + 154);
    let mut seen = std::collections::BTreeSet::new();
    for id in list {
        assert!(seen.insert(id), "{id:x?} twice");
        let mut data = vec![0; id.size()];
        v.get_one_reg(id, &mut data).unwrap_or_else(|e| panic!("get {id:x?}: {e}"));
        v.set_one_reg(id, &data).unwrap_or_else(|e| panic!("set {id:x?} to {data:x?}: {e}"));
    }
}

#[test]
fn a_gic_that_is_not_ready_kills_the_vm() {
    let (g, mut v) = Guest::with(&done(31));
    let gic = g.vm.create_device(TYPE_ARM_VGIC_V3).expect("GIC");
    assert_eq!(g.vm.create_device(TYPE_ARM_VGIC_V3).err(), Some(Errno::EEXIST));
    assert_eq!(v.run().err(), Some(Errno::ENXIO), "no addresses");
    assert_eq!(v.run().err(), Some(Errno::EIO));
    assert_eq!(gic.set_attr(GRP_CTRL, CTRL_INIT, 0), Err(Errno::EIO));
    assert_eq!(g.vm.create_vcpu(1).err(), Some(Errno::EIO));

    let (g, mut v) = Guest::with(&done(31));
    let gic = g.vm.create_device(TYPE_ARM_VGIC_V3).expect("GIC");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
    assert_eq!(gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD), Err(Errno::EEXIST));
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR).expect("redistributors");
    assert_eq!(v.run().err(), Some(Errno::EBUSY), "not initialised");
    assert_eq!(v.run().err(), Some(Errno::EIO));

    // A GICv2 is initialised when it is needed.
    let g = Guest::new("rpi4", ClockKind::Host);
    g.memory.program(0, &[poke(GICD, 1), li(1, GICD).to_vec(), vec![0xb940_0020], done(0)].concat());
    let mut v = g.vcpu(0, PSCI);
    let gic = g.vm.create_device(TYPE_ARM_VGIC_V2).expect("GICv2");
    gic.set_attr(GRP_ADDR, V2_ADDR_TYPE_DIST, GICD).expect("distributor");
    gic.set_attr(GRP_ADDR, V2_ADDR_TYPE_CPU, GICD + 0x1_0000).expect("CPU interface");
    assert_eq!(g.vm.check_extension(cap::MAX_VCPUS), Ok(8));
    assert_eq!(result(&mut v), 1);
}

#[test]
fn redistributor_regions_are_checked() {
    let g = Guest::new("n1", ClockKind::Host);
    let _v = g.vcpu(0, PSCI);
    let gic = g.vm.create_device(TYPE_ARM_VGIC_V3).expect("GIC");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
    let region = |count: u64, base: u64, index: u64| {
        gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST_REGION, count << 52 | base | index)
    };
    assert_eq!(region(0, GICR, 0), Err(Errno::EINVAL));
    assert_eq!(region(1, GICR, 1), Err(Errno::EINVAL));
    assert_eq!(region(1, GICR | 0x1000, 0), Err(Errno::EINVAL));
    assert_eq!(region(1, GICD - 0x1_0000, 0), Err(Errno::EINVAL), "over the distributor");
    assert_eq!(region(16, (1 << 40) - 0x2_0000, 0), Err(Errno::E2BIG));
    region(2, GICR, 0).expect("region");
    assert_eq!(region(1, GICR + 0x2_0000, 1), Err(Errno::EINVAL), "over the first");
    region(1, GICR + 0x4_0000, 1).expect("region");
    assert_eq!(gic.get_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST_REGION, 1), Ok(1 << 52 | (GICR + 0x4_0000) | 1));
    assert_eq!(gic.get_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST_REGION, 2), Err(Errno::ENOENT));
    assert_eq!(gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR), Err(Errno::EINVAL));
    for bad in [0, 32, 65, 1024] {
        assert_eq!(gic.set_attr(GRP_NR_IRQS, 0, bad), Err(Errno::EINVAL), "{bad}");
    }
    gic.set_attr(GRP_NR_IRQS, 0, 96).expect("lines");
    assert_eq!(gic.set_attr(GRP_NR_IRQS, 0, 96), Err(Errno::EBUSY));
}

#[test]
fn registers_of_the_gic_are_reached_by_attributes() {
    let (g, mut v) = Guest::with(&done(31));
    let [gic, its] = g.gic();
    assert_eq!(gic.get_attr(GRP_DIST_REGS, 8, 0), Ok(0x4b00_343b), "GICD_IIDR");
    gic.set_attr(GRP_DIST_REGS, 0, 2).expect("GICD_CTLR");
    assert_eq!(gic.get_attr(GRP_DIST_REGS, 0, 0), Ok(0x52));
    assert_eq!(gic.get_attr(GRP_REDIST_REGS, 0x1_0100, 0), Ok(0xffff), "SGIs are enabled");
    assert_eq!(gic.get_attr(GRP_REDIST_REGS, 1 << 32, 0), Err(Errno::EINVAL), "no such vCPU");
    gic.set_attr(GRP_CPU_SYSREGS, 0xc230, 0xf0).expect("ICC_PMR_EL1");
    assert_eq!(gic.get_attr(GRP_CPU_SYSREGS, 0xc230, 0), Ok(0xf0));
    assert_eq!(gic.get_attr(GRP_CPU_SYSREGS, 0xc000, 0), Err(Errno::ENOENT));
    assert_eq!(gic.has_attr(GRP_CPU_SYSREGS, 0xc000), Err(Errno::ENXIO));
    assert_eq!(gic.has_attr(GRP_DIST_REGS, 2), Err(Errno::ENXIO));
    g.vm.irq_line(1 << 24 | 40, true).expect("line");
    gic.set_attr(GRP_LEVEL_INFO, 32, 1 << 9).expect("levels");
    assert_eq!(gic.get_attr(GRP_LEVEL_INFO, 32, 0), Ok(1 << 9));
    assert_eq!(gic.get_attr(GRP_LEVEL_INFO, 33, 0), Err(Errno::EINVAL));
    assert_eq!(its.get_attr(GRP_ITS_REGS, 4, 0), Ok(0x4b00_043b), "GITS_IIDR");
    assert_eq!(its.get_attr(GRP_ITS_REGS, 0x84, 0), Err(Errno::EINVAL));
    assert_eq!(its.get_attr(GRP_ITS_REGS, 0x200, 0), Err(Errno::ENXIO));
    assert_eq!(result(&mut v), 0);
}

#[test]
fn an_its_may_come_after_the_gic_was_initialised() {
    let g = Guest::new("n1", ClockKind::Host);
    // GICD_TYPER and the ITS's GITS_TYPER
    let read = |at: u64| [li(1, at).to_vec(), vec![ldr_x(0, 1)], done(0)].concat();
    g.memory.program(0, &[li(1, GICD + 4).to_vec(), vec![0xb940_0020], done(0), read(ITS + 8)].concat());
    let mut v = g.vcpu(0, PSCI);
    let gic = g.vm.create_device(TYPE_ARM_VGIC_V3).expect("GIC");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR).expect("redistributors");
    gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
    gic.set_attr(GRP_DIST_REGS, 0, 2).expect("GICD_CTLR");
    let its = g.vm.create_device(TYPE_ARM_VGIC_ITS).expect("ITS");
    its.set_attr(GRP_ADDR, ITS_ADDR_TYPE, ITS).expect("address");
    assert_eq!(gic.get_attr(GRP_DIST_REGS, 0, 0), Ok(0x52), "what was written before stays");
    assert_eq!(result(&mut v) >> 17 & 1, 1, "LPIs");
    assert_eq!(result(&mut v) & 1, 1, "physical LPIs");
}

#[test]
fn timer_interrupts_can_be_others() {
    let (g, mut v) = Guest::with(&done(31));
    assert_eq!(
        v.set_attr(GRP_TIMER_CTRL, TIMER_IRQ_VTIMER, 20),
        Err(Errno::EINVAL),
        "no interrupt controller"
    );
    let _gic = g.gic();
    assert_eq!(v.get_attr(GRP_TIMER_CTRL, TIMER_IRQ_VTIMER), Ok(27));
    assert_eq!(v.set_attr(GRP_TIMER_CTRL, TIMER_IRQ_VTIMER, 32), Err(Errno::EINVAL));
    assert_eq!(v.set_attr(GRP_TIMER_CTRL, 4, 20), Err(Errno::ENXIO));
    v.set_attr(GRP_TIMER_CTRL, TIMER_IRQ_VTIMER, 30).expect("the physical one's");
    assert_eq!(v.run().err(), Some(Errno::EINVAL), "two timers on one interrupt");
    v.set_attr(GRP_TIMER_CTRL, TIMER_IRQ_VTIMER, 20).expect("another");
    assert_eq!(result(&mut v), 0, "the VM lives");
    assert_eq!(v.set_attr(GRP_TIMER_CTRL, TIMER_IRQ_VTIMER, 21), Err(Errno::EBUSY));
}

const PMU: u32 = 1 << vcpu_feature::PMU_V3;

#[test]
fn a_counter_that_overflows_interrupts() {
    // The cycle counter starts 1000 below its 32-bit overflow, with its interrupt enabled.
    let program = [
        start_gic(0, 1 << 23),
        wr(SysReg::PMCCNTR_EL0, 0xffff_fc18),
        wr(SysReg::PMCCFILTR_EL0, 0),
        wr(SysReg::PMOVSCLR_EL0, u64::MAX),
        wr(SysReg::PMINTENSET_EL1, 1 << 31),
        wr(SysReg::PMCNTENSET_EL0, 1 << 31),
        wr(SysReg::PMCR_EL0, 1),
        // Until ISR_EL1.I
        vec![mrs(1, SysReg::ISR_EL1), cbz(1, -1), mrs(0, SysReg::ICC_IAR1_EL1)],
        done(0),
        wr(SysReg::PMOVSCLR_EL0, 1 << 31),
        vec![msr(SysReg::ICC_EOIR1_EL1, 0), mrs(0, SysReg::ICC_IAR1_EL1)],
        done(0),
    ]
    .concat();
    for clock in [ClockKind::Host, ClockKind::Insn] {
        let g = Guest::new("n1", clock);
        g.memory.program(0, &program);
        let mut v = g.vcpu(0, PSCI | PMU);
        let _gic = g.gic();
        v.set_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ, 23).expect("interrupt");
        v.set_attr(GRP_PMU_V3_CTRL, PMU_V3_INIT, 0).expect("init");
        assert_eq!(result(&mut v), 23, "{clock:?}");
        let taken = v.instructions();
        assert!(taken < 20_000, "{taken} instructions");
        assert_eq!(result(&mut v), 1023, "cleared, and gone with it");
    }
}

#[test]
fn a_pmu_is_set_up_in_order() {
    let g = Guest::new("n1", ClockKind::Host);
    g.memory.program(0, &done(31));
    let (mut a, mut b) = (g.vcpu(0, PSCI | PMU), g.vcpu(1, PSCI | PMU));
    assert_eq!(a.has_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ), Ok(()));
    assert_eq!(a.set_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ, 23), Err(Errno::EINVAL), "no interrupt controller");
    let gic = g.vm.create_device(TYPE_ARM_VGIC_V3).expect("GIC");
    assert_eq!(a.set_attr(GRP_PMU_V3_CTRL, PMU_V3_INIT, 0), Err(Errno::ENODEV), "it is not initialised");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR).expect("redistributors");
    gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
    assert_eq!(a.get_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ), Err(Errno::ENXIO));
    assert_eq!(a.set_attr(GRP_PMU_V3_CTRL, PMU_V3_INIT, 0), Err(Errno::ENXIO), "no interrupt");
    assert_eq!(a.set_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ, 15), Err(Errno::EINVAL));
    a.set_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ, 23).expect("PPI");
    assert_eq!(b.set_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ, 24), Err(Errno::EINVAL), "PPIs are the same on all");
    assert_eq!(a.run().err(), Some(Errno::EINVAL), "not initialised");
    a.set_attr(GRP_PMU_V3_CTRL, PMU_V3_INIT, 0).expect("init");
    assert_eq!(a.set_attr(GRP_PMU_V3_CTRL, PMU_V3_INIT, 0), Err(Errno::EBUSY));
    assert_eq!(result(&mut a), 0);
    b.set_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ, 23).expect("PPI");
}

fn new_eventfd() -> Arc<OwnedFd> {
    Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd"))
}

fn taken(fd: &OwnedFd) -> u64 {
    let mut b = [0; 8];
    rustix::io::read(fd, &mut b).map_or(0, |_| u64::from_ne_bytes(b))
}

#[test]
fn an_ioeventfd_takes_the_writes_it_names() {
    let program = [vec![str_w(2, 1), str_w(3, 1), str_x(2, 1), ldr_x(4, 1)], done(31)].concat();
    let (g, mut v) = Guest::with(&program);
    let (fd, other) = (new_eventfd(), new_eventfd());
    let add = |fd: &Arc<OwnedFd>, addr, len, m| g.vm.register_ioeventfd(fd.clone(), addr, len, m);
    assert_eq!(add(&fd, DEVICE, 3, None), Err(Errno::EINVAL));
    assert_eq!(add(&fd, u64::MAX, 4, None), Err(Errno::EINVAL));
    assert_eq!(add(&fd, DEVICE, 0, Some(1)), Err(Errno::EINVAL));
    add(&fd, DEVICE, 4, Some(5)).expect("ioeventfd");
    assert_eq!(add(&other, DEVICE, 4, None), Err(Errno::EEXIST));
    add(&other, DEVICE, 4, Some(6)).expect("another value");
    for (r, x) in [(1, DEVICE), (2, 0xffff_ffff_0000_0005), (3, 9)] {
        set(&mut v, RegId::x(r), x);
    }
    // The first store is taken; the second has another value, the third another length; a load never matches.
    assert!(matches!(v.run(), Ok(Run::MmioWrite(DEVICE, [9, 0, 0, 0]))));
    assert_eq!((taken(&fd), taken(&other)), (1, 0));
    assert!(matches!(v.run(), Ok(Run::MmioWrite(DEVICE, [5, 0, 0, 0, 255, 255, 255, 255]))));
    assert!(matches!(v.run(), Ok(Run::MmioRead(DEVICE, _))));
    assert_eq!(g.vm.unregister_ioeventfd(&fd, DEVICE, 4, None), Err(Errno::ENOENT));
    g.vm.unregister_ioeventfd(&fd, DEVICE, 4, Some(5)).expect("taken back");
    set(&mut v, RegId::PC, RAM);
    // The read that was left is complete first, at the new PC's cost of one instruction.
    set(&mut v, RegId::PC, RAM - 4);
    assert!(matches!(v.run(), Ok(Run::MmioWrite(DEVICE, [5, 0, 0, 0]))));
    assert_eq!(taken(&fd), 0);
}

#[test]
fn an_irqfd_is_an_edge_on_its_spi() {
    const SPI: u32 = 40;
    let program = [
        start_gic(0, 0),
        poke(GICD + 0x80 + 4, u32::MAX),
        poke(GICD + 0x100 + 4, 1 << (SPI - 32)),
        vec![WFI, mrs(0, SysReg::ICC_IAR1_EL1)],
        done(0),
    ]
    .concat();
    let (g, mut v) = Guest::with(&program);
    let fd = new_eventfd();
    assert_eq!(g.vm.register_irqfd(fd.clone(), SPI - 32), Err(Errno::EAGAIN), "no interrupt controller");
    let _gic = g.gic();
    g.vm.register_irqfd(fd.clone(), SPI - 32).expect("irqfd");
    assert_eq!(g.vm.register_irqfd(fd.clone(), 1), Err(Errno::EBUSY));
    let signal = fd.clone();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        rustix::io::write(&signal, &1u64.to_ne_bytes()).expect("signal");
    });
    assert_eq!(result(&mut v), u64::from(SPI));
    other.join().expect("thread");
    g.vm.unregister_irqfd(&fd, SPI - 32).expect("taken back");
    rustix::io::write(&fd, &1u64.to_ne_bytes()).expect("signal");
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(20) {
        std::thread::yield_now();
    }
    assert_eq!(taken(&fd), 1, "nobody reads it any more");
}

#[test]
fn counters_start_at_zero_and_can_be_set() {
    let (g, mut v) = Guest::with(&[vec![mrs(0, SysReg::CNTVCT_EL0)], done(0)].concat());
    let count = RegId::sysreg(0xdf1a);
    let hz = g_hz(&mut v);
    assert!(get(&mut v, count) < hz, "just made");
    set(&mut v, count, 1 << 40);
    let seen = get(&mut v, count);
    assert!(seen >= 1 << 40 && seen < (1 << 40) + hz, "{seen:#x}");
    let guest = result(&mut v);
    assert!(guest >= seen && guest < seen + hz, "{guest:#x}");
    g.vm.set_counter_offset(0).expect("offset");
    set(&mut v, count, 1 << 41);
    assert!(get(&mut v, count) < 1 << 40, "fixed for good");
}

fn g_hz(_v: &mut Vcpu) -> u64 {
    // Ten seconds of the fastest counter there is.
    10_000_000_000
}
