//! The arm64 KVM UAPI as data: numbers, structs, register ids, exit reasons. Behaviour is elsewhere (`kvm-core`).
//!
//! Source: Linux 6.12 `include/uapi/linux/kvm.h`, `arch/arm64/include/uapi/asm/kvm.h`, as described in
//! `kvm-arm64-abi.md`.
#![no_std]
#![forbid(unsafe_code)]

pub mod cap;
pub mod device;
pub mod errno;
pub mod exit;
pub mod ioctl;
pub mod private;
pub mod reg;
pub mod structs;
pub mod uapi;
pub mod wire;

pub use errno::Errno;
pub use reg::RegId;
pub use structs::{GuestDebug, SmcccFilter, VcpuEvents, VcpuInit};

/// KVM_GET_API_VERSION.
pub const API_VERSION: i32 = 12;
/// Most vCPUs of a VM (KVM_CAP_MAX_VCPUS).
pub const MAX_VCPUS: u32 = 512;
/// Number of memory slots (KVM_CAP_NR_MEMSLOTS).
pub const NR_MEMSLOTS: u32 = 32767;
/// KVM_ARM_TARGET_GENERIC_V8.
pub const ARM_TARGET_GENERIC_V8: u32 = 5;

/// KVM_MEM_LOG_DIRTY_PAGES.
pub const MEM_LOG_DIRTY_PAGES: u32 = 1;
/// KVM_MEM_READONLY.
pub const MEM_READONLY: u32 = 2;

/// vCPU features of KVM_ARM_VCPU_INIT, as bit numbers.
pub mod vcpu_feature {
    /// KVM_ARM_VCPU_POWER_OFF.
    pub const POWER_OFF: u32 = 0;
    /// KVM_ARM_VCPU_EL1_32BIT.
    pub const EL1_32BIT: u32 = 1;
    /// KVM_ARM_VCPU_PSCI_0_2.
    pub const PSCI_0_2: u32 = 2;
    /// KVM_ARM_VCPU_PMU_V3.
    pub const PMU_V3: u32 = 3;
    /// KVM_ARM_VCPU_SVE.
    pub const SVE: u32 = 4;
    /// KVM_ARM_VCPU_PTRAUTH_ADDRESS.
    pub const PTRAUTH_ADDRESS: u32 = 5;
    /// KVM_ARM_VCPU_PTRAUTH_GENERIC.
    pub const PTRAUTH_GENERIC: u32 = 6;
}

/// KVM_GET_MP_STATE values on arm64.
pub mod mp_state {
    /// KVM_MP_STATE_RUNNABLE.
    pub const RUNNABLE: u32 = 0;
    /// KVM_MP_STATE_STOPPED.
    pub const STOPPED: u32 = 5;
    /// KVM_MP_STATE_SUSPENDED.
    pub const SUSPENDED: u32 = 10;
}

/// Bits of `GuestDebug::control`.
pub mod guest_debug {
    /// KVM_GUESTDBG_ENABLE.
    pub const ENABLE: u32 = 1;
    /// KVM_GUESTDBG_SINGLESTEP.
    pub const SINGLESTEP: u32 = 2;
    /// KVM_GUESTDBG_USE_SW_BP.
    pub const USE_SW_BP: u32 = 1 << 16;
    /// KVM_GUESTDBG_USE_HW.
    pub const USE_HW: u32 = 1 << 17;
    /// All of them.
    pub const VALID: u32 = ENABLE | SINGLESTEP | USE_SW_BP | USE_HW;
}
