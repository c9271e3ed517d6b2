//! Console device (virtio 1.2 section 5.3), one port: `hvc0` in Linux.

use super::{Event, Fault, Queues, VirtioDevice};
use crate::mmio::Attention;
use crate::pl011::ByteSink;
use std::collections::VecDeque;
use std::io;
use vm_memory::GuestMemory;

const F_SIZE: u64 = 1 << 0;

const RX: usize = 0;
const TX: usize = 1;

/// Bytes of input kept for the guest; what does not fit stays with the caller.
const INPUT_MAX: usize = 1 << 16;

/// The device. Input goes through [`super::Handle::with_device`] and [`Console::receive`], then [`super::Handle::kick`]
/// of queue 0.
pub struct Console {
    sink: Box<dyn ByteSink>,
    input: VecDeque<u8>,
    size: (u16, u16),
    attention: Option<Attention>,
    starved: bool,
    sink_dead: bool,
    error: Option<io::Error>,
}

impl Console {
    /// A console that prints to `sink`, of (columns, rows).
    pub fn new(sink: Box<dyn ByteSink>, size: (u16, u16)) -> Self {
        Console {
            sink,
            input: VecDeque::new(),
            size,
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

    /// Bytes from outside. Returns how many were taken.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(INPUT_MAX - self.input.len());
        self.input.extend(&bytes[..n]);
        self.starved = n < bytes.len();
        n
    }

    /// The sink's error, once.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    fn call_attention(&self) {
        if let Some(hook) = &self.attention {
            hook();
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.sink_dead {
            return;
        }
        if let Err(e) = self.sink.put(bytes) {
            self.sink_dead = true;
            self.error = Some(e);
            self.call_attention();
        }
    }
}

impl VirtioDevice for Console {
    type State = state::V1;

    fn id(&self) -> u32 {
        3
    }
    fn name(&self) -> &'static str {
        "console"
    }
    fn features(&self) -> u64 {
        F_SIZE
    }
    fn queue_sizes(&self) -> &'static [u16] {
        &[64, 64]
    }

    /// Section 5.3.4: cols, rows; max_nr_ports and emerg_wr are not offered.
    fn config(&self) -> Vec<u8> {
        [self.size.0.to_le_bytes(), self.size.1.to_le_bytes()].concat()
    }

    fn activate(&mut self, _features: u64) {}
    fn reset(&mut self) {}

    fn process<M: GuestMemory>(&mut self, _event: Event, queues: &mut Queues<'_, M>) -> Result<(), Fault> {
        let mut buffer = [0u8; 4096];
        while let Some(chain) = queues.take(TX)? {
            let mut reader = chain.reader(queues.mem());
            while reader.remaining() > 0 && !queues.stopping() {
                let n = reader.remaining().min(buffer.len() as u64) as usize;
                if reader.read_exact(&mut buffer[..n]).is_err() {
                    break; // outside memory: nothing to print
                }
                self.put(&buffer[..n]);
            }
            queues.complete(TX, chain, 0)?;
        }
        while !self.input.is_empty() {
            let Some(chain) = queues.take(RX)? else { break };
            let n = (self.input.len() as u64).min(chain.writable_len()) as usize;
            let bytes: Vec<u8> = self.input.drain(..n).collect();
            let mut writer = chain.writer(queues.mem());
            let _ = writer.write_all(&bytes); // a buffer outside memory loses its input
            let written = writer.written();
            queues.complete(RX, chain, written)?;
        }
        if self.starved && self.input.len() < INPUT_MAX {
            self.starved = false;
            self.call_attention();
        }
        Ok(())
    }

    fn save(&self) -> state::V1 {
        state::V1 { cols: self.size.0, rows: self.size.1, input: self.input.iter().copied().collect() }
    }

    fn restore(&mut self, v1: &state::V1) {
        self.size = (v1.cols, v1.rows);
        self.input = v1.input.iter().copied().take(INPUT_MAX).collect();
    }
}

/// State for snapshots, record `("virtio-console", 1)`.
pub mod state {
    /// Version 1.
    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    pub struct V1 {
        /// Columns of the terminal.
        pub cols: u16,
        /// Rows of the terminal.
        pub rows: u16,
        /// Input that the guest has not taken.
        pub input: Vec<u8>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{Bench, R, W};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl ByteSink for Shared {
        fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
            let mut all = self.0.lock().unwrap();
            if all.len() > 9 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            all.extend(bytes);
            Ok(())
        }
    }

    #[test]
    fn prints_and_reports_a_closed_sink() {
        let out = Shared::default();
        let mut b = Bench::new(Console::new(Box::new(out.clone()), (80, 25)));
        b.start(F_SIZE);
        b.set_bytes(0x8000, b"hello");
        b.set_bytes(0x9000, b" you!");
        b.request(TX, &[(0x8000, 5, R), (0x9000, 5, R)]);
        assert_eq!(*out.0.lock().unwrap(), b"hello you!");
        b.request(TX, &[(0x8000, 5, R)]);
        assert_eq!(b.used(TX).len(), 2, "the guest goes on");
        let error = b.handle().with_device(Console::take_error);
        assert_eq!(error.map(|e| e.kind()), Some(io::ErrorKind::BrokenPipe));
    }

    #[test]
    fn input_waits_for_buffers() {
        let mut b = Bench::new(Console::new(Box::new(Shared::default()), (80, 25)));
        b.start(F_SIZE);
        let h = b.handle();
        assert_eq!(h.with_device(|c| c.receive(b"abcdef")), 6);
        h.kick(RX);
        assert!(b.used(RX).is_empty());
        b.request(RX, &[(0x8000, 4, W)]);
        b.request(RX, &[(0x9000, 4, W)]);
        assert_eq!(b.used(RX), [(0, 4), (1, 2)]);
        assert_eq!(b.bytes(0x8000, 4), b"abcd");
        assert_eq!(b.bytes(0x9000, 2), b"ef");
    }

    #[test]
    fn input_is_bounded() {
        let mut c = Console::new(Box::new(Shared::default()), (80, 25));
        assert_eq!(c.receive(&vec![0; INPUT_MAX + 5]), INPUT_MAX);
        assert_eq!(c.receive(b"x"), 0);
    }
}
