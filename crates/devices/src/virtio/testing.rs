//! A bench for device tests: guest memory, a driver that does as it is told, and the device behind its window.

use super::{Handle, Service, VirtioDevice, VirtioMmio, reg, status};
use crate::mmio::MmioDevice;
use crate::mmio::testing::Probe;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub type Ram = Arc<GuestMemoryMmap<()>>;

/// A part that the device reads.
pub const R: u16 = 0;
/// A part that the device writes.
pub const W: u16 = 2;
const NEXT: u16 = 1;

/// RAM: 1 MiB at 64 KiB. Rings of queue n lie at `RINGS + n * 0x4000`. Addresses in tests count from [`BASE`].
pub const BASE: u64 = 0x1_0000;
pub const RAM_SIZE: u64 = 0x10_0000;
const RINGS: u64 = BASE + 0xe_0000;
pub const SIZE: u16 = 16;

pub struct Bench<D: VirtioDevice> {
    pub ram: Ram,
    pub irq: Arc<Probe>,
    pub window: VirtioMmio<D, Ram>,
    /// Next free descriptor and number of requests, per queue.
    next: Vec<(u16, u16)>,
}

impl<D: VirtioDevice> Bench<D> {
    pub fn new(device: D) -> Self {
        Bench::with_service(device, Service::Inline)
    }

    pub fn with_service(device: D, service: Service) -> Self {
        let ram =
            Arc::new(GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(BASE), RAM_SIZE as usize)]).unwrap());
        let irq = Probe::new();
        let next = vec![(0, 0); device.queue_sizes().len()];
        let window = VirtioMmio::new(device, ram.clone(), irq.clone(), service).unwrap();
        Bench { ram, irq, window, next }
    }

    pub fn handle(&self) -> Handle<D, Ram> {
        self.window.handle()
    }

    pub fn get(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.window.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn set(&mut self, offset: u64, value: u32) {
        self.window.write(offset, &value.to_le_bytes());
    }

    /// Up to FEATURES_OK, as section 3.1.1 tells. Returns whether the device agreed.
    pub fn negotiate(&mut self, features: u64) -> bool {
        self.set(reg::STATUS, 0);
        self.next.iter_mut().for_each(|n| *n = (0, 0));
        self.set(reg::STATUS, status::ACKNOWLEDGE);
        self.set(reg::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        for sel in 0..2 {
            self.set(reg::DRIVER_FEATURES_SEL, sel);
            self.set(reg::DRIVER_FEATURES, (features >> (32 * sel)) as u32);
        }
        let s = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.set(reg::STATUS, s);
        self.get(reg::STATUS) == s
    }

    pub fn rings(i: usize) -> (u64, u64, u64) {
        let base = RINGS + 0x4000 * i as u64;
        (base, base + 0x1000, base + 0x2000)
    }

    pub fn set_up_queue(&mut self, i: usize) {
        let (desc, avail, used) = Self::rings(i);
        self.ram.write_slice(&[0; 0x4000], GuestAddress(desc)).unwrap();
        self.set(reg::QUEUE_SEL, i as u32);
        self.set(reg::QUEUE_NUM, SIZE.into());
        for (low, addr) in
            [(reg::QUEUE_DESC_LOW, desc), (reg::QUEUE_DRIVER_LOW, avail), (reg::QUEUE_DEVICE_LOW, used)]
        {
            self.set(low, addr as u32);
            self.set(low + 4, (addr >> 32) as u32);
        }
        self.set(reg::QUEUE_READY, 1);
        assert_eq!(self.get(reg::QUEUE_READY), 1);
    }

    /// The whole dance; `features` of the device, VERSION_1 is added.
    pub fn start(&mut self, features: u64) {
        assert!(self.negotiate(features | 1 << 32));
        for i in 0..self.next.len() {
            self.set_up_queue(i);
        }
        let s = self.get(reg::STATUS);
        self.set(reg::STATUS, s | status::DRIVER_OK);
    }

    pub fn set_bytes(&self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(BASE + at)).unwrap();
    }

    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut v = vec![0; len];
        self.ram.read_slice(&mut v, GuestAddress(BASE + at)).unwrap();
        v
    }

    pub fn set_desc(&self, queue: usize, i: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = GuestAddress(Self::rings(queue).0 + 16 * u64::from(i));
        let mut d = addr.to_le_bytes().to_vec();
        d.extend(len.to_le_bytes());
        d.extend(flags.to_le_bytes());
        d.extend(next.to_le_bytes());
        self.ram.write_slice(&d, at).unwrap();
    }

    /// Puts `head` into the available ring without telling the device.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let avail = Self::rings(queue).1;
        let n = self.next[queue].1;
        self.ram.write_obj(head, GuestAddress(avail + 4 + 2 * u64::from(n % SIZE))).unwrap();
        self.next[queue].1 = n.wrapping_add(1);
        self.ram.write_obj(n.wrapping_add(1), GuestAddress(avail + 2)).unwrap();
    }

    pub fn notify(&mut self, queue: usize) {
        self.set(reg::QUEUE_NOTIFY, queue as u32);
    }

    /// Makes a chain of (address from [`BASE`], length, [`R`] or [`W`]), offers it, notifies. Returns its head.
    pub fn request(&mut self, queue: usize, parts: &[(u64, u32, u16)]) -> u16 {
        let first = self.next[queue].0;
        for (k, &(addr, len, kind)) in parts.iter().enumerate() {
            let i = (first + k as u16) % SIZE;
            let more = if k + 1 < parts.len() { NEXT } else { 0 };
            self.set_desc(queue, i, BASE.wrapping_add(addr), len, kind | more, (i + 1) % SIZE);
        }
        self.next[queue].0 = (first + parts.len() as u16) % SIZE;
        self.offer(queue, first);
        self.notify(queue);
        first
    }

    pub fn used_idx(&self, queue: usize) -> u16 {
        self.ram.read_obj(GuestAddress(Self::rings(queue).2 + 2)).unwrap()
    }

    /// What the device returned so far, at most the last ring full: (head, written).
    pub fn used(&self, queue: usize) -> Vec<(u32, u32)> {
        let used = Self::rings(queue).2;
        (0..self.used_idx(queue))
            .map(|i| {
                let at = used + 4 + 8 * u64::from(i % SIZE);
                let id: u32 = self.ram.read_obj(GuestAddress(at)).unwrap();
                let len: u32 = self.ram.read_obj(GuestAddress(at + 4)).unwrap();
                (id, len)
            })
            .collect()
    }

    pub fn needs_reset(&mut self) -> bool {
        self.get(reg::STATUS) & status::DEVICE_NEEDS_RESET != 0
    }
}
