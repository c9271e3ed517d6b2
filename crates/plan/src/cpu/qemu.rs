//! QEMU's spelling: properties of `-cpu host`, `SYSREG_<REG>_<FIELD>=<number>` for fields of ID registers, and `pauth`,
//! `pmu`, `sve` for features of vCPUs.

use super::{BadCpu, Cpu, own, split};
use ulna_arm_regs::SysReg;
use ulna_arm_regs::id::IdReg;
use ulna_kvm_abi::RegId;
use ulna_machine::VcpuFeatures;
use ulna_machine::catalog::{Named, name};

/// Properties of vCPU features.
const FEATURES: [(&str, VcpuFeatures); 3] =
    [("pauth", VcpuFeatures::PTRAUTH), ("pmu", VcpuFeatures::PMU_V3), ("sve", VcpuFeatures::SVE)];

/// All that a guest has if no property says otherwise.
fn all() -> VcpuFeatures {
    FEATURES.iter().fold(VcpuFeatures::PSCI_0_2, |m, (_, f)| m | *f)
}

pub(super) fn parse(text: &str) -> Result<Cpu, BadCpu> {
    let mut cpu = Cpu::default();
    let mut features = all();
    let mut said = false;
    let lines = text.lines().filter(|l| !l.trim_start().starts_with('#'));
    let parts = lines.flat_map(|l| l.split([',', ' ', '\t', '\\'])).map(str::trim).filter(|p| !p.is_empty());
    for part in parts {
        // The option and the model it starts from.
        if matches!(part, "-cpu" | "host" | "max") {
            continue;
        }
        let (key, value) =
            part.split_once('=').ok_or_else(|| BadCpu(format!("{part:?} is no NAME=VALUE")))?;
        if let Some((_, f)) = FEATURES.iter().find(|(n, _)| *n == key) {
            said = true;
            features = match value {
                "on" => features | *f,
                "off" => features.without(*f),
                _ => return Err(BadCpu(format!("{key} is on or off, not {value:?}"))),
            };
            continue;
        }
        let (r, field) =
            field(key).ok_or_else(|| BadCpu(format!("{key:?} is no field of an ID register")))?;
        let v = own::number(value).ok_or_else(|| BadCpu(format!("{key}: {value:?} is no number")))?;
        if v > field.mask() >> field.lsb {
            return Err(BadCpu(format!("{key}: {v:#x} does not fit")));
        }
        cpu.set(RegId::sysreg(r.code()), field.mask(), v << field.lsb);
    }
    cpu.features = said.then_some(features);
    Ok(cpu)
}

/// `SYSREG_<REG>_<FIELD>`; registers without their level, too.
fn field(key: &str) -> Option<(SysReg, &'static ulna_arm_regs::id::IdField)> {
    let rest = key.strip_prefix("SYSREG_")?;
    SysReg::ALL.iter().filter_map(|r| Some((*r, IdReg::of(*r)?))).find_map(|(r, row)| {
        let full = r.name();
        let short = full.rsplit_once('_').map_or(full, |s| s.0);
        [full, short].into_iter().find_map(|n| {
            let start = rest.get(..n.len())?;
            let f = rest.get(n.len()..)?.strip_prefix('_')?;
            if start.eq_ignore_ascii_case(n) { row.field(f).map(|f| (r, f)) } else { None }
        })
    })
}

pub(super) fn write(cpu: &Cpu) -> (String, Vec<String>) {
    let mut parts = vec!["host".to_owned()];
    let mut lost = Vec::new();
    if let Some(f) = cpu.features {
        for (n, bits) in FEATURES {
            // What a host has not, QEMU does not take even as off.
            if !f.contains(bits) {
                parts.push(format!("{n}=off"));
            }
        }
    }
    for (id, b) in &cpu.registers {
        let Ok(n) = name(*id) else { continue };
        let fields = match n {
            Named::Sys(r) if IdReg::of(r).is_some() => {
                let known = IdReg::of(r).map_or(0, |row| row.fields.iter().fold(0, |m, f| m | f.mask()));
                split(*id, super::Bits { mask: b.mask & known, value: b.value })
            }
            _ => None,
        };
        match fields {
            Some(fields) => parts.extend(fields.iter().map(|(f, v)| format!("SYSREG_{n}_{f}={v:#x}"))),
            None => lost.push(n.to_string()),
        }
    }
    if cpu.gic.is_some() {
        lost.push("gic".into());
    }
    (parts.join(",") + "\n", lost)
}
