//! The state of one SGI, PPI or SPI.

/// SGIs are INTIDs below this.
pub const FIRST_PPI: u32 = 16;
/// Private interrupts are INTIDs below this.
pub const FIRST_SPI: u32 = 32;
/// INTIDs from here to 1023 are special; KVM lets nr_irqs reach into them but no line drives them.
pub const FIRST_SPECIAL: u32 = 1020;
/// What an acknowledge returns when there is nothing to acknowledge.
pub const SPURIOUS: u32 = 1023;
/// GICv2: an acknowledge by the group 0 register found a group 1 interrupt (GICC_IAR, AckCtl 0).
pub const SPURIOUS_GROUP1: u32 = 1022;
/// LPIs are INTIDs from here.
pub const FIRST_LPI: u32 = 8192;

/// Priority bits that the distributor and redistributors keep (KVM's VGIC_PRI_BITS).
pub const PRIORITY_MASK: u8 = 0xf8;

/// One interrupt: configuration and state. This is also what a save takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Irq {
    /// Its number.
    pub intid: u32,
    /// Priority; lower is more urgent.
    pub priority: u8,
    /// Group 1 (IRQ) rather than group 0 (FIQ, on GICv3).
    pub group1: bool,
    /// Set-enable bit.
    pub enabled: bool,
    /// Edge-triggered rather than level-sensitive.
    pub edge: bool,
    /// Level of the input, also kept for edge-triggered ones (LEVEL_INFO is restored before ICFGR).
    pub line: bool,
    /// Pending by an edge or a write of ISPENDR. KVM keeps the latch of a level-sensitive interrupt
    /// until its deactivation.
    pub latch: bool,
    /// Acknowledged and not yet deactivated.
    pub active: bool,
    /// GICv2 SGIs: bit per vCPU that raised it and was not acknowledged; `latch` says if any.
    pub sources: u8,
    /// GICv2 SGIs: the vCPU whose request is active.
    pub active_source: u8,
    /// SPIs: what GICD_IROUTER (v3: Aff2..Aff0) or GICD_ITARGETSR (v2) holds.
    pub route: u32,
    /// SPIs: the vCPU that `route` names.
    pub target: Option<u16>,
    /// Tell the owner of the line about deactivations.
    pub notify_eoi: bool,
    /// Firmware has taken it: it goes to nobody here, and to a guest its registers are RAZ/WI, as those of a Secure
    /// interrupt are to Non-secure software (Arm IHI 0069, 4.10).
    pub taken: bool,
}

impl Irq {
    /// Whether it is an SGI.
    pub fn is_sgi(&self) -> bool {
        self.intid < FIRST_PPI
    }

    /// Whether it is pending.
    pub fn pending(&self) -> bool {
        self.latch || (!self.edge && self.line)
    }

    /// Whether a CPU interface may take it, as far as the interrupt itself is concerned. KVM never
    /// presents an active interrupt a second time. Special INTIDs cannot be told from "nothing".
    pub fn ready(&self) -> bool {
        self.enabled && !self.active && self.pending() && self.intid < FIRST_SPECIAL && !self.taken
    }

    /// Drives the input.
    pub fn set_line(&mut self, level: bool) {
        if self.taken {
            self.line = level;
        } else if self.edge {
            self.latch |= level;
        } else {
            self.line = level;
        }
    }

    /// Firmware takes it, or gives it back; what was pending is forgotten. Tells whether it is level-sensitive and its line
    /// is high.
    pub fn set_taken(&mut self, taken: bool) -> (bool, bool) {
        let was = (!self.edge, self.line);
        (self.taken, self.latch) = (taken, false);
        if !taken && self.edge {
            // The line of an edge-triggered one is not kept.
            self.line = false;
        }
        was
    }

    /// Pending becomes active.
    pub fn acknowledge(&mut self) {
        if self.sources != 0 {
            self.active_source = self.sources.trailing_zeros() as u8;
            self.sources &= self.sources - 1;
            self.latch = self.sources != 0;
        } else if self.edge {
            self.latch = false;
        }
        self.active = true;
    }

    /// No longer active; a level-sensitive one is pending again if its input still is.
    pub fn deactivate(&mut self) {
        self.active = false;
        if !self.edge {
            self.latch = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_is_pending_again_after_deactivation_only_while_the_line_is_high() {
        let mut irq = Irq { enabled: true, line: true, latch: true, ..Irq::default() };
        irq.acknowledge();
        assert!(!irq.ready() && irq.active && irq.pending());
        irq.deactivate();
        assert!(irq.ready(), "the line is still high");
        irq.acknowledge();
        irq.set_line(false);
        irq.deactivate();
        assert!(!irq.ready());
    }

    #[test]
    fn edge_latches_while_active() {
        let mut irq = Irq { enabled: true, edge: true, ..Irq::default() };
        irq.set_line(true);
        irq.acknowledge();
        assert!(!irq.pending());
        irq.set_line(true);
        irq.set_line(false);
        assert!(irq.pending() && !irq.ready());
        irq.deactivate();
        assert!(irq.ready());
    }

    #[test]
    fn each_source_of_an_sgi_is_acknowledged_once() {
        let mut sgi = Irq { enabled: true, edge: true, latch: true, sources: 0b101, ..Irq::default() };
        sgi.acknowledge();
        assert_eq!((sgi.active_source, sgi.pending()), (0, true));
        sgi.deactivate();
        sgi.acknowledge();
        assert_eq!((sgi.active_source, sgi.pending()), (2, false));
    }
}
