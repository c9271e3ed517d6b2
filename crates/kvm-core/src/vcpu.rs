//! A vCPU descriptor: initialisation, the run loop, power, sleeping.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use ulna_arm_cpu::shared::Pe;
use ulna_arm_cpu::{Cpu, CpuConfig, CpuLines, FeatSet, SysReg};
use ulna_kvm_abi::{ARM_TARGET_GENERIC_V8, Errno, VcpuInit, mp_state, vcpu_feature};
use ulna_machine::{Machine, VcpuFeatures};
use ulna_vgic::timer;

use crate::Result;
use crate::clock::ClockKind;
use crate::exits::Mmio;
use crate::vm::VmInner;

/// PPIs of the EL1 timers, as KVM wires them by default.
const PPI_VTIMER: u32 = 27;
const PPI_PTIMER: u32 = 30;

/// A reset that PSCI CPU_ON asked for, carried out by the vCPU's own thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResetTo {
    pub pc: u64,
    pub x0: u64,
    pub big_endian: bool,
}

#[derive(Default)]
struct Power {
    mp_state: u32,
    reset: Option<ResetTo>,
}

/// A vCPU as other threads see it.
#[derive(Default)]
pub(crate) struct Shared {
    pub id: u32,
    pe: OnceLock<Arc<Pe>>,
    power: Mutex<Power>,
    /// Something happened that a sleeping vCPU must look at.
    wake: Condvar,
    kicked: AtomicBool,
    timer_due: AtomicBool,
    /// Levels of the input pins without an in-kernel interrupt controller.
    pins: AtomicU32,
}

impl Shared {
    fn lines(&self) -> Option<&Arc<CpuLines>> {
        self.pe.get().map(|p| &p.lines)
    }

    /// Wakes the vCPU's thread wherever it is.
    fn rouse(&self, bits: u32) {
        if let Some(l) = self.lines() {
            l.set(bits);
        }
        drop(self.power.lock().unwrap_or_else(|e| e.into_inner()));
        self.wake.notify_all();
    }

    /// Makes `run` return EINTR.
    pub fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.rouse(CpuLines::KICK);
    }

    /// Called by the timer thread.
    pub fn timer_due(&self) {
        self.timer_due.store(true, Ordering::SeqCst);
        self.rouse(CpuLines::KICK);
    }

    /// Levels of the virtual interrupt lines.
    pub fn set_lines(&self, irq: bool, fiq: bool) {
        let Some(l) = self.lines() else { return };
        l.set_lines(irq, fiq);
        if irq || fiq {
            self.rouse(0);
        }
    }

    /// An input pin, without an in-kernel interrupt controller.
    pub fn set_pin(&self, fiq: bool, level: bool) {
        let bit = if fiq { 2 } else { 1 };
        let pins = if level {
            self.pins.fetch_or(bit, Ordering::SeqCst) | bit
        } else {
            self.pins.fetch_and(!bit, Ordering::SeqCst) & !bit
        };
        self.set_lines(pins & 1 != 0, pins & 2 != 0);
    }

    /// KVM_GET_MP_STATE.
    pub fn mp_state(&self) -> u32 {
        self.power.lock().unwrap_or_else(|e| e.into_inner()).mp_state
    }

    pub fn set_mp_state(&self, s: u32) {
        self.power.lock().unwrap_or_else(|e| e.into_inner()).mp_state = s;
        self.rouse(CpuLines::KICK);
    }

    /// PSCI CPU_ON: `false` when it is on already.
    pub fn power_on(&self, to: ResetTo) -> bool {
        let mut p = self.power.lock().unwrap_or_else(|e| e.into_inner());
        if p.mp_state != mp_state::STOPPED {
            return false;
        }
        p.mp_state = mp_state::RUNNABLE;
        p.reset = Some(to);
        drop(p);
        self.rouse(CpuLines::KICK);
        true
    }
}

/// Why `run` came back.
#[derive(Debug)]
pub enum Run<'a> {
    /// KVM_EXIT_MMIO, read: fill the bytes in before the next run.
    MmioRead(u64, &'a mut [u8]),
    /// KVM_EXIT_MMIO, write.
    MmioWrite(u64, &'a [u8]),
    /// KVM_EXIT_SYSTEM_EVENT: type and data.
    SystemEvent(u32, &'a [u64]),
    /// KVM_EXIT_DEBUG: ESR_EL2, FAR_EL2.
    Debug(u32, u64),
    /// A kick.
    Intr,
}

/// What one pass of the loop asks `run` to return.
pub(crate) enum Leave {
    Mmio,
    SystemEvent,
    Debug(u32, u64),
    Intr,
}

/// A vCPU descriptor.
pub struct Vcpu {
    pub(crate) vm: Arc<VmInner>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) cpu: Box<Cpu>,
    /// Index in the order of ids, which is the GIC's index; known from the first run on.
    pub(crate) index: usize,
    init: Option<VcpuInit>,
    ran: bool,
    pub(crate) mmio: Mmio,
    pub(crate) event: (u32, [u64; 1]),
    /// Levels of the timer outputs as the GIC knows them: virtual, physical.
    timer_levels: [bool; 2],
    planned: Option<u64>,
}

impl Vcpu {
    pub(crate) fn new(vm: Arc<VmInner>, id: u32) -> Vcpu {
        let cpu = Box::new(Cpu::new(CpuConfig {
            features: FeatSet::EMPTY,
            memory: vm.memory.clone(),
            shared: vm.shared.clone(),
            clock: vm.clock.clone(),
            random: vm.config.random.clone(),
        }));
        let shared = Arc::new(Shared { id, ..Shared::default() });
        let _ = shared.pe.set(cpu.pe.clone());
        Vcpu {
            vm,
            shared,
            cpu,
            index: 0,
            init: None,
            ran: false,
            mmio: Mmio::default(),
            event: (0, [0]),
            timer_levels: [false; 2],
            planned: None,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Makes `run` return [`Run::Intr`]; from any thread, sticky.
    pub fn kicker(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        let s = self.shared.clone();
        move || s.kick()
    }

    /// Instructions executed so far.
    pub fn instructions(&self) -> u64 {
        self.cpu.state.icount
    }

    /// KVM_GET_MP_STATE.
    pub fn mp_state(&self) -> u32 {
        self.shared.mp_state()
    }

    /// KVM_SET_MP_STATE.
    pub fn set_mp_state(&mut self, s: u32) -> Result<()> {
        if !matches!(s, mp_state::RUNNABLE | mp_state::STOPPED | mp_state::SUSPENDED) {
            return Err(Errno::EINVAL);
        }
        self.shared.set_mp_state(s);
        Ok(())
    }

    pub(crate) fn check_initialised(&self) -> Result<Arc<Machine>> {
        match (&self.init, self.vm.machine()) {
            (Some(_), Some(m)) => Ok(m),
            _ => Err(Errno::ENOEXEC),
        }
    }

    /// The vCPU features it was initialised with.
    pub(crate) fn has_feature(&self, bit: u32) -> bool {
        self.init.is_some_and(|i| i.features[0] >> bit & 1 != 0)
    }

    /// KVM_ARM_VCPU_INIT.
    pub fn init(&mut self, init: &VcpuInit) -> Result<()> {
        if init.target != ARM_TARGET_GENERIC_V8 {
            return Err(Errno::EINVAL);
        }
        if init.features[1..].iter().any(|f| *f != 0) || init.features[0] & !0x7f != 0 {
            return Err(Errno::ENOENT);
        }
        let wanted = VcpuFeatures::from_bits(init.features[0]);
        let supported = crate::vm::Vm(self.vm.clone()).supported_features();
        let address = init.features[0] >> vcpu_feature::PTRAUTH_ADDRESS & 1;
        let generic = init.features[0] >> vcpu_feature::PTRAUTH_GENERIC & 1;
        if !supported.contains(wanted) || address != generic {
            return Err(Errno::EINVAL);
        }
        let lasting = wanted.without(VcpuFeatures::POWER_OFF);
        let same = |a: &VcpuInit| a.features[0] & !1 == init.features[0] & !1;
        if self.init.as_ref().is_some_and(|i| !same(i)) {
            return Err(Errno::EINVAL);
        }
        {
            // Features are those of the VM, from the first vCPU on.
            let mut f = self.vm.features.lock().unwrap_or_else(|e| e.into_inner());
            if f.is_some_and(|f| f != lasting) {
                return Err(Errno::EINVAL);
            }
            if f.is_none() {
                *f = Some(lasting);
                let c = &self.vm.config;
                let m = Machine::new(&c.profile, c.policy, lasting);
                *self.vm.machine.lock().unwrap_or_else(|e| e.into_inner()) = Some(Arc::new(m));
            }
        }
        let first = self.init.is_none();
        self.init = Some(*init);
        self.reset(first)?;
        let off = init.features[0] >> vcpu_feature::POWER_OFF & 1 != 0;
        {
            let mut p = self.shared.power.lock().unwrap_or_else(|e| e.into_inner());
            p.reset = None;
            p.mp_state = if off { mp_state::STOPPED } else { mp_state::RUNNABLE };
        }
        Ok(())
    }

    /// The state after VCPU_INIT and CPU_ON (kvm-arm64-abi.md §11.2). ID registers take their values at the first one.
    fn reset(&mut self, first: bool) -> Result<()> {
        let m = self.check_initialised()?;
        let s = &mut self.cpu.state;
        for &r in SysReg::ALL {
            let id = ulna_arm_regs::id::IdReg::of(r).is_some() || ulna_arm_regs::id::in_id_space(r);
            if id && !first {
                continue;
            }
            if let Some(v) = m.reset_value(r, self.shared.id) {
                s.set_sys(r, v);
            }
        }
        s.set_el_sp(1, 1);
        s.x[..31].fill(0);
        s.set_banked_sp(0, 0);
        s.v = [0; 32];
        s.fpsr = 0;
        s.fpcr = 0;
        s.pc = 0;
        s.nzcv = 0;
        s.daif = 0x3c0;
        s.set_el_sp(1, 1);
        (s.pan, s.uao, s.dit, s.ssbs, s.ss, s.il, s.btype) = (false, false, false, false, false, false, 0);
        for t in [SysReg::CNTV_CTL_EL0, SysReg::CNTV_CVAL_EL0, SysReg::CNTP_CTL_EL0, SysReg::CNTP_CVAL_EL0] {
            s.set_sys(t, 0);
        }
        for n in 0..16 {
            self.cpu.ccsidr[n as usize] = m.ccsidr(n);
        }
        self.mmio = Mmio::default();
        self.planned = None;
        Ok(())
    }

    fn apply_power_on(&mut self, to: ResetTo) -> Result<()> {
        self.reset(false)?;
        self.cpu.state.pc = to.pc;
        self.cpu.state.x[0] = to.x0;
        if to.big_endian {
            let v = self.cpu.state.sys(SysReg::SCTLR_EL1) | 1 << 25;
            self.cpu.state.set_sys(SysReg::SCTLR_EL1, v);
        }
        Ok(())
    }

    /// What happens once, before the first instruction: the ID registers become the CPU's features.
    fn first_run(&mut self) -> Result<()> {
        if self.ran {
            return Ok(());
        }
        let m = self.check_initialised()?;
        {
            let setup = self.vm.gic_setup.lock().unwrap_or_else(|e| e.into_inner());
            let ready = self.vm.gic.lock().unwrap_or_else(|e| e.into_inner()).is_some();
            if setup.exists() && !ready {
                return Err(Errno::EBUSY);
            }
        }
        let vgic3 = self.vm.with_gic(|g| g.gic.config().version == ulna_vgic::Version::V3).unwrap_or(false);
        for &r in SysReg::ALL {
            let v = self.cpu.state.sys(r);
            if ulna_arm_regs::id::in_id_space(r) {
                self.cpu.state.set_sys(r, m.at_first_run(r, v, vgic3));
            }
        }
        let f = m.features_for(|r| self.cpu.state.sys(r));
        self.cpu.set_features(f);
        let vcpus = self.vm.vcpus.read().unwrap_or_else(|e| e.into_inner());
        self.index = vcpus.keys().position(|k| *k == self.shared.id).unwrap_or(0);
        drop(vcpus);
        self.vm.started.store(true, Ordering::SeqCst);
        self.ran = true;
        Ok(())
    }

    /// KVM_RUN.
    pub fn run(&mut self) -> Result<Run<'_>> {
        self.first_run()?;
        self.complete_mmio();
        let leave = loop {
            if self.shared.kicked.swap(false, Ordering::SeqCst) {
                break Leave::Intr;
            }
            if !self.wait_for_power()? {
                continue;
            }
            self.update_timers();
            let exit = self.cpu.run();
            if let Some(l) = self.handle(exit)? {
                break l;
            }
        };
        self.vm.timers.set(self.shared.id, None, &self.shared);
        self.planned = None;
        Ok(match leave {
            Leave::Mmio => match self.mmio.parts() {
                (ipa, true, data) => Run::MmioWrite(ipa, data),
                (ipa, false, data) => Run::MmioRead(ipa, data),
            },
            Leave::SystemEvent => Run::SystemEvent(self.event.0, &self.event.1),
            Leave::Debug(esr, far) => Run::Debug(esr, far),
            Leave::Intr => Run::Intr,
        })
    }

    /// Blocks while the vCPU is powered off; `false` after a kick.
    fn wait_for_power(&mut self) -> Result<bool> {
        let reset = {
            let mut p = self.shared.power.lock().unwrap_or_else(|e| e.into_inner());
            while p.mp_state == mp_state::STOPPED {
                if self.shared.kicked.load(Ordering::SeqCst) {
                    return Ok(false);
                }
                p = self.shared.wake.wait(p).unwrap_or_else(|e| e.into_inner());
            }
            p.reset.take()
        };
        if let Some(to) = reset {
            self.apply_power_on(to)?;
        }
        let suspended = self.shared.mp_state() == mp_state::SUSPENDED;
        if suspended && !self.sleep(None) {
            return Ok(false);
        }
        if suspended {
            self.shared.set_mp_state(mp_state::RUNNABLE);
        }
        Ok(true)
    }

    /// Brings the timers' outputs to the GIC and plans the next look.
    pub(crate) fn update_timers(&mut self) {
        let (voff, poff) = (self.vm.cntvoff.load(Ordering::Relaxed), self.vm.cntpoff.load(Ordering::Relaxed));
        self.cpu.cntvoff = voff;
        self.cpu.cntpoff = poff;
        self.shared.timer_due.store(false, Ordering::SeqCst);
        let s = &self.cpu.state;
        let now = ulna_arm_cpu::cpu::Clock::counter(&*self.vm.clock, s.icount);
        let outputs = [
            timer::evaluate(s.sys(SysReg::CNTV_CTL_EL0), s.sys(SysReg::CNTV_CVAL_EL0), now, voff),
            timer::evaluate(s.sys(SysReg::CNTP_CTL_EL0), s.sys(SysReg::CNTP_CVAL_EL0), now, poff),
        ];
        for (n, ppi) in [PPI_VTIMER, PPI_PTIMER].into_iter().enumerate() {
            if outputs[n].line != self.timer_levels[n] {
                self.timer_levels[n] = outputs[n].line;
                let index = self.index;
                self.vm.with_gic(|g| {
                    // The PPI exists for every vCPU of the GIC.
                    let _ = g.gic.set_ppi(index, ppi, outputs[n].line);
                });
            }
        }
        let deadline = outputs.iter().filter_map(|o| o.deadline).min();
        if self.vm.clock.kind() == ClockKind::Insn {
            self.cpu.budget = deadline.map_or(u64::MAX, |d| self.vm.clock.icount_at(d));
            self.planned = deadline;
        } else if deadline != self.planned {
            let when = deadline.and_then(|d| Instant::now().checked_add(self.vm.clock.until(d, s.icount)));
            self.vm.timers.set(self.shared.id, when, &self.shared);
            self.planned = deadline;
        }
    }

    /// WFI: blocks until an interrupt is pending, a timer is due, or a kick. `false` after a kick.
    /// `until` is a counter value (WFIT).
    pub(crate) fn sleep(&mut self, until: Option<u64>) -> bool {
        loop {
            self.update_timers();
            if self.shared.kicked.load(Ordering::SeqCst) {
                return false;
            }
            if self.interrupt_pending() {
                return true;
            }
            let icount = self.cpu.state.icount;
            let now = ulna_arm_cpu::cpu::Clock::counter(&*self.vm.clock, icount);
            if until.is_some_and(|u| now >= u) {
                return true;
            }
            let deadline = [self.planned, until].into_iter().flatten().min();
            let wait = match (deadline, self.vm.clock.kind()) {
                (Some(d), ClockKind::Insn) => {
                    self.vm.clock.skip_to(d, icount);
                    continue;
                }
                (Some(d), ClockKind::Host) => self.vm.clock.until(d, icount),
                (None, _) => Duration::from_secs(3600),
            };
            let p = self.shared.power.lock().unwrap_or_else(|e| e.into_inner());
            let due = self.shared.timer_due.load(Ordering::SeqCst);
            if due || self.interrupt_pending() || self.shared.kicked.load(Ordering::SeqCst) {
                continue;
            }
            drop(self.shared.wake.wait_timeout(p, wait).unwrap_or_else(|e| e.into_inner()));
        }
    }

    fn interrupt_pending(&self) -> bool {
        self.cpu.lines.get() & (CpuLines::IRQ | CpuLines::FIQ | CpuLines::VSERROR) != 0
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.vm.timers.set(self.shared.id, None, &self.shared);
    }
}
