//! The service between a VM's vCPUs, its interrupt controller and the VMM.
//!
//! Locks: the interrupt controller's before the service's before a vCPU's power state.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ulna_arm_cpu::{CpuLines, SysReg};
use ulna_kvm_abi::{Errno, RegId, mp_state};
use ulna_vgic::{Region, Version};

use super::{Answer, CAP, Context, Machine, Reg, VERSION_1_1, World};
use crate::Result;
use crate::firmware::psci;
use crate::gic::GicState;
use crate::run::Leave;
use crate::shared::Shared;
use crate::vcpu::Vcpu;
use crate::vm::{Vm, VmInner};
use crate::why;

/// The service of a VM, once it was enabled.
pub(crate) type Service = Arc<Mutex<Machine>>;

fn locked(m: &Mutex<Machine>) -> MutexGuard<'_, Machine> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Offsets into the distributor, and into the second page of a redistributor.
mod offset {
    pub const ISACTIVER: u64 = 0x300;
    pub const SGI_PAGE: u64 = 0x1_0000;
}

/// What is around the service. Without an interrupt controller there are no interrupts to bind.
struct Around<'a> {
    vcpus: &'a [Arc<Shared>],
    gic: Option<&'a mut GicState>,
}

impl World for Around<'_> {
    fn is_on(&self, pe: usize) -> bool {
        self.vcpus.get(pe).is_some_and(|v| v.mp_state() != mp_state::STOPPED)
    }
    fn exists(&self, intid: u32) -> bool {
        self.gic.as_ref().is_some_and(|g| (16..g.gic.config().nr_irqs.min(1020)).contains(&intid))
    }
    fn is_active(&mut self, intid: u32) -> bool {
        let Some(g) = &mut self.gic else { return false };
        let n = if intid < 32 { self.vcpus.len() } else { 1 };
        (0..n).any(|pe| {
            g.sdei_word(pe, intid, offset::ISACTIVER + u64::from(intid / 32) * 4) >> (intid % 32) & 1 != 0
        })
    }
    fn connect(&mut self, pe: Option<usize>, intid: u32, taken: bool) -> (bool, bool) {
        let Some(g) = &mut self.gic else { return (false, false) };
        let changed = if taken { g.taken.insert((intid, pe)) } else { g.taken.remove(&(intid, pe)) };
        let known = if changed { g.gic.set_taken(pe, intid, taken).ok() } else { None };
        known.filter(|_| taken).unwrap_or_default()
    }
}

impl GicState {
    /// A word of the frame that holds this interrupt, by its offset in a distributor.
    fn sdei_word(&mut self, pe: usize, intid: u32, offset: u64) -> u64 {
        let own = intid < 32 && self.gic.config().version == Version::V3;
        let (region, offset) =
            if own { (Region::Redist(pe), offset + offset::SGI_PAGE) } else { (Region::Dist, offset) };
        self.gic.user_read(region, pe, offset)
    }

    /// Drives an interrupt line (a PPI's of that vCPU, or an SPI's): the interrupt controller's, or SDEI's.
    pub(crate) fn set_line(&mut self, vcpu: Option<usize>, intid: u32, level: bool) -> bool {
        let taken = self.taken.contains(&(intid, vcpu));
        if let Some(sdei) = self.sdei.as_ref().filter(|_| taken) {
            let mut m = locked(sdei);
            m.set_line(vcpu, intid, level, &Around { vcpus: &self.vcpus, gic: None });
            rouse(&mut m, &self.vcpus, None);
        }
        let done = match vcpu {
            Some(v) => self.gic.set_ppi(v, intid, level),
            None => self.gic.set_spi(intid, level),
        };
        done.is_ok()
    }

    /// Levels of 32 lines as a VMM restores them (LEVEL_INFO): of those that SDEI took, nothing else happens.
    pub(crate) fn restore_levels(&mut self, vcpu: usize, first: u32, levels: u32) {
        self.gic.set_user_line_levels(vcpu, first, levels);
        let Some(sdei) = &self.sdei else { return };
        let mut m = locked(sdei);
        for &(intid, pe) in &self.taken {
            let own = pe.is_none_or(|pe| pe == vcpu);
            if let Some(bit) = intid.checked_sub(first).filter(|b| *b < 32 && own) {
                m.restore_line(pe, intid, levels >> bit & 1 != 0);
            }
        }
    }
}

/// Has the vCPUs look that the service wants to look; `me` does so by itself.
fn rouse(m: &mut Machine, vcpus: &[Arc<Shared>], me: Option<usize>) {
    for pe in m.take_look() {
        let Some(v) = vcpus.get(pe) else { continue };
        v.sdei_look.store(true, Ordering::SeqCst);
        if Some(pe) != me {
            v.rouse(CpuLines::KICK);
        }
    }
}

impl VmInner {
    fn by_index(&self) -> Vec<Arc<Shared>> {
        let mut vcpus: Vec<_> = self.vcpus().values().cloned().collect();
        vcpus.sort_by_key(|v| v.index);
        vcpus
    }

    /// Runs `f` on the service, if it is enabled, and has vCPUs look.
    fn with_sdei<T>(
        &self,
        me: Option<usize>,
        f: impl FnOnce(&mut Machine, &mut dyn World) -> T,
    ) -> Option<T> {
        let service = self.firmware.sdei.get()?;
        let vcpus = self.by_index();
        let run = |gic: Option<&mut GicState>| {
            let mut m = locked(service);
            let r = f(&mut m, &mut Around { vcpus: &vcpus, gic });
            rouse(&mut m, &vcpus, me);
            r
        };
        let mut run = Some(run);
        let in_gic = self.with_gic(|g| run.take().map(|run| run(Some(g))));
        in_gic.flatten().or_else(|| run.take().map(|run| run(None)))
    }

    /// A new vCPU.
    pub(crate) fn add_sdei_pe(&self, index: usize) {
        if let Some(service) = self.firmware.sdei.get() {
            locked(service).add_pe(index);
        }
    }

    /// A vCPU has another affinity.
    pub(crate) fn set_sdei_affinity(&self, v: &Shared) {
        if let Some(service) = self.firmware.sdei.get() {
            locked(service).set_mpidr(v.index, psci::affinity(v));
        }
    }

    /// A vCPU begins anew.
    pub(crate) fn reset_sdei_pe(&self, index: usize) {
        self.with_sdei(Some(index), |m, world| m.reset_pe(index, world));
    }

    /// The system begins anew.
    pub(crate) fn reset_sdei(&self) {
        self.with_sdei(None, |m, world| m.reset(world));
    }

    /// A vCPU is on or off now: another may have to take its events.
    pub(crate) fn reconsider_sdei(&self) {
        self.with_sdei(None, |m, world| m.reconsider(world));
    }
}

impl Vm {
    /// Enables SDEI (capability 0x554C0002).
    pub(crate) fn enable_sdei(&self) -> Result<()> {
        self.0.before_vcpus(
            Errno::EBUSY.because("the VM has vCPUs: SDEI is enabled before the first"),
            || {
                self.0.firmware.sdei.get_or_init(Service::default);
            },
        )
    }

    /// KVM_NMI on vCPU `id`, from any thread: SDEI's host event. EINVAL where the guest cannot have it.
    pub fn nmi(&self, id: u32) -> Result<()> {
        self.0.check_alive()?;
        let v = self.0.vcpus().get(&id).cloned().ok_or(why::NO_VCPU)?;
        let raised = self.0.with_sdei(None, |m, _| m.host_nmi(v.index));
        let cannot = Errno::EINVAL.because("the guest has no SDEI, or not the host's event");
        if raised == Some(true) { Ok(()) } else { Err(cannot) }
    }
}

/// KVM_CHECK_EXTENSION of the capability.
pub(crate) fn extension(n: u32, strict: bool) -> Option<i32> {
    match n {
        CAP if !strict => Some(VERSION_1_1 as i32),
        ulna_kvm_abi::cap::USER_NMI if !strict => Some(1),
        _ => None,
    }
}

/// A call of the guest. PC is after the instruction.
pub(crate) fn call(vcpu: &mut Vcpu, id: u32) -> Result<Option<Leave>> {
    let pe = vcpu.shared.index;
    let mut x = [0; 6];
    x.copy_from_slice(&vcpu.cpu.state.x[..6]);
    match vcpu.vm.with_sdei(Some(pe), |m, world| m.call(pe, id, &x, world)) {
        // The other registers are as they were.
        Some(Answer::Value(v)) => vcpu.cpu.state.x[0] = v,
        Some(Answer::Complete(c)) => vcpu.resume_interrupted(&c),
        Some(Answer::Resume(c, at)) => {
            vcpu.resume_interrupted(&c);
            vcpu.cpu.state.set_sys(SysReg::ELR_EL1, c.pc);
            vcpu.cpu.state.set_sys(SysReg::SPSR_EL1, c.pstate);
            vcpu.cpu.enter_handler(at);
            vcpu.rearm_step();
        }
        None => vcpu.cpu.state.x[0] = super::status::NOT_SUPPORTED,
    }
    Ok(None)
}

impl Vcpu {
    /// KVM_NMI.
    pub fn nmi(&self) -> Result<()> {
        Vm(self.vm.clone()).nmi(self.shared.id)
    }

    fn resume_interrupted(&mut self, c: &Context) {
        self.cpu.state.x[..18].copy_from_slice(&c.x);
        let stepping = self.cpu.state.ss;
        self.cpu.return_to(c.pc, c.pstate as u32);
        self.keep_step(stepping);
    }

    /// Before the CPU executes: goes to the handler of an event that is due.
    pub(crate) fn take_sdei(&mut self) {
        if !self.shared.sdei_look.swap(false, Ordering::SeqCst) {
            return;
        }
        let vm = self.vm.clone();
        let Some(service) = vm.firmware.sdei.get() else { return };
        let vcpus = vm.by_index();
        let index = self.shared.index;
        // A critical event may interrupt the handler of a normal one at once.
        loop {
            let s = &self.cpu.state;
            let (pc, pstate) = (s.pc, u64::from(self.guest_pstate()));
            let interrupted = |event| {
                let mut x = [0; 18];
                x.copy_from_slice(&s.x[..18]);
                Context { x, pc, pstate, event }
            };
            let mut m = locked(service);
            let entry = m.deliver(index, &Around { vcpus: &vcpus, gic: None }, interrupted);
            rouse(&mut m, &vcpus, Some(index));
            drop(m);
            let Some(e) = entry else { return };
            let vectors = self.cpu.state.sys(SysReg::VBAR_EL1) & !0x7ff;
            let at = if e.relative { vectors.wrapping_add(e.address) } else { e.address };
            self.cpu.state.x[..4].copy_from_slice(&[e.event.into(), e.arg, pc, pstate]);
            self.cpu.enter_handler(at);
            self.rearm_step();
        }
    }

    /// Before KVM_RUN: EINVAL where what the VMM wrote does not fit together.
    pub(crate) fn check_sdei(&self) -> Result<()> {
        if !self.shared.sdei_look.load(Ordering::SeqCst) {
            return Ok(());
        }
        let Some(service) = self.vm.firmware.sdei.get() else { return Ok(()) };
        // VARange 1: 52 bits.
        let large = self.vm.id_values()[SysReg::ID_AA64MMFR2_EL1 as usize] >> 16 & 15 != 0;
        let mut m = locked(service);
        m.set_va_bits(if large { 52 } else { 48 });
        let odd = Errno::EINVAL.because("the registers of SDEI that were written do not fit together");
        if m.check(self.shared.index) { Ok(()) } else { Err(odd) }
    }

    /// Has the VM the service?
    pub(crate) fn sdei_enabled(&self) -> bool {
        self.vm.firmware.sdei.get().is_some()
    }
}

impl VmInner {
    /// Registers of the service for KVM_GET_REG_LIST.
    pub(crate) fn sdei_list(&self) -> Vec<RegId> {
        let list = self.firmware.sdei.get().map(|s| locked(s).reg_list());
        list.unwrap_or_default().into_iter().map(Reg::id).collect()
    }

    /// KVM_GET_ONE_REG through the vCPU with this index.
    pub(crate) fn get_sdei(&self, pe: usize, id: RegId, data: &mut [u8]) -> Result<()> {
        let service = self.firmware.sdei.get().ok_or(why::NO_REGISTER)?;
        let reg = Reg::from_id(id).ok_or(why::NO_REGISTER)?;
        let words = locked(service).get(pe, reg)?;
        if data.len() != words.len() * 8 {
            return Err(why::WRONG_SIZE);
        }
        for (b, w) in data.chunks_exact_mut(8).zip(words) {
            b.copy_from_slice(&w.to_le_bytes());
        }
        Ok(())
    }

    /// KVM_SET_ONE_REG through the vCPU with this index.
    pub(crate) fn set_sdei(&self, pe: usize, id: RegId, data: &[u8]) -> Result<()> {
        let reg = Reg::from_id(id).ok_or(why::NO_REGISTER)?;
        if data.len() != id.size() {
            return Err(why::WRONG_SIZE);
        }
        let word = |b: &[u8]| b.try_into().map_or(0, u64::from_le_bytes);
        let words: Vec<u64> = data.chunks_exact(8).map(word).collect();
        let started = self.started.load(Ordering::SeqCst);
        let done = self.with_sdei(Some(pe), |m, world| m.set(pe, reg, &words, started, world));
        done.unwrap_or(Err(why::NO_REGISTER))
    }
}
