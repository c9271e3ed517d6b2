//! vCPUs that differ by name: MIDR_EL1, REVIDR_EL1 and AIDR_EL1 of each one's own, as on a host of big and little cores.
//!
//! What they can do is the same for all. It takes two capabilities of the VM, before there is a vCPU, and three registers of
//! each, before the first run.

use crate::error::Error;
use crate::services::Target;
use ulna_kvm_backend::abi::{cap, private};
use ulna_kvm_backend::{Errno, RegId, Vcpu, Vm};

/// MIDR_EL1, REVIDR_EL1, AIDR_EL1: op0<<14 | op1<<11 | CRn<<7 | CRm<<3 | op2.
const MIDR_EL1: RegId = RegId::sysreg(0xc000);
const REVIDR_EL1: RegId = RegId::sysreg(0xc006);
const AIDR_EL1: RegId = RegId::sysreg(0xc807);

/// Some vCPUs in a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster<T> {
    /// Who they are.
    pub who: T,
    /// How many; none said: all that are left.
    pub count: Option<u32>,
}

/// Who each of `cpus` vCPUs is.
pub fn each<T: Clone>(clusters: &[Cluster<T>], cpus: u32) -> Result<Vec<T>, String> {
    let mut all = Vec::new();
    for (n, c) in clusters.iter().enumerate() {
        let left = cpus as usize - all.len();
        let count = match c.count {
            Some(0) => return Err("a cluster has at least one vCPU".into()),
            Some(count) => count as usize,
            None if n + 1 < clusters.len() => {
                return Err("only the last cluster can be without a count".into());
            }
            None => left,
        };
        if count > left || count == 0 {
            return Err(format!("more vCPUs than there are, which is {cpus}"));
        }
        all.extend(std::iter::repeat_n(c.who.clone(), count));
    }
    if all.len() < cpus as usize && !clusters.is_empty() {
        return Err(format!("{} vCPUs of {cpus} are told who they are", all.len()));
    }
    Ok(all)
}

/// Before there is a vCPU.
pub(crate) fn prepare(vm: &dyn Vm) -> Result<(), Error> {
    vm.enable_cap(cap::ARM_WRITABLE_IMP_ID_REGS, [0; 4])
        .and_then(|()| vm.enable_cap(private::CAP_HET_IDENTITY, [0; 4]))
        .map_err(|e| Error::Usage(format!("--identity: this KVM gives all vCPUs one identity ({e})")))
}

/// After KVM_ARM_VCPU_INIT.
pub(crate) fn apply(vcpus: &mut [Box<dyn Vcpu>], identities: &[Target]) -> Result<(), Errno> {
    for (vcpu, who) in vcpus.iter_mut().zip(identities) {
        for (id, v) in [(MIDR_EL1, who.midr), (REVIDR_EL1, who.revidr), (AIDR_EL1, who.aidr)] {
            vcpu.set_reg_u64(id, v)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_laid_out_in_order() {
        let c = |who, count| Cluster { who, count };
        assert_eq!(each(&[c('a', Some(1)), c('b', Some(2))], 3), Ok(vec!['a', 'b', 'b']));
        assert_eq!(each(&[c('a', Some(1)), c('b', None)], 4), Ok(vec!['a', 'b', 'b', 'b']));
        assert_eq!(each::<char>(&[], 4), Ok(vec![]));
        for (clusters, says) in [
            (vec![c('a', Some(5))], "more vCPUs than there are, which is 4"),
            (vec![c('a', Some(4)), c('b', None)], "more vCPUs than there are"),
            (vec![c('a', Some(3))], "3 vCPUs of 4 are told who they are"),
            (vec![c('a', Some(0)), c('b', None)], "at least one"),
            (vec![c('a', None), c('b', Some(1))], "only the last cluster"),
        ] {
            let e = each(&clusters, 4).unwrap_err();
            assert!(e.contains(says), "{e}");
        }
    }
}
