//! The built-in guest: says over the PL011 what it sees, then starts every other vCPU, takes a timer interrupt and an
//! SGI on each, and powers off.
//!
//! It runs with the MMU off, so every data access is to Device memory: all are aligned and none is exclusive; CPUs hand
//! over by plain flags and `DMB SY`, and only one of them prints at a time. Every wait has a limit, so that a broken
//! timer or interrupt controller is reported as `FAILED` rather than by silence.
//!
//! Register use: x19..x28 are kept by callees, the rest is scratch. TPIDR_EL1 points at the CPU's [`slot`].

mod cpu;
mod fdt;
mod gic;
mod main;
pub(crate) mod print;
mod vectors;

use crate::asm::Asm;
use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};

/// Where the board has its devices: those of QEMU's `virt`, as architecture.md §9 lists them.
mod board {
    pub const GICD: u64 = 0x0800_0000;
    pub const GICC: u64 = 0x0801_0000;
    pub const GICR: u64 = 0x080a_0000;
    pub const GICR_HIGH: u64 = 0x40_0000_0000;
    pub const UART: u64 = 0x0900_0000;
    pub const VIRTUAL_TIMER: u32 = 27;
    pub const SGI: u32 = 1;
}

/// Offsets in a CPU's block. The stack lies below, in the same block.
mod slot {
    /// Timer interrupts taken.
    pub const TIMER: u32 = 0;
    /// SGIs taken.
    pub const SGI: u32 = 8;
    /// Other interrupts taken.
    pub const OTHER: u32 = 16;
    /// 1: an exception at the next instruction is expected; 2: it came.
    pub const PROBE: u32 = 24;
    /// The CPU waits for its SGI.
    pub const READY: u32 = 32;
    /// The CPU has done its part: 1 well, 2 not.
    pub const DONE: u32 = 40;
    /// MPIDR affinity.
    pub const AFFINITY: u32 = 48;
    /// GICv2: the CPU's bit in target lists.
    pub const TARGET: u32 = 56;
    /// Size of the slot itself and of slot and stack.
    pub const SIZE: u32 = 64;
    pub const BLOCK: u32 = 1024;
}

/// Offsets in the shared area behind the program.
mod shared {
    pub const FDT: u32 = 0;
    pub const CPUS: u32 = 8;
    pub const GIC: u32 = 16;
    pub const FAILED: u32 = 24;
    pub const RAN: u32 = 32;
    /// MIDR_EL1 of the first CPU.
    pub const MIDR: u32 = 40;
    /// Identifiers of PSCI's CPU_ON and CPU_OFF.
    pub const CPU_ON: u32 = 48;
    pub const CPU_OFF: u32 = 56;
    /// Affinities of all CPUs from the device tree.
    pub const LIST: u32 = 64;
    pub const MAX_CPUS: u32 = 512;
    pub const BLOCKS: u32 = 8192;
}

/// The program. It is position-independent in steps of 4 KiB and uses up to 600 KiB behind its end.
pub fn builtin() -> Vec<u8> {
    let mut asm = Asm::new();
    main::emit(&mut asm);
    cpu::emit(&mut asm);
    gic::emit(&mut asm);
    fdt::emit(&mut asm);
    print::emit(&mut asm);
    vectors::emit(&mut asm);
    asm.emit_pool();
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; .align 4096
        ; ->shared:
        ; .u64 0
    );
    // Only a wrong program text can make this fail, and the tests assemble it.
    asm.ops.finalize().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_assembles_and_fits_below_the_device_tree() {
        let program = super::builtin();
        assert!(program.len() > 4096, "{} bytes", program.len());
        let blocks = super::shared::BLOCKS + super::shared::MAX_CPUS * super::slot::BLOCK;
        assert!(0x8_0000 + program.len() + (blocks as usize) < 0x20_0000);
        // Entered at its first byte: a branch, not data.
        assert_eq!(program[3] & 0xfc, 0x14);
    }
}
