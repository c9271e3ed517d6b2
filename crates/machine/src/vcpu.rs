//! The feature bits of KVM_ARM_VCPU_INIT.

/// A set of KVM_ARM_VCPU_* features, numbered as in `struct kvm_vcpu_init`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct VcpuFeatures(u32);

impl VcpuFeatures {
    /// No feature.
    pub const NONE: Self = Self(0);
    /// The vCPU starts powered off.
    pub const POWER_OFF: Self = Self(1 << 0);
    /// AArch32 at EL1.
    pub const EL1_32BIT: Self = Self(1 << 1);
    /// PSCI 0.2 and later.
    pub const PSCI_0_2: Self = Self(1 << 2);
    /// The performance monitors.
    pub const PMU_V3: Self = Self(1 << 3);
    /// The Scalable Vector Extension.
    pub const SVE: Self = Self(1 << 4);
    /// Pointer authentication of addresses.
    pub const PTRAUTH_ADDRESS: Self = Self(1 << 5);
    /// Pointer authentication, generic code.
    pub const PTRAUTH_GENERIC: Self = Self(1 << 6);
    /// Both halves of pointer authentication, which KVM only takes together.
    pub const PTRAUTH: Self = Self(3 << 5);

    /// From `features[0]`.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// As `features[0]`.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl std::ops::BitOr for VcpuFeatures {
    type Output = Self;
    fn bitor(self, o: Self) -> Self {
        Self(self.0 | o.0)
    }
}
