//! `cargo xtask kicks`: how soon a kick is heard. Worth something on an idle machine with two CPUs only.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use ulna_conformance::kicks::{Situation, latency};

/// Options of `kicks`.
#[derive(clap::Args)]
pub struct Args {
    /// Kicks in each situation.
    #[arg(long, default_value_t = 10_000)]
    kicks: usize,
    /// What executes the instructions.
    #[arg(long, default_value = "jit")]
    engine: crate::EngineArg,
    /// Fails where the 99th percentile is above so many microseconds.
    #[arg(long, value_name = "US")]
    limit: Option<u64>,
}

/// Measures.
pub fn run(a: &Args) -> Result<()> {
    let mut slow = Vec::new();
    println!("{:24} {:>10} {:>10} {:>10} {:>10}", "kicked", "median us", "99 %", "99.9 %", "longest");
    for s in Situation::ALL {
        let t = latency(a.engine.into(), s, a.kicks.max(1)).map_err(|e| anyhow!("{}: {e}", s.name()))?;
        let at = |p: usize| t.get((t.len() * p / 1000).min(t.len() - 1)).copied().unwrap_or_default();
        let us = |d: Duration| d.as_secs_f64() * 1e6;
        println!(
            "{:24} {:10.1} {:10.1} {:10.1} {:10.1}",
            s.name(),
            us(at(500)),
            us(at(990)),
            us(at(999)),
            us(at(1000))
        );
        if a.limit.is_some_and(|l| at(990) > Duration::from_micros(l)) {
            slow.push(s.name());
        }
    }
    if !slow.is_empty() {
        bail!("above the limit: {}", slow.join(", "));
    }
    Ok(())
}
