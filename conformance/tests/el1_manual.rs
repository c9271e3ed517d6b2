//! Where QEMU 7.2, the reference of the EL1 cases, decides otherwise or lacks something: the Arm ARM's rule, checked here.

use std::io::Read;

use ulna_arm_regs::SysReg;
use ulna_conformance::el1::{CODE, Case, DATA, END, ID_REGS, REGS, Step, StepOutcome, VECTORS};
use ulna_conformance::el1_machine::Machine;

const EL0: u64 = 0;
const EL1: u64 = 5;
const D: u64 = 1 << 9;
const SS: u64 = 1 << 21;
const NOP: u32 = 0xd503_201f;
const ERET: u32 = 0xd69f_03e0;
const LDR_X2_X1: u32 = 0xf940_0022;

/// A machine with the ID registers of the recording.
fn machine() -> Machine {
    let packed = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/data/el1.gz")).expect("recording");
    let mut ids = vec![0; ID_REGS.len() * 8];
    flate2::read::GzDecoder::new(&packed[..]).read_exact(&mut ids).expect("gzip");
    let ids: Vec<u64> = ids.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    Machine::new(&ids)
}

/// One step with the MMU off: x1 points to data, SP to data, unless `set` says otherwise.
fn run(pstate: u64, words: &[u32], set: &[(SysReg, u64)]) -> StepOutcome {
    run_at(CODE, pstate, words, set)
}

fn run_at(pc: u64, pstate: u64, words: &[u32], set: &[(SysReg, u64)]) -> StepOutcome {
    let mut case = Case {
        class: 0,
        regs: vec![0; REGS.len()],
        x: [0; 31],
        writes: words
            .iter()
            .copied()
            .chain([END, END, END])
            .collect::<Vec<u32>>()
            .chunks(2)
            .enumerate()
            .map(|(i, w)| (CODE + 8 * i as u64, u64::from(w[0]) | u64::from(*w.get(1).unwrap_or(&0)) << 32))
            .collect(),
        steps: vec![Step { pc, pstate, write: (0, 0) }],
    };
    case.x[1] = DATA;
    case.set_reg(SysReg::VBAR_EL1, VECTORS);
    case.set_reg(SysReg::SCTLR_EL1, 1 << 23);
    for (r, v) in set {
        case.set_reg(*r, *v);
    }
    let o = machine().run(&case);
    assert_eq!(o.left, None);
    o.steps[0]
}

fn ec(s: &StepOutcome) -> u64 {
    s.sys[3] >> 26
}

#[test]
fn a_misaligned_stack_pointer_faults_where_sa_asks_for_it() {
    // D1.3.8.3: SCTLR_EL1.SA checks at EL1, SA0 at EL0.
    let ldr_sp = 0xf940_03e2;
    for (el, bit) in [(EL1, 3), (EL0, 4)] {
        let set = |on: u64| {
            let sctlr = 1 << 23 | on << bit;
            [(SysReg::SCTLR_EL1, sctlr), (SysReg::SP_EL0, DATA + 8), (SysReg::SP_EL1, DATA + 8)]
        };
        let s = run(el | D, &[ldr_sp], &set(1));
        assert_eq!((ec(&s), s.sys[5]), (0x26, CODE));
        assert_ne!(ec(&run(el | D, &[ldr_sp], &set(0))), 0x26);
    }
}

#[test]
fn an_unaligned_access_to_device_memory_faults() {
    // B2.10.2; with the MMU off all data is Device-nGnRnE.
    let s = run(EL1 | D, &[0x9100_0421, LDR_X2_X1], &[]);
    assert_eq!((ec(&s), s.sys[3] & 0x3f, s.sys[4]), (0x25, 0x21, DATA + 1));
    // DC ZVA to Device memory too.
    let s = run(EL1 | D, &[0xd50b_7421], &[]);
    assert_eq!((ec(&s), s.sys[3] & 0x7f), (0x25, 0x61));
}

#[test]
fn a_pending_step_comes_before_the_misaligned_pc_and_that_before_the_fetch() {
    // D1.3.5.5: software step, PC alignment, instruction abort.
    let step = [(SysReg::MDSCR_EL1, 1)];
    assert_eq!(ec(&run_at(CODE + 2, EL0, &[], &step)), 0x32);
    assert_eq!(ec(&run_at(CODE + 2, EL0 | SS, &[], &step)), 0x22);
    assert_eq!(ec(&run_at(1 << 60 | 2, EL0, &[], &[])), 0x22);
    let s = run_at(1 << 60, EL0, &[], &[]);
    assert_eq!((ec(&s), s.sys[3] & 0x3f), (0x20, 0), "address size, level 0");
}

#[test]
fn the_os_lock_masks_debug_exceptions() {
    // D2.5: all but BRK.
    let bp = [(SysReg::DBGBVR0_EL1, CODE + 4), (SysReg::DBGBCR0_EL1, 0x1e7), (SysReg::MDSCR_EL1, 0xa000)];
    let s = run(EL1, &[NOP, NOP], &bp);
    assert_eq!((ec(&s), s.sys[5]), (0x31, CODE + 4));
    let locked = [bp[0], bp[1], bp[2], (SysReg::OSLAR_EL1, 1)];
    assert_eq!(ec(&run(EL1, &[NOP, NOP], &locked)), 0);
    assert_eq!(ec(&run(EL1, &[0xd420_0000], &locked)), 0x3c);
}

#[test]
fn an_unlinked_context_breakpoint_hits_every_instruction_of_its_context() {
    // D2.8.2: DBGBCR.BT 0b0010; only the last breakpoints are context-aware.
    let set = |context| {
        [
            (SysReg::DBGBVR5_EL1, 7),
            (SysReg::DBGBCR5_EL1, 2 << 20 | 0x1e7),
            (SysReg::MDSCR_EL1, 0xa000),
            (SysReg::CONTEXTIDR_EL1, context),
        ]
    };
    let s = run(EL0, &[NOP], &set(7));
    assert_eq!((ec(&s), s.sys[5]), (0x30, CODE));
    assert_eq!(ec(&run(EL0, &[NOP], &set(8))), 0);
}

#[test]
fn an_illegal_return_keeps_the_step_bit() {
    // SetPSTATEFromPSR takes DebugExceptionReturnSS before it looks whether the return is legal: the instruction after it
    // is stepped, and that is where the illegal state shows.
    let to = |mode| [(SysReg::MDSCR_EL1, 0x2001), (SysReg::SPSR_EL1, mode | SS), (SysReg::ELR_EL1, CODE + 8)];
    let s = run(EL1 | D, &[ERET, NOP, NOP, NOP], &to(0x9));
    assert_eq!((ec(&s), s.sys[5], s.sys[6] & (SS | 1 << 20)), (0x0e, CODE + 8, SS | 1 << 20));
    // A legal one steps the instruction.
    let s = run(EL1 | D, &[ERET, NOP, NOP, NOP], &to(EL1));
    assert_eq!((ec(&s), s.sys[5]), (0x33, CODE + 12));
}

#[test]
fn an_exception_keeps_the_flags_and_dit() {
    // AArch64.TakeException writes neither PSTATE.NZCV nor DIT.
    let flags = 0xa << 28 | 1 << 24;
    let s = run(EL0 | flags, &[0xd400_0001], &[]);
    assert_eq!(ec(&s), 0x15);
    assert_eq!(s.sys[1] & (0xf << 28 | 1 << 24), flags);
}

#[test]
fn stripping_a_pointer_needs_no_enabled_key() {
    // XPACD: no SCTLR_EL1.EnIA and so on; the address is 48 bits wide with TnSZ 16.
    let tcr = (SysReg::TCR_EL1, 16 | 16 << 16 | 2 << 30);
    // mov x2, x1; movk x2, #0xff00, lsl #48
    let tagged = [0xaa01_03e2, 0xf2ff_e002];
    let s = run(EL1 | D, &tagged, &[tcr]);
    assert_eq!(s.x[2], DATA | 0xff << 56);
    let s = run(EL1 | D, &[tagged[0], tagged[1], 0xdac1_47e2], &[tcr]);
    assert_eq!(s.x[2], DATA);
}
