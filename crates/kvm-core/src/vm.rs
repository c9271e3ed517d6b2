//! A VM descriptor.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use ulna_arm_cpu::mem::PhysMap;
use ulna_arm_cpu::shared::VmShared;
use ulna_kvm_abi::{Errno, MAX_VCPUS, VcpuInit, device};
use ulna_machine::{Machine, VcpuFeatures};
use ulna_vgic::{Gic, Region};

use crate::Result;
use crate::clock::SystemClock;
use crate::device::{Device, GicSetup};
use crate::kvm::KvmConfig;
use crate::memory::{Slots, Tables};
use crate::timers::TimerThread;
use crate::vcpu::{Shared, Vcpu};

/// What the vCPUs and devices of a VM share.
pub(crate) struct VmInner {
    pub config: KvmConfig,
    pub ipa_bits: u8,
    pub memory: Arc<PhysMap>,
    pub shared: Arc<VmShared>,
    pub slots: Slots,
    pub clock: Arc<SystemClock>,
    pub timers: Arc<TimerThread>,
    /// By id.
    pub vcpus: RwLock<BTreeMap<u32, Arc<Shared>>>,
    /// CNTVOFF_EL2, VM-wide.
    pub cntvoff: AtomicU64,
    /// CNTPOFF_EL2, VM-wide.
    pub cntpoff: AtomicU64,
    /// A vCPU got past the checks of its first run.
    pub started: AtomicBool,
    /// The interrupt controller as the VMM sets it up.
    pub gic_setup: Mutex<GicSetup>,
    /// The interrupt controller once it is initialised.
    pub gic: Mutex<Option<GicState>>,
    /// vCPU features, once the first vCPU was initialised.
    pub features: Mutex<Option<VcpuFeatures>>,
    /// KVM_REG_ARM_PSCI_VERSION.
    pub psci_version: AtomicU64,
    /// Values of the feature ID registers, once the first vCPU was initialised.
    pub machine: Mutex<Option<Arc<Machine>>>,
}

/// An initialised interrupt controller: the model, where its frames are, and which vCPU each index is.
pub(crate) struct GicState {
    pub gic: Gic,
    /// (first address, length, frame, offset of the first address in the frame)
    pub frames: Vec<(u64, u64, Region)>,
    /// By vCPU index of the model.
    pub vcpus: Vec<Arc<Shared>>,
}

impl GicState {
    /// Carries the levels of changed interrupt lines to the vCPUs.
    pub fn deliver(&mut self) {
        for v in self.gic.take_changed().iter() {
            let l = self.gic.lines(v);
            if let Some(vcpu) = self.vcpus.get(v) {
                vcpu.set_lines(l.irq, l.fiq);
            }
        }
    }

    /// The frame that holds `ipa`, with the offset in it.
    pub fn frame(&self, ipa: u64) -> Option<(Region, u64)> {
        self.frames.iter().find(|f| ipa >= f.0 && ipa - f.0 < f.1).map(|f| (f.2, ipa - f.0))
    }
}

/// A VM descriptor.
#[derive(Clone)]
pub struct Vm(pub(crate) Arc<VmInner>);

impl Vm {
    pub(crate) fn new(config: KvmConfig, ipa_bits: u8) -> Vm {
        let clock = Arc::new(SystemClock::new(config.clock, config.profile.counter.hz));
        Vm(Arc::new(VmInner {
            ipa_bits,
            memory: Arc::default(),
            shared: Arc::default(),
            slots: Slots::default(),
            clock,
            timers: Arc::default(),
            vcpus: RwLock::default(),
            cntvoff: AtomicU64::new(0),
            cntpoff: AtomicU64::new(0),
            started: AtomicBool::new(false),
            gic_setup: Mutex::default(),
            gic: Mutex::new(None),
            features: Mutex::new(None),
            psci_version: AtomicU64::new(crate::firmware::psci::VERSION_1_1),
            machine: Mutex::new(None),
            config,
        }))
    }

    /// KVM_SET_USER_MEMORY_REGION of a new slot; `owner` keeps the memory mapped.
    ///
    /// # Safety
    /// `host..host+len` must stay mapped (and writable, unless the slot is read-only) while `owner` lives, and nobody may
    /// hold Rust references into it.
    pub unsafe fn set_user_memory_region(
        &self,
        slot: u32,
        gpa: u64,
        len: u64,
        host: *mut u8,
        flags: u32,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Result<()> {
        let v = &self.0;
        // SAFETY: the caller's.
        unsafe { v.slots.add(slot, gpa, len, host, flags, owner, v.ipa_bits, &v.memory, &v.shared) }
    }

    /// KVM_SET_USER_MEMORY_REGION with size 0: deletes the slot.
    pub fn delete_memory_region(&self, slot: u32) -> Result<()> {
        self.0.slots.remove(slot, &self.0.memory, &self.0.shared)
    }

    /// KVM_CREATE_VCPU.
    pub fn create_vcpu(&self, id: u32) -> Result<Vcpu> {
        if id >= MAX_VCPUS {
            return Err(Errno::EINVAL);
        }
        if self.0.gic.lock().unwrap_or_else(|e| e.into_inner()).is_some() {
            return Err(Errno::EBUSY);
        }
        let mut vcpus = self.0.vcpus.write().unwrap_or_else(|e| e.into_inner());
        if vcpus.contains_key(&id) {
            return Err(Errno::EEXIST);
        }
        let setup = self.0.gic_setup.lock().unwrap_or_else(|e| e.into_inner());
        if setup.is_v2() && vcpus.len() >= ulna_vgic::MAX_VCPUS_V2 {
            return Err(Errno::EINVAL);
        }
        drop(setup);
        let vcpu = Vcpu::new(self.0.clone(), id);
        vcpus.insert(id, vcpu.shared().clone());
        // The virtual counter starts near zero: the last vCPU created wins, VM-wide.
        let now = ulna_arm_cpu::cpu::Clock::counter(&*self.0.clock, 0);
        self.0.cntvoff.store(now, Ordering::SeqCst);
        Ok(vcpu)
    }

    /// KVM_CREATE_DEVICE.
    pub fn create_device(&self, kind: u32) -> Result<Device> {
        Device::create(self.0.clone(), kind)
    }

    /// KVM_ARM_PREFERRED_TARGET.
    pub fn preferred_target(&self) -> VcpuInit {
        VcpuInit { target: ulna_kvm_abi::ARM_TARGET_GENERIC_V8, features: [0; 7] }
    }

    /// vCPU features that this VM's vCPUs can have.
    pub fn supported_features(&self) -> VcpuFeatures {
        Machine::new(&self.0.config.profile, self.0.config.policy, VcpuFeatures::NONE)
            .supported_vcpu_features()
    }

    /// KVM_IRQ_LINE.
    pub fn irq_line(&self, irq: u32, level: bool) -> Result<()> {
        let kind = irq >> 24 & 15;
        let vcpu = (irq >> 28) * 256 + (irq >> 16 & 0xff);
        let number = irq & 0xffff;
        let created = self.0.vcpus.read().unwrap_or_else(|e| e.into_inner()).len() as u32;
        let in_kernel = self.0.gic_setup.lock().unwrap_or_else(|e| e.into_inner()).exists();
        match kind {
            device::irq_type::CPU => {
                if in_kernel {
                    return Err(Errno::ENXIO);
                }
                if vcpu >= created || number > 1 {
                    return Err(Errno::EINVAL);
                }
                let vcpus = self.0.vcpus.read().unwrap_or_else(|e| e.into_inner());
                let v = vcpus.values().nth(vcpu as usize).ok_or(Errno::EINVAL)?;
                v.set_pin(number == 1, level);
                Ok(())
            }
            device::irq_type::PPI => {
                if !in_kernel {
                    return Err(Errno::ENXIO);
                }
                if vcpu >= created || !(16..32).contains(&number) {
                    return Err(Errno::EINVAL);
                }
                self.with_gic(|g| g.gic.set_ppi(vcpu as usize, number, level).map_err(|_| Errno::EINVAL))
            }
            device::irq_type::SPI => {
                if !in_kernel {
                    return Err(Errno::ENXIO);
                }
                if number < 32 {
                    return Err(Errno::EINVAL);
                }
                self.with_gic(|g| g.gic.set_spi(number, level).map_err(|_| Errno::EINVAL))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Signals an MSI to the ITS at `doorbell` (its GITS_TRANSLATER).
    pub fn signal_msi(&self, doorbell: u64, devid: u32, data: u32) -> Result<bool> {
        let map = self.0.memory.clone();
        self.with_gic(|g| {
            let frame = g.frame(doorbell).ok_or(Errno::EINVAL)?;
            let Region::Its(its) = frame.0 else { return Err(Errno::EINVAL) };
            match g.gic.inject_msi(its, devid, data, &Tables(&map)) {
                Ok(()) => Ok(true),
                Err(ulna_vgic::MsiError::ItsDisabled) => Err(Errno::EBUSY),
                Err(_) => Ok(false),
            }
        })
    }

    fn with_gic<T>(&self, f: impl FnOnce(&mut GicState) -> Result<T>) -> Result<T> {
        self.0.with_gic(f).unwrap_or(Err(Errno::EAGAIN))
    }
}

impl VmInner {
    /// Runs `f` on the initialised interrupt controller and delivers what changed.
    pub fn with_gic<T>(&self, f: impl FnOnce(&mut GicState) -> T) -> Option<T> {
        let mut g = self.gic.lock().unwrap_or_else(|e| e.into_inner());
        let g = g.as_mut()?;
        let r = f(g);
        g.deliver();
        Some(r)
    }

    /// The machine that all vCPUs show, once the first was initialised.
    pub fn machine(&self) -> Option<Arc<Machine>> {
        self.machine.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

impl Drop for VmInner {
    fn drop(&mut self) {
        self.timers.stop();
    }
}
