//! The PL011 joined to an interrupt line and to a byte sink.

use super::{Pl011, state};
use crate::mmio::{Attention, IrqLine, Level, MmioDevice, read32, write32};
use std::io;
use std::sync::Arc;

/// Where transmitted bytes go.
pub trait ByteSink: Send {
    /// Takes all of `bytes`. An error is final: the port reports it once and drops what follows.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl<W: io::Write + Send> ByteSink for W {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)?;
        self.flush()
    }
}

/// A serial port of the board.
///
/// Input: call [`Uart::receive`] and keep what it does not take. When the guest has made room after a refusal the
/// [`Attention`] hook is called; then offer the rest again. Output errors (a closed pipe) never disturb the guest: the
/// hook is called and [`Uart::take_error`] tells the reason.
pub struct Uart {
    model: Pl011,
    sink: Box<dyn ByteSink>,
    irq: Level,
    attention: Option<Attention>,
    /// Bytes were refused: the next free place is worth a call.
    starved: bool,
    sink_dead: bool,
    error: Option<io::Error>,
}

impl Uart {
    /// A port after reset that sends to `sink`.
    pub fn new(sink: Box<dyn ByteSink>, irq: Arc<dyn IrqLine>) -> Self {
        Uart {
            model: Pl011::new(),
            sink,
            irq: Level::new(irq),
            attention: None,
            starved: false,
            sink_dead: false,
            error: None,
        }
    }

    /// Sets the hook that is called when there is room for input again, or when the sink failed.
    pub fn set_attention(&mut self, attention: Attention) {
        self.attention = Some(attention);
    }

    /// Bytes from outside. Returns how many were taken; offer the others after the next call for attention.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let n = self.model.receive(bytes);
        self.starved = n < bytes.len();
        self.irq.drive(self.model.line());
        n
    }

    /// A break from outside (a magic SysRq prefix, for instance). Returns false if there was no room.
    pub fn receive_break(&mut self) -> bool {
        let taken = self.model.receive_break();
        self.irq.drive(self.model.line());
        taken
    }

    /// How many bytes [`Uart::receive`] would take now.
    pub fn rx_space(&self) -> usize {
        self.model.rx_space()
    }

    /// The sink's error, once.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// Back to reset; the sink stays.
    pub fn reset(&mut self) {
        self.model = Pl011::new();
        self.after_access();
    }

    /// State for a snapshot.
    pub fn save(&self) -> state::V1 {
        self.model.save()
    }

    /// Takes over a saved state and drives the line accordingly.
    pub fn restore(&mut self, v1: &state::V1) {
        self.model = Pl011::restore(v1);
        self.irq.force(self.model.line());
    }

    fn call_attention(&self) {
        if let Some(hook) = &self.attention {
            hook();
        }
    }

    fn after_access(&mut self) {
        self.irq.drive(self.model.line());
        if self.starved && self.model.rx_space() > 0 {
            self.starved = false;
            self.call_attention();
        }
    }
}

impl MmioDevice for Uart {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let model = &mut self.model;
        read32(offset, data, |reg| model.read(reg));
        self.after_access();
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut out = [0u8; 4];
        let mut n = 0;
        let model = &mut self.model;
        write32(offset, data, |reg, value| {
            if let (Some(byte), Some(slot)) = (model.write(reg, value).tx, out.get_mut(n)) {
                *slot = byte;
                n += 1;
            }
        });
        if n > 0
            && !self.sink_dead
            && let Err(e) = self.sink.put(&out[..n])
        {
            self.sink_dead = true;
            self.error = Some(e);
            self.call_attention();
        }
        self.after_access();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmio::testing::Probe;
    use crate::pl011::{int, reg};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Shared {
        fn write(&mut self, b: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(b)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed;
    impl ByteSink for Closed {
        fn put(&mut self, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    fn counting() -> (Attention, Arc<AtomicUsize>) {
        let n = Arc::new(AtomicUsize::new(0));
        let m = n.clone();
        (
            Arc::new(move || {
                m.fetch_add(1, Ordering::SeqCst);
            }),
            n,
        )
    }

    #[test]
    fn bytes_written_in_any_size_reach_the_sink() {
        let out = Shared::default();
        let mut uart = Uart::new(Box::new(out.clone()), Probe::new());
        uart.write(reg::DR, b"a");
        uart.write(reg::DR, &[b'b', 0]);
        uart.write(reg::DR, &[b'c', 0, 0, 0]);
        uart.write(reg::DR, &[b'd', 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(*out.0.lock().unwrap(), b"abcd");
    }

    #[test]
    fn the_line_follows_the_receive_interrupt() {
        let irq = Probe::new();
        let mut uart = Uart::new(Box::new(io::sink()), irq.clone());
        uart.write(reg::IMSC, &int::RX.to_le_bytes());
        assert_eq!(uart.receive(b"x"), 1);
        assert!(irq.level());
        let mut data = [0; 4];
        uart.read(reg::DR, &mut data);
        assert_eq!(data[0], b'x');
        assert!(!irq.level());
        assert_eq!(irq.calls(), 2);
    }

    #[test]
    fn room_after_a_refusal_calls_for_attention_once() {
        let (hook, calls) = counting();
        let mut uart = Uart::new(Box::new(io::sink()), Probe::new());
        uart.set_attention(hook);
        assert_eq!(uart.receive(b"abc"), 1);
        assert_eq!(calls.load(Ordering::SeqCst), 0);
        uart.read(reg::FR, &mut [0; 4]);
        assert_eq!(calls.load(Ordering::SeqCst), 0);
        uart.read(reg::DR, &mut [0; 4]);
        uart.read(reg::DR, &mut [0; 4]);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_closed_sink_is_reported_once_and_the_guest_goes_on() {
        let (hook, calls) = counting();
        let mut uart = Uart::new(Box::new(Closed), Probe::new());
        uart.set_attention(hook);
        uart.write(reg::DR, b"a");
        uart.write(reg::DR, b"b");
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert_eq!(uart.take_error().map(|e| e.kind()), Some(io::ErrorKind::BrokenPipe));
        assert!(uart.take_error().is_none());
    }
}
