//! Refusals that come up in several places, with their reasons.

use ulna_kvm_abi::Errno;

/// After a first run that failed for good.
pub const DEAD: Errno =
    Errno::EIO.because("the VM is dead: its first KVM_RUN could not map the interrupt controller");
/// Features decide what there is.
pub const NOT_INITIALISED: Errno =
    Errno::ENOEXEC.because("the vCPU is not initialised: KVM_ARM_VCPU_INIT comes first");
/// What needs all vCPUs at rest.
pub const RUNNING: Errno = Errno::EBUSY.because("a vCPU of the VM is in KVM_RUN");
/// What is frozen from the first run on.
pub const STARTED: Errno = Errno::EBUSY.because("the VM has run: from then on this stays as it is");
/// A number that no vCPU has.
pub const NO_VCPU: Errno = Errno::EINVAL.because("the VM has no such vCPU");
/// An attribute that nothing here has.
pub const NO_ATTRIBUTE: Errno = Errno::ENXIO.because("there is no such attribute here");
/// A register that is not in KVM_GET_REG_LIST.
pub const NO_REGISTER: Errno = Errno::ENOENT.because("this vCPU has no such register");
/// Without the vCPU feature.
pub const NO_PMU: Errno = Errno::ENODEV.because("the vCPU was not initialised with the feature PMU_V3");
/// Without KVM_CREATE_DEVICE of one.
pub const NO_GIC: Errno = Errno::EINVAL.because("the VM has no in-kernel interrupt controller");
/// Before KVM_DEV_ARM_VGIC_CTRL_INIT.
pub const GIC_NOT_READY: Errno = Errno::EBUSY
    .because("the interrupt controller is not initialised: KVM_DEV_ARM_VGIC_CTRL_INIT comes first");
/// An id with a size that its register has not.
pub const WRONG_SIZE: Errno = Errno::EINVAL.because("the id gives the register another size than it has");
