//! What the tests share: guest memory in a vector and short names for accesses.
#![allow(dead_code)]

use std::cell::RefCell;

use ulna_vgic::{Affinity, Gic, GicConfig, GuestMemory, IccReg, MemoryError, Region, Version};

/// RAM from `base` on.
pub struct Ram {
    pub base: u64,
    pub bytes: RefCell<Vec<u8>>,
}

impl Ram {
    pub fn new(base: u64, size: usize) -> Ram {
        Ram { base, bytes: RefCell::new(vec![0; size]) }
    }

    fn range(&self, ipa: u64, len: usize) -> Result<std::ops::Range<usize>, MemoryError> {
        let start = ipa.checked_sub(self.base).ok_or(MemoryError)? as usize;
        let end = start.checked_add(len).ok_or(MemoryError)?;
        (end <= self.bytes.borrow().len()).then_some(start..end).ok_or(MemoryError)
    }

    pub fn put64(&self, ipa: u64, value: u64) {
        self.write(ipa, &value.to_le_bytes()).unwrap();
    }

    pub fn put8(&self, ipa: u64, value: u8) {
        self.write(ipa, &[value]).unwrap();
    }

    pub fn get8(&self, ipa: u64) -> u8 {
        let mut b = [0];
        self.read(ipa, &mut b).unwrap();
        b[0]
    }
}

impl GuestMemory for Ram {
    fn read(&self, ipa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let range = self.range(ipa, buf.len())?;
        buf.copy_from_slice(&self.bytes.borrow()[range]);
        Ok(())
    }

    fn write(&self, ipa: u64, buf: &[u8]) -> Result<(), MemoryError> {
        let range = self.range(ipa, buf.len())?;
        self.bytes.borrow_mut()[range].copy_from_slice(buf);
        Ok(())
    }
}

/// A GIC with the memory of its guest.
pub struct Guest {
    pub gic: Gic,
    pub ram: Ram,
}

pub const SGI: u64 = 0x1_0000;

impl Guest {
    /// A GICv3 with everything enabled that a guest enables early.
    pub fn v3(vcpus: usize) -> Guest {
        let mut g = Guest::raw(GicConfig::new(Version::V3, affinities(vcpus), 96));
        g.w(0, Region::Dist, 0, 2);
        for vcpu in 0..vcpus {
            g.open(vcpu);
        }
        g
    }

    pub fn raw(config: GicConfig) -> Guest {
        Guest { gic: Gic::new(config).unwrap(), ram: Ram::new(0x8000_0000, 1 << 20) }
    }

    /// What a guest does to its own CPU interface.
    pub fn open(&mut self, vcpu: usize) {
        self.msr(vcpu, IccReg::Pmr, 0xf0);
        self.msr(vcpu, IccReg::Igrpen1, 1);
    }

    pub fn w(&mut self, vcpu: usize, region: Region, off: u64, value: u64) {
        self.gic.mmio_write(region, vcpu, off, 4, value, &self.ram);
    }

    pub fn w8(&mut self, vcpu: usize, region: Region, off: u64, value: u64) {
        self.gic.mmio_write(region, vcpu, off, 1, value, &self.ram);
    }

    pub fn w64(&mut self, vcpu: usize, region: Region, off: u64, value: u64) {
        self.gic.mmio_write(region, vcpu, off, 8, value, &self.ram);
    }

    pub fn r(&mut self, vcpu: usize, region: Region, off: u64) -> u64 {
        self.gic.mmio_read(region, vcpu, off, 4)
    }

    pub fn r64(&mut self, vcpu: usize, region: Region, off: u64) -> u64 {
        self.gic.mmio_read(region, vcpu, off, 8)
    }

    pub fn msr(&mut self, vcpu: usize, reg: IccReg, value: u64) {
        self.gic.sysreg_write(vcpu, reg, value);
    }

    pub fn mrs(&mut self, vcpu: usize, reg: IccReg) -> u64 {
        self.gic.sysreg_read(vcpu, reg)
    }

    pub fn irq(&self, vcpu: usize) -> bool {
        self.gic.lines(vcpu).irq
    }

    /// Enables an SPI as level-sensitive, priority 0xa0, for a vCPU.
    pub fn level_spi(&mut self, intid: u64, affinity: u64) {
        let d = Region::Dist;
        let config = 0xc00 + intid / 16 * 4;
        let old = self.r(0, d, config);
        self.w(0, d, config, old & !(2 << (intid % 16 * 2)));
        self.w8(0, d, 0x400 + intid, 0xa0);
        self.w64(0, d, 0x6000 + intid * 8, affinity);
        self.w(0, d, 0x100 + intid / 32 * 4, 1 << (intid % 32));
    }

    /// Enables an SPI as edge-triggered.
    pub fn edge_spi(&mut self, intid: u64, affinity: u64, priority: u64) {
        let d = Region::Dist;
        self.w8(0, d, 0x400 + intid, priority);
        self.w64(0, d, 0x6000 + intid * 8, affinity);
        self.w(0, d, 0x100 + intid / 32 * 4, 1 << (intid % 32));
    }
}

/// KVM's: 16 vCPUs to a cluster.
pub fn affinities(n: usize) -> Vec<Affinity> {
    (0..n as u32).map(|i| Affinity(((i / 16) << 8) | (i % 16))).collect()
}
