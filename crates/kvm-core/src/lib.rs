//! The software KVM: Kvm, VmFd, VcpuFd, DeviceFd and the guest-visible firmware.
