//! Virtual to physical, as the guest's own tables have it at this moment (Arm ARM D8): stage 1 of EL1&0, without
//! permissions, which do not bind a debugger.

/// What the walk depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regime {
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// TCR_EL1.
    pub tcr: u64,
    /// TTBR0_EL1 and TTBR1_EL1.
    pub ttbr: [u64; 2],
}

/// Output addresses have 52 bits at most.
const ADDRESS: u64 = (1 << 52) - 1;
/// TCR_EL1.IPS of 52 bits.
const IPS_52: u64 = 6;

/// Bits `high:low` in place.
fn bits(v: u64, high: u32, low: u32) -> u64 {
    v & (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

/// One half of the address space.
struct Half {
    /// log2 of the page.
    granule: u32,
    /// Input bits.
    input: u32,
    /// Addresses in descriptors: 48 bits, 52 in the format of 64 KiB pages, 52 in that of FEAT_LPA2.
    format: Format,
    base: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Bits48,
    Large64K,
    Lpa2,
}

impl Format {
    /// The address in a descriptor or TTBR that `low` and up say.
    fn address(self, descriptor: u64, low: u32) -> u64 {
        match self {
            Format::Bits48 => bits(descriptor, 47, low),
            Format::Large64K => bits(descriptor, 47, low.max(16)) | (descriptor >> 12 & 0xf) << 48,
            Format::Lpa2 => bits(descriptor, 49, low) | (descriptor >> 8 & 3) << 50,
        }
    }
}

impl Regime {
    fn half(&self, va: u64) -> Option<Half> {
        let high = va >> 55 & 1 != 0;
        let field = |low: u32, high_low: u32| self.tcr >> if high { high_low } else { low };
        if field(7, 23) & 1 != 0 {
            return None; // EPDn
        }
        let granule = match (high, field(14, 30) & 3) {
            (false, 0) | (true, 2) => 12,
            (false, 1) | (true, 3) => 16,
            (false, 2) | (true, 1) => 14,
            _ => return None,
        };
        let input = 64 - (field(0, 16) & 0x3f) as u32;
        let top = if field(37, 38) & 1 != 0 { 56 } else { 64 }; // TBIn
        if input <= granule || input > 52 {
            return None;
        }
        // All bits above the input are those of the half.
        let above = bits(if high { !va } else { va }, top - 1, input);
        if above != 0 {
            return None;
        }
        let wide = self.tcr >> 32 & 7 == IPS_52;
        let format = match granule {
            16 if wide => Format::Large64K,
            12 | 14 if self.tcr >> 59 & 1 != 0 => Format::Lpa2,
            _ => Format::Bits48,
        };
        let ttbr = self.ttbr[usize::from(high)];
        let base = match format {
            Format::Bits48 => bits(ttbr, 47, 1),
            _ => bits(ttbr, 47, 6) | (ttbr >> 2 & 0xf) << 48,
        };
        Some(Half { granule, input, format, base })
    }

    /// The physical address of `va`; `read` reads a doubleword of physical memory.
    pub fn translate(&self, va: u64, read: &dyn Fn(u64) -> Option<u64>) -> Option<u64> {
        if self.sctlr & 1 == 0 {
            return Some(va & ADDRESS);
        }
        let half = self.half(va)?;
        let stride = half.granule - 3;
        let levels = (half.input - half.granule).div_ceil(stride);
        let mut shift = half.granule + stride * (levels - 1);
        let first_bits = half.input - shift;
        // The table is aligned to its size, and to 64 bytes at least.
        let mut table = half.base & !((8u64 << first_bits) - 1);
        let mut index_bits = first_bits;
        // The last of them is level 3; with 52 bits in 4 KiB pages the first is -1.
        for left in (0..levels).rev() {
            let index = va >> shift & ((1 << index_bits) - 1);
            let mut descriptor = read(table | index << 3)?;
            if self.sctlr >> 25 & 1 != 0 {
                descriptor = descriptor.swap_bytes();
            }
            match (descriptor & 3, left) {
                (3, 1..) => table = half.format.address(descriptor, half.granule),
                // Pages and blocks; where the granule has no block the hardware faults, a debugger may be generous.
                (3, 0) | (1, 1..) => {
                    return Some(half.format.address(descriptor, shift) | va & ((1 << shift) - 1));
                }
                _ => return None,
            }
            shift -= stride;
            index_bits = stride;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Builds the tables that map one page or block, for any geometry.
    struct Tables {
        regime: Regime,
        words: HashMap<u64, u64>,
    }

    /// `tsz`, granule and the level of the leaf; addresses of tables go up from `at`.
    fn map(va: u64, pa: u64, granule: u32, tsz: u32, leaf: i32, wide: bool) -> Option<Tables> {
        let high = va >> 55 & 1 != 0;
        let tg = match (granule, high) {
            (12, false) | (16, true) if granule == 12 => 0,
            (12, true) => 2,
            (16, false) => 1,
            (16, true) => 3,
            (14, false) => 2,
            _ => 1,
        };
        let mut tcr = tg << if high { 30 } else { 14 } | u64::from(tsz) << if high { 16 } else { 0 };
        let put = |pa: u64| match (granule, wide) {
            (16, true) => pa & 0xffff_ffff_0000 | (pa >> 48 & 0xf) << 12,
            (_, true) => pa & 0x3_ffff_ffff_f000 | (pa >> 50 & 3) << 8,
            _ => pa & 0xffff_ffff_f000,
        };
        if wide {
            tcr |= if granule == 16 { 6 << 32 } else { 1 << 59 | 6 << 32 };
        }
        let (input, stride) = (64 - tsz, granule - 3);
        let levels = (input - granule).div_ceil(stride);
        let mut words = HashMap::new();
        let mut table = 0x4000_0000u64;
        let base = table;
        let first = 4 - levels as i32;
        if leaf < first {
            return None;
        }
        for level in first..=leaf {
            let shift = granule + stride * (3 - level) as u32;
            let width = if level == first { input - shift } else { stride };
            let index = va >> shift & ((1 << width) - 1);
            let next = table + 0x1_0000;
            let d = if level < leaf {
                put(next) | 3
            } else if level == 3 {
                put(pa & !((1 << shift) - 1)) | 0x403
            } else {
                put(pa & !((1 << shift) - 1)) | 1
            };
            words.insert(table | index << 3, d);
            table = next;
        }
        let mut ttbr = [0x1234_0000_0000_0000 & !(0xf << 48); 2];
        ttbr[usize::from(high)] |= base | 1;
        if wide {
            ttbr[usize::from(high)] = base | 1;
        }
        Some(Tables { regime: Regime { sctlr: 1, tcr, ttbr }, words })
    }

    #[test]
    fn a_linux_like_layout() {
        // 4 KiB pages, 48 bits
        let (va, pa) = (0xffff_8000_1234_5678, 0x8765_4678);
        let t = map(va, pa, 12, 16, 3, false).unwrap();
        let read = |a: u64| t.words.get(&a).copied();
        assert_eq!(t.regime.translate(va, &read), Some(pa));
        assert_eq!(t.regime.translate(va ^ 0x1000, &read), None, "not mapped");
        assert_eq!(t.regime.translate(va & 0x0000_ffff_ffff_ffff, &read), None, "the other half");
        assert_eq!(t.regime.translate(va ^ 1 << 50, &read), None, "between the halves");
        let off = Regime { sctlr: 0, ..t.regime };
        assert_eq!(off.translate(0x4008_0000, &read), Some(0x4008_0000));
        let none = Regime { tcr: t.regime.tcr | 1 << 23, ..t.regime };
        assert_eq!(none.translate(va, &read), None, "EPD1");
        let tagged = Regime { tcr: t.regime.tcr | 1 << 38, ..t.regime };
        assert_eq!(tagged.translate(va & !(0x5a << 56), &read), Some(pa), "TBI1");
    }

    #[test]
    fn big_endian_tables() {
        let (va, pa) = (0x12_3456_7000, 0x4444_5000);
        let mut t = map(va, pa, 12, 25, 3, false).unwrap();
        t.regime.sctlr |= 1 << 25;
        assert_eq!(t.regime.translate(va, &|a| t.words.get(&a).map(|d| d.swap_bytes())), Some(pa));
    }

    proptest! {
        #[test]
        fn what_is_mapped_is_found(
            granule in prop::sample::select(vec![12u32, 14, 16]), tsz in 12u32..40, leaf in 1i32..4,
            va in any::<u64>(), pa in any::<u64>(), high in any::<bool>(), wide in any::<bool>(),
        ) {
            // 16 and 64 KiB blocks are at level 2 and, with 52 bits, level 1
            let input = 64 - tsz;
            let va = va & ((1 << input) - 1);
            let va = if high { va | u64::MAX << input } else { va };
            let pa = pa & if wide { ADDRESS } else { (1 << 48) - 1 };
            if let Some(t) = map(va, pa, granule, tsz, leaf, wide) {
                let shift = granule + (granule - 3) * (3 - leaf) as u32;
                let want = pa & !((1 << shift) - 1) | va & ((1 << shift) - 1);
                prop_assert_eq!(t.regime.translate(va, &|a| t.words.get(&a).copied()), Some(want));
            }
        }

        #[test]
        fn any_registers_and_memory_end(
            sctlr in any::<u64>(), tcr in any::<u64>(), ttbr in any::<[u64; 2]>(), va in any::<u64>(), word in any::<u64>()
        ) {
            let r = Regime { sctlr, tcr, ttbr };
            if let Some(pa) = r.translate(va, &|_| Some(word)) {
                prop_assert!(pa <= ADDRESS);
            }
        }
    }
}
