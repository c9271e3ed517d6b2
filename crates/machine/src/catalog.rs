//! Every register id of KVM_GET_ONE_REG by name, and what a VMM may do with it (kvm-arm64-abi.md §4-§8).
//!
//! Ids of other groups than system registers are named here; system registers by their rows.

use std::fmt;

use ulna_arm_regs::id::{IdReg, in_id_space};
use ulna_arm_regs::row::{Kvm, Storage};
use ulna_arm_regs::{Encoding, Feat, SysReg};
use ulna_kvm_abi::RegId;
use ulna_kvm_abi::reg::{
    ARM64, GROUP_CORE, GROUP_DEMUX, GROUP_FW, GROUP_FW_FEAT, GROUP_SDEI, GROUP_SVE, GROUP_SYSREG,
};

use crate::Machine;

/// What an id names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    /// A field of `struct kvm_regs`.
    Core(Core),
    /// A system register under its own encoding.
    Sys(SysReg),
    /// A system register that has no row, by its encoding.
    Other(u16),
    /// A timer register; the ids of CNTVCT and CNTV_CVAL are exchanged.
    Timer(SysReg),
    /// CCSIDR_EL1 for a value of CSSELR_EL1.
    Ccsidr(u16),
    /// A firmware pseudo-register.
    Firmware(Firmware),
    /// Z0-Z31: a slice.
    Z(u16, u16),
    /// P0-P15, FFR (16): a slice.
    P(u16, u16),
    /// The set of SVE vector lengths.
    Vls,
    /// A register of SDEI, which only ulna has.
    Sdei(Sdei),
}

/// Registers of SDEI, in VMs where the capability 0x554C0002 is enabled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sdei {
    /// The version that the guest sees.
    Version,
    /// What of the service the guest has.
    Features,
    /// What the PE stands at.
    Pe,
    /// A private event, by slot.
    Event(u16),
    /// A shared event.
    Shared(u16),
    /// What a handler of normal (0) or critical (1) priority interrupted.
    Context(u16),
}

/// Core registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Core {
    /// x0-x30.
    X(u16),
    /// SP_EL0.
    SpEl0,
    /// PC.
    Pc,
    /// PSTATE, as in SPSR.
    Pstate,
    /// SP_EL1.
    SpEl1,
    /// ELR_EL1, SPSR_EL1 and the AArch32 SPSRs.
    Sys(SysReg),
    /// v0-v31.
    V(u16),
    /// FPSR.
    Fpsr,
    /// FPCR.
    Fpcr,
}

/// Firmware pseudo-registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Firmware {
    /// KVM_REG_ARM_PSCI_VERSION.
    PsciVersion,
    /// KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1, 2, 3.
    Workaround(u8),
    /// KVM_REG_ARM_STD_BMAP.
    StdBmap,
    /// KVM_REG_ARM_STD_HYP_BMAP.
    StdHypBmap,
    /// KVM_REG_ARM_VENDOR_HYP_BMAP.
    VendorHypBmap,
    /// KVM_REG_ARM_VENDOR_HYP_BMAP_2 (Linux 6.15).
    VendorHypBmap2,
}

/// Why an id names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadId {
    /// Bits 63:56 are not KVM_REG_ARM64.
    NotArm64,
    /// Bits that mean nothing are set.
    StrayBits(u64),
    /// Bits 27:16 are no group.
    NoGroup(u16),
    /// The size of the id is not that of the group's registers.
    Size,
    /// The group has no such register.
    NoRegister,
}

impl fmt::Display for BadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadId::NotArm64 => f.write_str("bits 63:56 are not 0x60, KVM's arm64"),
            BadId::StrayBits(b) => write!(f, "bits {b:#x} mean nothing"),
            BadId::NoGroup(g) => write!(f, "there is no group {g:#x} (bits 27:16)"),
            BadId::Size => f.write_str("the size (bits 55:52) is not that of this register"),
            BadId::NoRegister => f.write_str("the group has no such register"),
        }
    }
}

impl std::error::Error for BadId {}

/// One value per VM, or one per vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All vCPUs of the VM share it, although it is read through one.
    Vm,
    /// The vCPU's own.
    Vcpu,
}

/// What a VMM may write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteRule {
    /// Anything.
    Open,
    /// Anything, less the bits outside the writable mask, which are dropped.
    Masked,
    /// Only what it reads already.
    Fixed,
    /// Writes are ignored.
    Ignored,
    /// Lower than the limit, field by field, until the VM has run; then only what it reads already.
    Limit,
    /// A subset of the offered bits until the VM has run; then only what it reads already.
    Bitmap,
    /// A level that the host reaches; nothing is stored.
    HostLevel,
    /// One of a few values.
    Choice,
    /// A mode of execution that the vCPU has.
    Pstate,
    /// A line size no smaller than the host's smallest.
    LineSize,
    /// Moves the VM's counter offset, unless that was set by KVM_ARM_SET_COUNTER_OFFSET.
    CounterOffset,
    /// Sets the bits that are ones; the rest stay.
    SetBits,
    /// Clears the bits that are ones; the rest stay.
    ClearBits,
    /// PMCR_EL0: its mask, and no more counters (N) than the machine has, until the VM has run.
    Counters,
}

impl WriteRule {
    /// The rule in a word or two.
    pub const fn name(self) -> &'static str {
        match self {
            WriteRule::Open => "open",
            WriteRule::Masked => "mask",
            WriteRule::Fixed => "fixed",
            WriteRule::Ignored => "ignored",
            WriteRule::Limit => "limit, frozen",
            WriteRule::Bitmap => "bitmap, frozen",
            WriteRule::HostLevel => "host level",
            WriteRule::Choice => "choice",
            WriteRule::Pstate => "mode",
            WriteRule::LineSize => "line size",
            WriteRule::CounterOffset => "counter offset",
            WriteRule::SetBits => "sets bits",
            WriteRule::ClearBits => "clears bits",
            WriteRule::Counters => "mask, counters",
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Named::Core(c) => match c {
                Core::X(n) => write!(f, "X{n}"),
                Core::SpEl0 => f.write_str("SP_EL0"),
                Core::Pc => f.write_str("PC"),
                Core::Pstate => f.write_str("PSTATE"),
                Core::SpEl1 => f.write_str("SP_EL1"),
                Core::Sys(r) => write!(f, "{r}"),
                Core::V(n) => write!(f, "V{n}"),
                Core::Fpsr => f.write_str("FPSR"),
                Core::Fpcr => f.write_str("FPCR"),
            },
            Named::Sys(r) | Named::Timer(r) => write!(f, "{r}"),
            // The name that assemblers take (Arm ARM D23.1.1).
            Named::Other(code) => {
                let e = Encoding::from_code(code);
                write!(f, "S{}_{}_C{}_C{}_{}", e.op0, e.op1, e.crn, e.crm, e.op2)
            }
            Named::Ccsidr(n) => write!(f, "CCSIDR_EL1[{n}]"),
            Named::Firmware(w) => match w {
                Firmware::PsciVersion => f.write_str("PSCI_VERSION"),
                Firmware::Workaround(n) => write!(f, "SMCCC_ARCH_WORKAROUND_{n}"),
                Firmware::StdBmap => f.write_str("STD_BMAP"),
                Firmware::StdHypBmap => f.write_str("STD_HYP_BMAP"),
                Firmware::VendorHypBmap => f.write_str("VENDOR_HYP_BMAP"),
                Firmware::VendorHypBmap2 => f.write_str("VENDOR_HYP_BMAP_2"),
            },
            Named::Z(n, 0) => write!(f, "Z{n}"),
            Named::Z(n, slice) => write!(f, "Z{n} slice {slice}"),
            Named::P(16, 0) => f.write_str("FFR"),
            Named::P(16, slice) => write!(f, "FFR slice {slice}"),
            Named::P(n, 0) => write!(f, "P{n}"),
            Named::P(n, slice) => write!(f, "P{n} slice {slice}"),
            Named::Vls => f.write_str("SVE_VLS"),
            Named::Sdei(s) => match s {
                Sdei::Version => f.write_str("SDEI_VERSION"),
                Sdei::Features => f.write_str("SDEI_FEATURES"),
                Sdei::Pe => f.write_str("SDEI_PE"),
                Sdei::Event(n) => write!(f, "SDEI_EVENT[{n}]"),
                Sdei::Shared(n) => write!(f, "SDEI_SHARED[{n}]"),
                Sdei::Context(0) => f.write_str("SDEI_CTX_NORMAL"),
                Sdei::Context(_) => f.write_str("SDEI_CTX_CRITICAL"),
            },
        }
    }
}

/// Bits of an id that mean nothing.
const STRAY: u64 = 0x000f_ffff_f000_0000;

/// What `id` names.
pub fn name(id: RegId) -> Result<Named, BadId> {
    if id.0 >> 56 != ARM64 >> 56 {
        return Err(BadId::NotArm64);
    }
    if id.0 & STRAY != 0 {
        return Err(BadId::StrayBits(id.0 & STRAY));
    }
    let (i, size) = (id.index(), id.size());
    let sized = |want: usize, n: Named| if size == want { Ok(n) } else { Err(BadId::Size) };
    match id.group() {
        GROUP_CORE => {
            let (want, c) = core(i).ok_or(BadId::NoRegister)?;
            sized(want, Named::Core(c))
        }
        GROUP_DEMUX if i < 14 => sized(4, Named::Ccsidr(i)),
        GROUP_SYSREG => sized(8, sysreg(i)),
        GROUP_FW if i < 4 => sized(
            8,
            Named::Firmware(if i == 0 { Firmware::PsciVersion } else { Firmware::Workaround(i as u8) }),
        ),
        GROUP_FW_FEAT if i < 4 => sized(
            8,
            Named::Firmware(match i {
                0 => Firmware::StdBmap,
                1 => Firmware::StdHypBmap,
                2 => Firmware::VendorHypBmap,
                _ => Firmware::VendorHypBmap2,
            }),
        ),
        GROUP_SVE => match i {
            0..0x400 => sized(256, Named::Z(i >> 5, i & 31)),
            0x400..0x620 => sized(32, Named::P((i - 0x400) >> 5, i & 31)),
            0xffff => sized(64, Named::Vls),
            _ => Err(BadId::NoRegister),
        },
        GROUP_SDEI => {
            let (want, s) = sdei(i).ok_or(BadId::NoRegister)?;
            sized(want, Named::Sdei(s))
        }
        GROUP_DEMUX | GROUP_FW | GROUP_FW_FEAT => Err(BadId::NoRegister),
        g => Err(BadId::NoGroup((g >> 16) as u16)),
    }
}

/// The id of a register by its name, in any case; of system registers also of those that KVM does not list.
pub fn id_of(text: &str) -> Option<RegId> {
    let base = RegId::x(0).0 & !0xffff;
    let core = (0..216)
        .filter_map(|i| core(i).map(|(size, _)| base & !(0xf << 52) | size_bits(size) | u64::from(i)));
    let others = (0..14).map(RegId::ccsidr).chain((0..4).map(RegId::fw)).chain((0..4).map(RegId::fw_feat));
    let timers = TIMERS.iter().map(|t| RegId::sysreg(t.0));
    let sdei = (0..0x300)
        .filter_map(|i| sdei(i).map(|(size, _)| RegId(ARM64 | GROUP_SDEI | size_bits(size) | u64::from(i))));
    let listed = core.map(RegId).chain(others).chain(timers).chain(sdei);
    let matches = |id: &RegId| name(*id).is_ok_and(|n| n.to_string().eq_ignore_ascii_case(text));
    listed.into_iter().find(matches).or_else(|| {
        let r = SysReg::ALL.iter().find(|r| r.to_string().eq_ignore_ascii_case(text))?;
        Some(RegId(r.kvm_id()))
    })
}

/// A register of SDEI by its index, with its size in bytes.
fn sdei(i: u16) -> Option<(usize, Sdei)> {
    Some(match i {
        0 => (8, Sdei::Version),
        1 => (8, Sdei::Features),
        2 => (8, Sdei::Pe),
        0x10 | 0x11 => (256, Sdei::Context(i - 0x10)),
        // Slot 2 is nobody's.
        0x100 | 0x101 | 0x110..0x200 => (64, Sdei::Event(i - 0x100)),
        0x200..0x300 => (64, Sdei::Shared(i - 0x200)),
        _ => return None,
    })
}

/// The size field of an id.
fn size_bits(bytes: usize) -> u64 {
    u64::from(bytes.trailing_zeros()) << 52
}

/// A core register by its offset in words, with its size in bytes.
fn core(i: u16) -> Option<(usize, Core)> {
    let even = i.is_multiple_of(2);
    Some(match i {
        0..=61 if even => (8, Core::X(i / 2)),
        62 => (8, Core::SpEl0),
        64 => (8, Core::Pc),
        66 => (8, Core::Pstate),
        68 => (8, Core::SpEl1),
        70 => (8, Core::Sys(SysReg::ELR_EL1)),
        72 => (8, Core::Sys(SysReg::SPSR_EL1)),
        74 => (8, Core::Sys(SysReg::SPSR_abt)),
        76 => (8, Core::Sys(SysReg::SPSR_und)),
        78 => (8, Core::Sys(SysReg::SPSR_irq)),
        80 => (8, Core::Sys(SysReg::SPSR_fiq)),
        84..=211 if i.is_multiple_of(4) => (16, Core::V((i - 84) / 4)),
        212 => (4, Core::Fpsr),
        213 => (4, Core::Fpcr),
        _ => return None,
    })
}

/// The timers' ids, two of them exchanged for history's sake (kvm-arm64-abi.md §5.3).
const TIMERS: [(u16, SysReg); 6] = [
    (0xdf19, SysReg::CNTV_CTL_EL0),
    (0xdf1a, SysReg::CNTVCT_EL0),
    (0xdf02, SysReg::CNTV_CVAL_EL0),
    (0xdf11, SysReg::CNTP_CTL_EL0),
    (0xdf01, SysReg::CNTPCT_EL0),
    (0xdf12, SysReg::CNTP_CVAL_EL0),
];

fn sysreg(code: u16) -> Named {
    if let Some((_, r)) = TIMERS.iter().find(|t| t.0 == code) {
        return Named::Timer(*r);
    }
    SysReg::from_code(code).map_or(Named::Other(code), Named::Sys)
}

impl Named {
    /// The system register whose fields explain a value of it.
    pub fn sysreg(self) -> Option<SysReg> {
        match self {
            Named::Sys(r) | Named::Timer(r) | Named::Core(Core::Sys(r)) => Some(r),
            Named::Core(Core::Pstate) => Some(SysReg::SPSR_EL1),
            Named::Core(Core::Fpsr) => Some(SysReg::FPSR),
            Named::Core(Core::Fpcr) => Some(SysReg::FPCR),
            Named::Ccsidr(_) => Some(SysReg::CCSIDR_EL1),
            _ => None,
        }
    }

    /// Whose value it is.
    pub fn scope(self) -> Scope {
        let vm = match self {
            Named::Sys(r) => r.row().storage == Storage::Vm || in_id_space(r),
            Named::Timer(r) => matches!(r, SysReg::CNTVCT_EL0 | SysReg::CNTPCT_EL0),
            Named::Firmware(_) => true,
            Named::Sdei(s) => matches!(s, Sdei::Version | Sdei::Features | Sdei::Shared(_)),
            _ => false,
        };
        if vm { Scope::Vm } else { Scope::Vcpu }
    }

    /// What else is worth knowing about its id.
    pub fn note(self) -> Option<String> {
        let shown = |how: &str| Some(format!("KVM shows it {how}"));
        match self {
            Named::Other(_) => Some("not in the table of registers".into()),
            Named::Timer(r) => {
                let (code, _) = TIMERS.iter().find(|t| t.1 == r)?;
                let other = SysReg::from_code(*code).filter(|o| *o != r)?;
                Some(format!("the id has the encoding of {other}"))
            }
            Named::Ccsidr(n) => Some(format!(
                "level {}, {}",
                n / 2 + 1,
                if n & 1 == 1 { "instructions" } else { "data or unified" }
            )),
            Named::Sys(r) => match r.row().kvm {
                Kvm::Core => shown("as a core register only"),
                Kvm::Timer => shown("as a timer register only"),
                Kvm::Demux => shown("by cache only"),
                Kvm::Vgic => shown("as an attribute of the GICv3 only"),
                Kvm::None => Some("KVM does not show it".into()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Why a vCPU has it: the feature of VCPU_INIT or of the architecture, or nothing when all have it.
    pub fn introduced_by(self) -> String {
        let feat = |f: Option<Feat>| f.map_or_else(|| "-".into(), |f| f.to_string());
        match self {
            Named::Sys(r) => match r.row().kvm {
                Kvm::Pmu => "KVM_ARM_VCPU_PMU_V3".into(),
                Kvm::Pauth => "KVM_ARM_VCPU_PTRAUTH".into(),
                Kvm::Sve => "KVM_ARM_VCPU_SVE".into(),
                Kvm::Mte => "KVM_CAP_ARM_MTE".into(),
                Kvm::Poe => "ID_AA64MMFR3_EL1.S1POE".into(),
                Kvm::Fpmr => "ID_AA64PFR2_EL1.FPMR".into(),
                _ => match r.first_shown() {
                    Some((major, minor)) => format!("Linux {major}.{minor}"),
                    None => feat(r.row().needs),
                },
            },
            Named::Z(..) | Named::P(..) | Named::Vls => "KVM_ARM_VCPU_SVE".into(),
            Named::Firmware(Firmware::PsciVersion) => "KVM_CAP_ARM_PSCI".into(),
            Named::Firmware(Firmware::VendorHypBmap2) => "Linux 6.15".into(),
            Named::Firmware(_) => "SMCCC 1.1".into(),
            Named::Sdei(_) => "ulna: capability 0x554c0002".into(),
            _ => "-".into(),
        }
    }
}

/// CNTx_CTL_EL0: what a write keeps; ISTATUS is computed.
const TIMER_CTL: u64 = 0xffff_fffb;

/// PMCR_EL0: E, P, C, D, X, DP, LP, and N.
const PMCR: u64 = 0xbf | 31 << 11;

impl Machine {
    /// What a VMM may write to `n`, and the bits that may differ from what it reads first.
    pub fn write_rule(&self, n: Named) -> (WriteRule, u128) {
        let all = u128::from(u64::MAX);
        match n {
            Named::Core(Core::Pstate) => (WriteRule::Pstate, all),
            Named::Core(Core::V(_)) => (WriteRule::Open, u128::MAX),
            Named::Core(Core::Fpsr | Core::Fpcr) => (WriteRule::Open, u32::MAX.into()),
            Named::Timer(SysReg::CNTVCT_EL0 | SysReg::CNTPCT_EL0) => (WriteRule::CounterOffset, all),
            Named::Timer(SysReg::CNTV_CTL_EL0 | SysReg::CNTP_CTL_EL0) => {
                (WriteRule::Masked, TIMER_CTL.into())
            }
            Named::Other(_) => (WriteRule::Fixed, 0),
            Named::Core(_) | Named::Timer(_) | Named::Z(..) | Named::P(..) => (WriteRule::Open, all),
            Named::Ccsidr(_) => (WriteRule::LineSize, u32::MAX.into()),
            Named::Firmware(Firmware::PsciVersion) => (WriteRule::Choice, 0xffff_ffff),
            Named::Firmware(Firmware::Workaround(_)) => (WriteRule::HostLevel, 0),
            Named::Firmware(_) => (WriteRule::Bitmap, all),
            // Until the VM has run.
            Named::Sdei(Sdei::Version | Sdei::Features) => (WriteRule::Choice, all),
            Named::Sdei(_) => (WriteRule::Open, all),
            Named::Vls => (WriteRule::Choice, all),
            Named::Sys(r) => self.sysreg_rule(r),
        }
    }

    /// From what the setter itself accepts.
    fn sysreg_rule(&self, r: SysReg) -> (WriteRule, u128) {
        if let Some(rule) = self.own_rule(r) {
            return rule;
        }
        let id_space = IdReg::of(r).is_some() || in_id_space(r);
        let first = self.value(r);
        let Some(v) = first else { return (WriteRule::Open, u64::MAX.into()) };
        let accepted = |b: u32| self.check_write(r, v ^ 1 << b);
        let taken = (0..64).any(|b| accepted(b).is_ok());
        let mask = if id_space { self.writable_mask(r) } else { 0 };
        match (mask != 0, taken) {
            (true, _) => (WriteRule::Limit, mask.into()),
            (false, true) if id_space => (WriteRule::Ignored, 0),
            (false, true) => (WriteRule::Open, u64::MAX.into()),
            (false, false) => (WriteRule::Fixed, 0),
        }
    }

    /// Registers with rules of their own.
    fn own_rule(&self, r: SysReg) -> Option<(WriteRule, u128)> {
        use SysReg as S;
        let counters = u128::from(self.pmu_counter_mask());
        let event_counter = (r as usize).wrapping_sub(S::PMEVCNTR0_EL0 as usize) < 31;
        Some(match r {
            S::PMCNTENSET_EL0 | S::PMINTENSET_EL1 | S::PMOVSSET_EL0 => (WriteRule::SetBits, counters),
            S::PMCNTENCLR_EL0 | S::PMINTENCLR_EL1 | S::PMOVSCLR_EL0 => (WriteRule::ClearBits, counters),
            S::PMSWINC_EL0 => (WriteRule::Ignored, 0),
            S::PMCR_EL0 => (WriteRule::Counters, PMCR.into()),
            _ if event_counter && !self.features().has(Feat::PMUv3p5) => (WriteRule::Masked, u32::MAX.into()),
            // Only the lock itself (OSLK) may differ from what says that there is one.
            S::OSLSR_EL1 => (WriteRule::Choice, 1 << 1),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Policy, VcpuFeatures};
    use ulna_profile::Profile;

    #[test]
    fn ids_have_the_names_of_the_reference() {
        for (id, want) in [
            (0x6030_0000_0010_0000, "X0"),
            (0x6030_0000_0010_003c, "X30"),
            (0x6030_0000_0010_003e, "SP_EL0"),
            (0x6030_0000_0010_0040, "PC"),
            (0x6030_0000_0010_0050, "SPSR_fiq"),
            (0x6040_0000_0010_0058, "V1"),
            (0x6020_0000_0010_00d5, "FPCR"),
            (0x6030_0000_0013_c000, "MIDR_EL1"),
            (0x6030_0000_0013_df1a, "CNTVCT_EL0"),
            (0x6030_0000_0013_df02, "CNTV_CVAL_EL0"),
            (0x6020_0000_0011_0003, "CCSIDR_EL1[3]"),
            (0x6030_0000_0014_0000, "PSCI_VERSION"),
            (0x6030_0000_0014_0003, "SMCCC_ARCH_WORKAROUND_3"),
            (0x6030_0000_0016_0002, "VENDOR_HYP_BMAP"),
            (0x6030_0000_0016_0003, "VENDOR_HYP_BMAP_2"),
            (0x6030_0000_0013_ffff, "S3_7_C15_C15_7"),
            (0x6080_0000_0015_0020, "Z1"),
            (0x6050_0000_0015_0600, "FFR"),
            (0x6060_0000_0015_ffff, "SVE_VLS"),
        ] {
            assert_eq!(name(RegId(id)).map(|n| n.to_string()), Ok(want.to_owned()), "{id:#x}");
        }
    }

    #[test]
    fn names_lead_back_to_ids() {
        for (text, id) in [
            ("pc", RegId::PC),
            ("X30", RegId::x(30)),
            ("v31", RegId::v(31)),
            ("fpcr", RegId::FPCR),
            ("CNTVCT_EL0", RegId::sysreg(0xdf1a)),
            ("midr_el1", RegId::sysreg(0xc000)),
            ("STD_BMAP", RegId::fw_feat(0)),
            ("CCSIDR_EL1[13]", RegId::ccsidr(13)),
        ] {
            assert_eq!(id_of(text), Some(id), "{text}");
        }
        assert_eq!(id_of("X31"), None);
        for &r in SysReg::ALL {
            let id = id_of(r.name()).unwrap();
            assert_eq!(name(id).unwrap().to_string(), r.name());
        }
    }

    #[test]
    fn notes_and_origins_come_from_the_rows() {
        let of = |text: &str| name(id_of(text).unwrap()).unwrap();
        assert_eq!(of("CNTVCT_EL0").note().unwrap(), "the id has the encoding of CNTV_CVAL_EL0");
        assert_eq!(of("CNTV_CTL_EL0").note(), None);
        assert_eq!(of("CCSIDR_EL1[3]").note().unwrap(), "level 2, instructions");
        assert!(of("ICC_PMR_EL1").note().unwrap().contains("GICv3"));
        assert_eq!(of("OSLSR_EL1").introduced_by(), "Linux 5.18");
        assert_eq!(of("PMCR_EL0").introduced_by(), "KVM_ARM_VCPU_PMU_V3");
        assert_eq!(of("SCTLR_EL1").introduced_by(), "-");
    }

    #[test]
    fn ids_that_name_nothing_say_why() {
        for (id, want) in [
            (0x4030_0000_0010_0000, BadId::NotArm64),
            (0x6030_0001_0010_0000, BadId::StrayBits(1 << 32)),
            (0x6030_0000_1010_0000, BadId::StrayBits(1 << 28)),
            (0x6030_0000_0012_0000, BadId::NoGroup(0x12)),
            (0x6020_0000_0010_0000, BadId::Size),
            (0x6030_0000_0010_0001, BadId::NoRegister),
            (0x6020_0000_0011_000e, BadId::NoRegister),
            (0x6020_0000_0013_c000, BadId::Size),
        ] {
            assert_eq!(name(RegId(id)), Err(want), "{id:#x}");
        }
    }

    #[test]
    fn rules_are_those_of_the_setter() {
        let p = Profile::builtin("neoverse-n1").or_else(|_| Profile::builtin("n1")).unwrap();
        let m = Machine::new(&p, Policy::Hw, VcpuFeatures::PSCI_0_2);
        let rule = |r| m.write_rule(Named::Sys(r));
        assert_eq!(rule(SysReg::MIDR_EL1), (WriteRule::Fixed, 0));
        assert_eq!(rule(SysReg::TTBR0_EL1), (WriteRule::Open, u64::MAX.into()));
        let (r, mask) = rule(SysReg::ID_AA64ISAR0_EL1);
        assert_eq!(r, WriteRule::Limit);
        // The atomics may be taken away.
        assert_eq!(mask >> 20 & 0xf, 0xf);
    }
}
