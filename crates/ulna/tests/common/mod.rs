//! Tiny flat programs, each a dozen instructions by hand, to see what the board does in odd situations.
#![allow(dead_code)] // each test program uses some

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The command under test.
pub fn ulna() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ulna"));
    command.arg("run").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Writes a program to a file.
pub fn program(dir: &Path, words: &[u32]) -> PathBuf {
    let path = dir.join("program");
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    std::fs::write(&path, bytes).unwrap();
    path
}

/// `movz x1, #0x0900, lsl #16`: the serial port.
pub const UART: u32 = 0xd2a1_2001;
/// `hvc #0`
pub const HVC: u32 = 0xd400_0002;
/// `str w3, [x1]`
pub const PUT: u32 = 0xb900_0023;

/// `movz w3, #c`: a character.
pub fn char(c: u8) -> u32 {
    0x5280_0003 | u32::from(c) << 5
}

/// x0 = a PSCI function of the 32-bit convention.
pub fn psci(function: u16) -> [u32; 2] {
    [0xd2b0_8000, 0xf280_0000 | u32::from(function) << 5]
}

/// Echoes what is typed.
pub fn echo() -> Vec<u32> {
    vec![
        UART,
        0xb940_1822, // ldr w2, [x1, #0x18]: UARTFR
        0x3727_ffe2, // tbnz w2, #4, back: RXFE
        0xb940_0023, // ldr w3, [x1]
        PUT,
        0x17ff_fffc, // b back
    ]
}
