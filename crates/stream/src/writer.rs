//! Writes streams.

use crate::section::DROPPABLE;
use crate::{Error, HEAD, Kind, MAGIC, MAJOR, MAX_SECTION, MINOR, Pages, Section};
use std::io::{IoSlice, Write};

/// Writes sections to a file or a socket.
pub struct Writer<W> {
    to: W,
    number: u32,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a stream.
    pub fn new(mut to: W) -> Result<Writer<W>, Error> {
        let mut b = MAGIC.to_vec();
        b.extend(MAJOR.to_le_bytes());
        b.extend(MINOR.to_le_bytes());
        to.write_all(&b)?;
        Ok(Writer { to, number: 0, written: b.len() as u64 })
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Sections so far.
    pub fn sections(&self) -> u32 {
        self.number
    }

    /// What it writes to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.to
    }

    /// Ends it.
    pub fn into_inner(self) -> W {
        self.to
    }

    /// Writes a section.
    pub fn section(&mut self, s: &Section) -> Result<(), Error> {
        self.raw(s.kind(), 1, 0, &[], &s.payload())
    }

    /// Writes a section that readers who do not know its kind leave out.
    pub fn droppable(&mut self, kind: Kind, version: u16, payload: &[u8]) -> Result<(), Error> {
        self.raw(kind, version, DROPPABLE, &[], payload)
    }

    /// Writes contents of memory without copying them.
    pub fn pages(&mut self, p: &Pages<'_>) -> Result<(), Error> {
        self.raw(Kind::PAGES, 1, 0, &p.head(), p.data)
    }

    /// Ends the stream, or the part before the hand-over.
    pub fn end(&mut self) -> Result<(), Error> {
        self.section(&Section::End(self.number))?;
        self.flush()
    }

    /// Sends what is buffered.
    pub fn flush(&mut self) -> Result<(), Error> {
        Ok(self.to.flush()?)
    }

    fn raw(&mut self, kind: Kind, version: u16, flags: u32, a: &[u8], b: &[u8]) -> Result<(), Error> {
        let length = (a.len() + b.len()) as u64;
        if length > MAX_SECTION {
            return Err(Error::TooLong { at: self.written, length });
        }
        let mut head = [0; HEAD];
        head[..2].copy_from_slice(&kind.0.to_le_bytes());
        head[2..4].copy_from_slice(&version.to_le_bytes());
        head[4..8].copy_from_slice(&flags.to_le_bytes());
        head[8..16].copy_from_slice(&length.to_le_bytes());
        head[16..20].copy_from_slice(&self.number.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        [&head[..20], a, b].into_iter().for_each(|part| crc.update(part));
        head[20..].copy_from_slice(&crc.finalize().to_le_bytes());
        let mut parts = [IoSlice::new(&head), IoSlice::new(a), IoSlice::new(b)];
        let mut parts = &mut parts[..];
        // `write_all_vectored` is not stable.
        while parts.iter().any(|p| !p.is_empty()) {
            match self.to.write_vectored(parts) {
                Ok(0) => return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into()),
                Ok(n) => IoSlice::advance_slices(&mut parts, n),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.number = self.number.wrapping_add(1);
        self.written += HEAD as u64 + length;
        Ok(())
    }
}
