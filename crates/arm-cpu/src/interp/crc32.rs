//! CRC-32 as the CRC32 instructions compute it: reflected, without inversion at either end (Arm ARM C6.2, BitReverse and
//! Poly32Mod2).

/// Remainders by the low byte.
pub(crate) type Table = [u32; 256];

const fn table(poly: u32) -> Table {
    let mut t = [0; 256];
    let mut n = 0;
    while n < 256 {
        let (mut c, mut k) = (n as u32, 0);
        while k < 8 {
            c = if c & 1 != 0 { c >> 1 ^ poly } else { c >> 1 };
            k += 1;
        }
        t[n] = c;
        n += 1;
    }
    t
}

/// Polynomial 0x04C11DB7.
pub(crate) static IEEE: Table = table(0xedb8_8320);
/// Polynomial 0x1EDC6F41.
pub(crate) static CASTAGNOLI: Table = table(0x82f6_3b78);

/// The checksum over the low `bytes` bytes of `data`, least significant first.
#[inline(always)]
pub(crate) fn update(table: &Table, mut crc: u32, mut data: u64, bytes: u32) -> u32 {
    for _ in 0..bytes {
        crc = crc >> 8 ^ table[((crc ^ data as u32) & 0xff) as usize];
        data >>= 8;
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values_of_both_polynomials() {
        let run = |t: &Table| {
            let c = update(t, !0, u64::from_le_bytes(*b"12345678"), 8);
            !update(t, c, u64::from(b'9'), 1)
        };
        assert_eq!(run(&IEEE), 0xcbf4_3926);
        assert_eq!(run(&CASTAGNOLI), 0xe306_9283);
    }
}
