//! Stage 1 of the EL1&0 translation regime: table walk, permissions, hardware flag updates (Arm ARM D8).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::Cpu;
use crate::exception::fsc;
use crate::mem::attr::AccessKind;
use crate::mem::physmap::find_slot;
use crate::{Feat, SysReg};

/// Permissions and attributes of a page, without the address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageInfo {
    /// Bits of [`perm`].
    pub perm: u8,
    /// The MAIR byte.
    pub attr: u8,
    /// Shareability, 0-3.
    pub sh: u8,
    /// Level the descriptor was found at (-1 to 3).
    pub level: i8,
    /// Log2 of the size mapped by the descriptor.
    pub size_log2: u8,
    /// nG.
    pub not_global: bool,
    /// GP: guarded page (FEAT_BTI).
    pub guarded: bool,
    /// Writes are permitted once the descriptor's AP\[2\] was cleared by hardware (FEAT_HAFDBS).
    pub write_clean: bool,
}

/// Permission bits of [`PageInfo::perm`].
pub mod perm {
    /// EL1 may read.
    pub const PR: u8 = 1;
    /// EL1 may write.
    pub const PW: u8 = 2;
    /// EL1 may execute.
    pub const PX: u8 = 4;
    /// EL0 may read.
    pub const UR: u8 = 8;
    /// EL0 may write.
    pub const UW: u8 = 16;
    /// EL0 may execute.
    pub const UX: u8 = 32;
}

impl PageInfo {
    /// Any Device memory type.
    pub fn is_device(&self) -> bool {
        self.attr & 0xf0 == 0
    }
}

/// A fault of stage 1, or of stage 2 on the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A stage-1 fault with this FSC.
    Stage1(u32),
    /// Nothing is mapped at the IPA of a descriptor: stage-2 fault on the walk.
    Stage2Walk(u64),
}

/// A translation.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// IPA of the byte asked for.
    pub ipa: u64,
    /// Of its page.
    pub info: PageInfo,
}

/// Everything of the control registers that a walk needs, by half of the address space.
#[derive(Clone, Copy, Debug)]
struct Params {
    txsz: u32,
    granule: u32,
    ttbr: u64,
    disabled: bool,
    hpd: bool,
    e0pd: bool,
    sh: u8,
    ds: bool,
    in_range: bool,
}

/// Physical address sizes by the encoding of TCR_EL1.IPS and ID_AA64MMFR0_EL1.PARange.
const PA_BITS: [u32; 8] = [32, 36, 40, 42, 44, 48, 52, 56];

fn with_level(base: u32, level: i32) -> u32 {
    // Level -1 has its own codes (FEAT_LPA2).
    match (base, level) {
        (fsc::ADDRESS_SIZE, -1) => 0x29,
        (fsc::TRANSLATION, -1) => 0x2b,
        (fsc::EXTERNAL_WALK, -1) => 0x13,
        _ => base | (level as u32 & 3),
    }
}

impl Cpu {
    /// Width of physical addresses that a descriptor may hold now.
    fn output_bits(&self, tcr: u64, ds: bool, granule: u32) -> u32 {
        let ips = PA_BITS[(tcr >> 32 & 7) as usize];
        let parange = PA_BITS[(self.state.sys(SysReg::ID_AA64MMFR0_EL1) & 7) as usize];
        let bits = ips.min(parange);
        if bits > 48 && !(ds || granule == 16) { 48 } else { bits.min(52) }
    }

    fn params(&self, va: u64, tcr: u64) -> Params {
        let high = va >> 55 & 1 != 0;
        let (txsz, tg, hpd, epd, e0pd, sh) = if high {
            let tg = match tcr >> 30 & 3 {
                1 => 14,
                3 => 16,
                _ => 12,
            };
            (tcr >> 16 & 63, tg, tcr >> 42 & 1, tcr >> 23 & 1, tcr >> 56 & 1, tcr >> 28 & 3)
        } else {
            let tg = match tcr >> 14 & 3 {
                1 => 16,
                2 => 14,
                _ => 12,
            };
            (tcr & 63, tg, tcr >> 41 & 1, tcr >> 7 & 1, tcr >> 55 & 1, tcr >> 12 & 3)
        };
        let granule = self.supported_granule(tg);
        let ds = tcr >> 59 & 1 != 0 && granule != 16 && self.has(Feat::LPA2);
        let max = if self.has(Feat::TTST) { 48 - u32::from(granule == 16) } else { 39 };
        let min = if ds || (granule == 16 && self.has(Feat::LVA)) { 12 } else { 16 };
        let txsz = txsz as u32;
        Params {
            txsz: txsz.clamp(min, max),
            granule,
            ttbr: self.state.sys(if high { SysReg::TTBR1_EL1 } else { SysReg::TTBR0_EL1 }),
            disabled: epd != 0,
            hpd: hpd != 0 && self.has(Feat::HPDS),
            e0pd: e0pd != 0 && self.has(Feat::E0PD),
            sh: sh as u8,
            ds,
            in_range: (min..=max).contains(&txsz),
        }
    }

    /// A granule that is not implemented behaves as one that is (constrained unpredictable; the smallest).
    fn supported_granule(&self, tg: u32) -> u32 {
        let ok = |g: u32| match g {
            12 => self.has(Feat::TGran4K),
            14 => self.has(Feat::TGran16K),
            _ => self.has(Feat::TGran64K),
        };
        if ok(tg) { tg } else { [12, 14, 16].into_iter().find(|&g| ok(g)).unwrap_or(12) }
    }

    /// Is the top byte ignored for `va` in this kind of access?
    pub fn top_byte_ignored(&self, va: u64, fetch: bool) -> bool {
        let tcr = self.state.sys(SysReg::TCR_EL1);
        let high = va >> 55 & 1 != 0;
        let tbi = tcr >> if high { 38 } else { 37 } & 1 != 0;
        let tbid = self.has(Feat::PAuth) && tcr >> if high { 52 } else { 51 } & 1 != 0;
        tbi && !(fetch && tbid)
    }

    /// Address that a branch, exception return or exception entry leaves in PC: with TBI the top byte becomes copies of
    /// bit 55 (AArch64.BranchAddr).
    pub fn canonical_target(&self, va: u64) -> u64 {
        if self.top_byte_ignored(va, true) { crate::mem::tlb::sign_extend(va) } else { va }
    }

    /// Translates `va` through stage 1. `unpriv`: as EL0. Permissions are not checked here, access flag and walk faults
    /// are; `write` asks for the hardware dirty-state update when the page is writable-clean and `allowed` says so.
    pub fn walk(&mut self, va: u64, unpriv: bool, fetch: bool) -> Result<Translation, Fault> {
        self.counters.walks += 1;
        let sctlr = self.state.sys(SysReg::SCTLR_EL1);
        let tbi = self.top_byte_ignored(va, fetch);
        if sctlr & 1 == 0 {
            return self.flat(va, tbi, fetch, sctlr);
        }
        let tcr = self.state.sys(SysReg::TCR_EL1);
        let p = self.params(va, tcr);
        let fault = |base, level| Err(Fault::Stage1(with_level(base, level)));
        let inputsize = 64 - p.txsz;
        let stride = p.granule - 3;
        let levels = (inputsize - p.granule).div_ceil(stride);
        let mut level = 4 - levels as i32;
        if !p.in_range || p.disabled || (unpriv && p.e0pd) {
            return fault(fsc::TRANSLATION, 0);
        }
        // Bits above the input size must all equal bit 55.
        let high = va >> 55 & 1 != 0;
        let checked = if tbi { crate::mem::tlb::sign_extend(va) } else { va };
        let top = (checked as i64) >> inputsize.min(63);
        if top != if high { -1 } else { 0 } {
            return fault(fsc::TRANSLATION, 0);
        }
        let out_bits = self.output_bits(tcr, p.ds, p.granule);
        let wide = p.ds || (p.granule == 16 && out_bits == 52);
        let first_bits = inputsize - ((3 - level) as u32 * stride + p.granule);
        let align = first_bits + 3;
        let mut base = p.ttbr & 0x0000_ffff_ffff_fffe;
        if wide {
            base = base & !0x3f | (p.ttbr >> 2 & 0xf) << 48;
            base &= !((1u64 << align.max(6)) - 1);
        } else {
            base &= !((1u64 << align) - 1);
        }
        if out_bits < 52 && base >> out_bits != 0 {
            return fault(fsc::ADDRESS_SIZE, 0);
        }
        let ha = tcr >> 39 & 1 != 0 && self.has(Feat::HAF);
        let hd = ha && tcr >> 40 & 1 != 0 && self.has(Feat::HAFDBS);
        let (mut ap_table, mut uxn_table, mut pxn_table) = (0u64, false, false);
        let mut bits = first_bits;
        loop {
            let shift = (3 - level) as u32 * stride + p.granule;
            let index = va >> shift & ((1u64 << bits) - 1);
            let at = base | index << 3;
            let mut desc = self.read_descriptor(at, level)?;
            bits = stride;
            let leaf = match (desc & 3, level) {
                (1, 3) => false,
                (3, 3) => true,
                (1, _) => self.block_allowed(&p, level, wide),
                (3, _) => {
                    if let Some(next) = self.table_base(desc, &p, out_bits, wide) {
                        base = next;
                    } else {
                        return fault(fsc::ADDRESS_SIZE, level);
                    }
                    if !p.hpd {
                        ap_table |= desc >> 61 & 3;
                        uxn_table |= desc >> 60 & 1 != 0;
                        pxn_table |= desc >> 59 & 1 != 0;
                    }
                    level += 1;
                    continue;
                }
                _ => false,
            };
            if !leaf {
                return fault(fsc::TRANSLATION, level);
            }
            let Some(out) = leaf_base(desc, &p, shift, out_bits, wide) else {
                return fault(fsc::ADDRESS_SIZE, level);
            };
            if desc & 1 << 10 == 0 {
                if !ha {
                    return fault(fsc::ACCESS_FLAG, level);
                }
                desc = self.update_descriptor(at, desc, desc | 1 << 10, level)?;
            }
            let dbm = hd && desc & 1 << 51 != 0;
            let mut ap = desc >> 6 & 3;
            let write_clean = dbm && ap & 2 != 0 && ap_table & 2 == 0;
            if dbm {
                ap &= 1; // writable, dirty or clean
            }
            ap |= ap_table & 2;
            if ap_table & 1 != 0 {
                ap &= 2;
            }
            let xn = (desc >> 54 & 1 != 0 || uxn_table, desc >> 53 & 1 != 0 || pxn_table);
            let mair = self.state.sys(SysReg::MAIR_EL1);
            let attr = (mair >> ((desc >> 2 & 7) * 8)) as u8;
            let info = PageInfo {
                perm: permissions(ap, xn.0, xn.1, sctlr & 1 << 19 != 0),
                attr,
                sh: if p.ds { p.sh } else { (desc >> 8 & 3) as u8 },
                level: level as i8,
                size_log2: shift as u8,
                not_global: desc & 1 << 11 != 0,
                guarded: desc & 1 << 50 != 0 && self.has(Feat::BTI),
                write_clean,
            };
            let ipa = out | va & ((1u64 << shift) - 1);
            self.walk_leaf = (at, desc);
            return Ok(Translation { ipa, info });
        }
    }

    /// MMU off: addresses are physical; data is Device-nGnRnE, fetches are Normal.
    fn flat(&self, va: u64, tbi: bool, fetch: bool, sctlr: u64) -> Result<Translation, Fault> {
        let pa = if tbi { va & 0x00ff_ffff_ffff_ffff } else { va };
        let parange = PA_BITS[(self.state.sys(SysReg::ID_AA64MMFR0_EL1) & 7) as usize];
        if pa >> parange != 0 {
            return Err(Fault::Stage1(fsc::ADDRESS_SIZE));
        }
        let attr = match (fetch, sctlr & 1 << 12 != 0) {
            (false, _) => 0,
            (true, true) => 0xaa,
            (true, false) => 0x44,
        };
        let info = PageInfo { perm: 0x3f, attr, sh: 2, level: 0, size_log2: 12, ..PageInfo::default() };
        Ok(Translation { ipa: pa, info })
    }

    fn block_allowed(&self, p: &Params, level: i32, wide: bool) -> bool {
        match p.granule {
            12 => level == 2 || level == 1 || (level == 0 && p.ds),
            14 => level == 2 || (level == 1 && p.ds),
            _ => level == 2 || (level == 1 && (wide || self.has(Feat::LPA))),
        }
    }

    fn table_base(&self, desc: u64, p: &Params, out_bits: u32, wide: bool) -> Option<u64> {
        output_address(desc, p, p.granule, out_bits, wide)
    }

    /// Reads a descriptor through stage 2.
    fn read_descriptor(&mut self, ipa: u64, level: i32) -> Result<u64, Fault> {
        let _ = level;
        let word = self.descriptor(ipa)?;
        let v = word.load(Ordering::Acquire);
        Ok(if self.big_endian_tables() { v.swap_bytes() } else { v })
    }

    fn big_endian_tables(&self) -> bool {
        self.state.sys(SysReg::SCTLR_EL1) & 1 << 25 != 0
    }

    fn descriptor(&mut self, ipa: u64) -> Result<&AtomicU64, Fault> {
        self.refresh_slots();
        match find_slot(&self.slots, ipa) {
            // SAFETY: the slot keeps the memory mapped; descriptors are 8-byte aligned, and guest memory is only ever
            // accessed by raw or atomic accesses.
            Some(s) => Ok(unsafe { AtomicU64::from_ptr(s.host(ipa & !7).cast()) }),
            None => Err(Fault::Stage2Walk(ipa)),
        }
    }

    /// Writes `new` over `old` atomically; when somebody else changed the descriptor meanwhile the walk sees the value
    /// that is there now.
    fn update_descriptor(&mut self, ipa: u64, old: u64, new: u64, _level: i32) -> Result<u64, Fault> {
        let be = self.big_endian_tables();
        let swap = |v: u64| if be { v.swap_bytes() } else { v };
        let writable = find_slot(&self.slots, ipa).is_some_and(|s| !s.readonly);
        if !writable {
            return Err(Fault::Stage2Walk(ipa));
        }
        self.before_write(ipa);
        let word = self.descriptor(ipa)?;
        match word.compare_exchange(swap(old), swap(new), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(new),
            Err(now) => Ok(swap(now) | (new & !old)),
        }
    }

    /// Hardware management of dirty state: clears AP\[2\] of the leaf found by the last walk.
    pub(crate) fn set_dirty_state(&mut self) -> Result<(), Fault> {
        let (at, desc) = self.walk_leaf;
        self.update_descriptor(at, desc, desc & !(1 << 7), 3).map(|_| ())
    }

    /// Which permission bit an access needs, PAN and unprivileged accesses included; zero means refused outright.
    pub(crate) fn allowed(&self, info: &PageInfo, kind: AccessKind, unpriv: bool) -> bool {
        use perm::{PR, PW, PX, UR, UW, UX};
        let need = match (kind, unpriv) {
            (AccessKind::Read, false) => PR,
            (AccessKind::Write, false) => PW,
            (AccessKind::Fetch, false) => PX,
            (AccessKind::Read, true) => UR,
            (AccessKind::Write, true) => UW,
            (AccessKind::Fetch, true) => UX,
        };
        if info.perm & need == 0 {
            return false;
        }
        if !unpriv
            && kind != AccessKind::Fetch
            && self.state.pan
            && self.state.sys(SysReg::SCTLR_EL1) & 1 != 0
        {
            let epan = self.has(Feat::PAN3) && self.state.sys(SysReg::SCTLR_EL1) >> 57 & 1 != 0;
            if info.perm & UR != 0 || (epan && info.perm & UX != 0) {
                return false;
            }
        }
        true
    }
}

fn permissions(ap: u64, uxn: bool, pxn: bool, wxn: bool) -> u8 {
    use perm::{PR, PW, PX, UR, UW, UX};
    let mut p = PR;
    if ap & 2 == 0 {
        p |= PW;
    }
    if ap & 1 != 0 {
        p |= UR;
        if ap & 2 == 0 {
            p |= UW;
        }
    }
    // Memory that EL0 can write is never executable at EL1 (D8.4.1).
    if !(pxn || p & UW != 0 || wxn && p & PW != 0) {
        p |= PX;
    }
    if !(uxn || wxn && p & UW != 0) {
        p |= UX;
    }
    p
}

fn output_address(desc: u64, p: &Params, low: u32, out_bits: u32, wide: bool) -> Option<u64> {
    let mut a = desc & 0x0000_ffff_ffff_ffff & !((1u64 << low) - 1);
    if p.ds {
        // FEAT_LPA2: bits 49:48 in place, 51:50 in 9:8.
        a |= desc & 0x0003_0000_0000_0000 | (desc >> 8 & 3) << 50;
    } else if p.granule == 16 && wide {
        a |= (desc >> 12 & 0xf) << 48;
    }
    // 64 KiB granule with fewer than 52 bits: bits 15:12 are RES0 and not looked at.
    (out_bits >= 52 || a >> out_bits == 0).then_some(a)
}

fn leaf_base(desc: u64, p: &Params, shift: u32, out_bits: u32, wide: bool) -> Option<u64> {
    let a = output_address(desc, p, p.granule, out_bits, wide)?;
    Some(a & !((1u64 << shift) - 1))
}
