//! `cargo xtask diff-cpu`: random instructions from random states, here and under `qemu-aarch64`.

mod generate;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use ulna_arm_cpu::decode::{Line, find};
use ulna_arm_cpu::{Feat, FeatSet};
use ulna_conformance::el0::{Case, OUTCOME_LEN, Outcome, Recorded};
use ulna_conformance::machine::{Machine, reference_features};

pub(crate) use generate::Rng;

/// Options of `diff-cpu`.
#[derive(clap::Args)]
pub struct Args {
    /// Number of cases; every line gets its share, and at least --per-line.
    #[arg(long, default_value_t = 100_000)]
    cases: u64,
    /// Fewest cases for each line of the decode table.
    #[arg(long, default_value_t = 200)]
    per_line: u64,
    /// Seed: the same seed gives the same cases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only lines whose name or table file contains this.
    #[arg(long)]
    class: Option<String>,
    /// The reference emulator.
    #[arg(long, default_value = "qemu-aarch64-static")]
    qemu: String,
    /// CPU model of the reference; without SVE, whose signal frame would bring vectors of its own.
    #[arg(long, default_value = "max,sve=off,sme=off")]
    cpu: String,
    /// The reference is QEMU 9 or newer (Debian: qemu-user of bookworm-backports), which has FEAT_LSE2 and FEAT_HBC.
    #[arg(long)]
    newer: bool,
    /// What executes the instructions here.
    #[arg(long, default_value = "interp")]
    engine: crate::EngineArg,
    /// Differences shown for each line.
    #[arg(long, default_value_t = 1)]
    show: usize,
    /// Writes cases and the reference's answers to this file (gzip), --per-line for each line.
    #[arg(long)]
    record: Option<PathBuf>,
}

const BATCH: usize = 8192;

/// A line, the seed of a state, the case they make.
type Item = (&'static Line, u64, Case);

/// Lines whose result depends on random keys of the process, on time, or on what the emulator offers.
fn skip(l: &Line, newer: bool) -> bool {
    l.feats.iter().any(|f| matches!(f, Feat::PAuth | Feat::PACGA | Feat::RNG | Feat::WFxT))
        || (!newer && l.feats.contains(&Feat::HBC))
        // QEMU 7.2 extends a negative result beyond the 16 bits of the element; newer ones do not.
        || (!newer && l.name == "FCVTZS_sfh")
        // No QEMU has it.
        || l.feats.contains(&Feat::XS)
        || matches!(l.name, "WFI" | "WFE")
        // Pointer authentication in the hint space.
        || l.module == "pauth"
}

/// FJCVTZS of a denormal that is flushed: inexact by the manual (FPToFixedJS), as in newer QEMUs; exact in 7.2.
fn old_reference_is_wrong(l: &Line, c: &Case) -> bool {
    const FZ: u32 = 1 << 24;
    let operand = c.regs.v[(c.insns[0] >> 5 & 31) as usize] as u64;
    let denormal = operand << 1 != 0 && operand >> 52 & 0x7ff == 0;
    l.name == "FJCVTZS" && c.regs.fpcr & FZ != 0 && denormal
}

/// Runs the comparison.
pub fn run(a: &Args) -> Result<()> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/diff-cpu");
    std::fs::create_dir_all(&dir)?;
    let runner = build_runner(&dir)?;
    let lines: Vec<&Line> =
        generate::lines(a.class.as_deref()).into_iter().filter(|l| !skip(l, a.newer)).collect();
    ensure!(!lines.is_empty(), "no line of the decode table matches --class {:?}", a.class);
    let mut rng = Rng::new(a.seed);
    let share = (a.cases / lines.len() as u64).max(a.per_line);
    let mut machine =
        Machine::new(if a.newer { FeatSet::ALL } else { reference_features() }).with_engine(a.engine.into());
    let mut bad: BTreeMap<&str, (u64, Vec<String>)> = BTreeMap::new();
    let (mut total, mut recorded) = (0u64, Vec::new());
    let mut batch: Vec<Item> = Vec::with_capacity(BATCH);
    let mut flush = |batch: &mut Vec<Item>| -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let reference = ask_reference(a, &runner, batch)?;
        let words: Vec<u32> = batch
            .iter()
            .flat_map(|(_, _, c)| c.insns.into_iter().chain([ulna_conformance::el0::BRK; 4]))
            .collect();
        machine.load_code(&words);
        for (n, ((line, seed, case), want)) in batch.iter().zip(reference).enumerate() {
            let mut got = machine.run(n as u64, case);
            let mut want = want;
            got.normalise(case);
            want.normalise(case);
            total += 1;
            if a.record.is_some() {
                let r = Recorded { seed: *seed, insns: case.insns, digest: want.digest() };
                r.put(&mut recorded);
            }
            if let Some(d) = got.difference(&want) {
                let e = bad.entry(line.name).or_default();
                e.0 += 1;
                if e.1.len() < a.show {
                    e.1.push(describe(n, case, &d));
                }
            }
        }
        batch.clear();
        Ok(())
    };
    for _ in 0..share {
        for l in &lines {
            let case = generate::case(&mut rng, l).filter(|(_, c)| a.newer || !old_reference_is_wrong(l, c));
            if let Some((seed, c)) = case {
                batch.push((*l, seed, c));
                if batch.len() == BATCH {
                    flush(&mut batch)?;
                }
            }
        }
    }
    flush(&mut batch)?;
    if let Some(p) = &a.record {
        let f = std::fs::File::create(p).with_context(|| format!("create {}", p.display()))?;
        let mut z = flate2::write::GzEncoder::new(f, flate2::Compression::best());
        z.write_all(&recorded)?;
        z.finish()?;
    }
    let differ: u64 = bad.values().map(|b| b.0).sum();
    for (name, (n, shown)) in &bad {
        println!("{name}: {n} differ");
        for s in shown {
            println!("  {s}");
        }
    }
    println!(
        "{total} cases, {} lines, at least {} each, seed {}: {differ} differ in {} lines",
        lines.len(),
        share,
        a.seed,
        bad.len()
    );
    if differ != 0 {
        bail!("{differ} cases differ");
    }
    Ok(())
}

fn describe(n: usize, c: &Case, d: &str) -> String {
    let words: Vec<String> = c
        .insns
        .iter()
        .filter(|i| **i != ulna_conformance::el0::BRK)
        .map(|i| format!("{i:08x} {}", find(*i).map_or("-", |l| l.name)))
        .collect();
    let i = c.insns[0];
    let (rd, rn, rm, ra) = (i & 31, i >> 5 & 31, i >> 16 & 31, i >> 10 & 31);
    let x = |r: u32| if r == 31 { c.regs.sp } else { c.regs.x[r as usize] };
    format!(
        "[{}] at {:#x}: {d}\n     before: x{rn}={:#x} x{rm}={:#x} x{ra}={:#x} v{rd}={:#x} v{rn}={:#x} v{rm}={:#x} v{ra}={:#x} nzcv={:x} fpcr={:#x} fpsr={:#x}",
        words.join("; "),
        generate::slot_address(n),
        x(rn),
        x(rm),
        x(ra),
        c.regs.v[rd as usize],
        c.regs.v[rn as usize],
        c.regs.v[rm as usize],
        c.regs.v[ra as usize],
        c.regs.pstate >> 28,
        c.regs.fpcr,
        c.regs.fpsr
    )
}

fn build_runner(dir: &Path) -> Result<PathBuf> {
    let src = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/diff_cpu/runner.c");
    let exe = dir.join("runner");
    let status = Command::new("aarch64-linux-gnu-gcc")
        .args(["-O2", "-Wall", "-static", "-o"])
        .arg(&exe)
        .arg(&src)
        .status()
        .context("aarch64-linux-gnu-gcc (Debian: gcc-aarch64-linux-gnu)")?;
    ensure!(status.success(), "the runner does not compile");
    Ok(exe)
}

fn ask_reference(a: &Args, runner: &Path, batch: &[Item]) -> Result<Vec<Outcome>> {
    let mut input = (batch.len() as u64).to_le_bytes().to_vec();
    for (_, _, c) in batch {
        c.put(&mut input);
    }
    let mut child = Command::new(&a.qemu)
        .args(["-cpu", &a.cpu])
        .arg(runner)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {} (Debian: qemu-user-static)", a.qemu))?;
    child.stdin.take().context("stdin")?.write_all(&input)?;
    let mut out = Vec::new();
    child.stdout.take().context("stdout")?.read_to_end(&mut out)?;
    let status = child.wait()?;
    if !status.success() || out.len() != batch.len() * OUTCOME_LEN {
        let p = runner.with_file_name("failed-batch");
        std::fs::write(&p, &input)?;
        bail!("the reference ended with {status} after {} bytes; its input is {}", out.len(), p.display());
    }
    out.chunks_exact(OUTCOME_LEN).map(|b| Outcome::get(b).context("outcome")).collect()
}
