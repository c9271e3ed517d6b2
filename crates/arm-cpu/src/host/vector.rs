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
