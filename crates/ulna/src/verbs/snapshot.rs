//! `ulna snapshot`, `ulna restore` and `ulna inspect`: machines as directories.

use crate::host::{PolicyArg, find_profile, host_help};
use crate::verbs::ctl::{ended, say};
use crate::verbs::run::{EngineArg, host_outside, repeatable_outside, start_log, wall_clock_ns};
use crate::{complain, values};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use ulna_kvm_backend::RegId;
use ulna_kvm_backend::software::{ClockKind, KvmConfig, Software};
use ulna_profile::KernelLevel;
use ulna_stream::Policy;
use ulna_vmm::control::client::Client;
use ulna_vmm::control::{self, Order, Place};
use ulna_vmm::moves::snapshot::Snapshot;
use ulna_vmm::moves::{State, hex, register_name};
use ulna_vmm::{Arrived, Clock, Config, Error, ExitStatus, Net, Serial, run_arrived};

/// How long writing a snapshot may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Stops the machine, writes its state and memory, and lets it go on. DIR is replaced only once the new snapshot is whole.
/// A machine that was paused stays so. Disks are not part of a snapshot.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct SnapshotArgs {
    /// The machine: its name, or the path of its socket (with a slash)
    vm: String,
    /// Where to: a directory that does not exist, is empty, or is a snapshot
    dir: PathBuf,
    /// End the machine afterwards, without letting it go on
    #[arg(long)]
    stop: bool,
    /// Do not wait until the files are durable
    #[arg(long)]
    no_sync: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn absolute(dir: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(dir).map_err(|e| Error::Usage(format!("{}: {e}", dir.display())))
}

impl SnapshotArgs {
    /// Does it.
    pub fn call(self) -> ExitStatus {
        let dir = match absolute(&self.dir) {
            Ok(dir) => dir,
            Err(e) => {
                complain(&e.to_string());
                return e.status();
            }
        };
        let client = Client::new(control::named(&self.vm)).patient(PATIENCE);
        match client.snapshot(&Order { dir, stop: self.stop, no_sync: self.no_sync }) {
            Err(e) => ended(&self.vm, &e),
            Ok(r) => say(self.json, &r, || {
                let phases: Vec<String> =
                    r.phases.iter().map(|p| format!("{} {:.1} ms", p.phase, p.ms)).collect();
                format!(
                    "{}: {} MiB of memory; the guest stood still for {:.1} ms ({})\n",
                    r.dir.display(),
                    r.memory >> 20,
                    r.stopped_ms,
                    phases.join(", ")
                )
            }),
        }
    }
}

/// Lets a machine go on from a snapshot, which stays as it is: memory is mapped copy-on-write, so the directory must be
/// there as long as the machine runs.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct RestoreArgs {
    /// The snapshot
    dir: PathBuf,
    /// Host to play: the name of a built-in profile, or the path of a profile file [default: the snapshot's]
    #[arg(long, value_name = "PROFILE", long_help = host_help())]
    host: Option<String>,
    /// Limits: what KVM on that hardware can do (hw), or what software can do beyond (soft) [default: the snapshot's]
    #[arg(long, value_enum, value_name = "hw|soft", hide_possible_values = true)]
    policy: Option<PolicyArg>,
    /// Kernel whose KVM is played [default: the snapshot's where the profile is its own, else the profile's]
    #[arg(long, value_name = "MAJOR.MINOR", value_parser = values::kernel)]
    abi: Option<KernelLevel>,
    /// Compare all memory with its checksums first
    #[arg(long)]
    verify: bool,
    /// Stay at a stand until `ulna ctl VM resume`
    #[arg(long)]
    paused: bool,
    /// Start so many machines, NAME-0 and so on, each with memory of its own beyond what they share
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    clone: Option<u32>,
    /// Name of the machine [default: vm and the process id; of clones: the snapshot's]
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
    /// Where the serial port goes [default: stdio; of clones: none]
    #[arg(long, value_name = "stdio|file=F|pty|none", value_parser = values::serial)]
    serial: Option<Serial>,
    /// The network card [default: as in the snapshot]
    #[arg(long, value_name = "user|tap=IF|none", value_parser = values::net)]
    net: Option<Net>,
    /// What to tell on standard error: error, warn, info, debug, trace, or a filter like ulna_vmm=debug
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

/// What decides about the host that a machine goes on at.
pub(crate) struct Host {
    /// Name of the profile.
    pub host: String,
    /// Policy.
    pub policy: Policy,
    /// Kernel.
    pub abi: Option<KernelLevel>,
    /// Engine.
    pub engine: EngineArg,
    /// What time follows.
    pub clock: Clock,
}

impl Host {
    /// Its KVM, what it takes from outside, and the kernel that is played.
    pub fn kvm(&self, own: Option<KernelLevel>) -> Result<(Software, ulna_vmm::Outside, KernelLevel), Error> {
        let mut profile = find_profile(&self.host)?;
        profile.kernel = self.abi.or(own).unwrap_or(profile.kernel);
        let kernel = profile.kernel;
        let ((outside, random), clock) = match self.clock {
            Clock::Host => (host_outside(), ClockKind::Host),
            Clock::Instructions => (repeatable_outside(), ClockKind::Insn),
        };
        let kvm = Software::new(KvmConfig {
            profile,
            policy: match self.policy {
                Policy::Hw => ulna_kvm_backend::software::Policy::Hw,
                Policy::Soft => ulna_kvm_backend::software::Policy::Soft,
            },
            clock,
            random,
            wall_clock: Arc::new(wall_clock_ns),
            engine: self.engine.into(),
            engine_options: Default::default(),
            strict: false,
        });
        Ok((kvm, outside, kernel))
    }

    /// What the control socket tells.
    pub fn control(
        &self,
        control: &Option<values::Control>,
        wanted: bool,
        kernel: KernelLevel,
    ) -> Option<control::Options> {
        let place = match control {
            Some(values::Control::None) => return None,
            Some(values::Control::Path(path)) => Place::Path(path.clone()),
            None => Place::Named { wanted },
        };
        Some(control::Options {
            place,
            profile: self.host.clone(),
            policy: if self.policy == Policy::Soft { "soft" } else { "hw" }.into(),
            engine: self.engine.to_possible_value().map_or(String::new(), |v| v.get_name().to_owned()),
            kernel: (kernel.major, kernel.minor),
        })
    }
}

impl RestoreArgs {
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
        let snapshot = Snapshot::open(&self.dir)?;
        if self.verify {
            snapshot.verify()?;
        }
        if let Some(n) = self.clone {
            return self.clones(n, &snapshot.state);
        }
        let header = &snapshot.state.header;
        let host = Host {
            host: self.host.clone().unwrap_or_else(|| header.profile.clone()),
            policy: match self.policy {
                Some(PolicyArg::Hw) => Policy::Hw,
                Some(PolicyArg::Soft) => Policy::Soft,
                None => header.policy,
            },
            abi: self.abi,
            engine: self.engine,
            clock: snapshot.state.config.clock,
        };
        let same = host.host == header.profile;
        let own = same.then_some(KernelLevel { major: header.kernel.0, minor: header.kernel.1 });
        let (kvm, outside, kernel) = host.kvm(own)?;
        let (ram, flash, stolen_time) = snapshot.memory()?;
        let mut state = snapshot.state;
        let config = Config {
            name: self.name.clone().unwrap_or_else(|| format!("vm{}", std::process::id())),
            serial: self.serial.unwrap_or_default(),
            net: net(&state.config.net, self.net)?,
            control: host.control(&self.control, self.name.is_some(), kernel),
            ..state.config
        };
        state.config = config;
        let arrived = Arrived { state, ram, flash, stolen_time, private: true, paused: self.paused };
        run_arrived(arrived, &kvm, &outside)
    }

    /// Starts clones, each a process of its own, and waits for them.
    fn clones(&self, n: u32, state: &State) -> Result<ExitStatus, Error> {
        if let Some(disk) = state.config.disks.iter().find(|d| !d.readonly) {
            let path = disk.path.display();
            return Err(Error::Usage(format!(
                "--clone: the machine writes to {path}, which clones cannot share"
            )));
        }
        if matches!(self.control, Some(values::Control::Path(_))) {
            return Err(Error::Usage("--clone: each clone has a control socket of its own name".into()));
        }
        let own = std::env::current_exe().map_err(|e| Error::host("find this program", e))?;
        let base = self.name.clone().unwrap_or_else(|| state.header.name.clone());
        let mut children = Vec::new();
        for i in 0..n {
            let mut c = std::process::Command::new(&own);
            c.arg("restore").arg(&self.dir).arg(format!("--name={base}-{i}")).arg("--serial=none");
            c.args(["--log", &self.log]).stdin(std::process::Stdio::null());
            let engine = self.engine.to_possible_value();
            c.args(engine.map(|e| format!("--engine={}", e.get_name())));
            c.args(self.host.iter().map(|h| format!("--host={h}")));
            let policy = self.policy.and_then(|p| p.to_possible_value());
            c.args(policy.map(|p| format!("--policy={}", p.get_name())));
            c.args(self.abi.map(|a| format!("--abi={}.{}", a.major, a.minor)));
            c.args(self.paused.then_some("--paused"));
            c.args(matches!(self.control, Some(values::Control::None)).then_some("--control=none"));
            children.push(c.spawn().map_err(|e| Error::host(format!("start clone {i}"), e))?);
        }
        let mut worst = ExitStatus::Done;
        for (i, mut child) in children.into_iter().enumerate() {
            let status = child.wait().map_err(|e| Error::host(format!("wait for clone {i}"), e))?;
            if !status.success() {
                complain(&format!("clone {base}-{i} ended with {status}"));
                worst = ExitStatus::Move;
            }
        }
        Ok(worst)
    }
}

/// The card of a machine that goes on: it had one or had none, but what is behind it is this host's.
pub(crate) fn net(had: &Net, wanted: Option<Net>) -> Result<Net, Error> {
    match wanted {
        Some(new) if (new == Net::None) != (*had == Net::None) => {
            let word = if *had == Net::None { "none" } else { "a" };
            Err(Error::Usage(format!("--net: the machine has {word} network card, and that cannot change")))
        }
        Some(new) => Ok(new),
        None => Ok(had.clone()),
    }
}

/// Tells what a snapshot holds: of which host, in which version, and with --registers all values by name.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct InspectArgs {
    /// The snapshot
    dir: PathBuf,
    /// All registers, by name
    #[arg(long)]
    registers: bool,
    /// Compare all memory with its checksums
    #[arg(long)]
    verify: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Inspected {
    name: String,
    creator: String,
    profile: String,
    policy: &'static str,
    kernel: String,
    vcpu_features: u32,
    counter_hz: u64,
    counter: Option<u64>,
    stopped_at_ns: u64,
    gic: u8,
    memory: Vec<Piece>,
    devices: Vec<DeviceLine>,
    vcpus: Vec<VcpuLine>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vm_registers: Vec<Register>,
    verified: bool,
}

#[derive(Serialize)]
struct Piece {
    name: String,
    address: u64,
    bytes: u64,
    file: String,
}

#[derive(Serialize)]
struct DeviceLine {
    kind: String,
    version: u16,
    address: u64,
    bytes: usize,
}

#[derive(Serialize)]
struct VcpuLine {
    id: u32,
    power: String,
    pc: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    registers: Vec<Register>,
}

#[derive(Serialize)]
struct Register {
    name: String,
    id: String,
    value: String,
}

fn registers(regs: &[ulna_stream::Reg], all: bool) -> Vec<Register> {
    let one = |r: &ulna_stream::Reg| Register {
        name: register_name(RegId(r.id)),
        id: format!("{:#x}", r.id),
        value: hex(&r.bytes),
    };
    regs.iter().filter(|_| all).map(one).collect()
}

impl InspectArgs {
    /// Does it.
    pub fn call(self) -> ExitStatus {
        match Snapshot::open(&self.dir).and_then(|s| if self.verify { s.verify().map(|()| s) } else { Ok(s) })
        {
            Ok(s) => {
                let i = self.inspect(&s.state);
                say(self.json, &i, || text(&i))
            }
            Err(e) => {
                complain(&e.to_string());
                ExitStatus::Move
            }
        }
    }

    fn inspect(&self, s: &State) -> Inspected {
        let h = &s.header;
        let pc = |v: &ulna_stream::Vcpu| v.regs.iter().find(|r| r.id == RegId::PC.0).map(|r| hex(&r.bytes));
        Inspected {
            name: h.name.clone(),
            creator: h.creator.clone(),
            profile: h.profile.clone(),
            policy: if h.policy == Policy::Soft { "soft" } else { "hw" },
            kernel: format!("{}.{}", h.kernel.0, h.kernel.1),
            vcpu_features: h.vcpu_features,
            counter_hz: h.counter_hz,
            counter: h.counters[0],
            stopped_at_ns: h.stopped_at,
            gic: s.gic.version,
            memory: s
                .regions
                .iter()
                .map(|r| Piece { name: r.name.clone(), address: r.gpa, bytes: r.len, file: r.file.clone() })
                .collect(),
            devices: s
                .devices
                .iter()
                .map(|d| DeviceLine {
                    kind: d.kind.clone(),
                    version: d.version,
                    address: d.address,
                    bytes: d.payload.len(),
                })
                .collect(),
            vcpus: s
                .vcpus
                .iter()
                .map(|v| VcpuLine {
                    id: v.id,
                    power: format!("{:?}", v.power).to_lowercase(),
                    pc: pc(v).unwrap_or_default(),
                    registers: registers(&v.regs, self.registers),
                })
                .collect(),
            vm_registers: registers(&s.vm_regs, self.registers),
            verified: self.verify,
        }
    }
}

fn text(i: &Inspected) -> String {
    let mut t = String::new();
    let _ = writeln!(t, "machine    {} (written by ulna {})", i.name, i.creator);
    let _ = writeln!(t, "host       {}, policy {}, kernel {}", i.profile, i.policy, i.kernel);
    let _ = writeln!(
        t,
        "counter    {} Hz{}",
        i.counter_hz,
        i.counter.map_or(String::new(), |c| format!(", at {c}"))
    );
    let _ = writeln!(t, "gic        GICv{}", i.gic);
    for p in &i.memory {
        let _ =
            writeln!(t, "memory     {:<12} {:#x}, {} KiB, in {}", p.name, p.address, p.bytes >> 10, p.file);
    }
    for d in &i.devices {
        let _ = writeln!(
            t,
            "device     {:<16} {:#x}, version {}, {} bytes",
            d.kind, d.address, d.version, d.bytes
        );
    }
    for r in &i.vm_registers {
        let _ = writeln!(t, "vm         {:<22} {}", r.name, r.value);
    }
    for v in &i.vcpus {
        let _ = writeln!(t, "vcpu {:<5} {}, PC {}", v.id, v.power, v.pc);
        for r in &v.registers {
            let _ = writeln!(t, "  {:<24} {}", r.name, r.value);
        }
    }
    if i.verified {
        t.push_str("memory agrees with its checksums\n");
    }
    t
}
