//! PrimeCell UART PL011 (Arm DDI 0183, revision r1p5: FIFOs of 32 entries).
//!
//! [`Pl011`] is the model, [`Uart`] joins it to an interrupt line and to a byte sink.
//!
//! What is simpler than the silicon, on purpose: a byte leaves the moment it is written, so the transmit FIFO is always
//! empty; the receive timeout (32 bit periods) passes at once, and with it RX is raised beside RT, so that a program that
//! waits for RX alone works with any IFLS, as it does on other emulated boards; baud rate and frame format are stored and have no effect; no DMA and no IrDA. Data is sent and received whether or not CR enables the UART, since programs written for emulated
//! boards (Linux's `earlycon=pl011` among them) never set CR.

mod model;
mod uart;

pub use model::{Effects, FIFO_DEPTH, Pl011, int, reg, state};
pub use uart::{ByteSink, Uart};
