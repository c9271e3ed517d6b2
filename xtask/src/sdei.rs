//! `cargo xtask sdei`: Linux with a client of its SDEI driver. The client is a module of ours (`guests/linux/sdei`), built
//! against Debian's headers of the guest's kernel; it makes CPUs spin with interrupts off and tells where each was when an
//! event came, signalled by another CPU or raised by the host.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::linux::{self, Guest};
use crate::services;

/// Options of `sdei`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory with Image and initramfs.cpio.
    #[arg(long)]
    guest: PathBuf,
    /// Directory to which the packages with the kernel's headers were unpacked [default: they are fetched by apt]
    #[arg(long)]
    headers: Option<PathBuf>,
    /// The program under test.
    #[arg(long, default_value = "target/release/ulna")]
    ulna: PathBuf,
    /// What executes the guest's instructions.
    #[arg(long, default_value = "interp")]
    engine: crate::EngineArg,
    /// vCPUs.
    #[arg(long, default_value_t = 4)]
    cpus: u32,
    /// How often each CPU hangs.
    #[arg(long, default_value_t = 10)]
    times: u32,
    /// Names of the machines begin with this.
    #[arg(long, default_value = "xtask-sdei")]
    name: String,
}

/// Builds the client and tries everything.
pub fn run(a: &Args) -> Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/sdei");
    std::fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let version = kernel_version(&a.guest.join("Image"))?;
    let headers = match &a.headers {
        Some(h) => h.canonicalize()?,
        None => fetch_headers(&dir, &version)?,
    };
    let module = build_module(&dir, &headers, &version)?;
    let guest = guest_with(&dir, &a.guest, &module)?;
    let mut l = linux::Args::new(guest, a.ulna.clone());
    l.engine = a.engine;
    let story = |name: &str, f: &dyn Fn() -> Result<()>| -> Result<()> {
        let t = Instant::now();
        f().with_context(|| name.to_string())?;
        println!("sdei: {name}: ok ({:.1} s)", t.elapsed().as_secs_f64());
        Ok(())
    };
    story("the versions that Linux finds", &|| versions(&l))?;
    story("a client", &|| e1_a_client_takes_events(a, &l))
}

/// What `uname -r` says, from the kernel's banner.
fn kernel_version(image: &Path) -> Result<String> {
    const BANNER: &[u8] = b"Linux version ";
    let bytes = std::fs::read(image).with_context(|| image.display().to_string())?;
    let mut at = bytes.windows(BANNER.len()).enumerate().filter(|(_, w)| *w == BANNER).map(|(n, _)| n);
    let version = at.find_map(|n| {
        let rest = &bytes[n + BANNER.len()..];
        let end = rest.iter().position(|b| *b == b' ')?;
        let text = std::str::from_utf8(&rest[..end]).ok()?;
        text.starts_with(|c: char| c.is_ascii_digit()).then(|| text.to_owned())
    });
    version.context("the kernel does not say its version")
}

/// The version without the flavour: what Debian's common packages are called.
fn base(version: &str) -> &str {
    version.trim_end_matches("-cloud-arm64").trim_end_matches("-arm64")
}

/// Debian's headers of this kernel, and its build tools for this machine.
fn fetch_headers(dir: &Path, version: &str) -> Result<PathBuf> {
    let root = dir.join(format!("headers-{version}"));
    if root.join("usr/src").join(format!("linux-headers-{version}")).exists() {
        return Ok(root);
    }
    let packages = dir.join("packages");
    let _ = std::fs::remove_dir_all(&packages);
    std::fs::create_dir_all(&packages)?;
    let base = base(version);
    let names = [
        format!("linux-headers-{version}:arm64"),
        format!("linux-headers-{base}-common:all"),
        format!("linux-kbuild-{base}"),
    ];
    tool(Command::new("apt-get").args(["-q", "download"]).args(&names).current_dir(&packages))?;
    for file in std::fs::read_dir(&packages)? {
        tool(Command::new("dpkg").arg("-x").arg(file?.path()).arg(&root))?;
    }
    Ok(root)
}

fn build_module(dir: &Path, headers: &Path, version: &str) -> Result<PathBuf> {
    let src = headers.join("usr/src");
    let tree = src.join(format!("linux-headers-{version}"));
    let common = src.join(format!("linux-headers-{}-common", base(version)));
    // The package's own names a place that is not where it was unpacked.
    std::fs::write(tree.join("Makefile"), format!("include {}/Makefile\n", common.display()))?;
    let build = dir.join("module");
    let _ = std::fs::remove_dir_all(&build);
    std::fs::create_dir_all(&build)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/linux/sdei");
    for file in ["Kbuild", "ulna_sdei.c"] {
        std::fs::copy(source.join(file), build.join(file)).with_context(|| file.to_owned())?;
    }
    let mut make = Command::new("make");
    make.arg("-C").arg(&tree).arg(format!("M={}", build.display()));
    // BTF would need pahole.
    make.args(["ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-", "CC=aarch64-linux-gnu-gcc"]);
    tool(make.args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]))?;
    let module = build.join("ulna_sdei.ko");
    tool(Command::new("aarch64-linux-gnu-strip").arg("--strip-debug").arg(&module))?;
    Ok(module)
}

/// A guest's directory like the given one whose initial RAM disk holds the module, too.
fn guest_with(dir: &Path, guest: &Path, module: &Path) -> Result<PathBuf> {
    let to = dir.join("guest");
    std::fs::create_dir_all(&to)?;
    let _ = std::fs::remove_file(to.join("Image"));
    std::os::unix::fs::symlink(guest.join("Image").canonicalize()?, to.join("Image"))?;
    let mut initrd = std::fs::read(guest.join("initramfs.cpio"))?;
    // Archives one behind the other are all unpacked.
    initrd.resize(initrd.len().next_multiple_of(512), 0);
    entry(&mut initrd, "ulna_sdei.ko", 0o100_644, &std::fs::read(module)?);
    entry(&mut initrd, "TRAILER!!!", 0, &[]);
    std::fs::write(to.join("initramfs.cpio"), initrd)?;
    Ok(to)
}

/// A file of a `newc` archive (Linux's `Documentation/driver-api/early-userspace/buffer-format.rst`).
pub fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let begin = archive.len();
    let fields = [1, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    archive.extend_from_slice(b"070701");
    for f in fields {
        archive.extend_from_slice(format!("{f:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(begin + (archive.len() - begin).next_multiple_of(4), 0);
    archive.extend_from_slice(data);
    archive.resize(begin + (archive.len() - begin).next_multiple_of(4), 0);
}

fn tool(command: &mut Command) -> Result<()> {
    let out = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{command:?}: {}\n{text}", out.status);
    Ok(())
}

/// What Linux's driver says of each choice.
fn versions(l: &linux::Args) -> Result<()> {
    for (services, says) in [("sdei=1.0", Some("SDEIv1.0")), ("sdei=off", None)] {
        let mut g = Guest::start(l, "shell", &["--memory", "512M", "--services", services])?;
        g.wait("# ", 120)?;
        let log = g.shell("dmesg | grep -i sdei")?;
        match says {
            Some(v) => {
                let line = format!("sdei: {v} (0x564bcaa9) detected in firmware.");
                ensure!(log.contains(&line) && !log.contains("broken"), "{services}: {log}");
            }
            None => ensure!(!log.contains("detected"), "{services}: {log}"),
        }
        linux::power_off(&mut g)?;
    }
    Ok(())
}

const SPIN: &str = "ulna_spin_with_interrupts_off";

/// Has each CPU hang, `times` times each; the handler's own words must name where.
fn hang(g: &mut Guest, how: &str, event: &str, cpus: u32, times: u32, on: &AtomicU32) -> Result<u32> {
    let mut named = 0;
    for cpu in 0..cpus {
        on.store(cpu, Ordering::SeqCst);
        let out = g.shell(&format!(
            "for i in $(busybox seq {times}); do echo {how} {cpu} >/proc/ulna_sdei; cat /proc/ulna_sdei; done"
        ))?;
        // Events that came while the CPU did not spin are told, too.
        let right = format!("event {event} cpu {cpu} at {SPIN} [ulna_sdei] daif 3c0 el 1 x15 ok arg ok");
        let hits = out.lines().filter(|l| l.trim() == right).count();
        ensure!(hits == times as usize, "{how} {cpu}: {hits} of {times} dumps are {right:?}:\n{out}");
        named += times;
    }
    on.store(u32::MAX, Ordering::SeqCst);
    Ok(named)
}

fn e1_a_client_takes_events(a: &Args, l: &linux::Args) -> Result<()> {
    let name = format!("{}-{}", a.name, std::process::id());
    let cpus = a.cpus.to_string();
    let more = ["--cpus", &cpus, "--memory", "512M", "--services", "sdei=1.1,suspend=on", "--name", &name];
    let mut g = Guest::start(l, "shell", &more)?;
    g.wait("# ", 120)?;
    let log = g.shell("insmod /ulna_sdei.ko; dmesg | grep -i sdei")?;
    for line in ["sdei: SDEIv1.1 (0x564bcaa9) detected in firmware.", "ulna-sdei: ready"] {
        ensure!(log.contains(line) && !log.contains("broken"), "no {line:?} in\n{log}");
    }
    // The CPU that is to be hit; nobody: u32::MAX.
    let (target, over) = (AtomicU32::new(u32::MAX), AtomicBool::new(false));
    let (raised, failed) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(30));
                let cpu = target.load(Ordering::SeqCst);
                if cpu != u32::MAX {
                    let args = ["ctl", &name, "nmi", "--cpu", &cpu.to_string()].map(str::to_owned);
                    let done = Command::new(&a.ulna).args(args).status().is_ok_and(|s| s.success());
                    failed.fetch_or(!done, Ordering::SeqCst);
                    raised.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let mut stories = || -> Result<()> {
            let nobody = AtomicU32::new(u32::MAX);
            let n = hang(&mut g, "signal", "0", a.cpus, a.times, &nobody)?;
            println!("sdei:   event 0, signalled: {n} dumps name {SPIN}");
            let n = hang(&mut g, "nmi", "40756c00", a.cpus, a.times, &target)?;
            ensure!(!failed.load(Ordering::SeqCst), "`ulna ctl {name} nmi` failed");
            let raised = raised.load(Ordering::SeqCst);
            println!("sdei:   the host's event: {n} dumps name {SPIN}, of {raised} NMIs");
            // CPUs that were off take events again.
            for cpu in 1..a.cpus {
                let online = format!("/sys/devices/system/cpu/cpu{cpu}/online");
                let state =
                    g.shell(&format!("echo 0 >{online}; cat {online}; echo 1 >{online}; cat {online}"))?;
                ensure!(state.split_whitespace().collect::<Vec<_>>() == ["0", "1"], "CPU {cpu}: {state}");
            }
            hang(&mut g, "signal", "0", a.cpus, 1, &nobody)?;
            hang(&mut g, "nmi", "40756c00", a.cpus, 1, &target)?;
            println!("sdei:   after hotplug of {} CPUs: again on each", a.cpus - 1);
            // The first CPU's events are not registered anew: they outlive its sleep.
            services::fall_asleep(&mut g, l, &name)?;
            linux::told(l, &[&name, "resume"])?;
            g.wait("awake", 30)?;
            hang(&mut g, "signal", "0", a.cpus, 1, &nobody)?;
            hang(&mut g, "nmi", "40756c00", a.cpus, 1, &target)?;
            println!("sdei:   after the system slept: again on each CPU");
            let log = g.shell("busybox rmmod ulna_sdei; dmesg | tail -n 40")?;
            ensure!(log.contains("ulna-sdei: gone"), "the client does not go:\n{log}");
            ensure!(!log.contains("BUG") && !log.contains("WARNING"), "Linux complains:\n{log}");
            Ok(())
        };
        let done = stories();
        over.store(true, Ordering::SeqCst);
        done
    })?;
    linux::power_off(&mut g)
}
