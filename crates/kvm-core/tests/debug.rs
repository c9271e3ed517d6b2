//! Debugging a guest from outside and by itself, and events injected by the VMM: the stories of the kernel's selftest
//! `aarch64/debug-exceptions`, and the answers that the recordings hold.

mod common;

use common::*;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::guest_debug::{ENABLE, SINGLESTEP, USE_HW, USE_SW_BP};
use ulna_kvm_abi::{Errno, GuestDebug, RegId, VcpuEvents, cap};
use ulna_kvm_core::{ClockKind, Engine, Run, Vcpu};

const BREAKPOINT: u32 = 0x30;
const STEP: u32 = 0x32;
const WATCHPOINT: u32 = 0x34;
const BRK: u32 = 0x3c;

/// DBGBCR: on, any byte, EL1 and EL0.
const BCR: u64 = 0xf << 5 | 3 << 1 | 1;
/// DBGWCR: on, 8 bytes, loads and stores, EL1 and EL0.
const WCR: u64 = 0xff << 5 | 3 << 3 | 3 << 1 | 1;
const MDE: u64 = 1 << 15;
const KDE: u64 = 1 << 13;
const VECTORS: u64 = RAM + 0x1_0000;
/// The vector of synchronous exceptions from EL1 with its own stack pointer.
const SYNC: u64 = VECTORS + 0x200;

const SVC: u32 = 0xd400_0001;
const ERET: u32 = 0xd69f_03e0;
/// msr daifclr, #8
const UNMASK_DEBUG: u32 = 0xd503_48ff;

fn brk(imm: u32) -> u32 {
    0xd420_0000 | imm << 5
}

fn debug(v: &mut Vcpu, control: u32) {
    v.set_guest_debug(&GuestDebug { control, ..GuestDebug::default() }).expect("guest debug");
}

/// Runs to a debug exit: class, rest of the syndrome, address.
fn stopped(v: &mut Vcpu) -> (u32, u32, u64) {
    match v.run().expect("run") {
        Run::Debug(esr, far) => {
            assert_eq!(esr >> 25 & 1, 1, "IL: {esr:#x}");
            (esr >> 26, esr & 0x1ff_ffff, far)
        }
        e => panic!("{e:x?}"),
    }
}

fn pc(v: &mut Vcpu) -> u64 {
    get(v, RegId::PC)
}

/// One step; where it led.
fn step(v: &mut Vcpu) -> u64 {
    let (class, iss, far) = stopped(v);
    assert_eq!((class, iss & 0x3f, far), (STEP, 0x22, 0));
    pc(v)
}

#[test]
fn control_bits_are_those_of_the_recordings() {
    let g = Guest::new("n1", ClockKind::Host);
    let mut v = g.vm.create_vcpu(0).expect("vCPU");
    for bit in 0..32 {
        for enable in [0, ENABLE] {
            let d = GuestDebug { control: 1 << bit | enable, ..GuestDebug::default() };
            let ok = matches!(bit, 0 | 1 | 16 | 17);
            assert_eq!(v.set_guest_debug(&d), if ok { Ok(()) } else { Err(Errno::EINVAL) }, "bit {bit}");
        }
    }
    let caps = [(cap::SET_GUEST_DEBUG, 1), (cap::SET_GUEST_DEBUG2, 0x30003), (cap::VCPU_EVENTS, 1)];
    for (n, want) in caps {
        assert_eq!(g.vm.check_extension(n), Ok(want), "{n}");
    }
}

#[test]
fn a_software_breakpoint_stops_at_the_instruction() {
    let (g, mut v) = Guest::with(&[&li(0, 7)[..], &[NOP], &done(0)].concat());
    let at = 4 * 4;
    // Decoded before it is patched: the patch must be seen.
    v.set_immediate_exit(true);
    assert!(matches!(v.run(), Ok(Run::Intr)));
    v.set_immediate_exit(false);
    assert_eq!(result(&mut v), 7);
    v.set_immediate_exit(true);
    assert!(matches!(v.run(), Ok(Run::Intr)));
    v.set_immediate_exit(false);
    set(&mut v, RegId::PC, RAM);
    g.memory.write32(at, brk(0x123));
    debug(&mut v, ENABLE | USE_SW_BP);
    for _ in 0..2 {
        assert_eq!(stopped(&mut v), (BRK, 0x123, 0));
        assert_eq!(pc(&mut v), RAM + at as u64);
    }
    g.memory.write32(at, NOP);
    debug(&mut v, 0);
    assert_eq!(result(&mut v), 7);
}

#[test]
fn code_that_runs_hot_is_patched_under_either_engine() {
    // x1 counts in a loop that a kick leaves.
    for engine in [Engine::Interp, Engine::Jit] {
        let (g, mut v) = Guest::on(engine, &[0x9100_0421, NOP, NOP, b(-3)]); // add x1, x1, #1
        let hot = |v: &mut Vcpu| {
            let kick = v.kicker();
            let t = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(30));
                kick();
            });
            assert!(matches!(v.run(), Ok(Run::Intr)), "{engine:?}");
            t.join().expect("kick");
            get(v, RegId::x(1))
        };
        let mut count = hot(&mut v);
        assert!(count > 1000, "{engine:?}");
        for at in [4, 8, 4] {
            g.memory.write32(at, brk(at as u32));
            debug(&mut v, ENABLE | USE_SW_BP);
            assert_eq!(stopped(&mut v), (BRK, at as u32, 0), "{engine:?}");
            assert_eq!(pc(&mut v), RAM + at as u64);
            // Step over it as GDB does.
            g.memory.write32(at, NOP);
            debug(&mut v, ENABLE | USE_SW_BP | SINGLESTEP);
            assert_eq!(step(&mut v), RAM + at as u64 + 4);
            // A breakpoint in hardware, then none.
            let mut d = GuestDebug { control: ENABLE | USE_HW, ..GuestDebug::default() };
            (d.dbg_bvr[5], d.dbg_bcr[5]) = (RAM + 4, BCR);
            v.set_guest_debug(&d).expect("guest debug");
            assert_eq!(stopped(&mut v), (BREAKPOINT, 0x22, 0), "{engine:?}");
            debug(&mut v, 0);
            let now = hot(&mut v);
            assert!(now > count, "{engine:?}");
            count = now;
        }
    }
}

#[test]
fn breakpoints_of_the_vmm_hide_those_of_the_guest() {
    let own = 0x1234_5670;
    let program = [
        wr(SysReg::DBGBVR0_EL1, own),
        wr(SysReg::DBGBCR0_EL1, 0),
        vec![NOP, NOP],
        vec![mrs(1, SysReg::DBGBVR0_EL1), mrs(2, SysReg::MDSCR_EL1)],
        done(1),
    ]
    .concat();
    let (_g, mut v) = Guest::with(&program);
    let mut d = GuestDebug { control: ENABLE | USE_HW, ..GuestDebug::default() };
    (d.dbg_bvr[0], d.dbg_bcr[0]) = (RAM + 4 * 10, BCR);
    (d.dbg_bvr[3], d.dbg_bcr[3]) = (RAM + 4 * 11, BCR);
    (d.dbg_bvr[2], d.dbg_bcr[2]) = (RAM, BCR & !1);
    v.set_guest_debug(&d).expect("guest debug");
    for n in [10, 11] {
        assert_eq!(stopped(&mut v), (BREAKPOINT, 0x22, 0));
        assert_eq!(pc(&mut v), RAM + 4 * n);
        d.dbg_bcr[if n == 10 { 0 } else { 3 }] = 0;
        v.set_guest_debug(&d).expect("guest debug");
    }
    assert_eq!(result(&mut v), own);
    assert_eq!(get(&mut v, RegId::x(2)), 0, "MDSCR_EL1 is the guest's own");
    assert_eq!(get(&mut v, RegId::sysreg(SysReg::DBGBVR0_EL1.code())), own);
}

#[test]
fn watchpoints_of_the_vmm_tell_address_and_direction() {
    let data = RAM + 0x8000;
    let program = [
        &li(1, data)[..],
        &[str_w(1, 1)],    // 4: watched
        &[0x3940_1c22],    // 5: ldrb w2, [x1, #7]: watched
        &[0xf940_0422],    // 6: ldr x2, [x1, #8]: not
        &[0xa97f_8c22u32], // 7: ldp x2, x3, [x1, #-8]: the second
        &done(31),
    ]
    .concat();
    let (_g, mut v) = Guest::with(&program);
    let mut d = GuestDebug { control: ENABLE | USE_HW, ..GuestDebug::default() };
    (d.dbg_wvr[1], d.dbg_wcr[1]) = (data, WCR);
    for (n, wnr, far) in [(4, 1 << 6, data), (5, 0, data + 7), (7, 0, data)] {
        v.set_guest_debug(&d).expect("guest debug");
        assert_eq!(stopped(&mut v), (WATCHPOINT, 0x22 | wnr, far), "{n}");
        assert_eq!(pc(&mut v), RAM + 4 * n);
        debug(&mut v, ENABLE | SINGLESTEP);
        assert_eq!(step(&mut v), RAM + 4 * (n + 1));
    }
    debug(&mut v, 0);
    assert_eq!(result(&mut v), 0);
}

#[test]
fn a_step_is_one_instruction_whatever_it_is() {
    let program = [
        &wr(SysReg::VBAR_EL1, VECTORS)[..], // 0 to 4
        &[NOP, b(1)],                       // 5, 6
        &li(0, 0x8400_0000),                // 7
        &[HVC],                             // 11: PSCI_VERSION, in the kernel
        &li(1, DONE),                       // 12
        &[str_x(0, 1), ldr_x(3, 1)],        // 16, 17: in the VMM
        &[SVC],                             // 18
        &[mrs(4, SysReg::CNTP_TVAL_EL0)],   // 19: trapped
        &[WFI],                             // 20
        &[NOP],
    ]
    .concat();
    let (g, mut v) = Guest::with(&program);
    g.memory.program((SYNC - RAM) as usize, &[NOP, ERET]);
    debug(&mut v, ENABLE | SINGLESTEP);
    let at = |n: u64| RAM + 4 * n;
    for n in 1..=16 {
        assert_eq!(step(&mut v), at(n));
    }
    assert_eq!(get(&mut v, RegId::x(0)), 0x10001);
    // The VMM's part comes first, the step is over when it is completed.
    assert!(matches!(v.run(), Ok(Run::MmioWrite(DONE, _))));
    assert_eq!(pc(&mut v), at(16));
    assert_eq!(step(&mut v), at(17));
    match v.run().expect("run") {
        Run::MmioRead(DONE, d) => d.copy_from_slice(&5u64.to_le_bytes()),
        e => panic!("{e:?}"),
    }
    // A run that only completes the access keeps the step pending.
    v.set_immediate_exit(true);
    assert!(matches!(v.run(), Ok(Run::Intr)));
    v.set_immediate_exit(false);
    assert_eq!((pc(&mut v), get(&mut v, RegId::x(3))), (at(18), 5));
    assert_eq!(step(&mut v), at(18));
    // Into the handler, through it and back.
    assert_eq!(step(&mut v), SYNC);
    assert_eq!(get(&mut v, RegId::PSTATE) & 1 << 21, 0, "PSTATE.SS is the guest's");
    assert_eq!(step(&mut v), SYNC + 4);
    assert_eq!(step(&mut v), at(19));
    assert_eq!(step(&mut v), at(20));
    g.vm.irq_line(0, true).expect("line");
    assert_eq!(step(&mut v), at(21), "an interrupt that is masked ends the wait");
    debug(&mut v, 0);
    assert_eq!(get(&mut v, RegId::PSTATE), 0x3c5);
}

#[test]
fn an_interrupt_during_a_step_leads_to_its_vector() {
    let (g, mut v) = Guest::with(&[NOP, NOP, NOP]);
    set(&mut v, RegId::sysreg(SysReg::VBAR_EL1.code()), VECTORS);
    set(&mut v, RegId::PSTATE, 0x5);
    debug(&mut v, ENABLE | SINGLESTEP);
    assert_eq!(step(&mut v), RAM + 4);
    g.vm.irq_line(0, true).expect("line");
    assert_eq!(step(&mut v), VECTORS + 0x280);
    assert_eq!(get(&mut v, RegId::ELR_EL1), RAM + 4);
}

/// A guest whose handler stores ESR, ELR and FAR, and goes on behind the instruction.
fn self_debugger(before: &[Vec<u32>], body: &[u32]) -> (Guest, Vcpu, u64) {
    let head = [&[wr(SysReg::VBAR_EL1, VECTORS), wr(SysReg::OSLAR_EL1, 0)], before].concat().concat();
    let start = RAM + 4 * head.len() as u64;
    let (g, v) = Guest::with(&[&head[..], body].concat());
    let handler = [
        vec![mrs(0, SysReg::ESR_EL1), mrs(1, SysReg::ELR_EL1), mrs(2, SysReg::FAR_EL1)],
        done(0),
        vec![0x9100_1021, msr(SysReg::ELR_EL1, 1), ERET], // add x1, x1, #4
    ]
    .concat();
    g.memory.program((SYNC - RAM) as usize, &handler);
    (g, v, start)
}

fn own_exception(v: &mut Vcpu) -> (u32, u64, u64) {
    let esr = result(v) as u32;
    (esr, get(v, RegId::x(1)), get(v, RegId::x(2)))
}

#[test]
fn a_guest_debugs_itself() {
    let data = RAM + 0x8000;
    let on = wr(SysReg::MDSCR_EL1, MDE | KDE);
    // Breakpoint. The body starts behind 7 loads and writes of 5 words.
    let before = |bvr: u64, wvr: u64| {
        vec![
            wr(SysReg::DBGBVR0_EL1, bvr),
            wr(SysReg::DBGBCR0_EL1, BCR),
            wr(SysReg::DBGWVR0_EL1, wvr),
            wr(SysReg::DBGWCR0_EL1, WCR),
            on.clone(),
        ]
    };
    let start = RAM + 4 * 5 * 7;
    let body = [&[UNMASK_DEBUG, NOP, brk(9)][..], &li(5, data), &[str_x(5, 5)], &done(31)].concat();
    let (_g, mut v, s) = self_debugger(&before(start + 4, data), &body);
    assert_eq!(s, start);
    let (esr, elr, _) = own_exception(&mut v);
    assert_eq!((esr, elr), (0x31 << 26 | 1 << 25 | 0x22, start + 4));
    assert_eq!(own_exception(&mut v).0, 0x3c << 26 | 1 << 25 | 9);
    assert_eq!(own_exception(&mut v), (0x35 << 26 | 1 << 25 | 1 << 6 | 0x22, start + 28, data));
    assert_eq!(result(&mut v), 0);

    // With the OS Lock set only BRK is left.
    let body = [wr(SysReg::OSLAR_EL1, 1), body].concat();
    let (_g, mut v, _) = self_debugger(&before(start + 24, data), &body);
    assert_eq!(own_exception(&mut v).0, 0x3c << 26 | 1 << 25 | 9);
    assert_eq!(result(&mut v), 0);
}

#[test]
fn a_guest_steps_itself() {
    // MDSCR_EL1.SS with KDE: from the return on, one instruction and then the exception.
    let body_at = RAM + 4 * (5 * 3 + 12);
    let head = [
        wr(SysReg::MDSCR_EL1, KDE | 1),
        // SPSR: EL1h, debug unmasked, SS; debug exceptions are masked here.
        wr(SysReg::SPSR_EL1, 1 << 21 | 0x1c5),
        wr(SysReg::ELR_EL1, body_at + 8),
        vec![ERET],
    ];
    let (g, mut v) = Guest::with(
        &[&[wr(SysReg::VBAR_EL1, VECTORS), wr(SysReg::OSLAR_EL1, 0)][..], &head].concat().concat(),
    );
    g.memory.program((body_at + 8 - RAM) as usize, &[NOP, NOP]);
    g.memory.program(
        (SYNC - RAM) as usize,
        &[vec![mrs(0, SysReg::ESR_EL1), mrs(1, SysReg::ELR_EL1)], done(0)].concat(),
    );
    assert_eq!(result(&mut v), 0x33 << 26 | 1 << 25 | 1 << 24 | 0x22);
    assert_eq!(get(&mut v, RegId::x(1)), body_at + 12);
}

#[test]
fn while_debugged_the_guests_own_events_leave_too() {
    let start = RAM + 4 * 5 * 5;
    let before = [
        wr(SysReg::DBGBVR0_EL1, start + 4),
        wr(SysReg::DBGBCR0_EL1, BCR),
        wr(SysReg::MDSCR_EL1, MDE | KDE | 1),
    ];
    let (_g, mut v, s) = self_debugger(&before, &[&[UNMASK_DEBUG, NOP, brk(3)][..], &done(31)].concat());
    assert_eq!(s, start);
    debug(&mut v, ENABLE);
    assert_eq!(stopped(&mut v), (BREAKPOINT, 0x22, 0));
    assert_eq!(pc(&mut v), start + 4);
    // Those of the VMM stand in for those of the guest.
    debug(&mut v, ENABLE | USE_HW);
    assert_eq!(stopped(&mut v), (BRK, 3, 0));
    assert_eq!(get(&mut v, RegId::sysreg(SysReg::MDSCR_EL1.code())), MDE | KDE | 1);
}

#[test]
fn a_stepped_guest_keeps_its_debug_registers() {
    // As the selftest has it: the guest writes and reads its registers while each instruction is stepped.
    for i in 0..8u64 {
        let program = [
            wr(SysReg::DBGBVR0_EL1, i << 2),
            wr(SysReg::DBGWVR0_EL1, i << 3),
            wr(SysReg::MDSCR_EL1, MDE),
            vec![mrs(0, SysReg::DBGBVR0_EL1), mrs(1, SysReg::DBGWVR0_EL1), mrs(2, SysReg::MDSCR_EL1)],
            vec![NOP],
        ]
        .concat();
        let (_g, mut v) = Guest::with(&program);
        debug(&mut v, ENABLE | SINGLESTEP);
        for n in 1..=program.len() as u64 {
            assert_eq!(step(&mut v), RAM + 4 * n);
        }
        let x = [0, 1, 2].map(|n| get(&mut v, RegId::x(n)));
        assert_eq!(x, [i << 2, i << 3, MDE]);
    }
}

#[test]
fn steps_and_breakpoints_at_el0() {
    let user = RAM + 0x2000;
    let program =
        [wr(SysReg::VBAR_EL1, VECTORS), wr(SysReg::SPSR_EL1, 0x3c0), wr(SysReg::ELR_EL1, user), vec![ERET]];
    let (g, mut v) = Guest::with(&program.concat());
    g.memory.program(0x2000, &[NOP, NOP, SVC]);
    let mut d = GuestDebug { control: ENABLE | USE_HW, ..GuestDebug::default() };
    // EL0 only
    (d.dbg_bvr[0], d.dbg_bcr[0]) = (user + 4, 0xf << 5 | 2 << 1 | 1);
    (d.dbg_bvr[1], d.dbg_bcr[1]) = (VECTORS + 0x400, 0xf << 5 | 2 << 1 | 1);
    v.set_guest_debug(&d).expect("guest debug");
    assert_eq!(stopped(&mut v), (BREAKPOINT, 0x22, 0));
    assert_eq!((pc(&mut v), get(&mut v, RegId::PSTATE) & 0xf), (user + 4, 0));
    d.control |= SINGLESTEP;
    v.set_guest_debug(&d).expect("guest debug");
    assert_eq!(stopped(&mut v).0, BREAKPOINT, "the breakpoint comes before the step");
    d.dbg_bcr[0] = 0;
    v.set_guest_debug(&d).expect("guest debug");
    assert_eq!(step(&mut v), user + 8);
    assert_eq!(step(&mut v), VECTORS + 0x400, "EL1: that breakpoint does not match");
}

#[test]
fn events_are_as_recorded() {
    let (g, mut v) = Guest::with(&[NOP]);
    let none = VcpuEvents::default();
    let has_esr = VcpuEvents { serror_has_esr: 1, ..none };
    let mut raw = g.vm.create_vcpu(1).expect("vCPU");
    assert_eq!((raw.vcpu_events(), raw.set_vcpu_events(&none)), (Err(Errno::ENOEXEC), Err(Errno::ENOEXEC)));
    assert_eq!(v.vcpu_events(), Ok(has_esr));
    let mut odd = none;
    odd.reserved[3] = 1;
    assert_eq!(v.set_vcpu_events(&odd), Err(Errno::EINVAL));
    odd = none;
    odd.pad[0] = 1;
    assert_eq!(v.set_vcpu_events(&odd), Err(Errno::EINVAL));
    assert_eq!(v.set_vcpu_events(&has_esr), Ok(()));
    assert_eq!(v.set_vcpu_events(&VcpuEvents { serror_pending: 1, ..none }), Ok(()));
    assert_eq!(v.vcpu_events(), Ok(VcpuEvents { serror_pending: 1, serror_esr: 1 << 24, ..has_esr }));
    let pending = VcpuEvents { serror_pending: 1, serror_esr: 0x1ff_ffff, ..has_esr };
    assert_eq!(v.set_vcpu_events(&pending), Ok(()));
    assert_eq!(v.set_vcpu_events(&none), Ok(()));
    assert_eq!(v.vcpu_events(), Ok(pending), "what is pending stays");
    assert_eq!(v.set_vcpu_events(&VcpuEvents { serror_esr: 1 << 25, ..pending }), Err(Errno::EINVAL));
    assert_eq!(v.set_vcpu_events(&VcpuEvents { ext_dabt_pending: 1, ..none }), Ok(()));
    assert_eq!((pc(&mut v), v.vcpu_events()), (RAM, Ok(pending)));
    assert_eq!(g.vm.check_extension(cap::ARM_INJECT_SERROR_ESR), Ok(1));
    // A host without RAS
    let g = Guest::new("rpi4", ClockKind::Host);
    let mut v = g.vcpu(0, PSCI);
    assert_eq!(v.vcpu_events(), Ok(none));
    assert_eq!(v.set_vcpu_events(&has_esr), Ok(()));
    assert_eq!(v.set_vcpu_events(&pending), Err(Errno::EINVAL));
    assert_eq!(v.set_vcpu_events(&VcpuEvents { serror_pending: 1, ..none }), Ok(()));
    assert_eq!(v.vcpu_events(), Ok(VcpuEvents { serror_pending: 1, ..none }));
    assert_eq!(g.vm.check_extension(cap::ARM_INJECT_SERROR_ESR), Ok(0));
}

#[test]
fn an_serror_is_taken_when_it_is_unmasked() {
    let program = [wr(SysReg::VBAR_EL1, VECTORS), done(31), vec![0xd503_44ff, NOP]].concat(); // msr daifclr, #4
    let (g, mut v) = Guest::with(&program);
    g.memory.program((VECTORS - RAM) as usize + 0x380, &[vec![mrs(0, SysReg::ESR_EL1)], done(0)].concat());
    v.set_vcpu_events(&VcpuEvents {
        serror_pending: 1,
        serror_has_esr: 1,
        serror_esr: 0x12345,
        ..VcpuEvents::default()
    })
    .expect("events");
    assert_eq!(result(&mut v), 0, "masked");
    assert_eq!(result(&mut v), 0x2f << 26 | 1 << 25 | 0x12345);
    assert_eq!(v.vcpu_events().expect("events").serror_pending, 0);
}

#[test]
fn an_access_that_the_vmm_aborts_is_not_completed() {
    let program = [wr(SysReg::VBAR_EL1, VECTORS), li(1, DONE + 0x128).to_vec(), vec![ldr_x(3, 1)]].concat();
    for immediate in [false, true] {
        let (g, mut v) = Guest::with(&program);
        g.memory.program((SYNC - RAM) as usize, &[vec![mrs(0, SysReg::ESR_EL1)], done(0)].concat());
        set(&mut v, RegId::x(3), 0x77);
        assert!(matches!(v.run(), Ok(Run::MmioRead(..))));
        v.set_vcpu_events(&VcpuEvents { ext_dabt_pending: 1, ..VcpuEvents::default() }).expect("events");
        let sysreg = |r: SysReg| RegId::sysreg(r.code());
        assert_eq!(get(&mut v, sysreg(SysReg::ESR_EL1)), 0x9600_0010);
        assert_eq!(get(&mut v, sysreg(SysReg::FAR_EL1)), DONE + 0x128);
        assert_eq!(pc(&mut v), RAM + 4 * 9, "the entry is the next run's");
        if immediate {
            v.set_immediate_exit(true);
            assert!(matches!(v.run(), Ok(Run::Intr)));
            v.set_immediate_exit(false);
            assert_eq!(pc(&mut v), SYNC);
        }
        assert_eq!(result(&mut v), 0x9600_0010);
        assert_eq!(get(&mut v, RegId::ELR_EL1), RAM + 4 * 9);
        assert_eq!(get(&mut v, RegId::x(3)), 0x77);
    }
}

#[test]
fn a_step_executes_at_most_one_instruction_of_anything() {
    // Random words, often of debug registers, exceptions and returns, loads and stores; random hardware registers.
    let mut r = Rng(42);
    let own =
        [SysReg::MDSCR_EL1, SysReg::DBGBVR0_EL1, SysReg::DBGBCR0_EL1, SysReg::DBGWCR0_EL1, SysReg::OSLAR_EL1];
    let mut steps = 0;
    for round in 0..60 {
        let (g, mut v) = Guest::with(&[]);
        for n in 0..0x1_0800 / 4 {
            let w = match r.below(8) {
                0 => msr(own[r.below(5) as usize], r.below(31) as u32),
                1 => [SVC, ERET, HVC, SMC, brk(1), UNMASK_DEBUG, ISB, 0xd503_205f][r.below(8) as usize],
                2 => ldr_x(r.below(31) as u32, r.below(31) as u32),
                3 => 0xf900_0000 | r.next() as u32 & 0x3fff,
                4 => r.next() as u32,
                5 => b(r.below(64) as i32 - 32),
                _ => NOP,
            };
            g.memory.write32(4 * n, w);
        }
        set(&mut v, RegId::sysreg(SysReg::VBAR_EL1.code()), VECTORS);
        for n in 0..31 {
            set(&mut v, RegId::x(n), if r.below(2) == 0 { RAM + (r.below(0x1_0000) & !7) } else { r.next() });
        }
        let kick = v.kicker();
        let _dog = Watchdog::new(std::time::Duration::from_millis(20), kick);
        let mut d = GuestDebug { control: ENABLE | SINGLESTEP, ..GuestDebug::default() };
        if round % 2 == 0 {
            d.control |= USE_HW;
            for n in 0..16 {
                (d.dbg_bvr[n], d.dbg_bcr[n]) = (RAM + r.below(0x1_0000), r.next());
                (d.dbg_wvr[n], d.dbg_wcr[n]) = (RAM + r.below(0x1_0000), r.next());
            }
        }
        v.set_guest_debug(&d).expect("guest debug");
        for _ in 0..200 {
            let before = v.instructions();
            match v.run() {
                Ok(Run::Debug(esr, _)) => {
                    if esr >> 26 == STEP {
                        steps += 1;
                    } else {
                        // Stopped before the instruction: go around it.
                        let next = pc(&mut v) + 4;
                        set(&mut v, RegId::PC, next);
                    }
                }
                Ok(Run::MmioRead(_, data)) => data.fill(0x5a),
                Ok(Run::MmioWrite(..) | Run::Hypercall(..) | Run::ArmNisv(..) | Run::Intr) => {}
                Ok(Run::SystemEvent(..) | Run::DirtyRingFull) | Err(_) => break,
            }
            let done = v.instructions() - before;
            assert!(done <= 1, "round {round}: {done} instructions in one run");
        }
    }
    assert!(steps > 3000, "{steps}");
}
