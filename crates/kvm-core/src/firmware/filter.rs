//! The VMM's filter of calls (KVM_ARM_VM_SMCCC_FILTER).

use ulna_kvm_abi::Errno;

use crate::Result;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Action {
    /// KVM_SMCCC_FILTER_HANDLE.
    #[default]
    Handle,
    /// KVM_SMCCC_FILTER_DENY: NOT_SUPPORTED.
    Deny,
    /// KVM_SMCCC_FILTER_FWD_TO_USER: KVM_EXIT_HYPERCALL.
    Forward,
}

/// Ranges of function ids (first, last) with their action. They do not overlap.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    ranges: Vec<(u32, u32, Action)>,
}

/// Arm architecture calls stay with KVM.
const RESERVED: [(u32, u32); 2] = [(0x8000_0000, 0x8000_ffff), (0xc000_0000, 0xc000_ffff)];

impl Filter {
    /// What happens to `function`.
    pub fn action(&self, function: u32) -> Action {
        let hit = self.ranges.iter().find(|r| (r.0..=r.1).contains(&function));
        hit.map_or(Action::Handle, |r| r.2)
    }

    /// Adds `count` functions from `base` on. `action` is the number of the UAPI.
    pub fn insert(&mut self, base: u32, count: u32, action: u8) -> Result<()> {
        let empty = Errno::EINVAL
            .because("{} functions from {x} on: none, or beyond the last")
            .values([count.into(), base.into()]);
        let last = count.checked_sub(1).and_then(|n| base.checked_add(n)).ok_or(empty)?;
        let action = match action {
            0 => Action::Handle,
            1 => Action::Deny,
            2 => Action::Forward,
            n => {
                let e = Errno::EINVAL.because("action {}: there are 0 (HANDLE), 1 (DENY), 2 (FWD_TO_USER)");
                return Err(e.value(n.into()));
            }
        };
        let taken = self.ranges.iter().map(|r| (r.0, r.1)).chain(RESERVED);
        if taken.into_iter().any(|r| base <= r.1 && r.0 <= last) {
            let e = Errno::EEXIST
                .because("functions {x} to {x} meet a range that is filtered, or Arm's architecture calls");
            return Err(e.values([base.into(), last.into()]));
        }
        self.ranges.push((base, last, action));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_inclusive_and_never_overlap() {
        let mut f = Filter::default();
        f.insert(0x8400_0000, 0x20, 1).unwrap();
        f.insert(0xc400_0000, 0x20, 2).unwrap();
        assert_eq!(f.action(0x8400_001f), Action::Deny);
        assert_eq!(f.action(0x8400_0020), Action::Handle);
        assert_eq!(f.action(0xc400_0000), Action::Forward);
        assert_eq!(f.insert(0x8400_0010, 1, 0), Err(Errno::EEXIST));
        assert_eq!(f.insert(0x8000_0000, 1, 0), Err(Errno::EEXIST));
        assert_eq!(f.insert(0x7fff_0000, 0x1_0001, 0), Err(Errno::EEXIST));
        assert_eq!(f.insert(0x9000_0000, 0, 0), Err(Errno::EINVAL));
        assert_eq!(f.insert(u32::MAX, 2, 0), Err(Errno::EINVAL));
        assert_eq!(f.insert(0x9000_0000, 1, 3), Err(Errno::EINVAL));
        f.insert(u32::MAX, 1, 0).unwrap();
    }
}
