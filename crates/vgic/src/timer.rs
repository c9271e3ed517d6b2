//! The comparator of a generic timer (Arm ARM D12.2): pure arithmetic on register values.
//!
//! All EL1 timers are the same; the virtual one has the offset CNTVOFF_EL2, the physical one
//! CNTPOFF_EL2 (which KVM emulates or has). Waiting is the caller's business.

/// CNTx_CTL_EL0.ENABLE.
pub const CTL_ENABLE: u64 = 1;
/// CNTx_CTL_EL0.IMASK.
pub const CTL_IMASK: u64 = 1 << 1;
/// CNTx_CTL_EL0.ISTATUS, read-only.
pub const CTL_ISTATUS: u64 = 1 << 2;

/// What a comparator shows at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerOutput {
    /// Level of the timer's PPI: enabled, not masked, and met.
    pub line: bool,
    /// CNTx_CTL_EL0.ISTATUS. The architecture leaves it UNKNOWN while ENABLE is 0; like KVM it
    /// then still tells whether the condition is met.
    pub istatus: bool,
    /// Counter value (of the system counter, before the offset) at which `line` will rise by
    /// itself; none if it is up, or if nothing but a register write can raise it.
    pub deadline: Option<u64>,
}

/// Evaluates a comparator: `counter` is the system counter, `offset` is subtracted from it.
pub fn evaluate(ctl: u64, cval: u64, counter: u64, offset: u64) -> TimerOutput {
    let now = counter.wrapping_sub(offset);
    let istatus = now >= cval;
    let armed = ctl & CTL_ENABLE != 0 && ctl & CTL_IMASK == 0;
    let deadline = if armed && !istatus { counter.checked_add(cval - now) } else { None };
    TimerOutput { line: armed && istatus, istatus, deadline }
}

/// CNTx_CTL_EL0 as it reads: stored bits with the current ISTATUS.
pub fn ctl_read(ctl: u64, cval: u64, counter: u64, offset: u64) -> u64 {
    let stored = ctl & (CTL_ENABLE | CTL_IMASK);
    if evaluate(ctl, cval, counter, offset).istatus { stored | CTL_ISTATUS } else { stored }
}

/// CNTx_TVAL_EL0 as it reads: the low 32 bits of the distance to the comparator.
pub fn tval_read(cval: u64, counter: u64, offset: u64) -> u64 {
    cval.wrapping_sub(counter.wrapping_sub(offset)) & 0xffff_ffff
}

/// The new CVAL after a write of CNTx_TVAL_EL0: now plus the sign-extended 32-bit value.
pub fn tval_write(tval: u64, counter: u64, offset: u64) -> u64 {
    let distance = i64::from(tval as u32 as i32) as u64;
    counter.wrapping_sub(offset).wrapping_add(distance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fires_when_the_counter_reaches_cval() {
        let at = |counter| evaluate(CTL_ENABLE, 100, counter, 0);
        assert_eq!(at(99), TimerOutput { line: false, istatus: false, deadline: Some(100) });
        assert_eq!(at(100), TimerOutput { line: true, istatus: true, deadline: None });
    }

    #[test]
    fn masked_or_disabled_keeps_the_line_low() {
        for ctl in [0, CTL_IMASK, CTL_ENABLE | CTL_IMASK] {
            let out = evaluate(ctl, 100, 200, 0);
            assert!(out.istatus && !out.line && out.deadline.is_none());
            assert_eq!(evaluate(ctl, 100, 0, 0).deadline, None);
        }
    }

    #[test]
    fn never_fires_within_the_life_of_the_counter() {
        assert_eq!(evaluate(CTL_ENABLE, u64::MAX, 5, 3).deadline, None);
        assert_eq!(evaluate(CTL_ENABLE, u64::MAX, 5, 5).deadline, None, "needs the counter to wrap");
    }

    #[test]
    fn tval_is_signed() {
        assert_eq!(tval_write(0xffff_ffff, 1000, 100), 899);
        assert_eq!(tval_read(899, 1000, 100), 0xffff_ffff);
        assert_eq!(ctl_read(CTL_ENABLE, 899, 1000, 100), CTL_ENABLE | CTL_ISTATUS);
    }

    proptest! {
        #[test]
        fn the_line_rises_exactly_at_the_deadline(cval: u64, counter in 0u64..u64::MAX / 2, offset: u64) {
            let out = evaluate(CTL_ENABLE, cval, counter, offset);
            prop_assert_eq!(out.line, out.istatus);
            if let Some(deadline) = out.deadline {
                prop_assert!(deadline > counter);
                prop_assert!(!evaluate(CTL_ENABLE, cval, deadline - 1, offset).line);
                prop_assert!(evaluate(CTL_ENABLE, cval, deadline, offset).line);
            }
        }

        #[test]
        fn tval_reads_what_was_written(tval: u32, counter: u64, offset: u64) {
            let cval = tval_write(tval.into(), counter, offset);
            prop_assert_eq!(tval_read(cval, counter, offset), u64::from(tval));
        }
    }
}
