//! `--cpu FILE`: what a host makes of it.

use crate::host::PolicyArg;
use std::path::Path;
use ulna_plan::Host;
use ulna_plan::cpu::{Contradiction, Cpu, Settings};
use ulna_profile::Profile;
use ulna_vmm::{CpuSettings, Error, GicVersion};

/// A CPU from a file in any of its spellings.
pub fn read(path: &Path) -> Result<Cpu, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File {
        action: "read the CPU from",
        path: path.into(),
        source,
    })?;
    Cpu::parse(&text).map_err(|e| Error::Usage(format!("--cpu {}: {e}", path.display())))
}

/// What is to be done so that guests of `profile` see it.
pub fn settings(path: &Path, profile: &Profile, policy: PolicyArg) -> Result<Settings, Error> {
    let host = Host::soft(profile.clone(), policy.into());
    read(path)?.resolve(&host).map_err(|wrong| contradicted(path, &host, &wrong))
}

/// All that a host cannot be of a file.
pub fn contradicted(path: &Path, host: &Host, wrong: &[Contradiction]) -> Error {
    let all: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    Error::Usage(format!("--cpu {}: {} cannot be that: {}", path.display(), host.label(), all.join("; ")))
}

/// In the words of the VMM.
pub fn for_vmm(s: Settings) -> CpuSettings {
    CpuSettings {
        without: s.without.bits(),
        identity: s.identity,
        vm_registers: s.vm_registers,
        icc_ctlr: s.icc_ctlr,
        registers: s.registers,
    }
}

/// The interrupt controller that the file wants and the option says.
pub fn gic(wanted: Option<u8>, option: Option<GicVersion>) -> Result<GicVersion, Error> {
    let file = match wanted {
        Some(2) => Some(GicVersion::V2),
        Some(_) => Some(GicVersion::V3),
        None => None,
    };
    match (file, option) {
        (Some(f), Some(o)) if f != o => Err(Error::Usage(
            "--cpu and --gic contradict each other: the file wants the other interrupt controller".into(),
        )),
        (f, o) => Ok(o.or(f).unwrap_or_default()),
    }
}
