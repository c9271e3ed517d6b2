//! `ulna plan`: what keeps a guest from moving, all of it, before anything moves.

use crate::complain;
use crate::host::{self, PolicyArg, features_by_name, find_named, find_place};
use clap::Args;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use ulna_arm_regs::SysReg;
use ulna_kvm_backend::RegId;
use ulna_kvm_backend::abi::device::GRP_CPU_SYSREGS;
use ulna_kvm_backend::abi::reg::GROUP_SDEI;
use ulna_machine::{Policy, VcpuFeatures};
use ulna_plan::{Avoid, Blocker, Class, Gic, Guest, Host, Plan, Verdict};
use ulna_vmm::moves::State;
use ulna_vmm::moves::snapshot::Snapshot;
use ulna_vmm::{Error, ExitStatus};

/// A guest that was started on one host with everything that `ulna run` gives it, and another host. The exit code is 0
/// if it goes, 9 if something blocks it, 10 if nothing does but the verdict rests on values that nobody has measured.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct PlanArgs {
    /// A snapshot that is to go on there
    #[arg(conflicts_with_all = ["from", "features", "gic2"], required_unless_present = "from")]
    dir: Option<PathBuf>,
    /// Where the guest is: a built-in profile or a profile file, and with @MAJOR.MINOR the kernel
    #[arg(long, value_name = "PROFILE[@KERNEL]")]
    from: Option<String>,
    /// It was started with this file of --cpu
    #[arg(long, value_name = "F", conflicts_with = "dir")]
    cpu: Option<PathBuf>,
    /// Where it is to go
    #[arg(long, value_name = "PROFILE[@KERNEL]")]
    to: String,
    /// Limits on both sides: what KVM on that hardware can do (hw), or what software can do beyond (soft)
    #[arg(long, value_enum, default_value = "hw", value_name = "hw|soft", hide_possible_values = true)]
    policy: PolicyArg,
    /// The hosts themselves with Linux's KVM, not this program in their place
    #[arg(long, conflicts_with = "policy")]
    real: bool,
    /// Features of its vCPUs, from psci, pmu, ptrauth, sve, el1_32bit, or none [default: all that the first host has but
    /// the last]
    #[arg(long, value_name = "LIST")]
    features: Option<String>,
    /// It has a GICv2 [default: a GICv3 where the first host has it]
    #[arg(long)]
    gic2: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl PlanArgs {
    /// Prints what blocks.
    pub fn call(self) -> ExitStatus {
        match self.plan() {
            Ok(plan) => {
                let text = if self.json { host::json(&plan) } else { Ok(text(&plan)) };
                match text.map(|t| host::print(&t)) {
                    Ok(ExitStatus::Done) => status(plan.verdict),
                    Ok(other) => other,
                    Err(e) => fail(&e),
                }
            }
            Err(e) => fail(&e),
        }
    }

    fn plan(&self) -> Result<Plan, Error> {
        let place = |option, text: &str| find_place(option, text, self.policy.into(), self.real);
        let to = place("--to", &self.to)?;
        if let Some(dir) = &self.dir {
            return self.plan_saved(dir, &to);
        }
        let called = self.from.as_deref().unwrap_or_default();
        let from = place("--from", called)?;
        let features = features_by_name(self.features.as_deref(), &from, called)?;
        if self.gic2 && !from.gic().v2 {
            return Err(Error::Usage(format!("--gic2: {called} has no GICv2 for its guests")));
        }
        let guest = match &self.cpu {
            None => Guest::of(&from, features, self.gic2),
            Some(path) => {
                let mut cpu = crate::cpu_file::read(path)?;
                if self.features.is_some() {
                    cpu.features = Some(features);
                }
                cpu.gic = if self.gic2 { Some(2) } else { cpu.gic };
                cpu.guest(&from).map_err(|e| crate::cpu_file::contradicted(path, &from, &e))?
            }
        };
        Ok(ulna_plan::plan(&guest, Some(&from), &to))
    }

    fn plan_saved(&self, dir: &Path, to: &Host) -> Result<Plan, Error> {
        let snapshot = Snapshot::open(dir)?;
        let header = &snapshot.state.header;
        // The profile may be a file that is not here any more; then nothing is said of how to avoid what blocks.
        let from = find_named("DIR", &header.profile).ok().map(|mut profile| {
            (profile.kernel.major, profile.kernel.minor) = header.kernel;
            let policy = match header.policy {
                ulna_stream::Policy::Hw => Policy::Hw,
                ulna_stream::Policy::Soft => Policy::Soft,
            };
            Host::soft(profile, policy)
        });
        let guest = saved_guest(&snapshot.state, from.as_ref().unwrap_or(to));
        Ok(ulna_plan::plan(&guest, from.as_ref(), to))
    }
}

fn fail(e: &Error) -> ExitStatus {
    complain(&e.to_string());
    e.status()
}

/// The guest of a snapshot; `origin` fills in constants that no register tells.
fn saved_guest(s: &State, origin: &Host) -> Guest {
    let features = VcpuFeatures::from_bits(s.header.vcpu_features);
    let v2 = s.gic.version == 2;
    let mut g = Guest::of(origin, features, v2);
    let vcpu = s.vcpus.first().map(|v| v.regs.as_slice()).unwrap_or_default();
    g.regs = s.vm_regs.iter().chain(vcpu).map(|r| (RegId(r.id), r.bytes.clone())).collect();
    g.counter_hz = s.header.counter_hz;
    g.traits.sdei = g.regs.keys().any(|id| id.group() == GROUP_SDEI);
    // What only policy `soft` lists, and guests of all policies read.
    let mut take = |r: SysReg| {
        let id = RegId::sysreg(r.code());
        let value = g.reg(id).map(|v| v as u64);
        g.regs.remove(&id);
        value
    };
    take(SysReg::CNTFRQ_EL0);
    let (block, events) = (take(SysReg::DCZID_EL0), take(SysReg::PMCEID0_EL0).zip(take(SysReg::PMCEID1_EL0)));
    g.dczid = block.unwrap_or(g.dczid);
    g.pmu_events = events.map(|(a, b)| [a, b]).or(g.pmu_events);
    let ctlr = s.gic.attrs.iter().find(|a| a.group == GRP_CPU_SYSREGS && a.attr as u16 == ICC_CTLR_EL1);
    g.gic = match (v2, ctlr) {
        (true, _) => Some(Gic::V2),
        (false, Some(a)) => Some(Gic::V3 { ctlr: a.value }),
        (false, None) => g.gic,
    };
    let end = s.regions.iter().map(|r| r.gpa.saturating_add(r.len)).max().unwrap_or(0);
    g.address_bits = (64 - end.saturating_sub(1).leading_zeros()).max(32) as u8;
    g
}

/// ICC_CTLR_EL1 as KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS names it.
const ICC_CTLR_EL1: u16 = SysReg::ICC_CTLR_EL1.code();

/// The exit code of a verdict.
pub fn status(v: Verdict) -> ExitStatus {
    match v {
        Verdict::Go => ExitStatus::Done,
        Verdict::GoInferred => ExitStatus::Unmeasured,
        Verdict::Blocked => ExitStatus::Blocked,
    }
}

/// For people: a table a class, then what would help, then what is not known.
pub fn text(p: &Plan) -> String {
    let count = match p.blockers.len() {
        0 => String::new(),
        1 => ": 1 reason".into(),
        n => format!(": {n} reasons"),
    };
    let mut out = format!("{} -> {}: {}{count}\n", p.from, p.to, p.verdict.word());
    for class in Class::ALL {
        let mut here = p.blockers.iter().filter(|b| b.class == class).peekable();
        if here.peek().is_none() {
            continue;
        }
        let _ = writeln!(out, "\n{}", class.title());
        for b in here {
            line(&mut out, b);
        }
    }
    remedies(&mut out, p);
    if !p.notes.is_empty() {
        out.push_str("\nWorth knowing\n");
        for n in &p.notes {
            let _ = writeln!(out, "  {}", n.text);
        }
    }
    if !p.inferred.is_empty() {
        let _ = writeln!(out, "\nValues that nobody has measured (* above): {}", p.inferred.len());
        for text in sources(&p.inferred) {
            let _ = writeln!(out, "  {text}");
        }
    }
    out
}

fn line(out: &mut String, b: &Blocker) {
    let mark = if b.inferred.is_empty() { ' ' } else { '*' };
    let limit = b.limit.map_or_else(|| "-".into(), |l| format!("{l:#x}"));
    let avoid = b.avoid.as_ref().map_or_else(|| "nothing avoids it".into(), Avoid::to_string);
    let _ = writeln!(
        out,
        "{mark} {:<30} {:<18} limit {limit:<18} {:<14} {avoid}",
        b.name(),
        format!("{:#x}", b.wanted),
        b.rule
    );
}

/// What would turn the verdict.
fn remedies(out: &mut String, p: &Plan) {
    if p.blockers.is_empty() {
        return;
    }
    let stuck = p.blockers.iter().filter(|b| b.avoid.is_none()).count();
    let soft = p.blockers.iter().any(|b| matches!(b.avoid, Some(Avoid::SoftDestination | Avoid::SoftBoth)));
    out.push('\n');
    out.push_str(match (stuck, soft) {
        (0, false) => {
            "It goes if the guest is started with all of these; `ulna baseline` writes them as a file for --cpu.\n"
        }
        (0, true) => {
            "No real KVM takes this guest; software does: --policy soft, from what `ulna baseline --policy soft` writes.\n"
        }
        _ => "Nothing makes it go.\n",
    });
}

/// `REGISTER of HOST: source` by source, with the registers together.
fn sources(inferred: &[String]) -> Vec<String> {
    let mut by_source: Vec<(String, Vec<&str>)> = Vec::new();
    for text in inferred {
        let Some((what, source)) = text.split_once(": ") else { continue };
        let (name, host) = what.split_once(" of ").unwrap_or((what, ""));
        let key = format!("{host}: {source}");
        match by_source.iter_mut().find(|s| s.0 == key) {
            Some(s) => s.1.push(name),
            None => by_source.push((key, vec![name])),
        }
    }
    let few = |names: &[&str]| match names {
        [a, b, c, rest @ ..] if rest.len() > 1 => format!("{a}, {b}, {c} and {} more", rest.len()),
        all => all.join(", "),
    };
    by_source.iter().map(|(key, names)| format!("{} of {key}", few(names))).collect()
}
