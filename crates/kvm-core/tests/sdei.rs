//! The scenarios of SDEI (seed-systems.md §3.10), played by vCPUs whose guest is a call and a handler.

mod common;

use std::time::Duration;

use common::*;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::device::{GRP_ADDR, GRP_CTRL};
use ulna_kvm_abi::{Errno, GuestDebug, RegId, cap, guest_debug, mp_state};
use ulna_kvm_core::firmware::sdei::{self, Reg, function::*, status::*};
use ulna_kvm_core::{ClockKind, Engine, Run, Vcpu};

/// Where a handler tells that it was entered.
const ENTERED: u64 = DONE + 8;
/// Offsets into RAM: the call, the handler, what COMPLETE_AND_RESUME goes to, a loop.
const CALL: u64 = 0;
const HANDLER: u64 = 0x1000;
const RESUME: u64 = 0x2000;
const LOOP: u64 = 0x3000;
const ENTRY: u64 = RAM + HANDLER;

/// The registers of the service by their ids.
fn id(r: Reg) -> RegId {
    r.id()
}

fn guest_with(profile: &str) -> Guest {
    let g = Guest::new(profile, ClockKind::Host);
    g.vm.enable_cap(sdei::CAP, 0, [0; 4]).expect("SDEI");
    fill(&g);
    g
}

fn fill(g: &Guest) {
    let call = [&[HVC][..], &li(18, DONE), &[str_x(0, 18), B_SELF]].concat();
    g.memory.program(CALL as usize, &call);
    // x18 is nobody's here; a handler must not touch it before it was seen.
    let handler = [&li(19, ENTERED)[..], &[str_x(0, 19), B_SELF]].concat();
    g.memory.program(HANDLER as usize, &handler);
    let eret = 0xd69f_03e0;
    g.memory.program(RESUME as usize, &[NOP, eret]);
    // msr daifset, 15; b .
    g.memory.program(LOOP as usize, &[0xd503_4fdf, B_SELF]);
}

/// A VM with SDEI and one vCPU.
fn guest() -> (Guest, Vcpu) {
    let g = guest_with("n1");
    let v = g.vcpu(0, PSCI);
    (g, v)
}

/// What the guest does next that can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// A call returned.
    Returned(u64),
    /// A handler was entered for this event.
    Entered(u64),
    Kicked,
}
use Seen::*;

fn go(v: &mut Vcpu) -> Seen {
    let seen = match v.run().expect("run") {
        Run::MmioWrite(DONE, d) => Returned(u64::from_le_bytes(d.try_into().expect("8 bytes"))),
        Run::MmioWrite(ENTERED, d) => Entered(u64::from_le_bytes(d.try_into().expect("8 bytes"))),
        Run::Intr => Kicked,
        other => panic!("{other:x?}"),
    };
    complete(v);
    seen
}

/// The same, but a guest that hangs makes the test fail.
fn go_soon(v: &mut Vcpu) -> Seen {
    let _kicks = Watchdog::new(Duration::from_millis(50), v.kicker());
    (0..200).map(|_| go(v)).find(|s| *s != Kicked).unwrap_or(Kicked)
}

/// The store that left KVM_RUN is over: PC may be set.
fn complete(v: &mut Vcpu) {
    v.set_immediate_exit(true);
    assert!(matches!(v.run(), Ok(Run::Intr)));
    v.set_immediate_exit(false);
}

/// Has the guest call function `n`.
fn start(v: &mut Vcpu, n: u32, args: &[u64]) {
    set(v, RegId::x(0), u64::from(sdei::FIRST + n));
    for (i, a) in (1..).zip(args.iter().chain([0; 5].iter()).take(5)) {
        set(v, RegId::x(i), *a);
    }
    set(v, RegId::PC, RAM + CALL);
}

fn call(v: &mut Vcpu, n: u32, args: &[u64]) -> Seen {
    start(v, n, args);
    // A late kick of an earlier watchdog is nothing to this call.
    (0..3).map(|_| go(v)).find(|s| *s != Kicked).unwrap_or(Kicked)
}

/// A call that returns.
fn value(v: &mut Vcpu, n: u32, args: &[u64]) -> u64 {
    match call(v, n, args) {
        Returned(x) => x,
        other => panic!("{n:#x}{args:x?}: {other:x?}"),
    }
}

fn mpidr(v: &mut Vcpu) -> u64 {
    get(v, RegId::sysreg(SysReg::MPIDR_EL1.code())) & 0xff_00ff_ffff
}

const EVENT: u64 = 0;
const NMI: u64 = sdei::HOST_NMI as u64;

/// Registered, enabled, unmasked.
fn ready(v: &mut Vcpu, event: u64) {
    assert_eq!(value(v, EVENT_REGISTER, &[event, ENTRY, 0xa5a5]), SUCCESS);
    assert_eq!(value(v, EVENT_ENABLE, &[event]), SUCCESS);
    value(v, PE_UNMASK, &[]);
}

fn signal(v: &mut Vcpu) -> Seen {
    let to = mpidr(v);
    call(v, EVENT_SIGNAL, &[EVENT, to])
}

fn words(v: &mut Vcpu, r: Reg) -> Vec<u64> {
    let id = id(r);
    let mut b = vec![0; id.size()];
    v.get_one_reg(id, &mut b).expect("register");
    b.chunks(8).map(|w| u64::from_le_bytes(w.try_into().expect("word"))).collect()
}

fn put(v: &mut Vcpu, r: Reg, w: &[u64]) -> Result<(), Errno> {
    let b: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
    v.set_one_reg(id(r), &b)
}

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

fn none() -> [u64; 32] {
    let mut w = [0; 32];
    w[20] = 0xffff_ffff;
    w
}

/// All that a VMM can read of a vCPU.
fn saved(v: &mut Vcpu) -> Vec<(RegId, Vec<u8>)> {
    let list = v.reg_list().expect("list");
    let read = |v: &mut Vcpu, id: RegId| {
        let mut b = vec![0; id.size()];
        v.get_one_reg(id, &mut b).map(|()| (id, b))
    };
    list.into_iter().map(|id| read(v, id).expect("register")).collect()
}

/// The same machine somewhere else.
fn moved(g: &Guest, v: &mut Vcpu) -> (Guest, Vcpu) {
    let to = guest_with("n1");
    for at in (0..0x4000).step_by(4) {
        to.memory.write32(at, g.memory.read32(at));
    }
    let mut w = to.vcpu(0, PSCI);
    let mut regs = saved(v);
    // Any order will do; this one has contexts before events before VERSION.
    regs.reverse();
    for (id, b) in regs {
        w.set_one_reg(id, &b).unwrap_or_else(|e| panic!("{:x}: {e:?}", id.0));
    }
    w.set_mp_state(v.mp_state()).expect("state");
    (to, w)
}

/// Executes one instruction; an access by the VMM is noted and is one, too.
fn step(v: &mut Vcpu, trace: &mut Vec<(u64, u64)>) -> bool {
    let debug =
        GuestDebug { control: guest_debug::ENABLE | guest_debug::SINGLESTEP, ..GuestDebug::default() };
    v.set_guest_debug(&debug).expect("debug");
    match v.run().expect("run") {
        Run::Debug(..) => true,
        Run::MmioWrite(at, d) => {
            trace.push((at, u64::from_le_bytes(d.try_into().expect("8 bytes"))));
            complete(v);
            at != DONE
        }
        other => panic!("{other:x?}"),
    }
}

/// A guest that signals itself and whose handler asks for its context, with a move before every `every`th instruction.
fn trace(every: Option<usize>) -> Vec<(u64, u64)> {
    let (mut g, mut v) = guest();
    let f = |n: u32| li(0, u64::from(sdei::FIRST + n));
    let me = mpidr(&mut v);
    let tell = |t: u32| [&li(19, ENTERED)[..], &[str_x(t, 19)]].concat();
    let main = [
        &f(EVENT_REGISTER)[..],
        &li(1, EVENT),
        &li(2, ENTRY),
        &li(3, 0x99),
        &li(4, 0),
        &[HVC],
        &f(EVENT_ENABLE),
        &li(1, EVENT),
        &[HVC],
        &f(PE_UNMASK),
        &[HVC],
        &li(7, 0x7777),
        &li(17, 0x1717),
        &f(EVENT_SIGNAL),
        &li(1, EVENT),
        &li(2, me),
        &[HVC],
        &tell(7),
        &tell(17),
        &tell(0),
        &li(18, DONE),
        &[str_x(0, 18)],
    ]
    .concat();
    let handler = [
        &tell(0)[..],
        &tell(1),
        &tell(2),
        &tell(3),
        &f(EVENT_CONTEXT),
        &li(1, 7),
        &[HVC],
        &tell(0),
        // Another signal while it runs, the first time: x20 knows.
        &f(EVENT_SIGNAL),
        &li(1, EVENT),
        &li(2, me),
        &[cbz(20, 2), b(2), HVC],
        &li(20, 1),
        &f(EVENT_STATUS),
        &li(1, EVENT),
        &[HVC],
        &tell(0),
        &f(EVENT_COMPLETE),
        &li(17, 1),
        &[HVC],
    ]
    .concat();
    g.memory.program(CALL as usize, &main);
    g.memory.program(HANDLER as usize, &handler);
    let mut trace = Vec::new();
    for n in 0..400 {
        if every.is_some_and(|e| n % e == e - 1) {
            (g, v) = moved(&g, &mut v);
        }
        if !step(&mut v, &mut trace) {
            return trace;
        }
    }
    panic!("it does not end: {trace:x?}")
}

#[test]
fn e7_moved_between_any_two_instructions_of_a_handler_the_guest_sees_the_same() {
    let whole = trace(None);
    assert!(whole.len() >= 9, "{whole:x?}");
    assert_eq!(trace(Some(1)), whole);
    assert_eq!(trace(Some(3)), whole);
}

#[test]
fn e8_the_version_is_the_vms() {
    let (_g, mut v) = guest();
    put(&mut v, Reg::Version, &[sdei::VERSION_1_0]).expect("1.0");
    assert_eq!(put(&mut v, Reg::Version, &[0x1_0002]), Err(Errno::EINVAL), "newer than this host");
    assert_eq!(put(&mut v, Reg::Version, &[0x2_0000]), Err(Errno::EINVAL));
    assert_eq!(value(&mut v, VERSION, &[]), 1 << 48 | 0x564b_caa9);
    assert_eq!(value(&mut v, FEATURES, &[1]), INVALID_PARAMETERS);
    put(&mut v, Reg::Version, &[sdei::VERSION_1_0]).expect("the same");
    assert_eq!(put(&mut v, Reg::Version, &[sdei::VERSION_1_1]), Err(Errno::EBUSY));
    assert_eq!(put(&mut v, Reg::Version, &[7]), Err(Errno::EINVAL));
    assert_eq!(put(&mut v, Reg::Features, &[0]), Err(Errno::EBUSY));
    assert_eq!(put(&mut v, Reg::Features, &[17]), Err(Errno::EINVAL));
    // Restored elsewhere it stays 1.0.
    let (g2, mut w) = guest();
    for r in [Reg::Version, Reg::Features] {
        let value = words(&mut v, r);
        put(&mut w, r, &value).expect("restored");
    }
    assert_eq!(value(&mut w, VERSION, &[]), 1 << 48 | 0x564b_caa9);
    drop(g2);
    // 0: there is no service.
    let (_g, mut v) = guest();
    put(&mut v, Reg::Version, &[0]).expect("none");
    for n in 0..0x20 {
        assert_eq!(value(&mut v, n, &[]), NOT_SUPPORTED);
    }
}

#[test]
fn e9_without_the_capability_nothing_shows() {
    let g = Guest::new("n1", ClockKind::Host);
    fill(&g);
    let mut v = g.vcpu(0, PSCI);
    assert_eq!(g.vm.enable_cap(sdei::CAP, 0, [0; 4]), Err(Errno::EBUSY));
    let plain = v.reg_list().expect("list");
    assert!(plain.iter().all(|r| r.0 >> 16 & 0xfff != 0x5de));
    for r in [Reg::Version, Reg::Features, Reg::Pe, Reg::Event(0), Reg::Shared(0), Reg::Context(0)] {
        let mut b = vec![0; id(r).size()];
        assert_eq!(v.get_one_reg(id(r), &mut b), Err(Errno::ENOENT));
        assert_eq!(v.set_one_reg(id(r), &b), Err(Errno::ENOENT));
    }
    for n in 0..0x20 {
        assert_eq!(value(&mut v, n, &[]), NOT_SUPPORTED);
    }
    assert_eq!(g.vm.nmi(0), Err(Errno::EINVAL));
    // With it: the same, and then its own.
    let (_g, mut v) = guest();
    let list = v.reg_list().expect("list");
    assert_eq!(list[..plain.len()], plain);
    let own: Vec<u64> = list[plain.len()..].iter().map(|r| r.0).collect();
    let expected = [
        0x6030_0000_05de_0000,
        0x6030_0000_05de_0001,
        0x6030_0000_05de_0002,
        0x6060_0000_05de_0100,
        0x6060_0000_05de_0101,
        0x6080_0000_05de_0010,
    ];
    assert_eq!(own, expected);
}

#[test]
fn version_and_features_are_registers_of_the_vm() {
    let (g, mut v) = guest();
    let ids = [Reg::Version, Reg::Features].map(id);
    let map = g.vm.reg_map().expect("map");
    assert!(ids.iter().all(|id| map.contains(id)));
    assert_eq!(g.vm.get_vm_reg(ids[0].0), Ok(sdei::VERSION_1_1));
    g.vm.set_vm_reg(ids[0].0, sdei::VERSION_1_0).expect("version");
    assert_eq!(words(&mut v, Reg::Version), [sdei::VERSION_1_0]);
    assert_eq!(g.vm.set_vm_reg(ids[1].0, 17), Err(Errno::EINVAL));
    // The list of masks tells the most that there can be; no more is taken.
    let entry = |g: &Guest| g.vm.mask_list().into_iter().find(|e| e.id == ids[1].0);
    let most = entry(&g).expect("entry");
    assert_eq!(most.mask, 0x7_ffff);
    g.vm.set_vm_reg(ids[1].0, most.limit).expect("the most");
    for more in [most.limit + 1, most.limit + 0x100, most.limit | 1 << 19] {
        assert_eq!(g.vm.set_vm_reg(ids[1].0, more), Err(Errno::EINVAL), "{more:#x}");
    }
    assert_eq!(entry(&Guest::new("n1", ClockKind::Host)), None);
}

#[test]
fn a_strict_kvm_knows_nothing_of_it() {
    let kvm = kvm("n1", ClockKind::Host);
    assert_eq!(kvm.check_extension(sdei::CAP), Ok(0x1_0001));
    assert_eq!(kvm.check_extension(cap::USER_NMI), Ok(1));
    let kvm = kvm_of((6, 12), true);
    let vm = kvm.create_vm(0).expect("VM");
    for n in [sdei::CAP, cap::USER_NMI] {
        assert_eq!(kvm.check_extension(n), Ok(0));
        assert_eq!(vm.check_extension(n), Ok(0));
    }
    assert_eq!(vm.enable_cap(sdei::CAP, 0, [0; 4]), Err(Errno::EINVAL));
    let v = vm.create_vcpu(0).expect("vCPU");
    assert_eq!(v.nmi(), Err(Errno::EINVAL));
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

#[test]
fn e11_no_write_of_registers_is_half_done_and_nothing_absurd_runs() {
    let g = guest_with("n1");
    let mut v = g.vcpu(0, PSCI);
    put(&mut v, Reg::Features, &[0x7_0202]).expect("features");
    g.gic();
    let mut rng = Rng(11);
    let all = v.reg_list().expect("list");
    let own: Vec<RegId> = all.into_iter().filter(|r| r.0 >> 16 & 0xfff == 0x5de).collect();
    assert_eq!(own.len(), 3 + 2 + 2 + 2 + 2);
    let (mut refused, mut taken, mut ran, mut stopped) = (0, 0, 0, 0);
    for _ in 0..3000 {
        let id = own[rng.below(own.len() as u64) as usize];
        let mut b = vec![0; id.size()];
        v.get_one_reg(id, &mut b).expect("get");
        // Change a few bits or words, often in a way that means something.
        for _ in 0..1 + rng.below(3) {
            let w = rng.below(b.len() as u64 / 8) as usize * 8;
            let interesting = [0, 1, 2, ENTRY, 27, 40, 0xffff_ffff, 0, RAM + LOOP, 5, u64::MAX, rng.next()];
            let old = u64::from_le_bytes(b[w..w + 8].try_into().expect("word"));
            let new = match rng.below(3) {
                0 => old ^ 1 << rng.below(64),
                1 if w == 0 && b.len() == 64 => old ^ (1 + rng.below(15)) << 32,
                _ => interesting[rng.below(interesting.len() as u64) as usize],
            };
            b[w..w + 8].copy_from_slice(&new.to_le_bytes());
        }
        let before = saved(&mut v);
        match v.set_one_reg(id, &b) {
            Err(e) if [Errno::EINVAL, Errno::EBUSY].contains(&e) => {
                refused += 1;
                for (a, b) in saved(&mut v).iter().zip(&before).filter(|(a, _)| own.contains(&a.0)) {
                    assert_eq!(a, b);
                }
            }
            Ok(()) => {
                taken += 1;
                let mut read = vec![0; id.size()];
                v.get_one_reg(id, &mut read).unwrap_or_else(|e| panic!("{:x}: {e:?}", id.0));
                assert_eq!(read, b, "{:x}", id.0);
            }
            other => panic!("{other:?}"),
        }
        set(&mut v, RegId::PC, RAM + CALL);
        set(&mut v, RegId::x(0), u64::from(sdei::FIRST));
        let before = saved(&mut v);
        v.set_immediate_exit(true);
        match v.run() {
            Err(e) if e == Errno::EINVAL => {
                stopped += 1;
                let after = saved(&mut v);
                // Time goes on.
                let still = |id: RegId| !(0xdf00..0xdf20).contains(&id.index());
                for (a, b) in after.iter().zip(&before).filter(|(a, _)| still(a.0)) {
                    assert_eq!(a, b);
                }
            }
            Ok(Run::Intr) => ran += 1,
            other => panic!("{other:?}"),
        }
        v.set_immediate_exit(false);
        if rng.below(8) == 0 {
            v.init(&features(PSCI)).expect("init");
        }
    }
    assert!(refused > 100 && taken > 100 && ran > 100 && stopped > 20, "{refused} {taken} {ran} {stopped}");
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
    let _ = (GRP_ADDR, GRP_CTRL);
}
