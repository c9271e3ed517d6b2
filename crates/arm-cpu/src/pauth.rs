//! Pointer authentication (FEAT_PAuth): where the code goes in a pointer, the three algorithms, and what authentication
//! does under EPAC, PAuth2, FPAC and FPACCOMBINE (Arm ARM D8.11; pseudocode AddPAC, Auth, Strip, ComputePAC).

use crate::cpu::Cpu;
use crate::exception::{Exception, ec};
use crate::insn::Stop;
use crate::qarma::{qarma3, qarma5};
use crate::{Feat, SysReg};

/// The keys for pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// APIAKey_EL1.
    IA,
    /// APIBKey_EL1.
    IB,
    /// APDAKey_EL1.
    DA,
    /// APDBKey_EL1.
    DB,
}

impl Key {
    /// For data pointers?
    fn data(self) -> bool {
        matches!(self, Key::DA | Key::DB)
    }
    /// 0 for the A keys, 1 for the B keys.
    fn number(self) -> u32 {
        u32::from(matches!(self, Key::IB | Key::DB))
    }
    /// SCTLR_EL1.EnIA, EnIB, EnDA, EnDB.
    fn enable_bit(self) -> u64 {
        1 << match self {
            Key::IA => 31,
            Key::IB => 30,
            Key::DA => 27,
            Key::DB => 13,
        }
    }
    /// High and low half.
    fn registers(self) -> (SysReg, SysReg) {
        match self {
            Key::IA => (SysReg::APIAKeyHi_EL1, SysReg::APIAKeyLo_EL1),
            Key::IB => (SysReg::APIBKeyHi_EL1, SysReg::APIBKeyLo_EL1),
            Key::DA => (SysReg::APDAKeyHi_EL1, SysReg::APDAKeyLo_EL1),
            Key::DB => (SysReg::APDBKeyHi_EL1, SysReg::APDBKeyLo_EL1),
        }
    }
}

/// Bits `hi:lo` set.
const fn ones(hi: u32, lo: u32) -> u64 {
    (u64::MAX >> (63 - hi)) & (u64::MAX << lo)
}

/// The IMPLEMENTATION DEFINED algorithm (FEAT_PACIMP): a keyed mix of our own. It only has to be a good hash, and the
/// same on every host.
fn imp_hash(data: u64, modifier: u64, hi: u64, lo: u64) -> u64 {
    const M: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut h = data ^ hi;
    for k in [modifier, lo, hi.rotate_left(32)] {
        h = (h ^ k).wrapping_mul(M);
        h ^= h >> 29;
        h = h.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h ^= h >> 32;
    }
    h
}

type Algorithm = fn(u64, u64, u64, u64) -> u64;

/// Codes computed lately: what a function's entry signs its end authenticates with the same operands, and loops call the
/// same functions at the same stack depth.
#[derive(Default)]
pub(crate) struct Memo(Vec<Option<Computed>>);

#[derive(Clone, Copy)]
struct Computed {
    operands: [u64; 4],
    algorithm: Algorithm,
    pac: u64,
}

impl Memo {
    const ENTRIES: usize = 512;

    fn get(&mut self, operands: [u64; 4], algorithm: Algorithm) -> u64 {
        if self.0.is_empty() {
            self.0.resize(Self::ENTRIES, None);
        }
        let [data, modifier, hi, lo] = operands;
        let hash = (data ^ modifier.rotate_left(20) ^ hi).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55;
        let entry = &mut self.0[hash as usize % Self::ENTRIES];
        if let Some(c) = entry
            && c.operands == operands
            && std::ptr::fn_addr_eq(c.algorithm, algorithm)
        {
            return c.pac;
        }
        let pac = algorithm(data, modifier, hi, lo);
        *entry = Some(Computed { operands, algorithm, pac });
        pac
    }
}

/// How a pointer is laid out: where its code begins, and whether the top byte is a tag.
struct Layout {
    bottom: u32,
    tbi: bool,
}

impl Layout {
    /// Bits of the pointer that hold a code: 54 to the bottom, and the top byte unless it is a tag.
    fn field(&self) -> u64 {
        let low = ones(54, self.bottom);
        if self.tbi { low } else { low | 0xff << 56 }
    }
    /// Bits that extend the address: the field and bit 55.
    fn extension(&self) -> u64 {
        self.field() | 1 << 55
    }
    /// The pointer with these bits all equal to `sign`.
    fn extend(&self, p: u64, sign: bool) -> u64 {
        let e = self.extension();
        if sign { p | e } else { p & !e }
    }
}

impl Cpu {
    fn compute_pac(&mut self, data: u64, modifier: u64, hi: u64, lo: u64) -> u64 {
        let algorithm: Algorithm = if self.has(Feat::PACQARMA5) {
            qarma5
        } else if self.has(Feat::PACQARMA3) {
            qarma3
        } else {
            imp_hash
        };
        self.pac_memo.get([data, modifier, hi, lo], algorithm)
    }

    fn pac_enabled(&self, key: Key) -> bool {
        self.state.sys(SysReg::SCTLR_EL1) & key.enable_bit() != 0
    }

    fn pac(&mut self, key: Key, data: u64, modifier: u64) -> u64 {
        let (hi, lo) = key.registers();
        self.compute_pac(data, modifier, self.state.sys(hi), self.state.sys(lo))
    }

    /// CalculateBottomPACBit: the width of addresses in the half that `high` chooses. Out-of-range TCR_EL1.TnSZ are
    /// forced into the range.
    fn pac_bottom(&self, high: bool) -> u32 {
        let tcr = self.state.sys(SysReg::TCR_EL1);
        let (tsz, tg64, tg4or16) = if high {
            (tcr >> 16 & 63, tcr >> 30 & 3 == 3, tcr >> 30 & 3 != 3)
        } else {
            (tcr & 63, tcr >> 14 & 3 == 1, tcr >> 14 & 3 != 1)
        };
        let ds = tcr >> 59 & 1 != 0 && tg4or16 && self.has(Feat::LPA2);
        let max = if !self.has(Feat::TTST) { 39 } else { 48 - u64::from(tg64) };
        let min = if (tg64 && self.has(Feat::LVA)) || ds { 12 } else { 16 };
        64 - tsz.clamp(min, max) as u32
    }

    fn pac_layout(&self, p: u64, high: bool, data: bool) -> Layout {
        Layout { bottom: self.pac_bottom(high), tbi: self.top_byte_ignored(p, !data) }
    }

    /// AddPAC: the pointer with its code, or itself while the key is disabled.
    pub fn pac_add(&mut self, key: Key, p: u64, modifier: u64) -> u64 {
        if !self.pac_enabled(key) {
            return p;
        }
        let data = key.data();
        // With tagged addresses in either half bit 55 tells the halves apart, else bit 63.
        let tcr = self.state.sys(SysReg::TCR_EL1);
        let tagged = |tbi: u32, tbid: u32| tcr >> tbi & 1 != 0 && (data || tcr >> tbid & 1 == 0);
        let high = p >> if tagged(37, 51) || tagged(38, 52) { 55 } else { 63 } & 1 != 0;
        let l = self.pac_layout(p, high, data);
        let (field, ext) = (l.field(), l.extension());
        let mut pac = self.pac(key, l.extend(p, high), modifier);
        let pauth2 = self.has(Feat::PAuth2);
        // A pointer that was no address must not get a valid code.
        let top = p & ext;
        if top != 0 && top != ext && !pauth2 {
            if self.has(Feat::EPAC) {
                pac = 0;
            } else {
                pac ^= 1 << if l.tbi { 54 } else { 62 };
            }
        }
        let pac = if pauth2 { p ^ pac } else { pac } & field;
        p & !ext | u64::from(high) << 55 | pac
    }

    /// Auth: the pointer without its code, a pointer that faults when used, or the exception of FEAT_FPAC. `combined`:
    /// the instruction also uses the result.
    pub fn pac_auth(&mut self, key: Key, p: u64, modifier: u64, combined: bool) -> Result<u64, Stop> {
        if !self.pac_enabled(key) {
            return Ok(p);
        }
        let data = key.data();
        let high = p >> 55 & 1 != 0;
        let l = self.pac_layout(p, high, data);
        let (field, ext) = (l.field(), l.extension());
        let plain = l.extend(p, high);
        let pac = self.pac(key, plain, modifier);
        if self.has(Feat::PAuth2) {
            let r = p ^ pac & field;
            let fails = self.has(Feat::FPACCOMBINE) || (self.has(Feat::FPAC) && !combined);
            if fails && r & ext != if high { ext } else { 0 } {
                return self.raise(Exception::new(ec::FPAC, u32::from(data) << 1 | key.number()));
            }
            return Ok(r);
        }
        if (pac ^ p) & field == 0 {
            return Ok(plain);
        }
        // An error code below the bits that say which half: 01 for the A keys, 10 for the B keys.
        let code = u64::from(1 + key.number());
        let lsb = if l.tbi { 53 } else { 61 };
        Ok(plain & !(3 << lsb) | code << lsb)
    }

    /// Strip: the pointer without a code, unchecked.
    pub fn pac_strip(&self, p: u64, data: bool) -> u64 {
        let high = p >> 55 & 1 != 0;
        self.pac_layout(p, high, data).extend(p, high)
    }

    /// PACGA: 32 bits of code over two registers, in the upper half.
    pub fn pacga(&mut self, x: u64, y: u64) -> u64 {
        let (hi, lo) = (self.state.sys(SysReg::APGAKeyHi_EL1), self.state.sys(SysReg::APGAKeyLo_EL1));
        self.compute_pac(x, y, hi, lo) & 0xffff_ffff_0000_0000
    }
}
