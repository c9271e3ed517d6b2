//! The whole interrupt controller: owns the parts, routes accesses, tells whose lines changed.

use crate::bank::By;
use crate::dist::Distributor;
use crate::irq::{FIRST_PPI, FIRST_SPI};
use crate::its::Its;
use crate::redist::{INITIAL_BASER, Redistributor, Redists};
use crate::redist_regs::PROPBASER;
use crate::{Affinity, GicConfig, GicError, GuestMemory, IccReg, Lines, MsiError, Region, VcpuSet, Version};

/// A GICv2 or GICv3 with everything in it.
#[derive(Clone, Debug)]
pub struct Gic {
    pub(crate) config: GicConfig,
    pub(crate) dist: Distributor,
    pub(crate) vcpus: Vcpus,
    pub(crate) its: Vec<Its>,
    eois: Vec<u32>,
}

/// The redistributors, with note taken of changed lines.
#[derive(Clone, Debug)]
pub(crate) struct Vcpus {
    redists: Vec<Redistributor>,
    pub(crate) changed: VcpuSet,
    /// Those that have messages.
    talking: VcpuSet,
}

impl Redists for Vcpus {
    fn count(&self) -> usize {
        self.redists.len()
    }

    fn with<T>(&mut self, vcpu: usize, f: impl FnOnce(&mut Redistributor) -> T) -> Option<T> {
        let redist = self.redists.get_mut(vcpu)?;
        let before = (redist.lines(), redist.wakes());
        let out = f(redist);
        if (redist.lines(), redist.wakes()) != before {
            self.changed.insert(vcpu);
        }
        if redist.has_messages() {
            self.talking.insert(vcpu);
        }
        Some(out)
    }
}

impl Gic {
    /// A GIC in its reset state.
    pub fn new(config: GicConfig) -> Result<Gic, GicError> {
        config.check()?;
        let redists = (0..config.vcpus.len()).map(|i| Redistributor::new(&config, i)).collect();
        Ok(Gic {
            dist: Distributor::new(&config),
            vcpus: Vcpus { redists, changed: VcpuSet::default(), talking: VcpuSet::default() },
            its: (0..config.its).map(|_| Its::new()).collect(),
            eois: Vec::new(),
            config,
        })
    }

    /// What it was made of.
    pub fn config(&self) -> &GicConfig {
        &self.config
    }

    /// A guest's load by `vcpu`. Accesses that KVM does not know (size, offset) read as zero.
    pub fn mmio_read(&mut self, region: Region, vcpu: usize, offset: u64, size: usize) -> u64 {
        let by = By::Guest(vcpu);
        match (region, self.config.version) {
            (Region::Dist, _) => self.dist.read(offset, size, vcpu, by, &mut self.vcpus),
            (Region::Redist(of), Version::V3) => {
                let propbaser = self.dist.propbaser();
                self.vcpus.with(of, |r| r.frame_read(offset, size, by, propbaser)).unwrap_or(0)
            }
            (Region::Cpuif, Version::V2) => self.vcpus.with(vcpu, |r| r.gicc_read(offset, size)).unwrap_or(0),
            (Region::Its(n), Version::V3) => self.its.get(n).map_or(0, |its| its.read(offset, size)),
            _ => 0,
        }
    }

    /// A guest's store by `vcpu`. Accesses that KVM does not know are ignored.
    pub fn mmio_write(
        &mut self,
        region: Region,
        vcpu: usize,
        offset: u64,
        size: usize,
        value: u64,
        mem: &dyn GuestMemory,
    ) {
        let by = By::Guest(vcpu);
        let propbaser = self.effective_propbaser();
        match (region, self.config.version) {
            (Region::Dist, _) => {
                // A guest is never refused.
                let _ = self.dist.write(offset, size, vcpu, value, by, &mut self.vcpus);
            }
            (Region::Redist(of), Version::V3) => self.redist_write(of, offset, size, value, by, mem),
            (Region::Cpuif, Version::V2) => {
                self.vcpus.with(vcpu, |r| r.gicc_write(offset, size, value));
            }
            (Region::Its(n), Version::V3) => {
                if let Some(its) = self.its.get_mut(n) {
                    its.write(offset, size, value, propbaser, &mut self.vcpus, mem);
                }
            }
            _ => {}
        }
        self.deliver();
    }

    fn redist_write(
        &mut self,
        of: usize,
        offset: u64,
        size: usize,
        value: u64,
        by: By,
        mem: &dyn GuestMemory,
    ) {
        if PROPBASER.contains(&offset) {
            return self.dist.write_propbaser(of, offset, size, value, &mut self.vcpus);
        }
        let propbaser = self.effective_propbaser();
        self.vcpus.with(of, |r| r.frame_write(offset, size, value, by, propbaser, mem));
    }

    /// Does what redistributors could not do alone.
    fn deliver(&mut self) {
        if self.vcpus.talking.is_empty() {
            return;
        }
        for vcpu in self.vcpus.talking.take().iter() {
            let messages = self.vcpus.with(vcpu, |r| r.take_messages()).unwrap_or_default();
            for message in messages {
                self.eois.extend(self.dist.handle(message, &mut self.vcpus));
            }
        }
    }

    /// Whether the guest has this register; MRS and MSR of others are UNDEFINED.
    pub fn sysreg_exists(&self, reg: IccReg) -> bool {
        self.config.version == Version::V3 && self.vcpus.redists.first().is_some_and(|r| r.icc_exists(reg))
    }

    /// A guest's MRS by `vcpu`. Write-only registers read as zero.
    pub fn sysreg_read(&mut self, vcpu: usize, reg: IccReg) -> u64 {
        self.vcpus.with(vcpu, |r| r.icc_read(reg)).unwrap_or(0)
    }

    /// A guest's MSR by `vcpu`. Writes of read-only registers are ignored.
    pub fn sysreg_write(&mut self, vcpu: usize, reg: IccReg, value: u64) {
        self.vcpus.with(vcpu, |r| r.icc_write(reg, value));
        self.deliver();
    }

    /// Drives the line of SPI `intid` (32 and up). An edge-triggered SPI latches `true`.
    pub fn set_spi(&mut self, intid: u32, level: bool) -> Result<(), GicError> {
        self.dist.set_line(intid, level, &mut self.vcpus)
    }

    /// Drives the line of PPI `intid` (16 to 31) of `vcpu`.
    pub fn set_ppi(&mut self, vcpu: usize, intid: u32, level: bool) -> Result<(), GicError> {
        if !(FIRST_PPI..FIRST_SPI).contains(&intid) {
            return Err(GicError::NoIrq(intid));
        }
        self.vcpus.with(vcpu, |r| r.set_ppi(intid, level)).ok_or(GicError::NoVcpu(vcpu))
    }

    /// Firmware takes an interrupt (of a PPI, that of `vcpu`) out of the guest's sight, or gives it back. Tells whether it is
    /// level-sensitive and whether its line, which can be driven as before, is high.
    pub fn set_taken(
        &mut self,
        vcpu: Option<usize>,
        intid: u32,
        taken: bool,
    ) -> Result<(bool, bool), GicError> {
        let f = |irq: &mut crate::irq::Irq| irq.set_taken(taken);
        match vcpu {
            Some(v) => self.vcpus.with(v, |r| r.edit(intid, f)).flatten(),
            None => self.dist.edit(intid, &mut self.vcpus, f),
        }
        .ok_or(GicError::NoIrq(intid))
    }

    /// A device's write of `event` to the translation register of ITS number `its`.
    pub fn inject_msi(
        &mut self,
        its: usize,
        device: u32,
        event: u32,
        mem: &dyn GuestMemory,
    ) -> Result<(), MsiError> {
        let propbaser = self.effective_propbaser();
        self.its.get(its).ok_or(MsiError::NoIts)?.trigger(device, event, propbaser, &mut self.vcpus, mem)
    }

    /// The interrupt inputs of `vcpu`.
    pub fn lines(&self, vcpu: usize) -> Lines {
        self.vcpus.redists.get(vcpu).map(Redistributor::lines).unwrap_or_default()
    }

    /// Whether `vcpu` has something to wake up for.
    pub fn wakes(&self, vcpu: usize) -> bool {
        self.vcpus.redists.get(vcpu).is_some_and(Redistributor::wakes)
    }

    /// vCPUs whose [`Gic::lines`] or [`Gic::wakes`] may have changed since the last call.
    pub fn take_changed(&mut self) -> VcpuSet {
        self.vcpus.changed.take()
    }

    /// Whether a level-triggered SPI's deactivation is to be reported by [`Gic::take_eois`]
    /// (irqfd with resample).
    pub fn set_notify_eoi(&mut self, intid: u32, on: bool) -> Result<(), GicError> {
        self.dist.edit(intid, &mut self.vcpus, |irq| irq.notify_eoi = on).ok_or(GicError::NoIrq(intid))
    }

    /// SPIs that were deactivated since the last call, of those asked for.
    pub fn take_eois(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.eois)
    }

    /// States whether this vCPU's redistributor is the last of its run of frames
    /// (GICR_TYPER.Last). Without a call only the last vCPU's is.
    pub fn set_redist_last(&mut self, vcpu: usize, last: bool) -> Result<(), GicError> {
        self.vcpus.with(vcpu, |r| r.last = last).ok_or(GicError::NoVcpu(vcpu))
    }

    /// Back to the state after [`Gic::new`], lines as they are driven.
    pub fn reset(&mut self) {
        let Ok(mut fresh) = Gic::new(self.config.clone()) else { return };
        for (new, old) in fresh.vcpus.redists.iter_mut().zip(&self.vcpus.redists) {
            new.last = old.last;
            for (a, b) in new.private.iter_mut().zip(&old.private) {
                (a.line, a.taken) = (b.line, b.taken);
            }
        }
        for intid in FIRST_SPI..self.config.nr_irqs {
            if let Some((line, notify, taken)) =
                self.dist.peek(intid, &mut self.vcpus, |irq| (irq.line, irq.notify_eoi, irq.taken))
            {
                fresh.dist.edit(intid, &mut fresh.vcpus, |irq| {
                    (irq.line, irq.notify_eoi, irq.taken) = (line, notify, taken);
                });
            }
        }
        (0..self.vcpus.count()).for_each(|v| fresh.vcpus.changed.insert(v));
        *self = fresh;
    }

    // Userspace: exact state for save and restore (KVM_{HAS,GET,SET}_DEVICE_ATTR).

    /// Whether userspace can name this register.
    pub fn has_user_register(&self, region: Region, offset: u64) -> bool {
        let there = if let Region::Its(n) = region { n < self.its.len() } else { true };
        there && has_user_register(self.config.version, self.config.nr_irqs, region, offset)
    }

    /// Adds an ITS (KVM_CREATE_DEVICE after the GIC was initialised). As in KVM, each one resets GICR_PROPBASER.
    pub fn add_its(&mut self, its: Its) -> Result<(), GicError> {
        if self.config.version == Version::V2 {
            return Err(GicError::ItsWithV2);
        }
        self.its.push(its);
        self.config.its = self.its.len();
        self.dist.has_lpis = true;
        self.dist.propbaser = INITIAL_BASER;
        for vcpu in 0..self.vcpus.count() {
            let lpis = self.config.dist.lpis;
            self.vcpus.with(vcpu, |r| r.has_lpis = lpis);
        }
        Ok(())
    }

    /// Puts an ITS with registers and mappings, such as userspace may set before the GIC exists, in the place of one.
    pub fn set_its(&mut self, n: usize, its: Its) -> Result<(), GicError> {
        *self.its.get_mut(n).ok_or(GicError::NoRegister)? = its;
        Ok(())
    }

    /// Userspace gave a vCPU another MPIDR_EL1. SPIs stay where they were routed.
    pub fn set_affinity(&mut self, vcpu: usize, affinity: Affinity) -> Result<(), GicError> {
        let known = self.config.vcpus.get_mut(vcpu).ok_or(GicError::NoVcpu(vcpu))?;
        *known = affinity;
        self.vcpus.with(vcpu, |r| r.affinity = affinity);
        self.dist.set_affinities(&self.config.vcpus);
        Ok(())
    }

    /// Reads a register for userspace: 4 bytes, 8 of an ITS. Unknown ones read as zero. `vcpu`
    /// matters for banked registers of a GICv2.
    pub fn user_read(&mut self, region: Region, vcpu: usize, offset: u64) -> u64 {
        match region {
            Region::Dist => self.dist.read(offset, 4, vcpu, By::User(vcpu), &mut self.vcpus),
            Region::Redist(of) => {
                let propbaser = self.dist.propbaser();
                self.vcpus.with(of, |r| r.frame_read(offset, 4, By::User(of), propbaser)).unwrap_or(0)
            }
            Region::Cpuif => self.vcpus.with(vcpu, |r| r.gicc_user_read(offset)).unwrap_or(0),
            Region::Its(n) => self.its.get(n).map_or(0, |its| its.user_read(offset)),
        }
    }

    /// Writes a register for userspace.
    pub fn user_write(
        &mut self,
        region: Region,
        vcpu: usize,
        offset: u64,
        value: u64,
        mem: &dyn GuestMemory,
    ) -> Result<(), GicError> {
        let propbaser = self.effective_propbaser();
        let done = match region {
            Region::Dist => self.dist.write(offset, 4, vcpu, value, By::User(vcpu), &mut self.vcpus),
            Region::Redist(of) => {
                self.redist_write(of, offset, 4, value, By::User(of), mem);
                Ok(())
            }
            Region::Cpuif => {
                self.vcpus.with(vcpu, |r| r.gicc_user_write(offset, value)).ok_or(GicError::NoVcpu(vcpu))
            }
            Region::Its(n) => match self.its.get_mut(n) {
                Some(its) => its.user_write(offset, value, propbaser, &mut self.vcpus, mem),
                None => Err(GicError::NoRegister),
            },
        };
        self.deliver();
        done
    }

    /// Reads a CPU interface register for userspace.
    pub fn user_sysreg_read(&mut self, vcpu: usize, reg: IccReg) -> Result<u64, GicError> {
        self.vcpus.with(vcpu, |r| r.icc_user_read(reg)).unwrap_or(Err(GicError::NoVcpu(vcpu)))
    }

    /// Writes a CPU interface register for userspace.
    pub fn user_sysreg_write(&mut self, vcpu: usize, reg: IccReg, value: u64) -> Result<(), GicError> {
        self.vcpus.with(vcpu, |r| r.icc_user_write(reg, value)).unwrap_or(Err(GicError::NoVcpu(vcpu)))
    }

    /// Levels of 32 lines from `first` on, as `vcpu` sees them (LEVEL_INFO).
    pub fn user_line_levels(&mut self, vcpu: usize, first: u32) -> u32 {
        (0..32).fold(0, |levels, i| {
            let intid = first.saturating_add(i);
            let line = match intid {
                0..FIRST_SPI => self.vcpus.with(vcpu, |r| r.irq(intid).is_some_and(|irq| irq.line)),
                _ => self.dist.peek(intid, &mut self.vcpus, |irq| irq.line),
            };
            levels | u32::from(line.unwrap_or(false)) << i
        })
    }

    /// Sets them, of level-sensitive and edge-triggered interrupts alike: the configuration may be
    /// restored later. SGIs have no line.
    pub fn set_user_line_levels(&mut self, vcpu: usize, first: u32, levels: u32) {
        for i in 0..32 {
            let (intid, level) = (first.saturating_add(i), levels >> i & 1 != 0);
            match intid {
                0..FIRST_PPI => {}
                FIRST_PPI..FIRST_SPI => {
                    self.vcpus.with(vcpu, |r| r.edit(intid, |irq| irq.line = level));
                }
                _ => {
                    self.dist.edit(intid, &mut self.vcpus, |irq| irq.line = level);
                }
            }
        }
    }

    /// Writes the LPI pending tables of all vCPUs to guest memory (SAVE_PENDING_TABLES).
    pub fn save_pending_tables(&mut self, mem: &dyn GuestMemory) -> Result<(), GicError> {
        for vcpu in 0..self.vcpus.count() {
            let saved = self.vcpus.with(vcpu, |r| r.save_pending_table(mem));
            if saved == Some(false) {
                return Err(GicError::Memory);
            }
        }
        Ok(())
    }

    /// Writes the mappings of an ITS to guest memory (KVM_DEV_ARM_ITS_SAVE_TABLES).
    pub fn its_save_tables(&mut self, its: usize, mem: &dyn GuestMemory) -> Result<(), GicError> {
        self.its.get(its).ok_or(GicError::NoRegister)?.save_tables(&mut self.vcpus, mem)
    }

    /// Reads them back (KVM_DEV_ARM_ITS_RESTORE_TABLES).
    pub fn its_restore_tables(&mut self, its: usize, mem: &dyn GuestMemory) -> Result<(), GicError> {
        let propbaser = self.dist.propbaser();
        let its = self.its.get_mut(its).ok_or(GicError::NoRegister)?;
        its.restore_tables(propbaser, &mut self.vcpus, mem)
    }

    /// Forgets the mappings and registers of an ITS (KVM_DEV_ARM_ITS_CTRL_RESET).
    pub fn its_reset(&mut self, its: usize) -> Result<(), GicError> {
        self.its.get_mut(its).ok_or(GicError::NoRegister)?.reset(&mut self.vcpus);
        Ok(())
    }
}

/// Whether userspace can name this register of a GIC with so many interrupts (KVM_HAS_DEVICE_ATTR, which works before
/// the GIC is initialised).
pub fn has_user_register(version: Version, nr_irqs: u32, region: Region, offset: u64) -> bool {
    match (region, version) {
        (Region::Dist, _) => crate::dist_regs::has_user_register(version, nr_irqs, offset),
        (Region::Redist(_), Version::V3) => has_user_redist_register(offset),
        (Region::Cpuif, Version::V2) => crate::gicc::has_user_register(offset),
        (Region::Its(_), Version::V3) => Its::has_user_register(offset),
        _ => false,
    }
}

/// Registers of a redistributor that KVM_HAS_DEVICE_ATTR finds. STATUSR is missing: the kernel's
/// sorted search misses it (recorded).
fn has_user_redist_register(offset: u64) -> bool {
    offset.is_multiple_of(4)
        && matches!(
            offset,
            0x00..=0x0f | 0x14 | 0x70..=0x7f | 0xa0..=0xa7 | 0xb0..=0xb7 | 0xc0..=0xc3 | 0xffd0..=0xffff
                | 0x10080 | 0x10100 | 0x10180 | 0x10200 | 0x10280 | 0x10300 | 0x10380
                | 0x10400..=0x1041f | 0x10c00..=0x10c07 | 0x10d00 | 0x10e00
        )
}
