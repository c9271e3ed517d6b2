//! The one place that says where our answer and the reference's may differ, and by which rule.

use ulna_arm_regs::SysReg;

use crate::el1::{CODE, Case, Left, Outcome, StepOutcome};

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
const ESR: usize = 3;
const FAR: usize = 4;
const PAR: usize = 7;
const NZCV: u64 = 0xf << 28;
const DIT: u64 = 1 << 24;

/// Did the step end in the vectors of EL1?
fn in_vectors(case: &Case, s: &StepOutcome) -> bool {
    s.sys[PC] & !0x7ff == case.reg(SysReg::VBAR_EL1)
}

fn ec(s: &StepOutcome) -> u64 {
    s.sys[ESR] >> 26 & 0x3f
}

fn is_abort(s: &StepOutcome) -> bool {
    matches!(ec(s), 0x20 | 0x21 | 0x24 | 0x25)
}

fn is_watchpoint(s: &StepOutcome) -> bool {
    matches!(ec(s), 0x34 | 0x35)
}

/// The instruction at a virtual address of the code page.
fn instruction(case: &Case, va: u64) -> u32 {
    case.code_at(CODE | va & 0xfffc).unwrap_or(0)
}

/// SYS with CRn 7, without DC ZVA.
fn maintenance(i: u32) -> bool {
    i & 0xfff8_f000 == 0xd508_7000 && i & 0xffff_ffe0 != 0xd50b_7420
}

/// Takes over, field by field, what the reference decides otherwise without consequences.
fn forgive(case: &Case, got: &mut Outcome, want: &mut Outcome) {
    let (mut far_unknown, mut wrote_watched) = (false, false);
    for (a, b) in got.steps.iter_mut().zip(&mut want.steps) {
        if in_vectors(case, b) {
            // AArch64.TakeException writes neither NZCV nor DIT; QEMU 7.2 clears them.
            a.sys[PSTATE] = a.sys[PSTATE] & !(NZCV | DIT) | b.sys[PSTATE] & (NZCV | DIT);
        }
        // PAR_EL1.SH is 0b10 for Device and Normal Non-cacheable memory; QEMU gives that of the descriptor.
        let attr = b.sys[PAR] >> 56;
        if b.sys[PAR] & 1 == 0 && (attr & 0xf0 == 0 || attr == 0x44) {
            a.sys[PAR] = a.sys[PAR] & !(3 << 7) | b.sys[PAR] & 3 << 7;
        }
        // ISS.WnR of an atomic is 0 when a read would meet the same fault (D24, ESR_EL1); QEMU 7.2 says 1 where it
        // looks up for writing first.
        let atomic = |i: u32| i & 0x3b20_0c00 == 0x3820_0000;
        // FAR_EL1 is UNKNOWN after a breakpoint.
        if matches!(ec(a), 0x30 | 0x31) && ec(a) == ec(b) || far_unknown {
            far_unknown =
                ec(a) == ec(b) && !is_abort(a) && (!is_watchpoint(a) || far_unknown) && ec(a) != 0x22;
            if far_unknown {
                a.sys[FAR] = b.sys[FAR];
            }
        }
        // FAR_EL1 of a watchpoint may be any address from the lowest accessed to the highest watched one, in the same
        // block of DC ZVA's size (D2.10.5).
        if is_watchpoint(a)
            && ec(a) == ec(b)
            && (a.sys[FAR] ^ b.sys[FAR]) >> 6 == 0
            && a.sys[FAR] != b.sys[FAR]
        {
            a.sys[FAR] = b.sys[FAR];
            far_unknown = true;
        }
        // The reference's WnR of a watchpoint stays 1 after a write met it.
        if is_watchpoint(a) && a.sys[ESR] ^ b.sys[ESR] == 1 << 6 && wrote_watched {
            b.sys[ESR] = a.sys[ESR];
        }
        wrote_watched |= is_watchpoint(b) && b.sys[ESR] & 1 << 6 != 0;
        // The reference exchanges op1 and op2 in the syndrome of a trapped MSR DAIFSet or DAIFClr.
        if ec(a) == 0x18 && ec(b) == 0x18 && instruction(case, a.sys[5]) & 0xfff8_f01f == 0xd500_401f {
            b.sys[ESR] = a.sys[ESR];
        }
        if is_abort(a) && a.sys[ESR] ^ b.sys[ESR] == 1 << 6 && atomic(instruction(case, a.sys[5])) {
            b.sys[ESR] = a.sys[ESR];
        }
    }
}

/// A rule by which the steps from `n` on cannot be compared.
fn open(case: &Case, a: &StepOutcome, b: &StepOutcome) -> Option<&'static str> {
    let ours = in_vectors(case, a);
    if ours && is_abort(a) && a.sys[ESR] & 1 << 8 != 0 {
        return Some("QEMU 7.2 does not translate for cache maintenance (D7.5.8)");
    }
    if ours && ec(a) == 0x26 && ec(b) != 0x26 {
        return Some("QEMU 7.2 checks no SP alignment (D1.3.8.3)");
    }
    if ours && matches!(ec(a), 0x32 | 0x33) && matches!(ec(b), 0x20..=0x22) {
        return Some("QEMU 7.2 translates PC before it takes a pending software step (priority: D1.3.5.5)");
    }
    if ours && ec(a) == 0x22 && matches!(ec(b), 0x20 | 0x21) {
        return Some("QEMU 7.2 looks at the alignment of PC after translating it (priority: D1.3.5.5)");
    }
    let at = instruction(case, a.sys[5]);
    let sctlr = case.reg(SysReg::SCTLR_EL1);
    if ours
        && matches!(ec(a), 0x24 | 0x25)
        && a.sys[ESR] & 0x3f == 0x21
        && (sctlr & 2 == 0 || at & 0xffff_ffe0 == 0xd50b_7420)
    {
        return Some("QEMU 7.2 allows unaligned accesses to Device memory (B2.10.2)");
    }
    let theirs = in_vectors(case, b);
    let at = instruction(case, b.sys[5]);
    if theirs && (is_abort(b) || is_watchpoint(b)) && matches!(at & 0xffff_ffe0, 0xd50b_7c20 | 0xd50b_7d20) {
        return Some("QEMU 7.2 asks for a read permission for DC CVAP, DC CVADP at EL1 (D7.5.8)");
    }
    if ours && is_abort(a) && is_abort(b) && b.sys[ESR] & 0x3f == 0x10 {
        return Some("QEMU 7.2 reads for an atomic before it looks at the permission to write");
    }
    None
}

/// Compares our answer with the reference's.
pub fn judge(case: &Case, got: &Outcome, want: &Outcome) -> Verdict {
    let mut got = got.clone();
    let mut want = want.clone();
    forgive(case, &mut got, &mut want);
    const PAIR: &str = "a store pair that faults on its second half may have written the first";
    let pair = |s: &StepOutcome| is_abort(s) && instruction(case, s.sys[5]) & 0x3bc0_0000 == 0x2900_0000;
    let left = got.left;
    let end = left.map_or(got.steps.len(), |l| l.0);
    for n in 0..end {
        if got.steps[n] == want.steps[n] {
            continue;
        }
        if want.steps[..n].iter().any(pair) {
            return Verdict::Open(PAIR);
        }
        if is_watchpoint(&want.steps[n]) && want.steps[..n].iter().any(is_watchpoint) {
            return Verdict::Open(
                "QEMU 7.2 may take a watchpoint again that was hit before and does not match any more",
            );
        }
        return match open(case, &got.steps[n], &want.steps[n]) {
            Some(rule) => Verdict::Open(rule),
            None => Verdict::Differs(got.difference(&want).unwrap_or_default()),
        };
    }
    if let Some((n, left)) = left {
        let last = want.steps[n].sys[ESR];
        return match left {
            Left::SysReg => Verdict::Open("the hypervisor answers for this register"),
            Left::NoCode => Verdict::Open("stage-2 abort here; QEMU 7.2 fetches zeros"),
            // An external abort there, as a rule; some addresses answer, and maintenance does not look.
            Left::NoMemory => {
                Verdict::Open("stage-2 abort here; what a bus without memory answers is its own affair")
            }
            other => {
                Verdict::Differs(format!("step {n}: ours left with {other:?}, reference ESR_EL1 {last:#x}"))
            }
        };
    }
    let ha = case.reg(SysReg::TCR_EL1) >> 39 & 1 != 0;
    let permission = |s: &StepOutcome| {
        is_abort(s) && s.sys[ESR] & 0x3c == 0xc || s.sys[PAR] & 1 != 0 && s.sys[PAR] >> 1 & 0x3c == 0xc
    };
    if got.words != want.words && got.data == want.data && ha && want.steps.iter().any(permission) {
        return Verdict::Open("the access flag may be set by an access that has no permission (D8.5.1)");
    }
    if got.words != want.words && ha && case.steps.iter().any(|s| maintenance(instruction(case, s.pc))) {
        return Verdict::Open("AT and maintenance may leave the flags of descriptors alone (D8.5)");
    }
    if got.data != want.data && want.steps.iter().any(pair) {
        return Verdict::Open(PAIR);
    }
    match got.difference(&want) {
        None => Verdict::Same,
        Some(d) => Verdict::Differs(d),
    }
}
