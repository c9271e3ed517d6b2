//! Device attributes of a vCPU: its PMU, the PPIs of its timers, stolen time (kvm-arm64-abi.md §12).

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use ulna_arm_cpu::SysReg;
use ulna_arm_cpu::mem::physmap::find_slot;
use ulna_arm_cpu::pmu::EventFilter;
use ulna_kvm_abi::device::{
    GRP_PMU_V3_CTRL, GRP_PVTIME_CTRL, GRP_TIMER_CTRL, PMU_V3_FILTER, PMU_V3_INIT, PMU_V3_IRQ, PMU_V3_SET_PMU,
    PVTIME_IPA, TIMER_IRQ_HPTIMER, TIMER_IRQ_VTIMER,
};
use ulna_kvm_abi::{Errno, vcpu_feature};

use crate::Result;
use crate::gic::Source;
use crate::vcpu::Vcpu;
use crate::why;

/// perf's type number of the one PMU there is, as on the recorded hosts (/sys/bus/event_source/devices/*/type).
const PMU_TYPE: u32 = 10;
const NO_PMU_IRQ: Errno = Errno::ENXIO.because("the PMU has no interrupt: KVM_ARM_VCPU_PMU_V3_IRQ sets it");
const PMU_READY: Errno = Errno::EBUSY.because("the PMU is initialised");
/// KVM_GET_DEVICE_ATTR of a stolen-time address that is not set.
const UNSET: u64 = u64::MAX;

impl Vcpu {
    /// KVM_HAS_DEVICE_ATTR.
    pub fn has_attr(&self, group: u32, attr: u64) -> Result<()> {
        self.vm.check_alive()?;
        let known = match group {
            GRP_PMU_V3_CTRL => {
                self.has_feature(vcpu_feature::PMU_V3)
                    && matches!(attr, PMU_V3_IRQ | PMU_V3_INIT | PMU_V3_FILTER | PMU_V3_SET_PMU)
            }
            GRP_TIMER_CTRL => (TIMER_IRQ_VTIMER..=TIMER_IRQ_HPTIMER).contains(&attr),
            GRP_PVTIME_CTRL => attr == PVTIME_IPA,
            _ => false,
        };
        if known { Ok(()) } else { Err(why::NO_ATTRIBUTE) }
    }

    /// KVM_GET_DEVICE_ATTR.
    pub fn get_attr(&self, group: u32, attr: u64) -> Result<u64> {
        self.vm.check_alive()?;
        match (group, attr) {
            (GRP_TIMER_CTRL, TIMER_IRQ_VTIMER..=TIMER_IRQ_HPTIMER) => {
                Ok(self.vm.timer_ppis()[attr as usize].into())
            }
            (GRP_PMU_V3_CTRL, PMU_V3_IRQ) => {
                if !self.vm.gic_exists() {
                    return Err(why::NO_GIC);
                }
                if !self.has_feature(vcpu_feature::PMU_V3) {
                    return Err(why::NO_PMU);
                }
                match self.shared.pmu_irq.load(Ordering::SeqCst) {
                    0 => Err(NO_PMU_IRQ),
                    irq => Ok(irq.into()),
                }
            }
            (GRP_PVTIME_CTRL, PVTIME_IPA) => Ok(self.stolen_time.unwrap_or(UNSET)),
            _ => Err(why::NO_ATTRIBUTE),
        }
    }

    /// KVM_SET_DEVICE_ATTR. The value of KVM_ARM_VCPU_PMU_V3_FILTER is its structure as a little-endian number.
    pub fn set_attr(&mut self, group: u32, attr: u64, value: u64) -> Result<()> {
        self.vm.check_alive()?;
        match (group, attr) {
            (GRP_PMU_V3_CTRL, _) => self.set_pmu(attr, value),
            (GRP_TIMER_CTRL, _) => self.set_timer_ppi(attr, value as u32),
            (GRP_PVTIME_CTRL, PVTIME_IPA) => self.set_stolen_time(value),
            _ => Err(why::NO_ATTRIBUTE),
        }
    }

    /// What KVM_SET_DEVICE_ATTR refuses before it reads the value.
    pub(crate) fn refused_unread(&self, group: u32, attr: u64) -> Result<()> {
        let pmu = self.has_feature(vcpu_feature::PMU_V3);
        match group {
            GRP_TIMER_CTRL if !self.vm.gic_exists() => Err(why::NO_GIC),
            GRP_PMU_V3_CTRL if !pmu => Err(why::NO_PMU),
            GRP_PMU_V3_CTRL if self.pmu_ready => Err(PMU_READY),
            GRP_PMU_V3_CTRL if attr == PMU_V3_IRQ && !self.vm.gic_exists() => Err(why::NO_GIC),
            _ => Ok(()),
        }
    }

    fn set_timer_ppi(&mut self, attr: u64, irq: u32) -> Result<()> {
        if !self.vm.gic_exists() {
            return Err(why::NO_GIC);
        }
        if !(16..32).contains(&irq) {
            return Err(Errno::EINVAL.because("INTID {} is no PPI (16 to 31)").value(irq.into()));
        }
        if self.vm.timer_ppis_fixed.load(Ordering::SeqCst) {
            return Err(Errno::EBUSY.because("a vCPU has run and taken the timers' interrupts"));
        }
        let slot = usize::try_from(attr).ok().and_then(|n| self.vm.timer_ppis.get(n));
        slot.ok_or(why::NO_ATTRIBUTE)?.store(irq, Ordering::SeqCst);
        Ok(())
    }

    /// The first run takes the PPIs of the timers. One that was taken before a failure stays taken, as in KVM.
    pub(crate) fn claim_timers(&mut self) -> Result<()> {
        let [vtimer, ptimer, ..] = self.vm.timer_ppis();
        let me = self.shared.index;
        let claimed = self.vm.with_gic(|g| {
            g.claim(ptimer, Source::Ptimer(me))?;
            g.claim(vtimer, Source::Vtimer(me))
        });
        match claimed {
            None => Ok(()),
            Some(Err(_)) => Err(Errno::EINVAL.because("a timer's interrupt is another device's already")),
            Some(Ok(())) => {
                self.vm.timer_ppis_fixed.store(true, Ordering::SeqCst);
                Ok(())
            }
        }
    }

    /// What the first run asks of a PMU (kvm-arm64-abi.md §11.3).
    pub(crate) fn enable_pmu(&mut self) -> Result<()> {
        if !self.has_feature(vcpu_feature::PMU_V3) {
            return Ok(());
        }
        if !self.pmu_ready {
            return Err(Errno::EINVAL
                .because("the PMU is not initialised: KVM_ARM_VCPU_PMU_V3_INIT comes before KVM_RUN"));
        }
        let irq = self.shared.pmu_irq.load(Ordering::SeqCst);
        let lines = self.vm.with_gic(|g| g.gic.config().nr_irqs);
        let fits = lines.map_or(irq == 0, |n| (16..n).contains(&irq));
        if !fits {
            return Err(Errno::EINVAL
                .because("the PMU's interrupt {} is not one of the controller's")
                .value(irq.into()));
        }
        let m = self.check_initialised()?;
        self.cpu.set_pmu_filter(self.vm.event_filter(&m));
        Ok(())
    }

    fn set_stolen_time(&mut self, ipa: u64) -> Result<()> {
        if !ipa.is_multiple_of(64) {
            return Err(Errno::EINVAL
                .because("stolen time at {x}: the address must be a multiple of 64")
                .value(ipa));
        }
        if self.stolen_time.is_some() {
            return Err(Errno::EEXIST.because("the address of stolen time is set already"));
        }
        if find_slot(&self.vm.memory.slots(), ipa).is_none_or(|s| s.readonly) {
            return Err(Errno::EINVAL
                .because("stolen time at {x}: no writable memory slot has this address")
                .value(ipa));
        }
        self.stolen_time = Some(ipa);
        Ok(())
    }

    fn set_pmu(&mut self, attr: u64, value: u64) -> Result<()> {
        if !self.has_feature(vcpu_feature::PMU_V3) {
            return Err(why::NO_PMU);
        }
        if self.pmu_ready {
            return Err(PMU_READY);
        }
        match attr {
            PMU_V3_IRQ => self.set_pmu_irq(value as u32),
            PMU_V3_INIT => self.init_pmu(),
            PMU_V3_FILTER => self.filter_events(value),
            PMU_V3_SET_PMU if value as u32 != PMU_TYPE => {
                let e = Errno::ENXIO.because("PMU {}: the host's only one is {}");
                Err(e.values([value & 0xffff_ffff, PMU_TYPE.into()]))
            }
            PMU_V3_SET_PMU if self.vm.started.load(Ordering::SeqCst) => Err(why::STARTED),
            PMU_V3_SET_PMU => Ok(()),
            _ => Err(why::NO_ATTRIBUTE),
        }
    }

    /// struct kvm_pmu_event_filter: base event (15:0), events (31:16), action (39:32). The padding is not looked at.
    fn filter_events(&mut self, filter: u64) -> Result<()> {
        let (base, count, action) = (filter & 0xffff, filter >> 16 & 0xffff, filter >> 32 & 0xff);
        let m = self.check_initialised()?;
        // The hardware's event space: 10 bits with PMUv3, 16 from FEAT_PMUv3p1 on.
        let space = if m.limit(SysReg::ID_AA64DFR0_EL1) >> 8 & 0xf == 1 { 1 << 10 } else { 1 << 16 };
        let allow = match action {
            0 => true,
            1 => false,
            _ => {
                return Err(Errno::EINVAL
                    .because("filter action {}: there are 0 (ALLOW) and 1 (DENY)")
                    .value(action));
            }
        };
        if base + count > space {
            let e = Errno::EINVAL.because("events up to {x}: the host's end below {x}");
            return Err(e.values([base + count, space]));
        }
        if self.vm.started.load(Ordering::SeqCst) {
            return Err(why::STARTED);
        }
        let mut known = self.vm.pmu_filter.lock().unwrap_or_else(PoisonError::into_inner);
        // The first filter decides about all that none names.
        let mut new = known.as_deref().cloned().unwrap_or_else(|| EventFilter::new(space as u32, !allow));
        new.set(base as u32..(base + count) as u32, allow);
        *known = Some(Arc::new(new));
        Ok(())
    }

    /// A PPI, the same on all vCPUs, or an SPI, another on each.
    fn set_pmu_irq(&mut self, irq: u32) -> Result<()> {
        if !self.vm.gic_exists() {
            return Err(why::NO_GIC);
        }
        if !(16..1020).contains(&irq) {
            return Err(Errno::EINVAL.because("INTID {} is neither a PPI nor an SPI").value(irq.into()));
        }
        let others = self.vm.vcpus();
        let clash = others.values().map(|v| v.pmu_irq.load(Ordering::SeqCst)).filter(|&i| i != 0).any(|i| {
            // Seen from one vCPU, the irqs of all (its own among them) must be equal PPIs or different SPIs.
            if irq < 32 { i != irq } else { i == irq }
        });
        if clash {
            let e = Errno::EINVAL.because("INTID {}: the PMUs of a VM have one PPI for all, or an SPI each");
            return Err(e.value(irq.into()));
        }
        if self.shared.pmu_irq.load(Ordering::SeqCst) != 0 {
            return Err(Errno::EBUSY.because("the PMU has an interrupt already"));
        }
        self.shared.pmu_irq.store(irq, Ordering::SeqCst);
        Ok(())
    }

    fn init_pmu(&mut self) -> Result<()> {
        if self.vm.gic_exists() {
            if !self.vm.gic_ready() {
                return Err(Errno::ENODEV.because("the interrupt controller is not initialised yet"));
            }
            let irq = self.shared.pmu_irq.load(Ordering::SeqCst);
            if irq == 0 {
                return Err(NO_PMU_IRQ);
            }
            let me = Source::Pmu(self.shared.index);
            self.vm.with_gic(|g| g.claim(irq, me)).unwrap_or(Err(Errno::ENODEV)).map_err(|e| {
                e.or_because("the PMU's interrupt is another device's, or no line of the controller")
            })?;
        }
        self.pmu_ready = true;
        Ok(())
    }
}
