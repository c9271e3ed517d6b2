//! Starting programs: each in its own process group, with a time limit, its output kept.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::recorded::{Outcome, Run};

/// Exit status of a test that was skipped (kselftest).
const SKIPPED: i32 = 4;

/// How programs are started.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// What comes before the program on its command line.
    pub prefix: Vec<OsString>,
    /// The directory of the tests.
    pub dir: PathBuf,
    /// Where output goes, a file each.
    pub outputs: PathBuf,
    /// The longest that one may take.
    pub timeout: Duration,
    /// How many at a time.
    pub jobs: usize,
}

/// Which of the record's starts.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only those whose name holds one of these texts; all when empty.
    pub only: Vec<String>,
    /// Only those that take seconds.
    pub quick: bool,
    /// Those as well that the record leaves out.
    pub all: bool,
}

impl Selection {
    /// Is it meant?
    pub fn has(&self, run: &Run) -> bool {
        let named = self.only.is_empty() || self.only.iter().any(|t| run.test.contains(t.as_str()));
        named && (run.quick || !self.quick)
    }
}

/// How a start ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Ended {
    /// In a word.
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
    /// File and line of the first assertion that failed.
    pub place: Option<String>,
    /// Its exit status in words.
    pub status: String,
    /// The last lines it wrote.
    pub output: String,
}

impl Ended {
    /// Did it fail at this file and line? Directories do not count.
    pub fn is_at(&self, place: &str) -> bool {
        let Some(at) = &self.place else { return false };
        at.rsplit('/').next() == Some(place)
    }
}

/// Runs all of them, `jobs` at a time, and tells each as it ends; the answers are in the order of `runs`.
pub fn run_all(l: &Launcher, runs: &[Run], tell: &(dyn Fn(&Run, &Ended) + Sync)) -> Vec<io::Result<Ended>> {
    let results: Vec<Mutex<Option<io::Result<Ended>>>> = runs.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    // Serial ones hold it alone.
    let alone = RwLock::new(());
    let worker = || {
        loop {
            let n = next.fetch_add(1, Ordering::SeqCst);
            let Some(run) = runs.get(n) else { return };
            let ended = if run.serial {
                let _guard = alone.write().unwrap_or_else(PoisonError::into_inner);
                one(l, run)
            } else {
                let _guard = alone.read().unwrap_or_else(PoisonError::into_inner);
                one(l, run)
            };
            if let Ok(e) = &ended {
                tell(run, e);
            }
            *results[n].lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
        }
    };
    std::thread::scope(|s| {
        for _ in 1..l.jobs.max(1) {
            s.spawn(worker);
        }
        worker();
    });
    let missing = || Err(io::Error::other("not started"));
    results
        .into_iter()
        .map(|r| r.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(missing))
        .collect()
}

fn one(l: &Launcher, run: &Run) -> io::Result<Ended> {
    let program = l.dir.join(&run.test);
    let log = l.outputs.join(log_name(run));
    let file = File::create(&log)?;
    let mut words =
        l.prefix.iter().chain([program.as_os_str().to_owned()].iter()).cloned().collect::<Vec<_>>();
    words.extend(run.args.iter().map(OsString::from));
    let Some((first, rest)) = words.split_first() else { return Err(io::Error::other("no program")) };
    let started = Instant::now();
    let mut child = Command::new(first)
        .args(rest)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0)
        .spawn()?;
    let status = wait(&mut child, started + l.timeout);
    let seconds = started.elapsed().as_secs_f64();
    // Whatever it left behind.
    end_group(&child);
    let status = status?;
    if status.is_none() {
        child.wait()?;
    }
    let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let outcome = match status {
        None => Outcome::Stopped,
        Some(s) if s.success() => Outcome::Pass,
        Some(s) if s.code() == Some(SKIPPED) => Outcome::Skip,
        Some(_) => Outcome::Fail,
    };
    let failed = matches!(outcome, Outcome::Fail | Outcome::Stopped);
    Ok(Ended {
        outcome,
        seconds,
        place: place(&text).filter(|_| failed),
        status: words_for(status),
        output: if failed { tail(&text, 12) } else { String::new() },
    })
}

/// A file name for a start.
fn log_name(run: &Run) -> String {
    let words: Vec<&str> = std::iter::once(&run.test).chain(&run.args).map(String::as_str).collect();
    words.join(" ").replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "-") + ".log"
}

/// Its status, or nothing when the time is over.
fn wait(child: &mut Child, until: Instant) -> io::Result<Option<ExitStatus>> {
    // Short sleeps first: most take tenths of a second.
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(s) = child.try_wait()? {
            return Ok(Some(s));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn end_group(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It is no error that nobody is left.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

fn words_for(status: Option<ExitStatus>) -> String {
    match status {
        None => "stopped at the time limit".into(),
        Some(s) => match (s.code(), s.signal()) {
            (Some(n), _) => format!("exit status {n}"),
            (None, Some(n)) => format!("killed by signal {n}"),
            _ => "unknown".into(),
        },
    }
}

/// File and line of the first failed assertion, as the selftests' library prints them: the line after the banner.
fn place(output: &str) -> Option<String> {
    let mut lines = output.lines();
    lines.find(|l| l.contains("Test Assertion Failure"))?;
    let (at, _) = lines.next()?.trim().split_once(": ")?;
    let (file, line) = at.rsplit_once(':')?;
    (!file.is_empty() && line.parse::<u32>().is_ok()).then(|| at.to_owned())
}

fn tail(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}

/// The programs of a directory: those that its file `list` names, or else all executables in it and one level below.
pub(crate) fn programs(dir: &Path) -> io::Result<Vec<String>> {
    if let Ok(list) = std::fs::read_to_string(dir.join("list")) {
        return Ok(list.lines().map(str::trim).filter(|l| !l.is_empty()).map(Into::into).collect());
    }
    let mut found = Vec::new();
    collect(dir, "", &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(dir: &Path, below: &str, found: &mut Vec<String>) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(dir.join(below))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let kind = entry.file_type()?;
        if kind.is_dir() && below.is_empty() {
            collect(dir, &name, found)?;
        } else if kind.is_file() && entry.metadata()?.permissions().mode() & 0o111 != 0 {
            found.push(if below.is_empty() { name } else { format!("{below}/{name}") });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_failure_is_found() {
        let text = "Random seed: 0x6b8b4567\n==== Test Assertion Failure ====\n  lib/kvm_util.c:724: false\n  pid=1\n";
        assert_eq!(place(text).as_deref(), Some("lib/kvm_util.c:724"));
        for none in
            ["", "==== Test Assertion Failure ====", "==== Test Assertion Failure ====\nx\n", "a.c:1: b"]
        {
            assert_eq!(place(none), None, "{none}");
        }
    }

    #[test]
    fn the_end_of_an_output() {
        assert_eq!(
            (tail("a\nb\nc", 2).as_str(), tail("a", 2).as_str(), tail("", 2).as_str()),
            ("b\nc", "a", "")
        );
    }
}
