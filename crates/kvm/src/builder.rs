//! Which KVM it is: host, policy, kernel, strictness.

use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ulna_kvm_core::{ClockKind, Engine, KvmConfig, Policy};
use ulna_profile::{KernelLevel, Profile};

use crate::Kvm;

/// The host that is played when nobody says another.
const DEFAULT_HOST: &str = "n1";

/// Chooses what a [`Kvm`] plays.
///
/// ```
/// use ulna_kvm::{Kvm, Policy};
/// let kvm = Kvm::builder().host("n1").policy(Policy::Soft).abi("6.12").strict(true).build()?;
/// assert_eq!(kvm.get_api_version(), 12);
/// # Ok::<(), ulna_kvm::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Builder {
    host: Host,
    policy: Result<Policy, ConfigError>,
    abi: Option<String>,
    strict: Result<bool, ConfigError>,
    clock: ClockKind,
    engine: Engine,
    random: Arc<dyn Fn() -> u64 + Send + Sync>,
    wall_clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

#[derive(Clone)]
enum Host {
    Named(String),
    Given(Box<Profile>),
}

/// What is wrong with a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Default for Builder {
    fn default() -> Builder {
        Builder::new()
    }
}

impl Builder {
    /// Neoverse N1, what its silicon can do, its kernel, and as lenient as that.
    pub fn new() -> Builder {
        Builder {
            host: Host::Named(DEFAULT_HOST.into()),
            policy: Ok(Policy::Hw),
            abi: None,
            strict: Ok(false),
            clock: ClockKind::Host,
            engine: Engine::default(),
            random: Arc::new(host_random),
            wall_clock: Arc::new(host_wall_clock),
        }
    }

    /// What the environment says:
    ///
    /// | variable | values | default |
    /// |---|---|---|
    /// | `ULNA_HOST` | name of a built-in profile, or path of a profile file (with a `/`, or ending in `.toml`) | `n1` |
    /// | `ULNA_POLICY` | `hw`: what a KVM on that host can do; `soft`: what a software CPU can beyond it | `hw` |
    /// | `ULNA_ABI` | kernel whose KVM answers, as `6.12` | the profile's |
    /// | `ULNA_STRICT` | `0`, `1`: see [`Builder::strict`] | `0` |
    pub fn from_env() -> Builder {
        Builder::from_vars(|name| std::env::var_os(name))
    }

    /// As [`Builder::from_env`], from any source of variables.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Builder {
        let text = |name: &str| var(name).map(|v| v.to_string_lossy().into_owned()).filter(|v| !v.is_empty());
        let mut b = Builder::new();
        if let Some(h) = text("ULNA_HOST") {
            b = b.host(h);
        }
        b.policy = match text("ULNA_POLICY").as_deref() {
            None | Some("hw") => Ok(Policy::Hw),
            Some("soft") => Ok(Policy::Soft),
            Some(other) => Err(ConfigError(format!("ULNA_POLICY: {other:?} is neither hw nor soft"))),
        };
        b.abi = text("ULNA_ABI");
        b.strict = match text("ULNA_STRICT").as_deref() {
            None | Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(other) => Err(ConfigError(format!("ULNA_STRICT: {other:?} is neither 0 nor 1"))),
        };
        b
    }

    /// The host: name of a built-in profile, or path of a profile file (with a `/`, or ending in `.toml`).
    pub fn host(mut self, host: impl Into<String>) -> Builder {
        self.host = Host::Named(host.into());
        self
    }

    /// The host as a profile.
    pub fn profile(mut self, profile: Profile) -> Builder {
        self.host = Host::Given(Box::new(profile));
        self
    }

    /// How far beyond the silicon it may go.
    pub fn policy(mut self, policy: Policy) -> Builder {
        self.policy = Ok(policy);
        self
    }

    /// The kernel whose KVM answers, as `6.12`; without this, the profile's.
    pub fn abi(mut self, kernel: impl Into<String>) -> Builder {
        self.abi = Some(kernel.into());
        self
    }

    /// Whether requests are refused (EINVAL) that carry something where the interface asks for zero, but that KVM happens
    /// to accept: it is how a VMM's author finds what a later kernel may refuse.
    pub fn strict(mut self, strict: bool) -> Builder {
        self.strict = Ok(strict);
        self
    }

    /// The system counter: the host's time, or instructions for runs that repeat.
    pub fn clock(mut self, clock: ClockKind) -> Builder {
        self.clock = clock;
        self
    }

    /// What executes the guest's instructions.
    pub fn engine(mut self, engine: Engine) -> Builder {
        self.engine = engine;
        self
    }

    /// Where the guest's random numbers come from, instead of the host's.
    pub fn random(mut self, f: impl Fn() -> u64 + Send + Sync + 'static) -> Builder {
        self.random = Arc::new(f);
        self
    }

    /// Nanoseconds since 1970 for the guest's PTP clock, instead of the host's.
    pub fn wall_clock(mut self, f: impl Fn() -> u64 + Send + Sync + 'static) -> Builder {
        self.wall_clock = Arc::new(f);
        self
    }

    /// The KVM.
    pub fn build(self) -> Result<Kvm, ConfigError> {
        let mut profile = match self.host {
            Host::Given(p) => *p,
            Host::Named(name) => find(&name)?,
        };
        if let Some(text) = &self.abi {
            profile.kernel = kernel_level(text)?;
        }
        let strict = self.strict?;
        let config = KvmConfig {
            profile,
            policy: self.policy?,
            clock: self.clock,
            random: self.random,
            wall_clock: self.wall_clock,
            engine: self.engine,
            engine_options: Default::default(),
            strict,
        };
        Ok(Kvm::with_config(config, strict))
    }
}

fn find(host: &str) -> Result<Profile, ConfigError> {
    let profile = if host.contains('/') || host.ends_with(".toml") {
        let text = std::fs::read_to_string(host)
            .map_err(|e| ConfigError(format!("Could not read the profile {host}: {e}")))?;
        Profile::parse(&text, host)
    } else {
        Profile::builtin(host)
    };
    profile.map_err(|e| ConfigError(e.to_string()))
}

fn kernel_level(text: &str) -> Result<KernelLevel, ConfigError> {
    let wrong = || ConfigError(format!("ABI level: {text:?} is not MAJOR.MINOR"));
    let (major, minor) = text.split_once('.').ok_or_else(wrong)?;
    Ok(KernelLevel { major: major.parse().map_err(|_| wrong())?, minor: minor.parse().map_err(|_| wrong())? })
}

fn host_random() -> u64 {
    let mut b = [0; 8];
    // A host without a random generator: the guest sees a number all the same, as from a broken source.
    let _ = rustix::rand::getrandom(&mut b[..], rustix::rand::GetRandomFlags::empty());
    u64::from_le_bytes(b)
}

fn host_wall_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(vars: &'static [(&str, &str)]) -> Builder {
        Builder::from_vars(move |name| vars.iter().find(|v| v.0 == name).map(|v| v.1.into()))
    }

    #[test]
    fn the_environment_chooses() {
        let b = from(&[
            ("ULNA_HOST", "thunderx2"),
            ("ULNA_POLICY", "soft"),
            ("ULNA_ABI", "6.1"),
            ("ULNA_STRICT", "1"),
        ]);
        assert!(matches!(&b.host, Host::Named(n) if n == "thunderx2"));
        assert_eq!((&b.policy, &b.strict, b.abi.as_deref()), (&Ok(Policy::Soft), &Ok(true), Some("6.1")));
        let b = from(&[("ULNA_HOST", ""), ("ULNA_STRICT", "")]);
        assert!(matches!(&b.host, Host::Named(n) if n == DEFAULT_HOST));
        assert!(b.build().is_ok());
    }

    #[test]
    fn a_wrong_choice_is_told_with_its_name() {
        let error = |b: Builder| b.build().err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error(from(&[("ULNA_HOST", "nowhere")])).contains("nowhere"));
        assert!(error(from(&[("ULNA_HOST", "./nothing.toml")])).contains("./nothing.toml"));
        assert_eq!(error(from(&[("ULNA_POLICY", "x")])), "ULNA_POLICY: \"x\" is neither hw nor soft");
        assert_eq!(error(from(&[("ULNA_ABI", "six")])), "ABI level: \"six\" is not MAJOR.MINOR");
        assert_eq!(error(from(&[("ULNA_STRICT", "yes")])), "ULNA_STRICT: \"yes\" is neither 0 nor 1");
        assert_eq!(error(Builder::new()), "");
    }
}
