//! Tiny guests of hand-assembled words, and a VM to run them in.
#![allow(dead_code)]

pub mod events;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ulna_arm_regs::SysReg;
use ulna_kvm_abi::device::*;
use ulna_kvm_abi::{RegId, VcpuInit, vcpu_feature};
use ulna_kvm_core::{ClockKind, Device, Engine, Kvm, KvmConfig, Policy, Run, Vcpu, Vm};
use ulna_profile::{KernelLevel, Profile};

pub const RAM: u64 = 0x4000_0000;
pub const RAM_LEN: usize = 0x40_0000;
/// Where a guest stores its result: no memory is there.
pub const DONE: u64 = 0x1000_0000;
pub const GICD: u64 = 0x0800_0000;
pub const ITS: u64 = 0x0808_0000;
pub const GICR: u64 = 0x080a_0000;
const GUARD: usize = 0x1_0000;

/// Guest memory with guards around it.
pub struct Memory {
    base: *mut u8,
    pub len: usize,
}

// SAFETY: only accessed through the pointer, by volatile accesses, as guest memory is.
unsafe impl Send for Memory {}
// SAFETY: the same.
unsafe impl Sync for Memory {}

impl Memory {
    pub fn new(len: usize) -> Arc<Memory> {
        let layout = std::alloc::Layout::from_size_align(len + 2 * GUARD, 0x1000).expect("layout");
        // SAFETY: the size is not zero. Leaked, so that it outlives every slot.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        Arc::new(Memory { base, len })
    }
    pub fn host(&self) -> *mut u8 {
        self.base.wrapping_add(GUARD)
    }
    pub fn write32(&self, offset: usize, v: u32) {
        assert!(offset + 4 <= self.len);
        // SAFETY: inside the memory.
        unsafe { self.host().add(offset).cast::<u32>().write_volatile(v) };
    }
    pub fn read32(&self, offset: usize) -> u32 {
        assert!(offset + 4 <= self.len);
        // SAFETY: inside the memory.
        unsafe { self.host().add(offset).cast::<u32>().read_volatile() }
    }
    pub fn write64(&self, offset: usize, v: u64) {
        self.write32(offset, v as u32);
        self.write32(offset + 4, (v >> 32) as u32);
    }
    /// Bytes, a multiple of four of them.
    pub fn bytes(&self, offset: usize, bytes: &[u8]) {
        let words: Vec<u32> =
            bytes.chunks_exact(4).map(|w| w.try_into().map_or(0, u32::from_le_bytes)).collect();
        self.program(offset, &words);
    }
    pub fn program(&self, offset: usize, words: &[u32]) {
        for (n, w) in words.iter().enumerate() {
            self.write32(offset + 4 * n, *w);
        }
    }
    pub fn guards_are_whole(&self) -> bool {
        [0, GUARD + self.len].into_iter().all(|from| {
            // SAFETY: inside the allocation.
            (from..from + GUARD).all(|i| unsafe { self.base.add(i).read_volatile() } == 0)
        })
    }
    pub fn hash(&self) -> u64 {
        (0..self.len / 4).fold(0xcbf2_9ce4_8422_2325, |h: u64, n| {
            (h ^ u64::from(self.read32(4 * n))).wrapping_mul(0x100_0000_01b3)
        })
    }
}

pub fn kvm(profile: &str, clock: ClockKind) -> Kvm {
    kvm_on(profile, clock, Engine::default())
}

pub fn kvm_on(profile: &str, clock: ClockKind, engine: Engine) -> Kvm {
    Kvm::new(config(profile, clock, engine))
}

/// The KVM of another kernel, or one that hides what is private.
pub fn kvm_of(kernel: (u16, u16), strict: bool) -> Kvm {
    let mut c = config("n1", ClockKind::Host, Engine::default());
    c.profile.kernel = KernelLevel { major: kernel.0, minor: kernel.1 };
    c.strict = strict;
    Kvm::new(c)
}

pub fn config(profile: &str, clock: ClockKind, engine: Engine) -> KvmConfig {
    KvmConfig {
        profile: Profile::builtin(profile).expect("profile"),
        policy: Policy::Hw,
        clock,
        random: Arc::new(|| u64::MAX),
        wall_clock: Arc::new(|| 1_700_000_000_123_456_789),
        engine,
        engine_options: Default::default(),
        strict: false,
    }
}

/// A VM with RAM.
pub struct Guest {
    pub vm: Vm,
    pub memory: Arc<Memory>,
}

pub const PSCI: u32 = 1 << vcpu_feature::PSCI_0_2;
pub const OFF: u32 = 1 << vcpu_feature::POWER_OFF;

pub fn features(bits: u32) -> VcpuInit {
    VcpuInit { target: ulna_kvm_abi::ARM_TARGET_GENERIC_V8, features: [bits, 0, 0, 0, 0, 0, 0] }
}

impl Guest {
    pub fn new(profile: &str, clock: ClockKind) -> Guest {
        Guest::of(&kvm(profile, clock))
    }

    /// A VM of this KVM.
    pub fn of(kvm: &Kvm) -> Guest {
        let vm = kvm.create_vm(0).expect("VM");
        let memory = Memory::new(RAM_LEN);
        add_slot(&vm, 0, RAM, &memory);
        Guest { vm, memory }
    }

    /// A program that calls with what is in its registers and stores x0, again and again.
    pub fn asks(&self) {
        let once = [vec![HVC], done(0)].concat();
        let back = -(once.len() as i32);
        self.memory.program(0, &[once, vec![b(back)]].concat());
    }

    /// With one vCPU that runs `words` by this engine.
    pub fn on(engine: Engine, words: &[u32]) -> (Guest, Vcpu) {
        let vm = kvm_on("n1", ClockKind::Host, engine).create_vm(0).expect("VM");
        let memory = Memory::new(RAM_LEN);
        add_slot(&vm, 0, RAM, &memory);
        memory.program(0, words);
        let g = Guest { vm, memory };
        let v = g.vcpu(0, PSCI);
        (g, v)
    }

    /// With one vCPU that runs `words`.
    pub fn with(words: &[u32]) -> (Guest, Vcpu) {
        let g = Guest::new("n1", ClockKind::Host);
        g.memory.program(0, words);
        let v = g.vcpu(0, PSCI);
        (g, v)
    }

    pub fn vcpu(&self, id: u32, bits: u32) -> Vcpu {
        let mut v = self.vm.create_vcpu(id).expect("vCPU");
        v.init(&features(bits)).expect("init");
        set(&mut v, RegId::PC, RAM);
        v
    }

    /// A GICv3 with an ITS; after the vCPUs.
    pub fn gic(&self) -> [Device; 2] {
        let gic = self.vm.create_device(TYPE_ARM_VGIC_V3).expect("GIC");
        gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD).expect("distributor");
        gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR).expect("redistributors");
        let its = self.vm.create_device(TYPE_ARM_VGIC_ITS).expect("ITS");
        its.set_attr(GRP_ADDR, ITS_ADDR_TYPE, ITS).expect("ITS address");
        gic.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
        its.set_attr(GRP_CTRL, CTRL_INIT, 0).expect("init");
        [gic, its]
    }
}

pub fn add_slot(vm: &Vm, id: u32, at: u64, m: &Arc<Memory>) {
    // SAFETY: the memory is leaked and only accessed through its pointer.
    let r = unsafe { vm.set_user_memory_region(id, at, m.len as u64, m.host(), 0, m.clone()) };
    r.expect("slot");
}

pub fn set(v: &mut Vcpu, id: RegId, value: u64) {
    v.set_one_reg(id, &value.to_le_bytes()).expect("register");
}

pub fn get(v: &mut Vcpu, id: RegId) -> u64 {
    let mut b = [0; 8];
    v.get_one_reg(id, &mut b).expect("register");
    u64::from_le_bytes(b)
}

/// Runs until the guest stores its result.
pub fn result(v: &mut Vcpu) -> u64 {
    loop {
        match v.run().expect("run") {
            Run::MmioWrite(DONE, data) => {
                let mut b = [0; 8];
                b[..data.len()].copy_from_slice(data);
                return u64::from_le_bytes(b);
            }
            Run::Intr => {}
            other => panic!("the guest left by {other:x?}"),
        }
    }
}

/// A call by the program of [`Guest::asks`]: x0-x3 after it.
pub fn call(v: &mut Vcpu, x: [u64; 4]) -> [u64; 4] {
    for (n, x) in (0..).zip(x) {
        set(v, RegId::x(n), x);
    }
    result(v);
    [0, 1, 2, 3].map(|n| get(v, RegId::x(n)))
}

/// x0 of a call with one argument.
pub fn call1(v: &mut Vcpu, function: u64, x1: u64) -> u64 {
    call(v, [function, x1, 0, 0])[0]
}

/// What the guest program of calls (`ulna_guests::calls`) finds, called in this order by this vCPU.
pub fn answers(g: &Guest, v: &mut Vcpu, smc: bool, calls: &[[u64; 6]]) -> Vec<ulna_guests::Answer> {
    const TABLE: usize = 0x1_0000;
    g.memory.bytes(0, &ulna_guests::calls());
    let table = ulna_guests::Calls { smc, calls: calls.to_vec() }.bytes(DONE);
    g.memory.bytes(TABLE, &table);
    // What the guest did before is over.
    v.set_immediate_exit(true);
    assert!(matches!(v.run(), Ok(Run::Intr)));
    v.set_immediate_exit(false);
    set(v, RegId::PC, RAM);
    set(v, RegId::x(0), RAM + TABLE as u64);
    assert_eq!(result(v), calls.len() as u64);
    let words = (TABLE..TABLE + table.len()).step_by(4).map(|at| g.memory.read32(at));
    let answered: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    ulna_guests::Calls::answers(&answered)
}

/// What a write of a 64-bit register answers.
pub fn try_set(v: &mut Vcpu, id: RegId, value: u64) -> ulna_kvm_core::Result<()> {
    v.set_one_reg(id, &value.to_le_bytes())
}

/// Calls `kick` again and again until it is dropped.
pub struct Watchdog(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Watchdog {
    pub fn new(every: Duration, kick: impl Fn() + Send + 'static) -> Watchdog {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let body = move || {
            while !asked.load(Ordering::Relaxed) {
                std::thread::sleep(every);
                kick();
            }
        };
        Watchdog(stop, Some(std::thread::spawn(body)))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(t) = self.1.take() {
            t.join().expect("watchdog");
        }
    }
}

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

// An assembler's worth of words.

pub const HVC: u32 = 0xd400_0002;
pub const SMC: u32 = 0xd400_0003;
pub const WFI: u32 = 0xd503_207f;
pub const NOP: u32 = 0xd503_201f;
pub const ISB: u32 = 0xd503_3fdf;
pub const B_SELF: u32 = 0x1400_0000;

/// Loads a constant: always four words.
pub fn li(rd: u32, v: u64) -> [u32; 4] {
    let half = |n: u32| ((v >> (16 * n)) as u32 & 0xffff) << 5 | n << 21 | rd;
    [0xd280_0000 | half(0), 0xf280_0000 | half(1), 0xf280_0000 | half(2), 0xf280_0000 | half(3)]
}
/// str xt, [xn]
pub fn str_x(t: u32, n: u32) -> u32 {
    0xf900_0000 | n << 5 | t
}
/// str wt, [xn]
pub fn str_w(t: u32, n: u32) -> u32 {
    0xb900_0000 | n << 5 | t
}
/// ldr xt, [xn]
pub fn ldr_x(t: u32, n: u32) -> u32 {
    0xf940_0000 | n << 5 | t
}
/// cbz xt, words
pub fn cbz(t: u32, words: i32) -> u32 {
    0xb400_0000 | (words as u32 & 0x7_ffff) << 5 | t
}
/// b words
pub fn b(words: i32) -> u32 {
    0x1400_0000 | words as u32 & 0x3ff_ffff
}
/// mov xd, xm
pub fn mov(d: u32, m: u32) -> u32 {
    0xaa00_03e0 | m << 16 | d
}
pub fn mrs(t: u32, r: SysReg) -> u32 {
    0xd520_0000 | u32::from(r.code()) << 5 | t
}
pub fn msr(r: SysReg, t: u32) -> u32 {
    0xd500_0000 | u32::from(r.code()) << 5 | t
}
/// Stores `value` as a word at `at` through x9 and x10.
pub fn poke(at: u64, value: u32) -> Vec<u32> {
    [&li(9, at)[..], &li(10, value.into()), &[str_w(10, 9)]].concat()
}
/// Writes a system register through x10.
pub fn wr(r: SysReg, value: u64) -> Vec<u32> {
    [&li(10, value)[..], &[msr(r, 10)]].concat()
}
/// Stores x`t` as the result, through x9.
pub fn done(t: u32) -> Vec<u32> {
    [&li(9, DONE)[..], &[str_x(t, 9)]].concat()
}
/// The interrupt controller of vCPU `n`: private interrupts `mask` in group 1 and enabled, priorities 0x80.
pub fn start_gic(n: u64, mask: u32) -> Vec<u32> {
    let sgi = GICR + n * 0x2_0000 + 0x1_0000;
    [
        poke(GICD, 0x12),
        poke(GICR + n * 0x2_0000 + 0x14, 0),
        poke(sgi + 0x80, u32::MAX),
        poke(sgi + 0x100, mask),
        wr(SysReg::ICC_SRE_EL1, 7),
        wr(SysReg::ICC_PMR_EL1, 0xf0),
        wr(SysReg::ICC_IGRPEN1_EL1, 1),
        vec![ISB],
    ]
    .concat()
}
