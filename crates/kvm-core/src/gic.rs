//! The in-kernel interrupt controller between VMM and model: how it is set up, where its frames are, when it comes to
//! life (kvm-arm64-abi.md §10).

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use ulna_kvm_abi::Errno;
use ulna_machine::mpidr;
use ulna_vgic::{Affinity, Gic, GicConfig, Region, Version};

use crate::Result;
use crate::shared::Shared;
use crate::vm::VmInner;

/// Size of a redistributor's two frames.
pub(crate) const REDIST_LEN: u64 = 0x2_0000;
pub(crate) const DIST_V3_LEN: u64 = 0x1_0000;
pub(crate) const DIST_V2_LEN: u64 = 0x1000;
pub(crate) const CPUIF_LEN: u64 = 0x2000;
pub(crate) const ITS_LEN: u64 = 0x2_0000;
/// Interrupt lines when the VMM does not say.
const DEFAULT_NR_IRQS: u32 = 256;

/// A region of redistributors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedistRegion {
    pub base: u64,
    /// vCPUs it holds; `None` (legacy attribute): all.
    pub count: Option<u64>,
}

/// The interrupt controller as the VMM has set it up so far.
#[derive(Default)]
pub(crate) struct GicSetup {
    pub version: Option<Version>,
    pub dist: Option<u64>,
    pub cpuif: Option<u64>,
    pub redists: Vec<RedistRegion>,
    pub nr_irqs: Option<u32>,
    /// A KVM_DEV_TYPE_VFIO was made.
    pub vfio: bool,
    /// Address of each ITS.
    pub its: Vec<Option<u64>>,
}

impl GicSetup {
    pub fn exists(&self) -> bool {
        self.version.is_some()
    }

    pub fn is_v2(&self) -> bool {
        self.version == Some(Version::V2)
    }

    pub fn has_its(&self) -> bool {
        !self.its.is_empty()
    }

    /// Would redistributors of so many vCPUs pass the end of the address space? Regions say themselves how many they hold.
    pub fn check_room(&self, vcpus: usize) -> Result<()> {
        let legacy = self.redists.first().filter(|r| r.count.is_none());
        let Some(r) = legacy else { return Ok(()) };
        let len = vcpus as u64 * REDIST_LEN;
        let overlaps = self.dist.is_some_and(|d| d < r.base.saturating_add(len) && r.base < d + DIST_V3_LEN);
        if overlaps || r.base.checked_add(len).is_none() { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Are the addresses set that a first run needs?
    fn check_placed(&self, vcpus: usize) -> Result<()> {
        let placed = match self.version {
            Some(Version::V2) => self.dist.is_some() && self.cpuif.is_some(),
            Some(Version::V3) => {
                let room: u64 =
                    self.redists.iter().map(|r| r.count.unwrap_or(u64::MAX)).fold(0, u64::saturating_add);
                self.dist.is_some() && room >= vcpus as u64
            }
            None => true,
        };
        if placed { Ok(()) } else { Err(Errno::ENXIO) }
    }

    /// Frames that are placed so far: (first address, length, frame).
    fn frames(&self, vcpus: usize) -> Vec<(u64, u64, Region)> {
        let mut f = Vec::new();
        match self.version {
            Some(Version::V2) => {
                f.extend(self.dist.map(|d| (d, DIST_V2_LEN, Region::Dist)));
                f.extend(self.cpuif.map(|c| (c, CPUIF_LEN, Region::Cpuif)));
            }
            Some(Version::V3) => {
                f.extend(self.dist.map(|d| (d, DIST_V3_LEN, Region::Dist)));
                for (r, first, here) in self.filled(vcpus) {
                    f.extend(
                        (0..here)
                            .map(|n| (r.base + n as u64 * REDIST_LEN, REDIST_LEN, Region::Redist(first + n))),
                    );
                }
                let its = self.its.iter().enumerate();
                f.extend(its.filter_map(|(n, a)| a.map(|a| (a, ITS_LEN, Region::Its(n)))));
            }
            None => {}
        }
        f
    }

    /// Regions with the first vCPU in each and how many are there.
    fn filled(&self, vcpus: usize) -> Vec<(RedistRegion, usize, usize)> {
        let mut next = 0;
        let place = |r: &RedistRegion| {
            let here = r.count.unwrap_or(u64::MAX).min((vcpus - next) as u64) as usize;
            next += here;
            (*r, next - here, here)
        };
        self.redists.iter().map(place).collect()
    }
}

/// An initialised interrupt controller: the model, where its frames are, and which vCPU each index is.
pub(crate) struct GicState {
    pub gic: Gic,
    /// (first address, length, frame)
    frames: Vec<(u64, u64, Region)>,
    /// By vCPU index of the model.
    vcpus: Vec<Arc<Shared>>,
}

impl GicState {
    /// Carries the levels of changed interrupt lines to the vCPUs.
    fn deliver(&mut self) {
        for v in self.gic.take_changed().iter() {
            let l = self.gic.lines(v);
            if let Some(vcpu) = self.vcpus.get(v) {
                vcpu.set_lines(l.irq, l.fiq);
            }
        }
    }

    /// The frame that holds `ipa`, with the offset in it.
    pub fn frame(&self, ipa: u64) -> Option<(Region, u64)> {
        self.frames.iter().find(|f| ipa >= f.0 && ipa - f.0 < f.1).map(|f| (f.2, ipa - f.0))
    }

    /// Takes over where the VMM put the frames.
    pub fn place(&mut self, setup: &GicSetup) {
        self.frames = setup.frames(self.vcpus.len());
        for (_, first, here) in setup.filled(self.vcpus.len()) {
            for n in 0..here {
                // The vCPU exists.
                let _ = self.gic.set_redist_last(first + n, n + 1 == here);
            }
        }
    }

    /// Adds an ITS to a GIC that is initialised already, as VMMs do.
    pub fn add_its(&mut self) -> Result<()> {
        let mut config = self.gic.config().clone();
        let mut state = self.gic.state();
        config.its += 1;
        state.its.push(ulna_vgic::its::Its::new());
        let mut gic = Gic::new(config).map_err(|_| Errno::EINVAL)?;
        gic.set_state(&state).map_err(|_| Errno::EINVAL)?;
        self.gic = gic;
        Ok(())
    }
}

impl VmInner {
    pub fn setup(&self) -> MutexGuard<'_, GicSetup> {
        self.gic_setup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the VMM created an in-kernel interrupt controller?
    pub fn gic_exists(&self) -> bool {
        self.setup().exists()
    }

    /// Is it initialised?
    pub fn gic_ready(&self) -> bool {
        self.gic.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Runs `f` on the initialised interrupt controller and delivers what changed.
    pub fn with_gic<T>(&self, f: impl FnOnce(&mut GicState) -> T) -> Option<T> {
        let mut g = self.gic.lock().unwrap_or_else(PoisonError::into_inner);
        let g = g.as_mut()?;
        let r = f(g);
        g.deliver();
        Some(r)
    }

    /// KVM_DEV_ARM_VGIC_CTRL_INIT: fixes the vCPUs and the number of lines. Again: nothing.
    pub fn init_gic(&self) -> Result<()> {
        if self.gic_ready() {
            return Ok(());
        }
        let setup = self.setup();
        let version = setup.version.ok_or(Errno::ENXIO)?;
        let vcpus = self.vcpus_in_order();
        let host = &self.config.profile.gic;
        let affinities = vcpus.iter().map(|v| Affinity::from_mpidr(mpidr(v.id))).collect();
        let mut c = GicConfig::new(version, affinities, setup.nr_irqs.unwrap_or(DEFAULT_NR_IRQS));
        c.vcpu_ids = vcpus.iter().map(|v| v.id as u16).collect();
        c.pri_bits = host.priority_bits.clamp(5, 7);
        c.id_bits = host.id_bits;
        (c.seis, c.a3v) = (host.seis, host.a3v);
        c.its = setup.its.len();
        let gic = Gic::new(c).map_err(|_| Errno::EINVAL)?;
        let mut state = GicState { gic, frames: Vec::new(), vcpus };
        state.place(&setup);
        *self.gic.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        Ok(())
    }

    /// A GICv2 that nobody initialised is so when it is first needed; a GICv3 must have been.
    pub fn lazy_init_gic(&self) -> Result<()> {
        if self.gic_ready() {
            return Ok(());
        }
        if self.setup().is_v2() { self.init_gic() } else { Err(Errno::EBUSY) }
    }

    /// The first run maps the frames; a VM where that fails is dead.
    pub fn map_gic(&self) -> Result<()> {
        if self.started.load(Ordering::SeqCst) || !self.gic_exists() {
            return Ok(());
        }
        let vcpus = self.vcpus().len();
        let placed = self.setup().check_placed(vcpus);
        let mapped = placed.and_then(|()| self.lazy_init_gic()).and_then(|()| self.check_overlap());
        match mapped {
            Ok(()) => {
                let setup = self.setup();
                self.with_gic(|g| g.place(&setup));
                Ok(())
            }
            Err(e) => {
                self.kill();
                Err(e)
            }
        }
    }

    fn check_overlap(&self) -> Result<()> {
        let mut f = self.setup().frames(self.vcpus().len());
        f.sort_by_key(|f| f.0);
        let apart = f.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0);
        if apart { Ok(()) } else { Err(Errno::EINVAL) }
    }
}
