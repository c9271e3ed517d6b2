//! PrimeCell real time clock PL031 (Arm DDI 0224).
//!
//! [`Pl031`] is the model; it is told the time at each access. [`Rtc`] joins it to a clock and an interrupt line. The
//! counter starts with the wall clock's seconds since 1970 and is enabled, as firmware would have left it.

use crate::mmio::{Attention, IrqLine, Level, MmioDevice, primecell_id, read32, write32};
use std::sync::Arc;
use std::time::Duration;

/// RTCPeriphID0-3: part 0x031, designer 0x41, revision 0.
const PERIPH_ID: [u8; 4] = [0x31, 0x10, 0x04, 0x00];

/// Register offsets (DDI 0224, table 3-1).
pub mod reg {
    /// Data: the counter.
    pub const DR: u64 = 0x00;
    /// Match.
    pub const MR: u64 = 0x04;
    /// Load.
    pub const LR: u64 = 0x08;
    /// Control: bit 0 starts the counter.
    pub const CR: u64 = 0x0c;
    /// Interrupt mask.
    pub const IMSC: u64 = 0x10;
    /// Raw interrupt status.
    pub const RIS: u64 = 0x14;
    /// Masked interrupt status.
    pub const MIS: u64 = 0x18;
    /// Interrupt clear.
    pub const ICR: u64 = 0x1c;
}

/// The clock. `now` is always the time since 1970-01-01 UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pl031 {
    /// Counter minus wall clock seconds, modulo 2^32.
    offset: u32,
    mr: u32,
    lr: u32,
    imsc: bool,
    ris: bool,
    /// Wall clock second at which the counter meets MR next.
    alarm: Option<u64>,
}

impl Default for Pl031 {
    fn default() -> Self {
        Pl031::new()
    }
}

impl Pl031 {
    /// A running clock that shows wall clock time, with no match programmed.
    pub fn new() -> Self {
        Pl031 { offset: 0, mr: 0, lr: 0, imsc: false, ris: false, alarm: None }
    }

    /// The level of RTCINTR.
    pub fn line(&self) -> bool {
        self.ris && self.imsc
    }

    /// When [`Pl031::tick`] has something to do next; nothing if the interrupt is masked anyway.
    pub fn deadline(&self) -> Option<Duration> {
        if self.imsc { self.alarm.map(Duration::from_secs) } else { None }
    }

    /// Time passed: raises the interrupt if the counter met the match value.
    pub fn tick(&mut self, now: Duration) {
        if self.alarm.is_some_and(|at| now.as_secs() >= at) {
            self.ris = true;
            self.alarm = None;
        }
    }

    /// The guest reads the register at `offset`.
    pub fn read(&mut self, offset: u64, now: Duration) -> u32 {
        self.tick(now);
        match offset {
            reg::DR => self.counter(now),
            reg::MR => self.mr,
            reg::LR => self.lr,
            reg::CR => 1, // once started it runs until reset
            reg::IMSC => self.imsc.into(),
            reg::RIS => self.ris.into(),
            reg::MIS => self.line().into(),
            _ => primecell_id(PERIPH_ID, offset).unwrap_or(0),
        }
    }

    /// The guest writes the register at `offset`.
    pub fn write(&mut self, offset: u64, value: u32, now: Duration) {
        self.tick(now);
        match offset {
            reg::MR => {
                self.mr = value;
                self.arm(now);
            }
            reg::LR => {
                self.lr = value;
                self.offset = value.wrapping_sub(now.as_secs() as u32);
                self.arm(now);
            }
            reg::IMSC => self.imsc = value & 1 != 0,
            reg::ICR if value & 1 != 0 => self.ris = false,
            _ => {}
        }
    }

    fn counter(&self, now: Duration) -> u32 {
        (now.as_secs() as u32).wrapping_add(self.offset)
    }

    fn arm(&mut self, now: Duration) {
        let ahead = self.mr.wrapping_sub(self.counter(now));
        self.alarm = now.as_secs().checked_add(u64::from(ahead));
        self.tick(now);
    }

    /// Everything a snapshot needs.
    pub fn save(&self) -> state::V1 {
        state::V1 {
            offset: self.offset,
            mr: self.mr,
            lr: self.lr,
            imsc: self.imsc,
            ris: self.ris,
            alarm: self.alarm,
        }
    }

    /// A clock in a saved state: it goes on with the wall clock, so the time of the pause has passed.
    pub fn restore(v1: &state::V1) -> Self {
        Pl031 { offset: v1.offset, mr: v1.mr, lr: v1.lr, imsc: v1.imsc, ris: v1.ris, alarm: v1.alarm }
    }
}

/// State for snapshots, record `("pl031", 1)`.
pub mod state {
    /// Version 1.
    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    #[allow(missing_docs)] // the names are the manual's; offset and alarm as in the model
    pub struct V1 {
        pub offset: u32,
        pub mr: u32,
        pub lr: u32,
        pub imsc: bool,
        pub ris: bool,
        pub alarm: Option<u64>,
    }
}

/// Tells the time since 1970-01-01 UTC.
pub type WallClock = Box<dyn Fn() -> Duration + Send>;

/// The clock of the board.
///
/// The event loop asks [`Rtc::deadline`], waits until then, and calls [`Rtc::process`]. The [`Attention`] hook is called
/// when a guest access moved the deadline.
pub struct Rtc {
    model: Pl031,
    clock: WallClock,
    irq: Level,
    attention: Option<Attention>,
}

impl Rtc {
    /// A clock that follows `clock`.
    pub fn new(clock: WallClock, irq: Arc<dyn IrqLine>) -> Self {
        Rtc { model: Pl031::new(), clock, irq: Level::new(irq), attention: None }
    }

    /// Sets the hook that is called when the deadline moved.
    pub fn set_attention(&mut self, attention: Attention) {
        self.attention = Some(attention);
    }

    /// How long until [`Rtc::process`] is due, if ever.
    pub fn deadline(&self) -> Option<Duration> {
        self.model.deadline().map(|at| at.saturating_sub((self.clock)()))
    }

    /// Raises the interrupt if its time has come.
    pub fn process(&mut self) {
        self.model.tick((self.clock)());
        self.irq.drive(self.model.line());
    }

    /// Back to reset.
    pub fn reset(&mut self) {
        self.model = Pl031::new();
        self.irq.drive(false);
    }

    /// State for a snapshot.
    pub fn save(&self) -> state::V1 {
        self.model.save()
    }

    /// Takes over a saved state and drives the line accordingly.
    pub fn restore(&mut self, v1: &state::V1) {
        self.model = Pl031::restore(v1);
        self.model.tick((self.clock)());
        self.irq.force(self.model.line());
    }
}

impl MmioDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let now = (self.clock)();
        read32(offset, data, |reg| self.model.read(reg, now));
        self.irq.drive(self.model.line());
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let now = (self.clock)();
        let before = self.model.deadline();
        write32(offset, data, |reg, value| self.model.write(reg, value, now));
        self.irq.drive(self.model.line());
        if self.model.deadline() != before
            && let Some(hook) = &self.attention
        {
            hook();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmio::testing::Probe;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const NOW: Duration = Duration::new(1_700_000_000, 5);

    #[test]
    fn shows_wall_clock_and_identity() {
        let mut r = Pl031::new();
        assert_eq!(r.read(reg::DR, NOW), 1_700_000_000);
        assert_eq!(r.read(reg::CR, NOW), 1);
        let id = (0..4).fold(0, |id, i| id | (r.read(0xfe0 + 4 * i, NOW) << (8 * i)));
        assert_eq!(id, 0x0004_1031);
        assert_eq!(r.read(0xffc, NOW), 0xb1);
    }

    #[test]
    fn load_moves_the_counter() {
        let mut r = Pl031::new();
        r.write(reg::LR, 10, NOW);
        assert_eq!(r.read(reg::DR, NOW + Duration::from_secs(5)), 15);
        assert_eq!(r.read(reg::LR, NOW), 10);
    }

    #[test]
    fn match_raises_a_maskable_clearable_interrupt() {
        let mut r = Pl031::new();
        r.write(reg::MR, 1_700_000_003, NOW);
        assert_eq!(r.deadline(), None, "masked");
        r.write(reg::IMSC, 1, NOW);
        assert_eq!(r.deadline(), Some(Duration::from_secs(1_700_000_003)));
        r.tick(NOW + Duration::from_secs(2));
        assert!(!r.line());
        r.tick(NOW + Duration::from_secs(3));
        assert!(r.line());
        assert_eq!(r.read(reg::MIS, NOW), 1);
        r.write(reg::ICR, 1, NOW + Duration::from_secs(3));
        assert!(!r.line());
        r.tick(NOW + Duration::from_secs(4));
        assert!(!r.line(), "one match, one interrupt");
    }

    #[test]
    fn a_match_in_the_past_waits_for_the_counter_to_wrap() {
        let mut r = Pl031::new();
        r.write(reg::IMSC, 1, NOW);
        r.write(reg::MR, 1_699_999_999, NOW);
        assert!(!r.line());
        assert_eq!(r.deadline(), Some(Duration::from_secs(1_699_999_999 + (1 << 32))));
    }

    #[test]
    fn the_adapter_tells_the_loop_when_to_come() {
        let irq = Probe::new();
        let time = Arc::new(AtomicU64::new(100));
        let clock = time.clone();
        let mut rtc =
            Rtc::new(Box::new(move || Duration::from_secs(clock.load(Ordering::SeqCst))), irq.clone());
        let calls = Arc::new(AtomicU64::new(0));
        let seen = calls.clone();
        rtc.set_attention(Arc::new(move || {
            seen.fetch_add(1, Ordering::SeqCst);
        }));
        rtc.write(reg::MR, &107u32.to_le_bytes());
        rtc.write(reg::IMSC, &[1]);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert_eq!(rtc.deadline(), Some(Duration::from_secs(7)));
        time.store(107, Ordering::SeqCst);
        rtc.process();
        assert!(irq.level());
        rtc.write(reg::ICR, &[1]);
        assert!(!irq.level());
    }

    proptest! {
        #[test]
        fn any_sequence_is_survived(ops in prop::collection::vec((any::<bool>(), 0u64..0x1010, any::<u32>(), any::<u64>()), 0..100)) {
            let mut r = Pl031::new();
            for (w, offset, value, secs) in ops {
                let now = Duration::from_secs(secs);
                if w { r.write(offset % 0x24, value, now) } else { r.read(offset, now); }
                prop_assert_eq!(&Pl031::restore(&r.save()), &r);
                prop_assert!(r.imsc || !r.line());
            }
        }
    }
}
