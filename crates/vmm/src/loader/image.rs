//! The arm64 Image header (Linux, Documentation/arch/arm64/booting.rst §4).

use object::read::pe::PeFile64;
use object::{Object, ObjectSection};

/// The page size that a kernel was built for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageSize {
    /// 4 KiB.
    K4,
    /// 16 KiB.
    K16,
    /// 64 KiB.
    K64,
}

/// What the header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Distance from a 2 MiB boundary.
    pub text_offset: u64,
    /// Memory that the kernel needs from its start, BSS included.
    pub image_size: u64,
    /// The page size, if it says.
    pub page_size: Option<PageSize>,
}

const MAGIC: &[u8] = b"ARM\x64";
const MAGIC_AT: usize = 56;
const HEADER: usize = 64;
/// Kernels before 3.17 leave image_size 0; the document says to assume this offset for them.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;

/// Whether these bytes claim to be an Image.
pub fn is_image(bytes: &[u8]) -> bool {
    bytes.get(MAGIC_AT..MAGIC_AT + 4) == Some(MAGIC)
}

/// Whether these bytes may be the beginning of an Image: "MZ" of its EFI stub, and no more than a piece of the header.
pub fn looks_cut(bytes: &[u8]) -> bool {
    bytes.len() < HEADER && bytes.starts_with(b"MZ")
}

impl Header {
    /// Reads the header; the error completes "The kernel F ...".
    pub fn parse(bytes: &[u8]) -> Result<Header, String> {
        let word = |at: usize| {
            let field = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
            field.map(u64::from_le_bytes).ok_or_else(|| format!("is cut short: {} bytes", bytes.len()))
        };
        let (text_offset, image_size, flags) = (word(8)?, word(16)?, word(24)?);
        word(HEADER - 8)?;
        if flags & 1 != 0 {
            return Err(
                "is big-endian (bit 0 of the Image header's flags); only little-endian kernels run here"
                    .into(),
            );
        }
        let page_size = match flags >> 1 & 3 {
            0 => None,
            1 => Some(PageSize::K4),
            2 => Some(PageSize::K16),
            _ => Some(PageSize::K64),
        };
        if image_size == 0 {
            return Ok(Header { text_offset: OLD_TEXT_OFFSET, image_size, page_size });
        }
        if text_offset >= 1 << 32 || image_size >= 1 << 40 || text_offset & 0xfff != 0 {
            return Err(format!(
                "has a damaged Image header: text_offset 0x{text_offset:x}, image_size 0x{image_size:x}"
            ));
        }
        check_length(bytes)?;
        Ok(Header { text_offset, image_size, page_size })
    }
}

/// Refuses a file that is shorter than it should be. `image_size` includes BSS, so only the PE header of the EFI stub
/// tells; a kernel without one (its first bytes are not "MZ") is taken as it is.
fn check_length(bytes: &[u8]) -> Result<(), String> {
    if !bytes.starts_with(b"MZ") {
        return Ok(());
    }
    let pe = PeFile64::parse(bytes).map_err(|e| {
        format!("is cut short or damaged: {} bytes, and its PE header is no good ({e})", bytes.len())
    })?;
    let end = |(at, len): (u64, u64)| at.saturating_add(len);
    let want = pe.sections().filter_map(|s| s.file_range()).map(end).max().unwrap_or(0);
    if (bytes.len() as u64) < want {
        return Err(format!("is cut short: {} bytes, of {want} that its header announces", bytes.len()));
    }
    Ok(())
}
