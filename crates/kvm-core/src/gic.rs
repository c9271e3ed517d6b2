//! The in-kernel interrupt controller between VMM and model: how it is set up, where its frames are, when it comes to
//! life (kvm-arm64-abi.md §10).
//!
//! Locks are taken in this order: the VM's list of vCPUs, the set-up, the model (docs/decisions/0012).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use ulna_kvm_abi::Errno;
use ulna_vgic::its::Its;
use ulna_vgic::{Affinity, Gic, Region, Version};

use crate::Result;
use crate::firmware::sdei::Service;
use crate::shared::Shared;
use crate::vm::VmInner;
use crate::why;

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

impl RedistRegion {
    /// Its size in a VM of so many vCPUs.
    fn len(&self, vcpus: usize) -> u64 {
        self.count.unwrap_or(vcpus as u64) * REDIST_LEN
    }
}

/// An ITS as the VMM has set it up. Its registers can be written before there is a GIC, to which it goes over then.
#[derive(Default, Debug)]
pub(crate) struct ItsSetup {
    pub base: Option<u64>,
    pub its: Its,
}

/// The interrupt controller as the VMM has set it up so far.
#[derive(Default, Debug)]
pub(crate) struct GicSetup {
    pub version: Option<Version>,
    pub dist: Option<u64>,
    pub cpuif: Option<u64>,
    pub redists: Vec<RedistRegion>,
    pub nr_irqs: Option<u32>,
    /// A KVM_DEV_TYPE_VFIO was made.
    pub vfio: bool,
    pub its: Vec<ItsSetup>,
}

const MISPLACED: Errno =
    Errno::EINVAL.because("redistributors do not fit into the VM's addresses where they are");
const OVERLAP: Errno = Errno::EINVAL.because("frames of the interrupt controller overlap");
const UNPLACED: Errno =
    Errno::ENXIO.because("a frame of the interrupt controller that is needed has no address");

/// Do `a..a+a_len` and `b..b+b_len` meet, as KVM asks?
fn overlap(a: u64, a_len: u64, b: u64, b_len: u64) -> bool {
    a.saturating_add(a_len) > b && a < b.saturating_add(b_len)
}

/// May a frame of `len` bytes be at `base`? In KVM's order.
pub(crate) fn check_range(base: u64, len: u64, align: u64, ipa_bits: u8) -> Result<()> {
    if !base.is_multiple_of(align) {
        return Err(Errno::EINVAL.because("address {x} is no multiple of {x}").values([base, align]));
    }
    let wraps =
        Errno::EINVAL.because("{x} bytes from {x} on go beyond the end of addresses").values([len, base]);
    let end = base.checked_add(len).ok_or(wraps)?;
    let size = 1u64.checked_shl(ipa_bits.into()).unwrap_or(u64::MAX);
    if base >= size || end > size {
        return Err(Errno::E2BIG
            .because("{x} is beyond the VM's {} bits of addresses")
            .values([end, ipa_bits.into()]));
    }
    Ok(())
}

impl GicSetup {
    pub fn exists(&self) -> bool {
        self.version.is_some()
    }

    /// Interrupt lines that it has, or will have.
    pub fn lines(&self) -> u32 {
        self.nr_irqs.unwrap_or(DEFAULT_NR_IRQS)
    }

    pub fn is_v2(&self) -> bool {
        self.version == Some(Version::V2)
    }

    pub fn has_its(&self) -> bool {
        !self.its.is_empty()
    }

    /// vCPUs that the regions have room for.
    fn room(&self) -> u64 {
        self.redists.iter().map(|r| r.count.unwrap_or(u64::MAX)).fold(0, u64::saturating_add)
    }

    /// A vCPU is about to get its redistributor: do the regions of `vcpus` of them lie where they can?
    fn check_base(&self, vcpus: usize, ipa_bits: u8) -> Result<()> {
        for r in &self.redists {
            check_range(r.base, r.len(vcpus), 0x1_0000, ipa_bits).map_err(|_| MISPLACED)?;
        }
        let over = |d: u64| self.redists.iter().any(|r| overlap(d, DIST_V3_LEN, r.base, r.len(vcpus)));
        if self.dist.is_some_and(over) { Err(OVERLAP) } else { Ok(()) }
    }

    /// May another vCPU be created beside `vcpus`? If a region has room for it, all of them must be well placed; KVM does
    /// not count the new one yet.
    pub fn check_new_vcpu(&self, vcpus: usize, ipa_bits: u8) -> Result<()> {
        let placed = self.version == Some(Version::V3) && self.room() > vcpus as u64;
        if placed { self.check_base(vcpus, ipa_bits) } else { Ok(()) }
    }

    /// KVM_VGIC_V3_ADDR_TYPE_REDIST (no count) and _REDIST_REGION.
    pub fn add_region(
        &mut self,
        index: u64,
        base: u64,
        count: Option<u64>,
        vcpus: usize,
        ipa_bits: u8,
    ) -> Result<()> {
        let new = RedistRegion { base, count };
        let len = new.len(vcpus);
        base.checked_add(len).ok_or(MISPLACED)?;
        let order =
            Errno::EINVAL.because("region {}: the next one is {}").values([index, self.redists.len() as u64]);
        match (self.redists.last(), count) {
            (None, _) if index != 0 => return Err(order),
            (Some(r), None) if r.count.is_some() => {
                return Err(Errno::EINVAL.because("the redistributors are placed by regions with counts"));
            }
            (Some(_), None) => {
                return Err(Errno::EEXIST.because("the address of the redistributors is set already"));
            }
            (Some(_), Some(_)) if index != self.redists.len() as u64 => return Err(order),
            _ => {}
        }
        let over_dist = self.dist.is_some_and(|d| overlap(base, len, d, DIST_V3_LEN));
        let over_others = self.redists.iter().any(|r| overlap(base, len, r.base, r.len(vcpus)));
        if (count.is_none() && over_dist) || over_others {
            return Err(OVERLAP);
        }
        check_range(base, len, 0x1_0000, ipa_bits)?;
        let waiting = self.room() < vcpus as u64;
        self.redists.push(new);
        if waiting && let Err(e) = self.check_base(vcpus, ipa_bits) {
            self.redists.pop();
            return Err(e);
        }
        Ok(())
    }

    /// What the first run needs of the addresses, and what it then finds wrong.
    fn check_mapped(&self, vcpus: usize, ipa_bits: u8) -> Result<()> {
        match self.version {
            Some(Version::V2) => {
                let (Some(dist), Some(cpuif)) = (self.dist, self.cpuif) else { return Err(UNPLACED) };
                let over = overlap(dist, DIST_V2_LEN, cpuif, CPUIF_LEN);
                if over { Err(OVERLAP) } else { Ok(()) }
            }
            Some(Version::V3) if self.room() < vcpus as u64 || self.dist.is_none() => Err(UNPLACED),
            Some(Version::V3) => self.check_base(vcpus, ipa_bits),
            None => Ok(()),
        }
    }

    /// Frames that are placed so far, by address: (first address, length, frame).
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
                f.extend(its.filter_map(|(n, i)| i.base.map(|a| (a, ITS_LEN, Region::Its(n)))));
            }
            None => {}
        }
        f.sort_by_key(|f| f.0);
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

    /// GICR_TYPER.Last of each vCPU: it is the last of its region, and no region that is in use follows a full one.
    fn last(&self, vcpus: usize) -> Vec<bool> {
        let mut last = vec![false; vcpus];
        let filled = self.filled(vcpus);
        for (r, first, here) in &filled {
            let full = r.count == Some(*here as u64);
            let end = r.base.saturating_add(*here as u64 * REDIST_LEN);
            let goes_on = full && filled.iter().any(|(next, _, n)| next.base == end && *n > 0);
            if let Some(l) = (first + here).checked_sub(1).and_then(|v| last.get_mut(v)).filter(|_| *here > 0)
            {
                *l = !goes_on;
            }
        }
        last
    }
}

/// What drives an interrupt in place of the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// EL1 physical timer, of the vCPU with this index.
    Ptimer(usize),
    /// EL1 virtual timer.
    Vtimer(usize),
    /// PMU overflow.
    Pmu(usize),
}

impl Source {
    fn vcpu(self) -> usize {
        let (Source::Ptimer(v) | Source::Vtimer(v) | Source::Pmu(v)) = self;
        v
    }
}

/// An initialised interrupt controller: the model, where its frames are, and which vCPU each index is.
pub(crate) struct GicState {
    pub gic: Gic,
    /// (first address, length, frame), by address.
    frames: Vec<(u64, u64, Region)>,
    /// By vCPU index of the model.
    pub vcpus: Vec<Arc<Shared>>,
    /// Owned interrupts: INTID and, of a PPI, the vCPU.
    owners: HashMap<(u32, Option<usize>), Source>,
    /// SPIs whose end irqfds with resample wait for.
    watched: Vec<u32>,
    /// SDEI, where it is enabled.
    pub sdei: Option<Service>,
    /// Interrupts that SDEI took away: INTID and, of a PPI, the vCPU.
    pub taken: HashSet<(u32, Option<usize>)>,
}

impl GicState {
    /// Carries the levels of changed interrupt lines to the vCPUs.
    fn deliver(&mut self) {
        for v in self.gic.take_changed().iter() {
            let l = self.gic.lines(v);
            if let Some(vcpu) = self.vcpus.get(v) {
                vcpu.set_wakes(self.gic.wakes(v), l.irq || l.fiq);
                vcpu.set_lines(l.irq, l.fiq);
            }
        }
    }

    /// The frame that holds `ipa`, with the offset in it.
    pub fn frame(&self, ipa: u64) -> Option<(Region, u64)> {
        let before = self.frames.partition_point(|f| f.0 <= ipa);
        let f = self.frames.get(before.checked_sub(1)?)?;
        (ipa - f.0 < f.1).then_some((f.2, ipa - f.0))
    }

    /// Takes over where the VMM put the frames.
    pub fn place(&mut self, setup: &GicSetup) {
        self.frames = setup.frames(self.vcpus.len());
        for (vcpu, last) in setup.last(self.vcpus.len()).into_iter().enumerate() {
            // The vCPU exists.
            let _ = self.gic.set_redist_last(vcpu, last);
        }
    }

    /// An interrupt belongs to `source` from now on (for good, as in KVM), unless it is another's.
    pub fn claim(&mut self, intid: u32, source: Source) -> Result<()> {
        let vcpu = match intid {
            16..32 => Some(source.vcpu()),
            32.. if intid < self.gic.config().nr_irqs => None,
            _ => return Err(Errno::EINVAL.because("the controller has no line {}").value(intid.into())),
        };
        let owner = *self.owners.entry((intid, vcpu)).or_insert(source);
        let taken = Errno::EEXIST.because("INTID {} is driven by another device").value(intid.into());
        if owner == source { Ok(()) } else { Err(taken) }
    }

    /// Is the interrupt driven by a device of KVM? The VMM's levels are ignored then.
    pub fn is_owned(&self, intid: u32, vcpu: Option<usize>) -> bool {
        self.owners.contains_key(&(intid, vcpu))
    }

    /// Of these SPIs, and no others, the end is reported.
    pub fn watch(&mut self, spis: Vec<u32>) {
        for spi in std::mem::replace(&mut self.watched, spis) {
            let _ = self.gic.set_notify_eoi(spi, false);
        }
        for spi in &self.watched {
            // A route can name a line that is not there.
            let _ = self.gic.set_notify_eoi(*spi, true);
        }
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
        if self.irq_fds.any_resampled() {
            self.resample(g);
        }
        g.deliver();
        Some(r)
    }

    /// An ITS: in the GIC, or on its own while that is not initialised.
    pub fn with_its<T>(
        &self,
        n: usize,
        in_gic: impl FnOnce(&mut Gic) -> T,
        alone: impl FnOnce(&mut Its) -> T,
    ) -> Option<T> {
        let mut s = self.setup();
        if self.gic_ready() && !s.is_v2() {
            return self.with_gic(|g| in_gic(&mut g.gic));
        }
        s.its.get_mut(n).map(|i| alone(&mut i.its))
    }

    /// KVM_DEV_ARM_VGIC_CTRL_INIT: fixes the vCPUs and the number of lines. Again: nothing.
    pub fn init_gic(&self) -> Result<()> {
        // Held to the end, so that no vCPU comes in between.
        let by_id = self.vcpus();
        let mut vcpus: Vec<_> = by_id.values().cloned().collect();
        vcpus.sort_by_key(|v| v.index);
        let mut setup = self.setup();
        if self.gic_ready() {
            return Ok(());
        }
        let version = setup.version.ok_or(Errno::ENXIO.because("the VM has no interrupt controller"))?;
        let host = self.config.gic();
        let nr_irqs = *setup.nr_irqs.get_or_insert(DEFAULT_NR_IRQS);
        let affinities = vcpus.iter().map(|v| Affinity(v.affinity.load(Ordering::SeqCst))).collect();
        let mut c = host.config(version, affinities, nr_irqs);
        c.vcpu_ids = vcpus.iter().map(|v| v.id as u16).collect();
        // An ITS in a VM with a GICv2 stays on its own.
        c.its = if version == Version::V3 { setup.its.len() } else { 0 };
        let mut gic = Gic::new(c).map_err(|_| {
            Errno::EINVAL.because("no interrupt controller can be made for these vCPUs and lines")
        })?;
        for (n, its) in setup.its.iter_mut().enumerate().filter(|_| version == Version::V3) {
            gic.set_its(n, std::mem::take(&mut its.its))
                .map_err(|_| Errno::EINVAL.because("the controller does not take the ITS"))?;
        }
        let mut state = GicState {
            gic,
            frames: Vec::new(),
            vcpus,
            owners: HashMap::new(),
            watched: Vec::new(),
            sdei: self.firmware.sdei.get().cloned(),
            taken: HashSet::new(),
        };
        state.place(&setup);
        self.routing.set_default(setup.nr_irqs.unwrap_or(DEFAULT_NR_IRQS) - 32);
        *self.gic.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        drop(setup);
        drop(by_id);
        Ok(())
    }

    /// A GICv2 that nobody initialised is so when it is first needed; a GICv3 must have been.
    pub fn lazy_init_gic(&self) -> Result<()> {
        if self.gic_ready() {
            return Ok(());
        }
        let v2 = self.setup().is_v2();
        if v2 { self.init_gic() } else { Err(why::GIC_NOT_READY) }
    }

    /// The first run maps the frames; a VM where that fails is dead.
    pub fn map_gic(&self) -> Result<()> {
        if self.started.load(Ordering::SeqCst) || !self.gic_exists() {
            return Ok(());
        }
        let vcpus = self.vcpus().len();
        let placed = self.setup().check_mapped(vcpus, self.ipa_bits);
        match placed.and_then(|()| self.lazy_init_gic()) {
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

    /// A vCPU's MPIDR_EL1 is another now.
    pub fn set_affinity(&self, vcpu: &Shared, mpidr: u64) {
        let new = Affinity::from_mpidr(mpidr);
        let changed = vcpu.affinity.swap(new.0, Ordering::SeqCst) != new.0;
        self.set_sdei_affinity(vcpu);
        if changed {
            self.with_gic(|g| {
                // The vCPU exists.
                let _ = g.gic.set_affinity(vcpu.index, new);
            });
        }
    }
}
