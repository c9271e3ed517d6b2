//! Models of what PEs do at the same time, every interleaving of which loom tries (`cargo xtask models`). Loads of guest
//! memory are acquiring and stores releasing here, as they are on the hosts that generated code is for.

use std::sync::Arc;

use loom::model::Builder;
use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use loom::thread;

use crate::CpuLines;
use crate::mem::page_state::PageState;
use crate::shared::{Pe, Request, Ticket, VmShared};

fn explore(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut b = Builder::new();
    b.preemption_bound = Some(preemptions);
    b.max_branches = 50_000;
    b.check(f);
}

/// A kick that comes while the PE is on its way in, runs or is on its way out ends this run or the next one, which looks at
/// what was to be seen.
#[test]
fn no_kick_is_lost() {
    explore(3, || {
        let pe = Arc::new(Pe::default());
        let wanted = Arc::new(AtomicBool::new(false));
        let (p, w) = (pe.clone(), wanted.clone());
        let t = thread::spawn(move || {
            w.store(true, Ordering::SeqCst);
            p.lines.set(CpuLines::KICK);
        });
        loop {
            pe.enter();
            while pe.lines.get() & CpuLines::KICK == 0 {
                thread::yield_now();
            }
            pe.lines.clear(CpuLines::KICK);
            pe.leave();
            if wanted.load(Ordering::SeqCst) {
                break;
            }
        }
        t.join().expect("kicker");
    });
}

/// Interrupt lines that change while others set and clear their bits keep their last level.
#[test]
fn bits_of_the_lines_word_do_not_disturb_each_other() {
    explore(3, || {
        let lines = Arc::new(CpuLines::default());
        let l = lines.clone();
        let t = thread::spawn(move || {
            l.set_lines(true, false);
            l.set_lines(false, true);
        });
        lines.set(CpuLines::REQUEST);
        lines.clear(CpuLines::REQUEST);
        t.join().expect("lines");
        assert_eq!(lines.get(), CpuLines::FIQ);
    });
}

/// A PE as the models have it: what its TLB allows.
struct Model {
    pe: Arc<Pe>,
    shared: Arc<VmShared>,
    me: usize,
    may_write: bool,
    served: u32,
}

impl Model {
    fn safepoint(&mut self) {
        if self.pe.lines.get() & CpuLines::REQUEST == 0 {
            return;
        }
        let (requests, ticket) = self.pe.take();
        for r in &requests {
            self.served += 1;
            if matches!(r, Request::RevokeWrite { .. } | Request::FlushAll) {
                self.may_write = false;
            }
        }
        self.pe.finish(ticket);
    }
    /// As `Cpu::dsb`.
    fn wait(&mut self, t: &Ticket) {
        while !t.passed() {
            self.safepoint();
            thread::yield_now();
        }
    }
}

/// Whoever was told that all PEs passed relies on none of them using what was revoked.
#[test]
fn quiescence_means_that_nobody_uses_what_was_revoked() {
    explore(3, || {
        let shared = Arc::new(VmShared::default());
        let pe = Arc::new(Pe::default());
        let me = shared.add(pe.clone());
        // Not zero while the PE uses what is revoked.
        let revoked = Arc::new(AtomicBool::new(false));
        let (s, r) = (shared.clone(), revoked.clone());
        let t = thread::spawn(move || {
            let t = s.post(None, Request::FlushAll);
            while !t.passed() {
                thread::yield_now();
            }
            r.store(true, Ordering::SeqCst);
        });
        let mut m = Model { pe: pe.clone(), shared, me, may_write: true, served: 0 };
        for _ in 0..2 {
            pe.enter();
            m.safepoint();
            // A use, between two safepoints.
            if m.may_write {
                assert!(!revoked.load(Ordering::SeqCst), "used after the poster was told that nobody does");
            }
            pe.leave();
        }
        t.join().expect("poster");
    });
}

/// Two PEs that post to each other and wait for each other both go on.
#[test]
fn two_that_wait_for_each_other_go_on() {
    explore(2, || {
        let shared = Arc::new(VmShared::default());
        let pes = [Arc::new(Pe::default()), Arc::new(Pe::default())];
        for p in &pes {
            shared.add(p.clone());
        }
        let body = |me: usize| {
            let mut m = Model { pe: pes[me].clone(), shared: shared.clone(), me, may_write: true, served: 0 };
            move || {
                m.pe.enter();
                m.safepoint();
                let t = m.shared.post(Some(m.me), Request::Fence);
                m.wait(&t);
                m.pe.leave();
            }
        };
        let t = thread::spawn(body(1));
        body(0)();
        t.join().expect("PE");
    });
}

/// A page of guest memory, reduced to one word, and what PEs agree on about it.
#[derive(Default)]
struct Page {
    flags: AtomicU8,
    generation: AtomicU32,
    word: AtomicU32,
    /// The guest's own message: the new word is in place.
    announced: AtomicBool,
}

impl Page {
    fn state(&self) -> PageState<'_> {
        PageState { flags: &self.flags, generation: &self.generation }
    }
    /// `Cpu::store`.
    fn write(&self, m: &Model, v: u32) {
        if m.may_write {
            return self.word.store(v, Ordering::Release);
        }
        let code = self.state().announce_write();
        self.word.store(v, Ordering::Release);
        if code {
            self.state().changed();
        }
    }
    /// As [`Page::write`], by a writer that writes so much that it takes the page back. Tells whether it has a write entry now.
    fn write_much(&self, v: u32) -> bool {
        let code = self.state().announce_write();
        let granted = !code || self.state().take_back();
        self.word.store(v, Ordering::Release);
        if code {
            self.state().changed();
        }
        granted
    }
    /// `Cpu::find_block_slow`: the generation and the word; none when it has to be tried again.
    fn decode(&self, m: &mut Model) -> Option<(u32, u32)> {
        if self.state().announce_code() {
            m.may_write = false;
            let t = m.shared.post(Some(m.me), Request::RevokeWrite { host_page: 0 });
            m.wait(&t);
            self.state().code_ready();
        }
        let generation = self.state().generation();
        let word = self.word.load(Ordering::Acquire);
        self.state().is_ready().then_some((generation, word))
    }
    /// What is executed: what was decoded, unless it is stale.
    fn execute(&self, m: &mut Model, decoded: &mut Option<(u32, u32)>) -> u32 {
        loop {
            m.safepoint();
            if let Some((g, w)) = *decoded
                && g == self.state().generation()
            {
                return w;
            }
            *decoded = self.decode(m);
        }
    }
}

fn executor(m: &mut Model, page: &Page) {
    m.pe.enter();
    let mut decoded = None;
    page.execute(m, &mut decoded);
    // LDAR of the message, ISB (a safepoint), and the code is executed.
    let new = page.announced.load(Ordering::Acquire);
    let w = page.execute(m, &mut decoded);
    assert!(!new || w == 2, "old code after the new one was announced");
    m.pe.leave();
}

/// `executors` PEs decode and execute a word while another PE changes it, with no more than a data barrier (CTR_EL0.DIC):
/// once it says so, nobody executes the old word.
fn changed_code(executors: usize, preemptions: usize, much: bool) {
    explore(preemptions, move || {
        let shared = Arc::new(VmShared::default());
        let page = Arc::new(Page::default());
        let all: Vec<Arc<Pe>> = (0..=executors).map(|_| Arc::new(Pe::default())).collect();
        for p in &all {
            shared.add(p.clone());
        }
        let model = |me: usize| Model {
            pe: all[me].clone(),
            shared: shared.clone(),
            me,
            may_write: false,
            served: 0,
        };
        let threads: Vec<_> = (1..=executors)
            .map(|n| {
                let (mut m, p) = (model(n), page.clone());
                thread::spawn(move || executor(&mut m, &p))
            })
            .collect();
        let mut m = model(0);
        m.pe.enter();
        m.safepoint();
        if much {
            m.may_write = page.write_much(1);
        } else {
            m.may_write = !page.state().announce_write();
            page.word.store(1, Ordering::Release);
            if !m.may_write {
                page.state().changed();
            }
        }
        page.write(&m, 2);
        page.announced.store(true, Ordering::Release);
        m.safepoint();
        m.pe.leave();
        for t in threads {
            t.join().expect("executor");
        }
    });
}

#[test]
fn changed_code_is_seen_by_one() {
    changed_code(1, 3, false);
}

#[test]
fn changed_code_is_seen_by_two() {
    changed_code(2, 2, false);
}

#[test]
fn changed_code_is_seen_when_the_writer_takes_the_page_back() {
    changed_code(1, 3, true);
}
