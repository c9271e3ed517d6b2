//! KVM_RUN: the checks of a first run, the loop, power, sleeping.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::{CpuLines, SysReg};
use ulna_kvm_abi::{exit, mp_state};
use ulna_vgic::timer;

use crate::Result;
use crate::clock::ClockKind;
use crate::stats::Stat;
use crate::vcpu::Vcpu;

/// Why `run` came back.
#[derive(Debug)]
pub enum Run<'a> {
    /// KVM_EXIT_MMIO, read: fill the bytes in before the next run.
    MmioRead(u64, &'a mut [u8]),
    /// KVM_EXIT_MMIO, write.
    MmioWrite(u64, &'a [u8]),
    /// KVM_EXIT_SYSTEM_EVENT: type and data.
    SystemEvent(u32, &'a [u64]),
    /// KVM_EXIT_HYPERCALL: function id and flags; arguments and results are in x0-x17.
    Hypercall(u64, u64),
    /// KVM_EXIT_DEBUG: ESR_EL2, FAR_EL2.
    Debug(u32, u64),
    /// KVM_EXIT_ARM_NISV: ESR_EL2.ISS as far as valid, IPA.
    ArmNisv(u64, u64),
    /// KVM_EXIT_DIRTY_RING_FULL: the VMM is to harvest and reset.
    DirtyRingFull,
    /// A kick, or a change of [`Vcpu::device_irq_level`]: KVM_RUN would fail with EINTR.
    Intr,
}

/// Registers in which no Arm core keeps anything: what a VMM wrote is gone once the vCPU runs.
const NO_BITS: [SysReg; 2] = [SysReg::AFSR0_EL1, SysReg::AFSR1_EL1];

/// What one pass of the loop asks `run` to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    Mmio,
    SystemEvent,
    Hypercall { function: u64, flags: u64 },
    Debug(u32, u64),
    ArmNisv { iss: u64, ipa: u64 },
    DirtyRingFull,
    Intr,
}

/// May the vCPU execute?
enum Power {
    On,
    /// Something else has to be looked at first.
    Again,
    Leave(Leave),
}

impl Vcpu {
    /// What happens once, before the first instruction (kvm-arm64-abi.md §11.3).
    fn first_run(&mut self) -> Result<()> {
        if self.ran {
            return Ok(());
        }
        let m = self.check_initialised()?;
        self.vm.map_gic()?;
        let vgic3 = self.vm.with_gic(|g| g.gic.config().version == ulna_vgic::Version::V3).unwrap_or(false);
        self.vm.finish_id_registers(&m, vgic3);
        self.vm.check_choices(&m)?;
        self.claim_timers()?;
        self.enable_pmu()?;
        let state = &mut self.cpu.state;
        self.vm.start(&m, vgic3, |r, v| state.set_sys(r, v));
        let f = m.features_for(|r| self.cpu.state.sys(r));
        self.cpu.set_features(f);
        self.settle_counters();
        self.user_irqchip = !self.vm.gic_exists();
        self.ran = true;
        Ok(())
    }

    /// The checks before KVM_RUN looks at its page.
    pub(crate) fn prepare_run(&mut self) -> Result<()> {
        self.vm.check_alive()?;
        if !self.ran {
            self.check_initialised()?;
        }
        self.check_sdei()?;
        self.first_run()
    }

    /// KVM_RUN.
    pub fn run(&mut self) -> Result<Run<'_>> {
        self.prepare_run()?;
        self.enter_debug();
        self.complete_exit();
        let left = if self.shared.immediate_exit.load(Ordering::SeqCst) {
            Ok(Leave::Intr)
        } else {
            self.shared.running.store(true, Ordering::SeqCst);
            let left = self.run_until_left();
            self.shared.running.store(false, Ordering::SeqCst);
            left
        };
        self.leave_debug(&left);
        Ok(match left? {
            Leave::Mmio => match self.mmio.parts() {
                (ipa, true, data) => Run::MmioWrite(ipa, data),
                (ipa, false, data) => Run::MmioRead(ipa, data),
            },
            Leave::SystemEvent => Run::SystemEvent(self.event.kind, self.event.data()),
            Leave::Hypercall { function, flags } => Run::Hypercall(function, flags),
            Leave::Debug(esr, far) => Run::Debug(esr, far),
            Leave::ArmNisv { iss, ipa } => Run::ArmNisv(iss, ipa),
            Leave::DirtyRingFull => Run::DirtyRingFull,
            Leave::Intr => Run::Intr,
        })
    }

    fn run_until_left(&mut self) -> Result<Leave> {
        self.pstate_rest = 0;
        self.update_stolen_time(self.shared.client_thread.load(Ordering::Relaxed) != 0);
        for r in NO_BITS {
            self.cpu.state.set_sys(r, 0);
        }
        let left = loop {
            let interrupted = self.shared.take_kick() || self.shared.immediate_exit.load(Ordering::SeqCst);
            if interrupted || self.device_levels_changed() {
                self.shared.stats.count(Stat::Signal);
                break Ok(Leave::Intr);
            }
            match self.power() {
                Ok(Power::On) => {}
                Ok(Power::Again) => continue,
                Ok(Power::Leave(l)) => break Ok(l),
                Err(e) => break Err(e),
            }
            if self.shared.ring().is_some_and(|r| r.full()) {
                break Ok(Leave::DirtyRingFull);
            }
            self.update_timers();
            self.take_sdei();
            if self.device_levels_changed() {
                break Ok(Leave::Intr);
            }
            if self.stolen.is_some() {
                self.update_stolen_time(false);
            }
            let exit = self.cpu.run();
            self.shared.stats.count(Stat::Exits);
            self.update_pmu();
            match self.handle(exit) {
                Ok(None) => {}
                Ok(Some(l)) => break Ok(l),
                Err(e) => break Err(e),
            }
        };
        self.vm.icount.store(self.cpu.state.icount, Ordering::Relaxed);
        // Outside KVM_RUN nobody needs to be woken for a timer.
        if self.planned.take().is_some() {
            self.vm.timers.set(self.shared.id, None, &self.shared);
        }
        if self.user_irqchip {
            self.update_timer_lines();
            self.device_irq_level = self.device_levels();
        }
        left
    }

    /// Outputs of in-kernel devices, as `kvm_run` shows them.
    fn device_levels(&self) -> u64 {
        let [virt, phys] = self.timer_levels.map(|l| l == Some(true));
        u64::from(virt) | u64::from(phys) << 1 | u64::from(self.pmu_level) << 2
    }

    /// Must a VMM that is the interrupt controller hear of a change?
    fn device_levels_changed(&self) -> bool {
        self.user_irqchip && self.device_levels() != self.device_irq_level
    }

    /// Looks at mp_state: blocks while the vCPU is stopped, carries out a reset that CPU_ON asked for.
    fn power(&mut self) -> Result<Power> {
        let (state, reset) = {
            let mut p = self.shared.power();
            while p.mp_state == mp_state::STOPPED {
                let seen = self.shared.wakes();
                if self.shared.is_kicked() || self.shared.immediate_exit.load(Ordering::SeqCst) {
                    return Ok(Power::Again);
                }
                p = self.shared.wait(p, seen, None);
            }
            (p.mp_state, p.reset.take())
        };
        if let Some(to) = reset {
            self.apply_power_on(to)?;
            self.rearm_step();
        }
        if state != mp_state::SUSPENDED {
            return Ok(Power::On);
        }
        // As WFI, but the VMM hears of the wake-up and ends the suspension; and what the guest disabled on its way here, the
        // groups of interrupts, does not count.
        self.wait(None, true);
        if self.wakes(true) {
            self.event.set(exit::SYSTEM_EVENT_WAKEUP, None);
            return Ok(Power::Leave(Leave::SystemEvent));
        }
        Ok(Power::Again)
    }

    /// Brings the timers' outputs to the GIC; the counter value at which the next one rises by itself.
    fn update_timer_lines(&mut self) -> Option<u64> {
        let (voff, poff) = (self.vm.cntvoff.load(Ordering::Relaxed), self.vm.cntpoff.load(Ordering::Relaxed));
        self.cpu.cntvoff = voff;
        self.cpu.cntpoff = poff;
        let s = &self.cpu.state;
        let now = self.vm.clock.counter(s.icount);
        let outputs = [
            timer::evaluate(s.sys(SysReg::CNTV_CTL_EL0), s.sys(SysReg::CNTV_CVAL_EL0), now, voff),
            timer::evaluate(s.sys(SysReg::CNTP_CTL_EL0), s.sys(SysReg::CNTP_CVAL_EL0), now, poff),
        ];
        for (n, output) in outputs.iter().enumerate() {
            if Some(output.line) != self.timer_levels[n] {
                self.timer_levels[n] = Some(output.line);
                let (index, ppi) = (self.shared.index, self.vm.timer_ppis()[n]);
                self.vm.with_gic(|g| {
                    // The PPI exists for every vCPU of the GIC.
                    g.set_line(Some(index), ppi, output.line);
                });
            }
        }
        outputs.iter().filter_map(|o| o.deadline).min()
    }

    /// Brings the timers' outputs to the GIC and plans the next look at them while the CPU runs.
    fn update_timers(&mut self) {
        let deadline = self.update_timer_lines();
        if self.vm.clock.kind() == ClockKind::Insn {
            self.cpu.budget = deadline.map_or(u64::MAX, |d| self.vm.clock.icount_at(d));
        } else if deadline != self.planned {
            let wait = |d| self.vm.clock.until(d, self.cpu.state.icount);
            let when = deadline.and_then(|d| Instant::now().checked_add(wait(d)));
            self.vm.timers.set(self.shared.id, when, &self.shared);
            self.planned = deadline;
        }
    }

    /// Brings the PMU's overflow output to the GIC.
    fn update_pmu(&mut self) {
        if !self.pmu_ready {
            return;
        }
        let level = self.cpu.pmu_interrupt();
        if level == self.pmu_level {
            return;
        }
        self.pmu_level = level;
        let (index, irq) = (self.shared.index, self.shared.pmu_irq.load(Ordering::Relaxed));
        self.vm.with_gic(|g| {
            // Checked when it was set.
            g.set_line((irq < 32).then_some(index), irq, level);
        });
    }

    /// WFI: blocks until an interrupt is pending, the counter reaches `until` (WFIT), or the loop has something else to
    /// look at (a kick, a changed power state).
    pub(crate) fn sleep(&mut self, until: Option<u64>) {
        self.wait(until, false);
    }

    /// The same, also for a vCPU whose system is suspended.
    fn wait(&mut self, until: Option<u64>, suspended: bool) {
        loop {
            let deadline = self.update_timer_lines();
            // A timer that is up ends the waiting even where nobody carries its interrupt to the CPU.
            if self.wakes(suspended) || self.user_irqchip && self.timer_levels.contains(&Some(true)) {
                return;
            }
            let icount = self.cpu.state.icount;
            let now = self.vm.clock.counter(icount);
            if until.is_some_and(|u| now >= u) {
                return;
            }
            let deadline = [deadline, until].into_iter().flatten().min();
            if let (Some(d), ClockKind::Insn) = (deadline, self.vm.clock.kind())
                && !self.shared.is_kicked()
            {
                self.vm.clock.skip_to(d, icount);
                continue;
            }
            let wait = deadline.map(|d| self.vm.clock.until(d, icount).min(Duration::from_secs(1 << 20)));
            let p = self.shared.power();
            let seen = self.shared.wakes();
            if self.cpu.lines.get() & CpuLines::KICK != 0 {
                // The loop looks at everything that a kick can mean.
                self.cpu.lines.clear(CpuLines::KICK);
                return;
            }
            if !self.wakes(suspended) {
                self.shared.stats.set_blocking(true);
                let since = Instant::now();
                drop(self.shared.wait(p, seen, wait));
                self.shared.stats.set_blocking(false);
                self.shared.stats.waited(since.elapsed());
            }
        }
    }

    /// Is there an interrupt that ends waiting?
    fn wakes(&self, suspended: bool) -> bool {
        self.interrupt_pending() || suspended && self.shared.wakes_up()
    }

    pub(crate) fn interrupt_pending(&self) -> bool {
        self.cpu.lines.get() & (CpuLines::IRQ | CpuLines::FIQ | CpuLines::VSERROR) != 0
    }
}
