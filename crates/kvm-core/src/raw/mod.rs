//! The raw entry: requests as a kernel gets them, a descriptor, a 32-bit number and an argument word.
//!
//! `serve`, traces and fuzzers come in here. [`ioctl`] finds the request in the table of `ulna_kvm_abi::ioctl`, fetches
//! its structure through a [`UserMem`], carries it out on the types of this crate and answers a result or minus an errno
//! (kvm-arm64-abi.md §1.1: G1-G10). What a request opens (VMs, vCPUs, devices, statistics) is handed to a [`Files`], which
//! gives it a number; [`FdTable`] is one that only counts.
//!
//! What is refused leaves everything as it was: a result that is to be copied out is checked to be writable before
//! anything is done for it.
//!
//! ```
//! use ulna_kvm_abi::ioctl::request;
//! use ulna_kvm_core::raw::{ByteMem, FdTable};
//! # use std::sync::Arc;
//! # let kvm = ulna_kvm_core::Kvm::new(ulna_kvm_core::KvmConfig {
//! #     profile: ulna_profile::Profile::builtin("n1").unwrap(),
//! #     policy: ulna_kvm_core::Policy::Hw,
//! #     clock: ulna_kvm_core::ClockKind::Insn,
//! #     random: Arc::new(|| 4),
//! #     wall_clock: Arc::new(|| 0),
//! #     engine: Default::default(),
//! #     engine_options: Default::default(),
//! #     strict: false,
//! # });
//! let mem = ByteMem::new(0x1_0000, 0x1000);
//! let files = FdTable::new(kvm);
//! let system = files.open_system();
//! assert_eq!(files.ioctl(system, request::GET_API_VERSION, 0, &mem), 12);
//! let vm = files.ioctl(system, request::CREATE_VM, 0, &mem);
//! let vcpu = files.ioctl(vm, request::CREATE_VCPU, 0, &mem);
//! assert!(vcpu > vm);
//! assert_eq!(files.ioctl(vcpu, request::RUN, 0, &mem), -8); // ENOEXEC: not initialised
//! ```

mod device;
mod dirty;
mod dump;
mod mem;
mod page;
mod stats;
mod system;
mod table;
mod vcpu;
mod vm;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use ulna_kvm_abi::Errno;
use ulna_kvm_abi::ioctl::{Ioctl, TYPE, on};
use ulna_kvm_abi::structs::{DeviceAttr, Wire};

use crate::{Device, Kvm, Result};

pub use mem::{Backing, ByteMem, ProcessMem, UserMem};
pub use page::{RunPage, run_offset};
pub use stats::StatsFile;
pub use table::FdTable;
pub use vcpu::VcpuHandle;
pub use vm::VmHandle;

/// What a descriptor stands for.
#[derive(Clone)]
pub enum Descriptor {
    /// `/dev/kvm`.
    System(Arc<Kvm>),
    /// A VM.
    Vm(Arc<VmHandle>),
    /// A vCPU.
    Vcpu(Arc<VcpuHandle>),
    /// A device of a VM.
    Device(Arc<VmHandle>, Arc<Device>),
    /// Binary statistics (KVM_GET_STATS_FD): only to be read.
    Stats(Arc<StatsFile>),
}

impl Descriptor {
    /// Its kind as a bit of `ulna_kvm_abi::ioctl::on`; 0 knows no requests.
    pub fn kind(&self) -> u8 {
        match self {
            Descriptor::System(_) => on::SYSTEM,
            Descriptor::Vm(_) => on::VM,
            Descriptor::Vcpu(_) => on::VCPU,
            Descriptor::Device(..) => on::DEVICE,
            Descriptor::Stats(_) => 0,
        }
    }
}

/// The caller's descriptors.
pub trait Files: Send + Sync {
    /// A number for a descriptor that is about to be made: EMFILE when there is none left.
    fn reserve(&self) -> Result<i32>;
    /// The descriptor was made.
    fn install(&self, fd: i32, d: Descriptor);
    /// It was not.
    fn release(&self, fd: i32);
    /// The caller's eventfd of this number: EBADF if it has none, EINVAL if it is something else.
    fn eventfd(&self, fd: i32) -> Result<Arc<OwnedFd>>;
    /// Shall the pages of vCPUs be memory that other processes can map?
    fn shares_pages(&self) -> bool {
        false
    }
    /// Shall requests be refused that carry something where the interface asks for zero, though KVM accepts them?
    fn strict(&self) -> bool {
        false
    }
}

/// Who asks.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// Its memory.
    pub mem: &'a dyn UserMem,
    /// Its descriptors.
    pub files: &'a dyn Files,
}

impl Caller<'_> {
    /// The structure at `addr`.
    fn get<T: Wire>(&self, addr: u64) -> Result<T> {
        let mut b = [0; 1024];
        let b = b.get_mut(..T::SIZE).ok_or(Errno::EFAULT)?;
        self.mem.read(addr, b).map_err(|e| unreadable(e, T::SIZE, addr))?;
        Ok(T::from_bytes(b))
    }

    /// Writes a structure.
    fn put<T: Wire>(&self, addr: u64, v: &T) -> Result<()> {
        let mut b = [0; 1024];
        let b = b.get_mut(..T::SIZE).ok_or(Errno::EFAULT)?;
        v.to_bytes(b);
        self.write(addr, b)
    }

    /// What should be zero, is: asked only of a strict caller.
    fn tidy(&self, zero: bool) -> Result<()> {
        if zero || !self.files.strict() {
            return Ok(());
        }
        Err(Errno::EINVAL
            .because("strict: what the interface wants zero is not (KVM of Linux does not look)"))
    }

    /// Bytes to the caller.
    fn write(&self, addr: u64, data: &[u8]) -> Result<()> {
        self.mem
            .write(addr, data)
            .map_err(|e| fault(e, "{} bytes at {x} cannot be written", data.len(), addr))
    }

    /// Bytes of the caller.
    fn read(&self, addr: u64, b: &mut [u8]) -> Result<()> {
        self.mem.read(addr, b).map_err(|e| unreadable(e, b.len(), addr))
    }

    /// The structure of an attribute request.
    fn attr(&self, addr: u64) -> Result<DeviceAttr> {
        let a = self.get::<DeviceAttr>(addr)?;
        self.tidy(a.flags == 0)?;
        Ok(a)
    }

    /// A structure that will be written after it was read: it must be possible before anything is done.
    fn get_writable<T: Wire>(&self, addr: u64) -> Result<T> {
        let v = self.get(addr)?;
        self.put(addr, &v)?;
        Ok(v)
    }

    /// What a request that is not built yet answers: its argument is read all the same.
    fn unbuilt(&self, request: u32, kind: u8, arg: u64) -> Errno {
        let size = Ioctl::find(request, kind).map_or(0, |i| i.size);
        let mut b = [0; 1024];
        let size = usize::from(size).min(b.len());
        self.read(arg, &mut b[..size]).err().unwrap_or(UNKNOWN)
    }

    /// Makes a descriptor: the number is reserved first, so that nothing has been made when there is none.
    fn open(&self, make: impl FnOnce() -> Result<Descriptor>) -> Result<i32> {
        let fd = self.files.reserve()?;
        match make() {
            Ok(d) => {
                self.files.install(fd, d);
                Ok(fd)
            }
            Err(e) => {
                self.files.release(fd);
                Err(e)
            }
        }
    }
}

/// Carries out `request` with argument `arg`: a result that is not negative, or minus an errno.
pub fn ioctl(d: &Descriptor, request: u32, arg: u64, caller: &Caller<'_>) -> i32 {
    match serve(d, request, arg, caller) {
        Ok(n) => n,
        Err(e) => -e.0,
    }
}

/// The same with the reason for a refusal ([`Errno::why`]).
pub fn serve(d: &Descriptor, request: u32, arg: u64, caller: &Caller<'_>) -> Result<i32> {
    match d {
        Descriptor::System(_) => {}
        Descriptor::Vm(vm) | Descriptor::Device(vm, _) => vm.check_caller(caller)?,
        Descriptor::Vcpu(v) => {
            v.vm().check_caller(caller)?;
            if request >> 8 & 0xff != TYPE {
                return Err(Errno::EINVAL.because("{x} is not a request of KVM").value(request.into()));
            }
        }
        Descriptor::Stats(_) => return Err(NO_REQUESTS),
    }
    if Ioctl::find(request, d.kind()).is_none() {
        let device = matches!(d, Descriptor::Device(..));
        let errno = if device { Errno::ENOTTY } else { Errno::EINVAL };
        return Err(errno.because("this descriptor has no request {x}").value(request.into()));
    }
    match d {
        Descriptor::System(kvm) => system::serve(kvm, request, arg, caller),
        Descriptor::Vm(vm) => vm::serve(vm, request, arg, caller),
        Descriptor::Vcpu(v) => vcpu::serve(v, request, arg, caller),
        Descriptor::Device(_, device) => device::serve(device, request, arg, caller),
        Descriptor::Stats(_) => Err(NO_REQUESTS),
    }
}

const NO_REQUESTS: Errno = Errno::ENOTTY.because("statistics are only to be read");
/// What a kernel knows and arm64 has not.
const UNKNOWN: Errno = Errno::EINVAL.because("KVM on arm64 does not serve this request");
/// A word that must be zero.
const NOT_ZERO: Errno = Errno::EINVAL.because("the argument must be zero");
/// An address so high that what follows its structure has none.
const NOTHING_BEHIND: Errno =
    Errno::EFAULT.because("nothing can follow the structure at the end of addresses");

fn unreadable(e: Errno, len: usize, addr: u64) -> Errno {
    fault(e, "{} bytes at {x} cannot be read", len, addr)
}

/// With a reason, unless the memory gave one.
fn fault(e: Errno, text: &'static str, len: usize, addr: u64) -> Errno {
    if e.why().is_some() { e } else { e.because(text).values([len as u64, addr]) }
}
