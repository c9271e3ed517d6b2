//! What a line of the register table says.

use crate::{Feat, SysReg, sysreg::ROWS};

/// What a guest may do with a register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// `rw`: MRS and MSR.
    ReadWrite,
    /// `ro`: MSR is UNDEFINED.
    ReadOnly,
    /// `wo`: MRS is UNDEFINED.
    WriteOnly,
}

/// Who holds the value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Storage {
    /// `cpu`: the vCPU's slot.
    Cpu,
    /// `pmu`: the vCPU's slot; counters move by themselves.
    Pmu,
    /// `vm`: one value for all vCPUs, frozen at the first run.
    Vm,
    /// `host`: a constant of the machine.
    Host,
    /// `gic`: the GIC's CPU interface.
    Gic,
    /// `timer`: the generic timer.
    Timer,
    /// `derived`: a view of other state (PSTATE, an alias, a computed value).
    Derived,
    /// `raz`: reads zero, writes are ignored: KVM traps it and plays an empty part.
    Raz,
    /// `undef`: exists in hardware, but KVM traps it and has nothing to play: UNDEFINED for every guest.
    Undef,
}

/// The value after a reset.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reset {
    /// This number.
    Value(u64),
    /// `unknown`: the architecture leaves it open; KVM writes [`Reset::UNKNOWN`].
    Unknown,
    /// `machine`: the profile, the VM or the vCPU's number decide.
    Machine,
    /// `kept`: a reset does not touch it.
    Kept,
    /// `device`: the GIC or the timer resets it.
    Device,
}

impl Reset {
    /// KVM's pattern for registers whose reset value is architecturally UNKNOWN.
    pub const UNKNOWN: u64 = 0x1de7_ec7e_dbad_c0de;
}

/// How KVM shows a register to a VMM; in a row, that of Linux 6.12 (others: [`crate::history`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kvm {
    /// `always`: as a system register of KVM_GET_REG_LIST.
    Always,
    /// `sve`: listed if the vCPU has SVE.
    Sve,
    /// `mte`: listed if the VM has MTE.
    Mte,
    /// `pmu`: listed if the vCPU has PMU_V3.
    Pmu,
    /// `pauth`: listed if the vCPU has pointer authentication.
    Pauth,
    /// `poe`: listed if the VM's ID_AA64MMFR3_EL1.S1POE says so.
    Poe,
    /// `fpmr`: listed if the VM's ID_AA64PFR2_EL1.FPMR says so.
    Fpmr,
    /// Listed if the VM's ID_AA64MMFR3_EL1.TCRX says so (later kernels).
    Tcr2,
    /// Listed if the VM's ID_AA64MMFR3_EL1.S1PIE says so (later kernels).
    S1pie,
    /// `core`: under the id of a core register.
    Core,
    /// `timer`: under the id of a timer register.
    Timer,
    /// `demux`: under a CCSIDR id for each cache.
    Demux,
    /// `vgic`: as an attribute of the GICv3 device.
    Vgic,
    /// `none`: not at all.
    None,
}

/// What else a write moves, so that an engine knows which writes need more than a store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// `none`: nothing.
    None,
    /// `translation`: how addresses are translated.
    Translation,
    /// `fp`: whether and how floating point executes.
    Fp,
    /// `debug`: which accesses and instructions take debug exceptions.
    Debug,
    /// `irq`: which interrupts are pending or taken.
    Irq,
    /// `pmu`: what is counted.
    Pmu,
}

/// A system register: one line of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The register.
    pub reg: SysReg,
    /// What a guest may do.
    pub access: Access,
    /// The lowest exception level that may have access; at EL0 often only if a control register allows it.
    pub el: u8,
    /// Who holds the value.
    pub storage: Storage,
    /// The value after a reset.
    pub reset: Reset,
    /// How KVM shows it.
    pub kvm: Kvm,
    /// The feature without which the register does not exist.
    pub needs: Option<Feat>,
    /// What else a write moves.
    pub effect: Effect,
}

/// All rows in the order of their encodings.
pub fn rows() -> &'static [Row] {
    ROWS
}

impl SysReg {
    /// Its line of the table.
    #[inline]
    pub fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }
}

/// A word of the table as the value it stands for.
macro_rules! word {
    (access rw) => {
        $crate::row::Access::ReadWrite
    };
    (access ro) => {
        $crate::row::Access::ReadOnly
    };
    (access wo) => {
        $crate::row::Access::WriteOnly
    };
    (el el0) => {
        0
    };
    (el el1) => {
        1
    };
    (el el2) => {
        2
    };
    (storage cpu) => {
        $crate::row::Storage::Cpu
    };
    (storage pmu) => {
        $crate::row::Storage::Pmu
    };
    (storage vm) => {
        $crate::row::Storage::Vm
    };
    (storage host) => {
        $crate::row::Storage::Host
    };
    (storage gic) => {
        $crate::row::Storage::Gic
    };
    (storage timer) => {
        $crate::row::Storage::Timer
    };
    (storage derived) => {
        $crate::row::Storage::Derived
    };
    (storage undef) => {
        $crate::row::Storage::Undef
    };
    (storage raz) => {
        $crate::row::Storage::Raz
    };
    (reset unknown) => {
        $crate::row::Reset::Unknown
    };
    (reset machine) => {
        $crate::row::Reset::Machine
    };
    (reset kept) => {
        $crate::row::Reset::Kept
    };
    (reset device) => {
        $crate::row::Reset::Device
    };
    (reset $v:literal) => {
        $crate::row::Reset::Value($v)
    };
    (kvm always) => {
        $crate::row::Kvm::Always
    };
    (kvm sve) => {
        $crate::row::Kvm::Sve
    };
    (kvm mte) => {
        $crate::row::Kvm::Mte
    };
    (kvm pmu) => {
        $crate::row::Kvm::Pmu
    };
    (kvm pauth) => {
        $crate::row::Kvm::Pauth
    };
    (kvm poe) => {
        $crate::row::Kvm::Poe
    };
    (kvm fpmr) => {
        $crate::row::Kvm::Fpmr
    };
    (kvm core) => {
        $crate::row::Kvm::Core
    };
    (kvm timer) => {
        $crate::row::Kvm::Timer
    };
    (kvm demux) => {
        $crate::row::Kvm::Demux
    };
    (kvm vgic) => {
        $crate::row::Kvm::Vgic
    };
    (kvm none) => {
        $crate::row::Kvm::None
    };
    (needs none) => {
        None
    };
    (needs $f:ident) => {
        Some($crate::Feat::$f)
    };
    (effect none) => {
        $crate::row::Effect::None
    };
    (effect translation) => {
        $crate::row::Effect::Translation
    };
    (effect fp) => {
        $crate::row::Effect::Fp
    };
    (effect debug) => {
        $crate::row::Effect::Debug
    };
    (effect irq) => {
        $crate::row::Effect::Irq
    };
    (effect pmu) => {
        $crate::row::Effect::Pmu
    };
}
pub(crate) use word;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_stands_at_its_ordinal() {
        for (i, r) in rows().iter().enumerate() {
            assert_eq!(r.reg as usize, i);
            assert_eq!(r.reg.row(), r);
        }
        assert_eq!(rows().len(), SysReg::COUNT);
    }

    #[test]
    fn the_encoding_names_the_lowest_level() {
        for r in rows() {
            let want = match r.reg.encoding().op1 {
                0..=2 => 1,
                3 => 0,
                _ => 2,
            };
            assert_eq!(r.el, want, "{}", r.reg);
        }
    }

    #[test]
    fn what_is_not_stored_in_the_vcpu_has_no_reset_of_its_own() {
        for r in rows() {
            match r.storage {
                Storage::Gic | Storage::Timer => assert_eq!(r.reset, Reset::Device, "{}", r.reg),
                Storage::Vm | Storage::Host => assert_eq!(r.reset, Reset::Machine, "{}", r.reg),
                Storage::Raz | Storage::Undef => assert_eq!(r.reset, Reset::Value(0), "{}", r.reg),
                _ => assert_ne!(r.reset, Reset::Device, "{}", r.reg),
            }
        }
    }
}
