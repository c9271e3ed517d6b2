//! 16-byte compare-exchange on guest memory.

/// Strong compare-exchange of the 16 bytes at `p`.
///
/// # Safety
/// `p` is 16-byte aligned, writable guest memory.
#[cfg(target_arch = "x86_64")]
pub unsafe fn compare_exchange_16(p: *mut u8, old: u128, new: u128) -> bool {
    use std::arch::x86_64::cmpxchg16b;
    use std::sync::atomic::Ordering;
    if !std::arch::is_x86_feature_detected!("cmpxchg16b") {
        // SAFETY: the caller's.
        return unsafe { locked(p, old, new) };
    }
    #[target_feature(enable = "cmpxchg16b")]
    unsafe fn go(p: *mut u128, old: u128, new: u128) -> u128 {
        // SAFETY: the caller's.
        unsafe { cmpxchg16b(p, old, new, Ordering::SeqCst, Ordering::SeqCst) }
    }
    // SAFETY: the feature was detected; the pointer is the caller's.
    unsafe { go(p.cast(), old, new) == old }
}

/// Strong compare-exchange of the 16 bytes at `p`.
///
/// # Safety
/// `p` is 16-byte aligned, writable guest memory.
#[cfg(not(target_arch = "x86_64"))]
pub unsafe fn compare_exchange_16(p: *mut u8, old: u128, new: u128) -> bool {
    // SAFETY: the caller's.
    unsafe { locked(p, old, new) }
}

/// Without a 16-byte instruction: serialised among our own vCPUs by a lock.
///
/// # Safety
/// `p` is writable guest memory.
unsafe fn locked(p: *mut u8, old: u128, new: u128) -> bool {
    use crate::mem::access::MemInt;
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _g = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    // SAFETY: the caller's.
    unsafe {
        if u128::get(p) != old {
            return false;
        }
        u128::put(p, new);
    }
    true
}
