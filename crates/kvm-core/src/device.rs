//! Device descriptors: GICv2, GICv3 and ITS by their attributes (kvm-arm64-abi.md §10).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ulna_kvm_abi::Errno;
use ulna_kvm_abi::device::*;
use ulna_machine::mpidr;
use ulna_vgic::{GicError, IccReg, Region, Version};

use crate::Result;
use crate::gic::{
    CPUIF_LEN, DIST_V2_LEN, DIST_V3_LEN, GicSetup, GicState, ITS_LEN, REDIST_LEN, RedistRegion,
};
use crate::memory::Tables;
use crate::vm::{Vm, VmInner};

/// KVM_GET_DEVICE_ATTR of an address that is not set.
const UNSET: u64 = u64::MAX;

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    VgicV2,
    VgicV3,
    Its(usize),
    /// For devices that the host assigns; there are none.
    Vfio,
}

/// A register that an attribute names.
#[derive(Clone, Copy, Debug)]
enum Reg {
    /// Of a frame; the vCPU matters for banked ones.
    Frame(Region, usize, u64),
    /// Of a CPU interface.
    Cpu(usize, IccReg),
    /// Levels of 32 lines.
    Levels(usize, u32),
}

impl Vm {
    /// KVM_CREATE_DEVICE with KVM_CREATE_DEVICE_TEST: could the host make one of this type?
    pub fn supports_device(&self, kind: u32) -> bool {
        let gic = &self.0.config.profile.gic;
        match kind {
            TYPE_ARM_VGIC_V2 => gic.v2,
            TYPE_ARM_VGIC_V3 | TYPE_ARM_VGIC_ITS => gic.v3(),
            TYPE_VFIO => true,
            _ => false,
        }
    }

    /// KVM_CREATE_IRQCHIP: a GICv2.
    pub fn create_irqchip(&self) -> Result<()> {
        self.0.check_alive()?;
        let gic = &self.0.config.profile.gic;
        if !gic.v2 && !gic.v3() {
            return Err(Errno::ENXIO);
        }
        self.create_device(TYPE_ARM_VGIC_V2).map(drop)
    }

    /// KVM_ARM_SET_DEVICE_ADDR: the addresses of a GICv2 as they were set before there were device attributes.
    pub fn set_device_addr(&self, id: u64, addr: u64) -> Result<()> {
        self.0.check_alive()?;
        let (kind, device) = (id & 0xffff, id >> 16 & 0xffff);
        if device != 0 {
            return Err(Errno::ENODEV);
        }
        let gic = &self.0.config.profile.gic;
        if !gic.v2 && !gic.v3() {
            return Err(Errno::ENXIO);
        }
        if !matches!(kind, V2_ADDR_TYPE_DIST | V2_ADDR_TYPE_CPU) || !self.0.setup().is_v2() {
            return Err(Errno::ENODEV);
        }
        Device { vm: self.0.clone(), kind: Kind::VgicV2 }.set_attr(GRP_ADDR, kind, addr)
    }
}

/// A device descriptor.
pub struct Device {
    vm: Arc<VmInner>,
    kind: Kind,
}

impl Device {
    pub(crate) fn create(vm: Arc<VmInner>, kind: u32) -> Result<Device> {
        let gic = &vm.config.profile.gic;
        let vcpus = vm.vcpus().len();
        let started = vm.started.load(Ordering::SeqCst) || vm.any_vcpu_runs();
        let mut s = vm.setup();
        let controller = |s: &mut GicSetup, version, most| {
            if started {
                return Err(Errno::EBUSY);
            }
            if s.exists() {
                return Err(Errno::EEXIST);
            }
            if vcpus > most {
                return Err(Errno::E2BIG);
            }
            s.version = Some(version);
            Ok(())
        };
        let kind = match kind {
            TYPE_ARM_VGIC_V2 if gic.v2 => {
                controller(&mut s, Version::V2, ulna_vgic::MAX_VCPUS_V2)?;
                Kind::VgicV2
            }
            TYPE_ARM_VGIC_V3 if gic.v3() => {
                controller(&mut s, Version::V3, ulna_vgic::MAX_VCPUS)?;
                Kind::VgicV3
            }
            TYPE_ARM_VGIC_ITS if gic.v3() => {
                // VMMs create it after the GIC was initialised as well as before.
                if !s.is_v2() {
                    vm.with_gic(GicState::add_its).transpose()?;
                }
                s.its.push(None);
                Kind::Its(s.its.len() - 1)
            }
            TYPE_VFIO => {
                // One a VM.
                if std::mem::replace(&mut s.vfio, true) {
                    return Err(Errno::EBUSY);
                }
                Kind::Vfio
            }
            _ => return Err(Errno::ENODEV),
        };
        drop(s);
        Ok(Device { vm, kind })
    }

    /// What KVM_SET_DEVICE_ATTR refuses before it reads the value.
    pub(crate) fn refused_unread(&self, group: u32, attr: u64) -> Result<()> {
        match group {
            GRP_ADDR | GRP_NR_IRQS => Ok(()),
            _ => named(group, self.register(group, attr)).map(drop),
        }
    }

    /// KVM_HAS_DEVICE_ATTR.
    pub fn has_attr(&self, group: u32, attr: u64) -> Result<()> {
        self.vm.check_alive()?;
        let known = match (self.kind, group) {
            (Kind::VgicV2, GRP_ADDR) => matches!(attr, V2_ADDR_TYPE_DIST | V2_ADDR_TYPE_CPU),
            (Kind::VgicV3, GRP_ADDR) => {
                matches!(attr, V3_ADDR_TYPE_DIST | V3_ADDR_TYPE_REDIST | V3_ADDR_TYPE_REDIST_REGION)
            }
            (Kind::Its(_), GRP_ADDR) => attr == ITS_ADDR_TYPE,
            (Kind::VgicV2 | Kind::VgicV3, GRP_NR_IRQS) => true,
            (Kind::VgicV2, GRP_CTRL) => attr == CTRL_INIT,
            (Kind::VgicV3, GRP_CTRL) => matches!(attr, CTRL_INIT | CTRL_SAVE_PENDING_TABLES),
            (Kind::Its(_), GRP_CTRL) => {
                matches!(attr, CTRL_INIT | ITS_SAVE_TABLES | ITS_RESTORE_TABLES | ITS_CTRL_RESET)
            }
            (Kind::Vfio, _) => group == GRP_VFIO_FILE && matches!(attr, VFIO_FILE_ADD | VFIO_FILE_DEL),
            _ => match self.register(group, attr)? {
                Reg::Frame(region, _, offset) => {
                    let aligned = offset.is_multiple_of(4);
                    aligned && self.vm.with_gic(|g| g.gic.has_user_register(region, offset)) == Some(true)
                }
                Reg::Cpu(..) => true,
                Reg::Levels(..) => attr >> 10 & 0x3f_ffff == 0,
            },
        };
        if known { Ok(()) } else { Err(Errno::ENXIO) }
    }

    /// KVM_GET_DEVICE_ATTR. `value` is what the caller's buffer holds: a redistributor region is asked for by its index.
    pub fn get_attr(&self, group: u32, attr: u64, value: u64) -> Result<u64> {
        self.vm.check_alive()?;
        let s = self.vm.setup();
        match (self.kind, group, attr) {
            (Kind::VgicV2, GRP_ADDR, V2_ADDR_TYPE_CPU) => Ok(s.cpuif.unwrap_or(UNSET)),
            (Kind::VgicV2, GRP_ADDR, V2_ADDR_TYPE_DIST) => Ok(s.dist.unwrap_or(UNSET)),
            (Kind::VgicV3, GRP_ADDR, V3_ADDR_TYPE_DIST) => Ok(s.dist.unwrap_or(UNSET)),
            (Kind::VgicV3, GRP_ADDR, V3_ADDR_TYPE_REDIST) => {
                Ok(s.redists.first().filter(|r| r.count.is_none()).map_or(UNSET, |r| r.base))
            }
            (Kind::VgicV3, GRP_ADDR, V3_ADDR_TYPE_REDIST_REGION) => {
                let index = value & 0xfff;
                let region =
                    usize::try_from(index).ok().and_then(|i| s.redists.get(i)).ok_or(Errno::ENOENT)?;
                Ok(region.count.unwrap_or(0) << 52 | region.base | index)
            }
            (Kind::Its(n), GRP_ADDR, ITS_ADDR_TYPE) => Ok(s.its.get(n).copied().flatten().unwrap_or(UNSET)),
            (Kind::VgicV2 | Kind::VgicV3, GRP_NR_IRQS, _) => Ok(s.nr_irqs.unwrap_or(32).into()),
            (_, GRP_ADDR | GRP_CTRL, _) => Err(Errno::ENXIO),
            _ => {
                drop(s);
                self.get_register(group, attr)
            }
        }
    }

    /// KVM_SET_DEVICE_ATTR.
    pub fn set_attr(&self, group: u32, attr: u64, value: u64) -> Result<()> {
        self.vm.check_alive()?;
        match (self.kind, group) {
            (Kind::VgicV2 | Kind::VgicV3 | Kind::Its(_), GRP_ADDR) => self.set_address(attr, value),
            (Kind::VgicV2 | Kind::VgicV3, GRP_NR_IRQS) => self.set_nr_irqs(value as u32),
            // No file of this machine is one of a VFIO group or device.
            (Kind::Vfio, GRP_VFIO_FILE) if attr == VFIO_FILE_ADD => Err(Errno::EINVAL),
            (Kind::Vfio, GRP_VFIO_FILE) if attr == VFIO_FILE_DEL => Err(Errno::ENOENT),
            (Kind::Vfio, _) => Err(Errno::ENXIO),
            (_, GRP_CTRL) => self.control(attr),
            _ => self.set_register(group, attr, value),
        }
    }

    fn check_range(&self, base: u64, len: u64, align: u64) -> Result<()> {
        if base & (align - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        let end = base.checked_add(len).ok_or(Errno::EINVAL)?;
        if end > 1 << self.vm.ipa_bits { Err(Errno::E2BIG) } else { Ok(()) }
    }

    fn set_address(&self, attr: u64, value: u64) -> Result<()> {
        let vcpus = self.vm.vcpus().len() as u64;
        let mut s = self.vm.setup();
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
            (Kind::VgicV3, V3_ADDR_TYPE_REDIST) => self.set_redist(&mut s, value, vcpus),
            (Kind::VgicV3, V3_ADDR_TYPE_REDIST_REGION) => self.add_redist_region(&mut s, value),
            (Kind::Its(n), ITS_ADDR_TYPE) => match s.its.get_mut(n) {
                Some(slot) => place(slot, ITS_LEN, 0x1_0000),
                None => Err(Errno::ENXIO),
            },
            (Kind::Its(_), _) => Err(Errno::ENODEV),
            _ => Err(Errno::ENXIO),
        }?;
        self.vm.with_gic(|g| g.place(&s));
        Ok(())
    }

    /// The one region of all redistributors.
    fn set_redist(&self, s: &mut GicSetup, base: u64, vcpus: u64) -> Result<()> {
        match s.redists.first() {
            Some(r) if r.count.is_none() => return Err(Errno::EEXIST),
            Some(_) => return Err(Errno::EINVAL),
            None => {}
        }
        self.check_range(base, REDIST_LEN * vcpus.max(1), 0x1_0000)?;
        if overlaps_others(s, base, REDIST_LEN * vcpus.max(1)) {
            return Err(Errno::EINVAL);
        }
        s.redists.push(RedistRegion { base, count: None });
        Ok(())
    }

    /// One of several regions: count (63:52), base (51:16), flags (15:12), index (11:0).
    fn add_redist_region(&self, s: &mut GicSetup, value: u64) -> Result<()> {
        let (count, base) = (value >> 52, value & 0x000f_ffff_ffff_0000);
        let (flags, index) = (value >> 12 & 15, value & 0xfff);
        let legacy = s.redists.first().is_some_and(|r| r.count.is_none());
        if flags != 0 || count == 0 || legacy || index != s.redists.len() as u64 {
            return Err(Errno::EINVAL);
        }
        self.check_range(base, count * REDIST_LEN, 0x1_0000)?;
        if overlaps_others(s, base, count * REDIST_LEN) {
            return Err(Errno::EINVAL);
        }
        s.redists.push(RedistRegion { base, count: Some(count) });
        Ok(())
    }

    fn set_nr_irqs(&self, n: u32) -> Result<()> {
        if !(64..=1023).contains(&n) || !n.is_multiple_of(32) {
            return Err(Errno::EINVAL);
        }
        let mut s = self.vm.setup();
        if s.nr_irqs.is_some() || self.vm.gic_ready() {
            return Err(Errno::EBUSY);
        }
        s.nr_irqs = Some(n);
        Ok(())
    }

    fn control(&self, attr: u64) -> Result<()> {
        let map = self.vm.memory.clone();
        match (self.kind, attr) {
            (Kind::VgicV2 | Kind::VgicV3, CTRL_INIT) => self.vm.init_gic(),
            (Kind::VgicV3, CTRL_SAVE_PENDING_TABLES) => {
                self.check_quiet()?;
                let done = self.vm.with_gic(|g| g.gic.save_pending_tables(&Tables(&map)));
                done.ok_or(Errno::ENXIO)?.map_err(errno)
            }
            (Kind::Its(n), ITS_SAVE_TABLES) => {
                self.check_quiet()?;
                let done = self.vm.with_gic(|g| g.gic.its_save_tables(n, &Tables(&map)));
                done.ok_or(Errno::ENXIO)?.map_err(errno)
            }
            (Kind::Its(n), ITS_RESTORE_TABLES) => {
                self.check_quiet()?;
                let done = self.vm.with_gic(|g| g.gic.its_restore_tables(n, &Tables(&map)));
                done.ok_or(Errno::ENXIO)?.map_err(errno)
            }
            (Kind::Its(n), ITS_CTRL_RESET) => {
                self.check_quiet()?;
                let done = self.vm.with_gic(|g| g.gic.its_reset(n));
                done.unwrap_or(Ok(())).map_err(errno)
            }
            // Anything else is nothing to do for an ITS.
            (Kind::Its(_), _) => Ok(()),
            _ => Err(Errno::ENXIO),
        }
    }

    /// Requests that need all vCPUs to stand still.
    fn check_quiet(&self) -> Result<()> {
        if self.vm.any_vcpu_runs() { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// The vCPU of an attribute's affinity field.
    fn by_affinity(&self, attr: u64) -> Result<usize> {
        let wanted = attr >> 32;
        let affinity = |id| {
            let m = mpidr(id);
            m & 0xff_ffff | (m >> 32 & 0xff) << 24
        };
        let vcpus = self.vm.vcpus();
        vcpus.values().find(|v| affinity(v.id) == wanted).map(|v| v.index).ok_or(Errno::EINVAL)
    }

    /// Which register an attribute names.
    fn register(&self, group: u32, attr: u64) -> Result<Reg> {
        let offset = attr & 0xffff_ffff;
        match (self.kind, group) {
            (Kind::VgicV2, GRP_DIST_REGS | GRP_CPU_REGS) => {
                let id = attr >> 32 & 0xff;
                let vcpus = self.vm.vcpus();
                let vcpu = vcpus.get(&(id as u32)).ok_or(Errno::EINVAL)?.index;
                let region = if group == GRP_DIST_REGS { Region::Dist } else { Region::Cpuif };
                Ok(Reg::Frame(region, vcpu, offset))
            }
            (Kind::VgicV3, GRP_DIST_REGS) => Ok(Reg::Frame(Region::Dist, 0, offset)),
            (Kind::VgicV3, GRP_REDIST_REGS) => {
                let vcpu = self.by_affinity(attr)?;
                Ok(Reg::Frame(Region::Redist(vcpu), vcpu, offset))
            }
            (Kind::VgicV3, GRP_CPU_SYSREGS) => {
                let vcpu = self.by_affinity(attr)?;
                let e = attr as u16;
                let field = |lsb: u16, mask: u16| (e >> lsb & mask) as u8;
                let reg = IccReg::from_encoding(
                    field(14, 3),
                    field(11, 7),
                    field(7, 15),
                    field(3, 15),
                    field(0, 7),
                );
                Ok(Reg::Cpu(vcpu, reg.ok_or(Errno::ENXIO)?))
            }
            (Kind::VgicV3, GRP_LEVEL_INFO) => {
                let vcpu = self.by_affinity(attr)?;
                let (info, intid) = (attr >> 10 & 0x3f_ffff, attr & 0x3ff);
                if info != 0 || !intid.is_multiple_of(32) {
                    Err(Errno::EINVAL)
                } else {
                    Ok(Reg::Levels(vcpu, intid as u32))
                }
            }
            (Kind::Its(n), GRP_ITS_REGS) => {
                let wide = (0x08..0xffd0).contains(&attr);
                if !attr.is_multiple_of(if wide { 8 } else { 4 }) {
                    return Err(Errno::EINVAL);
                }
                if self.vm.setup().its.get(n).copied().flatten().is_none() {
                    return Err(Errno::ENXIO);
                }
                Ok(Reg::Frame(Region::Its(n), 0, attr))
            }
            _ => Err(Errno::ENXIO),
        }
    }

    /// A GICv2 comes to life with the first access to its registers.
    fn ready(&self) -> Result<()> {
        self.check_quiet()?;
        self.vm.lazy_init_gic()
    }

    fn get_register(&self, group: u32, attr: u64) -> Result<u64> {
        let reg = named(group, self.register(group, attr))?;
        self.ready()?;
        let read = self.vm.with_gic(|g| match reg {
            Reg::Frame(region, vcpu, offset) => Ok(g.gic.user_read(region, vcpu, offset)),
            Reg::Cpu(vcpu, reg) => g.gic.user_sysreg_read(vcpu, reg),
            Reg::Levels(vcpu, first) => Ok(g.gic.user_line_levels(vcpu, first).into()),
        });
        read.ok_or(Errno::EBUSY)?.map_err(errno)
    }

    fn set_register(&self, group: u32, attr: u64, value: u64) -> Result<()> {
        let reg = named(group, self.register(group, attr))?;
        self.ready()?;
        let map = self.vm.memory.clone();
        let written = self.vm.with_gic(|g| match reg {
            Reg::Frame(region, vcpu, offset) => g.gic.user_write(region, vcpu, offset, value, &Tables(&map)),
            Reg::Cpu(vcpu, reg) => g.gic.user_sysreg_write(vcpu, reg, value),
            Reg::Levels(vcpu, first) => {
                g.gic.set_user_line_levels(vcpu, first, value as u32);
                Ok(())
            }
        });
        written.ok_or(Errno::EBUSY)?.map_err(errno)
    }
}

/// An unknown CPU interface register is ENXIO for HAS and ENOENT for the others.
fn named(group: u32, reg: Result<Reg>) -> Result<Reg> {
    match reg {
        Err(Errno::ENXIO) if group == GRP_CPU_SYSREGS => Err(Errno::ENOENT),
        Ok(Reg::Frame(Region::Its(_), _, offset)) if !ulna_vgic::its::Its::has_user_register(offset) => {
            Err(Errno::ENXIO)
        }
        r => r,
    }
}

fn errno(e: GicError) -> Errno {
    match e {
        GicError::Memory => Errno::EFAULT,
        GicError::NoRegister => Errno::ENXIO,
        GicError::Busy => Errno::EBUSY,
        GicError::Exists => Errno::EEXIST,
        _ => Errno::EINVAL,
    }
}

/// Would `base..base+len` overlap the distributor or a region that is placed?
fn overlaps_others(s: &GicSetup, base: u64, len: u64) -> bool {
    let hits = |at: u64, n: u64| at < base + len && base < at + n;
    s.dist.is_some_and(|d| hits(d, DIST_V3_LEN))
        || s.redists.iter().any(|r| hits(r.base, r.count.unwrap_or(1) * REDIST_LEN))
}
