//! Reads streams.

use crate::section::DROPPABLE;
use crate::{Error, HEAD, Kind, MAGIC, MAJOR, MAX_SECTION, Pages, Section};
use std::io::{ErrorKind, Read};

/// Reads sections from a file or a socket.
pub struct Reader<R> {
    from: R,
    at: u64,
    number: u32,
    minor: u16,
    buffer: Vec<u8>,
}

/// A section whose checksum is right.
pub struct Raw<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its version.
    pub version: u16,
    flags: u32,
    /// Where it begins.
    pub at: u64,
    /// Its bytes.
    pub payload: &'a [u8],
}

impl<'a> Raw<'a> {
    /// Its fields; `None` for one that may be left out.
    pub fn section(&self) -> Result<Option<Section>, Error> {
        match Section::take(self.kind, self.version, self.payload) {
            Some(Ok(s)) => Ok(Some(s)),
            Some(Err(why)) => Err(Error::Malformed { at: self.at, kind: self.kind, why }),
            None if self.flags & DROPPABLE != 0 => Ok(None),
            None => Err(Error::Unknown { at: self.at, kind: self.kind, version: self.version }),
        }
    }

    /// The contents of memory, if it is of that kind; they stay where they are.
    pub fn pages(&self) -> Result<Option<Pages<'a>>, Error> {
        if (self.kind, self.version) != (Kind::PAGES, 1) {
            return Ok(None);
        }
        let malformed = |why| Error::Malformed { at: self.at, kind: self.kind, why };
        Pages::take(self.payload).map(Some).map_err(malformed)
    }
}

impl<R: Read> Reader<R> {
    /// Reads the first bytes.
    pub fn new(from: R) -> Result<Reader<R>, Error> {
        let mut r = Reader { from, at: 0, number: 0, minor: 0, buffer: Vec::new() };
        let mut head = [0; 12];
        let n = r.fill(&mut head)?;
        if n < 8 || head[..8] != MAGIC {
            let mut first = [0; 8];
            first.copy_from_slice(&head[..8]);
            return Err(if n < head.len() && head[..n.min(8)] == MAGIC[..n.min(8)] {
                Error::Truncated { at: n as u64, within: "the magic number".into() }
            } else {
                Error::Magic(first)
            });
        }
        if n < head.len() {
            return Err(Error::Truncated { at: n as u64, within: "the version".into() });
        }
        let major = u16::from_le_bytes([head[8], head[9]]);
        r.minor = u16::from_le_bytes([head[10], head[11]]);
        if major != MAJOR {
            return Err(Error::Version { major, minor: r.minor });
        }
        r.at = n as u64;
        Ok(r)
    }

    /// Minor version of the stream.
    pub fn minor(&self) -> u16 {
        self.minor
    }

    /// Bytes so far.
    pub fn read(&self) -> u64 {
        self.at
    }

    /// What it reads from.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.from
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < buf.len() {
            match self.from.read(&mut buf[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }

    /// The next section; `None` where the stream ends between two.
    pub fn next_raw(&mut self) -> Result<Option<Raw<'_>>, Error> {
        let at = self.at;
        let mut head = [0; HEAD];
        match self.fill(&mut head)? {
            0 => return Ok(None),
            HEAD => {}
            n => {
                let within = format!("the head of section {}", self.number);
                return Err(Error::Truncated { at: at + n as u64, within });
            }
        }
        let word = |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let kind = Kind(u16::from_le_bytes([head[0], head[1]]));
        let version = u16::from_le_bytes([head[2], head[3]]);
        let (flags, found, sum) = (word(4), word(16), word(20));
        let length = u64::from(word(8)) | u64::from(word(12)) << 32;
        if length > MAX_SECTION {
            return Err(Error::TooLong { at, length });
        }
        // Grows with what is there, not with what is said.
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let got = (&mut self.from).take(length).read_to_end(&mut buffer)?;
        self.buffer = buffer;
        if (got as u64) < length {
            let within = format!("section {} ({kind})", self.number);
            return Err(Error::Truncated { at: at + (HEAD + got) as u64, within });
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[..20]);
        crc.update(&self.buffer);
        if crc.finalize() != sum {
            return Err(Error::Checksum { at, number: self.number, kind });
        }
        if found != self.number {
            return Err(Error::Number { at, found, expected: self.number });
        }
        self.number = self.number.wrapping_add(1);
        self.at = at + HEAD as u64 + length;
        Ok(Some(Raw { kind, version, flags, at, payload: &self.buffer }))
    }

    /// The next section that this reader knows; `None` at the end.
    pub fn next_section(&mut self) -> Result<Option<Section>, Error> {
        loop {
            let expected = self.number;
            let Some(raw) = self.next_raw()? else { return Ok(None) };
            let (at, kind) = (raw.at, raw.kind);
            match raw.section()? {
                Some(Section::End(n)) if n != expected => {
                    let why = crate::Malformed::Value("count of sections", n.into());
                    return Err(Error::Malformed { at, kind, why });
                }
                Some(s) => return Ok(Some(s)),
                None => {}
            }
        }
    }
}
