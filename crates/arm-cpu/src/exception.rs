//! Exceptions: what is recorded when one is raised, entry to EL1, and return (Arm ARM D1.3).

use crate::cpu::Cpu;
use crate::state::nzcv;
use crate::{Feat, SysReg};

/// Exception classes (ESR_ELx.EC).
pub mod ec {
    /// Unknown reason.
    pub const UNKNOWN: u8 = 0x00;
    /// WFI or WFE trapped.
    pub const WFX: u8 = 0x01;
    /// Access to SIMD&FP trapped by CPACR_EL1.FPEN.
    pub const FP: u8 = 0x07;
    /// Branch target exception.
    pub const BTI: u8 = 0x0d;
    /// Illegal execution state.
    pub const ILLEGAL: u8 = 0x0e;
    /// SVC from AArch64.
    pub const SVC: u8 = 0x15;
    /// HVC.
    pub const HVC: u8 = 0x16;
    /// SMC.
    pub const SMC: u8 = 0x17;
    /// Trapped MSR, MRS or system instruction.
    pub const SYSREG: u8 = 0x18;
    /// Pointer authentication failure (FEAT_FPAC).
    pub const FPAC: u8 = 0x1c;
    /// Instruction abort from a lower EL.
    pub const IABT_LOW: u8 = 0x20;
    /// Instruction abort from the same EL.
    pub const IABT: u8 = 0x21;
    /// PC alignment.
    pub const PC_ALIGN: u8 = 0x22;
    /// Data abort from a lower EL.
    pub const DABT_LOW: u8 = 0x24;
    /// Data abort from the same EL.
    pub const DABT: u8 = 0x25;
    /// SP alignment.
    pub const SP_ALIGN: u8 = 0x26;
    /// SError.
    pub const SERROR: u8 = 0x2f;
    /// Breakpoint from a lower EL; +1: same EL.
    pub const BREAKPT_LOW: u8 = 0x30;
    /// Software step from a lower EL; +1: same EL.
    pub const SSTEP_LOW: u8 = 0x32;
    /// Watchpoint from a lower EL; +1: same EL.
    pub const WATCHPT_LOW: u8 = 0x34;
    /// BRK.
    pub const BRK: u8 = 0x3c;
}

/// Fault status codes (ISS bits 5:0) without the level.
pub mod fsc {
    /// Address size fault, level 0.
    pub const ADDRESS_SIZE: u32 = 0x00;
    /// Translation fault, level 0.
    pub const TRANSLATION: u32 = 0x04;
    /// Access flag fault, level 0.
    pub const ACCESS_FLAG: u32 = 0x08;
    /// Permission fault, level 0.
    pub const PERMISSION: u32 = 0x0c;
    /// Synchronous external abort.
    pub const EXTERNAL: u32 = 0x10;
    /// Synchronous external abort on a walk, level 0.
    pub const EXTERNAL_WALK: u32 = 0x14;
    /// Alignment fault.
    pub const ALIGNMENT: u32 = 0x21;
    /// Unsupported atomic or exclusive access.
    pub const UNSUPPORTED_EXCLUSIVE: u32 = 0x35;
}

/// A synchronous exception to be taken to EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// ESR_EL1.EC; for those with a "lower EL" and a "same EL" form the lower one: entry chooses.
    pub ec: u8,
    /// ESR_EL1.ISS, 25 bits.
    pub iss: u32,
    /// FAR_EL1, where the class has one.
    pub far: Option<u64>,
    /// The preferred return address is the next instruction (SVC).
    pub next: bool,
}

impl Exception {
    /// With this class and syndrome, returning to the instruction itself.
    pub fn new(ec: u8, iss: u32) -> Exception {
        Exception { ec, iss, far: None, next: false }
    }
    /// UNDEFINED.
    pub fn undefined() -> Exception {
        Exception::new(ec::UNKNOWN, 0)
    }
    /// SVC #imm.
    pub fn svc(imm: u16) -> Exception {
        Exception { next: true, ..Exception::new(ec::SVC, imm.into()) }
    }
    /// BRK #imm.
    pub fn brk(imm: u16) -> Exception {
        Exception::new(ec::BRK, imm.into())
    }
    /// Illegal execution state.
    pub fn illegal_state() -> Exception {
        Exception::new(ec::ILLEGAL, 0)
    }
    /// PC alignment fault.
    pub fn pc_alignment(pc: u64) -> Exception {
        Exception { far: Some(pc), ..Exception::new(ec::PC_ALIGN, 0) }
    }
    /// SP alignment fault.
    pub fn sp_alignment() -> Exception {
        Exception::new(ec::SP_ALIGN, 0)
    }
    /// Data abort with these ISS bits.
    pub fn data_abort(va: u64, iss: u32) -> Exception {
        Exception { far: Some(va), ..Exception::new(ec::DABT_LOW, iss) }
    }
    /// Instruction abort.
    pub fn instruction_abort(va: u64, iss: u32) -> Exception {
        Exception { far: Some(va), ..Exception::new(ec::IABT_LOW, iss) }
    }
    /// MSR, MRS or system instruction trapped to EL1.
    pub fn sysreg_trap(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32, rt: u32, read: bool) -> Exception {
        let iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1 | u32::from(read);
        Exception::new(ec::SYSREG, iss)
    }
}

/// Offsets of the vectors by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vector {
    /// Synchronous.
    Sync = 0,
    /// IRQ.
    Irq = 0x80,
    /// FIQ.
    Fiq = 0x100,
    /// SError.
    SError = 0x180,
}

/// SPSR bit positions beyond NZCV and DAIF.
pub mod spsr {
    /// PSTATE.TCO.
    pub const TCO: u32 = 1 << 25;
    /// PSTATE.DIT.
    pub const DIT: u32 = 1 << 24;
    /// PSTATE.UAO.
    pub const UAO: u32 = 1 << 23;
    /// PSTATE.PAN.
    pub const PAN: u32 = 1 << 22;
    /// PSTATE.SS.
    pub const SS: u32 = 1 << 21;
    /// PSTATE.IL.
    pub const IL: u32 = 1 << 20;
    /// PSTATE.SSBS.
    pub const SSBS: u32 = 1 << 12;
    /// Bit 4 of M: AArch32.
    pub const AARCH32: u32 = 1 << 4;
}

impl Cpu {
    /// PSTATE in the format of SPSR_EL1.
    pub fn pstate(&self) -> u32 {
        let s = &self.state;
        let b = |on: bool, bit: u32| if on { bit } else { 0 };
        s.nzcv
            | s.daif
            | b(s.dit, spsr::DIT)
            | b(s.uao, spsr::UAO)
            | b(s.pan, spsr::PAN)
            | b(s.ss, spsr::SS)
            | b(s.il, spsr::IL)
            | b(s.ssbs, spsr::SSBS)
            | u32::from(s.btype) << 10
            | u32::from(s.el) << 2
            | u32::from(s.el != 0 && s.spsel != 0)
    }

    /// Sets PSTATE from SPSR format, without the legality checks of an exception return. Bits of absent features are
    /// dropped.
    pub fn set_pstate(&mut self, v: u32) {
        let f = |cpu: &Cpu, feat: Feat, bit: u32| cpu.has(feat) && v & bit != 0;
        let (dit, uao, pan) =
            (f(self, Feat::DIT, spsr::DIT), f(self, Feat::UAO, spsr::UAO), f(self, Feat::PAN, spsr::PAN));
        let ssbs = f(self, Feat::SSBS, spsr::SSBS);
        let btype = if self.has(Feat::BTI) { (v >> 10 & 3) as u8 } else { 0 };
        self.state.set_el_sp((v >> 2 & 1) as u8, (v & 1) as u8);
        let s = &mut self.state;
        s.nzcv = v & (nzcv::N | nzcv::Z | nzcv::C | nzcv::V);
        s.daif = v & 0x3c0;
        s.dit = dit;
        s.uao = uao;
        s.pan = pan;
        s.ssbs = ssbs;
        s.btype = btype;
        s.ss = v & spsr::SS != 0;
        s.il = v & spsr::IL != 0;
        self.context_changed();
    }

    /// Takes a synchronous exception at the current PC.
    pub fn take_exception(&mut self, e: Exception) {
        if e.next {
            // The instruction itself completed (SSAdvance).
            self.state.ss = false;
        }
        let same = self.state.el == 1;
        let ec = match e.ec {
            ec::IABT_LOW | ec::DABT_LOW | ec::BREAKPT_LOW | ec::SSTEP_LOW | ec::WATCHPT_LOW if same => {
                e.ec + 1
            }
            other => other,
        };
        // IL is 1 for everything but T32 instructions.
        let esr = u64::from(ec) << 26 | 1 << 25 | u64::from(e.iss & 0x1ff_ffff);
        if let Some(far) = e.far {
            self.state.set_sys(SysReg::FAR_EL1, far);
        }
        self.state.set_sys(SysReg::ESR_EL1, esr);
        let ret = if e.next { self.state.pc.wrapping_add(4) } else { self.state.pc };
        self.enter_el1(Vector::Sync, ret);
    }

    /// Takes an IRQ, FIQ or SError; for SError the syndrome goes to ESR_EL1.
    pub fn take_interrupt(&mut self, v: Vector, serror_iss: u32) {
        if v == Vector::SError {
            let esr = u64::from(ec::SERROR) << 26 | 1 << 25 | u64::from(serror_iss & 0x1ff_ffff);
            self.state.set_sys(SysReg::ESR_EL1, esr);
        }
        let pc = self.state.pc;
        self.enter_el1(v, pc);
    }

    /// Enters the synchronous vector for an exception whose ESR_EL1 and FAR_EL1 are written already.
    pub fn take_prepared(&mut self) {
        let pc = self.state.pc;
        self.enter_el1(Vector::Sync, pc);
    }

    fn enter_el1(&mut self, v: Vector, ret: u64) {
        self.pmu_sync();
        let spsr = self.pstate();
        let offset = match (self.state.el, self.state.spsel) {
            (0, _) => 0x400,
            (_, 0) => 0,
            _ => 0x200,
        };
        self.state.set_sys(SysReg::SPSR_EL1, spsr.into());
        self.state.set_sys(SysReg::ELR_EL1, ret);
        self.enter_handler((self.state.sys(SysReg::VBAR_EL1) & !0x7ff).wrapping_add(offset + v as u64));
    }

    /// Goes on at `pc` with the PSTATE that an exception to EL1 gives. ELR_EL1 and SPSR_EL1 stay: they are the
    /// exception's, and what a hypervisor makes the PE run in this way need not be one.
    pub fn enter_handler(&mut self, pc: u64) {
        self.pmu_sync();
        let sctlr = self.state.sys(SysReg::SCTLR_EL1);
        self.state.set_el_sp(1, 1);
        let (has_pan, has_ssbs) = (self.has(Feat::PAN), self.has(Feat::SSBS));
        let s = &mut self.state;
        s.daif = 0x3c0;
        s.il = false;
        s.ss = false;
        s.btype = 0;
        s.uao = false;
        // SCTLR_EL1.SPAN == 0 sets PAN on every exception to EL1.
        if has_pan && sctlr & 1 << 23 == 0 {
            s.pan = true;
        }
        if has_ssbs {
            s.ssbs = sctlr & 1 << 44 != 0;
        }
        s.pc = pc;
        // Entries happen between blocks: `icount` holds everything executed so far.
        self.block_pc = s.pc;
        self.clear_exclusive();
        self.context_changed();
    }

    /// Goes on at `pc` with this PSTATE, as after an exception return from a higher level.
    pub fn return_to(&mut self, pc: u64, pstate: u32) {
        self.pmu_sync();
        self.clear_exclusive();
        self.set_pstate(pstate);
        self.state.pc = pc;
        self.block_pc = pc;
    }

    /// ERET (and the authenticated forms, with their result as `target`).
    pub fn exception_return(&mut self, target: u64) {
        self.pmu_sync();
        let v = self.state.sys(SysReg::SPSR_EL1) as u32;
        self.clear_exclusive();
        let mode = v & 0x1f;
        let legal = matches!(mode, 0b00000 | 0b00100 | 0b00101);
        let ss = self.step_bit_on_return(v, !legal);
        // AArch64 EL0t, EL1t and EL1h are what this PE can return to; anything else is an illegal return
        // (Arm ARM D1.3.4): EL and SP stay, IL is set, NZCV, DAIF come from SPSR.
        if legal {
            self.set_pstate(v);
        } else {
            let (el, spsel) = (self.state.el, self.state.spsel);
            let keep = self.pstate() & (spsr::DIT | spsr::UAO | spsr::PAN | spsr::SSBS);
            let flags = v & (0xf << 28 | 0x3c0);
            self.set_pstate(flags | keep | u32::from(el) << 2 | u32::from(spsel));
            self.state.il = true;
            self.context_changed();
        }
        self.state.ss = ss;
        self.state.pc = self.canonical_target(target);
    }
}
