//! The requests: number, direction, size of the argument, and on which descriptor they exist.

/// Kinds of descriptor, as bits.
pub mod on {
    /// `/dev/kvm`.
    pub const SYSTEM: u8 = 1;
    /// A VM.
    pub const VM: u8 = 2;
    /// A vCPU.
    pub const VCPU: u8 = 4;
    /// A device.
    pub const DEVICE: u8 = 8;
}

/// Which way the argument goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dir {
    /// `_IO`: no structure (the argument is a number, or none).
    None = 0,
    /// `_IOW`: the kernel reads it.
    Write = 1,
    /// `_IOR`: the kernel writes it.
    Read = 2,
    /// `_IOWR`.
    Both = 3,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ioctl {
    /// Name without `KVM_`.
    pub name: &'static str,
    /// Bits 7:0 of the request.
    pub nr: u8,
    /// Direction.
    pub dir: Dir,
    /// Size of the structure that the number carries.
    pub size: u16,
    /// Descriptors that know it ([`on`]).
    pub on: u8,
}

/// The type byte of all requests.
pub const TYPE: u32 = 0xae;

impl Ioctl {
    /// The whole number, by which the kernel dispatches.
    pub const fn request(&self) -> u32 {
        (self.dir as u32) << 30 | (self.size as u32) << 16 | TYPE << 8 | self.nr as u32
    }

    /// The request with this number on this kind of descriptor.
    pub fn find(request: u32, descriptor: u8) -> Option<&'static Ioctl> {
        ALL.iter().find(|i| i.request() == request && i.on & descriptor != 0)
    }
}

macro_rules! ioctls {
    ($($(#[$m:meta])* $name:ident $nr:literal $dir:ident $size:literal $($on:ident)|+;)*) => {
        $(
            $(#[$m])*
            #[doc = concat!("KVM_", stringify!($name), ".")]
            pub const $name: Ioctl =
                Ioctl { name: stringify!($name), nr: $nr, dir: Dir::$dir, size: $size, on: $(on::$on)|+ };
        )*
        /// All of them.
        pub const ALL: &[Ioctl] = &[$($name,)*];
    };
}

ioctls! {
    GET_API_VERSION 0x00 None 0 SYSTEM;
    CREATE_VM 0x01 None 0 SYSTEM;
    CHECK_EXTENSION 0x03 None 0 SYSTEM | VM;
    GET_VCPU_MMAP_SIZE 0x04 None 0 SYSTEM;
    CREATE_VCPU 0x41 None 0 VM;
    GET_DIRTY_LOG 0x42 Write 16 VM;
    SET_USER_MEMORY_REGION 0x46 Write 32 VM;
    SET_USER_MEMORY_REGION2 0x49 Write 160 VM;
    CREATE_IRQCHIP 0x60 None 0 VM;
    IRQ_LINE 0x61 Write 8 VM;
    IRQ_LINE_STATUS 0x67 Both 8 VM;
    REGISTER_COALESCED_MMIO 0x67 Write 16 VM;
    UNREGISTER_COALESCED_MMIO 0x68 Write 16 VM;
    /// The entries follow the structure.
    SET_GSI_ROUTING 0x6a Write 8 VM;
    IRQFD 0x76 Write 32 VM;
    IOEVENTFD 0x79 Write 64 VM;
    RUN 0x80 None 0 VCPU;
    GET_REGS 0x81 Read 864 VCPU;
    SET_REGS 0x82 Write 864 VCPU;
    GET_SREGS 0x83 Read 0 VCPU;
    SET_SREGS 0x84 Write 0 VCPU;
    TRANSLATE 0x85 Both 24 VCPU;
    /// The signal set follows the structure.
    SET_SIGNAL_MASK 0x8b Write 4 VCPU;
    GET_FPU 0x8c Read 0 VCPU;
    SET_FPU 0x8d Write 0 VCPU;
    GET_MP_STATE 0x98 Read 4 VCPU;
    SET_MP_STATE 0x99 Write 4 VCPU;
    SET_GUEST_DEBUG 0x9b Write 520 VCPU;
    GET_VCPU_EVENTS 0x9f Read 64 VCPU;
    SET_VCPU_EVENTS 0xa0 Write 64 VCPU;
    ENABLE_CAP 0xa3 Write 104 VM | VCPU;
    SIGNAL_MSI 0xa5 Write 32 VM;
    GET_ONE_REG 0xab Write 16 VCPU;
    /// The same number as GET_ONE_REG, on the other descriptor.
    ARM_SET_DEVICE_ADDR 0xab Write 16 VM;
    SET_ONE_REG 0xac Write 16 VCPU;
    ARM_VCPU_INIT 0xae Write 32 VCPU;
    ARM_PREFERRED_TARGET 0xaf Read 32 VM;
    /// The ids follow the structure.
    GET_REG_LIST 0xb0 Both 8 VCPU;
    ARM_MTE_COPY_TAGS 0xb4 Read 48 VM;
    ARM_SET_COUNTER_OFFSET 0xb5 Write 16 VM;
    ARM_GET_REG_WRITABLE_MASKS 0xb6 Read 64 VM;
    CLEAR_DIRTY_LOG 0xc0 Both 24 VM;
    ARM_VCPU_FINALIZE 0xc2 Write 4 VCPU;
    RESET_DIRTY_RINGS 0xc7 None 0 VM;
    GET_STATS_FD 0xce None 0 VM | VCPU;
    CREATE_DEVICE 0xe0 Both 12 VM;
    SET_DEVICE_ATTR 0xe1 Write 24 VM | VCPU | DEVICE;
    GET_DEVICE_ATTR 0xe2 Write 24 VM | VCPU | DEVICE;
    HAS_DEVICE_ATTR 0xe3 Write 24 VM | VCPU | DEVICE;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers computed from the headers (kvm-arm64-abi.md §1).
    #[test]
    fn requests_are_those_of_the_kernel() {
        let known = [
            (GET_API_VERSION, 0x0000_ae00),
            (GET_DIRTY_LOG, 0x4010_ae42),
            (SET_USER_MEMORY_REGION, 0x4020_ae46),
            (SET_USER_MEMORY_REGION2, 0x40a0_ae49),
            (IRQ_LINE, 0x4008_ae61),
            (IRQ_LINE_STATUS, 0xc008_ae67),
            (REGISTER_COALESCED_MMIO, 0x4010_ae67),
            (SET_GSI_ROUTING, 0x4008_ae6a),
            (IRQFD, 0x4020_ae76),
            (IOEVENTFD, 0x4040_ae79),
            (ENABLE_CAP, 0x4068_aea3),
            (SIGNAL_MSI, 0x4020_aea5),
            (GET_ONE_REG, 0x4010_aeab),
            (ARM_PREFERRED_TARGET, 0x8020_aeaf),
            (ARM_MTE_COPY_TAGS, 0x8030_aeb4),
            (ARM_GET_REG_WRITABLE_MASKS, 0x8040_aeb6),
            (CLEAR_DIRTY_LOG, 0xc018_aec0),
            (CREATE_DEVICE, 0xc00c_aee0),
            (SET_DEVICE_ATTR, 0x4018_aee1),
            (RUN, 0x0000_ae80),
            (SET_SIGNAL_MASK, 0x4004_ae8b),
            (GET_MP_STATE, 0x8004_ae98),
            (SET_GUEST_DEBUG, 0x4208_ae9b),
            (GET_VCPU_EVENTS, 0x8040_ae9f),
            (ARM_VCPU_INIT, 0x4020_aeae),
            (GET_REG_LIST, 0xc008_aeb0),
            (ARM_VCPU_FINALIZE, 0x4004_aec2),
            (GET_REGS, 0x8360_ae81),
            (TRANSLATE, 0xc018_ae85),
        ];
        for (i, number) in known {
            assert_eq!(i.request(), number, "{}", i.name);
        }
    }

    #[test]
    fn a_number_means_one_thing_on_a_descriptor() {
        for (n, a) in ALL.iter().enumerate() {
            for b in &ALL[..n] {
                assert!(a.request() != b.request() || a.on & b.on == 0, "{} {}", a.name, b.name);
            }
        }
        assert_eq!(Ioctl::find(0x4010_aeab, on::VM), Some(&ARM_SET_DEVICE_ADDR));
        assert_eq!(Ioctl::find(0x4010_aeab, on::VCPU), Some(&GET_ONE_REG));
        assert_eq!(Ioctl::find(0x4010_aeab, on::DEVICE), None);
    }
}
