//! A guest whose program is a call and a handler: what the scenarios of SDEI are played with.

use std::time::Duration;

use super::*;
use ulna_kvm_abi::Errno;
use ulna_kvm_core::firmware::sdei::{self, Reg, function::*, status::*};

/// Where a handler tells that it was entered.
pub const ENTERED: u64 = DONE + 8;
/// Offsets into RAM: the call, the handler, what COMPLETE_AND_RESUME goes to, a loop.
pub const CALL: u64 = 0;
pub const HANDLER: u64 = 0x1000;
pub const RESUME: u64 = 0x2000;
pub const LOOP: u64 = 0x3000;
pub const ENTRY: u64 = RAM + HANDLER;

/// The registers of the service by their ids.
pub fn id(r: Reg) -> RegId {
    r.id()
}

pub fn guest_with(profile: &str) -> Guest {
    let g = Guest::new(profile, ClockKind::Host);
    g.vm.enable_cap(sdei::CAP, 0, [0; 4]).expect("SDEI");
    fill(&g);
    g
}

pub fn fill(g: &Guest) {
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
pub fn guest() -> (Guest, Vcpu) {
    let g = guest_with("n1");
    let v = g.vcpu(0, PSCI);
    (g, v)
}

/// What the guest does next that can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A call returned.
    Returned(u64),
    /// A handler was entered for this event.
    Entered(u64),
    Kicked,
}
pub use Seen::*;

pub fn go(v: &mut Vcpu) -> Seen {
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
pub fn go_soon(v: &mut Vcpu) -> Seen {
    let _kicks = Watchdog::new(Duration::from_millis(50), v.kicker());
    (0..200).map(|_| go(v)).find(|s| *s != Kicked).unwrap_or(Kicked)
}

/// The store that left KVM_RUN is over: PC may be set.
pub fn complete(v: &mut Vcpu) {
    v.set_immediate_exit(true);
    assert!(matches!(v.run(), Ok(Run::Intr)));
    v.set_immediate_exit(false);
}

/// Has the guest call function `n`.
pub fn start(v: &mut Vcpu, n: u32, args: &[u64]) {
    set(v, RegId::x(0), u64::from(sdei::FIRST + n));
    for (i, a) in (1..).zip(args.iter().chain([0; 5].iter()).take(5)) {
        set(v, RegId::x(i), *a);
    }
    set(v, RegId::PC, RAM + CALL);
}

pub fn call(v: &mut Vcpu, n: u32, args: &[u64]) -> Seen {
    start(v, n, args);
    // A late kick of an earlier watchdog is nothing to this call.
    (0..3).map(|_| go(v)).find(|s| *s != Kicked).unwrap_or(Kicked)
}

/// A call that returns.
pub fn value(v: &mut Vcpu, n: u32, args: &[u64]) -> u64 {
    match call(v, n, args) {
        Returned(x) => x,
        other => panic!("{n:#x}{args:x?}: {other:x?}"),
    }
}

pub fn mpidr(v: &mut Vcpu) -> u64 {
    get(v, RegId::sysreg(SysReg::MPIDR_EL1.code())) & 0xff_00ff_ffff
}

pub const EVENT: u64 = 0;
pub const NMI: u64 = sdei::HOST_NMI as u64;

/// Registered, enabled, unmasked.
pub fn ready(v: &mut Vcpu, event: u64) {
    assert_eq!(value(v, EVENT_REGISTER, &[event, ENTRY, 0xa5a5]), SUCCESS);
    assert_eq!(value(v, EVENT_ENABLE, &[event]), SUCCESS);
    value(v, PE_UNMASK, &[]);
}

pub fn signal(v: &mut Vcpu) -> Seen {
    let to = mpidr(v);
    call(v, EVENT_SIGNAL, &[EVENT, to])
}

pub fn words(v: &mut Vcpu, r: Reg) -> Vec<u64> {
    let id = id(r);
    let mut b = vec![0; id.size()];
    v.get_one_reg(id, &mut b).expect("register");
    b.chunks(8).map(|w| u64::from_le_bytes(w.try_into().expect("word"))).collect()
}

pub fn put(v: &mut Vcpu, r: Reg, w: &[u64]) -> Result<(), Errno> {
    let b: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
    v.set_one_reg(id(r), &b)
}
pub fn none() -> [u64; 32] {
    let mut w = [0; 32];
    w[20] = 0xffff_ffff;
    w
}

/// All that a VMM can read of a vCPU.
pub fn saved(v: &mut Vcpu) -> Vec<(RegId, Vec<u8>)> {
    let list = v.reg_list().expect("list");
    let read = |v: &mut Vcpu, id: RegId| {
        let mut b = vec![0; id.size()];
        v.get_one_reg(id, &mut b).map(|()| (id, b))
    };
    list.into_iter().map(|id| read(v, id).expect("register")).collect()
}
