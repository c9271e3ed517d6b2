//! Runs EL1 cases on `ulna-arm-cpu`, playing EL2 as the driver does under the reference.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::mem::{PhysMap, Slot};
use ulna_arm_cpu::shared::{Request, VmShared};
use ulna_arm_cpu::state::CpuState;
use ulna_arm_cpu::{Cpu, CpuConfig, Engine, EngineOptions, Exit, Feat, FeatSet, SysReg};

use crate::el1::{
    Case, DATA, DATA_FACTOR, DATA_LEN, FIELDS, HVC0, ID_REGS, Left, Outcome, RAM, RAM_LEN, REGS, StepOutcome,
    VECTORS, mix,
};

struct Stopped;
impl Clock for Stopped {
    fn counter(&self, icount: u64) -> u64 {
        icount
    }
}

struct Ram(Box<[AtomicU64]>);

impl Ram {
    fn at(&self, pa: u64) -> &AtomicU64 {
        &self.0[(pa.wrapping_sub(RAM) / 8) as usize % self.0.len()]
    }
    fn write(&self, pa: u64, v: u64) {
        self.at(pa).store(v, Ordering::Relaxed);
    }
    fn read(&self, pa: u64) -> u64 {
        self.at(pa).load(Ordering::Relaxed)
    }
}

/// A machine that answers cases.
pub struct Machine {
    cpu: Cpu,
    ram: Arc<Ram>,
    clean: CpuState,
}

/// What the reference has and we do not build.
const MASKED: &[Feat] = &[
    Feat::EL2,
    Feat::EL3,
    Feat::AA32EL0,
    Feat::AA32EL1,
    Feat::SVE,
    Feat::SME,
    Feat::MTE,
    Feat::MTE2,
    Feat::MTE3,
    Feat::VHE,
    Feat::NV,
    Feat::AMUv1,
    Feat::MPAM,
    Feat::RME,
    Feat::TME,
];

/// Most instructions of a step before it counts as endless.
const STEP_LIMIT: u64 = 2000;

impl Machine {
    /// With the features and constants that these values of [`ID_REGS`] announce.
    pub fn new(ids: &[u64]) -> Machine {
        let id =
            |r: SysReg| ID_REGS.iter().position(|x| *x == r).and_then(|i| ids.get(i)).copied().unwrap_or(0);
        let features = MASKED.iter().fold(FeatSet::from_id_regs(id), |s, f| s.without(*f));
        let ram = Arc::new(Ram((0..RAM_LEN / 8).map(|_| AtomicU64::new(0)).collect()));
        let host = ram.0.as_ptr().cast_mut().cast::<u8>();
        // SAFETY: the Arc keeps the memory; all accesses to it are atomic or raw.
        let slot = unsafe { Slot::new(0, RAM, RAM_LEN, host, false, None, ram.clone()) };
        let map = Arc::new(PhysMap::default());
        map.set_slots(vec![Arc::new(slot)]);
        let mut cpu = Cpu::new(CpuConfig {
            features,
            memory: map,
            shared: Arc::new(VmShared::default()),
            clock: Arc::new(Stopped),
            random: Arc::new(|| 4),
        });
        for v in 0..16 {
            ram.write(VECTORS + v * 0x80, HVC0.into());
        }
        for r in ID_REGS {
            cpu.state.set_sys(*r, id(*r));
        }
        cpu.state.set_sys(SysReg::OSLSR_EL1, 8);
        let clean = cpu.state.clone();
        Machine { cpu, ram, clean }
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

    /// Runs a case.
    pub fn run(&mut self, case: &Case) -> Outcome {
        self.install(case);
        let mut out = Outcome::default();
        for (n, step) in case.steps.iter().enumerate() {
            if step.write.0 != 0 {
                self.ram.write(step.write.0, step.write.1);
            }
            self.enter(step.pc, step.pstate as u32);
            match self.until_el2() {
                Ok(esr_el2) => out.steps.push(self.snapshot(esr_el2)),
                Err(left) => {
                    out.steps.push(self.snapshot(0));
                    out.left = Some((n, left));
                    break;
                }
            }
        }
        for a in (DATA..DATA + DATA_LEN).step_by(8) {
            out.data = mix(out.data, self.ram.read(a));
        }
        for (pa, _) in &case.writes {
            out.words = mix(out.words, self.ram.read(*pa));
        }
        for (pa, _) in &case.writes {
            self.ram.write(*pa, 0);
        }
        for s in case.steps.iter().filter(|s| s.write.0 != 0) {
            self.ram.write(s.write.0, 0);
        }
        out
    }

    fn install(&mut self, case: &Case) {
        for a in (DATA..DATA + DATA_LEN).step_by(8) {
            self.ram.write(a, a.wrapping_mul(DATA_FACTOR));
        }
        for (pa, v) in &case.writes {
            self.ram.write(*pa, *v);
        }
        let cpu = &mut self.cpu;
        cpu.state.clone_from(&self.clean);
        // EL1 with SP_EL1 while registers are set, as nothing else is current.
        for (r, v) in REGS.iter().zip(&case.regs) {
            match r {
                SysReg::SP_EL0 => cpu.state.set_banked_sp(0, *v),
                SysReg::SP_EL1 => cpu.state.set_banked_sp(1, *v),
                SysReg::OSLAR_EL1 => cpu.state.set_sys(SysReg::OSLSR_EL1, 8 | (v & 1) << 1),
                r => cpu.state.set_sys(*r, *v),
            }
        }
        cpu.state.x[..31].copy_from_slice(&case.x);
        // The host wrote behind the CPU's back.
        cpu.config.shared.clone().post(None, Request::FlushAll);
    }

    /// ERET from EL2.
    fn enter(&mut self, pc: u64, pstate: u32) {
        const SS: u32 = 1 << 21;
        let cpu = &mut self.cpu;
        let s = &cpu.state;
        // DebugExceptionReturnSS: debug exceptions are disabled at EL2 here; SPSR.SS counts where they will be enabled.
        let mdscr = s.sys(SysReg::MDSCR_EL1);
        let enabled = s.sys(SysReg::OSLSR_EL1) & 2 == 0
            && (pstate & 0xc == 0 || (mdscr >> 13 & 1 != 0 && pstate & 1 << 9 == 0));
        let ss = if mdscr & 1 != 0 && enabled { pstate & SS } else { 0 };
        cpu.set_pstate(pstate & !SS | ss);
        cpu.state.pc = cpu.canonical_target(pc);
        cpu.clear_exclusive();
        cpu.budget = cpu.state.icount + STEP_LIMIT;
    }

    fn until_el2(&mut self) -> Result<u64, Left> {
        loop {
            match self.cpu.run() {
                Exit::Hvc { imm } => return Ok(0x16 << 26 | 1 << 25 | u64::from(imm)),
                Exit::Wfe | Exit::Wfxt { .. } | Exit::Kick | Exit::Pmu => {}
                Exit::Budget => return Err(Left::Hang),
                // Not allocated: UNDEFINED, unless the hypervisor knows better.
                Exit::SysReg { enc, .. } if SysReg::from_code(enc).is_none() => self.cpu.inject_undef(),
                Exit::SysReg { .. } => return Err(Left::SysReg),
                Exit::DataAbort(_) => return Err(Left::NoMemory),
                Exit::InstAbort { s1ptw, .. } => {
                    return Err(if s1ptw { Left::NoMemory } else { Left::NoCode });
                }
                Exit::Wfi | Exit::Smc { .. } | Exit::Debug { .. } | Exit::Difference => {
                    return Err(Left::Other);
                }
            }
        }
    }

    fn snapshot(&self, esr_el2: u64) -> StepOutcome {
        let s = &self.cpu.state;
        let mut x = [0; 31];
        x.copy_from_slice(&s.x[..31]);
        let sys: [u64; FIELDS.len()] = [
            s.pc,
            self.cpu.pstate().into(),
            esr_el2,
            s.sys(SysReg::ESR_EL1),
            s.sys(SysReg::FAR_EL1),
            s.sys(SysReg::ELR_EL1),
            s.sys(SysReg::SPSR_EL1),
            s.sys(SysReg::PAR_EL1),
            s.banked_sp(0),
            s.banked_sp(1),
        ];
        StepOutcome { x, sys }
    }
}
