//! Performance monitors by the manual (Arm ARM D13): one instruction is one cycle here, so counts are exact.

use std::sync::Arc;

use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::mem::{PhysMap, Slot};
use ulna_arm_cpu::shared::VmShared;
use ulna_arm_cpu::{Cpu, CpuConfig, Exit, FeatSet, SysReg};

struct Stopped;
impl Clock for Stopped {
    fn counter(&self, _: u64) -> u64 {
        0
    }
}

const RAM: u64 = 0x4000_0000;
const HVC: u32 = 0xd400_00e2;
const NOP: u32 = 0xd503_201f;

const PMCR: u32 = 0xdce0;
const PMCNTENSET: u32 = 0xdce1;
const PMOVSSET: u32 = 0xdcf3;
const PMSWINC: u32 = 0xdce4;
const PMCCNTR: u32 = 0xdce8;
const PMCCFILTR: u32 = 0xdf7f;
const PMEVCNTR0: u32 = 0xdf40;
const PMEVTYPER0: u32 = 0xdf60;

const SW_INCR: u64 = 0;
const INST_RETIRED: u64 = 8;
const CHAIN: u64 = 0x1e;
/// PMCR_EL0.E; bit 31 of the sets is the cycle counter.
const E: u64 = 1;
const CYCLES: u64 = 1 << 31;

fn msr(reg: u32, rt: u32) -> u32 {
    0xd500_0000 | reg << 5 | rt
}
fn mrs(reg: u32, rt: u32) -> u32 {
    msr(reg, rt) | 1 << 21
}

/// Runs the words at EL1 with x0.. as given, and four event counters; gives x0...
fn run(words: &[u32], x: &[u64]) -> [u64; 31] {
    let mut ram = vec![HVC; 0x1000].into_boxed_slice();
    ram[..words.len()].copy_from_slice(words);
    let host = Box::leak(ram).as_mut_ptr().cast::<u8>();
    // SAFETY: the memory is leaked, so it outlives the slot; nothing else accesses it.
    let slot = unsafe { Slot::new(0, RAM, 0x4000, host, false, None, Arc::new(())) };
    let memory = Arc::new(PhysMap::default());
    memory.set_slots(vec![Arc::new(slot)]);
    let mut cpu = Cpu::new(CpuConfig {
        features: FeatSet::ALL,
        memory,
        shared: Arc::new(VmShared::default()),
        clock: Arc::new(Stopped),
        random: Arc::new(|| 0),
    });
    cpu.state.set_sys(SysReg::ID_AA64MMFR0_EL1, 5);
    cpu.state.set_sys(SysReg::PMCR_EL0, 4 << 11);
    cpu.state.set_el_sp(1, 1);
    cpu.state.daif = 0x3c0;
    cpu.state.pc = RAM;
    cpu.state.x[..x.len()].copy_from_slice(x);
    assert_eq!(cpu.run(), Exit::Hvc { imm: 7 });
    assert_eq!(cpu.state.pc, RAM + 4 * (words.len() as u64 + 1), "an exception was taken");
    std::array::from_fn(|i| cpu.state.x[i])
}

#[test]
fn instructions_and_cycles_are_counted_one_for_one() {
    let mut words =
        vec![msr(PMEVTYPER0, 0), msr(PMCNTENSET, 1), msr(PMCR, 2), mrs(PMEVCNTR0, 3), mrs(PMCCNTR, 4)];
    words.extend([NOP; 10]);
    words.extend([mrs(PMEVCNTR0, 5), mrs(PMCCNTR, 6)]);
    let x = run(&words, &[INST_RETIRED, CYCLES | 1, E]);
    assert_eq!((x[5] - x[3], x[6] - x[4]), (12, 12));
}

#[test]
fn a_filter_for_el1_stops_the_count_there() {
    // P: not at EL1.
    let words = [
        msr(PMEVTYPER0, 0),
        msr(PMCCFILTR, 3),
        msr(PMCNTENSET, 1),
        msr(PMCR, 2),
        NOP,
        NOP,
        mrs(PMEVCNTR0, 5),
        mrs(PMCCNTR, 6),
    ];
    let x = run(&words, &[INST_RETIRED | 1 << 31, CYCLES | 1, E, 1 << 31]);
    assert_eq!((x[5], x[6]), (0, 0));
}

#[test]
fn a_disabled_counter_keeps_its_value() {
    let words = [msr(PMEVTYPER0, 0), msr(PMEVCNTR0, 3), msr(PMCR, 2), NOP, NOP, mrs(PMEVCNTR0, 5)];
    assert_eq!(run(&words, &[INST_RETIRED, 0, E, 77])[5], 77);
}

#[test]
fn software_increments_overflow_into_a_chained_counter() {
    // Counter 1 counts the overflows of counter 0.
    let words = [
        msr(PMEVTYPER0, 0),
        msr(PMEVTYPER0 + 1, 4),
        msr(PMEVCNTR0, 3),
        msr(PMCNTENSET, 1),
        msr(PMCR, 2),
        msr(PMSWINC, 7),
        msr(PMSWINC, 7),
        mrs(PMEVCNTR0, 5),
        mrs(PMEVCNTR0 + 1, 6),
        mrs(PMOVSSET, 8),
    ];
    let x = run(&words, &[SW_INCR, 3, E, 0xffff_ffff, CHAIN, 0, 0, 1]);
    // FEAT_PMUv3p5: event counters have 64 bits, and without PMCR_EL0.LP still overflow at 32.
    assert_eq!((x[5], x[6], x[8]), (0x1_0000_0001, 1, 1));
}

#[test]
fn the_cycle_counter_overflows_at_the_width_that_pmcr_lc_says() {
    for (lc, start, want) in
        [(0, 0xffff_fff0u64, CYCLES), (1 << 6, 0xffff_fff0, 0), (1 << 6, u64::MAX - 15, CYCLES)]
    {
        let mut words = vec![msr(PMCR, 2), msr(PMCCNTR, 3), msr(PMCNTENSET, 1)];
        words.extend([NOP; 40]);
        words.push(mrs(PMOVSSET, 5));
        assert_eq!(run(&words, &[0, CYCLES, E | lc, start])[5], want, "{lc} {start:#x}");
    }
}
