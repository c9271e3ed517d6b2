//! `cargo xtask reference`: the pages of `docs/src/reference/` that are made from tables, and the links of all pages.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ulna_arm_regs::SysReg;
use ulna_arm_regs::field::Reference;
use ulna_arm_regs::row::Kvm;
use ulna_machine::catalog::{self, Scope, WriteRule};
use ulna_machine::{Machine, Policy, VcpuFeatures};
use ulna_profile::{Kind, Mitigation, Profile, Source};

use crate::coverage;

/// Options of `reference`.
#[derive(clap::Args)]
pub struct Args {
    /// Writes the pages.
    #[arg(long, conflicts_with = "check")]
    write: bool,
    /// Fails when a page differs from what its table says now, or when a page or a link is missing (the default).
    #[arg(long)]
    check: bool,
}

/// Writes or checks the pages.
pub fn run(a: &Args) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask's directory")?;
    let dir = root.join("docs/src/reference");
    let pages = [
        ("run.md", run_page()?),
        ("instructions.md", coverage::coverage(coverage::SAMPLES)?.page),
        ("registers.md", registers_page()?),
        ("plan.md", help_page("plan", &["plan", "baseline"])?),
        (
            "hosts-verb.md",
            help_page("hosts", &["hosts", "hosts list", "hosts show", "hosts diff", "hosts matrix"])?,
        ),
        ("regs.md", help_page("regs", &["regs", "regs decode", "regs diff"])?),
        ("caps.md", help_page("caps", &["caps"])?),
        ("exec.md", help_page("exec", &["exec"])?),
        ("selftests.md", help_page("selftests", &["selftests"])?),
        ("ctl.md", help_page("ctl", &["ctl", "ctl VM cpu", "ctl VM stop", "ctl VM nmi", "list", "stop"])?),
        ("snapshot.md", help_page("snapshot", &["snapshot", "restore", "inspect", "migrate", "receive"])?),
        ("control.md", control_page(root)?),
        ("hosts.md", hosts_page()?),
    ];
    let mut wrong = Vec::new();
    for (name, text) in &pages {
        let path = dir.join(name);
        if a.write {
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        } else if std::fs::read_to_string(&path).ok().as_ref() != Some(text) {
            wrong.push(format!("{} is stale: cargo xtask reference --write", path.display()));
        }
    }
    let files = markdown_files(root)?;
    for file in &files {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let base = file.parent().unwrap_or(root);
        for target in targets(&text) {
            if !base.join(&target).exists() {
                wrong.push(format!("{}: {target} does not exist", file.display()));
            }
        }
    }
    wrong.extend(unlisted(root, &files)?);
    for w in &wrong {
        println!("{w}");
    }
    println!("{} generated pages, {} files with links, {} wrong", pages.len(), files.len(), wrong.len());
    ensure!(wrong.is_empty(), "the documentation is not in order");
    Ok(())
}

/// The files whose links are looked at.
fn markdown_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![root.join("README.md"), root.join("CHANGELOG.md"), root.join("profiles/README.md")];
    let mut dirs = vec![root.join("docs")];
    while let Some(dir) = dirs.pop() {
        for e in std::fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
            let path = e?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|x| x == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Pages of the book that its table of contents does not name, and decisions that the book does not include.
fn unlisted(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (dir, index) in [("docs/src", "SUMMARY.md"), ("docs/decisions", "../src/decisions.md")] {
        let dir = root.join(dir);
        let index = dir.join(index);
        let text = std::fs::read_to_string(&index).with_context(|| format!("read {}", index.display()))?;
        let base = index.parent().unwrap_or(root);
        let named: Vec<PathBuf> =
            targets(&text).iter().filter_map(|t| base.join(t).canonicalize().ok()).collect();
        for f in files.iter().filter(|f| f.starts_with(&dir) && !f.ends_with("SUMMARY.md")) {
            if !named.contains(&f.canonicalize()?) {
                wrong.push(format!("{} is not named in {}", f.display(), index.display()));
            }
        }
    }
    Ok(wrong)
}

/// What a page links to or includes by a relative path, outside of code.
fn targets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code || line.starts_with("    ") {
            continue;
        }
        // Between backticks stands code: every other piece.
        for piece in line.split('`').step_by(2) {
            let links = piece.split("](").skip(1).filter_map(|p| p.split(')').next());
            let includes = piece.split("{{#include ").skip(1).filter_map(|p| p.split("}}").next());
            for t in links.chain(includes) {
                let t = t.split('#').next().unwrap_or_default().trim();
                if !t.is_empty() && !t.contains("://") && !t.starts_with("mailto:") {
                    found.push(t.to_owned());
                }
            }
        }
    }
    found
}

/// What `ulna COMMAND --help` prints.
fn help(command: &str) -> Result<String> {
    let out = Command::new(env!("CARGO"))
        .args(["run", "--release", "--quiet", "--package", "ulna", "--"])
        .args(command.split(' '))
        .arg("--help")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .with_context(|| format!("cargo run --package ulna -- {command} --help"))?;
    ensure!(out.status.success(), "ulna {command} --help: {}", String::from_utf8_lossy(&out.stderr));
    let help = String::from_utf8(out.stdout).with_context(|| format!("ulna {command} --help"))?;
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    Ok(help.join("\n").trim().to_owned())
}

/// The control API, from its description.
fn control_page(root: &Path) -> Result<String> {
    let path = root.join("api/openapi.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let doc: serde_json::Value = serde_json::from_str(&text).context("api/openapi.json")?;
    let word = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    let name = |v: &serde_json::Value| word(&v["$ref"]).rsplit('/').next().unwrap_or_default().to_owned();
    let mut page = format!(
        "# The control API\n\n{}\n\n{}\n",
        made_by("`api/openapi.json`"),
        word(&doc["info"]["description"])
    );
    for (path, item) in doc["paths"].as_object().into_iter().flatten() {
        for (method, o) in item.as_object().into_iter().flatten() {
            let method = method.to_uppercase();
            write!(page, "\n## {method} `{path}`\n\n{}.", word(&o["summary"]))?;
            let more = word(&o["description"]);
            writeln!(page, "{}{more}", if more.is_empty() { "" } else { " " })?;
            let body = name(&o["requestBody"]["content"]["application/json"]["schema"]);
            if !body.is_empty() {
                writeln!(page, "\nBody: `{body}`.")?;
            }
            writeln!(page, "\n| status | body | when |\n|---|---|---|")?;
            for (status, r) in o["responses"].as_object().into_iter().flatten() {
                let body = name(&r["content"]["application/json"]["schema"]);
                let body = if body.is_empty() { "object".to_owned() } else { format!("`{body}`") };
                writeln!(page, "| {status} | {body} | {} |", word(&r["description"]))?;
            }
        }
    }
    writeln!(page, "\n## Bodies")?;
    for (schema, s) in doc["components"]["schemas"].as_object().into_iter().flatten() {
        writeln!(page, "\n### {schema}\n")?;
        let about = word(&s["description"]);
        if !about.is_empty() {
            writeln!(page, "{about}\n")?;
        }
        let kind = |p: &serde_json::Value| match (&p["enum"], &p["const"], name(p)) {
            (serde_json::Value::Array(all), ..) => {
                all.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ")
            }
            (_, c, _) if !c.is_null() => format!("`{c}`"),
            (.., r) if !r.is_empty() => format!("`{r}`"),
            _ => match &p["type"] {
                serde_json::Value::Array(all) => all.iter().map(word).collect::<Vec<_>>().join(" or "),
                t if t == "array" => format!("array of `{}`", name(&p["items"])),
                t => word(t),
            },
        };
        if s["properties"].is_null() {
            writeln!(page, "{}", kind(s))?;
            continue;
        }
        writeln!(page, "| field | value | meaning |\n|---|---|---|")?;
        for (field, p) in s["properties"].as_object().into_iter().flatten() {
            writeln!(page, "| `{field}` | {} | {} |", kind(p), word(&p["description"]))?;
        }
    }
    Ok(page)
}

fn run_page() -> Result<String> {
    Ok(format!(
        "# `ulna run`\n\n{}\n\nOptions and exit codes as `ulna run --help` prints them:\n\n```text\n{}\n```\n",
        made_by("the command line's own tables (`crates/ulna/src/verbs/run.rs`, `crates/vmm/src/exit.rs`)"),
        help("run")?
    ))
}

/// The help of a verb and of its commands.
fn help_page(verb: &str, commands: &[&str]) -> Result<String> {
    let source = format!("the command line's own tables (`crates/ulna/src/verbs/{verb}.rs`)");
    let mut page = format!("# `ulna {verb}`\n\n{}\n", made_by(&source));
    for command in commands {
        let help = help(command)?;
        page.push_str(&format!("\n`ulna {command} --help` prints:\n\n```text\n{help}\n```\n"));
    }
    Ok(page)
}

fn made_by(table: &str) -> String {
    format!("<!-- Generated by `cargo xtask reference --write`; do not edit. -->\n\nMade from {table}.")
}

/// Scope, write rule and writable mask of a register as KVM shows it.
fn vmm_column(machine: &Machine, r: SysReg) -> String {
    if matches!(r.row().kvm, Kvm::None | Kvm::Vgic | Kvm::Demux) {
        return "-".into();
    }
    let Some(named) = catalog::id_of(r.name()).and_then(|id| catalog::name(id).ok()) else {
        return "-".into();
    };
    let scope = match named.scope() {
        Scope::Vm => "vm",
        Scope::Vcpu => "vcpu",
    };
    let (rule, mask) = machine.write_rule(named);
    let mask = match rule {
        WriteRule::Limit | WriteRule::Masked => format!(", {mask:#x}"),
        _ => String::new(),
    };
    format!("{scope}, {}{mask}", rule.name())
}

fn registers_page() -> Result<String> {
    let profile = Profile::builtin("max")?;
    let machine = Machine::new(&profile, Policy::Hw, VcpuFeatures::PMU_V3 | VcpuFeatures::PTRAUTH);
    let reference = Reference(|r| vmm_column(&machine, r));
    Ok(format!(
        "# System registers\n\n{}\n\n\
         * guest: what MRS and MSR may do, and the lowest exception level that may have access.\n\
         * held by: who has the value. RAZ/WI: KVM traps it and shows nothing; UNDEFINED: for every guest.\n\
         * reset: the value after a reset; UNKNOWN: KVM's pattern `0x1de7ec7edbadc0de`; machine: by profile, VM or vCPU.\n\
         * KVM: the id under which KVM_GET_REG_LIST of Linux 6.12 shows it (`arm-regs::history` has what other kernels \
         do otherwise), or the interface that shows it instead.\n\
         * VMM: whose value it is, and what KVM_SET_ONE_REG may write ([the rules](../howto/registers.md)), with the writable \
         mask of host `max`; `ulna regs` tells it for any host.\n\
         * needs: the feature without which it does not exist.\n\n{reference}",
        made_by(
            "the rows of `crates/arm-regs/src/sysreg.rs`, the fields of `field.rs` and `id.rs`, and `machine`'s write rules"
        )
    ))
}

fn kind(k: Kind) -> &'static str {
    match k {
        Kind::HwRaw => "hw-raw",
        Kind::HwKvm => "hw-kvm",
        Kind::Model => "model",
        Kind::Inferred => "inferred",
        Kind::Defined => "defined",
        _ => "?",
    }
}

fn mitigation(m: Mitigation) -> &'static str {
    match m {
        Mitigation::Vulnerable => "vulnerable",
        Mitigation::Mitigated => "mitigated",
        Mitigation::Unaffected => "unaffected",
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn hosts_page() -> Result<String> {
    let mut profiles = Vec::new();
    for name in ulna_profile::names() {
        profiles.push(Profile::builtin(name)?);
    }
    let mut s = format!(
        "# Hosts\n\n{}\n\nThe profiles that `--host` knows. Each value has its kind: `hw-raw` was read on the hardware, \
         `hw-kvm` on the hardware through KVM, `model` is from a manual or another's CPU model, `inferred` was measured by \
         nobody, `defined` is ours. These are the hosts, not what a guest sees: that is what KVM of the profile's kernel \
         would show and the engine can execute.\n\n",
        made_by("the files in `profiles/`")
    );
    s.push_str("| host | what | kernel | counter | GIC | IPA | inferred |\n|---|---|---|---|---|---|---|\n");
    for p in &profiles {
        let sources =
            [&p.counter.source, &p.cache.source, &p.gic.source, &p.memory.source, &p.mitigations.source];
        let extra = [p.pmu.as_ref().map(|x| &x.source), p.sve.as_ref().map(|x| &x.source)];
        let sections = sources.into_iter().chain(extra.into_iter().flatten());
        let sections = sections.filter(|x| x.kind == Kind::Inferred).count();
        let gic = match (p.gic.v3(), p.gic.v2) {
            (true, true) => "v3, v2",
            (true, false) => "v3",
            _ => "v2",
        };
        let _ = writeln!(
            s,
            "| [{0}](#{0}) | {1} | {2}.{3} | {4} Hz | {gic} | {5} bits | {6} registers, {sections} sections |",
            p.name,
            cell(&p.description),
            p.kernel.major,
            p.kernel.minor,
            p.counter.hz,
            p.memory.ipa_bits,
            p.inferred().count()
        );
    }
    for p in &profiles {
        let _ =
            writeln!(s, "\n## {}\n\n{}\n\n| what | kind | source |\n|---|---|---|", p.name, p.description);
        let mut row = |what: &dyn Display, source: &Source| {
            let _ = writeln!(s, "| {what} | {} | {} |", kind(source.kind), cell(&source.text));
        };
        let mut groups: BTreeMap<(Kind, &str), (String, &Source)> = BTreeMap::new();
        for (r, v) in &p.regs {
            let g = groups.entry((v.source.kind, &v.source.text)).or_insert((String::new(), &v.source));
            let _ = write!(g.0, "{}`{r}` {:#x}", if g.0.is_empty() { "" } else { ", " }, v.value);
        }
        for (what, source) in groups.values() {
            row(what, source);
        }
        row(&format!("counter {} Hz", p.counter.hz), &p.counter.source);
        let caches: Vec<String> = p.cache.ccsidr.iter().map(|c| format!("{c:#x}")).collect();
        let caches = if caches.is_empty() { "none".into() } else { caches.join(", ") };
        row(&format!("caches (CCSIDR of L1D, L1I, L2, L3): {caches}"), &p.cache.source);
        let g = &p.gic;
        row(
            &format!(
                "GICv{}{}: {} list registers, {} priority bits, {} id bits, SEIS {}, A3V {}",
                g.version,
                if g.v2 && g.version > 2 { " that can be a GICv2" } else { "" },
                g.list_registers,
                g.priority_bits,
                g.id_bits,
                u8::from(g.seis),
                u8::from(g.a3v)
            ),
            &g.source,
        );
        if let Some(u) = &p.pmu {
            let what =
                format!("PMU: {} counters, PMCEID0 {:#x}, PMCEID1 {:#x}", u.counters, u.pmceid0, u.pmceid1);
            row(&what, &u.source);
        }
        row(&format!("guest-physical addresses of {} bits", p.memory.ipa_bits), &p.memory.source);
        let m = &p.mitigations;
        let what = format!(
            "Spectre v2 {}, SSB {}, Spectre BHB {}, Meltdown {}",
            mitigation(m.spectre_v2),
            mitigation(m.ssb),
            mitigation(m.spectre_bhb),
            mitigation(m.meltdown)
        );
        row(&what, &m.source);
        if let Some(v) = &p.sve {
            let lengths: Vec<String> = v.lengths.iter().map(u16::to_string).collect();
            row(
                &format!("SVE vector lengths (the engine has no SVE yet): {}", lengths.join(", ")),
                &v.source,
            );
        }
        if let Some(a) = &p.absent {
            let names: Vec<String> = a.regs.iter().map(|r| format!("`{r}`")).collect();
            row(&format!("lacks {}", names.join(", ")), &a.source);
        }
    }
    Ok(s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_includes_outside_of_code_are_found() {
        let text = "a [b](c.md) [d](e/f.md#g) [h](https://x.y) [i](#j)\n{{#include ../k.md}}\n`[l](m)`\n\
                    ```\n[n](o.md)\n```\n    [p](q)\n[r](s)\n";
        assert_eq!(targets(text), ["c.md", "e/f.md", "../k.md", "s"]);
    }

    #[test]
    fn every_profile_and_every_register_is_on_its_page() {
        let hosts = hosts_page().unwrap();
        for name in ulna_profile::names() {
            assert!(hosts.contains(&format!("\n## {name}\n")), "{name}");
        }
        assert!(hosts.contains("| inferred |") && hosts.contains("`MIDR_EL1` 0x413fd0c1"));
        let registers = registers_page().unwrap();
        for r in ulna_arm_regs::rows() {
            assert!(registers.contains(&format!("\n| {} |", r.reg)), "{}", r.reg);
        }
    }

    #[test]
    fn pages_and_links_exist() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let files = markdown_files(root).unwrap();
        assert_eq!(unlisted(root, &files).unwrap(), Vec::<String>::new());
        for f in &files {
            for t in targets(&std::fs::read_to_string(f).unwrap()) {
                assert!(f.parent().unwrap().join(&t).exists(), "{}: {t}", f.display());
            }
        }
    }
}
