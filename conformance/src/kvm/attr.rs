//! Device attributes of VMs, vCPUs and the GIC: which there are, and what sequences of them answer.

use serde_json::json;
use ulna_kvm_abi::device::*;
use ulna_kvm_abi::structs::{PmuEventFilter, SmcccFilter};

use super::answers::{Answers, hex};
use super::lab::{Cfg, Lab, PLAIN, PMU, PSCI, RAM, WITH_GIC};

/// KVM_HAS_DEVICE_ATTR of `n` attributes in each of the first `groups` groups.
pub fn has_attrs(lab: &Lab, out: &mut Answers, fd_name: &str, cfg: &str, fd: i32, groups: u32, n: u64) {
    for group in 0..groups {
        let ret: Vec<i64> = (0..n).map(|a| lab.has_attr(fd, group, a)).collect();
        out.line(json!({"k": "hasattr", "fd": fd_name, "cfg": cfg, "group": group, "ret": ret}));
    }
}

/// `hasattr` of VMs and vCPUs in every configuration, and `act` of the attributes.
pub fn replay(lab: &Lab, cfgs: &[Cfg], pmu: bool, gic: bool) -> Answers {
    let mut out = Answers::default();
    for c in cfgs {
        let v = lab.make(c);
        has_attrs(lab, &mut out, "vm", c.name, v.fd, 4, 8);
        has_attrs(lab, &mut out, "vcpu", c.name, v.vcpu, 5, 8);
    }
    timer(lab, &mut out);
    if gic {
        timer_with_gic(lab, &mut out);
    }
    pvtime(lab, &mut out);
    smccc_filter(lab, &mut out);
    if pmu {
        self::pmu(lab, &mut out);
        if gic {
            pmu_with_gic(lab, &mut out);
        }
    }
    out
}

fn timer(lab: &Lab, out: &mut Answers) {
    let v = lab.make(&PLAIN);
    let set = |attr, irq: i32| lab.set_attr(v.vcpu, GRP_TIMER_CTRL, attr, irq as u32);
    for a in 0..5 {
        let mut irq = u32::MAX;
        let r = lab.get_attr(v.vcpu, GRP_TIMER_CTRL, a, &mut irq);
        out.act_value("timer", format!("get {a}"), r, json!(irq as i32));
    }
    for irq in [0, 15, 16, 27, 30, 31, 32, 1000, -1] {
        out.act("timer", format!("set vtimer {irq}"), set(TIMER_IRQ_VTIMER, irq));
    }
    out.act("timer", "set vtimer 20", set(TIMER_IRQ_VTIMER, 20));
    out.act("timer", "set ptimer 20", set(TIMER_IRQ_PTIMER, 20));
    out.act("timer", "run", v.run_once(false));
    out.act("timer", "set vtimer after run", set(TIMER_IRQ_VTIMER, 20));
}

fn timer_with_gic(lab: &Lab, out: &mut Answers) {
    let v = lab.make(&WITH_GIC);
    let seq = "timer-gic";
    let set = |attr, irq: u32| lab.set_attr(v.vcpu, GRP_TIMER_CTRL, attr, irq);
    out.act(seq, "set vtimer 20", set(TIMER_IRQ_VTIMER, 20));
    out.act(seq, "set ptimer 20", set(TIMER_IRQ_PTIMER, 20));
    out.act(seq, "run", v.run_once(false));
    out.act(seq, "set ptimer 21", set(TIMER_IRQ_PTIMER, 21));
    out.act(seq, "run again", v.run_once(false));
    out.act(seq, "set ptimer 21 after run", set(TIMER_IRQ_PTIMER, 21));
}

fn pvtime(lab: &Lab, out: &mut Answers) {
    let v = lab.make(&PLAIN);
    let seq = "pvtime";
    let mut ipa = 0x1234u64;
    out.act(seq, "get", lab.get_attr(v.vcpu, GRP_PVTIME_CTRL, PVTIME_IPA, &mut ipa));
    out.act_value(seq, "value", 0, hex(ipa));
    let set = |ipa: u64| lab.set_attr(v.vcpu, GRP_PVTIME_CTRL, PVTIME_IPA, ipa);
    out.act(seq, "set unaligned", set(RAM + 1));
    out.act(seq, "set not memory", set(0x1000));
    out.act(seq, "set", set(RAM + 0x2000));
    out.act(seq, "set again", set(RAM + 0x2000));
    out.act(seq, "get after", lab.get_attr(v.vcpu, GRP_PVTIME_CTRL, PVTIME_IPA, &mut ipa));
}

fn smccc_filter(lab: &Lab, out: &mut Answers) {
    let v = lab.make(&PLAIN);
    let seq = "smccc-filter";
    let filter = |base, nr_functions, action| SmcccFilter { base, nr_functions, action, pad: [0; 15] };
    let set = |f: SmcccFilter| lab.set_attr(v.fd, GRP_VM_SMCCC_CTRL, VM_SMCCC_FILTER, f);
    let mut f = filter(0x8400_0000, 16, 1);
    out.act(seq, "get", lab.get_attr(v.fd, GRP_VM_SMCCC_CTRL, VM_SMCCC_FILTER, &mut f));
    let mut padded = filter(0x8400_0000, 16, 1);
    padded.pad[0] = 1;
    out.act(seq, "pad", set(padded));
    for (op, base, n, action) in [
        ("empty", 0x8400_0000, 0, 1),
        ("wraps", 0xffff_ffff, 2, 1),
        ("action 3", 0x8400_0000, 16, 3),
        ("action 0", 0x8400_0000, 16, 0),
        ("deny 84000000+16", 0x8400_0000, 16, 1),
        ("overlap", 0x8400_0008, 16, 2),
        ("adjacent", 0x8400_0010, 1, 2),
        ("smccc version", 0x8000_0000, 1, 1),
        ("arch range", 0x8000_0000, 0x1_0000, 1),
        ("arch64", 0xc000_0000, 1, 1),
        ("yielding", 0, 0x1000_0000, 2),
    ] {
        out.act(seq, op, set(filter(base, n, action)));
    }
    out.act(seq, "run", v.run_once(false));
    out.act(seq, "after run", set(filter(0xc600_0000, 1, 2)));
}

fn pmu(lab: &Lab, out: &mut Answers) {
    let v = lab.bare(false);
    lab.vcpu_init(v.vcpu, PSCI | PMU);
    let seq = "pmu";
    let mut irq = 23u32;
    out.act(seq, "get irq", lab.get_attr(v.vcpu, GRP_PMU_V3_CTRL, PMU_V3_IRQ, &mut irq));
    out.act(seq, "set irq without gic", lab.set_attr(v.vcpu, GRP_PMU_V3_CTRL, PMU_V3_IRQ, irq));
    let event =
        |base_event, nevents, action, pad| PmuEventFilter { base_event, nevents, action, pad: [pad, 0, 0] };
    let filter = |f: PmuEventFilter| lab.set_attr(v.vcpu, GRP_PMU_V3_CTRL, PMU_V3_FILTER, f);
    out.act(seq, "filter", filter(event(0, 1, 0, 0)));
    out.act(seq, "filter action 2", filter(event(0, 1, 2, 0)));
    out.act(seq, "filter pad", filter(event(0, 1, 1, 1)));
    out.act(seq, "filter range", filter(event(0xffff, 2, 1, 0)));
    for id in 0..12u32 {
        out.act(seq, format!("set pmu {id}"), lab.set_attr(v.vcpu, GRP_PMU_V3_CTRL, PMU_V3_SET_PMU, id));
    }
    out.act(seq, "init", lab.do_attr(v.vcpu, GRP_PMU_V3_CTRL, PMU_V3_INIT));
    out.act(seq, "init again", lab.do_attr(v.vcpu, GRP_PMU_V3_CTRL, PMU_V3_INIT));
    out.act(seq, "filter after init", filter(event(0, 1, 1, 0)));
    out.act(seq, "run", v.run_once(false));
}

fn pmu_with_gic(lab: &Lab, out: &mut Answers) {
    let mut v = lab.bare(false);
    v.add_gic();
    v.place_gic();
    lab.vcpu_init(v.vcpu, PSCI | PMU);
    let seq = "pmu-gic";
    let init = || lab.do_attr(v.vcpu, GRP_PMU_V3_CTRL, PMU_V3_INIT);
    let mut irq = 12u32;
    out.act(seq, "init before irq", init());
    out.act(seq, "get irq", lab.get_attr(v.vcpu, GRP_PMU_V3_CTRL, PMU_V3_IRQ, &mut irq));
    let set = |irq: i32| lab.set_attr(v.vcpu, GRP_PMU_V3_CTRL, PMU_V3_IRQ, irq as u32);
    for irq in [0, 15, 32, 63, 64, 1019, 1020, -1, 23, 24] {
        out.act(seq, format!("set irq {irq}"), set(irq));
    }
    out.act(seq, "get irq after", lab.get_attr(v.vcpu, GRP_PMU_V3_CTRL, PMU_V3_IRQ, &mut irq));
    out.act(seq, "init before gic init", init());
    lab.do_attr(v.gic, GRP_CTRL, CTRL_INIT);
    out.act(seq, "init", init());
    out.act(seq, "run", v.run_once(false));
}
