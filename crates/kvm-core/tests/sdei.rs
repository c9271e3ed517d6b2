//! The scenarios of SDEI (seed-systems.md §3.10) as the guest sees them: calls, handlers, bound interrupts. What a VMM sees is
//! in `sdei_state.rs`.

mod common;

use std::time::Duration;

use common::events::{call, *};
use common::*;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::{RegId, mp_state};
use ulna_kvm_core::firmware::sdei::{self, Reg, function::*, status::*};
use ulna_kvm_core::{ClockKind, Engine, Run, Vcpu};

#[test]
fn every_function_with_good_and_bad_arguments() {
    let (_g, mut v) = guest();
    let v = &mut v;
    let me = mpidr(v);
    assert_eq!(value(v, VERSION, &[]), 1 << 48 | 1 << 32 | 0x564b_caa9);
    for event in [1, 0x4075_6c01, 0x4075_6d00, 0x4075_6e00, 0xffff_ffff, 0x8000_0000] {
        for n in [1, 2, 3, 7, 8, 9, 0xa, 0xe] {
            assert_eq!(value(v, n, &[event, ENTRY]), INVALID_PARAMETERS, "{n:#x} of {event:#x}");
        }
    }
    for bad in [0, ENTRY + 1, ENTRY + 2, 1 << 60, 1 << 48] {
        assert_eq!(value(v, EVENT_REGISTER, &[0, bad]), INVALID_PARAMETERS, "{bad:#x}");
    }
    for flags in [2, 3, 4, 1 << 63] {
        assert_eq!(value(v, EVENT_REGISTER, &[0, ENTRY, 0, flags]), INVALID_PARAMETERS, "{flags:#x}");
    }
    for n in [EVENT_ENABLE, EVENT_DISABLE, EVENT_UNREGISTER] {
        assert_eq!(value(v, n, &[0]), DENIED);
    }
    assert_eq!(value(v, EVENT_CONTEXT, &[18]), INVALID_PARAMETERS);
    assert_eq!(value(v, EVENT_CONTEXT, &[17]), DENIED);
    for n in [EVENT_COMPLETE, EVENT_COMPLETE_AND_RESUME] {
        assert_eq!(value(v, n, &[ENTRY]), DENIED);
    }
    assert_eq!(value(v, EVENT_STATUS, &[0]), 0);
    assert_eq!([0, 1, 2].map(|i| value(v, EVENT_GET_INFO, &[0, i])), [0, 0, 0]);
    assert_eq!([0, 1, 2].map(|i| value(v, EVENT_GET_INFO, &[NMI, i])), [0, 1, 0]);
    assert_eq!([3, 4, 5].map(|i| value(v, EVENT_GET_INFO, &[0, i])), [INVALID_PARAMETERS; 3]);
    assert_eq!(value(v, EVENT_ROUTING_SET, &[0, 0]), INVALID_PARAMETERS);
    assert_eq!(value(v, PE_MASK, &[]), 0);
    assert_eq!(value(v, PE_UNMASK, &[]), 0);
    assert_eq!([value(v, PE_MASK, &[]), value(v, PE_MASK, &[])], [1, 0]);
    assert_eq!(value(v, INTERRUPT_BIND, &[27]), INVALID_PARAMETERS, "there is no GIC");
    assert_eq!(value(v, INTERRUPT_RELEASE, &[0]), INVALID_PARAMETERS);
    assert_eq!(value(v, EVENT_SIGNAL, &[0, me]), SUCCESS);
    assert_eq!(value(v, EVENT_SIGNAL, &[NMI, me]), INVALID_PARAMETERS);
    assert_eq!(value(v, EVENT_SIGNAL, &[0, me + 1]), INVALID_PARAMETERS);
    assert_eq!(value(v, EVENT_SIGNAL, &[0, me | 1 << 31]), INVALID_PARAMETERS);
    assert_eq!([0, 1, 2].map(|i| value(v, FEATURES, &[i])), [0, 0, INVALID_PARAMETERS]);
    assert_eq!(value(v, PRIVATE_RESET, &[]), SUCCESS);
    assert_eq!(value(v, SHARED_RESET, &[]), SUCCESS);
    for n in 0x13..0x20 {
        assert_eq!(value(v, n, &[]), NOT_SUPPORTED);
    }
    for n in 0..0x20 {
        // SMC32 forms.
        start(v, n, &[]);
        set(v, RegId::x(0), u64::from(0x8400_0020 + n));
        assert_eq!(go(v), Returned(NOT_SUPPORTED));
    }
}

#[test]
fn e2_a_pe_that_loops_with_everything_masked_is_interrupted_and_goes_on_as_it_was() {
    let g = guest_with("n1");
    let mut a = g.vcpu(0, PSCI);
    let mut b = g.vcpu(1, PSCI);
    ready(&mut b, EVENT);
    let target = mpidr(&mut b);
    let pattern = |n: u64| 0x1111_0000_0000_0000 + n * 0x1_0001;
    for n in 0..31 {
        set(&mut b, RegId::x(n), pattern(n));
    }
    set(&mut b, RegId::ELR_EL1, 0x1234);
    set(&mut b, RegId::SPSR_EL1, 0x6000_03c5);
    set(&mut b, RegId::PSTATE, 0x9000_0005);
    set(&mut b, RegId::PC, RAM + LOOP);
    let thread = std::thread::spawn(move || {
        let seen = go_soon(&mut b);
        (b, seen)
    });
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(value(&mut a, EVENT_SIGNAL, &[EVENT, target]), SUCCESS);
    let (mut b, seen) = thread.join().expect("vCPU");
    assert_eq!(seen, Entered(EVENT));
    let x: Vec<u64> = (0..31).map(|n| get(&mut b, RegId::x(n))).collect();
    assert_eq!(x[..4], [EVENT, 0xa5a5, RAM + LOOP + 4, 0x9000_03c5]);
    for n in (4..19).chain(20..31) {
        assert_eq!(x[n as usize], pattern(n), "x{n} is live");
    }
    assert_eq!(get(&mut b, RegId::PSTATE) & 0x3cf, 0x3c5);
    for n in 0..18 {
        assert_eq!(value(&mut b, EVENT_CONTEXT, &[n]), pattern(n), "CONTEXT({n})");
    }
    set(&mut b, RegId::x(18), pattern(18));
    set(&mut b, RegId::x(19), pattern(19));
    start(&mut b, EVENT_COMPLETE, &[]);
    let _stop = Watchdog::new(Duration::from_millis(20), b.kicker());
    assert_eq!(go(&mut b), Kicked);
    for n in 0..31 {
        assert_eq!(get(&mut b, RegId::x(n)), pattern(n), "x{n} came back");
    }
    assert_eq!(get(&mut b, RegId::PC), RAM + LOOP + 4);
    assert_eq!(get(&mut b, RegId::PSTATE), 0x9000_03c5);
    assert_eq!(get(&mut b, RegId::ELR_EL1), 0x1234);
    assert_eq!(get(&mut b, RegId::SPSR_EL1), 0x6000_03c5);
}

#[test]
fn e3_signals_to_a_masked_pe_are_one_run() {
    let (_g, mut v) = guest();
    let v = &mut v;
    ready(v, EVENT);
    assert_eq!(value(v, PE_MASK, &[]), 1);
    for _ in 0..3 {
        assert_eq!(signal(v), Returned(SUCCESS));
    }
    assert_eq!(call(v, PE_UNMASK, &[]), Entered(EVENT));
    // During the run: exactly one more.
    assert_eq!([signal(v), signal(v)], [Returned(SUCCESS); 2]);
    assert_eq!(call(v, EVENT_COMPLETE, &[]), Entered(EVENT));
    assert_eq!(call(v, EVENT_COMPLETE, &[]), Returned(SUCCESS), "UNMASK returns at last");
    assert_eq!(value(v, EVENT_STATUS, &[EVENT]), 3);
}

/// Brings event 0 into a state: registered, enabled, running.
fn bring(v: &mut Vcpu, state: &str) {
    if state.contains('A') {
        ready(v, EVENT);
        assert_eq!(signal(v), Entered(EVENT));
        match state {
            "A" => assert_eq!(value(v, EVENT_UNREGISTER, &[EVENT]), PENDING),
            "RA" => assert_eq!(value(v, EVENT_DISABLE, &[EVENT]), SUCCESS),
            _ => {}
        }
    } else if state.starts_with('R') {
        assert_eq!(value(v, EVENT_REGISTER, &[EVENT, ENTRY]), SUCCESS);
        if state == "RE" {
            assert_eq!(value(v, EVENT_ENABLE, &[EVENT]), SUCCESS);
        }
    }
}

fn state(v: &mut Vcpu) -> &'static str {
    ["", "R", "E?", "RE", "A", "RA", "EA?", "REA"][value(v, EVENT_STATUS, &[EVENT]) as usize]
}

#[test]
fn e4_every_cell_of_the_table_of_states() {
    // State, call, result (for COMPLETE: DENIED, or what runs next returns SUCCESS), state after it.
    let no = DENIED;
    let table = [
        ("", [(SUCCESS, "R"), (no, ""), (no, ""), (no, ""), (no, ""), (no, "")]),
        ("R", [(no, "R"), (SUCCESS, "RE"), (SUCCESS, "R"), (SUCCESS, ""), (no, "R"), (no, "R")]),
        ("RE", [(no, "RE"), (SUCCESS, "RE"), (SUCCESS, "R"), (SUCCESS, ""), (no, "RE"), (no, "RE")]),
        ("A", [(no, "A"), (no, "A"), (no, "A"), (PENDING, "A"), (0x77, "A"), (SUCCESS, "")]),
        ("RA", [(no, "RA"), (SUCCESS, "REA"), (SUCCESS, "RA"), (PENDING, "A"), (0x77, "RA"), (SUCCESS, "R")]),
        (
            "REA",
            [(no, "REA"), (SUCCESS, "REA"), (SUCCESS, "RA"), (PENDING, "A"), (0x77, "REA"), (SUCCESS, "RE")],
        ),
    ];
    let calls: [(u32, &[u64]); 6] = [
        (EVENT_REGISTER, &[EVENT, ENTRY]),
        (EVENT_ENABLE, &[EVENT]),
        (EVENT_DISABLE, &[EVENT]),
        (EVENT_UNREGISTER, &[EVENT]),
        (EVENT_CONTEXT, &[17]),
        (EVENT_COMPLETE, &[]),
    ];
    let mut cells = 0;
    for (before, row) in table {
        for ((n, args), (result, after)) in calls.iter().zip(row) {
            let (_g, mut v) = guest();
            let v = &mut v;
            set(v, RegId::x(17), 0x77);
            bring(v, before);
            assert_eq!(state(v), before);
            assert_eq!(value(v, *n, args), result, "{n:#x} in {before}");
            assert_eq!(state(v), after, "{n:#x} in {before}");
            cells += 1;
        }
    }
    assert_eq!(cells, 36);
    // Only what is registered, enabled and idle is dispatched; and after COMPLETE one can register again.
    let (_g, mut v) = guest();
    let v = &mut v;
    value(v, PE_UNMASK, &[]);
    assert_eq!(signal(v), Returned(SUCCESS));
    bring(v, "R");
    assert_eq!(signal(v), Returned(SUCCESS));
    assert_eq!(call(v, EVENT_ENABLE, &[EVENT]), Entered(EVENT));
    assert_eq!(value(v, EVENT_UNREGISTER, &[EVENT]), PENDING);
    assert_eq!(value(v, EVENT_REGISTER, &[EVENT, ENTRY]), DENIED);
    assert_eq!(call(v, EVENT_COMPLETE, &[]), Returned(SUCCESS));
    assert_eq!(value(v, EVENT_REGISTER, &[EVENT, ENTRY]), SUCCESS);
}

#[test]
fn e5_complete_and_resume_enters_an_exception_handler() {
    let (_g, mut v) = guest();
    let v = &mut v;
    ready(v, EVENT);
    set(v, RegId::PSTATE, 0x2000_0005);
    assert_eq!(signal(v), Entered(EVENT));
    let (pc, pstate) = (get(v, RegId::x(2)), get(v, RegId::x(3)));
    assert_eq!((pc, pstate), (RAM + CALL + 4, 0x2000_0005));
    for bad in [0, RAM + RESUME + 2, 1 << 50] {
        assert_eq!(value(v, EVENT_COMPLETE_AND_RESUME, &[bad]), DENIED);
    }
    // The MMIO exit of the call comes only after the ERET.
    assert_eq!(call(v, EVENT_COMPLETE_AND_RESUME, &[RAM + RESUME]), Returned(SUCCESS));
    assert_eq!((get(v, RegId::ELR_EL1), get(v, RegId::SPSR_EL1)), (pc, pstate));
    assert_eq!(get(v, RegId::PSTATE), pstate);
    assert_eq!(value(v, EVENT_STATUS, &[EVENT]), 3);
}

#[test]
fn e6_a_cpu_that_was_off_begins_masked_and_without_handlers() {
    let g = guest_with("n1");
    let mut a = g.vcpu(0, PSCI);
    let mut b = g.vcpu(1, PSCI);
    ready(&mut b, EVENT);
    let target = mpidr(&mut b);
    assert_eq!(call(&mut b, EVENT_SIGNAL, &[EVENT, target]), Entered(EVENT));
    // CPU_OFF in the middle of a handler.
    start(&mut b, 0, &[]);
    set(&mut b, RegId::x(0), 0x8400_0002);
    let kick = Watchdog::new(Duration::from_millis(10), b.kicker());
    assert_eq!(go(&mut b), Kicked);
    drop(kick);
    assert_eq!(b.mp_state(), mp_state::STOPPED);
    assert_eq!(value(&mut a, EVENT_SIGNAL, &[EVENT, target]), SUCCESS);
    start(&mut a, 0, &[target, RAM + LOOP, 0]);
    set(&mut a, RegId::x(0), 0xc400_0003);
    assert_eq!(go(&mut a), Returned(0));
    assert_eq!(value(&mut b, EVENT_STATUS, &[EVENT]), 0);
    assert_eq!(value(&mut b, EVENT_COMPLETE, &[]), DENIED);
    assert_eq!(value(&mut b, PE_MASK, &[]), 0, "it was masked");
    assert_eq!(value(&mut b, PE_UNMASK, &[]), 0);
}

#[test]
fn an_event_ends_waiting() {
    let g = guest_with("n1");
    let mut v = g.vcpu(0, PSCI);
    ready(&mut v, NMI);
    // WFI, and CPU_SUSPEND.
    g.memory.program(0x4000, &[WFI, B_SELF]);
    for (pc, x0) in [(RAM + 0x4000, 0), (RAM + CALL, 0xc400_0001)] {
        set(&mut v, RegId::PC, pc);
        set(&mut v, RegId::x(0), x0);
        let vm = g.vm.clone();
        let nmi = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            vm.nmi(0)
        });
        assert_eq!(go_soon(&mut v), Entered(NMI));
        nmi.join().expect("thread").expect("NMI");
        assert_eq!(get(&mut v, RegId::x(2)), pc + 4);
        put(&mut v, Reg::Pe, &[0]).expect("PE");
        put(&mut v, Reg::Context(0), &none()).expect("context");
        let mut w = words(&mut v, Reg::Event(1));
        w[0] &= !(1 << 34);
        put(&mut v, Reg::Event(1), &w).expect("event");
    }
}

#[test]
fn e10_an_nmi_reaches_a_guest_that_is_wedged() {
    for engine in [Engine::Interp, Engine::Jit] {
        let vm = kvm_on("n1", ClockKind::Host, engine).create_vm(0).expect("VM");
        let memory = Memory::new(RAM_LEN);
        add_slot(&vm, 0, RAM, &memory);
        let g = Guest { vm, memory };
        g.vm.enable_cap(sdei::CAP, 0, [0; 4]).expect("SDEI");
        fill(&g);
        let mut v = g.vcpu(0, PSCI);
        ready(&mut v, NMI);
        set(&mut v, RegId::PC, RAM + LOOP);
        let vm = g.vm.clone();
        let nmi = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            vm.nmi(0)
        });
        assert_eq!(go_soon(&mut v), Entered(NMI));
        nmi.join().expect("thread").expect("NMI");
        assert_eq!(get(&mut v, RegId::x(2)), RAM + LOOP + 4, "where it hung");
        assert_eq!(value(&mut v, PE_MASK, &[]), 1);
        for _ in 0..1000 {
            v.nmi().expect("NMI");
        }
        start(&mut v, EVENT_COMPLETE, &[]);
        let kick = Watchdog::new(Duration::from_millis(10), v.kicker());
        assert_eq!(go(&mut v), Kicked, "masked");
        drop(kick);
        assert_eq!(call(&mut v, PE_UNMASK, &[]), Entered(NMI));
        assert_eq!(call(&mut v, EVENT_COMPLETE, &[]), Returned(SUCCESS), "once");
    }
}

/// A VM with what can be bound: two PPIs and two SPIs, critical events, entries relative to the vectors.
fn bindable(cpus: u32) -> (Guest, Vec<Vcpu>, [ulna_kvm_core::Device; 2]) {
    let g = guest_with("n1");
    let mut v: Vec<_> = (0..cpus).map(|n| g.vcpu(n, PSCI)).collect();
    put(&mut v[0], Reg::Features, &[0x7_0202]).expect("features");
    let gic = g.gic();
    (g, v, gic)
}

const VTIMER: u64 = 27;
const PTIMER: u64 = 30;
const BOUND: u64 = sdei::PRIVATE_BOUND as u64;
const SHARED: u64 = sdei::SHARED_BOUND as u64;

#[test]
fn e12_a_watchdog_by_a_bound_timer_and_a_critical_event_on_top_of_it() {
    let (_g, mut v, _gic) = bindable(1);
    let v = &mut v[0];
    assert_eq!(value(v, FEATURES, &[0]), 2 << 16 | 2);
    assert_eq!(value(v, FEATURES, &[1]), 1);
    for intid in [0, 7, 15, 1020, 1023, 8192, 900] {
        assert_eq!(value(v, INTERRUPT_BIND, &[intid]), INVALID_PARAMETERS, "{intid}");
    }
    assert_eq!(value(v, EVENT_REGISTER, &[BOUND, ENTRY]), DENIED, "not bound yet");
    assert_eq!(value(v, INTERRUPT_BIND, &[VTIMER]), BOUND);
    assert_eq!(value(v, INTERRUPT_BIND, &[VTIMER]), DENIED);
    assert_eq!(value(v, INTERRUPT_BIND, &[PTIMER]), BOUND + 1);
    assert_eq!(value(v, INTERRUPT_BIND, &[20]), OUT_OF_RESOURCE);
    assert_eq!([BOUND, BOUND + 1].map(|e| value(v, EVENT_GET_INFO, &[e, 2])), [0, 1]);
    ready(v, BOUND);
    ready(v, BOUND + 1);
    assert_eq!(value(v, INTERRUPT_RELEASE, &[BOUND]), DENIED);
    assert_eq!(value(v, SHARED_RESET, &[]), DENIED, "bindings are registered");
    // The timer fires with DAIF set, and stays until its handler stops it.
    let timer = |v: &mut Vcpu, ctl: SysReg, on: u64| {
        // The ids of these are their encodings.
        set(v, RegId::sysreg(ctl.code()), on);
    };
    set(v, RegId::PSTATE, 0x3c5);
    timer(v, SysReg::CNTV_CTL_EL0, 1);
    assert_eq!(call(v, VERSION, &[]), Entered(BOUND));
    assert_eq!(get(v, RegId::x(2)), RAM + CALL, "before the call");
    assert_eq!(value(v, EVENT_STATUS, &[BOUND]), 7);
    // The critical one interrupts its handler.
    timer(v, SysReg::CNTP_CTL_EL0, 1);
    assert_eq!(call(v, EVENT_STATUS, &[BOUND]), Entered(BOUND + 1));
    assert_eq!(words(v, Reg::Pe), [6]);
    timer(v, SysReg::CNTP_CTL_EL0, 0);
    assert_eq!(call(v, EVENT_COMPLETE, &[]), Returned(7), "back in the normal handler");
    // Level: again while the line is high.
    assert_eq!(call(v, EVENT_COMPLETE, &[]), Entered(BOUND));
    timer(v, SysReg::CNTV_CTL_EL0, 0);
    assert_eq!(call(v, EVENT_COMPLETE, &[]), Returned(1 << 48 | 1 << 32 | 0x564b_caa9));
    assert_eq!(value(v, EVENT_UNREGISTER, &[BOUND]), SUCCESS);
    assert_eq!(value(v, INTERRUPT_RELEASE, &[BOUND]), SUCCESS);
    assert_eq!(value(v, INTERRUPT_RELEASE, &[BOUND]), INVALID_PARAMETERS);
    assert_eq!(value(v, PRIVATE_RESET, &[]), SUCCESS);
    assert_eq!(value(v, SHARED_RESET, &[]), SUCCESS);
    assert_eq!(value(v, INTERRUPT_BIND, &[PTIMER]), BOUND);
}

#[test]
fn entries_can_be_relative_to_the_vectors() {
    let (_g, mut v, _gic) = bindable(1);
    let v = &mut v[0];
    set(v, RegId::sysreg(SysReg::VBAR_EL1.code()), RAM + HANDLER - 0x800);
    assert_eq!(value(v, EVENT_REGISTER, &[EVENT, 0x801, 0, 2]), INVALID_PARAMETERS);
    assert_eq!(value(v, EVENT_REGISTER, &[EVENT, 0x800, 0, 2]), SUCCESS);
    value(v, EVENT_ENABLE, &[EVENT]);
    value(v, PE_UNMASK, &[]);
    assert_eq!(signal(v), Entered(EVENT));
    assert_eq!(call(v, EVENT_COMPLETE, &[]), Returned(SUCCESS));
}

#[test]
fn shared_events_go_to_whom_they_are_routed() {
    let (g, mut v, _gic) = bindable(2);
    let [a, b] = &mut v[..] else { panic!() };
    let (ma, mb) = (mpidr(a), mpidr(b));
    let spi = 40u64;
    let line = |level| g.vm.irq_line(1 << 24 | spi as u32, level).expect("line");
    assert_eq!(value(a, INTERRUPT_BIND, &[spi]), SHARED);
    assert_eq!(value(a, EVENT_REGISTER, &[SHARED, ENTRY, 0, 1, 0x77]), INVALID_PARAMETERS);
    assert_eq!(value(a, EVENT_REGISTER, &[SHARED, ENTRY, 0, 1, mb]), SUCCESS);
    assert_eq!(value(b, EVENT_STATUS, &[SHARED]), 1, "the VM has one");
    assert_eq!([0, 1, 2, 3, 4].map(|i| value(a, EVENT_GET_INFO, &[SHARED, i])), [1, 1, 0, 1, mb]);
    assert_eq!(value(a, EVENT_ROUTING_SET, &[SHARED, 2]), INVALID_PARAMETERS);
    assert_eq!(value(a, EVENT_ROUTING_SET, &[SHARED, 1, 0x77]), INVALID_PARAMETERS);
    assert_eq!(value(a, EVENT_ENABLE, &[SHARED]), SUCCESS);
    assert_eq!(value(a, EVENT_ROUTING_SET, &[SHARED, 0]), DENIED, "enabled");
    value(a, PE_UNMASK, &[]);
    line(true);
    assert_eq!(call(a, VERSION, &[]), Returned(1 << 48 | 1 << 32 | 0x564b_caa9), "not its");
    assert_eq!(call(b, PE_UNMASK, &[]), Entered(SHARED));
    assert_eq!(words(a, Reg::Shared(0))[6], mb);
    assert_eq!(value(a, SHARED_RESET, &[]), DENIED);
    assert_eq!(value(a, EVENT_STATUS, &[SHARED]), 4);
    line(false);
    assert_eq!(call(b, EVENT_COMPLETE, &[]), Returned(0));
    // Any: the lowest that can, which is no longer `a` once it is masked.
    assert_eq!(value(a, EVENT_REGISTER, &[SHARED, ENTRY, 0, 0, 0x77]), SUCCESS);
    assert_eq!(value(a, EVENT_GET_INFO, &[SHARED, 4]), INVALID_PARAMETERS);
    assert_eq!(value(a, EVENT_ENABLE, &[SHARED]), SUCCESS);
    line(true);
    assert_eq!(call(b, EVENT_STATUS, &[SHARED]), Returned(3), "a comes first");
    assert_eq!(call(a, EVENT_STATUS, &[SHARED]), Entered(SHARED));
    line(false);
    assert_eq!(call(a, EVENT_COMPLETE, &[]), Returned(3));
    assert_eq!(value(a, PE_MASK, &[]), 1);
    line(true);
    assert_eq!(call(a, EVENT_STATUS, &[SHARED]), Returned(3));
    assert_eq!(call(b, EVENT_STATUS, &[SHARED]), Entered(SHARED));
    // A reset of the PE that runs it ends that.
    b.init(&features(PSCI)).expect("init");
    assert_eq!(value(a, EVENT_STATUS, &[SHARED]), 3);
    assert_eq!(ma, 0);
}

#[test]
fn what_the_guest_left_is_gone_after_a_system_reset() {
    let (_g, mut v, _gic) = bindable(1);
    let v = &mut v[0];
    assert_eq!(value(v, INTERRUPT_BIND, &[40]), SHARED);
    ready(v, SHARED);
    ready(v, EVENT);
    start(v, 0, &[]);
    set(v, RegId::x(0), 0x8400_0009);
    assert!(matches!(v.run(), Ok(Run::SystemEvent(..))));
    v.set_mp_state(mp_state::RUNNABLE).expect("state");
    v.init(&features(PSCI)).expect("init");
    assert_eq!([EVENT, SHARED].map(|e| value(v, EVENT_STATUS, &[e])), [0, 0]);
    assert_eq!(value(v, INTERRUPT_RELEASE, &[SHARED]), INVALID_PARAMETERS);
    assert_eq!(value(v, PE_MASK, &[]), 0);
}
