//! A guest's interrupt controller saved through the attributes only, and restored into a fresh VM: what was pending,
//! active and mapped goes on exactly.

mod common;

use std::sync::Arc;

use common::*;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::device::*;
use ulna_kvm_core::{ClockKind, Device, Run, Vcpu, Vm};

const CONFIG: u64 = RAM + 0x10_0000;
const QUEUE: u64 = RAM + 0x11_0000;
const DEVICES: u64 = RAM + 0x12_0000;
const COLLECTIONS: u64 = RAM + 0x13_0000;
const PENDING: u64 = RAM + 0x14_0000;
const ITTS: u64 = RAM + 0x18_0000;
const VALID: u64 = 1 << 63;
const SGI: u64 = 0x1_0000;

/// GITS_*
const CTLR: u64 = 0;
const CBASER: u64 = 0x80;
const CWRITER: u64 = 0x88;
const CREADR: u64 = 0x90;
const BASER0: u64 = 0x100;
const BASER1: u64 = 0x108;

/// One GICv3 machine with an ITS and two vCPUs.
struct Machine {
    g: Guest,
    vcpus: Vec<Vcpu>,
    gic: Device,
    its: Device,
    nr_irqs: u64,
    queue_at: u64,
}

/// Acknowledges, says what, ends it, for ever.
fn acknowledger() -> Vec<u32> {
    let body = [vec![mrs(0, SysReg::ICC_IAR1_EL1)], done(0), vec![msr(SysReg::ICC_EOIR1_EL1, 0)]].concat();
    let back = -(body.len() as i32);
    [body, vec![b(back)]].concat()
}

impl Machine {
    fn new(nr_irqs: u64) -> Machine {
        let g = Guest::new("n1", ClockKind::Host);
        let vcpus = vec![g.vcpu(0, PSCI), g.vcpu(1, PSCI)];
        let gic = g.vm.create_device(TYPE_ARM_VGIC_V3).expect("GIC");
        gic.set_attr(GRP_NR_IRQS, 0, nr_irqs).expect("lines");
        gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
        gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR).expect("redistributors");
        let its = g.vm.create_device(TYPE_ARM_VGIC_ITS).expect("ITS");
        its.set_attr(GRP_ADDR, ITS_ADDR_TYPE, ITS).expect("ITS address");
        gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
        Machine { g, vcpus, gic, its, nr_irqs, queue_at: 0 }
    }

    /// What an operating system sets up before devices: everything enabled, all LPIs of priority 0xa0.
    fn start(&mut self) {
        self.g.memory.program(0, &acknowledger());
        self.dist(0, 2);
        for n in 0..64 {
            self.g.memory.write32((CONFIG - RAM) as usize + 4 * n, 0xa1a1_a1a1);
        }
        for v in 0..2 {
            self.redist64(v, 0x70, CONFIG | 15);
            self.redist64(v, 0x78, PENDING + v * 0x1_0000);
            self.redist(v, 0, 1);
            self.sysreg(v, 0xc230, 0xf0);
            self.sysreg(v, 0xc667, 1);
        }
        self.its(BASER0, VALID | DEVICES);
        self.its(BASER1, VALID | COLLECTIONS);
        self.its(CBASER, VALID | QUEUE | 0xf);
        self.its(CTLR, 1);
    }

    fn dist(&self, off: u64, v: u64) {
        self.gic.set_attr(GRP_DIST_REGS, off, v).expect("distributor");
    }

    fn redist(&self, vcpu: u64, off: u64, v: u64) {
        self.gic.set_attr(GRP_REDIST_REGS, vcpu << 32 | off, v).expect("redistributor");
    }

    fn redist64(&self, vcpu: u64, off: u64, v: u64) {
        self.redist(vcpu, off, v & 0xffff_ffff);
        self.redist(vcpu, off + 4, v >> 32);
    }

    fn sysreg(&self, vcpu: u64, enc: u64, v: u64) {
        self.gic.set_attr(GRP_CPU_SYSREGS, vcpu << 32 | enc, v).expect("CPU interface");
    }

    fn its(&self, off: u64, v: u64) {
        self.its.set_attr(GRP_ITS_REGS, off, v).expect("ITS");
    }

    fn command(&mut self, words: [u64; 4]) {
        for (n, w) in words.into_iter().enumerate() {
            self.g.memory.write64((QUEUE - RAM + self.queue_at) as usize + 8 * n, w);
        }
        self.queue_at = (self.queue_at + 32) % 0x1_0000;
        self.its(CWRITER, self.queue_at);
        assert_eq!(self.its.get_attr(GRP_ITS_REGS, CREADR, 0), Ok(self.queue_at));
    }

    fn map_device(&mut self, device: u64, itt: u64, valid: bool) {
        self.command([8 | device << 32, 4, u64::from(valid) << 63 | itt, 0]);
    }

    fn map_collection(&mut self, id: u64, vcpu: u64) {
        self.command([9, 0, VALID | vcpu << 16 | id, 0]);
    }

    fn map_event(&mut self, device: u64, event: u64, lpi: u64, collection: u64) {
        self.command([0xa | device << 32, event | lpi << 32, collection, 0]);
    }

    fn msi(&self, device: u32, event: u32) {
        assert_eq!(self.g.vm.signal_msi(ITS + 0x1_0040, device, event), Ok(true));
    }

    /// An SPI, enabled, of priority 0x80, to a vCPU.
    fn spi(&self, intid: u64, vcpu: u64, edge: bool) {
        let byte = intid % 4 * 8;
        let at = 0x400 + intid / 4 * 4;
        let old = self.gic.get_attr(GRP_DIST_REGS, at, 0).expect("priority");
        self.dist(at, old & !(0xff << byte) | 0x80 << byte);
        let at = 0xc00 + intid / 16 * 4;
        let old = self.gic.get_attr(GRP_DIST_REGS, at, 0).expect("configuration");
        let bit = 2u64 << (intid % 16 * 2);
        self.dist(at, if edge { old | bit } else { old & !bit });
        self.dist(0x6000 + intid * 8, vcpu);
        self.dist(0x100 + intid / 32 * 4, 1 << (intid % 32));
    }

    fn line(&self, intid: u32, level: bool) {
        self.g.vm.irq_line(1 << 24 | intid, level).expect("line");
    }

    /// What the vCPU takes next; it ends what it took before.
    fn takes(&mut self, vcpu: usize) -> u64 {
        result(&mut self.vcpus[vcpu])
    }
}

/// What a VMM has to carry: (group, attribute, value) of the GIC, in the order of restoring, and of the ITS.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Saved {
    gic: Vec<(u32, u64, u64)>,
    its: Vec<(u64, u64)>,
}

impl Saved {
    fn take(m: &Machine) -> Saved {
        let mut gic = Vec::new();
        let mut get = |group: u32, attr: u64| {
            gic.push((group, attr, m.gic.get_attr(group, attr, 0).expect("readable")));
        };
        let n = m.nr_irqs;
        get(GRP_DIST_REGS, 8);
        get(GRP_DIST_REGS, 0);
        // Groups, enables, configuration, priorities, routes; then what is pending and active.
        for bank in [0x80, 0x100] {
            (4..n / 8).step_by(4).for_each(|o| get(GRP_DIST_REGS, bank + o));
        }
        (8..n / 4).step_by(4).for_each(|o| get(GRP_DIST_REGS, 0xc00 + o));
        (32..n).step_by(4).for_each(|o| get(GRP_DIST_REGS, 0x400 + o));
        (32 * 8..n * 8).step_by(4).for_each(|o| get(GRP_DIST_REGS, 0x6000 + o));
        for bank in [0x200, 0x300] {
            (4..n / 8).step_by(4).for_each(|o| get(GRP_DIST_REGS, bank + o));
        }
        for v in (0..m.vcpus.len() as u64).map(|v| v << 32) {
            for o in [0x70, 0x74, 0x78, 0x7c, 0, 0x14, SGI + 0x80, SGI + 0x100] {
                get(GRP_REDIST_REGS, v | o);
            }
            (0..32).step_by(4).for_each(|o| get(GRP_REDIST_REGS, v | (SGI + 0x400 + o)));
            for o in [0xc00, 0xc04, 0x200, 0x300] {
                get(GRP_REDIST_REGS, v | (SGI + o));
            }
            // PMR, BPR0, BPR1, AP0R0, AP1R0, then CTLR (with CBPR a BPR1 cannot be written), SRE, IGRPEN0, IGRPEN1
            for enc in [0xc230, 0xc643, 0xc663, 0xc644, 0xc648, 0xc664, 0xc665, 0xc666, 0xc667] {
                get(GRP_CPU_SYSREGS, v | enc);
            }
            get(GRP_LEVEL_INFO, v);
        }
        (32..n).step_by(32).for_each(|first| get(GRP_LEVEL_INFO, first));
        let read = |o| (o, m.its.get_attr(GRP_ITS_REGS, o, 0).expect("readable"));
        let its = [CBASER, CREADR, CWRITER, BASER0, BASER1, 4, CTLR].map(read).to_vec();
        m.its.set_attr(GRP_CTRL, ITS_SAVE_TABLES, 0).expect("tables");
        m.gic.set_attr(GRP_CTRL, CTRL_SAVE_PENDING_TABLES, 0).expect("pending tables");
        Saved { gic, its }
    }

    fn restore(&self, m: &Machine) {
        // SGIs are created enabled.
        for v in 0..m.vcpus.len() as u64 {
            m.redist(v, SGI + 0x180, 0xffff_ffff);
        }
        for &(group, attr, value) in &self.gic {
            assert_eq!(m.gic.set_attr(group, attr, value), Ok(()), "group {group}, {attr:#x}: {value:#x}");
        }
        for &(offset, value) in &self.its {
            if offset == CTLR {
                m.its.set_attr(GRP_CTRL, ITS_RESTORE_TABLES, 0).expect("tables");
            }
            assert_eq!(m.its.set_attr(GRP_ITS_REGS, offset, value), Ok(()), "{offset:#x}: {value:#x}");
        }
    }
}

fn copy_memory(from: &Memory, to: &Memory) {
    for o in (0..from.len).step_by(4) {
        to.write32(o, from.read32(o));
    }
}

/// A new machine in the state of another one, vCPUs included.
fn moved(from: &mut Machine) -> Machine {
    for v in &mut from.vcpus {
        // The store that said what was taken is to be completed here, or it would be made again there.
        v.set_immediate_exit(true);
        assert!(matches!(v.run(), Ok(Run::Intr)));
        v.set_immediate_exit(false);
    }
    let saved = Saved::take(from);
    let mut to = Machine::new(from.nr_irqs);
    copy_memory(&from.g.memory, &to.g.memory);
    saved.restore(&to);
    for (old, new) in from.vcpus.iter_mut().zip(&mut to.vcpus) {
        for id in old.reg_list().expect("list") {
            let mut b = vec![0; id.size()];
            old.get_one_reg(id, &mut b).expect("readable");
            // Identification registers take the same value, which they have.
            new.set_one_reg(id, &b).expect("writable");
        }
    }
    to.queue_at = from.queue_at;
    assert_eq!(Saved::take(&to), saved, "the same form again");
    to
}

/// Takes everything both machines have to offer: the same, in the same order.
fn go_on_alike(a: &mut Machine, b: &mut Machine, quiet: u32) -> Vec<(usize, u64)> {
    let mut taken = Vec::new();
    for n in 0..100 {
        let vcpu = n % 2;
        let (x, y) = (a.takes(vcpu), b.takes(vcpu));
        assert_eq!(x, y, "vCPU {vcpu} after {taken:?}");
        if x == u64::from(quiet) {
            // The device is content.
            a.line(quiet, false);
            b.line(quiet, false);
        }
        if x == 1023 && taken.last().is_some_and(|t: &(usize, u64)| t.1 == 1023) {
            return taken;
        }
        taken.push((vcpu, x));
    }
    panic!("no end of interrupts: {taken:?}");
}

fn busy_machine() -> Machine {
    let mut m = Machine::new(96);
    m.start();
    m.spi(40, 1, true);
    m.spi(41, 0, false);
    m.spi(70, 1, false);
    m.spi(71, 0, true);
    m.map_collection(0, 0);
    m.map_collection(7, 1);
    for (n, device) in (0u64..).zip([3, 9, 200]) {
        m.map_device(device, ITTS + 0x1000 * n, true);
        for event in [0, 5, 31] {
            m.map_event(device, event, 8192 + 10 * n + event % 8, if event == 5 { 7 } else { 0 });
        }
    }
    m
}

#[test]
fn interrupts_go_on_in_a_fresh_vm() {
    let mut a = busy_machine();
    a.msi(3, 0);
    a.msi(9, 5);
    a.msi(200, 31);
    a.line(40, true);
    a.line(41, true);
    a.line(70, true);
    assert_eq!(a.takes(0), 41, "and has not ended it: active");
    assert_eq!(a.takes(1), 40);
    // Edges while active, an edge for later, a level that goes again, and an LPI whose line was pulsed twice.
    a.line(40, true);
    a.line(71, true);
    a.line(70, false);
    a.msi(3, 0);
    a.msi(9, 0);

    let mut b = moved(&mut a);
    assert_eq!(b.gic.get_attr(GRP_DIST_REGS, 0x304, 0), Ok(1 << 8 | 1 << 9), "both active");
    let taken = go_on_alike(&mut a, &mut b, 41);
    let of = |v: usize| taken.iter().filter(|t| t.0 == v && t.1 != 1023).map(|t| t.1).collect::<Vec<_>>();
    assert_eq!(of(0), [41, 71, 8192, 8202, 8219], "the level again, then the edge, then LPIs");
    assert_eq!(of(1), [40, 8207]);

    // Both go on being the same machine, and a second move keeps them so.
    let mut c = moved(&mut b);
    c.msi(200, 5);
    a.msi(200, 5);
    for m in [&mut a, &mut c] {
        m.command([1 | 3 << 32, 0, 7, 0]); // MOVI: device 3, event 0 to collection 7
        m.msi(3, 0);
    }
    assert_eq!(go_on_alike(&mut a, &mut c, 41)[1..4], [(1, 8192), (0, 1023), (1, 8217)]);
}

#[test]
fn what_a_guest_unmapped_after_a_save_stays_unmapped() {
    let mut a = busy_machine();
    let _first = Saved::take(&a);
    a.map_device(3, 0, false);
    a.command([0xf | 9 << 32, 0, 0, 0]); // DISCARD the first event of device 9
    let b = moved(&mut a);
    for (device, event, there) in [(3, 0, false), (9, 0, false), (9, 5, true), (200, 0, true)] {
        assert_eq!(b.g.vm.signal_msi(ITS + 0x1_0040, device, event), Ok(there), "{device} {event}");
    }
}

#[test]
fn an_event_may_wait_for_its_collection() {
    let mut a = Machine::new(64);
    a.start();
    a.map_device(1, ITTS, true);
    a.map_event(1, 2, 8200, 5);
    let mut b = moved(&mut a);
    assert_eq!(b.g.vm.signal_msi(ITS + 0x1_0040, 1, 2), Ok(false));
    b.map_collection(5, 1);
    b.msi(1, 2);
    assert_eq!(b.takes(1), 8200);
}

#[test]
fn tables_that_cannot_be_restored_change_nothing() {
    let mut a = busy_machine();
    let saved = Saved::take(&a);
    assert_eq!(a.its.set_attr(GRP_CTRL, ITS_RESTORE_TABLES, 0), Err(ulna_kvm_abi::Errno::EEXIST));
    a.msi(3, 0);
    assert_eq!(a.takes(0), 8192, "still mapped");

    let b = Machine::new(96);
    copy_memory(&a.g.memory, &b.g.memory);
    // The last device's table is nowhere.
    b.g.memory.write64((DEVICES - RAM) as usize + 8 * 200, VALID | (0x7000_0000 >> 8) << 5 | 4);
    let ids = saved.its.iter().filter(|(o, _)| *o != CTLR);
    ids.for_each(|&(o, v)| b.its(o, v));
    assert_eq!(b.its.set_attr(GRP_CTRL, ITS_RESTORE_TABLES, 0), Err(ulna_kvm_abi::Errno::EFAULT));
    copy_memory(&a.g.memory, &b.g.memory);
    saved.restore(&b);
    b.msi(200, 5);
}

#[test]
fn any_state_that_attributes_make_is_saved_and_restored_the_same() {
    let mut rng = Rng(20_261_121);
    let (mut refused, mut accepted) = (0u32, 0u32);
    for _round in 0..40 {
        let m = Machine::new(96);
        // KVM's reset value is one that cannot be written.
        m.its(CBASER, 0);
        if rng.below(2) == 0 {
            m.its(BASER0, VALID | DEVICES);
            m.its(BASER1, VALID | COLLECTIONS);
            m.its(CBASER, VALID | QUEUE | 1);
        }
        for _ in 0..rng.below(60) {
            let value = match rng.below(4) {
                0 => 0,
                1 => u64::MAX,
                2 => 1 << rng.below(64),
                _ => rng.next(),
            };
            let vcpu = rng.below(2) << 32;
            let banks = [0x80, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0x400, 0xc00, 0x6000];
            let bank = banks[rng.below(banks.len() as u64) as usize];
            let written = match rng.below(8) {
                0 => m.gic.set_attr(GRP_DIST_REGS, rng.below(5) * 4, value),
                1 | 2 => m.gic.set_attr(GRP_DIST_REGS, bank + 4 * rng.below(192), value),
                3 => m.gic.set_attr(GRP_REDIST_REGS, vcpu | (SGI + bank + 4 * rng.below(8)), value),
                4 => {
                    let at = [0, 0x14, 0x70, 0x74, 0x78, 0x7c][rng.below(6) as usize];
                    m.gic.set_attr(GRP_REDIST_REGS, vcpu | at, value)
                }
                5 => {
                    let enc = [0xc230, 0xc643, 0xc644, 0xc648, 0xc663, 0xc664, 0xc665, 0xc666, 0xc667];
                    // Real values of ICC_CTLR_EL1 are 0x8400 and below.
                    let v = if rng.below(2) == 0 { value } else { 0x8400 | value & 3 };
                    m.gic.set_attr(GRP_CPU_SYSREGS, vcpu | enc[rng.below(9) as usize], v)
                }
                6 => m.gic.set_attr(GRP_LEVEL_INFO, vcpu | (32 * rng.below(3)), value),
                _ => {
                    let at = [CTLR, CBASER, CWRITER, CREADR, BASER0, BASER1][rng.below(6) as usize];
                    // Tables in memory, and the queue; saving others is refused.
                    let v = match at {
                        BASER0 => value & !0x000f_ffff_ffff_ffff | DEVICES,
                        BASER1 => value & !0x000f_ffff_ffff_ffff | COLLECTIONS,
                        CBASER => value & !0x000f_ffff_ffff_ffff | QUEUE | rng.below(16),
                        _ => value & 0xf_ffff,
                    };
                    m.its.set_attr(GRP_ITS_REGS, at, v)
                }
            };
            *(if written.is_ok() { &mut accepted } else { &mut refused }) += 1;
        }
        let saved = Saved::take(&m);
        let twin = Machine::new(96);
        copy_some(&m, &twin);
        saved.restore(&twin);
        assert_eq!(Saved::take(&twin), saved);
    }
    assert!(accepted > 800 && refused > 20, "{accepted} accepted, {refused} refused");
}

/// The pages that this test's tables are in.
fn copy_some(from: &Machine, to: &Machine) {
    for table in [QUEUE, DEVICES, COLLECTIONS] {
        let at = (table - RAM) as usize;
        (at..at + 0x1000).step_by(4).for_each(|o| to.g.memory.write32(o, from.g.memory.read32(o)));
    }
}

/// A GICv2: by distributor and CPU interface registers, SGIs with their senders.
#[test]
fn a_gicv2_goes_on_in_a_fresh_vm() {
    struct V2 {
        vm: Vm,
        gic: Device,
        _vcpus: Vec<Vcpu>,
        _memory: Arc<Memory>,
    }
    let machine = || {
        let g = Guest::new("rpi4", ClockKind::Host);
        let vcpus = vec![g.vcpu(0, PSCI), g.vcpu(1, PSCI)];
        let gic = g.vm.create_device(TYPE_ARM_VGIC_V2).expect("GIC");
        gic.set_attr(GRP_NR_IRQS, 0, 64).expect("lines");
        gic.set_attr(GRP_ADDR, V2_ADDR_TYPE_DIST, GICD).expect("distributor");
        gic.set_attr(GRP_ADDR, V2_ADDR_TYPE_CPU, GICD + 0x1_0000).expect("CPU interface");
        V2 { vm: g.vm, gic, _vcpus: vcpus, _memory: g.memory }
    };
    let set = |m: &V2, vcpu: u64, off: u64, v: u64| {
        m.gic.set_attr(GRP_DIST_REGS, vcpu << 32 | off, v).expect("distributor");
    };
    let get = |m: &V2, vcpu: u64, off: u64| m.gic.get_attr(GRP_DIST_REGS, vcpu << 32 | off, 0).expect("read");
    let a = machine();
    // The first access brings it to life.
    assert_eq!(a.gic.get_attr(GRP_DIST_REGS, 4, 0), Ok(1 | 1 << 5));
    set(&a, 0, 0, 1);
    set(&a, 0, 0x80, 0xffff);
    assert_eq!(get(&a, 0, 0x80), 0, "userspace that does not know of groups cannot set them");
    set(&a, 0, 8, 0x4b00_343b);
    set(&a, 0, 0x80, 0xff00);
    set(&a, 0, 0x104, 0x30);
    set(&a, 0, 0x824, 0x0102_0102);
    set(&a, 0, 0xc08, 0x800);
    set(&a, 0, 0xf00, 1 << 16 | 3 << 8 | 5); // SGI 5, from vCPU 0 to itself
    set(&a, 1, 0xf00, 1 << 16 | 6); // SGI 6, from vCPU 1 to 0
    a.vm.irq_line(1 << 24 | 36, true).expect("level");
    a.vm.irq_line(1 << 24 | 37, true).expect("edge");
    set(&a, 1, 0x304, 0x20);
    a.gic.set_attr(GRP_CPU_REGS, 0, 1).expect("GICC_CTLR");
    a.gic.set_attr(GRP_CPU_REGS, 4, 0x1e).expect("GICC_PMR");
    assert_eq!(a.gic.get_attr(GRP_CPU_REGS, 4, 0), Ok(0x1e));
    assert_eq!(a.gic.set_attr(GRP_CPU_REGS, 0x40, 1), Ok(()), "unknown ones are ignored");
    assert_eq!(a.gic.has_attr(GRP_CPU_REGS, 0x40).err(), Some(ulna_kvm_abi::Errno::ENXIO));
    assert_eq!(get(&a, 0, 0x204), 0x30, "the level as well as the edge");
    assert_eq!(get(&a, 0, 0xf24), 0x2_0100);

    // In the order that VMMs restore: pending SGIs by their senders last.
    let all = |m: &V2| {
        let mut s = Vec::new();
        let dist = [0x08, 0x80, 0x84, 0x100, 0x104, 0x824, 0xc08, 0x200, 0x204, 0x300, 0x304, 0];
        for vcpu in 0..2 {
            s.extend(dist.map(|o| (GRP_DIST_REGS, vcpu << 32 | o, get(m, vcpu, o))));
            s.extend((0x400..0x440).step_by(4).map(|o| (GRP_DIST_REGS, vcpu << 32 | o, get(m, vcpu, o))));
            for o in (0xf20..0xf30).step_by(4) {
                let v = get(m, vcpu, o);
                s.push((GRP_DIST_REGS, vcpu << 32 | o, v));
            }
            for o in [0, 4, 8, 0x1c, 0xd0] {
                let attr = vcpu << 32 | o;
                s.push((GRP_CPU_REGS, attr, m.gic.get_attr(GRP_CPU_REGS, attr, 0).expect("read")));
            }
        }
        s
    };
    let saved = all(&a);
    let b = machine();
    for &(group, attr, value) in &saved {
        if group == GRP_DIST_REGS && attr & 0xfff == 0xf20 {
            // ISPENDR made the vCPU itself a sender.
            (0xf10..0xf20).step_by(4).for_each(|o| set(&b, attr >> 32, o, 0xffff_ffff));
        }
        if group == GRP_DIST_REGS && attr & 0xfff == 0x100 {
            set(&b, attr >> 32, 0x180, 0xffff_ffff);
        }
        b.gic.set_attr(group, attr, value).expect("restored");
    }
    assert_eq!(all(&b), saved);
}
