//! Accesses as guests make them, and as none should.

use crate::Frame;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Less than `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A load.
    Load(Frame, u64, usize),
    /// A store.
    Store(Frame, u64, usize, u64),
    /// MRS.
    Mrs(u16),
    /// MSR.
    Msr(u16, u64),
    /// A device's line.
    Line(u32, bool),
    /// Interrupts are unmasked for a moment.
    Window,
}

/// op0 3, op1 0 of a system register.
pub const fn encode(crn: u16, crm: u16, op2: u16) -> u16 {
    3 << 14 | crn << 7 | crm << 3 | op2
}

/// ICC_*_EL1 by name.
pub mod reg {
    use super::encode;
    /// ICC_PMR_EL1
    pub const PMR: u16 = encode(4, 6, 0);
    /// ICC_IAR0_EL1, ICC_IAR1_EL1
    pub const IAR: [u16; 2] = [encode(12, 8, 0), encode(12, 12, 0)];
    /// ICC_EOIR0_EL1, ICC_EOIR1_EL1
    pub const EOIR: [u16; 2] = [encode(12, 8, 1), encode(12, 12, 1)];
    /// ICC_HPPIR0_EL1, ICC_HPPIR1_EL1
    pub const HPPIR: [u16; 2] = [encode(12, 8, 2), encode(12, 12, 2)];
    /// ICC_BPR0_EL1, ICC_BPR1_EL1
    pub const BPR: [u16; 2] = [encode(12, 8, 3), encode(12, 12, 3)];
    /// ICC_AP0R0_EL1, ICC_AP1R0_EL1
    pub const AP: [u16; 2] = [encode(12, 8, 4), encode(12, 9, 0)];
    /// ICC_DIR_EL1
    pub const DIR: u16 = encode(12, 11, 1);
    /// ICC_RPR_EL1
    pub const RPR: u16 = encode(12, 11, 3);
    /// ICC_SGI1R_EL1, ICC_ASGI1R_EL1, ICC_SGI0R_EL1
    pub const SGI: [u16; 3] = [encode(12, 11, 5), encode(12, 11, 6), encode(12, 11, 7)];
    /// ICC_CTLR_EL1
    pub const CTLR: u16 = encode(12, 12, 4);
    /// ICC_SRE_EL1
    pub const SRE: u16 = encode(12, 12, 5);
    /// ICC_IGRPEN0_EL1, ICC_IGRPEN1_EL1
    pub const IGRPEN: [u16; 2] = [encode(12, 12, 6), encode(12, 12, 7)];
}

/// Encodings of which the nonsense is made: CRn 12, CRm 8 to 15, and ICC_PMR_EL1. Those that other registers have (VBAR_EL1
/// is CRn 12, CRm 0) are left out.
pub fn encodings() -> impl Iterator<Item = u16> {
    (8..16).flat_map(|crm| (0..8).map(move |op2| encode(12, crm, op2))).chain([reg::PMR])
}

/// What the steps are made for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Processors.
    pub cpus: usize,
    /// INTIDs.
    pub intids: u32,
    /// INTIDs whose lines can be driven, and that are used most.
    pub busy: Vec<u32>,
    /// Affinities.
    pub affinity: Vec<u32>,
    /// Unaligned accesses, which a processor with its MMU off does not make.
    pub unaligned: bool,
    /// INTIDs that were acknowledged and not ended, by processor.
    taken: Vec<Vec<u32>>,
}

impl Plan {
    /// For a machine of these affinities.
    pub fn new(affinity: &[u32], intids: u32, unaligned: bool) -> Plan {
        let mut busy = vec![0, 1, 7, 15, 16, 20, 23, 25, 31];
        busy.extend((32..40).chain([63, 64, intids - 1]).filter(|i| *i < intids));
        Plan {
            cpus: affinity.len(),
            intids,
            busy,
            affinity: affinity.to_vec(),
            unaligned,
            taken: vec![Vec::new(); affinity.len()],
        }
    }

    /// What a step gave.
    pub fn learn(&mut self, cpu: usize, op: &Op, value: u64) {
        if let Op::Mrs(r) = op
            && reg::IAR.contains(r)
            && value < 1020
        {
            self.taken[cpu].push(value as u32);
        }
    }

    /// The next step, and the processor that makes it.
    pub fn step(&mut self, r: &mut Rng) -> (usize, Op) {
        let cpu = r.below(self.cpus as u64) as usize;
        let op = match r.below(100) {
            0..14 => Op::Line(r.pick(&self.busy), !r.one_in(3)),
            14..26 => Op::Mrs(r.pick(&reg::IAR)),
            26..44 => self.end(cpu, r),
            44..60 => self.configure(r),
            60..66 => self.interface(r),
            66..72 => Op::Msr(r.pick(&reg::SGI), self.sgi(r)),
            72..80 => self.look(r),
            80..86 => Op::Window,
            _ => self.nonsense(r),
        };
        (cpu, op)
    }

    /// A step by which interrupts flow again.
    pub fn open(&self, n: usize) -> Vec<(usize, Op)> {
        let mut all = vec![(0, Op::Store(Frame::Dist, 0, 4, 2))];
        for cpu in 0..self.cpus {
            all.push((cpu, Op::Msr(reg::PMR, 0xf8)));
            all.push((cpu, Op::Msr(reg::IGRPEN[0], 1)));
            all.push((cpu, Op::Msr(reg::IGRPEN[1], 1)));
            if n.is_multiple_of(2) {
                all.push((cpu, Op::Msr(reg::AP[0], 0)));
                all.push((cpu, Op::Msr(reg::AP[1], 0)));
            }
        }
        all
    }

    fn end(&mut self, cpu: usize, r: &mut Rng) -> Op {
        let last = match self.taken[cpu].last() {
            Some(i) if !r.one_in(8) => *i,
            _ => r.pick(&self.busy),
        };
        if r.one_in(3) {
            return Op::Msr(reg::DIR, last.into());
        }
        self.taken[cpu].pop();
        Op::Msr(r.pick(&reg::EOIR), u64::from(last) | if r.one_in(16) { r.draw() << 16 } else { 0 })
    }

    /// Where the registers of an interrupt are.
    fn at(&self, intid: u32, r: &mut Rng) -> (Frame, u64) {
        if intid < 32 {
            (Frame::Redist(r.below(self.cpus as u64) as usize), 0x1_0000)
        } else {
            (Frame::Dist, 0)
        }
    }

    fn configure(&mut self, r: &mut Rng) -> Op {
        let intid = r.pick(&self.busy);
        let (frame, at) = self.at(intid, r);
        let (word, bit) = (u64::from(intid / 32) * 4, 1u64 << (intid % 32));
        let several = if r.one_in(4) { r.draw() & 0xffff_ffff } else { bit };
        match r.below(12) {
            0 => Op::Store(frame, at + 0x80 + word, 4, r.draw() & 0xffff_ffff),
            1 | 2 => Op::Store(frame, at + 0x100 + word, 4, several),
            3 => Op::Store(frame, at + 0x180 + word, 4, bit),
            4 | 5 => Op::Store(frame, at + 0x200 + word, 4, several),
            6 => Op::Store(frame, at + 0x280 + word, 4, several),
            7 => Op::Store(frame, at + 0x300 + word, 4, bit),
            8 => Op::Store(frame, at + 0x380 + word, 4, several),
            9 => Op::Store(frame, at + 0x400 + u64::from(intid), 1, r.draw() & 0xff),
            10 if intid >= 32 => {
                let route = if r.one_in(4) { r.draw() } else { r.pick(&self.affinity).into() };
                Op::Store(Frame::Dist, 0x6000 + u64::from(intid) * 8, r.pick(&[4, 8]), route)
            }
            10 => Op::Store(frame, at + 0x400 + u64::from(intid / 4) * 4, 4, r.draw() & 0xffff_ffff),
            _ => Op::Store(frame, at + 0xc00 + u64::from(intid / 16) * 4, 4, r.draw() & 0xffff_ffff),
        }
    }

    fn interface(&self, r: &mut Rng) -> Op {
        match r.below(9) {
            0..3 => Op::Msr(reg::PMR, r.pick(&[0xf8, 0xf8, 0xff, 0x80, 0x47, r.0 & 0xff])),
            3 => Op::Msr(r.pick(&reg::BPR), r.draw() & 7),
            4 => Op::Msr(reg::CTLR, r.draw() & 3),
            5 => Op::Msr(r.pick(&reg::IGRPEN), u64::from(!r.one_in(4))),
            6 => Op::Store(Frame::Dist, 0, 4, u64::from(!r.one_in(4)) << 1),
            7 => Op::Msr(r.pick(&reg::AP), 0),
            _ => Op::Msr(r.pick(&reg::AP), 1 << r.below(32)),
        }
    }

    fn sgi(&self, r: &mut Rng) -> u64 {
        if r.one_in(8) {
            return r.draw();
        }
        let a = u64::from(r.pick(&self.affinity));
        let cluster = (a >> 24) << 48 | (a >> 16 & 0xff) << 32 | (a >> 8 & 0xff) << 16;
        let intid = r.pick(&[0u64, 1, 7, 15]);
        cluster | u64::from(r.one_in(5)) << 40 | intid << 24 | r.draw() & 0xffff
    }

    /// What software looks at.
    fn look(&self, r: &mut Rng) -> Op {
        let intid = r.pick(&self.busy);
        let (frame, at) = self.at(intid, r);
        let word = at + u64::from(intid / 32) * 4;
        match r.below(10) {
            0 => Op::Mrs(r.pick(&reg::HPPIR)),
            1 => Op::Mrs(reg::RPR),
            2 => Op::Mrs(r.pick(&reg::AP)),
            3 => Op::Mrs(r.pick(&reg::BPR)),
            4 => Op::Load(frame, word + 0x200, 4),
            5 => Op::Load(frame, word + 0x300, 4),
            6 => Op::Load(frame, word + 0x100, 4),
            7 => Op::Load(frame, at + 0x400 + u64::from(intid), 1),
            8 => Op::Mrs(reg::PMR),
            _ => Op::Load(frame, at + 0xc00 + u64::from(intid / 16) * 4, 4),
        }
    }

    /// Any size anywhere, any register.
    fn nonsense(&self, r: &mut Rng) -> Op {
        let any: Vec<u16> = encodings().collect();
        let value = match r.below(4) {
            0 => r.draw(),
            1 => r.draw() & 0xffff_ffff,
            2 => u64::MAX,
            _ => r.below(1100),
        };
        let size = r.pick(&[1usize, 2, 4, 4, 8]);
        let frame = match r.below(self.cpus as u64 + 2) as usize {
            n if n < self.cpus => Frame::Redist(n),
            _ => Frame::Dist,
        };
        let offset = match (frame, r.below(4)) {
            (Frame::Dist, 0) => r.below(0x1_0000),
            (Frame::Dist, 1) => 0x6000 + r.below(0x2000),
            (Frame::Dist, _) => r.below(0xd00),
            (_, 0) => r.below(0x2_0000),
            (_, 1) => r.below(0x100),
            _ => 0x1_0000 + r.below(0xd00),
        };
        let offset = if self.unaligned && r.one_in(4) { offset } else { offset & !(size as u64 - 1) };
        let last = if matches!(frame, Frame::Dist) { 0x1_0000 } else { 0x2_0000 };
        let offset = offset.min(last - size as u64);
        match r.below(4) {
            0 => Op::Load(frame, offset, size),
            1 => Op::Store(frame, offset, size, value & (u64::MAX >> (64 - 8 * size))),
            2 => Op::Mrs(r.pick(&any)),
            _ => Op::Msr(r.pick(&any), value),
        }
    }
}
