//! The ITS and LPIs as a guest drives them.

mod common;

use common::{Guest, affinities};
use ulna_vgic::{GicConfig, GicError, IccReg, MsiError, Region, Version};

const T: Region = Region::Its(0);
const RAM: u64 = 0x8000_0000;
const CONFIG: u64 = RAM;
const QUEUE: u64 = RAM + 0x1_0000;
const DEVICES: u64 = RAM + 0x2_0000;
const COLLECTIONS: u64 = RAM + 0x3_0000;
const PENDING: u64 = RAM + 0x4_0000;

struct Driver {
    g: Guest,
    at: u64,
}

impl Driver {
    fn new(vcpus: usize) -> Driver {
        let mut config = GicConfig::new(Version::V3, affinities(vcpus), 64);
        config.its = 1;
        let mut g = Guest::raw(config);
        g.w(0, Region::Dist, 0, 2);
        for vcpu in 0..vcpus {
            let rd = Region::Redist(vcpu);
            g.w64(vcpu, rd, 0x70, CONFIG | 15 | 0x780);
            g.w64(vcpu, rd, 0x78, PENDING + 0x1_0000 * vcpu as u64);
            g.w(vcpu, rd, 0, 1);
            g.open(vcpu);
        }
        g.w64(0, T, 0x100, 1 << 63 | DEVICES);
        g.w64(0, T, 0x108, 1 << 63 | COLLECTIONS);
        g.w64(0, T, 0x80, 1 << 63 | QUEUE | 0xf);
        g.w(0, T, 0, 1);
        for lpi in 0..64 {
            g.ram.put8(CONFIG + lpi, 0xa1);
        }
        Driver { g, at: 0 }
    }

    fn command(&mut self, words: [u64; 4]) {
        for (i, word) in words.into_iter().enumerate() {
            self.g.ram.put64(QUEUE + self.at + i as u64 * 8, word);
        }
        self.at = (self.at + 32) % 0x1_0000;
        self.g.w64(0, T, 0x88, self.at);
        assert_eq!(self.g.r64(0, T, 0x90), self.at, "done before the store returns");
    }

    fn mapd(&mut self, device: u64, bits: u64, valid: bool) {
        self.command([8 | device << 32, bits - 1, u64::from(valid) << 63 | (RAM + 0x9_0000), 0]);
    }

    fn mapc(&mut self, collection: u64, vcpu: u64, valid: bool) {
        self.command([9, 0, u64::from(valid) << 63 | vcpu << 16 | collection, 0]);
    }

    fn mapti(&mut self, device: u64, event: u64, lpi: u64, collection: u64) {
        self.command([0xa | device << 32, event | lpi << 32, collection, 0]);
    }

    fn on_event(&mut self, code: u64, device: u64, event: u64, w2: u64) {
        self.command([code | device << 32, event, w2, 0]);
    }

    fn msi(&mut self, device: u32, event: u32) -> Result<(), MsiError> {
        self.g.gic.inject_msi(0, device, event, &self.g.ram)
    }

    fn take(&mut self, vcpu: usize) -> u64 {
        let intid = self.g.mrs(vcpu, IccReg::Iar1);
        self.g.msr(vcpu, IccReg::Eoir1, intid);
        intid
    }
}

#[test]
fn identification() {
    let mut d = Driver::new(1);
    assert_eq!(d.g.r(0, T, 4), 0x4b00_043b);
    assert_eq!(d.g.r64(0, T, 8), 1 | 15 << 13 | 15 << 8 | 7 << 4);
    assert_eq!(d.g.r64(0, T, 0x100), 1 << 63 | 3 << 59 | 1 << 56 | 7 << 48 | DEVICES | 2 << 8);
    assert_eq!(d.g.r64(0, T, 0x108) >> 56 & 7, 4);
    assert_eq!(d.g.r(0, T, 0xffe8), 0x3b);
    assert_eq!(d.g.r(0, T, 0), 1 | 1 << 31);
    assert_eq!(d.g.r(0, Region::Dist, 4), 1 | 1 << 17 | 15 << 19);
    assert_eq!(d.g.r(0, Region::Redist(0), 0), 7);
    assert_eq!(d.g.r(0, Region::Redist(0), 8) & 1, 1);
    d.g.w64(0, T, 0x80, 0);
    assert_ne!(d.g.r64(0, T, 0x80), 0, "frozen while enabled");
}

#[test]
fn an_event_becomes_an_interrupt() {
    let mut d = Driver::new(2);
    assert_eq!(d.msi(5, 3), Err(MsiError::Unmapped));
    d.mapd(5, 5, true);
    d.mapc(0, 1, true);
    d.mapti(5, 3, 8200, 0);
    d.mapti(5, 32, 8201, 0);
    assert_eq!(d.msi(5, 32), Err(MsiError::Unmapped), "the device has 5 event bits");
    d.msi(5, 3).unwrap();
    assert!(d.g.irq(1) && !d.g.irq(0));
    assert_eq!(d.take(1), 8200);
    assert_eq!(d.take(1), 1023);
    d.on_event(3, 5, 3, 0); // INT
    d.on_event(4, 5, 3, 0); // CLEAR
    assert_eq!(d.take(1), 1023);
    d.on_event(0xf, 5, 3, 0); // DISCARD
    assert_eq!(d.msi(5, 3), Err(MsiError::Unmapped));
}

#[test]
fn configuration_is_read_when_told() {
    let mut d = Driver::new(1);
    d.mapd(1, 4, true);
    d.mapc(7, 0, true);
    d.mapti(1, 0, 8192, 7);
    d.mapti(1, 1, 8193, 7);
    d.g.ram.put8(CONFIG, 0);
    d.msi(1, 0).unwrap();
    assert!(d.g.irq(0), "cached");
    d.on_event(0xc, 1, 0, 0); // INV
    assert!(!d.g.irq(0), "disabled");
    d.g.ram.put8(CONFIG, 0xa1);
    d.g.ram.put8(CONFIG + 1, 0x41);
    d.msi(1, 1).unwrap();
    d.command([0xd, 0, 7, 0]); // INVALL
    assert_eq!(d.g.mrs(0, IccReg::Iar1), 8193, "more urgent now");
    assert_eq!(d.g.mrs(0, IccReg::Rpr), 0x40);
    d.g.msr(0, IccReg::Eoir1, 8193);
    assert_eq!(d.take(0), 8192);
    d.g.ram.put8(CONFIG, 0);
    d.msi(1, 0).unwrap();
    d.g.w(0, Region::Redist(0), 0xa0, 8192); // INVLPIR
    assert!(!d.g.irq(0));
}

#[test]
fn pending_state_moves_along() {
    let mut d = Driver::new(3);
    d.mapd(1, 4, true);
    (0..3).for_each(|i| d.mapc(i, i, true));
    d.mapti(1, 0, 8192, 0);
    d.msi(1, 0).unwrap();
    d.on_event(1, 1, 0, 1); // MOVI to collection 1
    assert!(!d.g.irq(0) && d.g.irq(1));
    d.mapc(1, 2, true);
    assert!(!d.g.irq(1) && d.g.irq(2));
    d.command([0xe, 0, 2 << 16, 0]); // MOVALL from 2 to 0
    assert!(!d.g.irq(2) && d.g.irq(0));
    assert_eq!(d.take(0), 8192);
    d.msi(1, 0).unwrap();
    assert_eq!(d.take(2), 8192, "the mapping did not move");
    d.msi(1, 0).unwrap();
    d.mapd(1, 4, false);
    assert!(!d.g.irq(2));
    assert_eq!(d.msi(1, 0), Err(MsiError::Unmapped));
}

#[test]
fn lpis_can_be_disabled_and_are_loaded_from_the_table() {
    let mut d = Driver::new(1);
    let rd = Region::Redist(0);
    d.mapd(1, 4, true);
    d.mapc(0, 0, true);
    d.mapti(1, 0, 8192, 0);
    d.msi(1, 0).unwrap();
    d.g.w(0, rd, 0, 0);
    assert!(!d.g.irq(0));
    assert_eq!(d.msi(1, 0), Err(MsiError::LpisDisabled));
    d.g.ram.put8(PENDING + 8192 / 8, 1);
    d.g.w(0, rd, 0, 1);
    assert!(d.g.irq(0));
    assert_eq!(d.take(0), 8192);
    d.g.ram.put8(PENDING + 8192 / 8, 0b10);
    d.mapti(1, 1, 8193, 0);
    assert_eq!(d.take(0), 8193);
    assert_eq!(d.g.ram.get8(PENDING + 8192 / 8), 0, "its state is ours now");
    d.msi(1, 1).unwrap();
    d.g.gic.save_pending_tables(&d.g.ram).unwrap();
    assert_eq!(d.g.ram.get8(PENDING + 8192 / 8), 0b10);
}

#[test]
fn wrong_commands_are_skipped() {
    let mut d = Driver::new(1);
    d.mapti(9, 0, 8192, 0); // no such device
    d.mapc(0, 5, true); // no such vCPU
    d.mapc(0x2001, 0, true); // beyond the collection table
    d.mapd(0x2001, 4, true); // beyond the device table
    d.mapd(1, 17, true); // too many event bits
    d.command([0xee, 1, 2, 3]);
    d.mapd(1, 4, true);
    d.mapti(1, 0, 8191, 0);
    d.mapti(1, 0, 65536, 0);
    d.on_event(0xf, 1, 0, 0);
    assert!(d.g.gic.take_changed().is_empty());
    assert_eq!(d.msi(1, 0), Err(MsiError::Unmapped));
    d.mapti(1, 0, 8192, 3); // a collection that is mapped later
    assert_eq!(d.msi(1, 0), Err(MsiError::Unmapped));
    d.mapc(3, 0, true);
    d.msi(1, 0).unwrap();
    d.mapc(3, 0, false);
    assert_eq!(d.msi(1, 0), Err(MsiError::Unmapped));
    assert!(!d.g.irq(0));
    // A queue in nowhere: every command is skipped.
    d.g.w(0, T, 0, 0);
    d.g.w64(0, T, 0x80, 1 << 63 | 0xff00_0000 | 0xff);
    d.g.w(0, T, 0, 1);
    d.g.w64(0, T, 0x88, 0xf_ffe0);
    assert_eq!(d.g.r64(0, T, 0x90), 0xf_ffe0);
}

#[test]
fn an_indirect_device_table_needs_its_page() {
    let mut d = Driver::new(1);
    d.g.w(0, T, 0, 0);
    d.g.w64(0, T, 0x100, 3 << 62 | DEVICES);
    d.g.w(0, T, 0, 1);
    d.mapc(0, 0, true);
    d.mapd(0x2000, 4, true);
    d.mapti(0x2000, 0, 8192, 0);
    assert_eq!(d.msi(0x2000, 0), Err(MsiError::Unmapped));
    d.g.ram.put64(DEVICES + 8, 1 << 63 | (RAM + 0x5_0000));
    d.mapd(0x2000, 4, true);
    d.mapti(0x2000, 0, 8192, 0);
    d.msi(0x2000, 0).unwrap();
    d.g.w(0, T, 0, 0);
    assert_eq!(d.msi(0x2000, 0), Err(MsiError::ItsDisabled));
}

/// Saved to guest memory by one GIC, restored by another.
#[test]
fn tables_carry_the_mappings() {
    for indirect in [false, true] {
        let mut d = Driver::new(2);
        if indirect {
            d.g.w(0, T, 0, 0);
            d.g.w64(0, T, 0x100, 3 << 62 | DEVICES);
            d.g.w(0, T, 0, 1);
            d.g.ram.put64(DEVICES, 1 << 63 | (RAM + 0x7_0000));
            d.g.ram.put64(DEVICES + 8, 1 << 63 | (RAM + 0x5_0000));
        }
        d.mapc(0, 0, true);
        d.mapc(9, 1, true);
        let devices: &[u64] = if indirect { &[2, 100, 0x2005] } else { &[0, 2, 100] };
        for (i, &device) in devices.iter().enumerate() {
            d.command([8 | device << 32, 4, 1 << 63 | (RAM + 0x9_0000 + 0x1000 * i as u64), 0]);
            for event in [0, 1, 31] {
                let lpi = 8192 + 3 * i as u64 + event % 29;
                d.mapti(device, event, lpi, if event == 1 { 9 } else { 0 });
            }
        }
        d.msi(100, 31).unwrap();
        d.msi(2, 1).unwrap();
        d.g.gic.its_save_tables(0, &d.g.ram).unwrap();
        d.g.gic.save_pending_tables(&d.g.ram).unwrap();
        let mappings = d.g.gic.state();

        let mut twin = Driver::new(2);
        twin.g.ram = d.g.ram;
        for off in [0x80, 0x88, 0x90, 0x100, 0x108] {
            let value = d.g.gic.user_read(T, 0, off);
            twin.g.gic.user_write(T, 0, 0, 0, &twin.g.ram).unwrap();
            twin.g.gic.user_write(T, 0, off, value, &twin.g.ram).unwrap();
        }
        twin.g.gic.its_restore_tables(0, &twin.g.ram).unwrap();
        twin.g.gic.user_write(T, 0, 0, 1, &twin.g.ram).unwrap();
        assert_eq!(twin.g.gic.state().its, mappings.its, "indirect: {indirect}");
        assert_eq!(twin.take(1), 8192 + if indirect { 1 } else { 4 });
        assert!(twin.g.irq(0));
        twin.msi(2, 0).unwrap();
        assert!(twin.g.gic.its_restore_tables(0, &twin.g.ram).is_err(), "collections are there already");
        twin.g.gic.its_reset(0).unwrap();
        assert!(!twin.g.irq(0));
        assert_eq!(twin.g.r64(0, T, 0x100) & 1 << 63, 0);
    }
}

#[test]
fn broken_tables_are_refused_whole() {
    let mut d = Driver::new(1);
    d.mapc(0, 0, true);
    d.command([8, 4, 1 << 63 | (RAM + 0x9_0000), 0]);
    d.mapti(0, 3, 8192, 0);
    d.g.gic.its_save_tables(0, &d.g.ram).unwrap();
    let mut twin = Driver::new(1);
    twin.g.ram = d.g.ram;
    let event = RAM + 0x9_0000 + 3 * 8;
    for bad in [100u64 << 16, 8192 << 16 | 7, 40 << 48 | 8192 << 16] {
        twin.g.ram.put64(event, bad);
        assert_eq!(twin.g.gic.its_restore_tables(0, &twin.g.ram), Err(GicError::BadValue), "{bad:#x}");
        assert_eq!(twin.msi(0, 3), Err(MsiError::Unmapped));
    }
    twin.g.ram.put64(event, 8192 << 16);
    twin.g.gic.its_restore_tables(0, &twin.g.ram).unwrap();
    twin.msi(0, 3).unwrap();
    twin.g.ram.put64(DEVICES, 1 << 63 | 0x10 << 5 | 3);
    twin.g.gic.its_reset(0).unwrap();
    twin.g.w64(0, T, 0x100, 1 << 63 | DEVICES);
    assert_eq!(twin.g.gic.its_restore_tables(0, &twin.g.ram), Err(GicError::Memory));
}

/// One LPI mapped by many events, and a queue full of commands that look at all of them: the guest's
/// store comes back soon with the queue not empty, and the next one goes on.
#[test]
fn a_queue_of_costly_commands_is_carried_out_in_parts() {
    let mut d = Driver::new(2);
    d.mapc(0, 0, true);
    d.mapd(0, 16, true);
    d.g.w(0, T, 0, 0);
    d.g.w64(0, T, 0x80, 1 << 63 | QUEUE | 0xf);
    d.g.w(0, T, 0, 1);
    for round in 0..20u64 {
        for n in 0..2047u64 {
            let event = round * 2047 + n;
            let words = [0xa, event | 8192 << 32, 0, 0];
            let slot = QUEUE + (round * 2047 + n) % 2048 * 32;
            (0..4).for_each(|i| d.g.ram.put64(slot + i * 8, words[i as usize]));
        }
        d.g.w64(0, T, 0x88, (round + 1) * 2047 % 2048 * 32);
    }
    let start = 20 * 2047 % 2048;
    for n in 0..2047 {
        let slot = QUEUE + (start + n) % 2048 * 32;
        let words = [9, 0, 1 << 63 | (n % 2) << 16, 0];
        (0..4).for_each(|i| d.g.ram.put64(slot + i * 8, words[i as usize]));
    }
    let end = (start + 2047) % 2048 * 32;
    d.g.w64(0, T, 0x88, end);
    let done = d.g.r64(0, T, 0x90);
    assert_ne!(done, end);
    assert_eq!(d.g.r(0, T, 0) >> 31, 0, "not quiescent");
    d.g.w64(0, T, 0x88, end);
    assert_ne!(d.g.r64(0, T, 0x90), done);
    d.msi(0, 5).unwrap();
}
