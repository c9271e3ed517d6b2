//! SDEI (Arm DEN0054): events whose handlers run in the guest's OS at once, whatever PSTATE.DAIF says.
//!
//! [`Machine`] is the whole service of a VM as a pure state machine: it is told calls, signals and resets, and says which
//! event a PE takes next; `state` holds the events and who takes what, `calls` the guest's calls, `regs` the registers by
//! which a VMM saves and restores it. `vcpu` ties it to vCPUs, to the interrupt controller and to KVM's requests.
//!
//! What KVM calls what, and why, is in `shared/design/seed-systems.md` §3.

mod calls;
mod regs;
mod state;
mod vcpu;

pub use calls::{Answer, function, status};
pub use regs::Reg;
pub use state::{Context, Entry, Features, Machine, World};
pub(crate) use vcpu::{Service, call, extension};

/// First function id of the service.
pub const FIRST: u32 = 0xc400_0020;
/// Last function id that is reserved for it.
pub const LAST: u32 = 0xc400_003f;

/// SDEI 1.0 in the register SDEI_VERSION.
pub const VERSION_1_0: u64 = 0x1_0000;
/// SDEI 1.1, the newest.
pub const VERSION_1_1: u64 = 0x1_0001;

/// The event that EVENT_SIGNAL raises.
pub const SOFTWARE: u32 = 0;
/// The event that the host raises (KVM_NMI).
pub const HOST_NMI: u32 = 0x4075_6c00;
/// First of the private events that INTERRUPT_BIND gives out.
pub const PRIVATE_BOUND: u32 = 0x4075_6d00;
/// First of the shared events that INTERRUPT_BIND gives out.
pub const SHARED_BOUND: u32 = 0x4075_6e00;

pub use ulna_kvm_abi::private::CAP_SDEI as CAP;
