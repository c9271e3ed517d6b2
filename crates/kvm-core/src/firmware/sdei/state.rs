//! Events, PEs, and who takes what (seed-systems.md §3.3-§3.5).

use super::{HOST_NMI, PRIVATE_BOUND, SHARED_BOUND, SOFTWARE, VERSION_1_1};

/// SDEI_FEATURES: what of the service a VM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Event 0 and the host's event.
    pub const DEFAULT: Features = Features(1 << 18);
    /// All that this implementation can do.
    pub const MOST: Features = Features(7 << 16 | 32 << 8 | 16);

    /// Bits that mean something.
    pub const MASK: u64 = 0x7_ffff;

    /// Private events that can be bound to PPIs.
    pub fn private(self) -> usize {
        (self.0 & 0xff) as usize
    }
    /// Shared events that can be bound to SPIs.
    pub fn shared(self) -> usize {
        (self.0 >> 8 & 0xff) as usize
    }
    /// Entries relative to the vectors.
    pub fn relative(self) -> bool {
        self.0 >> 16 & 1 != 0
    }
    /// Events of critical priority.
    pub fn critical(self) -> bool {
        self.0 >> 17 & 1 != 0
    }
    /// The host's event.
    pub fn host_nmi(self) -> bool {
        self.0 >> 18 & 1 != 0
    }
    /// Is there nothing in it that this implementation lacks?
    pub fn possible(self) -> bool {
        let most = Features::MOST;
        self.private() <= most.private() && self.shared() <= most.shared() && self.0 >> 16 & !7 == 0
    }
}

/// REGISTER's flag for an event that one PE takes.
pub(super) const ROUTED: u64 = 1;
/// REGISTER's flag for an entry relative to the vectors.
pub(super) const RELATIVE: u64 = 2;

/// Slot of the first event that can be bound to a PPI.
pub(super) const FIRST_BOUND_SLOT: usize = 16;
/// Events of a PE that are not bound to interrupts.
pub(super) const STATIC: usize = 2;

/// An event: of one PE if it is private, of the VM if it is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    pub registered: bool,
    pub enabled: bool,
    pub running: bool,
    pub pending: bool,
    pub entry: u64,
    pub arg: u64,
    pub flags: u64,
    pub affinity: u64,
    /// MPIDR of the PE that runs a shared event's handler.
    pub runner: u64,
    /// The bound interrupt is level-triggered.
    pub level: bool,
    /// The bound interrupt's line is high.
    pub line: bool,
}

impl Event {
    /// No handler any more. A running one stays until it completes.
    pub fn unregister(&mut self) {
        (self.registered, self.enabled, self.pending) = (false, false, false);
        (self.level, self.line) = (false, false);
        if !self.running {
            *self = Event::default();
        }
    }

    pub fn complete(&mut self) {
        self.running = false;
        self.runner = 0;
        if !self.registered {
            *self = Event::default();
        }
        self.pending |= self.level && self.line;
    }
}

/// What a handler interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// x0-x17.
    pub x: [u64; 18],
    /// PC.
    pub pc: u64,
    /// PSTATE as in SPSR.
    pub pstate: u64,
    /// The event whose handler runs.
    pub event: u32,
}

/// A handler to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the event.
    pub event: u32,
    /// Address, or offset from the vectors.
    pub address: u64,
    /// Is it an offset?
    pub relative: bool,
    /// What the client wants to get.
    pub arg: u64,
}

/// Which event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Of the PE in question, by its place in the PE's list.
    Private(usize),
    Shared(usize),
}

#[derive(Clone, Debug)]
pub(super) struct Pe {
    /// Affinity as in MPIDR_EL1, once it is known.
    pub mpidr: Option<u64>,
    pub masked: bool,
    /// Of normal and of critical priority.
    pub contexts: [Option<Context>; 2],
    /// SDEI_PE says so.
    pub valid: [bool; 2],
    pub events: Vec<Event>,
    /// A VMM wrote something: it must fit together before the PE runs.
    pub unchecked: bool,
}

/// What the service needs to know of the machine around it.
pub trait World {
    /// Is this PE powered on?
    fn is_on(&self, pe: usize) -> bool;
    /// Is there such an interrupt (of a PPI: everywhere)?
    fn exists(&self, intid: u32) -> bool;
    /// Is it being handled as an interrupt (of a PPI: anywhere)?
    fn is_active(&mut self, intid: u32) -> bool;
    /// Takes an interrupt (of this PE, or an SPI) away from the interrupt controller, or gives it back. Of one that is
    /// taken: whether it is level-triggered and whether its line is high.
    fn connect(&mut self, pe: Option<usize>, intid: u32, taken: bool) -> (bool, bool);
}

/// The service of a VM.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(super) version: u64,
    pub(super) features: Features,
    pub(super) pes: Vec<Pe>,
    pub(super) shared: Vec<Event>,
    /// INTIDs of the events that can be bound; 0 is none.
    pub(super) private_bound: Vec<u32>,
    pub(super) shared_bound: Vec<u32>,
    /// Bits of a virtual address.
    pub(super) va_bits: u32,
    /// PEs that should look whether they have an event to take.
    look: Vec<usize>,
}

impl Default for Machine {
    fn default() -> Machine {
        let mut m = Machine {
            version: VERSION_1_1,
            features: Features::DEFAULT,
            pes: Vec::new(),
            shared: Vec::new(),
            private_bound: Vec::new(),
            shared_bound: Vec::new(),
            va_bits: 48,
            look: Vec::new(),
        };
        m.set_features(Features::DEFAULT);
        m
    }
}

impl Machine {
    /// With what VERSION and FEATURES say.
    pub fn new(version: u64, features: Features) -> Machine {
        let mut m = Machine { version, ..Machine::default() };
        m.set_features(features);
        m
    }

    /// SDEI_VERSION.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// SDEI_FEATURES.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Addresses have so many bits.
    pub fn set_va_bits(&mut self, bits: u32) {
        self.va_bits = bits;
    }

    /// Before the VM runs: the events that there are.
    pub(super) fn set_features(&mut self, f: Features) {
        self.features = f;
        self.private_bound.resize(f.private(), 0);
        self.shared_bound.resize(f.shared(), 0);
        self.shared.resize(f.shared(), Event::default());
        for pe in &mut self.pes {
            pe.events.resize(STATIC + f.private(), Event::default());
        }
    }

    /// Makes sure that PE `n` is there.
    pub fn add_pe(&mut self, n: usize) {
        while self.pes.len() <= n {
            self.pes.push(Pe {
                mpidr: None,
                masked: true,
                contexts: [None; 2],
                valid: [false; 2],
                events: vec![Event::default(); STATIC + self.features.private()],
                unchecked: false,
            });
        }
    }

    /// Who the PE is.
    pub fn set_mpidr(&mut self, pe: usize, mpidr: u64) {
        self.add_pe(pe);
        self.pes[pe].mpidr = Some(mpidr);
    }

    /// Whose affinity this is.
    pub(super) fn pe_of(&self, mpidr: u64) -> Option<usize> {
        self.pes.iter().position(|p| p.mpidr == Some(mpidr))
    }

    pub(super) fn number(&self, which: Which) -> u32 {
        match which {
            Which::Private(0) => SOFTWARE,
            Which::Private(1) => HOST_NMI,
            Which::Private(n) => PRIVATE_BOUND + (n - STATIC) as u32,
            Which::Shared(n) => SHARED_BOUND + n as u32,
        }
    }

    /// The event with this number, if the VM has it.
    pub(super) fn find(&self, number: u32) -> Option<Which> {
        let within = |first: u32, n: usize| number.checked_sub(first).map(|i| i as usize).filter(|i| *i < n);
        match number {
            SOFTWARE => Some(Which::Private(0)),
            HOST_NMI => self.features.host_nmi().then_some(Which::Private(1)),
            _ => within(PRIVATE_BOUND, self.features.private())
                .map(|n| Which::Private(STATIC + n))
                .or_else(|| within(SHARED_BOUND, self.features.shared()).map(Which::Shared)),
        }
    }

    /// Critical events are the odd ones of those that can be bound, once there is such a priority.
    pub(super) fn is_critical(&self, which: Which) -> bool {
        let n = match which {
            Which::Private(n) => n.checked_sub(STATIC),
            Which::Shared(n) => Some(n),
        };
        self.features.critical() && n.is_some_and(|n| n % 2 == 1)
    }

    pub(super) fn event(&self, pe: usize, which: Which) -> &Event {
        match which {
            Which::Private(n) => &self.pes[pe].events[n],
            Which::Shared(n) => &self.shared[n],
        }
    }

    pub(super) fn event_mut(&mut self, pe: usize, which: Which) -> &mut Event {
        match which {
            Which::Private(n) => &mut self.pes[pe].events[n],
            Which::Shared(n) => &mut self.shared[n],
        }
    }

    /// The interrupt that an event is bound to.
    pub(super) fn bound(&self, which: Which) -> Option<u32> {
        let intid = match which {
            Which::Private(n) => *self.private_bound.get(n.checked_sub(STATIC)?)?,
            Which::Shared(n) => *self.shared_bound.get(n)?,
        };
        (intid != 0).then_some(intid)
    }

    /// The handler that runs on top on this PE.
    pub(super) fn top(&self, pe: usize) -> Option<usize> {
        [1, 0].into_iter().find(|p| self.pes[pe].contexts[*p].is_some())
    }

    /// Asks a PE to look.
    pub(super) fn look(&mut self, pe: usize) {
        if !self.look.contains(&pe) {
            self.look.push(pe);
        }
    }

    /// PEs that should look whether they have an event to take, since the last time.
    pub fn take_look(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.look)
    }

    /// Shared events may go to another PE after anything that happened.
    pub(super) fn look_shared(&mut self, world: &dyn World) {
        for n in 0..self.shared.len() {
            if let Some(pe) = self.taker(n, world) {
                self.look(pe);
            }
        }
    }

    /// May the PE be interrupted by an event of this priority?
    fn open(&self, pe: usize, critical: bool) -> bool {
        let p = &self.pes[pe];
        !p.masked && p.contexts[1].is_none() && (critical || p.contexts[0].is_none())
    }

    fn ready(e: &Event) -> bool {
        e.registered && e.enabled && e.pending && !e.running
    }

    /// Who takes a shared event now.
    fn taker(&self, n: usize, world: &dyn World) -> Option<usize> {
        let e = &self.shared[n];
        if !Machine::ready(e) {
            return None;
        }
        let critical = self.is_critical(Which::Shared(n));
        let fit = |pe: &usize| self.open(*pe, critical) && world.is_on(*pe);
        if e.flags & ROUTED != 0 {
            return self.pe_of(e.affinity).filter(fit);
        }
        (0..self.pes.len())
            .filter(|pe| self.pes[*pe].mpidr.is_some() && fit(pe))
            .min_by_key(|pe| self.pes[*pe].mpidr)
    }

    /// The event that this PE, which is on, takes next.
    fn next(&self, pe: usize, world: &dyn World) -> Option<Which> {
        let private = (0..self.pes.get(pe)?.events.len()).map(Which::Private);
        let all = private.chain((0..self.shared.len()).map(Which::Shared));
        let fit = |w: &Which| match *w {
            Which::Private(_) => Machine::ready(self.event(pe, *w)) && self.open(pe, self.is_critical(*w)),
            Which::Shared(n) => self.taker(n, world) == Some(pe),
        };
        // The first of the highest priority: `min` takes the first of equals.
        all.filter(fit).min_by_key(|w| !self.is_critical(*w))
    }

    /// The handler that this PE runs now instead of what `interrupted` tells (for the event's number).
    pub fn deliver(
        &mut self,
        pe: usize,
        world: &dyn World,
        interrupted: impl FnOnce(u32) -> Context,
    ) -> Option<Entry> {
        let which = self.next(pe, world)?;
        let number = self.number(which);
        let mpidr = self.pes[pe].mpidr.unwrap_or(0);
        let e = self.event_mut(pe, which);
        (e.pending, e.running) = (false, true);
        if matches!(which, Which::Shared(_)) {
            e.runner = mpidr;
        }
        let entry = Entry { event: number, address: e.entry, relative: e.flags & RELATIVE != 0, arg: e.arg };
        let priority = usize::from(self.is_critical(which));
        self.pes[pe].contexts[priority] = Some(interrupted(number));
        self.pes[pe].valid[priority] = true;
        self.look_shared(world);
        Some(entry)
    }

    /// Raises an event on a PE, as far as somebody registered it.
    pub(super) fn raise(&mut self, pe: usize, which: Which) {
        let e = self.event_mut(pe, which);
        if e.registered {
            e.pending = true;
            self.look(pe);
        }
    }

    /// KVM_NMI: false where there is no such event.
    pub fn host_nmi(&mut self, pe: usize) -> bool {
        let there = self.version != 0 && self.features.host_nmi() && pe < self.pes.len();
        if there {
            self.raise(pe, Which::Private(1));
        }
        there
    }

    /// PEs were turned on or off: shared events may go elsewhere.
    pub fn reconsider(&mut self, world: &dyn World) {
        self.look_shared(world);
    }

    /// The event that an interrupt is bound to, with its PE.
    fn bound_to(&self, pe: Option<usize>, intid: u32) -> Option<(usize, Which)> {
        let of = |bound: &[u32]| bound.iter().position(|b| *b == intid);
        let (pe, which) = match pe {
            Some(pe) => (pe, of(&self.private_bound).map(|n| Which::Private(STATIC + n))),
            None => (0, of(&self.shared_bound).map(Which::Shared)),
        };
        which.filter(|_| pe < self.pes.len()).map(|which| (pe, which))
    }

    /// A VMM restores a line's level: whether its event is pending stands in the event's own register.
    pub fn restore_line(&mut self, pe: Option<usize>, intid: u32, level: bool) {
        let Some((pe, which)) = self.bound_to(pe, intid) else { return };
        let e = self.event_mut(pe, which);
        e.line = level && e.registered;
    }

    /// The line of an interrupt that was taken away from the interrupt controller.
    pub fn set_line(&mut self, pe: Option<usize>, intid: u32, level: bool, world: &dyn World) {
        let Some((pe, which)) = self.bound_to(pe, intid) else { return };
        let e = self.event_mut(pe, which);
        if !e.registered || e.line == level {
            return;
        }
        e.line = level;
        // As at the interrupt controller: an edge stays, a level that goes away was nothing.
        e.pending = level || (e.pending && !e.level);
        if matches!(which, Which::Private(_)) {
            self.look(pe);
        }
        self.look_shared(world);
    }

    /// An event loses its handler, and its interrupt goes back to the interrupt controller.
    pub(super) fn unregister(&mut self, pe: usize, which: Which, world: &mut dyn World) {
        let was = std::mem::take(&mut self.event_mut(pe, which).registered);
        self.event_mut(pe, which).unregister();
        if let Some(intid) = self.bound(which).filter(|_| was) {
            world.connect(Machine::owner(pe, which), intid, false);
        }
    }

    /// Whose interrupt an event's is.
    pub(super) fn owner(pe: usize, which: Which) -> Option<usize> {
        matches!(which, Which::Private(_)).then_some(pe)
    }

    /// A PE begins anew (KVM_ARM_VCPU_INIT, CPU_ON).
    pub fn reset_pe(&mut self, pe: usize, world: &mut dyn World) {
        self.add_pe(pe);
        let me = self.pes[pe].mpidr;
        for n in 0..self.pes[pe].events.len() {
            self.pes[pe].events[n].running = false;
            self.unregister(pe, Which::Private(n), world);
        }
        for e in self.shared.iter_mut().filter(|e| e.running && Some(e.runner) == me) {
            e.complete();
        }
        let p = &mut self.pes[pe];
        (p.masked, p.contexts, p.valid, p.unchecked) = (true, [None; 2], [false; 2], false);
        self.look_shared(world);
    }

    /// The system begins anew (SYSTEM_RESET).
    pub fn reset(&mut self, world: &mut dyn World) {
        for pe in 0..self.pes.len() {
            self.reset_pe(pe, world);
        }
        for n in 0..self.shared.len() {
            self.shared[n].running = false;
            self.unregister(0, Which::Shared(n), world);
        }
        self.private_bound.fill(0);
        self.shared_bound.fill(0);
    }
}
