//! The registers of group 0x5DE (seed-systems.md §3.6).

use ulna_kvm_abi::Errno;
use ulna_kvm_abi::RegId;
use ulna_kvm_abi::reg::{ARM64, GROUP_SDEI, SIZE_U64, SIZE_U512, SIZE_U2048};

use super::state::{Context, FIRST_BOUND_SLOT, Features, Machine, RELATIVE, ROUTED, STATIC, Which, World};
use super::{VERSION_1_0, VERSION_1_1};
use crate::Result;
use crate::why;

/// A register of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// SDEI_VERSION.
    Version,
    /// SDEI_FEATURES.
    Features,
    /// SDEI_PE.
    Pe,
    /// SDEI_CTX_NORMAL (0) or SDEI_CTX_CRITICAL (1).
    Context(usize),
    /// SDEI_EVENT of a slot.
    Event(usize),
    /// SDEI_SHARED.
    Shared(usize),
}

/// Indices in the group.
mod at {
    pub const VERSION: u16 = 0;
    pub const FEATURES: u16 = 1;
    pub const PE: u16 = 2;
    pub const CTX: u16 = 0x10;
    pub const EVENT: u16 = 0x100;
    pub const SHARED: u16 = 0x200;
    pub const END: u16 = 0x300;
}

impl Reg {
    /// What an id names, whether or not a VM has it.
    pub fn from_id(id: RegId) -> Option<Reg> {
        let reg = match id.index() {
            at::VERSION => Reg::Version,
            at::FEATURES => Reg::Features,
            at::PE => Reg::Pe,
            n @ (at::CTX | 0x11) => Reg::Context((n - at::CTX).into()),
            n @ at::EVENT..at::SHARED => Reg::Event((n - at::EVENT).into()),
            n @ at::SHARED..at::END => Reg::Shared((n - at::SHARED).into()),
            _ => return None,
        };
        (reg.id() == id).then_some(reg)
    }

    /// Its id.
    pub fn id(self) -> RegId {
        let (size, index) = match self {
            Reg::Version => (SIZE_U64, at::VERSION),
            Reg::Features => (SIZE_U64, at::FEATURES),
            Reg::Pe => (SIZE_U64, at::PE),
            Reg::Context(n) => (SIZE_U2048, at::CTX + n as u16),
            Reg::Event(n) => (SIZE_U512, at::EVENT + n as u16),
            Reg::Shared(n) => (SIZE_U512, at::SHARED + n as u16),
        };
        RegId(ARM64 | size | GROUP_SDEI | u64::from(index))
    }
}

/// Bits of an event's first word.
mod word0 {
    pub const REGISTERED: u64 = 1 << 32;
    pub const ENABLED: u64 = 1 << 33;
    pub const RUNNING: u64 = 1 << 34;
    pub const PENDING: u64 = 1 << 35;
    pub const SHARED: u64 = 1 << 40;
    pub const SIGNALABLE: u64 = 1 << 41;
    pub const CRITICAL: u64 = 1 << 42;
    pub const BOUND: u64 = 1 << 43;
    pub const LEVEL: u64 = 1 << 44;
    pub const STATE: u64 = REGISTERED | ENABLED | RUNNING | PENDING;
}

const BAD_EVENT: Errno =
    Errno::EINVAL.because("the state of the event contradicts itself, its slot or another event");
const BAD_CONTEXT: Errno =
    Errno::EINVAL.because("the interrupted context has words that mean nothing, or a mode the vCPU lacks");
/// The event of a context that does not exist.
const NO_EVENT: u64 = 0xffff_ffff;

impl Machine {
    /// Registers in the order of their ids, which is one to restore them in.
    pub fn reg_list(&self) -> Vec<Reg> {
        let mut l = vec![Reg::Version, Reg::Features, Reg::Pe];
        l.extend((0..self.features.private()).map(|n| Reg::Event(FIRST_BOUND_SLOT + n)));
        let own = [0].into_iter().chain(self.features.host_nmi().then_some(1));
        l.splice(3..3, own.map(Reg::Event));
        l.extend((0..self.features.shared()).map(Reg::Shared));
        l.push(Reg::Context(0));
        if self.features.critical() {
            l.push(Reg::Context(1));
        }
        l
    }

    fn which(&self, reg: Reg) -> Option<Which> {
        match reg {
            Reg::Event(0) => Some(Which::Private(0)),
            Reg::Event(1) => self.features.host_nmi().then_some(Which::Private(1)),
            Reg::Event(n) => {
                let n = n.checked_sub(FIRST_BOUND_SLOT)?;
                (n < self.features.private()).then_some(Which::Private(STATIC + n))
            }
            Reg::Shared(n) => (n < self.features.shared()).then_some(Which::Shared(n)),
            _ => None,
        }
    }

    /// KVM_GET_ONE_REG through the vCPU `pe`, in words.
    pub fn get(&self, pe: usize, reg: Reg) -> Result<Vec<u64>> {
        let p = self.pes.get(pe).ok_or(why::NO_REGISTER)?;
        Ok(match reg {
            Reg::Version => vec![self.version],
            Reg::Features => vec![self.features.0],
            Reg::Pe => {
                vec![u64::from(p.masked) | u64::from(p.valid[0]) << 1 | u64::from(p.valid[1]) << 2]
            }
            Reg::Context(1) if !self.features.critical() => return Err(why::NO_REGISTER),
            Reg::Context(n) => {
                let mut w = vec![0; 32];
                w[20] = NO_EVENT;
                if let Some(c) = &p.contexts[n] {
                    w[..18].copy_from_slice(&c.x);
                    (w[18], w[19], w[20]) = (c.pc, c.pstate, c.event.into());
                }
                w
            }
            Reg::Event(_) | Reg::Shared(_) => {
                let which = self.which(reg).ok_or(why::NO_REGISTER)?;
                let e = self.event(pe, which);
                let b = |on: bool, bit: u64| if on { bit } else { 0 };
                let state = b(e.registered, word0::REGISTERED)
                    | b(e.enabled, word0::ENABLED)
                    | b(e.running, word0::RUNNING)
                    | b(e.pending, word0::PENDING)
                    | b(e.level, word0::LEVEL);
                let bound = self.bound(which).unwrap_or(0).into();
                vec![self.identity(which) | state, e.entry, e.arg, e.flags, e.affinity, bound, e.runner, 0]
                    .into_iter()
                    .enumerate()
                    .map(|(n, w)| if n == 0 { w | b(bound != 0, word0::BOUND) } else { w })
                    .collect()
            }
        })
    }

    /// What of an event's first word is the slot's for ever.
    fn identity(&self, which: Which) -> u64 {
        let b = |on: bool, bit: u64| if on { bit } else { 0 };
        u64::from(self.number(which))
            | b(matches!(which, Which::Shared(_)), word0::SHARED)
            | b(which == Which::Private(0), word0::SIGNALABLE)
            | b(self.is_critical(which), word0::CRITICAL)
    }

    /// KVM_SET_ONE_REG through the vCPU `pe`. `started`: the VM has run.
    pub fn set(
        &mut self,
        pe: usize,
        reg: Reg,
        w: &[u64],
        started: bool,
        world: &mut dyn World,
    ) -> Result<()> {
        if pe >= self.pes.len() {
            return Err(why::NO_REGISTER);
        }
        match (reg, w) {
            (Reg::Version, [v]) => {
                if !matches!(*v, 0 | VERSION_1_0 | VERSION_1_1) {
                    return Err(Errno::EINVAL.because("{x} is no version of SDEI").value(*v));
                }
                if started && *v != self.version {
                    return Err(why::STARTED);
                }
                self.version = *v;
            }
            (Reg::Features, [v]) => {
                if !Features(*v).possible() {
                    return Err(Errno::EINVAL.because("features {x} of SDEI cannot be").value(*v));
                }
                if started && *v != self.features.0 {
                    return Err(why::STARTED);
                }
                self.change_features(Features(*v), world);
            }
            (Reg::Pe, [v]) => {
                if v & !7 != 0 || (v & 4 != 0 && !self.features.critical()) {
                    return Err(Errno::EINVAL.because("SDEI_PE {x}: bits that mean nothing").value(*v));
                }
                let p = &mut self.pes[pe];
                (p.masked, p.valid, p.unchecked) = (v & 1 != 0, [v & 2 != 0, v & 4 != 0], true);
                self.look(pe);
                self.look_shared(world);
            }
            (Reg::Context(1), _) if !self.features.critical() => return Err(why::NO_REGISTER),
            (Reg::Context(n), w) => {
                let c = parse_context(w)?;
                let p = &mut self.pes[pe];
                p.contexts[n] = c;
                p.unchecked = true;
                self.look(pe);
                self.look_shared(world);
            }
            (Reg::Event(_) | Reg::Shared(_), w) => {
                let which = self.which(reg).ok_or(why::NO_REGISTER)?;
                self.set_event(pe, which, w, world)?;
            }
            _ => return Err(why::WRONG_SIZE),
        }
        Ok(())
    }

    /// Events of other numbers would keep nothing of what they were.
    fn change_features(&mut self, f: Features, world: &mut dyn World) {
        if f != self.features {
            self.reset(world);
            self.set_features(f);
        }
    }

    fn set_event(&mut self, pe: usize, which: Which, w: &[u64], world: &mut dyn World) -> Result<()> {
        let [first, entry, arg, flags, affinity, intid, runner, 0] = *w else { return Err(BAD_EVENT) };
        let bit = |b: u64| first & b != 0;
        let (registered, enabled) = (bit(word0::REGISTERED), bit(word0::ENABLED));
        let (running, pending) = (bit(word0::RUNNING), bit(word0::PENDING));
        let (bound, level) = (bit(word0::BOUND), bit(word0::LEVEL));
        let shared = matches!(which, Which::Shared(_));
        let routed = shared && flags & ROUTED != 0;
        let known = if self.relative_allowed() { ROUTED | RELATIVE } else { ROUTED };
        let bindable = !matches!(which, Which::Private(n) if n < STATIC);
        let range = if shared { 32..1020 } else { 16..32 };
        let fits = first & !(word0::STATE | word0::BOUND | word0::LEVEL) == self.identity(which)
            && (registered || !enabled && !pending)
            && (registered || running || (entry, arg, flags, affinity) == (0, 0, 0, 0))
            && flags & !known == 0
            && (routed || affinity == 0)
            && (!routed || self.pe_of(affinity).is_some())
            && bound == (intid != 0)
            && (bound || !level)
            && (!bound || bindable && range.contains(&intid) && world.exists(intid as u32))
            && (bound || !registered || !bindable)
            && if shared && running { self.pe_of(runner).is_some() } else { runner == 0 };
        let intid = intid as u32;
        // A binding is the VM's: it is taken over from the first, and all others must agree.
        let present = self.bound(which).unwrap_or(0);
        let others = match which {
            Which::Private(n) => {
                let mut others = self.pes.iter().enumerate().filter(|(i, _)| *i != pe);
                others.any(|(_, p)| p.events[n].registered || p.events[n].running)
            }
            Which::Shared(_) => false,
        };
        let elsewhere =
            intid != present && (self.private_bound.contains(&intid) || self.shared_bound.contains(&intid));
        if !fits || (intid != present && others) || (intid != 0 && elsewhere) {
            return Err(BAD_EVENT);
        }
        self.event_mut(pe, which).running = false;
        self.unregister(pe, which, world);
        match which {
            Which::Private(n) if bindable => self.private_bound[n - STATIC] = intid,
            Which::Shared(n) => self.shared_bound[n] = intid,
            Which::Private(_) => {}
        }
        let line = registered && bound && world.connect(Machine::owner(pe, which), intid, true).1;
        let e = self.event_mut(pe, which);
        (e.registered, e.enabled, e.running, e.pending) = (registered, enabled, running, pending);
        (e.entry, e.arg, e.flags, e.affinity, e.runner) = (entry, arg, flags, affinity, runner);
        (e.level, e.line) = (level, line);
        self.pes[pe].unchecked = true;
        if let Some(runner) = self.pe_of(runner).filter(|_| shared && running) {
            self.pes[runner].unchecked = true;
        }
        self.look(pe);
        self.look_shared(world);
        Ok(())
    }

    /// Before a PE runs: does what a VMM wrote fit together?
    pub fn check(&mut self, pe: usize) -> bool {
        let Some(p) = self.pes.get(pe) else { return true };
        if !p.unchecked {
            return true;
        }
        let ok = self.consistent(pe);
        self.pes[pe].unchecked = !ok;
        ok
    }

    fn consistent(&self, pe: usize) -> bool {
        let p = &self.pes[pe];
        let private = (0..p.events.len()).map(Which::Private);
        let all: Vec<_> = private.chain((0..self.shared.len()).map(Which::Shared)).collect();
        let mine = |w: &Which| {
            let e = self.event(pe, *w);
            e.running && (matches!(w, Which::Private(_)) || Some(e.runner) == p.mpidr)
        };
        let entries = all.iter().all(|w| {
            let e = self.event(pe, *w);
            !e.registered || self.legal_entry(e.entry, e.flags)
        });
        let priority = |n: usize| {
            let mut running =
                all.iter().filter(|w| mine(w) && self.is_critical(**w) == (n == 1)).map(|w| self.number(*w));
            let names = p.contexts[n].map(|c| c.event);
            (running.next(), running.next()) == (names, None) && p.valid[n] == names.is_some()
        };
        entries && priority(0) && priority(1)
    }
}

fn parse_context(w: &[u64]) -> Result<Option<Context>> {
    let whole = w.len() == 32 && w[20] <= NO_EVENT && w[21..].iter().all(|w| *w == 0);
    if !whole {
        return Err(BAD_CONTEXT);
    }
    if w[20] == NO_EVENT {
        return if w[..20].iter().all(|w| *w == 0) { Ok(None) } else { Err(BAD_CONTEXT) };
    }
    // As the core register: AArch64, EL0t, EL1t or EL1h.
    if w[19] >> 32 != 0 || !matches!(w[19] & 0x1f, 0 | 4 | 5) {
        return Err(BAD_CONTEXT);
    }
    let mut c = Context { pc: w[18], pstate: w[19], event: w[20] as u32, ..Context::default() };
    c.x.copy_from_slice(&w[..18]);
    Ok(Some(c))
}
