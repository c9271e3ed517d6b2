//! What a plan says.

use serde::Serialize;
use std::fmt;
use ulna_kvm_abi::RegId;

/// What kind of thing stands in the way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Features of KVM_ARM_VCPU_INIT.
    Vcpu,
    /// Feature ID fields.
    Features,
    /// MIDR, REVIDR, AIDR and the workarounds of errata.
    Identity,
    /// The frequency of the counter.
    Counter,
    /// CTR, CLIDR, CCSIDR, DCZID.
    Cache,
    /// The interrupt controller.
    Gic,
    /// The performance monitors.
    Pmu,
    /// Vector lengths.
    Sve,
    /// Hypercall services.
    Services,
    /// Registers that kernels list or do not.
    Lists,
    /// Guest-physical addresses.
    Memory,
}

impl Class {
    /// All of them, in the order of a report.
    pub const ALL: [Class; 11] = [
        Class::Vcpu,
        Class::Counter,
        Class::Gic,
        Class::Identity,
        Class::Features,
        Class::Cache,
        Class::Pmu,
        Class::Sve,
        Class::Services,
        Class::Lists,
        Class::Memory,
    ];

    /// For people.
    pub const fn title(self) -> &'static str {
        match self {
            Class::Vcpu => "vCPU features",
            Class::Features => "Feature ID fields",
            Class::Identity => "Identity and errata",
            Class::Counter => "Counter frequency",
            Class::Cache => "Caches and coherency",
            Class::Gic => "Interrupt controller",
            Class::Pmu => "Performance monitors",
            Class::Sve => "Vector lengths",
            Class::Services => "Firmware services",
            Class::Lists => "Register lists of kernels",
            Class::Memory => "Memory",
        }
    }
}

/// How a restore notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The write of the register or attribute fails.
    Refused,
    /// There is no such register, device or feature.
    Absent,
    /// The write is taken, and another value is read afterwards.
    Changed,
    /// No register of KVM's list says it: the guest would read another value, and nobody would be told.
    Unseen,
}

impl Answer {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Answer::Refused => "the write is refused",
            Answer::Absent => "the destination has no such thing",
            Answer::Changed => "the write is taken and changes nothing",
            Answer::Unseen => "no register tells; the guest would see it change",
        }
    }
}

/// What would avoid a blocker.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Avoid {
    /// Start the guest with this value in a file of `--cpu`.
    Mask {
        /// Register, or register and field.
        what: String,
        /// The value.
        value: u64,
        /// The id.
        #[serde(skip)]
        id: RegId,
        /// Bits of the register.
        #[serde(skip)]
        mask: u64,
        /// Their value in place.
        #[serde(skip)]
        bits: u64,
    },
    /// Start the guest with other hypercall services.
    Service {
        /// As `--services` takes it.
        word: String,
        /// The register.
        #[serde(skip)]
        id: RegId,
        /// Its value.
        #[serde(skip)]
        value: u64,
    },
    /// Start the guest without a vCPU feature.
    WithoutFeature {
        /// Its name.
        name: &'static str,
        /// Its bits.
        #[serde(skip)]
        bits: u32,
    },
    /// Start the guest with a GICv2.
    Gic2,
    /// Play the destination with the policy `soft`.
    SoftDestination,
    /// Play both with the policy `soft`, and start from the baseline.
    SoftBoth,
    /// The destination's KVM has to be another kernel's (`--abi`).
    Kernel,
}

impl fmt::Display for Avoid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Avoid::Mask { what, value, .. } => write!(f, "start with {what} = {value:#x} (--cpu)"),
            Avoid::Service { word, .. } => write!(f, "start with --services {word}"),
            Avoid::WithoutFeature { name, .. } => write!(f, "start without {name} (--cpu)"),
            Avoid::Gic2 => f.write_str("start with --gic 2"),
            Avoid::SoftDestination => f.write_str("--policy soft at the destination"),
            Avoid::SoftBoth => f.write_str("--policy soft on both sides, and start from their baseline"),
            Avoid::Kernel => f.write_str("--abi of the source's kernel at the destination"),
        }
    }
}

/// Something that keeps a guest from moving.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Blocker {
    /// What kind of thing it is.
    pub class: Class,
    /// The register, attribute or feature.
    pub what: String,
    /// The field, where one is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'static str>,
    /// The register's id.
    #[serde(serialize_with = "hex_id", skip_serializing_if = "Option::is_none")]
    pub id: Option<RegId>,
    /// What the guest has: the field, or all of it.
    #[serde(serialize_with = "hex")]
    pub wanted: u128,
    /// What the destination offers at most.
    #[serde(serialize_with = "hex_opt", skip_serializing_if = "Option::is_none")]
    pub limit: Option<u128>,
    /// The rule.
    pub rule: &'static str,
    /// How a restore notices.
    pub answer: Answer,
    /// What would avoid it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avoid: Option<Avoid>,
    /// Whether it rests on a value that nobody measured; whose, and what is known.
    pub inferred: Vec<String>,
}

fn hex<S: serde::Serializer>(v: &u128, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&format!("{v:#x}"))
}

fn hex_opt<S: serde::Serializer>(v: &Option<u128>, s: S) -> Result<S::Ok, S::Error> {
    match v {
        Some(v) => hex(v, s),
        None => s.serialize_none(),
    }
}

fn hex_id<S: serde::Serializer>(v: &Option<RegId>, s: S) -> Result<S::Ok, S::Error> {
    match v {
        Some(v) => s.serialize_str(&format!("{:#018x}", v.0)),
        None => s.serialize_none(),
    }
}

impl Blocker {
    /// Register and field.
    pub fn name(&self) -> String {
        match self.field {
            Some(f) => format!("{}.{f}", self.what),
            None => self.what.clone(),
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {:#x}", self.name(), self.wanted)?;
        match self.limit {
            Some(l) => write!(f, ", limit {l:#x} ({})", self.rule),
            None => write!(f, ": {}", self.answer.text()),
        }
    }
}

/// Something that does not block and is worth knowing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Note {
    /// What kind of thing it is.
    pub class: Class,
    /// In a sentence.
    pub text: String,
}

/// The answer in a word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It moves.
    Go,
    /// Nothing blocks it, as far as is known.
    GoInferred,
    /// It does not move.
    Blocked,
}

impl Verdict {
    /// For people.
    pub const fn word(self) -> &'static str {
        match self {
            Verdict::Go => "go",
            Verdict::GoInferred => "go, inferred",
            Verdict::Blocked => "blocked",
        }
    }
}

/// What blocks a move.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Plan {
    /// Where the guest is.
    pub from: String,
    /// Where it is to go.
    pub to: String,
    /// The answer.
    pub verdict: Verdict,
    /// All that stands in the way.
    pub blockers: Vec<Blocker>,
    /// What else is worth knowing.
    pub notes: Vec<Note>,
    /// Values that nobody has measured and on which the verdict rests.
    pub inferred: Vec<String>,
}
