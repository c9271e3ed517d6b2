//! The two banks of flash: firmware in bank 0, its variables in bank 1. They outlive a reset of the machine.
//!
//! A bank's array is guest memory, shown as a read-only slot while the bank is in array mode: the guest loads and fetches
//! from it directly, its stores arrive at the model. In the other modes the slot is away and loads arrive too.

use crate::config::Config;
use crate::error::Error;
use crate::layout;
use crate::loader;
use crate::memory::{self, Memory};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use ulna_devices::flash::{Array, BANK_SIZE, Flash};
use ulna_kvm_backend::{Vm, abi};
use vm_memory::{Bytes, MemoryRegionAddress};

const _: () = assert!(layout::FLASH.end - layout::FLASH.start == BANK_SIZE);
const _: () = assert!(layout::FLASH_VARS.end - layout::FLASH_VARS.start == BANK_SIZE);

/// The contents of both banks.
#[derive(Clone)]
pub struct Banks {
    code: Contents,
    vars: Contents,
}

#[derive(Clone)]
struct Contents {
    memory: Arc<Memory>,
    /// Gets what is written, once the machine is here.
    file: Arc<OnceLock<File>>,
    writable: bool,
}

impl Banks {
    /// Fills the banks from the files of `config`. A bank without a file is blank: it reads as zeros until it is erased
    /// (that costs no memory), and bank 0 can then be written too.
    pub fn open(config: &Config) -> Result<Banks, Error> {
        let code = memory::allocate("flash", layout::FLASH)?;
        if let Some(path) = &config.firmware {
            loader::load_firmware(&code, path)?;
        }
        let vars = memory::allocate("flash", layout::FLASH_VARS)?;
        let banks = Banks::carried(config, code, vars);
        if let Some(path) = &config.firmware_vars {
            let mut file = open_vars(path)?;
            read_vars(&banks.vars.memory, &mut file, path)?;
            let _ = banks.vars.file.set(file);
        }
        Ok(banks)
    }

    /// Banks whose contents come from elsewhere.
    pub fn carried(config: &Config, code: Arc<Memory>, vars: Arc<Memory>) -> Banks {
        let contents = |memory, writable| Contents { memory, file: Arc::default(), writable };
        Banks { code: contents(code, config.firmware.is_none()), vars: contents(vars, true) }
    }

    /// The machine is here now: the file of its variables gets what the bank holds.
    pub fn claim(&self, config: &Config) -> Result<(), Error> {
        let Some(path) = config.firmware_vars.as_ref().filter(|_| self.vars.file.get().is_none()) else {
            return Ok(());
        };
        let fail =
            |source| Error::File { action: "write the firmware variables to", path: path.clone(), source };
        let file = open_vars(path)?;
        let mut piece = vec![0; 1 << 20];
        for at in (0..BANK_SIZE).step_by(piece.len()) {
            let read = self.vars.memory.read_slice(&mut piece, MemoryRegionAddress(at));
            read.map_err(|e| fail(io::Error::other(e)))?;
            // A blank bank has a file of no length.
            let used = piece.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
            file.write_all_at(&piece[..used], at).map_err(fail)?;
        }
        let _ = self.vars.file.set(file);
        Ok(())
    }

    /// The machine goes elsewhere, or stays after all: others may use the file of its variables, or not.
    pub fn lend(&self, away: bool) -> io::Result<()> {
        match self.vars.file.get() {
            Some(file) if away => file.unlock(),
            Some(file) => file.try_lock().map_err(io::Error::from),
            None => Ok(()),
        }
    }

    /// Their memory.
    pub fn memory(&self) -> [Arc<Memory>; 2] {
        [self.code.memory.clone(), self.vars.memory.clone()]
    }

    /// The banks as devices of a VM, with their slots from `slot` on.
    pub fn devices(&self, vm: &Arc<dyn Vm>, slot: u32) -> Result<[Flash<Cells>; 2], Error> {
        let device = |contents: &Contents, slot| -> Result<_, Error> {
            let cells = Cells { contents: contents.clone(), vm: vm.clone(), slot };
            cells.map().map_err(|e| Error::Internal(format!("mapping the flash: {e}")))?;
            Ok(Flash::new(cells, contents.writable))
        };
        Ok([device(&self.code, slot)?, device(&self.vars, slot + 1)?])
    }
}

/// Opens and locks the file of the variables; a new one is made where there is none.
fn open_vars(path: &Path) -> Result<File, Error> {
    let fail = |source| Error::File { action: "use the firmware variables", path: path.into(), source };
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
    let kind = file.metadata().map_err(fail)?;
    if !kind.is_file() {
        return Err(fail(io::Error::other("not a regular file")));
    }
    if kind.len() > BANK_SIZE {
        let why = format!("it has {} bytes, the flash bank {BANK_SIZE}", kind.len());
        return Err(fail(io::Error::other(why)));
    }
    match file.try_lock() {
        // File systems without locks exist; a file there is used at the user's risk.
        Ok(()) | Err(TryLockError::Error(_)) => {}
        Err(TryLockError::WouldBlock) => return Err(fail(io::Error::other("another machine uses it"))),
    }
    Ok(file)
}

fn read_vars(memory: &Memory, file: &mut File, path: &Path) -> Result<(), Error> {
    let fail = |source| Error::File { action: "use the firmware variables", path: path.into(), source };
    let mut bytes = Vec::new();
    file.take(BANK_SIZE).read_to_end(&mut bytes).map_err(fail)?;
    memory::write_sparse(memory, &bytes, memory::range(memory).start)
}

/// The array of a bank on a board.
pub struct Cells {
    contents: Contents,
    vm: Arc<dyn Vm>,
    slot: u32,
}

impl Cells {
    fn map(&self) -> Result<(), abi::Errno> {
        let memory = &self.contents.memory;
        self.vm.set_memory(self.slot, memory::range(memory).start, memory.clone(), abi::MEM_READONLY)
    }
}

impl Array for Cells {
    fn load(&self, offset: u64, data: &mut [u8]) {
        // Inside the bank by the trait's contract; should it not be, the guest reads zeros.
        if self.contents.memory.read_slice(data, MemoryRegionAddress(offset)).is_err() {
            data.fill(0);
        }
    }

    fn store(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(file) = self.contents.file.get() {
            file.write_all_at(data, offset).inspect_err(|e| {
                tracing::warn!("firmware variables: {e}");
            })?;
        }
        self.contents.memory.write_slice(data, MemoryRegionAddress(offset)).map_err(io::Error::other)
    }

    fn show(&mut self, array: bool) {
        let done = if array { self.map() } else { self.vm.remove_memory(self.slot) };
        if let Err(e) = done {
            tracing::warn!("flash slot {}: {e}", self.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_from_their_file_and_files_that_cannot_be_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vars");
        let config = |p: &Path| Config { firmware_vars: Some(p.into()), ..Config::default() };
        let why = |p: &Path| Banks::open(&config(p)).err().unwrap().to_string();
        std::fs::write(&path, b"kept").unwrap();
        let banks = Banks::open(&config(&path)).unwrap();
        let mut b = [1; 6];
        banks.vars.memory.read_slice(&mut b, MemoryRegionAddress(0)).unwrap();
        assert_eq!(&b, b"kept\0\0");
        assert!(why(&path).ends_with("another machine uses it"));
        drop(banks);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(BANK_SIZE + 1).unwrap();
        assert!(why(&path).contains("it has 67108865 bytes, the flash bank 67108864"));
        assert!(why(dir.path()).contains("Is a directory"));
        assert!(why(&dir.path().join("no/such")).contains("No such file"));
        let new = dir.path().join("new");
        drop(Banks::open(&config(&new)).unwrap());
        assert_eq!(std::fs::metadata(&new).unwrap().len(), 0);
    }
}
