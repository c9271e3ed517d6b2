//! Replays of what real KVM answered: each recording's questions, asked of `kvm-core` with the profile of that host.
//!
//! A [`Section`] asks like the probe that made the recordings did and writes lines like its lines; [`compare`] holds both
//! sides to each other, answer by answer. What differs only because a feature is not built is told by the rules of
//! [`waiting`].

pub mod answers;
pub mod attr;
pub mod compare;
pub mod early;
pub mod expand;
pub mod gic;
pub mod guest;
pub mod host;
pub mod known;
pub mod lab;
pub mod regs;
pub mod vcpu;
pub mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use ulna_kvm_core::Engine;
use ulna_profile::Profile;

use answers::Answers;
use compare::{Line, Verdict, kind, number};
use lab::{Cfg, Lab};
use waiting::Unbuilt;

/// One file of recorded answers.
pub struct Recording {
    /// Name of the host CPU.
    pub name: String,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// A recording that cannot be read.
#[derive(Debug)]
pub struct BadRecording(String);

impl std::fmt::Display for BadRecording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadRecording {}

impl Recording {
    /// From the text of a `.jsonl` file.
    pub fn parse(name: &str, text: &str) -> Result<Recording, BadRecording> {
        let line = |(n, l): (usize, &str)| {
            serde_json::from_str(l).map_err(|e| BadRecording(format!("{name}:{}: {e}", n + 1)))
        };
        let lines = text.lines().enumerate().map(line).collect::<Result<Vec<Line>, _>>()?;
        let r = Recording { name: name.into(), lines };
        match r.lines.last().map(kind) {
            Some("end") => Ok(r),
            _ => Err(BadRecording(format!("{name} is not complete"))),
        }
    }

    /// All `NAME.jsonl` and `NAME.jsonl.gz` of a directory, by name.
    pub fn all_in(dir: &Path) -> Result<Vec<Recording>, BadRecording> {
        let bad = |p: &Path, e: std::io::Error| BadRecording(format!("{}: {e}", p.display()));
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(|e| bad(dir, e))? {
            let path = entry.map_err(|e| bad(dir, e))?.path();
            let file = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let mut text = String::new();
            let name = if let Some(name) = file.strip_suffix(".jsonl") {
                text = std::fs::read_to_string(&path).map_err(|e| bad(&path, e))?;
                name
            } else if let Some(name) = file.strip_suffix(".jsonl.gz") {
                let f = std::fs::File::open(&path).map_err(|e| bad(&path, e))?;
                flate2::read::GzDecoder::new(f).read_to_string(&mut text).map_err(|e| bad(&path, e))?;
                name
            } else {
                continue;
            };
            found.insert(name.to_string(), Recording::parse(name, &text)?);
        }
        Ok(found.into_values().collect())
    }

    /// The profile that plays its host.
    pub fn profile_name(&self) -> String {
        format!("qemu-{}", self.name)
    }

    fn meta(&self, field: &str) -> u64 {
        let meta = self.lines.iter().find(|l| kind(l) == "meta");
        meta.and_then(|m| number(m.get(field))).unwrap_or(0)
    }

    /// What KVM_CHECK_EXTENSION answered on a VM.
    pub fn capability(&self, n: u32) -> u64 {
        let line = self.lines.iter().find(|l| kind(l) == "cap" && number(l.get("n")) == Some(n.into()));
        line.and_then(|l| number(l.get("vm"))).unwrap_or(0)
    }
}

/// A recording's questions and the host to ask.
pub struct Session<'a> {
    /// What was recorded.
    pub recording: &'a Recording,
    /// The KVM under test.
    pub lab: Lab,
    /// vCPU features of the recorded host.
    pub features: u32,
    /// It can give guests a GICv3.
    pub gic: bool,
    /// Configurations, with as many of their features as are built where the recording says "all".
    pub cfgs: Vec<Cfg>,
    /// What this build lacks.
    pub unbuilt: Unbuilt,
}

impl<'a> Session<'a> {
    /// A KVM on this host for the questions of `recording`.
    pub fn new(recording: &'a Recording, profile: Profile, engine: Engine) -> Session<'a> {
        let lab = Lab::new(profile, engine);
        let features = recording.meta("features") as u32;
        let gic = recording.meta("vgic3") != 0;
        let mte = recording.capability(lab::CAP_ARM_MTE) != 0;
        let built = lab.supported();
        let recorded = lab::configurations(features, gic, mte);
        let reduced = |c: &Cfg| match c.name {
            "allgic" => Cfg { features: c.features & built, ..*c },
            _ => *c,
        };
        let unbuilt = Unbuilt {
            features: features & !built,
            mte: mte && lab.capability(lab::CAP_ARM_MTE) == 0,
            engine: ulna_machine::engine_features(),
            cfgs: recorded.clone(),
        };
        Session { recording, lab, features, gic, cfgs: recorded.iter().map(reduced).collect(), unbuilt }
    }

    /// The configuration of this name.
    pub fn cfg(&self, name: &str) -> Option<&Cfg> {
        self.cfgs.iter().find(|c| c.name == name)
    }
}

/// A part of the probe: it asks and gives the lines it would have recorded.
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// The kinds of line it writes.
    pub kinds: &'static [&'static str],
    /// Asks.
    pub replay: fn(&Session<'_>) -> Answers,
}

/// All of them. A kind of line that several sections write is compared once, after all have run.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "system",
        kinds: &["call", "caprange", "cap", "createvm", "createvcpu"],
        replay: |s| host::system(&s.lab),
    },
    Section { name: "init", kinds: &["init"], replay: |s| host::init(&s.lab) },
    Section {
        name: "masks",
        kinds: &["masks"],
        replay: |s| s.cfg("psci").map_or_else(Answers::default, |c| host::masks(&s.lab, c)),
    },
    Section {
        name: "registers",
        kinds: &["cfg", "reglist", "reg"],
        replay: |s| regs::registers(&s.lab, &s.cfgs, s.features & lab::SVE != 0),
    },
    Section {
        name: "cross",
        kinds: &["xreg"],
        replay: |s| {
            s.cfg("allgic").or(s.cfg("psci")).map_or_else(Answers::default, |c| regs::cross(&s.lab, c))
        },
    },
    Section {
        name: "unlisted",
        kinds: &["space", "coproc", "idbits"],
        replay: |s| regs::unlisted(&s.lab, &s.cfgs),
    },
    Section { name: "early", kinds: &["early"], replay: |s| early::early(&s.lab, s.features) },
    Section { name: "reinit", kinds: &["reinit"], replay: |s| early::reinit(&s.lab, s.features) },
    Section { name: "firstrun", kinds: &["firstrun"], replay: |s| early::first_run(&s.lab, &s.cfgs) },
    Section {
        name: "attr",
        kinds: &["hasattr", "act"],
        replay: |s| attr::replay(&s.lab, &s.cfgs, s.features & lab::PMU != 0, s.gic),
    },
    Section {
        name: "vcpu",
        kinds: &["act", "enable", "enablerange", "null"],
        replay: |s| vcpu::replay(&s.lab, &null_requests(s.recording)),
    },
    Section {
        name: "vgic",
        kinds: &["device", "irqline", "vgicreg", "vgicsys", "hasattr", "act"],
        replay: |s| gic::replay(&s.lab, s.gic),
    },
    Section { name: "hvc", kinds: &["hvc", "hvcrange"], replay: |s| guest::hypercalls(&s.lab) },
    Section {
        name: "mrs",
        kinds: &["mrs", "mrsrange"],
        replay: |s| s.cfg("allgic").map_or_else(Answers::default, |c| guest::mrs(&s.lab, c)),
    },
];

fn null_requests(r: &Recording) -> Vec<(String, u32)> {
    let lines = r.lines.iter().filter(|l| kind(l) == "null");
    lines
        .filter_map(|l| Some((l.get("op")?.as_str()?.into(), u32::try_from(number(l.get("req"))?).ok()?)))
        .collect()
}

/// What came of one kind of line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers that agree.
    pub agreed: usize,
    /// Answers that wait for a feature, by its name.
    pub waiting: BTreeMap<String, usize>,
    /// The others.
    pub differs: Vec<String>,
}

impl Tally {
    /// Answers in all.
    pub fn total(&self) -> usize {
        self.agreed + self.waits() + self.differs.len()
    }

    /// Answers that wait.
    pub fn waits(&self) -> usize {
        self.waiting.values().sum()
    }
}

/// Asks a recording's questions and compares; `kinds` restricts to these kinds of line.
pub fn replay(
    recording: &Recording,
    profile: Profile,
    engine: Engine,
    kinds: &[String],
) -> BTreeMap<String, Tally> {
    let wanted = |k: &str| kinds.is_empty() || kinds.iter().any(|w| w == k);
    let session = Session::new(recording, profile, engine);
    let mut ours: Vec<Line> = Vec::new();
    let mut asked: BTreeSet<&str> = BTreeSet::new();
    for s in SECTIONS.iter().filter(|s| s.kinds.iter().any(|k| wanted(k))) {
        asked.extend(s.kinds.iter().filter(|k| wanted(k)));
        let lines = (s.replay)(&session).lines;
        ours.extend(lines.into_iter().filter_map(|v| match v {
            Value::Object(l) => Some(l),
            _ => None,
        }));
    }
    let only = |l: &&Line| asked.contains(kind(l));
    let theirs: Vec<Line> = recording.lines.iter().filter(only).cloned().collect();
    let ours: Vec<Line> = ours.iter().filter(only).cloned().collect();
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for (k, verdicts) in compare::compare(&theirs, &ours, |l, f, a, b| session.unbuilt.reason(l, f, a, b)) {
        let t = tallies.entry(k).or_default();
        for v in verdicts {
            match v {
                Verdict::Agreed => t.agreed += 1,
                Verdict::Waiting(f) => *t.waiting.entry(f).or_default() += 1,
                Verdict::Differs(d) => t.differs.push(d),
            }
        }
    }
    tallies
}
