//! KVM_GET_ONE_REG and KVM_SET_ONE_REG.

use std::sync::atomic::{AtomicU64, Ordering};

use ulna_arm_cpu::SysReg;
use ulna_kvm_abi::reg::{
    ARM64, GROUP_CORE, GROUP_DEMUX, GROUP_FW, GROUP_FW_FEAT, GROUP_SDEI, GROUP_SVE, GROUP_SYSREG, SIZE_U32,
    SIZE_U64,
};
use ulna_kvm_abi::{Errno, RegId, private};
use ulna_machine::CSSELR_MAX;
use ulna_machine::rules::{IDENTITY, pstate_ok};
use ulna_vgic::timer;

use crate::Result;
use crate::firmware::sdei;
use crate::vcpu::Vcpu;
use crate::vm::is_vm_wide;
use crate::vm_regs::check_identity;
use crate::why;

const NO_SVE: Errno = Errno::ENOENT.because("the vCPU has no SVE");

/// A write that the rules of all registers refuse.
pub(crate) fn refusal(r: ulna_machine::Refusal) -> Errno {
    let e = Errno::EINVAL.because("{x}: the host offers {x} ({n})");
    e.names([r.rule.map_or("", |r| r.name()), ""]).values([r.have as u64, r.limit as u64])
}

/// A write to an ID register that the machine refuses.
pub(crate) fn refused(r: ulna_machine::Refused) -> Errno {
    let e = match r.field {
        Some(_) => Errno::EINVAL.because("{n}.{n} is {x}, but the host offers {x}"),
        None => Errno::EINVAL.because("{n} is {x}, but the host has {x}"),
    };
    e.names([r.reg.name(), r.field.unwrap_or("")]).values([r.have, r.max])
}

/// Timer registers have ids of their own, with CNTV_CVAL and CNTVCT swapped as the UAPI froze them.
mod timer_id {
    pub const CNTV_CTL: u16 = 0xdf19;
    /// KVM_REG_ARM_TIMER_CVAL: the encoding of CNTVCT_EL0.
    pub const CNTV_CVAL: u16 = 0xdf02;
    /// KVM_REG_ARM_TIMER_CNT: the encoding of CNTV_CVAL_EL0.
    pub(crate) use crate::vm_regs::{CNTPCT, CNTVCT};
    pub const CNTP_CTL: u16 = 0xdf11;
    pub const CNTP_CVAL: u16 = 0xdf12;
}

impl Vcpu {
    /// KVM_GET_ONE_REG: fills `data`, which must have the register's size.
    pub fn get_one_reg(&mut self, id: RegId, data: &mut [u8]) -> Result<()> {
        self.initialised()?;
        self.settle()?;
        let id = self.untagged(id)?;
        check_id(id, data.len())?;
        if id.group() == GROUP_SDEI && self.sdei_enabled() {
            return self.vm.get_sdei(self.shared.index, id, data);
        }
        let s = &self.cpu.state;
        let v: u128 = match id.group() {
            GROUP_CORE => self.get_core(id)?,
            GROUP_SYSREG => match id.index() {
                timer_id::CNTVCT => self.count(&self.vm.cntvoff).into(),
                timer_id::CNTPCT => self.count(&self.vm.cntpoff).into(),
                timer_id::CNTV_CVAL => s.sys(SysReg::CNTV_CVAL_EL0).into(),
                timer_id::CNTP_CVAL => s.sys(SysReg::CNTP_CVAL_EL0).into(),
                timer_id::CNTV_CTL => {
                    self.timer_ctl(SysReg::CNTV_CTL_EL0, SysReg::CNTV_CVAL_EL0, &self.vm.cntvoff).into()
                }
                timer_id::CNTP_CTL => {
                    self.timer_ctl(SysReg::CNTP_CTL_EL0, SysReg::CNTP_CVAL_EL0, &self.vm.cntpoff).into()
                }
                enc => {
                    let r = self.listed(enc)?;
                    if self.is_the_vms(r) {
                        self.vm.id_values()[r as usize].into()
                    } else {
                        self.own_register(r).into()
                    }
                }
            },
            GROUP_DEMUX => self.cpu.ccsidr[self.ccsidr_entry(id)?].into(),
            GROUP_FW | GROUP_FW_FEAT => self.vm.get_firmware_reg(self.initialised()?, id)?.into(),
            _ => {
                let r = self.invariant(id)?;
                if self.is_the_vms(r) { self.vm.id_values()[r as usize].into() } else { s.sys(r).into() }
            }
        };
        data.copy_from_slice(&v.to_le_bytes()[..data.len()]);
        Ok(())
    }

    /// KVM_SET_ONE_REG.
    pub fn set_one_reg(&mut self, id: RegId, data: &[u8]) -> Result<()> {
        self.initialised()?;
        self.settle()?;
        let id = self.untagged(id)?;
        check_id(id, data.len())?;
        if id.group() == GROUP_SDEI && self.sdei_enabled() {
            return self.vm.set_sdei(self.shared.index, id, data);
        }
        if data.len() > 16 {
            return Err(why::NO_REGISTER);
        }
        let mut b = [0; 16];
        b[..data.len()].copy_from_slice(data);
        let wide = u128::from_le_bytes(b);
        let v = wide as u64;
        match id.group() {
            GROUP_CORE => self.set_core(id, wide),
            GROUP_SYSREG => self.set_sysreg(id.index(), v),
            GROUP_DEMUX => {
                let n = self.ccsidr_entry(id)?;
                let m = self.check_initialised()?;
                self.cpu.ccsidr[n] = m.check_ccsidr(n as u16, v).map_err(refusal)?;
                Ok(())
            }
            GROUP_FW | GROUP_FW_FEAT => self.vm.set_firmware_reg(self.initialised()?, id, v),
            _ => {
                let r = self.invariant(id)?;
                self.set_listed(r.code(), v)
            }
        }
    }

    /// KVM_GET_REG_LIST, in KVM's order.
    pub fn reg_list(&mut self) -> Result<Vec<RegId>> {
        let m = self.check_initialised()?;
        let mut l = m.ids(self.vm.traits());
        l.extend(self.vm.sdei_list());
        if self.vm.tagging.load(Ordering::SeqCst) {
            l.iter_mut().for_each(|id| *id = self.vm.tagged(&m, *id));
        }
        Ok(l)
    }

    /// Which entry an id of the demultiplexed group names.
    fn ccsidr_entry(&self, id: RegId) -> Result<usize> {
        let n = ccsidr(id)?;
        if n < self.check_initialised()?.ccsidr_entries().into() { Ok(n) } else { Err(why::NO_REGISTER) }
    }

    /// A reset that CPU_ON asked for shows in the registers at once.
    fn settle(&mut self) -> Result<()> {
        if !self.shared.has_reset.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.shared.has_reset.store(false, Ordering::SeqCst);
        let reset = self.shared.power().reset.take();
        reset.map_or(Ok(()), |to| self.apply_power_on(to))
    }

    fn count(&self, offset: &AtomicU64) -> u64 {
        self.vm.count(offset, self.cpu.state.icount)
    }

    fn timer_ctl(&self, ctl: SysReg, cval: SysReg, offset: &AtomicU64) -> u64 {
        let s = &self.cpu.state;
        let met = self.count(offset) >= s.sys(cval);
        s.sys(ctl) | if met { timer::CTL_ISTATUS } else { 0 }
    }

    fn set_sysreg(&mut self, enc: u16, v: u64) -> Result<()> {
        let s = &mut self.cpu.state;
        let icount = s.icount;
        let ctl = v & 0xffff_ffff & !timer::CTL_ISTATUS;
        match enc {
            timer_id::CNTVCT => self.vm.set_count(&self.vm.cntvoff, icount, v),
            timer_id::CNTPCT => self.vm.set_count(&self.vm.cntpoff, icount, v),
            timer_id::CNTV_CVAL => s.set_sys(SysReg::CNTV_CVAL_EL0, v),
            timer_id::CNTP_CVAL => s.set_sys(SysReg::CNTP_CVAL_EL0, v),
            timer_id::CNTV_CTL => s.set_sys(SysReg::CNTV_CTL_EL0, ctl),
            timer_id::CNTP_CTL => s.set_sys(SysReg::CNTP_CTL_EL0, ctl),
            _ => return self.set_listed(enc, v),
        }
        Ok(())
    }

    fn set_listed(&mut self, enc: u16, v: u64) -> Result<()> {
        let m = self.check_initialised()?;
        let r = self.listed(enc)?;
        if !self.is_the_vms(r) {
            if IDENTITY.contains(&r) && self.vm.het_identity.load(Ordering::SeqCst) {
                // The lock keeps the first run out between the check and the write.
                let _configuration = self.vm.id_values();
                let started = self.vm.started.load(Ordering::SeqCst);
                let v = check_identity(&m, r, self.cpu.state.sys(r), v, started)?;
                self.cpu.state.set_sys(r, v);
                return Ok(());
            }
            if self.set_pmu_register(&m, r, v) {
                return Ok(());
            }
            let v = m.check_write(r, v).map_err(refused)?;
            self.cpu.state.set_sys(r, v);
            if r == SysReg::MPIDR_EL1 {
                self.vm.set_affinity(&self.shared, v);
            }
            return Ok(());
        }
        self.vm.set_id_register(&m, r, v)
    }

    /// Has the VM the only value of this system register?
    fn is_the_vms(&self, r: SysReg) -> bool {
        is_vm_wide(r) || IDENTITY.contains(&r) && self.vm.identity_is_the_vms()
    }

    fn untagged(&self, id: RegId) -> Result<RegId> {
        if id.0 & private::SCOPE_MASK == 0 { Ok(id) } else { Ok(self.vm.untagged(self.initialised()?, id)) }
    }

    /// KVM looks these registers up before it minds the group: they answer in all that have no meaning of their own.
    fn invariant(&self, id: RegId) -> Result<SysReg> {
        self.listed(id.index())
            .and_then(|r| if IDENTITY.contains(&r) { Ok(r) } else { Err(why::NO_REGISTER) })
    }

    fn listed(&self, enc: u16) -> Result<SysReg> {
        let m = self.initialised()?;
        SysReg::from_code(enc).filter(|r| m.listed(*r)).ok_or(why::NO_REGISTER)
    }

    /// Core registers by their offset into `struct kvm_regs` in words.
    fn get_core(&self, id: RegId) -> Result<u128> {
        let s = &self.cpu.state;
        let i = id.index();
        Ok(match (i, id.size()) {
            (0..=61, 8) if i.is_multiple_of(2) => s.x[(i / 2) as usize].into(),
            (62, 8) => s.banked_sp(0).into(),
            (64, 8) => s.pc.into(),
            (66, 8) => (u64::from(self.cpu.pstate()) | self.pstate_rest).into(),
            (68, 8) => s.banked_sp(1).into(),
            (70, 8) => s.sys(SysReg::ELR_EL1).into(),
            (72, 8) => s.sys(SysReg::SPSR_EL1).into(),
            (74 | 76 | 78 | 80, 8) => s.sys(aarch32_spsr(i)).into(),
            (84..=211, 16) if i.is_multiple_of(4) => s.v[((i - 84) / 4) as usize],
            (212, 4) => s.fpsr.into(),
            (213, 4) => s.fpcr.into(),
            _ => return Err(core_errno(id)),
        })
    }

    fn set_core(&mut self, id: RegId, v: u128) -> Result<()> {
        let i = id.index();
        let size = id.size();
        if (i, size) == (66, 8) {
            if !pstate_ok(v as u64) {
                return Err(Errno::EINVAL
                    .because("PSTATE {x}: the vCPU has the modes EL0t, EL1t and EL1h")
                    .value(v as u64));
            }
            self.cpu.set_pstate(v as u32);
            self.pstate_rest = v as u64 & !u64::from(self.cpu.pstate());
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
            (74 | 76 | 78 | 80, 8) => s.set_sys(aarch32_spsr(i), w),
            (84..=211, 16) if i.is_multiple_of(4) => s.v[((i - 84) / 4) as usize] = v,
            (212, 4) => s.fpsr = w as u32,
            (213, 4) => s.fpcr = w as u32,
            _ => return Err(core_errno(id)),
        }
        Ok(())
    }
}

/// The SPSRs of AArch32 modes: only a VMM sees them.
fn aarch32_spsr(index: u16) -> SysReg {
    match index {
        74 => SysReg::SPSR_abt,
        76 => SysReg::SPSR_und,
        78 => SysReg::SPSR_irq,
        _ => SysReg::SPSR_fiq,
    }
}

/// Past the end of `struct kvm_regs`' registers there is nothing; in it are holes and sizes that do not fit.
fn core_errno(id: RegId) -> Errno {
    let end = usize::from(id.index()) + id.size() / 4;
    if id.index() >= 216 || end >= 216 {
        Errno::ENOENT.because("core registers end before this index")
    } else {
        Errno::EINVAL
            .because("at index {x} of the core registers none of {} bytes begins")
            .values([id.index().into(), id.size() as u64])
    }
}

/// Which entry an id of the demultiplexed group names, if it can name any.
fn ccsidr(id: RegId) -> Result<usize> {
    if id.0 & (0xf << 52) == SIZE_U32 && id.index() < CSSELR_MAX {
        Ok(id.index().into())
    } else {
        Err(why::NO_REGISTER)
    }
}

fn check_id(id: RegId, len: usize) -> Result<()> {
    if id.0 >> 56 != ARM64 >> 56 || id.0 >> 32 & 0xf_ffff != 0 {
        return Err(Errno::EINVAL.because("{x} is not the id of a register of arm64").value(id.0));
    }
    if id.0 & 0xf000_0000 != 0 {
        return Err(Errno::ENOENT.because("bits 31:28 of the id are not zero"));
    }
    match id.group() {
        GROUP_CORE if id.size() > 16 => return Err(core_errno(id)),
        GROUP_CORE => {}
        GROUP_DEMUX => {
            ccsidr(id)?;
        }
        // Only vCPUs with SVE have these; an id that no vCPU could have is another mistake.
        GROUP_SVE => {
            return Err(if is_sve(id) {
                NO_SVE
            } else {
                Errno::EINVAL.because("the id names no register of SVE")
            });
        }
        // Where there is no SDEI the id means nothing.
        GROUP_SDEI if sdei::Reg::from_id(id).is_some() => {
            return if id.size() == len { Ok(()) } else { Err(why::WRONG_SIZE) };
        }
        _ if id.0 & (0xf << 52) != SIZE_U64 => {
            return Err(Errno::ENOENT.because("registers of this group have 64 bits"));
        }
        _ => {}
    }
    // A buffer of another size is the caller's mistake, not the guest's.
    if id.size() == len && len <= 16 { Ok(()) } else { Err(why::WRONG_SIZE) }
}

/// Z registers, then P registers and FFR, in slices; the set of vector lengths.
fn is_sve(id: RegId) -> bool {
    match id.index() {
        0..0x400 => id.size() == 256,
        0x400..0x620 => id.size() == 32,
        0xffff => id.size() == 64,
        _ => false,
    }
}
