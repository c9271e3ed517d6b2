//! The ISS of a stage-2 data abort: what a hypervisor needs to emulate the access (Arm ARM D17.2.37, ISV).

use crate::cpu::Cpu;
use crate::exception::fsc;
use crate::exit::DataAbort;

/// What one load or store of a general-purpose register does, as ISS describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Transfer {
    size_log2: u32,
    sign_extend: bool,
    rt: u32,
    sf: bool,
    acqrel: bool,
    store: bool,
}

/// Loads and stores that set ISV: one general-purpose register, no write-back, not exclusive, not atomic.
fn transfer(raw: u32) -> Option<Transfer> {
    let bit = |n: u32| raw >> n & 1 != 0;
    let size = raw >> 30;
    let rt = raw & 31;
    let by_opc = |size: u32, opc: u32, acqrel: bool| match opc {
        0 => Some(Transfer { size_log2: size, sign_extend: false, rt, sf: size == 3, acqrel, store: true }),
        1 => Some(Transfer { size_log2: size, sign_extend: false, rt, sf: size == 3, acqrel, store: false }),
        2 if size < 3 => {
            Some(Transfer { size_log2: size, sign_extend: true, rt, sf: true, acqrel, store: false })
        }
        3 if size < 2 => {
            Some(Transfer { size_log2: size, sign_extend: true, rt, sf: false, acqrel, store: false })
        }
        _ => None,
    };
    let opc = raw >> 22 & 3;
    match raw >> 24 & 0x3f {
        // LDR, STR (unsigned offset)
        0b111001 => by_opc(size, opc, false),
        // unscaled, unprivileged; register offset
        0b111000 if !bit(21) && !bit(10) => by_opc(size, opc, false),
        0b111000 if bit(21) && raw >> 10 & 3 == 2 => by_opc(size, opc, false),
        // LDAPR
        0b111000 if raw & 0x3fff_fc00 == 0x38bf_c000 => by_opc(size, 1, true),
        // LDAR, STLR, LDLAR, STLLR
        0b001000 if bit(23) && !bit(21) => by_opc(size, u32::from(bit(22)), true),
        // LDAPUR, STLUR
        0b011001 if !bit(21) && raw >> 10 & 3 == 0 => by_opc(size, opc, true),
        // LDR (literal)
        0b011000 => match size {
            0 => by_opc(2, 1, false),
            1 => by_opc(3, 1, false),
            2 => by_opc(2, 2, false),
            _ => None,
        },
        _ => None,
    }
}

impl Cpu {
    /// Completes the syndrome of a stage-2 abort that the instruction `raw` met.
    pub(crate) fn complete_syndrome(&self, raw: u32, a: &mut DataAbort) {
        // DFSC: level 3 is what a hypervisor with 4 KiB pages reports; permission for a read-only slot.
        a.iss = (if a.readonly { fsc::PERMISSION } else { fsc::TRANSLATION }) | 3;
        if a.s1ptw {
            a.iss |= 1 << 7;
            return;
        }
        if a.write {
            a.iss |= 1 << 6;
        }
        let Some(t) = transfer(raw) else { return };
        if t.store != a.write {
            return;
        }
        a.iss |= 1 << 24
            | t.size_log2 << 22
            | u32::from(t.sign_extend) << 21
            | t.rt << 16
            | u32::from(t.sf) << 15
            | u32::from(t.acqrel) << 14;
        if t.store {
            let v = self.state.xr(t.rt as u8);
            a.value = if t.size_log2 == 3 { v } else { v & ((1 << (8 << t.size_log2)) - 1) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_loads_have_a_syndrome_and_writeback_has_none() {
        // ldrsh w3, [x1, #4]
        let t = transfer(0x79c0_0823).expect("ldrsh");
        assert_eq!((t.size_log2, t.sign_extend, t.rt, t.sf, t.store), (1, true, 3, false, false));
        // str x5, [x2]
        let t = transfer(0xf900_0045).expect("str");
        assert!(t.store && t.sf && t.rt == 5 && t.size_log2 == 3);
        // ldr w1, [x0], #4 and ldp x0, x1, [x2] and ldxr x0, [x1]
        assert_eq!(transfer(0xb840_4401), None);
        assert_eq!(transfer(0xa940_0440), None);
        assert_eq!(transfer(0xc85f_7c20), None);
        // ldar w0, [x1]
        assert!(transfer(0x88df_fc20).expect("ldar").acqrel);
    }
}
