//! What would avoid a blocker: each remedy is tried on the rules, in the order of what it costs.

use crate::baseline::common_field;
use crate::blocker::{Avoid, Blocker, Class};
use crate::check::{FEATURES, Target, takes_ctlr};
use crate::guest::{Gic, Guest, VLS, own_ctlr};
use crate::host::Host;
use std::cell::OnceCell;
use ulna_arm_regs::SysReg;
use ulna_arm_regs::id::IdReg;
use ulna_kvm_abi::RegId;
use ulna_machine::catalog::{Firmware, Named, name};
use ulna_machine::rules::CHOSEN;
use ulna_machine::{Machine, Policy, VcpuFeatures, VmTraits, firmware};

/// A move that is asked about.
pub(crate) struct Ask<'a> {
    guest: &'a Guest,
    from: &'a Host,
    to: &'a Host,
    target: &'a Target,
    source: Machine,
    /// The same guest without a feature, and the destination for it; by feature.
    without: Vec<(&'static str, VcpuFeatures, Guest, Target)>,
    /// What blocks at the same destination under the policy `soft`, once somebody asked.
    soft: OnceCell<Vec<String>>,
}

impl<'a> Ask<'a> {
    pub fn new(guest: &'a Guest, from: &'a Host, to: &'a Host, target: &'a Target) -> Ask<'a> {
        let source = from.machine(guest.features);
        let v2 = guest.gic == Some(Gic::V2);
        let droppable = [VcpuFeatures::PTRAUTH, VcpuFeatures::SVE, VcpuFeatures::PMU_V3];
        let without = FEATURES
            .iter()
            .filter(|(_, f)| droppable.contains(f) && guest.features.contains(*f))
            .map(|&(name, f)| {
                let g = Guest::of(from, guest.features.without(f), v2);
                let t = Target::of(to, &g);
                (name, f, g, t)
            })
            .collect();
        Ask { guest, from, to, target, source, without, soft: OnceCell::new() }
    }

    /// Can the guest be started on its host so that the register reads `v`?
    fn source_can(&self, n: Named, v: u128) -> bool {
        let ssbs = firmware::ssbs(self.guest.sysreg(SysReg::ID_AA64PFR1_EL1).unwrap_or(0));
        self.source.check(n, v, self.from.open_traits(), ssbs) == Ok(v)
    }
}

/// The cheapest remedy that works, if there is one.
pub(crate) fn of(ask: &mut Ask<'_>, b: &Blocker) -> Option<Avoid> {
    mask(ask, b)
        .or_else(|| service(ask, b))
        .or_else(|| gic2(ask, b))
        .or_else(|| without_feature(ask, b))
        .or_else(|| kernel(ask, b))
        .or_else(|| soft(ask, b))
}

fn mask(ask: &Ask<'_>, b: &Blocker) -> Option<Avoid> {
    if b.what == "ICC_CTLR_EL1" {
        return mask_ctlr(ask, b);
    }
    if b.what == "CNTFRQ_EL0" {
        let hz = ask.target.machine.cntfrq_hz();
        let id = RegId::sysreg(SysReg::CNTFRQ_EL0.code());
        let can = ask.source.check_frequency(hz, traits(ask.from)).is_ok();
        return can.then(|| whole(&b.what, id, hz));
    }
    // Other constants that software can choose: what both sides have.
    if let Some(r) = SysReg::from_name(&b.what).filter(|r| b.id.is_none() && CHOSEN.contains(r)) {
        let (a, z) = (ask.source.value(r)?, ask.target.machine.value(r)?);
        let v = if r == SysReg::DCZID_EL0 { a.min(z) } else { a & z };
        let takes = |m: &Machine, t: VmTraits| m.check_chosen(r, v, t).is_ok();
        let both = takes(&ask.source, traits(ask.from)) && takes(&ask.target.machine, ask.target.traits);
        return both.then(|| whole(&b.what, RegId::sysreg(r.code()), v));
    }
    let id = b.id?;
    let n = name(id).ok()?;
    if let (Named::Sys(r), Some(field)) = (n, b.field) {
        let f = IdReg::of(r).and_then(|row| row.field(field));
        if let Some(f) = f {
            let raw = common_field(&[&ask.source, &ask.target.machine], r, f)?;
            let now = ask.guest.sysreg(r)?;
            return Some(Avoid::Mask {
                what: b.name(),
                value: raw,
                id,
                mask: f.mask(),
                bits: f.set(now, raw) & f.mask(),
            });
        }
    }
    if let Named::Firmware(_) | Named::Sdei(_) = n {
        return None;
    }
    // Another value altogether: the destination's own, or the next lower that both take.
    let limit = b.limit.and_then(|l| u64::try_from(l).ok())?;
    let pmcr = n == Named::Sys(SysReg::PMCR_EL0);
    let own = match n {
        Named::Sys(_) if pmcr => limit,
        Named::Sys(r) => ask.target.machine.value(r).unwrap_or(limit),
        Named::Ccsidr(c) => ask.target.machine.ccsidr(c.into()),
        Named::Vls => ask.target.machine.sve_lengths() as u64,
        _ => limit,
    };
    let ok = |v: u64| ask.source_can(n, v.into()) && ask.target.check(n, v.into()) == Ok(v.into());
    let values = [own, ask.guest.reg(id).map_or(0, |g| g as u64 & own)];
    values.into_iter().find(|v| ok(*v)).map(|v| whole(&b.what, id, v))
}

fn whole(what: &str, id: RegId, value: u64) -> Avoid {
    Avoid::Mask { what: what.into(), value, id, mask: u64::MAX, bits: value }
}

/// A field of the CPU interface that the guest's own GIC can be given.
fn mask_ctlr(ask: &Ask<'_>, b: &Blocker) -> Option<Avoid> {
    let (_, low, width) = crate::check::CTLR_FIELDS.into_iter().find(|f| Some(f.0) == b.field)?;
    let mask = ((1u64 << width) - 1) << low;
    let value = u64::try_from(b.limit?).ok()?;
    let wanted = own_ctlr(ask.from) & !mask | value << low;
    takes_ctlr(ask.from, wanted).then(|| Avoid::Mask {
        what: b.name(),
        value,
        id: RegId::sysreg(SysReg::ICC_CTLR_EL1.code()),
        mask,
        bits: value << low,
    })
}

fn service(ask: &Ask<'_>, b: &Blocker) -> Option<Avoid> {
    let id = b.id?;
    let n = name(id).ok()?;
    let Named::Firmware(f) = n else { return None };
    let value = match f {
        Firmware::PsciVersion => ask.target.machine.firmware_value(f),
        Firmware::Workaround(_) => return None,
        _ => ask.guest.reg(id)? as u64 & ask.target.machine.firmware_value(f),
    };
    let gone = ask.guest.reg(id)? as u64 & !value;
    let word = match f {
        Firmware::PsciVersion => format!("psci={}.{}", value >> 16, value & 0xffff),
        Firmware::StdBmap => "trng=off".into(),
        Firmware::StdHypBmap => "pvtime=off".into(),
        Firmware::VendorHypBmap if gone & 1 == 0 => "ptp=off".into(),
        Firmware::VendorHypBmap => "kvm=off".into(),
        _ => return None,
    };
    let works = ask.target.check(n, value.into()) == Ok(value.into()) && ask.source_can(n, value.into());
    works.then_some(Avoid::Service { word, id, value })
}

fn gic2(ask: &Ask<'_>, b: &Blocker) -> Option<Avoid> {
    let both = ask.from.gic().v2 && ask.to.gic().v2;
    (b.class == Class::Gic && both && ask.guest.has_v3()).then_some(Avoid::Gic2)
}

/// A feature that has to go anyway takes other blockers with it: no other remedy is needed for these, or possible.
pub(crate) fn settle(ask: &Ask<'_>, blockers: &mut [Blocker]) {
    let goes = |f: VcpuFeatures, b: &Blocker| matches!(b.avoid, Some(Avoid::WithoutFeature { bits, .. }) if bits == f.bits());
    for (name, f, ..) in &ask.without {
        if !blockers.iter().any(|b| goes(*f, b)) {
            continue;
        }
        for b in blockers.iter_mut() {
            if without(ask, b, name).is_some() {
                b.avoid = Some(Avoid::WithoutFeature { name, bits: f.bits() });
            }
        }
    }
}

fn without_feature(ask: &Ask<'_>, b: &Blocker) -> Option<Avoid> {
    ask.without.iter().find_map(|w| without(ask, b, w.0))
}

/// Is the blocker gone without this feature?
fn without(ask: &Ask<'_>, b: &Blocker, feature: &str) -> Option<Avoid> {
    ask.without.iter().filter(|w| w.0 == feature).find_map(|(name, f, guest, target)| {
        let gone = match b.class {
            Class::Vcpu => b.what == *name,
            Class::Pmu if b.id.is_none() => guest.pmu_events.is_none(),
            _ => {
                let id = b.id?;
                let n = ulna_machine::catalog::name(id).ok()?;
                match guest.reg(id) {
                    None => true,
                    Some(v) => !field_refused(target, n, v, b),
                }
            }
        };
        gone.then_some(Avoid::WithoutFeature { name, bits: f.bits() })
    })
}

/// Is this very blocker still there?
fn field_refused(target: &Target, n: Named, v: u128, b: &Blocker) -> bool {
    let refusals = target.machine.refusals(n, v, target.traits, target.ssbs);
    refusals.iter().any(|r| r.field == b.field) || target.check(n, v).is_ok_and(|after| after != v)
}

fn kernel(ask: &Ask<'_>, b: &Blocker) -> Option<Avoid> {
    let (from, to) = (ask.from.profile.kernel, ask.to.profile.kernel);
    if from == to {
        return None;
    }
    let mut there = ask.to.clone();
    there.profile.kernel = from;
    let target = Target::of(&there, ask.guest);
    let id = b.id?;
    let works = match name(id) {
        Ok(n) => !field_refused(&target, n, ask.guest.reg(id)?, b),
        Err(_) => false,
    };
    works.then_some(Avoid::Kernel)
}

fn soft(ask: &Ask<'_>, b: &Blocker) -> Option<Avoid> {
    // Real hosts have no such policy.
    if ask.to.strict || ask.to.policy == Policy::Soft && ask.from.policy == Policy::Soft {
        return None;
    }
    let left = ask.soft.get_or_init(|| {
        let alone = crate::check::plan(ask.guest, None, &ask.to.with_policy(Policy::Soft));
        alone.blockers.iter().map(Blocker::name).collect()
    });
    if ask.to.policy == Policy::Hw && !left.contains(&b.name()) {
        return Some(Avoid::SoftDestination);
    }
    // Nothing lowers the set of vector lengths but the guest's own choice.
    (b.id != Some(VLS) && !ask.from.strict).then_some(Avoid::SoftBoth)
}

/// What a VM of this host can have at most.
fn traits(host: &Host) -> VmTraits {
    host.open_traits()
}
