//! Guest memory as the GIC's tables and KVM's own writes see it.

use ulna_arm_cpu::mem::dirty::DirtySink;
use ulna_arm_cpu::mem::physmap::find_slot;
use ulna_arm_cpu::mem::{PhysMap, Slot};
use ulna_vgic::{GuestMemory, MemoryError};

/// Guest memory for requests of the VMM: what they write goes to dirty bitmaps.
pub(crate) struct Tables<'a>(pub &'a PhysMap);

/// Guest memory for what a vCPU does: what it writes goes to the vCPU's dirty ring, if there is one.
pub(crate) struct GuestTables<'a>(pub &'a PhysMap, pub Option<&'a dyn DirtySink>);

impl Tables<'_> {
    /// Goes through `ipa..ipa+len` by slots: slot, address, and the range of the buffer. A guest can make the ITS look at
    /// its tables a million times for one store, so the slots are looked up once an access and not once a byte.
    fn each(
        &self,
        ipa: u64,
        len: usize,
        mut f: impl FnMut(&Slot, u64, std::ops::Range<usize>),
    ) -> Result<(), MemoryError> {
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

    fn write_and(&self, ipa: u64, buf: &[u8], written: impl Fn(&Slot, u64)) -> Result<(), MemoryError> {
        self.each(ipa, buf.len(), |s, at, range| {
            if s.readonly {
                return;
            }
            for (i, b) in buf[range].iter().enumerate() {
                let at = at + i as u64;
                // SAFETY: as in `read`, and the slot is writable.
                unsafe { s.host(at).write_volatile(*b) };
                if i + 1 == buf.len() || at & 0xfff == 0xfff {
                    written(s, at);
                }
            }
        })
    }
}

impl GuestMemory for Tables<'_> {
    fn read(&self, ipa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let len = buf.len();
        self.each(ipa, len, |s, at, range| {
            for (i, b) in buf[range].iter_mut().enumerate() {
                // SAFETY: the address lies in the slot, which keeps its memory mapped; guest memory is accessed volatile.
                *b = unsafe { s.host(at + i as u64).read_volatile() };
            }
        })
    }

    fn write(&self, ipa: u64, buf: &[u8]) -> Result<(), MemoryError> {
        self.write_and(ipa, buf, |s, at| s.mark_written(at))
    }
}

impl GuestMemory for GuestTables<'_> {
    fn read(&self, ipa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        Tables(self.0).read(ipa, buf)
    }

    fn write(&self, ipa: u64, buf: &[u8]) -> Result<(), MemoryError> {
        Tables(self.0).write_and(ipa, buf, |s, at| match self.1 {
            None => s.mark_written(at),
            Some(ring) => {
                // The vCPU is not between mark and write while it is here: it looks at its ring before it runs on.
                if let Some(page) = s.mark_dirty(at) {
                    ring.push(s.id, page);
                }
                s.mark_written(at);
            }
        })
    }
}
