//! `cargo xtask conformance`: real KVM's recorded answers against ours.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ulna_conformance::kvm::{Recording, known, replay};
use ulna_profile::Profile;

/// Options.
#[derive(clap::Args)]
pub struct Args {
    /// Only recordings of this profile, as qemu-max.
    #[arg(long)]
    profile: Option<String>,
    /// Directory of recordings (NAME.jsonl or NAME.jsonl.gz).
    #[arg(long, value_name = "DIR")]
    recordings: Option<PathBuf>,
    /// Only this kind of line (hvc, mrs, reg, ...); may be given more than once.
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// What executes the guests' instructions.
    #[arg(long, default_value = "interp")]
    engine: crate::EngineArg,
    /// Figures of every recording and kind.
    #[arg(long, short)]
    verbose: bool,
}

/// Replays all recordings. Fails where an answer differs that is not known to.
pub fn run(args: &Args) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance");
    let dir = args.recordings.clone().unwrap_or_else(|| root.join("data/kvm"));
    let list = root.join("known-differences.toml");
    let text = std::fs::read_to_string(&list).with_context(|| list.display().to_string())?;
    let known =
        known::parse(&text).map_err(anyhow::Error::msg).with_context(|| list.display().to_string())?;
    let (mut agreed, mut total, mut differ) = (0, 0, 0);
    let mut waiting: BTreeMap<String, usize> = BTreeMap::new();
    let mut by_kind: BTreeMap<String, (usize, usize, usize)> = BTreeMap::new();
    let mut asked = 0;
    for r in Recording::all_in(&dir)? {
        if args.profile.as_ref().is_some_and(|p| *p != r.profile_name() && *p != r.name) {
            continue;
        }
        asked += 1;
        let begin = Instant::now();
        let profile = Profile::builtin(&r.profile_name())?;
        let mut tallies = replay(&r, profile, args.engine.into(), &args.kind);
        let (_, stale) = known::take_out(&r.name, &known, &mut tallies);
        if args.kind.is_empty() {
            for k in &stale {
                println!("{}: known difference is gone: {}", r.name, k.difference);
            }
            differ += stale.len();
        }
        for (k, t) in &tallies {
            for d in &t.differs {
                println!("{}: {d}", r.name);
            }
            agreed += t.agreed;
            total += t.total();
            differ += t.differs.len();
            for (f, n) in &t.waiting {
                *waiting.entry(f.clone()).or_default() += n;
            }
            let sum = by_kind.entry(k.clone()).or_default();
            *sum = (sum.0 + t.agreed, sum.1 + t.waits(), sum.2 + t.differs.len());
            if args.verbose {
                println!("{} {k}: agreed {} of {}, waiting {}", r.name, t.agreed, t.total(), t.waits());
            }
        }
        if args.verbose {
            println!("{}: {:.1} s", r.name, begin.elapsed().as_secs_f32());
        }
    }
    if asked == 0 {
        bail!("no recording in {}", dir.display());
    }
    for (k, (a, w, d)) in &by_kind {
        println!("{k:12} agreed {a:6}  waiting {w:4}  differ {d}");
    }
    for (f, n) in &waiting {
        println!("waiting for {f}: {n}");
    }
    println!("agreed {agreed} of {total}, waiting {}", waiting.values().sum::<usize>());
    if differ > 0 {
        bail!("{differ} answers differ");
    }
    Ok(())
}
