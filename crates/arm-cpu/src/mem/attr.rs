//! What kind of access an instruction makes.

/// Direction of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// Properties of a data access beyond its address; constants cover the usual ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acc {
    /// As EL0 (LDTR/STTR without UAO), whatever the current EL.
    pub unpriv: bool,
    /// Must be aligned whatever SCTLR_EL1.A says (exclusives, acquire/release without LSE2, atomics).
    pub aligned: bool,
    /// With `aligned`: unaligned is allowed inside a 16-byte quantity (FEAT_LSE2, SCTLR_EL1.nAA does not matter).
    pub lse2: bool,
    /// Load- or store-exclusive: SCTLR_EL1.nAA does not concern it.
    pub exclusive: bool,
    /// Acquire or release: ISS.AR.
    pub acqrel: bool,
    /// Reports a write fault (WnR) although it reads first: atomics.
    pub rmw: bool,
    /// A cache maintenance operation by VA: ISS.CM, faults count as writes.
    pub cm: bool,
}

impl Acc {
    /// Plain load or store.
    pub const NORMAL: Acc = Acc {
        unpriv: false,
        aligned: false,
        lse2: false,
        exclusive: false,
        acqrel: false,
        rmw: false,
        cm: false,
    };
    /// LDTR, STTR.
    pub const UNPRIV: Acc = Acc { unpriv: true, ..Acc::NORMAL };
    /// LDAR, STLR, LDAPR: aligned unless FEAT_LSE2 allows it.
    pub const ORDERED: Acc = Acc { aligned: true, lse2: true, acqrel: true, ..Acc::NORMAL };
    /// LDXR, STXR: aligned always.
    pub const EXCLUSIVE: Acc = Acc { aligned: true, lse2: true, exclusive: true, ..Acc::NORMAL };
    /// LDAXR, STLXR.
    pub const EXCLUSIVE_ORDERED: Acc = Acc { acqrel: true, ..Acc::EXCLUSIVE };
    /// LSE atomics.
    pub const ATOMIC: Acc = Acc { aligned: true, lse2: true, rmw: true, ..Acc::NORMAL };
}
