//! A whole machine: a guest program makes the accesses, takes the interrupts, and would take an SError.
//!
//! It runs one stub after another: each makes an access and reports by a store to where no memory is, at which it waits
//! for the next. The address of the store tells whether an exception came in between.

use std::alloc::Layout;
use std::sync::Arc;

use ulna_kvm_abi::device::*;
use ulna_kvm_abi::{ARM_TARGET_GENERIC_V8, RegId, VcpuInit, vcpu_feature};
use ulna_kvm_core::{ClockKind, Device, Engine, Kvm, KvmConfig, Policy, Run, Vcpu, Vm};
use ulna_profile::Profile;

use crate::model::Identity;
use crate::ops::{encode, encodings};
use crate::{Frame, Sysreg, Taken, Target};

const RAM: u64 = 0x4000_0000;
const RAM_LEN: usize = 0x1_0000;
const GICD: u64 = 0x0800_0000;
const GICR: u64 = 0x080a_0000;
/// What a stub gave: after nothing in particular, and after an exception.
const DONE: u64 = 0x1000_0000;
const SYNC: u64 = DONE + 8;
const IRQ: u64 = DONE + 16;
const FIQ: u64 = DONE + 24;
const SERROR: u64 = DONE + 32;

/// Where it begins, and where the stubs of loads, stores and system registers do.
const START: u64 = 0x1000;
const STUBS: u64 = 0x2000;
/// Bytes of a stub.
const STUB: u64 = 16;

/// ICC_CTLR_EL1 and its read-only bits.
const ICC_CTLR: u64 = 0xc664;
const CTLR_FIXED: u64 = 0x000c_ff00;

/// Interrupts that the machine's own devices drive.
const OWNED: [u32; 2] = [27, 30];

struct Ram(*mut u8);

// SAFETY: leaked memory, which only the guest touches once it runs.
unsafe impl Send for Ram {}
// SAFETY: the same.
unsafe impl Sync for Ram {}

fn word(ram: &Ram, offset: u64, w: u32) {
    assert!(offset + 4 <= RAM_LEN as u64 && offset.is_multiple_of(4));
    // SAFETY: inside the memory, aligned, and no guest runs yet.
    unsafe { ram.0.add(offset as usize).cast::<u32>().write_volatile(w) };
}

fn words(ram: &Ram, offset: u64, all: &[u32]) {
    for (n, w) in (0..).zip(all) {
        word(ram, offset + 4 * n, *w);
    }
}

/// str x0, [x9, #off]
fn report(address: u64) -> u32 {
    0xf900_0120 | ((address - DONE) as u32 / 8) << 10
}

const NOP: u32 = 0xd503_201f;
const ISB: u32 = 0xd503_3fdf;
/// br x8: where the next stub is.
const NEXT: u32 = 0xd61f_0100;

/// The stub of a load or store of 1, 2, 4 or 8 bytes.
fn memory_stub(store: bool, size: usize) -> u64 {
    STUBS + STUB * (size.trailing_zeros() as u64 + 4 * u64::from(store))
}

const WINDOW: u64 = STUBS + STUB * 8;
const SYSREGS: u64 = STUBS + STUB * 16;

/// The stub of an MRS or MSR.
fn sysreg_stub(write: bool, reg: u16) -> Option<u64> {
    let n = encodings().position(|e| e == reg)? as u64;
    Some(SYSREGS + STUB * (2 * n + u64::from(write)))
}

/// The guest's program.
fn program(ram: &Ram) {
    words(ram, START, &[report(DONE), NEXT]);
    // Vectors of the current EL with SP_EL1: what came, and A unmasked again.
    for (vector, address) in [(0x200, SYNC), (0x280, IRQ), (0x300, FIQ), (0x380, SERROR)] {
        words(ram, vector, &[report(address), 0xd503_44ff, NEXT]);
    }
    let stub = |at: u64, w: u32| words(ram, at, &[w, report(DONE), NEXT]);
    for size in [1usize, 2, 4, 8] {
        // ldr/str x0, [x1] of each size.
        let width = (size.trailing_zeros()) << 30;
        stub(memory_stub(false, size), 0x3940_0020 | width);
        stub(memory_stub(true, size), 0x3900_0020 | width);
    }
    // msr daifclr, #3; a moment; msr daifset, #3.
    let moment = [0xd503_43ff, ISB, NOP, NOP, 0xd503_43df, report(DONE), NEXT];
    words(ram, WINDOW, &moment);
    for reg in encodings() {
        for write in [false, true] {
            let access = if write { 0xd500_0000 } else { 0xd520_0000 } | u32::from(reg) << 5;
            if let Some(at) = sysreg_stub(write, reg) {
                stub(at, access);
            }
        }
    }
}

/// A machine and its guest.
pub struct Machine {
    kvm: Kvm,
    id: Identity,
    now: Parts,
}

struct Parts {
    vm: Vm,
    vcpus: Vec<Vcpu>,
    gic: Device,
}

fn text(e: impl std::fmt::Debug) -> String {
    format!("{e:?}")
}

impl Machine {
    /// A machine with the GIC that the model has: the profile's hardware has SEIS 1, so that its absence is a choice.
    pub fn new(id: &Identity, engine: Engine) -> Result<Machine, String> {
        let mut profile = Profile::builtin("thunderx2").map_err(|e| e.to_string())?;
        (profile.gic.priority_bits, profile.gic.id_bits) = (7, 24);
        let kvm = Kvm::new(KvmConfig {
            profile,
            policy: Policy::Soft,
            clock: ClockKind::Host,
            random: Arc::new(|| 0),
            wall_clock: Arc::new(|| 0),
            engine,
            engine_options: Default::default(),
            strict: false,
        });
        let now = Parts::new(&kvm, id).map_err(text)?;
        let mut m = Machine { kvm, id: id.clone(), now };
        m.start().map_err(text)?;
        Ok(m)
    }

    /// Says what the controller is, and has every vCPU wait for its first stub.
    fn start(&mut self) -> Result<(), String> {
        self.identify()?;
        (0..self.now.vcpus.len()).try_for_each(|cpu| match self.exit(cpu)? {
            (DONE, _) => Ok(()),
            other => Err(format!("the guest began with {other:x?}")),
        })
    }

    fn identify(&self) -> Result<(), String> {
        let ctlr = u64::from(self.id.pri_bits - 1) << 8
            | u64::from(self.id.id_bits == 24) << 11
            | u64::from(self.id.seis) << 14
            | u64::from(self.id.a3v) << 15;
        // One write says it for all.
        let at = u64::from(self.id.affinity[0]) << 32 | ICC_CTLR;
        let live = self.now.gic.get_attr(GRP_CPU_SYSREGS, at, 0).map_err(text)? & !CTLR_FIXED;
        self.now.gic.set_attr(GRP_CPU_SYSREGS, at, live | ctlr).map_err(text)
    }

    /// Runs until the guest reports: at which address, and what.
    fn exit(&mut self, cpu: usize) -> Result<(u64, u64), String> {
        loop {
            match self.now.vcpus[cpu].run().map_err(text)? {
                Run::MmioWrite(at @ DONE..=SERROR, data) if data.len() == 8 => {
                    let mut b = [0; 8];
                    b.copy_from_slice(data);
                    return Ok((at, u64::from_le_bytes(b)));
                }
                Run::Intr => {}
                other => return Err(format!("the guest left by {other:x?}")),
            }
        }
    }

    /// Runs a stub: by which address it reported, and with what.
    fn stub(&mut self, cpu: usize, stub: u64, x0: u64, x1: u64) -> Result<(u64, u64), String> {
        let v = &mut self.now.vcpus[cpu];
        for (n, value) in [(0, x0), (1, x1), (8, RAM + stub)] {
            v.set_one_reg(RegId::x(n), &value.to_le_bytes()).map_err(text)?;
        }
        let reported = self.exit(cpu)?;
        if reported.0 == SERROR { Err("an SError".into()) } else { Ok(reported) }
    }

    fn plain(&mut self, cpu: usize, stub: u64, x0: u64, x1: u64) -> Result<u64, String> {
        match self.stub(cpu, stub, x0, x1)? {
            (DONE, value) => Ok(value),
            (at, _) => Err(format!("an exception: {}", at - DONE)),
        }
    }

    fn sysreg(&mut self, cpu: usize, write: bool, reg: u16, value: u64) -> Result<Sysreg, String> {
        let at = sysreg_stub(write, reg).ok_or("no stub")?;
        match self.stub(cpu, at, value, 0)? {
            (DONE, v) => Ok(Sysreg::Done(if write { 0 } else { v })),
            (SYNC, _) => Ok(Sysreg::Undefined),
            (at, _) => Err(format!("an exception: {}", at - DONE)),
        }
    }
}

fn address(frame: Frame, offset: u64) -> u64 {
    match frame {
        Frame::Dist => GICD + offset,
        Frame::Redist(n) => GICR + n as u64 * 0x2_0000 + offset,
    }
}

impl Parts {
    fn new(kvm: &Kvm, id: &Identity) -> ulna_kvm_core::Result<Parts> {
        let vm = kvm.create_vm(0)?;
        let ram = ram();
        program(&ram);
        // SAFETY: the memory is leaked, and only the guest accesses it from here on.
        unsafe { vm.set_user_memory_region(0, RAM, RAM_LEN as u64, ram.0, 0, Arc::new(ram))? };
        let init = VcpuInit {
            target: ARM_TARGET_GENERIC_V8,
            features: [1 << vcpu_feature::PSCI_0_2, 0, 0, 0, 0, 0, 0],
        };
        let mut vcpus = Vec::new();
        for (n, affinity) in (0..).zip(&id.affinity) {
            let mut v = vm.create_vcpu(n)?;
            v.init(&init)?;
            let (low, high) = (u64::from(*affinity) & 0xff_ffff, u64::from(*affinity) >> 24);
            for (reg, value) in [
                (RegId::sysreg(MPIDR), 1 << 31 | high << 32 | low),
                (RegId::sysreg(VBAR), RAM),
                (RegId::PC, RAM + START),
                // EL1h; D, I and F masked, SErrors not.
                (RegId::PSTATE, 0x2c5),
                (RegId::x(9), DONE),
            ] {
                v.set_one_reg(reg, &value.to_le_bytes())?;
            }
            vcpus.push(v);
        }
        let gic = vm.create_device(TYPE_ARM_VGIC_V3)?;
        gic.set_attr(GRP_NR_IRQS, 0, id.intids.into())?;
        gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_DIST, GICD)?;
        gic.set_attr(GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR)?;
        gic.set_attr(GRP_CTRL, CTRL_INIT, 0)?;
        Ok(Parts { vm, vcpus, gic })
    }

    /// Takes over another's controller by its attributes, as a VMM does.
    fn take_over(&self, from: &Device, id: &Identity) -> ulna_kvm_core::Result<()> {
        let copy = |group: u32, attr: u64| -> ulna_kvm_core::Result<()> {
            if self.gic.has_attr(group, attr).is_ok() {
                self.gic.set_attr(group, attr, from.get_attr(group, attr, 0)?)?;
            }
            Ok(())
        };
        let bits = |group: u32, at: u64, page: u64, words: std::ops::Range<u64>| {
            for w in words {
                // Clear first: SGIs are enabled in a new one.
                let enabled = from.get_attr(group, at | (page + 0x100 + 4 * w), 0)?;
                self.gic.set_attr(group, at | (page + 0x180 + 4 * w), !enabled & 0xffff_ffff)?;
                for field in [0x80, 0x100, 0x200, 0x300] {
                    copy(group, at | (page + field + 4 * w))?;
                }
            }
            Ok(())
        };
        let spis = 1..u64::from(id.intids) / 32;
        let bytes = |first: u64, per: u64| (first..first + per * u64::from(id.intids)).step_by(4);
        // Where it is active decides where an SPI lives, so routes come first.
        for off in bytes(0x6000, 8)
            .chain(bytes(0x400, 1))
            .chain((0xc08..0xc00 + u64::from(id.intids) / 4).step_by(4))
        {
            copy(GRP_DIST_REGS, off)?;
        }
        bits(GRP_DIST_REGS, 0, 0, spis)?;
        for affinity in &id.affinity {
            let at = u64::from(*affinity) << 32;
            for off in [0x70, 0x74, 0x78, 0x7c, 0x0].into_iter().chain((0x1_0400..0x1_0420).step_by(4)) {
                copy(GRP_REDIST_REGS, at | off)?;
            }
            bits(GRP_REDIST_REGS, at, 0x1_0000, 0..1)?;
            for encoding in SAVED {
                copy(GRP_CPU_SYSREGS, at | u64::from(encoding))?;
            }
            for n in 0..4 {
                if n < 1 << (id.pri_bits - 5) {
                    copy(GRP_CPU_SYSREGS, at | u64::from(encode(12, 8, 4 + n)))?;
                    copy(GRP_CPU_SYSREGS, at | u64::from(encode(12, 9, n)))?;
                }
            }
            copy(GRP_LEVEL_INFO, at)?;
        }
        for first in (32..u64::from(id.intids)).step_by(32) {
            let attr = u64::from(id.affinity[0]) << 32 | first;
            self.gic.set_attr(GRP_LEVEL_INFO, attr, from.get_attr(GRP_LEVEL_INFO, attr, 0)?)?;
        }
        copy(GRP_DIST_REGS, 0)
    }
}

/// PMR, BPR0, BPR1, CTLR, IGRPEN0, IGRPEN1.
const SAVED: [u16; 6] = [
    encode(4, 6, 0),
    encode(12, 8, 3),
    encode(12, 12, 3),
    encode(12, 12, 4),
    encode(12, 12, 6),
    encode(12, 12, 7),
];
const MPIDR: u16 = encode(0, 0, 5);
const VBAR: u16 = encode(12, 0, 0);

fn ram() -> Ram {
    let layout = Layout::from_size_align(RAM_LEN, 0x1000).unwrap_or(Layout::new::<[u64; RAM_LEN / 8]>());
    // SAFETY: the size is not zero.
    let base = unsafe { std::alloc::alloc_zeroed(layout) };
    if base.is_null() {
        std::alloc::handle_alloc_error(layout);
    }
    Ram(base)
}

impl Target for Machine {
    fn load(&mut self, cpu: usize, frame: Frame, offset: u64, size: usize) -> Result<u64, String> {
        self.plain(cpu, memory_stub(false, size), 0, address(frame, offset))
    }

    fn store(
        &mut self,
        cpu: usize,
        frame: Frame,
        offset: u64,
        size: usize,
        value: u64,
    ) -> Result<(), String> {
        self.plain(cpu, memory_stub(true, size), value, address(frame, offset)).map(drop)
    }

    fn mrs(&mut self, cpu: usize, reg: u16) -> Result<Sysreg, String> {
        self.sysreg(cpu, false, reg, 0)
    }

    fn msr(&mut self, cpu: usize, reg: u16, value: u64) -> Result<Sysreg, String> {
        self.sysreg(cpu, true, reg, value)
    }

    fn line(&mut self, cpu: usize, intid: u32, level: bool) -> Result<(), String> {
        let irq = match intid {
            0..16 => return Ok(()),
            _ if OWNED.contains(&intid) => return Err(format!("PPI {intid} is a timer's")),
            16..32 => 2 << 24 | (cpu as u32) << 16 | intid,
            _ => 1 << 24 | intid,
        };
        self.now.vm.irq_line(irq, level).map_err(text)
    }

    fn window(&mut self, cpu: usize) -> Result<Taken, String> {
        match self.stub(cpu, WINDOW, 0, 0)?.0 {
            DONE => Ok(Taken::Nothing),
            IRQ => Ok(Taken::Irq),
            FIQ => Ok(Taken::Fiq),
            at => Err(format!("an exception: {}", at - DONE)),
        }
    }

    fn migrate(&mut self) -> Result<(), String> {
        let new = Parts::new(&self.kvm, &self.id).map_err(text)?;
        let old = std::mem::replace(&mut self.now, new);
        self.identify()?;
        self.now.take_over(&old.gic, &self.id).map_err(text)?;
        self.start()
    }

    fn moves_by_registers(&self) -> bool {
        true
    }
}
