//! Where control sockets are, and who may have one.
//!
//! A machine of name N has `N.sock` in [`runtime_dir`], which only its user enters. Whoever binds or removes a socket holds
//! a lock on the directory, so that of two machines of one name one starts, and a socket that a dead process left behind
//! is told from one in use.

use crate::error::Error;
use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_socket, connect, listen, socket_with,
};
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A socket that is listened to. The file goes when this does.
pub struct Bound {
    pub listener: UnixListener,
    pub path: PathBuf,
    /// Device and inode: a file that somebody put in its place stays.
    file: (u64, u64),
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _lock = lock_parent(&self.path);
        if identity(&self.path) == Some(self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The directory of sockets: `$XDG_RUNTIME_DIR/ulna`, or `/tmp/ulna-UID` where that variable is not set.
pub fn runtime_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if Path::new(&dir).is_absolute() => Path::new(&dir).join("ulna"),
        _ => format!("/tmp/ulna-{}", rustix::process::getuid().as_raw()).into(),
    }
}

/// The socket of a machine, by its name or by its path, which has a slash.
pub fn named(machine: &str) -> PathBuf {
    if machine.contains('/') { machine.into() } else { runtime_dir().join(format!("{machine}.sock")) }
}

/// Names and sockets in the directory of sockets, by name; some may be left over from machines that are gone.
pub fn list() -> std::io::Result<Vec<(String, PathBuf)>> {
    let dir = runtime_dir();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(name) = name.to_str().and_then(|n| n.strip_suffix(".sock"))
            && entry.file_type().is_ok_and(|t| t.is_socket())
        {
            found.push((name.to_owned(), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Listens at the socket of this name.
pub fn bind_named(name: &str) -> Result<Bound, Error> {
    let dir = runtime_dir();
    let fail = |why: String| Error::host(format!("use {} for control sockets", dir.display()), why);
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| fail(e.to_string()))?;
    // The fallback stands in a directory that everybody may write to.
    let meta = std::fs::symlink_metadata(&dir).map_err(|e| fail(e.to_string()))?;
    if !meta.is_dir() || meta.uid() != rustix::process::getuid().as_raw() {
        return Err(fail("it belongs to somebody else".into()));
    }
    if meta.mode() & 0o077 != 0 {
        let mode = Mode::from_raw_mode(0o700);
        rustix::fs::chmod(&dir, mode).map_err(|e| fail(e.to_string()))?;
    }
    bind(&dir.join(format!("{name}.sock")))
}

/// Listens at this path.
pub fn bind(path: &Path) -> Result<Bound, Error> {
    let fail = |why: String| Error::host(format!("open the control socket {}", path.display()), why);
    let address = SocketAddrUnix::new(path).map_err(|e| match e {
        Errno::NAMETOOLONG => fail("the path is longer than 107 bytes".into()),
        e => fail(e.to_string()),
    })?;
    let _lock = lock_parent(path).map_err(|e| fail(e.to_string()))?;
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        if in_use(&address).map_err(|e| fail(e.to_string()))? {
            return Err(fail("a machine listens there already".into()));
        }
        std::fs::remove_file(path).map_err(|e| fail(e.to_string()))?;
    }
    let make = || -> rustix::io::Result<OwnedFd> {
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Before bind, so that the file never has other rights (Linux takes the socket's mode).
        fchmod(&fd, Mode::from_raw_mode(0o600))?;
        bind_socket(&fd, &address)?;
        listen(&fd, 64)?;
        Ok(fd)
    };
    let fd = make().map_err(|e| match e {
        Errno::ADDRINUSE => fail("there is a file of that name".into()),
        e => fail(e.to_string()),
    })?;
    let file = identity(path).ok_or_else(|| fail("it vanished".into()))?;
    let listener = UnixListener::from(fd);
    listener.set_nonblocking(true).map_err(|e| fail(e.to_string()))?;
    Ok(Bound { listener, path: path.into(), file })
}

/// Does anybody listen? One whose queue is full does, too.
fn in_use(address: &SocketAddrUnix) -> rustix::io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(!matches!(connect(&fd, address), Err(Errno::CONNREFUSED | Errno::NOENT)))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// Waits for its turn in the directory of `path`; the lock goes with the descriptor.
fn lock_parent(path: &Path) -> std::io::Result<File> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = File::open(parent)?;
    flock(&dir, FlockOperation::LockExclusive)?;
    Ok(dir)
}
