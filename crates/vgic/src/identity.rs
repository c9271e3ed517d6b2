//! What the read-only fields of ICC_CTLR_EL1 and GICD_TYPER say, and that the parts do as they say.
//!
//! KVM takes them from the hardware for good. A software CPU can be another controller for each guest: before its guest
//! runs, a VMM may choose (seed-systems.md §4.4).

use crate::cpuif::CpuInterface;
use crate::gic::Gic;
use crate::irq::FIRST_LPI;
use crate::lpi::LPI_ID_BITS;
use crate::redist::{Redistributor, Redists};
use crate::types::GicError;

/// ICC_CTLR_EL1.
pub(crate) const PRI_BITS: u32 = 8;
const ID_BITS: u32 = 11;
pub(crate) const SEIS: u32 = 14;
pub(crate) const A3V: u32 = 15;
pub(crate) const RSS: u32 = 18;
const EXT_RANGE: u32 = 19;

/// The read-only part of ICC_CTLR_EL1, the same for all vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuIdentity {
    /// Priority (and preemption) bits, PRIbits + 1: 5 to 7.
    pub pri_bits: u8,
    /// INTID bits: 16 or 24.
    pub id_bits: u8,
    /// Misuse may be answered by an SError. It never is here, so that both values are kept.
    pub seis: bool,
    /// Affinity 3 of an SGI's targets can be other than zero.
    pub a3v: bool,
    /// SGIs reach targets whose Aff0 is above 15.
    pub rss: bool,
}

impl CpuIdentity {
    /// Bits of ICC_CTLR_EL1 that are of the identity.
    pub const MASK: u64 = 7 << PRI_BITS | 7 << ID_BITS | 1 << SEIS | 1 << A3V | 1 << RSS | 1 << EXT_RANGE;

    /// From a value of ICC_CTLR_EL1; none for one that no controller here has.
    pub fn from_ctlr(value: u64) -> Option<CpuIdentity> {
        let bit = |at: u32| value >> at & 1 != 0;
        let pri_bits = (value >> PRI_BITS & 7) as u8 + 1;
        let id_bits = match value >> ID_BITS & 7 {
            0 => 16,
            1 => 24,
            _ => return None,
        };
        let known = (5..=7).contains(&pri_bits) && !bit(EXT_RANGE);
        known.then_some(CpuIdentity { pri_bits, id_bits, seis: bit(SEIS), a3v: bit(A3V), rss: bit(RSS) })
    }

    /// As it stands in ICC_CTLR_EL1.
    pub fn to_ctlr(self) -> u64 {
        let bit = |on: bool, at: u32| u64::from(on) << at;
        u64::from(self.pri_bits.saturating_sub(1)) << PRI_BITS
            | bit(self.id_bits == 24, ID_BITS)
            | bit(self.seis, SEIS)
            | bit(self.a3v, A3V)
            | bit(self.rss, RSS)
    }
}

/// What of GICD_TYPER is a choice (GICv3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DistIdentity {
    /// LPIS: message-based interrupts, where there is an ITS.
    pub lpis: bool,
    /// IDbits + 1, where there are LPIs: 14 to 16.
    pub lpi_id_bits: u8,
    /// No1N: no SPI goes to any one of several vCPUs. None ever does, so that both values are kept.
    pub no_one_of_n: bool,
}

impl Default for DistIdentity {
    fn default() -> Self {
        DistIdentity { lpis: true, lpi_id_bits: LPI_ID_BITS as u8, no_one_of_n: false }
    }
}

impl DistIdentity {
    /// Bits of GICD_TYPER: LPIS, IDbits, No1N.
    pub const MASK: u64 = 1 << 17 | 0x1f << 19 | 1 << 25;

    /// From a value of GICD_TYPER; none for one that no distributor here has.
    pub fn from_typer(value: u64) -> Option<DistIdentity> {
        let lpis = value >> 17 & 1 != 0;
        let id_bits = (value >> 19 & 0x1f) as u8 + 1;
        let known = if lpis { (14..=LPI_ID_BITS as u8).contains(&id_bits) } else { id_bits == 10 };
        let lpi_id_bits = if lpis { id_bits } else { LPI_ID_BITS as u8 };
        known.then_some(DistIdentity { lpis, lpi_id_bits, no_one_of_n: value >> 25 & 1 != 0 })
    }

    /// As it stands in the GICD_TYPER of a distributor with or without an ITS.
    pub fn to_typer(self, its: bool) -> u64 {
        let lpis = if its && self.lpis { 1 << 17 | u64::from(self.lpi_id_bits - 1) << 19 } else { 9 << 19 };
        lpis | u64::from(self.no_one_of_n) << 25
    }
}

impl Redistributor {
    pub(crate) fn set_identity(&mut self, id: CpuIdentity) {
        self.ctlr_fixed = id.to_ctlr() & (1 << SEIS | 1 << A3V | 1 << RSS);
        (self.a3v, self.rss, self.id_bits) = (id.a3v, id.rss, id.id_bits);
        (self.user_pri_bits, self.user_id_bits) = (id.pri_bits, id.id_bits);
        self.cpu.set_pri_bits(id.pri_bits);
        self.update();
    }

    /// An INTID as ICC_EOIR and ICC_DIR take it: bits that are not implemented are RES0.
    pub(crate) fn intid_of(&self, value: u64) -> u32 {
        value as u32 & if self.id_bits == 24 { 0xff_ffff } else { 0xffff }
    }
}

impl CpuInterface {
    /// Other priority bits: active priorities are those of the words there are now.
    pub(crate) fn set_pri_bits(&mut self, bits: u8) {
        self.pri_bits = bits;
        let words = self.ap_words();
        for group in &mut self.active_priorities {
            group.iter_mut().skip(words).for_each(|w| *w = 0);
        }
    }
}

impl Gic {
    /// ICC_CTLR_EL1's read-only part.
    pub fn cpu_identity(&self) -> CpuIdentity {
        let c = self.config();
        CpuIdentity { pri_bits: c.pri_bits, id_bits: c.id_bits, seis: c.seis, a3v: c.a3v, rss: c.rss }
    }

    /// Another one, before the guest runs.
    pub fn set_cpu_identity(&mut self, id: CpuIdentity) -> Result<(), GicError> {
        let c = &mut self.config;
        let mut new = c.clone();
        (new.pri_bits, new.id_bits) = (id.pri_bits, id.id_bits);
        (new.seis, new.a3v, new.rss) = (id.seis, id.a3v, id.rss);
        new.check()?;
        *c = new;
        for vcpu in 0..self.vcpus.count() {
            self.vcpus.with(vcpu, |r| r.set_identity(id));
        }
        Ok(())
    }

    /// GICD_TYPER's chosen part.
    pub fn dist_identity(&self) -> DistIdentity {
        self.config().dist
    }

    /// Another one, before the guest runs.
    pub fn set_dist_identity(&mut self, id: DistIdentity) -> Result<(), GicError> {
        if !(14..=LPI_ID_BITS as u8).contains(&id.lpi_id_bits) {
            return Err(GicError::IdBits(id.lpi_id_bits));
        }
        self.config.dist = id;
        self.dist.identity = id;
        let lpis = id.lpis && self.config.its != 0;
        for vcpu in 0..self.vcpus.count() {
            self.vcpus.with(vcpu, |r| r.has_lpis = lpis);
        }
        Ok(())
    }

    /// GICR_PROPBASER as the ITS and the redistributors go by it: no more INTID bits than GICD_TYPER has.
    pub(crate) fn effective_propbaser(&self) -> u64 {
        let p = self.dist.propbaser();
        let bits = u64::from(self.config.dist.lpi_id_bits - 1);
        p & !0x1f | (p & 0x1f).min(bits)
    }

    /// The first LPI that the distributor does not have.
    pub fn lpi_end(&self) -> u32 {
        let d = &self.config.dist;
        if d.lpis && self.config.its != 0 { 1 << d.lpi_id_bits } else { FIRST_LPI }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_say_it_and_are_read_back() {
        let id = CpuIdentity { pri_bits: 7, id_bits: 24, seis: true, a3v: false, rss: true };
        assert_eq!(id.to_ctlr(), 6 << 8 | 1 << 11 | 1 << 14 | 1 << 18);
        assert_eq!(CpuIdentity::from_ctlr(id.to_ctlr() | 3), Some(id));
        for wrong in [3 << 8, 7 << 8, 4 << 8 | 2 << 11, 4 << 8 | 1 << 19] {
            assert_eq!(CpuIdentity::from_ctlr(wrong), None, "{wrong:#x}");
        }
        let most = DistIdentity::default();
        assert_eq!(most.to_typer(true), 1 << 17 | 15 << 19);
        assert_eq!(DistIdentity::from_typer(most.to_typer(true)), Some(most));
        assert_eq!(DistIdentity::from_typer(1 << 17 | 12 << 19), None);
        assert_eq!(DistIdentity::from_typer(15 << 19), None);
        let none = DistIdentity { lpis: false, ..most };
        assert_eq!(DistIdentity::from_typer(most.to_typer(false)), Some(none));
    }
}
