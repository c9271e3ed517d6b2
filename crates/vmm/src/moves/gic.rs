//! The interrupt controller's state by device attributes (the kernel's arm-vgic, arm-vgic-v3 and arm-vgic-its documents;
//! docs: howto/save-gic). The lists are in the order of restoring, with the writes that only a restore needs in between.

use super::Blocked;
use crate::layout::spi::INTIDS;
use ulna_kvm_backend::abi::device::*;
use ulna_kvm_backend::{Device, Errno};
use ulna_stream::{Attr, Gic};

/// Offset of a redistributor's second frame.
const SGI: u64 = 0x1_0000;
const GITS_CTLR: u64 = 0;
const GITS_IIDR: u64 = 4;
const GITS_CBASER: u64 = 0x80;
const GITS_CWRITER: u64 = 0x88;
const GITS_CREADR: u64 = 0x90;
const GITS_BASER: [u64; 2] = [0x100, 0x108];

/// ICC registers: PMR, BPR0, BPR1, AP0R0-3, AP1R0-3, then CTLR (with CBPR a BPR1 cannot be written), SRE, IGRPEN0, IGRPEN1.
const ICC: [u64; 15] = [
    0xc230, 0xc643, 0xc663, 0xc644, 0xc645, 0xc646, 0xc647, 0xc648, 0xc649, 0xc64a, 0xc64b, 0xc664, 0xc665,
    0xc666, 0xc667,
];

/// What is to be done with an attribute.
enum Step {
    /// Saved and restored.
    Carry(u32, u64),
    /// Written by a restore.
    Write(u32, u64, u64),
}

/// The vCPU as attributes name it: Aff3 to Aff0 in bits 63:32.
fn affinity(mpidr: u64) -> u64 {
    (mpidr >> 32 & 0xff) << 56 | (mpidr & 0xff_ffff) << 32
}

fn v3(mpidrs: &[u64]) -> Vec<Step> {
    let n = u64::from(INTIDS);
    let mut all = Vec::new();
    // SGIs are created enabled.
    for v in mpidrs.iter().map(|m| affinity(*m)) {
        all.push(Step::Write(GRP_REDIST_REGS, v | (SGI + 0x180), 0xffff_ffff));
    }
    let mut carry = |group: u32, attr: u64| all.push(Step::Carry(group, attr));
    // GICD_IIDR decides what the others mean.
    carry(GRP_DIST_REGS, 8);
    carry(GRP_DIST_REGS, 0);
    // Groups, enables, configuration, priorities, routes; then what is pending and active.
    for bank in [0x80, 0x100] {
        (4..n / 8).step_by(4).for_each(|o| carry(GRP_DIST_REGS, bank + o));
    }
    (8..n / 4).step_by(4).for_each(|o| carry(GRP_DIST_REGS, 0xc00 + o));
    (32..n).step_by(4).for_each(|o| carry(GRP_DIST_REGS, 0x400 + o));
    (32 * 8..n * 8).step_by(4).for_each(|o| carry(GRP_DIST_REGS, 0x6000 + o));
    for bank in [0x200, 0x300] {
        (4..n / 8).step_by(4).for_each(|o| carry(GRP_DIST_REGS, bank + o));
    }
    for v in mpidrs.iter().map(|m| affinity(*m)) {
        // PROPBASER and PENDBASER before CTLR; WAKER; groups and enables.
        for o in [0x70, 0x74, 0x78, 0x7c, 0, 0x14, SGI + 0x80, SGI + 0x100] {
            carry(GRP_REDIST_REGS, v | o);
        }
        (0..32).step_by(4).for_each(|o| carry(GRP_REDIST_REGS, v | (SGI + 0x400 + o)));
        for o in [0xc00, 0xc04, 0x200, 0x300] {
            carry(GRP_REDIST_REGS, v | (SGI + o));
        }
        ICC.iter().for_each(|enc| carry(GRP_CPU_SYSREGS, v | enc));
        carry(GRP_LEVEL_INFO, v);
    }
    (32..n).step_by(32).for_each(|first| carry(GRP_LEVEL_INFO, first));
    all
}

fn v2(vcpus: u64) -> Vec<Step> {
    let n = u64::from(INTIDS);
    let mut all = Vec::new();
    for id in 0..vcpus {
        let v = id << 32;
        // Banked registers of each vCPU; those of SPIs with the first.
        let end = |per: u64| if id == 0 { n / per } else { 32 / per };
        let mut carry = |attr: u64| all.push(Step::Carry(GRP_DIST_REGS, v | attr));
        carry(8);
        (0..end(8)).step_by(4).for_each(|o| carry(0x80 + o));
        (0..end(8))
            .step_by(4)
            .for_each(|o| all.push(Step::Write(GRP_DIST_REGS, v | (0x180 + o), 0xffff_ffff)));
        let mut carry = |attr: u64| all.push(Step::Carry(GRP_DIST_REGS, v | attr));
        (0..end(8)).step_by(4).for_each(|o| carry(0x100 + o));
        (32..end(1)).step_by(4).for_each(|o| carry(0x800 + o));
        (0..end(4)).step_by(4).for_each(|o| carry(0xc00 + o));
        (0..end(8)).step_by(4).for_each(|o| carry(0x200 + o));
        (0..end(8)).step_by(4).for_each(|o| carry(0x300 + o));
        carry(0);
        (0..end(1)).step_by(4).for_each(|o| carry(0x400 + o));
        // ISPENDR made the vCPU itself a sender of its SGIs.
        (0..16).step_by(4).for_each(|o| all.push(Step::Write(GRP_DIST_REGS, v | (0xf10 + o), 0xffff_ffff)));
        (0..16).step_by(4).for_each(|o| all.push(Step::Carry(GRP_DIST_REGS, v | (0xf20 + o))));
        // CTLR, PMR, BPR, ABPR, APR0.
        [0, 4, 8, 0x1c, 0xd0].iter().for_each(|o| all.push(Step::Carry(GRP_CPU_REGS, v | o)));
    }
    all
}

fn its_steps() -> Vec<Step> {
    let carry = |o: u64| Step::Carry(GRP_ITS_REGS, o);
    let mut all: Vec<Step> =
        [GITS_CBASER, GITS_CREADR, GITS_CWRITER, GITS_BASER[0], GITS_BASER[1], GITS_IIDR].map(carry).into();
    all.push(Step::Write(GRP_CTRL, ITS_RESTORE_TABLES, 0));
    all.push(carry(GITS_CTLR));
    all
}

fn read(device: &dyn Device, steps: Vec<Step>) -> Result<Vec<Attr>, String> {
    let mut attrs = Vec::with_capacity(steps.len());
    for step in steps {
        match step {
            Step::Carry(group, attr) => match device.get_attr(group, attr, 0) {
                Ok(value) => attrs.push(Attr { group, attr, value }),
                // Active priorities that the host's number of priority bits does not need; GICR_WAKER of old kernels.
                Err(e)
                    if [Errno::ENXIO, Errno::EINVAL].contains(&e)
                        && [GRP_CPU_SYSREGS, GRP_CPU_REGS].contains(&group) => {}
                Err(e) => return Err(format!("reading group {group}, attribute {attr:#x}: {e}")),
            },
            Step::Write(group, attr, value) => attrs.push(Attr { group, attr, value }),
        }
    }
    Ok(attrs)
}

/// Saves it; all vCPUs are outside KVM_RUN. With `tables` what stands in tables is written to guest memory.
pub fn save(
    devices: &[std::sync::Arc<dyn Device>],
    version: u8,
    mpidrs: &[u64],
    tables: bool,
) -> Result<Gic, String> {
    let (gic, its) = devices.split_first().ok_or("there is none")?;
    let steps = if version == 2 { v2(mpidrs.len() as u64) } else { v3(mpidrs) };
    let attrs = read(&**gic, steps)?;
    let all = its.iter().map(|i| read(&**i, its_steps())).collect::<Result<Vec<_>, _>>()?;
    if tables && version == 3 {
        for i in its {
            i.set_attr(GRP_CTRL, ITS_SAVE_TABLES, 0).map_err(|e| format!("saving the ITS's tables: {e}"))?;
        }
        gic.set_attr(GRP_CTRL, CTRL_SAVE_PENDING_TABLES, 0)
            .map_err(|e| format!("saving the tables of pending LPIs: {e}"))?;
    }
    Ok(Gic { version, attrs, its: all })
}

fn write(what: &str, device: &dyn Device, attrs: &[Attr], blocked: &mut Vec<Blocked>) {
    for a in attrs {
        let Err(e) = device.set_attr(a.group, a.attr, a.value) else { continue };
        // Some values can be had and not written, as that of GITS_CBASER after reset.
        let now = device.get_attr(a.group, a.attr, 0).ok();
        if now == Some(a.value) {
            continue;
        }
        let limit = match now {
            Some(now) => format!("this host has {now:#x} and refuses another ({e})"),
            None => format!("this host refuses it ({e})"),
        };
        blocked.push(Blocked::other(describe(what, a), format!("{:#x}", a.value), limit));
    }
}

fn describe(what: &str, a: &Attr) -> String {
    let low = a.attr & 0xffff_ffff;
    match a.group {
        GRP_CPU_SYSREGS if low == 0xc664 => format!("{what}: ICC_CTLR_EL1 of vCPU {:#x}", a.attr >> 32),
        GRP_CPU_SYSREGS => format!("{what}: ICC register {low:#x} of vCPU {:#x}", a.attr >> 32),
        GRP_DIST_REGS if low == 8 => format!("{what}: GICD_IIDR"),
        GRP_DIST_REGS => format!("{what}: distributor register {low:#x}"),
        GRP_REDIST_REGS => format!("{what}: redistributor register {low:#x} of vCPU {:#x}", a.attr >> 32),
        GRP_CTRL => format!("{what}: tables in memory"),
        group => format!("{what}: group {group}, attribute {:#x}", a.attr),
    }
}

/// Restores it, with what stands in tables if memory is there.
pub fn restore(
    devices: &[std::sync::Arc<dyn Device>],
    version: u8,
    g: &Gic,
    tables: bool,
    blocked: &mut Vec<Blocked>,
) {
    let Some((gic, its)) = devices.split_first() else { return };
    if version != g.version || its.len() != g.its.len() {
        let word = |v: u8, n: usize| format!("GICv{v} with {n} ITS");
        let limit = format!("this host has {}", word(version, its.len()));
        blocked.push(Blocked::other("interrupt controller", word(g.version, g.its.len()), limit));
        return;
    }
    write("GIC", &**gic, &g.attrs, blocked);
    if tables {
        its.iter().zip(&g.its).for_each(|(i, attrs)| write("ITS", &**i, attrs, blocked));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpus_are_named_by_affinity() {
        assert_eq!(affinity(0x8000_0000), 0);
        assert_eq!(affinity(0x0000_0001_8001_0203), 0x0101_0203 << 32);
    }
}
