//! Options that say which host, and what every verb that only asks and prints has in common.

use clap::{Args, ValueEnum};
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use ulna_kvm_backend::software::{ClockKind, KvmConfig, Policy, Software};
use ulna_kvm_backend::{Errno, Hypervisor, Vcpu};
use ulna_machine::{Machine, VcpuFeatures};
use ulna_plan::Host;
use ulna_profile::Profile;
use ulna_vmm::{Error, ExitStatus};

/// Which host's vCPU.
#[derive(Args)]
pub struct HostArgs {
    /// Host to ask: the name of a built-in profile, or the path of a profile file
    #[arg(long, value_name = "PROFILE", default_value = "max", long_help = host_help())]
    pub host: String,
    /// Limits: what KVM on that hardware can do (hw), or what software can do beyond (soft)
    #[arg(long, value_enum, default_value = "hw", value_name = "hw|soft", hide_possible_values = true)]
    pub policy: PolicyArg,
    /// Features of the vCPU, from psci, pmu, ptrauth, sve, el1_32bit, power_off, or none [default: all but the last two
    /// that the host has]
    #[arg(long, value_name = "LIST")]
    pub features: Option<String>,
}

/// `hw` or `soft`.
#[derive(Clone, Copy, ValueEnum)]
pub enum PolicyArg {
    /// What KVM on that hardware can do.
    Hw,
    /// What software can do beyond.
    Soft,
}

impl PolicyArg {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            PolicyArg::Hw => "hw",
            PolicyArg::Soft => "soft",
        }
    }
}

impl From<Policy> for PolicyArg {
    fn from(p: Policy) -> PolicyArg {
        match p {
            Policy::Hw => PolicyArg::Hw,
            Policy::Soft => PolicyArg::Soft,
        }
    }
}

impl From<PolicyArg> for Policy {
    fn from(p: PolicyArg) -> Policy {
        match p {
            PolicyArg::Hw => Policy::Hw,
            PolicyArg::Soft => Policy::Soft,
        }
    }
}

/// Help for `--host`, with the names there are.
pub fn host_help() -> String {
    let names: Vec<&str> = ulna_profile::names().collect();
    format!(
        "Host to play: the name of a built-in profile, or the path of a profile file. Built in are: {}",
        names.join(", ")
    )
}

/// A built-in profile by name, or a file: what has a slash or ends in .toml is a path.
pub fn find_profile(host: &str) -> Result<Profile, Error> {
    find_named("--host", host)
}

/// The same for what `option` names.
pub fn find_named(option: &str, host: &str) -> Result<Profile, Error> {
    let profile = if host.contains('/') || host.ends_with(".toml") {
        let path = Path::new(host);
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            action: "read the profile",
            path: path.into(),
            source,
        })?;
        Profile::parse(&text, host)
    } else {
        Profile::builtin(host)
    };
    profile.map_err(|e| Error::Usage(format!("{option}: {e}")))
}

/// The names of the features of KVM_ARM_VCPU_INIT.
const FEATURES: [(&str, VcpuFeatures); 6] = [
    ("psci", VcpuFeatures::PSCI_0_2),
    ("pmu", VcpuFeatures::PMU_V3),
    ("ptrauth", VcpuFeatures::PTRAUTH),
    ("sve", VcpuFeatures::SVE),
    ("el1_32bit", VcpuFeatures::EL1_32BIT),
    ("power_off", VcpuFeatures::POWER_OFF),
];

/// A profile, or a profile and the kernel that is there: `PROFILE[@MAJOR.MINOR]`.
pub fn find_place(option: &str, text: &str, policy: Policy, real: bool) -> Result<Host, Error> {
    let (name, kernel) = match text.rsplit_once('@') {
        Some((name, kernel)) => (name, Some(kernel)),
        None => (text, None),
    };
    let mut profile = find_named(option, name)?;
    if let Some(kernel) = kernel {
        let level = crate::values::kernel(kernel);
        profile.kernel = level.map_err(|e| Error::Usage(format!("{option} {text}: {e}")))?;
    }
    Ok(if real { Host::real(profile) } else { Host::soft(profile, policy) })
}

/// The features of a list, all of which the host has; without one those that it gives to every guest.
pub fn features_by_name(list: Option<&str>, host: &Host, called: &str) -> Result<VcpuFeatures, Error> {
    let Some(list) = list else { return Ok(host.usual_features()) };
    let offered = host.features();
    let mut f = VcpuFeatures::NONE;
    for word in list.split(',').filter(|w| !w.is_empty() && *w != "none") {
        let known = FEATURES.iter().find(|(name, _)| *name == word);
        let (_, bits) = known.ok_or_else(|| {
            let names: Vec<&str> = FEATURES.iter().map(|(n, _)| *n).collect();
            Error::Usage(format!("--features: {word:?} is none of {}", names.join(", ")))
        })?;
        if !offered.contains(*bits) {
            return Err(Error::Usage(format!("--features: {called} does not offer {word}")));
        }
        f = f | *bits;
    }
    Ok(f)
}

impl HostArgs {
    /// The host of this name with everything it has.
    pub fn of(host: &str) -> HostArgs {
        HostArgs { host: host.into(), policy: PolicyArg::Hw, features: None }
    }

    /// The features that were asked for, all of which the host has.
    fn vcpu_features(&self, profile: &Profile) -> Result<VcpuFeatures, Error> {
        let host = Host::soft(profile.clone(), self.policy.into());
        features_by_name(self.features.as_deref(), &host, &self.host)
    }

    /// The rules of such a vCPU's registers.
    pub fn machine(&self) -> Result<Machine, Error> {
        let profile = find_profile(&self.host)?;
        let features = self.vcpu_features(&profile)?;
        Ok(Machine::new(&profile, self.policy.into(), features))
    }

    /// The host's KVM. Its time stands still and its random numbers are zero: nothing runs.
    pub fn kvm(&self) -> Result<Software, Error> {
        let profile = find_profile(&self.host)?;
        Ok(Software::new(KvmConfig {
            profile,
            policy: self.policy.into(),
            clock: ClockKind::Insn,
            random: Arc::new(|| 0),
            wall_clock: Arc::new(|| 0),
            engine: Default::default(),
            engine_options: Default::default(),
            strict: false,
        }))
    }

    /// A vCPU that is initialised.
    pub fn vcpu(&self) -> Result<Box<dyn Vcpu>, Error> {
        let features = self.vcpu_features(&find_profile(&self.host)?)?;
        let vm = self.kvm()?.create_vm(0).map_err(internal)?;
        let mut vcpu = vm.create_vcpu(0).map_err(internal)?;
        let mut init = vm.preferred_target();
        init.features[0] = features.bits();
        vcpu.init(&init).map_err(internal)?;
        Ok(vcpu)
    }
}

/// What should not have been refused.
pub fn internal(e: Errno) -> Error {
    Error::Internal(format!("KVM refused a request: {e:?}"))
}

/// For machines to read, with a line end.
pub fn json(v: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(v).map_err(|e| Error::Internal(e.to_string()))?;
    Ok(text + "\n")
}

/// On standard output. A reader that went away is no failure; a full disk is.
pub fn print(text: &str) -> ExitStatus {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            crate::complain(&format!("Cannot write the output: {e}"));
            ExitStatus::ConsoleClosed
        }
        _ => ExitStatus::Done,
    }
}
