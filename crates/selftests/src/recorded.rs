//! The record: `recorded.toml`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a test ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Status 0.
    Pass,
    /// Status 4: the host lacks what it needs.
    Skip,
    /// An assertion failed, or it died.
    Fail,
    /// It was stopped at the time limit.
    Stopped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Pass => "pass",
            Outcome::Skip => "skip",
            Outcome::Fail => "FAIL",
            Outcome::Stopped => "stopped",
        })
    }
}

/// An outcome on the real KVM: `pass 0.5`.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct Real {
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
}

impl FromStr for Real {
    type Err = String;
    fn from_str(s: &str) -> Result<Real, String> {
        let bad = || format!("{s:?} is not an outcome and seconds");
        let (outcome, seconds) = s.split_once(' ').ok_or_else(bad)?;
        let outcome = match outcome {
            "pass" => Outcome::Pass,
            "skip" => Outcome::Skip,
            "fail" => Outcome::Fail,
            "stopped" => Outcome::Stopped,
            _ => return Err(bad()),
        };
        Ok(Real { outcome, seconds: seconds.parse().map_err(|_| bad())? })
    }
}

impl TryFrom<String> for Real {
    type Error = String;
    fn try_from(s: String) -> Result<Real, String> {
        s.parse()
    }
}

/// A failure that the real KVM has too.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knows {
    /// File and line of the assertion.
    pub place: String,
    /// What disagrees.
    pub why: String,
}

/// One start of a test.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The program, from the directory.
    pub test: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// It takes seconds.
    #[serde(default)]
    pub quick: bool,
    /// Nothing else may run beside it.
    #[serde(default)]
    pub serial: bool,
    /// Outcomes by host.
    #[serde(default)]
    pub real: BTreeMap<String, Real>,
    /// The only place where it may fail.
    pub fails_at: Option<Knows>,
    /// What is not built, so that a skip is no surprise.
    pub may_skip: Option<String>,
    /// What of a host it needs, and is skipped without (GICv3, PMU).
    #[serde(default)]
    pub needs: Vec<String>,
    /// Why it is not started.
    pub left_out: Option<String>,
}

impl Run {
    /// A test that the record does not have.
    pub fn unknown(test: String) -> Run {
        Run {
            test,
            args: Vec::new(),
            quick: true,
            serial: false,
            real: BTreeMap::new(),
            fails_at: None,
            may_skip: None,
            needs: Vec::new(),
            left_out: None,
        }
    }

    /// The outcome on the first of these hosts that has one, or on any.
    pub fn real(&self, hosts: &[&str]) -> Option<(&str, Real)> {
        let on = |h: &&str| self.real.get_key_value(*h);
        hosts.iter().find_map(on).or_else(|| self.real.iter().next()).map(|(h, r)| (h.as_str(), *r))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kernel: String,
    run: Vec<Run>,
}

/// All starts of the record, and the kernel that was recorded.
///
/// # Errors
/// When the file in the program is not as it should be.
pub fn recorded() -> Result<(String, Vec<Run>), String> {
    let file: File = toml::from_str(include_str!("../recorded.toml")).map_err(|e| e.to_string())?;
    Ok((file.kernel, file.run))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_has_all_thirty() {
        let (kernel, runs) = recorded().unwrap();
        let mut names: Vec<&str> = runs.iter().map(|r| r.test.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!((kernel.as_str(), names.len()), ("6.12.117", 30));
        // Every one ran somewhere; what failed there says where.
        for r in &runs {
            assert!(!r.real.is_empty(), "{}", r.test);
            let fails = r.real.values().any(|o| o.outcome == Outcome::Fail);
            assert_eq!(fails, r.fails_at.is_some(), "{}", r.test);
        }
        assert!(runs.iter().filter(|r| r.left_out.is_some()).count() <= 2);
    }

    #[test]
    fn outcomes_are_read() {
        assert_eq!("pass 0.5".parse(), Ok(Real { outcome: Outcome::Pass, seconds: 0.5 }));
        assert!("pass".parse::<Real>().is_err() && "perhaps 1".parse::<Real>().is_err());
        let mut r = Run::unknown("x".into());
        assert_eq!(r.real(&["max"]), None);
        for (host, s) in [("a57", 2.0), ("max", 1.0)] {
            r.real.insert(host.into(), Real { outcome: Outcome::Pass, seconds: s });
        }
        assert_eq!(r.real(&["max", "a57"]).unwrap().0, "max");
        assert_eq!(r.real(&["a64fx"]).unwrap().0, "a57");
    }
}
