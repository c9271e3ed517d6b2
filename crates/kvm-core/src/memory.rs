//! Memory slots (KVM_SET_USER_MEMORY_REGION), and guest memory as the GIC's tables see it.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use ulna_arm_cpu::mem::physmap::{PAGE_SIZE, find_slot};
use ulna_arm_cpu::mem::{PhysMap, Slot};
use ulna_arm_cpu::shared::{Request, VmShared};
use ulna_kvm_abi::{Errno, MEM_LOG_DIRTY_PAGES, MEM_READONLY, NR_MEMSLOTS};
use ulna_vgic::{GuestMemory, MemoryError};

use crate::Result;

/// A slot with what keeps its memory mapped, for the slot that may take its place.
#[derive(Clone)]
struct Entry {
    slot: Arc<Slot>,
    owner: Arc<dyn Any + Send + Sync>,
}

/// The slots of a VM.
#[derive(Default)]
pub(crate) struct Slots {
    by_id: Mutex<BTreeMap<u32, Entry>>,
}

impl Slots {
    /// The slots as text.
    pub fn dump(&self) -> String {
        let slots = self.by_id.lock().unwrap_or_else(|e| e.into_inner());
        let one = |(id, e): (&u32, &Entry)| {
            let (s, log) = (&e.slot, e.slot.dirty.is_some());
            format!("{id}: {:x}+{:x} at {:x} {} {log}", s.ipa, s.len, s.host_base() as usize, s.readonly)
        };
        slots.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// Bytes of slot `id`, if there is one.
    pub fn size(&self, id: u32) -> Option<u64> {
        self.by_id.lock().unwrap_or_else(|e| e.into_inner()).get(&id).map(|e| e.slot.len)
    }

    /// Adds slot `id`.
    ///
    /// # Safety
    /// As for [`Slot::new`].
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn add(
        &self,
        id: u32,
        gpa: u64,
        len: u64,
        host: *mut u8,
        flags: u32,
        owner: Arc<dyn Any + Send + Sync>,
        ipa_bits: u8,
        map: &PhysMap,
        shared: &VmShared,
    ) -> Result<()> {
        let aligned = (gpa | len | host as u64) & (PAGE_SIZE - 1) == 0;
        if flags & !(MEM_LOG_DIRTY_PAGES | MEM_READONLY) != 0 || !aligned || id >= NR_MEMSLOTS || len == 0 {
            return Err(Errno::EINVAL);
        }
        let end = gpa.checked_add(len).ok_or(Errno::EINVAL)?;
        if end > 1 << ipa_bits {
            return Err(Errno::EFAULT);
        }
        let mut slots = self.by_id.lock().unwrap_or_else(|e| e.into_inner());
        if slots.contains_key(&id) {
            // Size and host address of a slot never change; moving and its flags are `change`.
            return Err(Errno::EINVAL);
        }
        if slots.values().any(|s| s.slot.ipa < end && gpa < s.slot.ipa + s.slot.len) {
            return Err(Errno::EEXIST);
        }
        let (readonly, dirty) = (flags & MEM_READONLY != 0, log_for(len, flags));
        // SAFETY: the caller's.
        let slot = unsafe { Slot::new(id, gpa, len, host, readonly, dirty, owner.clone()) };
        slots.insert(id, Entry { slot: Arc::new(slot), owner });
        publish(&slots, map, shared);
        Ok(())
    }

    /// Moves slot `id` to `gpa`, or changes whether writes to it are logged; no vCPU uses the old one when this returns.
    pub fn change(
        &self,
        id: u32,
        gpa: u64,
        flags: u32,
        ipa_bits: u8,
        map: &PhysMap,
        shared: &VmShared,
    ) -> Result<()> {
        if flags & !(MEM_LOG_DIRTY_PAGES | MEM_READONLY) != 0 || gpa & (PAGE_SIZE - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        let mut slots = self.by_id.lock().unwrap_or_else(|e| e.into_inner());
        let old = slots.get(&id).cloned().ok_or(Errno::EINVAL)?;
        if old.slot.readonly != (flags & MEM_READONLY != 0) {
            return Err(Errno::EINVAL);
        }
        let end = gpa.checked_add(old.slot.len).ok_or(Errno::EINVAL)?;
        if end > 1 << ipa_bits {
            return Err(Errno::EFAULT);
        }
        if slots.iter().any(|(n, s)| *n != id && s.slot.ipa < end && gpa < s.slot.ipa + s.slot.len) {
            return Err(Errno::EEXIST);
        }
        // A moved slot starts with a clean log.
        let keep = gpa == old.slot.ipa && flags & MEM_LOG_DIRTY_PAGES != 0;
        let dirty = if keep { old.slot.dirty.clone() } else { None };
        let dirty = dirty.or_else(|| log_for(old.slot.len, flags));
        let (len, host, readonly) = (old.slot.len, old.slot.host_base(), old.slot.readonly);
        // SAFETY: the memory that the old slot's owner keeps mapped; the new one keeps the same owner.
        let slot = unsafe { Slot::new(id, gpa, len, host, readonly, dirty, old.owner.clone()) };
        slots.insert(id, Entry { slot: Arc::new(slot), owner: old.owner });
        publish(&slots, map, shared);
        Ok(())
    }

    /// Deletes slot `id`; no vCPU uses it any more when this returns.
    pub fn remove(&self, id: u32, map: &PhysMap, shared: &VmShared) -> Result<()> {
        let mut slots = self.by_id.lock().unwrap_or_else(|e| e.into_inner());
        slots.remove(&id).ok_or(Errno::EINVAL)?;
        publish(&slots, map, shared);
        Ok(())
    }
}

/// The log of a slot with KVM_MEM_LOG_DIRTY_PAGES: one bit a page.
fn log_for(len: u64, flags: u32) -> Option<Arc<[AtomicU64]>> {
    let words = (len / PAGE_SIZE).div_ceil(64);
    (flags & MEM_LOG_DIRTY_PAGES != 0).then(|| (0..words).map(|_| AtomicU64::default()).collect())
}

fn publish(slots: &BTreeMap<u32, Entry>, map: &PhysMap, shared: &VmShared) {
    map.set_slots(slots.values().map(|e| e.slot.clone()).collect());
    shared.quiesce(Request::FlushAll);
}

/// Guest memory for ITS and LPI tables.
pub(crate) struct Tables<'a>(pub &'a PhysMap);

impl Tables<'_> {
    /// Goes through `ipa..ipa+len` by slots: slot, address, and the range of the buffer. A guest can make the ITS look at
    /// its tables a million times for one store, so the slots are looked up once an access and not once a byte.
    fn each(
        &self,
        ipa: u64,
        len: usize,
        mut f: impl FnMut(&Slot, u64, std::ops::Range<usize>),
    ) -> std::result::Result<(), MemoryError> {
        let slots = self.0.slots();
        let mut done = 0;
        while done < len {
            let at = ipa.checked_add(done as u64).ok_or(MemoryError)?;
            let slot = find_slot(&slots, at).ok_or(MemoryError)?;
            let room = usize::try_from(slot.len - (at - slot.ipa)).unwrap_or(usize::MAX);
            let end = done + room.min(len - done);
            f(slot, at, done..end);
            done = end;
        }
        Ok(())
    }
}

impl GuestMemory for Tables<'_> {
    fn read(&self, ipa: u64, buf: &mut [u8]) -> std::result::Result<(), MemoryError> {
        let len = buf.len();
        self.each(ipa, len, |s, at, range| {
            for (i, b) in buf[range].iter_mut().enumerate() {
                // SAFETY: the address lies in the slot, which keeps its memory mapped; guest memory is accessed volatile.
                *b = unsafe { s.host(at + i as u64).read_volatile() };
            }
        })
    }

    fn write(&self, ipa: u64, buf: &[u8]) -> std::result::Result<(), MemoryError> {
        self.each(ipa, buf.len(), |s, at, range| {
            if s.readonly {
                return;
            }
            for (i, b) in buf[range].iter().enumerate() {
                s.mark_dirty(at + i as u64);
                // SAFETY: as in `read`, and the slot is writable.
                unsafe { s.host(at + i as u64).write_volatile(*b) };
            }
        })
    }
}
