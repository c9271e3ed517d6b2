//! The query structure of a device in the bank (JEDEC JESD68, Common Flash Interface; JEP137 for the codes): a 32 MiB part
//! of sixteen bits, 128 KiB a block, Intel's command set.

/// Blocks of one device, as log2 of bytes.
const DEVICE_BITS: u8 = 25;
/// Bytes of a block of one device.
const BLOCK: u32 = 0x2_0000;
/// Write buffer of one device, as log2 of bytes.
const BUFFER_BITS: u8 = 11;
/// Where the structure starts.
const START: u64 = 0x10;
/// Where the structure of the command set starts.
const EXTENDED: u8 = 0x31;

const BLOCKS: u32 = (1 << DEVICE_BITS) / BLOCK;

const TABLE: [u8; 0x32] = {
    let regions = (BLOCKS - 1).to_le_bytes();
    let size = (BLOCK / 256).to_le_bytes();
    [
        // 0x10: signature, primary command set 1 (Intel/Sharp extended) and its structure, no alternate one.
        b'Q',
        b'R',
        b'Y',
        0x01,
        0x00,
        EXTENDED,
        0x00,
        0x00,
        0x00,
        0x00,
        0x00,
        // 0x1b: supply 4.5 V to 5.5 V, no programming supply.
        0x45,
        0x55,
        0x00,
        0x00,
        // 0x1f: typical times as powers of two: word and buffer in µs, block in ms, chip unsupported; and at most.
        0x07,
        0x07,
        0x0a,
        0x00,
        0x04,
        0x04,
        0x04,
        0x00,
        // 0x27: size, interface x8 and x16, write buffer.
        DEVICE_BITS,
        0x02,
        0x00,
        BUFFER_BITS,
        0x00,
        // 0x2c: one region of equal blocks.
        0x01,
        regions[0],
        regions[1],
        size[0],
        size[1],
        // 0x31: the command set's own: version 1.0, no optional features.
        b'P',
        b'R',
        b'I',
        b'1',
        b'0',
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        // 0x3f: one protection field.
        0x01,
        0,
        0,
    ]
};

/// The answer of each device at `word`.
pub fn answer(word: u64) -> u16 {
    let at = word.checked_sub(START).and_then(|at| usize::try_from(at).ok());
    at.and_then(|at| TABLE.get(at)).map_or(0, |&b| b.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flash::{BANK_SIZE, BLOCK_SIZE, BUFFER_WORDS};

    /// What QEMU 7.2's `virt` answers (read by its qtest protocol on 2026-11-21), as (word, answer).
    const QEMU: &[(u64, u16)] = &[
        (0x0f, 0),
        (0x10, 0x51),
        (0x11, 0x52),
        (0x12, 0x59),
        (0x13, 0x01),
        (0x15, 0x31),
        (0x1b, 0x45),
        (0x1c, 0x55),
        (0x1f, 0x07),
        (0x20, 0x07),
        (0x21, 0x0a),
        (0x23, 0x04),
        (0x24, 0x04),
        (0x25, 0x04),
        (0x27, 0x19),
        (0x28, 0x02),
        (0x2a, 0x0b),
        (0x2c, 0x01),
        (0x2d, 0xff),
        (0x2e, 0x00),
        (0x2f, 0x00),
        (0x30, 0x02),
        (0x31, 0x50),
        (0x32, 0x52),
        (0x33, 0x49),
        (0x34, 0x31),
        (0x35, 0x30),
        (0x3f, 0x01),
        (0x44, 0),
    ];

    #[test]
    fn the_structure_is_that_of_the_machine_we_follow() {
        for &(word, want) in QEMU {
            assert_eq!(answer(word), want, "{word:#x}");
        }
        assert_eq!(answer(u64::MAX), 0);
        assert_eq!(answer(0), 0);
    }

    #[test]
    fn the_structure_agrees_with_the_model() {
        // Two devices make a bank.
        assert_eq!(2u64 << answer(0x27), BANK_SIZE);
        let block = u64::from(answer(0x2f) | answer(0x30) << 8) * 256;
        assert_eq!(block * 2, BLOCK_SIZE);
        assert_eq!((u64::from(answer(0x2d)) + 1) * block * 2, BANK_SIZE);
        assert_eq!(1usize << answer(0x2a), BUFFER_WORDS * 2);
    }
}
