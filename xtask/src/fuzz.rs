//! `cargo xtask fuzz`: random requests on the raw entry, for a time. What `fuzz/fuzz_targets/raw.rs` is without cargo-fuzz.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ulna_conformance::raw::{Done, bytes, run as run_bytes};

/// Options.
#[derive(clap::Args)]
pub struct Args {
    /// How long.
    #[arg(long, default_value_t = 0)]
    minutes: u64,
    /// How long, beyond the minutes.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// The first run's seed; the next have the next ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Bytes of a run.
    #[arg(long, default_value_t = 8192)]
    len: usize,
    /// Compares the state after one request of so many.
    #[arg(long, default_value_t = 3)]
    every: u32,
    /// Clients that lie, on the server's protocol, in place of requests on the raw entry
    #[arg(long)]
    wire: bool,
}

/// A run that takes so long hangs.
const LONG: Duration = Duration::from_secs(20);

/// A client that lies.
fn lie(bytes: &[u8]) -> Done {
    let d = ulna_conformance::wire::run(bytes);
    Done { requests: d.frames, refused: d.frames.saturating_sub(d.answers), runs: 0 }
}

/// Runs until the time is over, or something is wrong.
pub fn run(a: &Args) -> Result<()> {
    let time = Duration::from_secs(a.minutes * 60 + a.seconds);
    let start = Instant::now();
    let mut all = Done::default();
    let mut seed = a.seed;
    while start.elapsed() < time || seed == a.seed {
        let (len, every, wire) = (a.len, a.every, a.wire);
        let (done, wait) = std::sync::mpsc::channel();
        let now = seed;
        let t = std::thread::spawn(move || {
            let d = if wire { lie(&bytes(now, len)) } else { run_bytes(&bytes(now, len), every) };
            let _ = done.send(());
            d
        });
        if wait.recv_timeout(LONG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            bail!("seed {now} hangs");
        }
        let Ok(d) = t.join() else { bail!("seed {now} panicked (--seed {now} --seconds 0 repeats it)") };
        all.requests += d.requests;
        all.refused += d.refused;
        all.runs += d.runs;
        seed += 1;
    }
    let Done { requests, refused, runs } = all;
    if a.wire {
        println!("fuzz: seeds {}..{seed}: {requests} frames, {refused} not answered: clean", a.seed);
        return Ok(());
    }
    println!(
        "fuzz: seeds {}..{seed}: {requests} requests, {refused} refused and without effect, {runs} runs: clean",
        a.seed
    );
    Ok(())
}
