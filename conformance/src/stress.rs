//! Several PEs on one memory: one changes code that the others execute, and remaps a page that they read, with the
//! maintenance that the architecture asks for (Arm ARM B2.4.4, D8.14); all of them count atomically; and somebody outside
//! interrupts them all the time. What they must never see is the old code or the old page after the new one was announced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::mem::{PhysMap, Slot};
use ulna_arm_cpu::shared::VmShared;
use ulna_arm_cpu::{Cpu, CpuConfig, CpuLines, Engine, EngineOptions, Exit, FeatSet, SysReg};

struct Stopped;
impl Clock for Stopped {
    fn counter(&self, _: u64) -> u64 {
        0
    }
}

const RAM: u64 = 0x4000_0000;
const RAM_LEN: usize = 0x4_0000;
const VECTORS: u64 = RAM + 0x1000;
const READER: u64 = RAM + 0x2000;
const ANNOUNCED_CODE: u64 = RAM + 0x3000;
const ANNOUNCED_PAGE: u64 = RAM + 0x3040;
const COUNTER_LSE: u64 = RAM + 0x3080;
const COUNTER_EX: u64 = RAM + 0x30c0;
/// The function that changes.
const FUNCTION: u64 = RAM + 0x4000;
const WRITER: u64 = RAM + 0x5000;
const TABLE1: u64 = RAM + 0x8000;
const TABLE2: u64 = RAM + 0x9000;
const TABLE3: u64 = RAM + 0xa000;
/// Four pages, one of which is mapped at [`WINDOW`].
const PAGES: u64 = RAM + 0x1_0000;
const WINDOW: u64 = 0x1_0000;
/// Page, access flag, inner shareable, not global.
const PAGE: u64 = 0xf03;

/// Instruction words (Arm ARM C6).
mod a64 {
    pub const RET: u32 = 0xd65f_03c0;
    pub const ERET: u32 = 0xd69f_03e0;
    pub const ISB: u32 = 0xd503_3fdf;
    pub const DSB_ISH: u32 = 0xd503_3b9f;
    pub fn movz(d: u32, imm: u32, hw: u32) -> u32 {
        0xd280_0000 | hw << 21 | imm << 5 | d
    }
    pub fn ldar(t: u32, n: u32) -> u32 {
        0xc8df_fc00 | n << 5 | t
    }
    pub fn stlr(t: u32, n: u32) -> u32 {
        0xc89f_fc00 | n << 5 | t
    }
    pub fn ldr(t: u32, n: u32) -> u32 {
        0xf940_0000 | n << 5 | t
    }
    pub fn str(t: u32, n: u32) -> u32 {
        0xf900_0000 | n << 5 | t
    }
    pub fn str_w(t: u32, n: u32) -> u32 {
        0xb900_0000 | n << 5 | t
    }
    pub fn add_i(d: u32, n: u32, imm: u32) -> u32 {
        0x9100_0000 | imm << 10 | n << 5 | d
    }
    pub fn sub_i(d: u32, n: u32, imm: u32) -> u32 {
        0xd100_0000 | imm << 10 | n << 5 | d
    }
    pub fn add(d: u32, n: u32, m: u32) -> u32 {
        0x8b00_0000 | m << 16 | n << 5 | d
    }
    pub fn sub(d: u32, n: u32, m: u32) -> u32 {
        0xcb00_0000 | m << 16 | n << 5 | d
    }
    pub fn orr(d: u32, n: u32, m: u32) -> u32 {
        0xaa00_0000 | m << 16 | n << 5 | d
    }
    /// The lowest `width` bits.
    pub fn low_bits(d: u32, n: u32, width: u32) -> u32 {
        0xd340_0000 | (width - 1) << 10 | n << 5 | d
    }
    pub fn lsr(d: u32, n: u32, by: u32) -> u32 {
        0xd340_0000 | by << 16 | 63 << 10 | n << 5 | d
    }
    pub fn lsl(d: u32, n: u32, by: u32) -> u32 {
        0xd340_0000 | (64 - by) << 16 | (63 - by) << 10 | n << 5 | d
    }
    pub fn tbnz(t: u32, bit: u32, by: i32) -> u32 {
        0x3700_0000 | (bit >> 5) << 31 | (bit & 31) << 19 | (by as u32 & 0x3fff) << 5 | t
    }
    pub fn cbz(t: u32, by: i32) -> u32 {
        0xb400_0000 | (by as u32 & 0x7_ffff) << 5 | t
    }
    pub fn cbnz(t: u32, by: i32) -> u32 {
        0xb500_0000 | (by as u32 & 0x7_ffff) << 5 | t
    }
    pub fn b(by: i32) -> u32 {
        0x1400_0000 | by as u32 & 0x3ff_ffff
    }
    pub fn blr(n: u32) -> u32 {
        0xd63f_0000 | n << 5
    }
    pub fn hvc(imm: u32) -> u32 {
        0xd400_0002 | imm << 5
    }
    pub fn dc_cvau(t: u32) -> u32 {
        0xd50b_7b20 | t
    }
    pub fn ic_ivau(t: u32) -> u32 {
        0xd50b_7520 | t
    }
    pub fn tlbi_vae1is(t: u32) -> u32 {
        0xd508_8320 | t
    }
    pub fn tlbi_aside1is(t: u32) -> u32 {
        0xd508_8340 | t
    }
    pub fn mrs_esr(t: u32) -> u32 {
        0xd538_5200 | t
    }
    pub fn ldadd(s: u32, t: u32, n: u32) -> u32 {
        0xf820_0000 | s << 16 | n << 5 | t
    }
    pub fn ldaxr(t: u32, n: u32) -> u32 {
        0xc85f_fc00 | n << 5 | t
    }
    pub fn stlxr(s: u32, t: u32, n: u32) -> u32 {
        0xc800_fc00 | s << 16 | n << 5 | t
    }
}
use a64::*;

/// HVC immediates that tell of an error.
const STALE: u32 = 1;
const STRANGE: u32 = 2;

/// While the window is not mapped: try again. Anything else is an error.
fn vector() -> Vec<u32> {
    vec![mrs_esr(17), lsr(17, 17, 26), sub_i(17, 17, 0x25), cbz(17, 2), hvc(STRANGE), ERET]
}

/// x20..x25 are addresses, x26 counts rounds.
fn reader() -> Vec<u32> {
    let mut w = vec![
        ldar(1, 20),
        ISB,
        blr(21),
        sub(2, 0, 1),
        tbnz(2, 15, 14), // to the end
        ldar(1, 22),
        ldr(0, 23),
        sub(2, 0, 1),
        tbnz(2, 63, 10),
        movz(3, 1, 0),
        ldadd(3, 4, 24),
        ldaxr(4, 25),
        add_i(4, 4, 1),
        stlxr(5, 4, 25),
        cbnz(5, -3),
        add_i(26, 26, 1),
        b(-16),
        b(0),
    ];
    w.push(hvc(STALE));
    w
}

fn writer() -> Vec<u32> {
    let mut w = vec![
        // New code.
        add_i(9, 9, 1),
        low_bits(9, 9, 16),
        movz(1, 0xd280, 1),
        lsl(2, 9, 5),
        orr(1, 1, 2),
        str_w(1, 21),
        dc_cvau(21),
        DSB_ISH,
        ic_ivau(21),
        DSB_ISH,
        ISB,
        stlr(9, 20),
        blr(21),
        sub(2, 0, 9),
        cbz(2, 2),
        hvc(STALE),
        // Another page.
        add_i(10, 10, 1),
        low_bits(3, 10, 2),
        lsl(3, 3, 12),
        add(3, 12, 3),
        str(10, 3),
        str(31, 11),
        DSB_ISH,
        lsr(4, 23, 12),
        tbnz(10, 2, 3),
        tlbi_vae1is(4),
        b(2),
        tlbi_aside1is(31),
        DSB_ISH,
        orr(5, 3, 13),
        str(5, 11),
        DSB_ISH,
        ISB,
        stlr(10, 22),
        add_i(26, 26, 1),
    ];
    w.push(b(-(w.len() as i32)));
    w
}

struct Ram(Vec<AtomicU64>);

impl Ram {
    fn write(&self, at: u64, v: u64) {
        self.0[((at - RAM) / 8) as usize].store(v, Ordering::SeqCst);
    }
    fn read(&self, at: u64) -> u64 {
        self.0[((at - RAM) / 8) as usize].load(Ordering::SeqCst)
    }
    fn program(&self, at: u64, words: &[u32]) {
        for (n, pair) in words.chunks(2).enumerate() {
            let high = pair.get(1).copied().unwrap_or(RET);
            self.write(at + 8 * n as u64, u64::from(high) << 32 | u64::from(pair[0]));
        }
    }
}

fn ram() -> Arc<Ram> {
    let r = Ram((0..RAM_LEN / 8).map(|_| AtomicU64::new(0)).collect());
    r.program(VECTORS + 0x200, &vector());
    r.program(READER, &reader());
    r.program(WRITER, &writer());
    r.program(FUNCTION, &[movz(0, 0, 0), RET]);
    r.write(TABLE1, TABLE2 | 3);
    // A block that is global, with everything.
    r.write(TABLE1 + 8, RAM | 0x701);
    r.write(TABLE2, TABLE3 | 3);
    r.write(TABLE3 + 8 * (WINDOW >> 12), PAGES | PAGE);
    Arc::new(r)
}

fn pe(memory: &Arc<PhysMap>, shared: &Arc<VmShared>, engine: Engine, pc: u64) -> Cpu {
    let mut cpu = Cpu::new(CpuConfig {
        features: FeatSet::ALL,
        memory: memory.clone(),
        shared: shared.clone(),
        clock: Arc::new(Stopped),
        random: Arc::new(|| 4),
    });
    let difference: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(|text| eprintln!("{text}"));
    cpu.set_engine(engine, &EngineOptions { difference: Some(difference), ..EngineOptions::default() });
    let s = &mut cpu.state;
    s.set_sys(SysReg::ID_AA64MMFR0_EL1, 5);
    s.set_sys(SysReg::DCZID_EL0, 4);
    s.set_sys(SysReg::MAIR_EL1, 0xff);
    s.set_sys(SysReg::TCR_EL1, 25 | 1 << 8 | 1 << 10 | 3 << 12 | 25 << 16 | 1 << 23 | 2 << 32);
    s.set_sys(SysReg::TTBR0_EL1, TABLE1);
    s.set_sys(SysReg::VBAR_EL1, VECTORS);
    s.set_sys(SysReg::SCTLR_EL1, 1 | 1 << 2 | 1 << 12 | 1 << 23);
    s.set_el_sp(1, 1);
    s.daif = 0x3c0;
    s.pc = pc;
    let x = [ANNOUNCED_CODE, FUNCTION, ANNOUNCED_PAGE, WINDOW, COUNTER_LSE, COUNTER_EX];
    s.x[20..26].copy_from_slice(&x);
    s.x[11] = TABLE3 + 8 * (WINDOW >> 12);
    s.x[12] = PAGES;
    s.x[13] = PAGE;
    cpu
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Rounds of each PE; the first one writes.
    pub rounds: Vec<u64>,
    /// Times that a PE was interrupted from outside.
    pub kicks: u64,
}

/// Runs `pes` PEs for `length`.
///
/// # Errors
/// Tells what one of them saw and should not have.
pub fn run(engine: Engine, pes: usize, length: Duration) -> Result<Outcome, String> {
    let ram = ram();
    let host = ram.0.as_ptr().cast_mut().cast::<u8>();
    // SAFETY: the Arc keeps the memory; all accesses to it are atomic or raw.
    let slot = unsafe { Slot::new(0, RAM, RAM_LEN as u64, host, false, None, ram.clone()) };
    let memory = Arc::new(PhysMap::default());
    memory.set_slots(vec![Arc::new(slot)]);
    let shared = Arc::new(VmShared::default());
    let cpus: Vec<Cpu> =
        (0..pes).map(|n| pe(&memory, &shared, engine, if n == 0 { WRITER } else { READER })).collect();
    let lines: Vec<Arc<CpuLines>> = cpus.iter().map(|c| c.lines.clone()).collect();
    let stop = AtomicBool::new(false);
    let kicks = AtomicU64::new(0);
    let rounds: Vec<u64> = std::thread::scope(|s| {
        let threads: Vec<_> = cpus
            .into_iter()
            .map(|mut cpu| {
                let (stop, kicks) = (&stop, &kicks);
                s.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        match cpu.run() {
                            Exit::Kick => kicks.fetch_add(1, Ordering::Relaxed),
                            e => {
                                stop.store(true, Ordering::Relaxed);
                                let s = &cpu.state;
                                return Err(format!(
                                    "PE {} left with {e:x?} at {:#x}: x0 {:#x}, x1 {:#x}, x9 {:#x}, ESR_EL1 {:#x}",
                                    cpu.index,
                                    s.pc,
                                    s.x[0],
                                    s.x[1],
                                    s.x[9],
                                    s.sys(SysReg::ESR_EL1)
                                ));
                            }
                        };
                    }
                    Ok(cpu.state.x[26])
                })
            })
            .collect();
        let end = Instant::now() + length;
        let mut n = 0;
        while Instant::now() < end && !stop.load(Ordering::Relaxed) {
            lines[n % pes].set(CpuLines::KICK);
            n += 1;
            std::thread::sleep(Duration::from_micros(200));
        }
        stop.store(true, Ordering::Relaxed);
        // Those that run leave; one that waits for another is answered by its safepoint on the way out.
        let joined: Vec<_> = threads
            .into_iter()
            .zip(&lines)
            .map(|(t, _)| {
                while !t.is_finished() {
                    lines.iter().for_each(|l| l.set(CpuLines::KICK));
                    std::thread::sleep(Duration::from_micros(200));
                }
                t.join().unwrap_or_else(|_| Err("a PE's thread panicked".into()))
            })
            .collect();
        joined.into_iter().collect::<Result<_, _>>()
    })?;
    // A PE may have been stopped between counting for all and for itself.
    let counted: u64 = rounds[1..].iter().sum();
    for (name, at) in [("LDADD", COUNTER_LSE), ("LDAXR and STLXR", COUNTER_EX)] {
        let all = ram.read(at);
        if all < counted || all - counted > pes as u64 {
            return Err(format!("{name} counted {all}, the PEs {counted} rounds"));
        }
    }
    Ok(Outcome { rounds, kicks: kicks.into_inner() })
}

/// What a PE does while it is kicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// A loop of three instructions.
    Loop,
    /// Changes code and calls it, remaps pages.
    NewCode,
}

/// A PE that does this, alone, and its lines.
pub fn busy_pe(engine: Engine, what: Busy) -> (Cpu, Arc<CpuLines>) {
    let ram = ram();
    ram.program(READER, &[add_i(1, 1, 1), str(1, 24), b(-2)]);
    let host = ram.0.as_ptr().cast_mut().cast::<u8>();
    // SAFETY: as in `run`.
    let slot = unsafe { Slot::new(0, RAM, RAM_LEN as u64, host, false, None, ram.clone()) };
    let memory = Arc::new(PhysMap::default());
    memory.set_slots(vec![Arc::new(slot)]);
    let cpu = pe(&memory, &Arc::default(), engine, if what == Busy::Loop { READER } else { WRITER });
    let lines = cpu.lines.clone();
    (cpu, lines)
}
