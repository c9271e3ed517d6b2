//! Memory slots (KVM_SET_USER_MEMORY_REGION), and guest memory as the GIC's tables see it.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ulna_arm_cpu::mem::physmap::{PAGE_SIZE, find_slot};
use ulna_arm_cpu::mem::{PhysMap, Slot};
use ulna_arm_cpu::shared::{Request, VmShared};
use ulna_kvm_abi::{Errno, MEM_LOG_DIRTY_PAGES, MEM_READONLY, NR_MEMSLOTS};
use ulna_vgic::{GuestMemory, MemoryError};

use crate::Result;

/// The slots of a VM.
#[derive(Default)]
pub(crate) struct Slots {
    by_id: Mutex<BTreeMap<u32, Arc<Slot>>>,
}

impl Slots {
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
            // Moving and changing flags comes with the interface's own issue; the size may never change.
            return Err(Errno::EINVAL);
        }
        if slots.values().any(|s| s.ipa < end && gpa < s.ipa + s.len) {
            return Err(Errno::EEXIST);
        }
        let dirty = (flags & MEM_LOG_DIRTY_PAGES != 0)
            .then(|| (0..(len / PAGE_SIZE).div_ceil(64)).map(|_| Default::default()).collect());
        // SAFETY: the caller's.
        let slot = unsafe { Slot::new(id, gpa, len, host, flags & MEM_READONLY != 0, dirty, owner) };
        slots.insert(id, Arc::new(slot));
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

fn publish(slots: &BTreeMap<u32, Arc<Slot>>, map: &PhysMap, shared: &VmShared) {
    map.set_slots(slots.values().cloned().collect());
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
