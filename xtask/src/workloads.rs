//! Tasks that run the benchmark kit's guest: all of it with both engines block by block (`check-workloads`), how two vCPUs
//! scale (`scaling`), and what memory the program itself takes (`footprint`). `shared/bench/compare` measures speed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::EngineArg;

/// What all of them are told.
#[derive(clap::Args)]
pub struct Common {
    /// Directory with Image and initramfs.cpio.
    #[arg(long)]
    guest: PathBuf,
    /// The program under test.
    #[arg(long, default_value = "target/release/ulna")]
    ulna: PathBuf,
    /// Host profile.
    #[arg(long, default_value = "n1")]
    host: String,
    /// Workloads or families.
    #[arg(long)]
    bench: Option<String>,
    /// Amount of work in percent.
    #[arg(long)]
    scale: Option<u32>,
}

/// Options of `check-workloads`.
#[derive(clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    common: Common,
    /// Seconds that it may take.
    #[arg(long, default_value_t = 7200)]
    timeout: u64,
}

/// Options of `scaling`.
#[derive(clap::Args)]
pub struct ScalingArgs {
    #[command(flatten)]
    common: Common,
    /// Rounds, of which the medians count.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Fails when two vCPUs scale worse than native threads by more than so many percent.
    #[arg(long)]
    limit: Option<f64>,
}

/// Options of `footprint`.
#[derive(clap::Args)]
pub struct FootprintArgs {
    #[command(flatten)]
    common: Common,
    /// vCPUs.
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Fails when more MiB than this are in use beyond the guest's memory.
    #[arg(long)]
    limit: Option<f64>,
}

/// A workload's end.
#[derive(Clone, Debug, Default)]
struct Done {
    /// Seconds as this machine sees them.
    host: f64,
    /// What identifies its results.
    check: String,
}

/// What a run printed.
#[derive(Default)]
struct Ran {
    boot: f64,
    done: BTreeMap<String, Done>,
    finished: bool,
    status: bool,
    tail: Vec<String>,
}

/// Takes the kit's lines apart.
fn read_line(r: &mut Ran, started: &mut BTreeMap<String, f64>, at: f64, line: &str) {
    let w: Vec<&str> = line.split_whitespace().collect();
    match w.as_slice() {
        ["INIT", ..] => r.boot = at,
        ["START", name] => drop(started.insert((*name).to_owned(), at)),
        ["BENCH", name, _, _, rest @ ..] => {
            let check = rest.iter().find_map(|x| x.strip_prefix("check=")).unwrap_or_default();
            if let Some(s) = started.remove(*name) {
                r.done.insert((*name).to_owned(), Done { host: at - s, check: check.to_owned() });
            }
        }
        ["SKIP", name, ..] => drop(started.remove(*name)),
        ["DONE", ..] => r.finished = true,
        _ => {}
    }
    r.tail.push(line.to_owned());
    if r.tail.len() > 20 {
        r.tail.remove(0);
    }
}

/// Runs a program that prints such lines; `look` is called with its process id some twenty times a second.
fn watch(mut c: Command, seconds: u64, mut look: impl FnMut(u32)) -> Result<Ran> {
    let begin = Instant::now();
    let mut child =
        c.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| format!("start {c:?}"))?;
    let out = child.stdout.take().context("stdout")?;
    let (tx, lines) = channel();
    std::thread::spawn(move || {
        for l in BufReader::new(out).split(b'\n').map_while(|l| l.ok()) {
            let at = begin.elapsed().as_secs_f64();
            if tx.send((at, String::from_utf8_lossy(&l).trim().to_owned())).is_err() {
                break;
            }
        }
    });
    let (mut r, mut started) = (Ran::default(), BTreeMap::new());
    loop {
        match lines.recv_timeout(Duration::from_millis(50)) {
            Ok((at, line)) => read_line(&mut r, &mut started, at, &line),
            Err(RecvTimeoutError::Timeout) => look(child.id()),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if begin.elapsed() > Duration::from_secs(seconds) {
            let _ = child.kill();
            let _ = child.wait();
            bail!("not done after {seconds} s:\n{}", r.tail.join("\n"));
        }
    }
    r.status = child.wait()?.success();
    Ok(r)
}

impl Common {
    fn command(&self, engine: EngineArg, cpus: u32, threads: u32, bench: &str, scale: u32) -> Command {
        let mut c = Command::new(&self.ulna);
        c.args(["run", "--host", &self.host, "--engine", engine.name(), "--memory", "1G"]);
        c.args(["--cpus", &cpus.to_string()]);
        c.arg("--kernel").arg(self.guest.join("Image"));
        c.arg("--initrd").arg(self.guest.join("initramfs.cpio"));
        let bench = self.bench.as_deref().unwrap_or(bench);
        let scale = self.scale.unwrap_or(scale);
        c.arg("--cmdline");
        c.arg(format!("console=ttyAMA0 quiet bench={bench} scale={scale} threads={threads}"));
        c
    }
}

fn complete(r: &Ran) -> Result<()> {
    let tail = || r.tail.join("\n");
    ensure!(r.status, "it failed:\n{}", tail());
    ensure!(r.finished && !r.done.is_empty(), "it did not come to its end:\n{}", tail());
    Ok(())
}

/// Every workload: interpreter and translator block by block, and the results of a run of the translator alone.
pub fn check(a: &CheckArgs) -> Result<()> {
    let c = &a.common;
    let one = |engine: EngineArg| -> Result<Ran> {
        let mut command = c.command(engine, 1, 2, "all", 1);
        // Time that goes on by itself would keep blocks from being compared.
        command.args(["--clock", "insn"]);
        let begin = Instant::now();
        let r = watch(command, a.timeout, |_| ())?;
        complete(&r).with_context(|| format!("--engine {}", engine.name()))?;
        println!(
            "check-workloads: {}: init after {:.1} s, {} workloads after {:.1} s",
            engine.name(),
            r.boot,
            r.done.len(),
            begin.elapsed().as_secs_f64()
        );
        Ok(r)
    };
    let (jit, both) = (one(EngineArg::Jit)?, one(EngineArg::Check)?);
    ensure!(
        jit.done.keys().eq(both.done.keys()),
        "workloads that ended: {:?} and {:?}",
        jit.done.keys(),
        both.done.keys()
    );
    for (name, d) in &jit.done {
        let other = &both.done[name].check;
        ensure!(d.check == *other, "{name}: check {} and, compared block by block, {other}", d.check);
    }
    println!("check-workloads: {} workloads, no block differs, same checksums", jit.done.len());
    Ok(())
}

fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    if v.is_empty() { 0.0 } else { (v[(v.len() - 1) / 2] + v[v.len() / 2]) / 2.0 }
}

/// Times of one and two threads, in the guest on as many vCPUs and native, taken in turn.
pub fn scaling(a: &ScalingArgs) -> Result<()> {
    let c = &a.common;
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    ensure!(cpus >= 2, "this machine has one CPU");
    let native = c.guest.join("native/smp");
    ensure!(native.exists(), "no {} (shared/bench/build-guest makes it)", native.display());
    let bench = c.bench.clone().unwrap_or_else(|| "smp.parallel".into());
    let scale = c.scale.unwrap_or(100);
    // By workload: times of the guest with 1 and 2 vCPUs, native with 1 and 2 threads.
    let mut all: BTreeMap<String, [Vec<f64>; 4]> = BTreeMap::new();
    for _ in 0..a.rounds.max(1) {
        for n in 0..4u32 {
            let threads = n % 2 + 1;
            let command = if n < 2 {
                c.command(EngineArg::Jit, threads, threads, &bench, scale)
            } else {
                let mut p = Command::new(&native);
                p.env("BENCH_THREADS", threads.to_string());
                // Native code needs more work to be measured.
                p.arg(&bench).arg((scale * 4).to_string());
                p
            };
            let mut r = watch(command, 900, |_| ())?;
            r.finished |= n >= 2;
            complete(&r)?;
            for (name, d) in r.done {
                all.entry(name).or_default()[n as usize].push(d.host);
            }
        }
    }
    println!(
        "{:16} {:>10} {:>10} {:>7} {:>12} {:>12} {:>7}",
        "workload", "1 vCPU s", "2 vCPUs s", "times", "1 thread s", "2 threads s", "times"
    );
    let mut bad = Vec::new();
    for (name, times) in &mut all {
        let [g1, g2, n1, n2] = times.each_mut().map(|t| median(t));
        let (guest, host) = (g1 / g2, n1 / n2);
        println!("{name:16} {g1:10.3} {g2:10.3} {guest:7.2} {n1:12.3} {n2:12.3} {host:7.2}");
        if a.limit.is_some_and(|l| guest < host * (1.0 - l / 100.0)) {
            bad.push(format!("{name}: {guest:.2} where native threads have {host:.2}"));
        }
    }
    ensure!(bad.is_empty(), "{}", bad.join("; "));
    Ok(())
}

/// KiB of a process: its guest's memory, everything else by share (pages mapped twice count once), and by mapping.
#[derive(Clone, Debug, Default)]
struct Use {
    guest: u64,
    own: u64,
    what: BTreeMap<String, u64>,
}

/// Guest memory is memfds of these names (`vmm`'s memory.rs).
fn memory_of(pid: u32) -> Option<Use> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let mut u = Use::default();
    let mut name = String::new();
    for l in text.lines() {
        let mut w = l.split_whitespace();
        let first = w.next()?;
        if let Some(key) = first.strip_suffix(':') {
            let kib: u64 = w.next().and_then(|n| n.parse().ok()).unwrap_or(0);
            match key {
                // The guest's memory is shared with nobody: what stands in memory of it, however it is mapped.
                "Pss" if name.starts_with("/memfd:ulna-") && !name.contains("code") => u.guest += kib,
                "Pss" => {
                    u.own += kib;
                    if kib > 0 {
                        *u.what.entry(name.clone()).or_default() += kib;
                    }
                }
                _ => {}
            }
        } else {
            name = l.splitn(6, ' ').nth(5).unwrap_or("").trim().to_owned();
            if name.is_empty() {
                name = "(anonymous)".into();
            }
        }
    }
    Some(u)
}

/// The most that the program took beside its guest's memory, while all workloads ran.
pub fn footprint(a: &FootprintArgs) -> Result<()> {
    let c = &a.common;
    let (mut most, mut guest, mut looks) = (Use::default(), 0, 0);
    let command = c.command(EngineArg::Jit, a.cpus, a.cpus.max(2), "all", 5);
    let r = watch(command, 900, |pid| {
        if let Some(u) = memory_of(pid) {
            looks += 1;
            guest = guest.max(u.guest);
            if u.own > most.own {
                most = u;
            }
        }
    })?;
    complete(&r)?;
    let mib = |kib: u64| kib as f64 / 1024.0;
    println!(
        "footprint: {} workloads, {} vCPUs: the guest touched {:.1} MiB, the rest was {:.1} MiB at most ({looks} looks)",
        r.done.len(),
        a.cpus,
        mib(guest),
        mib(most.own)
    );
    let mut parts: Vec<_> = most.what.iter().collect();
    parts.sort_by(|a, b| b.1.cmp(a.1));
    for (name, kib) in parts.iter().take(8) {
        println!("  {:8.1} MiB {name}", mib(**kib));
    }
    if let Some(l) = a.limit {
        ensure!(mib(most.own) <= l, "more than {l} MiB");
    }
    Ok(())
}
