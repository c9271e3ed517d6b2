//! Numbers of the interface by name.

use std::borrow::Cow;
use std::fmt::Write;

use ulna_kvm_abi::{RegId, cap, device, exit, mp_state, private, reg};
use ulna_machine::catalog;

/// A capability, without `KVM_CAP_`.
pub fn capability(n: u32) -> Cow<'static, str> {
    let own = match n {
        private::CAP_REG_SCOPE => Some("ULNA_REG_SCOPE"),
        private::CAP_SDEI => Some("ULNA_SDEI"),
        private::CAP_HET_IDENTITY => Some("ULNA_HET_IDENTITY"),
        private::CAP_HVC_FW_REG_BMAP => Some("ULNA_HVC_FW_REG_BMAP"),
        _ => cap::ALL.iter().find(|c| c.1 == n).map(|c| c.0),
    };
    own.map_or_else(|| n.to_string().into(), Cow::Borrowed)
}

/// A vCPU feature of KVM_ARM_VCPU_INIT by its bit.
pub fn vcpu_feature(bit: u32) -> Cow<'static, str> {
    const NAMES: [&str; 9] = [
        "POWER_OFF",
        "EL1_32BIT",
        "PSCI_0_2",
        "PMU_V3",
        "SVE",
        "PTRAUTH_ADDRESS",
        "PTRAUTH_GENERIC",
        "HAS_EL2",
        "HAS_EL2_E2H0",
    ];
    NAMES.get(bit as usize).map_or_else(|| format!("bit {bit}").into(), |n| Cow::Borrowed(*n))
}

/// An exit reason, without `KVM_EXIT_`.
pub fn exit_reason(n: u32) -> Cow<'static, str> {
    Cow::Borrowed(match n {
        exit::UNKNOWN => "UNKNOWN",
        exit::HYPERCALL => "HYPERCALL",
        exit::DEBUG => "DEBUG",
        exit::MMIO => "MMIO",
        exit::FAIL_ENTRY => "FAIL_ENTRY",
        exit::INTR => "INTR",
        exit::INTERNAL_ERROR => "INTERNAL_ERROR",
        exit::SYSTEM_EVENT => "SYSTEM_EVENT",
        exit::ARM_NISV => "ARM_NISV",
        exit::DIRTY_RING_FULL => "DIRTY_RING_FULL",
        exit::MEMORY_FAULT => "MEMORY_FAULT",
        _ => return n.to_string().into(),
    })
}

/// A system event.
pub(crate) fn system_event(n: u32) -> Cow<'static, str> {
    const NAMES: [&str; 5] = ["SHUTDOWN", "RESET", "CRASH", "WAKEUP", "SUSPEND"];
    let name = n.checked_sub(1).and_then(|i| NAMES.get(i as usize));
    name.map_or_else(|| n.to_string().into(), |n| Cow::Borrowed(*n))
}

/// KVM_MP_STATE_*.
pub(crate) fn mp(n: u32) -> Cow<'static, str> {
    match n {
        mp_state::RUNNABLE => "RUNNABLE".into(),
        mp_state::STOPPED => "STOPPED".into(),
        mp_state::SUSPENDED => "SUSPENDED".into(),
        _ => n.to_string().into(),
    }
}

/// A kind of device.
pub(crate) fn device(n: u32) -> Cow<'static, str> {
    match n {
        device::TYPE_VFIO => "VFIO".into(),
        device::TYPE_ARM_VGIC_V2 => "GICv2".into(),
        device::TYPE_ARM_VGIC_V3 => "GICv3".into(),
        device::TYPE_ARM_VGIC_ITS => "ITS".into(),
        _ => format!("device type {n}").into(),
    }
}

/// A register by its id; an id that names none as its number.
pub(crate) fn register(id: u64) -> String {
    let untagged = RegId(id & !private::SCOPE_MASK);
    match catalog::name(RegId(id)) {
        Ok(n) => n.to_string(),
        Err(_) if id & private::SCOPE_MASK == private::SCOPE_VM => match catalog::name(untagged) {
            Ok(n) => format!("VM {n}"),
            Err(_) => format!("{id:#x}"),
        },
        Err(_) if RegId(id).group() == reg::GROUP_CORE => format!("core register {:#x}", RegId(id).index()),
        Err(_) => format!("{id:#x}"),
    }
}

/// Bits by name, `A|B|0x100`; `0` when there are none.
pub(crate) fn flags(mut v: u32, names: &[(u32, &str)]) -> String {
    let mut s = String::new();
    let bar = |s: &String| if s.is_empty() { "" } else { "|" };
    for (bit, name) in names {
        if v & bit == *bit && *bit != 0 {
            let sep = bar(&s);
            let _ = write!(s, "{sep}{name}");
            v &= !bit;
        }
    }
    if v != 0 || s.is_empty() {
        let sep = bar(&s);
        let _ = if v == 0 { write!(s, "0") } else { write!(s, "{sep}{v:#x}") };
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_that_have_none() {
        assert_eq!((&*capability(165), &*capability(9999)), ("ARM_VM_IPA_SIZE", "9999"));
        assert_eq!((&*capability(0x554c_0002), &*vcpu_feature(2)), ("ULNA_SDEI", "PSCI_0_2"));
        assert_eq!((&*vcpu_feature(31), &*exit_reason(6), &*exit_reason(77)), ("bit 31", "MMIO", "77"));
        assert_eq!((&*system_event(1), &*system_event(0), &*system_event(6)), ("SHUTDOWN", "0", "6"));
        assert_eq!(
            (&*mp(5), &*mp(4), &*device(7), &*device(99)),
            ("STOPPED", "4", "GICv3", "device type 99")
        );
        assert_eq!(flags(0, &[(1, "A")]), "0");
        assert_eq!(flags(0x107, &[(1, "A"), (2, "B")]), "A|B|0x104");
        assert_eq!(flags(4, &[(1, "A")]), "0x4");
    }

    #[test]
    fn registers_have_the_names_of_the_manual() {
        assert_eq!(register(0x6030_0000_0010_0040), "PC");
        assert_eq!(register(0x6030_0000_0013_c080), "SCTLR_EL1");
        assert_eq!(register(0x6030_0000_0014_0000), "PSCI_VERSION");
        assert_eq!(register(0x6030_0000_1013_c020), "VM ID_AA64PFR0_EL1");
        assert_eq!(
            (register(0x1234), register(0x6030_0000_0010_0041)),
            ("0x1234".into(), "core register 0x41".into())
        );
    }
}
