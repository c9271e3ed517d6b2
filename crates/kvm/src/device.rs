//! A device of a VM.

use std::sync::Arc;

use ulna_kvm_abi::ioctl::request;
use ulna_kvm_core::raw::Descriptor;

use crate::Result;
use crate::bindings::kvm_device_attr;
use crate::call::{Shared, with_mut, with_ref};

/// A device descriptor.
pub struct DeviceFd {
    shared: Arc<Shared>,
    device: Descriptor,
}

impl DeviceFd {
    pub(crate) fn new(shared: Arc<Shared>, device: Descriptor) -> DeviceFd {
        DeviceFd { shared, device }
    }

    /// KVM_HAS_DEVICE_ATTR.
    pub fn has_device_attr(&self, device_attr: &kvm_device_attr) -> Result<()> {
        // SAFETY: nothing behind the structure is looked at.
        unsafe { with_ref(&self.shared, &self.device, request::HAS_DEVICE_ATTR, device_attr).map(drop) }
    }

    /// KVM_SET_DEVICE_ATTR.
    pub fn set_device_attr(&self, device_attr: &kvm_device_attr) -> Result<()> {
        // SAFETY: the value is only read, by a copy that checks its address.
        unsafe { with_ref(&self.shared, &self.device, request::SET_DEVICE_ATTR, device_attr).map(drop) }
    }

    /// KVM_GET_DEVICE_ATTR.
    ///
    /// # Safety
    /// The attribute's value is written to `device_attr.addr`, which must be memory for it.
    pub unsafe fn get_device_attr(&self, device_attr: &mut kvm_device_attr) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { with_mut(&self.shared, &self.device, request::GET_DEVICE_ATTR, device_attr).map(drop) }
    }
}
