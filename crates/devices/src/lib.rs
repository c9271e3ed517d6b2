//! Device models: PL011, PL031, virtio over MMIO.
