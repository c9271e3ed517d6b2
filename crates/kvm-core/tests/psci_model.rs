//! Random sequences of PSCI calls against a small model of PSCI (DEN0022F, tables 5 and 6) that shares no code with the
//! implementation.

mod common;

use std::time::Duration;

use common::*;
use proptest::prelude::*;
use ulna_kvm_abi::{RegId, mp_state};
use ulna_kvm_core::{Run, Vcpu};

/// vCPU ids, and the affinities that these give.
const IDS: [(u32, u64); 4] = [(0, 0), (1, 1), (16, 0x100), (17, 0x101)];
const VERSIONS: [u64; 5] = [0x2, 0x1_0000, 0x1_0001, 0x1_0002, 0x1_0003];

/// Number, version that brought it, as a 32-bit call, as a 64-bit call.
const FUNCTIONS: [(u32, u64, bool, bool); 13] = [
    (0x00, 0x2, true, false),
    (0x01, 0x2, true, true),
    (0x02, 0x2, true, false),
    (0x03, 0x2, true, true),
    (0x04, 0x2, true, true),
    (0x06, 0x2, true, false),
    (0x08, 0x2, true, false),
    (0x09, 0x2, true, false),
    (0x0a, 0x1_0000, true, false),
    (0x0e, 0x1_0000, true, true),
    (0x12, 0x1_0001, true, true),
    (0x15, 0x1_0003, true, true),
    // There are no others.
    (0x1f, u64::MAX, false, false),
];

#[derive(Debug, PartialEq)]
enum Effect {
    /// x0 of the answer.
    Answer(i64),
    /// The caller is on no more.
    Off,
    /// The caller waits; x0 is 0 when it goes on.
    Suspended,
    /// The VMM is told: kind, data.
    Event(u32, Vec<u64>),
}

struct Model {
    version: u64,
    suspend: bool,
    on: [bool; 4],
    /// What started vCPUs find in x0, until somebody looks.
    context: [Option<u64>; 4],
}

impl Model {
    fn has(&self, number: u32, wide: bool) -> bool {
        let row = FUNCTIONS.iter().find(|f| f.0 == number);
        row.is_some_and(|f| self.version >= f.1 && if wide { f.3 } else { f.2 })
            && (number != 0x0e || self.suspend)
    }

    fn vcpu(affinity: u64) -> Option<usize> {
        IDS.iter().position(|i| i.1 == affinity)
    }

    fn call(&mut self, me: usize, function: u32, args: [u64; 3]) -> Effect {
        let (number, wide) = (function & 0x1f, function >> 30 & 1 != 0);
        if !self.has(number, wide) {
            return Effect::Answer(-1);
        }
        let [a, b, c] = args.map(|a| if wide { a } else { a & 0xffff_ffff });
        match number {
            0x00 => Effect::Answer(self.version as i64),
            0x01 => Effect::Suspended,
            0x02 => {
                self.on[me] = false;
                Effect::Off
            }
            0x03 => match Self::vcpu(a) {
                None => Effect::Answer(-2),
                Some(n) if self.on[n] => Effect::Answer(-4),
                Some(n) => {
                    assert_eq!(b, RAM);
                    self.on[n] = true;
                    self.context[n] = Some(c);
                    Effect::Answer(0)
                }
            },
            0x04 => {
                if b > 3 || a >> 40 != 0 || a >> 24 & 0xff != 0 {
                    return Effect::Answer(-2);
                }
                // Affinity levels below are not looked at.
                let shift = [0, 8, 16, 32][b as usize];
                let of = |n: &usize| IDS[*n].1 >> shift == a >> shift;
                let matching: Vec<usize> = (0..4).filter(of).collect();
                match matching.is_empty() {
                    true => Effect::Answer(-2),
                    false => Effect::Answer(i64::from(!matching.iter().any(|n| self.on[*n]))),
                }
            }
            0x06 => Effect::Answer(2),
            0x08 => self.all_off(1, 0),
            0x09 => self.all_off(2, 0),
            0x0a => Effect::Answer(match a as u32 {
                0x8000_0000 => 0,
                f if f & 0xbfff_ffe0 != 0x8400_0000 || !self.has(f & 0x1f, f >> 30 & 1 != 0) => -1,
                f if f & 0x1f == 0x15 => 1,
                _ => 0,
            }),
            0x0e => Effect::Event(5, vec![]),
            0x12 if a as u32 != 0 && a >> 31 & 1 == 0 => Effect::Answer(-2),
            0x12 => self.all_off(2, 1),
            0x15 if a > 1 || b != 0 => Effect::Answer(-2),
            0x15 => self.all_off(1, 1),
            _ => Effect::Answer(-1),
        }
    }

    fn all_off(&mut self, kind: u32, flags: u64) -> Effect {
        self.on = [false; 4];
        Effect::Event(kind, vec![flags])
    }
}

/// The machine, and what each vCPU's guest will say about the call that it is still in.
struct World {
    _guest: Guest,
    vcpus: Vec<Vcpu>,
    inside: [Option<u64>; 4],
    model: Model,
}

impl World {
    fn new(suspend: bool) -> World {
        let g = Guest::of(&kvm_of((6, 13), true));
        g.asks();
        if suspend {
            g.vm.enable_cap(216, 0, [0; 4]).expect("suspend");
        }
        let vcpus = IDS.iter().map(|i| g.vcpu(i.0, if i.0 == 0 { PSCI } else { PSCI | OFF })).collect();
        let model = Model { version: 0x1_0003, suspend, on: [true, false, false, false], context: [None; 4] };
        World { _guest: g, vcpus, inside: [None; 4], model }
    }

    fn step(&mut self, random: [u64; 4]) {
        let [what, who, a, b] = random;
        let me = (0..4).map(|n| (n + who as usize) % 4).find(|n| self.model.on[*n]);
        let Some(me) = me else {
            // Nobody runs: the VMM starts one.
            let n = who as usize % 4;
            self.vcpus[n].set_mp_state(mp_state::RUNNABLE).expect("on");
            self.model.on[n] = true;
            return;
        };
        if what % 32 == 0 {
            self.model.version = VERSIONS[(a % 5) as usize];
            return set(&mut self.vcpus[me], RegId::PSCI_VERSION, self.model.version);
        }
        if let Some(x0) = self.model.context[me].take() {
            // Its reset has undone whatever it was in.
            self.inside[me] = None;
            let v = &mut self.vcpus[me];
            assert_eq!((get(v, RegId::PC), get(v, RegId::x(0))), (RAM, x0), "vCPU {me} started");
        }
        if let Some(x0) = self.inside[me].take() {
            assert_eq!(result(&mut self.vcpus[me]), x0, "vCPU {me} goes on");
        }
        let number = match what >> 8 & 3 {
            0 => (what >> 16) as u32 & 0x1f,
            _ => FUNCTIONS[(what >> 16) as usize % FUNCTIONS.len()].0,
        };
        let function = 0x8400_0000 | number | ((what >> 40) as u32 & 1) << 30;
        let affinities = [0, 1, 0x100, 0x101, 2, 0x200, 1 << 31, 1 << 32, 1 << 40, u64::MAX];
        let args = match number {
            0x03 => [affinities[(a % 10) as usize], RAM, b],
            0x04 => [affinities[(a % 10) as usize], b % 6, b],
            0x0a => {
                let some = FUNCTIONS[(a % 13) as usize].0 | 0x8400_0000 | (b as u32 & 1) << 30;
                [[some.into(), 0x8000_0000, 0x8000_0001, a][(b >> 8) as usize % 4], b, a]
            }
            0x12 => [[0, 1, 0x8000_0000, 0x8000_0001][(a % 4) as usize], b, a],
            0x15 => [a % 3, [0, 0, b][(b % 3) as usize], a],
            _ => [a, b, a ^ b],
        };
        let expected = self.model.call(me, function, args);
        self.compare(me, function, args, expected);
        for (n, v) in self.vcpus.iter().enumerate() {
            let state = if self.model.on[n] { mp_state::RUNNABLE } else { mp_state::STOPPED };
            assert_eq!(v.mp_state(), state, "vCPU {n} after {function:#x}{args:x?}");
        }
    }

    fn compare(&mut self, me: usize, function: u32, args: [u64; 3], expected: Effect) {
        let v = &mut self.vcpus[me];
        let said = format!("vCPU {me}: {function:#x} {args:x?} at {:#x}", self.model.version);
        set(v, RegId::x(0), function.into());
        for (n, x) in (1..).zip(args) {
            set(v, RegId::x(n), x);
        }
        match expected {
            Effect::Answer(x0) => {
                assert_eq!(result(v), x0 as u64, "{said}");
                assert_eq!([1, 2, 3].map(|n| get(v, RegId::x(n))), [0; 3], "{said}");
            }
            Effect::Off | Effect::Suspended => {
                let _kicks = Watchdog::new(Duration::from_micros(50), v.kicker());
                // It blocks behind the HVC.
                while get(v, RegId::PC) != RAM + 4 {
                    assert!(matches!(v.run(), Ok(Run::Intr)), "{said}");
                }
                self.inside[me] = Some(0);
            }
            Effect::Event(kind, data) => loop {
                match v.run().expect("run") {
                    Run::Intr => {}
                    Run::SystemEvent(k, d) => {
                        assert_eq!((k, d), (kind, &data[..]), "{said}");
                        self.inside[me] = Some(if kind == 5 { function.into() } else { -6i64 as u64 });
                        return;
                    }
                    other => panic!("{said}: {other:x?}"),
                }
            },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_calls_do_as_the_model(
        suspend: bool,
        steps in prop::collection::vec(any::<[u64; 4]>(), 1..400),
    ) {
        let mut w = World::new(suspend);
        for s in steps {
            w.step(s);
        }
    }
}

/// `cargo test --release -p ulna-kvm-core --test psci_model -- --ignored`
#[test]
#[ignore = "takes a minute"]
fn a_million_steps_do_as_the_model() {
    let mut rng = Rng(1);
    for n in 0..100 {
        let mut w = World::new(n % 2 == 0);
        for _ in 0..10_000 {
            w.step([rng.next(), rng.next(), rng.next(), rng.next()]);
        }
    }
}
