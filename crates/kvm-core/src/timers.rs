//! One thread a VM that kicks running vCPUs when their timers are due.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Instant;

use ulna_arm_cpu::CpuLines;

use crate::shared::Shared;

#[derive(Default)]
struct State {
    deadlines: HashMap<u32, (Instant, Weak<Shared>)>,
    earliest: Option<Instant>,
    stop: bool,
    running: bool,
}

/// Deadlines of running vCPUs.
#[derive(Default)]
pub(crate) struct TimerThread {
    state: Mutex<State>,
    changed: Condvar,
}

impl TimerThread {
    /// vCPU `id` is to be kicked at `when`, or not at all.
    pub fn set(self: &Arc<Self>, id: u32, when: Option<Instant>, vcpu: &Arc<Shared>) {
        let mut s = self.state.lock().unwrap_or_else(|e| e.into_inner());
        match when {
            Some(t) => {
                s.deadlines.insert(id, (t, Arc::downgrade(vcpu)));
                if s.earliest.is_none_or(|e| t < e) {
                    self.start(&mut s);
                    self.changed.notify_one();
                }
            }
            None => {
                s.deadlines.remove(&id);
            }
        }
    }

    fn start(self: &Arc<Self>, s: &mut State) {
        if s.running {
            return;
        }
        let me = self.clone();
        s.running = std::thread::Builder::new().name("ulna-timer".into()).spawn(move || me.run()).is_ok();
    }

    fn run(&self) {
        let mut s = self.state.lock().unwrap_or_else(|e| e.into_inner());
        while !s.stop {
            let now = Instant::now();
            let due: Vec<u32> = s.deadlines.iter().filter(|(_, d)| d.0 <= now).map(|(id, _)| *id).collect();
            for id in due {
                if let Some(v) = s.deadlines.remove(&id).and_then(|d| d.1.upgrade()) {
                    v.rouse(CpuLines::KICK);
                }
            }
            s.earliest = s.deadlines.values().map(|d| d.0).min();
            s = match s.earliest {
                Some(t) => {
                    let wait = t.saturating_duration_since(now);
                    self.changed.wait_timeout(s, wait).unwrap_or_else(|e| e.into_inner()).0
                }
                None => self.changed.wait(s).unwrap_or_else(|e| e.into_inner()),
            };
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.state.lock().unwrap_or_else(|e| e.into_inner()).stop = true;
        self.changed.notify_all();
    }
}
