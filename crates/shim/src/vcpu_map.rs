//! `mmap` of a vCPU: `struct kvm_run`, the ring of coalesced writes, the dirty ring.

use std::ffi::c_int;

use ulna_kvm_abi::ioctl::on;
use ulna_kvm_abi::wire::{Request, op};

use crate::call::{self, Exchange};
use crate::real::{Blocked, sys};
use crate::table::Object;

const PAGE: u64 = 4096;
/// KVM_COALESCED_MMIO_PAGE_OFFSET, KVM_DIRTY_LOG_PAGE_OFFSET.
const COALESCED: u64 = 1;
const DIRTY: u64 = 64;

/// Maps `len` bytes from `offset` on.
pub fn map(
    o: &Object,
    fd: c_int,
    (addr, len, prot, flags, offset): (usize, usize, c_int, c_int, i64),
) -> Result<usize, c_int> {
    if o.kind() != on::VCPU {
        return Err(libc::ENODEV);
    }
    if !o.ours() {
        return Err(libc::EIO);
    }
    let shared = flags & libc::MAP_TYPE != libc::MAP_PRIVATE;
    if offset < 0 || !(offset as u64).is_multiple_of(PAGE) || len == 0 {
        return Err(libc::EINVAL);
    }
    let mut e = Exchange::new(Request { op: op::MAP, ..Request::default() });
    let reply = {
        let _blocked = Blocked::new();
        call::exchange(o, fd, &mut e)?
    };
    if reply.result < 0 || e.got.len() < 2 {
        return Err(if reply.result < 0 { -reply.result } else { libc::EMFILE });
    }
    let ring = reply.extra / PAGE;
    let (first, count) = (offset as u64 / PAGE, (len as u64).div_ceil(PAGE));
    let in_ring = |p: u64| p >= DIRTY && p < DIRTY + ring;
    if (in_ring(first) || in_ring(first + count - 1)) && (prot & libc::PROT_EXEC != 0 || !shared) {
        return Err(libc::EINVAL);
    }
    // Room for all of it; pages that stand for nothing cannot be touched.
    let keep = flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE);
    let room = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | keep;
    let at = sys!(SYS_mmap, addr, len, libc::PROT_NONE, room, -1, 0i64)?;
    let flags = flags & (libc::MAP_TYPE | libc::MAP_POPULATE) | libc::MAP_FIXED;
    let mut page = first;
    while page < first + count {
        let end = first + count;
        let (file, from, n) = match page {
            0 => (&e.got[0], 0, 1),
            COALESCED => (&e.got[1], 0, 1),
            p if in_ring(p) && e.got.len() > 2 => (&e.got[2], p - DIRTY, (DIRTY + ring).min(end) - p),
            _ => {
                page += 1;
                continue;
            }
        };
        let place = at + ((page - first) * PAGE) as usize;
        let mapped = sys!(SYS_mmap, place, (n * PAGE) as usize, prot, flags, file.0, (from * PAGE) as i64);
        if let Err(e) = mapped {
            let _ = sys!(SYS_munmap, at, len);
            return Err(e);
        }
        page += n;
    }
    Ok(at)
}
