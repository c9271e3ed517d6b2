//! What the guest wrote: dirty log in both modes, and resetting of the dirty rings (kvm-arm64-abi.md §13.3, §13.4).

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use ulna_arm_cpu::mem::Slot;
use ulna_arm_cpu::mem::physmap::PAGE_SHIFT;
use ulna_arm_cpu::shared::Request;
use ulna_kvm_abi::structs::ClearDirtyLog;
use ulna_kvm_abi::{Errno, NR_MEMSLOTS};

use crate::Result;
use crate::dirty_ring::{MAX_RING_BYTES, MIN_RING_BYTES};
use crate::vm::{Vm, VmInner};

/// KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE.
const MANUAL: u64 = 1;
/// KVM_DIRTY_LOG_INITIALLY_SET.
const INITIALLY_SET: u64 = 2;
/// KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES: 4 KiB, 2 MiB, 1 GiB.
pub(crate) const BLOCK_SIZES: u64 = 0x4020_1000;

const NO_LOG: Errno = Errno::ENOENT.because("there is no such memory slot, or it logs no writes");

/// How the VMM wants to hear of writes.
#[derive(Default)]
pub(crate) struct Tracking {
    /// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.
    manual: AtomicU32,
    /// KVM_CAP_DIRTY_LOG_RING_ACQ_REL: bytes of each vCPU's ring; 0 is none.
    pub ring_bytes: AtomicU32,
    /// KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP.
    pub ring_bitmap: AtomicBool,
    /// KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE: pages here are all 4 KiB, so nothing is split.
    pub split_chunk: AtomicU64,
}

impl Tracking {
    fn manual(&self) -> bool {
        u64::from(self.manual.load(Ordering::SeqCst)) & MANUAL != 0
    }

    pub fn initially_set(&self) -> bool {
        u64::from(self.manual.load(Ordering::SeqCst)) & INITIALLY_SET != 0
    }

    /// Are there bitmaps?
    fn bitmaps(&self) -> bool {
        self.ring_bytes.load(Ordering::SeqCst) == 0 || self.ring_bitmap.load(Ordering::SeqCst)
    }
}

/// Takes write permission for the whole slot out of every TLB; what was written before is visible after.
fn protect(vm: &VmInner, slot: &Slot) {
    let len = usize::try_from(slot.len).unwrap_or(usize::MAX);
    vm.shared.quiesce(Request::RevokeWriteRange { start: slot.host_base() as usize, len });
}

impl VmInner {
    /// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.
    pub fn set_manual_dirty_log(&self, options: u64) -> Result<()> {
        let allowed = if options & MANUAL != 0 { MANUAL | INITIALLY_SET } else { MANUAL };
        if options & !allowed != 0 {
            let e = Errno::EINVAL.because("options {x}: 1 (manual) and, with it, 2 (initially set)");
            return Err(e.value(options));
        }
        self.slots.tracking.manual.store(options as u32, Ordering::SeqCst);
        Ok(())
    }

    /// KVM_CAP_DIRTY_LOG_RING_ACQ_REL: rings of so many bytes, for the vCPUs to come.
    pub fn set_dirty_ring(&self, bytes: u64) -> Result<()> {
        if !bytes.is_power_of_two() || bytes < MIN_RING_BYTES {
            let e = Errno::EINVAL.because("a ring of {} bytes: a power of two, {} at least");
            return Err(e.values([bytes, MIN_RING_BYTES]));
        }
        if bytes > MAX_RING_BYTES {
            let e = Errno::E2BIG.because("a ring of {} bytes: {} are the most");
            return Err(e.values([bytes, MAX_RING_BYTES]));
        }
        let vcpus = self.vcpus();
        let size = &self.slots.tracking.ring_bytes;
        if size.load(Ordering::SeqCst) != 0 || !vcpus.is_empty() {
            return Err(Errno::EINVAL.because("the rings' size is set, or the VM has vCPUs"));
        }
        size.store(bytes as u32, Ordering::SeqCst);
        Ok(())
    }

    /// KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP: before the first slot.
    pub fn set_dirty_ring_bitmap(&self) -> Result<()> {
        let t = &self.slots.tracking;
        let slots = self.slots.table();
        if t.ring_bytes.load(Ordering::SeqCst) == 0 || !slots.is_empty() {
            return Err(Errno::EINVAL.because("there are no dirty rings, or there are memory slots"));
        }
        t.ring_bitmap.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE: before the first slot.
    pub fn set_split_chunk(&self, bytes: u64) -> Result<()> {
        let slots = self.slots.table();
        let known = bytes == 0 || bytes.is_power_of_two() && bytes & BLOCK_SIZES != 0;
        if !known || !slots.is_empty() {
            let e =
                Errno::EINVAL.because("chunks of {x}: a block size, and set before the first memory slot");
            return Err(e.value(bytes));
        }
        self.slots.tracking.split_chunk.store(bytes, Ordering::SeqCst);
        Ok(())
    }

    /// The checks of both requests on a log before they look at the slots.
    fn check_log(&self, slot: u32) -> Result<()> {
        if !self.slots.tracking.bitmaps() {
            return Err(Errno::ENXIO.because("the VM has dirty rings and no bitmaps"));
        }
        let beyond =
            Errno::EINVAL.because("slot {}: slots end at {}").values([slot.into(), NR_MEMSLOTS as u64 - 1]);
        if slot >= NR_MEMSLOTS { Err(beyond) } else { Ok(()) }
    }
}

impl Vm {
    /// What [`Vm::get_dirty_log`] would answer now; nothing is marked clean.
    pub fn peek_dirty_log(&self, slot: u32) -> Result<Vec<u64>> {
        self.0.check_log(slot)?;
        let slots = self.0.slots.table();
        let log = slots.get(&slot).and_then(|e| e.slot.dirty.as_ref());
        log.and_then(|l| l.words()).ok_or(NO_LOG)
    }

    /// KVM_GET_DIRTY_LOG: one bit a page. Marks the pages clean, unless the VMM does that itself with
    /// [`Vm::clear_dirty_log`]; what the guest wrote to the pages named is in memory when this returns.
    pub fn get_dirty_log(&self, slot: u32) -> Result<Vec<u64>> {
        let vm = &self.0;
        vm.check_alive()?;
        vm.check_log(slot)?;
        let slots = vm.slots.table();
        let slot = &slots.get(&slot).ok_or(NO_LOG)?.slot;
        let log = slot.dirty.as_ref().ok_or(NO_LOG)?;
        let mut words = log.words().ok_or(NO_LOG)?;
        if vm.slots.tracking.manual() {
            return Ok(words);
        }
        for (n, w) in words.iter_mut().enumerate() {
            *w = log.clean(n, u64::MAX);
        }
        if !log.to_ring() && words.iter().any(|w| *w != 0) {
            protect(vm, slot);
        }
        Ok(words)
    }

    /// KVM_CLEAR_DIRTY_LOG: marks clean what `bitmap` names, of `num_pages` pages from `first_page` on. `bitmap` is asked
    /// for its words (so many) when everything else is right.
    pub fn clear_dirty_log(
        &self,
        c: &ClearDirtyLog,
        bitmap: impl FnOnce(usize) -> Result<Vec<u64>>,
    ) -> Result<()> {
        let vm = &self.0;
        vm.check_alive()?;
        vm.check_log(c.slot)?;
        if !c.first_page.is_multiple_of(64) {
            return Err(Errno::EINVAL.because("page {x} is no multiple of 64").value(c.first_page));
        }
        let slots = vm.slots.table();
        let slot = &slots.get(&c.slot).ok_or(NO_LOG)?.slot;
        let log = slot.dirty.as_ref().ok_or(NO_LOG)?;
        let (pages, num) = (slot.len >> PAGE_SHIFT, u64::from(c.num_pages));
        let beyond =
            Errno::EINVAL.because("page {x} is not in the slot, which has {x}").values([c.first_page, pages]);
        let rest = pages.checked_sub(c.first_page).ok_or(beyond)?;
        if num > rest || num < rest && !num.is_multiple_of(64) {
            let e =
                Errno::EINVAL.because("{} pages: a multiple of 64, or all that are left of the slot ({})");
            return Err(e.values([num, rest]));
        }
        let first = (c.first_page / 64) as usize;
        let mut cleaned = 0;
        for (n, mask) in
            bitmap(num.div_ceil(64) as usize)?.into_iter().take(num.div_ceil(64) as usize).enumerate()
        {
            cleaned |= log.clean(first + n, mask);
        }
        if !log.to_ring() && cleaned != 0 {
            protect(vm, slot);
        }
        Ok(())
    }

    /// KVM_RESET_DIRTY_RINGS: takes back the entries that the VMM has harvested, and how many these are. What the guest
    /// wrote to their pages is in memory when this returns, and what it writes from now on is reported again.
    pub fn reset_dirty_rings(&self) -> Result<u32> {
        let vm = &self.0;
        vm.check_alive()?;
        if vm.slots.tracking.ring_bytes.load(Ordering::SeqCst) == 0 {
            return Err(Errno::EINVAL.because("the VM has no dirty rings"));
        }
        let slots = vm.slots.table();
        let mut count = 0;
        let mut ids = std::collections::BTreeSet::new();
        for vcpu in vm.vcpus().values() {
            let Some(ring) = vcpu.ring() else { continue };
            count += ring.reset(|slot, page| {
                // Whatever the VMM may have made of the entry.
                if let Some(log) = slots.get(&slot).and_then(|e| e.slot.dirty.as_ref())
                    && log.rearm(page)
                {
                    ids.insert(slot);
                }
            });
        }
        if ids.len() > 8 {
            vm.shared.quiesce(Request::RevokeWriteRange { start: 0, len: usize::MAX });
        } else {
            ids.iter().filter_map(|id| slots.get(id)).for_each(|e| protect(vm, &e.slot));
        }
        Ok(count)
    }
}
