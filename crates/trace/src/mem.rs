//! What is known of the caller's memory.

use ulna_kvm_abi::structs::Wire;

use crate::Piece;

/// The bytes at `addr` in the piece that has them, at most `len`.
pub(crate) fn bytes(pieces: &[Piece], addr: u64, len: usize) -> Option<&[u8]> {
    pieces.iter().rev().find_map(|p| {
        let from = usize::try_from(addr.checked_sub(p.addr)?).ok()?;
        let rest = p.bytes.get(from..)?;
        (!rest.is_empty() || len == 0).then(|| &rest[..rest.len().min(len)])
    })
}

/// A whole structure at `addr`.
pub(crate) fn get<T: Wire>(pieces: &[Piece], addr: u64) -> Option<T> {
    bytes(pieces, addr, T::SIZE).filter(|b| b.len() == T::SIZE).map(T::from_bytes)
}

/// A little-endian number of any length as hexadecimal.
pub(crate) fn number(b: &[u8]) -> String {
    let digits: String = b.iter().rev().map(|b| format!("{b:02x}")).collect();
    let short = digits.trim_start_matches('0');
    format!("0x{}", if short.is_empty() { "0" } else { short })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_by_address_the_last_first() {
        let p = [
            Piece { addr: 0x10, bytes: vec![1, 2, 3, 4] },
            Piece { addr: 0x10, bytes: vec![9, 0] },
            Piece { addr: u64::MAX, bytes: vec![7] },
        ];
        assert_eq!(bytes(&p, 0x10, 8), Some(&[9, 0][..]));
        assert_eq!(bytes(&p, 0x12, 1), Some(&[3][..]));
        assert_eq!((get::<u32>(&p, 0x10), get::<u16>(&p, 0x12)), (None, Some(0x403)));
        assert_eq!((bytes(&p, 0x20, 1), bytes(&p, u64::MAX, 9)), (None, Some(&[7][..])));
    }

    #[test]
    fn numbers_have_no_leading_zeros() {
        assert_eq!(number(&[0x98, 0x01, 0x0d, 0x30, 0, 0, 0, 0]), "0x300d0198");
        assert_eq!((number(&[0; 16]), number(&[])), ("0x0".into(), "0x0".into()));
    }
}
