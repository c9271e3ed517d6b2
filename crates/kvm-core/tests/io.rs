//! Accesses that leave the guest and interrupts that come in: coalesced MMIO, byte order, aborts beyond memory, routing,
//! resampling irqfds, and a VMM that is the interrupt controller itself.

mod common;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use rustix::event::{EventfdFlags, eventfd};
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::structs::{CoalescedMmioZone, IrqRoutingEntry};
use ulna_kvm_abi::{Errno, RegId, cap};
use ulna_kvm_core::{ClockKind, Mapping, Run, Vcpu};

const DEVICE: u64 = 0x0a00_0000;

fn word(m: &Mapping, offset: usize) -> u32 {
    assert!(offset + 4 <= m.bytes());
    // SAFETY: inside the mapping and aligned.
    unsafe { m.as_ptr().add(offset).cast::<u32>().read_volatile() }
}

fn put_word(m: &Mapping, offset: usize, v: u32) {
    assert!(offset + 4 <= m.bytes());
    // SAFETY: as above.
    unsafe { m.as_ptr().add(offset).cast::<u32>().write_volatile(v) };
}

fn zone(addr: u64, size: u32, pio: u32) -> CoalescedMmioZone {
    CoalescedMmioZone { addr, size, pio }
}

#[test]
fn coalesced_writes_wait_in_the_ring() {
    // str w1, [x0]; add w1, w1, #1; b
    let (g, mut v) = Guest::with(&[str_w(1, 0), 0x1100_0421, b(-2)]);
    assert_eq!(g.vm.register_coalesced_mmio(&zone(DEVICE, 0x100, 2)), Err(Errno::EINVAL));
    g.vm.register_coalesced_mmio(&zone(DEVICE, 0xfc, 0)).expect("zone");
    g.vm.register_coalesced_mmio(&zone(DEVICE + 0x200, 0x100, 1)).expect("ports never match");
    set(&mut v, RegId::x(0), DEVICE + 0x40);
    assert!(matches!(v.run(), Ok(Run::MmioWrite(at, [169, 0, 0, 0])) if at == DEVICE + 0x40), "a full ring");
    let ring = g.vm.coalesced_mmio_ring().expect("ring");
    assert_eq!((word(&ring, 0), word(&ring, 4)), (0, 169));
    for n in 0..169 {
        let at = 8 + 24 * n as usize;
        let entry = [0, 8, 12, 16].map(|o| word(&ring, at + o));
        assert_eq!(entry, [DEVICE as u32 + 0x40, 4, 0, n]);
    }
    put_word(&ring, 0, 169);
    assert!(matches!(v.run(), Ok(Run::MmioWrite(_, [83, 1, 0, 0]))), "169 more, after the one that left");
    assert_eq!(word(&ring, 4), 168);
    for (first, last) in [(0, 170), (0, u32::MAX), (168, 168)] {
        put_word(&ring, 0, first);
        put_word(&ring, 4, last);
        let left = matches!(v.run(), Ok(Run::MmioWrite(..)));
        assert!(left, "whatever the VMM writes there");
    }
    put_word(&ring, 0, 0);
    put_word(&ring, 4, 0);
    // Past the end, and half past it.
    for (n, at, w) in [(1, DEVICE + 0xfc, str_w(1, 0)), (2, DEVICE + 0xf8, str_x(1, 0))] {
        set(&mut v, RegId::x(0), at);
        g.memory.program(n * 0x100, &[w]);
        set(&mut v, RegId::PC, RAM + n as u64 * 0x100 - 4);
        assert!(matches!(v.run(), Ok(Run::MmioWrite(a, _)) if a == at), "{at:#x}");
    }
    g.vm.unregister_coalesced_mmio(&zone(DEVICE, 0x101, 0)).expect("not inside");
    let last = word(&ring, 4);
    set(&mut v, RegId::x(0), DEVICE);
    set(&mut v, RegId::PC, RAM - 4);
    g.vm.unregister_coalesced_mmio(&zone(DEVICE + 0x10, 0x10, 0)).expect("inside");
    assert!(matches!(v.run(), Ok(Run::MmioWrite(DEVICE, _))), "there is no zone any more");
    assert_eq!(word(&ring, 4), last);
}

#[test]
fn a_big_endian_guest_has_its_bytes_in_its_order() {
    let (_g, mut v) = Guest::with(&[str_w(2, 1), ldr_x(3, 1), 0x79c0_0024, NOP, str_x(3, 1)]);
    let sctlr = RegId::sysreg(SysReg::SCTLR_EL1.code());
    let old = get(&mut v, sctlr);
    set(&mut v, sctlr, old | 1 << 25);
    set(&mut v, RegId::x(1), DEVICE);
    set(&mut v, RegId::x(2), 0x1122_3344);
    assert!(matches!(v.run(), Ok(Run::MmioWrite(DEVICE, [0x11, 0x22, 0x33, 0x44]))));
    match v.run().expect("run") {
        Run::MmioRead(DEVICE, data) => data.copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]),
        other => panic!("{other:x?}"),
    }
    // ldrsh w4, [x1]
    match v.run().expect("run") {
        Run::MmioRead(DEVICE, data) => data.copy_from_slice(&[0x81, 0x02]),
        other => panic!("{other:x?}"),
    }
    assert!(matches!(v.run(), Ok(Run::MmioWrite(DEVICE, [1, 2, 3, 4, 5, 6, 7, 8]))));
    assert_eq!(get(&mut v, RegId::x(3)), 0x0102_0304_0506_0708);
    assert_eq!(get(&mut v, RegId::x(4)), 0xffff_8102, "sign-extended to 32 bits");
}

#[test]
fn aborts_beyond_memory_go_to_the_guest() {
    let between = 1 << 41;
    let aborted = |v: &mut Vcpu| {
        result(v);
        let sys = |v: &mut Vcpu, r: SysReg| get(v, RegId::sysreg(r.code()));
        (sys(v, SysReg::ESR_EL1) & !(1 << 25), sys(v, SysReg::FAR_EL1), get(v, RegId::ELR_EL1))
    };
    let guest = |words: &[u32]| {
        let (g, mut v) = Guest::with(words);
        g.memory.program(0xa00, &done(31));
        set(&mut v, RegId::sysreg(SysReg::VBAR_EL1.code()), RAM + 0x800);
        (g, v)
    };
    let (_g, mut v) = guest(&[str_x(1, 0)]);
    set(&mut v, RegId::x(0), between + 0x123_4568);
    assert_eq!(
        aborted(&mut v),
        (0x25 << 26 | 0x10, between + 0x123_4568, RAM),
        "between the VM's IPAs and the host's"
    );
    let (_g, mut v) = guest(&[0xd61f_0000]); // br x0
    set(&mut v, RegId::x(0), between + 0x4560);
    assert_eq!(aborted(&mut v), (0x21 << 26 | 0x10, between + 0x4560, between + 0x4560));
    let (_g, mut v) = guest(&[0xd61f_0000]);
    set(&mut v, RegId::x(0), DEVICE + 0x10);
    assert_eq!(
        aborted(&mut v),
        (0x21 << 26 | 0x10, DEVICE + 0x10, DEVICE + 0x10),
        "no code where no memory is"
    );
    // dc civac, x0: maintenance of nothing is nothing.
    let (_g, mut v) = guest(&[&[0xd50b_7e20][..], &done(0)].concat());
    set(&mut v, RegId::x(0), DEVICE);
    assert_eq!(result(&mut v), DEVICE);
}

#[test]
fn a_pair_is_told_to_a_vmm_that_asks() {
    let (g, mut v) = Guest::with(&[0xa900_0801]); // stp x1, x2, [x0]
    set(&mut v, RegId::x(0), DEVICE + 8);
    assert_eq!(v.run().err(), Some(Errno::ENOSYS));
    assert_eq!(g.vm.enable_cap(cap::ARM_NISV_TO_USER, 1, [0; 4]), Err(Errno::EINVAL));
    g.vm.enable_cap(cap::ARM_NISV_TO_USER, 0, [0; 4]).expect("any time");
    assert!(matches!(v.run(), Ok(Run::ArmNisv(0x47, at)) if at == DEVICE + 8), "WnR, translation, level 3");
    assert!(matches!(v.run(), Ok(Run::ArmNisv(0x47, _))), "until the VMM moves the PC");
}

#[test]
fn immediate_exit_completes_an_access_first() {
    let (_g, mut v) = Guest::with(&[&[ldr_x(2, 1)][..], &done(2)].concat());
    set(&mut v, RegId::x(1), DEVICE);
    match v.run().expect("run") {
        Run::MmioRead(DEVICE, data) => data.fill(0xa5),
        other => panic!("{other:x?}"),
    }
    v.set_immediate_exit(true);
    assert!(matches!(v.run(), Ok(Run::Intr)));
    assert_eq!((get(&mut v, RegId::x(2)), get(&mut v, RegId::PC)), (0xa5a5_a5a5_a5a5_a5a5, RAM + 4));
    v.set_immediate_exit(false);
    assert_eq!(result(&mut v), 0xa5a5_a5a5_a5a5_a5a5);
}

#[test]
fn a_vmm_can_be_the_interrupt_controller() {
    for clock in [ClockKind::Host, ClockKind::Insn] {
        let program = [
            wr(SysReg::CNTV_TVAL_EL0, 1000),
            wr(SysReg::CNTV_CTL_EL0, 1),
            vec![WFI],
            // Until the VMM raises the line.
            vec![mrs(0, SysReg::ISR_EL1), cbz(0, -1)],
            done(0),
            wr(SysReg::CNTV_CTL_EL0, 0),
            vec![mrs(0, SysReg::ISR_EL1)],
            done(0),
        ]
        .concat();
        let g = Guest::new("n1", clock);
        g.memory.program(0, &program);
        let mut v = g.vcpu(0, PSCI);
        assert_eq!(v.device_irq_level(), 0);
        assert!(matches!(v.run(), Ok(Run::Intr)), "{clock:?}: the timer");
        assert_eq!(v.device_irq_level(), 1);
        for (irq, e) in [(2, Errno::EINVAL), (1 << 16, Errno::EINVAL), (1 << 24 | 40, Errno::ENXIO)] {
            assert_eq!(g.vm.irq_line(irq, true), Err(e), "{irq:#x}");
        }
        g.vm.irq_line(0, true).expect("IRQ");
        assert_eq!(result(&mut v), 0x80, "{clock:?}: ISR_EL1.I");
        assert!(matches!(v.run(), Ok(Run::Intr)), "{clock:?}: the timer is off");
        assert_eq!(v.device_irq_level(), 0);
        g.vm.irq_line(0, false).expect("IRQ");
        g.vm.irq_line(1, true).expect("FIQ");
        assert_eq!(result(&mut v), 0x40, "{clock:?}: ISR_EL1.F");
    }
}

fn new_eventfd() -> Arc<OwnedFd> {
    // Blocking, as many VMMs have them.
    Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd"))
}

fn signal(fd: &OwnedFd) {
    rustix::io::write(fd, &1u64.to_ne_bytes()).expect("signal");
}

fn ready(fd: &OwnedFd) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    let mut p = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    rustix::event::poll(&mut p, Some(&wait)).expect("poll") == 1 && Instant::now() < end
}

const SPI: u32 = 40;
/// GICD_ICFGR: all level-triggered, or all edge-triggered, as KVM's SPIs are until the guest says otherwise.
const LEVEL: u32 = 0;
const EDGE: u32 = 0xaaaa_aaaa;

/// Takes the interrupt, says so, ends it, and says what comes next. `icfgr` is what GICD_ICFGR2 says of its trigger.
fn handler(icfgr: u32) -> Vec<u32> {
    [
        start_gic(0, 0),
        poke(GICD + 0x80 + 4, u32::MAX),
        poke(GICD + 0xc00 + 8, icfgr),
        poke(GICD + 0x100 + 4, 1 << (SPI - 32)),
        vec![WFI, mrs(0, SysReg::ICC_IAR1_EL1)],
        done(0),
        vec![msr(SysReg::ICC_EOIR1_EL1, 0), mrs(0, SysReg::ICC_IAR1_EL1)],
        done(0),
        vec![b(-14)],
    ]
    .concat()
}

#[test]
fn a_resampling_irqfd_holds_the_line_until_the_end_of_the_interrupt() {
    let (g, mut v) = Guest::with(&handler(LEVEL));
    let _gic = g.gic();
    let (fd, again, other) = (new_eventfd(), new_eventfd(), new_eventfd());
    g.vm.assign_irqfd(fd.clone(), SPI - 32, Some(again.clone())).expect("irqfd");
    g.vm.assign_irqfd(other.clone(), SPI - 32, Some(new_eventfd())).expect("shares the line");
    let same = Arc::new(rustix::io::fcntl_dupfd_cloexec(&fd, 0).expect("dup"));
    assert_eq!(
        g.vm.assign_irqfd(same.clone(), 3, None),
        Err(Errno::EBUSY),
        "the same eventfd by another number"
    );
    for _ in 0..3 {
        signal(&fd);
        assert_eq!(result(&mut v), u64::from(SPI));
        assert!(!ready(&again), "the guest is not done");
        assert_eq!(result(&mut v), 1023, "lowered");
        assert!(ready(&again));
        rustix::io::read(&again, &mut [0; 8]).expect("taken");
    }
    // The table decides which line it is.
    let mut e = IrqRoutingEntry { gsi: SPI - 32, kind: 1, ..IrqRoutingEntry::default() };
    e.u[1] = 100;
    g.vm.set_gsi_routing(0, &[e]).expect("elsewhere");
    signal(&fd);
    while g.vm.unregister_irqfd(&other, 7).is_ok() && readable_now(&fd) {}
    v.set_immediate_exit(false);
    let kick = v.kicker();
    let dog = Watchdog::new(Duration::from_millis(50), kick);
    assert!(matches!(v.run(), Ok(Run::Intr)), "the guest waits for SPI 40");
    drop(dog);
    g.vm.unregister_irqfd(&same, SPI - 32).expect("by the other number");
    g.vm.set_gsi_routing(0, &[]).expect("empty");
    assert_eq!(g.vm.set_gsi_routing(1, &[]), Err(Errno::EINVAL));
    g.vm.assign_irqfd(fd.clone(), SPI - 32, None).expect("free again");
}

fn readable_now(fd: &OwnedFd) -> bool {
    let mut p = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut p, Some(&none)).expect("poll") == 1
}

#[test]
fn an_eventfd_that_is_signalled_already_fires_when_it_is_assigned() {
    let (g, mut v) = Guest::with(&handler(EDGE));
    let _gic = g.gic();
    let fd = new_eventfd();
    signal(&fd);
    // Also through a table of the VMM's own.
    let mut e = IrqRoutingEntry { gsi: 4095, kind: 1, ..IrqRoutingEntry::default() };
    e.u[1] = SPI - 32;
    let mut msi = IrqRoutingEntry { gsi: 5, kind: 2, flags: 1, ..IrqRoutingEntry::default() };
    msi.u[0] = ITS as u32 + 0x1_0040;
    g.vm.set_gsi_routing(0, &[e, msi]).expect("table");
    let nobody = new_eventfd();
    g.vm.assign_irqfd(nobody.clone(), 5, None).expect("MSI");
    signal(&nobody);
    // Edge-triggered, so that the pulse is kept.
    g.memory.program(
        0x2000,
        &[poke(GICD + 0xc00 + 8, 2 << (2 * (SPI - 32))), li(9, RAM).to_vec(), vec![0xd61f_0120]].concat(),
    );
    set(&mut v, RegId::PC, RAM + 0x2000);
    let when = fd.clone();
    let vm = g.vm.clone();
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        vm.assign_irqfd(when, 4095, None).expect("irqfd");
    });
    assert_eq!(result(&mut v), u64::from(SPI));
    late.join().expect("thread");
    assert_eq!(g.vm.signal_msi(ITS + 0x1_0040, 0, 0), Err(Errno::EBUSY), "the guest has not enabled the ITS");
    assert_eq!(g.vm.signal_msi(GICD, 0, 0), Err(Errno::EINVAL), "no doorbell");
}
