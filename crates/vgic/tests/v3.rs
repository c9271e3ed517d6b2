//! GICv3 as a guest drives it.

mod common;

use common::{Guest, SGI, affinities};
use ulna_vgic::{Affinity, GicConfig, GicError, IccReg, Region, Version};

const D: Region = Region::Dist;

/// The steps of an operating system's driver: identify, find redistributors, wake, enable.
#[test]
fn a_driver_finds_its_way() {
    let mut g = Guest::raw(GicConfig::new(Version::V3, affinities(20), 256));
    assert_eq!(g.r(0, D, 0xffe8) & 0xf0, 0x30);
    let typer = g.r(0, D, 4);
    assert_eq!((typer & 0x1f, typer >> 17 & 1, typer >> 19 & 0x1f), (7, 0, 9));
    g.w(0, D, 0, 0x32);
    let ctlr = g.r(0, D, 0);
    assert_eq!(ctlr, 0x52, "ARE and DS are fixed, RWP is never set");
    let mut seen = Vec::new();
    for vcpu in 0.. {
        let rd = Region::Redist(vcpu);
        assert_eq!(g.r(3, rd, 0xffe8) & 0xf0, 0x30);
        let typer = g.r64(3, rd, 8);
        assert_eq!(typer, g.r(3, rd, 8) | g.r(3, rd, 12) << 32);
        assert_eq!(typer >> 8 & 0xffff, vcpu as u64);
        seen.push(typer >> 32);
        if typer & 1 << 4 != 0 {
            break;
        }
    }
    assert_eq!(seen.len(), 20);
    assert_eq!((seen[15], seen[16]), (15, 0x100));
    g.w(0, Region::Redist(0), 0x14, 0);
    assert_eq!(g.r(0, Region::Redist(0), 0x14) & 4, 0, "children awake");
    assert_eq!(g.r(0, Region::Redist(0), 0), 6, "no LPIs without ITS, no RWP");
    g.msr(0, IccReg::Sre, 7);
    assert_eq!(g.mrs(0, IccReg::Sre), 7);
    assert_eq!(g.mrs(0, IccReg::Ctlr), 0x8400);
    assert_eq!((g.mrs(0, IccReg::Bpr0), g.mrs(0, IccReg::Bpr1)), (2, 3));
    g.msr(0, IccReg::Pmr, 0xff);
    assert_eq!(g.mrs(0, IccReg::Pmr), 0xf8, "five priority bits");
    assert!(g.gic.sysreg_exists(IccReg::Ap1r(0)) && !g.gic.sysreg_exists(IccReg::Ap1r(1)));
}

#[test]
fn a_level_spi_is_taken_and_sampled_again() {
    let mut g = Guest::v3(2);
    g.level_spi(40, 1);
    g.gic.take_changed();
    g.gic.set_spi(40, true).unwrap();
    assert!(g.irq(1) && !g.irq(0));
    assert_eq!(g.gic.take_changed().iter().collect::<Vec<_>>(), [1]);
    assert_eq!(g.mrs(1, IccReg::Hppir1), 40);
    assert_eq!(g.mrs(1, IccReg::Iar1), 40);
    assert!(!g.irq(1));
    assert_eq!(g.mrs(1, IccReg::Rpr), 0xa0);
    assert_eq!(g.mrs(1, IccReg::Ap1r(0)), 1 << (0xa0 >> 3));
    assert_eq!(g.r(0, D, 0x304), 1 << 8, "active");
    assert_eq!(g.mrs(1, IccReg::Iar1), 1023);
    g.msr(1, IccReg::Eoir1, 40);
    assert_eq!((g.r(0, D, 0x304), g.mrs(1, IccReg::Rpr)), (0, 0xff));
    assert!(g.irq(1), "the line is still up");
    assert_eq!(g.mrs(1, IccReg::Iar1), 40);
    g.gic.set_spi(40, false).unwrap();
    g.msr(1, IccReg::Eoir1, 40);
    assert!(!g.irq(1));
    assert_eq!(g.mrs(1, IccReg::Iar1), 1023);
}

#[test]
fn an_edge_while_active_is_taken_once_more() {
    let mut g = Guest::v3(1);
    g.edge_spi(33, 0, 0x80);
    g.gic.set_spi(33, true).unwrap();
    g.gic.set_spi(33, false).unwrap();
    assert_eq!(g.mrs(0, IccReg::Iar1), 33);
    g.gic.set_spi(33, true).unwrap();
    assert_eq!(g.r(0, D, 0x204), 2);
    assert!(!g.irq(0));
    g.msr(0, IccReg::Eoir1, 33);
    assert_eq!(g.mrs(0, IccReg::Iar1), 33);
    g.msr(0, IccReg::Eoir1, 33);
    assert_eq!(g.mrs(0, IccReg::Iar1), 1023);
}

#[test]
fn a_more_urgent_one_preempts_and_eoi_mode_splits() {
    let mut g = Guest::v3(1);
    g.edge_spi(33, 0, 0x80);
    g.edge_spi(34, 0, 0x40);
    g.edge_spi(35, 0, 0x80);
    g.msr(0, IccReg::Ctlr, 2);
    assert_eq!(g.mrs(0, IccReg::Ctlr) & 3, 2);
    g.gic.set_spi(33, true).unwrap();
    assert_eq!(g.mrs(0, IccReg::Iar1), 33);
    g.gic.set_spi(35, true).unwrap();
    assert!(!g.irq(0), "same priority does not preempt");
    g.gic.set_spi(34, true).unwrap();
    assert!(g.irq(0));
    assert_eq!(g.mrs(0, IccReg::Iar1), 34);
    g.msr(0, IccReg::Eoir1, 34);
    assert_eq!(g.mrs(0, IccReg::Rpr), 0x80);
    assert_eq!(g.r(0, D, 0x304), 0b110, "both active until deactivated");
    g.msr(0, IccReg::Dir, 34);
    assert_eq!(g.r(0, D, 0x304), 0b010);
    g.msr(0, IccReg::Eoir1, 33);
    assert_eq!(g.mrs(0, IccReg::Iar1), 35, "the running priority is down, 33 still active");
    g.gic.set_spi(33, true).unwrap();
    g.msr(0, IccReg::Eoir1, 35);
    assert_eq!(g.mrs(0, IccReg::Iar1), 1023);
    g.msr(0, IccReg::Dir, 33);
    assert_eq!(g.mrs(0, IccReg::Iar1), 33);
}

#[test]
fn another_vcpu_may_deactivate_an_spi() {
    let mut g = Guest::v3(2);
    g.level_spi(50, 0);
    for vcpu in 0..2 {
        g.msr(vcpu, IccReg::Ctlr, 2);
    }
    g.gic.set_notify_eoi(50, true).unwrap();
    g.gic.set_spi(50, true).unwrap();
    assert_eq!(g.mrs(0, IccReg::Iar1), 50);
    g.msr(0, IccReg::Eoir1, 50);
    assert!(g.gic.take_eois().is_empty());
    g.gic.set_spi(50, false).unwrap();
    g.msr(1, IccReg::Dir, 50);
    assert_eq!(g.r(0, D, 0x304), 0);
    assert_eq!(g.gic.take_eois(), [50]);
}

#[test]
fn rerouting_moves_what_is_pending_and_waits_for_what_is_active() {
    let mut g = Guest::v3(2);
    g.level_spi(60, 0);
    g.gic.set_spi(60, true).unwrap();
    g.w64(0, D, 0x6000 + 60 * 8, 1);
    assert!(!g.irq(0) && g.irq(1));
    assert_eq!(g.mrs(1, IccReg::Iar1), 60);
    g.w64(0, D, 0x6000 + 60 * 8, 0);
    assert!(!g.irq(0), "active at 1");
    g.msr(1, IccReg::Eoir1, 60);
    assert!(g.irq(0) && !g.irq(1));
    g.w64(0, D, 0x6000 + 60 * 8, 0x12345);
    assert!(!g.irq(0) && !g.irq(1), "nobody has this affinity");
    assert_eq!(g.r64(0, D, 0x6000 + 60 * 8), 0x12345);
    assert_eq!(g.r(0, D, 0x204), 1 << 28);
    g.w64(0, D, 0x6000 + 60 * 8, 1 << 31 | 1);
    assert!(g.irq(1), "IRM is dropped, as in KVM");
}

#[test]
fn sgis_go_where_the_list_says() {
    let mut g = Guest::v3(20);
    // Aff1 = 1, list 0b1010: vCPUs 17 and 19. INTID 5.
    g.msr(2, IccReg::Sgi1r, 1 << 16 | 5 << 24 | 0b1010);
    let who: Vec<usize> = g.gic.take_changed().iter().collect();
    assert_eq!(who, [17, 19]);
    assert_eq!(g.mrs(17, IccReg::Iar1), 5);
    g.msr(17, IccReg::Eoir1, 5);
    assert_eq!(g.mrs(17, IccReg::Iar1), 1023);
    g.msr(3, IccReg::Sgi1r, 1 << 40 | 9 << 24);
    for vcpu in 0..20 {
        let expect = if vcpu == 3 {
            1023
        } else if vcpu == 19 {
            5
        } else {
            9
        };
        assert_eq!(g.mrs(vcpu, IccReg::Iar1), expect, "vCPU {vcpu}");
    }
    // Group 0 registers cannot raise group 1 SGIs; the group 1 register can raise group 0.
    g.msr(0, IccReg::Sgi0r, 7 << 24 | 2);
    g.msr(0, IccReg::Asgi1r, 7 << 24 | 2);
    assert_eq!(g.r(0, Region::Redist(1), SGI + 0x200), 0);
    g.w(0, Region::Redist(1), SGI + 0x80, !(1 << 7) & 0xffff_ffff);
    g.msr(1, IccReg::Igrpen0, 1);
    g.msr(1, IccReg::Eoir1, 9);
    g.msr(0, IccReg::Sgi1r, 7 << 24 | 2);
    assert!(g.gic.lines(1).fiq && !g.gic.lines(1).irq);
    assert_eq!(g.mrs(1, IccReg::Iar1), 1023);
    assert_eq!(g.mrs(1, IccReg::Hppir1), 1023);
    assert_eq!(g.mrs(1, IccReg::Iar0), 7);
    g.msr(1, IccReg::Eoir0, 7);
    assert_eq!(g.mrs(1, IccReg::Rpr), 0xff);
}

#[test]
fn range_selectors_count_only_where_the_machine_has_them() {
    let mut config = GicConfig::new(Version::V3, vec![Affinity(0), Affinity(17)], 64);
    config.rss = true;
    let mut g = Guest::raw(config);
    assert_ne!(g.mrs(0, IccReg::Ctlr) & 1 << 18, 0);
    g.msr(0, IccReg::Sgi1r, 1 << 44 | 2 | 4 << 24);
    assert_eq!(g.r(0, Region::Redist(1), SGI + 0x200), 1 << 4);
    assert_eq!(g.r(0, Region::Redist(0), SGI + 0x200), 0);
}

#[test]
fn ppis_are_private_and_masks_work() {
    let mut g = Guest::v3(2);
    let rd = Region::Redist(1);
    g.w8(1, rd, SGI + 0x400 + 27, 0x50);
    g.gic.set_ppi(1, 27, true).unwrap();
    assert!(!g.irq(1), "not enabled");
    g.w(1, rd, SGI + 0x100, 1 << 27);
    assert!(g.irq(1) && !g.irq(0));
    g.msr(1, IccReg::Pmr, 0x50);
    assert!(!g.irq(1));
    assert_eq!(g.mrs(1, IccReg::Iar1), 1023);
    assert_eq!(g.mrs(1, IccReg::Hppir1), 27, "pending though masked");
    g.msr(1, IccReg::Pmr, 0x58);
    assert!(g.irq(1));
    g.msr(1, IccReg::Igrpen1, 0);
    assert!(!g.irq(1));
    g.msr(1, IccReg::Igrpen1, 1);
    g.w(0, D, 0, 0);
    assert!(!g.irq(1), "GICD_CTLR is off");
    g.w(0, D, 0, 2);
    g.w(1, rd, SGI + 0x180, 1 << 27);
    assert!(!g.irq(1));
    assert_eq!(g.gic.set_ppi(1, 33, true), Err(GicError::NoIrq(33)));
    assert_eq!(g.gic.set_ppi(2, 27, true), Err(GicError::NoVcpu(2)));
    assert_eq!(g.gic.set_spi(27, true), Err(GicError::NoIrq(27)));
    assert_eq!(g.gic.set_spi(96, true), Err(GicError::NoIrq(96)));
}

#[test]
fn private_banks_are_not_in_the_distributor_and_sizes_matter() {
    let mut g = Guest::v3(1);
    for off in [0x80, 0x100, 0x200, 0x300, 0x400, 0xc00] {
        g.w(0, D, off, 0xffff_ffff);
        assert_eq!(g.r(0, D, off), 0, "{off:#x}");
    }
    g.gic.mmio_write(D, 0, 0x104, 2, 0xffff, &ulna_vgic::NoMemory);
    assert_eq!(g.r(0, D, 0x104), 0, "halfwords are ignored");
    assert_eq!(g.gic.mmio_read(D, 0, 0x8, 1), 0);
    assert_eq!(g.gic.mmio_read(D, 0, 0x84, 8), 0);
    g.w(0, D, 0x10c, 0xffff_ffff);
    assert_eq!(g.r(0, D, 0x10c), 0, "beyond the last interrupt");
}

#[test]
fn software_pending_and_active() {
    let mut g = Guest::v3(1);
    g.level_spi(45, 0);
    g.w(0, D, 0x204, 1 << 13);
    assert!(g.irq(0));
    g.w(0, D, 0x284, 1 << 13);
    assert!(!g.irq(0));
    g.gic.set_spi(45, true).unwrap();
    g.w(0, D, 0x284, 1 << 13);
    assert!(g.irq(0), "the line still says so");
    g.w(0, D, 0x304, 1 << 13);
    assert!(!g.irq(0), "active ones are not presented");
    g.w(0, D, 0x384, 1 << 13);
    assert!(g.irq(0));
    assert_eq!(g.r(0, D, 0x284), 1 << 13);
}

/// A guest that restores active priorities finishes what another machine began.
#[test]
fn active_state_can_be_rebuilt() {
    let mut g = Guest::v3(1);
    for (i, priority) in [(33u64, 0x20u64), (34, 0x10)] {
        g.edge_spi(i, 0, priority);
        g.w(0, D, 0x304, 1 << (i - 32));
    }
    g.msr(0, IccReg::Ap1r(0), 1 << 4 | 1 << 2);
    assert_eq!(g.mrs(0, IccReg::Rpr), 0x10);
    g.msr(0, IccReg::Eoir1, 34);
    g.msr(0, IccReg::Eoir1, 33);
    assert_eq!((g.r(0, D, 0x304), g.mrs(0, IccReg::Ap1r(0))), (0, 0));
}

#[test]
fn reset_keeps_the_lines_and_frames() {
    let mut g = Guest::v3(2);
    g.level_spi(40, 0);
    g.gic.set_spi(40, true).unwrap();
    g.gic.set_ppi(1, 27, true).unwrap();
    g.gic.set_redist_last(0, true).unwrap();
    assert_eq!(g.mrs(0, IccReg::Iar1), 40);
    g.gic.reset();
    assert!(!g.irq(0));
    assert_eq!(g.r(0, D, 0x304), 0);
    assert_eq!(g.r64(0, Region::Redist(0), 8) & 0x10, 0x10);
    assert_eq!(g.gic.user_line_levels(1, 0), 1 << 27);
    g.w(0, D, 0, 2);
    g.open(0);
    g.level_spi(40, 0);
    assert!(g.irq(0));
}

#[test]
fn five_hundred_vcpus() {
    let mut g = Guest::v3(512);
    g.msr(0, IccReg::Sgi1r, 31 << 16 | 3 << 24 | 1 << 15);
    assert_eq!(g.gic.take_changed().iter().collect::<Vec<_>>(), [511]);
    assert_eq!(g.mrs(511, IccReg::Iar1), 3);
    assert!(ulna_vgic::Gic::new(GicConfig::new(Version::V3, affinities(513), 64)).is_err());
    assert!(ulna_vgic::Gic::new(GicConfig::new(Version::V2, affinities(9), 64)).is_err());
    assert!(ulna_vgic::Gic::new(GicConfig::new(Version::V3, affinities(1), 65)).is_err());
}

#[test]
fn special_intids_are_never_taken() {
    let mut g = Guest::raw(GicConfig::new(Version::V3, affinities(1), 1024));
    g.w(0, D, 0, 2);
    g.open(0);
    g.w(0, D, 0x17c, 0xffff_ffff);
    g.w(0, D, 0x27c, 0xf000_0000);
    assert!(!g.irq(0));
    g.gic.set_spi(1019, true).unwrap();
    assert_eq!(g.mrs(0, IccReg::Iar1), 1019);
}
