//! Tables that start as zero pages: the host gives no memory for what is never written, so a vCPU that never runs costs
//! next to nothing.
//!
//! They are mappings of their own. An allocator that finds room in its heap writes the zeros itself, and then a table costs
//! all of its size.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// A type whose all-zero bytes are a value, and that needs no drop.
///
/// # Safety
/// All-zero bytes must be a valid value of the type.
pub(crate) unsafe trait Zeroable: Copy {}

// SAFETY: an integer.
unsafe impl Zeroable for u64 {}
// SAFETY: zeros are a value of each element.
unsafe impl<T: Zeroable, const N: usize> Zeroable for [T; N] {}

/// A `T` that starts as zeros, in pages of its own.
pub struct Zeroed<T>(NonNull<T>);

// SAFETY: it owns its `T`, as a Box does.
unsafe impl<T: Send> Send for Zeroed<T> {}
// SAFETY: the same.
unsafe impl<T: Sync> Sync for Zeroed<T> {}

impl<T: Zeroable> Default for Zeroed<T> {
    fn default() -> Self {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= 4096) };
        let len = size_of::<T>();
        // SAFETY: a new mapping, wherever the host likes.
        let p =
            unsafe { mmap_anonymous(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
        let Some(p) = p.ok().and_then(NonNull::new) else { handle_alloc_error(Layout::new::<T>()) };
        // A huge page would be given whole for one entry. A host without them refuses, which is as well.
        // SAFETY: the mapping was made above.
        let _ = unsafe { madvise(p.as_ptr(), len, Advice::LinuxNoHugepage) };
        Zeroed(p.cast())
    }
}

impl<T> Deref for Zeroed<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the mapping holds a `T` (zeros are one), is aligned to pages, and lives as long as `self`.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Zeroed<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `self` is borrowed for as long.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Zeroed<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping of `default`, with its length; nobody can have a reference any more.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), size_of::<T>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    struct Pair(u64, u8);
    // SAFETY: integers.
    unsafe impl Zeroable for Pair {}

    #[test]
    fn a_table_is_zero_and_its_own() {
        let mut t = Zeroed::<[Pair; 1000]>::default();
        assert!(t.iter().all(|p| p.0 == 0 && p.1 == 0));
        t[999] = Pair(7, 8);
        let other = Zeroed::<[Pair; 1000]>::default();
        assert_eq!((other[999].0, t[999].0, t[999].1), (0, 7, 8));
        drop(other);
        assert_eq!(t[999].0, 7);
    }
}
