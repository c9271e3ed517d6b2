//! `ulna regs`: the registers of a vCPU on a host, ids by name, and what differs between two hosts.

use crate::host::{self, HostArgs};
use crate::{complain, values};
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use ulna_arm_regs::Encoding;
use ulna_kvm_backend::RegId;
use ulna_machine::aarch32;
use ulna_machine::catalog::{self, Named, Scope, WriteRule};
use ulna_vmm::{Error, ExitStatus};

/// Without a command: every register of a vCPU that is initialised and has not run, in KVM's order.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, after_help = ExitStatus::help())]
pub struct RegsArgs {
    #[command(subcommand)]
    command: Option<RegsCommand>,
    #[command(flatten)]
    host: HostArgs,
    /// Only registers of the VM, or only those of each vCPU
    #[arg(long, value_enum, value_name = "vm|vcpu", hide_possible_values = true)]
    scope: Option<ScopeArg>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum RegsCommand {
    /// Name a register id, and split a value into fields
    Decode {
        /// KVM's id of a register, or its name
        id: String,
        /// Value to split
        #[arg(value_parser = values::number)]
        value: Option<u128>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// What differs between two hosts, or two files that `ulna regs --json` wrote (a name with a slash or .json)
    Diff {
        /// A host's name, or a file
        a: String,
        /// Another
        b: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum ScopeArg {
    Vm,
    Vcpu,
}

/// One register of a list, as in JSON.
#[derive(Serialize, Deserialize)]
struct Entry {
    id: String,
    name: String,
    /// Bits.
    width: u32,
    value: String,
    writable_mask: String,
    write_rule: String,
    scope: String,
    introduced_by: String,
}

impl RegsArgs {
    /// Prints what was asked for.
    pub fn call(self) -> ExitStatus {
        let text = match self.command {
            None => list(&self.host, self.scope, self.json),
            Some(RegsCommand::Decode { id, value, json }) => decode(&id, value, json),
            Some(RegsCommand::Diff { a, b, json }) => diff(&a, &b, json),
        };
        match text {
            Ok(text) => host::print(&text),
            Err(e) => {
                complain(&e.to_string());
                e.status()
            }
        }
    }
}

fn entries(host: &HostArgs) -> Result<Vec<Entry>, Error> {
    let machine = host.machine()?;
    let mut vcpu = host.vcpu()?;
    let ids = vcpu.reg_list().map_err(host::internal)?;
    let mut list = Vec::with_capacity(ids.len());
    for id in ids {
        let mut bytes = vec![0; id.size()];
        vcpu.get_one_reg(id, &mut bytes).map_err(host::internal)?;
        let named = catalog::name(id).map_err(|e| Error::Internal(format!("register {:#x}: {e}", id.0)))?;
        let (rule, mask) = machine.write_rule(named);
        // A new VM offers every service there is.
        let offered = u64::from_le_bytes(bytes[..].try_into().unwrap_or_default());
        let mask = if rule == WriteRule::Bitmap { offered.into() } else { mask };
        let digits = id.size().min(16) * 2;
        list.push(Entry {
            id: format!("{:#018x}", id.0),
            name: named.to_string(),
            width: id.size() as u32 * 8,
            value: hex(&bytes),
            writable_mask: format!("{mask:#0w$x}", w = digits + 2),
            write_rule: rule.name().into(),
            scope: scope_name(named.scope()).into(),
            introduced_by: named.introduced_by(),
        });
    }
    Ok(list)
}

/// Little-endian bytes as one number.
fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().rev().map(|b| format!("{b:02x}")).collect();
    format!("0x{digits}")
}

fn scope_name(s: Scope) -> &'static str {
    match s {
        Scope::Vm => "vm",
        Scope::Vcpu => "vcpu",
    }
}

fn list(host: &HostArgs, scope: Option<ScopeArg>, json: bool) -> Result<String, Error> {
    let mut list = entries(host)?;
    if let Some(s) = scope {
        let want = match s {
            ScopeArg::Vm => "vm",
            ScopeArg::Vcpu => "vcpu",
        };
        list.retain(|e| e.scope == want);
    }
    if json {
        return host::json(&list);
    }
    let mut text = format!(
        "{:<18} {:<24} {:>5} {:<34} {:<34} {:<14} {:<5} {}\n",
        "ID", "NAME", "WIDTH", "VALUE", "WRITABLE MASK", "WRITE RULE", "SCOPE", "INTRODUCED BY"
    );
    for e in &list {
        text.push_str(&format!(
            "{:<18} {:<24} {:>5} {:<34} {:<34} {:<14} {:<5} {}\n",
            e.id, e.name, e.width, e.value, e.writable_mask, e.write_rule, e.scope, e.introduced_by
        ));
    }
    Ok(text)
}

/// An id in any base, or a register's name.
fn find_id(text: &str) -> Result<(RegId, Named), Error> {
    let number = catalog::id_of(text)
        .map(|id| id.0)
        .or_else(|| values::number(text).ok().and_then(|n| u64::try_from(n).ok()))
        .ok_or_else(|| Error::Usage(format!("regs decode: {text:?} is neither a register id nor a name")))?;
    let named = catalog::name(RegId(number))
        .map_err(|e| Error::Usage(format!("regs decode: {number:#x} names no register: {e}")))?;
    Ok((RegId(number), named))
}

/// A named id and a split value, as in JSON.
#[derive(Serialize)]
struct Decoded {
    id: String,
    name: String,
    /// Bits.
    width: u32,
    /// op0, op1, CRn, CRm, op2 of a system register.
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<[u8; 5]>,
    scope: &'static str,
    introduced_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<FieldValue>,
}

#[derive(Serialize)]
struct FieldValue {
    /// Empty for a bit that is set and has no name.
    name: &'static str,
    high: u32,
    low: u32,
    value: String,
    meaning: String,
}

/// An id of 32-bit Arm, as in old streams.
#[derive(Serialize)]
struct OldId {
    id: String,
    name: String,
    /// Bits.
    width: u32,
    /// The register of an arm64 vCPU with AArch32 at EL1 that holds it, and its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    arm64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arm64_id: Option<String>,
}

/// An id of 32-bit Arm; none for all others.
fn decode_old(text: &str, json: bool) -> Option<Result<String, Error>> {
    let id = values::number(text).ok().and_then(|n| u64::try_from(n).ok()).filter(|n| n >> 56 == 0x40)?;
    let old = match aarch32::name(id) {
        Ok(old) => old,
        Err(e) => {
            return Some(Err(Error::Usage(format!("regs decode: {id:#x} names no register: {e}"))));
        }
    };
    let o = OldId {
        id: format!("{id:#018x}"),
        name: old.to_string(),
        width: 8 << (id >> 52 & 0xf),
        arm64: old.arm64(),
        arm64_id: old.arm64_id().map(|id| format!("{:#018x}", id.0)),
    };
    if json {
        return Some(host::json(&o));
    }
    let there = match (&o.arm64, &o.arm64_id) {
        (Some(n), Some(id)) => format!("; arm64 holds it in {n} ({id})"),
        _ => "; arm64 holds it nowhere".into(),
    };
    Some(Ok(format!(
        "{} {}, {} bits, of 32-bit Arm (Linux before 5.7); arm64 vCPUs refuse it{there}\n",
        o.id, o.name, o.width
    )))
}

fn decode(text: &str, value: Option<u128>, json: bool) -> Result<String, Error> {
    if let Some(old) = decode_old(text, json) {
        return old;
    }
    let (id, named) = find_id(text)?;
    let width = id.size() as u32 * 8;
    if let Some(v) = value
        && width < 128
        && v >> width != 0
    {
        return Err(Error::Usage(format!("regs decode: {v:#x} does not fit the {width} bits of {named}")));
    }
    let encoding = match named {
        Named::Sys(r) | Named::Timer(r) => Some(r.encoding()),
        Named::Other(code) => Some(Encoding::from_code(code)),
        _ => None,
    };
    // Only registers of up to 64 bits have fields.
    let parts = value.and_then(|v| u64::try_from(v).ok()).map(|v| named.split(v)).unwrap_or_default();
    let decoded = Decoded {
        id: format!("{:#018x}", id.0),
        name: named.to_string(),
        width,
        encoding: encoding.map(|e| [e.op0, e.op1, e.crn, e.crm, e.op2]),
        scope: scope_name(named.scope()),
        introduced_by: named.introduced_by(),
        note: named.note(),
        value: value.map(|v| format!("{v:#x}")),
        fields: parts
            .into_iter()
            .map(|p| FieldValue {
                name: p.name,
                high: p.high,
                low: p.low,
                value: format!("{:#x}", p.value),
                meaning: p.meaning,
            })
            .collect(),
    };
    if json { host::json(&decoded) } else { Ok(decoded.text()) }
}

impl Decoded {
    fn text(&self) -> String {
        let mut text = format!("{} {}", self.id, self.name);
        if let Some([op0, op1, crn, crm, op2]) = self.encoding {
            text.push_str(&format!(" op0={op0} op1={op1} CRn={crn} CRm={crm} op2={op2}"));
        }
        text.push_str(&format!(", {} bits, scope {}", self.width, self.scope));
        if self.introduced_by != "-" {
            text.push_str(&format!(", introduced by {}", self.introduced_by));
        }
        if let Some(note) = &self.note {
            text.push_str(&format!("; {note}"));
        }
        text.push('\n');
        for f in &self.fields {
            let bits = if f.high == f.low { f.low.to_string() } else { format!("{}:{}", f.high, f.low) };
            let name = if f.name.is_empty() { "(no name)" } else { f.name };
            let line = format!("  {bits:<7} {name:<18} {:<10} {}", f.value, f.meaning);
            text.push_str(line.trim_end());
            text.push('\n');
        }
        if let (Some(value), true) = (&self.value, self.fields.is_empty()) {
            text.push_str(&format!("  {value}\n"));
        }
        text
    }
}

/// The registers of a host or a file, by name.
fn side(text: &str) -> Result<BTreeMap<String, Entry>, Error> {
    let file = text.ends_with(".json") || text.contains('/');
    let list: Vec<Entry> = if file && !text.ends_with(".toml") {
        let path = Path::new(text);
        let bytes = std::fs::read(path).map_err(|source| Error::File {
            action: "read the register list",
            path: path.into(),
            source,
        })?;
        serde_json::from_slice(&bytes).map_err(|e| Error::File {
            action: "read the register list",
            path: path.into(),
            source: std::io::Error::other(e),
        })?
    } else {
        entries(&HostArgs::of(text))?
    };
    Ok(list.into_iter().map(|e| (e.name.clone(), e)).collect())
}

/// What differs in one register, as in JSON. A side without the register has no value.
#[derive(Serialize)]
struct Difference {
    name: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<String>,
    /// Fields that differ, with both numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<(&'static str, String, String)>,
}

fn diff(a: &str, b: &str, json: bool) -> Result<String, Error> {
    let (left, right) = (side(a)?, side(b)?);
    let mut found = Vec::new();
    for (name, x) in &left {
        let y = right.get(name);
        if y.is_none_or(|y| x.value != y.value) {
            found.push(Difference {
                name: name.clone(),
                id: x.id.clone(),
                a: Some(x.value.clone()),
                b: y.map(|y| y.value.clone()),
                fields: y.map(|y| fields(x, y)).unwrap_or_default(),
            });
        }
    }
    for (name, y) in right.iter().filter(|(n, _)| !left.contains_key(*n)) {
        let (id, b) = (y.id.clone(), Some(y.value.clone()));
        found.push(Difference { name: name.clone(), id, a: None, b, fields: Vec::new() });
    }
    if json {
        return host::json(&found);
    }
    let mut text = String::new();
    for d in &found {
        match (&d.a, &d.b) {
            (Some(x), Some(y)) => {
                text.push_str(&format!("{}: {x} {y}", d.name));
                for (field, v, w) in &d.fields {
                    text.push_str(&format!(" {field}={v}|{w}"));
                }
                text.push('\n');
            }
            (Some(_), None) => text.push_str(&format!("{}: only {a}\n", d.name)),
            _ => text.push_str(&format!("{}: only {b}\n", d.name)),
        }
    }
    Ok(text)
}

/// The fields in which two values of a register differ.
fn fields(x: &Entry, y: &Entry) -> Vec<(&'static str, String, String)> {
    let number = |text: &str| values::number(text).ok().and_then(|n| u64::try_from(n).ok());
    let named = number(&x.id).and_then(|n| catalog::name(RegId(n)).ok());
    let (Some(named), Some(v), Some(w)) = (named, number(&x.value), number(&y.value)) else {
        return Vec::new();
    };
    let (v, w) = (named.split(v), named.split(w));
    let both = v.iter().zip(&w).filter(|(p, q)| p.low == q.low && p.value != q.value && !p.name.is_empty());
    both.map(|(p, q)| (p.name, format!("{:#x}", p.value), format!("{:#x}", q.value))).collect()
}
