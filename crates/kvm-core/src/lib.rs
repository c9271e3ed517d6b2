//! The software KVM: what the kernel does at EL2, on the software CPU of `ulna-arm-cpu`.
//!
//! [`Kvm`] makes a [`Vm`], a VM makes [`Vcpu`]s and [`Device`]s, as with the descriptors of `/dev/kvm`; requests fail with
//! the errno that KVM would answer. A vCPU runs on the thread that calls [`Vcpu::run`]; the thread blocks while the vCPU
//! is powered off or waits for an interrupt.
//!
//! `raw` is the same by request number and bytes, as a kernel gets it.
//!
//! `firmware` holds what the guest reaches by HVC: SMCCC and PSCI.
#![deny(unsafe_op_in_unsafe_fn)]

mod attrs;
mod caps;
mod clock;
mod clock_tsc;
mod coalesced;
mod debug;
mod device;
mod dirty_ring;
mod eventfd;
mod exits;
pub mod firmware;
mod gic;
mod identity;
mod kvm;
mod mapping;
mod mask_list;
mod memory;
mod one_reg;
mod pmu_regs;
pub mod raw;
mod routing;
mod run;
mod shared;
mod stats;
mod stolen;
mod tables;
mod timers;
mod tracking;
mod vcpu;
mod vm;
mod vm_regs;
mod why;

pub use clock::ClockKind;
pub use device::Device;
pub use dirty_ring::DirtyRing;
pub use kvm::{Kvm, KvmConfig};
pub use mapping::Mapping;
pub use mask_list::{Access, MaskEntry};
pub use memory::MemoryOwner;
pub use run::Run;
pub use ulna_arm_cpu::jit::{Counters, Engine, EngineOptions, EngineReport, HotBlock};
pub use ulna_machine::Policy;
pub use vcpu::Vcpu;
pub use vm::Vm;

/// Result of a request.
pub type Result<T> = std::result::Result<T, ulna_kvm_abi::Errno>;
