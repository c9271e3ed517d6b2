//! The ITS tables in guest memory, layout revision 0 of KVM: written when the state is saved,
//! read when it is restored (Linux, Documentation/virt/kvm/devices/arm-vgic-its.rst).
//!
//! All entries are little-endian u64:
//! - device: valid [63], distance to the next one [62:49], ITT address >> 8 [48:5], event bits - 1 [4:0]
//! - collection: valid [63], processor number [51:16], collection [15:0]; the first invalid one ends it
//! - event: distance to the next one [63:48], LPI [47:16], collection [15:0]; LPI 0 is invalid
//!
//! A distance of 0 says that this is the last one.

use super::commands::MAX_EVENTS;
use super::{DEVICE_BITS, Device, ENTRY, EVENT_BITS, Event, INDIRECT, Its, PAGE, VALID, attach};
use crate::irq::FIRST_LPI;
use crate::lpi::id_limit;
use crate::redist::Redists;
use crate::types::{GicError, GuestMemory};

/// Largest distances that fit.
const NEXT_DEVICE: u64 = (1 << 14) - 1;
const NEXT_EVENT: u64 = (1 << 16) - 1;

/// Guest memory is missing: EFAULT.
fn put(at: u64, value: u64, mem: &dyn GuestMemory) -> Result<(), GicError> {
    mem.write(at, &value.to_le_bytes()).map_err(|_| GicError::Memory)
}

fn get(at: u64, mem: &dyn GuestMemory) -> Result<u64, GicError> {
    let mut bytes = [0; ENTRY as usize];
    mem.read(at, &mut bytes).map_err(|_| GicError::Memory)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Distance from each of ascending ids to the next, as an entry holds it.
fn distances(ids: impl Iterator<Item = u32> + Clone, most: u64) -> impl Iterator<Item = u64> {
    let next = ids.clone().skip(1).map(Some).chain([None]);
    ids.zip(next).map(move |(id, next)| next.map_or(0, |n| u64::from(n - id).min(most)))
}

impl Its {
    /// Writes devices, events and collections to the guest's tables (SAVE_TABLES).
    pub fn save_tables<R: Redists>(&self, redists: &mut R, mem: &dyn GuestMemory) -> Result<(), GicError> {
        if self.baser[0] & VALID != 0 {
            let next = distances(self.devices.keys().copied(), NEXT_DEVICE);
            for ((&id, device), next) in self.devices.iter().zip(next) {
                self.save_events(device, mem)?;
                let at = self.table_entry(0, id, mem).ok_or(GicError::BadValue)?;
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
            // One that no MAPC has mapped is not worth an entry: MAPTI or MAPC make it anew.
            let Some(vcpu) = vcpu else { continue };
            let number =
                redists.with(vcpu.into(), |r| r.processor_number()).ok_or(GicError::NoVcpu(vcpu.into()))?;
            if n < room {
                put(base + n * ENTRY, VALID | u64::from(number) << 16 | u64::from(id), mem)?;
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

    /// Reads them back into an ITS without mappings (RESTORE_TABLES).
    pub fn restore_tables<R: Redists>(
        &mut self,
        propbaser: u64,
        redists: &mut R,
        mem: &dyn GuestMemory,
    ) -> Result<(), GicError> {
        let done = self.restore_all(propbaser, redists, mem);
        if done.is_err() {
            self.drop_devices(redists);
            self.collections.clear();
        }
        done
    }

    fn restore_all<R: Redists>(
        &mut self,
        propbaser: u64,
        redists: &mut R,
        mem: &dyn GuestMemory,
    ) -> Result<(), GicError> {
        if self.baser[1] & VALID != 0 {
            let (base, room) = self.table(1);
            for n in 0..room {
                let entry = get(base + n * ENTRY, mem)?;
                if entry & VALID == 0 {
                    break;
                }
                let vcpu =
                    super::processor(entry >> 16 & 0xf_ffff_ffff, redists).ok_or(GicError::BadValue)?;
                if self.collections.insert(entry as u16, Some(vcpu)).is_some() {
                    return Err(GicError::Exists);
                }
            }
        }
        if self.baser[0] & VALID == 0 {
            return Ok(());
        }
        let mut id = 0;
        while id < 1u64 << DEVICE_BITS {
            let Some(at) = self.table_entry(0, id as u32, mem) else {
                // A table ends; an indirect one may have holes of a page.
                let (_, room) = self.table(0);
                if self.baser[0] & INDIRECT == 0 || id / (PAGE / ENTRY) >= room {
                    break;
                }
                id = (id / (PAGE / ENTRY) + 1) * (PAGE / ENTRY);
                continue;
            };
            let entry = get(at, mem)?;
            if entry & VALID == 0 {
                id += 1;
                continue;
            }
            let itt = (entry >> 5 & 0xfff_ffff_ffff) << 8;
            self.restore_device(id as u32, itt, (entry & 0x1f) as u32 + 1, propbaser, redists, mem)?;
            match entry >> 49 & NEXT_DEVICE {
                0 => break,
                next => id += next,
            }
        }
        Ok(())
    }

    fn restore_device<R: Redists>(
        &mut self,
        id: u32,
        itt: u64,
        event_bits: u32,
        propbaser: u64,
        redists: &mut R,
        mem: &dyn GuestMemory,
    ) -> Result<(), GicError> {
        if event_bits > EVENT_BITS {
            return Err(GicError::BadValue);
        }
        if self.devices.contains_key(&id) {
            return Err(GicError::Exists);
        }
        let known = self.devices.entry(id).or_insert(Device { itt, event_bits, ..Device::default() });
        let mut event = 0;
        while event < 1u64 << event_bits {
            let entry = get(itt + event * ENTRY, mem)?;
            let (next, lpi, collection) = (entry >> 48, (entry >> 16) as u32, entry as u16);
            if lpi == 0 {
                event += if next == 0 { 1 } else { next };
                continue;
            }
            let vcpu = self.collections.get(&collection).copied().flatten();
            let fits = (FIRST_LPI..id_limit(propbaser)).contains(&lpi) && event + next < 1 << event_bits;
            let vcpu = vcpu.filter(|_| fits && self.events < MAX_EVENTS).ok_or(GicError::BadValue)?;
            if known.events.insert(event as u32, Event { lpi, collection: Some(collection) }).is_some() {
                return Err(GicError::Exists);
            }
            self.events += 1;
            attach(lpi, vcpu, propbaser, redists, mem);
            match next {
                0 => break,
                next => event += next,
            }
        }
        Ok(())
    }
}
