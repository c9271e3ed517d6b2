//! Registers with a field per interrupt. GICv2 and GICv3 lay them out alike in the distributor
//! (GICD, offsets 0x80 to 0xcff) and, for the private interrupts, in the redistributor's SGI frame.

use crate::irq::{Irq, PRIORITY_MASK};

/// Which field of an interrupt a register holds, and what a write of it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// IGROUPR
    Group,
    /// ISENABLER
    SetEnable,
    /// ICENABLER
    ClearEnable,
    /// ISPENDR
    SetPending,
    /// ICPENDR
    ClearPending,
    /// ISACTIVER
    SetActive,
    /// ICACTIVER
    ClearActive,
    /// IPRIORITYR
    Priority,
    /// ITARGETSR (GICv2)
    Targets,
    /// ICFGR
    Config,
}

/// Part of a bank that an access covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// What is accessed.
    pub field: Field,
    /// First interrupt.
    pub first: u32,
    /// Number of interrupts.
    pub count: u32,
    /// Bits of each.
    pub bits: u32,
}

impl Span {
    /// The interrupts of an access of `size` bytes at `offset`, if such an access is allowed: words,
    /// and bytes where a field is a byte.
    pub fn decode(offset: u64, size: usize) -> Option<Span> {
        let (field, base, bits) = match offset {
            0x080..=0x0ff => (Field::Group, 0x080, 1),
            0x100..=0x17f => (Field::SetEnable, 0x100, 1),
            0x180..=0x1ff => (Field::ClearEnable, 0x180, 1),
            0x200..=0x27f => (Field::SetPending, 0x200, 1),
            0x280..=0x2ff => (Field::ClearPending, 0x280, 1),
            0x300..=0x37f => (Field::SetActive, 0x300, 1),
            0x380..=0x3ff => (Field::ClearActive, 0x380, 1),
            0x400..=0x7ff => (Field::Priority, 0x400, 8),
            0x800..=0xbff => (Field::Targets, 0x800, 8),
            0xc00..=0xcff => (Field::Config, 0xc00, 2),
            _ => return None,
        };
        let allowed = size == 4 || (size == 1 && bits == 8);
        if !allowed || !offset.is_multiple_of(size as u64) {
            return None;
        }
        let first = (offset - base) as u32 * 8 / bits;
        Some(Span { field, first, count: size as u32 * 8 / bits, bits })
    }

    /// The interrupts with the shift of each one's field in the accessed value.
    pub fn each(self) -> impl Iterator<Item = (u32, u32)> {
        (0..self.count).map(move |i| (self.first + i, i * self.bits))
    }

    /// One interrupt's field of a written value.
    pub fn pick(self, value: u64, shift: u32) -> u32 {
        (value >> shift) as u32 & (((1u64 << self.bits) - 1) as u32)
    }
}

/// Who accesses a register: userspace reads and writes exact state, a guest has the effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A guest's load or store by this vCPU.
    Guest(usize),
    /// Save and restore of a register that, where it is banked, is this vCPU's.
    User(usize),
}

impl By {
    /// Whether it is userspace.
    pub fn is_user(self) -> bool {
        matches!(self, By::User(_))
    }
}

/// One interrupt's field as it reads. `Targets` is the distributor's business. Userspace of a GICv3 gets the latch alone
/// from ISPENDR (the line is in LEVEL_INFO) and zero from ICPENDR; that of a GICv2 what the guest gets.
pub fn read(irq: &Irq, field: Field, by: By, v2: bool) -> u32 {
    if irq.taken && !by.is_user() {
        return 0;
    }
    match field {
        Field::Group => irq.group1.into(),
        Field::SetEnable | Field::ClearEnable => irq.enabled.into(),
        Field::SetPending if by.is_user() && !v2 => irq.latch.into(),
        Field::ClearPending if by.is_user() && !v2 => 0,
        Field::SetPending | Field::ClearPending => irq.pending().into(),
        Field::SetActive | Field::ClearActive => irq.active.into(),
        Field::Priority => irq.priority.into(),
        Field::Config => u32::from(irq.edge) << 1,
        Field::Targets => 0,
    }
}

/// Writes one interrupt's field. The SGIs of a GICv2 (`v2`) are pending by sender, which a guest writes elsewhere.
/// Userspace of a GICv3 sets the latches to what it writes to ISPENDR; that of a GICv2 sets and clears as a guest does.
pub fn write(irq: &mut Irq, field: Field, value: u32, by: By, v2: bool) {
    if irq.taken && !by.is_user() {
        return;
    }
    let set = value != 0;
    match field {
        Field::Group => irq.group1 = set,
        Field::SetEnable => irq.enabled |= set,
        Field::ClearEnable => irq.enabled &= !set,
        Field::SetPending if by.is_user() && !v2 => irq.latch = set,
        Field::ClearPending if by.is_user() && !v2 => {}
        Field::SetPending | Field::ClearPending if by.is_user() && irq.is_sgi() && set => {
            // KVM: who restores by ISPENDR makes the vCPU itself the sender; GICD_SPENDSGIR has the true senders.
            irq.latch = field == Field::SetPending;
            irq.sources = match by {
                By::User(vcpu) if irq.latch => irq.sources | 1u8.checked_shl(vcpu as u32).unwrap_or(0),
                _ => 0,
            };
        }
        Field::SetPending | Field::ClearPending if v2 && irq.is_sgi() => {}
        Field::SetPending => irq.latch |= set,
        Field::ClearPending => irq.latch &= !set,
        Field::SetActive if set => {
            if v2 && irq.is_sgi() && !irq.active {
                irq.active_source = if let By::Guest(vcpu) = by { vcpu as u8 } else { 0 };
            }
            irq.active = true;
        }
        // Unlike an end of interrupt this leaves the latch of a level-sensitive one alone (KVM).
        Field::ClearActive if set => irq.active = false,
        Field::SetActive | Field::ClearActive => {}
        Field::Priority => irq.priority = value as u8 & PRIORITY_MASK,
        // SGIs are edge-triggered and PPIs level-sensitive for good.
        Field::Config if irq.intid >= crate::irq::FIRST_SPI => irq.edge = value & 2 != 0,
        Field::Config | Field::Targets => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let span = Span::decode(0x104, 4).unwrap();
        assert_eq!(span, Span { field: Field::SetEnable, first: 32, count: 32, bits: 1 });
        assert_eq!(
            Span::decode(0x421, 1),
            Some(Span { field: Field::Priority, first: 33, count: 1, bits: 8 })
        );
        assert_eq!(
            Span::decode(0xc08, 4),
            Some(Span { field: Field::Config, first: 32, count: 16, bits: 2 })
        );
        assert_eq!(Span::decode(0x400, 2), None);
        assert_eq!(Span::decode(0x101, 1), None);
        assert_eq!(Span::decode(0x102, 4), None);
        assert_eq!(Span::decode(0xd00, 4), None);
        assert_eq!(span.each().last(), Some((63, 31)));
        assert_eq!(Span::decode(0x400, 4).unwrap().pick(0x1122_3344, 8), 0x33);
    }

    #[test]
    fn userspace_writes_the_latch_exactly() {
        let mut irq = Irq { intid: 40, latch: true, line: true, ..Irq::default() };
        write(&mut irq, Field::SetPending, 0, By::User(0), false);
        assert!(!irq.latch && irq.pending());
        assert_eq!(read(&irq, Field::SetPending, By::User(0), false), 0);
        assert_eq!(read(&irq, Field::SetPending, By::Guest(0), false), 1);
        write(&mut irq, Field::SetPending, 0, By::Guest(0), false);
        write(&mut irq, Field::SetPending, 1, By::Guest(0), false);
        assert!(irq.latch);
    }

    #[test]
    fn userspace_of_a_gicv2_sets_and_clears() {
        let mut irq = Irq { intid: 40, line: true, ..Irq::default() };
        assert_eq!(read(&irq, Field::SetPending, By::User(0), true), 1, "the line is part of it");
        write(&mut irq, Field::SetPending, 1, By::User(0), true);
        write(&mut irq, Field::SetPending, 0, By::User(0), true);
        assert!(irq.latch);
        write(&mut irq, Field::ClearPending, 1, By::User(0), true);
        assert!(!irq.latch);
        let mut sgi = Irq { intid: 3, edge: true, sources: 1, latch: true, ..Irq::default() };
        write(&mut sgi, Field::SetPending, 1, By::User(2), true);
        assert_eq!((sgi.sources, sgi.latch), (0b101, true));
        write(&mut sgi, Field::ClearPending, 1, By::User(2), true);
        assert_eq!((sgi.sources, sgi.latch), (0, false));
    }

    #[test]
    fn trigger_of_private_interrupts_is_fixed() {
        let mut sgi = Irq { intid: 3, edge: true, ..Irq::default() };
        write(&mut sgi, Field::Config, 0, By::Guest(0), false);
        assert!(sgi.edge);
        let mut ppi = Irq { intid: 20, ..Irq::default() };
        write(&mut ppi, Field::Config, 2, By::User(0), false);
        assert!(!ppi.edge);
    }
}
