//! Which values a VMM may write to an ID register (kvm-arm64-abi.md §8.2).

use crate::mask::safe;
use crate::{Machine, SysReg, VcpuFeatures};
use std::fmt;
use ulna_arm_regs::id::{IdReg, Raz, in_id_space};

/// A write that KVM answers with EINVAL, and the field that stands in its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The register.
    pub reg: SysReg,
    /// The field, where one is to blame.
    pub field: Option<&'static str>,
    /// What was to be written: the field's value, or the register's.
    pub have: u64,
    /// What the machine offers.
    pub max: u64,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field {
            Some(n) => {
                write!(f, "{}.{n} is {:#x} but the machine offers {:#x}", self.reg, self.have, self.max)
            }
            None => write!(f, "{} is {:#x} but the machine has {:#x}", self.reg, self.have, self.max),
        }
    }
}

impl std::error::Error for Refused {}

/// OSLSR_EL1: OSLM (the lock is implemented), OSLK (it is locked).
const OSLM: u64 = 1 << 3;
const OSLK: u64 = 1 << 1;

fn nibble(v: u64, lsb: u32) -> u64 {
    v >> lsb & 0xf
}

impl Machine {
    /// What KVM_SET_ONE_REG of an ID register stores before the VM has run, or why it refuses.
    ///
    /// Registers of the ID space and CTR_EL0, CLIDR_EL1, MIDR, REVIDR, AIDR; others are not decided here and are
    /// returned as they are. A VM that has run takes the current value only (EBUSY); the caller looks at that, but
    /// after [`Machine::refused_even_after_run`].
    pub fn check_write(&self, r: SysReg, new: u64) -> Result<u64, Refused> {
        use SysReg as S;
        if let Some(e) = self.refused_even_after_run(r, new) {
            return Err(e);
        }
        let limit = self.limit(r);
        let must_be = |max: u64| {
            if new == max { Ok(new) } else { Err(Refused { reg: r, field: None, have: new, max }) }
        };
        let Some(row) = IdReg::of(r) else {
            return match r {
                S::MIDR_EL1 | S::REVIDR_EL1 | S::AIDR_EL1 => must_be(self.value(r).unwrap_or(0)),
                _ if in_id_space(r) => must_be(0),
                // Only the lock itself may differ from what says that there is one.
                S::OSLSR_EL1 if new & !OSLK != OSLM => {
                    Err(Refused { reg: r, field: None, have: new, max: OSLM | OSLK })
                }
                _ => Ok(new),
            };
        };
        match row.raz {
            // Writes are ignored, whatever they say; what is read stays.
            Raz::UnlessAArch32 if !self.aarch32_el0 => return Ok(limit),
            Raz::Always => return must_be(0),
            Raz::UnlessSve if !self.vcpu.contains(VcpuFeatures::SVE) => return must_be(0),
            _ => {}
        }
        let mut new = new;
        match r {
            S::CLIDR_EL1 => return self.check_clidr(new),
            // A value with the host's MPAM (old kernels showed it) is taken and stored without.
            S::ID_AA64PFR0_EL1 if nibble(new, 40) == nibble(self.host[r as usize], 40) => new &= !(0xf << 40),
            S::ID_AA64PFR1_EL1 if nibble(new, 16) == nibble(self.host[r as usize], 16) => new &= !(0xf << 16),
            S::ID_AA64DFR0_EL1 if nibble(new, 8) == 0xf => new &= !(0xf << 8),
            S::ID_DFR0_EL1 if nibble(new, 24) == 0xf => new &= !(0xf << 24),
            _ => {}
        }
        let mut open = 0;
        let mask = self.mask_of(row);
        for f in row.fields.iter().filter(|f| f.shown && f.mask() & mask == f.mask()) {
            if !safe(r, f, new, limit) {
                return Err(Refused { reg: r, field: Some(f.name), have: f.raw(new), max: f.raw(limit) });
            }
            open |= f.mask();
        }
        let wrong = (new ^ limit) & !open;
        if wrong != 0 {
            let f = row.field_at(wrong.trailing_zeros());
            return Err(match f {
                Some(f) => Refused { reg: r, field: Some(f.name), have: f.raw(new), max: f.raw(limit) },
                None => Refused { reg: r, field: None, have: new, max: limit },
            });
        }
        Ok(new)
    }

    /// The rules that come before all others, even EBUSY: debug and PMU versions no KVM ever offered.
    pub fn refused_even_after_run(&self, r: SysReg, new: u64) -> Option<Refused> {
        let refuse = |field, have| Some(Refused { reg: r, field: Some(field), have, max: self.limit(r) });
        let debug = nibble(new, 0);
        match r {
            SysReg::ID_AA64DFR0_EL1 if debug < 6 => refuse("DebugVer", debug),
            SysReg::ID_DFR0_EL1 if !self.aarch32_el0 => None,
            SysReg::ID_DFR0_EL1 if matches!(nibble(new, 24), 1 | 2) => refuse("PerfMon", nibble(new, 24)),
            SysReg::ID_DFR0_EL1 if debug < 6 => refuse("CopDbg", debug),
            _ => None,
        }
    }

    /// CLIDR_EL1 is the vCPU's own and any shape will do that does not promise more coherence than the host has.
    fn check_clidr(&self, new: u64) -> Result<u64, Refused> {
        let refuse = |field| {
            Err(Refused { reg: SysReg::CLIDR_EL1, field, have: new, max: self.limit(SysReg::CLIDR_EL1) })
        };
        if new >> 47 != 0 {
            return refuse(None);
        }
        let (louu, loc, louis) = (new >> 27 & 7, new >> 24 & 7, new >> 21 & 7);
        let says_idc = loc == 0 || louis == 0 && louu == 0;
        if says_idc && self.host[SysReg::CTR_EL0 as usize] >> 28 & 1 == 0 {
            return refuse(Some(if loc == 0 { "LoC" } else { "LoUIS" }));
        }
        Ok(new)
    }
}
