//! No translator for this host: the interpreter executes everything.

use super::{Engine, EngineOptions, Hot};
use crate::cpu::Cpu;
use crate::exit::Exit;

/// Nothing.
#[derive(Debug, Default)]
pub(crate) struct Jit {
    pub hot: Hot,
}

impl Jit {
    pub fn on(&self) -> bool {
        false
    }
}

impl Cpu {
    /// The engine asked for, as far as the host has it.
    pub fn set_engine(&mut self, _engine: Engine, options: &EngineOptions) -> Engine {
        self.set_options(options);
        Engine::Interp
    }
    /// Nothing to choose.
    pub fn translate_after(&mut self, _executions: u8) {}
    /// None.
    pub fn translated_blocks(&self) -> u64 {
        0
    }
    pub(crate) fn update_fetch(&mut self) {}
    pub(crate) fn note_clock(&mut self) {}
    pub(crate) fn run_translated(&mut self) -> Exit {
        self.run_blocks()
    }
    pub(crate) fn forget_translated(&mut self, _pc: u64, _at: u32) {}
    /// Nothing to compare with.
    pub fn difference(&self) -> Option<&str> {
        None
    }
    #[inline(always)]
    pub(crate) fn note_store(&mut self, _host: usize, _len: usize) {}
    #[inline(always)]
    pub(crate) fn may_grant(&mut self, _entry: usize, _tag: u64) -> bool {
        true
    }
}
