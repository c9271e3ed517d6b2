//! What no reference at hand answers: checked against the rule of the manual. docs/src/reference/verification.md lists the
//! features and where each is tested.

use std::sync::Arc;

use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::mem::{PhysMap, Slot};
use ulna_arm_cpu::shared::VmShared;
use ulna_arm_cpu::{Cpu, CpuConfig, Exit, Feat, FeatSet, SysReg};

struct Stopped;
impl Clock for Stopped {
    fn counter(&self, _: u64) -> u64 {
        0
    }
}

const RAM: u64 = 0x4000_0000;
const TABLE: u64 = RAM + 0x2000;
const DATA: u64 = RAM + 0x4000;
const VECTORS: u64 = RAM + 0x8000;
const HVC_7: u32 = 0xd400_00e2;
const NZCV: u64 = 0xf << 28;

/// A PE at EL1 with the MMU off, the words at the start of RAM, and HVC #7 behind them and in every vector.
fn machine(words: &[u32], random: u64) -> Cpu {
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
        features: FeatSet::ALL,
        memory,
        shared: Arc::new(VmShared::default()),
        clock: Arc::new(Stopped),
        random: Arc::new(move || random),
    });
    cpu.state.set_sys(SysReg::ID_AA64MMFR0_EL1, 5);
    cpu.state.set_sys(SysReg::VBAR_EL1, VECTORS);
    cpu.state.set_el_sp(1, 1);
    cpu.state.daif = 0x3c0;
    cpu.state.pc = RAM;
    cpu
}

fn class(cpu: &Cpu) -> u64 {
    cpu.state.sys(SysReg::ESR_EL1) >> 26 & 63
}

/// FEAT_RNG: success clears the flags (Arm ARM D19, RNDR).
#[test]
fn a_random_number_clears_the_flags() {
    // mrs x0, RNDR; mrs x1, RNDRRS; mrs x2, NZCV
    let mut cpu = machine(&[0xd53b_2400, 0xd53b_2421, 0xd53b_4202], 0x1234_5678_9abc_def0);
    cpu.state.nzcv = NZCV as u32;
    assert_eq!(cpu.run(), Exit::Hvc { imm: 7 });
    assert_eq!(cpu.state.pc, RAM + 16);
    assert_eq!(cpu.state.x[0], 0x1234_5678_9abc_def0);
    assert_eq!(cpu.state.x[1], 0x1234_5678_9abc_def0);
    assert_eq!(cpu.state.x[2] & NZCV, 0);
}

/// FEAT_SPECRES: EL0 needs SCTLR_EL1.EnRCTX, else the access is trapped with EC 0x18.
#[test]
fn prediction_restriction_is_gated_at_el0() {
    for word in [0xd50b_7380, 0xd50b_73a0, 0xd50b_73e0] {
        // cfp, dvp, cpp rctx, x0
        for (enabled, el) in [(false, 0), (true, 0), (false, 1)] {
            let mut cpu = machine(&[word], 0);
            cpu.state.set_el_sp(el, el);
            cpu.state.set_sys(SysReg::SCTLR_EL1, u64::from(enabled) << 10);
            let exit = cpu.run();
            if el == 1 {
                assert_eq!((exit, cpu.state.pc), (Exit::Hvc { imm: 7 }, RAM + 8), "{word:#x}");
            } else {
                // Behind it stands HVC, which is UNDEFINED at EL0.
                let want = if enabled { (0, RAM + 4) } else { (0x18, RAM) };
                assert_eq!((class(&cpu), cpu.state.sys(SysReg::ELR_EL1)), want, "{word:#x} {enabled}");
            }
        }
    }
}

/// FEAT_XS: DSB nXS is a barrier; without the feature its encoding is UNDEFINED.
#[test]
fn dsb_nxs_needs_its_feature() {
    let word = 0xd503_3e3f; // dsb synxs
    let mut cpu = machine(&[word], 0);
    assert_eq!((cpu.run(), cpu.state.pc), (Exit::Hvc { imm: 7 }, RAM + 8));
    let mut cpu = machine(&[word], 0);
    let mut without = FeatSet::ALL;
    without.remove(Feat::XS);
    cpu.set_features(without);
    assert_eq!(cpu.run(), Exit::Hvc { imm: 7 });
    assert_eq!((class(&cpu), cpu.state.sys(SysReg::ELR_EL1)), (0, RAM));
}

/// FEAT_PAN3: with SCTLR_EL1.EPAN, PAN also protects memory that EL0 may only execute (Arm ARM D8.4.3).
#[test]
fn enhanced_pan_protects_execute_only_memory() {
    // PSTATE.PAN, SCTLR_EL1.EPAN, block readable at EL0 (AP[1])
    for (pan, epan, user_reads) in
        [(false, true, false), (true, false, false), (true, true, false), (true, false, true)]
    {
        let ldr = 0xf940_0001u32; // ldr x1, [x0]
        let mut cpu = machine(&[ldr], 0);
        cpu.state.x[0] = DATA;
        // A 1 GiB block at VA 0x40000000: AF, inner shareable, AttrIndx 0, UXN = PXN = 0. Readable at EL0 means read-only
        // here, since EL1 does not execute what EL0 can write.
        let ap = if user_reads { 3 << 6 } else { 0 };
        let block = RAM | 1 << 10 | 3 << 8 | ap | 1;
        let hits = cpu.config.memory.slots();
        let host = hits[0].host(TABLE + 8);
        // SAFETY: the slot's memory is leaked and big enough; the CPU does not run.
        unsafe { host.cast::<u64>().write(block) };
        cpu.state.set_sys(SysReg::MAIR_EL1, 0xff);
        cpu.state.set_sys(SysReg::TTBR0_EL1, TABLE);
        // T0SZ 25, write-back tables, EPD1, 40-bit addresses
        cpu.state.set_sys(SysReg::TCR_EL1, 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 32);
        cpu.state.set_sys(SysReg::SCTLR_EL1, 1 | u64::from(epan) << 57);
        cpu.state.pan = pan;
        assert_eq!(cpu.run(), Exit::Hvc { imm: 7 });
        if pan && (epan || user_reads) {
            // A permission fault at level 1 on a read.
            assert_eq!(cpu.state.sys(SysReg::ESR_EL1) & 0x7f, 0xd, "{pan} {epan} {user_reads}");
            assert_eq!((class(&cpu), cpu.state.sys(SysReg::FAR_EL1)), (0x25, DATA));
        } else {
            assert_eq!(cpu.state.pc, RAM + 8, "{pan} {epan} {user_reads}");
        }
    }
}

/// What a machine's registers are beyond, or short of, what its features say.
#[test]
fn irregular_registers_answer_as_the_machine_says() {
    use ulna_arm_cpu::Irregular;
    // mrs x0, S3_1_C15_C3_0 is MRS of 0xcf98; mrs x1, OSDTRRX_EL1 of 0x8002.
    let mrs = |enc: u32, rt: u32| 0xd530_0000 | (enc >> 14 & 1) << 19 | (enc & 0x3fff) << 5 | rt;
    let with = |i: Irregular, word: u32| {
        let mut c = machine(&[word], 0);
        c.irregular = Arc::new(i);
        c
    };
    let mut c = with(Irregular::new(vec![], vec![(0xcf98, 1, 0x800_0000)]), mrs(0xcf98, 0));
    assert_eq!(c.run(), Exit::Hvc { imm: 7 });
    assert_eq!((c.state.x[0], c.state.pc), (0x800_0000, RAM + 8));
    let mut c = with(Irregular::default(), mrs(0xcf98, 0));
    assert_eq!(c.run(), Exit::SysReg { enc: 0xcf98, rt: 0, read: true });
    let mut c = with(Irregular::default(), mrs(0x8002, 1));
    assert_eq!(c.run(), Exit::Hvc { imm: 7 });
    assert_eq!(c.state.pc, RAM + 8, "not an exception");
    for word in [mrs(0x8002, 1), mrs(0x8002, 1) & !(1 << 21)] {
        let mut c = with(Irregular::new(vec![0x8002], vec![]), word);
        assert_eq!(c.run(), Exit::Hvc { imm: 7 });
        assert_eq!((class(&c), c.state.sys(SysReg::ELR_EL1)), (0, RAM), "{word:#x}");
    }
}

/// PMUSERENR_EL0 traps to EL1 (EC 0x18); under MDCR_EL2.TPM the hypervisor answers UNDEFINED.
#[test]
fn a_denied_counter_is_a_trap_or_undefined() {
    // mrs x0, PMCR_EL0
    for (emulated, ec) in [(false, 0x18), (true, 0)] {
        let mut c = machine(&[0xd53b_9c00], 0);
        c.pmu_emulated = emulated;
        c.state.el = 0;
        assert_eq!(c.run(), Exit::Hvc { imm: 7 });
        assert_eq!(class(&c), ec);
    }
}
