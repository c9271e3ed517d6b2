//! Which vCPUs may be on: PSCI CPU_ON, CPU_OFF and AFFINITY_INFO by the machine's own table (DEN0022 §5.5 to §5.7).
//!
//! All vCPUs exist from the start; presence never changes, only whether a vCPU is enabled. KVM forwards the three calls here
//! by its SMCCC filter, answers the others itself, and learns of every change by the vCPU's state. It has no word for a vCPU
//! that was switched on and has not got to its first instruction; the table has.
//! A vCPU that was never on has no thread.

use crate::vcpu::{Common, spawn};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use ulna_kvm_backend::abi::{SmcccFilter, mp_state};
use ulna_kvm_backend::{Errno, Kicker, RegId, Vcpu, VcpuInit, Vm};

const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0x8400_0003;
const CPU_ON_64: u32 = 0xc400_0003;
const AFFINITY_INFO: u32 = 0x8400_0004;
const AFFINITY_INFO_64: u32 = 0xc400_0004;
/// KVM's numbers for PSCI 0.1, which leaves them to the device tree.
const V0_1_OFF: u32 = 0x95c1_ba5f;
const V0_1_ON: u32 = 0x95c1_ba60;
/// KVM_SMCCC_FILTER_FWD_TO_USER.
const FORWARD: u8 = 2;

const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
pub(crate) const DENIED: i64 = -3;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
const INTERNAL_FAILURE: i64 = -6;
pub(crate) const INVALID_ADDRESS: i64 = -9;

const SCTLR_EL1: RegId = RegId::sysreg(0xc080);
/// SCTLR_EL1.EE.
const BIG_ENDIAN: u64 = 1 << 25;
/// Affinity fields of an MPIDR.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// Where a vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its first instruction.
    pub pc: u64,
    /// Its argument.
    pub x0: u64,
    /// In big-endian data order.
    pub big_endian: bool,
}

/// How far a vCPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It executes, or could.
    On,
    /// It does not.
    Off,
    /// It was switched on and has not got to its first instruction.
    Starting(Start),
}

struct Slot {
    mpidr: u64,
    enabled: bool,
    state: State,
    /// A vCPU without a thread.
    parked: Option<Box<dyn Vcpu>>,
    kicker: Kicker,
}

/// The table.
pub struct Power {
    slots: Mutex<Vec<Slot>>,
    /// What a vCPU is reset to.
    init: VcpuInit,
    /// Memory in which a vCPU may start.
    entries: Vec<Range<u64>>,
}

/// Is this one of the calls that come here?
pub fn handles(function: u64) -> bool {
    matches!(
        u32::try_from(function),
        Ok(CPU_OFF | CPU_ON | CPU_ON_64 | AFFINITY_INFO | AFFINITY_INFO_64 | V0_1_OFF | V0_1_ON)
    )
}

/// Has the calls come to the VMM, those of PSCI 0.2 and later or those of 0.1; `false` where KVM has no filter, so that
/// nothing can be disabled.
pub fn forward(vm: &dyn Vm, modern: bool) -> Result<bool, Errno> {
    let calls = if modern { [(CPU_OFF, 3), (CPU_ON_64, 2)] } else { [(V0_1_OFF, 1), (V0_1_ON, 1)] };
    for (base, nr_functions) in calls {
        let filter = SmcccFilter { base, nr_functions, action: FORWARD, ..Default::default() };
        match vm.set_smccc_filter(&filter) {
            Ok(()) => {}
            Err(e) if [Errno::ENXIO, Errno::ENOTTY].contains(&e) => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

impl Start {
    /// At `pc` with this x0, and the byte order that `vcpu` has now.
    pub(crate) fn of(vcpu: &mut dyn Vcpu, pc: u64, x0: u64) -> Result<Start, Errno> {
        let big_endian = vcpu.get_reg_u64(SCTLR_EL1)? & BIG_ENDIAN != 0;
        Ok(Start { pc, x0, big_endian })
    }
}

/// Resets a vCPU to where it starts.
pub(crate) fn enter(vcpu: &mut dyn Vcpu, init: &VcpuInit, start: Start) -> Result<(), Errno> {
    vcpu.init(init)?;
    vcpu.set_reg_u64(RegId::PC, start.pc)?;
    vcpu.set_reg_u64(RegId::x(0), start.x0)?;
    if start.big_endian {
        let sctlr = vcpu.get_reg_u64(SCTLR_EL1)?;
        vcpu.set_reg_u64(SCTLR_EL1, sctlr | BIG_ENDIAN)?;
    }
    vcpu.set_mp_state(mp_state::RUNNABLE)
}

impl Power {
    /// For vCPUs of these MPIDRs, of which the first `enabled` are enabled and the very first is on.
    pub fn new(
        mpidrs: &[u64],
        kickers: &[Kicker],
        enabled: u32,
        init: VcpuInit,
        entries: Vec<Range<u64>>,
    ) -> Power {
        let slot = |(id, (mpidr, kicker)): (u32, (&u64, &Kicker))| Slot {
            mpidr: mpidr & AFFINITY,
            enabled: id < enabled,
            state: if id == 0 { State::On } else { State::Off },
            parked: None,
            kicker: kicker.clone(),
        };
        let slots = (0u32..).zip(mpidrs.iter().zip(kickers)).map(slot).collect();
        Power { slots: Mutex::new(slots), init, entries }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a vCPU until it is switched on.
    pub fn park(&self, id: u32, vcpu: Box<dyn Vcpu>) {
        if let Some(slot) = self.slots().get_mut(id as usize) {
            slot.parked = Some(vcpu);
        }
    }

    /// Gives the vCPUs without a thread away: the machine ends.
    pub fn clear(&self) {
        let parked: Vec<_> = self.slots().iter_mut().filter_map(|s| s.parked.take()).collect();
        drop(parked);
    }

    /// MPIDR, enabled, and state of all.
    pub fn view(&self) -> Vec<(u64, bool, State)> {
        self.slots().iter().map(|s| (s.mpidr, s.enabled, s.state)).collect()
    }

    /// Enables or disables a vCPU. One that is on is the guest's to switch off first.
    pub fn enable(&self, id: u32, on: bool) -> Result<(), Refusal> {
        let mut slots = self.slots();
        let slot = slots.get_mut(id as usize).ok_or(Refusal::Unknown)?;
        if !on && slot.enabled && slot.state != State::Off {
            return Err(Refusal::On);
        }
        slot.enabled = on;
        Ok(())
    }

    /// The enabled vCPUs, for the next life of the machine.
    pub fn enabled(&self) -> Vec<bool> {
        self.slots().iter().map(|s| s.enabled).collect()
    }

    /// As an earlier life left it; the first vCPU is always enabled at a start.
    pub fn set_enabled(&self, enabled: &[bool]) {
        for (slot, on) in self.slots().iter_mut().skip(1).zip(enabled.iter().skip(1)) {
            slot.enabled = *on;
        }
    }

    /// Does something with each vCPU that has no thread.
    pub fn each_parked(&self, mut f: impl FnMut(u32, &mut dyn Vcpu)) {
        for (id, slot) in (0u32..).zip(self.slots().iter_mut()) {
            if let Some(vcpu) = &mut slot.parked {
                f(id, &mut **vcpu);
            }
        }
    }

    /// As it was where the machine comes from.
    pub fn take_over(&self, id: u32, enabled: bool, state: State) {
        if let Some(slot) = self.slots().get_mut(id as usize) {
            (slot.enabled, slot.state) = (enabled, state);
        }
    }

    /// Does the guest have this vCPU off?
    pub fn is_off(&self, id: u32) -> bool {
        self.slots().get(id as usize).is_some_and(|s| s.state == State::Off)
    }

    /// Where vCPU `id` is to start, if it was switched on since the last look.
    fn starting(&self, id: u32) -> Option<Start> {
        let mut slots = self.slots();
        let slot = slots.get_mut(id as usize)?;
        let State::Starting(start) = slot.state else { return None };
        slot.state = State::On;
        Some(start)
    }

    /// On the vCPU's own thread: resets it if it was switched on.
    pub fn settle(&self, id: u32, vcpu: &mut dyn Vcpu) -> Result<(), Errno> {
        let Some(start) = self.starting(id) else { return Ok(()) };
        enter(vcpu, &self.init, start)
    }

    /// Is `id` the only vCPU that is on, or about to be?
    pub fn others_are_off(&self, id: u32) -> bool {
        (0u32..).zip(self.slots().iter()).all(|(n, s)| n == id || s.state == State::Off)
    }

    /// A forwarded call by vCPU `id`. The answer goes to x0.
    pub fn call(&self, common: &Common, id: u32, vcpu: &mut dyn Vcpu, function: u32) -> Result<(), Errno> {
        let answer = match function {
            CPU_OFF | V0_1_OFF => {
                // First the table: who is switched on again meanwhile is kicked, and looks there before it runs.
                if let Some(slot) = self.slots().get_mut(id as usize) {
                    slot.state = State::Off;
                }
                return vcpu.set_mp_state(mp_state::STOPPED);
            }
            AFFINITY_INFO | AFFINITY_INFO_64 => {
                let mask = if function == AFFINITY_INFO { u64::from(u32::MAX) } else { u64::MAX };
                let mut arg = |n| vcpu.get_reg_u64(RegId::x(n)).map(|v| v & mask);
                self.affinity_info(arg(1)?, arg(2)?)
            }
            CPU_ON | CPU_ON_64 | V0_1_ON => {
                // Arguments of the 32-bit call are 32 bits wide.
                let mask = if function == CPU_ON { u64::from(u32::MAX) } else { u64::MAX };
                let mut arg = |n| vcpu.get_reg_u64(RegId::x(n)).map(|v| v & mask);
                let (target, pc, x0) = (arg(1)?, arg(2)?, arg(3)?);
                match self.switch_on(target, Start::of(vcpu, pc, x0)?) {
                    Ok(target) => self.wake(common, target),
                    // PSCI 0.1 has no finer answers.
                    Err(ALREADY_ON | ON_PENDING | INVALID_ADDRESS) if function == V0_1_ON => {
                        INVALID_PARAMETERS
                    }
                    Err(refusal) => refusal,
                }
            }
            _ => NOT_SUPPORTED,
        };
        for (n, v) in [answer as u64, 0, 0, 0].into_iter().enumerate() {
            vcpu.set_reg_u64(RegId::x(n as u64), v)?;
        }
        Ok(())
    }

    /// AFFINITY_INFO (DEN0022 §5.7): the vCPUs whose affinity is `target` above the `lowest` levels, taken together.
    fn affinity_info(&self, target: u64, lowest: u64) -> i64 {
        const ON: i64 = 0;
        const OFF: i64 = 1;
        const PENDING: i64 = 2;
        if lowest > 3 || target & !AFFINITY != 0 {
            return INVALID_PARAMETERS;
        }
        let mask = AFFINITY & !((1u64 << [0, 8, 16, 32][lowest as usize]) - 1);
        let slots = self.slots();
        let states = slots.iter().filter(|s| s.mpidr & mask == target & mask).map(|s| match s.state {
            State::On => ON,
            State::Starting(_) => PENDING,
            State::Off => OFF,
        });
        // One that is on decides, then one that is about to be.
        states.min_by_key(|s| [ON, PENDING, OFF].iter().position(|o| o == s)).unwrap_or(INVALID_PARAMETERS)
    }

    /// CPU_ON as far as the table goes. Of two that race one wins.
    fn switch_on(&self, target: u64, start: Start) -> Result<u32, i64> {
        if target & !AFFINITY != 0 {
            return Err(INVALID_PARAMETERS);
        }
        let mut slots = self.slots();
        let (id, slot) =
            (0u32..).zip(slots.iter_mut()).find(|(_, s)| s.mpidr == target).ok_or(INVALID_PARAMETERS)?;
        match slot.state {
            _ if !slot.enabled => Err(DENIED),
            State::On => Err(ALREADY_ON),
            State::Starting(_) => Err(ON_PENDING),
            State::Off if start.pc & 3 != 0 || !self.entries.iter().any(|e| e.contains(&start.pc)) => {
                Err(INVALID_ADDRESS)
            }
            State::Off => {
                slot.state = State::Starting(start);
                Ok(id)
            }
        }
    }

    /// Gets a vCPU that was switched on to its first instruction.
    fn wake(&self, common: &Common, id: u32) -> i64 {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(id as usize) else { return INVALID_PARAMETERS };
        let Some(vcpu) = slot.parked.take() else {
            let kicker = slot.kicker.clone();
            drop(slots);
            kicker.kick();
            return 0;
        };
        match spawn(id, common) {
            Ok(thread) => {
                thread.run(vcpu, None);
                0
            }
            Err(e) => {
                tracing::warn!("{e}");
                (slot.state, slot.parked) = (State::Off, Some(vcpu));
                INTERNAL_FAILURE
            }
        }
    }
}

/// Why a vCPU cannot be enabled or disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such vCPU.
    Unknown,
    /// The guest has it on.
    On,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const RAM: Range<u64> = 0x4000_0000..0x5000_0000;

    fn power(count: u64, enabled: u32) -> Power {
        let mpidrs: Vec<u64> = (0..count).map(|n| 0x8000_0000 | n).collect();
        let kickers: Vec<Kicker> = mpidrs.iter().map(|_| Kicker::new(|| {})).collect();
        Power::new(&mpidrs, &kickers, enabled, VcpuInit::default(), vec![RAM])
    }

    fn at(pc: u64) -> Start {
        Start { pc, x0: 7, big_endian: false }
    }

    #[test]
    fn cpu_on_answers_as_the_specification_says() {
        let p = power(4, 2);
        let ok = at(RAM.start);
        assert_eq!(p.switch_on(9, ok), Err(INVALID_PARAMETERS));
        assert_eq!(p.switch_on(1 << 24, ok), Err(INVALID_PARAMETERS));
        assert_eq!(p.switch_on(0, ok), Err(ALREADY_ON));
        assert_eq!(p.switch_on(2, ok), Err(DENIED));
        for bad in [RAM.start + 2, RAM.end, 0] {
            assert_eq!(p.switch_on(1, at(bad)), Err(INVALID_ADDRESS));
        }
        assert_eq!(p.switch_on(1, ok), Ok(1));
        assert_eq!(p.switch_on(1, ok), Err(ON_PENDING));
        assert_eq!(p.starting(1), Some(ok));
        assert_eq!(p.starting(1), None);
        assert_eq!(p.switch_on(1, ok), Err(ALREADY_ON));
    }

    #[test]
    fn affinity_info_knows_of_a_vcpu_that_starts() {
        let mpidrs = [0x8000_0000, 0x8000_0001, 0x8000_0100, 0x8000_0101];
        let kickers: Vec<Kicker> = mpidrs.iter().map(|_| Kicker::new(|| {})).collect();
        let p = Power::new(&mpidrs, &kickers, 3, VcpuInit::default(), vec![RAM]);
        let info = |target, lowest| p.affinity_info(target, lowest);
        assert_eq!([0, 1, 0x100, 0x101].map(|t| info(t, 0)), [0, 1, 1, 1], "a disabled one is off");
        assert_eq!(p.switch_on(0x100, at(RAM.start)), Ok(2));
        assert_eq!([0, 1, 0x100, 0x101].map(|t| info(t, 0)), [0, 1, 2, 1]);
        assert_eq!([info(0x1ff, 1), info(0xff, 1), info(0, 2), info(0, 3)], [2, 0, 0, 0]);
        assert!(p.starting(2).is_some());
        assert_eq!([info(0x100, 0), info(0x101, 1)], [0, 0]);
        for (target, lowest) in [(2, 0), (0x200, 1), (0, 4), (1 << 24, 0), (1 << 40, 0), (1 << 32, 3)] {
            assert_eq!(info(target, lowest), INVALID_PARAMETERS, "{target:#x}, {lowest}");
        }
        assert!(!p.others_are_off(0) && !p.others_are_off(2));
    }

    #[test]
    fn only_a_vcpu_that_is_off_can_be_disabled() {
        let p = power(3, 2);
        assert_eq!(p.enable(0, false), Err(Refusal::On));
        assert_eq!(p.enable(3, true), Err(Refusal::Unknown));
        assert_eq!(p.enable(2, true), Ok(()));
        assert_eq!(p.switch_on(2, at(RAM.start)), Ok(2));
        assert_eq!(p.enable(2, false), Err(Refusal::On));
        assert_eq!(p.enable(1, false), Ok(()));
        assert_eq!(p.switch_on(1, at(RAM.start)), Err(DENIED));
        assert_eq!(p.enabled(), [true, false, true]);
        let next = power(3, 2);
        next.set_enabled(&p.enabled());
        assert_eq!(next.enabled(), [true, false, true]);
    }

    /// H7.
    #[test]
    fn of_two_vcpus_that_race_one_wins() {
        for _ in 0..50 {
            let p = Arc::new(power(3, 3));
            let gate = Arc::new(std::sync::Barrier::new(2));
            let race = |_| {
                let (p, gate) = (p.clone(), gate.clone());
                std::thread::spawn(move || {
                    gate.wait();
                    p.switch_on(2, at(RAM.start))
                })
            };
            let mut answers: Vec<_> = [0, 1].map(race).map(|t| t.join().unwrap()).into();
            answers.sort();
            assert_eq!(answers, [Ok(2), Err(ON_PENDING)]);
        }
    }
}
