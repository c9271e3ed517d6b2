//! Memory for generated code: shared memory mapped twice, so that no page is ever writable and executable.

use std::ptr::NonNull;

use rustix::mm::{MapFlags, MprotectFlags, MremapFlags, ProtFlags, mmap_anonymous, mprotect, mremap, munmap};

/// A region of code with a writable and an executable view.
#[derive(Debug)]
pub struct CodeMemory {
    write: NonNull<u8>,
    exec: NonNull<u8>,
    len: usize,
    used: usize,
}

// SAFETY: the views belong to this value alone and are reached through `&mut self`, or executed by the thread that has it.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    /// Maps `len` bytes; the host gives pages as they are written.
    pub fn new(len: usize) -> std::io::Result<CodeMemory> {
        let none = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        // Shared and anonymous, for `perf` gives names only to code in anonymous memory.
        // SAFETY: a new mapping at an address that the host chooses.
        let write = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
        }?;
        // SAFETY: an old size of 0 maps the same pages of a shared mapping once more (mremap(2)).
        let exec = unsafe { mremap(write, 0, len, MremapFlags::MAYMOVE) };
        let exec = exec.and_then(|p| {
            // SAFETY: the mapping just made, which nobody uses yet.
            match unsafe { mprotect(p, len, MprotectFlags::READ | MprotectFlags::EXEC) } {
                Ok(()) => Ok(p),
                Err(e) => {
                    // SAFETY: as above.
                    let _ = unsafe { munmap(p, len) };
                    Err(e)
                }
            }
        });
        let exec = match exec {
            Ok(p) => p,
            Err(e) => {
                // SAFETY: mapped above, of this length, and used by nobody.
                let _ = unsafe { munmap(write, len) };
                return Err(e.into());
            }
        };
        let write = NonNull::new(write.cast::<u8>()).ok_or_else(none)?;
        let exec = NonNull::new(exec.cast::<u8>()).ok_or_else(none)?;
        Ok(CodeMemory { write, exec, len, used: 0 })
    }
    /// Bytes used.
    pub fn used(&self) -> usize {
        self.used
    }
    /// Bytes left.
    pub fn left(&self) -> usize {
        self.len - self.used
    }
    /// Forgets everything behind `used`.
    pub fn truncate(&mut self, used: usize) {
        self.used = self.used.min(used);
    }
    /// Appends code, aligned for the next piece; returns its offset, or `None` when it is full.
    pub fn push(&mut self, code: &[u8]) -> Option<u32> {
        let at = self.used;
        let end = at.checked_add(code.len())?.next_multiple_of(16);
        if end > self.len {
            return None;
        }
        self.patch(at as u32, code);
        self.used = end;
        Some(at as u32)
    }
    /// Overwrites code.
    pub fn patch(&mut self, at: u32, code: &[u8]) {
        let at = at as usize;
        if at.checked_add(code.len()).is_none_or(|end| end > self.len) {
            return;
        }
        // SAFETY: inside the writable view, as just checked; nothing holds references into it.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.write.as_ptr().add(at), code.len()) }
    }
    /// Address of an offset in the executable view.
    pub fn address(&self, at: u32) -> u64 {
        self.exec.as_ptr() as u64 + u64::from(at)
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        // SAFETY: both were mapped in `new` with this length; code in them does not run any more.
        unsafe {
            let _ = munmap(self.write.as_ptr().cast(), self.len);
            let _ = munmap(self.exec.as_ptr().cast(), self.len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_views_show_the_same_bytes_and_a_full_region_refuses() {
        let mut m = CodeMemory::new(4096).expect("memory");
        assert_eq!(m.push(&[1, 2, 3]), Some(0));
        assert_eq!(m.push(&[4; 16]), Some(16));
        m.patch(1, &[9]);
        // SAFETY: inside the region.
        let seen = unsafe { std::slice::from_raw_parts(m.address(0) as *const u8, 32) };
        assert_eq!(seen[..3], [1, 9, 3]);
        assert_eq!(seen[16..], [4; 16]);
        assert_eq!(m.push(&[0; 4090]), None);
        m.truncate(0);
        assert_eq!(m.push(&[0; 4090]), Some(0));
        m.patch(4095, &[0; 2]);
    }
}
