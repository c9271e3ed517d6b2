//! Self-hosted debug: breakpoints, watchpoints, software step (Arm ARM D2), and the same on behalf of a hypervisor
//! (MDCR_EL2.TDE: guest debug of KVM).
//!
//! While software step or a context breakpoint is in force the run loop executes instruction by instruction through
//! [`Cpu::step_carefully`]; with address breakpoints only it does so in blocks that hold one. Watchpoints keep the pages
//! they watch out of the TLB's fast path.

use crate::cpu::Cpu;
use crate::exception::{Exception, ec};
use crate::exit::Exit;
use crate::insn::{Insn, Stop};
use crate::mem::attr::{Acc, AccessKind};
use crate::state::daif;
use crate::{Op, SysReg};

/// Fault status code of debug exceptions.
const FSC_DEBUG: u32 = 0x22;
/// MDSCR_EL1.SS, KDE, MDE.
const MDSCR_SS: u64 = 1;
const MDSCR_KDE: u64 = 1 << 13;
const MDSCR_MDE: u64 = 1 << 15;
/// `DBGWCR<n>_EL1`.LSC: loads, stores.
const LSC_LOAD: u64 = 1 << 3;
const LSC_STORE: u64 = 1 << 4;
/// Addresses are compared without their top byte, which may be a tag.
const VA56: u64 = (1 << 56) - 1;

/// Breakpoints and watchpoints, in the format of the architecture's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebugRegisters {
    /// `DBGBCR<n>_EL1`.
    pub bcr: [u64; 16],
    /// `DBGBVR<n>_EL1`.
    pub bvr: [u64; 16],
    /// `DBGWCR<n>_EL1`.
    pub wcr: [u64; 16],
    /// `DBGWVR<n>_EL1`.
    pub wvr: [u64; 16],
}

/// What the hypervisor asked for, and the state derived from it.
#[derive(Clone, Debug, Default)]
pub struct Debug {
    /// Debug exceptions leave `run` with [`Exit::Debug`] instead of going to EL1, and are enabled at every EL
    /// (MDCR_EL2.TDE). The guest's own MDSCR_EL1.SS and its OS Lock have no effect then.
    pub to_hypervisor: bool,
    /// With `to_hypervisor`: MDSCR_EL1.SS as the hardware has it. PSTATE.SS says where the state machine is.
    pub step: bool,
    /// With `to_hypervisor`: breakpoints and watchpoints in force instead of the guest's, which it goes on to see.
    pub registers: Option<Box<DebugRegisters>>,
    /// Something has to be looked at before instructions.
    pub(crate) active: bool,
    /// Before each instruction, that is.
    careful: bool,
    /// Addresses of the breakpoints that are on.
    breakpoints: Vec<u64>,
    /// First and last bytes that watchpoints which are on can watch (bits 55:0).
    watched: Vec<(u64, u64)>,
    /// The last instruction stepped was a load-exclusive (ISS.EX); none was stepped yet (ISS.ISV 0).
    stepped: Option<bool>,
}

impl Debug {
    /// Does an address breakpoint lie in the `len` instructions from `pc`?
    fn breaks_within(&self, pc: u64, len: usize) -> bool {
        self.breakpoints.iter().any(|v| (v & !3).wrapping_sub(pc) & VA56 < 4 * len as u64)
    }

    /// May a watchpoint watch something on the page of `va`?
    pub(crate) fn page_watched(&self, va: u64) -> bool {
        let page = (va & VA56) >> 12;
        self.watched.iter().any(|(first, last)| (first >> 12..=last >> 12).contains(&page))
    }
}

fn breakpoint(n: usize) -> (SysReg, SysReg) {
    debug_pair(n, 4)
}

fn watchpoint(n: usize) -> (SysReg, SysReg) {
    debug_pair(n, 6)
}

/// Value and control register number `n`; they exist for 0 to 15.
fn debug_pair(n: usize, op2: u8) -> (SysReg, SysReg) {
    let n = (n & 15) as u8;
    let value = SysReg::from_encoding(2, 0, 0, n, op2).unwrap_or(SysReg::DBGBVR0_EL1);
    let control = SysReg::from_encoding(2, 0, 0, n, op2 + 1).unwrap_or(SysReg::DBGBCR0_EL1);
    (value, control)
}

impl Cpu {
    /// Number of breakpoints and watchpoints (ID_AA64DFR0_EL1.BRPs, WRPs).
    pub(crate) fn debug_counts(&self) -> (usize, usize) {
        let dfr0 = self.state.sys(SysReg::ID_AA64DFR0_EL1);
        ((dfr0 >> 12 & 15) as usize + 1, (dfr0 >> 20 & 15) as usize + 1)
    }

    /// MDSCR_EL1 as it stands: the guest's, or what the hypervisor makes of it.
    pub(crate) fn mdscr(&self) -> u64 {
        let own = self.state.sys(SysReg::MDSCR_EL1);
        if !self.debug.to_hypervisor {
            return own;
        }
        let v = own & !MDSCR_SS | u64::from(self.debug.step);
        if self.debug.registers.is_some() {
            v | MDSCR_KDE | MDSCR_MDE
        } else if self.os_locked() {
            v & !MDSCR_MDE
        } else {
            v
        }
    }

    fn os_locked(&self) -> bool {
        self.state.sys(SysReg::OSLSR_EL1) & 2 != 0
    }

    fn hypervisor_registers(&self) -> Option<&DebugRegisters> {
        self.debug.registers.as_deref().filter(|_| self.debug.to_hypervisor)
    }

    /// Value and control of breakpoint `n` in force.
    fn breakpoint(&self, n: usize) -> (u64, u64) {
        match self.hypervisor_registers() {
            Some(r) => (r.bvr[n & 15], r.bcr[n & 15]),
            None => {
                let (value, control) = breakpoint(n);
                (self.state.sys(value), self.state.sys(control))
            }
        }
    }

    /// The same of watchpoint `n`.
    fn watchpoint(&self, n: usize) -> (u64, u64) {
        match self.hypervisor_registers() {
            Some(r) => (r.wvr[n & 15], r.wcr[n & 15]),
            None => {
                let (value, control) = watchpoint(n);
                (self.state.sys(value), self.state.sys(control))
            }
        }
    }

    /// Numbers of breakpoints and watchpoints in force: the hypervisor has those of the hardware.
    fn counts_in_force(&self) -> (usize, usize) {
        if self.hypervisor_registers().is_some() { (16, 16) } else { self.debug_counts() }
    }

    /// Looks at MDSCR_EL1 and the breakpoint registers anew; call when one of them was written.
    pub(crate) fn recheck_debug(&mut self) {
        let mdscr = self.mdscr();
        let locked = self.os_locked() && !self.debug.to_hypervisor;
        let mut careful = mdscr & MDSCR_SS != 0 && !locked;
        let (mut breakpoints, mut watched) = (Vec::new(), Vec::new());
        if mdscr & MDSCR_MDE != 0 && !locked {
            let (brps, wrps) = self.counts_in_force();
            for (value, control) in (0..brps).map(|n| self.breakpoint(n)).filter(|(_, c)| c & 1 != 0) {
                match control >> 20 & 15 {
                    0 | 1 => breakpoints.push(value),
                    2 => careful = true,
                    _ => {}
                }
            }
            watched = (0..wrps).map(|n| self.watchpoint(n)).filter(|(_, c)| c & 1 != 0).map(extent).collect();
        }
        if watched != self.debug.watched {
            self.watchpoints_on = !watched.is_empty();
            self.debug.watched = watched;
            self.tlb.flush_first_level();
        }
        self.debug.active = careful || !breakpoints.is_empty();
        self.debug.careful = careful;
        self.debug.breakpoints = breakpoints;
        self.context_changed();
    }

    /// Are debug exceptions other than BRK enabled at `el`? (AArch64.GenerateDebugExceptionsFrom.)
    fn debug_enabled(&self, el: u8, masked: bool) -> bool {
        if self.debug.to_hypervisor {
            return true;
        }
        if self.os_locked() {
            return false;
        }
        el == 0 || (self.state.sys(SysReg::MDSCR_EL1) & MDSCR_KDE != 0 && !masked)
    }

    fn debug_enabled_here(&self) -> bool {
        self.debug_enabled(self.state.el, self.state.daif & daif::D != 0)
    }

    /// PSTATE.SS after an exception return with this SPSR (DebugExceptionReturnSS).
    /// After an illegal one the destination is the current EL.
    pub(crate) fn step_bit_on_return(&self, spsr: u32, illegal: bool) -> bool {
        let dest = if illegal { self.state.el } else { (spsr >> 2 & 1) as u8 };
        self.mdscr() & MDSCR_SS != 0
            && !self.debug_enabled_here()
            && self.debug_enabled(dest, spsr & daif::D != 0)
            && spsr & crate::exception::spsr::SS != 0
    }

    /// A debug exception that the hypervisor wants.
    pub(crate) fn debug_exit(&self, e: &Exception) -> Option<Exit> {
        let debug = matches!(e.ec, ec::BREAKPT_LOW | ec::SSTEP_LOW | ec::WATCHPT_LOW | ec::BRK);
        if !(debug && self.debug.to_hypervisor) {
            return None;
        }
        Some(Exit::Debug { esr: u32::from(e.ec) << 26 | 1 << 25 | e.iss, far: e.far.unwrap_or(0) })
    }

    fn debug_exception(&mut self, e: Exception) -> Option<Exit> {
        if let Some(exit) = self.debug_exit(&e) {
            return Some(exit);
        }
        self.take_exception(e);
        None
    }

    fn stepping(&self) -> bool {
        self.mdscr() & MDSCR_SS != 0 && self.debug_enabled_here()
    }

    /// A software step exception is due before anything else is executed or taken: the step is done (active-pending).
    pub(crate) fn step_pending(&self) -> bool {
        self.debug.careful && !self.state.ss && self.stepping()
    }

    /// What the run loop does while debug is active or PSTATE.IL is set.
    #[cold]
    pub(crate) fn run_slowly(&mut self) -> Option<Exit> {
        if self.state.il || self.state.btype != 0 || self.debug.careful {
            return self.step_carefully();
        }
        let found = match self.find_block() {
            Ok(f) => f,
            Err(Stop) => return self.stopped(0),
        };
        // SAFETY: as in `run_blocks`.
        let insns = unsafe { &*found.insns };
        if self.debug.breaks_within(self.state.pc, insns.len()) {
            return self.step_carefully();
        }
        self.run_block(insns)
    }

    /// Executes one instruction with everything that must be looked at before it, in the order of priority: software
    /// step, fetch, breakpoint, illegal state (D1.3.5.5).
    pub(crate) fn step_carefully(&mut self) -> Option<Exit> {
        let stepping = self.stepping();
        if stepping && !self.state.ss {
            let iss = match self.debug.stepped.take() {
                Some(exclusive) => 1 << 24 | u32::from(exclusive) << 6 | FSC_DEBUG,
                None => FSC_DEBUG,
            };
            return self.debug_exception(Exception::new(ec::SSTEP_LOW, iss));
        }
        let found = match self.find_block() {
            Ok(f) => f,
            Err(Stop) => return self.stopped(0),
        };
        if self.breakpoint_hit(self.state.pc) {
            return self.debug_exception(Exception::new(ec::BREAKPT_LOW, FSC_DEBUG));
        }
        if self.state.il {
            return self.debug_exception(Exception::illegal_state());
        }
        // SAFETY: as in `run_blocks`: blocks are freed only between instructions here.
        let insns = unsafe { &*found.insns };
        let before = self.state.icount;
        let exit = self.step_one(insns, found.guarded);
        let done = self.state.icount != before;
        let first = insns.first();
        if stepping && done && first.is_some_and(|i| i.op != Op::ERET) {
            self.state.ss = false;
        }
        if stepping && done {
            self.debug.stepped = first.map(is_load_exclusive);
        }
        match exit {
            Some(e @ (Exit::Hvc { .. } | Exit::Wfi | Exit::Wfe | Exit::Wfxt { .. })) => {
                // PC is after the instruction: the step is done.
                self.state.ss = false;
                Some(e)
            }
            e => e,
        }
    }

    fn breakpoint_hit(&self, pc: u64) -> bool {
        if self.mdscr() & MDSCR_MDE == 0 || !self.debug_enabled_here() {
            return false;
        }
        let (brps, _) = self.counts_in_force();
        (0..brps).any(|n| {
            let (value, c) = self.breakpoint(n);
            if c & 1 == 0 || !state_matches(c, self.state.el) || c >> 5 & 15 == 0 {
                return false;
            }
            match c >> 20 & 15 {
                0 => self.address_matches(value, pc),
                1 => self.address_matches(value, pc) && self.linked(c),
                2 => self.context_matches(n),
                _ => false,
            }
        })
    }

    fn address_matches(&self, value: u64, pc: u64) -> bool {
        // Bits 63:56 of the comparison are those of a sign-extended address of up to 55 bits.
        (value ^ pc) << 8 >> 10 == 0
    }

    /// Does the context breakpoint that `control` links to match?
    fn linked(&self, control: u64) -> bool {
        let n = (control >> 16 & 15) as usize;
        let (_, c) = self.breakpoint(n);
        n < self.counts_in_force().0 && c & 1 != 0 && c >> 20 & 15 == 3 && self.context_matches(n)
    }

    fn context_matches(&self, n: usize) -> bool {
        let dfr0 = self.state.sys(SysReg::ID_AA64DFR0_EL1);
        let brps = self.counts_in_force().0.min(self.debug_counts().0);
        let context_aware = (dfr0 >> 28 & 15) as usize + 1;
        n + context_aware >= brps
            && self.breakpoint(n).0 as u32 == self.state.sys(SysReg::CONTEXTIDR_EL1) as u32
    }

    /// Watchpoints on a data access of `len` bytes at `va`.
    #[inline]
    pub(crate) fn check_watchpoints(
        &mut self,
        va: u64,
        len: u64,
        kind: AccessKind,
        acc: Acc,
    ) -> Result<(), Stop> {
        if !self.watchpoints_on || kind == AccessKind::Fetch {
            return Ok(());
        }
        self.check_watchpoints_slow(va, len, kind, acc)
    }

    #[cold]
    fn check_watchpoints_slow(&mut self, va: u64, len: u64, kind: AccessKind, acc: Acc) -> Result<(), Stop> {
        let el = if acc.unpriv { 0 } else { self.state.el };
        if acc.cm && kind == AccessKind::Read || !self.debug_enabled_here() {
            return Ok(());
        }
        // An atomic both reads and writes, and reports a write only when no read would meet a watchpoint (ESR_ELx, WnR).
        let write = kind == AccessKind::Write;
        if (!write || acc.rmw)
            && let Some(at) = self.watchpoint_hit(va, len, el, LSC_LOAD)
        {
            return self.raise(Exception { far: Some(at), ..Exception::new(ec::WATCHPT_LOW, FSC_DEBUG) });
        }
        if write && let Some(at) = self.watchpoint_hit(va, len, el, LSC_STORE) {
            let e = Exception::new(ec::WATCHPT_LOW, FSC_DEBUG | 1 << 6);
            return self.raise(Exception { far: Some(at), ..e });
        }
        Ok(())
    }

    /// First address that a watchpoint with this bit of LSC watches.
    fn watchpoint_hit(&self, va: u64, len: u64, el: u8, lsc: u64) -> Option<u64> {
        let (_, wrps) = self.counts_in_force();
        (0..wrps).find_map(|n| {
            let (v, c) = self.watchpoint(n);
            if c & 1 == 0 || c & lsc == 0 || !state_matches(c, el) || (c >> 20 & 1 != 0 && !self.linked(c)) {
                return None;
            }
            (0..len).map(|i| va.wrapping_add(i)).find(|a| watched(v, c, *a))
        })
    }
}

/// First and last byte that this pair of registers can watch.
fn extent((value, control): (u64, u64)) -> (u64, u64) {
    let mask = control >> 24 & 31;
    let low = (1u64 << if mask > 2 { mask } else { 3 }) - 1;
    (value & !low & VA56, (value | low) & VA56)
}

/// Is the byte at `a` watched by this pair of registers?
fn watched(value: u64, control: u64, a: u64) -> bool {
    let differ = (value ^ a) << 8 >> 8;
    let mask = control >> 24 & 31;
    if mask > 2 {
        return differ >> mask == 0;
    }
    let bas = control >> 5 & 0xff;
    if value & 4 != 0 {
        // A word-aligned address: only BAS[3:0] count.
        differ >> 2 == 0 && bas >> (a & 3) & 1 != 0
    } else {
        differ >> 3 == 0 && bas >> (a & 7) & 1 != 0
    }
}

/// Security state and EL of a breakpoint or watchpoint control value: HMC and PxC select ELs, SSC 2 is Secure only
/// (AArch64.StateMatch).
fn state_matches(control: u64, el: u8) -> bool {
    let pxc = control >> 1 & 3;
    control >> 14 & 3 != 2 && pxc >> (1 - el.min(1)) & 1 != 0
}

fn is_load_exclusive(i: &Insn) -> bool {
    i.raw >> 24 & 0x3f == 0b001000 && i.bit(22) && !i.bit(23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchpoint_selects_bytes_and_masks() {
        let bas = |b: u64| b << 5;
        assert!(watched(0x1000, bas(0x0f), 0x1003));
        assert!(!watched(0x1000, bas(0x0f), 0x1004));
        assert!(watched(0x1004, bas(0x0f), 0x1004));
        assert!(!watched(0x1004, bas(0xf0), 0x1000));
        // MASK 12: the whole page
        assert!(watched(0x5000, 12 << 24 | bas(0xff), 0x5fff));
        assert!(!watched(0x5000, 12 << 24 | bas(0xff), 0x6000));
    }

    #[test]
    fn pxc_selects_exception_levels() {
        assert!(state_matches(1 << 1, 1) && !state_matches(1 << 1, 0));
        assert!(state_matches(2 << 1, 0) && !state_matches(2 << 1, 1));
        assert!(state_matches(3 << 1, 0) && state_matches(3 << 1, 1));
        assert!(!state_matches(3 << 1 | 2 << 14, 1), "Secure only");
    }
}
