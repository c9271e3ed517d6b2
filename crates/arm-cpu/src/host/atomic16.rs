//! 16-byte compare-exchange on guest memory.

/// Strong compare-exchange of the 16 bytes at `p`.
///
/// # Safety
/// `p` is 16-byte aligned, writable guest memory.
#[cfg(target_arch = "x86_64")]
pub unsafe fn compare_exchange_16(p: *mut u8, old: u128, new: u128) -> bool {
    if !std::arch::is_x86_feature_detected!("cmpxchg16b") {
        // SAFETY: the caller's.
        return unsafe { locked(p, old, new) };
    }
    let done: u8;
    // The intrinsic of std becomes a library call where it is not inlined, hence by hand. RBX is LLVM's own: it is
    // exchanged around the instruction, and no operand may be allocated to it.
    // SAFETY: the feature was detected; the pointer is the caller's.
    unsafe {
        std::arch::asm!(
            "xchg rsi, rbx",
            "lock cmpxchg16b [rdi]",
            "sete r8b",
            "mov rbx, rsi",
            in("rdi") p,
            inout("rsi") new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") old as u64 => _,
            inout("rdx") (old >> 64) as u64 => _,
            out("r8b") done,
            options(nostack),
        );
    }
    done != 0
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
    use crate::mem::int::MemInt;
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
