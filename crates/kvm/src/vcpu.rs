//! A vCPU.

use std::sync::Arc;

use ulna_kvm_abi::ioctl::request;
use ulna_kvm_abi::{RegId, exit};
use ulna_kvm_core::raw::{Descriptor, VcpuHandle};

use crate::bindings::*;
use crate::call::{Shared, error, with_mut, with_ref};
use crate::{Error, Result};

/// Bytes of the register with this id.
pub fn reg_size(reg_id: u64) -> usize {
    RegId(reg_id).size()
}

/// A call that is left to the VMM. On arm64 its arguments and results are in x0-x17.
#[derive(Debug)]
pub struct HypercallExit<'a> {
    /// The function id.
    pub nr: u64,
    /// Always zero on arm64.
    pub args: [u64; 6],
    /// Not looked at on arm64.
    pub ret: &'a mut u64,
    /// The low half of `flags`: bit 0 is set for SMC.
    pub longmode: u32,
}

/// Why [`VcpuFd::run`] came back. An arm64 vCPU only gives some of them.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum VcpuExit<'a> {
    IoOut(u16, &'a [u8]),
    IoIn(u16, &'a mut [u8]),
    /// The guest reads from an address without memory: fill in the bytes before the next run.
    MmioRead(u64, &'a mut [u8]),
    /// The guest writes to an address without memory.
    MmioWrite(u64, &'a [u8]),
    Unknown,
    Exception,
    /// A call that the SMCCC filter forwards.
    Hypercall(HypercallExit<'a>),
    /// A debug event.
    Debug(kvm_debug_exit_arch),
    Hlt,
    IrqWindowOpen,
    Shutdown,
    /// Reason and CPU.
    FailEntry(u64, u32),
    Intr,
    SetTpr,
    TprAccess,
    S390Sieic,
    S390Reset,
    Dcr,
    Nmi,
    InternalError,
    Osi,
    PaprHcall,
    S390Ucontrol,
    Watchdog,
    S390Tsch,
    Epr,
    /// Type and data: the guest wants to power off, reset, or is woken up.
    SystemEvent(u32, &'a [u64]),
    S390Stsi,
    IoapicEoi(u8),
    Hyperv,
    MemoryFault {
        flags: u64,
        gpa: u64,
        size: u64,
    },
    /// Another reason, which is in the page ([`VcpuFd::get_kvm_run`]): KVM_EXIT_ARM_NISV, KVM_EXIT_DIRTY_RING_FULL.
    Unsupported(u32),
}

/// Brings a vCPU back from [`VcpuFd::run`], from any thread: it is to this KVM what a signal to the vCPU's thread is to a
/// kernel's. Sticky: a kick while the vCPU is not running ends its next run at once.
#[derive(Clone)]
pub struct Kicker(Arc<VcpuHandle>);

impl Kicker {
    /// Does it: the vCPU's `run` fails with EINTR.
    pub fn kick(&self) {
        self.0.kick();
    }
}

/// A vCPU descriptor.
pub struct VcpuFd {
    shared: Arc<Shared>,
    handle: Arc<VcpuHandle>,
    vcpu: Descriptor,
}

impl VcpuFd {
    pub(crate) fn new(shared: Arc<Shared>, handle: Arc<VcpuHandle>) -> VcpuFd {
        VcpuFd { shared, vcpu: Descriptor::Vcpu(handle.clone()), handle }
    }

    fn reads<T>(&self, request: u32, arg: &T) -> Result<()> {
        // SAFETY: used for requests whose structures lead only to memory that is read, by copies that check addresses.
        unsafe { with_ref(&self.shared, &self.vcpu, request, arg).map(drop) }
    }

    fn writes<T: Default>(&self, request: u32) -> Result<T> {
        let mut v = T::default();
        // SAFETY: used for requests whose structures lead nowhere.
        unsafe { with_mut(&self.shared, &self.vcpu, request, &mut v) }?;
        Ok(v)
    }

    /// What ends [`VcpuFd::run`] from other threads.
    pub fn kicker(&self) -> Kicker {
        Kicker(self.handle.clone())
    }

    /// KVM_ARM_VCPU_INIT: initialises or resets.
    pub fn vcpu_init(&self, kvi: &kvm_vcpu_init) -> Result<()> {
        self.reads(request::ARM_VCPU_INIT, kvi)
    }

    /// KVM_ARM_VCPU_FINALIZE.
    pub fn vcpu_finalize(&self, feature: &std::os::raw::c_int) -> Result<()> {
        self.reads(request::ARM_VCPU_FINALIZE, feature)
    }

    /// KVM_GET_REG_LIST. With a list that is too short: E2BIG, and the list's `n` says how long it must be.
    pub fn get_reg_list(&self, reg_list: &mut RegList) -> Result<()> {
        let ids = self.handle.lock().reg_list().map_err(error)?;
        // SAFETY: `n` is the number of entries that there is room for, or where there is not, what the kernel says too.
        let room = reg_list.as_slice().len();
        if ids.len() > room {
            // SAFETY: as the kernel leaves it: the entries are not looked at before the list is made anew.
            unsafe { reg_list.as_mut_fam_struct() }.n = ids.len() as u64;
            return Err(Error::new(libc::E2BIG));
        }
        for (slot, id) in reg_list.as_mut_slice().iter_mut().zip(&ids) {
            *slot = id.0;
        }
        // SAFETY: not more than there is room for.
        unsafe { reg_list.as_mut_fam_struct() }.n = ids.len() as u64;
        Ok(())
    }

    /// KVM_GET_ONE_REG: fills `data`, which must be as long as the register; how long that is.
    pub fn get_one_reg(&self, reg_id: u64, data: &mut [u8]) -> Result<usize> {
        let size = reg_size(reg_id);
        let data = data.get_mut(..size).ok_or(Error::new(libc::EINVAL))?;
        self.handle.lock().get_one_reg(RegId(reg_id), data).map_err(error)?;
        Ok(size)
    }

    /// KVM_SET_ONE_REG: how long the register is.
    pub fn set_one_reg(&self, reg_id: u64, data: &[u8]) -> Result<usize> {
        let size = reg_size(reg_id);
        let data = data.get(..size).ok_or(Error::new(libc::EINVAL))?;
        self.handle.lock().set_one_reg(RegId(reg_id), data).map_err(error)?;
        Ok(size)
    }

    /// KVM_GET_MP_STATE.
    pub fn get_mp_state(&self) -> Result<kvm_mp_state> {
        self.writes(request::GET_MP_STATE)
    }

    /// KVM_SET_MP_STATE.
    pub fn set_mp_state(&self, mp_state: kvm_mp_state) -> Result<()> {
        self.reads(request::SET_MP_STATE, &mp_state)
    }

    /// KVM_GET_VCPU_EVENTS.
    pub fn get_vcpu_events(&self) -> Result<kvm_vcpu_events> {
        self.writes(request::GET_VCPU_EVENTS)
    }

    /// KVM_SET_VCPU_EVENTS.
    pub fn set_vcpu_events(&self, vcpu_events: &kvm_vcpu_events) -> Result<()> {
        self.reads(request::SET_VCPU_EVENTS, vcpu_events)
    }

    /// KVM_SET_GUEST_DEBUG.
    pub fn set_guest_debug(&self, debug_struct: &kvm_guest_debug) -> Result<()> {
        self.reads(request::SET_GUEST_DEBUG, debug_struct)
    }

    /// KVM_SET_DEVICE_ATTR on the vCPU.
    pub fn set_device_attr(&self, device_attr: &kvm_device_attr) -> Result<()> {
        self.reads(request::SET_DEVICE_ATTR, device_attr)
    }

    /// KVM_HAS_DEVICE_ATTR on the vCPU.
    pub fn has_device_attr(&self, device_attr: &kvm_device_attr) -> Result<()> {
        self.reads(request::HAS_DEVICE_ATTR, device_attr)
    }

    /// KVM_GET_DEVICE_ATTR on the vCPU.
    ///
    /// # Safety
    /// The attribute's value is written to `device_attr.addr`, which must be memory for it.
    pub unsafe fn get_device_attr(&self, device_attr: &mut kvm_device_attr) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { with_mut(&self.shared, &self.vcpu, request::GET_DEVICE_ATTR, device_attr).map(drop) }
    }

    /// KVM_RUN.
    pub fn run(&mut self) -> Result<VcpuExit<'_>> {
        self.handle.run().map_err(error)?;
        let run = self.get_kvm_run();
        // SAFETY: every member of the union is plain data, and `exit_reason` says which one was written.
        unsafe {
            let u = &mut run.__bindgen_anon_1;
            Ok(match run.exit_reason {
                exit::MMIO => {
                    let len = (u.mmio.len as usize).min(8);
                    if u.mmio.is_write != 0 {
                        VcpuExit::MmioWrite(u.mmio.phys_addr, &u.mmio.data[..len])
                    } else {
                        VcpuExit::MmioRead(u.mmio.phys_addr, &mut u.mmio.data[..len])
                    }
                }
                exit::UNKNOWN => VcpuExit::Unknown,
                exit::HYPERCALL => {
                    let (nr, args) = (u.hypercall.nr, u.hypercall.args);
                    let longmode = u.hypercall.__bindgen_anon_1.longmode;
                    VcpuExit::Hypercall(HypercallExit { nr, args, ret: &mut u.hypercall.ret, longmode })
                }
                exit::DEBUG => VcpuExit::Debug(u.debug.arch),
                exit::FAIL_ENTRY => {
                    VcpuExit::FailEntry(u.fail_entry.hardware_entry_failure_reason, u.fail_entry.cpu)
                }
                exit::INTR => VcpuExit::Intr,
                exit::INTERNAL_ERROR => VcpuExit::InternalError,
                exit::SYSTEM_EVENT => {
                    let e = &u.system_event;
                    VcpuExit::SystemEvent(e.type_, &e.__bindgen_anon_1.data[..(e.ndata as usize).min(16)])
                }
                exit::MEMORY_FAULT => {
                    let kvm_run__bindgen_ty_1__bindgen_ty_27 { flags, gpa, size } = u.memory_fault;
                    VcpuExit::MemoryFault { flags, gpa, size }
                }
                other => VcpuExit::Unsupported(other),
            })
        }
    }

    /// The page that KVM_RUN fills.
    pub fn get_kvm_run(&mut self) -> &mut kvm_run {
        // SAFETY: the page is aligned, large enough and lives as long as the handle; KVM_RUN, which writes it, is not
        // running while `self` is borrowed uniquely. `immediate_exit` may be written by a signal handler of this thread,
        // as with a kernel's page.
        unsafe { &mut *self.handle.page().as_ptr().cast() }
    }

    /// Sets `kvm_run.immediate_exit`: the next run completes a pending access and fails with EINTR. In a signal handler on
    /// the vCPU's thread it also ends a run that is going on.
    pub fn set_kvm_immediate_exit(&mut self, val: u8) {
        self.handle.set_immediate_exit(val);
    }
}
