//! Virtio 1.2 devices behind the MMIO transport, version 2 (specification section 4.2).
//!
//! Three parts: [`VirtioMmio`] is the register window that a vCPU touches; the *service* takes buffers from the rings
//! and hands them to a [`VirtioDevice`]; the device does the work and knows nothing of registers. Whatever a driver puts
//! into rings and registers, the answer is a failed request or DEVICE_NEEDS_RESET, never a panic or an endless loop.
//!
//! # How a VMM wires a virtio device
//!
//! ```
//! use std::sync::Arc;
//! use ulna_devices::virtio::{Service, VirtioMmio, rng::{HostEntropy, Rng}};
//! use ulna_devices::{IrqLine, MmioDevice};
//! use vm_memory::{GuestAddress, GuestMemoryMmap};
//!
//! struct Nowhere;
//! impl IrqLine for Nowhere {
//!     fn set(&self, _level: bool) {}
//! }
//!
//! let ram = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0x4000_0000), 0x10_0000)]).unwrap();
//! let rng = Rng::new(Box::new(HostEntropy));
//! let mut window = VirtioMmio::new(rng, Arc::new(ram), Arc::new(Nowhere), Service::Worker).unwrap();
//! let mut magic = [0u8; 4];
//! window.read(0, &mut magic); // the board routes 0x200 bytes at 0x0a00_0000 + n * 0x200 here
//! assert_eq!(&magic, b"virt");
//! ```
//!
//! With [`Service::Worker`] nothing else is needed: a thread per device waits for notifications and for the device's own
//! file (socket, tap). With [`Service::Inline`] buffers are served inside the notifying store, for runs that must repeat
//! exactly. Guest memory is any [`vm_memory::GuestAddressSpace`], an `Arc<GuestMemoryMmap>` for instance.
//!
//! Dropping the window ends the thread. [`VirtioMmio::handle`] gives access to the device from other threads.

pub mod blk;
mod chain;
pub mod console;
mod core;
mod mmio;
pub mod net;
mod queues;
pub mod rng;

#[cfg(test)]
mod testing;

pub use self::chain::{Chain, MemFault, Reader, Writer};
pub use self::core::{Handle, Service};
pub use self::mmio::{VirtioMmio, reg, state, status};
pub use self::queues::Queues;

use std::os::fd::OwnedFd;
use vm_memory::GuestMemory;

/// The driver broke a rule of the specification in a way that no single request can answer: DEVICE_NEEDS_RESET.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The ring itself is wrong.
    #[error("virtqueue {queue}: {source}")]
    Ring {
        /// Which queue.
        queue: usize,
        /// What is wrong with it.
        source: virtio_queue::Error,
    },
    /// A descriptor chain loops, leaves its table, or has readable parts behind writable ones.
    #[error("virtqueue {queue}: malformed descriptor chain at head {head}")]
    Chain {
        /// Which queue.
        queue: usize,
        /// The chain's first descriptor.
        head: u16,
    },
    /// A request has no place for its answer.
    #[error("virtqueue {queue}: request at head {head} has no room for its status")]
    NoStatus {
        /// Which queue.
        queue: usize,
        /// The chain's first descriptor.
        head: u16,
    },
    /// The driver enabled a queue whose rings are not in memory, not aligned, or of impossible size.
    #[error("virtqueue {queue}: enabled with impossible rings or size")]
    Setup {
        /// Which queue.
        queue: usize,
    },
}

/// Why a device is asked to work.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Bit n: queue n was notified.
    pub queues: u32,
    /// The device's file can be read (or reached its end).
    pub readable: bool,
    /// The device's file can be written.
    pub writable: bool,
}

impl Event {
    /// Whether queue `i` was notified.
    pub fn kicked(&self, i: usize) -> bool {
        i < 32 && self.queues & (1 << i) != 0
    }
}

/// What a device wants to hear of its file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// Tell me when it can be read.
    pub read: bool,
    /// Tell me when it can be written.
    pub write: bool,
}

/// A virtio device without its transport.
pub trait VirtioDevice: Send + 'static {
    /// State for snapshots, record kind and version as in the device's module.
    type State: Clone + Send + serde::Serialize + serde::de::DeserializeOwned;

    /// Device type (virtio 1.2 section 5).
    fn id(&self) -> u32;
    /// Short name for threads and messages.
    fn name(&self) -> &'static str;
    /// Features of the device type; the transport adds VERSION_1 and what concerns rings.
    fn features(&self) -> u64;
    /// The greatest size of each queue; powers of two.
    fn queue_sizes(&self) -> &'static [u16];
    /// The configuration space.
    fn config(&self) -> Vec<u8>;
    /// The file whose readiness matters to the device, duplicated.
    fn source(&self) -> std::io::Result<Option<OwnedFd>> {
        Ok(None)
    }
    /// What to wait for on that file now.
    fn interest(&self) -> Interest {
        Interest::default()
    }
    /// The driver is ready and chose `features`.
    fn activate(&mut self, features: u64);
    /// The driver reset the device.
    fn reset(&mut self);
    /// Serves what can be served now, without waiting for anything but a disk.
    fn process<M: GuestMemory>(&mut self, event: Event, queues: &mut Queues<'_, M>) -> Result<(), Fault>;
    /// State for a snapshot.
    fn save(&self) -> Self::State;
    /// Takes over a saved state.
    fn restore(&mut self, state: &Self::State);
    /// The machine goes elsewhere (`true`) or is here: what only one machine may have is given up, or taken.
    fn lend(&mut self, _away: bool) -> std::io::Result<()> {
        Ok(())
    }
    /// Why a saved state cannot be taken over, if it cannot.
    fn misfit(&self, _state: &Self::State) -> Option<String> {
        None
    }
}
