//! The decoder, generated from `table/*.tbl` by `build.rs`.

use crate::cpu::Cpu;
use crate::insn::{Exec, Handler, Insn};
use crate::{Feat, FeatSet};

/// One line of the decode table.
#[derive(Debug)]
pub struct Line {
    /// The instruction.
    pub op: Op,
    /// Its name in the table.
    pub name: &'static str,
    /// The manual's name.
    pub manual: &'static str,
    /// Module with its semantics, and name of the table file.
    pub module: &'static str,
    /// 32 characters, bit 31 first.
    pub pattern: &'static str,
    /// Fixed bits.
    pub mask: u32,
    /// Their values.
    pub value: u32,
    /// Features needed.
    pub feats: &'static [Feat],
    /// Semantics; `None` while not built.
    pub exec: Option<Handler>,
    /// Runs once at decode.
    pub prep: Option<fn(&mut Insn)>,
    /// Ends a block.
    pub end: bool,
}

include!(concat!(env!("OUT_DIR"), "/table.rs"));

/// The line that matches `raw`, whatever features there are.
pub fn find(raw: u32) -> Option<&'static Line> {
    let b = (raw >> 21) as usize;
    BUCKETS[BUCKET_OFFSETS[b] as usize..BUCKET_OFFSETS[b + 1] as usize]
        .iter()
        .map(|&i| &LINES[i as usize])
        .find(|l| (raw ^ l.value) & l.mask == 0)
}

/// Decodes a word for a CPU with `feats`. What is not allocated decodes to an instruction that is UNDEFINED.
pub fn decode(raw: u32, feats: &FeatSet) -> Insn {
    let mut insn = Insn {
        exec: unallocated,
        imm: 0,
        raw,
        op: Op::UNALLOCATED,
        rd: (raw & 31) as u8,
        rn: (raw >> 5 & 31) as u8,
        rm: (raw >> 16 & 31) as u8,
        ra: (raw >> 10 & 31) as u8,
        end: true,
        aux: 0,
    };
    let Some(line) = find(raw) else { return insn };
    let Some(exec) = line.exec else { return insn };
    if line.feats.iter().any(|f| !feats.has(*f)) {
        return insn;
    }
    insn.exec = exec;
    insn.op = line.op;
    insn.end = line.end;
    if let Some(prep) = line.prep {
        prep(&mut insn);
    }
    insn
}

fn unallocated(cpu: &mut Cpu, _: &Insn) -> Exec {
    cpu.undefined()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_found_by_its_own_fixed_bits() {
        for l in &LINES {
            let hit = find(l.value).expect(l.name);
            assert!(
                hit.op == l.op || hit.mask.count_ones() >= l.mask.count_ones(),
                "{} is shadowed by {}",
                l.name,
                hit.name
            );
        }
    }
}
