//! Registers of which a VM has one value, whatever descriptor they are reached by (seed-systems.md §2).
//!
//! Their values are stored once, so vCPUs cannot disagree. The configuration lock ([`VmInner::id_values`]) makes the
//! checks of a write and the write one step, and excludes the first run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ulna_arm_cpu::SysReg;
use ulna_arm_cpu::cpu::Clock;
use ulna_arm_regs::id::in_id_space;
use ulna_kvm_abi::reg::{ARM64, GROUP_FW, GROUP_FW_FEAT, GROUP_SDEI, GROUP_SYSREG};
use ulna_kvm_abi::{Errno, RegId, private};
use ulna_machine::catalog::Firmware;
use ulna_machine::firmware::{FIRMWARE, FirmwareRow, FirmwareRule};
use ulna_machine::rules::{CHOSEN, IDENTITY, offers_identity};
use ulna_machine::{Machine, Policy, VcpuFeatures};

use crate::Result;
use crate::firmware::smccc;
use crate::kvm::KvmConfig;
use crate::one_reg::{refusal, refused};
use crate::vm::{Vm, VmInner, is_vm_wide};
use crate::why;

/// The ids of the counters: CNTVCT has the encoding of CNTV_CVAL_EL0 (kvm-arm64-abi.md §5.3).
pub(crate) const CNTVCT: u16 = 0xdf1a;
pub(crate) const CNTPCT: u16 = 0xdf01;

/// The value of an implementation id after `v` was written: until the VM has started any that has meaning.
pub(crate) fn check_identity(m: &Machine, r: SysReg, now: u64, v: u64, started: bool) -> Result<u64> {
    match v {
        _ if v == now => Ok(v),
        _ if started => Err(why::STARTED),
        _ => m.check_identity(r, v).map_err(refusal),
    }
}

const STRICT: Errno = Errno::EINVAL.because("a VM of Linux's KVM has no such request");

/// KVM_CAP_ARM_WRITABLE_IMP_ID_REGS is there.
pub(crate) fn has_imp_ids(config: &KvmConfig) -> bool {
    let k = config.profile.kernel;
    offers_identity((k.major, k.minor), config.policy, config.strict)
}

impl VmInner {
    /// KVM_CAP_ARM_WRITABLE_IMP_ID_REGS was enabled.
    pub fn identity_is_writable(&self) -> bool {
        self.writable_identity.load(Ordering::SeqCst)
    }

    /// Is an implementation id the VM's, or that of the host or of each vCPU?
    pub fn identity_is_the_vms(&self) -> bool {
        self.identity_is_writable() && !self.het_identity.load(Ordering::SeqCst)
    }

    /// Has the VM one value of this register?
    fn is_scoped_sysreg(&self, m: &Machine, r: SysReg) -> bool {
        let identity = IDENTITY.contains(&r) && self.identity_is_the_vms();
        m.listed(r) && (is_vm_wide(r) || in_id_space(r) || identity) || self.chosen(m, r).is_some()
    }

    /// Firmware pseudo-registers that this VM has.
    pub fn firmware_regs(&self) -> impl Iterator<Item = RegId> + '_ {
        let (machine, traits) = (self.any_machine(), self.traits());
        FIRMWARE.iter().filter(move |r| machine.has_firmware(r.reg, traits)).map(|r| r.id)
    }

    /// How many of them are bitmaps of services.
    pub fn bitmap_count(&self) -> usize {
        self.firmware_regs().filter(|id| id.group() == GROUP_FW_FEAT).count()
    }

    /// The rules of a vCPU: of the features that were agreed on, else of none.
    fn any_machine(&self) -> Arc<Machine> {
        let none = || Machine::new(&self.config.profile, self.config.policy, VcpuFeatures::NONE);
        self.machine().unwrap_or_else(|| Arc::new(none()))
    }

    fn firmware_row(&self, m: &Machine, id: RegId) -> Result<&'static FirmwareRow> {
        let named = |r: &&FirmwareRow| (r.id.group(), r.id.index()) == (id.group(), id.index());
        let here = |r: &&FirmwareRow| m.has_firmware(r.reg, self.traits());
        FIRMWARE.iter().find(named).filter(here).ok_or(why::NO_REGISTER)
    }

    fn modern_psci(m: &Machine) -> bool {
        m.vcpu_features().contains(VcpuFeatures::PSCI_0_2)
    }

    /// A firmware pseudo-register of a VM whose vCPUs are as `m` says.
    pub fn get_firmware_reg(&self, m: &Machine, id: RegId) -> Result<u64> {
        let row = self.firmware_row(m, id)?;
        match row.rule {
            FirmwareRule::PsciVersion if !Self::modern_psci(m) => Ok(1),
            FirmwareRule::PsciVersion => Ok(self.firmware.psci_version.load(Ordering::SeqCst)),
            FirmwareRule::HostLevel(n) => Ok(smccc::workaround_level(self, n)),
            FirmwareRule::Bitmap(_) => Ok(self.bitmap(row).load(Ordering::SeqCst)),
        }
    }

    fn bitmap(&self, row: &FirmwareRow) -> &AtomicU64 {
        let f = &self.firmware;
        match row.reg {
            Firmware::StdBmap => &f.std,
            Firmware::StdHypBmap => &f.std_hyp,
            Firmware::VendorHypBmap => &f.vendor_hyp,
            _ => &f.vendor_hyp_2,
        }
    }

    /// Writes one.
    pub fn set_firmware_reg(&self, m: &Machine, id: RegId, v: u64) -> Result<()> {
        let row = self.firmware_row(m, id)?;
        let ssbs = smccc::shows_ssbs(self);
        let v = m.check_firmware(row.reg, v, ssbs).map_err(refusal)?;
        match row.rule {
            FirmwareRule::PsciVersion if Self::modern_psci(m) => {
                self.firmware.psci_version.store(v, Ordering::SeqCst);
            }
            FirmwareRule::PsciVersion => {}
            // A host's level is what it is. Software has none of its own and keeps what the guest was told.
            FirmwareRule::HostLevel(n) if self.config.policy == Policy::Soft => {
                self.firmware.level(n).store(v, Ordering::SeqCst);
            }
            FirmwareRule::HostLevel(_) => {}
            FirmwareRule::Bitmap(_) => {
                let map = self.bitmap(row);
                let _configuration = self.id_values();
                if self.started.load(Ordering::SeqCst) && map.load(Ordering::SeqCst) != v {
                    return Err(why::STARTED);
                }
                map.store(v, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// A feature ID register, or an identity register that is the VM's.
    pub fn set_id_register(&self, m: &Machine, r: SysReg, v: u64) -> Result<()> {
        if CHOSEN.contains(&r) {
            return self.set_chosen(m, r, v);
        }
        let mut values = self.id_values();
        let now = values[r as usize];
        let started = self.started.load(Ordering::SeqCst);
        if IDENTITY.contains(&r) {
            values[r as usize] = check_identity(m, r, now, v, started)?;
            return Ok(());
        }
        if started {
            if let Some(e) = m.refused_even_after_run(r, v) {
                return Err(refused(e));
            }
            // Frozen: the same value is accepted.
            return if now == v { Ok(()) } else { Err(why::STARTED) };
        }
        let v = m.check_write(r, v).map_err(refused)?;
        values[r as usize] = v;
        Ok(())
    }

    /// A counter of the VM: `icount` instructions were executed.
    pub fn count(&self, offset: &AtomicU64, icount: u64) -> u64 {
        self.clock.counter(icount).wrapping_sub(offset.load(Ordering::SeqCst))
    }

    /// Moves a counter of the VM, unless KVM_ARM_SET_COUNTER_OFFSET has decided.
    pub fn set_count(&self, offset: &AtomicU64, icount: u64, v: u64) {
        if !self.offsets_fixed.load(Ordering::SeqCst) {
            offset.store(self.clock.counter(icount).wrapping_sub(v), Ordering::SeqCst);
        }
    }

    fn counter_offset(&self, index: u16) -> Option<&AtomicU64> {
        match index {
            CNTVCT => Some(&self.cntvoff),
            CNTPCT => Some(&self.cntpoff),
            _ => None,
        }
    }

    /// The machine, or ENOEXEC while no vCPU was initialised: features are not final.
    fn settled(&self) -> Result<std::sync::Arc<Machine>> {
        self.check_alive()?;
        self.machine()
            .ok_or(Errno::ENOEXEC.because("no vCPU of the VM is initialised: its features are not final"))
    }

    /// Is the id (without a tag) that of a register of the VM?
    pub fn is_vm_scoped(&self, m: &Machine, id: RegId) -> bool {
        if id.0 & 0xff0f_ffff_f000_0000 != ARM64 || id.size() != 8 {
            return false;
        }
        match id.group() {
            GROUP_FW | GROUP_FW_FEAT => self.firmware_row(m, id).is_ok(),
            // SDEI_VERSION and SDEI_FEATURES.
            GROUP_SDEI => id.index() < 2 && self.firmware.sdei.get().is_some(),
            GROUP_SYSREG if self.counter_offset(id.index()).is_some() => true,
            GROUP_SYSREG => SysReg::from_code(id.index()).is_some_and(|r| self.is_scoped_sysreg(m, r)),
            _ => false,
        }
    }

    /// The id without its tag, where tagging is on and the tag is right. Others keep theirs and are unknown.
    pub fn untagged(&self, m: &Machine, id: RegId) -> RegId {
        let plain = RegId(id.0 & !private::SCOPE_MASK);
        let tagged = id.0 & private::SCOPE_MASK == private::SCOPE_VM && self.tagging.load(Ordering::SeqCst);
        if tagged && self.is_vm_scoped(m, plain) { plain } else { id }
    }

    /// The id as KVM_GET_REG_LIST on a vCPU says it.
    pub fn tagged(&self, m: &Machine, id: RegId) -> RegId {
        let tag = self.tagging.load(Ordering::SeqCst) && self.is_vm_scoped(m, id);
        if tag { RegId(id.0 | private::SCOPE_VM) } else { id }
    }
}

impl Vm {
    /// The map of VM-scoped registers: KVM_GET_REG_LIST on the VM descriptor, which Linux has not.
    pub fn reg_map(&self) -> Result<Vec<RegId>> {
        let vm = &self.0;
        vm.not_strict(STRICT)?;
        let m = vm.settled()?;
        let registers = SysReg::ALL.iter().filter(|r| vm.is_scoped_sysreg(&m, **r));
        let mut map: Vec<RegId> = registers.map(|r| RegId::sysreg(r.code())).collect();
        map.push(RegId::sysreg(CNTVCT));
        map.extend(m.kernel_since(6, 4).then_some(RegId::sysreg(CNTPCT)));
        map.extend(vm.firmware_regs());
        map.extend(vm.sdei_list().into_iter().filter(|id| vm.is_vm_scoped(&m, *id)));
        map.sort_unstable();
        Ok(map)
    }

    /// The value with which a VM-scoped register may be left out of a stream (seed-systems.md §2.5).
    pub fn neutral_value(&self, id: RegId) -> Option<u64> {
        FIRMWARE.iter().find(|r| r.id == id)?.neutral
    }

    fn scoped(&self, attr: u64) -> Result<(std::sync::Arc<Machine>, RegId)> {
        let vm = &self.0;
        vm.not_strict(why::NO_ATTRIBUTE)?;
        let m = vm.settled()?;
        // Both spellings, whatever tagging is.
        let tag = attr & private::SCOPE_MASK;
        let id = RegId(attr & !private::SCOPE_MASK);
        let known = (tag == 0 || tag == private::SCOPE_VM) && vm.is_vm_scoped(&m, id);
        let none =
            Errno::ENXIO.because("{x} is the id of no register that the VM has one value of").value(attr);
        if known { Ok((m, id)) } else { Err(none) }
    }

    /// Size in bytes of a VM-scoped register, by its id.
    pub fn vm_reg_size(&self, id: u64) -> Result<usize> {
        self.scoped(id).map(|(_, id)| id.size())
    }

    /// A VM-scoped register, by its id: an attribute of the VM.
    pub fn get_vm_reg(&self, id: u64) -> Result<u64> {
        let (m, id) = self.scoped(id)?;
        let vm = &self.0;
        if id.group() == GROUP_SDEI {
            let mut b = [0; 8];
            return vm.get_sdei(0, id, &mut b).map(|()| u64::from_le_bytes(b));
        }
        if id.group() != GROUP_SYSREG {
            return vm.get_firmware_reg(&m, id);
        }
        if let Some(offset) = vm.counter_offset(id.index()) {
            return Ok(vm.count(offset, vm.icount.load(Ordering::SeqCst)));
        }
        let r = SysReg::from_code(id.index()).ok_or(why::NO_ATTRIBUTE)?;
        Ok(vm.id_values()[r as usize])
    }

    /// Writes one: checks, errors and storage are those of a write through a vCPU.
    pub fn set_vm_reg(&self, id: u64, v: u64) -> Result<()> {
        let (m, id) = self.scoped(id)?;
        let vm = &self.0;
        if id.group() == GROUP_SDEI {
            return vm.set_sdei(0, id, &v.to_le_bytes());
        }
        if id.group() != GROUP_SYSREG {
            return vm.set_firmware_reg(&m, id, v);
        }
        if let Some(offset) = vm.counter_offset(id.index()) {
            vm.set_count(offset, vm.icount.load(Ordering::SeqCst), v);
            return Ok(());
        }
        let r = SysReg::from_code(id.index()).ok_or(why::NO_ATTRIBUTE)?;
        vm.set_id_register(&m, r, v)
    }
}
