//! The parts with a lock around each, as a VMM with a thread per vCPU uses them: acknowledge and
//! end-of-interrupt take the vCPU's own lock, the distributor's is taken before any of those.

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::affinities;
use ulna_vgic::bank::By;
use ulna_vgic::dist::Distributor;
use ulna_vgic::redist::{Redistributor, Redists};
use ulna_vgic::{GicConfig, IccReg, Version};

const VCPUS: usize = 4;
const SPIS: u32 = 16;
const ROUNDS: usize = 400;

struct Parts {
    dist: Mutex<Distributor>,
    redists: Vec<Mutex<Redistributor>>,
}

/// A view of the redistributors that locks them one at a time.
struct Locked<'a>(&'a [Mutex<Redistributor>]);

impl Redists for Locked<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn with<T>(&mut self, vcpu: usize, f: impl FnOnce(&mut Redistributor) -> T) -> Option<T> {
        Some(f(&mut self.0.get(vcpu)?.lock().unwrap()))
    }
}

impl Parts {
    fn redists(&self) -> Locked<'_> {
        Locked(&self.redists)
    }

    fn mrs(&self, vcpu: usize, reg: IccReg) -> u64 {
        self.redists[vcpu].lock().unwrap().icc_read(reg)
    }

    fn msr(&self, vcpu: usize, reg: IccReg, value: u64) {
        let messages = {
            let mut redist = self.redists[vcpu].lock().unwrap();
            redist.icc_write(reg, value);
            redist.take_messages()
        };
        if !messages.is_empty() {
            let mut dist = self.dist.lock().unwrap();
            for message in messages {
                assert_eq!(dist.handle(message, &mut self.redists()), None);
            }
        }
    }

    fn gicd(&self, offset: u64, size: usize, value: u64) {
        let mut dist = self.dist.lock().unwrap();
        dist.write(offset, size, 0, value, By::Guest(0), &mut self.redists()).unwrap();
    }
}

/// Edges from two senders while a third thread reroutes; every vCPU takes what it finds. At the end
/// each edge-triggered SPI was taken at least once, never more often than it was raised, and
/// nothing is left pending or active.
#[test]
fn nothing_is_lost_and_nothing_is_taken_twice() {
    let config = GicConfig::new(Version::V3, affinities(VCPUS), 64);
    let parts = Parts {
        dist: Mutex::new(Distributor::new(&config)),
        redists: (0..VCPUS).map(|i| Mutex::new(Redistributor::new(&config, i))).collect(),
    };
    parts.gicd(0, 4, 2);
    parts.gicd(0x104, 4, 0xffff_ffff);
    for vcpu in 0..VCPUS {
        parts.msr(vcpu, IccReg::Pmr, 0xf8);
        parts.msr(vcpu, IccReg::Igrpen1, 1);
    }
    let raised: Vec<AtomicUsize> = (0..SPIS).map(|_| AtomicUsize::new(0)).collect();
    let taken: Vec<AtomicUsize> = (0..SPIS).map(|_| AtomicUsize::new(0)).collect();
    let (sgis_sent, sgis_taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let busy = AtomicUsize::new(3);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                for round in 0..ROUNDS {
                    let n = round as u32 % SPIS;
                    raised[n as usize].fetch_add(1, Ordering::SeqCst);
                    parts.dist.lock().unwrap().set_line(32 + n, true, &mut parts.redists()).unwrap();
                    if round % 8 == 0 {
                        sgis_sent.fetch_add(1, Ordering::SeqCst);
                        parts.msr(0, IccReg::Sgi1r, 3 << 24 | 0b1110);
                    }
                    std::thread::yield_now();
                }
                busy.fetch_sub(1, Ordering::SeqCst);
            });
        }
        s.spawn(|| {
            for round in 0..ROUNDS as u64 {
                parts.gicd(0x6000 + (32 + round % u64::from(SPIS)) * 8, 8, round % VCPUS as u64);
                std::thread::yield_now();
            }
            busy.fetch_sub(1, Ordering::SeqCst);
        });
        for vcpu in 0..VCPUS {
            let (parts, taken, busy, sgis_taken) = (&parts, &taken, &busy, &sgis_taken);
            s.spawn(move || {
                loop {
                    let done = busy.load(Ordering::SeqCst) == 0;
                    let intid = parts.mrs(vcpu, IccReg::Iar1);
                    match intid {
                        1023 if done => break,
                        1023 => std::thread::yield_now(),
                        3 => drop(sgis_taken.fetch_add(1, Ordering::SeqCst)),
                        _ => drop(taken[intid as usize - 32].fetch_add(1, Ordering::SeqCst)),
                    }
                    if intid != 1023 {
                        parts.msr(vcpu, IccReg::Eoir1, intid);
                    }
                }
            });
        }
    });
    // What was rerouted to a vCPU after it had finished.
    for vcpu in (0..VCPUS).cycle().take(2 * VCPUS) {
        loop {
            let intid = parts.mrs(vcpu, IccReg::Iar1);
            if intid == 1023 {
                break;
            }
            if intid >= 32 {
                taken[intid as usize - 32].fetch_add(1, Ordering::SeqCst);
            }
            parts.msr(vcpu, IccReg::Eoir1, intid);
        }
    }
    for n in 0..SPIS as usize {
        let (raised, taken) = (raised[n].load(Ordering::SeqCst), taken[n].load(Ordering::SeqCst));
        assert!((1..=raised).contains(&taken), "SPI {n}: raised {raised}, taken {taken}");
    }
    assert!(sgis_taken.into_inner() <= 3 * sgis_sent.into_inner());
    let dist = parts.dist.lock().unwrap();
    for offset in [0x204, 0x304] {
        assert_eq!(dist.read(offset, 4, 0, By::Guest(0), &mut parts.redists()), 0);
    }
}
