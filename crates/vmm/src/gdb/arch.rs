//! What GDB is told of the CPU: registers, their numbers and types.

use gdbstub::arch;
use std::fmt::Write;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use ulna_arm_regs::SysReg;
use ulna_kvm_backend::RegId;

/// System registers, in the order of their numbers; with them those of `struct kvm_regs` that have no other place.
const SYSTEM: &[(&str, RegId)] = &[
    ("SP_EL0", RegId::SP),
    ("SP_EL1", RegId::SP_EL1),
    ("ELR_EL1", RegId::ELR_EL1),
    ("SPSR_EL1", RegId::SPSR_EL1),
    ("ESR_EL1", RegId::sysreg(SysReg::ESR_EL1.code())),
    ("FAR_EL1", RegId::sysreg(SysReg::FAR_EL1.code())),
    ("VBAR_EL1", RegId::sysreg(SysReg::VBAR_EL1.code())),
    ("SCTLR_EL1", RegId::sysreg(SysReg::SCTLR_EL1.code())),
    ("TCR_EL1", RegId::sysreg(SysReg::TCR_EL1.code())),
    ("TTBR0_EL1", RegId::sysreg(SysReg::TTBR0_EL1.code())),
    ("TTBR1_EL1", RegId::sysreg(SysReg::TTBR1_EL1.code())),
    ("MAIR_EL1", RegId::sysreg(SysReg::MAIR_EL1.code())),
    ("CONTEXTIDR_EL1", RegId::sysreg(SysReg::CONTEXTIDR_EL1.code())),
    ("TPIDR_EL0", RegId::sysreg(SysReg::TPIDR_EL0.code())),
    ("TPIDRRO_EL0", RegId::sysreg(SysReg::TPIDRRO_EL0.code())),
    ("TPIDR_EL1", RegId::sysreg(SysReg::TPIDR_EL1.code())),
    ("CPACR_EL1", RegId::sysreg(SysReg::CPACR_EL1.code())),
    ("MDSCR_EL1", RegId::sysreg(SysReg::MDSCR_EL1.code())),
    ("PAR_EL1", RegId::sysreg(SysReg::PAR_EL1.code())),
    ("MPIDR_EL1", RegId::sysreg(SysReg::MPIDR_EL1.code())),
    ("MIDR_EL1", RegId::sysreg(SysReg::MIDR_EL1.code())),
];

/// Number of x0; SP, PC and CPSR follow x30.
const SP: usize = 31;
const PC: usize = 32;
const CPSR: usize = 33;
const V0: usize = 34;
const FPSR: usize = 66;
const FPCR: usize = 67;
const FIRST_SYSTEM: usize = 68;
/// Bytes of the registers up to FPCR, which travel in one packet.
const FRAME: usize = 33 * 8 + 4 + 32 * 16 + 4 + 4;

/// A register by GDB's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// The stack pointer that is selected.
    Sp,
    /// PSTATE; 4 bytes, where KVM has 8.
    Cpsr,
    /// Any other, as KVM has it.
    Kvm(RegId),
}

impl Reg {
    /// By number.
    pub fn numbered(n: usize) -> Option<Reg> {
        Some(match n {
            0..=30 => Reg::Kvm(RegId::x(n as u64)),
            SP => Reg::Sp,
            PC => Reg::Kvm(RegId::PC),
            CPSR => Reg::Cpsr,
            V0..FPSR => Reg::Kvm(RegId::v((n - V0) as u64)),
            FPSR => Reg::Kvm(RegId::FPSR),
            FPCR => Reg::Kvm(RegId::FPCR),
            _ => Reg::Kvm(SYSTEM.get(n - FIRST_SYSTEM)?.1),
        })
    }

    /// Those of one packet, in their order.
    pub fn frame() -> impl Iterator<Item = Reg> {
        (0..FIRST_SYSTEM).filter_map(Reg::numbered)
    }

    /// Bytes that GDB sees.
    pub fn size(self) -> usize {
        match self {
            Reg::Sp => 8,
            Reg::Cpsr => 4,
            Reg::Kvm(id) => id.size(),
        }
    }
}

impl arch::RegId for Reg {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        Reg::numbered(id).map(|r| (r, NonZeroUsize::new(r.size())))
    }
}

/// The registers of one packet, as their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

impl Default for Frame {
    fn default() -> Self {
        Frame(vec![0; FRAME])
    }
}

impl arch::Registers for Frame {
    type ProgramCounter = u64;
    fn pc(&self) -> u64 {
        self.0.get(PC * 8..PC * 8 + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
    }
    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for b in &self.0 {
            write_byte(Some(*b));
        }
    }
    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        if bytes.len() < FRAME {
            return Err(());
        }
        self.0 = bytes[..FRAME].to_vec();
        Ok(())
    }
}

/// AArch64 with a few system registers.
pub struct Aarch64;

impl arch::Arch for Aarch64 {
    type Usize = u64;
    type Registers = Frame;
    type BreakpointKind = usize;
    type RegId = Reg;
    fn target_description_xml() -> Option<&'static str> {
        static XML: OnceLock<String> = OnceLock::new();
        Some(XML.get_or_init(description))
    }
}

/// The description in GDB's format (its manual, "Target Description Format" and "AArch64 Features").
fn description() -> String {
    let mut x = String::from(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">\
         <architecture>aarch64</architecture><feature name=\"org.gnu.gdb.aarch64.core\">",
    );
    let reg = |x: &mut String, name: &str, bits: u32, more: &str| {
        // Writing to a string cannot fail.
        let _ = write!(x, "<reg name=\"{name}\" bitsize=\"{bits}\"{more}/>");
    };
    for n in 0..31 {
        reg(&mut x, &format!("x{n}"), 64, "");
    }
    reg(&mut x, "sp", 64, " type=\"data_ptr\"");
    reg(&mut x, "pc", 64, " type=\"code_ptr\"");
    x.push_str("<flags id=\"pstate\" size=\"4\">");
    let flags = [
        ("SP", 0, 0),
        ("EL", 2, 3),
        ("nRW", 4, 4),
        ("F", 6, 6),
        ("I", 7, 7),
        ("A", 8, 8),
        ("D", 9, 9),
        ("BTYPE", 10, 11),
        ("SSBS", 12, 12),
        ("IL", 20, 20),
        ("SS", 21, 21),
        ("PAN", 22, 22),
        ("UAO", 23, 23),
        ("DIT", 24, 24),
        ("TCO", 25, 25),
        ("V", 28, 28),
        ("C", 29, 29),
        ("Z", 30, 30),
        ("N", 31, 31),
    ];
    for (name, start, end) in flags {
        let _ = write!(x, "<field name=\"{name}\" start=\"{start}\" end=\"{end}\"/>");
    }
    x.push_str("</flags>");
    reg(&mut x, "cpsr", 32, " type=\"pstate\"");
    x.push_str("</feature><feature name=\"org.gnu.gdb.aarch64.fpu\">");
    // A vector register as lanes of each width: b, h, s, d, q.
    let lanes = [
        ("q", &[("u", "uint128"), ("s", "int128")][..], 1),
        ("d", &[("f", "ieee_double"), ("u", "uint64"), ("s", "int64")], 2),
        ("s", &[("f", "ieee_single"), ("u", "uint32"), ("s", "int32")], 4),
        ("h", &[("f", "ieee_half"), ("u", "uint16"), ("s", "int16")], 8),
        ("b", &[("u", "uint8"), ("s", "int8")], 16),
    ];
    for (lane, kinds, count) in lanes {
        for (kind, base) in kinds {
            let _ = write!(x, "<vector id=\"v{lane}{kind}\" type=\"{base}\" count=\"{count}\"/>");
        }
    }
    for (lane, kinds, _) in lanes {
        let _ = write!(x, "<union id=\"vn{lane}\">");
        for (kind, _) in kinds {
            let _ = write!(x, "<field name=\"{kind}\" type=\"v{lane}{kind}\"/>");
        }
        x.push_str("</union>");
    }
    x.push_str("<union id=\"aarch64v\">");
    for (lane, ..) in lanes.iter().rev() {
        let _ = write!(x, "<field name=\"{lane}\" type=\"vn{lane}\"/>");
    }
    x.push_str("</union>");
    for n in 0..32 {
        reg(&mut x, &format!("v{n}"), 128, " type=\"aarch64v\"");
    }
    reg(&mut x, "fpsr", 32, " type=\"int\"");
    reg(&mut x, "fpcr", 32, " type=\"int\"");
    x.push_str("</feature><feature name=\"org.ulna.aarch64.system\">");
    for (name, _) in SYSTEM {
        reg(&mut x, name, 64, " type=\"uint64\" group=\"system\"");
    }
    x.push_str("</feature></target>");
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use gdbstub::arch::Registers;

    #[test]
    fn numbers_go_with_the_description() {
        let xml = description();
        let names: Vec<&str> =
            xml.split("<reg name=\"").skip(1).map(|s| s.split('"').next().unwrap()).collect();
        let sizes: Vec<usize> = xml
            .split("<reg name=")
            .skip(1)
            .map(|s| s.split("bitsize=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(names.len(), FIRST_SYSTEM + SYSTEM.len());
        for (n, bits) in sizes.iter().enumerate() {
            assert_eq!(Reg::numbered(n).map(|r| r.size() * 8), Some(*bits), "{}", names[n]);
        }
        assert_eq!(Reg::numbered(names.len()), None);
        assert_eq!([names[SP], names[PC], names[CPSR], names[V0]], ["sp", "pc", "cpsr", "v0"]);
        assert_eq!([names[FPSR], names[FPCR], names[FIRST_SYSTEM]], ["fpsr", "fpcr", "SP_EL0"]);
        assert_eq!(Reg::frame().map(Reg::size).sum::<usize>(), FRAME);
    }

    #[test]
    fn a_frame_keeps_its_bytes() {
        let mut f = Frame::default();
        let bytes: Vec<u8> = (0..FRAME).map(|n| n as u8).collect();
        assert_eq!(f.gdb_deserialize(&bytes[1..]), Err(()));
        assert_eq!(f.gdb_deserialize(&bytes), Ok(()));
        assert_eq!(f.pc(), u64::from_le_bytes(bytes[256..264].try_into().unwrap()));
        let mut back = Vec::new();
        f.gdb_serialize(|b| back.extend(b));
        assert_eq!(back, bytes);
    }
}
