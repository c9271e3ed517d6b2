//! The TOML schema of a profile and its checks.
//!
//! Each `[[regs]]` group states kind and source once for all its values, so that a file says where every number
//! is from without repeating itself.

use crate::error::ProfileError;
use crate::model::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use ulna_arm_regs::SysReg;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    description: String,
    kernel: String,
    regs: Vec<RegGroup>,
    counter: CounterT,
    cache: CacheT,
    gic: GicT,
    pmu: Option<PmuT>,
    memory: MemoryT,
    mitigations: MitigationsT,
    sve: Option<SveT>,
    absent: Option<AbsentT>,
    #[serde(default)]
    extra: Vec<ExtraT>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtraT {
    el: u8,
    values: BTreeMap<String, Num>,
    kind: Kind,
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AbsentT {
    regs: Vec<String>,
    kind: Kind,
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegGroup {
    kind: Kind,
    source: String,
    values: BTreeMap<String, Num>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CounterT {
    hz: Num,
    kind: Kind,
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheT {
    ccsidr: Vec<Num>,
    kind: Kind,
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GicT {
    version: u8,
    v2: bool,
    list_registers: u8,
    priority_bits: u8,
    id_bits: u8,
    seis: bool,
    a3v: bool,
    kind: Kind,
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PmuT {
    counters: u8,
    pmceid0: Num,
    pmceid1: Num,
    kind: Kind,
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryT {
    ipa_bits: u8,
    kind: Kind,
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MitigationsT {
    spectre_v2: Mitigation,
    ssb: Mitigation,
    spectre_bhb: Mitigation,
    meltdown: Mitigation,
    kind: Kind,
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SveT {
    lengths: Vec<u16>,
    kind: Kind,
    source: String,
}

/// A number: an integer, or a string (`"0x…"`, underscores allowed) for what TOML's signed integers cannot hold.
#[derive(Deserialize)]
#[serde(untagged)]
enum Num {
    Int(i64),
    Text(String),
}

impl Num {
    fn get(&self) -> Result<u64, String> {
        match self {
            Num::Int(n) => u64::try_from(*n).map_err(|_| format!("{n} is negative")),
            Num::Text(s) => {
                let t = s.replace('_', "");
                let r = match t.strip_prefix("0x") {
                    Some(hex) => u64::from_str_radix(hex, 16),
                    None => t.parse(),
                };
                r.map_err(|_| format!("{s:?} is not a 64-bit number"))
            }
        }
    }
}

fn source(kind: Kind, text: &str) -> Source {
    Source { kind, text: text.into() }
}

/// Reads and checks a profile; `file` only names it in errors.
pub(crate) fn parse(text: &str, file: &str) -> Result<Profile, ProfileError> {
    let f: File = toml::from_str(text).map_err(|e| ProfileError::Syntax {
        file: file.to_owned(),
        line: e.span().map_or(1, |s| 1 + text.bytes().take(s.start).filter(|&b| b == b'\n').count()),
        what: e.message().lines().collect::<Vec<_>>().join("; "),
    })?;
    let bad =
        |key: &str, what: String| ProfileError::Value { file: file.to_owned(), key: key.to_owned(), what };
    let num = |key: &str, n: &Num| n.get().map_err(|w| bad(key, w));

    let mut regs = BTreeMap::new();
    for (i, g) in f.regs.iter().enumerate() {
        let text: Arc<str> = g.source.as_str().into();
        for (name, n) in &g.values {
            let key = format!("regs[{i}].values.{name}");
            let r = SysReg::from_name(name).ok_or_else(|| bad(&key, "no such system register".into()))?;
            let v = RegValue { value: num(&key, n)?, source: Source { kind: g.kind, text: text.clone() } };
            if regs.insert(r, v).is_some() {
                return Err(bad(&key, "the register is given twice".into()));
            }
        }
    }
    for r in [SysReg::MIDR_EL1, SysReg::CTR_EL0, SysReg::ID_AA64PFR0_EL1, SysReg::ID_AA64MMFR0_EL1] {
        if !regs.contains_key(&r) {
            return Err(bad(&format!("regs.{r}"), "missing".into()));
        }
    }
    let range = |key: &str, v: u64, lo: u64, hi: u64| {
        if (lo..=hi).contains(&v) { Ok(()) } else { Err(bad(key, format!("{v} is not within {lo}..={hi}"))) }
    };
    let hz = num("counter.hz", &f.counter.hz)?;
    range("counter.hz", hz, 1_000, u64::from(u32::MAX))?;
    range("gic.version", f.gic.version.into(), 2, 4)?;
    range("gic.list_registers", f.gic.list_registers.into(), 1, 16)?;
    range("gic.priority_bits", f.gic.priority_bits.into(), 4, 8)?;
    if !matches!(f.gic.id_bits, 16 | 24) {
        return Err(bad("gic.id_bits", "must be 16 or 24".into()));
    }
    range("memory.ipa_bits", f.memory.ipa_bits.into(), 32, 52)?;
    range("cache.ccsidr", f.cache.ccsidr.len() as u64, 0, 14)?;
    let ccsidr =
        f.cache.ccsidr.iter().map(|n| num("cache.ccsidr", n)).collect::<Result<Vec<u64>, ProfileError>>()?;
    let pmu = match &f.pmu {
        None => None,
        Some(p) => {
            range("pmu.counters", p.counters.into(), 0, 31)?;
            Some(Pmu {
                counters: p.counters,
                pmceid0: num("pmu.pmceid0", &p.pmceid0)?,
                pmceid1: num("pmu.pmceid1", &p.pmceid1)?,
                source: source(p.kind, &p.source),
            })
        }
    };
    let sve = match f.sve {
        None => None,
        Some(s) => {
            for &l in &s.lengths {
                range("sve.lengths", l.into(), 128, 2048)?;
                if l % 128 != 0 {
                    return Err(bad("sve.lengths", format!("{l} is not a multiple of 128")));
                }
            }
            Some(Sve { source: source(s.kind, &s.source), lengths: s.lengths })
        }
    };
    let absent = match &f.absent {
        None => None,
        Some(a) => {
            let reg = |n: &String| {
                SysReg::from_name(n).ok_or_else(|| bad("absent.regs", format!("{n:?} is no system register")))
            };
            let regs = a.regs.iter().map(reg).collect::<Result<_, ProfileError>>()?;
            Some(Absent { regs, source: source(a.kind, &a.source) })
        }
    };
    let mut extra = Vec::new();
    for (i, x) in f.extra.iter().enumerate() {
        range(&format!("extra[{i}].el"), x.el.into(), 0, 1)?;
        for (name, n) in &x.values {
            let key = format!("extra[{i}].values.{name}");
            let code = SysReg::from_name(name).map(SysReg::code).or_else(|| encoding(name));
            let code =
                code.ok_or_else(|| bad(&key, "no system register or S<op0>_<op1>_C<n>_C<m>_<op2>".into()))?;
            extra.push(Extra { code, el: x.el, value: num(&key, n)?, source: source(x.kind, &x.source) });
        }
    }
    let kernel = f
        .kernel
        .split_once('.')
        .and_then(|(a, b)| Some(KernelLevel { major: a.parse().ok()?, minor: b.parse().ok()? }))
        .ok_or_else(|| bad("kernel", format!("{:?} is not MAJOR.MINOR", f.kernel)))?;
    Ok(Profile {
        name: f.name,
        description: f.description,
        kernel,
        regs,
        counter: Counter { hz, source: source(f.counter.kind, &f.counter.source) },
        cache: Cache { ccsidr, source: source(f.cache.kind, &f.cache.source) },
        gic: Gic {
            version: f.gic.version,
            v2: f.gic.v2,
            list_registers: f.gic.list_registers,
            priority_bits: f.gic.priority_bits,
            id_bits: f.gic.id_bits,
            seis: f.gic.seis,
            a3v: f.gic.a3v,
            source: source(f.gic.kind, &f.gic.source),
        },
        pmu,
        memory: Memory { ipa_bits: f.memory.ipa_bits, source: source(f.memory.kind, &f.memory.source) },
        mitigations: Mitigations {
            spectre_v2: f.mitigations.spectre_v2,
            ssb: f.mitigations.ssb,
            spectre_bhb: f.mitigations.spectre_bhb,
            meltdown: f.mitigations.meltdown,
            source: source(f.mitigations.kind, &f.mitigations.source),
        },
        sve,
        absent,
        extra,
    })
}

/// The packed encoding of `S<op0>_<op1>_C<n>_C<m>_<op2>`.
fn encoding(name: &str) -> Option<u16> {
    let mut parts = name.strip_prefix('S')?.split('_');
    let mut field = |prefix: &str, most: u16| {
        let n: u16 = parts.next()?.strip_prefix(prefix)?.parse().ok()?;
        (n <= most).then_some(n)
    };
    let e = field("", 3)? << 14
        | field("", 7)? << 11
        | field("C", 15)? << 7
        | field("C", 15)? << 3
        | field("", 7)?;
    parts.next().is_none().then_some(e)
}

#[cfg(test)]
mod tests {
    #[test]
    fn encodings_are_named_as_in_the_manual() {
        assert_eq!(super::encoding("S3_1_C11_C0_2"), Some(0xcd82));
        for bad in
            ["S4_1_C11_C0_2", "S3_8_C11_C0_2", "S3_1_11_C0_2", "S3_1_C11_C0", "S3_1_C11_C0_2_0", "MIDR_EL1"]
        {
            assert_eq!(super::encoding(bad), None, "{bad}");
        }
    }
}
