//! Order of checks and errno of the attributes of GICs, ITSs, timers, PMU and stolen time, where a VMM can meet them
//! (kvm-arm64-abi.md §10, §12).

mod common;

use common::*;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::device::*;
use ulna_kvm_abi::{Errno, MEM_READONLY, RegId, vcpu_feature};
use ulna_kvm_core::{ClockKind, Device, Vcpu};

const UNSET: u64 = u64::MAX;
const SPACE: u64 = 1 << 40;
const PMU: u32 = 1 << vcpu_feature::PMU_V3;

fn v3(g: &Guest) -> Device {
    g.vm.create_device(TYPE_ARM_VGIC_V3).expect("GIC")
}

fn region(gic: &Device, count: u64, base: u64, index: u64) -> Result<(), Errno> {
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST_REGION, count << 52 | base | index)
}

#[test]
fn registers_have_names_before_the_gic_is_initialised() {
    let g = Guest::new("n1", ClockKind::Host);
    let gic = v3(&g);
    assert_eq!(gic.has_attr(GRP_DIST_REGS, 0), Err(Errno::EINVAL), "no vCPU 0");
    let _v = g.vcpu(0, PSCI);
    assert_eq!(gic.has_attr(GRP_DIST_REGS, 0), Ok(()));
    assert_eq!(gic.has_attr(GRP_DIST_REGS, 0x100), Ok(()), "private interrupts are there");
    assert_eq!(gic.has_attr(GRP_DIST_REGS, 0x104), Err(Errno::ENXIO), "SPIs not yet");
    gic.set_attr(GRP_NR_IRQS, 0, 64).expect("lines");
    assert_eq!(gic.has_attr(GRP_DIST_REGS, 0x104), Ok(()));
    assert_eq!(gic.has_attr(GRP_REDIST_REGS, 0x1_0080), Ok(()));
    assert_eq!(gic.has_attr(GRP_REDIST_REGS, 1 << 32), Err(Errno::EINVAL));
    assert_eq!(gic.has_attr(GRP_LEVEL_INFO, 7 << 32 | 5), Ok(()), "neither vCPU nor line is looked at");
    assert_eq!(gic.has_attr(GRP_LEVEL_INFO, 1 << 10), Err(Errno::ENXIO));
    assert_eq!(gic.has_attr(9, 0), Err(Errno::ENXIO), "MAINT_IRQ came later");
    // But they cannot be accessed, whatever else is wrong with the attribute.
    for (group, attr) in
        [(GRP_DIST_REGS, 0), (GRP_REDIST_REGS, 3), (GRP_CPU_SYSREGS, 0xc000), (GRP_LEVEL_INFO, 1 << 10 | 1)]
    {
        assert_eq!(gic.get_attr(group, attr, 0), Err(Errno::EBUSY), "{group} {attr:#x}");
        assert_eq!(gic.set_attr(group, attr, 0), Err(Errno::EBUSY), "{group} {attr:#x}");
    }
    assert_eq!(gic.set_attr(GRP_CTRL, CTRL_SAVE_PENDING_TABLES, 0), Err(Errno::ENXIO));
    gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init without addresses");
    assert_eq!(gic.get_attr(GRP_CPU_SYSREGS, 0xc000, 0), Err(Errno::ENOENT));
    assert_eq!(gic.get_attr(GRP_CPU_SYSREGS, 0xc660, 0), Err(Errno::ENOENT), "ICC_IAR1_EL1 is no state");
    assert_eq!(gic.get_attr(GRP_LEVEL_INFO, 1, 0), Err(Errno::EINVAL));
    assert_eq!(gic.get_attr(GRP_REDIST_REGS, 3, 0), Ok(0), "unaligned reads as zero");
    assert_eq!(gic.set_attr(GRP_NR_IRQS, 0, 64), Err(Errno::EBUSY));
    assert_eq!(gic.set_attr(GRP_NR_IRQS, 0, 65), Err(Errno::EINVAL));
}

#[test]
fn a_gic_without_vcpus_is_initialised_and_stays_without() {
    let g = Guest::new("n1", ClockKind::Host);
    let gic = v3(&g);
    assert_eq!(gic.get_attr(GRP_NR_IRQS, 0, 0), Ok(32));
    gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
    gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("again");
    assert_eq!(gic.get_attr(GRP_NR_IRQS, 0, 0), Ok(256));
    assert_eq!(g.vm.create_vcpu(0).err(), Some(Errno::EBUSY));
    assert_eq!(gic.get_attr(GRP_DIST_REGS, 0, 0), Err(Errno::EINVAL));
}

#[test]
fn redistributors_are_placed_as_vcpus_come() {
    // The one region ends with the address space after three.
    let g = Guest::new("n1", ClockKind::Host);
    g.memory.program(0, &done(31));
    let mut v = g.vcpu(0, PSCI);
    let gic = v3(&g);
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, SPACE - 3 * 0x2_0000).expect("redistributors");
    assert_eq!(gic.get_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, 0), Ok(SPACE - 3 * 0x2_0000));
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
    (1..4).for_each(|n| drop(g.vcpu(n, PSCI)));
    assert_eq!(g.vm.create_vcpu(4).err(), Some(Errno::EINVAL), "the fourth is beyond, as the fifth finds");
    gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
    assert_eq!(v.run().err(), Some(Errno::EINVAL), "as the first run does");
    assert_eq!(v.run().err(), Some(Errno::EIO));

    // Growing into the distributor.
    let g = Guest::new("n1", ClockKind::Host);
    let gic = v3(&g);
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICR + 0x4_0000).expect("distributor");
    assert_eq!(gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR + 0x4_8000), Err(Errno::EINVAL), "unaligned");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR).expect("redistributors");
    (0..3).for_each(|n| drop(g.vcpu(n, PSCI)));
    assert_eq!(g.vm.create_vcpu(3).err(), Some(Errno::EINVAL));

    // A region that is there for vCPUs to come is checked when they do.
    let g = Guest::new("n1", ClockKind::Host);
    let gic = v3(&g);
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
    region(&gic, 1, GICD, 0).expect("region");
    assert_eq!(g.vm.create_vcpu(0).err(), Some(Errno::EINVAL));
    assert_eq!(gic.get_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, 0), Ok(GICD), "the first region's");
    assert_eq!(gic.get_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST_REGION, 0x100), Ok(1 << 52 | GICD), "8 bits of it");

    // Not enough room: the addresses count as unset.
    let (g, mut v) = Guest::with(&done(31));
    let _second = g.vcpu(1, PSCI);
    let gic = v3(&g);
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
    region(&gic, 1, GICR, 0).expect("region");
    gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
    assert_eq!(v.run().err(), Some(Errno::ENXIO));
}

#[test]
fn overlaps_come_before_a_gic_that_is_not_initialised() {
    let (g, mut v) = Guest::with(&done(31));
    let gic = v3(&g);
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR).expect("redistributors");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICR + 0x1_0000).expect("nobody looks yet");
    assert_eq!(v.run().err(), Some(Errno::EINVAL));

    let g = Guest::new("rpi4", ClockKind::Host);
    let mut v = g.vcpu(0, PSCI);
    let gic = g.vm.create_device(TYPE_ARM_VGIC_V2).expect("GICv2");
    assert_eq!(gic.set_attr(GRP_ADDR, V2_ADDR_TYPE_DIST, 0x800), Err(Errno::EINVAL));
    assert_eq!(gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD), Err(Errno::ENXIO));
    gic.set_attr(GRP_ADDR, V2_ADDR_TYPE_DIST, GICD).expect("distributor");
    gic.set_attr(GRP_ADDR, V2_ADDR_TYPE_CPU, GICD - 0x1000).expect("CPU interface");
    assert_eq!(v.run().err(), Some(Errno::EINVAL));
}

#[test]
fn the_last_redistributor_of_each_run_of_frames_says_so() {
    let g = Guest::new("n1", ClockKind::Host);
    let _vcpus: Vec<Vcpu> = (0..6).map(|n| g.vcpu(n, PSCI)).collect();
    let gic = v3(&g);
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
    // The third region ends where the second begins.
    region(&gic, 2, 0x1010_0000, 0).expect("region");
    region(&gic, 2, 0x1024_0000, 1).expect("region");
    region(&gic, 2, 0x1020_0000, 2).expect("region");
    gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
    let last: Vec<u64> = (0..6)
        .map(|n: u64| gic.get_attr(GRP_REDIST_REGS, n << 32 | 8, 0).expect("GICR_TYPER") >> 4 & 1)
        .collect();
    assert_eq!(last, [0, 1, 0, 1, 0, 0]);
}

#[test]
fn there_can_be_512_vcpus() {
    let g = Guest::new("n1", ClockKind::Host);
    // The last one reads its own GICR_TYPER.
    let typer = [li(1, (1 << 33) + (512 - 123 - 1) * 0x2_0000 + 8).to_vec(), vec![ldr_x(0, 1)], done(0)];
    g.memory.program(0, &typer.concat());
    let mut vcpus: Vec<Vcpu> = (0..512).map(|n| g.vcpu(n, PSCI)).collect();
    let gic = v3(&g);
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
    region(&gic, 123, GICR, 0).expect("region");
    region(&gic, 512 - 123, 1 << 33, 1).expect("region");
    gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
    assert_eq!(g.vm.create_vcpu(512).err(), Some(Errno::EINVAL));
    let typer = result(&mut vcpus[511]);
    assert_eq!(typer, (31 << 8 | 15) << 32 | 511 << 8 | 1 << 4, "{typer:#x}");
    gic.set_attr(GRP_REDIST_REGS, 0x1f0f << 32 | 0x1_0400, 0xa0).expect("a priority of vCPU 511");
    assert_eq!(gic.get_attr(GRP_REDIST_REGS, 0x1f0f << 32 | 0x1_0400, 0), Ok(0xa0));
    assert_eq!(gic.get_attr(GRP_REDIST_REGS, 0x1f10 << 32, 0), Err(Errno::EINVAL));
}

#[test]
fn vcpus_are_found_by_the_affinity_they_have() {
    let g = Guest::new("n1", ClockKind::Host);
    // SGI 5 to affinity 0.0.7.3
    let send = [wr(SysReg::ICC_SGI1R_EL1, 5 << 24 | 7 << 16 | 1 << 3), done(31)];
    g.memory.program(0, &[start_gic(0, 0), send.concat()].concat());
    let mut a = g.vcpu(0, PSCI);
    let mut b = g.vcpu(1, PSCI);
    let [gic, _its] = g.gic();
    set(&mut b, RegId::sysreg(SysReg::MPIDR_EL1.code()), 1 << 31 | 0x703);
    assert_eq!(gic.get_attr(GRP_REDIST_REGS, 1 << 32, 0), Err(Errno::EINVAL));
    assert_eq!(gic.get_attr(GRP_REDIST_REGS, 0x703 << 32 | 0xc, 0), Ok(0x703), "GICR_TYPER");
    result(&mut a);
    assert_eq!(gic.get_attr(GRP_REDIST_REGS, 0x703 << 32 | 0x1_0200, 0), Ok(1 << 5), "pending there");
}

#[test]
fn an_its_has_registers_before_there_is_a_gic() {
    let g = Guest::new("n1", ClockKind::Host);
    let its = g.vm.create_device(TYPE_ARM_VGIC_ITS).expect("ITS");
    assert_eq!(its.has_attr(GRP_ITS_REGS, 0x80), Ok(()), "without an address");
    assert_eq!(its.has_attr(GRP_ITS_REGS, 0x84), Err(Errno::EINVAL));
    assert_eq!(its.has_attr(GRP_ITS_REGS, 0x10), Err(Errno::ENXIO));
    assert_eq!(its.get_attr(GRP_ITS_REGS, 0x80, 0), Err(Errno::ENXIO), "no address");
    assert_eq!(its.get_attr(GRP_ITS_REGS, 0x84, 0), Err(Errno::EINVAL), "which is asked later");
    assert_eq!(its.get_attr(GRP_ADDR, ITS_ADDR_TYPE, 0), Ok(UNSET));
    assert_eq!(its.get_attr(GRP_ADDR, 0, 0), Err(Errno::ENODEV));
    assert_eq!(its.set_attr(GRP_ADDR, 0, ITS), Err(Errno::ENODEV));
    assert_eq!(its.set_attr(GRP_ADDR, ITS_ADDR_TYPE, ITS + 0x1000), Err(Errno::EINVAL));
    assert_eq!(its.set_attr(GRP_ADDR, ITS_ADDR_TYPE, SPACE - 0x1_0000), Err(Errno::E2BIG));
    its.set_attr(GRP_ADDR, ITS_ADDR_TYPE, ITS).expect("address");
    assert_eq!(its.set_attr(GRP_ADDR, ITS_ADDR_TYPE, ITS), Err(Errno::EEXIST));
    // Reset values: 8-byte entries, 64 KiB pages, inner shareable and cacheable.
    assert_eq!(its.get_attr(GRP_ITS_REGS, 0x100, 0), Ok(3 << 59 | 1 << 56 | 7 << 48 | 1 << 10 | 2 << 8));
    for (offset, value, back) in [
        (0x80, 1 << 63 | (RAM + 0x1_f000) | 1, 1 << 63 | 3 << 59 | (RAM + 0x1_0000) | 1),
        (
            0x108,
            3 << 62 | (RAM + 0x2_0000),
            1 << 63 | 3 << 59 | 4 << 56 | 7 << 48 | (RAM + 0x2_0000) | 2 << 8,
        ),
        (0x110, u64::MAX, 0),
    ] {
        its.set_attr(GRP_ITS_REGS, offset, value).expect("register");
        assert_eq!(its.get_attr(GRP_ITS_REGS, offset, 0), Ok(back), "{offset:#x}");
    }
    assert_eq!(its.set_attr(GRP_ITS_REGS, 4, 1 << 12), Err(Errno::EINVAL), "a layout of tables to come");
    its.set_attr(GRP_ITS_REGS, 4, 0x77).expect("only the revision counts");
    assert_eq!(its.set_attr(GRP_ITS_REGS, 0x90, 0x2000), Err(Errno::EINVAL), "beyond the queue");
    for attr in [CTRL_INIT, ITS_SAVE_TABLES, ITS_RESTORE_TABLES, 77] {
        assert_eq!(its.set_attr(GRP_CTRL, attr, 0), Ok(()), "{attr}");
    }
    assert_eq!(its.get_attr(GRP_CTRL, CTRL_INIT, 0), Err(Errno::ENXIO));
    // It keeps them when the GIC comes to life.
    let _v = g.vcpu(0, PSCI);
    let gic = v3(&g);
    gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
    assert_eq!(its.get_attr(GRP_ITS_REGS, 0x80, 0), Ok(1 << 63 | 3 << 59 | (RAM + 0x1_0000) | 1));
    its.set_attr(GRP_ITS_REGS, 0x100, 1 << 63 | RAM).expect("devices");
    its.set_attr(GRP_ITS_REGS, 0, 1).expect("enable");
    assert_eq!(its.get_attr(GRP_ITS_REGS, 0, 0), Ok(1 << 31 | 1));
    assert_eq!(its.set_attr(GRP_ITS_REGS, 0x90, 0), Err(Errno::EBUSY));
    // Of the tables a reset takes "valid" only.
    its.set_attr(GRP_CTRL, ITS_CTRL_RESET, 0).expect("reset");
    assert_eq!(its.get_attr(GRP_ITS_REGS, 0, 0), Ok(1 << 31));
    let kept = its.get_attr(GRP_ITS_REGS, 0x108, 0).expect("collections");
    assert_eq!((kept >> 63, kept & 0xffff_ffff_0000), (0, RAM + 0x2_0000));
    // Another ITS sets GICR_PROPBASER back.
    gic.set_attr(GRP_REDIST_REGS, 0x70, 0x4000_058f).expect("GICR_PROPBASER");
    let _second = g.vm.create_device(TYPE_ARM_VGIC_ITS).expect("ITS");
    assert_eq!(gic.get_attr(GRP_REDIST_REGS, 0x70, 0), Ok(0x580));
}

#[test]
fn an_its_beside_a_gicv2_does_nothing() {
    let g = Guest::new("max", ClockKind::Host);
    g.memory.program(0, &done(31));
    let mut v = g.vcpu(0, PSCI);
    let its = g.vm.create_device(TYPE_ARM_VGIC_ITS).expect("ITS");
    its.set_attr(GRP_ADDR, ITS_ADDR_TYPE, ITS).expect("address");
    let gic = g.vm.create_device(TYPE_ARM_VGIC_V2).expect("GICv2");
    gic.set_attr(GRP_ADDR, V2_ADDR_TYPE_DIST, GICD).expect("distributor");
    gic.set_attr(GRP_ADDR, V2_ADDR_TYPE_CPU, GICD + 0x1_0000).expect("CPU interface");
    assert_eq!(gic.set_attr(GRP_CTRL, CTRL_SAVE_PENDING_TABLES, 0), Err(Errno::ENXIO));
    assert_eq!(result(&mut v), 0);
    assert_eq!(its.get_attr(GRP_ITS_REGS, 4, 0), Ok(0x4b00_043b));
}

#[test]
fn revisions_of_the_distributor_change_what_redistributors_show() {
    let g = Guest::new("n1", ClockKind::Host);
    let _v = g.vcpu(0, PSCI);
    let [gic, _its] = g.gic();
    assert_eq!(gic.get_attr(GRP_REDIST_REGS, 0, 0), Ok(6), "CES and IR");
    for bad in [0x4b00_143b, 0x4b00_443b, 0x4b00_343c] {
        assert_eq!(gic.set_attr(GRP_DIST_REGS, 8, bad), Err(Errno::EINVAL), "{bad:#x}");
    }
    gic.set_attr(GRP_DIST_REGS, 8, 0x4b00_243b).expect("revision 2");
    assert_eq!(gic.get_attr(GRP_REDIST_REGS, 0, 0), Ok(0));
    assert_eq!(gic.get_attr(GRP_DIST_REGS, 8, 0), Ok(0x4b00_243b));
}

#[test]
fn nothing_is_saved_while_a_vcpu_runs() {
    let g = Guest::new("n1", ClockKind::Host);
    g.memory.program(0, &[B_SELF]);
    let mut v = g.vcpu(0, PSCI);
    let [gic, its] = g.gic();
    let kick = v.kicker();
    let thread = std::thread::spawn(move || {
        let left = v.run().map(|_| ());
        (left, v)
    });
    let busy = std::iter::repeat_with(|| gic.get_attr(GRP_DIST_REGS, 0, 0))
        .take(5000)
        .inspect(|_| std::thread::sleep(std::time::Duration::from_millis(1)))
        .any(|r| r == Err(Errno::EBUSY));
    assert!(busy);
    assert_eq!(gic.get_attr(GRP_REDIST_REGS, 1 << 32, 0), Err(Errno::EINVAL), "no such vCPU comes first");
    assert_eq!(gic.get_attr(GRP_CPU_SYSREGS, 0xc000, 0), Err(Errno::EBUSY));
    assert_eq!(gic.set_attr(GRP_CTRL, CTRL_SAVE_PENDING_TABLES, 0), Err(Errno::EBUSY));
    assert_eq!(its.get_attr(GRP_ITS_REGS, 0x200, 0), Err(Errno::EBUSY), "before unknown registers");
    assert_eq!(its.set_attr(GRP_CTRL, ITS_SAVE_TABLES, 0), Err(Errno::EBUSY));
    assert_eq!(its.set_attr(GRP_CTRL, 77, 0), Err(Errno::EBUSY));
    assert_eq!(its.set_attr(GRP_CTRL, CTRL_INIT, 0), Ok(()));
    assert_eq!(g.vm.set_counter_offset(0), Err(Errno::EBUSY));
    kick();
    thread.join().expect("thread").0.expect("kicked");
    assert_eq!(gic.get_attr(GRP_DIST_REGS, 0, 0), Ok(0x50));
    assert_eq!(g.vm.create_device(TYPE_ARM_VGIC_V3).err(), Some(Errno::EEXIST), "told before EBUSY");
}

#[test]
fn interrupts_of_timers_and_pmus_are_owned() {
    let g = Guest::new("n1", ClockKind::Host);
    g.memory.program(0, &done(31));
    let mut v = g.vcpu(0, PSCI | PMU);
    let [gic, _its] = g.gic();
    let ppi = |n: u32, level| g.vm.irq_line(2 << 24 | n, level).expect("line");
    let levels = || gic.get_attr(GRP_LEVEL_INFO, 0, 0).expect("levels");
    ppi(27, true);
    ppi(20, true);
    assert_eq!(levels(), 1 << 27 | 1 << 20, "before the first run nothing is owned");
    // On another timer's interrupt: seen when the timers take theirs.
    v.set_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ, 27).expect("interrupt");
    v.set_attr(GRP_PMU_V3_CTRL, PMU_V3_INIT, 0).expect("init");
    assert_eq!(v.run().err(), Some(Errno::EINVAL));
    v.set_attr(GRP_TIMER_CTRL, TIMER_IRQ_VTIMER, 28).expect("that of a timer this VM does not have");
    assert_eq!(result(&mut v), 0);
    ppi(28, true);
    ppi(30, true);
    ppi(27, false);
    assert_eq!(levels(), 1 << 27 | 1 << 20, "the VMM has no say any more");
    ppi(20, false);
    assert_eq!(levels(), 1 << 27);
    assert_eq!(v.set_attr(GRP_TIMER_CTRL, TIMER_IRQ_PTIMER, 31), Err(Errno::EBUSY));

    // Both timers on one interrupt: the physical one takes it and keeps it.
    let (g, mut v) = Guest::with(&done(31));
    let _gic = g.gic();
    for timer in [TIMER_IRQ_VTIMER, TIMER_IRQ_PTIMER] {
        v.set_attr(GRP_TIMER_CTRL, timer, 20).expect("interrupt");
    }
    assert_eq!(v.run().err(), Some(Errno::EINVAL));
    v.set_attr(GRP_TIMER_CTRL, TIMER_IRQ_PTIMER, 21).expect("another");
    assert_eq!(v.run().err(), Some(Errno::EINVAL));
    v.set_attr(GRP_TIMER_CTRL, TIMER_IRQ_VTIMER, 22).expect("another");
    assert_eq!(result(&mut v), 0);
}

#[test]
fn a_level_that_was_restored_follows_its_timer() {
    // Looks whether ISR_EL1.I is clear, with the virtual timer's PPI enabled: sub x2, x2, 1; cbnz x2, ...
    let wait = vec![mrs(1, SysReg::ISR_EL1), cbz(1, 3), 0xd100_0442, 0xb5ff_ffa2];
    let (g, mut v) = Guest::with(&[start_gic(0, 1 << 27), li(2, 100_000).to_vec(), wait, done(1)].concat());
    let [gic, _its] = g.gic();
    gic.set_attr(GRP_LEVEL_INFO, 0, 1 << 27).expect("it was high where the guest comes from");
    assert_eq!(result(&mut v), 0);
    assert_eq!(gic.get_attr(GRP_LEVEL_INFO, 0, 0), Ok(0));
}

fn filter(base: u64, count: u64, action: u64) -> u64 {
    base | count << 16 | action << 32
}

#[test]
fn events_that_the_filter_denies_are_not_counted() {
    // Counters 0 and 1 of instructions and cycles, and the cycle counter, over a few instructions; then PMCEID0.
    let program = [
        wr(SysReg::PMEVTYPER0_EL0, 0x08),
        wr(SysReg::PMEVTYPER1_EL0, 0x11),
        wr(SysReg::PMCCFILTR_EL0, 0),
        wr(SysReg::PMCNTENSET_EL0, 1 << 31 | 3),
        wr(SysReg::PMCR_EL0, 7),
        vec![NOP; 50],
        wr(SysReg::PMCR_EL0, 0),
        vec![mrs(0, SysReg::PMEVCNTR0_EL0)],
        done(0),
        vec![mrs(0, SysReg::PMEVCNTR1_EL0)],
        done(0),
        vec![mrs(0, SysReg::PMCCNTR_EL0)],
        done(0),
        vec![mrs(0, SysReg::PMCEID0_EL0)],
        done(0),
    ]
    .concat();
    let run = |filters: &[u64]| {
        let g = Guest::new("n1", ClockKind::Host);
        g.memory.program(0, &program);
        let mut v = g.vcpu(0, PSCI | PMU);
        for &f in filters {
            v.set_attr(GRP_PMU_V3_CTRL, PMU_V3_FILTER, f).expect("filter");
        }
        v.set_attr(GRP_PMU_V3_CTRL, PMU_V3_INIT, 0).expect("init");
        let counts: [bool; 3] = std::array::from_fn(|_| result(&mut v) >= 50);
        let ids = result(&mut v);
        assert_eq!(
            v.set_attr(GRP_PMU_V3_CTRL, PMU_V3_FILTER, filters.first().copied().unwrap_or(0)),
            Err(Errno::EBUSY)
        );
        (counts, ids >> 8 & 1, ids >> 17 & 1)
    };
    assert_eq!(run(&[]), ([true; 3], 1, 1));
    assert_eq!(run(&[filter(0x08, 1, 1)]), ([false, true, true], 0, 1), "denied: the rest is allowed");
    assert_eq!(run(&[filter(0x11, 1, 0)]), ([false, true, true], 0, 1), "allowed: the rest is denied");
    assert_eq!(run(&[filter(0, 0x40, 0), filter(0x10, 2, 1)]), ([true, false, false], 1, 0));
}

#[test]
fn attributes_of_a_pmu_are_checked_in_order() {
    let g = Guest::new("n1", ClockKind::Host);
    let mut v = g.vcpu(0, PSCI | PMU);
    for attr in [PMU_V3_IRQ, PMU_V3_INIT, PMU_V3_FILTER, PMU_V3_SET_PMU] {
        assert_eq!(v.has_attr(GRP_PMU_V3_CTRL, attr), Ok(()));
    }
    assert_eq!(v.has_attr(GRP_PMU_V3_CTRL, 4), Err(Errno::ENXIO));
    let mut pmu = |attr, value| v.set_attr(GRP_PMU_V3_CTRL, attr, value);
    assert_eq!(pmu(PMU_V3_FILTER, filter(0, 1, 2)), Err(Errno::EINVAL));
    assert_eq!(pmu(PMU_V3_FILTER, filter(0xffff, 2, 0)), Err(Errno::EINVAL), "beyond 16 bits of events");
    assert_eq!(pmu(PMU_V3_FILTER, filter(0xffff, 1, 1) | 0xff << 40), Ok(()), "padding is not looked at");
    assert_eq!(pmu(PMU_V3_SET_PMU, 3), Err(Errno::ENXIO));
    assert_eq!(pmu(PMU_V3_SET_PMU, 10), Ok(()));
    assert_eq!(pmu(7, 0), Err(Errno::ENXIO));
    assert_eq!(pmu(PMU_V3_INIT, 0), Ok(()), "without a GIC no interrupt is needed");
    assert_eq!(pmu(7, 0), Err(Errno::EBUSY), "told before ENXIO");
    let _gic = g.gic();
    assert_eq!(v.run().err(), Some(Errno::EINVAL), "now it is");

    let g = Guest::new("n1", ClockKind::Host);
    g.memory.program(0, &done(31));
    let (mut a, mut b) = (g.vcpu(0, PSCI | PMU), g.vcpu(1, PSCI | PMU));
    let _gic = g.gic();
    a.set_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ, 40).expect("an SPI");
    assert_eq!(b.set_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ, 40), Err(Errno::EINVAL), "another's");
    b.set_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ, 900).expect("one that the GIC does not have");
    a.set_attr(GRP_PMU_V3_CTRL, PMU_V3_INIT, 0).expect("init");
    assert_eq!(b.set_attr(GRP_PMU_V3_CTRL, PMU_V3_INIT, 0), Err(Errno::EINVAL));
    assert_eq!(result(&mut a), 0);
    // Without the feature.
    let (_g, mut v) = Guest::with(&done(31));
    assert_eq!(v.set_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ, 23), Err(Errno::ENODEV));
    assert_eq!(v.has_attr(GRP_PMU_V3_CTRL, PMU_V3_IRQ), Err(Errno::ENXIO));
}

#[test]
fn stolen_time_has_one_address() {
    let (g, mut v) = Guest::with(&done(31));
    let rom = Memory::new(0x1_0000);
    // SAFETY: the memory is leaked and only accessed through its pointer.
    unsafe { g.vm.set_user_memory_region(1, 0, 0x1_0000, rom.host(), MEM_READONLY, rom.clone()) }
        .expect("slot");
    assert_eq!(v.has_attr(GRP_PVTIME_CTRL, PVTIME_IPA), Ok(()));
    assert_eq!(v.has_attr(GRP_PVTIME_CTRL, 1), Err(Errno::ENXIO));
    assert_eq!(v.get_attr(GRP_PVTIME_CTRL, PVTIME_IPA), Ok(UNSET));
    let mut set = |ipa| v.set_attr(GRP_PVTIME_CTRL, PVTIME_IPA, ipa);
    assert_eq!(set(RAM + 0x20), Err(Errno::EINVAL), "unaligned");
    assert_eq!(set(0x7000_0000), Err(Errno::EINVAL), "no memory");
    assert_eq!(set(0x40), Err(Errno::EINVAL), "memory that cannot be written");
    assert_eq!(set(RAM + 0x2000), Ok(()));
    assert_eq!(set(RAM + 0x20), Err(Errno::EINVAL), "before EEXIST");
    assert_eq!(set(0x7000_0000), Err(Errno::EEXIST), "after it");
    assert_eq!(v.get_attr(GRP_PVTIME_CTRL, PVTIME_IPA), Ok(RAM + 0x2000));
}
