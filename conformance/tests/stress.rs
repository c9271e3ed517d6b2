//! Changed code, remapped pages, atomics and kicks on four PEs; `cargo xtask stress` runs it for longer.

use std::time::Duration;

use ulna_arm_cpu::Engine;
use ulna_conformance::kicks::{Situation, latency};
use ulna_conformance::stress::run;

fn four_pes(engine: Engine, least: u64) {
    let o = run(engine, 4, Duration::from_millis(1500)).expect("no PE sees what is old");
    assert!(o.kicks > 100, "{o:?}");
    assert!(o.rounds.iter().all(|r| *r > least), "{o:?}");
}

#[test]
fn nobody_sees_old_code_or_old_pages_when_interpreted() {
    four_pes(Engine::Interp, 20);
}

#[test]
fn nobody_sees_old_code_or_old_pages_when_translated() {
    four_pes(Engine::Jit, 20);
}

#[test]
fn kicks_end_a_run_soon() {
    for engine in [Engine::Interp, Engine::Jit] {
        for s in Situation::ALL {
            let times = latency(engine, s, 150).expect("a guest");
            // `cargo xtask kicks` tells the 99th percentile. A machine that is busy with other tests promises nothing of a
            // single kick, but the quickest of many would be slow, too, if a PE looked for kicks by a timer.
            assert_eq!(times.len(), 150, "each ended the run");
            assert!(times[0] < Duration::from_millis(2), "{engine:?}, {s:?}: {:?}", times[0]);
        }
    }
}
