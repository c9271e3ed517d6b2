//! What a user can get wrong: each is one line on standard error, a documented exit code, and no panic.

use assert_cmd::Command;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// The outcome of `ulna run ARGS` in a directory: exit code and standard error.
fn run(dir: &Path, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ulna"));
    command.current_dir(dir).arg("run").args(args).timeout(Duration::from_secs(60));
    let out = command.output().unwrap();
    (out.status.code().unwrap_or(-1), String::from_utf8(out.stderr).unwrap())
}

fn image(flags: u64, image_size: u64) -> Vec<u8> {
    let mut b = vec![0u8; 4096];
    b[16..24].copy_from_slice(&image_size.to_le_bytes());
    b[24..32].copy_from_slice(&flags.to_le_bytes());
    b[56..60].copy_from_slice(b"ARM\x64");
    b
}

/// Files to go wrong with.
fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    put("text", b"not a kernel");
    put("empty", b"");
    put("short", b"MZ\0\0");
    put("big-endian", &image(1, 0x1000));
    put("large", &image(0, 1 << 32));
    put("good", &image(0, 0x1000));
    put("cut.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b]);
    put("odd.img", &[0; 700]);
    put("disk.img", &[0; 4096]);
    put("bad.toml", b"name = ");
    File::create(dir.path().join("initrd")).unwrap().set_len(60 << 20).unwrap();
    File::create(dir.path().join("flash")).unwrap().set_len(65 << 20).unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    dir
}

#[test]
fn every_mistake_is_told_in_one_line() {
    let dir = files();
    // Arguments, exit code, what the line says.
    let cases: &[(&str, i32, &str)] = &[
        ("--cpus 0", 2, "--cpus 0: a machine has 1 to 512 vCPUs"),
        ("--cpus 513", 2, "--cpus 513: a machine has 1 to 512 vCPUs"),
        ("--cpus many", 2, "invalid value 'many' for '--cpus <N>'"),
        ("--cpus 9 --gic 2", 2, "9 vCPUs: with --gic 2 a machine has at most 8"),
        ("--cpus 4 --max-cpus 2", 2, "--max-cpus 2: must be at least --cpus 4"),
        ("--memory 0", 2, "--memory of 0 bytes: must be a multiple of 1M, and not 0"),
        ("--memory 16E", 2, "invalid value '16E' for '--memory <SIZE>': unknown unit \"E\""),
        ("--memory 9000T", 2, "address bits"),
        ("--memory 16T --host rpi4", 2, "--memory 16777216M: the profile has 44 address bits"),
        ("--host none", 2, "--host: No host profile is called \"none\"; there are max, "),
        ("--host ./bad.toml", 2, "--host: ./bad.toml:1: "),
        ("--host ./none.toml", 3, "Cannot read the profile ./none.toml: No such file"),
        ("--gic 4", 2, "invalid value '4' for '--gic <2|3>'"),
        ("--gic 3 --host rpi4", 2, "--gic 3: the profile's host has no such controller for guests"),
        (
            "--cpus 9 --host rpi4",
            2,
            "9 vCPUs: the profile's host has a GICv2 only, with which a machine has at most 8",
        ),
        ("--identity a72:2", 2, "--identity: more vCPUs than there are, which is 1"),
        ("--cpus 3 --identity a72:2", 2, "--identity: 2 vCPUs of 3 are told who they are"),
        ("--cpus 3 --identity a72,a53:2", 2, "--identity: only the last cluster can be without a count"),
        ("--identity a72:x", 2, "\"x\" is no number of vCPUs"),
        ("--identity none", 2, "--identity: No host profile is called \"none\""),
        ("--identity 0x100000000", 2, "--identity 0x100000000: MIDR_EL1 has 32 bits"),
        (
            "--identity a72 --abi 6.12",
            2,
            "--identity: KVM of Linux 6.12 (--abi) has no such thing; 6.15 is the first",
        ),
        ("--policy strict", 2, "invalid value 'strict' for '--policy <hw|soft>'"),
        ("--clock wall", 2, "invalid value 'wall' for '--clock <host|insn>'"),
        ("--clock insn --cpus 2", 2, "--clock insn makes runs that repeat exactly"),
        ("--serial tcp", 2, "invalid value 'tcp' for '--serial <stdio|file=F|pty|none>'"),
        ("--serial file=dir/none/x", 3, "Cannot write the serial port's output to dir/none/x: No such file"),
        (
            "--net bridge",
            2,
            "invalid value 'bridge' for '--net <user|tap=IF|none>': one of user, tap=IF, none",
        ),
        ("--net tap=a/b", 4, "Cannot connect the guest to the network: tap \"a/b\""),
        ("--name ../x", 2, "invalid value '../x' for '--name <N>'"),
        ("--log [", 2, "--log ["),
        ("--nonsense", 2, "unexpected argument '--nonsense' found"),
        ("--kernel", 2, "a value is required for '--kernel <F>'"),
        ("--kernel-format raw", 2, "required arguments were not provided"),
        ("--initrd text", 2, "--initrd needs --kernel"),
        ("--kernel none", 3, "Cannot read the kernel none: No such file"),
        ("--kernel dir", 3, "Cannot read the kernel dir: is a directory"),
        ("--kernel empty", 3, "The kernel empty is empty"),
        ("--kernel text", 3, "The kernel text is not an arm64 kernel: neither an Image, nor gzip, nor ELF"),
        ("--kernel short", 3, "The kernel short is cut short: 4 bytes are less than an Image header"),
        ("--kernel cut.gz", 3, "The kernel cut.gz is cut short: its gzip stream ends after 11 bytes"),
        ("--kernel big-endian", 3, "The kernel big-endian is big-endian"),
        ("--kernel large", 3, "The kernel large does not fit: it needs 0x40000000 to 0x140000000"),
        ("--kernel good --initrd none", 3, "Cannot read the initrd none: No such file"),
        (
            "--kernel good --initrd initrd --memory 32M",
            3,
            "The initrd initrd does not fit: there is room for 32768 KiB",
        ),
        (
            "--kernel good --initrd initrd --memory 60M",
            3,
            "The initrd initrd does not fit: it needs 61440 KiB",
        ),
        ("--firmware none", 3, "Cannot read the firmware none: No such file"),
        ("--firmware flash", 3, "The firmware flash does not fit: there is room for 65536 KiB"),
        ("--disk disk.img", 2, "invalid value 'disk.img' for '--disk <path=F[,readonly]>'"),
        ("--disk path=none", 3, "Cannot use the disk image none: no such file"),
        ("--disk path=dir", 3, "Cannot use the disk image dir: neither a regular file nor a block device"),
        ("--disk path=empty", 3, "Cannot use the disk image empty: empty"),
        ("--disk path=odd.img", 3, "Cannot use the disk image odd.img: size 700 is not a multiple of 512"),
        ("--disk path=disk.img --disk path=disk.img", 3, "Cannot use the disk image disk.img: locked"),
        (
            "--gdb 1234",
            2,
            "invalid value '1234' for '--gdb <HOST:PORT|PATH>': one of HOST:PORT, :PORT, or a path",
        ),
        ("--gdb :70000", 2, "the port is a number from 0 to 65535"),
        ("--gdb ./dir/none/x", 4, "Cannot listen for GDB on ./dir/none/x: No such file"),
        ("--gdb ./text", 4, "Cannot listen for GDB on ./text: Address already in use"),
        ("--gdb 192.0.2.1:1", 4, "Cannot listen for GDB on 192.0.2.1:1: Cannot assign requested address"),
        ("--services acpi=on", 2, "there is no service \"acpi\"; there are psci, trng, pvtime, kvm, ptp"),
        ("--services psci=2.0", 2, "psci is one of 0.1|0.2|1.0|1.1|1.2|1.3, not \"2.0\""),
        ("--services trng=on,trng=off", 2, "trng is given twice, as on and off"),
        ("--services kvm=off,ptp=on", 2, "kvm=off and ptp=on contradict each other"),
        ("--services psci=0.2,trng=on", 2, "a guest finds such services by PSCI 1.0 or newer"),
        ("--services ptp=on --clock insn", 2, "and --services ptp=on rules out that"),
        (
            "--services psci=1.3 --abi 6.12",
            2,
            "--services psci=1.3: KVM of Linux 6.12 (--abi) has no such thing; 6.13 is the first that has",
        ),
        ("--targets altra --abi 6.14", 2, "--targets: KVM of Linux 6.14 (--abi) has no such thing; 6.15 is"),
        ("--targets altra,none", 2, "--targets: No host profile is called \"none\""),
        ("--targets altra --services kvm=off", 2, "--targets and --services kvm=off contradict each other"),
        ("--abi six", 2, "invalid value 'six' for '--abi <MAJOR.MINOR>': kernels are like 6.12"),
        ("--dtb-out dir/none/x", 3, "Cannot write the device tree to dir/none/x: No such file"),
    ];
    let mut wrong = Vec::new();
    for &(args, code, says) in cases {
        let words: Vec<&str> = args.split(' ').collect();
        let (got, stderr) = run(dir.path(), &words);
        let one_line = stderr.lines().count() == 1 && stderr.starts_with("ulna: ");
        if got != code || !stderr.contains(says) || !one_line {
            wrong.push(format!("ulna run {args}\n  want {code}: {says}\n  got  {got}: {stderr}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_address_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, stderr) = run(Path::new("/"), &["--gdb", &address]);
    let says = format!("ulna: Cannot listen for GDB on {address}: Address already in use (os error 98)\n");
    assert_eq!((code, stderr), (4, says));
}

#[test]
fn a_closed_pipe_ends_the_run_with_its_own_code() {
    let bin = assert_cmd::cargo::cargo_bin!("ulna");
    let mut child = std::process::Command::new(bin)
        .arg("run")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(5));
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(stderr, "ulna: The guest's console cannot be written: Broken pipe (os error 32)\n");
}

#[test]
fn a_full_disk_under_the_console_ends_the_run_too() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let (code, stderr) = run(Path::new("/"), &["--serial", "file=/dev/full"]);
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.starts_with("ulna: The guest's console cannot be written: No space left"), "{stderr}");
}

#[test]
fn help_and_version_to_a_closed_pipe_are_no_failure() {
    let bin = assert_cmd::cargo::cargo_bin!("ulna");
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let mut child = std::process::Command::new(bin).args(args).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
    }
}
