//! What can be wrong with a stream.

use crate::Kind;
use std::io;
use thiserror::Error;

/// Why a stream cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Something else.
    #[error("not a stream of ulna: it begins with {0:02x?}")]
    Magic([u8; 8]),
    /// Of another time.
    #[error("format version {major}.{minor}; this ulna reads version {}.x", crate::MAJOR)]
    Version {
        /// Of the stream.
        major: u16,
        /// Of the stream.
        minor: u16,
    },
    /// The stream ends inside something.
    #[error("the stream ends at byte {at}, within {within}")]
    Truncated {
        /// Bytes there are.
        at: u64,
        /// What is cut.
        within: String,
    },
    /// A length that no section has.
    #[error("byte {at}: a section of {length} bytes; {} is the most", crate::MAX_SECTION)]
    TooLong {
        /// Where the section begins.
        at: u64,
        /// What it says of itself.
        length: u64,
    },
    /// The bytes are not those that were written.
    #[error("byte {at}: the checksum of section {number} ({kind}) is wrong")]
    Checksum {
        /// Where the section begins.
        at: u64,
        /// Which section it should be.
        number: u32,
        /// What it says it is.
        kind: Kind,
    },
    /// Sections are missing or doubled.
    #[error("byte {at}: section {found} where section {expected} belongs")]
    Number {
        /// Where the section begins.
        at: u64,
        /// Its number.
        found: u32,
        /// What should be there.
        expected: u32,
    },
    /// Of a newer ulna, and not to be left out.
    #[error(
        "byte {at}: {kind} version {version}, which this ulna does not know and which must not be left out"
    )]
    Unknown {
        /// Where the section begins.
        at: u64,
        /// Its kind.
        kind: Kind,
        /// Its version.
        version: u16,
    },
    /// The checksum is right, the content is not.
    #[error("byte {at}: {kind}: {why}")]
    Malformed {
        /// Where the section begins.
        at: u64,
        /// Its kind.
        kind: Kind,
        /// What is wrong.
        why: Malformed,
    },
}

/// What is wrong with the content of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// It ends inside a field.
    #[error("it ends within a field")]
    Short,
    /// It goes on after its last field.
    #[error("{0} bytes too many")]
    Long(usize),
    /// Text that is no UTF-8.
    #[error("text that is not UTF-8")]
    Text,
    /// A field has a value that means nothing.
    #[error("{0} of {1:#x}, which means nothing")]
    Value(&'static str, u64),
    /// A version that this reader does not know.
    #[error("version {0}, which this ulna does not know")]
    Version(u16),
}
