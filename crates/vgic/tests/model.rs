//! Random sequences against an independent model: one flat table of interrupts, everything worked
//! out anew from the manual's rules at each question, nothing resident anywhere.

mod common;

use common::{Guest, SGI, affinities};
use proptest::prelude::*;
use ulna_vgic::{Gic, GicConfig, IccReg, Lines, Region, Version};

const VCPUS: usize = 3;
const SPIS: std::ops::Range<u64> = 32..38;
/// Private interrupts that the sequences use: two SGIs, two PPIs.
const PRIVATE: [u64; 4] = [1, 9, 20, 27];

#[derive(Clone, Debug)]
enum Op {
    Line { vcpu: usize, intid: u64, level: bool },
    Enable { vcpu: usize, intid: u64, on: bool },
    Pend { vcpu: usize, intid: u64, on: bool },
    Activate { vcpu: usize, intid: u64, on: bool },
    Group { vcpu: usize, intid: u64, one: bool },
    Priority { vcpu: usize, intid: u64, value: u8 },
    Edge { intid: u64, on: bool },
    Route { intid: u64, to: u64 },
    Sgi { from: usize, intid: u64, list: u64, others: bool, group1: bool },
    Acknowledge { vcpu: usize, group: usize },
    EndLast { vcpu: usize },
    End { vcpu: usize, intid: u64 },
    Dir { vcpu: usize, intid: u64 },
    Pmr { vcpu: usize, value: u8 },
    Bpr { vcpu: usize, group: usize, value: u8 },
    Ctlr { vcpu: usize, value: u64 },
    GroupEnable { vcpu: usize, group: usize, on: bool },
    Forward { on: bool },
}

fn any_op() -> impl Strategy<Value = Op> {
    let v = 0..VCPUS;
    let id = || prop_oneof![SPIS.boxed(), proptest::sample::select(&PRIVATE[..]).boxed()];
    let pri = || proptest::sample::select(vec![0u8, 0x20, 0x40, 0x47, 0x80, 0xa8, 0xf0, 0xf8, 0xff]);
    let acks = (v.clone(), 0..2usize).prop_map(|(vcpu, group)| Op::Acknowledge { vcpu, group });
    let lines =
        (v.clone(), id(), any::<bool>()).prop_map(|(vcpu, intid, level)| Op::Line { vcpu, intid, level });
    let ends = v.clone().prop_map(|vcpu| Op::EndLast { vcpu });
    prop_oneof![
        6 => lines,
        6 => acks,
        6 => ends,
        2 => (v.clone(), id(), any::<bool>()).prop_map(|(vcpu, intid, on)| Op::Enable { vcpu, intid, on }),
        2 => (v.clone(), id(), any::<bool>()).prop_map(|(vcpu, intid, on)| Op::Pend { vcpu, intid, on }),
        1 => (v.clone(), id(), any::<bool>()).prop_map(|(vcpu, intid, on)| Op::Activate { vcpu, intid, on }),
        1 => (v.clone(), id(), any::<bool>()).prop_map(|(vcpu, intid, one)| Op::Group { vcpu, intid, one }),
        2 => (v.clone(), id(), pri()).prop_map(|(vcpu, intid, value)| Op::Priority { vcpu, intid, value }),
        1 => (SPIS, any::<bool>()).prop_map(|(intid, on)| Op::Edge { intid, on }),
        2 => (SPIS, 0..VCPUS as u64 + 1).prop_map(|(intid, to)| Op::Route { intid, to }),
        3 => (v.clone(), 0..2usize, 0..8u64, any::<bool>(), any::<bool>()).prop_map(
            |(from, i, list, others, group1)| Op::Sgi { from, intid: PRIVATE[i], list, others, group1 }),
        1 => (v.clone(), id()).prop_map(|(vcpu, intid)| Op::End { vcpu, intid }),
        2 => (v.clone(), id()).prop_map(|(vcpu, intid)| Op::Dir { vcpu, intid }),
        1 => (v.clone(), pri()).prop_map(|(vcpu, value)| Op::Pmr { vcpu, value }),
        1 => (v.clone(), 0..2usize, 0..8u8).prop_map(|(vcpu, group, value)| Op::Bpr { vcpu, group, value }),
        1 => (v.clone(), 0..4u64).prop_map(|(vcpu, value)| Op::Ctlr { vcpu, value }),
        1 => (v, 0..2usize, any::<bool>()).prop_map(|(vcpu, group, on)| Op::GroupEnable { vcpu, group, on }),
        1 => proptest::bool::weighted(0.8).prop_map(|on| Op::Forward { on }),
    ]
}

#[derive(Clone, Debug, Default)]
struct Int {
    enabled: bool,
    group: usize,
    priority: u8,
    edge: bool,
    line: bool,
    soft: bool,
    /// vCPU at which it is active.
    active: Option<usize>,
    route: Option<usize>,
}

#[derive(Clone, Debug, Default)]
struct Cpu {
    pmr: u8,
    bpr: [u8; 2],
    cbpr: bool,
    split: bool,
    on: [bool; 2],
    /// Active priorities as a stack would have them: (group priority, group), most urgent last.
    running: Vec<(u8, usize)>,
    taken: Vec<u64>,
}

/// (vCPU for private ones, INTID) -> interrupt
#[derive(Clone, Debug)]
struct Model {
    ints: std::collections::BTreeMap<(usize, u64), Int>,
    cpus: Vec<Cpu>,
    forward: bool,
}

impl Model {
    fn new() -> Model {
        let mut ints = std::collections::BTreeMap::new();
        for vcpu in 0..VCPUS {
            for intid in PRIVATE {
                let (edge, enabled) = (intid < 16, intid < 16);
                ints.insert(
                    (vcpu, intid),
                    Int { edge, enabled, group: 1, route: Some(vcpu), ..Int::default() },
                );
            }
        }
        for intid in SPIS {
            ints.insert((0, intid), Int { edge: true, group: 1, route: Some(0), ..Int::default() });
        }
        Model { ints, cpus: vec![Cpu::default(); VCPUS], forward: false }
    }

    fn key(vcpu: usize, intid: u64) -> (usize, u64) {
        (if intid < 32 { vcpu } else { 0 }, intid)
    }

    fn int(&mut self, vcpu: usize, intid: u64) -> &mut Int {
        self.ints.get_mut(&Self::key(vcpu, intid)).unwrap()
    }

    fn group_priority(&self, vcpu: usize, priority: u8, group: usize) -> u8 {
        let c = &self.cpus[vcpu];
        // Least binary points for five bits: 2 and 3. Bits above the point make the group priority.
        let ignored = if group == 0 || c.cbpr { c.bpr[0].max(2) as u32 + 1 } else { c.bpr[1].max(3).into() };
        if ignored >= 8 { 0 } else { priority >> ignored << ignored }
    }

    fn running(&self, vcpu: usize) -> u8 {
        self.cpus[vcpu].running.iter().map(|r| r.0).min().unwrap_or(0xff)
    }

    /// The most urgent pending interrupt of enabled groups.
    fn highest(&self, vcpu: usize) -> Option<(u8, u64, usize)> {
        self.ints
            .iter()
            .filter(|_| self.forward)
            .filter(|((_, _), i)| i.enabled && i.active.is_none() && i.route == Some(vcpu))
            .filter(|(_, i)| i.soft || (!i.edge && i.line))
            .filter(|(_, i)| self.cpus[vcpu].on[i.group])
            .map(|((_, intid), i)| (i.priority, *intid, i.group))
            .min()
    }

    fn signalled(&self, vcpu: usize) -> Option<(u8, u64, usize)> {
        self.highest(vcpu).filter(|&(p, _, g)| {
            p < self.cpus[vcpu].pmr && self.group_priority(vcpu, p, g) < self.running(vcpu)
        })
    }

    fn lines(&self, vcpu: usize) -> Lines {
        let s = self.signalled(vcpu);
        Lines { irq: s.is_some_and(|s| s.2 == 1), fiq: s.is_some_and(|s| s.2 == 0) }
    }

    fn acknowledge(&mut self, vcpu: usize, group: usize) -> u64 {
        let Some((priority, intid, g)) = self.signalled(vcpu).filter(|s| s.2 == group) else { return 1023 };
        let active = self.group_priority(vcpu, priority, g);
        // The registers hold a bit per priority and group.
        if !self.cpus[vcpu].running.contains(&(active, g)) {
            self.cpus[vcpu].running.push((active, g));
        }
        self.cpus[vcpu].taken.push(intid);
        let i = self.int(vcpu, intid);
        i.active = Some(vcpu);
        if i.edge {
            i.soft = false;
        }
        intid
    }

    fn deactivate(&mut self, vcpu: usize, intid: u64, from_anywhere: bool) {
        let i = self.int(vcpu, intid);
        if i.active.is_some_and(|at| from_anywhere || at == vcpu) {
            i.active = None;
            if !i.edge {
                i.soft = false;
            }
        }
    }

    fn end(&mut self, vcpu: usize, intid: u64) {
        let c = &mut self.cpus[vcpu];
        let Some(first) = c.running.iter().copied().min() else { return };
        c.running.retain(|r| *r != first);
        if !c.split {
            self.deactivate(vcpu, intid, false);
        }
    }
}

/// Where the registers of an interrupt are.
fn frame(vcpu: usize, intid: u64) -> (Region, u64) {
    if intid < 32 { (Region::Redist(vcpu), SGI) } else { (Region::Dist, 0) }
}

/// Carries an operation out on both; tells what an acknowledge returned.
fn step(g: &mut Guest, m: &mut Model, op: &Op) -> Option<(u64, u64)> {
    let bit = |g: &mut Guest, vcpu: usize, intid: u64, base: u64| {
        let (region, at) = frame(vcpu, intid);
        g.w(vcpu, region, at + base + intid / 32 * 4, 1 << (intid % 32));
    };
    match *op {
        Op::Line { vcpu, intid, level } => {
            let i = m.int(vcpu, intid);
            match intid {
                0..16 => return None,
                16..32 => g.gic.set_ppi(vcpu, intid as u32, level).unwrap(),
                _ => g.gic.set_spi(intid as u32, level).unwrap(),
            }
            if i.edge { i.soft |= level } else { i.line = level }
        }
        Op::Enable { vcpu, intid, on } => {
            bit(g, vcpu, intid, if on { 0x100 } else { 0x180 });
            m.int(vcpu, intid).enabled = on;
        }
        Op::Pend { vcpu, intid, on } => {
            bit(g, vcpu, intid, if on { 0x200 } else { 0x280 });
            m.int(vcpu, intid).soft = on;
        }
        Op::Activate { vcpu, intid, on } => {
            bit(g, vcpu, intid, if on { 0x300 } else { 0x380 });
            let routed = m.int(vcpu, intid).route;
            if !on {
                // By ICACTIVER: what ISPENDR latched stays.
                m.int(vcpu, intid).active = None;
            } else if m.int(vcpu, intid).active.is_none() {
                // Nobody's if it goes nowhere.
                m.int(vcpu, intid).active = Some(routed.unwrap_or(usize::MAX));
            }
        }
        Op::Group { vcpu, intid, one } => {
            let (region, at) = frame(vcpu, intid);
            let off = at + 0x80 + intid / 32 * 4;
            let old = g.r(vcpu, region, off) & !(1 << (intid % 32));
            g.w(vcpu, region, off, old | u64::from(one) << (intid % 32));
            m.int(vcpu, intid).group = one.into();
        }
        Op::Priority { vcpu, intid, value } => {
            let (region, at) = frame(vcpu, intid);
            g.w8(vcpu, region, at + 0x400 + intid, value.into());
            m.int(vcpu, intid).priority = value & 0xf8;
        }
        Op::Edge { intid, on } => {
            let old = g.r(0, Region::Dist, 0xc08) & !(2 << (intid % 16 * 2));
            g.w(0, Region::Dist, 0xc08, old | u64::from(on) << (intid % 16 * 2 + 1));
            m.int(0, intid).edge = on;
        }
        Op::Route { intid, to } => {
            g.w64(0, Region::Dist, 0x6000 + intid * 8, to);
            let i = m.int(0, intid);
            i.route = Some(to as usize).filter(|&v| v < VCPUS);
            if i.active == Some(usize::MAX) {
                i.active = Some(i.route.unwrap_or(usize::MAX));
            }
        }
        Op::Sgi { from, intid, list, others, group1 } => {
            let reg = if group1 { IccReg::Sgi1r } else { IccReg::Sgi0r };
            g.msr(from, reg, intid << 24 | u64::from(others) << 40 | list);
            for vcpu in 0..VCPUS {
                let hit = if others { vcpu != from } else { list >> vcpu & 1 != 0 };
                let i = m.int(vcpu, intid);
                i.soft |= hit && (group1 || i.group == 0);
            }
        }
        Op::Acknowledge { vcpu, group } => {
            let reg = [IccReg::Iar0, IccReg::Iar1][group];
            return Some((g.mrs(vcpu, reg), m.acknowledge(vcpu, group)));
        }
        Op::EndLast { vcpu } => {
            if let Some(intid) = m.cpus[vcpu].taken.pop() {
                g.msr(vcpu, IccReg::Eoir1, intid);
                m.end(vcpu, intid);
                g.msr(vcpu, IccReg::Dir, intid);
                if m.cpus[vcpu].split {
                    m.deactivate(vcpu, intid, true);
                }
            }
        }
        Op::End { vcpu, intid } => {
            g.msr(vcpu, IccReg::Eoir0, intid);
            m.end(vcpu, intid);
        }
        Op::Dir { vcpu, intid } => {
            g.msr(vcpu, IccReg::Dir, intid);
            if m.cpus[vcpu].split {
                m.deactivate(vcpu, intid, true);
            }
        }
        Op::Pmr { vcpu, value } => {
            g.msr(vcpu, IccReg::Pmr, value.into());
            m.cpus[vcpu].pmr = value & 0xf8;
        }
        Op::Bpr { vcpu, group, value } => {
            g.msr(vcpu, [IccReg::Bpr0, IccReg::Bpr1][group], value.into());
            let c = &mut m.cpus[vcpu];
            if group == 0 || !c.cbpr {
                c.bpr[group] = value;
            }
        }
        Op::Ctlr { vcpu, value } => {
            g.msr(vcpu, IccReg::Ctlr, value);
            let c = &mut m.cpus[vcpu];
            (c.cbpr, c.split) = (value & 1 != 0, value & 2 != 0);
        }
        Op::GroupEnable { vcpu, group, on } => {
            g.msr(vcpu, [IccReg::Igrpen0, IccReg::Igrpen1][group], on.into());
            m.cpus[vcpu].on[group] = on;
        }
        Op::Forward { on } => {
            g.w(0, Region::Dist, 0, u64::from(on) << 1);
            m.forward = on;
        }
    }
    None
}

fn config() -> GicConfig {
    GicConfig::new(Version::V3, affinities(VCPUS), 64)
}

/// Both, as a booted guest has them.
fn booted() -> (Guest, Model) {
    let (mut g, mut m) = (Guest::raw(config()), Model::new());
    let mut prologue = vec![Op::Forward { on: true }];
    for vcpu in 0..VCPUS {
        prologue.push(Op::Pmr { vcpu, value: 0xf0 });
        prologue.push(Op::GroupEnable { vcpu, group: 1, on: true });
        prologue.push(Op::Enable { vcpu, intid: 27, on: true });
    }
    for intid in SPIS {
        prologue.push(Op::Enable { vcpu: 0, intid, on: true });
        prologue.push(Op::Edge { intid, on: intid % 2 == 0 });
        prologue.push(Op::Route { intid, to: intid % VCPUS as u64 });
    }
    for op in &prologue {
        step(&mut g, &mut m, op);
    }
    (g, m)
}

/// Everything that a guest can see of the interrupts in play, without side effects.
fn look(g: &mut Guest) -> Vec<u64> {
    let mut seen = Vec::new();
    for off in [0x84, 0x104, 0x204, 0x304, 0x420, 0x424, 0xc08] {
        seen.push(g.r(0, Region::Dist, off));
    }
    for vcpu in 0..VCPUS {
        let lines = g.gic.lines(vcpu);
        seen.push(u64::from(lines.irq) | u64::from(lines.fiq) << 1);
        for off in [0x80, 0x100, 0x200, 0x300, 0x400, 0x408, 0x414, 0x418] {
            seen.push(g.r(vcpu, Region::Redist(vcpu), SGI + off));
        }
        use IccReg::*;
        for reg in [Pmr, Bpr0, Bpr1, Ctlr, Igrpen0, Igrpen1, Ap0r(0), Ap1r(0), Rpr, Hppir0, Hppir1] {
            seen.push(g.mrs(vcpu, reg));
        }
    }
    seen
}

/// Saves by KVM's registers in the order of its documentation and restores into another GIC.
fn by_registers(from: &mut Gic, ram: &common::Ram) -> Gic {
    let mut to = Gic::new(config()).unwrap();
    let dist = (0..0x1_0000).step_by(4).map(|off| (Region::Dist, 0, off));
    let redists =
        (0..VCPUS).flat_map(|v| (0..0x2_0000).step_by(4).map(move |off| (Region::Redist(v), v, off)));
    // GICD_CTLR last: it starts the show.
    for (region, vcpu, off) in dist.skip(1).chain(redists).chain([(Region::Dist, 0, 0)]) {
        // What clears is not for restoring.
        let clears = matches!(off & 0xffff, 0x180..0x200 | 0x280..0x300 | 0x380..0x400);
        if from.has_user_register(region, off) {
            let value = from.user_read(region, vcpu, off);
            let is_enable = matches!(off & 0xffff, 0x100..0x180);
            if is_enable {
                // SGIs are created enabled: clear first.
                to.user_write(region, vcpu, off + 0x80, !value & 0xffff_ffff, ram).unwrap();
            }
            if !clears {
                to.user_write(region, vcpu, off, value, ram).unwrap();
            }
        }
    }
    for vcpu in 0..VCPUS {
        let levels = from.user_line_levels(vcpu, 0);
        to.set_user_line_levels(vcpu, 0, levels);
        use IccReg::*;
        for reg in [Pmr, Bpr0, Bpr1, Ctlr, Igrpen0, Igrpen1, Ap0r(0), Ap1r(0)] {
            to.user_sysreg_write(vcpu, reg, from.user_sysreg_read(vcpu, reg).unwrap()).unwrap();
        }
    }
    let levels = from.user_line_levels(0, 32);
    to.set_user_line_levels(0, 32, levels);
    to
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_model(ops in proptest::collection::vec(any_op(), 1..120)) {
        let (mut g, mut m) = booted();
        for (n, op) in ops.iter().enumerate() {
            let before: Vec<Lines> = (0..VCPUS).map(|v| g.gic.lines(v)).collect();
            g.gic.take_changed();
            if let Some((got, expected)) = step(&mut g, &mut m, op) {
                prop_assert_eq!(got, expected, "step {}: {:?}", n, op);
            }
            let changed = g.gic.take_changed();
            for (vcpu, before) in before.into_iter().enumerate() {
                let lines = g.gic.lines(vcpu);
                prop_assert_eq!(lines, m.lines(vcpu), "step {}: {:?}, vCPU {}: {:?}", n, op, vcpu, m);
                prop_assert!(changed.contains(vcpu) || lines == before, "nobody told vCPU {}", vcpu);
                prop_assert_eq!(g.mrs(vcpu, IccReg::Rpr), u64::from(m.running(vcpu)));
                let highest = m.highest(vcpu);
                for (group, reg) in [IccReg::Hppir0, IccReg::Hppir1].into_iter().enumerate() {
                    let expected = highest.filter(|h| h.2 == group).map_or(1023, |h| h.1);
                    prop_assert_eq!(g.mrs(vcpu, reg), expected);
                }
            }
            for (&(vcpu, intid), i) in &m.ints {
                let (region, at) = frame(vcpu, intid);
                let word = at + intid / 32 * 4;
                let bit = |v: u64| v >> (intid % 32) & 1 != 0;
                prop_assert_eq!(bit(g.r(vcpu, region, word + 0x200)), i.soft || (!i.edge && i.line), "pending {}", intid);
                prop_assert_eq!(bit(g.r(vcpu, region, word + 0x300)), i.active.is_some(), "active {}", intid);
            }
        }
    }

    /// A saved and restored GIC looks the same, and goes on the same.
    #[test]
    fn saving_loses_nothing(ops in proptest::collection::vec(any_op(), 1..60), more in proptest::collection::vec(any_op(), 1..40)) {
        let (mut g, mut m) = booted();
        for op in &ops {
            step(&mut g, &mut m, op);
        }
        let seen = look(&mut g);
        let state = g.gic.state();
        let mut whole = Guest::raw(config());
        whole.gic.set_state(&state).unwrap();
        prop_assert_eq!(&whole.gic.state(), &state);
        prop_assert_eq!(&look(&mut whole), &seen);
        let mut registers = Guest::raw(config());
        registers.gic = by_registers(&mut g.gic, &g.ram);
        prop_assert_eq!(&look(&mut registers), &seen);
        let mut twin = m.clone();
        for op in &more {
            let a = step(&mut g, &mut m, op);
            let b = step(&mut whole, &mut twin, op);
            prop_assert_eq!(a, b);
        }
        prop_assert_eq!(look(&mut whole), look(&mut g));
    }
}
