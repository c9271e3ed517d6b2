//! A server and native clients of it: what a client may do, and what comes of lies.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use ulna_kvm_abi::ioctl::{self, request};
use ulna_kvm_abi::structs::{UserspaceMemoryRegion, VcpuInit, Wire};
use ulna_kvm_abi::wire::{NEED_FILE, Part, Request, faults, op, part};
use ulna_kvm_abi::{Errno, RegId};
use ulna_kvm_core::{ClockKind, Kvm, KvmConfig, Policy};
use ulna_profile::Profile;
use ulna_serve::client::{Client, pair};
use ulna_serve::{Options, serve};

const RAM: u64 = 0x8000_0000;
const LEN: u64 = 0x1_0000;
/// Where the client says that it has the memory.
const USER: u64 = 0x7f00_0000_0000;

fn kvm() -> Arc<Kvm> {
    Arc::new(Kvm::new(KvmConfig {
        profile: Profile::builtin("n1").expect("profile"),
        policy: Policy::Hw,
        clock: ClockKind::Host,
        random: Arc::new(|| 4),
        wall_clock: Arc::new(|| 0),
        engine: Default::default(),
        engine_options: Default::default(),
        strict: false,
    }))
}

struct Server {
    connection: Client,
    thread: JoinHandle<std::io::Result<()>>,
}

fn server() -> Server {
    let (mine, theirs) = pair().expect("sockets");
    let options = Options { kvm: kvm(), strict: false, tracer: None };
    let thread = std::thread::spawn(move || serve(theirs, options));
    Server { connection: Client::connect(mine).expect("hello"), thread }
}

impl Server {
    /// The client goes; the server is over soon.
    fn end(self) -> std::io::Result<()> {
        drop(self.connection);
        let begin = Instant::now();
        while !self.thread.is_finished() {
            assert!(begin.elapsed() < Duration::from_secs(20), "the server does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.thread.join().expect("no panic")
    }
}

fn memory(program: &[u32]) -> OwnedFd {
    let file = memfd_create("test", MemfdFlags::CLOEXEC).expect("memfd");
    ftruncate(&file, LEN).expect("size");
    let bytes: Vec<u8> = program.iter().flat_map(|w| w.to_le_bytes()).collect();
    assert_eq!(rustix::io::pwrite(&file, &bytes, 0), Ok(bytes.len()));
    file
}

fn region(slot: u32) -> UserspaceMemoryRegion {
    UserspaceMemoryRegion {
        slot,
        guest_phys_addr: RAM,
        memory_size: LEN,
        userspace_addr: USER,
        ..Default::default()
    }
}

fn whole() -> Part {
    Part { addr: USER, len: LEN, id: 9, ..Part::default() }
}

/// A VM with memory and an initialised vCPU.
fn vm(s: &mut Server, program: &[u32]) -> (Client, Client, u32, OwnedFd) {
    let (mut vm, _) = s.connection.make(&ioctl::CREATE_VM, 0).expect("server").expect("vm");
    let (mut vcpu, serial) = vm.make(&ioctl::CREATE_VCPU, 0).expect("server").expect("vcpu");
    let file = memory(program);
    assert_eq!(
        vm.set_memory(&region(0), whole(), None).expect("server"),
        NEED_FILE,
        "it does not have the file"
    );
    assert_eq!(vm.set_memory(&region(0), whole(), Some(file.as_fd())).expect("server"), 0);
    let mut b = [0; 32];
    VcpuInit { target: 5, ..Default::default() }.to_bytes(&mut b);
    assert_eq!(vcpu.structure(&ioctl::ARM_VCPU_INIT, &b).expect("server").0, 0);
    assert_eq!(vcpu.set_reg(RegId::PC.0, RAM).expect("server"), 0);
    (vm, vcpu, serial, file)
}

fn run_request(number: u64) -> Request {
    Request { op: op::IOCTL, request: request::RUN, extra: number, ..Request::default() }
}

/// movz x0, #0x1000, lsl 16; str w1, [x0]; b .
const STORE: [u32; 3] = [0xd2a2_0000, 0xb900_0001, 0x1400_0000];
/// b .
const SPIN: [u32; 1] = [0x1400_0000];

#[test]
fn a_guest_runs_in_its_clients_memory() {
    let mut s = server();
    let (_vm, mut vcpu, serial, _file) = vm(&mut s, &STORE);
    let maps = vcpu.ask(Request { op: op::MAP, ..Request::default() }, &[], &[], &[]).expect("server");
    assert_eq!((maps.head.result, maps.fds.len()), (0, 2));
    let a = vcpu.ask(run_request(1), &[], &[], &[]).expect("server");
    assert_eq!(a.head.result, 0);
    let mut page = [0; 0x40];
    assert_eq!(rustix::io::pread(&maps.fds[0], &mut page, 0), Ok(0x40));
    assert_eq!(u32::from_bytes(&page[8..]), ulna_kvm_abi::exit::MMIO);
    assert_eq!(u64::from_bytes(&page[0x20..]), 0x1000_0000);
    assert_eq!(vcpu.get_reg(RegId::PC.0).expect("server"), Ok(RAM + 4));
    // A kick for a run that is over ends none that comes later; one for a run to come ends that.
    let kick = |run| Request { op: op::KICK, arg: serial.into(), extra: run, ..Request::default() };
    s.connection.send(kick(1), &[], &[], &[]).expect("server");
    s.connection.send(kick(2), &[], &[], &[]).expect("server");
    let a = vcpu.ask(run_request(2), &[], &[], &[]).expect("server");
    assert_eq!(a.head.result, -Errno::EINTR.0, "the loop at the end");
    s.end().expect("a client may go at any time");
}

#[test]
fn a_client_that_goes_ends_its_guests() {
    let mut s = server();
    let (_vm, vcpu, _, _file) = vm(&mut s, &SPIN);
    vcpu.send(run_request(1), &[], &[], &[]).expect("server");
    std::thread::sleep(Duration::from_millis(20));
    // Its channels are still open here: the connection decides.
    s.end().expect("end");
}

#[test]
fn one_clients_guests_are_not_anothers() {
    let (mut a, mut b) = (server(), server());
    let (_vm, mut vcpu, serial, _file) = vm(&mut a, &SPIN);
    vcpu.send(run_request(1), &[], &[], &[]).expect("server");
    // The other's kick of the same number goes nowhere.
    let kick = Request { op: op::KICK, arg: serial.into(), extra: 1, ..Request::default() };
    b.connection.send(kick, &[], &[], &[]).expect("server");
    assert_eq!(b.connection.number(&ioctl::GET_API_VERSION, 0).expect("server"), 12);
    b.end().expect("end");
    a.connection.send(kick, &[], &[], &[]).expect("server");
    assert_eq!(vcpu.answer().expect("server").head.result, -Errno::EINTR.0);
    a.end().expect("end");
}

/// Stores w1 to the ninth page, then to nowhere.
const TOUCH: [u32; 6] = [0xd2b0_0000, 0xf290_0000, 0xb900_0001, 0xd2a2_0002, 0xb900_0041, 0x1400_0000];

#[test]
fn a_client_hears_of_its_guests_faults() {
    let mut s = server();
    let (_vm, mut vcpu, _, file) = vm(&mut s, &TOUCH);
    let made =
        s.connection.ask(Request { op: op::FAULTS, ..Request::default() }, &[], &[], &[]).expect("server");
    let Some(uffd) = made.fds.first() else {
        // A host may not let anybody have one.
        assert!([-Errno::EPERM.0, -Errno::ENOSYS.0].contains(&made.head.result), "{}", made.head.result);
        return;
    };
    let mut ask = |request: u32, words: &[u64], more: &[Part], data: &[u8]| {
        let b: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut parts = vec![Part { addr: 0x10, len: b.len() as u64, kind: part::IN, ..Part::default() }];
        parts.extend_from_slice(more);
        let head = Request { op: op::FAULT_IOCTL, request, ..Request::default() };
        let a = s.connection.ask(head, &parts, &[&b, data], &[uffd.as_fd(), file.as_fd()]).expect("server");
        (a.head.result, a.head.extra)
    };
    let shown = Part { kind: part::MEMORY, fd: 2, ..whole() };
    assert_eq!(
        ask(faults::API, &[0xaa, 1 << 1, 0], &[], &[]).0,
        -Errno::EINVAL.0,
        "not of the server's forks"
    );
    assert_eq!(ask(faults::API, &[0xaa, 0, 0], &[], &[]).0, 0);
    assert_eq!(ask(faults::REGISTER, &[USER], &[shown], &[]).0, -Errno::EFAULT.0, "too short");
    assert_eq!(ask(faults::REGISTER, &[USER + 0x1000_0000, LEN, 1, 0], &[shown], &[]).0, -Errno::EINVAL.0);
    assert_eq!(ask(0xc020_aa77, &[0; 4], &[], &[]).0, -Errno::EINVAL.0);
    let (result, there) = ask(faults::REGISTER, &[USER, LEN, 1, 0], &[shown], &[]);
    assert_eq!((result, there != 0), (0, true));
    vcpu.send(run_request(1), &[], &[], &[]).expect("server");
    let mut message = [0; faults::MESSAGE];
    let begin = Instant::now();
    while rustix::io::read(uffd, &mut message) != Ok(faults::MESSAGE) {
        assert!(begin.elapsed() < Duration::from_secs(20), "no fault");
        std::thread::sleep(Duration::from_millis(1));
    }
    let page = there + 0x8000;
    assert_eq!((message[0], u64::from_bytes(&message[16..]) & !0xfff), (faults::PAGEFAULT, page));
    let part = Part { addr: 0x5000, len: 0x1000, kind: part::IN, ..Part::default() };
    assert_eq!(
        ask(faults::COPY, &[page, 0x5000, 0x2000, 0, 0], &[part], &[0xab; 0x1000]).0,
        -Errno::EFAULT.0
    );
    assert_eq!(ask(faults::COPY, &[page, 0x5000, 0x1000, 0, 0], &[part], &[0xab; 0x1000]).0, 0);
    assert_eq!(vcpu.answer().expect("server").head.result, 0);
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::pread(&file, &mut bytes, 0x8000), Ok(8));
    assert_eq!(bytes, [0, 0, 0, 0, 0xab, 0xab, 0xab, 0xab]);
    s.end().expect("end");
}

#[test]
fn a_fault_that_nobody_handles_ends_with_the_client() {
    let mut s = server();
    let (_vm, vcpu, _, file) = vm(&mut s, &TOUCH);
    let made =
        s.connection.ask(Request { op: op::FAULTS, ..Request::default() }, &[], &[], &[]).expect("server");
    let Some(uffd) = made.fds.first() else { return };
    let shown = Part { kind: part::MEMORY, fd: 2, ..whole() };
    for (request, words, parts) in
        [(faults::API, &[0xaa, 0, 0][..], &[][..]), (faults::REGISTER, &[USER, LEN, 1, 0], &[shown])]
    {
        let b: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut all = vec![Part { addr: 0x10, len: b.len() as u64, kind: part::IN, ..Part::default() }];
        all.extend_from_slice(parts);
        let head = Request { op: op::FAULT_IOCTL, request, ..Request::default() };
        let a = s.connection.ask(head, &all, &[&b], &[uffd.as_fd(), file.as_fd()]).expect("server");
        assert_eq!(a.head.result, 0);
    }
    vcpu.send(run_request(1), &[], &[], &[]).expect("server");
    std::thread::sleep(Duration::from_millis(30));
    drop(made);
    s.end().expect("end");
}

#[test]
fn what_is_not_there_is_efault() {
    let mut s = server();
    let (mut vm, mut vcpu, _, _file) = vm(&mut s, &SPIN);
    for i in [&ioctl::SET_ONE_REG, &ioctl::GET_ONE_REG, &ioctl::SET_MP_STATE, &ioctl::GET_REG_LIST] {
        assert_eq!(vcpu.number(i, 0x1000).expect("server"), -Errno::EFAULT.0, "{}", i.name);
    }
    // Memory beyond what the client says that it has; a descriptor that is no eventfd; a list with no room.
    let far = UserspaceMemoryRegion { slot: 1, guest_phys_addr: RAM * 2, memory_size: LEN * 2, ..region(1) };
    assert_eq!(vm.set_memory(&far, whole(), None).expect("server"), -Errno::ENOMEM.0);
    let (r, n) = vcpu.structure(&ioctl::GET_REG_LIST, &0u64.to_le_bytes()).expect("server");
    assert_eq!((r, n.len()), (-Errno::E2BIG.0, 8));
    assert!(u64::from_bytes(&n) > 200);
    s.end().expect("end");
}

#[test]
fn channels_close_in_any_order() {
    let mut s = server();
    let (vm, mut vcpu, _, _file) = vm(&mut s, &STORE);
    drop(vm);
    assert_eq!(vcpu.ask(run_request(1), &[], &[], &[]).expect("server").head.result, 0);
    drop(vcpu);
    for _ in 0..50 {
        let (mut vm, _) = s.connection.make(&ioctl::CREATE_VM, 0).expect("server").expect("vm");
        let (vcpu, _) = vm.make(&ioctl::CREATE_VCPU, 0).expect("server").expect("vcpu");
        drop((vm, vcpu));
    }
    s.end().expect("end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Bytes that are no frames close the channel they came on and nothing else.
    #[test]
    fn garbage_closes_its_channel(bytes in prop::collection::vec(any::<u8>(), 40..400), header in any::<bool>()) {
        let mut s = server();
        let (mut vm, _) = s.connection.make(&ioctl::CREATE_VM, 0).expect("server").expect("vm");
        let mut bytes = bytes;
        if header {
            bytes[..4].copy_from_slice(b"ulna");
            bytes[4..6].copy_from_slice(&op::IOCTL.to_le_bytes());
        }
        ulna_serve::frame::send(vm.socket(), &[&bytes], &[]).expect("sent");
        rustix::net::shutdown(vm.socket(), rustix::net::Shutdown::Write).expect("shut");
        // It answers what it understood, then closes.
        let end = loop {
            match vm.answer() {
                Ok(_) => {}
                Err(e) => break e.kind(),
            }
        };
        prop_assert!(matches!(end, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{end}");
        prop_assert_eq!(s.connection.number(&ioctl::GET_API_VERSION, 0).expect("server"), 12);
        s.end().expect("end");
    }

    /// Memory parts with any numbers map nothing that is not there.
    #[test]
    fn lies_about_memory_are_refused(addr in any::<u64>(), len in any::<u64>(), offset in any::<u64>(), page in any::<bool>()) {
        let mut s = server();
        let (mut vm, _) = s.connection.make(&ioctl::CREATE_VM, 0).expect("server").expect("vm");
        let mask = if page { !0xfff } else { u64::MAX };
        let lie = Part { addr: addr & mask, len: len & mask, offset: offset & mask, id: 3, ..Part::default() };
        let file = memory(&SPIN);
        let r = vm.set_memory(&region(0), lie, Some(file.as_fd())).expect("server");
        prop_assert!(r == 0 || r == -Errno::ENOMEM.0, "{}", r);
        let kind = part::IN | part::OUT;
        let long = Part { addr: 0x1000, len, kind, ..Part::default() };
        let head = Request { op: op::IOCTL, request: request::IRQ_LINE, arg: 0x1000, ..Request::default() };
        // More than there is: the channel is closed.
        if len > 8 {
            vm.send(head, &[long], &[&[0; 8]], &[]).expect("sent");
            prop_assert!(vm.answer().is_err());
        }
        s.end().expect("end");
    }
}
