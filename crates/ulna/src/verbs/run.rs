//! `ulna run`: start a machine and stay with it until it is off.

use crate::host::{PolicyArg, find_named, find_profile, host_help};
use crate::verbs::profile::{self, ProfileFile};
use crate::{complain, cpu_file, values};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing_subscriber::EnvFilter;
use ulna_arm_regs::SysReg;
use ulna_devices::virtio::rng::{Entropy, HostEntropy};
use ulna_kvm_backend::software::{ClockKind, Engine, EngineOptions, KvmConfig, Software};
use ulna_profile::{KernelLevel, Profile};
use ulna_vmm::control::{self, Place};
use ulna_vmm::identity::{self, Cluster};
use ulna_vmm::services::TARGETS_SINCE;
use ulna_vmm::{
    Clock, Config, Disk, Error, ExitStatus, GdbAddress, GicVersion, Kernel, Net, Outside, Serial, Services,
    Target,
};

/// Without --kernel and --firmware the built-in guest starts: it shows what a guest of the profile sees, tries timers
/// and interrupts on every vCPU, and powers off.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct RunArgs {
    /// Kernel: an arm64 Image, Image.gz or ELF file
    #[arg(long, value_name = "F")]
    kernel: Option<PathBuf>,
    /// How to read the kernel: by its first bytes, or as a flat program for RAM+0x80000
    #[arg(long, value_enum, default_value = "auto", requires = "kernel", hide_possible_values = true)]
    #[arg(value_name = "auto|raw")]
    kernel_format: Format,
    /// Firmware for the flash at address 0, where the machine then starts; the firmware is given the kernel
    #[arg(long, value_name = "F")]
    firmware: Option<PathBuf>,
    /// File in which the firmware keeps its variables; made if there is none [default: they are lost at the end]
    #[arg(long, value_name = "F", requires = "firmware")]
    firmware_vars: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "F")]
    initrd: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, value_name = "S", default_value = "", hide_default_value = true)]
    cmdline: String,
    /// vCPUs that the guest may switch on, 1 to 512 (1 to 8 with --gic 2)
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// vCPUs that exist; those above --cpus are disabled until `ulna ctl VM cpu enable N` [default: as --cpus]
    #[arg(long, value_name = "N")]
    max_cpus: Option<u32>,
    /// RAM, like 512M or 2G; a number alone counts MiB
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = values::size)]
    memory: u64,
    /// Host to play: the name of a built-in profile, or the path of a profile file
    #[arg(long, value_name = "PROFILE", default_value = "max", long_help = host_help())]
    host: String,
    /// Limits: what KVM on that hardware can do (hw), or what software can do beyond (soft)
    #[arg(long, value_enum, default_value = "hw", value_name = "hw|soft", hide_possible_values = true)]
    policy: PolicyArg,
    /// Kernel whose KVM is played [default: the profile's, or the first that has what --services, --targets and
    /// --identity ask for]
    /// CPU that the guest sees, as `ulna baseline` writes it: lowers within --host
    #[arg(long, value_name = "F")]
    cpu: Option<PathBuf>,
    /// Kernel whose KVM is played [default: the profile's, or the first that has what --services and --targets name]
    #[arg(long, value_name = "MAJOR.MINOR", value_parser = values::kernel)]
    abi: Option<KernelLevel>,
    /// Hypercall services, as psci=1.1,trng=off
    #[arg(long, value_name = "NAME=WORD,...", long_help = services_help())]
    services: Option<Services>,
    /// Hosts whose errata the guest is to prepare for, besides its own
    #[arg(long, value_name = "PROFILE,...", value_delimiter = ',')]
    targets: Vec<String>,
    /// Who the vCPUs are, as a72:4,a53:2: by profile or MIDR, the last also without a count [default: the host's CPU]
    #[arg(long, value_name = "PROFILE|MIDR[:COUNT],...", value_delimiter = ',', value_parser = values::cluster)]
    identity: Vec<Cluster<String>>,
    /// Name of the machine [default: vm and the process id]
    #[arg(long, value_name = "N", value_parser = values::name)]
    name: Option<String>,
    /// The control socket: a path with a slash, or none [default: NAME.sock in $XDG_RUNTIME_DIR/ulna or /tmp/ulna-UID]
    #[arg(long, value_name = "PATH|none", value_parser = values::control)]
    control: Option<values::Control>,
    /// Interrupt controller: GICv2, or GICv3 with an ITS [default: 3 where the host of the profile has it]
    #[arg(long, value_enum, value_name = "2|3", hide_possible_values = true)]
    gic: Option<GicArg>,
    /// What time follows: the host's clock, or the instructions executed, so that a run repeats exactly
    #[arg(long, value_enum, default_value = "host", value_name = "host|insn", hide_possible_values = true)]
    clock: ClockArg,
    /// What executes the guest's instructions: translation to host code, interpretation, or both, compared block by block
    #[arg(
        long,
        value_enum,
        default_value = "jit",
        value_name = "jit|interp|check",
        hide_possible_values = true
    )]
    engine: EngineArg,
    /// Translated code that each vCPU keeps, at least 1M; when it is full the vCPU translates anew
    #[arg(long, value_name = "SIZE", default_value = "32M", value_parser = values::size)]
    jit_cache: u64,
    /// Write what was executed most often, and what the engine counted: as JSON where the name ends in .json, else as text
    #[arg(long, value_name = "F")]
    profile_guest: Option<PathBuf>,
    /// Tell `perf` where translated code stands, in /tmp/perf-PID.map
    #[arg(long)]
    perf_map: bool,
    /// A disk from a raw image (may be given several times)
    #[arg(long = "disk", value_name = "path=F[,readonly]", value_parser = values::disk)]
    disks: Vec<Disk>,
    /// A network card: user-mode networking (by the program passt), or a tap interface
    #[arg(long, value_name = "user|tap=IF|none", default_value = "none", value_parser = values::net)]
    net: Net,
    /// Where the serial port goes
    #[arg(long, value_name = "stdio|file=F|pty|none", default_value = "stdio", value_parser = values::serial)]
    serial: Serial,
    /// Write the device tree that the guest gets
    #[arg(long, value_name = "F")]
    dtb_out: Option<PathBuf>,
    /// Wait for GDB at a TCP port (:PORT for this host only) or a Unix socket before the guest starts
    #[arg(long, value_name = "HOST:PORT|PATH")]
    gdb: Option<GdbAddress>,
    /// What to tell on standard error: error, warn, info, debug, trace, or a filter like ulna_vmm=debug
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Auto,
    Raw,
}

#[derive(Clone, Copy, ValueEnum)]
enum GicArg {
    #[value(name = "2")]
    V2,
    #[value(name = "3")]
    V3,
}

#[derive(Clone, Copy, ValueEnum)]
enum ClockArg {
    Host,
    Insn,
}

/// What executes instructions.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum EngineArg {
    /// Translation.
    Jit,
    /// Interpretation.
    Interp,
    /// Both, compared.
    Check,
}

impl From<GicArg> for GicVersion {
    fn from(g: GicArg) -> GicVersion {
        match g {
            GicArg::V2 => GicVersion::V2,
            GicArg::V3 => GicVersion::V3,
        }
    }
}

impl From<EngineArg> for Engine {
    fn from(e: EngineArg) -> Engine {
        match e {
            EngineArg::Jit => Engine::Jit,
            EngineArg::Interp => Engine::Interp,
            EngineArg::Check => Engine::Check,
        }
    }
}

impl RunArgs {
    /// Runs the machine.
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
        let mut profile = find_profile(&self.host)?;
        profile.kernel = self.kernel_level(profile.kernel)?;
        let level = profile.kernel;
        let identities = self.identities()?;
        let targets = self.targets(&profile, &identities)?;
        let clock = self.clock;
        let policy = self.policy.into();
        let engine = self.engine.into();
        let profiles = self.profile_guest.as_deref().map(ProfileFile::create).transpose()?;
        let engine_options = EngineOptions {
            cache: usize::try_from(self.jit_cache).unwrap_or(usize::MAX),
            profile: profiles.is_some(),
            at_once: false,
            perf_map: if self.perf_map { Some(profile::perf_map()?) } else { None },
            difference: Some(Arc::new(complain)),
            report: profiles.as_ref().map(ProfileFile::sink),
        };
        let cpu = self.cpu.as_deref().map(|f| cpu_file::settings(f, &profile, self.policy)).transpose()?;
        let gic = cpu_file::gic(cpu.as_ref().and_then(|c| c.gic), self.gic.map(GicVersion::from))?;
        let cpu = cpu.map(cpu_file::for_vmm).unwrap_or_default();
        let config = Config { targets, identities, cpu, gic, ..self.config(level) };
        let (outside, random) = match clock {
            ClockArg::Host => host_outside(),
            ClockArg::Insn => repeatable_outside(),
        };
        let clock = match clock {
            ClockArg::Host => ClockKind::Host,
            ClockArg::Insn => ClockKind::Insn,
        };
        let wall_clock = Arc::new(wall_clock_ns);
        let kvm = Software::new(KvmConfig {
            profile,
            policy,
            clock,
            random,
            wall_clock,
            engine,
            engine_options,
            strict: false,
        });
        let status = ulna_vmm::run(&config, &kvm, &outside);
        if let Some(p) = profiles {
            p.write(config.max_cpus)?;
        }
        status
    }

    fn config(self, level: KernelLevel) -> Config {
        let kernel = match (self.kernel, self.kernel_format, &self.firmware) {
            (Some(path), Format::Auto, _) => Kernel::Auto(path),
            (Some(path), Format::Raw, _) => Kernel::Raw(path),
            (None, _, Some(_)) => Kernel::Firmware,
            (None, _, None) => Kernel::BuiltIn(ulna_guests::builtin()),
        };
        let place = match self.control {
            Some(values::Control::None) => None,
            Some(values::Control::Path(path)) => Some(Place::Path(path)),
            None => Some(Place::Named { wanted: self.name.is_some() }),
        };
        let word =
            |v: Option<clap::builder::PossibleValue>| v.map_or(String::new(), |v| v.get_name().to_owned());
        let control = place.map(|place| control::Options {
            place,
            profile: self.host.clone(),
            policy: word(self.policy.to_possible_value()),
            engine: word(self.engine.to_possible_value()),
            kernel: (level.major, level.minor),
        });
        Config {
            name: self.name.unwrap_or_else(|| format!("vm{}", std::process::id())),
            kernel,
            firmware: self.firmware,
            firmware_vars: self.firmware_vars,
            initrd: self.initrd,
            cmdline: self.cmdline,
            cpus: self.cpus,
            max_cpus: self.max_cpus.unwrap_or(self.cpus),
            memory: self.memory,
            gic: GicVersion::Best,
            clock: match self.clock {
                ClockArg::Host => Clock::Host,
                ClockArg::Insn => Clock::Instructions,
            },
            disks: self.disks,
            net: self.net,
            serial: self.serial,
            dtb_out: self.dtb_out,
            gdb: self.gdb,
            services: self.services.unwrap_or_default(),
            targets: Vec::new(),
            identities: Vec::new(),
            cpu: Default::default(),
            control,
        }
    }

    /// The kernel whose rules apply: as asked for, or the profile's; then as new as the rest needs it.
    fn kernel_level(&self, own: KernelLevel) -> Result<KernelLevel, Error> {
        let services = self.services.as_ref().map(Services::since).unwrap_or_default();
        let mut needs = vec![(services.0, format!("--services {}", services.1))];
        if !self.targets.is_empty() {
            needs.push((TARGETS_SINCE, "--targets".into()));
        }
        if !self.identity.is_empty() {
            needs.push((TARGETS_SINCE, "--identity".into()));
        }
        let mut level = self.abi.unwrap_or(own);
        for ((major, minor), what) in needs {
            let least = KernelLevel { major, minor };
            if level < least && self.abi.is_some() {
                return Err(Error::Usage(format!(
                    "{what}: KVM of Linux {}.{} (--abi) has no such thing; {major}.{minor} is the first that has",
                    level.major, level.minor
                )));
            }
            level = level.max(least);
        }
        Ok(level)
    }

    /// Who each vCPU is, where that was said.
    fn identities(&self) -> Result<Vec<Target>, Error> {
        let mut clusters = Vec::new();
        for c in &self.identity {
            let who = match values::number(&c.who) {
                Ok(midr) => Target { midr: u64::try_from(midr).unwrap_or(u64::MAX), revidr: 0, aidr: 0 },
                Err(_) => target(&find_named("--identity", &c.who)?),
            };
            if who.midr >> 32 != 0 {
                return Err(Error::Usage(format!("--identity {}: MIDR_EL1 has 32 bits", c.who)));
            }
            clusters.push(Cluster { who, count: c.count });
        }
        let cpus = self.max_cpus.unwrap_or(self.cpus);
        identity::each(&clusters, cpus).map_err(|e| Error::Usage(format!("--identity: {e}")))
    }

    /// What the guest may ask for: its own CPUs, then those that were named.
    fn targets(&self, own: &Profile, identities: &[Target]) -> Result<Vec<Target>, Error> {
        if self.targets.is_empty() {
            return Ok(Vec::new());
        }
        let mut targets = Vec::new();
        let mut add = |t| {
            if !targets.contains(&t) {
                targets.push(t);
            }
        };
        match identities {
            [] => add(target(own)),
            some => some.iter().copied().for_each(&mut add),
        }
        for name in &self.targets {
            add(target(&find_named("--targets", name)?));
        }
        Ok(targets)
    }
}

/// The CPU of a profile.
fn target(p: &Profile) -> Target {
    Target { midr: p.reg(SysReg::MIDR_EL1), revidr: p.reg(SysReg::REVIDR_EL1), aidr: p.reg(SysReg::AIDR_EL1) }
}

fn services_help() -> String {
    format!(
        "Hypercall services, as psci=1.1,trng=off. What is not named stays as KVM has it: all on, PSCI at its newest, no \
         place for stolen time.\n{}",
        ulna_vmm::services::help()
    )
}

pub(crate) fn start_log(filter: &str) -> Result<(), Error> {
    let filter = EnvFilter::try_new(filter).map_err(|e| Error::Usage(format!("--log {filter}: {e}")))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .log_internal_errors(false);
    subscriber.try_init().map_err(|e| Error::Internal(format!("log: {e}")))
}

pub(crate) type Random = Arc<dyn Fn() -> u64 + Send + Sync>;

pub fn wall_clock_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn host_outside() -> (Outside, Random) {
    let outside = Outside {
        wall_clock: Box::new(|| {
            Box::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
        }),
        entropy: Box::new(|| Box::new(HostEntropy)),
    };
    let random = || {
        let mut bytes = [0; 8];
        // A host without a random generator: the guest sees a number all the same, as from a broken source.
        let _ = HostEntropy.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    };
    (outside, Arc::new(random))
}

/// The date of a machine whose time is counted in instructions: 2026-01-01, standing still.
const REPEATABLE_DATE: Duration = Duration::from_secs(1_767_225_600);

pub(crate) fn repeatable_outside() -> (Outside, Random) {
    let outside = Outside {
        wall_clock: Box::new(|| Box::new(|| REPEATABLE_DATE)),
        entropy: Box::new(|| Box::new(Sequence(AtomicU64::new(1)))),
    };
    let sequence = Sequence(AtomicU64::new(2));
    (outside, Arc::new(move || sequence.next()))
}

/// SplitMix64 (Steele, Lea, Flood 2014): numbers that look random and are the same in every run.
struct Sequence(AtomicU64);

impl Sequence {
    fn next(&self) -> u64 {
        let mut z =
            self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

impl Entropy for Sequence {
    fn fill(&mut self, buf: &mut [u8]) -> std::io::Result<()> {
        for chunk in buf.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}
