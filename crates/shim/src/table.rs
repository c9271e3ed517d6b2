//! The program's descriptors that came from `/dev/kvm`.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use ulna_kvm_abi::ioctl::on;

use crate::lock::Lock;

/// Descriptors that are looked after; a program has fewer.
pub const MOST: usize = 1 << 16;
/// A file of statistics.
pub const STATS: u8 = 1 << 7;

/// What a descriptor stands for. Objects are used again and never freed, so that a reference to one is always good.
pub struct Object {
    kind: AtomicU8,
    /// Which process it belongs to.
    epoch: AtomicU32,
    /// The server's number.
    pub serial: AtomicU32,
    /// Descriptors, and calls under way.
    refs: AtomicU32,
    /// Requests on the channel wait for one another.
    pub exchange: Lock<()>,
    /// KVM_RUNs so far.
    pub runs: AtomicU64,
    /// KVM_SET_SIGNAL_MASK.
    pub has_mask: AtomicBool,
    pub mask: AtomicU64,
    /// The server did not answer: it is gone.
    pub dead: AtomicBool,
}

static FDS: [AtomicPtr<Object>; MOST] = [const { AtomicPtr::new(std::ptr::null_mut()) }; MOST];
static FREE: Lock<Vec<&'static Object>> = Lock::new(Vec::new());
/// Descriptors of the library's own: which numbers.
static HIDDEN: [AtomicI32; 256] = [const { AtomicI32::new(-1) }; 256];

/// A reference during a call.
pub struct Ref(&'static Object);

impl std::ops::Deref for Ref {
    type Target = Object;
    fn deref(&self) -> &Object {
        self.0
    }
}

impl Drop for Ref {
    fn drop(&mut self) {
        release(self.0);
    }
}

impl Object {
    /// Its kind as a bit of `ulna_kvm_abi::ioctl::on`, or [`STATS`].
    pub fn kind(&self) -> u8 {
        self.kind.load(Ordering::Relaxed)
    }

    /// Does it belong to this process? What a parent made is dead in its child, as with a kernel.
    pub fn ours(&self) -> bool {
        self.kind() == on::SYSTEM || self.epoch.load(Ordering::Relaxed) == crate::server::epoch()
    }
}

fn release(o: &'static Object) {
    if o.refs.fetch_sub(1, Ordering::AcqRel) == 1 {
        FREE.lock().push(o);
    }
}

fn slot(fd: c_int) -> Option<&'static AtomicPtr<Object>> {
    FDS.get(usize::try_from(fd).ok()?)
}

/// What `fd` stands for, if it came from `/dev/kvm`.
pub fn get(fd: c_int) -> Option<Ref> {
    let slot = slot(fd)?;
    loop {
        let p = slot.load(Ordering::Acquire);
        // SAFETY: objects are never freed.
        let o: &'static Object = unsafe { p.as_ref() }?;
        o.refs.fetch_add(1, Ordering::AcqRel);
        let r = Ref(o);
        if slot.load(Ordering::Acquire) == p {
            return Some(r);
        }
    }
}

/// Is there anything in the table under this number? Cheap, for calls that mostly are not ours.
pub fn known(fd: c_int) -> bool {
    slot(fd).is_some_and(|s| !s.load(Ordering::Relaxed).is_null())
}

/// A new object under `fd`.
pub fn insert(fd: c_int, kind: u8, serial: u32) {
    let o: &'static Object = match FREE.lock().pop() {
        Some(o) => o,
        None => Box::leak(Box::new(Object {
            kind: AtomicU8::new(0),
            epoch: AtomicU32::new(0),
            serial: AtomicU32::new(0),
            refs: AtomicU32::new(0),
            exchange: Lock::new(()),
            runs: AtomicU64::new(0),
            has_mask: AtomicBool::new(false),
            mask: AtomicU64::new(0),
            dead: AtomicBool::new(false),
        })),
    };
    o.kind.store(kind, Ordering::Relaxed);
    o.epoch.store(crate::server::epoch(), Ordering::Relaxed);
    o.serial.store(serial, Ordering::Relaxed);
    o.runs.store(0, Ordering::Relaxed);
    o.has_mask.store(false, Ordering::Relaxed);
    o.dead.store(false, Ordering::Relaxed);
    o.refs.store(1, Ordering::Release);
    put(fd, o);
}

fn put(fd: c_int, o: &'static Object) {
    let Some(slot) = slot(fd) else { return release(o) };
    let old = slot.swap(std::ptr::from_ref(o).cast_mut(), Ordering::AcqRel);
    // SAFETY: objects are never freed.
    if let Some(old) = unsafe { old.as_ref() } {
        release(old);
    }
}

/// `fd` is closed, or about to be something else.
pub fn remove(fd: c_int) {
    if let Some(slot) = slot(fd) {
        let old = slot.swap(std::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: objects are never freed.
        if let Some(old) = unsafe { old.as_ref() } {
            release(old);
        }
    }
}

/// `to` is now what `from` is.
pub fn duplicate(from: c_int, to: c_int) {
    match get(from) {
        Some(r) => {
            r.0.refs.fetch_add(1, Ordering::AcqRel);
            put(to, r.0);
        }
        None => remove(to),
    }
}

/// `fd` is the library's own.
pub fn hide(fd: c_int) {
    for h in &HIDDEN {
        if h.compare_exchange(-1, fd, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return;
        }
    }
}

/// It is no more.
pub fn unhide(fd: c_int) {
    for h in &HIDDEN {
        let _ = h.compare_exchange(fd, -1, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Is it?
pub fn hidden(fd: c_int) -> bool {
    fd >= 64 && HIDDEN.iter().any(|h| h.load(Ordering::Relaxed) == fd)
}

/// Around a fork.
pub fn before_fork() {
    FREE.take();
}
/// On both sides.
pub fn after_fork() {
    FREE.give();
}
