//! PrimeCell GPIO PL061 (Arm DDI 0190): eight lines, of which the board uses line 3 as its power key.
//!
//! [`Pl061`] is the model, [`Gpio`] joins it to an interrupt line. Levels of outputs can be read back by the VMM.

use crate::mmio::{IrqLine, Level, MmioDevice, primecell_id, read32, write32};
use std::sync::Arc;

/// GPIOPeriphID0-3: part 0x061, designer 0x41, revision 0.
const PERIPH_ID: [u8; 4] = [0x61, 0x10, 0x04, 0x00];

/// The line that is the board's power key: high while the key is down.
pub const POWER_KEY: u8 = 3;

/// Register offsets (DDI 0190, table 3-1).
pub mod reg {
    /// Data, 0x000..=0x3fc: address bits 9:2 mask the lines.
    pub const DATA: u64 = 0x000;
    /// Direction: 1 is an output.
    pub const DIR: u64 = 0x400;
    /// Sense: 1 is a level.
    pub const IS: u64 = 0x404;
    /// Both edges.
    pub const IBE: u64 = 0x408;
    /// Event: 1 is high or rising.
    pub const IEV: u64 = 0x40c;
    /// Interrupt enable.
    pub const IE: u64 = 0x410;
    /// Raw interrupt status.
    pub const RIS: u64 = 0x414;
    /// Masked interrupt status.
    pub const MIS: u64 = 0x418;
    /// Interrupt clear (edges).
    pub const IC: u64 = 0x41c;
    /// Alternate function select.
    pub const AFSEL: u64 = 0x420;
}

/// The GPIO block.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pl061 {
    out: u8,
    input: u8,
    dir: u8,
    is: u8,
    ibe: u8,
    iev: u8,
    ie: u8,
    /// Edges seen and not cleared.
    edges: u8,
    afsel: u8,
}

impl Pl061 {
    /// The block after reset: all lines inputs, all inputs low.
    pub fn new() -> Self {
        Pl061::default()
    }

    /// The level of GPIOINTR.
    pub fn line(&self) -> bool {
        self.ris() & self.ie != 0
    }

    /// Lines as seen from outside: outputs driven by the guest, inputs driven by us.
    pub fn pins(&self) -> u8 {
        (self.out & self.dir) | (self.input & !self.dir)
    }

    /// Drives an input line from outside. Lines above 7 do not exist.
    pub fn set_input(&mut self, line: u8, level: bool) {
        let Some(bit) = 1u8.checked_shl(u32::from(line)) else { return };
        let before = self.pins();
        self.input = if level { self.input | bit } else { self.input & !bit };
        self.see_edges(before);
    }

    /// The guest reads the register at `offset`.
    pub fn read(&self, offset: u64) -> u32 {
        let value = match offset {
            0..0x400 => self.pins() & (offset >> 2) as u8,
            reg::DIR => self.dir,
            reg::IS => self.is,
            reg::IBE => self.ibe,
            reg::IEV => self.iev,
            reg::IE => self.ie,
            reg::RIS => self.ris(),
            reg::MIS => self.ris() & self.ie,
            reg::AFSEL => self.afsel,
            _ => return primecell_id(PERIPH_ID, offset).unwrap_or(0),
        };
        u32::from(value)
    }

    /// The guest writes the register at `offset`.
    pub fn write(&mut self, offset: u64, value: u32) {
        let value = value as u8;
        let before = self.pins();
        match offset {
            0..0x400 => {
                let mask = (offset >> 2) as u8 & self.dir;
                self.out = (self.out & !mask) | (value & mask);
            }
            reg::DIR => self.dir = value,
            reg::IS => {
                self.is = value;
                self.edges &= !value;
            }
            reg::IBE => self.ibe = value,
            reg::IEV => self.iev = value,
            reg::IE => self.ie = value,
            reg::IC => self.edges &= !value,
            reg::AFSEL => self.afsel = value,
            _ => {}
        }
        self.see_edges(before);
    }

    fn see_edges(&mut self, before: u8) {
        let now = self.pins();
        let changed = before ^ now;
        let wanted = self.ibe | !(now ^ self.iev);
        self.edges |= changed & wanted & !self.is;
    }

    fn ris(&self) -> u8 {
        let levels = !(self.pins() ^ self.iev) & self.is;
        self.edges | levels
    }

    /// Everything a snapshot needs.
    pub fn save(&self) -> state::V1 {
        state::V1 {
            out: self.out,
            input: self.input,
            dir: self.dir,
            is: self.is,
            ibe: self.ibe,
            iev: self.iev,
            ie: self.ie,
            edges: self.edges,
            afsel: self.afsel,
        }
    }

    /// A block in a saved state.
    pub fn restore(v1: &state::V1) -> Self {
        Pl061 {
            out: v1.out,
            input: v1.input,
            dir: v1.dir,
            is: v1.is,
            ibe: v1.ibe,
            iev: v1.iev,
            ie: v1.ie,
            edges: v1.edges & !v1.is,
            afsel: v1.afsel,
        }
    }
}

/// State for snapshots, record `("pl061", 1)`.
pub mod state {
    /// Version 1.
    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    #[allow(missing_docs)] // the names are the manual's
    pub struct V1 {
        pub out: u8,
        pub input: u8,
        pub dir: u8,
        pub is: u8,
        pub ibe: u8,
        pub iev: u8,
        pub ie: u8,
        pub edges: u8,
        pub afsel: u8,
    }
}

/// The GPIO block of the board.
pub struct Gpio {
    model: Pl061,
    irq: Level,
}

impl Gpio {
    /// A block after reset.
    pub fn new(irq: Arc<dyn IrqLine>) -> Self {
        Gpio { model: Pl061::new(), irq: Level::new(irq) }
    }

    /// Drives an input line. Pressing the power key is [`POWER_KEY`] high, some 100 ms later low.
    pub fn set_input(&mut self, line: u8, level: bool) {
        self.model.set_input(line, level);
        self.irq.drive(self.model.line());
    }

    /// Lines as seen from outside.
    pub fn pins(&self) -> u8 {
        self.model.pins()
    }

    /// Back to reset; inputs keep their level.
    pub fn reset(&mut self) {
        self.model = Pl061 { input: self.model.input, ..Pl061::new() };
        self.irq.drive(self.model.line());
    }

    /// State for a snapshot.
    pub fn save(&self) -> state::V1 {
        self.model.save()
    }

    /// Takes over a saved state and drives the line accordingly.
    pub fn restore(&mut self, v1: &state::V1) {
        self.model = Pl061::restore(v1);
        self.irq.force(self.model.line());
    }
}

impl MmioDevice for Gpio {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read32(offset, data, |reg| self.model.read(reg));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        write32(offset, data, |reg, value| self.model.write(reg, value));
        self.irq.drive(self.model.line());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmio::testing::Probe;
    use proptest::prelude::*;

    #[test]
    fn reset_values_and_identity() {
        let g = Pl061::new();
        for offset in (0x3fc..=0x420).step_by(4) {
            assert_eq!(g.read(offset), 0, "offset {offset:#x}");
        }
        let id = (0..8).fold(0u64, |id, i| id | (u64::from(g.read(0xfe0 + 4 * i)) << (8 * i)));
        assert_eq!(id, 0xb105_f00d_0004_1061);
    }

    #[test]
    fn the_address_masks_data() {
        let mut g = Pl061::new();
        g.write(reg::DIR, 0xf0);
        g.write(0x3fc, 0xff);
        assert_eq!(g.pins(), 0xf0, "inputs do not take writes");
        g.write(0x80 << 2, 0);
        assert_eq!(g.read(0x3fc), 0x70);
        assert_eq!(g.read(0x10 << 2), 0x10);
        assert_eq!(g.read(0x80 << 2), 0);
    }

    #[test]
    fn power_key_with_both_edges_as_linux_programs_it() {
        let irq = Probe::new();
        let mut g = Gpio::new(irq.clone());
        let w = |g: &mut Gpio, r, v: u8| g.write(r, &[v, 0, 0, 0]);
        w(&mut g, reg::IBE, 8);
        w(&mut g, reg::IE, 8);
        g.set_input(POWER_KEY, true);
        assert!(irq.level());
        w(&mut g, reg::IC, 8);
        assert!(!irq.level());
        g.set_input(POWER_KEY, true);
        assert!(!irq.level(), "no edge");
        g.set_input(POWER_KEY, false);
        assert!(irq.level());
    }

    #[test]
    fn edges_obey_the_chosen_direction() {
        let mut g = Pl061::new();
        g.write(reg::IEV, 1);
        g.set_input(0, true);
        assert_eq!(g.read(reg::RIS), 1, "rising");
        g.write(reg::IC, 1);
        g.set_input(0, false);
        assert_eq!(g.read(reg::RIS), 0);
        g.write(reg::IEV, 0);
        g.set_input(0, true);
        assert_eq!(g.read(reg::RIS), 0);
        g.set_input(0, false);
        assert_eq!(g.read(reg::RIS), 1, "falling");
    }

    #[test]
    fn levels_cannot_be_cleared() {
        let mut g = Pl061::new();
        g.write(reg::IS, 4);
        g.write(reg::IEV, 4);
        g.write(reg::IE, 4);
        g.set_input(2, true);
        g.write(reg::IC, 4);
        assert!(g.line());
        g.set_input(2, false);
        assert!(!g.line());
        g.set_input(200, true); // no such line
        assert_eq!(g.pins(), 0);
    }

    proptest! {
        #[test]
        fn any_sequence_is_survived(ops in prop::collection::vec((0u8..3, 0u64..0x1010, any::<u32>()), 0..100)) {
            let mut g = Pl061::new();
            for (op, offset, value) in ops {
                match op {
                    0 => { g.read(offset); }
                    1 => g.write(if offset & 1 == 0 { offset } else { 0x400 + offset % 0x24 }, value),
                    _ => g.set_input(offset as u8, value & 1 != 0),
                }
                prop_assert_eq!(g.line(), g.read(reg::MIS) != 0);
                prop_assert_eq!(&Pl061::restore(&g.save()), &g);
            }
        }
    }
}
