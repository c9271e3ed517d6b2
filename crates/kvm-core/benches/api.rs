//! What requests cost: registers one by one and all of them, an exit to the VMM and back, a vCPU that never runs.
//!
//! `cargo bench -p ulna-kvm-core --bench api`

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_main};
use ulna_kvm_abi::ioctl::request as req;
use ulna_kvm_abi::structs::{OneReg, UserspaceMemoryRegion};
use ulna_kvm_abi::{RegId, VcpuInit};
use ulna_kvm_core::raw::{ByteMem, Descriptor, FdTable, VcpuHandle};
use ulna_kvm_core::{ClockKind, Engine, Kvm, KvmConfig, Policy};
use ulna_profile::Profile;

const BASE: u64 = 0x10_0000;
const RAM: u64 = 0x8000_0000;

struct Guest {
    mem: ByteMem,
    files: FdTable,
    vm: i32,
    vcpu: i32,
    handle: Arc<VcpuHandle>,
}

fn guest(words: &[u32]) -> Guest {
    guest_on(words, Engine::default())
}

fn guest_on(words: &[u32], engine: Engine) -> Guest {
    let kvm = Kvm::new(KvmConfig {
        profile: Profile::builtin("n1").expect("profile"),
        policy: Policy::Hw,
        clock: ClockKind::Host,
        engine,
        engine_options: Default::default(),
        random: Arc::new(|| 4),
        wall_clock: Arc::new(|| 0),
        strict: false,
    });
    let (mem, files) = (ByteMem::new(BASE, 0x2_0000), FdTable::new(kvm).with_limit(100_000));
    let system = files.open_system();
    let vm = files.ioctl(system, req::CREATE_VM, 0, &mem);
    let vcpu = files.ioctl(vm, req::CREATE_VCPU, 0, &mem);
    let slot = UserspaceMemoryRegion {
        slot: 0,
        flags: 0,
        guest_phys_addr: RAM,
        memory_size: 0x1_0000,
        userspace_addr: BASE + 0x1_0000,
    };
    mem.put(BASE, slot).expect("memory");
    assert_eq!(files.ioctl(vm, req::SET_USER_MEMORY_REGION, BASE, &mem), 0);
    for (n, w) in words.iter().enumerate() {
        mem.put(BASE + 0x1_0000 + 4 * n as u64, *w).expect("memory");
    }
    let Some(Descriptor::Vcpu(handle)) = files.get(vcpu) else { panic!("no vCPU") };
    {
        let mut v = handle.lock();
        v.init(&VcpuInit { target: 5, features: [4, 0, 0, 0, 0, 0, 0] }).expect("init");
        v.set_one_reg(RegId::PC, &RAM.to_le_bytes()).expect("PC");
        v.set_one_reg(RegId::x(0), &0x1000_0000u64.to_le_bytes()).expect("x0");
    }
    Guest { mem, files, vm, vcpu, handle }
}

fn registers(c: &mut Criterion) {
    let g = guest(&[]);
    let mut group = c.benchmark_group("register");
    let some = [
        ("x0", RegId::x(0)),
        ("SCTLR_EL1", RegId::sysreg(0xc080)),
        ("ID_AA64PFR0_EL1", RegId::sysreg(0xc020)),
        ("CNTVCT", RegId::sysreg(0xdf1a)),
    ];
    for (name, id) in some {
        let mut b = [0; 8];
        group.bench_function(format!("get {name}"), |t| {
            t.iter(|| g.handle.lock().get_one_reg(black_box(id), &mut b));
        });
        group.bench_function(format!("set {name}"), |t| {
            t.iter(|| g.handle.lock().set_one_reg(black_box(id), black_box(&b)));
        });
    }
    let x0 = OneReg { id: RegId::x(0).0, addr: BASE + 64 };
    g.mem.put(BASE, x0).expect("memory");
    group.bench_function("get x0 by the raw entry", |t| {
        t.iter(|| g.files.ioctl(g.vcpu, req::GET_ONE_REG, black_box(BASE), &g.mem));
    });
    group.finish();
}

fn all_registers(c: &mut Criterion) {
    let g = guest(&[]);
    let list = g.handle.lock().reg_list().expect("list");
    println!("{} registers", list.len());
    c.bench_function("all registers saved and restored", |t| {
        t.iter(|| {
            let mut saved = Vec::with_capacity(list.len());
            let mut v = g.handle.lock();
            for id in v.reg_list().expect("list") {
                let mut b = [0; 16];
                v.get_one_reg(id, &mut b[..id.size()]).expect("get");
                saved.push((id, b));
            }
            for (id, b) in &saved {
                v.set_one_reg(*id, &b[..id.size()]).expect("set");
            }
        });
    });
}

fn exits(c: &mut Criterion) {
    // str x1, [x0]; b .-4
    let g = guest(&[0xf900_0001, 0x17ff_ffff]);
    for engine in [Engine::Interp, Engine::Jit] {
        c.bench_function(&format!("1000 calls of PSCI_VERSION, {engine:?}"), |t| {
            // movz x5, 1000; movz x0, 0x8400, lsl 16; hvc 0; sub x5, x5, 1; cbnz x5, .-12; movz x0, 0x1000, lsl 16;
            // str x1, [x0]; b .-28
            let g = guest_on(
                &[
                    0xd280_7d05,
                    0xd2b0_8000,
                    0xd400_0002,
                    0xd100_04a5,
                    0xb5ff_ffa5,
                    0xd2a2_0000,
                    0xf900_0001,
                    0x17ff_fff9,
                ],
                engine,
            );
            t.iter(|| g.handle.run());
            assert_eq!(g.handle.lock().mp_state(), 0);
        });
    }
    c.bench_function("MMIO exit and back", |t| t.iter(|| g.handle.run()));
    let g = guest(&[0xf900_0001, 0x17ff_ffff]);
    let mut v = g.handle.lock();
    c.bench_function("MMIO exit and back, without the page", |t| t.iter(|| v.run().map(drop)));
    drop(v);
    let g = guest(&[0xf900_0001, 0x17ff_ffff]);
    c.bench_function("MMIO exit and back by the raw entry", |t| {
        t.iter(|| g.files.ioctl(g.vcpu, req::RUN, 0, &g.mem));
    });
}

fn creation(c: &mut Criterion) {
    c.bench_function("a vCPU", |t| {
        t.iter_batched(
            || guest(&[]),
            |g| {
                for id in 1..64 {
                    assert!(g.files.ioctl(g.vm, req::CREATE_VCPU, id, &g.mem) > 0);
                }
                g
            },
            BatchSize::PerIteration,
        );
    });
}

#[allow(missing_docs)]
mod group {
    use super::*;
    criterion::criterion_group!(benches, registers, all_registers, exits, creation);
}
criterion_main!(group::benches);
