//! Real VMs of the software KVM: one to start a guest on, one to restore it into.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ulna_arm_regs::SysReg;
use ulna_arm_regs::id::IdReg;
use ulna_kvm_abi::device::*;
use ulna_kvm_abi::{Errno, RegId, cap};
use ulna_kvm_core::{ClockKind, Device, Engine, Kvm, KvmConfig, Policy, Run, Vcpu, Vm};
use ulna_machine::VcpuFeatures;
use ulna_machine::catalog::{Firmware, Named, name};
use ulna_plan::cpu::Cpu;
use ulna_plan::{Blocker, Gic, Guest, Host, Plan};
use ulna_profile::Profile;

const ICC_CTLR: u64 = 0xc664;
const RAM: u64 = 0x4000_0000;
const DONE: u64 = 0x1000_0000;
/// What a guest reads although KVM lists no such register.
const UNSEEN: [SysReg; 4] = [SysReg::CNTFRQ_EL0, SysReg::DCZID_EL0, SysReg::PMCEID0_EL0, SysReg::PMCEID1_EL0];

pub fn hosts(policy: Policy) -> Vec<Host> {
    ulna_profile::names().map(|n| Host::soft(Profile::builtin(n).expect(n), policy)).collect()
}

fn kvm(host: &Host) -> Kvm {
    Kvm::new(KvmConfig {
        profile: host.profile.clone(),
        policy: host.policy,
        clock: ClockKind::Insn,
        random: Arc::new(|| 0),
        wall_clock: Arc::new(|| 0),
        engine: Engine::Interp,
        engine_options: Default::default(),
        strict: false,
    })
}

/// A VM with what a guest has.
pub struct Made {
    pub vm: Vm,
    pub vcpu: Vcpu,
    pub gic: Option<Device>,
    /// Features that KVM_ARM_VCPU_INIT did not take.
    pub missing: VcpuFeatures,
}

/// A VM of `host` with one vCPU of these features, as far as it offers them, and a GIC if it has one of the version.
pub fn make(host: &Host, features: VcpuFeatures, v2: bool, identity: bool) -> Made {
    let vm = kvm(host).create_vm(0).expect("VM");
    if identity {
        // Refused where there is no such thing.
        let _ = vm.enable_cap(cap::ARM_WRITABLE_IMP_ID_REGS, 0, [0; 4]);
    }
    let memory = Arc::new(program());
    let (len, at) = (size_of::<Page>() as u64, memory.0.as_ptr().cast_mut().cast());
    // SAFETY: the slot owns the memory and is read-only (KVM_MEM_READONLY).
    unsafe { vm.set_user_memory_region(0, RAM, len, at, 2, memory).expect("slot") };
    let mut vcpu = vm.create_vcpu(0).expect("vCPU");
    let mut init = vm.preferred_target();
    init.features[0] = features.bits();
    let taken = VcpuFeatures::from_bits(features.bits() & vm.supported_features().bits());
    if taken != features {
        assert!(vcpu.init(&init).is_err(), "features that are not offered are refused");
        init.features[0] = taken.bits();
    }
    vcpu.init(&init).expect("init");
    let gic = match vm.create_device(if v2 { TYPE_ARM_VGIC_V2 } else { TYPE_ARM_VGIC_V3 }) {
        Ok(gic) => {
            let dist = if v2 { V2_ADDR_TYPE_DIST } else { V3_ADDR_TYPE_DIST };
            gic.set_attr(GRP_ADDR, dist, 0x0800_0000).expect("distributor");
            let other = if v2 { V2_ADDR_TYPE_CPU } else { V3_ADDR_TYPE_REDIST };
            gic.set_attr(GRP_ADDR, other, 0x080a_0000).expect("frames");
            gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("GIC");
            Some(gic)
        }
        Err(e) => {
            assert_eq!(e, Errno::ENODEV);
            None
        }
    };
    Made { vm, vcpu, gic, missing: VcpuFeatures::from_bits(features.bits() & !taken.bits()) }
}

/// A page of instructions.
#[repr(C, align(4096))]
struct Page([u32; 1024]);

/// Stores what it reads from the registers of UNSEEN, and loops.
fn program() -> Page {
    // movz x9, #0x1000, lsl #16
    let mut p = vec![0xd2a2_0009];
    for r in UNSEEN {
        // mrs x0, r; str x0, [x9]
        p.extend([0xd520_0000 | u32::from(r.code()) << 5, 0xf900_0120]);
    }
    p.push(0x1400_0000);
    let mut page = Page([0xd503_201f; 1024]);
    page.0[..p.len()].copy_from_slice(&p);
    page
}

impl Made {
    pub fn set(&mut self, id: RegId, v: u64) {
        self.vcpu.set_one_reg(id, &v.to_le_bytes()[..id.size()]).expect("register");
    }

    /// Runs to where the guest has read what there is to read.
    pub fn read_unseen(&mut self, pmu: bool) -> BTreeMap<SysReg, u64> {
        self.set(RegId::PC, RAM);
        self.set(RegId::PSTATE, 0x3c5);
        self.set(RegId::sysreg(SysReg::SCTLR_EL1.code()), 0x30c5_0830);
        if pmu {
            // KVM_ARM_VCPU_PMU_V3_IRQ, _INIT.
            self.vcpu.set_attr(0, 0, 23).expect("PMU interrupt");
            self.vcpu.set_attr(0, 1, 0).expect("PMU");
        }
        let mut values = BTreeMap::new();
        for r in UNSEEN {
            if !pmu && matches!(r, SysReg::PMCEID0_EL0 | SysReg::PMCEID1_EL0) {
                break;
            }
            match self.vcpu.run().expect("run") {
                Run::MmioWrite(DONE, data) => {
                    let mut b = [0; 8];
                    b.copy_from_slice(data);
                    values.insert(r, u64::from_le_bytes(b));
                }
                other => panic!("{other:x?}"),
            }
        }
        values
    }

    pub fn registers(&mut self) -> BTreeMap<RegId, Vec<u8>> {
        let ids = self.vcpu.reg_list().expect("list");
        let mut all = BTreeMap::new();
        for id in ids {
            let mut b = vec![0; id.size()];
            self.vcpu.get_one_reg(id, &mut b).expect("register");
            all.insert(id, b);
        }
        all
    }
}

/// A guest that runs on `host`, and what it reads that KVM does not list.
pub fn start(host: &Host, v2: bool) -> (Guest, BTreeMap<SysReg, u64>) {
    let features = host.usual_features();
    let mut g = Guest::of(host, features, v2);
    let mut m = make(host, features, g.gic == Some(Gic::V2), false);
    let unseen = m.read_unseen(features.contains(VcpuFeatures::PMU_V3));
    let real = m.registers();
    // What the plan expects of a host is what a VM there says.
    assert_eq!(g.regs.keys().collect::<Vec<_>>(), real.keys().collect::<Vec<_>>(), "{}", host.label());
    let rules = host.machine(features);
    for (id, bytes) in &real {
        let n = name(*id).expect("name");
        if rules.describes(n) {
            assert_eq!(&g.regs[id], bytes, "{}: {n}", host.label());
        }
    }
    g.regs = real;
    check_unlisted(host, &g, &m, &unseen);
    (g, unseen)
}

fn check_unlisted(host: &Host, g: &Guest, m: &Made, unseen: &BTreeMap<SysReg, u64>) {
    if let (Some(Gic::V3 { ctlr }), Some(gic)) = (&g.gic, &m.gic) {
        assert_eq!(Ok(*ctlr), gic.get_attr(GRP_CPU_SYSREGS, ICC_CTLR, 0), "{}", host.label());
    }
    assert_eq!(unseen[&SysReg::CNTFRQ_EL0], g.counter_hz);
    assert_eq!(unseen[&SysReg::DCZID_EL0], g.dczid);
}

/// A guest that runs on `host` as this CPU: what the file says, done for real.
pub fn start_as(host: &Host, cpu: &Cpu) -> (Guest, BTreeMap<SysReg, u64>) {
    let s = cpu.resolve(host).unwrap_or_else(|e| panic!("{}: {e:?}", host.label()));
    let mut g = cpu.guest(host).expect("guest");
    let mut m = make(host, g.features, g.gic == Some(Gic::V2), s.identity);
    for (id, v) in &s.vm_registers {
        m.vm.set_vm_reg(id.0, *v).expect("register of the VM");
    }
    for (id, v) in &s.registers {
        m.set(*id, *v);
    }
    if let (Some(v), Some(gic)) = (s.icc_ctlr, &m.gic) {
        gic.set_attr(GRP_CPU_SYSREGS, ICC_CTLR, v).expect("ICC_CTLR_EL1");
    }
    let unseen = m.read_unseen(g.features.contains(VcpuFeatures::PMU_V3));
    let real = m.registers();
    let rules = host.machine(g.features);
    for (id, bytes) in &real {
        let n = name(*id).expect("name");
        if rules.describes(n)
            && let Some(expected) = g.regs.get(id)
        {
            assert_eq!(expected, bytes, "{}: {n}", host.label());
        }
    }
    g.regs = real;
    check_unlisted(host, &g, &m, &unseen);
    (g, unseen)
}

/// Everything that a restore of `guest` on `to` refuses or that is otherwise afterwards.
pub fn restore(guest: &Guest, unseen: &BTreeMap<SysReg, u64>, to: &Host) -> BTreeSet<String> {
    let mut refused = BTreeSet::new();
    let mut m = make(to, guest.features, guest.gic == Some(Gic::V2), true);
    for (name, bits) in [("psci", 1 << 2), ("pmu", 1 << 3), ("ptrauth", 3 << 5), ("sve", 1 << 4)] {
        if m.missing.bits() & bits != 0 {
            refused.insert(name.to_owned());
        }
    }
    for (r, v) in chosen(guest, to) {
        // Without a PMU there are no events to choose.
        let there = !m.missing.contains(VcpuFeatures::PMU_V3) || !r.name().starts_with("PMCEID");
        if there && m.vm.set_vm_reg(RegId::sysreg(r.code()).0, v).is_err() {
            refused.insert(r.to_string());
        }
    }
    for (id, bytes) in &guest.regs {
        let n = name(*id).expect("name");
        let Err(e) = m.vcpu.set_one_reg(*id, bytes) else { continue };
        assert!(e == Errno::EINVAL || e == Errno::ENOENT, "{n}: {e:?}");
        let fields = if e == Errno::EINVAL { refused_fields(&mut m.vcpu, *id, n, bytes) } else { Vec::new() };
        if fields.is_empty() {
            refused.insert(n.to_string());
        }
        refused.extend(fields.iter().map(|f| format!("{n}.{f}")));
    }
    match (&m.gic, guest.gic) {
        (None, Some(_)) => {
            refused.insert("GIC".into());
        }
        (Some(gic), Some(Gic::V3 { ctlr })) => {
            let own = gic.get_attr(GRP_CPU_SYSREGS, ICC_CTLR, 0).expect("ICC_CTLR_EL1");
            for (f, mask) in [("PRIbits", 7 << 8), ("IDbits", 7 << 11), ("SEIS", 1 << 14), ("A3V", 1 << 15)] {
                if (own ^ ctlr) & mask == 0 {
                    continue;
                }
                // Each on a GIC of its own: a lowering stays.
                let one = make(to, guest.features, false, true);
                let gic = one.gic.expect("GIC");
                if gic.set_attr(GRP_CPU_SYSREGS, ICC_CTLR, own & !mask | ctlr & mask).is_err() {
                    refused.insert(format!("ICC_CTLR_EL1.{f}"));
                }
            }
        }
        _ => {}
    }
    let rules = to.machine(guest.features);
    let after = m.registers();
    for (id, bytes) in &guest.regs {
        let n = name(*id).expect("name");
        let matters = rules.describes(n) || n == Named::Sys(SysReg::PMCR_EL0);
        let level = matches!(n, Named::Firmware(Firmware::Workaround(_)));
        let said = refused.iter().any(|r| r.split('.').next() == Some(&n.to_string()));
        if matters && !level && !said && after.get(id).is_some_and(|a| a != bytes) {
            refused.insert(n.to_string());
        }
    }
    // What the guest reads there. A VM without an interrupt controller does not run as it would.
    let pmu = guest.features.contains(VcpuFeatures::PMU_V3) && !m.missing.contains(VcpuFeatures::PMU_V3);
    if m.gic.is_none() {
        m = make(to, guest.features, to.gic().v2, true);
        for (r, v) in chosen(guest, to) {
            let _ = m.vm.set_vm_reg(RegId::sysreg(r.code()).0, v);
        }
    }
    for (r, v) in m.read_unseen(pmu) {
        let Some(had) = unseen.get(&r) else { continue };
        let events = matches!(r, SysReg::PMCEID0_EL0 | SysReg::PMCEID1_EL0);
        if if events { had & !v != 0 } else { *had != v } {
            refused.insert(r.to_string());
        }
    }
    refused
}

/// What a VM of software can be told to read.
fn chosen(guest: &Guest, to: &Host) -> Vec<(SysReg, u64)> {
    if to.policy == Policy::Hw {
        return Vec::new();
    }
    let [e0, e1] = guest.pmu_events.map_or([None, None], |e| e.map(Some));
    let all = [
        (SysReg::CNTFRQ_EL0, Some(guest.counter_hz)),
        (SysReg::DCZID_EL0, Some(guest.dczid)),
        (SysReg::PMCEID0_EL0, e0),
        (SysReg::PMCEID1_EL0, e1),
    ];
    all.into_iter().filter_map(|(r, v)| Some((r, v?))).collect()
}

/// Fields whose value alone is refused.
fn refused_fields(vcpu: &mut Vcpu, id: RegId, n: Named, bytes: &[u8]) -> Vec<&'static str> {
    let Named::Sys(r) = n else { return Vec::new() };
    let Some(row) = IdReg::of(r) else { return Vec::new() };
    let mut own = [0; 8];
    vcpu.get_one_reg(id, &mut own).expect("register");
    let own = u64::from_le_bytes(own);
    let mut has = [0; 8];
    has.copy_from_slice(bytes);
    let has = u64::from_le_bytes(has);
    let mut fields = Vec::new();
    for f in row.fields {
        if vcpu.set_one_reg(id, &f.set(own, f.raw(has)).to_le_bytes()).is_err() {
            fields.push(f.name);
        }
        vcpu.set_one_reg(id, &own.to_le_bytes()).expect("its own");
    }
    fields
}

pub fn named(p: &Plan) -> BTreeSet<String> {
    p.blockers.iter().map(Blocker::name).collect()
}
