//! What the PEs of one VM share: mailboxes for TLB shoot-down and the one quiescence primitive (architecture §5).
//!
//! A request is posted to each PE's mailbox; the poster may wait until every PE passed a safepoint. A PE outside
//! [`crate::Cpu::run`] counts as passed, because it drains its mailbox before it executes anything.

use std::sync::Arc;

use crate::lines::CpuLines;
use crate::mem::tlb::TlbOp;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering};

/// What a PE is asked to do at its next safepoint.
#[derive(Clone, Copy, Debug)]
pub enum Request {
    /// Invalidate TLB entries.
    Tlb(TlbOp),
    /// Forget everything derived from guest memory and slots.
    FlushAll,
    /// Revoke write permission of the host page at this address, in TLB entries.
    RevokeWrite {
        /// Host address of the page.
        host_page: usize,
    },
    /// Revoke write permission of all TLB entries whose host page lies in a range.
    RevokeWriteRange {
        /// First host address.
        start: usize,
        /// Length in bytes.
        len: usize,
    },
    /// The code on a page was written.
    CodeWritten {
        /// An address on the page.
        ipa: u64,
    },
    /// SEV of another PE.
    Event,
    /// Only pass a safepoint.
    Fence,
}

/// One PE as the others see it.
#[derive(Debug, Default)]
pub struct Pe {
    /// Its lines.
    pub lines: Arc<CpuLines>,
    queue: Mutex<Vec<Request>>,
    posted: AtomicU64,
    done: AtomicU64,
    running: AtomicBool,
}

impl Pe {
    /// The PE starts to run: from now on posters wait for it.
    pub fn enter(&self) {
        self.running.store(true, Ordering::SeqCst);
        // Whatever was posted before this store was seen by nobody: let the run loop drain it first.
        self.lines.set(CpuLines::REQUEST);
    }
    /// The PE left `run`.
    pub fn leave(&self) {
        self.running.store(false, Ordering::SeqCst);
    }
    /// Takes the waiting requests; the caller carries them out and then calls [`Pe::finish`] with the ticket.
    pub fn take(&self) -> (Vec<Request>, u64) {
        self.lines.clear(CpuLines::REQUEST);
        let mut q = self.queue.lock().unwrap_or_else(|e| e.into_inner());
        let ticket = self.posted.load(Ordering::SeqCst);
        (std::mem::take(&mut *q), ticket)
    }
    /// Tells posters that everything up to `ticket` was carried out.
    pub fn finish(&self, ticket: u64) {
        self.done.fetch_max(ticket, Ordering::SeqCst);
    }
    fn post(&self, r: Request) -> u64 {
        let mut q = self.queue.lock().unwrap_or_else(|e| e.into_inner());
        // A PE that does not run for long collects requests: past a limit one flush stands for all of them.
        let known = |x: &Request| match (x, &r) {
            (Request::CodeWritten { ipa: a }, Request::CodeWritten { ipa: b }) => a >> 12 == b >> 12,
            _ => false,
        };
        if q.iter().any(known) {
            // It is still to be done, after this write.
        } else if q.len() >= 64 {
            q.clear();
            q.push(Request::FlushAll);
        } else {
            q.push(r);
        }
        let t = self.posted.fetch_add(1, Ordering::SeqCst) + 1;
        drop(q);
        self.lines.set(CpuLines::REQUEST);
        t
    }
    fn passed(&self, ticket: u64) -> bool {
        self.done.load(Ordering::SeqCst) >= ticket || !self.running.load(Ordering::SeqCst)
    }
}

/// Shared by all PEs of a VM.
#[derive(Debug, Default)]
pub struct VmShared {
    pes: Mutex<Arc<Vec<Arc<Pe>>>>,
    flushes: AtomicU64,
    /// Whose turn it is, where PEs take turns.
    pub(crate) turn: Mutex<()>,
}

impl VmShared {
    /// Adds a PE; returns its index.
    pub fn add(&self, pe: Arc<Pe>) -> usize {
        let mut g = self.pes.lock().unwrap_or_else(|e| e.into_inner());
        let mut v = Vec::clone(&g);
        v.push(pe);
        *g = Arc::new(v);
        g.len() - 1
    }
    /// All PEs.
    pub fn pes(&self) -> Arc<Vec<Arc<Pe>>> {
        self.pes.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
    /// Posts `r` to all PEs but `me`; returns a ticket for [`Ticket::passed`].
    pub fn post(&self, me: Option<usize>, r: Request) -> Ticket {
        let pes = self.pes();
        let tickets =
            pes.iter().enumerate().filter(|(i, _)| Some(*i) != me).map(|(i, p)| (i, p.post(r))).collect();
        Ticket { pes, tickets }
    }
    /// How often somebody who is no PE made them all look again.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }
    /// Posts and waits; for callers that are no PE (slot changes, dirty log).
    pub fn quiesce(&self, r: Request) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        let t = self.post(None, r);
        while !t.passed() {
            std::thread::yield_now();
        }
    }
}

/// A posted request.
#[derive(Debug)]
pub struct Ticket {
    pes: Arc<Vec<Arc<Pe>>>,
    tickets: Vec<(usize, u64)>,
}

impl Ticket {
    /// Has every PE passed a safepoint since?
    pub fn passed(&self) -> bool {
        self.tickets.iter().all(|&(i, t)| self.pes[i].passed(t))
    }
}
