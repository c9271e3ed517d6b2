//! A GICv2 written from Arm IHI 0048B as a guest of KVM has it: two groups and no Security state, the CPU interface being
//! the virtual one; and random accesses that compare the software GIC with it.
//!
//! Choices are KVM's, as for [`crate::model`], and: after reset all interrupts are of group 0; GICD_CTLR has one enable for
//! both groups; of several targets of an SPI the lowest takes it, and the first processor where none is named; GICC_APR is
//! one register for both groups.

use ulna_vgic::{Affinity, Gic, GicConfig, NoMemory, Region, Version};

use crate::ops::Rng;

#[derive(Clone, Copy, Debug, Default)]
struct Int {
    group: usize,
    enable: bool,
    edge: bool,
    latch: bool,
    line: bool,
    active: bool,
    priority: u8,
    targets: u8,
    /// SGIs: who raised it, and whose request is active.
    sources: u8,
    owner: Option<usize>,
}

impl Int {
    fn pending(&self) -> bool {
        self.latch || self.sources != 0 || self.line && !self.edge
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Interface {
    ctlr: u32,
    pmr: u8,
    bpr: [u8; 2],
    active: [u32; 2],
}

impl Interface {
    fn bit(&self, n: u32) -> bool {
        self.ctlr >> n & 1 != 0
    }
    fn bpr(&self, group: usize) -> u8 {
        // Five priority bits: no less than 2, and 3 for group 1. CBPR: one for both.
        match group {
            1 if self.bit(4) => (self.bpr(0) + 1).min(7),
            _ => self.bpr[group].max(2 + group as u8),
        }
    }
    fn group_priority(&self, priority: u8, group: usize) -> u32 {
        let low = if group == 1 && !self.bit(4) { self.bpr(1) } else { self.bpr(0) + 1 };
        u32::from(priority) >> low << low
    }
    fn running(&self) -> u32 {
        let any = self.active[0] | self.active[1];
        if any == 0 { 0xff } else { any.trailing_zeros() << 3 }
    }
}

/// The controller.
#[derive(Clone, Debug)]
pub struct ModelV2 {
    forward: bool,
    private: Vec<[Int; 32]>,
    spis: Vec<Int>,
    cpus: Vec<Interface>,
}

impl ModelV2 {
    /// After reset.
    pub fn new(cpus: usize, intids: u32) -> ModelV2 {
        let private = std::array::from_fn(|n| Int { edge: n < 16, enable: n < 16, ..Int::default() });
        let spi = Int { edge: true, ..Int::default() };
        ModelV2 {
            forward: false,
            private: vec![private; cpus],
            spis: vec![spi; intids as usize - 32],
            cpus: vec![Interface::default(); cpus],
        }
    }

    fn int(&self, cpu: usize, intid: u32) -> Option<&Int> {
        if intid < 32 { Some(&self.private[cpu][intid as usize]) } else { self.spis.get(intid as usize - 32) }
    }

    fn int_mut(&mut self, cpu: usize, intid: u32) -> Option<&mut Int> {
        if intid < 32 {
            Some(&mut self.private[cpu][intid as usize])
        } else {
            self.spis.get_mut(intid as usize - 32)
        }
    }

    fn target(i: &Int) -> usize {
        if i.targets == 0 { 0 } else { i.targets.trailing_zeros() as usize }
    }

    fn highest(&self, cpu: usize) -> Option<(u8, u32, usize)> {
        let all = self.private[cpu].iter().chain(&self.spis).zip(0u32..);
        all.filter(|(i, n)| {
            self.forward
                && i.enable
                && i.pending()
                && !i.active
                && self.cpus[cpu].bit(i.group as u32)
                && (*n < 32 || Self::target(i) == cpu)
        })
        .map(|(i, n)| (i.priority, n, i.group))
        .min()
    }

    fn signalled(&self, cpu: usize) -> Option<(u8, u32, usize)> {
        let c = &self.cpus[cpu];
        self.highest(cpu).filter(|(p, _, g)| *p < c.pmr && c.group_priority(*p, *g) < c.running())
    }

    /// IRQ and FIQ of a processor.
    pub fn lines(&self, cpu: usize) -> (bool, bool) {
        match self.signalled(cpu) {
            None => (false, false),
            Some((_, _, 0)) if self.cpus[cpu].bit(3) => (false, true),
            Some(_) => (true, false),
        }
    }

    /// A device drives a line.
    pub fn line(&mut self, cpu: usize, intid: u32, level: bool) {
        if let Some(i) = self.int_mut(cpu, intid) {
            if i.edge { i.latch |= level } else { i.line = level }
        }
    }

    /// The field at an offset: which, the first interrupt, how many, bits of each.
    fn field(&self, offset: u64, size: usize) -> Option<(u64, u32, u32, u32)> {
        let (base, bits) = match offset {
            0x080..0x400 => (offset & !0x7f, 1),
            0x400..0x800 => (0x400, 8),
            0x800..0xc00 => (0x800, 8),
            0xc00..0xd00 => (0xc00, 2),
            _ => return None,
        };
        let known = (size == 4 || size == 1 && bits == 8) && offset.is_multiple_of(size as u64);
        known.then(|| (base, (offset - base) as u32 * 8 / bits, size as u32 * 8 / bits, bits))
    }

    /// A load.
    pub fn load(&mut self, cpu: usize, dist: bool, offset: u64, size: usize) -> u64 {
        if !dist {
            return if size == 4 { self.load_cpu(cpu, offset) } else { 0 };
        }
        if let Some((base, first, count, bits)) = self.field(offset, size) {
            let one = |n: u32| {
                let Some(i) = self.int(cpu, n) else { return 0 };
                u64::from(match base {
                    0x080 => i.group as u32,
                    0x100 | 0x180 => i.enable.into(),
                    0x200 | 0x280 => i.pending().into(),
                    0x300 | 0x380 => i.active.into(),
                    0x400 => i.priority.into(),
                    0x800 if n < 32 => 1 << cpu,
                    0x800 => i.targets.into(),
                    _ => u32::from(i.edge) << 1,
                })
            };
            return (0..count).map(|i| one(first + i) << (i * bits)).fold(0, |a, b| a | b);
        }
        match (offset, size) {
            (0, 4) => self.forward.into(),
            (4, 4) => (self.spis.len() as u64 / 32) | ((self.cpus.len() as u64 - 1) << 5),
            (8, 4) => 0x4b00_343b,
            (0xf10..0xf30, 1 | 4) if offset.is_multiple_of(size as u64) => (0..size)
                .map(|n| u64::from(self.private[cpu][(offset as usize & 0xf) + n].sources) << (8 * n))
                .fold(0, |a, b| a | b),
            _ => 0,
        }
    }

    fn load_cpu(&mut self, cpu: usize, offset: u64) -> u64 {
        let c = self.cpus[cpu];
        let ack_ctl = c.bit(2);
        let next = self.highest(cpu);
        let with_source = |intid: u32| {
            let sources = self.int(cpu, intid).map_or(0, |i| i.sources);
            let source = if sources == 0 { 0 } else { sources.trailing_zeros() };
            u64::from(intid | source << 10)
        };
        match offset {
            0x00 => c.ctlr.into(),
            0x04 => c.pmr.into(),
            0x08 => c.bpr(0).into(),
            0x1c => c.bpr(1).into(),
            0x14 => c.running().into(),
            0x18 => match next {
                None => 1023,
                Some((_, _, 1)) if !ack_ctl => 1022,
                Some((_, n, _)) => with_source(n),
            },
            0x28 => next.filter(|n| n.2 == 1).map_or(1023, |n| with_source(n.1)),
            0x0c => match self.signalled(cpu) {
                None => 1023,
                Some((_, _, 1)) if !ack_ctl => 1022,
                Some(s) => self.take(cpu, s),
            },
            0x20 => match self.signalled(cpu).filter(|s| s.2 == 1) {
                None => 1023,
                Some(s) => self.take(cpu, s),
            },
            0xd0 => (c.active[0] | c.active[1]).into(),
            0xfc => 0x0202_143b,
            _ => 0,
        }
    }

    fn take(&mut self, cpu: usize, (priority, intid, group): (u8, u32, usize)) -> u64 {
        let level = self.cpus[cpu].group_priority(priority, group) >> 3;
        self.cpus[cpu].active[group] |= 1 << level;
        let Some(i) = self.int_mut(cpu, intid) else { return 1023 };
        (i.active, i.owner) = (true, Some(cpu));
        if i.edge {
            i.latch = false;
        }
        let source = if i.sources == 0 { 0 } else { i.sources.trailing_zeros() };
        i.sources &= !(1u8 << source);
        u64::from(intid | source << 10)
    }

    fn inactive(&mut self, cpu: usize, intid: u32, anywhere: bool) {
        if let Some(i) = self.int_mut(cpu, intid)
            && i.active
            && (intid < 32 || anywhere || i.owner == Some(cpu))
        {
            (i.active, i.owner) = (false, None);
            if !i.edge {
                i.latch = false;
            }
        }
    }

    /// A store.
    pub fn store(&mut self, cpu: usize, dist: bool, offset: u64, size: usize, value: u64) {
        if !dist {
            if size == 4 {
                self.store_cpu(cpu, offset, value as u32);
            }
            return;
        }
        let cpus = self.cpus.len();
        if let Some((base, first, count, bits)) = self.field(offset, size) {
            for k in 0..count {
                let (n, v) = (first + k, (value >> (k * bits)) as u32 & ((1u64 << bits) - 1) as u32);
                let Some(i) = self.int_mut(cpu, n) else { continue };
                match (base, v != 0) {
                    (0x080, on) => i.group = on.into(),
                    (0x100, true) => i.enable = true,
                    (0x180, true) => i.enable = false,
                    // SGIs are pending by sender.
                    (0x200 | 0x280, true) if n >= 16 => i.latch = base == 0x200,
                    (0x300, true) if !i.active => {
                        (i.active, i.owner) = (true, Some(Self::target(i)));
                    }
                    (0x380, true) => (i.active, i.owner) = (false, None),
                    (0x400, _) => i.priority = v as u8 & 0xf8,
                    (0x800, _) if n >= 32 => i.targets = v as u8 & ((1u32 << cpus) - 1) as u8,
                    (0xc00, _) if n >= 32 => i.edge = v & 2 != 0,
                    _ => {}
                }
            }
            return;
        }
        match (offset, size) {
            (0, 4) => self.forward = value & 1 != 0,
            (0xf00, 4) => {
                let list = match value >> 24 & 3 {
                    0 => (value >> 16) as u8,
                    1 => !(1u8 << cpu),
                    2 => 1 << cpu,
                    _ => 0,
                };
                for to in (0..cpus).filter(|to| list >> to & 1 != 0) {
                    self.private[to][value as usize & 0xf].sources |= 1 << cpu;
                }
            }
            (0xf10..0xf30, 1 | 4) if offset.is_multiple_of(size as u64) => {
                for n in 0..size {
                    let bits = (value >> (8 * n)) as u8;
                    let i = &mut self.private[cpu][(offset as usize & 0xf) + n];
                    i.sources = if offset >= 0xf20 { i.sources | bits } else { i.sources & !bits };
                }
            }
            _ => {}
        }
    }

    fn store_cpu(&mut self, cpu: usize, offset: u64, value: u32) {
        let c = &mut self.cpus[cpu];
        match offset {
            0x00 => c.ctlr = value & 0x21f,
            0x04 => c.pmr = value as u8 & 0xf8,
            0x08 => c.bpr[0] = (value as u8 & 7).max(2),
            0x1c if !c.bit(4) => c.bpr[1] = (value as u8 & 7).max(3),
            0xd0 => c.active = [value, 0],
            0x10 | 0x24 => {
                let (intid, any) = (value & 0x3ff, c.active[0] | c.active[1]);
                if intid >= 1020 || any == 0 {
                    return;
                }
                let top = any & any.wrapping_neg();
                let group = if c.active[0] & top != 0 { 0 } else { 1 };
                c.active[group] &= !top;
                if !c.bit(9) {
                    self.inactive(cpu, intid, false);
                }
            }
            0x1000 if c.bit(9) && value & 0x3ff < 1020 => self.inactive(cpu, value & 0x3ff, true),
            _ => {}
        }
    }
}

/// Makes `steps` accesses, sense and nonsense, of a GICv2 of so many processors. Gives values read and interrupts taken.
pub fn run(cpus: usize, seed: u64, steps: u64) -> Result<(u64, u64), String> {
    const INTIDS: u32 = 96;
    let vcpus = (0..cpus as u32).map(Affinity).collect();
    let mut gic = Gic::new(GicConfig::new(Version::V2, vcpus, INTIDS)).map_err(|e| e.to_string())?;
    let mut model = ModelV2::new(cpus, INTIDS);
    let mut r = Rng(seed);
    let (mut read, mut taken) = (0, 0);
    let mut last = vec![Vec::new(); cpus];
    let busy = [0u64, 1, 7, 15, 16, 20, 27, 31, 32, 33, 34, 40, 63, 64, 95];
    for n in 0..steps {
        let cpu = r.below(cpus as u64) as usize;
        let intid = busy[r.below(busy.len() as u64) as usize];
        let (word, bit) = (intid / 32 * 4, 1u64 << (intid % 32));
        // What it is: a load or store of the distributor or the CPU interface, or a line.
        let (dist, offset, size, write) = match (n % 500, r.below(20)) {
            (0, _) => (true, 0, 4, Some(1)),
            (1..10, _) => (false, 0, 4, Some(3 | r.draw() & 0x21c)),
            (10..20, _) => (false, 4, 4, Some(0xf8)),
            (20..24, _) => (false, 0xd0, 4, Some(0)),
            (_, 0..3) => {
                let level = r.below(3) != 0;
                if intid >= 32 {
                    gic.set_spi(intid as u32, level).map_err(|e| e.to_string())?;
                } else if intid >= 16 {
                    gic.set_ppi(cpu, intid as u32, level).map_err(|e| e.to_string())?;
                }
                if intid >= 16 {
                    model.line(cpu, intid as u32, level);
                }
                continue;
            }
            (_, 3..5) => (false, [0x0c, 0x20][r.below(2) as usize], 4, None),
            (_, 5..8) => {
                let id = last[cpu].pop().unwrap_or(intid);
                (false, [0x10, 0x10, 0x24, 0x1000][r.below(4) as usize], 4, Some(id))
            }
            (_, 8) => (true, 0xf00, 4, Some(r.draw() & 0x3ff_000f)),
            (_, 9 | 10) => (true, 0x100 + word, 4, Some(bit)),
            (_, 11) => (true, 0x80 * (1 + r.below(7)) + word, 4, Some(bit)),
            (_, 12) => (true, 0x400 + intid, 1, Some(r.draw() & 0xff)),
            (_, 13) => (true, 0x800 + intid, 1, Some(1 << r.below(4))),
            (_, 14) => (false, [0, 4, 8, 0x1c, 0xd0][r.below(5) as usize], 4, Some(r.draw() & 0x3ff)),
            (_, 15) => (false, 4 * r.below(0x40), 4, None),
            (_, 16) => (true, r.below(0x1000), [1, 2, 4, 8][r.below(4) as usize], None),
            (_, 17) => (false, r.below(0x2000), [1, 2, 4, 8][r.below(4) as usize], None),
            _ => {
                let dist = r.below(3) != 0;
                let offset = if dist { r.below(0x1000) } else { r.below(0x100) };
                (dist, offset & !3, [1, 4, 4, 4][r.below(4) as usize], Some(r.draw() & 0xffff_ffff))
            }
        };
        let region = if dist { Region::Dist } else { Region::Cpuif };
        if let Some(v) = write {
            gic.mmio_write(region, cpu, offset, size, v, &NoMemory);
            model.store(cpu, dist, offset, size, v);
        } else {
            let (got, want) = (gic.mmio_read(region, cpu, offset, size), model.load(cpu, dist, offset, size));
            if got != want {
                return Err(format!(
                    "step {n} of seed {seed}, processor {cpu}, {region:?} {offset:#x} ({size} bytes): {got:#x}, but the \
                     model says {want:#x}"
                ));
            }
            read += 1;
            if !dist && size == 4 && matches!(offset, 0x0c | 0x20) && got & 0x3ff < 1020 {
                taken += 1;
                last[cpu].push(got);
            }
        }
        for v in 0..cpus {
            let lines = gic.lines(v);
            if (lines.irq, lines.fiq) != model.lines(v) {
                return Err(format!(
                    "step {n} of seed {seed}, processor {cpu}, {region:?} {offset:#x} ({size} bytes) {write:x?}: lines of \
                     {v} are {lines:?}, but the model says {:?}",
                    model.lines(v)
                ));
            }
        }
    }
    Ok((read, taken))
}
