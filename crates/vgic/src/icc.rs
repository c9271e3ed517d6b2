//! ICC_*_EL1: the CPU interface's system registers as the guest and as userspace access them.

use crate::cpuif::Group;
use crate::irq::SPURIOUS;
use crate::redist::{Message, Redistributor, SgiRequest, SgiTargets};
use crate::sysreg::IccReg;
use crate::types::GicError;

/// ICC_SRE_EL1: system registers, no bypass; nothing of it can be changed.
const SRE: u64 = 7;

impl Redistributor {
    /// Whether a guest's access to it is defined: the active priority registers depend on the
    /// number of priority bits.
    pub fn icc_exists(&self, reg: IccReg) -> bool {
        match reg {
            IccReg::Ap0r(n) | IccReg::Ap1r(n) => usize::from(n) < self.cpu.ap_words(),
            _ => true,
        }
    }

    /// A guest's MRS.
    pub fn icc_read(&mut self, reg: IccReg) -> u64 {
        let cpu = &self.cpu;
        match reg {
            IccReg::Pmr => (cpu.pmr & cpu.priority_mask()).into(),
            IccReg::Iar0 => self.acknowledge(&[Group::G0]).0.into(),
            IccReg::Iar1 => self.acknowledge(&[Group::G1]).0.into(),
            IccReg::Hppir0 => self.highest_pending_of(Group::G0).into(),
            IccReg::Hppir1 => self.highest_pending_of(Group::G1).into(),
            IccReg::Bpr0 => cpu.bpr0().into(),
            IccReg::Bpr1 => cpu.bpr1().into(),
            IccReg::Ap0r(n) => self.active_priorities(Group::G0, n),
            IccReg::Ap1r(n) => self.active_priorities(Group::G1, n),
            IccReg::Rpr => cpu.running_priority().into(),
            IccReg::Ctlr => self.ctlr(cpu.pri_bits, self.id_bits),
            IccReg::Sre => SRE,
            IccReg::Igrpen0 => cpu.group_enable[0].into(),
            IccReg::Igrpen1 => cpu.group_enable[1].into(),
            IccReg::Eoir0 | IccReg::Eoir1 | IccReg::Dir => 0,
            IccReg::Sgi0r | IccReg::Sgi1r | IccReg::Asgi1r => 0,
        }
    }

    /// A guest's MSR. SGIs and more are left in [`Redistributor::take_messages`].
    pub fn icc_write(&mut self, reg: IccReg, value: u64) {
        match reg {
            IccReg::Pmr => self.cpu.pmr = value as u8 & self.cpu.priority_mask(),
            IccReg::Bpr0 => self.cpu.write_bpr0(value),
            IccReg::Bpr1 => self.cpu.write_bpr1(value),
            IccReg::Ap0r(n) => self.write_active_priorities(Group::G0, n, value),
            IccReg::Ap1r(n) => self.write_active_priorities(Group::G1, n, value),
            IccReg::Ctlr => (self.cpu.cbpr, self.cpu.eoi_mode) = (value & 1 != 0, value & 2 != 0),
            IccReg::Igrpen0 => self.cpu.group_enable[0] = value & 1 != 0,
            IccReg::Igrpen1 => self.cpu.group_enable[1] = value & 1 != 0,
            IccReg::Eoir0 | IccReg::Eoir1 => return self.end_of_interrupt(self.intid_of(value)),
            IccReg::Dir => return self.deactivate_register(self.intid_of(value)),
            IccReg::Sgi1r => return self.request_sgi(value, true),
            IccReg::Asgi1r | IccReg::Sgi0r => return self.request_sgi(value, false),
            IccReg::Sre | IccReg::Rpr => return,
            IccReg::Iar0 | IccReg::Iar1 | IccReg::Hppir0 | IccReg::Hppir1 => return,
        }
        self.update();
    }

    /// KVM_GET_DEVICE_ATTR of CPU_SYSREGS.
    pub fn icc_user_read(&self, reg: IccReg) -> Result<u64, GicError> {
        let cpu = &self.cpu;
        Ok(match reg {
            IccReg::Pmr => cpu.pmr.into(),
            IccReg::Bpr0 => cpu.bpr0.into(),
            IccReg::Bpr1 if cpu.cbpr => (cpu.bpr0 + 1).min(7).into(),
            IccReg::Bpr1 => cpu.bpr1.into(),
            IccReg::Ap0r(n) => self.user_ap(n).map(|()| self.active_priorities(Group::G0, n))?,
            IccReg::Ap1r(n) => self.user_ap(n).map(|()| self.active_priorities(Group::G1, n))?,
            IccReg::Ctlr => self.ctlr(self.user_pri_bits, self.user_id_bits) & !(1 << 18),
            IccReg::Sre => SRE,
            IccReg::Igrpen0 => cpu.group_enable[0].into(),
            IccReg::Igrpen1 => cpu.group_enable[1].into(),
            _ => return Err(GicError::NoRegister),
        })
    }

    /// KVM_SET_DEVICE_ATTR of CPU_SYSREGS.
    pub fn icc_user_write(&mut self, reg: IccReg, value: u64) -> Result<(), GicError> {
        match reg {
            IccReg::Pmr => self.cpu.pmr = value as u8,
            IccReg::Bpr0 => self.cpu.bpr0 = value as u8 & 7,
            IccReg::Bpr1 if self.cpu.cbpr => {}
            IccReg::Bpr1 => self.cpu.bpr1 = value as u8 & 7,
            IccReg::Ap0r(n) => {
                self.user_ap(n)?;
                self.write_active_priorities(Group::G0, n, value);
            }
            IccReg::Ap1r(n) => {
                self.user_ap(n)?;
                self.write_active_priorities(Group::G1, n, value);
            }
            IccReg::Ctlr => self.user_write_ctlr(value)?,
            IccReg::Sre if value & 1 == 0 => return Err(GicError::BadValue),
            IccReg::Sre => {}
            IccReg::Igrpen0 => self.cpu.group_enable[0] = value & 1 != 0,
            IccReg::Igrpen1 => self.cpu.group_enable[1] = value & 1 != 0,
            _ => return Err(GicError::NoRegister),
        }
        self.update();
        Ok(())
    }

    /// In this order, each lowering taking effect at once even if a later check refuses (recorded).
    fn user_write_ctlr(&mut self, value: u64) -> Result<(), GicError> {
        let pri_bits = (value >> 8 & 7) as u8 + 1;
        if pri_bits > self.user_pri_bits {
            return Err(GicError::BadValue);
        }
        self.user_pri_bits = pri_bits;
        let id_code = value >> 11 & 7;
        if id_code > id_code_of(self.user_id_bits) {
            return Err(GicError::BadValue);
        }
        self.user_id_bits = if id_code == 0 { 16 } else { 24 };
        if (value ^ self.ctlr_fixed) & (1 << 14 | 1 << 15) != 0 {
            return Err(GicError::BadValue);
        }
        (self.cpu.cbpr, self.cpu.eoi_mode) = (value & 1 != 0, value & 2 != 0);
        Ok(())
    }

    /// KVM refuses indices that the claimed number of priority bits does not have.
    fn user_ap(&self, n: u8) -> Result<(), GicError> {
        let words = match self.user_pri_bits {
            7.. => 4,
            6 => 2,
            _ => 1,
        };
        if n < words { Ok(()) } else { Err(GicError::BadValue) }
    }

    fn ctlr(&self, pri_bits: u8, id_bits: u8) -> u64 {
        self.ctlr_fixed
            | u64::from(pri_bits - 1) << 8
            | id_code_of(id_bits) << 11
            | u64::from(self.cpu.eoi_mode) << 1
            | u64::from(self.cpu.cbpr)
    }

    fn highest_pending_of(&self, group: Group) -> u32 {
        self.highest_pending().filter(|b| b.group == group).map_or(SPURIOUS, |b| b.intid)
    }

    fn active_priorities(&self, group: Group, n: u8) -> u64 {
        self.cpu.active_priorities[group as usize].get(usize::from(n)).copied().unwrap_or(0).into()
    }

    fn write_active_priorities(&mut self, group: Group, n: u8, value: u64) {
        if usize::from(n) < self.cpu.ap_words() {
            self.cpu.active_priorities[group as usize][usize::from(n)] = value as u32;
        }
    }

    /// ICC_SGI1R_EL1 and its relatives.
    fn request_sgi(&mut self, value: u64, group1: bool) {
        let byte = |at: u32| (value >> at) as u32 & 0xff;
        let to = if value >> 40 & 1 != 0 {
            SgiTargets::Others
        } else {
            SgiTargets::List {
                // Aff3 and RS are RES0 where the controller does not know them.
                cluster: if self.a3v { byte(48) } else { 0 } << 24 | byte(32) << 16 | byte(16) << 8,
                first: if self.rss { (value >> 44) as u32 & 0xf } else { 0 } * 16,
                list: value as u16,
            }
        };
        let intid = (value >> 24) as u32 & 0xf;
        self.post(Message::Sgi(SgiRequest { from: self.index, intid, to, group1 }));
    }
}

fn id_code_of(id_bits: u8) -> u64 {
    u64::from(id_bits == 24)
}
