//! Attributes of VMs, vCPUs and devices by name (kvm-arm64-abi.md §1.5, §10.2).

use ulna_arm_regs::SysReg;
use ulna_kvm_abi::device::*;
use ulna_kvm_abi::private::GRP_REG_SCOPE;
use ulna_kvm_abi::structs::{DeviceAttr, PmuEventFilter, SmcccFilter};

use crate::{Fd, Piece, mem, names};

/// An attribute: what it is called, and how many bytes its value has (0: none).
pub(crate) fn describe(fd: Fd, group: u32, attr: u64) -> (String, usize) {
    let unknown = |g: &str| format!("{g} {attr:#x}");
    match fd {
        Fd::Vm(_) => match group {
            GRP_VM_SMCCC_CTRL if attr == VM_SMCCC_FILTER => ("SMCCC_FILTER".into(), 24),
            GRP_REG_SCOPE => (names::register(attr), 8),
            _ => (unknown(&format!("group {group}")), 0),
        },
        Fd::Vcpu(..) => match (group, attr) {
            (GRP_PMU_V3_CTRL, PMU_V3_IRQ) => ("PMU_V3_IRQ".into(), 4),
            (GRP_PMU_V3_CTRL, PMU_V3_INIT) => ("PMU_V3_INIT".into(), 0),
            (GRP_PMU_V3_CTRL, PMU_V3_FILTER) => ("PMU_V3_FILTER".into(), 8),
            (GRP_PMU_V3_CTRL, PMU_V3_SET_PMU) => ("PMU_V3_SET_PMU".into(), 4),
            (GRP_PMU_V3_CTRL, _) => (unknown("PMU_V3_CTRL"), 4),
            (GRP_TIMER_CTRL, TIMER_IRQ_VTIMER) => ("TIMER_IRQ_VTIMER".into(), 4),
            (GRP_TIMER_CTRL, TIMER_IRQ_PTIMER) => ("TIMER_IRQ_PTIMER".into(), 4),
            (GRP_TIMER_CTRL, TIMER_IRQ_HVTIMER) => ("TIMER_IRQ_HVTIMER".into(), 4),
            (GRP_TIMER_CTRL, TIMER_IRQ_HPTIMER) => ("TIMER_IRQ_HPTIMER".into(), 4),
            (GRP_TIMER_CTRL, _) => (unknown("TIMER_CTRL"), 4),
            (GRP_PVTIME_CTRL, PVTIME_IPA) => ("PVTIME_IPA".into(), 8),
            (GRP_PVTIME_CTRL, _) => (unknown("PVTIME_CTRL"), 8),
            _ => (unknown(&format!("group {group}")), 0),
        },
        Fd::Device(_, TYPE_VFIO) => match (group, attr) {
            (GRP_VFIO_FILE, VFIO_FILE_ADD) => ("VFIO_FILE_ADD".into(), 4),
            (GRP_VFIO_FILE, VFIO_FILE_DEL) => ("VFIO_FILE_DEL".into(), 4),
            _ => (unknown(&format!("group {group}")), 0),
        },
        Fd::Device(_, kind) => vgic(kind, group, attr),
        Fd::Kvm | Fd::Stats => (unknown(&format!("group {group}")), 0),
    }
}

fn vgic(kind: u32, group: u32, attr: u64) -> (String, usize) {
    let low = attr & 0xffff_ffff;
    let pe = |what: String| {
        if kind == TYPE_ARM_VGIC_V2 {
            format!("{what} of CPU {}", attr >> 32 & 0xff)
        } else {
            let m = attr >> 32;
            format!("{what} of {}.{}.{}.{}", m >> 24, m >> 16 & 0xff, m >> 8 & 0xff, m & 0xff)
        }
    };
    match group {
        GRP_ADDR => (
            match attr {
                V2_ADDR_TYPE_DIST => "ADDR of the v2 distributor".into(),
                V2_ADDR_TYPE_CPU => "ADDR of the v2 CPU interface".into(),
                V3_ADDR_TYPE_DIST => "ADDR of the distributor".into(),
                V3_ADDR_TYPE_REDIST => "ADDR of the redistributors".into(),
                ITS_ADDR_TYPE => "ADDR of the ITS".into(),
                V3_ADDR_TYPE_REDIST_REGION => "ADDR of a redistributor region".into(),
                _ => format!("ADDR {attr:#x}"),
            },
            8,
        ),
        // The distributor of a GICv3 is the same from every CPU.
        GRP_DIST_REGS if kind == TYPE_ARM_VGIC_V3 => (distributor("GICD", low), 4),
        GRP_DIST_REGS => (pe(distributor("GICD", low)), 4),
        GRP_CPU_REGS => (pe(cpu_interface(low)), 4),
        GRP_NR_IRQS => ("NR_IRQS".into(), 4),
        GRP_CTRL => (
            match attr {
                CTRL_INIT => "CTRL INIT".into(),
                CTRL_SAVE_PENDING_TABLES => "CTRL SAVE_PENDING_TABLES".into(),
                ITS_SAVE_TABLES => "CTRL SAVE_TABLES".into(),
                ITS_RESTORE_TABLES => "CTRL RESTORE_TABLES".into(),
                ITS_CTRL_RESET => "CTRL RESET".into(),
                _ => format!("CTRL {attr:#x}"),
            },
            0,
        ),
        GRP_REDIST_REGS => (pe(redistributor(low)), 4),
        GRP_CPU_SYSREGS => {
            let code = attr as u16;
            let name = SysReg::from_code(code).map_or_else(|| format!("sysreg {code:#x}"), |r| r.to_string());
            (pe(name), 8)
        }
        GRP_LEVEL_INFO => (pe(format!("LEVEL_INFO kind {} from INTID {}", low >> 10, low & 0x3ff)), 4),
        GRP_ITS_REGS => (its(attr), 8),
        _ => (format!("group {group} {attr:#x}"), 0),
    }
}

/// Registers that come one after the other: base, end, bytes of one, name.
const BANKS: [(u64, u64, u64, &str); 13] = [
    (0x080, 0x100, 4, "IGROUPR"),
    (0x100, 0x180, 4, "ISENABLER"),
    (0x180, 0x200, 4, "ICENABLER"),
    (0x200, 0x280, 4, "ISPENDR"),
    (0x280, 0x300, 4, "ICPENDR"),
    (0x300, 0x380, 4, "ISACTIVER"),
    (0x380, 0x400, 4, "ICACTIVER"),
    (0x400, 0x800, 4, "IPRIORITYR"),
    (0x800, 0xc00, 4, "ITARGETSR"),
    (0xc00, 0xd00, 4, "ICFGR"),
    (0xd00, 0xd80, 4, "IGRPMODR"),
    (0xf10, 0xf20, 4, "CPENDSGIR"),
    (0xf20, 0xf30, 4, "SPENDSGIR"),
];

fn distributor(gic: &str, off: u64) -> String {
    let single = match off {
        0 => "CTLR",
        4 => "TYPER",
        8 => "IIDR",
        0xc => "TYPER2",
        0x10 => "STATUSR",
        0xf00 => "SGIR",
        0xffe8 | 0xfe8 => "PIDR2",
        _ => "",
    };
    if !single.is_empty() {
        return format!("{gic}_{single}");
    }
    if let Some((base, _, size, name)) = BANKS.iter().find(|b| (b.0..b.1).contains(&off)) {
        return format!("{gic}_{name}{}", (off - base) / size);
    }
    match off {
        0x6000..0x8000 => {
            let half = if off % 8 == 4 { " high" } else { "" };
            format!("{gic}_IROUTER{}{half}", (off - 0x6000) / 8)
        }
        _ => format!("{gic}+{off:#x}"),
    }
}

fn redistributor(off: u64) -> String {
    let half = |name: &str, base: u64| format!("GICR_{name}{}", if off == base { "" } else { " high" });
    match off {
        0x10000.. => distributor("GICR", off - 0x10000),
        0 => "GICR_CTLR".into(),
        4 => "GICR_IIDR".into(),
        8 | 0xc => half("TYPER", 8),
        0x10 => "GICR_STATUSR".into(),
        0x14 => "GICR_WAKER".into(),
        0x70 | 0x74 => half("PROPBASER", 0x70),
        0x78 | 0x7c => half("PENDBASER", 0x78),
        0xffe8 => "GICR_PIDR2".into(),
        _ => format!("GICR+{off:#x}"),
    }
}

fn cpu_interface(off: u64) -> String {
    match off {
        0x00 => "GICC_CTLR".into(),
        0x04 => "GICC_PMR".into(),
        0x08 => "GICC_BPR".into(),
        0x0c => "GICC_IAR".into(),
        0x10 => "GICC_EOIR".into(),
        0x14 => "GICC_RPR".into(),
        0x18 => "GICC_HPPIR".into(),
        0x1c => "GICC_ABPR".into(),
        0xd0..0xe0 => format!("GICC_APR{}", (off - 0xd0) / 4),
        0xfc => "GICC_IIDR".into(),
        _ => format!("GICC+{off:#x}"),
    }
}

fn its(off: u64) -> String {
    match off {
        0 => "GITS_CTLR".into(),
        4 => "GITS_IIDR".into(),
        8 => "GITS_TYPER".into(),
        0x80 => "GITS_CBASER".into(),
        0x88 => "GITS_CWRITER".into(),
        0x90 => "GITS_CREADR".into(),
        0x100..0x140 => format!("GITS_BASER{}", (off - 0x100) / 8),
        _ => format!("GITS+{off:#x}"),
    }
}

/// An attribute with its value, if that is known: `NR_IRQS = 64`.
pub(crate) fn with_value(fd: Fd, a: &DeviceAttr, pieces: &[Piece]) -> String {
    let (name, size) = describe(fd, a.group, a.attr);
    let value = if size == 0 { None } else { mem::bytes(pieces, a.addr, size).filter(|b| b.len() == size) };
    let stray = if a.flags == 0 { String::new() } else { format!(", flags = {:#x}", a.flags) };
    let Some(b) = value else { return format!("{name}{stray}") };
    let text = match name.as_str() {
        "SMCCC_FILTER" => mem::get::<SmcccFilter>(pieces, a.addr).map_or_else(String::new, |f| {
            let action = match f.action {
                0 => "HANDLE".into(),
                1 => "DENY".into(),
                2 => "FWD_TO_USER".into(),
                n => format!("{n}"),
            };
            format!("{{base {:#x}, {} functions, {action}}}", f.base, f.nr_functions)
        }),
        "PMU_V3_FILTER" => mem::get::<PmuEventFilter>(pieces, a.addr).map_or_else(String::new, |f| {
            let action = match f.action {
                0 => "ALLOW".into(),
                1 => "DENY".into(),
                n => format!("{n}"),
            };
            format!("{{event {:#x}, {} events, {action}}}", f.base_event, f.nevents)
        }),
        n if n.contains("IRQ") => mem::get::<u32>(pieces, a.addr).map_or_else(String::new, |n| n.to_string()),
        _ => mem::number(b),
    };
    format!("{name} = {text}{stray}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(fd: Fd, group: u32, attr: u64) -> String {
        describe(fd, group, attr).0
    }

    #[test]
    fn attributes_have_names() {
        let (v2, v3) = (Fd::Device(0, TYPE_ARM_VGIC_V2), Fd::Device(0, TYPE_ARM_VGIC_V3));
        let its = Fd::Device(0, TYPE_ARM_VGIC_ITS);
        assert_eq!(name(v3, GRP_ADDR, 2), "ADDR of the distributor");
        assert_eq!(name(v3, GRP_DIST_REGS, 0x104), "GICD_ISENABLER1");
        assert_eq!(name(v3, GRP_DIST_REGS, 0x610c), "GICD_IROUTER33 high");
        assert_eq!(name(v2, GRP_DIST_REGS, 1 << 32 | 0x820), "GICD_ITARGETSR8 of CPU 1");
        assert_eq!(name(v2, GRP_CPU_REGS, 4), "GICC_PMR of CPU 0");
        assert_eq!(name(v3, GRP_REDIST_REGS, 0x102 << 32 | 0x1_0100), "GICR_ISENABLER0 of 0.0.1.2");
        assert_eq!(name(v3, GRP_REDIST_REGS, 0x74), "GICR_PROPBASER high of 0.0.0.0");
        assert_eq!(name(v3, GRP_CPU_SYSREGS, 0xc230), "ICC_PMR_EL1 of 0.0.0.0");
        assert_eq!(name(v3, GRP_CPU_SYSREGS, 0xc231), "sysreg 0xc231 of 0.0.0.0");
        assert_eq!(name(v3, GRP_LEVEL_INFO, 64), "LEVEL_INFO kind 0 from INTID 64 of 0.0.0.0");
        assert_eq!(
            (name(v3, GRP_CTRL, 0), name(its, GRP_CTRL, 1)),
            ("CTRL INIT".into(), "CTRL SAVE_TABLES".into())
        );
        assert_eq!(
            (name(its, GRP_ITS_REGS, 0x108), name(its, 99, 1)),
            ("GITS_BASER1".into(), "group 99 0x1".into())
        );
        assert_eq!(name(Fd::Vcpu(0, 0), GRP_TIMER_CTRL, 1), "TIMER_IRQ_PTIMER");
        assert_eq!(name(Fd::Vm(0), GRP_REG_SCOPE, 0x6030_0000_0013_c020), "ID_AA64PFR0_EL1");
        assert_eq!(name(Fd::Kvm, 1, 2), "group 1 0x2");
    }

    #[test]
    fn values_are_shown_by_what_they_are() {
        let mut filter = vec![0; 24];
        filter[..9].copy_from_slice(&[0, 0, 0, 0x84, 9, 0, 0, 0, 1]);
        let pieces = [
            Piece { addr: 0x100, bytes: filter },
            Piece { addr: 0x200, bytes: 64u32.to_le_bytes().to_vec() },
            Piece { addr: 0x300, bytes: vec![0x11, 0, 2, 0, 0, 0, 0, 0] },
        ];
        let attr = |group, attr, addr| DeviceAttr { flags: 0, group, attr, addr };
        let v3 = Fd::Device(1, TYPE_ARM_VGIC_V3);
        assert_eq!(
            with_value(Fd::Vm(1), &attr(0, 0, 0x100), &pieces),
            "SMCCC_FILTER = {base 0x84000000, 9 functions, DENY}"
        );
        assert_eq!(with_value(v3, &attr(GRP_NR_IRQS, 0, 0x200), &pieces), "NR_IRQS = 64");
        assert_eq!(with_value(v3, &attr(GRP_NR_IRQS, 0, 0x900), &pieces), "NR_IRQS");
        let odd = DeviceAttr { flags: 4, ..attr(GRP_CTRL, 0, 0) };
        assert_eq!(with_value(v3, &odd, &pieces), "CTRL INIT, flags = 0x4");
        assert_eq!(
            with_value(Fd::Vcpu(0, 0), &attr(GRP_PMU_V3_CTRL, PMU_V3_FILTER, 0x300), &pieces),
            "PMU_V3_FILTER = {event 0x11, 2 events, ALLOW}"
        );
    }
}
