//! Whatever a guest or a VMM does, nothing panics, and what is taken is taken once.

mod common;

use std::collections::HashSet;

use common::{Guest, affinities};
use proptest::prelude::*;
use ulna_vgic::{GicConfig, IccReg, Region, Version};

#[derive(Clone, Debug)]
enum Access {
    Read(Region, u64, usize),
    Write(Region, u64, usize, u64),
    UserRead(Region, u64),
    UserWrite(Region, u64, u64),
    Mrs(u16),
    Msr(u16, u64),
    UserMrs(u16),
    UserMsr(u16, u64),
    Line(u32, bool),
    Msi(usize, u32, u32),
    Levels(u32, u32),
    Save,
}

fn region() -> impl Strategy<Value = Region> {
    prop_oneof![
        Just(Region::Dist),
        (0..4usize).prop_map(Region::Redist),
        Just(Region::Cpuif),
        (0..2usize).prop_map(Region::Its)
    ]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..0x400u64).prop_map(|o| o * 4),
        1 => (0..0x100u64).prop_map(|o| 0x1_0000 + o * 16),
        1 => (0x6000..0x8000u64).prop_map(|o| o & !7),
        1 => (0x20..0x30u64).prop_map(|o| o * 8),
        1 => 0..0x2_0000u64,
        1 => any::<u64>(),
    ]
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        Just(u64::MAX),
        Just(0),
        (0..64u32).prop_map(|b| 1 << b),
        (0..0x100u64).prop_map(|p| 1 << 63 | 0x8000_0000 | p << 12 | 0xf),
        0..1100u64
    ]
}

fn size() -> impl Strategy<Value = usize> {
    proptest::sample::select(vec![0usize, 1, 2, 3, 4, 4, 4, 8, 8, 16])
}

fn icc() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0xc230), 0xc640..=0xc667u16]
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        2 => (region(), offset(), size()).prop_map(|(r, o, s)| Access::Read(r, o, s)),
        6 => (region(), offset(), size(), value()).prop_map(|(r, o, s, v)| Access::Write(r, o, s, v)),
        1 => (region(), offset()).prop_map(|(r, o)| Access::UserRead(r, o)),
        3 => (region(), offset(), value()).prop_map(|(r, o, v)| Access::UserWrite(r, o, v)),
        3 => icc().prop_map(Access::Mrs),
        3 => (icc(), value()).prop_map(|(r, v)| Access::Msr(r, v)),
        1 => icc().prop_map(Access::UserMrs),
        1 => (icc(), value()).prop_map(|(r, v)| Access::UserMsr(r, v)),
        3 => (0..1100u32, any::<bool>()).prop_map(|(i, l)| Access::Line(i, l)),
        1 => (0..2usize, 0..4u32, 0..4u32).prop_map(|(i, d, e)| Access::Msi(i, d, e)),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(f, l)| Access::Levels(f, l)),
        1 => Just(Access::Save),
    ]
}

fn run(g: &mut Guest, vcpu: usize, access: Access) {
    match access {
        Access::Read(r, o, s) => drop(g.gic.mmio_read(r, vcpu, o, s)),
        Access::Write(r, o, s, v) => g.gic.mmio_write(r, vcpu, o, s, v, &g.ram),
        Access::UserRead(r, o) => drop(g.gic.user_read(r, vcpu, o)),
        Access::UserWrite(r, o, v) => drop(g.gic.user_write(r, vcpu, o, v, &g.ram)),
        Access::Mrs(e) => drop(IccReg::from_packed(e).map(|r| g.mrs(vcpu, r))),
        Access::Msr(e, v) => drop(IccReg::from_packed(e).map(|r| g.msr(vcpu, r, v))),
        Access::UserMrs(e) => drop(IccReg::from_packed(e).map(|r| g.gic.user_sysreg_read(vcpu, r))),
        Access::UserMsr(e, v) => drop(IccReg::from_packed(e).map(|r| g.gic.user_sysreg_write(vcpu, r, v))),
        Access::Line(i, l) => {
            let _ = if i < 32 { g.gic.set_ppi(vcpu, i, l) } else { g.gic.set_spi(i, l) };
        }
        Access::Msi(i, d, e) => drop(g.gic.inject_msi(i, d, e, &g.ram)),
        Access::Levels(f, l) => {
            g.gic.user_line_levels(vcpu, f);
            g.gic.set_user_line_levels(vcpu, f, l);
        }
        Access::Save => {
            let _ = g.gic.save_pending_tables(&g.ram);
            let state = g.gic.state();
            g.gic.set_state(&state).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_access_panics(
        v2: bool, pri_bits in 5..=7u8, wide: bool, fill in proptest::collection::vec(any::<u8>(), 256),
        accesses in proptest::collection::vec((0..4usize, access()), 1..200)
    ) {
        let version = if v2 { Version::V2 } else { Version::V3 };
        let mut config = GicConfig::new(version, affinities(3), if wide { 1024 } else { 64 });
        config.pri_bits = pri_bits;
        config.its = usize::from(!v2);
        let mut g = Guest::raw(config);
        // Commands to be found by an ITS whose queue lies in memory.
        for (i, byte) in g.ram.bytes.borrow_mut().iter_mut().enumerate() {
            *byte = if i % 32 == 0 { i as u8 / 32 % 16 } else { fill[i % 256] & 0x83 };
        }
        for (vcpu, access) in accesses {
            run(&mut g, vcpu, access);
        }
        for vcpu in 0..3 {
            let lines = g.gic.lines(vcpu);
            prop_assert!(!(lines.irq && lines.fiq), "one interrupt is the most urgent");
        }
    }

    /// Edges on random SPIs with random priorities: each is acknowledged once, in priority order.
    #[test]
    fn taken_once_in_order(spis in proptest::collection::hash_map(32..96u64, any::<u8>(), 1..40)) {
        let mut g = Guest::v3(1);
        g.msr(0, IccReg::Pmr, 0xff);
        for (&intid, &priority) in &spis {
            g.edge_spi(intid, 0, priority.into());
            g.gic.set_spi(intid as u32, true).unwrap();
            g.gic.set_spi(intid as u32, true).unwrap();
        }
        // 0xf8 is not below the mask of five bits: never signalled.
        let mut left: HashSet<u64> = spis.iter().filter(|s| s.1 & 0xf8 != 0xf8).map(|s| *s.0).collect();
        let mut last = 0;
        while g.irq(0) {
            let intid = g.mrs(0, IccReg::Iar1);
            prop_assert!(left.remove(&intid), "{} is taken once", intid);
            let priority = spis[&intid] & 0xf8;
            prop_assert!(priority >= last);
            last = priority;
            g.msr(0, IccReg::Eoir1, intid);
        }
        prop_assert!(left.is_empty());
    }
}
