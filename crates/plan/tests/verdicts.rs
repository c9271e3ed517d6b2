//! The table of verdicts, which people review: `ULNA_BLESS=1 cargo test -p ulna-plan --test verdicts` writes it anew.

use std::path::Path;

use ulna_machine::Policy;
use ulna_plan::{Host, Verdict, matrix};
use ulna_profile::Profile;

#[test]
fn verdicts_are_those_of_the_golden_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/verdicts.txt");
    let mut text = String::from(
        "# What `ulna plan` says of every ordered pair of profiles, with a guest as `ulna run` starts it, and of one that\n\
         # was started from the baseline of both. Written by the test crates/plan/tests/verdicts.rs (ULNA_BLESS=1).\n",
    );
    for policy in [Policy::Hw, Policy::Soft] {
        let hosts: Vec<Host> =
            ulna_profile::names().map(|n| Host::soft(Profile::builtin(n).expect(n), policy)).collect();
        let cells = matrix::cells(&hosts, true);
        // A host's own guests always go on there.
        let own = cells.iter().filter(|c| c.from == c.to);
        assert!(own.clone().all(|c| c.plan.verdict == Verdict::Go) && own.count() == hosts.len());
        text.push_str(&matrix::lines(&cells));
    }
    if std::env::var_os("ULNA_BLESS").is_some() {
        std::fs::write(&path, &text).expect("write");
    }
    let golden = std::fs::read_to_string(&path).expect("golden/verdicts.txt");
    let differ: Vec<String> = text
        .lines()
        .zip(golden.lines())
        .filter(|(a, b)| a != b)
        .map(|(a, b)| format!("now:    {a}\ngolden: {b}"))
        .take(5)
        .collect();
    assert!(differ.is_empty(), "verdicts changed; if that is right: ULNA_BLESS=1\n{}", differ.join("\n"));
    assert_eq!(text.lines().count(), golden.lines().count());
}
