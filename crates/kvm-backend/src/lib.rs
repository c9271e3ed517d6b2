//! The seam for VMMs: one hypervisor interface at the level of typed KVM requests, software or the host's own.
//!
//! A VMM holds a [`Hypervisor`], makes a [`Vm`], gives it memory, vCPUs and an interrupt controller ([`Device`]), and runs
//! each [`Vcpu`] on a thread of its own; a [`Kicker`] brings a running vCPU back. Requests fail with the errno that KVM
//! would answer.

use std::os::fd::OwnedFd;
use std::sync::Arc;

pub use ulna_kvm_abi as abi;
pub use ulna_kvm_abi::{Errno, RegId, VcpuInit};
use vm_memory::bitmap::AtomicBitmap;

pub mod software;

/// Guest memory. It notes the pages that are written through it, which are the VMM's writes and its devices'; the guest's
/// are in KVM's dirty log.
pub type GuestRegion = vm_memory::GuestRegionMmap<AtomicBitmap>;

/// Result of a request.
pub type Result<T> = std::result::Result<T, Errno>;

/// `/dev/kvm`.
pub trait Hypervisor: Send + Sync {
    /// Makes a VM with this many bits of guest-physical address; 0 means 40.
    fn create_vm(&self, ipa_bits: u8) -> Result<Arc<dyn Vm>>;
    /// KVM_CHECK_EXTENSION.
    fn check_extension(&self, cap: u32) -> Result<i32>;
    /// KVM_CAP_ARM_VM_IPA_SIZE: most bits of guest-physical address.
    fn max_ipa_bits(&self) -> u8;
}

/// A VM descriptor.
pub trait Vm: Send + Sync {
    /// KVM_CHECK_EXTENSION, as far as it depends on the VM.
    fn check_extension(&self, cap: u32) -> Result<i32>;
    /// KVM_ENABLE_CAP.
    fn enable_cap(&self, cap: u32, args: [u64; 4]) -> Result<()>;
    /// Shows `region` to the guest at `gpa` as memory slot `slot`. Flags are those of KVM_SET_USER_MEMORY_REGION.
    fn set_memory(&self, slot: u32, gpa: u64, region: Arc<GuestRegion>, flags: u32) -> Result<()>;
    /// Moves a slot to another address, or changes its flags.
    fn change_memory(&self, slot: u32, gpa: u64, flags: u32) -> Result<()>;
    /// Deletes a slot.
    fn remove_memory(&self, slot: u32) -> Result<()>;
    /// Makes vCPU `id`.
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>>;
    /// Makes a device of type `abi::device::TYPE_*`.
    fn create_device(&self, kind: u32) -> Result<Arc<dyn Device>>;
    /// KVM_ARM_PREFERRED_TARGET.
    fn preferred_target(&self) -> VcpuInit;
    /// KVM_IRQ_LINE: `irq` is type (27:24), vCPU (31:28, 23:16) and number (15:0).
    fn irq_line(&self, irq: u32, level: bool) -> Result<()>;
    /// KVM_SIGNAL_MSI with a device id: whether the guest takes it.
    fn signal_msi(&self, doorbell: u64, devid: u32, data: u32) -> Result<bool>;
    /// KVM_IOEVENTFD: signals `fd` instead of leaving KVM_RUN when the guest writes `len` bytes (0: any number) to
    /// `addr`, and only `datamatch` if given.
    fn register_ioeventfd(&self, fd: Arc<OwnedFd>, addr: u64, len: u32, datamatch: Option<u64>)
    -> Result<()>;
    /// Takes it back.
    fn unregister_ioeventfd(
        &self,
        fd: &Arc<OwnedFd>,
        addr: u64,
        len: u32,
        datamatch: Option<u64>,
    ) -> Result<()>;
    /// KVM_IRQFD: a signal of `fd` is an edge on the interrupt of this GSI (SPI 32 + gsi).
    fn register_irqfd(&self, fd: Arc<OwnedFd>, gsi: u32) -> Result<()>;
    /// Takes it back.
    fn unregister_irqfd(&self, fd: &Arc<OwnedFd>, gsi: u32) -> Result<()>;
    /// KVM_GET_DIRTY_LOG: one bit a page of a slot that logs; the pages are clean afterwards.
    fn get_dirty_log(&self, slot: u32) -> Result<Vec<u64>>;
    /// Registers of which the VM has one value; empty where KVM has no such list.
    fn reg_list(&self) -> Vec<RegId>;
    /// The value with which a register may be left out where nobody knows it.
    fn neutral_value(&self, id: RegId) -> Option<u64>;
    /// CNTFRQ_EL0 as the guest sees it.
    fn counter_hz(&self) -> u64;
    /// KVM_ARM_SET_COUNTER_OFFSET.
    fn set_counter_offset(&self, offset: u64) -> Result<()>;
    /// KVM_ARM_VM_SMCCC_FILTER.
    fn set_smccc_filter(&self, filter: &abi::SmcccFilter) -> Result<()>;
    /// Writes a register of which the VM has one value, by its id: an attribute of the VM (private group 0x554C0001).
    /// ENXIO where there is none.
    fn set_vm_reg(&self, id: RegId, v: u64) -> Result<()>;
    /// Reads one.
    fn get_vm_reg(&self, id: RegId) -> Result<u64>;
    /// KVM_NMI on vCPU `id`, from any thread: SDEI's host event. EINVAL where the guest cannot have it.
    fn nmi(&self, id: u32) -> Result<()>;
    /// vCPU features (bits of `VcpuInit::features[0]`) that this VM's vCPUs can have.
    fn supported_features(&self) -> u32;
}

/// A vCPU descriptor. Requests come from the thread that runs it.
pub trait Vcpu: Send {
    /// KVM_ARM_VCPU_INIT: initialises or resets.
    fn init(&mut self, init: &VcpuInit) -> Result<()>;
    /// Reads a register into `data`, which has its size.
    fn get_one_reg(&mut self, id: RegId, data: &mut [u8]) -> Result<()>;
    /// Writes a register.
    fn set_one_reg(&mut self, id: RegId, data: &[u8]) -> Result<()>;
    /// A 64-bit register.
    fn get_reg_u64(&mut self, id: RegId) -> Result<u64> {
        let mut b = [0; 8];
        self.get_one_reg(id, &mut b)?;
        Ok(u64::from_le_bytes(b))
    }
    /// Writes a 64-bit register.
    fn set_reg_u64(&mut self, id: RegId, v: u64) -> Result<()> {
        self.set_one_reg(id, &v.to_le_bytes())
    }
    /// KVM_GET_REG_LIST.
    fn reg_list(&mut self) -> Result<Vec<RegId>>;
    /// `kvm_run.immediate_exit`: while set, `run` completes a pending access and returns at once.
    fn set_immediate_exit(&mut self, on: bool);
    /// KVM_GET_MP_STATE.
    fn mp_state(&self) -> u32;
    /// KVM_SET_MP_STATE.
    fn set_mp_state(&mut self, state: u32) -> Result<()>;
    /// KVM_SET_GUEST_DEBUG.
    fn set_guest_debug(&mut self, debug: &abi::GuestDebug) -> Result<()>;
    /// KVM_GET_VCPU_EVENTS.
    fn vcpu_events(&mut self) -> Result<abi::VcpuEvents>;
    /// KVM_SET_VCPU_EVENTS.
    fn set_vcpu_events(&mut self, events: &abi::VcpuEvents) -> Result<()>;
    /// KVM_RUN. `EINTR` after a kick.
    fn run(&mut self) -> Result<VcpuExit<'_>>;
    /// Brings `run` back from any thread.
    fn kicker(&self) -> Kicker;
    /// Instructions executed so far, where the implementation counts them.
    fn instructions(&self) -> Option<u64> {
        None
    }
    /// A device attribute of the vCPU (PMU, timer, stolen time).
    fn set_attr(&mut self, group: u32, attr: u64, value: u64) -> Result<()>;
    /// KVM_GET_DEVICE_ATTR on the vCPU.
    fn get_attr(&self, group: u32, attr: u64) -> Result<u64>;
    /// KVM_HAS_DEVICE_ATTR on the vCPU.
    fn has_attr(&self, group: u32, attr: u64) -> Result<()>;
}

/// A device descriptor. Values travel as u64; the attribute's own size is the implementation's business.
pub trait Device: Send + Sync {
    /// KVM_SET_DEVICE_ATTR.
    fn set_attr(&self, group: u32, attr: u64, value: u64) -> Result<()>;
    /// KVM_GET_DEVICE_ATTR. `given` is what the caller's buffer holds: a few attributes look at it.
    fn get_attr(&self, group: u32, attr: u64, given: u64) -> Result<u64>;
    /// KVM_HAS_DEVICE_ATTR.
    fn has_attr(&self, group: u32, attr: u64) -> Result<()>;
}

/// Makes a vCPU's `run` return. Sticky: a kick while the vCPU is not running ends its next run at once.
#[derive(Clone)]
pub struct Kicker(Arc<dyn Fn() + Send + Sync>);

impl Kicker {
    /// From a function that does it.
    pub fn new(f: impl Fn() + Send + Sync + 'static) -> Kicker {
        Kicker(Arc::new(f))
    }
    /// Does it.
    pub fn kick(&self) {
        (self.0)();
    }
}

/// Why `run` came back.
#[derive(Debug)]
pub enum VcpuExit<'a> {
    /// The guest reads from an address without memory: fill in the bytes.
    MmioRead(u64, &'a mut [u8]),
    /// The guest writes to an address without memory (or read-only).
    MmioWrite(u64, &'a [u8]),
    /// PSCI SYSTEM_OFF, SYSTEM_RESET: type (`abi::exit::SYSTEM_EVENT_*`) and data.
    SystemEvent(u32, &'a [u64]),
    /// A call that the SMCCC filter forwards: function id, flags; arguments and results are in x0-x17.
    Hypercall(u64, u64),
    /// A data abort without a syndrome: ESR_EL2.ISS as far as valid, guest-physical address.
    ArmNisv(u64, u64),
    /// A debug event: ESR_EL2 and FAR_EL2.
    Debug(u32, u64),
    /// The dirty ring is to be harvested and reset.
    DirtyRingFull,
    /// A kick, a signal, or immediate exit.
    Intr,
}
