//! A vCPU's redistributor with its CPU interface: private interrupts, the SPIs that are resident
//! here, LPIs, and who is to be taken next.

use crate::cpuif::{CpuInterface, Group};
use crate::identity::{A3V, RSS, SEIS};
use crate::irq::{FIRST_LPI, FIRST_PPI, FIRST_SPECIAL, FIRST_SPI, Irq, SPURIOUS};
use crate::lpi::{Lpi, Lpis};
use crate::types::{Affinity, GicConfig, Lines, Version};

/// What a redistributor cannot do alone. The caller drains them with
/// [`Redistributor::take_messages`] after it has let go of the redistributor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Raise an SGI.
    Sgi(SgiRequest),
    /// ICC_DIR named an SPI that is not resident here.
    Deactivate(u32),
    /// The SPI was given another target while it was active here and is now inactive.
    Rehome(u32),
    /// The line's owner wants to know of this deactivation.
    Eoi(u32),
}

/// No redistributors: what an ITS has whose GIC is not initialised yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRedists;

impl Redists for NoRedists {
    fn count(&self) -> usize {
        0
    }

    fn with<R>(&mut self, _vcpu: usize, _f: impl FnOnce(&mut Redistributor) -> R) -> Option<R> {
        None
    }
}

/// An SGI as ICC_SGI*R or GICD_SGIR asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SgiRequest {
    /// The sending vCPU.
    pub from: u16,
    /// 0 to 15.
    pub intid: u32,
    /// Who gets it.
    pub to: SgiTargets,
    /// Written to the group 1 register: may raise group 1 SGIs as well as group 0.
    pub group1: bool,
}

/// Who gets an SGI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SgiTargets {
    /// All vCPUs but the sender.
    Others,
    /// vCPUs whose affinity is this with an Aff0 of `first + i` for a bit i of `list`.
    List {
        /// Aff3.Aff2.Aff1.0
        cluster: u32,
        /// Aff0 of bit 0.
        first: u32,
        /// The bits.
        list: u16,
    },
    /// GICv2: vCPUs by index.
    Mask(u8),
}

/// Access to all redistributors. With a lock around each, `with` takes it.
pub trait Redists {
    /// How many there are.
    fn count(&self) -> usize;
    /// Runs `f` on one of them, if it exists.
    fn with<R>(&mut self, vcpu: usize, f: impl FnOnce(&mut Redistributor) -> R) -> Option<R>;
}

/// The most urgent interrupt that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) intid: u32,
    pub(crate) priority: u8,
    pub(crate) group: Group,
}

/// A redistributor with its CPU interface.
#[derive(Clone, Debug)]
pub struct Redistributor {
    pub(crate) version: Version,
    pub(crate) index: u16,
    pub(crate) affinity: Affinity,
    pub(crate) processor: u16,
    pub(crate) last: bool,
    pub(crate) has_lpis: bool,
    /// Fixed bits of ICC_CTLR_EL1: SEIS, A3V, RSS.
    pub(crate) ctlr_fixed: u64,
    pub(crate) id_bits: u8,
    /// What userspace may still claim by ICC_CTLR_EL1; each claim lowers it (KVM).
    pub(crate) user_pri_bits: u8,
    pub(crate) user_id_bits: u8,
    pub(crate) cpuif_iidr: u32,
    /// What the fixed bits say about an SGI's targets.
    pub(crate) a3v: bool,
    pub(crate) rss: bool,
    /// GICR_CTLR.CES and IR, by GICD_IIDR's revision.
    pub(crate) invalidates: bool,

    pub(crate) private: [Irq; FIRST_SPI as usize],
    pub(crate) spis: Vec<Irq>,
    pub(crate) lpis: Lpis,
    pub(crate) cpu: CpuInterface,
    pub(crate) enable_lpis: bool,
    pub(crate) pendbaser: u64,
    /// Copy of GICD_CTLR's enable: KVM presents nothing while it is 0.
    pub(crate) forwarding: bool,

    best: Option<Candidate>,
    lines: Lines,
    /// There is something to wake up for: see [`Redistributor::wakes`].
    wakes: bool,
    messages: Vec<Message>,
}

/// GICR_PENDBASER and (with an ITS) GICR_PROPBASER at reset: inner shareable, RaWb.
pub const INITIAL_BASER: u64 = 0x580;

impl Redistributor {
    /// The reset state of vCPU `index`.
    pub fn new(config: &GicConfig, index: usize) -> Redistributor {
        let v3 = config.version == Version::V3;
        let private = std::array::from_fn(|i| {
            let intid = i as u32;
            let sgi = intid < FIRST_PPI;
            // KVM creates SGIs enabled; all of a GICv3 are group 1 (Linux never writes IGROUPR0
            // when GICD_CTLR.DS reads 1).
            Irq { intid, edge: sgi, enabled: sgi, group1: v3, ..Irq::default() }
        });
        let bit = |on: bool, at: u32| u64::from(on) << at;
        Redistributor {
            version: config.version,
            index: index as u16,
            affinity: config.vcpus.get(index).copied().unwrap_or_default(),
            processor: config.vcpu_ids.get(index).copied().unwrap_or(index as u16),
            last: index + 1 == config.vcpus.len(),
            has_lpis: config.its != 0 && config.dist.lpis,
            ctlr_fixed: bit(config.seis, SEIS) | bit(config.a3v, A3V) | bit(config.rss, RSS),
            a3v: config.a3v,
            id_bits: config.id_bits,
            user_pri_bits: config.pri_bits,
            user_id_bits: config.id_bits,
            cpuif_iidr: config.cpuif_iidr,
            rss: config.rss,
            invalidates: true,
            private,
            spis: Vec::new(),
            lpis: Lpis::default(),
            cpu: CpuInterface::new(config.pri_bits),
            enable_lpis: false,
            pendbaser: INITIAL_BASER,
            forwarding: false,
            best: None,
            lines: Lines::default(),
            wakes: false,
            messages: Vec::new(),
        }
    }

    /// The vCPU's interrupt inputs.
    pub fn lines(&self) -> Lines {
        self.lines
    }

    /// Whether an interrupt is ready that the priority mask lets through, whatever groups are enabled. KVM wakes a vCPU that
    /// its system suspended by that: an OS disables the groups on the way there.
    pub fn wakes(&self) -> bool {
        self.wakes
    }

    /// The CPU interface's registers.
    pub fn cpu(&self) -> &CpuInterface {
        &self.cpu
    }

    /// Whether GICR_CTLR.EnableLPIs is set.
    pub fn lpis_enabled(&self) -> bool {
        self.enable_lpis
    }

    /// GICR_TYPER.Processor_Number.
    pub fn processor_number(&self) -> u16 {
        self.processor
    }

    /// What others have to do as a consequence of what was done here.
    pub fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    /// Whether [`Redistributor::take_messages`] has any.
    pub fn has_messages(&self) -> bool {
        !self.messages.is_empty()
    }

    pub(crate) fn post(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Works out anew who is next and what the inputs are. Every change of state ends here.
    pub(crate) fn update(&mut self) {
        let enable = self.cpu.group_enable;
        let mut best: Option<Candidate> = None;
        let (mut wakes, mask) = (false, self.cpu.pmr);
        if self.forwarding {
            let mut consider = |intid: u32, priority: u8, group1: bool| {
                wakes |= priority < mask;
                let group = Group::of(group1);
                if enable[group as usize] && best.is_none_or(|b| (priority, intid) < (b.priority, b.intid)) {
                    best = Some(Candidate { intid, priority, group });
                }
            };
            for irq in self.private.iter().filter(|irq| irq.ready()) {
                consider(irq.intid, irq.priority, irq.group1);
            }
            for irq in self.spis.iter().filter(|irq| irq.ready() && irq.target == Some(self.index)) {
                consider(irq.intid, irq.priority, irq.group1);
            }
            if self.enable_lpis
                && let Some((priority, intid)) = self.lpis.best()
            {
                consider(intid, priority, true);
            }
        }
        self.best = best;
        self.wakes = wakes;
        self.lines = match best.filter(|b| self.cpu.signals(b.priority, b.group)) {
            None => Lines::default(),
            // GICv3 signals group 0 as FIQ; GICv2 only when GICC_CTLR.FIQEn says so.
            Some(b) => {
                let fiq = b.group == Group::G0 && (self.version == Version::V3 || self.cpu.fiq_enable);
                Lines { irq: !fiq, fiq }
            }
        };
    }

    /// The most urgent pending interrupt of an enabled group, masked or not.
    pub(crate) fn highest_pending(&self) -> Option<Candidate> {
        self.best
    }

    /// The interrupt that an acknowledge takes now.
    pub(crate) fn signalled(&self) -> Option<Candidate> {
        self.best.filter(|b| self.cpu.signals(b.priority, b.group))
    }

    /// The private interrupt or resident SPI with this number.
    pub fn irq(&self, intid: u32) -> Option<&Irq> {
        match self.private.get(intid as usize) {
            Some(irq) => Some(irq),
            None => self.spis.iter().find(|irq| irq.intid == intid),
        }
    }

    fn irq_mut(&mut self, intid: u32) -> Option<&mut Irq> {
        match self.private.get_mut(intid as usize) {
            Some(irq) => Some(irq),
            None => self.spis.iter_mut().find(|irq| irq.intid == intid),
        }
    }

    /// Changes a private interrupt or resident SPI.
    pub(crate) fn edit<R>(&mut self, intid: u32, f: impl FnOnce(&mut Irq) -> R) -> Option<R> {
        let out = f(self.irq_mut(intid)?);
        self.update();
        Some(out)
    }

    /// Drives a PPI's input.
    pub fn set_ppi(&mut self, intid: u32, level: bool) {
        self.edit(intid, |irq| irq.set_line(level));
    }

    /// An SPI comes to live here.
    pub(crate) fn put_spi(&mut self, irq: Irq) {
        self.spis.push(irq);
        self.update();
    }

    /// A resident SPI leaves.
    pub(crate) fn take_spi(&mut self, intid: u32) -> Option<Irq> {
        let at = self.spis.iter().position(|irq| irq.intid == intid)?;
        let irq = self.spis.swap_remove(at);
        self.update();
        Some(irq)
    }

    /// GICD_CTLR's enable changed.
    pub(crate) fn set_forwarding(&mut self, on: bool) {
        self.forwarding = on;
        self.update();
    }

    /// An SGI arrives. A request by the group 0 register raises group 0 SGIs only.
    pub(crate) fn receive_sgi(&mut self, sgi: &SgiRequest) {
        let v2 = self.version == Version::V2;
        if let Some(irq) = self.private.get_mut(sgi.intid as usize & 15) {
            if irq.group1 && !sgi.group1 && !v2 {
                return;
            }
            irq.latch = true;
            if v2 {
                irq.sources |= 1u8.checked_shl(sgi.from.into()).unwrap_or(0);
            }
            self.update();
        }
    }

    /// Acknowledges what is signalled if its group is one of `groups`; else [`SPURIOUS`].
    /// Returns INTID and, for SGIs of a GICv2, the sender.
    pub(crate) fn acknowledge(&mut self, groups: &[Group]) -> (u32, u8) {
        let Some(next) = self.signalled().filter(|b| groups.contains(&b.group)) else {
            return (SPURIOUS, 0);
        };
        let mut source = 0;
        if next.intid >= FIRST_LPI {
            self.lpis.edit(next.intid, |lpi| lpi.pending = false);
        } else if let Some(irq) = self.irq_mut(next.intid) {
            irq.acknowledge();
            source = irq.active_source;
        }
        self.cpu.activate(next.priority, next.group);
        self.update();
        (next.intid, if next.intid < FIRST_PPI { source } else { 0 })
    }

    /// End of interrupt: drops the running priority and, unless EOImode splits the two,
    /// deactivates. A write without an active priority does nothing.
    pub(crate) fn end_of_interrupt(&mut self, intid: u32) {
        if (FIRST_SPECIAL..FIRST_LPI).contains(&intid) || !self.cpu.drop_priority() {
            return;
        }
        if !self.cpu.eoi_mode && intid < FIRST_SPECIAL {
            self.deactivate(intid);
        }
        self.update();
    }

    /// ICC_DIR / GICC_DIR: only while EOImode splits priority drop and deactivation.
    pub(crate) fn deactivate_register(&mut self, intid: u32) {
        if !self.cpu.eoi_mode || intid >= FIRST_SPECIAL {
            return;
        }
        if intid >= FIRST_SPI && self.irq(intid).is_none() {
            self.post(Message::Deactivate(intid));
            return;
        }
        self.deactivate(intid);
        self.update();
    }

    fn deactivate(&mut self, intid: u32) {
        let me = self.index;
        let Some(irq) = self.irq_mut(intid).filter(|irq| irq.active) else {
            return;
        };
        irq.deactivate();
        let (notify, moved) = (irq.notify_eoi && !irq.edge, intid >= FIRST_SPI && irq.target != Some(me));
        if notify {
            self.post(Message::Eoi(intid));
        }
        if moved {
            self.post(Message::Rehome(intid));
        }
    }

    /// Changes or adds an LPI.
    pub(crate) fn upsert_lpi<R>(&mut self, intid: u32, f: impl FnOnce(&mut Lpi) -> R) -> Option<R> {
        let out = self.lpis.upsert(intid, f);
        self.update();
        out
    }

    /// Changes an LPI that is here.
    pub(crate) fn edit_lpi<R>(&mut self, intid: u32, f: impl FnOnce(&mut Lpi) -> R) -> Option<R> {
        let out = self.lpis.edit(intid, f);
        self.update();
        out
    }
}
