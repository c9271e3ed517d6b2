//! A debug exception that is the guest's own: what the CPU would have done with it, carried out through registers.

use crate::gdb::regs::{get, set};
use ulna_arm_regs::SysReg;
use ulna_kvm_backend::{RegId, Result, Vcpu};

/// BRK: the same class from either exception level.
const EC_BRK: u64 = 0x3c;
/// Watchpoint from a lower exception level.
const EC_WATCHPOINT: u64 = 0x34;
/// PSTATE bits that survive the entry: flags, DIT, PAN.
const KEPT: u64 = 0xf << 28 | 1 << 24 | 1 << 22;
/// D, A, I, F set; EL1 with SP_EL1.
const ENTRY: u64 = 0x3c5;

/// Takes the exception to EL1 (AArch64.TakeException).
pub fn take(vcpu: &mut dyn Vcpu, esr: u32, far: u64) -> Result<()> {
    let pc = vcpu.get_reg_u64(RegId::PC)?;
    let pstate = vcpu.get_reg_u64(RegId::PSTATE)?;
    let sctlr = get(vcpu, SysReg::SCTLR_EL1)?;
    let vbar = get(vcpu, SysReg::VBAR_EL1)? & !0x7ff;
    let same = pstate >> 2 & 3 == 1;
    let offset = match (same, pstate & 1) {
        (false, _) => 0x400,
        (true, 0) => 0,
        (true, _) => 0x200,
    };
    let class = u64::from(esr >> 26);
    let from = if same && class != EC_BRK { 1 } else { 0 };
    set(vcpu, SysReg::ESR_EL1, (class + from) << 26 | u64::from(esr & 0x3ff_ffff))?;
    if class == EC_WATCHPOINT {
        set(vcpu, SysReg::FAR_EL1, far)?;
    }
    vcpu.set_reg_u64(RegId::ELR_EL1, pc)?;
    vcpu.set_reg_u64(RegId::SPSR_EL1, pstate)?;
    // SPAN 0 sets PAN; DSSBS is the new SSBS. Bits of features that are not there are dropped.
    let pan = u64::from(sctlr >> 23 & 1 == 0) << 22;
    let ssbs = (sctlr >> 44 & 1) << 12;
    vcpu.set_reg_u64(RegId::PSTATE, pstate & KEPT | ENTRY | pan | ssbs)?;
    vcpu.set_reg_u64(RegId::PC, vbar + offset)
}
