//! Guests that reset, crash, run wild: the process stays in command.

mod common;

use common::{HVC, PUT, UART, char, program, psci, ulna};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

fn start(dir: &Path, words: &[u32]) -> Child {
    ulna().args(["--kernel-format", "raw", "--kernel"]).arg(program(dir, words)).spawn().unwrap()
}

fn end(child: Child) -> Output {
    let status = std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(status.success());
    child.wait_with_output().unwrap()
}

#[test]
fn a_reset_starts_the_guest_anew_from_its_files() {
    let dir = tempfile::tempdir().unwrap();
    // Count lives in a word that is 0 in the file: only a reload makes every life print the same letter.
    let mut words = vec![
        UART,
        0x1000_0124, // adr x4, #36: behind the program
        0xb940_0083, // ldr w3, [x4]
        0x1101_0463, // add w3, w3, #'A'
        0xb900_0083, // str w3, [x4]
        PUT,
    ];
    words.extend(psci(9)); // SYSTEM_RESET
    words.push(HVC);
    words.push(0x1400_0000); // b .
    words.push(0);
    let mut child = start(dir.path(), &words);
    let mut lives = [0u8; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut lives).unwrap();
    assert_eq!(&lives, b"AAAAA");
    let out = end(child);
    assert_eq!(out.status.code(), Some(143), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_crash_has_its_own_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    // ldp from the serial port: an access without syndrome, which KVM hands to its user as ENOSYS.
    let child = start(dir.path(), &[UART, 0xa940_0022, 0x1400_0000]);
    let out = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(6), "{stderr}");
    assert!(
        stderr.starts_with("ulna: vCPU 0 cannot go on at PC 0x40080004: a load or store outside memory"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1);
}

#[test]
fn wild_guests_never_bring_the_process_down() {
    let wild: &[(&str, &[u32])] = &[
        ("jumps into nowhere", &[0xd2c0_2000, 0xd61f_0000]), // movz x0, #0x100, lsl #32; br x0
        ("loops on a fault without vectors", &[0x0000_0000]),
        ("spins", &[0x1400_0000]),
        ("sleeps for good", &[0xd503_207f, 0x17ff_ffff]), // wfi; b .-4
        // Stores 0..2^32 all over the distributor: x1 = 0x08000000, x2 counts.
        ("nonsense in the GIC", &[0xd2a1_0001, 0x1100_4442, 0x121e_3443, 0xb823_6822, 0x17ff_fffd]),
        // Loads walk all over the devices' addresses.
        ("absent devices", &[0xd2a1_2001, 0xb940_0022, 0x9101_0021, 0x17ff_fffe]),
        // Stores walk all over virtio.
        ("nonsense in virtio", &[0xd2a1_4001, 0x121e_2c43, 0x1100_1042, 0xb823_6822, 0x17ff_fffd]),
    ];
    for (what, words) in wild {
        let dir = tempfile::tempdir().unwrap();
        let mut child = start(dir.path(), words);
        std::thread::sleep(Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none(), "{what}: ended by itself");
        let begin = Instant::now();
        let out = end(child);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(143), "{what}: {stderr}");
        assert!(begin.elapsed() < Duration::from_secs(2), "{what}: SIGTERM took {:?}", begin.elapsed());
        assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    }
}

#[test]
fn firmware_starts_at_zero_and_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    // Stores into the flash, which is lost, then prints what is there.
    let mut words = vec![
        UART,
        0x1000_0104, // adr x4, #32
        char(b'X'),
        0xb900_0083, // str w3, [x4]
        0xb940_0083, // ldr w3, [x4]
        PUT,
    ];
    words.extend(psci(8)); // SYSTEM_OFF
    words.push(HVC);
    words[1] = 0x1000_0000 | (8 << 5) | 4; // adr x4, #32: the word behind hvc
    words.push(u32::from(b'F'));
    let out = ulna().arg("--firmware").arg(program(dir.path(), &words)).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.stdout, b"F");
}

#[test]
fn a_reader_that_stopped_reading_holds_up_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    // Prints for ever; nobody reads the pipe.
    let mut child = start(dir.path(), &[UART, char(b'x'), PUT, 0x17ff_ffff]);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(child.try_wait().unwrap().is_none());
    let begin = Instant::now();
    let kill = std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(kill.success());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(143));
    assert!(begin.elapsed() < Duration::from_secs(2), "SIGTERM took {:?}", begin.elapsed());
    let mut printed = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut printed).unwrap();
    assert!(printed.len() >= 32768, "the pipe was not full: {} bytes", printed.len());
}

#[test]
fn a_sleeping_guest_uses_no_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start(dir.path(), &[0xd503_207f, 0x17ff_ffff]); // wfi; b .-4
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        // utime and stime are fields 14 and 15; field 2 is "(ulna)".
        let fields: Vec<u64> =
            stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2).flat_map(str::parse).collect();
        fields.iter().sum::<u64>()
    };
    std::thread::sleep(Duration::from_millis(500));
    let before = ticks();
    std::thread::sleep(Duration::from_millis(1000));
    let used = ticks() - before;
    assert!(child.try_wait().unwrap().is_none());
    end(child);
    assert!(used <= 3, "{used} ticks of 10 ms in a second");
}

/// PSCI 1.3's SYSTEM_OFF2 ends the machine as SYSTEM_OFF does; without it the guest goes on.
#[test]
fn a_guest_that_hibernates_is_off() {
    let dir = tempfile::tempdir().unwrap();
    let words =
        [&psci(0x15)[..], &[0xd280_0021, 0xd280_0002, HVC, UART, char(b'!'), PUT], &psci(8), &[HVC]].concat();
    for (services, says) in [("psci=1.3", ""), ("psci=1.1", "!")] {
        let mut command = ulna();
        command.args(["--services", services, "--kernel-format", "raw", "--kernel"]);
        let out = command.arg(program(dir.path(), &words)).output().unwrap();
        assert_eq!((out.status.code(), String::from_utf8(out.stdout).unwrap().as_str()), (Some(0), says));
    }
}
