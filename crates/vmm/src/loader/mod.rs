//! Puts a kernel and its initrd into guest RAM.
//!
//! Formats: the arm64 `Image` (Linux, Documentation/arch/arm64/booting.rst), the same compressed by gzip, AArch64 ELF
//! executables by their physical addresses, and flat programs. Nothing in a file is trusted: every offset is checked.

mod elf;
mod image;
mod place;

pub use image::PageSize;
pub use place::{FDT_ROOM, Places};

use crate::config::Kernel;
use crate::layout;
use crate::memory::{Memory, range, write, write_sparse};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a file cannot be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Not readable.
    #[error("Cannot read the {what} {path}: {source}")]
    Read {
        /// "kernel", "initrd", "firmware".
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing in it.
    #[error("The {what} {path} is empty")]
    Empty {
        /// "kernel", "initrd", "firmware".
        what: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// The format is unknown or broken.
    #[error("The kernel {path} {what}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong, as the rest of the sentence.
        what: String,
    },
    /// There is not enough room.
    #[error("The {what} {path} does not fit: {why}")]
    Room {
        /// "kernel", "initrd", "firmware".
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is where.
        why: String,
    },
}

/// A kernel in guest memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// Where the first vCPU starts.
    pub entry: u64,
    /// Memory that the kernel claims for itself.
    pub kernel: Range<u64>,
    /// The page size that the kernel was built for, if it says.
    pub page_size: Option<PageSize>,
}

/// How a gzip file starts (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Reads a whole file, but never more than `limit` bytes and one.
fn read_file(what: &'static str, path: &Path, limit: u64) -> Result<Vec<u8>, LoadError> {
    let fail = |source| LoadError::Read { what, path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.is_dir() {
        return Err(fail(io::ErrorKind::IsADirectory.into()));
    }
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.is_empty() {
        return Err(LoadError::Empty { what, path: path.to_owned() });
    }
    if bytes.len() as u64 > limit {
        let why = format!("there is room for {} KiB", limit >> 10);
        return Err(LoadError::Room { what, path: path.to_owned(), why });
    }
    Ok(bytes)
}

/// Loads the firmware into flash bank 0.
pub fn load_firmware(flash: &Memory, path: &Path) -> Result<(), crate::Error> {
    let room = range(flash);
    let bytes = read_file("firmware", path, room.end - room.start)?;
    write_sparse(flash, &bytes, room.start)
}

/// A kernel and its initrd as firmware wants them: the files' bytes, unpacked.
#[derive(Clone, Default, Debug)]
pub struct Files {
    /// The kernel, if there is one.
    pub kernel: Option<Vec<u8>>,
    /// The initrd, if there is one.
    pub initrd: Option<Vec<u8>>,
}

/// Reads what firmware is to start. It judges the format itself.
pub fn read_for_firmware(
    ram: &Memory,
    kernel: &Kernel,
    initrd: Option<&Path>,
) -> Result<Files, crate::Error> {
    let size = range(ram).end - range(ram).start;
    let kernel = match kernel {
        Kernel::Firmware => None,
        Kernel::BuiltIn(bytes) => Some(bytes.clone()),
        Kernel::Raw(path) => Some(read_file("kernel", path, size)?),
        Kernel::Auto(path) => {
            let bytes = read_file("kernel", path, size)?;
            Some(if bytes.starts_with(&GZIP) { gunzip(ram, path, &bytes)? } else { bytes })
        }
    };
    let initrd = initrd.map(|path| read_file("initrd", path, size)).transpose()?;
    Ok(Files { kernel, initrd })
}

/// Loads the kernel; `None` when the machine starts in the flash.
pub fn load_kernel(ram: &Memory, kernel: &Kernel) -> Result<Option<Loaded>, crate::Error> {
    let room = range(ram);
    let size = room.end - room.start;
    match kernel {
        Kernel::Firmware => Ok(None),
        Kernel::BuiltIn(bytes) => load_raw(ram, Path::new("(built-in)"), bytes).map(Some),
        Kernel::Raw(path) => load_raw(ram, path, &read_file("kernel", path, size)?).map(Some),
        Kernel::Auto(path) => {
            // An ELF file may carry symbols beyond what is loaded: leave it more room than RAM has.
            let bytes = read_file("kernel", path, size.max(1 << 30))?;
            load_auto(ram, path, bytes).map(Some)
        }
    }
}

fn load_auto(ram: &Memory, path: &Path, bytes: Vec<u8>) -> Result<Loaded, crate::Error> {
    let format = |what: String| LoadError::Format { path: path.to_owned(), what };
    let bytes = if bytes.starts_with(&GZIP) { gunzip(ram, path, &bytes)? } else { bytes };
    if image::is_image(&bytes) {
        let header = image::Header::parse(&bytes).map_err(format)?;
        let start = range(ram).start + header.text_offset;
        let kernel = start..start.saturating_add(header.image_size.max(bytes.len() as u64));
        check_room(ram, path, &kernel)?;
        write(ram, &bytes, start)?;
        return Ok(Loaded { entry: start, kernel, page_size: header.page_size });
    }
    if bytes.starts_with(b"\x7fELF") {
        let elf = elf::Elf::parse(&bytes).map_err(format)?;
        check_room(ram, path, &elf.span())?;
        for segment in &elf.segments {
            write(ram, segment.bytes, segment.at)?;
        }
        return Ok(Loaded { entry: elf.entry, kernel: elf.span(), page_size: None });
    }
    let what = if image::looks_cut(&bytes) {
        format!("is cut short: {} bytes are less than an Image header", bytes.len())
    } else {
        "is not an arm64 kernel: neither an Image, nor gzip, nor ELF (for a flat program say --kernel-format raw)".into()
    };
    Err(format(what).into())
}

fn load_raw(ram: &Memory, path: &Path, bytes: &[u8]) -> Result<Loaded, crate::Error> {
    let start = range(ram).start + layout::RAW_OFFSET;
    let kernel = start..start + bytes.len() as u64;
    check_room(ram, path, &kernel)?;
    write(ram, bytes, start)?;
    Ok(Loaded { entry: start, kernel, page_size: None })
}

fn gunzip(ram: &Memory, path: &Path, bytes: &[u8]) -> Result<Vec<u8>, LoadError> {
    let room = range(ram);
    let limit = (room.end - room.start).max(1 << 28);
    let mut out = Vec::new();
    match MultiGzDecoder::new(bytes).take(limit + 1).read_to_end(&mut out) {
        Ok(_) if out.len() as u64 > limit => {
            let why = format!("it unpacks to more than {} MiB", limit >> 20);
            Err(LoadError::Room { what: "kernel", path: path.to_owned(), why })
        }
        Ok(_) => Ok(out),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(LoadError::Format {
            path: path.to_owned(),
            what: format!("is cut short: its gzip stream ends after {} bytes", bytes.len()),
        }),
        Err(e) => {
            Err(LoadError::Format { path: path.to_owned(), what: format!("has a damaged gzip stream: {e}") })
        }
    }
}

fn check_room(ram: &Memory, path: &Path, kernel: &Range<u64>) -> Result<(), LoadError> {
    let room = range(ram);
    if kernel.start >= room.start && kernel.end <= room.end && kernel.start <= kernel.end {
        return Ok(());
    }
    let why = format!(
        "it needs 0x{:x} to 0x{:x}, RAM is 0x{:x} to 0x{:x} (--memory {}M)",
        kernel.start,
        kernel.end,
        room.start,
        room.end,
        (room.end - room.start) >> 20
    );
    Err(LoadError::Room { what: "kernel", path: path.to_owned(), why })
}

/// Decides where device tree and initrd go, and loads the initrd.
pub fn load_initrd(ram: &Memory, kernel: &Range<u64>, initrd: Option<&Path>) -> Result<Places, crate::Error> {
    let room = range(ram);
    let bytes = match initrd {
        Some(path) => Some((path, read_file("initrd", path, room.end - room.start)?)),
        None => None,
    };
    let len = bytes.as_ref().map_or(0, |(_, b)| b.len() as u64);
    let Some(places) = Places::choose(&room, kernel, len) else {
        let (what, path) = initrd.map_or(("device tree", Path::new("of this machine")), |p| ("initrd", p));
        let why = format!(
            "it needs {} KiB, and the kernel ends at 0x{:x} of RAM up to 0x{:x} (--memory {}M)",
            len.max(FDT_ROOM) >> 10,
            kernel.end,
            room.end,
            (room.end - room.start) >> 20
        );
        return Err(LoadError::Room { what, path: path.to_owned(), why }.into());
    };
    if let (Some((_, bytes)), Some(at)) = (&bytes, &places.initrd) {
        write(ram, bytes, at.start)?;
    }
    Ok(places)
}

#[cfg(test)]
mod tests;
