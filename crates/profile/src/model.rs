//! What a profile says, checked and typed.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use ulna_arm_regs::SysReg;

/// How a value became known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// Read on the hardware at EL1 or EL2, or by Linux userspace: not through KVM.
    HwRaw,
    /// Read on the hardware through KVM: what a guest of that host and kernel gets.
    HwKvm,
    /// From a manual or another's CPU model; no board need report it.
    Model,
    /// Nobody has measured it; the source says what it was concluded from.
    Inferred,
    /// ours: a machine that exists in software only, like `max`.
    Defined,
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// How it became known.
    pub kind: Kind,
    /// File, table or reasoning.
    pub text: Arc<str>,
}

/// A register value and its source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegValue {
    /// What the register reads.
    pub value: u64,
    /// Where that is from.
    pub source: Source,
}

/// The kernel whose KVM rules apply: major and minor version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KernelLevel {
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
}

/// The generic counter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counter {
    /// CNTFRQ_EL0 as firmware sets it.
    pub hz: u64,
    /// Where that is from.
    pub source: Source,
}

/// The caches as the hardware reports them, in the order L1D, L1I, L2, L3.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cache {
    /// CCSIDR_EL1 of each (format without FEAT_CCIDX).
    pub ccsidr: Vec<u64>,
    /// Where that is from.
    pub source: Source,
}

/// The interrupt controller and ICH_VTR_EL2's fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gic {
    /// Architecture version of the host's controller: 2, 3 or 4.
    pub version: u8,
    /// Whether a guest may have a GICv2 (the controller is one, or is compatible with it).
    pub v2: bool,
    /// List registers.
    pub list_registers: u8,
    /// Priority bits of the virtual CPU interface (ICH_VTR_EL2.PRIbits + 1).
    pub priority_bits: u8,
    /// Interrupt id bits: 16 or 24.
    pub id_bits: u8,
    /// ICH_VTR_EL2.SEIS: local generation of SErrors.
    pub seis: bool,
    /// ICH_VTR_EL2.A3V: affinity 3 may be nonzero.
    pub a3v: bool,
    /// Where that is from.
    pub source: Source,
}

impl Gic {
    /// Whether a guest may have a GICv3.
    pub fn v3(&self) -> bool {
        self.version >= 3
    }
}

/// The performance monitors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pmu {
    /// Event counters besides the cycle counter (PMCR_EL0.N).
    pub counters: u8,
    /// PMCEID0_EL0 as the hardware has it.
    pub pmceid0: u64,
    /// PMCEID1_EL0 as the hardware has it.
    pub pmceid1: u64,
    /// Where that is from.
    pub source: Source,
}

/// Physical addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Largest IPA size of a VM (KVM_CAP_ARM_VM_IPA_SIZE).
    pub ipa_bits: u8,
    /// Where that is from.
    pub source: Source,
}

/// How a host stands to a speculative side channel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mitigation {
    /// Affected and not mitigated.
    Vulnerable,
    /// Affected and mitigated by firmware or kernel.
    Mitigated,
    /// Not affected.
    Unaffected,
}

/// What the host's kernel says about speculative side channels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mitigations {
    /// Spectre v2 (SMCCC_ARCH_WORKAROUND_1, CSV2).
    pub spectre_v2: Mitigation,
    /// Speculative store bypass (SMCCC_ARCH_WORKAROUND_2, SSBS).
    pub ssb: Mitigation,
    /// Spectre BHB (SMCCC_ARCH_WORKAROUND_3).
    pub spectre_bhb: Mitigation,
    /// Meltdown (CSV3).
    pub meltdown: Mitigation,
    /// Where that is from.
    pub source: Source,
}

/// The Scalable Vector Extension.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sve {
    /// Vector lengths in bits.
    pub lengths: Vec<u16>,
    /// Where that is from.
    pub source: Source,
}

/// Registers the architecture calls for but the machine lacks (emulated ones do).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Absent {
    /// An access to one of these is UNDEFINED.
    pub regs: BTreeSet<SysReg>,
    /// Where that is from.
    pub source: Source,
}

/// A register that the machine answers although its features do not call for it, or although KVM means to trap it:
/// implementation defined registers, and what slips through the traps of an emulated CPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extra {
    /// Packed encoding.
    pub code: u16,
    /// The exception level at which it is so.
    pub el: u8,
    /// What it reads.
    pub value: u64,
    /// Where that is from.
    pub source: Source,
}

/// A host: silicon, firmware and kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// Short name, as on the command line.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// The kernel whose KVM rules apply.
    pub kernel: KernelLevel,
    /// System registers the hardware has; those not listed are zero or follow from the rest.
    pub regs: BTreeMap<SysReg, RegValue>,
    /// The generic counter.
    pub counter: Counter,
    /// The caches.
    pub cache: Cache,
    /// The interrupt controller.
    pub gic: Gic,
    /// The performance monitors, if the hardware has them.
    pub pmu: Option<Pmu>,
    /// Physical addresses.
    pub memory: Memory,
    /// Speculative side channels.
    pub mitigations: Mitigations,
    /// Vector lengths, if the hardware has SVE.
    pub sve: Option<Sve>,
    /// Registers it lacks although its features call for them.
    pub absent: Option<Absent>,
    /// Registers it has beyond those.
    pub extra: Vec<Extra>,
}

impl Profile {
    /// The raw value of a register of the hardware; zero for those the profile does not name.
    pub fn reg(&self, r: SysReg) -> u64 {
        self.regs.get(&r).map_or(0, |v| v.value)
    }

    /// The registers nobody has measured, so that a verdict that rests on one can say so.
    pub fn inferred(&self) -> impl Iterator<Item = (SysReg, &RegValue)> {
        self.regs.iter().filter(|(_, v)| v.source.kind == Kind::Inferred).map(|(&r, v)| (r, v))
    }

    /// ICH_VTR_EL2 as its fields say: ListRegs, SEIS, A3V, IDbits, PREbits, PRIbits.
    pub fn ich_vtr(&self) -> u64 {
        let g = &self.gic;
        let pri = u64::from(g.priority_bits.clamp(1, 8) - 1);
        u64::from(g.list_registers.clamp(1, 16) - 1)
            | u64::from(g.a3v) << 21
            | u64::from(g.seis) << 22
            | u64::from(g.id_bits == 24) << 23
            | pri << 26
            | pri << 29
    }
}
