//! The distributor: the SPIs, where each one's state is, and what is common to all vCPUs.

use std::collections::HashMap;

use crate::bank::{self, By, Field, Span};
use crate::identity::DistIdentity;
use crate::irq::{FIRST_SPI, Irq};
use crate::redist::{INITIAL_BASER, Message, Redists, SgiRequest, SgiTargets};
use crate::redist_regs::{is_wide_access, merge, sanitise_propbaser};
use crate::types::{Affinity, GicConfig, GicError, Version};

/// One SPI. While `at` is some vCPU, `irq` is stale and the state is in that redistributor.
#[derive(Clone, Debug)]
struct Spi {
    irq: Irq,
    at: Option<u16>,
}

/// vCPUs by affinity; of those that userspace gave the same one the first is found.
fn by_affinity(vcpus: &[Affinity]) -> HashMap<u32, u16> {
    vcpus.iter().zip(0u16..).collect::<Vec<_>>().into_iter().rev().map(|(a, i)| (a.0, i)).collect()
}

/// The distributor of either version.
#[derive(Clone, Debug)]
pub struct Distributor {
    pub(crate) version: Version,
    pub(crate) enabled: bool,
    /// Implementation revision in GICD_IIDR: 3 is Linux 6.12's, 2 can be restored.
    pub(crate) revision: u8,
    pub(crate) nr_irqs: u32,
    pub(crate) vcpus: usize,
    pub(crate) has_lpis: bool,
    pub(crate) identity: DistIdentity,
    /// GICR_PROPBASER of all vCPUs.
    pub(crate) propbaser: u64,
    /// GICv2: userspace has written GICD_IIDR, so it knows of groups and may write them.
    pub(crate) user_groups: bool,
    spis: Vec<Spi>,
    by_affinity: HashMap<u32, u16>,
}

impl Distributor {
    /// The reset state.
    pub fn new(config: &GicConfig) -> Distributor {
        let v3 = config.version == Version::V3;
        // KVM: SPIs go to vCPU 0 until routed, whatever affinity it has.
        let spi = |intid| Irq { intid, edge: true, group1: v3, target: Some(0), ..Irq::default() };
        Distributor {
            version: config.version,
            enabled: false,
            revision: 3,
            nr_irqs: config.nr_irqs,
            vcpus: config.vcpus.len(),
            has_lpis: config.its != 0,
            identity: config.dist,
            propbaser: if config.its != 0 { INITIAL_BASER } else { 0 },
            user_groups: false,
            spis: (FIRST_SPI..config.nr_irqs).map(|i| Spi { irq: spi(i), at: None }).collect(),
            by_affinity: by_affinity(&config.vcpus),
        }
    }

    /// The vCPUs have these affinities from now on.
    pub(crate) fn set_affinities(&mut self, vcpus: &[Affinity]) {
        self.by_affinity = by_affinity(vcpus);
    }

    /// GICD_IIDR's revision. From 3 on redistributors show GICR_CTLR.CES and IR.
    pub(crate) fn set_revision<R: Redists>(&mut self, revision: u8, redists: &mut R) {
        self.revision = revision;
        for vcpu in 0..self.vcpus {
            redists.with(vcpu, |r| r.invalidates = revision >= 3);
        }
    }

    fn slot(&self, intid: u32) -> Option<&Spi> {
        self.spis.get(intid.checked_sub(FIRST_SPI)? as usize)
    }

    /// The vCPU that has an SPI's state.
    pub(crate) fn holder(&self, intid: u32) -> Option<u16> {
        self.slot(intid)?.at
    }

    /// Sets an SPI's whole state. An active one goes to the vCPU at which it is active.
    pub(crate) fn place<R: Redists>(&mut self, irq: Irq, holder: Option<u16>, redists: &mut R) {
        let target = irq.target;
        // Route it where it is active first, so that it stays there.
        let first = Irq { target: if irq.active && holder.is_some() { holder } else { target }, ..irq };
        self.edit(irq.intid, redists, |old| *old = first);
        if first.target != target {
            self.edit(irq.intid, redists, |old| old.target = target);
        }
    }

    /// Looks at an SPI wherever it is.
    pub fn peek<R: Redists, T>(&self, intid: u32, redists: &mut R, f: impl Fn(&Irq) -> T) -> Option<T> {
        let slot = self.slot(intid)?;
        match slot.at {
            None => Some(f(&slot.irq)),
            Some(vcpu) => redists.with(vcpu.into(), |r| r.irq(intid).map(f)).flatten(),
        }
    }

    /// Changes an SPI wherever it is, then lets it live where it belongs: at its vCPU while it is
    /// active there or ready to be taken there, else here.
    pub fn edit<R: Redists, T>(
        &mut self,
        intid: u32,
        redists: &mut R,
        f: impl FnOnce(&mut Irq) -> T,
    ) -> Option<T> {
        let slot = self.spis.get_mut(intid.checked_sub(FIRST_SPI)? as usize)?;
        let out = match slot.at {
            None => f(&mut slot.irq),
            Some(vcpu) => {
                let (out, leaves) = redists.with(vcpu.into(), |r| {
                    let out = r.edit(intid, f)?;
                    let stays =
                        r.irq(intid).is_some_and(|i| i.active || (i.ready() && i.target == Some(vcpu)));
                    Some((out, if stays { None } else { r.take_spi(intid) }))
                })??;
                let Some(irq) = leaves else { return Some(out) };
                (slot.irq, slot.at) = (irq, None);
                out
            }
        };
        let irq = slot.irq;
        if let Some(vcpu) = irq.target.filter(|_| irq.active || irq.ready())
            && redists.with(vcpu.into(), |r| r.put_spi(irq)).is_some()
        {
            slot.at = Some(vcpu);
        }
        Some(out)
    }

    /// Drives an SPI's line.
    pub fn set_line<R: Redists>(&mut self, intid: u32, level: bool, redists: &mut R) -> Result<(), GicError> {
        self.edit(intid, redists, |irq| irq.set_line(level)).ok_or(GicError::NoIrq(intid))
    }

    /// Does what a redistributor could not do alone. Returns an SPI whose owner wants to know of its
    /// deactivation.
    pub fn handle<R: Redists>(&mut self, message: Message, redists: &mut R) -> Option<u32> {
        match message {
            Message::Sgi(sgi) => self.send_sgi(&sgi, redists),
            Message::Eoi(intid) => return Some(intid),
            Message::Deactivate(intid) => {
                let deactivate = |irq: &mut Irq| {
                    let was_active = irq.active;
                    if was_active {
                        irq.deactivate();
                    }
                    was_active && irq.notify_eoi && !irq.edge
                };
                return self.edit(intid, redists, deactivate).filter(|&notify| notify).map(|_| intid);
            }
            Message::Rehome(intid) => {
                self.edit(intid, redists, |_| ());
            }
        }
        None
    }

    /// GICR_PROPBASER, one for the whole VM.
    pub fn propbaser(&self) -> u64 {
        self.propbaser
    }

    /// A write of GICR_PROPBASER in the frame of `vcpu`: ignored while its LPIs are enabled.
    pub fn write_propbaser<R: Redists>(
        &mut self,
        vcpu: usize,
        offset: u64,
        size: usize,
        value: u64,
        redists: &mut R,
    ) {
        let frozen = redists.with(vcpu, |r| r.lpis_enabled()).unwrap_or(true);
        if is_wide_access(offset, size) && !frozen {
            self.propbaser = sanitise_propbaser(merge(self.propbaser, offset, size, value));
        }
    }

    /// Sends an SGI to its targets.
    pub fn send_sgi<R: Redists>(&self, sgi: &SgiRequest, redists: &mut R) {
        let mut send = |vcpu: usize| {
            redists.with(vcpu, |r| r.receive_sgi(sgi));
        };
        match sgi.to {
            SgiTargets::Others => (0..self.vcpus).filter(|&v| v != usize::from(sgi.from)).for_each(send),
            SgiTargets::Mask(mask) => (0..8).filter(|v| mask >> v & 1 != 0).for_each(send),
            SgiTargets::List { cluster, first, list } => {
                for bit in (0..16).filter(|b| list >> b & 1 != 0) {
                    if let Some(&vcpu) = self.by_affinity.get(&(cluster | (first + bit))) {
                        send(vcpu.into());
                    }
                }
            }
        }
    }

    /// GICD_CTLR's enable, of which every redistributor has a copy.
    pub fn set_enabled<R: Redists>(&mut self, on: bool, redists: &mut R) {
        if self.enabled != on {
            self.enabled = on;
            for vcpu in 0..self.vcpus {
                redists.with(vcpu, |r| r.set_forwarding(on));
            }
        }
    }

    /// GICD_IROUTERn<31:0>. KVM drops IRM; an affinity that no vCPU has means nobody.
    pub(crate) fn set_route<R: Redists>(&mut self, intid: u32, route: u32, by: By, redists: &mut R) {
        if !by.is_user() && self.is_taken(intid, redists) {
            return;
        }
        let route = route & 0xff_ffff;
        let target = self.by_affinity.get(&route).copied();
        self.edit(intid, redists, |irq| (irq.route, irq.target) = (route, target));
    }

    /// GICD_ITARGETSR byte of an SPI: the lowest vCPU named gets it, vCPU 0 if none is (KVM).
    fn set_targets<R: Redists>(&mut self, intid: u32, targets: u32, by: By, redists: &mut R) {
        if !by.is_user() && self.is_taken(intid, redists) {
            return;
        }
        let targets = targets & ((1 << self.vcpus.min(8)) - 1);
        let target = if targets == 0 { 0 } else { targets.trailing_zeros() as u16 };
        self.edit(intid, redists, |irq| (irq.route, irq.target) = (targets, Some(target)));
    }

    /// Whether firmware has taken an SPI.
    pub(crate) fn is_taken<R: Redists>(&self, intid: u32, redists: &mut R) -> bool {
        self.peek(intid, redists, |irq| irq.taken).unwrap_or(false)
    }

    /// Whether the first interrupt of an access exists; KVM refuses the access otherwise.
    fn in_range(&self, span: Span) -> bool {
        span.first < self.nr_irqs
    }

    /// Reads fields of SPIs, and on a GICv2 of the private interrupts of `vcpu`.
    pub(crate) fn read_span<R: Redists>(&self, span: Span, vcpu: usize, by: By, redists: &mut R) -> u64 {
        if !self.in_range(span) {
            return 0;
        }
        if span.first < FIRST_SPI {
            if self.version == Version::V3 {
                return 0;
            }
            if span.field == Field::Targets {
                return span
                    .each()
                    .map(|(_, shift)| 1u64 << (vcpu as u32 & 7) << shift)
                    .fold(0, |a, b| a | b);
            }
            return redists.with(vcpu, |r| r.read_span(span, by)).unwrap_or(0);
        }
        let v2 = self.version == Version::V2;
        let read = |irq: &Irq| match span.field {
            Field::Targets if irq.taken && !by.is_user() => 0,
            Field::Targets => irq.route * u32::from(v2),
            field => bank::read(irq, field, by, v2),
        };
        span.each()
            .filter_map(|(intid, shift)| Some(u64::from(self.peek(intid, redists, read)?) << shift))
            .fold(0, |a, b| a | b)
    }

    /// Writes them.
    pub(crate) fn write_span<R: Redists>(
        &mut self,
        span: Span,
        vcpu: usize,
        value: u64,
        by: By,
        redists: &mut R,
    ) {
        let v2 = self.version == Version::V2;
        if !self.in_range(span) || (v2 && by.is_user() && span.field == Field::Group && !self.user_groups) {
            return;
        }
        if span.first < FIRST_SPI {
            if v2 {
                redists.with(vcpu, |r| r.write_span(span, value, by));
            }
            return;
        }
        // A zero in these changes nothing: leave the many untouched ones alone.
        let only_ones = matches!(
            span.field,
            Field::SetEnable
                | Field::ClearEnable
                | Field::ClearPending
                | Field::SetActive
                | Field::ClearActive
        );
        for (intid, shift) in span.each() {
            let field = span.pick(value, shift);
            if field == 0 && only_ones {
                continue;
            }
            if span.field == Field::Targets {
                if v2 {
                    self.set_targets(intid, field, by, redists);
                }
            } else {
                self.edit(intid, redists, |irq| bank::write(irq, span.field, field, by, v2));
            }
        }
    }
}
