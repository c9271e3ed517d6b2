//! The board's memory map: QEMU's `virt`, as architecture.md §9 lists it, so that programs made for it run unchanged.

use std::ops::Range;

/// Flash bank 0, where firmware is mapped and where a machine with firmware starts.
pub const FLASH: Range<u64> = 0..0x0400_0000;
/// Flash bank 1, where firmware keeps its variables.
pub const FLASH_VARS: Range<u64> = 0x0400_0000..0x0800_0000;
/// Distributor (GICv2 and GICv3).
pub const GICD: u64 = 0x0800_0000;
/// GICv3 distributor frame.
pub const GICD_V3_SIZE: u64 = 0x1_0000;
/// GICv2 distributor.
pub const GICD_V2_SIZE: u64 = 0x1000;
/// GICv2 CPU interface.
pub const GICC: u64 = 0x0801_0000;
/// GICC with GICC_DIR on its second page.
pub const GICC_SIZE: u64 = 0x2000;
/// Interrupt translation service.
pub const ITS: u64 = 0x0808_0000;
/// Control and translation frames.
pub const ITS_SIZE: u64 = 0x2_0000;
/// Redistributors of the first CPUs.
pub const GICR: Range<u64> = 0x080a_0000..0x0900_0000;
/// Two 64 KiB frames a CPU.
pub const GICR_STRIDE: u64 = 0x2_0000;
/// Redistributors of the other CPUs, unless RAM reaches up to there.
pub const GICR_HIGH: u64 = 0x40_0000_0000;
/// Serial port.
pub const UART: u64 = 0x0900_0000;
/// Real-time clock.
pub const RTC: u64 = 0x0901_0000;
/// Firmware configuration.
pub const FW_CFG: u64 = 0x0902_0000;
/// GPIO with the power key.
pub const GPIO: u64 = 0x0903_0000;
/// PrimeCell devices have one 4 KiB page.
pub const PRIMECELL_SIZE: u64 = 0x1000;
/// Structures of stolen time, where QEMU has them, too.
pub const PVTIME: Range<u64> = 0x090a_0000..0x090b_0000;
/// One is as far from the next.
pub const PVTIME_STRIDE: u64 = 64;
/// First virtio-mmio slot.
pub const VIRTIO: u64 = 0x0a00_0000;
/// Distance between virtio-mmio slots.
pub const VIRTIO_STRIDE: u64 = 0x200;
/// Number of virtio-mmio slots.
pub const VIRTIO_SLOTS: u32 = 32;
/// Start of RAM.
pub const RAM: u64 = 0x4000_0000;
/// Where a flat program is loaded, from the start of RAM.
pub const RAW_OFFSET: u64 = 0x8_0000;

/// Shared peripheral interrupts, counted from 0 (INTID minus 32).
pub mod spi {
    /// PL011.
    pub const UART: u32 = 1;
    /// PL031.
    pub const RTC: u32 = 2;
    /// PL061.
    pub const GPIO: u32 = 7;
    /// virtio-mmio slot 0; the others follow.
    pub const VIRTIO: u32 = 16;
    /// How many INTIDs the distributor needs, SGIs and PPIs included; a multiple of 32.
    pub const INTIDS: u32 = 128;
}

/// Private peripheral interrupts, counted from 0 (INTID minus 16).
pub mod ppi {
    /// EL1 physical timer, secure.
    pub const TIMER_SECURE: u32 = 13;
    /// EL1 physical timer.
    pub const TIMER_PHYSICAL: u32 = 14;
    /// Virtual timer.
    pub const TIMER_VIRTUAL: u32 = 11;
    /// EL2 physical timer.
    pub const TIMER_HYP: u32 = 10;
    /// Performance monitors.
    pub const PMU: u32 = 7;
}

/// At most this many vCPUs with a GICv3.
pub const MAX_CPUS: u32 = 512;
/// At most this many with a GICv2: its target lists have 8 bits.
pub const MAX_CPUS_V2: u32 = 8;

/// The address of a virtio-mmio slot.
pub const fn virtio(slot: u32) -> u64 {
    VIRTIO + slot as u64 * VIRTIO_STRIDE
}

/// Where the redistributors of `cpus` vCPUs lie: one region, or two.
pub fn redistributors(cpus: u32, ram_end: u64) -> Vec<Range<u64>> {
    let room = ((GICR.end - GICR.start) / GICR_STRIDE) as u32;
    let near = cpus.min(room);
    let high = ram_end.next_multiple_of(1 << 30).max(GICR_HIGH);
    let region = |base: u64, cpus: u32| (cpus > 0).then(|| base..base + u64::from(cpus) * GICR_STRIDE);
    [region(GICR.start, near), region(high, cpus - near)].into_iter().flatten().collect()
}

/// The first address above everything on the board.
pub fn end(cpus: u32, ram_end: u64) -> u64 {
    redistributors(cpus, ram_end).iter().map(|r| r.end).fold(ram_end, u64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_cpus_get_a_second_region_above_ram() {
        let one = redistributors(123, RAM + (1 << 30));
        assert_eq!((one.len(), &one[0]), (1, &(0x080a_0000..0x0900_0000)));
        let two = redistributors(124, RAM + (1 << 30));
        assert_eq!(two[1], 0x40_0000_0000..0x40_0002_0000);
        let big = redistributors(512, 0x50_0000_0000);
        assert_eq!(big[1], 0x50_0000_0000..0x50_0000_0000 + 389 * GICR_STRIDE);
        assert_eq!(end(512, 0x50_0000_0000), big[1].end);
        assert_eq!(end(1, 0x8000_0000), 0x8000_0000);
    }

    #[test]
    fn windows_do_not_overlap() {
        let mut all = vec![
            FLASH,
            FLASH_VARS,
            GICD..GICD + GICD_V3_SIZE,
            GICC..GICC + GICC_SIZE,
            ITS..ITS + ITS_SIZE,
            GICR,
            UART..UART + PRIMECELL_SIZE,
            RTC..RTC + PRIMECELL_SIZE,
            FW_CFG..FW_CFG + ulna_devices::fw_cfg::reg::SIZE,
            GPIO..GPIO + PRIMECELL_SIZE,
            PVTIME,
            VIRTIO..virtio(VIRTIO_SLOTS),
            RAM..RAM + 1,
        ];
        all.sort_by_key(|r| r.start);
        assert!(all.windows(2).all(|w| w[0].end <= w[1].start), "{all:x?}");
        const { assert!(PVTIME_STRIDE * MAX_CPUS as u64 <= PVTIME.end - PVTIME.start) };
        const { assert!(spi::VIRTIO + VIRTIO_SLOTS + 32 <= spi::INTIDS) };
    }
}
