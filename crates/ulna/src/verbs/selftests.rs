//! `ulna selftests`: a directory of Linux's KVM selftests under `ulna exec`, and the record of a real KVM beside it.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ulna_machine::{Machine, Policy, VcpuFeatures};
use ulna_selftests::{Host, Launcher, Line, Report, Selection, recorded};
use ulna_vmm::{Error, ExitStatus};

use crate::{complain, host};

/// Linux's KVM selftests under `ulna exec`, each with its outcome on a real KVM beside it. Ends with 0 only when every
/// outcome is as expected.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct SelftestsArgs {
    /// Directory of the programs (aarch64, dynamically linked), as `cargo xtask selftests-build` makes it
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Host to play: the name of a built-in profile, or the path of a profile file
    #[arg(long, value_name = "PROFILE", default_value = "max", long_help = host::host_help())]
    host: String,
    /// Only tests whose name holds this text; may be given again
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Only tests that take seconds
    #[arg(long)]
    quick: bool,
    /// Also those that are known not to end
    #[arg(long)]
    all: bool,
    /// Tests at a time; those that measure time run alone all the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Stops a test after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Keeps what every test writes in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Options for `ulna exec`
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<OsString>,
}

impl SelftestsArgs {
    /// Runs them and prints the table.
    pub fn call(self) -> ExitStatus {
        match self.run() {
            Ok(status) => status,
            Err(e) => {
                complain(&e.to_string());
                e.status()
            }
        }
    }

    fn run(&self) -> Result<ExitStatus, Error> {
        let profile = host::find_profile(&self.host)?;
        if !self.dir.is_dir() {
            return Err(Error::Usage(format!("{} is not a directory", self.dir.display())));
        }
        let file = |action, path: &std::path::Path| {
            let path = path.to_path_buf();
            move |source| Error::File { action, path, source }
        };
        let here = std::env::current_exe().map_err(|e| Error::Internal(format!("where ulna is: {e}")))?;
        let temporary = tempfile::tempdir().map_err(file("make", &std::env::temp_dir()))?;
        let outputs = self.keep.clone().unwrap_or_else(|| temporary.path().into());
        std::fs::create_dir_all(&outputs).map_err(file("make", &outputs))?;
        let mut prefix: Vec<OsString> =
            vec![here.into(), "exec".into(), "--host".into(), (&self.host).into()];
        prefix.extend(self.options.iter().cloned());
        prefix.push("--".into());
        let launcher = Launcher {
            prefix,
            dir: self.dir.canonicalize().map_err(file("find", &self.dir))?,
            outputs,
            timeout: Duration::from_secs(self.timeout),
            jobs: self.jobs,
        };
        let selection = Selection { only: self.only.clone(), quick: self.quick, all: self.all };
        let supported = Machine::new(&profile, Policy::Hw, VcpuFeatures::NONE).supported_vcpu_features();
        let has = [("GICv3", profile.gic.v3()), ("PMU", supported.contains(VcpuFeatures::PMU_V3))];
        let lacks: Vec<&str> = has.iter().filter(|h| !h.1).map(|h| h.0).collect();
        let record = recorded().map_err(Error::Internal)?;
        if !self.json {
            say(Line::HEADING.trim_end());
        }
        let tell = |l: &Line| {
            if !self.json {
                say(&l.to_string());
            }
        };
        let report = Report::make(
            &record,
            &launcher,
            &selection,
            Host { nearest: nearest(&self.host), lacks: &lacks },
            &tell,
        )
        .map_err(file("read the tests of", &self.dir))?;
        if self.json {
            host::print(&host::json(&report)?);
        } else {
            self.rest(&report);
        }
        Ok(if report.expected { ExitStatus::Done } else { ExitStatus::Internal })
    }

    /// What was not started, what failed, and the sum.
    fn rest(&self, report: &Report) {
        for l in report.runs.iter().filter(|l| l.outcome.is_none()) {
            say(&l.to_string());
        }
        for text in report.failures() {
            say(&text);
        }
        say(&format!("\n{}", report.summary()));
    }
}

/// The recorded hosts, that of the same name first.
fn nearest(host: &str) -> &'static [&'static str] {
    match host {
        "a57" | "qemu-cortex-a57" => &["a57", "max", "a64fx"],
        "a64fx" => &["a64fx", "max", "a57"],
        _ => &["max", "a57", "a64fx"],
    }
}

fn say(line: &str) {
    // A reader that went away is no failure.
    let _ = writeln!(std::io::stdout(), "{line}");
}
