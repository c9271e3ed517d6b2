//! How requests travel between a client's shim and the server: frames over a stream socket (decision 17).
//!
//! A request is a header, parts, and the bytes of the parts that go in, one after the other. A part is a range of the
//! client's memory. An answer is a header and the bytes of the parts that come out, one after the other; the last may be
//! shorter than asked for. All numbers are little-endian.

use crate::device;
use crate::ioctl::{Arg, Dir, Ioctl, Len, Place, on, request};
use crate::reg::RegId;
use crate::structs::Wire;

/// First word of every frame: "ulna".
pub const MAGIC: u32 = u32::from_le_bytes(*b"ulna");
/// Version of this protocol, `extra` of [`op::HELLO`].
pub const VERSION: u64 = 1;

/// Environment variable with the path of the socket on which a shim finds its server.
pub const SOCKET_ENV: &str = "ULNA_KVM_SOCKET";

/// Set where programs that this one starts are not to have the library: under an emulator they may be the host's.
pub const ALONE_ENV: &str = "ULNA_KVM_ALONE";

/// What is asked.
pub mod op {
    /// First frame of a client, on the connection itself: answered by the version.
    pub const HELLO: u16 = 1;
    /// An ioctl. Where it makes a descriptor, the new descriptor's number is in `extra` and its channel comes along.
    pub const IOCTL: u16 = 2;
    /// End KVM_RUN number `extra` of vCPU number `arg`. Not answered; on the connection itself.
    pub const KICK: u16 = 3;
    /// Read from a file of statistics: at most `arg` bytes from offset `extra`, or from its position (`u64::MAX`).
    pub const READ: u16 = 4;
    /// The pages of a vCPU: run page, ring of coalesced writes, dirty ring if there is one. `extra` of the answer is the
    /// dirty ring's length.
    pub const MAP: u16 = 5;
    /// Make a userfaultfd of the server's memory: it comes along with the answer. On the connection itself.
    pub const FAULTS: u16 = 6;
    /// A request on a userfaultfd, which comes along: part 0 is its structure, part 1 what UFFDIO_COPY copies. A range that
    /// is registered is told as memory, and `extra` of the answer is where the server has it.
    pub const FAULT_IOCTL: u16 = 7;
}

/// userfaultfd (`include/uapi/linux/userfaultfd.h`): requests, the sizes of their structures, messages.
pub mod faults {
    /// UFFDIO_API.
    pub const API: u32 = 0xc018_aa3f;
    /// UFFDIO_REGISTER.
    pub const REGISTER: u32 = 0xc020_aa00;
    /// UFFDIO_UNREGISTER.
    pub const UNREGISTER: u32 = 0x8010_aa01;
    /// UFFDIO_WAKE.
    pub const WAKE: u32 = 0x8010_aa02;
    /// UFFDIO_COPY.
    pub const COPY: u32 = 0xc028_aa03;
    /// UFFDIO_ZEROPAGE.
    pub const ZEROPAGE: u32 = 0xc020_aa04;
    /// UFFDIO_WRITEPROTECT.
    pub const WRITEPROTECT: u32 = 0xc018_aa06;
    /// UFFDIO_CONTINUE.
    pub const CONTINUE: u32 = 0xc020_aa07;
    /// Longest structure.
    pub const LONGEST: usize = 40;
    /// Bytes of a message that is read.
    pub const MESSAGE: usize = 32;
    /// UFFD_EVENT_PAGEFAULT, in a message's first byte.
    pub const PAGEFAULT: u8 = 0x12;

    /// Bytes of a request's structure, if it is one of these.
    pub const fn size(number: u32) -> Option<usize> {
        match number {
            API | REGISTER | UNREGISTER | WAKE | COPY | ZEROPAGE | WRITEPROTECT | CONTINUE => {
                Some((number >> 16 & 0x3fff) as usize)
            }
            _ => None,
        }
    }
}

/// Kinds of part, as bits.
pub mod part {
    /// Its bytes are in the request.
    pub const IN: u16 = 1;
    /// Its bytes may be in the answer.
    pub const OUT: u16 = 2;
    /// A descriptor of the client: `addr` is its number.
    pub const FD: u16 = 4;
    /// Memory that is shared: `offset` in file `id`, which comes along if it is new.
    pub const MEMORY: u16 = 8;
}

/// Answer to a request with a MEMORY part whose file the server does not have: ask again and send it along.
pub const NEED_FILE: i32 = -0x10000;

/// Most parts of a request.
pub const MAX_PARTS: u16 = 64;
/// Most descriptors that come along.
pub const MAX_FDS: u32 = 16;
/// Most bytes behind a request's header.
pub const MAX_LEN: u32 = 1 << 29;
/// A part that goes out and is as long as the server says.
pub const OPEN: u64 = u64::MAX;

macro_rules! frame {
    ($(#[$m:meta])* $name:ident $size:literal { $($(#[$fm:meta])* $field:ident: $t:ty = $at:literal,)* }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$fm])* pub $field: $t,)*
        }
        impl Wire for $name {
            const SIZE: usize = $size;
            fn from_bytes(b: &[u8]) -> $name {
                $name { $($field: Wire::from_bytes(b.get($at..).unwrap_or(&[])),)* }
            }
            fn to_bytes(&self, b: &mut [u8]) {
                $(if let Some(b) = b.get_mut($at..) { self.$field.to_bytes(b); })*
            }
        }
    };
}

frame! {
    /// Header of a request.
    Request 40 {
        /// [`MAGIC`].
        magic: u32 = 0,
        /// What is asked ([`op`]).
        op: u16 = 4,
        /// Parts that follow.
        parts: u16 = 6,
        /// Bytes that follow, parts included.
        len: u32 = 8,
        /// Number of the ioctl.
        request: u32 = 12,
        /// Its argument.
        arg: u64 = 16,
        /// By `op`.
        extra: u64 = 24,
        /// Descriptors that come along.
        fds: u32 = 32,
        /// The client's thread.
        thread: u32 = 36,
    }
}

frame! {
    /// A range of the client's memory.
    Part 32 {
        /// Where it begins.
        addr: u64 = 0,
        /// Bytes.
        len: u64 = 8,
        /// Where it begins in its file.
        offset: u64 = 16,
        /// Kinds ([`part`]).
        kind: u16 = 24,
        /// 1 + its place among the descriptors that come along; 0: none.
        fd: u16 = 26,
        /// The client's number of the file.
        id: u32 = 28,
    }
}

frame! {
    /// Header of an answer.
    Reply 24 {
        /// [`MAGIC`].
        magic: u32 = 0,
        /// What the ioctl answers: not negative, or minus an errno.
        result: i32 = 4,
        /// Bytes that follow.
        len: u32 = 8,
        /// Descriptors that come along.
        fds: u32 = 12,
        /// By `op`; the server's number of what was made.
        extra: u64 = 16,
    }
}

/// Data that a request's structure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedPart {
    /// Its address.
    pub addr: u64,
    /// Bytes that go in.
    pub len: u64,
    /// It may go in.
    pub goes_in: bool,
    /// It may come out, however long it is.
    pub comes_out: bool,
}

/// Bytes of the structure that go in or come out.
pub fn argument(i: &Ioctl) -> Option<(usize, bool, bool)> {
    match i.arg {
        Arg::Ignored | Arg::Zero | Arg::Number => None,
        Arg::In => Some((i.size.into(), true, false)),
        Arg::Out => Some((i.size.into(), false, true)),
        Arg::InOut => Some((i.size.into(), true, true)),
    }
}

/// What the structure `bytes` at `arg`, of request `i` on a descriptor of `kind`, leads to. Memory for a slot is not told
/// here.
pub fn nested(i: &Ioctl, kind: u8, arg: u64, bytes: &[u8]) -> Option<NestedPart> {
    let n = i.nested?;
    let addr = match n.place {
        Place::Pointer(at) => u64::from_bytes(bytes.get(usize::from(at)..)?),
        Place::Behind => arg.wrapping_add(i.size.into()),
    };
    let first32 = || u64::from(u32::from_bytes(bytes));
    let len = match n.len {
        Len::Bytes(b) => b.into(),
        Len::Register => RegId(u64::from_bytes(bytes)).size() as u64,
        Len::Attribute => attribute_size(kind, bytes),
        // What is written is as long as the server says.
        Len::SlotBits => 0,
        Len::PageBits => first_pages(bytes).div_ceil(64) * 8,
        Len::Times32(each) => first32().min(1 << 16) * u64::from(each),
        Len::Times64(each) => u64::from_bytes(bytes).min(1 << 16) * u64::from(each),
        Len::Granules => (u64::from_bytes(bytes.get(8..)?) / 16).min(1 << 24),
        Len::Shared => return None,
    };
    // A region of redistributors is asked for by a number in the answer's place.
    let goes_in = n.dir != Dir::Read || i.request() == request::GET_DEVICE_ATTR && kind == on::DEVICE;
    let comes_out = n.dir != Dir::Write;
    Some(NestedPart { addr, len, goes_in, comes_out })
}

/// `num_pages` of struct kvm_clear_dirty_log.
fn first_pages(bytes: &[u8]) -> u64 {
    u32::from_bytes(bytes.get(4..).unwrap_or(&[])).into()
}

/// Bytes of the value that struct kvm_device_attr leads to.
fn attribute_size(kind: u8, attr: &[u8]) -> u64 {
    let group = u32::from_bytes(attr.get(4..).unwrap_or(&[]));
    let number = u64::from_bytes(attr.get(8..).unwrap_or(&[]));
    match kind {
        on::DEVICE => match group {
            device::GRP_ADDR | device::GRP_ITS_REGS | device::GRP_CPU_SYSREGS => 8,
            device::GRP_CTRL => 0,
            _ => 4,
        },
        on::VM if group == device::GRP_VM_SMCCC_CTRL => crate::structs::SmcccFilter::SIZE as u64,
        on::VCPU => match group {
            device::GRP_PMU_V3_CTRL if number == device::PMU_V3_INIT => 0,
            device::GRP_PMU_V3_CTRL if number == device::PMU_V3_FILTER => 8,
            device::GRP_PMU_V3_CTRL | device::GRP_TIMER_CTRL => 4,
            _ => 8,
        },
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ioctl;

    #[test]
    fn frames_are_what_they_were() {
        let r = Request {
            magic: MAGIC,
            op: op::IOCTL,
            parts: 2,
            len: 80,
            request: 7,
            arg: 1 << 40,
            ..Default::default()
        };
        let mut b = [0; Request::SIZE];
        r.to_bytes(&mut b);
        assert_eq!(Request::from_bytes(&b), r);
        let p = Part { addr: 1, len: OPEN, offset: 3, kind: part::MEMORY, fd: 1, id: 9 };
        let mut b = [0; Part::SIZE];
        p.to_bytes(&mut b);
        assert_eq!(Part::from_bytes(&b), p);
        let r = Reply { magic: MAGIC, result: -22, len: 4, fds: 1, extra: 8 };
        let mut b = [0; Reply::SIZE];
        r.to_bytes(&mut b);
        assert_eq!(Reply::from_bytes(&b), r);
    }

    #[test]
    fn pointers_are_followed() {
        let mut b = [0; 16];
        RegId::PC.0.to_bytes(&mut b);
        0x5000u64.to_bytes(&mut b[8..]);
        let n = nested(&ioctl::SET_ONE_REG, on::VCPU, 0x100, &b);
        assert_eq!(n, Some(NestedPart { addr: 0x5000, len: 8, goes_in: true, comes_out: false }));
        let n = nested(&ioctl::GET_ONE_REG, on::VCPU, 0x100, &b).unwrap();
        assert!(n.comes_out && !n.goes_in);
        // A structure that could not be read leads nowhere.
        assert_eq!(nested(&ioctl::SET_ONE_REG, on::VCPU, 0x100, &[]), None);
        let n = nested(&ioctl::SET_GSI_ROUTING, on::VM, 0x100, &[3, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!((n.addr, n.len), (0x108, 144));
        assert_eq!(argument(&ioctl::RUN), None);
        assert_eq!(argument(&ioctl::CREATE_DEVICE), Some((12, true, true)));
    }
}
