//! The ABI of 2013 and what became of it: scenarios H2, H6, H8 and H10 of seed-systems.md §6.6.

mod common;

use common::*;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::device::*;
use ulna_kvm_abi::{Errno, RegId, private, vcpu_feature};
use ulna_kvm_core::firmware::sdei;
use ulna_kvm_core::{ClockKind, Engine, Kvm, Vcpu};
use ulna_machine::VcpuFeatures;
use ulna_profile::KernelLevel;

/// Every listed id is read, and takes what it said.
fn each_id_takes_its_own(v: &mut Vcpu, what: &str) -> usize {
    let list = v.reg_list().expect("list");
    let mut seen = std::collections::BTreeSet::new();
    for id in &list {
        assert!(seen.insert(*id), "{what}: {:#x} twice", id.0);
        let mut data = vec![0; id.size()];
        v.get_one_reg(*id, &mut data).unwrap_or_else(|e| panic!("{what}: get {:#x}: {e}", id.0));
        v.set_one_reg(*id, &data).unwrap_or_else(|e| panic!("{what}: set {:#x} to {data:x?}: {e}", id.0));
    }
    list.len()
}

#[test]
fn h2_every_listed_register_takes_its_own_value() {
    for name in ulna_profile::names() {
        for everything in [false, true] {
            let mut c = config(name, ClockKind::Host, Engine::Interp);
            if everything {
                c.profile.kernel = c.profile.kernel.max(KernelLevel { major: 6, minor: 15 });
            }
            let g = Guest::of(&Kvm::new(c));
            if everything {
                g.vm.enable_cap(239, 0, [0; 4]).expect("writable identity");
                g.vm.enable_cap(private::CAP_HET_IDENTITY, 0, [0; 4]).expect("of each vCPU's own");
                g.vm.enable_cap(private::CAP_REG_SCOPE, 0, [1, 0, 0, 0]).expect("tags");
                g.vm.enable_cap(sdei::CAP, 0, [0; 4]).expect("SDEI");
            }
            let mut bits = PSCI;
            if everything {
                let other = VcpuFeatures::EL1_32BIT | VcpuFeatures::POWER_OFF | VcpuFeatures::SVE;
                bits |= g.vm.supported_features().without(other).bits();
            }
            let what = format!("{name}, everything: {everything}");
            let mut v = g.vcpu(0, bits);
            if everything {
                let features = sdei::Reg::Features.id();
                g.vm.set_vm_reg(features.0, 0x7_0202).expect("all of SDEI");
            }
            let n = each_id_takes_its_own(&mut v, &what);
            assert!(n > 200, "{what}: {n}");
            // After the first run, too: a VMM writes all of them again at a reset.
            if bits >> vcpu_feature::PMU_V3 & 1 == 0 {
                g.memory.program(0, &done(31));
                set(&mut v, RegId::PC, RAM);
                result(&mut v);
                assert_eq!(each_id_takes_its_own(&mut v, &what), n);
            }
        }
    }
}

#[test]
fn h6_no_vcpu_comes_after_the_gic_was_initialised() {
    for v2 in [false, true] {
        let g = Guest::new(if v2 { "rpi4" } else { "n1" }, ClockKind::Host);
        let _first = g.vcpu(0, PSCI);
        let gic = g.vm.create_device(if v2 { TYPE_ARM_VGIC_V2 } else { TYPE_ARM_VGIC_V3 }).expect("GIC");
        let _second = g.vm.create_vcpu(1).expect("before it is initialised");
        gic.set_attr(GRP_ADDR, if v2 { V2_ADDR_TYPE_DIST } else { V3_ADDR_TYPE_DIST }, GICD)
            .expect("address");
        let (kind, at) = if v2 { (V2_ADDR_TYPE_CPU, GICD + 0x1_0000) } else { (V3_ADDR_TYPE_REDIST, GICR) };
        gic.set_attr(GRP_ADDR, kind, at).expect("address");
        gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
        for id in [1, 2, 7] {
            assert_eq!(g.vm.create_vcpu(id).err(), Some(Errno::EBUSY), "GICv2: {v2}, {id}");
        }
    }
}

#[test]
fn h8_vcpus_of_a_vm_have_the_same_features() {
    const PMU: u32 = 1 << vcpu_feature::PMU_V3;
    let g = Guest::new("n1", ClockKind::Host);
    let mut first = g.vcpu(0, PSCI | PMU);
    let mut second = g.vm.create_vcpu(1).expect("vCPU");
    for other in [0, PSCI, PMU, PSCI | PMU | 1 << vcpu_feature::EL1_32BIT] {
        assert_eq!(second.init(&features(other)), Err(Errno::EINVAL), "{other:#x}");
        assert_eq!(second.reg_list().err(), Some(Errno::ENOEXEC), "it is not initialised by that");
    }
    // Off or on is each vCPU's own business.
    second.init(&features(PSCI | PMU | OFF)).expect("init");
    // And a vCPU that was initialised stays what it is.
    assert_eq!(first.init(&features(PSCI)), Err(Errno::EINVAL));
    first.init(&features(PSCI | PMU)).expect("reset");
}

#[test]
fn h10_an_interrupt_line_reaches_vcpu_300() {
    const N: u32 = 300;
    const PPI: u32 = 20;
    let g = Guest::new("n1", ClockKind::Host);
    // Waits, then acknowledges.
    let program = [start_gic(N.into(), 1 << PPI), vec![WFI, mrs(0, SysReg::ICC_IAR1_EL1)], done(0)];
    g.memory.program(0, &program.concat());
    let mut vcpus: Vec<Vcpu> = (0..=N).map(|n| g.vcpu(n, PSCI)).collect();
    let gic = g.vm.create_device(TYPE_ARM_VGIC_V3).expect("GIC");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
    gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST_REGION, 301 << 52 | GICR).expect("redistributors");
    gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
    // vcpu2 is 31:28, the type (PPI) 27:24, the vCPU 23:16.
    let irq = (N / 256) << 28 | irq_type::PPI << 24 | (N % 256) << 16 | PPI;
    assert_eq!(irq, 0x122c_0014);
    g.vm.irq_line(irq, true).expect("line");
    // GICR_ISPENDR0 of all: the level shows where it went, and nowhere else.
    for n in 0..=N {
        let mpidr = u64::from(n >> 4) << 8 | u64::from(n & 15);
        let level = gic.get_attr(GRP_LEVEL_INFO, mpidr << 32, 0).expect("level");
        assert_eq!(level, u64::from(n == N) << PPI, "vCPU {n}");
    }
    assert_eq!(result(&mut vcpus[N as usize]), PPI.into());
    g.vm.irq_line(irq, false).expect("line");
    for nobody in [0x122d_0014, 0xf2ff_0014] {
        assert_eq!(g.vm.irq_line(nobody, true), Err(Errno::EINVAL));
    }
}
