//! The guest's calls (seed-systems.md §3.2).

use super::state::{Context, Event, Machine, RELATIVE, ROUTED, STATIC, Which, World};
use super::{FIRST, VERSION_1_1};

/// Numbers of the functions, from [`FIRST`] on.
#[allow(missing_docs)]
pub mod function {
    pub const VERSION: u32 = 0x00;
    pub const EVENT_REGISTER: u32 = 0x01;
    pub const EVENT_ENABLE: u32 = 0x02;
    pub const EVENT_DISABLE: u32 = 0x03;
    pub const EVENT_CONTEXT: u32 = 0x04;
    pub const EVENT_COMPLETE: u32 = 0x05;
    pub const EVENT_COMPLETE_AND_RESUME: u32 = 0x06;
    pub const EVENT_UNREGISTER: u32 = 0x07;
    pub const EVENT_STATUS: u32 = 0x08;
    pub const EVENT_GET_INFO: u32 = 0x09;
    pub const EVENT_ROUTING_SET: u32 = 0x0a;
    pub const PE_MASK: u32 = 0x0b;
    pub const PE_UNMASK: u32 = 0x0c;
    pub const INTERRUPT_BIND: u32 = 0x0d;
    pub const INTERRUPT_RELEASE: u32 = 0x0e;
    pub const EVENT_SIGNAL: u32 = 0x0f;
    pub const FEATURES: u32 = 0x10;
    pub const PRIVATE_RESET: u32 = 0x11;
    pub const SHARED_RESET: u32 = 0x12;
}

/// Results of calls.
#[allow(missing_docs)]
pub mod status {
    pub const SUCCESS: u64 = 0;
    pub const NOT_SUPPORTED: u64 = -1i64 as u64;
    pub const INVALID_PARAMETERS: u64 = -2i64 as u64;
    pub const DENIED: u64 = -3i64 as u64;
    pub const PENDING: u64 = -5i64 as u64;
    pub const OUT_OF_RESOURCE: u64 = -10i64 as u64;
}
use status::*;

/// Third word of the UID of KVM's hypervisor services: SDEI's vendor word.
const VENDOR: u64 = 0x564b_caa9;
/// The last register that a context holds.
const LAST_X: u64 = 17;
/// INTIDs of PPIs end here.
const FIRST_SPI: u32 = 32;

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It returns this in x0.
    Value(u64),
    /// It goes on with what was interrupted.
    Complete(Context),
    /// It goes on at this address, as in an exception handler of what was interrupted.
    Resume(Context, u64),
}

/// A call that is refused with a status.
type Refused = u64;

impl Machine {
    /// A call of `pe` by function id; `x` are x0 and its arguments.
    pub fn call(&mut self, pe: usize, id: u32, x: &[u64; 6], world: &mut dyn World) -> Answer {
        if self.version == 0 || pe >= self.pes.len() {
            return Answer::Value(NOT_SUPPORTED);
        }
        let answer = match id.wrapping_sub(FIRST) {
            function::EVENT_COMPLETE => self.complete(pe, world),
            function::EVENT_COMPLETE_AND_RESUME if !self.legal_address(x[1]) => Answer::Value(DENIED),
            function::EVENT_COMPLETE_AND_RESUME => match self.complete(pe, world) {
                Answer::Complete(c) => Answer::Resume(c, x[1]),
                other => other,
            },
            n => Answer::Value(self.simple(pe, n, x, world).unwrap_or_else(|refused| refused)),
        };
        self.look_shared(world);
        answer
    }

    fn simple(&mut self, pe: usize, n: u32, x: &[u64; 6], world: &mut dyn World) -> Result<u64, Refused> {
        // Numbers of events, items, modes and interrupts are 32 bits wide.
        let [_, a, b, c, d, e] = *x;
        let event = || self.find(a as u32).ok_or(INVALID_PARAMETERS);
        match n {
            function::VERSION => Ok((self.version >> 16) << 48 | (self.version & 0xffff) << 32 | VENDOR),
            function::EVENT_REGISTER => self.register(pe, event()?, [b, c, d, e], world),
            function::EVENT_ENABLE => self.enable(pe, event()?, true),
            function::EVENT_DISABLE => self.enable(pe, event()?, false),
            function::EVENT_CONTEXT => self.context(pe, a),
            function::EVENT_UNREGISTER => {
                let which = event()?;
                let e = self.event(pe, which);
                let (registered, running) = (e.registered, e.running);
                if registered {
                    self.unregister(pe, which, world);
                }
                match (registered, running) {
                    (_, true) => Err(PENDING),
                    (true, false) => Ok(SUCCESS),
                    (false, false) => Err(DENIED),
                }
            }
            function::EVENT_STATUS => {
                let e = self.event(pe, event()?);
                Ok(u64::from(e.registered) | u64::from(e.enabled) << 1 | u64::from(e.running) << 2)
            }
            function::EVENT_GET_INFO => self.info(pe, event()?, b as u32),
            function::EVENT_ROUTING_SET => self.route(event()?, b as u32, c),
            function::PE_MASK => Ok(u64::from(!std::mem::replace(&mut self.pes[pe].masked, true))),
            function::PE_UNMASK => {
                self.pes[pe].masked = false;
                self.look(pe);
                Ok(SUCCESS)
            }
            function::INTERRUPT_BIND => self.bind(a as u32, world),
            function::INTERRUPT_RELEASE => self.release(event()?, world),
            function::EVENT_SIGNAL => {
                let target = self.pe_of(b).filter(|_| a as u32 == 0).ok_or(INVALID_PARAMETERS)?;
                // One that is off begins anew when it is turned on.
                if world.is_on(target) {
                    self.raise(target, Which::Private(0));
                }
                Ok(SUCCESS)
            }
            function::FEATURES => match a as u32 {
                0 => Ok(self.features.private() as u64 | (self.features.shared() as u64) << 16),
                1 if self.version >= VERSION_1_1 => Ok(self.features.relative().into()),
                _ => Err(INVALID_PARAMETERS),
            },
            function::PRIVATE_RESET => self.private_reset(pe, world),
            function::SHARED_RESET => self.shared_reset(world),
            _ => Err(NOT_SUPPORTED),
        }
    }

    /// Are entries relative to the vectors allowed?
    pub(super) fn relative_allowed(&self) -> bool {
        self.version >= VERSION_1_1 && self.features.relative()
    }

    /// An address that instructions can lie at.
    pub(super) fn legal_address(&self, a: u64) -> bool {
        let top = a as i64 >> (self.va_bits - 1) >> 1;
        a != 0 && a.is_multiple_of(4) && (top == 0 || top == -1)
    }

    /// An entry as REGISTER takes it.
    pub(super) fn legal_entry(&self, entry: u64, flags: u64) -> bool {
        if flags & RELATIVE != 0 { entry != 0 && entry.is_multiple_of(4) } else { self.legal_address(entry) }
    }

    fn register(
        &mut self,
        pe: usize,
        which: Which,
        [entry, arg, flags, affinity]: [u64; 4],
        world: &mut dyn World,
    ) -> Result<u64, Refused> {
        let known = if self.relative_allowed() { ROUTED | RELATIVE } else { ROUTED };
        if flags & !known != 0 || !self.legal_entry(entry, flags) {
            return Err(INVALID_PARAMETERS);
        }
        let routed = matches!(which, Which::Shared(_)) && flags & ROUTED != 0;
        if routed && self.pe_of(affinity).is_none() {
            return Err(INVALID_PARAMETERS);
        }
        let e = self.event(pe, which);
        let bound = self.bound(which);
        let needs_binding = !matches!(which, Which::Private(n) if n < STATIC);
        if e.registered || e.running || (needs_binding && bound.is_none()) {
            return Err(DENIED);
        }
        let (level, line) = match bound {
            Some(intid) => world.connect(Machine::owner(pe, which), intid, true),
            None => (false, false),
        };
        let affinity = if routed { affinity } else { 0 };
        *self.event_mut(pe, which) = Event {
            registered: true,
            pending: level && line,
            entry,
            arg,
            flags,
            affinity,
            level,
            line,
            ..Event::default()
        };
        Ok(SUCCESS)
    }

    fn enable(&mut self, pe: usize, which: Which, on: bool) -> Result<u64, Refused> {
        let e = self.event_mut(pe, which);
        if !e.registered {
            return Err(DENIED);
        }
        e.enabled = on;
        self.look(pe);
        Ok(SUCCESS)
    }

    fn context(&self, pe: usize, i: u64) -> Result<u64, Refused> {
        if i > LAST_X {
            return Err(INVALID_PARAMETERS);
        }
        let context = self.top(pe).and_then(|p| self.pes[pe].contexts[p]);
        context.map(|c| c.x[i as usize]).ok_or(DENIED)
    }

    fn complete(&mut self, pe: usize, world: &dyn World) -> Answer {
        let Some(priority) = self.top(pe) else { return Answer::Value(DENIED) };
        let p = &mut self.pes[pe];
        p.valid[priority] = false;
        let Some(c) = p.contexts[priority].take() else { return Answer::Value(DENIED) };
        if let Some(which) = self.find(c.event) {
            self.event_mut(pe, which).complete();
        }
        self.look(pe);
        self.look_shared(world);
        Answer::Complete(c)
    }

    fn info(&self, pe: usize, which: Which, item: u32) -> Result<u64, Refused> {
        let e = self.event(pe, which);
        let shared = matches!(which, Which::Shared(_));
        match item {
            0 => Ok(shared.into()),
            // 0 is "EVENT_SIGNAL can raise it".
            1 => Ok(u64::from(which != Which::Private(0))),
            2 => Ok(self.is_critical(which).into()),
            3 | 4 if !shared => Err(INVALID_PARAMETERS),
            3 | 4 if !e.registered => Err(DENIED),
            3 => Ok(e.flags & ROUTED),
            4 if e.flags & ROUTED != 0 => Ok(e.affinity),
            _ => Err(INVALID_PARAMETERS),
        }
    }

    fn route(&mut self, which: Which, mode: u32, affinity: u64) -> Result<u64, Refused> {
        let Which::Shared(n) = which else { return Err(INVALID_PARAMETERS) };
        if mode > 1 || (mode == 1 && self.pe_of(affinity).is_none()) {
            return Err(INVALID_PARAMETERS);
        }
        let e = &mut self.shared[n];
        if !e.registered || e.enabled || e.running {
            return Err(DENIED);
        }
        e.flags = e.flags & !ROUTED | u64::from(mode);
        e.affinity = if mode == 1 { affinity } else { 0 };
        Ok(SUCCESS)
    }

    fn bind(&mut self, intid: u32, world: &mut dyn World) -> Result<u64, Refused> {
        if intid < 16 || !world.exists(intid) {
            return Err(INVALID_PARAMETERS);
        }
        let taken = self.private_bound.contains(&intid) || self.shared_bound.contains(&intid);
        if taken || world.is_active(intid) {
            return Err(DENIED);
        }
        let private = intid < FIRST_SPI;
        let bound = if private { &mut self.private_bound } else { &mut self.shared_bound };
        let n = bound.iter().position(|b| *b == 0).ok_or(OUT_OF_RESOURCE)?;
        bound[n] = intid;
        let which = if private { Which::Private(STATIC + n) } else { Which::Shared(n) };
        Ok(self.number(which).into())
    }

    fn release(&mut self, which: Which, world: &mut dyn World) -> Result<u64, Refused> {
        let intid = self.bound(which).ok_or(INVALID_PARAMETERS)?;
        if self.in_use(which) || world.is_active(intid) {
            return Err(DENIED);
        }
        match which {
            Which::Private(n) => self.private_bound[n - STATIC] = 0,
            Which::Shared(n) => self.shared_bound[n] = 0,
        }
        Ok(SUCCESS)
    }

    /// Is it registered or running, of a private event on any PE?
    pub(super) fn in_use(&self, which: Which) -> bool {
        let used = |e: &Event| e.registered || e.running;
        match which {
            Which::Private(n) => self.pes.iter().any(|p| used(&p.events[n])),
            Which::Shared(n) => used(&self.shared[n]),
        }
    }

    fn private_reset(&mut self, pe: usize, world: &mut dyn World) -> Result<u64, Refused> {
        let mut running = false;
        for n in 0..self.pes[pe].events.len() {
            self.unregister(pe, Which::Private(n), world);
            running |= self.pes[pe].events[n].running;
        }
        if running { Err(DENIED) } else { Ok(SUCCESS) }
    }

    fn shared_reset(&mut self, world: &mut dyn World) -> Result<u64, Refused> {
        for n in 0..self.shared.len() {
            self.unregister(0, Which::Shared(n), world);
        }
        let mut left = false;
        let private = (0..self.private_bound.len()).map(|n| Which::Private(STATIC + n));
        let all: Vec<_> = private.chain((0..self.shared.len()).map(Which::Shared)).collect();
        for which in all {
            if self.in_use(which) {
                // Only a binding keeps the service from being as new; a shared handler without one cannot be.
                left |= self.bound(which).is_some() || matches!(which, Which::Shared(_));
                continue;
            }
            match which {
                Which::Private(n) => self.private_bound[n - STATIC] = 0,
                Which::Shared(n) => self.shared_bound[n] = 0,
            }
        }
        if left { Err(DENIED) } else { Ok(SUCCESS) }
    }
}
