//! Device attributes of a vCPU: its PMU and the PPIs of its timers (kvm-arm64-abi.md §12).

use std::sync::atomic::Ordering;

use ulna_kvm_abi::device::{
    GRP_PMU_V3_CTRL, GRP_TIMER_CTRL, PMU_V3_INIT, PMU_V3_IRQ, TIMER_IRQ_HPTIMER, TIMER_IRQ_VTIMER,
};
use ulna_kvm_abi::{Errno, vcpu_feature};

use crate::Result;
use crate::vcpu::Vcpu;

impl Vcpu {
    /// KVM_HAS_DEVICE_ATTR.
    pub fn has_attr(&self, group: u32, attr: u64) -> Result<()> {
        self.vm.check_alive()?;
        let known = match group {
            GRP_PMU_V3_CTRL => {
                self.has_feature(vcpu_feature::PMU_V3) && matches!(attr, PMU_V3_IRQ | PMU_V3_INIT)
            }
            GRP_TIMER_CTRL => (TIMER_IRQ_VTIMER..=TIMER_IRQ_HPTIMER).contains(&attr),
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
            _ => Err(Errno::ENXIO),
        }
    }

    /// KVM_SET_DEVICE_ATTR.
    pub fn set_attr(&mut self, group: u32, attr: u64, value: u64) -> Result<()> {
        self.vm.check_alive()?;
        match group {
            GRP_PMU_V3_CTRL => self.set_pmu(attr, value as u32),
            GRP_TIMER_CTRL => self.set_timer_ppi(attr, value as u32),
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
        if self.vm.started.load(Ordering::SeqCst) {
            return Err(Errno::EBUSY);
        }
        let slot = usize::try_from(attr).ok().and_then(|n| self.vm.timer_ppis.get(n));
        slot.ok_or(Errno::ENXIO)?.store(irq, Ordering::SeqCst);
        Ok(())
    }

    fn set_pmu(&mut self, attr: u64, value: u32) -> Result<()> {
        if !self.has_feature(vcpu_feature::PMU_V3) {
            return Err(Errno::ENODEV);
        }
        if self.pmu_ready {
            return Err(Errno::EBUSY);
        }
        match attr {
            PMU_V3_IRQ => self.set_pmu_irq(value),
            PMU_V3_INIT => self.init_pmu(),
            _ => Err(Errno::ENXIO),
        }
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
            if self.vm.timer_ppis().contains(&irq) {
                return Err(Errno::EEXIST);
            }
        }
        self.pmu_ready = true;
        Ok(())
    }
}
