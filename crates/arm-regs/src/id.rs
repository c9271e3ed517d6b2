//! The fields of the feature-ID registers and what KVM does with each, one line a field.
//!
//! Field positions are the manual's (Arm ARM D24). The words behind a field say how Linux 6.12's KVM treats it:
//!
//! * `lower`, `lower_signed`: shown to guests; may be written lower than the limit where the mask allows it;
//! * `higher`: the same, but more is safer (SpecSEI);
//! * `exact`: may only be the limit or zero;
//! * `hidden`: the kernel's table does not know the field, so it is zero for every guest.
//!
//! The mask is what KVM_ARM_GET_REG_WRITABLE_MASKS answers (kvm-arm64-abi.md §8.3); bits of it that no shown
//! field covers are fields the kernel's table forgot to exclude: they stay pinned to the limit.

use crate::SysReg;
use crate::feature::Sign;

/// Which other values than the limit a field may be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Safe {
    /// Anything up to the limit.
    Lower,
    /// The limit, or zero.
    Exact,
    /// The limit, or anything above.
    Higher,
}

/// One field of a feature-ID register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdField {
    /// The manual's name.
    pub name: &'static str,
    /// Lowest bit.
    pub lsb: u8,
    /// Number of bits.
    pub width: u8,
    /// How to read the number.
    pub sign: Sign,
    /// What a VMM may lower it to, where the mask allows.
    pub safe: Safe,
    /// Whether KVM shows it at all.
    pub shown: bool,
}

impl IdField {
    /// The bits of the field in place.
    pub const fn mask(&self) -> u64 {
        (if self.width >= 64 { u64::MAX } else { (1 << self.width) - 1 }) << self.lsb
    }

    /// The field of a register value as it stands there, not sign-extended.
    pub const fn raw(&self, reg: u64) -> u64 {
        (reg & self.mask()) >> self.lsb
    }

    /// The field of a register value as a number.
    pub const fn get(&self, reg: u64) -> i64 {
        let raw = self.raw(reg) as i64;
        match self.sign {
            Sign::Signed => raw << (64 - self.width) >> (64 - self.width),
            _ => raw,
        }
    }

    /// The register value with this field replaced.
    pub const fn set(&self, reg: u64, raw: u64) -> u64 {
        reg & !self.mask() | raw << self.lsb & self.mask()
    }

    /// Whether `new` may stand in place of `limit`.
    pub const fn safe(&self, new: u64, limit: u64) -> bool {
        let (n, l) = (self.get(new), self.get(limit));
        n == l
            || match self.safe {
                Safe::Lower => n < l,
                Safe::Exact => n == 0,
                Safe::Higher => n > l,
            }
    }
}

/// When a whole feature-ID register reads as zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Raz {
    /// It never does.
    Never,
    /// KVM hides it from every guest.
    Always,
    /// Unless the vCPU has SVE.
    UnlessSve,
    /// An AArch32 register: without AArch32 at EL0 its contents are UNKNOWN; KVM shows zero and ignores writes.
    UnlessAArch32,
}

/// A feature-ID register: its fields and KVM's writable mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdReg {
    /// The register.
    pub reg: SysReg,
    /// What KVM_ARM_GET_REG_WRITABLE_MASKS reports (Linux 6.12).
    pub mask: u64,
    /// When all of it reads as zero.
    pub raz: Raz,
    /// Its fields, highest first.
    pub fields: &'static [IdField],
}

impl IdReg {
    /// The row of a register, if it is a feature-ID register with fields.
    pub fn of(reg: SysReg) -> Option<&'static IdReg> {
        // All have op0 3 and CRn 0; most registers that are asked for do not.
        if reg.code() & 0xc780 != 0xc000 {
            return None;
        }
        ID_REGS.binary_search_by_key(&reg, |r| r.reg).ok().map(|i| &ID_REGS[i])
    }

    /// The field with this name, in any case.
    pub fn field(&self, name: &str) -> Option<&'static IdField> {
        self.fields.iter().find(|f| f.name.eq_ignore_ascii_case(name))
    }

    /// The field that holds this bit.
    pub fn field_at(&self, bit: u32) -> Option<&'static IdField> {
        self.fields.iter().find(|f| f.mask() >> bit & 1 != 0)
    }

    /// All bits of fields that KVM shows.
    pub fn shown(&self) -> u64 {
        self.fields.iter().filter(|f| f.shown).fold(0, |m, f| m | f.mask())
    }

    /// The index in the array of KVM_ARM_GET_REG_WRITABLE_MASKS.
    pub fn mask_index(&self) -> usize {
        let e = self.reg.encoding();
        let op1 = if e.op1 == 3 { 2 } else { usize::from(e.op1) };
        op1 * 64 + usize::from(e.crm) * 8 + usize::from(e.op2)
    }
}

/// Whether the register lies in the feature-ID space: op0 3, op1 0, CRn 0, CRm 1..=7, which KVM lists in full.
pub fn in_id_space(reg: SysReg) -> bool {
    let e = reg.encoding();
    e.op0 == 3 && e.op1 == 0 && e.crn == 0 && (1..=7).contains(&e.crm)
}

const fn id_field(name: &'static str, hi: u8, lo: u8, kind: u8) -> IdField {
    let (sign, safe, shown) = match kind {
        b'l' => (Sign::Unsigned, Safe::Lower, true),
        b's' => (Sign::Signed, Safe::Lower, true),
        b'h' => (Sign::Unsigned, Safe::Higher, true),
        b'=' => (Sign::Unsigned, Safe::Exact, true),
        _ => (Sign::Unsigned, Safe::Exact, false),
    };
    IdField { name, lsb: lo, width: hi - lo + 1, sign, safe, shown }
}

macro_rules! kind {
    (lower) => {
        b'l'
    };
    (lower_signed) => {
        b's'
    };
    (higher) => {
        b'h'
    };
    (exact) => {
        b'='
    };
    (hidden) => {
        b'-'
    };
}

macro_rules! id_regs {
    ($($reg:ident mask $mask:literal $raz:ident { $($f:ident [$hi:literal : $lo:literal] $kind:ident),* $(,)? })+) => {
        /// Every feature-ID register that has fields, in the order of their encodings.
        pub static ID_REGS: &[IdReg] = &[$(IdReg {
            reg: SysReg::$reg,
            mask: $mask,
            raz: Raz::$raz,
            fields: &[$(id_field(stringify!($f), $hi, $lo, kind!($kind)),)*],
        },)+];
    };
}

id_regs! {
    ID_PFR0_EL1 mask 0xffff_ffff UnlessAArch32 {
        RAS[31:28] hidden, DIT[27:24] lower, AMU[23:20] hidden, CSV2[19:16] lower,
        State3[15:12] lower, State2[11:8] lower, State1[7:4] lower, State0[3:0] lower,
    }
    ID_PFR1_EL1 mask 0xffff_ffff UnlessAArch32 {
        GIC[31:28] lower, Virt_frac[27:24] lower, Sec_frac[23:20] lower, GenTimer[19:16] lower,
        Virtualization[15:12] lower, MProgMod[11:8] lower, Security[7:4] lower, ProgMod[3:0] lower,
    }
    ID_DFR0_EL1 mask 0xffff_ffff UnlessAArch32 {
        TraceFilt[31:28] hidden, PerfMon[27:24] lower, MProfDbg[23:20] lower, MMapTrc[19:16] lower,
        CopTrc[15:12] lower, MMapDbg[11:8] lower, CopSDbg[7:4] lower, CopDbg[3:0] lower,
    }
    ID_AFR0_EL1 mask 0 Always {}
    ID_MMFR0_EL1 mask 0xffff_ffff UnlessAArch32 {
        InnerShr[31:28] lower_signed, FCSE[27:24] lower, AuxReg[23:20] lower, TCM[19:16] lower,
        ShareLvl[15:12] lower, OuterShr[11:8] lower_signed, PMSA[7:4] lower, VMSA[3:0] lower,
    }
    ID_MMFR1_EL1 mask 0xffff_ffff UnlessAArch32 {
        BPred[31:28] lower, L1TstCln[27:24] lower, L1Uni[23:20] lower, L1Hvd[19:16] lower,
        L1UniSW[15:12] lower, L1HvdSW[11:8] lower, L1UniVA[7:4] lower, L1HvdVA[3:0] lower,
    }
    ID_MMFR2_EL1 mask 0xffff_ffff UnlessAArch32 {
        HWAccFlg[31:28] lower, WFIStall[27:24] lower, MemBarr[23:20] lower, UniTLB[19:16] lower,
        HvdTLB[15:12] lower, L1HvdRng[11:8] lower, L1HvdBG[7:4] lower, L1HvdFG[3:0] lower,
    }
    ID_MMFR3_EL1 mask 0xffff_ffff UnlessAArch32 {
        Supersec[31:28] lower, CMemSz[27:24] lower, CohWalk[23:20] lower, PAN[19:16] lower,
        MaintBcst[15:12] lower, BPMaint[11:8] lower, CMaintSW[7:4] lower, CMaintVA[3:0] lower,
    }
    ID_ISAR0_EL1 mask 0xffff_ffff UnlessAArch32 {
        Divide[27:24] lower, Debug[23:20] lower, Coproc[19:16] lower, CmpBranch[15:12] lower,
        BitField[11:8] lower, BitCount[7:4] lower, Swap[3:0] lower,
    }
    ID_ISAR1_EL1 mask 0xffff_ffff UnlessAArch32 {
        Jazelle[31:28] lower, Interwork[27:24] lower, Immediate[23:20] lower, IfThen[19:16] lower,
        Extend[15:12] lower, Except_AR[11:8] lower, Except[7:4] lower, Endian[3:0] lower,
    }
    ID_ISAR2_EL1 mask 0xffff_ffff UnlessAArch32 {
        Reversal[31:28] lower, PSR_AR[27:24] lower, MultU[23:20] lower, MultS[19:16] lower,
        Mult[15:12] lower, MultiAccessInt[11:8] lower, MemHint[7:4] lower, LoadStore[3:0] lower,
    }
    ID_ISAR3_EL1 mask 0xffff_ffff UnlessAArch32 {
        T32EE[31:28] lower, TrueNOP[27:24] lower, T32Copy[23:20] lower, TabBranch[19:16] lower,
        SynchPrim[15:12] lower, SVC[11:8] lower, SIMD[7:4] lower, Saturate[3:0] lower,
    }
    ID_ISAR4_EL1 mask 0xffff_ffff UnlessAArch32 {
        SWP_frac[31:28] lower, PSR_M[27:24] lower, SynchPrim_frac[23:20] lower, Barrier[19:16] lower,
        SMC[15:12] lower, Writeback[11:8] lower, WithShifts[7:4] lower, Unpriv[3:0] lower,
    }
    ID_ISAR5_EL1 mask 0xffff_ffff UnlessAArch32 {
        VCMA[31:28] hidden, RDM[27:24] lower, CRC32[19:16] lower, SHA2[15:12] lower, SHA1[11:8] lower,
        AES[7:4] lower, SEVL[3:0] lower,
    }
    ID_MMFR4_EL1 mask 0xffff_ffff UnlessAArch32 {
        EVT[31:28] lower, CCIDX[27:24] lower, LSM[23:20] lower, HPDS[19:16] lower, CnP[15:12] lower,
        XNX[11:8] lower, AC2[7:4] lower, SpecSEI[3:0] higher,
    }
    ID_ISAR6_EL1 mask 0xffff_ffff UnlessAArch32 {
        CLRBHB[31:28] hidden, I8MM[27:24] lower, BF16[23:20] lower, SPECRES[19:16] lower, SB[15:12] lower,
        FHM[11:8] lower, DP[7:4] lower, JSCVT[3:0] lower,
    }
    MVFR0_EL1 mask 0xffff_ffff UnlessAArch32 {
        FPRound[31:28] lower, FPShVec[27:24] lower, FPSqrt[23:20] lower, FPDivide[19:16] lower,
        FPTrap[15:12] lower, FPDP[11:8] lower, FPSP[7:4] lower, SIMDReg[3:0] lower,
    }
    MVFR1_EL1 mask 0xffff_ffff UnlessAArch32 {
        SIMDFMAC[31:28] lower, FPHP[27:24] lower, SIMDHP[23:20] lower, SIMDSP[19:16] lower,
        SIMDInt[15:12] lower, SIMDLS[11:8] lower, FPDNaN[7:4] lower, FPFtZ[3:0] lower,
    }
    MVFR2_EL1 mask 0xffff_ffff UnlessAArch32 { FPMisc[7:4] lower, SIMDMisc[3:0] lower }
    ID_PFR2_EL1 mask 0xffff_ffff UnlessAArch32 { RAS_frac[11:8] hidden, SSBS[7:4] lower, CSV3[3:0] lower }
    ID_DFR1_EL1 mask 0 Always {}
    ID_MMFR5_EL1 mask 0xffff_ffff UnlessAArch32 { nTLBPA[7:4] hidden, ETS[3:0] lower }

    ID_AA64PFR0_EL1 mask 0xffff_00f0_0f00_ffff Never {
        CSV3[63:60] lower, CSV2[59:56] lower, RME[55:52] hidden, DIT[51:48] lower, AMU[47:44] lower,
        MPAM[43:40] lower, SEL2[39:36] lower, SVE[35:32] lower, RAS[31:28] lower, GIC[27:24] lower,
        AdvSIMD[23:20] lower_signed, FP[19:16] lower_signed, EL3[15:12] lower, EL2[11:8] lower,
        EL1[7:4] lower, EL0[3:0] lower,
    }
    ID_AA64PFR1_EL1 mask 0x0000_000f_0000_00ff Never {
        PFAR[63:60] hidden, DF2[59:56] hidden, MTEX[55:52] hidden, THE[51:48] hidden, GCS[47:44] hidden,
        MTE_frac[43:40] hidden, NMI[39:36] hidden, CSV2_frac[35:32] hidden, RNDR_trap[31:28] hidden,
        SME[27:24] lower, MPAM_frac[19:16] lower, RAS_frac[15:12] lower, MTE[11:8] lower, SSBS[7:4] lower,
        BT[3:0] lower,
    }
    ID_AA64PFR2_EL1 mask 0x0000_000f_0000_0000 Never {
        FPMR[35:32] lower, MTEFAR[11:8] hidden, MTESTOREONLY[7:4] hidden, MTEPERM[3:0] hidden,
    }
    ID_AA64ZFR0_EL1 mask 0x0ff0_ff0f_0fff_00ff UnlessSve {
        F64MM[59:56] lower, F32MM[55:52] lower, I8MM[47:44] lower, SM4[43:40] lower, SHA3[35:32] lower,
        B16B16[27:24] lower, BF16[23:20] lower, BitPerm[19:16] lower, AES[7:4] lower, SVEver[3:0] lower,
    }
    ID_AA64SMFR0_EL1 mask 0 Always {}
    ID_AA64FPFR0_EL1 mask 0xf000_0003 Never {
        F8CVT[31:31] exact, F8FMA[30:30] exact, F8DP4[29:29] exact, F8DP2[28:28] exact, F8E4M3[1:1] exact,
        F8E5M2[0:0] exact,
    }
    ID_AA64DFR0_EL1 mask 0x0000_00f0_00f0_0f0f Never {
        HPMN0[63:60] hidden, ExtTrcBuff[59:56] hidden, BRBE[55:52] hidden, MTPMU[51:48] hidden,
        TraceBuffer[47:44] hidden, TraceFilt[43:40] hidden, DoubleLock[39:36] lower_signed,
        PMSVer[35:32] lower, CTX_CMPs[31:28] lower, SEBEP[27:24] hidden, WRPs[23:20] lower,
        PMSS[19:16] hidden, BRPs[15:12] lower, PMUVer[11:8] lower, TraceVer[7:4] hidden, DebugVer[3:0] lower,
    }
    ID_AA64DFR1_EL1 mask 0 Never {}
    ID_AA64AFR0_EL1 mask 0 Always {}
    ID_AA64AFR1_EL1 mask 0 Always {}
    ID_AA64ISAR0_EL1 mask 0xffff_ffff_ffff_fff0 Never {
        RNDR[63:60] lower, TLB[59:56] lower, TS[55:52] lower, FHM[51:48] lower, DP[47:44] lower,
        SM4[43:40] lower, SM3[39:36] lower, SHA3[35:32] lower, RDM[31:28] lower, TME[27:24] hidden,
        Atomic[23:20] lower, CRC32[19:16] lower, SHA2[15:12] lower, SHA1[11:8] lower, AES[7:4] lower,
    }
    ID_AA64ISAR1_EL1 mask 0xffff_ffff_00ff_f00f Never {
        LS64[63:60] hidden, XS[59:56] lower, I8MM[55:52] lower, DGH[51:48] lower, BF16[47:44] lower,
        SPECRES[43:40] lower, SB[39:36] lower, FRINTTS[35:32] lower, GPI[31:28] lower, GPA[27:24] lower,
        LRCPC[23:20] lower, FCMA[19:16] lower, JSCVT[15:12] lower, API[11:8] exact, APA[7:4] exact,
        DPB[3:0] lower,
    }
    ID_AA64ISAR2_EL1 mask 0xffff_0fff_ffff_00ff Never {
        ATS1A[63:60] hidden, LUT[59:56] lower, CSSC[55:52] lower, RPRFM[51:48] lower, PRFMSLC[43:40] hidden,
        SYSINSTR_128[39:36] hidden, SYSREG_128[35:32] hidden, CLRBHB[31:28] lower, PAC_frac[27:24] hidden,
        BC[23:20] lower, MOPS[19:16] lower, APA3[15:12] exact, GPA3[11:8] lower, RPRES[7:4] lower,
        WFxT[3:0] lower,
    }
    ID_AA64MMFR0_EL1 mask 0xff00_f000_ffff_ff0f Never {
        ECV[63:60] lower, FGT[59:56] lower, EXS[47:44] lower, TGRAN4_2[43:40] exact, TGRAN64_2[39:36] exact,
        TGRAN16_2[35:32] exact, TGRAN4[31:28] lower_signed, TGRAN64[27:24] lower_signed, TGRAN16[23:20] lower,
        BIGENDEL0[19:16] lower, SNSMEM[15:12] lower, BIGEND[11:8] lower, ASIDBITS[7:4] lower,
        PARANGE[3:0] lower,
    }
    ID_AA64MMFR1_EL1 mask 0xffff_f0f0_0fff_f00f Never {
        ECBHB[63:60] lower, CMOW[59:56] hidden, TIDCP1[55:52] lower, nTLBPA[51:48] hidden, AFP[47:44] lower,
        HCX[43:40] lower, ETS[39:36] lower, TWED[35:32] lower, XNX[31:28] lower, SpecSEI[27:24] higher,
        PAN[23:20] lower, LO[19:16] lower, HPDS[15:12] lower, VH[11:8] lower, VMIDBits[7:4] lower,
        HAFDBS[3:0] lower,
    }
    ID_AA64MMFR2_EL1 mask 0xf0ff_000f_f00f_ffff Never {
        E0PD[63:60] lower, EVT[59:56] lower, BBM[55:52] lower, TTL[51:48] lower, FWB[43:40] lower,
        IDS[39:36] lower, AT[35:32] lower, ST[31:28] lower, NV[27:24] lower, CCIDX[23:20] lower,
        VARange[19:16] lower, IESB[15:12] lower, LSM[11:8] lower, UAO[7:4] lower, CnP[3:0] lower,
    }
    ID_AA64MMFR3_EL1 mask 0x000f_0f0f Never {
        Spec_FPACC[63:60] hidden, ADERR[59:56] hidden, SDERR[55:52] hidden, ANERR[47:44] hidden,
        SNERR[43:40] hidden, D128_2[39:36] hidden, D128[35:32] hidden, MEC[31:28] hidden, AIE[27:24] hidden,
        S2POE[23:20] hidden, S1POE[19:16] lower, S2PIE[15:12] hidden, S1PIE[11:8] lower, SCTLRX[7:4] hidden,
        TCRX[3:0] lower,
    }
    ID_AA64MMFR4_EL1 mask 0 Never { E2H0[27:24] hidden, NV_frac[23:20] hidden, FGWTE3[19:16] hidden,
        HACDBS[15:12] hidden, ASID2[11:8] hidden, EIESB[7:4] hidden }

    CLIDR_EL1 mask 0x7fff_ffff_ffff Never {
        Ttype7[46:45] lower, Ttype6[44:43] lower, Ttype5[42:41] lower, Ttype4[40:39] lower,
        Ttype3[38:37] lower, Ttype2[36:35] lower, Ttype1[34:33] lower, ICB[32:30] lower, LoUU[29:27] lower,
        LoC[26:24] lower, LoUIS[23:21] lower, Ctype7[20:18] lower, Ctype6[17:15] lower, Ctype5[14:12] lower,
        Ctype4[11:9] lower, Ctype3[8:6] lower, Ctype2[5:3] lower, Ctype1[2:0] lower,
    }
    CTR_EL0 mask 0x300f_000f Never {
        TminLine[37:32] hidden, DIC[29:29] lower, IDC[28:28] lower, CWG[27:24] lower, ERG[23:20] lower,
        DminLine[19:16] lower, L1Ip[15:14] lower, IminLine[3:0] lower,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_fields_do_not_overlap() {
        assert!(ID_REGS.windows(2).all(|w| w[0].reg < w[1].reg));
        for r in ID_REGS {
            assert_eq!(IdReg::of(r.reg).map(|f| f.reg), Some(r.reg));
            let mut seen = 0u64;
            let mut above = 64;
            for f in r.fields {
                assert_eq!(seen & f.mask(), 0, "{}.{}", r.reg, f.name);
                assert!(f.lsb + f.width <= above, "{}.{} is out of order", r.reg, f.name);
                above = f.lsb;
                seen |= f.mask();
            }
            assert_eq!(IdReg::of(r.reg), Some(r));
        }
    }

    #[test]
    fn a_mask_never_cuts_a_shown_field() {
        for r in ID_REGS {
            for f in r.fields.iter().filter(|f| f.shown) {
                let m = f.mask() & r.mask;
                assert!(m == 0 || m == f.mask(), "{}.{}", r.reg, f.name);
            }
        }
    }

    #[test]
    fn every_feature_rule_names_a_field() {
        for f in crate::Feat::ALL {
            for c in f.rule() {
                let Some(r) = IdReg::of(c.reg) else { continue };
                assert!(r.fields.iter().any(|x| x.lsb == c.lsb) || c.reg == SysReg::ID_AA64ISAR3_EL1, "{f}");
            }
        }
    }

    #[test]
    fn signed_fields_compare_as_numbers() {
        let fp = IdReg::of(SysReg::ID_AA64PFR0_EL1).unwrap().field("FP").unwrap();
        assert_eq!(fp.get(0xf_0000), -1);
        assert!(fp.safe(0xf_0000, 0x1_0000) && !fp.safe(0x1_0000, 0xf_0000));
        let sei = IdReg::of(SysReg::ID_AA64MMFR1_EL1).unwrap().field("SpecSEI").unwrap();
        assert!(sei.safe(1 << 24, 0) && !sei.safe(0, 1 << 24));
    }

    #[test]
    fn mask_indices() {
        assert_eq!(IdReg::of(SysReg::ID_PFR0_EL1).unwrap().mask_index(), 8);
        assert_eq!(IdReg::of(SysReg::CLIDR_EL1).unwrap().mask_index(), 65);
        assert_eq!(IdReg::of(SysReg::CTR_EL0).unwrap().mask_index(), 129);
    }
}
