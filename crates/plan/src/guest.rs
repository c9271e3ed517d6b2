//! What moves: the state of a VM that other hosts may refuse.

use crate::host::Host;
use std::collections::BTreeMap;
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::RegId;
use ulna_machine::catalog::{Named, name};
use ulna_machine::{Machine, VcpuFeatures, VmTraits};
use ulna_vgic::{Affinity, IccReg, Version};

/// KVM_REG_ARM64_SVE_VLS.
pub(crate) const VLS: RegId = RegId(0x6060_0000_0015_ffff);

/// The interrupt controller of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gic {
    /// A GICv2.
    V2,
    /// A GICv3 whose ICC_CTLR_EL1 reads so for a VMM.
    V3 {
        /// The register.
        ctlr: u64,
    },
}

/// A guest: all registers of its first vCPU, and what no register of KVM's list says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guest {
    /// Features of its vCPUs.
    pub features: VcpuFeatures,
    /// What its VMM decided before there were vCPUs.
    pub traits: VmTraits,
    /// Registers by id, little-endian.
    pub regs: BTreeMap<RegId, Vec<u8>>,
    /// CNTFRQ_EL0, which a guest reads and no register of KVM's list says.
    pub counter_hz: u64,
    /// PMCEID0_EL0 and PMCEID1_EL0, if it has a PMU: the same.
    pub pmu_events: Option<[u64; 2]>,
    /// DCZID_EL0: the same.
    pub dczid: u64,
    /// Its interrupt controller.
    pub gic: Option<Gic>,
    /// Bits of guest-physical address that its memory map needs.
    pub address_bits: u8,
}

/// Address bits of the smallest memory map.
const LEAST_ADDRESS_BITS: u8 = 32;

impl Guest {
    /// A VM of these features as it is on `host` once it runs; with a GICv3 where there is one, or a GICv2 if `v2`.
    pub fn of(host: &Host, features: VcpuFeatures, v2: bool) -> Guest {
        let m = host.machine(features);
        let limits = host.gic();
        let gic = match () {
            () if limits.v3 && !v2 => Some(Gic::V3 { ctlr: own_ctlr(host) }),
            () if limits.v2 => Some(Gic::V2),
            () => None,
        };
        let traits = VmTraits { strict: host.strict, ..VmTraits::default() };
        let v3 = matches!(gic, Some(Gic::V3 { .. }));
        let mut regs = BTreeMap::new();
        for id in m.ids(traits) {
            let Ok(n) = name(id) else { continue };
            let v = first_value(&m, n, v3);
            regs.insert(id, v.to_le_bytes()[..id.size().min(16)].to_vec());
        }
        if features.contains(VcpuFeatures::SVE) {
            let mut bytes = m.sve_lengths().to_le_bytes().to_vec();
            bytes.resize(64, 0);
            regs.insert(VLS, bytes);
        }
        let constant = |r| m.value(r);
        Guest {
            features,
            traits,
            regs,
            counter_hz: m.cntfrq_hz(),
            pmu_events: constant(SysReg::PMCEID0_EL0).zip(constant(SysReg::PMCEID1_EL0)).map(|(a, b)| [a, b]),
            dczid: constant(SysReg::DCZID_EL0).unwrap_or(0),
            gic,
            address_bits: LEAST_ADDRESS_BITS,
        }
    }

    /// A register's value; the first 128 bits of wide ones.
    pub fn reg(&self, id: RegId) -> Option<u128> {
        let bytes = self.regs.get(&id)?;
        let mut b = [0; 16];
        let n = bytes.len().min(16);
        b[..n].copy_from_slice(&bytes[..n]);
        Some(u128::from_le_bytes(b))
    }

    /// A system register's value.
    pub fn sysreg(&self, r: SysReg) -> Option<u64> {
        self.reg(RegId::sysreg(r.code())).map(|v| v as u64)
    }

    /// Gives a register another value.
    pub fn set(&mut self, id: RegId, v: u64) {
        let len = id.size().min(8);
        self.regs.insert(id, v.to_le_bytes()[..len].to_vec());
    }

    /// The same guest without a feature of KVM_ARM_VCPU_INIT, on the host where it started.
    pub fn has_v3(&self) -> bool {
        matches!(self.gic, Some(Gic::V3 { .. }))
    }
}

/// A register of a VM that has just begun to run.
fn first_value(m: &Machine, n: Named, v3: bool) -> u128 {
    let v = match n {
        Named::Sys(r) => {
            let v = m.value(r).or_else(|| m.reset_value(r, 0)).unwrap_or(0);
            m.at_first_run(r, v, v3)
        }
        Named::Firmware(f) => m.firmware_value(f),
        Named::Ccsidr(n) => m.ccsidr(n.into()),
        // EL1h with interrupts masked, as after a reset.
        Named::Core(ulna_machine::catalog::Core::Pstate) => 0x3c5,
        _ => 0,
    };
    v.into()
}

/// ICC_CTLR_EL1 of a new GICv3 on this host, as a VMM reads it.
pub(crate) fn own_ctlr(host: &Host) -> u64 {
    fresh_gic(host).and_then(|mut g| g.user_sysreg_read(0, IccReg::Ctlr).ok()).unwrap_or(0)
}

/// The model of a GICv3 of this host with one vCPU.
pub(crate) fn fresh_gic(host: &Host) -> Option<ulna_vgic::Gic> {
    let c = host.gic().config(Version::V3, vec![Affinity::default()], 64);
    ulna_vgic::Gic::new(c).ok()
}
