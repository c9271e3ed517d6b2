//! Replays of what the descriptors answer before any register is asked about: capabilities, making VMs and vCPUs, feature
//! sets, and the masks of writable bits.

use serde_json::{Map, Value, json};
use ulna_kvm_abi::RegId;
use ulna_kvm_abi::ioctl::request;
use ulna_kvm_abi::structs::{RegMaskRange, VcpuInit};

use super::answers::{Answers, hex};
use super::lab::{Cfg, Lab, PSCI, SVE};

const MPIDR_EL1: RegId = RegId::sysreg(0xc005);
/// Capabilities that the probe asked for.
const LAST_CAP: u32 = 300;
const MAX_VCPU_ID: u32 = 128;

/// Calls of the system, capabilities, VM types, vCPU numbers.
pub fn system(lab: &Lab) -> Answers {
    let mut a = Answers::default();
    for (op, req) in
        [("GET_API_VERSION", request::GET_API_VERSION), ("GET_VCPU_MMAP_SIZE", request::GET_VCPU_MMAP_SIZE)]
    {
        a.line(json!({"k": "call", "fd": "kvm", "op": op, "ret": lab.ctl(lab.kvm(), req, 0)}));
        a.line(json!({"k": "call", "fd": "kvm", "op": op, "arg": "0x1", "ret": lab.ctl(lab.kvm(), req, 1)}));
    }
    let vm = lab.bare(false);
    let mut t = VcpuInit { target: 0xaaaa_aaaa, features: [0xaaaa_aaaa; 7] };
    let ret = lab.with(vm.fd, request::ARM_PREFERRED_TARGET, &mut t);
    let features: Vec<Value> = t.features.iter().map(|f| hex((*f).into())).collect();
    a.line(json!({"k": "call", "fd": "vm", "op": "ARM_PREFERRED_TARGET", "ret": ret, "target": t.target,
        "features": features}));
    a.line(json!({"k": "caprange", "from": 0, "to": LAST_CAP}));
    for n in 0..=LAST_CAP {
        let sys = lab.ctl(lab.kvm(), request::CHECK_EXTENSION, n.into());
        let of_vm = lab.ctl(vm.fd, request::CHECK_EXTENSION, n.into());
        if (sys, of_vm) != (0, 0) {
            a.line(json!({"k": "cap", "n": n, "sys": sys, "vm": of_vm}));
        }
    }
    drop(vm);
    vm_types(lab, &mut a);
    vcpu_numbers(lab, &mut a);
    a
}

fn vm_types(lab: &Lab, a: &mut Answers) {
    let odd = [0x100, 0x1ff, 0x200, 1 << 16, 1 << 30, 1 << 31, 1 << 32, u64::MAX];
    for kind in (0..65).chain(odd) {
        let fd = lab.ctl(lab.kvm(), request::CREATE_VM, kind);
        a.line(json!({"k": "createvm", "type": hex(kind), "ret": fd.min(0)}));
        lab.close(fd as i32);
    }
}

fn vcpu_numbers(lab: &Lab, a: &mut Answers) {
    let max = lab.ctl(lab.kvm(), request::CHECK_EXTENSION, MAX_VCPU_ID.into());
    let vm = lab.ctl(lab.kvm(), request::CREATE_VM, 0) as i32;
    let mut open = Vec::new();
    for id in [0, 0, 1, 7, 8, 15, 16, 255, 256, max - 1, max, max + 1, 65535, 0x7fff_ffff, -1] {
        let fd = lab.ctl(vm, request::CREATE_VCPU, id as u64);
        let mut line = json!({"k": "createvcpu", "id": id, "ret": fd.min(0)});
        if fd >= 0 {
            open.push(fd as i32);
            lab.vcpu_init(fd as i32, PSCI);
            let mut mpidr = u64::MAX;
            lab.get_reg(fd as i32, MPIDR_EL1, &mut mpidr);
            line["mpidr"] = hex(mpidr);
        }
        a.line(line);
    }
    for fd in open.into_iter().chain([vm]) {
        lab.close(fd);
    }
}

/// VCPU_INIT of new vCPUs: all sets of the eight known features, unknown ones, targets.
pub fn init(lab: &Lab) -> Answers {
    let mut a = Answers::default();
    let words = |f: &[u32]| f.iter().map(|w| hex((*w).into())).collect::<Vec<_>>();
    for bits in 0..256u32 {
        let (ret, n) = fresh(lab, 5, &[bits]);
        let mut line = json!({"k": "init", "target": 5, "features": words(&[bits]), "ret": ret});
        if ret == 0 {
            line["n"] = n.into();
        }
        a.line(line);
    }
    let mut bit = 8;
    while bit < 7 * 32 {
        let mut f = vec![0; bit / 32 + 1];
        f[bit / 32] = 1 << (bit % 32);
        a.line(json!({"k": "init", "target": 5, "features": words(&f), "ret": fresh(lab, 5, &f).0}));
        bit += if bit < 33 { 1 } else { 13 };
    }
    for target in (0..11).map(|t: u32| t.wrapping_sub(1)) {
        let ret = fresh(lab, target, &[0]).0;
        a.line(json!({"k": "init", "target": target, "features": ["0x0"], "ret": ret}));
    }
    a
}

/// What VCPU_INIT answers, and the length of the register list then.
fn fresh(lab: &Lab, target: u32, features: &[u32]) -> (i64, i64) {
    let vm = lab.bare(false);
    let mut i = VcpuInit { target, ..VcpuInit::default() };
    i.features[..features.len()].copy_from_slice(features);
    let ret = lab.with(vm.vcpu, request::ARM_VCPU_INIT, &mut i);
    if ret == 0 && features[0] & SVE != 0 {
        lab.finalize(vm.vcpu, ulna_kvm_abi::vcpu_feature::SVE);
    }
    let (r, n) = lab.reg_count(vm.vcpu, 0);
    (ret, if r == -7 { n as i64 } else { r })
}

/// KVM_ARM_GET_REG_WRITABLE_MASKS.
pub fn masks(lab: &Lab, cfg: &Cfg) -> Answers {
    const WORDS: usize = 192;
    let mut a = Answers::default();
    let vm = lab.make(cfg);
    let ask = |fd: i32, range: u32, reserved: Option<usize>, addr: u64| {
        let mut q = RegMaskRange { addr, range, reserved: [0; 13] };
        if let Some(i) = reserved {
            q.reserved[i] = 1;
        }
        lab.with(fd, request::ARM_GET_REG_WRITABLE_MASKS, &mut q)
    };
    let at = lab.scratch();
    for range in [0, 1, 2, 3, 4, u32::MAX] {
        lab.fill(at, &[0; WORDS * 8]);
        let ret = ask(vm.fd, range, None, at);
        let mut line = Map::from_iter([("range".to_owned(), range.into()), ("ret".to_owned(), ret.into())]);
        if ret == 0 {
            let mask = (0..WORDS as u64).map(|i| hex(lab.word(at + 8 * i))).collect();
            line.insert("mask".into(), Value::Array(mask));
        }
        a.fields("masks", line);
    }
    for i in 0..13 {
        let ret = ask(vm.fd, 0, Some(i), at);
        a.line(json!({"k": "masks", "range": 0, "reserved": i, "ret": ret}));
    }
    a.line(json!({"k": "masks", "range": 0, "addr": "bad", "ret": ask(vm.fd, 0, None, 8)}));
    a.line(json!({"k": "masks", "fd": "vcpu", "ret": ask(vm.vcpu, 0, None, 8)}));
    a
}
