//! What PEs agree on about a page that holds code: who may write to it without being seen, and which decoded code is stale.
//!
//! A PE that decodes announces so before it reads the words; a PE that wants to write without looking again (a write entry in
//! its TLB) announces that. Whoever comes second sees the other: the decoder has write entries revoked and waits until no PE
//! has one, the writer gets none and tells of each write by the generation. Several decoders may come at once; all of them
//! wait, for the first one's waiting helps nobody else. A writer that writes a lot takes the page back; a decoder that was
//! about to read finds that out by looking once more when it has read.

use crate::sync::{AtomicU8, AtomicU32, Ordering::SeqCst};

/// Holds decoded code.
const CODE: u8 = 1;
/// A TLB entry somewhere may allow writes.
const WRITE_GRANTED: u8 = 2;
/// Some decoder still waits for write entries to go.
const PENDING: u8 = 4;

/// The words of one page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageState<'a> {
    pub flags: &'a AtomicU8,
    pub generation: &'a AtomicU32,
}

impl PageState<'_> {
    /// Does it hold decoded code?
    pub fn has_code(self) -> bool {
        self.flags.load(SeqCst) & CODE != 0
    }

    /// Decoded code of another generation is stale.
    pub fn generation(self) -> u32 {
        self.generation.load(SeqCst)
    }

    /// What was decoded is stale.
    pub fn changed(self) {
        self.generation.fetch_add(1, SeqCst);
    }

    /// Before words are read for decoding. `true`: the caller has all write entries revoked, waits until they are, and
    /// calls [`PageState::code_ready`].
    #[must_use = "write entries may have to go"]
    pub fn announce_code(self) -> bool {
        if self.is_ready() {
            return false;
        }
        let before = self.flags.fetch_or(CODE | PENDING, SeqCst);
        if before & (WRITE_GRANTED | PENDING) == 0 {
            self.code_ready();
            return false;
        }
        self.flags.fetch_and(!WRITE_GRANTED, SeqCst);
        true
    }

    /// No PE has a write entry that is older than the announcement.
    pub fn code_ready(self) {
        self.flags.fetch_and(!PENDING, SeqCst);
    }

    /// After words were read: were all writes since the announcement seen, or will they be told of by the generation that
    /// was read before the words?
    pub fn is_ready(self) -> bool {
        self.flags.load(SeqCst) & (CODE | PENDING) == CODE
    }

    /// Before something is written; tells whether code may have been decoded. If not, a write entry may be kept. If so, the
    /// caller calls [`PageState::changed`] after it has written, too.
    #[must_use = "code may have been decoded"]
    pub fn announce_write(self) -> bool {
        let code = self.flags.fetch_or(WRITE_GRANTED, SeqCst) & CODE != 0;
        if code {
            self.changed();
        }
        code
    }

    /// Takes the page back from decoders, unless one is waiting; tells whether a write entry may be kept.
    pub fn take_back(self) -> bool {
        let mut now = self.flags.load(SeqCst);
        loop {
            if now & PENDING != 0 {
                return false;
            }
            match self.flags.compare_exchange(now, now & !CODE | WRITE_GRANTED, SeqCst, SeqCst) {
                Ok(_) => break,
                Err(other) => now = other,
            }
        }
        self.changed();
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn second_comers_see_the_first() {
        let (flags, generation) = (AtomicU8::new(0), AtomicU32::new(0));
        let p = PageState { flags: &flags, generation: &generation };
        assert!(!p.announce_write(), "nobody decoded");
        assert!(p.announce_code() && !p.is_ready(), "a write entry has to go");
        assert!(p.announce_code(), "the second decoder waits as well");
        assert!(p.announce_write() && p.generation() == 1, "code is there, or about to be");
        assert!(!p.take_back(), "not while a decoder waits");
        p.code_ready();
        assert!(p.is_ready() && !p.announce_code());
        assert!(p.take_back() && !p.is_ready() && !p.has_code() && p.generation() == 2);
        assert!(!p.announce_write());
    }
}
