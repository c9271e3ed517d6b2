//! `ulna hosts`: the profiles there are, what is in them, how they differ, and who can move where.

use crate::complain;
use crate::host::{self, PolicyArg, find_named, find_place};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use ulna_machine::Policy;
use ulna_plan::Host;
use ulna_plan::matrix;
use ulna_profile::{KernelLevel, Kind, Profile, Source};
use ulna_vmm::{Error, ExitStatus};

/// Without a command: the list.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct HostsArgs {
    #[command(subcommand)]
    command: Option<HostsCommand>,
}

#[derive(Subcommand)]
enum HostsCommand {
    /// The built-in profiles
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// All that a profile says, with the source of each value
    Show {
        /// A built-in profile or a profile file
        host: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// What two profiles say differently; whether a guest can move between them is what `ulna plan` tells
    Diff {
        /// A built-in profile or a profile file
        a: String,
        /// Another
        b: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Profiles against profiles: who can move where
    Matrix(MatrixArgs),
}

#[derive(Args)]
struct MatrixArgs {
    /// Hosts, and with @MAJOR.MINOR the kernel [default: all built-in profiles]
    #[arg(value_name = "PROFILE[@KERNEL]")]
    hosts: Vec<String>,
    /// Limits on both sides
    #[arg(long, value_enum, default_value = "hw", value_name = "hw|soft|both", hide_possible_values = true)]
    policy: PolicyChoice,
    /// The hosts themselves with Linux's KVM, not this program in their place
    #[arg(long, conflicts_with = "policy")]
    real: bool,
    /// These kernels on every host, as 6.1,6.12 [default: each profile's own]
    #[arg(long, value_name = "MAJOR.MINOR,...", value_delimiter = ',', value_parser = crate::values::kernel)]
    kernels: Vec<KernelLevel>,
    /// Write one self-contained page
    #[arg(long, value_name = "F")]
    html: Option<PathBuf>,
    /// As JSON
    #[arg(long, conflicts_with = "html")]
    json: bool,
    /// A line a pair
    #[arg(long, conflicts_with_all = ["html", "json"])]
    lines: bool,
    /// Leave out what guests started from the baseline of both meet
    #[arg(long)]
    no_baseline: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum PolicyChoice {
    Hw,
    Soft,
    Both,
}

impl HostsArgs {
    /// Prints what was asked for.
    pub fn call(self) -> ExitStatus {
        let text = match self.command {
            None => list(false),
            Some(HostsCommand::List { json }) => list(json),
            Some(HostsCommand::Show { host, json }) => show(&host, json),
            Some(HostsCommand::Diff { a, b, json }) => diff(&a, &b, json),
            Some(HostsCommand::Matrix(args)) => args.text(),
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

/// Of what kind the values of a profile are.
fn kind_name(k: Kind) -> &'static str {
    match k {
        Kind::HwRaw => "hw-raw",
        Kind::HwKvm => "hw-kvm",
        Kind::Model => "model",
        Kind::Inferred => "inferred",
        _ => "defined",
    }
}

#[derive(Serialize)]
struct Listed {
    name: String,
    kernel: String,
    counter_hz: u64,
    gic: String,
    address_bits: u8,
    inferred: usize,
    description: String,
}

fn gic_name(p: &Profile) -> &'static str {
    match (p.gic.v3(), p.gic.v2) {
        (true, true) => "v3, v2",
        (true, false) => "v3",
        _ => "v2",
    }
}

fn list(json: bool) -> Result<String, Error> {
    let mut all = Vec::new();
    for name in ulna_profile::names() {
        let p = find_named("hosts", name)?;
        all.push(Listed {
            name: p.name.clone(),
            kernel: format!("{}.{}", p.kernel.major, p.kernel.minor),
            counter_hz: p.counter.hz,
            gic: gic_name(&p).into(),
            address_bits: p.memory.ipa_bits,
            inferred: p.inferred().count(),
            description: p.description.clone(),
        });
    }
    if json {
        return host::json(&all);
    }
    let mut text = format!(
        "{:<18} {:<7} {:>12} {:<7} {:>7} {:>8}  {}\n",
        "NAME", "KERNEL", "COUNTER HZ", "GIC", "ADDRESS", "INFERRED", "WHAT"
    );
    for h in &all {
        let _ = writeln!(
            text,
            "{:<18} {:<7} {:>12} {:<7} {:>7} {:>8}  {}",
            h.name, h.kernel, h.counter_hz, h.gic, h.address_bits, h.inferred, h.description
        );
    }
    Ok(text)
}

/// A value of a profile.
#[derive(Serialize, PartialEq, Clone)]
struct Value {
    value: String,
    kind: &'static str,
    source: String,
}

/// Everything that a profile says, by name.
fn values(p: &Profile) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let mut say = |name: String, value: String, s: &Source| {
        all.insert(name, Value { value, kind: kind_name(s.kind), source: s.text.to_string() });
    };
    for (r, v) in &p.regs {
        say(r.to_string(), format!("{:#x}", v.value), &v.source);
    }
    say("counter.hz".into(), p.counter.hz.to_string(), &p.counter.source);
    for (n, v) in p.cache.ccsidr.iter().enumerate() {
        say(format!("cache.ccsidr[{n}]"), format!("{v:#x}"), &p.cache.source);
    }
    let g = &p.gic;
    for (what, v) in [
        ("version", g.version.to_string()),
        ("v2", g.v2.to_string()),
        ("list_registers", g.list_registers.to_string()),
        ("priority_bits", g.priority_bits.to_string()),
        ("id_bits", g.id_bits.to_string()),
        ("seis", g.seis.to_string()),
        ("a3v", g.a3v.to_string()),
    ] {
        say(format!("gic.{what}"), v, &g.source);
    }
    if let Some(u) = &p.pmu {
        say("pmu.counters".into(), u.counters.to_string(), &u.source);
        say("pmu.pmceid0".into(), format!("{:#x}", u.pmceid0), &u.source);
        say("pmu.pmceid1".into(), format!("{:#x}", u.pmceid1), &u.source);
    }
    say("memory.ipa_bits".into(), p.memory.ipa_bits.to_string(), &p.memory.source);
    let m = &p.mitigations;
    for (what, v) in [
        ("spectre_v2", m.spectre_v2),
        ("ssb", m.ssb),
        ("spectre_bhb", m.spectre_bhb),
        ("meltdown", m.meltdown),
    ] {
        say(format!("mitigations.{what}"), format!("{v:?}").to_lowercase(), &m.source);
    }
    if let Some(s) = &p.sve {
        say("sve.lengths".into(), format!("{:?}", s.lengths), &s.source);
    }
    all
}

fn show(name: &str, json: bool) -> Result<String, Error> {
    let p = find_named("hosts show", name)?;
    let all = values(&p);
    if json {
        return host::json(&all);
    }
    let k = p.kernel;
    let mut text = format!("{}: {} (Linux {}.{})\n\n", p.name, p.description, k.major, k.minor);
    for (what, v) in &all {
        let _ = writeln!(text, "{what:<24} {:<20} {:<9} {}", v.value, v.kind, v.source);
    }
    Ok(text)
}

#[derive(Serialize)]
struct Difference {
    name: String,
    a: Option<Value>,
    b: Option<Value>,
}

fn diff(a: &str, b: &str, json: bool) -> Result<String, Error> {
    let (pa, pb) = (find_named("hosts diff", a)?, find_named("hosts diff", b)?);
    let (va, vb) = (values(&pa), values(&pb));
    let mut names: Vec<&String> = va.keys().chain(vb.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let value = |m: &BTreeMap<String, Value>, n: &String| m.get(n).map(|v| v.value.clone());
    let all: Vec<Difference> = names
        .into_iter()
        .filter(|n| value(&va, n) != value(&vb, n))
        .map(|n| Difference { name: n.clone(), a: va.get(n).cloned(), b: vb.get(n).cloned() })
        .collect();
    if json {
        return host::json(&all);
    }
    if all.is_empty() {
        return Ok(format!("{} and {} say the same.\n", pa.name, pb.name));
    }
    let mut text = format!("{:<24} {:<32} {:<32}\n", "", pa.name, pb.name);
    let of = |v: &Option<Value>| v.as_ref().map_or("-".into(), |v| format!("{} ({})", v.value, v.kind));
    for d in &all {
        let _ = writeln!(text, "{:<24} {:<32} {:<32}", d.name, of(&d.a), of(&d.b));
    }
    Ok(text)
}

impl MatrixArgs {
    fn text(&self) -> Result<String, Error> {
        let names: Vec<String> = match self.hosts.is_empty() {
            true => ulna_profile::names().map(str::to_owned).collect(),
            false => self.hosts.clone(),
        };
        let policies: &[Policy] = match self.policy {
            PolicyChoice::Hw => &[Policy::Hw],
            PolicyChoice::Soft => &[Policy::Soft],
            PolicyChoice::Both => &[Policy::Hw, Policy::Soft],
        };
        let mut cells = Vec::new();
        let mut tables = String::new();
        for policy in policies {
            let mut hosts: Vec<Host> = Vec::new();
            for n in &names {
                let h = find_place("hosts matrix", n, *policy, self.real)?;
                if self.kernels.is_empty() {
                    hosts.push(h);
                    continue;
                }
                for k in &self.kernels {
                    let mut at = h.clone();
                    at.profile.kernel = *k;
                    hosts.push(at);
                }
            }
            let some = matrix::cells(&hosts, !self.no_baseline && !self.real);
            if !tables.is_empty() {
                tables.push('\n');
            }
            let _ = writeln!(tables, "Policy {}\n", PolicyArg::from(*policy).name());
            tables.push_str(&matrix::text(&hosts, &some));
            cells.extend(some);
        }
        if let Some(path) = &self.html {
            std::fs::write(path, matrix::html(&cells)).map_err(|source| Error::File {
                action: "write the page to",
                path: path.clone(),
                source,
            })?;
            return Ok(String::new());
        }
        match () {
            () if self.json => host::json(&cells),
            () if self.lines => Ok(matrix::lines(&cells)),
            () => Ok(tables),
        }
    }
}
