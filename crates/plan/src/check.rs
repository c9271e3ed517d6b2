//! The plan itself: every register of a guest is offered to the destination's rules.

use crate::avoid::{self, Ask};
use crate::blocker::{Answer, Blocker, Class, Note, Plan, Verdict};
use crate::guest::{Gic, Guest, fresh_gic, own_ctlr};
use crate::host::Host;
use ulna_arm_regs::SysReg;
use ulna_arm_regs::id::{IdReg, Raz};
use ulna_kvm_abi::RegId;
use ulna_machine::catalog::{Firmware, Named, WriteRule, name};
use ulna_machine::rules::IDENTITY;
use ulna_machine::{Machine, Refusal, VcpuFeatures, VmTraits, firmware};
use ulna_profile::Kind;
use ulna_vgic::IccReg;

/// Features of KVM_ARM_VCPU_INIT by name.
pub(crate) const FEATURES: [(&str, VcpuFeatures); 6] = [
    ("psci", VcpuFeatures::PSCI_0_2),
    ("pmu", VcpuFeatures::PMU_V3),
    ("ptrauth", VcpuFeatures::PTRAUTH),
    ("sve", VcpuFeatures::SVE),
    ("el1_32bit", VcpuFeatures::EL1_32BIT),
    ("power_off", VcpuFeatures::POWER_OFF),
];

/// ICC_CTLR_EL1's fields that say what the CPU interface is: name, lowest bit, width.
pub(crate) const CTLR_FIELDS: [(&str, u32, u32); 4] =
    [("PRIbits", 8, 3), ("IDbits", 11, 3), ("SEIS", 14, 1), ("A3V", 15, 1)];

/// The destination, as far as an incoming guest of these features meets it.
pub(crate) struct Target {
    pub machine: Machine,
    pub traits: VmTraits,
    pub ssbs: bool,
}

impl Target {
    /// `host` for a guest.
    pub fn of(host: &Host, guest: &Guest) -> Target {
        let features = common_features(guest.features, host.features());
        let machine = host.machine(features);
        let open = host.open_traits();
        let traits = VmTraits { sdei: guest.traits.sdei && open.sdei, ..open };
        // ID registers are restored before the levels that depend on them.
        let r = SysReg::ID_AA64PFR1_EL1;
        let own = machine.limit(r);
        let has = guest.sysreg(r).and_then(|v| machine.check_write(r, v).ok()).unwrap_or(own);
        Target { machine, traits, ssbs: firmware::ssbs(has) }
    }

    /// What a write meets.
    pub fn check(&self, n: Named, v: u128) -> Result<u128, Refusal> {
        self.machine.check(n, v, self.traits, self.ssbs)
    }
}

/// Features that a VM can have on a host which lacks some of them.
pub(crate) fn common_features(wanted: VcpuFeatures, offered: VcpuFeatures) -> VcpuFeatures {
    FEATURES.iter().filter(|(_, f)| !offered.contains(*f)).fold(wanted, |all, (_, f)| all.without(*f))
}

/// What keeps `guest`, which is on `from`, from going on on `to`. Without `from` (a guest of unknown origin) nothing is
/// said of how to avoid it.
pub fn plan(guest: &Guest, from: Option<&Host>, to: &Host) -> Plan {
    let target = Target::of(to, guest);
    let mut p = Plan {
        from: from.map_or_else(|| "a saved guest".into(), Host::label),
        to: to.label(),
        verdict: Verdict::Go,
        blockers: Vec::new(),
        notes: Vec::new(),
        inferred: Vec::new(),
    };
    features(guest, to, &mut p);
    registers(guest, &target, &mut p);
    unseen(guest, &target, &mut p);
    gic(guest, to, &mut p);
    if guest.address_bits > to.profile.memory.ipa_bits {
        p.blockers.push(Blocker {
            limit: Some(to.profile.memory.ipa_bits.into()),
            ..blocker(Class::Memory, "address bits", guest.address_bits.into(), "size", Answer::Refused)
        });
    }
    let same = from.is_some_and(|f| f.same_as(to));
    for b in &mut p.blockers {
        b.inferred = if same { Vec::new() } else { unmeasured(b, from, to) };
    }
    if let Some(from) = from {
        let mut ask = Ask::new(guest, from, to, &target);
        for b in &mut p.blockers {
            b.avoid = avoid::of(&mut ask, b);
        }
        avoid::settle(&ask, &mut p.blockers);
    }
    let order = |c: Class| Class::ALL.iter().position(|o| *o == c);
    p.blockers.sort_by_key(|b| order(b.class));
    if !same {
        p.inferred = all_unmeasured(guest, from, to);
    }
    p.verdict = match () {
        () if !p.blockers.is_empty() => Verdict::Blocked,
        () if !p.inferred.is_empty() => Verdict::GoInferred,
        () => Verdict::Go,
    };
    p
}

fn blocker(class: Class, what: &str, wanted: u128, rule: &'static str, answer: Answer) -> Blocker {
    Blocker {
        class,
        what: what.into(),
        field: None,
        id: None,
        wanted,
        limit: None,
        rule,
        answer,
        avoid: None,
        inferred: Vec::new(),
    }
}

fn features(guest: &Guest, to: &Host, p: &mut Plan) {
    let offered = to.features();
    for (name, f) in FEATURES {
        if guest.features.contains(f) && !offered.contains(f) {
            p.blockers.push(blocker(
                Class::Vcpu,
                name,
                f.bits().into(),
                "feature of KVM_ARM_VCPU_INIT",
                Answer::Absent,
            ));
        }
    }
}

/// Every register of KVM's list.
fn registers(guest: &Guest, target: &Target, p: &mut Plan) {
    for &id in guest.regs.keys() {
        let Some(v) = guest.reg(id) else { continue };
        let Ok(n) = name(id) else {
            p.blockers.push(Blocker {
                id: Some(id),
                ..blocker(Class::Lists, &format!("{:#018x}", id.0), v, "list", Answer::Absent)
            });
            continue;
        };
        let refusals = target.machine.refusals(n, v, target.traits, target.ssbs);
        for r in &refusals {
            let absent = r.rule.is_none();
            if absent && neutral(n) == Some(v) {
                let text = format!("{n} is left out: the destination has none, and the guest's is {v:#x}");
                p.notes.push(Note { class: Class::Lists, text });
                continue;
            }
            p.blockers.push(Blocker {
                class: if absent { Class::Lists } else { class(n, r.field) },
                what: n.to_string(),
                field: r.field,
                id: Some(id),
                wanted: r.have,
                limit: (!absent).then_some(r.limit),
                rule: r.rule.map_or("list", WriteRule::name),
                answer: if absent { Answer::Absent } else { Answer::Refused },
                avoid: None,
                inferred: Vec::new(),
            });
        }
        if refusals.is_empty() {
            kept(target, id, n, v, p);
        }
    }
}

/// A write that is taken: is it what the guest reads afterwards?
fn kept(target: &Target, id: RegId, n: Named, v: u128, p: &mut Plan) {
    let Ok(after) = target.check(n, v) else { return };
    if after == v || !target.machine.describes(n) && n != Named::Sys(SysReg::PMCR_EL0) {
        return;
    }
    if let Named::Firmware(Firmware::Workaround(_)) = n {
        let text = format!("{n}: a guest that asks again is told {after:#x}, not {v:#x}");
        return p.notes.push(Note { class: Class::Identity, text });
    }
    p.blockers.push(Blocker {
        id: Some(id),
        limit: Some(after),
        ..blocker(class(n, None), &n.to_string(), v, target.machine.write_rule(n).0.name(), Answer::Changed)
    });
}

/// The value with which a register may be left out of a stream.
fn neutral(n: Named) -> Option<u128> {
    let Named::Firmware(f) = n else { return None };
    f.row()?.neutral.map(u128::from)
}

/// What a guest reads although no register of KVM's list says it.
fn unseen(guest: &Guest, target: &Target, p: &mut Plan) {
    let m = &target.machine;
    let own = m.own_frequency(target.traits);
    let refused = |r: SysReg, class: Class, v: u64| {
        let e = m.check_chosen(r, v, target.traits).err()?;
        let rule = e.rule.map_or("list", WriteRule::name);
        let answer = if own { Answer::Refused } else { Answer::Unseen };
        Some(Blocker { limit: Some(e.limit), ..blocker(class, r.name(), v.into(), rule, answer) })
    };
    p.blockers.extend(refused(SysReg::CNTFRQ_EL0, Class::Counter, guest.counter_hz));
    if let Some(events) = guest.pmu_events {
        for (r, has) in [SysReg::PMCEID0_EL0, SysReg::PMCEID1_EL0].into_iter().zip(events) {
            // Without a PMU at the destination its feature is what blocks.
            let Some(there) = m.value(r) else { continue };
            if own || has & !there != 0 {
                p.blockers.extend(refused(r, Class::Pmu, has));
            } else if has != there {
                let text = format!("{r}: the destination counts more events: {there:#x}, not {has:#x}");
                p.notes.push(Note { class: Class::Pmu, text });
            }
        }
    }
    p.blockers.extend(refused(SysReg::DCZID_EL0, Class::Cache, guest.dczid));
}

/// The interrupt controller, by its own model.
fn gic(guest: &Guest, to: &Host, p: &mut Plan) {
    let limits = to.gic();
    let absent = |version: u32| blocker(Class::Gic, "GIC", version.into(), "device", Answer::Absent);
    let ctlr = match guest.gic {
        None => return,
        Some(Gic::V2) if limits.v2 => return,
        Some(Gic::V2) => return p.blockers.push(absent(2)),
        Some(Gic::V3 { .. }) if !limits.v3 => return p.blockers.push(absent(3)),
        Some(Gic::V3 { ctlr }) => ctlr,
    };
    let own = own_ctlr(to);
    for (field, low, width) in CTLR_FIELDS {
        let mask = ((1u64 << width) - 1) << low;
        let taken = takes_ctlr(to, own & !mask | ctlr & mask);
        let (has, there) = ((ctlr & mask) >> low, (own & mask) >> low);
        if !taken {
            p.blockers.push(Blocker {
                field: Some(field),
                limit: Some(there.into()),
                ..blocker(Class::Gic, "ICC_CTLR_EL1", has.into(), "CPU interface", Answer::Refused)
            });
        } else if has != there && reads_ctlr(to, own & !mask | ctlr & mask) & mask == own & mask {
            let text = format!("ICC_CTLR_EL1.{field}: the guest reads {there:#x} afterwards, not {has:#x}");
            p.notes.push(Note { class: Class::Gic, text });
        }
    }
}

/// Does a GIC of this host take the value?
pub(crate) fn takes_ctlr(host: &Host, ctlr: u64) -> bool {
    fresh_gic(host).is_some_and(|mut g| host.gic().write_ctlr(&mut g, ctlr).is_ok())
}

/// What a guest reads after that.
fn reads_ctlr(host: &Host, ctlr: u64) -> u64 {
    let Some(mut g) = fresh_gic(host) else { return 0 };
    let _ = host.gic().write_ctlr(&mut g, ctlr);
    g.sysreg_read(0, IccReg::Ctlr)
}

/// What kind of thing a register is.
pub(crate) fn class(n: Named, field: Option<&str>) -> Class {
    match n {
        Named::Sys(r) if IDENTITY.contains(&r) => Class::Identity,
        Named::Sys(SysReg::CTR_EL0 | SysReg::CLIDR_EL1 | SysReg::DCZID_EL0) | Named::Ccsidr(_) => {
            Class::Cache
        }
        Named::Sys(SysReg::CNTFRQ_EL0) => Class::Counter,
        Named::Sys(_) if matches!(field, Some("PMUVer" | "PerfMon")) => Class::Pmu,
        Named::Sys(_) if field == Some("GIC") => Class::Gic,
        Named::Sys(r) if IdReg::of(r).is_some() => Class::Features,
        Named::Sys(SysReg::PMCR_EL0) => Class::Pmu,
        Named::Firmware(Firmware::Workaround(_)) => Class::Identity,
        Named::Firmware(_) | Named::Sdei(_) => Class::Services,
        Named::Vls => Class::Sve,
        _ => Class::Lists,
    }
}

/// The register by which a blocker is known to profiles.
fn named(b: &Blocker) -> Option<Named> {
    match b.id {
        Some(id) => name(id).ok(),
        None => SysReg::from_name(&b.what).map(Named::Sys),
    }
}

fn unmeasured(b: &Blocker, from: Option<&Host>, to: &Host) -> Vec<String> {
    let n = match b.class {
        // Which GIC there is, is as well known as its fields.
        Class::Gic => Some(Named::Sys(SysReg::ICC_CTLR_EL1)),
        _ => named(b),
    };
    let Some(n) = n else { return Vec::new() };
    [from, Some(to)].into_iter().flatten().filter_map(|h| unmeasured_on(h, n)).collect()
}

/// That nobody measured a host's value of a register.
fn unmeasured_on(host: &Host, n: Named) -> Option<String> {
    let s = host.source_of(n).filter(|s| s.kind == Kind::Inferred)?;
    Some(format!("{n} of {}: {}", host.profile.name, s.text))
}

fn all_unmeasured(guest: &Guest, from: Option<&Host>, to: &Host) -> Vec<String> {
    // AArch32's ID registers say nothing where there is no AArch32.
    let aarch32 = |r: SysReg| IdReg::of(r).is_some_and(|row| row.raz == Raz::UnlessAArch32);
    let silent = |n: Named| matches!(n, Named::Sys(r) if aarch32(r) && guest.sysreg(r) == Some(0));
    let listed = guest.regs.keys().filter_map(|id| name(*id).ok()).filter(|n| !silent(*n));
    let pmu = guest.pmu_events.map(|_| Named::Sys(SysReg::PMCEID0_EL0));
    let gic = guest.has_v3().then_some(Named::Sys(SysReg::ICC_CTLR_EL1));
    let others = [Some(Named::Sys(SysReg::CNTFRQ_EL0)), Some(Named::Sys(SysReg::DCZID_EL0)), pmu, gic];
    let mut all: Vec<String> = Vec::new();
    for n in listed.chain(others.into_iter().flatten()) {
        for host in [from, Some(to)].into_iter().flatten() {
            if let Some(text) = unmeasured_on(host, n)
                && !all.contains(&text)
            {
                all.push(text);
            }
        }
    }
    all
}
