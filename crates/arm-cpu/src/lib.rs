//! A software Arm CPU: architectural state, decode table, interpreter, address translation, exceptions.
//!
//! A [`Cpu`] is one PE that behaves like *hardware with EL2*: it executes EL0 and EL1 and [`Cpu::run`] comes back with an
//! [`Exit`] where hardware under KVM would trap to EL2: a stage-2 abort (no memory at that address), HVC, SMC, WFI, a
//! system register that the hypervisor emulates, or a kick. It knows nothing of KVM or of devices.
//!
//! # How an instruction is executed
//! [`decode::decode`] turns a word into an [`Insn`] by the table (`table/*.tbl`, see `table/README.md`); the handler
//! `fn(&mut Cpu, &Insn) -> Exec` in `interp/` carries it out:
//!
//! * `Ok(Flow::Next)`: done, go on with the next instruction (the run loop advances PC);
//! * `Ok(Flow::Jump)`: the handler has written `cpu.state.pc`, or the context changed: look the next block up anew;
//! * `Err(Stop)`: nothing architectural was changed by this instruction; what happened stands in the CPU (an exception to
//!   take, or an exit). Handlers get it from `?` on memory accesses and checks, or from `cpu.undefined()`.
//!
//! `cpu.state.pc` is the address of the instruction being executed.
#![warn(missing_docs)]

pub mod code;
pub mod cpu;
pub mod crypto;
pub mod debug;
pub mod decode;
pub mod exception;
pub mod exit;
pub mod fp;
pub mod host;
pub mod insn;
pub mod interp;
pub mod irregular;
pub mod jit;
pub mod lines;
pub mod maintenance;
pub mod mem;
#[cfg(all(test, loom))]
mod models;
pub mod pauth;
pub mod pmu;
pub mod qarma;
pub mod shared;
pub mod simd;
pub mod state;
mod sync;
pub mod syndrome;
pub mod sysreg;

pub use cpu::{Cpu, CpuConfig};
pub use decode::Op;
pub use exit::Exit;
pub use insn::{Exec, Flow, Insn, Stop};
pub use irregular::Irregular;
pub use jit::{Engine, EngineOptions, EngineReport};
pub use lines::CpuLines;
pub use state::CpuState;
pub use ulna_arm_regs::SysReg;
pub use ulna_arm_regs::feature::{Feat, FeatSet};
