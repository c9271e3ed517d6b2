//! Numbers that are in files and on wires. A build that fails here changed one of them: do not just correct the number
//! below; streams that exist have the old one. Add a version or a kind instead (docs: reference/stream).

use crate::{HEAD, Kind, MAGIC, MAJOR, Pages};

const _: () = {
    assert!(u64::from_le_bytes(MAGIC) == 0x4556_4f4d_414e_4c55);
    assert!(MAJOR == 1 && HEAD == 24 && Pages::HEAD == 17);
    assert!(Kind::HEADER.0 == 1 && Kind::BOARD.0 == 2 && Kind::VM_REGS.0 == 3 && Kind::GIC.0 == 4);
    assert!(Kind::REGION.0 == 5 && Kind::PAGES.0 == 6 && Kind::ZERO.0 == 7 && Kind::VCPU.0 == 8);
    assert!(Kind::DEVICE.0 == 9 && Kind::ROUND.0 == 10 && Kind::END.0 == 11 && Kind::MESSAGE.0 == 12);
    assert!(Kind::SUMS.0 == 13);
};
