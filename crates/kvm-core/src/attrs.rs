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

/// perf's type number of the one PMU there is, as on the recorded hosts (/sys/bus/event_source/devices/*/type).
const PMU_TYPE: u32 = 10;
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
        if known { Ok(()) } else { Err(Errno::ENXIO) }
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
                    return Err(Errno::EINVAL);
                }
                if !self.has_feature(vcpu_feature::PMU_V3) {
                    return Err(Errno::ENODEV);
                }
                match self.shared.pmu_irq.load(Ordering::SeqCst) {
                    0 => Err(Errno::ENXIO),
                    irq => Ok(irq.into()),
                }
            }
            (GRP_PVTIME_CTRL, PVTIME_IPA) => Ok(self.stolen_time.unwrap_or(UNSET)),
            _ => Err(Errno::ENXIO),
        }
    }

    /// KVM_SET_DEVICE_ATTR. The value of KVM_ARM_VCPU_PMU_V3_FILTER is its structure as a little-endian number.
    pub fn set_attr(&mut self, group: u32, attr: u64, value: u64) -> Result<()> {
        self.vm.check_alive()?;
        match (group, attr) {
            (GRP_PMU_V3_CTRL, _) => self.set_pmu(attr, value),
            (GRP_TIMER_CTRL, _) => self.set_timer_ppi(attr, value as u32),
            (GRP_PVTIME_CTRL, PVTIME_IPA) => self.set_stolen_time(value),
            _ => Err(Errno::ENXIO),
        }
    }

    /// What KVM_SET_DEVICE_ATTR refuses before it reads the value.
    pub(crate) fn refused_unread(&self, group: u32, attr: u64) -> Result<()> {
        let pmu = self.has_feature(vcpu_feature::PMU_V3);
        match group {
            GRP_TIMER_CTRL if !self.vm.gic_exists() => Err(Errno::EINVAL),
            GRP_PMU_V3_CTRL if !pmu => Err(Errno::ENODEV),
            GRP_PMU_V3_CTRL if self.pmu_ready => Err(Errno::EBUSY),
            GRP_PMU_V3_CTRL if attr == PMU_V3_IRQ && !self.vm.gic_exists() => Err(Errno::EINVAL),
            _ => Ok(()),
        }
    }

    fn set_timer_ppi(&mut self, attr: u64, irq: u32) -> Result<()> {
        if !self.vm.gic_exists() || !(16..32).contains(&irq) {
            return Err(Errno::EINVAL);
        }
        if self.vm.timer_ppis_fixed.load(Ordering::SeqCst) {
            return Err(Errno::EBUSY);
        }
        let slot = usize::try_from(attr).ok().and_then(|n| self.vm.timer_ppis.get(n));
        slot.ok_or(Errno::ENXIO)?.store(irq, Ordering::SeqCst);
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
            Some(Err(_)) => Err(Errno::EINVAL),
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
            return Err(Errno::EINVAL);
        }
        let irq = self.shared.pmu_irq.load(Ordering::SeqCst);
        let lines = self.vm.with_gic(|g| g.gic.config().nr_irqs);
        let fits = lines.map_or(irq == 0, |n| (16..n).contains(&irq));
        if !fits {
            return Err(Errno::EINVAL);
        }
        let filter = self.vm.pmu_filter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.cpu.set_pmu_filter(filter);
        Ok(())
    }

    fn set_stolen_time(&mut self, ipa: u64) -> Result<()> {
        if !ipa.is_multiple_of(64) {
            return Err(Errno::EINVAL);
        }
        if self.stolen_time.is_some() {
            return Err(Errno::EEXIST);
        }
        if find_slot(&self.vm.memory.slots(), ipa).is_none_or(|s| s.readonly) {
            return Err(Errno::EINVAL);
        }
        self.stolen_time = Some(ipa);
        Ok(())
    }

    fn set_pmu(&mut self, attr: u64, value: u64) -> Result<()> {
        if !self.has_feature(vcpu_feature::PMU_V3) {
            return Err(Errno::ENODEV);
        }
        if self.pmu_ready {
            return Err(Errno::EBUSY);
        }
        match attr {
            PMU_V3_IRQ => self.set_pmu_irq(value as u32),
            PMU_V3_INIT => self.init_pmu(),
            PMU_V3_FILTER => self.filter_events(value),
            PMU_V3_SET_PMU if value as u32 != PMU_TYPE => Err(Errno::ENXIO),
            PMU_V3_SET_PMU if self.vm.started.load(Ordering::SeqCst) => Err(Errno::EBUSY),
            PMU_V3_SET_PMU => Ok(()),
            _ => Err(Errno::ENXIO),
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
            _ => return Err(Errno::EINVAL),
        };
        if base + count > space {
            return Err(Errno::EINVAL);
        }
        if self.vm.started.load(Ordering::SeqCst) {
            return Err(Errno::EBUSY);
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
        if !self.vm.gic_exists() || !(16..1020).contains(&irq) {
            return Err(Errno::EINVAL);
        }
        let others = self.vm.vcpus();
        let clash = others.values().map(|v| v.pmu_irq.load(Ordering::SeqCst)).filter(|&i| i != 0).any(|i| {
            // Seen from one vCPU, the irqs of all (its own among them) must be equal PPIs or different SPIs.
            if irq < 32 { i != irq } else { i == irq }
        });
        if clash {
            return Err(Errno::EINVAL);
        }
        if self.shared.pmu_irq.load(Ordering::SeqCst) != 0 {
            return Err(Errno::EBUSY);
        }
        self.shared.pmu_irq.store(irq, Ordering::SeqCst);
        Ok(())
    }

    fn init_pmu(&mut self) -> Result<()> {
        if self.vm.gic_exists() {
            if !self.vm.gic_ready() {
                return Err(Errno::ENODEV);
            }
            let irq = self.shared.pmu_irq.load(Ordering::SeqCst);
            if irq == 0 {
                return Err(Errno::ENXIO);
            }
            let me = Source::Pmu(self.shared.index);
            self.vm.with_gic(|g| g.claim(irq, me)).unwrap_or(Err(Errno::ENODEV))?;
        }
        self.pmu_ready = true;
        Ok(())
    }
}
