//! `cargo xtask coverage`: the decode table against Arm's machine-readable encodings, and the coverage page.
//!
//! The crate `aarchmrs-instructions` carries Arm's encodings as Rust constants, 350,000 lines of them, so its source is
//! read where cargo unpacked it instead of being compiled.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ulna_arm_cpu::FeatSet;
use ulna_arm_cpu::decode::{LINES, Line, decode, find};

/// Options of `coverage`.
#[derive(clap::Args)]
pub struct Args {
    /// Writes the page here (docs/src/reference/instructions.md); without it only checks.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Random words tried for each encoding and each line.
    #[arg(long, default_value_t = SAMPLES)]
    samples: u32,
}

/// Random words tried for each encoding and each line, unless told otherwise.
pub const SAMPLES: u32 = 200;

/// What the comparison found.
pub struct Found {
    /// The page for the book.
    pub page: String,
    encodings: usize,
    later: u32,
    missing: Vec<String>,
    /// Lines that claim a word which no encoding allocates, with that word.
    strangers: Vec<(&'static Line, u32)>,
}

/// One leaf of Arm's encoding tree.
struct Encoding {
    name: String,
    group: String,
    mask: u32,
    value: u32,
}

/// Encodings that belong to extensions we do not build, by a part of the path or the name, with the extension.
const NOT_BUILT: &[(&str, &str)] = include!("coverage/not_built.rs");

/// Runs the check.
pub fn run(a: &Args) -> Result<()> {
    let found = coverage(a.samples)?;
    if let Some(p) = &a.write {
        std::fs::write(p, &found.page).with_context(|| format!("write {}", p.display()))?;
    }
    for (l, w) in &found.strangers {
        println!("{} ({}) claims {w:08x}, which no encoding of Arm's allocates", l.name, l.module);
    }
    for name in &found.missing {
        println!("{name}: no line of the table");
    }
    println!(
        "{} lines, {} built; {} of Arm's encodings, {} of extensions not built, {} missing, {} lines too wide",
        LINES.len(),
        LINES.iter().filter(|l| l.exec.is_some()).count(),
        found.encodings,
        found.later,
        found.missing.len(),
        found.strangers.len()
    );
    if !found.missing.is_empty() {
        bail!("{} encodings are missing", found.missing.len());
    }
    Ok(())
}

/// Compares the table with Arm's encodings.
pub fn coverage(samples: u32) -> Result<Found> {
    let encodings = read_encodings()?;
    ensure!(encodings.len() > 1000, "only {} encodings were read", encodings.len());
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 16) as u32
    };
    let mut missing: BTreeMap<&str, u32> = BTreeMap::new();
    let mut later: BTreeMap<&str, u32> = BTreeMap::new();
    for e in &encodings {
        let hit = (0..samples).any(|_| find(e.value | random() & !e.mask).is_some());
        if hit {
            continue;
        }
        let later_extension = |part: &str| {
            e.group.contains(part)
                || e.name.starts_with(part)
                || (part.starts_with('_') && e.name.contains(part))
        };
        match NOT_BUILT.iter().find(|(part, _)| later_extension(part)) {
            Some((_, ext)) => *later.entry(ext).or_default() += 1,
            None => *missing.entry(&e.name).or_default() += 1,
        }
    }
    // The other way: no line may claim words that Arm has not allocated.
    let mut strangers = Vec::new();
    for l in &LINES {
        for _ in 0..samples {
            let w = l.value | random() & !l.mask;
            // Decoding also turns reserved operands away, which fixed bits cannot express.
            if decode(w, &FeatSet::ALL).op != l.op {
                continue;
            }
            if !encodings.iter().any(|e| (w ^ e.value) & e.mask == 0) {
                strangers.push((l, w));
                break;
            }
        }
    }
    Ok(Found {
        page: page(&encodings, &missing, &later),
        encodings: encodings.len(),
        later: later.values().sum(),
        missing: missing.keys().map(|&name| name.to_owned()).collect(),
        strangers,
    })
}

fn read_encodings() -> Result<Vec<Encoding>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("cargo metadata")?;
    let meta: serde_json::Value = serde_json::from_slice(&out.stdout).context("cargo metadata")?;
    let manifest = meta["packages"]
        .as_array()
        .and_then(|ps| ps.iter().find(|p| p["name"] == "aarchmrs-instructions"))
        .and_then(|p| p["manifest_path"].as_str())
        .context("aarchmrs-instructions is not among the dependencies")?;
    let root = Path::new(manifest).parent().context("manifest path")?.join("src");
    let mut encodings = Vec::new();
    read_file(&root.join("A64.rs"), "", &mut encodings)?;
    read_dir(&root.join("A64"), "", &mut encodings)?;
    Ok(encodings)
}

fn read_dir(dir: &Path, group: &str, out: &mut Vec<Encoding>) -> Result<()> {
    for e in std::fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let p = e?.path();
        let stem = p.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        let group = format!("{group}/{stem}");
        if p.is_dir() {
            read_dir(&p, &group, out)?;
        } else {
            read_file(&p, &group, out)?;
        }
    }
    Ok(())
}

fn read_file(p: &Path, group: &str, out: &mut Vec<Encoding>) -> Result<()> {
    let text = std::fs::read_to_string(p)?;
    let (mut mask, mut value, mut should) = (None, None, None);
    let number = |line: &str| -> Option<u32> {
        let digits = line.split("0b").nth(1)?.split("u32").next()?;
        u32::from_str_radix(digits, 2).ok()
    };
    for line in text.lines() {
        if line.contains("const OPCODE_MASK:") {
            mask = number(line);
        } else if line.contains("const OPCODE:") {
            value = number(line);
        } else if line.contains("const SHOULD_BE_MASK:") {
            should = number(line);
        } else if line.contains("const NAME:") {
            let name = line.split('"').nth(1).unwrap_or_default().to_string();
            let (Some(m), Some(v)) = (mask.take(), value.take()) else { bail!("{}: {name}", p.display()) };
            // (0) and (1) bits may hold anything.
            let mask = m & !should.take().unwrap_or(0);
            out.push(Encoding { name, group: group.to_string(), mask, value: v & mask });
        }
    }
    Ok(())
}

fn page(encodings: &[Encoding], missing: &BTreeMap<&str, u32>, later: &BTreeMap<&str, u32>) -> String {
    let mut by: BTreeMap<String, Vec<&Line>> = BTreeMap::new();
    for l in &LINES {
        let f: Vec<String> = l.feats.iter().map(|f| format!("FEAT_{}", f.name())).collect();
        by.entry(if f.is_empty() { "base".into() } else { f.join(" + ") }).or_default().push(l);
    }
    let mut s = String::from(
        "# Instructions\n\nGenerated by `cargo xtask coverage --write docs/src/reference/instructions.md` from the decode \
         table; the encodings are compared with Arm's machine-readable ones.\n\n",
    );
    let _ = writeln!(
        s,
        "Of Arm's {} A64 encodings {} belong to extensions that are not built, {} are missing.\n",
        encodings.len(),
        later.values().sum::<u32>(),
        missing.len()
    );
    s.push_str("| feature | lines | built |\n|---|---|---|\n");
    for (f, ls) in &by {
        let built = ls.iter().filter(|l| l.exec.is_some()).count();
        let _ = writeln!(s, "| {f} | {} | {built} |", ls.len());
    }
    s.push_str("\n## Not built\n\n| extension | encodings |\n|---|---|\n");
    for (e, n) in later {
        let _ = writeln!(s, "| {e} | {n} |");
    }
    for (f, ls) in &by {
        let _ = writeln!(s, "\n## {f}\n\n| name | instruction | pattern | |\n|---|---|---|---|");
        for l in ls {
            let todo = if l.exec.is_some() { "" } else { "not built" };
            let _ =
                writeln!(s, "| {} | {} | `{}` | {todo} |", l.name, l.manual.replace('|', "\\|"), l.pattern);
        }
    }
    s
}
