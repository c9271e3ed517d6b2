//! Each acceptance scenario of the founding systems (`seed-systems.md` §1.3, 2.6, 3.10, 4.6, 5.4, 6.6) is a test of its name: a
//! function `s1_...`, or `i2_i3_...` for two at once. This says so, and which still wait for what.

use std::collections::BTreeSet;
use std::path::Path;

/// Letter and how many there are.
const SCENARIOS: [(char, u32); 6] = [('s', 9), ('v', 8), ('e', 12), ('w', 11), ('i', 7), ('h', 10)];

/// Which may be missing, and why. Who builds them takes them out.
const WAITING: [(&str, &str); 10] = [
    ("v8", "needs a move"),
    ("w4", "needs a move"),
    ("w5", "the model of the GIC"),
    ("w6", "needs EL2"),
    ("w7", "the record of the GIC's identity"),
    ("w9", "needs SVE"),
    ("w11", "needs a move"),
    ("i4", "needs a move"),
    ("h1", "the converter of streams"),
    ("h5", "needs a move"),
];

/// Scenarios in the names of a file's functions.
fn named(text: &str, found: &mut BTreeSet<String>) {
    for line in text.lines().filter_map(|l| l.split_once("fn ")).map(|l| l.1) {
        for part in line.split('_') {
            let scenario = part.len() > 1 && part[1..].bytes().all(|b| b.is_ascii_digit());
            if !scenario || !part.starts_with(|c| SCENARIOS.iter().any(|s| s.0 == c)) {
                break;
            }
            found.insert(part.to_owned());
        }
    }
}

fn walk(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            named(&std::fs::read_to_string(&path).expect("source"), found);
        }
    }
}

#[test]
fn every_scenario_is_a_test_of_its_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = BTreeSet::new();
    for dir in ["crates", "conformance/src", "xtask/src"] {
        walk(&root.join(dir), &mut found);
    }
    let all = SCENARIOS.iter().flat_map(|(c, n)| (1..=*n).map(move |n| format!("{c}{n}")));
    let waits = |s: &String| WAITING.iter().any(|w| w.0 == s);
    let missing: Vec<String> = all.filter(|s| !found.contains(s) && !waits(s)).collect();
    assert!(missing.is_empty(), "no test of the name of {missing:?}");
    assert!(WAITING.iter().all(|(s, why)| !why.is_empty() && s.len() > 1));
}

#[test]
fn names_are_read() {
    let mut found = BTreeSet::new();
    named("    fn i2_i3_a_guest(s9_x: u32) {\nfn s10_\nfn x_s1_y()\nfn h7() {", &mut found);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["i2", "i3", "s10"]);
}
