//! Hypercall services and who may have them: the scenarios S1 to S9 of seed-systems.md §1.3, and PSCI by version.

mod common;

use std::sync::{Arc, Barrier};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use common::*;
use ulna_kvm_abi::{Errno, RegId, SmcccFilter, exit, mp_state, private};
use ulna_kvm_core::{ClockKind, Engine, Kvm, Run, Vcpu};

const NOT_SUPPORTED: u64 = u64::MAX;
const STD: RegId = RegId::fw_feat(0);
const STD_HYP: RegId = RegId::fw_feat(1);
const VENDOR: RegId = RegId::fw_feat(2);
const VENDOR_2: RegId = RegId::fw_feat(3);
const FEATURES: u64 = 0x8600_0000;
const PTP: u64 = 0x8600_0001;
const TRNG: [u64; 5] = [0x8400_0050, 0x8400_0051, 0x8400_0052, 0x8400_0053, 0xc400_0053];
const PV_TIME_FEATURES: u64 = 0xc500_0020;
const PSCI_FEATURES: u64 = 0x8400_000a;
const SYSTEM_SUSPEND: u64 = 0xc400_000e;
const SYSTEM_OFF2: [u64; 2] = [0x8400_0015, 0xc400_0015];

fn asking(kvm: &Kvm) -> (Guest, Vcpu) {
    let g = Guest::of(kvm);
    g.asks();
    let v = g.vcpu(0, PSCI);
    (g, v)
}

fn n1() -> Kvm {
    kvm("n1", ClockKind::Host)
}

fn has(v: &mut Vcpu, id: RegId) -> bool {
    v.reg_list().expect("list").contains(&id)
}

#[test]
fn s1_a_fresh_vm_has_all_services_of_old_and_none_of_later() {
    let (_g, mut v) = asking(&n1());
    assert_eq!([STD, STD_HYP, VENDOR].map(|id| get(&mut v, id)), [1, 1, 3]);
    assert!(!has(&mut v, VENDOR_2));
    assert_eq!(v.get_one_reg(VENDOR_2, &mut [0; 8]), Err(Errno::ENOENT));
    for strict in [true, false] {
        let g = Guest::of(&kvm_of((6, 15), strict));
        let mut v = g.vcpu(0, PSCI);
        // Strict: as the kernel. Else it is not listed until somebody asks for errata lists.
        assert_eq!(has(&mut v, VENDOR_2), strict);
        let g = Guest::of(&kvm_of((6, 15), strict));
        g.vm.enable_cap(239, 0, [0; 4]).expect("writable identity");
        let mut v = g.vcpu(0, PSCI);
        assert!(has(&mut v, VENDOR_2));
        assert_eq!(get(&mut v, VENDOR_2), 0);
    }
    // How many there are, as was once proposed: a private answer.
    for (kvm, count) in [(n1(), 3), (kvm_of((6, 15), false), 3), (kvm_of((6, 15), true), 0)] {
        let vm = kvm.create_vm(0).expect("VM");
        assert_eq!(vm.check_extension(private::CAP_HVC_FW_REG_BMAP), Ok(count));
    }
}

#[test]
fn s2_without_ptp_it_is_not_listed_and_not_answered() {
    let (_g, mut v) = asking(&n1());
    set(&mut v, VENDOR, 1);
    assert_eq!(call(&mut v, [FEATURES, 0, 0, 0]), [1, 0, 0, 0]);
    assert_eq!(call(&mut v, [PTP, 0, 0, 0]), [NOT_SUPPORTED, 0, 0, 0]);
    let (_g, mut v) = asking(&n1());
    assert_eq!(call1(&mut v, FEATURES, 0), 3);
    assert_ne!(call1(&mut v, PTP, 0), NOT_SUPPORTED);
}

#[test]
fn s3_a_bit_that_means_nothing_is_refused_and_changes_nothing() {
    let (_g, mut v) = asking(&n1());
    for started in [false, true] {
        for (id, all) in [(STD, 1), (STD_HYP, 1), (VENDOR, 3)] {
            for bit in [2, 31, 63] {
                assert_eq!(try_set(&mut v, id, all | 1 << bit), Err(Errno::EINVAL), "{started}");
                assert_eq!(try_set(&mut v, id, 1 << bit), Err(Errno::EINVAL));
            }
            assert_eq!(get(&mut v, id), all);
        }
        call1(&mut v, 0x8400_0000, 0);
    }
}

#[test]
fn s4_the_first_run_freezes_and_a_refused_one_does_not() {
    let g = Guest::new("n1", ClockKind::Host);
    g.asks();
    let mut v = g.vcpu(0, PSCI);
    let mut raw = g.vm.create_vcpu(1).expect("vCPU");
    assert_eq!(raw.run().map(drop), Err(Errno::ENOEXEC));
    set(&mut v, STD, 0);
    set(&mut v, STD, 1);
    v.set_immediate_exit(true);
    assert!(matches!(v.run(), Ok(Run::Intr)));
    for (id, same, other) in [(STD, 1, 0), (STD_HYP, 1, 0), (VENDOR, 3, 1)] {
        assert_eq!(try_set(&mut v, id, other), Err(Errno::EBUSY));
        assert_eq!(try_set(&mut v, id, same), Ok(()));
    }
    // PSCI's version is not among the frozen.
    set(&mut v, RegId::PSCI_VERSION, 2);
}

#[test]
fn s5_a_vmm_may_write_all_registers_again_at_a_reset() {
    let (_g, mut v) = asking(&n1());
    set(&mut v, STD, 0);
    // The first run settles what the machine without a GIC shows.
    call1(&mut v, 0x8400_0000, 0);
    let saved: Vec<(RegId, Vec<u8>)> = v
        .reg_list()
        .expect("list")
        .into_iter()
        .map(|id| {
            let mut b = vec![0; id.size()];
            v.get_one_reg(id, &mut b).expect("register");
            (id, b)
        })
        .collect();
    set(&mut v, RegId::x(0), 0x8400_0009);
    assert!(matches!(v.run(), Ok(Run::SystemEvent(exit::SYSTEM_EVENT_RESET, _))));
    v.init(&features(PSCI)).expect("reset");
    for (id, b) in &saved {
        assert_eq!(v.set_one_reg(*id, b), Ok(()), "{id:x?}");
    }
    assert_eq!(get(&mut v, STD), 0);
}

#[test]
fn s6_what_one_vcpu_writes_all_vcpus_read() {
    let g = Guest::new("n1", ClockKind::Host);
    let mut vcpus: Vec<Vcpu> = (0..4).map(|n| g.vcpu(n, PSCI)).collect();
    set(&mut vcpus[3], VENDOR, 2);
    set(&mut vcpus[2], RegId::PSCI_VERSION, 0x1_0000);
    for v in &mut vcpus {
        assert_eq!((get(v, VENDOR), get(v, RegId::PSCI_VERSION)), (2, 0x1_0000));
    }
}

#[test]
fn s7_without_trng_none_of_its_calls_answers() {
    let (_g, mut v) = asking(&n1());
    set(&mut v, STD, 0);
    for f in TRNG {
        for x1 in [0, 1, 64, TRNG[3]] {
            assert_eq!(call(&mut v, [f, x1, 0, 0]), [NOT_SUPPORTED, 0, 0, 0], "{f:#x}");
        }
    }
}

#[test]
fn s8_the_filter_comes_before_the_bitmaps() {
    let g = Guest::new("n1", ClockKind::Host);
    g.asks();
    let mut v = g.vcpu(0, PSCI);
    let filter = |base: u64, nr_functions: u32, action: u8| SmcccFilter {
        base: base as u32,
        nr_functions,
        action,
        pad: [0; 15],
    };
    g.vm.set_smccc_filter(&filter(TRNG[0], 4, 1)).expect("deny");
    g.vm.set_smccc_filter(&filter(PTP, 1, 2)).expect("forward");
    // Forwarded although its bit is clear: the VMM answers, or nobody.
    set(&mut v, VENDOR, 1);
    for f in &TRNG[..4] {
        assert_eq!(call1(&mut v, *f, 0), NOT_SUPPORTED);
    }
    assert_eq!(call(&mut v, [TRNG[4], 8, 0, 0])[0], 0, "outside the denied range");
    for (n, x) in [PTP, 1, 2, 3].into_iter().enumerate() {
        set(&mut v, RegId::x(n as u64), x);
    }
    assert!(matches!(v.run(), Ok(Run::Hypercall(PTP, 0))));
    assert_eq!([1, 2, 3].map(|n| get(&mut v, RegId::x(n))), [1, 2, 3]);
    set(&mut v, RegId::x(0), 0x77);
    assert_eq!(result(&mut v), 0x77);
}

#[test]
fn s9_an_old_vmm_gets_every_service_of_its_time() {
    for kernel in [(6, 12), (6, 15)] {
        let (_g, mut v) = asking(&kvm_of(kernel, false));
        assert_eq!(call1(&mut v, TRNG[0], 0), 0x1_0000);
        for f in TRNG {
            assert_eq!(call1(&mut v, TRNG[1], f), 0);
        }
        assert_eq!(call(&mut v, [FEATURES, 0, 0, 0]), [3, 0, 0, 0]);
        assert_ne!(call1(&mut v, PTP, 0), NOT_SUPPORTED);
        // Its place was never said, so there is none; but the call is known.
        assert_eq!(call1(&mut v, 0x8000_0001, PV_TIME_FEATURES), 0);
        // Errata lists are later.
        for f in [0xc600_0040, 0xc600_0041] {
            assert_eq!(call1(&mut v, f, 0), NOT_SUPPORTED);
        }
    }
}

#[test]
fn psci_is_as_its_version_says() {
    let known: [(u64, &[u64]); 5] = [
        (0x2, &[0x2]),
        (0x1_0000, &[0x2, 0x1_0000]),
        (0x1_0001, &[0x2, 0x1_0000, 0x1_0001]),
        (0x1_0002, &[0x2, 0x1_0000, 0x1_0001, 0x1_0002]),
        (0x1_0003, &[0x2, 0x1_0000, 0x1_0001, 0x1_0002, 0x1_0003]),
    ];
    for (kernel, newest) in [((6, 12), 0x1_0001), ((6, 13), 0x1_0003)] {
        let (_g, mut v) = asking(&kvm_of(kernel, true));
        assert_eq!(get(&mut v, RegId::PSCI_VERSION), newest, "the newest is the default");
        for (version, _) in known {
            let expected = if version <= newest { Ok(()) } else { Err(Errno::EINVAL) };
            assert_eq!(try_set(&mut v, RegId::PSCI_VERSION, version), expected);
            if expected.is_ok() {
                assert_eq!(call1(&mut v, 0x8400_0000, 0), version);
            }
        }
        for wrong in [0, 1, 3, 0x1_0004, 0x2_0000, 1 << 63 | 2] {
            assert_eq!(try_set(&mut v, RegId::PSCI_VERSION, wrong), Err(Errno::EINVAL));
        }
    }
    // Without the feature there is 0.1 only.
    let g = Guest::new("n1", ClockKind::Host);
    g.asks();
    let mut v = g.vcpu(0, 0);
    assert_eq!(get(&mut v, RegId::PSCI_VERSION), 1);
    assert_eq!(try_set(&mut v, RegId::PSCI_VERSION, 2), Err(Errno::EINVAL));
    assert_eq!(try_set(&mut v, RegId::PSCI_VERSION, 1), Ok(()));
    assert_eq!(call1(&mut v, 0x8400_0000, 0), NOT_SUPPORTED);
}

#[test]
fn system_off2_is_there_with_1_3_and_takes_one_type() {
    let kvm = kvm_of((6, 13), true);
    let (g, mut v) = asking(&kvm);
    let _second = g.vcpu(1, PSCI);
    set(&mut v, RegId::PSCI_VERSION, 0x1_0002);
    for f in SYSTEM_OFF2 {
        assert_eq!(call1(&mut v, PSCI_FEATURES, f), NOT_SUPPORTED);
        assert_eq!(call1(&mut v, f, 0), NOT_SUPPORTED);
    }
    set(&mut v, RegId::PSCI_VERSION, 0x1_0003);
    for f in SYSTEM_OFF2 {
        assert_eq!(call1(&mut v, PSCI_FEATURES, f), 1);
        for (kind, cookie) in [(2, 0), (0, 1), (1, 1), (u64::MAX, 0)] {
            assert_eq!(call(&mut v, [f, kind, cookie, 0])[0], -2i64 as u64);
        }
        for kind in [0, 1] {
            set(&mut v, RegId::x(0), f);
            set(&mut v, RegId::x(1), kind);
            set(&mut v, RegId::x(2), 0);
            assert!(matches!(v.run(), Ok(Run::SystemEvent(exit::SYSTEM_EVENT_SHUTDOWN, [1]))));
            assert_eq!(v.mp_state(), mp_state::STOPPED);
            // A VMM that lets it go on: the call has failed.
            v.set_mp_state(mp_state::RUNNABLE).expect("on");
            assert_eq!(result(&mut v), -6i64 as u64);
        }
    }
}

#[test]
fn system_suspend_is_there_once_the_vmm_takes_it() {
    let (g, mut v) = asking(&n1());
    assert_eq!(call1(&mut v, PSCI_FEATURES, SYSTEM_SUSPEND), NOT_SUPPORTED);
    assert_eq!(call1(&mut v, SYSTEM_SUSPEND, 0), NOT_SUPPORTED);
    g.vm.enable_cap(216, 0, [0; 4]).expect("suspend");
    assert_eq!(call1(&mut v, PSCI_FEATURES, SYSTEM_SUSPEND), 0);
    for (n, x) in [SYSTEM_SUSPEND, 0x1234, 0x5678].into_iter().enumerate() {
        set(&mut v, RegId::x(n as u64), x);
    }
    assert!(matches!(v.run(), Ok(Run::SystemEvent(exit::SYSTEM_EVENT_SUSPEND, []))));
    assert_eq!([1, 2].map(|n| get(&mut v, RegId::x(n))), [0x1234, 0x5678]);
    assert_eq!(result(&mut v), SYSTEM_SUSPEND, "a VMM that refuses it says so itself");
    // 0.2 has no such call.
    set(&mut v, RegId::PSCI_VERSION, 2);
    assert_eq!(call1(&mut v, SYSTEM_SUSPEND, 0), NOT_SUPPORTED);
}

/// H7: of two vCPUs that start a third at once, one does.
#[test]
fn h7_cpu_on_has_one_winner() {
    const CPU_ON: u64 = 0xc400_0003;
    let g = Guest::new("n1", ClockKind::Host);
    g.asks();
    let both = [g.vcpu(0, PSCI), g.vcpu(1, PSCI)];
    let mut third = g.vcpu(2, PSCI | OFF);
    let meet = Arc::new(Barrier::new(3));
    const ROUNDS: u64 = 200;
    let threads = both.map(|mut v| {
        let meet = meet.clone();
        std::thread::spawn(move || {
            (0..ROUNDS)
                .map(|round| {
                    meet.wait();
                    let x0 = call(&mut v, [CPU_ON, 2, RAM + 0x1000, round])[0];
                    meet.wait();
                    x0
                })
                .collect::<Vec<_>>()
        })
    });
    for round in 0..ROUNDS {
        meet.wait();
        meet.wait();
        assert_eq!(third.mp_state(), mp_state::RUNNABLE);
        assert_eq!((get(&mut third, RegId::PC), get(&mut third, RegId::x(0))), (RAM + 0x1000, round));
        third.set_mp_state(mp_state::STOPPED).expect("off");
    }
    let [a, b] = threads.map(|t| t.join().expect("thread"));
    for (round, answers) in a.iter().zip(&b).enumerate() {
        let mut answers = [*answers.0 as i64, *answers.1 as i64];
        answers.sort_unstable();
        assert_eq!(answers, [-4, 0], "{round}");
    }
}

/// Both counters and the wall clock of a PTP answer belong together to a microsecond, as a guest program sees them.
#[test]
fn ptp_is_right_to_a_microsecond() {
    let epoch = || SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_nanos() as u64;
    let mut c = config("n1", ClockKind::Host, Engine::default());
    c.wall_clock = Arc::new(epoch);
    let hz = c.profile.counter.hz;
    let (g, mut v) = asking(&Kvm::new(c));
    g.vm.set_counter_offset(0x1234_5678).expect("offset");
    // The same pair from outside: the closest of many.
    let pair = |v: &mut Vcpu, id: RegId| {
        let pairs = (0..200).map(|_| {
            let (before, at) = (Instant::now(), epoch());
            let c = get(v, id);
            let after = epoch();
            (before.elapsed(), (at + after) / 2, c)
        });
        let (_, ns, counter) = pairs.min_by_key(|p| p.0).expect("pairs");
        (ns, counter)
    };
    for (kind, id) in [(0, RegId::sysreg(0xdf1a)), (1, RegId::sysreg(0xdf01))] {
        let (ns, counter) = pair(&mut v, id);
        let mut errors: Vec<u64> = answers(&g, &mut v, false, &[[PTP, kind, 0, 0, 0, 0]; 101])
            .into_iter()
            .map(|a| {
                let [hi, lo, c_hi, c_lo] = a.x;
                let (wall, c) = (hi << 32 | lo, c_hi << 32 | c_lo);
                let around = a.counter[0]..=a.counter[1];
                assert!(kind == 1 || around.contains(&c), "the guest's own counter: {c} in {around:?}");
                let ticks = u128::from(c.wrapping_sub(counter));
                let passed = (ticks * 1_000_000_000 / u128::from(hz)) as u64;
                wall.abs_diff(ns + passed)
            })
            .collect();
        errors.sort_unstable();
        assert!(errors[50] <= 1_000, "median {} ns, worst {} ns", errors[50], errors[100]);
    }
    // No other counter.
    assert_eq!(answers(&g, &mut v, false, &[[PTP, 2, 0, 0, 0, 0]])[0].x, [NOT_SUPPORTED, 0, 0, 0]);
}

/// Every call with good and bad arguments, by a guest program that reports through memory.
#[test]
fn every_call_answers_good_and_bad_arguments() {
    const INVALID: u64 = -2i64 as u64;
    const NO: u64 = NOT_SUPPORTED;
    let there = RAM + 0x3000;
    let kvm = [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d];
    // Service, x0 to x3, x0 of the answer.
    let mut table: Vec<(&str, [u64; 4], u64)> = vec![
        ("psci", [0x8400_0000, 0, 0, 0], 0x1_0001),
        ("psci", [0xc400_0000, 0, 0, 0], NO),
        ("psci", [0x8400_0006, 0, 0, 0], 2),
        ("psci", [0x8400_0005, 0, 0, 0], NO),
        ("psci", [0x8400_0012, 1, 0, 0], INVALID),
        ("psci", [0xc400_0004, 0, 0, 0], 0),
        ("psci", [0xc400_0004, 1, 0, 0], 1),
        ("psci", [0xc400_0004, 1, 4, 0], INVALID),
        ("psci", [0xc400_0004, 2, 0, 0], INVALID),
        ("psci", [0xc400_0004, 1 << 63, 0, 0], INVALID),
        ("psci", [0x8400_0004, 1 << 63, 0, 0], 0),
        ("psci", [0xc400_0003, 2, there, 0], INVALID),
        ("psci", [0xc400_0003, 1 << 63, there, 0], INVALID),
        ("psci", [0xc400_0003, 1, there, 7], 0),
        ("psci", [0xc400_0003, 1, there, 7], -4i64 as u64),
        ("psci", [0xc400_0003, 0, there, 7], -4i64 as u64),
        ("psci", [0xc400_0004, 1, 0, 0], 0),
        ("smccc", [0x8000_0000, 0, 0, 0], 0x1_0001),
        ("smccc", [0x8000_0001, 0x8400_0000, 0, 0], NO),
        ("trng", [0x8400_0050, 0, 0, 0], 0x1_0000),
        ("trng", [0x8400_0051, 0x8400_0053, 0, 0], 0),
        ("trng", [0x8400_0051, 0x8400_0054, 0, 0], NO),
        ("pvtime", [0xc500_0020, 0xc500_0020, 0, 0], NO),
        ("pvtime", [0xc500_0020, 0x8000_0000, 0, 0], NO),
        ("pvtime", [0xc500_0021, 0, 0, 0], NO),
        ("ptp", [PTP, 2, 0, 0], NO),
        ("kvm", [FEATURES, 0, 0, 0], 3),
        ("kvm", [0x8600_ff01, 0, 0, 0], kvm[0]),
    ];
    for (wide, most) in [(0x8400_0053, 96), (0xc400_0053, 192)] {
        // KVM gives no bits to who asks for none.
        let bits = [(0, 0), (1, 0), (most, 0), (most + 1, INVALID), (u64::MAX, INVALID)];
        table.extend(bits.map(|(n, says)| ("trng", [wide, n, 0, 0], says)));
    }
    let features = [0x00, 0x01, 0x02, 0x03, 0x04, 0x06, 0x08, 0x09, 0x0a, 0x12];
    for n in 0..0x20u64 {
        let says = if features.contains(&n) { 0 } else { NO };
        table.push(("psci", [PSCI_FEATURES, 0x8400_0000 + n, 0, 0], says));
    }
    let calls: Vec<[u64; 6]> = table.iter().map(|(_, c, _)| [c[0], c[1], c[2], c[3], 0, 0]).collect();
    for engine in [Engine::Interp, Engine::Jit] {
        for off in ["", "trng", "kvm", "ptp"] {
            let g = Guest::of(&Kvm::new(config("n1", ClockKind::Host, engine)));
            let mut v = g.vcpu(0, PSCI);
            let _other = g.vcpu(1, PSCI | OFF);
            match off {
                "trng" => set(&mut v, STD, 0),
                "kvm" => set(&mut v, VENDOR, 0),
                "ptp" => set(&mut v, VENDOR, 1),
                _ => {}
            }
            for ((service, c, says), a) in table.iter().zip(answers(&g, &mut v, false, &calls)) {
                let says = match (off, *service, c[0]) {
                    ("ptp", "kvm", FEATURES) => 1,
                    (off, service, _) if off == service => NO,
                    _ => *says,
                };
                assert_eq!(a.x[0], says, "{off} off: {c:x?} answers {:x?}", a.x);
                if c[0] == 0x8600_ff01 && says != NO {
                    assert_eq!(a.x, kvm);
                }
            }
        }
    }
}
