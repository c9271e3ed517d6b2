//! Guests that want to do harm: nonsense in every register of the interrupt controller, every system register encoding,
//! random words on two vCPUs at once. Nothing panics, a kick always comes through, memory outside the slots is whole.

mod common;

use std::time::{Duration, Instant};

use common::*;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::{Errno, RegId, device};
use ulna_kvm_core::{ClockKind, Run, Vcpu};

/// A kick comes every few milliseconds: no run may last much longer, whatever one store makes the hypervisor do. The
/// limit is for builds without optimisation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(4);

/// Answers whatever the guest does; counts the passes. Comes back after a kick when `until` has passed, or at the result.
fn endure(v: &mut Vcpu, until: Instant) -> u64 {
    let mut passes = 0;
    loop {
        passes += 1;
        let begin = Instant::now();
        let exit = v.run();
        assert!(begin.elapsed() < PATIENCE, "a run of {:?}", begin.elapsed());
        match exit {
            Ok(Run::MmioWrite(DONE, _)) => return passes,
            Ok(Run::MmioRead(_, data)) => data.fill(0x5a),
            Ok(Run::Intr) if Instant::now() >= until => return passes,
            Ok(Run::SystemEvent(..)) | Err(_) => return passes,
            Ok(_) => {}
        }
    }
}

/// A guest that goes through a table of (address, value) and stores with `store` or loads with `load`.
fn table_program(table: u64, access: u32) -> Vec<u32> {
    // ldp x1, x2, [x0], #16; cbz x1, done; access [x1]; b loop
    [&li(0, table)[..], &[0xa8c1_0801, cbz(1, 3), access, b(-3)], &done(31)].concat()
}

#[test]
fn nonsense_in_every_register_of_the_gic_and_the_its() {
    const TABLE: usize = 0x10_0000;
    const ENTRIES: usize = 3000;
    for round in 0..4u64 {
        let g = Guest::new("n1", ClockKind::Host);
        let mut vcpus = [g.vcpu(0, PSCI), g.vcpu(1, PSCI)];
        let _gic = g.gic();
        // strb, strh, str w, str x of x2; and loads to x3
        let accesses = [
            0x3900_0022u32,
            0x7900_0022,
            0xb900_0022,
            0xf900_0022,
            0xb900_0022,
            0xf900_0022,
            0xb940_0023,
            0xf940_0023,
        ];
        for n in 0..2u64 {
            let mut r = Rng(round * 2 + n);
            let table = TABLE + 0x8_0000 * n as usize;
            for i in 0..ENTRIES {
                let frames = [(GICD, 0x1_0000), (GICR, 0x4_0000), (ITS, 0x2_0000), (ITS, 0x1000)];
                let (base, len) = frames[r.below(4) as usize];
                // Mostly registers that exist, at the start of each 64 KiB.
                let offset = match r.below(4) {
                    0 => r.below(len),
                    _ => r.below(len) & !0xffff | r.below(0x1000) & !7,
                };
                let value = match r.below(5) {
                    0 => u64::MAX,
                    1 => r.below(16),
                    // Tables and queues in RAM, valid.
                    2 | 3 => 1 << 63 | RAM | r.below(0x40) << 12 | r.below(256) | r.below(8) << 56,
                    _ => r.next(),
                };
                g.memory.write64(table + 16 * i, base + offset);
                g.memory.write64(table + 16 * i + 8, value);
            }
            g.memory.write64(table + 16 * ENTRIES, 0);
            let access = accesses[((round + n * 3) % 8) as usize];
            g.memory.program(0x1000 * n as usize, &table_program(RAM + table as u64, access));
            set(&mut vcpus[n as usize], RegId::PC, RAM + 0x1000 * n);
        }
        // Commands of any kind where queues may stand.
        let mut r = Rng(round);
        for i in 0..0x4_0000 / 8 {
            let v = if i % 4 == 0 { r.below(16) | r.next() << 32 } else { r.next() };
            g.memory.write64(0x4_0000 + 8 * i, v);
        }
        let begin = Instant::now();
        let kicks: Vec<_> = vcpus.iter().map(|v| v.kicker()).collect();
        let _dog = Watchdog::new(Duration::from_millis(5), move || kicks.iter().for_each(|k| k()));
        let until = begin + Duration::from_secs(2);
        let threads = vcpus.map(|mut v| std::thread::spawn(move || endure(&mut v, until)));
        for t in threads {
            t.join().expect("no panic");
        }
        println!("round {round}: {:?}", begin.elapsed());
        // Interrupts still find their way in without harm.
        for irq in 0..64 {
            let _ = g.vm.irq_line(device::irq_type::SPI << 24 | (32 + irq), irq % 2 == 0);
            let _ = g.vm.signal_msi(ITS + 0x1_0040, irq, irq);
        }
        assert!(g.memory.guards_are_whole());
    }
}

#[test]
fn every_system_register_encoding_is_read_and_written() {
    let g = Guest::new("n1", ClockKind::Host);
    let mut v = g.vcpu(0, PSCI);
    let _gic = g.gic();
    // All of op0 2 and 3 as MRS and MSR, op0 0 and 1 as SYS, SYSL and MSR (immediate): each followed by the result.
    let words: Vec<u32> = (0..1u32 << 17).map(|n| 0xd500_0000 | n << 5 | 1).collect();
    const AT: usize = 0x10_0000;
    for (n, w) in words.iter().enumerate() {
        g.memory.write32(AT + 8 * n, *w);
        g.memory.write32(AT + 8 * n + 4, str_x(1, 4));
    }
    for vector in 0..16 {
        g.memory.write32(0x8000 + 0x80 * vector, str_x(1, 4));
    }
    let kick = v.kicker();
    let _dog = Watchdog::new(Duration::from_millis(3), kick);
    let mut r = Rng(7);
    let (mut taken, mut stuck) = (0, 0);
    let mut spoilt = true;
    for (n, w) in words.iter().enumerate() {
        if spoilt {
            v.init(&features(PSCI)).expect("init");
            set(&mut v, RegId::sysreg(SysReg::VBAR_EL1.code()), RAM + 0x8000);
        }
        // What was written to a register that exists, and PSTATE, must not disturb what follows.
        let code = (w >> 5) as u16;
        spoilt = n % 64 == 0 || w >> 21 & 1 == 0 && (SysReg::from_code(code).is_some() || w >> 19 & 3 == 0);
        set(&mut v, RegId::PC, RAM + (AT + 8 * n) as u64);
        set(&mut v, RegId::x(4), DONE);
        let value = match r.below(3) {
            0 => u64::MAX,
            1 => r.next(),
            _ => RAM,
        };
        set(&mut v, RegId::x(1), value);
        let mut kicks = 0;
        loop {
            match v.run() {
                Ok(Run::MmioWrite(..)) => break taken += 1,
                Ok(Run::MmioRead(_, data)) => data.fill(0),
                // Translation is on, or the like: the rest of the guest is out of reach.
                Ok(Run::Intr) if kicks == 2 => break stuck += 1,
                Ok(Run::Intr) => kicks += 1,
                Ok(_) => break stuck += 1,
                Err(e) if e == Errno::ENOSYS => break stuck += 1,
                Err(e) => panic!("{w:#x}: {e}"),
            }
        }
    }
    println!("{taken} came to their end, {stuck} did not");
    assert!(stuck < 200 && taken > 130_000, "{stuck} {taken}");
    assert!(g.memory.guards_are_whole());
}

#[test]
fn random_words_on_two_vcpus_at_once() {
    let g = Guest::new("n1", ClockKind::Host);
    let mut r = Rng(11);
    let vcpus = [g.vcpu(0, PSCI), g.vcpu(1, PSCI)];
    let _gic = g.gic();
    let all: Vec<_> = vcpus.iter().map(|v| v.kicker()).collect();
    let _dog = Watchdog::new(Duration::from_millis(2), move || all.iter().for_each(|k| k()));
    for i in 0..0x2_0000 / 4 {
        let bits = r.next() as u32;
        let word = match r.below(6) {
            0 => bits,
            1 => 0xd500_0000 | bits & 0x3f_ffff,
            2 => msr(SysReg::ALL[r.below(SysReg::COUNT as u64) as usize], bits & 31),
            _ => bits & !(1 << 25) | 1 << 27, // loads and stores
        };
        g.memory.write32(4 * i, word);
    }
    let until = Instant::now() + Duration::from_secs(3);
    let threads = vcpus.map(|mut v| {
        let mut r = Rng(v.instructions() + 23);
        std::thread::spawn(move || {
            let mut passes = 0;
            while Instant::now() < until {
                v.init(&features(PSCI)).expect("init");
                for n in 0..31 {
                    let near =
                        [RAM, RAM + 0x2_0000, RAM + RAM_LEN as u64, GICD, GICR, ITS, 0][r.below(7) as usize];
                    set(&mut v, RegId::x(n), near + (r.below(0x2_0000) & !7));
                }
                set(&mut v, RegId::PC, RAM + (r.below(0x2_0000) & !3));
                set(&mut v, RegId::sysreg(SysReg::VBAR_EL1.code()), RAM + (r.below(0x2_0000) & !0x7ff));
                passes += endure(&mut v, Instant::now());
            }
            (passes, v.instructions())
        })
    });
    // Meanwhile slots come and go: each time every vCPU is waited for.
    const EXTRA: u64 = RAM + RAM_LEN as u64;
    let extra = Memory::new(0x2_0000);
    let mut changes = 0;
    while Instant::now() < until {
        add_slot(&g.vm, 1, EXTRA, &extra);
        let begin = Instant::now();
        g.vm.delete_memory_region(1).expect("delete");
        assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
        changes += 1;
    }
    assert!(changes > 20, "{changes}");
    assert!(extra.guards_are_whole());
    for t in threads {
        let (passes, instructions) = t.join().expect("no panic");
        println!("{passes} passes, {instructions} instructions");
        assert!(passes > 100 && instructions > 1000, "{passes} {instructions}");
    }
    assert!(g.memory.guards_are_whole());
}
