//! LPIs of one redistributor, and their tables in guest memory (Arm IHI 0069, chapter 5.1).

use std::collections::{BTreeMap, BTreeSet};

use crate::irq::FIRST_LPI;
use crate::types::GuestMemory;

/// INTID bits of LPIs with an ITS: KVM's INTERRUPT_ID_BITS_ITS.
pub const LPI_ID_BITS: u32 = 16;

/// GICR_PROPBASER and GICR_PENDBASER: the table's address.
pub const TABLE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// One LPI at its target vCPU. There is no active state: acknowledging ends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lpi {
    /// Pending bit.
    pub pending: bool,
    /// Enable bit of its configuration byte.
    pub enabled: bool,
    /// Priority of its configuration byte.
    pub priority: u8,
    /// ITS events mapped to it here. One that has none is forgotten when it is not pending.
    pub maps: u32,
}

/// The LPIs whose target is one vCPU.
#[derive(Clone, Debug, Default)]
pub struct Lpis {
    all: BTreeMap<u32, Lpi>,
    /// (priority, INTID) of those that are pending and enabled.
    ready: BTreeSet<(u8, u32)>,
}

impl Lpis {
    /// The most urgent one that can be taken, as (priority, INTID).
    pub fn best(&self) -> Option<(u8, u32)> {
        self.ready.first().copied()
    }

    /// One LPI.
    pub fn get(&self, intid: u32) -> Option<&Lpi> {
        self.all.get(&intid)
    }

    /// All of them, by INTID.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Lpi)> {
        self.all.iter().map(|(&intid, lpi)| (intid, lpi))
    }

    /// Their INTIDs.
    pub fn intids(&self) -> Vec<u32> {
        self.all.keys().copied().collect()
    }

    /// Changes one, if it is here.
    pub fn edit<R>(&mut self, intid: u32, f: impl FnOnce(&mut Lpi) -> R) -> Option<R> {
        let lpi = self.all.get_mut(&intid)?;
        self.ready.remove(&(lpi.priority, intid));
        let out = f(lpi);
        if lpi.maps == 0 && !lpi.pending {
            self.all.remove(&intid);
        } else if lpi.pending && lpi.enabled {
            self.ready.insert((lpi.priority, intid));
        }
        Some(out)
    }

    /// Adds one, or changes the one that is here.
    pub fn upsert<R>(&mut self, intid: u32, f: impl FnOnce(&mut Lpi) -> R) -> Option<R> {
        self.all.entry(intid).or_default();
        self.edit(intid, f)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Lpis::default();
    }
}

/// INTIDs that GICR_PROPBASER.IDbits lets the configuration table have.
pub fn id_limit(propbaser: u64) -> u32 {
    1 << ((propbaser & 0x1f) as u32 + 1).min(LPI_ID_BITS)
}

/// Reads an LPI's configuration byte: (priority, enabled). Without memory it is left alone.
pub fn read_config(propbaser: u64, intid: u32, mem: &dyn GuestMemory) -> Option<(u8, bool)> {
    let at = (propbaser & TABLE_ADDRESS) + u64::from(intid.checked_sub(FIRST_LPI)?);
    let mut byte = [0];
    mem.read(at, &mut byte).ok()?;
    Some((byte[0] & 0xfc, byte[0] & 1 != 0))
}

/// Reads an LPI's bit of a pending table.
pub fn read_pending(pendbaser: u64, intid: u32, mem: &dyn GuestMemory) -> Option<bool> {
    let mut byte = [0];
    mem.read(pending_at(pendbaser, intid), &mut byte).ok()?;
    Some(byte[0] >> (intid % 8) & 1 != 0)
}

/// Writes an LPI's bit of a pending table. False if there is no memory.
pub fn write_pending(pendbaser: u64, intid: u32, pending: bool, mem: &dyn GuestMemory) -> bool {
    let at = pending_at(pendbaser, intid);
    let mut byte = [0];
    if mem.read(at, &mut byte).is_err() {
        return false;
    }
    let bit = 1 << (intid % 8);
    let new = if pending { byte[0] | bit } else { byte[0] & !bit };
    new == byte[0] || mem.write(at, &[new]).is_ok()
}

fn pending_at(pendbaser: u64, intid: u32) -> u64 {
    // Address is [51:16]; the bits below are RES0 in the register.
    (pendbaser & TABLE_ADDRESS & !0xffff) + u64::from(intid / 8)
}

/// How KVM stores the shareability and cacheability of a table's base register: what its own
/// accesses have. Shareability outer becomes inner, inner cacheability at least "read-allocate,
/// write-back", outer cacheability "same as inner" unless non-cacheable (recorded, Linux 6.12).
pub fn sanitise(value: u64, share_at: u32, inner_at: u32, outer_at: u32) -> u64 {
    let field = |at: u32, mask: u64| value >> at & mask;
    let share = match field(share_at, 3) {
        2 => 1,
        other => other,
    };
    let inner = match field(inner_at, 7) {
        0 | 1 => 3,
        other => other,
    };
    let outer = match field(outer_at, 7) {
        1 => 1,
        _ => 0,
    };
    value & !(3 << share_at | 7 << inner_at | 7 << outer_at)
        | share << share_at
        | inner << inner_at
        | outer << outer_at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_follows_every_change() {
        let mut lpis = Lpis::default();
        lpis.upsert(8200, |l| *l = Lpi { enabled: true, priority: 0x80, maps: 1, pending: true });
        lpis.upsert(8201, |l| *l = Lpi { enabled: true, priority: 0x40, maps: 1, pending: true });
        assert_eq!(lpis.best(), Some((0x40, 8201)));
        lpis.edit(8201, |l| l.priority = 0xa0);
        assert_eq!(lpis.best(), Some((0x80, 8200)));
        lpis.edit(8200, |l| l.pending = false);
        lpis.edit(8201, |l| l.enabled = false);
        assert_eq!(lpis.best(), None);
        lpis.edit(8200, |l| l.maps = 0);
        assert!(lpis.get(8200).is_none());
    }

    #[test]
    fn propbaser_limits() {
        assert_eq!(id_limit(15), 65536);
        assert_eq!(id_limit(31), 65536);
        assert_eq!(id_limit(13), 16384);
    }
}
