//! Replays cases whose answers came from `qemu-aarch64` (`cargo xtask diff-cpu --record`), without QEMU.

use std::io::Read;

use ulna_arm_cpu::Engine;
use ulna_conformance::el0::{BRK, Case, RECORDED_LEN, Recorded};
use ulna_conformance::machine::{Machine, reference_features};

#[test]
fn recorded_cases_end_as_under_qemu() {
    replay(include_bytes!("../data/el0.gz"), 10_000, Engine::Interp);
}

#[test]
fn recorded_cases_end_as_under_qemu_when_translated() {
    replay(include_bytes!("../data/el0.gz"), 10_000, Engine::Jit);
}

#[test]
fn recorded_cases_end_as_under_qemu_when_both_engines_are_compared() {
    replay(include_bytes!("../data/el0.gz"), 10_000, Engine::Check);
}

#[test]
fn recorded_floating_point_ends_as_under_qemu() {
    replay(include_bytes!("../data/el0_fp.gz"), 6_000, Engine::Interp);
}

#[test]
fn recorded_floating_point_ends_as_under_qemu_when_translated() {
    replay(include_bytes!("../data/el0_fp.gz"), 6_000, Engine::Jit);
}

fn replay(packed: &[u8], at_least: usize, engine: Engine) {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).expect("a gzip file");
    let cases: Vec<Recorded> = bytes.chunks_exact(RECORDED_LEN).filter_map(Recorded::get).collect();
    assert!(cases.len() >= at_least, "only {} cases", cases.len());
    let mut machine = Machine::new(reference_features()).with_engine(engine);
    let mut wrong = Vec::new();
    for batch in cases.chunks(8192) {
        let words: Vec<u32> = batch.iter().flat_map(|c| c.insns.into_iter().chain([BRK; 4])).collect();
        machine.load_code(&words);
        for (n, r) in batch.iter().enumerate() {
            let case = Case::from_seed(r.seed, r.insns);
            let mut outcome = machine.run(n as u64, &case);
            outcome.normalise(&case);
            if outcome.digest() != r.digest {
                wrong.push(format!("{:08x?} seed {:#x}: {outcome:x?}", r.insns, r.seed));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ, the first:\n{}", wrong.len(), cases.len(), wrong[0]);
}
