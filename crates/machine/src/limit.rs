//! The limit of every ID register: the host's sanitised value and KVM's adjustments (kvm-arm64-abi.md §8.4).

use crate::cache;
use crate::vcpu::VcpuFeatures;
use ulna_arm_regs::feature::FeatSet;
use ulna_arm_regs::id::{IdReg, Raz};
use ulna_arm_regs::{Feat, SysReg};
use ulna_profile::{KernelLevel, Mitigation, Profile};

/// KVM emulates PMUv3 up to Armv8.5.
const PMUVER_MAX: u64 = 6;
/// Armv8.0's debug architecture.
const DEBUGVER_8_0: u64 = 6;
/// KVM hides breakpoint features after Armv8.8.
const DEBUGVER_MAX: u64 = 0xa;

/// Whether a host has exactly one PAuth algorithm, for addresses and generic codes alike: else KVM offers none.
pub(crate) fn one_pauth_algorithm(host: &FeatSet) -> bool {
    let algorithms =
        [Feat::PACQARMA5, Feat::PACIMP, Feat::PACQARMA3].iter().filter(|&&f| host.has(f)).count();
    algorithms == 1 && host.has(Feat::PAuth) && host.has(Feat::PACGA)
}

fn field(v: u64, lsb: u8) -> u64 {
    v >> lsb & 0xf
}

fn with(v: u64, lsb: u8, f: u64) -> u64 {
    v & !(0xf << lsb) | (f & 0xf) << lsb
}

/// The limit of `r`; `host` gives the hardware's registers less what the engine lacks.
pub(crate) fn of(
    r: SysReg,
    host: &impl Fn(SysReg) -> u64,
    profile: &Profile,
    vgic3: bool,
    vcpu: VcpuFeatures,
    aarch32: bool,
) -> u64 {
    use SysReg as S;
    let Some(row) = IdReg::of(r) else { return 0 };
    let pmu = vcpu.contains(VcpuFeatures::PMU_V3);
    let raz = match row.raz {
        Raz::Never => false,
        Raz::Always => true,
        Raz::UnlessSve => !vcpu.contains(VcpuFeatures::SVE),
        // Without AArch32 the kernel leaves these zero but still fills in ID_DFR0.PerfMon.
        Raz::UnlessAArch32 => !(aarch32 || r == S::ID_DFR0_EL1 && pmu),
    };
    if raz {
        return 0;
    }
    let raw = host(r);
    let v = if row.raz == Raz::UnlessAArch32 && !aarch32 { 0 } else { raw & row.shown() };
    let pmuver = || match field(host(S::ID_AA64DFR0_EL1), 8) {
        _ if !pmu => 0,
        0xf => 0,
        n => n.min(PMUVER_MAX),
    };
    let since = |major, minor| profile.kernel >= KernelLevel { major, minor };
    match r {
        S::ID_AA64PFR0_EL1 => {
            let mut v = with(with(v, 44, 0), 40, 0); // AMU, MPAM
            if !vcpu.contains(VcpuFeatures::SVE) {
                v = with(v, 32, 0);
            }
            let m = &profile.mitigations;
            if field(v, 56) == 0 && m.spectre_v2 == Mitigation::Unaffected {
                v = with(v, 56, 1);
            }
            if field(v, 60) == 0 && m.meltdown == Mitigation::Unaffected {
                v = with(v, 60, 1);
            }
            with(v, 24, u64::from(vgic3))
        }
        // MTE is a VM capability that the engine does not offer yet; SME and MPAM are hidden.
        S::ID_AA64PFR1_EL1 => with(with(with(v, 8, 0), 24, 0), 16, 0),
        S::ID_AA64DFR0_EL1 => {
            // Guests had the debug architecture of Armv8.0 before (host-data.md §2).
            let most = if since(6, 7) { DEBUGVER_MAX } else { DEBUGVER_8_0 };
            let v = with(v, 0, field(v, 0).min(most));
            with(with(v, 8, pmuver()), 32, 0)
        }
        S::ID_DFR0_EL1 => {
            let perfmon = match pmuver() {
                1 => 3,
                n => n,
            };
            with(with(v, 0, field(v, 0).min(DEBUGVER_MAX)), 24, perfmon)
        }
        S::ID_AA64ISAR1_EL1 if !vcpu.contains(VcpuFeatures::PTRAUTH) => v & !0xff00_0ff0,
        S::ID_AA64ISAR2_EL1 if !vcpu.contains(VcpuFeatures::PTRAUTH) => v & !0xff00,
        // KVM's own nested virtualization is another than this field announces: hidden since 6.15 (host-data.md §2).
        S::ID_AA64MMFR2_EL1 if since(6, 15) => with(with(v, 20, 0), 24, 0),
        S::ID_AA64MMFR2_EL1 => with(v, 20, 0),
        S::ID_MMFR4_EL1 => with(v, 24, 0),
        S::CLIDR_EL1 => cache::clidr(host(S::CTR_EL0)),
        // RES1 above the fields.
        S::CTR_EL0 => v | 1 << 31,
        _ => v,
    }
}
