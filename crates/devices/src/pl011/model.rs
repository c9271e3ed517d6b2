//! The registers and FIFOs of the PL011; no locks, no files.

use crate::mmio::primecell_id;
use std::collections::VecDeque;

/// Entries of each FIFO in revision r1p5.
pub const FIFO_DEPTH: usize = 32;

/// UARTPeriphID0-3: part 0x011, designer 0x41, revision 3 (r1p5).
const PERIPH_ID: [u8; 4] = [0x11, 0x10, 0x34, 0x00];

/// Register offsets (DDI 0183, table 3-1).
pub mod reg {
    /// Data.
    pub const DR: u64 = 0x000;
    /// Receive status (read), error clear (write).
    pub const RSR_ECR: u64 = 0x004;
    /// Flags.
    pub const FR: u64 = 0x018;
    /// IrDA low-power counter.
    pub const ILPR: u64 = 0x020;
    /// Integer baud rate.
    pub const IBRD: u64 = 0x024;
    /// Fractional baud rate.
    pub const FBRD: u64 = 0x028;
    /// Line control.
    pub const LCR_H: u64 = 0x02c;
    /// Control.
    pub const CR: u64 = 0x030;
    /// Interrupt FIFO level select.
    pub const IFLS: u64 = 0x034;
    /// Interrupt mask set/clear.
    pub const IMSC: u64 = 0x038;
    /// Raw interrupt status.
    pub const RIS: u64 = 0x03c;
    /// Masked interrupt status.
    pub const MIS: u64 = 0x040;
    /// Interrupt clear.
    pub const ICR: u64 = 0x044;
    /// DMA control.
    pub const DMACR: u64 = 0x048;
}

/// Interrupt bits of IMSC, RIS, MIS and ICR.
pub mod int {
    /// nUARTRI changed.
    pub const RI: u32 = 1 << 0;
    /// nUARTCTS changed.
    pub const CTS: u32 = 1 << 1;
    /// nUARTDCD changed.
    pub const DCD: u32 = 1 << 2;
    /// nUARTDSR changed.
    pub const DSR: u32 = 1 << 3;
    /// Receive FIFO at or above its level.
    pub const RX: u32 = 1 << 4;
    /// Transmit FIFO fell to its level.
    pub const TX: u32 = 1 << 5;
    /// Receive timeout: data waits and no more arrives.
    pub const RT: u32 = 1 << 6;
    /// Framing error.
    pub const FE: u32 = 1 << 7;
    /// Parity error.
    pub const PE: u32 = 1 << 8;
    /// Break received.
    pub const BE: u32 = 1 << 9;
    /// Overrun.
    pub const OE: u32 = 1 << 10;
    /// All of them.
    pub const ALL: u32 = 0x7ff;
}

const DR_BE: u16 = 1 << 10;
const DR_OE: u32 = 1 << 11;
const RSR_OE: u32 = 1 << 3;

const FR_CTS: u32 = 1 << 0;
const FR_DSR: u32 = 1 << 1;
const FR_DCD: u32 = 1 << 2;
const FR_RXFE: u32 = 1 << 4;
const FR_RXFF: u32 = 1 << 6;
const FR_TXFE: u32 = 1 << 7;
const FR_RI: u32 = 1 << 8;

const LCR_H_FEN: u32 = 1 << 4;
const CR_LBE: u32 = 1 << 7;
const CR_RESET: u32 = 0x0300;
const IFLS_RESET: u32 = 0x12;

/// Modem inputs of a port whose other end is always there.
const MODEM_CONNECTED: u32 = FR_CTS | FR_DSR | FR_DCD;

/// What a register write causes outside the UART.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Effects {
    /// A byte that leaves on UARTTXD.
    pub tx: Option<u8>,
}

/// The UART.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pl011 {
    rsr: u32,
    ilpr: u32,
    ibrd: u32,
    fbrd: u32,
    lcr_h: u32,
    cr: u32,
    ifls: u32,
    imsc: u32,
    ris: u32,
    dmacr: u32,
    /// Modem inputs as FR shows them.
    modem: u32,
    /// An overrun happened and no entry has been written since: DR shows OE.
    overrun: bool,
    /// Entries as DR shows them: data and the error bits 8..=10.
    rx: VecDeque<u16>,
}

impl Default for Pl011 {
    fn default() -> Self {
        Pl011::new()
    }
}

impl Pl011 {
    /// The UART after reset (DDI 0183, table 3-1).
    pub fn new() -> Self {
        Pl011 {
            rsr: 0,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            cr: CR_RESET,
            ifls: IFLS_RESET,
            imsc: 0,
            ris: 0,
            dmacr: 0,
            modem: MODEM_CONNECTED,
            overrun: false,
            rx: VecDeque::with_capacity(FIFO_DEPTH),
        }
    }

    /// The level of UARTINTR, the combined interrupt.
    pub fn line(&self) -> bool {
        self.ris & self.imsc != 0
    }

    /// How many bytes from outside fit now: none in loopback, since UARTRXD is then cut off.
    pub fn rx_space(&self) -> usize {
        if self.loopback() { 0 } else { self.depth().saturating_sub(self.rx.len()) }
    }

    /// Bytes arrive on UARTRXD. Returns how many fit; the caller keeps the others for later.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.rx_space());
        for &b in &bytes[..n] {
            self.push(u16::from(b));
        }
        n
    }

    /// A break condition arrives. Returns false if there is no room for it.
    pub fn receive_break(&mut self) -> bool {
        if self.rx_space() == 0 {
            return false;
        }
        self.push(DR_BE);
        true
    }

    /// The guest reads the register at `offset`.
    pub fn read(&mut self, offset: u64) -> u32 {
        match offset {
            reg::DR => self.pop(),
            reg::RSR_ECR => self.rsr,
            reg::FR => self.flags(),
            reg::ILPR => self.ilpr,
            reg::IBRD => self.ibrd,
            reg::FBRD => self.fbrd,
            reg::LCR_H => self.lcr_h,
            reg::CR => self.cr,
            reg::IFLS => self.ifls,
            reg::IMSC => self.imsc,
            reg::RIS => self.ris,
            reg::MIS => self.ris & self.imsc,
            reg::DMACR => self.dmacr,
            _ => primecell_id(PERIPH_ID, offset).unwrap_or(0),
        }
    }

    /// The guest writes the register at `offset`.
    pub fn write(&mut self, offset: u64, value: u32) -> Effects {
        match offset {
            reg::DR => return self.transmit(value as u8),
            reg::RSR_ECR => {
                self.rsr = 0;
                self.overrun = false;
            }
            reg::ILPR => self.ilpr = value & 0xff,
            reg::IBRD => self.ibrd = value & 0xffff,
            reg::FBRD => self.fbrd = value & 0x3f,
            reg::LCR_H => {
                let was = self.lcr_h & LCR_H_FEN;
                self.lcr_h = value & 0xff;
                // Turning the FIFOs off flushes them; turning them on keeps the holding register.
                if was != 0 && value & LCR_H_FEN == 0 {
                    self.rx.clear();
                }
                self.update_rx();
            }
            reg::CR => {
                self.cr = value & 0xff87;
                self.update_modem();
            }
            reg::IFLS => {
                self.ifls = value & 0x3f;
            }
            reg::IMSC => self.imsc = value & int::ALL,
            reg::ICR => self.ris &= !(value & int::ALL),
            reg::DMACR => self.dmacr = value & 7,
            _ => {}
        }
        Effects::default()
    }

    fn fifos_on(&self) -> bool {
        self.lcr_h & LCR_H_FEN != 0
    }

    fn loopback(&self) -> bool {
        self.cr & CR_LBE != 0
    }

    fn depth(&self) -> usize {
        if self.fifos_on() { FIFO_DEPTH } else { 1 }
    }

    fn flags(&self) -> u32 {
        let mut fr = self.modem | FR_TXFE;
        if self.rx.is_empty() {
            fr |= FR_RXFE;
        }
        if self.rx.len() >= self.depth() {
            fr |= FR_RXFF;
        }
        fr
    }

    fn push(&mut self, entry: u16) {
        if self.rx.len() >= self.depth() {
            // The FIFO keeps what it has, the shift register is lost (DDI 0183, UARTRSR.OE).
            self.overrun = true;
            self.rsr |= RSR_OE;
            self.ris |= int::OE;
            return;
        }
        self.overrun = false;
        self.rx.push_back(entry);
        if entry & DR_BE != 0 {
            self.ris |= int::BE;
        }
        self.raise_rx();
    }

    /// Data waits: whether the level is reached or the timeout passes makes no difference here (see the module).
    fn raise_rx(&mut self) {
        self.ris |= int::RX | if self.fifos_on() { int::RT } else { 0 };
    }

    fn pop(&mut self) -> u32 {
        let Some(entry) = self.rx.pop_front() else { return 0 };
        let mut value = u32::from(entry);
        if self.overrun {
            value |= DR_OE;
        }
        self.rsr = (value >> 8) & 0xf;
        self.update_rx();
        // The timeout counts from the last movement of the FIFO, and it passes at once here: what is left behind asks
        // again even if the guest cleared the interrupt before it read.
        if !self.rx.is_empty() {
            self.raise_rx();
        }
        value
    }

    /// Takes back the receive interrupts when their condition is gone.
    fn update_rx(&mut self) {
        if self.rx.is_empty() {
            self.ris &= !(int::RX | int::RT);
        }
    }

    fn transmit(&mut self, byte: u8) -> Effects {
        // The byte passed through the FIFO and left: the level was crossed.
        self.ris |= int::TX;
        if self.loopback() {
            self.push(u16::from(byte));
            return Effects::default();
        }
        Effects { tx: Some(byte) }
    }

    /// In loopback the modem outputs feed the inputs: RTS to CTS, DTR to DSR, OUT1 to DCD, OUT2 to RI.
    fn update_modem(&mut self) {
        let bit = |from: u32, to: u32| if self.cr & (1 << from) != 0 { to } else { 0 };
        let now = if self.loopback() {
            bit(11, FR_CTS) | bit(10, FR_DSR) | bit(12, FR_DCD) | bit(13, FR_RI)
        } else {
            MODEM_CONNECTED
        };
        let changed = now ^ self.modem;
        self.modem = now;
        for (flag, raw) in [(FR_RI, int::RI), (FR_CTS, int::CTS), (FR_DCD, int::DCD), (FR_DSR, int::DSR)] {
            if changed & flag != 0 {
                self.ris |= raw;
            }
        }
    }

    /// Everything a snapshot needs.
    pub fn save(&self) -> state::V1 {
        state::V1 {
            rsr: self.rsr,
            ilpr: self.ilpr,
            ibrd: self.ibrd,
            fbrd: self.fbrd,
            lcr_h: self.lcr_h,
            cr: self.cr,
            ifls: self.ifls,
            imsc: self.imsc,
            ris: self.ris,
            dmacr: self.dmacr,
            modem: self.modem,
            overrun: self.overrun,
            rx: self.rx.iter().copied().collect(),
        }
    }

    /// A UART in a saved state; bits that cannot be set are dropped.
    pub fn restore(v1: &state::V1) -> Self {
        Pl011 {
            rsr: v1.rsr & 0xf,
            ilpr: v1.ilpr & 0xff,
            ibrd: v1.ibrd & 0xffff,
            fbrd: v1.fbrd & 0x3f,
            lcr_h: v1.lcr_h & 0xff,
            cr: v1.cr & 0xff87,
            ifls: v1.ifls & 0x3f,
            imsc: v1.imsc & int::ALL,
            ris: v1.ris & int::ALL,
            dmacr: v1.dmacr & 7,
            modem: v1.modem & (MODEM_CONNECTED | FR_RI),
            overrun: v1.overrun,
            rx: v1.rx.iter().take(FIFO_DEPTH).map(|e| e & 0x7ff).collect(),
        }
    }
}

/// State for snapshots, record `("pl011", 1)`.
pub mod state {
    /// Version 1.
    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    #[allow(missing_docs)] // the names are the manual's
    pub struct V1 {
        pub rsr: u32,
        pub ilpr: u32,
        pub ibrd: u32,
        pub fbrd: u32,
        pub lcr_h: u32,
        pub cr: u32,
        pub ifls: u32,
        pub imsc: u32,
        pub ris: u32,
        pub dmacr: u32,
        pub modem: u32,
        pub overrun: bool,
        pub rx: Vec<u16>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_fifos() -> Pl011 {
        let mut u = Pl011::new();
        u.write(reg::LCR_H, 0x70); // 8 bits, FIFOs on
        u.write(reg::IMSC, int::ALL);
        u
    }

    #[test]
    fn reset_values_are_the_manuals() {
        let mut u = Pl011::new();
        for (offset, value) in [
            (reg::RSR_ECR, 0),
            (reg::ILPR, 0),
            (reg::IBRD, 0),
            (reg::FBRD, 0),
            (reg::LCR_H, 0),
            (reg::CR, 0x300),
            (reg::IFLS, 0x12),
            (reg::IMSC, 0),
            (reg::RIS, 0),
            (reg::MIS, 0),
            (reg::DMACR, 0),
        ] {
            assert_eq!(u.read(offset), value, "offset {offset:#x}");
        }
        assert_eq!(u.read(reg::FR) & !7, 0x90, "TXFE and RXFE");
        assert!(!u.line());
    }

    #[test]
    fn identifies_as_an_arm_pl011_r1p5() {
        let mut u = Pl011::new();
        let mut id = |base: u64| (0..4).fold(0, |id, i| id | (u.read(base + 4 * i) << (8 * i)));
        assert_eq!(id(0xfe0), 0x0034_1011);
        assert_eq!(id(0xff0), 0xb105_f00d);
    }

    #[test]
    fn a_written_byte_leaves_and_raises_tx() {
        let mut u = Pl011::new();
        assert_eq!(u.write(reg::DR, 0x141), Effects { tx: Some(0x41) });
        assert_eq!(u.read(reg::RIS), int::TX);
        assert!(!u.line(), "masked");
        u.write(reg::IMSC, int::TX);
        assert!(u.line());
        assert_eq!(u.read(reg::MIS), int::TX);
        u.write(reg::ICR, int::TX);
        assert!(!u.line());
    }

    #[test]
    fn one_byte_fits_without_fifos() {
        let mut u = Pl011::new();
        assert_eq!(u.receive(b"ab"), 1);
        assert_eq!(u.read(reg::FR) & (FR_RXFF | FR_RXFE), FR_RXFF);
        assert_eq!(u.read(reg::RIS), int::RX);
        assert_eq!(u.read(reg::DR), u32::from(b'a'));
        assert_eq!(u.read(reg::RIS), 0, "reading takes the interrupt back");
        assert_eq!(u.read(reg::FR) & (FR_RXFF | FR_RXFE), FR_RXFE);
        assert_eq!(u.read(reg::DR), 0, "an empty FIFO reads as zero");
    }

    #[test]
    fn waiting_data_asks_for_attention_whatever_ifls_says() {
        for ifls in [0x00, 0x12, 0x24] {
            let mut u = with_fifos();
            u.write(reg::IFLS, ifls);
            u.receive(b"ab");
            assert_eq!(u.read(reg::RIS), int::RX | int::RT);
            u.read(reg::DR);
            assert_eq!(u.read(reg::RIS), int::RX | int::RT, "one byte still waits");
            u.read(reg::DR);
            assert_eq!(u.read(reg::RIS), 0);
        }
    }

    #[test]
    fn full_fifo_pushes_back() {
        let mut u = with_fifos();
        assert_eq!(u.receive(&[7; 40]), FIFO_DEPTH);
        assert_eq!(u.rx_space(), 0);
        assert_eq!(u.read(reg::RIS) & int::OE, 0, "outside bytes never overrun");
        u.read(reg::DR);
        assert_eq!(u.rx_space(), 1);
    }

    #[test]
    fn cleared_timeout_comes_back_while_data_waits() {
        let mut u = with_fifos();
        u.receive(b"abc");
        u.write(reg::ICR, int::RT | int::RX);
        assert!(!u.line());
        u.read(reg::DR);
        assert!(u.line(), "two bytes are still there");
        u.read(reg::DR);
        u.read(reg::DR);
        assert!(!u.line());
    }

    #[test]
    fn break_shows_in_dr_and_rsr_until_cleared() {
        let mut u = with_fifos();
        assert!(u.receive_break());
        assert_ne!(u.read(reg::MIS) & int::BE, 0);
        assert_eq!(u.read(reg::DR), 0x400);
        assert_eq!(u.read(reg::RSR_ECR), 4);
        u.write(reg::RSR_ECR, 0);
        assert_eq!(u.read(reg::RSR_ECR), 0);
    }

    #[test]
    fn loopback_returns_bytes_and_overruns() {
        let mut u = with_fifos();
        u.write(reg::CR, CR_LBE | 0x301);
        assert_eq!(u.receive(b"x"), 0, "cut off");
        for i in 0..FIFO_DEPTH as u32 {
            assert_eq!(u.write(reg::DR, i).tx, None);
        }
        assert_eq!(u.read(reg::RIS) & int::OE, 0);
        u.write(reg::DR, 0xff);
        assert_ne!(u.read(reg::RIS) & int::OE, 0);
        assert_eq!(u.read(reg::RSR_ECR), RSR_OE);
        assert_eq!(u.read(reg::DR), DR_OE, "byte 0 with the overrun flag");
        u.write(reg::DR, 0x55); // room again: the flag goes
        assert_eq!(u.read(reg::DR), 1);
    }

    #[test]
    fn loopback_wires_the_modem_lines() {
        let mut u = with_fifos();
        u.write(reg::CR, CR_LBE | (1 << 13)); // OUT2 -> RI
        assert_eq!(u.read(reg::FR) & 0x107, FR_RI);
        assert_eq!(u.read(reg::RIS) & 0xf, 0xf, "all four changed");
        u.write(reg::ICR, 0xf);
        u.write(reg::CR, CR_LBE | (1 << 13) | (1 << 11)); // RTS -> CTS
        assert_eq!(u.read(reg::RIS) & 0xf, int::CTS);
    }

    #[test]
    fn turning_fifos_off_flushes_turning_on_keeps() {
        let mut u = Pl011::new();
        u.receive(b"a");
        u.write(reg::LCR_H, 0x70);
        assert_eq!(u.read(reg::DR), u32::from(b'a'));
        u.receive(b"bcd");
        u.write(reg::LCR_H, 0x60);
        assert_ne!(u.read(reg::FR) & FR_RXFE, 0);
        assert_eq!(u.read(reg::RIS) & (int::RX | int::RT), 0);
    }

    proptest! {
        #[test]
        fn any_sequence_keeps_the_invariants(ops in prop::collection::vec((0u8..4, 0u64..0x1010, any::<u32>()), 0..200)) {
            let mut u = Pl011::new();
            for (op, offset, value) in ops {
                match op {
                    0 => { u.read(offset & !3); }
                    1 => { u.write(offset & !3, value); }
                    2 => { u.write([reg::DR, reg::LCR_H, reg::CR, reg::IMSC, reg::ICR, reg::IFLS][offset as usize % 6], value); }
                    _ => {
                        let space = u.rx_space();
                        prop_assert_eq!(u.receive(&vec![value as u8; (offset % 50) as usize]), space.min((offset % 50) as usize));
                    }
                }
                prop_assert!(u.rx.len() <= u.depth());
                prop_assert_eq!(u.line(), u.read(reg::MIS) != 0);
                prop_assert_eq!(u.read(reg::RIS) & !int::ALL, 0);
                if u.rx.is_empty() {
                    prop_assert_eq!(u.read(reg::RIS) & (int::RX | int::RT), 0);
                }
                prop_assert_eq!(&Pl011::restore(&u.save()), &u);
            }
        }
    }
}
