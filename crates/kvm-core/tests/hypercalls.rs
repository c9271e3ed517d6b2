//! Every hypercall that was recorded on KVM, asked again.

mod common;

use std::time::Duration;

use common::*;
use ulna_kvm_abi::RegId;
use ulna_kvm_core::{ClockKind, Run, Vcpu};

const RECORDED: &str = include_str!("data/hvc-neoverse-n1.txt");

fn number(s: &str) -> u64 {
    u64::from_str_radix(s.trim_start_matches("0x"), 16).expect("number")
}

const NOT_SUPPORTED: u64 = u64::MAX;

/// What one call does: (errno or exit as recorded, x0-x3, MP state).
fn ask(cfg: &str, insn: &str, x: [u64; 4]) -> (String, [u64; 4], u32) {
    let g = Guest::new("n1", ClockKind::Host);
    g.memory.program(0, &[&[if insn == "hvc" { HVC } else { SMC }][..], &done(0)].concat());
    let mut v = g.vcpu(0, if cfg == "psci" { PSCI } else { 0 });
    for (n, x) in (0..).zip(x) {
        set(&mut v, RegId::x(n), x);
    }
    // Calls that block are ended by a signal, as those of the probe were.
    let blocks = matches!(x[0] as u32, 0x8400_0001 | 0xc400_0001 | 0x8400_0002 | 0x95c1_ba5f);
    let kick = v.kicker();
    let _alarm = blocks.then(|| Watchdog::new(Duration::from_millis(20), kick));
    let what = match v.run().expect("run") {
        Run::Intr => "-4 -".into(),
        Run::MmioWrite(DONE, _) => "0 6".into(),
        Run::SystemEvent(kind, data) => format!("0 24 {kind} {:#x}", data[0]),
        other => panic!("{other:?}"),
    };
    let x = [0, 1, 2, 3].map(|n| get(&mut v, RegId::x(n)));
    (what, x, v.mp_state())
}

#[test]
fn calls_answer_as_recorded() {
    let (mut compared, mut wrong) = (0, Vec::new());
    for line in RECORDED.lines().filter(|l| !l.starts_with('#')) {
        let w: Vec<&str> = line.split_whitespace().collect();
        let (cfg, insn) = (w[0], w[1]);
        let call = [2, 3, 4, 5].map(|n| number(w[n]));
        let (before, after) = line.split_once(" | ").expect("line");
        let expected = before.split_once(" = ").expect("line").1;
        let (xs, rest) = after.split_once(" | ").expect("line");
        let xs: Vec<u64> = xs.split_whitespace().map(number).collect();
        let state: u32 = rest.split_whitespace().next().and_then(|s| s.parse().ok()).expect("line");
        let (what, x, mp) = ask(cfg, insn, call);
        compared += 1;
        // What moves (random numbers, time) has at least its status right.
        let random = matches!(call[0], 0x8400_0053 | 0xc400_0053);
        let same = match line.ends_with("moving") {
            true => !random || x[0] == xs[0],
            false => x[..] == xs[..],
        };
        if what != expected || !same || mp != state {
            wrong.push(format!("{line}\n  here: {what} | {x:x?} | {mp}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared >= 120, "{compared}");
}

/// All owners of calls, in both widths, fast and yielding: what was not recorded is not there. The recordings themselves are
/// asked again by the conformance run.
#[test]
fn functions_that_nobody_offers_are_not_supported() {
    let owners =
        (0u32..0x40).flat_map(|owner| [0, 0x4000_0000, 0x8000_0000, 0xc000_0000].map(|w| w | owner << 24));
    let numbers: Vec<u32> =
        (0..0x24).chain(0x40..0x54).chain([0x3fff, 0x7fff, 0x8000, 0xff00, 0xff01, 0xff03, 0xffff]).collect();
    let known: Vec<u64> = RECORDED
        .lines()
        .filter(|l| l.starts_with("psci hvc"))
        .map(|l| number(l.split_whitespace().nth(2).expect("function")))
        .collect();
    let functions = owners.flat_map(|owner| numbers.iter().map(move |n| u64::from(owner + n)));
    let calls: Vec<[u64; 6]> =
        functions.filter(|f| !known.contains(f)).map(|f| [f, 0x1111, 0x2222, 0x3333, 4, 5]).collect();
    assert!(calls.len() > 15_000, "{}", calls.len());
    let g = Guest::new("n1", ClockKind::Host);
    let mut v = g.vcpu(0, PSCI);
    for (call, a) in calls.iter().zip(answers(&g, &mut v, false, &calls)) {
        assert_eq!(a.x, [NOT_SUPPORTED, 0, 0, 0], "{:#x}", call[0]);
    }
}

/// Stolen time: the VMM places the structure, the guest finds it by a call, and the host's numbers get there.
#[test]
fn stolen_time_is_found_by_a_call() {
    use ulna_kvm_abi::device::{GRP_PVTIME_CTRL, PVTIME_IPA};
    const FEATURES: u64 = 0xc500_0020;
    const TIME: u64 = 0xc500_0021;
    let at = RAM + 0x2000;
    let g = Guest::new("n1", ClockKind::Host);
    let once = [vec![HVC], done(0)].concat();
    let back = -(once.len() as i32);
    g.memory.program(0, &[once, vec![b(back)]].concat());
    g.memory.write64(0x2000, u64::MAX);
    g.memory.write64(0x2008, u64::MAX);
    let mut v = g.vcpu(0, PSCI);
    let ask = |v: &mut Vcpu, x0: u64, x1: u64| {
        set(v, RegId::x(0), x0);
        set(v, RegId::x(1), x1);
        result(v)
    };
    assert_eq!(ask(&mut v, FEATURES, TIME), NOT_SUPPORTED, "no structure");
    assert_eq!(ask(&mut v, TIME, 0), NOT_SUPPORTED);
    v.set_attr(GRP_PVTIME_CTRL, PVTIME_IPA, at).expect("place");
    assert_eq!(ask(&mut v, FEATURES, FEATURES), 0);
    assert_eq!(ask(&mut v, FEATURES, TIME), 0);
    assert_eq!(ask(&mut v, FEATURES, 0x8000_0000), NOT_SUPPORTED);
    assert_eq!(g.memory.read32(0x2000), u32::MAX, "nobody has asked for it");
    assert_eq!(ask(&mut v, TIME, 0), at);
    let words: Vec<u32> = (0..2).map(|n| g.memory.read32(0x2000 + 4 * n)).collect();
    assert_eq!(words, [0, 0], "revision, attributes");
    // A thread is never stolen from longer than it has been there.
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_millis(40) {
        ask(&mut v, FEATURES, TIME);
    }
    let stolen = u64::from(g.memory.read32(0x2008)) | u64::from(g.memory.read32(0x200c)) << 32;
    assert!(u128::from(stolen) <= begin.elapsed().as_nanos() + 1_000_000_000, "{stolen} ns");
}
