//! The priority machine of one CPU interface: masks, binary points, active priorities.
//!
//! The rules are those of the virtual CPU interface (Arm IHI 0069, chapter 6.2.5 and 4.8), since
//! that is what a guest of KVM uses: two groups, no Security state.

/// One group's registers are indexed by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Group 0.
    G0 = 0,
    /// Group 1.
    G1 = 1,
}

impl Group {
    /// The group of an interrupt with this group bit.
    pub fn of(group1: bool) -> Group {
        if group1 { Group::G1 } else { Group::G0 }
    }
}

/// Priority of an idle CPU interface.
pub const IDLE: u8 = 0xff;

/// Registers of a CPU interface. This is also what a save takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuInterface {
    /// Priority bits implemented, which are also the preemption bits.
    pub pri_bits: u8,
    /// ICC_PMR_EL1: only more urgent (lower) priorities are signalled. 0 at reset: none.
    pub pmr: u8,
    /// ICC_BPR0_EL1, as written: userspace may store less than the least value.
    pub bpr0: u8,
    /// ICC_BPR1_EL1, as written.
    pub bpr1: u8,
    /// ICC_CTLR_EL1.CBPR: BPR0 is for both groups.
    pub cbpr: bool,
    /// ICC_CTLR_EL1.EOImode: end-of-interrupt only drops the priority.
    pub eoi_mode: bool,
    /// ICC_IGRPEN0/1_EL1.
    pub group_enable: [bool; 2],
    /// ICC_AP0R0..3_EL1 and ICC_AP1R0..3_EL1.
    pub active_priorities: [[u32; 4]; 2],
    /// GICC_CTLR.AckCtl (GICv2).
    pub ack_ctl: bool,
    /// GICC_CTLR.FIQEn (GICv2).
    pub fiq_enable: bool,
}

impl CpuInterface {
    /// The reset state: KVM starts with ICH_VMCR_EL2 = 0.
    pub fn new(pri_bits: u8) -> Self {
        CpuInterface {
            pri_bits,
            pmr: 0,
            bpr0: 0,
            bpr1: 0,
            cbpr: false,
            eoi_mode: false,
            group_enable: [false; 2],
            active_priorities: [[0; 4]; 2],
            ack_ctl: false,
            fiq_enable: false,
        }
    }

    /// Mask of the implemented priority bits.
    pub fn priority_mask(&self) -> u8 {
        (0xff00u16 >> self.pri_bits) as u8
    }

    /// Words of each group's active priorities register that exist.
    pub fn ap_words(&self) -> usize {
        1 << (self.pri_bits - 5)
    }

    /// Least value of BPR0; that of BPR1 is one more.
    pub fn bpr0_min(&self) -> u8 {
        7 - self.pri_bits
    }

    /// BPR0 as in effect.
    pub fn bpr0(&self) -> u8 {
        self.bpr0.max(self.bpr0_min())
    }

    /// BPR1 as in effect and as the guest reads it: with CBPR it is BPR0 + 1, saturated.
    pub fn bpr1(&self) -> u8 {
        if self.cbpr { (self.bpr0() + 1).min(7) } else { self.bpr1.max(self.bpr0_min() + 1) }
    }

    /// A guest's write of BPR0.
    pub fn write_bpr0(&mut self, value: u64) {
        self.bpr0 = (value as u8 & 7).max(self.bpr0_min());
    }

    /// A guest's write of BPR1, ignored with CBPR.
    pub fn write_bpr1(&mut self, value: u64) {
        if !self.cbpr {
            self.bpr1 = (value as u8 & 7).max(self.bpr0_min() + 1);
        }
    }

    /// The part of a priority that decides about preemption.
    pub fn group_priority(&self, priority: u8, group: Group) -> u8 {
        let low_bits = match group {
            Group::G1 if !self.cbpr => self.bpr1(),
            _ => self.bpr0() + 1,
        };
        priority & (0xffu16 << low_bits) as u8
    }

    /// The most urgent active priority, or [`IDLE`].
    pub fn running_priority(&self) -> u8 {
        let [g0, g1] = &self.active_priorities;
        for (i, (a, b)) in g0.iter().zip(g1).enumerate() {
            if a | b != 0 {
                let level = i as u32 * 32 + (a | b).trailing_zeros();
                return (level << (8 - self.pri_bits)).min(0xfe) as u8;
            }
        }
        IDLE
    }

    /// Whether a pending interrupt of this priority and group interrupts the vCPU now.
    pub fn signals(&self, priority: u8, group: Group) -> bool {
        self.group_enable[group as usize]
            && priority & self.priority_mask() < self.pmr & self.priority_mask()
            && self.group_priority(priority, group) < self.running_priority()
    }

    /// Acknowledge: the priority becomes active.
    pub fn activate(&mut self, priority: u8, group: Group) {
        let level = usize::from(self.group_priority(priority, group) >> (8 - self.pri_bits));
        self.active_priorities[group as usize][level / 32 % 4] |= 1 << (level % 32);
    }

    /// End-of-interrupt: the most urgent active priority is no longer. False if there was none.
    /// Which group's register the guest wrote does not matter, as on KVM's own emulation.
    pub fn drop_priority(&mut self) -> bool {
        let [g0, g1] = &mut self.active_priorities;
        for (a, b) in g0.iter_mut().zip(g1) {
            if *a | *b != 0 {
                let lowest = (*a | *b) & (*a | *b).wrapping_neg();
                if *a & lowest != 0 {
                    *a &= !lowest;
                } else {
                    *b &= !lowest;
                }
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> CpuInterface {
        CpuInterface { pmr: 0xf8, group_enable: [true; 2], ..CpuInterface::new(5) }
    }

    #[test]
    fn binary_points_have_a_least_value() {
        let mut c = CpuInterface::new(5);
        assert_eq!((c.bpr0(), c.bpr1()), (2, 3));
        c.write_bpr0(6);
        c.write_bpr1(0);
        assert_eq!((c.bpr0(), c.bpr1()), (6, 3));
        c.cbpr = true;
        c.write_bpr1(5);
        assert_eq!(c.bpr1(), 7);
        c.cbpr = false;
        assert_eq!(c.bpr1(), 3, "the write under CBPR was ignored");
        assert_eq!(CpuInterface::new(7).bpr0(), 0);
    }

    #[test]
    fn preemption_needs_a_more_urgent_group_priority() {
        let mut c = open();
        c.activate(0x40, Group::G1);
        assert_eq!(c.running_priority(), 0x40);
        assert!(!c.signals(0x40, Group::G1));
        assert!(c.signals(0x38, Group::G1));
        c.write_bpr1(6); // group priority is [7:6]
        assert!(!c.signals(0x41, Group::G1) && !c.signals(0x40, Group::G1));
        assert!(c.signals(0x38, Group::G1), "0x00 is below 0x40");
        c.pmr = 0x38;
        assert!(!c.signals(0x38, Group::G1));
    }

    #[test]
    fn priorities_are_dropped_most_urgent_first_across_groups() {
        let mut c = open();
        c.activate(0xa0, Group::G1);
        c.activate(0x20, Group::G0);
        assert_eq!(c.active_priorities[0][0], 1 << 4);
        assert!(c.drop_priority());
        assert_eq!(c.running_priority(), 0xa0);
        assert!(c.drop_priority() && !c.drop_priority());
        assert_eq!(c.running_priority(), IDLE);
    }

    #[test]
    fn seven_bits_use_four_words() {
        let mut c = CpuInterface { pmr: 0xff, ..CpuInterface::new(7) };
        c.activate(0xfc, Group::G0);
        assert_eq!(c.active_priorities[0][3], 1 << 30);
        assert_eq!((c.running_priority(), c.ap_words(), c.priority_mask()), (0xfc, 4, 0xfe));
    }
}
