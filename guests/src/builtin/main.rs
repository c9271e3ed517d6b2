//! The first CPU's way through the program.

use super::{board, print::say, shared, slot};
use crate::asm::{Asm, reg};
use crate::fields::{REGISTERS, fields};
use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};
use ulna_arm_regs::SysReg::*;

/// What is asked of the hypervisor: function identifier, first argument, name, how the answer reads.
/// DEN0022 (PSCI), DEN0028 (SMCCC), DEN0054 (SDEI), DEN0057 (stolen time), DEN0077 (FF-A), DEN0098 (TRNG);
/// the vendor range is KVM's.
const SERVICES: &[(u32, u32, &str, Answer)] = &[
    (0x8400_0000, 0, "PSCI_VERSION", Answer::Version),
    (0x8400_0006, 0, "PSCI MIGRATE_INFO_TYPE", Answer::Number),
    (0x8400_000a, 0xc400_0001, "PSCI CPU_SUSPEND", Answer::Feature),
    (0x8400_000a, 0x8400_0002, "PSCI CPU_OFF", Answer::Feature),
    (0x8400_000a, 0xc400_0003, "PSCI CPU_ON", Answer::Feature),
    (0x8400_000a, 0xc400_0004, "PSCI AFFINITY_INFO", Answer::Feature),
    (0x8400_000a, 0x8400_0008, "PSCI SYSTEM_OFF", Answer::Feature),
    (0x8400_000a, 0x8400_0009, "PSCI SYSTEM_RESET", Answer::Feature),
    (0x8400_000a, 0xc400_000e, "PSCI SYSTEM_SUSPEND", Answer::Feature),
    (0x8400_000a, 0xc400_0012, "PSCI SYSTEM_RESET2", Answer::Feature),
    (0x8400_000a, 0xc400_0015, "PSCI SYSTEM_OFF2", Answer::Feature),
    (0x8000_0000, 0, "SMCCC_VERSION", Answer::Version),
    (0x8000_0001, 0x8000_8000, "SMCCC ARCH_WORKAROUND_1", Answer::Feature),
    (0x8000_0001, 0x8000_7fff, "SMCCC ARCH_WORKAROUND_2", Answer::Feature),
    (0x8000_0001, 0x8000_3fff, "SMCCC ARCH_WORKAROUND_3", Answer::Feature),
    (0x8400_0050, 0, "TRNG_VERSION", Answer::Version),
    (0xc400_0020, 0, "SDEI_VERSION", Answer::Number),
    (0x8400_0063, 0x1_0000, "FFA_VERSION", Answer::Number),
    (0xc500_0020, 0xc500_0021, "PV_TIME_ST", Answer::Feature),
    (0x8600_ff01, 0, "vendor hypervisor UID", Answer::Uid),
    (0x8600_0000, 0, "vendor FEATURES", Answer::Number),
    (0x8600_0001, 0, "vendor PTP", Answer::Time),
    (0xc600_0040, 0, "vendor IMPL_VER", Answer::Uid),
    (0xc600_0041, 0, "vendor IMPL_CPUS 0", Answer::Uid),
    (0xc600_0041, 1, "vendor IMPL_CPUS 1", Answer::Uid),
    (0xc600_0041, 2, "vendor IMPL_CPUS 2", Answer::Uid),
    (0xc600_0041, 3, "vendor IMPL_CPUS 3", Answer::Uid),
];

/// How the answer of a service is shown.
#[derive(Clone, Copy)]
enum Answer {
    /// Major in 30:16, minor in 15:0.
    Version,
    Number,
    /// 0 or more: there.
    Feature,
    /// Four words in w0..w3.
    Uid,
    /// An answer that changes from run to run: say only that it came.
    Time,
}

pub fn emit(asm: &mut Asm) {
    start(asm);
    registers(asm);
    machine(asm);
    services(asm);
    cpus(asm);
}

fn start(asm: &mut Asm) {
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; b ->start
        ; ->start:
        ; mov x27, x0
        ; adr x26, ->shared
        ; str x27, [x26, shared::FDT]
        ; str xzr, [x26, shared::FAILED]
        // RAM need not be zero after a reset: clear the slots when they are handed out.
        ; mov x0, 0
        ; mrs x1, reg(MPIDR_EL1)
        ; bl ->take_slot
        ; mov x19, x0
        ; bl ->cpu_setup
        ; bl ->uart_init
        // PSCI_VERSION: not supported is PSCI 0.1, which has KVM's own identifiers, as the device tree says, too.
        ; movz x20, 0xc400, lsl 16
        ; movk x20, 3
        ; movz x21, 0x8400, lsl 16
        ; movk x21, 2
        ; movz x0, 0x8400, lsl 16
        ; hvc 0
        ; tbz w0, 31, >modern
        ; movz x20, 0x95c1, lsl 16
        ; movk x20, 0xba60
        ; sub x21, x20, 1
        ; modern:
        ; str x20, [x26, shared::CPU_ON]
        ; str x21, [x26, shared::CPU_OFF]
    );
    say(asm, "ulna built-in guest\r\n");
}

fn registers(asm: &mut Asm) {
    say(asm, "\r\nregisters (fields that are 0 are left out)\r\n");
    for &register in REGISTERS {
        let name = asm.text(&format!("{:<16}", register.name()));
        let mut table = Vec::new();
        for (lsb, width, field) in fields(register) {
            table.extend([lsb, width]);
            table.extend(field.bytes());
            table.push(0);
        }
        table.extend([0, 0]);
        let table = asm.data(table);
        let ops = &mut asm.ops;
        dynasm!(ops
            ; .arch aarch64
            ; adr x0, =>name
            ; mrs x1, reg(register)
            ; adr x2, =>table
            ; bl ->show_reg
        );
    }
}

fn machine(asm: &mut Asm) {
    say(asm, "\r\nmachine\r\n  exception level    EL");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; mrs x0, reg(CurrentEL)
        ; lsr x0, x0, 2
        ; bl ->put_dec
    );
    say(asm, "\r\n  counter frequency  ");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; mrs x0, reg(CNTFRQ_EL0)
        ; bl ->put_dec
    );
    say(asm, " Hz\r\n  GIC                version ");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        // ID_AA64PFR0_EL1.GIC: the CPU interface has system registers, so it is a GICv3; else the board's is a GICv2.
        ; mrs x0, reg(ID_AA64PFR0_EL1)
        ; ubfx x0, x0, 24, 4
        ; cmp x0, 0
        ; mov x1, 3
        ; mov x2, 2
        ; csel x0, x1, x2, ne
        ; str x0, [x26, shared::GIC]
        ; bl ->put_dec
    );
    say(asm, ", ");
    let gicd = board::GICD;
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        // GICD_TYPER: ITLinesNumber 4:0 counts lines of 32, the first of which are SGIs and PPIs; LPIS is bit 17.
        ; ldr x0, >gicd
        ; b >typer
        ; .align 8
        ; gicd:
        ; .u64 gicd
        ; typer:
        ; ldr w20, [x0, 4]
        ; and w0, w20, 31
        ; lsl w0, w0, 5
        ; bl ->put_dec
    );
    say(asm, " SPIs");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; ldr x0, [x26, shared::GIC]
        ; cmp x0, 3
        ; b.ne >no_lpis
        ; tbz w20, 17, >no_lpis
    );
    say(asm, ", LPIs");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; no_lpis:
    );
    say(asm, "\r\n  CPUs               ");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; ldr x0, [x26, shared::FDT]
        ; bl ->fdt_cpus
        ; str x0, [x26, shared::CPUS]
        ; bl ->put_dec
    );
    say(asm, " in the device tree\r\n");
}

fn services(asm: &mut Asm) {
    say(asm, "\r\nhypercalls (HVC)\r\n");
    for &(function, argument, name, answer) in SERVICES {
        say(asm, &format!("  {name:<24} "));
        let ops = &mut asm.ops;
        dynasm!(ops
            ; .arch aarch64
            ; movz x1, argument & 0xffff
            ; movk x1, argument >> 16, lsl 16
            ; movz x0, function & 0xffff
            ; movk x0, function >> 16, lsl 16
        );
        let routine = match answer {
            Answer::Version => 0u64,
            Answer::Number => 1,
            Answer::Feature => 2,
            Answer::Uid => 3,
            Answer::Time => 4,
        };
        let ops = &mut asm.ops;
        dynasm!(ops
            ; .arch aarch64
            ; mov x9, routine
            ; bl ->ask
        );
    }
    ask(asm);
}

/// ask: function in x0, argument in x1, kind of answer in x9; prints the answer. An HVC that is UNDEFINED counts as
/// "not supported", as does -1 in w0 (SMCCC 5.2).
fn ask(asm: &mut Asm) {
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; b ->cpus
        ; ->ask:
        ; stp x20, x30, [sp, -48]!
        ; stp x21, x22, [sp, 16]
        ; stp x23, x24, [sp, 32]
        ; mov x24, x9
        ; mov x4, 1
        ; str x4, [x19, slot::PROBE]
        ; mov x2, 0
        ; mov x3, 0
        ; hvc 0
        ; ldr x4, [x19, slot::PROBE]
        ; str xzr, [x19, slot::PROBE]
        ; mov x20, x0
        ; mov x21, x1
        ; mov x22, x2
        ; mov x23, x3
        ; cmp x4, 2
        ; b.ne >answered
    );
    say(asm, "no (undefined)");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; b >end
        ; answered:
        ; cmn w20, 1
        ; b.ne >supported
    );
    say(asm, "no");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; b >end
        ; supported:
        ; cbnz x24, >not_version
        ; ubfx w0, w20, 16, 15
        ; bl ->put_dec
        ; mov w0, b'.' as u32
        ; bl ->putc
        ; and w0, w20, 0xffff
        ; bl ->put_dec
        ; b >end
        ; not_version:
        ; cmp x24, 1
        ; b.ne >not_number
        ; mov x0, x20
        ; mov x1, 1
        ; bl ->put_hex
        ; b >end
        ; not_number:
        ; cmp x24, 2
        ; b.ne >not_feature
        // Errors are negative.
        ; tbnz w20, 31, >negative
    );
    say(asm, "yes");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; cbz w20, >end
    );
    say(asm, ", ");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; mov w0, w20
        ; mov x1, 1
        ; bl ->put_hex
        ; b >end
        ; negative:
    );
    say(asm, "no, -");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; neg w0, w20
        ; bl ->put_dec
        ; b >end
        ; not_feature:
        ; cmp x24, 3
        ; b.ne >not_uid
        ; mov w0, w20
        ; mov x1, 8
        ; bl ->put_hex
        ; mov w0, b' ' as u32
        ; bl ->putc
        ; mov w0, w21
        ; mov x1, 8
        ; bl ->put_hex
        ; mov w0, b' ' as u32
        ; bl ->putc
        ; mov w0, w22
        ; mov x1, 8
        ; bl ->put_hex
        ; mov w0, b' ' as u32
        ; bl ->putc
        ; mov w0, w23
        ; mov x1, 8
        ; bl ->put_hex
        ; b >end
        ; not_uid:
    );
    say(asm, "yes");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; end:
    );
    say(asm, "\r\n");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; ldp x23, x24, [sp, 32]
        ; ldp x21, x22, [sp, 16]
        ; ldp x20, x30, [sp], 48
        ; ret
    );
}

fn cpus(asm: &mut Asm) {
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; ->cpus:
    );
    say(asm, "\r\ninterrupts\r\n  ");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; bl ->gic_dist_init
        ; mrs x0, reg(MIDR_EL1)
        ; str x0, [x26, shared::MIDR]
        ; bl ->cpu_test
        ; cmp x0, 1
        ; b.eq >first_ok
        ; str x0, [x26, shared::FAILED]
        ; first_ok:
        ; mov x0, 1
        ; str x0, [x26, shared::RAN]
        ; mov x25, 0

        // Every CPU of the list but this one, one after the other.
        ; ->next_cpu:
        ; ldr x0, [x26, shared::CPUS]
        ; cmp x25, x0
        ; b.hs ->report
        ; add x0, x26, shared::LIST
        ; ldr x24, [x0, x25, lsl 3]
        ; add x25, x25, 1
        ; ldr x0, [x19, slot::AFFINITY]
        ; cmp x0, x24
        ; b.eq ->next_cpu
        ; ldr x0, [x26, shared::RAN]
        ; mov x1, x24
        ; bl ->take_slot
        ; mov x23, x0
    );
    say(asm, "  ");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        // CPU_ON: target, entry, context.
        ; ldr x0, [x26, shared::CPU_ON]
        ; mov x1, x24
        ; adr x2, ->secondary
        ; mov x3, x23
        ; dsb sy
        ; hvc 0
        ; cbz x0, >started
        ; neg x22, x0
        // DENIED: the machine has it, and its owner has not enabled it.
        ; cmp x22, 3
        ; b.ne >refused
    );
    say(asm, "cpu ");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; mov x0, x24
        ; mov x1, 1
        ; bl ->put_hex
    );
    say(asm, ": disabled\r\n");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; b ->next_cpu
        ; refused:
    );
    say(asm, "FAILED: CPU_ON answers -");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; mov x0, x22
        ; bl ->put_dec
    );
    say(asm, "\r\n");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; b >bad
        ; started:
        ; add x0, x23, slot::READY
        ; bl ->wait_flag
        ; cbz x0, >silent
        ; mov x0, x23
        ; bl ->gic_sgi
        ; add x0, x23, slot::DONE
        ; bl ->wait_flag
        ; cbz x0, >silent
        ; cmp x0, 1
        ; b.ne >bad
        ; ldr x0, [x26, shared::RAN]
        ; add x0, x0, 1
        ; str x0, [x26, shared::RAN]
        ; b ->next_cpu
        ; silent:
    );
    say(asm, " FAILED: the CPU is silent\r\n");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; bad:
        ; mov x0, 1
        ; str x0, [x26, shared::FAILED]
        ; b ->next_cpu

        ; ->report:
    );
    say(asm, "\r\n");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; ldr x0, [x26, shared::RAN]
        ; bl ->put_dec
    );
    say(asm, " CPU(s) ran, ");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; ldr x0, [x26, shared::FAILED]
        ; cbnz x0, >failed
    );
    say(asm, "all is well; ");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; ldr x0, [x26, shared::CPU_OFF]
        ; lsr x0, x0, 24
        ; cmp x0, 0x84
        ; b.eq >can
    );
    say(asm, "PSCI 0.1 cannot power off, so stop this machine\r\n");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; b ->power_off
        ; can:
    );
    say(asm, "powering off\r\n");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; b ->power_off
        ; failed:
    );
    say(asm, "something FAILED; powering off\r\n");
    let ops = &mut asm.ops;
    dynasm!(ops
        ; .arch aarch64
        ; ->power_off:
        ; movz x0, 0x8400, lsl 16
        ; movk x0, 8
        ; hvc 0
        ; forever:
        ; wfi
        ; b <forever

        // take_slot: clears the block of the CPU with number x0 and affinity x1. x0 = its slot. Clobbers x1..x3.
        ; ->take_slot:
        ; adr x2, ->shared
        ; add x2, x2, shared::BLOCKS >> 12, lsl 12
        ; lsl x0, x0, 10
        ; add x0, x0, x2
        ; mov x2, slot::BLOCK as u64
        ; clear:
        ; str xzr, [x0], 8
        ; subs x2, x2, 8
        ; b.ne <clear
        ; sub x0, x0, slot::SIZE
        // MPIDR_EL1 without MT, U and the bit that is always 1.
        ; ubfx x3, x1, 32, 8
        ; and x1, x1, 0xffffff
        ; bfi x1, x3, 32, 8
        ; str x1, [x0, slot::AFFINITY]
        ; ret
    );
}
