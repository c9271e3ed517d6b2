//! The common denominator of several hosts: the most that a guest can have and yet go to all of them.
//!
//! A value is common if every host keeps it when it is written there; what is tried are the hosts' own values and, of
//! fields, every number. No rule stands here.

use crate::check::{CTLR_FIELDS, common_features, takes_ctlr};
use crate::cpu::Cpu;
use crate::guest::own_ctlr;
use crate::host::Host;
use std::collections::BTreeSet;
use std::fmt;
use ulna_arm_regs::SysReg;
use ulna_arm_regs::id::{IdField, IdReg, Safe};
use ulna_kvm_abi::RegId;
use ulna_machine::catalog::{Firmware, Named, name};
use ulna_machine::{Machine, VcpuFeatures, firmware};

/// What a guest can have on all of the hosts, and where they have nothing in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Baseline {
    /// The CPU.
    pub cpu: Cpu,
    /// What no value goes for.
    pub none: Vec<NoCommon>,
}

/// A register or field for which the hosts have no common value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoCommon {
    /// The register, field or thing.
    pub what: String,
    /// What each host has.
    pub values: Vec<(String, u64)>,
}

impl fmt::Display for NoCommon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.what)?;
        for (n, (host, v)) in self.values.iter().enumerate() {
            write!(f, "{} {host} {v:#x}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// The most that a field can say on all these machines: each keeps it in place of its own limit.
pub(crate) fn common_field(machines: &[&Machine], r: SysReg, f: &IdField) -> Option<u64> {
    let most = if f.width >= 8 { 0 } else { (1u64 << f.width) - 1 };
    let mut values: Vec<u64> = (0..=most).collect();
    values.extend(machines.iter().map(|m| f.raw(m.limit(r))));
    let takes = |m: &&Machine, raw: u64| {
        let v = f.set(m.limit(r), raw);
        m.check_write(r, v) == Ok(v)
    };
    let common = values.into_iter().filter(|raw| machines.iter().all(|m| takes(m, *raw)));
    match f.safe {
        Safe::Higher => common.min_by_key(|v| f.get(v << f.lsb)),
        _ => common.max_by_key(|v| f.get(v << f.lsb)),
    }
}

/// The baseline of `hosts`.
pub fn baseline(hosts: &[Host]) -> Baseline {
    let all = hosts.iter().map(Host::usual_features).reduce(common_features);
    let mut best = with(hosts, all.unwrap_or_default());
    // Without a feature in which the hosts differ they may have more in common.
    for f in [VcpuFeatures::PTRAUTH, VcpuFeatures::SVE, VcpuFeatures::PMU_V3] {
        let has = best.cpu.features.unwrap_or_default();
        if best.none.is_empty() || !has.contains(f) {
            continue;
        }
        let without = with(hosts, has.without(f));
        if without.none.len() < best.none.len() {
            best = without;
        }
    }
    best
}

/// A host with its rules.
struct Side<'a> {
    host: &'a Host,
    machine: Machine,
}

impl Side<'_> {
    /// Does a VM of the host read `v` after a write of it? `ssbs` says what the guest is told of SSBS.
    fn keeps(&self, n: Named, v: u64, ssbs: bool) -> bool {
        let v = v.into();
        self.machine.check(n, v, self.host.open_traits(), ssbs) == Ok(v)
    }

    /// What a new VM reads.
    fn own(&self, n: Named, ssbs: bool) -> u64 {
        let m = &self.machine;
        match n {
            Named::Sys(SysReg::PMCR_EL0) => u64::from(m.pmu_counters()) << 11,
            Named::Sys(r) => m.value(r).or_else(|| m.reset_value(r, 0)).unwrap_or(0),
            Named::Firmware(Firmware::Workaround(w)) => m.workaround_level(w, ssbs),
            Named::Firmware(f) => m.firmware_value(f),
            Named::Ccsidr(c) => m.ccsidr(c.into()),
            Named::Vls => m.sve_lengths() as u64,
            _ => 0,
        }
    }
}

fn with(hosts: &[Host], features: VcpuFeatures) -> Baseline {
    let sides: Vec<Side<'_>> =
        hosts.iter().map(|host| Side { host, machine: host.machine(features) }).collect();
    let mut b = Baseline { cpu: Cpu::default(), none: Vec::new() };
    let names: Vec<&str> = hosts.iter().map(|h| h.profile.name.as_str()).collect();
    b.cpu.comment.push(format!("What guests of {} can have in common.", names.join(", ")));
    b.cpu.features = Some(features);
    gic(&sides, &mut b);
    for id in ids(&sides, &mut b) {
        let Ok(n) = name(id) else { continue };
        match n {
            Named::Sys(r) if r != SysReg::CLIDR_EL1 && IdReg::of(r).is_some() => {
                fields(&sides, id, r, &mut b)
            }
            Named::Firmware(f @ (Firmware::StdBmap | Firmware::StdHypBmap | Firmware::VendorHypBmap)) => {
                let value = sides.iter().fold(u64::MAX, |m, s| m & s.machine.firmware_value(f));
                whole(&sides, id, n, &[value], &mut b);
            }
            Named::Sys(SysReg::PMCR_EL0) => {
                let least = sides.iter().map(|s| s.own(n, false)).min().unwrap_or(0);
                b.cpu.set(id, 31 << 11, least);
            }
            _ => whole(&sides, id, n, &[], &mut b),
        }
    }
    frequency(&sides, &mut b);
    if features.contains(VcpuFeatures::PMU_V3) {
        constant(&sides, SysReg::PMCEID0_EL0, &mut b);
        constant(&sides, SysReg::PMCEID1_EL0, &mut b);
    }
    constant(&sides, SysReg::DCZID_EL0, &mut b);
    b
}

/// Registers that describe a VM on every host; those that some have not are noted.
fn ids(sides: &[Side<'_>], b: &mut Baseline) -> BTreeSet<RegId> {
    let of = |s: &Side<'_>| {
        let traits = ulna_machine::VmTraits { strict: s.host.strict, ..Default::default() };
        s.machine.ids(traits).into_iter().collect::<BTreeSet<RegId>>()
    };
    let lists: Vec<BTreeSet<RegId>> = sides.iter().map(of).collect();
    let union: BTreeSet<RegId> = lists.iter().flatten().copied().collect();
    let mut common = BTreeSet::new();
    for id in union {
        let Ok(n) = name(id) else { continue };
        if lists.iter().all(|l| l.contains(&id)) {
            let describes = sides.iter().any(|s| s.machine.describes(n));
            if describes || n == Named::Sys(SysReg::PMCR_EL0) {
                common.insert(id);
            }
        } else {
            let has = |(s, l): (&Side<'_>, &BTreeSet<RegId>)| (called(s), u64::from(l.contains(&id)));
            let values = sides.iter().zip(&lists).map(has).collect();
            b.none.push(NoCommon { what: format!("{n} in the list of registers"), values });
        }
    }
    if sides.iter().all(|s| s.machine.vcpu_features().contains(VcpuFeatures::SVE)) {
        common.insert(crate::guest::VLS);
    }
    common
}

fn called(s: &Side<'_>) -> String {
    s.host.profile.name.clone()
}

fn none(sides: &[Side<'_>], what: String, value: impl Fn(&Side<'_>) -> u64, b: &mut Baseline) {
    b.none.push(NoCommon { what, values: sides.iter().map(|s| (called(s), value(s))).collect() });
}

/// Field by field.
fn fields(sides: &[Side<'_>], id: RegId, r: SysReg, b: &mut Baseline) {
    let Some(row) = IdReg::of(r) else { return };
    let machines: Vec<&Machine> = sides.iter().map(|s| &s.machine).collect();
    // One that reads as zero whatever is written, somewhere, is zero everywhere or not common.
    let first = machines.first().map_or(0, |m| m.limit(r));
    if machines.iter().all(|m| m.limit(r) == first) {
        return b.cpu.set(id, u64::MAX, first);
    }
    let mut value = first;
    let mut failed = false;
    for f in row.fields {
        match common_field(&machines, r, f) {
            Some(raw) => value = f.set(value, raw),
            None => {
                failed = true;
                none(sides, format!("{r}.{}", f.name), |s| f.raw(s.machine.limit(r)), b);
            }
        }
    }
    let keeps = |s: &Side<'_>| s.keeps(Named::Sys(r), value, false);
    if !failed && !sides.iter().all(keeps) {
        // A register that takes no fields at all, as AArch32's where there is no AArch32.
        return whole(sides, id, Named::Sys(r), &[0], b);
    }
    b.cpu.set(id, u64::MAX, value);
}

/// One of the hosts' own values, or one of `more`.
fn whole(sides: &[Side<'_>], id: RegId, n: Named, more: &[u64], b: &mut Baseline) {
    // Workarounds follow what was found for SSBS, whose register comes first.
    let pfr1 = b.cpu.applied(RegId::sysreg(SysReg::ID_AA64PFR1_EL1.code()), 0);
    let ssbs = firmware::ssbs(pfr1);
    let own = sides.iter().map(|s| s.own(n, ssbs));
    let mut values: Vec<u64> = more.iter().copied().chain(own).collect();
    if n == Named::Firmware(Firmware::PsciVersion) {
        values.sort_unstable_by_key(|v| std::cmp::Reverse(*v));
    }
    // The identity of the first host is as good as any; what it has is what its guests know.
    match values.into_iter().find(|v| sides.iter().all(|s| s.keeps(n, *v, ssbs) || s.own(n, ssbs) == *v)) {
        Some(v) => b.cpu.set(id, u64::MAX, v),
        None => none(sides, n.to_string(), |s| s.own(n, ssbs), b),
    }
}

fn frequency(sides: &[Side<'_>], b: &mut Baseline) {
    let takes = |hz: &u64| sides.iter().all(|s| s.machine.check_frequency(*hz, s.host.open_traits()).is_ok());
    match sides.iter().map(|s| s.machine.cntfrq_hz()).find(takes) {
        Some(hz) => b.cpu.set(RegId::sysreg(SysReg::CNTFRQ_EL0.code()), u64::MAX, hz),
        None => none(sides, "CNTFRQ_EL0".into(), |s| s.machine.cntfrq_hz(), b),
    }
}

/// What no hardware can change, and software can.
fn constant(sides: &[Side<'_>], r: SysReg, b: &mut Baseline) {
    let own = |s: &Side<'_>| s.machine.value(r).unwrap_or(0);
    let first = sides.first().map_or(0, own);
    if sides.iter().all(|s| own(s) == first) {
        return;
    }
    let common = match r {
        SysReg::DCZID_EL0 => sides.iter().map(own).min().unwrap_or(0),
        _ => sides.iter().fold(u64::MAX, |m, s| m & own(s)),
    };
    let takes = |s: &Side<'_>| s.machine.check_chosen(r, common, s.host.open_traits()).is_ok();
    match sides.iter().all(takes) {
        true => b.cpu.set(RegId::sysreg(r.code()), u64::MAX, common),
        false => none(sides, r.to_string(), own, b),
    }
}

fn gic(sides: &[Side<'_>], b: &mut Baseline) {
    let all = |has: fn(&Host) -> bool| sides.iter().all(|s| has(s.host));
    if !all(|h| h.gic().v3) {
        match all(|h| h.gic().v2) {
            true => b.cpu.gic = Some(2),
            false => none(sides, "GIC".into(), |s| if s.host.gic().v3 { 3 } else { 2 }, b),
        }
        return;
    }
    b.cpu.gic = Some(3);
    let id = RegId::sysreg(SysReg::ICC_CTLR_EL1.code());
    for (field, low, width) in CTLR_FIELDS {
        let most = (1u64 << width) - 1;
        let mask = most << low;
        let takes = |s: &Side<'_>, v: u64| takes_ctlr(s.host, own_ctlr(s.host) & !mask | v << low);
        let common = (0..=most).rev().find(|v| sides.iter().all(|s| takes(s, *v)));
        match common {
            Some(v) => b.cpu.set(id, mask, v << low),
            None => none(sides, format!("ICC_CTLR_EL1.{field}"), |s| (own_ctlr(s.host) & mask) >> low, b),
        }
    }
}
