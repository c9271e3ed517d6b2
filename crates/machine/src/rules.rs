//! What a write of any register meets, whatever its group: the one answer that `kvm-core` obeys and `plan` predicts with.

use crate::catalog::{Core, Named, Sdei, WriteRule, name};
use crate::{CSSELR_MAX, Machine, Policy, VcpuFeatures};
use std::fmt;
use ulna_arm_regs::SysReg;
use ulna_arm_regs::row::Storage;
use ulna_kvm_abi::RegId;
use ulna_profile::Profile;
use ulna_vgic::{Affinity, CpuIdentity, Gic, GicConfig, GicError, IccReg, Version};

/// What a VMM decided about a VM before its vCPUs, as far as registers depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VmTraits {
    /// KVM_CAP_ARM_WRITABLE_IMP_ID_REGS was enabled: the VM has an identity of its own.
    pub identity: bool,
    /// SDEI was enabled.
    pub sdei: bool,
    /// Nothing that Linux has not: KVM of a real host, and strict mode.
    pub strict: bool,
}

/// A write that is refused, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The register.
    pub name: Named,
    /// The field, where one is to blame.
    pub field: Option<&'static str>,
    /// What was to be written: the field's value, or the register's.
    pub have: u128,
    /// What the machine offers.
    pub limit: u128,
    /// The rule; none where the machine has no such register.
    pub rule: Option<WriteRule>,
}

impl Refusal {
    pub(crate) fn new(name: Named, have: u128, limit: u128, rule: WriteRule) -> Refusal {
        Refusal { name, field: None, have, limit, rule: Some(rule) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(field) = self.field {
            write!(f, ".{field}")?;
        }
        match self.rule {
            None => f.write_str(": the machine has no such register"),
            Some(r) => {
                write!(f, " is {:#x} but the machine offers {:#x} ({})", self.have, self.limit, r.name())
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// Frequencies that a guest's counter can have under [`Policy::Soft`]: the architecture wants at least 1 MHz (Arm ARM
/// D12.1.1); Graviton3 counts at 1.05 GHz.
pub const FREQUENCIES: std::ops::RangeInclusive<u64> = 1_000_000..=0x3fff_ffff;

/// Registers of the VM that only the soft policy has; guests read them under both.
pub const CHOSEN: [SysReg; 4] =
    [SysReg::CNTFRQ_EL0, SysReg::DCZID_EL0, SysReg::PMCEID0_EL0, SysReg::PMCEID1_EL0];

/// PMCEID0_EL0's bits of events that no filter stops: SW_INCR and CHAIN.
const ALWAYS_COUNTED: u64 = 1 << 0x1e | 1;

/// Registers that say whose CPU it is.
pub const IDENTITY: [SysReg; 3] = [SysReg::MIDR_EL1, SysReg::REVIDR_EL1, SysReg::AIDR_EL1];

/// The interrupt controllers a host can give to its guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GicLimits {
    /// A GICv2.
    pub v2: bool,
    /// A GICv3.
    pub v3: bool,
    /// Priority bits.
    pub priority_bits: u8,
    /// Interrupt id bits: 16 or 24.
    pub id_bits: u8,
    /// ICC_CTLR_EL1.SEIS.
    pub seis: bool,
    /// ICC_CTLR_EL1.A3V.
    pub a3v: bool,
    /// All that is the VMM's choice, for a controller in software.
    pub chosen: bool,
}

impl GicLimits {
    /// Of the host's virtual CPU interface; one in software can be of either version.
    pub fn of(profile: &Profile, policy: Policy) -> GicLimits {
        let g = &profile.gic;
        let soft = policy == Policy::Soft;
        GicLimits {
            v2: g.v2 || soft,
            v3: g.v3() || soft,
            priority_bits: g.priority_bits.clamp(5, 7),
            id_bits: g.id_bits,
            seis: g.seis,
            a3v: g.a3v,
            chosen: soft,
        }
    }

    /// The most that ICC_CTLR_EL1 can say where it is chosen. What SEIS and A3V say costs a controller in software nothing.
    pub fn most_identity(&self) -> CpuIdentity {
        CpuIdentity { pri_bits: self.priority_bits, id_bits: self.id_bits, seis: true, a3v: true, rss: false }
    }

    /// The identity that a value of ICC_CTLR_EL1 gives where it is chosen; none if it cannot.
    pub fn identity(&self, ctlr: u64) -> Option<CpuIdentity> {
        let (new, most) = (CpuIdentity::from_ctlr(ctlr)?, self.most_identity());
        let fits = new.pri_bits <= most.pri_bits && new.id_bits <= most.id_bits && (most.rss || !new.rss);
        fits.then_some(new)
    }

    /// What a VMM's write of ICC_CTLR_EL1 does to a controller whose guest has not run.
    pub fn write_ctlr(&self, gic: &mut Gic, ctlr: u64) -> Result<(), GicError> {
        if self.chosen {
            gic.set_cpu_identity(self.identity(ctlr).ok_or(GicError::BadValue)?)?;
        }
        gic.user_sysreg_write(0, IccReg::Ctlr, ctlr)
    }

    /// A GIC within these limits.
    pub fn config(&self, version: Version, vcpus: Vec<Affinity>, lines: u32) -> GicConfig {
        let mut c = GicConfig::new(version, vcpus, lines);
        c.pri_bits = self.priority_bits;
        c.id_bits = self.id_bits;
        (c.seis, c.a3v) = (self.seis, self.a3v);
        c
    }
}

/// The ids of the timers in KVM_GET_REG_LIST: virtual control, count and compare value; physical ones. The physical
/// count has an id since Linux 6.4.
const TIMERS: [(u16, (u16, u16)); 6] = [
    (0xdf19, (0, 0)),
    (0xdf1a, (0, 0)),
    (0xdf02, (0, 0)),
    (0xdf11, (0, 0)),
    (0xdf01, (6, 4)),
    (0xdf12, (0, 0)),
];

impl Machine {
    /// KVM_GET_REG_LIST of a vCPU, in KVM's order, less the registers of SDEI, which depend on its features.
    pub fn ids(&self, vm: VmTraits) -> Vec<RegId> {
        let mut l: Vec<RegId> = (0..31).map(RegId::x).collect();
        l.extend([RegId::SP, RegId::PC, RegId::PSTATE, RegId::SP_EL1, RegId::ELR_EL1]);
        l.extend((0..5).map(RegId::spsr));
        l.extend((0..32).map(RegId::v));
        l.extend([RegId::FPSR, RegId::FPCR]);
        l.extend(crate::firmware::FIRMWARE.iter().filter(|r| self.has_firmware(r.reg, vm)).map(|r| r.id));
        l.extend(TIMERS.iter().filter(|t| self.kernel >= t.1).map(|t| RegId::sysreg(t.0)));
        l.extend(self.reg_list().into_iter().map(|r| RegId::sysreg(r.code())));
        l.extend((0..self.ccsidr_entries()).map(RegId::ccsidr));
        l
    }

    /// Whether the counter's frequency is the VM's own: a software CPU counts at any rate, hardware at one.
    pub fn own_frequency(&self, vm: VmTraits) -> bool {
        self.policy == Policy::Soft && !vm.strict
    }

    /// Whether a VM can have an identity of its own (KVM_CAP_ARM_WRITABLE_IMP_ID_REGS).
    pub fn offers_identity(&self, strict: bool) -> bool {
        offers_identity(self.kernel, self.policy, strict)
    }

    /// What a write of CNTFRQ_EL0 meets; guests read it whether or not a VMM can write it.
    pub fn check_frequency(&self, hz: u64, vm: VmTraits) -> Result<u64, Refusal> {
        let name = Named::Sys(SysReg::CNTFRQ_EL0);
        if hz == self.cntfrq_hz || self.own_frequency(vm) && FREQUENCIES.contains(&hz) {
            return Ok(hz);
        }
        let (limit, rule) = match self.own_frequency(vm) {
            true => (*FREQUENCIES.end(), WriteRule::Choice),
            false => (self.cntfrq_hz, WriteRule::Fixed),
        };
        Err(Refusal::new(name, hz.into(), limit.into(), rule))
    }

    /// Registers of the VM that only the soft policy has: the bits that may be changed, and the most they can say.
    pub fn chosen(&self, r: SysReg, vm: VmTraits) -> Option<(u64, u64)> {
        if !self.own_frequency(vm) {
            return None;
        }
        match r {
            SysReg::CNTFRQ_EL0 => Some((0x3fff_ffff, *FREQUENCIES.end())),
            SysReg::DCZID_EL0 => self.value(r).map(|limit| (0xf, limit)),
            SysReg::PMCEID0_EL0 => self.value(r).map(|limit| (limit & !ALWAYS_COUNTED, limit)),
            SysReg::PMCEID1_EL0 => self.value(r).map(|limit| (limit, limit)),
            _ => None,
        }
    }

    /// What a write of one of them meets. Where they are the hardware's, guests read what there is.
    pub fn check_chosen(&self, r: SysReg, v: u64, vm: VmTraits) -> Result<u64, Refusal> {
        if r == SysReg::CNTFRQ_EL0 {
            return self.check_frequency(v, vm);
        }
        let name = Named::Sys(r);
        let own = self.value(r).unwrap_or(0);
        let Some((mask, limit)) = self.chosen(r, vm) else {
            let refusal = || Refusal::new(name, v.into(), own.into(), WriteRule::Fixed);
            return if v == own { Ok(v) } else { Err(refusal()) };
        };
        let legal = match r {
            // The size of a block is a number, the rest are sets.
            SysReg::DCZID_EL0 => (v ^ limit) & !mask == 0 && v & mask <= limit & mask,
            _ => v & !limit == 0 && (v ^ limit) & !mask == 0,
        };
        if legal { Ok(v) } else { Err(Refusal::new(name, v.into(), limit.into(), WriteRule::Choice)) }
    }

    /// What a write of MIDR, REVIDR or AIDR meets in a VM with an identity of its own: bits that mean something.
    pub fn check_identity(&self, r: SysReg, v: u64) -> Result<u64, Refusal> {
        let mask = identity_mask(r).unwrap_or(0);
        let refusal = || Refusal::new(Named::Sys(r), v.into(), mask.into(), WriteRule::Open);
        if v & !mask == 0 { Ok(v) } else { Err(refusal()) }
    }

    /// What a write of a CCSIDR_EL1 meets: no line may be smaller than the host's smallest.
    pub fn check_ccsidr(&self, n: u16, v: u64) -> Result<u64, Refusal> {
        let own = self.ccsidr(n.into());
        let name = Named::Ccsidr(n);
        match self.ccsidr_writable() {
            false if v != own => Err(Refusal::new(name, v.into(), own.into(), WriteRule::Fixed)),
            true if v & 7 < own & 7 => Err(Refusal::new(name, v.into(), own.into(), WriteRule::LineSize)),
            _ => Ok(v & 0xffff_ffff),
        }
    }

    /// What a choice of SVE's vector lengths meets, as the bits of KVM_REG_ARM64_SVE_VLS (bit n: n + 1 times 128): up to
    /// the longest that is chosen, all that the host has and no others.
    pub fn check_sve_lengths(&self, chosen: u128) -> Result<(), Refusal> {
        let own = self.sve_lengths();
        let up_to = if chosen == 0 { 0 } else { u128::MAX >> chosen.leading_zeros() };
        if self.vcpu.contains(VcpuFeatures::SVE) && chosen != 0 && own & up_to == chosen {
            return Ok(());
        }
        Err(Refusal::new(Named::Vls, chosen, own, WriteRule::Choice))
    }

    /// The host's vector lengths in the same form, as far as they matter (up to 2048 bits).
    pub fn sve_lengths(&self) -> u128 {
        self.sve.iter().fold(0, |m, l| m | 1 << ((l / 128).clamp(1, 16) - 1))
    }

    /// What a write of any register of a VM that has not run meets: what is read afterwards, or why not. `ssbs` says
    /// whether the VM announces SSBS, on which a workaround's level depends. Z and P registers are not decided here.
    pub fn check(&self, n: Named, v: u128, vm: VmTraits, ssbs: bool) -> Result<u128, Refusal> {
        let w = v as u64;
        let none = || Err(Refusal { name: n, field: None, have: v, limit: 0, rule: None });
        let refuse = |limit: u64, rule| Err(Refusal::new(n, v, limit.into(), rule));
        match n {
            Named::Vls => self.check_sve_lengths(v).map(|()| v),
            Named::Core(Core::Pstate) if !pstate_ok(w) => refuse(5, WriteRule::Pstate),
            Named::Core(_) => Ok(v),
            Named::Timer(SysReg::CNTPCT_EL0) if self.kernel < (6, 4) => none(),
            Named::Timer(_) => Ok(v),
            Named::Ccsidr(i) if i >= self.ccsidr_entries().min(CSSELR_MAX) => none(),
            Named::Ccsidr(i) => self.check_ccsidr(i, w).map(u128::from),
            Named::Firmware(f) if !self.has_firmware(f, vm) => none(),
            Named::Firmware(f) => self.check_firmware(f, w, ssbs).map(u128::from),
            Named::Sdei(_) if !vm.sdei => none(),
            Named::Sdei(Sdei::Version) if !matches!(w, 0 | 0x1_0000 | 0x1_0001) => {
                refuse(0x1_0001, WriteRule::Choice)
            }
            Named::Sdei(_) => Ok(v),
            Named::Sys(r) if CHOSEN.contains(&r) => self.check_chosen(r, w, vm).map(u128::from),
            Named::Sys(r) if !self.listed(r) => none(),
            Named::Sys(r) if IDENTITY.contains(&r) && vm.identity => {
                self.check_identity(r, w).map(u128::from)
            }
            Named::Sys(SysReg::PMCR_EL0) => Ok(self.pmcr(w).into()),
            Named::Sys(r) => self.check_write(r, w).map(u128::from).map_err(|e| Refusal {
                name: n,
                // The levels of coherence in CLIDR_EL1 are judged together.
                field: e.field.filter(|_| r != SysReg::CLIDR_EL1),
                have: e.have.into(),
                limit: e.max.into(),
                rule: Some(self.write_rule(n).0),
            }),
            Named::Other(_) | Named::Z(..) | Named::P(..) => none(),
        }
    }

    /// PMCR_EL0 with the counters that a write of it before the first run leaves: no more than the machine has.
    fn pmcr(&self, v: u64) -> u64 {
        let n = v >> 11 & 31;
        if n <= self.pmu_counters().into() {
            v
        } else {
            v & !(31 << 11) | u64::from(self.pmu_counters()) << 11
        }
    }

    /// All that stands in the way of a write: every field of a feature-ID register, not only the first.
    pub fn refusals(&self, n: Named, v: u128, vm: VmTraits, ssbs: bool) -> Vec<Refusal> {
        let mut all = Vec::new();
        let mut value = v;
        while let Err(e) = self.check(n, value, vm, ssbs) {
            all.push(e);
            // Put right what was refused and ask again.
            let Named::Sys(r) = n else { break };
            let Some(f) = e.field.and_then(|name| ulna_arm_regs::IdReg::of(r)?.field(name)) else { break };
            let right = f.set(value as u64, f.raw(self.limit(r)));
            if u128::from(right) == value || all.len() > 64 {
                break;
            }
            value = right.into();
        }
        all
    }

    /// Whether a register belongs to the identity and feature state that is restored before memory: VM-scoped ones and
    /// each vCPU's caches. The rest is what the guest did.
    pub fn describes(&self, n: Named) -> bool {
        match n {
            Named::Sys(r) => {
                matches!(r.row().storage, Storage::Vm | Storage::Host)
                    || ulna_arm_regs::id::in_id_space(r)
                    || r == SysReg::CLIDR_EL1
            }
            Named::Firmware(_) | Named::Ccsidr(_) => true,
            Named::Sdei(s) => matches!(s, Sdei::Version | Sdei::Features),
            _ => false,
        }
    }
}

/// KVM_CAP_ARM_WRITABLE_IMP_ID_REGS is there: in later kernels, and in software that may go beyond.
pub fn offers_identity(kernel: (u16, u16), policy: Policy, strict: bool) -> bool {
    kernel >= crate::firmware::IMP_IDS_SINCE || policy == Policy::Soft && !strict
}

/// Bits of an implementation id that mean something: what may be written where it may be written at all.
pub fn identity_mask(r: SysReg) -> Option<u64> {
    match r {
        SysReg::MIDR_EL1 => Some(0xffff_ffff),
        _ => IDENTITY.contains(&r).then_some(u64::MAX),
    }
}

/// Only AArch64 EL0t, EL1t and EL1h.
pub fn pstate_ok(v: u64) -> bool {
    matches!(v as u32 & 0x1f, 0 | 4 | 5)
}

/// The name of an id that a machine lists.
pub fn named(id: RegId) -> Option<Named> {
    name(id).ok()
}
