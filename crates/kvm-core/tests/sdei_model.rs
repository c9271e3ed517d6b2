//! Random calls, signals and resets against a small model of SDEI, written from the tables of seed-systems.md §3.2-§3.5
//! and from nothing else.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use ulna_kvm_core::firmware::sdei::{Answer, Context, Features, Machine, VERSION_1_0, VERSION_1_1, World};

const PES: usize = 3;
const NOT_SUPPORTED: i64 = -1;
const INVALID: i64 = -2;
const DENIED: i64 = -3;
const PENDING: i64 = -5;
const OUT_OF_RESOURCE: i64 = -10;

/// Interrupts that exist: (INTID, level-triggered). 22 is always being handled.
const INTIDS: [(u32, bool); 7] =
    [(20, true), (22, true), (27, false), (30, true), (40, true), (41, false), (42, true)];

/// What is around both.
#[derive(Clone, Default)]
struct Outside {
    on: [bool; PES],
    lines: BTreeSet<(Option<usize>, u32)>,
    taken: BTreeSet<(Option<usize>, u32)>,
}

impl World for Outside {
    fn is_on(&self, pe: usize) -> bool {
        self.on[pe]
    }
    fn exists(&self, intid: u32) -> bool {
        INTIDS.iter().any(|i| i.0 == intid)
    }
    fn is_active(&mut self, intid: u32) -> bool {
        intid == 22
    }
    fn connect(&mut self, pe: Option<usize>, intid: u32, taken: bool) -> (bool, bool) {
        assert_eq!(self.taken.contains(&(pe, intid)), !taken, "taken and given back in turn");
        if taken {
            self.taken.insert((pe, intid));
        } else {
            self.taken.remove(&(pe, intid));
        }
        (INTIDS.contains(&(intid, true)), self.lines.contains(&(pe, intid)))
    }
}

/// A row of the table of states.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Row {
    #[default]
    None,
    R,
    Re,
    A,
    Ra,
    Rea,
}
use Row::*;

impl Row {
    fn register(self) -> Option<Row> {
        (self == None).then_some(R)
    }
    fn enable(self) -> Option<Row> {
        match self {
            R | Re => Some(Re),
            Ra | Rea => Some(Rea),
            None | A => Option::None,
        }
    }
    fn disable(self) -> Option<Row> {
        match self {
            R | Re => Some(R),
            Ra | Rea => Some(Ra),
            None | A => Option::None,
        }
    }
    /// The result, and the row after it.
    fn unregister(self) -> (i64, Row) {
        match self {
            None => (DENIED, None),
            R | Re => (0, None),
            A | Ra | Rea => (PENDING, A),
        }
    }
    fn complete(self) -> Row {
        match self {
            A => None,
            Ra => R,
            Rea => Re,
            other => panic!("COMPLETE in {other:?}"),
        }
    }
    fn status(self) -> i64 {
        match self {
            None => 0,
            R => 1,
            Re => 3,
            A => 4,
            Ra => 5,
            Rea => 7,
        }
    }
    fn registered(self) -> bool {
        !matches!(self, None | A)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    Private(usize, u32),
    Shared(u32),
}

#[derive(Clone, Default, Debug)]
struct Ev {
    row: Row,
    pending: bool,
    entry: u64,
    arg: u64,
    mode: u64,
    affinity: u64,
    runner: usize,
    /// The line as the service knows it, while registered.
    line: bool,
}

struct Model {
    v1_0: bool,
    private: u32,
    shared: u32,
    relative: bool,
    critical: bool,
    nmi: bool,
    masked: [bool; PES],
    /// Running handlers of each PE, the top last: (event, tag of the context).
    stack: [Vec<(Key, u64)>; PES],
    events: BTreeMap<Key, Ev>,
    /// Event number to interrupt.
    bound: BTreeMap<u32, u32>,
}

fn mpidr(pe: usize) -> u64 {
    // Not in the order of the PEs.
    [0x100, 0x1, 0x1_0000_0000][pe]
}

impl Model {
    fn new(version: u64, f: Features) -> Model {
        Model {
            v1_0: version == VERSION_1_0,
            private: f.private() as u32,
            shared: f.shared() as u32,
            relative: f.relative() && version == VERSION_1_1,
            critical: f.critical(),
            nmi: f.host_nmi(),
            masked: [true; PES],
            stack: Default::default(),
            events: BTreeMap::new(),
            bound: BTreeMap::new(),
        }
    }

    fn key(&self, pe: usize, number: u32) -> Option<Key> {
        match number {
            0 => Some(Key::Private(pe, 0)),
            0x4075_6c00 if self.nmi => Some(Key::Private(pe, number)),
            0x4075_6d00..0x4075_6e00 if number & 0xff < self.private => Some(Key::Private(pe, number)),
            0x4075_6e00..0x4075_6f00 if number & 0xff < self.shared => Some(Key::Shared(number)),
            _ => Option::None,
        }
    }

    fn number(k: Key) -> u32 {
        let (Key::Private(_, n) | Key::Shared(n)) = k;
        n
    }

    fn is_critical(&self, k: Key) -> bool {
        let n = Model::number(k);
        self.critical && n >= 0x4075_6d00 && n & 1 == 1
    }

    fn ev(&mut self, k: Key) -> &mut Ev {
        self.events.entry(k).or_default()
    }

    fn row(&self, k: Key) -> Row {
        self.events.get(&k).map_or(None, |e| e.row)
    }

    fn pe_with(affinity: u64) -> Option<usize> {
        (0..PES).find(|pe| mpidr(*pe) == affinity)
    }

    fn open(&self, pe: usize, critical: bool, on: bool) -> bool {
        let any_critical = self.stack[pe].iter().any(|r| self.is_critical(r.0));
        on && !self.masked[pe] && if critical { !any_critical } else { self.stack[pe].is_empty() }
    }

    /// What `pe` takes next.
    fn next(&self, pe: usize, out: &Outside) -> Option<Key> {
        let mine = self.events.iter().filter(|(k, e)| {
            let critical = self.is_critical(**k);
            let due = e.row == Re && e.pending && self.open(pe, critical, out.on[pe]);
            due && match k {
                Key::Private(of, _) => *of == pe,
                Key::Shared(_) if e.mode == 1 => e.affinity == mpidr(pe),
                Key::Shared(_) => {
                    let fit = (0..PES).filter(|p| self.open(*p, critical, out.on[*p]));
                    fit.min_by_key(|p| mpidr(*p)) == Some(pe)
                }
            }
        });
        // Critical first; then private before shared, by slot, which is the order of keys.
        mine.map(|(k, _)| (!self.is_critical(*k), *k)).min().map(|x| x.1)
    }

    fn unregister(&mut self, k: Key) -> i64 {
        let e = self.ev(k);
        let (result, row) = e.row.unregister();
        e.row = row;
        (e.pending, e.line) = (false, false);
        result
    }

    fn complete(&mut self, pe: usize) -> Option<u64> {
        let (k, tag) = self.stack[pe].pop()?;
        let level = self.level(k);
        let e = self.ev(k);
        e.row = e.row.complete();
        e.pending |= level && e.line && e.row.registered();
        Some(tag)
    }

    fn level(&self, k: Key) -> bool {
        self.bound.get(&Model::number(k)).is_some_and(|i| INTIDS.contains(&(*i, true)))
    }

    fn call(&mut self, pe: usize, n: u32, x: &[u64; 6], out: &Outside) -> Result<u64, i64> {
        let (a, b, c, d, e) = (x[1], x[2], x[3], x[4], x[5]);
        let key = self.key(pe, a as u32);
        let event = || key.ok_or(INVALID);
        let legal = |v: u64| v != 0 && v.is_multiple_of(4) && matches!(v >> 48, 0 | 0xffff);
        match n {
            0 => Ok(1 << 48 | u64::from(!self.v1_0) << 32 | 0x564b_caa9),
            1 => {
                let k = event()?;
                let shared = matches!(k, Key::Shared(_));
                let allowed = if self.relative { 3 } else { 1 };
                let entry_ok = if d & 2 != 0 { b != 0 && b.is_multiple_of(4) } else { legal(b) };
                let routed = shared && d & 1 != 0;
                if d > allowed || d & !allowed != 0 || !entry_ok || routed && Model::pe_with(e).is_none() {
                    return Err(INVALID);
                }
                let number = Model::number(k);
                let unbound = number >= 0x4075_6d00 && !self.bound.contains_key(&number);
                let row = self.row(k).register().filter(|_| !unbound).ok_or(DENIED)?;
                let whose = if shared { Option::None } else { Some(pe) };
                let line = self.bound.get(&number).is_some_and(|i| out.lines.contains(&(whose, *i)));
                let pending = line && self.level(k);
                *self.ev(k) = Ev {
                    row,
                    pending,
                    entry: b,
                    arg: c,
                    mode: if shared { d & 1 } else { 0 },
                    affinity: e,
                    runner: 0,
                    line,
                };
                Ok(0)
            }
            2 => {
                let k = event()?;
                let row = self.row(k).enable().ok_or(DENIED)?;
                self.ev(k).row = row;
                Ok(0)
            }
            3 => {
                let k = event()?;
                let row = self.row(k).disable().ok_or(DENIED)?;
                self.ev(k).row = row;
                Ok(0)
            }
            4 if a > 17 => Err(INVALID),
            4 => self.stack[pe].last().map(|r| r.1 + a).ok_or(DENIED),
            7 => match self.unregister(event()?) {
                0 => Ok(0),
                e => Err(e),
            },
            8 => Ok(self.row(event()?).status() as u64),
            9 => {
                let k = event()?;
                let shared = matches!(k, Key::Shared(_));
                let registered = self.row(k).registered();
                let (mode, affinity) = (self.ev(k).mode, self.ev(k).affinity);
                match b as u32 {
                    0 => Ok(shared.into()),
                    1 => Ok(u64::from(Model::number(k) != 0)),
                    2 => Ok(self.is_critical(k).into()),
                    3 | 4 if !shared => Err(INVALID),
                    3 | 4 if !registered => Err(DENIED),
                    3 => Ok(mode),
                    4 if mode == 1 => Ok(affinity),
                    _ => Err(INVALID),
                }
            }
            0xa => {
                let k @ Key::Shared(_) = event()? else { return Err(INVALID) };
                if b as u32 > 1 || b as u32 == 1 && Model::pe_with(c).is_none() {
                    return Err(INVALID);
                }
                if self.row(k) != R {
                    return Err(DENIED);
                }
                let ev = self.ev(k);
                (ev.mode, ev.affinity) = (u64::from(b as u32), c);
                Ok(0)
            }
            0xb => Ok(u64::from(!std::mem::replace(&mut self.masked[pe], true))),
            0xc => {
                self.masked[pe] = false;
                Ok(0)
            }
            0xd => {
                let i = a as u32;
                if i < 16 || !INTIDS.iter().any(|x| x.0 == i) {
                    return Err(INVALID);
                }
                if i == 22 || self.bound.values().any(|b| *b == i) {
                    return Err(DENIED);
                }
                let (first, n) =
                    if i < 32 { (0x4075_6d00, self.private) } else { (0x4075_6e00, self.shared) };
                let free = (first..first + n).find(|e| !self.bound.contains_key(e)).ok_or(OUT_OF_RESOURCE)?;
                self.bound.insert(free, i);
                Ok(free.into())
            }
            0xe => {
                let number = Model::number(event()?);
                if !self.bound.contains_key(&number) {
                    return Err(INVALID);
                }
                if self.used(number) {
                    return Err(DENIED);
                }
                self.bound.remove(&number);
                Ok(0)
            }
            0xf => {
                let target = Model::pe_with(b).filter(|_| a as u32 == 0).ok_or(INVALID)?;
                if out.on[target] {
                    self.raise(Key::Private(target, 0));
                }
                Ok(0)
            }
            0x10 => match a as u32 {
                0 => Ok(u64::from(self.private) | u64::from(self.shared) << 16),
                1 if !self.v1_0 => Ok(self.relative.into()),
                _ => Err(INVALID),
            },
            0x11 => {
                let mine: Vec<Key> = self
                    .events
                    .keys()
                    .copied()
                    .filter(|k| matches!(k, Key::Private(p, _) if *p == pe))
                    .collect();
                let denied = mine.into_iter().filter(|k| self.unregister(*k) == PENDING).count();
                if denied == 0 { Ok(0) } else { Err(DENIED) }
            }
            0x12 => {
                let all: Vec<Key> =
                    self.events.keys().copied().filter(|k| matches!(k, Key::Shared(_))).collect();
                let running = all.into_iter().filter(|k| self.unregister(*k) == PENDING).count();
                let bound: Vec<u32> = self.bound.keys().copied().collect();
                let mut left = false;
                for number in bound {
                    if self.used(number) {
                        left = true;
                    } else {
                        self.bound.remove(&number);
                    }
                }
                if running == 0 && !left { Ok(0) } else { Err(DENIED) }
            }
            _ => Err(NOT_SUPPORTED),
        }
    }

    fn used(&self, number: u32) -> bool {
        self.events.iter().any(|(k, e)| Model::number(*k) == number && e.row != None)
    }

    fn raise(&mut self, k: Key) {
        let e = self.ev(k);
        if e.row.registered() {
            e.pending = true;
        }
    }

    fn line(&mut self, pe: Option<usize>, intid: u32, level: bool) {
        let Some((&number, _)) = self.bound.iter().find(|(_, i)| **i == intid) else { return };
        let k = pe.map_or(Key::Shared(number), |pe| Key::Private(pe, number));
        let sensitive = self.level(k);
        let e = self.ev(k);
        if e.row.registered() && e.line != level {
            e.line = level;
            e.pending = level || e.pending && !sensitive;
        }
    }

    fn reset_pe(&mut self, pe: usize) {
        self.masked[pe] = true;
        for (k, _) in std::mem::take(&mut self.stack[pe]).into_iter().rev() {
            if matches!(k, Key::Shared(_)) {
                let level = self.level(k);
                let e = self.ev(k);
                e.row = e.row.complete();
                e.pending |= level && e.line && e.row.registered();
            }
        }
        self.events.retain(|k, _| !matches!(k, Key::Private(p, _) if *p == pe));
    }
}

/// A random stream.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

const EVENTS: [u64; 9] =
    [0, 0, 0x4075_6c00, 0x4075_6d00, 0x4075_6d01, 0x4075_6e00, 0x4075_6e01, 0x4075_6c01, 0x1_0000_0000];

fn args(rng: &mut Rng, n: u32) -> [u64; 6] {
    let entry = |rng: &mut Rng| rng.of(&[0x1000, 0xffff_8000_0000_2000, 0x2000, 0, 6, 1 << 48, 1 << 47, 4]);
    let pe = rng.below(PES as u64 + 1) as usize;
    let affinity = if pe < PES { mpidr(pe) } else { 0x77 };
    let event = rng.of(&EVENTS);
    match n {
        1 if rng.below(4) == 0 => {
            let flags = rng.of(&[0, 1, 2, 3, 4, 1 << 63]);
            [0, event, entry(rng), rng.next(), flags, affinity]
        }
        1 => [0, event, 0x1000, rng.next(), rng.below(2), mpidr(rng.below(3) as usize)],
        4 => [0, rng.below(20), 0, 0, 0, 0],
        6 => [0, entry(rng), 0, 0, 0, 0],
        9 => [0, event, rng.below(6), 0, 0, 0],
        0xa => [0, event, rng.below(3), affinity, 0, 0],
        0xd => [0, rng.of(&[20, 22, 27, 30, 40, 41, 42, 0, 15, 50, 1020]), 0, 0, 0, 0],
        0xf => [0, rng.of(&[0, 0, 0, 0x4075_6c00]), affinity, 0, 0, 0],
        0x10 => [0, rng.below(3), 0, 0, 0, 0],
        _ => [0, event, 0, 0, 0, 0],
    }
}

/// How much of it was interesting.
#[derive(Default, Debug)]
struct Met {
    delivered: u64,
    nested: u64,
    completed: u64,
    successes: BTreeMap<u32, u64>,
}

fn play(seed: u64, steps: u64, version: u64, features: Features) -> Met {
    let mut rng = Rng(seed);
    let mut real = Machine::new(version, features);
    let mut model = Model::new(version, features);
    let mut out = Outside { on: [true; PES], ..Outside::default() };
    (0..PES).for_each(|pe| real.set_mpidr(pe, mpidr(pe)));
    // PEs that were told to look and did not yet.
    let mut looked = BTreeSet::new();
    let mut met = Met::default();
    for step in 0..steps {
        let pe = rng.below(PES as u64) as usize;
        let at = format!("seed {seed} step {step}");
        match rng.below(64) {
            0 if rng.below(8) == 0 => {
                out.on[pe] = false;
                real.reconsider(&out);
            }
            // CPU_ON, or VCPU_INIT.
            0 | 1 if rng.below(32) == 0 || !out.on[pe] => {
                out.on[pe] = true;
                let mut o = out.clone();
                real.reset_pe(pe, &mut o);
                out = o;
                model.reset_pe(pe);
            }
            2 if rng.below(64) == 0 => {
                let mut o = out.clone();
                real.reset(&mut o);
                out = o;
                let (v, f) = (version, features);
                model = Model::new(v, f);
            }
            3..6 => {
                assert_eq!(real.host_nmi(pe), model.nmi, "{at}");
                if model.nmi {
                    model.raise(Key::Private(pe, 0x4075_6c00));
                }
            }
            6..16 => {
                let intid = rng.of(&INTIDS).0;
                let whose = (intid < 32).then_some(pe);
                let level = rng.below(2) == 0;
                if level {
                    out.lines.insert((whose, intid))
                } else {
                    out.lines.remove(&(whose, intid))
                };
                // Only what was taken away from the interrupt controller comes here.
                if out.taken.contains(&(whose, intid)) {
                    real.set_line(whose, intid, level, &out);
                    model.line(whose, intid, level);
                }
            }
            16..32 if out.on[pe] => {
                looked.remove(&pe);
                let tag = step << 8;
                let got = real.deliver(pe, &out, |event| Context {
                    x: std::array::from_fn(|n| tag + n as u64),
                    pc: 0x5000,
                    pstate: 5,
                    event,
                });
                let expected = model.next(pe, &out);
                assert_eq!(got.map(|e| e.event), expected.map(Model::number), "{at}: who is next on {pe}");
                if let (Some(e), Some(k)) = (got, expected) {
                    met.delivered += 1;
                    met.nested += u64::from(!model.stack[pe].is_empty());
                    let ev = model.ev(k);
                    assert_eq!((e.address, e.arg), (ev.entry, ev.arg), "{at}");
                    (ev.row, ev.pending, ev.runner) = (Rea, false, pe);
                    model.stack[pe].push((k, tag));
                }
            }
            _ if !out.on[pe] => {}
            _ => {
                let n = rng.of(&[
                    0, 1, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5, 5, 6, 7, 8, 9, 9, 0xa, 0xb, 0xc, 0xc, 0xc, 0xd,
                    0xe, 0xf, 0xf, 0xf, 0x10, 0x11, 0x12, 0x13, 0x1f,
                ]);
                // Resets leave nothing to look at: now and then is enough.
                let n = if matches!(n, 7 | 0xb | 0xe | 0x11 | 0x12) && rng.below(8) != 0 { 8 } else { n };
                let x = args(&mut rng, n);
                let mut o = out.clone();
                let got = real.call(pe, 0xc400_0020 + n, &x, &mut o);
                out = o;
                let what = format!("{at}: PE {pe} calls {n:#x} {x:x?}");
                let a = x[1];
                let bad_resume = n == 6 && !(a != 0 && a.is_multiple_of(4) && matches!(a >> 48, 0 | 0xffff));
                match n {
                    5 | 6 => {
                        let tag = if bad_resume { Option::None } else { model.complete(pe) };
                        let c = match (got, n) {
                            (Answer::Complete(c), 5) => Some(c),
                            (Answer::Resume(c, to), 6) => {
                                assert_eq!(to, a);
                                Some(c)
                            }
                            (Answer::Value(v), _) => {
                                assert_eq!(v as i64, DENIED, "{what}");
                                Option::None
                            }
                            other => panic!("{what}: {other:?}"),
                        };
                        assert_eq!(c.map(|c| c.x[0]), tag, "{what}");
                        met.completed += u64::from(tag.is_some());
                    }
                    _ => {
                        let expected = model.call(pe, n, &x, &out);
                        let value = expected.unwrap_or_else(|e| e as u64);
                        assert_eq!(got, Answer::Value(value), "{what}");
                        if expected.is_ok() {
                            *met.successes.entry(n).or_default() += 1;
                        }
                    }
                }
            }
        }
        looked.extend(real.take_look());
        for pe in (0..PES).filter(|pe| model.next(*pe, &out).is_some()) {
            assert!(looked.contains(&pe), "{at}: PE {pe} has an event and was not told");
        }
    }
    met
}

const FULL: Features = Features(7 << 16 | 2 << 8 | 2);

fn check(met: &Met, steps: u64) {
    assert!(
        met.delivered > steps / 100 && met.nested > steps / 5_000 && met.completed > steps / 100,
        "{met:?}"
    );
    for n in [0, 1, 2, 3, 4, 7, 8, 9, 0xa, 0xb, 0xc, 0xd, 0xe, 0xf, 0x10, 0x11, 0x12] {
        assert!(met.successes.get(&n).is_some_and(|c| *c > 0), "{n:#x} never succeeded: {met:?}");
    }
}

#[test]
fn a_million_steps_agree() {
    for seed in 0..4 {
        check(&play(seed, 250_000, VERSION_1_1, FULL), 250_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn any_features_and_versions_agree(
        seed: u64,
        old: bool,
        private in 0u64..4,
        shared in 0u64..4,
        flags in 0u64..8,
    ) {
        let version = if old { VERSION_1_0 } else { VERSION_1_1 };
        play(seed, 600, version, Features(flags << 16 | shared << 8 | private));
    }
}
