//! What a host cannot honour of a machine's state.

use std::fmt;
use ulna_arm_regs::SysReg;
use ulna_kvm_backend::abi::reg::{
    GROUP_CORE, GROUP_DEMUX, GROUP_FW, GROUP_FW_FEAT, GROUP_SDEI, GROUP_SYSREG,
};
use ulna_kvm_backend::{Errno, RegId};
use ulna_stream::Reg;

/// One thing that a host cannot honour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// What: a register's name, or `vCPU features`, `counter frequency`, ...
    pub what: String,
    /// The register's id, if it is one.
    pub id: Option<u64>,
    /// What the machine has.
    pub have: String,
    /// What this host says or has.
    pub limit: String,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} in the machine; {}", self.what, self.have, self.limit)
    }
}

/// The name of a register as people know it.
pub fn name(id: RegId) -> String {
    let index = id.index();
    match id.group() {
        GROUP_SYSREG => match SysReg::from_code(index) {
            Some(r) => r.name().to_owned(),
            None => format!("system register {index:#06x}"),
        },
        GROUP_CORE => format!("core register {index}"),
        GROUP_DEMUX => format!("CCSIDR_EL1[{index}]"),
        GROUP_FW if index == 0 => "PSCI_VERSION".into(),
        GROUP_FW => format!("SMCCC_ARCH_WORKAROUND_{index}"),
        GROUP_FW_FEAT => {
            let names = ["STD_BMAP", "STD_HYP_BMAP", "VENDOR_HYP_BMAP", "VENDOR_HYP_BMAP_2"];
            names
                .get(usize::from(index))
                .map_or_else(|| format!("firmware bitmap {index}"), |n| (*n).to_owned())
        }
        GROUP_SDEI => format!("SDEI register {index:#x}"),
        _ => format!("register {:#x}", id.0),
    }
}

/// A value in hexadecimal, whatever its width.
pub fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().rev().map(|b| format!("{b:02x}")).collect();
    let short = digits.trim_start_matches('0');
    format!("0x{}", if short.is_empty() { "0" } else { short })
}

impl Blocked {
    /// A register that was refused; `now` is what this host has there.
    pub fn register(r: &Reg, errno: Errno, now: Option<&[u8]>) -> Blocked {
        let limit = match now {
            Some(now) => format!("this host has {} and refuses another ({errno})", hex(now)),
            None if errno == Errno::ENOENT => "this host has no such register".into(),
            None => format!("this host refuses it ({errno})"),
        };
        Blocked { what: name(RegId(r.id)), id: Some(r.id), have: hex(&r.bytes), limit }
    }

    /// Features of KVM_ARM_VCPU_INIT that are missing.
    pub fn features(have: u32, supported: u32) -> Blocked {
        Blocked {
            what: "vCPU features".into(),
            id: None,
            have: format!("{have:#x}"),
            limit: format!("this host lacks {:#x}", have & !supported),
        }
    }

    /// The counter's frequency.
    pub fn counter(have: u64, here: u64) -> Blocked {
        Blocked {
            what: "counter frequency".into(),
            id: None,
            have: format!("{have} Hz"),
            limit: format!("this host's counter has {here} Hz, which KVM cannot change (policy soft can)"),
        }
    }

    /// Something that is no register of a vCPU.
    pub fn other(what: impl Into<String>, have: impl Into<String>, limit: impl Into<String>) -> Blocked {
        Blocked { what: what.into(), id: None, have: have.into(), limit: limit.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_register_value_and_limit() {
        let r = Reg { id: RegId::sysreg(0xc038).0, bytes: vec![5, 0, 1, 0, 0, 0, 0, 0], neutral: None };
        let b = Blocked::register(&r, Errno::EINVAL, Some(&[1; 8]));
        let text = b.to_string();
        assert!(
            text.starts_with("ID_AA64MMFR0_EL1 is 0x10005 in the machine; this host has 0x101010101010101"),
            "{text}"
        );
        assert_eq!(name(RegId::fw_feat(2)), "VENDOR_HYP_BMAP");
        assert_eq!(hex(&[0; 16]), "0x0");
    }
}
