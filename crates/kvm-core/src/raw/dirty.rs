//! Requests on a VM about what its guest wrote, and about routes: their arrays are in the caller's memory.

use ulna_kvm_abi::Errno;
use ulna_kvm_abi::structs::{ClearDirtyLog, DirtyLog, IrqRouting, IrqRoutingEntry, Wire};

use super::{Caller, NOTHING_BEHIND};
use crate::routing::MAX_ROUTES;
use crate::{Result, Vm};

/// KVM_GET_DIRTY_LOG. Nothing is marked clean that cannot be told.
pub(super) fn get_log(v: &Vm, arg: u64, caller: &Caller<'_>) -> Result<()> {
    let l = caller.get::<DirtyLog>(arg)?;
    caller.tidy(l.padding == 0)?;
    let bytes = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    caller.write(l.dirty_bitmap, &bytes(&v.peek_dirty_log(l.slot)?))?;
    caller.write(l.dirty_bitmap, &bytes(&v.get_dirty_log(l.slot)?))
}

/// KVM_CLEAR_DIRTY_LOG.
pub(super) fn clear_log(v: &Vm, arg: u64, caller: &Caller<'_>) -> Result<()> {
    let c = caller.get::<ClearDirtyLog>(arg)?;
    v.clear_dirty_log(&c, |words| {
        let mut b = vec![0; words * 8];
        caller.read(c.dirty_bitmap, &mut b)?;
        Ok(b.chunks_exact(8).map(u64::from_bytes).collect())
    })
}

/// KVM_SET_GSI_ROUTING: entries follow the structure.
pub(super) fn set_routing(v: &Vm, arg: u64, caller: &Caller<'_>) -> Result<()> {
    let r = caller.get::<IrqRouting>(arg)?;
    if r.nr > MAX_ROUTES || r.flags != 0 {
        let e = Errno::EINVAL.because("{} routes, flags {x}: too many, or flags that are not zero");
        return Err(e.values([r.nr.into(), r.flags.into()]));
    }
    let mut b = vec![0; r.nr as usize * IrqRoutingEntry::SIZE];
    if !b.is_empty() {
        caller.read(arg.checked_add(IrqRouting::SIZE as u64).ok_or(NOTHING_BEHIND)?, &mut b)?;
    }
    let entries: Vec<_> = b.chunks_exact(IrqRoutingEntry::SIZE).map(IrqRoutingEntry::from_bytes).collect();
    entries.iter().try_for_each(|e| caller.tidy(e.pad == 0))?;
    v.set_gsi_routing(r.flags, &entries)
}
