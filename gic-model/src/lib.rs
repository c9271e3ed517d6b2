//! An independent GICv3 and what compares others with it.
//!
//! [`model`] is written from Arm IHI 0069 as a programmer sees it: banks of register bits, and everything that follows
//! from them worked out anew at each question. It shares no code with `ulna-vgic`. [`ops`] makes up accesses, sense and
//! nonsense. [`compare`] carries them out on the model and on a [`Target`] and says where they part: [`direct`] is the
//! software GIC by itself, [`guest`] the whole machine, with a guest program that loads, stores, reads and writes system
//! registers and takes interrupts. [`v2`] does as much for a GICv2 by itself.

pub mod compare;
pub mod direct;
pub mod guest;
pub mod model;
pub mod ops;
pub mod v2;

pub use compare::{Report, run};
pub use model::{Identity, Model};
pub use ops::{Op, Rng};

/// A frame of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The distributor.
    Dist,
    /// A redistributor: its two pages.
    Redist(usize),
}

/// What an access of a system register gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sysreg {
    /// The value read, or that it was written (zero).
    Done(u64),
    /// An Undefined Instruction exception.
    Undefined,
}

/// What a processor took with its interrupts unmasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing.
    Nothing,
    /// An IRQ.
    Irq,
    /// An FIQ.
    Fiq,
}

/// A GICv3 with its processors, as software sees it.
pub trait Target {
    /// A load by a processor.
    fn load(&mut self, cpu: usize, frame: Frame, offset: u64, size: usize) -> Result<u64, String>;
    /// A store by a processor.
    fn store(&mut self, cpu: usize, frame: Frame, offset: u64, size: usize, value: u64)
    -> Result<(), String>;
    /// MRS of op0.op1.CRn.CRm.op2, packed as in the instruction.
    fn mrs(&mut self, cpu: usize, reg: u16) -> Result<Sysreg, String>;
    /// MSR.
    fn msr(&mut self, cpu: usize, reg: u16, value: u64) -> Result<Sysreg, String>;
    /// A device drives a line: of a PPI, that of a processor.
    fn line(&mut self, cpu: usize, intid: u32, level: bool) -> Result<(), String>;
    /// Unmasks interrupts for a moment.
    fn window(&mut self, cpu: usize) -> Result<Taken, String>;
    /// Saves everything, and goes on in another machine that took it over.
    fn migrate(&mut self) -> Result<(), String>;
    /// Whether it does so by the registers that KVM has for it, in which not everything is.
    fn moves_by_registers(&self) -> bool {
        false
    }
}
