//! The state of a machine that stands still, and a fresh machine that takes it over.

use super::{Blocked, MoveError, Parts, fail, gic};
use crate::board::{Board, Origin};
use crate::config::Config;
use crate::error::Error;
use crate::gate::{COUNTERS, Counts, Gate};
use crate::power::{self, Power};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use ulna_kvm_backend::abi::VcpuEvents;
use ulna_kvm_backend::{Errno, RegId, Vcpu, Vm};
use ulna_stream::{Device, Gic, Header, Phase, Policy, Reader, Reg, Region, Section, Writer};
use ulna_stream::{Error as StreamError, Vcpu as VcpuState};

/// How long vCPU threads may take to tell their registers.
const PATIENCE: Duration = Duration::from_secs(10);
/// CNTFRQ_EL0.
const CNTFRQ: RegId = RegId::sysreg(0xdf00);

/// Everything but the contents of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Whose it is.
    pub header: Header,
    /// The board.
    pub config: Config,
    /// Registers of the VM.
    pub vm_regs: Vec<Reg>,
    /// Interrupt controller.
    pub gic: Gic,
    /// Pieces of memory.
    pub regions: Vec<Region>,
    /// vCPUs by number.
    pub vcpus: Vec<VcpuState>,
    /// Devices.
    pub devices: Vec<Device>,
}

/// What tells of the host and of this move.
#[derive(Clone, Debug)]
pub struct Origins {
    /// Name of the host's profile.
    pub profile: String,
    /// Its policy.
    pub policy: Policy,
    /// Kernel whose KVM is played.
    pub kernel: (u16, u16),
    /// Tells this state from others.
    pub token: [u8; 16],
    /// Nanoseconds since 1970.
    pub now: u64,
}

/// A machine as a save needs it.
pub struct Standing<'a> {
    /// Where its vCPU threads wait.
    pub gate: &'a Gate,
    /// Its vCPUs without a thread.
    pub power: Option<&'a Arc<Power>>,
    /// The rest.
    pub parts: &'a Parts,
}

/// What vCPU threads told.
type Found = Arc<Mutex<BTreeMap<u32, Result<(VcpuState, Counts), Errno>>>>;

/// Registers of a vCPU that are its own.
fn vcpu_regs(vcpu: &mut dyn Vcpu, the_vms: &BTreeSet<RegId>) -> Result<Vec<Reg>, Errno> {
    let mut all = Vec::new();
    for id in vcpu.reg_list()? {
        if the_vms.contains(&id) || COUNTERS.contains(&id) {
            continue;
        }
        let mut bytes = vec![0; id.size()];
        vcpu.get_one_reg(id, &mut bytes)?;
        all.push(Reg { id: id.0, bytes, neutral: None });
    }
    Ok(all)
}

fn vcpu_state(id: u32, vcpu: &mut dyn Vcpu, the_vms: &BTreeSet<RegId>) -> Result<VcpuState, Errno> {
    let e = vcpu.vcpu_events()?;
    Ok(VcpuState {
        id,
        enabled: true,
        power: ulna_stream::Power::Kvm,
        mp_state: vcpu.mp_state(),
        events: (e.serror_pending != 0, e.serror_has_esr != 0, e.ext_dabt_pending != 0, e.serror_esr),
        regs: vcpu_regs(vcpu, the_vms)?,
    })
}

fn power_of(state: power::State) -> ulna_stream::Power {
    match state {
        power::State::On => ulna_stream::Power::On,
        power::State::Off => ulna_stream::Power::Off,
        power::State::Starting(s) => {
            ulna_stream::Power::Starting { pc: s.pc, x0: s.x0, big_endian: s.big_endian }
        }
    }
}

/// Registers of the VM, but not its counters.
fn vm_regs(vm: &dyn Vm) -> Result<Vec<Reg>, String> {
    let mut all = Vec::new();
    for id in vm.reg_list().into_iter().filter(|id| !COUNTERS.contains(id)) {
        let value = vm.get_vm_reg(id).map_err(|e| format!("reading {}: {e}", super::blocked::name(id)))?;
        let neutral = vm.neutral_value(id).map(|v| v.to_le_bytes().to_vec());
        all.push(Reg { id: id.0, bytes: value.to_le_bytes().to_vec(), neutral });
    }
    Ok(all)
}

impl State {
    /// Takes it from a machine whose vCPUs wait and whose devices are paused. With `tables` what the interrupt controller
    /// keeps in memory is written there.
    pub fn take(m: &Standing<'_>, from: &Origins, tables: bool) -> Result<State, MoveError> {
        let fail = fail(Phase::State);
        let parts = m.parts;
        let the_vms: Arc<BTreeSet<RegId>> = Arc::new(parts.vm.reg_list().into_iter().collect());
        let found: Found = Arc::default();
        let note = {
            let (found, the_vms) = (found.clone(), the_vms.clone());
            move |id: u32, vcpu: &mut dyn Vcpu| {
                let counts = COUNTERS.map(|r| vcpu.get_reg_u64(r).ok());
                let state = vcpu_state(id, vcpu, &the_vms).map(|s| (s, counts));
                found.lock().unwrap_or_else(PoisonError::into_inner).insert(id, state);
            }
        };
        if let Some(power) = m.power {
            power.each_parked(&note);
        }
        m.gate.each(note, PATIENCE).map_err(|n| fail(format!("{n} vCPU thread(s) do not answer")))?;
        let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        let view = m.power.map(|p| p.view());
        let mut vcpus = Vec::new();
        let mut counters = None;
        for (id, state) in found {
            let (mut state, counts) = state.map_err(|e| fail(format!("registers of vCPU {id}: {e}")))?;
            if let Some((_, enabled, power)) = view.as_ref().and_then(|v| v.get(id as usize)) {
                (state.enabled, state.power) = (*enabled, power_of(*power));
            }
            counters = counters.or(Some(counts));
            vcpus.push(state);
        }
        if vcpus.len() != parts.mpidrs.len() {
            let (n, all) = (vcpus.len(), parts.mpidrs.len());
            return Err(fail(format!(
                "{n} of {all} vCPUs told their state: the machine ends, or a debugger has it"
            )));
        }
        // A clock that follows the host's was noted when the last vCPU stopped.
        let counters = m.gate.counts().or(counters).unwrap_or_default();
        let gic = gic::save(&parts.gic, parts.gic_version, &parts.mpidrs, tables)
            .map_err(|e| fail(format!("interrupt controller: {e}")))?;
        let device = |(address, d): &(u64, crate::bus::Shared<dyn ulna_devices::Carried>)| {
            let d = crate::bus::lock(d);
            Device { kind: d.kind(), version: d.version(), address: *address, payload: d.save() }
        };
        Ok(State {
            header: Header {
                token: from.token,
                creator: env!("CARGO_PKG_VERSION").into(),
                name: parts.config.name.clone(),
                profile: from.profile.clone(),
                policy: from.policy,
                kernel: from.kernel,
                vcpu_features: parts.features,
                vcpus: parts.mpidrs.len() as u32,
                counter_hz: parts.vm.counter_hz(),
                stopped_at: from.now,
                counters,
            },
            config: parts.config.clone(),
            vm_regs: vm_regs(&*parts.vm).map_err(&fail)?,
            gic,
            regions: regions(parts),
            vcpus,
            devices: parts.devices.iter().map(device).collect(),
        })
    }

    /// Writes it.
    pub fn write<W: Write>(&self, w: &mut Writer<W>) -> Result<(), StreamError> {
        w.section(&Section::Header(self.header.clone()))?;
        let board = serde_json::to_string(&self.config).map_err(|e| StreamError::Io(e.into()))?;
        w.section(&Section::Board(board))?;
        w.section(&Section::VmRegs(self.vm_regs.clone()))?;
        w.section(&Section::Gic(self.gic.clone()))?;
        self.regions.iter().try_for_each(|r| w.section(&Section::Region(r.clone())))?;
        self.vcpus.iter().try_for_each(|v| w.section(&Section::Vcpu(v.clone())))?;
        self.devices.iter().try_for_each(|d| w.section(&Section::Device(d.clone())))?;
        w.end()
    }

    /// Reads it, to its end.
    pub fn read<R: Read>(r: &mut Reader<R>) -> Result<State, String> {
        State::read_with(r, |_| ())
    }

    /// Reads it, to its end; checksums of memory go elsewhere.
    pub fn read_with<R: Read>(
        r: &mut Reader<R>,
        mut sums: impl FnMut(ulna_stream::Sums),
    ) -> Result<State, String> {
        let mut parts = Collected::default();
        loop {
            match r.next_section().map_err(|e| e.to_string())? {
                Some(Section::End(_)) => return parts.finish(),
                Some(Section::Sums(s)) => sums(s),
                Some(s) => parts.add(s)?,
                None => return Err(format!("the stream ends at byte {} without saying so", r.read())),
            }
        }
    }

    /// What is to be known before the machine is made.
    pub fn origin(
        &self,
        ram: Arc<crate::memory::Memory>,
        stolen_time: Option<Arc<crate::memory::Memory>>,
    ) -> Origin {
        Origin {
            ram,
            stolen_time,
            features: self.header.vcpu_features,
            counter_hz: self.header.counter_hz,
            vm_regs: self.vm_regs.clone(),
            private: false,
        }
    }

    /// Puts the interrupt controller's and the vCPUs' state into a machine that has not run; with `tables` memory is there.
    pub fn apply(
        &self,
        devices: &[Arc<dyn ulna_kvm_backend::Device>],
        version: u8,
        vcpus: &mut [Box<dyn Vcpu>],
        tables: bool,
        blocked: &mut Vec<Blocked>,
    ) {
        gic::restore(devices, version, &self.gic, tables, blocked);
        for (vcpu, state) in vcpus.iter_mut().zip(&self.vcpus) {
            set_vcpu(&mut **vcpu, state, blocked);
        }
    }

    /// Puts all of it into a board whose memory is there.
    pub fn take_over(&self, board: &mut Board) -> Result<(), Error> {
        let parts = board.parts.clone();
        let mut blocked = Vec::new();
        self.apply(&parts.gic, parts.gic_version, &mut board.vcpus, true, &mut blocked);
        for d in &self.devices {
            let Some((_, device)) = parts.devices.iter().find(|(at, _)| *at == d.address) else {
                blocked.push(Blocked::other(
                    format!("the device at {:#x}", d.address),
                    d.kind.clone(),
                    "this board has none there",
                ));
                continue;
            };
            let mut device = crate::bus::lock(device);
            if device.kind() != d.kind {
                let here = format!("this board has {} there", device.kind());
                blocked.push(Blocked::other(format!("the device at {:#x}", d.address), d.kind.clone(), here));
            } else if let Err(e) = device.restore(d.version, &d.payload) {
                let what = format!("the state of {} at {:#x}", d.kind, d.address);
                blocked.push(Blocked::other(what, format!("version {}", d.version), e.to_string()));
            }
        }
        if let Some((at, d)) =
            parts.devices.iter().find(|(at, _)| self.devices.iter().all(|d| d.address != *at))
        {
            let what = format!("{} at {at:#x}", crate::bus::lock(d).kind());
            blocked.push(Blocked::other(what, "missing", "this board has one"));
        }
        for (id, v) in (0u32..).zip(&self.vcpus) {
            let state = match v.power {
                ulna_stream::Power::Kvm => continue,
                ulna_stream::Power::On => power::State::On,
                ulna_stream::Power::Off => power::State::Off,
                ulna_stream::Power::Starting { pc, x0, big_endian } => {
                    power::State::Starting(power::Start { pc, x0, big_endian })
                }
            };
            if let Some(power) = &board.power {
                power.take_over(id, v.enabled, state);
            }
        }
        if blocked.is_empty() { Ok(()) } else { Err(Error::Blocked(blocked)) }
    }
}

/// The pieces of memory, as a stream names them.
pub fn regions(parts: &Parts) -> Vec<Region> {
    let region = |(id, p): (u32, &super::Piece)| Region {
        id,
        name: p.name.into(),
        gpa: p.start(),
        len: p.len(),
        file: String::new(),
    };
    (0u32..).zip(&parts.pieces).map(region).collect()
}

/// Sections as they come.
#[derive(Default)]
pub struct Collected {
    header: Option<Header>,
    board: Option<String>,
    vm_regs: Option<Vec<Reg>>,
    gic: Option<Gic>,
    regions: Vec<Region>,
    vcpus: Vec<VcpuState>,
    devices: Vec<Device>,
}

impl Collected {
    /// One more.
    pub fn add(&mut self, s: Section) -> Result<(), String> {
        let (kind, twice) = (s.kind(), "there are two of it");
        let first = self.header.is_none() && !matches!(s, Section::Header(_));
        if first {
            return Err(format!("{kind}: a stream begins with its header"));
        }
        let known = match s {
            Section::Header(h) => self.header.replace(h).is_none(),
            Section::Board(b) => self.board.replace(b).is_none(),
            Section::VmRegs(v) => self.vm_regs.replace(v).is_none(),
            Section::Gic(g) => self.gic.replace(g).is_none(),
            Section::Region(r) => {
                self.regions.push(r);
                true
            }
            Section::Vcpu(v) => {
                self.vcpus.push(v);
                true
            }
            Section::Device(d) => {
                self.devices.push(d);
                true
            }
            _ => return Err(format!("{kind}: it does not belong here")),
        };
        if known { Ok(()) } else { Err(format!("{kind}: {twice}")) }
    }

    /// All of it.
    pub fn finish(self) -> Result<State, String> {
        let lack = |what: &str| format!("the stream has no {what}");
        let header = self.header.ok_or_else(|| lack("header"))?;
        let board = self.board.ok_or_else(|| lack("board"))?;
        let config: Config = serde_json::from_str(&board).map_err(|e| format!("board: {e}"))?;
        let ids = self.vcpus.iter().map(|v| v.id);
        if !ids.eq(0..header.vcpus) || header.vcpus != config.max_cpus {
            let n = self.vcpus.len();
            return Err(format!(
                "the header has {} vCPUs, the board {}, the stream {n}",
                header.vcpus, config.max_cpus
            ));
        }
        Ok(State {
            header,
            config,
            vm_regs: self.vm_regs.ok_or_else(|| lack("registers of the VM"))?,
            gic: self.gic.ok_or_else(|| lack("interrupt controller"))?,
            regions: self.regions,
            vcpus: self.vcpus,
            devices: self.devices,
        })
    }
}

/// Writes registers of the VM into one that has not run, and notes all that is refused.
pub fn set_vm_regs(vm: &dyn Vm, first: &mut dyn Vcpu, o: &Origin, blocked: &mut Vec<Blocked>) {
    let here = vm.counter_hz();
    if here != o.counter_hz && vm.set_vm_reg(CNTFRQ, o.counter_hz).is_err() {
        blocked.push(Blocked::counter(o.counter_hz, here));
    }
    let listed = vm.reg_list();
    for r in &o.vm_regs {
        let id = RegId(r.id);
        if id == CNTFRQ {
            continue;
        }
        let Some(value) = r.value() else {
            blocked.push(Blocked::register(r, Errno::EINVAL, None));
            continue;
        };
        // A KVM without such a list has them as registers of its vCPUs.
        let (done, now) = if listed.contains(&id) || listed.iter().any(|l| l.0 == r.id) {
            (vm.set_vm_reg(id, value), vm.get_vm_reg(id))
        } else {
            (first.set_reg_u64(id, value), first.get_reg_u64(id))
        };
        let Err(e) = done else { continue };
        match now {
            Ok(now) if now == value => {}
            Ok(now) => blocked.push(Blocked::register(r, e, Some(&now.to_le_bytes()))),
            Err(_) if r.droppable() => {}
            Err(_) => blocked.push(Blocked::register(r, Errno::ENOENT, None)),
        }
    }
}

fn set_vcpu(vcpu: &mut dyn Vcpu, state: &VcpuState, blocked: &mut Vec<Blocked>) {
    for r in &state.regs {
        let id = RegId(r.id);
        let refused = if r.bytes.len() == id.size() {
            vcpu.set_one_reg(id, &r.bytes).err()
        } else {
            Some(Errno::EINVAL)
        };
        let Some(e) = refused else { continue };
        let mut now = vec![0; id.size()];
        match vcpu.get_one_reg(id, &mut now) {
            Ok(()) if now == r.bytes => {}
            Ok(()) => blocked.push(Blocked::register(r, e, Some(&now))),
            Err(_) if r.droppable() => {}
            Err(e) => blocked.push(Blocked::register(r, e, None)),
        }
    }
    let (pending, has_esr, abort, esr) = state.events;
    let events = VcpuEvents {
        serror_pending: pending.into(),
        serror_has_esr: has_esr.into(),
        ext_dabt_pending: abort.into(),
        serror_esr: esr,
        ..Default::default()
    };
    if let Err(e) = vcpu.set_vcpu_events(&events) {
        blocked.push(Blocked::other(
            format!("events of vCPU {}", state.id),
            format!("{:?}", state.events),
            e.to_string(),
        ));
    }
    if let Err(e) = vcpu.set_mp_state(state.mp_state) {
        let what = format!("the power state of vCPU {}", state.id);
        blocked.push(Blocked::other(what, state.mp_state.to_string(), e.to_string()));
    }
}
