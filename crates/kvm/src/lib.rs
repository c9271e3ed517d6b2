//! A KVM/arm64 in this process, under the names of `kvm-ioctls` and `kvm-bindings`.
//!
//! A VMM that was written for arm64 against those two ports by changing where its names come from: `use ulna_kvm::...` for
//! `use kvm_ioctls::...`, and `use ulna_kvm::bindings::...` for `use kvm_bindings::...`; or in its `Cargo.toml`, with
//! `kvm-ioctls = { package = "ulna-kvm", ... }`. It then runs on any machine. [`Kvm::new`] plays the host that the
//! environment names ([`Builder::from_env`]); [`Kvm::builder`] says it in code.
//!
//! ```
//! use ulna_kvm::bindings::{kvm_userspace_memory_region, kvm_vcpu_init};
//! use ulna_kvm::{Kvm, VcpuExit};
//!
//! const RAM: u64 = 0x8000_0000;
//! const X0: u64 = 0x6030_0000_0010_0000;
//! const X1: u64 = 0x6030_0000_0010_0002;
//! const PC: u64 = 0x6030_0000_0010_0040;
//!
//! // Ten instructions, the last of which stores to where no memory is.
//! let program: [u32; 10] = [
//!     0xd2800000, // mov  x0, #0
//!     0x91000400, // add  x0, x0, #1
//!     0x91000800, // add  x0, x0, #2
//!     0x91000c00, // add  x0, x0, #3
//!     0x8b000000, // add  x0, x0, x0
//!     0xd3607c00, // lsl  x0, x0, #32
//!     0xd360fc00, // lsr  x0, x0, #32
//!     0x9b007c00, // mul  x0, x0, x0
//!     0xd1001800, // sub  x0, x0, #6
//!     0xb9000020, // str  w0, [x1]
//! ];
//! let layout = std::alloc::Layout::from_size_align(0x1000, 0x1000).unwrap();
//! // SAFETY: the size is not zero; the memory is never freed.
//! let memory = unsafe { std::alloc::alloc_zeroed(layout) };
//! for (n, word) in program.iter().enumerate() {
//!     // SAFETY: inside the page.
//!     unsafe { memory.cast::<u32>().add(n).write(*word) };
//! }
//!
//! let kvm = Kvm::new()?;
//! let vm = kvm.create_vm()?;
//! let slot = kvm_userspace_memory_region {
//!     slot: 0,
//!     flags: 0,
//!     guest_phys_addr: RAM,
//!     memory_size: 0x1000,
//!     userspace_addr: memory as u64,
//! };
//! // SAFETY: the memory outlives the VM.
//! unsafe { vm.set_user_memory_region(slot)? };
//!
//! let mut vcpu = vm.create_vcpu(0)?;
//! let mut init = kvm_vcpu_init::default();
//! vm.get_preferred_target(&mut init)?;
//! vcpu.vcpu_init(&init)?;
//! vcpu.set_one_reg(PC, &RAM.to_le_bytes())?;
//! vcpu.set_one_reg(X1, &0x1000_0000u64.to_le_bytes())?;
//! match vcpu.run()? {
//!     VcpuExit::MmioWrite(address, data) => assert_eq!((address, data), (0x1000_0000, &[138, 0, 0, 0][..])),
//!     other => panic!("{other:?}"),
//! }
//! let mut x0 = [0; 8];
//! vcpu.get_one_reg(X0, &mut x0)?;
//! assert_eq!(u64::from_le_bytes(x0), 138);
//! # Ok::<(), ulna_kvm::Error>(())
//! ```
//!
//! # What differs
//!
//! - Descriptors are objects of this process: there are no `as_raw_fd`, `from_raw_fd` and `mmap`. Other processes come in
//!   through the raw entry (`ulna_kvm_core::raw`).
//! - A signal does not by itself end [`VcpuFd::run`] while the guest executes. A handler that calls
//!   [`VcpuFd::set_kvm_immediate_exit`] does, from the vCPU's own thread, as kvm-ioctls' users do it; from another thread
//!   use a [`Kicker`].
//! - [`VmFd::set_user_memory_region`] takes the memory as it is: unmapping it under the VM is a fault of this process.
//! - Calls for other architectures are missing.

pub mod bindings;
mod builder;
mod call;
mod cap;
mod device;
mod system;
mod vcpu;
mod vm;

pub use builder::{Builder, ConfigError};
pub use cap::Cap;
pub use device::DeviceFd;
pub use system::Kvm;
pub use ulna_kvm_core::{ClockKind, Engine, Policy};
pub use vcpu::{HypercallExit, Kicker, VcpuExit, VcpuFd, reg_size};
pub use vm::{IoEventAddress, NoDatamatch, VmFd};
pub use vmm_sys_util::errno::Error;

/// Result of a request.
pub type Result<T> = std::result::Result<T, Error>;

/// As kvm-ioctls names its modules.
pub mod ioctls {
    pub use crate::Result;
    /// [`DeviceFd`](crate::DeviceFd).
    pub mod device {
        pub use crate::DeviceFd;
    }
    /// [`Kvm`](crate::Kvm).
    pub mod system {
        pub use crate::Kvm;
    }
    /// [`VcpuFd`](crate::VcpuFd) and its exits.
    pub mod vcpu {
        pub use crate::{HypercallExit, VcpuExit, VcpuFd, reg_size};
    }
    /// [`VmFd`](crate::VmFd).
    pub mod vm {
        pub use crate::{IoEventAddress, NoDatamatch, VmFd};
    }
}
