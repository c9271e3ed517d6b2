//! GSI routing (kvm-arm64-abi.md §10.8): what a number of an irqfd stands for.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use ulna_kvm_abi::Errno;
use ulna_kvm_abi::structs::IrqRoutingEntry;
use ulna_vgic::Region;

use crate::Result;
use crate::gic::GicState;
use crate::memory::Tables;
use crate::vm::{Vm, VmInner};

/// KVM_MAX_IRQ_ROUTES.
pub(crate) const MAX_ROUTES: u32 = 4096;
/// KVM_IRQ_ROUTING_IRQCHIP.
const IRQCHIP: u32 = 1;
/// KVM_IRQ_ROUTING_MSI.
const MSI: u32 = 2;
/// KVM_MSI_VALID_DEVID.
const VALID_DEVID: u32 = 1;
/// KVM_IRQCHIP_NUM_PINS: all SPIs.
const PINS: u32 = 1020 - 32;
const FIRST_SPI: u32 = 32;

/// Where a GSI goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// SPI `32 + n`.
    Pin(u32),
    /// To the ITS with this doorbell; `None`: without a device, which no ITS takes.
    Msi { doorbell: u64, data: u32, devid: Option<u32> },
}

/// The table of a VM.
#[derive(Debug, Default)]
pub(crate) enum Table {
    /// Nothing yet.
    #[default]
    Empty,
    /// GSI n is pin n, for so many.
    Default(u32),
    /// What the VMM set.
    Set(BTreeMap<u32, Vec<Route>>),
}

impl Table {
    fn routes(&self, gsi: u32) -> Vec<Route> {
        match self {
            Table::Default(n) if gsi < *n => vec![Route::Pin(gsi)],
            Table::Set(t) => t.get(&gsi).cloned().unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// How many routes a GSI has.
    pub fn count(&self, gsi: u32) -> usize {
        match self {
            Table::Default(n) => usize::from(gsi < *n),
            Table::Set(t) => t.get(&gsi).map_or(0, Vec::len),
            Table::Empty => 0,
        }
    }

    /// The GSI of a pin: of several, the last.
    pub fn gsi_of_pin(&self, pin: u32) -> Option<u32> {
        match self {
            Table::Default(n) => (pin < *n).then_some(pin),
            Table::Set(t) => t.iter().rev().find(|(_, r)| r.contains(&Route::Pin(pin))).map(|(gsi, _)| *gsi),
            Table::Empty => None,
        }
    }

    /// The SPIs of a GSI.
    pub fn spis(&self, gsi: u32) -> Vec<u32> {
        let spi = |r| if let Route::Pin(p) = r { Some(p + FIRST_SPI) } else { None };
        self.routes(gsi).into_iter().filter_map(spi).collect()
    }

    fn parse(entries: &[IrqRoutingEntry]) -> Result<Table> {
        if entries.len() > MAX_ROUTES as usize || entries.iter().any(|e| e.gsi >= MAX_ROUTES) {
            return Err(Errno::EINVAL
                .because("there are {} GSIs and as many routes")
                .value(MAX_ROUTES.into()));
        }
        let mut table: BTreeMap<u32, Vec<Route>> = BTreeMap::new();
        for e in entries {
            let [a, b, data, devid, ..] = e.u;
            let known = if e.kind == MSI { e.flags & !VALID_DEVID == 0 } else { e.flags == 0 };
            let here = table.entry(e.gsi).or_default();
            // A GSI is one MSI, or one pin of each of the interrupt controllers, of which there is one.
            if !known {
                return Err(Errno::EINVAL
                    .because("GSI {}: the route's flags are {x}")
                    .values([e.gsi.into(), e.flags.into()]));
            }
            if !here.is_empty() {
                return Err(Errno::EINVAL.because("GSI {} has a route already").value(e.gsi.into()));
            }
            here.push(match e.kind {
                IRQCHIP if a == 0 && b < PINS => Route::Pin(b),
                MSI => Route::Msi {
                    doorbell: u64::from(b) << 32 | u64::from(a),
                    data,
                    devid: (e.flags & VALID_DEVID != 0).then_some(devid),
                },
                _ => {
                    let values = [e.gsi.into(), u64::from(PINS) - 1];
                    return Err(Errno::EINVAL
                        .because("GSI {}: a pin (to {}) of controller 0, or an MSI")
                        .values(values));
                }
            });
        }
        Ok(Table::Set(table))
    }
}

/// The table and its lock.
#[derive(Default)]
pub(crate) struct Routing(RwLock<Table>);

impl Routing {
    pub fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, t: Table) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = t;
    }

    /// What initialising an interrupt controller with so many SPIs sets.
    pub fn set_default(&self, spis: u32) {
        self.replace(Table::Default(spis));
    }
}

impl VmInner {
    /// A message to the ITS with this doorbell: whether the guest takes it.
    pub fn send_msi(&self, g: &mut GicState, doorbell: u64, devid: u32, data: u32) -> Result<bool> {
        let Some((Region::Its(its), _)) = g.frame(doorbell) else {
            return Err(Errno::EINVAL.because("{x} is the address of no ITS").value(doorbell));
        };
        match g.gic.inject_msi(its, devid, data, &Tables(&self.memory)) {
            Ok(()) => Ok(true),
            Err(ulna_vgic::MsiError::ItsDisabled | ulna_vgic::MsiError::LpisDisabled) => {
                Err(Errno::EBUSY.because("the guest has not enabled the ITS or its LPIs"))
            }
            Err(_) => Ok(false),
        }
    }

    /// Sets a GSI to `level`; a message is sent when it rises.
    pub fn set_gsi(&self, gsi: u32, level: bool) {
        let routes = self.routing.read().routes(gsi);
        for r in routes {
            self.with_gic(|g| match r {
                // Lines that the interrupt controller does not have go nowhere.
                Route::Pin(p) => {
                    g.set_line(None, p + FIRST_SPI, level);
                }
                Route::Msi { doorbell, data, devid: Some(devid) } if level => {
                    let _ = self.send_msi(g, doorbell, devid, data);
                }
                Route::Msi { .. } => {}
            });
        }
    }
}

impl Vm {
    /// KVM_SET_GSI_ROUTING: replaces the whole table.
    pub fn set_gsi_routing(&self, flags: u32, entries: &[IrqRoutingEntry]) -> Result<()> {
        self.0.check_alive()?;
        if flags != 0 {
            return Err(Errno::EINVAL.because("kvm_irq_routing.flags is {x}, not zero").value(flags.into()));
        }
        let table = Table::parse(entries)?;
        self.0.routing.replace(table);
        self.0.watch_resampled();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(gsi: u32, kind: u32, flags: u32, u: [u32; 4]) -> IrqRoutingEntry {
        let mut e = IrqRoutingEntry { gsi, kind, flags, ..IrqRoutingEntry::default() };
        e.u[..4].copy_from_slice(&u);
        e
    }

    #[test]
    fn tables_are_checked_as_a_whole() {
        let bad = |e: &[IrqRoutingEntry]| assert_eq!(Table::parse(e).err(), Some(Errno::EINVAL), "{e:x?}");
        let pin = |gsi, p| entry(gsi, IRQCHIP, 0, [0, p, 0, 0]);
        bad(&[pin(4096, 0)]);
        bad(&[pin(0, 988)]);
        bad(&[pin(0, 1), pin(0, 2)]);
        bad(&[entry(0, IRQCHIP, 0, [1, 0, 0, 0])]);
        bad(&[entry(0, IRQCHIP, 1, [0; 4])]);
        bad(&[entry(0, MSI, 2, [0; 4])]);
        bad(&[entry(0, 3, 0, [0; 4])]);
        bad(&[pin(0, 1), entry(0, MSI, 1, [0; 4])]);
        bad(&[entry(0, MSI, 1, [0; 4]), pin(0, 1)]);
        let t = Table::parse(&[pin(5, 9), pin(6, 9), entry(7, MSI, 1, [0x1000, 2, 3, 4])]).unwrap();
        assert_eq!((t.routes(5), t.spis(6), t.routes(8)), (vec![Route::Pin(9)], vec![41], vec![]));
        assert_eq!(t.routes(7), [Route::Msi { doorbell: 0x2_0000_1000, data: 3, devid: Some(4) }]);
        assert_eq!((t.gsi_of_pin(9), t.gsi_of_pin(5)), (Some(6), None));
        assert_eq!(
            (Table::Default(32).routes(31), Table::Default(32).routes(32)),
            (vec![Route::Pin(31)], vec![])
        );
        assert_eq!(Table::Empty.gsi_of_pin(0), None);
    }
}
