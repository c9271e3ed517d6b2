//! The translator as a whole: comparison with the interpreter, the limit of the code cache, counters.

use std::sync::{Arc, Mutex};

use super::{Engine, EngineOptions};
use crate::cpu::{Clock, Cpu, CpuConfig};
use crate::mem::{PhysMap, Slot};
use crate::shared::VmShared;
use crate::{Exit, FeatSet, SysReg};

struct Stopped;
impl Clock for Stopped {
    fn counter(&self, _: u64) -> u64 {
        0
    }
}

const RAM: u64 = 0x4000_0000;
const LEN: usize = 0x10_0000;
const HVC: u32 = 0xd400_0002;
const ADD: u32 = 0x9100_0421; // add x1, x1, #1
const LDR: u32 = 0xf940_00c5; // ldr x5, [x6]
const STR: u32 = 0xf900_00c1; // str x1, [x6]
const LOOP: u32 = 0xd100_0442; // sub x2, x2, #1

fn cbnz_x2(back: u32) -> u32 {
    0xb500_0002 | (0x8_0000 - back) << 5
}

/// A PE at EL1 with the MMU off and these words, then HVC, at the start of RAM; X6 points to its last page.
fn machine(words: &[u32], engine: Engine, options: &EngineOptions) -> Cpu {
    let mut ram = vec![0u32; LEN / 4].into_boxed_slice();
    ram[..words.len()].copy_from_slice(words);
    ram[words.len()] = HVC;
    let host = Box::leak(ram).as_mut_ptr().cast::<u8>();
    // SAFETY: the memory is leaked, so it outlives the slot; nothing else accesses it.
    let slot = unsafe { Slot::new(0, RAM, LEN as u64, host, false, None, Arc::new(())) };
    let memory = Arc::new(PhysMap::default());
    memory.set_slots(vec![Arc::new(slot)]);
    let mut cpu = Cpu::new(CpuConfig {
        features: FeatSet::ALL,
        memory,
        shared: Arc::new(VmShared::default()),
        clock: Arc::new(Stopped),
        random: Arc::new(|| 4),
    });
    assert_eq!(cpu.set_engine(engine, options), engine);
    cpu.translate_after(0);
    cpu.state.set_sys(SysReg::ID_AA64MMFR0_EL1, 5);
    cpu.state.set_el_sp(1, 1);
    cpu.state.daif = 0x3c0;
    cpu.state.pc = RAM;
    cpu.state.x[6] = RAM + LEN as u64 - 0x1000;
    cpu
}

#[test]
fn a_loop_is_compared_and_nothing_differs() {
    let mut cpu = machine(&[ADD, STR, LDR, LOOP, cbnz_x2(4)], Engine::Check, &EngineOptions::default());
    cpu.state.x[2] = 100;
    assert_eq!(cpu.run(), Exit::Hvc { imm: 0 });
    assert_eq!((cpu.state.x[1], cpu.state.x[5], cpu.difference()), (100, 100, None));
    assert!(cpu.counters.compared >= 100, "{:?}", cpu.counters);
}

#[test]
fn a_difference_is_found_and_told() {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = told.clone();
    let options = EngineOptions {
        difference: Some(Arc::new(move |t| sink.lock().expect("nobody panicked").push(t.into()))),
        ..EngineOptions::default()
    };
    let mut cpu = machine(&[ADD, STR, LOOP, cbnz_x2(3)], Engine::Check, &options);
    cpu.state.x[2] = 3;
    assert_eq!(cpu.run(), Exit::Hvc { imm: 0 });
    // From now on the interpreter counts in twos; what was translated does not.
    let b = cpu.code.block_mut(0, 0).expect("the block");
    b.insns[0].imm = 2;
    cpu.state.pc = RAM;
    cpu.state.x[2] = 3;
    assert_eq!(cpu.run(), Exit::Difference);
    let told = told.lock().expect("nobody panicked");
    assert_eq!(told.len(), 1);
    let t = &told[0];
    for part in
        ["0x40000000", "91000421 ADD_imm", "X1: was 0x3, interpreter 0x5, generated code 0x4", "memory"]
    {
        assert!(t.contains(part), "{part}\n{t}");
    }
}

#[test]
fn a_full_cache_is_emptied_and_the_program_goes_on() {
    let mut words = [ADD, LDR, STR, LDR].repeat(8000);
    words.push(LOOP);
    words.push(cbnz_x2(words.len() as u32));
    let options = EngineOptions { cache: super::options::MIN_CACHE, ..EngineOptions::default() };
    let mut cpu = machine(&words, Engine::Jit, &options);
    cpu.state.x[2] = 3;
    assert_eq!(cpu.run(), Exit::Hvc { imm: 0 });
    assert_eq!((cpu.state.x[1], cpu.state.x[5]), (24_000, 24_000));
    assert!(cpu.counters.evictions > 3, "{:?}", cpu.counters);
    assert!(cpu.counters.code_bytes > 3 << 20, "{:?}", cpu.counters);
}

#[test]
fn executions_are_counted_by_both_engines() {
    for engine in [Engine::Interp, Engine::Jit] {
        let names: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = names.clone();
        let options = EngineOptions {
            profile: true,
            perf_map: Some(Arc::new(move |l| sink.lock().expect("nobody panicked").push(l.into()))),
            ..EngineOptions::default()
        };
        let mut cpu = machine(&[ADD, LOOP, cbnz_x2(2)], engine, &options);
        cpu.state.x[2] = 1000;
        assert_eq!(cpu.run(), Exit::Hvc { imm: 0 });
        let r = cpu.engine_report();
        assert_eq!((r.blocks[0].pc, r.blocks[0].el, r.blocks[0].len, r.blocks[0].runs), (RAM, 1, 3, 1000));
        assert_eq!(r.counters.instructions, 3000);
        let names = names.lock().expect("nobody panicked");
        assert_eq!(names.iter().any(|n| n.ends_with(" el1:0x40000000")), engine == Engine::Jit);
    }
}

/// ands xzr, x1, #1; and w3, w1, #0xffff; csel x5, x3, x5, eq; subs x2, x2, #1; b.ne back to the first
const FLAGS_LOOP: [u32; 5] = [0xf240_003f, 0x1200_3c23, 0x9a85_0065, 0xf100_0442, 0x54ff_ff81];

#[test]
fn flags_that_no_block_wants_are_there_for_whoever_stops_the_program() {
    // The loop sets all flags before it looks at them, so they need not be in memory from one round to the next.
    for budget in 0..40 {
        let states = [Engine::Interp, Engine::Jit].map(|engine| {
            let mut cpu = machine(&FLAGS_LOOP, engine, &EngineOptions::default());
            (cpu.state.x[1], cpu.state.x[2], cpu.budget) = (0x1234_5678, 6, budget);
            let exit = cpu.run();
            (exit, cpu.state.pc, cpu.state.nzcv, cpu.state.icount, cpu.state.x)
        });
        assert_eq!(states[0], states[1], "after {budget} instructions");
    }
}

#[test]
fn a_table_of_translations_is_for_one_address_of_its_page() {
    let mut cpu = machine(&[ADD, LOOP, cbnz_x2(2)], Engine::Jit, &EngineOptions::default());
    cpu.state.x[2] = 5;
    assert_eq!(cpu.run(), Exit::Hvc { imm: 0 });
    let known = |cpu: &Cpu| cpu.code.jumps.pages.iter().filter(|e| e.table != 0).count();
    assert_eq!(known(&cpu), 1);
    let other = RAM + 0x40_0000;
    cpu.code.note_translation(0, other, 0, 4, 1 << 48, 0);
    // Only the new address is known.
    let tags: Vec<u64> = cpu.code.jumps.pages.iter().filter(|e| e.table != 0).map(|e| e.tag).collect();
    assert_eq!(tags, [other ^ 1 << 48]);
}

/// BTYPE after BR and BLR is what the interpreter has, wherever it can be seen: when the first instruction behind stops, and
/// when `run` is left between the two.
#[test]
fn branch_types_are_seen_where_a_run_ends() {
    for (branch, btype) in [(0xd61f_00e0, 1), (0xd63f_00e0, 2)] {
        let seen = [Engine::Interp, Engine::Jit].map(|engine| {
            let words = [ADD, branch, HVC, LDR, LOOP, cbnz_x2(5)];
            let mut cpu = machine(&words, engine, &EngineOptions::default());
            cpu.state.x[7] = RAM + 12;
            cpu.state.x[2] = 100;
            let mut seen = Vec::new();
            let mut note = |cpu: &Cpu, exit: Exit| {
                let s = &cpu.state;
                seen.push((exit, s.pc, s.btype, s.icount, s.x));
            };
            let exit = cpu.run();
            note(&cpu, exit);
            let entered = cpu.counters.entered;
            assert!(entered < 20, "{engine:?}: the loop left generated code {entered} times");
            // The fuel ends between the branch and its target.
            (cpu.state.pc, cpu.state.x[2], cpu.budget) = (RAM, 3, cpu.state.icount + 2);
            let exit = cpu.run();
            assert_eq!((cpu.state.pc, cpu.state.btype), (RAM + 12, btype), "{engine:?}");
            note(&cpu, exit);
            // The target has no memory to read.
            (cpu.budget, cpu.state.x[6]) = (u64::MAX, 0);
            let exit = cpu.run();
            note(&cpu, exit);
            (cpu.state.pc, cpu.state.btype) = (RAM, 0);
            let exit = cpu.run();
            assert_eq!((cpu.state.pc, cpu.state.btype), (RAM + 12, btype), "{engine:?}");
            note(&cpu, exit);
            // Not the target of a branch any more, though PC is the same.
            cpu.state.btype = 0;
            let exit = cpu.run();
            note(&cpu, exit);
            seen
        });
        assert_eq!(seen[0], seen[1]);
    }
}
