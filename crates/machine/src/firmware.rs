//! Firmware pseudo-registers: which there are, what they read at first, and what a VMM may write (kvm-arm64-abi.md §6).

use crate::catalog::{Firmware, Named, WriteRule};
use crate::rules::{Refusal, VmTraits};
use crate::{Machine, Policy, VcpuFeatures};
use ulna_kvm_abi::RegId;
use ulna_profile::{Mitigation, Mitigations};

/// What a write of a firmware register may say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirmwareRule {
    /// A version of PSCI that the vCPU and the kernel have.
    PsciVersion,
    /// A level that the host reaches.
    HostLevel(u8),
    /// A subset of these bits.
    Bitmap(u64),
}

/// A firmware register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirmwareRow {
    /// Which.
    pub reg: Firmware,
    /// Its id.
    pub id: RegId,
    /// The first kernel that has it.
    pub since: (u16, u16),
    /// The value with which a stream may leave it out (seed-systems.md §2.5).
    pub neutral: Option<u64>,
    /// What may be written.
    pub rule: FirmwareRule,
}

const fn row(reg: Firmware, id: RegId, since: (u16, u16), rule: FirmwareRule) -> FirmwareRow {
    FirmwareRow { reg, id, since, neutral: None, rule }
}

/// All of them, in the order of KVM_GET_REG_LIST. Services are chosen since Linux 5.19, errata lists came with 6.15.
pub const FIRMWARE: &[FirmwareRow] = &[
    row(Firmware::PsciVersion, RegId::PSCI_VERSION, (0, 0), FirmwareRule::PsciVersion),
    row(Firmware::Workaround(1), RegId::fw(1), (0, 0), FirmwareRule::HostLevel(1)),
    row(Firmware::Workaround(2), RegId::fw(2), (0, 0), FirmwareRule::HostLevel(2)),
    row(Firmware::Workaround(3), RegId::fw(3), (0, 0), FirmwareRule::HostLevel(3)),
    row(Firmware::StdBmap, RegId::fw_feat(0), (5, 19), FirmwareRule::Bitmap(1)),
    row(Firmware::StdHypBmap, RegId::fw_feat(1), (5, 19), FirmwareRule::Bitmap(1)),
    row(Firmware::VendorHypBmap, RegId::fw_feat(2), (5, 19), FirmwareRule::Bitmap(3)),
    FirmwareRow {
        reg: Firmware::VendorHypBmap2,
        id: RegId::fw_feat(3),
        since: IMP_IDS_SINCE,
        // A later service starts absent, and may be left out while it is.
        neutral: Some(0),
        rule: FirmwareRule::Bitmap(3),
    },
];

/// KVM_CAP_ARM_WRITABLE_IMP_ID_REGS and errata discovery came with this kernel.
pub const IMP_IDS_SINCE: (u16, u16) = (6, 15);

/// Versions of PSCI that KVM has had, with the first kernel that offers each.
const PSCI: [(u64, (u16, u16)); 5] =
    [(0x2, (0, 0)), (0x1_0000, (0, 0)), (0x1_0001, (5, 18)), (0x1_0002, (6, 13)), (0x1_0003, (6, 13))];

impl Firmware {
    /// Its line of the table.
    pub fn row(self) -> Option<&'static FirmwareRow> {
        FIRMWARE.iter().find(|r| r.reg == self)
    }
}

/// KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1 to _3 of a host; `ssbs` says whether the VM announces ID_AA64PFR1_EL1.SSBS.
pub fn workaround_level(m: &Mitigations, n: u8, ssbs: bool) -> u64 {
    let level = |m: Mitigation| match m {
        Mitigation::Vulnerable => 0,
        Mitigation::Mitigated => 1,
        Mitigation::Unaffected => 2,
    };
    match n {
        1 => level(m.spectre_v2),
        2 => match m.ssb {
            Mitigation::Vulnerable => 0,
            Mitigation::Mitigated if ssbs => 0,
            Mitigation::Mitigated | Mitigation::Unaffected => 3,
        },
        _ => level(m.spectre_bhb),
    }
}

/// What the value of a workaround's register claims, if it is one.
fn claimed(n: u8, v: u64) -> Option<u64> {
    match (n, v) {
        (2, 0 | 1) => Some(0),
        // Bit 4 (enabled) goes only with a workaround that the guest need not ask for.
        (2, 2 | 3 | 0x12) => Some(3),
        (1 | 3, 0..=15) => Some(v),
        _ => None,
    }
}

impl Machine {
    /// Whether a VM has the register.
    ///
    /// VENDOR_HYP_BMAP_2: as soon as the kernel has it in strict mode; else once the VMM has shown that it knows of
    /// errata lists, because a register that is listed unasked keeps guests from moving to older kernels.
    pub fn has_firmware(&self, f: Firmware, vm: VmTraits) -> bool {
        let Some(row) = f.row() else { return false };
        match f {
            Firmware::VendorHypBmap2 if !vm.strict => vm.identity,
            _ => self.kernel >= row.since,
        }
    }

    /// The newest PSCI that the kernel offers.
    pub fn newest_psci(&self) -> u64 {
        PSCI.iter().filter(|p| self.kernel >= p.1).map(|p| p.0).max().unwrap_or(2)
    }

    /// What a firmware register reads in a new VM: the newest PSCI, all services that were there before they could be
    /// chosen, the host's levels.
    pub fn firmware_value(&self, f: Firmware) -> u64 {
        match f.row().map(|r| r.rule) {
            Some(FirmwareRule::PsciVersion) if !self.modern_psci() => 1,
            Some(FirmwareRule::PsciVersion) => self.newest_psci(),
            Some(FirmwareRule::HostLevel(n)) => self.workaround_level(n, self.announces_ssbs()),
            Some(FirmwareRule::Bitmap(_)) if f == Firmware::VendorHypBmap2 => 0,
            Some(FirmwareRule::Bitmap(bits)) => bits,
            None => 0,
        }
    }

    fn modern_psci(&self) -> bool {
        self.vcpu.contains(VcpuFeatures::PSCI_0_2)
    }

    fn announces_ssbs(&self) -> bool {
        ssbs(self.limit(ulna_arm_regs::SysReg::ID_AA64PFR1_EL1))
    }

    /// The host's level of a workaround.
    pub fn workaround_level(&self, n: u8, ssbs: bool) -> u64 {
        workaround_level(&self.mitigations, n, ssbs)
    }

    /// The most that a write of a workaround's register may claim: a software CPU does not speculate.
    fn workaround_limit(&self, n: u8, ssbs: bool) -> u64 {
        match (self.policy, n) {
            (Policy::Hw, _) => self.workaround_level(n, ssbs),
            (Policy::Soft, 2) => 3,
            (Policy::Soft, _) => 2,
        }
    }

    /// What a write of a firmware register before the first run meets; `ssbs` says whether the VM announces SSBS. The
    /// value is what the VM then has: a workaround's level is its own under [`Policy::Soft`] only.
    pub fn check_firmware(&self, f: Firmware, v: u64, ssbs: bool) -> Result<u64, Refusal> {
        let refuse = |limit: u64, rule| Err(Refusal::new(Named::Firmware(f), v.into(), limit.into(), rule));
        let Some(row) = f.row() else { return refuse(0, WriteRule::Fixed) };
        match row.rule {
            FirmwareRule::PsciVersion => {
                let newest = self.newest_psci();
                let known = PSCI.iter().any(|p| p.0 == v) && v <= newest;
                match self.modern_psci() {
                    true if known => Ok(v),
                    true => refuse(newest, WriteRule::Choice),
                    false if v == 1 => Ok(v),
                    false => refuse(1, WriteRule::Choice),
                }
            }
            FirmwareRule::HostLevel(n) => {
                let limit = self.workaround_limit(n, ssbs);
                match claimed(n, v) {
                    Some(level) if level <= limit && self.policy == Policy::Soft => Ok(level),
                    Some(level) if level <= limit => Ok(self.workaround_level(n, ssbs)),
                    _ => refuse(limit, WriteRule::HostLevel),
                }
            }
            FirmwareRule::Bitmap(bits) if v & !bits != 0 => refuse(bits, WriteRule::Bitmap),
            FirmwareRule::Bitmap(_) => Ok(v),
        }
    }
}

/// Does ID_AA64PFR1_EL1 announce SSBS?
pub fn ssbs(pfr1: u64) -> bool {
    pfr1 >> 4 & 0xf != 0
}
