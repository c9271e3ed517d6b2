//! Guest memory: physical map, translation, TLB, accesses.

pub mod access;
pub mod attr;
mod block;
pub mod dirty;
pub mod int;
pub(crate) mod page_state;
mod pair;
pub mod physmap;
pub mod stage1;
pub mod tlb;
pub(crate) mod zeroed;

pub use attr::{Acc, AccessKind};
pub use physmap::{PhysMap, Slot};
