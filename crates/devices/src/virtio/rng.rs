//! Entropy device (virtio 1.2 section 5.4).

use super::{Event, Fault, Queues, VirtioDevice};
use std::io;
use vm_memory::GuestMemory;

/// Where random bytes come from.
pub trait Entropy: Send {
    /// Fills `buf`.
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<()>;
}

/// The host kernel's generator.
pub struct HostEntropy;

impl Entropy for HostEntropy {
    fn fill(&mut self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let n = rustix::rand::getrandom(&mut *buf, rustix::rand::GetRandomFlags::empty())?;
            buf = &mut buf[n..];
        }
        Ok(())
    }
}

/// Most bytes given to one request; a driver asks again for more.
const MAX_BYTES: u64 = 1 << 16;

/// The device.
pub struct Rng {
    entropy: Box<dyn Entropy>,
    buffer: Vec<u8>,
}

impl Rng {
    /// A device that draws from `entropy`.
    pub fn new(entropy: Box<dyn Entropy>) -> Self {
        Rng { entropy, buffer: Vec::new() }
    }
}

impl VirtioDevice for Rng {
    type State = state::V1;

    fn id(&self) -> u32 {
        4
    }
    fn name(&self) -> &'static str {
        "rng"
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &'static [u16] {
        &[64]
    }
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }
    fn activate(&mut self, _features: u64) {}
    fn reset(&mut self) {}

    fn process<M: GuestMemory>(&mut self, _event: Event, queues: &mut Queues<'_, M>) -> Result<(), Fault> {
        while let Some(chain) = queues.take(0)? {
            self.buffer.resize(chain.writable_len().min(MAX_BYTES) as usize, 0);
            let mut written = 0;
            // A host without entropy gives none: the driver gets an empty buffer back, not a stale one.
            if self.entropy.fill(&mut self.buffer).is_ok() {
                let mut writer = chain.writer(queues.mem());
                let _ = writer.write_all(&self.buffer); // a buffer outside memory gets what fits before it
                written = writer.written();
            }
            queues.complete(0, chain, written)?;
        }
        Ok(())
    }

    fn save(&self) -> state::V1 {
        state::V1
    }
    fn restore(&mut self, _state: &state::V1) {}
}

/// State for snapshots, record `("virtio-rng", 1)`: there is none.
pub mod state {
    /// Version 1.
    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    pub struct V1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{Bench, R, W};

    struct Counting(u8);
    impl Entropy for Counting {
        fn fill(&mut self, buf: &mut [u8]) -> io::Result<()> {
            for b in buf {
                *b = self.0;
                self.0 = self.0.wrapping_add(1);
            }
            Ok(())
        }
    }

    struct Dry;
    impl Entropy for Dry {
        fn fill(&mut self, _: &mut [u8]) -> io::Result<()> {
            Err(io::ErrorKind::Other.into())
        }
    }

    #[test]
    fn fills_what_is_writable() {
        let mut b = Bench::new(Rng::new(Box::new(Counting(1))));
        b.start(0);
        b.request(0, &[(0x8000, 4, R), (0x9000, 3, W), (0xa000, 2, W)]);
        assert_eq!(b.used(0), [(0, 5)]);
        assert_eq!(b.bytes(0x9000, 3), [1, 2, 3]);
        assert_eq!(b.bytes(0xa000, 2), [4, 5]);
        assert!(b.irq.level());
    }

    #[test]
    fn a_dry_host_gives_nothing() {
        let mut b = Bench::new(Rng::new(Box::new(Dry)));
        b.start(0);
        b.request(0, &[(0x9000, 16, W)]);
        assert_eq!(b.used(0), [(0, 0)]);
    }

    #[test]
    fn the_hosts_generator_does_not_repeat_itself() {
        let (mut a, mut b) = ([0u8; 32], [0u8; 32]);
        HostEntropy.fill(&mut a).unwrap();
        HostEntropy.fill(&mut b).unwrap();
        assert_ne!(a, b);
    }
}
