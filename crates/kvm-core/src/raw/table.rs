//! Descriptors by number, for tests, fuzzing and embedding.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ulna_kvm_abi::Errno;

use super::{Caller, Descriptor, Files, UserMem, serve};
use crate::{Kvm, Result};

enum Entry {
    Reserved,
    Kvm(Descriptor),
    Event(Arc<OwnedFd>),
}

/// A table of descriptors; numbers begin at 3 and the lowest free one is taken.
pub struct FdTable {
    kvm: Arc<Kvm>,
    entries: Mutex<BTreeMap<i32, Entry>>,
    most: i32,
    share: bool,
}

/// Descriptors a table holds at most, as a process by default.
const MOST: i32 = 1024;
const FIRST: i32 = 3;
const NOT_OPEN: Errno = Errno::EBADF.because("the descriptor is not open");
const FULL: Errno = Errno::EMFILE.because("the caller has no descriptor left");

impl FdTable {
    /// An empty table, for this KVM.
    pub fn new(kvm: Kvm) -> FdTable {
        FdTable { kvm: Arc::new(kvm), entries: Mutex::default(), most: MOST, share: false }
    }

    /// Holds at most `most` descriptors.
    pub fn with_limit(mut self, most: i32) -> FdTable {
        self.most = most.saturating_add(FIRST);
        self
    }

    /// The pages of vCPUs are files that other processes can map.
    pub fn with_shared_pages(mut self) -> FdTable {
        self.share = true;
        self
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<i32, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, e: Entry) -> Result<i32> {
        let mut entries = self.entries();
        let fd = (FIRST..self.most).find(|n| !entries.contains_key(n)).ok_or(FULL)?;
        entries.insert(fd, e);
        Ok(fd)
    }

    /// Opens `/dev/kvm`: -EMFILE when the table is full.
    pub fn open_system(&self) -> i32 {
        self.add(Entry::Kvm(Descriptor::System(self.kvm.clone()))).unwrap_or_else(|e| -e.0)
    }

    /// Adds an eventfd.
    pub fn add_eventfd(&self, fd: Arc<OwnedFd>) -> i32 {
        self.add(Entry::Event(fd)).unwrap_or_else(|e| -e.0)
    }

    /// What stands behind a number.
    pub fn get(&self, fd: i32) -> Option<Descriptor> {
        match self.entries().get(&fd) {
            Some(Entry::Kvm(d)) => Some(d.clone()),
            _ => None,
        }
    }

    /// Closes a descriptor. What it stood for lives on as long as others refer to it.
    pub fn close(&self, fd: i32) -> Result<()> {
        let gone = self.entries().remove(&fd);
        gone.map(drop).ok_or(NOT_OPEN)
    }

    /// A request on a descriptor of this table.
    pub fn ioctl(&self, fd: i32, request: u32, arg: u64, mem: &dyn UserMem) -> i32 {
        self.request(fd, request, arg, mem).unwrap_or_else(|e| -e.0)
    }

    /// The same with the reason for a refusal.
    pub fn request(&self, fd: i32, request: u32, arg: u64, mem: &dyn UserMem) -> Result<i32> {
        match self.get(fd) {
            Some(d) => serve(&d, request, arg, &Caller { mem, files: self }),
            None if self.entries().contains_key(&fd) => {
                Err(Errno::ENOTTY.because("descriptor {} is not one of KVM's").value(fd as u64))
            }
            None => Err(NOT_OPEN),
        }
    }
}

impl Files for FdTable {
    fn reserve(&self) -> Result<i32> {
        self.add(Entry::Reserved)
    }
    fn install(&self, fd: i32, d: Descriptor) {
        self.entries().insert(fd, Entry::Kvm(d));
    }
    fn release(&self, fd: i32) {
        self.entries().remove(&fd);
    }
    fn eventfd(&self, fd: i32) -> Result<Arc<OwnedFd>> {
        match self.entries().get(&fd) {
            Some(Entry::Event(e)) => Ok(e.clone()),
            Some(_) => Err(Errno::EINVAL.because("the descriptor is no eventfd")),
            None => Err(NOT_OPEN),
        }
    }
    fn shares_pages(&self) -> bool {
        self.share
    }
}
