//! The state of a machine as bytes: snapshots and live moves (docs: reference/stream).
//!
//! 1. A stream is a magic number, a version, and sections; each section has a kind, a version, a length, a number and a
//!    checksum ([`Writer`], [`Reader`]).
//! 2. A section of unknown kind is refused, unless it is marked as one that may be left out; so is a register that the
//!    destination does not know, unless it has the value at which it does not matter ([`Reg::neutral`]).
//! 3. No byte of a stream is trusted: a reader allocates no more than it was given, and ends in an [`Error`] that names the
//!    section and the place.
//! 4. Who runs the guest is decided by the state machines of [`handover`], which know neither sockets nor threads.
#![forbid(unsafe_code)]

mod bytes;
mod error;
pub mod handover;
mod phase;
mod reader;
mod section;
mod tripwires;
mod writer;

pub use error::{Error, Malformed};
pub use phase::Phase;
pub use reader::{Raw, Reader};
pub use section::{
    Attr, Codec, Device, Gic, Header, Kind, Pages, Policy, Power, Reg, Region, Section, Sums, Vcpu, Zero,
};
pub use writer::Writer;

/// First bytes of a stream.
pub const MAGIC: [u8; 8] = *b"ULNAMOVE";
/// A reader takes streams of this major version only.
pub const MAJOR: u16 = 1;
/// Raised when sections or fields are added that older readers may leave out.
pub const MINOR: u16 = 0;
/// Longest payload of a section.
pub const MAX_SECTION: u64 = 16 << 20;
/// Bytes before the payload of a section.
pub const HEAD: usize = 24;
