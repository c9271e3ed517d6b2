//! `cargo xtask diff-system`: the same cases at EL1 and EL0 here and under `qemu-system-aarch64`.

mod generate;
mod reference;
mod world;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use ulna_arm_cpu::decode::find;
use ulna_arm_regs::SysReg;
use ulna_conformance::el1::{CODE, Case, Outcome, record};
use ulna_conformance::el1_freedom::{Verdict, judge};
use ulna_conformance::el1_machine::Machine;

use generate::CLASSES;
use reference::Reference;

/// Options of `diff-system`.
#[derive(clap::Args)]
pub struct Args {
    /// Number of cases, shared by the classes.
    #[arg(long, default_value_t = 100_000)]
    cases: u64,
    /// Seed: the same seed gives the same cases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this class: translation, at, tlbi, asid, exception, eret, sysreg, debug, pauth.
    #[arg(long)]
    class: Option<String>,
    /// The reference emulator.
    #[arg(long, default_value = "qemu-system-aarch64")]
    qemu: String,
    /// CPU model of the reference.
    #[arg(long, default_value = "max,sve=off,sme=off,pauth-impdef=off")]
    cpu: String,
    /// What executes the instructions here.
    #[arg(long, default_value = "interp")]
    engine: crate::EngineArg,
    /// Differences shown for each class.
    #[arg(long, default_value_t = 3)]
    show: usize,
    /// Only the case with this number.
    #[arg(long)]
    only: Option<u64>,
    /// Writes cases and the reference's answers to this file (gzip).
    #[arg(long)]
    record: Option<PathBuf>,
}

const BATCH: usize = 8192;

#[derive(Default)]
struct Tally {
    cases: u64,
    open: u64,
    differ: u64,
    shown: Vec<String>,
}

/// Runs the comparison.
pub fn run(a: &Args) -> Result<()> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/diff-system");
    let dir = std::env::var_os("CARGO_TARGET_DIR").map_or(dir, |d| PathBuf::from(d).join("diff-system"));
    let reference = Reference::new(&a.qemu, &a.cpu, &dir)?;
    let classes: Vec<usize> =
        (0..CLASSES.len()).filter(|&i| a.class.as_deref().is_none_or(|c| CLASSES[i].0 == c)).collect();
    ensure!(!classes.is_empty(), "no class {:?}", a.class);
    let ids = reference.ids()?;
    let mut machine = Machine::new(&ids).with_engine(a.engine.into());
    let mut recorded = ids.clone();
    let mut tally: BTreeMap<usize, Tally> = BTreeMap::new();
    let numbers: Vec<u64> = a.only.map_or((0..a.cases).collect(), |n| vec![n]);
    for batch in numbers.chunks(BATCH) {
        let cases: Vec<Case> = batch
            .iter()
            .map(|n| {
                let class = classes[*n as usize % classes.len()];
                let seed = a.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(*n);
                CLASSES[class].1(seed, class as u64)
            })
            .collect();
        let answers = reference.ask(&cases)?;
        for ((n, case), want) in batch.iter().zip(&cases).zip(&answers) {
            if a.record.is_some() {
                record(case, want, &mut recorded);
            }
            let got = machine.run(case);
            let t = tally.entry(case.class as usize & 0xff).or_default();
            t.cases += 1;
            match judge(case, &got, want) {
                Verdict::Same => {}
                Verdict::Open(_) => t.open += 1,
                Verdict::Differs(d) => {
                    t.differ += 1;
                    if t.shown.len() < a.show {
                        t.shown.push(format!("case {n}: {d}\n{}", describe(case, &got, want)));
                    }
                }
            }
        }
    }
    if let Some(p) = &a.record {
        let f = std::fs::File::create(p).with_context(|| format!("create {}", p.display()))?;
        let mut z = flate2::write::GzEncoder::new(f, flate2::Compression::best());
        for w in &recorded {
            z.write_all(&w.to_le_bytes())?;
        }
        z.finish()?;
    }
    let (mut total, mut open, mut differ) = (0, 0, 0);
    for (class, t) in &tally {
        println!(
            "{}: {} cases, {} left open by the manual, {} differ",
            CLASSES[*class].0, t.cases, t.open, t.differ
        );
        for s in &t.shown {
            println!("  {s}");
        }
        total += t.cases;
        open += t.open;
        differ += t.differ;
    }
    println!("{total} cases, {} classes, seed {}, {open} left open: {differ} differ", tally.len(), a.seed);
    if differ != 0 {
        bail!("{differ} cases differ");
    }
    Ok(())
}

fn describe(c: &Case, got: &Outcome, want: &Outcome) -> String {
    let mut s = String::new();
    for r in [SysReg::SCTLR_EL1, SysReg::TCR_EL1, SysReg::TTBR0_EL1, SysReg::TTBR1_EL1, SysReg::MAIR_EL1] {
        s += &format!(" {}={:#x}", r.name(), c.reg(r));
    }
    for r in [SysReg::MDSCR_EL1, SysReg::SPSR_EL1, SysReg::ELR_EL1, SysReg::CPACR_EL1, SysReg::VBAR_EL1] {
        s += &format!(" {}={:#x}", r.name(), c.reg(r));
    }
    for r in ulna_conformance::el1::REGS {
        if r.name().starts_with("DBG") && c.reg(*r) != 0 {
            s += &format!(" {}={:#x}", r.name(), c.reg(*r));
        }
    }
    s = format!(
        "    {s}\n     x1={:#x} x2={:#x} x3={:#x} x4={:#x} x5={:#x} x20={:#x} x21={:#x}",
        c.x[1], c.x[2], c.x[3], c.x[4], c.x[5], c.x[20], c.x[21]
    );
    for (n, st) in c.steps.iter().enumerate() {
        let mut words = Vec::new();
        // Code is mapped at the same offset in its 64 KiB.
        for k in 0..8 {
            if let Some(i) = c.code_at(CODE | (st.pc + 4 * k) & 0xfffc) {
                words.push(format!("{i:08x} {}", find(i).map_or("-", |l| l.name)));
                if i == ulna_conformance::el1::END {
                    break;
                }
            }
        }
        s += &format!("\n     step {n}: pc={:#x} pstate={:#x} [{}]", st.pc, st.pstate, words.join("; "));
        if st.write.0 != 0 {
            s += &format!(" after [{:#x}] = {:#x}", st.write.0, st.write.1);
        }
        for (who, o) in [("ours", got), ("reference", want)] {
            if let Some(o) = o.steps.get(n) {
                s += &format!(
                    "\n       {who}: pc={:#x} pstate={:#x} esr={:#x} far={:#x} elr={:#x} spsr={:#x} par={:#x}",
                    o.sys[0], o.sys[1], o.sys[3], o.sys[4], o.sys[5], o.sys[6], o.sys[7]
                );
            }
        }
    }
    for (a, v) in c.writes.iter().filter(|w| w.0 < CODE) {
        s += &format!("\n     [{a:#x}] = {v:#x}");
    }
    s
}
