//! Device state on its way to another machine: kind, version, payload.
//!
//! A payload is the module's `state::V1` (or later) in the encoding of postcard 1 (<https://postcard.jamesmunns.com>):
//! fields in their order, integers as varints. A new version is a new struct beside the old one, and a match here.

use crate::flash::{Array, Flash};
use crate::fw_cfg::FwCfgMmio;
use crate::pl011::Uart;
use crate::pl031::Rtc;
use crate::pl061::Gpio;
use crate::virtio::{VirtioDevice, VirtioMmio};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use vm_memory::GuestAddressSpace;

/// A saved state cannot be taken over.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Misfit {
    /// Of a version that this device does not know.
    #[error("state of version {0}, which this ulna does not know")]
    Version(u16),
    /// Bytes that are no state.
    #[error("its state cannot be read: {0}")]
    Bytes(String),
    /// A state that this device cannot have.
    #[error("{0}")]
    State(String),
}

/// A device whose state can be carried. Saving and restoring happen while no vCPU runs.
pub trait Carried: Send {
    /// What it is.
    fn kind(&self) -> String;
    /// Version of what [`Carried::save`] gives.
    fn version(&self) -> u16 {
        1
    }
    /// Ends what is under way and begins nothing new; a request is served whole or still in its ring.
    fn pause(&mut self) {}
    /// Goes on.
    fn resume(&mut self) {}
    /// The machine goes elsewhere (`true`) or is here: what only one machine may have, as a disk image, is given up or
    /// taken.
    fn lend(&mut self, _away: bool) -> std::io::Result<()> {
        Ok(())
    }
    /// Its state.
    fn save(&self) -> Vec<u8>;
    /// Takes over a state; guest memory must be there. A device that can pause stays paused.
    fn restore(&mut self, version: u16, payload: &[u8]) -> Result<(), Misfit>;
}

fn encode(state: &impl Serialize) -> Vec<u8> {
    // Only a type that serde cannot describe fails, and the states are structs of numbers.
    postcard::to_stdvec(state).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(version: u16, payload: &[u8]) -> Result<T, Misfit> {
    if version != 1 {
        return Err(Misfit::Version(version));
    }
    match postcard::take_from_bytes(payload) {
        Ok((state, [])) => Ok(state),
        Ok((_, rest)) => Err(Misfit::Bytes(format!("{} bytes too many", rest.len()))),
        Err(e) => Err(Misfit::Bytes(e.to_string())),
    }
}

impl Carried for Uart {
    fn kind(&self) -> String {
        "pl011".into()
    }
    fn save(&self) -> Vec<u8> {
        encode(&Uart::save(self))
    }
    fn restore(&mut self, version: u16, payload: &[u8]) -> Result<(), Misfit> {
        Uart::restore(self, &decode(version, payload)?);
        Ok(())
    }
}

impl Carried for Rtc {
    fn kind(&self) -> String {
        "pl031".into()
    }
    fn save(&self) -> Vec<u8> {
        encode(&Rtc::save(self))
    }
    fn restore(&mut self, version: u16, payload: &[u8]) -> Result<(), Misfit> {
        Rtc::restore(self, &decode(version, payload)?);
        Ok(())
    }
}

impl Carried for Gpio {
    fn kind(&self) -> String {
        "pl061".into()
    }
    fn save(&self) -> Vec<u8> {
        encode(&Gpio::save(self))
    }
    fn restore(&mut self, version: u16, payload: &[u8]) -> Result<(), Misfit> {
        Gpio::restore(self, &decode(version, payload)?);
        Ok(())
    }
}

impl<M: GuestAddressSpace + Send> Carried for FwCfgMmio<M> {
    fn kind(&self) -> String {
        "fw_cfg".into()
    }
    fn save(&self) -> Vec<u8> {
        encode(&FwCfgMmio::save(self))
    }
    fn restore(&mut self, version: u16, payload: &[u8]) -> Result<(), Misfit> {
        FwCfgMmio::restore(self, &decode(version, payload)?);
        Ok(())
    }
}

impl<A: Array> Carried for Flash<A> {
    fn kind(&self) -> String {
        "flash".into()
    }
    fn save(&self) -> Vec<u8> {
        encode(&Flash::save(self))
    }
    fn restore(&mut self, version: u16, payload: &[u8]) -> Result<(), Misfit> {
        Flash::restore(self, &decode(version, payload)?);
        Ok(())
    }
}

impl<D, M> Carried for VirtioMmio<D, M>
where
    D: VirtioDevice,
    M: GuestAddressSpace + Send + Sync + 'static,
    M::T: 'static,
{
    fn kind(&self) -> String {
        format!("virtio-mmio:{}", self.name())
    }
    fn pause(&mut self) {
        self.handle().pause();
    }
    fn resume(&mut self) {
        self.handle().resume();
    }
    fn lend(&mut self, away: bool) -> std::io::Result<()> {
        self.handle().with_device(|d| d.lend(away))
    }
    fn save(&self) -> Vec<u8> {
        encode(&VirtioMmio::save(self))
    }
    fn restore(&mut self, version: u16, payload: &[u8]) -> Result<(), Misfit> {
        VirtioMmio::restore(self, &decode(version, payload)?).map_err(|e| Misfit::State(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmio::testing::Probe;
    use crate::{MmioDevice, fw_cfg};
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::time::Duration;
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    fn ram() -> Arc<GuestMemoryMmap<()>> {
        Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x2000)]).unwrap())
    }

    /// One of each kind, as after reset.
    fn devices() -> Vec<Box<dyn Carried>> {
        use crate::virtio::{Service, rng};
        let rng = rng::Rng::new(Box::new(rng::HostEntropy));
        vec![
            Box::new(Uart::new(Box::new(Vec::new()), Probe::new())),
            Box::new(Rtc::new(Box::new(|| Duration::from_secs(1000)), Probe::new())),
            Box::new(Gpio::new(Probe::new())),
            Box::new(FwCfgMmio::new(fw_cfg::Items::default().item(7, b"seven".as_slice()), ram())),
            Box::new(VirtioMmio::new(rng, ram(), Probe::new(), Service::Inline).unwrap()),
        ]
    }

    #[test]
    fn a_state_is_taken_over_whole() {
        let mut uart = Uart::new(Box::new(Vec::new()), Probe::new());
        uart.write(0x2c, &0x70u32.to_le_bytes());
        uart.receive(b"typed, and not read");
        let probe = Probe::new();
        let mut other = Uart::new(Box::new(Vec::new()), probe.clone());
        other.write(0x38, &0x7ffu32.to_le_bytes());
        Carried::restore(&mut other, 1, &Carried::save(&uart)).unwrap();
        assert_eq!(Uart::save(&other), Uart::save(&uart));
        assert!(probe.calls() > 0, "the interrupt controller is told the level");

        let mut cfg = FwCfgMmio::new(fw_cfg::Items::default().item(7, b"seven".as_slice()), ram());
        cfg.write(8, &7u16.to_be_bytes());
        cfg.read(0, &mut [0; 2]);
        let mut other = FwCfgMmio::new(fw_cfg::Items::default().item(7, b"seven".as_slice()), ram());
        Carried::restore(&mut other, 1, &Carried::save(&cfg)).unwrap();
        let mut b = [0; 3];
        other.read(0, &mut b);
        assert_eq!(&b, b"ven");
    }

    #[test]
    fn every_kind_saves_what_it_restored_and_refuses_other_versions_and_lengths() {
        for (mut a, mut b) in devices().into_iter().zip(devices()) {
            let kind = a.kind();
            let state = a.save();
            b.restore(1, &state).unwrap();
            assert_eq!(b.save(), state, "{kind}");
            assert_eq!(a.restore(2, &state), Err(Misfit::Version(2)), "{kind}");
            let long = [state.clone(), vec![0]].concat();
            assert!(matches!(a.restore(1, &long), Err(Misfit::Bytes(_))), "{kind}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn any_bytes_are_a_state_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            for mut d in devices() {
                if d.restore(1, &bytes).is_ok() {
                    let state = d.save();
                    prop_assert_eq!(d.restore(1, &state), Ok(()));
                }
            }
        }
    }
}
