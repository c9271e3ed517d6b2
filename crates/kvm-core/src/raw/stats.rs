//! KVM_GET_STATS_FD: binary statistics as a file (kvm-arm64-abi.md §14.4).
//!
//! Header, the id of what they are of, descriptors, data; all at fixed offsets, to be read whole or with `pread`.

use std::sync::{Arc, Weak};

use ulna_kvm_abi::structs::{StatsDesc, StatsHeader, Wire};

use super::{VcpuHandle, VmHandle};
use crate::shared::Shared;
use crate::stats::Stat;
use crate::vm::VmInner;

/// Bytes of a name, and of the id.
const NAME_SIZE: usize = 48;
const DESC_OFFSET: usize = StatsHeader::SIZE + NAME_SIZE;
const DESC_SIZE: usize = StatsDesc::SIZE + NAME_SIZE;

/// KVM_STATS_TYPE_*.
const CUMULATIVE: u32 = 0;
const INSTANT: u32 = 1;
const LOG_HIST: u32 = 4;
/// KVM_STATS_UNIT_* in bits 7:4.
const SECONDS: u32 = 2 << 4;
const BOOLEAN: u32 = 4 << 4;
const HIST_SIZE: u16 = 32;

struct Row {
    name: &'static str,
    flags: u32,
    exponent: i16,
    size: u16,
}

const fn count(name: &'static str) -> Row {
    Row { name, flags: CUMULATIVE, exponent: 0, size: 1 }
}
const fn nanoseconds(name: &'static str) -> Row {
    Row { name, flags: CUMULATIVE | SECONDS, exponent: -9, size: 1 }
}
const fn histogram(name: &'static str) -> Row {
    Row { name, flags: LOG_HIST | SECONDS, exponent: -9, size: HIST_SIZE }
}

const VM_ROWS: &[Row] = &[count("remote_tlb_flush"), count("remote_tlb_flush_requests")];

const VCPU_ROWS: &[Row] = &[
    count("halt_successful_poll"),
    count("halt_attempted_poll"),
    count("halt_poll_invalid"),
    count("halt_wakeup"),
    nanoseconds("halt_poll_success_ns"),
    nanoseconds("halt_poll_fail_ns"),
    nanoseconds("halt_wait_ns"),
    histogram("halt_poll_success_hist"),
    histogram("halt_poll_fail_hist"),
    histogram("halt_wait_hist"),
    Row { name: "blocking", flags: INSTANT | BOOLEAN, exponent: 0, size: 1 },
    count("hvc_exit_stat"),
    count("wfe_exit_stat"),
    count("wfi_exit_stat"),
    count("mmio_exit_user"),
    count("mmio_exit_kernel"),
    count("signal_exits"),
    count("exits"),
];

/// What they are of. They outlive it, and then read as zero.
enum Of {
    Vm(Weak<VmInner>),
    Vcpu(Weak<Shared>),
}

/// A file of statistics.
pub struct StatsFile {
    id: String,
    rows: &'static [Row],
    of: Of,
}

impl StatsFile {
    pub(super) fn of_vm(vm: &Arc<VmHandle>) -> StatsFile {
        let id = format!("kvm-{}", std::process::id());
        StatsFile { id, rows: VM_ROWS, of: Of::Vm(Arc::downgrade(&vm.vm().0)) }
    }

    pub(super) fn of_vcpu(v: &Arc<VcpuHandle>) -> StatsFile {
        let shared = v.lock().shared().clone();
        let id = format!("kvm-{}/vcpu-{}", std::process::id(), shared.id);
        StatsFile { id, rows: VCPU_ROWS, of: Of::Vcpu(Arc::downgrade(&shared)) }
    }

    fn value(&self, row: &Row, element: usize) -> u64 {
        match &self.of {
            Of::Vm(vm) => {
                let flushes = vm.upgrade().map_or(0, |vm| vm.shared.flushes());
                // Every flush that was asked for was made.
                if row.name.starts_with("remote_tlb_flush") { flushes } else { 0 }
            }
            Of::Vcpu(v) => {
                let Some(v) = v.upgrade() else { return 0 };
                let s = &v.stats;
                match row.name {
                    "halt_wakeup" => s.get(Stat::HaltWakeup),
                    "halt_wait_ns" => s.get(Stat::HaltWaitNs),
                    "halt_wait_hist" => s.halt_wait_hist(element),
                    "blocking" => s.get(Stat::Blocking),
                    "hvc_exit_stat" => s.get(Stat::Hvc),
                    "wfe_exit_stat" => s.get(Stat::Wfe),
                    "wfi_exit_stat" => s.get(Stat::Wfi),
                    "mmio_exit_user" => s.get(Stat::MmioUser),
                    "mmio_exit_kernel" => s.get(Stat::MmioKernel),
                    "signal_exits" => s.get(Stat::Signal),
                    "exits" => s.get(Stat::Exits),
                    // There is no polling before a vCPU blocks.
                    _ => 0,
                }
            }
        }
    }

    /// All of it, as it is now.
    pub fn contents(&self) -> Vec<u8> {
        let data_offset = DESC_OFFSET + DESC_SIZE * self.rows.len();
        let values: usize = self.rows.iter().map(|r| usize::from(r.size)).sum();
        let mut b = vec![0; data_offset + 8 * values];
        let header = StatsHeader {
            flags: 0,
            name_size: NAME_SIZE as u32,
            num_desc: self.rows.len() as u32,
            id_offset: StatsHeader::SIZE as u32,
            desc_offset: DESC_OFFSET as u32,
            data_offset: data_offset as u32,
        };
        header.to_bytes(&mut b);
        put_name(&mut b[StatsHeader::SIZE..], &self.id);
        let mut offset = 0;
        for (n, row) in self.rows.iter().enumerate() {
            let at = DESC_OFFSET + n * DESC_SIZE;
            let desc = StatsDesc {
                flags: row.flags,
                exponent: row.exponent,
                size: row.size,
                offset: offset as u32,
                bucket_size: 0,
            };
            desc.to_bytes(&mut b[at..]);
            put_name(&mut b[at + StatsDesc::SIZE..], row.name);
            for element in 0..usize::from(row.size) {
                self.value(row, element).to_bytes(&mut b[data_offset + offset..]);
                offset += 8;
            }
        }
        b
    }

    /// `pread`: how many bytes there were.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> usize {
        let all = self.contents();
        let Some(rest) = usize::try_from(offset).ok().and_then(|o| all.get(o..)) else { return 0 };
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        n
    }
}

fn put_name(b: &mut [u8], name: &str) {
    // One byte stays zero.
    let n = name.len().min(NAME_SIZE - 1);
    b[..n].copy_from_slice(&name.as_bytes()[..n]);
}
