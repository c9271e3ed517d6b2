//! Before and at VCPU_INIT: calls too early, a second initialisation, the first run.

use serde_json::json;
use ulna_kvm_abi::ioctl::request;
use ulna_kvm_abi::structs::*;
use ulna_kvm_abi::{RegId, device, mp_state, vcpu_feature};

use super::answers::{Answers, hex};
use super::lab::{Cfg, EL1_32BIT, Lab, PMU, PSCI, SVE};

/// KVM_REG_ARM64_SVE_VLS.
const SVE_VLS: RegId = RegId(0x6060_0000_0015_ffff);
/// KVM_REG_ARM64_SVE_ZREG(0, 0).
const SVE_Z0: RegId = RegId(0x6080_0000_0015_0000);

/// `reinit`: a second VCPU_INIT and a second vCPU, with each set of `features`.
pub fn reinit(lab: &Lab, features: u32) -> Answers {
    let mut out = Answers::default();
    for then in (0..256u32).filter(|b| b & !features == 0) {
        let v = lab.bare(false);
        lab.vcpu_init(v.vcpu, PSCI);
        let second = lab.ctl(v.fd, request::CREATE_VCPU, 1) as i32;
        let same = lab.vcpu_init(v.vcpu, then);
        let other = lab.vcpu_init(second, then);
        out.line(json!({"k": "reinit", "first": "0x4", "then": hex(then.into()), "same_vcpu": same,
            "other_vcpu": other}));
        lab.close(second);
    }
    out
}

/// `early`.
pub fn early(lab: &Lab, features: u32) -> Answers {
    let mut out = Answers::default();
    let v = lab.bare(false);
    let mut val = 0;
    let mut mp = MpState::default();
    let mut events = VcpuEvents::default();
    let mut regs = [0u8; 864];
    out.early("KVM_RUN", v.run());
    out.early("GET_REG_LIST", lab.reg_count(v.vcpu, 8).0);
    out.early("GET_ONE_REG pc", lab.get_reg(v.vcpu, RegId::PC, &mut val));
    out.early("SET_ONE_REG pc", v.set(RegId::PC, val));
    out.early("GET_ONE_REG midr", lab.get_reg(v.vcpu, RegId::sysreg(0xc000), &mut val));
    out.early("GET_ONE_REG unknown", lab.get_reg(v.vcpu, RegId(0), &mut val));
    out.early("GET_MP_STATE", lab.with(v.vcpu, request::GET_MP_STATE, &mut mp));
    out.early("mp_state", mp.mp_state);
    mp.mp_state = mp_state::RUNNABLE;
    out.early("SET_MP_STATE runnable", lab.with(v.vcpu, request::SET_MP_STATE, &mut mp));
    mp.mp_state = mp_state::STOPPED;
    out.early("SET_MP_STATE stopped", lab.with(v.vcpu, request::SET_MP_STATE, &mut mp));
    out.early("GET_VCPU_EVENTS", lab.with(v.vcpu, request::GET_VCPU_EVENTS, &mut events));
    out.early("SET_VCPU_EVENTS", lab.with(v.vcpu, request::SET_VCPU_EVENTS, &mut events));
    let mut debug = GuestDebug::default();
    out.early("SET_GUEST_DEBUG 0", lab.with(v.vcpu, request::SET_GUEST_DEBUG, &mut debug));
    out.early("FINALIZE sve", lab.finalize(v.vcpu, vcpu_feature::SVE));
    out.early("GET_REGS", lab.with(v.vcpu, request::GET_REGS, &mut regs));
    out.early("SET_REGS", lab.with(v.vcpu, request::SET_REGS, &mut regs));
    let has = |group, attr| lab.has_attr(v.vcpu, group, attr);
    out.early("HAS_DEVICE_ATTR pmu irq", has(device::GRP_PMU_V3_CTRL, device::PMU_V3_IRQ));
    out.early("HAS_DEVICE_ATTR timer", has(device::GRP_TIMER_CTRL, device::TIMER_IRQ_VTIMER));
    out.early("VCPU_INIT psci", lab.vcpu_init(v.vcpu, PSCI));
    out.early("GET_ONE_REG pc after init", lab.get_reg(v.vcpu, RegId::PC, &mut val));
    out.early("FINALIZE sve without it", lab.finalize(v.vcpu, vcpu_feature::SVE));
    out.early("GET_REGS after init", lab.with(v.vcpu, request::GET_REGS, &mut regs));
    drop(v);
    if features & SVE != 0 {
        sve(lab, &mut out);
    }
    if features & PMU != 0 {
        let v = lab.bare(false);
        lab.vcpu_init(v.vcpu, PSCI | PMU);
        out.early("pmu: KVM_RUN without INIT", v.run_once(false));
    }
    out
}

/// Before and after KVM_ARM_VCPU_FINALIZE.
fn sve(lab: &Lab, out: &mut Answers) {
    let v = lab.bare(false);
    lab.vcpu_init(v.vcpu, PSCI | SVE);
    let get = |id| lab.get_reg(v.vcpu, id, &mut 0);
    out.early("sve: GET_REG_LIST", lab.reg_count(v.vcpu, 8).0);
    out.early("sve: GET_ONE_REG pc", get(RegId::PC));
    out.early("sve: GET_ONE_REG z0", get(SVE_Z0));
    out.early("sve: GET_ONE_REG vls", get(SVE_VLS));
    out.early("sve: KVM_RUN", v.run());
    out.early("sve: FINALIZE 7", lab.finalize(v.vcpu, 7));
    out.early("sve: FINALIZE", lab.finalize(v.vcpu, vcpu_feature::SVE));
    out.early("sve: FINALIZE again", lab.finalize(v.vcpu, vcpu_feature::SVE));
    out.early("sve: GET_ONE_REG v0", get(RegId::v(0)));
    out.early("sve: GET_ONE_REG vls after", get(SVE_VLS));
    out.early("sve: SET_ONE_REG vls after", v.set(SVE_VLS, 0));
    out.early("sve: GET_REG_LIST after", lab.reg_count(v.vcpu, 8).0);
}

/// `firstrun`: one store to nowhere in every configuration.
pub fn first_run(lab: &Lab, cfgs: &[Cfg]) -> Answers {
    let mut out = Answers::default();
    for c in cfgs {
        let v = lab.make(c);
        if v.init != 0 {
            continue;
        }
        let ret = v.run_once(c.features & EL1_32BIT != 0);
        let (_, n) = lab.reg_count(v.vcpu, 0);
        out.line(json!({"k": "firstrun", "cfg": c.name, "ret": ret, "exit": v.exit_reason(), "n": n}));
    }
    out
}
