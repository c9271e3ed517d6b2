//! The one place that says where our answer and the reference's may differ, and by which rule.

use ulna_arm_regs::SysReg;

use crate::el1::{Case, Left, Outcome, StepOutcome};

/// Comparison of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All the same.
    Same,
    /// They differ where they may; the rule.
    Open(&'static str),
    /// They differ.
    Differs(String),
}

/// Indices into FIELDS.
const PC: usize = 0;
const PSTATE: usize = 1;
const NZCV: u64 = 0xf << 28;
const DIT: u64 = 1 << 24;

/// Did the step end in the vectors of EL1?
fn in_vectors(case: &Case, s: &StepOutcome) -> bool {
    s.sys[PC] & !0x7ff == case.reg(SysReg::VBAR_EL1)
}

/// Compares our answer with the reference's.
pub fn judge(case: &Case, got: &Outcome, want: &Outcome) -> Verdict {
    let mut got = got.clone();
    let mut want = want.clone();
    let _ = case;
    for (a, b) in got.steps.iter_mut().zip(&want.steps) {
        if in_vectors(case, b) {
            // AArch64.TakeException writes neither NZCV nor DIT; QEMU 7.2 clears them.
            a.sys[PSTATE] = a.sys[PSTATE] & !(NZCV | DIT) | b.sys[PSTATE] & (NZCV | DIT);
        }
    }
    if let Some((n, left)) = got.left {
        let last = want.steps.get(n).map_or(0, |s| s.sys[3]);
        let external =
            matches!(last >> 26 & 0x3f, 0x20 | 0x21 | 0x24 | 0x25) && matches!(last & 0x3f, 0x10..=0x17);
        got.steps.truncate(n);
        want.steps.truncate(n);
        // What comes after the exit is the hypervisor's; before it everything counts.
        if let Some(d) = got.difference(&want) {
            return Verdict::Differs(d);
        }
        return match left {
            Left::SysReg => Verdict::Open("the hypervisor answers for this register"),
            Left::NoMemory if external => Verdict::Open("stage-2 abort here, external abort there"),
            other => {
                Verdict::Differs(format!("step {n}: ours left with {other:?}, reference ESR_EL1 {last:#x}"))
            }
        };
    }
    match got.difference(&want) {
        None => Verdict::Same,
        Some(d) => Verdict::Differs(d),
    }
}
