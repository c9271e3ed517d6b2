//! The client's memory as a request shows it: bytes that came along, and files that are shared.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use ulna_kvm_abi::Errno;
use ulna_kvm_abi::wire::{Part, part};
use ulna_kvm_core::raw::{Backing, UserMem};

use crate::frame::Frame;

const PAGE: u64 = 4096;
/// User addresses of arm64 end here (48 bits): no mapping is longer.
const LONGEST: u64 = 1 << 48;

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A part of more bytes holds no structure.
const LARGE: u64 = 1 << 16;

/// Memory of the client that is mapped here.
struct Window {
    at: *mut u8,
    len: usize,
}

// SAFETY: the memory is only reached as guest memory is: by raw, possibly racing accesses.
unsafe impl Send for Window {}
// SAFETY: the same.
unsafe impl Sync for Window {}

impl Window {
    /// Room for `len` bytes.
    fn reserve(len: u64) -> Option<Window> {
        let len = usize::try_from(len).ok().filter(|l| *l > 0)?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        Some(Window { at: at.ok()?.cast(), len })
    }

    /// Puts `len` bytes of `file` from `offset` on at `place`.
    fn put(&self, place: u64, len: u64, file: &OwnedFd, offset: u64) -> Option<()> {
        let end = place.checked_add(len)?;
        if end > self.len as u64 || !(place | len | offset).is_multiple_of(PAGE) {
            return None;
        }
        let (at, len) = (self.at.wrapping_add(place as usize).cast(), len as usize);
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: inside this window's own mapping, to which no references exist.
        let shared = unsafe {
            mmap(at, len, prot, MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE, file, offset)
        };
        if shared.is_err() {
            // A file that may not be written: what a guest writes there stays here.
            let private = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            // SAFETY: the same.
            unsafe { mmap(at, len, prot, private, file, offset) }.ok()?;
        }
        Some(())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which no slot uses any more.
        let _ = unsafe { munmap(self.at.cast(), self.len) };
    }
}

/// A window that shows a range of a file.
struct Shown {
    offset: u64,
    len: u64,
    window: Weak<Window>,
}

/// What of the client's files is mapped, by the client's number of the file. A file's mapping lives as long as a slot uses
/// it.
#[derive(Default)]
pub struct Windows {
    shown: Mutex<HashMap<u32, Vec<Shown>>>,
    /// Mappings that userfaultfd looks at: the last few are kept, whether or not a slot uses them.
    kept: Mutex<VecDeque<Arc<Window>>>,
}

/// How many.
const KEPT: usize = 64;

/// Why memory could not be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The file has to come along.
    File,
    /// There is none, or no room for it.
    Memory,
}

impl Windows {
    /// The memory at `addr`, as `parts` describe it.
    fn show(
        &self,
        parts: &[Part],
        fds: &[OwnedFd],
        addr: u64,
        len: u64,
    ) -> Result<(*mut u8, Arc<Window>), Missing> {
        let end = addr.checked_add(len).ok_or(Missing::Memory)?;
        let covers = |p: &&Part| {
            p.kind & part::MEMORY != 0
                && p.addr <= addr
                && p.addr.checked_add(p.len).is_some_and(|e| e >= end)
        };
        match parts.iter().find(covers) {
            Some(p) => {
                let (at, window) = self.whole(p, fds)?;
                Ok((at.wrapping_add((addr - p.addr) as usize), window))
            }
            None => pieces(parts, fds, addr, len),
        }
    }

    /// All of a part, in a window that may be there already.
    fn whole(&self, p: &Part, fds: &[OwnedFd]) -> Result<(*mut u8, Arc<Window>), Missing> {
        if !(p.addr | p.len | p.offset).is_multiple_of(PAGE) || p.len > LONGEST {
            return Err(Missing::Memory);
        }
        let end = p.offset.checked_add(p.len).ok_or(Missing::Memory)?;
        let mut all = lock(&self.shown);
        let shown = all.entry(p.id).or_default();
        shown.retain(|s| s.window.strong_count() > 0);
        for s in shown.iter() {
            if s.offset <= p.offset
                && s.offset + s.len >= end
                && let Some(w) = s.window.upgrade()
            {
                return Ok((w.at.wrapping_add((p.offset - s.offset) as usize), w));
            }
        }
        let file = p.fd.checked_sub(1).and_then(|n| fds.get(usize::from(n))).ok_or(Missing::File)?;
        let w = Arc::new(Window::reserve(p.len).ok_or(Missing::Memory)?);
        w.put(0, p.len, file, p.offset).ok_or(Missing::Memory)?;
        shown.push(Shown { offset: p.offset, len: p.len, window: Arc::downgrade(&w) });
        if all.len() > 64 {
            all.retain(|_, shown| shown.iter().any(|s| s.window.strong_count() > 0));
        }
        Ok((w.at, w))
    }
}

/// Memory that several parts make up, put together in a window of its own.
fn pieces(parts: &[Part], fds: &[OwnedFd], addr: u64, len: u64) -> Result<(*mut u8, Arc<Window>), Missing> {
    if len > LONGEST {
        return Err(Missing::Memory);
    }
    let end = addr + len;
    let holds = |at: u64| {
        parts.iter().find(|p| {
            p.kind & part::MEMORY != 0 && p.addr <= at && p.addr.checked_add(p.len).is_some_and(|e| e > at)
        })
    };
    let mut at = addr;
    while at < end {
        let p = holds(at).ok_or(Missing::Memory)?;
        at = p.addr + p.len;
    }
    let w = Arc::new(Window::reserve(len).ok_or(Missing::Memory)?);
    at = addr;
    while at < end {
        let p = holds(at).ok_or(Missing::Memory)?;
        let n = (p.addr + p.len).min(end) - at;
        let file = p.fd.checked_sub(1).and_then(|n| fds.get(usize::from(n))).ok_or(Missing::File)?;
        let offset = p.offset.checked_add(at - p.addr).ok_or(Missing::Memory)?;
        w.put(at - addr, n, file, offset).ok_or(Missing::Memory)?;
        at += n;
    }
    Ok((w.at, w))
}

/// Bytes that a request writes.
#[derive(Default)]
struct Written {
    part: usize,
    data: Vec<u8>,
}

/// The memory of a request.
pub struct FrameMem<'a> {
    windows: &'a Windows,
    frame: &'a Frame,
    /// Where the bytes of each part begin in the frame's data.
    starts: Vec<usize>,
    written: Mutex<Vec<Written>>,
    missing: Mutex<bool>,
}

impl<'a> FrameMem<'a> {
    /// The memory that `frame` shows.
    pub fn new(windows: &'a Windows, frame: &'a Frame) -> FrameMem<'a> {
        let mut at = 0;
        let starts = frame.parts.iter().map(|p| {
            let start = at;
            if p.kind & part::IN != 0 {
                at += p.len as usize;
            }
            start
        });
        let starts = starts.collect();
        FrameMem { windows, frame, starts, written: Mutex::default(), missing: Mutex::new(false) }
    }

    /// Must the client send a file along?
    pub fn needs_file(&self) -> bool {
        *lock(&self.missing)
    }

    /// The part with `len` bytes at `addr`: its number, and where they begin in it.
    fn find(&self, kind: u16, addr: u64, len: usize) -> Option<(usize, usize)> {
        self.frame.parts.iter().enumerate().find_map(|(n, p)| {
            let at = addr.checked_sub(p.addr)?;
            let fits = p.kind & kind != 0 && at.checked_add(len as u64)? <= p.len;
            fits.then_some((n, at as usize))
        })
    }

    /// The address here of `len` bytes at `addr`, in a mapping that stays for a while.
    pub fn keep(&self, addr: u64, len: u64) -> Option<u64> {
        match self.windows.show(&self.frame.parts, &self.frame.fds, addr, len) {
            Ok((at, window)) => {
                let mut kept = lock(&self.windows.kept);
                kept.push_back(window);
                if kept.len() > KEPT {
                    kept.pop_front();
                }
                Some(at as u64)
            }
            Err(m) => {
                *lock(&self.missing) = m == Missing::File;
                None
            }
        }
    }

    /// What a part held when it came.
    pub fn given(&self, n: usize) -> &[u8] {
        let p = &self.frame.parts[n];
        if p.kind & part::IN == 0 { &[] } else { &self.frame.data[self.starts[n]..][..p.len as usize] }
    }

    /// The bytes that go back, in the order of the parts: part and bytes. Only the last is shorter than its part.
    pub fn into_answer(self) -> Vec<(usize, Vec<u8>)> {
        let mut written = std::mem::take(&mut *lock(&self.written));
        written.sort_by_key(|w| w.part);
        let Some(last) = written.last().map(|w| w.part) else { return Vec::new() };
        let mut out = Vec::with_capacity(written.len());
        let mut written = written.into_iter().peekable();
        for (n, p) in self.frame.parts.iter().enumerate().take(last + 1) {
            if p.kind & part::OUT == 0 {
                continue;
            }
            // What is not written goes back as it came.
            let mut data =
                written.next_if(|w| w.part == n).map_or_else(|| self.given(n).to_vec(), |w| w.data);
            if n < last && p.len <= 1 << 20 {
                data.resize(p.len as usize, 0);
            }
            out.push((n, data));
        }
        out
    }
}

impl UserMem for FrameMem<'_> {
    fn read(&self, addr: u64, buf: &mut [u8]) -> ulna_kvm_core::Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let (n, at) = self.find(part::IN, addr, buf.len()).ok_or(Errno::EFAULT)?;
        buf.copy_from_slice(&self.given(n)[at..at + buf.len()]);
        Ok(())
    }

    fn write(&self, addr: u64, data: &[u8]) -> ulna_kvm_core::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let (n, at) = self.find(part::OUT, addr, data.len()).ok_or(Errno::EFAULT)?;
        let mut written = lock(&self.written);
        let known = written.iter().position(|w| w.part == n);
        let i = known.unwrap_or_else(|| {
            // What is not written stays as it was.
            written.push(Written { part: n, data: self.given(n).to_vec() });
            written.len() - 1
        });
        let w = &mut written[i].data;
        if at > w.len() && self.frame.parts[n].len > LARGE {
            // What is long is written from its beginning on.
            return Err(Errno::EFAULT);
        }
        if w.len() < at + data.len() {
            w.resize(at + data.len(), 0);
        }
        w[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn backing(&self, addr: u64, len: u64) -> Option<Backing> {
        match self.windows.show(&self.frame.parts, &self.frame.fds, addr, len) {
            Ok((host, window)) => {
                let owner: Arc<dyn Any + Send + Sync> = window;
                // SAFETY: mapped, writable, as long as the window lives; nobody has references into it.
                Some(unsafe { Backing::new(host, owner) })
            }
            Err(m) => {
                *lock(&self.missing) = m == Missing::File;
                None
            }
        }
    }
}
