//! System registers as MRS and MSR see them: who may access, what is computed, what a write does.
//!
//! A register that the CPU does not own (GIC CPU interface, timers) leaves for the hypervisor as
//! [`Exit::SysReg`]; so does every encoding without a row here, and the hypervisor decides between a value, zero and
//! UNDEFINED, as KVM does.

use crate::cpu::Cpu;
use crate::exception::Exception;
use crate::exit::Exit;
use crate::insn::Stop;
use crate::state::daif;
use crate::{CpuLines, Feat, SysReg};

/// SCTLR_EL1 bits that gate EL0 accesses.
mod sctlr {
    pub const UMA: u32 = 9;
    pub const UCT: u32 = 15;
    pub const TSCXT: u32 = 20;
}

fn trap(cpu: &mut Cpu, enc: u16, rt: u8, read: bool) -> Stop {
    let e = u32::from(enc);
    let r: Result<(), Stop> = cpu.raise(Exception::sysreg_trap(
        e >> 14 & 3,
        e >> 11 & 7,
        e >> 7 & 15,
        e >> 3 & 15,
        e & 7,
        rt.into(),
        read,
    ));
    r.err().unwrap_or(Stop)
}

fn undefined(cpu: &mut Cpu) -> Stop {
    cpu.undefined().err().unwrap_or(Stop)
}

fn leave(cpu: &mut Cpu, enc: u16, rt: u8, read: bool) -> Stop {
    let r: Result<(), Stop> = cpu.leave(Exit::SysReg { enc, rt, read });
    r.err().unwrap_or(Stop)
}

/// The feature without which the register does not exist.
fn needs(r: SysReg) -> Option<Feat> {
    use SysReg::*;
    Some(match r {
        PAN => Feat::PAN,
        UAO => Feat::UAO,
        DIT => Feat::DIT,
        SSBS => Feat::SSBS2,
        RNDR | RNDRRS => Feat::RNG,
        APIAKeyLo_EL1 | APIAKeyHi_EL1 | APIBKeyLo_EL1 | APIBKeyHi_EL1 | APDAKeyLo_EL1 | APDAKeyHi_EL1
        | APDBKeyLo_EL1 | APDBKeyHi_EL1 => Feat::PAuth,
        APGAKeyLo_EL1 | APGAKeyHi_EL1 => Feat::PACGA,
        CNTPCTSS_EL0 | CNTVCTSS_EL0 => Feat::ECV,
        DISR_EL1 => Feat::RAS,
        CCSIDR2_EL1 => Feat::CCIDX,
        GMID_EL1 => Feat::MTE2,
        SCXTNUM_EL0 | SCXTNUM_EL1 => Feat::CSV2_2,
        _ => return None,
    })
}

/// May EL0 access it? `Err` carries the exception.
fn check_el0(cpu: &mut Cpu, r: SysReg, enc: u16, rt: u8, read: bool) -> Result<(), Stop> {
    use SysReg::*;
    let control = cpu.state.sys(SCTLR_EL1);
    let kctl = cpu.state.sys(CNTKCTL_EL1);
    let allowed = match r {
        NZCV | FPCR | FPSR | DIT | SSBS | TPIDR_EL0 | RNDR | RNDRRS => true,
        TPIDRRO_EL0 | DCZID_EL0 if read => true,
        // The debug communications channel is not connected (MDSCR_EL1.TDCC).
        MDCCSR_EL0 if read => cpu.state.sys(MDSCR_EL1) >> 12 & 1 == 0,
        DBGDTR_EL0 | DBGDTRRX_EL0 => cpu.state.sys(MDSCR_EL1) >> 12 & 1 == 0,
        DAIF => control >> sctlr::UMA & 1 != 0,
        CTR_EL0 if read => control >> sctlr::UCT & 1 != 0,
        SCXTNUM_EL0 => control >> sctlr::TSCXT & 1 == 0,
        CNTFRQ_EL0 if read => kctl & 3 != 0,
        CNTVCT_EL0 | CNTVCTSS_EL0 if read => kctl >> 1 & 1 != 0,
        CNTPCT_EL0 | CNTPCTSS_EL0 if read => kctl & 1 != 0,
        CNTV_CTL_EL0 | CNTV_CVAL_EL0 | CNTV_TVAL_EL0 => kctl >> 8 & 1 != 0,
        CNTP_CTL_EL0 | CNTP_CVAL_EL0 | CNTP_TVAL_EL0 => kctl >> 9 & 1 != 0,
        _ => {
            return Err(if read { undefined_read(cpu, enc, rt) } else { undefined(cpu) });
        }
    };
    if allowed { Ok(()) } else { Err(trap(cpu, enc, rt, read)) }
}

/// Registers of the performance monitors.
pub fn is_pmu(r: SysReg) -> bool {
    use SysReg::*;
    let n = r as u16;
    (PMINTENSET_EL1 as u16..=PMMIR_EL1 as u16).contains(&n)
        || (PMCR_EL0 as u16..=PMOVSSET_EL0 as u16).contains(&n)
        || (PMEVCNTR0_EL0 as u16..=PMCCFILTR_EL0 as u16).contains(&n)
}

/// Registers that the hypervisor owns.
fn is_trapped(r: SysReg) -> bool {
    use SysReg::*;
    let n = r as u16;
    matches!(
        r,
        ICC_PMR_EL1
            | CNTV_CTL_EL0
            | CNTV_CVAL_EL0
            | CNTV_TVAL_EL0
            | CNTP_CTL_EL0
            | CNTP_CVAL_EL0
            | CNTP_TVAL_EL0
            | ERRIDR_EL1
    ) || (ICC_IAR0_EL1 as u16..=ICC_IGRPEN1_EL1 as u16).contains(&n)
        || (ERRSELR_EL1 as u16..=ERXMISC3_EL1 as u16).contains(&n)
        || (LORSA_EL1 as u16..=LORID_EL1 as u16).contains(&n)
        || matches!(
            r,
            RGSR_EL1
                | GCR_EL1
                | ZCR_EL1
                | TCR2_EL1
                | PIR_EL1
                | PIRE0_EL1
                | POR_EL1
                | POR_EL0
                | TFSR_EL1
                | TFSRE0_EL1
                | SVCR
                | FPMR
                | TCO
                | GMID_EL1
        )
}

/// The feature ID space: op0 3, op1 0, 1 or 3, CRn 0, CRm 0 to 7.
fn in_feature_space(enc: u16) -> bool {
    enc >> 14 == 3 && enc >> 6 & 31 == 0 && matches!(enc >> 11 & 7, 0 | 1 | 3)
}

/// An UNDEFINED read. FEAT_IDST: all exceptions of reads in the feature ID space, from any EL, say what was read
/// (ID_AA64MMFR2_EL1.IDS).
fn undefined_read(cpu: &mut Cpu, enc: u16, rt: u8) -> Stop {
    if in_feature_space(enc) && cpu.has(Feat::IDST) { trap(cpu, enc, rt, true) } else { undefined(cpu) }
}

/// What MRS gives, or why not.
pub fn read(cpu: &mut Cpu, row: Option<SysReg>, enc: u16, rt: u8) -> Result<u64, Stop> {
    use SysReg::*;
    let el0 = cpu.state.el == 0;
    if let Some(v) = cpu.irregular.extra(enc, cpu.state.el) {
        return Ok(v);
    }
    if cpu.irregular.is_absent(enc) {
        return Err(undefined_read(cpu, enc, rt));
    }
    let Some(r) = row else {
        // Unallocated encodings of the ID space read as zero at EL1 (Arm ARM D18.3.1).
        let id_space = enc >> 7 == (3 << 7) && (enc >> 3 & 15) <= 7 && enc >> 3 & 15 != 0;
        return match (el0, id_space) {
            (false, true) => Ok(0),
            (true, _) => Err(undefined_read(cpu, enc, rt)),
            (false, _) if in_feature_space(enc) => Err(undefined_read(cpu, enc, rt)),
            (false, _) => Err(leave(cpu, enc, rt, true)),
        };
    };
    if needs(r).is_some_and(|f| !cpu.has(f)) {
        return Err(undefined_read(cpu, enc, rt));
    }
    if is_pmu(r) {
        return cpu.pmu_read(r, enc, rt);
    }
    if el0 {
        check_el0(cpu, r, enc, rt, true)?;
    }
    // Registers of EL2, and what exists only in AArch32.
    if enc >> 11 & 7 >= 4 || enc >> 11 & 7 == 2 && r != CSSELR_EL1 {
        return Err(undefined(cpu));
    }
    if !cpu.debug_register_exists(r) {
        return Err(undefined(cpu));
    }
    let s = &cpu.state;
    Ok(match r {
        NZCV => s.nzcv.into(),
        DAIF => s.daif.into(),
        CurrentEL => u64::from(s.el) << 2,
        SPSel => s.spsel.into(),
        PAN => u64::from(s.pan) << 22,
        UAO => u64::from(s.uao) << 23,
        DIT => u64::from(s.dit) << 24,
        SSBS => u64::from(s.ssbs) << 12,
        SP_EL0 if s.spsel == 0 => return Err(undefined(cpu)),
        SP_EL0 => s.banked_sp(0),
        FPCR => {
            cpu.fp_access()?;
            cpu.state.fpcr.into()
        }
        FPSR => {
            cpu.fp_access()?;
            cpu.state.fpsr.into()
        }
        CNTVCT_EL0 | CNTVCTSS_EL0 => {
            let v = cpu.cntvct();
            cpu.note_clock();
            v
        }
        CNTPCT_EL0 | CNTPCTSS_EL0 => cpu.cntpct(),
        ISR_EL1 => {
            let l = cpu.lines.get();
            let bit = |on: u32, b: u32| if l & on != 0 { u64::from(b) } else { 0 };
            bit(CpuLines::VSERROR, daif::A) | bit(CpuLines::IRQ, daif::I) | bit(CpuLines::FIQ, daif::F)
        }
        CCSIDR_EL1 => {
            // KVM emulates it, and has nothing to say about levels beyond the seventh: the register keeps its value.
            match s.sys(CSSELR_EL1) & 0xf {
                n @ 0..=13 => cpu.ccsidr[n as usize],
                _ => s.xr(rt),
            }
        }
        DCZID_EL0 => {
            // DZP: DC ZVA is prohibited at EL0 by SCTLR_EL1.DZE.
            let dze = s.sys(SCTLR_EL1) >> 14 & 1 != 0;
            s.sys(DCZID_EL0) | u64::from(el0 && !dze) << 4
        }
        RNDR | RNDRRS => {
            cpu.state.nzcv = 0;
            (cpu.config.random)()
        }
        OSLAR_EL1 | ICC_EOIR0_EL1 | ICC_EOIR1_EL1 | ICC_DIR_EL1 => return Err(undefined(cpu)),
        OSDTRRX_EL1 | DBGDTR_EL0 | DBGDTRRX_EL0 | MDCCSR_EL0 => 0,
        _ if is_trapped(r) => return Err(leave(cpu, enc, rt, true)),
        _ => s.sys(r),
    })
}

/// What MSR does, or why not.
pub fn write(cpu: &mut Cpu, row: Option<SysReg>, enc: u16, rt: u8, v: u64) -> Result<(), Stop> {
    use SysReg::*;
    let el0 = cpu.state.el == 0;
    if cpu.irregular.is_absent(enc) {
        return Err(undefined(cpu));
    }
    let Some(r) = row else {
        return Err(if el0 { undefined(cpu) } else { leave(cpu, enc, rt, false) });
    };
    if needs(r).is_some_and(|f| !cpu.has(f)) {
        return Err(undefined(cpu));
    }
    if is_pmu(r) {
        return cpu.pmu_write(r, enc, rt, v);
    }
    if el0 {
        check_el0(cpu, r, enc, rt, false)?;
    }
    if enc >> 11 & 7 >= 4 || enc >> 11 & 7 == 2 && r != CSSELR_EL1 {
        return Err(undefined(cpu));
    }
    if !cpu.debug_register_exists(r) {
        return Err(undefined(cpu));
    }
    let s = &mut cpu.state;
    match r {
        NZCV => s.nzcv = v as u32 & 0xf000_0000,
        DAIF => {
            s.daif = v as u32 & 0x3c0;
            cpu.daif_changed();
        }
        SPSel => {
            let el = s.el;
            s.set_el_sp(el, (v & 1) as u8);
        }
        PAN => {
            s.pan = v >> 22 & 1 != 0;
            cpu.context_changed();
        }
        UAO => s.uao = v >> 23 & 1 != 0,
        DIT => s.dit = v >> 24 & 1 != 0,
        SSBS => s.ssbs = v >> 12 & 1 != 0,
        SP_EL0 if s.spsel == 0 => return Err(undefined(cpu)),
        SP_EL0 => s.set_banked_sp(0, v),
        FPCR => {
            cpu.fp_access()?;
            // AHP, DN, FZ, RMode, and FZ16 where there is half precision; no trap enables.
            let fz16 = if cpu.has(Feat::FP16) { 1 << 19 } else { 0 };
            cpu.state.fpcr = v as u32 & (0x07c0_0000 | fz16);
        }
        FPSR => {
            cpu.fp_access()?;
            cpu.state.fpsr = v as u32 & 0x0800_009f;
        }
        SCTLR_EL1 => {
            s.set_sys(r, v);
            cpu.regime_changed();
        }
        TCR_EL1 | TTBR0_EL1 | TTBR1_EL1 | MAIR_EL1 => {
            s.set_sys(r, v);
            cpu.regime_changed();
        }
        CPACR_EL1 => {
            s.set_sys(r, v & (3 << 20 | 1 << 28));
            cpu.context_changed();
        }
        VBAR_EL1 => s.set_sys(r, v & !0x7ff),
        CONTEXTIDR_EL1 => s.set_sys(r, v & 0xffff_ffff),
        CSSELR_EL1 => s.set_sys(r, v & 0xf),
        SPSR_EL1 => s.set_sys(r, v & 0xffff_ffff),
        // Constant zero on every Arm core; writes are ignored.
        ACTLR_EL1 | AFSR0_EL1 | AFSR1_EL1 | AMAIR_EL1 => {}
        MDSCR_EL1 => {
            s.set_sys(r, v & 0x7d8_f001 | v & 0xe040);
            cpu.recheck_debug();
        }
        OSLAR_EL1 => {
            let locked = (v & 1) << 1;
            let old = s.sys(OSLSR_EL1);
            s.set_sys(OSLSR_EL1, old & !2 | locked);
            cpu.recheck_debug();
        }
        OSDLR_EL1 | DBGPRCR_EL1 | MDCCINT_EL1 | OSDTRTX_EL1 | OSDTRRX_EL1 | OSECCR_EL1 | DBGDTR_EL0
        | DBGDTRRX_EL0 => {}
        DBGCLAIMSET_EL1 => {
            let now = s.sys(DBGCLAIMCLR_EL1) | v & 0xff;
            s.set_sys(DBGCLAIMCLR_EL1, now);
            s.set_sys(DBGCLAIMSET_EL1, 0xff);
        }
        DBGCLAIMCLR_EL1 => {
            let now = s.sys(r) & !(v & 0xff);
            s.set_sys(r, now);
        }
        _ if is_debug(r) => {
            // DBGWVR<n>_EL1 bits 1:0 are RES0.
            s.set_sys(r, if r.encoding().op2 == 6 { v & !3 } else { v });
            cpu.recheck_debug();
        }
        ESR_EL1 | ELR_EL1 | FAR_EL1 | PAR_EL1 | TPIDR_EL0 | TPIDR_EL1 | TPIDRRO_EL0 | SCXTNUM_EL0
        | SCXTNUM_EL1 | CNTKCTL_EL1 | DISR_EL1 | APIAKeyLo_EL1 | APIAKeyHi_EL1 | APIBKeyLo_EL1
        | APIBKeyHi_EL1 | APDAKeyLo_EL1 | APDAKeyHi_EL1 | APDBKeyLo_EL1 | APDBKeyHi_EL1 | APGAKeyLo_EL1
        | APGAKeyHi_EL1 => s.set_sys(r, v),
        _ if is_trapped(r) => return Err(leave(cpu, enc, rt, false)),
        // Everything else is read-only.
        _ => return Err(undefined(cpu)),
    }
    Ok(())
}

/// Breakpoint and watchpoint registers.
fn is_debug(r: SysReg) -> bool {
    let e = r.encoding();
    e.op0 == 2 && e.op1 == 0 && e.crn == 0 && (4..=7).contains(&e.op2)
}

impl Cpu {
    /// Breakpoint and watchpoint registers beyond the numbers in ID_AA64DFR0_EL1 are UNDEFINED; all others exist.
    fn debug_register_exists(&self, r: SysReg) -> bool {
        if !is_debug(r) {
            return true;
        }
        let e = r.encoding();
        let (breakpoints, watchpoints) = self.debug_counts();
        usize::from(e.crm) < if e.op2 < 6 { breakpoints } else { watchpoints }
    }
}
