//! Replays cases at EL1 and EL0 whose answers came from `qemu-system-aarch64`; `cargo xtask diff-system --record` made them.

use std::io::Read;

use ulna_arm_cpu::Engine;
use ulna_conformance::el1::{ID_REGS, replay};
use ulna_conformance::el1_freedom::{Verdict, judge};
use ulna_conformance::el1_machine::Machine;

#[test]
fn recorded_system_cases_give_what_the_reference_gave() {
    replay_all(Engine::Interp);
}

#[test]
fn recorded_system_cases_give_what_the_reference_gave_when_translated() {
    replay_all(Engine::Jit);
}

#[test]
fn recorded_system_cases_give_what_the_reference_gave_when_both_engines_are_compared() {
    replay_all(Engine::Check);
}

fn replay_all(engine: Engine) {
    let packed = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/data/el1.gz")).expect("recording");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).expect("gzip");
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    let (ids, mut rest) = words.split_at(ID_REGS.len());
    let mut machine = Machine::new(ids).with_engine(engine);
    let (mut cases, mut same) = (0, 0);
    while !rest.is_empty() {
        let (case, want, len) = replay(rest).expect("a whole case");
        rest = &rest[len..];
        let got = machine.run(&case);
        match judge(&case, &got, &want) {
            Verdict::Same => same += 1,
            Verdict::Open(_) => {}
            Verdict::Differs(d) => panic!("case {cases} of class {}: {d}\n{case:x?}", case.class & 0xff),
        }
        cases += 1;
    }
    assert!(cases >= 4000, "only {cases} cases recorded");
    assert!(same * 10 >= cases * 9, "{same} of {cases} agree, the rest is open");
}
