//! The integers of guest memory: how they are read, written and changed atomically.

use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::host::vector;

/// An integer that loads and stores transfer: little-endian in memory.
pub trait MemInt: Copy + Default + PartialEq + 'static {
    /// Size in bytes.
    const SIZE: u64;
    /// Reads it at any alignment.
    ///
    /// # Safety
    /// `p` points to `SIZE` mapped bytes of guest memory.
    unsafe fn get(p: *const u8) -> Self;
    /// Writes it at any alignment.
    ///
    /// # Safety
    /// `p` points to `SIZE` mapped, writable bytes of guest memory.
    unsafe fn put(p: *mut u8, v: Self);
    /// Reads two adjacent ones; doublewords at an aligned address in one access (FEAT_LSE2).
    ///
    /// # Safety
    /// As for `get`, twice the size.
    unsafe fn get_pair(p: *const u8) -> (Self, Self);
    /// Writes two adjacent ones.
    ///
    /// # Safety
    /// As for `put`, twice the size.
    unsafe fn put_pair(p: *mut u8, a: Self, b: Self);
    /// From little-endian bytes.
    fn from_le(b: &[u8; 16]) -> Self;
    /// To little-endian bytes.
    fn to_le(self) -> [u8; 16];
    /// Byte order reversed, when `swap`.
    fn swap(self, swap: bool) -> Self;
}

/// Memory of unknown alignment, read and written as a whole: guest memory changes behind the compiler's back, so accesses
/// are volatile.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned<T: Copy>(T);

/// How integers are accessed: one by one, with the host's instruction for the size.
mod single {
    use super::{MemInt, Unaligned, ptr};

    #[inline(always)]
    pub unsafe fn get<T: Copy>(p: *const u8) -> T {
        // SAFETY: the caller's; a packed struct has alignment 1.
        unsafe { ptr::read_volatile(p.cast::<Unaligned<T>>()).0 }
    }
    #[inline(always)]
    pub unsafe fn put<T: Copy>(p: *mut u8, v: T) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(p.cast::<Unaligned<T>>(), Unaligned(v)) }
    }
    #[inline(always)]
    pub unsafe fn get_pair<T: MemInt>(p: *const u8) -> (T, T) {
        // SAFETY: the caller's.
        unsafe { (T::get(p), T::get(p.wrapping_add(T::SIZE as usize))) }
    }
    #[inline(always)]
    pub unsafe fn put_pair<T: MemInt>(p: *mut u8, a: T, b: T) {
        // SAFETY: the caller's.
        unsafe {
            T::put(p, a);
            T::put(p.wrapping_add(T::SIZE as usize), b);
        }
    }
}

/// Pairs of doublewords, in one access (FEAT_LSE2).
mod doublewords {
    use super::vector;

    #[inline(always)]
    pub unsafe fn get_pair(p: *const u8) -> (u64, u64) {
        // SAFETY: the caller's.
        let v = unsafe { vector::load16(p) };
        (v as u64, (v >> 64) as u64)
    }
    #[inline(always)]
    pub unsafe fn put_pair(p: *mut u8, a: u64, b: u64) {
        // SAFETY: the caller's.
        unsafe { vector::store16(p, u128::from(b) << 64 | u128::from(a)) }
    }
}

macro_rules! mem_int {
    ($($t:ty: $get:path, $put:path, $get_pair:path, $put_pair:path;)*) => { $(
        impl MemInt for $t {
            const SIZE: u64 = size_of::<$t>() as u64;
            #[inline(always)]
            unsafe fn get(p: *const u8) -> Self {
                // SAFETY: the caller's.
                unsafe { $get(p) }
            }
            #[inline(always)]
            unsafe fn put(p: *mut u8, v: Self) {
                // SAFETY: the caller's.
                unsafe { $put(p, v) }
            }
            #[inline(always)]
            unsafe fn get_pair(p: *const u8) -> (Self, Self) {
                // SAFETY: the caller's.
                unsafe { $get_pair(p) }
            }
            #[inline(always)]
            unsafe fn put_pair(p: *mut u8, a: Self, b: Self) {
                // SAFETY: the caller's.
                unsafe { $put_pair(p, a, b) }
            }
            fn from_le(b: &[u8; 16]) -> Self {
                let mut a = [0; size_of::<$t>()];
                a.copy_from_slice(&b[..size_of::<$t>()]);
                <$t>::from_le_bytes(a)
            }
            fn to_le(self) -> [u8; 16] {
                let mut b = [0; 16];
                b[..size_of::<$t>()].copy_from_slice(&self.to_le_bytes());
                b
            }
            #[inline(always)]
            fn swap(self, swap: bool) -> Self {
                if swap { self.swap_bytes() } else { self }
            }
        }
    )* };
}

mem_int! {
    u8: single::get, single::put, single::get_pair, single::put_pair;
    u16: single::get, single::put, single::get_pair, single::put_pair;
    u32: single::get, single::put, single::get_pair, single::put_pair;
    u64: single::get, single::put, doublewords::get_pair, doublewords::put_pair;
    u128: vector::load16, vector::store16, single::get_pair, single::put_pair;
}

/// Integers with atomic read-modify-write on guest memory.
pub trait AtomicInt: MemInt {
    /// Replaces by `f(old)` atomically; returns old.
    ///
    /// # Safety
    /// `p` points to writable guest memory.
    unsafe fn update(p: *mut u8, f: impl Fn(Self) -> Self) -> Self;
    /// Strong compare-exchange.
    ///
    /// # Safety
    /// `p` points to writable guest memory.
    unsafe fn compare_exchange(p: *mut u8, old: Self, new: Self) -> bool;
}

macro_rules! atomic_int {
    ($($t:ty, $a:ty);*) => { $(
        impl AtomicInt for $t {
            #[inline(always)]
            unsafe fn update(p: *mut u8, f: impl Fn(Self) -> Self) -> Self {
                if p as usize % size_of::<$t>() != 0 {
                    // SAFETY: the caller's.
                    return unsafe { update_unaligned(p, size_of::<$t>(), f) };
                }
                // SAFETY: the caller's, and aligned.
                let a = unsafe { <$a>::from_ptr(p.cast()) };
                let mut old = a.load(Ordering::SeqCst);
                loop {
                    match a.compare_exchange_weak(old, f(old), Ordering::SeqCst, Ordering::SeqCst) {
                        Ok(_) => return old,
                        Err(now) => old = now,
                    }
                }
            }
            #[inline(always)]
            unsafe fn compare_exchange(p: *mut u8, old: Self, new: Self) -> bool {
                if p as usize % size_of::<$t>() != 0 {
                    // SAFETY: the caller's; FEAT_LSE2 keeps it inside 16 bytes.
                    let was: $t = unsafe { update_unaligned(p, size_of::<$t>(), |v: $t| if v == old { new } else { v }) };
                    return was == old;
                }
                // SAFETY: the caller's, and aligned.
                let a = unsafe { <$a>::from_ptr(p.cast()) };
                a.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            }
        }
    )* };
}
atomic_int!(u8, AtomicU8; u16, AtomicU16; u32, AtomicU32; u64, AtomicU64);

impl AtomicInt for u128 {
    unsafe fn update(p: *mut u8, f: impl Fn(Self) -> Self) -> Self {
        loop {
            // SAFETY: the caller's.
            let old = unsafe { u128::get(p) };
            // SAFETY: the caller's; 16-byte atomics are 16-byte aligned (checked before).
            if unsafe { crate::host::atomic16::compare_exchange_16(p, old, f(old)) } {
                return old;
            }
        }
    }
    unsafe fn compare_exchange(p: *mut u8, old: Self, new: Self) -> bool {
        // SAFETY: the caller's.
        unsafe { crate::host::atomic16::compare_exchange_16(p, old, new) }
    }
}

/// FEAT_LSE2: an atomic inside an aligned 16-byte quantity, done as one on the whole quantity.
///
/// # Safety
/// The 16-byte quantity around `p` is writable guest memory (it never leaves the page).
#[cold]
unsafe fn update_unaligned<T: MemInt>(p: *mut u8, size: usize, f: impl Fn(T) -> T) -> T {
    let base = (p as usize & !15) as *mut u8;
    let off = p as usize & 15;
    loop {
        // SAFETY: the caller's.
        let old = unsafe { u128::get(base) };
        let whole = old.to_le_bytes();
        let mut part = [0u8; 16];
        part[..size].copy_from_slice(&whole[off..off + size]);
        let new_part = MemInt::to_le(f(<T as MemInt>::from_le(&part)));
        let mut new = whole;
        new[off..off + size].copy_from_slice(&new_part[..size]);
        // SAFETY: the caller's; `base` is 16-byte aligned.
        if unsafe { crate::host::atomic16::compare_exchange_16(base, old, u128::from_le_bytes(new)) } {
            return <T as MemInt>::from_le(&part);
        }
    }
}

/// # Safety
/// `p..p+out.len()` is guest memory; unused when `out` is empty.
pub(super) unsafe fn get_bytes(p: *const u8, out: &mut [u8]) {
    // Aligned quantities in one go, so that they are single-copy atomic.
    // SAFETY: the caller's.
    unsafe {
        match out.len() {
            16 => out.copy_from_slice(&u128::get(p).to_le_bytes()),
            8 => out.copy_from_slice(&u64::get(p).to_le_bytes()),
            4 => out.copy_from_slice(&u32::get(p).to_le_bytes()),
            2 => out.copy_from_slice(&u16::get(p).to_le_bytes()),
            _ => {
                for (i, b) in out.iter_mut().enumerate() {
                    *b = u8::get(p.wrapping_add(i));
                }
            }
        }
    }
}

/// # Safety
/// `p..p+data.len()` is writable guest memory.
pub(super) unsafe fn put_bytes(p: *mut u8, data: &[u8]) {
    // SAFETY: the caller's.
    unsafe {
        if let Ok(d) = <[u8; 16]>::try_from(data) {
            return u128::put(p, u128::from_le_bytes(d));
        }
        match *data {
            [a, b, c, d, e, f, g, h] => u64::put(p, u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            [a, b, c, d] => u32::put(p, u32::from_le_bytes([a, b, c, d])),
            [a, b] => u16::put(p, u16::from_le_bytes([a, b])),
            _ => {
                for (i, b) in data.iter().enumerate() {
                    u8::put(p.wrapping_add(i), *b);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[repr(align(16))]
    struct Quadword([u8; 16]);

    /// Writes all zeros and all ones in turn; tells how many reads saw a mixture.
    fn torn(write: impl Fn(*mut u8, u64) + Sync, read: impl Fn(*const u8) -> (u64, u64)) -> usize {
        let mut q = Quadword([0; 16]);
        // An address, so that both threads have it.
        let p = q.0.as_mut_ptr() as usize;
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                let mut v = 0;
                while !stop.load(Ordering::Relaxed) {
                    write(p as *mut u8, v);
                    v = !v;
                }
            });
            // Only reads beside a writer that is under way count: those that find another value than the last one.
            let (mut changes, mut torn, mut last) = (0, 0, 0);
            while changes < 20_000 {
                let (a, b) = read(p as *const u8);
                torn += usize::from(a != b);
                changes += usize::from(a != last);
                last = a;
            }
            stop.store(true, Ordering::Relaxed);
            torn
        })
    }

    /// FEAT_LSE2: pairs of doublewords and quadwords at an aligned address are single-copy atomic (Arm ARM B2.2.1).
    #[test]
    fn aligned_pairs_and_quadwords_are_never_torn() {
        // SAFETY: the pointer is to 16 aligned bytes that outlive the threads.
        let pairs = torn(|p, v| unsafe { u64::put_pair(p, v, v) }, |p| unsafe { u64::get_pair(p) });
        assert_eq!(pairs, 0);
        let quadwords = torn(
            // SAFETY: as above.
            |p, v| unsafe { u128::put(p, u128::from(v) << 64 | u128::from(v)) },
            |p| {
                // SAFETY: as above.
                let v = unsafe { u128::get(p) };
                (v as u64, (v >> 64) as u64)
            },
        );
        assert_eq!(quadwords, 0);
    }
}
