//! The common denominator of several hosts.
use ulna_arm_regs::SysReg;
use ulna_arm_regs::id::IdField;
use ulna_machine::Machine;

/// The most that a field can say on all these machines: each takes it in place of its own limit.
pub(crate) fn common_field(machines: &[&Machine], r: SysReg, f: &IdField) -> Option<u64> {
    let most = if f.width >= 8 { 0 } else { (1u64 << f.width) - 1 };
    let mut values: Vec<u64> = (0..=most).collect();
    values.extend(machines.iter().map(|m| f.raw(m.limit(r))));
    let takes = |m: &&Machine, raw: u64| {
        let v = f.set(m.limit(r), raw);
        m.check_write(r, v) == Ok(v)
    };
    let all = |raw: &u64| machines.iter().all(|m| takes(m, *raw));
    let common = values.into_iter().filter(all);
    match f.safe {
        ulna_arm_regs::id::Safe::Higher => common.min_by_key(|v| f.get(v << f.lsb)),
        _ => common.max_by_key(|v| f.get(v << f.lsb)),
    }
}
