//! Device descriptors: GICv2, GICv3 and ITS with the attributes that set them up.

use std::sync::Arc;

use ulna_kvm_abi::Errno;
use ulna_kvm_abi::device::*;
use ulna_machine::mpidr;
use ulna_vgic::{Affinity, Gic, GicConfig, Region, Version};

use crate::Result;
use crate::vm::{GicState, VmInner};

const REDIST_LEN: u64 = 0x2_0000;
const DIST_V3_LEN: u64 = 0x1_0000;
const DIST_V2_LEN: u64 = 0x1000;
const CPUIF_LEN: u64 = 0x2000;
const ITS_LEN: u64 = 0x2_0000;

/// A region of redistributors.
#[derive(Clone, Copy, Debug)]
struct RedistRegion {
    base: u64,
    /// vCPUs it holds; `None` (legacy attribute): all.
    count: Option<u64>,
}

/// The interrupt controller as the VMM has set it up so far.
#[derive(Default)]
pub(crate) struct GicSetup {
    version: Option<Version>,
    dist: Option<u64>,
    cpuif: Option<u64>,
    redists: Vec<RedistRegion>,
    nr_irqs: Option<u32>,
    its: Vec<Option<u64>>,
}

impl GicSetup {
    pub fn exists(&self) -> bool {
        self.version.is_some()
    }
    pub fn is_v2(&self) -> bool {
        self.version == Some(Version::V2)
    }
}

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    VgicV2,
    VgicV3,
    Its(usize),
}

/// A device descriptor.
pub struct Device {
    vm: Arc<VmInner>,
    kind: Kind,
}

impl Device {
    pub(crate) fn create(vm: Arc<VmInner>, kind: u32) -> Result<Device> {
        let gic = &vm.config.profile.gic;
        let mut s = vm.gic_setup.lock().unwrap_or_else(|e| e.into_inner());
        let kind = match kind {
            TYPE_ARM_VGIC_V2 if gic.v2 => {
                if s.exists() {
                    return Err(Errno::EEXIST);
                }
                if vm.vcpus.read().unwrap_or_else(|e| e.into_inner()).len() > ulna_vgic::MAX_VCPUS_V2 {
                    return Err(Errno::E2BIG);
                }
                s.version = Some(Version::V2);
                Kind::VgicV2
            }
            TYPE_ARM_VGIC_V3 if gic.v3() => {
                if s.exists() {
                    return Err(Errno::EEXIST);
                }
                s.version = Some(Version::V3);
                Kind::VgicV3
            }
            TYPE_ARM_VGIC_ITS if gic.v3() => {
                s.its.push(None);
                Kind::Its(s.its.len() - 1)
            }
            _ => return Err(Errno::ENODEV),
        };
        drop(s);
        Ok(Device { vm, kind })
    }

    /// KVM_HAS_DEVICE_ATTR.
    pub fn has_attr(&self, group: u32, attr: u64) -> Result<()> {
        let known = match (self.kind, group) {
            (Kind::VgicV2, GRP_ADDR) => matches!(attr, V2_ADDR_TYPE_DIST | V2_ADDR_TYPE_CPU),
            (Kind::VgicV3, GRP_ADDR) => {
                matches!(attr, V3_ADDR_TYPE_DIST | V3_ADDR_TYPE_REDIST | V3_ADDR_TYPE_REDIST_REGION)
            }
            (Kind::Its(_), GRP_ADDR) => attr == ITS_ADDR_TYPE,
            (Kind::VgicV2 | Kind::VgicV3, GRP_NR_IRQS) => true,
            (_, GRP_CTRL) => attr == CTRL_INIT,
            _ => false,
        };
        if known { Ok(()) } else { Err(Errno::ENXIO) }
    }

    /// KVM_GET_DEVICE_ATTR.
    pub fn get_attr(&self, group: u32, attr: u64) -> Result<u64> {
        self.has_attr(group, attr)?;
        let s = self.vm.gic_setup.lock().unwrap_or_else(|e| e.into_inner());
        const UNSET: u64 = u64::MAX;
        match (self.kind, group, attr) {
            (Kind::VgicV2, GRP_ADDR, V2_ADDR_TYPE_CPU) => Ok(s.cpuif.unwrap_or(UNSET)),
            (_, GRP_ADDR, V2_ADDR_TYPE_DIST | V3_ADDR_TYPE_DIST) => Ok(s.dist.unwrap_or(UNSET)),
            (Kind::VgicV3, GRP_ADDR, V3_ADDR_TYPE_REDIST) => Ok(s.redists.first().map_or(UNSET, |r| r.base)),
            (Kind::Its(n), GRP_ADDR, _) => Ok(s.its.get(n).copied().flatten().unwrap_or(UNSET)),
            (_, GRP_NR_IRQS, _) => Ok(s.nr_irqs.unwrap_or(0).into()),
            _ => Err(Errno::ENXIO),
        }
    }

    /// KVM_SET_DEVICE_ATTR.
    pub fn set_attr(&self, group: u32, attr: u64, value: u64) -> Result<()> {
        self.has_attr(group, attr)?;
        match group {
            GRP_ADDR => self.set_address(attr, value),
            GRP_NR_IRQS => self.set_nr_irqs(value as u32),
            _ => self.initialise(),
        }
    }

    fn initialised(&self) -> bool {
        self.vm.gic.lock().unwrap_or_else(|e| e.into_inner()).is_some()
    }

    fn check_range(&self, base: u64, len: u64, align: u64) -> Result<()> {
        if base & (align - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        let end = base.checked_add(len).ok_or(Errno::EINVAL)?;
        if end > 1 << self.vm.ipa_bits { Err(Errno::E2BIG) } else { Ok(()) }
    }

    fn set_address(&self, attr: u64, value: u64) -> Result<()> {
        let mut s = self.vm.gic_setup.lock().unwrap_or_else(|e| e.into_inner());
        let place = |slot: &mut Option<u64>, len: u64, align: u64| {
            if slot.is_some() {
                return Err(Errno::EEXIST);
            }
            self.check_range(value, len, align)?;
            *slot = Some(value);
            Ok(())
        };
        match (self.kind, attr) {
            (Kind::VgicV2, V2_ADDR_TYPE_DIST) => place(&mut s.dist, DIST_V2_LEN, 0x1000),
            (Kind::VgicV2, V2_ADDR_TYPE_CPU) => place(&mut s.cpuif, CPUIF_LEN, 0x1000),
            (Kind::VgicV3, V3_ADDR_TYPE_DIST) => place(&mut s.dist, DIST_V3_LEN, 0x1_0000),
            (Kind::VgicV3, V3_ADDR_TYPE_REDIST) => {
                if !s.redists.is_empty() {
                    return Err(Errno::EINVAL);
                }
                self.check_range(value, REDIST_LEN, 0x1_0000)?;
                s.redists.push(RedistRegion { base: value, count: None });
                Ok(())
            }
            (Kind::VgicV3, V3_ADDR_TYPE_REDIST_REGION) => {
                let (count, base, flags, index) =
                    (value >> 52, value & 0x000f_ffff_ffff_0000, value >> 12 & 15, value & 0xfff);
                let legacy = s.redists.first().is_some_and(|r| r.count.is_none());
                if flags != 0 || count == 0 || legacy || index != s.redists.len() as u64 {
                    return Err(Errno::EINVAL);
                }
                self.check_range(base, count * REDIST_LEN, 0x1_0000)?;
                s.redists.push(RedistRegion { base, count: Some(count) });
                Ok(())
            }
            (Kind::Its(n), _) => match s.its.get_mut(n) {
                Some(slot) => place(slot, ITS_LEN, 0x1_0000),
                None => Err(Errno::ENXIO),
            },
            _ => Err(Errno::ENXIO),
        }
    }

    fn set_nr_irqs(&self, n: u32) -> Result<()> {
        if !(64..=1024).contains(&n) || !n.is_multiple_of(32) {
            return Err(Errno::EINVAL);
        }
        let mut s = self.vm.gic_setup.lock().unwrap_or_else(|e| e.into_inner());
        if s.nr_irqs.is_some() || self.initialised() {
            return Err(Errno::EBUSY);
        }
        s.nr_irqs = Some(n);
        Ok(())
    }

    /// KVM_DEV_ARM_VGIC_CTRL_INIT. For an ITS there is nothing left to do.
    fn initialise(&self) -> Result<()> {
        if let Kind::Its(_) = self.kind {
            return Ok(());
        }
        if self.initialised() {
            return Ok(());
        }
        let s = self.vm.gic_setup.lock().unwrap_or_else(|e| e.into_inner());
        let vcpus = self.vm.vcpus.read().unwrap_or_else(|e| e.into_inner());
        let version = s.version.ok_or(Errno::ENXIO)?;
        let host = &self.vm.config.profile.gic;
        let affinities = vcpus.keys().map(|id| Affinity::from_mpidr(mpidr(*id))).collect();
        let mut c = GicConfig::new(version, affinities, s.nr_irqs.unwrap_or(256));
        c.vcpu_ids = vcpus.keys().map(|id| *id as u16).collect();
        c.pri_bits = host.priority_bits.clamp(5, 7);
        c.id_bits = host.id_bits;
        (c.seis, c.a3v) = (host.seis, host.a3v);
        c.its = s.its.len();
        let gic = Gic::new(c).map_err(|_| Errno::EINVAL)?;
        let frames = frames(&s, version, vcpus.len())?;
        let mut state = GicState { gic, frames, vcpus: vcpus.values().cloned().collect() };
        for last in last_redists(&s, vcpus.len()) {
            state.gic.set_redist_last(last, true).map_err(|_| Errno::EINVAL)?;
        }
        *self.vm.gic.lock().unwrap_or_else(|e| e.into_inner()) = Some(state);
        Ok(())
    }
}

/// Where each frame stands.
fn frames(s: &GicSetup, version: Version, vcpus: usize) -> Result<Vec<(u64, u64, Region)>> {
    let mut f = Vec::new();
    let dist = s.dist.ok_or(Errno::ENXIO)?;
    match version {
        Version::V2 => {
            f.push((dist, DIST_V2_LEN, Region::Dist));
            f.push((s.cpuif.ok_or(Errno::ENXIO)?, CPUIF_LEN, Region::Cpuif));
        }
        Version::V3 => {
            f.push((dist, DIST_V3_LEN, Region::Dist));
            let mut next = 0;
            for r in &s.redists {
                let here = r.count.unwrap_or(u64::MAX).min((vcpus - next) as u64) as usize;
                for n in 0..here {
                    f.push((r.base + n as u64 * REDIST_LEN, REDIST_LEN, Region::Redist(next + n)));
                }
                next += here;
            }
            if next < vcpus {
                return Err(Errno::ENXIO);
            }
            f.extend(s.its.iter().enumerate().filter_map(|(n, a)| a.map(|a| (a, ITS_LEN, Region::Its(n)))));
        }
    }
    Ok(f)
}

/// The last redistributor of each region.
fn last_redists(s: &GicSetup, vcpus: usize) -> Vec<usize> {
    let mut next = 0;
    let mut last = Vec::new();
    for r in &s.redists {
        next = r.count.map_or(vcpus, |c| next + c as usize).min(vcpus);
        if next > 0 {
            last.push(next - 1);
        }
    }
    last
}
