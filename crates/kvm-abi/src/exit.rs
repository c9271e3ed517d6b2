//! Exit reasons of `kvm_run` and system events.

/// KVM_EXIT_DEBUG.
pub const DEBUG: u32 = 4;
/// KVM_EXIT_MMIO.
pub const MMIO: u32 = 6;
/// KVM_EXIT_INTR.
pub const INTR: u32 = 10;
/// KVM_EXIT_SYSTEM_EVENT.
pub const SYSTEM_EVENT: u32 = 24;
/// KVM_EXIT_ARM_NISV.
pub const ARM_NISV: u32 = 28;

/// KVM_SYSTEM_EVENT_SHUTDOWN.
pub const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
/// KVM_SYSTEM_EVENT_RESET.
pub const SYSTEM_EVENT_RESET: u32 = 2;
/// KVM_SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2, in data\[0\].
pub const SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2: u64 = 1;
