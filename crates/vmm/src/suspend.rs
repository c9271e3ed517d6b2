//! A system that its guest suspended (PSCI SYSTEM_SUSPEND, DEN0022 §5.20): one vCPU waits, all others are off.
//!
//! KVM leaves the call to the VMM (KVM_SYSTEM_EVENT_SUSPEND). Ours resets the vCPU to where the guest wants to go on and has
//! KVM wait: an interrupt that is enabled and not below the priority mask wakes it, or whoever asks by the control socket.

use crate::power::{DENIED, INVALID_ADDRESS, Power, Start, enter};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use ulna_kvm_backend::abi::mp_state;
use ulna_kvm_backend::{Errno, Kicker, RegId, Vcpu, VcpuInit};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Awake,
    /// This vCPU waits.
    Suspended(u32),
    /// It was told to go on and has not heard of it.
    Waking(u32),
}

/// Whether the system is suspended.
pub struct Suspend {
    state: Mutex<State>,
    /// What a vCPU is reset to.
    init: VcpuInit,
    /// Memory in which it may go on.
    entries: Vec<Range<u64>>,
    kickers: Vec<Kicker>,
}

/// The group of SDEI's registers, and of them those that are a vCPU's: SDEI_PE, contexts, private events.
const GROUP_SDEI: u64 = 0x5de;
fn is_sdei_of_vcpu(id: &RegId) -> bool {
    id.0 >> 16 & 0xfff == GROUP_SDEI && matches!(id.index(), 2..0x200)
}
const SDEI_PE: u16 = 2;

impl Suspend {
    /// For a machine of these vCPUs.
    pub fn new(init: VcpuInit, entries: Vec<Range<u64>>, kickers: Vec<Kicker>) -> Suspend {
        Suspend { state: Mutex::new(State::Awake), init, entries, kickers }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest slept where the machine comes from, on this vCPU.
    pub fn take_over(&self, id: u32) {
        *self.state() = State::Suspended(id);
    }

    /// Does the guest sleep?
    pub fn is_suspended(&self) -> bool {
        *self.state() != State::Awake
    }

    /// The guest on vCPU `id` wants to sleep: x1 is where to go on, x2 what x0 is then.
    pub fn begin(&self, power: Option<&Power>, id: u32, vcpu: &mut dyn Vcpu) -> Result<(), Errno> {
        let (pc, x0) = (vcpu.get_reg_u64(RegId::x(1))?, vcpu.get_reg_u64(RegId::x(2))?);
        let alone = power.map_or(self.kickers.len() == 1, |p| p.others_are_off(id));
        let refusal = match () {
            () if !alone => Some(DENIED),
            () if pc & 3 != 0 || !self.entries.iter().any(|e| e.contains(&pc)) => Some(INVALID_ADDRESS),
            () => None,
        };
        if let Some(refusal) = refusal {
            for (n, v) in (0..).zip([refusal as u64, 0, 0, 0]) {
                vcpu.set_reg_u64(RegId::x(n), v)?;
            }
            return Ok(());
        }
        let events = saved_events(vcpu)?;
        let start = Start::of(vcpu, pc, x0)?;
        enter(vcpu, &self.init, start)?;
        for (id, bytes) in events {
            vcpu.set_one_reg(id, &bytes)?;
        }
        vcpu.set_mp_state(mp_state::SUSPENDED)?;
        *self.state() = State::Suspended(id);
        tracing::info!("the guest has suspended its system");
        Ok(())
    }

    /// KVM says that there is something to wake up for.
    pub fn end(&self, vcpu: &mut dyn Vcpu) -> Result<(), Errno> {
        vcpu.set_mp_state(mp_state::RUNNABLE)?;
        *self.state() = State::Awake;
        tracing::info!("the guest wakes up");
        Ok(())
    }

    /// Has the guest wake up; `false` when it does not sleep.
    pub fn wake(&self) -> bool {
        let mut state = self.state();
        if let State::Suspended(id) = *state {
            *state = State::Waking(id);
        }
        let State::Waking(id) = *state else { return false };
        drop(state);
        if let Some(k) = self.kickers.get(id as usize) {
            k.kick();
        }
        true
    }

    /// On the vCPU's own thread: hears whether it was woken.
    pub fn settle(&self, id: u32, vcpu: &mut dyn Vcpu) -> Result<(), Errno> {
        let woken = *self.state() == State::Waking(id);
        if woken { self.end(vcpu) } else { Ok(()) }
    }
}

/// What SDEI keeps over the suspension, though the vCPU is reset: everything, and the PE is masked when it wakes, as after
/// every power-down that is woken from (TF-A does the same).
fn saved_events(vcpu: &mut dyn Vcpu) -> Result<Vec<(RegId, Vec<u8>)>, Errno> {
    let ids = vcpu.reg_list()?.into_iter().filter(is_sdei_of_vcpu);
    let mut saved = Vec::new();
    for id in ids {
        let mut bytes = vec![0; id.size()];
        vcpu.get_one_reg(id, &mut bytes)?;
        if let (SDEI_PE, Some(masked)) = (id.index(), bytes.first_mut()) {
            *masked |= 1;
        }
        saved.push((id, bytes));
    }
    Ok(saved)
}
