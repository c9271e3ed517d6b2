//! Range 16 of KVM_ARM_GET_REG_WRITABLE_MASKS, which Linux has not: what a VMM may change beyond the feature ID registers
//! (seed-systems.md §4.4).
//!
//! It is a list, so that it can grow: an entry says how the register is reached, which bits may be changed and up to
//! which value. A bit is a promise: what the guest sees follows.

use ulna_arm_cpu::SysReg;
use ulna_kvm_abi::RegId;
use ulna_machine::rules::CHOSEN;
use ulna_machine::{Machine, Policy, VmTraits};
use ulna_vgic::{CpuIdentity, DistIdentity};

use crate::firmware::sdei;
use crate::identity::{GICD_TYPER, ICC_CTLR};
use crate::vm::Vm;

/// Version of the list's form.
pub const VERSION: u32 = 1;
/// Bytes of an entry.
pub const ENTRY: usize = 40;
/// Bytes before the first.
pub const HEADER: usize = 8;

/// How a register of the list is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Access {
    /// KVM_SET_ONE_REG on a vCPU.
    OneReg = 0,
    /// An attribute of the VM in group 0x554C0001.
    VmRegister = 1,
    /// KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS of the GIC.
    GicCpuSysregs = 2,
    /// KVM_DEV_ARM_VGIC_GRP_DIST_REGS of the GIC; the id is the attribute's offset.
    GicDistRegs = 3,
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskEntry {
    /// The register, by `access`.
    pub id: u64,
    /// Bits that may be changed.
    pub mask: u64,
    /// The most they may say.
    pub limit: u64,
    /// How it is reached.
    pub access: Access,
    /// Registers with the same number that is not 0 are views of one record.
    pub group: u32,
}

/// Groups, which never change their numbers.
mod group {
    pub const CPU_INTERFACE: u32 = 1;
    pub const GICD: u32 = 2;
    pub const COUNTER: u32 = 3;
    pub const PMU: u32 = 4;
    pub const CACHES: u32 = 5;
}

/// PMCR_EL0.N.
const PMCR_N: u32 = 11;
/// GICD_IIDR, Revision.
const GICD_IIDR: u64 = 8;
const REVISION: u32 = 12;
/// GICD_TYPER.LPIS and IDbits.
const LPIS: u64 = 1 << 17;
const TYPER_ID_BITS: u64 = 0x1f << 19;
/// The newest revision of KVM's distributor.
const NEWEST_REVISION: u64 = 3;

impl Vm {
    /// The list of this VM: of its vCPUs' features once they are agreed on, else of all that there can be.
    pub fn mask_list(&self) -> Vec<MaskEntry> {
        let vm = &self.0;
        let c = &vm.config;
        let settled = vm.machine();
        let most = || Machine::new(&c.profile, c.policy, self.supported_features());
        let m = settled.as_deref().cloned().unwrap_or_else(most);
        let mut list = Vec::new();
        let counters = u64::from(m.pmu_counters());
        if counters != 0 && m.listed(SysReg::PMCR_EL0) {
            list.push(MaskEntry {
                id: RegId::sysreg(SysReg::PMCR_EL0.code()).0,
                mask: 0x1f << PMCR_N,
                limit: counters << PMCR_N,
                access: Access::OneReg,
                group: group::PMU,
            });
        }
        list.extend((0..m.ccsidr_entries()).map(|n| MaskEntry {
            id: RegId::ccsidr(n).0,
            mask: 0xffff_ffff,
            limit: m.ccsidr(n.into()),
            access: Access::OneReg,
            group: group::CACHES,
        }));
        list.push(MaskEntry {
            id: GICD_IIDR,
            mask: 0xf << REVISION,
            limit: NEWEST_REVISION << REVISION,
            access: Access::GicDistRegs,
            group: group::GICD,
        });
        if vm.identity_is_chosen() {
            if c.gic().v3 {
                list.push(MaskEntry {
                    id: ICC_CTLR.into(),
                    mask: ctlr_mask(c.gic().most_identity()),
                    limit: c.gic().most_identity().to_ctlr(),
                    access: Access::GicCpuSysregs,
                    group: group::CPU_INTERFACE,
                });
                list.push(MaskEntry {
                    id: GICD_TYPER,
                    // Without LPIs their number is not a choice.
                    mask: DistIdentity::MASK
                        & if vm.most_typer() & LPIS != 0 { u64::MAX } else { !(LPIS | TYPER_ID_BITS) },
                    limit: vm.most_typer(),
                    access: Access::GicDistRegs,
                    group: group::GICD,
                });
            }
            list.extend(CHOSEN.into_iter().filter_map(|r| {
                let (mask, limit) = vm.chosen(&m, r)?;
                let group = match r {
                    SysReg::CNTFRQ_EL0 => group::COUNTER,
                    SysReg::DCZID_EL0 => group::CACHES,
                    _ => group::PMU,
                };
                Some(MaskEntry {
                    id: RegId::sysreg(r.code()).0,
                    mask,
                    limit,
                    access: Access::VmRegister,
                    group,
                })
            }));
        }
        if vm.firmware.sdei.get().is_some() {
            list.push(MaskEntry {
                id: sdei::Reg::Features.id().0,
                mask: sdei::Features::MASK,
                limit: sdei::Features::MOST.0,
                access: Access::VmRegister,
                group: 0,
            });
        }
        list
    }

    /// The same in bytes, as the request gives it.
    pub fn mask_list_bytes(&self) -> Vec<u8> {
        let list = self.mask_list();
        let mut b = Vec::with_capacity(HEADER + list.len() * ENTRY);
        b.extend(VERSION.to_le_bytes());
        b.extend((list.len() as u32).to_le_bytes());
        for e in list {
            for word in [e.id, e.mask, e.limit, u64::from(e.group) << 32 | e.access as u64, 0] {
                b.extend(word.to_le_bytes());
            }
        }
        b
    }
}

impl crate::vm::VmInner {
    /// A software CPU counts at any rate; where hardware is played the rate is the hardware's.
    pub fn frequency_is_writable(&self) -> bool {
        self.config.policy == Policy::Soft && !self.config.strict
    }

    /// What the VMM decided before there were vCPUs, as far as registers depend on it.
    pub fn traits(&self) -> VmTraits {
        VmTraits {
            identity: self.identity_is_writable(),
            sdei: self.firmware.sdei.get().is_some(),
            strict: self.config.strict,
        }
    }
}

/// Bits of ICC_CTLR_EL1 that can change: SEIS and A3V, and what there can be less of. No guest has RSS or ExtRange.
fn ctlr_mask(most: CpuIdentity) -> u64 {
    let less = |possible: bool, bits: u64| if possible { bits } else { 0 };
    1 << 14 | 1 << 15 | less(most.pri_bits > 5, 7 << 8) | less(most.id_bits > 16, 1 << 11)
}
