//! Exception generation, hints and barriers (Arm ARM C4.1.94).

use std::sync::atomic::{Ordering, fence};

use crate::cpu::Cpu;
use crate::exception::{Exception, ec};
use crate::exit::Exit;
use crate::insn::{Exec, Flow, Insn};
use crate::lines::CpuLines;
use crate::shared::Request;
use crate::state::daif;
use crate::{Feat, SysReg};

fn imm16(i: &Insn) -> u16 {
    i.bits(5, 16) as u16
}

/// Moves past the instruction before leaving: what a trap of it to the hypervisor would return to.
fn leave_after(cpu: &mut Cpu, e: Exit) -> Exec {
    cpu.state.pc = cpu.state.pc.wrapping_add(4);
    cpu.leave(e)
}

pub(crate) fn udf(cpu: &mut Cpu, _: &Insn) -> Exec {
    cpu.undefined()
}

pub(crate) fn svc(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.raise(Exception::svc(imm16(i)))
}

pub(crate) fn hvc(cpu: &mut Cpu, i: &Insn) -> Exec {
    if cpu.state.el == 0 {
        return cpu.undefined();
    }
    leave_after(cpu, Exit::Hvc { imm: imm16(i) })
}

pub(crate) fn smc(cpu: &mut Cpu, i: &Insn) -> Exec {
    if cpu.state.el == 0 {
        return cpu.undefined();
    }
    cpu.leave(Exit::Smc { imm: imm16(i) })
}

pub(crate) fn brk(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.raise(Exception::brk(imm16(i)))
}

/// Without halting debug HLT is UNDEFINED.
pub(crate) fn hlt(cpu: &mut Cpu, _: &Insn) -> Exec {
    cpu.undefined()
}

/// DCPSn is UNDEFINED in Non-debug state.
pub(crate) fn dcps1(cpu: &mut Cpu, _: &Insn) -> Exec {
    cpu.undefined()
}
pub(crate) fn dcps2(cpu: &mut Cpu, _: &Insn) -> Exec {
    cpu.undefined()
}
pub(crate) fn dcps3(cpu: &mut Cpu, _: &Insn) -> Exec {
    cpu.undefined()
}

// Hints without an effect on a PE that executes in order.

macro_rules! nops {
    ($($name:ident)*) => { $(
        pub(crate) fn $name(_: &mut Cpu, _: &Insn) -> Exec {
            Ok(Flow::Next)
        }
    )* };
}
nops! { hint nop yield_ dgh psb tsb csdb clrbhb }

/// A landing pad; what it accepts is checked where a block is entered with BTYPE set.
pub(crate) fn bti(_: &mut Cpu, _: &Insn) -> Exec {
    Ok(Flow::Next)
}

/// SCTLR_EL1.nTWE and nTWI.
const NTWE: u64 = 1 << 18;
const NTWI: u64 = 1 << 16;

/// WFI and WFE at EL0 may be trapped to EL1. `ti` as in the ISS: 0 WFI, 1 WFE, 2 WFIT, 3 WFET.
fn trapped(cpu: &Cpu, ti: u32) -> bool {
    let enable = if ti & 1 != 0 { NTWE } else { NTWI };
    cpu.state.el == 0 && cpu.state.sys(SysReg::SCTLR_EL1) & enable == 0
}

fn trap(cpu: &mut Cpu, iss: u32) -> Exec {
    // CV and COND 0b1110.
    cpu.raise(Exception::new(ec::WFX, 1 << 24 | 0xe << 20 | iss))
}

/// A pending interrupt wakes whatever PSTATE masks.
fn interrupt_pending(cpu: &Cpu) -> bool {
    cpu.lines.get() & (CpuLines::IRQ | CpuLines::FIQ | CpuLines::VSERROR) != 0
}

pub(crate) fn wfi(cpu: &mut Cpu, _: &Insn) -> Exec {
    if interrupt_pending(cpu) {
        return Ok(Flow::Next);
    }
    if trapped(cpu, 0) {
        return trap(cpu, 0);
    }
    leave_after(cpu, Exit::Wfi)
}

/// WFE. Losing the exclusive monitor to another PE is no event here, so the hypervisor must not block on the exit: it yields
/// and comes back, which the manual allows (an event at any time).
pub(crate) fn wfe(cpu: &mut Cpu, _: &Insn) -> Exec {
    if std::mem::take(&mut cpu.event) || interrupt_pending(cpu) {
        return Ok(Flow::Next);
    }
    if trapped(cpu, 1) {
        return trap(cpu, 1);
    }
    leave_after(cpu, Exit::Wfe)
}

pub(crate) fn sev(cpu: &mut Cpu, _: &Insn) -> Exec {
    cpu.event = true;
    cpu.config.shared.post(Some(cpu.index), Request::Event);
    Ok(Flow::Next)
}

pub(crate) fn sevl(cpu: &mut Cpu, _: &Insn) -> Exec {
    cpu.event = true;
    Ok(Flow::Next)
}

/// ISS of the forms with a timeout: RN, RV and TI.
fn timeout_iss(i: &Insn, ti: u32) -> u32 {
    u32::from(i.rd) << 5 | 1 << 2 | ti
}

pub(crate) fn wfit(cpu: &mut Cpu, i: &Insn) -> Exec {
    if interrupt_pending(cpu) {
        return Ok(Flow::Next);
    }
    if trapped(cpu, 2) {
        return trap(cpu, timeout_iss(i, 2));
    }
    let deadline = cpu.state.xr(i.rd);
    leave_after(cpu, Exit::Wfxt { deadline, event: false })
}

pub(crate) fn wfet(cpu: &mut Cpu, i: &Insn) -> Exec {
    if std::mem::take(&mut cpu.event) || interrupt_pending(cpu) {
        return Ok(Flow::Next);
    }
    if trapped(cpu, 3) {
        return trap(cpu, timeout_iss(i, 3));
    }
    let deadline = cpu.state.xr(i.rd);
    leave_after(cpu, Exit::Wfxt { deadline, event: true })
}

/// A virtual SError that is pending and masked is deferred to DISR_EL1 (VDISR_EL2); without FEAT_RAS a NOP.
pub(crate) fn esb(cpu: &mut Cpu, _: &Insn) -> Exec {
    if !cpu.has(Feat::RAS) {
        return Ok(Flow::Next);
    }
    if cpu.lines.get() & CpuLines::VSERROR != 0 && cpu.state.daif & daif::A != 0 {
        cpu.lines.clear(CpuLines::VSERROR);
        // DISR_EL1: A, and IDS with the syndrome as VSESR_EL2 holds them.
        let v = 1 << 31 | u64::from(cpu.vserror_iss & 0x1ff_ffff);
        cpu.state.set_sys(SysReg::DISR_EL1, v);
    }
    Ok(Flow::Next)
}

// Barriers.

pub(crate) fn clrex(cpu: &mut Cpu, _: &Insn) -> Exec {
    cpu.clear_exclusive();
    Ok(Flow::Next)
}

/// The domain does not matter; CRm bits 1:0 name the accesses: 1 loads, 2 stores, 3 all. 0 are SSBB and PSSBB.
fn order(crm: u32) {
    match crm & 3 {
        1 => fence(Ordering::Acquire),
        2 => fence(Ordering::Release),
        _ => fence(Ordering::SeqCst),
    }
}

pub(crate) fn dmb(_: &mut Cpu, i: &Insn) -> Exec {
    order(i.bits(8, 4));
    Ok(Flow::Next)
}

pub(crate) fn dsb(cpu: &mut Cpu, _: &Insn) -> Exec {
    fence(Ordering::SeqCst);
    cpu.dsb();
    Ok(Flow::Next)
}

pub(crate) fn dsb_nxs(cpu: &mut Cpu, i: &Insn) -> Exec {
    dsb(cpu, i)
}

/// The line ends the block, so what follows is looked up anew.
pub(crate) fn isb(_: &mut Cpu, _: &Insn) -> Exec {
    Ok(Flow::Next)
}

pub(crate) fn sb(_: &mut Cpu, _: &Insn) -> Exec {
    Ok(Flow::Next)
}
