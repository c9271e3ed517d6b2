//! The whole interrupt controller: owns the parts, routes accesses, tells whose lines changed.

use crate::{GicConfig, GicError, GuestMemory, IccReg, Lines, MsiError, Region, VcpuSet};

/// A GICv2 or GICv3 with everything in it.
#[derive(Debug)]
pub struct Gic {
    config: GicConfig,
    changed: VcpuSet,
}

impl Gic {
    /// A GIC in its reset state.
    pub fn new(config: GicConfig) -> Result<Gic, GicError> {
        config.check()?;
        Ok(Gic { config, changed: VcpuSet::default() })
    }

    /// What it was made of.
    pub fn config(&self) -> &GicConfig {
        &self.config
    }

    /// A guest's load by `vcpu`. Accesses that KVM does not know (size, offset) read as zero.
    pub fn mmio_read(&mut self, region: Region, vcpu: usize, offset: u64, size: usize) -> u64 {
        let _ = (region, vcpu, offset, size);
        0
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
        let _ = (region, vcpu, offset, size, value, mem);
    }

    /// Whether the guest has this register; MRS and MSR of others are UNDEFINED.
    pub fn sysreg_exists(&self, reg: IccReg) -> bool {
        let _ = reg;
        true
    }

    /// A guest's MRS by `vcpu`. Write-only registers read as zero.
    pub fn sysreg_read(&mut self, vcpu: usize, reg: IccReg) -> u64 {
        let _ = (vcpu, reg);
        0
    }

    /// A guest's MSR by `vcpu`. Writes of read-only registers are ignored.
    pub fn sysreg_write(&mut self, vcpu: usize, reg: IccReg, value: u64) {
        let _ = (vcpu, reg, value);
    }

    /// Drives the line of SPI `intid` (32 and up). An edge-triggered SPI latches `true`.
    pub fn set_spi(&mut self, intid: u32, level: bool) -> Result<(), GicError> {
        let _ = (intid, level);
        Ok(())
    }

    /// Drives the line of PPI `intid` (16 to 31) of `vcpu`.
    pub fn set_ppi(&mut self, vcpu: usize, intid: u32, level: bool) -> Result<(), GicError> {
        let _ = (vcpu, intid, level);
        Ok(())
    }

    /// A device's write of `event` to the translation register of ITS number `its`.
    pub fn inject_msi(
        &mut self,
        its: usize,
        device: u32,
        event: u32,
        mem: &dyn GuestMemory,
    ) -> Result<(), MsiError> {
        let _ = (its, device, event, mem);
        Err(MsiError::NoIts)
    }

    /// The interrupt inputs of `vcpu`.
    pub fn lines(&self, vcpu: usize) -> Lines {
        let _ = vcpu;
        Lines::default()
    }

    /// vCPUs whose [`Gic::lines`] may have changed since the last call.
    pub fn take_changed(&mut self) -> VcpuSet {
        self.changed.take()
    }

    /// Whether a level-triggered SPI's deactivation is to be reported by [`Gic::take_eois`]
    /// (irqfd with resample).
    pub fn set_notify_eoi(&mut self, intid: u32, on: bool) -> Result<(), GicError> {
        let _ = (intid, on);
        Ok(())
    }

    /// SPIs that were deactivated since the last call, of those asked for.
    pub fn take_eois(&mut self) -> Vec<u32> {
        Vec::new()
    }

    /// States whether this vCPU's redistributor is the last of its run of frames
    /// (GICR_TYPER.Last). Without a call only the last vCPU's is.
    pub fn set_redist_last(&mut self, vcpu: usize, last: bool) -> Result<(), GicError> {
        let _ = (vcpu, last);
        Ok(())
    }

    /// Back to the state after [`Gic::new`], lines as they are driven.
    pub fn reset(&mut self) {}
}
