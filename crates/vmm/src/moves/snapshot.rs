//! Snapshots: a directory with the state as a stream, and each piece of memory as a file that can be mapped.
//!
//! ```text
//! DIR/state.ulna       header, board, registers, interrupt controller, devices; names of the files below
//! DIR/ram.mem, ...     memory as it is, with holes where it is zero
//! ```
//!
//! The directory is written beside its place, made durable, and then exchanged with what was there: at any moment there is
//! a whole snapshot, the old one or the new one.

use super::{MoveError, Parts, Piece, State, fail};
use crate::layout;
use crate::memory::{self, Memory};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use ulna_stream::{Phase, Reader, Region, Section, Sums, Writer};
use vm_memory::{Bytes, MemoryRegionAddress};

/// The stream in a snapshot's directory.
pub const STATE: &str = "state.ulna";
/// Bytes that a checksum of memory covers.
const CHUNK: u32 = 1 << 20;
const PAGE: usize = 4096;

/// How long a phase took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Took {
    /// Its name.
    pub phase: String,
    /// Milliseconds.
    pub ms: f64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it is.
    pub dir: PathBuf,
    /// Bytes of memory that are not zero.
    pub memory: u64,
    /// Phases in their order.
    pub phases: Vec<Took>,
    /// Milliseconds for which the guest stood still.
    pub stopped_ms: f64,
}

/// A snapshot that is being written.
pub struct Draft {
    place: PathBuf,
    temporary: PathBuf,
    /// Bytes of memory written.
    pub memory: u64,
    done: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_dir_all(&self.temporary);
        }
    }
}

fn beside(place: &Path) -> Result<PathBuf, String> {
    let name = place.file_name().ok_or_else(|| format!("{} has no name", place.display()))?;
    let name = format!(".{}.ulna-{}", name.to_string_lossy(), std::process::id());
    Ok(place.with_file_name(name))
}

impl Draft {
    /// Makes the directory beside its place. What is there already must be a snapshot, or nothing.
    pub fn begin(place: &Path) -> Result<Draft, MoveError> {
        let fail = fail(Phase::Connect);
        if place.exists() && !place.join(STATE).exists() {
            let empty = std::fs::read_dir(place).is_ok_and(|mut d| d.next().is_none());
            if !empty {
                return Err(fail(format!("{} exists and is no snapshot", place.display())));
            }
        }
        let temporary = beside(place).map_err(&fail)?;
        let _ = std::fs::remove_dir_all(&temporary);
        std::fs::create_dir(&temporary)
            .map_err(|e| fail(format!("cannot make {}: {e}", temporary.display())))?;
        Ok(Draft { place: place.into(), temporary, memory: 0, done: false })
    }

    /// Writes memory and state of a machine that stands still.
    pub fn write(&mut self, parts: &Parts, mut state: State) -> Result<(), MoveError> {
        let fail = fail(Phase::State);
        let mut sums = Vec::new();
        for (region, piece) in state.regions.iter_mut().zip(&parts.pieces) {
            region.file = format!("{}.mem", region.name);
            let path = self.temporary.join(&region.file);
            let (bytes, all) = write_memory(piece, &path)
                .map_err(|e| fail(format!("cannot write {}: {e}", path.display())))?;
            self.memory += bytes;
            sums.push(Sums { region: region.id, chunk: CHUNK, sums: all });
        }
        let path = self.temporary.join(STATE);
        let file = File::create(&path).map_err(|e| fail(format!("cannot make {}: {e}", path.display())))?;
        let written = Writer::new(BufWriter::new(file)).and_then(|mut w| {
            sums.into_iter().try_for_each(|s| w.section(&Section::Sums(s)))?;
            state.write(&mut w)
        });
        written.map_err(|e| fail(format!("cannot write {}: {e}", path.display())))
    }

    /// Makes the files durable.
    pub fn sync(&self) -> Result<(), MoveError> {
        let fail = fail(Phase::Sync);
        let all = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(&self.temporary)? {
                File::open(entry?.path())?.sync_all()?;
            }
            File::open(&self.temporary)?.sync_all()
        };
        all().map_err(|e| fail(format!("cannot make {} durable: {e}", self.temporary.display())))
    }

    /// Gives it its name.
    pub fn publish(mut self) -> Result<(), MoveError> {
        let fail = fail(Phase::Publish);
        let (from, to) = (&self.temporary, &self.place);
        let named = if to.exists() {
            let exchanged =
                renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE).map_err(std::io::Error::from);
            exchanged.map(|()| {
                // What was there is ours to remove now.
                let _ = std::fs::remove_dir_all(from);
            })
        } else {
            std::fs::rename(from, to)
        };
        named.map_err(|e| fail(format!("cannot name {}: {e}", to.display())))?;
        self.done = true;
        let parent = self.place.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)
            .and_then(|d| d.sync_all())
            .map_err(|e| fail(format!("cannot make {} durable: {e}", parent.display())))
    }
}

/// Writes memory with holes; bytes that are not zero, and a checksum of each chunk.
fn write_memory(piece: &Piece, path: &Path) -> std::io::Result<(u64, Vec<u32>)> {
    let file = File::create(path)?;
    file.set_len(piece.len())?;
    let chunk = u64::from(CHUNK);
    let count = piece.len().div_ceil(chunk);
    let mut buffer = vec![0u8; CHUNK as usize];
    let zero = crc32fast::hash(&buffer);
    let mut sums = vec![zero; usize::try_from(count).unwrap_or(0)];
    if let (Some(last), rest @ 1..) = (sums.last_mut(), piece.len() % chunk) {
        *last = crc32fast::hash(&buffer[..rest as usize]);
    }
    let mut bytes = 0;
    let mut next = 0;
    for range in piece.data() {
        let first = (range.start / chunk).max(next);
        for n in first..range.end.div_ceil(chunk) {
            let at = n * chunk;
            let part = &mut buffer[..(piece.len() - at).min(chunk) as usize];
            piece.memory.read_slice(part, MemoryRegionAddress(at)).map_err(std::io::Error::other)?;
            if let Some(sum) = sums.get_mut(n as usize) {
                *sum = crc32fast::hash(part);
            }
            bytes += write_sparse(&file, part, at)?;
            next = n + 1;
        }
    }
    Ok((bytes, sums))
}

/// Writes pages that are not zero, those that follow each other at once.
fn write_sparse(file: &File, part: &[u8], at: u64) -> std::io::Result<u64> {
    let mut bytes = 0;
    let mut run: Option<usize> = None;
    let mut flush = |run: &mut Option<usize>, end: usize| -> std::io::Result<()> {
        if let Some(start) = run.take() {
            file.write_all_at(&part[start..end], at + start as u64)?;
            bytes += (end - start) as u64;
        }
        Ok(())
    };
    for (n, page) in part.chunks(PAGE).enumerate() {
        if is_zero(page) {
            flush(&mut run, n * PAGE)?;
        } else {
            run.get_or_insert(n * PAGE);
        }
    }
    flush(&mut run, part.len())?;
    Ok(bytes)
}

/// Is every byte zero?
pub fn is_zero(page: &[u8]) -> bool {
    // In pieces, so that a page that is not zero is left early.
    page.chunks(512).all(|c| c.iter().fold(0, |all, b| all | b) == 0)
}

/// A snapshot as it is found.
pub struct Snapshot {
    /// Where.
    pub dir: PathBuf,
    /// Its state.
    pub state: State,
    sums: Vec<Sums>,
}

impl Snapshot {
    /// Reads its state.
    pub fn open(dir: &Path) -> Result<Snapshot, MoveError> {
        let fail = fail(Phase::Connect);
        let path = dir.join(STATE);
        let file = File::open(&path).map_err(|e| fail(format!("cannot open {}: {e}", path.display())))?;
        let wrong = |e: String| fail(format!("{}: {e}", path.display()));
        let mut reader = Reader::new(BufReader::new(file)).map_err(|e| wrong(e.to_string()))?;
        let mut sums = Vec::new();
        let state = State::read_with(&mut reader, |s| sums.push(s)).map_err(wrong)?;
        for r in &state.regions {
            if r.file.contains('/') || r.file.starts_with('.') {
                return Err(wrong(format!("memory in a file named {:?}", r.file)));
            }
            let path = dir.join(&r.file);
            let len = std::fs::metadata(&path)
                .map_err(|e| fail(format!("cannot open {}: {e}", path.display())))?
                .len();
            if len != r.len {
                return Err(fail(format!("{} has {len} bytes; the snapshot says {}", path.display(), r.len)));
            }
        }
        Ok(Snapshot { dir: dir.into(), state, sums })
    }

    /// Compares all memory with the checksums of when it was written.
    pub fn verify(&self) -> Result<(), MoveError> {
        let fail = fail(Phase::Negotiate);
        for r in &self.state.regions {
            let path = self.dir.join(&r.file);
            let sums = self.sums.iter().find(|s| s.region == r.id);
            let sums = sums.ok_or_else(|| fail(format!("no checksums of {}", r.name)))?;
            let file = File::open(&path).map_err(|e| fail(format!("cannot open {}: {e}", path.display())))?;
            let chunk = u64::from(sums.chunk.clamp(PAGE as u32, 64 << 20));
            let mut buffer = vec![0; chunk as usize];
            let zero = crc32fast::hash(&buffer);
            let mut hole_end = 0;
            for (at, sum) in (0..r.len).step_by(chunk as usize).zip(&sums.sums) {
                let part = &mut buffer[..(r.len - at).min(chunk) as usize];
                // Holes are zero without being read.
                if at >= hole_end {
                    hole_end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)).unwrap_or(
                        match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
                            Err(rustix::io::Errno::NXIO) => r.len,
                            _ => at,
                        },
                    );
                }
                let found = if at + part.len() as u64 <= hole_end && part.len() as u64 == chunk {
                    zero
                } else {
                    file.read_exact_at(part, at)
                        .map_err(|e| fail(format!("cannot read {}: {e}", path.display())))?;
                    crc32fast::hash(part)
                };
                if found != *sum {
                    return Err(fail(format!(
                        "{}: the checksum of the MiB at byte {at} is wrong",
                        path.display()
                    )));
                }
            }
        }
        Ok(())
    }

    /// Maps a piece of its memory, copy-on-write.
    fn map(&self, name: &str) -> Result<Option<Arc<Memory>>, MoveError> {
        let fail = fail(Phase::Connect);
        let Some(r) = self.state.regions.iter().find(|r| r.name == name) else { return Ok(None) };
        let path = self.dir.join(&r.file);
        let file = File::open(&path).map_err(|e| fail(format!("cannot open {}: {e}", path.display())))?;
        let range =
            place(r, self.state.config.memory).ok_or_else(|| fail(format!("{name} at {:#x}", r.gpa)))?;
        memory::private(name, file, range).map(Some).map_err(|e| fail(e.to_string()))
    }

    /// Its memory: RAM, both banks of flash, structures of stolen time.
    #[allow(clippy::type_complexity)]
    pub fn memory(&self) -> Result<(Arc<Memory>, [Arc<Memory>; 2], Option<Arc<Memory>>), MoveError> {
        let lack = |what: &str| fail(Phase::Connect)(format!("{} has no {what}", self.dir.display()));
        let need = |name: &str| self.map(name)?.ok_or_else(|| lack(name));
        Ok((need("ram")?, [need("flash0")?, need("flash1")?], self.map("stolen-time")?))
    }
}

/// Where a region is on the board; `None` for one that cannot be there.
pub fn place(r: &Region, ram: u64) -> Option<std::ops::Range<u64>> {
    let range = match r.name.as_str() {
        "ram" => layout::RAM..layout::RAM.checked_add(ram)?,
        "flash0" => layout::FLASH,
        "flash1" => layout::FLASH_VARS,
        "stolen-time" => layout::PVTIME,
        _ => return None,
    };
    (range.start == r.gpa && range.end - range.start == r.len).then_some(range)
}

/// Notes how long phases take.
pub struct Stopwatch {
    since: Instant,
    /// So far.
    pub phases: Vec<Took>,
}

impl Stopwatch {
    /// From now on.
    pub fn start() -> Stopwatch {
        Stopwatch { since: Instant::now(), phases: Vec::new() }
    }

    /// The phase ends here.
    pub fn lap(&mut self, phase: Phase) {
        let now = Instant::now();
        let ms = now.duration_since(self.since).as_secs_f64() * 1e3;
        self.phases.push(Took { phase: phase.name().into(), ms });
        self.since = now;
        tracing::info!("snapshot: {phase}: {ms:.1} ms");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(pages: &[(u64, u8)]) -> Piece {
        let memory = memory::allocate("ram", 0x4000_0000..0x4030_0000).unwrap();
        for (page, byte) in pages {
            memory.write_slice(&[*byte; 100], MemoryRegionAddress(page * 4096 + 50)).unwrap();
        }
        Piece { name: "ram", slot: Some(0), memory, private: false }
    }

    #[test]
    fn memory_is_written_with_holes_and_mapped_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let p = piece(&[(0, 1), (1, 2), (9, 3), (767, 4)]);
        let (bytes, sums) = write_memory(&p, &path).unwrap();
        assert_eq!((bytes, sums.len()), (4 * 4096, 3));
        assert_eq!(sums[1], crc32fast::hash(&[0; 1 << 20]));
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(&path).unwrap();
        assert!(meta.len() == 3 << 20 && meta.blocks() * 512 < 1 << 20);
        let m = memory::private("ram", File::open(&path).unwrap(), 0x4000_0000..0x4030_0000).unwrap();
        let mut all = [vec![0; 3 << 20], vec![1; 3 << 20]];
        p.memory.read_slice(&mut all[0], MemoryRegionAddress(0)).unwrap();
        m.read_slice(&mut all[1], MemoryRegionAddress(0)).unwrap();
        assert_eq!(all[0], all[1]);
        m.write_slice(&[9; 9], MemoryRegionAddress(0)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[..9], [0; 9], "the file stays as it is");
    }

    #[test]
    fn what_is_there_is_kept_until_the_new_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("snap");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("precious"), "x").unwrap();
        assert!(Draft::begin(&place).err().unwrap().to_string().contains("exists and is no snapshot"));
        std::fs::rename(place.join("precious"), place.join(STATE)).unwrap();
        drop(Draft::begin(&place).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a draft that ends leaves nothing");
        let draft = Draft::begin(&place).unwrap();
        std::fs::write(draft.temporary.join(STATE), "new").unwrap();
        assert_eq!(std::fs::read(place.join(STATE)).unwrap(), b"x");
        draft.publish().unwrap();
        assert_eq!(std::fs::read(place.join(STATE)).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
