//! Caches as KVM makes them up, so that a guest can move between hosts of different cache shape.

/// CLIDR_EL1 from CTR_EL0 (Linux 6.12, `reset_clidr`; kvm-arm64-abi.md §8.5).
///
/// With IDC no cleaning to the point of unification is needed, so one unified cache stands at the level of
/// coherence: the first if even the instruction cache needs no care, else the second.
pub(crate) fn clidr(ctr: u64) -> u64 {
    let (dic, idc) = (ctr >> 29 & 1 != 0, ctr >> 28 & 1 != 0);
    let (loc, mut clidr) = if idc {
        let loc = if dic { 1 } else { 2 };
        (loc, 4u64 << (3 * (loc - 1)))
    } else {
        (1, 1 << 27 | 1 << 21 | 2)
    };
    if !dic {
        clidr |= 1;
    }
    clidr | (loc as u64) << 24
}

/// CCSIDR_EL1 of a data or an instruction cache: one set, one way, lines as CTR_EL0 says.
pub(crate) fn ccsidr(ctr: u64, instruction: bool) -> u64 {
    // CTR counts words as a power of two, CCSIDR.LineSize is log2(bytes) - 4.
    let log2_words = if instruction { ctr & 0xf } else { ctr >> 16 & 0xf };
    (log2_words + 2).saturating_sub(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clidr_as_recorded() {
        assert_eq!(clidr(0x8444_c004), 0x920_0003); // qemu-cortex-a57
        assert_eq!(clidr(0x9444_c004), 0x200_0021); // qemu-neoverse-n1
        assert_eq!(clidr(0xb444_c004), 0x100_0004);
        assert_eq!(ccsidr(0x8444_c004, false), 2);
    }
}
