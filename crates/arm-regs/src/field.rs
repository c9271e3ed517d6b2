//! The fields of registers other than the feature-ID ones, for people who read values: one block a register.
//!
//! Names and positions are the manual's (Arm ARM D24, GIC architecture 12.2). A family of registers laid out alike
//! (`DBGBCR0_EL1` to `DBGBCR15_EL1`) stands here once, under its first member.

use crate::id::IdReg;
use crate::row::{Access, Kvm, Reset, Storage, rows};
use crate::{SysReg, feature::Sign};
use core::fmt;

/// A field of a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// The manual's name.
    pub name: &'static str,
    /// Lowest bit.
    pub lsb: u8,
    /// Number of bits.
    pub width: u8,
    /// Whether it is to be read as two's complement.
    pub signed: bool,
}

impl Field {
    /// The bits of the field in place.
    pub const fn mask(&self) -> u64 {
        (if self.width >= 64 { u64::MAX } else { (1 << self.width) - 1 }) << self.lsb
    }

    /// The field of a register value.
    pub const fn get(&self, reg: u64) -> u64 {
        (reg & self.mask()) >> self.lsb
    }
}

/// The first register of the family that `r` belongs to, or `r` itself.
fn family(r: SysReg) -> SysReg {
    use SysReg as S;
    let e = r.encoding();
    if e.op0 == 2 && e.op1 == 0 && e.crn == 0 {
        return match e.op2 {
            4 => S::DBGBVR0_EL1,
            5 => S::DBGBCR0_EL1,
            6 => S::DBGWVR0_EL1,
            7 => S::DBGWCR0_EL1,
            _ => r,
        };
    }
    match r {
        _ if (S::PMEVTYPER0_EL0..=S::PMEVTYPER30_EL0).contains(&r) => S::PMEVTYPER0_EL0,
        S::SPSR_irq | S::SPSR_abt | S::SPSR_und | S::SPSR_fiq => S::SPSR_EL1,
        S::TTBR1_EL1 => S::TTBR0_EL1,
        S::CNTV_CTL_EL0 => S::CNTP_CTL_EL0,
        S::ICC_BPR1_EL1 => S::ICC_BPR0_EL1,
        S::ICC_IGRPEN1_EL1 => S::ICC_IGRPEN0_EL1,
        S::ICC_SGI0R_EL1 | S::ICC_ASGI1R_EL1 => S::ICC_SGI1R_EL1,
        S::ICC_IAR1_EL1
        | S::ICC_EOIR0_EL1
        | S::ICC_EOIR1_EL1
        | S::ICC_HPPIR0_EL1
        | S::ICC_HPPIR1_EL1
        | S::ICC_DIR_EL1 => S::ICC_IAR0_EL1,
        _ => r,
    }
}

impl SysReg {
    /// The fields of the register, highest first; empty if it is one number or has no names here.
    pub fn fields(self) -> Vec<Field> {
        if let Some(id) = IdReg::of(self) {
            let field = |f: &crate::IdField| Field {
                name: f.name,
                lsb: f.lsb,
                width: f.width,
                signed: f.sign == Sign::Signed,
            };
            return id.fields.iter().map(field).collect();
        }
        let first = family(self);
        FIELDS.iter().find(|(r, _)| *r == first).map_or_else(Vec::new, |(_, f)| f.to_vec())
    }

    /// The field with this name, in any case.
    pub fn field(self, name: &str) -> Option<Field> {
        self.fields().into_iter().find(|f| f.name.eq_ignore_ascii_case(name))
    }

    /// A value of the register by field name, for people: `EE=0 … M=1`, fields that are zero left out.
    pub fn describe(self, value: u64) -> String {
        let fields = self.fields();
        let named = fields.iter().fold(0, |m, f| m | f.mask());
        let mut parts: Vec<String> = fields
            .iter()
            .filter(|f| f.get(value) != 0)
            .map(|f| if f.width == 1 { f.name.to_owned() } else { format!("{}={:#x}", f.name, f.get(value)) })
            .collect();
        if value & !named != 0 {
            parts.push(format!("other={:#x}", value & !named));
        }
        parts.join(" ")
    }
}

/// The reference of all registers as Markdown, generated from the rows; the function says what a VMM may write, which is
/// not the rows' to know.
pub struct Reference<F>(pub F);

impl<F: Fn(SysReg) -> String> fmt::Display for Reference<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| register | op0,op1,CRn,CRm,op2 | guest | held by | reset | KVM | VMM | needs | fields |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        for r in rows() {
            let e = r.reg.encoding();
            let access = match r.access {
                Access::ReadWrite => "rw",
                Access::ReadOnly => "ro",
                Access::WriteOnly => "wo",
            };
            let storage = match r.storage {
                Storage::Cpu => "vCPU",
                Storage::Pmu => "vCPU (PMU)",
                Storage::Vm => "VM",
                Storage::Host => "machine",
                Storage::Gic => "GIC",
                Storage::Timer => "timer",
                Storage::Derived => "(derived)",
                Storage::Raz => "(RAZ/WI)",
                Storage::Undef => "(UNDEFINED)",
            };
            let reset = match r.reset {
                Reset::Value(v) => format!("{v:#x}"),
                Reset::Unknown => "UNKNOWN".to_owned(),
                Reset::Machine => "machine".to_owned(),
                Reset::Kept => "kept".to_owned(),
                Reset::Device => "-".to_owned(),
            };
            let kvm = match r.kvm {
                Kvm::None => "-".to_owned(),
                Kvm::Always => format!("{:#x}", r.reg.kvm_id()),
                k @ (Kvm::Core | Kvm::Timer | Kvm::Demux | Kvm::Vgic) => format!("{k:?}").to_lowercase(),
                k => format!("{:#x} if {}", r.reg.kvm_id(), format!("{k:?}").to_lowercase()),
            };
            let needs = r.needs.map_or_else(|| "-".to_owned(), |x| x.to_string());
            write!(f, "| {} | {},{},{},{},{} ", r.reg, e.op0, e.op1, e.crn, e.crm, e.op2)?;
            write!(
                f,
                "| {access} from EL{} | {storage} | {reset} | {kvm} | {} | {needs} |",
                r.el,
                (self.0)(r.reg)
            )?;
            for x in r.reg.fields() {
                match x.width {
                    1 => write!(f, " {}[{}]", x.name, x.lsb)?,
                    w => write!(f, " {}[{}:{}]", x.name, x.lsb + w - 1, x.lsb)?,
                }
            }
            writeln!(f, " |")?;
        }
        Ok(())
    }
}

macro_rules! bits {
    ($n:ident $hi:literal $lo:literal) => {
        Field { name: stringify!($n), lsb: $lo, width: $hi - $lo + 1, signed: false }
    };
    ($n:ident $b:literal) => {
        Field { name: stringify!($n), lsb: $b, width: 1, signed: false }
    };
}

macro_rules! fields {
    ($($reg:ident { $($n:ident $hi:literal $(: $lo:literal)?),+ $(,)? })+) => {
        static FIELDS: &[(SysReg, &[Field])] = &[$((SysReg::$reg, &[$(bits!($n $hi $($lo)?),)+]),)+];
    };
}

fields! {
    DBGBCR0_EL1 { BT 23:20, LBN 19:16, SSC 15:14, HMC 13, BAS 8:5, PMC 2:1, E 0 }
    DBGWCR0_EL1 { MASK 28:24, WT 20, LBN 19:16, SSC 15:14, HMC 13, BAS 12:5, LSC 4:3, PAC 2:1, E 0 }
    MDSCR_EL1 { EMBWE 32, TFO 31, RXfull 30, TXfull 29, RXO 27, TXU 26, INTdis 23:22, TDA 21, SC2 19, MDE 15, HDE 14,
        KDE 13, TDCC 12, ERR 6, SS 0 }
    MDCCINT_EL1 { RX 30, TX 29 }
    OSLAR_EL1 { OSLK 0 }
    OSLSR_EL1 { OSLM1 3, nTT 2, OSLK 1, OSLM0 0 }
    MIDR_EL1 { Implementer 31:24, Variant 23:20, Architecture 19:16, PartNum 15:4, Revision 3:0 }
    MPIDR_EL1 { Aff3 39:32, U 30, MT 24, Aff2 23:16, Aff1 15:8, Aff0 7:0 }
    SCTLR_EL1 { TIDCP 63, SPINTMASK 62, NMI 61, EnTP2 60, TCSO 59, TCSO0 58, EPAN 57, EnALS 56, EnAS0 55, EnASR 54,
        TME 53, TME0 52, TMT 51, TMT0 50, TWEDEL 49:46, TWEDEn 45, DSSBS 44, ATA 43, ATA0 42, TCF 41:40, TCF0 39:38,
        ITFSB 37, BT1 36, BT0 35, EnFPM 34, MSCEn 33, CMOW 32, EnIA 31, EnIB 30, LSMAOE 29, nTLSMD 28, EnDA 27,
        UCI 26, EE 25, E0E 24, SPAN 23, EIS 22, IESB 21, TSCXT 20, WXN 19, nTWE 18, nTWI 16, UCT 15, DZE 14, EnDB 13,
        I 12, EOS 11, EnRCTX 10, UMA 9, SED 8, ITD 7, nAA 6, CP15BEN 5, SA0 4, SA 3, C 2, A 1, M 0 }
    CPACR_EL1 { TCPAC 31, TAM 30, E0POE 29, TTA 28, SMEN 25:24, FPEN 21:20, ZEN 17:16 }
    TTBR0_EL1 { ASID 63:48, BADDR 47:1, CnP 0 }
    TCR_EL1 { MTX1 61, MTX0 60, DS 59, TCMA1 58, TCMA0 57, E0PD1 56, E0PD0 55, NFD1 54, NFD0 53, TBID1 52, TBID0 51,
        HWU162 50, HWU161 49, HWU160 48, HWU159 47, HWU062 46, HWU061 45, HWU060 44, HWU059 43, HPD1 42, HPD0 41,
        HD 40, HA 39, TBI1 38, TBI0 37, AS 36, IPS 34:32, TG1 31:30, SH1 29:28, ORGN1 27:26, IRGN1 25:24, EPD1 23,
        A1 22, T1SZ 21:16, TG0 15:14, SH0 13:12, ORGN0 11:10, IRGN0 9:8, EPD0 7, T0SZ 5:0 }
    SPSR_EL1 { N 31, Z 30, C 29, V 28, TCO 25, DIT 24, UAO 23, PAN 22, SS 21, IL 20, ALLINT 13, SSBS 12, BTYPE 11:10,
        D 9, A 8, I 7, F 6, M 4:0 }
    SPSel { SP 0 }
    CurrentEL { EL 3:2 }
    PAN { PAN 22 }
    UAO { UAO 23 }
    ICC_PMR_EL1 { Priority 7:0 }
    ESR_EL1 { ISS2 55:32, EC 31:26, IL 25, ISS 24:0 }
    PAR_EL1 { ATTR 63:56, PA 51:12, NSE 11, NS 9, SH 8:7, F 0 }
    MAIR_EL1 { Attr7 63:56, Attr6 55:48, Attr5 47:40, Attr4 39:32, Attr3 31:24, Attr2 23:16, Attr1 15:8, Attr0 7:0 }
    VBAR_EL1 { VBA 63:11 }
    ISR_EL1 { IS 10, FS 9, A 8, I 7, F 6 }
    DISR_EL1 { A 31, IDS 24, ISS 23:0 }
    ICC_IAR0_EL1 { INTID 23:0 }
    ICC_BPR0_EL1 { BinaryPoint 2:0 }
    ICC_RPR_EL1 { Priority 7:0 }
    ICC_SGI1R_EL1 { Aff3 55:48, RS 47:44, IRM 40, Aff2 39:32, INTID 27:24, Aff1 23:16, TargetList 15:0 }
    ICC_CTLR_EL1 { ExtRange 19, RSS 18, A3V 15, SEIS 14, IDbits 13:11, PRIbits 10:8, PMHE 6, EOImode 1, CBPR 0 }
    ICC_SRE_EL1 { DIB 2, DFB 1, SRE 0 }
    ICC_IGRPEN0_EL1 { Enable 0 }
    CONTEXTIDR_EL1 { PROCID 31:0 }
    CNTKCTL_EL1 { CNTPMASK 19, CNTVMASK 18, EVNTIS 17, EL0PTEN 9, EL0VTEN 8, EVNTI 7:4, EVNTDIR 3, EVNTEN 2,
        EL0VCTEN 1, EL0PCTEN 0 }
    CCSIDR_EL1 { NumSets 27:13, Associativity 12:3, LineSize 2:0 }
    CSSELR_EL1 { TnD 4, Level 3:1, InD 0 }
    DCZID_EL0 { DZP 4, BS 3:0 }
    NZCV { N 31, Z 30, C 29, V 28 }
    DAIF { D 9, A 8, I 7, F 6 }
    DIT { DIT 24 }
    SSBS { SSBS 12 }
    FPCR { AHP 26, DN 25, FZ 24, RMode 23:22, Stride 21:20, FZ16 19, Len 18:16, IDE 15, EBF 13, IXE 12, UFE 11, OFE 10,
        DZE 9, IOE 8, NEP 2, AH 1, FIZ 0 }
    FPSR { QC 27, IDC 7, IXC 4, UFC 3, OFC 2, DZC 1, IOC 0 }
    PMCR_EL0 { IMP 31:24, IDCODE 23:16, N 15:11, FZO 9, LP 7, LC 6, DP 5, X 4, D 3, C 2, P 1, E 0 }
    PMSELR_EL0 { SEL 4:0 }
    PMUSERENR_EL0 { TID 6, IR 5, UEN 4, ER 3, CR 2, SW 1, EN 0 }
    PMEVTYPER0_EL0 { P 31, U 30, NSK 29, NSU 28, NSH 27, M 26, MT 25, SH 24, T 23, RLK 22, RLU 21, RLH 20,
        evtCount 15:0 }
    PMCCFILTR_EL0 { P 31, U 30, NSK 29, NSU 28, NSH 27, M 26, SH 24, T 23, RLK 22, RLU 21, RLH 20 }
    CNTFRQ_EL0 { ClockFreq 31:0 }
    CNTP_CTL_EL0 { ISTATUS 2, IMASK 1, ENABLE 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_go_down_and_do_not_overlap() {
        for (r, fields) in FIELDS {
            let mut below = 64;
            for f in *fields {
                assert!(f.lsb + f.width <= below, "{r}.{}", f.name);
                below = f.lsb;
            }
            assert_eq!(family(*r), *r, "{r} is not the first of its family");
            assert!(IdReg::of(*r).is_none());
        }
    }

    #[test]
    fn families_share_their_fields() {
        assert_eq!(SysReg::DBGBCR15_EL1.fields(), SysReg::DBGBCR0_EL1.fields());
        assert_eq!(SysReg::PMEVTYPER30_EL0.field("NSH").unwrap().lsb, 27);
        assert_eq!(SysReg::OSECCR_EL1.fields(), []);
        assert_eq!(SysReg::DBGWVR6_EL1.fields(), []);
        assert_eq!(SysReg::ID_AA64PFR0_EL1.field("gic").unwrap().get(0x100_0000), 1);
    }

    #[test]
    fn values_are_described_by_name() {
        let s = SysReg::SCTLR_EL1.describe(0x00c5_0079);
        assert_eq!(s, "SPAN EIS nTWE nTWI nAA CP15BEN SA0 SA M");
        assert_eq!(SysReg::MPIDR_EL1.describe(0x8000_0102), "Aff1=0x1 Aff0=0x2 other=0x80000000");
        assert_eq!(SysReg::ESR_EL1.describe(0x5600_0000), "EC=0x15 IL");
    }

    #[test]
    fn the_reference_has_a_line_for_every_register() {
        let text = Reference(|_| "vcpu, open".to_owned()).to_string();
        assert_eq!(text.lines().count(), SysReg::COUNT + 2);
        assert!(text.contains(
            "| SCTLR_EL1 | 3,0,1,0,0 | rw from EL1 | vCPU | 0xc50078 | 0x603000000013c080 | vcpu, open | - | TIDCP[63]"
        ));
    }
}
