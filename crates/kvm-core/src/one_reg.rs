//! KVM_GET_ONE_REG and KVM_SET_ONE_REG.

use std::sync::atomic::Ordering;

use ulna_arm_cpu::SysReg;
use ulna_arm_cpu::cpu::Clock;
use ulna_arm_regs::id::{IdReg, in_id_space};
use ulna_kvm_abi::reg::{ARM64, GROUP_CORE, GROUP_FW, GROUP_SYSREG, SIZE_U64};
use ulna_kvm_abi::{Errno, RegId, vcpu_feature};

use crate::Result;
use crate::firmware::psci;
use crate::vcpu::Vcpu;

/// Timer registers have ids of their own, with CNTV_CVAL and CNTVCT swapped as the UAPI froze them.
mod timer_id {
    pub const CNTV_CTL: u16 = 0xdf19;
    /// KVM_REG_ARM_TIMER_CVAL: the encoding of CNTVCT_EL0.
    pub const CNTV_CVAL: u16 = 0xdf02;
    /// KVM_REG_ARM_TIMER_CNT: the encoding of CNTV_CVAL_EL0.
    pub const CNTVCT: u16 = 0xdf1a;
    pub const CNTP_CTL: u16 = 0xdf11;
    pub const CNTP_CVAL: u16 = 0xdf12;
    pub const CNTPCT: u16 = 0xdf01;
}

impl Vcpu {
    /// KVM_GET_ONE_REG: fills `data`, which must have the register's size.
    pub fn get_one_reg(&self, id: RegId, data: &mut [u8]) -> Result<()> {
        self.check_initialised()?;
        check_id(id, data.len())?;
        let s = &self.cpu.state;
        let v: u128 = match id.group() {
            GROUP_CORE => self.get_core(id)?,
            GROUP_SYSREG => match id.index() {
                timer_id::CNTVCT => self.cpu.cntvct().into(),
                timer_id::CNTPCT => self.cpu.cntpct().into(),
                timer_id::CNTV_CVAL => s.sys(SysReg::CNTV_CVAL_EL0).into(),
                timer_id::CNTP_CVAL => s.sys(SysReg::CNTP_CVAL_EL0).into(),
                timer_id::CNTV_CTL => s.sys(SysReg::CNTV_CTL_EL0).into(),
                timer_id::CNTP_CTL => s.sys(SysReg::CNTP_CTL_EL0).into(),
                enc => s.sys(self.listed(enc)?).into(),
            },
            GROUP_FW if id == RegId::PSCI_VERSION => self.psci_version().into(),
            _ => return Err(Errno::ENOENT),
        };
        data.copy_from_slice(&v.to_le_bytes()[..data.len()]);
        Ok(())
    }

    /// KVM_SET_ONE_REG.
    pub fn set_one_reg(&mut self, id: RegId, data: &[u8]) -> Result<()> {
        let m = self.check_initialised()?;
        check_id(id, data.len())?;
        let mut b = [0; 16];
        b[..data.len()].copy_from_slice(data);
        let wide = u128::from_le_bytes(b);
        let v = wide as u64;
        match id.group() {
            GROUP_CORE => self.set_core(id, wide),
            GROUP_SYSREG => {
                let now = self.vm.clock.counter(self.cpu.state.icount);
                let s = &mut self.cpu.state;
                match id.index() {
                    timer_id::CNTVCT => self.vm.cntvoff.store(now.wrapping_sub(v), Ordering::SeqCst),
                    timer_id::CNTPCT => self.vm.cntpoff.store(now.wrapping_sub(v), Ordering::SeqCst),
                    timer_id::CNTV_CVAL => s.set_sys(SysReg::CNTV_CVAL_EL0, v),
                    timer_id::CNTP_CVAL => s.set_sys(SysReg::CNTP_CVAL_EL0, v),
                    timer_id::CNTV_CTL => s.set_sys(SysReg::CNTV_CTL_EL0, v & 3),
                    timer_id::CNTP_CTL => s.set_sys(SysReg::CNTP_CTL_EL0, v & 3),
                    enc => {
                        let r = self.listed(enc)?;
                        let guarded = IdReg::of(r).is_some() || in_id_space(r);
                        if guarded && self.vm.started.load(Ordering::SeqCst) {
                            // Frozen: the same value is accepted.
                            return if self.cpu.state.sys(r) == v { Ok(()) } else { Err(Errno::EBUSY) };
                        }
                        let v = m.check_write(r, v).map_err(|_| Errno::EINVAL)?;
                        self.cpu.state.set_sys(r, v);
                    }
                }
                Ok(())
            }
            GROUP_FW if id == RegId::PSCI_VERSION => self.set_psci_version(v),
            _ => Err(Errno::ENOENT),
        }
    }

    fn listed(&self, enc: u16) -> Result<SysReg> {
        let m = self.check_initialised()?;
        SysReg::from_code(enc).filter(|r| m.listed(*r)).ok_or(Errno::ENOENT)
    }

    fn psci_version(&self) -> u64 {
        if self.has_feature(vcpu_feature::PSCI_0_2) { self.vm.psci_version.load(Ordering::SeqCst) } else { 1 }
    }

    fn set_psci_version(&mut self, v: u64) -> Result<()> {
        let modern = self.has_feature(vcpu_feature::PSCI_0_2);
        let ok = if modern { matches!(v, 2 | 0x1_0000 | psci::VERSION_1_1) } else { v == 1 };
        if !ok {
            return Err(Errno::EINVAL);
        }
        if modern {
            self.vm.psci_version.store(v, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Core registers by their offset into `struct kvm_regs` in words.
    fn get_core(&self, id: RegId) -> Result<u128> {
        let s = &self.cpu.state;
        let i = id.index();
        Ok(match (i, id.size()) {
            (0..=61, 8) if i.is_multiple_of(2) => s.x[(i / 2) as usize].into(),
            (62, 8) => s.banked_sp(0).into(),
            (64, 8) => s.pc.into(),
            (66, 8) => self.cpu.pstate().into(),
            (68, 8) => s.banked_sp(1).into(),
            (70, 8) => s.sys(SysReg::ELR_EL1).into(),
            (72, 8) => s.sys(SysReg::SPSR_EL1).into(),
            (74 | 76 | 78 | 80, 8) => 0,
            (84..=211, 16) if i.is_multiple_of(4) => s.v[((i - 84) / 4) as usize],
            (212, 4) => s.fpsr.into(),
            (213, 4) => s.fpcr.into(),
            _ => return Err(Errno::EINVAL),
        })
    }

    fn set_core(&mut self, id: RegId, v: u128) -> Result<()> {
        let i = id.index();
        let size = id.size();
        if (i, size) == (66, 8) {
            // Only AArch64 EL0t, EL1t and EL1h.
            if !matches!(v as u32 & 0x1f, 0 | 4 | 5) {
                return Err(Errno::EINVAL);
            }
            self.cpu.set_pstate(v as u32);
            return Ok(());
        }
        let s = &mut self.cpu.state;
        let w = v as u64;
        match (i, size) {
            (0..=61, 8) if i.is_multiple_of(2) => s.x[(i / 2) as usize] = w,
            (62, 8) => s.set_banked_sp(0, w),
            (64, 8) => s.pc = w,
            (68, 8) => s.set_banked_sp(1, w),
            (70, 8) => s.set_sys(SysReg::ELR_EL1, w),
            (72, 8) => s.set_sys(SysReg::SPSR_EL1, w),
            (74 | 76 | 78 | 80, 8) => {}
            (84..=211, 16) if i.is_multiple_of(4) => s.v[((i - 84) / 4) as usize] = v,
            (212, 4) => s.fpsr = w as u32,
            (213, 4) => s.fpcr = w as u32,
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

fn check_id(id: RegId, len: usize) -> Result<()> {
    if id.0 >> 56 != ARM64 >> 56 || id.0 & 0x000f_ffff_0000_0000 & !(0xf << 52) != 0 {
        return Err(Errno::EINVAL);
    }
    if id.0 & 0xf000_0000 != 0 {
        return Err(Errno::ENOENT);
    }
    if id.size() != len {
        return Err(Errno::EINVAL);
    }
    let u64_only = matches!(id.group(), GROUP_SYSREG | GROUP_FW);
    if u64_only && id.0 & (0xf << 52) != SIZE_U64 {
        return Err(Errno::ENOENT);
    }
    Ok(())
}
