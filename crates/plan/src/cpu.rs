//! The CPU that a guest is to see: the file of `ulna run --cpu`, and the other spellings of the same thing.
//!
//! A file says what registers and fields read, which vCPU features there are, and which interrupt controller; what it
//! leaves out stays as the host has it. It may only lower: [`Cpu::resolve`] says all that a host contradicts.

mod firecracker;
mod own;
mod qemu;

use crate::check::{FEATURES, takes_ctlr};
use crate::guest::{Guest, own_ctlr};
use crate::host::Host;
use std::collections::BTreeMap;
use std::fmt;
use ulna_arm_regs::SysReg;
use ulna_arm_regs::id::IdReg;
use ulna_kvm_abi::RegId;
use ulna_machine::catalog::{Firmware, Named, id_of, name};
use ulna_machine::rules::{CHOSEN, IDENTITY};
use ulna_machine::{VcpuFeatures, firmware};

const PFR1: RegId = RegId::sysreg(SysReg::ID_AA64PFR1_EL1.code());

/// Bits of a register and what they read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bits {
    /// Which.
    pub mask: u64,
    /// Their value, in place.
    pub value: u64,
}

/// A CPU.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cpu {
    /// Words for people: where it is from.
    pub comment: Vec<String>,
    /// Features of vCPUs; none: all that the host has.
    pub features: Option<VcpuFeatures>,
    /// 2 or 3; none: as the host has it.
    pub gic: Option<u8>,
    /// Registers by id.
    pub registers: BTreeMap<RegId, Bits>,
}

/// The spellings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Ours: TOML.
    Ulna,
    /// Firecracker's custom CPU template: JSON.
    Firecracker,
    /// `SYSREG_REG_FIELD=value` properties, as in QEMU's `-cpu host,...`.
    Qemu,
}

/// Why a file says nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadCpu(pub(crate) String);

impl fmt::Display for BadCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadCpu {}

/// Something that a host cannot do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contradiction(pub(crate) String);

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a VMM does to give a guest this CPU on one host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Features that vCPUs go without.
    pub without: VcpuFeatures,
    /// KVM_CAP_ARM_WRITABLE_IMP_ID_REGS is needed.
    pub identity: bool,
    /// Registers that only the VM has (CNTFRQ_EL0, DCZID_EL0, PMCEID0_EL0, PMCEID1_EL0), where they are not the host's.
    pub vm_registers: Vec<(RegId, u64)>,
    /// ICC_CTLR_EL1 for the GIC, where it is not the host's.
    pub icc_ctlr: Option<u64>,
    /// 2 or 3.
    pub gic: Option<u8>,
    /// Registers of vCPU and VM that are to be written before the first run, in this order.
    pub registers: Vec<(RegId, u64)>,
}

impl Cpu {
    /// From a file's text, in whichever spelling.
    pub fn parse(text: &str) -> Result<Cpu, BadCpu> {
        let start = text.trim_start();
        if start.starts_with('{') {
            return firecracker::parse(text);
        }
        // QEMU's spelling is a list of properties, perhaps behind the name of the CPU.
        let first =
            start.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#')).unwrap_or_default();
        if first.contains("SYSREG_") || first.starts_with("-cpu") || first.starts_with("host") {
            return qemu::parse(text);
        }
        own::parse(text)
    }

    /// As text, and what the spelling has no words for.
    pub fn write(&self, format: Format) -> (String, Vec<String>) {
        match format {
            Format::Ulna => (own::write(self), Vec::new()),
            Format::Firecracker => firecracker::write(self),
            Format::Qemu => qemu::write(self),
        }
    }

    /// Adds what bits of a register read.
    pub fn set(&mut self, id: RegId, mask: u64, value: u64) {
        let mask = if id.size() < 8 { mask & ((1 << (8 * id.size())) - 1) } else { mask };
        let b = self.registers.entry(id).or_default();
        b.mask |= mask;
        b.value = b.value & !mask | value & mask;
    }

    /// What is to be done on `host`, or everything that it contradicts.
    pub fn resolve(&self, host: &Host) -> Result<Settings, Vec<Contradiction>> {
        let mut wrong = Vec::new();
        let offered = host.usual_features();
        let features = self.features.unwrap_or(offered);
        for (name, f) in FEATURES {
            if features.contains(f) && !host.features().contains(f) {
                wrong.push(Contradiction(format!("the host has no vCPU feature {name}")));
            }
        }
        let mut s = Settings { gic: self.gic, ..Settings::default() };
        s.without = VcpuFeatures::from_bits(offered.bits() & !features.bits());
        let gic = host.gic();
        if self.gic == Some(3) && !gic.v3 || self.gic == Some(2) && !gic.v2 {
            let version = self.gic.unwrap_or(0);
            wrong.push(Contradiction(format!("the host has no GICv{version} for its guests")));
        }
        let features = VcpuFeatures::from_bits(features.bits() & host.features().bits());
        let machine = host.machine(features);
        let guest = Guest::of(host, features, self.gic == Some(2));
        let traits = host.open_traits();
        let ssbs = firmware::ssbs(self.applied(PFR1, guest.reg(PFR1).unwrap_or(0) as u64));
        for (&id, bits) in &self.registers {
            let Ok(n) = name(id) else {
                wrong.push(Contradiction(format!("{:#x} names no register", id.0)));
                continue;
            };
            if n == Named::Sys(SysReg::ICC_CTLR_EL1) {
                let (own, wanted) = (own_ctlr(host), self.applied(id, own_ctlr(host)));
                if own != wanted {
                    s.icc_ctlr = Some(wanted);
                    if !takes_ctlr(host, wanted) {
                        wrong.push(Contradiction(format!(
                            "ICC_CTLR_EL1 {wanted:#x}: the host's GIC has {own:#x} and cannot play that"
                        )));
                    }
                }
                continue;
            }
            let now = match n {
                Named::Sys(SysReg::CNTFRQ_EL0) => Some(guest.counter_hz),
                // A constant that a file may repeat and no VMM can write.
                Named::Sys(r) if !machine.listed(r) => machine.value(r),
                // It follows what the guest is told of SSBS.
                Named::Firmware(Firmware::Workaround(n)) => Some(machine.workaround_level(n, ssbs)),
                _ => guest.reg(id).map(|v| v as u64),
            };
            let Some(now) = now else {
                // What a file says of a register that the host has not, it has to say of nothing.
                if bits.value != 0 {
                    wrong.push(Contradiction(format!("{n}: the host has no such register")));
                }
                continue;
            };
            let wanted = self.applied(id, now);
            if wanted == now {
                continue;
            }
            let refusals = machine.refusals(n, wanted.into(), traits, ssbs);
            wrong.extend(refusals.iter().map(|r| Contradiction(r.to_string())));
            if !refusals.is_empty() {
                continue;
            }
            match n {
                Named::Sys(r) if CHOSEN.contains(&r) => s.vm_registers.push((id, wanted)),
                _ if machine.check(n, wanted.into(), traits, ssbs) != Ok(wanted.into()) => {
                    wrong.push(Contradiction(format!("{n} is {now:#x} on the host, whatever is written")));
                }
                _ => {
                    s.identity |= matches!(n, Named::Sys(r) if IDENTITY.contains(&r));
                    s.registers.push((id, wanted));
                }
            }
        }
        if wrong.is_empty() { Ok(s) } else { Err(wrong) }
    }

    /// A register's value with what the file says of it.
    pub fn applied(&self, id: RegId, now: u64) -> u64 {
        self.registers.get(&id).map_or(now, |b| now & !b.mask | b.value & b.mask)
    }

    /// The guest that this CPU makes of `host`.
    pub fn guest(&self, host: &Host) -> Result<Guest, Vec<Contradiction>> {
        let s = self.resolve(host)?;
        let features = host.usual_features().without(s.without);
        let mut g = Guest::of(host, features, s.gic == Some(2));
        g.traits.identity = s.identity;
        let pfr1 = self.applied(PFR1, g.sysreg(SysReg::ID_AA64PFR1_EL1).unwrap_or(0));
        let machine = host.machine(features);
        for n in 1..=3 {
            let level = machine.workaround_level(n, firmware::ssbs(pfr1));
            g.set(RegId::fw(n.into()), level);
        }
        for (id, v) in &s.registers {
            g.set(*id, *v);
        }
        for (id, v) in &s.vm_registers {
            match (SysReg::from_code(id.index()), &mut g.pmu_events) {
                (Some(SysReg::CNTFRQ_EL0), _) => g.counter_hz = *v,
                (Some(SysReg::DCZID_EL0), _) => g.dczid = *v,
                (Some(SysReg::PMCEID0_EL0), Some(events)) => events[0] = *v,
                (Some(SysReg::PMCEID1_EL0), Some(events)) => events[1] = *v,
                _ => {}
            }
        }
        if let (Some(crate::Gic::V3 { ctlr }), Some(wanted)) = (&mut g.gic, s.icc_ctlr) {
            *ctlr = wanted;
        }
        Ok(g)
    }
}

/// `REGISTER` or `REGISTER.FIELD`: the id and the bits. Fields of ICC_CTLR_EL1, PMCR_EL0 and CTR_EL0 are known too.
pub(crate) fn find(text: &str) -> Result<(RegId, u64), BadCpu> {
    let (reg, field) = match text.split_once('.') {
        Some((r, f)) => (r, Some(f)),
        None => (text, None),
    };
    let id = id_of(reg).ok_or_else(|| BadCpu(format!("{reg:?} is no register")))?;
    let n = name(id).map_err(|e| BadCpu(format!("{reg}: {e}")))?;
    let Some(field) = field else {
        let whole = if id.size() >= 8 { u64::MAX } else { (1 << (8 * id.size())) - 1 };
        return Ok((id, whole));
    };
    let Named::Sys(r) = n else { return Err(BadCpu(format!("{reg} has no fields"))) };
    field_mask(r, field).map(|m| (id, m)).ok_or_else(|| BadCpu(format!("{reg} has no field {field:?}")))
}

fn field_mask(r: SysReg, field: &str) -> Option<u64> {
    match IdReg::of(r) {
        Some(row) => row.field(field).map(|f| f.mask()),
        None => r.fields().iter().find(|f| f.name.eq_ignore_ascii_case(field)).map(|f| f.mask()),
    }
}

/// A field's name by its bits, and its value: only whole fields, highest first; none if something else is left.
pub(crate) fn split(id: RegId, bits: Bits) -> Option<Vec<(&'static str, u64)>> {
    let Ok(Named::Sys(r)) = name(id) else { return None };
    let mut rest = bits.mask;
    let mut fields = Vec::new();
    for f in r.fields() {
        let m = f.mask();
        if m & bits.mask == m {
            rest &= !m;
            fields.push((f.name, (bits.value & m) >> f.lsb));
        }
    }
    (rest == 0 && !fields.is_empty()).then_some(fields)
}
