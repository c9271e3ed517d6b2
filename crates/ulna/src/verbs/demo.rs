//! `ulna demo`: what this is for, in a minute.

use crate::host::print;
use clap::Args;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use ulna_vmm::moves::live::Status;
use ulna_vmm::{Error, ExitStatus};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Boots a guest that counts on one host, shows what keeps it from another and why, starts it again as a guest that both
/// can have, and moves it there while it counts. Needs nothing but this program.
#[derive(Args)]
pub struct DemoArgs {
    /// Where it begins
    #[arg(long, value_name = "PROFILE", default_value = "altra")]
    from: String,
    /// Where it goes
    #[arg(long, value_name = "PROFILE", default_value = "thunderx2")]
    to: String,
    /// Where it goes if those two have no CPU in common
    #[arg(long, value_name = "PROFILE", default_value = "graviton2")]
    instead: String,
}

/// A process that ends with the demo.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The demo's files.
struct Stage {
    dir: PathBuf,
    program: PathBuf,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Stage {
    fn set() -> Result<Stage, Error> {
        let dir = std::env::temp_dir().join(format!("ulna-demo-{}", std::process::id()));
        std::fs::create_dir(&dir).map_err(|e| Error::host(format!("make {}", dir.display()), e))?;
        let program = std::env::current_exe().map_err(|e| Error::host("find this program", e))?;
        let stage = Stage { dir, program };
        let file = stage.path("counter");
        std::fs::write(&file, ulna_guests::counter())
            .map_err(|e| Error::host(format!("write {}", file.display()), e))?;
        Ok(stage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn ulna(&self, args: &[&str]) -> Command {
        let mut c = Command::new(&self.program);
        c.args(args).current_dir(&self.dir).stdin(Stdio::null());
        c
    }

    /// Starts a machine, or what waits for one; its socket and what it prints have its name.
    fn start(&self, name: &str, args: &[&str]) -> Result<Process, Error> {
        let mut c = self.ulna(args);
        c.arg(format!("--control=./{name}.sock"))
            .arg(format!("--serial=file={name}.out"))
            .stderr(Stdio::piped());
        c.spawn().map(Process).map_err(|e| Error::host("start a machine", e))
    }

    fn machine(&self, name: &str, host: &str, more: &[&str]) -> Result<Process, Error> {
        let args =
            ["run", "--kernel", "counter", "--kernel-format", "raw", "--memory", "64M", "--host", host];
        self.start(name, &[&args[..], more].concat())
    }

    /// A process that waits for a machine, and where.
    fn receiver(&self, name: &str, host: &str, policy: &str) -> Result<(Process, String), Error> {
        let mut p =
            self.start(name, &["receive", "--listen", "127.0.0.1:0", "--host", host, "--policy", policy])?;
        let mut errors = BufReader::new(p.0.stderr.take().ok_or_else(|| wrong("no standard error"))?);
        let mut line = String::new();
        errors.read_line(&mut line).map_err(|e| wrong(&e.to_string()))?;
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        let at = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        if at.contains(':') { Ok((p, at)) } else { Err(wrong(line.trim())) }
    }

    /// Waits until it has counted so far; the last lines.
    fn counted(&self, name: &str, lines: usize) -> Result<Vec<String>, Error> {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(self.path(&format!("{name}.out"))).unwrap_or_default();
            let whole: Vec<String> =
                text.split_inclusive('\n').filter(|l| l.ends_with('\n')).map(String::from).collect();
            if whole.len() >= lines {
                return Ok(whole);
            }
            if Instant::now() > end {
                return Err(wrong("the guest does not count"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn migrate(&self, name: &str, at: &str) -> Result<Status, Error> {
        let socket = format!("./{name}.sock");
        let o = self.ulna(&["migrate", &socket, at, "--json"]).output().map_err(|e| wrong(&e.to_string()))?;
        let text = String::from_utf8_lossy(&o.stdout);
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).map_err(|_| wrong(&String::from_utf8_lossy(&o.stderr)))
    }
}

fn wrong(why: &str) -> Error {
    Error::Internal(format!("demo: {why}"))
}

fn say(text: &str) {
    print(&format!("{text}\n"));
}

fn show(who: &str, lines: &[String]) {
    let text: String = lines.iter().map(|l| format!("    {who:<10} | {l}")).collect();
    print(&text);
}

impl DemoArgs {
    /// Does it.
    pub fn call(self) -> ExitStatus {
        match self.run() {
            Ok(()) => ExitStatus::Done,
            Err(e) => {
                crate::complain(&e.to_string());
                e.status()
            }
        }
    }

    fn run(&self) -> Result<(), Error> {
        let (from, to) = (self.from.as_str(), self.to.as_str());
        let stage = Stage::set()?;
        say(&format!("1. A guest on {from} counts twenty times a second."));
        let first = stage.machine("first", from, &[])?;
        show(from, &stage.counted("first", 5)?[..5]);

        say(&format!(
            "\n2. It is to go to {to}, as KVM there is. Before anything moves, {to} says what it cannot honour:"
        ));
        let (_refuses, at) = stage.receiver("refuses", to, "hw")?;
        let refused = stage.migrate("first", &at)?;
        if refused.why.is_empty() {
            say(&format!("    nothing: it runs on {to} now"));
            return Ok(());
        }
        for why in &refused.why {
            say(&format!("    - {}", why.trim_start_matches("negotiate: ")));
        }
        let lines = stage.counted("first", 1)?;
        show(from, &stage.counted("first", lines.len() + 1)?[lines.len()..lines.len() + 1]);
        say(&format!("   The guest goes on on {from}; nothing has happened to it."));
        drop(first);

        let cpu = stage.path("both.toml");
        let to = match self.baseline(&stage, to, &cpu)? {
            None => to,
            Some(why) => {
                say(&format!("\n   {from} and {to} have no CPU in common, even in software:"));
                why.iter().for_each(|w| say(&format!("    - {w}")));
                if let Some(why) = self.baseline(&stage, &self.instead, &cpu)? {
                    return Err(wrong(&why.join("; ")));
                }
                say(&format!("   So it goes to {}.", self.instead));
                self.instead.as_str()
            }
        };
        say(&format!(
            "\n3. Started again with what both can have (ulna baseline {from} {to} --policy soft):"
        ));
        let cpu = cpu.display().to_string();
        let _second = stage.machine("second", from, &["--policy", "soft", "--cpu", &cpu])?;
        show(from, &stage.counted("second", 4)?[..4]);

        say(&format!("\n4. It moves to {to} while it counts:"));
        let (_third, at) = stage.receiver("third", to, "soft")?;
        let moved = stage.migrate("second", &at)?;
        let Some(downtime) = moved.downtime_ms else {
            return Err(wrong(&moved.why.join("; ")));
        };
        let before = stage.counted("second", 1)?;
        let after = stage.counted("third", 6)?;
        show(from, &before[before.len().saturating_sub(2)..]);
        show(to, &after[..6]);
        say(&format!(
            "\nThe guest stood still for {downtime:.1} ms; {} KiB went over in {:.0} ms. It counts on: no number is missing, \
             and its time has not jumped.",
            moved.sent >> 10,
            moved.total_ms.unwrap_or(0.0)
        ));
        Ok(())
    }

    /// Writes the CPU that both can have, or says why there is none.
    fn baseline(&self, stage: &Stage, to: &str, file: &Path) -> Result<Option<Vec<String>>, Error> {
        let file = file.display().to_string();
        let o = stage.ulna(&["baseline", &self.from, to, "--policy", "soft", "-o", &file]).output();
        let o = o.map_err(|e| wrong(&e.to_string()))?;
        if o.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&o.stderr).into_owned();
        Ok(Some(text.lines().map(|l| l.trim_start_matches("ulna: baseline: ").to_owned()).collect()))
    }
}
