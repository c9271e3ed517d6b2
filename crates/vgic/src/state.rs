//! The state of a whole GIC as plain data: taken and put back at one stroke.
//!
//! Userspace of KVM saves by registers instead ([`Gic::user_read`] and its relatives); this is for
//! snapshots that need no detour, and for tests that compare two GICs.

use crate::cpuif::CpuInterface;
use crate::gic::Gic;
use crate::irq::{FIRST_SPI, Irq};
use crate::its::Its;
use crate::lpi::Lpi;
use crate::redist::{Redistributor, Redists};
use crate::types::GicError;

/// A GIC's state; what it was made of is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GicState {
    /// The distributor.
    pub dist: DistState,
    /// Each vCPU's redistributor.
    pub redists: Vec<RedistState>,
    /// Each ITS.
    pub its: Vec<Its>,
}

/// State of the distributor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistState {
    /// GICD_CTLR's enable.
    pub enabled: bool,
    /// GICD_IIDR's revision.
    pub revision: u8,
    /// GICR_PROPBASER.
    pub propbaser: u64,
    /// GICv2: whether userspace wrote GICD_IIDR.
    pub user_groups: bool,
    /// The SPIs in order, each with the vCPU at which it is active.
    pub spis: Vec<(Irq, Option<u16>)>,
}

/// State of a redistributor with its CPU interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedistState {
    /// GICR_TYPER.Last.
    pub last: bool,
    /// SGIs and PPIs.
    pub private: [Irq; 32],
    /// LPIs by INTID.
    pub lpis: Vec<(u32, Lpi)>,
    /// The CPU interface.
    pub cpu: CpuInterface,
    /// GICR_CTLR.EnableLPIs.
    pub enable_lpis: bool,
    /// GICR_PENDBASER.
    pub pendbaser: u64,
    /// Priority bits that userspace may still claim.
    pub user_pri_bits: u8,
    /// INTID bits that userspace may still claim.
    pub user_id_bits: u8,
}

impl Redistributor {
    fn state(&self) -> RedistState {
        RedistState {
            last: self.last,
            private: self.private,
            lpis: self.lpis.iter().map(|(id, lpi)| (id, *lpi)).collect(),
            cpu: self.cpu,
            enable_lpis: self.enable_lpis,
            pendbaser: self.pendbaser,
            user_pri_bits: self.user_pri_bits,
            user_id_bits: self.user_id_bits,
        }
    }

    fn set_state(&mut self, state: &RedistState) {
        self.last = state.last;
        self.private = state.private;
        self.lpis.clear();
        for &(id, lpi) in &state.lpis {
            self.lpis.upsert(id, |l| *l = lpi);
        }
        self.cpu = state.cpu;
        self.enable_lpis = state.enable_lpis;
        self.pendbaser = state.pendbaser;
        (self.user_pri_bits, self.user_id_bits) = (state.user_pri_bits, state.user_id_bits);
        self.update();
    }
}

impl Gic {
    /// Takes the state.
    pub fn state(&mut self) -> GicState {
        let (dist, vcpus) = (&self.dist, &mut self.vcpus);
        let spis = (FIRST_SPI..dist.nr_irqs)
            .filter_map(|id| {
                let irq = dist.peek(id, vcpus, |irq| *irq)?;
                Some((irq, dist.holder(id).filter(|_| irq.active)))
            })
            .collect();
        let redists = (0..vcpus.count()).filter_map(|v| vcpus.with(v, |r| r.state())).collect();
        let dist = DistState {
            enabled: dist.enabled,
            revision: dist.revision,
            propbaser: dist.propbaser,
            user_groups: dist.user_groups,
            spis,
        };
        GicState { dist, redists, its: self.its.clone() }
    }

    /// Puts a state back that was taken from a GIC made of the same.
    pub fn set_state(&mut self, state: &GicState) -> Result<(), GicError> {
        let fits = state.redists.len() == self.vcpus.count()
            && state.its.len() == self.its.len()
            && state.dist.spis.len() as u32 + FIRST_SPI == self.dist.nr_irqs
            && state.dist.spis.iter().zip(FIRST_SPI..).all(|((irq, _), id)| irq.intid == id)
            && state.redists.iter().all(|r| {
                r.cpu.pri_bits == self.config().pri_bits
                    && r.private.iter().zip(0..).all(|(irq, id)| irq.intid == id)
            });
        if !fits {
            return Err(GicError::BadValue);
        }
        let mut fresh = Gic::new(self.config().clone())?;
        for (vcpu, redist) in state.redists.iter().enumerate() {
            fresh.vcpus.with(vcpu, |r| r.set_state(redist));
            fresh.vcpus.changed.insert(vcpu);
        }
        fresh.dist.set_revision(state.dist.revision, &mut fresh.vcpus);
        fresh.dist.propbaser = state.dist.propbaser;
        fresh.dist.user_groups = state.dist.user_groups;
        for (irq, holder) in &state.dist.spis {
            fresh.dist.place(*irq, *holder, &mut fresh.vcpus);
        }
        fresh.dist.set_enabled(state.dist.enabled, &mut fresh.vcpus);
        fresh.its = state.its.clone();
        *self = fresh;
        Ok(())
    }
}
