//! The host's 128-bit vector type.

/// Values cross between registers and arrays of lanes through this type: the compiler then keeps them in vector
/// registers, where it would take a 128-bit integer apart by shifts.
#[cfg(target_arch = "x86_64")]
pub type Vector = std::arch::x86_64::__m128i;

/// Where nothing better is known.
#[cfg(not(target_arch = "x86_64"))]
pub type Vector = [u64; 2];

/// Bitwise AND.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn and(a: Vector, b: Vector) -> Vector {
    // SAFETY: SSE2 belongs to every x86-64.
    unsafe { std::arch::x86_64::_mm_and_si128(a, b) }
}

/// Bitwise AND.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn and(a: Vector, b: Vector) -> Vector {
    [a[0] & b[0], a[1] & b[1]]
}

/// Reads 16 bytes of guest memory at any alignment, by one instruction: atomic at an aligned address on every host with AVX
/// (Intel SDM 3A 9.1.1, AMD APM 2 7.3.2), which is what FEAT_LSE2 promises for quadwords and pairs.
///
/// # Safety
/// `p` points to 16 mapped bytes of guest memory.
#[inline(always)]
pub unsafe fn load16(p: *const u8) -> u128 {
    // SAFETY: the caller's; a packed struct has alignment 1. Volatile accesses of a legal vector type are not split.
    bytemuck::cast(unsafe { std::ptr::read_volatile(p.cast::<Unaligned>()).0 })
}

/// Writes 16 bytes of guest memory, likewise.
///
/// # Safety
/// `p` points to 16 mapped, writable bytes of guest memory.
#[inline(always)]
pub unsafe fn store16(p: *mut u8, v: u128) {
    // SAFETY: as above.
    unsafe { std::ptr::write_volatile(p.cast::<Unaligned>(), Unaligned(bytemuck::cast(v))) }
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned(Vector);
