//! Data accesses: the inlined TLB hit, and the slow path that translates, checks alignment, crosses pages and leaves for
//! the hypervisor where there is no memory.

use std::ptr;
use std::sync::Arc;

use crate::cpu::Cpu;
use crate::exception::{Exception, fsc};
use crate::exit::{DataAbort, Exit};
use crate::insn::Stop;
use crate::lines::CpuLines;
use crate::mem::attr::{Acc, AccessKind};
use crate::mem::int::{AtomicInt, MemInt, get_bytes, put_bytes};
use crate::mem::physmap::{Slot, find_slot};
use crate::mem::stage1::{Fault, Translation};
use crate::mem::tlb::{Entry, Entry2, NO_TAG, sign_extend};
use crate::shared::Request;
use crate::{Feat, SysReg};

/// The local exclusive monitor: remembers the value, and the store is a compare-and-exchange against it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Monitor {
    /// Open for a store-exclusive.
    pub armed: bool,
    /// Address.
    pub va: u64,
    /// Size in bytes.
    pub size: u8,
    /// The bytes in memory order, little-endian.
    pub value: u128,
}

/// What a page of guest memory is to the access.
enum Target {
    /// Host address of the first byte.
    Ram(*mut u8),
    /// Nothing there, or read-only and written: a stage-2 abort.
    Abort(Exit),
}

impl Cpu {
    /// Is data big-endian at the current EL? (SCTLR_EL1.EE, E0E.)
    #[inline(always)]
    fn big_endian(&self) -> bool {
        self.big_endian_data
    }

    #[inline(always)]
    pub(super) fn ctx_of(&self, va: u64, acc: Acc) -> u64 {
        self.tlb.ctx[(va >> 63) as usize + if acc.unpriv { 2 } else { 0 }]
    }

    /// Loads a `T` at `va`.
    #[inline(always)]
    pub fn load<T: MemInt>(&mut self, va: u64, acc: Acc) -> Result<T, Stop> {
        let last = va.wrapping_add(T::SIZE - 1);
        let e: &Entry = &self.tlb.data[self.tlb.index(va)];
        if (last & !0xfff | self.ctx_of(va, acc)) == e.tag_r && (!acc.aligned || va & (T::SIZE - 1) == 0) {
            // SAFETY: an entry with a tag maps a whole 4 KiB page of a slot, and the access does not leave the page.
            let v = unsafe { T::get(va.wrapping_add(e.addend) as *const u8) };
            return Ok(v);
        }
        self.load_slow(va, acc)
    }

    /// Stores a `T` at `va`.
    #[inline(always)]
    pub fn store<T: MemInt>(&mut self, va: u64, v: T, acc: Acc) -> Result<(), Stop> {
        let last = va.wrapping_add(T::SIZE - 1);
        let e: &Entry = &self.tlb.data[self.tlb.index(va)];
        if (last & !0xfff | self.ctx_of(va, acc)) == e.tag_w && (!acc.aligned || va & (T::SIZE - 1) == 0) {
            // SAFETY: as in `load`; a write tag is only set for pages that may be written.
            unsafe { T::put(va.wrapping_add(e.addend) as *mut u8, v) };
            return Ok(());
        }
        self.store_slow(va, v, acc)
    }

    #[cold]
    #[inline(never)]
    fn load_slow<T: MemInt>(&mut self, va: u64, acc: Acc) -> Result<T, Stop> {
        let mut b = [0u8; 16];
        self.copy_in(va, &mut b[..T::SIZE as usize], acc)?;
        Ok(T::from_le(&b).swap(self.big_endian()))
    }

    #[cold]
    #[inline(never)]
    fn store_slow<T: MemInt>(&mut self, va: u64, v: T, acc: Acc) -> Result<(), Stop> {
        let b = v.swap(self.big_endian()).to_le();
        self.copy_out(va, &b[..T::SIZE as usize], acc)
    }

    /// Checks that `len` bytes at `va` may be written (and are memory), without writing.
    pub fn probe_write(&mut self, va: u64, len: u64, acc: Acc) -> Result<(), Stop> {
        self.locate(va, len, AccessKind::Write, acc).map(|_| ())
    }

    /// Reads bytes that may cross a page boundary.
    fn copy_in(&mut self, va: u64, out: &mut [u8], acc: Acc) -> Result<(), Stop> {
        let (first, second) = self.locate(va, out.len() as u64, AccessKind::Read, acc)?;
        let (a, b) = out.split_at_mut(first.1);
        // SAFETY: `locate` gave host addresses of that many bytes of guest memory.
        unsafe {
            get_bytes(first.0, a);
            get_bytes(second, b);
        }
        Ok(())
    }

    fn copy_out(&mut self, va: u64, data: &[u8], acc: Acc) -> Result<(), Stop> {
        let (first, second) = self.locate(va, data.len() as u64, AccessKind::Write, acc)?;
        let (a, b) = data.split_at(first.1);
        // SAFETY: as in `copy_in`, writable.
        unsafe {
            put_bytes(first.0, a);
            put_bytes(second, b);
        }
        self.after_write();
        Ok(())
    }

    /// Host addresses for an access of up to 16 (or one cache line's) bytes: the part on the first page, and where the
    /// rest continues. Both pages are checked before anything is accessed.
    #[allow(clippy::type_complexity)]
    fn locate(
        &mut self,
        va: u64,
        len: u64,
        kind: AccessKind,
        acc: Acc,
    ) -> Result<((*mut u8, usize), *mut u8), Stop> {
        let misaligned = self.check_alignment(va, len, kind, acc)?;
        let room = 0x1000 - (va & 0xfff);
        let first = self.host_page(va, len.min(room), kind, acc, misaligned)?;
        if len <= room {
            return Ok(((first, len as usize), ptr::null_mut()));
        }
        let second = self.host_page(va.wrapping_add(room), len - room, kind, acc, misaligned)?;
        Ok(((first, room as usize), second))
    }

    /// Alignment rules that do not depend on the memory type; tells whether the access is unaligned.
    fn check_alignment(&mut self, va: u64, len: u64, kind: AccessKind, acc: Acc) -> Result<bool, Stop> {
        // The alignment that counts is that of one element; callers pass whole elements (pairs and vectors of
        // structures access element by element).
        if va & (len - 1) == 0 || !len.is_power_of_two() {
            return Ok(false);
        }
        let sctlr = self.state.sys(SysReg::SCTLR_EL1);
        let lse2 = acc.lse2 && self.has(Feat::LSE2);
        // FEAT_LSE2: ordered, exclusive and atomic accesses inside an aligned 16-byte quantity need no alignment; across one,
        // SCTLR_EL1.nAA decides for loads and stores (B2.2).
        let inside16 = (va & 15) + len <= 16;
        let naa = sctlr & 1 << 6 != 0 && !acc.rmw && !acc.exclusive;
        if sctlr & 2 != 0 || (acc.aligned && !(lse2 && (inside16 || naa))) {
            return self.alignment_fault(va, kind, acc).map(|()| true);
        }
        Ok(true)
    }

    #[cold]
    fn alignment_fault(&mut self, va: u64, kind: AccessKind, acc: Acc) -> Result<(), Stop> {
        // A read by an atomic would meet it too.
        let wnr = if kind == AccessKind::Write && !acc.rmw { 1 << 6 } else { 0 };
        self.raise(Exception::data_abort(va, fsc::ALIGNMENT | wnr))
    }

    /// Host address of `va`, whose `len` bytes do not cross a page, after translation and all checks; refills the TLB.
    fn host_page(
        &mut self,
        va: u64,
        len: u64,
        kind: AccessKind,
        acc: Acc,
        misaligned: bool,
    ) -> Result<*mut u8, Stop> {
        self.counters.tlb_misses += 1;
        // Atomics report a missing read permission as a write; reads of them count as writes for watchpoints too.
        let t = self.translate(va, kind, acc)?;
        if t.info.is_device() && misaligned {
            self.alignment_fault(va, kind, acc)?;
        }
        self.check_watchpoints(va, len, kind, acc)?;
        let write = kind == AccessKind::Write;
        match self.target(t, va, write) {
            Target::Ram(p) => {
                if write {
                    self.note_store(p as usize, len as usize);
                }
                self.refill(va, t, p, write, acc);
                Ok(p)
            }
            Target::Abort(e) => self.leave(e),
        }
    }

    /// Translates for a data access or reports the fault.
    pub(crate) fn translate(&mut self, va: u64, kind: AccessKind, acc: Acc) -> Result<Translation, Stop> {
        let unpriv = acc.unpriv || self.state.el == 0;
        match self.translate_checked(va, kind, unpriv, acc.rmw) {
            Ok(t) => Ok(t),
            Err(Fault::Stage1(code)) => {
                // An atomic reports a write only when a read would not meet the fault (ESR_ELx, WnR).
                let read_faults =
                    acc.rmw && self.translate_checked(va, AccessKind::Read, unpriv, false).is_err();
                let write = (kind == AccessKind::Write && !read_faults) || acc.cm;
                let iss = code | if write { 1 << 6 } else { 0 } | if acc.cm { 1 << 8 } else { 0 };
                self.raise(Exception::data_abort(va, iss))
            }
            Err(Fault::Stage2Walk(ipa)) => self.leave(Exit::DataAbort(DataAbort {
                ipa,
                far: va,
                iss: 0,
                write: false,
                value: 0,
                readonly: false,
                s1ptw: true,
            })),
        }
    }

    /// Walks (through the second-level TLB) and checks permissions.
    pub(crate) fn translate_checked(
        &mut self,
        va: u64,
        kind: AccessKind,
        unpriv: bool,
        rmw: bool,
    ) -> Result<Translation, Fault> {
        let t = self.lookup(va, unpriv, kind == AccessKind::Fetch)?;
        let ok =
            self.allowed(&t.info, kind, unpriv) && (!rmw || self.allowed(&t.info, AccessKind::Read, unpriv));
        if !ok {
            return Err(Fault::Stage1(fsc::PERMISSION | (t.info.level as u32 & 3)));
        }
        if t.info.write_clean && kind == AccessKind::Write {
            // The table may have changed since the entry was filled: walk again for the descriptor.
            let t = self.walk(va, unpriv, false)?;
            if t.info.write_clean {
                self.set_dirty_state()?;
            }
            let mut info = t.info;
            info.write_clean = false;
            return Ok(Translation { ipa: t.ipa, info });
        }
        Ok(t)
    }

    /// Second-level TLB, then the walk.
    fn lookup(&mut self, va: u64, unpriv: bool, fetch: bool) -> Result<Translation, Fault> {
        let high = (va >> 55 & 1) as usize;
        let ctx = self.tlb.ctx[high + if unpriv && self.state.el != 0 { 2 } else { 0 }];
        // Tagged addresses and the MMU-off regime are not kept; both are rare or cheap to walk.
        let keep = sign_extend(va) == va && ctx != 0xfff && self.state.sys(SysReg::SCTLR_EL1) & 1 != 0;
        if !keep {
            return self.walk(va, unpriv, fetch);
        }
        let tag = va & !0xfff | ctx;
        if let Some(e) = self.tlb.find2(va, tag) {
            return Ok(Translation { ipa: e.ipa | va & 0xfff, info: e.t });
        }
        let t = self.walk(va, unpriv, fetch)?;
        if t.info.not_global && high == 1 && !self.high_has_ng {
            // From now on the upper half's contexts depend on the ASID as well.
            self.high_has_ng = true;
            self.regime_changed();
            return Ok(t);
        }
        self.tlb.insert2(va, Entry2 { tag, ipa: t.ipa & !0xfff, t: t.info });
        Ok(t)
    }

    fn target(&mut self, t: Translation, va: u64, write: bool) -> Target {
        self.refresh_slots();
        let ipa = t.ipa;
        match find_slot(&self.slots, ipa) {
            Some(s) if !(write && s.readonly) => Target::Ram(s.host(ipa)),
            found => Target::Abort(Exit::DataAbort(DataAbort {
                ipa,
                far: va,
                iss: 0,
                write,
                value: 0,
                readonly: found.is_some(),
                s1ptw: false,
            })),
        }
    }

    /// Enters a hit into the first-level TLB, as far as the page may be accessed without looking.
    fn refill(&mut self, va: u64, t: Translation, host: *mut u8, write: bool, acc: Acc) {
        let mut granted = if write { self.before_write(t.ipa) } else { false };
        let slow = t.info.is_device()
            || self.big_endian_data
            || self.state.sys(SysReg::SCTLR_EL1) & 2 != 0
            || sign_extend(va) != va
            || (self.watchpoints_on && self.debug.page_watched(va));
        if slow {
            return;
        }
        let ctx = self.ctx_of(va, acc);
        if ctx == 0xfff {
            return;
        }
        let tag = va & !0xfff | ctx;
        let icount = self.state.icount;
        self.tlb.about_to_fill(va, tag, icount);
        let n = self.tlb.index(va);
        granted = granted && self.may_grant(n, tag);
        let addend = (host as u64).wrapping_sub(va);
        let e = &mut self.tlb.data[n];
        if e.addend != addend || (e.tag_r != tag && e.tag_w != tag) {
            *e = Entry { tag_r: NO_TAG, tag_w: NO_TAG, addend, meta: t.info.size_log2.into() };
        }
        if write {
            if granted {
                e.tag_w = tag;
            }
            // Readable too: every writable page is.
            e.tag_r = tag;
        } else {
            e.tag_r = tag;
        }
    }

    /// A write to the page of `ipa` is about to happen: logs it dirty, drops code decoded from it. Returns whether a
    /// write entry may be kept in the TLB.
    pub(crate) fn before_write(&mut self, ipa: u64) -> bool {
        let Some(s) = find_slot(&self.slots, ipa).cloned() else { return false };
        if let Some(page) = s.mark_dirty(ipa)
            && let Some(sink) = &self.dirty_sink
            && sink.push(s.id, page)
        {
            self.lines.set(CpuLines::KICK);
        }
        // Each write to a page with decoded code makes that code stale. Permission comes back when the page was written
        // often without being executed in between.
        if !s.page_state(ipa).announce_write() {
            return true;
        }
        self.code_written(ipa);
        self.wrote_code = Some((s.clone(), ipa));
        self.code_writes += 1;
        if self.last_code_page == s.host(ipa & !0xfff) as usize {
            self.same_code_page += 1;
        } else {
            self.last_code_page = s.host(ipa & !0xfff) as usize;
            self.same_code_page = 0;
        }
        if self.same_code_page >= 16 {
            self.same_code_page = 0;
            return s.page_state(ipa).take_back();
        }
        false
    }

    /// After the data were written: code that another PE decoded meanwhile from the old words is stale as well.
    #[inline]
    fn after_write(&mut self) {
        if let Some((s, ipa)) = self.wrote_code.take() {
            s.page_state(ipa).changed();
            if self.jit.on() {
                // They see it at their next safepoint, before which no context synchronization of theirs completes.
                self.config.shared.post(Some(self.index), Request::CodeWritten { ipa });
            }
        }
    }

    /// Marks the page as holding decoded code and takes write permission away from every TLB. Call before the words are
    /// read for decoding. Tells whether it waited for other PEs and meanwhile did what they asked for.
    pub(crate) fn mark_code(&mut self, s: &Arc<Slot>, ipa: u64) -> bool {
        if !s.page_state(ipa).announce_code() {
            return false;
        }
        let page = s.host(ipa & !0xfff) as usize;
        self.tlb.revoke_writes(page, 0x1000);
        self.shoot_down_and_wait(Request::RevokeWrite { host_page: page });
        s.page_state(ipa).code_ready();
        true
    }

    /// Atomically replaces the `T` at `va` by `f(old)`; returns the old value.
    #[inline]
    pub fn rmw<T: AtomicInt>(&mut self, va: u64, acc: Acc, f: impl Fn(T) -> T) -> Result<T, Stop> {
        let be = self.big_endian();
        let p = self.atomic_ptr::<T>(va, acc)?;
        // SAFETY: `atomic_ptr` gave writable guest memory, aligned to the size of T or inside 16 bytes.
        let old = unsafe { T::update(p, |old| f(old.swap(be)).swap(be)) }.swap(be);
        self.after_write();
        Ok(old)
    }

    /// Compare and swap; returns the old value.
    #[inline]
    pub fn cas<T: AtomicInt>(&mut self, va: u64, expected: T, new: T, acc: Acc) -> Result<T, Stop> {
        self.rmw(va, acc, |old| if old == expected { new } else { old })
    }

    /// Host pointer for an atomic access that reads and writes.
    fn atomic_ptr<T: MemInt>(&mut self, va: u64, acc: Acc) -> Result<*mut u8, Stop> {
        let last = va.wrapping_add(T::SIZE - 1);
        let e = &self.tlb.data[self.tlb.index(va)];
        if (last & !0xfff | self.ctx_of(va, acc)) == e.tag_w && va & (T::SIZE - 1) == 0 {
            return Ok(va.wrapping_add(e.addend) as *mut u8);
        }
        let ((p, n), _) = self.locate(va, T::SIZE, AccessKind::Write, acc)?;
        if n < T::SIZE as usize {
            // Atomic across a page boundary: only possible unaligned without LSE2 semantics; reported as unaligned.
            self.alignment_fault(va, AccessKind::Write, acc)?;
        }
        Ok(p)
    }

    /// LDXR: loads and arms the local monitor.
    #[inline]
    pub fn load_exclusive<T: MemInt>(&mut self, va: u64, acc: Acc) -> Result<T, Stop> {
        let v: T = if T::SIZE == 16 { self.load_16(va, acc)? } else { self.load(va, acc)? };
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(&v.swap(self.big_endian()).to_le());
        self.monitor = Monitor { armed: true, va, size: T::SIZE as u8, value: u128::from_le_bytes(bytes) };
        Ok(v)
    }

    /// A 16-byte load that is single-copy atomic.
    fn load_16<T: MemInt>(&mut self, va: u64, acc: Acc) -> Result<T, Stop> {
        // Needs no write permission: retry two halves until they are stable. Both halves are 8-byte atomic.
        loop {
            let a: T = self.load(va, acc)?;
            let b: T = self.load(va, acc)?;
            if a == b {
                return Ok(a);
            }
        }
    }

    /// STXR: true if the store happened.
    #[inline]
    pub fn store_exclusive<T: AtomicInt>(&mut self, va: u64, v: T, acc: Acc) -> Result<bool, Stop> {
        let m = self.monitor;
        self.monitor.armed = false;
        if !m.armed || m.va != va || u64::from(m.size) != T::SIZE {
            // Faults are reported even when the monitor would let the store fail (as most cores and QEMU do not: they
            // fail first). Alignment is checked in both cases.
            self.check_alignment(va, T::SIZE, AccessKind::Write, acc)?;
            return Ok(false);
        }
        let be = self.big_endian();
        // After a fault here the monitor is clear, the store then fails and the guest's loop retries.
        let p = self.atomic_ptr::<T>(va, acc)?;
        let expected = T::from_le(&m.value.to_le_bytes());
        // SAFETY: as in `rmw`.
        let done = unsafe { T::compare_exchange(p, expected, v.swap(be)) };
        self.after_write();
        Ok(done)
    }

    /// CLREX, and whatever clears the local monitor.
    #[inline]
    pub fn clear_exclusive(&mut self) {
        self.monitor.armed = false;
    }

    /// SP alignment: call with the base register index of a load or store (31 or `insn::SP` is SP).
    #[inline(always)]
    pub fn check_sp_align(&mut self, rn: u8) -> Result<(), Stop> {
        if rn >= 31 && self.state.sp() & 15 != 0 {
            return self.sp_misaligned();
        }
        Ok(())
    }

    #[cold]
    fn sp_misaligned(&mut self) -> Result<(), Stop> {
        let bit = if self.state.el == 0 { 4 } else { 3 };
        if self.state.sys(SysReg::SCTLR_EL1) >> bit & 1 != 0 {
            return self.raise(Exception::sp_alignment());
        }
        Ok(())
    }

    /// Takes over the slots when the hypervisor changed them.
    #[inline]
    pub(crate) fn refresh_slots(&mut self) {
        let v = self.config.memory.version();
        if v != self.slots_version {
            self.slots = self.config.memory.slots();
            self.slots_version = v;
        }
    }
}
