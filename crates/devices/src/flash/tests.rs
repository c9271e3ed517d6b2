use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// An array that keeps what differs from 0, and can be full.
#[derive(Default)]
struct Cells {
    bytes: BTreeMap<u64, u8>,
    hidden: bool,
    shows: usize,
    broken: bool,
    stores: usize,
}

impl Array for Cells {
    fn load(&self, offset: u64, data: &mut [u8]) {
        for (at, b) in (offset..).zip(data) {
            *b = self.bytes.get(&at).copied().unwrap_or(0);
        }
    }
    fn store(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        assert!(offset + data.len() as u64 <= BANK_SIZE);
        self.stores += 1;
        if self.broken {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend((offset..).zip(data.iter().copied()));
        Ok(())
    }
    fn show(&mut self, array: bool) {
        assert_eq!(self.hidden, array, "told of changes only");
        self.hidden = !array;
        self.shows += 1;
    }
}

fn flash() -> Flash<Cells> {
    Flash::new(Cells::default(), true)
}

fn put(f: &mut Flash<Cells>, offset: u64, value: u32) {
    f.write(offset, &value.to_le_bytes());
}

fn get(f: &mut Flash<Cells>, offset: u64) -> u32 {
    let mut b = [0; 4];
    f.read(offset, &mut b);
    u32::from_le_bytes(b)
}

fn erase(f: &mut Flash<Cells>, offset: u64) {
    put(f, offset, 0x20_0020);
    put(f, offset, 0xd0_00d0);
}

#[test]
fn a_block_is_erased_and_a_word_programmed() {
    let mut f = flash();
    erase(&mut f, 0x4_1234);
    assert_eq!(get(&mut f, 0), 0x80_0080, "ready, no error");
    put(&mut f, 0, 0xff_00ff);
    assert_eq!((get(&mut f, 0x3_fffc), get(&mut f, 0x4_0000)), (0, 0xffff_ffff));
    assert_eq!((get(&mut f, 0x7_fffc), get(&mut f, 0x8_0000)), (0xffff_ffff, 0));
    put(&mut f, 0x4_0000, 0x40_0040);
    put(&mut f, 0x4_0008, 0x1234_5678);
    put(&mut f, 0, 0xff_00ff);
    assert_eq!(get(&mut f, 0x4_0008), 0x1234_5678);
    // Bits only go down without an erase.
    put(&mut f, 0x4_0000, 0x10_0010);
    put(&mut f, 0x4_0008, 0xffff_0000);
    put(&mut f, 0, 0xff_00ff);
    assert_eq!(get(&mut f, 0x4_0008), 0x1234_0000);
    assert!(!f.array.hidden);
    assert_eq!(f.array.shows, 6);
}

#[test]
fn the_write_buffer_takes_its_words_and_writes_once() {
    let mut f = flash();
    erase(&mut f, 0x100);
    let stores = f.array.stores;
    put(&mut f, 0x100, 0xe8_00e8);
    assert_eq!(get(&mut f, 0x100), 0x80_0080, "the buffer is free");
    put(&mut f, 0x100, 0x1f_001f);
    for i in 0..32 {
        put(&mut f, 0x100 + 4 * i, 0x0101_0101 * i as u32);
    }
    put(&mut f, 0x100, 0xd0_00d0);
    assert_eq!(get(&mut f, 0x100), 0x80_0080);
    assert_eq!(f.array.stores, stores + 1);
    put(&mut f, 0, 0xff_00ff);
    for i in 0..32 {
        assert_eq!(get(&mut f, 0x100 + 4 * i), 0x0101_0101 * i as u32);
    }
    assert_eq!(get(&mut f, 0x180), 0xffff_ffff);
}

#[test]
fn wrong_sequences_are_told_and_cleared() {
    let mut f = flash();
    for wrong in [&[0x20, 0x12][..], &[0x60, 0x33], &[0xe8, 0x400], &[0xe8, 0, 7, 0x70]] {
        for (i, &v) in (0..).zip(wrong) {
            put(&mut f, 4 * i, v);
        }
        assert_eq!(get(&mut f, 0), 0xb0_00b0, "{wrong:x?}");
        put(&mut f, 0, 0x50);
        put(&mut f, 0, 0x70);
        assert_eq!(get(&mut f, 0), 0x80_0080);
    }
    // Words for two blocks.
    for (at, v) in [(0, 0xe8), (0, 1), (0, 1), (BLOCK_SIZE, 2), (0, 0xd0)] {
        put(&mut f, at, v);
    }
    assert_eq!(get(&mut f, 0), 0xb0_00b0);
    assert_eq!(f.array.stores, 0);
    // Read array ends a sequence without an error.
    put(&mut f, 0, 0x50);
    for v in [0x20, 0xff, 0x70] {
        put(&mut f, 0, v);
    }
    assert_eq!(get(&mut f, 0), 0x80_0080);
}

#[test]
fn identity_and_query_are_on_both_devices() {
    let mut f = flash();
    put(&mut f, 0, 0x98_0098);
    assert_eq!([get(&mut f, 0x40), get(&mut f, 0x44), get(&mut f, 0x48)], [0x51_0051, 0x52_0052, 0x59_0059]);
    let mut b = [0; 8];
    f.read(0x40, &mut b);
    assert_eq!(u64::from_le_bytes(b), 0x0052_0052_0051_0051);
    put(&mut f, 0, 0x90_0090);
    assert_eq!([get(&mut f, 0), get(&mut f, 4), get(&mut f, 8)], [0x89_0089, 0x18_0018, 0]);
    assert_eq!([get(&mut f, BLOCK_SIZE), get(&mut f, BLOCK_SIZE + 8)], [0, 0]);
}

#[test]
fn a_read_only_bank_is_locked() {
    let mut f = Flash::new(Cells::default(), false);
    put(&mut f, 0, 0x90_0090);
    assert_eq!(get(&mut f, 5 * BLOCK_SIZE + 8), 0x1_0001);
    erase(&mut f, 0);
    assert_eq!(get(&mut f, 0), 0xa2_00a2);
    put(&mut f, 0, 0x50_0050);
    put(&mut f, 0, 0x40_0040);
    put(&mut f, 0, 0);
    assert_eq!(get(&mut f, 0), 0x92_0092);
    for v in [0xe8, 0, 5, 0xd0] {
        put(&mut f, 0, v);
    }
    assert_eq!(f.array.stores, 0);
}

#[test]
fn an_array_that_cannot_is_a_failure_in_the_status() {
    let mut f = flash();
    f.array.broken = true;
    erase(&mut f, 0);
    assert_eq!(get(&mut f, 0), 0xa0_00a0);
    put(&mut f, 0, 0x50_0050);
    put(&mut f, 0, 0x40_0040);
    put(&mut f, 0, 0);
    assert_eq!(get(&mut f, 0), 0x90_0090);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_a_guest_does_panics_or_leaves_the_bank(
        accesses in proptest::collection::vec(
            (any::<bool>(), prop_oneof![Just(0u64), Just(BANK_SIZE - 2), 0u64..64, any::<u64>()],
             prop_oneof![proptest::sample::select(vec![0x10u64, 0x20, 0x40, 0x60, 0xd0, 0xe8, 0xff, 0, 3]), any::<u64>()],
             proptest::sample::select(vec![1usize, 2, 4, 8])), 0..200)
    ) {
        let mut f = flash();
        let mut b = [0; 8];
        for (write, offset, value, len) in accesses {
            if write {
                f.write(offset, &value.to_le_bytes()[..len]);
            } else {
                f.read(offset, &mut b[..len]);
            }
            prop_assert_eq!(f.array.hidden, f.model.mode() != Mode::Array);
            prop_assert!(f.model.buffer.len() <= BUFFER_WORDS);
        }
        // Out of any state: twice read array, in case the first was data.
        for _ in 0..=BUFFER_WORDS + 2 {
            f.write(0, &[0xff, 0, 0xff, 0]);
        }
        prop_assert_eq!(f.model.mode(), Mode::Array);
    }
}
