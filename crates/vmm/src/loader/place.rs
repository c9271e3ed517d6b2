//! Where device tree and initrd go.

use std::ops::Range;

/// Room kept for the device tree: 512 vCPUs need about 80 KiB, and a kernel takes at most 2 MiB.
pub const FDT_ROOM: u64 = 0x4_0000;

/// QEMU puts them at half of RAM but not above this, and programs rely on the space below being free.
const USUAL: u64 = 128 << 20;
const STEP: u64 = 2 << 20;

/// Addresses of what the kernel is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Places {
    /// The device tree.
    pub fdt: u64,
    /// The initrd.
    pub initrd: Option<Range<u64>>,
}

impl Places {
    /// Finds room for both above the kernel: where QEMU would put them if they fit there, else directly behind it, else
    /// the device tree at the start of RAM if the kernel left room there.
    pub fn choose(ram: &Range<u64>, kernel: &Range<u64>, initrd: u64) -> Option<Places> {
        let usual = ram.start + ((ram.end - ram.start) / 2).min(USUAL);
        let behind = kernel.end.checked_next_multiple_of(STEP)?;
        let close = kernel.end.checked_next_multiple_of(0x1_0000)?;
        [usual.next_multiple_of(STEP).max(behind), behind, close]
            .into_iter()
            .find_map(|fdt| Places::at(fdt, fdt.checked_add(FDT_ROOM)?, initrd, ram.end))
            .or_else(|| {
                let low = ram.start + FDT_ROOM <= kernel.start;
                Places::at(ram.start, close, initrd, ram.end).filter(|_| low)
            })
    }

    fn at(fdt: u64, above: u64, initrd: u64, end: u64) -> Option<Places> {
        let start = above.checked_next_multiple_of(0x1_0000)?;
        let initrd = (initrd > 0).then(|| start..start.saturating_add(initrd));
        let last = initrd.as_ref().map_or(above, |r| r.end);
        (last <= end).then_some(Places { fdt, initrd })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_are_qemus_when_there_is_room() {
        let ram = 0x4000_0000..0x6000_0000;
        let p = Places::choose(&ram, &(0x4000_0000..0x4280_0000), 1000).unwrap();
        assert_eq!(p, Places { fdt: 0x4800_0000, initrd: Some(0x4804_0000..0x4804_03e8) });
        let small = 0x4000_0000..0x4400_0000;
        let p = Places::choose(&small, &(0x4000_0000..0x4280_0000), 0x17b_0000).unwrap();
        assert_eq!(p.fdt, 0x4280_0000);
        assert_eq!(Places::choose(&small, &(0x4000_0000..0x4280_0000), 0x200_0000), None);
    }

    proptest! {
        #[test]
        fn nothing_overlaps_and_all_is_in_ram(
            size in 1u64..4096, offset in 0u64..64, kernel in 1u64..1 << 32, initrd in 0u64..1 << 32,
        ) {
            let ram = 0x4000_0000..0x4000_0000 + (size << 20);
            let start = ram.start + (offset << 16);
            let kernel = start..start + kernel;
            if let Some(p) = Places::choose(&ram, &kernel, initrd) {
                let fdt = p.fdt..p.fdt + FDT_ROOM;
                let mut all = vec![kernel, fdt];
                all.extend(p.initrd.clone());
                all.sort_by_key(|r| r.start);
                prop_assert!(all.windows(2).all(|w| w[0].end <= w[1].start), "{all:x?}");
                prop_assert!(all.iter().all(|r| r.start >= ram.start && r.end <= ram.end), "{all:x?}");
                prop_assert_eq!(p.fdt % 8, 0);
                prop_assert_eq!(p.initrd.is_some(), initrd > 0);
            }
        }
    }
}
