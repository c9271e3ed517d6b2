//! Tables that start as zero pages: the host gives no memory for what is never written, so a vCPU that never runs costs
//! next to nothing.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};

/// A type whose all-zero bytes are a value.
///
/// # Safety
/// All-zero bytes must be a valid value of the type.
pub(crate) unsafe trait Zeroable {}

/// `n` zeros.
pub(crate) fn zeroed_slice<T: Zeroable>(n: usize) -> Box<[T]> {
    let Ok(layout) = Layout::array::<T>(n) else { return Box::default() };
    if layout.size() == 0 {
        return Box::default();
    }
    // SAFETY: the size is not zero.
    let p = unsafe { alloc_zeroed(layout) }.cast::<T>();
    if p.is_null() {
        handle_alloc_error(layout);
    }
    // SAFETY: `p` is an allocation of the global allocator with the layout of `[T; n]`, and zeros are valid values.
    unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(p, n)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(u64, u8);
    // SAFETY: integers.
    unsafe impl Zeroable for Pair {}

    #[test]
    fn a_table_is_zero_and_may_be_empty() {
        assert!(zeroed_slice::<Pair>(0).is_empty());
        let t = zeroed_slice::<Pair>(1000);
        assert!(t.len() == 1000 && t.iter().all(|p| p.0 == 0 && p.1 == 0));
    }
}
