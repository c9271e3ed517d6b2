//! Requests on `/dev/kvm` (kvm-arm64-abi.md §1.2).

use std::sync::Arc;

use ulna_kvm_abi::API_VERSION;
use ulna_kvm_abi::ioctl::request;

use super::{Caller, Descriptor, NOT_ZERO, UNKNOWN, VmHandle};
use crate::{Kvm, Result};

/// The page of `struct kvm_run` and the ring of coalesced writes.
pub const VCPU_MMAP_SIZE: i32 = 2 * 4096;

pub(super) fn serve(kvm: &Arc<Kvm>, req: u32, arg: u64, caller: &Caller<'_>) -> Result<i32> {
    match req {
        request::GET_API_VERSION | request::GET_VCPU_MMAP_SIZE if arg != 0 => Err(NOT_ZERO),
        request::GET_API_VERSION => Ok(API_VERSION),
        request::GET_VCPU_MMAP_SIZE => Ok(VCPU_MMAP_SIZE),
        request::CHECK_EXTENSION => match u32::try_from(arg) {
            Ok(n) => kvm.check_extension(n),
            Err(_) => Ok(0),
        },
        request::CREATE_VM => caller.open(|| {
            let vm = kvm.create_vm(arg)?;
            Ok(Descriptor::Vm(Arc::new(VmHandle::new(vm, caller.mem.space(), caller.files.shares_pages()))))
        }),
        _ => Err(UNKNOWN),
    }
}
