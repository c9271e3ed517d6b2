//! The dirty log in both modes, the dirty ring, and that no write is lost.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::*;
use ulna_kvm_abi::structs::ClearDirtyLog;
use ulna_kvm_abi::{Errno, MEM_LOG_DIRTY_PAGES, RegId, cap};
use ulna_kvm_core::{ClockKind, DirtyRing, Run, Vcpu, Vm};

const EXTRA: u64 = 0x8000_0000;

/// Stores x1 to [x0] and reports, again and again.
fn writer() -> Vec<u32> {
    [vec![str_x(1, 0)], done(31), vec![b(-6)]].concat()
}

fn write_at(v: &mut Vcpu, at: u64) {
    set(v, RegId::x(0), at);
    set(v, RegId::x(1), at);
    result(v);
}

fn slot(vm: &Vm, id: u32, at: u64, flags: u32, m: &Arc<Memory>) {
    // SAFETY: the memory is leaked and only accessed through its pointer.
    unsafe { vm.set_user_memory_region(id, at, m.len as u64, m.host(), flags, m.clone()) }.expect("slot");
}

fn logged(pages: usize, caps: &[(u32, u64)]) -> (Guest, Arc<Memory>) {
    let vm = kvm("n1", ClockKind::Host).create_vm(0).expect("VM");
    for (n, arg) in caps {
        vm.enable_cap(*n, 0, [*arg, 0, 0, 0]).expect("capability");
    }
    let memory = Memory::new(RAM_LEN);
    add_slot(&vm, 0, RAM, &memory);
    memory.program(0, &writer());
    let extra = Memory::new(pages * 0x1000);
    slot(&vm, 1, EXTRA, MEM_LOG_DIRTY_PAGES, &extra);
    (Guest { vm, memory }, extra)
}

fn clear(vm: &Vm, slot: u32, first_page: u64, num_pages: u32, bits: &[u64]) -> Result<(), Errno> {
    let c = ClearDirtyLog { slot, num_pages, first_page, dirty_bitmap: 0 };
    vm.clear_dirty_log(&c, |words| Ok(bits.iter().copied().chain([0; 8]).take(words).collect()))
}

#[test]
fn a_log_is_taken_and_starts_again() {
    let (g, _extra) = logged(70, &[]);
    let mut v = g.vcpu(0, PSCI);
    for page in [0, 3, 69] {
        write_at(&mut v, EXTRA + page * 0x1000 + 8);
    }
    assert_eq!(g.vm.get_dirty_log(1), Ok(vec![0b1001, 1 << 5]));
    assert_eq!(g.vm.get_dirty_log(1), Ok(vec![0, 0]));
    write_at(&mut v, EXTRA + 0x3010);
    assert_eq!(g.vm.get_dirty_log(1), Ok(vec![0b1000, 0]), "the page that was in the TLB");
    for (slot, e) in
        [(0, Errno::ENOENT), (2, Errno::ENOENT), (32767, Errno::EINVAL), (1 << 16, Errno::EINVAL)]
    {
        assert_eq!(g.vm.get_dirty_log(slot), Err(e), "{slot}");
        assert_eq!(clear(&g.vm, slot, 0, 0, &[]), Err(e), "{slot}");
    }
    assert_eq!(g.vm.reset_dirty_rings(), Err(Errno::EINVAL), "there are none");
}

#[test]
fn with_manual_protect_only_clearing_clears() {
    let manual = cap::MANUAL_DIRTY_LOG_PROTECT2;
    let (g, _extra) = logged(200, &[(manual, 1)]);
    for bad in [2, 4, 5, 8] {
        assert_eq!(g.vm.enable_cap(manual, 0, [bad, 0, 0, 0]), Err(Errno::EINVAL), "{bad}");
    }
    assert_eq!(g.vm.enable_cap(manual, 1, [1, 0, 0, 0]), Err(Errno::EINVAL));
    let mut v = g.vcpu(0, PSCI);
    for page in [1, 65, 130, 199] {
        write_at(&mut v, EXTRA + page * 0x1000);
    }
    let all = vec![2, 2, 4, 1 << 7];
    assert_eq!(g.vm.get_dirty_log(1), Ok(all.clone()));
    assert_eq!(g.vm.get_dirty_log(1), Ok(all.clone()));
    for (first, n) in [(1, 64), (64, 65), (64, 137), (256, 0), (192, 9), (0, 63)] {
        assert_eq!(clear(&g.vm, 1, first, n, &[u64::MAX; 4]), Err(Errno::EINVAL), "{first}+{n}");
    }
    assert_eq!(g.vm.get_dirty_log(1), Ok(all));
    assert_eq!(clear(&g.vm, 1, 64, 64, &[u64::MAX]), Ok(()));
    assert_eq!(clear(&g.vm, 1, 128, 72, &[0, u64::MAX]), Ok(()), "up to the end");
    assert_eq!(clear(&g.vm, 1, 0, 64, &[1]), Ok(()), "only what is named");
    assert_eq!(g.vm.get_dirty_log(1), Ok(vec![2, 0, 4, 0]));
    write_at(&mut v, EXTRA + 199 * 0x1000 + 0x18);
    assert_eq!(g.vm.get_dirty_log(1), Ok(vec![2, 0, 4, 1 << 7]));

    g.vm.enable_cap(manual, 0, [3, 0, 0, 0]).expect("initially set");
    g.vm.change_memory_region(1, EXTRA, 0).expect("off");
    g.vm.change_memory_region(1, EXTRA, MEM_LOG_DIRTY_PAGES).expect("on");
    assert_eq!(g.vm.get_dirty_log(1), Ok(vec![u64::MAX, u64::MAX, u64::MAX, 0xff]));
}

/// The next entries that the ring holds, which are handed back.
fn harvest(r: &DirtyRing, next: &mut usize) -> Vec<(u32, u64)> {
    let entries = r.pages().bytes() / 16;
    let mut out = Vec::new();
    loop {
        let at = r.pages().as_ptr().wrapping_add(*next % entries * 16);
        // SAFETY: inside the ring, aligned; only accessed atomically while it is shared.
        let flags = unsafe { AtomicU32::from_ptr(at.cast()) };
        if flags.load(Ordering::Acquire) != 1 {
            return out;
        }
        // SAFETY: as above.
        out.push(unsafe {
            (at.add(4).cast::<u32>().read_volatile(), at.add(8).cast::<u64>().read_volatile())
        });
        flags.store(2, Ordering::Release);
        *next += 1;
    }
}

#[test]
fn a_ring_is_set_up_in_order() {
    let ring = cap::DIRTY_LOG_RING_ACQ_REL;
    let vm = kvm("n1", ClockKind::Insn).create_vm(0).expect("VM");
    let enable = |n, bytes| vm.enable_cap(n, 0, [bytes, 0, 0, 0]);
    assert_eq!(vm.check_extension(ring), Ok(0x10_0000));
    assert_eq!(enable(cap::DIRTY_LOG_RING_WITH_BITMAP, 0), Err(Errno::EINVAL), "no ring");
    for (bytes, e) in
        [(0, Errno::EINVAL), (0x800, Errno::EINVAL), (0x1800, Errno::EINVAL), (1 << 21, Errno::E2BIG)]
    {
        assert_eq!(enable(ring, bytes), Err(e), "{bytes:#x}");
    }
    assert_eq!(enable(cap::DIRTY_LOG_RING, 0x1000), Err(Errno::EINVAL));
    assert_eq!(enable(ring, 0x1000), Ok(()));
    assert_eq!(enable(ring, 0x1000), Err(Errno::EINVAL), "once");
    let m = Memory::new(0x1000);
    slot(&vm, 0, RAM, MEM_LOG_DIRTY_PAGES, &m);
    assert_eq!(enable(cap::DIRTY_LOG_RING_WITH_BITMAP, 0), Err(Errno::EINVAL), "there is a slot");
    assert_eq!((vm.get_dirty_log(0), clear(&vm, 0, 0, 0, &[])), (Err(Errno::ENXIO), Err(Errno::ENXIO)));
    let late = Guest::new("n1", ClockKind::Insn);
    let _vcpu = late.vcpu(0, PSCI);
    assert_eq!(late.vm.enable_cap(ring, 0, [0x1000, 0, 0, 0]), Err(Errno::EINVAL), "there is a vCPU");
}

#[test]
fn a_full_ring_stops_its_vcpu_until_it_is_reset() {
    let (g, _extra) =
        logged(512, &[(cap::DIRTY_LOG_RING_ACQ_REL, 0x1000), (cap::DIRTY_LOG_RING_WITH_BITMAP, 0)]);
    // loop: str x1, [x0]; add x0, x0, #1, lsl #12; b loop
    g.memory.program(0x100, &[str_x(1, 0), 0x9140_0400, b(-2)]);
    let mut v = g.vcpu(0, PSCI);
    set(&mut v, RegId::x(0), EXTRA);
    set(&mut v, RegId::PC, RAM + 0x100);
    for _ in 0..3 {
        assert!(matches!(v.run(), Ok(Run::DirtyRingFull)));
    }
    let ring = v.dirty_ring().expect("ring").clone();
    let mut next = 0;
    let mut seen = harvest(&ring, &mut next);
    assert!((192..256).contains(&seen.len()), "{}", seen.len());
    assert!(matches!(v.run(), Ok(Run::DirtyRingFull)), "harvested is not reset");
    assert_eq!(g.vm.reset_dirty_rings(), Ok(seen.len() as u32));
    assert_eq!(g.vm.reset_dirty_rings(), Ok(0));
    let wrote = |v: &mut Vcpu| (get(v, RegId::x(0)) - EXTRA) / 0x1000;
    assert_eq!(wrote(&mut v), seen.len() as u64);
    loop {
        match v.run() {
            Ok(Run::DirtyRingFull) => {
                let new = harvest(&ring, &mut next);
                assert_eq!(g.vm.reset_dirty_rings(), Ok(new.len() as u32));
                seen.extend(new);
            }
            Ok(Run::MmioWrite(at, _)) => break assert_eq!(at, EXTRA + 512 * 0x1000, "past the slot"),
            other => panic!("{other:x?}"),
        }
    }
    seen.extend(harvest(&ring, &mut next));
    assert_eq!(seen, (0..512).map(|p| (1, p)).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(g.vm.get_dirty_log(1), Ok(vec![0; 8]), "a vCPU's writes are in its ring alone");
}

/// A guest that writes a counter to pseudo-random pages of the slot: x0 slot, x1 mask of the page, x2 counter,
/// x3 state, x4 multiplier.
fn scribbler() -> Vec<u32> {
    vec![
        0x9b04_7c63, // mul x3, x3, x4
        0x9100_0463, // add x3, x3, #1
        0xd360_fc65, // lsr x5, x3, #32
        0x8a01_00a5, // and x5, x5, x1
        0x8b05_0005, // add x5, x0, x5
        0x9100_0442, // add x2, x2, #1
        str_x(2, 5),
        b(-7),
    ]
}

fn start(v: &mut Vcpu, seed: u64, pages: u64) {
    let regs = [(0, EXTRA + 8 * seed), (1, (pages - 1) << 12), (2, 0), (3, seed), (4, 0x5851_f42d_4c95_7f2d)];
    for (n, x) in regs {
        set(v, RegId::x(n), x);
    }
    set(v, RegId::PC, RAM + 0x100);
}

/// Copies of pages as whoever migrates has them: what is reported is copied again, and nothing else may differ at the end.
fn copy(m: &Memory, copies: &mut [Vec<u64>], page: usize) {
    let at = m.host().wrapping_add(page * 0x1000).cast::<u64>();
    for (n, w) in copies[page].iter_mut().enumerate() {
        // SAFETY: inside the memory.
        *w = unsafe { at.add(n).read_volatile() };
    }
}

fn stress(manual: u64, seconds: f64) {
    const PAGES: usize = 256;
    let (g, extra) = logged(PAGES, &[(cap::MANUAL_DIRTY_LOG_PROTECT2, manual)]);
    g.memory.program(0x100, &scribbler());
    let stop = Arc::new(AtomicBool::new(false));
    let mut kickers = Vec::new();
    let threads: Vec<_> = (0..2)
        .map(|n| {
            let mut v = g.vcpu(n, PSCI);
            start(&mut v, u64::from(n) + 1, PAGES as u64);
            kickers.push(v.kicker());
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    assert!(matches!(v.run(), Ok(Run::Intr)));
                }
                v.instructions()
            })
        })
        .collect();
    let mut copies = vec![vec![0u64; 512]; PAGES];
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut rounds = 0;
    let mut round = |copies: &mut [Vec<u64>]| {
        let bits = g.vm.get_dirty_log(1).expect("log");
        if manual != 0 {
            assert_eq!(clear(&g.vm, 1, 0, PAGES as u32, &bits), Ok(()));
        }
        for page in 0..PAGES {
            if bits[page / 64] >> (page % 64) & 1 != 0 {
                copy(&extra, copies, page);
            }
        }
        rounds += 1;
    };
    while Instant::now() < end {
        round(&mut copies);
    }
    stop.store(true, Ordering::SeqCst);
    kickers.iter().for_each(|k| k());
    let executed: u64 = threads.into_iter().map(|t| t.join().expect("vCPU")).sum();
    round(&mut copies);
    let lost = (0..PAGES).filter(|&p| {
        let old = copies[p].clone();
        let mut now = vec![old.clone(); PAGES];
        copy(&extra, &mut now, p);
        now[p] != old
    });
    assert_eq!(lost.collect::<Vec<_>>(), Vec::<usize>::new(), "pages that changed unreported");
    assert!(rounds > 2 && executed > 10_000, "{rounds} rounds, {executed} instructions");
    assert!(copies.iter().all(|c| c[1] != 0 && c[2] != 0), "both wrote everywhere");
}

#[test]
fn no_page_is_lost_while_the_log_is_harvested() {
    stress(0, 0.7);
    stress(3, 0.7);
}

#[test]
fn no_page_is_lost_while_rings_are_harvested() {
    const PAGES: usize = 1024;
    let (g, extra) = logged(PAGES, &[(cap::DIRTY_LOG_RING_ACQ_REL, 0x1000)]);
    g.memory.program(0x100, &scribbler());
    let (stop, vm) = (Arc::new(AtomicBool::new(false)), g.vm.clone());
    let (mut kickers, mut rings) = (Vec::new(), Vec::new());
    let threads: Vec<_> = (0..2)
        .map(|n| {
            let mut v = g.vcpu(n, PSCI);
            start(&mut v, u64::from(n) + 1, PAGES as u64);
            kickers.push(v.kicker());
            rings.push((v.dirty_ring().expect("ring").clone(), 0));
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut full = 0;
                while !stop.load(Ordering::SeqCst) {
                    match v.run() {
                        Ok(Run::Intr) => {}
                        Ok(Run::DirtyRingFull) => {
                            full += 1;
                            std::thread::yield_now();
                        }
                        other => panic!("{other:x?}"),
                    }
                }
                full
            })
        })
        .collect();
    let mut copies = vec![vec![0u64; 512]; PAGES];
    let mut round = |copies: &mut [Vec<u64>]| {
        let mut pages = Vec::new();
        for (ring, next) in &mut rings {
            pages.extend(harvest(ring, next));
        }
        assert_eq!(vm.reset_dirty_rings(), Ok(pages.len() as u32));
        for (slot, page) in &pages {
            assert_eq!(*slot, 1);
            copy(&extra, copies, *page as usize);
        }
        pages.len()
    };
    let (end, mut total) = (Instant::now() + Duration::from_secs_f64(0.7), 0);
    while Instant::now() < end {
        total += round(&mut copies);
    }
    stop.store(true, Ordering::SeqCst);
    kickers.iter().for_each(|k| k());
    let full: u32 = threads.into_iter().map(|t| t.join().expect("vCPU")).sum();
    // What did not fit waits for a reset.
    while round(&mut copies) != 0 {}
    let mut now = copies.clone();
    let lost = (0..PAGES).filter(|&p| {
        copy(&extra, &mut now, p);
        now[p] != copies[p]
    });
    assert_eq!(lost.collect::<Vec<_>>(), Vec::<usize>::new(), "pages that changed unreported");
    assert!(total > 1000 && full > 0, "{total} entries, full {full} times");
}
