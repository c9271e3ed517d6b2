//! `cargo xtask debian`: a Debian arm64 root file system, made by mmdebstrap, on an ext4 disk. It boots with systemd to its
//! login prompt; somebody logs in on the console and has the guest's own gcc compile a C program, which runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::linux::Guest;
use crate::sdei::entry;

/// Options of `debian`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the root file system; it is made when it is not there.
    #[arg(long, value_name = "DIR", default_value = "target/debian")]
    out: PathBuf,
    /// Directory with Image and initramfs.cpio, whose modules are loaded before the disk is mounted.
    #[arg(long)]
    guest: PathBuf,
    /// Boots it and uses it.
    #[arg(long)]
    run: bool,
    /// The program under test.
    #[arg(long, default_value = "target/release/ulna")]
    ulna: PathBuf,
    /// What executes the guest's instructions.
    #[arg(long, default_value = "jit")]
    engine: crate::EngineArg,
    /// vCPUs.
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Times as long as usual may be waited.
    #[arg(long, default_value_t = 1)]
    patience: u64,
    /// Debian's release.
    #[arg(long, default_value = "bookworm")]
    suite: String,
    /// More options for `ulna run`.
    #[arg(last = true)]
    more: Vec<String>,
}

/// Beside what every Debian has.
const PACKAGES: &str = "systemd,systemd-sysv,udev,login,dbus,gcc,libc6-dev,iproute2,procps";
const PASSWORD: &str = "ulna";
const DISK_MIB: u32 = 1536;

/// Loads what the disk needs, and goes on to the system on it.
const INIT: &str = "#!/bin/sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
for m in virtio_mmio virtio_blk failover net_failover virtio_net virtio-rng; do
	busybox insmod /lib/modules/$m.ko
done
busybox mkdir -p /root
n=0
until busybox mount -t ext4 /dev/vda /root; do
	n=$((n + 1))
	[ $n -lt 20 ] || exec busybox poweroff -f
	busybox sleep 0.2
done
busybox mount --move /dev /root/dev
busybox mount --move /proc /root/proc
busybox mount --move /sys /root/sys
exec busybox switch_root /root /sbin/init
";

/// Makes the disk, and runs it.
pub fn run(a: &Args) -> Result<()> {
    std::fs::create_dir_all(&a.out)?;
    let out = a.out.canonicalize()?;
    let disk = out.join("disk.img");
    if disk.exists() {
        println!("debian: {} is there", disk.display());
    } else {
        let t = Instant::now();
        build(&out, &a.suite)?;
        println!("debian: {} made ({:.0} s)", disk.display(), t.elapsed().as_secs_f64());
    }
    let initrd = initrd(&out, &a.guest)?;
    if a.run { boot(a, &disk, &initrd) } else { Ok(()) }
}

/// The root file system: a tree by mmdebstrap, which becomes an ext4 image.
fn build(out: &Path, suite: &str) -> Result<()> {
    binfmt()?;
    let (tar, tree, image) = (out.join("root.tar"), out.join("root"), out.join("disk.img"));
    let shown = |p: &Path| p.display().to_string();
    if !tar.exists() {
        let part = out.join("part.tar");
        let hook = format!("echo root:{PASSWORD} | chroot \"$1\" chpasswd");
        tool(Command::new("mmdebstrap").args(["--arch=arm64", "--variant=minbase"]).args([
            &format!("--include={PACKAGES}"),
            "--customize-hook",
            &hook,
            "--customize-hook=echo ulna-guest >\"$1/etc/hostname\"",
            "--customize-hook=echo '/dev/vda / ext4 errors=remount-ro 0 1' >\"$1/etc/fstab\"",
            suite,
            &shown(&part),
            "http://deb.debian.org/debian",
        ]))?;
        std::fs::rename(&part, &tar)?;
    }
    let _ = std::fs::remove_dir_all(&tree);
    std::fs::create_dir_all(&tree)?;
    tool(Command::new("tar").args(["-C", &shown(&tree), "--numeric-owner", "-xpf", &shown(&tar)]))?;
    let part = out.join("part.img");
    std::fs::File::create(&part)?.set_len(u64::from(DISK_MIB) << 20)?;
    tool(Command::new("mkfs.ext4").args(["-q", "-F", "-d", &shown(&tree), &shown(&part)]))?;
    std::fs::rename(&part, &image)?;
    let _ = std::fs::remove_dir_all(&tree);
    Ok(())
}

/// mmdebstrap runs the packages' scripts: arm64 programs have to run, by qemu-aarch64-static where this is no arm64 machine.
fn binfmt() -> Result<()> {
    let dir = Path::new("/proc/sys/fs/binfmt_misc");
    if cfg!(target_os = "linux") && std::env::consts::ARCH == "aarch64" || dir.join("qemu-aarch64").exists() {
        return Ok(());
    }
    if !dir.join("register").exists() {
        tool(Command::new("mount").args(["-t", "binfmt_misc", "none"]).arg(dir))
            .context("arm64 programs cannot be run: binfmt_misc cannot be mounted (are you root?)")?;
    }
    if dir.join("qemu-aarch64").exists() {
        return Ok(());
    }
    let conf = "/usr/lib/binfmt.d/qemu-aarch64.conf";
    let line = std::fs::read(conf).with_context(|| format!("{conf} (Debian's package qemu-user-static)"))?;
    std::fs::write(dir.join("register"), line.trim_ascii_end())
        .context("arm64 programs cannot be run: qemu-aarch64-static cannot be registered (are you root?)")
}

/// The kit's initial RAM disk with our way to the disk.
fn initrd(out: &Path, guest: &Path) -> Result<PathBuf> {
    let from = guest.join("initramfs.cpio");
    let mut all = std::fs::read(&from).with_context(|| from.display().to_string())?;
    // Archives one behind the other are all unpacked.
    all.resize(all.len().next_multiple_of(512), 0);
    entry(&mut all, "to-disk", 0o100_755, INIT.as_bytes());
    entry(&mut all, "TRAILER!!!", 0, &[]);
    let to = out.join("initramfs.cpio");
    std::fs::write(&to, all)?;
    Ok(to)
}

/// What the guest compiles: arithmetic, memory, strings, a thread, floating point. Told by one line.
const PROGRAM: &str = r#"#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static unsigned long sum;
static void *work(void *p)
{
	unsigned long n = (unsigned long)p;
	for (unsigned long i = 0; i < 1000000; i++)
		__atomic_fetch_add(&sum, i ^ n, __ATOMIC_RELAXED);
	return NULL;
}
static int cmp(const void *a, const void *b) { return *(int *)a - *(int *)b; }
int main(void)
{
	pthread_t t[2];
	int v[1000], ok = 1;
	double pi = 0;
	for (unsigned long i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, work, (void *)(i * 12345));
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < 1000; i++)
		v[i] = i * 7919 % 1009;
	qsort(v, 1000, sizeof v[0], cmp);
	for (int i = 1; i < 1000; i++)
		ok &= v[i - 1] <= v[i];
	for (int i = 0; i < 100000; i++)
		pi += (i & 1 ? -4.0 : 4.0) / (2 * i + 1);
	printf("sum %lu sorted %d pi %.9f\n", sum, ok, pi);
	return 0;
}
"#;

/// What the same program prints by the host's compiler's arithmetic.
fn expected() -> String {
    let sum: u64 = (0..1_000_000u64).map(|i| i + (i ^ 12345)).sum();
    let pi: f64 = (0..100_000).map(|i| (if i & 1 == 1 { -4.0 } else { 4.0 }) / f64::from(2 * i + 1)).sum();
    format!("sum {sum} sorted 1 pi {pi:.9}")
}

fn boot(a: &Args, disk: &Path, initrd: &Path) -> Result<()> {
    // The disk that was made stays as it is.
    let copy = disk.with_file_name("run.img");
    let shown = |p: &Path| p.display().to_string();
    tool(Command::new("cp").args(["--sparse=always", "--reflink=auto", &shown(disk), &shown(&copy)]))?;
    let begin = Instant::now();
    let wait = |seconds: u64| seconds * a.patience.max(1);
    let mut command = Command::new(&a.ulna);
    command.arg("run").arg("--kernel").arg(a.guest.join("Image")).arg("--initrd").arg(initrd);
    command.args(["--cmdline", "console=ttyAMA0 rdinit=/to-disk quiet systemd.show_status=1"]);
    command.args(["--cpus", &a.cpus.to_string(), "--memory", "1G", "--engine", a.engine.name()]);
    command.args(["--disk", &format!("path={}", shown(&copy))]).args(&a.more);
    let mut g = Guest::launch(command)?;
    let up = g.wait("ulna-guest login: ", wait(180))?;
    let told = |what: &str| println!("debian: {what} ({:.1} s)", begin.elapsed().as_secs_f64());
    ensure!(!up.contains("[FAILED]") && !up.contains("emergency mode"), "a unit failed:\n{up}");
    told("login prompt");
    g.type_line("root")?;
    g.wait("Password: ", wait(60))?;
    g.type_line(PASSWORD)?;
    g.wait("root@ulna-guest:~# ", wait(60))?;
    told("logged in");
    let state =
        g.shell_within("systemctl is-system-running --wait; systemctl --failed --no-legend", wait(120))?;
    ensure!(state.trim() == "running", "the system is {state}");
    let who = g.shell_within("ps -o comm= -p 1; uname -m; findmnt -no SOURCE,FSTYPE /", wait(60))?;
    let words: Vec<&str> = who.split_whitespace().collect();
    ensure!(words == ["systemd", "aarch64", "/dev/vda", "ext4"], "PID 1, machine, root: {who}");
    for line in PROGRAM.lines() {
        // The terminal's own echo would mix with what is typed ahead; small lines are read as they come.
        let line = line.replace('\t', " ").replace('\'', "'\\''");
        g.shell_within(&format!("printf '%s\\n' '{line}' >> t.c"), wait(60))?;
    }
    let out = g.shell_within("gcc -O2 -Wall -pthread -o t t.c && ./t; echo status $?", wait(180))?;
    let want = format!("{}\nstatus 0", expected());
    if out.trim() != want {
        bail!("compiled and run: {out}\nexpected: {want}");
    }
    told("a C program compiled and run");
    let log = g.shell_within("dmesg -l emerg,alert,crit,err | tail -n 5", wait(60))?;
    ensure!(!log.contains("BUG") && !log.contains("Oops") && !log.contains("stall"), "dmesg: {log}");
    g.type_line("systemctl poweroff")?;
    g.ends_well(wait(120))?;
    tool(Command::new("fsck.ext4").args(["-f", "-n", &shown(&copy)]))?;
    std::fs::remove_file(&copy)?;
    println!("debian: ok ({:.1} s), file system clean", begin.elapsed().as_secs_f64());
    Ok(())
}

fn tool(command: &mut Command) -> Result<()> {
    let out = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{command:?}: {}\n{text}", out.status);
    Ok(())
}
