//! The register window of the MMIO transport, version 2 (virtio 1.2 section 4.2.2).

use super::core::Core;
use super::{Fault, Handle, Service, VirtioDevice};
use crate::mmio::{IrqLine, MmioDevice, read32};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::GuestAddressSpace;

/// Register offsets (table 4.1 of section 4.2.2).
#[allow(missing_docs)] // the names are the specification's
pub mod reg {
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_SEL: u64 = 0x0ac;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const SHM_LEN_HIGH: u64 = 0x0b4;
    pub const SHM_BASE_LOW: u64 = 0x0b8;
    pub const SHM_BASE_HIGH: u64 = 0x0bc;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// Bits of the device status (section 2.1).
#[allow(missing_docs)] // the names are the specification's
pub mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    pub const FAILED: u32 = 128;
}

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VENDOR: u32 = u32::from_le_bytes(*b"ULNA");

const F_RING_INDIRECT_DESC: u64 = 1 << 28;
const F_RING_EVENT_IDX: u64 = 1 << 29;
const F_VERSION_1: u64 = 1 << 32;
const TRANSPORT_FEATURES: u64 = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX | F_VERSION_1;

/// A queue as the driver programs it, before it is made ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct QueueRegs {
    num: u32,
    desc: u64,
    driver: u64,
    device: u64,
}

impl QueueRegs {
    fn new(max: u16) -> Self {
        QueueRegs { num: u32::from(max), desc: 0, driver: 0, device: 0 }
    }
}

/// The register window of a virtio device, 0x200 bytes.
pub struct VirtioMmio<D, M>
where
    D: VirtioDevice,
    M: GuestAddressSpace + Send + Sync + 'static,
    M::T: 'static,
{
    core: Arc<Core<D, M>>,
    worker: Option<JoinHandle<()>>,
    id: u32,
    offered: u64,
    sizes: &'static [u16],
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queues: Vec<QueueRegs>,
    status: u32,
}

fn set_low(value: &mut u64, low: u32) {
    *value = (*value & !0xffff_ffff) | u64::from(low);
}

fn set_high(value: &mut u64, high: u32) {
    *value = (*value & 0xffff_ffff) | (u64::from(high) << 32);
}

fn half(value: u64, sel: u32) -> u32 {
    match sel {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

impl<D, M> VirtioMmio<D, M>
where
    D: VirtioDevice,
    M: GuestAddressSpace + Send + Sync + 'static,
    M::T: 'static,
{
    /// A device after reset; starts its worker if `service` has one. Fails only if the host has no more threads or
    /// descriptors.
    pub fn new(device: D, mem: M, irq: Arc<dyn IrqLine>, service: Service) -> io::Result<Self> {
        let (id, offered, sizes) =
            (device.id(), device.features() | TRANSPORT_FEATURES, device.queue_sizes());
        let core = Core::new(device, mem, irq, service)?;
        let worker = core.spawn()?;
        Ok(VirtioMmio {
            core,
            worker,
            id,
            offered,
            sizes,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            queues: sizes.iter().map(|&max| QueueRegs::new(max)).collect(),
            status: 0,
        })
    }

    /// Short name of the device.
    pub fn name(&self) -> &'static str {
        self.core.back().device.name()
    }

    /// Access to the device from other threads.
    pub fn handle(&self) -> Handle<D, M> {
        Handle(self.core.clone())
    }

    /// Back to reset, as the driver would do it.
    pub fn reset(&mut self) {
        self.core.reset();
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.queues = self.sizes.iter().map(|&max| QueueRegs::new(max)).collect();
        self.status = 0;
    }

    fn sel(&self) -> usize {
        self.queue_sel as usize
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            reg::MAGIC_VALUE => MAGIC,
            reg::VERSION => 2,
            reg::DEVICE_ID => self.id,
            reg::VENDOR_ID => VENDOR,
            reg::DEVICE_FEATURES => half(self.offered, self.device_features_sel),
            reg::QUEUE_NUM_MAX => self.sizes.get(self.sel()).copied().unwrap_or(0).into(),
            reg::QUEUE_READY => self.core.queue_ready(self.sel()).into(),
            reg::INTERRUPT_STATUS => self.core.interrupt_status(),
            reg::STATUS => self.status | if self.core.broken() { status::DEVICE_NEEDS_RESET } else { 0 },
            // Shared memory regions do not exist: their length reads as -1 (section 4.2.2).
            reg::SHM_LEN_LOW | reg::SHM_LEN_HIGH | reg::SHM_BASE_LOW | reg::SHM_BASE_HIGH => u32::MAX,
            reg::CONFIG_GENERATION => self.core.config_generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::DRIVER_FEATURES if self.status & status::FEATURES_OK == 0 => {
                match self.driver_features_sel {
                    0 => set_low(&mut self.driver_features, value),
                    1 => set_high(&mut self.driver_features, value),
                    // Nothing is offered up there; remember that the driver took something.
                    _ if value != 0 => self.driver_features |= !self.offered & (1 << 63),
                    _ => {}
                }
            }
            reg::QUEUE_SEL => self.queue_sel = value,
            reg::QUEUE_NOTIFY
                if self.status & status::DRIVER_OK != 0 && (value as usize) < self.sizes.len() =>
            {
                self.core.notify(1 << value);
            }
            reg::INTERRUPT_ACK => self.core.acknowledge(value),
            reg::STATUS => self.write_status(value),
            reg::QUEUE_READY => self.write_ready(value),
            _ => self.write_queue(offset, value),
        }
    }

    /// The registers of the selected queue; a queue in use cannot be changed.
    fn write_queue(&mut self, offset: u64, value: u32) {
        let sel = self.sel();
        if self.core.queue_ready(sel) {
            return;
        }
        let Some(q) = self.queues.get_mut(sel) else { return };
        match offset {
            reg::QUEUE_NUM => q.num = value,
            reg::QUEUE_DESC_LOW => set_low(&mut q.desc, value),
            reg::QUEUE_DESC_HIGH => set_high(&mut q.desc, value),
            reg::QUEUE_DRIVER_LOW => set_low(&mut q.driver, value),
            reg::QUEUE_DRIVER_HIGH => set_high(&mut q.driver, value),
            reg::QUEUE_DEVICE_LOW => set_low(&mut q.device, value),
            reg::QUEUE_DEVICE_HIGH => set_high(&mut q.device, value),
            _ => {}
        }
    }

    fn write_ready(&mut self, value: u32) {
        let sel = self.sel();
        if sel >= self.queues.len() {
            return;
        }
        if value & 1 == 0 {
            self.core.set_queue(sel, None);
        } else if !self.core.queue_ready(sel) {
            match self.build_queue(sel, 0, 0) {
                Some(queue) => self.core.set_queue(sel, Some(queue)),
                None => {
                    let mut back = self.core.back();
                    self.core.break_down(&mut back, Fault::Setup { queue: sel });
                }
            }
        }
    }

    /// A ring as programmed, if it can be one at all.
    fn build_queue(&self, i: usize, next_avail: u16, next_used: u16) -> Option<Queue> {
        let q = self.queues.get(i)?;
        let queue = Queue::try_from(QueueState {
            max_size: *self.sizes.get(i)?,
            next_avail,
            next_used,
            event_idx_enabled: self.driver_features & F_RING_EVENT_IDX != 0,
            size: u16::try_from(q.num).ok()?,
            ready: true,
            desc_table: q.desc,
            avail_ring: q.driver,
            used_ring: q.device,
        })
        .ok()?;
        queue.is_valid(&*self.core.memory()).then_some(queue)
    }

    fn write_status(&mut self, value: u32) {
        if value & 0xff == 0 {
            self.reset();
            return;
        }
        let before = self.status;
        // A driver never takes a bit back (section 2.1.1); one that tries keeps it.
        let mut now = before | (value & 0xff & !status::DEVICE_NEEDS_RESET);
        let unknown = self.driver_features & !self.offered != 0;
        if before & status::FEATURES_OK == 0 && (unknown || self.driver_features & F_VERSION_1 == 0) {
            now &= !status::FEATURES_OK;
        }
        if now & status::FEATURES_OK == 0 {
            now &= !status::DRIVER_OK;
        }
        self.status = now;
        let new = now & !before;
        if new & status::FAILED != 0 {
            self.core.halt();
        } else if new & status::DRIVER_OK != 0 && now & status::FAILED == 0 && !self.core.broken() {
            self.fix_event_idx();
            self.core.start(self.driver_features);
        }
    }

    /// Queues may have been made ready before the features were chosen.
    fn fix_event_idx(&self) {
        let enabled = self.driver_features & F_RING_EVENT_IDX != 0;
        for queue in self.core.back().queues.iter_mut().flatten() {
            queue.set_event_idx(enabled);
        }
    }

    /// State for a snapshot; pause the device first ([`Handle::pause`]).
    pub fn save(&self) -> state::V1<D::State> {
        let back = self.core.back();
        let queues = self.queues.iter().zip(&back.queues);
        state::V1 {
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            driver_features: self.driver_features,
            queue_sel: self.queue_sel,
            status: self.status,
            needs_reset: self.core.broken(),
            interrupt_status: self.core.interrupt_status(),
            config_generation: self.core.config_generation(),
            queues: queues
                .map(|(regs, ring)| state::QueueV1 {
                    num: regs.num,
                    desc: regs.desc,
                    driver: regs.driver,
                    device: regs.device,
                    ready: ring.is_some(),
                    next_avail: ring.as_ref().map_or(0, QueueT::next_avail),
                    next_used: ring.as_ref().map_or(0, QueueT::next_used),
                })
                .collect(),
            device: back.device.save(),
        }
    }

    /// Takes over a saved state; guest memory must be there already. The device stays paused until [`Handle::resume`].
    pub fn restore(&mut self, v1: &state::V1<D::State>) -> Result<(), state::Mismatch> {
        if let Some(why) = self.core.back().device.misfit(&v1.device) {
            return Err(state::Mismatch::Device { why });
        }
        if v1.queues.len() != self.sizes.len() {
            return Err(state::Mismatch::Queues { have: self.sizes.len(), saved: v1.queues.len() });
        }
        if v1.driver_features & !self.offered != 0 && v1.status & status::FEATURES_OK != 0 {
            return Err(state::Mismatch::Features { missing: v1.driver_features & !self.offered });
        }
        self.reset();
        self.core.pause();
        self.device_features_sel = v1.device_features_sel;
        self.driver_features_sel = v1.driver_features_sel;
        self.driver_features = v1.driver_features;
        self.queue_sel = v1.queue_sel;
        self.status = v1.status & 0xff & !status::DEVICE_NEEDS_RESET;
        for (i, q) in v1.queues.iter().enumerate() {
            self.queues[i] = QueueRegs { num: q.num, desc: q.desc, driver: q.driver, device: q.device };
            if q.ready {
                let queue = self.build_queue(i, q.next_avail, q.next_used);
                self.core.set_queue(i, Some(queue.ok_or(state::Mismatch::Ring { queue: i })?));
            }
        }
        let running =
            self.status & status::DRIVER_OK != 0 && self.status & status::FAILED == 0 && !v1.needs_reset;
        {
            let mut back = self.core.back();
            if running {
                back.device.activate(self.driver_features);
            }
            back.device.restore(&v1.device);
        }
        self.core.set_broken(v1.needs_reset);
        self.core.set_running(running);
        self.core.refresh_config(v1.config_generation);
        self.core.set_interrupt(v1.interrupt_status);
        Ok(())
    }
}

impl<D, M> MmioDevice for VirtioMmio<D, M>
where
    D: VirtioDevice,
    M: GuestAddressSpace + Send + Sync + 'static,
    M::T: 'static,
{
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset >= reg::CONFIG {
            self.core.read_config(offset - reg::CONFIG, data);
        } else {
            read32(offset, data, |r| self.read_register(r));
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // Registers take aligned 32-bit stores only (section 4.2.2.2); no device here has writable configuration.
        if let (true, Ok(word)) = (offset < reg::CONFIG && offset & 3 == 0, <[u8; 4]>::try_from(data)) {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }
}

impl<D, M> Drop for VirtioMmio<D, M>
where
    D: VirtioDevice,
    M: GuestAddressSpace + Send + Sync + 'static,
    M::T: 'static,
{
    fn drop(&mut self) {
        self.core.quit();
        if let Some(worker) = self.worker.take() {
            // A worker that panicked has printed why; there is nothing to add while tearing down.
            let _ = worker.join();
        }
    }
}

/// State for snapshots, record `("virtio-mmio", 1)`; the device's own record is inside.
pub mod state {
    /// Version 1.
    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    #[allow(missing_docs)] // the names are the specification's
    pub struct V1<S> {
        pub device_features_sel: u32,
        pub driver_features_sel: u32,
        pub driver_features: u64,
        pub queue_sel: u32,
        pub status: u32,
        pub needs_reset: bool,
        pub interrupt_status: u32,
        pub config_generation: u32,
        pub queues: Vec<QueueV1>,
        pub device: S,
    }

    /// One queue of version 1.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    #[allow(missing_docs)] // the names are the specification's
    pub struct QueueV1 {
        pub num: u32,
        pub desc: u64,
        pub driver: u64,
        pub device: u64,
        pub ready: bool,
        pub next_avail: u16,
        pub next_used: u16,
    }

    /// A saved state does not fit this device.
    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    pub enum Mismatch {
        /// Another number of queues.
        #[error("the saved device has {saved} queues, this one has {have}")]
        Queues {
            /// Queues of this device.
            have: usize,
            /// Queues of the saved device.
            saved: usize,
        },
        /// The driver uses what this device does not offer.
        #[error("the saved driver uses features that this device does not offer: {missing:#x}")]
        Features {
            /// The features.
            missing: u64,
        },
        /// The device itself refuses.
        #[error("{why}")]
        Device {
            /// Why.
            why: String,
        },
        /// A ring is not in guest memory.
        #[error("the rings of saved queue {queue} are not in guest memory")]
        Ring {
            /// The queue.
            queue: usize,
        },
    }
}

#[cfg(test)]
#[path = "mmio_tests.rs"]
mod tests;
