//! What a guest gets: hypercalls, and system registers read with MRS.

use std::time::Duration;

use serde_json::{Map, Value, json};
use ulna_kvm_abi::ioctl::request;
use ulna_kvm_abi::structs::MpState;
use ulna_kvm_abi::{RegId, exit};
use ulna_kvm_core::raw::run_offset;

use super::answers::{Answers, hex};
use super::lab::{Cfg, Lab, NOWHERE, PLAIN, RAM, STOP, STR_W0_X9, VECTORS, Vm};

/// PSTATE with all interrupts masked, at EL1h and EL0t.
const EL1H: u64 = 0x3c5;
const EL0T: u64 = 0x3c0;
const VBAR: RegId = RegId::sysreg(0xc600);
const ESR: RegId = RegId::sysreg(0xc290);
const MINUS_1: u64 = u64::MAX;

/// Blocks of function ids that are asked through.
const BASES: [u32; 15] = [
    0x8000_0000,
    0x8400_0000,
    0x8500_0000,
    0x8600_0000,
    0xc000_0000,
    0xc400_0000,
    0xc500_0000,
    0xc600_0000,
    0x8100_0000,
    0x8200_0000,
    0x8300_0000,
    0xb000_0000,
    0xbf00_0000,
    0,
    0x0400_0000,
];
const EXTRA: [u32; 11] = [0x50, 0x51, 0x52, 0x53, 0x3fff, 0x7fff, 0x8000, 0xff00, 0xff01, 0xff03, 0xffff];
/// Arguments of the FEATURES calls.
const FEATURES: [u32; 12] = [
    0x8000_0000,
    0x8000_0001,
    0x8000_0002,
    0x8000_8000,
    0x8000_7fff,
    0x8000_3fff,
    0xc500_0020,
    0xc500_0021,
    0x8400_0050,
    0x8600_0000,
    0x8600_0001,
    0x8400_0000,
];
const TRNG_BITS: [u64; 11] = [0, 1, 8, 32, 64, 96, 97, 128, 192, 193, 256];
/// Asked with SMC, too.
const BY_SMC: [u32; 4] = [0x8000_0000, 0x8400_0000, 0x8400_0008, 0x8600_ff01];

type Call = (u32, [u64; 3]);

fn calls() -> Vec<Call> {
    let mut q: Vec<Call> = Vec::new();
    for base in BASES {
        q.extend((0..0x24).chain(EXTRA).map(|f| (base + f, [0; 3])));
    }
    q.extend((0..4).map(|f| (0x95c1_ba5e + f, [0; 3])));
    for f in FEATURES {
        let list_calls = [0x8000_0001, 0xc500_0020, 0x8400_0051, 0x8400_000a];
        q.extend(list_calls.map(|fun| (fun, [f.into(), 0, 0])));
    }
    for f in 0..0x20u64 {
        q.push((0x8400_000a, [0x8400_0000 + f, 0, 0]));
        q.push((0x8400_000a, [0xc400_0000 + f, 0, 0]));
    }
    for bits in TRNG_BITS {
        q.push((0x8400_0053, [bits, 0, 0]));
        q.push((0xc400_0053, [bits, 0, 0]));
    }
    for t in 0..4u64 {
        let reset = t | if t == 3 { 0x8000_0000 } else { 0 };
        q.push((0x8600_0001, [t, 0, 0]));
        q.push((0x8400_0012, [reset, 0x55, 0]));
        q.push((0xc400_0012, [reset, 0x55_5555_5555, 0]));
        q.push((0xc400_0003, [t, RAM, 7]));
        q.push((0xc400_0004, [t, t, 0]));
    }
    q.push((0xc400_0003, [1 << 63, 0, 0]));
    q.push((0xc400_0004, [0, 9, 0]));
    q
}

/// Calls that wait or stop the vCPU: the probe's timer ended them.
fn blocks(function: u32) -> bool {
    matches!(function, 0x8400_0001 | 0xc400_0001 | 0x8400_0002 | 0x95c1_ba5e..=0x95c1_ba5f)
}

/// `hvc` and `hvcrange`: what every call answers. Those that answer -1, 0, 0, 0 have no line.
pub fn hypercalls(lab: &Lab) -> Answers {
    let mut out = Answers::default();
    let q = calls();
    let bases: Vec<Value> = BASES.iter().map(|b| hex((*b).into())).collect();
    out.line(json!({"k": "hvcrange", "asked": q.len(), "bases": bases,
        "fns": "0x0-0x23,0x50-0x53,0x3fff,0x7fff,0x8000,0xff00,0xff01,0xff03,0xffff",
        "note": "calls not listed: x0 = -1, x1 = x2 = x3 = 0, then the exit store"}));
    let cfgs = [Cfg { name: "none", features: 0, ..PLAIN }, PLAIN];
    for insn in ["hvc", "smc"] {
        for c in &cfgs {
            let mut vm: Option<Vm<'_>> = None;
            for (function, args) in &q {
                if insn == "smc" && !BY_SMC.contains(function) {
                    continue;
                }
                let v = vm.take().unwrap_or_else(|| caller(lab, c, insn));
                let fresh = call(lab, &v, &mut out, c.name, insn, *function, args);
                if fresh && *function != 0xc400_0003 {
                    v.complete();
                    vm = Some(v);
                }
            }
        }
    }
    out
}

fn caller<'a>(lab: &'a Lab, c: &Cfg, insn: &str) -> Vm<'a> {
    let v = lab.make(c);
    v.program(0, &[if insn == "hvc" { 0xd400_0002 } else { 0xd400_0003 }, STR_W0_X9, STOP]);
    v.vectors();
    v
}

/// One call; true if the VM can go on.
fn call(
    lab: &Lab,
    v: &Vm<'_>,
    out: &mut Answers,
    cfg: &str,
    insn: &str,
    function: u32,
    a: &[u64; 3],
) -> bool {
    let set = [
        (RegId::PC, RAM),
        (RegId::PSTATE, EL1H),
        (VBAR, RAM + VECTORS),
        (RegId::x(0), function.into()),
        (RegId::x(1), a[0]),
        (RegId::x(2), a[1]),
        (RegId::x(3), a[2]),
        (RegId::x(9), NOWHERE),
    ];
    for (id, value) in set {
        v.set(id, value);
    }
    let ret = v.run_for(if blocks(function) { Duration::from_millis(20) } else { Duration::from_secs(5) });
    let x = [0, 1, 2, 3].map(|n| v.get(RegId::x(n)));
    let reason = v.exit_reason();
    let mmio = ret == 0 && reason == exit::MMIO;
    let plain = mmio && v.mmio_address() == NOWHERE;
    if plain && x == [MINUS_1, 0, 0, 0] {
        return true;
    }
    let mut f = Map::new();
    f.insert("cfg".into(), cfg.into());
    f.insert("insn".into(), insn.into());
    f.insert("fn".into(), hex(function.into()));
    f.insert("a".into(), a.iter().map(|v| hex(*v)).collect());
    f.insert("ret".into(), ret.into());
    if ret == 0 {
        f.insert("exit".into(), reason.into());
    }
    if mmio && !plain {
        f.insert("exception".into(), hex(v.get(ESR)));
    }
    if ret == 0 && reason == exit::SYSTEM_EVENT {
        let ndata: u32 = v.page(run_offset::UNION + 4);
        f.insert("type".into(), v.page::<u32>(run_offset::UNION).into());
        f.insert("ndata".into(), ndata.into());
        if ndata > 0 {
            f.insert("data0".into(), hex(v.page(run_offset::UNION + 8)));
        }
    }
    let mut mp = MpState { mp_state: u32::MAX };
    lab.with(v.vcpu, request::GET_MP_STATE, &mut mp);
    f.insert("x".into(), x.iter().map(|v| hex(*v)).collect());
    f.insert("mp".into(), mp.mp_state.into());
    if function & !0x4000_0000 == 0x8400_0053 || function == 0x8600_0001 {
        f.insert("moving".into(), 1.into());
    }
    out.fields("hvc", f);
    plain
}

/// Encodings that a guest at this exception level is asked to read.
fn encodings(el: u8) -> impl Iterator<Item = u16> {
    let first = if el == 1 { 0x8000 } else { 0xd800 };
    (first..=0xffffu16).filter(move |enc| {
        let (op1, crn) = (enc >> 11 & 7, enc >> 7 & 15);
        (el == 1 || op1 == 3) && (*enc >= 0xc000 || matches!(op1, 0 | 3) && crn <= 1)
    })
}

/// Bytes of the program for one encoding: MRS, the store, a stop.
const STEP: u64 = 16;
const PROGRAM: u64 = 0x1_0000;
const MRS_RAM: u64 = PROGRAM + STEP * 0x8000;

/// `mrs` and `mrsrange`: what a guest reads. UNDEFINED encodings have no line.
pub fn mrs(lab: &Lab, c: &Cfg) -> Answers {
    let mut out = Answers::default();
    for el in [1, 0] {
        let first = if el == 1 { "0x8000" } else { "0xd800" };
        out.line(json!({"k": "mrsrange", "cfg": c.name, "el": el, "first": first, "last": "0xffff"}));
        let mut v = reader(lab, c);
        let mut last_exception = v.get(RegId::ELR_EL1);
        for enc in encodings(el) {
            let at = RAM + PROGRAM + STEP * u64::from(enc & 0x7fff);
            // The probe's programs shared 256 places: what an exception leaves in ELR_EL1 says which.
            v.set(RegId::ELR_EL1, last_exception);
            let mut x = [0; 2];
            let mut seen = Seen::Value;
            for x in &mut x {
                (seen, *x) = read(&v, at, el);
                if seen != Seen::Value {
                    break;
                }
            }
            if seen == Seen::Exception {
                last_exception = RAM + STEP * u64::from(enc & 0xff);
            }
            if seen == Seen::Exception && x[0] >> 26 == 0 {
                continue;
            }
            let mut f = Map::new();
            f.insert("cfg".into(), c.name.into());
            f.insert("el".into(), el.into());
            f.insert("enc".into(), hex(enc.into()));
            match seen {
                Seen::Value => {
                    f.insert("v".into(), hex(x[0]));
                    if x[0] != x[1] {
                        f.insert("moving".into(), 1.into());
                    }
                }
                Seen::Exception => {
                    f.insert("esr".into(), hex(x[0]));
                }
                Seen::Other(ret) => {
                    f.insert("ret".into(), ret.into());
                    if ret == 0 {
                        f.insert("exit".into(), v.exit_reason().into());
                    }
                    v = reader(lab, c);
                }
            }
            out.fields("mrs", f);
        }
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Value,
    Exception,
    Other(i64),
}

/// A VM with a program for every encoding.
fn reader<'a>(lab: &'a Lab, c: &Cfg) -> Vm<'a> {
    let v = lab.make_with_ram(c, MRS_RAM);
    v.vectors();
    for enc in 0x8000..=0xffffu32 {
        let word = 0xd530_0000 | (enc >> 14 & 1) << 19 | (enc & 0x3fff) << 5;
        v.program(PROGRAM + STEP * u64::from(enc & 0x7fff), &[word, STR_W0_X9, STOP]);
    }
    v.set(VBAR, RAM + VECTORS);
    v
}

fn read(v: &Vm<'_>, at: u64, el: u8) -> (Seen, u64) {
    v.set(RegId::PC, at);
    v.set(RegId::PSTATE, if el == 1 { EL1H } else { EL0T });
    v.set(RegId::x(9), NOWHERE);
    v.set(RegId::x(0), 0xdead);
    let r = v.run();
    if r != 0 || v.exit_reason() != exit::MMIO {
        return (Seen::Other(r), 0);
    }
    let result = if v.mmio_address() == NOWHERE {
        (Seen::Value, v.get(RegId::x(0)))
    } else {
        (Seen::Exception, v.get(ESR))
    };
    v.complete();
    result
}
