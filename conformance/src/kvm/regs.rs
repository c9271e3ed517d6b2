//! Replays of what registers answer: lists, values, which writes are taken, and ids outside the lists.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use ulna_kvm_abi::RegId;
use ulna_kvm_abi::ioctl::request;

use super::answers::{Answers, hex};
use super::lab::{Cfg, EL1_32BIT, Lab, SVE, Vm};

/// Bytes of the largest register, and how many of its bits are flipped.
const MAX_REG: usize = 256;
const FLIPS: usize = 128;
const SVE_VLS: RegId = RegId(0x6060_0000_0015_ffff);
const MIDR_EL1: u64 = 0x6030_0000_0013_c000;

/// Register lists and every register of them, in every configuration.
pub fn registers(lab: &Lab, cfgs: &[Cfg], sve: bool) -> Answers {
    let mut a = Answers::default();
    let mut base = BTreeMap::new();
    for (n, c) in cfgs.iter().enumerate() {
        of_cfg(lab, c, n == 0, &mut base, &mut a);
    }
    if sve {
        let c = Cfg { name: "sve-unfinalized", features: cfgs[0].features | SVE, gic: false, mte: false };
        let mut s = Subject { lab, cfg: c, ran: false, unfinalized: true, vm: None };
        if let Some(pre) = s.probe(SVE_VLS) {
            a.line(json!({"k": "reg", "cfg": c.name, "id": hex(SVE_VLS.0), "pre": pre}));
        }
    }
    a
}

fn of_cfg(lab: &Lab, c: &Cfg, is_base: bool, base: &mut BTreeMap<u64, [Value; 2]>, a: &mut Answers) {
    let vm = lab.make(c);
    let head = json!({"k": "cfg", "cfg": c.name, "features": hex(c.features.into()), "gic": u8::from(c.gic),
        "init": vm.init});
    if vm.init != 0 {
        return a.line(head);
    }
    let small: Vec<Value> = [0u64, 1, 10]
        .iter()
        .map(|n| {
            let (ret, after, first) = lab.reg_list_into(vm.vcpu, *n, 0x1234);
            json!([n, ret, after, u8::from(first != 0x1234)])
        })
        .collect();
    let (ret, list) = lab.reg_list(vm.vcpu);
    let mut head = head;
    head["small"] = small.into();
    head["list"] = ret.into();
    head["n"] = list.len().into();
    a.line(head);
    let ids: Vec<Value> = list.iter().map(|id| hex(id.0)).collect();
    a.line(json!({"k": "reglist", "cfg": c.name, "phase": "pre", "regs": ids}));
    drop(vm);
    let mut subjects = [false, true].map(|ran| Subject { lab, cfg: *c, ran, unfinalized: false, vm: None });
    for id in list {
        let said = subjects.each_mut().map(|s| s.probe(id).unwrap_or(Value::Null));
        if !is_base && base.get(&id.0) == Some(&said) {
            continue;
        }
        let mut line = json!({"k": "reg", "cfg": c.name, "id": hex(id.0), "pre": said[0]});
        if said[0] != said[1] {
            line["post"] = said[1].clone();
        }
        a.line(line);
        if is_base {
            base.insert(id.0, said);
        }
    }
}

/// A configuration whose registers are written to, before or after its first run.
struct Subject<'a> {
    lab: &'a Lab,
    cfg: Cfg,
    ran: bool,
    unfinalized: bool,
    /// None when the next register needs a new VM.
    vm: Option<Vm<'a>>,
}

fn number(bytes: &[u8]) -> Value {
    let used = bytes.iter().rposition(|b| *b != 0).map_or(1, |i| i + 1);
    let mut text = String::from("0x");
    for (i, b) in bytes[..used].iter().rev().enumerate() {
        text.push_str(&if i == 0 { format!("{b:x}") } else { format!("{b:02x}") });
    }
    text.into()
}

impl<'a> Subject<'a> {
    fn vcpu(&mut self) -> i32 {
        let (lab, cfg, ran, unfinalized) = (self.lab, self.cfg, self.ran, self.unfinalized);
        self.vm
            .get_or_insert_with(|| {
                if unfinalized {
                    let vm = lab.bare(cfg.mte);
                    lab.vcpu_init(vm.vcpu, cfg.features);
                    return vm;
                }
                let vm = lab.make(&cfg);
                if ran {
                    vm.run_once(cfg.features & EL1_32BIT != 0);
                }
                vm
            })
            .vcpu
    }

    fn get(&mut self, id: RegId, out: &mut [u8]) -> i64 {
        let vcpu = self.vcpu();
        self.lab.get_reg_bytes(vcpu, id, out)
    }

    fn set(&mut self, id: RegId, v: &[u8]) -> i64 {
        let vcpu = self.vcpu();
        self.lab.set_reg_bytes(vcpu, id, v)
    }

    /// All there is to know about one register; a write that cannot be taken back costs the VM.
    fn probe(&mut self, id: RegId) -> Option<Value> {
        let n = id.size();
        if n > MAX_REG {
            return Some(json!({"get": 0}));
        }
        let mut v = vec![0; n];
        let got = self.get(id, &mut v);
        if got != 0 {
            return Some(json!({"get": got}));
        }
        let mut again = vec![0; n];
        self.get(id, &mut again);
        let moving = v != again;
        let mut said = json!({"v": number(&v)});
        if moving {
            said["moving"] = 1.into();
        }
        said["same"] = self.set(id, &v).into();
        let mut spoilt = false;
        for (name, byte) in [("zero", 0u8), ("ones", 0xff)] {
            if std::mem::take(&mut spoilt) {
                self.vm = None;
            }
            let want = vec![byte; n];
            let ret = self.set(id, &want);
            said[name] = ret.into();
            if ret != 0 {
                continue;
            }
            let mut read = vec![0; n];
            match self.get(id, &mut read) {
                0 if read != want && !moving => said[format!("{name}_rb")] = number(&read),
                0 => {}
                e => said[format!("{name}_rb")] = e.into(),
            }
            let back = self.set(id, &v);
            self.get(id, &mut read);
            spoilt = back != 0 || (!moving && read != v);
            if spoilt {
                said[format!("{name}_back")] = back.into();
            }
        }
        let bits = if n * 8 < FLIPS || id == SVE_VLS { n * 8 } else { FLIPS };
        let (mut acc, mut kept) = (vec![0u8; bits / 8], vec![0u8; bits / 8]);
        let mut errors: BTreeMap<i64, Vec<u8>> = BTreeMap::new();
        for b in 0..bits {
            if std::mem::take(&mut spoilt) {
                self.vm = None;
            }
            let (at, bit) = (b / 8, 1u8 << (b % 8));
            let mut want = v.clone();
            want[at] ^= bit;
            let ret = self.set(id, &want);
            if ret != 0 {
                errors.entry(ret).or_insert_with(|| vec![0; bits / 8])[at] |= bit;
                continue;
            }
            acc[at] |= bit;
            let mut read = vec![0; n];
            self.get(id, &mut read);
            if if moving { (read[at] ^ v[at]) & bit != 0 } else { read == want } {
                kept[at] |= bit;
            }
            let back = self.set(id, &v);
            self.get(id, &mut read);
            spoilt = back != 0 || (!moving && read != v);
        }
        said["acc"] = number(&acc);
        if kept != acc {
            said["kept"] = number(&kept);
        }
        if !errors.is_empty() {
            let masks = errors.iter().map(|(e, m)| (e.to_string(), number(m)));
            said["err"] = Value::Object(masks.collect());
        }
        if bits < n * 8 {
            said["nb"] = bits.into();
        }
        if spoilt || moving {
            self.vm = None;
        }
        Some(said)
    }
}

/// What else changes when a bit of a feature register does.
pub fn cross(lab: &Lab, cfg: &Cfg) -> Answers {
    let mut a = Answers::default();
    let mut vm = lab.make(cfg);
    let (_, list) = lab.reg_list(vm.vcpu);
    let values = |vm: &Vm<'_>, list: &[RegId]| -> Vec<u64> {
        list.iter().map(|id| if id.size() == 8 { vm.get(*id) } else { 0 }).collect()
    };
    let first = values(&vm, &list);
    for (i, id) in list.iter().enumerate() {
        let enc = id.index();
        let feature = id.0 & !0xffff == MIDR_EL1 & !0xffff
            && enc >> 14 == 3
            && enc >> 7 & 15 == 0
            && matches!(enc >> 11 & 7, 0 | 1 | 3);
        if !feature {
            continue;
        }
        for bit in 0..64 {
            if vm.set(*id, first[i] ^ 1 << bit) != 0 {
                continue;
            }
            let (_, after) = lab.reg_list(vm.vcpu);
            let now = values(&vm, &after);
            let other = changes(&list, &first, &after, &now, *id);
            if !other.is_empty() {
                a.line(json!({"k": "xreg", "cfg": cfg.name, "id": hex(id.0), "bit": bit, "other": other}));
            }
            if vm.set(*id, first[i]) != 0 || vm.get(*id) != first[i] {
                vm = lab.make(cfg);
            }
        }
    }
    a
}

/// CNTPCT, CNTVCT and CNTV_CVAL's ids: not looked at.
const COUNTERS: [u16; 3] = [0xdf01, 0xdf1a, 0xdf02];

fn changes(list: &[RegId], first: &[u64], after: &[RegId], now: &[u64], written: RegId) -> Vec<Value> {
    let mut other = Vec::new();
    for (i, id) in list.iter().enumerate() {
        match after.iter().position(|x| x == id) {
            None => other.push(json!([hex(id.0), "gone"])),
            Some(j) if *id != written && now[j] != first[i] && !COUNTERS.contains(&id.index()) => {
                other.push(json!([hex(id.0), hex(first[i]), hex(now[j])]));
            }
            Some(_) => {}
        }
    }
    other.extend(after.iter().filter(|id| !list.contains(id)).map(|id| json!([hex(id.0), "new"])));
    other
}

/// Whole spaces of ids: name, first id, how many.
const SPACES: [(&str, u64, u64); 13] = [
    ("sysreg64", 0x6030_0000_0013_0000, 65536),
    ("core32", 0x6020_0000_0010_0000, 0x400),
    ("core64", 0x6030_0000_0010_0000, 0x400),
    ("core128", 0x6040_0000_0010_0000, 0x400),
    ("demux32", 0x6020_0000_0011_0000, 0x400),
    ("demux64", 0x6030_0000_0011_0000, 0x20),
    ("fw64", 0x6030_0000_0014_0000, 0x1000),
    ("fw32", 0x6020_0000_0014_0000, 0x20),
    ("fwbmap64", 0x6030_0000_0016_0000, 0x1000),
    ("sve2048", 0x6080_0000_0015_0000, 0x800),
    ("sve256", 0x6050_0000_0015_0000, 0x800),
    ("sve512", 0x6060_0000_0015_ff00, 0x100),
    ("sysreg32", 0x6020_0000_0013_c000, 0x1000),
];

/// Ids that are not in the list, and ids that are wrong in every way.
pub fn unlisted(lab: &Lab, cfgs: &[Cfg]) -> Answers {
    let mut a = Answers::default();
    for c in cfgs.iter().filter(|c| matches!(c.name, "psci" | "allgic" | "aarch32")) {
        let vm = lab.make(c);
        if vm.init != 0 {
            continue;
        }
        let (_, list) = lab.reg_list(vm.vcpu);
        let get = |id: u64| lab.get_reg_status(vm.vcpu, RegId(id));
        for (name, first, count) in SPACES {
            a.line(space(c.name, name, first, count, &list, &get));
        }
        let mut runs: Vec<Value> = Vec::new();
        for arch in [0u64, 5, 6, 7, 12] {
            for size in 0..10u64 {
                let mut cp = 0;
                while cp < 0x20 {
                    let id = arch << 60 | size << 52 | cp << 16;
                    let ret = get(id);
                    let n = (1..0x20 - cp).find(|n| get(id + (n << 16)) != ret).unwrap_or(0x20 - cp);
                    runs.push(json!([hex(id), n, ret]));
                    cp += n;
                }
            }
        }
        a.line(json!({"k": "coproc", "cfg": c.name, "get": runs}));
        let bits: Vec<i64> = (0..64).map(|b| get(MIDR_EL1 ^ 1 << b)).collect();
        a.line(json!({"k": "idbits", "cfg": c.name, "id": hex(MIDR_EL1), "get": bits}));
    }
    a
}

fn space(cfg: &str, name: &str, first: u64, count: u64, list: &[RegId], get: &dyn Fn(u64) -> i64) -> Value {
    let answers: Vec<i64> = (first..first + count).map(get).collect();
    let mut often: BTreeMap<i64, usize> = BTreeMap::new();
    for e in &answers {
        *often.entry(-e).or_default() += 1;
    }
    // The first of the most frequent, in the order of the error numbers.
    let most = often.values().max().copied().unwrap_or(0);
    let usual = often.iter().find(|(_, n)| **n == most).map_or(0, |(e, _)| -e);
    let listed = |i: usize| list.contains(&RegId(first + i as u64));
    let mut other: Vec<Value> = Vec::new();
    let mut i = 0;
    while i < answers.len() {
        let e = answers[i];
        if e == usual || (e == 0 && listed(i)) {
            i += 1;
            continue;
        }
        let mut end = i + 1;
        while end < answers.len() && answers[end] == e && !(e == 0 && listed(end)) {
            end += 1;
        }
        other.push(json!([hex(first + i as u64), end - i, e]));
        i = end;
    }
    json!({"k": "space", "cfg": cfg, "name": name, "first": hex(first), "count": count, "usual": usual, "other": other})
}

/// KVM_GET_REG_LIST's number.
pub const GET_REG_LIST: u32 = request::GET_REG_LIST;
