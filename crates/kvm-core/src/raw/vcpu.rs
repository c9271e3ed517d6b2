//! A vCPU with its `kvm_run` page, and requests on it (kvm-arm64-abi.md §1.4, §3).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ulna_kvm_abi::ioctl::request;
use ulna_kvm_abi::structs::{DeviceAttr, GuestDebug, MpState, OneReg, SignalMask, VcpuEvents, VcpuInit};
use ulna_kvm_abi::{Errno, RegId, device, exit};

use super::page::{RunPage, run_offset};
use super::{Caller, Descriptor, NOT_ZERO, NOTHING_BEHIND, StatsFile, UNKNOWN, VmHandle};
use crate::shared::Shared;
use crate::{DirtyRing, Result, Run, Vcpu};

/// Offsets into the union of `kvm_run`.
mod at {
    use super::run_offset::UNION;
    pub const MMIO_ADDR: usize = UNION;
    pub const MMIO_DATA: usize = UNION + 8;
    pub const MMIO_LEN: usize = UNION + 16;
    pub const MMIO_WRITE: usize = UNION + 20;
    pub const EVENT_TYPE: usize = UNION;
    pub const EVENT_NDATA: usize = UNION + 4;
    pub const EVENT_DATA: usize = UNION + 8;
    pub const CALL_NR: usize = UNION;
    pub const CALL_ARGS: usize = UNION + 8;
    pub const CALL_FLAGS: usize = UNION + 64;
    pub const NISV_ISS: usize = UNION;
    pub const NISV_IPA: usize = UNION + 8;
    pub const DEBUG_HSR: usize = UNION;
    pub const DEBUG_HSR_HIGH: usize = UNION + 4;
    pub const DEBUG_FAR: usize = UNION + 8;
}

/// KVM_DEBUG_ARCH_HSR_HIGH_VALID.
const HSR_HIGH_VALID: u16 = 1;
/// ESR_ELx.EC of a watchpoint from a lower exception level: the only debug event with an address.
const EC_WATCHPOINT: u32 = 0x34;
/// The longest register is 2048 bits.
const LONGEST: usize = 256;

/// A vCPU that several threads may ask: requests wait for one another, and for KVM_RUN (G6).
pub struct VcpuHandle {
    vm: Arc<VmHandle>,
    vcpu: Mutex<Vcpu>,
    shared: Arc<Shared>,
    page: RunPage,
    /// KVM_SET_SIGNAL_MASK: kept for whoever delivers signals.
    signal_mask: Mutex<Option<u64>>,
}

impl VcpuHandle {
    /// KVM_CREATE_VCPU.
    pub fn create(vm: &Arc<VmHandle>, id: u32) -> Result<Arc<VcpuHandle>> {
        let page = RunPage::new(vm.shares_pages())?;
        let vcpu = vm.vm().create_vcpu(id)?;
        let shared = vcpu.shared().clone();
        Ok(Arc::new(VcpuHandle {
            vm: vm.clone(),
            vcpu: Mutex::new(vcpu),
            shared,
            page,
            signal_mask: Mutex::new(None),
        }))
    }

    /// Its VM.
    pub fn vm(&self) -> &Arc<VmHandle> {
        &self.vm
    }

    /// The `kvm_run` page.
    pub fn page(&self) -> &RunPage {
        &self.page
    }

    /// Its dirty ring, which its VMM maps at page 64; without KVM_CAP_DIRTY_LOG_RING_ACQ_REL there is none. The page of
    /// [`crate::Vm::coalesced_mmio_ring`] is page 1.
    pub fn dirty_ring(&self) -> Option<&Arc<DirtyRing>> {
        self.shared.ring()
    }

    /// The vCPU itself, once nobody else uses it.
    pub fn lock(&self) -> MutexGuard<'_, Vcpu> {
        self.vcpu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What KVM_SET_SIGNAL_MASK left.
    pub fn signal_mask(&self) -> Option<u64> {
        *self.signal_mask.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes KVM_RUN fail with EINTR; from any thread, sticky. It is what a signal to the vCPU's thread is to a kernel.
    pub fn kick(&self) {
        self.shared.kick();
    }

    /// The thread of another process for which KVM_RUN will be: what it waits for a CPU is stolen from the guest as well.
    pub fn set_client_thread(&self, process: u32, thread: u32) {
        self.shared.client_thread.store(u64::from(process) << 32 | u64::from(thread), Ordering::Relaxed);
    }

    /// Takes back a kick that no KVM_RUN saw.
    pub fn forget_kick(&self) {
        self.shared.take_kick();
    }

    /// Sets `kvm_run.immediate_exit` and has a running guest look at it. Only atomic stores: safe in a signal handler.
    pub fn set_immediate_exit(&self, v: u8) {
        self.page.set_immediate_exit(v);
        self.shared.immediate_exit.store(v != 0, Ordering::SeqCst);
        if v != 0 {
            self.shared.nudge();
        }
    }

    /// KVM_RUN: the exit is in the page.
    pub fn run(&self) -> Result<()> {
        let mut vcpu = self.lock();
        vcpu.prepare_run()?;
        let page = &self.page;
        let was_mmio = page.get::<u32>(run_offset::EXIT_REASON) == exit::MMIO;
        vcpu.take_mmio_data(was_mmio, |data| page.read(at::MMIO_DATA, data));
        let immediate = page.immediate_exit() != 0;
        self.shared.immediate_exit.store(immediate, Ordering::SeqCst);
        if !immediate {
            page.put(run_offset::EXIT_REASON, exit::UNKNOWN);
            page.put(run_offset::FLAGS, 0u16);
        }
        let done = run_to_page(&mut vcpu, page, immediate);
        if vcpu.user_irqchip && !immediate {
            page.put(run_offset::DEVICE_IRQ_LEVEL, vcpu.device_irq_level());
        }
        done
    }
}

/// The exit goes to the page.
fn run_to_page(vcpu: &mut Vcpu, page: &RunPage, immediate: bool) -> Result<()> {
    match vcpu.run()? {
        Run::MmioRead(ipa, data) => put_mmio(page, ipa, data, false),
        Run::MmioWrite(ipa, data) => put_mmio(page, ipa, data, true),
        Run::SystemEvent(kind, data) => {
            page.put(run_offset::EXIT_REASON, exit::SYSTEM_EVENT);
            page.put(at::EVENT_TYPE, kind);
            page.put(at::EVENT_NDATA, data.len() as u32);
            for (n, v) in data.iter().enumerate() {
                page.put(at::EVENT_DATA + 8 * n, *v);
            }
        }
        Run::Hypercall(function, flags) => {
            page.put(run_offset::EXIT_REASON, exit::HYPERCALL);
            page.put(at::CALL_NR, function);
            // Arguments and result are in x0-x17.
            page.put(at::CALL_ARGS, [0u64; 7]);
            page.put(at::CALL_FLAGS, flags);
        }
        Run::Debug(esr, far) => {
            page.put(run_offset::EXIT_REASON, exit::DEBUG);
            page.put(run_offset::FLAGS, HSR_HIGH_VALID);
            page.put(at::DEBUG_HSR, esr);
            page.put(at::DEBUG_HSR_HIGH, 0u32);
            if esr >> 26 == EC_WATCHPOINT {
                page.put(at::DEBUG_FAR, far);
            }
        }
        Run::ArmNisv(iss, ipa) => {
            page.put(run_offset::EXIT_REASON, exit::ARM_NISV);
            page.put(at::NISV_ISS, iss);
            page.put(at::NISV_IPA, ipa);
        }
        Run::DirtyRingFull => page.put(run_offset::EXIT_REASON, exit::DIRTY_RING_FULL),
        Run::Intr => {
            if !immediate {
                page.put(run_offset::EXIT_REASON, exit::INTR);
            }
            return Err(Errno::EINTR.because("a signal, or immediate_exit"));
        }
    }
    Ok(())
}

fn put_mmio(page: &RunPage, ipa: u64, data: &[u8], write: bool) {
    let mut padded = [0; 8];
    padded[..data.len()].copy_from_slice(data);
    page.put(at::MMIO_ADDR, ipa);
    if write {
        page.put(at::MMIO_DATA, padded);
    }
    page.put(at::MMIO_LEN, data.len() as u32);
    page.put(at::MMIO_WRITE, u8::from(write));
    page.put(run_offset::EXIT_REASON, exit::MMIO);
}

pub(super) fn serve(v: &Arc<VcpuHandle>, req: u32, arg: u64, caller: &Caller<'_>) -> Result<i32> {
    match req {
        request::RUN => {
            if arg != 0 {
                return Err(NOT_ZERO);
            }
            v.run()?;
        }
        request::GET_STATS_FD => {
            return caller.open(|| Ok(Descriptor::Stats(Arc::new(StatsFile::of_vcpu(v)))));
        }
        request::ARM_VCPU_INIT => v.lock().init(&caller.get::<VcpuInit>(arg)?)?,
        request::GET_ONE_REG => get_one_reg(&mut v.lock(), arg, caller)?,
        request::SET_ONE_REG => set_one_reg(&mut v.lock(), arg, caller)?,
        request::GET_REG_LIST => get_reg_list(&mut v.lock(), arg, caller)?,
        request::ARM_VCPU_FINALIZE => {
            let mut vcpu = v.lock();
            vcpu.check_initialised()?;
            let feature = caller.get::<i32>(arg)?;
            vcpu.finalize(feature)?;
        }
        request::GET_MP_STATE => caller.put(arg, &MpState { mp_state: v.lock().mp_state() })?,
        request::SET_MP_STATE => {
            let s = caller.get::<MpState>(arg)?;
            v.lock().set_mp_state(s.mp_state)?;
        }
        // At once, whatever the vCPU does.
        request::NMI => v.vm.vm().nmi(v.shared.id)?,
        request::SET_SIGNAL_MASK => {
            let mask = if arg == 0 {
                None
            } else {
                if caller.get::<SignalMask>(arg)?.len != 8 {
                    return Err(Errno::EINVAL.because("a signal set has 8 bytes"));
                }
                Some(caller.get::<u64>(arg.checked_add(4).ok_or(NOTHING_BEHIND)?)?)
            };
            *v.signal_mask.lock().unwrap_or_else(PoisonError::into_inner) = mask;
        }
        request::SET_DEVICE_ATTR => {
            let a = caller.attr(arg)?;
            set_attr(&mut v.lock(), &a, caller)?;
        }
        request::GET_DEVICE_ATTR => {
            let a = caller.attr(arg)?;
            get_attr(&v.lock(), &a, caller)?;
        }
        request::HAS_DEVICE_ATTR => {
            let a = caller.attr(arg)?;
            v.lock().has_attr(a.group, a.attr)?;
        }
        request::GET_VCPU_EVENTS => {
            let events = v.lock().vcpu_events()?;
            caller.put(arg, &events)?;
        }
        request::SET_VCPU_EVENTS => {
            let mut vcpu = v.lock();
            vcpu.check_initialised()?;
            vcpu.set_vcpu_events(&caller.get::<VcpuEvents>(arg)?)?;
        }
        request::SET_GUEST_DEBUG => {
            let d = caller.get::<GuestDebug>(arg)?;
            caller.tidy(d.pad == 0)?;
            v.lock().set_guest_debug(&d)?;
        }
        // Of other architectures: what they read is read, and nothing is done.
        request::SET_REGS => {
            caller.get::<[u8; 864]>(arg)?;
            return Err(UNKNOWN);
        }
        request::TRANSLATE => {
            caller.get::<[u8; 24]>(arg)?;
            return Err(UNKNOWN);
        }
        _ => return Err(UNKNOWN),
    }
    Ok(0)
}

fn get_one_reg(vcpu: &mut Vcpu, arg: u64, caller: &Caller<'_>) -> Result<()> {
    vcpu.check_initialised()?;
    let r = caller.get::<OneReg>(arg)?;
    let id = RegId(r.id);
    let mut b = [0; LONGEST];
    let data = &mut b[..id.size().min(LONGEST)];
    vcpu.get_one_reg(id, data)?;
    caller.write(r.addr, data)
}

fn set_one_reg(vcpu: &mut Vcpu, arg: u64, caller: &Caller<'_>) -> Result<()> {
    vcpu.check_initialised()?;
    let r = caller.get::<OneReg>(arg)?;
    let id = RegId(r.id);
    let mut b = [0; LONGEST];
    let data = &mut b[..id.size().min(LONGEST)];
    if let Err(fault) = caller.read(r.addr, data) {
        // What is wrong with the id itself is told first, but a system register's value is fetched before it is looked up.
        let known = vcpu.get_one_reg(id, data);
        let sysreg = id.group() == ulna_kvm_abi::reg::GROUP_SYSREG;
        return Err(match known {
            Err(e) if !sysreg || e == Errno::EINVAL => e,
            _ => fault,
        });
    }
    vcpu.set_one_reg(id, data)
}

/// Writes how many there are in any case.
fn get_reg_list(vcpu: &mut Vcpu, arg: u64, caller: &Caller<'_>) -> Result<()> {
    put_reg_list(&vcpu.reg_list()?, arg, caller)
}

pub(super) fn put_reg_list(list: &[RegId], arg: u64, caller: &Caller<'_>) -> Result<()> {
    let n = caller.get::<u64>(arg)?;
    caller.put(arg, &(list.len() as u64))?;
    if n < list.len() as u64 {
        let e = Errno::E2BIG.because("the list has {} registers, the caller has room for {}");
        return Err(e.values([list.len() as u64, n]));
    }
    let bytes: Vec<u8> = list.iter().flat_map(|id| id.0.to_le_bytes()).collect();
    caller.write(arg.checked_add(8).ok_or(NOTHING_BEHIND)?, &bytes)
}

fn set_attr(vcpu: &mut Vcpu, a: &DeviceAttr, caller: &Caller<'_>) -> Result<()> {
    use device::*;
    let value = match (a.group, a.attr) {
        (GRP_PMU_V3_CTRL, PMU_V3_INIT) => Ok(0),
        (GRP_PMU_V3_CTRL, PMU_V3_FILTER) => caller.get::<u64>(a.addr),
        (GRP_PMU_V3_CTRL | GRP_TIMER_CTRL, _) => caller.get::<u32>(a.addr).map(u64::from),
        (GRP_PVTIME_CTRL, PVTIME_IPA) => caller.get::<u64>(a.addr),
        _ => Ok(0),
    };
    match value {
        Ok(v) => vcpu.set_attr(a.group, a.attr, v),
        Err(fault) => {
            vcpu.refused_unread(a.group, a.attr)?;
            Err(fault)
        }
    }
}

fn get_attr(vcpu: &Vcpu, a: &DeviceAttr, caller: &Caller<'_>) -> Result<()> {
    let value = vcpu.get_attr(a.group, a.attr)?;
    if a.group == device::GRP_PVTIME_CTRL {
        caller.put(a.addr, &value)
    } else {
        caller.put(a.addr, &(value as u32))
    }
}
