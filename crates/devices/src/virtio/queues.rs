//! The rings of a running device, as the device sees them.

use super::{Chain, Fault};
use std::sync::atomic::{AtomicU32, Ordering};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemory;

/// How often the driver may announce a request that is then not there.
const MAX_MISSES: u32 = 64;

/// Gives a device its requests and returns them to the driver.
pub struct Queues<'a, M> {
    mem: &'a M,
    queues: &'a mut [Option<Queue>],
    stop: &'a AtomicU32,
    /// Bit n: something was returned on queue n.
    used: u32,
    config: Option<Vec<u8>>,
}

impl<'a, M: GuestMemory> Queues<'a, M> {
    pub(super) fn new(mem: &'a M, queues: &'a mut [Option<Queue>], stop: &'a AtomicU32) -> Self {
        Queues { mem, queues, stop, used: 0, config: None }
    }

    /// Guest memory.
    pub fn mem(&self) -> &'a M {
        self.mem
    }

    /// The service is asked to end: leave long work.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed) != 0
    }

    /// Takes the next request from queue `i`. When there is none (or the queue is not in use), the driver will notify us
    /// of the next.
    pub fn take(&mut self, i: usize) -> Result<Option<Chain>, Fault> {
        if self.stopping() {
            return Ok(None);
        }
        let Some(Some(queue)) = self.queues.get_mut(i) else { return Ok(None) };
        let ring = |source| Fault::Ring { queue: i, source };
        for _ in 0..MAX_MISSES {
            if let Some(descriptors) = queue.iter(self.mem).map_err(ring)?.next() {
                let head = descriptors.head_index();
                if head >= queue.size() {
                    return Err(ring(virtio_queue::Error::InvalidDescriptorIndex));
                }
                return Chain::walk(descriptors).map(Some).ok_or(Fault::Chain { queue: i, head });
            }
            if !queue.enable_notification(self.mem).map_err(ring)? {
                return Ok(None);
            }
        }
        // The index moves but no request is there: it is being turned back and forth, or the ring left memory.
        Err(ring(virtio_queue::Error::InvalidAvailRingIndex))
    }

    /// Puts back the request just taken from queue `i`: it will be taken again next time.
    pub fn put_back(&mut self, i: usize, _chain: Chain) {
        if let Some(Some(queue)) = self.queues.get_mut(i) {
            queue.go_to_previous_position();
        }
    }

    /// Returns a request to the driver; `written` bytes at the start of its writable buffers are new.
    pub fn complete(&mut self, i: usize, chain: Chain, written: u32) -> Result<(), Fault> {
        let Some(Some(queue)) = self.queues.get_mut(i) else { return Ok(()) };
        queue.add_used(self.mem, chain.head, written).map_err(|source| Fault::Ring { queue: i, source })?;
        self.used |= 1 << i;
        Ok(())
    }

    /// Changes the configuration space; the driver is told.
    pub fn set_config(&mut self, config: Vec<u8>) {
        self.config = Some(config);
    }

    /// What the driver must hear: whether buffers were used and it wants an interrupt; a changed configuration.
    pub(super) fn finish(self) -> Result<(bool, Option<Vec<u8>>), Fault> {
        let mut interrupt = false;
        for (i, queue) in self.queues.iter_mut().enumerate() {
            if let Some(queue) = queue
                && self.used & (1 << i) != 0
            {
                interrupt |=
                    queue.needs_notification(self.mem).map_err(|source| Fault::Ring { queue: i, source })?;
            }
        }
        Ok((interrupt, self.config))
    }
}
