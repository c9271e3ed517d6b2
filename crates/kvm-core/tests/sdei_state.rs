//! The scenarios of SDEI (seed-systems.md §3.10) as a VMM sees them: registers, moves, versions, capabilities. What the guest
//! sees is in `sdei.rs`.

mod common;

use common::events::*;
use common::*;
use ulna_kvm_abi::{Errno, GuestDebug, RegId, cap, guest_debug};
use ulna_kvm_core::firmware::sdei::{self, Reg, function::*, status::*};
use ulna_kvm_core::{ClockKind, Run, Vcpu};

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
