//! Random programs: the translator against the interpreter. `cargo xtask fuzz-jit` runs more of them.

use ulna_conformance::fuzz;

#[test]
fn random_programs_end_alike_on_both_engines() {
    let report = fuzz::run(1, 4_000).unwrap_or_else(|e| panic!("{e}"));
    assert!(cfg!(not(target_arch = "x86_64")) || report.blocks > 5_000, "{report:?}");
    assert!(report.instructions > 300_000, "{report:?}");
}
