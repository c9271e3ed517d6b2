//! Advanced SIMD integer operations as pure functions on whole registers.
//!
//! An operation takes the size field (0-3: lanes of 8, 16, 32, 64 bits), the old destination `d`, the operands `n` and
//! `m`, and a flag that it sets when it saturated. Half-width and scalar forms are the same functions: the caller clears
//! the lanes that do not take part, and zeros never saturate.

pub mod estimate;
pub mod lanes;
pub mod narrow;
pub mod pair;
pub mod permute;
pub mod product;
pub mod same;
pub mod shift;
pub mod widen;
