//! The intermediate physical address space: slots of host memory, as the hypervisor set them up (stage 2).

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use crate::mem::dirty::DirtyLog;
use crate::mem::page_state::PageState;
use crate::sync::{AtomicU8, AtomicU32};

/// Pages of slots and TLB entries are 4 KiB.
pub const PAGE_SHIFT: u32 = 12;
/// Size of a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// A range of guest-physical addresses backed by host memory.
pub struct Slot {
    /// Number given by the VMM.
    pub id: u32,
    /// First guest-physical address, a multiple of 4 KiB.
    pub ipa: u64,
    /// Length in bytes, a multiple of 4 KiB.
    pub len: u64,
    /// Host address of the first byte.
    host: *mut u8,
    /// Guest writes are stage-2 permission faults.
    pub readonly: bool,
    /// What was written, when logging.
    pub dirty: Option<Arc<DirtyLog>>,
    flags: Box<[AtomicU8]>,
    code_gen: Box<[AtomicU32]>,
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: `host` points to memory that `_owner` keeps mapped and that is only accessed by raw, possibly racing accesses
// as guest memory is (never through references).
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

/// `n` numbers; pages of a large slot that are never used cost nothing.
fn zeroed<T: Zero>(n: usize) -> Box<[T]> {
    let Ok(layout) = std::alloc::Layout::array::<T>(n) else { return Box::default() };
    if layout.size() == 0 {
        return Box::default();
    }
    // SAFETY: the size is not zero.
    let at = unsafe { std::alloc::alloc_zeroed(layout) };
    if at.is_null() {
        std::alloc::handle_alloc_error(layout);
    }
    // SAFETY: allocated with the layout of such a slice, and all zero is a value of the type.
    unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(at.cast(), n)) }
}

/// All zero is a value of the type.
///
/// # Safety
/// It is.
unsafe trait Zero {}
// SAFETY: a number.
unsafe impl Zero for AtomicU8 {}
// SAFETY: a number.
unsafe impl Zero for AtomicU32 {}

impl Slot {
    /// Describes `len` bytes at `host` as guest memory.
    ///
    /// # Safety
    /// `host..host+len` must stay mapped and writable (readable, for a read-only slot) while `owner` lives, and nobody
    /// may hold Rust references into it while a guest runs.
    pub unsafe fn new(
        id: u32,
        ipa: u64,
        len: u64,
        host: *mut u8,
        readonly: bool,
        dirty: Option<Arc<DirtyLog>>,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Slot {
        let n = (len >> PAGE_SHIFT) as usize;
        Slot { id, ipa, len, host, readonly, dirty, flags: zeroed(n), code_gen: zeroed(n), _owner: owner }
    }
    /// Does it contain `ipa`?
    pub fn contains(&self, ipa: u64) -> bool {
        ipa >= self.ipa && ipa - self.ipa < self.len
    }
    /// Host address of `ipa`, which must be inside.
    pub fn host(&self, ipa: u64) -> *mut u8 {
        debug_assert!(self.contains(ipa));
        self.host.wrapping_add((ipa - self.ipa) as usize)
    }
    /// Host address of the first byte.
    pub fn host_base(&self) -> *mut u8 {
        self.host
    }
    fn page(&self, ipa: u64) -> usize {
        ((ipa - self.ipa) >> PAGE_SHIFT) as usize
    }
    /// What PEs agree on about the page of `ipa`.
    pub(crate) fn page_state(&self, ipa: u64) -> PageState<'_> {
        let n = self.page(ipa);
        PageState { flags: &self.flags[n], generation: &self.code_gen[n] }
    }
    /// Generation of the code on the page of `ipa`: decoded code of another generation is stale.
    pub(crate) fn code_gen(&self, ipa: u64) -> &AtomicU32 {
        &self.code_gen[self.page(ipa)]
    }
    /// Memory may have been written from outside: all code decoded from it is stale.
    pub fn code_changed(&self) {
        for (flags, generation) in self.flags.iter().zip(&self.code_gen) {
            let p = PageState { flags, generation };
            if p.has_code() {
                p.changed();
            }
        }
    }
    /// A PE is about to write to the page of `ipa`: marks it dirty, when logging. The number of the page, when a ring is to
    /// take it.
    #[must_use = "a ring may have to take the page"]
    pub fn mark_dirty(&self, ipa: u64) -> Option<u64> {
        let page = self.page(ipa) as u64;
        self.dirty.as_ref()?.mark(page).then_some(page)
    }
    /// The page of `ipa` was written, but not by a PE: marks it dirty, when logging. After the write, because nothing
    /// makes whoever harvests the log wait for the writer.
    pub fn mark_written(&self, ipa: u64) {
        if let Some(d) = &self.dirty {
            d.mark_other(self.page(ipa) as u64);
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "slot {} {:#x}+{:#x}{}",
            self.id,
            self.ipa,
            self.len,
            if self.readonly { " ro" } else { "" }
        )
    }
}

/// All slots, sorted by address. A changed map is a new version; each PE takes over the new one at its next safepoint.
#[derive(Debug, Default)]
pub struct PhysMap {
    slots: RwLock<Arc<Vec<Arc<Slot>>>>,
    version: AtomicU64,
}

impl PhysMap {
    /// The slots now.
    pub fn slots(&self) -> Arc<Vec<Arc<Slot>>> {
        self.slots.read().unwrap_or_else(|e| e.into_inner()).clone()
    }
    /// Replaces all slots. The caller quiesces the PEs (`VmShared::quiesce(Request::FlushAll)`) before it relies on
    /// old slots being out of use.
    pub fn set_slots(&self, slots: Vec<Arc<Slot>>) {
        self.update(|all| {
            *all = slots;
            all.sort_by_key(|s| s.ipa);
        });
    }
    /// Changes the slots, which `f` must leave sorted by address and apart; then as [`PhysMap::set_slots`].
    pub fn update(&self, f: impl FnOnce(&mut Vec<Arc<Slot>>)) {
        let mut slots = self.slots.write().unwrap_or_else(|e| e.into_inner());
        // Copied only where somebody holds the old ones.
        f(Arc::make_mut(&mut slots));
        self.version.fetch_add(1, Ordering::SeqCst);
    }
    /// Changes whenever the slots do.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }
    /// The slot that holds `ipa`.
    pub fn find(&self, ipa: u64) -> Option<Arc<Slot>> {
        find_slot(&self.slots(), ipa).cloned()
    }
}

/// The slot that holds `ipa`, by binary search.
pub fn find_slot(slots: &[Arc<Slot>], ipa: u64) -> Option<&Arc<Slot>> {
    let i = slots.partition_point(|s| s.ipa <= ipa);
    slots.get(i.checked_sub(1)?).filter(|s| s.contains(ipa))
}
