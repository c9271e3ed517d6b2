//! Firecracker's custom CPU template: bit patterns of registers and of KVM_ARM_VCPU_INIT's features, and capabilities
//! that the host must have.

use super::{BadCpu, Bits, Cpu};
use crate::check::FEATURES;
use serde::{Deserialize, Serialize};
use ulna_arm_regs::SysReg;
use ulna_kvm_abi::RegId;
use ulna_machine::VcpuFeatures;
use ulna_machine::catalog::{Named, name};
use ulna_machine::rules::CHOSEN;

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Template {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kvm_capabilities: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vcpu_features: Vec<Feature>,
    reg_modifiers: Vec<Register>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Feature {
    index: u32,
    bitmap: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Register {
    addr: String,
    bitmap: String,
}

/// A pattern: after `0b`, from the highest bit, 0, 1, or x for what is left alone; `_` between them.
fn pattern(text: &str) -> Result<Bits, BadCpu> {
    let digits = text.strip_prefix("0b").ok_or_else(|| BadCpu(format!("{text:?} does not start with 0b")))?;
    let mut b = Bits::default();
    let mut count = 0;
    for c in digits.chars().filter(|c| *c != '_') {
        let (mask, value) = match c {
            '0' => (1, 0),
            '1' => (1, 1),
            'x' => (0, 0),
            _ => return Err(BadCpu(format!("{c:?} in {text:?} is none of 0, 1, x"))),
        };
        count += 1;
        if count > 64 {
            return Err(BadCpu(format!("{text:?} has more than 64 bits")));
        }
        b = Bits { mask: b.mask << 1 | mask, value: b.value << 1 | value };
    }
    Ok(b)
}

fn text(b: Bits, width: u32) -> String {
    let digit = |n: u32| match (b.mask >> n & 1, b.value >> n & 1) {
        (0, _) => 'x',
        (_, 0) => '0',
        _ => '1',
    };
    (0..width).rev().fold("0b".to_owned(), |mut s, n| {
        s.push(digit(n));
        s
    })
}

pub(super) fn parse(json: &str) -> Result<Cpu, BadCpu> {
    let t: Template = serde_json::from_str(json).map_err(|e| BadCpu(e.to_string()))?;
    let mut cpu = Cpu::default();
    for r in &t.reg_modifiers {
        let id = super::own::number(&r.addr).ok_or_else(|| BadCpu(format!("{:?} is no number", r.addr)))?;
        name(RegId(id)).map_err(|e| BadCpu(format!("{}: {e}", r.addr)))?;
        let b = pattern(&r.bitmap)?;
        cpu.set(RegId(id), b.mask, b.value);
    }
    for f in &t.vcpu_features {
        if f.index != 0 {
            return Err(BadCpu(format!("vcpu_features[{}]: arm64 has no such word", f.index)));
        }
        let b = pattern(&f.bitmap)?;
        // What Firecracker starts from: PSCI 0.2 and nothing else.
        let first = u64::from(VcpuFeatures::PSCI_0_2.bits());
        let bits = first & !b.mask | b.value & b.mask;
        cpu.features = Some(VcpuFeatures::from_bits(bits as u32));
    }
    Ok(cpu)
}

pub(super) fn write(cpu: &Cpu) -> (String, Vec<String>) {
    let mut t = Template::default();
    let mut lost = Vec::new();
    for (id, b) in &cpu.registers {
        match name(*id) {
            // Attributes of other descriptors than a vCPU's.
            Ok(n @ Named::Sys(r)) if r == SysReg::ICC_CTLR_EL1 || CHOSEN.contains(&r) => {
                lost.push(n.to_string())
            }
            _ => t.reg_modifiers.push(Register {
                addr: format!("{:#018x}", id.0),
                bitmap: text(*b, 8 * id.size().min(8) as u32),
            }),
        }
    }
    if let Some(f) = cpu.features {
        let known = FEATURES.iter().fold(0, |m, (_, f)| m | u64::from(f.bits()));
        let mask = known & !u64::from(VcpuFeatures::POWER_OFF.bits());
        let bits = Bits { mask, value: f.bits().into() };
        t.vcpu_features.push(Feature { index: 0, bitmap: text(bits, 7) });
    }
    if cpu.gic.is_some() {
        lost.push("gic".into());
    }
    let json = serde_json::to_string_pretty(&t).unwrap_or_default();
    (json + "\n", lost)
}
