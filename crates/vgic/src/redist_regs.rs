//! GICR: the RD_base and SGI_base frames of a GICv3 redistributor.
//!
//! GICR_PROPBASER is one register for the whole VM in KVM and lives at the distributor.

use crate::bank::{self, By, Field, Span};
use crate::irq::FIRST_SPI;
use crate::lpi::{self, sanitise};
use crate::redist::Redistributor;
use crate::types::GuestMemory;

/// GICR_CTLR.EnableLPIs.
const ENABLE_LPIS: u64 = 1;
/// GICR_CTLR.CES (EnableLPIs can be cleared) and IR (INVLPIR and INVALLR work).
const CES_IR: u64 = 1 << 1 | 1 << 2;
/// GICR_PENDBASER.PTZ: the pending table is all zero.
const PTZ: u64 = 1 << 62;
/// RES0 of GICR_PENDBASER; PTZ reads as zero.
const PENDBASER_RES0: u64 = 1 << 63 | 7 << 59 | 0xf << 52 | 0xf << 12 | 0x7f;
/// RES0 of GICR_PROPBASER.
const PROPBASER_RES0: u64 = 0x1f << 59 | 0xf << 52 | 3 << 5;
/// GICR_IIDR: KVM's product, Arm's implementer.
const IIDR: u64 = 0x4b00_043b;
/// PIDR2: GICv3.
pub(crate) const PIDR2_V3: u64 = 0x3b;

/// GICR_PROPBASER, the one register of the frame that is the VM's: see
/// [`crate::dist::Distributor::write_propbaser`].
pub const PROPBASER: std::ops::Range<u64> = 0x70..0x78;

/// Where the SGI frame begins.
pub(crate) const SGI_BASE: u64 = 0x1_0000;

/// Replaces the 4 or 8 bytes at `offset % 8` of a 64-bit register.
pub(crate) fn merge(old: u64, offset: u64, size: usize, value: u64) -> u64 {
    match (size, offset % 8) {
        (8, _) => value,
        (_, 0) => old & !0xffff_ffff | value & 0xffff_ffff,
        _ => old & 0xffff_ffff | value << 32,
    }
}

/// The 4 or 8 bytes at `offset % 8` of a 64-bit register.
pub(crate) fn part(value: u64, offset: u64, size: usize) -> u64 {
    match (size, offset % 8) {
        (8, _) => value,
        (_, 0) => value & 0xffff_ffff,
        _ => value >> 32,
    }
}

/// Whether an access of `size` bytes to a 64-bit register at `offset` is one: all of it or a half.
pub(crate) fn is_wide_access(offset: u64, size: usize) -> bool {
    matches!(size, 4 | 8) && offset.is_multiple_of(size as u64)
}

/// GICR_PROPBASER as KVM stores it.
pub(crate) fn sanitise_propbaser(value: u64) -> u64 {
    sanitise(value, 10, 7, 56) & !PROPBASER_RES0
}

impl Redistributor {
    /// Reads a register of the frames. `propbaser` is the VM's.
    pub fn frame_read(&self, offset: u64, size: usize, by: By, propbaser: u64) -> u64 {
        if offset >= SGI_BASE {
            return self.private_read(offset - SGI_BASE, size, by);
        }
        let wide = match offset & !7 {
            0x08 => Some(self.typer()),
            0x70 => Some(propbaser),
            0x78 => Some(self.pendbaser & !PTZ),
            _ => None,
        };
        if let Some(value) = wide {
            return if is_wide_access(offset, size) { part(value, offset, size) } else { 0 };
        }
        match (offset, size) {
            (0x00, 4) => u64::from(self.enable_lpis) | if self.invalidates { CES_IR } else { 0 },
            (0x04, 4) => IIDR,
            (0xffe8, 4) => PIDR2_V3,
            // STATUSR, WAKER (the vCPU's children are never asleep), SYNCR (never busy), and all else.
            _ => 0,
        }
    }

    /// Writes a register of the frames, but not GICR_PROPBASER.
    pub fn frame_write(
        &mut self,
        offset: u64,
        size: usize,
        value: u64,
        by: By,
        propbaser: u64,
        mem: &dyn GuestMemory,
    ) {
        if offset >= SGI_BASE {
            return self.private_write(offset - SGI_BASE, size, value, by);
        }
        match offset {
            0x00 if size == 4 => self.write_ctlr(value, mem),
            0x78 | 0x7c if is_wide_access(offset, size) && !self.enable_lpis => {
                let whole = merge(self.pendbaser, offset, size, value);
                self.pendbaser = sanitise(whole, 10, 7, 56) & !PENDBASER_RES0;
            }
            0xa0 if is_wide_access(offset, size) => self.reload_lpi(value as u32, propbaser, mem),
            0xb0 if is_wide_access(offset, size) => self.reload_lpis(propbaser, mem),
            _ => {}
        }
    }

    fn typer(&self) -> u64 {
        u64::from(self.affinity.0) << 32
            | u64::from(self.processor) << 8
            | u64::from(self.last) << 4
            | u64::from(self.has_lpis)
    }

    fn write_ctlr(&mut self, value: u64, mem: &dyn GuestMemory) {
        let enable = value & ENABLE_LPIS != 0;
        if !self.has_lpis || enable == self.enable_lpis {
            return;
        }
        self.enable_lpis = enable;
        for intid in self.lpis.intids() {
            if !enable {
                self.lpis.edit(intid, |lpi| lpi.pending = false);
            } else if self.pendbaser & PTZ == 0
                && let Some(pending) = lpi::read_pending(self.pendbaser, intid, mem)
            {
                self.lpis.edit(intid, |lpi| lpi.pending |= pending);
            }
        }
        self.update();
    }

    /// Reads an LPI's configuration again.
    pub(crate) fn reload_lpi(&mut self, intid: u32, propbaser: u64, mem: &dyn GuestMemory) {
        if self.lpis.get(intid).is_none() {
            return;
        }
        if let Some((priority, enabled)) = lpi::read_config(propbaser, intid, mem) {
            self.edit_lpi(intid, |lpi| (lpi.priority, lpi.enabled) = (priority, enabled));
        }
    }

    /// Reads the configuration of all LPIs here again.
    pub(crate) fn reload_lpis(&mut self, propbaser: u64, mem: &dyn GuestMemory) {
        for intid in self.lpis.intids() {
            self.reload_lpi(intid, propbaser, mem);
        }
    }

    fn private_span(offset: u64, size: usize) -> Option<Span> {
        let span = Span::decode(offset, size)?;
        let private = span.first < FIRST_SPI && span.field != Field::Targets;
        private.then_some(span)
    }

    fn private_read(&self, offset: u64, size: usize, by: By) -> u64 {
        let Some(span) = Self::private_span(offset, size) else { return 0 };
        self.read_span(span, by)
    }

    fn private_write(&mut self, offset: u64, size: usize, value: u64, by: By) {
        if let Some(span) = Self::private_span(offset, size) {
            self.write_span(span, value, by);
        }
    }

    /// Reads fields of private interrupts.
    pub(crate) fn read_span(&self, span: Span, by: By) -> u64 {
        let v2 = self.version == crate::Version::V2;
        span.each()
            .filter_map(|(intid, shift)| {
                let irq = self.private.get(intid as usize)?;
                Some(u64::from(bank::read(irq, span.field, by, v2)) << shift)
            })
            .fold(0, |a, b| a | b)
    }

    /// Writes fields of private interrupts.
    pub(crate) fn write_span(&mut self, span: Span, value: u64, by: By) {
        let v2 = self.version == crate::Version::V2;
        for (intid, shift) in span.each() {
            if let Some(irq) = self.private.get_mut(intid as usize) {
                bank::write(irq, span.field, span.pick(value, shift), by, v2);
            }
        }
        self.update();
    }
}
