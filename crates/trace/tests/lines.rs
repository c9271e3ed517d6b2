//! One line for each request, from records as a server makes them.

use std::time::Duration;

use proptest::prelude::*;
use ulna_kvm_abi::ioctl::{ALL, Ioctl, on, request as req};
use ulna_kvm_abi::structs::*;
use ulna_kvm_abi::{Errno, RegId, cap, device};
use ulna_trace::{CallRecord, Fd, Log, Piece, Tracer, line};

const ARG: u64 = 0x7fff_0000;
const DATA: u64 = 0x7fff_8000;
const VM: Fd = Fd::Vm(3);
const VCPU: Fd = Fd::Vcpu(3, 0);

fn piece<T: Wire>(addr: u64, v: &T) -> Piece {
    let mut bytes = vec![0; T::SIZE];
    v.to_bytes(&mut bytes);
    Piece { addr, bytes }
}

/// Its pieces are never freed: it is a test.
fn record(fd: Fd, request: u32, read: &[Piece], written: &[Piece]) -> CallRecord<'static> {
    CallRecord {
        when: Duration::from_millis(1500),
        thread: 42,
        fd,
        request,
        arg: ARG,
        read: read.to_vec().leak(),
        written: written.to_vec().leak(),
        run: None,
        opened: None,
        result: Ok(0),
    }
}

/// A call whose argument is read.
fn with<T: Wire>(fd: Fd, request: u32, v: &T) -> String {
    line(&record(fd, request, &[piece(ARG, v)], &[]))
}

fn number(fd: Fd, request: u32, arg: u64, result: Result<i32, Errno>) -> String {
    line(&CallRecord { arg, result, ..record(fd, request, &[], &[]) })
}

#[test]
fn requests_with_a_number() {
    assert_eq!(number(Fd::Kvm, req::GET_API_VERSION, 0, Ok(12)), "kvm: KVM_GET_API_VERSION() = 12");
    let r =
        CallRecord { arg: 44, opened: Some(VM), result: Ok(7), ..record(Fd::Kvm, req::CREATE_VM, &[], &[]) };
    assert_eq!(line(&r), "kvm: KVM_CREATE_VM(44 bits of addresses) = 7, vm3");
    assert_eq!(
        number(Fd::Kvm, req::CREATE_VM, 0, Err(Errno::EMFILE)),
        "kvm: KVM_CREATE_VM(40 bits of addresses) = EMFILE (too many open files)"
    );
    assert_eq!(
        number(VM, req::CHECK_EXTENSION, cap::IRQFD.into(), Ok(1)),
        "vm3: KVM_CHECK_EXTENSION(IRQFD) = 1"
    );
    let e = Errno::EINVAL.because("a VM has at most {} vCPUs").value(512);
    assert_eq!(
        number(VM, req::CREATE_VCPU, 513, Err(e)),
        "vm3: KVM_CREATE_VCPU(513) = EINVAL (a VM has at most 512 vCPUs)"
    );
    assert_eq!(number(VM, req::CREATE_IRQCHIP, 0, Ok(0)), "vm3: KVM_CREATE_IRQCHIP() = 0");
    assert_eq!(number(VM, req::GET_STATS_FD, 0, Ok(9)), "vm3: KVM_GET_STATS_FD() = 9");
    assert_eq!(number(VM, req::RESET_DIRTY_RINGS, 0, Ok(2)), "vm3: KVM_RESET_DIRTY_RINGS() = 2");
    assert_eq!(
        number(VM, 0x1234_5678, 5, Err(Errno::ENOTTY)),
        "vm3: ioctl 0x12345678 (type 0x56, number 0x78, 4660 bytes)(0x5) = ENOTTY (inappropriate request for this descriptor)"
    );
    assert_eq!(
        number(VM, req::IRQFD, ARG, Err(Errno::EFAULT)),
        "vm3: KVM_IRQFD(0x7fff0000) = EFAULT (bad address)"
    );
    assert_eq!(number(VM, req::IRQFD, 0, Err(Errno::EFAULT)), "vm3: KVM_IRQFD(NULL) = EFAULT (bad address)");
}

#[test]
fn registers_by_name() {
    let one = OneReg { id: RegId::sysreg(0xc080).0, addr: DATA };
    let read = [piece(ARG, &one), piece(DATA, &0x30d_0198u64)];
    assert_eq!(
        line(&record(VCPU, req::SET_ONE_REG, &read, &[])),
        "vcpu3.0: KVM_SET_ONE_REG(SCTLR_EL1 = 0x30d0198) = 0"
    );
    let r = record(VCPU, req::GET_ONE_REG, &read[..1], &read[1..]);
    assert_eq!(line(&r), "vcpu3.0: KVM_GET_ONE_REG(SCTLR_EL1 -> 0x30d0198) = 0");
    assert_eq!(
        line(&CallRecord { result: Err(Errno::ENOENT), ..record(VCPU, req::GET_ONE_REG, &read[..1], &[]) }),
        "vcpu3.0: KVM_GET_ONE_REG(SCTLR_EL1) = ENOENT (no such thing)"
    );
    let r = record(VCPU, req::GET_REG_LIST, &[piece(ARG, &0u64)], &[piece(ARG, &246u64)]);
    assert_eq!(
        line(&CallRecord { result: Err(Errno::E2BIG), ..r }),
        "vcpu3.0: KVM_GET_REG_LIST(n = 0 -> 246 registers) = E2BIG (list too long)"
    );
    // The same number on a VM is another request.
    let addr = ArmDeviceAddr { id: 1, addr: 0x801_0000 };
    assert_eq!(
        with(VM, req::GET_ONE_REG, &addr),
        "vm3: KVM_ARM_SET_DEVICE_ADDR(v2 CPU interface = 0x8010000) = 0"
    );
}

#[test]
fn memory() {
    let m = UserspaceMemoryRegion {
        slot: 1 << 16 | 2,
        flags: 3,
        guest_phys_addr: 0x4000_0000,
        memory_size: 0x10_0000,
        userspace_addr: 0x7f00_0000_0000,
    };
    let want = "slot 2 of space 1, 0x40000000+0x100000 from 0x7f0000000000, flags = LOG_DIRTY_PAGES|READONLY";
    assert_eq!(
        with(VM, req::SET_USER_MEMORY_REGION, &m),
        format!("vm3: KVM_SET_USER_MEMORY_REGION({want}) = 0")
    );
    let m = UserspaceMemoryRegion2 {
        slot: 9,
        flags: 4,
        memory_size: 0x1000,
        guest_memfd: 5,
        ..Default::default()
    };
    assert_eq!(
        with(VM, req::SET_USER_MEMORY_REGION2, &m),
        "vm3: KVM_SET_USER_MEMORY_REGION2(slot 9, 0x0+0x1000 from 0x0, flags = GUEST_MEMFD, guest_memfd 5 from 0x0) = 0"
    );
    let gone = UserspaceMemoryRegion2 { slot: 9, ..Default::default() };
    assert_eq!(
        with(VM, req::SET_USER_MEMORY_REGION2, &gone),
        "vm3: KVM_SET_USER_MEMORY_REGION2(slot 9, nothing) = 0"
    );
    let log = DirtyLog { slot: 1, dirty_bitmap: DATA, ..Default::default() };
    let r = record(VM, req::GET_DIRTY_LOG, &[piece(ARG, &log)], &[piece(DATA, &0x8003u64)]);
    assert_eq!(line(&r), "vm3: KVM_GET_DIRTY_LOG(slot 1, bitmap 0x7fff8000 -> 3 dirty) = 0");
    let clear = ClearDirtyLog { slot: 1, num_pages: 64, first_page: 128, dirty_bitmap: DATA };
    let read = [piece(ARG, &clear), piece(DATA, &1u64)];
    assert_eq!(
        line(&record(VM, req::CLEAR_DIRTY_LOG, &read, &[])),
        "vm3: KVM_CLEAR_DIRTY_LOG(slot 1, 64 pages from 0x80, 1 to clear) = 0"
    );
    let z = CoalescedMmioZone { addr: 0x1000, size: 4, pio: 1 };
    assert_eq!(
        with(VM, req::REGISTER_COALESCED_MMIO, &z),
        "vm3: KVM_REGISTER_COALESCED_MMIO(0x1000+0x4, PIO) = 0"
    );
    let t = ArmCopyMteTags { guest_ipa: 0x1000, length: 0x1000, flags: 1, ..Default::default() };
    assert_eq!(
        with(VM, req::ARM_MTE_COPY_TAGS, &t),
        "vm3: KVM_ARM_MTE_COPY_TAGS(0x1000+0x1000, from guest) = 0"
    );
}

#[test]
fn interrupts_and_events() {
    let l = |irq, level| with(VM, req::IRQ_LINE, &IrqLevel { irq, level });
    assert_eq!(l(0x0100_0021, 1), "vm3: KVM_IRQ_LINE(SPI, INTID 33, level 1) = 0");
    assert_eq!(l(0x1203_001b, 0), "vm3: KVM_IRQ_LINE(PPI, INTID 27 of vCPU 259, level 0) = 0");
    assert_eq!(l(0x0000_0001, 1), "vm3: KVM_IRQ_LINE(FIQ of vCPU 0, level 1) = 0");
    assert_eq!(l(0x0f00_0001, 1), "vm3: KVM_IRQ_LINE(type 15, 1, level 1) = 0");
    let i = IrqFd { fd: 8, gsi: 33, flags: 2, resamplefd: u32::MAX, ..Default::default() };
    assert_eq!(
        with(VM, req::IRQFD, &i),
        "vm3: KVM_IRQFD(fd 8, GSI 33, flags = RESAMPLE, resample fd -1) = 0"
    );
    let e = IoEventFd { datamatch: 1, addr: 0xa00_0050, len: 4, fd: 9, flags: 1, pad: [0; 36] };
    assert_eq!(
        with(VM, req::IOEVENTFD, &e),
        "vm3: KVM_IOEVENTFD(fd 9, 4 bytes at 0xa000050, value 0x1, flags = DATAMATCH) = 0"
    );
    let m = Msi { address_lo: 0x809_0040, data: 7, flags: 1, devid: 0x10, ..Default::default() };
    assert_eq!(with(VM, req::SIGNAL_MSI, &m), "vm3: KVM_SIGNAL_MSI(0x7 at 0x8090040, device 0x10) = 0");
    let pin = IrqRoutingEntry { gsi: 5, kind: 1, u: [0, 37, 0, 0, 0, 0, 0, 0], ..Default::default() };
    let msi = IrqRoutingEntry { gsi: 6, kind: 2, u: [0x40, 1, 9, 8, 0, 0, 0, 0], ..Default::default() };
    let mut all = piece(ARG, &IrqRouting { nr: 2, flags: 0 });
    all.bytes.extend(piece(0, &pin).bytes);
    all.bytes.extend(piece(0, &msi).bytes);
    assert_eq!(
        line(&record(VM, req::SET_GSI_ROUTING, &[all], &[])),
        "vm3: KVM_SET_GSI_ROUTING(2 routes: 5 = pin 37, 6 = MSI 0x9 at 0x100000040 device 0x8) = 0"
    );
}

#[test]
fn set_up() {
    let c = EnableCap { cap: cap::ARM_NISV_TO_USER, args: [0, 5, 0, 0], flags: 1, ..Default::default() };
    assert_eq!(
        with(VM, req::ENABLE_CAP, &c),
        "vm3: KVM_ENABLE_CAP(ARM_NISV_TO_USER, [0x0, 0x5], flags = 0x1) = 0"
    );
    let i = VcpuInit { target: 5, features: [0b1101, 0, 0, 0, 0, 0, 0] };
    assert_eq!(
        with(VCPU, req::ARM_VCPU_INIT, &i),
        "vcpu3.0: KVM_ARM_VCPU_INIT(GENERIC_V8, features = POWER_OFF|PSCI_0_2|PMU_V3) = 0"
    );
    let r =
        record(VM, req::ARM_PREFERRED_TARGET, &[], &[piece(ARG, &VcpuInit { target: 5, features: [0; 7] })]);
    assert_eq!(line(&r), "vm3: KVM_ARM_PREFERRED_TARGET(-> GENERIC_V8, features = 0) = 0");
    assert_eq!(with(VCPU, req::ARM_VCPU_FINALIZE, &4u32), "vcpu3.0: KVM_ARM_VCPU_FINALIZE(SVE) = 0");
    assert_eq!(
        with(VCPU, req::SET_MP_STATE, &MpState { mp_state: 5 }),
        "vcpu3.0: KVM_SET_MP_STATE(STOPPED) = 0"
    );
    let r = record(VCPU, req::GET_MP_STATE, &[], &[piece(ARG, &MpState { mp_state: 0 })]);
    assert_eq!(line(&r), "vcpu3.0: KVM_GET_MP_STATE(-> RUNNABLE) = 0");
    let o = ArmCounterOffset { counter_offset: 0x1000, reserved: 1 };
    assert_eq!(
        with(VM, req::ARM_SET_COUNTER_OFFSET, &o),
        "vm3: KVM_ARM_SET_COUNTER_OFFSET(0x1000, reserved 0x1) = 0"
    );
    let d = CreateDevice { type_: device::TYPE_ARM_VGIC_V3, fd: 0, flags: 0 };
    let made = CreateDevice { fd: 11, ..d };
    let r = record(VM, req::CREATE_DEVICE, &[piece(ARG, &d)], &[piece(ARG, &made)]);
    assert_eq!(
        line(&CallRecord { opened: Some(Fd::Device(3, 7)), ..r }),
        "vm3: KVM_CREATE_DEVICE(GICv3 -> fd 11) = 0, GICv3@vm3"
    );
    let a = DeviceAttr { flags: 0, group: device::GRP_NR_IRQS, attr: 0, addr: DATA };
    let gic = Fd::Device(3, device::TYPE_ARM_VGIC_V3);
    let read = [piece(ARG, &a), piece(DATA, &96u32)];
    assert_eq!(
        line(&record(gic, req::SET_DEVICE_ATTR, &read, &[])),
        "GICv3@vm3: KVM_SET_DEVICE_ATTR(NR_IRQS = 96) = 0"
    );
    assert_eq!(
        line(&record(gic, req::GET_DEVICE_ATTR, &read[..1], &read[1..])),
        "GICv3@vm3: KVM_GET_DEVICE_ATTR(NR_IRQS -> 96) = 0"
    );
    assert_eq!(
        line(&record(gic, req::HAS_DEVICE_ATTR, &read[..1], &[])),
        "GICv3@vm3: KVM_HAS_DEVICE_ATTR(NR_IRQS) = 0"
    );
}

#[test]
fn debugging_and_running() {
    let mut d = GuestDebug { control: 0x2_0003, ..Default::default() };
    (d.dbg_bcr[1], d.dbg_bvr[1]) = (0x1e7, 0x4000);
    assert_eq!(
        with(VCPU, req::SET_GUEST_DEBUG, &d),
        "vcpu3.0: KVM_SET_GUEST_DEBUG(ENABLE|SINGLESTEP|USE_HW, bp1 0x4000 (control 0x1e7)) = 0"
    );
    let e = VcpuEvents { serror_pending: 1, serror_has_esr: 1, serror_esr: 0x12, ..Default::default() };
    assert_eq!(with(VCPU, req::SET_VCPU_EVENTS, &e), "vcpu3.0: KVM_SET_VCPU_EVENTS(SError, ESR 0x12) = 0");
    let r = record(VCPU, req::GET_VCPU_EVENTS, &[], &[piece(ARG, &VcpuEvents::default())]);
    assert_eq!(line(&r), "vcpu3.0: KVM_GET_VCPU_EVENTS(-> none) = 0");
    let mut m = piece(ARG, &SignalMask { len: 8 });
    m.bytes.extend(0x200u64.to_le_bytes());
    assert_eq!(
        line(&record(VCPU, req::SET_SIGNAL_MASK, &[m], &[])),
        "vcpu3.0: KVM_SET_SIGNAL_MASK(0x200) = 0"
    );

    let (before, mut after) = ([0u8; 4096], [0u8; 4096]);
    after[8] = 6;
    after[0x23] = 9;
    (after[0x28], after[0x30], after[0x34]) = (0x48, 4, 1);
    let run = CallRecord { arg: 0, run: Some((&before, &after)), ..record(VCPU, req::RUN, &[], &[]) };
    assert_eq!(line(&run), "vcpu3.0: KVM_RUN() = 0, MMIO write of 4 bytes at 0x9000000: 0x48");
    let refused = Err(Errno::ENOEXEC.because("the vCPU is not initialised"));
    assert_eq!(
        line(&CallRecord { result: refused, ..run.clone() }),
        "vcpu3.0: KVM_RUN() = ENOEXEC (the vCPU is not initialised)"
    );
    after[8] = 10;
    let run = CallRecord { arg: 0, run: Some((&before, &after)), ..record(VCPU, req::RUN, &[], &[]) };
    assert_eq!(
        line(&CallRecord { result: Err(Errno::EINTR), ..run }),
        "vcpu3.0: KVM_RUN() = EINTR (interrupted), INTR"
    );
}

#[test]
fn a_log_has_a_line_for_each_call_until_its_file_is_full() {
    #[derive(Clone, Default)]
    struct To(std::sync::Arc<std::sync::Mutex<Vec<u8>>>, usize);
    impl std::io::Write for To {
        fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
            if self.1 == 0 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.1 -= 1;
            self.0.lock().unwrap().extend(b);
            Ok(b.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let to = To(Default::default(), 2);
    let log = Log::new(to.clone());
    for _ in 0..4 {
        log.call(&CallRecord { arg: 0, ..record(VM, req::CREATE_IRQCHIP, &[], &[]) });
    }
    let text = String::from_utf8(to.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text, "   1.500000     42 vm3: KVM_CREATE_IRQCHIP() = 0\n".repeat(2));
}

/// A descriptor of a kind.
fn of_kind(kind: u8) -> Fd {
    match kind {
        on::SYSTEM => Fd::Kvm,
        on::VM => VM,
        on::VCPU => VCPU,
        _ => Fd::Device(3, device::TYPE_ARM_VGIC_V3),
    }
}

proptest! {
    /// Whatever the bytes are, a known request is one line with its name.
    #[test]
    fn any_bytes_make_one_line(
        n in 0..ALL.len(), kind in 0..4u8, bytes in proptest::collection::vec(any::<u8>(), 0..600),
        nested in proptest::collection::vec(any::<u8>(), 0..64), addr in any::<u64>(), ok in any::<bool>(),
    ) {
        let i: &Ioctl = &ALL[n];
        let fd = of_kind(1 << kind);
        prop_assume!(i.on & fd.kind() != 0);
        let pieces = [Piece { addr: ARG, bytes: bytes.clone() }, Piece { addr, bytes: nested }];
        let result = if ok { Ok(0) } else { Err(Errno::EINVAL) };
        let run = Some((bytes.as_slice(), bytes.as_slice()));
        let text = line(&CallRecord { result, run, ..record(fd, i.request(), &pieces, &pieces) });
        let start = format!("{fd}: KVM_{}(", i.name);
        prop_assert!(text.starts_with(&start) && !text.contains('\n'), "{}", text);
    }
}
