//! GITS: the interrupt translation service (Arm IHI 0069, chapters 5.2 and 12.18): which LPI a
//! device's event is and which vCPU gets it.
//!
//! As in KVM the mappings are held here; the tables that the guest provides are only checked to
//! exist, and written when the state is saved.

mod commands;
mod tables;

use std::collections::BTreeMap;

use crate::irq::FIRST_LPI;
use crate::lpi::{read_config, read_pending, sanitise, write_pending};
use crate::redist::{Redistributor, Redists};
use crate::redist_regs::{is_wide_access, merge, part};
use crate::types::{GicError, GuestMemory, MsiError};

const CTLR: u64 = 0x00;
const IIDR: u64 = 0x04;
const TYPER: u64 = 0x08;
const CBASER: u64 = 0x80;
const CWRITER: u64 = 0x88;
const CREADR: u64 = 0x90;
const BASER0: u64 = 0x100;
const BASER1: u64 = 0x108;

const CTLR_ENABLE: u64 = 1;
const CTLR_QUIESCENT: u64 = 1 << 31;
const VALID: u64 = 1 << 63;
const INDIRECT: u64 = 1 << 62;

/// KVM's product, revision 0 (the table ABI), Arm.
const IIDR_VALUE: u64 = 0x4b00_043b;
/// Bits of DeviceIDs and EventIDs.
const DEVICE_BITS: u32 = 16;
const EVENT_BITS: u32 = 16;
/// Bytes of an entry of the device, collection and translation tables.
const ENTRY: u64 = 8;
/// Physical LPIs, 16 bits each of DeviceID and EventID, entries of 8 bytes, RDbase is a number.
const TYPER_VALUE: u64 = 1 | (ENTRY - 1) << 4 | (EVENT_BITS as u64 - 1) << 8 | (DEVICE_BITS as u64 - 1) << 13;
/// GITS_BASERn.Type: 1 devices, 4 collections.
const BASER_TYPE: [u64; 2] = [1 << 56, 4 << 56];
const BASER_FIXED: u64 = 7 << 56 | 0x1f << 48 | 3 << 8;
/// GITS_BASERn at reset: inner cacheable (RaWb), inner shareable, entries of 8 bytes, pages of 64 KiB.
const BASER_RESET: u64 = 3 << 59 | (ENTRY - 1) << 48 | 1 << 10 | 2 << 8;
/// Architecture revision of GITS_IIDR, which names the layout of saved tables: 0 is the only one.
const IIDR_REVISION: u64 = 0xf << 12;
/// GITS_CBASER as KVM stores it: the queue is aligned to 64 KiB.
const CBASER_RES0: u64 = 1 << 62 | 7 << 56 | 1 << 52 | 0xf << 12 | 3 << 8;
/// Only 64 KiB pages.
const PAGE: u64 = 0x1_0000;

/// An event of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its LPI.
    pub lpi: u32,
    /// Its collection; none after that was unmapped.
    pub collection: Option<u16>,
}

/// A device that may send events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Address of its translation table.
    pub itt: u64,
    /// Bits of its EventIDs.
    pub event_bits: u32,
    /// Mapped events.
    pub events: BTreeMap<u32, Event>,
}

/// An interrupt translation service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Its {
    enabled: bool,
    cbaser: u64,
    cwriter: u64,
    creadr: u64,
    baser: [u64; 2],
    devices: BTreeMap<u32, Device>,
    /// Events of all devices.
    events: usize,
    /// The vCPU (index) of each known collection; none until MAPC.
    collections: BTreeMap<u16, Option<u16>>,
}

impl Its {
    /// The reset state.
    pub fn new() -> Its {
        let baser = BASER_TYPE.map(|t| t | BASER_RESET);
        Its { baser, ..Its::default() }
    }

    /// Mapped devices.
    pub fn devices(&self) -> &BTreeMap<u32, Device> {
        &self.devices
    }

    /// A guest's load.
    pub fn read(&self, offset: u64, size: usize) -> u64 {
        match offset & !7 {
            TYPER | CBASER | CWRITER | CREADR | BASER0..0x140 if is_wide_access(offset, size) => {
                return part(self.wide(offset & !7), offset, size);
            }
            _ => {}
        }
        if size != 4 {
            return 0;
        }
        match offset {
            CTLR => {
                let quiescent = if self.creadr == self.cwriter { CTLR_QUIESCENT } else { 0 };
                u64::from(self.enabled) | quiescent
            }
            IIDR => IIDR_VALUE,
            0xffd0 => 0x40,
            0xffe0 => 0x92,
            0xffe4 => 0xb4,
            0xffe8 => 0x3b,
            0xfff0 => 0x0d,
            0xfff4 => 0xf0,
            0xfff8 => 0x05,
            0xfffc => 0xb1,
            _ => 0,
        }
    }

    fn wide(&self, offset: u64) -> u64 {
        match offset {
            TYPER => TYPER_VALUE,
            CBASER => self.cbaser,
            CWRITER => self.cwriter,
            CREADR => self.creadr,
            BASER0 => self.baser[0],
            BASER1 => self.baser[1],
            _ => 0,
        }
    }

    /// A guest's store. Commands are carried out before it returns.
    pub fn write<R: Redists>(
        &mut self,
        offset: u64,
        size: usize,
        value: u64,
        propbaser: u64,
        redists: &mut R,
        mem: &dyn GuestMemory,
    ) {
        let register = offset & !7;
        let whole = merge(self.wide(register), offset, size, value);
        match register {
            CTLR if offset == CTLR && size == 4 => self.write_ctlr(value, propbaser, redists, mem),
            CBASER if is_wide_access(offset, size) && !self.enabled => {
                self.cbaser = sanitise(whole, 10, 59, 53) & !CBASER_RES0;
                // An empty queue, whatever CWRITER was.
                (self.creadr, self.cwriter) = (0, 0);
            }
            CWRITER if is_wide_access(offset, size) => {
                let at = whole & 0xf_ffe0;
                if at < self.queue_size() {
                    self.cwriter = at;
                    self.run_commands(propbaser, redists, mem);
                }
            }
            BASER0 | BASER1 if is_wide_access(offset, size) && !self.enabled => {
                self.write_baser((register == BASER1).into(), whole, redists);
            }
            _ => {}
        }
    }

    fn write_ctlr<R: Redists>(&mut self, value: u64, propbaser: u64, redists: &mut R, mem: &dyn GuestMemory) {
        let enable = value & CTLR_ENABLE != 0;
        let ready = self.cbaser & self.baser[0] & self.baser[1] & VALID != 0;
        if enable && !ready {
            return;
        }
        self.enabled = enable;
        self.run_commands(propbaser, redists, mem);
    }

    fn write_baser<R: Redists>(&mut self, n: usize, value: u64, redists: &mut R) {
        let mut value =
            sanitise(value & !BASER_FIXED, 10, 59, 53) | BASER_TYPE[n] | (ENTRY - 1) << 48 | 2 << 8;
        if n == 1 {
            value &= !INDIRECT;
        }
        self.baser[n] = value;
        if value & VALID == 0 {
            if n == 0 {
                self.drop_devices(redists);
            } else {
                self.collections.keys().copied().collect::<Vec<_>>().into_iter().for_each(|c| {
                    self.drop_collection(c, redists);
                });
            }
        }
    }

    fn queue_size(&self) -> u64 {
        ((self.cbaser & 0xff) + 1) << 12
    }

    /// Whether userspace can name this register.
    pub fn has_user_register(offset: u64) -> bool {
        match offset {
            CTLR | IIDR => true,
            TYPER | CBASER | CWRITER | CREADR | BASER0..0x140 => offset.is_multiple_of(8),
            0xffd0..=0xffff => offset.is_multiple_of(4),
            _ => false,
        }
    }

    /// Reads a register for userspace; all are u64 there.
    pub fn user_read(&self, offset: u64) -> u64 {
        match offset {
            TYPER | CBASER | CWRITER | CREADR | BASER0..0x140 if offset.is_multiple_of(8) => {
                self.wide(offset)
            }
            _ => self.read(offset, 4),
        }
    }

    /// Writes a register for userspace.
    pub fn user_write<R: Redists>(
        &mut self,
        offset: u64,
        value: u64,
        propbaser: u64,
        redists: &mut R,
        mem: &dyn GuestMemory,
    ) -> Result<(), GicError> {
        match offset {
            // Nothing but the revision is looked at.
            IIDR if value & IIDR_REVISION != 0 => Err(GicError::BadValue),
            CREADR if self.enabled => Err(GicError::Busy),
            CREADR => {
                let at = value & 0xf_ffe0;
                if at >= self.queue_size() {
                    return Err(GicError::BadValue);
                }
                self.creadr = at;
                Ok(())
            }
            CTLR => {
                self.write(CTLR, 4, value, propbaser, redists, mem);
                Ok(())
            }
            _ => {
                self.write(offset, 8, value, propbaser, redists, mem);
                Ok(())
            }
        }
    }

    /// A device sends an event, or the guest an INT command.
    pub fn trigger<R: Redists>(
        &self,
        device: u32,
        event: u32,
        propbaser: u64,
        redists: &mut R,
        mem: &dyn GuestMemory,
    ) -> Result<(), MsiError> {
        if !self.enabled {
            return Err(MsiError::ItsDisabled);
        }
        let found = self.devices.get(&device).and_then(|d| d.events.get(&event)).ok_or(MsiError::Unmapped)?;
        let vcpu = self.target(found).ok_or(MsiError::Unmapped)?;
        let raise = |r: &mut Redistributor| {
            if !r.lpis_enabled() {
                return Err(MsiError::LpisDisabled);
            }
            if r.edit_lpi(found.lpi, |lpi| lpi.pending = true).is_none() {
                r.upsert_lpi(found.lpi, |lpi| lpi.pending = true);
                r.reload_lpi(found.lpi, propbaser, mem);
            }
            Ok(())
        };
        redists.with(vcpu.into(), raise).unwrap_or(Err(MsiError::Unmapped))
    }

    fn target(&self, event: &Event) -> Option<u16> {
        self.collections.get(&event.collection?).copied().flatten()
    }

    /// Forgets all mappings and registers (KVM_DEV_ARM_ITS_CTRL_RESET). Of the tables' registers only "valid" goes.
    pub fn reset<R: Redists>(&mut self, redists: &mut R) {
        self.drop_devices(redists);
        *self = Its { baser: self.baser.map(|b| b & !VALID), ..Its::default() };
    }

    fn drop_devices<R: Redists>(&mut self, redists: &mut R) {
        for id in self.devices.keys().copied().collect::<Vec<_>>() {
            self.drop_device(id, redists);
        }
    }

    fn drop_device<R: Redists>(&mut self, id: u32, redists: &mut R) {
        let device = self.devices.remove(&id).unwrap_or_default();
        self.events -= device.events.len();
        for event in device.events.values() {
            if let Some(vcpu) = self.target(event) {
                detach(event.lpi, vcpu, redists);
            }
        }
    }

    fn drop_collection<R: Redists>(&mut self, id: u16, redists: &mut R) {
        let target = self.collections.remove(&id).flatten();
        for event in self.devices.values_mut().flat_map(|d| d.events.values_mut()) {
            if event.collection == Some(id) {
                event.collection = None;
                if let Some(vcpu) = target {
                    detach(event.lpi, vcpu, redists);
                }
            }
        }
    }

    /// Address and entries (of an indirect table: pages) of the guest's table `n`.
    fn table(&self, n: usize) -> (u64, u64) {
        let baser = self.baser[n];
        // With 64 KiB pages bits [15:12] of the register are address bits [51:48].
        let base = baser & 0x0000_ffff_ffff_0000 | (baser >> 12 & 0xf) << 48;
        (base, ((baser & 0xff) + 1) * PAGE / ENTRY)
    }

    /// Address of entry `id` of the guest's table `n`, if the table has it.
    fn table_entry(&self, n: usize, id: u32, mem: &dyn GuestMemory) -> Option<u64> {
        let (base, room) = self.table(n);
        let id = u64::from(id);
        if self.baser[n] & VALID == 0 || id >= 1 << DEVICE_BITS {
            return None;
        }
        if self.baser[n] & INDIRECT == 0 {
            return (id < room).then_some(base + id * ENTRY);
        }
        let per_page = PAGE / ENTRY;
        let mut entry = [0; ENTRY as usize];
        if id / per_page >= room || mem.read(base + id / per_page * ENTRY, &mut entry).is_err() {
            return None;
        }
        let first_level = u64::from_le_bytes(entry);
        let page = first_level & 0x000f_ffff_ffff_0000;
        (first_level & VALID != 0).then_some(page + id % per_page * ENTRY)
    }

    /// Whether the guest's table `n` has room and memory for entry `id`.
    fn table_has(&self, n: usize, id: u32, mem: &dyn GuestMemory) -> bool {
        self.table_entry(n, id, mem).is_some_and(|at| mem.read(at, &mut [0; ENTRY as usize]).is_ok())
    }
}

/// The vCPU whose GICR_TYPER.Processor_Number this is.
fn processor<R: Redists>(number: u64, redists: &mut R) -> Option<u16> {
    (0..redists.count())
        .find(|&vcpu| redists.with(vcpu, |r| u64::from(r.processor_number()) == number) == Some(true))
        .map(|vcpu| vcpu as u16)
}

/// An event maps to this LPI at this vCPU from now on. Not if its configuration, or its pending state when it counts, is
/// not in memory.
fn attach<R: Redists>(lpi: u32, vcpu: u16, propbaser: u64, redists: &mut R, mem: &dyn GuestMemory) -> bool {
    let attached = redists.with(vcpu.into(), |r| {
        let (priority, enabled) = read_config(propbaser, lpi, mem)?;
        // It may have been left pending in the table; from here on its state is ours.
        let left = r.lpis_enabled() && read_pending(r.pendbaser, lpi, mem)?;
        if left && !write_pending(r.pendbaser, lpi, false, mem) {
            return None;
        }
        r.upsert_lpi(lpi, |l| {
            (l.priority, l.enabled, l.pending) = (priority, enabled, l.pending || left);
            l.maps += 1;
        });
        Some(())
    });
    attached.flatten().is_some()
}

/// An event no longer maps to it. Tells whether it was pending, which it then is not any more.
fn detach<R: Redists>(lpi: u32, vcpu: u16, redists: &mut R) -> bool {
    let gone = redists.with(vcpu.into(), |r| {
        r.edit_lpi(lpi, |l| {
            l.maps = l.maps.saturating_sub(1);
            l.maps == 0 && std::mem::take(&mut l.pending)
        })
    });
    gone.flatten().unwrap_or(false)
}

/// The LPI of an event gets another vCPU and takes its pending state along.
fn relocate<R: Redists>(
    lpi: u32,
    from: Option<u16>,
    to: Option<u16>,
    propbaser: u64,
    redists: &mut R,
    mem: &dyn GuestMemory,
) {
    if from == to {
        return;
    }
    let pending = from.is_some_and(|vcpu| detach(lpi, vcpu, redists));
    if let Some(vcpu) = to {
        attach(lpi, vcpu, propbaser, redists, mem);
        if pending {
            redists.with(vcpu.into(), |r| r.edit_lpi(lpi, |l| l.pending = true));
        }
    }
}

impl Redistributor {
    /// Writes the pending bits of the LPIs here to the vCPU's table. False if memory is missing.
    pub(crate) fn save_pending_table(&self, mem: &dyn GuestMemory) -> bool {
        self.lpis
            .iter()
            .all(|(intid, lpi)| intid < FIRST_LPI || write_pending(self.pendbaser, intid, lpi.pending, mem))
    }
}
