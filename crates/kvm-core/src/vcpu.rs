//! A vCPU descriptor: initialisation, reset, power. Running it is in `run`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ulna_arm_cpu::{Cpu, CpuConfig, FeatSet, SysReg};
use ulna_arm_regs::row::Storage;
use ulna_kvm_abi::{ARM_TARGET_GENERIC_V8, Errno, VcpuInit, mp_state, vcpu_feature};
use ulna_machine::{Machine, VcpuFeatures};

use crate::Result;
use crate::debug::{DebugState, Faults};
use crate::dirty_ring::DirtyRing;
use crate::exits::Mmio;
use crate::shared::{ResetTo, Shared};
use crate::stolen::Stolen;
use crate::vm::{Vm, VmInner, is_vm_wide};
use crate::why;

/// A system event for the VMM.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Event {
    pub kind: u32,
    data: [u64; 1],
    len: usize,
}

impl Event {
    pub fn set(&mut self, kind: u32, flags: Option<u64>) {
        *self = Event { kind, data: [flags.unwrap_or(0)], len: usize::from(flags.is_some()) };
    }
    /// `ndata` words.
    pub fn data(&self) -> &[u64] {
        &self.data[..self.len]
    }
}

/// A vCPU descriptor.
pub struct Vcpu {
    pub(crate) vm: Arc<VmInner>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) cpu: Box<Cpu>,
    init: Option<VcpuInit>,
    /// Bits of PSTATE that a VMM wrote and no CPU keeps: they are read back until it runs.
    pub(crate) pstate_rest: u64,
    /// What its VM agreed on when it was initialised.
    machine: Option<Arc<Machine>>,
    /// It got past the checks of its first run.
    pub(crate) ran: bool,
    pub(crate) mmio: Mmio,
    pub(crate) event: Event,
    /// Levels of the timer outputs as the GIC knows them: virtual, physical. None before it was told.
    pub(crate) timer_levels: [Option<bool>; 2],
    /// Counter value for which the timer thread has this vCPU on its list.
    pub(crate) planned: Option<u64>,
    /// KVM_ARM_VCPU_PMU_V3_INIT was done.
    pub(crate) pmu_ready: bool,
    /// KVM_ARM_VCPU_PVTIME_IPA.
    pub(crate) stolen_time: Option<u64>,
    /// The guest has asked for it.
    pub(crate) stolen: Option<Stolen>,
    /// Level of the PMU's output as the GIC knows it.
    pub(crate) pmu_level: bool,
    /// KVM_SET_GUEST_DEBUG.
    pub(crate) debug: DebugState,
    pub(crate) faults: Faults,
    /// It runs without an in-kernel interrupt controller.
    pub(crate) user_irqchip: bool,
    pub(crate) device_irq_level: u64,
}

impl Vcpu {
    /// `index` is its number in the order of creation.
    pub(crate) fn new(vm: Arc<VmInner>, id: u32, index: usize) -> Result<Vcpu> {
        let mut cpu = Box::new(Cpu::new(CpuConfig {
            features: FeatSet::EMPTY,
            memory: vm.memory.clone(),
            shared: vm.shared.clone(),
            clock: vm.clock.clone(),
            random: vm.config.random.clone(),
        }));
        cpu.irregular = vm.irregular.clone();
        cpu.pmu_emulated = true;
        cpu.set_engine(vm.config.engine, &vm.config.engine_options);
        let shared = Arc::new(Shared::new(id, index, cpu.pe.clone()));
        let ring = vm.slots.tracking.ring_bytes.load(Ordering::SeqCst);
        if ring != 0 {
            let ring = Arc::new(DirtyRing::new(ring)?);
            cpu.dirty_sink = Some(ring.clone());
            shared.set_ring(ring);
        }
        Ok(Vcpu {
            vm,
            shared,
            cpu,
            init: None,
            pstate_rest: 0,
            machine: None,
            ran: false,
            mmio: Mmio::default(),
            event: Event::default(),
            timer_levels: [None; 2],
            planned: None,
            pmu_ready: false,
            stolen_time: None,
            stolen: None,
            pmu_level: false,
            debug: DebugState::default(),
            faults: Faults::default(),
            user_irqchip: false,
            device_irq_level: 0,
        })
    }

    /// Its dirty ring, if KVM_CAP_DIRTY_LOG_RING_ACQ_REL was enabled before it was created.
    pub fn dirty_ring(&self) -> Option<&Arc<DirtyRing>> {
        self.shared.ring()
    }

    /// `kvm_run.s.regs.device_irq_level`: outputs of the virtual (bit 0) and physical (1) timer and the PMU (2) as the
    /// last KVM_RUN left them, without an in-kernel interrupt controller.
    pub fn device_irq_level(&self) -> u64 {
        self.device_irq_level
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Makes `run` return [`crate::Run::Intr`]; from any thread, sticky.
    pub fn kicker(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        let s = self.shared.clone();
        move || s.kick()
    }

    /// `kvm_run.immediate_exit`: while set, `run` completes a pending access and returns at once.
    pub fn set_immediate_exit(&self, on: bool) {
        self.shared.immediate_exit.store(on, Ordering::SeqCst);
    }

    /// Instructions executed so far.
    pub fn instructions(&self) -> u64 {
        self.cpu.state.icount
    }

    /// KVM_GET_MP_STATE.
    pub fn mp_state(&self) -> u32 {
        self.shared.mp_state()
    }

    /// KVM_SET_MP_STATE.
    pub fn set_mp_state(&mut self, s: u32) -> Result<()> {
        self.vm.check_alive()?;
        if !matches!(s, mp_state::RUNNABLE | mp_state::STOPPED | mp_state::SUSPENDED) {
            return Err(Errno::EINVAL
                .because("state {}: a vCPU is RUNNABLE (0), STOPPED (5) or SUSPENDED (10)")
                .value(s.into()));
        }
        self.shared.set_mp_state(s);
        self.vm.reconsider_sdei();
        Ok(())
    }

    pub(crate) fn check_initialised(&self) -> Result<Arc<Machine>> {
        self.vm.check_alive()?;
        self.machine.clone().ok_or(why::NOT_INITIALISED)
    }

    /// The same for callers that only look.
    pub(crate) fn initialised(&self) -> Result<&Machine> {
        self.vm.check_alive()?;
        self.machine.as_deref().ok_or(why::NOT_INITIALISED)
    }

    /// The vCPU features it was initialised with.
    pub(crate) fn has_feature(&self, bit: u32) -> bool {
        self.init.is_some_and(|i| i.features[0] >> bit & 1 != 0)
    }

    /// KVM_ARM_VCPU_FINALIZE: there is nothing to finalise without SVE.
    pub fn finalize(&mut self, _feature: i32) -> Result<()> {
        self.check_initialised()?;
        Err(Errno::EINVAL.because("the vCPU has no feature that is to be finalised"))
    }

    /// KVM_ARM_VCPU_INIT (kvm-arm64-abi.md §11.2).
    pub fn init(&mut self, init: &VcpuInit) -> Result<()> {
        self.vm.check_alive()?;
        let own = specific_target(self.vm.config.profile.reg(SysReg::MIDR_EL1));
        if init.target != ARM_TARGET_GENERIC_V8 && Some(init.target) != own {
            let e = Errno::EINVAL.because("target {} is not this host's: KVM_ARM_PREFERRED_TARGET says {}");
            return Err(e.values([init.target.into(), ARM_TARGET_GENERIC_V8.into()]));
        }
        if init.features[1..].iter().any(|f| *f != 0) || init.features[0] & !0x7f != 0 {
            return Err(Errno::ENOENT
                .because("features {x} {x}: bits beyond those that this KVM knows")
                .values([
                    init.features[0].into(),
                    init.features[1..].iter().fold(0, |a, f| a | u64::from(*f)),
                ]));
        }
        let wanted = VcpuFeatures::from_bits(init.features[0]);
        let lasting = wanted.without(VcpuFeatures::POWER_OFF);
        let supported = Vm(self.vm.clone()).supported_features();
        let address = wanted.contains(VcpuFeatures::PTRAUTH_ADDRESS);
        let generic = wanted.contains(VcpuFeatures::PTRAUTH_GENERIC);
        if address != generic {
            return Err(Errno::EINVAL.because("PTRAUTH_ADDRESS and PTRAUTH_GENERIC go only together"));
        }
        if !supported.contains(lasting) {
            let e = Errno::EINVAL.because("features {x}: this host offers {x}");
            return Err(e.values([lasting.bits().into(), supported.bits().into()]));
        }
        // Features are those of the VM, from its first vCPU on.
        self.vm.agree_on_features(lasting)?;
        let first = self.init.is_none();
        self.init = Some(*init);
        self.machine = self.vm.machine();
        self.reset(first)?;
        let off = init.features[0] >> vcpu_feature::POWER_OFF & 1 != 0;
        let mut p = self.shared.power();
        p.reset = None;
        p.mp_state = if off { mp_state::STOPPED } else { mp_state::RUNNABLE };
        Ok(())
    }

    /// The state after VCPU_INIT and CPU_ON (kvm-arm64-abi.md §11.4). What a VM has once it takes at the first one.
    fn reset(&mut self, first: bool) -> Result<()> {
        let m = self.check_initialised()?;
        let s = &mut self.cpu.state;
        for &r in SysReg::ALL {
            let storage = r.row().storage;
            let once = is_vm_wide(r) || storage == Storage::Host || r == SysReg::CLIDR_EL1;
            if once && !first || storage == Storage::Timer {
                continue;
            }
            if let Some(v) = m.reset_value(r, self.shared.id) {
                s.set_sys(r, v);
            }
        }
        // SP_EL1, ELR_EL1 and SPSR_EL1 keep what they have.
        s.set_el_sp(1, 1);
        s.x[..31].fill(0);
        s.set_banked_sp(0, 0);
        s.v = [0; 32];
        (s.fpsr, s.fpcr, s.pc, s.nzcv, s.daif) = (0, 0, 0, 0, 0x3c0);
        (s.pan, s.uao, s.dit, s.ssbs, s.ss, s.il, s.btype) = (false, false, false, false, false, false, 0);
        for t in [SysReg::CNTV_CTL_EL0, SysReg::CNTP_CTL_EL0] {
            s.set_sys(t, 0);
        }
        self.settle_counters();
        self.pstate_rest = 0;
        if first {
            for n in 0..16 {
                self.cpu.ccsidr[n as usize] = m.ccsidr(n);
            }
        }
        self.vm.set_affinity(&self.shared, self.cpu.state.sys(SysReg::MPIDR_EL1));
        self.vm.reset_sdei_pe(self.shared.index);
        self.mmio = Mmio::default();
        self.faults.reset();
        Ok(())
    }

    /// A reset that PSCI CPU_ON left for this vCPU: by its own thread, or when somebody looks at its registers.
    pub(crate) fn apply_power_on(&mut self, to: ResetTo) -> Result<()> {
        self.reset(false)?;
        self.cpu.state.pc = to.pc;
        self.cpu.state.x[0] = to.x0;
        if to.big_endian {
            let v = self.cpu.state.sys(SysReg::SCTLR_EL1) | 1 << 25;
            self.cpu.state.set_sys(SysReg::SCTLR_EL1, v);
        }
        Ok(())
    }
}

/// The target of old that still names this CPU beside KVM_ARM_TARGET_GENERIC_V8 (kvm-arm64-abi.md §11.2).
fn specific_target(midr: u64) -> Option<u32> {
    match (midr >> 24 & 0xff, midr >> 4 & 0xfff) {
        (0x41, 0xd0f) => Some(0),
        (0x41, 0xd00) => Some(1),
        (0x41, 0xd07) => Some(2),
        (0x50, 0x000) => Some(3),
        (0x41, 0xd03) => Some(4),
        _ => None,
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.vm.timers.set(self.shared.id, None, &self.shared);
    }
}
