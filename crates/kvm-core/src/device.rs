//! Device descriptors: GICv2, GICv3 and ITS by their attributes (kvm-arm64-abi.md §10).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ulna_kvm_abi::Errno;
use ulna_kvm_abi::device::*;
use ulna_vgic::its::Its;
use ulna_vgic::redist::NoRedists;
use ulna_vgic::{GicError, IccReg, Region, Version};

use crate::Result;
use crate::gic::{CPUIF_LEN, DIST_V2_LEN, DIST_V3_LEN, GicSetup, ITS_LEN, ItsSetup, check_range};
use crate::identity::GICD_TYPER;
use crate::memory::Tables;
use crate::vm::{Vm, VmInner};
use crate::why;

const NO_ITS_ADDRESS: Errno = Errno::ENODEV.because("an ITS has only the address KVM_VGIC_ITS_ADDR_TYPE");
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

/// A register that an attribute names, as far as its vCPU.
#[derive(Clone, Copy, Debug)]
enum Reg {
    /// Of a frame; the vCPU matters for banked ones.
    Frame(Region, usize, u64),
    /// Of a CPU interface, by its encoding.
    Sysreg(usize, u16),
    /// Levels of lines: the attribute's low half.
    Levels(usize, u64),
}

/// VGIC_LEVEL_INFO_LINE_LEVEL is kind 0 of LEVEL_INFO.
fn level_kind(attr: u64) -> u64 {
    attr >> 10 & 0x3f_ffff
}

impl Vm {
    /// KVM_CREATE_DEVICE with KVM_CREATE_DEVICE_TEST: could the host make one of this type?
    pub fn supports_device(&self, kind: u32) -> bool {
        let gic = self.0.config.gic();
        match kind {
            TYPE_ARM_VGIC_V2 => gic.v2,
            TYPE_ARM_VGIC_V3 | TYPE_ARM_VGIC_ITS => gic.v3,
            TYPE_VFIO => true,
            _ => false,
        }
    }

    /// KVM_CREATE_IRQCHIP: a GICv2.
    pub fn create_irqchip(&self) -> Result<()> {
        self.0.check_alive()?;
        let gic = self.0.config.gic();
        if !gic.v2 && !gic.v3 {
            return Err(Errno::ENXIO.because("the host has no interrupt controller for guests"));
        }
        self.create_device(TYPE_ARM_VGIC_V2).map(drop)
    }

    /// KVM_ARM_SET_DEVICE_ADDR: the addresses of a GICv2 as they were set before there were device attributes.
    pub fn set_device_addr(&self, id: u64, addr: u64) -> Result<()> {
        self.0.check_alive()?;
        let (kind, device) = (id & 0xffff, id >> 16 & 0xffff);
        if device != 0 {
            return Err(Errno::ENODEV
                .because("device {}: only the GICv2 (0) is placed by this request")
                .value(device));
        }
        let gic = self.0.config.gic();
        if !gic.v2 && !gic.v3 {
            return Err(Errno::ENXIO.because("the host has no interrupt controller for guests"));
        }
        if !matches!(kind, V2_ADDR_TYPE_DIST | V2_ADDR_TYPE_CPU) || !self.0.setup().is_v2() {
            return Err(Errno::ENODEV.because("the VM has no GICv2 with such an address"));
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
        let gic = vm.config.gic();
        let vcpus = vm.vcpus().len();
        let busy = vm.any_vcpu_runs();
        let mut s = vm.setup();
        let controller = |s: &mut GicSetup, version, most| {
            if busy {
                return Err(why::RUNNING);
            }
            if s.exists() {
                return Err(Errno::EEXIST.because("the VM has an interrupt controller"));
            }
            if vm.started.load(Ordering::SeqCst) {
                return Err(why::STARTED);
            }
            if vcpus > most {
                let e = Errno::E2BIG.because("the VM has {} vCPUs, the controller serves {}");
                return Err(e.values([vcpus as u64, most as u64]));
            }
            s.version = Some(version);
            Ok(())
        };
        let kind = match kind {
            TYPE_ARM_VGIC_V2 if gic.v2 => {
                controller(&mut s, Version::V2, ulna_vgic::MAX_VCPUS_V2)?;
                Kind::VgicV2
            }
            TYPE_ARM_VGIC_V3 if gic.v3 => {
                controller(&mut s, Version::V3, ulna_vgic::MAX_VCPUS)?;
                Kind::VgicV3
            }
            TYPE_ARM_VGIC_ITS if gic.v3 => {
                // VMMs create it after the GIC was initialised as well as before. With a GICv2 it is of no use.
                vm.with_gic(|g| g.gic.add_its(Its::new()));
                s.its.push(ItsSetup { base: None, its: Its::new() });
                Kind::Its(s.its.len() - 1)
            }
            TYPE_VFIO => {
                // One a VM.
                if std::mem::replace(&mut s.vfio, true) {
                    return Err(Errno::EBUSY.because("the VM has a VFIO device, and one is the most"));
                }
                Kind::Vfio
            }
            _ => {
                return Err(Errno::ENODEV
                    .because("this host makes no devices of type {}")
                    .value(kind.into()));
            }
        };
        drop(s);
        Ok(Device { vm, kind })
    }

    /// What KVM_SET_DEVICE_ATTR refuses before it reads the value.
    pub(crate) fn refused_unread(&self, group: u32, attr: u64) -> Result<()> {
        match (self.kind, group) {
            (Kind::Its(_), GRP_ADDR) if attr != ITS_ADDR_TYPE => Err(NO_ITS_ADDRESS),
            (_, GRP_ADDR | GRP_NR_IRQS) | (Kind::Its(_), GRP_ITS_REGS) => Ok(()),
            _ => self.register(group, attr).map(drop),
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
            (Kind::VgicV3, GRP_LEVEL_INFO) => level_kind(attr) == 0,
            _ => match self.register(group, attr)? {
                Reg::Frame(region, _, offset) => self.has_register(region, offset),
                Reg::Sysreg(_, enc) => user_sysreg(enc).is_ok(),
                Reg::Levels(..) => false,
            },
        };
        if known { Ok(()) } else { Err(why::NO_ATTRIBUTE) }
    }

    /// Works before the GIC is initialised, which then has no SPIs unless the VMM said so.
    fn has_register(&self, region: Region, offset: u64) -> bool {
        let version = if self.kind == Kind::VgicV2 { Version::V2 } else { Version::V3 };
        let nr_irqs = self.vm.setup().nr_irqs.unwrap_or(32);
        ulna_vgic::has_user_register(version, nr_irqs, region, offset)
    }

    /// KVM_GET_DEVICE_ATTR. `value` is what the caller's buffer holds: a redistributor region is asked for by its index.
    pub fn get_attr(&self, group: u32, attr: u64, value: u64) -> Result<u64> {
        self.vm.check_alive()?;
        let s = self.vm.setup();
        match (self.kind, group, attr) {
            (Kind::VgicV2, GRP_ADDR, V2_ADDR_TYPE_CPU) => Ok(s.cpuif.unwrap_or(UNSET)),
            (Kind::VgicV2, GRP_ADDR, V2_ADDR_TYPE_DIST) => Ok(s.dist.unwrap_or(UNSET)),
            (Kind::VgicV3, GRP_ADDR, V3_ADDR_TYPE_DIST) => Ok(s.dist.unwrap_or(UNSET)),
            (Kind::VgicV3, GRP_ADDR, V3_ADDR_TYPE_REDIST) => Ok(s.redists.first().map_or(UNSET, |r| r.base)),
            (Kind::VgicV3, GRP_ADDR, V3_ADDR_TYPE_REDIST_REGION) => {
                // KVM keeps eight bits of it.
                let index = value & 0xff;
                let none = Errno::ENOENT.because("there is no redistributor region {}").value(index);
                let region = s.redists.get(index as usize).ok_or(none)?;
                Ok(region.count.unwrap_or(0) << 52 | region.base | index)
            }
            (Kind::Its(n), GRP_ADDR, ITS_ADDR_TYPE) => Ok(s.its.get(n).and_then(|i| i.base).unwrap_or(UNSET)),
            (Kind::Its(_), GRP_ADDR, _) => Err(NO_ITS_ADDRESS),
            (Kind::VgicV2 | Kind::VgicV3, GRP_NR_IRQS, _) => Ok(s.nr_irqs.unwrap_or(32).into()),
            (_, GRP_ADDR | GRP_CTRL, _) => Err(why::NO_ATTRIBUTE),
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
            (Kind::Vfio, GRP_VFIO_FILE) if attr == VFIO_FILE_ADD => {
                Err(Errno::EINVAL.because("the file is none of a VFIO group or device"))
            }
            (Kind::Vfio, GRP_VFIO_FILE) if attr == VFIO_FILE_DEL => {
                Err(Errno::ENOENT.because("the file was not added"))
            }
            (Kind::Vfio, _) => Err(why::NO_ATTRIBUTE),
            (_, GRP_CTRL) => self.control(attr),
            _ => self.set_register(group, attr, value),
        }
    }

    fn set_address(&self, attr: u64, value: u64) -> Result<()> {
        let vcpus = self.vm.vcpus().len();
        let ipa_bits = self.vm.ipa_bits;
        let mut s = self.vm.setup();
        let place = |slot: &mut Option<u64>, len: u64, align: u64| {
            if slot.is_some() {
                return Err(Errno::EEXIST.because("the address is set already"));
            }
            check_range(value, len, align, ipa_bits)?;
            *slot = Some(value);
            Ok(())
        };
        match (self.kind, attr) {
            (Kind::VgicV2, V2_ADDR_TYPE_DIST) => place(&mut s.dist, DIST_V2_LEN, 0x1000),
            (Kind::VgicV2, V2_ADDR_TYPE_CPU) => place(&mut s.cpuif, CPUIF_LEN, 0x1000),
            (Kind::VgicV3, V3_ADDR_TYPE_DIST) => place(&mut s.dist, DIST_V3_LEN, 0x1_0000),
            (Kind::VgicV3, V3_ADDR_TYPE_REDIST) => s.add_region(0, value, None, vcpus, ipa_bits),
            (Kind::VgicV3, V3_ADDR_TYPE_REDIST_REGION) => {
                // Count (63:52), base (51:16), flags (15:12), index (11:0, of which KVM keeps eight bits).
                let (count, base) = (value >> 52, value & 0x000f_ffff_ffff_0000);
                if count == 0 || value >> 12 & 15 != 0 {
                    return Err(Errno::EINVAL
                        .because("region {x}: its count (63:52) is zero or its flags (15:12) are not")
                        .value(value));
                }
                s.add_region(value & 0xff, base, Some(count), vcpus, ipa_bits)
            }
            (Kind::Its(n), ITS_ADDR_TYPE) => match s.its.get_mut(n) {
                Some(i) => place(&mut i.base, ITS_LEN, 0x1_0000),
                None => Err(why::NO_ATTRIBUTE),
            },
            (Kind::Its(_), _) => Err(NO_ITS_ADDRESS),
            _ => Err(why::NO_ATTRIBUTE),
        }?;
        self.vm.with_gic(|g| g.place(&s));
        Ok(())
    }

    fn set_nr_irqs(&self, n: u32) -> Result<()> {
        if !(64..=1023).contains(&n) || !n.is_multiple_of(32) {
            return Err(Errno::EINVAL.because("{} lines: from 64 to 1023, in steps of 32").value(n.into()));
        }
        let mut s = self.vm.setup();
        if s.nr_irqs.is_some() || self.vm.gic_ready() {
            return Err(Errno::EBUSY.because("the number of lines is set, or the controller initialised"));
        }
        s.nr_irqs = Some(n);
        Ok(())
    }

    fn control(&self, attr: u64) -> Result<()> {
        let map = self.vm.memory.clone();
        let mem = &Tables(&map);
        match (self.kind, attr) {
            (Kind::VgicV2 | Kind::VgicV3, CTRL_INIT) => self.vm.init_gic(),
            (Kind::VgicV3, CTRL_SAVE_PENDING_TABLES) => {
                self.check_quiet()?;
                let done = self.vm.with_gic(|g| g.gic.save_pending_tables(mem));
                let none = Errno::ENXIO.because("the interrupt controller is not initialised");
                done.ok_or(none)?.map_err(errno)
            }
            (Kind::Its(_), CTRL_INIT) => Ok(()),
            (Kind::Its(n), _) => {
                self.check_quiet()?;
                let done = match attr {
                    ITS_SAVE_TABLES => self.vm.with_its(
                        n,
                        |g| g.its_save_tables(n, mem),
                        |its| its.save_tables(&mut NoRedists, mem),
                    ),
                    ITS_RESTORE_TABLES => self.vm.with_its(
                        n,
                        |g| g.its_restore_tables(n, mem),
                        |its| its.restore_tables(0, &mut NoRedists, mem),
                    ),
                    ITS_CTRL_RESET => self.vm.with_its(
                        n,
                        |g| g.its_reset(n),
                        |its| {
                            its.reset(&mut NoRedists);
                            Ok(())
                        },
                    ),
                    // Anything else is nothing to do.
                    _ => None,
                };
                done.unwrap_or(Ok(())).map_err(errno)
            }
            _ => Err(why::NO_ATTRIBUTE),
        }
    }

    /// Requests that need all vCPUs to stand still.
    fn check_quiet(&self) -> Result<()> {
        if self.vm.any_vcpu_runs() { Err(why::RUNNING) } else { Ok(()) }
    }

    /// The vCPU of an attribute's affinity field: of those with the same, the first.
    fn by_affinity(&self, attr: u64) -> Result<usize> {
        let wanted = (attr >> 32) as u32;
        let vcpus = self.vm.vcpus();
        let same = vcpus.values().filter(|v| v.affinity.load(Ordering::SeqCst) == wanted);
        let none = Errno::EINVAL.because("no vCPU has the affinity {x}").value(wanted.into());
        same.map(|v| v.index).min().ok_or(none)
    }

    /// The vCPU with this id.
    fn by_id(&self, id: u32) -> Result<usize> {
        self.vm.vcpus().get(&id).map(|v| v.index).ok_or(why::NO_VCPU)
    }

    /// Which register an attribute names: what is refused before anything else is looked at.
    fn register(&self, group: u32, attr: u64) -> Result<Reg> {
        let offset = attr & 0xffff_ffff;
        match (self.kind, group) {
            (Kind::VgicV2, GRP_DIST_REGS | GRP_CPU_REGS) => {
                let vcpu = self.by_id((attr >> 32 & 0xff) as u32)?;
                let region = if group == GRP_DIST_REGS { Region::Dist } else { Region::Cpuif };
                Ok(Reg::Frame(region, vcpu, offset))
            }
            (Kind::VgicV3, GRP_DIST_REGS) => Ok(Reg::Frame(Region::Dist, self.by_id(0)?, offset)),
            (Kind::VgicV3, GRP_REDIST_REGS) => {
                let vcpu = self.by_affinity(attr)?;
                Ok(Reg::Frame(Region::Redist(vcpu), vcpu, offset))
            }
            (Kind::VgicV3, GRP_CPU_SYSREGS) => Ok(Reg::Sysreg(self.by_affinity(attr)?, attr as u16)),
            (Kind::VgicV3, GRP_LEVEL_INFO) => Ok(Reg::Levels(self.by_affinity(attr)?, offset)),
            (Kind::Its(n), GRP_ITS_REGS) => {
                let wide = (0x08..0xffd0).contains(&attr);
                if attr.is_multiple_of(if wide { 8 } else { 4 }) {
                    Ok(Reg::Frame(Region::Its(n), 0, attr))
                } else {
                    Err(Errno::EINVAL.because("offset {x} is not aligned to the register's size").value(attr))
                }
            }
            _ => Err(why::NO_ATTRIBUTE),
        }
    }

    /// What an access to a register needs beyond its name. A GICv2 comes to life with the first one.
    fn ready(&self, reg: Reg) -> Result<()> {
        self.check_quiet()?;
        match reg {
            Reg::Frame(Region::Its(n), _, offset) => {
                let placed = self.vm.setup().its.get(n).is_some_and(|i| i.base.is_some());
                if !placed {
                    return Err(Errno::ENXIO.because("the ITS has no address yet"));
                }
                let none = Errno::ENXIO.because("the ITS has no register at {x}").value(offset);
                if Its::has_user_register(offset) { Ok(()) } else { Err(none) }
            }
            _ => self.vm.lazy_init_gic(),
        }
    }

    fn get_register(&self, group: u32, attr: u64) -> Result<u64> {
        let reg = self.register(group, attr)?;
        self.ready(reg)?;
        let read = match reg {
            Reg::Frame(region @ Region::Its(n), vcpu, offset) => self.vm.with_its(
                n,
                |g| Ok(g.user_read(region, vcpu, offset)),
                |its| Ok(its.user_read(offset)),
            ),
            Reg::Frame(region, vcpu, offset) => {
                self.vm.with_gic(|g| Ok(g.gic.user_read(region, vcpu, offset)))
            }
            Reg::Sysreg(vcpu, enc) => {
                let reg = user_sysreg(enc)?;
                self.vm.with_gic(|g| g.gic.user_sysreg_read(vcpu, reg))
            }
            Reg::Levels(vcpu, attr) => {
                let first = levels_from(attr)?;
                self.vm.with_gic(|g| Ok(g.gic.user_line_levels(vcpu, first).into()))
            }
        };
        read.ok_or(why::GIC_NOT_READY)?.map_err(errno)
    }

    fn set_register(&self, group: u32, attr: u64, value: u64) -> Result<()> {
        let reg = self.register(group, attr)?;
        self.ready(reg)?;
        let map = self.vm.memory.clone();
        let mem = &Tables(&map);
        let written = match reg {
            Reg::Frame(region @ Region::Its(n), vcpu, offset) => self.vm.with_its(
                n,
                |g| g.user_write(region, vcpu, offset, value, mem),
                |its| its.user_write(offset, value, 0, &mut NoRedists, mem),
            ),
            Reg::Frame(region, vcpu, offset) => {
                let value = value & 0xffff_ffff;
                if region == Region::Dist && offset == GICD_TYPER {
                    let vm = &self.vm;
                    return vm.with_gic(|g| vm.write_dist_identity(g, value)).ok_or(why::GIC_NOT_READY)?;
                }
                self.vm.with_gic(|g| g.gic.user_write(region, vcpu, offset, value, mem))
            }
            Reg::Sysreg(vcpu, enc) => {
                let reg = user_sysreg(enc)?;
                if reg == IccReg::Ctlr {
                    let vm = &self.vm;
                    vm.with_gic(|g| vm.write_cpu_identity(g, value)).ok_or(why::GIC_NOT_READY)??;
                }
                self.vm.with_gic(|g| g.gic.user_sysreg_write(vcpu, reg, value))
            }
            Reg::Levels(vcpu, attr) => {
                let first = levels_from(attr)?;
                let levels = value as u32;
                self.vm.with_gic(|g| {
                    g.restore_levels(vcpu, first, levels);
                    Ok(())
                })
            }
        };
        written.ok_or(why::GIC_NOT_READY)?.map_err(errno)
    }
}

/// The register of the CPU interface with this encoding, of those that can be saved. An unknown one is ENOENT, but ENXIO
/// for KVM_HAS_DEVICE_ATTR.
fn user_sysreg(enc: u16) -> Result<IccReg> {
    IccReg::from_packed(enc).filter(|r| r.is_state()).ok_or(
        Errno::ENOENT.because("{x} is no register of a CPU interface that can be saved").value(enc.into()),
    )
}

/// The first of the 32 lines that an attribute of LEVEL_INFO names.
fn levels_from(attr: u64) -> Result<u32> {
    let first = attr & 0x3ff;
    if level_kind(attr) == 0 && first.is_multiple_of(32) {
        Ok(first as u32)
    } else {
        Err(Errno::EINVAL.because("LEVEL_INFO {x}: kind 0, and the first INTID a multiple of 32").value(attr))
    }
}

fn errno(e: GicError) -> Errno {
    match e {
        GicError::Memory => {
            Errno::EFAULT.because("a table of the interrupt controller is not in the guest's memory")
        }
        GicError::NoRegister => Errno::ENXIO.because("the interrupt controller has no such register here"),
        GicError::Busy => {
            Errno::EBUSY.because("the interrupt controller is in a state in which this register is fixed")
        }
        GicError::Exists => Errno::EEXIST.because("the interrupt controller has one already"),
        _ => Errno::EINVAL.because("the interrupt controller does not take this value in its present state"),
    }
}
