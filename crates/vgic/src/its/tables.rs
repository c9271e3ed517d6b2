//! The ITS tables in guest memory, layout revision 0 of KVM: written when the state is saved,
//! read when it is restored (Linux, Documentation/virt/kvm/devices/arm-vgic-its.rst).
//!
//! All entries are little-endian u64:
//! - device: valid [63], distance to the next one [62:49], ITT address >> 8 [48:5], event bits - 1 [4:0]
//! - collection: valid [63], processor number [51:16], collection [15:0]; the first invalid one ends it
//! - event: distance to the next one [63:48], LPI [47:16], collection [15:0]; LPI 0 is invalid
//!
//! A distance of 0 says that this is the last one.

use std::collections::BTreeMap;

use super::commands::MAX_EVENTS;
use super::{DEVICE_BITS, Device, ENTRY, EVENT_BITS, Event, INDIRECT, Its, PAGE, VALID, attach};
use crate::irq::FIRST_LPI;
use crate::lpi::LPI_ID_BITS;
use crate::redist::Redists;
use crate::types::{GicError, GuestMemory};

/// Largest distances that fit.
const NEXT_DEVICE: u64 = (1 << 14) - 1;
const NEXT_EVENT: u64 = (1 << 16) - 1;
/// Processor number of a collection that no MAPC has mapped.
const NOT_MAPPED: u64 = 0xffff_ffff;
/// Entries that are read at once.
const WINDOW: u64 = 512;

/// Guest memory is missing: EFAULT.
fn put(at: u64, value: u64, mem: &dyn GuestMemory) -> Result<(), GicError> {
    mem.write(at, &value.to_le_bytes()).map_err(|_| GicError::Memory)
}

/// A table that is read in order, several entries at once.
struct Reader<'a> {
    mem: &'a dyn GuestMemory,
    base: u64,
    /// Entries of the table.
    len: u64,
    first: u64,
    window: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(base: u64, len: u64, mem: &'a dyn GuestMemory) -> Self {
        Reader { mem, base, len, first: 0, window: Vec::new() }
    }

    fn get(&mut self, n: u64) -> Result<u64, GicError> {
        let ahead = n.wrapping_sub(self.first).saturating_mul(ENTRY);
        let known = usize::try_from(ahead).ok().and_then(|at| self.window.get(at..)?.first_chunk());
        if let Some(bytes) = known {
            return Ok(u64::from_le_bytes(*bytes));
        }
        let at = n.checked_mul(ENTRY).and_then(|o| self.base.checked_add(o)).ok_or(GicError::Memory)?;
        self.first = n;
        self.window.resize((self.len.saturating_sub(n).clamp(1, WINDOW) * ENTRY) as usize, 0);
        if self.mem.read(at, &mut self.window).is_err() {
            // Memory may end behind the entry.
            self.window.truncate(ENTRY as usize);
            if self.mem.read(at, &mut self.window).is_err() {
                self.window.clear();
                return Err(GicError::Memory);
            }
        }
        self.window.first_chunk().map(|b| u64::from_le_bytes(*b)).ok_or(GicError::Memory)
    }
}

/// Distance from each of ascending ids to the next, as an entry holds it.
fn distances(ids: impl Iterator<Item = u32> + Clone, most: u64) -> impl Iterator<Item = u64> {
    let next = ids.clone().skip(1).map(Some).chain([None]);
    ids.zip(next).map(move |(id, next)| next.map_or(0, |n| u64::from(n - id).min(most)))
}

/// What tables hold, before it is taken over.
#[derive(Default)]
struct Found {
    collections: BTreeMap<u16, Option<u16>>,
    devices: BTreeMap<u32, Device>,
    events: usize,
}

impl Its {
    /// Writes devices, events and collections to the guest's tables (SAVE_TABLES).
    pub fn save_tables<R: Redists>(&self, redists: &mut R, mem: &dyn GuestMemory) -> Result<(), GicError> {
        if self.baser[0] & VALID != 0 {
            let next = distances(self.devices.keys().copied(), NEXT_DEVICE);
            for ((&id, device), next) in self.devices.iter().zip(next) {
                let at = self.table_entry(0, id, mem).filter(|_| self.table_has(0, id, mem));
                let at = at.ok_or(GicError::BadValue)?;
                self.save_events(device, mem)?;
                let bits = u64::from(device.event_bits) - 1;
                put(at, VALID | next << 49 | (device.itt >> 8) << 5 | bits, mem)?;
            }
        }
        if self.baser[1] & VALID == 0 {
            return Ok(());
        }
        let (base, room) = self.table(1);
        let mut n = 0;
        for (&id, &vcpu) in &self.collections {
            let number = match vcpu {
                None => NOT_MAPPED,
                Some(v) => {
                    redists.with(v.into(), |r| r.processor_number()).ok_or(GicError::NoVcpu(v.into()))?.into()
                }
            };
            if n < room {
                put(base + n * ENTRY, VALID | number << 16 | u64::from(id), mem)?;
            }
            n += 1;
        }
        if n < room { put(base + n * ENTRY, 0, mem) } else { Ok(()) }
    }

    fn save_events(&self, device: &Device, mem: &dyn GuestMemory) -> Result<(), GicError> {
        let next = distances(device.events.keys().copied(), NEXT_EVENT);
        for ((&id, event), next) in device.events.iter().zip(next) {
            let collection = u64::from(event.collection.unwrap_or(0));
            // Without collection an event cannot be restored: it is saved as invalid.
            let lpi = if event.collection.is_some() { u64::from(event.lpi) } else { 0 };
            put(device.itt + u64::from(id) * ENTRY, next << 48 | lpi << 16 | collection, mem)?;
        }
        Ok(())
    }

    /// Reads them back (RESTORE_TABLES), all or nothing.
    pub fn restore_tables<R: Redists>(
        &mut self,
        propbaser: u64,
        redists: &mut R,
        mem: &dyn GuestMemory,
    ) -> Result<(), GicError> {
        let mut found = Found::default();
        self.read_collections(&mut found, redists, mem)?;
        self.read_devices(&mut found, mem)?;
        let (known, new): (Vec<u16>, Vec<u32>) =
            (found.collections.keys().copied().collect(), found.devices.keys().copied().collect());
        self.collections.append(&mut found.collections);
        for (id, device) in found.devices {
            // Added event by event, so that a failure leaves no LPI behind that is not mapped.
            let bare = Device { itt: device.itt, event_bits: device.event_bits, ..Device::default() };
            self.devices.insert(id, bare);
            for (n, event) in device.events {
                let attached =
                    self.target(&event).is_none_or(|vcpu| attach(event.lpi, vcpu, propbaser, redists, mem));
                if !attached {
                    new.iter().for_each(|id| self.drop_device(*id, redists));
                    known.iter().for_each(|id| {
                        self.collections.remove(id);
                    });
                    return Err(GicError::Memory);
                }
                self.devices.entry(id).or_default().events.insert(n, event);
                self.events += 1;
            }
        }
        Ok(())
    }

    fn read_collections<R: Redists>(
        &self,
        found: &mut Found,
        redists: &mut R,
        mem: &dyn GuestMemory,
    ) -> Result<(), GicError> {
        if self.baser[1] & VALID == 0 {
            return Ok(());
        }
        let (base, room) = self.table(1);
        let mut table = Reader::new(base, room, mem);
        for n in 0..room {
            let entry = table.get(n)?;
            if entry & VALID == 0 {
                break;
            }
            let id = entry as u16;
            let vcpu = match entry >> 16 & 0xffff_ffff {
                NOT_MAPPED => None,
                number => Some(super::processor(number, redists).ok_or(GicError::BadValue)?),
            };
            if !self.table_has(1, id.into(), mem) {
                return Err(GicError::BadValue);
            }
            if self.collections.contains_key(&id) || found.collections.insert(id, vcpu).is_some() {
                return Err(GicError::Exists);
            }
        }
        Ok(())
    }

    fn read_devices(&self, found: &mut Found, mem: &dyn GuestMemory) -> Result<(), GicError> {
        if self.baser[0] & VALID == 0 {
            return Ok(());
        }
        let (base, len) = self.table(0);
        if self.baser[0] & INDIRECT == 0 {
            return self.read_device_page(base, 0, len, found, mem).map(drop);
        }
        let mut pages = Reader::new(base, len, mem);
        for n in 0..len.min((1 << DEVICE_BITS) / (PAGE / ENTRY)) {
            let entry = pages.get(n)?;
            if entry & VALID == 0 {
                continue;
            }
            let first = n * (PAGE / ENTRY);
            if self.read_device_page(entry & 0x000f_ffff_ffff_0000, first, PAGE / ENTRY, found, mem)? {
                break;
            }
        }
        Ok(())
    }

    /// Reads `len` entries of devices from `first` on; whether the last device was among them.
    fn read_device_page(
        &self,
        base: u64,
        first: u64,
        len: u64,
        found: &mut Found,
        mem: &dyn GuestMemory,
    ) -> Result<bool, GicError> {
        let mut table = Reader::new(base, len, mem);
        let mut n = 0;
        while n < len && first + n < 1 << DEVICE_BITS {
            let entry = table.get(n)?;
            if entry & VALID == 0 {
                n += 1;
                continue;
            }
            let id = (first + n) as u32;
            if self.devices.contains_key(&id) {
                return Err(GicError::Exists);
            }
            let (itt, event_bits) = ((entry >> 5 & 0xfff_ffff_ffff) << 8, (entry & 0x1f) as u32 + 1);
            let events = self.read_events(itt, event_bits, found, mem)?;
            found.events += events.len();
            found.devices.insert(id, Device { itt, event_bits, events });
            match entry >> 49 & NEXT_DEVICE {
                0 => return Ok(true),
                next => n += next,
            }
        }
        Ok(false)
    }

    fn read_events(
        &self,
        itt: u64,
        event_bits: u32,
        found: &Found,
        mem: &dyn GuestMemory,
    ) -> Result<BTreeMap<u32, Event>, GicError> {
        if event_bits > EVENT_BITS {
            return Err(GicError::BadValue);
        }
        let len = 1u64 << event_bits;
        let mut table = Reader::new(itt, len, mem);
        let mut events = BTreeMap::new();
        let mut n = 0;
        while n < len {
            let entry = table.get(n)?;
            let (next, lpi, collection) = (entry >> 48, (entry >> 16) as u32, entry as u16);
            if lpi == 0 {
                n += 1;
                continue;
            }
            let collected =
                found.collections.contains_key(&collection) || self.collections.contains_key(&collection);
            let fits = (FIRST_LPI..1 << LPI_ID_BITS).contains(&lpi) && n + next < len;
            if !fits || !collected || self.events + found.events + events.len() >= MAX_EVENTS {
                return Err(GicError::BadValue);
            }
            events.insert(n as u32, Event { lpi, collection: Some(collection) });
            match next {
                0 => break,
                next => n += next,
            }
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{MemoryError, NoMemory};

    /// A few entries at 0x1000, and nothing behind.
    struct Few(Vec<u8>);

    impl GuestMemory for Few {
        fn read(&self, ipa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
            let at = ipa.checked_sub(0x1000).ok_or(MemoryError)? as usize;
            buf.copy_from_slice(self.0.get(at..at + buf.len()).ok_or(MemoryError)?);
            Ok(())
        }

        fn write(&self, _ipa: u64, _buf: &[u8]) -> Result<(), MemoryError> {
            Err(MemoryError)
        }
    }

    #[test]
    fn a_table_is_read_to_where_memory_ends() {
        let few = Few((1u64..=3).flat_map(u64::to_le_bytes).collect());
        let mut r = Reader::new(0x1000, 1000, &few);
        assert_eq!([r.get(0), r.get(1), r.get(2), r.get(3)], [Ok(1), Ok(2), Ok(3), Err(GicError::Memory)]);
        assert_eq!(r.get(1), Ok(2), "backwards");
        let mut exact = Reader::new(0x1000, 3, &few);
        assert_eq!([exact.get(0), exact.get(2)], [Ok(1), Ok(3)]);
        assert_eq!(Reader::new(u64::MAX - 7, 9, &NoMemory).get(5), Err(GicError::Memory));
    }

    #[test]
    fn distances_are_capped() {
        let d = |ids: &[u32]| distances(ids.iter().copied(), NEXT_DEVICE).collect::<Vec<_>>();
        assert_eq!(d(&[3, 5, 5 + (1 << 14)]), [2, NEXT_DEVICE, 0]);
        assert_eq!(d(&[7]), [0]);
    }
}
