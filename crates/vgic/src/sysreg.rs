//! Names and encodings of the CPU interface's system registers (Arm IHI 0069, chapter 12.2).

/// A system register of the GICv3 CPU interface at EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IccReg {
    /// ICC_PMR_EL1
    Pmr,
    /// ICC_IAR0_EL1
    Iar0,
    /// ICC_EOIR0_EL1
    Eoir0,
    /// ICC_HPPIR0_EL1
    Hppir0,
    /// ICC_BPR0_EL1
    Bpr0,
    /// ICC_AP0R0..3_EL1
    Ap0r(u8),
    /// ICC_AP1R0..3_EL1
    Ap1r(u8),
    /// ICC_DIR_EL1
    Dir,
    /// ICC_RPR_EL1
    Rpr,
    /// ICC_SGI1R_EL1
    Sgi1r,
    /// ICC_ASGI1R_EL1
    Asgi1r,
    /// ICC_SGI0R_EL1
    Sgi0r,
    /// ICC_IAR1_EL1
    Iar1,
    /// ICC_EOIR1_EL1
    Eoir1,
    /// ICC_HPPIR1_EL1
    Hppir1,
    /// ICC_BPR1_EL1
    Bpr1,
    /// ICC_CTLR_EL1
    Ctlr,
    /// ICC_SRE_EL1
    Sre,
    /// ICC_IGRPEN0_EL1
    Igrpen0,
    /// ICC_IGRPEN1_EL1
    Igrpen1,
}

impl IccReg {
    /// The register with this encoding.
    pub const fn from_encoding(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Option<IccReg> {
        if op0 != 3 || op1 != 0 {
            return None;
        }
        Some(match (crn, crm, op2) {
            (4, 6, 0) => IccReg::Pmr,
            (12, 8, 0) => IccReg::Iar0,
            (12, 8, 1) => IccReg::Eoir0,
            (12, 8, 2) => IccReg::Hppir0,
            (12, 8, 3) => IccReg::Bpr0,
            (12, 8, 4..=7) => IccReg::Ap0r(op2 - 4),
            (12, 9, 0..=3) => IccReg::Ap1r(op2),
            (12, 11, 1) => IccReg::Dir,
            (12, 11, 3) => IccReg::Rpr,
            (12, 11, 5) => IccReg::Sgi1r,
            (12, 11, 6) => IccReg::Asgi1r,
            (12, 11, 7) => IccReg::Sgi0r,
            (12, 12, 0) => IccReg::Iar1,
            (12, 12, 1) => IccReg::Eoir1,
            (12, 12, 2) => IccReg::Hppir1,
            (12, 12, 3) => IccReg::Bpr1,
            (12, 12, 4) => IccReg::Ctlr,
            (12, 12, 5) => IccReg::Sre,
            (12, 12, 6) => IccReg::Igrpen0,
            (12, 12, 7) => IccReg::Igrpen1,
            _ => return None,
        })
    }

    /// The register with KVM's packed encoding `op0<<14 | op1<<11 | CRn<<7 | CRm<<3 | op2`.
    pub const fn from_packed(enc: u16) -> Option<IccReg> {
        Self::from_encoding(
            (enc >> 14 & 3) as u8,
            (enc >> 11 & 7) as u8,
            (enc >> 7 & 15) as u8,
            (enc >> 3 & 15) as u8,
            (enc & 7) as u8,
        )
    }

    /// Whether it holds state: what userspace reads and writes (KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS).
    pub const fn is_state(self) -> bool {
        matches!(
            self,
            IccReg::Pmr
                | IccReg::Bpr0
                | IccReg::Bpr1
                | IccReg::Ap0r(_)
                | IccReg::Ap1r(_)
                | IccReg::Ctlr
                | IccReg::Sre
                | IccReg::Igrpen0
                | IccReg::Igrpen1
        )
    }

    /// Whether MRS of it is defined.
    pub const fn readable(self) -> bool {
        !matches!(
            self,
            IccReg::Eoir0 | IccReg::Eoir1 | IccReg::Dir | IccReg::Sgi1r | IccReg::Asgi1r | IccReg::Sgi0r
        )
    }

    /// Whether MSR of it is defined.
    pub const fn writable(self) -> bool {
        !matches!(self, IccReg::Iar0 | IccReg::Iar1 | IccReg::Hppir0 | IccReg::Hppir1 | IccReg::Rpr)
    }
}
