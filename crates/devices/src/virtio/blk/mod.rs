//! Block device (virtio 1.2 section 5.2): one queue, raw sectors.
//!
//! What the host cannot do reaches the guest as VIRTIO_BLK_S_IOERR. If the driver does not take F_FLUSH every write is
//! on stable storage before it completes (section 5.2.6.2).

mod media;
mod request;

pub use media::{FileMedia, Media, OpenError, SECTOR};

use super::{Event, Fault, Queues, VirtioDevice};
use vm_memory::GuestMemory;

const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_TOPOLOGY: u64 = 1 << 10;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

const QUEUE_SIZE: u16 = 256;
/// Data segments of a request: a full ring less header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Sectors of one discard segment: 2 GiB.
const MAX_DISCARD_SECTORS: u32 = 1 << 22;
/// Sectors of one write-zeroes segment: 32 MiB, since the fallback writes them all.
const MAX_ZEROES_SECTORS: u32 = 1 << 16;
/// Segments of one discard or write-zeroes request.
const MAX_RANGES: u32 = 16;
/// The longest identity (section 5.2.6.1).
const ID_BYTES: usize = 20;

/// A disk.
pub struct Blk<S: Media> {
    media: S,
    serial: [u8; ID_BYTES],
    features: u64,
    /// Bounce buffer between guest memory and the medium.
    buffer: Vec<u8>,
}

impl<S: Media> Blk<S> {
    /// A disk on `media`; of `serial` the first 20 bytes are told to the guest.
    pub fn new(media: S, serial: &str) -> Self {
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        Blk { media, serial: id, features: 0, buffer: Vec::new() }
    }

    /// The medium.
    pub fn media(&mut self) -> &mut S {
        &mut self.media
    }
}

impl<S: Media> VirtioDevice for Blk<S> {
    type State = state::V1;

    fn id(&self) -> u32 {
        2
    }

    fn name(&self) -> &'static str {
        "blk"
    }

    fn features(&self) -> u64 {
        let writable = if self.media.read_only() { F_RO } else { F_DISCARD | F_WRITE_ZEROES };
        F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | writable
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    /// Section 5.2.4, `struct virtio_blk_config` up to write_zeroes_may_unmap.
    fn config(&self) -> Vec<u8> {
        let mut c = Vec::with_capacity(60);
        c.extend((self.media.len() / SECTOR).to_le_bytes()); // capacity
        c.extend(0u32.to_le_bytes()); // size_max, not offered
        c.extend(SEG_MAX.to_le_bytes());
        c.extend([0; 4]); // geometry, not offered
        c.extend((SECTOR as u32).to_le_bytes()); // blk_size
        c.push(3); // physical block of 2^3 logical ones: a host page
        c.push(0); // alignment_offset
        c.extend(8u16.to_le_bytes()); // min_io_size in logical blocks
        c.extend(0u32.to_le_bytes()); // opt_io_size: no preference
        c.push(1); // writeback
        c.push(0);
        c.extend(1u16.to_le_bytes()); // num_queues
        c.extend(MAX_DISCARD_SECTORS.to_le_bytes());
        c.extend(MAX_RANGES.to_le_bytes());
        c.extend(8u32.to_le_bytes()); // discard_sector_alignment
        c.extend(MAX_ZEROES_SECTORS.to_le_bytes());
        c.extend(MAX_RANGES.to_le_bytes());
        c.extend([1, 0, 0, 0]); // write_zeroes_may_unmap
        c
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
    }

    fn reset(&mut self) {
        self.features = 0;
    }

    fn process<M: GuestMemory>(&mut self, _event: Event, queues: &mut Queues<'_, M>) -> Result<(), Fault> {
        while let Some(chain) = queues.take(0)? {
            let written = self.serve(&chain, queues)?;
            queues.complete(0, chain, written)?;
        }
        Ok(())
    }

    fn save(&self) -> state::V1 {
        state::V1 { len: self.media.len(), read_only: self.media.read_only() }
    }

    fn restore(&mut self, _state: &state::V1) {}

    fn lend(&mut self, away: bool) -> std::io::Result<()> {
        self.media.lend(away)
    }

    /// The medium must be the one that the guest knows.
    fn misfit(&self, v1: &state::V1) -> Option<String> {
        let (len, read_only) = (self.media.len(), self.media.read_only());
        let what = |ro: bool| if ro { "read-only" } else { "writable" };
        ((len, read_only) != (v1.len, v1.read_only)).then(|| {
            format!(
                "the guest's disk has {} bytes and is {}, the one here has {len} bytes and is {}",
                v1.len,
                what(v1.read_only),
                what(read_only)
            )
        })
    }
}

/// State for snapshots, record `("virtio-blk", 1)`. No request is ever under way while the device is paused.
pub mod state {
    /// Version 1.
    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    pub struct V1 {
        /// Size of the medium in bytes.
        pub len: u64,
        /// Whether the guest was told that it cannot write.
        pub read_only: bool,
    }
}

#[cfg(test)]
mod tests;
