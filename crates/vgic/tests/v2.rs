//! GICv2 as a guest drives it.

mod common;

use common::{Guest, affinities};
use ulna_vgic::{GicConfig, IccReg, Region, Version};

const D: Region = Region::Dist;
const C: Region = Region::Cpuif;
const IAR: u64 = 0x0c;
const EOIR: u64 = 0x10;

fn v2(vcpus: usize) -> Guest {
    let mut g = Guest::raw(GicConfig::new(Version::V2, affinities(vcpus), 96));
    g.w(0, D, 0, 1);
    for vcpu in 0..vcpus {
        g.w(vcpu, C, 4, 0xf0);
        g.w(vcpu, C, 0, 1);
    }
    g
}

#[test]
fn identification() {
    let mut g = v2(3);
    assert_eq!(g.r(0, D, 4), 2 | 2 << 5);
    assert_eq!(g.r(0, D, 8), 0x4b00_343b);
    assert_eq!(g.r(0, C, 0xfc), 0x0202_143b);
    assert_eq!(g.gic.user_read(C, 0, 0xfc), 0x04b2_043b);
    assert_eq!(g.r(1, D, 0x800), 0x0202_0202, "the targets of private interrupts name the reader");
    assert!(!g.gic.sysreg_exists(IccReg::Pmr));
    assert_eq!(g.r(0, Region::Redist(0), 0xffe8), 0);
}

#[test]
fn sgis_carry_their_sender() {
    let mut g = v2(3);
    g.w(0, D, 0xf00, 0b100 << 16 | 3);
    g.w(1, D, 0xf00, 1 << 24 | 3);
    assert_eq!(g.r(2, D, 0xf20), 0b11 << 24);
    assert_eq!(g.r(2, C, 0x18), 3);
    assert_eq!(g.r(2, C, IAR), 3);
    assert!(!g.irq(2), "one at a time");
    g.w(2, C, EOIR, 3);
    assert_eq!(g.r(2, C, IAR), 3 | 1 << 10);
    g.w(2, C, EOIR, 3 | 1 << 10);
    assert_eq!(g.r(2, C, IAR), 1023);
    assert_eq!(g.r(0, C, IAR), 3 | 1 << 10);
    g.w(1, D, 0xf00, 2 << 24 | 15);
    assert_eq!(g.r(1, C, IAR), 15 | 1 << 10, "to itself");
}

#[test]
fn sgi_pending_state_is_written_per_sender() {
    let mut g = v2(2);
    g.w(0, D, 0x200, 0xffff);
    assert_eq!(g.r(0, C, IAR), 1023, "ISPENDR does not raise SGIs");
    g.w8(0, D, 0xf21, 0b11);
    assert_eq!(g.r(0, D, 0xf10), 0x300);
    g.w8(0, D, 0xf11, 0b01);
    assert_eq!(g.r(0, C, IAR), 1 | 1 << 10);
}

#[test]
fn spis_follow_their_targets() {
    let mut g = v2(4);
    g.w(0, D, 0x104, 1 << 8);
    g.w8(0, D, 0x800 + 40, 0b1100);
    assert_eq!(g.r(0, D, 0x828), 0b1100);
    g.gic.set_spi(40, true).unwrap();
    assert!(g.irq(2) && !g.irq(3), "the lowest named");
    g.w8(0, D, 0x800 + 40, 0xf0);
    assert!(g.irq(0) && !g.irq(2), "none of them exists: vCPU 0");
    assert_eq!(g.r(0, C, IAR), 40);
    g.w(0, C, EOIR, 40);
    assert_eq!(g.r(0, C, IAR), 1023, "an edge is taken once");
}

#[test]
fn banked_registers_are_the_readers() {
    let mut g = v2(2);
    g.w(1, D, 0x100, 1 << 27);
    g.w8(1, D, 0x400 + 27, 0x88);
    assert_eq!((g.r(0, D, 0x100), g.r(1, D, 0x100)), (0xffff, 0x0800_ffff));
    assert_eq!((g.r(0, D, 0x418), g.r(1, D, 0x418)), (0, 0x8800_0000));
    g.gic.set_ppi(1, 27, true).unwrap();
    assert!(g.irq(1) && !g.irq(0));
    assert_eq!(g.r(1, C, 0x14), 0xff);
    assert_eq!(g.r(1, C, IAR), 27);
    assert_eq!(g.r(1, C, 0x14), 0x88);
    assert_eq!(g.r(1, C, 0xd0), 1 << (0x88 >> 3));
}

#[test]
fn groups_and_fiq() {
    let mut g = v2(1);
    g.w(0, D, 0x104, 0b11);
    g.w(0, D, 0x84, 0b10); // 33 is group 1
    g.w(0, C, 0, 1 | 2 | 8); // both groups, FIQEn
    g.gic.set_spi(33, true).unwrap();
    assert!(g.gic.lines(0).irq && !g.gic.lines(0).fiq);
    assert_eq!(g.r(0, C, 0x18), 1022);
    assert_eq!(g.r(0, C, IAR), 1022, "AckCtl is 0");
    assert_eq!(g.r(0, C, 0x28), 33);
    assert_eq!(g.r(0, C, 0x20), 33);
    g.w(0, C, 0x24, 33);
    g.gic.set_spi(32, true).unwrap();
    assert!(g.gic.lines(0).fiq && !g.gic.lines(0).irq);
    assert_eq!(g.r(0, C, 0x20), 1023);
    assert_eq!(g.r(0, C, IAR), 32);
    g.w(0, C, EOIR, 32);
    g.gic.set_spi(33, true).unwrap();
    g.w(0, C, 0, 1 | 2 | 4);
    assert_eq!(g.r(0, C, IAR), 33, "AckCtl is 1");
}

#[test]
fn eoi_mode_needs_dir() {
    let mut g = v2(1);
    g.w(0, D, 0x104, 1);
    g.w(0, C, 0, 1 | 1 << 9);
    g.gic.set_spi(32, true).unwrap();
    assert_eq!(g.r(0, C, IAR), 32);
    g.w(0, C, EOIR, 32);
    assert_eq!(g.r(0, D, 0x304), 1);
    g.w(0, C, 0x1000, 32);
    assert_eq!(g.r(0, D, 0x304), 0);
}

#[test]
fn userspace_writes_groups_only_after_iidr() {
    let mut g = v2(1);
    let ram = ulna_vgic::NoMemory;
    g.gic.user_write(D, 0, 0x84, 0xff, &ram).unwrap();
    assert_eq!(g.gic.user_read(D, 0, 0x84), 0);
    g.gic.user_write(D, 0, 8, 0x4b00_343b, &ram).unwrap();
    g.gic.user_write(D, 0, 0x84, 0xff, &ram).unwrap();
    assert_eq!(g.gic.user_read(D, 0, 0x84), 0xff);
    g.gic.user_write(C, 0, 4, 0x1f, &ram).unwrap();
    assert_eq!((g.gic.user_read(C, 0, 4), g.r(0, C, 4)), (0x1f, 0xf8));
}
