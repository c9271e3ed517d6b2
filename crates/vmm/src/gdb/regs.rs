//! Registers of a vCPU as GDB sees them, by ONE_REG.

use crate::gdb::arch::Reg;
use crate::gdb::walk::Regime;
use ulna_arm_regs::SysReg;
use ulna_kvm_backend::{Errno, RegId, Result, Vcpu};

/// A system register.
pub fn get(vcpu: &mut dyn Vcpu, r: SysReg) -> Result<u64> {
    vcpu.get_reg_u64(RegId::sysreg(r.code()))
}

/// Writes a system register.
pub fn set(vcpu: &mut dyn Vcpu, r: SysReg, v: u64) -> Result<()> {
    vcpu.set_reg_u64(RegId::sysreg(r.code()), v)
}

/// SP_EL1 at EL1 with SPSel 1, else SP_EL0.
fn stack(vcpu: &mut dyn Vcpu) -> Result<RegId> {
    let pstate = vcpu.get_reg_u64(RegId::PSTATE)?;
    Ok(if pstate & 0xf == 5 { RegId::SP_EL1 } else { RegId::SP })
}

/// The bytes of a register.
pub fn read(vcpu: &mut dyn Vcpu, r: Reg) -> Result<Vec<u8>> {
    let id = match r {
        Reg::Sp => stack(vcpu)?,
        Reg::Cpsr => RegId::PSTATE,
        Reg::Kvm(id) => id,
    };
    let mut b = vec![0; id.size()];
    vcpu.get_one_reg(id, &mut b)?;
    b.truncate(r.size());
    Ok(b)
}

/// Writes a register.
pub fn write(vcpu: &mut dyn Vcpu, r: Reg, bytes: &[u8]) -> Result<()> {
    if bytes.len() < r.size() {
        return Err(Errno::EINVAL);
    }
    let (id, mut b) = match r {
        Reg::Sp => (stack(vcpu)?, bytes[..8].to_vec()),
        Reg::Cpsr => (RegId::PSTATE, bytes[..4].to_vec()),
        Reg::Kvm(id) => (id, bytes[..r.size()].to_vec()),
    };
    b.resize(id.size(), 0);
    vcpu.set_one_reg(id, &b)
}

/// What translates the vCPU's addresses.
pub fn regime(vcpu: &mut dyn Vcpu) -> Result<Regime> {
    Ok(Regime {
        sctlr: get(vcpu, SysReg::SCTLR_EL1)?,
        tcr: get(vcpu, SysReg::TCR_EL1)?,
        ttbr: [get(vcpu, SysReg::TTBR0_EL1)?, get(vcpu, SysReg::TTBR1_EL1)?],
    })
}
