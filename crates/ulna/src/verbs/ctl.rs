//! `ulna ctl`, `ulna stop` and `ulna list`: machines that run, through their control sockets.

use crate::{complain, host};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;
use ulna_vmm::control::client::{Client, ClientError};
use ulna_vmm::control::{self, Info, RunState, VcpuInfo, VcpuPower};
use ulna_vmm::{Error, ExitStatus};

/// How long `stop` waits for the machine to be gone.
const END: Duration = Duration::from_secs(10);
/// How long a machine may take to show up in the list.
const GLANCE: Duration = Duration::from_secs(1);

/// Talks to a machine through its control socket: `$XDG_RUNTIME_DIR/ulna/NAME.sock`, or `/tmp/ulna-UID/NAME.sock` where
/// that variable is not set.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct CtlArgs {
    /// The machine: its name, or the path of its socket (with a slash)
    vm: String,
    /// What to do
    #[command(subcommand)]
    what: What,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// Tell what there is to know of it
    Info,
    /// Stop all its vCPUs and its guest's clock
    Pause,
    /// Let them go on, or wake a guest that sleeps
    Resume,
    /// End it now, or press its power key
    Stop(HowToStop),
    /// Raise SDEI's host event on a vCPU, even one that has interrupts masked
    Nmi(NmiArgs),
    /// Enable or disable a vCPU
    #[command(subcommand)]
    Cpu(Cpu),
}

#[derive(Args)]
struct HowToStop {
    /// Press the power key, so that the guest shuts itself down, and do not wait for that
    #[arg(long)]
    power_key: bool,
}

#[derive(Args)]
struct NmiArgs {
    /// Which vCPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    cpu: u32,
}

#[derive(Subcommand)]
enum Cpu {
    /// Let the guest switch it on
    Enable(CpuId),
    /// Do not let the guest switch it on; it must be off
    Disable(CpuId),
}

#[derive(Args)]
struct CpuId {
    /// Number of the vCPU
    cpu: u32,
}

/// The same as `ulna ctl VM stop`.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct StopArgs {
    /// The machine: its name, or the path of its socket (with a slash)
    vm: String,
    #[command(flatten)]
    how: HowToStop,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// The machines of this user that have a name and run.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct ListArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn ended(vm: &str, e: &ClientError) -> ExitStatus {
    complain(&format!("{vm}: {e}"));
    match e {
        ClientError::Nobody(_) | ClientError::Silent(..) => ExitStatus::NoMachine,
        ClientError::Refused(..) => ExitStatus::Refused,
    }
}

/// Prints `text`, or what it is made of.
pub(crate) fn say(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> ExitStatus {
    let text = if json { host::json(value) } else { Ok(text()) };
    match text {
        Ok(text) => host::print(&text),
        Err(e) => {
            complain(&e.to_string());
            e.status()
        }
    }
}

impl CtlArgs {
    /// Does it.
    pub fn call(self) -> ExitStatus {
        let client = Client::new(control::named(&self.vm));
        let done = match &self.what {
            What::Info => client.info().map(|i| say(self.json, &i, || info(&i))),
            What::Pause => client.pause().map(|()| stands(self.json, RunState::Paused)),
            What::Resume => client.resume().map(|()| stands(self.json, RunState::Running)),
            What::Stop(how) => return stop(&self.vm, how, self.json),
            What::Nmi(nmi) => {
                #[derive(Serialize)]
                struct Raised {
                    raised: bool,
                }
                client.nmi(nmi.cpu).map(|()| say(self.json, &Raised { raised: true }, String::new))
            }
            What::Cpu(cpu) => {
                let (id, on) = match cpu {
                    Cpu::Enable(c) => (c.cpu, true),
                    Cpu::Disable(c) => (c.cpu, false),
                };
                client.enable_cpu(id, on).map(|v| say(self.json, &v, String::new))
            }
        };
        done.unwrap_or_else(|e| ended(&self.vm, &e))
    }
}

impl StopArgs {
    /// Does it.
    pub fn call(self) -> ExitStatus {
        stop(&self.vm, &self.how, self.json)
    }
}

fn stop(vm: &str, how: &HowToStop, json: bool) -> ExitStatus {
    #[derive(Serialize)]
    struct Stopped {
        stopped: bool,
    }
    let client = Client::new(control::named(vm));
    if how.power_key {
        let pressed = client.press_power_key();
        return pressed
            .map_or_else(|e| ended(vm, &e), |()| say(json, &Stopped { stopped: false }, String::new));
    }
    if let Err(e) = client.stop() {
        return ended(vm, &e);
    }
    if !client.wait_for_the_end(END) {
        let e = ClientError::Silent(client.path().into(), "it was told to stop and is still there".into());
        return ended(vm, &e);
    }
    say(json, &Stopped { stopped: true }, String::new)
}

/// Silent in words: it worked.
fn stands(json: bool, state: RunState) -> ExitStatus {
    #[derive(Serialize)]
    struct Stands {
        state: RunState,
    }
    say(json, &Stands { state }, String::new)
}

fn state(s: RunState) -> &'static str {
    match s {
        RunState::Starting => "starting",
        RunState::Running => "running",
        RunState::Paused => "paused",
        RunState::Suspended => "suspended",
    }
}

/// A time for people: 3d 4h, 4h 5m, 5m 6s, 6s.
fn time(ns: u64) -> String {
    let s = ns / 1_000_000_000;
    let (d, h, m) = (s / 86400, s / 3600 % 24, s / 60 % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m {}s", s % 60),
        (0, ..) => format!("{h}h {m}m"),
        _ => format!("{d}d {h}h"),
    }
}

fn on(vcpus: &[VcpuInfo]) -> usize {
    vcpus.iter().filter(|v| v.power != VcpuPower::Off).count()
}

fn info(i: &Info) -> String {
    let mut text = String::new();
    let enabled = i.vcpus.iter().filter(|v| v.enabled).count();
    let services: Vec<String> = i.services.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let rows = [
        ("name", i.name.clone()),
        ("state", state(i.state).into()),
        ("process", i.pid.to_string()),
        ("uptime", time(i.uptime_ns)),
        ("resets", i.resets.to_string()),
        ("host", format!("{}, policy {}", i.profile, i.policy)),
        ("engine", format!("{}, clock {}", i.engine, i.clock)),
        ("memory", format!("{} MiB", i.memory >> 20)),
        ("GIC", format!("version {}", i.gic)),
        ("services", services.join(",")),
        ("vCPUs", format!("{} on, {enabled} enabled, {} possible", on(&i.vcpus), i.vcpus.len())),
    ];
    for (name, value) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<9} {value}");
    }
    let _ = writeln!(
        text,
        "\n  CPU MPIDR        POWER    ENABLED THREAD    READS    WRITES     CALLS INTERRUPTED"
    );
    for v in &i.vcpus {
        let power = match v.power {
            VcpuPower::On => "on",
            VcpuPower::Off => "off",
            VcpuPower::Starting => "starting",
            VcpuPower::Unknown => "unknown",
        };
        let thread = v.thread.map_or("-".to_owned(), |t| t.to_string());
        let e = &v.exits;
        let _ = writeln!(
            text,
            "{:>5} {:<#12x} {power:<8} {:<7} {thread:>6} {:>8} {:>9} {:>9} {:>11}",
            v.id,
            v.mpidr,
            if v.enabled { "yes" } else { "no" },
            e.mmio_read,
            e.mmio_write,
            e.hypercall,
            e.interrupted
        );
    }
    text
}

/// A machine in the list.
#[derive(Serialize)]
struct Entry {
    name: String,
    socket: String,
    /// None of a machine that is there and does not answer.
    info: Option<Info>,
    /// Why it does not.
    error: Option<String>,
}

impl ListArgs {
    /// Prints the list.
    pub fn call(self) -> ExitStatus {
        let found = match control::list() {
            Ok(found) => found,
            Err(e) => {
                let e = Error::host(format!("read {}", control::runtime_dir().display()), e);
                complain(&e.to_string());
                return e.status();
            }
        };
        // All at a time: one that hangs holds up nobody.
        let asked: Vec<_> = found
            .into_iter()
            .map(|(name, path)| {
                let client = Client::new(&path).patient(GLANCE);
                let asking = std::thread::spawn(move || client.info());
                (name, path, asking)
            })
            .collect();
        let mut entries = Vec::new();
        for (name, path, asking) in asked {
            let answer = asking.join().unwrap_or_else(|_| Err(ClientError::Nobody(path.clone())));
            let socket = path.display().to_string();
            match answer {
                Ok(i) => entries.push(Entry { name, socket, info: Some(i), error: None }),
                // Left behind by a machine that is gone.
                Err(ClientError::Nobody(_)) => {}
                Err(e) => entries.push(Entry { name, socket, info: None, error: Some(e.to_string()) }),
            }
        }
        say(self.json, &entries, || table(&entries))
    }
}

fn table(entries: &[Entry]) -> String {
    let width = entries.iter().map(|e| e.name.len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:<width$}  STATE      VCPUS   MEMORY  PROCESS  UPTIME    HOST\n", "NAME");
    for e in entries {
        let _ = match &e.info {
            Some(i) => writeln!(
                text,
                "{:<width$}  {:<9} {:>6} {:>7}M {:>8}  {:<9} {}",
                e.name,
                state(i.state),
                format!("{}/{}", on(&i.vcpus), i.vcpus.len()),
                i.memory >> 20,
                i.pid,
                time(i.uptime_ns),
                i.profile
            ),
            None => writeln!(text, "{:<width$}  no answer", e.name),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let of = |s: u64| time(s * 1_000_000_000);
        assert_eq!([of(6), of(65), of(3661), of(90_000)], ["6s", "1m 5s", "1h 1m", "1d 1h"]);
    }
}
