//! Types that the whole crate and its callers share.

use std::fmt;

use crate::identity::DistIdentity;

/// Most vCPUs a GICv3 serves (KVM's VGIC_V3_MAX_CPUS).
pub const MAX_VCPUS: usize = 512;
/// Most vCPUs a GICv2 serves: its target fields are bytes.
pub const MAX_VCPUS_V2: usize = 8;

/// GIC architecture version the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// GICv2: at most 8 vCPUs, memory-mapped CPU interface.
    V2,
    /// GICv3: affinity routing, system-register CPU interface.
    V3,
}

/// A vCPU's affinity packed as `Aff3[31:24] Aff2[23:16] Aff1[15:8] Aff0[7:0]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Affinity(pub u32);

impl Affinity {
    /// The affinity fields of an MPIDR_EL1 value.
    pub const fn from_mpidr(mpidr: u64) -> Self {
        Affinity((mpidr & 0xff_ffff) as u32 | (((mpidr >> 32) & 0xff) as u32) << 24)
    }
}

/// What a GIC is made of. Everything in it is fixed once the GIC exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GicConfig {
    /// GICv2 or GICv3.
    pub version: Version,
    /// Affinity of each vCPU; its index here is the `vcpu` of every call.
    pub vcpus: Vec<Affinity>,
    /// GICR_TYPER.Processor_Number of each vCPU (KVM: the vCPU id); missing ones have their index.
    pub vcpu_ids: Vec<u16>,
    /// Interrupt lines including the 32 private ones: a multiple of 32 from 64 to 1024.
    pub nr_irqs: u32,
    /// Priority (and preemption) bits of the CPU interface, ICC_CTLR_EL1.PRIbits + 1: 5 to 7.
    pub pri_bits: u8,
    /// INTID bits of the CPU interface: 16 or 24.
    pub id_bits: u8,
    /// ICC_CTLR_EL1.SEIS.
    pub seis: bool,
    /// ICC_CTLR_EL1.A3V.
    pub a3v: bool,
    /// ICC_CTLR_EL1.RSS: SGI range selectors are honoured. KVM 6.12 ignores them.
    pub rss: bool,
    /// What of GICD_TYPER is a choice.
    pub dist: DistIdentity,
    /// Number of ITSs; with at least one the guest is offered LPIs.
    pub its: usize,
    /// GICv2 only: GICC_IIDR as the guest reads it.
    pub cpuif_iidr: u32,
}

impl GicConfig {
    /// The GIC of an ordinary server core (5 priority bits, A3V), without ITS.
    pub fn new(version: Version, vcpus: Vec<Affinity>, nr_irqs: u32) -> Self {
        GicConfig {
            version,
            vcpus,
            vcpu_ids: Vec::new(),
            nr_irqs,
            pri_bits: 5,
            id_bits: 16,
            seis: false,
            a3v: true,
            rss: false,
            dist: DistIdentity::default(),
            its: 0,
            // GIC-400's, the part nearly every GICv2 machine has.
            cpuif_iidr: 0x0202_143b,
        }
    }

    /// Checks the limits stated at the fields.
    pub fn check(&self) -> Result<(), GicError> {
        let most = if self.version == Version::V2 { MAX_VCPUS_V2 } else { MAX_VCPUS };
        if self.vcpus.len() > most {
            return Err(GicError::VcpuCount { have: self.vcpus.len(), most });
        }
        if self.nr_irqs < 64 || self.nr_irqs > 1024 || !self.nr_irqs.is_multiple_of(32) {
            return Err(GicError::IrqCount(self.nr_irqs));
        }
        if !(5..=7).contains(&self.pri_bits) {
            return Err(GicError::PriorityBits(self.pri_bits));
        }
        if self.id_bits != 16 && self.id_bits != 24 {
            return Err(GicError::IdBits(self.id_bits));
        }
        if self.version == Version::V2 && self.its != 0 {
            return Err(GicError::ItsWithV2);
        }
        Ok(())
    }
}

/// Why the GIC refuses a configuration or a call. Guest accesses never fail: they are RAZ/WI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GicError {
    /// Too many vCPUs.
    VcpuCount {
        /// vCPUs asked for.
        have: usize,
        /// vCPUs this version serves.
        most: usize,
    },
    /// Not a multiple of 32 from 64 to 1024.
    IrqCount(u32),
    /// Not 5 to 7.
    PriorityBits(u8),
    /// Not 16 or 24.
    IdBits(u8),
    /// An ITS needs GICv3.
    ItsWithV2,
    /// There is no such vCPU.
    NoVcpu(usize),
    /// There is no such interrupt (or not of this kind).
    NoIrq(u32),
    /// There is no such register (ENXIO/ENOENT for userspace).
    NoRegister,
    /// The register refuses the value (EINVAL for userspace).
    BadValue,
    /// The register cannot be written now (EBUSY for userspace).
    Busy,
    /// A table is not in guest memory (EFAULT for userspace).
    Memory,
    /// A table has an entry twice (EEXIST for userspace).
    Exists,
}

impl fmt::Display for GicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            GicError::VcpuCount { have, most } => write!(f, "{have} vCPUs: this GIC serves at most {most}"),
            GicError::IrqCount(n) => write!(f, "{n} interrupts: must be a multiple of 32 from 64 to 1024"),
            GicError::PriorityBits(n) => write!(f, "{n} priority bits: must be 5 to 7"),
            GicError::IdBits(n) => write!(f, "{n} INTID bits: must be 16 or 24"),
            GicError::ItsWithV2 => write!(f, "an ITS needs a GICv3"),
            GicError::NoVcpu(n) => write!(f, "the GIC has no vCPU {n}"),
            GicError::NoIrq(n) => write!(f, "the GIC has no such interrupt {n}"),
            GicError::NoRegister => write!(f, "no such GIC register"),
            GicError::BadValue => write!(f, "the GIC register refuses the value"),
            GicError::Busy => write!(f, "the GIC register cannot be written now"),
            GicError::Memory => write!(f, "an interrupt table is not in guest memory"),
            GicError::Exists => write!(f, "an interrupt table has an entry twice"),
        }
    }
}

impl std::error::Error for GicError {}

/// Why an MSI was not delivered. KVM_SIGNAL_MSI calls all but the first "blocked by the guest".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsiError {
    /// There is no such ITS.
    NoIts,
    /// GITS_CTLR.Enabled is 0.
    ItsDisabled,
    /// The device and event are not mapped to an LPI, or its collection to no vCPU.
    Unmapped,
    /// GICR_CTLR.EnableLPIs of the target is 0.
    LpisDisabled,
}

impl fmt::Display for MsiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MsiError::NoIts => "there is no such ITS",
            MsiError::ItsDisabled => "the ITS is disabled",
            MsiError::Unmapped => "device and event are not mapped to an interrupt",
            MsiError::LpisDisabled => "the target vCPU has LPIs disabled",
        })
    }
}

impl std::error::Error for MsiError {}

/// The access touched an address where no memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryError;

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no guest memory at this address")
    }
}

impl std::error::Error for MemoryError {}

/// Guest memory as the ITS and the LPI tables need it.
pub trait GuestMemory {
    /// Fills `buf` from guest physical address `ipa`.
    fn read(&self, ipa: u64, buf: &mut [u8]) -> Result<(), MemoryError>;
    /// Writes `buf` to guest physical address `ipa`.
    fn write(&self, ipa: u64, buf: &[u8]) -> Result<(), MemoryError>;
}

/// A guest without memory: enough for whoever uses neither ITS nor LPIs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMemory;

impl GuestMemory for NoMemory {
    fn read(&self, _ipa: u64, _buf: &mut [u8]) -> Result<(), MemoryError> {
        Err(MemoryError)
    }

    fn write(&self, _ipa: u64, _buf: &[u8]) -> Result<(), MemoryError> {
        Err(MemoryError)
    }
}

/// A frame of GIC registers in the guest's physical address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Region {
    /// GICD: 64 KiB (v3) or 4 KiB (v2).
    Dist,
    /// GICR of this vCPU: RD_base at 0, SGI_base at 0x10000; 128 KiB. v3.
    Redist(usize),
    /// GICC of the accessing vCPU: 8 KiB. v2.
    Cpuif,
    /// GITS of this ITS: control frame at 0, translation frame at 0x10000; 128 KiB. v3.
    Its(usize),
}

/// Levels of a vCPU's interrupt inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// IRQ.
    pub irq: bool,
    /// FIQ.
    pub fiq: bool,
}

impl Lines {
    /// Whether any input is asserted.
    pub fn any(self) -> bool {
        self.irq || self.fiq
    }
}

/// A set of vCPU indices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuSet([u64; MAX_VCPUS / 64]);

impl VcpuSet {
    /// Adds a vCPU; an index that no GIC can have is ignored.
    pub fn insert(&mut self, vcpu: usize) {
        if let Some(word) = self.0.get_mut(vcpu / 64) {
            *word |= 1 << (vcpu % 64);
        }
    }

    /// Whether the vCPU is in the set.
    pub fn contains(&self, vcpu: usize) -> bool {
        self.0.get(vcpu / 64).is_some_and(|w| w >> (vcpu % 64) & 1 != 0)
    }

    /// Whether no vCPU is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&w| w == 0)
    }

    /// Empties the set and returns what was in it.
    pub fn take(&mut self) -> VcpuSet {
        std::mem::take(self)
    }

    /// The members, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        let words = self.0;
        words.into_iter().enumerate().flat_map(|(i, word)| {
            std::iter::successors((word != 0).then_some(word), |w| Some(w & (w - 1)).filter(|&w| w != 0))
                .map(move |w| i * 64 + w.trailing_zeros() as usize)
        })
    }
}
