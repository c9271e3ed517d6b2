//! `cargo xtask stress`: modified code, TLB shoot-downs, atomics and kicks on several PEs.

use std::time::Duration;

use anyhow::{Result, anyhow};
use ulna_conformance::stress::run as stress;

/// Options of `stress`.
#[derive(clap::Args)]
pub struct Args {
    /// How long.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// PEs; the first one changes code and pages.
    #[arg(long, default_value_t = 4)]
    pes: usize,
    /// What executes the instructions.
    #[arg(long, default_value = "jit")]
    engine: crate::EngineArg,
}

/// Runs it.
pub fn run(a: &Args) -> Result<()> {
    let o = stress(a.engine.into(), a.pes.max(1), Duration::from_secs(a.seconds)).map_err(|e| anyhow!(e))?;
    println!(
        "stress: {} s, rounds of each PE {:?}, {} kicks, nothing old seen",
        a.seconds, o.rounds, o.kicks
    );
    Ok(())
}
