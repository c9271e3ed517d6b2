//! Breakpoints and watchpoints, and the registers that they become.

pub use gdbstub::target::ext::breakpoints::WatchKind;
use ulna_kvm_backend::abi::{GuestDebug, guest_debug as control};

/// A software breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soft {
    /// Where GDB wants it.
    pub va: u64,
    /// Where that was then.
    pub pa: u64,
    /// The instruction under it.
    pub original: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watch {
    address: u64,
    len: u64,
    kind: WatchKind,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Points {
    soft: Vec<Soft>,
    hard: Vec<u64>,
    watches: Vec<Watch>,
    most: (usize, usize),
}

/// On, EL0 and EL1 (DBGBCR and DBGWCR: E, PMC or PAC).
const ON: u64 = 3 << 1 | 1;
const BAS_SHIFT: u32 = 5;

impl Points {
    /// The instruction of a software breakpoint.
    pub const BRK: u32 = 0xd420_0000;

    /// None yet; `most` breakpoints and watchpoints fit into hardware.
    pub fn new(most: (usize, usize)) -> Points {
        Points { most: (most.0.min(16), most.1.min(16)), ..Points::default() }
    }

    /// Takes note of one.
    pub fn add_soft(&mut self, va: u64, pa: u64, now: u32) {
        // Two addresses of one place: what is there now is the other's BRK.
        let original = self.soft.iter().find(|s| s.pa == pa).map_or(now, |s| s.original);
        self.soft.push(Soft { va, pa, original });
    }

    /// Forgets one; the place, if no other is there.
    pub fn remove_soft(&mut self, va: u64) -> Option<Soft> {
        let at = self.soft.iter().position(|s| s.va == va)?;
        let soft = self.soft.swap_remove(at);
        self.soft.iter().all(|s| s.pa != soft.pa).then_some(soft)
    }

    /// Forgets all.
    pub fn take_soft(&mut self) -> Vec<Soft> {
        std::mem::take(&mut self.soft)
    }

    /// Is there one?
    pub fn has_soft(&self, va: u64, pa: Option<u64>) -> bool {
        self.soft.iter().any(|s| s.va == va || Some(s.pa) == pa)
    }

    /// A hardware breakpoint, if there is room.
    pub fn add_hard(&mut self, va: u64) -> bool {
        let fits = self.hard.len() < self.most.0 && va & 3 == 0;
        if fits {
            self.hard.push(va);
        }
        fits
    }

    /// Takes it away.
    pub fn remove_hard(&mut self, va: u64) {
        if let Some(at) = self.hard.iter().position(|h| *h == va) {
            self.hard.swap_remove(at);
        }
    }

    /// A watchpoint, if the registers can say it and there is room.
    pub fn add_watch(&mut self, address: u64, len: u64, kind: WatchKind) -> bool {
        let Some(more) = registers(address, len, kind) else { return false };
        let used: usize =
            self.watches.iter().map(|w| registers(w.address, w.len, w.kind).map_or(0, |r| r.len())).sum();
        let fits = used + more.len() <= self.most.1;
        if fits {
            self.watches.push(Watch { address, len, kind });
        }
        fits
    }

    /// Takes it away.
    pub fn remove_watch(&mut self, address: u64, len: u64, kind: WatchKind) {
        if let Some(at) = self.watches.iter().position(|w| *w == Watch { address, len, kind }) {
            self.watches.swap_remove(at);
        }
    }

    /// The kind of the watchpoint that watches this address.
    pub fn watched(&self, address: u64) -> Option<WatchKind> {
        self.watches.iter().find(|w| address.wrapping_sub(w.address) < w.len).map(|w| w.kind)
    }

    /// Are hardware registers in use?
    pub fn uses_hardware(&self) -> bool {
        !self.hard.is_empty() || !self.watches.is_empty()
    }

    /// What KVM is to do for them.
    pub fn guest_debug(&self) -> GuestDebug {
        let mut d = GuestDebug::default();
        if !self.soft.is_empty() {
            d.control |= control::ENABLE | control::USE_SW_BP;
        }
        if self.uses_hardware() {
            d.control |= control::ENABLE | control::USE_HW;
        }
        for (n, va) in self.hard.iter().enumerate().take(16) {
            d.dbg_bvr[n] = *va;
            d.dbg_bcr[n] = ON | 0xf << BAS_SHIFT;
        }
        let all = self.watches.iter().filter_map(|w| registers(w.address, w.len, w.kind)).flatten();
        for (n, (value, control)) in all.enumerate().take(16) {
            d.dbg_wvr[n] = value;
            d.dbg_wcr[n] = control;
        }
        d
    }
}

/// DBGWVR and DBGWCR for a range: bytes of a doubleword, an aligned power of two, or a few doublewords.
fn registers(address: u64, len: u64, kind: WatchKind) -> Option<Vec<(u64, u64)>> {
    let loads_stores = match kind {
        WatchKind::Read => 1,
        WatchKind::Write => 2,
        WatchKind::ReadWrite => 3,
    };
    let on = ON | loads_stores << 3;
    let end = address.checked_add(len).filter(|_| len != 0)?;
    if len > 8 && len.is_power_of_two() && address & (len - 1) == 0 && len <= 1 << 31 {
        let mask = u64::from(len.trailing_zeros());
        return Some(vec![(address, on | 0xff << BAS_SHIFT | mask << 24)]);
    }
    let words = (address & !7..end).step_by(8).take(17);
    let all: Vec<_> = words
        .map(|word| {
            let bas = (0..8).filter(|i| (address..end).contains(&(word + i))).fold(0, |b, i| b | 1 << i);
            (word, on | bas << BAS_SHIFT)
        })
        .collect();
    (all.len() <= 16).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_registers() {
        let w = |a, l| registers(a, l, WatchKind::Write);
        assert_eq!(w(0x1000, 8), Some(vec![(0x1000, 0xff << 5 | 2 << 3 | 7)]));
        assert_eq!(w(0x1006, 2), Some(vec![(0x1000, 0xc0 << 5 | 2 << 3 | 7)]));
        assert_eq!(w(0x1006, 4), Some(vec![(0x1000, 0xc0 << 5 | 0x17), (0x1008, 3 << 5 | 0x17)]));
        assert_eq!(w(0x1000, 4096), Some(vec![(0x1000, 12 << 24 | 0xff << 5 | 0x17)]));
        assert_eq!(w(0x1008, 4096), None, "too many");
        assert_eq!((w(0, 0), w(u64::MAX, 2)), (None, None));
    }

    #[test]
    fn registers_run_out() {
        let mut p = Points::new((2, 1));
        assert!(p.add_hard(0x1000) && p.add_hard(0x2000) && !p.add_hard(0x3000));
        p.remove_hard(0x1000);
        assert!(!p.add_hard(0x3002) && p.add_hard(0x3000));
        assert!(!p.add_watch(0x1004, 8, WatchKind::Read) && p.add_watch(0x1000, 8, WatchKind::Read));
        assert!(!p.add_watch(0x1008, 1, WatchKind::Read));
        assert_eq!((p.watched(0x1007), p.watched(0x1008)), (Some(WatchKind::Read), None));
        let d = p.guest_debug();
        assert_eq!(d.control, control::ENABLE | control::USE_HW);
        assert_eq!((d.dbg_bvr[0], d.dbg_bvr[1], d.dbg_bcr[2]), (0x2000, 0x3000, 0));
        p.remove_watch(0x1000, 8, WatchKind::Read);
        p.remove_hard(0x2000);
        p.remove_hard(0x3000);
        assert_eq!(p.guest_debug(), GuestDebug::default());
    }

    #[test]
    fn two_addresses_of_one_place_share_what_was_there() {
        let mut p = Points::new((1, 1));
        p.add_soft(0x1000, 0x9000, 7);
        p.add_soft(0xffff_0000, 0x9000, Points::BRK);
        assert_eq!(p.remove_soft(0x1000), None, "the other is still there");
        assert_eq!(p.remove_soft(0xffff_0000).map(|s| s.original), Some(7));
        assert_eq!(p.remove_soft(0xffff_0000), None);
    }
}
