//! Stolen time (Arm DEN0057): how long a vCPU was ready to run and did not, in a structure that its guest reads.
//!
//! The structure has 16 bytes: revision (u32, 0), attributes (u32, 0), stolen time in nanoseconds (u64). The VMM says
//! where it is (KVM_ARM_VCPU_PVTIME_CTRL), the guest asks for it (PV_TIME_ST) and thereby starts it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ulna_vgic::GuestMemory;

use crate::memory::Tables;
use crate::vcpu::Vcpu;

const LEN: usize = 16;
/// Where the time is in it.
const TIME: u64 = 8;
/// How often the host is asked, at most: asking costs as much as several exits.
const PERIOD: Duration = Duration::from_millis(10);

/// What a vCPU's structure was last brought up to date with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stolen {
    /// What its thread had waited for a CPU.
    waited: u64,
    asked: Instant,
}

/// Nanoseconds that a thread was runnable but not running, where the host says so.
fn waited_by(schedstat: &str) -> Option<u64> {
    let text = std::fs::read_to_string(schedstat).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

impl Vcpu {
    /// How long this thread waited for a CPU, and the thread of another process that runs the vCPU through it.
    fn waited(&self) -> Option<u64> {
        let own = waited_by("/proc/thread-self/schedstat");
        let client = self.shared.client_thread.load(Ordering::Relaxed);
        if client == 0 {
            return own;
        }
        let (process, thread) = (client >> 32, client as u32);
        let theirs = waited_by(&format!("/proc/{process}/task/{thread}/schedstat"));
        Some(own.unwrap_or(0).wrapping_add(theirs?))
    }

    /// PV_TIME_ST: where the structure is; from now on it is kept up to date.
    pub(crate) fn start_stolen_time(&mut self) -> Option<u64> {
        let base = self.stolen_time?;
        self.stolen = Some(Stolen { waited: self.waited().unwrap_or(0), asked: Instant::now() });
        // A VMM that took the memory away again gets nothing told.
        let _ = Tables(&self.vm.memory).write(base, &[0; LEN]);
        Some(base)
    }

    /// Brings the structure up to date; on the vCPU's thread. What a client's thread waited counts when it enters KVM_RUN.
    pub(crate) fn update_stolen_time(&mut self, entering: bool) {
        let Some(base) = self.stolen_time else { return };
        let asked = Instant::now();
        let Some(last) = self.stolen else {
            // As in KVM a structure that has a place is kept up to date: its guest may have asked on another host.
            self.stolen = Some(Stolen { waited: self.waited().unwrap_or(0), asked });
            return;
        };
        if !entering && asked.duration_since(last.asked) < PERIOD {
            return;
        }
        let Some(waited) = self.waited() else { return };
        self.stolen = Some(Stolen { waited, asked });
        // On another thread than before the waiting begins anew.
        self.add_stolen_time(base, waited.saturating_sub(last.waited));
    }

    fn add_stolen_time(&self, base: u64, more: u64) {
        let memory = Tables(&self.vm.memory);
        let mut b = [0; 8];
        if more == 0 || memory.read(base + TIME, &mut b).is_err() {
            return;
        }
        let total = u64::from_le_bytes(b).wrapping_add(more);
        // It was readable.
        let _ = memory.write(base + TIME, &total.to_le_bytes());
    }
}
