//! The software KVM behind the traits.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub use ulna_kvm_core::{
    ClockKind, Counters, Engine, EngineOptions, EngineReport, HotBlock, KvmConfig, Policy,
};
use ulna_kvm_core::{Kvm, Run};
use vm_memory::GuestMemoryRegion;

use crate::abi::{GuestDebug, SmcccFilter, VcpuEvents};
use crate::{Device, GuestRegion, Hypervisor, Kicker, RegId, Result, Vcpu, VcpuExit, VcpuInit, Vm};

/// A software KVM as a [`Hypervisor`].
pub struct Software(Kvm);

impl Software {
    /// Plays the host of `config`.
    pub fn new(config: KvmConfig) -> Software {
        Software(Kvm::new(config))
    }
}

impl Hypervisor for Software {
    fn create_vm(&self, ipa_bits: u8) -> Result<Arc<dyn Vm>> {
        Ok(Arc::new(SoftVm(self.0.create_vm(ipa_bits.into())?)))
    }
    fn check_extension(&self, cap: u32) -> Result<i32> {
        self.0.check_extension(cap)
    }
    fn max_ipa_bits(&self) -> u8 {
        self.0.max_ipa_bits()
    }
}

struct SoftVm(ulna_kvm_core::Vm);

impl Vm for SoftVm {
    fn set_memory(&self, slot: u32, gpa: u64, region: Arc<GuestRegion>, flags: u32) -> Result<()> {
        let (host, len) = (region.as_ptr(), region.len());
        let owner: Arc<dyn Any + Send + Sync> = region;
        // SAFETY: the region is mapped as long as `owner`, and vm-memory gives out no references into guest memory, only
        // volatile accesses.
        unsafe { self.0.set_user_memory_region(slot, gpa, len, host, flags, owner) }
    }
    fn check_extension(&self, cap: u32) -> Result<i32> {
        self.0.check_extension(cap)
    }
    fn enable_cap(&self, cap: u32, args: [u64; 4]) -> Result<()> {
        self.0.enable_cap(cap, 0, args)
    }
    fn change_memory(&self, slot: u32, gpa: u64, flags: u32) -> Result<()> {
        self.0.change_memory_region(slot, gpa, flags)
    }
    fn remove_memory(&self, slot: u32) -> Result<()> {
        self.0.delete_memory_region(slot)
    }
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        Ok(Box::new(SoftVcpu(self.0.create_vcpu(id)?)))
    }
    fn create_device(&self, kind: u32) -> Result<Arc<dyn Device>> {
        Ok(Arc::new(SoftDevice(self.0.create_device(kind)?)))
    }
    fn preferred_target(&self) -> VcpuInit {
        self.0.preferred_target()
    }
    fn irq_line(&self, irq: u32, level: bool) -> Result<()> {
        self.0.irq_line(irq, level)
    }
    fn signal_msi(&self, doorbell: u64, devid: u32, data: u32) -> Result<bool> {
        self.0.signal_msi(doorbell, devid, data)
    }
    fn register_ioeventfd(
        &self,
        fd: Arc<OwnedFd>,
        addr: u64,
        len: u32,
        datamatch: Option<u64>,
    ) -> Result<()> {
        self.0.register_ioeventfd(fd, addr, len, datamatch)
    }
    fn unregister_ioeventfd(
        &self,
        fd: &Arc<OwnedFd>,
        addr: u64,
        len: u32,
        datamatch: Option<u64>,
    ) -> Result<()> {
        self.0.unregister_ioeventfd(fd, addr, len, datamatch)
    }
    fn register_irqfd(&self, fd: Arc<OwnedFd>, gsi: u32) -> Result<()> {
        self.0.register_irqfd(fd, gsi)
    }
    fn unregister_irqfd(&self, fd: &Arc<OwnedFd>, gsi: u32) -> Result<()> {
        self.0.unregister_irqfd(fd, gsi)
    }
    fn get_dirty_log(&self, slot: u32) -> Result<Vec<u64>> {
        self.0.get_dirty_log(slot)
    }
    fn reg_list(&self) -> Vec<RegId> {
        self.0.reg_map().unwrap_or_default()
    }
    fn neutral_value(&self, id: RegId) -> Option<u64> {
        self.0.neutral_value(id)
    }
    fn counter_hz(&self) -> u64 {
        self.0.counter_hz()
    }
    fn set_counter_offset(&self, offset: u64) -> Result<()> {
        self.0.set_counter_offset(offset)
    }
    fn set_smccc_filter(&self, filter: &SmcccFilter) -> Result<()> {
        self.0.set_smccc_filter(filter)
    }
    fn set_vm_reg(&self, id: RegId, v: u64) -> Result<()> {
        self.0.set_vm_reg(id.0, v)
    }
    fn get_vm_reg(&self, id: RegId) -> Result<u64> {
        self.0.get_vm_reg(id.0)
    }
    fn nmi(&self, id: u32) -> Result<()> {
        self.0.nmi(id)
    }
    fn supported_features(&self) -> u32 {
        self.0.supported_features().bits()
    }
}

struct SoftVcpu(ulna_kvm_core::Vcpu);

impl Vcpu for SoftVcpu {
    fn init(&mut self, init: &VcpuInit) -> Result<()> {
        self.0.init(init)
    }
    fn get_one_reg(&mut self, id: RegId, data: &mut [u8]) -> Result<()> {
        self.0.get_one_reg(id, data)
    }
    fn set_one_reg(&mut self, id: RegId, data: &[u8]) -> Result<()> {
        self.0.set_one_reg(id, data)
    }
    fn reg_list(&mut self) -> Result<Vec<RegId>> {
        self.0.reg_list()
    }
    fn set_immediate_exit(&mut self, on: bool) {
        self.0.set_immediate_exit(on);
    }
    fn mp_state(&self) -> u32 {
        self.0.mp_state()
    }
    fn set_mp_state(&mut self, state: u32) -> Result<()> {
        self.0.set_mp_state(state)
    }
    fn set_guest_debug(&mut self, debug: &GuestDebug) -> Result<()> {
        self.0.set_guest_debug(debug)
    }
    fn vcpu_events(&mut self) -> Result<VcpuEvents> {
        self.0.vcpu_events()
    }
    fn set_vcpu_events(&mut self, events: &VcpuEvents) -> Result<()> {
        self.0.set_vcpu_events(events)
    }
    fn run(&mut self) -> Result<VcpuExit<'_>> {
        Ok(match self.0.run()? {
            Run::MmioRead(ipa, data) => VcpuExit::MmioRead(ipa, data),
            Run::MmioWrite(ipa, data) => VcpuExit::MmioWrite(ipa, data),
            Run::SystemEvent(kind, data) => VcpuExit::SystemEvent(kind, data),
            Run::Hypercall(function, flags) => VcpuExit::Hypercall(function, flags),
            Run::ArmNisv(iss, ipa) => VcpuExit::ArmNisv(iss, ipa),
            Run::Debug(esr, far) => VcpuExit::Debug(esr, far),
            Run::DirtyRingFull => VcpuExit::DirtyRingFull,
            Run::Intr => VcpuExit::Intr,
        })
    }
    fn kicker(&self) -> Kicker {
        Kicker::new(self.0.kicker())
    }
    fn instructions(&self) -> Option<u64> {
        Some(self.0.instructions())
    }
    fn set_attr(&mut self, group: u32, attr: u64, value: u64) -> Result<()> {
        self.0.set_attr(group, attr, value)
    }
    fn get_attr(&self, group: u32, attr: u64) -> Result<u64> {
        self.0.get_attr(group, attr)
    }
    fn has_attr(&self, group: u32, attr: u64) -> Result<()> {
        self.0.has_attr(group, attr)
    }
}

struct SoftDevice(ulna_kvm_core::Device);

impl Device for SoftDevice {
    fn set_attr(&self, group: u32, attr: u64, value: u64) -> Result<()> {
        self.0.set_attr(group, attr, value)
    }
    fn get_attr(&self, group: u32, attr: u64, given: u64) -> Result<u64> {
        self.0.get_attr(group, attr, given)
    }
    fn has_attr(&self, group: u32, attr: u64) -> Result<()> {
        self.0.has_attr(group, attr)
    }
}
