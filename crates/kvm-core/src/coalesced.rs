//! Coalesced MMIO (kvm-arm64-abi.md §13.5): writes that wait in a ring until the VMM comes by anyway.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ulna_kvm_abi::Errno;
use ulna_kvm_abi::structs::CoalescedMmioZone;

use crate::Result;
use crate::mapping::Mapping;
use crate::vm::Vm;

const PAGE: usize = 4096;
/// struct kvm_coalesced_mmio_ring: first, last, then entries.
const FIRST: usize = 0;
const LAST: usize = 4;
const ENTRIES: usize = 8;
/// struct kvm_coalesced_mmio.
const ENTRY: usize = 24;
const ADDR: usize = 0;
const LEN: usize = 8;
const PIO: usize = 12;
const DATA: usize = 16;
/// KVM_COALESCED_MMIO_MAX; one stays empty.
const MAX: u32 = ((PAGE - ENTRIES) / ENTRY) as u32;
/// Devices on a bus.
const MAX_ZONES: usize = 1000;

/// The zones of a VM and their ring.
#[derive(Default)]
pub(crate) struct Coalesced {
    zones: Mutex<Vec<CoalescedMmioZone>>,
    count: AtomicUsize,
    ring: OnceLock<Arc<Mapping>>,
}

/// Does `addr..addr+len` lie in the zone?
fn inside(z: &CoalescedMmioZone, addr: u64, len: u64) -> bool {
    let end = z.addr.checked_add(z.size.into());
    addr >= z.addr && addr.checked_add(len).is_some_and(|e| end.is_none_or(|end| e <= end))
}

impl Coalesced {
    fn zones(&self) -> MutexGuard<'_, Vec<CoalescedMmioZone>> {
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) -> Result<&Arc<Mapping>> {
        if let Some(r) = self.ring.get() {
            return Ok(r);
        }
        let new = Arc::new(Mapping::new("kvm-coalesced-mmio", PAGE)?);
        Ok(self.ring.get_or_init(|| new))
    }

    /// A guest's write: whether the ring took it.
    pub fn write(&self, addr: u64, len: usize, value: u64) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        // One writer at a time.
        let zones = self.zones();
        let hit = zones.iter().any(|z| z.pio == 0 && inside(z, addr, len as u64));
        hit && self.ring.get().is_some_and(|r| put(r, addr, len as u32, value).is_some())
    }
}

fn put(ring: &Mapping, addr: u64, len: u32, value: u64) -> Option<()> {
    let (first, last) = (ring.word(FIRST)?, ring.word(LAST)?);
    // The VMM can write both: an index outside the ring is a full ring.
    let at = last.load(Ordering::Relaxed);
    if at >= MAX || (at + 1) % MAX == first.load(Ordering::Acquire) {
        return None;
    }
    let entry = ENTRIES + at as usize * ENTRY;
    ring.doubleword(entry + ADDR)?.store(addr, Ordering::Relaxed);
    ring.word(entry + LEN)?.store(len, Ordering::Relaxed);
    ring.word(entry + PIO)?.store(0, Ordering::Relaxed);
    ring.doubleword(entry + DATA)?.store(value.to_le(), Ordering::Relaxed);
    last.store((at + 1) % MAX, Ordering::Release);
    Some(())
}

impl Vm {
    /// KVM_REGISTER_COALESCED_MMIO: writes inside the zone go to the ring while it has room. A zone of `pio` 1 never
    /// matches: a guest on arm64 has no ports.
    pub fn register_coalesced_mmio(&self, zone: &CoalescedMmioZone) -> Result<()> {
        self.0.check_alive()?;
        let c = &self.0.coalesced;
        if zone.pio > 1 {
            return Err(Errno::EINVAL.because("pio is {}: 0 or 1").value(zone.pio.into()));
        }
        c.ring()?;
        let mut zones = c.zones();
        if zones.iter().filter(|z| z.pio == zone.pio).count() >= MAX_ZONES {
            return Err(Errno::ENOSPC
                .because("there are {} zones, which is the most")
                .value(MAX_ZONES as u64));
        }
        zones.push(*zone);
        c.count.store(zones.len(), Ordering::SeqCst);
        Ok(())
    }

    /// KVM_UNREGISTER_COALESCED_MMIO: removes the zones in which the given range lies.
    pub fn unregister_coalesced_mmio(&self, zone: &CoalescedMmioZone) -> Result<()> {
        self.0.check_alive()?;
        if zone.pio > 1 {
            return Err(Errno::EINVAL.because("pio is {}: 0 or 1").value(zone.pio.into()));
        }
        let c = &self.0.coalesced;
        let mut zones = c.zones();
        zones.retain(|z| z.pio != zone.pio || !inside(z, zone.addr, zone.size.into()));
        c.count.store(zones.len(), Ordering::SeqCst);
        Ok(())
    }

    /// The page of the ring (`kvm_coalesced_mmio_ring`), which every vCPU shows at page 1 of its mapping.
    pub fn coalesced_mmio_ring(&self) -> Result<Arc<Mapping>> {
        self.0.coalesced.ring().cloned()
    }
}
