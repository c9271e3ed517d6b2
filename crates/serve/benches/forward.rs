//! What it costs to ask another process: a register, an exit to the VMM and back, a VM with a vCPU.
//!
//! `cargo bench -p ulna-serve --bench forward`

use std::os::fd::AsFd;
use std::sync::Arc;

use criterion::{Criterion, criterion_main};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use ulna_kvm_abi::RegId;
use ulna_kvm_abi::ioctl::{self, request};
use ulna_kvm_abi::structs::{UserspaceMemoryRegion, VcpuInit, Wire};
use ulna_kvm_abi::wire::{Part, Request, op};
use ulna_kvm_core::{ClockKind, Kvm, KvmConfig, Policy};
use ulna_profile::Profile;
use ulna_serve::client::{Client, pair};
use ulna_serve::{Options, serve};

const RAM: u64 = 0x8000_0000;
const LEN: u64 = 0x10000;

fn connect() -> Client {
    let kvm = Kvm::new(KvmConfig {
        profile: Profile::builtin("n1").expect("profile"),
        policy: Policy::Hw,
        clock: ClockKind::Host,
        random: Arc::new(|| 4),
        wall_clock: Arc::new(|| 0),
        engine: Default::default(),
        engine_options: Default::default(),
        strict: false,
    });
    let (mine, theirs) = pair().expect("sockets");
    std::thread::spawn(move || serve(theirs, Options { kvm: Arc::new(kvm), strict: false, tracer: None }));
    Client::connect(mine).expect("hello")
}

/// A VM with a vCPU that is initialised.
fn vm(c: &mut Client) -> (Client, Client) {
    let (mut vm, _) = c.make(&ioctl::CREATE_VM, 0).expect("server").expect("vm");
    let (mut vcpu, _) = vm.make(&ioctl::CREATE_VCPU, 0).expect("server").expect("vcpu");
    let mut b = [0; 32];
    VcpuInit { target: 5, features: [4, 0, 0, 0, 0, 0, 0] }.to_bytes(&mut b);
    assert_eq!(vcpu.structure(&ioctl::ARM_VCPU_INIT, &b).expect("server").0, 0);
    (vm, vcpu)
}

fn forward() {
    let mut c = Criterion::default().configure_from_args();
    let mut client = connect();
    let (mut v, mut vcpu) = vm(&mut client);
    c.bench_function("KVM_GET_ONE_REG", |b| b.iter(|| vcpu.get_reg(RegId::PC.0)));
    let file = memfd_create("bench", MemfdFlags::CLOEXEC).expect("memfd");
    ftruncate(&file, LEN).expect("size");
    // str w1, [x0]; b .-4
    let code: Vec<u8> = [0xb900_0001u32, 0x17ff_ffff].iter().flat_map(|w| w.to_le_bytes()).collect();
    rustix::io::pwrite(&file, &code, 0).expect("code");
    let r = UserspaceMemoryRegion {
        guest_phys_addr: RAM,
        memory_size: LEN,
        userspace_addr: RAM,
        ..Default::default()
    };
    let whole = Part { addr: RAM, len: LEN, id: 1, ..Part::default() };
    assert_eq!(v.set_memory(&r, whole, Some(file.as_fd())).expect("server"), 0);
    assert_eq!(vcpu.set_reg(RegId::PC.0, RAM).expect("server"), 0);
    assert_eq!(vcpu.set_reg(RegId::x(0).0, 0x1000_0000).expect("server"), 0);
    let mut n = 0;
    c.bench_function("KVM_RUN to a write", |b| {
        b.iter(|| {
            n += 1;
            let run = Request { op: op::IOCTL, request: request::RUN, extra: n, ..Request::default() };
            assert_eq!(vcpu.ask(run, &[], &[], &[]).expect("server").head.result, 0);
        });
    });
    c.bench_function("a VM with a vCPU", |b| b.iter(|| vm(&mut client)));
    c.final_summary();
}

criterion_main!(forward);
