//! The firmware configuration device of QEMU's machines: numbered items and named files that firmware reads at its start
//! (QEMU, docs/specs/fw_cfg). Its registers are big-endian; the data register gives bytes in the order they have.
//!
//! [`Items`] is what there is, [`FwCfg`] the model, [`FwCfgMmio`] joins it to guest memory for transfers by DMA.

use crate::mmio::MmioDevice;
use std::collections::BTreeMap;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

/// Registers of the memory-mapped device.
pub mod reg {
    /// Data, 8 bytes, any width.
    pub const DATA: u64 = 0x00;
    /// Selector, 16 bits.
    pub const SELECTOR: u64 = 0x08;
    /// Address of a transfer, 64 bits; the store of its low half starts the transfer.
    pub const DMA: u64 = 0x10;
    /// Size of the window.
    pub const SIZE: u64 = 0x18;
}

/// Numbers of the items that the board has.
pub mod key {
    /// "QEMU".
    pub const SIGNATURE: u16 = 0x00;
    /// Features.
    pub const ID: u16 = 0x01;
    /// vCPUs, 16 bits.
    pub const NB_CPUS: u16 = 0x05;
    /// Bytes of the kernel, 32 bits.
    pub const KERNEL_SIZE: u16 = 0x08;
    /// Bytes of the initrd, 32 bits.
    pub const INITRD_SIZE: u16 = 0x0b;
    /// The kernel.
    pub const KERNEL_DATA: u16 = 0x11;
    /// The initrd.
    pub const INITRD_DATA: u16 = 0x12;
    /// Bytes of the command line with its final zero, 32 bits.
    pub const CMDLINE_SIZE: u16 = 0x14;
    /// The command line with its final zero.
    pub const CMDLINE_DATA: u16 = 0x15;
    /// The list of files.
    pub const FILE_DIR: u16 = 0x19;
    /// The first file.
    pub const FILE_FIRST: u16 = 0x20;
}

/// Item [`key::ID`]: the traditional interface and DMA.
const FEATURES: u32 = 1 | 2;
/// What the address register reads as: that there is DMA.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";
/// Bytes of a file's name with its final zero.
const NAME_MAX: usize = 56;

/// Bits of a transfer's control word.
mod control {
    pub const ERROR: u32 = 1;
    pub const READ: u32 = 2;
    pub const SKIP: u32 = 4;
    pub const SELECT: u32 = 8;
    pub const WRITE: u32 = 16;
}

/// What firmware can read.
#[derive(Debug, Clone, Default)]
pub struct Items {
    numbered: BTreeMap<u16, Arc<[u8]>>,
    files: BTreeMap<String, Arc<[u8]>>,
}

impl Items {
    /// Adds a numbered item.
    pub fn item(mut self, key: u16, bytes: impl Into<Arc<[u8]>>) -> Items {
        self.numbered.insert(key, bytes.into());
        self
    }

    /// Adds a file. Names have at most 55 bytes; of a longer one the guest sees the start.
    pub fn file(mut self, name: &str, bytes: impl Into<Arc<[u8]>>) -> Items {
        self.files.insert(name.to_owned(), bytes.into());
        self
    }

    /// The items by number: files have numbers in the order of their names, and the list of files is one more item.
    fn finish(self) -> BTreeMap<u16, Arc<[u8]>> {
        let mut all = self.numbered;
        all.insert(key::SIGNATURE, b"QEMU".as_slice().into());
        all.insert(key::ID, FEATURES.to_le_bytes().as_slice().into());
        let mut list = (self.files.len() as u32).to_be_bytes().to_vec();
        for (number, (name, bytes)) in (key::FILE_FIRST..).zip(self.files) {
            let mut field = [0; NAME_MAX];
            let used = name.len().min(NAME_MAX - 1);
            field[..used].copy_from_slice(&name.as_bytes()[..used]);
            list.extend((bytes.len() as u32).to_be_bytes());
            list.extend(number.to_be_bytes());
            list.extend([0; 2]);
            list.extend(field);
            all.insert(number, bytes);
        }
        all.insert(key::FILE_DIR, list.into());
        all
    }
}

/// The device without guest memory.
#[derive(Debug, Clone)]
pub struct FwCfg {
    items: BTreeMap<u16, Arc<[u8]>>,
    key: u16,
    selected: Arc<[u8]>,
    at: usize,
    dma_high: u32,
}

impl FwCfg {
    /// A device after reset, with its first item selected.
    pub fn new(items: Items) -> FwCfg {
        let mut device =
            FwCfg { items: items.finish(), key: 0, selected: [].as_slice().into(), at: 0, dma_high: 0 };
        device.select(key::SIGNATURE);
        device
    }

    /// Selects an item, from its start. One that does not exist is empty.
    pub fn select(&mut self, number: u16) {
        self.key = number;
        self.selected = self.items.get(&number).cloned().unwrap_or_else(|| [].as_slice().into());
        self.at = 0;
    }

    /// The next bytes of the selected item; zeros after its end.
    pub fn next(&mut self, data: &mut [u8]) {
        let rest = self.selected.get(self.at..).unwrap_or(&[]);
        let used = rest.len().min(data.len());
        data[..used].copy_from_slice(&rest[..used]);
        data[used..].fill(0);
        self.skip(data.len());
    }

    fn skip(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    /// A load from the window.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match offset {
            reg::DATA..reg::SELECTOR => self.next(data),
            reg::DMA..reg::SIZE => {
                for (at, b) in (offset - reg::DMA..).zip(data.iter_mut()) {
                    *b = DMA_SIGNATURE.get(at as usize).copied().unwrap_or(0);
                }
            }
            _ => data.fill(0),
        }
    }

    /// A store to the window: the address of a transfer that it starts.
    fn write(&mut self, offset: u64, data: &[u8]) -> Option<u64> {
        match (offset, data.len()) {
            (reg::SELECTOR, 2) => self.select(u16::from_be_bytes(data.try_into().ok()?)),
            (reg::DMA, 8) => return Some(u64::from_be_bytes(data.try_into().ok()?)),
            (reg::DMA, 4) => self.dma_high = u32::from_be_bytes(data.try_into().ok()?),
            (0x14, 4) => {
                let low = u32::from_be_bytes(data.try_into().ok()?);
                return Some(u64::from(std::mem::take(&mut self.dma_high)) << 32 | u64::from(low));
            }
            // There is nothing that could be written.
            _ => {}
        }
        None
    }
}

/// The device on the board.
pub struct FwCfgMmio<M> {
    model: FwCfg,
    memory: M,
}

impl<M: GuestAddressSpace> FwCfgMmio<M> {
    /// A device after reset that reaches `memory`.
    pub fn new(items: Items, memory: M) -> Self {
        FwCfgMmio { model: FwCfg::new(items), memory }
    }

    /// State for a snapshot.
    pub fn save(&self) -> state::V1 {
        let m = &self.model;
        state::V1 { key: m.key, at: m.at as u64, dma_high: m.dma_high }
    }

    /// Takes over a saved state; the items are those that the device was made with.
    pub fn restore(&mut self, v1: &state::V1) {
        self.model.select(v1.key);
        self.model.at = usize::try_from(v1.at).unwrap_or(usize::MAX);
        self.model.dma_high = v1.dma_high;
    }

    /// A transfer as the structure at `at` says: control, length, address, all big-endian. Control is set to zero at the
    /// end, or to the error bit.
    fn transfer(&mut self, at: u64) {
        let memory = self.memory.memory();
        let mut words = [0; 16];
        let result = match memory.read_slice(&mut words, GuestAddress(at)) {
            Ok(()) => {
                let word =
                    |i: usize| words[i..i + 4].iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
                let address = u64::from(word(8)) << 32 | u64::from(word(12));
                Self::perform(&mut self.model, &*memory, word(0), word(4), address)
            }
            Err(_) => control::ERROR,
        };
        // A structure outside memory has nobody who could be told.
        let _ = memory.write_slice(&result.to_be_bytes(), GuestAddress(at));
    }

    fn perform(model: &mut FwCfg, memory: &M::M, bits: u32, length: u32, mut address: u64) -> u32 {
        if bits & control::SELECT != 0 {
            model.select((bits >> 16) as u16);
        }
        let mut left = length as usize;
        if bits & control::READ == 0 {
            if bits & control::WRITE != 0 && bits & control::SKIP == 0 && left > 0 {
                return control::ERROR;
            }
            if bits & control::SKIP != 0 {
                model.skip(left);
            }
            return 0;
        }
        let mut chunk = vec![0; left.min(64 << 10)];
        while left > 0 {
            let piece = left.min(chunk.len());
            model.next(&mut chunk[..piece]);
            if memory.write_slice(&chunk[..piece], GuestAddress(address)).is_err() {
                return control::ERROR;
            }
            left -= piece;
            address = address.wrapping_add(piece as u64);
        }
        0
    }
}

impl<M: GuestAddressSpace + Send> MmioDevice for FwCfgMmio<M> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.model.read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(at) = self.model.write(offset, data) {
            self.transfer(at);
        }
    }
}

/// State for snapshots, record `("fw_cfg", 1)`.
pub mod state {
    /// Version 1.
    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    pub struct V1 {
        /// The selected item.
        pub key: u16,
        /// Bytes of it that were read.
        pub at: u64,
        /// Upper half of the address of a transfer.
        pub dma_high: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vm_memory::GuestMemoryMmap;

    type Memory = Arc<GuestMemoryMmap<()>>;

    fn device() -> (FwCfgMmio<Memory>, Memory) {
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x2000)]).unwrap());
        let items = Items::default()
            .item(key::NB_CPUS, 3u16.to_le_bytes().as_slice())
            .file("z/last", b"hello".as_slice())
            .file("etc/boot-fail-wait", u32::MAX.to_le_bytes().as_slice())
            .file(&"n".repeat(80), b"".as_slice());
        (FwCfgMmio::new(items, memory.clone()), memory)
    }

    fn bytes(d: &mut dyn MmioDevice, number: u16, n: usize) -> Vec<u8> {
        d.write(reg::SELECTOR, &number.to_be_bytes());
        (0..n)
            .map(|_| {
                let mut b = [0xee];
                d.read(reg::DATA, &mut b);
                b[0]
            })
            .collect()
    }

    fn structure(memory: &Memory, at: u64, bits: u32, length: u32, address: u64) {
        let mut b = bits.to_be_bytes().to_vec();
        b.extend(length.to_be_bytes());
        b.extend(address.to_be_bytes());
        memory.write_slice(&b, GuestAddress(at)).unwrap();
    }

    fn answer(memory: &Memory, at: u64) -> u32 {
        let mut b = [0; 4];
        memory.read_slice(&mut b, GuestAddress(at)).unwrap();
        u32::from_be_bytes(b)
    }

    #[test]
    fn items_are_read_byte_by_byte_or_in_words() {
        let (mut d, _) = device();
        let mut word = [0; 4];
        d.read(reg::DATA, &mut word);
        assert_eq!(&word, b"QEMU", "selected after reset");
        assert_eq!(bytes(&mut d, key::ID, 6), [3, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(&mut d, key::NB_CPUS, 3), [3, 0, 0]);
        assert_eq!(bytes(&mut d, 0x7777, 2), [0, 0], "absent items are empty");
        d.write(reg::SELECTOR, &[0, 0]);
        d.read(reg::DATA + 4, &mut word[..2]);
        assert_eq!(&word[..2], b"QE");
        let mut long = [1; 8];
        d.read(reg::DATA, &mut long);
        assert_eq!(&long, b"MU\0\0\0\0\0\0");
        d.read(reg::DMA, &mut long);
        assert_eq!(&long, b"QEMU CFG");
    }

    #[test]
    fn the_list_of_files_is_sorted_and_tells_where_they_are() {
        let (mut d, _) = device();
        let list = bytes(&mut d, key::FILE_DIR, 4 + 3 * 64);
        assert_eq!(list[..4], [0, 0, 0, 3]);
        let entry = |i: usize| &list[4 + 64 * i..][..64];
        assert_eq!(entry(0)[..8], [0, 0, 0, 4, 0, 0x20, 0, 0]);
        assert!(entry(0)[8..].starts_with(b"etc/boot-fail-wait\0"));
        assert_eq!(entry(1)[8..], [vec![b'n'; 55], vec![0]].concat());
        assert!(entry(2)[8..].starts_with(b"z/last\0"));
        assert_eq!(bytes(&mut d, 0x22, 6), b"hello\0");
    }

    #[test]
    fn transfers_select_skip_and_read() {
        let (mut d, memory) = device();
        structure(&memory, 0x1000, 0x22 << 16 | control::SELECT | control::SKIP, 1, 0);
        d.write(reg::DMA, &0x1000u64.to_be_bytes());
        assert_eq!(answer(&memory, 0x1000), 0);
        memory.write_slice(&[9; 8], GuestAddress(0x2000)).unwrap();
        structure(&memory, 0x1000, control::READ, 7, 0x2000);
        d.write(reg::DMA, &0u32.to_be_bytes());
        d.write(reg::DMA + 4, &0x1000u32.to_be_bytes());
        assert_eq!(answer(&memory, 0x1000), 0);
        let mut b = [0; 8];
        memory.read_slice(&mut b, GuestAddress(0x2000)).unwrap();
        assert_eq!(&b, b"ello\0\0\0\x09");
    }

    #[test]
    fn transfers_that_cannot_be_done_say_so() {
        let (mut d, memory) = device();
        for (bits, address) in [
            (control::READ | control::SELECT, 0x2ffe),
            (control::READ, u64::MAX - 3),
            (control::WRITE | control::SELECT, 0x2000),
        ] {
            structure(&memory, 0x1000, bits, 8, address);
            d.write(reg::DMA, &0x1000u64.to_be_bytes());
            assert_eq!(answer(&memory, 0x1000), control::ERROR, "{bits:#x}");
        }
        // The longest there is ends where memory ends.
        structure(&memory, 0x1000, control::READ, u32::MAX, 0x1800);
        d.write(reg::DMA, &0x1000u64.to_be_bytes());
        d.write(reg::DMA, &0x2ff8u64.to_be_bytes());
        d.write(reg::DMA, &u64::MAX.to_be_bytes());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn nothing_a_guest_does_panics(
            accesses in proptest::collection::vec(
                (any::<bool>(), prop_oneof![0u64..0x20, any::<u64>()], any::<u64>(),
                 proptest::sample::select(vec![1usize, 2, 4, 8])), 0..200)
        ) {
            let (mut d, memory) = device();
            let mut b = [0; 8];
            for (write, offset, value, len) in accesses {
                if write {
                    // Half of the addresses are those of memory, with the value as structure.
                    let value = if value & 1 == 0 { (value & 0x1fff) + 0x1000 } else { value };
                    let _ = memory.write_slice(&value.to_be_bytes(), GuestAddress(value & 0x2ff8));
                    d.write(offset, &value.to_be_bytes()[8 - len..]);
                } else {
                    d.read(offset, &mut b[..len]);
                }
            }
            prop_assert_eq!(bytes(&mut d, key::SIGNATURE, 4), b"QEMU");
        }
    }
}
