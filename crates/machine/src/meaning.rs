//! What a register's value says: fields by name, and what their numbers mean.

use crate::catalog::{Core, Firmware, Named, Sdei};
use ulna_arm_regs::{Feat, Field, SysReg};

/// Bits of a value with their name and what they say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The field; empty for a bit that is set and has no name.
    pub name: &'static str,
    /// Highest bit.
    pub high: u32,
    /// Lowest bit.
    pub low: u32,
    /// What it holds.
    pub value: u64,
    /// What that means; empty where there is nothing to say.
    pub meaning: String,
}

/// Name, highest and lowest bit.
type Bits = (&'static str, u32, u32);

impl Named {
    /// The fields, highest first; empty if it is one number or has no names here.
    fn fields(self) -> Vec<Bits> {
        let pseudo: &[Bits] = match self {
            Named::Firmware(Firmware::PsciVersion) => &[("Major", 31, 16), ("Minor", 15, 0)],
            Named::Firmware(Firmware::Workaround(2)) => &[("Enabled", 4, 4), ("Level", 3, 0)],
            Named::Firmware(Firmware::Workaround(_)) => &[("Level", 3, 0)],
            Named::Firmware(Firmware::StdBmap) => &[("TRNG_V1_0", 0, 0)],
            Named::Firmware(Firmware::StdHypBmap) => &[("PV_TIME", 0, 0)],
            Named::Firmware(Firmware::VendorHypBmap) => &[("PTP", 1, 1), ("FUNC_FEAT", 0, 0)],
            Named::Firmware(Firmware::VendorHypBmap2) => {
                &[("DISCOVER_IMPL_CPUS", 1, 1), ("DISCOVER_IMPL_VER", 0, 0)]
            }
            Named::Sdei(Sdei::Version) => &[("Major", 31, 16), ("Minor", 15, 0)],
            Named::Sdei(Sdei::Features) => &[
                ("HOST_NMI", 18, 18),
                ("Critical", 17, 17),
                ("Relative", 16, 16),
                ("SharedSlots", 15, 8),
                ("PrivateSlots", 7, 0),
            ],
            Named::Sdei(Sdei::Pe) => &[("Critical", 2, 2), ("Normal", 1, 1), ("Masked", 0, 0)],
            _ => &[],
        };
        let high = |f: &Field| u32::from(f.lsb) + u32::from(f.width) - 1;
        let own = self.sysreg().map(SysReg::fields).unwrap_or_default();
        pseudo.iter().copied().chain(own.iter().map(|f| (f.name, high(f), f.lsb.into()))).collect()
    }

    /// A value by fields, highest first. Bits that are set and have no name come last.
    pub fn split(self, value: u64) -> Vec<Part> {
        let mut rest = value;
        let mut parts = Vec::new();
        for (name, high, low) in self.fields() {
            let mask = (u64::MAX >> (63 - (high - low))) << low;
            rest &= !mask;
            let field = (value & mask) >> low;
            parts.push(Part { name, high, low, value: field, meaning: self.meaning(low, field, value) });
        }
        if !parts.is_empty() {
            for bit in (0..64).rev().filter(|bit| rest >> bit & 1 != 0) {
                parts.push(Part { name: "", high: bit, low: bit, value: 1, meaning: String::new() });
            }
        }
        parts
    }

    fn meaning(self, low: u32, field: u64, value: u64) -> String {
        match self {
            Named::Firmware(Firmware::PsciVersion) => String::new(),
            Named::Firmware(Firmware::Workaround(n)) if low == 0 => level(n, field).to_owned(),
            Named::Firmware(Firmware::Workaround(_)) => yes_no(field, "enabled", "not enabled"),
            Named::Firmware(_) => yes_no(field, "offered", "hidden"),
            Named::Ccsidr(_) => match low {
                0 => format!("{} bytes a line", 16u64 << field),
                3 => format!("{} ways", field + 1),
                13 => format!("{} sets", field + 1),
                _ => String::new(),
            },
            Named::Core(Core::Pstate | Core::Sys(SysReg::SPSR_EL1)) if low == 0 => mode(field).to_owned(),
            Named::Sys(r) => announced(r, low, value),
            _ => String::new(),
        }
    }
}

fn yes_no(field: u64, yes: &str, no: &str) -> String {
    (if field == 1 { yes } else { no }).to_owned()
}

/// Levels of KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_*; the second counts otherwise.
fn level(workaround: u8, level: u64) -> &'static str {
    match (workaround, level) {
        (_, 0) => "not available",
        (2, 1) => "unknown",
        (2, 2) | (1 | 3, 1) => "available",
        (2, 3) | (1 | 3, 2) => "not required",
        _ => "",
    }
}

/// PSTATE.M and PSTATE.nRW (Arm ARM C5.2.19).
fn mode(m: u64) -> &'static str {
    match m {
        0 => "EL0t",
        4 => "EL1t",
        5 => "EL1h",
        8 => "EL2t",
        9 => "EL2h",
        16.. => "AArch32",
        _ => "reserved",
    }
}

/// The features that a field of an ID register announces.
fn announced(r: SysReg, low: u32, value: u64) -> String {
    let says = |f: &Feat| f.rule().iter().any(|c| c.reg == r && u32::from(c.lsb) == low && c.holds(value));
    let names: Vec<String> = Feat::ALL.iter().filter(|f| says(f)).map(Feat::to_string).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;
    use proptest::prelude::*;
    use ulna_kvm_abi::RegId;

    fn split(id: u64, value: u64) -> Vec<Part> {
        catalog::name(RegId(id)).unwrap().split(value)
    }

    fn part(id: u64, value: u64, field: &str) -> Part {
        split(id, value).into_iter().find(|p| p.name == field).unwrap()
    }

    #[test]
    fn values_are_split_with_their_meaning() {
        let aes = part(0x6030_0000_0013_c030, 0x20, "AES");
        assert_eq!((aes.high, aes.low, aes.value), (7, 4, 2));
        assert_eq!(aes.meaning, "FEAT_AES FEAT_PMULL");
        assert_eq!(part(0x6030_0000_0013_c030, 0x20, "SHA1").meaning, "");
        assert_eq!(part(0x6030_0000_0010_0042, 0x3c5, "M").meaning, "EL1h");
        assert_eq!(part(0x6030_0000_0014_0000, 0x1_0001, "Major").value, 1);
        assert_eq!(part(0x6030_0000_0014_0001, 2, "Level").meaning, "not required");
        assert_eq!(part(0x6030_0000_0014_0002, 0x12, "Level").meaning, "available");
        assert_eq!(part(0x6030_0000_0014_0002, 0x12, "Enabled").meaning, "enabled");
        assert_eq!(part(0x6030_0000_0016_0002, 1, "PTP").meaning, "hidden");
        assert_eq!(part(0x6020_0000_0011_0000, 2, "LineSize").meaning, "64 bytes a line");
        let odd = split(0x6030_0000_0014_0001, 1 << 63);
        assert_eq!((odd[1].high, odd[1].name), (63, ""));
        assert_eq!(split(0x6030_0000_0010_0000, 7), []);
    }

    proptest! {
        #[test]
        fn no_id_and_no_value_panics_and_nothing_is_lost(
            low in any::<u32>(), group in 0x10u64..0x18, size in 0u64..16, all in any::<u64>(), value in any::<u64>(),
        ) {
            let made = 0x60 << 56 | size << 52 | group << 16;
            for id in [made | u64::from(low & 0xffff), all, made | u64::from(low)] {
                if let Ok(n) = catalog::name(RegId(id)) {
                    let parts = n.split(value);
                    let sum = parts.iter().fold(0, |m, p| m | p.value << p.low);
                    prop_assert!(parts.is_empty() || sum == value);
                    prop_assert!(!n.to_string().is_empty() && !n.introduced_by().is_empty());
                }
            }
        }
    }
}
