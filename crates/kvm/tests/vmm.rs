//! A small VMM as it would be written against kvm-ioctls: only the imports name this crate.

use std::os::raw::c_int;

use ulna_kvm::bindings::{
    KVM_ARM_VCPU_PSCI_0_2, KVM_CREATE_DEVICE_TEST, KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR,
    KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_MP_STATE_RUNNABLE, KVM_REG_ARM_CORE,
    KVM_REG_ARM64, KVM_REG_SIZE_U64, KVM_SYSTEM_EVENT_SHUTDOWN, KVM_VGIC_V3_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_REDIST, RegList, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, kvm_enable_cap, kvm_mp_state, kvm_regs,
    kvm_userspace_memory_region, kvm_vcpu_init, user_pt_regs,
};
use ulna_kvm::{Cap, Error, IoEventAddress, Kvm, NoDatamatch, VcpuExit, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

const RAM: u64 = 0x8000_0000;
const RAM_SIZE: usize = 0x1_0000;
const DEVICE: u64 = 0x1000_0000;

const fn core_reg(offset: usize) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (offset / 4) as u64
}

fn x(n: usize) -> u64 {
    core_reg(std::mem::offset_of!(kvm_regs, regs) + std::mem::offset_of!(user_pt_regs, regs) + 8 * n)
}

const PC: u64 = core_reg(std::mem::offset_of!(kvm_regs, regs) + std::mem::offset_of!(user_pt_regs, pc));

/// Memory for a guest, mapped as VMMs do.
struct Memory(*mut u8);

impl Memory {
    fn new() -> Memory {
        // SAFETY: a new anonymous mapping.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                RAM_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_ANONYMOUS | libc::MAP_PRIVATE,
                -1,
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        Memory(at.cast())
    }

    fn load(&self, words: &[u32]) {
        for (n, w) in words.iter().enumerate() {
            // SAFETY: inside the mapping.
            unsafe { self.0.cast::<u32>().add(n).write_volatile(*w) };
        }
    }
}

fn get(vcpu: &VcpuFd, id: u64) -> u64 {
    let mut b = [0; 8];
    assert_eq!(vcpu.get_one_reg(id, &mut b).unwrap(), 8);
    u64::from_le_bytes(b)
}

fn machine(words: &[u32]) -> (VmFd, VcpuFd) {
    let kvm = Kvm::new().unwrap();
    assert!(kvm.check_extension(Cap::OneReg) && kvm.check_extension(Cap::UserMemory));
    assert_eq!(kvm.get_api_version(), 12);
    let vm = kvm.create_vm().unwrap();
    let memory = Memory::new();
    memory.load(words);
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: RAM,
        memory_size: RAM_SIZE as u64,
        userspace_addr: memory.0 as u64,
    };
    // SAFETY: never unmapped.
    unsafe { vm.set_user_memory_region(region) }.unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut kvi = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut kvi).unwrap();
    kvi.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    vcpu.vcpu_init(&kvi).unwrap();
    vcpu.set_one_reg(PC, &RAM.to_le_bytes()).unwrap();
    (vm, vcpu)
}

#[test]
fn ten_instructions_an_access_and_a_register() {
    let (_vm, mut vcpu) = machine(&[
        0xd2800000, // mov  x0, #0
        0x91000400, // add  x0, x0, #1
        0x8b000000, // add  x0, x0, x0
        0x8b000000, // add  x0, x0, x0
        0xf9400021, // ldr  x1, [x1]     ; from nowhere
        0x8b010000, // add  x0, x0, x1
        0xd1000400, // sub  x0, x0, #1
        0xb9000040, // str  w0, [x2]     ; to nowhere
        0x52800100, // mov  w0, #8       ; PSCI SYSTEM_OFF
        0x72b08000, // movk w0, #0x8400, lsl #16
        0xd4000002, // hvc  #0
    ]);
    vcpu.set_one_reg(x(1), &DEVICE.to_le_bytes()).unwrap();
    vcpu.set_one_reg(x(2), &(DEVICE + 8).to_le_bytes()).unwrap();
    match vcpu.run().unwrap() {
        VcpuExit::MmioRead(DEVICE, data) => data.copy_from_slice(&0x100u64.to_le_bytes()),
        other => panic!("{other:?}"),
    }
    match vcpu.run().unwrap() {
        VcpuExit::MmioWrite(address, data) => assert_eq!((address, data), (DEVICE + 8, &[3, 1, 0, 0][..])),
        other => panic!("{other:?}"),
    }
    assert_eq!(get(&vcpu, x(0)), 0x103);
    match vcpu.run().unwrap() {
        VcpuExit::SystemEvent(kind, data) => assert_eq!((kind, data), (KVM_SYSTEM_EVENT_SHUTDOWN, &[0][..])),
        other => panic!("{other:?}"),
    }
    assert_eq!(vcpu.get_kvm_run().exit_reason, 24);
}

#[test]
fn immediate_exit_and_kicks_are_eintr() {
    let (_vm, mut vcpu) = machine(&[0x1400_0000]); // b .
    vcpu.set_kvm_immediate_exit(1);
    assert_eq!(vcpu.run().unwrap_err(), Error::new(libc::EINTR));
    vcpu.set_kvm_immediate_exit(0);
    let kicker = vcpu.kicker();
    let t = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        kicker.kick();
    });
    assert_eq!(vcpu.run().unwrap_err().errno(), libc::EINTR);
    t.join().unwrap();
    assert_eq!(get(&vcpu, PC), RAM);
}

#[test]
fn devices_are_set_up_by_attributes_in_this_process() {
    let kvm = Kvm::builder().host("n1").build().unwrap();
    let vm = kvm.create_vm().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut wanted = kvm_create_device {
        type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
        fd: 0,
        flags: KVM_CREATE_DEVICE_TEST,
    };
    vm.create_device(&mut wanted).unwrap();
    wanted.flags = 0;
    let gic = vm.create_device(&mut wanted).unwrap();
    assert_eq!(vm.create_device(&mut wanted).err().unwrap().errno(), libc::EEXIST);
    let set = |group, attr: u32, addr: u64| {
        gic.set_device_attr(&kvm_device_attr { flags: 0, group, attr: attr.into(), addr })
    };
    let (dist, redist, lines) = (0x0800_0000u64, 0x080a_0000u64, 128u32);
    set(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &raw const dist as u64).unwrap();
    set(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, &raw const redist as u64).unwrap();
    set(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &raw const lines as u64).unwrap();
    assert_eq!(set(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, 0).unwrap_err().errno(), libc::EFAULT);
    set(KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, 0).unwrap();
    let mut read = 0u32;
    let mut attr = kvm_device_attr {
        flags: 0,
        group: KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
        attr: 0,
        addr: &raw mut read as u64,
    };
    // SAFETY: a u32 is there.
    unsafe { gic.get_device_attr(&mut attr) }.unwrap();
    assert_eq!(read, 128);
    assert_eq!(vm.create_vcpu(1).err().unwrap().errno(), libc::EBUSY, "the GIC is initialised");
    let timer = kvm_device_attr { group: 1, attr: 4, ..Default::default() };
    assert_eq!(vcpu.has_device_attr(&timer).unwrap_err().errno(), libc::ENXIO);
    vm.has_device_attr(&kvm_device_attr::default()).unwrap();

    let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    vm.register_irqfd(&event, 3).unwrap();
    let same = event.try_clone().unwrap();
    assert_eq!(vm.register_irqfd(&same, 4).unwrap_err().errno(), libc::EBUSY, "under another number");
    vm.unregister_irqfd(&same, 3).unwrap();
    let at = IoEventAddress::Mmio(DEVICE);
    vm.register_ioevent(&event, &at, 7u32).unwrap();
    assert_eq!(vm.register_ioevent(&event, &at, 7u32).unwrap_err().errno(), libc::EEXIST);
    assert_eq!(vm.unregister_ioevent(&event, &at, NoDatamatch).unwrap_err().errno(), libc::ENOENT);
    vm.unregister_ioevent(&event, &at, 7u32).unwrap();
    vm.set_irq_line(1 << 24 | 32, true).unwrap();
}

#[test]
fn registers_lists_and_states() {
    let (vm, vcpu) = machine(&[]);
    let mut short = RegList::new(1).unwrap();
    assert_eq!(vcpu.get_reg_list(&mut short).unwrap_err().errno(), libc::E2BIG);
    let mut list = RegList::new(500).unwrap();
    vcpu.get_reg_list(&mut list).unwrap();
    assert!(list.as_slice().len() > 200 && list.as_slice()[0] == x(0));
    for id in list.as_slice() {
        let mut b = [0; 256];
        let n = vcpu.get_one_reg(*id, &mut b).unwrap();
        assert_eq!(vcpu.set_one_reg(*id, &b[..n]).unwrap(), n, "{id:#x}");
    }
    assert_eq!(vcpu.get_one_reg(PC, &mut [0; 4]).unwrap_err().errno(), libc::EINVAL);
    assert_eq!(vcpu.get_mp_state().unwrap().mp_state, KVM_MP_STATE_RUNNABLE);
    vcpu.set_mp_state(kvm_mp_state { mp_state: 5 }).unwrap();
    assert_eq!(vcpu.set_mp_state(kvm_mp_state { mp_state: 1 }).unwrap_err().errno(), libc::EINVAL);
    let sve: c_int = 4;
    assert_eq!(vcpu.vcpu_finalize(&sve).unwrap_err().errno(), libc::EINVAL);
    let events = vcpu.get_vcpu_events().unwrap();
    assert_eq!(events.exception.serror_pending, 0);
    vcpu.set_vcpu_events(&events).unwrap();
    vcpu.set_guest_debug(&Default::default()).unwrap();
    vm.enable_cap(&kvm_enable_cap { cap: 177, ..Default::default() }).unwrap();
    assert_ne!(vm.get_reg_writable_masks().unwrap()[4 * 8], 0);
}

#[test]
fn strictness_refuses_what_should_be_zero() {
    let attr = kvm_device_attr { flags: 1, ..Default::default() };
    for (strict, errno) in [(false, None), (true, Some(libc::EINVAL))] {
        let vm = Kvm::builder().strict(strict).build().unwrap().create_vm().unwrap();
        assert_eq!(vm.has_device_attr(&attr).err().map(Error::errno), errno);
    }
}

static RUNNING: std::sync::atomic::AtomicPtr<VcpuFd> =
    std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());

extern "C" fn on_signal(_: c_int) {
    let vcpu = RUNNING.load(std::sync::atomic::Ordering::SeqCst);
    if !vcpu.is_null() {
        // SAFETY: the handler runs on the thread that is in `run`, which looks at the page by atomic loads only.
        unsafe { (*vcpu).set_kvm_immediate_exit(1) };
    }
}

/// As VMMs stop their vCPUs: a signal whose handler sets immediate_exit.
#[test]
fn a_signal_ends_guests_that_execute_and_guests_that_wait() {
    use std::sync::atomic::Ordering;
    // SAFETY: a handler that only stores to atomics and wakes a futex.
    unsafe { libc::signal(libc::SIGUSR1, on_signal as *const () as libc::sighandler_t) };
    // b . ; and wfi, b .-4
    for program in [&[0x1400_0000u32][..], &[0xd503_207f, 0x17ff_ffff]] {
        let (_vm, mut vcpu) = machine(program);
        RUNNING.store(&raw mut vcpu, Ordering::SeqCst);
        // SAFETY: of this thread.
        let me = unsafe { libc::pthread_self() } as usize;
        let t = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(30));
            // SAFETY: the thread waits for this one.
            unsafe { libc::pthread_kill(me as libc::pthread_t, libc::SIGUSR1) };
        });
        assert_eq!(vcpu.run().unwrap_err().errno(), libc::EINTR);
        assert_eq!(vcpu.get_kvm_run().exit_reason, 10, "KVM_EXIT_INTR");
        t.join().unwrap();
        RUNNING.store(std::ptr::null_mut(), Ordering::SeqCst);
    }
}
