//! A VM descriptor.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::mem::PhysMap;
use ulna_arm_cpu::pmu::EventFilter;
use ulna_arm_cpu::shared::VmShared;
use ulna_arm_cpu::{Irregular, SysReg};
use ulna_arm_regs::row::Storage;
use ulna_kvm_abi::{Errno, MAX_VCPUS, SmcccFilter, VcpuInit, device, private};
use ulna_machine::rules::{CHOSEN, IDENTITY, identity_mask};
use ulna_machine::{Machine, VcpuFeatures};
use ulna_profile::Profile;

use crate::Result;
use crate::clock::SystemClock;
use crate::coalesced::Coalesced;
use crate::device::Device;
use crate::eventfd::{IoEvents, IrqFds};
use crate::firmware::Firmware;
use crate::gic::{GicSetup, GicState};
use crate::kvm::KvmConfig;
use crate::memory::Slots;
use crate::routing::Routing;
use crate::shared::Shared;
use crate::timers::TimerThread;
use crate::vcpu::Vcpu;
use crate::vm_regs::has_imp_ids;
use crate::why;

/// PPIs of the EL1 virtual, EL1 physical, EL2 virtual and EL2 physical timer, as KVM wires them by default.
const TIMER_PPIS: [u32; 4] = [27, 30, 28, 26];

/// Has a VM one value of this register for all its vCPUs, frozen at the first run?
pub(crate) fn is_vm_wide(r: SysReg) -> bool {
    r.row().storage == Storage::Vm
}

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
    vcpus: RwLock<BTreeMap<u32, Arc<Shared>>>,
    /// CNTVOFF_EL2, VM-wide.
    pub cntvoff: AtomicU64,
    /// CNTPOFF_EL2, VM-wide.
    pub cntpoff: AtomicU64,
    /// KVM_ARM_SET_COUNTER_OFFSET was used: nothing else moves the offsets any more.
    pub offsets_fixed: AtomicBool,
    /// INTIDs of the timers.
    pub timer_ppis: [AtomicU32; 4],
    /// A vCPU has taken its timers' PPIs, which stay as they are from then on.
    pub timer_ppis_fixed: AtomicBool,
    /// KVM_ARM_VCPU_PMU_V3_FILTER: events that are counted.
    pub pmu_filter: Mutex<Option<Arc<EventFilter>>>,
    /// A vCPU got past the checks of its first run.
    pub started: AtomicBool,
    /// The first run failed in a way that KVM does not recover from: EIO from now on.
    dead: AtomicBool,
    /// KVM_CAP_ARM_NISV_TO_USER was enabled.
    pub nisv_to_user: AtomicBool,
    /// KVM_CAP_ARM_WRITABLE_IMP_ID_REGS was enabled.
    pub writable_identity: AtomicBool,
    /// Identity registers are each vCPU's own.
    pub het_identity: AtomicBool,
    /// KVM_GET_REG_LIST on a vCPU says which registers are the VM's.
    pub tagging: AtomicBool,
    /// Instructions that the vCPU of an instruction clock had executed when it last left the guest.
    pub icount: AtomicU64,
    /// KVM_CAP_ARM_SYSTEM_SUSPEND was enabled.
    pub system_suspend: AtomicBool,
    /// The interrupt controller as the VMM sets it up.
    pub gic_setup: Mutex<GicSetup>,
    /// The interrupt controller once it is initialised.
    pub gic: Mutex<Option<GicState>>,
    /// vCPU features and what follows from them, once the first vCPU was initialised.
    agreed: Mutex<Option<(VcpuFeatures, Arc<Machine>)>>,
    /// Values of the VM-wide registers by ordinal.
    id_values: Mutex<Box<[u64]>>,
    /// System registers of this host that are not as its features say.
    pub irregular: Arc<Irregular>,
    /// Event counters of each vCPU's PMU (PMCR_EL0.N).
    pub pmu_counters: AtomicU8,
    /// Firmware pseudo-registers and the filter of calls.
    pub firmware: Firmware,
    pub io_events: IoEvents,
    pub irq_fds: IrqFds,
    pub routing: Routing,
    pub coalesced: Coalesced,
}

fn irregular(profile: &Profile) -> Irregular {
    let absent = profile.absent.iter().flat_map(|a| &a.regs).map(|r| r.code()).collect();
    Irregular::new(absent, profile.extra.iter().map(|x| (x.code, x.el, x.value)).collect())
}

fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
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
            offsets_fixed: AtomicBool::new(false),
            timer_ppis: TIMER_PPIS.map(AtomicU32::new),
            timer_ppis_fixed: AtomicBool::new(false),
            pmu_filter: Mutex::new(None),
            started: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            nisv_to_user: AtomicBool::new(false),
            writable_identity: AtomicBool::new(false),
            het_identity: AtomicBool::new(false),
            tagging: AtomicBool::new(false),
            icount: AtomicU64::new(0),
            system_suspend: AtomicBool::new(false),
            gic_setup: Mutex::default(),
            gic: Mutex::new(None),
            agreed: Mutex::new(None),
            id_values: Mutex::new(vec![0; SysReg::COUNT].into()),
            irregular: Arc::new(irregular(&config.profile)),
            pmu_counters: AtomicU8::new(0),
            firmware: Firmware::new(&config),
            io_events: IoEvents::default(),
            irq_fds: IrqFds::default(),
            routing: Routing::default(),
            coalesced: Coalesced::default(),
            config,
        }))
    }

    /// KVM_CREATE_VCPU.
    pub fn create_vcpu(&self, id: u32) -> Result<Vcpu> {
        let vm = &self.0;
        vm.check_alive()?;
        if id >= MAX_VCPUS {
            return Err(Errno::EINVAL
                .because("vCPU id {}: ids end at {}")
                .values([id.into(), MAX_VCPUS as u64 - 1]));
        }
        let most = self.max_vcpus();
        let mut vcpus = vm.vcpus.write().unwrap_or_else(PoisonError::into_inner);
        if vcpus.len() as u32 >= most {
            return Err(Errno::EINVAL
                .because("the VM has {} vCPUs, which is the most it can have")
                .value(most.into()));
        }
        if vm.gic_ready() {
            return Err(
                Errno::EBUSY.because("the interrupt controller is initialised: vCPUs come before that")
            );
        }
        if id >= most {
            return Err(Errno::EINVAL
                .because("vCPU id {}: with a GICv2 there are {} vCPUs")
                .values([id.into(), most.into()]));
        }
        if vcpus.contains_key(&id) {
            return Err(Errno::EEXIST.because("there is a vCPU {} already").value(id.into()));
        }
        locked(&vm.gic_setup).check_new_vcpu(vcpus.len(), vm.ipa_bits)?;
        let vcpu = Vcpu::new(vm.clone(), id, vcpus.len())?;
        vm.add_sdei_pe(vcpu.shared().index);
        vcpus.insert(id, vcpu.shared().clone());
        if !vm.offsets_fixed.load(Ordering::SeqCst) {
            // The virtual counter starts near zero: the last vCPU created wins, VM-wide.
            vm.cntvoff.store(vm.clock.counter(0), Ordering::SeqCst);
        }
        Ok(vcpu)
    }

    /// Most vCPUs this VM can have (KVM_CAP_MAX_VCPUS).
    pub fn max_vcpus(&self) -> u32 {
        if locked(&self.0.gic_setup).is_v2() { ulna_vgic::MAX_VCPUS_V2 as u32 } else { MAX_VCPUS }
    }

    /// KVM_CREATE_DEVICE.
    pub fn create_device(&self, kind: u32) -> Result<Device> {
        self.0.check_alive()?;
        Device::create(self.0.clone(), kind)
    }

    /// KVM_ARM_SET_COUNTER_OFFSET: guest counters are the host's less this.
    pub fn set_counter_offset(&self, offset: u64) -> Result<()> {
        self.0.check_alive()?;
        if self.0.any_vcpu_runs() {
            return Err(why::RUNNING);
        }
        self.0.offsets_fixed.store(true, Ordering::SeqCst);
        self.0.cntvoff.store(offset, Ordering::SeqCst);
        self.0.cntpoff.store(offset, Ordering::SeqCst);
        Ok(())
    }

    /// CNTFRQ_EL0 as the guest sees it.
    pub fn counter_hz(&self) -> u64 {
        match self.0.id_values()[SysReg::CNTFRQ_EL0 as usize] {
            0 => self.0.config.profile.counter.hz,
            hz => hz,
        }
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

    /// KVM_HAS_DEVICE_ATTR on a VM.
    pub fn has_attr(&self, group: u32, attr: u64) -> Result<()> {
        self.0.check_alive()?;
        if group == private::GRP_REG_SCOPE {
            return self.vm_reg_size(attr).map(drop);
        }
        let known = (group, attr) == (device::GRP_VM_SMCCC_CTRL, device::VM_SMCCC_FILTER);
        if known { Ok(()) } else { Err(why::NO_ATTRIBUTE) }
    }

    /// KVM_ARM_VM_SMCCC_FILTER: what happens to a range of calls.
    pub fn set_smccc_filter(&self, f: &SmcccFilter) -> Result<()> {
        self.0.check_alive()?;
        let mut filter = locked(&self.0.firmware.filter);
        if f.pad.iter().any(|b| *b != 0) {
            return Err(Errno::EINVAL.because("kvm_smccc_filter.pad is not zero"));
        }
        let mut new = filter.clone();
        let checked = new.insert(f.base, f.nr_functions, f.action);
        match checked {
            // What is wrong in itself is told even after the VM has run.
            Err(e) if e == Errno::EINVAL => Err(e),
            _ if self.0.started.load(Ordering::SeqCst) => Err(why::STARTED),
            Err(e) => Err(e),
            Ok(()) => {
                *filter = new;
                Ok(())
            }
        }
    }

    /// KVM_ARM_GET_REG_WRITABLE_MASKS: bits of the feature-ID registers that can be changed, by op1 (0, 1, 3), CRm, op2.
    pub fn writable_masks(&self) -> [u64; 192] {
        let m = Machine::new(&self.0.config.profile, self.0.config.policy, VcpuFeatures::NONE);
        let mut masks = [0; 192];
        for &r in SysReg::ALL {
            let code = usize::from(r.code());
            let (op0, op1, crn) = (code >> 14, code >> 11 & 7, code >> 7 & 15);
            if op0 == 3 && matches!(op1, 0 | 1 | 3) && crn == 0 && code >> 3 & 15 < 8 {
                let identity = has_imp_ids(&self.0.config).then(|| identity_mask(r)).flatten();
                masks[op1.min(2) * 64 + (code & 0x3f)] = identity.unwrap_or_else(|| m.writable_mask(r));
            }
        }
        masks
    }

    /// KVM_IRQ_LINE: `irq` is type (27:24), vCPU (31:28, 23:16) and number (15:0).
    pub fn irq_line(&self, irq: u32, level: bool) -> Result<()> {
        let vm = &self.0;
        vm.check_alive()?;
        let kind = irq >> 24 & 15;
        let id = (irq >> 28) * 256 + (irq >> 16 & 0xff);
        let number = irq & 0xffff;
        let vcpu = || vm.vcpus().get(&id).cloned().ok_or(why::NO_VCPU);
        let no_line = Errno::EINVAL.because("the interrupt controller has no line {}").value(number.into());
        match (kind, vm.gic_exists()) {
            (device::irq_type::CPU, false) => {
                let vcpu = vcpu()?;
                if number > 1 {
                    return Err(Errno::EINVAL
                        .because("line {} of a CPU: it has 0 (IRQ) and 1 (FIQ)")
                        .value(number.into()));
                }
                vcpu.set_pin(number == 1, level);
                Ok(())
            }
            (device::irq_type::PPI, true) => {
                let vcpu = vcpu()?;
                if !(16..32).contains(&number) {
                    return Err(Errno::EINVAL.because("INTID {} is no PPI (16 to 31)").value(number.into()));
                }
                vm.lazy_init_gic()?;
                self.with_gic(|g| {
                    if g.is_owned(number, Some(vcpu.index)) {
                        return Ok(());
                    }
                    if g.set_line(Some(vcpu.index), number, level) { Ok(()) } else { Err(no_line) }
                })
            }
            (device::irq_type::SPI, true) => {
                // A GICv2 is not brought to life for a line that it will not have.
                let beyond = {
                    let s = vm.setup();
                    s.is_v2() && number >= s.lines()
                };
                if number < 32 || beyond {
                    return Err(Errno::EINVAL
                        .because("INTID {} is no SPI of this controller")
                        .value(number.into()));
                }
                vm.lazy_init_gic()?;
                self.with_gic(|g| {
                    if g.is_owned(number, None) {
                        return Ok(());
                    }
                    if g.set_line(None, number, level) { Ok(()) } else { Err(no_line) }
                })
            }
            (device::irq_type::CPU, _) => Err(Errno::ENXIO.because(
                "lines of a CPU are driven by the in-kernel interrupt controller: use type SPI or PPI",
            )),
            (device::irq_type::PPI | device::irq_type::SPI, _) => {
                Err(Errno::ENXIO.because("the VM has no in-kernel interrupt controller: use type CPU"))
            }
            _ => Err(Errno::EINVAL
                .because("interrupt type {}: there are 0 (CPU), 1 (SPI), 2 (PPI)")
                .value(kind.into())),
        }
    }

    /// KVM_SIGNAL_MSI to the ITS at `doorbell` (its GITS_TRANSLATER): whether the guest takes it.
    pub fn signal_msi(&self, doorbell: u64, devid: u32, data: u32) -> Result<bool> {
        self.0.check_alive()?;
        if !self.0.gic_exists() {
            return Err(why::NO_GIC);
        }
        self.with_gic(|g| self.0.send_msi(g, doorbell, devid, data))
    }

    fn with_gic<T>(&self, f: impl FnOnce(&mut GicState) -> Result<T>) -> Result<T> {
        self.0.with_gic(f).unwrap_or(Err(why::GIC_NOT_READY))
    }
}

impl VmInner {
    /// EIO once the VM is dead.
    pub fn check_alive(&self) -> Result<()> {
        if self.dead.load(Ordering::SeqCst) { Err(why::DEAD) } else { Ok(()) }
    }

    /// In strict mode what is private answers `errno`, as something unknown.
    pub fn not_strict(&self, errno: Errno) -> Result<()> {
        if self.config.strict { Err(errno) } else { Ok(()) }
    }

    /// The first run failed for good.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// The vCPUs by id.
    pub fn vcpus(&self) -> RwLockReadGuard<'_, BTreeMap<u32, Arc<Shared>>> {
        self.vcpus.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something that goes only while there are no vCPUs; none is made meanwhile.
    pub fn before_vcpus(&self, errno: Errno, f: impl FnOnce()) -> Result<()> {
        let vcpus = self.vcpus.write().unwrap_or_else(PoisonError::into_inner);
        if !vcpus.is_empty() {
            return Err(errno);
        }
        f();
        Ok(())
    }

    /// Is one in KVM_RUN? Requests that need them all at rest fail then.
    pub fn any_vcpu_runs(&self) -> bool {
        self.vcpus().values().any(|v| v.running.load(Ordering::SeqCst))
    }

    /// INTIDs of the timers: virtual, physical, and those of EL2.
    pub fn timer_ppis(&self) -> [u32; 4] {
        std::array::from_fn(|n| self.timer_ppis[n].load(Ordering::Relaxed))
    }

    /// The machine that all vCPUs show, once the first was initialised.
    pub fn machine(&self) -> Option<Arc<Machine>> {
        locked(&self.agreed).as_ref().map(|a| a.1.clone())
    }

    /// All vCPUs of a VM have the same features: the first to be initialised decides.
    pub fn agree_on_features(&self, wanted: VcpuFeatures) -> Result<()> {
        let mut agreed = locked(&self.agreed);
        match &*agreed {
            Some((f, _)) if *f == wanted => Ok(()),
            Some((f, _)) => Err(Errno::EINVAL
                .because("features {x}: the VM's vCPUs were initialised with {x}, and all have the same")
                .values([wanted.bits().into(), f.bits().into()])),
            None => {
                let m = Machine::new(&self.config.profile, self.config.policy, wanted);
                let mut values = self.id_values();
                for &r in SysReg::ALL {
                    if (is_vm_wide(r) || IDENTITY.contains(&r) || CHOSEN.contains(&r))
                        && let Some(v) = m.reset_value(r, 0)
                    {
                        values[r as usize] = v;
                    }
                }
                drop(values);
                self.pmu_counters.store(m.pmu_counters(), Ordering::SeqCst);
                *agreed = Some((wanted, Arc::new(m)));
                Ok(())
            }
        }
    }

    /// Values of the VM-wide registers by ordinal.
    pub fn id_values(&self) -> MutexGuard<'_, Box<[u64]>> {
        locked(&self.id_values)
    }

    /// What KVM does to the feature ID registers before the first instruction.
    pub fn finish_id_registers(&self, m: &Machine, vgic3: bool) {
        self.finish(&mut self.id_values(), m, vgic3);
    }

    /// The VM has started: its registers are frozen. What a vCPU shows of them goes to `take`.
    pub fn start(&self, m: &Machine, vgic3: bool, mut take: impl FnMut(SysReg, u64)) {
        let mut values = self.id_values();
        self.finish(&mut values, m, vgic3);
        let own_identity = self.het_identity.load(Ordering::SeqCst);
        for &r in SysReg::ALL {
            let identity = IDENTITY.contains(&r) && !own_identity;
            if is_vm_wide(r) || identity || CHOSEN.contains(&r) && m.value(r).is_some() {
                take(r, values[r as usize]);
            }
        }
        self.started.store(true, Ordering::SeqCst);
    }

    fn finish(&self, values: &mut [u64], m: &Machine, vgic3: bool) {
        if self.started.load(Ordering::SeqCst) {
            return;
        }
        for &r in SysReg::ALL {
            if is_vm_wide(r) {
                values[r as usize] = m.at_first_run(r, values[r as usize], vgic3);
            }
        }
    }
}

impl Drop for VmInner {
    fn drop(&mut self) {
        self.timers.stop();
        self.irq_fds.stop();
    }
}
