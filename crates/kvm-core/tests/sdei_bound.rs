//! Interrupts that the guest bound to SDEI events, as the interrupt controller and a VMM see them.

mod common;

use common::events::{call, *};
use common::*;
use ulna_kvm_abi::RegId;
use ulna_kvm_abi::device::*;
use ulna_kvm_core::Vcpu;
use ulna_kvm_core::firmware::sdei::{self, Reg, function::*, status::*};

const SHARED: u64 = sdei::SHARED_BOUND as u64;

/// A VM of one vCPU with what can be bound.
fn bindable() -> (Guest, Vcpu, [ulna_kvm_core::Device; 2]) {
    let g = guest_with("n1");
    let mut v = g.vcpu(0, PSCI);
    put(&mut v, Reg::Features, &[0x7_0202]).expect("features");
    let gic = g.gic();
    (g, v, gic)
}

const LOAD: u64 = 0x4000;
const STORE: u64 = 0x4100;
const SPI: u64 = 40;
/// GICD_ISENABLER1, ISPENDR1, ICFGR2 and IROUTER40, and the bit of the SPI in the first two.
const ISENABLER: u64 = 0x104;
const ISPENDR: u64 = 0x204;
const ICFGR: u64 = 0xc08;
const IROUTER: u64 = 0x6000 + 8 * SPI;
const BIT: u64 = 1 << (SPI - 32);

fn fill_accesses(g: &Guest) {
    // ldr w0, [x1] and str w0, [x1], and the report.
    for (at, access) in [(LOAD, 0xb940_0020), (STORE, 0xb900_0020)] {
        let words = [&[access][..], &li(18, DONE), &[str_x(0, 18), B_SELF]].concat();
        g.memory.program(at as usize, &words);
    }
}

/// The guest makes an access of the distributor: what it read, or what happened in place of the report.
fn access(v: &mut Vcpu, what: u64, offset: u64, value: u64) -> Seen {
    set(v, RegId::x(0), value);
    set(v, RegId::x(1), GICD + offset);
    set(v, RegId::PC, RAM + what);
    (0..3).map(|_| go(v)).find(|s| *s != Kicked).unwrap_or(Kicked)
}

/// The SPI's bit of what was read.
fn bits(seen: Seen) -> u64 {
    match seen {
        Returned(v) => v & BIT,
        other => panic!("{other:x?}"),
    }
}

/// As on hardware where firmware makes a bound interrupt Secure (Arm IHI 0069, 4.10): its registers are RAZ/WI, a write of
/// ISPENDR raises neither the interrupt nor the event, and what was pending before is forgotten.
#[test]
fn the_registers_of_a_bound_interrupt_are_out_of_the_guests_sight() {
    let (g, mut v, [gic, _its]) = bindable();
    fill_accesses(&g);
    let v = &mut v;
    let of_vmm = |offset| gic.get_attr(GRP_DIST_REGS, offset, 0).expect("GICD");
    assert_eq!(access(v, STORE, ISENABLER, BIT), Returned(BIT));
    assert_eq!(value(v, INTERRUPT_BIND, &[SPI]), SHARED);
    assert_eq!(access(v, STORE, ISPENDR, BIT), Returned(BIT));
    assert_eq!(access(v, LOAD, ISPENDR, 0), Returned(BIT), "bound, but not yet registered");
    ready(v, SHARED);
    assert_eq!(of_vmm(ISPENDR), 0, "what was pending is forgotten");
    assert_eq!(value(v, EVENT_STATUS, &[SHARED]), 3);
    assert_eq!(access(v, LOAD, ISENABLER, 0), Returned(0));
    assert_eq!(of_vmm(ISENABLER), BIT, "a VMM that saves sees it");
    for offset in [ISPENDR, ISENABLER + 0x80, ISPENDR + 0x100, IROUTER, ICFGR] {
        let before = of_vmm(offset);
        assert_eq!(access(v, STORE, offset, 0xffff_ffff), Returned(0xffff_ffff), "{offset:#x}");
        let others = match offset {
            IROUTER => u64::MAX,
            ICFGR => 3 << (SPI % 16 * 2),
            _ => BIT,
        };
        assert_eq!(of_vmm(offset) & others, before & others, "{offset:#x}");
    }
    assert_eq!(value(v, EVENT_STATUS, &[SHARED]), 3);
    g.vm.irq_line(1 << 24 | SPI as u32, true).expect("line");
    assert_eq!(call(v, EVENT_STATUS, &[SHARED]), Entered(SHARED));
    g.vm.irq_line(1 << 24 | SPI as u32, false).expect("line");
    assert_eq!(call(v, EVENT_COMPLETE, &[]), Returned(3));
    // Given back it is the guest's again, with nothing pending.
    assert_eq!(value(v, EVENT_UNREGISTER, &[SHARED]), SUCCESS);
    assert_eq!(bits(access(v, LOAD, ISPENDR, 0)), 0);
    assert_eq!(bits(access(v, LOAD, ISENABLER, 0)), BIT);
    assert_eq!(access(v, STORE, ISPENDR, BIT), Returned(BIT));
    assert_eq!(bits(access(v, LOAD, ISPENDR, 0)), BIT);
}

/// The level of a bound line is in LEVEL_INFO like any other's. A handler that runs while its line is high is called again
/// on the other side, whichever of GIC and events was restored first, and no more once the line is low.
#[test]
fn the_level_of_a_bound_line_moves_with_the_gic() {
    let (g, mut v, [gic, _its]) = bindable();
    let v = &mut v;
    gic.set_attr(GRP_DIST_REGS, ICFGR, 0).expect("level-sensitive");
    let line = |vm: &ulna_kvm_core::Vm, level| vm.irq_line(1 << 24 | SPI as u32, level).expect("line");
    assert_eq!(value(v, INTERRUPT_BIND, &[SPI]), SHARED);
    ready(v, SHARED);
    assert_eq!(gic.get_attr(GRP_LEVEL_INFO, 32, 0), Ok(0));
    line(&g.vm, true);
    assert_eq!(gic.get_attr(GRP_LEVEL_INFO, 32, 0), Ok(BIT));
    assert_eq!(call(v, EVENT_STATUS, &[SHARED]), Entered(SHARED));
    let saved: Vec<_> = [Reg::Version, Reg::Features, Reg::Shared(0), Reg::Context(0), Reg::Pe]
        .map(|r| (r, words(v, r)))
        .into();
    let levels = gic.get_attr(GRP_LEVEL_INFO, 32, 0).expect("levels");
    assert_eq!(levels, BIT);
    for gic_first in [true, false] {
        let to = guest_with("n1");
        let mut w = to.vcpu(0, PSCI);
        let restore_gic = |gic: &ulna_kvm_core::Device| {
            gic.set_attr(GRP_DIST_REGS, ICFGR, 0).expect("level-sensitive");
            gic.set_attr(GRP_LEVEL_INFO, 32, levels).expect("levels");
        };
        // SDEI_VERSION and SDEI_FEATURES come first of all; bindings need INTIDs to exist.
        for (r, words) in &saved[..2] {
            put(&mut w, *r, words).expect("features");
        }
        let [gic, _its] = to.gic();
        if gic_first {
            restore_gic(&gic);
        }
        for (r, words) in &saved[2..] {
            put(&mut w, *r, words).expect("event");
        }
        if !gic_first {
            restore_gic(&gic);
        }
        assert_eq!(gic.get_attr(GRP_LEVEL_INFO, 32, 0), Ok(BIT));
        assert_eq!(words(&mut w, Reg::Shared(0)), saved[2].1, "{gic_first}");
        assert_eq!(call(&mut w, EVENT_COMPLETE, &[]), Entered(SHARED), "the line is high: {gic_first}");
        line(&to.vm, false);
        assert!(matches!(call(&mut w, EVENT_COMPLETE, &[]), Returned(_)), "{gic_first}");
        line(&to.vm, true);
        assert_eq!(call(&mut w, EVENT_STATUS, &[SHARED]), Entered(SHARED));
    }
}
