//! `cargo xtask gdb`: Debian's GDB on the built-in guest and on a running Linux: breakpoints of both kinds, a watchpoint,
//! steps, registers and memory on every vCPU of four, to the guest's own end.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::linux::{self, Guest};

/// Options of `gdb`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory with Image and initramfs.cpio; without it only the built-in guest is debugged.
    #[arg(long)]
    guest: Option<PathBuf>,
    /// The program under test.
    #[arg(long, default_value = "target/release/ulna")]
    ulna: PathBuf,
    /// The debugger.
    #[arg(long, default_value = "gdb-multiarch")]
    gdb: PathBuf,
}

/// Runs both stories.
pub fn run(a: &Args) -> Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/gdb");
    std::fs::create_dir_all(&dir)?;
    let socket = dir.join(format!("{}.sock", std::process::id()));
    let t = Instant::now();
    builtin(a, &socket).context("the built-in guest")?;
    println!(
        "gdb: the built-in guest, by software and hardware breakpoints: ok ({:.1} s)",
        t.elapsed().as_secs_f64()
    );
    if let Some(guest) = &a.guest {
        let t = Instant::now();
        linux(a, guest, &socket).context("Linux")?;
        println!("gdb: Linux on 4 vCPUs, to its end: ok ({:.1} s)", t.elapsed().as_secs_f64());
    }
    Ok(())
}

/// A GDB that carries out a script.
struct Gdb {
    child: Child,
    out: BufReader<ChildStdout>,
    said: String,
}

impl Gdb {
    fn start(a: &Args, socket: &Path, script: &[String]) -> Result<Gdb> {
        let mut c = Command::new(&a.gdb);
        c.args(["-q", "-batch", "-nx", "-ex", "set pagination off", "-ex", "set confirm off"]);
        c.args(["-ex", "set architecture aarch64", "-ex", &format!("target remote {}", socket.display())]);
        for line in script {
            c.args(["-ex", line]);
        }
        let mut child = c
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", a.gdb.display()))?;
        let out = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Gdb { child, out, said: String::new() })
    }

    /// Reads until a line has `text`.
    fn wait(&mut self, text: &str) -> Result<()> {
        loop {
            let mut line = String::new();
            if self.out.read_line(&mut line)? == 0 {
                bail!("GDB ended without {text:?}; it said:\n{}", self.said);
            }
            self.said.push_str(&line);
            if line.contains(text) {
                return Ok(());
            }
        }
    }

    /// Reads to the end; all that was said must hold these, in their order.
    fn ends_with(mut self, expected: &[String]) -> Result<String> {
        std::io::Read::read_to_string(&mut self.out, &mut self.said)?;
        self.child.wait()?;
        let mut rest = &self.said[..];
        for e in expected {
            let Some(at) = rest.find(e.as_str()) else {
                bail!("GDB did not say {e:?} (in this order); it said:\n{}", self.said)
            };
            rest = &rest[at + e.len()..];
        }
        Ok(std::mem::take(&mut self.said))
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(text: &[&str]) -> Vec<String> {
    text.iter().map(|t| t.to_string()).collect()
}

/// Waits until the stub listens.
fn listening(socket: &Path) -> Result<()> {
    for _ in 0..500 {
        if socket.exists() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    bail!("no socket at {}", socket.display())
}

fn builtin(a: &Args, socket: &Path) -> Result<()> {
    let child = Command::new(&a.ulna)
        .args(["run", "--cpus", "2", "--gdb"])
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", a.ulna.display()))?;
    listening(socket)?;
    let script = lines(&[
        "info threads",
        "stepi",
        "printf \"stepped to %#lx\\n\", $pc",
        "hbreak *0x40080008",
        "continue",
        "print $cpsr",
        "printf \"x27 %#lx, x/wx %#x\\n\", $x27, *(unsigned *)$pc",
        "delete",
        "break *0x40080010",
        "continue",
        "printf \"at %#lx, sctlr %#lx\\n\", $pc, $SCTLR_EL1",
        "delete",
        "continue",
    ]);
    let expected = lines(&[
        "Thread 1.1 (vCPU 0, EL1)",
        "Thread 1.2 (vCPU 1, powered off)",
        "stepped to 0x40080004",
        "hit Breakpoint 1, 0x0000000040080008",
        "= [ SP EL=1 F I A D BTYPE=0 ]",
        "x27 0x48000000, x/wx 0x",
        "hit Breakpoint 2, 0x0000000040080010",
        "at 0x40080010, sctlr 0x",
        "[Inferior 1 (process 1) exited normally]",
    ]);
    Gdb::start(a, socket, &script)?.ends_with(&expected)?;
    let out = child.wait_with_output()?;
    ensure!(out.status.success(), "ended with {}", out.status);
    let text = String::from_utf8_lossy(&out.stdout);
    ensure!(text.contains("2 CPU(s) ran, all is well"), "the guest says:\n{text}");
    child_gone(socket)
}

fn child_gone(socket: &Path) -> Result<()> {
    ensure!(!socket.exists(), "{} is left behind", socket.display());
    Ok(())
}

fn linux(a: &Args, guest: &Path, socket: &Path) -> Result<()> {
    let boot = linux::Args::new(guest.into(), a.ulna.clone());
    let at = socket.to_str().context("path")?;
    let more = ["--cpus", "4", "--memory", "512M", "--gdb", at];
    let mut g = Guest::start(&boot, "shell nokaslr", &more)?;
    listening(socket)?;
    // It starts when the first debugger leaves.
    Gdb::start(a, socket, &lines(&["printf \"entry %#lx\\n\", $pc", "detach"]))?
        .ends_with(&lines(&["entry 0x40", "detached]"]))?;
    g.wait("# ", 120)?;
    let table = g.shell("grep -E ' (__arm64_sys_sethostname|linux_banner|jiffies_64)$' /proc/kallsyms")?;
    let symbol = |name: &str| -> Result<u64> {
        let line =
            table.lines().find(|l| l.ends_with(name)).with_context(|| format!("{name} in:\n{table}"))?;
        Ok(u64::from_str_radix(line.split(' ').next().unwrap_or_default(), 16)?)
    };
    let (call, banner, jiffies) =
        (symbol("__arm64_sys_sethostname")?, symbol("linux_banner")?, symbol("jiffies_64")?);
    let mut script = lines(&["info threads"]);
    script.push(format!("hbreak *{call:#x}"));
    let mut expected = lines(&["(vCPU 0, EL", "(vCPU 3, EL", "Hardware assisted breakpoint 1"]);
    for n in 1..=4 {
        script.extend(lines(&["continue", "stepi", "stepi", "printf \"offset %ld\\n\", $pc - ADDR"]));
        script.extend(lines(&[
            "printf \"el %d, ttbr1 %d\\n\", ($cpsr >> 2) & 3, $TTBR1_EL1 != 0",
            "x/s BANNER",
        ]));
        script.push("thread apply all printf \"seen %d\\n\", $_thread".into());
        expected.push(format!("Thread {n} hit Breakpoint 1, {call:#x} in"));
        expected.extend(lines(&["offset 8", "el 1, ttbr1 1", "Linux version 6."]));
        expected.extend((1..=4).rev().map(|t| format!("seen {t}")));
    }
    // A software breakpoint and a watchpoint, then to the end.
    script.extend(lines(&[
        "delete",
        "tbreak *(ADDR)",
        "continue",
        "watch *(long *)JIFFIES",
        "continue",
        "delete",
        "continue",
    ]));
    expected.extend(lines(&[
        "Temporary breakpoint 2, ",
        "hit Hardware watchpoint 3",
        "Old value = ",
        "New value = ",
    ]));
    expected.push("[Inferior 1 (process 1) exited normally]".into());
    for line in &mut script {
        *line = line.replace("ADDR", &format!("{call:#x}")).replace("BANNER", &format!("{banner:#x}"));
        *line = line.replace("JIFFIES", &format!("{jiffies:#x}"));
    }
    let mut gdb = Gdb::start(a, socket, &script)?;
    gdb.wait("Hardware assisted breakpoint 1")?;
    let all = "for m in 1 2 4 8 1; do taskset $m hostname cpu$m; done; busybox poweroff -f\n";
    g.child.stdin.as_mut().context("stdin")?.write_all(all.as_bytes())?;
    expected.drain(..3);
    let said = gdb.ends_with(&expected)?;
    ensure!(said.contains("(vCPU 3, EL"), "no vCPU 3:\n{said}");
    g.ends_well(30)?;
    child_gone(socket)
}
