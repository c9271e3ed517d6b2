//! Block requests as a driver makes them, on files and on media that fail.

use super::*;
use crate::mmio::MmioDevice;
use crate::virtio::Service;
use crate::virtio::testing::{BASE, Bench, R, RAM_SIZE, W};
use proptest::prelude::*;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const HEADER: u64 = 0;
const STATUS: u64 = 0x100;
const DATA: u64 = 0x1000;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

fn file(len: u64) -> tempfile::NamedTempFile {
    let f = tempfile::NamedTempFile::new().unwrap();
    f.as_file().set_len(len).unwrap();
    f
}

fn bench(f: &tempfile::NamedTempFile, read_only: bool) -> Bench<Blk<FileMedia>> {
    Bench::new(Blk::new(FileMedia::open(f.path(), read_only).unwrap(), "ulna-0001"))
}

/// Sends a request with `len` bytes of data at [`DATA`]; returns status and the bytes reported as written.
fn request<S: Media>(b: &mut Bench<Blk<S>>, kind: u32, sector: u64, len: u32) -> (u8, u32) {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    b.set_bytes(HEADER, &header);
    b.set_bytes(STATUS, &[0xee]);
    let way = if matches!(kind, OUT | DISCARD | WRITE_ZEROES) { R } else { W };
    let before = b.used_idx(0);
    if len == 0 {
        b.request(0, &[(HEADER, 16, R), (STATUS, 1, W)]);
    } else {
        b.request(0, &[(HEADER, 16, R), (DATA, len, way), (STATUS, 1, W)]);
    }
    let start = Instant::now();
    while b.used_idx(0) == before {
        assert!(start.elapsed() < Duration::from_secs(10), "no answer");
        std::thread::yield_now();
    }
    let i = u64::from(before % crate::virtio::testing::SIZE);
    let (_, _, used) = Bench::<Blk<S>>::rings(0);
    let len = b.bytes(used - BASE + 4 + 8 * i + 4, 4);
    (b.bytes(STATUS, 1)[0], u32::from_le_bytes(len.try_into().unwrap()))
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut v = sector.to_le_bytes().to_vec();
    v.extend(sectors.to_le_bytes());
    v.extend(flags.to_le_bytes());
    v
}

#[test]
fn configuration_space_is_laid_out_as_specified() {
    let f = file(1 << 20);
    let mut b = bench(&f, false);
    let mut c = [0u8; 60];
    b.window.read(0x100, &mut c);
    let u32_at = |o: usize| u32::from_le_bytes(c[o..o + 4].try_into().unwrap());
    assert_eq!(u64::from_le_bytes(c[..8].try_into().unwrap()), 2048, "capacity");
    assert_eq!(u32_at(12), 254, "seg_max");
    assert_eq!(u32_at(20), 512, "blk_size");
    assert_eq!(c[24], 3, "physical_block_exp");
    assert_eq!(u32_at(36), MAX_DISCARD_SECTORS);
    assert_eq!(u32_at(48), MAX_ZEROES_SECTORS);
    assert_eq!(u32_at(52), MAX_RANGES);
    assert_eq!(c[56], 1, "write_zeroes_may_unmap");
    let mut beyond = [0xffu8; 8];
    b.window.read(0x100 + 58, &mut beyond);
    assert_eq!(beyond[2..], [0; 6]);
    b.window.read(u64::MAX - 2, &mut beyond);
}

#[test]
fn what_is_written_is_read_and_lands_in_the_file() {
    let f = file(1 << 20);
    let mut b = bench(&f, false);
    b.start(F_FLUSH);
    let data: Vec<u8> = (0..4096u32).map(|i| (i * 7) as u8).collect();
    b.set_bytes(DATA, &data);
    assert_eq!(request(&mut b, OUT, 100, 4096), (OK, 1));
    assert_eq!(request(&mut b, FLUSH, 0, 0), (OK, 1));
    b.set_bytes(DATA, &[0; 4096]);
    assert_eq!(request(&mut b, IN, 100, 4096), (OK, 4097));
    assert_eq!(b.bytes(DATA, 4096), data);
    assert_eq!(std::fs::read(f.path()).unwrap()[51200..55296], data);
}

#[test]
fn large_requests_cross_the_bounce_buffer() {
    let f = file(1 << 20);
    let mut b = bench(&f, false);
    b.start(F_FLUSH);
    let data: Vec<u8> = (0..700 * 1024u32).map(|i| (i / 512) as u8).collect();
    b.set_bytes(DATA, &data);
    assert_eq!(request(&mut b, OUT, 0, 700 * 1024).0, OK);
    assert_eq!(std::fs::read(f.path()).unwrap()[..data.len()], data);
    b.set_bytes(DATA, &vec![0; data.len()]);
    assert_eq!(request(&mut b, IN, 0, 700 * 1024), (OK, 700 * 1024 + 1));
    assert_eq!(b.bytes(DATA, data.len()), data);
}

#[test]
fn identity_is_the_serial() {
    let f = file(4096);
    let mut b = bench(&f, false);
    b.start(F_FLUSH);
    assert_eq!(request(&mut b, GET_ID, 0, 20), (OK, 21));
    assert_eq!(b.bytes(DATA, 20), b"ulna-0001\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn bad_requests_are_answered_with_the_right_status() {
    let f = file(64 * 1024);
    let mut b = bench(&f, false);
    b.start(F_FLUSH);
    assert_eq!(request(&mut b, IN, 127, 512).0, OK, "the last sector");
    assert_eq!(request(&mut b, IN, 128, 512).0, IOERR, "beyond the end");
    assert_eq!(request(&mut b, IN, 127, 1024).0, IOERR, "across the end");
    assert_eq!(request(&mut b, IN, u64::MAX / 512, 512).0, IOERR, "offset overflows");
    assert_eq!(request(&mut b, IN, u64::MAX, 512).0, IOERR);
    assert_eq!(request(&mut b, IN, 0, 100).0, IOERR, "not whole sectors");
    assert_eq!(request(&mut b, OUT, 0, 511).0, IOERR);
    assert_eq!(request(&mut b, 77, 0, 0).0, UNSUPP);
    assert_eq!(request(&mut b, 14, 0, 0).0, UNSUPP, "secure erase is not offered");
    assert_eq!(request(&mut b, DISCARD, 0, 15).0, IOERR, "not whole ranges");
    assert!(!b.needs_reset());
    assert!(std::fs::read(f.path()).unwrap().iter().all(|&x| x == 0), "nothing was written");
}

#[test]
fn buffers_outside_memory_are_io_errors() {
    let f = file(64 * 1024);
    let mut b = bench(&f, false);
    b.start(F_FLUSH);
    b.set_bytes(HEADER, &[0; 16]);
    b.request(0, &[(HEADER, 16, R), (RAM_SIZE - 512, 1024, W), (STATUS, 1, W)]);
    assert_eq!(b.bytes(STATUS, 1), [IOERR]);
    b.request(0, &[(RAM_SIZE, 16, R), (DATA, 512, W), (STATUS, 1, W)]);
    assert_eq!(b.bytes(STATUS, 1), [IOERR]);
    assert!(!b.needs_reset());
    b.request(0, &[(HEADER, 16, R), (RAM_SIZE, 1, W)]);
    assert!(b.needs_reset(), "the status cannot be told");
}

#[test]
fn a_request_without_status_needs_a_reset() {
    let f = file(4096);
    let mut b = bench(&f, false);
    b.start(F_FLUSH);
    b.request(0, &[(HEADER, 16, R)]);
    assert!(b.needs_reset());
    assert_eq!(
        b.handle().fault().as_deref(),
        Some("virtqueue 0: request at head 0 has no room for its status")
    );
}

#[test]
fn read_only_disks_refuse_writes() {
    let f = file(4096);
    let mut b = bench(&f, true);
    assert!(!b.negotiate(1 << 32 | F_DISCARD), "not offered");
    b.start(F_RO | F_FLUSH);
    for kind in [OUT, DISCARD, WRITE_ZEROES] {
        b.set_bytes(DATA, &range(0, 1, 0));
        assert_eq!(request(&mut b, kind, 0, 512).0, IOERR);
    }
    assert_eq!(request(&mut b, IN, 0, 512).0, OK);
}

#[test]
fn discard_and_write_zeroes_obey_limits_and_flags() {
    let f = file(1 << 20);
    let mut b = bench(&f, false);
    b.start(F_FLUSH | F_DISCARD | F_WRITE_ZEROES);
    b.set_bytes(DATA, &[0xaa; 8192]);
    assert_eq!(request(&mut b, OUT, 0, 8192).0, OK);
    let mut ranges = range(2, 2, 0);
    ranges.extend(range(8, 1, 1));
    b.set_bytes(DATA, &ranges);
    assert_eq!(request(&mut b, WRITE_ZEROES, 0, 32).0, OK);
    let now = std::fs::read(f.path()).unwrap();
    for sector in 0..16 {
        let want = if matches!(sector, 2 | 3 | 8) { 0 } else { 0xaa };
        assert!(now[sector * 512..][..512].iter().all(|&x| x == want), "sector {sector}");
    }
    for (kind, r, status) in [
        (DISCARD, range(0, 8, 0), OK),
        (DISCARD, range(0, 8, 1), UNSUPP),
        (WRITE_ZEROES, range(0, 8, 2), UNSUPP),
        (DISCARD, range(2047, 2, 0), IOERR),
        (DISCARD, range(u64::MAX, u32::MAX, 0), IOERR),
        (WRITE_ZEROES, range(0, MAX_ZEROES_SECTORS + 1, 0), IOERR),
        (DISCARD, range(0, 0, 0), OK),
    ] {
        b.set_bytes(DATA, &r);
        assert_eq!(request(&mut b, kind, 0, 16).0, status, "{kind} {r:?}");
    }
    b.set_bytes(DATA, &range(0, 1, 0).repeat(17));
    assert_eq!(request(&mut b, DISCARD, 0, 17 * 16).0, IOERR, "more ranges than offered");
}

/// A medium that fails when told, and counts flushes.
struct Faulty {
    data: Vec<u8>,
    bad: std::ops::Range<u64>,
    flushes: Arc<AtomicU64>,
    slow: Duration,
}

impl Faulty {
    fn new(len: usize) -> Faulty {
        Faulty { data: vec![0; len], bad: 0..0, flushes: Arc::default(), slow: Duration::ZERO }
    }
    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        std::thread::sleep(self.slow);
        if offset < self.bad.end && offset + len as u64 > self.bad.start {
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(())
    }
}

impl Media for Faulty {
    fn len(&self) -> u64 {
        self.data.len() as u64
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.check(offset, buf.len())?;
        buf.copy_from_slice(&self.data[offset as usize..][..buf.len()]);
        Ok(())
    }
    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.check(offset, buf.len())?;
        self.data[offset as usize..][..buf.len()].copy_from_slice(buf);
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        if self.flushes.fetch_add(1, Ordering::SeqCst) >= 100 {
            return Err(io::Error::from_raw_os_error(28)); // ENOSPC
        }
        Ok(())
    }
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.check(offset, len as usize)
    }
    fn write_zeroes(&mut self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        self.check(offset, len as usize)?;
        self.data[offset as usize..][..len as usize].fill(0);
        Ok(())
    }
}

#[test]
fn host_errors_reach_the_guest_and_pass() {
    let mut m = Faulty::new(1 << 20);
    m.bad = 4096..8192;
    let mut b = Bench::new(Blk::new(m, ""));
    b.start(F_FLUSH);
    for kind in [IN, OUT] {
        // Of a failed read nothing is new at the start; a write's only writable byte is its status.
        assert_eq!(request(&mut b, kind, 8, 512), (IOERR, kind));
        assert_eq!(request(&mut b, kind, 7, 1024).0, IOERR);
        assert_eq!(request(&mut b, kind, 7, 512).0, OK);
    }
    b.set_bytes(DATA, &range(0, 64, 0));
    assert_eq!(request(&mut b, DISCARD, 0, 16).0, IOERR);
    b.handle().with_device(|d| d.media().flushes.store(100, Ordering::SeqCst));
    assert_eq!(request(&mut b, FLUSH, 0, 0).0, IOERR);
    b.handle().with_device(|d| d.media().flushes.store(0, Ordering::SeqCst));
    assert_eq!(request(&mut b, FLUSH, 0, 0).0, OK);
    assert!(!b.needs_reset());
}

#[test]
fn without_flush_every_write_is_stable() {
    let m = Faulty::new(1 << 16);
    let flushes = m.flushes.clone();
    let mut b = Bench::new(Blk::new(m, ""));
    b.start(0);
    assert_eq!(request(&mut b, OUT, 0, 512).0, OK);
    assert_eq!(flushes.load(Ordering::SeqCst), 1);
    b.start(F_FLUSH);
    assert_eq!(request(&mut b, OUT, 0, 512).0, OK);
    assert_eq!(flushes.load(Ordering::SeqCst), 1, "with FLUSH the driver decides");
}

#[test]
fn a_slow_disk_does_not_hold_the_vcpu() {
    let mut m = Faulty::new(1 << 16);
    m.slow = Duration::from_millis(300);
    let mut b = Bench::with_service(Blk::new(m, ""), Service::Worker);
    b.start(F_FLUSH);
    b.set_bytes(HEADER, &[0; 16]);
    let start = Instant::now();
    b.request(0, &[(HEADER, 16, R), (DATA, 512, W), (STATUS, 1, W)]);
    std::thread::sleep(Duration::from_millis(20));
    b.notify(0);
    assert_eq!(b.get(crate::virtio::reg::INTERRUPT_STATUS), 0);
    let mut capacity = [0; 8];
    b.window.read(0x100, &mut capacity);
    assert!(start.elapsed() < Duration::from_millis(250), "the window answers while the disk works");
    while b.used_idx(0) == 0 {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
}

#[derive(Debug, Clone)]
enum Op {
    In(u64, u32),
    Out(u64, u32, u8),
    Zero(u64, u32),
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0u64..130, 1u32..20).prop_map(|(s, n)| Op::In(s, n)),
        (0u64..130, 1u32..20, any::<u8>()).prop_map(|(s, n, v)| Op::Out(s, n, v)),
        (0u64..130, 0u32..20).prop_map(|(s, n)| Op::Zero(s, n)),
        Just(Op::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A storm of requests gives what a plain array gives, on a file and through a worker thread.
    #[test]
    fn the_disk_behaves_like_an_array(ops in prop::collection::vec(op(), 1..80)) {
        const SECTORS: u64 = 128;
        let f = file(SECTORS * 512);
        let media = FileMedia::open(f.path(), false).unwrap();
        let mut b = Bench::with_service(Blk::new(media, ""), Service::Worker);
        b.start(F_FLUSH | F_WRITE_ZEROES | 1 << 29);
        let mut model = vec![0u8; (SECTORS * 512) as usize];
        for op in ops {
            let fits = |s: u64, n: u32| s + u64::from(n) <= SECTORS;
            let bytes = |s: u64, n: u32| s as usize * 512..(s as usize + n as usize) * 512;
            match op {
                Op::In(s, n) => {
                    let status = request(&mut b, IN, s, n * 512).0;
                    prop_assert_eq!(status == OK, fits(s, n));
                    if fits(s, n) {
                        prop_assert_eq!(&b.bytes(DATA, n as usize * 512)[..], &model[bytes(s, n)]);
                    }
                }
                Op::Out(s, n, v) => {
                    b.set_bytes(DATA, &vec![v; n as usize * 512]);
                    let status = request(&mut b, OUT, s, n * 512).0;
                    prop_assert_eq!(status == OK, fits(s, n));
                    if fits(s, n) {
                        model[bytes(s, n)].fill(v);
                    }
                }
                Op::Zero(s, n) => {
                    b.set_bytes(DATA, &range(s, n, n & 1));
                    let status = request(&mut b, WRITE_ZEROES, 0, 16).0;
                    prop_assert_eq!(status == OK, fits(s, n));
                    if fits(s, n) {
                        model[bytes(s, n)].fill(0);
                    }
                }
                Op::Flush => prop_assert_eq!(request(&mut b, FLUSH, 0, 0).0, OK),
            }
        }
        drop(b);
        prop_assert_eq!(std::fs::read(f.path()).unwrap(), model);
    }
}
