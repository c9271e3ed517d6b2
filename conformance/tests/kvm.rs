//! What real KVM answered, asked again. `cargo xtask conformance` prints all of it.

use std::path::Path;

use ulna_arm_cpu::Engine;
use ulna_conformance::kvm::{Recording, known, replay};
use ulna_profile::Profile;

#[test]
fn recorded_answers_agree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = std::fs::read_to_string(root.join("known-differences.toml")).expect("list");
    let known = known::parse(&list).expect("list");
    let recordings = Recording::all_in(&root.join("data/kvm")).expect("recordings");
    assert_eq!(recordings.len(), 6);
    let (mut agreed, mut wrong) = (0, Vec::new());
    for r in &recordings {
        let mut tallies =
            replay(r, Profile::builtin(&r.profile_name()).expect("profile"), Engine::Interp, &[]);
        known::take_out(&r.name, &known, &mut tallies);
        for t in tallies.values() {
            agreed += t.agreed;
            wrong.extend(t.differs.iter().map(|d| format!("{}: {d}", r.name)));
        }
    }
    assert!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(agreed > 100_000, "only {agreed} answers agree");
}
