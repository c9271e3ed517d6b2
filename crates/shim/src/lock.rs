//! A lock that a fork can take and give back, and that has no poison.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};

/// A futex: 0 free, 1 held, 2 held and somebody waits.
pub struct Lock<T> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only reached by who holds the lock.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub const fn new(value: T) -> Lock<T> {
        Lock { state: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    pub fn lock(&self) -> Held<'_, T> {
        self.take();
        Held(self)
    }

    /// Takes it without a guard: before a fork.
    pub fn take(&self) {
        if self.state.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return;
        }
        while self.state.swap(2, Ordering::Acquire) != 0 {
            let at = self.state.as_ptr();
            // SAFETY: waits on a word that lives as long as `self`.
            unsafe {
                libc::syscall(libc::SYS_futex, at, libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 2, 0usize)
            };
        }
    }

    /// Gives it back after [`Lock::take`]: after a fork, on both sides.
    pub fn give(&self) {
        if self.state.swap(0, Ordering::Release) == 2 {
            let at = self.state.as_ptr();
            // SAFETY: wakes one who waits on this word.
            unsafe { libc::syscall(libc::SYS_futex, at, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
        }
    }
}

pub struct Held<'a, T>(&'a Lock<T>);

impl<T> Deref for Held<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.0.give();
    }
}
