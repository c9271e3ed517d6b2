//! What a VM is besides its feature ID registers, where a software CPU lets the VMM choose (policy `soft`, not in strict
//! mode): the interrupt controller's identity, the counter's frequency, the PMU's events, the block of DC ZVA; and what
//! the first run holds against each other (seed-systems.md §4.3, §4.4).

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use ulna_arm_cpu::SysReg;
use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::pmu::EventFilter;
use ulna_kvm_abi::Errno;
use ulna_machine::{Machine, Surroundings};
use ulna_vgic::{DistIdentity, Version};

use crate::Result;
use crate::gic::GicState;
use crate::one_reg::refusal;
use crate::vm::VmInner;
use crate::why;

/// GICD_TYPER's offset.
pub(crate) const GICD_TYPER: u64 = 4;
/// ICC_CTLR_EL1 as KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS names it.
pub(crate) const ICC_CTLR: u16 = SysReg::ICC_CTLR_EL1.code();

/// What a distributor can say at most: LPIs of 16 bits, and that no SPI goes to one of several.
const MOST_OF_TYPER: DistIdentity = DistIdentity { lpis: true, lpi_id_bits: 16, no_one_of_n: true };

impl VmInner {
    /// May the VMM choose what on hardware is the hardware's?
    pub fn identity_is_chosen(&self) -> bool {
        self.frequency_is_writable()
    }

    /// A register of the VM that only the soft policy has: the bits that may be changed, and the most they can say.
    pub fn chosen(&self, m: &Machine, r: SysReg) -> Option<(u64, u64)> {
        m.chosen(r, self.traits())
    }

    /// Writes one, before the first run.
    pub fn set_chosen(&self, m: &Machine, r: SysReg, v: u64) -> Result<()> {
        self.chosen(m, r).ok_or(why::NO_REGISTER)?;
        m.check_chosen(r, v, self.traits()).map_err(refusal)?;
        let mut values = self.id_values();
        let now = values[r as usize];
        if v == now {
            return Ok(());
        }
        if self.started.load(Ordering::SeqCst) {
            return Err(why::STARTED);
        }
        values[r as usize] = v;
        if r == SysReg::CNTFRQ_EL0 {
            self.clock.set_hz(v);
            if !self.offsets_fixed.load(Ordering::SeqCst) {
                // The virtual counter starts near zero.
                self.cntvoff.store(self.clock.counter(0), Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// The VMM's filter of PMU events without those that PMCEID0_EL0 and PMCEID1_EL0 no longer announce.
    pub fn event_filter(&self, m: &Machine) -> Option<Arc<EventFilter>> {
        let filter = self.pmu_filter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut new: Option<EventFilter> = None;
        for (r, first) in [(SysReg::PMCEID0_EL0, 0), (SysReg::PMCEID1_EL0, 32)] {
            let Some((_, limit)) = self.chosen(m, r) else { continue };
            let gone = limit & !self.id_values()[r as usize];
            for bit in (0..64u32).filter(|b| gone >> b & 1 != 0) {
                let event = first + bit % 32 + if bit < 32 { 0 } else { 0x4000 };
                let all = || filter.as_deref().cloned().unwrap_or_else(|| EventFilter::new(1 << 16, true));
                new.get_or_insert_with(all).set(event..event + 1, false);
            }
        }
        new.map(Arc::new).or(filter)
    }

    /// The record's part of a write of ICC_CTLR_EL1.
    pub fn write_cpu_identity(&self, g: &mut GicState, value: u64) -> Result<()> {
        if !self.identity_is_chosen() {
            return Ok(());
        }
        let (now, limits) = (g.gic.cpu_identity(), self.config.gic());
        let never = Errno::EINVAL.because("ICC_CTLR_EL1 {x}: no vCPU can have this, but {x} at most");
        let never = never.values([value, limits.most_identity().to_ctlr()]);
        let new = limits.identity(value).ok_or(never)?;
        match () {
            () if new == now => Ok(()),
            () if self.started.load(Ordering::SeqCst) => Err(why::STARTED),
            () => {
                g.gic.set_cpu_identity(new).map_err(|_| never)?;
                Ok(())
            }
        }
    }

    /// The distributor's GICD_TYPER as it can say at most.
    pub fn most_typer(&self) -> u64 {
        let its = self.setup().has_its();
        MOST_OF_TYPER.to_typer(its)
    }

    /// A write of GICD_TYPER, which hardware ignores.
    pub fn write_dist_identity(&self, g: &mut GicState, value: u64) -> Result<()> {
        let now = g.gic.user_read(ulna_vgic::Region::Dist, 0, GICD_TYPER);
        if !self.identity_is_chosen() || g.gic.config().version != Version::V3 || value == now {
            return Ok(());
        }
        let never = Errno::EINVAL.because("GICD_TYPER {x}: this distributor can be {x} at most");
        let its = g.gic.config().its != 0;
        let most = now & !DistIdentity::MASK | MOST_OF_TYPER.to_typer(its);
        let never = never.values([value, most]);
        let mut new = DistIdentity::from_typer(value).ok_or(never)?;
        if (value ^ now) & !DistIdentity::MASK != 0 || new.lpis && !its {
            return Err(never);
        }
        if self.started.load(Ordering::SeqCst) {
            return Err(why::STARTED);
        }
        if !its {
            // Nobody has said what an ITS that is still to come shall be.
            new.lpis = g.gic.dist_identity().lpis;
        }
        g.gic.set_dist_identity(new).map_err(|_| never)
    }

    /// Before the first run of the VM: EINVAL while what was chosen does not go together. Under the soft policy every
    /// field can be written, so that they are held against each other here; KVM does not look.
    pub fn check_choices(&self, m: &Machine) -> Result<()> {
        if !self.identity_is_chosen() || self.started.load(Ordering::SeqCst) {
            return Ok(());
        }
        let vgic = self.with_gic(|g| (g.gic.config().version == Version::V3, g.gic.cpu_identity()));
        let vgic3 = vgic.is_some_and(|v| v.0);
        if let Some((true, id)) = vgic {
            for v in self.vcpus().values() {
                let affinity = v.affinity.load(Ordering::SeqCst);
                let [aff3, aff0] = [affinity >> 24, affinity & 0xff].map(u64::from);
                if !id.a3v && aff3 != 0 {
                    let e = Errno::EINVAL.because("ICC_CTLR_EL1.A3V is 0 but vCPU {} has MPIDR_EL1.Aff3 {}");
                    return Err(e.values([v.id.into(), aff3]));
                }
                if !id.rss && aff0 > 15 {
                    let e = Errno::EINVAL.because("ICC_CTLR_EL1.RSS is 0 but vCPU {} has MPIDR_EL1.Aff0 {}");
                    return Err(e.values([v.id.into(), aff0]));
                }
            }
        }
        let memory_end = self.memory.slots().iter().map(|s| s.ipa + s.len).max().unwrap_or(0);
        let values = self.id_values();
        match m.contradiction(|r| values[r as usize], &Surroundings { vgic3, memory_end }) {
            Some(c) => Err(Errno::EINVAL.because(c.text).values(c.values)),
            None => Ok(()),
        }
    }
}
