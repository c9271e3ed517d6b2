//! Differences that stay, with their reasons (`conformance/known-differences.toml`): each must still be one.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Tally;

/// One answer that differs for good.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The recording; all of them without.
    pub recording: Option<String>,
    /// The difference as it is printed.
    pub difference: String,
    /// Why.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    known: Vec<Known>,
}

/// Most single answers that may be listed.
pub const MOST: usize = 20;

/// The list in this text.
pub fn parse(text: &str) -> Result<Vec<Known>, String> {
    let f: File = toml::from_str(text).map_err(|e| e.to_string())?;
    if f.known.len() > MOST {
        return Err(format!("{} known differences, {MOST} are allowed", f.known.len()));
    }
    Ok(f.known)
}

/// Takes the known differences of `recording` out of the tallies; those that no longer differ are returned.
pub fn take_out(
    recording: &str,
    known: &[Known],
    tallies: &mut BTreeMap<String, Tally>,
) -> (usize, Vec<Known>) {
    let (mut taken, mut stale) = (0, Vec::new());
    for k in known.iter().filter(|k| k.recording.as_deref().is_none_or(|r| r == recording)) {
        let before = taken;
        for t in tallies.values_mut() {
            let all = t.differs.len();
            t.differs.retain(|d| *d != k.difference);
            taken += all - t.differs.len();
        }
        if taken == before {
            stale.push(k.clone());
        }
    }
    (taken, stale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_difference_is_taken_out_once_and_told_when_it_is_gone() {
        let known = parse("[[known]]\ndifference = \"a\"\nreason = \"r\"\n[[known]]\nrecording = \"x\"\ndifference = \"b\"\nreason = \"r\"\n")
            .expect("list");
        let tally = Tally { differs: vec!["a".into(), "c".into()], ..Tally::default() };
        let mut tallies = BTreeMap::from([("k".to_string(), tally)]);
        let (taken, stale) = take_out("y", &known, &mut tallies);
        assert_eq!((taken, stale.len()), (1, 0));
        assert_eq!(tallies["k"].differs, ["c"]);
        let (taken, stale) = take_out("x", &known, &mut tallies);
        assert_eq!((taken, stale.len()), (0, 2));
        assert!(parse(&"[[known]]\ndifference = \"a\"\nreason = \"r\"\n".repeat(21)).is_err());
    }
}
