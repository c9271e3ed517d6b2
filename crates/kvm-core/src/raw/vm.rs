//! Requests on a VM (kvm-arm64-abi.md §1.3).

use std::sync::Arc;

use ulna_kvm_abi::ioctl::{on, request};
use ulna_kvm_abi::structs::*;
use ulna_kvm_abi::{Errno, device, private};

use super::{Caller, Descriptor, StatsFile, UNKNOWN, VcpuHandle, dirty};
use crate::{Result, Vm, why};

/// A VM and who may ask it.
pub struct VmHandle {
    vm: Vm,
    space: u64,
    share: bool,
}

/// KVM_IRQFD_FLAG_*.
const IRQFD_DEASSIGN: u32 = 1;
const IRQFD_RESAMPLE: u32 = 2;
/// KVM_IOEVENTFD_FLAG_*.
const IOEVENTFD_DATAMATCH: u32 = 1;
const IOEVENTFD_PIO: u32 = 2;
const IOEVENTFD_DEASSIGN: u32 = 4;
const IOEVENTFD_VALID: u32 = 0x1f;
/// KVM_CREATE_DEVICE_TEST.
const CREATE_DEVICE_TEST: u32 = 1;
/// KVM_MSI_VALID_DEVID.
const MSI_VALID_DEVID: u32 = 1;
/// Registers of KVM_ARM_FEATURE_ID_RANGE.
const MASKS: usize = 192;

impl VmHandle {
    /// A VM of the address space `space`; `share`: the pages of its vCPUs can be mapped by others.
    pub fn new(vm: Vm, space: u64, share: bool) -> VmHandle {
        VmHandle { vm, space, share }
    }

    /// The VM.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Bytes that KVM_GET_DIRTY_LOG of a slot writes.
    pub fn dirty_log_bytes(&self, slot: u32) -> Option<usize> {
        let len = self.vm.0.slots.size(slot)?;
        usize::try_from(len.div_ceil(4096).div_ceil(64) * 8).ok()
    }

    pub(super) fn shares_pages(&self) -> bool {
        self.share
    }

    /// G1, G2: only its maker may ask, and only while it is alive.
    pub(super) fn check_caller(&self, caller: &Caller<'_>) -> Result<()> {
        if caller.mem.space() != self.space {
            return Err(Errno::EIO.because("another process made this VM, and only it may ask"));
        }
        self.vm.0.check_alive()
    }
}

pub(super) fn serve(vm: &Arc<VmHandle>, req: u32, arg: u64, caller: &Caller<'_>) -> Result<i32> {
    let v = &vm.vm;
    match req {
        request::CHECK_EXTENSION => {
            return match u32::try_from(arg) {
                Ok(n) => v.check_extension(n),
                Err(_) => Ok(0),
            };
        }
        request::CREATE_VCPU => {
            // The kernel's parameter is 32 bits wide.
            return caller.open(|| Ok(Descriptor::Vcpu(VcpuHandle::create(vm, arg as u32)?)));
        }
        request::GET_STATS_FD => {
            return caller.open(|| Ok(Descriptor::Stats(Arc::new(StatsFile::of_vm(vm)))));
        }
        request::SET_USER_MEMORY_REGION => set_memory(v, &caller.get(arg)?, caller)?,
        request::SET_USER_MEMORY_REGION2 => {
            let r = caller.get::<UserspaceMemoryRegion2>(arg)?;
            caller.tidy(r.pad1 == 0 && r.pad2 == [0; 14])?;
            let UserspaceMemoryRegion2 { slot, flags, guest_phys_addr, memory_size, userspace_addr, .. } = r;
            let r = UserspaceMemoryRegion { slot, flags, guest_phys_addr, memory_size, userspace_addr };
            set_memory(v, &r, caller)?;
        }
        request::CREATE_IRQCHIP => v.create_irqchip()?,
        request::IRQ_LINE => {
            let l = caller.get::<IrqLevel>(arg)?;
            v.irq_line(l.irq, l.level != 0)?;
        }
        request::IRQ_LINE_STATUS => {
            let l = caller.get_writable::<IrqLevel>(arg)?;
            v.irq_line(l.irq, l.level != 0)?;
        }
        request::GET_DIRTY_LOG => dirty::get_log(v, arg, caller)?,
        request::CLEAR_DIRTY_LOG => dirty::clear_log(v, arg, caller)?,
        request::RESET_DIRTY_RINGS => return v.reset_dirty_rings().map(|n| n as i32),
        request::REGISTER_COALESCED_MMIO => v.register_coalesced_mmio(&caller.get(arg)?)?,
        request::UNREGISTER_COALESCED_MMIO => v.unregister_coalesced_mmio(&caller.get(arg)?)?,
        request::SET_GSI_ROUTING => dirty::set_routing(v, arg, caller)?,
        request::IRQFD => irqfd(v, &caller.get(arg)?, caller)?,
        request::IOEVENTFD => ioeventfd(v, &caller.get(arg)?, caller)?,
        request::ENABLE_CAP => {
            let c = caller.get::<EnableCap>(arg)?;
            caller.tidy(c.pad == [0; 64])?;
            v.enable_cap(c.cap, c.flags, c.args)?;
        }
        request::SIGNAL_MSI => {
            let m = caller.get::<Msi>(arg)?;
            caller.tidy(m.pad == [0; 12])?;
            return signal_msi(v, &m).map(i32::from);
        }
        request::ARM_SET_DEVICE_ADDR => {
            let a = caller.get::<ArmDeviceAddr>(arg)?;
            v.set_device_addr(a.id, a.addr)?;
        }
        request::ARM_PREFERRED_TARGET => caller.put(arg, &v.preferred_target())?,
        request::ARM_SET_COUNTER_OFFSET => {
            let c = caller.get::<ArmCounterOffset>(arg)?;
            if c.reserved != 0 {
                return Err(Errno::EINVAL.because("kvm_arm_counter_offset.reserved is not zero"));
            }
            if v.0.any_vcpu_runs() {
                return Err(why::RUNNING);
            }
            v.set_counter_offset(c.counter_offset)?;
        }
        request::ARM_GET_REG_WRITABLE_MASKS => {
            let r = caller.get::<RegMaskRange>(arg)?;
            if r.range == private::MASK_RANGE_LIST && !v.0.config.strict {
                return mask_list(v, &r, caller);
            }
            if r.range != 0 || r.reserved.iter().any(|w| *w != 0) {
                let e = Errno::EINVAL.because("range {}, reserved words not zero, or no such range");
                return Err(e.value(r.range.into()));
            }
            let masks: [u64; MASKS] = v.writable_masks();
            let bytes: Vec<u8> = masks.iter().flat_map(|m| m.to_le_bytes()).collect();
            caller.write(r.addr, &bytes)?;
        }
        request::ARM_MTE_COPY_TAGS => {
            // Without KVM_CAP_ARM_MTE.
            caller.get::<ArmCopyMteTags>(arg)?;
            return Err(Errno::EINVAL.because("the VM has no MTE"));
        }
        request::CREATE_DEVICE => create_device(vm, arg, caller)?,
        request::SET_DEVICE_ATTR => {
            let a = caller.attr(arg)?;
            if a.group == private::GRP_REG_SCOPE {
                v.vm_reg_size(a.attr)?;
                v.set_vm_reg(a.attr, caller.get(a.addr)?)?;
                return Ok(0);
            }
            if (a.group, a.attr) != (device::GRP_VM_SMCCC_CTRL, device::VM_SMCCC_FILTER) {
                return Err(why::NO_ATTRIBUTE);
            }
            v.set_smccc_filter(&caller.get(a.addr)?)?;
        }
        request::GET_REG_LIST if !v.0.config.strict => {
            caller.get::<u64>(arg)?;
            super::vcpu::put_reg_list(&v.reg_map()?, arg, caller)?;
        }
        request::GET_DEVICE_ATTR if !v.0.config.strict => {
            let a = caller.attr(arg)?;
            if a.group != private::GRP_REG_SCOPE {
                return Err(why::NO_ATTRIBUTE);
            }
            caller.put(a.addr, &v.get_vm_reg(a.attr)?)?;
        }
        // Not on a VM of Linux.
        request::GET_REG_LIST | request::GET_DEVICE_ATTR => return Err(UNKNOWN),
        request::HAS_DEVICE_ATTR => {
            let a = caller.attr(arg)?;
            v.has_attr(a.group, a.attr)?;
        }
        _ => return Err(caller.unbuilt(req, on::VM, arg)),
    }
    Ok(0)
}

/// Its own form: `reserved[0]` is the size of the buffer, which tells how many entries there are in any case.
fn mask_list(v: &Vm, r: &RegMaskRange, caller: &Caller<'_>) -> Result<i32> {
    if r.reserved[1..].iter().any(|w| *w != 0) {
        return Err(Errno::EINVAL.because("reserved words of the range are not zero"));
    }
    let list = v.mask_list_bytes();
    let header = list.get(..8).ok_or(UNKNOWN)?;
    let room = r.reserved[0] as usize;
    if room < list.len() {
        if room >= header.len() {
            caller.write(r.addr, header)?;
        }
        let e = Errno::E2BIG.because("the list has {} bytes, the buffer {}");
        return Err(e.values([list.len() as u64, room as u64]));
    }
    caller.write(r.addr, &list)?;
    Ok(0)
}

fn set_memory(v: &Vm, r: &UserspaceMemoryRegion, caller: &Caller<'_>) -> Result<()> {
    let backing = || {
        let none = Errno::ENOMEM.because("{x} bytes at {x} of the caller cannot become guest memory");
        let none = none.values([r.memory_size, r.userspace_addr]);
        let b = caller.mem.backing(r.userspace_addr, r.memory_size).ok_or(none)?;
        Ok((b.host, b.owner))
    };
    // SAFETY: the memory is mapped while its owner lives, as whoever made the backing promised.
    unsafe { v.set_memory(r, backing) }
}

fn irqfd(v: &Vm, i: &IrqFd, caller: &Caller<'_>) -> Result<()> {
    caller.tidy(i.pad == [0; 16])?;
    if i.flags & !(IRQFD_DEASSIGN | IRQFD_RESAMPLE) != 0 {
        return Err(Errno::EINVAL
            .because("flags {x}: there are DEASSIGN (1) and RESAMPLE (2)")
            .value(i.flags.into()));
    }
    if i.flags & IRQFD_DEASSIGN != 0 {
        let fd = caller.files.eventfd(i.fd as i32)?;
        return v.unregister_irqfd(&fd, i.gsi);
    }
    if !v.0.gic_ready() {
        return Err(Errno::EAGAIN.because("the interrupt controller is not initialised"));
    }
    let fd = caller.files.eventfd(i.fd as i32)?;
    let resample = i.flags & IRQFD_RESAMPLE != 0;
    let resample = resample.then(|| caller.files.eventfd(i.resamplefd as i32)).transpose()?;
    v.assign_irqfd(fd, i.gsi, resample)
}

fn ioeventfd(v: &Vm, e: &IoEventFd, caller: &Caller<'_>) -> Result<()> {
    caller.tidy(e.pad == [0; 36])?;
    let datamatch = (e.flags & IOEVENTFD_DATAMATCH != 0).then_some(e.datamatch);
    let deassign = e.flags & IOEVENTFD_DEASSIGN != 0;
    if !deassign {
        let known = matches!(e.len, 0 | 1 | 2 | 4 | 8) && e.flags & !IOEVENTFD_VALID == 0;
        let wraps = e.addr.checked_add(e.len.into()).is_none();
        if !known || wraps || e.len == 0 && datamatch.is_some() {
            let why = Errno::EINVAL
                .because("{} bytes, flags {x}: 1, 2, 4 or 8 bytes, or 0 without a value; known flags");
            return Err(why.values([e.len.into(), e.flags.into()]));
        }
    }
    let fd = caller.files.eventfd(e.fd)?;
    if e.flags & IOEVENTFD_PIO != 0 {
        // A bus that no arm64 guest reaches.
        return if deassign { Err(Errno::ENOENT.because("there are no ports on arm64")) } else { Ok(()) };
    }
    if deassign {
        v.unregister_ioeventfd(&fd, e.addr, e.len, datamatch)
    } else {
        v.register_ioeventfd(fd, e.addr, e.len, datamatch)
    }
}

fn signal_msi(v: &Vm, m: &Msi) -> Result<bool> {
    if !v.0.gic_exists() {
        return Err(why::NO_GIC);
    }
    if m.flags & !MSI_VALID_DEVID != 0 {
        return Err(Errno::EINVAL.because("flags {x}: there is VALID_DEVID (1)").value(m.flags.into()));
    }
    if !v.0.setup().has_its() {
        return Err(Errno::ENODEV.because("the VM has no ITS, which takes messages"));
    }
    if m.flags & MSI_VALID_DEVID == 0 {
        return Err(Errno::EINVAL.because("an ITS must know the device: VALID_DEVID is not set"));
    }
    v.signal_msi(u64::from(m.address_hi) << 32 | u64::from(m.address_lo), m.devid, m.data)
}

fn create_device(vm: &Arc<VmHandle>, arg: u64, caller: &Caller<'_>) -> Result<()> {
    let mut c = caller.get_writable::<CreateDevice>(arg)?;
    caller.tidy(c.flags & !CREATE_DEVICE_TEST == 0)?;
    if !vm.vm.supports_device(c.type_) {
        return Err(Errno::ENODEV.because("this host makes no devices of type {}").value(c.type_.into()));
    }
    if c.flags & CREATE_DEVICE_TEST != 0 {
        return Ok(());
    }
    let fd = caller.open(|| Ok(Descriptor::Device(vm.clone(), Arc::new(vm.vm.create_device(c.type_)?))))?;
    c.fd = fd as u32;
    caller.put(arg, &c)
}
