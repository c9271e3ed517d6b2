//! Registers by KVM_GET_ONE_REG and KVM_SET_ONE_REG that are not simply stored: the PMU's, PSTATE, ids of no meaning.

mod common;

use common::*;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::{Errno, RegId, vcpu_feature};
use ulna_kvm_core::{ClockKind, Vcpu};

const PMU: u32 = PSCI | 1 << vcpu_feature::PMU_V3;
const CYCLES: u64 = 1 << 31;

fn id(r: SysReg) -> RegId {
    RegId::sysreg(r.code())
}

fn with_pmu() -> (Guest, Vcpu) {
    let g = Guest::new("n1", ClockKind::Host);
    let v = g.vcpu(0, PMU);
    (g, v)
}

fn status(v: &mut Vcpu, id: u64) -> Result<(), Errno> {
    let mut b = [0; 256];
    let id = RegId(id);
    v.get_one_reg(id, &mut b[..id.size().min(256)])
}

#[test]
fn set_and_clear_registers_are_one_set_of_the_counters_there_are() {
    let (_g, mut v) = with_pmu();
    let all = CYCLES | 0x3f;
    for (on, off) in [
        (SysReg::PMCNTENSET_EL0, SysReg::PMCNTENCLR_EL0),
        (SysReg::PMINTENSET_EL1, SysReg::PMINTENCLR_EL1),
        (SysReg::PMOVSSET_EL0, SysReg::PMOVSCLR_EL0),
    ] {
        set(&mut v, id(on), u64::MAX);
        assert_eq!((get(&mut v, id(on)), get(&mut v, id(off))), (all, all), "{on}");
        set(&mut v, id(on), 0);
        assert_eq!(get(&mut v, id(on)), all, "{on}: writing zeros adds nothing");
        set(&mut v, id(off), 3);
        assert_eq!((get(&mut v, id(on)), get(&mut v, id(off))), (all & !3, all & !3), "{off}");
    }
    set(&mut v, id(SysReg::PMSWINC_EL0), u64::MAX);
    assert_eq!(get(&mut v, id(SysReg::PMSWINC_EL0)), 0);
}

#[test]
fn the_number_of_counters_is_the_vms_and_goes_down_and_up_to_the_hosts() {
    let (g, mut v) = with_pmu();
    let mut other = g.vcpu(1, PMU);
    let pmcr = id(SysReg::PMCR_EL0);
    let n = |v: &mut Vcpu| get(v, pmcr) >> 11 & 31;
    assert_eq!((n(&mut v), n(&mut other)), (6, 6));
    set(&mut v, pmcr, 2 << 11);
    assert_eq!((n(&mut v), n(&mut other)), (2, 2));
    set(&mut v, pmcr, 31 << 11 | 0xff);
    assert_eq!((n(&mut v), get(&mut v, pmcr) & 0xff), (2, 0xff), "more than the host has is left aside");
    set(&mut v, id(SysReg::PMCNTENCLR_EL0), u64::MAX);
    let enabled = id(SysReg::PMCNTENSET_EL0);
    let before = get(&mut v, enabled);
    set(&mut v, enabled, u64::MAX);
    assert_eq!(get(&mut v, enabled) & !before, (CYCLES | 3) & !before);
    set(&mut other, pmcr, 6 << 11);
    assert_eq!(n(&mut v), 6);
}

#[test]
fn event_counters_are_as_wide_as_the_pmu_version() {
    let (_g, mut v) = with_pmu();
    let counter = id(SysReg::PMEVCNTR0_EL0);
    set(&mut v, counter, u64::MAX);
    assert_eq!(get(&mut v, counter), 0xffff_ffff, "PMUv3p1");
}

#[test]
fn pstate_reads_as_written_until_the_vcpu_runs() {
    let (g, mut v) = Guest::with(&[]);
    g.memory.program(0, &[li(1, DONE).as_slice(), &[str_w(0, 1)]].concat());
    let odd = 0x3c5 | 1 << 40 | 1 << 15;
    set(&mut v, RegId::PSTATE, odd);
    assert_eq!(get(&mut v, RegId::PSTATE), odd);
    result(&mut v);
    assert_eq!(get(&mut v, RegId::PSTATE), 0x3c5);
    set(&mut v, RegId::spsr(2), 0x1234_5678_9abc);
    assert_eq!(get(&mut v, RegId::spsr(2)), 0x1234_5678_9abc);
    assert_eq!(get(&mut v, RegId::spsr(1)), 0);
}

#[test]
fn ids_without_a_meaning_say_what_is_wrong_with_them() {
    let (_g, mut v) = Guest::with(&[]);
    for (id, want) in [
        // SVE registers on a vCPU without SVE, and what no vCPU has.
        (0x6080_0000_0015_0020, Errno::ENOENT),
        (0x6050_0000_0015_0400, Errno::ENOENT),
        (0x6060_0000_0015_ffff, Errno::ENOENT),
        (0x6050_0000_0015_0000, Errno::EINVAL),
        (0x6080_0000_0015_0400, Errno::EINVAL),
        // 512 bytes.
        (0x6090_0000_0010_0000, Errno::EINVAL),
        (0x6090_0000_0012_0000, Errno::ENOENT),
        (0x6070_0000_0013_c000, Errno::ENOENT),
        (0x7030_0000_0013_c000, Errno::EINVAL),
        (0x6030_0001_0013_c000, Errno::EINVAL),
        // Another register than MIDR, REVIDR and AIDR in a group of no meaning.
        (0x6030_0000_0012_c080, Errno::ENOENT),
    ] {
        assert_eq!(status(&mut v, id), Err(want), "{id:#x}");
    }
    let midr = get(&mut v, id(SysReg::MIDR_EL1));
    assert_eq!(get(&mut v, RegId(0x6030_0000_0012_c000)), midr);
    assert_eq!(v.set_one_reg(RegId(0x6030_0000_0012_c000), &(midr ^ 1).to_le_bytes()), Err(Errno::EINVAL));
}

/// Whatever a VMM wrote, each register takes what it reads back.
#[test]
fn a_saved_register_can_be_restored() {
    let mut random = Rng(7);
    for _ in 0..64 {
        let (_g, mut v) = with_pmu();
        let list = v.reg_list().expect("list");
        for _ in 0..40 {
            let id = list[random.below(list.len() as u64) as usize];
            let mut b = [0; 16];
            b[..8].copy_from_slice(&random.next().to_le_bytes());
            // Refused or not.
            let _ = v.set_one_reg(id, &b[..id.size()]);
        }
        for id in list {
            let mut b = [0; 16];
            let b = &mut b[..id.size()];
            v.get_one_reg(id, b).expect("a listed register");
            assert_eq!(v.set_one_reg(id, b), Ok(()), "{:#x} refuses {b:x?}", id.0);
        }
    }
}
