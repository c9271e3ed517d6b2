//! GICD: the distributor's frame, GICv3 and GICv2.

use crate::bank::{By, Span};
use crate::dist::Distributor;
use crate::irq::FIRST_SPI;
use crate::redist::{Redists, SgiRequest, SgiTargets};
use crate::redist_regs::{PIDR2_V3, is_wide_access, part};
use crate::types::{GicError, Version};

const CTLR: u64 = 0x000;
const TYPER: u64 = 0x004;
const IIDR: u64 = 0x008;
const TYPER2: u64 = 0x00c;
const STATUSR: u64 = 0x010;
/// GICv2
const SGIR: u64 = 0xf00;
const CPENDSGIR: u64 = 0xf10;
const SPENDSGIR: u64 = 0xf20;
/// GICv3
const IROUTER: std::ops::Range<u64> = 0x6000..0x8000;
const PIDR2: u64 = 0xffe8;

/// GICD_CTLR of a GICv3: affinity routing and a single Security state, for good.
const ARE_DS: u64 = 1 << 4 | 1 << 6;
const ENABLE_GRP1: u64 = 1 << 1;
const IIDR_REVISION: u64 = 0xf << 12;

impl Distributor {
    /// Reads a register. Accesses that KVM does not know read as zero.
    pub fn read<R: Redists>(&self, offset: u64, size: usize, vcpu: usize, by: By, redists: &mut R) -> u64 {
        if let Some(span) = Span::decode(offset, size) {
            return self.read_span(span, vcpu, by, redists);
        }
        match self.version {
            Version::V3 => self.read_v3(offset, size, by, redists),
            Version::V2 => self.read_v2(offset, size, vcpu, redists),
        }
    }

    /// Writes a register. Only userspace can be refused.
    pub fn write<R: Redists>(
        &mut self,
        offset: u64,
        size: usize,
        vcpu: usize,
        value: u64,
        by: By,
        redists: &mut R,
    ) -> Result<(), GicError> {
        if let Some(span) = Span::decode(offset, size) {
            self.write_span(span, vcpu, value, by, redists);
            return Ok(());
        }
        if by.is_user() && size == 4 && offset == IIDR {
            return self.user_write_iidr(value, redists);
        }
        match self.version {
            Version::V3 => {
                if by.is_user() && offset == TYPER2 && value != self.read_v3(TYPER2, 4, by, redists) {
                    return Err(GicError::BadValue);
                }
                self.write_v3(offset, size, value, by, redists);
            }
            Version::V2 => self.write_v2(offset, size, vcpu, value, redists),
        }
        Ok(())
    }

    fn iidr(&self) -> u64 {
        0x4b00_043b | u64::from(self.revision) << 12
    }

    /// Only the revision may change, and only to one that this KVM knows how to be.
    fn user_write_iidr<R: Redists>(&mut self, value: u64, redists: &mut R) -> Result<(), GicError> {
        let revision = (value >> 12 & 0xf) as u8;
        if (value ^ self.iidr()) & !IIDR_REVISION != 0 || !matches!(revision, 2 | 3) {
            return Err(GicError::BadValue);
        }
        self.set_revision(revision, redists);
        self.user_groups = true;
        Ok(())
    }

    fn lines_field(&self) -> u64 {
        u64::from(self.nr_irqs / 32 - 1)
    }

    fn routed(offset: u64, size: usize) -> Option<u32> {
        let intid = (offset.checked_sub(IROUTER.start)? / 8) as u32;
        (IROUTER.contains(&offset) && is_wide_access(offset, size) && intid >= FIRST_SPI).then_some(intid)
    }

    fn read_v3<R: Redists>(&self, offset: u64, size: usize, by: By, redists: &mut R) -> u64 {
        if let Some(intid) = Self::routed(offset, size) {
            if !by.is_user() && self.is_taken(intid, redists) {
                return 0;
            }
            let route = self.peek(intid, redists, |irq| irq.route).unwrap_or(0);
            return part(route.into(), offset, size);
        }
        if size != 4 {
            return 0;
        }
        match offset {
            CTLR => ARE_DS | if self.enabled { ENABLE_GRP1 } else { 0 },
            TYPER => self.lines_field() | self.identity.to_typer(self.has_lpis),
            IIDR => self.iidr(),
            // KVM has it read as ones, not as zeros.
            STATUSR => 0xffff_ffff,
            PIDR2 => PIDR2_V3,
            _ => 0,
        }
    }

    fn write_v3<R: Redists>(&mut self, offset: u64, size: usize, value: u64, by: By, redists: &mut R) {
        if let Some(intid) = Self::routed(offset, size) {
            // The upper word (Aff3) is RAZ/WI.
            if offset.is_multiple_of(8) {
                self.set_route(intid, value as u32, by, redists);
            }
        } else if offset == CTLR && size == 4 {
            self.set_enabled(value & ENABLE_GRP1 != 0, redists);
        }
    }

    fn read_v2<R: Redists>(&self, offset: u64, size: usize, vcpu: usize, redists: &mut R) -> u64 {
        match (offset, size) {
            (CTLR, 4) => self.enabled.into(),
            (TYPER, 4) => self.lines_field() | (self.vcpus as u64).saturating_sub(1) << 5,
            (IIDR, 4) => self.iidr(),
            (CPENDSGIR..0xf30, 1 | 4) if offset.is_multiple_of(size as u64) => {
                let first = offset as u32 & 0xf;
                let each = (0..size as u32).map(|i| {
                    let sources =
                        |r: &mut crate::redist::Redistributor| r.irq(first + i).map_or(0, |s| s.sources);
                    u64::from(redists.with(vcpu, sources).unwrap_or(0)) << (8 * i)
                });
                each.fold(0, |a, b| a | b)
            }
            _ => 0,
        }
    }

    fn write_v2<R: Redists>(&mut self, offset: u64, size: usize, vcpu: usize, value: u64, redists: &mut R) {
        match (offset, size) {
            (CTLR, 4) => self.set_enabled(value & 1 != 0, redists),
            (SGIR, 4) => {
                let me = 1u8.checked_shl(vcpu as u32).unwrap_or(0);
                let mask = match value >> 24 & 3 {
                    0 => (value >> 16) as u8,
                    1 => !me,
                    2 => me,
                    _ => 0,
                };
                let to = SgiTargets::Mask(mask);
                let sgi = SgiRequest { from: vcpu as u16, intid: value as u32 & 0xf, to, group1: true };
                self.send_sgi(&sgi, redists);
            }
            (CPENDSGIR..0xf30, 1 | 4) if offset.is_multiple_of(size as u64) => {
                let set = offset >= SPENDSGIR;
                let first = offset as u32 & 0xf;
                for i in 0..size as u32 {
                    let bits = (value >> (8 * i)) as u8;
                    redists.with(vcpu, |r| {
                        r.edit(first + i, |sgi| {
                            sgi.sources = if set { sgi.sources | bits } else { sgi.sources & !bits };
                            sgi.latch = sgi.sources != 0;
                        })
                    });
                }
            }
            _ => {}
        }
    }
}

/// Whether userspace sees a register at `offset` (KVM_HAS_DEVICE_ATTR).
pub(crate) fn has_user_register(version: Version, nr_irqs: u32, offset: u64) -> bool {
    if !offset.is_multiple_of(4) {
        return false;
    }
    if let Some(span) = Span::decode(offset, 4) {
        return span.first < nr_irqs;
    }
    match version {
        Version::V3 => match offset {
            CTLR..=0x013 => true,
            0xd00..=0xd7f => ((offset - 0xd00) * 8) < u64::from(nr_irqs),
            0x6000..0x8000 => (offset - 0x6000) / 8 < u64::from(nr_irqs),
            0xffd0..=0xffff => true,
            _ => false,
        },
        Version::V2 => matches!(offset, CTLR..=0x00b | SGIR | CPENDSGIR..0xf30),
    }
}
