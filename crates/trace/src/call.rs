//! Requests by name and their arguments by field.

use ulna_kvm_abi::ioctl::{Arg, Ioctl, request as req};
use ulna_kvm_abi::structs::*;
use ulna_kvm_abi::{Errno, RegId};

use crate::{CallRecord, Fd, attr, exit, mem, names};

const MEM_FLAGS: &[(u32, &str)] = &[(1, "LOG_DIRTY_PAGES"), (2, "READONLY"), (4, "GUEST_MEMFD")];
const IRQFD_FLAGS: &[(u32, &str)] = &[(1, "DEASSIGN"), (2, "RESAMPLE")];
const IOEVENTFD_FLAGS: &[(u32, &str)] = &[(1, "DATAMATCH"), (2, "PIO"), (4, "DEASSIGN")];
const DEBUG_FLAGS: &[(u32, &str)] =
    &[(1, "ENABLE"), (2, "SINGLESTEP"), (0x1_0000, "USE_SW_BP"), (0x2_0000, "USE_HW")];

/// The call as a line, without time and thread.
pub fn line(r: &CallRecord<'_>) -> String {
    let Some(ioctl) = Ioctl::find(r.request, r.fd.kind()) else {
        let bits = r.request;
        return format!(
            "{}: ioctl {bits:#x} (type {:#x}, number {:#x}, {} bytes)({:#x}){}",
            r.fd,
            bits >> 8 & 0xff,
            bits & 0xff,
            bits >> 16 & 0x3fff,
            r.arg,
            result(r)
        );
    };
    let args = arguments(r, ioctl);
    format!("{}: KVM_{}({args}){}", r.fd, ioctl.name, result(r))
}

fn result(r: &CallRecord<'_>) -> String {
    let run = |s: String| match r.run {
        // A refusal before anything ran leaves the page as it was.
        Some((_, after)) if r.request == req::RUN => match r.result {
            Err(e) if e != Errno::EINTR => s,
            _ => format!("{s}, {}", exit::describe(after)),
        },
        _ => s,
    };
    match (&r.result, r.opened) {
        (Ok(n), Some(fd)) => format!(" = {n}, {fd}"),
        (Ok(n), None) => run(format!(" = {n}")),
        (Err(e), _) => run(format!(" = {e}")),
    }
}

/// The structure at the argument, as it was read.
fn given<T: Wire>(r: &CallRecord<'_>) -> Option<T> {
    mem::get(r.read, r.arg)
}

/// As it was written.
fn answer<T: Wire>(r: &CallRecord<'_>) -> Option<T> {
    if r.result.is_ok() { mem::get(r.written, r.arg) } else { None }
}

fn arguments(r: &CallRecord<'_>, ioctl: &Ioctl) -> String {
    structured(r).unwrap_or_else(|| match ioctl.arg {
        Arg::Ignored | Arg::Zero if r.arg == 0 => String::new(),
        Arg::Number => r.arg.to_string(),
        _ if r.arg == 0 => "NULL".into(),
        _ => format!("{:#x}", r.arg),
    })
}

/// Arguments whose structure is known; `None` where it could not be read.
fn structured(r: &CallRecord<'_>) -> Option<String> {
    match r.fd {
        Fd::Kvm => system(r),
        Fd::Vm(_) => vm(r).or_else(|| attributes(r)),
        Fd::Vcpu(..) => vcpu(r).or_else(|| attributes(r)),
        Fd::Device(..) => attributes(r),
        Fd::Stats => None,
    }
}

fn extension(r: &CallRecord<'_>) -> String {
    u32::try_from(r.arg).map_or_else(|_| format!("{:#x}", r.arg), |n| names::capability(n).into_owned())
}

fn system(r: &CallRecord<'_>) -> Option<String> {
    match r.request {
        req::CREATE_VM if r.arg == 0 => Some("40 bits of addresses".into()),
        req::CREATE_VM if r.arg < 256 => Some(format!("{} bits of addresses", r.arg)),
        req::CREATE_VM => Some(format!("type {:#x}", r.arg)),
        req::CHECK_EXTENSION => Some(extension(r)),
        _ => None,
    }
}

fn vm(r: &CallRecord<'_>) -> Option<String> {
    Some(match r.request {
        req::CHECK_EXTENSION => extension(r),
        req::CREATE_VCPU => format!("{}", r.arg as u32),
        req::SET_USER_MEMORY_REGION => slot(&given(r)?, ""),
        req::SET_USER_MEMORY_REGION2 => {
            let m = given::<UserspaceMemoryRegion2>(r)?;
            let UserspaceMemoryRegion2 {
                slot: n, flags, guest_phys_addr, memory_size, userspace_addr, ..
            } = m;
            let fd = if flags & 4 != 0 {
                format!(", guest_memfd {} from {:#x}", m.guest_memfd, m.guest_memfd_offset)
            } else {
                String::new()
            };
            slot(&UserspaceMemoryRegion { slot: n, flags, guest_phys_addr, memory_size, userspace_addr }, &fd)
        }
        req::IRQ_LINE | req::IRQ_LINE_STATUS => irq_line(&given(r)?),
        req::GET_DIRTY_LOG => {
            let l = given::<DirtyLog>(r)?;
            let pages = mem::bytes(r.written, l.dirty_bitmap, usize::MAX).map(ones);
            let pages = pages.map_or_else(String::new, |n| format!(" -> {n} dirty"));
            format!("slot {}, bitmap {:#x}{pages}", l.slot, l.dirty_bitmap)
        }
        req::CLEAR_DIRTY_LOG => {
            let c = given::<ClearDirtyLog>(r)?;
            let pages = mem::bytes(r.read, c.dirty_bitmap, usize::MAX).map(ones);
            let pages = pages.map_or_else(String::new, |n| format!(", {n} to clear"));
            format!("slot {}, {} pages from {:#x}{pages}", c.slot, c.num_pages, c.first_page)
        }
        req::REGISTER_COALESCED_MMIO | req::UNREGISTER_COALESCED_MMIO => {
            let z = given::<CoalescedMmioZone>(r)?;
            let pio = if z.pio != 0 { ", PIO" } else { "" };
            format!("{:#x}+{:#x}{pio}", z.addr, z.size)
        }
        req::SET_GSI_ROUTING => routes(r)?,
        req::IRQFD => {
            let i = given::<IrqFd>(r)?;
            let again = if i.flags & 2 != 0 {
                format!(", resample fd {}", i.resamplefd as i32)
            } else {
                String::new()
            };
            format!(
                "fd {}, GSI {}, flags = {}{again}",
                i.fd as i32,
                i.gsi,
                names::flags(i.flags, IRQFD_FLAGS)
            )
        }
        req::IOEVENTFD => {
            let e = given::<IoEventFd>(r)?;
            let value = if e.flags & 1 != 0 { format!(", value {:#x}", e.datamatch) } else { String::new() };
            let flags = names::flags(e.flags, IOEVENTFD_FLAGS);
            format!("fd {}, {} bytes at {:#x}{value}, flags = {flags}", e.fd, e.len, e.addr)
        }
        req::ENABLE_CAP => {
            let c = given::<EnableCap>(r)?;
            let used = c.args.iter().rposition(|a| *a != 0).map_or(0, |n| n + 1);
            let args: Vec<String> = c.args[..used].iter().map(|a| format!("{a:#x}")).collect();
            let flags = if c.flags != 0 { format!(", flags = {:#x}", c.flags) } else { String::new() };
            format!("{}, [{}]{flags}", names::capability(c.cap), args.join(", "))
        }
        req::SIGNAL_MSI => {
            let m = given::<Msi>(r)?;
            let device = if m.flags & 1 != 0 { format!(", device {:#x}", m.devid) } else { String::new() };
            format!("{:#x} at {:#x}{device}", m.data, u64::from(m.address_hi) << 32 | u64::from(m.address_lo))
        }
        req::ARM_SET_DEVICE_ADDR => {
            let a = given::<ArmDeviceAddr>(r)?;
            let what = match (a.id >> 16, a.id & 0xffff) {
                (0, 0) => "v2 distributor".into(),
                (0, 1) => "v2 CPU interface".into(),
                _ => format!("{:#x}", a.id),
            };
            format!("{what} = {:#x}", a.addr)
        }
        req::ARM_PREFERRED_TARGET => match answer::<VcpuInit>(r) {
            Some(i) => format!("-> {}", init(&i)),
            None => format!("{:#x}", r.arg),
        },
        req::ARM_SET_COUNTER_OFFSET => {
            let c = given::<ArmCounterOffset>(r)?;
            let odd = if c.reserved != 0 { format!(", reserved {:#x}", c.reserved) } else { String::new() };
            format!("{:#x}{odd}", c.counter_offset)
        }
        req::ARM_GET_REG_WRITABLE_MASKS => {
            let m = given::<RegMaskRange>(r)?;
            let odd = if m.reserved.iter().any(|w| *w != 0) {
                format!(", reserved {:x?}", m.reserved)
            } else {
                String::new()
            };
            format!("range {}{odd}", m.range)
        }
        req::ARM_MTE_COPY_TAGS => {
            let c = given::<ArmCopyMteTags>(r)?;
            let way = if c.flags & 1 == 0 { "to guest" } else { "from guest" };
            format!("{:#x}+{:#x}, {way}", c.guest_ipa, c.length)
        }
        req::GET_REG_LIST => reg_list(r)?,
        req::CREATE_DEVICE => {
            let c = given::<CreateDevice>(r)?;
            let flags = match c.flags {
                0 => String::new(),
                f => format!(", flags = {}", names::flags(f, &[(1, "TEST")])),
            };
            let made = match answer::<CreateDevice>(r) {
                Some(a) if c.flags & 1 == 0 => format!(" -> fd {}", a.fd as i32),
                _ => String::new(),
            };
            format!("{}{flags}{made}", names::device(c.type_))
        }
        _ => return None,
    })
}

fn slot(m: &UserspaceMemoryRegion, more: &str) -> String {
    let space = if m.slot >> 16 != 0 { format!(" of space {}", m.slot >> 16) } else { String::new() };
    let n = m.slot & 0xffff;
    if m.memory_size == 0 {
        return format!("slot {n}{space}, nothing");
    }
    format!(
        "slot {n}{space}, {:#x}+{:#x} from {:#x}, flags = {}{more}",
        m.guest_phys_addr,
        m.memory_size,
        m.userspace_addr,
        names::flags(m.flags, MEM_FLAGS)
    )
}

fn irq_line(l: &IrqLevel) -> String {
    let vcpu = (l.irq >> 28) * 256 + (l.irq >> 16 & 0xff);
    let n = l.irq & 0xffff;
    let what = match l.irq >> 24 & 15 {
        0 => format!("{} of vCPU {vcpu}", if n == 1 { "FIQ" } else { "IRQ" }),
        1 => format!("SPI, INTID {n}"),
        2 => format!("PPI, INTID {n} of vCPU {vcpu}"),
        k => format!("type {k}, {n}"),
    };
    format!("{what}, level {}", l.level)
}

fn ones(b: &[u8]) -> u32 {
    b.iter().map(|b| b.count_ones()).sum()
}

fn routes(r: &CallRecord<'_>) -> Option<String> {
    let head = given::<IrqRouting>(r)?;
    let all = mem::bytes(r.read, r.arg.wrapping_add(8), usize::MAX).unwrap_or(&[]);
    const MOST: usize = 4;
    let some = all.chunks_exact(IrqRoutingEntry::SIZE).take((head.nr as usize).min(MOST));
    let mut texts: Vec<String> = some
        .map(IrqRoutingEntry::from_bytes)
        .map(|e| match e.kind {
            1 => format!("{} = pin {}", e.gsi, e.u[1]),
            2 => {
                let at = u64::from(e.u[1]) << 32 | u64::from(e.u[0]);
                format!("{} = MSI {:#x} at {at:#x} device {:#x}", e.gsi, e.u[2], e.u[3])
            }
            k => format!("{} = type {k}", e.gsi),
        })
        .collect();
    if head.nr as usize > MOST {
        texts.push("...".into());
    }
    Some(format!("{} routes: {}", head.nr, texts.join(", ")))
}

fn init(i: &VcpuInit) -> String {
    let target = if i.target == 5 { "GENERIC_V8".into() } else { format!("target {}", i.target as i32) };
    let bits = (0..7 * 32).filter(|b| i.features[b / 32] >> (b % 32) & 1 != 0);
    let bits: Vec<_> = bits.map(|b| names::vcpu_feature(b as u32)).collect();
    format!("{target}, features = {}", if bits.is_empty() { "0".into() } else { bits.join("|") })
}

fn reg_list(r: &CallRecord<'_>) -> Option<String> {
    let n = given::<u64>(r)?;
    let told = mem::get::<u64>(r.written, r.arg).map_or_else(String::new, |n| format!(" -> {n} registers"));
    Some(format!("n = {n}{told}"))
}

/// A register with its value from one of the two sides.
fn one_reg(r: &CallRecord<'_>, set: bool) -> Option<String> {
    let o = given::<OneReg>(r)?;
    let side = if set { r.read } else { r.written };
    let size = RegId(o.id).size();
    let value = mem::bytes(side, o.addr, size).filter(|b| b.len() == size);
    let sign = if set { "=" } else { "->" };
    let name = names::register(o.id);
    Some(value.map_or_else(|| name.clone(), |b| format!("{name} {sign} {}", mem::number(b))))
}

fn vcpu(r: &CallRecord<'_>) -> Option<String> {
    Some(match r.request {
        req::RUN => r.run.map_or_else(String::new, |(before, _)| exit::given(before)),
        req::ARM_VCPU_INIT => init(&given(r)?),
        req::GET_ONE_REG => one_reg(r, false)?,
        req::SET_ONE_REG => one_reg(r, true)?,
        req::GET_REG_LIST => reg_list(r)?,
        req::ARM_VCPU_FINALIZE => names::vcpu_feature(given::<u32>(r)?).into_owned(),
        req::GET_MP_STATE => match answer::<MpState>(r) {
            Some(s) => format!("-> {}", names::mp(s.mp_state)),
            None => format!("{:#x}", r.arg),
        },
        req::SET_MP_STATE => names::mp(given::<MpState>(r)?.mp_state).into_owned(),
        req::SET_SIGNAL_MASK if r.arg != 0 => {
            let m = given::<SignalMask>(r)?;
            match mem::get::<u64>(r.read, r.arg.wrapping_add(4)) {
                Some(mask) => format!("{mask:#x}"),
                None => format!("{} bytes", m.len),
            }
        }
        req::SET_GUEST_DEBUG => guest_debug(&given(r)?),
        req::GET_VCPU_EVENTS => match answer::<VcpuEvents>(r) {
            Some(e) => format!("-> {}", events(&e)),
            None => format!("{:#x}", r.arg),
        },
        req::SET_VCPU_EVENTS => events(&given(r)?),
        _ => return None,
    })
}

fn guest_debug(d: &GuestDebug) -> String {
    let mut s = names::flags(d.control, DEBUG_FLAGS);
    if d.control & 0x2_0000 != 0 {
        for (kind, control, value) in [("bp", &d.dbg_bcr, &d.dbg_bvr), ("wp", &d.dbg_wcr, &d.dbg_wvr)] {
            for (n, (c, v)) in control.iter().zip(value).enumerate().filter(|(_, (c, _))| *c & 1 != 0) {
                s.push_str(&format!(", {kind}{n} {v:#x} (control {c:#x})"));
            }
        }
    }
    s
}

fn events(e: &VcpuEvents) -> String {
    let mut parts = Vec::new();
    if e.serror_pending != 0 {
        parts.push("SError".to_owned());
    }
    if e.serror_has_esr != 0 {
        parts.push(format!("ESR {:#x}", e.serror_esr));
    }
    if e.ext_dabt_pending != 0 {
        parts.push("external abort".into());
    }
    if parts.is_empty() { "none".into() } else { parts.join(", ") }
}

fn attributes(r: &CallRecord<'_>) -> Option<String> {
    let a = given::<DeviceAttr>(r)?;
    Some(match r.request {
        req::SET_DEVICE_ATTR => attr::with_value(r.fd, &a, r.read),
        req::GET_DEVICE_ATTR if r.result.is_ok() => {
            attr::with_value(r.fd, &a, r.written).replacen(" = ", " -> ", 1)
        }
        req::GET_DEVICE_ATTR | req::HAS_DEVICE_ATTR => attr::with_value(r.fd, &a, &[]),
        _ => return None,
    })
}
