//! The one atomic word that other threads set and a running CPU tests at block boundaries.

use crate::sync::{AtomicU32, Ordering};

/// Interrupt lines and requests of one PE.
#[derive(Debug, Default)]
pub struct CpuLines(AtomicU32);

impl CpuLines {
    /// The virtual IRQ line.
    pub const IRQ: u32 = 1;
    /// The virtual FIQ line.
    pub const FIQ: u32 = 2;
    /// A virtual SError is pending.
    pub const VSERROR: u32 = 4;
    /// Leave `run` with [`crate::Exit::Kick`].
    pub const KICK: u32 = 8;
    /// Requests wait in the PE's mailbox ([`crate::shared`]).
    pub const REQUEST: u32 = 16;
    /// State that the run loop caches (interrupt masks, debug, budget) must be looked at again.
    pub const RECHECK: u32 = 32;

    /// The word.
    #[inline(always)]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
    /// Address of the word, for generated code that only reads it.
    pub(crate) fn address(&self) -> u64 {
        #[cfg(not(loom))]
        return self.0.as_ptr() as u64;
        #[cfg(loom)]
        unimplemented!("no generated code in models")
    }
    /// Sets `bits`.
    pub fn set(&self, bits: u32) {
        self.0.fetch_or(bits, Ordering::SeqCst);
    }
    /// Clears `bits`; returns the word before.
    pub fn clear(&self, bits: u32) -> u32 {
        self.0.fetch_and(!bits, Ordering::SeqCst)
    }
    /// Sets the interrupt lines to these levels.
    pub fn set_lines(&self, irq: bool, fiq: bool) {
        let on = if irq { Self::IRQ } else { 0 } | if fiq { Self::FIQ } else { 0 };
        let off = (Self::IRQ | Self::FIQ) & !on;
        if on != 0 {
            self.set(on);
        }
        if off != 0 {
            self.clear(off);
        }
    }
}
