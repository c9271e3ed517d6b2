//! Memory slots (KVM_SET_USER_MEMORY_REGION, kvm-arm64-abi.md §13.1).

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ulna_arm_cpu::mem::Slot;
use ulna_arm_cpu::mem::dirty::DirtyLog;
use ulna_arm_cpu::mem::physmap::{PAGE_SHIFT, PAGE_SIZE};
use ulna_arm_cpu::shared::Request;
use ulna_kvm_abi::structs::UserspaceMemoryRegion;
use ulna_kvm_abi::{Errno, MEM_LOG_DIRTY_PAGES, MEM_READONLY, NR_MEMSLOTS};

use crate::Result;
use crate::tracking::Tracking;
use crate::vm::{Vm, VmInner};

pub(crate) use crate::tables::{GuestTables, Tables};

/// A slot has fewer pages than this.
const MAX_PAGES: u64 = (1 << 31) - 1;
/// User addresses of arm64 end here (48 bits).
const USER_END: u64 = 1 << 48;

/// Keeps the memory of a slot mapped.
pub type MemoryOwner = Arc<dyn Any + Send + Sync>;

/// A slot with what the VMM said about it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub slot: Arc<Slot>,
    flags: u32,
    /// What the VMM calls the memory: an address in its address space, which need not be this one.
    userspace_addr: u64,
    owner: MemoryOwner,
}

/// The slots of a VM.
#[derive(Default)]
pub(crate) struct Slots {
    by_id: Mutex<BTreeMap<u32, Entry>>,
    pub tracking: Tracking,
}

/// Is there memory for what is kept of so many pages? Asked only where it is much.
fn room(pages: u64) -> Result<()> {
    const MUCH: u64 = 1 << 20;
    const EACH: u64 = 8;
    let enough = pages < MUCH || Vec::<u8>::new().try_reserve_exact((pages * EACH) as usize).is_ok();
    if enough { Ok(()) } else { Err(Errno::ENOMEM) }
}

/// What a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    Create,
    Delete,
    /// Another address or other flags.
    Replace,
}

/// A slot that is to be deleted or changed.
const NO_SLOT: Errno = Errno::EINVAL.because("there is no memory slot {}");

/// What a KVM_SET_USER_MEMORY_REGION would do, in the kernel's order of checks.
fn plan(
    slots: &BTreeMap<u32, Entry>,
    all: &[Arc<Slot>],
    ipa_bits: u8,
    r: &UserspaceMemoryRegion,
) -> Result<Change> {
    let unaligned = |v: u64| v & (PAGE_SIZE - 1) != 0;
    if r.flags & !(MEM_LOG_DIRTY_PAGES | MEM_READONLY) != 0 {
        return Err(Errno::EINVAL
            .because("flags {x}: there are LOG_DIRTY_PAGES (1) and READONLY (2)")
            .value(r.flags.into()));
    }
    let user_end = r.userspace_addr.checked_add(r.memory_size);
    if unaligned(r.memory_size | r.guest_phys_addr | r.userspace_addr) {
        return Err(
            Errno::EINVAL.because("addresses and size of a slot are multiples of the page size, 4096")
        );
    }
    if user_end.is_none_or(|e| e > USER_END) {
        let e = Errno::EINVAL.because("{x} bytes from {x} on are not in the caller's part of the addresses");
        return Err(e.values([r.memory_size, r.userspace_addr]));
    }
    // The upper half of `slot` is the address space: arm64 has one.
    if r.slot >= NR_MEMSLOTS {
        let e = Errno::EINVAL.because("slot {}: slots end at {}, and there is one address space");
        return Err(e.values([r.slot.into(), u64::from(NR_MEMSLOTS) - 1]));
    }
    if r.guest_phys_addr.checked_add(r.memory_size).is_none() || r.memory_size >> PAGE_SHIFT > MAX_PAGES {
        let e =
            Errno::EINVAL.because("{x} bytes at {x}: more than a slot holds, or beyond the end of addresses");
        return Err(e.values([r.memory_size, r.guest_phys_addr]));
    }
    let (base, end) = (r.guest_phys_addr, r.guest_phys_addr + r.memory_size);
    let change = match slots.get(&r.slot) {
        None if r.memory_size == 0 => return Err(NO_SLOT.value(r.slot.into())),
        None => Change::Create,
        Some(_) if r.memory_size == 0 => return Ok(Change::Delete),
        Some(old) => {
            if (r.userspace_addr, r.memory_size) != (old.userspace_addr, old.slot.len)
                || (r.flags ^ old.flags) & MEM_READONLY != 0
            {
                let e =
                    Errno::EINVAL.because("slot {} exists: its memory, size and READONLY stay as they are");
                return Err(e.value(r.slot.into()));
            }
            match (base == old.slot.ipa, r.flags == old.flags) {
                (true, true) => return Ok(Change::Nothing),
                _ => Change::Replace,
            }
        }
    };
    let first = all.partition_point(|s| s.ipa + s.len <= base);
    if all[first..].iter().take_while(|s| s.ipa < end).any(|s| s.id != r.slot) {
        let e = Errno::EEXIST.because("guest addresses {x} to {x} overlap another slot's");
        return Err(e.values([base, end - 1]));
    }
    let beyond = Errno::EFAULT.because("the slot ends at {x}, beyond the VM's {} bits of addresses");
    if end > 1 << ipa_bits { Err(beyond.values([end, ipa_bits.into()])) } else { Ok(change) }
}

impl Slots {
    /// The slots as text.
    pub fn dump(&self) -> String {
        let one = |(id, e): (&u32, &Entry)| {
            let (s, log) = (&e.slot, e.slot.dirty.is_some());
            format!("{id}: {:x}+{:x} at {:x} {} {log}", s.ipa, s.len, s.host_base() as usize, s.readonly)
        };
        self.table().iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// The slots by id.
    pub fn table(&self) -> MutexGuard<'_, BTreeMap<u32, Entry>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of slot `id`, if there is one.
    pub fn size(&self, id: u32) -> Option<u64> {
        self.table().get(&id).map(|e| e.slot.len)
    }

    /// KVM_SET_USER_MEMORY_REGION. `backing` is asked for the memory of a new slot, when everything else is right. No vCPU
    /// uses the old slot any more when this returns.
    ///
    /// # Safety
    /// As for [`Vm::set_memory`].
    unsafe fn set(
        &self,
        vm: &VmInner,
        r: &UserspaceMemoryRegion,
        backing: impl FnOnce() -> Result<(*mut u8, MemoryOwner)>,
    ) -> Result<()> {
        let mut slots = self.table();
        let change = plan(&slots, &vm.memory.slots(), vm.ipa_bits, r)?;
        let old = slots.get(&r.slot).cloned();
        let new = match (change, &old) {
            (Change::Nothing, _) => return Ok(()),
            (Change::Delete, _) => None,
            (_, Some(old)) => Some((old.slot.host_base(), old.owner.clone())),
            (_, None) => Some(backing()?),
        };
        let new = match new {
            Some((host, owner)) => {
                if host as u64 & (PAGE_SIZE - 1) != 0 {
                    return Err(Errno::EINVAL.because("the memory does not begin at a page"));
                }
                let kept = old.as_ref().and_then(|e| e.slot.dirty.clone());
                let dirty = (r.flags & MEM_LOG_DIRTY_PAGES != 0).then(|| {
                    kept.unwrap_or_else(|| Arc::new(self.tracking.new_log(r.memory_size >> PAGE_SHIFT)))
                });
                room(r.memory_size >> PAGE_SHIFT)?;
                let readonly = r.flags & MEM_READONLY != 0;
                let (ipa, len) = (r.guest_phys_addr, r.memory_size);
                // SAFETY: the caller's; what takes another's place has the same memory and owner.
                let slot =
                    Arc::new(unsafe { Slot::new(r.slot, ipa, len, host, readonly, dirty, owner.clone()) });
                Some(Entry { slot, flags: r.flags, userspace_addr: r.userspace_addr, owner })
            }
            None => None,
        };
        vm.memory.update(|all| {
            if let Some(old) = &old {
                all.retain(|s| !Arc::ptr_eq(s, &old.slot));
            }
            if let Some(new) = &new {
                all.insert(all.partition_point(|s| s.ipa < new.slot.ipa), new.slot.clone());
            }
        });
        match new {
            Some(new) => slots.insert(r.slot, new),
            None => slots.remove(&r.slot),
        };
        if old.is_some() {
            // Nothing is derived from a slot that was not there.
            vm.shared.quiesce(Request::FlushAll);
        }
        Ok(())
    }
}

impl Tracking {
    /// The log of a slot whose writes are to be logged from now on.
    fn new_log(&self, pages: u64) -> DirtyLog {
        let set = self.initially_set();
        if self.ring_bytes.load(Ordering::SeqCst) != 0 {
            DirtyLog::ring(pages, self.ring_bitmap.load(Ordering::SeqCst), set)
        } else {
            DirtyLog::bitmap(pages, set)
        }
    }
}

/// A request on a slot that is there already.
fn no_memory() -> Result<(*mut u8, MemoryOwner)> {
    Err(NO_SLOT)
}

impl Vm {
    /// KVM_SET_USER_MEMORY_REGION. `backing` is asked for the memory of a new slot, when everything else is right:
    /// `userspace_addr` may be an address of another process, and is only compared.
    ///
    /// # Safety
    /// The memory that `backing` gives must stay mapped (and writable, unless the slot is read-only) while its owner lives,
    /// and nobody may hold Rust references into it.
    pub unsafe fn set_memory(
        &self,
        region: &UserspaceMemoryRegion,
        backing: impl FnOnce() -> Result<(*mut u8, MemoryOwner)>,
    ) -> Result<()> {
        self.0.check_alive()?;
        // SAFETY: the caller's.
        unsafe { self.0.slots.set(&self.0, region, backing) }
    }

    /// KVM_SET_USER_MEMORY_REGION with memory of this process: `owner` keeps it mapped.
    ///
    /// # Safety
    /// `host..host+len` must stay mapped (and writable, unless the slot is read-only) while `owner` lives, and nobody may
    /// hold Rust references into it.
    pub unsafe fn set_user_memory_region(
        &self,
        slot: u32,
        gpa: u64,
        len: u64,
        host: *mut u8,
        flags: u32,
        owner: MemoryOwner,
    ) -> Result<()> {
        let r = UserspaceMemoryRegion {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: len,
            userspace_addr: host as u64,
        };
        // SAFETY: the caller's.
        unsafe { self.set_memory(&r, || Ok((host, owner))) }
    }

    /// KVM_SET_USER_MEMORY_REGION of a slot that exists: moves it, or changes whether it logs.
    pub fn change_memory_region(&self, slot: u32, gpa: u64, flags: u32) -> Result<()> {
        self.again(slot, |r| {
            r.guest_phys_addr = gpa;
            r.flags = flags;
        })
    }

    /// KVM_SET_USER_MEMORY_REGION with size 0: deletes the slot.
    pub fn delete_memory_region(&self, slot: u32) -> Result<()> {
        self.again(slot, |r| r.memory_size = 0)
    }

    fn again(&self, slot: u32, change: impl FnOnce(&mut UserspaceMemoryRegion)) -> Result<()> {
        self.0.check_alive()?;
        let old = self.0.slots.table().get(&slot).cloned().ok_or(NO_SLOT.value(slot.into()))?;
        let mut r = UserspaceMemoryRegion {
            slot,
            flags: old.flags,
            guest_phys_addr: old.slot.ipa,
            memory_size: old.slot.len,
            userspace_addr: old.userspace_addr,
        };
        change(&mut r);
        // SAFETY: no memory comes in.
        unsafe { self.set_memory(&r, no_memory) }
    }
}
