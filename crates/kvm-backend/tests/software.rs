//! The software KVM through the traits that a VMM holds.

use std::sync::Arc;
use std::time::Duration;

use ulna_kvm_backend::software::{ClockKind, Engine, KvmConfig, Policy, Software};
use ulna_kvm_backend::{Errno, GuestRegion, Hypervisor, RegId, Vcpu, VcpuExit, VcpuInit, Vm, abi};
use ulna_profile::Profile;
use vm_memory::{Bytes, GuestAddress, MemoryRegionAddress, MmapRegion};

const RAM: u64 = 0x4000_0000;

/// A VM with one vCPU at these words.
fn machine(words: &[u32]) -> (Arc<dyn Vm>, Arc<GuestRegion>, Box<dyn Vcpu>) {
    let kvm = Software::new(KvmConfig {
        profile: Profile::builtin("n1").expect("profile"),
        policy: Policy::Hw,
        clock: ClockKind::Host,
        random: Arc::new(|| 4),
        wall_clock: Arc::new(|| 0),
        engine: Engine::default(),
        engine_options: Default::default(),
        strict: false,
    });
    let vm = kvm.create_vm(0).expect("VM");
    let mapping = MmapRegion::new(0x1_0000).expect("memory");
    let region = Arc::new(GuestRegion::new(mapping, GuestAddress(RAM)).expect("region"));
    for (n, w) in (0..).zip(words) {
        region.write_obj(*w, MemoryRegionAddress(4 * n)).expect("word");
    }
    vm.set_memory(0, RAM, region.clone(), 0).expect("slot");
    let mut vcpu = vm.create_vcpu(0).expect("vCPU");
    let mut init: VcpuInit = vm.preferred_target();
    init.features[0] |= 1 << abi::vcpu_feature::PSCI_0_2;
    vcpu.init(&init).expect("init");
    vcpu.set_reg_u64(RegId::PC, RAM).expect("PC");
    vcpu.set_reg_u64(RegId::x(1), 0x0900_0000).expect("x1");
    (vm, region, vcpu)
}

#[test]
fn exits_reach_the_vmm_and_answers_the_guest() {
    // ldr w0, [x1]; add w0, w0, #1; str w0, [x1, #4]; str w0, [x2]
    let (_vm, region, mut v) = machine(&[0xb940_0020, 0x1100_0400, 0xb900_0420, 0xb900_0040, 0x1400_0000]);
    v.set_reg_u64(RegId::x(2), RAM + 0x8000).expect("x2");
    match v.run().expect("run") {
        VcpuExit::MmioRead(0x0900_0000, data) => data.copy_from_slice(&41u32.to_le_bytes()),
        other => panic!("{other:?}"),
    }
    match v.run().expect("run") {
        VcpuExit::MmioWrite(0x0900_0004, data) => assert_eq!(data, 42u32.to_le_bytes()),
        other => panic!("{other:?}"),
    }
    let kicker = v.kicker();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        kicker.kick();
    });
    assert!(matches!(v.run(), Ok(VcpuExit::Intr)));
    thread.join().expect("thread");
    assert_eq!(region.read_obj::<u32>(MemoryRegionAddress(0x8000)).expect("word"), 42);
    assert!(v.instructions().expect("counted") > 4);
}

#[test]
fn refusals_carry_the_errno_of_kvm() {
    let (vm, region, mut v) = machine(&[0xa940_0822]); // ldp x2, x2, [x1]
    assert_eq!(v.run().err(), Some(Errno::ENOSYS));
    assert_eq!(v.get_reg_u64(RegId::PC), Ok(RAM));
    assert_eq!(vm.set_memory(1, RAM + 0x8000, region.clone(), 0), Err(Errno::EEXIST), "overlap");
    assert_eq!(vm.set_memory(1, RAM + 0x8_0001, region, 0), Err(Errno::EINVAL), "alignment");
    assert_eq!(vm.create_device(99).err(), Some(Errno::ENODEV));
    assert_eq!(vm.create_vcpu(0).err(), Some(Errno::EEXIST));
    assert_eq!(v.set_attr(77, 0, 0), Err(Errno::ENXIO));
    assert_eq!(v.set_mp_state(99), Err(Errno::EINVAL));
}
