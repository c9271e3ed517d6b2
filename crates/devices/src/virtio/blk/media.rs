//! What a block device stores its sectors on.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Bytes of a sector, whatever the medium says.
pub const SECTOR: u64 = 512;

/// A store of bytes. Offsets and lengths are multiples of [`SECTOR`] and inside [`Media::len`].
pub trait Media: Send + 'static {
    /// Size in bytes.
    fn len(&self) -> u64;
    /// Whether it has no sectors at all.
    fn is_empty(&self) -> bool {
        self.len() < SECTOR
    }
    /// Whether writing is forbidden.
    fn read_only(&self) -> bool;
    /// Fills `buf` from `offset`.
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Stores `buf` at `offset`.
    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Returns when everything written is on stable storage.
    fn flush(&mut self) -> io::Result<()>;
    /// Others may use the medium (`true`), or nobody else.
    fn lend(&mut self, _away: bool) -> io::Result<()> {
        Ok(())
    }
    /// The range holds nothing of worth any more.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()>;
    /// The range reads as zero from now on; `may_unmap` allows to give its space back.
    fn write_zeroes(&mut self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()>;
}

/// An image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such file.
    #[error("disk image {}: no such file", .0.display())]
    Missing(PathBuf),
    /// Permissions.
    #[error("disk image {}: permission denied{}", .path.display(), if *.read_only { "" } else { " (for writing; add `readonly` if reading is enough)" })]
    Denied {
        /// The image.
        path: PathBuf,
        /// Whether only reading was asked for.
        read_only: bool,
    },
    /// A directory, a pipe, a terminal.
    #[error("disk image {}: neither a regular file nor a block device", .0.display())]
    NotAnImage(PathBuf),
    /// Somebody else has it.
    #[error("disk image {}: locked, another process uses it{}", .path.display(), if *.read_only { " for writing" } else { "" })]
    Locked {
        /// The image.
        path: PathBuf,
        /// Whether only reading was asked for.
        read_only: bool,
    },
    /// Nothing in it.
    #[error("disk image {}: empty", .0.display())]
    Empty(PathBuf),
    /// Not whole sectors.
    #[error("disk image {}: size {len} is not a multiple of 512 bytes", .path.display())]
    OddSize {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        len: u64,
    },
    /// Anything else.
    #[error("disk image {}: {source}", .path.display())]
    Io {
        /// The image.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
}

/// A raw image in a regular file, or a block device; locked against other users of the same discipline (flock).
#[derive(Debug)]
pub struct FileMedia {
    file: File,
    len: u64,
    read_only: bool,
}

impl FileMedia {
    /// Opens and locks an image: exclusively for writing, shared for reading.
    pub fn open(path: &Path, read_only: bool) -> Result<FileMedia, OpenError> {
        let media = FileMedia::open_lent(path, read_only)?;
        media.lock().map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked { path: path.into(), read_only },
            _ => OpenError::Io { path: path.into(), source },
        })?;
        Ok(media)
    }

    fn lock(&self) -> io::Result<()> {
        let locked = if self.read_only { self.file.try_lock_shared() } else { self.file.try_lock() };
        match locked {
            Ok(()) => Ok(()),
            // File systems without locks exist; an image there is used at the user's risk.
            Err(TryLockError::Error(e))
                if matches!(Errno::from_io_error(&e), Some(Errno::NOTSUP | Errno::NOLCK)) =>
            {
                Ok(())
            }
            Err(TryLockError::Error(e)) => Err(e),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Opens an image that another process may still use; [`Media::lend`] locks it.
    pub fn open_lent(path: &Path, read_only: bool) -> Result<FileMedia, OpenError> {
        let fail = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => OpenError::Missing(path.into()),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                OpenError::Denied { path: path.into(), read_only }
            }
            _ => OpenError::Io { path: path.into(), source },
        };
        // Look before opening: opening a pipe would wait for its other end.
        let kind = std::fs::metadata(path).map_err(fail)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::NotAnImage(path.into()));
        }
        let file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(fail)?;
        // The end of a block device is found by seeking; metadata says 0.
        let len = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(|e| fail(e.into()))?;
        match len {
            0 => Err(OpenError::Empty(path.into())),
            len if len % SECTOR != 0 => Err(OpenError::OddSize { path: path.into(), len }),
            len => Ok(FileMedia { file, len, read_only }),
        }
    }

    fn write_zero_bytes(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let zeros = vec![0u8; len.min(1 << 18) as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(zeros.len() as u64);
            self.file.write_all_at(&zeros[..n as usize], offset + done)?;
            done += n;
        }
        Ok(())
    }
}

/// The file system or device cannot do this kind of fallocate.
fn unsupported(e: Errno) -> bool {
    matches!(e, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV)
}

impl Media for FileMedia {
    fn lend(&mut self, away: bool) -> io::Result<()> {
        if away {
            // Network file systems write back what they hold when a lock goes; on one host there is one cache.
            return self.file.unlock();
        }
        self.lock().map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(e.kind(), "another process uses the disk image"),
            _ => e,
        })
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
            Err(e) if !unsupported(e) => Err(e.into()),
            _ => Ok(()), // a discard is a hint
        }
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        let first = if may_unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        match fallocate(&self.file, first | FallocateFlags::KEEP_SIZE, offset, len) {
            Err(e) if unsupported(e) => self.write_zero_bytes(offset, len),
            done => Ok(done?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn image(len: u64) -> tempfile::NamedTempFile {
        let f = tempfile::NamedTempFile::new().unwrap();
        f.as_file().set_len(len).unwrap();
        f
    }

    #[test]
    fn each_unusable_image_has_its_error() {
        let dir = tempfile::tempdir().unwrap();
        let open = |p: &Path| FileMedia::open(p, true).unwrap_err();
        assert!(matches!(open(&dir.path().join("absent")), OpenError::Missing(_)));
        assert!(matches!(open(dir.path()), OpenError::NotAnImage(_)));
        assert!(matches!(open(Path::new("/dev/null")), OpenError::NotAnImage(_)));
        assert!(matches!(open(image(0).path()), OpenError::Empty(_)));
        let odd = image(1000);
        let e = open(odd.path());
        assert_eq!(
            e.to_string(),
            format!("disk image {}: size 1000 is not a multiple of 512 bytes", odd.path().display())
        );
    }

    #[test]
    fn one_writer_or_many_readers() {
        let f = image(4096);
        {
            let _writer = FileMedia::open(f.path(), false).unwrap();
            let e = FileMedia::open(f.path(), true).unwrap_err();
            assert!(matches!(e, OpenError::Locked { .. }), "{e}");
            assert!(e.to_string().contains("locked"));
        }
        let _a = FileMedia::open(f.path(), true).unwrap();
        let _b = FileMedia::open(f.path(), true).unwrap();
        assert!(matches!(FileMedia::open(f.path(), false), Err(OpenError::Locked { .. })));
    }

    #[test]
    fn a_shrunken_image_is_an_error_not_zeros() {
        let f = image(8192);
        let mut m = FileMedia::open(f.path(), false).unwrap();
        f.as_file().set_len(4096).unwrap();
        let e = m.read_at(&mut [0; 512], 4096).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn zeroed_and_discarded_ranges() {
        let f = image(1 << 20);
        let mut m = FileMedia::open(f.path(), false).unwrap();
        m.write_at(&vec![0xaa; 1 << 20], 0).unwrap();
        m.write_zeroes(4096, 8192, false).unwrap();
        m.write_zeroes(65536, 65536, true).unwrap();
        m.write_zero_bytes(512 * 1024, 300 * 1024).unwrap();
        m.discard(256 * 1024, 64 * 1024).unwrap();
        m.flush().unwrap();
        let mut all = vec![0; 1 << 20];
        m.read_at(&mut all, 0).unwrap();
        assert!(all[..4096].iter().all(|&b| b == 0xaa));
        assert!(all[4096..12288].iter().all(|&b| b == 0));
        assert!(all[12288..65536].iter().all(|&b| b == 0xaa));
        assert!(all[65536..131_072].iter().all(|&b| b == 0));
        assert!(all[512 * 1024..812 * 1024].iter().all(|&b| b == 0));
        assert!(all[812 * 1024..].iter().all(|&b| b == 0xaa));
        assert_eq!(f.as_file().metadata().unwrap().size(), 1 << 20, "the size stays");
    }
}
