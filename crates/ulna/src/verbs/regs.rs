//! `ulna regs`: the registers of a vCPU on a host, ids by name, and what differs between two hosts.

use crate::host::{self, HostArgs};
use crate::{complain, values};
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use ulna_arm_regs::SysReg;
use ulna_kvm_backend::RegId;
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
        /// KVM's id of the register, or a system register's name
        id: String,
        /// Value to split
        #[arg(value_parser = values::number)]
        value: Option<u128>,
    },
    /// What differs between two hosts, or two files that `ulna regs --json` wrote
    Diff {
        /// A host's name, or a file
        a: String,
        /// Another
        b: String,
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
            Some(RegsCommand::Decode { id, value }) => decode(&id, value),
            Some(RegsCommand::Diff { a, b }) => diff(&a, &b),
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
fn find_id(text: &str) -> Result<(String, Named), Error> {
    let number = catalog::id_of(text)
        .map(|id| id.0)
        .or_else(|| values::number(text).ok().and_then(|n| u64::try_from(n).ok()))
        .ok_or_else(|| Error::Usage(format!("regs decode: {text:?} is neither a register id nor a name")))?;
    let named = catalog::name(RegId(number))
        .map_err(|e| Error::Usage(format!("regs decode: {number:#x} names no register: {e}")))?;
    Ok((format!("{number:#018x}"), named))
}

fn decode(id: &str, value: Option<u128>) -> Result<String, Error> {
    let (id, named) = find_id(id)?;
    let mut text = format!("{id} {named}");
    if let Named::Sys(r) | Named::Timer(r) = named {
        let e = r.encoding();
        text.push_str(&format!(" op0={} op1={} CRn={} CRm={} op2={}", e.op0, e.op1, e.crn, e.crm, e.op2));
    }
    text.push_str(&format!(
        ", scope {}, introduced by {}\n",
        scope_name(named.scope()),
        named.introduced_by()
    ));
    let Some(value) = value else { return Ok(text) };
    let fields = named.sysreg().map(SysReg::fields).unwrap_or_default();
    let wide = u64::try_from(value);
    let Ok(v) = wide else {
        if fields.is_empty() {
            return Ok(format!("{text}  {value:#x}\n"));
        }
        return Err(Error::Usage(format!("regs decode: {value:#x} does not fit {named}")));
    };
    let mut named_bits = 0;
    for f in &fields {
        named_bits |= f.mask();
        let bits = match f.width {
            1 => format!("{}", f.lsb),
            w => format!("{}:{}", f.lsb + w - 1, f.lsb),
        };
        text.push_str(&format!("  {:<7} {:<16} {:#x}\n", bits, f.name, f.get(v)));
    }
    if fields.is_empty() {
        text.push_str(&format!("  {v:#x}\n"));
    } else if v & !named_bits != 0 {
        text.push_str(&format!("  {:<7} {:<16} {:#x}\n", "other", "-", v & !named_bits));
    }
    Ok(text)
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

fn diff(a: &str, b: &str) -> Result<String, Error> {
    let (left, right) = (side(a)?, side(b)?);
    let mut text = String::new();
    for (name, x) in &left {
        match right.get(name) {
            None => text.push_str(&format!("{name}: only {a}\n")),
            Some(y) if x.value != y.value => text.push_str(&difference(name, x, y)),
            Some(_) => {}
        }
    }
    for name in right.keys().filter(|n| !left.contains_key(*n)) {
        text.push_str(&format!("{name}: only {b}\n"));
    }
    Ok(text)
}

/// A register whose values differ, and the fields that do.
fn difference(name: &str, x: &Entry, y: &Entry) -> String {
    let mut line = format!("{name}: {} {}", x.value, y.value);
    let id = |e: &Entry| values::number(&e.id).ok().and_then(|n| u64::try_from(n).ok());
    let reg = id(x).and_then(|n| catalog::name(RegId(n)).ok()).and_then(Named::sysreg);
    let number = |e: &Entry| values::number(&e.value).ok().and_then(|n| u64::try_from(n).ok());
    if let (Some(r), Some(v), Some(w)) = (reg, number(x), number(y)) {
        for f in r.fields().iter().filter(|f| f.get(v) != f.get(w)) {
            line.push_str(&format!(" {}={:#x}|{:#x}", f.name, f.get(v), f.get(w)));
        }
    }
    line.push('\n');
    line
}
