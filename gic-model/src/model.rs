//! A GICv3 with one Security state and affinity routing, without LPIs (Arm IHI 0069H).
//!
//! Where the specification leaves a choice, it is KVM's:
//! 1. GICD_CTLR has ARE and DS set for good, and one enable that forwards both groups.
//! 2. After reset all interrupts are of group 1, SGIs are enabled, SPIs are edge-triggered and routed to the first
//!    processor. The trigger of SGIs and PPIs is fixed (edge, level).
//! 3. Five priority bits in the distributor. Of equal priorities the lower INTID comes first.
//! 4. A level-sensitive interrupt's pending bit, once written, stays until its deactivation by an end of interrupt or
//!    ICPENDR; an active interrupt is not presented again.
//! 5. Accesses of other sizes than a register has, and of registers that are not there, are RAZ/WI.
//! 6. An end of interrupt drops the most urgent active priority of both groups, whichever register it is written to, and
//!    is ignored if there is none.
//! 7. An SPI that is active belongs to the processor it was active at: only that one's end of interrupt deactivates it,
//!    while ICC_DIR_EL1 does from anywhere. One made active by ISACTIVER belongs to the processor it is routed to.
//! 8. A write of ICC_SGI1R_EL1 raises SGIs of either group, the other two registers those of group 0 only.
//! 9. GICR_PENDBASER and GICR_PROPBASER keep what is written to them even without LPIs; cacheability and shareability
//!    that the tables' accesses do not have are replaced.

use crate::{Frame, Sysreg};

/// What is implemented.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Affinity (Aff3.Aff2.Aff1.Aff0) of each processor.
    pub affinity: Vec<u32>,
    /// INTIDs including the private ones.
    pub intids: u32,
    /// Priority bits of the CPU interfaces: 5 to 7.
    pub pri_bits: u32,
    /// INTID bits: 16 or 24.
    pub id_bits: u32,
    /// ICC_CTLR_EL1.SEIS.
    pub seis: bool,
    /// ICC_CTLR_EL1.A3V.
    pub a3v: bool,
}

/// 32 interrupts, a bit each.
#[derive(Clone, Debug, Default)]
struct Bank {
    group: u32,
    enable: u32,
    /// Pending by an edge or by software.
    latch: u32,
    line: u32,
    active: u32,
    edge: u32,
    priority: [u8; 32],
}

impl Bank {
    fn pending(&self) -> u32 {
        self.latch | self.line & !self.edge
    }
}

/// ICC_* of a processor.
#[derive(Clone, Debug, Default)]
struct Interface {
    pmr: u8,
    bpr: [u8; 2],
    cbpr: bool,
    split: bool,
    enable: [bool; 2],
    /// A bit for each priority level, by group.
    active: [u128; 2],
}

/// The controller.
#[derive(Clone, Debug)]
pub struct Model {
    id: Identity,
    forward: bool,
    /// The private interrupts of each processor.
    private: Vec<Bank>,
    shared: Vec<Bank>,
    /// GICD_IROUTER of SPIs, from INTID 32 on.
    route: Vec<u32>,
    /// The processor that an active SPI belongs to.
    owner: Vec<Option<usize>>,
    cpus: Vec<Interface>,
    pendbaser: Vec<u64>,
    propbaser: u64,
}

const IDLE: u32 = 0xff;
/// No interrupt.
pub const SPURIOUS: u64 = 1023;
/// Priority bits that the distributor keeps.
const KEPT: u8 = 0xf8;
/// GICR_PROPBASER: IDbits 4:0, InnerCache 9:7, Shareability 11:10, Address 51:12, OuterCache 58:56.
const PROPBASER: u64 = 0x070f_ffff_ffff_ff9f;
/// GICR_PENDBASER: the same but for IDbits, with PTZ (62); the address is 51:16.
const PENDBASER: u64 = 0x470f_ffff_ffff_0f80;

/// Field of a register that has one for each interrupt, by its offset in the frame: first offset, bits.
const FIELDS: [(u64, u64, u32); 10] = [
    (0x080, 0x080, 1),
    (0x100, 0x080, 1),
    (0x180, 0x080, 1),
    (0x200, 0x080, 1),
    (0x280, 0x080, 1),
    (0x300, 0x080, 1),
    (0x380, 0x080, 1),
    (0x400, 0x400, 8),
    (0x800, 0x400, 8),
    (0xc00, 0x100, 2),
];

/// What an offset in a frame means: which field, the first interrupt, and how many.
fn field_at(offset: u64, size: usize) -> Option<(u64, u32, u32, u32)> {
    let (base, _, bits) = *FIELDS.iter().find(|f| (f.0..f.0 + f.1).contains(&offset))?;
    let whole = size == 4 || size == 1 && bits == 8;
    if !whole || !offset.is_multiple_of(size as u64) {
        return None;
    }
    let first = (offset - base) as u32 * 8 / bits;
    Some((base, first, size as u32 * 8 / bits, bits))
}

/// The part of a 64-bit register that an access takes, as a shift and a mask; none if it is no such access.
fn part(offset: u64, size: usize) -> Option<(u32, u64)> {
    match (size, offset % 8) {
        (8, 0) => Some((0, u64::MAX)),
        (4, 0) => Some((0, 0xffff_ffff)),
        (4, 4) => Some((32, 0xffff_ffff)),
        _ => None,
    }
}

impl Model {
    /// After reset.
    pub fn new(id: Identity) -> Model {
        let cpus = id.affinity.len();
        let private = Bank { group: !0, enable: 0xffff, edge: 0xffff, ..Bank::default() };
        let shared = Bank { group: !0, edge: !0, ..Bank::default() };
        let spis = (id.intids - 32) as usize;
        Model {
            forward: false,
            private: vec![private; cpus],
            shared: vec![shared; spis / 32],
            route: vec![0; spis],
            owner: vec![None; spis],
            cpus: vec![Interface::default(); cpus],
            pendbaser: vec![0x580; cpus],
            propbaser: 0,
            id,
        }
    }

    /// What it was made of.
    pub fn identity(&self) -> &Identity {
        &self.id
    }

    fn bank(&mut self, cpu: usize, intid: u32) -> Option<(&mut Bank, u32)> {
        let bank = match intid {
            0..32 => self.private.get_mut(cpu),
            _ => self.shared.get_mut(intid as usize / 32 - 1),
        };
        Some((bank?, 1 << (intid % 32)))
    }

    /// The processor to which an SPI is routed.
    fn target(&self, spi: usize) -> Option<usize> {
        // The route of a reset goes to the first processor, whatever its affinity.
        self.id.affinity.iter().position(|a| *a == self.route[spi])
    }

    // What follows from the registers.

    fn least_bpr(&self, group: usize) -> u8 {
        (7 - self.id.pri_bits) as u8 + group as u8
    }

    fn bpr(&self, cpu: usize, group: usize) -> u8 {
        let c = &self.cpus[cpu];
        match group {
            1 if c.cbpr => (self.bpr(cpu, 0) + 1).min(7),
            _ => c.bpr[group].max(self.least_bpr(group)),
        }
    }

    /// The priority with the bits that do not decide about preemption cleared (4.8.3, Table 4-3).
    fn group_priority(&self, cpu: usize, priority: u8, group: usize) -> u32 {
        let subpriority_bits = match group {
            1 if !self.cpus[cpu].cbpr => u32::from(self.bpr(cpu, 1)),
            _ => u32::from(self.bpr(cpu, 0)) + 1,
        };
        u32::from(priority) >> subpriority_bits << subpriority_bits
    }

    fn priority_mask(&self) -> u8 {
        !(0xff >> self.id.pri_bits) as u8
    }

    fn running(&self, cpu: usize) -> u32 {
        let any = self.cpus[cpu].active[0] | self.cpus[cpu].active[1];
        if any == 0 { IDLE } else { (any.trailing_zeros() << (8 - self.id.pri_bits)).min(0xfe) }
    }

    /// The most urgent interrupt that could be taken but for masks: priority, INTID, group.
    fn highest(&self, cpu: usize) -> Option<(u8, u32, usize)> {
        if !self.forward {
            return None;
        }
        let mut best = None;
        let banks = std::iter::once(&self.private[cpu]).chain(&self.shared);
        for (n, bank) in banks.enumerate() {
            let mut ready = bank.pending() & bank.enable & !bank.active;
            while ready != 0 {
                let bit = ready.trailing_zeros();
                ready &= ready - 1;
                let intid = n as u32 * 32 + bit;
                let group = (bank.group >> bit & 1) as usize;
                if !self.cpus[cpu].enable[group] || n > 0 && self.target(intid as usize - 32) != Some(cpu) {
                    continue;
                }
                let candidate = (bank.priority[bit as usize], intid, group);
                if best.is_none_or(|b| candidate < b) {
                    best = Some(candidate);
                }
            }
        }
        best
    }

    /// The interrupt that the processor is told of.
    pub fn signalled(&self, cpu: usize) -> Option<(u32, usize)> {
        let (priority, intid, group) = self.highest(cpu)?;
        let mask = self.priority_mask();
        let told = priority & mask < self.cpus[cpu].pmr & mask
            && self.group_priority(cpu, priority, group) < self.running(cpu);
        told.then_some((intid, group))
    }

    /// How many priorities are active at a processor.
    pub fn depth(&self, cpu: usize) -> u32 {
        self.cpus[cpu].active.iter().map(|a| a.count_ones()).sum()
    }

    // Devices.

    /// A line is driven.
    pub fn line(&mut self, cpu: usize, intid: u32, level: bool) {
        let Some((bank, bit)) = self.bank(cpu, intid).filter(|_| intid >= 16) else { return };
        if bank.edge & bit != 0 {
            bank.latch |= if level { bit } else { 0 };
        } else if level {
            bank.line |= bit;
        } else {
            bank.line &= !bit;
        }
    }

    /// Moves by KVM's registers. They do not say at which processor an SPI is active, nor the BPR1 behind CBPR; and what
    /// was never written is written with the attributes that tables have.
    pub fn move_by_registers(&mut self) {
        self.propbaser = table(self.propbaser, PROPBASER);
        for spi in 0..self.owner.len() {
            let active = self.shared[spi / 32].active >> (spi % 32) & 1 != 0;
            self.owner[spi] = self.target(spi).filter(|_| active);
        }
        for c in self.cpus.iter_mut().filter(|c| c.cbpr) {
            c.bpr[1] = (c.bpr[0] + 1).min(7);
        }
    }

    // Memory-mapped registers.

    /// A load.
    pub fn load(&self, frame: Frame, offset: u64, size: usize) -> u64 {
        match frame {
            Frame::Dist => self.load_dist(offset, size),
            Frame::Redist(of) => self.load_redist(of, offset, size),
        }
    }

    fn load_field(&self, of: Option<usize>, offset: u64, size: usize) -> Option<u64> {
        let (base, first, count, bits) = field_at(offset, size)?;
        let one = |intid: u32| -> u64 {
            let bank = match of {
                Some(cpu) if intid < 32 => &self.private[cpu],
                None if (32..self.id.intids).contains(&intid) => &self.shared[intid as usize / 32 - 1],
                _ => return 0,
            };
            let bit = intid % 32;
            let word = match base {
                0x080 => bank.group,
                0x100 | 0x180 => bank.enable,
                0x200 | 0x280 => bank.pending(),
                0x300 | 0x380 => bank.active,
                0x400 => return bank.priority[bit as usize].into(),
                0xc00 => return u64::from(bank.edge >> bit & 1) << 1,
                _ => return 0,
            };
            u64::from(word >> bit & 1)
        };
        Some((0..count).map(|i| one(first + i) << (i * bits)).fold(0, |a, b| a | b))
    }

    fn load_dist(&self, offset: u64, size: usize) -> u64 {
        if let Some(v) = self.load_field(None, offset, size) {
            return v;
        }
        if (0x6000..0x8000).contains(&offset) {
            let intid = (offset - 0x6000) / 8;
            let spi = (intid as usize).checked_sub(32).and_then(|n| self.route.get(n));
            return match (spi, part(offset, size)) {
                (Some(route), Some((shift, mask))) => u64::from(*route) >> shift & mask,
                _ => 0,
            };
        }
        match (offset, size) {
            (0x0, 4) => 0x50 | u64::from(self.forward) << 1,
            // ITLinesNumber; ten bits of INTIDs.
            (0x4, 4) => u64::from(self.id.intids / 32 - 1) | 9 << 19,
            // KVM's product, revision 3, Arm.
            (0x8, 4) => 0x4b00_343b,
            (0x10, 4) => 0xffff_ffff,
            (0xffe8, 4) => 0x3b,
            _ => 0,
        }
    }

    fn load_redist(&self, of: usize, offset: u64, size: usize) -> u64 {
        if offset >= 0x1_0000 {
            return self.load_field(Some(of), offset - 0x1_0000, size).unwrap_or(0);
        }
        let last = of + 1 == self.id.affinity.len();
        let wide = match offset & !7 {
            0x08 => u64::from(self.id.affinity[of]) << 32 | (of as u64) << 8 | u64::from(last) << 4,
            0x70 => self.propbaser,
            // PTZ is write-only.
            0x78 => self.pendbaser[of] & !(1 << 62),
            _ => {
                return match (offset, size) {
                    // CES, IR.
                    (0x0, 4) => 6,
                    (0x4, 4) => 0x4b00_043b,
                    (0xffe8, 4) => 0x3b,
                    _ => 0,
                };
            }
        };
        part(offset, size).map_or(0, |(shift, mask)| wide >> shift & mask)
    }

    /// A store.
    pub fn store(&mut self, frame: Frame, offset: u64, size: usize, value: u64) {
        match frame {
            Frame::Dist => self.store_dist(offset, size, value),
            Frame::Redist(of) if offset >= 0x1_0000 => {
                self.store_field(Some(of), offset - 0x1_0000, size, value);
            }
            Frame::Redist(of) => {
                let Some((shift, mask)) = part(offset, size) else { return };
                let merge = |old: u64| old & !(mask << shift) | (value & mask) << shift;
                match offset & !7 {
                    0x70 => self.propbaser = table(merge(self.propbaser), PROPBASER),
                    0x78 => self.pendbaser[of] = table(merge(self.pendbaser[of]), PENDBASER),
                    _ => {}
                }
            }
        }
    }

    fn store_field(&mut self, of: Option<usize>, offset: u64, size: usize, value: u64) -> bool {
        let Some((base, first, count, bits)) = field_at(offset, size) else { return false };
        for i in 0..count {
            let intid = first + i;
            let there = if of.is_some() { intid < 32 } else { (32..self.id.intids).contains(&intid) };
            if !there {
                continue;
            }
            let v = (value >> (i * bits)) as u32 & (((1u64 << bits) - 1) as u32);
            let spi = intid.checked_sub(32).map(|n| n as usize);
            let home = spi.and_then(|n| self.target(n));
            let Some((bank, bit)) = self.bank(of.unwrap_or(0), intid) else { continue };
            let set = |word: &mut u32, on: bool| if on { *word |= bit } else { *word &= !bit };
            match (base, v != 0) {
                (0x080, on) => set(&mut bank.group, on),
                (0x100, true) => set(&mut bank.enable, true),
                (0x180, true) => set(&mut bank.enable, false),
                (0x200, true) => set(&mut bank.latch, true),
                (0x280, true) => set(&mut bank.latch, false),
                (0x300, true) => {
                    let was = bank.active & bit != 0;
                    set(&mut bank.active, true);
                    if let Some(n) = spi.filter(|_| !was) {
                        self.owner[n] = home;
                    }
                }
                (0x380, true) => {
                    set(&mut bank.active, false);
                    if let Some(n) = spi {
                        self.owner[n] = None;
                    }
                }
                (0x400, _) => bank.priority[intid as usize % 32] = v as u8 & KEPT,
                (0xc00, _) if spi.is_some() => set(&mut bank.edge, v & 2 != 0),
                _ => {}
            }
        }
        true
    }

    fn store_dist(&mut self, offset: u64, size: usize, value: u64) {
        if self.store_field(None, offset, size, value) {
            return;
        }
        if (0x6000..0x8000).contains(&offset) {
            let spi = ((offset - 0x6000) / 8).checked_sub(32).map(|n| n as usize);
            // Aff3 is RAZ/WI, as is IRM: no interrupt goes to one of several.
            if let (Some(spi), Some((0, _))) = (spi.filter(|n| *n < self.route.len()), part(offset, size)) {
                self.route[spi] = value as u32 & 0xff_ffff;
                let active = self.shared[spi / 32].active >> (spi % 32) & 1 != 0;
                if active && self.owner[spi].is_none() {
                    self.owner[spi] = self.target(spi);
                }
            }
        } else if (offset, size) == (0, 4) {
            self.forward = value & 2 != 0;
        }
    }

    // System registers.

    /// MRS.
    pub fn mrs(&mut self, cpu: usize, reg: u16) -> Sysreg {
        let Some((crn, crm, op2)) = icc(reg) else { return Sysreg::Undefined };
        let c = &self.cpus[cpu];
        Sysreg::Done(match (crn, crm, op2) {
            (4, 6, 0) => (c.pmr & self.priority_mask()).into(),
            (12, 8, 0) => self.acknowledge(cpu, 0),
            (12, 12, 0) => self.acknowledge(cpu, 1),
            (12, 8, 2) => self.pending(cpu, 0),
            (12, 12, 2) => self.pending(cpu, 1),
            (12, 8, 3) => self.bpr(cpu, 0).into(),
            (12, 12, 3) => self.bpr(cpu, 1).into(),
            (12, 8, 4..=7) | (12, 9, 0..=3) => match self.active_word(crm, op2) {
                Some((group, n)) => (self.cpus[cpu].active[group] >> (32 * n)) as u64 & 0xffff_ffff,
                None => return Sysreg::Undefined,
            },
            (12, 11, 3) => self.running(cpu).into(),
            (12, 12, 4) => {
                u64::from(c.cbpr)
                    | u64::from(c.split) << 1
                    | u64::from(self.id.pri_bits - 1) << 8
                    | u64::from(self.id.id_bits == 24) << 11
                    | u64::from(self.id.seis) << 14
                    | u64::from(self.id.a3v) << 15
            }
            (12, 12, 5) => 7,
            (12, 12, 6) => c.enable[0].into(),
            (12, 12, 7) => c.enable[1].into(),
            _ => return Sysreg::Undefined,
        })
    }

    /// MSR.
    pub fn msr(&mut self, cpu: usize, reg: u16, value: u64) -> Sysreg {
        let Some((crn, crm, op2)) = icc(reg) else { return Sysreg::Undefined };
        let mask = self.priority_mask();
        let least = [self.least_bpr(0), self.least_bpr(1)];
        let word = self.active_word(crm, op2);
        let c = &mut self.cpus[cpu];
        match (crn, crm, op2) {
            (4, 6, 0) => c.pmr = value as u8 & mask,
            (12, 8, 1) | (12, 12, 1) => self.end(cpu, value),
            (12, 8, 3) => c.bpr[0] = (value as u8 & 7).max(least[0]),
            (12, 12, 3) if !c.cbpr => c.bpr[1] = (value as u8 & 7).max(least[1]),
            (12, 12, 3) => {}
            (12, 8, 4..=7) | (12, 9, 0..=3) => match word {
                Some((group, n)) => {
                    let at = 32 * n;
                    let old = c.active[group] & !(0xffff_ffff << at);
                    c.active[group] = old | u128::from(value as u32) << at;
                }
                None => return Sysreg::Undefined,
            },
            (12, 11, 1) => self.deactivate(cpu, value),
            (12, 11, 5) => self.sgi(cpu, value, true),
            (12, 11, 6 | 7) => self.sgi(cpu, value, false),
            (12, 12, 4) => (c.cbpr, c.split) = (value & 1 != 0, value & 2 != 0),
            (12, 12, 5) => {}
            (12, 12, 6) => c.enable[0] = value & 1 != 0,
            (12, 12, 7) => c.enable[1] = value & 1 != 0,
            _ => return Sysreg::Undefined,
        }
        Sysreg::Done(0)
    }

    /// Group and number of an active priorities register that there is.
    fn active_word(&self, crm: u16, op2: u16) -> Option<(usize, u32)> {
        let (group, n) = if crm == 8 { (0, op2.checked_sub(4)?) } else { (1, op2) };
        (n < 1 << (self.id.pri_bits - 5)).then_some((group, n.into()))
    }

    fn pending(&self, cpu: usize, group: usize) -> u64 {
        self.highest(cpu).filter(|h| h.2 == group).map_or(SPURIOUS, |h| h.1.into())
    }

    fn acknowledge(&mut self, cpu: usize, group: usize) -> u64 {
        let Some((intid, _)) = self.signalled(cpu).filter(|s| s.1 == group) else { return SPURIOUS };
        let Some((bank, bit)) = self.bank(cpu, intid) else { return SPURIOUS };
        let priority = bank.priority[intid as usize % 32];
        bank.active |= bit;
        bank.latch &= !(bit & bank.edge);
        if intid >= 32 {
            self.owner[intid as usize - 32] = Some(cpu);
        }
        let level = self.group_priority(cpu, priority, group) >> (8 - self.id.pri_bits);
        self.cpus[cpu].active[group] |= 1 << level;
        intid.into()
    }

    /// The INTID that is written: bits beyond those implemented are RES0.
    fn written(&self, value: u64) -> u32 {
        (value & ((1 << self.id.id_bits) - 1)) as u32
    }

    fn end(&mut self, cpu: usize, value: u64) {
        let intid = self.written(value);
        let c = &mut self.cpus[cpu];
        let any = c.active[0] | c.active[1];
        if (1020..8192).contains(&intid) || any == 0 {
            return;
        }
        let top = any & any.wrapping_neg();
        let group = if c.active[0] & top != 0 { 0 } else { 1 };
        c.active[group] &= !top;
        if !c.split {
            self.inactive(cpu, intid, false);
        }
    }

    fn deactivate(&mut self, cpu: usize, value: u64) {
        if self.cpus[cpu].split {
            let intid = self.written(value);
            self.inactive(cpu, intid, true);
        }
    }

    fn inactive(&mut self, cpu: usize, intid: u32, from_anywhere: bool) {
        if intid >= self.id.intids.min(1020) {
            return;
        }
        if intid >= 32 {
            let owner = &mut self.owner[intid as usize - 32];
            if !from_anywhere && *owner != Some(cpu) {
                return;
            }
            *owner = None;
        }
        if let Some((bank, bit)) = self.bank(cpu, intid)
            && bank.active & bit != 0
        {
            bank.active &= !bit;
            bank.latch &= !(bit & !bank.edge);
        }
    }

    /// Aff3 55:48, RS 47:44, IRM 40, Aff2 39:32, INTID 27:24, Aff1 23:16, list 15:0. RSS is 0: RS is RES0.
    fn sgi(&mut self, from: usize, value: u64, group1: bool) {
        let bit = 1u32 << (value >> 24 & 0xf);
        let aff3 = if self.id.a3v { value >> 48 & 0xff } else { 0 };
        let cluster = aff3 << 24 | (value >> 32 & 0xff) << 16 | (value >> 16 & 0xff) << 8;
        for cpu in 0..self.cpus.len() {
            let affinity = u64::from(self.id.affinity[cpu]);
            let named = if value >> 40 & 1 != 0 {
                cpu != from
            } else {
                affinity & !0xff == cluster && affinity & 0xff < 16 && value >> (affinity & 0xf) & 1 != 0
            };
            let bank = &mut self.private[cpu];
            if named && (group1 || bank.group & bit == 0) {
                bank.latch |= bit;
            }
        }
    }
}

/// CRn, CRm and op2 of an encoding of op0 3, op1 0.
fn icc(reg: u16) -> Option<(u16, u16, u16)> {
    (reg >> 11 == 0b11000).then_some((reg >> 7 & 15, reg >> 3 & 15, reg & 7))
}

/// A base register as it is kept: of `bits`, with the attributes that accesses to the tables can have.
fn table(value: u64, bits: u64) -> u64 {
    let shareability = match value >> 10 & 3 {
        // Outer Shareable: Inner.
        2 => 1,
        s => s,
    };
    let inner = match value >> 7 & 7 {
        // Device and Normal Non-cacheable: read-allocate, write-back.
        0 | 1 => 3,
        i => i,
    };
    // Outer: as inner, or Non-cacheable.
    let outer = if value >> 56 & 7 == 1 { 1 } else { 0 };
    let rest = value & bits & !(3 << 10 | 7 << 7 | 7 << 56);
    rest | shareability << 10 | inner << 7 | outer << 56
}
