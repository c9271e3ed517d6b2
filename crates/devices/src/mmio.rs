//! What every device on the board has: registers behind MMIO and an interrupt line.

use std::sync::Arc;

/// A device that answers guest accesses inside its MMIO window.
///
/// `offset` counts from the base of the window; `data` has 1, 2, 4 or 8 bytes, little-endian. Any offset and any length
/// must be survived: absent registers read as zero and ignore writes.
pub trait MmioDevice: Send {
    /// The guest loads `data.len()` bytes at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest stores `data` at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A level-triggered interrupt input of the interrupt controller.
pub trait IrqLine: Send + Sync {
    /// Drives the line high (`true`) or low.
    fn set(&self, level: bool);
}

/// Called by a device that wants its event loop to look at it; must not call back into the device.
pub type Attention = Arc<dyn Fn() + Send + Sync>;

/// An [`IrqLine`] that remembers its level, so that the interrupt controller hears of changes only.
pub struct Level {
    line: Arc<dyn IrqLine>,
    level: bool,
}

impl Level {
    /// A line that is low.
    pub fn new(line: Arc<dyn IrqLine>) -> Self {
        Level { line, level: false }
    }

    /// Drives the line to `level` if it is not there already.
    pub fn drive(&mut self, level: bool) {
        if level != self.level {
            self.level = level;
            self.line.set(level);
        }
    }

    /// Drives the line to `level` even if it seems to be there: after a restore the other side knows nothing yet.
    pub fn force(&mut self, level: bool) {
        self.level = level;
        self.line.set(level);
    }
}

/// Turns a guest load of any size into loads of 32-bit registers; each register touched is read once.
pub(crate) fn read32(offset: u64, data: &mut [u8], mut read: impl FnMut(u64) -> u32) {
    let mut current = None;
    for (at, byte) in (0u64..).zip(data.iter_mut()) {
        let at = offset.wrapping_add(at);
        let reg = at & !3;
        let value = match current {
            Some((r, v)) if r == reg => v,
            _ => {
                let v = read(reg);
                current = Some((reg, v));
                v
            }
        };
        *byte = value.to_le_bytes()[(at & 3) as usize];
    }
}

/// Turns a guest store of any size into stores of 32-bit registers; bytes that are not written count as zero, as on a
/// bus without byte strobes.
pub(crate) fn write32(offset: u64, data: &[u8], mut write: impl FnMut(u64, u32)) {
    let mut i = 0;
    while i < data.len() {
        let at = offset.wrapping_add(i as u64);
        let lane = (at & 3) as usize;
        let n = (4 - lane).min(data.len() - i);
        let mut word = [0u8; 4];
        word[lane..lane + n].copy_from_slice(&data[i..i + n]);
        write(at & !3, u32::from_le_bytes(word));
        i += n;
    }
}

/// PrimeCell identification registers at 0xFE0..0xFFF: four of the peripheral, four of the PrimeCell standard.
pub(crate) fn primecell_id(periph: [u8; 4], offset: u64) -> Option<u32> {
    const PCELL: [u8; 4] = [0x0d, 0xf0, 0x05, 0xb1];
    let i = ((offset >> 2) & 3) as usize;
    match offset {
        0xfe0..=0xfef => Some(u32::from(periph[i])),
        0xff0..=0xfff => Some(u32::from(PCELL[i])),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::IrqLine;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// A line that tells a test its level and how often it was driven.
    #[derive(Default)]
    pub struct Probe {
        level: AtomicBool,
        calls: AtomicUsize,
    }

    impl Probe {
        pub fn new() -> Arc<Probe> {
            Arc::default()
        }
        pub fn level(&self) -> bool {
            self.level.load(Ordering::SeqCst)
        }
        pub fn calls(&self) -> usize {
            self.calls.load(Ordering::SeqCst)
        }
    }

    impl IrqLine for Probe {
        fn set(&self, level: bool) {
            self.level.store(level, Ordering::SeqCst);
            self.calls.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_of_any_size_touch_each_register_once() {
        let mut seen = Vec::new();
        let mut data = [0u8; 8];
        read32(4, &mut data, |r| {
            seen.push(r);
            0x0101_0101 * (r as u32)
        });
        assert_eq!(seen, [4, 8]);
        assert_eq!(data, [4, 4, 4, 4, 8, 8, 8, 8]);
        let mut byte = [0u8];
        read32(6, &mut byte, |_| 0x4433_2211);
        assert_eq!(byte, [0x33]);
        read32(u64::MAX, &mut data, |_| 0); // wraps, does not panic
    }

    #[test]
    fn stores_of_any_size_reach_the_right_lane() {
        let mut seen = Vec::new();
        write32(0, &[1, 2, 3, 4, 5, 6, 7, 8], |r, v| seen.push((r, v)));
        write32(2, &[0xaa, 0xbb], |r, v| seen.push((r, v)));
        write32(8, &[0x7f], |r, v| seen.push((r, v)));
        assert_eq!(seen, [(0, 0x0403_0201), (4, 0x0807_0605), (0, 0xbbaa_0000), (8, 0x7f)]);
    }

    #[test]
    fn level_reports_changes_only() {
        let probe = testing::Probe::new();
        let mut level = Level::new(probe.clone());
        for l in [false, true, true, false, false] {
            level.drive(l);
        }
        assert_eq!(probe.calls(), 2);
        level.force(false);
        assert_eq!(probe.calls(), 3);
    }
}
