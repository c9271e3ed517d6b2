//! Guests that do anything at all: random words in bulk, at EL1 and EL0, with random translation tables, control
//! registers, pointers and interrupts. Nothing may panic (overflow checks are on in this profile), hang past a kick, or
//! touch memory outside the slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::decode::LINES;
use ulna_arm_cpu::mem::{PhysMap, Slot};
use ulna_arm_cpu::shared::{Request, VmShared};
use ulna_arm_cpu::{Cpu, CpuConfig, CpuLines, Exit, FeatSet, SysReg};

/// SplitMix64: every run of the test is the same.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

struct Icount;
impl Clock for Icount {
    fn counter(&self, icount: u64) -> u64 {
        icount
    }
}

const GUARD: usize = 0x1_0000;
const RAM: u64 = 0x4000_0000;
const RAM_LEN: usize = 0x20_0000;
const ROM: u64 = 0x1000_0000;
const ROM_LEN: usize = 0x1_0000;
const CANARY: u8 = 0xa5;
/// Code stands in the first pages, translation tables behind it.
const CODE_LEN: usize = 0x8000;
/// Vectors whose entries are HVC, so that most exceptions come back at once.
const VECTORS: u64 = RAM + 0x8000;
const HVC: u32 = 0xd400_0002;
const TABLES: u64 = RAM + 0x4_0000;
const TABLES_LEN: usize = 0x1_0000;

/// RAM and ROM with guards around each. Only accessed through the pointer.
struct Memory {
    base: *mut u8,
}

impl Memory {
    const LEN: usize = GUARD + RAM_LEN + GUARD + ROM_LEN + GUARD;

    fn new() -> Memory {
        let layout = std::alloc::Layout::from_size_align(Self::LEN, 0x1000).expect("layout");
        // SAFETY: the size is not zero. Leaked: the slots say they live for ever.
        let base = unsafe { std::alloc::alloc(layout) };
        // SAFETY: the whole allocation.
        unsafe { base.write_bytes(CANARY, Self::LEN) };
        Memory { base }
    }
    fn ram(&self) -> *mut u8 {
        self.base.wrapping_add(GUARD)
    }
    fn rom(&self) -> *mut u8 {
        self.base.wrapping_add(GUARD + RAM_LEN + GUARD)
    }
    fn put64(&self, ipa: u64, v: u64) {
        let at = (ipa - RAM) as usize;
        assert!(at + 8 <= RAM_LEN);
        // SAFETY: inside RAM; no guest runs while the test writes.
        unsafe { self.ram().add(at).cast::<u64>().write_volatile(v) };
    }
    fn guards_are_whole(&self) -> bool {
        let ro_and_guards = [(0, GUARD), (GUARD + RAM_LEN, GUARD + ROM_LEN + GUARD)];
        ro_and_guards.iter().all(|&(from, len)| {
            // SAFETY: inside the allocation; no guest runs.
            (from..from + len).all(|i| unsafe { self.base.add(i).read_volatile() } == CANARY)
        })
    }
}

fn word(r: &mut Rng) -> u32 {
    let bits = r.next() as u32;
    match r.below(100) {
        0..50 => {
            let l = &LINES[r.below(LINES.len() as u64) as usize];
            l.value | bits & !l.mask
        }
        50..58 => bits,
        58..68 => 0xd500_0000 | bits & 0x00ff_ffff,
        68..82 => {
            let reg = SysReg::ALL[r.below(SysReg::COUNT as u64) as usize];
            0xd500_0000 | (bits & 1) << 21 | u32::from(reg.code()) << 5 | bits >> 27
        }
        _ => bits & !(1 << 25) | 1 << 27,
    }
}

/// A value as guests keep it in registers: pointers in and around memory, sizes, anything.
fn value(r: &mut Rng) -> u64 {
    let v = r.next();
    match r.below(12) {
        0..5 => (RAM + v % RAM_LEN as u64) & !(v >> 60 & 7),
        5 => RAM + (v & 0x1f_f000) + 0xff0 + (v >> 50 & 15),
        6 => (RAM + RAM_LEN as u64).wrapping_sub(v % 40),
        7 => ROM + v % ROM_LEN as u64,
        8 => v % 64,
        9 => v | 0xffff_0000_0000_0000,
        10 => u64::MAX - v % 40,
        _ => v,
    }
}

fn descriptor(r: &mut Rng) -> u64 {
    let v = r.next();
    match r.below(8) {
        0 => v,
        1..4 => (TABLES + (v & 0xf000)) | 3,
        _ => {
            // Mostly RAM, with the access flag and random permissions.
            let attributes = v & 0xfff0_0000_0000_0bfc | 0x400;
            (RAM + (v & 0x1f_f000))
                | attributes & 0xffff_0000_0000_0fff
                | if v & 1 << 20 != 0 { 3 } else { 1 }
        }
    }
}

struct World {
    rng: Rng,
    memory: Memory,
    shared: Arc<VmShared>,
    cpu: Cpu,
}

impl World {
    fn new(seed: u64, features: FeatSet) -> World {
        let memory = Memory::new();
        // SAFETY: the memory is leaked and only accessed through pointers.
        let ram = unsafe { Slot::new(0, RAM, RAM_LEN as u64, memory.ram(), false, None, Arc::new(())) };
        // SAFETY: the same.
        let rom = unsafe { Slot::new(1, ROM, ROM_LEN as u64, memory.rom(), true, None, Arc::new(())) };
        let map = Arc::new(PhysMap::default());
        map.set_slots(vec![Arc::new(ram), Arc::new(rom)]);
        let shared = Arc::new(VmShared::default());
        let cpu = Cpu::new(CpuConfig {
            features,
            memory: map,
            shared: shared.clone(),
            clock: Arc::new(Icount),
            random: Arc::new(|| 4),
        });
        World { rng: Rng(seed), memory, shared, cpu }
    }

    /// New code and tables.
    fn refill(&mut self) {
        for i in (0..CODE_LEN).step_by(8) {
            let two = u64::from(word(&mut self.rng)) | u64::from(word(&mut self.rng)) << 32;
            self.memory.put64(RAM + i as u64, two);
        }
        for i in (0..TABLES_LEN).step_by(8) {
            let d = descriptor(&mut self.rng);
            self.memory.put64(TABLES + i as u64, d);
        }
        for v in 0..16 {
            self.memory.put64(VECTORS + v * 0x80, u64::from(HVC) << 32 | u64::from(HVC));
        }
        self.shared.quiesce(Request::FlushAll);
    }

    fn control_registers(&mut self) {
        let r = &mut self.rng;
        let s = &mut self.cpu.state;
        let mut set = |reg, v| s.set_sys(reg, v);
        set(SysReg::ID_AA64MMFR0_EL1, 0x6);
        set(SysReg::ID_AA64DFR0_EL1, 0x1000_0000_1050_5000 | 6);
        set(SysReg::PMCR_EL0, r.next() & 0xffff);
        set(SysReg::PMCNTENSET_EL0, r.next() & r.next());
        set(SysReg::PMINTENSET_EL1, r.next() & r.next());
        set(SysReg::PMCCNTR_EL0, value(r));
        set(SysReg::PMEVCNTR0_EL0, 0xffff_ff00 | r.next() & 0xff);
        set(SysReg::PMEVTYPER0_EL0, 8);
        set(SysReg::CPACR_EL1, 3 << 20);
        let mmu = r.below(3);
        let sctlr = if r.percent(40) { r.next() } else { 0x0400_0000_30d0_0800 } & !1;
        // Endianness and alignment checks make nearly everything fault or slow: mostly off.
        let sctlr = if r.percent(80) { sctlr & !(1 << 25 | 1 << 24 | 2) } else { sctlr };
        set(SysReg::SCTLR_EL1, sctlr | u64::from(mmu != 0));
        let sane = 0x0000_0005_b510_3510 | r.next() & (3 << 37 | 3 << 39 | 1 << 41 | 1 << 42 | 1 << 36);
        let other = r.next();
        set(SysReg::TCR_EL1, if mmu == 2 && r.percent(50) { other } else { sane });
        set(SysReg::MAIR_EL1, if r.percent(80) { 0xff44_ffff_ff00_ffff } else { other });
        for t in [SysReg::TTBR0_EL1, SysReg::TTBR1_EL1] {
            let base = (TABLES + (r.next() & 0xf000)) | r.next() << 48;
            set(t, if r.percent(95) { base } else { r.next() });
        }
        // Vectors full of random words, or anywhere, end most cases in a loop of faults: few of those.
        let anywhere = if r.percent(50) { RAM + (r.next() & 0x7800) } else { value(r) & !0x7ff };
        set(SysReg::VBAR_EL1, if r.percent(98) { VECTORS } else { anywhere });
        set(SysReg::MDSCR_EL1, if r.percent(10) { r.next() & 0xa001 } else { 0 });
        set(SysReg::ELR_EL1, value(r));
        set(SysReg::SPSR_EL1, r.next() & 0xf1f0_0fc5);
        set(SysReg::CNTKCTL_EL1, r.next());
    }

    fn state(&mut self) {
        self.control_registers();
        let r = &mut self.rng;
        let s = &mut self.cpu.state;
        for n in 0..31 {
            s.set_x(n, value(r));
        }
        for n in 0..32 {
            s.set_q(n, u128::from(r.next()) << 64 | u128::from(value(r)));
        }
        (s.fpcr, s.fpsr) = (r.next() as u32 & 0x07c8_0000, 0);
        s.set_el_sp((r.next() & 1) as u8, (r.next() & 1) as u8);
        s.set_sp(value(r) & !15);
        s.daif = if r.percent(50) { 0x3c0 } else { r.next() as u32 & 0x3c0 };
        s.nzcv = r.next() as u32 & 0xf000_0000;
        (s.pan, s.uao, s.ss, s.il) = (r.percent(20), r.percent(10), r.percent(50), r.percent(2));
        s.btype = if r.percent(5) { (r.next() & 3) as u8 } else { 0 };
        s.pc = if r.percent(97) { RAM + (r.next() & 0x7ffc) } else { value(r) };
        let lines = r.next() as u32 & (CpuLines::IRQ | CpuLines::FIQ | CpuLines::VSERROR);
        self.cpu.lines.clear(CpuLines::IRQ | CpuLines::FIQ | CpuLines::VSERROR);
        if r.percent(10) {
            self.cpu.lines.set(lines);
        }
    }

    /// Answers an exit with anything a hypervisor may do.
    fn resolve(&mut self, exit: Exit) {
        let v = value(&mut self.rng);
        let cpu = &mut self.cpu;
        match exit {
            Exit::DataAbort(a) => {
                if a.s1ptw || a.iss >> 24 & 1 == 0 || v & 1 << 40 != 0 {
                    cpu.inject_external_abort(a.far, false);
                } else {
                    if !a.write {
                        cpu.state.set_x((a.iss >> 16 & 31) as u8, v);
                    }
                    cpu.skip_instruction();
                }
            }
            Exit::SysReg { rt, read, .. } => {
                if v & 1 << 40 != 0 {
                    cpu.inject_undef();
                } else {
                    if read {
                        cpu.state.set_x(rt, v);
                    }
                    cpu.skip_instruction();
                }
            }
            Exit::InstAbort { far, .. } => cpu.inject_external_abort(far, true),
            Exit::Smc { .. } => cpu.skip_instruction(),
            Exit::Debug { .. } => cpu.state.pc = cpu.state.pc.wrapping_add(4),
            Exit::Pmu => {
                cpu.pmu_interrupt();
            }
            Exit::Hvc { .. } => {
                // An exception, or the guest's own: go on elsewhere.
                cpu.state.pc = RAM + (v & 0x7ffc);
                cpu.state.set_x((v >> 32 & 31) as u8, v);
                if v & 1 << 41 != 0 {
                    cpu.set_pstate((v >> 48) as u32 & 0x3c0 | [0, 4, 5, 5][(v >> 44 & 3) as usize]);
                }
            }
            Exit::Wfi | Exit::Wfe | Exit::Wfxt { .. } | Exit::Kick | Exit::Budget | Exit::Difference => {}
        }
    }

    /// Runs one case; the exits that it met.
    fn case(&mut self) -> u32 {
        self.state();
        let first = self.cpu.state.icount;
        self.cpu.budget = first + 400;
        let mut at_kick = None;
        for n in 0..400 {
            match self.cpu.run() {
                Exit::Budget => return n,
                // A loop of faults executes nothing: the watchdog's second kick ends the case.
                Exit::Kick if at_kick == Some(self.cpu.state.icount) => return n,
                Exit::Kick => at_kick = Some(self.cpu.state.icount),
                exit => self.resolve(exit),
            }
        }
        400
    }
}

/// Kicks every millisecond until it is dropped.
struct Watchdog(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Watchdog {
    fn new(lines: Arc<CpuLines>) -> Watchdog {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let body = move || {
            while !asked.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                lines.set(CpuLines::KICK);
            }
        };
        Watchdog(stop, Some(std::thread::spawn(body)))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(t) = self.1.take() {
            t.join().expect("watchdog");
        }
    }
}

/// So many instructions were executed or ended in an exception, and nothing was hurt.
fn bulk(seed: u64, features: FeatSet, instructions: u64) {
    let mut w = World::new(seed, features);
    let _watchdog = Watchdog::new(w.cpu.lines.clone());
    let (mut cases, mut exits) = (0u64, 0u64);
    let started = Instant::now();
    while w.cpu.state.icount + exits < instructions {
        if cases.is_multiple_of(200) {
            w.refill();
            w.cpu.set_features(features);
        }
        exits += u64::from(w.case());
        cases += 1;
        assert!(started.elapsed() < Duration::from_secs(240), "{cases} cases took too long");
    }
    assert!(w.memory.guards_are_whole(), "seed {seed}: a guard or the read-only slot was written");
    assert!(exits > cases / 10, "{exits} exits in {cases} cases");
    println!("{} instructions, {cases} cases, {exits} exits, {:?}", w.cpu.state.icount, started.elapsed());
}

#[test]
fn random_words_with_every_feature() {
    let seed = std::env::var("ULNA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let n = std::env::var("ULNA_INSNS").ok().and_then(|s| s.parse().ok()).unwrap_or(1_500_000);
    bulk(seed, FeatSet::ALL, n);
}

#[test]
fn random_words_without_any_feature() {
    bulk(2, FeatSet::EMPTY, 300_000);
}
