//! A descriptor chain taken from a ring: checked for shape, its memory not yet touched.

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemory};

/// A buffer of a request lies outside guest memory, or is shorter than what it must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("buffer is outside memory or too short")]
pub struct MemFault;

#[derive(Debug, Clone, Copy)]
struct Segment {
    addr: GuestAddress,
    len: u32,
}

/// One request: the driver's buffers, first those the device reads, then those it writes (section 2.7.4).
#[derive(Debug)]
pub struct Chain {
    pub(super) head: u16,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

impl Chain {
    /// Walks the descriptors. Nothing if the chain is cut short (loop, index outside the table, nested indirect table,
    /// more than 2^32 bytes), is empty, or has readable parts behind writable ones.
    pub(super) fn walk<M: GuestMemory>(descriptors: DescriptorChain<&M>) -> Option<Chain> {
        let mut chain = Chain { head: descriptors.head_index(), readable: Vec::new(), writable: Vec::new() };
        let mut complete = false;
        for d in descriptors {
            let segment = Segment { addr: d.addr(), len: d.len() };
            if d.is_write_only() {
                chain.writable.push(segment);
            } else if chain.writable.is_empty() {
                chain.readable.push(segment);
            } else {
                return None;
            }
            complete = !d.has_next();
        }
        complete.then_some(chain)
    }

    /// The chain's first descriptor.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes that the device may read.
    pub fn readable_len(&self) -> u64 {
        self.readable.iter().map(|s| u64::from(s.len)).sum()
    }

    /// Bytes that the device may write.
    pub fn writable_len(&self) -> u64 {
        self.writable.iter().map(|s| u64::from(s.len)).sum()
    }

    /// Reads the readable buffers from their beginning.
    pub fn reader<'a, M: GuestMemory>(&'a self, mem: &'a M) -> Reader<'a, M> {
        Reader(Cursor { mem, segments: &self.readable, at: 0 })
    }

    /// Writes the writable buffers from their beginning.
    pub fn writer<'a, M: GuestMemory>(&'a self, mem: &'a M) -> Writer<'a, M> {
        Writer { cursor: Cursor { mem, segments: &self.writable, at: 0 }, written: 0 }
    }

    /// Writes the very last writable byte, where a block request has its status.
    pub fn write_last<M: GuestMemory>(&self, mem: &M, byte: u8) -> Result<(), MemFault> {
        let last = self.writable.iter().rev().find(|s| s.len > 0).ok_or(MemFault)?;
        let addr = last.addr.0.checked_add(u64::from(last.len) - 1).ok_or(MemFault)?;
        mem.write_slice(&[byte], GuestAddress(addr)).map_err(|_| MemFault)
    }
}

struct Cursor<'a, M> {
    mem: &'a M,
    segments: &'a [Segment],
    /// Bytes of the first segment that are done.
    at: u32,
}

impl<M: GuestMemory> Cursor<'_, M> {
    fn remaining(&self) -> u64 {
        self.segments.iter().map(|s| u64::from(s.len)).sum::<u64>() - u64::from(self.at)
    }

    /// The next piece of at most `max` bytes.
    fn piece(&mut self, max: usize) -> Option<(GuestAddress, usize)> {
        while let Some((first, rest)) = self.segments.split_first() {
            let left = first.len - self.at;
            if left == 0 {
                self.segments = rest;
                self.at = 0;
                continue;
            }
            let n = left.min(u32::try_from(max).unwrap_or(u32::MAX));
            let addr = GuestAddress(first.addr.0.checked_add(u64::from(self.at))?);
            self.at += n;
            return Some((addr, n as usize));
        }
        None
    }
}

/// Reads a request's buffers in order.
pub struct Reader<'a, M>(Cursor<'a, M>);

impl<M: GuestMemory> Reader<'_, M> {
    /// Bytes left.
    pub fn remaining(&self) -> u64 {
        self.0.remaining()
    }

    /// Fills `buf`, or fails.
    pub fn read_exact(&mut self, mut buf: &mut [u8]) -> Result<(), MemFault> {
        while !buf.is_empty() {
            let (addr, n) = self.0.piece(buf.len()).ok_or(MemFault)?;
            let (now, later) = buf.split_at_mut(n);
            self.0.mem.read_slice(now, addr).map_err(|_| MemFault)?;
            buf = later;
        }
        Ok(())
    }

    /// Reads a fixed number of bytes.
    pub fn read_array<const N: usize>(&mut self) -> Result<[u8; N], MemFault> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// Writes a request's buffers in order.
pub struct Writer<'a, M> {
    cursor: Cursor<'a, M>,
    written: u32,
}

impl<M: GuestMemory> Writer<'_, M> {
    /// Room left.
    pub fn remaining(&self) -> u64 {
        self.cursor.remaining()
    }

    /// Bytes written so far.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// Writes all of `buf`, or fails.
    pub fn write_all(&mut self, mut buf: &[u8]) -> Result<(), MemFault> {
        while !buf.is_empty() {
            let (addr, n) = self.cursor.piece(buf.len()).ok_or(MemFault)?;
            let (now, later) = buf.split_at(n);
            self.cursor.mem.write_slice(now, addr).map_err(|_| MemFault)?;
            self.written = self.written.saturating_add(n as u32);
            buf = later;
        }
        Ok(())
    }
}
