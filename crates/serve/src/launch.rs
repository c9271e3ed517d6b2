//! Starts a program that finds a working `/dev/kvm`: through `qemu-aarch64` where the host is no arm64, and a server for
//! each process that opens it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ulna_kvm_abi::wire::{ALONE_ENV, SOCKET_ENV};

use crate::session::lock;

/// File name of the library that is preloaded.
pub const SHIM: &str = "libulna-shim-aarch64.so";
/// Environment variable with its path.
pub const SHIM_ENV: &str = "ULNA_SHIM";
/// Where Debian's cross packages put arm64 libraries.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";
const QEMU: [&str; 2] = ["qemu-aarch64-static", "qemu-aarch64"];
/// EM_AARCH64, EM_X86_64.
const AARCH64: u16 = 183;
const X86_64: u16 = 62;

/// What is to be started.
#[derive(Clone, Debug, Default)]
pub struct Exec {
    /// Program: a path, or a name to look up.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The library, where it is not in its usual place.
    pub shim: Option<PathBuf>,
    /// `qemu-aarch64`, where it is not found by name.
    pub qemu: Option<PathBuf>,
    /// Where arm64 libraries are.
    pub sysroot: Option<PathBuf>,
    /// Command that serves a connection on its standard input.
    pub server: Vec<OsString>,
}

/// Why a program cannot be started.
#[derive(Debug)]
pub enum Error {
    /// Something to read or make.
    File(&'static str, PathBuf, io::Error),
    /// What else is wrong, in a sentence.
    Wrong(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::File(what, path, e) => write!(f, "cannot {what} {}: {e}", path.display()),
            Error::Wrong(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

fn wrong(text: impl Into<String>) -> Error {
    Error::Wrong(text.into())
}

/// What of an ELF file matters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Elf {
    machine: u16,
    /// The program that loads it; none: it is linked statically.
    loader: Option<PathBuf>,
}

fn inspect(path: &Path) -> Result<Elf, Error> {
    let mut file = File::open(path).map_err(|e| Error::File("open", path.into(), e))?;
    let no_elf = || wrong(format!("{} is not an ELF program", path.display()));
    let mut head = [0; 64];
    file.read_exact(&mut head).map_err(|_| no_elf())?;
    let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    if head[..4] != *b"\x7fELF" {
        return Err(no_elf());
    }
    if head[4] != 2 || head[5] != 1 {
        return Err(wrong(format!("{} is not a 64-bit little-endian program", path.display())));
    }
    if !matches!(half(16), 2 | 3) {
        return Err(wrong(format!("{} is an ELF file, but not a program", path.display())));
    }
    let table = u64::from_le_bytes(head[32..40].try_into().unwrap_or_default());
    let mut loader = None;
    for n in 0..u64::from(half(56)) {
        let mut h = [0; 56];
        let at = table.saturating_add(n * u64::from(half(54)));
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut h)).map_err(|_| no_elf())?;
        // PT_INTERP.
        if h[..4] != [3, 0, 0, 0] {
            continue;
        }
        let word = |at: usize| u64::from_le_bytes(h[at..at + 8].try_into().unwrap_or_default());
        let mut name = vec![0; word(32).min(4096) as usize];
        file.seek(SeekFrom::Start(word(8))).and_then(|_| file.read_exact(&mut name)).map_err(|_| no_elf())?;
        name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
        loader = Some(PathBuf::from(OsString::from_vec(name)));
    }
    Ok(Elf { machine: half(18), loader })
}

/// A program by path or by name.
fn look_up(name: &OsStr) -> Result<PathBuf, Error> {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(name);
    if name.as_bytes().contains(&b'/') {
        return Ok(path.into());
    }
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&dirs).map(|d| d.join(path)).find(|p| p.is_file());
    found.ok_or_else(|| wrong(format!("there is no program {} in PATH", path.display())))
}

/// The library: as asked for, by environment, beside this program, or where a build leaves it.
fn find_shim(asked: Option<&Path>) -> Result<PathBuf, Error> {
    let given = asked.map(PathBuf::from).or_else(|| std::env::var_os(SHIM_ENV).map(PathBuf::from));
    if let Some(path) = given {
        return path.canonicalize().map_err(|e| Error::File("find the library", path, e));
    }
    let exe = std::env::current_exe().unwrap_or_default();
    let dir = exe.parent().unwrap_or(Path::new("."));
    let places = [dir.join(SHIM), dir.join("../lib/ulna").join(SHIM), dir.join("../shim").join(SHIM)];
    places.iter().find_map(|p| p.canonicalize().ok()).ok_or_else(|| {
        wrong(format!(
            "the library {SHIM} is not beside {} (`cargo xtask shim` builds it; --shim or {SHIM_ENV} name another place)",
            exe.display()
        ))
    })
}

/// The command that runs the program with the library.
fn command(e: &Exec) -> Result<Command, Error> {
    let program = look_up(&e.program)?;
    let elf = inspect(&program)?;
    let shim = find_shim(e.shim.as_deref())?;
    let library = inspect_library(&shim)?;
    if elf.machine != library {
        let of = |m: u16| match m {
            AARCH64 => "arm64".to_owned(),
            X86_64 => "x86-64".to_owned(),
            m => format!("machine {m}"),
        };
        return Err(wrong(format!(
            "{} is a program for {}, the library {} for {}",
            program.display(),
            of(elf.machine),
            shim.display(),
            of(library)
        )));
    }
    let Some(loader) = elf.loader else {
        return Err(wrong(format!(
            "{} is linked statically: /dev/kvm reaches only programs that load libc",
            program.display()
        )));
    };
    let own = if std::env::consts::ARCH == "x86_64" { X86_64 } else { AARCH64 };
    if elf.machine == own {
        let mut c = Command::new(&program);
        c.args(&e.args).env("LD_PRELOAD", &shim);
        return Ok(c);
    }
    if elf.machine != AARCH64 {
        return Err(wrong(format!("{} is neither for arm64 nor for this host", program.display())));
    }
    let qemu = match &e.qemu {
        Some(path) => look_up(path.as_os_str())?,
        None => QEMU.iter().find_map(|q| look_up(OsStr::new(q)).ok()).ok_or_else(|| {
            wrong("an arm64 program needs qemu-aarch64, which is not in PATH (Debian: qemu-user-static; --qemu names another place)")
        })?,
    };
    let mut c = Command::new(qemu);
    let below = |root: &Path| root.join(loader.strip_prefix("/").unwrap_or(&loader)).exists();
    if let Some(root) = &e.sysroot {
        if !below(root) {
            return Err(wrong(format!("there is no loader {} below {}", loader.display(), root.display())));
        }
        c.arg("-L").arg(root);
    } else if loader.exists() {
        // arm64 libraries are installed beside this host's own; a loader from elsewhere would mix two libcs.
    } else if below(Path::new(SYSROOT)) {
        c.arg("-L").arg(SYSROOT);
    } else {
        return Err(wrong(format!(
            "the loader {} is neither here nor below {SYSROOT} (Debian: libc6-arm64-cross; --sysroot names another place)",
            loader.display()
        )));
    }
    let mut preload = OsString::from("LD_PRELOAD=");
    preload.push(&shim);
    c.env(ALONE_ENV, "1").arg("-E").arg(preload).arg(program).args(&e.args);
    Ok(c)
}

/// Which machine a library is for.
fn inspect_library(path: &Path) -> Result<u16, Error> {
    inspect(path).map(|e| e.machine)
}

/// A directory that only this user reaches, gone at the end.
struct Private(PathBuf);

impl Private {
    fn new() -> Result<Private, Error> {
        let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = base.join(format!("ulna-exec-{}", std::process::id()));
        let make = || std::fs::DirBuilder::new().mode(0o700).create(&path);
        let stale = |e: io::Error| {
            // Of a process that had this number before.
            if e.kind() != io::ErrorKind::AlreadyExists {
                return Err(e);
            }
            std::fs::remove_file(path.join("kvm"))?;
            std::fs::remove_dir(&path)?;
            make()
        };
        make().or_else(stale).map_err(|e| Error::File("make the directory", path.clone(), e))?;
        Ok(Private(path))
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0.join("kvm"));
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Starts a server for each client that connects.
fn broker(listener: &UnixListener, server: &[OsString], servers: &Mutex<Vec<Child>>) {
    let Some((program, args)) = server.split_first() else { return };
    loop {
        let Ok((client, _)) = listener.accept() else { return };
        let client: OwnedFd = client.into();
        let spawned = Command::new(program)
            .args(args)
            .stdin(Stdio::from(client))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn();
        let mut all = lock(servers);
        all.retain_mut(|c| matches!(c.try_wait(), Ok(None)));
        match spawned {
            Ok(c) => all.push(c),
            // The client gets EIO, as the connection is closed.
            Err(e) => eprintln!("ulna: cannot start {}: {e}", program.to_string_lossy()),
        }
    }
}

/// Runs the program to its end: its exit code, or 128 and the signal's number.
pub fn exec(e: &Exec) -> Result<u8, Error> {
    let mut command = command(e)?;
    let dir = Private::new()?;
    let socket = dir.0.join("kvm");
    let listener = UnixListener::bind(&socket).map_err(|e| Error::File("bind", socket.clone(), e))?;
    let servers = Arc::new(Mutex::new(Vec::new()));
    let (theirs, server) = (servers.clone(), e.server.clone());
    let thread = std::thread::Builder::new().name("broker".into());
    let spawned = thread.spawn(move || broker(&listener, &server, &theirs));
    spawned.map_err(|e| wrong(format!("cannot start a thread: {e}")))?;
    let mut child = command
        .env(SOCKET_ENV, &socket)
        .spawn()
        .map_err(|e| Error::File("start", command.get_program().into(), e))?;
    let status = child.wait().map_err(|e| wrong(format!("lost the program: {e}")))?;
    drop(dir);
    // Servers end with their clients; what they trace is to be complete.
    let patience = Instant::now() + Duration::from_secs(2);
    while Instant::now() < patience {
        let mut all = lock(&servers);
        all.retain_mut(|c| matches!(c.try_wait(), Ok(None)));
        if all.is_empty() {
            break;
        }
        drop(all);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(status.code().map_or_else(|| 128 + status.signal().unwrap_or(0) as u8, |c| c as u8))
}
