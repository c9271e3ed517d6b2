//! Which device answers at which guest address.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use ulna_devices::MmioDevice;

/// A device that both vCPUs and the event loop use.
pub type Shared<D> = Arc<Mutex<D>>;

/// The devices in the order of their addresses.
#[derive(Default)]
pub struct Bus {
    windows: Vec<(Range<u64>, Shared<dyn MmioDevice>)>,
}

impl Bus {
    /// Puts a device at a range where there is none yet.
    pub fn attach(&mut self, range: Range<u64>, device: Shared<dyn MmioDevice>) {
        let at = self.windows.partition_point(|(r, _)| r.start < range.start);
        debug_assert!(self.windows.get(at).is_none_or(|(r, _)| r.start >= range.end));
        self.windows.insert(at, (range, device));
    }

    fn find(&self, address: u64) -> Option<(u64, &Shared<dyn MmioDevice>)> {
        let at = self.windows.partition_point(|(r, _)| r.start <= address).checked_sub(1)?;
        let (range, device) = self.windows.get(at)?;
        range.contains(&address).then(|| (address - range.start, device))
    }

    /// A guest load. Where there is no device it reads zero, as KVM's users have it.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0);
        match self.find(address) {
            Some((offset, device)) => lock(device).read(offset, data),
            None => {
                tracing::debug!(address = format_args!("{address:#x}"), len = data.len(), "load from nowhere")
            }
        }
    }

    /// A guest store. Where there is no device it is lost.
    pub fn write(&self, address: u64, data: &[u8]) {
        match self.find(address) {
            Some((offset, device)) => lock(device).write(offset, data),
            None => tracing::debug!(address = format_args!("{address:#x}"), ?data, "store to nowhere"),
        }
    }
}

/// A device whose user panicked is still a device: its state is what the last whole access left.
pub fn lock<D: ?Sized>(device: &Shared<D>) -> std::sync::MutexGuard<'_, D> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u8);
    impl MmioDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(self.0.wrapping_add(offset as u8));
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0 = data[0].wrapping_sub(offset as u8);
        }
    }

    #[test]
    fn accesses_go_to_the_device_at_the_address() {
        let mut bus = Bus::default();
        bus.attach(0x2000..0x3000, Arc::new(Mutex::new(Echo(2))));
        bus.attach(0x1000..0x1200, Arc::new(Mutex::new(Echo(1))));
        let read = |address| {
            let mut b = [9u8; 2];
            bus.read(address, &mut b);
            b
        };
        assert_eq!(read(0x1000), [1, 1]);
        assert_eq!(read(0x11ff), [0, 0]); // 1 + 0xff, wrapped
        assert_eq!(read(0x2003), [5, 5]);
        for nowhere in [0, 0xfff, 0x1200, 0x3000, u64::MAX] {
            assert_eq!(read(nowhere), [0, 0]);
            bus.write(nowhere, &[7]);
        }
        bus.write(0x2001, &[8]);
        assert_eq!(read(0x2000), [7, 7]);
    }
}
