//! Device models of the board: pure state machines that read like their manuals, and thin adapters around them.
//!
//! 1. A model knows no locks, threads, files or clocks: what it needs is passed in, what it causes is returned.
//! 2. An adapter joins a model to the outside: an interrupt line ([`IrqLine`]), a byte sink, a clock, a file.
//! 3. Nothing a guest writes may panic, loop without end, or reach memory that is not the guest's.
//! 4. This crate knows nothing of KVM: a VMM gives it interrupt lines and guest memory and routes MMIO to it.
//!
//! # How a VMM wires a device
//!
//! * **MMIO**: keep each device as `Box<dyn MmioDevice>` (in its own mutex) and call [`MmioDevice::read`] and
//!   [`MmioDevice::write`] with the offset from the device's base.
//! * **Interrupts**: implement [`IrqLine`] (KVM_IRQ_LINE or an irqfd with level semantics); devices call
//!   [`IrqLine::set`] only when the level changes.
//! * **Attention**: some devices need the event loop now and then (the serial port has room again, the RTC's alarm
//!   moved). They call the [`Attention`] hook, which typically writes to an eventfd; the loop then asks the device.
//!   The hook runs with the device's own mutex held, so it must not lock the device.
//!
//! # Example: a serial port
//!
//! ```
//! use std::sync::Arc;
//! use ulna_devices::{IrqLine, MmioDevice, pl011::Uart};
//!
//! struct Nowhere;
//! impl IrqLine for Nowhere {
//!     fn set(&self, _level: bool) {}
//! }
//!
//! let mut uart = Uart::new(Box::new(Vec::new()), Arc::new(Nowhere));
//! uart.write(0x000, b"A"); // UARTDR: goes to the sink
//! assert_eq!(uart.receive(b"hi"), 1); // FIFOs are off after reset: one byte fits, the caller keeps the other
//! let mut data = [0u8; 4];
//! uart.read(0x000, &mut data);
//! assert_eq!(data[0], b'h');
//! ```
#![forbid(unsafe_code)]

mod carry;
pub mod flash;
pub mod fw_cfg;
mod mmio;
pub mod pl011;
pub mod pl031;
pub mod pl061;
pub mod virtio;

pub use carry::{Carried, Misfit};
pub use mmio::{Attention, IrqLine, Level, MmioDevice};
