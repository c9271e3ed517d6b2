//! `cargo xtask linux`: boots a real Debian kernel as a user would: to its init with 1 and 4 vCPUs, with a disk (ext4
//! made on the host, files exchanged both ways, `fsck` clean), and with the network (a file fetched from a server on
//! loopback), and by UEFI firmware. The guest is what `shared/bench/build-guest` makes.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::services;

/// Options of `linux`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory with Image and initramfs.cpio.
    #[arg(long)]
    guest: PathBuf,
    /// UEFI firmware (Debian's package qemu-efi-aarch64). Where there is none, its stories are left out.
    #[arg(long, default_value = "/usr/share/AAVMF/AAVMF_CODE.fd")]
    firmware: PathBuf,
    /// Only the stories whose name holds this text.
    #[arg(long, default_value = "")]
    only: String,
    /// The program under test.
    #[arg(long, default_value = "target/release/ulna")]
    ulna: PathBuf,
    /// What executes the guest's instructions.
    #[arg(long, default_value = "interp")]
    pub engine: crate::EngineArg,
    /// Leaves the network out (where `passt` is missing).
    #[arg(long)]
    no_net: bool,
}

impl Args {
    /// For a guest and a program, the rest left out.
    pub fn new(guest: PathBuf, ulna: PathBuf) -> Args {
        Args {
            guest,
            ulna,
            engine: crate::EngineArg::Interp,
            no_net: true,
            firmware: PathBuf::new(),
            only: String::new(),
        }
    }
}

/// Runs all stories.
pub fn run(a: &Args) -> Result<()> {
    let mut passed = 0;
    let mut story = |name: &str, f: &dyn Fn() -> Result<()>| -> Result<()> {
        if !name.contains(&a.only) {
            return Ok(());
        }
        let t = Instant::now();
        f().with_context(|| name.to_string())?;
        println!("linux: {name}: ok ({:.1} s)", t.elapsed().as_secs_f64());
        passed += 1;
        Ok(())
    };
    story("boots to init with 1 vCPU and powers off", &|| boots(a, 1))?;
    story("boots to init with 4 vCPUs and powers off", &|| boots(a, 4))?;
    story("a GICv2 host boots", &|| gicv2(a))?;
    story("vCPUs that are enabled while it runs", &|| hotplug(a))?;
    story("a pause that the guest does not see", &|| pause(a))?;
    story("a snapshot, and the same guest goes on from it", &|| snapshot(a))?;
    story("the PMU: counters and their interrupt", &|| pmu(a))?;
    story("hypercall services come and go", &|| services::on_and_off(a))?;
    story("CPUs of two kinds by name", &|| services::identities(a))?;
    story("stolen time is told", &|| services::stolen_time(a))?;
    story("it sleeps until it is woken", &|| services::sleep(a))?;
    story("a disk: files both ways, fsck clean", &|| disk(a))?;
    if !a.no_net {
        story("the network: a file from a server on loopback", &|| network(a))?;
    }
    if a.firmware.exists() {
        story("UEFI starts the kernel that it is given", &|| uefi_kernel(a))?;
        story("UEFI starts kernels from a disk", &|| uefi_disk(a))?;
        story("UEFI keeps its variables", &|| uefi_variables(a))?;
    } else {
        println!("linux: no {}: UEFI left out", a.firmware.display());
    }
    println!("{passed} passed, 0 failed");
    Ok(())
}

/// A running guest with its console.
pub struct Guest {
    /// The process.
    pub child: Child,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Guest {
    /// Starts it; `bench` and what follows goes to the kernel command line.
    pub fn start(a: &Args, bench: &str, more: &[&str]) -> Result<Guest> {
        let mut command = Command::new(&a.ulna);
        command
            .arg("run")
            .arg("--kernel")
            .arg(a.guest.join("Image"))
            .arg("--initrd")
            .arg(a.guest.join("initramfs.cpio"))
            .args(["--cmdline", &cmdline(bench)])
            .args(["--engine", a.engine.name()])
            .args(more);
        Guest::launch(command)
    }

    /// Starts a command.
    pub fn launch(mut command: Command) -> Result<Guest> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let mut out = child.stdout.take().context("stdout")?;
        let (tx, output) = channel();
        std::thread::spawn(move || {
            let mut b = [0; 4096];
            while let Ok(n) = out.read(&mut b) {
                if n == 0 || tx.send(b[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Guest { child, output, seen: String::new() })
    }

    /// Reads the console until `text` appears; what came since the last wait.
    pub fn wait(&mut self, text: &str, seconds: u64) -> Result<String> {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return Ok(std::mem::replace(&mut self.seen, rest));
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(b) => self.seen.push_str(&String::from_utf8_lossy(&b)),
                Err(_) => bail!("waited {seconds} s for {text:?}; the console says:\n{}", tail(&self.seen)),
            }
        }
    }

    /// Types a line whose answer is not waited for.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("stdin")?;
        Ok(stdin.write_all(format!("{line}\r").as_bytes())?)
    }

    /// Types a command and returns what it printed.
    pub fn shell(&mut self, command: &str) -> Result<String> {
        self.shell_within(command, 60)
    }

    /// The same for commands that take longer.
    pub fn shell_within(&mut self, command: &str, seconds: u64) -> Result<String> {
        const BEGIN: &str = "@begin@";
        const END: &str = "@done@";
        // The terminal and the shell both echo the line, which therefore must not hold the marks themselves.
        let line = format!("echo @be''gin@; {command}; echo @do''ne@\n");
        self.child.stdin.as_mut().context("stdin")?.write_all(line.as_bytes())?;
        self.wait(BEGIN, 60)?;
        let out = self.wait(END, seconds)?;
        Ok(out.trim_end_matches(END).replace('\r', ""))
    }

    /// Expects a success within this time.
    pub fn ends_well(&mut self, seconds: u64) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            if let Some(s) = self.child.try_wait()? {
                ensure!(s.success(), "ended with {s}");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("still running after {seconds} s")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cmdline(bench: &str) -> String {
    format!("console=ttyAMA0 quiet modules=all bench={bench}")
}

fn tail(s: &str) -> String {
    let lines: Vec<&str> = s.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// A guest in the middle of its work is saved and ended; another process goes on with it.
fn snapshot(a: &Args) -> Result<()> {
    let place = tempfile::tempdir()?;
    let at = |name: &str| place.path().join(name).display().to_string();
    let (first, second, dir) = (at("first.sock"), at("second.sock"), at("snap"));
    let mut g = Guest::start(a, "shell", &["--cpus", "2", "--memory", "512M", "--control", &first])?;
    g.wait("# ", 90)?;
    // A sum that takes a while, in the background, and a variable of the shell.
    g.shell(
        "SECRET=42; (i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo counted $i > /counted) & true",
    )?;
    let ulna = |args: &[&str]| -> Result<String> {
        let o = Command::new(&a.ulna).args(args).output()?;
        ensure!(o.status.success(), "{args:?}: {}", String::from_utf8_lossy(&o.stderr));
        Ok(String::from_utf8(o.stdout)?)
    };
    let said = ulna(&["snapshot", &first, &dir, "--stop"])?;
    g.ends_well(10)?;
    println!("linux: {}", said.trim());
    let mut command = Command::new(&a.ulna);
    command.args(["restore", &dir, "--control", &second, "--verify", "--engine", a.engine.name()]);
    let mut g = Guest::launch(command)?;
    let answer =
        g.shell("echo is $SECRET; wait; cat /counted; dmesg | grep -ciE 'stall|clocksource.*unstable|BUG'")?;
    ensure!(answer.contains("is 42") && answer.contains("counted 200000"), "{answer:?}");
    ensure!(answer.trim_end().ends_with('0'), "the kernel complains: {answer:?}");
    power_off(&mut g)
}

fn boots(a: &Args, cpus: u32) -> Result<()> {
    let mut g = Guest::start(a, "shell", &["--cpus", &cpus.to_string(), "--memory", "512M"])?;
    g.wait("# ", 90)?;
    let n = g.shell("grep -c ^processor /proc/cpuinfo")?;
    ensure!(n.trim() == cpus.to_string(), "{cpus} vCPUs, and Linux sees {:?}", n.trim());
    power_off(&mut g)
}

fn gicv2(a: &Args) -> Result<()> {
    let mut g = Guest::start(a, "shell", &["--host", "rpi4", "--cpus", "2", "--memory", "512M"])?;
    g.wait("# ", 90)?;
    let irqs = g.shell("cat /proc/interrupts")?;
    ensure!(irqs.contains("GICv2") || irqs.contains("GIC-0"), "no GICv2 in /proc/interrupts:\n{irqs}");
    power_off(&mut g)
}

/// The firmware is given the kernel by fw_cfg and starts it as an EFI program.
fn uefi_kernel(a: &Args) -> Result<()> {
    let firmware = a.firmware.to_str().context("path")?;
    let mut g = Guest::start(a, "shell", &["--firmware", firmware, "--cpus", "2", "--memory", "512M"])?;
    g.wait("UEFI firmware", 90)?;
    g.wait("# ", 90)?;
    let found = g.shell("ls /sys/firmware/efi; grep -c ^processor /proc/cpuinfo")?;
    ensure!(
        found.contains("efivars") && found.trim().ends_with('2'),
        "Linux sees of EFI and vCPUs:\n{found}"
    );
    power_off(&mut g)
}

/// An EFI program on a disk is found, and one that the shell's script names.
fn uefi_disk(a: &Args) -> Result<()> {
    let image = scratch()?.join("esp.img");
    let path = image.to_str().context("path")?;
    let (kernel, initrd) = (a.guest.join("Image"), a.guest.join("initramfs.cpio"));
    let script = scratch()?.join("startup.nsh");
    let line =
        format!("fs0:\r\nlinux.efi initrd=\\initramfs.cpio {}\r\n", cmdline("shell").replace("quiet", ""));
    std::fs::write(&script, line)?;
    let fresh = || -> Result<()> {
        let _ = std::fs::remove_file(&image);
        std::fs::File::create(&image)?.set_len(128 << 20)?;
        tool("mformat", &["-i", path, "-F", "::"]).map(drop)
    };
    let copy = |from: &Path, to: &str| tool("mcopy", &["-i", path, from.to_str().context("path")?, to]);
    let start = || {
        let mut command = Command::new(&a.ulna);
        command.arg("run").arg("--firmware").arg(&a.firmware).arg("--disk").arg(format!("path={path}"));
        Guest::launch(command)
    };
    fresh()?;
    tool("mmd", &["-i", path, "::/EFI", "::/EFI/BOOT"])?;
    copy(&kernel, "::/EFI/BOOT/BOOTAA64.EFI")?;
    let mut g = start()?;
    g.wait("EFI stub: Booting Linux Kernel", 90)?;
    g.wait("Linux version", 90)?;
    drop(g);
    fresh()?;
    copy(&kernel, "::/linux.efi")?;
    copy(&initrd, "::/initramfs.cpio")?;
    copy(&script, "::/startup.nsh")?;
    let mut g = start()?;
    g.wait("EFI stub: Loaded initrd from command line option", 90)?;
    g.wait("# ", 90)?;
    power_off(&mut g)
}

/// What the firmware keeps in its flash is there after a reset, and after `ulna` has ended if it has a file.
fn uefi_variables(a: &Args) -> Result<()> {
    let vars = scratch()?.join("vars.fd");
    let _ = std::fs::remove_file(&vars);
    let mut command = Command::new(&a.ulna);
    command.arg("run").arg("--firmware").arg(&a.firmware).arg("--firmware-vars").arg(&vars);
    let run = |set: bool| -> Result<()> {
        let mut again = Command::new(command.get_program());
        again.args(command.get_args());
        let mut g = Guest::launch(again)?;
        let ask = "setvar ulna -guid 12345678-1234-1234-1234-123456789abc";
        let shell = |g: &mut Guest| -> Result<()> {
            g.wait("any other key to continue", 90)?;
            g.type_line("")?;
            g.wait("Shell> ", 60).map(drop)
        };
        shell(&mut g)?;
        if set {
            g.type_line(&format!("{ask} -bs -rt -nv =0xfeedc0de"))?;
            g.wait("Shell> ", 60)?;
            g.type_line("reset")?;
            shell(&mut g)?;
        }
        g.type_line(ask)?;
        g.wait("DE C0 ED FE", 60)?;
        g.wait("Shell> ", 60)?;
        g.type_line("reset -s")?;
        g.ends_well(60)
    };
    run(true)?;
    run(false)
}

/// perf of the kernel takes the PMU; its interrupt shows what it counts when perf is asked to sample.
/// `ulna ctl` on the guest of this name; what it says when it refuses.
fn ctl(a: &Args, args: &[&str]) -> Result<std::result::Result<(), String>> {
    let out = Command::new(&a.ulna).arg("ctl").args(args).output().context("ulna ctl")?;
    let refused = || String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Ok(if out.status.success() { Ok(()) } else { Err(refused()) })
}

/// What `ulna ctl` prints.
pub fn ctl_output(a: &Args, args: &[&str]) -> Result<String> {
    services::printed(&a.ulna, args)
}

/// Done by `ulna ctl`.
pub fn told(a: &Args, args: &[&str]) -> Result<()> {
    ctl(a, args)?.map_err(|e| anyhow::anyhow!("ulna ctl {args:?}: {e}"))
}

/// H3: Linux sees all possible CPUs; one that is disabled cannot be switched on, and can once it is enabled.
fn hotplug(a: &Args) -> Result<()> {
    let vm = format!("xtask-hotplug-{}", std::process::id());
    let more = ["--cpus", "2", "--max-cpus", "64", "--memory", "512M", "--name", &vm];
    let mut g = Guest::start(a, "shell", &more)?;
    g.wait("# ", 90)?;
    let seen =
        g.shell("cd /sys/devices/system/cpu; cat possible online; dmesg | grep -c 'failed to boot'")?;
    ensure!(seen.split_whitespace().eq(["0-63", "0-1", "0"]), "possible, online, complaints: {seen}");
    let denied = |g: &mut Guest| -> Result<()> {
        let out = g.shell("echo 1 > cpu5/online; cat online")?;
        ensure!(out.contains("Operation not permitted") && out.trim().ends_with("0-1"), "cpu5: {out}");
        Ok(())
    };
    denied(&mut g)?;
    told(a, &[&vm, "cpu", "enable", "5"])?;
    let on = g.shell(
        "echo 1 > cpu5/online; cat online; taskset 20 sh -c 'grep Cpus_allowed_list /proc/self/status'",
    )?;
    ensure!(on.contains("0-1,5"), "cpu5 after it was enabled: {on}");
    let refused = ctl(a, &[&vm, "cpu", "disable", "5"])?;
    ensure!(refused.is_err_and(|e| e.contains("vCPU 5 is on")), "a vCPU that is on was disabled");
    let off = g.shell("echo 0 > cpu5/online; cat online")?;
    ensure!(off.trim() == "0-1", "cpu5 offline: {off}");
    told(a, &[&vm, "cpu", "disable", "5"])?;
    denied(&mut g)?;
    power_off(&mut g)
}

/// Linux's uptime and its wall clock do not see a pause of 5 seconds, and no watchdog barks.
fn pause(a: &Args) -> Result<()> {
    let vm = format!("xtask-pause-{}", std::process::id());
    let mut g = Guest::start(a, "shell", &["--cpus", "2", "--memory", "512M", "--name", &vm])?;
    g.wait("# ", 90)?;
    let uptime = |g: &mut Guest| -> Result<f64> {
        let out = g.shell("cat /proc/uptime")?;
        out.split_whitespace().next().and_then(|u| u.parse().ok()).with_context(|| format!("uptime: {out}"))
    };
    let (before, begin) = (uptime(&mut g)?, Instant::now());
    told(a, &[&vm, "pause"])?;
    std::thread::sleep(Duration::from_secs(5));
    told(a, &[&vm, "resume"])?;
    let (after, host) = (uptime(&mut g)?, begin.elapsed().as_secs_f64());
    ensure!(after >= before && after - before < host - 4.5, "guest {before} to {after} s, host {host} s");
    let log = g.shell("dmesg | grep -ci 'stall\\|lockup\\|clocksource.*unstable'")?;
    ensure!(log.trim() == "0", "the guest's log complains of the pause");
    power_off(&mut g)
}

fn pmu(a: &Args) -> Result<()> {
    let mut g = Guest::start(a, "shell", &["--cpus", "2", "--memory", "512M"])?;
    g.wait("# ", 90)?;
    let log = g.shell("dmesg | grep -i 'perfevents\\|pmu'")?;
    ensure!(log.contains("hw perfevents: enabled with armv8_pmuv3"), "no PMU in dmesg:\n{log}");
    let irqs = g.shell("cat /proc/interrupts")?;
    let line =
        irqs.lines().find(|l| l.contains("arm-pmu")).with_context(|| format!("no arm-pmu:\n{irqs}"))?;
    ensure!(line.contains(" 23 Level"), "the PMU's interrupt is PPI 7, INTID 23: {line}");
    let cpus = g.shell("cat /sys/bus/event_source/devices/armv8_pmuv3*/cpus")?;
    ensure!(cpus.trim() == "0-1", "the PMU is of the vCPUs {:?}", cpus.trim());
    power_off(&mut g)
}

/// Has the guest end.
pub fn power_off(g: &mut Guest) -> Result<()> {
    let stdin = g.child.stdin.as_mut().context("stdin")?;
    stdin.write_all(b"busybox poweroff -f\n")?;
    g.ends_well(30)
}

fn tool(program: &str, args: &[&str]) -> Result<String> {
    let out = Command::new(program).args(args).output().with_context(|| program.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout).to_string() + &String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{program} {}: {}\n{text}", args.join(" "), out.status);
    Ok(text)
}

fn scratch() -> Result<PathBuf> {
    let d = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/linux");
    std::fs::create_dir_all(&d)?;
    Ok(d)
}

fn disk(a: &Args) -> Result<()> {
    let dir = scratch()?;
    let (tree, image) = (dir.join("tree"), dir.join("disk.img"));
    std::fs::create_dir_all(&tree)?;
    std::fs::write(tree.join("from-host"), "written on the host\n")?;
    std::fs::File::create(&image)?.set_len(64 << 20)?;
    let path = image.to_str().context("path")?;
    tool("mkfs.ext4", &["-q", "-F", "-d", tree.to_str().context("path")?, path])?;
    let mut g = Guest::start(a, "shell", &["--memory", "512M", "--disk", &format!("path={path}")])?;
    g.wait("# ", 90)?;
    g.shell("mkdir -p /tmp/m; mount -t ext4 /dev/vda /tmp/m")?;
    let text = g.shell("cat /tmp/m/from-host")?;
    ensure!(text.trim() == "written on the host", "the guest reads {text:?}");
    let sum = g.shell("seq 1 200000 > /tmp/m/from-guest; md5sum /tmp/m/from-guest | cut -c1-32")?;
    g.shell("busybox umount /tmp/m; busybox sync")?;
    power_off(&mut g)?;
    tool("fsck.ext4", &["-f", "-n", path])?;
    let out = dir.join("from-guest");
    tool("debugfs", &["-R", &format!("dump /from-guest {}", out.display()), path])?;
    let want: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    ensure!(std::fs::read_to_string(&out)? == want, "what the guest wrote reads otherwise on the host");
    let host_sum = tool("md5sum", &[out.to_str().context("path")?])?;
    ensure!(host_sum.starts_with(sum.trim()), "md5sum {sum:?} in the guest, {host_sum:?} on the host");
    Ok(())
}

fn network(a: &Args) -> Result<()> {
    let body: Vec<u8> =
        (0..1_000_000u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 8).to_le_bytes()).collect();
    let dir = scratch()?;
    std::fs::write(dir.join("served"), &body)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        // One file for whoever asks, three times at the most.
        for s in listener.incoming().take(3).flatten() {
            let mut s = s;
            let mut request = [0; 1024];
            let _ = s.read(&mut request);
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = s.write_all(head.as_bytes()).and_then(|()| s.write_all(&body));
        }
    });
    let mut g = Guest::start(a, "shell", &["--memory", "512M", "--net", "user"])?;
    g.wait("# ", 90)?;
    g.shell(
        "ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; busybox ip route add default via 10.0.2.2",
    )?;
    let sum = g.shell(&format!("busybox wget -q -O - http://10.0.2.2:{port}/f | md5sum | cut -c1-32"))?;
    power_off(&mut g)?;
    let want = tool("md5sum", &[dir.join("served").to_str().context("path")?])?;
    ensure!(
        want.starts_with(sum.trim()) && sum.trim().len() == 32,
        "the guest got {sum:?}, served was {want:?}"
    );
    Ok(())
}
