//! Builds a machine: memory, vCPUs, interrupt controller, devices, and the device tree that tells of them.

use crate::bus::{Bus, Shared};
use crate::config::{Clock, Config, GicVersion, Net};
use crate::console::Console;
use crate::error::Error;
use crate::fdt::{GicTree, Tree};
use crate::flash::Banks;
use crate::identity;
use crate::layout::{self, ppi, spi};
use crate::loader::{self, Loaded, PageSize};
use crate::memory::{self, Memory, Space};
use crate::moves::{Blocked, Parts, Piece};
use crate::power::{self, Power};
use crate::services::{self, Target};
use crate::waker::Waker;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use ulna_devices::fw_cfg::{FwCfgMmio, Items, key, reg::SIZE as FW_CFG_SIZE};
use ulna_devices::pl011::Uart;
use ulna_devices::pl031::{Rtc, WallClock};
use ulna_devices::pl061::Gpio;
use ulna_devices::virtio::blk::{Blk, FileMedia};
use ulna_devices::virtio::net::{Net as Card, NetBackend, Passt, PasstOptions, Tap};
use ulna_devices::virtio::rng::{Entropy, Rng};
use ulna_devices::virtio::{Service, VirtioDevice, VirtioMmio};
use ulna_devices::{Carried, IrqLine};
use ulna_kvm_backend::abi::device as dev;
use ulna_kvm_backend::abi::{cap, vcpu_feature};
use ulna_kvm_backend::{Device, Errno, Hypervisor, RegId, Vcpu, VcpuInit, Vm};
use ulna_stream::Reg;

/// What a machine takes from the world besides files: time and chance. Both are asked for anew at every reset.
pub struct Outside {
    /// Tells the time of day.
    pub wall_clock: Box<dyn Fn() -> WallClock>,
    /// Gives random bytes.
    pub entropy: Box<dyn Fn() -> Box<dyn Entropy>>,
}

/// A machine that is ready to run.
pub struct Board {
    /// Its vCPUs.
    pub vcpus: Vec<Box<dyn Vcpu>>,
    /// Its devices.
    pub bus: Bus,
    /// The serial port, for the event loop.
    pub uart: Shared<Uart>,
    /// The clock, for the event loop.
    pub rtc: Shared<Rtc>,
    /// CPUs that the guest may ask for.
    pub targets: Arc<[Target]>,
    /// Hardware breakpoints and watchpoints for guest debug.
    pub debug_registers: (usize, usize),
    /// The lines of the power key.
    pub gpio: Shared<Gpio>,
    /// Which vCPUs may be on; none where KVM keeps that to itself.
    pub power: Option<Power>,
    /// What vCPUs are reset to.
    pub init: VcpuInit,
    /// Firmware services and their versions.
    pub services: BTreeMap<String, String>,
    /// What a snapshot or a move needs; with it the VM and its interrupt controller live as long as the board.
    pub parts: Arc<Parts>,
}

/// How a machine begins.
pub enum Boot<'a> {
    /// From its files.
    Fresh,
    /// With memory whose contents come, or came, from elsewhere, as does all other state.
    Carried(&'a Origin),
}

/// What is decided about a machine that comes from elsewhere before its state arrives.
pub struct Origin {
    /// RAM.
    pub ram: Arc<Memory>,
    /// Structures of stolen time.
    pub stolen_time: Option<Arc<Memory>>,
    /// Features of its vCPUs.
    pub features: u32,
    /// CNTFRQ_EL0 that its guest knows.
    pub counter_hz: u64,
    /// Registers of the VM.
    pub vm_regs: Vec<Reg>,
    /// What its memory is mapped privately from files that must not change.
    pub private: bool,
}

/// VM, vCPUs and interrupt controller: what decides whether a host can have a machine.
pub struct Core {
    /// The VM.
    pub vm: Arc<dyn Vm>,
    /// Its vCPUs.
    pub vcpus: Vec<Box<dyn Vcpu>>,
    /// What they are reset to.
    pub init: VcpuInit,
    /// MPIDR_EL1 of each.
    pub mpidrs: Vec<u64>,
    /// The GIC, then its ITS.
    pub gic: Vec<Arc<dyn Device>>,
    gic_tree: GicTree,
    stolen_time: Option<Arc<Memory>>,
    /// What this host cannot honour.
    pub blocked: Vec<Blocked>,
}

impl Core {
    /// Makes them. RAM is there first, because a KVM may want to know it.
    pub fn make(
        config: &Config,
        kvm: &dyn Hypervisor,
        ram: &Arc<Memory>,
        boot: &Boot<'_>,
    ) -> Result<Core, Error> {
        let vm = must("creating the VM", kvm.create_vm(kvm.max_ipa_bits()))?;
        map(&*vm, SLOT_RAM, ram, 0)?;
        config.services.prepare(&*vm)?;
        if !config.targets.is_empty() {
            must("taking the calls of errata discovery", services::forward_targets(&*vm))?;
        }
        if !config.identities.is_empty() {
            identity::prepare(&*vm)?;
        }
        config.cpu.prepare(&*vm)?;
        if matches!(boot, Boot::Carried(_)) {
            // Where a VM can have an identity of its own, that of another host is no reason to refuse it.
            let _ = vm.enable_cap(cap::ARM_WRITABLE_IMP_ID_REGS, [0; 4]);
        }
        let mut blocked = Vec::new();
        let features = match boot {
            Boot::Fresh => {
                let without = config.services.without() | config.cpu.without;
                wanted_features() & vm.supported_features() & !without
            }
            Boot::Carried(o) => {
                let have = vm.supported_features();
                if o.features & !have != 0 {
                    blocked.push(Blocked::features(o.features, have));
                }
                o.features & have
            }
        };
        let (mut vcpus, init) = make_vcpus(&*vm, config.max_cpus, features)?;
        if matches!(boot, Boot::Fresh) {
            config.cpu.apply(&*vm, &mut vcpus)?;
        }
        must("telling vCPUs who they are", identity::apply(&mut vcpus, &config.identities))?;
        if let Boot::Carried(o) = boot {
            crate::moves::set_vm_regs(&*vm, &mut *vcpus[0], o, &mut blocked);
        } else {
            config.services.apply(&mut *vcpus[0])?;
            config.cpu.check(&mut *vcpus[0])?;
            if !config.targets.is_empty() {
                must("announcing targets", services::announce_targets(&mut *vcpus[0]))?;
            }
        }
        let mut stolen_time = None;
        if config.services.stolen_time() {
            let structures = match boot {
                Boot::Carried(Origin { stolen_time: Some(memory), .. }) => memory.clone(),
                _ => memory::allocate("stolen time", layout::PVTIME)?,
            };
            map(&*vm, SLOT_PVTIME, &structures, 0)?;
            for (vcpu, at) in vcpus.iter_mut().zip(layout::PVTIME.step_by(layout::PVTIME_STRIDE as usize)) {
                must("placing stolen time", vcpu.set_attr(dev::GRP_PVTIME_CTRL, dev::PVTIME_IPA, at))?;
            }
            stolen_time = Some(structures);
        }
        let mut mpidrs = Vec::new();
        for vcpu in &mut vcpus {
            mpidrs.push(must("reading MPIDR_EL1", vcpu.get_reg_u64(MPIDR_EL1))?);
        }
        let (gic, gic_tree) = make_gic(&*vm, config, &memory::range(ram))?;
        if matches!(boot, Boot::Fresh) {
            config.cpu.apply_gic(&gic, &mpidrs)?;
        }
        Ok(Core { vm, vcpus, init, mpidrs, gic, gic_tree, stolen_time, blocked })
    }

    /// Version of the interrupt controller.
    pub fn gic_version(&self) -> u8 {
        if self.gic_tree == GicTree::V2 { 2 } else { 3 }
    }
}

const SLOT_RAM: u32 = 0;
/// Two of them.
const SLOT_FLASH: u32 = 1;
const SLOT_PVTIME: u32 = 3;
/// vCPU attributes: KVM_ARM_VCPU_PMU_V3_CTRL with its IRQ and INIT.
const PMU_CTRL: u32 = 0;
const PMU_IRQ: u64 = 0;
const PMU_INIT: u64 = 1;
/// The address that virtual machines' first cards have had for long.
const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
/// MPIDR_EL1 and ID_AA64MMFR0_EL1, op0<<14 | op1<<11 | CRn<<7 | CRm<<3 | op2.
const MPIDR_EL1: RegId = RegId::sysreg(0xc005);
const ID_AA64MMFR0_EL1: RegId = RegId::sysreg(0xc038);

/// The board's interrupt lines: SPI `n` of a VM.
struct Spi {
    vm: Arc<dyn Vm>,
    irq: u32,
}

impl Spi {
    fn line(vm: &Arc<dyn Vm>, spi: u32) -> Arc<dyn IrqLine> {
        Arc::new(Spi { vm: vm.clone(), irq: dev::irq_type::SPI << 24 | (32 + spi) })
    }
}

impl IrqLine for Spi {
    fn set(&self, level: bool) {
        if let Err(e) = self.vm.irq_line(self.irq, level) {
            tracing::warn!("interrupt line {:#x}: {e}", self.irq);
        }
    }
}

/// A request that must work, because everything it depends on was checked.
fn must<T>(what: &str, result: Result<T, Errno>) -> Result<T, Error> {
    result.map_err(|e| Error::Internal(format!("{what}: {e}")))
}

impl Board {
    /// Builds the machine of `config` with what is in its flash. `console` is where the serial port ends, `waker` wakes
    /// the event loop.
    pub fn build(
        config: &Config,
        kvm: &dyn Hypervisor,
        outside: &Outside,
        banks: &Banks,
        console: &Console,
        waker: &Waker,
        boot: &Boot<'_>,
    ) -> Result<Board, Error> {
        let ram_range = layout::RAM..layout::RAM + config.memory;
        let ram = match boot {
            Boot::Fresh => memory::allocate("ram", ram_range.clone())?,
            Boot::Carried(o) => o.ram.clone(),
        };
        let Start { loaded, fdt_at, initrd, items } = match boot {
            Boot::Fresh => prepare(config, &ram)?,
            // What firmware may still ask for; RAM has its contents.
            Boot::Carried(_) => Start { items: firmware_items(config, &ram)?, ..Start::default() },
        };
        let core = Core::make(config, kvm, &ram, boot)?;
        if !core.blocked.is_empty() {
            return Err(Error::Blocked(core.blocked));
        }
        let gic_version = core.gic_version();
        let Core { vm, mut vcpus, init, mpidrs, gic, gic_tree, stolen_time, blocked: _ } = core;
        let private = matches!(boot, Boot::Carried(Origin { private: true, .. }));
        let piece = |name: &'static str, slot, memory: &Arc<Memory>| Piece {
            name,
            slot,
            memory: memory.clone(),
            private,
        };
        let [code, vars] = banks.memory();
        let mut pieces = vec![
            piece("ram", Some(SLOT_RAM), &ram),
            piece("flash0", None, &code),
            piece("flash1", None, &vars),
        ];
        pieces.extend(stolen_time.iter().map(|m| piece("stolen-time", Some(SLOT_PVTIME), m)));
        let all_memory: Vec<Arc<Memory>> = pieces.iter().map(|p| p.memory.clone()).collect();
        check_page_size(&loaded, must("reading ID_AA64MMFR0_EL1", vcpus[0].get_reg_u64(ID_AA64MMFR0_EL1))?)?;
        let pmu = init.features[0] >> vcpu_feature::PMU_V3 & 1 != 0;
        let pmu = pmu && vcpus.iter_mut().all(|vcpu| start_pmu(&mut **vcpu));

        let mut bus = Bus::default();
        let (uart, rtc, gpio) = primecells(&vm, &mut bus, outside, console, waker);
        let space = Arc::new(memory::space(&ram)?);
        let [code, vars] = banks.devices(&vm, SLOT_FLASH)?;
        let (code, vars) = (Arc::new(Mutex::new(code)), Arc::new(Mutex::new(vars)));
        bus.attach(layout::FLASH, code.clone());
        bus.attach(layout::FLASH_VARS, vars.clone());
        let fw_cfg = Arc::new(Mutex::new(FwCfgMmio::new(items, space.clone())));
        bus.attach(layout::FW_CFG..layout::FW_CFG + FW_CFG_SIZE, fw_cfg.clone());
        let mut devices: Vec<(u64, Shared<dyn Carried>)> = vec![
            (layout::FLASH.start, code),
            (layout::FLASH_VARS.start, vars),
            (layout::UART, uart.clone()),
            (layout::RTC, rtc.clone()),
            (layout::FW_CFG, fw_cfg),
            (layout::GPIO, gpio.clone()),
        ];
        let power = make_power(&*vm, config, &vcpus, &mpidrs, init, &all_memory)?;
        let services = services_shown(&mut *vcpus[0], config);
        let fresh = matches!(boot, Boot::Fresh);
        let virtio = virtio_devices(&vm, &mut bus, &mut devices, config, outside, &space, fresh)?;
        let extent = |n: u32| vm.check_extension(n).ok().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let debug_registers = (extent(cap::GUEST_DEBUG_HW_BPS), extent(cap::GUEST_DEBUG_HW_WPS));
        let parts = Arc::new(Parts {
            config: config.clone(),
            features: init.features[0],
            vm: vm.clone(),
            gic,
            gic_version,
            mpidrs: mpidrs.clone(),
            pieces,
            devices,
            banks: banks.clone(),
        });
        let targets = config.targets.clone().into();
        let board =
            Board { vcpus, bus, uart, rtc, targets, debug_registers, gpio, power, init, services, parts };
        if !fresh {
            return Ok(board);
        }
        let mut board = board;

        let mut seed = [0u8; 40];
        (outside.entropy)().fill(&mut seed).map_err(|e| Error::host("get random bytes", e))?;
        let (rng_seed, kaslr) = seed.split_at(32);
        let tree = Tree {
            ram: ram_range,
            cpus: &mpidrs,
            gic: gic_tree,
            psci: config.services.word("psci"),
            sdei: config.services.sdei(),
            pmu,
            virtio: &virtio,
            cmdline: &config.cmdline,
            initrd: initrd.clone(),
            rng_seed: rng_seed.try_into().unwrap_or([0; 32]),
            kaslr_seed: kaslr.try_into().map_or(0, u64::from_le_bytes),
        };
        let blob = tree.flatten().map_err(|e| Error::Internal(format!("device tree: {e}")))?;
        if blob.len() as u64 > loader::FDT_ROOM {
            return Err(Error::Internal(format!("the device tree has {} bytes", blob.len())));
        }
        if let Some(path) = &config.dtb_out {
            std::fs::write(path, &blob).map_err(|source| Error::File {
                action: "write the device tree to",
                path: path.clone(),
                source,
            })?;
        }
        memory::write(&ram, &blob, fdt_at)?;

        let entry = loaded.as_ref().map_or(layout::FLASH.start, |l| l.entry);
        must("setting PC", board.vcpus[0].set_reg_u64(RegId::PC, entry))?;
        must("setting x0", board.vcpus[0].set_reg_u64(RegId::x(0), fdt_at))?;
        tracing::info!(
            "{}: {} vCPU(s), {} MiB, entry {entry:#x}, device tree at {fdt_at:#x}, initrd at {:x?}",
            config.name,
            config.cpus,
            config.memory >> 20,
            initrd
        );
        Ok(board)
    }
}

/// The table of vCPUs that may be on. A machine with one vCPU needs none.
fn make_power(
    vm: &dyn Vm,
    config: &Config,
    vcpus: &[Box<dyn Vcpu>],
    mpidrs: &[u64],
    init: VcpuInit,
    memory: &[Arc<Memory>],
) -> Result<Option<Power>, Error> {
    if config.max_cpus == 1 {
        return Ok(None);
    }
    if !must("forwarding CPU_ON", power::forward(vm, init.features[0] >> vcpu_feature::PSCI_0_2 & 1 != 0))? {
        if config.max_cpus > config.cpus {
            return Err(Error::host("keep vCPUs disabled", "this KVM has no filter of hypercalls"));
        }
        return Ok(None);
    }
    let kickers: Vec<_> = vcpus.iter().map(|v| v.kicker()).collect();
    let entries = memory.iter().map(|m| memory::range(m)).collect();
    Ok(Some(Power::new(mpidrs, &kickers, config.cpus, init, entries)))
}

/// What the firmware registers say (kvm-arm64-abi.md §6).
fn services_shown(vcpu: &mut dyn Vcpu, config: &Config) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for name in ["sdei", "suspend"] {
        all.insert(name.to_owned(), config.services.word(name).unwrap_or("off").to_owned());
    }
    if let Ok(v) = vcpu.get_reg_u64(RegId::PSCI_VERSION) {
        all.insert("psci".to_owned(), format!("{}.{}", v >> 16, v & 0xffff));
    }
    // KVM_REG_ARM_STD_BMAP, STD_HYP_BMAP, VENDOR_HYP_BMAP and bits in them.
    for (name, register, bit) in [("trng", 0, 0), ("pvtime", 1, 0), ("vendor", 2, 0), ("ptp", 2, 1)] {
        if let Ok(v) = vcpu.get_reg_u64(RegId::fw_feat(register)) {
            all.insert(name.to_owned(), if v >> bit & 1 != 0 { "on" } else { "off" }.to_owned());
        }
    }
    all
}

/// What the first vCPU finds.
#[derive(Default)]
struct Start {
    /// The kernel in RAM, if the machine starts there and not in the flash.
    loaded: Option<Loaded>,
    fdt_at: u64,
    /// The initrd in RAM.
    initrd: Option<Range<u64>>,
    /// What firmware is told.
    items: Items,
}

/// Puts the kernel into RAM, or into the hands of the firmware.
fn prepare(config: &Config, ram: &Memory) -> Result<Start, Error> {
    let items = firmware_items(config, ram)?;
    if config.firmware.is_none() {
        let loaded = loader::load_kernel(ram, &config.kernel)?;
        let kernel = loaded.as_ref().map_or(layout::RAM..layout::RAM, |l| l.kernel.clone());
        let places = loader::load_initrd(ram, &kernel, config.initrd.as_deref())?;
        return Ok(Start { loaded, fdt_at: places.fdt, initrd: places.initrd, items });
    }
    // Firmware looks for the device tree at the start of RAM.
    Ok(Start { loaded: None, fdt_at: layout::RAM, initrd: None, items })
}

/// What firmware is told.
fn firmware_items(config: &Config, ram: &Memory) -> Result<Items, Error> {
    // Items are little-endian where nothing else is said; a file above 4 GiB does not exist for the firmware either.
    let word = |value: usize| (value as u32).to_le_bytes();
    let mut items = Items::default()
        .item(key::NB_CPUS, (config.cpus as u16).to_le_bytes().as_slice())
        .file("bootorder", [].as_slice())
        // Not to wait for a person after a boot that failed, but to go on.
        .file("etc/boot-fail-wait", u32::MAX.to_le_bytes().as_slice());
    if config.firmware.is_none() {
        return Ok(items);
    }
    let files = loader::read_for_firmware(ram, &config.kernel, config.initrd.as_deref())?;
    if let Some(kernel) = files.kernel {
        let mut cmdline = config.cmdline.clone().into_bytes();
        cmdline.push(0);
        items = items
            .item(key::KERNEL_SIZE, word(kernel.len()).as_slice())
            .item(key::KERNEL_DATA, kernel)
            .item(key::CMDLINE_SIZE, word(cmdline.len()).as_slice())
            .item(key::CMDLINE_DATA, cmdline);
    }
    if let Some(initrd) = files.initrd {
        items = items.item(key::INITRD_SIZE, word(initrd.len()).as_slice()).item(key::INITRD_DATA, initrd);
    }
    Ok(items)
}

fn map(vm: &dyn Vm, slot: u32, memory: &Arc<Memory>, flags: u32) -> Result<(), Error> {
    must("mapping guest memory", vm.set_memory(slot, memory::range(memory).start, memory.clone(), flags))
}

/// Features of vCPUs of a new machine, where the host has them.
fn wanted_features() -> u32 {
    let wanted = [
        vcpu_feature::PSCI_0_2,
        vcpu_feature::PMU_V3,
        vcpu_feature::PTRAUTH_ADDRESS,
        vcpu_feature::PTRAUTH_GENERIC,
    ];
    wanted.iter().fold(0, |all, f| all | 1 << f)
}

fn make_vcpus(vm: &dyn Vm, count: u32, features: u32) -> Result<(Vec<Box<dyn Vcpu>>, VcpuInit), Error> {
    let mut vcpus = Vec::new();
    for id in 0..count {
        let mut vcpu = must("creating a vCPU", vm.create_vcpu(id))?;
        let mut init = vm.preferred_target();
        init.features[0] = features | u32::from(id > 0) << vcpu_feature::POWER_OFF;
        must("initialising a vCPU", vcpu.init(&init))?;
        vcpus.push(vcpu);
    }
    let mut init = vm.preferred_target();
    init.features[0] = features;
    Ok((vcpus, init))
}

/// Gives the PMU its interrupt. Without one a guest is not told of it: counting works, sampling would not.
fn start_pmu(vcpu: &mut dyn Vcpu) -> bool {
    let done = vcpu
        .set_attr(PMU_CTRL, PMU_IRQ, u64::from(16 + ppi::PMU))
        .and_then(|()| vcpu.set_attr(PMU_CTRL, PMU_INIT, 0));
    if let Err(e) = done {
        tracing::info!("no PMU interrupt: {e}");
    }
    done.is_ok()
}

/// A kernel whose pages the CPU does not know would die without a word.
fn check_page_size(loaded: &Option<Loaded>, mmfr0: u64) -> Result<(), Error> {
    let Some(size) = loaded.as_ref().and_then(|l| l.page_size) else { return Ok(()) };
    let field = |lsb: u32| mmfr0 >> lsb & 0xf;
    // TGran4 and TGran64 count from 0 with 0xf for absent, TGran16 from 1 (Arm ARM D24.2.72).
    let (there, name) = match size {
        PageSize::K4 => (field(28) < 8, "4"),
        PageSize::K16 => (field(20) != 0, "16"),
        PageSize::K64 => (field(24) < 8, "64"),
    };
    if there {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "The kernel was built for pages of {name} KiB, which the CPU of this profile lacks"
    )))
}

fn make_gic(
    vm: &dyn Vm,
    config: &Config,
    ram: &Range<u64>,
) -> Result<(Vec<Arc<dyn Device>>, GicTree), Error> {
    let address = |gic: &dyn Device, kind: u64, value: u64| {
        must("placing the interrupt controller", gic.set_attr(dev::GRP_ADDR, kind, value))
    };
    let lacks = |version: u32| {
        move |e: Errno| match e {
            e if e == Errno::ENODEV => {
                Error::Usage(format!("--gic {version}: the profile's host has no such controller for guests"))
            }
            e => Error::Internal(format!("creating the interrupt controller: {e}")),
        }
    };
    let start = |gic: &dyn Device| {
        must("starting the interrupt controller", gic.set_attr(dev::GRP_CTRL, dev::CTRL_INIT, 0))
    };
    let intids = |gic: &dyn Device| {
        must("sizing the interrupt controller", gic.set_attr(dev::GRP_NR_IRQS, 0, u64::from(spi::INTIDS)))
    };
    let v3 = match config.gic {
        GicVersion::V2 => None,
        GicVersion::V3 => Some(vm.create_device(dev::TYPE_ARM_VGIC_V3).map_err(lacks(3))?),
        GicVersion::Best => vm.create_device(dev::TYPE_ARM_VGIC_V3).ok(),
    };
    let Some(gic) = v3 else {
        if config.max_cpus > layout::MAX_CPUS_V2 {
            return Err(Error::Usage(format!(
                "{} vCPUs: the profile's host has a GICv2 only, with which a machine has at most {}",
                config.max_cpus,
                layout::MAX_CPUS_V2
            )));
        }
        let gic = vm.create_device(dev::TYPE_ARM_VGIC_V2).map_err(lacks(2))?;
        intids(&*gic)?;
        address(&*gic, dev::V2_ADDR_TYPE_DIST, layout::GICD)?;
        address(&*gic, dev::V2_ADDR_TYPE_CPU, layout::GICC)?;
        start(&*gic)?;
        return Ok((vec![gic], GicTree::V2));
    };
    intids(&*gic)?;
    address(&*gic, dev::V3_ADDR_TYPE_DIST, layout::GICD)?;
    let redistributors = layout::redistributors(config.max_cpus, ram.end);
    for (index, region) in (0u64..).zip(&redistributors) {
        let count = (region.end - region.start) / layout::GICR_STRIDE;
        address(&*gic, dev::V3_ADDR_TYPE_REDIST_REGION, count << 52 | region.start | index)?;
    }
    // Before the controller starts: its registers say whether there is an ITS.
    let its = match vm.create_device(dev::TYPE_ARM_VGIC_ITS) {
        Ok(its) => {
            address(&*its, dev::ITS_ADDR_TYPE, layout::ITS)?;
            Some(its)
        }
        Err(e) if e == Errno::ENODEV => None,
        Err(e) => return Err(Error::Internal(format!("creating the ITS: {e}"))),
    };
    start(&*gic)?;
    if let Some(its) = &its {
        start(&**its)?;
    }
    let tree = GicTree::V3 { redistributors, its: its.is_some() };
    Ok(([Some(gic), its].into_iter().flatten().collect(), tree))
}

fn primecells(
    vm: &Arc<dyn Vm>,
    bus: &mut Bus,
    outside: &Outside,
    console: &Console,
    waker: &Waker,
) -> (Shared<Uart>, Shared<Rtc>, Shared<Gpio>) {
    let page = |at: u64| at..at + layout::PRIMECELL_SIZE;
    let attention = || {
        let waker = waker.clone();
        Arc::new(move || waker.wake())
    };
    let mut uart = Uart::new(console.sink(), Spi::line(vm, spi::UART));
    uart.set_attention(attention());
    let uart = Arc::new(Mutex::new(uart));
    bus.attach(page(layout::UART), uart.clone());
    let mut rtc = Rtc::new((outside.wall_clock)(), Spi::line(vm, spi::RTC));
    rtc.set_attention(attention());
    let rtc = Arc::new(Mutex::new(rtc));
    bus.attach(page(layout::RTC), rtc.clone());
    let gpio = Arc::new(Mutex::new(Gpio::new(Spi::line(vm, spi::GPIO))));
    bus.attach(page(layout::GPIO), gpio.clone());
    (uart, rtc, gpio)
}

/// Disks from slot 0 up, then the network card, then the entropy source. The slots in use.
fn virtio_devices(
    vm: &Arc<dyn Vm>,
    bus: &mut Bus,
    devices: &mut Vec<(u64, Shared<dyn Carried>)>,
    config: &Config,
    outside: &Outside,
    ram: &Arc<Space>,
    fresh: bool,
) -> Result<Vec<u32>, Error> {
    let service = match config.clock {
        Clock::Host => Service::Worker,
        Clock::Instructions => Service::Inline,
    };
    let mut slots = Slots { vm, bus, devices, ram, service, used: Vec::new() };
    for (index, disk) in config.disks.iter().enumerate() {
        // The image of a machine on its way is still its source's.
        let open = if fresh { FileMedia::open } else { FileMedia::open_lent };
        let media = open(&disk.path, disk.readonly).map_err(|e| Error::Disk(e.to_string()))?;
        slots.add(Blk::new(media, &format!("{}-{index}", config.name)))?;
    }
    let backend: Option<Box<dyn NetBackend>> = match &config.net {
        Net::None => None,
        Net::User => {
            let passt = Passt::start(&PasstOptions::default(), MAC);
            Some(Box::new(passt.map_err(|e| Error::host("connect the guest to the network", e))?))
        }
        Net::Tap(name) => {
            let tap = Tap::open(name);
            Some(Box::new(tap.map_err(|e| Error::host("connect the guest to the network", e))?))
        }
    };
    if let Some(backend) = backend {
        let mtu = if config.net == Net::User { PasstOptions::default().mtu } else { 1500 };
        slots.add(Card::new(backend, MAC, mtu))?;
    }
    slots.add(Rng::new((outside.entropy)()))?;
    Ok(slots.used)
}

struct Slots<'a> {
    vm: &'a Arc<dyn Vm>,
    bus: &'a mut Bus,
    devices: &'a mut Vec<(u64, Shared<dyn Carried>)>,
    ram: &'a Arc<Space>,
    service: Service,
    used: Vec<u32>,
}

impl Slots<'_> {
    fn add<D: VirtioDevice>(&mut self, device: D) -> Result<(), Error> {
        let slot = self.used.len() as u32;
        let name = device.name();
        let irq = Spi::line(self.vm, spi::VIRTIO + slot);
        let window = VirtioMmio::new(device, self.ram.clone(), irq, self.service)
            .map_err(|e| Error::host(format!("start the virtio device {name}"), e))?;
        let at = layout::virtio(slot);
        let window = Arc::new(Mutex::new(window));
        self.bus.attach(at..at + layout::VIRTIO_STRIDE, window.clone());
        self.devices.push((at, window));
        self.used.push(slot);
        Ok(())
    }
}
