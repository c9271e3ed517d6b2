//! What a VMM sees of small guests: MMIO, interrupts, power, kicks, and what requests refuse.

mod common;

use std::time::{Duration, Instant};

use common::*;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::device::*;
use ulna_kvm_abi::{Errno, RegId, mp_state, vcpu_feature};
use ulna_kvm_core::{ClockKind, Run, Vcpu};

const DEVICE: u64 = 0x0900_0000;

#[test]
fn reads_from_devices_complete_with_every_size_and_sign() {
    // (word without registers, bytes, what 0x8182838485868788 becomes)
    let loads: [(u32, usize, u64); 9] = [
        (0x3940_0000, 1, 0x88),                  // ldrb w
        (0x7940_0000, 2, 0x8788),                // ldrh w
        (0xb940_0000, 4, 0x8586_8788),           // ldr w
        (0xf940_0000, 8, 0x8182_8384_8586_8788), // ldr x
        (0x39c0_0000, 1, 0xffff_ff88),           // ldrsb w
        (0x3980_0000, 1, 0xffff_ffff_ffff_ff88), // ldrsb x
        (0x79c0_0000, 2, 0xffff_8788),           // ldrsh w
        (0x7980_0000, 2, 0xffff_ffff_ffff_8788), // ldrsh x
        (0xb980_0000, 4, 0xffff_ffff_8586_8788), // ldrsw x
    ];
    for (word, size, expected) in loads {
        for target in [3u32, 31] {
            let program = [&[word | 1 << 5 | target][..], &done(target)].concat();
            let (_g, mut v) = Guest::with(&program);
            set(&mut v, RegId::x(1), DEVICE + 8);
            set(&mut v, RegId::x(3), u64::MAX);
            match v.run().expect("run") {
                Run::MmioRead(at, data) => {
                    assert_eq!((at, data.len()), (DEVICE + 8, size), "{word:#x}");
                    data.copy_from_slice(&0x8182_8384_8586_8788u64.to_le_bytes()[..size]);
                }
                other => panic!("{word:#x}: {other:?}"),
            }
            assert_eq!(get(&mut v, RegId::PC), RAM, "{word:#x}: the read is not done yet");
            let got = result(&mut v);
            assert_eq!(got, if target == 31 { 0 } else { expected }, "{word:#x}");
        }
    }
}

#[test]
fn writes_to_devices_carry_their_bytes() {
    for (word, size) in [(0x3900_0000u32, 1), (0x7900_0000, 2), (0xb900_0000, 4), (0xf900_0000, 8)] {
        for source in [3u32, 31] {
            let (_g, mut v) = Guest::with(&[&[word | 1 << 5 | source][..], &done(3)].concat());
            set(&mut v, RegId::x(1), DEVICE);
            set(&mut v, RegId::x(3), 0x8182_8384_8586_8788);
            let value = if source == 31 { 0 } else { 0x8182_8384_8586_8788u64 };
            match v.run().expect("run") {
                Run::MmioWrite(at, data) => {
                    assert_eq!((at, data), (DEVICE, &value.to_le_bytes()[..size]), "{word:#x}");
                }
                other => panic!("{word:#x}: {other:?}"),
            }
            assert_eq!(result(&mut v), 0x8182_8384_8586_8788);
        }
    }
}

#[test]
fn a_pair_from_a_device_cannot_be_emulated() {
    let (_g, mut v) = Guest::with(&[0xa940_0820]); // ldp x0, x2, [x1]
    set(&mut v, RegId::x(1), DEVICE);
    assert_eq!(v.run().err(), Some(Errno::ENOSYS));
    assert_eq!(get(&mut v, RegId::PC), RAM);
    assert_eq!(v.run().err(), Some(Errno::ENOSYS), "again and again, without a panic");
}

#[test]
fn timers_wake_a_waiting_vcpu() {
    let timers = [
        (27u64, SysReg::CNTV_CTL_EL0, SysReg::CNTV_TVAL_EL0),
        (30, SysReg::CNTP_CTL_EL0, SysReg::CNTP_TVAL_EL0),
    ];
    for clock in [ClockKind::Host, ClockKind::Insn] {
        for (intid, ctl, tval) in timers {
            let program = [
                start_gic(0, 1 << intid),
                vec![mrs(2, SysReg::CNTFRQ_EL0), 0xd346_fc42], // lsr x2, x2, #6: 16 ms
                vec![msr(tval, 2)],
                wr(ctl, 1),
                vec![WFI, mrs(0, SysReg::ICC_IAR1_EL1)],
                done(0),
                // Off: the level goes away, and after the end of the interrupt nothing is pending.
                wr(ctl, 0),
                vec![msr(SysReg::ICC_EOIR1_EL1, 0), mrs(0, SysReg::ICC_IAR1_EL1)],
                done(0),
            ]
            .concat();
            let g = Guest::new("n1", clock);
            g.memory.program(0, &program);
            let mut v = g.vcpu(0, PSCI);
            let _gic = g.gic();
            let begin = Instant::now();
            assert_eq!(result(&mut v), intid, "{clock:?}");
            let took = begin.elapsed();
            assert!(took < Duration::from_secs(5), "{clock:?}: {took:?}");
            assert!(clock == ClockKind::Insn || took > Duration::from_millis(14), "{took:?}");
            assert_eq!(result(&mut v), 1023, "{clock:?}");
        }
    }
}

#[test]
fn an_sgi_reaches_the_other_thread() {
    let g = Guest::new("n1", ClockKind::Host);
    let receiver = [start_gic(1, 1 << 5), vec![WFI, mrs(0, SysReg::ICC_IAR1_EL1)], done(0)].concat();
    let sender = [start_gic(0, 0), wr(SysReg::ICC_SGI1R_EL1, 5 << 24 | 1 << 1), done(31)].concat();
    g.memory.program(0, &sender);
    g.memory.program(0x1000, &receiver);
    let (mut a, mut b) = (g.vcpu(0, PSCI), g.vcpu(1, PSCI));
    set(&mut b, RegId::PC, RAM + 0x1000);
    let _gic = g.gic();
    let other = std::thread::spawn(move || result(&mut b));
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(result(&mut a), 0);
    assert_eq!(other.join().expect("receiver"), 5);
}

fn psci(function: u32, args: [u64; 3]) -> Vec<u32> {
    [&li(0, function.into())[..], &li(1, args[0]), &li(2, args[1]), &li(3, args[2]), &[HVC]].concat()
}

const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0xc400_0003;
const AFFINITY_INFO: u32 = 0xc400_0004;

#[test]
fn a_vcpu_is_switched_on_and_off() {
    let g = Guest::new("n1", ClockKind::Host);
    let entry = RAM + 0x1000;
    let first = [
        psci(AFFINITY_INFO, [1, 0, 0]),
        done(0),
        psci(CPU_ON, [1, entry, 0x77]),
        done(0),
        psci(CPU_ON, [1, entry, 0x78]),
        done(0),
        psci(AFFINITY_INFO, [1, 0, 0]),
        done(0),
        // Until it is off again.
        psci(AFFINITY_INFO, [1, 0, 0]),
        vec![cbz(0, -17)],
        done(0),
    ]
    .concat();
    g.memory.program(0, &first);
    g.memory.program(0x1000, &[done(0), psci(CPU_OFF, [0; 3]), done(0)].concat());
    let (mut a, mut b) = (g.vcpu(0, PSCI), g.vcpu(1, PSCI | OFF));
    assert_eq!(b.mp_state(), mp_state::STOPPED);
    let kick = b.kicker();
    let (tell, told) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        tell.send(result(&mut b)).expect("channel");
        wait.recv().expect("channel");
        // Off: blocks until the kick.
        let intr = matches!(b.run(), Ok(Run::Intr));
        (intr, b.mp_state())
    });
    assert_eq!(result(&mut a), 1, "off");
    assert_eq!(result(&mut a), 0, "CPU_ON");
    assert_eq!(told.recv().expect("channel"), 0x77, "the context id");
    assert_eq!(result(&mut a), -4i64 as u64, "ALREADY_ON");
    assert_eq!(result(&mut a), 0, "on");
    go.send(()).expect("channel");
    assert_eq!(result(&mut a), 1, "off");
    kick();
    assert_eq!(other.join().expect("thread"), (true, mp_state::STOPPED));
}

#[test]
fn only_one_of_many_switches_a_vcpu_on() {
    for round in 0..20 {
        let g = Guest::new("n1", ClockKind::Host);
        g.memory.program(0, &[psci(CPU_ON, [5, RAM + 0x1000, 0]), done(0)].concat());
        let mut target = g.vcpu(5, PSCI | OFF);
        let callers: Vec<Vcpu> = (0..4).map(|n| g.vcpu(n, PSCI)).collect();
        let threads: Vec<_> =
            callers.into_iter().map(|mut v| std::thread::spawn(move || result(&mut v))).collect();
        let mut answers: Vec<u64> = threads.into_iter().map(|t| t.join().expect("caller")).collect();
        answers.sort_unstable();
        assert_eq!(answers, [0, -4i64 as u64, -4i64 as u64, -4i64 as u64], "round {round}");
        g.memory.program(0x1000, &done(31));
        assert_eq!(result(&mut target), 0);
    }
}

#[test]
fn a_kick_ends_run_and_is_sticky() {
    let (_g, mut v) = Guest::with(&[B_SELF]);
    let kick = v.kicker();
    kick();
    let begin = Instant::now();
    assert!(matches!(v.run(), Ok(Run::Intr)), "a kick before the run ends it");
    assert!(begin.elapsed() < Duration::from_secs(1));
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        let at = Instant::now();
        kick();
        at
    });
    assert!(matches!(v.run(), Ok(Run::Intr)));
    let late = thread.join().expect("thread").elapsed();
    assert!(late < Duration::from_millis(500), "{late:?}");
    assert!(v.instructions() > 1000);
}

#[test]
fn a_loop_of_faults_is_kicked_like_any_other() {
    // No vectors are mapped: every fetch of the handler faults again.
    let (_g, mut v) = Guest::with(&[0]);
    let kick = v.kicker();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        kick();
    });
    assert!(matches!(v.run(), Ok(Run::Intr)));
    thread.join().expect("thread");
    let esr = get(&mut v, RegId::sysreg(SysReg::ESR_EL1.code()));
    assert_eq!(esr >> 26, 0x21, "an instruction abort: {esr:#x}");
}

#[test]
fn a_slot_goes_away_under_a_running_vcpu() {
    const EXTRA: u64 = 0x8000_0000;
    // loop: ldr x0, [x1]; b loop
    let (g, mut v) = Guest::with(&[ldr_x(0, 1), b(-1)]);
    let extra = Memory::new(0x1_0000);
    add_slot(&g.vm, 1, EXTRA, &extra);
    set(&mut v, RegId::x(1), EXTRA + 0x88);
    let runs = std::thread::spawn(move || match v.run() {
        Ok(Run::MmioRead(at, data)) => (at, data.len()),
        other => panic!("{other:?}"),
    });
    std::thread::sleep(Duration::from_millis(30));
    assert!(!runs.is_finished());
    g.vm.delete_memory_region(1).expect("delete");
    assert_eq!(runs.join().expect("thread"), (EXTRA + 0x88, 8));
}

#[test]
fn requests_out_of_order_are_refused() {
    let g = Guest::new("n1", ClockKind::Host);
    let mut v = g.vm.create_vcpu(0).expect("vCPU");
    assert_eq!(v.run().err(), Some(Errno::ENOEXEC), "run before init");
    assert_eq!(v.get_one_reg(RegId::PC, &mut [0; 8]).err(), Some(Errno::ENOEXEC));
    v.init(&features(PSCI)).expect("init");
    let mut w = g.vm.create_vcpu(1).expect("vCPU");
    assert_eq!(w.init(&features(0)).err(), Some(Errno::EINVAL), "other features than the first vCPU's");
    assert_eq!(v.init(&features(0)).err(), Some(Errno::EINVAL), "other features than before");
    let sve = 1 << vcpu_feature::SVE;
    assert_eq!(g.vm.create_vcpu(2).expect("vCPU").init(&features(sve)).err(), Some(Errno::EINVAL));
    w.init(&features(PSCI | OFF)).expect("POWER_OFF may differ");
    assert_eq!(g.vm.create_vcpu(1).err(), Some(Errno::EEXIST));
    assert_eq!(g.vm.create_vcpu(512).err(), Some(Errno::EINVAL));
    let gic = g.vm.create_device(TYPE_ARM_VGIC_V3).expect("GIC");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR).expect("redistributors");
    gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
    assert_eq!(g.vm.create_vcpu(3).err(), Some(Errno::EBUSY), "the GIC is up");
}

#[test]
fn interrupt_lines_answer_as_kvm_does() {
    // shared/oracle/recordings/neoverse-n1.jsonl, k=irqline: one vCPU, 64 interrupts.
    let without = [
        (0x0, 0),
        (0x1, 0),
        (0x2, -22),
        (0x100_001f, -6),
        (0x100_0020, -6),
        (0x100_003f, -6),
        (0x100_0040, -6),
        (0x100_03fb, -6),
        (0x200_000f, -6),
        (0x200_0010, -6),
        (0x200_001b, -6),
        (0x200_001f, -6),
        (0x200_0020, -6),
        (0x201_0010, -6),
        (0x1200_0010, -6),
        (0x300_0000, -22),
    ];
    let with = [
        (0x0, -6),
        (0x1, -6),
        (0x2, -6),
        (0x100_001f, -22),
        (0x100_0020, 0),
        (0x100_003f, 0),
        (0x100_0040, -22),
        (0x100_03fb, -22),
        (0x200_000f, -22),
        (0x200_0010, 0),
        (0x200_001b, 0),
        (0x200_001f, 0),
        (0x200_0020, -22),
        (0x201_0010, -22),
        (0x1200_0010, -22),
        (0x300_0000, -22),
    ];
    let check = |g: &Guest, table: &[(u32, i32)]| {
        for &(irq, expected) in table {
            let got = g.vm.irq_line(irq, false).map_or_else(|e| -e.0, |()| 0);
            assert_eq!(got, expected, "{irq:#x}");
        }
    };
    let g = Guest::new("n1", ClockKind::Host);
    let _v = g.vcpu(0, PSCI);
    check(&g, &without);
    let gic = g.vm.create_device(TYPE_ARM_VGIC_V3).expect("GIC");
    gic.set_attr(GRP_NR_IRQS, 0, 64).expect("interrupts");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR).expect("redistributors");
    gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
    check(&g, &with);
}

#[test]
fn the_first_run_freezes_id_registers() {
    let (_g, mut v) = Guest::with(&done(31));
    let id = RegId::sysreg(SysReg::ID_AA64ISAR0_EL1.code());
    let value = get(&mut v, id);
    let less = value & !(0xf << 4); // without AES
    v.set_one_reg(id, &less.to_le_bytes()).expect("before the first run");
    assert_eq!(result(&mut v), 0);
    assert_eq!(get(&mut v, id), less);
    assert_eq!(v.set_one_reg(id, &value.to_le_bytes()).err(), Some(Errno::EBUSY));
    v.set_one_reg(id, &less.to_le_bytes()).expect("the same value");
}

/// Nanoseconds on a CPU of the calling thread.
fn cpu_time() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[test]
fn waiting_vcpus_use_no_cpu() {
    // One in WFI, one switched off.
    let g = Guest::new("n1", ClockKind::Host);
    g.memory.program(0, &[WFI, b(-1)]);
    let vcpus = [g.vcpu(0, PSCI), g.vcpu(1, PSCI | OFF)];
    let mut threads = Vec::new();
    let mut kicks = Vec::new();
    for mut v in vcpus {
        kicks.push(v.kicker());
        threads.push(std::thread::spawn(move || {
            let before = cpu_time();
            assert!(matches!(v.run(), Ok(Run::Intr)));
            Some((before?, cpu_time()?))
        }));
    }
    std::thread::sleep(Duration::from_millis(500));
    kicks.iter().for_each(|k| k());
    for t in threads {
        if let Some((before, after)) = t.join().expect("thread") {
            assert!(after - before < 50_000_000, "{} ns", after - before);
        }
    }
}

/// The whole state that ONE_REG shows, after the built-in guest ran to its end by an instruction clock.
fn builtin_run() -> (u64, Vec<u64>, u64, Vec<u8>) {
    let g = Guest::new("n1", ClockKind::Insn);
    for (n, w) in ulna_guests::builtin().chunks(4).enumerate() {
        let mut b = [0; 4];
        b[..w.len()].copy_from_slice(w);
        g.memory.write32(0x8_0000 + 4 * n, u32::from_le_bytes(b));
    }
    let mut v = g.vcpu(0, PSCI);
    let _gic = g.gic();
    set(&mut v, RegId::PC, RAM + 0x8_0000);
    let mut said = Vec::new();
    loop {
        match v.run().expect("run") {
            Run::MmioWrite(0x0900_0000, data) => said.push(data[0]),
            Run::MmioRead(_, data) => data.fill(0),
            Run::SystemEvent(..) => break,
            Run::MmioWrite(..) | Run::Intr => {}
            other => panic!("{other:?}"),
        }
    }
    let core = (0..=72).step_by(2).map(|n| RegId(RegId::x(0).0 + n)).map(|id| get(&mut v, id));
    let mut all: Vec<u64> = core.collect();
    let sys = SysReg::ALL.iter().filter_map(|r| {
        let mut b = [0; 8];
        v.get_one_reg(RegId::sysreg(r.code()), &mut b).ok().map(|()| u64::from_le_bytes(b))
    });
    all.extend(sys);
    for n in 0..32 {
        let mut b = [0; 16];
        v.get_one_reg(RegId::v(n), &mut b).expect("register");
        let q = u128::from_le_bytes(b);
        all.extend([q as u64, (q >> 64) as u64]);
    }
    (v.instructions(), all, g.memory.hash(), said)
}

#[test]
fn an_instruction_clock_repeats_bit_for_bit() {
    let (a, b) = (builtin_run(), builtin_run());
    assert!(a.0 > 10_000, "{} instructions", a.0);
    assert!(a.1.len() > 200);
    assert!(String::from_utf8_lossy(&a.3).contains("MIDR"), "{}", String::from_utf8_lossy(&a.3));
    assert_eq!(a, b);
}
