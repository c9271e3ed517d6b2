//! Requests on a device (kvm-arm64-abi.md §1.5, §10.2).

use ulna_kvm_abi::device::*;
use ulna_kvm_abi::ioctl::request;

use super::Caller;
use crate::{Device, Result};

/// How long the value of an attribute is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    None,
    U32,
    U64,
}

fn width(group: u32) -> Width {
    match group {
        GRP_ADDR | GRP_ITS_REGS | GRP_CPU_SYSREGS => Width::U64,
        GRP_DIST_REGS | GRP_CPU_REGS | GRP_NR_IRQS | GRP_REDIST_REGS | GRP_LEVEL_INFO => Width::U32,
        _ => Width::None,
    }
}

fn fetch(width: Width, addr: u64, caller: &Caller<'_>) -> Result<u64> {
    match width {
        Width::None => Ok(0),
        Width::U32 => caller.get::<u32>(addr).map(u64::from),
        Width::U64 => caller.get::<u64>(addr),
    }
}

pub(super) fn serve(d: &Device, req: u32, arg: u64, caller: &Caller<'_>) -> Result<i32> {
    let a = caller.attr(arg)?;
    let width = width(a.group);
    match req {
        request::SET_DEVICE_ATTR => match fetch(width, a.addr, caller) {
            Ok(value) => d.set_attr(a.group, a.attr, value)?,
            Err(fault) => {
                d.refused_unread(a.group, a.attr)?;
                return Err(fault);
            }
        },
        request::GET_DEVICE_ATTR => {
            // A region of redistributors is asked for by its index.
            let given = if (a.group, a.attr) == (GRP_ADDR, V3_ADDR_TYPE_REDIST_REGION) {
                fetch(width, a.addr, caller)?
            } else {
                0
            };
            let value = d.get_attr(a.group, a.attr, given)?;
            match width {
                Width::None => {}
                Width::U32 => caller.put(a.addr, &(value as u32))?,
                Width::U64 => caller.put(a.addr, &value)?,
            }
        }
        _ => d.has_attr(a.group, a.attr)?,
    }
    Ok(0)
}
