//! MRS, MSR, SYS and ERET: dispatch. The registers themselves are in [`crate::sysreg`], maintenance in
//! [`crate::maintenance`].

use crate::SysReg;
use crate::cpu::Cpu;
use crate::exception::Exception;
use crate::insn::{Exec, Flow, Insn};
use crate::state::daif;
use crate::{Feat, sysreg};

/// Marks an encoding without a row.
const NO_ROW: u64 = u64::MAX;

/// Resolves the register once: `imm` becomes its ordinal. Registers that any EL reads without a check get their own
/// handler.
pub fn sysreg_prep(i: &mut Insn) {
    let reg = SysReg::from_code(encoding(i));
    i.imm = reg.map_or(NO_ROW, |r| r as u64);
    let read = i.bit(21);
    match reg {
        Some(SysReg::TPIDR_EL0) if read => i.exec = mrs_plain,
        Some(SysReg::TPIDR_EL0) => {
            i.exec = msr_plain;
            i.end = false;
        }
        Some(SysReg::TPIDRRO_EL0) if read => i.exec = mrs_plain,
        Some(SysReg::NZCV | SysReg::FPSR) if !read => i.end = false,
        _ => {}
    }
}

/// op0<<14 | op1<<11 | CRn<<7 | CRm<<3 | op2, as in a KVM register id.
fn encoding(i: &Insn) -> u16 {
    (i.raw >> 5) as u16
}

fn mrs_plain(cpu: &mut Cpu, i: &Insn) -> Exec {
    let v = cpu.state.sys[i.imm as usize % SysReg::COUNT];
    cpu.state.set_x(i.rd, v);
    Ok(Flow::Next)
}

fn msr_plain(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.state.sys[i.imm as usize % SysReg::COUNT] = cpu.state.xr(i.rd);
    Ok(Flow::Next)
}

/// Continues after this instruction with everything looked up anew.
fn synchronise(cpu: &mut Cpu) -> Exec {
    cpu.state.pc = cpu.state.pc.wrapping_add(4);
    Ok(Flow::Jump)
}

fn row(i: &Insn) -> Option<SysReg> {
    SysReg::ALL.get(i.imm as usize).copied()
}

/// MRS.
pub fn mrs(cpu: &mut Cpu, i: &Insn) -> Exec {
    let v = sysreg::read(cpu, row(i), encoding(i), i.rd)?;
    cpu.state.set_x(i.rd, v);
    Ok(Flow::Next)
}

/// MSR (register).
pub fn msr_reg(cpu: &mut Cpu, i: &Insn) -> Exec {
    let v = cpu.state.xr(i.rd);
    sysreg::write(cpu, row(i), encoding(i), i.rd, v)?;
    synchronise(cpu)
}

/// MSR (immediate): PSTATE fields.
pub fn msr_imm(cpu: &mut Cpu, i: &Insn) -> Exec {
    let (op1, imm, op2) = (i.bits(16, 3), i.bits(8, 4), i.bits(5, 3));
    let el0 = cpu.state.el == 0;
    let on = imm & 1 != 0;
    match (op1, op2) {
        (3, 6 | 7) => {
            if el0 && cpu.state.sys(SysReg::SCTLR_EL1) >> 9 & 1 == 0 {
                return cpu.raise(Exception::sysreg_trap(0, op1, 4, imm, op2, 31, false));
            }
            let bits = imm << 6 & (daif::D | daif::A | daif::I | daif::F);
            if op2 == 6 {
                cpu.state.daif |= bits;
            } else {
                cpu.state.daif &= !bits;
            }
            cpu.daif_changed();
        }
        (0, 5) if !el0 => {
            let el = cpu.state.el;
            cpu.state.set_el_sp(el, u8::from(on));
        }
        (0, 4) if !el0 && cpu.has(Feat::PAN) => {
            cpu.state.pan = on;
            cpu.context_changed();
        }
        (0, 3) if !el0 && cpu.has(Feat::UAO) => cpu.state.uao = on,
        (3, 2) if cpu.has(Feat::DIT) => cpu.state.dit = on,
        (3, 1) if cpu.has(Feat::SSBS2) => cpu.state.ssbs = on,
        _ => return cpu.undefined(),
    }
    synchronise(cpu)
}

/// SYS: cache, TLB and address translation instructions.
pub fn sys(cpu: &mut Cpu, i: &Insn) -> Exec {
    let v = cpu.state.xr(i.rd);
    let (op1, crn, crm, op2) = (i.bits(16, 3), i.bits(12, 4), i.bits(8, 4), i.bits(5, 3));
    crate::maintenance::sys(cpu, op1, crn, crm, op2, i.rd, v)?;
    synchronise(cpu)
}

/// SYSL: no instruction with a result is built.
pub fn sysl(cpu: &mut Cpu, _: &Insn) -> Exec {
    cpu.undefined()
}

/// ERET.
pub fn eret(cpu: &mut Cpu, _: &Insn) -> Exec {
    if cpu.state.el == 0 {
        return cpu.undefined();
    }
    let target = cpu.state.sys(SysReg::ELR_EL1);
    cpu.exception_return(target);
    Ok(Flow::Jump)
}

/// DRPS is UNDEFINED outside Debug state.
pub fn drps(cpu: &mut Cpu, _: &Insn) -> Exec {
    cpu.undefined()
}
