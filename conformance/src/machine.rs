//! Runs EL0 cases on `ulna-arm-cpu`: page tables, vectors that leave by HVC, and the answer as a Linux process sees it.

use std::sync::Arc;

use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::mem::{PhysMap, Slot};
use ulna_arm_cpu::shared::{Request, VmShared};
use ulna_arm_cpu::{Cpu, CpuConfig, Engine, EngineOptions, Exit, Feat, FeatSet, SysReg};

use crate::el0::{self, BRK, CODE, Case, DATA, DATA_LEN, Outcome, SLOT};

const TABLES: u64 = 0x4000_0000;
const VECTORS: u64 = 0x4001_0000;
const DATA_PA: u64 = 0x4002_0000;
const CODE_PA: u64 = 0x4010_0000;
const RAM_LEN: u64 = 0x0100_0000;
/// Bytes of code that are mapped.
pub const CODE_LEN: u64 = 0x20_0000;
const HVC0: u32 = 0xd400_0002;

struct Stopped;
impl Clock for Stopped {
    fn counter(&self, icount: u64) -> u64 {
        icount
    }
}

/// Guest memory of the machine: 8-byte aligned, accessed by the CPU through raw pointers.
struct Ram(Box<[std::sync::atomic::AtomicU64]>);

impl Ram {
    fn write(&self, pa: u64, data: &[u8]) {
        for (i, c) in data.chunks(8).enumerate() {
            let at = ((pa - TABLES) / 8) as usize + i;
            let mut b = self.0[at].load(std::sync::atomic::Ordering::Relaxed).to_le_bytes();
            b[..c.len()].copy_from_slice(c);
            self.0[at].store(u64::from_le_bytes(b), std::sync::atomic::Ordering::Relaxed);
        }
    }
    fn read(&self, pa: u64, out: &mut [u8]) {
        for (i, c) in out.chunks_mut(8).enumerate() {
            let at = ((pa - TABLES) / 8) as usize + i;
            let b = self.0[at].load(std::sync::atomic::Ordering::Relaxed).to_le_bytes();
            c.copy_from_slice(&b[..c.len()]);
        }
    }
}

/// Features of the reference of EL0 cases, QEMU 7.2's `-cpu max`: everything but FEAT_LSE2.
pub fn reference_features() -> FeatSet {
    FeatSet::ALL.without(Feat::LSE2)
}

/// A machine that answers cases.
pub struct Machine {
    cpu: Cpu,
    ram: Arc<Ram>,
}

impl Machine {
    /// With these features.
    pub fn new(features: FeatSet) -> Machine {
        let ram: Arc<Ram> =
            Arc::new(Ram((0..RAM_LEN / 8).map(|_| std::sync::atomic::AtomicU64::new(0)).collect()));
        let host = ram.0.as_ptr().cast_mut().cast::<u8>();
        // SAFETY: the Arc keeps the memory; all accesses to it are atomic or raw.
        let slot = unsafe { Slot::new(0, TABLES, RAM_LEN, host, false, None, ram.clone()) };
        let map = Arc::new(PhysMap::default());
        map.set_slots(vec![Arc::new(slot)]);
        let mut cpu = Cpu::new(CpuConfig {
            features,
            memory: map,
            shared: Arc::new(VmShared::default()),
            clock: Arc::new(Stopped),
            random: Arc::new(|| 4),
        });
        build_tables(&ram);
        for v in 0..16 {
            ram.write(VECTORS + v * 0x80, &HVC0.to_le_bytes());
        }
        let s = &mut cpu.state;
        s.set_sys(SysReg::ID_AA64MMFR0_EL1, 5);
        s.set_sys(SysReg::DCZID_EL0, 4);
        s.set_sys(SysReg::MAIR_EL1, 0xff);
        // T0SZ 16, 4 KiB granule, TTBR1 off, 48-bit physical addresses, as Linux has TBI0 on.
        s.set_sys(SysReg::TCR_EL1, 16 | 1 << 23 | 5 << 32 | 1 << 37 | 16 << 16 | 2 << 30);
        s.set_sys(SysReg::TTBR0_EL1, TABLES);
        s.set_sys(SysReg::VBAR_EL1, VECTORS);
        s.set_sys(SysReg::CPACR_EL1, 3 << 20);
        // M, C, I, SA (not SA0: qemu-user checks no SP alignment), UCI, UCT, DZE, nTWE, nTWI, EnIA..EnDB, SPAN; nAA stays 0
        s.set_sys(
            SysReg::SCTLR_EL1,
            1 | 1 << 2
                | 1 << 12
                | 1 << 3
                | 1 << 26
                | 1 << 15
                | 1 << 14
                | 1 << 18
                | 1 << 16
                | 1 << 23
                | 1 << 31
                | 1 << 30
                | 1 << 27
                | 1 << 13,
        );
        Machine { cpu, ram }
    }

    /// Executes by `engine`; translation starts at once.
    pub fn with_engine(mut self, engine: Engine) -> Machine {
        let difference: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(|text| eprintln!("{text}"));
        let options =
            EngineOptions { cache: 16 << 20, difference: Some(difference), ..EngineOptions::default() };
        self.cpu.set_engine(engine, &options);
        self.cpu.translate_after(0);
        self
    }

    /// Instructions executed so far.
    pub fn instructions(&self) -> u64 {
        self.cpu.state.icount
    }

    /// Blocks translated so far.
    pub fn translated_blocks(&self) -> u64 {
        self.cpu.translated_blocks()
    }

    /// Blocks that the interpreter executed so far.
    pub fn executed_blocks(&self) -> u64 {
        self.cpu.engine_report().counters.interpreted
    }

    /// Loads the code of a batch.
    pub fn load_code(&mut self, words: &[u32]) {
        let mut all = vec![BRK; (CODE_LEN / 4) as usize];
        for (d, w) in all.iter_mut().zip(words) {
            *d = *w;
        }
        let bytes: Vec<u8> = all.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.ram.write(CODE_PA, &bytes);
        // The host wrote behind the CPU's back.
        self.cpu.config.shared.clone().post(None, Request::FlushAll);
    }

    /// Runs the case in slot `n`.
    pub fn run(&mut self, n: u64, case: &Case) -> Outcome {
        let mut data = [0u8; DATA_LEN];
        el0::fill_data(case.mem_seed, &mut data);
        self.ram.write(DATA_PA, &data);
        let s = &mut self.cpu.state;
        s.x[..31].copy_from_slice(&case.regs.x);
        s.set_el_sp(0, 0);
        s.set_sp(case.regs.sp);
        s.nzcv = case.regs.pstate as u32 & 0xf000_0000;
        s.daif = 0;
        s.btype = 0;
        s.pan = false;
        s.il = false;
        s.fpsr = case.regs.fpsr;
        s.fpcr = case.regs.fpcr;
        s.v = case.regs.v;
        s.pc = CODE + n * SLOT;
        self.cpu.clear_exclusive();
        self.cpu.budget = self.cpu.state.icount + 1000;
        let signal = loop {
            match self.cpu.run() {
                Exit::Wfi | Exit::Wfe | Exit::Wfxt { .. } => {}
                Exit::Hvc { imm: 0 } if self.cpu.state.pc & !0x7ff == VECTORS => break self.signal(),
                // A stage-2 abort: physical memory that nothing maps is not reached by these tables.
                _ => break 99,
            }
        };
        let s = &self.cpu.state;
        let mut x = [0; 31];
        x.copy_from_slice(&s.x[..31]);
        let regs = Regs {
            x,
            sp: s.banked_sp(0),
            pc: s.sys(SysReg::ELR_EL1),
            pstate: s.sys(SysReg::SPSR_EL1),
            fpsr: s.fpsr,
            fpcr: s.fpcr,
            v: s.v,
        };
        self.ram.read(DATA_PA, &mut data);
        Outcome { signal, regs, mem: el0::hash_data(&data) }
    }

    /// The signal Linux sends for the exception that was taken.
    fn signal(&self) -> u32 {
        let esr = self.cpu.state.sys(SysReg::ESR_EL1);
        match (esr >> 26 & 63, esr & 63) {
            (0x3c, _) => 5,
            (0x24 | 0x20, 0x21) => 7,
            (0x22 | 0x26, _) => 7,
            (0x24 | 0x20, _) => 11,
            // UNDEFINED, trapped system registers, BTI, FPAC
            _ => 4,
        }
    }
}

use crate::el0::Regs;

fn build_tables(ram: &Ram) {
    let mut next = TABLES + 0x1000;
    let mut map = |va: u64, pa: u64, flags: u64| {
        let mut table = TABLES;
        for level in 0..3 {
            let index = va >> (39 - 9 * level) & 511;
            let at = table + index * 8;
            let mut e = [0u8; 8];
            ram.read(at, &mut e);
            let mut entry = u64::from_le_bytes(e);
            if entry == 0 {
                entry = next | 3;
                next += 0x1000;
                ram.write(at, &entry.to_le_bytes());
            }
            table = entry & 0x0000_ffff_ffff_f000;
        }
        ram.write(table + (va >> 12 & 511) * 8, &(pa | flags).to_le_bytes());
    };
    const AF: u64 = 1 << 10;
    const SH: u64 = 3 << 8;
    const PAGE: u64 = 3;
    const EL0: u64 = 1 << 6;
    const RO: u64 = 1 << 7;
    const UXN: u64 = 1 << 54;
    const PXN: u64 = 1 << 53;
    const NG: u64 = 1 << 11;
    for p in 0..CODE_LEN >> 12 {
        map(CODE + (p << 12), CODE_PA + (p << 12), AF | SH | PAGE | EL0 | RO | NG);
    }
    for p in 0..DATA_LEN as u64 >> 12 {
        map(DATA + (p << 12), DATA_PA + (p << 12), AF | SH | PAGE | EL0 | UXN | PXN | NG);
    }
    map(VECTORS, VECTORS, AF | SH | PAGE | RO);
}
