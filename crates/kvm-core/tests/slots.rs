//! Memory slots: every request against a model, and the kernel's order of checks.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use common::*;
use ulna_kvm_abi::structs::UserspaceMemoryRegion;
use ulna_kvm_abi::{Errno, MEM_LOG_DIRTY_PAGES, MEM_READONLY, RegId};
use ulna_kvm_core::{ClockKind, Run, Vm};

const PAGE: u64 = 0x1000;
/// Where the VMM says its memory is: nowhere in this process.
const USER: u64 = 0x5555_0000_0000;

/// The memory that `userspace_addr` stands for, as another process's would.
fn set_memory(vm: &Vm, m: &Arc<Memory>, r: UserspaceMemoryRegion) -> Result<(), Errno> {
    let at = m.host().wrapping_add(r.userspace_addr.wrapping_sub(USER) as usize);
    // SAFETY: the memory is leaked and only accessed through its pointer; the tests keep slots inside it.
    unsafe { vm.set_memory(&r, || Ok((at, m.clone()))) }
}

fn region(slot: u32, flags: u32, gpa: u64, size: u64, user: u64) -> UserspaceMemoryRegion {
    UserspaceMemoryRegion { slot, flags, guest_phys_addr: gpa, memory_size: size, userspace_addr: user }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Slot {
    gpa: u64,
    size: u64,
    user: u64,
    flags: u32,
}

/// What kvm-arm64-abi.md §13.1 says, by scanning everything.
fn model(slots: &mut BTreeMap<u32, Slot>, r: &UserspaceMemoryRegion) -> Result<(), Errno> {
    let UserspaceMemoryRegion { slot, flags, guest_phys_addr: gpa, memory_size: size, userspace_addr: user } =
        *r;
    let aligned = [gpa, size, user].iter().all(|v| v % PAGE == 0);
    let fits = user.checked_add(size).is_some_and(|e| e <= 1 << 48) && gpa.checked_add(size).is_some();
    if flags > 3 || !aligned || !fits || slot > 32766 || size / PAGE > (1 << 31) - 1 {
        return Err(Errno::EINVAL);
    }
    let old = slots.get(&slot).copied();
    if size == 0 {
        return slots.remove(&slot).map(drop).ok_or(Errno::EINVAL);
    }
    if let Some(o) = old {
        if o.size != size || o.user != user || (o.flags ^ flags) & MEM_READONLY != 0 {
            return Err(Errno::EINVAL);
        }
        if (o.gpa, o.flags) == (gpa, flags) {
            return Ok(());
        }
    }
    if slots.iter().any(|(id, s)| *id != slot && s.gpa < gpa + size && gpa < s.gpa + s.size) {
        return Err(Errno::EEXIST);
    }
    if gpa + size > 1 << 40 {
        return Err(Errno::EFAULT);
    }
    slots.insert(slot, Slot { gpa, size, user, flags });
    Ok(())
}

#[test]
fn any_sequence_of_requests_does_what_the_model_does() {
    let m = Memory::new(0x1_0000);
    let mut rng = Rng(3);
    let (mut done, mut refused) = (0, BTreeMap::new());
    for _ in 0..60 {
        let vm = kvm("n1", ClockKind::Insn).create_vm(0).expect("VM");
        let mut slots = BTreeMap::new();
        for _ in 0..200 {
            let mut pick = |v: &[u64]| v[rng.below(v.len() as u64) as usize];
            let slot = pick(&[0, 0, 1, 1, 2, 3, 32766, 32767, 1 << 16]) as u32;
            let flags = pick(&[0, 0, 0, 1, 1, 2, 3, 4]) as u32;
            let base =
                pick(&[0, 0x4000_0000, 0x4000_0000, 0x4000_4000, (1 << 40) - 0x4000, u64::MAX - 0xfff, 8]);
            let gpa = base.wrapping_add(pick(&[0, 0, 0, PAGE, 2 * PAGE, 3 * PAGE]));
            let size = pick(&[0, PAGE, PAGE, 2 * PAGE, 4 * PAGE, 0x800, 1 << 43]);
            let user = pick(&[USER, USER, USER, USER + PAGE, USER + 4, 1 << 60, (1 << 48) - PAGE]);
            let r = region(slot, flags, gpa, size, user);
            // Only what is in this process's memory may become a slot.
            let backed = user.checked_sub(USER).is_some_and(|o| o.saturating_add(size) <= m.len as u64);
            let mut after = slots.clone();
            let expected = model(&mut after, &r);
            if expected.is_ok() && size != 0 && !backed {
                continue;
            }
            assert_eq!(set_memory(&vm, &m, r), expected, "{r:x?} with {slots:x?}");
            slots = after;
            match expected {
                Ok(()) => done += 1,
                Err(e) => *refused.entry(e).or_insert(0) += 1,
            }
        }
        for (id, s) in &slots {
            let unchanged = region(*id, s.flags, s.gpa, s.size, s.user);
            assert_eq!(set_memory(&vm, &m, unchanged), Ok(()));
        }
    }
    assert!(done > 500 && refused.len() == 3, "{done} {refused:?}");
}

#[test]
fn a_vm_holds_as_many_slots_as_kvm() {
    let g = Guest::new("n1", ClockKind::Insn);
    let m = Memory::new(0x1000);
    let start = Instant::now();
    // From above, so that each goes to the front.
    for id in (1..32767u32).rev() {
        let r = region(id, 0, 0x1_0000_0000 + u64::from(id) * 2 * PAGE, PAGE, USER);
        assert_eq!(set_memory(&g.vm, &m, r), Ok(()), "{id}");
    }
    let took = start.elapsed();
    assert!(took.as_secs() < 20, "{took:?}");
    let mut v = g.vcpu(0, PSCI);
    g.memory.program(0, &[&[ldr_x(1, 0), ldr_x(2, 0)][..], &done(1)].concat());
    m.write64(8, 77);
    set(&mut v, RegId::x(0), 0x1_0000_0000 + 32766 * 2 * PAGE + 8);
    assert_eq!(result(&mut v), 77);
    for id in 1..32767 {
        assert_eq!(g.vm.delete_memory_region(id), Ok(()), "{id}");
    }
}

#[test]
fn a_moved_slot_keeps_memory_and_log() {
    let g = Guest::new("n1", ClockKind::Host);
    let m = Memory::new(0x4000);
    assert_eq!(set_memory(&g.vm, &m, region(1, MEM_LOG_DIRTY_PAGES, 0x8000_0000, 0x4000, USER)), Ok(()));
    g.memory.program(0, &[&[str_x(1, 0)][..], &done(31), &[str_x(1, 2)], &done(31), &[str_x(1, 0)]].concat());
    let mut v = g.vcpu(0, PSCI);
    for (n, x) in [(0, 0x8000_1008), (1, 5), (2, 0x9000_3010)] {
        set(&mut v, RegId::x(n), x);
    }
    result(&mut v);
    assert_eq!(set_memory(&g.vm, &m, region(1, MEM_LOG_DIRTY_PAGES, 0x9000_0000, 0x4000, USER)), Ok(()));
    result(&mut v);
    assert_eq!((m.read32(0x1008), m.read32(0x3010)), (5, 5));
    assert_eq!(g.vm.get_dirty_log(1), Ok(vec![0b1010]), "of both places, by page of the slot");
    assert!(matches!(v.run(), Ok(Run::MmioWrite(0x8000_1008, _))), "nothing is there any more");
    assert_eq!(set_memory(&g.vm, &m, region(1, 0, 0x9000_0000, 0x4000, USER)), Ok(()));
    assert_eq!(g.vm.get_dirty_log(1), Err(Errno::ENOENT), "it does not log any more");
}

#[test]
fn a_read_only_slot_is_read_and_written_by_the_vmm() {
    let g = Guest::new("n1", ClockKind::Host);
    let m = Memory::new(0x1000);
    m.write64(0x10, 0x1122_3344_5566_7788);
    let flags = MEM_READONLY | MEM_LOG_DIRTY_PAGES;
    assert_eq!(set_memory(&g.vm, &m, region(1, flags, 0x8000_0000, 0x1000, USER)), Ok(()));
    // ldr x1, [x0]; str x1, [x0]; ldr x2, [x0]; stp x1, x1, [x0]
    g.memory.program(0, &[&[ldr_x(1, 0), str_x(1, 0), ldr_x(2, 0)][..], &done(2), &[0xa900_0401]].concat());
    let mut v = g.vcpu(0, PSCI);
    set(&mut v, RegId::x(0), 0x8000_0010);
    let value = 0x1122_3344_5566_7788u64.to_le_bytes();
    assert!(matches!(v.run(), Ok(Run::MmioWrite(0x8000_0010, d)) if d == value));
    assert_eq!(result(&mut v), 0x1122_3344_5566_7788);
    assert_eq!(v.run().err(), Some(Errno::ENOSYS), "a pair of registers has no syndrome");
    assert_eq!(g.vm.get_dirty_log(1), Ok(vec![0]));
}
