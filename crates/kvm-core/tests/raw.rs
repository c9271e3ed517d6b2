//! The raw entry: requests by number on memory that is bytes.

mod common;

use std::sync::Arc;

use ulna_kvm_abi::ioctl::{ALL, Arg, Ioctl, on, request as req};
use ulna_kvm_abi::structs::*;
use ulna_kvm_abi::{Errno, RegId, cap, device};
use ulna_kvm_core::ClockKind;
use ulna_kvm_core::raw::{ByteMem, Descriptor, FdTable, VcpuHandle, run_offset};

const BASE: u64 = 0x7f00_0000_0000;
/// Where arguments are put.
const ARG: u64 = BASE;
const DATA: u64 = BASE + 0x1000;
const GUEST: u64 = BASE + 0x1_0000;
const LEN: usize = 0x4_0000;
const RAM: u64 = 0x8000_0000;
const NOWHERE: u64 = 0x7000_0000;

struct Vmm {
    mem: ByteMem,
    files: FdTable,
    system: i32,
    vm: i32,
    vcpu: i32,
}

fn e(e: Errno) -> i32 {
    -e.0
}

impl Vmm {
    fn new() -> Vmm {
        let (mem, files) =
            (ByteMem::new(BASE, LEN), FdTable::new(common::kvm("n1", ClockKind::Insn)).with_shared_pages());
        let system = files.open_system();
        let vm = files.ioctl(system, req::CREATE_VM, 0, &mem);
        let vcpu = files.ioctl(vm, req::CREATE_VCPU, 0, &mem);
        assert_eq!((system, vm, vcpu), (3, 4, 5));
        Vmm { mem, files, system, vm, vcpu }
    }

    fn ask(&self, fd: i32, request: u32, arg: u64) -> i32 {
        self.files.ioctl(fd, request, arg, &self.mem)
    }

    fn with<T: Wire>(&self, fd: i32, request: u32, v: T) -> i32 {
        self.mem.put(ARG, v).unwrap();
        self.ask(fd, request, ARG)
    }

    fn slot(&self, slot: u32, gpa: u64, size: u64) -> i32 {
        let r = UserspaceMemoryRegion {
            slot,
            flags: 0,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: GUEST,
        };
        self.with(self.vm, req::SET_USER_MEMORY_REGION, r)
    }

    /// A VM that is ready to run `words`.
    fn ready(words: &[u32]) -> Vmm {
        let v = Vmm::new();
        assert_eq!(v.slot(0, RAM, 0x1_0000), 0);
        for (n, w) in words.iter().enumerate() {
            v.mem.put(GUEST + 4 * n as u64, *w).unwrap();
        }
        let init = VcpuInit { target: 5, features: [4, 0, 0, 0, 0, 0, 0] };
        assert_eq!(v.with(v.vcpu, req::ARM_VCPU_INIT, init), 0);
        v.set(RegId::PC, RAM);
        v
    }

    fn one_reg(&self, request: u32, id: u64) -> i32 {
        self.with(self.vcpu, request, OneReg { id, addr: DATA })
    }

    fn set(&self, id: RegId, v: u64) {
        self.mem.put(DATA, v).unwrap();
        assert_eq!(self.one_reg(req::SET_ONE_REG, id.0), 0);
    }

    fn reg(&self, id: RegId) -> u64 {
        assert_eq!(self.one_reg(req::GET_ONE_REG, id.0), 0);
        self.mem.get(DATA).unwrap()
    }

    fn handle(&self) -> Arc<VcpuHandle> {
        match self.files.get(self.vcpu) {
            Some(Descriptor::Vcpu(v)) => v,
            _ => panic!("no vCPU"),
        }
    }

    fn run(&self) -> i32 {
        self.ask(self.vcpu, req::RUN, 0)
    }

    fn attr(&self, fd: i32, request: u32, group: u32, attr: u64, addr: u64) -> i32 {
        self.with(fd, request, DeviceAttr { flags: 0, group, attr, addr })
    }
}

#[test]
fn requests_exist_on_their_descriptors_only() {
    let v = Vmm::new();
    let c = CreateDevice { type_: device::TYPE_ARM_VGIC_V3, fd: 0, flags: 0 };
    assert_eq!(v.with(v.vm, req::CREATE_DEVICE, c), 0);
    let dev = v.mem.get::<CreateDevice>(ARG).unwrap().fd as i32;
    let stats = v.ask(v.vm, req::GET_STATS_FD, 0);
    let fds = [(on::SYSTEM, v.system), (on::VM, v.vm), (on::VCPU, v.vcpu), (on::DEVICE, dev), (0, stats)];
    for (kind, fd) in fds {
        let unknown = e(if kind & on::DEVICE != 0 || kind == 0 { Errno::ENOTTY } else { Errno::EINVAL });
        for i in ALL {
            if Ioctl::find(i.request(), kind).is_none() {
                assert_eq!(v.ask(fd, i.request(), 0), unknown, "{} on {kind}", i.name);
                assert_eq!(v.ask(fd, i.request(), ARG), unknown, "{} on {kind}", i.name);
            } else if matches!(i.arg, Arg::In | Arg::Out | Arg::InOut) {
                // G9, with the vCPU's own answers before VCPU_INIT.
                let uninitialised = [
                    req::GET_ONE_REG,
                    req::SET_ONE_REG,
                    req::GET_REG_LIST,
                    req::ARM_VCPU_FINALIZE,
                    req::GET_VCPU_EVENTS,
                    req::SET_VCPU_EVENTS,
                ];
                let first = kind == on::VCPU && uninitialised.contains(&i.request());
                let clears = i.request() == req::SET_SIGNAL_MASK;
                let known = if first { e(Errno::ENOEXEC) } else { e(Errno::EFAULT) };
                let known = if clears { 0 } else { known };
                assert_eq!(v.ask(fd, i.request(), 0), known, "{} on {kind}", i.name);
            }
        }
        // The whole number counts: another size, direction or type is another request.
        for other in [0x4018_ae46, 0x0020_ae46, 0x4020_af46, 0xaeff, 0, u32::MAX] {
            let want = if kind == on::VCPU && other >> 8 & 0xff != 0xae { e(Errno::EINVAL) } else { unknown };
            assert_eq!(v.ask(fd, other, ARG), want, "{other:#x}");
        }
    }
    assert_eq!(v.ask(99, req::RUN, 0), e(Errno::EBADF));
    assert_eq!(v.ask(v.vcpu, req::RUN, 1), e(Errno::EINVAL));
}

#[test]
fn a_guest_runs_to_its_access_and_reads_the_answer() {
    // ldrsb w1, [x0]; str x1, [x0, #8]; b .
    let v = Vmm::ready(&[0x39c0_0001, 0xf900_0401, 0x1400_0000]);
    v.set(RegId::x(0), NOWHERE);
    v.set(RegId::x(1), u64::MAX);
    assert_eq!(v.run(), 0);
    let h = v.handle();
    let page = h.page();
    assert_eq!(page.get::<u32>(run_offset::EXIT_REASON), 6);
    assert_eq!(page.get::<u64>(0x20), NOWHERE);
    assert_eq!((page.get::<u32>(0x30), page.get::<u8>(0x34)), (1, 0));
    // The client maps the page's file; here it writes it.
    assert_eq!(rustix::io::pwrite(page.file().unwrap(), &[0x80], 0x28), Ok(1));
    // With immediate_exit the access completes all the same, and the reason stays.
    page.set_immediate_exit(1);
    assert_eq!(v.run(), e(Errno::EINTR));
    assert_eq!(page.get::<u32>(run_offset::EXIT_REASON), 6);
    assert_eq!(v.reg(RegId::x(1)), 0xffff_ff80, "sign-extended to 32 bits");
    assert_eq!(v.reg(RegId::PC), RAM + 4);
    page.set_immediate_exit(0);
    assert_eq!(v.run(), 0);
    assert_eq!((page.get::<u32>(0x30), page.get::<u8>(0x34)), (8, 1));
    assert_eq!((page.get::<u64>(0x20), page.get::<u64>(0x28)), (NOWHERE + 8, 0xffff_ff80));
    h.kick();
    assert_eq!(v.run(), e(Errno::EINTR));
    assert_eq!(page.get::<u32>(run_offset::EXIT_REASON), 10);
    assert_eq!(v.reg(RegId::PC), RAM + 8);
}

#[test]
fn a_page_that_says_something_else_does_not_complete_the_access() {
    let v = Vmm::ready(&[0xf940_0001]); // ldr x1, [x0]
    v.set(RegId::x(0), NOWHERE);
    assert_eq!(v.run(), 0);
    let h = v.handle();
    h.page().put(run_offset::EXIT_REASON, 0u32);
    assert_eq!(v.run(), 0, "the same access again");
    assert_eq!(h.page().get::<u64>(0x20), NOWHERE);
    assert_eq!(v.reg(RegId::PC), RAM);
}

#[test]
fn system_events_and_hypercalls_are_in_the_page() {
    let v = Vmm::ready(&[0xd400_0002]); // hvc #0
    let filter = SmcccFilter { base: 0xc600_0000, nr_functions: 1, action: 2, pad: [0; 15] };
    v.mem.put(DATA, filter).unwrap();
    assert_eq!(v.attr(v.vm, req::HAS_DEVICE_ATTR, 0, 0, 0), 0);
    assert_eq!(v.attr(v.vm, req::SET_DEVICE_ATTR, 0, 0, 8), e(Errno::EFAULT));
    assert_eq!(v.attr(v.vm, req::SET_DEVICE_ATTR, 0, 0, DATA), 0);
    v.set(RegId::x(0), 0xc600_0000);
    assert_eq!(v.run(), 0);
    let h = v.handle();
    let get = |at| h.page().get::<u64>(at);
    assert_eq!(h.page().get::<u32>(run_offset::EXIT_REASON), 3);
    assert_eq!((get(0x20), get(0x28), get(0x58), get(0x60)), (0xc600_0000, 0, 0, 0));
    v.set(RegId::PC, RAM);
    v.set(RegId::x(0), 0x8400_0008);
    assert_eq!(v.run(), 0);
    assert_eq!(h.page().get::<u32>(run_offset::EXIT_REASON), 24);
    assert_eq!((h.page().get::<u32>(0x20), h.page().get::<u32>(0x24), get(0x28)), (1, 1, 0));
}

#[test]
fn an_access_without_syndrome_is_enosys_until_it_is_enabled() {
    let v = Vmm::ready(&[0xa940_0801]); // ldp x1, x2, [x0]
    v.set(RegId::x(0), NOWHERE);
    assert_eq!(v.run(), e(Errno::ENOSYS));
    let h = v.handle();
    assert_eq!(h.page().get::<u32>(run_offset::EXIT_REASON), 0);
    let c = EnableCap { cap: cap::ARM_NISV_TO_USER, ..EnableCap::default() };
    assert_eq!(v.with(v.vm, req::ENABLE_CAP, EnableCap { flags: 1, ..c }), e(Errno::EINVAL));
    assert_eq!(v.with(v.vm, req::ENABLE_CAP, c), 0);
    assert_eq!(v.run(), 0);
    assert_eq!(h.page().get::<u32>(run_offset::EXIT_REASON), 28);
    assert_eq!(h.page().get::<u64>(0x28), NOWHERE);
}

#[test]
fn a_gic_without_addresses_kills_the_vm() {
    let v = Vmm::ready(&[0x1400_0000]);
    let c = CreateDevice { type_: device::TYPE_ARM_VGIC_V3, fd: 0, flags: 0 };
    assert_eq!(v.with(v.vm, req::CREATE_DEVICE, CreateDevice { flags: 1, ..c }), 0);
    assert_eq!(v.mem.get::<CreateDevice>(ARG).unwrap().fd, 0, "only asked");
    assert_eq!(v.with(v.vm, req::CREATE_DEVICE, CreateDevice { type_: 10, ..c }), e(Errno::ENODEV));
    assert_eq!(v.with(v.vm, req::CREATE_DEVICE, c), 0);
    let dev = v.mem.get::<CreateDevice>(ARG).unwrap().fd as i32;
    assert_eq!(v.run(), e(Errno::ENXIO));
    assert_eq!(v.run(), e(Errno::EIO));
    assert_eq!(v.ask(v.vm, req::CREATE_VCPU, 1), e(Errno::EIO));
    assert_eq!(v.attr(dev, req::SET_DEVICE_ATTR, 4, 0, 0), e(Errno::EIO));
    assert_eq!(v.ask(v.vcpu, req::GET_MP_STATE, ARG), e(Errno::EIO));
    assert_eq!(v.ask(v.system, req::CHECK_EXTENSION, 70), 1);
}

#[test]
fn register_lists_say_how_long_they_are() {
    let v = Vmm::ready(&[]);
    assert_eq!(v.with(v.vcpu, req::GET_REG_LIST, 0u64), e(Errno::E2BIG));
    let n = v.mem.get::<u64>(ARG).unwrap();
    assert!(n > 200, "{n}");
    assert_ne!(v.mem.get::<u64>(ARG + 8), Ok(RegId::x(0).0), "nothing but the number");
    assert_eq!(v.ask(v.vcpu, req::GET_REG_LIST, ARG), 0);
    assert_eq!(v.mem.get::<u64>(ARG + 8), Ok(RegId::x(0).0));
    // The list would pass the end of memory.
    let end = BASE + LEN as u64 - 16;
    v.mem.put(end, n).unwrap();
    assert_eq!(v.ask(v.vcpu, req::GET_REG_LIST, end), e(Errno::EFAULT));
}

#[test]
fn values_that_cannot_be_fetched_are_efault_after_what_comes_first() {
    let v = Vmm::ready(&[]);
    let with_addr = |request, id, addr| v.with(v.vcpu, request, OneReg { id, addr });
    let midr = 0x6030_0000_0013_c000;
    let unknown = 0x6030_0000_0013_7fff;
    assert_eq!(with_addr(req::GET_ONE_REG, midr, 0), e(Errno::EFAULT));
    assert_eq!(with_addr(req::SET_ONE_REG, midr, 0), e(Errno::EFAULT));
    assert_eq!(with_addr(req::GET_ONE_REG, unknown, 0), e(Errno::ENOENT));
    assert_eq!(with_addr(req::SET_ONE_REG, unknown, 0), e(Errno::EFAULT), "fetched before it is looked up");
    assert_eq!(with_addr(req::SET_ONE_REG, 0x4030_0000_0013_c000, 0), e(Errno::EINVAL));
    assert_eq!(with_addr(req::SET_ONE_REG, 0x6030_0000_0010_0001, 0), e(Errno::EINVAL));
    assert_eq!(with_addr(req::SET_ONE_REG, RegId::x(0).0, 0), e(Errno::EFAULT));
    let timer = |addr| v.attr(v.vcpu, req::SET_DEVICE_ATTR, device::GRP_TIMER_CTRL, 0, addr);
    assert_eq!(timer(0), e(Errno::EINVAL), "no interrupt controller, whatever the address");
    let c = CreateDevice { type_: device::TYPE_ARM_VGIC_V3, fd: 0, flags: 0 };
    assert_eq!(v.with(v.vm, req::CREATE_DEVICE, c), 0);
    assert_eq!(timer(0), e(Errno::EFAULT));
    v.mem.put(DATA, 20u32).unwrap();
    assert_eq!(timer(DATA), 0);
    assert_eq!(v.attr(v.vcpu, req::GET_DEVICE_ATTR, device::GRP_TIMER_CTRL, 0, DATA + 8), 0);
    assert_eq!(v.mem.get::<u64>(DATA + 8), Ok(20));
}

#[test]
fn stubs_signal_masks_and_masks_of_registers() {
    let v = Vmm::ready(&[]);
    for r in [req::GET_REGS, req::GET_SREGS, req::SET_SREGS, req::GET_FPU, req::SET_FPU] {
        assert_eq!((v.ask(v.vcpu, r, 0), v.ask(v.vcpu, r, ARG)), (-22, -22));
    }
    for r in [req::SET_REGS, req::TRANSLATE] {
        assert_eq!((v.ask(v.vcpu, r, 0), v.ask(v.vcpu, r, ARG)), (-14, -22));
    }
    v.mem.put(ARG + 4, 0x1234u64).unwrap();
    assert_eq!(v.with(v.vcpu, req::SET_SIGNAL_MASK, 4u32), -22);
    assert_eq!(v.with(v.vcpu, req::SET_SIGNAL_MASK, 8u32), 0);
    assert_eq!(v.handle().signal_mask(), Some(0x1234));
    assert_eq!(v.ask(v.vcpu, req::SET_SIGNAL_MASK, 0), 0);
    assert_eq!(v.handle().signal_mask(), None);
    for feature in [0, 4, 5, -1] {
        assert_eq!(v.with(v.vcpu, req::ARM_VCPU_FINALIZE, feature), -22);
    }
    let r = RegMaskRange { addr: DATA, ..RegMaskRange::default() };
    assert_eq!(v.with(v.vm, req::ARM_GET_REG_WRITABLE_MASKS, r), 0);
    assert_ne!(v.mem.get::<u64>(DATA + 8 * (4 * 8)), Ok(0), "ID_AA64PFR0_EL1");
    let wrong = RegMaskRange { range: 1, addr: 0, ..r };
    assert_eq!(v.with(v.vm, req::ARM_GET_REG_WRITABLE_MASKS, wrong), -22);
    assert_eq!(v.with(v.vm, req::ARM_GET_REG_WRITABLE_MASKS, RegMaskRange { addr: 0, ..r }), -14);
    // Range 16 is a list with its size first.
    let mut list = RegMaskRange { addr: DATA, range: 16, ..RegMaskRange::default() };
    assert_eq!(v.with(v.vm, req::ARM_GET_REG_WRITABLE_MASKS, list), -7);
    list.reserved[0] = 8;
    assert_eq!(v.with(v.vm, req::ARM_GET_REG_WRITABLE_MASKS, list), -7);
    assert_eq!(v.mem.get::<u32>(DATA), Ok(1));
    let count = v.mem.get::<u32>(DATA + 4).expect("count");
    list.reserved[0] = 8 + 40 * count;
    assert_eq!(v.with(v.vm, req::ARM_GET_REG_WRITABLE_MASKS, list), 0);
    list.reserved[1] = 1;
    assert_eq!(v.with(v.vm, req::ARM_GET_REG_WRITABLE_MASKS, list), -22);
    assert_eq!(v.with(v.vm, req::ARM_GET_REG_WRITABLE_MASKS, RegMaskRange { range: 31, ..r }), -22);
}

#[test]
fn registers_of_the_vm_are_attributes_of_the_vm() {
    let v = Vmm::ready(&[]);
    let id = RegId::fw_feat(0).0;
    let attr = DeviceAttr { flags: 0, group: 0x554c_0001, attr: id, addr: DATA };
    assert_eq!(v.with(v.vm, req::HAS_DEVICE_ATTR, attr), 0);
    assert_eq!(v.with(v.vm, req::GET_DEVICE_ATTR, attr), 0);
    assert_eq!(v.mem.get::<u64>(DATA), Ok(1));
    v.mem.put(DATA, 0u64).expect("memory");
    assert_eq!(v.with(v.vm, req::SET_DEVICE_ATTR, attr), 0);
    v.mem.put(DATA, 2u64).expect("memory");
    assert_eq!(v.with(v.vm, req::SET_DEVICE_ATTR, attr), -22);
    assert_eq!(v.with(v.vm, req::SET_DEVICE_ATTR, DeviceAttr { addr: 0, ..attr }), -14);
    assert_eq!(v.with(v.vm, req::GET_DEVICE_ATTR, DeviceAttr { attr: RegId::x(0).0, ..attr }), -6);
    assert_eq!(v.with(v.vm, req::GET_DEVICE_ATTR, DeviceAttr { group: 0, ..attr }), -6);
    v.mem.put(DATA, 0u64).expect("memory");
    assert_eq!(v.ask(v.vm, req::GET_REG_LIST, DATA), -7);
    assert!(v.mem.get::<u64>(DATA).is_ok_and(|n| n > 60));
}

#[test]
fn statistics_are_a_file() {
    let v = Vmm::ready(&[0xd400_0002, 0xf900_0041]); // hvc #0; str x1, [x2]
    v.set(RegId::x(2), NOWHERE);
    assert_eq!(v.run(), 0);
    let fd = v.ask(v.vcpu, req::GET_STATS_FD, 0);
    let Some(Descriptor::Stats(s)) = v.files.get(fd) else { panic!("no statistics") };
    let all = s.contents();
    let h = StatsHeader::from_bytes(&all);
    assert_eq!(
        (h.name_size, h.num_desc, h.id_offset, h.desc_offset, h.data_offset),
        (48, 18, 24, 72, 72 + 64 * 18)
    );
    let id = format!("kvm-{}/vcpu-0\0", std::process::id());
    assert_eq!(&all[24..24 + id.len()], id.as_bytes());
    let value = |name: &str| {
        let at = (0..18).map(|n| 72 + 64 * n).find(|at| all[at + 16..].starts_with(name.as_bytes())).unwrap();
        let d = StatsDesc::from_bytes(&all[at..]);
        (d, u64::from_bytes(&all[(h.data_offset + d.offset) as usize..]))
    };
    assert_eq!((value("hvc_exit_stat").0.offset, value("hvc_exit_stat").1), (832, 1));
    assert_eq!((value("mmio_exit_user").0.offset, value("mmio_exit_user").1), (856, 1));
    assert_eq!((value("exits").0.offset, value("exits").1), (880, 2));
    let wait = value("halt_wait_hist").0;
    assert_eq!((wait.flags, wait.exponent, wait.size, wait.offset), (0x24, -9, 32, 568));
    let mut part = [0; 8];
    assert_eq!(s.read_at(&mut part, 4), 8);
    assert_eq!(part, all[4..12]);
    assert_eq!(s.read_at(&mut part, all.len() as u64 - 3), 3);
    assert_eq!((s.read_at(&mut part, u64::MAX), s.read_at(&mut part, all.len() as u64)), (0, 0));
}

#[test]
fn no_number_left_means_nothing_was_made() {
    let mem = ByteMem::new(BASE, LEN);
    let files = FdTable::new(common::kvm("n1", ClockKind::Insn)).with_limit(3);
    let system = files.open_system();
    let vm = files.ioctl(system, req::CREATE_VM, 0, &mem);
    let vcpu = files.ioctl(vm, req::CREATE_VCPU, 0, &mem);
    assert!(vcpu > 0);
    assert_eq!(files.ioctl(vm, req::CREATE_VCPU, 1, &mem), e(Errno::EMFILE));
    files.close(vcpu).unwrap();
    assert_eq!(files.ioctl(vm, req::CREATE_VCPU, 0, &mem), e(Errno::EEXIST), "the VM keeps it");
    assert_eq!(files.ioctl(vm, req::CREATE_VCPU, 1, &mem), vcpu);
}

#[test]
fn what_a_guest_wrote_is_told_by_number() {
    // loop: str x1, [x0]; ldr x2, [x3]; b loop
    let v = Vmm::ready(&[0xf900_0001, 0xf940_0062, 0x17ff_fffe]);
    v.set(RegId::x(0), RAM + 0x1008);
    v.set(RegId::x(3), NOWHERE);
    let log = |slot, bitmap| DirtyLog { slot, padding: 0, dirty_bitmap: bitmap };
    assert_eq!(v.with(v.vm, req::GET_DIRTY_LOG, log(0, DATA)), e(Errno::ENOENT), "it does not log");
    let size = v.files.ioctl(v.vm, req::CHECK_EXTENSION, cap::DIRTY_LOG_RING_ACQ_REL.into(), &v.mem);
    assert_eq!(size, 0x10_0000);
    let logging = UserspaceMemoryRegion {
        slot: 0,
        flags: 1,
        guest_phys_addr: RAM,
        memory_size: 0x1_0000,
        userspace_addr: GUEST,
    };
    let mut other = logging;
    other.userspace_addr += 0x1000;
    assert_eq!(v.with(v.vm, req::SET_USER_MEMORY_REGION, other), e(Errno::EINVAL), "other memory");
    assert_eq!(v.with(v.vm, req::SET_USER_MEMORY_REGION, logging), 0);
    assert_eq!(v.run(), 0);
    assert_eq!(v.with(v.vm, req::GET_DIRTY_LOG, log(0, 8)), e(Errno::EFAULT));
    assert_eq!(v.with(v.vm, req::GET_DIRTY_LOG, log(0, DATA)), 0, "what could not be told is still there");
    assert_eq!(v.mem.get::<u64>(DATA), Ok(2));
    assert_eq!(v.with(v.vm, req::GET_DIRTY_LOG, log(0, DATA)), 0);
    assert_eq!(v.mem.get::<u64>(DATA), Ok(0));
    let clear = |first_page, dirty_bitmap| ClearDirtyLog { slot: 0, num_pages: 16, first_page, dirty_bitmap };
    assert_eq!(v.run(), 0);
    assert_eq!(v.with(v.vm, req::CLEAR_DIRTY_LOG, clear(1, DATA)), e(Errno::EINVAL));
    assert_eq!(v.with(v.vm, req::CLEAR_DIRTY_LOG, clear(0, 8)), e(Errno::EFAULT));
    v.mem.put(DATA, u64::MAX).unwrap();
    assert_eq!(v.with(v.vm, req::CLEAR_DIRTY_LOG, clear(0, DATA)), 0);
    assert_eq!(v.with(v.vm, req::GET_DIRTY_LOG, log(0, DATA)), 0);
    assert_eq!(v.mem.get::<u64>(DATA), Ok(0));
    assert_eq!(v.ask(v.vm, req::RESET_DIRTY_RINGS, 0), e(Errno::EINVAL));
}

#[test]
fn zones_and_routes_are_set_by_number() {
    let v = Vmm::ready(&[0xb900_0001, 0xf940_0002]); // str w1, [x0]; ldr x2, [x0]
    v.set(RegId::x(0), NOWHERE);
    let zone = CoalescedMmioZone { addr: NOWHERE, size: 8, pio: 0 };
    assert_eq!(v.with(v.vm, req::REGISTER_COALESCED_MMIO, zone), 0);
    assert_eq!(v.run(), 0);
    let h = v.handle();
    assert_eq!((h.page().get::<u8>(0x34), h.dirty_ring().is_some()), (0, false), "the store is in the ring");
    assert_eq!(v.with(v.vm, req::UNREGISTER_COALESCED_MMIO, zone), 0);
    let entry = IrqRoutingEntry { gsi: 3, kind: 1, ..IrqRoutingEntry::default() };
    v.mem.put(ARG + 8, entry).unwrap();
    assert_eq!(v.with(v.vm, req::SET_GSI_ROUTING, IrqRouting { nr: 1, flags: 0 }), 0);
    for (nr, flags) in [(1, 1), (4097, 0), (2, 0)] {
        v.mem.put(ARG + 8 + 48, entry).unwrap();
        let r = v.with(v.vm, req::SET_GSI_ROUTING, IrqRouting { nr, flags });
        assert_eq!(r, e(Errno::EINVAL), "{nr} {flags}: twice the same");
    }
    let end = BASE + LEN as u64 - 8;
    v.mem.put(end, IrqRouting { nr: 1, flags: 0 }).unwrap();
    assert_eq!(v.ask(v.vm, req::SET_GSI_ROUTING, end), e(Errno::EFAULT));
}

/// KVM_NMI by its number: SDEI's host event, where there is one.
#[test]
fn an_nmi_is_raised_by_number() {
    use ulna_kvm_core::firmware::sdei::{self, Reg};
    let v = Vmm::ready(&[0x1400_0000]);
    assert_eq!(v.ask(v.vcpu, req::NMI, 0), e(Errno::EINVAL), "SDEI was not asked for");
    assert_eq!(v.ask(v.system, req::CHECK_EXTENSION, sdei::CAP.into()), 0x1_0001);
    let vm = v.ask(v.system, req::CREATE_VM, 0);
    let cap = EnableCap { cap: sdei::CAP, ..EnableCap::default() };
    assert_eq!(v.with(vm, req::ENABLE_CAP, cap), 0);
    let vcpu = v.ask(vm, req::CREATE_VCPU, 0);
    assert_eq!(v.with(vm, req::ENABLE_CAP, cap), e(Errno::EBUSY));
    let init = VcpuInit { target: 5, features: [4, 0, 0, 0, 0, 0, 0] };
    assert_eq!(v.with(vcpu, req::ARM_VCPU_INIT, init), 0);
    // It stays pending where nobody has registered it, and is forgotten: registered events keep it.
    let event = |request| v.with(vcpu, request, OneReg { id: Reg::Event(1).id().0, addr: DATA });
    assert_eq!(v.ask(vcpu, req::NMI, 0), 0);
    assert_eq!(event(req::GET_ONE_REG), 0);
    let word: u64 = v.mem.get(DATA).unwrap();
    assert_eq!((word & 0xffff_ffff, word >> 32 & 0xf), (sdei::HOST_NMI.into(), 0));
    v.mem.put(DATA, word | 1 << 32).unwrap();
    v.mem.put(DATA + 8, RAM).unwrap();
    assert_eq!(event(req::SET_ONE_REG), 0);
    for _ in 0..3 {
        assert_eq!(v.ask(vcpu, req::NMI, 0x1234), 0, "its argument is ignored");
    }
    assert_eq!(event(req::GET_ONE_REG), 0);
    assert_eq!(v.mem.get::<u64>(DATA).unwrap() >> 32 & 0xf, 9, "registered, pending");
    assert_eq!(v.ask(vm, req::NMI, 0), e(Errno::EINVAL), "a request of vCPUs");
}
