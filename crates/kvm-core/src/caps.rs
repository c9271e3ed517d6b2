//! KVM_CHECK_EXTENSION and KVM_ENABLE_CAP (kvm-arm64-abi.md §2): what is not built answers 0, as an older kernel would.

use std::sync::atomic::Ordering;

use ulna_arm_cpu::SysReg;
use ulna_kvm_abi::{Errno, MAX_VCPUS, NR_MEMSLOTS, cap, guest_debug, private, vcpu_feature};
use ulna_machine::{Machine, VcpuFeatures};

use crate::Result;
use crate::dirty_ring::MAX_RING_BYTES;
use crate::firmware::sdei;
use crate::kvm::{Kvm, KvmConfig};
use crate::routing::MAX_ROUTES;
use crate::tracking::BLOCK_SIZES;
use crate::vm::Vm;
use crate::vm_regs::has_imp_ids;

impl Kvm {
    /// KVM_CHECK_EXTENSION on the system descriptor.
    pub fn check_extension(&self, n: u32) -> Result<i32> {
        // The kernel asks for the VM's interrupt controller where there is no VM.
        if n == cap::MSI_DEVID {
            return Err(Errno::EINVAL.because("only a VM can answer this capability"));
        }
        Ok(sdei::extension(n, self.config().strict).unwrap_or_else(|| common(self.config(), n)))
    }
}

impl Vm {
    /// KVM_CHECK_EXTENSION on a VM.
    pub fn check_extension(&self, n: u32) -> Result<i32> {
        self.0.check_alive()?;
        Ok(match n {
            cap::MAX_VCPUS | cap::MAX_VCPU_ID => self.max_vcpus() as i32,
            private::CAP_HVC_FW_REG_BMAP if !self.0.config.strict => self.0.bitmap_count() as i32,
            cap::MSI_DEVID => i32::from(self.0.setup().has_its()),
            cap::ARM_EAGER_SPLIT_CHUNK_SIZE => {
                self.0.slots.tracking.split_chunk.load(Ordering::SeqCst) as i32
            }
            _ => sdei::extension(n, self.0.config.strict).unwrap_or_else(|| common(&self.0.config, n)),
        })
    }

    /// KVM_ENABLE_CAP on a VM.
    pub fn enable_cap(&self, n: u32, flags: u32, args: [u64; 4]) -> Result<()> {
        let vm = &self.0;
        vm.check_alive()?;
        match n {
            // The one that does not look at its flags.
            cap::DIRTY_LOG_RING_ACQ_REL => vm.set_dirty_ring(args[0]),
            _ if flags != 0 => {
                Err(Errno::EINVAL.because("kvm_enable_cap.flags is {x}, not zero").value(flags.into()))
            }
            cap::MANUAL_DIRTY_LOG_PROTECT2 => vm.set_manual_dirty_log(args[0]),
            cap::DIRTY_LOG_RING_WITH_BITMAP => vm.set_dirty_ring_bitmap(),
            cap::ARM_EAGER_SPLIT_CHUNK_SIZE => vm.set_split_chunk(args[0]),
            // How long to poll before sleeping, in nanoseconds: a vCPU here sleeps at once, whatever the limit is.
            cap::HALT_POLL => u32::try_from(args[0]).map(drop).map_err(|_| {
                Errno::EINVAL.because("{} ns of polling do not fit into 32 bits").value(args[0])
            }),
            cap::ARM_NISV_TO_USER => {
                vm.nisv_to_user.store(true, Ordering::SeqCst);
                Ok(())
            }
            cap::ARM_SYSTEM_SUSPEND => {
                vm.system_suspend.store(true, Ordering::SeqCst);
                Ok(())
            }
            cap::ARM_WRITABLE_IMP_ID_REGS if has_imp_ids(&vm.config) => {
                vm.before_vcpus(HAS_VCPUS, || vm.writable_identity.store(true, Ordering::SeqCst))
            }
            private::CAP_REG_SCOPE if !vm.config.strict && args[0] <= 1 => {
                vm.before_vcpus(BUSY, || vm.tagging.store(args[0] == 1, Ordering::SeqCst))
            }
            // Who asks has to have asked for writable identity.
            private::CAP_HET_IDENTITY if has_het_identity(&vm.config) && vm.identity_is_writable() => {
                vm.before_vcpus(BUSY, || vm.het_identity.store(true, Ordering::SeqCst))
            }
            sdei::CAP if !vm.config.strict => self.enable_sdei(),
            _ => Err(Errno::EINVAL.because("capability {} cannot be enabled on this VM").value(n.into())),
        }
    }
}

const BUSY: Errno = Errno::EBUSY.because("the VM has vCPUs: this comes before the first");
/// What comes before the first vCPU.
const HAS_VCPUS: Errno = Errno::EINVAL.because("the VM has vCPUs: this comes before the first");

fn has_het_identity(config: &KvmConfig) -> bool {
    !config.strict && has_imp_ids(config)
}

fn common(config: &KvmConfig, n: u32) -> i32 {
    let machine = || Machine::new(&config.profile, config.policy, VcpuFeatures::NONE);
    let feature = |bit: u32| i32::from(machine().supported_vcpu_features().bits() >> bit & 1 != 0);
    let gic = config.gic();
    let gic = gic.v2 || gic.v3;
    match n {
        cap::IRQCHIP => i32::from(gic),
        cap::USER_MEMORY
        | cap::MP_STATE
        | cap::SYNC_MMU
        | cap::DESTROY_MEMORY_REGION_WORKS
        | cap::JOIN_MEMORY_REGIONS_WORKS
        | cap::IRQFD
        | cap::IOEVENTFD
        | cap::IOEVENTFD_ANY_LENGTH
        | cap::ONE_REG
        | cap::SIGNAL_MSI
        | cap::READONLY_MEM
        | cap::ARM_PSCI
        | cap::ARM_PSCI_0_2
        | cap::DEVICE_CTRL
        | cap::ENABLE_CAP_VM
        | cap::CHECK_EXTENSION_VM
        | cap::VCPU_ATTRIBUTES
        | cap::IMMEDIATE_EXIT
        | cap::ARM_IRQ_LINE_LAYOUT_2
        | cap::ARM_NISV_TO_USER
        | cap::SYSTEM_EVENT_DATA
        | cap::ARM_SYSTEM_SUSPEND
        | cap::COUNTER_OFFSET
        | cap::SET_GUEST_DEBUG
        | cap::VCPU_EVENTS
        | cap::ARM_INJECT_EXT_DABT
        | cap::INTERNAL_ERROR_DATA
        | cap::ARM_SET_DEVICE_ADDR
        | cap::BINARY_STATS_FD
        | cap::PTP_KVM
        | cap::COALESCED_MMIO
        | cap::COALESCED_PIO
        | cap::IRQFD_RESAMPLE
        | cap::ARM_USER_IRQ
        | cap::HALT_POLL
        | cap::STEAL_TIME
        | cap::DIRTY_LOG_RING_WITH_BITMAP
        | cap::USER_MEMORY2 => 1,
        cap::ARM_SUPPORTED_REG_MASK_RANGES if config.strict => 1,
        cap::ARM_SUPPORTED_REG_MASK_RANGES => 1 | 1 << private::MASK_RANGE_LIST,
        cap::ARM_WRITABLE_IMP_ID_REGS => has_imp_ids(config).into(),
        private::CAP_HET_IDENTITY => has_het_identity(config).into(),
        private::CAP_REG_SCOPE if !config.strict => {
            private::REG_SCOPE_MAP | private::REG_SCOPE_VM_ATTRS | private::REG_SCOPE_TAGS
        }
        cap::IRQ_ROUTING => MAX_ROUTES as i32,
        cap::MANUAL_DIRTY_LOG_PROTECT2 => 3,
        cap::DIRTY_LOG_RING_ACQ_REL => MAX_RING_BYTES as i32,
        cap::ARM_SUPPORTED_BLOCK_SIZES => BLOCK_SIZES as i32,
        cap::SET_GUEST_DEBUG2 => guest_debug::VALID as i32,
        cap::ARM_INJECT_SERROR_ESR => i32::from(machine().limit(SysReg::ID_AA64PFR0_EL1) >> 28 & 15 != 0),
        cap::NR_MEMSLOTS => NR_MEMSLOTS as i32,
        cap::NR_VCPUS => {
            std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_VCPUS as usize) as i32)
        }
        cap::MAX_VCPUS | cap::MAX_VCPU_ID => MAX_VCPUS as i32,
        cap::ARM_VM_IPA_SIZE => config.profile.memory.ipa_bits.into(),
        cap::GUEST_DEBUG_HW_BPS => (machine().limit(SysReg::ID_AA64DFR0_EL1) >> 12 & 15) as i32 + 1,
        cap::GUEST_DEBUG_HW_WPS => (machine().limit(SysReg::ID_AA64DFR0_EL1) >> 20 & 15) as i32 + 1,
        cap::ARM_EL1_32BIT => feature(vcpu_feature::EL1_32BIT),
        cap::ARM_PMU_V3 => feature(vcpu_feature::PMU_V3),
        cap::ARM_SVE => feature(vcpu_feature::SVE),
        cap::ARM_PTRAUTH_ADDRESS => feature(vcpu_feature::PTRAUTH_ADDRESS),
        cap::ARM_PTRAUTH_GENERIC => feature(vcpu_feature::PTRAUTH_GENERIC),
        _ => 0,
    }
}
