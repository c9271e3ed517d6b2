//! The card with a backend made of two lists.

use super::*;
use crate::mmio::MmioDevice;
use crate::virtio::testing::{Bench, R, W};
use crate::virtio::{Service, reg};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

#[derive(Default)]
struct Wires {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: Vec<Vec<u8>>,
    blocked: bool,
    dead: bool,
}

#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Wires>>, Vec<u8>);

impl Wire {
    fn alive(&self) -> io::Result<()> {
        if self.0.lock().unwrap().dead { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

impl NetBackend for Wire {
    fn source(&self) -> io::Result<OwnedFd> {
        Ok(UnixStream::pair()?.0.into())
    }
    fn peek(&mut self) -> io::Result<Option<&[u8]>> {
        self.alive()?;
        let Some(f) = self.0.lock().unwrap().to_guest.front().cloned() else { return Ok(None) };
        self.1 = f;
        Ok(Some(&self.1))
    }
    fn pump(&mut self) -> io::Result<()> {
        self.alive()
    }
    fn hungry(&self) -> bool {
        false
    }
    fn consume(&mut self) {
        self.0.lock().unwrap().to_guest.pop_front();
    }
    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.alive()?;
        self.0.lock().unwrap().from_guest.push(frame.to_vec());
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.alive()
    }
    fn blocked(&self) -> bool {
        self.0.lock().unwrap().blocked
    }
}

fn bench(features: u64) -> (Bench<Net<Wire>>, Wire) {
    let wire = Wire::default();
    let mut b = Bench::new(Net::new(wire.clone(), MAC, 1500));
    b.start(features);
    (b, wire)
}

fn arrive(b: &Bench<Net<Wire>>, wire: &Wire, frame: &[u8]) {
    wire.0.lock().unwrap().to_guest.push_back(frame.to_vec());
    b.handle().kick(RX);
}

#[test]
fn configuration_tells_address_link_and_mtu() {
    let (mut b, _) = bench(F_MAC | F_STATUS | F_MTU);
    let mut c = [0; 12];
    b.window.read(0x100, &mut c);
    assert_eq!(c, [2, 0, 0, 0, 0, 7, 1, 0, 1, 0, 0xdc, 5]);
}

#[test]
fn frames_leave_without_their_header() {
    let (mut b, wire) = bench(0);
    b.set_bytes(0, &[0; 12]);
    b.set_bytes(0x1000, b"frame-one");
    b.request(TX, &[(0, 12, R), (0x1000, 9, R)]);
    b.set_bytes(0x2000 + 12, b"two"); // header and frame in one buffer
    b.request(TX, &[(0x2000, 15, R)]);
    assert_eq!(wire.0.lock().unwrap().from_guest, [&b"frame-one"[..], b"two"]);
    assert_eq!(b.used(TX).len(), 2);
}

#[test]
fn odd_transmit_buffers_are_dropped_and_returned() {
    let (mut b, wire) = bench(0);
    b.request(TX, &[(0, 11, R)]);
    b.request(TX, &[(0, 12, R)]);
    b.request(TX, &[(0, 12 + MAX_FRAME as u32 + 1, R)]);
    b.request(TX, &[(0, 12, R), (0xff_ffff, 60, R)]);
    b.request(TX, &[(0, 100, W)]);
    assert_eq!(b.used(TX).len(), 5);
    assert!(wire.0.lock().unwrap().from_guest.is_empty());
    assert!(!b.needs_reset());
}

#[test]
fn frames_arrive_behind_a_header_or_wait() {
    let (mut b, wire) = bench(0);
    arrive(&b, &wire, b"first");
    assert!(b.used(RX).is_empty());
    assert!(!b.handle().with_device(|d| d.interest()).read, "no buffers: do not poll");
    b.request(RX, &[(0, 12, W), (0x1000, 1514, W)]);
    assert_eq!(b.used(RX), [(0, 17)]);
    assert_eq!(b.bytes(0, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(b.bytes(0x1000, 5), b"first");
    assert!(b.handle().with_device(|d| d.interest()).read);
}

#[test]
fn a_frame_that_fits_no_buffer_is_dropped_and_the_buffer_stays() {
    let (mut b, wire) = bench(0);
    b.request(RX, &[(0, 40, W)]);
    arrive(&b, &wire, &[1; 100]);
    assert!(b.used(RX).is_empty());
    arrive(&b, &wire, &[2; 20]);
    assert_eq!(b.used(RX), [(0, 32)]);
    assert_eq!(b.bytes(12, 20), [2; 20]);
}

#[test]
fn mergeable_buffers_hold_large_frames() {
    let (mut b, wire) = bench(F_MRG_RXBUF);
    let frame: Vec<u8> = (0..200).collect();
    b.request(RX, &[(0, 100, W)]);
    arrive(&b, &wire, &frame);
    assert!(b.used(RX).is_empty(), "one is not enough: it waits for more");
    b.request(RX, &[(0x1000, 100, W)]);
    b.request(RX, &[(0x2000, 100, W)]);
    assert_eq!(b.used(RX), [(0, 100), (1, 100), (2, 12)]);
    assert_eq!(b.bytes(10, 2), [3, 0]);
    assert_eq!([b.bytes(12, 88), b.bytes(0x1000, 100), b.bytes(0x2000, 12)].concat(), frame);
}

#[test]
fn a_full_backend_keeps_buffers_in_the_ring() {
    let (mut b, wire) = bench(0);
    wire.0.lock().unwrap().blocked = true;
    b.request(TX, &[(0, 20, R)]);
    assert!(b.used(TX).is_empty());
    assert!(b.handle().with_device(|d| d.interest()).write);
    wire.0.lock().unwrap().blocked = false;
    b.handle().kick(TX);
    assert_eq!(b.used(TX).len(), 1);
}

#[test]
fn a_dead_backend_takes_the_link_down_and_the_guest_goes_on() {
    let (mut b, wire) = bench(F_STATUS);
    wire.0.lock().unwrap().dead = true;
    b.request(TX, &[(0, 20, R)]);
    b.request(TX, &[(0, 20, R)]);
    assert_eq!(b.used(TX).len(), 2, "buffers come back");
    let mut link = [9; 2];
    b.window.read(0x106, &mut link);
    assert_eq!(link, [0, 0]);
    assert_eq!(b.get(reg::INTERRUPT_STATUS) & 2, 2);
    assert_eq!(b.get(reg::CONFIG_GENERATION), 1);
    assert!(b.handle().with_device(Net::take_error).is_some());
    assert_eq!(b.handle().with_device(|d| d.interest()), Interest::default());
}

#[test]
fn stale_frames_are_gone_when_the_driver_starts() {
    let (mut b, wire) = bench(0);
    b.set(reg::STATUS, 0);
    wire.0.lock().unwrap().to_guest.push_back(vec![1; 60]);
    b.start(0);
    b.request(RX, &[(0, 100, W)]);
    assert!(b.used(RX).is_empty());
}

/// A backend over a real socket, so that the worker has something to poll: a byte is a frame.
struct Socket(UnixStream, Option<[u8; 1]>);
impl NetBackend for Socket {
    fn source(&self) -> io::Result<OwnedFd> {
        Ok(self.0.try_clone()?.into())
    }
    fn peek(&mut self) -> io::Result<Option<&[u8]>> {
        if self.1.is_none() {
            let mut byte = [0];
            match self.0.read(&mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => self.1 = Some(byte),
                Err(_) => {}
            }
        }
        Ok(self.1.as_ref().map(|b| &b[..]))
    }
    fn pump(&mut self) -> io::Result<()> {
        self.peek().map(drop)
    }
    fn hungry(&self) -> bool {
        self.1.is_none()
    }
    fn consume(&mut self) {
        self.1 = None;
    }
    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.write_all(frame)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn blocked(&self) -> bool {
        false
    }
}

#[test]
fn the_worker_hears_the_socket() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut b = Bench::with_service(Net::new(Socket(ours, None), MAC, 1500), Service::Worker);
    b.start(1 << 29);
    b.request(RX, &[(0, 100, W)]);
    std::thread::sleep(Duration::from_millis(10)); // the worker waits in poll now
    let wait = |b: &Bench<Net<Socket>>, n: u16| {
        let start = Instant::now();
        while b.used_idx(RX) != n {
            assert!(start.elapsed() < Duration::from_secs(10), "frame {n} is lost");
            std::thread::yield_now();
        }
    };
    theirs.write_all(b"a").unwrap();
    wait(&b, 1);
    theirs.write_all(b"bc").unwrap(); // no buffers: they wait in the socket
    std::thread::sleep(Duration::from_millis(10));
    b.request(RX, &[(0x100, 100, W)]);
    b.request(RX, &[(0x200, 100, W)]);
    wait(&b, 3);
    assert_eq!((b.bytes(0x100 + 12, 1), b.bytes(0x200 + 12, 1)), (b"b".to_vec(), b"c".to_vec()));
    drop(theirs);
    let start = Instant::now();
    while b.get(reg::INTERRUPT_STATUS) & 2 == 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "the end is not noticed");
        std::thread::yield_now();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Frames and buffers in any order: no frame is reordered, damaged or made up.
    #[test]
    fn received_frames_are_a_subsequence_of_those_sent(
        ops in prop::collection::vec((any::<bool>(), 1u32..300), 1..100),
        mergeable in any::<bool>(),
    ) {
        let (mut b, wire) = bench(if mergeable { F_MRG_RXBUF } else { 0 });
        let (mut sent, mut got) = (VecDeque::new(), Vec::new());
        let (mut seen, mut buffers) = (0u16, 0u64);
        let mut partial: (usize, Vec<u8>) = (0, Vec::new());
        for (k, (frame, len)) in ops.into_iter().enumerate() {
            if frame {
                let f = vec![k as u8; len as usize];
                sent.push_back(f.clone());
                arrive(&b, &wire, &f);
            } else if buffers - u64::from(seen) < 16 {
                b.request(RX, &[((buffers % 16) * 0x200, len, W)]);
                buffers += 1;
            }
            while seen != b.used_idx(RX) {
                let (id, n) = b.used(RX)[usize::from(seen)];
                prop_assert_eq!(u64::from(id), u64::from(seen % 16), "buffers are used in order");
                let data = b.bytes(u64::from(seen % 16) * 0x200, n as usize);
                if partial.0 == 0 {
                    prop_assert!(data.len() > 12 || mergeable);
                    partial = (0, Vec::new());
                }
                partial.1.extend(data);
                partial.0 += 1;
                seen += 1;
                if partial.1.len() >= 12 {
                    let n = usize::from(u16::from_le_bytes([partial.1[10], partial.1[11]]));
                    if partial.0 == n {
                        got.push(partial.1[12..].to_vec());
                        partial = (0, Vec::new());
                    }
                }
            }
        }
        for f in got {
            let found = std::iter::from_fn(|| sent.pop_front()).any(|s| s == f);
            prop_assert!(found);
        }
        prop_assert!(!b.needs_reset());
    }
}
