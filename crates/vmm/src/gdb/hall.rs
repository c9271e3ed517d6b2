//! Where vCPU threads meet the debugger: a thread that is to stand still waits in the hall, says why it came, and carries
//! out what the debugger asks of its vCPU until it may go.

use crate::waker::Waker;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use ulna_kvm_backend::{Kicker, Vcpu};

/// How long a vCPU thread may take for what the debugger asks.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why a vCPU came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// It was asked to.
    Asked,
    /// KVM_EXIT_DEBUG: ESR and FAR.
    Debug(u32, u64),
}

type Job = Box<dyn FnOnce(&mut dyn Vcpu) + Send>;

enum Order {
    Do(Job),
    Go,
    /// The machine ends.
    End,
}

struct Shared {
    /// Everybody is to come in.
    halt: AtomicBool,
    arrivals: Mutex<VecDeque<(usize, Came)>>,
    /// The debugger's.
    waker: Waker,
}

/// A vCPU thread's way in.
pub struct Door {
    shared: Arc<Shared>,
    cpu: usize,
    orders: Receiver<Order>,
}

impl Door {
    /// Is everybody to come in?
    pub fn halting(&self) -> bool {
        self.shared.halt.load(Ordering::Acquire)
    }

    /// Comes in and serves until it may go; `false` when the machine ends.
    pub fn wait(&self, vcpu: &mut dyn Vcpu, why: Came) -> bool {
        let mut arrivals = self.shared.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.push_back((self.cpu, why));
        drop(arrivals);
        self.shared.waker.wake();
        loop {
            match self.orders.recv() {
                Ok(Order::Do(job)) => job(vcpu),
                Ok(Order::Go) => return true,
                Ok(Order::End) | Err(_) => return false,
            }
        }
    }
}

/// Ends the waiting in a hall.
#[derive(Clone)]
pub struct Exit(Vec<Sender<Order>>);

impl Exit {
    /// Lets all threads out: the machine ends.
    pub fn open(&self) {
        for s in &self.0 {
            // One that is gone needs nothing.
            let _ = s.send(Order::End);
        }
    }
}

/// The debugger's side: one a machine.
pub struct Hall {
    shared: Arc<Shared>,
    orders: Vec<Sender<Order>>,
    kickers: Vec<Kicker>,
    inside: Vec<bool>,
}

impl Hall {
    /// For vCPUs with these kickers, which are all on their way in.
    pub fn new(kickers: Vec<Kicker>, waker: Waker) -> (Hall, Vec<Door>) {
        let shared = Arc::new(Shared { halt: AtomicBool::new(true), arrivals: Mutex::default(), waker });
        let mut doors = Vec::new();
        let mut senders = Vec::new();
        for cpu in 0..kickers.len() {
            let (sender, orders) = channel();
            senders.push(sender);
            doors.push(Door { shared: shared.clone(), cpu, orders });
        }
        let inside = vec![false; kickers.len()];
        (Hall { shared, orders: senders, kickers, inside }, doors)
    }

    /// Who can let everybody out.
    pub fn exit(&self) -> Exit {
        Exit(self.orders.clone())
    }

    /// Number of vCPUs.
    pub fn count(&self) -> usize {
        self.inside.len()
    }

    /// Is it in?
    pub fn is_inside(&self, cpu: usize) -> bool {
        self.inside.get(cpu).is_some_and(|i| *i)
    }

    /// The next who came in.
    pub fn arrival(&mut self) -> Option<(usize, Came)> {
        let next = self.shared.arrivals.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
        if let Some(i) = self.inside.get_mut(next.0) {
            *i = true;
        }
        Some(next)
    }

    /// Calls everybody in; whether all came in time. A thread may be held up by a device that waits for the host.
    pub fn gather(&mut self) -> bool {
        self.shared.halt.store(true, Ordering::Release);
        for (kicker, inside) in self.kickers.iter().zip(&self.inside) {
            if !inside {
                kicker.kick();
            }
        }
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            while self.arrival().is_some() {}
            if self.inside.iter().all(|i| *i) {
                return true;
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() || !self.shared.waker.wait(left) {
                return self.inside.iter().all(|i| *i);
            }
        }
    }

    /// Asks something of a vCPU that is in.
    pub fn ask<R: Send + 'static>(
        &self,
        cpu: usize,
        question: impl FnOnce(&mut dyn Vcpu) -> R + Send + 'static,
    ) -> Option<R> {
        if !self.is_inside(cpu) {
            return None;
        }
        let (reply, answer) = channel();
        let job: Job = Box::new(move |vcpu| {
            // Who asked may have lost patience.
            let _ = reply.send(question(vcpu));
        });
        self.orders.get(cpu)?.send(Order::Do(job)).ok()?;
        answer.recv_timeout(PATIENCE).ok()
    }

    /// Nobody is called in any more.
    pub fn open(&mut self) {
        self.shared.halt.store(false, Ordering::Release);
    }

    /// Lets one go.
    pub fn release(&mut self, cpu: usize) {
        if let (true, Some(sender)) = (self.is_inside(cpu), self.orders.get(cpu)) {
            let _ = sender.send(Order::Go);
            self.inside[cpu] = false;
        }
    }
}
