//! Fields that say things about each other: what a VM must not be started with under [`crate::Policy::Soft`], where every
//! field can be written (seed-systems.md §4.3). KVM itself looks at hardly any of this.

use std::fmt;

use ulna_arm_regs::SysReg;
use ulna_arm_regs::id::{IdField, IdReg};

use crate::{Machine, VcpuFeatures};

/// Two things that cannot both be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contradiction {
    /// A sentence; each `{x}` stands for the next value.
    pub text: &'static str,
    /// What the fields in it say.
    pub values: [u64; 2],
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values = self.values.iter();
        for (n, part) in self.text.split("{x}").enumerate() {
            if n > 0 {
                write!(f, "{:#x}", values.next().unwrap_or(&0))?;
            }
            f.write_str(part)?;
        }
        Ok(())
    }
}

impl std::error::Error for Contradiction {}

/// What a VM has besides its registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Surroundings {
    /// A GICv3.
    pub vgic3: bool,
    /// The end of its highest memory slot.
    pub memory_end: u64,
}

fn field(r: SysReg, name: &str) -> Option<&'static IdField> {
    IdReg::of(r)?.field(name)
}

/// Bits of physical addresses by ID_AA64MMFR0_EL1.PARange (Arm ARM D24.2.82).
fn address_bits(parange: u64) -> u32 {
    [32, 36, 40, 42, 44, 48, 52, 56].get(parange as usize).copied().unwrap_or(48)
}

impl Machine {
    /// The first contradiction between the ID registers `id` of a VM that is about to run.
    pub fn contradiction(&self, id: impl Fn(SysReg) -> u64, vm: &Surroundings) -> Option<Contradiction> {
        use SysReg as S;
        let says = |reg: SysReg, name: &str| field(reg, name).map_or(0, |f| f.raw(id(reg)));
        let (fp, simd) = (says(S::ID_AA64PFR0_EL1, "FP"), says(S::ID_AA64PFR0_EL1, "AdvSIMD"));
        let (sha3, sha2) = (says(S::ID_AA64ISAR0_EL1, "SHA3"), says(S::ID_AA64ISAR0_EL1, "SHA2"));
        let (ctx, brps) = (says(S::ID_AA64DFR0_EL1, "CTX_CMPs"), says(S::ID_AA64DFR0_EL1, "BRPs"));
        let (pmu, gic) = (says(S::ID_AA64DFR0_EL1, "PMUVer"), says(S::ID_AA64PFR0_EL1, "GIC"));
        let parange = says(S::ID_AA64MMFR0_EL1, "PARANGE");
        let has_pmu = self.vcpu.contains(VcpuFeatures::PMU_V3);
        let most = 1u64 << address_bits(parange);
        [
            (fp != simd, "ID_AA64PFR0_EL1.FP is {x} but ID_AA64PFR0_EL1.AdvSIMD is {x}", [fp, simd]),
            (
                sha3 != 0 && sha2 == 0,
                "ID_AA64ISAR0_EL1.SHA3 is {x} but ID_AA64ISAR0_EL1.SHA2 is {x}",
                [sha3, sha2],
            ),
            (ctx > brps, "ID_AA64DFR0_EL1.CTX_CMPs is {x} but ID_AA64DFR0_EL1.BRPs is {x}", [ctx, brps]),
            (
                has_pmu && pmu == 0,
                "ID_AA64DFR0_EL1.PMUVer is {x} but the vCPUs have the feature PMU_V3",
                [pmu, 0],
            ),
            (vm.vgic3 && gic == 0, "ID_AA64PFR0_EL1.GIC is {x} but the VM has a GICv3", [gic, 0]),
            (
                vm.memory_end > most,
                "ID_AA64MMFR0_EL1.PARange is {x} but a memory slot ends at {x}",
                [parange, vm.memory_end],
            ),
        ]
        .into_iter()
        .find_map(|(wrong, text, values)| wrong.then_some(Contradiction { text, values }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;
    use ulna_profile::Profile;

    #[test]
    fn fields_are_held_against_each_other() {
        let p = Profile::builtin("n1").unwrap();
        let m = Machine::new(&p, Policy::Soft, VcpuFeatures::PSCI_0_2 | VcpuFeatures::PMU_V3);
        let vm = Surroundings { vgic3: true, memory_end: 1 << 40 };
        let with = |r: SysReg, name: &str, value: u64| {
            let f = field(r, name).unwrap();
            m.contradiction(|x| if x == r { f.set(m.limit(x), value) } else { m.limit(x) }, &vm)
        };
        assert_eq!(m.contradiction(|r| m.limit(r), &vm), None);
        let says = |c: Option<Contradiction>| c.unwrap().to_string();
        assert_eq!(
            says(with(SysReg::ID_AA64PFR0_EL1, "FP", 0)),
            "ID_AA64PFR0_EL1.FP is 0x0 but ID_AA64PFR0_EL1.AdvSIMD is 0x1"
        );
        assert_eq!(
            says(with(SysReg::ID_AA64DFR0_EL1, "BRPs", 0)),
            "ID_AA64DFR0_EL1.CTX_CMPs is 0x1 but ID_AA64DFR0_EL1.BRPs is 0x0"
        );
        assert!(says(with(SysReg::ID_AA64DFR0_EL1, "PMUVer", 0)).ends_with("feature PMU_V3"));
        assert!(says(with(SysReg::ID_AA64PFR0_EL1, "GIC", 0)).ends_with("a GICv3"));
        assert!(says(with(SysReg::ID_AA64MMFR0_EL1, "PARANGE", 1)).ends_with("ends at 0x10000000000"));
        assert_eq!(with(SysReg::ID_AA64MMFR0_EL1, "PARANGE", 2), None, "2^40 is the end of 40 bits");
    }
}
