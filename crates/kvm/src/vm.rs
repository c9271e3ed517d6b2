//! A VM.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use ulna_kvm_abi::ioctl::request;
use ulna_kvm_core::raw::{Descriptor, VmHandle};
use vmm_sys_util::eventfd::EventFd;

use crate::bindings::*;
use crate::call::{Shared, with_mut, with_number, with_ref};
use crate::{Cap, DeviceFd, Error, Result, VcpuFd};

/// Where an ioeventfd listens.
#[derive(Clone, Copy, Debug)]
pub enum IoEventAddress {
    /// A port; no arm64 guest reaches one.
    Pio(u64),
    /// A guest-physical address.
    Mmio(u64),
}

/// An ioeventfd that takes any value.
#[derive(Clone, Copy, Debug)]
pub struct NoDatamatch;

impl From<NoDatamatch> for u64 {
    fn from(_: NoDatamatch) -> u64 {
        0
    }
}

/// KVM_IOEVENTFD_FLAG_*.
const DATAMATCH: u32 = 1;
const PIO: u32 = 2;
const DEASSIGN: u32 = 4;

/// A VM descriptor.
pub struct VmFd {
    shared: Arc<Shared>,
    vm: Descriptor,
    run_size: usize,
}

impl VmFd {
    pub(crate) fn new(shared: Arc<Shared>, vm: Arc<VmHandle>) -> VmFd {
        VmFd { shared, vm: Descriptor::Vm(vm), run_size: 8192 }
    }

    fn reads<T>(&self, request: u32, arg: &T) -> Result<i32> {
        // SAFETY: used for requests whose structures lead only to memory that is read, by copies that check addresses.
        unsafe { with_ref(&self.shared, &self.vm, request, arg) }
    }

    /// KVM_SET_USER_MEMORY_REGION.
    ///
    /// # Safety
    /// The memory must stay mapped (and writable, unless the slot is read-only) until the slot is deleted or the VM and all
    /// its vCPUs are gone, and nobody may hold Rust references into it while the guest runs.
    pub unsafe fn set_user_memory_region(
        &self,
        user_memory_region: kvm_userspace_memory_region,
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe {
            with_ref(&self.shared, &self.vm, request::SET_USER_MEMORY_REGION, &user_memory_region).map(drop)
        }
    }

    /// KVM_SET_USER_MEMORY_REGION2.
    ///
    /// # Safety
    /// As [`VmFd::set_user_memory_region`].
    pub unsafe fn set_user_memory_region2(
        &self,
        user_memory_region2: kvm_userspace_memory_region2,
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe {
            with_ref(&self.shared, &self.vm, request::SET_USER_MEMORY_REGION2, &user_memory_region2).map(drop)
        }
    }

    /// KVM_CREATE_IRQCHIP: a GICv2.
    pub fn create_irq_chip(&self) -> Result<()> {
        with_number(&self.shared, &self.vm, request::CREATE_IRQCHIP, 0).map(drop)
    }

    /// KVM_SIGNAL_MSI: more than 0 when the guest takes it.
    pub fn signal_msi(&self, msi: kvm_msi) -> Result<libc::c_int> {
        self.reads(request::SIGNAL_MSI, &msi)
    }

    /// KVM_SET_GSI_ROUTING.
    pub fn set_gsi_routing(&self, irq_routing: &KvmIrqRouting) -> Result<()> {
        // The entries follow the structure; they are read by address.
        let head = irq_routing.as_fam_struct_ptr();
        with_number(&self.shared, &self.vm, request::SET_GSI_ROUTING, head as u64).map(drop)
    }

    fn ioevent(
        &self,
        fd: &EventFd,
        addr: &IoEventAddress,
        len: u32,
        datamatch: u64,
        flags: u32,
    ) -> Result<()> {
        let (addr, pio) = match addr {
            IoEventAddress::Pio(p) => (*p, PIO),
            IoEventAddress::Mmio(m) => (*m, 0),
        };
        let matches = if len > 0 { DATAMATCH } else { 0 };
        let e = kvm_ioeventfd {
            datamatch,
            len,
            addr,
            fd: fd.as_raw_fd(),
            flags: flags | pio | matches,
            ..Default::default()
        };
        self.reads(request::IOEVENTFD, &e).map(drop)
    }

    /// KVM_IOEVENTFD: the guest's write to `addr` signals `fd`; of any value ([`NoDatamatch`]), or of this one only, whose
    /// type says how wide the write must be.
    pub fn register_ioevent<T: Into<u64>>(
        &self,
        fd: &EventFd,
        addr: &IoEventAddress,
        datamatch: T,
    ) -> Result<()> {
        self.ioevent(fd, addr, size_of::<T>() as u32, datamatch.into(), 0)
    }

    /// Takes it back: all must be as it was registered.
    pub fn unregister_ioevent<T: Into<u64>>(
        &self,
        fd: &EventFd,
        addr: &IoEventAddress,
        datamatch: T,
    ) -> Result<()> {
        self.ioevent(fd, addr, size_of::<T>() as u32, datamatch.into(), DEASSIGN)
    }

    /// KVM_GET_DIRTY_LOG of a slot of `memory_size` bytes: a bit a page.
    pub fn get_dirty_log(&self, slot: u32, memory_size: usize) -> Result<Vec<u64>> {
        let mut bitmap = vec![0u64; memory_size.div_ceil(4096).div_ceil(64)];
        let log = kvm_dirty_log {
            slot,
            padding1: 0,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: bitmap.as_mut_ptr().cast() },
        };
        // The slot's size decides how much is written: it must be what the caller says.
        if let Descriptor::Vm(vm) = &self.vm
            && let Some(bytes) = vm.dirty_log_bytes(slot)
            && bytes > bitmap.len() * 8
        {
            return Err(Error::new(libc::EINVAL));
        }
        // SAFETY: `bitmap` is as large as the slot's log.
        unsafe { with_ref(&self.shared, &self.vm, request::GET_DIRTY_LOG, &log) }?;
        Ok(bitmap)
    }

    fn irqfd(&self, fd: &EventFd, gsi: u32, flags: u32, resample: Option<&EventFd>) -> Result<()> {
        let i = kvm_irqfd {
            fd: fd.as_raw_fd() as u32,
            gsi,
            flags,
            resamplefd: resample.map_or(0, |r| r.as_raw_fd() as u32),
            ..Default::default()
        };
        self.reads(request::IRQFD, &i).map(drop)
    }

    /// KVM_IRQFD: a signal of `fd` is an edge on the line of `gsi`.
    pub fn register_irqfd(&self, fd: &EventFd, gsi: u32) -> Result<()> {
        self.irqfd(fd, gsi, 0, None)
    }

    /// KVM_IRQFD of a level-triggered interrupt: `resamplefd` is signalled when the guest has handled it.
    pub fn register_irqfd_with_resample(&self, fd: &EventFd, resamplefd: &EventFd, gsi: u32) -> Result<()> {
        self.irqfd(fd, gsi, KVM_IRQFD_FLAG_RESAMPLE, Some(resamplefd))
    }

    /// Takes it back.
    pub fn unregister_irqfd(&self, fd: &EventFd, gsi: u32) -> Result<()> {
        self.irqfd(fd, gsi, KVM_IRQFD_FLAG_DEASSIGN, None)
    }

    /// KVM_IRQ_LINE.
    pub fn set_irq_line(&self, irq: u32, active: bool) -> Result<()> {
        let l =
            kvm_irq_level { __bindgen_anon_1: kvm_irq_level__bindgen_ty_1 { irq }, level: u32::from(active) };
        self.reads(request::IRQ_LINE, &l).map(drop)
    }

    /// KVM_CREATE_VCPU.
    pub fn create_vcpu(&self, id: u64) -> Result<VcpuFd> {
        match with_number(&self.shared, &self.vm, request::CREATE_VCPU, id)? {
            (_, Some(Descriptor::Vcpu(v))) => Ok(VcpuFd::new(self.shared.clone(), v)),
            _ => Err(Error::new(libc::EIO)),
        }
    }

    /// KVM_CREATE_DEVICE.
    pub fn create_device(&self, device: &mut kvm_create_device) -> Result<DeviceFd> {
        // SAFETY: the structure leads nowhere.
        match unsafe { with_mut(&self.shared, &self.vm, request::CREATE_DEVICE, device) }? {
            (_, Some(d)) => Ok(DeviceFd::new(self.shared.clone(), d)),
            // Only asked whether it could (KVM_CREATE_DEVICE_TEST).
            (_, None) => Ok(DeviceFd::new(self.shared.clone(), self.vm.clone())),
        }
    }

    /// KVM_ARM_PREFERRED_TARGET.
    pub fn get_preferred_target(&self, kvi: &mut kvm_vcpu_init) -> Result<()> {
        // SAFETY: the structure leads nowhere.
        unsafe { with_mut(&self.shared, &self.vm, request::ARM_PREFERRED_TARGET, kvi).map(drop) }
    }

    /// KVM_ENABLE_CAP.
    pub fn enable_cap(&self, cap: &kvm_enable_cap) -> Result<()> {
        self.reads(request::ENABLE_CAP, cap).map(drop)
    }

    /// KVM_GET_VCPU_MMAP_SIZE, as the VM remembers it.
    pub fn run_size(&self) -> usize {
        self.run_size
    }

    /// KVM_CHECK_EXTENSION by number.
    pub fn check_extension_raw(&self, c: libc::c_ulong) -> i32 {
        with_number(&self.shared, &self.vm, request::CHECK_EXTENSION, c).map_or(-1, |r| r.0)
    }

    /// KVM_CHECK_EXTENSION.
    pub fn check_extension_int(&self, c: Cap) -> i32 {
        self.check_extension_raw(c as libc::c_ulong)
    }

    /// Is it there?
    pub fn check_extension(&self, c: Cap) -> bool {
        self.check_extension_int(c) > 0
    }

    /// KVM_REGISTER_COALESCED_MMIO.
    pub fn register_coalesced_mmio(&self, addr: IoEventAddress, size: u32) -> Result<()> {
        self.coalesced(request::REGISTER_COALESCED_MMIO, addr, size)
    }

    /// KVM_UNREGISTER_COALESCED_MMIO.
    pub fn unregister_coalesced_mmio(&self, addr: IoEventAddress, size: u32) -> Result<()> {
        self.coalesced(request::UNREGISTER_COALESCED_MMIO, addr, size)
    }

    fn coalesced(&self, request: u32, addr: IoEventAddress, size: u32) -> Result<()> {
        let (addr, pio) = match addr {
            IoEventAddress::Pio(p) => (p, 1),
            IoEventAddress::Mmio(m) => (m, 0),
        };
        let z = kvm_coalesced_mmio_zone {
            addr,
            size,
            __bindgen_anon_1: kvm_coalesced_mmio_zone__bindgen_ty_1 { pio },
        };
        self.reads(request, &z).map(drop)
    }

    /// KVM_SET_DEVICE_ATTR on the VM.
    pub fn set_device_attr(&self, device_attr: &kvm_device_attr) -> Result<()> {
        self.reads(request::SET_DEVICE_ATTR, device_attr).map(drop)
    }

    /// KVM_HAS_DEVICE_ATTR on the VM.
    pub fn has_device_attr(&self, device_attr: &kvm_device_attr) -> Result<()> {
        self.reads(request::HAS_DEVICE_ATTR, device_attr).map(drop)
    }

    /// KVM_ARM_SET_COUNTER_OFFSET.
    pub fn set_counter_offset(&self, offset: &kvm_arm_counter_offset) -> Result<()> {
        self.reads(request::ARM_SET_COUNTER_OFFSET, offset).map(drop)
    }

    /// KVM_ARM_GET_REG_WRITABLE_MASKS.
    pub fn get_reg_writable_masks(&self) -> Result<[u64; KVM_ARM_FEATURE_ID_RANGE_SIZE as usize]> {
        let mut masks = [0; KVM_ARM_FEATURE_ID_RANGE_SIZE as usize];
        let r = reg_mask_range { addr: masks.as_mut_ptr() as u64, ..Default::default() };
        // SAFETY: `masks` is as large as the range.
        unsafe { with_ref(&self.shared, &self.vm, request::ARM_GET_REG_WRITABLE_MASKS, &r) }?;
        Ok(masks)
    }
}
