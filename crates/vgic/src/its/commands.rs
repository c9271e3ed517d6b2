//! The command queue (Arm IHI 0069, chapter 5.3). A command that is wrong is skipped, as in KVM.

use super::{Device, ENTRY, EVENT_BITS, Event, Its, attach, detach, processor, relocate};
use crate::irq::FIRST_LPI;
use crate::lpi::{TABLE_ADDRESS, id_limit};
use crate::redist::Redists;
use crate::types::GuestMemory;

/// Bytes of a command.
const COMMAND: u64 = 32;

/// Events that are remembered: as many as there can be LPIs, each of which has one event in any
/// sensible guest.
pub(super) const MAX_EVENTS: usize = 1 << crate::lpi::LPI_ID_BITS;

/// Mappings looked at for one store of the guest, which must not keep its vCPU busy for long. No
/// sensible guest comes near; the rest of the queue waits for the next store.
const WORK_PER_STORE: usize = 1 << 20;

/// A command, decoded. Names are the manual's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Movi { device: u32, event: u32, collection: u16 },
    Int { device: u32, event: u32 },
    Clear { device: u32, event: u32 },
    Discard { device: u32, event: u32 },
    Inv { device: u32, event: u32 },
    Mapti { device: u32, event: u32, lpi: u32, collection: u16 },
    Mapd { device: u32, size: u32, itt: u64, valid: bool },
    Mapc { collection: u16, rdbase: u64, valid: bool },
    Invall { collection: u16 },
    Movall { from: u64, to: u64 },
    Sync,
}

impl Command {
    fn decode(words: [u64; 4]) -> Option<Command> {
        let [w0, w1, w2, w3] = words;
        let (device, event) = ((w0 >> 32) as u32, w1 as u32);
        let (collection, valid) = (w2 as u16, w2 >> 63 != 0);
        let rdbase = |w: u64| w >> 16 & 0x7_ffff_ffff;
        Some(match w0 & 0xff {
            0x01 => Command::Movi { device, event, collection },
            0x03 => Command::Int { device, event },
            0x04 => Command::Clear { device, event },
            0x05 => Command::Sync,
            0x08 => {
                let itt = w2 & 0x000f_ffff_ffff_ff00;
                Command::Mapd { device, size: (w1 & 0x1f) as u32, itt, valid }
            }
            0x09 => Command::Mapc { collection, rdbase: rdbase(w2), valid },
            0x0a => Command::Mapti { device, event, lpi: (w1 >> 32) as u32, collection },
            // MAPI: the event is the LPI.
            0x0b => Command::Mapti { device, event, lpi: event, collection },
            0x0c => Command::Inv { device, event },
            0x0d => Command::Invall { collection },
            0x0e => Command::Movall { from: rdbase(w2), to: rdbase(w3) },
            0x0f => Command::Discard { device, event },
            _ => return None,
        })
    }
}

impl Its {
    /// Carries out what is in the queue.
    pub(super) fn run_commands<R: Redists>(
        &mut self,
        propbaser: u64,
        redists: &mut R,
        mem: &dyn GuestMemory,
    ) {
        if !self.enabled {
            return;
        }
        let size = self.queue_size();
        let mut budget = WORK_PER_STORE;
        // CBASER is frozen while enabled, so CREADR meets CWRITER within one round; the bound is for
        // a CREADR that userspace restored.
        for _ in 0..size / COMMAND {
            if self.creadr == self.cwriter || budget == 0 {
                break;
            }
            budget = budget.saturating_sub(1);
            let mut bytes = [0; COMMAND as usize];
            if mem.read((self.cbaser & TABLE_ADDRESS) + self.creadr, &mut bytes).is_ok() {
                let word = |i: usize| bytes[i * 8..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
                if let Some(command) = Command::decode([word(0), word(1), word(2), word(3)]) {
                    budget = budget.saturating_sub(self.cost(command));
                    let _skipped = self.execute(command, propbaser, redists, mem);
                }
            }
            self.creadr = if self.creadr + COMMAND >= size { 0 } else { self.creadr + COMMAND };
        }
    }

    /// Mappings that a command looks at, beyond one.
    fn cost(&self, command: Command) -> usize {
        match command {
            Command::Mapc { .. } | Command::Invall { .. } | Command::Movall { .. } => self.events,
            Command::Mapd { device, .. } => self.devices.get(&device).map_or(0, |d| d.events.len()),
            _ => 0,
        }
    }

    /// `None` if the command is wrong and was skipped.
    fn execute<R: Redists>(
        &mut self,
        command: Command,
        propbaser: u64,
        redists: &mut R,
        mem: &dyn GuestMemory,
    ) -> Option<()> {
        match command {
            Command::Mapd { device, size, itt, valid } => {
                let event_bits = size + 1;
                if !self.table_has(0, device, mem) || (valid && event_bits > EVENT_BITS) {
                    return None;
                }
                self.drop_device(device, redists);
                if !valid {
                    // Or a restore would find what an earlier save wrote.
                    clear_entry(self.table_entry(0, device, mem)?, mem);
                } else {
                    self.devices.insert(device, Device { itt, event_bits, ..Device::default() });
                }
            }
            Command::Mapc { collection, valid: false, .. } => self.drop_collection(collection, redists),
            Command::Mapc { collection, rdbase, valid: true } => {
                let vcpu = processor(rdbase, redists)?;
                self.know_collection(collection, mem)?;
                let before = self.collections.insert(collection, Some(vcpu)).flatten();
                for event in self.devices.values().flat_map(|d| d.events.values()) {
                    if event.collection == Some(collection) {
                        relocate(event.lpi, before, Some(vcpu), propbaser, redists, mem);
                    }
                }
            }
            Command::Mapti { device, event, lpi, collection } => {
                let known = self.devices.get(&device)?;
                if event >= 1 << known.event_bits || !(FIRST_LPI..id_limit(propbaser)).contains(&lpi) {
                    return None;
                }
                // One guest must not fill the host's memory with events that share LPIs.
                if known.events.contains_key(&event) || self.events >= MAX_EVENTS {
                    return None;
                }
                self.know_collection(collection, mem)?;
                let entry = Event { lpi, collection: Some(collection) };
                self.devices.get_mut(&device)?.events.insert(event, entry);
                self.events += 1;
                if let Some(vcpu) = self.target(&entry)
                    && !attach(lpi, vcpu, propbaser, redists, mem)
                {
                    self.devices.get_mut(&device)?.events.remove(&event);
                    self.events -= 1;
                }
            }
            Command::Movi { device, event, collection } => {
                let entry = self.event(device, event)?;
                let from = self.target(&entry)?;
                let to = self.collections.get(&collection).copied().flatten()?;
                self.devices.get_mut(&device)?.events.get_mut(&event)?.collection = Some(collection);
                relocate(entry.lpi, Some(from), Some(to), propbaser, redists, mem);
            }
            Command::Movall { from, to } => {
                let (from, to) = (processor(from, redists)?, processor(to, redists)?);
                if from != to {
                    move_pending(from, to, propbaser, redists, mem);
                }
            }
            Command::Discard { device, event } => {
                let entry = self.event(device, event)?;
                // An event whose collection is gone cannot be discarded (KVM).
                let vcpu = self.target(&entry)?;
                let known = self.devices.get_mut(&device)?;
                known.events.remove(&event);
                self.events -= 1;
                clear_entry(known.itt + u64::from(event) * ENTRY, mem);
                detach(entry.lpi, vcpu, redists);
            }
            Command::Int { device, event } => {
                self.trigger(device, event, propbaser, redists, mem).ok()?;
            }
            Command::Clear { device, event } => {
                let entry = self.event(device, event)?;
                let vcpu = self.target(&entry)?;
                redists.with(vcpu.into(), |r| r.edit_lpi(entry.lpi, |lpi| lpi.pending = false));
            }
            Command::Inv { device, event } => {
                let entry = self.event(device, event)?;
                let vcpu = self.target(&entry)?;
                redists.with(vcpu.into(), |r| r.reload_lpi(entry.lpi, propbaser, mem));
            }
            Command::Invall { collection } => {
                let vcpu = self.collections.get(&collection).copied().flatten()?;
                redists.with(vcpu.into(), |r| r.reload_lpis(propbaser, mem));
            }
            // Everything before it is done already.
            Command::Sync => {}
        }
        Some(())
    }

    fn event(&self, device: u32, event: u32) -> Option<Event> {
        self.devices.get(&device)?.events.get(&event).copied()
    }

    /// The collection exists from now on, if the guest's table has room for it.
    fn know_collection(&mut self, id: u16, mem: &dyn GuestMemory) -> Option<()> {
        if !self.collections.contains_key(&id) {
            if !self.table_has(1, id.into(), mem) {
                return None;
            }
            self.collections.insert(id, None);
        }
        Some(())
    }
}

/// Makes an entry of the guest's tables invalid. Without memory there it is none.
fn clear_entry(at: u64, mem: &dyn GuestMemory) {
    let _ = mem.write(at, &[0; ENTRY as usize]);
}

/// MOVALL: what is pending at one vCPU is pending at the other instead. Mappings stay.
fn move_pending<R: Redists>(from: u16, to: u16, propbaser: u64, redists: &mut R, mem: &dyn GuestMemory) {
    let taken = redists.with(from.into(), |r| {
        let ids: Vec<u32> = r.lpis.iter().filter(|(_, lpi)| lpi.pending).map(|(id, _)| id).collect();
        for &id in &ids {
            r.edit_lpi(id, |lpi| lpi.pending = false);
        }
        ids
    });
    for lpi in taken.unwrap_or_default() {
        redists.with(to.into(), |r| {
            r.upsert_lpi(lpi, |l| l.pending = true);
            r.reload_lpi(lpi, propbaser, mem);
        });
    }
}
