//! Parallel NOR flash with Intel's command set: a bank of two 16-bit devices side by side (Intel 28F128J3 datasheet, 290667;
//! Common Flash Interface, JESD68). Firmware keeps its variables in such a bank.
//!
//! 1. [`Bank`] is the model: it eats bus cycles, says what the array must do ([`Effect`]), and answers reads that are not
//!    of the array. Programming and erasing take no time: the status is ready at once.
//! 2. [`Flash`] joins it to an array ([`Array`]). In array mode the VMM shows the array to the guest as read-only memory,
//!    so only stores arrive here; the adapter tells when that changes.
//! 3. As in the part, programming only clears bits; erasing sets them. A command goes to both devices, whatever the width
//!    of the store: its code is the low byte.

mod query;

use crate::mmio::MmioDevice;
use std::io;

/// Bytes in a bank.
pub const BANK_SIZE: u64 = 64 << 20;
/// Bytes that are erased at once: a block of both devices.
pub const BLOCK_SIZE: u64 = 256 << 10;
/// Width of the bank in bytes.
pub const BANK_WIDTH: u64 = 4;
/// Words of the write buffer.
const BUFFER_WORDS: usize = 1024;

/// Manufacturer and device codes of Intel's 28F128J3.
const MANUFACTURER: u16 = 0x0089;
const DEVICE: u16 = 0x0018;

/// Commands (datasheet, table 4).
mod command {
    pub const WORD_PROGRAM_ALT: u8 = 0x10;
    pub const BLOCK_ERASE: u8 = 0x20;
    pub const WORD_PROGRAM: u8 = 0x40;
    pub const CLEAR_STATUS: u8 = 0x50;
    pub const LOCK_SETUP: u8 = 0x60;
    pub const READ_STATUS: u8 = 0x70;
    pub const READ_ID: u8 = 0x90;
    pub const QUERY: u8 = 0x98;
    pub const CONFIRM: u8 = 0xd0;
    pub const WRITE_BUFFER: u8 = 0xe8;
    pub const READ_ARRAY: u8 = 0xff;
}

/// Status bits (datasheet, table 6).
pub mod status {
    /// SR.7: ready.
    pub const READY: u8 = 0x80;
    /// SR.5: erasing failed.
    pub const ERASE: u8 = 0x20;
    /// SR.4: programming failed; with SR.5: the sequence of commands was wrong.
    pub const PROGRAM: u8 = 0x10;
    /// SR.1: the block is locked.
    pub const LOCKED: u8 = 0x02;
}

/// What reads of the bank give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Mode {
    /// The array.
    Array,
    /// The status register.
    Status,
    /// Codes of manufacturer and device, and block locks.
    Id,
    /// The query structure.
    Query,
}

/// What the next store means.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Step {
    Command,
    Program,
    Erase,
    Lock,
    /// The number of words, less one.
    Count,
    /// Words for the buffer; how many are to come. They go to the block at this address.
    Fill {
        left: usize,
        block: u64,
        wrong: bool,
    },
    /// The buffer is full.
    Confirm {
        wrong: bool,
    },
}

/// One store of data: at most a word of the bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Word {
    /// Where in the bank.
    pub offset: u64,
    bytes: [u8; BANK_WIDTH as usize],
    len: u8,
}

impl Word {
    fn new(offset: u64, data: &[u8]) -> Word {
        let len = data.len().min(BANK_WIDTH as usize);
        let mut bytes = [0; BANK_WIDTH as usize];
        bytes[..len].copy_from_slice(&data[..len]);
        Word { offset, bytes, len: len as u8 }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len).min(self.bytes.len())]
    }
}

/// What the array must do. The bank is told of a failure by [`Bank::failed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Clear bits that are clear in these words.
    Program(Vec<Word>),
    /// Set all bits of the block at this offset.
    Erase(u64),
}

/// A bank of flash without its array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bank {
    writable: bool,
    mode: Mode,
    step: Step,
    status: u8,
    buffer: Vec<Word>,
}

impl Bank {
    /// A bank after power-up. All blocks of one that is not writable are locked.
    pub fn new(writable: bool) -> Bank {
        Bank { writable, mode: Mode::Array, step: Step::Command, status: status::READY, buffer: Vec::new() }
    }

    /// What reads give.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// A load that is not of the array; in array mode it leaves `data` alone.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (0u64..).zip(data.iter_mut()) {
            let at = offset.wrapping_add(at) % BANK_SIZE;
            let answer = match self.mode {
                Mode::Array => return,
                Mode::Status => self.status.into(),
                Mode::Id => self.id(at / BANK_WIDTH),
                Mode::Query => query::answer(at / BANK_WIDTH),
            };
            // Both devices answer the same, each on its half of the word.
            *byte = answer.to_le_bytes()[(at & 1) as usize];
        }
    }

    /// The identifier at a word: the codes at the start, and the lock of each block at its word 2.
    fn id(&self, word: u64) -> u16 {
        match word % (BLOCK_SIZE / BANK_WIDTH) {
            0 if word == 0 => MANUFACTURER,
            1 if word == 1 => DEVICE,
            2 => (!self.writable).into(),
            _ => 0,
        }
    }

    /// A store of 1 to 4 bytes, one bus cycle.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Option<Effect> {
        let offset = offset % BANK_SIZE;
        let code = data.first().copied()?;
        match self.step.clone() {
            Step::Command => self.command(code),
            Step::Program => {
                self.done();
                return self.program(vec![Word::new(offset, data)]);
            }
            Step::Erase if code == command::CONFIRM => {
                self.done();
                if self.writable {
                    return Some(Effect::Erase(offset / BLOCK_SIZE * BLOCK_SIZE));
                }
                self.status |= status::ERASE | status::LOCKED;
            }
            Step::Erase => self.wrong_sequence(code),
            // Locks are not kept, as in the machine we follow: both commands are taken and change nothing.
            Step::Lock => match code {
                0x01 | 0x2f | command::CONFIRM => self.done(),
                _ => self.wrong_sequence(code),
            },
            Step::Count => {
                let count = usize::from(u16::from_le_bytes([code, data.get(1).copied().unwrap_or(0)]));
                if count < BUFFER_WORDS {
                    self.step = Step::Fill { left: count + 1, block: offset / BLOCK_SIZE, wrong: false };
                } else {
                    self.wrong_sequence(code);
                }
            }
            Step::Fill { left, block, wrong } => {
                // The buffer belongs to one block.
                let wrong = wrong || offset / BLOCK_SIZE != block;
                self.buffer.push(Word::new(offset, data));
                self.step = match left {
                    0 | 1 => Step::Confirm { wrong },
                    // Only a state from outside has more to come than there is room for.
                    _ if self.buffer.len() >= BUFFER_WORDS => Step::Confirm { wrong },
                    _ => Step::Fill { left: left - 1, block, wrong },
                };
            }
            Step::Confirm { wrong: false } if code == command::CONFIRM => {
                let words = std::mem::take(&mut self.buffer);
                self.done();
                return self.program(words);
            }
            Step::Confirm { .. } => self.wrong_sequence(code),
        }
        None
    }

    fn command(&mut self, code: u8) {
        self.mode = Mode::Status;
        match code {
            command::WORD_PROGRAM | command::WORD_PROGRAM_ALT => self.step = Step::Program,
            command::BLOCK_ERASE => self.step = Step::Erase,
            command::LOCK_SETUP => self.step = Step::Lock,
            command::WRITE_BUFFER => {
                self.buffer.clear();
                self.step = Step::Count;
            }
            command::READ_STATUS => {}
            command::CLEAR_STATUS => self.status = status::READY,
            command::READ_ID => self.mode = Mode::Id,
            command::QUERY => self.mode = Mode::Query,
            // Read array, and everything that is no command.
            _ => self.mode = Mode::Array,
        }
    }

    fn program(&mut self, words: Vec<Word>) -> Option<Effect> {
        if self.writable {
            return Some(Effect::Program(words));
        }
        self.status |= status::PROGRAM | status::LOCKED;
        None
    }

    /// The sequence is over; reads give the status.
    fn done(&mut self) {
        self.buffer.clear();
        self.step = Step::Command;
        self.mode = Mode::Status;
    }

    /// A sequence that was not finished as it should; read array is how software gets out of one.
    fn wrong_sequence(&mut self, code: u8) {
        self.done();
        if code == command::READ_ARRAY {
            self.mode = Mode::Array;
        } else {
            self.status |= status::ERASE | status::PROGRAM;
        }
    }

    /// The array could not do it.
    pub fn failed(&mut self, effect: &Effect) {
        self.status |= match effect {
            Effect::Program(_) => status::PROGRAM,
            Effect::Erase(_) => status::ERASE,
        };
    }
}

/// The cells of a bank, [`BANK_SIZE`] bytes.
pub trait Array: Send {
    /// Reads cells; `offset` and length are inside the bank.
    fn load(&self, offset: u64, data: &mut [u8]);
    /// Writes cells; what must not be lost is kept when this returns.
    fn store(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// From now on the guest's loads are of the array (`true`), or must arrive at the device.
    fn show(&mut self, array: bool);
}

/// A bank of flash on the board.
pub struct Flash<A> {
    model: Bank,
    array: A,
}

impl<A: Array> Flash<A> {
    /// A bank after power-up, whose array the guest sees.
    pub fn new(array: A, writable: bool) -> Flash<A> {
        Flash { model: Bank::new(writable), array }
    }

    /// State for a snapshot; the cells are guest memory.
    pub fn save(&self) -> state::V1 {
        let Bank { mode, step, status, buffer, .. } = self.model.clone();
        state::V1 { mode, step, status, buffer }
    }

    /// Takes over a saved state.
    pub fn restore(&mut self, v1: &state::V1) {
        let before = self.model.mode == Mode::Array;
        let state::V1 { mode, step, status, mut buffer } = v1.clone();
        buffer.retain(|w| w.offset < BANK_SIZE && w.offset + w.bytes().len() as u64 <= BANK_SIZE);
        self.model = Bank { writable: self.model.writable, mode, step, status, buffer };
        let now = mode == Mode::Array;
        if before != now {
            self.array.show(now);
        }
    }

    fn perform(&mut self, effect: &Effect) -> io::Result<()> {
        match effect {
            Effect::Erase(block) => self.array.store(*block, &[0xff; BLOCK_SIZE as usize]),
            Effect::Program(words) => {
                // One store for words that follow each other: a file behind the array is written once.
                let mut at = 0;
                while let Some(first) = words.get(at) {
                    let mut bytes = first.bytes().to_vec();
                    at += 1;
                    while let Some(next) =
                        words.get(at).filter(|w| w.offset == first.offset + bytes.len() as u64)
                    {
                        bytes.extend_from_slice(next.bytes());
                        at += 1;
                    }
                    bytes.truncate(usize::try_from(BANK_SIZE - first.offset).unwrap_or(usize::MAX));
                    let mut cells = vec![0; bytes.len()];
                    self.array.load(first.offset, &mut cells);
                    cells.iter_mut().zip(&bytes).for_each(|(cell, byte)| *cell &= byte);
                    self.array.store(first.offset, &cells)?;
                }
                Ok(())
            }
        }
    }
}

impl<A: Array> MmioDevice for Flash<A> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if self.model.mode() != Mode::Array {
            self.model.read(offset, data);
        } else if offset.checked_add(data.len() as u64).is_some_and(|end| end <= BANK_SIZE) {
            self.array.load(offset, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let before = self.model.mode();
        for (cycle, chunk) in (0u64..).zip(data.chunks(BANK_WIDTH as usize)) {
            if let Some(effect) = self.model.write(offset.wrapping_add(cycle * BANK_WIDTH), chunk)
                && self.perform(&effect).is_err()
            {
                self.model.failed(&effect);
            }
        }
        let now = self.model.mode();
        if (before == Mode::Array) != (now == Mode::Array) {
            self.array.show(now == Mode::Array);
        }
    }
}

/// State for snapshots, record `("flash", 1)`.
pub mod state {
    use super::{Mode, Step, Word};

    /// Version 1.
    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    pub struct V1 {
        pub(super) mode: Mode,
        pub(super) step: Step,
        pub(super) status: u8,
        pub(super) buffer: Vec<Word>,
    }
}

#[cfg(test)]
mod tests;
