//! The architectural state of a PE.

use crate::SysReg;

/// PSTATE.N, Z, C, V as in SPSR bits 31:28.
pub mod nzcv {
    /// Negative.
    pub const N: u32 = 1 << 31;
    /// Zero.
    pub const Z: u32 = 1 << 30;
    /// Carry.
    pub const C: u32 = 1 << 29;
    /// Overflow.
    pub const V: u32 = 1 << 28;
}

/// PSTATE.D, A, I, F as in SPSR bits 9:6.
pub mod daif {
    /// Debug exceptions masked.
    pub const D: u32 = 1 << 9;
    /// SError masked.
    pub const A: u32 = 1 << 8;
    /// IRQ masked.
    pub const I: u32 = 1 << 7;
    /// FIQ masked.
    pub const F: u32 = 1 << 6;
}

/// FPSR bits.
pub mod fpsr {
    /// Saturation of an Advanced SIMD integer operation.
    pub const QC: u32 = 1 << 27;
}

/// Architectural state. One `#[repr(C)]` struct so that generated code can address it by offset; all-zero is a valid
/// parked state.
#[repr(C, align(64))]
#[derive(Clone)]
pub struct CpuState {
    /// x0-x30; index 31 reads zero always; 32 takes discarded results; 33 is the current SP; the rest is unused.
    /// 64 long so that a masked index needs no bounds check.
    pub x: [u64; 64],
    /// Program counter.
    pub pc: u64,
    /// Bits 31:28.
    pub nzcv: u32,
    /// Bits 9:6.
    pub daif: u32,
    /// 0 or 1.
    pub el: u8,
    /// PSTATE.SP: 1 selects SP_EL1 at EL1.
    pub spsel: u8,
    /// PSTATE.PAN.
    pub pan: bool,
    /// PSTATE.UAO.
    pub uao: bool,
    /// PSTATE.DIT.
    pub dit: bool,
    /// PSTATE.SSBS.
    pub ssbs: bool,
    /// PSTATE.SS.
    pub ss: bool,
    /// PSTATE.IL.
    pub il: bool,
    /// PSTATE.BTYPE, 0-3.
    pub btype: u8,
    /// FPCR.
    pub fpcr: u32,
    /// FPSR.
    pub fpsr: u32,
    /// The banked SP_EL0 and SP_EL1; the current one is stale here, see [`CpuState::sp`].
    pub sp_bank: [u64; 2],
    /// SIMD&FP registers.
    pub v: [u128; 32],
    /// Instructions executed.
    pub icount: u64,
    /// System registers by the ordinal of their row.
    pub sys: [u64; SysReg::COUNT],
}

impl Default for CpuState {
    fn default() -> Self {
        CpuState {
            x: [0; 64],
            pc: 0,
            nzcv: 0,
            daif: 0,
            el: 0,
            spsel: 0,
            pan: false,
            uao: false,
            dit: false,
            ssbs: false,
            ss: false,
            il: false,
            btype: 0,
            fpcr: 0,
            fpsr: 0,
            sp_bank: [0; 2],
            v: [0; 32],
            icount: 0,
            sys: [0; SysReg::COUNT],
        }
    }
}

impl CpuState {
    /// Register `r`; 31 reads zero. `r` may be an index prepared at decode ([`crate::insn::SP`]).
    #[inline(always)]
    pub fn xr(&self, r: u8) -> u64 {
        self.x[(r & 63) as usize]
    }
    /// Low 32 bits of register `r`.
    #[inline(always)]
    pub fn wr(&self, r: u8) -> u32 {
        self.xr(r) as u32
    }
    /// Writes register `r`; writes to 31 are discarded.
    #[inline(always)]
    pub fn set_x(&mut self, r: u8, v: u64) {
        self.x[(r & 63) as usize] = v;
        self.x[31] = 0;
    }
    /// Writes a W register: the upper half becomes zero.
    #[inline(always)]
    pub fn set_w(&mut self, r: u8, v: u32) {
        self.set_x(r, u64::from(v));
    }
    /// The current stack pointer.
    #[inline(always)]
    pub fn sp(&self) -> u64 {
        self.x[33]
    }
    /// Writes the current stack pointer.
    #[inline(always)]
    pub fn set_sp(&mut self, v: u64) {
        self.x[33] = v;
    }
    /// Which of `sp_bank` is current: 1 only at EL1 with SPSel 1.
    #[inline]
    pub fn sp_index(&self) -> usize {
        usize::from(self.el != 0 && self.spsel != 0)
    }
    /// SP_EL0 (0) or SP_EL1 (1), wherever it lives now.
    pub fn banked_sp(&self, n: usize) -> u64 {
        if n == self.sp_index() { self.x[33] } else { self.sp_bank[n & 1] }
    }
    /// Writes SP_EL0 (0) or SP_EL1 (1), wherever it lives now.
    pub fn set_banked_sp(&mut self, n: usize, v: u64) {
        if n == self.sp_index() {
            self.x[33] = v;
        } else {
            self.sp_bank[n & 1] = v;
        }
    }
    /// Changes EL and SPSel, exchanging the current stack pointer.
    pub fn set_el_sp(&mut self, el: u8, spsel: u8) {
        let sp = self.x[33];
        let old = self.sp_index();
        self.sp_bank[old] = sp;
        self.el = el;
        self.spsel = spsel;
        self.x[33] = self.sp_bank[self.sp_index()];
    }
    /// System register storage.
    #[inline(always)]
    pub fn sys(&self, r: SysReg) -> u64 {
        self.sys[r as usize]
    }
    /// Writes system register storage (no effects).
    #[inline(always)]
    pub fn set_sys(&mut self, r: SysReg, v: u64) {
        self.sys[r as usize] = v;
    }
    /// A 64-bit D register; the write form clears the upper half.
    #[inline(always)]
    pub fn d(&self, r: u8) -> u64 {
        self.v[(r & 31) as usize] as u64
    }
    /// Writes a D register; bits 127:64 become zero.
    #[inline(always)]
    pub fn set_d(&mut self, r: u8, v: u64) {
        self.v[(r & 31) as usize] = u128::from(v);
    }
    /// A 128-bit V register.
    #[inline(always)]
    pub fn q(&self, r: u8) -> u128 {
        self.v[(r & 31) as usize]
    }
    /// Writes a 128-bit V register.
    #[inline(always)]
    pub fn set_q(&mut self, r: u8, v: u128) {
        self.v[(r & 31) as usize] = v;
    }
    /// Does condition `cond` (0-15, as encoded) hold?
    #[inline(always)]
    pub fn cond(&self, cond: u8) -> bool {
        COND_HOLDS[(cond & 15) as usize] >> (self.nzcv >> 28) & 1 != 0
    }
}

/// For each condition a 16-bit set of the NZCV values under which it holds.
static COND_HOLDS: [u16; 16] = {
    let mut t = [0u16; 16];
    let mut f = 0;
    while f < 16 {
        let (n, z, c, v) = (f & 8 != 0, f & 4 != 0, f & 2 != 0, f & 1 != 0);
        let base = [z, c, n, v, c && !z, n == v, n == v && !z, true];
        let mut k = 0;
        while k < 8 {
            if base[k] {
                t[2 * k] |= 1 << f;
            } else {
                t[2 * k + 1] |= 1 << f;
            }
            k += 1;
        }
        f += 1;
    }
    t[15] = 0xffff;
    t
};
