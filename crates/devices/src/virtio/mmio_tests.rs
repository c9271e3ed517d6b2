//! The register window against section 4.2 of the specification, and against drivers that never read it.

use super::super::blk::{Blk, Media};
use super::super::console::Console;
use super::super::net::{Net, NetBackend};
use super::super::rng::{Entropy, Rng};
use super::super::testing::{BASE, Bench, R, RAM_SIZE, SIZE, W};
use super::*;
use proptest::prelude::*;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

struct Ones;
impl Entropy for Ones {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(1);
        Ok(())
    }
}

fn rng() -> Bench<Rng> {
    Bench::new(Rng::new(Box::new(Ones)))
}

#[test]
fn identity_registers() {
    let mut b = rng();
    assert_eq!(b.get(reg::MAGIC_VALUE), 0x7472_6976);
    assert_eq!(b.get(reg::VERSION), 2);
    assert_eq!(b.get(reg::DEVICE_ID), 4);
    assert_eq!(b.get(reg::QUEUE_NUM_MAX), 64);
    b.set(reg::QUEUE_SEL, 1);
    assert_eq!(b.get(reg::QUEUE_NUM_MAX), 0, "no such queue");
    assert_eq!(b.get(reg::SHM_LEN_LOW), u32::MAX);
    assert_eq!(b.get(reg::SHM_LEN_HIGH), u32::MAX);
    b.set(reg::DEVICE_FEATURES_SEL, 1);
    assert_eq!(b.get(reg::DEVICE_FEATURES), 1, "VERSION_1");
    b.set(reg::DEVICE_FEATURES_SEL, 2);
    assert_eq!(b.get(reg::DEVICE_FEATURES), 0);
}

#[test]
fn features_must_be_offered_and_modern() {
    let mut b = rng();
    assert!(b.negotiate(1 << 32));
    assert!(!b.negotiate(0), "VERSION_1 is not optional");
    assert!(!b.negotiate(1 << 32 | 1 << 5), "not offered");
    assert_eq!(b.get(reg::STATUS) & status::FEATURES_OK, 0);
    b.set(reg::STATUS, 15);
    assert_eq!(b.get(reg::STATUS) & status::DRIVER_OK, 0, "no DRIVER_OK without FEATURES_OK");
}

#[test]
fn features_are_frozen_by_features_ok() {
    let mut b = rng();
    assert!(b.negotiate(1 << 32));
    b.set(reg::DRIVER_FEATURES_SEL, 0);
    b.set(reg::DRIVER_FEATURES, u32::MAX);
    assert_eq!(b.window.driver_features, 1 << 32);
}

#[test]
fn control_registers_take_words_only() {
    let mut b = rng();
    b.window.write(reg::STATUS, &[1]);
    b.window.write(reg::STATUS, &[1, 0]);
    b.window.write(reg::STATUS + 1, &[1, 0, 0, 0]);
    b.window.write(reg::STATUS, &[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(b.get(reg::STATUS), 0);
}

#[test]
fn interrupt_is_raised_and_acknowledged() {
    let mut b = rng();
    b.start(0);
    b.request(0, &[(0, 8, W)]);
    assert!(b.irq.level());
    assert_eq!(b.get(reg::INTERRUPT_STATUS), 1);
    b.set(reg::INTERRUPT_ACK, 2);
    assert!(b.irq.level());
    b.set(reg::INTERRUPT_ACK, 1);
    assert!(!b.irq.level());
    assert_eq!(b.get(reg::INTERRUPT_STATUS), 0);
}

#[test]
fn event_index_holds_interrupts_back() {
    let mut b = rng();
    b.start(F_RING_EVENT_IDX);
    let used_event = GuestAddress(Bench::<Rng>::rings(0).1 + 4 + 2 * u64::from(SIZE));
    b.ram.write_obj(1u16, used_event).unwrap(); // tell me when used.idx passes 1
    b.request(0, &[(0, 8, W)]);
    assert!(!b.irq.level());
    b.request(0, &[(0, 8, W)]);
    assert!(b.irq.level());
}

#[test]
fn reset_clears_everything() {
    let mut b = rng();
    b.start(0);
    b.request(0, &[(0, 8, W)]);
    b.set(reg::STATUS, 0);
    assert!(!b.irq.level());
    for r in [reg::STATUS, reg::INTERRUPT_STATUS, reg::QUEUE_READY] {
        assert_eq!(b.get(r), 0);
    }
    b.notify(0);
    b.start(0);
    b.request(0, &[(0, 8, W)]);
    assert_eq!(b.used(0), [(0, 8)], "works again from index 0");
}

#[test]
fn impossible_queues_need_a_reset() {
    let cases: [(u64, u32); 7] = [
        (reg::QUEUE_NUM, 0),
        (reg::QUEUE_NUM, 3),
        (reg::QUEUE_NUM, 128),
        (reg::QUEUE_NUM, 0x1_0010),
        (reg::QUEUE_DESC_LOW, 0x1_0008),
        (reg::QUEUE_DESC_HIGH, 0xffff_ffff),
        (reg::QUEUE_DEVICE_LOW, (BASE + RAM_SIZE - 8) as u32),
    ];
    for (r, value) in cases {
        let mut b = rng();
        b.negotiate(1 << 32);
        b.set_up_queue(0);
        b.set(reg::QUEUE_READY, 0);
        b.set(r, value);
        b.set(reg::QUEUE_READY, 1);
        assert_eq!(b.get(reg::QUEUE_READY), 0, "{r:#x}={value:#x}");
        assert!(b.needs_reset());
        assert!(b.handle().fault().is_some_and(|f| f.contains("impossible")));
        b.set(reg::STATUS, 0);
        assert!(!b.needs_reset());
    }
}

#[test]
fn a_ready_queue_cannot_be_changed() {
    let mut b = rng();
    b.start(0);
    b.set(reg::QUEUE_DESC_LOW, 0);
    b.set(reg::QUEUE_NUM, 1);
    b.request(0, &[(0, 8, W)]);
    assert_eq!(b.used(0), [(0, 8)]);
}

#[test]
fn malformed_chains_need_a_reset_and_say_so() {
    type Break = fn(&mut Bench<Rng>);
    let cases: [(&str, Break); 6] = [
        ("loop", |b| {
            b.set_desc(0, 0, BASE, 4, W | 1, 1);
            b.set_desc(0, 1, BASE, 4, W | 1, 0);
            b.offer(0, 0);
        }),
        ("next outside the table", |b| {
            b.set_desc(0, 0, BASE, 4, W | 1, SIZE);
            b.offer(0, 0);
        }),
        ("head outside the table", |b| b.offer(0, SIZE)),
        ("readable behind writable", |b| {
            b.set_desc(0, 0, BASE, 4, W | 1, 1);
            b.set_desc(0, 1, BASE, 4, R, 0);
            b.offer(0, 0);
        }),
        ("indirect table of odd size", |b| {
            b.set_desc(0, 0, BASE, 17, 4, 0);
            b.offer(0, 0);
        }),
        ("index far ahead", |b| {
            let avail = Bench::<Rng>::rings(0).1;
            b.ram.write_obj(SIZE + 1, GuestAddress(avail + 2)).unwrap();
        }),
    ];
    for (name, break_it) in cases {
        let mut b = rng();
        b.start(0);
        break_it(&mut b);
        b.notify(0);
        assert!(b.needs_reset(), "{name}");
        assert!(b.irq.level(), "{name}: the driver is told");
        assert_eq!(b.get(reg::INTERRUPT_STATUS) & 2, 2, "{name}");
        assert!(b.handle().fault().is_some());
        b.start(0);
        b.request(0, &[(0, 8, W)]);
        assert_eq!(b.used(0), [(0, 8)], "{name}: a reset cures it");
    }
}

#[test]
fn buffers_outside_memory_only_fail_their_request() {
    let mut b = rng();
    b.start(0);
    b.request(0, &[(RAM_SIZE - 4, 8, W)]);
    b.request(0, &[(u64::MAX - BASE - 2, 8, W)]);
    b.request(0, &[(0, 8, W)]);
    assert!(!b.needs_reset());
    assert_eq!(b.used(0)[2], (2, 8));
}

#[test]
fn failed_stops_the_device() {
    let mut b = rng();
    b.start(0);
    b.set(reg::STATUS, status::FAILED);
    b.request(0, &[(0, 8, W)]);
    assert_eq!(b.used_idx(0), 0);
}

#[test]
fn the_worker_serves_and_ends() {
    let mut b = Bench::with_service(Rng::new(Box::new(Ones)), Service::Worker);
    b.start(F_RING_EVENT_IDX);
    for n in 1..=200u16 {
        b.request(0, &[(0, 8, W)]);
        let start = Instant::now();
        while b.used_idx(0) != n {
            assert!(start.elapsed() < Duration::from_secs(10), "request {n} is lost");
            std::thread::yield_now();
        }
    }
    b.set(reg::STATUS, 0);
    drop(b);
}

#[test]
fn paused_devices_do_nothing_and_state_moves() {
    let mut a = rng();
    a.start(0);
    a.request(0, &[(0, 8, W)]);
    a.handle().pause();
    a.request(0, &[(0x100, 8, W)]);
    assert_eq!(a.used_idx(0), 1);
    let saved = a.window.save();

    let mut b = rng();
    let mut ram = vec![0; RAM_SIZE as usize];
    a.ram.read_slice(&mut ram, GuestAddress(BASE)).unwrap();
    b.ram.write_slice(&ram, GuestAddress(BASE)).unwrap();
    b.window.restore(&saved).unwrap();
    assert_eq!(b.window.save(), saved);
    assert!(b.irq.level(), "the interrupt was pending");
    assert_eq!(b.used_idx(0), 1);
    b.handle().resume();
    assert_eq!(b.used_idx(0), 2, "the request made during the pause is served here");

    let wrong = state::V1 { queues: vec![], ..saved };
    assert!(b.window.restore(&wrong).is_err());
}

#[test]
fn an_index_that_turns_back_does_not_hold_the_device() {
    // The ring asks for a notification, then the index is there, then it is gone again: a guest on another CPU.
    let mut b = Bench::with_service(Rng::new(Box::new(Ones)), Service::Worker);
    b.start(0);
    let (ram, avail) = (b.ram.clone(), Bench::<Rng>::rings(0).1);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let flipper = std::thread::spawn(move || {
        let mut n = 0u16;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            n = n.wrapping_add(1);
            ram.write_obj(n & 3, GuestAddress(avail + 2)).unwrap();
        }
    });
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(200) {
        b.notify(0);
        b.get(reg::INTERRUPT_STATUS);
    }
    let reset = Instant::now();
    b.set(reg::STATUS, 0);
    assert!(reset.elapsed() < Duration::from_secs(5), "the reset comes through");
    assert_eq!(b.get(reg::STATUS), 0);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    flipper.join().unwrap();
    b.start(0);
    b.request(0, &[(0, 8, W)]);
    let start = Instant::now();
    while b.used_idx(0) != 1 {
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

/// Resets, pauses and notifications from several threads lose no request and never hang.
#[test]
fn pauses_and_resets_under_load() {
    let mut b = Bench::with_service(Rng::new(Box::new(Ones)), Service::Worker);
    let handle = b.handle();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let pauser = std::thread::spawn(move || {
        let mut n = 0u32;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            handle.pause();
            handle.resume();
            n += 1;
        }
        n
    });
    for round in 0..40 {
        b.start(if round & 1 == 0 { 0 } else { F_RING_EVENT_IDX });
        for n in 1..=30u16 {
            b.request(0, &[(0, 64, W)]);
            if n % 7 == 0 {
                let start = Instant::now();
                while b.used_idx(0) != n {
                    assert!(start.elapsed() < Duration::from_secs(10), "round {round}: request {n} is lost");
                    std::thread::yield_now();
                }
            }
            if n % 14 == 0 {
                b.set(reg::INTERRUPT_ACK, 3);
            }
        }
        b.set(reg::STATUS, 0);
        assert!(!b.irq.level(), "round {round}: no interrupt survives a reset");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(pauser.join().unwrap() > 0);
}

/// A disk in memory.
struct Memory(Vec<u8>);
impl Media for Memory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        buf.copy_from_slice(&self.0[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }
    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0[offset as usize..offset as usize + buf.len()].copy_from_slice(buf);
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.write_zeroes(offset, len, true)
    }
    fn write_zeroes(&mut self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        self.0[offset as usize..(offset + len) as usize].fill(0);
        Ok(())
    }
}

/// PROPTEST_CASES asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
}

#[derive(Debug, Clone)]
enum Op {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Register(u64, u32),
    Scribble(u64, Vec<u8>),
    Offer(u16),
    Start(bool),
    SaveRestore,
}

fn op() -> impl Strategy<Value = Op> {
    let registers = prop::sample::select(vec![
        reg::STATUS,
        reg::QUEUE_SEL,
        reg::QUEUE_NUM,
        reg::QUEUE_READY,
        reg::QUEUE_NOTIFY,
        reg::QUEUE_DESC_LOW,
        reg::QUEUE_DRIVER_LOW,
        reg::QUEUE_DEVICE_LOW,
        reg::DRIVER_FEATURES,
        reg::DRIVER_FEATURES_SEL,
        reg::INTERRUPT_ACK,
    ]);
    let value =
        prop_oneof![any::<u32>(), 0u32..16, (BASE as u32..(BASE + RAM_SIZE) as u32).prop_map(|a| a & !15)];
    prop_oneof![
        1 => (0u64..0x240, prop::sample::select(vec![1usize, 2, 4, 8])).prop_map(|(o, n)| Op::Read(o, n)),
        1 => (0u64..0x240, prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(o, v)| Op::Write(o, v)),
        3 => (registers, value).prop_map(|(r, v)| Op::Register(r, v)),
        // The rings and what they point to.
        4 => (0xe_0000u64..0xe_3000, prop::collection::vec(any::<u8>(), 1..64)).prop_map(|(a, v)| Op::Scribble(a, v)),
        3 => (0u16..SIZE + 1).prop_map(Op::Offer),
        1 => any::<bool>().prop_map(Op::Start),
        1 => Just(Op::SaveRestore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// Whatever a driver does to registers and rings, the device answers and stays curable.
    #[test]
    fn no_driver_breaks_the_device(ops in prop::collection::vec(op(), 1..120)) {
        let mut b = Bench::new(Blk::new(Memory(vec![0; 1 << 16]), "serial"));
        b.start(1 << 9);
        for op in ops {
            match op {
                Op::Read(o, n) => b.window.read(o, &mut vec![0; n]),
                Op::Write(o, v) => b.window.write(o, &v),
                Op::Register(r, v) => b.set(r, v),
                Op::Scribble(a, v) => b.set_bytes(a, &v),
                Op::Offer(h) => { b.offer(0, h); b.notify(0); }
                Op::Start(cure) => if cure { b.start(1 << 9 | 1 << 29) },
                Op::SaveRestore => {
                    let saved = b.window.save();
                    // A ring that was scribbled over is still in memory, so this can only fail for what is not there.
                    if b.window.restore(&saved).is_ok() {
                        prop_assert_eq!(b.window.save(), saved);
                    }
                    b.handle().resume();
                }
            }
            prop_assert_eq!(b.irq.level(), b.get(reg::INTERRUPT_STATUS) != 0);
        }
        b.start(1 << 9);
        b.set_bytes(0, &[0; 16]); // T_IN, sector 0
        b.request(0, &[(0, 16, R), (0x1000, 512, W), (0x2000, 1, W)]);
        prop_assert_eq!(b.used(0), [(0, 513)]);
        prop_assert!(!b.needs_reset());
    }

    /// Random but plausible descriptors (indirect tables, chains into each other, huge lengths) terminate in every
    /// device, and a reset cures it.
    #[test]
    fn plausible_garbage_in_rings_terminates(garbage in garbage()) {
        torment(Blk::new(Memory(vec![0; 1 << 16]), "serial"), &garbage)?;
        torment(Rng::new(Box::new(Ones)), &garbage)?;
        let mut console = Console::new(Box::new(io::sink()), (80, 25));
        console.receive(&[b'x'; 3000]);
        torment(console, &garbage)?;
        torment(Net::new(Flood(vec![0x55; 700], 300), [2, 0, 0, 0, 0, 1], 1500), &garbage)?;
    }
}

/// A network that brings so many frames at once, then none.
struct Flood(Vec<u8>, u32);
impl NetBackend for Flood {
    fn source(&self) -> io::Result<std::os::fd::OwnedFd> {
        Ok(std::os::unix::net::UnixStream::pair()?.0.into())
    }
    fn peek(&mut self) -> io::Result<Option<&[u8]>> {
        Ok((self.1 > 0).then_some(&self.0))
    }
    fn pump(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn hungry(&self) -> bool {
        false
    }
    fn consume(&mut self) {
        self.1 -= 1;
    }
    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        assert!(!frame.is_empty() && frame.len() <= super::super::net::MAX_FRAME);
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn blocked(&self) -> bool {
        false
    }
}

#[derive(Debug, Clone)]
struct Garbage {
    /// Address, length, flags, next; the first half goes into the ring's table, the rest into memory.
    descs: Vec<(u64, u32, u16, u16)>,
    heads: Vec<(usize, u16)>,
    header: [u8; 16],
    kind: u8,
}

fn garbage() -> impl Strategy<Value = Garbage> {
    let len = prop_oneof![0u32..64, Just(512u32), (1u32..8).prop_map(|n| n * 16), any::<u32>()];
    let desc = (prop_oneof![0u64..0x11_0000, 0x100u64..0x400], len, 0u16..8, 0u16..SIZE);
    (
        prop::collection::vec(desc, 32),
        prop::collection::vec((0usize..2, 0u16..SIZE), 1..40),
        any::<[u8; 16]>(),
        0u8..15,
    )
        .prop_map(|(descs, heads, header, kind)| Garbage { descs, heads, header, kind })
}

fn torment<D: VirtioDevice>(device: D, g: &Garbage) -> Result<(), TestCaseError> {
    let queues = device.queue_sizes().len();
    let mut b = Bench::new(device);
    for features in [0, b.window.offered & !F_VERSION_1] {
        b.start(features);
        b.set_bytes(0, &g.header);
        b.set_bytes(0, &[g.kind, 0, 0, 0]);
        b.set_bytes(8, &[0; 6]);
        for (i, &(addr, len, flags, next)) in g.descs.iter().enumerate() {
            if i < SIZE.into() {
                for q in 0..queues {
                    b.set_desc(q, i as u16, BASE + addr, len, flags, next);
                }
            } else {
                let mut d = (BASE + addr).to_le_bytes().to_vec();
                d.extend(len.to_le_bytes());
                d.extend(flags.to_le_bytes());
                d.extend(next.to_le_bytes());
                b.set_bytes(0x100 + 16 * (i as u64 - u64::from(SIZE)), &d); // fodder for indirect tables
            }
        }
        for &(q, h) in &g.heads {
            b.offer(q % queues, h);
            b.notify(q % queues);
        }
        // Buffers may lie over the rings, so nothing can be said of these.
        prop_assert_eq!(b.needs_reset(), b.handle().fault().is_some());
        b.start(features);
        prop_assert!(!b.needs_reset());
    }
    Ok(())
}
