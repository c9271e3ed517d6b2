//! What base instructions do beyond registers and flags: exits, traps by PSTATE and SCTLR_EL1, BTYPE, exclusives.

use std::sync::Arc;

use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::mem::{PhysMap, Slot};
use ulna_arm_cpu::shared::VmShared;
use ulna_arm_cpu::{Cpu, CpuConfig, CpuLines, Exit, Feat, FeatSet, SysReg};

struct Stopped;
impl Clock for Stopped {
    fn counter(&self, _: u64) -> u64 {
        0
    }
}

const RAM: u64 = 0x4000_0000;
const VECTORS: u64 = RAM + 0x8000;
const DATA: u64 = RAM + 0x4000;
const HVC_7: u32 = 0xd400_00e2;

/// A PE at EL1 with the MMU off, the words at the start of RAM, and HVC #7 behind them and in every vector.
fn machine(words: &[u32], features: FeatSet) -> Cpu {
    let mut ram = vec![0u32; 0x1_0000 / 4].into_boxed_slice();
    ram[..words.len()].copy_from_slice(words);
    ram[words.len()] = HVC_7;
    for v in 0..16 {
        ram[(0x8000 + v * 0x80) / 4] = HVC_7;
    }
    let host = Box::leak(ram).as_mut_ptr().cast::<u8>();
    // SAFETY: the memory is leaked, so it outlives the slot; nothing else accesses it.
    let slot = unsafe { Slot::new(0, RAM, 0x1_0000, host, false, None, Arc::new(())) };
    let memory = Arc::new(PhysMap::default());
    memory.set_slots(vec![Arc::new(slot)]);
    let mut cpu = Cpu::new(CpuConfig {
        features,
        memory,
        shared: Arc::new(VmShared::default()),
        clock: Arc::new(Stopped),
        random: Arc::new(|| 4),
    });
    cpu.state.set_sys(SysReg::ID_AA64MMFR0_EL1, 5);
    cpu.state.set_sys(SysReg::VBAR_EL1, VECTORS);
    cpu.state.set_el_sp(1, 1);
    cpu.state.daif = 0x3c0;
    cpu.state.pc = RAM;
    cpu
}

fn run(words: &[u32]) -> (Cpu, Exit) {
    let mut cpu = machine(words, FeatSet::ALL);
    let exit = cpu.run();
    (cpu, exit)
}

/// EC of the exception that was taken, when the exit is the HVC of a vector.
fn exception_class(cpu: &Cpu, exit: Exit) -> Option<u64> {
    (exit == Exit::Hvc { imm: 7 } && cpu.state.pc >= VECTORS)
        .then(|| cpu.state.sys(SysReg::ESR_EL1) >> 26 & 63)
}

#[test]
fn hvc_leaves_after_itself_and_smc_at_itself() {
    let (cpu, exit) = run(&[0xd503_201f, 0xd402_4682]); // nop; hvc #0x1234
    assert_eq!((exit, cpu.state.pc), (Exit::Hvc { imm: 0x1234 }, RAM + 8));
    let (cpu, exit) = run(&[0xd402_4683]); // smc #0x1234
    assert_eq!((exit, cpu.state.pc), (Exit::Smc { imm: 0x1234 }, RAM));
}

#[test]
fn hvc_and_smc_are_undefined_at_el0() {
    for word in [0xd402_4682, 0xd402_4683] {
        let mut cpu = machine(&[word], FeatSet::ALL);
        cpu.state.set_el_sp(0, 0);
        let exit = cpu.run();
        assert_eq!(exception_class(&cpu, exit), Some(0), "{word:#x}");
        assert_eq!(cpu.state.sys(SysReg::ELR_EL1), RAM);
    }
}

#[test]
fn svc_returns_behind_itself_and_brk_to_itself() {
    let (cpu, exit) = run(&[0xd400_0541]); // svc #42
    assert_eq!(exception_class(&cpu, exit), Some(0x15));
    assert_eq!(cpu.state.sys(SysReg::ESR_EL1) & 0xffff, 42);
    assert_eq!(cpu.state.sys(SysReg::ELR_EL1), RAM + 4);
    let (cpu, exit) = run(&[0xd420_0540]); // brk #42
    assert_eq!(exception_class(&cpu, exit), Some(0x3c));
    assert_eq!(cpu.state.sys(SysReg::ELR_EL1), RAM);
}

#[test]
fn wfi_leaves_unless_an_interrupt_is_pending() {
    let (cpu, exit) = run(&[0xd503_207f]);
    assert_eq!((exit, cpu.state.pc), (Exit::Wfi, RAM + 4));
    let mut cpu = machine(&[0xd503_207f], FeatSet::ALL);
    cpu.lines.set(CpuLines::IRQ);
    // Masked, so it is not taken, but it wakes.
    assert_eq!(cpu.run(), Exit::Hvc { imm: 7 });
    assert_eq!(cpu.state.pc, RAM + 8);
}

#[test]
fn wfe_consumes_the_event_of_sevl() {
    let (cpu, exit) = run(&[0xd503_20bf, 0xd503_205f, 0xd503_205f]); // sevl; wfe; wfe
    assert_eq!((exit, cpu.state.pc), (Exit::Wfe, RAM + 12));
}

#[test]
fn wfx_at_el0_is_trapped_with_its_kind() {
    // wfi, wfe, wfit x5, wfet x5
    for (word, iss) in [(0xd503_207f, 0), (0xd503_205f, 1), (0xd503_1025, 0xa6), (0xd503_1005, 0xa7)] {
        let mut cpu = machine(&[word], FeatSet::ALL);
        cpu.state.set_el_sp(0, 0);
        let exit = cpu.run();
        assert_eq!(exception_class(&cpu, exit), Some(1), "{word:#x}");
        assert_eq!(cpu.state.sys(SysReg::ESR_EL1) & 0x1ff_ffff, 1 << 24 | 0xe << 20 | iss, "{word:#x}");
        // SCTLR_EL1.nTWI, nTWE
        let mut cpu = machine(&[word], FeatSet::ALL);
        cpu.state.set_el_sp(0, 0);
        cpu.state.set_sys(SysReg::SCTLR_EL1, 1 << 16 | 1 << 18);
        cpu.state.x[5] = 99;
        let want = match iss & 3 {
            0 => Exit::Wfi,
            1 => Exit::Wfe,
            k => Exit::Wfxt { deadline: 99, event: k == 3 },
        };
        assert_eq!(cpu.run(), want);
    }
}

#[test]
fn an_absent_feature_is_undefined_or_for_a_hint_a_nop() {
    let none = FeatSet::EMPTY;
    // ldadd, cfinv, wfit, pacia, crc32b, ldapr, sb
    for word in [0xf822_0020, 0xd500_401f, 0xd503_1025, 0xdac1_0020, 0x1ac2_4020, 0xf8bf_c020, 0xd503_30ff] {
        let mut cpu = machine(&[word], none);
        let exit = cpu.run();
        assert_eq!(exception_class(&cpu, exit), Some(0), "{word:#x}");
    }
    // paciasp, autiasp, xpaclri, bti c, esb, dgh
    for word in [0xd503_233f, 0xd503_23bf, 0xd503_20ff, 0xd503_245f, 0xd503_221f, 0xd503_20df] {
        let mut cpu = machine(&[word], none);
        cpu.state.x[30] = 0xff00_0000_0000_1234;
        assert_eq!(cpu.run(), Exit::Hvc { imm: 7 });
        assert_eq!((cpu.state.pc, cpu.state.x[30]), (RAM + 8, 0xff00_0000_0000_1234), "{word:#x}");
    }
}

#[test]
fn reserved_operand_combinations_are_undefined() {
    for word in [
        0x1240_0020u32, // AND W, N = 1
        0x9200_fc20,    // AND X, all ones
        0x5280_0000 | 2 << 21,
        0x1300_8020,              // SBFM W, imms 32
        0x1340_0020,              // SBFM W, N = 1
        0x0bc2_0020,              // ADD, shift 3
        0x0b02_8020,              // ADD W, shift of 32
        0x0b22_1420,              // ADD extended, shift of 5
        0x1382_8020,              // EXTR W, lsb 32
        0xf862_0820,              // LDR register, option 0
        0x4820_7c21,              // CASP with an odd register
        0x6940_0020 & !(1 << 22), // STGP without FEAT_MTE
    ] {
        let (cpu, exit) = run(&[word]);
        assert_eq!(exception_class(&cpu, exit), Some(0), "{word:#x}");
    }
}

#[test]
fn indirect_branches_set_btype_when_there_is_bti() {
    // What BTYPE is at the target shows in SPSR_EL1 of an SVC there.
    let btype = |branch: u32, features: FeatSet| {
        let mut cpu = machine(&[branch, 0xd503_201f, 0xd400_0001], features);
        for r in [1, 16, 30] {
            cpu.state.x[r] = RAM + 8;
        }
        let exit = cpu.run();
        assert_eq!(exception_class(&cpu, exit), Some(0x15));
        cpu.state.sys(SysReg::SPSR_EL1) >> 10 & 3
    };
    let (br_x1, br_x16, blr_x1, ret) = (0xd61f_0020, 0xd61f_0200, 0xd63f_0020, 0xd65f_03c0);
    // Not a guarded page: BR from any register is 1.
    assert_eq!([br_x1, br_x16, blr_x1, ret].map(|b| btype(b, FeatSet::ALL)), [1, 1, 2, 0]);
    let without = FeatSet::ALL.without(Feat::BTI);
    assert_eq!([br_x1, br_x16, blr_x1, ret].map(|b| btype(b, without)), [0; 4]);
}

#[test]
fn blr_through_the_link_register_jumps_to_its_old_value() {
    let mut cpu = machine(&[0xd63f_03c0, 0xd503_201f], FeatSet::ALL); // blr x30
    cpu.state.x[30] = RAM + 8;
    assert_eq!(cpu.run(), Exit::Hvc { imm: 7 });
    assert_eq!((cpu.state.pc, cpu.state.x[30]), (RAM + 12, RAM + 4));
}

#[test]
fn a_store_exclusive_needs_its_load_and_an_unchanged_value() {
    // ldxr x1, [x0]; stxr w2, x3, [x0]; stxr w4, x3, [x0]
    let code = [0xc85f_7c01, 0xc802_7c03, 0xc804_7c03];
    let mut cpu = machine(&code, FeatSet::ALL);
    cpu.state.x[0] = DATA;
    cpu.state.x[3] = 77;
    assert_eq!(cpu.run(), Exit::Hvc { imm: 7 });
    assert_eq!((cpu.state.x[1], cpu.state.x[2], cpu.state.x[4]), (0, 0, 1));
    // clrex in between
    let mut cpu = machine(&[0xc85f_7c01, 0xd503_3f5f, 0xc802_7c03, 0xf940_0005], FeatSet::ALL);
    cpu.state.x[0] = DATA;
    cpu.state.x[3] = 77;
    assert_eq!(cpu.run(), Exit::Hvc { imm: 7 });
    assert_eq!((cpu.state.x[2], cpu.state.x[5]), (1, 0));
}

#[test]
fn compare_and_swap_pair() {
    // stp x4, x5, [x0]; casp x2, x3, x6, x7, [x0]; ldp x8, x9, [x0]
    let mut cpu = machine(&[0xa900_1404, 0x4822_7c06, 0xa940_2408], FeatSet::ALL);
    for (r, v) in [(0, DATA), (2, 10), (3, 11), (4, 10), (5, 11), (6, 20), (7, 21)] {
        cpu.state.x[r] = v;
    }
    assert_eq!(cpu.run(), Exit::Hvc { imm: 7 });
    let x = &cpu.state.x;
    assert_eq!((x[2], x[3], x[8], x[9]), (10, 11, 20, 21));
}

#[test]
fn a_faulting_load_leaves_base_and_target_alone() {
    // ldr x1, [x0, #8]!, to an address without memory: a stage-2 abort without a syndrome.
    let mut cpu = machine(&[0xf840_8c01], FeatSet::ALL);
    cpu.state.x[0] = 0x1000;
    cpu.state.x[1] = 5;
    match cpu.run() {
        Exit::DataAbort(a) => {
            assert_eq!((a.ipa, a.far, a.write), (0x1008, 0x1008, false));
            assert_eq!(a.iss >> 24 & 1, 0);
        }
        e => panic!("{e:?}"),
    }
    assert_eq!((cpu.state.pc, cpu.state.x[0], cpu.state.x[1]), (RAM, 0x1000, 5));
}

#[test]
fn register_31_is_zero_sink_or_stack_pointer_as_the_instruction_says() {
    // add sp, sp, #16; adds xzr, x1, #1; add x2, sp, xzr; orr x3, xzr, xzr; ldr xzr, [x0]; str xzr, [x0]; mov x4, xzr
    let code = [0x9100_43ff, 0xb100_043f, 0x8b3f_63e2, 0xaa1f_03e3, 0xf940_001f, 0xf900_001f, 0xaa1f_03e4];
    let mut cpu = machine(&code, FeatSet::ALL);
    cpu.state.set_sp(0x100);
    cpu.state.x[0] = DATA;
    cpu.state.x[1] = u64::MAX;
    cpu.state.x[3] = 9;
    cpu.state.x[4] = 9;
    assert_eq!(cpu.run(), Exit::Hvc { imm: 7 });
    let x = &cpu.state.x;
    assert_eq!((cpu.state.sp(), x[2], x[3], x[4], x[31]), (0x110, 0x110, 0, 0, 0));
    assert_eq!(cpu.state.nzcv >> 28, 0b0110);
}

#[test]
fn a_misaligned_branch_target_is_never_found_among_decoded_code() {
    for offset in 1..4 {
        // The page is known when the branch comes; every context number is tried that the low bits could hide in.
        for contexts in 0..4u64 {
            let mut cpu = machine(&[0xd503_201f, 0xd61f_0000], FeatSet::ALL); // nop; br x0
            for n in 0..contexts {
                // Another translation regime each: it takes context numbers.
                cpu.state.set_sys(SysReg::MAIR_EL1, n + 1);
                cpu.state.set_el_sp((n & 1) as u8, 0);
                cpu.state.x[0] = RAM + 8;
                cpu.state.pc = RAM;
                assert!(matches!(cpu.run(), Exit::Hvc { .. }));
            }
            cpu.state.set_el_sp(1, 1);
            cpu.state.pc = RAM;
            cpu.state.x[0] = RAM + offset;
            let exit = cpu.run();
            assert_eq!(
                exception_class(&cpu, exit),
                Some(0x22),
                "offset {offset}, {contexts} contexts before"
            );
            assert_eq!(cpu.state.sys(SysReg::FAR_EL1), RAM + offset);
        }
    }
}
