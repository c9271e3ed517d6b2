//! `/dev/kvm`.

use std::sync::Arc;

use ulna_kvm_abi::ioctl::request;
use ulna_kvm_core::KvmConfig;
use ulna_kvm_core::raw::Descriptor;

use crate::call::{Shared, with_number};
use crate::{Builder, Cap, Error, Result, VmFd};

/// The system descriptor.
pub struct Kvm {
    shared: Arc<Shared>,
    system: Descriptor,
}

impl Kvm {
    /// The KVM that the environment chooses ([`Builder::from_env`]); EINVAL when it chooses something that does not
    /// exist, which [`Builder::build`] tells in words.
    pub fn new() -> Result<Kvm> {
        Builder::from_env().build().map_err(|_| Error::new(libc::EINVAL))
    }

    /// Chooses profile, policy, kernel and strictness in code.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn with_config(config: KvmConfig, strict: bool) -> Kvm {
        let system = Descriptor::System(Arc::new(ulna_kvm_core::Kvm::new(config)));
        Kvm { shared: Arc::new(Shared::new(strict)), system }
    }

    fn number(&self, request: u32, arg: u64) -> i32 {
        with_number(&self.shared, &self.system, request, arg).map_or(-1, |r| r.0)
    }

    /// KVM_GET_API_VERSION: 12.
    pub fn get_api_version(&self) -> i32 {
        self.number(request::GET_API_VERSION, 0)
    }

    /// Most bits of guest-physical address.
    pub fn get_host_ipa_limit(&self) -> i32 {
        self.check_extension_int(Cap::ArmVmIPASize)
    }

    /// Hardware breakpoints for KVM_SET_GUEST_DEBUG.
    pub fn get_guest_debug_hw_bps(&self) -> i32 {
        self.check_extension_int(Cap::DebugHwBps)
    }

    /// Hardware watchpoints for KVM_SET_GUEST_DEBUG.
    pub fn get_guest_debug_hw_wps(&self) -> i32 {
        self.check_extension_int(Cap::DebugHwWps)
    }

    /// KVM_CHECK_EXTENSION by number.
    pub fn check_extension_raw(&self, c: libc::c_ulong) -> i32 {
        self.number(request::CHECK_EXTENSION, c)
    }

    /// KVM_CHECK_EXTENSION.
    pub fn check_extension_int(&self, c: Cap) -> i32 {
        self.check_extension_raw(c as libc::c_ulong)
    }

    /// Is it there?
    pub fn check_extension(&self, c: Cap) -> bool {
        self.check_extension_int(c) > 0
    }

    /// KVM_GET_VCPU_MMAP_SIZE.
    pub fn get_vcpu_mmap_size(&self) -> Result<usize> {
        let (n, _) = with_number(&self.shared, &self.system, request::GET_VCPU_MMAP_SIZE, 0)?;
        Ok(n as usize)
    }

    fn count(&self, c: Cap, otherwise: usize) -> usize {
        usize::try_from(self.check_extension_int(c)).ok().filter(|n| *n > 0).unwrap_or(otherwise)
    }

    /// vCPUs that are recommended.
    pub fn get_nr_vcpus(&self) -> usize {
        self.count(Cap::NrVcpus, 4)
    }

    /// Memory slots.
    pub fn get_nr_memslots(&self) -> usize {
        self.count(Cap::NrMemslots, 32)
    }

    /// Most vCPUs.
    pub fn get_max_vcpus(&self) -> usize {
        self.count(Cap::MaxVcpus, self.get_nr_vcpus())
    }

    /// Largest vCPU id and one.
    pub fn get_max_vcpu_id(&self) -> usize {
        self.count(Cap::MaxVcpuId, self.get_max_vcpus())
    }

    /// KVM_CREATE_VM with the most bits of guest-physical address that the host has.
    pub fn create_vm(&self) -> Result<VmFd> {
        let limit = self.get_host_ipa_limit();
        self.create_vm_with_ipa_size(if limit > 0 { limit as u32 } else { 0 })
    }

    /// KVM_CREATE_VM with so many bits of guest-physical address.
    pub fn create_vm_with_ipa_size(&self, ipa_size: u32) -> Result<VmFd> {
        self.create_vm_with_type(u64::from(ipa_size & 0xff))
    }

    /// KVM_CREATE_VM.
    pub fn create_vm_with_type(&self, vm_type: u64) -> Result<VmFd> {
        match with_number(&self.shared, &self.system, request::CREATE_VM, vm_type)? {
            (_, Some(Descriptor::Vm(vm))) => Ok(VmFd::new(self.shared.clone(), vm)),
            _ => Err(Error::new(libc::EIO)),
        }
    }
}
