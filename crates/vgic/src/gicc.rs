//! GICC: the GICv2 CPU interface's frame. A guest of KVM sees the virtual one (GICV, Arm IHI 0048
//! chapter 5.5), so the rules are those of a GIC without Security Extensions but with two groups.

use crate::cpuif::Group;
use crate::irq::{SPURIOUS, SPURIOUS_GROUP1};
use crate::redist::Redistributor;

const CTLR: u64 = 0x00;
const PMR: u64 = 0x04;
const BPR: u64 = 0x08;
const IAR: u64 = 0x0c;
const EOIR: u64 = 0x10;
const RPR: u64 = 0x14;
const HPPIR: u64 = 0x18;
const ABPR: u64 = 0x1c;
const AIAR: u64 = 0x20;
const AEOIR: u64 = 0x24;
const AHPPIR: u64 = 0x28;
const APR: u64 = 0xd0;
const IIDR: u64 = 0xfc;
const DIR: u64 = 0x1000;

/// GICC_IIDR as userspace reads it, whatever the hardware: KVM's product, GICv2, Arm.
const USER_IIDR: u64 = 0x04b2_043b;

/// Interrupt number of GICC_EOIR and GICC_DIR; the sender above it is not checked.
const INTID: u64 = 0x3ff;

impl Redistributor {
    /// A guest's load. Only words are registers.
    pub fn gicc_read(&mut self, offset: u64, size: usize) -> u64 {
        if size != 4 {
            return 0;
        }
        let cpu = &self.cpu;
        match offset {
            CTLR => self.gicc_ctlr(),
            PMR => cpu.pmr.into(),
            BPR => cpu.bpr0().into(),
            ABPR => cpu.bpr1().into(),
            RPR => cpu.running_priority().into(),
            IAR => self.gicc_acknowledge(),
            AIAR => iar(self.acknowledge(&[Group::G1])),
            HPPIR => match self.highest_pending() {
                Some(b) if b.group == Group::G1 && !cpu.ack_ctl => SPURIOUS_GROUP1.into(),
                next => self.pending_with_source(next.map(|b| b.intid)),
            },
            AHPPIR => self.pending_with_source(
                self.highest_pending().filter(|b| b.group == Group::G1).map(|b| b.intid),
            ),
            // One register for both groups.
            APR => u64::from(cpu.active_priorities[0][0] | cpu.active_priorities[1][0]),
            IIDR => self.cpuif_iidr.into(),
            _ => 0,
        }
    }

    /// A guest's store.
    pub fn gicc_write(&mut self, offset: u64, size: usize, value: u64) {
        if size != 4 {
            return;
        }
        match offset {
            CTLR => self.write_gicc_ctlr(value),
            PMR => self.cpu.pmr = value as u8 & self.cpu.priority_mask(),
            BPR => self.cpu.write_bpr0(value),
            ABPR => self.cpu.write_bpr1(value),
            EOIR | AEOIR => return self.end_of_interrupt((value & INTID) as u32),
            DIR => return self.deactivate_register((value & INTID) as u32),
            APR => {
                self.cpu.active_priorities[0][0] = value as u32;
                self.cpu.active_priorities[1][0] = 0;
            }
            _ => return,
        }
        self.update();
    }

    /// KVM_GET_DEVICE_ATTR of CPU_REGS: unknown ones read as zero.
    pub fn gicc_user_read(&self, offset: u64) -> u64 {
        let cpu = &self.cpu;
        match offset {
            CTLR => self.gicc_ctlr(),
            // The UAPI has the five bits of GICH_VMCR here.
            PMR => u64::from(cpu.pmr >> 3),
            BPR => cpu.bpr0.into(),
            ABPR => cpu.bpr1.into(),
            APR => u64::from(cpu.active_priorities[0][0] | cpu.active_priorities[1][0]),
            IIDR => USER_IIDR,
            _ => 0,
        }
    }

    /// KVM_SET_DEVICE_ATTR of CPU_REGS: unknown ones are ignored.
    pub fn gicc_user_write(&mut self, offset: u64, value: u64) {
        match offset {
            CTLR => self.write_gicc_ctlr(value),
            PMR => self.cpu.pmr = (value << 3) as u8,
            BPR => self.cpu.bpr0 = value as u8 & 7,
            ABPR => self.cpu.bpr1 = value as u8 & 7,
            APR => {
                self.cpu.active_priorities[0][0] = value as u32;
                self.cpu.active_priorities[1][0] = 0;
            }
            _ => return,
        }
        self.update();
    }

    fn gicc_ctlr(&self) -> u64 {
        let cpu = &self.cpu;
        let bit = |on: bool, at: u32| u64::from(on) << at;
        bit(cpu.group_enable[0], 0)
            | bit(cpu.group_enable[1], 1)
            | bit(cpu.ack_ctl, 2)
            | bit(cpu.fiq_enable, 3)
            | bit(cpu.cbpr, 4)
            | bit(cpu.eoi_mode, 9)
    }

    fn write_gicc_ctlr(&mut self, value: u64) {
        let bit = |at: u32| value >> at & 1 != 0;
        let cpu = &mut self.cpu;
        cpu.group_enable = [bit(0), bit(1)];
        (cpu.ack_ctl, cpu.fiq_enable, cpu.cbpr, cpu.eoi_mode) = (bit(2), bit(3), bit(4), bit(9));
    }

    fn gicc_acknowledge(&mut self) -> u64 {
        match self.signalled() {
            Some(b) if b.group == Group::G1 && !self.cpu.ack_ctl => SPURIOUS_GROUP1.into(),
            _ => iar(self.acknowledge(&[Group::G0, Group::G1])),
        }
    }

    fn pending_with_source(&self, intid: Option<u32>) -> u64 {
        let Some(irq) = intid.and_then(|i| self.irq(i)) else { return SPURIOUS.into() };
        let source = if irq.sources != 0 { irq.sources.trailing_zeros() as u8 } else { 0 };
        iar((irq.intid, source))
    }
}

/// Whether userspace can name this register.
pub(crate) fn has_user_register(offset: u64) -> bool {
    matches!(offset, CTLR | PMR | BPR | ABPR | APR | 0xd4 | 0xd8 | 0xdc | IIDR)
}

/// GICC_IAR: the sender of an SGI stands above its number.
fn iar((intid, source): (u32, u8)) -> u64 {
    u64::from(intid) | u64::from(source) << 10
}
