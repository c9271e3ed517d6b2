//! The built-in guest, run as a user runs it.

mod common;

use assert_cmd::Command;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

fn ulna(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ulna"));
    let out = command.arg("run").args(args).timeout(Duration::from_secs(120)).output().unwrap();
    let text = |b| String::from_utf8(b).unwrap();
    (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr))
}

/// Runs it and expects success; its output without carriage returns.
fn well(args: &[&str]) -> String {
    let (code, stdout, stderr) = ulna(args);
    assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}\n{stdout}");
    assert!(stdout.ends_with("all is well; powering off\r\n"), "{args:?}\n{stdout}");
    assert!(!stdout.contains("FAILED"), "{args:?}\n{stdout}");
    stdout.replace('\r', "")
}

#[test]
fn it_shows_what_it_sees() {
    let out = well(&["--host", "altra"]);
    for line in [
        "ulna built-in guest",
        "MIDR_EL1         0x00000000413fd0c1",
        "    Revision=0x1 PartNum=0xd0c Architecture=0xf Variant=0x3 Implementer=0x41",
        "  exception level    EL1",
        "  counter frequency  25000000 Hz",
        "  GIC                version 3, 96 SPIs, LPIs",
        "  CPUs               1 in the device tree",
        "  PSCI_VERSION             1.1",
        "  SMCCC_VERSION            1.1",
        "  cpu 0x0: timer interrupt ok, SGI ok",
        "1 CPU(s) ran, all is well; powering off",
    ] {
        assert!(out.lines().any(|l| l == line), "{line}\n{out}");
    }
    assert!(out.contains(" AdvSIMD=0x1 GIC=0x1 "), "{out}");
}

#[test]
fn engines_are_compared_and_tell_what_they_did() {
    let dir = tempfile::tempdir().unwrap();
    let (json, txt) = (dir.path().join("p.json"), dir.path().join("p.txt"));
    well(&["--engine", "check", "--cpus", "2", "--profile-guest", json.to_str().unwrap()]);
    let p: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(p["vcpus"].as_array().unwrap().len(), 2);
    assert!(p["vcpus"][0]["compared"].as_u64().unwrap() > 1000, "{p}");
    well(&["--engine", "jit", "--jit-cache", "1M", "--profile-guest", txt.to_str().unwrap()]);
    let p = fs::read_to_string(&txt).unwrap();
    assert!(p.contains("Hot blocks") && p.contains("tlb misses"), "{p}");
}

#[test]
fn every_cpu_takes_its_interrupts_with_either_controller() {
    for gic in ["3", "2"] {
        let out = well(&["--cpus", "4", "--gic", gic]);
        assert!(out.contains(&format!("GIC                version {gic}, 96 SPIs")), "{out}");
        for cpu in 0..4 {
            assert!(out.contains(&format!("\n  cpu {cpu:#x}: timer interrupt ok, SGI ok\n")), "{out}");
        }
        assert!(out.contains("4 CPU(s) ran"), "{out}");
    }
}

#[test]
fn cpus_above_aff0_and_spare_ones() {
    let out = well(&["--cpus", "18", "--max-cpus", "20"]);
    assert!(
        out.contains("\n  cpu 0x101: timer interrupt ok, SGI ok\n") && out.contains("18 CPU(s) ran"),
        "{out}"
    );
    // What is not enabled is in the device tree all the same, and cannot be switched on.
    assert!(out.contains("20 in the device tree") && out.contains("\n  cpu 0x103: disabled\n"), "{out}");
}

#[test]
fn every_profile_runs_it() {
    for host in ulna_profile::names() {
        let out = well(&["--host", host, "--log", "error"]);
        assert!(out.contains("1 CPU(s) ran"), "{host}\n{out}");
    }
}

/// The hypercalls that the guest lists, by name.
fn hypercalls(more: &[&str]) -> std::collections::HashMap<String, String> {
    let text = well(&[&["--host", "n1"], more].concat());
    let list = text.split("hypercalls (HVC)").nth(1).expect("list");
    let lines = list.lines().take_while(|l| !l.starts_with("interrupts"));
    lines.filter(|l| l.len() > 27).map(|l| (l[2..26].trim().into(), l[27..].trim().into())).collect()
}

#[test]
fn services_come_and_go() {
    let plain = hypercalls(&[]);
    for (name, says) in [
        ("PSCI_VERSION", "1.1"),
        ("PSCI SYSTEM_RESET2", "yes"),
        ("PSCI SYSTEM_OFF2", "no"),
        ("TRNG_VERSION", "1.0"),
        ("PV_TIME_ST", "no"),
        ("vendor FEATURES", "0x3"),
        ("vendor PTP", "yes"),
        ("vendor IMPL_VER", "no"),
    ] {
        assert_eq!(plain[name], says, "{name}");
    }
    let off = hypercalls(&["--services", "psci=1.0,trng=off,pvtime=off,ptp=off"]);
    for (name, says) in [
        ("PSCI_VERSION", "1.0"),
        ("PSCI SYSTEM_RESET2", "no"),
        ("TRNG_VERSION", "no"),
        ("PV_TIME_ST", "no"),
        ("vendor FEATURES", "0x1"),
        ("vendor PTP", "no"),
    ] {
        assert_eq!(off[name], says, "{name}");
    }
    let on = hypercalls(&["--services", "psci=1.3,trng=on,pvtime=on,ptp=on", "--cpus", "3"]);
    for (name, says) in [
        ("PSCI_VERSION", "1.3"),
        ("PSCI SYSTEM_OFF2", "yes, 0x1"),
        ("PV_TIME_ST", "yes"),
        ("vendor PTP", "yes"),
        ("vendor IMPL_VER", "no"),
    ] {
        assert_eq!(on[name], says, "{name}");
    }
    let none = hypercalls(&["--services", "kvm=off"]);
    assert_eq!((&*none["vendor hypervisor UID"], &*none["vendor FEATURES"]), ("no", "no"));
    assert_eq!(hypercalls(&["--services", "psci=0.2"])["PSCI CPU_ON"], "no", "there is no PSCI_FEATURES");
}

/// I2 and I3 of seed-systems.md §5.4: a guest program asks, as Linux 6.15 would.
#[test]
fn i2_i3_a_guest_is_told_its_targets() {
    let h = hypercalls(&["--targets", "altra,thunderx2,n1"]);
    let words: Vec<&str> = h["vendor IMPL_VER"].split(' ').collect();
    assert_eq!(words[..3], ["0x00000000", "0x00010000", "0x00000003"], "one is the host itself");
    let midr = |n: u32| h[&format!("vendor IMPL_CPUS {n}")].split(' ').nth(1).map(str::to_owned);
    assert_eq!(midr(0).as_deref(), Some("0x414fd0c1"), "its own first");
    assert_ne!(midr(1), midr(0));
    assert_eq!(midr(2).as_deref(), Some("0x431f0af1"));
    assert_eq!(h["vendor IMPL_CPUS 3"], "0xfffffffd 0x00000000 0x00000000 0x00000000");
}

/// H7: of two CPUs that switch on a third exactly one does, and the other is told that it is on or about to be.
#[test]
fn h7_a_race_for_cpu_on_has_one_winner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("race.bin");
    fs::write(&path, ulna_guests::race()).unwrap();
    for engine in ["interp", "jit"] {
        let kernel = ["--kernel", path.to_str().unwrap(), "--kernel-format", "raw"];
        let (code, stdout, stderr) = ulna(&[&kernel[..], &["--cpus", "3", "--engine", engine]].concat());
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        let words: Vec<&str> = stdout.trim().split([' ', ',', ':']).filter(|w| !w.is_empty()).collect();
        // races N M lost as on P as pending W wrong
        let number = |n: usize| words[n].parse::<u32>().unwrap();
        assert_eq!((words.len(), number(1), number(9)), (11, ulna_guests::RACES, 0), "{stdout}");
        assert_eq!(number(2) + number(6), ulna_guests::RACES, "{stdout}");
    }
}

/// PSCI 0.1 starts and stops vCPUs by identifiers of its own, and has no word for the end.
#[test]
fn psci_0_1_starts_every_cpu() {
    let mut child = common::ulna()
        .args(["--cpus", "3", "--max-cpus", "4", "--services", "psci=0.1", "--control", "none"])
        .spawn()
        .unwrap();
    let mut text = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    while !text.contains("stop this machine") {
        assert_ne!(out.read_line(&mut text).unwrap(), 0, "{text}");
    }
    for line in [
        "  PSCI_VERSION             no",
        "  cpu 0x2: timer interrupt ok, SGI ok",
        "  cpu 0x3: disabled",
        "3 CPU(s) ran, all is well; PSCI 0.1 cannot power off, so stop this machine",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    let kill = std::process::Command::new("kill").arg(child.id().to_string()).status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

/// H9: who a vCPU is, each for itself.
#[test]
fn h9_vcpus_of_two_kinds() {
    let out = well(&["--host", "n1", "--cpus", "4", "--identity", "a72:2,0x410fd034"]);
    let boot: Vec<&str> = out.lines().filter(|l| l.starts_with("MIDR_EL1 ")).collect();
    assert_eq!(boot, ["MIDR_EL1         0x00000000410fd083"], "{out}");
    for (cpu, who) in [("0x0", ""), ("0x1", ""), ("0x2", " MIDR 0x410fd034"), ("0x3", " MIDR 0x410fd034")] {
        let line = format!("\n  cpu {cpu}{who}: timer interrupt ok, SGI ok\n");
        assert!(out.contains(&line), "{line:?}\n{out}");
    }
    // What they can do is the host's.
    let features =
        |out: &str| out.lines().filter(|l| l.starts_with("ID_AA64")).map(String::from).collect::<Vec<_>>();
    assert_eq!(features(&out), features(&well(&["--host", "n1", "--abi", "6.15"])));
}

#[test]
fn an_instruction_clock_makes_runs_equal() {
    let first = well(&["--clock", "insn"]);
    assert_eq!(first, well(&["--clock", "insn"]));
}

#[test]
fn as_a_flat_kernel_from_a_file_with_the_serial_port_in_another() {
    let dir = tempfile::tempdir().unwrap();
    let (program, out, dtb) = (dir.path().join("guest.bin"), dir.path().join("out"), dir.path().join("dtb"));
    fs::write(&program, ulna_guests::builtin()).unwrap();
    let serial = format!("file={}", out.display());
    let (code, stdout, stderr) = ulna(&[
        "--kernel",
        program.to_str().unwrap(),
        "--kernel-format",
        "raw",
        "--serial",
        &serial,
        "--dtb-out",
        dtb.to_str().unwrap(),
    ]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "", ""));
    assert!(fs::read_to_string(&out).unwrap().ends_with("all is well; powering off\r\n"));
    assert_eq!(fs::read(&dtb).unwrap()[..4], [0xd0, 0x0d, 0xfe, 0xed]);
}

fn start_echo(dir: &std::path::Path) -> Child {
    let path = common::program(dir, &common::echo());
    common::ulna()
        .args(["--kernel-format", "raw", "--kernel"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn input_reaches_the_guest_and_signals_end_the_run() {
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = start_echo(dir.path());
        child.stdin.as_mut().unwrap().write_all(b"hello, guest\n").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "hello, guest\n");
        let kill = std::process::Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(code));
        assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}
