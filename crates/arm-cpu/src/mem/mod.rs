//! Guest memory: physical map, translation, TLB, accesses.

pub mod access;
pub mod attr;
pub mod physmap;
pub mod stage1;
pub mod tlb;
mod wide;

pub use attr::{AccessKind, Acc};
pub use physmap::{PhysMap, Slot};
