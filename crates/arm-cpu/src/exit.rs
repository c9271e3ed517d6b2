//! Why `Cpu::run` came back: what hardware would take to EL2.

/// A stage-2 data abort: nothing is mapped there, or not for this access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataAbort {
    /// Intermediate physical address of the access.
    pub ipa: u64,
    /// Virtual address (FAR_EL2).
    pub far: u64,
    /// ESR_EL2.ISS: with ISV, SAS, SSE, SRT, SF, AR when the instruction can be emulated; WnR; DFSC.
    pub iss: u32,
    /// It was a write.
    pub write: bool,
    /// The value stored, when ISV is set and it was a write.
    pub value: u64,
    /// The slot is there but read-only (then it is a permission fault).
    pub readonly: bool,
    /// During a translation table walk of stage 1.
    pub s1ptw: bool,
}

/// Why `Cpu::run` came back. PC is at the instruction, unless told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `CpuLines::KICK` was set. Between two instructions.
    Kick,
    /// The instruction budget ([`crate::Cpu::budget`]) is used up. Between two instructions.
    Budget,
    /// A performance counter overflowed: look at [`crate::Cpu::pmu_interrupt`]. Between two instructions.
    Pmu,
    /// WFI with nothing pending; PC is after it.
    Wfi,
    /// WFE without an event; PC is after it.
    Wfe,
    /// WFIT or WFET: until CNTVCT_EL0 reaches the deadline; PC is after it.
    Wfxt {
        /// Value of CNTVCT_EL0 at which it ends.
        deadline: u64,
        /// WFET, not WFIT.
        event: bool,
    },
    /// HVC; PC is after it.
    Hvc {
        /// The immediate.
        imm: u16,
    },
    /// SMC, trapped: PC is at it.
    Smc {
        /// The immediate.
        imm: u16,
    },
    /// MRS or MSR of a register the CPU does not own (`ICC_*`, timers): PC is at it. The hypervisor reads or writes
    /// `x[rt]` (31: zero or discard) and calls `Cpu::skip_instruction`, or injects UNDEF.
    SysReg {
        /// op0<<14 | op1<<11 | CRn<<7 | CRm<<3 | op2, as in a KVM register id.
        enc: u16,
        /// Transfer register.
        rt: u8,
        /// MRS.
        read: bool,
    },
    /// Stage-2 data abort.
    DataAbort(DataAbort),
    /// Stage-2 instruction abort.
    InstAbort {
        /// Intermediate physical address of the fetch.
        ipa: u64,
        /// PC.
        far: u64,
        /// In a translation table walk of stage 1.
        s1ptw: bool,
    },
    /// `Engine::Check` found a difference: see [`crate::Cpu::difference`]. The state is that of generated code.
    Difference,
    /// A debug exception that the hypervisor asked to see (MDCR_EL2.TDE).
    Debug {
        /// ESR_EL2 of it.
        esr: u32,
        /// FAR of a watchpoint.
        far: u64,
    },
}
