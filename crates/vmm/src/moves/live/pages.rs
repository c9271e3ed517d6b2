//! Which pages are still to be sent, and sending them.

use crate::moves::snapshot::is_zero;
use crate::moves::{Parts, Piece};
use std::io::Write;
use std::ops::Range;
use std::time::{Duration, Instant};
use ulna_kvm_backend::Errno;
use ulna_kvm_backend::abi::MEM_LOG_DIRTY_PAGES;
use ulna_stream::{Codec, Error as StreamError, Pages, Section, Writer, Zero};
use vm_memory::{Bytes, MemoryRegionAddress};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Most bytes of one section of pages.
const RUN: u64 = 256 << 10;
/// Bytes that stay on one lane, so that a page never overtakes itself.
pub const LANE_CHUNK: u64 = 2 << 20;

/// A set of pages of a piece, one bit each.
#[derive(Clone)]
pub struct PageSet(Vec<u64>);

impl PageSet {
    fn empty(len: u64) -> PageSet {
        PageSet(vec![0; usize::try_from(len.div_ceil(PAGE * 64)).unwrap_or(0)])
    }

    /// Pages that a range of bytes touches.
    fn add(&mut self, bytes: Range<u64>) {
        for page in bytes.start / PAGE..bytes.end.div_ceil(PAGE) {
            if let Some(w) = self.0.get_mut((page / 64) as usize) {
                *w |= 1 << (page % 64);
            }
        }
    }

    /// And these.
    pub fn join(&mut self, more: &PageSet) {
        self.merge(&more.0);
    }

    /// All of a piece of so many bytes.
    pub fn all(&mut self, len: u64) {
        self.add(0..len);
    }

    fn merge(&mut self, words: &[u64]) {
        self.0.iter_mut().zip(words).for_each(|(a, b)| *a |= b);
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Runs of pages that follow each other, as bytes; each at most [`RUN`] long and within one lane's chunk.
    fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let pages = self.0.len() as u64 * 64;
        let mut at = 0u64;
        std::iter::from_fn(move || {
            while at < pages {
                let word = self.0[(at / 64) as usize] >> (at % 64);
                if word == 0 {
                    at = (at / 64 + 1) * 64;
                    continue;
                }
                at += u64::from(word.trailing_zeros());
                let start = at;
                let most = (start + RUN / PAGE).min((start * PAGE / LANE_CHUNK + 1) * LANE_CHUNK / PAGE);
                while at < most.min(pages) && self.0[(at / 64) as usize] >> (at % 64) & 1 != 0 {
                    at += 1;
                }
                return Some(start * PAGE..at * PAGE);
            }
            None
        })
    }
}

/// What is still to be sent, by piece.
pub struct Todo(pub Vec<PageSet>);

/// Notes from now on what is written to memory; the first harvest is everything that was ever written.
pub fn begin(parts: &Parts) -> Result<Todo, Errno> {
    let mut all = Vec::new();
    for p in &parts.pieces {
        if let Some(slot) = p.slot {
            parts.vm.change_memory(slot, p.start(), MEM_LOG_DIRTY_PAGES)?;
        }
        (**p.memory).bitmap().reset();
        let mut set = PageSet::empty(p.len());
        p.data().into_iter().for_each(|r| set.add(r));
        all.push(set);
    }
    Ok(Todo(all))
}

/// No notes any more.
pub fn end(parts: &Parts) {
    for p in &parts.pieces {
        if let Some(slot) = p.slot
            && let Err(e) = parts.vm.change_memory(slot, p.start(), 0)
        {
            tracing::warn!("{}: {e}", p.name);
        }
    }
}

/// What was written since the last harvest.
pub fn harvest(parts: &Parts) -> Result<Todo, Errno> {
    let mut all = Vec::new();
    for p in &parts.pieces {
        let mut set = PageSet::empty(p.len());
        if let Some(slot) = p.slot {
            set.merge(&parts.vm.get_dirty_log(slot)?);
        }
        // Bits beyond the end are none.
        set.merge(&(**p.memory).bitmap().get_and_reset());
        all.push(set);
    }
    Ok(Todo(all))
}

impl Todo {
    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|s| s.count() * PAGE).sum()
    }
}

/// How bytes go out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// Compress with zstd.
    pub zstd: bool,
    /// Bytes a second at most.
    pub bandwidth: Option<u64>,
}

/// Sends pages.
pub struct Sender {
    way: Way,
    buffer: Vec<u8>,
    /// Bytes of memory that went out, zeros left out.
    pub sent: u64,
    budget_since: Instant,
    budget_used: u64,
}

impl Sender {
    /// By this way.
    pub fn new(way: Way) -> Sender {
        Sender { way, buffer: Vec::new(), sent: 0, budget_since: Instant::now(), budget_used: 0 }
    }

    /// The bandwidth counts from now.
    pub fn reset_budget(&mut self) {
        (self.budget_since, self.budget_used) = (Instant::now(), 0);
    }

    fn wait_for_budget(&mut self) {
        let Some(most) = self.way.bandwidth.filter(|b| *b > 0) else { return };
        let due = Duration::from_secs_f64(self.budget_used as f64 / most as f64);
        if let Some(wait) = due.checked_sub(self.budget_since.elapsed()) {
            std::thread::sleep(wait.min(Duration::from_secs(1)));
        }
    }

    /// Sends a piece's pages of one lane. In the `first` round what is zero there is zero already. `go_on` is asked for
    /// each run, with the bytes so far.
    #[allow(clippy::too_many_arguments)] // where from, which, how, whether
    pub fn send<W: Write>(
        &mut self,
        w: &mut Writer<W>,
        region: u32,
        piece: &Piece,
        set: &PageSet,
        lane: (u64, u64),
        first: bool,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Result<bool, StreamError> {
        let unreadable = |e: vm_memory::GuestMemoryError| StreamError::Io(std::io::Error::other(e));
        let mut zeros: Option<Range<u64>> = None;
        for run in set.runs() {
            if run.start / LANE_CHUNK % lane.1 != lane.0 {
                continue;
            }
            let run = run.start..run.end.min(piece.len());
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize((run.end - run.start) as usize, 0);
            piece.memory.read_slice(&mut buffer, MemoryRegionAddress(run.start)).map_err(unreadable)?;
            let mut start = 0;
            let mut n = 0;
            let pages = buffer.len().div_ceil(PAGE as usize);
            let page = |n: usize| &buffer[n * PAGE as usize..((n + 1) * PAGE as usize).min(buffer.len())];
            while n <= pages {
                if n < pages && !is_zero(page(n)) {
                    n += 1;
                    continue;
                }
                if n > start {
                    let from = start * PAGE as usize;
                    let data = &buffer[from..(n * PAGE as usize).min(buffer.len())];
                    self.write(w, region, run.start + from as u64, data)?;
                }
                if n < pages && !first {
                    let at = run.start + n as u64 * PAGE;
                    zeros = match zeros {
                        Some(z) if z.end == at => Some(z.start..at + PAGE),
                        before => {
                            zero(w, region, before)?;
                            Some(at..at + PAGE)
                        }
                    };
                }
                n += 1;
                start = n;
            }
            self.buffer = buffer;
            self.wait_for_budget();
            if !go_on(self.sent) {
                return Ok(false);
            }
        }
        zero(w, region, zeros)?;
        Ok(true)
    }

    fn write<W: Write>(
        &mut self,
        w: &mut Writer<W>,
        region: u32,
        offset: u64,
        data: &[u8],
    ) -> Result<(), StreamError> {
        let len = data.len() as u32;
        self.sent += data.len() as u64;
        if self.way.zstd {
            let packed = zstd::bulk::compress(data, 1)?;
            if packed.len() < data.len() {
                self.budget_used += packed.len() as u64;
                return w.pages(&Pages { region, offset, len, codec: Codec::Zstd, data: &packed });
            }
        }
        self.budget_used += data.len() as u64;
        w.pages(&Pages { region, offset, len, codec: Codec::Plain, data })
    }
}

fn zero<W: Write>(w: &mut Writer<W>, region: u32, range: Option<Range<u64>>) -> Result<(), StreamError> {
    match range {
        Some(r) => w.section(&Section::Zero(Zero { region, offset: r.start, len: r.end - r.start })),
        None => Ok(()),
    }
}

/// Puts contents into memory.
pub fn put(pieces: &[Piece], p: &Pages<'_>) -> Result<(), String> {
    let outside = || format!("{} bytes at {:#x} of region {}, which is not there", p.len, p.offset, p.region);
    let piece = pieces.get(p.region as usize).ok_or_else(outside)?;
    if p.offset.checked_add(p.len.into()).is_none_or(|end| end > piece.len()) {
        return Err(outside());
    }
    let unpacked;
    let data = match p.codec {
        Codec::Plain => p.data,
        Codec::Zstd => {
            unpacked = zstd::bulk::decompress(p.data, p.len as usize).map_err(|e| format!("zstd: {e}"))?;
            if unpacked.len() != p.len as usize {
                return Err(format!("zstd: {} bytes where {} belong", unpacked.len(), p.len));
            }
            &unpacked
        }
    };
    piece.memory.write_slice(data, MemoryRegionAddress(p.offset)).map_err(|e| e.to_string())
}

/// Makes memory zero.
pub fn put_zero(pieces: &[Piece], z: &Zero) -> Result<(), String> {
    let outside = || format!("{} zeros at {:#x} of region {}, which is not there", z.len, z.offset, z.region);
    let piece = pieces.get(z.region as usize).ok_or_else(outside)?;
    let end = z.offset.checked_add(z.len).filter(|end| *end <= piece.len()).ok_or_else(outside)?;
    let zeros = [0u8; PAGE as usize];
    let mut at = z.offset;
    while at < end {
        let n = (end - at).min(PAGE) as usize;
        piece.memory.write_slice(&zeros[..n], MemoryRegionAddress(at)).map_err(|e| e.to_string())?;
        at += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;
    use proptest::prelude::*;
    use ulna_stream::Reader;

    const LEN: u64 = 8 << 20;

    fn piece() -> Piece {
        let memory = memory::allocate("ram", 0x4000_0000..0x4000_0000 + LEN).unwrap();
        Piece { name: "ram", slot: Some(0), memory, private: false }
    }

    fn whole(p: &Piece) -> Vec<u8> {
        let mut all = vec![0; LEN as usize];
        p.memory.read_slice(&mut all, MemoryRegionAddress(0)).unwrap();
        all
    }

    fn receive(bytes: &[u8], to: &[Piece]) {
        let mut r = Reader::new(bytes).unwrap();
        while let Some(raw) = r.next_raw().unwrap() {
            match raw.pages().unwrap() {
                Some(p) => put(to, &p).unwrap(),
                None => match raw.section().unwrap() {
                    Some(Section::Zero(z)) => put_zero(to, &z).unwrap(),
                    other => panic!("{other:?}"),
                },
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever is written between rounds, what is sent by all lanes makes both memories equal.
        #[test]
        fn rounds_make_memories_equal(
            rounds in prop::collection::vec(prop::collection::vec((0..LEN / PAGE, 0u8..3), 0..40), 1..4),
            zstd in any::<bool>(),
            lanes in 1u64..4,
        ) {
            let (from, to) = (piece(), [piece()]);
            for (n, writes) in rounds.iter().enumerate() {
                let mut set = PageSet::empty(LEN);
                for (page, byte) in writes {
                    from.memory.write_slice(&[*byte; 4096], MemoryRegionAddress(page * PAGE)).unwrap();
                    set.add(page * PAGE..page * PAGE + 1);
                }
                if n == 0 {
                    set = PageSet::empty(LEN);
                    from.data().into_iter().for_each(|r| set.add(r));
                }
                for lane in 0..lanes {
                    let mut w = Writer::new(Vec::new()).unwrap();
                    let mut s = Sender::new(Way { zstd, bandwidth: None });
                    s.send(&mut w, 0, &from, &set, (lane, lanes), n == 0, |_| true).unwrap();
                    receive(&w.into_inner(), &to);
                }
                prop_assert!(whole(&from) == whole(&to[0]));
            }
        }

        #[test]
        fn runs_are_the_set(pages in prop::collection::btree_set(0..LEN / PAGE, 0..300)) {
            let mut set = PageSet::empty(LEN);
            pages.iter().for_each(|p| set.add(p * PAGE..p * PAGE + 1));
            let runs: Vec<Range<u64>> = set.runs().collect();
            let found: Vec<u64> = runs.iter().flat_map(|r| r.start / PAGE..r.end / PAGE).collect();
            prop_assert_eq!(found, pages.iter().copied().collect::<Vec<_>>());
            prop_assert!(runs.iter().all(|r| r.start / LANE_CHUNK == (r.end - 1) / LANE_CHUNK && r.end - r.start <= RUN));
            prop_assert_eq!(set.count(), pages.len() as u64);
        }
    }

    #[test]
    fn nothing_is_put_outside_of_memory() {
        let to = [piece()];
        let data = [1; 16];
        let p = |region, offset| Pages { region, offset, len: 16, codec: Codec::Plain, data: &data };
        assert!(put(&to, &p(0, LEN - 16)).is_ok());
        for bad in [p(1, 0), p(0, LEN - 15), p(0, u64::MAX)] {
            assert!(put(&to, &bad).is_err());
        }
        assert!(put(&to, &Pages { codec: Codec::Zstd, ..p(0, 0) }).is_err());
        assert!(put_zero(&to, &Zero { region: 0, offset: 1, len: u64::MAX }).is_err());
    }
}
