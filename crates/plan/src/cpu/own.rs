//! Our own spelling: TOML, a line a register or field.

use super::{BadCpu, Cpu, find, split};
use crate::check::FEATURES;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use ulna_kvm_abi::RegId;
use ulna_machine::VcpuFeatures;
use ulna_machine::catalog::name;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    features: Option<Vec<String>>,
    gic: Option<u8>,
    #[serde(default)]
    registers: BTreeMap<String, Num>,
}

/// A number: an integer, or a string for what TOML's signed integers cannot hold.
#[derive(Deserialize)]
#[serde(untagged)]
enum Num {
    Int(i64),
    Text(String),
}

pub(super) fn parse(text: &str) -> Result<Cpu, BadCpu> {
    let f: File = toml::from_str(text).map_err(|e| {
        let at = e.span().map_or(1, |s| 1 + text.bytes().take(s.start).filter(|&b| b == b'\n').count());
        BadCpu(format!("line {at}: {}", e.message().lines().collect::<Vec<_>>().join("; ")))
    })?;
    let mut cpu = Cpu { gic: f.gic, ..Cpu::default() };
    if !matches!(f.gic, None | Some(2 | 3)) {
        return Err(BadCpu("gic is 2 or 3".into()));
    }
    if let Some(list) = f.features {
        let mut all = VcpuFeatures::NONE;
        for word in list {
            let known = FEATURES.iter().find(|(n, _)| *n == word);
            all = all | known.ok_or_else(|| BadCpu(format!("features: {word:?} is none")))?.1;
        }
        cpu.features = Some(all);
    }
    for (what, n) in &f.registers {
        let (id, mask) = find(what)?;
        let value = match n {
            Num::Int(n) => u64::try_from(*n).map_err(|_| BadCpu(format!("{what}: {n} is negative")))?,
            Num::Text(t) => number(t).ok_or_else(|| BadCpu(format!("{what}: {t:?} is no number")))?,
        };
        let low = mask.trailing_zeros();
        if value > mask >> low {
            return Err(BadCpu(format!("{what}: {value:#x} does not fit")));
        }
        if cpu.registers.get(&id).is_some_and(|b| b.mask & mask != 0) {
            return Err(BadCpu(format!("{what} is said twice")));
        }
        cpu.set(id, mask, value << low);
    }
    Ok(cpu)
}

pub(super) fn number(text: &str) -> Option<u64> {
    let t = text.replace('_', "");
    match t.strip_prefix("0x").or_else(|| t.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => t.parse().ok(),
    }
}

pub(super) fn write(cpu: &Cpu) -> String {
    let mut out = String::new();
    for line in &cpu.comment {
        let _ = writeln!(out, "# {line}");
    }
    if let Some(f) = cpu.features {
        let names: Vec<String> =
            FEATURES.iter().filter(|(_, b)| f.contains(*b)).map(|(n, _)| format!("{n:?}")).collect();
        let _ = writeln!(out, "features = [{}]", names.join(", "));
    }
    if let Some(v) = cpu.gic {
        let _ = writeln!(out, "gic = {v}");
    }
    out.push_str("\n[registers]\n");
    let mut ids: Vec<&RegId> = cpu.registers.keys().collect();
    ids.sort_unstable();
    for id in ids {
        let (bits, Ok(n)) = (cpu.registers[id], name(*id)) else { continue };
        match split(*id, bits).filter(|_| bits.mask.leading_zeros() != 0 || bits.mask != u64::MAX) {
            Some(fields) => {
                for (f, v) in fields {
                    // Quoted: a dot would make a table of it.
                    let _ = writeln!(out, "\"{n}.{f}\" = {v}");
                }
            }
            None if n.to_string().contains('[') => {
                let _ = writeln!(out, "\"{n}\" = \"{:#x}\"", bits.value);
            }
            None => {
                let _ = writeln!(out, "{n} = \"{:#x}\"", bits.value);
            }
        }
    }
    out
}
