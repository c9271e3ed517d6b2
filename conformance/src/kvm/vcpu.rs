//! Sequences of calls on vCPUs, memory slots, KVM_ENABLE_CAP, and requests without an argument.

use std::time::Duration;

use serde_json::json;
use ulna_kvm_abi::cap;
use ulna_kvm_abi::ioctl::request;
use ulna_kvm_abi::structs::*;
use ulna_kvm_abi::{MEM_READONLY, RegId};
use ulna_kvm_core::raw::run_offset;

use super::answers::Answers;
use super::lab::{CAP_ARM_MTE, Cfg, Lab, OFF, PLAIN, PSCI, Vm};

/// How long a guest may run that should not come back by itself.
const BLOCKED: Duration = Duration::from_millis(20);

/// `act`, `enable`, `enablerange` and `null` of the probe's section on vCPUs.
pub fn replay(lab: &Lab, null: &[(String, u32)]) -> Answers {
    let mut out = Answers::default();
    mp_state(lab, &mut out);
    let v = lab.make(&Cfg { features: PSCI | OFF, ..PLAIN });
    out.act("run-off", "run", v.run_once_for(false, BLOCKED));
    drop(v);
    immediate_exit(lab, &mut out);
    events(lab, &mut out);
    guest_debug(lab, &mut out);
    memslot(lab, &mut out);
    enable_cap(lab, &mut out);
    for (op, req) in null {
        let v = lab.make(&PLAIN);
        let [kvm, vm, vcpu] = [lab.kvm(), v.fd, v.vcpu].map(|fd| lab.ctl(fd, *req, 0));
        let req = format!("{req:#x}");
        out.line(json!({"k": "null", "op": op, "req": req, "kvm": kvm, "vm": vm, "vcpu": vcpu}));
    }
    out
}

fn mp_state(lab: &Lab, out: &mut Answers) {
    for (seq, bits) in [("mp", PSCI), ("mp-off", PSCI | OFF)] {
        let v = lab.make(&Cfg { features: bits, ..PLAIN });
        let mut mp = MpState { mp_state: u32::MAX };
        out.act(seq, "get", lab.with(v.vcpu, request::GET_MP_STATE, &mut mp));
        out.act(seq, "state", mp.mp_state);
        for s in 0..14 {
            mp.mp_state = s;
            out.act(seq, format!("set {s}"), lab.with(v.vcpu, request::SET_MP_STATE, &mut mp));
            lab.with(v.vcpu, request::GET_MP_STATE, &mut mp);
            out.act(seq, "then", mp.mp_state);
        }
    }
}

fn immediate_exit(lab: &Lab, out: &mut Answers) {
    let v = lab.make(&PLAIN);
    let seq = "immediate-exit";
    v.set_immediate_exit(true);
    out.act(seq, "run", v.run_once(false));
    v.set_immediate_exit(false);
    out.act(seq, "run", v.run_once(false));
    out.act(seq, "exit", v.exit_reason());
    out.act(seq, "phys", v.mmio_address() as i64);
    out.act(seq, "len", v.page::<u32>(run_offset::UNION + 16));
    out.act(seq, "is_write", v.page::<u8>(run_offset::UNION + 20));
    out.act(seq, "pc", v.get(RegId::PC) as i64);
    v.set_immediate_exit(true);
    out.act(seq, "run to complete", v.run());
    out.act(seq, "pc", v.get(RegId::PC) as i64);
}

fn events(lab: &Lab, out: &mut Answers) {
    let v = lab.make(&PLAIN);
    let seq = "events";
    let set = |e: VcpuEvents| lab.with(v.vcpu, request::SET_VCPU_EVENTS, &mut { e });
    let get = || {
        let mut e = VcpuEvents::from_bytes(&[0xff; 64]);
        let r = lab.with(v.vcpu, request::GET_VCPU_EVENTS, &mut e);
        (r, e)
    };
    let none = VcpuEvents::default();
    let (r, e) = get();
    out.act(seq, "get", r);
    out.act(seq, "serror_pending", e.serror_pending);
    out.act(seq, "serror_has_esr", e.serror_has_esr);
    out.act(seq, "ext_dabt_pending", e.ext_dabt_pending);
    let mut e = none;
    e.reserved[3] = 1;
    out.act(seq, "set reserved", set(e));
    let mut e = none;
    e.pad[0] = 1;
    out.act(seq, "set pad", set(e));
    out.act(seq, "set has_esr only", set(VcpuEvents { serror_has_esr: 1, ..none }));
    out.act(seq, "set pending", set(VcpuEvents { serror_pending: 1, ..none }));
    let (_, e) = get();
    out.act(seq, "then pending", e.serror_pending);
    out.act(seq, "then esr", e.serror_esr as i64);
    let esr = |serror_esr| VcpuEvents { serror_pending: 1, serror_has_esr: 1, serror_esr, ..none };
    out.act(seq, "set esr", set(esr(0x1ff_ffff)));
    let (_, e) = get();
    out.act(seq, "then pending", e.serror_pending);
    out.act(seq, "then has_esr", e.serror_has_esr);
    out.act(seq, "then esr", e.serror_esr as i64);
    out.act(seq, "set esr bit 25", set(VcpuEvents { serror_esr: 0x200_0000, ..e }));
    out.act(seq, "set ext_dabt", set(VcpuEvents { ext_dabt_pending: 1, ..none }));
    out.act(seq, "pc after ext_dabt", v.get(RegId::PC) as i64);
    out.act(seq, "then ext_dabt", get().1.ext_dabt_pending);
}

fn guest_debug(lab: &Lab, out: &mut Answers) {
    let v = lab.make(&PLAIN);
    let mut set = |control: u32| {
        let mut d = GuestDebug { control, ..GuestDebug::default() };
        let r = lab.with(v.vcpu, request::SET_GUEST_DEBUG, &mut d);
        out.act("guest-debug", format!("control {control:#x}"), r);
    };
    set(0);
    for b in 0..32 {
        set(1 << b);
        if b > 0 {
            set(1 << b | 1);
        }
    }
}

fn memslot(lab: &Lab, out: &mut Answers) {
    let v = lab.make(&PLAIN);
    let seq = "memslot";
    let base = UserspaceMemoryRegion {
        slot: 1,
        flags: 0,
        guest_phys_addr: 0x4000_0000,
        memory_size: 0x1000,
        userspace_addr: lab.host_ram(),
    };
    let set = |m: UserspaceMemoryRegion| lab.with(v.fd, request::SET_USER_MEMORY_REGION, &mut { m });
    for b in 0..8 {
        let flags = 1 << b;
        out.act(seq, format!("flags {flags:#x}"), set(UserspaceMemoryRegion { flags, ..base }));
        set(UserspaceMemoryRegion { memory_size: 0, ..base });
    }
    let mut m = base;
    out.act(seq, "add", set(m));
    out.act(seq, "add same", set(m));
    out.act(seq, "resize", set(UserspaceMemoryRegion { memory_size: 0x2000, ..m }));
    out.act(seq, "make readonly", set(UserspaceMemoryRegion { flags: MEM_READONLY, ..m }));
    m.guest_phys_addr = 0x5000_0000;
    out.act(seq, "move", set(m));
    m.slot = 2;
    out.act(seq, "overlap", set(m));
    m.guest_phys_addr = 0x6000_0001;
    out.act(seq, "unaligned ipa", set(m));
    m.guest_phys_addr = 0x6000_0000;
    out.act(seq, "unaligned size", set(UserspaceMemoryRegion { memory_size: 0x1001, ..m }));
    let at = |userspace_addr| UserspaceMemoryRegion { userspace_addr, ..m };
    out.act(seq, "unaligned hva", set(at(lab.host_ram() | 1)));
    out.act(seq, "kernel hva", set(at(1 << 60)));
    let ipa = |guest_phys_addr| UserspaceMemoryRegion { guest_phys_addr, ..m };
    out.act(seq, "ipa 1<<40", set(ipa(1 << 40)));
    out.act(seq, "ipa last page", set(ipa((1 << 40) - 0x1000)));
    out.act(seq, "ipa wraps", set(ipa(0x1000u64.wrapping_neg())));
    out.act(seq, "delete nothing", set(UserspaceMemoryRegion { slot: 5, memory_size: 0, ..ipa(0) }));
    out.act(seq, "slot 32766", set(UserspaceMemoryRegion { slot: 32766, ..ipa(0x9000_0000) }));
    out.act(seq, "slot 32767", set(UserspaceMemoryRegion { slot: 32767, ..ipa(0x9100_0000) }));
    out.act(seq, "slot 1<<16", set(UserspaceMemoryRegion { slot: 1 << 16, ..ipa(0x9100_0000) }));
}

/// Every capability, with argument 0, 1 and all ones. Those that are not there answer EINVAL and have no line.
fn enable_cap(lab: &Lab, out: &mut Answers) {
    let note = "not listed: -22 for all three on the vm, -22 on the vcpu";
    out.line(json!({"k": "enablerange", "from": 0, "to": 300, "note": note}));
    for n in 0..=300 {
        let mut v = lab.bare(false);
        let vm = [0, 1, u64::MAX].map(|arg| {
            let r = lab.enable_cap(v.fd, n, 0, arg);
            if r == 0 {
                v = lab.bare(false);
            }
            r
        });
        let vcpu = lab.enable_cap(v.vcpu, n, 0, 0);
        if vm != [-22; 3] || vcpu != -22 {
            out.line(json!({"k": "enable", "n": n, "vm": vm, "vcpu": vcpu}));
        }
    }
    let v = lab.bare(false);
    out.act("enable-cap", "flags 1", lab.enable_cap(v.fd, cap::ARM_NISV_TO_USER, 1, 0));
    drop(v);
    let v = lab.make(&PLAIN);
    out.act("enable-cap", "mte after vcpu", lab.enable_cap(v.fd, CAP_ARM_MTE, 0, 0));
    counter_offset(lab, &v, out);
}

fn counter_offset(lab: &Lab, v: &Vm<'_>, out: &mut Answers) {
    let seq = "counter-offset";
    let set = |reserved| {
        let mut c = ArmCounterOffset { counter_offset: 0x1000, reserved };
        lab.with(v.fd, request::ARM_SET_COUNTER_OFFSET, &mut c)
    };
    out.act(seq, "set", set(0));
    out.act(seq, "set again", set(0));
    out.act(seq, "reserved", set(1));
    out.act(seq, "set cntvct after", v.set(RegId::sysreg(0xdf1a), 0));
}
