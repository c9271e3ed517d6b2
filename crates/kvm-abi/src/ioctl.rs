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

/// What the argument word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arg {
    /// Not looked at.
    Ignored,
    /// Must be zero.
    Zero,
    /// A number.
    Number,
    /// Address of a structure that the kernel reads.
    In,
    /// Address of a structure that the kernel writes.
    Out,
    /// Address of a structure that the kernel reads and then writes.
    InOut,
}

/// Where nested data begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// At the address that the structure holds at this offset.
    Pointer(u16),
    /// Behind the structure.
    Behind,
}

/// How much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Len {
    /// So many bytes.
    Bytes(u32),
    /// The size field of the register id at the structure's start.
    Register,
    /// What the attribute is made of, by descriptor and group.
    Attribute,
    /// A bit a page of the slot at the structure's start, in 64-bit words.
    SlotBits,
    /// A bit a page, `num_pages` of them, in 64-bit words.
    PageBits,
    /// The u32 at the structure's start, times so many bytes.
    Times32(u32),
    /// The u64 at the structure's start, times so many bytes.
    Times64(u32),
    /// A byte for each 16 bytes of `length`.
    Granules,
    /// Memory that stays the caller's: nothing is copied.
    Shared,
}

/// Data that an argument structure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nested {
    /// Where.
    pub place: Place,
    /// How much.
    pub len: Len,
    /// Does the kernel read it (`Write`), write it (`Read`), or either (`Both`)?
    pub dir: Dir,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ioctl {
    /// Name without `KVM_`.
    pub name: &'static str,
    /// Bits 7:0 of the request.
    pub nr: u8,
    /// Direction, as the number says; what is really copied is in `arg`.
    pub dir: Dir,
    /// Size of the structure that the number carries.
    pub size: u16,
    /// Descriptors that know it ([`on`]).
    pub on: u8,
    /// What the argument is.
    pub arg: Arg,
    /// What the structure leads to.
    pub nested: Option<Nested>,
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
    ($($(#[$m:meta])* $name:ident $nr:literal $dir:ident $size:literal $arg:ident $($on:ident)|+ $(, $ndir:ident $place:expr => $len:expr)?;)*) => {
        $(
            $(#[$m])*
            #[doc = concat!("KVM_", stringify!($name), ".")]
            pub const $name: Ioctl = Ioctl {
                name: stringify!($name),
                nr: $nr,
                dir: Dir::$dir,
                size: $size,
                on: $(on::$on)|+,
                arg: Arg::$arg,
                nested: ioctls!(@nested $($ndir $place => $len)?),
            };
        )*
        /// All of them.
        pub const ALL: &[Ioctl] = &[$($name,)*];

        /// The numbers, to match a request against.
        pub mod request {
            $(#[doc = concat!("KVM_", stringify!($name), ".")] pub const $name: u32 = super::$name.request();)*
        }
    };
    (@nested) => { None };
    (@nested $ndir:ident $place:expr => $len:expr) => {
        Some(Nested { place: $place, len: $len, dir: Dir::$ndir })
    };
}

use Len::*;
use Place::*;

// Name, number, direction and size as in the header; what the argument is; where it exists; nested data.
ioctls! {
    GET_API_VERSION 0x00 None 0 Zero SYSTEM;
    CREATE_VM 0x01 None 0 Number SYSTEM;
    CHECK_EXTENSION 0x03 None 0 Number SYSTEM | VM;
    GET_VCPU_MMAP_SIZE 0x04 None 0 Zero SYSTEM;
    CREATE_VCPU 0x41 None 0 Number VM;
    GET_DIRTY_LOG 0x42 Write 16 In VM, Read Pointer(8) => SlotBits;
    SET_USER_MEMORY_REGION 0x46 Write 32 In VM, Both Pointer(24) => Shared;
    SET_USER_MEMORY_REGION2 0x49 Write 160 In VM, Both Pointer(24) => Shared;
    CREATE_IRQCHIP 0x60 None 0 Ignored VM;
    IRQ_LINE 0x61 Write 8 In VM;
    IRQ_LINE_STATUS 0x67 Both 8 InOut VM;
    REGISTER_COALESCED_MMIO 0x67 Write 16 In VM;
    UNREGISTER_COALESCED_MMIO 0x68 Write 16 In VM;
    /// The entries follow the structure.
    SET_GSI_ROUTING 0x6a Write 8 In VM, Write Behind => Times32(48);
    IRQFD 0x76 Write 32 In VM;
    IOEVENTFD 0x79 Write 64 In VM;
    RUN 0x80 None 0 Zero VCPU;
    NMI 0x9a None 0 Ignored VCPU;
    /// A stub: EINVAL.
    GET_REGS 0x81 Read 864 Ignored VCPU;
    /// A stub: EINVAL once its argument was read.
    SET_REGS 0x82 Write 864 In VCPU;
    /// A stub: EINVAL.
    GET_SREGS 0x83 Read 0 Ignored VCPU;
    /// A stub: EINVAL.
    SET_SREGS 0x84 Write 0 Ignored VCPU;
    /// A stub: EINVAL once its argument was read.
    TRANSLATE 0x85 Both 24 In VCPU;
    /// The signal set follows the structure. A null argument clears the mask.
    SET_SIGNAL_MASK 0x8b Write 4 In VCPU, Write Behind => Bytes(8);
    /// A stub: EINVAL.
    GET_FPU 0x8c Read 0 Ignored VCPU;
    /// A stub: EINVAL.
    SET_FPU 0x8d Write 0 Ignored VCPU;
    GET_MP_STATE 0x98 Read 4 Out VCPU;
    SET_MP_STATE 0x99 Write 4 In VCPU;
    SET_GUEST_DEBUG 0x9b Write 520 In VCPU;
    GET_VCPU_EVENTS 0x9f Read 64 Out VCPU;
    SET_VCPU_EVENTS 0xa0 Write 64 In VCPU;
    ENABLE_CAP 0xa3 Write 104 In VM;
    SIGNAL_MSI 0xa5 Write 32 In VM;
    GET_ONE_REG 0xab Write 16 In VCPU, Read Pointer(8) => Register;
    /// The same number as GET_ONE_REG, on the other descriptor.
    ARM_SET_DEVICE_ADDR 0xab Write 16 In VM;
    SET_ONE_REG 0xac Write 16 In VCPU, Write Pointer(8) => Register;
    ARM_VCPU_INIT 0xae Write 32 In VCPU;
    ARM_PREFERRED_TARGET 0xaf Read 32 Out VM;
    /// The ids follow the structure; `n` is read, and written in any case.
    /// On a VM: the map of VM-scoped registers, which Linux has not ([`crate::private::CAP_REG_SCOPE`]).
    GET_REG_LIST 0xb0 Both 8 InOut VM | VCPU, Read Behind => Times64(8);
    /// Although its number says that nothing is read.
    ARM_MTE_COPY_TAGS 0xb4 Read 48 In VM, Both Pointer(16) => Granules;
    ARM_SET_COUNTER_OFFSET 0xb5 Write 16 In VM;
    /// Although its number says that nothing is read.
    ARM_GET_REG_WRITABLE_MASKS 0xb6 Read 64 In VM, Read Pointer(0) => Bytes(192 * 8);
    CLEAR_DIRTY_LOG 0xc0 Both 24 In VM, Write Pointer(16) => PageBits;
    ARM_VCPU_FINALIZE 0xc2 Write 4 In VCPU;
    RESET_DIRTY_RINGS 0xc7 None 0 Ignored VM;
    GET_STATS_FD 0xce None 0 Ignored VM | VCPU;
    CREATE_DEVICE 0xe0 Both 12 InOut VM;
    SET_DEVICE_ATTR 0xe1 Write 24 In VM | VCPU | DEVICE, Write Pointer(16) => Attribute;
    /// On a VM only for VM-scoped registers, which Linux has not ([`crate::private::GRP_REG_SCOPE`]).
    GET_DEVICE_ATTR 0xe2 Write 24 In VM | VCPU | DEVICE, Read Pointer(16) => Attribute;
    HAS_DEVICE_ATTR 0xe3 Write 24 In VM | VCPU | DEVICE;
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
    fn arguments_fit_their_structures() {
        for i in ALL {
            let pointer = matches!(i.arg, Arg::In | Arg::Out | Arg::InOut);
            assert_eq!(pointer, i.size != 0 && i.arg != Arg::Ignored, "{}", i.name);
            if let Some(Nested { place: Pointer(at), .. }) = i.nested {
                assert!(at + 8 <= i.size && at.is_multiple_of(8), "{}", i.name);
            }
            assert_eq!(Ioctl::find(i.request(), i.on & i.on.wrapping_neg()), Some(i));
        }
        assert_eq!(request::GET_ONE_REG, request::ARM_SET_DEVICE_ADDR);
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
