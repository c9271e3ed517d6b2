//! Stepping without falling into interrupt handlers: PSTATE.I and F are set for the one instruction.

use crate::gdb::regs::get;
use ulna_arm_regs::SysReg;
use ulna_kvm_backend::{RegId, Result, Vcpu};

/// PSTATE.I and F.
const IF: u64 = 0xc0;

/// What is to be put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet {
    pc: u64,
    pstate: u64,
}

/// Instructions that neither see nor change the masks, nor save them: not DAIF, ERET, SVC and their kin.
pub fn can_be_quiet(word: u32) -> bool {
    let daif_immediate = word & 0xffff_f0df == 0xd503_40df;
    let daif_register = word & 0xffdf_ffe0 == 0xd51b_4220;
    let eret = word & 0xffff_f000 == 0xd69f_0000;
    let exception = word & 0xff00_0000 == 0xd400_0000;
    !(daif_immediate || daif_register || eret || exception)
}

/// Masks interrupts, if they are not.
pub fn begin(vcpu: &mut dyn Vcpu) -> Result<Option<Quiet>> {
    let (pc, pstate) = (vcpu.get_reg_u64(RegId::PC)?, vcpu.get_reg_u64(RegId::PSTATE)?);
    if pstate & IF == IF {
        return Ok(None);
    }
    vcpu.set_reg_u64(RegId::PSTATE, pstate | IF)?;
    Ok(Some(Quiet { pc, pstate }))
}

/// Puts the masks back: in PSTATE, or in SPSR_EL1 if the instruction led into an exception.
pub fn end(vcpu: &mut dyn Vcpu, q: Quiet) -> Result<()> {
    let vbar = get(vcpu, SysReg::VBAR_EL1)? & !0x7ff;
    let (pc, elr) = (vcpu.get_reg_u64(RegId::PC)?, vcpu.get_reg_u64(RegId::ELR_EL1)?);
    let taken = matches!(pc.wrapping_sub(vbar), 0 | 0x200 | 0x400) && elr == q.pc;
    let id = if taken { RegId::SPSR_EL1 } else { RegId::PSTATE };
    let v = vcpu.get_reg_u64(id)?;
    vcpu.set_reg_u64(id, v & !IF | q.pstate & IF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_notices_the_masks() {
        // msr daifset, #2; msr daifclr, #15; msr daif, x3; mrs x3, daif; eret; eretaa; svc; hvc; brk
        for w in [
            0xd503_42df,
            0xd503_4fff,
            0xd51b_4223,
            0xd53b_4223,
            0xd69f_03e0,
            0xd69f_0bff,
            0xd400_0001,
            0xd400_0002,
            0xd420_0000,
        ] {
            assert!(!can_be_quiet(w), "{w:#x}");
        }
        // nop; add; ldr; wfi; msr spsel, #1; mrs x0, nzcv
        for w in [0xd503_201f, 0x9100_0421, 0xf940_0000, 0xd503_207f, 0xd500_41bf, 0xd53b_4200] {
            assert!(can_be_quiet(w), "{w:#x}");
        }
    }
}
