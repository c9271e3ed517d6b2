//! A differential case at EL1 and EL0: page tables, code and data in memory, system registers, and a few steps, each of
//! which enters EL0 or EL1 from EL2 and ends when something comes back to EL2 (the vectors of EL1 hold nothing but HVC).
//!
//! The same words go to a driver at EL2 of `qemu-system-aarch64` (`cargo xtask diff-system`), to [`crate::el1_machine`] and
//! into the recording.

use ulna_arm_regs::SysReg;

/// RAM of the bench: cases only reach what lies here.
pub const RAM: u64 = 0x4000_0000;
/// Size of the part that cases use.
pub const RAM_LEN: u64 = 0x0100_0000;
/// Translation tables.
pub const TABLES: u64 = 0x4040_0000;
/// Their end.
pub const TABLES_END: u64 = 0x4080_0000;
/// Vectors of EL1: HVC #0 in each slot.
pub const VECTORS: u64 = 0x4080_0000;
/// Code, 64 KiB.
pub const CODE: u64 = 0x4081_0000;
/// Data.
pub const DATA: u64 = 0x4082_0000;
/// Size of data that is filled before a case and hashed after it.
pub const DATA_LEN: u64 = 0x1_0000;
/// Data at address `a` is `a * DATA_FACTOR`.
pub const DATA_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// Most steps of a case.
pub const MAX_STEPS: usize = 6;
/// HVC #0, in the vectors.
pub const HVC0: u32 = 0xd400_0002;
/// HVC #1, the end of a step that met no exception.
pub const END: u32 = 0xd400_0022;

/// System registers that are set before every case, in this order.
pub const REGS: &[SysReg] = {
    use SysReg::*;
    &[
        SCTLR_EL1,
        TCR_EL1,
        TTBR0_EL1,
        TTBR1_EL1,
        MAIR_EL1,
        VBAR_EL1,
        CPACR_EL1,
        CONTEXTIDR_EL1,
        CNTKCTL_EL1,
        TPIDR_EL0,
        TPIDR_EL1,
        TPIDRRO_EL0,
        ESR_EL1,
        FAR_EL1,
        ELR_EL1,
        SPSR_EL1,
        PAR_EL1,
        SP_EL0,
        SP_EL1,
        CSSELR_EL1,
        APIAKeyLo_EL1,
        APIAKeyHi_EL1,
        APIBKeyLo_EL1,
        APIBKeyHi_EL1,
        APDAKeyLo_EL1,
        APDAKeyHi_EL1,
        APDBKeyLo_EL1,
        APDBKeyHi_EL1,
        APGAKeyLo_EL1,
        APGAKeyHi_EL1,
        DBGBVR0_EL1,
        DBGBCR0_EL1,
        DBGBVR1_EL1,
        DBGBCR1_EL1,
        DBGBVR2_EL1,
        DBGBCR2_EL1,
        DBGBVR3_EL1,
        DBGBCR3_EL1,
        DBGBVR4_EL1,
        DBGBCR4_EL1,
        DBGBVR5_EL1,
        DBGBCR5_EL1,
        DBGWVR0_EL1,
        DBGWCR0_EL1,
        DBGWVR1_EL1,
        DBGWCR1_EL1,
        DBGWVR2_EL1,
        DBGWCR2_EL1,
        DBGWVR3_EL1,
        DBGWCR3_EL1,
        SCXTNUM_EL0,
        SCXTNUM_EL1,
        OSLAR_EL1,
        MDSCR_EL1,
    ]
};

/// ID registers that the reference shows, in this order.
pub const ID_REGS: &[SysReg] = {
    use SysReg::*;
    &[
        ID_AA64PFR0_EL1,
        ID_AA64PFR1_EL1,
        ID_AA64DFR0_EL1,
        ID_AA64DFR1_EL1,
        ID_AA64ISAR0_EL1,
        ID_AA64ISAR1_EL1,
        ID_AA64ISAR2_EL1,
        ID_AA64MMFR0_EL1,
        ID_AA64MMFR1_EL1,
        ID_AA64MMFR2_EL1,
        MIDR_EL1,
        MPIDR_EL1,
        REVIDR_EL1,
        CTR_EL0,
        DCZID_EL0,
        CLIDR_EL1,
        CNTFRQ_EL0,
    ]
};

/// Index of a register in [`REGS`].
pub fn reg_index(r: SysReg) -> Option<usize> {
    REGS.iter().position(|x| *x == r)
}

/// One entry to EL0 or EL1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub pc: u64,
    /// PSTATE.
    pub pstate: u64,
    /// A word of memory that EL2 writes before, unless the address is zero.
    pub write: (u64, u64),
}

/// A case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Index of its class in the low 8 bits, for reports; above, what [`noise`] of the case starts from.
    pub class: u64,
    /// Values of [`REGS`].
    pub regs: Vec<u64>,
    /// x0-x30 of the first step; later ones go on with what there is.
    pub x: [u64; 31],
    /// Words of memory, zero again afterwards.
    pub writes: Vec<(u64, u64)>,
    /// What is executed.
    pub steps: Vec<Step>,
}

impl Case {
    /// Value of a register of [`REGS`].
    pub fn reg(&self, r: SysReg) -> u64 {
        reg_index(r).map_or(0, |i| self.regs[i])
    }
    /// Sets one.
    pub fn set_reg(&mut self, r: SysReg, v: u64) {
        if let Some(i) = reg_index(r) {
            self.regs[i] = v;
        }
    }
    /// Words, as the driver reads them.
    pub fn put(&self, out: &mut Vec<u64>) {
        let len = 4 + REGS.len() + 31 + 2 * self.writes.len() + 4 * self.steps.len();
        out.extend([len as u64, self.writes.len() as u64, self.steps.len() as u64, self.class]);
        out.extend(&self.regs);
        out.extend(self.x);
        out.extend(self.writes.iter().flat_map(|w| [w.0, w.1]));
        out.extend(self.steps.iter().flat_map(|s| [s.pc, s.pstate, s.write.0, s.write.1]));
    }
    /// Reads them back; returns the number of words too.
    pub fn get(w: &[u64]) -> Option<(Case, usize)> {
        let &[len, writes, steps, class] = w.first_chunk::<4>()?;
        let all = w.get(..len as usize)?;
        let (regs, rest) = all.get(4..)?.split_at_checked(REGS.len())?;
        let (x, rest) = rest.split_first_chunk::<31>()?;
        let (wr, st) = rest.split_at_checked(2 * writes as usize)?;
        if st.len() != 4 * steps as usize {
            return None;
        }
        let case = Case {
            class,
            regs: regs.to_vec(),
            x: *x,
            writes: wr.chunks_exact(2).map(|c| (c[0], c[1])).collect(),
            steps: st.chunks_exact(4).map(|c| Step { pc: c[0], pstate: c[1], write: (c[2], c[3]) }).collect(),
        };
        Some((case, len as usize))
    }
    /// The instruction word that the case puts at `pa`.
    pub fn code_at(&self, pa: u64) -> Option<u32> {
        let w = self.writes.iter().find(|w| w.0 == pa & !7)?;
        Some((w.1 >> ((pa & 4) * 8)) as u32)
    }
}

/// Words of a [`StepOutcome`].
pub const STEP_WORDS: usize = 31 + FIELDS.len();

/// What a step left in system registers, by name.
pub const FIELDS: [&str; 10] =
    ["PC", "PSTATE", "ESR_EL2", "ESR_EL1", "FAR_EL1", "ELR_EL1", "SPSR_EL1", "PAR_EL1", "SP_EL0", "SP_EL1"];

/// The state when EL2 has control again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepOutcome {
    /// x0-x30.
    pub x: [u64; 31],
    /// Values of [`FIELDS`]; PC and PSTATE are those of EL1 or EL0 at the exit (ELR_EL2, SPSR_EL2).
    pub sys: [u64; FIELDS.len()],
}

/// What a case gave.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Outcome {
    /// One for each step.
    pub steps: Vec<StepOutcome>,
    /// Hash of the data area.
    pub data: u64,
    /// Hash of the words that the case wrote: descriptors change under hardware management of flags.
    pub words: u64,
    /// Ours only: the steps from this one on left the CPU in a way that a hypervisor resolves.
    pub left: Option<(usize, Left)>,
}

/// How a step left for the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// A system register that the hypervisor owns or decides about.
    SysReg,
    /// No memory there: the reference's bus answers with an external abort.
    NoMemory,
    /// No memory to fetch from.
    NoCode,
    /// Did not end.
    Hang,
    /// Anything else.
    Other,
}

/// Value `i` of the unimportant ones of a case (registers nobody chose, keys): a recording need not hold them.
pub fn noise(seed: u64, i: u64) -> u64 {
    let z = mix(mix(seed >> 8, i ^ 0x5555), i);
    let z = (z ^ z >> 31).wrapping_mul(DATA_FACTOR);
    z ^ z >> 29
}

/// Registers of [`REGS`] that are noise, unless a class chose them: the first of them is value 32.
pub const NOISY: &[SysReg] = {
    use SysReg::*;
    &[
        APIAKeyLo_EL1,
        APIAKeyHi_EL1,
        APIBKeyLo_EL1,
        APIBKeyHi_EL1,
        APDAKeyLo_EL1,
        APDAKeyHi_EL1,
        APDBKeyLo_EL1,
        APDBKeyHi_EL1,
        APGAKeyLo_EL1,
        APGAKeyHi_EL1,
        TPIDR_EL0,
        TPIDR_EL1,
        TPIDRRO_EL0,
        ELR_EL1,
        FAR_EL1,
    ]
};

impl Case {
    /// Takes noise out or puts it in again.
    fn toggle_noise(&mut self) {
        for i in 0..31 {
            self.x[i] ^= noise(self.class, i as u64);
        }
        for (i, r) in NOISY.iter().enumerate() {
            let v = self.reg(*r) ^ noise(self.class, 32 + i as u64);
            self.set_reg(*r, v);
        }
    }
}

/// Writes a case and its outcome for a recording: as differences, which compress well.
pub fn record(case: &Case, outcome: &Outcome, out: &mut Vec<u64>) {
    let mut c = case.clone();
    c.toggle_noise();
    c.put(out);
    let mut o = outcome.clone();
    toggle_outcome(case, &mut o, true);
    o.put(out);
}

/// Reads what [`record`] wrote; returns the number of words too.
pub fn replay(words: &[u64]) -> Option<(Case, Outcome, usize)> {
    let (mut case, n) = Case::get(words)?;
    case.toggle_noise();
    let (mut outcome, m) = Outcome::get(&words[n..], case.steps.len())?;
    toggle_outcome(&case, &mut outcome, false);
    Some((case, outcome, n + m))
}

/// XORs every step with what was there before it.
fn toggle_outcome(case: &Case, o: &mut Outcome, writing: bool) {
    use SysReg::*;
    let mut before = StepOutcome { x: case.x, sys: [0; FIELDS.len()] };
    for (i, r) in [ESR_EL1, FAR_EL1, ELR_EL1, SPSR_EL1, PAR_EL1, SP_EL0, SP_EL1].into_iter().enumerate() {
        before.sys[3 + i] = case.reg(r);
    }
    for (s, step) in o.steps.iter_mut().zip(&case.steps) {
        (before.sys[0], before.sys[1], before.sys[2]) = (step.pc, step.pstate, 0x5a00_0000);
        let plain = *s;
        s.x.iter_mut().zip(&before.x).for_each(|(a, b)| *a ^= b);
        s.sys.iter_mut().zip(&before.sys).for_each(|(a, b)| *a ^= b);
        before = if writing { plain } else { *s };
    }
    o.words ^= case.writes.iter().fold(0, |h, w| mix(h, w.1));
    o.data ^= (DATA..DATA + DATA_LEN).step_by(8).fold(0, |h, a| mix(h, a.wrapping_mul(DATA_FACTOR)));
}

/// Step of the hashes.
pub fn mix(h: u64, v: u64) -> u64 {
    h.rotate_right(7).wrapping_add(v).wrapping_mul(DATA_FACTOR)
}

impl Outcome {
    /// Words in a file.
    pub fn put(&self, out: &mut Vec<u64>) {
        for s in &self.steps {
            out.extend(s.x);
            out.extend(s.sys);
        }
        out.extend([self.data, self.words]);
    }
    /// Reads the outcome of a case with so many steps.
    pub fn get(w: &[u64], steps: usize) -> Option<(Outcome, usize)> {
        let len = steps * STEP_WORDS + 2;
        let all = w.get(..len)?;
        let mut o = Outcome::default();
        for c in all[..len - 2].chunks_exact(STEP_WORDS) {
            let (x, sys) = c.split_first_chunk::<31>()?;
            o.steps.push(StepOutcome { x: *x, sys: sys.try_into().ok()? });
        }
        (o.data, o.words) = (all[len - 2], all[len - 1]);
        Some((o, len))
    }
    /// The first differences, as text.
    pub fn difference(&self, want: &Outcome) -> Option<String> {
        let mut d = Vec::new();
        for (n, (a, b)) in self.steps.iter().zip(&want.steps).enumerate() {
            for (i, f) in FIELDS.iter().enumerate() {
                if a.sys[i] != b.sys[i] {
                    d.push(format!("step {n} {f} {:#x} (reference {:#x})", a.sys[i], b.sys[i]));
                }
            }
            for r in 0..31 {
                if a.x[r] != b.x[r] {
                    d.push(format!("step {n} x{r} {:#x} (reference {:#x})", a.x[r], b.x[r]));
                }
            }
            if !d.is_empty() {
                break;
            }
        }
        if d.is_empty() && self.steps.len() == want.steps.len() {
            if self.data != want.data {
                d.push("data".into());
            }
            if self.words != want.words {
                d.push("descriptors".into());
            }
        }
        (!d.is_empty()).then(|| d.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_and_outcomes_survive_the_file() {
        let mut case = Case {
            class: 3,
            regs: (0..REGS.len() as u64).collect(),
            x: [7; 31],
            writes: vec![(TABLES, 3), (CODE, u64::from(END))],
            steps: vec![Step { pc: 8, pstate: 5, write: (0, 0) }, Step::default()],
        };
        case.x[3] = 1;
        let mut w = Vec::new();
        case.put(&mut w);
        assert_eq!(Case::get(&w), Some((case.clone(), w.len())));
        assert_eq!(Case::get(&w[..w.len() - 1]), None);
        let o = Outcome {
            steps: vec![StepOutcome { x: [1; 31], sys: [2; FIELDS.len()] }; 2],
            data: 4,
            words: 5,
            left: None,
        };
        let mut w = Vec::new();
        o.put(&mut w);
        assert_eq!(Outcome::get(&w, 2), Some((o.clone(), w.len())));
        let mut w = Vec::new();
        record(&case, &o, &mut w);
        assert_eq!(replay(&w), Some((case, o, w.len())));
    }
}
