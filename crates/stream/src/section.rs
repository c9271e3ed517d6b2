//! The kinds of sections and their fields.

use crate::Malformed;
use crate::bytes::{Put, Take};
use std::fmt;

/// A section that readers who do not know it leave out.
pub(crate) const DROPPABLE: u32 = 1;

/// What a section holds. Numbers are for good; see `tripwires`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Kind(pub u16);

impl Kind {
    /// [`Header`]: first of every stream.
    pub const HEADER: Kind = Kind(1);
    /// The board in the words of the VMM.
    pub const BOARD: Kind = Kind(2);
    /// Registers of which the VM has one value.
    pub const VM_REGS: Kind = Kind(3);
    /// [`Gic`].
    pub const GIC: Kind = Kind(4);
    /// [`Region`].
    pub const REGION: Kind = Kind(5);
    /// [`Pages`].
    pub const PAGES: Kind = Kind(6);
    /// [`Zero`].
    pub const ZERO: Kind = Kind(7);
    /// [`Vcpu`].
    pub const VCPU: Kind = Kind(8);
    /// [`Device`].
    pub const DEVICE: Kind = Kind(9);
    /// The end of a round of memory.
    pub const ROUND: Kind = Kind(10);
    /// The end of the stream, or of the part before the hand-over.
    pub const END: Kind = Kind(11);
    /// What the two sides of a live move say to each other beside the state: [`crate::handover::Message`].
    pub const MESSAGE: Kind = Kind(12);

    /// [`Sums`]: before the header, in snapshots.
    pub const SUMS: Kind = Kind(13);

    const NAMES: [(Kind, &'static str); 13] = [
        (Kind::HEADER, "header"),
        (Kind::BOARD, "board"),
        (Kind::VM_REGS, "vm-registers"),
        (Kind::GIC, "gic"),
        (Kind::REGION, "region"),
        (Kind::PAGES, "pages"),
        (Kind::ZERO, "zero"),
        (Kind::VCPU, "vcpu"),
        (Kind::DEVICE, "device"),
        (Kind::ROUND, "round"),
        (Kind::END, "end"),
        (Kind::MESSAGE, "message"),
        (Kind::SUMS, "sums"),
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Kind::NAMES.iter().find(|(k, _)| k == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "section kind {}", self.0),
        }
    }
}

/// What a host may do with features beyond its profile's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// What KVM on that hardware can do.
    Hw,
    /// What software can do beyond.
    Soft,
}

/// Whose state this is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Tells this move from others.
    pub token: [u8; 16],
    /// Version of the ulna that wrote it.
    pub creator: String,
    /// Name of the machine.
    pub name: String,
    /// Name of the source's profile.
    pub profile: String,
    /// Its policy.
    pub policy: Policy,
    /// The kernel whose KVM was played: major, minor.
    pub kernel: (u16, u16),
    /// Features of KVM_ARM_VCPU_INIT, word 0, without POWER_OFF.
    pub vcpu_features: u32,
    /// vCPUs.
    pub vcpus: u32,
    /// CNTFRQ_EL0 as the guest sees it.
    pub counter_hz: u64,
    /// Nanoseconds since 1970 when the guest was stopped; 0 in a live move, where it still runs.
    pub stopped_at: u64,
    /// What the virtual and the physical counter showed then; a KVM may lack the second.
    pub counters: [Option<u64>; 2],
}

/// A register: id and bytes, of any width.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reg {
    /// KVM's id.
    pub id: u64,
    /// Its value, little-endian.
    pub bytes: Vec<u8>,
    /// With this value it may be left out where nobody knows it.
    pub neutral: Option<Vec<u8>>,
}

impl Reg {
    /// May a destination that does not know the register do without?
    pub fn droppable(&self) -> bool {
        self.neutral.as_ref() == Some(&self.bytes)
    }

    /// The value of a register of at most 64 bits.
    pub fn value(&self) -> Option<u64> {
        let mut b = [0; 8];
        b.get_mut(..self.bytes.len())?.copy_from_slice(&self.bytes);
        Some(u64::from_le_bytes(b))
    }
}

/// An attribute of a KVM device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Group.
    pub group: u32,
    /// Attribute.
    pub attr: u64,
    /// Value.
    pub value: u64,
}

/// The interrupt controller. The order is that of restoring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gic {
    /// 2 or 3.
    pub version: u8,
    /// Attributes of the distributor's device.
    pub attrs: Vec<Attr>,
    /// Attributes of each ITS.
    pub its: Vec<Vec<Attr>>,
}

/// A piece of guest memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region {
    /// Number in this stream.
    pub id: u32,
    /// What it is: `ram`, `flash`, ...
    pub name: String,
    /// Guest address.
    pub gpa: u64,
    /// Bytes.
    pub len: u64,
    /// The file beside the stream that holds its contents, if they are not in the stream.
    pub file: String,
}

/// How the bytes of pages are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    /// As they are.
    Plain,
    /// A zstd frame.
    Zstd,
}

impl Codec {
    fn number(self) -> u8 {
        match self {
            Codec::Plain => 0,
            Codec::Zstd => 1,
        }
    }
    fn of(n: u8) -> Result<Codec, Malformed> {
        match n {
            0 => Ok(Codec::Plain),
            1 => Ok(Codec::Zstd),
            n => Err(Malformed::Value("codec", n.into())),
        }
    }
}

/// Bytes of a [`Pages`] before its data.
const PAGES_HEAD: usize = 17;

/// Contents of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages<'a> {
    /// Which region.
    pub region: u32,
    /// From where in it.
    pub offset: u64,
    /// Bytes of memory.
    pub len: u32,
    /// How they are written.
    pub codec: Codec,
    /// The bytes.
    pub data: &'a [u8],
}

impl<'a> Pages<'a> {
    pub(crate) const HEAD: usize = PAGES_HEAD;

    pub(crate) fn head(&self) -> [u8; PAGES_HEAD] {
        let mut b = [0; PAGES_HEAD];
        b[..4].copy_from_slice(&self.region.to_le_bytes());
        b[4..12].copy_from_slice(&self.offset.to_le_bytes());
        b[12..16].copy_from_slice(&self.len.to_le_bytes());
        b[16] = self.codec.number();
        b
    }

    pub(crate) fn take(payload: &'a [u8]) -> Result<Pages<'a>, Malformed> {
        let mut t = Take(payload);
        let (region, offset, len) = (t.u32()?, t.u64()?, t.u32()?);
        let codec = Codec::of(t.u8()?)?;
        if u64::from(len) > crate::MAX_SECTION {
            return Err(Malformed::Value("length", len.into()));
        }
        if codec == Codec::Plain && t.0.len() != len as usize {
            return Err(if t.0.len() < len as usize {
                Malformed::Short
            } else {
                Malformed::Long(t.0.len() - len as usize)
            });
        }
        Ok(Pages { region, offset, len, codec, data: t.0 })
    }
}

/// Memory that is zero and was not before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zero {
    /// Which region.
    pub region: u32,
    /// From where in it.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Checksums of memory that is in a file beside the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sums {
    /// Which region.
    pub region: u32,
    /// Bytes that each covers.
    pub chunk: u32,
    /// CRC-32 of each chunk.
    pub sums: Vec<u32>,
}

/// How far a vCPU is, where the VMM keeps that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    /// KVM keeps it to itself.
    Kvm,
    /// On.
    On,
    /// Off.
    Off,
    /// Switched on, and not yet at its first instruction.
    Starting {
        /// Where that is.
        pc: u64,
        /// Its argument.
        x0: u64,
        /// In the byte order of who switched it on.
        big_endian: bool,
    },
}

/// A vCPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vcpu {
    /// Number.
    pub id: u32,
    /// The guest may switch it on.
    pub enabled: bool,
    /// How far it is.
    pub power: Power,
    /// KVM_GET_MP_STATE.
    pub mp_state: u32,
    /// `kvm_vcpu_events`: SError pending, has a syndrome, external abort pending, syndrome.
    pub events: (bool, bool, bool, u64),
    /// Registers that are its own, in the order of KVM_GET_REG_LIST.
    pub regs: Vec<Reg>,
}

/// A device of the board.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// `pl011`, `virtio-mmio:blk`, ...
    pub kind: String,
    /// Version of the payload.
    pub version: u16,
    /// Guest address.
    pub address: u64,
    /// Its state.
    pub payload: Vec<u8>,
}

/// A section.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Section {
    /// Whose state this is.
    Header(Header),
    /// The board in the words of the VMM.
    Board(String),
    /// Registers of the VM.
    VmRegs(Vec<Reg>),
    /// Interrupt controller.
    Gic(Gic),
    /// A piece of memory.
    Region(Region),
    /// Contents of memory.
    Pages {
        /// Which region.
        region: u32,
        /// From where in it.
        offset: u64,
        /// Bytes of memory.
        len: u32,
        /// How they are written.
        codec: Codec,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Memory that is zero.
    Zero(Zero),
    /// A vCPU.
    Vcpu(Vcpu),
    /// A device.
    Device(Device),
    /// The end of a round; its number.
    Round(u32),
    /// The end; sections before it.
    End(u32),
    /// What the sides of a live move say.
    Message(crate::handover::Message),
    /// Checksums of memory in a file.
    Sums(Sums),
}

fn put_reg(p: &mut Put, r: &Reg) {
    p.u64(r.id).u8(r.neutral.is_some().into()).bytes(&r.bytes);
    if let Some(n) = &r.neutral {
        p.bytes(n);
    }
}

fn take_reg(t: &mut Take<'_>) -> Result<Reg, Malformed> {
    let id = t.u64()?;
    let neutral = t.flag("neutral flag")?;
    let bytes = t.bytes()?;
    let neutral = if neutral { Some(t.bytes()?) } else { None };
    Ok(Reg { id, bytes, neutral })
}

fn put_attr(p: &mut Put, a: &Attr) {
    p.u32(a.group).u64(a.attr).u64(a.value);
}

fn take_attr(t: &mut Take<'_>) -> Result<Attr, Malformed> {
    Ok(Attr { group: t.u32()?, attr: t.u64()?, value: t.u64()? })
}

fn put_option(p: &mut Put, v: Option<u64>) {
    p.u8(v.is_some().into()).u64(v.unwrap_or(0));
}

fn take_option(t: &mut Take<'_>) -> Result<Option<u64>, Malformed> {
    let some = t.flag("presence")?;
    let v = t.u64()?;
    Ok(some.then_some(v))
}

impl Header {
    fn put(&self, p: &mut Put) {
        p.0.extend(self.token);
        p.text(&self.creator).text(&self.name).text(&self.profile);
        p.u8(matches!(self.policy, Policy::Soft).into()).u16(self.kernel.0).u16(self.kernel.1);
        p.u32(self.vcpu_features).u32(self.vcpus).u64(self.counter_hz).u64(self.stopped_at);
        self.counters.iter().for_each(|c| put_option(p, *c));
    }

    fn take(t: &mut Take<'_>) -> Result<Header, Malformed> {
        Ok(Header {
            token: t.array()?,
            creator: t.text()?,
            name: t.text()?,
            profile: t.text()?,
            policy: if t.flag("policy")? { Policy::Soft } else { Policy::Hw },
            kernel: (t.u16()?, t.u16()?),
            vcpu_features: t.u32()?,
            vcpus: t.u32()?,
            counter_hz: t.u64()?,
            stopped_at: t.u64()?,
            counters: [take_option(t)?, take_option(t)?],
        })
    }
}

impl Vcpu {
    fn put(&self, p: &mut Put) {
        p.u32(self.id).u8(self.enabled.into());
        let (state, pc, x0, big) = match self.power {
            Power::Kvm => (0, 0, 0, false),
            Power::On => (1, 0, 0, false),
            Power::Off => (2, 0, 0, false),
            Power::Starting { pc, x0, big_endian } => (3, pc, x0, big_endian),
        };
        p.u8(state).u64(pc).u64(x0).u8(big.into()).u32(self.mp_state);
        let (pending, has_esr, abort, esr) = self.events;
        p.u8(pending.into()).u8(has_esr.into()).u8(abort.into()).u64(esr);
        p.list(&self.regs, put_reg);
    }

    fn take(t: &mut Take<'_>) -> Result<Vcpu, Malformed> {
        let (id, enabled) = (t.u32()?, t.flag("enabled")?);
        let (state, pc, x0, big_endian) = (t.u8()?, t.u64()?, t.u64()?, t.flag("byte order")?);
        let power = match state {
            0 => Power::Kvm,
            1 => Power::On,
            2 => Power::Off,
            3 => Power::Starting { pc, x0, big_endian },
            n => return Err(Malformed::Value("power state", n.into())),
        };
        let mp_state = t.u32()?;
        let events = (t.flag("SError")?, t.flag("syndrome flag")?, t.flag("abort")?, t.u64()?);
        Ok(Vcpu { id, enabled, power, mp_state, events, regs: t.list(take_reg)? })
    }
}

impl Section {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Section::Header(_) => Kind::HEADER,
            Section::Board(_) => Kind::BOARD,
            Section::VmRegs(_) => Kind::VM_REGS,
            Section::Gic(_) => Kind::GIC,
            Section::Region(_) => Kind::REGION,
            Section::Pages { .. } => Kind::PAGES,
            Section::Zero(_) => Kind::ZERO,
            Section::Vcpu(_) => Kind::VCPU,
            Section::Device(_) => Kind::DEVICE,
            Section::Round(_) => Kind::ROUND,
            Section::End(_) => Kind::END,
            Section::Message(_) => Kind::MESSAGE,
            Section::Sums(_) => Kind::SUMS,
        }
    }

    /// Its fields as bytes, version 1.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut p = Put::default();
        match self {
            Section::Header(h) => h.put(&mut p),
            Section::Board(text) => {
                p.text(text);
            }
            Section::VmRegs(regs) => {
                p.list(regs, put_reg);
            }
            Section::Gic(g) => {
                p.u8(g.version).list(&g.attrs, put_attr);
                p.list(&g.its, |p, one| {
                    p.list(one, put_attr);
                });
            }
            Section::Region(r) => {
                p.u32(r.id).text(&r.name).u64(r.gpa).u64(r.len).text(&r.file);
            }
            Section::Pages { region, offset, len, codec, data } => {
                let head = Pages { region: *region, offset: *offset, len: *len, codec: *codec, data };
                p.0.extend(head.head());
                p.0.extend(data);
            }
            Section::Zero(z) => {
                p.u32(z.region).u64(z.offset).u64(z.len);
            }
            Section::Vcpu(v) => v.put(&mut p),
            Section::Device(d) => {
                p.text(&d.kind).u16(d.version).u64(d.address).bytes(&d.payload);
            }
            Section::Round(n) | Section::End(n) => {
                p.u32(*n);
            }
            Section::Message(m) => m.put(&mut p),
            Section::Sums(s) => {
                p.u32(s.region).u32(s.chunk).list(&s.sums, |p, v| {
                    p.u32(*v);
                });
            }
        }
        p.0
    }

    /// Reads the fields; `None` for a kind or version that this reader does not know.
    pub(crate) fn take(kind: Kind, version: u16, payload: &[u8]) -> Option<Result<Section, Malformed>> {
        if version != 1 {
            return None;
        }
        let mut t = Take(payload);
        let t = &mut t;
        let section = match kind {
            Kind::HEADER => Header::take(t).map(Section::Header),
            Kind::BOARD => t.text().map(Section::Board),
            Kind::VM_REGS => t.list(take_reg).map(Section::VmRegs),
            Kind::GIC => Self::take_gic(t),
            Kind::REGION => Self::take_region(t),
            Kind::PAGES => {
                return Some(Pages::take(payload).map(|p| Section::Pages {
                    region: p.region,
                    offset: p.offset,
                    len: p.len,
                    codec: p.codec,
                    data: p.data.to_vec(),
                }));
            }
            Kind::ZERO => Self::take_zero(t),
            Kind::VCPU => Vcpu::take(t).map(Section::Vcpu),
            Kind::DEVICE => Self::take_device(t),
            Kind::ROUND => t.u32().map(Section::Round),
            Kind::END => t.u32().map(Section::End),
            Kind::MESSAGE => crate::handover::Message::take(t).map(Section::Message),
            Kind::SUMS => Self::take_sums(t),
            _ => return None,
        };
        Some(section.and_then(|s| t.end().map(|()| s)))
    }

    fn take_gic(t: &mut Take<'_>) -> Result<Section, Malformed> {
        let version = t.u8()?;
        if !matches!(version, 2 | 3) {
            return Err(Malformed::Value("version", version.into()));
        }
        let attrs = t.list(take_attr)?;
        let its = t.list(|t| t.list(take_attr))?;
        Ok(Section::Gic(Gic { version, attrs, its }))
    }

    fn take_region(t: &mut Take<'_>) -> Result<Section, Malformed> {
        let (id, name, gpa, len, file) = (t.u32()?, t.text()?, t.u64()?, t.u64()?, t.text()?);
        Ok(Section::Region(Region { id, name, gpa, len, file }))
    }

    fn take_zero(t: &mut Take<'_>) -> Result<Section, Malformed> {
        Ok(Section::Zero(Zero { region: t.u32()?, offset: t.u64()?, len: t.u64()? }))
    }

    fn take_sums(t: &mut Take<'_>) -> Result<Section, Malformed> {
        Ok(Section::Sums(Sums { region: t.u32()?, chunk: t.u32()?, sums: t.list(Take::u32)? }))
    }

    fn take_device(t: &mut Take<'_>) -> Result<Section, Malformed> {
        let (kind, version, address, payload) = (t.text()?, t.u16()?, t.u64()?, t.bytes()?);
        Ok(Section::Device(Device { kind, version, address, payload }))
    }
}
