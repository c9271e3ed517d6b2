//! SYS instructions: cache maintenance, DC ZVA, TLBI, AT, prediction restriction.

use crate::cpu::Cpu;
use crate::exception::{Exception, fsc};
use crate::exit::{DataAbort, Exit};
use crate::insn::Stop;
use crate::mem::attr::{Acc, AccessKind};
use crate::mem::physmap::find_slot;
use crate::mem::stage1::{Fault, Translation};
use crate::mem::tlb::{TlbOp, sign_extend};
use crate::shared::Request;
use crate::{Feat, SysReg};

fn undefined(cpu: &mut Cpu) -> Result<(), Stop> {
    cpu.undefined().map(|_| ())
}

/// Carries out a SYS instruction.
pub fn sys(cpu: &mut Cpu, op1: u32, crn: u32, crm: u32, op2: u32, rt: u8, v: u64) -> Result<(), Stop> {
    let el0 = cpu.state.el == 0;
    // EL0 reaches only what op1 3 names, and that under a bit of SCTLR_EL1.
    let gate = |cpu: &mut Cpu, bit: u32| -> Result<(), Stop> {
        if cpu.state.el == 0 && cpu.state.sys(SysReg::SCTLR_EL1) >> bit & 1 == 0 {
            return cpu.raise(Exception::sysreg_trap(1, op1, crn, crm, op2, rt.into(), false));
        }
        Ok(())
    };
    const UCI: u32 = 26;
    const DZE: u32 = 14;
    const EN_RCTX: u32 = 10;
    match (op1, crn, crm, op2) {
        (3, 7, 4, 1) => {
            gate(cpu, DZE)?;
            dc_zva(cpu, v)
        }
        (3, 7, 5, 1) => {
            gate(cpu, UCI)?;
            ic_ivau(cpu, v)
        }
        (3, 7, 10 | 11 | 14, 1) => {
            gate(cpu, UCI)?;
            dc_by_va(cpu, v, AccessKind::Read)
        }
        (3, 7, 12, 1) if cpu.has(Feat::DPB) => {
            gate(cpu, UCI)?;
            dc_by_va(cpu, v, AccessKind::Read)
        }
        (3, 7, 13, 1) if cpu.has(Feat::DPB2) => {
            gate(cpu, UCI)?;
            dc_by_va(cpu, v, AccessKind::Read)
        }
        // CFP, DVP, CPP RCTX: there is no speculation to restrict.
        (3, 7, 3, 4 | 5 | 7) if cpu.has(Feat::SPECRES) => gate(cpu, EN_RCTX),
        _ if el0 => undefined(cpu),
        (0, 7, 1, 0) => {
            cpu.code.flush();
            cpu.broadcast(Request::FlushAll);
            Ok(())
        }
        (0, 7, 5, 0) => {
            cpu.code.flush();
            Ok(())
        }
        // Set/way: there are no caches.
        (0, 7, 6 | 10 | 14, 2) => Ok(()),
        (0, 7, 6, 1) => dc_by_va(cpu, v, AccessKind::Write),
        (0, 7, 8, 0) => at(cpu, v, AccessKind::Read, false, false),
        (0, 7, 8, 1) => at(cpu, v, AccessKind::Write, false, false),
        (0, 7, 8, 2) => at(cpu, v, AccessKind::Read, true, false),
        (0, 7, 8, 3) => at(cpu, v, AccessKind::Write, true, false),
        (0, 7, 9, 0) if cpu.has(Feat::PAN2) => at(cpu, v, AccessKind::Read, false, true),
        (0, 7, 9, 1) if cpu.has(Feat::PAN2) => at(cpu, v, AccessKind::Write, false, true),
        (0, 8, _, _) => tlbi(cpu, crm, op2, v),
        // The nXS forms do the same.
        (0, 9, _, _) if cpu.has(Feat::XS) => tlbi(cpu, crm, op2, v),
        _ => undefined(cpu),
    }
}

fn dc_zva(cpu: &mut Cpu, va: u64) -> Result<(), Stop> {
    let size = 4u64 << (cpu.state.sys(SysReg::DCZID_EL0) & 0xf).min(9);
    let start = va & !(size - 1);
    // Faults report the address given, and Device memory is an alignment fault.
    let t = cpu.translate(va, AccessKind::Write, Acc::NORMAL)?;
    if t.info.is_device() {
        return cpu.raise(Exception::data_abort(va, fsc::ALIGNMENT | 1 << 6));
    }
    // Before anything is written.
    cpu.check_watchpoints(start, size, AccessKind::Write, Acc::NORMAL)?;
    if size == 4 {
        return cpu.store::<u32>(start, 0, Acc::NORMAL);
    }
    for n in 0..size / 8 {
        cpu.store::<u64>(start + n * 8, 0, Acc::NORMAL)?;
    }
    Ok(())
}

/// Cache maintenance by VA: translates, and does nothing else, for data caches are coherent.
fn dc_by_va(cpu: &mut Cpu, va: u64, kind: AccessKind) -> Result<(), Stop> {
    maintained(cpu, va, kind).map(|_| ())
}

fn maintained(cpu: &mut Cpu, va: u64, kind: AccessKind) -> Result<Translation, Stop> {
    let unpriv = cpu.state.el == 0;
    // At EL1 only DC IVAC needs a permission (write); at EL0 all need read (Arm ARM D7.5.8).
    let r = if unpriv || kind == AccessKind::Write {
        cpu.translate_checked(va, kind, unpriv, false)
    } else {
        cpu.walk(va, unpriv, false)
    };
    fault_of_maintenance(cpu, va, r)
}

fn fault_of_maintenance(cpu: &mut Cpu, va: u64, r: Result<Translation, Fault>) -> Result<Translation, Stop> {
    match r {
        Ok(t) => Ok(t),
        // CM, and WnR: faults of maintenance count as writes.
        Err(Fault::Stage1(code)) => cpu.raise(Exception::data_abort(va, code | 1 << 6 | 1 << 8)),
        Err(Fault::Stage2Walk(ipa)) => cpu.leave(Exit::DataAbort(walk_abort(va, ipa))),
    }
}

fn walk_abort(va: u64, ipa: u64) -> DataAbort {
    DataAbort { ipa, far: va, iss: 0, write: false, value: 0, readonly: false, s1ptw: true }
}

/// IC IVAU: code decoded from the page is decoded anew, by every PE. Needed for writes that bypass our TLBs (devices).
fn ic_ivau(cpu: &mut Cpu, va: u64) -> Result<(), Stop> {
    let t = maintained(cpu, va, AccessKind::Read)?;
    cpu.refresh_slots();
    if let Some(s) = find_slot(&cpu.slots, t.ipa)
        && s.page_state(t.ipa).has_code()
    {
        s.page_state(t.ipa).changed();
        if cpu.jit.on() {
            cpu.code_written(t.ipa);
            cpu.config.shared.post(Some(cpu.index), Request::CodeWritten { ipa: t.ipa });
        }
    }
    Ok(())
}

/// AT S1E*: the result goes to PAR_EL1.
fn at(cpu: &mut Cpu, va: u64, kind: AccessKind, unpriv: bool, with_pan: bool) -> Result<(), Stop> {
    let pan = cpu.state.pan;
    if !with_pan {
        // Only the P forms look at PSTATE.PAN.
        cpu.state.pan = false;
    }
    let r = cpu.at_lookup(va, kind, unpriv);
    cpu.state.pan = pan;
    let par = match r {
        Ok(t) => {
            let attr = t.info.attr;
            // Device and Normal Non-cacheable memory are reported Outer Shareable.
            let sh = if t.info.is_device() || attr == 0x44 { 2 } else { t.info.sh };
            t.ipa & 0x000f_ffff_ffff_f000 | u64::from(attr) << 56 | u64::from(sh) << 7 | 1 << 11 | 1 << 9
        }
        Err(Fault::Stage1(code)) => 1 | u64::from(code) << 1 | 1 << 11,
        Err(Fault::Stage2Walk(ipa)) => return cpu.leave(Exit::DataAbort(walk_abort(va, ipa))),
    };
    cpu.state.set_sys(SysReg::PAR_EL1, par);
    Ok(())
}

impl Cpu {
    /// The translation that an AT instruction reports: always from the tables.
    fn at_lookup(&mut self, va: u64, kind: AccessKind, unpriv: bool) -> Result<Translation, Fault> {
        let t = self.walk(va, unpriv, false)?;
        if self.allowed(&t.info, kind, unpriv) {
            Ok(t)
        } else {
            Err(Fault::Stage1(fsc::PERMISSION | (t.info.level as u32 & 3)))
        }
    }
}

/// TLBI of the EL1&0 regime. `crm` tells shareability and whether it is a range.
fn tlbi(cpu: &mut Cpu, crm: u32, op2: u32, v: u64) -> Result<(), Stop> {
    let (broadcast, range) = match crm {
        7 => (false, false),
        3 => (true, false),
        1 if cpu.has(Feat::TLBIOS) => (true, false),
        6 if cpu.has(Feat::TLBIRANGE) => (false, true),
        2 | 5 if cpu.has(Feat::TLBIRANGE) => (true, true),
        _ => return undefined(cpu),
    };
    let asid = (v >> 48) as u16;
    let all_asids = matches!(op2, 3 | 7);
    let named = (!all_asids).then_some(asid);
    let op = match (range, op2) {
        (false, 0) => TlbOp::All,
        (false, 2) => TlbOp::Asid(asid),
        (false, 1 | 3 | 5 | 7) => {
            // With larger granules the address names a larger page.
            let pages = 1u64 << (cpu.largest_granule() - 12);
            let va = sign_extend(v << 12) & !((pages << 12) - 1);
            TlbOp::Va { va, pages, asid: named }
        }
        (true, 1 | 3 | 5 | 7) => {
            match range_of(v, cpu.state.sys(SysReg::TCR_EL1) >> 59 & 1 != 0 && cpu.has(Feat::LPA2)) {
                Some((va, pages)) => TlbOp::Va { va, pages, asid: named },
                None => TlbOp::All,
            }
        }
        _ => return undefined(cpu),
    };
    cpu.invalidate_tlb(op);
    if broadcast {
        cpu.broadcast(Request::Tlb(op));
    }
    Ok(())
}

/// First address and number of 4 KiB pages of a range operand (FEAT_TLBIRANGE, D8.13.5). `None`: reserved granule.
/// With TCR_EL1.DS (`ds`) BaseADDR counts 64 KiB.
fn range_of(v: u64, ds: bool) -> Option<(u64, u64)> {
    let granule = match v >> 46 & 3 {
        1 => 12,
        2 => 14,
        3 => 16,
        _ => return None,
    };
    let (scale, num) = (v >> 44 & 3, v >> 39 & 31);
    let pages = (num + 1) << (5 * scale + 1);
    // BaseADDR is a page number of the granule, sign-extended from 37 bits.
    let base = ((v << 27) as i64 >> 27) << if ds { 16 } else { granule };
    Some((base as u64, pages << (granule - 12)))
}

impl Cpu {
    /// Log2 of the largest granule in use.
    fn largest_granule(&self) -> u32 {
        let tcr = self.state.sys(SysReg::TCR_EL1);
        let g0 = [12, 16, 14, 12][(tcr >> 14 & 3) as usize];
        let g1 = [12, 14, 12, 16][(tcr >> 30 & 3) as usize];
        g0.max(g1)
    }
}
