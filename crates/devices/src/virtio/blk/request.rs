//! One block request: header, data, status (virtio 1.2 section 5.2.6).

use super::media::{Media, SECTOR};
use super::{Blk, F_FLUSH, MAX_DISCARD_SECTORS, MAX_RANGES, MAX_ZEROES_SECTORS};
use crate::virtio::{Chain, Fault, MemFault, Queues};
use std::io;
use vm_memory::GuestMemory;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

const S_OK: u8 = 0;
const S_IOERR: u8 = 1;
const S_UNSUPP: u8 = 2;

/// Bytes moved at once.
const CHUNK: u64 = 1 << 18;

/// Why a request fails.
enum Refusal {
    Io,
    Unsupported,
}

impl From<io::Error> for Refusal {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::Unsupported => Refusal::Unsupported,
            _ => Refusal::Io,
        }
    }
}

impl From<MemFault> for Refusal {
    fn from(_: MemFault) -> Self {
        Refusal::Io
    }
}

impl<S: Media> Blk<S> {
    /// Serves a request and writes its status. Returns how many bytes at the start of the writable part are new.
    pub(super) fn serve<M: GuestMemory>(
        &mut self,
        chain: &Chain,
        queues: &Queues<'_, M>,
    ) -> Result<u32, Fault> {
        let room = chain.writable_len();
        if room == 0 {
            return Err(Fault::NoStatus { queue: 0, head: chain.head() });
        }
        let mut written = 0;
        let status = match self.execute(chain, room - 1, queues, &mut written) {
            Ok(()) => S_OK,
            Err(Refusal::Io) => S_IOERR,
            Err(Refusal::Unsupported) => S_UNSUPP,
        };
        if chain.write_last(queues.mem(), status).is_err() {
            return Err(Fault::NoStatus { queue: 0, head: chain.head() });
        }
        Ok(if u64::from(written) == room - 1 { written.saturating_add(1) } else { written })
    }

    fn execute<M: GuestMemory>(
        &mut self,
        chain: &Chain,
        room: u64,
        queues: &Queues<'_, M>,
        written: &mut u32,
    ) -> Result<(), Refusal> {
        let mut input = chain.reader(queues.mem());
        let kind = u32::from_le_bytes(input.read_array()?);
        let _priority: [u8; 4] = input.read_array()?;
        let sector = u64::from_le_bytes(input.read_array()?);
        match kind {
            T_IN => {
                let mut output = chain.writer(queues.mem());
                let mut offset = self.range(sector, room)?;
                let mut left = room;
                while left > 0 {
                    if queues.stopping() {
                        return Err(Refusal::Io);
                    }
                    let n = left.min(CHUNK) as usize;
                    self.buffer.resize(self.buffer.len().max(n), 0);
                    self.media.read_at(&mut self.buffer[..n], offset)?;
                    let result = output.write_all(&self.buffer[..n]);
                    *written = output.written();
                    result?;
                    left -= n as u64;
                    offset += n as u64;
                }
                Ok(())
            }
            T_OUT => {
                self.may_write()?;
                let mut left = input.remaining();
                let mut offset = self.range(sector, left)?;
                while left > 0 {
                    if queues.stopping() {
                        return Err(Refusal::Io);
                    }
                    let n = left.min(CHUNK) as usize;
                    self.buffer.resize(self.buffer.len().max(n), 0);
                    input.read_exact(&mut self.buffer[..n])?;
                    self.media.write_at(&self.buffer[..n], offset)?;
                    left -= n as u64;
                    offset += n as u64;
                }
                self.write_through()
            }
            T_FLUSH => Ok(self.media.flush()?),
            T_GET_ID => {
                let mut output = chain.writer(queues.mem());
                let n = (self.serial.len() as u64).min(room) as usize;
                let result = output.write_all(&self.serial[..n]);
                *written = output.written();
                Ok(result?)
            }
            T_DISCARD | T_WRITE_ZEROES => {
                self.may_write()?;
                let count = input.remaining() / 16;
                if !input.remaining().is_multiple_of(16) || count == 0 || count > u64::from(MAX_RANGES) {
                    return Err(Refusal::Io);
                }
                for _ in 0..count {
                    let sector = u64::from_le_bytes(input.read_array()?);
                    let sectors = u32::from_le_bytes(input.read_array()?);
                    let flags = u32::from_le_bytes(input.read_array()?);
                    self.clear(kind, sector, sectors, flags)?;
                }
                self.write_through()
            }
            _ => Err(Refusal::Unsupported),
        }
    }

    /// One segment of a discard or write-zeroes request. Flags that we do not know are unsupported, and unmap means
    /// nothing for a discard (section 5.2.6.2).
    fn clear(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> Result<(), Refusal> {
        let (known, max) = if kind == T_DISCARD { (0, MAX_DISCARD_SECTORS) } else { (1, MAX_ZEROES_SECTORS) };
        if flags & !known != 0 {
            return Err(Refusal::Unsupported);
        }
        if sectors > max {
            return Err(Refusal::Io);
        }
        let len = u64::from(sectors) * SECTOR;
        let offset = self.range(sector, len)?;
        if len == 0 {
            return Ok(());
        }
        match kind {
            T_DISCARD => self.media.discard(offset, len)?,
            _ => self.media.write_zeroes(offset, len, flags & 1 != 0)?,
        }
        Ok(())
    }

    fn may_write(&self) -> Result<(), Refusal> {
        if self.media.read_only() { Err(Refusal::Io) } else { Ok(()) }
    }

    /// Where `len` bytes from `sector` on lie, if they are whole sectors of this medium.
    fn range(&self, sector: u64, len: u64) -> Result<u64, Refusal> {
        let offset = sector.checked_mul(SECTOR).ok_or(Refusal::Io)?;
        let end = offset.checked_add(len).ok_or(Refusal::Io)?;
        if !len.is_multiple_of(SECTOR) || end > self.media.len() {
            return Err(Refusal::Io);
        }
        Ok(offset)
    }

    /// A driver that cannot flush relies on every write being stable.
    fn write_through(&mut self) -> Result<(), Refusal> {
        if self.features & F_FLUSH == 0 {
            self.media.flush()?;
        }
        Ok(())
    }
}
