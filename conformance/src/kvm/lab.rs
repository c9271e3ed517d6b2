//! The machine under test as the probe of the recordings had its own: one process with `/dev/kvm`, asked by number.
//!
//! Everything goes through the raw entry of `kvm-core`, so that a replay reads like the probe that made the recordings
//! (`shared/oracle/README.md`): a result is what `ioctl()` returned, or minus errno.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ulna_kvm_abi::device::*;
use ulna_kvm_abi::ioctl::request;
use ulna_kvm_abi::structs::*;
use ulna_kvm_abi::{RegId, vcpu_feature};
use ulna_kvm_core::raw::{ByteMem, Descriptor, FdTable, UserMem, VcpuHandle, run_offset};
use ulna_kvm_core::{ClockKind, Engine, EngineOptions, Kvm, KvmConfig, Policy};
use ulna_profile::Profile;

/// Guest physical address of the RAM.
pub const RAM: u64 = 0x8000_0000;
/// Bytes of RAM in a VM of the probe.
pub const RAM_LEN: u64 = 0x1_0000;
/// Offset of the exception vectors in RAM.
pub const VECTORS: u64 = 0x1000;
/// A guest physical address that is nothing: a store there leaves the guest.
pub const NOWHERE: u64 = 0x7000_0000;
const GICD: u64 = 0x0800_0000;
const GICR: u64 = 0x0810_0000;

/// Where structures, what they lead to, and RAM stand in the caller's memory.
const STRUCT: u64 = 0x1_0000;
const VALUE: u64 = 0x1_1000;
const SCRATCH: u64 = 0x1_8000;
const HOST_RAM: u64 = 0x2_0000;
const HOST_RAM_LEN: u64 = 0x20_0000;

/// KVM_CAP_ARM_MTE.
pub const CAP_ARM_MTE: u32 = 205;

/// How a VM and its vCPU are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cfg {
    /// As the recordings call it.
    pub name: &'static str,
    /// Bits of VCPU_INIT.
    pub features: u32,
    /// With a GICv3 that is placed and initialised.
    pub gic: bool,
    /// KVM_CAP_ARM_MTE enabled.
    pub mte: bool,
}

const fn bit(n: u32) -> u32 {
    1 << n
}

/// KVM_ARM_VCPU_PSCI_0_2.
pub const PSCI: u32 = bit(vcpu_feature::PSCI_0_2);
/// KVM_ARM_VCPU_POWER_OFF.
pub const OFF: u32 = bit(vcpu_feature::POWER_OFF);
/// KVM_ARM_VCPU_PMU_V3.
pub const PMU: u32 = bit(vcpu_feature::PMU_V3);
/// KVM_ARM_VCPU_SVE.
pub const SVE: u32 = bit(vcpu_feature::SVE);
/// KVM_ARM_VCPU_EL1_32BIT.
pub const EL1_32BIT: u32 = bit(vcpu_feature::EL1_32BIT);
const PTRAUTH: u32 = bit(vcpu_feature::PTRAUTH_ADDRESS) | bit(vcpu_feature::PTRAUTH_GENERIC);
/// KVM_ARM_VCPU_HAS_EL2.
pub const EL2: u32 = bit(7);

/// One PSCI vCPU and nothing else.
pub const PLAIN: Cfg = Cfg { name: "psci", features: PSCI, gic: false, mte: false };
/// The same with a GICv3.
pub const WITH_GIC: Cfg = Cfg { name: "gic", features: PSCI, gic: true, mte: false };

/// The configurations that a host with these vCPU features has, in the recordings' order.
pub fn configurations(supported: u32, gic: bool, mte: bool) -> Vec<Cfg> {
    let all = supported & (PSCI | PMU | SVE | PTRAUTH);
    let cfg = |name, features, gic| Cfg { name, features, gic, mte: false };
    let mut list = vec![
        cfg("psci", PSCI, false),
        cfg("none", 0, false),
        cfg("gic", PSCI, true),
        cfg("pmu", PSCI | PMU, false),
        cfg("sve", PSCI | SVE, false),
        cfg("ptrauth", PSCI | PTRAUTH, false),
        cfg("allgic", all, true),
        cfg("aarch32", PSCI | EL1_32BIT, false),
        cfg("el2", PSCI | EL2, false),
    ];
    list.retain(|c| c.features & !supported == 0 && (gic || !c.gic));
    if mte {
        list.push(Cfg { mte: true, ..cfg("mte", PSCI, false) });
    }
    list
}

/// A process with the KVM under test.
pub struct Lab {
    files: FdTable,
    mem: ByteMem,
    kvm: i32,
    alarm: Alarm,
}

impl Lab {
    /// The KVM of this host.
    pub fn new(profile: Profile, engine: Engine) -> Lab {
        let seed = std::sync::atomic::AtomicU64::new(0x9e37_79b9_7f4a_7c15);
        let random = move || {
            let x = seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let x = (x ^ x >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x ^ x >> 29
        };
        let files = FdTable::new(Kvm::new(KvmConfig {
            profile,
            policy: Policy::Hw,
            clock: ClockKind::Host,
            random: Arc::new(random),
            wall_clock: Arc::new(|| 1_700_000_000_123_456_789),
            engine,
            // Its guests are short.
            engine_options: EngineOptions { at_once: true, ..EngineOptions::default() },
            strict: true,
        }));
        let kvm = files.open_system();
        let mem = ByteMem::new(STRUCT, (HOST_RAM + HOST_RAM_LEN - STRUCT) as usize);
        Lab { files, mem, kvm, alarm: Alarm::default() }
    }

    /// `/dev/kvm`.
    pub fn kvm(&self) -> i32 {
        self.kvm
    }

    /// A request with an argument word.
    pub fn ctl(&self, fd: i32, request: u32, arg: u64) -> i64 {
        self.files.ioctl(fd, request, arg, &self.mem).into()
    }

    /// A request with a structure; what the request left of it is in `v` afterwards.
    pub fn with<T: Wire>(&self, fd: i32, request: u32, v: &mut T) -> i64 {
        self.put(STRUCT, v);
        let r = self.ctl(fd, request, STRUCT);
        *v = self.get(STRUCT);
        r
    }

    /// Closes a descriptor.
    pub fn close(&self, fd: i32) {
        if fd >= 0 {
            // It was open.
            let _ = self.files.close(fd);
        }
    }

    // The addresses of this file are all inside the memory.
    fn put<T: Wire>(&self, at: u64, v: &T) {
        let mut b = vec![0; T::SIZE];
        v.to_bytes(&mut b);
        let _ = self.mem.write(at, &b);
    }

    fn get<T: Wire>(&self, at: u64) -> T {
        let mut b = vec![0; T::SIZE];
        let _ = self.mem.read(at, &mut b);
        T::from_bytes(&b)
    }

    /// A device attribute request whose value is at `addr`.
    fn attr(&self, fd: i32, request: u32, group: u32, attr: u64, addr: u64) -> i64 {
        self.with(fd, request, &mut DeviceAttr { flags: 0, group, attr, addr })
    }

    /// KVM_HAS_DEVICE_ATTR.
    pub fn has_attr(&self, fd: i32, group: u32, attr: u64) -> i64 {
        self.attr(fd, request::HAS_DEVICE_ATTR, group, attr, 0)
    }

    /// KVM_SET_DEVICE_ATTR without a value.
    pub fn do_attr(&self, fd: i32, group: u32, attr: u64) -> i64 {
        self.attr(fd, request::SET_DEVICE_ATTR, group, attr, 0)
    }

    /// KVM_SET_DEVICE_ATTR.
    pub fn set_attr<T: Wire>(&self, fd: i32, group: u32, attr: u64, v: T) -> i64 {
        self.put(VALUE, &v);
        self.attr(fd, request::SET_DEVICE_ATTR, group, attr, VALUE)
    }

    /// KVM_GET_DEVICE_ATTR: a refused one leaves `v` alone.
    pub fn get_attr<T: Wire>(&self, fd: i32, group: u32, attr: u64, v: &mut T) -> i64 {
        self.put(VALUE, v);
        let r = self.attr(fd, request::GET_DEVICE_ATTR, group, attr, VALUE);
        *v = self.get(VALUE);
        r
    }

    /// KVM_GET_ONE_REG of up to eight bytes, or more that are not looked at.
    pub fn get_reg(&self, vcpu: i32, id: RegId, v: &mut u64) -> i64 {
        self.put(VALUE, &0u64);
        let r = self.with(vcpu, request::GET_ONE_REG, &mut OneReg { id: id.0, addr: VALUE });
        if r == 0 {
            *v = self.get(VALUE);
        }
        r
    }

    /// KVM_SET_ONE_REG.
    pub fn set_reg(&self, vcpu: i32, id: RegId, v: u64) -> i64 {
        self.put(VALUE, &v);
        self.with(vcpu, request::SET_ONE_REG, &mut OneReg { id: id.0, addr: VALUE })
    }

    /// KVM_GET_REG_LIST with room for `room` ids: result, and the number there are.
    pub fn reg_count(&self, vcpu: i32, room: u64) -> (i64, u64) {
        self.put(HOST_RAM - 0x8000, &room);
        let r = self.ctl(vcpu, request::GET_REG_LIST, HOST_RAM - 0x8000);
        (r, self.get(HOST_RAM - 0x8000))
    }

    /// KVM_GET_ONE_REG of any size; a refused one leaves `v` alone.
    pub fn get_reg_bytes(&self, vcpu: i32, id: RegId, v: &mut [u8]) -> i64 {
        let _ = self.mem.write(SCRATCH, v);
        let r = self.with(vcpu, request::GET_ONE_REG, &mut OneReg { id: id.0, addr: SCRATCH });
        let _ = self.mem.read(SCRATCH, v);
        r
    }

    /// KVM_SET_ONE_REG of any size.
    pub fn set_reg_bytes(&self, vcpu: i32, id: RegId, v: &[u8]) -> i64 {
        let _ = self.mem.write(SCRATCH, v);
        self.with(vcpu, request::SET_ONE_REG, &mut OneReg { id: id.0, addr: SCRATCH })
    }

    /// Whether KVM_GET_ONE_REG answers, whatever it reads.
    pub fn get_reg_status(&self, vcpu: i32, id: RegId) -> i64 {
        self.with(vcpu, request::GET_ONE_REG, &mut OneReg { id: id.0, addr: SCRATCH })
    }

    /// KVM_GET_REG_LIST with room for `room` ids, the first of which is `first` before: result, how many there are,
    /// the first afterwards.
    pub fn reg_list_into(&self, vcpu: i32, room: u64, first: u64) -> (i64, u64, u64) {
        self.put(SCRATCH, &room);
        self.put(SCRATCH + 8, &first);
        let r = self.ctl(vcpu, request::GET_REG_LIST, SCRATCH);
        (r, self.get(SCRATCH), self.get(SCRATCH + 8))
    }

    /// KVM_GET_REG_LIST; empty when refused.
    pub fn reg_list(&self, vcpu: i32) -> (i64, Vec<RegId>) {
        let (r, n, _) = self.reg_list_into(vcpu, 2048, 0);
        let n = if r == 0 { n.min(2048) } else { 0 };
        (r, (1..=n).map(|i| RegId(self.get(SCRATCH + 8 * i))).collect())
    }

    /// An address with room for 28 KiB.
    pub fn scratch(&self) -> u64 {
        SCRATCH
    }

    /// Writes bytes into the caller's memory.
    pub fn fill(&self, at: u64, v: &[u8]) {
        let _ = self.mem.write(at, v);
    }

    /// Reads a doubleword of the caller's memory.
    pub fn word(&self, at: u64) -> u64 {
        self.get(at)
    }

    /// KVM_ARM_VCPU_INIT.
    pub fn vcpu_init(&self, vcpu: i32, features: u32) -> i64 {
        let mut i = VcpuInit { target: ulna_kvm_abi::ARM_TARGET_GENERIC_V8, ..VcpuInit::default() };
        i.features[0] = features;
        self.with(vcpu, request::ARM_VCPU_INIT, &mut i)
    }

    /// KVM_ARM_VCPU_FINALIZE.
    pub fn finalize(&self, vcpu: i32, feature: u32) -> i64 {
        let mut f = feature;
        self.with(vcpu, request::ARM_VCPU_FINALIZE, &mut f)
    }

    /// KVM_CREATE_DEVICE: descriptor or minus errno.
    pub fn create_device(&self, vm: i32, kind: u32) -> i32 {
        let mut d = CreateDevice { type_: kind, fd: 0, flags: 0 };
        match self.with(vm, request::CREATE_DEVICE, &mut d) {
            0 => d.fd as i32,
            e => e as i32,
        }
    }

    /// KVM_ENABLE_CAP.
    pub fn enable_cap(&self, fd: i32, cap: u32, flags: u32, arg: u64) -> i64 {
        let mut e = EnableCap { cap, flags, ..EnableCap::default() };
        e.args[0] = arg;
        self.with(fd, request::ENABLE_CAP, &mut e)
    }

    /// vCPU features that a new VM's vCPUs take, tried one by one as the probe does.
    pub fn supported(&self) -> u32 {
        let bits = (0..8).map(|b| if bit(b) & PTRAUTH != 0 { PTRAUTH } else { bit(b) });
        bits.filter(|f| self.vcpu_init(self.bare(false).vcpu, *f) == 0).fold(0, |a, f| a | f)
    }

    /// KVM_CHECK_EXTENSION on a VM.
    pub fn capability(&self, n: u32) -> i64 {
        self.ctl(self.bare(false).fd, request::CHECK_EXTENSION, n.into())
    }

    /// A VM with RAM and one vCPU that is not initialised.
    pub fn bare(&self, mte: bool) -> Vm<'_> {
        self.bare_with_ram(mte, RAM_LEN)
    }

    /// The same with more RAM.
    pub fn bare_with_ram(&self, mte: bool, len: u64) -> Vm<'_> {
        let fd = self.ctl(self.kvm, request::CREATE_VM, 0) as i32;
        if mte {
            self.enable_cap(fd, CAP_ARM_MTE, 0, 0);
        }
        let mut m = UserspaceMemoryRegion {
            slot: 0,
            flags: 0,
            guest_phys_addr: RAM,
            memory_size: len.min(HOST_RAM_LEN),
            userspace_addr: HOST_RAM,
        };
        self.with(fd, request::SET_USER_MEMORY_REGION, &mut m);
        let vcpu = self.ctl(fd, request::CREATE_VCPU, 0) as i32;
        Vm { lab: self, fd, vcpu, gic: -1, init: 0 }
    }

    /// Everything a vCPU needs before its first run.
    pub fn make(&self, c: &Cfg) -> Vm<'_> {
        self.make_with_ram(c, RAM_LEN)
    }

    /// The same with more RAM.
    pub fn make_with_ram(&self, c: &Cfg, len: u64) -> Vm<'_> {
        let mut v = self.bare_with_ram(c.mte, len);
        if c.gic {
            v.add_gic();
            v.place_gic();
        }
        v.init = self.vcpu_init(v.vcpu, c.features);
        if v.init == 0 && c.features & SVE != 0 {
            v.init = self.finalize(v.vcpu, vcpu_feature::SVE);
        }
        if c.gic {
            self.do_attr(v.gic, GRP_CTRL, CTRL_INIT);
        }
        if c.features & PMU != 0 {
            if c.gic {
                self.set_attr(v.vcpu, GRP_PMU_V3_CTRL, PMU_V3_IRQ, 23u32);
            }
            self.do_attr(v.vcpu, GRP_PMU_V3_CTRL, PMU_V3_INIT);
        }
        v
    }

    /// Host address of the RAM of every VM.
    pub fn host_ram(&self) -> u64 {
        HOST_RAM
    }
}

/// A VM with one vCPU; closed at the end.
pub struct Vm<'a> {
    lab: &'a Lab,
    /// Its descriptor.
    pub fd: i32,
    /// The vCPU's.
    pub vcpu: i32,
    /// The GIC's, or negative.
    pub gic: i32,
    /// What VCPU_INIT answered.
    pub init: i64,
}

impl Drop for Vm<'_> {
    fn drop(&mut self) {
        for fd in [self.gic, self.vcpu, self.fd] {
            self.lab.close(fd);
        }
    }
}

impl Vm<'_> {
    /// Makes a GICv3.
    pub fn add_gic(&mut self) {
        self.gic = self.lab.create_device(self.fd, TYPE_ARM_VGIC_V3);
    }

    /// Its addresses and 64 interrupts.
    pub fn place_gic(&self) {
        self.lab.set_attr(self.gic, GRP_ADDR, V3_ADDR_TYPE_DIST, GICD);
        self.lab.set_attr(self.gic, GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR);
        self.lab.set_attr(self.gic, GRP_NR_IRQS, 0, 64u32);
    }

    /// The vCPU behind its descriptor.
    pub fn handle(&self) -> Option<Arc<VcpuHandle>> {
        match self.lab.files.get(self.vcpu) {
            Some(Descriptor::Vcpu(v)) => Some(v),
            _ => None,
        }
    }

    /// A field of `kvm_run`.
    pub fn page<T: Wire + Default>(&self, offset: usize) -> T {
        self.handle().map_or_else(T::default, |h| h.page().get(offset))
    }

    /// `kvm_run.exit_reason`.
    pub fn exit_reason(&self) -> u32 {
        self.page(run_offset::EXIT_REASON)
    }

    /// `kvm_run.mmio.phys_addr`.
    pub fn mmio_address(&self) -> u64 {
        self.page(run_offset::UNION)
    }

    /// KVM_RUN, but not for longer than `most`: then EINTR.
    pub fn run_for(&self, most: Duration) -> i64 {
        let Some(h) = self.handle() else { return -9 };
        let _armed = self.lab.alarm.arm(h, most);
        self.lab.ctl(self.vcpu, request::RUN, 0)
    }

    /// KVM_RUN of a guest that should come back by itself.
    pub fn run(&self) -> i64 {
        self.run_for(Duration::from_secs(5))
    }

    /// `kvm_run.immediate_exit`.
    pub fn set_immediate_exit(&self, on: bool) {
        if let Some(h) = self.handle() {
            h.set_immediate_exit(on.into());
        }
    }

    /// Completes a store that the VMM was told of.
    pub fn complete(&self) {
        self.set_immediate_exit(true);
        self.lab.ctl(self.vcpu, request::RUN, 0);
        self.set_immediate_exit(false);
    }

    /// A register of eight bytes; 0 if it cannot be read.
    pub fn get(&self, id: RegId) -> u64 {
        let mut v = 0;
        self.lab.get_reg(self.vcpu, id, &mut v);
        v
    }

    /// Writes one.
    pub fn set(&self, id: RegId, v: u64) -> i64 {
        self.lab.set_reg(self.vcpu, id, v)
    }

    /// Writes instructions at an offset into RAM.
    pub fn program(&self, offset: u64, words: &[u32]) {
        for (n, w) in (0..).zip(words) {
            self.lab.put(HOST_RAM + offset + 4 * n, w);
        }
    }

    /// Every exception stores to [`NOWHERE`] + 4 and stops there.
    pub fn vectors(&self) {
        for n in 0..16 {
            self.program(VECTORS + 0x80 * n, &[STR_W0_X9_4, STOP]);
        }
    }

    /// One store to nowhere, as the first run of the probe.
    pub fn run_once(&self, aarch32: bool) -> i64 {
        self.run_once_for(aarch32, Duration::from_secs(5))
    }

    /// The same, but not for longer than `most`.
    pub fn run_once_for(&self, aarch32: bool, most: Duration) -> i64 {
        let words = if aarch32 { [0xe581_0000, 0xeaff_fffe] } else { [0xb900_0020, STOP] };
        self.program(0, &words);
        self.set(RegId::PC, RAM);
        self.set(RegId::x(1), NOWHERE);
        self.run_for(most)
    }
}

/// `str w0, [x9]`
pub const STR_W0_X9: u32 = 0xb900_0120;
/// `str w0, [x9, #4]`
const STR_W0_X9_4: u32 = 0xb900_0520;
/// `b .`
pub const STOP: u32 = 0x1400_0000;

type Deadline = Option<(Instant, Arc<VcpuHandle>)>;

/// Ends a KVM_RUN that takes too long, as the probe's timer signal did.
struct Alarm {
    next: Arc<Mutex<Deadline>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// How often the thread looks: the precision of a deadline.
const TICK: Duration = Duration::from_millis(5);

impl Default for Alarm {
    fn default() -> Alarm {
        let next: Arc<Mutex<Deadline>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let (n, s) = (next.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !s.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                let mut d = locked(&n);
                if d.as_ref().is_some_and(|d| d.0 <= Instant::now())
                    && let Some((_, v)) = d.take()
                {
                    v.kick();
                }
            }
        });
        Alarm { next, stop, thread: Some(thread) }
    }
}

impl Alarm {
    fn arm(&self, v: Arc<VcpuHandle>, most: Duration) -> Armed<'_> {
        *locked(&self.next) = Some((Instant::now() + most, v));
        Armed(self)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            // It does not panic.
            let _ = t.join();
        }
    }
}

struct Armed<'a>(&'a Alarm);

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        *locked(&self.0.next) = None;
    }
}

fn locked(m: &Mutex<Deadline>) -> MutexGuard<'_, Deadline> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
