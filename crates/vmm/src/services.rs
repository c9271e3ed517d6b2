//! Hypercall services that a user chooses (`--services`), and the CPUs a guest is to prepare for (`--targets`).
//!
//! A service is one row of [`SERVICES`]: its name, what can be said of it, what each word does to the VM.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use ulna_kvm_backend::abi::{SmcccFilter, cap, private, vcpu_feature};
use ulna_kvm_backend::{Errno, RegId, Vcpu, Vm};

/// A service.
#[derive(PartialEq, Eq, Debug)]
pub struct Service {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, for help.
    pub what: &'static str,
    /// What can be said of it.
    pub choices: &'static [Choice],
}

/// What can be said of a service.
#[derive(PartialEq, Eq, Debug)]
pub struct Choice {
    /// The word.
    pub word: &'static str,
    /// The first kernel whose KVM has it.
    pub since: (u16, u16),
    /// What it does.
    pub effects: &'static [Effect],
}

/// What a choice does to a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A capability is enabled before there is a vCPU.
    Capability(u32, [u64; 4]),
    /// vCPUs go without a feature of KVM_ARM_VCPU_INIT, by its bit.
    WithoutFeature(u32),
    /// A firmware register gets a value.
    Register(RegId, u64),
    /// Bits of a firmware register are set.
    Set(RegId, u64),
    /// Bits of a firmware register are cleared.
    Clear(RegId, u64),
    /// Every vCPU gets a structure that tells how much time was stolen from it.
    StolenTime,
}

const STD: RegId = RegId::fw_feat(0);
const STD_HYP: RegId = RegId::fw_feat(1);
const VENDOR_HYP: RegId = RegId::fw_feat(2);
const VENDOR_HYP_2: RegId = RegId::fw_feat(3);

const SDEI: Effect = Effect::Capability(private::CAP_SDEI, [0; 4]);

const fn choice(word: &'static str, effects: &'static [Effect]) -> Choice {
    Choice { word, since: (0, 0), effects }
}

const fn psci(word: &'static str, since: (u16, u16), effects: &'static [Effect]) -> Choice {
    Choice { word, since, effects }
}

/// All services. What is not chosen stays as KVM has it: everything on, PSCI at its newest, no place for stolen time, no
/// SDEI.
pub const SERVICES: &[Service] = &[
    Service {
        name: "psci",
        what: "version of PSCI, which starts, stops and suspends CPUs",
        choices: &[
            psci("0.1", (0, 0), &[Effect::WithoutFeature(vcpu_feature::PSCI_0_2)]),
            psci("0.2", (0, 0), &[Effect::Register(RegId::PSCI_VERSION, 0x2)]),
            psci("1.0", (0, 0), &[Effect::Register(RegId::PSCI_VERSION, 0x1_0000)]),
            psci("1.1", (0, 0), &[Effect::Register(RegId::PSCI_VERSION, 0x1_0001)]),
            psci("1.2", (6, 13), &[Effect::Register(RegId::PSCI_VERSION, 0x1_0002)]),
            psci("1.3", (6, 13), &[Effect::Register(RegId::PSCI_VERSION, 0x1_0003)]),
        ],
    },
    Service {
        name: "trng",
        what: "random numbers from firmware (TRNG 1.0)",
        choices: &[choice("on", &[Effect::Set(STD, 1)]), choice("off", &[Effect::Clear(STD, 1)])],
    },
    Service {
        name: "pvtime",
        what: "how much time the host stole from each vCPU (off: as without the option, but the calls are gone, too)",
        choices: &[
            choice("on", &[Effect::Set(STD_HYP, 1), Effect::StolenTime]),
            choice("off", &[Effect::Clear(STD_HYP, 1)]),
        ],
    },
    Service {
        name: "kvm",
        what: "KVM's own calls: its UID and their list",
        choices: &[
            choice("on", &[Effect::Set(VENDOR_HYP, 1)]),
            choice("off", &[Effect::Clear(VENDOR_HYP, 3)]),
        ],
    },
    Service {
        name: "ptp",
        what: "the host's clock as a PTP clock",
        choices: &[
            choice("on", &[Effect::Set(VENDOR_HYP, 2)]),
            choice("off", &[Effect::Clear(VENDOR_HYP, 2)]),
        ],
    },
    Service {
        name: "suspend",
        what: "PSCI SYSTEM_SUSPEND: the guest can sleep until an interrupt wakes it, or `ulna ctl VM resume` (off unless asked for)",
        choices: &[choice("on", &[Effect::Capability(cap::ARM_SYSTEM_SUSPEND, [0; 4])]), choice("off", &[])],
    },
    Service {
        name: "sdei",
        what: "events that interrupt whatever the guest does, NMIs among them (ulna's own: off unless asked for)",
        choices: &[
            choice("1.0", &[SDEI, Effect::Register(RegId::SDEI_VERSION, 0x1_0000)]),
            choice("1.1", &[SDEI, Effect::Register(RegId::SDEI_VERSION, 0x1_0001)]),
            choice("off", &[]),
        ],
    },
];

/// A service and some of its words.
type Words = (&'static str, &'static [&'static str]);

/// What cannot be asked for together, and why.
const CONTRADICTIONS: &[(Words, Words, &str)] = &[
    (("psci", OLD), ("trng", ON), FINDS),
    (("psci", OLD), ("pvtime", ON), FINDS),
    (("psci", OLD), ("kvm", ON), FINDS),
    (("psci", OLD), ("ptp", ON), FINDS),
    (("psci", OLD), ("suspend", ON), "SYSTEM_SUSPEND came with PSCI 1.0"),
    (("kvm", &["off"]), ("ptp", ON), "a guest finds PTP in the list of KVM's calls"),
];
const OLD: &[&str] = &["0.1", "0.2"];
const ON: &[&str] = &["on"];
const FINDS: &str = "a guest finds such services by PSCI 1.0 or newer";

/// What was chosen: `name=word,...`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Services(Vec<(&'static Service, &'static Choice)>);

impl From<Services> for String {
    fn from(s: Services) -> String {
        s.to_string()
    }
}

impl TryFrom<String> for Services {
    type Error = String;

    fn try_from(text: String) -> Result<Services, String> {
        if text.is_empty() { Ok(Services::default()) } else { text.parse() }
    }
}

impl FromStr for Services {
    type Err = String;

    fn from_str(text: &str) -> Result<Services, String> {
        let mut chosen = Services::default();
        for part in text.split(',') {
            let (name, word) = part.split_once('=').unwrap_or((part, ""));
            let names = || SERVICES.iter().map(|s| s.name).collect::<Vec<_>>().join(", ");
            let service = SERVICES
                .iter()
                .find(|s| s.name == name)
                .ok_or_else(|| format!("there is no service {name:?}; there are {}", names()))?;
            let choice = service
                .choices
                .iter()
                .find(|c| c.word == word)
                .ok_or_else(|| format!("{name} is one of {}, not {word:?}", service.words()))?;
            if let Some(before) = chosen.word(name) {
                return Err(format!("{name} is given twice, as {before} and {word}"));
            }
            chosen.0.push((service, choice));
        }
        let is = |s: &Words| chosen.word(s.0).filter(|w| s.1.contains(w)).map(|w| format!("{}={w}", s.0));
        for (a, b, why) in CONTRADICTIONS {
            if let (Some(a), Some(b)) = (is(a), is(b)) {
                return Err(format!("{a} and {b} contradict each other: {why}"));
            }
        }
        Ok(chosen)
    }
}

impl Service {
    /// Its words, as for help.
    pub fn words(&self) -> String {
        self.choices.iter().map(|c| c.word).collect::<Vec<_>>().join("|")
    }
}

/// All services with their words, for help.
pub fn help() -> String {
    SERVICES.iter().map(|s| format!("  {}={}: {}\n", s.name, s.words(), s.what)).collect()
}

impl Services {
    /// What was said of a service.
    pub fn word(&self, name: &str) -> Option<&'static str> {
        self.0.iter().find(|(s, _)| s.name == name).map(|(_, c)| c.word)
    }

    /// The first kernel whose KVM has all that was chosen, and what needs it.
    pub fn since(&self) -> ((u16, u16), String) {
        let newest = self.0.iter().max_by_key(|(_, c)| c.since);
        newest.map_or(((0, 0), String::new()), |(s, c)| (c.since, format!("{}={}", s.name, c.word)))
    }

    fn effects(&self) -> impl Iterator<Item = (&Service, &'static Effect)> {
        self.0.iter().flat_map(|(s, c)| c.effects.iter().map(|e| (*s, e)))
    }

    /// Features of KVM_ARM_VCPU_INIT that vCPUs go without.
    pub(crate) fn without(&self) -> u32 {
        let bit = |e: &Effect| if let Effect::WithoutFeature(n) = e { 1 << n } else { 0 };
        self.effects().fold(0, |all, (_, e)| all | bit(e))
    }

    /// Has the guest SDEI?
    pub(crate) fn sdei(&self) -> bool {
        self.effects().any(|(_, e)| *e == SDEI)
    }

    /// Do vCPUs have structures of stolen time?
    pub(crate) fn stolen_time(&self) -> bool {
        self.effects().any(|(_, e)| *e == Effect::StolenTime)
    }

    /// What is done before there is a vCPU.
    pub(crate) fn prepare(&self, vm: &dyn Vm) -> Result<(), Error> {
        for (service, e) in self.effects() {
            if let Effect::Capability(n, args) = e {
                vm.enable_cap(*n, *args).map_err(|e| refused(service.name, e))?;
            }
        }
        Ok(())
    }

    /// What is done once vCPUs are initialised; one of them reaches what belongs to the VM.
    pub(crate) fn apply(&self, vcpu: &mut dyn Vcpu) -> Result<(), Error> {
        for (service, e) in self.effects() {
            let done = match *e {
                Effect::Register(id, v) => vcpu.set_reg_u64(id, v),
                Effect::Set(id, bits) => vcpu.get_reg_u64(id).and_then(|v| vcpu.set_reg_u64(id, v | bits)),
                Effect::Clear(id, bits) => vcpu.get_reg_u64(id).and_then(|v| vcpu.set_reg_u64(id, v & !bits)),
                Effect::Capability(..) | Effect::WithoutFeature(_) | Effect::StolenTime => Ok(()),
            };
            done.map_err(|e| refused(service.name, e))?;
        }
        Ok(())
    }
}

fn refused(service: &str, e: Errno) -> Error {
    Error::Usage(format!("--services {service}: this KVM refuses it ({e})"))
}

impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(|(s, c)| format!("{}={}", s.name, c.word)).collect();
        f.write_str(&words.join(","))
    }
}

/// A CPU on which the guest may find itself: the kernel applies the errata workarounds of all of them (errata discovery,
/// DISCOVER_IMPL_VER and DISCOVER_IMPL_CPUS of KVM 6.15).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Target {
    /// MIDR_EL1.
    pub midr: u64,
    /// REVIDR_EL1.
    pub revidr: u64,
    /// AIDR_EL1.
    pub aidr: u64,
}

/// The first kernel whose KVM has errata discovery.
pub const TARGETS_SINCE: (u16, u16) = (6, 15);
/// Most targets: Linux keeps the list in memory for good.
pub const MAX_TARGETS: usize = 64;

const DISCOVER_IMPL_VER: u64 = 0xc600_0040;
const DISCOVER_IMPL_CPUS: u64 = 0xc600_0041;
/// Version 1.0 of the list.
const LIST_VERSION: u64 = 0x1_0000;
const NOT_SUPPORTED: u64 = -1i64 as u64;
const INVALID_PARAMETER: u64 = -3i64 as u64;
/// KVM_SMCCC_FILTER_FWD_TO_USER.
const FORWARD: u8 = 2;

/// The calls come here.
pub(crate) fn forward_targets(vm: &dyn Vm) -> Result<(), Errno> {
    vm.enable_cap(cap::ARM_WRITABLE_IMP_ID_REGS, [0; 4])?;
    vm.set_smccc_filter(&SmcccFilter {
        base: DISCOVER_IMPL_VER as u32,
        nr_functions: 2,
        action: FORWARD,
        pad: [0; 15],
    })
}

/// The guest is told that there is a list.
pub(crate) fn announce_targets(vcpu: &mut dyn Vcpu) -> Result<(), Errno> {
    vcpu.set_reg_u64(VENDOR_HYP_2, 3)
}

/// x0-x3 of a call that was forwarded.
pub(crate) fn answer(targets: &[Target], function: u64, x: [u64; 3]) -> [u64; 4] {
    match function {
        DISCOVER_IMPL_VER if !targets.is_empty() => [0, LIST_VERSION, targets.len() as u64, 0],
        DISCOVER_IMPL_CPUS if !targets.is_empty() => {
            let at = usize::try_from(x[0]).ok().and_then(|n| targets.get(n));
            match at.filter(|_| x[1] == 0 && x[2] == 0) {
                Some(t) => [0, t.midr, t.revidr, t.aidr],
                None => [INVALID_PARAMETER, 0, 0, 0],
            }
        }
        _ => [NOT_SUPPORTED, 0, 0, 0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_services_is_read() {
        let s: Services = "psci=1.3,trng=off,pvtime=on,ptp=off".parse().unwrap();
        assert_eq!((s.word("psci"), s.word("trng"), s.word("kvm")), (Some("1.3"), Some("off"), None));
        assert_eq!(s.since(), ((6, 13), "psci=1.3".into()));
        assert!(s.stolen_time());
        assert_eq!(s.to_string(), "psci=1.3,trng=off,pvtime=on,ptp=off");
        assert_eq!("psci=0.1".parse::<Services>().unwrap().without(), 1 << vcpu_feature::PSCI_0_2);
        assert!(!Services::default().stolen_time() && !Services::default().sdei());
        assert!(
            "sdei=1.0".parse::<Services>().unwrap().sdei() && !"sdei=off".parse::<Services>().unwrap().sdei()
        );
    }

    #[test]
    fn what_makes_no_sense_is_told_in_a_line() {
        for (text, says) in [
            ("", "there is no service \"\"; there are psci, trng, pvtime, kvm, ptp, suspend, sdei"),
            ("acpi=on", "there is no service \"acpi\""),
            ("psci", "psci is one of 0.1|0.2|1.0|1.1|1.2|1.3, not \"\""),
            ("psci=2.0", "not \"2.0\""),
            ("trng=1.0", "trng is one of on|off, not \"1.0\""),
            ("psci=1.0,psci=1.1", "psci is given twice, as 1.0 and 1.1"),
            ("kvm=off,ptp=on", "kvm=off and ptp=on contradict each other: a guest finds PTP in the list"),
            (
                "pvtime=on,psci=0.2",
                "psci=0.2 and pvtime=on contradict each other: a guest finds such services",
            ),
            (
                "suspend=on,psci=0.1",
                "psci=0.1 and suspend=on contradict each other: SYSTEM_SUSPEND came with PSCI 1.0",
            ),
            ("sdei=2.0", "sdei is one of 1.0|1.1|off, not \"2.0\""),
            ("psci=1.1,,trng=on", "there is no service \"\""),
        ] {
            let e = text.parse::<Services>().unwrap_err();
            assert!(e.contains(says) && !e.contains('\n'), "{text}: {e}");
        }
    }

    #[test]
    fn words_differ_and_every_service_says_what_it_is() {
        for (n, s) in SERVICES.iter().enumerate() {
            assert!(SERVICES[..n].iter().all(|o| o.name != s.name));
            assert!(s.choices.len() > 1 && !s.what.is_empty());
            for (n, c) in s.choices.iter().enumerate() {
                assert!(s.choices[..n].iter().all(|o| o.word != c.word));
                assert!(!c.effects.is_empty() || c.word == "off");
            }
        }
        let known = |s: &Words| {
            let service = SERVICES.iter().find(|t| t.name == s.0).unwrap();
            s.1.iter().all(|w| service.choices.iter().any(|c| c.word == *w))
        };
        assert!(CONTRADICTIONS.iter().all(|(a, b, _)| known(a) && known(b)));
    }

    /// I3 of seed-systems.md §5.4.
    #[test]
    fn i3_targets_are_told_one_by_one() {
        let t = |n| Target { midr: n, revidr: n + 1, aidr: n + 2 };
        let three = [t(0x413f_d0c1), t(0x431f_0af1), t(7)];
        assert_eq!(answer(&three, DISCOVER_IMPL_VER, [0; 3]), [0, 0x1_0000, 3, 0]);
        assert_eq!(answer(&three, DISCOVER_IMPL_CPUS, [2, 0, 0]), [0, 7, 8, 9]);
        for wrong in [[3, 0, 0], [u64::MAX, 0, 0], [0, 1, 0], [0, 0, 1]] {
            assert_eq!(answer(&three, DISCOVER_IMPL_CPUS, wrong), [INVALID_PARAMETER, 0, 0, 0]);
        }
        assert_eq!(answer(&[], DISCOVER_IMPL_VER, [0; 3])[0], NOT_SUPPORTED);
        assert_eq!(answer(&three, 0xc600_0042, [0; 3])[0], NOT_SUPPORTED);
    }
}
