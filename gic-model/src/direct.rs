//! The software GIC by itself.

use ulna_vgic::{Affinity, Gic, GicConfig, IccReg, NoMemory, Region, Version};

use crate::model::Identity;
use crate::{Frame, Sysreg, Taken, Target};

/// A GIC without a machine around it.
pub struct Direct {
    gic: Gic,
    config: GicConfig,
}

impl Direct {
    /// One as the model is.
    pub fn new(id: &Identity) -> Result<Direct, String> {
        let vcpus = id.affinity.iter().map(|a| Affinity(*a)).collect();
        let mut config = GicConfig::new(Version::V3, vcpus, id.intids);
        (config.pri_bits, config.id_bits) = (id.pri_bits as u8, id.id_bits as u8);
        (config.seis, config.a3v) = (id.seis, id.a3v);
        let gic = Gic::new(config.clone()).map_err(|e| e.to_string())?;
        Ok(Direct { gic, config })
    }
}

fn region(frame: Frame) -> Region {
    match frame {
        Frame::Dist => Region::Dist,
        Frame::Redist(n) => Region::Redist(n),
    }
}

impl Target for Direct {
    fn load(&mut self, cpu: usize, frame: Frame, offset: u64, size: usize) -> Result<u64, String> {
        Ok(self.gic.mmio_read(region(frame), cpu, offset, size))
    }

    fn store(
        &mut self,
        cpu: usize,
        frame: Frame,
        offset: u64,
        size: usize,
        value: u64,
    ) -> Result<(), String> {
        self.gic.mmio_write(region(frame), cpu, offset, size, value, &NoMemory);
        Ok(())
    }

    fn mrs(&mut self, cpu: usize, reg: u16) -> Result<Sysreg, String> {
        let known = IccReg::from_packed(reg).filter(|r| r.readable() && self.gic.sysreg_exists(*r));
        Ok(known.map_or(Sysreg::Undefined, |r| Sysreg::Done(self.gic.sysreg_read(cpu, r))))
    }

    fn msr(&mut self, cpu: usize, reg: u16, value: u64) -> Result<Sysreg, String> {
        let known = IccReg::from_packed(reg).filter(|r| r.writable() && self.gic.sysreg_exists(*r));
        Ok(known.map_or(Sysreg::Undefined, |r| {
            self.gic.sysreg_write(cpu, r, value);
            Sysreg::Done(0)
        }))
    }

    fn line(&mut self, cpu: usize, intid: u32, level: bool) -> Result<(), String> {
        let done = match intid {
            0..16 => Ok(()),
            16..32 => self.gic.set_ppi(cpu, intid, level),
            _ => self.gic.set_spi(intid, level),
        };
        done.map_err(|e| e.to_string())
    }

    fn window(&mut self, cpu: usize) -> Result<Taken, String> {
        let l = self.gic.lines(cpu);
        Ok(match (l.irq, l.fiq) {
            (true, false) => Taken::Irq,
            (false, true) => Taken::Fiq,
            (false, false) => Taken::Nothing,
            (true, true) => return Err("IRQ and FIQ at once".into()),
        })
    }

    fn migrate(&mut self) -> Result<(), String> {
        let state = self.gic.state();
        let mut other = Gic::new(self.config.clone()).map_err(|e| e.to_string())?;
        other.set_state(&state).map_err(|e| e.to_string())?;
        self.gic = other;
        Ok(())
    }
}
