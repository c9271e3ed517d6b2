//! The program's memory: what is mapped where, and how it becomes memory that a guest can share.
//!
//! A slot's memory must be a file that the server can map. Shared files are (a second descriptor is kept while they are
//! mapped); private memory is replaced in place, whole mappings at once, by a file in memory with the same content, while
//! the program's other threads stand still.

use std::cell::Cell;
use std::ffi::c_int;

use ulna_kvm_abi::wire::{MAX_PARTS, Part, part};

use crate::lock::{Held, Lock};
use crate::ranges::{Ranges, Region, What};
use crate::real::{self, Fd, sys};
use crate::{stop, table};

const PAGE: u64 = 4096;

/// A file that is mapped, with a descriptor that is kept.
struct File {
    id: u32,
    fd: Fd,
}

/// What is known of the program's memory.
pub struct Memory {
    ranges: Ranges,
    files: Vec<File>,
    next: u32,
}

static MEMORY: Lock<Memory> = Lock::new(Memory { ranges: Ranges::new(), files: Vec::new(), next: 1 });

thread_local! {
    /// This thread holds the lock: what it maps meanwhile is the library's own.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The lock with a mark on the thread.
struct Inside(Held<'static, Memory>);

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with(|i| i.set(false));
    }
}

fn enter() -> Option<Inside> {
    if INSIDE.with(|i| i.replace(true)) {
        return None;
    }
    Some(Inside(MEMORY.lock()))
}

/// Around a fork.
pub fn before_fork() {
    MEMORY.take();
}
/// On both sides.
pub fn after_fork() {
    MEMORY.give();
}

impl Memory {
    /// Closes files of which nothing is mapped any more.
    fn forget(&mut self, gone: &[Region]) {
        for r in gone {
            if let What::File { id, .. } = r.what
                && !self.ranges.uses(id)
                && let Some(n) = self.files.iter().position(|f| f.id == id)
            {
                table::unhide(self.files[n].fd.0);
                self.files.swap_remove(n);
            }
        }
    }

    fn add_file(&mut self, fd: Fd) -> u32 {
        let id = self.next;
        self.next += 1;
        self.files.push(File { id, fd });
        id
    }

    fn file(&self, id: u32) -> Option<c_int> {
        self.files.iter().find(|f| f.id == id).map(|f| f.fd.0)
    }

    /// Finds what the program did not map by itself, as libc tells of none of its own mappings.
    fn discover(&mut self, start: u64, end: u64) -> Result<(), c_int> {
        let gaps = self.ranges.gaps(start, end);
        if gaps.is_empty() {
            return Ok(());
        }
        let maps = std::fs::read_to_string("/proc/self/maps").map_err(|_| libc::ENOMEM)?;
        for (s, e) in gaps {
            for (from, to, prot) in maps.lines().filter_map(maps_line) {
                let (from, to) = (from.max(s), to.min(e));
                if from < to {
                    self.ranges.put(Region { start: from, end: to, prot, what: What::Private });
                }
            }
        }
        // What is mapped nowhere is memory that the program never sees.
        for (s, e) in self.ranges.gaps(start, end) {
            let fd = real::memory_file(c"ulna-nowhere", libc::MFD_CLOEXEC)?.hide();
            sys!(SYS_ftruncate, fd.0, (e - s) as i64)?;
            let id = self.add_file(fd);
            let what = What::File { id, offset: 0, converted: false };
            self.ranges.put(Region { start: s, end: e, prot: 0, what });
        }
        Ok(())
    }
}

/// A line of /proc/self/maps.
fn maps_line(line: &str) -> Option<(u64, u64, i32)> {
    let (range, rest) = line.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    let bit = |n: usize, c: u8, v: i32| if rest.as_bytes().get(n) == Some(&c) { v } else { 0 };
    let prot = bit(0, b'r', libc::PROT_READ) | bit(1, b'w', libc::PROT_WRITE) | bit(2, b'x', libc::PROT_EXEC);
    Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?, prot))
}

/// Private memory, and the file that takes its place.
struct Conversion {
    region: Region,
    file: Fd,
    /// Room for what mincore tells; empty where everything is copied.
    resident: Vec<u8>,
}

/// Pages that mincore is asked for at once.
const CHUNK: u64 = 1 << 30;

impl Conversion {
    fn new(region: Region, sparse: bool) -> Result<Conversion, c_int> {
        let len = region.end - region.start;
        let file = real::memory_file(c"ulna-guest-memory", libc::MFD_CLOEXEC)?.hide();
        sys!(SYS_ftruncate, file.0, len as i64)?;
        let sparse = sparse && region.what == What::Anonymous;
        let resident = if sparse { vec![0; (CHUNK.min(len) / PAGE) as usize] } else { Vec::new() };
        Ok(Conversion { region, file, resident })
    }

    /// Takes the memory's place. Other threads stand, so this uses no memory of the heap.
    fn replace(&mut self) -> Result<(), c_int> {
        let r = self.region;
        copy(&r, self.file.0, &mut self.resident);
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
        sys!(SYS_mmap, r.start as usize, (r.end - r.start) as usize, r.prot, flags, self.file.0, 0i64)?;
        Ok(())
    }
}

/// Does nothing of this process lie in swap?
fn no_swap() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmSwap:"));
    line.is_some_and(|l| l.trim_start().starts_with("0 "))
}

/// Copies what was ever written of private memory: pages that were never touched are told by mincore.
fn copy(r: &Region, fd: c_int, resident: &mut [u8]) {
    if resident.is_empty() {
        return copy_run(r.start, r.end - r.start, fd, 0);
    }
    let mut at = r.start;
    while at < r.end {
        let n = CHUNK.min(r.end - at);
        let pages = (n / PAGE) as usize;
        if sys!(SYS_mincore, at as usize, n as usize, resident.as_mut_ptr()).is_err() {
            resident[..pages].fill(1);
        }
        let mut page = 0;
        while page < pages {
            if resident[page] & 1 == 0 {
                page += 1;
                continue;
            }
            let run = resident[page..pages].iter().take_while(|b| **b & 1 != 0).count();
            let (from, len) = (at + page as u64 * PAGE, run as u64 * PAGE);
            copy_run(from, len, fd, from - r.start);
            page += run;
        }
        at += n;
    }
}

/// The kernel copies, so that memory without access is no fault but no content.
fn copy_run(from: u64, len: u64, fd: c_int, offset: u64) {
    let mut done = 0;
    while done < len {
        let at = (from + done) as usize;
        match sys!(SYS_pwrite64, fd, at, (len - done) as usize, (offset + done) as i64) {
            Ok(n) if n > 0 => done += n as u64,
            _ => done = (done & !(PAGE - 1)) + PAGE,
        }
    }
}

/// The memory of a slot as parts of a request, and the file of each.
pub fn describe(addr: u64, len: u64) -> Result<(Vec<Part>, Vec<c_int>), c_int> {
    let mut guard = enter().ok_or(libc::EFAULT)?;
    let m = &mut *guard.0;
    let end = addr.checked_add(len).ok_or(libc::EINVAL)?;
    m.discover(addr, end)?;
    let private = |r: &&Region| !matches!(r.what, What::File { .. });
    let todo: Vec<Region> = m.ranges.over(addr, end).iter().filter(private).copied().collect();
    if !todo.is_empty() {
        // Pages in swap are not resident, and not untouched.
        let sparse = no_swap();
        let made: Result<Vec<_>, _> = todo.iter().map(|r| Conversion::new(*r, sparse)).collect();
        let mut made = made?;
        let mut done = 0;
        let result = {
            let _still = stop::world();
            made.iter_mut().try_for_each(|c| c.replace().inspect(|()| done += 1))
        };
        for c in made.drain(..done) {
            let id = m.add_file(c.file);
            m.ranges.put(Region { what: What::File { id, offset: 0, converted: true }, ..c.region });
        }
        result?;
    }
    let (mut parts, mut fds) = (Vec::new(), Vec::new());
    for r in m.ranges.over(addr, end) {
        let What::File { id, offset, .. } = r.what else { return Err(libc::EFAULT) };
        let p =
            Part { addr: r.start, len: r.end - r.start, offset, kind: part::MEMORY, id, ..Part::default() };
        parts.push(p);
        fds.push(m.file(id).ok_or(libc::EFAULT)?);
    }
    // As many as a message takes.
    if parts.len() > usize::from(MAX_PARTS) / 8 {
        return Err(libc::ENOMEM);
    }
    Ok((parts, fds))
}

fn pages(len: usize) -> u64 {
    (len as u64).saturating_add(PAGE - 1) & !(PAGE - 1)
}

/// `mmap`, for memory of the program's own.
pub fn map(
    addr: usize,
    len: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> Result<usize, c_int> {
    let Some(mut guard) = enter() else {
        return sys!(SYS_mmap, addr, len, prot, flags, fd, offset);
    };
    let m = &mut *guard.0;
    let shared = matches!(flags & libc::MAP_TYPE, libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE);
    let anonymous = flags & libc::MAP_ANONYMOUS != 0;
    // Shared memory that no file stands for: a file that does.
    if shared
        && anonymous
        && flags & libc::MAP_HUGETLB == 0
        && let Ok(file) = real::memory_file(c"ulna-shared-memory", libc::MFD_CLOEXEC)
    {
        let file = file.hide();
        sys!(SYS_ftruncate, file.0, pages(len) as i64).map_err(|_| libc::ENOMEM)?;
        let at = sys!(SYS_mmap, addr, len, prot, flags & !libc::MAP_ANONYMOUS, file.0, 0i64)?;
        let id = m.add_file(file);
        note(m, at, len, prot, What::File { id, offset: 0, converted: false });
        return Ok(at);
    }
    let at = sys!(SYS_mmap, addr, len, prot, flags, fd, offset)?;
    let what = if anonymous {
        What::Anonymous
    } else if !shared {
        What::Private
    } else {
        match sys!(SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, 0) {
            Ok(again) => {
                let id = m.add_file(Fd(again as c_int).hide());
                What::File { id, offset: offset as u64, converted: false }
            }
            Err(_) => What::Private,
        }
    };
    note(m, at, len, prot, what);
    Ok(at)
}

fn note(m: &mut Memory, at: usize, len: usize, prot: c_int, what: What) {
    let start = at as u64;
    let gone = m.ranges.put(Region { start, end: start + pages(len), prot, what });
    m.forget(&gone);
}

/// `munmap`.
pub fn unmap(addr: usize, len: usize) -> Result<usize, c_int> {
    let Some(mut guard) = enter() else { return sys!(SYS_munmap, addr, len) };
    let r = sys!(SYS_munmap, addr, len)?;
    let gone = guard.0.ranges.cut(addr as u64, (addr as u64).saturating_add(pages(len)));
    guard.0.forget(&gone);
    Ok(r)
}

/// `mremap`.
pub fn remap(addr: usize, old: usize, new: usize, flags: c_int, to: usize) -> Result<usize, c_int> {
    let Some(mut guard) = enter() else { return sys!(SYS_mremap, addr, old, new, flags, to) };
    let m = &mut *guard.0;
    let at = sys!(SYS_mremap, addr, old, new, flags, to)?;
    let (start, old) = (addr as u64, pages(old));
    // An old length of zero maps the same once more.
    let moved =
        if old == 0 { m.ranges.over(start, start + 1).to_vec() } else { m.ranges.cut(start, start + old) };
    let dont_unmap = flags & libc::MREMAP_DONTUNMAP != 0;
    let (to, new) = (at as u64, pages(new));
    let gone = m.ranges.cut(to, to + new);
    for (n, r) in moved.iter().enumerate() {
        if dont_unmap {
            m.ranges.put(*r);
        }
        let offset = r.start.saturating_sub(start);
        let end = if n + 1 == moved.len() { new } else { offset + (r.end - r.start) };
        let what = match r.what {
            What::File { id, offset: o, converted } => {
                if converted && let Some(fd) = m.file(id) {
                    // Memory that took the place of anonymous memory grows with it.
                    let size = o + end.saturating_sub(offset);
                    let _ = grow(fd, size);
                }
                What::File { id, offset: o + start.saturating_sub(r.start), converted }
            }
            w => w,
        };
        if offset < new {
            m.ranges.put(Region { start: to + offset, end: to + end.min(new), prot: r.prot, what });
        }
    }
    m.forget(&gone);
    m.forget(&moved);
    Ok(at)
}

/// A file is at least so long.
fn grow(fd: c_int, size: u64) -> Result<(), c_int> {
    let now = sys!(SYS_lseek, fd, 0i64, libc::SEEK_END)? as u64;
    if now < size {
        sys!(SYS_ftruncate, fd, size as i64)?;
    }
    Ok(())
}

/// `mprotect`.
pub fn protect(addr: usize, len: usize, prot: c_int) -> Result<usize, c_int> {
    let Some(mut guard) = enter() else { return sys!(SYS_mprotect, addr, len, prot) };
    let r = sys!(SYS_mprotect, addr, len, prot)?;
    guard.0.ranges.protect(addr as u64, (addr as u64).saturating_add(pages(len)), prot);
    Ok(r)
}

/// `madvise`: memory that took the place of anonymous memory is zero after MADV_DONTNEED, as that was.
pub fn advise(addr: usize, len: usize, advice: c_int) -> Result<usize, c_int> {
    let plain = || sys!(SYS_madvise, addr, len, advice);
    if !matches!(advice, libc::MADV_DONTNEED | libc::MADV_FREE) {
        return plain();
    }
    let Some(guard) = enter() else { return plain() };
    let (start, end) = (addr as u64, (addr as u64).saturating_add(pages(len)));
    let converted: Vec<Region> = guard.0.ranges.over(start, end).to_vec();
    for r in converted {
        let What::File { id, offset, converted: true } = r.what else { continue };
        let Some(fd) = guard.0.file(id) else { continue };
        let (from, to) = (r.start.max(start), r.end.min(end));
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        sys!(SYS_fallocate, fd, mode, (offset + (from - r.start)) as i64, (to - from) as i64)?;
    }
    if advice == libc::MADV_FREE {
        // Not for shared memory; what was punched out is free.
        let anonymous = |r: &Region| r.what == What::Anonymous;
        return if guard.0.ranges.over(start, end).iter().all(anonymous) { plain() } else { Ok(0) };
    }
    plain()
}
