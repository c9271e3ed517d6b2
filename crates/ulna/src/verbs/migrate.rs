//! `ulna migrate` and `ulna receive`: a machine goes to another host while its guest runs.

use crate::host::{PolicyArg, host_help, print};
use crate::verbs::ctl::ended;
use crate::verbs::run::{EngineArg, start_log};
use crate::verbs::snapshot::{Host, net};
use crate::{complain, values};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;
use ulna_profile::KernelLevel;
use ulna_stream::Policy;
use ulna_vmm::control;
use ulna_vmm::control::client::{Client, ClientError};
use ulna_vmm::moves::live::link::Tls;
use ulna_vmm::moves::live::source::Outcome;
use ulna_vmm::moves::live::{Plan, Status, listen};
use ulna_vmm::{Config, Error, ExitStatus, Net, Serial, run_incoming};

/// How often a move is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Moves a machine to where `ulna receive` waits. The guest runs here until it runs there. Phases: connect, negotiate,
/// precopy, stop, state, handover, run; a failure before the hand-over leaves it running here. Ctrl-C gives the move up.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct MigrateArgs {
    /// The machine: its name, or the path of its socket (with a slash)
    vm: String,
    /// Where to
    #[arg(value_name = "HOST:PORT")]
    to: String,
    /// How long the guest may stand still, in milliseconds
    #[arg(long, value_name = "MS", default_value = "300", value_parser = milliseconds)]
    max_downtime: u64,
    /// Most bytes a second, like 100M [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    bandwidth: Option<u64>,
    /// Give it up after so many seconds [default: never]
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,
    /// Connections for memory
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    streams: u16,
    /// Compress memory
    #[arg(long)]
    zstd: bool,
    /// Directory with ca.pem, cert.pem and key.pem: both sides show a certificate
    #[arg(long, value_name = "DIR")]
    tls: Option<PathBuf>,
    /// Ask the destination whether it can have the machine, and move nothing
    #[arg(long)]
    dry_run: bool,
    /// One line of JSON a change, also on a terminal
    #[arg(long)]
    json: bool,
}

/// `300` or `300ms`.
fn milliseconds(text: &str) -> Result<u64, String> {
    text.trim_end_matches("ms").parse().map_err(|_| "milliseconds are like 300 or 300ms".into())
}

/// Tells people, or programs.
enum Teller {
    Bar(ProgressBar),
    Lines(Option<String>),
}

impl Teller {
    fn new(json: bool) -> Teller {
        if json || !std::io::stderr().is_terminal() {
            return Teller::Lines(None);
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{prefix:>10} [{bar:30}] {bytes}/{total_bytes} {msg}")
        {
            bar.set_style(style);
        }
        Teller::Bar(bar)
    }

    fn tell(&mut self, s: &Status) {
        match self {
            Teller::Bar(bar) => {
                bar.set_prefix(s.phase.clone());
                bar.set_length(s.sent + s.remaining);
                bar.set_position(s.sent);
                let estimate = s.estimate_ms.map_or(String::new(), |e| format!(", would stop for {e:.0} ms"));
                let brake =
                    if s.brake > 0.0 { format!(", held {:.0} %", s.brake * 100.0) } else { String::new() };
                bar.set_message(format!("round {}, {} MiB/s{estimate}{brake}", s.rounds.len(), s.rate >> 20));
            }
            Teller::Lines(last) => {
                let line = serde_json::to_string(s).unwrap_or_default();
                if last.as_ref() != Some(&line) {
                    print(&format!("{line}\n"));
                    *last = Some(line);
                }
            }
        }
    }

    fn end(&self, vm: &str, s: &Status) {
        let Teller::Bar(bar) = self else { return };
        bar.finish_and_clear();
        let ms = |v: Option<f64>| v.map_or("?".into(), |v| format!("{v:.1}"));
        let line = match s.outcome {
            Some(Outcome::Moved) => format!(
                "{vm} runs at {}: stood still for {} ms, {} MiB in {} rounds, {} ms in all\n",
                s.to,
                ms(s.downtime_ms),
                s.sent >> 20,
                s.rounds.len(),
                ms(s.total_ms)
            ),
            Some(Outcome::Possible) => format!("{} can have {vm}\n", s.to),
            _ => return,
        };
        print(&line);
    }
}

fn status_of(o: Outcome) -> ExitStatus {
    match o {
        Outcome::Moved | Outcome::Possible => ExitStatus::Done,
        Outcome::Refused => ExitStatus::Blocked,
        Outcome::Failed | Outcome::Cancelled | Outcome::Doubt => ExitStatus::Move,
    }
}

impl MigrateArgs {
    /// Does it.
    pub fn call(self) -> ExitStatus {
        let tls = match self.tls.as_ref().map(std::path::absolute).transpose() {
            Ok(tls) => tls,
            Err(e) => {
                complain(&format!("--tls: {e}"));
                return ExitStatus::Usage;
            }
        };
        let client = Client::new(control::named(&self.vm));
        let plan = Plan {
            to: self.to.clone(),
            tls,
            max_downtime_ms: self.max_downtime,
            bandwidth: self.bandwidth,
            timeout_s: self.timeout,
            streams: self.streams,
            zstd: self.zstd,
            dry_run: self.dry_run,
        };
        let cancel = ulna_vmm::on_interrupt();
        if let Err(e) = client.migrate(&plan) {
            return ended(&self.vm, &e);
        }
        let mut teller = Teller::new(self.json);
        let mut asked = false;
        loop {
            if !asked && cancel.load(Ordering::SeqCst) {
                asked = true;
                // A move that is over cannot be cancelled.
                let _ = client.cancel_migration();
            }
            let status = match client.migration() {
                Ok(s) => s,
                Err(e @ ClientError::Nobody(_)) => {
                    complain(&format!(
                        "{}: {e}: its process ended before it said how the move went",
                        self.vm
                    ));
                    return ExitStatus::NoMachine;
                }
                Err(e) => return ended(&self.vm, &e),
            };
            teller.tell(&status);
            if let Some(outcome) = status.outcome {
                teller.end(&self.vm, &status);
                for why in &status.why {
                    complain(&format!("{}: {why}", self.vm));
                }
                return status_of(outcome);
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Waits for one machine and goes on with it until it is off. What this host cannot honour is told to both sides, register
/// by register, before anything moves.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct ReceiveArgs {
    /// Where to listen; port 0 lets the host choose, and the line that tells names it
    #[arg(long, value_name = "HOST:PORT")]
    listen: String,
    /// Host to play: the name of a built-in profile, or the path of a profile file [default: the source's]
    #[arg(long, value_name = "PROFILE", long_help = host_help())]
    host: Option<String>,
    /// Limits: what KVM on that hardware can do (hw), or what software can do beyond (soft) [default: the source's]
    #[arg(long, value_enum, value_name = "hw|soft", hide_possible_values = true)]
    policy: Option<PolicyArg>,
    /// Kernel whose KVM is played [default: the source's where the profile is its own, else the profile's]
    #[arg(long, value_name = "MAJOR.MINOR", value_parser = values::kernel)]
    abi: Option<KernelLevel>,
    /// Directory with ca.pem, cert.pem and key.pem: both sides show a certificate
    #[arg(long, value_name = "DIR")]
    tls: Option<PathBuf>,
    /// Name of the machine [default: the source's, where no machine here has it]
    #[arg(long, value_name = "N", value_parser = values::name)]
    name: Option<String>,
    /// The control socket: a path with a slash, or none [default: NAME.sock in $XDG_RUNTIME_DIR/ulna or /tmp/ulna-UID]
    #[arg(long, value_name = "PATH|none", value_parser = values::control)]
    control: Option<values::Control>,
    /// What executes the guest's instructions
    #[arg(
        long,
        value_enum,
        default_value = "jit",
        value_name = "jit|interp|check",
        hide_possible_values = true
    )]
    engine: EngineArg,
    /// Where the serial port goes
    #[arg(long, value_name = "stdio|file=F|pty|none", default_value = "stdio", value_parser = values::serial)]
    serial: Serial,
    /// The network card [default: as at the source]
    #[arg(long, value_name = "user|tap=IF|none", value_parser = values::net)]
    net: Option<Net>,
    /// What to tell on standard error: error, warn, info, debug, trace, or a filter like ulna_vmm=debug
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

impl ReceiveArgs {
    /// Does it.
    pub fn call(self) -> ExitStatus {
        match self.run() {
            Ok(status) => status,
            Err(e) => {
                complain(&e.to_string());
                e.status()
            }
        }
    }

    fn run(self) -> Result<ExitStatus, Error> {
        start_log(&self.log)?;
        let tls = self
            .tls
            .as_deref()
            .map(Tls::load)
            .transpose()
            .map_err(|e| Error::Usage(format!("--tls: {e}")))?;
        let listening = listen(&self.listen, tls)?;
        // A closed standard error is no reason to fail.
        let _ = writeln!(std::io::stderr(), "ulna: waiting for a machine at {}", listening.address());
        let mut incoming = listening.wait()?;
        let header = incoming.offer.header.clone();
        let host = Host {
            host: self.host.clone().unwrap_or_else(|| header.profile.clone()),
            policy: match self.policy {
                Some(PolicyArg::Hw) => Policy::Hw,
                Some(PolicyArg::Soft) => Policy::Soft,
                None => header.policy,
            },
            abi: self.abi,
            engine: self.engine,
            clock: incoming.offer.config.clock,
        };
        let own = (host.host == header.profile)
            .then_some(KernelLevel { major: header.kernel.0, minor: header.kernel.1 });
        let taken = || std::os::unix::net::UnixStream::connect(control::named(&header.name)).is_ok();
        let name = self.name.clone().unwrap_or_else(|| {
            if taken() { format!("{}-{}", header.name, std::process::id()) } else { header.name.clone() }
        });
        let made = host.kvm(own).and_then(|k| Ok((k, net(&incoming.offer.config.net, self.net.clone())?)));
        let ((kvm, outside, kernel), net) = made.inspect_err(|e| incoming.refuse(e))?;
        let config = Config {
            name,
            serial: self.serial.clone(),
            net,
            control: host.control(&self.control, self.name.is_some(), kernel),
            ..incoming.offer.config.clone()
        };
        run_incoming(incoming, &config, &kvm, &outside)
    }
}
